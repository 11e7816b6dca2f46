"""`-inspect` describes a model, as text or JSON, and writes its parameters as arrays."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from deepmedic.model.saved import SavedModel


@pytest.fixture
def trained(study, run):
    assert run("-newModel", study.folder / "model.cfg", "-train", study.train(numberOfEpochs=1)).code == 0
    return study.newest()


def inspected(run, *words) -> dict:
    outcome = run("-inspect", *words, "-json")
    assert (outcome.code, outcome.err) == (0, "")
    return json.loads(outcome.out)


def test_config_is_described(study, run):
    found = inspected(run, study.folder / "model.cfg")
    assert (found["name"], found["classes"], found["inputChannels"]) == ("net", 3, 2)
    assert found["receptiveField"] == [5, 5, 5]
    assert found["subsampleFactors"] == {"subsampled1": [3, 3, 3]}
    assert (found["trained"], found["training"], found["sha256"]) == (False, None, None)


def test_parameters_of_layers_add_up(study, run):
    found = inspected(run, study.folder / "model.cfg")
    assert [(row["pathway"], row["layer"], row["feature_maps"]) for row in found["layers"]] == [
        *(("normal", 1, 3), ("normal", 2, 4), ("subsampled1", 1, 3), ("subsampled1", 2, 4)),
        *(("fc", 1, 5), ("fc", 2, 3)),
    ]
    assert sum(row["parameters"] for row in found["layers"]) == found["parameters"]
    # Layer 2: a kernel of 27 voxels from 3 to 4 maps, and gain, offset and slope for its 3 inputs.
    assert found["layers"][1]["parameters"] == 27 * 3 * 4 + 3 * 3


@pytest.mark.parametrize("what", ["file", "folder"])
def test_saved_model_tells_how_far_it_was_trained(study, run, trained, what):
    found = inspected(run, trained if what == "file" else study.checkpoints)
    assert found["trained"] is True
    assert (found["training"]["session"], found["training"]["position"]["epoch"]) == ("first", 1)
    assert found["provenance"] == {"kind": "new", "seed": 0}
    assert found["data"]["axis_order"] == "RAS"


def test_text_has_a_line_per_layer(run, trained):
    outcome = run("-inspect", trained)
    assert outcome.code == 0
    assert "receptiveField: 5x5x5" in outcome.out
    assert '  position: {"epoch": 1,' in outcome.out
    assert "|     2  conv 3x3x3  3 -> 4  5x5x5" in outcome.out
    assert "concatenated: 4 + 4 = 8 channels, 5x5x5" in outcome.out


def test_the_drawing_is_written_as_svg(study, run, tmp_path):
    path = tmp_path / "new" / "net.svg"
    outcome = run("-inspect", study.folder / "model.cfg", "-output", path)
    assert outcome.code == 0
    assert f"drawing: {path}" in outcome.out
    assert path.read_text().startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    refused = run("-inspect", study.folder / "model.cfg", "-output", tmp_path / "net.png")
    assert (refused.code, (tmp_path / "net.png").exists()) == (2, False)
    assert "must end in .svg" in refused.err


def test_parameters_are_written_by_canonical_name(study, run, trained, tmp_path):
    path = tmp_path / "new" / "parameters.npz"
    assert run("-inspect", trained, "-exportParameters", path).code == 0
    model = SavedModel.from_content(study.content(), "")
    with np.load(path) as arrays:
        for name, tensor in model.parameters.items():
            assert torch.equal(torch.from_numpy(arrays[name]), tensor)
        derived = set(arrays.files) - set(model.parameters)
        assert derived == {
            f"{layer}/{role}"
            for layer in ("normal/2", "subsampled1/2", "fc/1", "fc/2")
            for role in ("bn_mean", "bn_var")
        }
        rolling = arrays["normal/2/bn_mean_rolling"]
        np.testing.assert_allclose(arrays["normal/2/bn_mean"], rolling.mean(axis=0), rtol=1e-6)


def test_other_ending_is_refused(run, trained, tmp_path):
    outcome = run("-inspect", trained, "-exportParameters", tmp_path / "parameters.txt")
    assert outcome.code == 5
    assert "the name must end in .npz" in outcome.err
    assert not list(tmp_path.glob("*.txt"))


@pytest.mark.parametrize(("name", "code"), [("missing.save", 5), ("missing.cfg", 3), ("lists", 5)])
def test_what_is_no_model_is_refused(study, run, name, code):
    outcome = run("-inspect", study.folder / name)
    assert outcome.code == code
    assert f"{study.folder / name}: " in outcome.err
