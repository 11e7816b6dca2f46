"""Phases and recipes in a train config: inheritance, what is refused, and which layers a recipe trains."""

from __future__ import annotations

import pytest

from deepmedic.config.load import fit_train_config, load_model_config, load_train_config
from deepmedic.config.plain import settings_changed, to_plain
from deepmedic.config.recipes import with_recipe

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
MODEL = """\
folderForOutput = "out"
numberOfOutputClasses = 3
numberOfInputChannels = 2
numberFMsPerLayerNormal = [3, 3, 3]
kernelDimPerLayerNormal = [[3, 3, 3], [3, 3, 3], [3, 3, 3]]
useSubsampledPathway = true
subsampleFactor = [[3, 3, 3]]
numberFMsPerLayerSubsampled = [3, 3]
kernelDimPerLayerSubsampled = [[3, 3, 3], [5, 5, 5]]
numberFMsPerLayerFC = [5]
segmentsDimTrain = [13, 13, 13]
"""


@pytest.fixture
def model(write):
    return load_model_config(write(MODEL, "model.cfg"))


def test_a_file_without_phases_is_one_phase(write):
    config = load_train_config(write(TRAIN + "numberOfEpochs = 7\n"))
    assert config.phases == ()
    assert config.in_phase(0) is config
    assert config.total_epochs == 7


def test_a_phase_has_its_own_keys_and_inherits_all_others(write):
    text = """\
numberOfEpochs = 6
learningRate = 0.01
momentumValue = 0.3
layersToFreezeFC = [1]
learningRateDecayPerLayer = 0.5

[[phase]]

[[phase]]
name = "second"
numberOfEpochs = 4
learningRate = 1e-4
typeOfLearningRateSchedule = "predef"
predefinedSchedule = [1, 2]
layersToFreezeNormal = [1, 2]
batchNormOfFrozenLayers = "moving"
weightDecay = 0.1
resetOptimizer = false
"""
    config = load_train_config(write(TRAIN + text))
    first, second = config.phases
    assert (first.name, first.epochs, first.reset_optimizer, first.required_improvement) == ("phase 1", 6, True, None)
    for part in ("schedule", "optimizer", "refinements", "early_stopping", "freezing"):
        assert getattr(first, part) == getattr(config, part)
    assert (second.name, second.epochs, second.reset_optimizer) == ("second", 4, False)
    assert (second.optimizer.learning_rate, second.optimizer.momentum) == (1e-4, 0.3)
    assert (second.schedule.kind, second.schedule.predefined_epochs) == ("predef", (1, 2))
    assert (second.freezing.normal, second.freezing.fc, second.freezing.batch_norm) == ((1, 2), (1,), "moving")
    assert (second.refinements.weight_decay, second.refinements.rate_decay_per_layer) == (0.1, 0.5)
    assert config.total_epochs == 10
    trained_with = config.in_phase(1)
    assert (trained_with.epochs, trained_with.freezing) == (4, second.freezing)
    assert trained_with.batch_size == config.batch_size


def test_changes_are_told_by_phase_and_key(write):
    one = load_train_config(write(TRAIN + "[[phase]]\n[[phase]]\nlearningRate = 0.1\n"))
    other = load_train_config(write(TRAIN + "[[phase]]\n[[phase]]\nlearningRate = 0.2\nnumberOfEpochs = 9\n"))
    assert settings_changed(to_plain(one), to_plain(other)) == [
        "phase.2.numberOfEpochs: 35 -> 9",
        "phase.2.learningRate: 0.1 -> 0.2",
    ]


