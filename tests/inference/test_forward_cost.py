"""Multiplications and memory of a forward pass, counted by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deepmedic.config.architecture import Architecture, Pathway
from deepmedic.inference.forward_cost import forward_cost

NORMAL = Pathway("normal", (4, 5), ((3, 3, 3), (3, 3, 3)), ("valid", "mirror"), (0.0,) * 2)
LOW = Pathway("subsampled1", (6,), ((3, 3, 3),), ("valid",), (0.0,), factor=(3, 3, 2))
FC = Pathway("fc", (2,), ((1, 1, 1),), ("valid",), (0.0,))


def test_multiplications_of_one_pathway() -> None:
    # 7^3 -> 5^3 with 1 -> 4 maps, -> 5^3 with 4 -> 5 maps, then 5 -> 2 maps of single voxels.
    cost = forward_cost(Architecture(1, 2, NORMAL, (), FC), (7, 7, 7))
    assert cost.multiplications == 125 * 27 * (4 + 20) + 125 * 10


def test_low_resolution_pathway_is_counted_at_its_own_size() -> None:
    # 5^3 predicted -> (2, 2, 3) low-resolution voxels and one input channel to six maps, which FC takes unrepeated.
    alone = forward_cost(Architecture(1, 2, NORMAL, (), FC), (7, 7, 7))
    both = forward_cost(Architecture(1, 2, NORMAL, (LOW,), FC), (7, 7, 7))
    low_resolution_input = (2 + 4) * (2 + 4) * (3 + 4)  # the receptive field of the normal pathway is 5
    low_resolution_output = (2 + 2) * (2 + 2) * (3 + 2)
    assert both.multiplications - alone.multiplications == low_resolution_output * 27 * 6 + 2 * 2 * 3 * 6 * 2
    assert low_resolution_input * 1 < both.largest


def test_memory_holds_the_widest_layer() -> None:
    # The second layer: 4 maps twice, 5 maps of output, 5 maps waiting for the FC pathway; 125 voxels of 4 bytes.
    cost = forward_cost(Architecture(1, 2, NORMAL, (), FC), (7, 7, 7))
    assert cost.memory == 125 * 4 * max(2 * 4 + 5 + 5, 2 * 5 + 2 + 5)
    assert cost.largest == 125 * 5
    assert cost.fits(9000)
    assert not cost.fits(8999)


def test_many_sizes_at_once() -> None:
    net = Architecture(1, 2, NORMAL, (LOW,), FC)
    grid = forward_cost(net, np.ix_([7, 9, 12], [8], [7, 10]))
    assert grid.multiplications.shape == (3, 1, 2)
    assert grid.multiplications[2, 0, 1] == forward_cost(net, (12, 8, 10)).multiplications
    assert grid.memory[0, 0, 1] == forward_cost(net, (7, 8, 10)).memory


def test_tensors_too_large_for_cudnn_never_fit() -> None:
    """Alone or in a batch: 5 maps of the second layer are the largest tensor, and 2^30 numbers take 2 GiB in bf16."""
    net, memory = Architecture(1, 2, NORMAL, (), FC), 2**60
    assert not forward_cost(net, (1000, 1000, 1000)).fits(memory)
    assert not forward_cost(net, (601, 601, 601)).fits(memory)
    one = forward_cost(net, (501, 501, 501))
    assert one.fits(memory)
    assert one.largest == 499**3 * 5
    assert one.segments_within(memory) == 1
    half = forward_cost(net, (201, 201, 201))
    assert half.segments_within(memory) == 2**30 // (199**3 * 5) == 27
    assert half.segments_within(3 * int(half.memory)) == 3


def test_the_first_fc_layer_is_counted_at_the_resolution_of_its_inputs() -> None:
    """27 products for each low-resolution voxel, as many as at full resolution without a low-resolution pathway."""
    wide = Pathway("fc", (4, 2), ((3, 3, 3), (1, 1, 1)), ("mirror", "valid"), (0.0,) * 2)
    low_rank = replace(wide, low_rank_layers=(1,))
    merged, repeated = (forward_cost(Architecture(1, 2, NORMAL, (LOW,), fc), (7, 7, 7)) for fc in (wide, low_rank))
    assert repeated.multiplications - merged.multiplications == (125 - 2 * 2 * 3) * 27 * 6 * 4
