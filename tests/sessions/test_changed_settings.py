"""A config that is changed before a session goes on: every change is listed, what cannot go on is refused with them."""

from __future__ import annotations

import pytest
from study import TRAIN

from deepmedic.config.load import load_train_config
from deepmedic.config.plain import default_settings, settings_changed, to_plain
from deepmedic.config.training import TrainConfig

MODEL = ("-newModel", "model.cfg", "-train", "train.cfg")
QUICK = {"numberOfEpochs": 1, "numberOfSubepochs": 1}
HARMLESS = {
    "numberOfEpochs": (2, "1 -> 2"),
    "numberOfSubepochs": (2, "1 -> 2"),
    "numOfCasesLoadedPerSubepoch": (1, "50 -> 1"),
    "numberTrainingSegmentsLoadedOnGpuPerSubep": (4, "8 -> 4"),
    "batchsize_train": (2, "4 -> 2"),
    "typeOfSamplingForTraining": (1, "3 -> 1"),
    "typeOfLearningRateSchedule": ("stable", '"poly" -> "stable"'),
    "learningRate": (0.01, "0.001 -> 0.01"),
    "momentumValue": (0.9, "0.6 -> 0.9"),
    "rhoRms": (0.8, "0.9 -> 0.8"),
    "L1_reg": (0.001, "1e-06 -> 0.001"),
    "L2_reg": (0.0, "0.0001 -> 0.0"),
    "gradientClipping": (5.0, "none -> 5.0"),
    "weightAveraging": (0.9, "none -> 0.9"),
    "losses_and_weights.dice": ({"xentr": 1.0, "dsc": 0.5}, "none -> 0.5"),
    "augm_sample_prms_tr": ({"reflect": [0.5, 0.0, 0.0]}, "none -> "),
    "performFullInferenceOnValidationImagesEveryFewEpochs": (False, "true -> false"),
    "padInputImagesBool": (False, "true -> false"),
    "norm_zscore_prms.cutoff_below_mean": ({"apply_to_all_channels": True, "cutoff_below_mean": True}, "false -> true"),
    "nonFiniteVoxels": ("zero", '"refuse" -> "zero"'),
    "keepLastCheckpoints": (1, "3 -> 1"),
}


@pytest.fixture
def begun(study, run, monkeypatch):
    """A study whose session trained for one epoch; the working folder is the study's."""
    monkeypatch.chdir(study.folder)
    study.train(validate=True, **QUICK)
    assert run(*MODEL).code == 0
    return study


def test_every_change_is_listed_on_the_console_and_in_the_log(begun, run):
    changes = {key.partition(".")[0]: value for key, (value, _) in HARMLESS.items()}
    begun.train(validate=True, **{**QUICK, **changes})
    outcome = run(*MODEL)
    assert outcome.code == 0, outcome.err
    for key, (_, change) in HARMLESS.items():
        line = f"Changed since the checkpoint: {key}: {change}"
        assert line in outcome.err
        assert line in begun.log
    listed = [line for line in outcome.err.splitlines() if "Changed since" in line]
    assert len(listed) == len(HARMLESS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sgd0orAdam1orRms2": 0}, "sgd0orAdam1orRms2 asks for SGD"),
        ({"layersToFreezeFC": [1]}, "were other layers frozen?"),
        ({"orientation": "RAS"}, 'orientation: "asStored" -> "RAS": this cannot change within a session'),
        ({"numberOfEpochs": None, "phase": [{"numberOfEpochs": 2}, {"numberOfEpochs": 1}]}, None),
    ],
    ids=["optimiser", "frozen", "orientation", "phases"],
)
def test_what_cannot_go_on_is_refused_with_all_changes(begun, run, change, message):
    before = begun.files()
    begun.train(validate=True, **{**QUICK, "numberOfEpochs": 2, "learningRate": 0.01, **change})
    outcome = run(*MODEL)
    if message is None:  # a session in its first phase may be given phases
        assert outcome.code == 0
        return
    assert outcome.code == 5
    assert message in outcome.err
    assert "Changed since the checkpoint:" in outcome.err
    assert "learningRate: 0.001 -> 0.01" in outcome.err
    assert f"{next(iter(change))}: " in outcome.err
    assert begun.files() == before


def test_a_finished_session_lists_changes_and_does_not_use_them(begun, run):
    begun.train(validate=True, **QUICK, learningRate=0.01)
    outcome = run(*MODEL)
    assert outcome.code == 0
    assert "not used, because nothing is trained: learningRate: 0.001 -> 0.01" in outcome.err


def test_keys_that_an_earlier_version_did_not_know_count_as_their_default(study):
    now = to_plain(load_train_config(study.folder / "train.cfg"))
    earlier = {key: value for key, value in now.items() if key not in ("strictSplits", "learningRate", "phase")}
    assert settings_changed(earlier, now, default_settings(TrainConfig)) == []
    changed = settings_changed(earlier, {**now, "strictSplits": True}, default_settings(TrainConfig))
    assert changed == ["strictSplits: false -> true"]
    assert settings_changed(earlier, {**now, "strictSplits": True})[0].startswith("learningRate: not set -> ")


def test_defaults_are_those_of_a_file_without_keys(study):
    plain = to_plain(load_train_config(study.folder / "train.cfg"))
    assert {key: value for key, value in default_settings(TrainConfig).items() if plain[key] != value}.keys() <= set(
        TRAIN
    )