SECOND = "[[phase]]\n\n[[phase]]\n"


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            "[[phase]]\nlearningrate = 1\n",
            "some.cfg:6: phase 1.learningrate: is not a key of this table; did you mean learningRate?",
        ),
        (
            SECOND + "learningRate = -1\n",
            "some.cfg:8: phase 2.learningRate: found -1; allowed: a number greater than 0",
        ),
        (
            SECOND + "channelsTraining = []\n",
            "some.cfg:8: phase 2.channelsTraining: is a key of the file, not of the table phase that begins on line 5; "
            "move it above that line",
        ),
        (SECOND + "weightAveraging = 0.9\n", "some.cfg:8: phase 2.weightAveraging: is a key of the file, not of the"),
        (
            SECOND + 'typeOfLearningRateSchedule = "predef"\n',
            'some.cfg:7: phase 2.predefinedSchedule: is missing; the schedule "predef" needs the epochs',
        ),
        (
            SECOND + "numberOfEpochs = 3\nnumEpochsToWaitBeforeLoweringLr = 3\n",
            "some.cfg:9: phase 2.numEpochsToWaitBeforeLoweringLr: found 3; allowed: less than numberOfEpochs (3)",
        ),
        (
            SECOND + "earlyStoppingPatience = 2\n",
            "some.cfg:8: phase 2.earlyStoppingPatience: depends on the validation score, but nothing is validated; set "
            "performValidationOnSamplesThroughoutTraining or",
        ),
        (
            SECOND + "requiredImprovement = 0.1\n",
            "some.cfg:8: phase 2.requiredImprovement: depends on the validation score, but nothing is validated",
        ),
        (
            "[[phase]]\nresetOptimizer = false\n",
            "some.cfg:6: phase 1.resetOptimizer: is false in the first phase, which has no state of the optimiser",
        ),
        (
            SECOND + "resetOptimizer = false\nsgd0orAdam1orRms2 = 1\n",
            "some.cfg:8: phase 2.resetOptimizer: found false, but the phase before has another optimiser",
        ),
        (
            '[[phase]]\nname = "x"\n[[phase]]\nname = "x"\n',
            'some.cfg:8: phase 2.name: found "x" a second time; allowed: a name of its own',
        ),
        ("[phase]\n", "some.cfg:5: phase: found a single table; allowed: a table [[phase]] for each phase, with two"),
        ("phase = 3\n", "some.cfg:5: phase: found no list of tables; allowed: a table [[phase]] for each phase"),
        (
            'recipe = "dual"\n' + VALIDATION + SECOND,
            'some.cfg:5: recipe: "dual" stands together with [[phase]] tables; keep one of them',
        ),
        (
            'recipe = "dual"\n',
            "some.cfg:5: recipe: depends on the validation score, but nothing is validated; set performValidation",
        ),
        ("recipeEpochs = [3]\n", 'some.cfg:5: recipeEpochs: stands without a recipe; add recipe = "dual", for'),
        (
            'recipe = "mono"\nrecipeEpochs = [3, 4]\n',
            "some.cfg:6: recipeEpochs: found 2 numbers; allowed: at most 1, one per phase",
        ),
        (
            'recipe = "mono"\nrecipeDepths = 2\n',
            'some.cfg:6: recipeDepths: found 2, which the recipe "mono" has no use for; leave it out',
        ),
    ],
)
def test_refusals_name_phase_key_and_line(refusal, tables, message):
    assert message in refusal(load_train_config, TRAIN + tables)


def test_first_phase_cannot_have_to_improve(refusal):
    message = refusal(load_train_config, TRAIN + VALIDATION + "[[phase]]\nrequiredImprovement = 0.1\n")
    assert "phase 1.requiredImprovement: stands in the first phase, which has none before it to improve on" in message


def test_a_fault_that_phases_inherit_is_told_once(refusal):
    message = refusal(load_train_config, TRAIN + "numEpochsToWaitBeforeLoweringLr = 40\n" + SECOND)
    assert message.count("numEpochsToWaitBeforeLoweringLr") == 1
    assert "some.cfg:5: numEpochsToWaitBeforeLoweringLr: found 40; allowed: less than numberOfEpochs (35)" in message


def test_original_dialect_has_no_phases(refusal):
    text = TRAIN.replace('"out"', '"out"') + 'tensorboard_log = True\nphase = [{"learningRate": 0.1}]\n'
    assert "phase: phases are [[phase]] tables of TOML, which config files of the original's dialect cannot have" in (
        refusal(load_train_config, text)
    )


def test_frozen_layers_of_each_phase_are_compared_with_the_model(write, model):
    config = load_train_config(write(TRAIN + SECOND + "layersToFreezeNormal = [4]\n"))
    with pytest.raises(Exception, match=r"some.cfg:8: phase 2.layersToFreezeNormal: found layer 4; allowed: layers 1"):
        fit_train_config(config, model)
    everything = "layersToFreezeNormal = [1, 2, 3]\nlayersToFreezeSubsampled = [1, 2]\nlayersToFreezeFC = [1, 2]\n"
    config = load_train_config(write(TRAIN + SECOND + everything))
    with pytest.raises(Exception, match=r"some.cfg:10: phase 2.layersToFreezeFC: together with the other lists"):
        fit_train_config(config, model)


