"""The keys for what the original does not have: off by default, and what they are refused for."""

import pytest

from deepmedic.config.load import load_train_config
from deepmedic.config.training import EarlyStoppingConfig, RefinementConfig

TRAIN = """\
folderForOutput = "out"
channelsTraining = ["c1.cfg", "c2.cfg"]
gtLabelsTraining = "labels.cfg"
batchsize_train = 10
"""
VALIDATION = """\
performValidationOnSamplesThroughoutTraining = true
channelsValidation = ["v1.cfg", "v2.cfg"]
gtLabelsValidation = "v_labels.cfg"
"""


def test_all_are_off_by_default(write):
    config = load_train_config(write(TRAIN))
    assert config.refinements == RefinementConfig(
        gradient_clipping=None,
        warm_up_epochs=0.0,
        weight_decay=0.0,
        reference_batch_size=None,
        weight_averaging=None,
        l2_to_start=0.0,
        rate_decay_per_layer=None,
    )
    assert config.early_stopping == EarlyStoppingConfig(patience=None, minimum_change=0.0, restore_best=False)
    assert config.schedule.lowest_rate == 0.0


def test_each_has_its_key(write):
    given = """\
gradientClipping = 5
warmUpEpochs = 1.5
weightDecay = 0.01
scaleLearningRateWithBatch = 20
weightAveraging = 0.999
l2ToStart = 0.1
learningRateDecayPerLayer = 0.5
earlyStoppingPatience = 4
earlyStoppingMinimumChange = 0.001
earlyStoppingRestoreBest = true
typeOfLearningRateSchedule = "plateau"
lowestLearningRate = 1e-6
"""
    config = load_train_config(write(TRAIN + VALIDATION + given))
    assert config.refinements == RefinementConfig(
        gradient_clipping=5.0,
        warm_up_epochs=1.5,
        weight_decay=0.01,
        reference_batch_size=20,
        weight_averaging=0.999,
        l2_to_start=0.1,
        rate_decay_per_layer=0.5,
    )
    assert config.early_stopping == EarlyStoppingConfig(patience=4, minimum_change=0.001, restore_best=True)
    assert (config.schedule.kind, config.schedule.lowest_rate) == ("plateau", 1e-6)
    assert config.schedule.waiting(100) == 5


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("gradientClipping = 0", "gradientClipping: found 0; allowed: a number greater than 0"),
        ("gradientClipping = true", "gradientClipping: found true (a truth value); allowed: a number greater than 0"),
        ("warmUpEpochs = -1", "warmUpEpochs: found -1; allowed: a number at least 0"),
        ("numberOfEpochs = 3\nwarmUpEpochs = 3.5", "warmUpEpochs: found 3.5; allowed: at most numberOfEpochs (3)"),
        ("weightDecay = 1.0", "weightDecay: found 1.0; allowed: a number at least 0 and less than 1"),
        ("scaleLearningRateWithBatch = 0", "scaleLearningRateWithBatch: found 0; allowed: a whole number at least 1"),
        ("weightAveraging = 1.0", "weightAveraging: found 1.0; allowed: a number greater than 0 and less than 1"),
        ("l2ToStart = -0.1", "l2ToStart: found -0.1; allowed: a number at least 0"),
        (
            "learningRateDecayPerLayer = 1.5",
            "learningRateDecayPerLayer: found 1.5; allowed: a number greater than 0 and at most 1",
        ),
        ("earlyStoppingPatience = 0", "earlyStoppingPatience: found 0; allowed: a whole number at least 1"),
        ("earlyStoppingMinimumChange = 2", "earlyStoppingMinimumChange: found 2; allowed: a number from 0 to 1"),
        (
            'earlyStoppingRestoreBest = "yes"',
            'earlyStoppingRestoreBest: found "yes" (text); allowed: true or false',
        ),
        (
            "earlyStoppingPatience = 3",
            "earlyStoppingPatience: depends on the validation score, but nothing is validated; set "
            "performValidationOnSamplesThroughoutTraining or performFullInferenceOnValidationImagesEveryFewEpochs = "
            "true",
        ),
        (
            'typeOfLearningRateSchedule = "plateau"',
            "typeOfLearningRateSchedule: depends on the validation score, but nothing is validated",
        ),
        (
            VALIDATION + 'typeOfLearningRateSchedule = "plateau"\nnumEpochsToWaitBeforeLoweringLr = 0',
            'numEpochsToWaitBeforeLoweringLr: found 0; allowed: a number greater than 0 for the schedule "plateau"',
        ),
        (
            VALIDATION + 'typeOfLearningRateSchedule = "plateau"\nlowestLearningRate = 0.1\nlearningRate = 0.01',
            "lowestLearningRate: found 0.1; allowed: at most learningRate (0.01)",
        ),
    ],
)
def test_bad_values_are_refused(refusal, extra, message):
    assert message in refusal(load_train_config, TRAIN + extra)


@pytest.mark.parametrize(
    ("extra", "note"),
    [
        ("lowestLearningRate = 1e-6", 'lowestLearningRate not used, because the schedule is "poly"'),
        (
            "earlyStoppingRestoreBest = true\nearlyStoppingMinimumChange = 0.1",
            "earlyStoppingMinimumChange, earlyStoppingRestoreBest not used, because earlyStoppingPatience is not given",
        ),
    ],
)
def test_keys_without_effect_are_noted(write, extra, note):
    [found] = load_train_config(write(TRAIN + extra)).source.notes
    assert found.endswith(f"some.cfg: {note}")
