"""Model configs against what the original resolved from them, and the dimensions it computed."""

import json
from pathlib import Path

import pytest

from deepmedic.config.load import load_model_config

GOLDEN = Path(__file__).parents[1] / "golden"
FORWARD = sorted(path.stem for path in (GOLDEN / "config").glob("*.cfg"))
DIMENSIONS = json.loads((GOLDEN / "geometry" / "network_dims.json").read_text())
# The original counts "valid" and "none" as padded, and accepts a network that it cannot run.
SKIPPED = ("lowercase_valid_names", "mirror_all_with_subs")
PADDINGS = {"VALID": "valid", None: "valid", "SAME": "zero", "zero": "zero", "MIRROR": "mirror", "mirror": "mirror"}


def lists(value):
    return [lists(item) for item in value] if isinstance(value, tuple) else value


@pytest.mark.parametrize("name", FORWARD)
def test_pathways_equal_those_of_the_original(name):
    meta = json.loads((GOLDEN / "forward" / name / "meta.json").read_text())
    config = load_model_config(GOLDEN / "config" / f"{name}.cfg")
    architecture = config.architecture
    pathways = architecture.pathways
    assert config.source.dialect == "python"
    assert len(pathways) == meta["n_pathways"]
    for pathway, kind in zip(pathways, meta["path_types"], strict=True):
        assert pathway.name.startswith(kind)
    assert lists(tuple(p.factor for p in pathways)) == meta["subsample_factors"]
    assert lists(tuple(p.feature_maps for p in pathways)) == meta["fms_out_per_path_per_block"]
    assert lists(tuple(p.kernels for p in pathways)) == meta["kernels"]
    assert [list(p.paddings) for p in pathways] == [[PADDINGS[pad] for pad in path] for path in meta["pad_modes"]]
    assert lists(tuple(p.dropout_rates for p in pathways)) == meta["dropout_rates_used"]
    residuals = [[layer - 1 for layer in p.residual_layers] for p in pathways]
    assert residuals == meta["residual_block_indices_from_0"]
    assert architecture.activation == meta["activation"]
    assert architecture.input_channels == meta["fms_in_per_path_per_block"][0][0]
    if meta["bn_rolling_length"] is not None:
        assert architecture.batch_norm_window == meta["bn_rolling_length"]
    assert lists(tuple(p.receptive_field for p in pathways)) == meta["receptive_field_per_path"]
    assert list(architecture.receptive_field) == meta["receptive_field_cnn"]


@pytest.mark.parametrize("name", FORWARD)
def test_sizes_of_segments_equal_those_of_the_original(name):
    meta = json.loads((GOLDEN / "forward" / name / "meta.json").read_text())
    config = load_model_config(GOLDEN / "config" / f"{name}.cfg")
    sizes = {
        "train": config.segment_size_train,
        "val": config.segment_size_validation,
        "infer": config.segment_size_inference,
    }
    if name == "aniso_linear_shrink":  # unpadded FC kernels, which the original leaves out: its output is empty
        assert sizes.pop("val") == (9, 11, 5)
    for purpose, size in sizes.items():
        assert lists(config.architecture.input_sizes(size)) == meta["input_dims_per_path"][purpose][:-1]
        assert list(config.architecture.output_size(size)) == meta["output_dims"][purpose]
        assert lists(config.architecture.margins(size)) == meta["unpredicted_margin"][purpose]


@pytest.mark.parametrize(
    "case", [case for case in DIMENSIONS if case["name"] not in SKIPPED], ids=lambda case: case["name"]
)
def test_dimensions_equal_those_of_the_original(case, write):
    text = "\n".join(f"{key} = {value!r}" for key, value in case["model_cfg"].items())
    config = load_model_config(write(text))
    architecture = config.architecture
    assert lists(tuple(p.receptive_field for p in architecture.pathways)) == case["receptive_field_per_path"]
    assert list(architecture.receptive_field) == case["receptive_field_cnn"]
    for dims in case["by_input_dims"]:
        size = tuple(dims["input_dims_hr"])
        if dims["output_dims"] == [0, 0, 0]:  # smaller than the receptive field, which is refused here
            assert min(architecture.output_size(size)) < 1
            continue
        assert list(architecture.output_size(size)) == dims["output_dims"]
        assert lists(architecture.input_sizes(size)) == dims["input_dims_per_path_incl_fc"][:-1]
        assert lists(architecture.margins(size)) == dims["unpredicted_margin"]
    assert list(config.segment_size_train) == case["segment_dims"]["train"]
    assert list(config.segment_size_inference) == case["segment_dims"]["test"]


def test_padding_everywhere_with_low_resolution_is_refused(refusal):
    case = next(case for case in DIMENSIONS if case["name"] == "mirror_all_with_subs")
    message = refusal(load_model_config, "\n".join(f"{key} = {value!r}" for key, value in case["model_cfg"].items()))
    assert 'padTypePerLayerNormal, entry 1: found "mirror"; allowed: "valid" for all layers' in message
