"""Sizes against those of the original and against brute force."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deepmedic import geometry
from deepmedic.config.architecture import Architecture, Pathway, layer_names

GOLDEN = Path(__file__).parent / "golden" / "geometry" / "network_dims.json"
NOT_TO_BE_REPRODUCED = {"lowercase_valid_names", "mirror_all_with_subs"}
PADDINGS = {"VALID": "valid", None: "valid", "SAME": "zero", "zero": "zero", "MIRROR": "mirror", "mirror": "mirror"}
CASES = {case["name"]: case for case in json.loads(GOLDEN.read_text(encoding="utf-8"))}


def build_architecture(keys: dict) -> Architecture:
    """From keys of a model config; only those the golden cases use."""

    def pathway(name: str, maps: list, kernels: list, paddings: list | None, **others) -> Pathway:
        read = tuple(PADDINGS[padding] for padding in paddings or ["VALID"] * len(maps))
        return Pathway(name, tuple(maps), tuple(map(tuple, kernels)), read, (0.0,) * len(maps), **others)

    maps, kernels = keys["numberFMsPerLayerNormal"], keys["kernelDimPerLayerNormal"]
    fc_maps = [*keys.get("numberFMsPerLayerFC", []), keys["numberOfOutputClasses"]]
    fc_kernels = keys.get("kernelDimPerLayerFC", [(1, 1, 1)] * len(fc_maps))
    factors = keys["subsampleFactor"] if keys["useSubsampledPathway"] else []
    return Architecture(
        input_channels=keys["numberOfInputChannels"],
        classes=keys["numberOfOutputClasses"],
        normal=pathway("normal", maps, kernels, keys.get("padTypePerLayerNormal")),
        subsampled=tuple(
            pathway(f"subsampled{number}", maps, kernels, None, factor=tuple(factor))
            for number, factor in enumerate(factors, 1)
        ),
        fc=pathway("fc", fc_maps, fc_kernels, keys.get("padTypePerLayerFC")),
    )


@pytest.mark.parametrize("name", sorted(CASES.keys() - NOT_TO_BE_REPRODUCED))
class TestAgainstTheOriginal:
    def test_receptive_fields(self, name: str) -> None:
        case = CASES[name]
        architecture = build_architecture(case["model_cfg"])
        assert list(architecture.receptive_field) == case["receptive_field_cnn"]
        fields = [list(pathway.receptive_field) for pathway in architecture.pathways]
        assert fields == case["receptive_field_per_path"]

    def test_sizes(self, name: str) -> None:
        architecture = build_architecture(CASES[name]["model_cfg"])
        compared = 0
        for sizes in CASES[name]["by_input_dims"]:
            segment = tuple(sizes["input_dims_hr"])
            if sizes["output_dims"] == [0, 0, 0]:
                assert min(architecture.output_size(segment)) < 1
                continue
            *inputs, fc_input = sizes["input_dims_per_path_incl_fc"]
            assert [list(size) for size in architecture.input_sizes(segment)] == inputs
            assert list(architecture.normal.output_size(segment)) == fc_input
            assert list(architecture.output_size(segment)) == sizes["output_dims"]
            assert [list(sides) for sides in architecture.margins(segment)] == sizes["unpredicted_margin"]
            compared += 1
        assert compared >= 5


def test_low_resolution_output_covers_the_normal_one_and_no_more() -> None:
    for output in range(1, 30):
        for factor in range(1, 8):
            (count, _, _) = geometry.subsampled_output_size((output, 1, 1), (factor, 1, 1))
            assert (count - 1) * factor < output <= count * factor
            (size, _, _) = geometry.subsampled_input_size((output, 1, 1), (17, 1, 1), (factor, 1, 1))
            assert geometry.output_size((size, 1, 1), [(17, 1, 1)], ["valid"])[0] == count


def test_padding_keeps_the_size_and_puts_the_odd_voxel_after() -> None:
    assert geometry.same_size_padding((1, 2, 3)) == ((0, 0), (0, 1), (1, 1))
    assert geometry.same_size_padding((4, 5, 6)) == ((1, 2), (2, 2), (2, 3))


def test_margins_put_the_odd_voxel_after() -> None:
    assert geometry.margins((10, 10, 10), (9, 8, 7)) == ((0, 1), (1, 1), (1, 2))


@pytest.mark.parametrize(
    ("size", "part", "residual", "central"),
    [
        (7, 3, 2, 2),  # . . x x x . .
        (6, 3, 1, 1),  # middle of 6 is its third voxel: . x x x . .
        (7, 4, 2, 1),  # middle of 4 is its second voxel: . . x x x x .   against   . x x x x . .
        (6, 4, 1, 1),
        (5, 5, 0, 0),
    ],
)
def test_central_parts(size: int, part: int, residual: int, central: int) -> None:
    assert geometry.residual_crop_start((size, 1, size), (part, 1, part)) == (residual, 0, residual)
    assert geometry.central_crop_start((size, 1, size), (part, 1, part)) == (central, 0, central)


def test_kernels_and_paddings_of_different_number_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="zip"):
        geometry.output_size((9, 9, 9), [(3, 3, 3)], [])


class TestArchitecture:
    ARCHITECTURE = build_architecture(CASES["default3path"]["model_cfg"])

    def test_survives_plain_data(self) -> None:
        plain = json.loads(json.dumps(self.ARCHITECTURE.to_dict()))
        assert Architecture.from_dict(plain) == self.ARCHITECTURE

    def test_order_of_pathways_and_layers(self) -> None:
        names = [pathway.name for pathway in self.ARCHITECTURE.pathways]
        assert names == ["normal", "subsampled1", "subsampled2", "fc"]
        layers = [(pathway.name, layer) for pathway, layer in layer_names(self.ARCHITECTURE)]
        assert layers[:2] == [("normal", 1), ("normal", 2)]
        assert layers[-3:] == [("fc", 1), ("fc", 2), ("fc", 3)]
        assert len(layers) == sum(pathway.depth for pathway in self.ARCHITECTURE.pathways)
