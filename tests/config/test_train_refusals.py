"""What a train config is refused for, and what is only noted."""

import pytest

from deepmedic.config.load import load_model_config, load_train_config
from deepmedic.config.training import TrainConfig
from deepmedic.errors import ProblemList, SeveralProblems

TRAIN = """\
folderForOutput = "out"
channelsTraining = ["c1.cfg", "c2.cfg"]
gtLabelsTraining = "labels.cfg"
batchsize_train = 10
"""
VALIDATION = """\
performValidationOnSamplesThroughoutTraining = true
performFullInferenceOnValidationImagesEveryFewEpochs = true
channelsValidation = ["v1.cfg", "v2.cfg"]
gtLabelsValidation = "v_labels.cfg"
namesForPredictionsPerCaseVal = "v_names.cfg"
"""


def load(write, extra="", **named) -> TrainConfig:
    return load_train_config(write(TRAIN + extra), **named)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("numberOfEpochs = 0", "numberOfEpochs: found 0; allowed: a whole number at least 1"),
        (
            "numberOfEpochs = 3.0",
            "numberOfEpochs: found 3.0 (a number with decimals); allowed: a whole number at least 1",
        ),
        (
            "numberOfSubepochs = true",
            "numberOfSubepochs: found true (a truth value); allowed: a whole number at least 1",
        ),
        (
            "numberOfEpochs = 1979-05-27",
            "numberOfEpochs: found 1979-05-27 (a date); allowed: a whole number at least 1",
        ),
        ("learningRate = 0.0", "learningRate: found 0.0; allowed: a number greater than 0"),
        ("learningRate = -1e-3", "learningRate: found -0.001; allowed: a number greater than 0"),
        ("learningRate = nan", "learningRate: found NaN (not a finite number); allowed: a number greater than 0"),
        ("momentumValue = 1.5", "momentumValue: found 1.5; allowed: a number from 0 to 1"),
        ("b1Adam = 1.0", "b1Adam: found 1.0; allowed: a number at least 0 and less than 1"),
        ("L1_reg = -0.1", "L1_reg: found -0.1; allowed: a number at least 0"),
        ("sgd0orAdam1orRms2 = 3", "sgd0orAdam1orRms2: found 3; allowed: 0, 1, 2"),
        ("typeOfSamplingForTraining = 4", "typeOfSamplingForTraining: found 4; allowed: 0, 1, 2, 3"),
        ("num_processes_sampling = -2", "num_processes_sampling: found -2; allowed: a whole number at least -1"),
        (
            'typeOfLearningRateSchedule = "exponential"',
            'found "exponential"; allowed: "stable", "predef", "poly", "auto"',
        ),
        (
            'precision = "float"',
            'precision: found "float"; allowed: "float32", "tf32", "bf16"; did you mean "float32"?',
        ),
        ("keepLastCheckpoints = 0", "keepLastCheckpoints: found 0; allowed: a whole number at least 1"),
        ("numberOfEpochz = 3", "numberOfEpochz: is not a key of the train config; did you mean numberOfEpochs?"),
        ("batchSizeTrain = 3", "batchSizeTrain: is a key of the model config, not of the train config; move it there"),
        ("batchsize = 3", "batchsize: is a key of the test config, not of the train config; move it there"),
        ("percentOfSamplesToExtractPositiveTrain = 0.5", "is no longer a key; write typeOfSamplingForTraining = 0 and"),
        ("augm_params_tr = {}", "is no longer a key; write augm_sample_prms_tr instead"),
        ('sessionName = "a/b"', "sessionName: found 'a/b'; allowed: a name that can be part of file names"),
        ('sessionName = ".."', "sessionName: found '..'; allowed: a name that can be part of file names"),
        ('sessionName = " x"', "sessionName: found ' x'; allowed: a name that can be part of file names"),
        ("channelsTraining_ = []", "is not a key of the train config; did you mean channelsTraining?"),
        (
            "augm_img_prms_tr = {affine = {prob = 1.5}}",
            "augm_img_prms_tr.affine.prob: found 1.5; allowed: a number from 0",
        ),
        ("augm_img_prms_tr = {prob = 0.5}", "augm_img_prms_tr.prob: is not a key of this table (allowed: affine)"),
        (
            "augm_img_prms_tr = {affine = {max_scaling = 1.0}}",
            "max_scaling: found 1.0; allowed: a number at least 0 and",
        ),
        ("augm_img_prms_tr = {affine = {interp_order_imgs = 4}}", "interp_order_imgs: found 4; allowed: 0, 1, 2, 3"),
        ('augm_img_prms_tr = {affine = {boundary_mode = "miror"}}', 'did you mean "mirror"?'),
        (
            "augm_sample_prms_tr.reflect = [0.5, 1.2, 0]",
            "augm_sample_prms_tr.reflect, entry 2: found 1.2; allowed: a number",
        ),
        ("augm_sample_prms_tr.reflect = [0.5]", "found [0.5] (a list of 1); allowed: a list of 3 numbers from 0 to 1"),
        (
            "augm_sample_prms_tr = {hist_dst = {}}",
            "augm_sample_prms_tr.hist_dst: is not a key of this table; did you mean",
        ),
        ("augm_sample_prms_tr.hist_dist.shift = {mu = 0}", "hist_dist.shift: std is missing; give mu, std"),
        (
            "augm_sample_prms_tr.hist_dist.shift = {mu = 0, std = -1}",
            "shift.std: found -1; allowed: a number at least 0",
        ),
        ("augm_sample_prms_tr.rotate90.zz = {}", "rotate90.zz: is not a key of this table; did you mean"),
        (
            "augm_sample_prms_tr.rotate90.xy = {45 = 1}",
            "rotate90.xy.45: is not a key of this table (allowed: 0, 90, 180, 270)",
        ),
        (
            "losses_and_weights = {xentr = 0.0}",
            "losses_and_weights: has no term with a weight above 0; give at least one",
        ),
        ("losses_and_weights = {dice = 1.0}", "losses_and_weights.dice: is not a key of this table; did you mean"),
        ("losses_and_weights = {xentr = -1}", "losses_and_weights.xentr: found -1; allowed: a number at least 0"),
        (
            'reweight_classes_in_cost = {type = "per_c"}',
            'reweight_classes_in_cost.prms: is missing; type "per_c" needs one',
        ),
        ('reweight_classes_in_cost = {type = "freq", prms = [1]}', 'prms: stands with type "freq", which computes the'),
        (
            "reweight_classes_in_cost = {schedule = [9, 3]}",
            "schedule: found [9.0, 3.0]; allowed: [first, last] in rising",
        ),
        (
            "norm_zscore_prms = {apply_all = true}",
            "norm_zscore_prms.apply_all: is not a key of this table; did you mean",
        ),
        (
            "norm_zscore_prms = {apply_to_all_channels = true, apply_per_channel = [true, true]}",
            "stands together with apply",
        ),
        ("norm_zscore_prms = {apply_per_channel = [true]}", "found 1 entries; allowed: one per channel, 2"),
        (
            "norm_zscore_prms = {cutoff_percents = [5.0, 101.0]}",
            "cutoff_percents, entry 2: found 101.0; allowed: a number",
        ),
        (
            "norm_zscore_prms = {cutoff_percents = [95.0, 5.0]}",
            "found [95.0, 5.0]; allowed: [low, high] with low below high",
        ),
        (
            "norm_zscore_prms = {cutoff_times_std = [0, 3]}",
            "cutoff_times_std, entry 1: found 0; allowed: a number greater",
        ),
        ("layersToFreezeNormal = [0]", "layersToFreezeNormal, entry 1: found 0; allowed: a whole number at least 1"),
        (
            "proportionOfSamplesToExtractPerCategoryTraining = [0, 0]",
            "found [0.0, 0.0]; allowed: shares of which at least",
        ),
        (
            'typeOfLearningRateSchedule = "predef"',
            'predefinedSchedule: is missing; the schedule "predef" needs the epochs',
        ),
        ('typeOfLearningRateSchedule = "auto"', 'found false; allowed: true for the schedule "auto", which lowers'),
        (
            "numEpochsToWaitBeforeLoweringLr = 35",
            'found 35; allowed: less than numberOfEpochs (35) for the schedule "poly"',
        ),
        (
            "numberTrainingSegmentsLoadedOnGpuPerSubep = 9",
            "found 9; allowed: at least one batch, 10, because incomplete ones",
        ),
        (
            "minMaxIndicesOfFmsToSaveFromEachLayerOfNormalPathwayVal = [[], [3, 1]]",
            "entry 2: found [3, 1]; allowed: [first",
        ),
        (
            "saveAllFmsIn4DimImageVal = true",
            "found true; allowed: false, because feature maps are saved one file each; set",
        ),
        ('suffixForSegmAndProbsDictVal = {segm = "a/b"}', "found 'a/b'; allowed: text that can be part of a file name"),
        (
            "performFullInferenceOnValidationImagesEveryFewEpochs = 1",
            "found 1 (a whole number); allowed: true or false",
        ),
    ],
)
def test_what_cannot_be_used_is_refused(refusal, extra, message):
    found = refusal(load_train_config, TRAIN + extra)
    assert found.startswith(("some.cfg:5: ", "some.cfg: "))
    assert message in found
    assert "\n" not in found


