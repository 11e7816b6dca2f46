"""Models of one inference that differ in what they need and in what they know: each gets its own, in any order."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

import deepmedic
from deepmedic.model.saved import DataDescription

WIDER = {
    "modelName": "wider",
    "kernelDimPerLayerNormal": [[3, 3, 3], [5, 5, 5]],
    "subsampleFactor": [[5, 5, 5]],
    "segmentsDimTrain": [13, 13, 13],
    "segmentsDimInference": [21, 21, 21],
}
NAMES = ("t1", "t2")


def knowing(model, **known):
    """The model with names of channels, and knowing other things of its training images."""
    return replace(model, config=replace(model.config, channel_names=NAMES), data=replace(model.data, **known))


@pytest.fixture
def trained(study, source):
    """What the fixture `source` knows, with names of its channels."""
    return knowing(deepmedic.load_model(source))


@pytest.fixture
def wider(study, trained):
    """A model of another receptive field, another factor and other sizes of segments, of the same training images."""
    model = deepmedic.new_model(study.model("wider", **WIDER), seed=5)
    return knowing(replace(model, data=trained.data, start_parameters=dict(model.parameters)))


def saved(study, **models):
    paths = [study.folder / f"{name}.save" for name in models]
    for path, model in zip(paths, models.values(), strict=True):
        deepmedic.save_model(model, path)
    return paths


def probabilities(folder, name):
    maps = [nib.load(folder / f"{name}_ProbMapClass{number}.nii.gz").get_fdata() for number in range(3)]
    return np.stack(maps)


def segmented(study, run, *models):
    """Probabilities by `-segment`, and what was printed."""
    name = "_".join(path.stem for path in models)
    images = [f"{kind}={study.image(2, kind)}" for kind in NAMES]
    outcome = run("-segment", *models, "-images", *images, "-output", study.folder / f"{name}.nii.gz", "-probabilities")
    assert outcome.code == 0, outcome.err
    return probabilities(study.folder, name), outcome.err


def mean_where_reached(*found):
    """The mean of each voxel over the predictions that reach it, which add up to 1 there and to 0 elsewhere."""
    total = sum(found)
    reached = sum((one.sum(axis=0) > 0.5).astype(float) for one in found)
    return np.divide(total, reached, out=np.zeros_like(total), where=reached > 0)


@pytest.mark.parametrize("tiling", ["segments", "auto"])
def test_models_of_other_receptive_fields_give_the_mean_of_what_each_gives_alone(study, run, trained, wider, tiling):
    models, alone = saved(study, A=trained, B=wider), []
    for model in models:
        config = study.test(sessionName=model.stem, roiMasks=None, tiling=tiling)
        assert run("-test", config, "-model", model).code == 0
        alone.append(probabilities(study.out / "predictions" / model.stem / "predictions", "case2"))
    assert np.abs(alone[0] - alone[1]).max() > 0.01
    for order in itertools.permutations(models):
        name = "".join(path.stem for path in order)
        config = study.test(sessionName=name, roiMasks=None, tiling=tiling)
        assert run("-test", config, "-model", *order).code == 0
        together = probabilities(study.out / "predictions" / name / "predictions", "case2")
        np.testing.assert_allclose(together, sum(alone) / 2, atol=1e-6)


def test_each_model_has_the_padding_of_its_training(study, run, trained, wider):
    padded, bare = saved(study, padded=trained, bare=knowing(wider, pad_images=False))
    alone = [segmented(study, run, one)[0] for one in (padded, bare)]
    reached = [(one.sum(axis=0) > 0.5).mean() for one in alone]
    assert reached[0] == 1
    assert 0 < reached[1] < 0.7  # without padding, the border is not predicted
    for order in ((padded, bare), (bare, padded)):
        found, _ = segmented(study, run, *order)
        np.testing.assert_allclose(found, mean_where_reached(*alone), atol=1e-6)
    images = [study.image(2, kind) for kind in NAMES]
    arrays = [nib.load(path).get_fdata() for path in images]
    for given in (images, arrays):
        result = deepmedic.segment([bare, padded], given, device="cpu")
        np.testing.assert_allclose(result.probabilities, mean_where_reached(*alone), atol=1e-6)


def test_results_that_were_padded_alike_for_all_are_not_taken_for_these(study, run, trained, wider):
    models = saved(study, padded=trained, bare=knowing(wider, pad_images=False))
    segmented(study, run, *models)
    path = study.folder / "padded_bare.json"
    record = json.loads(path.read_text())
    assert record["settings"]["pad_images"] == [True, False]
    record["settings"]["pad_images"] = True
    path.write_text(json.dumps(record))
    images = [f"{kind}={study.image(2, kind)}" for kind in NAMES]
    again = run("-segment", *models, "-images", *images, "-output", path.with_suffix(".nii.gz"), "-probabilities")
    assert again.code == 8
    assert "made with other settings: pad_images was True, now [True, False]" in again.err


def test_what_one_model_does_not_know_is_taken_from_the_others_in_any_order(study, run, trained, wider):
    ignorant = replace(wider, data=DataDescription(), config=replace(wider.config, channel_names=None))
    knowing_it, unknown = saved(study, knows=trained, unknown=ignorant)
    first, said = segmented(study, run, knowing_it, unknown)
    second, said_again = segmented(study, run, unknown, knowing_it)
    np.testing.assert_allclose(first, second, atol=1e-6)
    alone = segmented(study, run, knowing_it)[0]
    normalised = knowing(wider, pad_images=None)
    np.testing.assert_allclose(first, (alone + segmented(study, run, *saved(study, same=normalised))[0]) / 2, atol=1e-6)
    note = (
        f"{unknown} does not know the names of its channels, how its training images were normalised and along which "
        "axes they ran; what the other models know is taken to hold for it."
    )
    assert note in said
    assert note in said_again
    assert "NOT NORMALISED" not in said + said_again


def test_a_test_config_leaves_the_normalisation_to_the_model_that_knows_it(study, run, trained, wider):
    models = saved(study, unknown=replace(wider, data=DataDescription()), knows=trained)
    outcome = run("-test", study.test(norm_zscore_prms=None), "-model", *models)
    assert outcome.code == 0
    assert "norm_zscore_prms is not given: intensities are normalised as in training" in outcome.err
    assert "NOT NORMALISED" not in outcome.err


def test_intensities_are_compared_with_the_training_of_every_model(study, run, trained, wider):
    swapped = [{**case, "channels": case["channels"][::-1]} for case in told_apart(trained.data.intensities)]
    alike = knowing(trained, intensities=told_apart(trained.data.intensities))
    models = saved(study, alike=alike, swapped=knowing(wider, intensities=swapped))
    rng = np.random.default_rng(0)
    study.write_image(2, "t2", (50 * rng.exponential(size=(20, 18, 16)) ** 2).astype(np.float32))
    _, said = segmented(study, run, *models)
    assert "THE CHANNELS OF alike_swapped MAY BE IN THE WRONG ORDER" in said
    assert f"those of the training of {models[1]} more in another order" in said
    assert "THE CHANNELS" not in segmented(study, run, models[0])[1]


def told_apart(intensities):
    """Fingerprints in which the second channel has a long tail, so that the two can be told apart."""
    tail = np.quantile(np.random.default_rng(1).exponential(size=4000) ** 2, intensities[0]["quantiles"])
    tail = (tail - 2) / 20**0.5  # mean and deviation of that distribution
    return [
        {**case, "channels": [case["channels"][0], {"mean": 0.0, "std": 1.0, "values": tail.tolist()}]}
        for case in intensities
    ]