# Layers of the model above by depth: its classification layer fc/2, then fc/1, then the last layers of both pathways.
BY_DEPTH = [{"fc/2"}, {"fc/1"}, {"normal/3", "subsampled/2"}, {"normal/2", "subsampled/1"}, {"normal/1"}]


def trained_layers(phase) -> set[str]:
    every = set().union(*BY_DEPTH)
    frozen = {f"normal/{layer}" for layer in phase.freezing.normal} | {f"fc/{layer}" for layer in phase.freezing.fc}
    subsampled = phase.freezing.normal if phase.freezing.subsampled is None else phase.freezing.subsampled[0]
    return every - frozen - {f"subsampled/{layer}" for layer in subsampled}


def down_to(depth: int) -> set[str]:
    return set().union(*BY_DEPTH[: depth + 1])


@pytest.mark.parametrize(
    ("keys", "depths", "rates"),
    [
        ('"mono"', [4], [0.01]),
        ('"dual"', [4, 1], [0.01, 0.01]),
        ('"dual"\nrecipeLearningRates = [0.1, 0.2]', [4, 1], [0.1, 0.2]),
        ('"headFirst"', [0, 2], [0.01, 0.0001]),
        ('"headFirst"\nrecipeHead = "fc"\nrecipeDepths = 1', [1, 2], [0.01, 0.0001]),
        ('"headFirst"\nrecipeDepths = 99', [0, 4], [0.01, 0.0001]),
        ('"gradual"', [0, 1, 2, 3, 4], [0.01] * 5),
        ('"gradual"\nrecipeHead = "fc"\nrecipeDepths = 2\nrecipeLearningRates = [1, 0.1]', [1, 2, 3], [1, 0.1, 0.1]),
    ],
)
def test_a_recipe_trains_these_depths_at_these_rates(write, model, keys, depths, rates):
    config = load_train_config(write(TRAIN + VALIDATION + f"learningRate = 0.01\nrecipe = {keys}\n"), model=model)
    assert [trained_layers(phase) for phase in config.phases] == [down_to(depth) for depth in depths]
    assert [phase.optimizer.learning_rate for phase in config.phases] == pytest.approx(rates)
    assert with_recipe(config, model.architecture) == config


def test_defaults_of_recipes(write, model):
    text = TRAIN + VALIDATION + 'numberOfEpochs = 9\nrecipe = "gradual"\nrecipeEpochs = [5, 3]\n'
    phases = load_train_config(write(text), model=model).phases
    assert [phase.epochs for phase in phases] == [5, 3, 3, 3, 3]
    assert [phase.required_improvement for phase in phases] == [None, 0.001, 0.001, 0.001, 0.001]
    assert {phase.early_stopping.patience for phase in phases} == {10}
    assert {phase.early_stopping.restore_best for phase in phases} == {True}
    asked = "earlyStoppingPatience = 2\nearlyStoppingMinimumChange = 0\nearlyStoppingRestoreBest = false\n"
    stopping = load_train_config(write(text + asked), model=model).phases[1].early_stopping
    assert (stopping.patience, stopping.minimum_change, stopping.restore_best) == (2, 0.0, False)
    mono = load_train_config(write(TRAIN + 'recipe = "mono"\nlayersToFreezeNormal = [1]\n'), model=model).phases
    assert [(phase.early_stopping.patience, phase.freezing.normal) for phase in mono] == [(None, (1,))]


def test_layers_that_the_file_freezes_stay_frozen_in_a_recipe(write, model):
    text = TRAIN + VALIDATION + 'recipe = "headFirst"\nlayersToFreezeNormal = [1]\nlayersToFreezeSubsampled = [2]\n'
    head, top = load_train_config(write(text), model=model).phases
    assert trained_layers(head) == {"fc/2"}
    assert trained_layers(top) == {"fc/2", "fc/1", "normal/3"}