def test_a_rising_list_of_epochs_is_needed(refusal):
    extra = 'typeOfLearningRateSchedule = "predef"\npredefinedSchedule = [17, 12]\n'
    assert refusal(load_train_config, TRAIN + extra) == (
        "some.cfg:6: predefinedSchedule: found [17, 12]; allowed: epochs in rising order"
    )


@pytest.mark.parametrize(("target", "place"), [("[-0.1, 0.9]", 1), ("[1e-5, 1.5]", 2)])
def test_the_exponential_target_is_in_range(refusal, target, place):
    extra = f'typeOfLearningRateSchedule = "expon"\nparamsForExpSchedForLrAndMom = {target}\n'
    assert f"paramsForExpSchedForLrAndMom, entry {place}: found " in refusal(load_train_config, TRAIN + extra)


@pytest.mark.parametrize("key", ["folderForOutput", "channelsTraining", "gtLabelsTraining", "batchsize_train"])
def test_a_missing_required_key_is_refused(refusal, key):
    text = "\n".join(line for line in TRAIN.splitlines() if not line.startswith(key))
    assert refusal(load_train_config, text).startswith(f"some.cfg: {key}: is missing; ")


@pytest.mark.parametrize("key", ["channelsValidation", "gtLabelsValidation", "namesForPredictionsPerCaseVal"])
def test_validation_needs_its_cases(refusal, key):
    text = TRAIN + "\n".join(line for line in VALIDATION.splitlines() if not line.startswith(key))
    assert refusal(load_train_config, text).startswith(f"some.cfg: {key}: is missing; ")


