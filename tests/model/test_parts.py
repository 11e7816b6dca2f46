"""Boxes of a segment predicted alone, against the same boxes cut from the prediction of the whole segment."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_architectures import architectures, random_inputs, small_architecture, with_random_statistics

from deepmedic.config.architecture import Architecture
from deepmedic.errors import ModelError
from deepmedic.model.network import DeepMedicNet
from deepmedic.model.parts import Cuboid, between, is_separable, needed_outputs, surrounding

SEGMENT = (21, 22, 19)


def cut(images: torch.Tensor, box: Cuboid) -> torch.Tensor:
    return images[(..., *(slice(first, end) for first, end in zip(box.start, box.end, strict=True)))]


@st.composite
def boxes_within(draw: st.DrawFn, size) -> Cuboid:
    ends = [sorted(draw(st.tuples(*[st.integers(0, length - 1)] * 2))) for length in size]
    return between([low for low, _ in ends], [high + 1 for _, high in ends])


@settings(max_examples=80, deadline=None)
@given(data=st.data(), architecture=architectures(), batch=st.integers(1, 2))
def test_boxes_alone_are_the_boxes_of_the_whole(data, architecture: Architecture, batch: int) -> None:
    net = with_random_statistics(DeepMedicNet(architecture).eval())
    segment = tuple(field + data.draw(st.integers(0, 9)) for field in architecture.receptive_field)
    inputs = random_inputs(architecture, segment, batch)
    boxes = data.draw(st.lists(boxes_within(architecture.output_size(segment)), min_size=1, max_size=3))
    with torch.no_grad():
        whole = net(*inputs)
        found = list(net.forward_boxes(*inputs, boxes=boxes))
    for box, logits in zip(boxes, found, strict=True):
        torch.testing.assert_close(logits, cut(whole, box), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("with_and_without_numba")
@pytest.mark.parametrize("padding", ["mirror", "zero", "valid"])
def test_boxes_of_the_first_layer_at_low_resolution(padding) -> None:
    """The way that most networks go: a first layer that pads, or is given real voxels instead."""
    fc = replace(small_architecture().fc, paddings=(padding, "valid"))
    net = with_random_statistics(DeepMedicNet(small_architecture(fc=fc)).eval())
    inputs = random_inputs(net.architecture, SEGMENT)
    size = net.architecture.output_size(SEGMENT)
    middle = between([2, 1, 3], [length - 1 for length in size])
    outputs = net.architecture.normal.output_size(SEGMENT)
    assert needed_outputs(net.architecture, middle, outputs).first_unpadded
    with torch.no_grad():
        whole = net(*inputs)
        for box in (middle, Cuboid((0, 0, 0), size), Cuboid((0, 2, 3), (5, 5, 5))):
            (logits,) = net.forward_boxes(*inputs, boxes=[box])
            torch.testing.assert_close(logits, cut(whole, box), rtol=1e-4, atol=1e-5)


def test_little_else_is_computed(monkeypatch) -> None:
    net = DeepMedicNet(small_architecture()).eval()
    seen = {name: [] for name in ("normal", "subsampled1", "subsampled2", "fc")}
    for sequence in (*net.parallel, net.fc):
        name = sequence.pathway.name
        sequence.register_forward_hook(lambda _, __, output, name=name: seen[name].append(tuple(output.shape[2:])))
    boxes = [Cuboid((4, 5, 3), (2, 3, 4)), Cuboid((7, 5, 3), (3, 3, 3))]
    with torch.no_grad():
        list(net.forward_boxes(*random_inputs(net.architecture, SEGMENT), boxes=boxes))
    # A voxel more on each side for the first FC layer; all cells of 3x3x2 and of 2x5x3 voxels that are touched.
    assert seen == {
        "normal": [(8, 5, 6)],
        "subsampled1": [(3, 2, 3)],
        "subsampled2": [(5, 2, 3)],
        "fc": [(2, 3, 4), (3, 3, 3)],
    }


class TestSeparable:
    def test_not_where_parallel_pathways_pad_or_residuals_skip_even_kernels(self) -> None:
        small = small_architecture()
        assert is_separable(small)
        padded = replace(small.normal, paddings=("mirror", "valid", "valid"))
        assert not is_separable(replace(small, normal=padded, subsampled=()))
        even = replace(small.normal, kernels=((2, 3, 3), *small.normal.kernels[1:]))
        assert not is_separable(replace(small, normal=even))
        assert is_separable(replace(small, normal=replace(even, residual_layers=())))


def test_inputs_are_checked() -> None:
    net = DeepMedicNet(small_architecture()).eval()
    with pytest.raises(ModelError, match="the network takes 3 inputs"):
        list(net.forward_boxes(torch.zeros(1, 2, 15, 15, 15), boxes=[Cuboid((0, 0, 0), (1, 1, 1))]))


def test_surrounding_box() -> None:
    assert surrounding([Cuboid((1, 5, 2), (2, 2, 2)), Cuboid((0, 6, 3), (1, 9, 1))]) == Cuboid((0, 5, 2), (3, 10, 2))