def test_validation_on_samples_needs_no_names_and_nothing_saved_needs_none(write):
    names = 'namesForPredictionsPerCaseVal = "v_names.cfg"\n'
    on_samples = VALIDATION.replace(names, "").replace("EveryFewEpochs = true", "EveryFewEpochs = false")
    assert load(write, on_samples).validate_on_samples
    nothing = "saveSegmentationVal = false\nsaveProbMapsForEachClassVal = [false, false]\n"
    assert load(write, VALIDATION.replace(names, "") + nothing).validate_on_volumes


def test_a_table_stands_for_listing_files(write):
    text = 'folderForOutput = "out"\nbatchsize_train = 10\ndataframe_train = "train.csv"\n'
    validation = VALIDATION.splitlines()[:2]
    config = load_train_config(write("\n".join([text, *validation, 'dataframe_val = "v.csv"\n'])))
    assert config.data.table.name == "train.csv"
    assert config.validation_data.table.name == "v.csv"
    assert (
        load(write, 'dataframe_train = "train.csv"\n')
        .source.notes[0]
        .endswith("channelsTraining, gtLabelsTraining not used, because dataframe_train is given")
    )


@pytest.mark.parametrize(
    ("extra", "note"),
    [
        ('channelsValidation = ["a"]\n', "channelsValidation not used, because neither performValidationOnSamples"),
        (
            "typeOfSamplingForTraining = 1\nproportionOfSamplesToExtractPerCategoryTraining = [0.5, 0.5]\n",
            "proportionOfSamplesToExtractPerCategoryTraining not used, because typeOfSamplingForTraining is 1",
        ),
        ("typeOfSamplingForTraining = 2\n", "typeOfSamplingForTraining = 2 draws segments as 1 does: uniformly"),
        (
            "norm_zscore_prms = {cutoff_percents = [5.0, 95.0]}\n",
            "norm_zscore_prms normalises no channel: set its apply",
        ),
        ("saveIndividualFmsVal = true\n", "saveIndividualFmsVal is on, but no minMaxIndices key chooses feature maps"),
    ],
)
def test_odd_things_are_noted(write, extra, note):
    (found,) = load(write, extra).source.notes
    assert f"some.cfg: {note}" in found


def test_a_key_inside_a_table_by_mistake_is_recognised(refusal):
    message = refusal(
        load_train_config, TRAIN + "[norm_zscore_prms]\napply_to_all_channels = true\nnumberOfEpochs = 3\n"
    )
    assert message == (
        "some.cfg:7: norm_zscore_prms.numberOfEpochs: is a key of the file, not of the table norm_zscore_prms that "
        "begins on line 5; move it above that line"
    )
    message = refusal(load_train_config, TRAIN + "[optimizer]\nlearningRate = 0.1\n")
    assert message == (
        "some.cfg:5: optimizer: is not a table of the train config; learningRate (line 6) is a key of the file itself: "
        "take it out of the table"
    )


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            "proportionOfSamplesToExtractPerCategoryTraining = [0.5, 0.5]",
            "found 2 shares; allowed: 3, for each of the 3",
        ),
        (
            "typeOfSamplingForTraining = 0\nproportionOfSamplesToExtractPerCategoryTraining = [1, 1, 1]",
            "found 3 shares; allowed: 2, for foreground and background",
        ),
        (
            'weightedMapsForSamplingEachCategoryTrain = ["a"]',
            "found 1 listing files; allowed: 3, for each of the 3 classes",
        ),
        (
            "saveProbMapsForEachClassVal = [true]",
            "saveProbMapsForEachClassVal: found 1 entries; allowed: one per class, 3",
        ),
        ('reweight_classes_in_cost = {type = "per_c", prms = [1, 2]}', "found 2 weights; allowed: one per class, 3"),
    ],
)
def test_lists_with_one_entry_per_class(refusal, write, extra, message):
    assert message in refusal(load_train_config, TRAIN + extra, 3)
    assert load_train_config(write(TRAIN + extra)).batch_size == 10  # without the number of classes nothing is known


def test_problems_of_all_kinds_are_listed_together(refusal):
    text = TRAIN.replace("batchsize_train = 10", 'batchsize_train = "10"')
    extra = (
        "numberOfEpochz = 3\nlearningRate = -1\ntypeOfSamplingForTraining = 0\n"
        "proportionOfSamplesToExtractPerCategoryTraining = [1]\nperformValidationOnSamplesThroughoutTraining = true\n"
    )
    lines = refusal(load_train_config, text + extra, 3).splitlines()
    assert lines[0] == "6 problems were found; nothing was started:"
    assert sorted(line.split(". ", 1)[1].split(": ")[1] for line in lines[1:]) == [
        "batchsize_train",
        "channelsValidation",
        "gtLabelsValidation",
        "learningRate",
        "numberOfEpochz",
        "proportionOfSamplesToExtractPerCategoryTraining",
    ]


def test_problems_of_two_files_are_listed_in_one_run(write):
    model = write(
        "numberOfOutputClasses = 0\nkernelDimPerLayerNormal = [[3, 3, 3.0]]\nsegmentDimTrain = 5\n", "model.cfg"
    )
    train = write(TRAIN + "numberOfEpochz = 3\nlearningRate = -1.0\n", "train.cfg")
    problems = ProblemList()
    with problems.gather():
        load_model_config(model)
    with problems.gather():
        load_train_config(train)
    with pytest.raises(SeveralProblems) as caught:
        problems.raise_if_any()
    assert caught.value.exit_code == 3
    message = str(caught.value)
    for part in (
        "model.cfg:1: numberOfOutputClasses: found 0; allowed: a whole number at least 2",
        "model.cfg:2: kernelDimPerLayerNormal, entry 1, entry 3: found 3.0 (a number with decimals)",
        "model.cfg:3: segmentDimTrain: is not a key of the model config; did you mean segmentsDimTrain?",
        "train.cfg:5: numberOfEpochz: is not a key of the train config; did you mean numberOfEpochs?",
        "train.cfg:6: learningRate: found -1.0; allowed: a number greater than 0",
    ):
        assert part in message
