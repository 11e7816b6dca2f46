"""Files of the Theano version: which they are, and its defaults and meanings."""

import pytest

from deepmedic.config.augmentation import Gaussian
from deepmedic.config.load import fit_train_config, load_model_config, load_test_config, load_train_config
from deepmedic.config.training import SamplingConfig

MODEL = """\
modelName = "deepMedic"
folderForOutput = "../../../output/"
numberOfOutputClasses = 5
numberOfInputChannels = 2
numberFMsPerLayerNormal = [4, 5, 6]
kernelDimPerLayerNormal = [[3,3,3], [3,3,3], [3,3,3]]
useSubsampledPathway = True
numberFMsPerLayerFC = [15, 15]
segmentsDimTrain = [25,25,25]
batchSizeTrain = 10
"""
TRAIN = """\
folderForOutput = "out"
channelsTraining = ["c1.cfg", "c2.cfg"]
gtLabelsTraining = "labels.cfg"
stable0orAuto1orPredefined2orExponential3LrSchedule = {schedule}
numberOfEpochs = 20
"""
NO_SCHEDULE = TRAIN.replace("stable0orAuto1orPredefined2orExponential3LrSchedule = {schedule}\n", "")
VALIDATION = """\
performValidationOnSamplesThroughoutTraining = True
channelsValidation = ["v1.cfg", "v2.cfg"]
gtLabelsValidation = "v_labels.cfg"
"""


def schedule_of(write, number, extra=""):
    return load_train_config(write(TRAIN.format(schedule=number) + extra)).schedule


def test_a_model_config_of_the_theano_version(write):
    config = load_model_config(write(MODEL + "kernelDimFor1stFcLayer = [3, 3, 1]\nbatchSizeVal = 48\n"))
    fc = config.architecture.fc
    assert fc.kernels == ((3, 3, 1), (1, 1, 1), (1, 1, 1))
    assert fc.paddings == ("mirror", "valid", "valid")
    assert fc.dropout_rates == (0.0, 0.5, 0.5)
    assert (config.batch_size_train, config.batch_size_validation, config.batch_size_inference) == (10, 48, 10)
    assert config.segment_size_validation == (7, 7, 7)
    assert config.source.theano_keys == ("batchSizeTrain", "kernelDimFor1stFcLayer", "batchSizeVal")
    assert config.source.notes == (
        f"{config.source.path}: has keys of the Theano version, whose defaults and meanings apply: batchSizeTrain "
        f"(line "
        "10), kernelDimFor1stFcLayer (line 11), batchSizeVal (line 12)",
    )


def test_a_first_fc_kernel_of_one_voxel_is_not_padded(write):
    config = load_model_config(write(MODEL + "kernelDimFor1stFcLayer = [1, 1, 1]\n"))
    assert config.architecture.fc.paddings == ("valid", "valid", "valid")


def test_the_first_fc_kernel_is_that_of_the_classification_layer_without_hidden_ones(write):
    text = MODEL.replace("numberFMsPerLayerFC = [15, 15]\n", "") + "kernelDimFor1stFcLayer = [3, 3, 3]\n"
    assert load_model_config(write(text)).architecture.fc.kernels == ((3, 3, 3),)


def test_the_older_and_the_newer_key_of_fc_kernels_exclude_each_other(refusal):
    extra = "kernelDimFor1stFcLayer = [3, 3, 3]\nkernelDimPerLayerFC = [[1, 1, 1], [1, 1, 1], [1, 1, 1]]\n"
    assert refusal(load_model_config, MODEL + extra) == (
        "some.cfg:11: kernelDimFor1stFcLayer: stands with kernelDimPerLayerFC or padTypePerLayerFC, which replaced "
        "it; keep "
        "one of them"
    )


def test_defaults_of_the_theano_version_differ(write):
    later = MODEL.replace("batchSizeTrain = 10\n", "")
    unnamed = MODEL.replace('modelName = "deepMedic"\n', "")
    assert load_model_config(write(unnamed)).name == "cnnModel"
    assert load_model_config(write(unnamed.replace("batchSizeTrain = 10\n", ""))).name == "deepmedic"
    factors = "subsampleFactor = [[3,3,3], [5,5,5], [7,7,7]]\n"
    halved = load_model_config(write(MODEL + factors)).architecture.subsampled
    assert [pathway.feature_maps for pathway in halved] == [(4, 5, 6), (2, 2, 3), (1, 1, 1)]
    repeated = load_model_config(write(later + factors)).architecture.subsampled
    assert [pathway.feature_maps for pathway in repeated] == [(4, 5, 6)] * 3


def test_further_feature_maps_get_further_factors(write):
    extra = "numberFMsPerLayerSubsampled = [[3, 3, 3], [2, 2, 2], [1, 1, 1]]\nsubsampleFactor = [3, 3, 1]\n"
    pathways = load_model_config(write(MODEL + extra)).architecture.subsampled
    assert [pathway.factor for pathway in pathways] == [(3, 3, 1), (5, 5, 3), (7, 7, 5)]


def test_exponential_is_the_default_schedule_and_its_target_a_factor(write):
    schedule = load_train_config(write(NO_SCHEDULE + "useDefaultTrainingSamplingFromGtAndRoi = True\n")).schedule
    assert schedule.theano
    assert schedule.kind == "expon"
    assert schedule.epochs_to_wait == 10
    assert schedule.exponential_target == (1 / 2**8, 0.9)
    assert schedule.exponential_end(0.001) == pytest.approx((0.001 / 256, 0.9))


def test_the_exponential_schedule_has_a_first_epoch_a_factor_and_a_momentum(write):
    extra = "exponentialSchedForLrAndMom = [12, 1.0/(2**(7)), 0.8]\nnumEpochsToWaitBeforeLoweringLr = 5\n"
    schedule = schedule_of(write, 3, extra)
    assert schedule.epochs_to_wait == 12
    assert schedule.exponential_target == (0.0078125, 0.8)
    assert schedule.exponential_end(0.01) == pytest.approx((0.000078125, 0.8))


def test_an_exponential_schedule_that_never_begins_is_constant(write):
    config = load_train_config(write(TRAIN.format(schedule=3) + "exponentialSchedForLrAndMom = [20, 0.1, 0.9]\n"))
    assert config.schedule.kind == "stable"
    assert config.schedule.stable_interval is None
    assert "begins at epoch 20 of 20: the learning rate stays the same" in config.source.notes[-1]


@pytest.mark.parametrize(("wait", "interval"), [("", 3), ("5", 5), ("0", None)])
def test_stable_lowers_every_few_epochs(write, wait, interval):
    extra = f"numEpochsToWaitBeforeLoweringLr = {wait}\n" if wait else ""
    schedule = schedule_of(write, 0, extra)
    assert schedule.kind == "stable"
    assert schedule.stable_interval == interval
    assert schedule.divide_by == 2.0


def test_auto_waits_three_epochs_for_a_rise_of_half_a_thousandth(write):
    schedule = schedule_of(write, 1, VALIDATION)
    assert (schedule.kind, schedule.epochs_to_wait, schedule.minimum_increase) == ("auto", 3, 0.0005)
    given = schedule_of(write, 1, VALIDATION + "minIncreaseInValidationAccuracyThatResetsWaiting = 0.01\n")
    assert given.minimum_increase == 0.01
    never = schedule_of(write, 1, VALIDATION + "numEpochsToWaitBeforeLoweringLr = 0\n")
    assert (never.kind, never.stable_interval) == ("stable", None)


def test_predefined_epochs(write):
    schedule = schedule_of(write, 2, "predefinedSchedule = [12, 16, 46]\n")
    assert (schedule.kind, schedule.predefined_epochs) == ("predef", (12, 16, 46))


@pytest.mark.parametrize(
    ("number", "extra", "message"),
    [
        (4, "", "found 4; allowed: 0, 1, 2, 3"),
        (2, "", 'predefinedSchedule: is missing; the schedule "predef" needs the epochs'),
        (1, "", 'found false; allowed: true for the schedule "auto"'),
        (0, "numEpochsToWaitBeforeLoweringLr = 2.5\n", "found 2.5; allowed: a whole number for the Theano version's"),
        (3, "exponentialSchedForLrAndMom = [5, 0.0, 0.9]\n", "entry 2: found 0; allowed: a factor above 0"),
        (3, "exponentialSchedForLrAndMom = [5, 0.1, 1.9]\n", "entry 3: found 1.9; allowed: from 0 to 1"),
        (
            3,
            'typeOfLearningRateSchedule = "poly"\n',
            "stands together with typeOfLearningRateSchedule, which replaced it",
        ),
        (
            3,
            "min_incr_of_val_acc_considered = 0.1\nminIncreaseInValidationAccuracyThatResetsWaiting = 0.1\n",
            "replaced it",
        ),
        (3, "saveAllFmsIn4DimImageVal = True\n", "allowed: false, because feature maps are saved one file each"),
        (
            3,
            "percentOfSamplesToExtractPositiveTrain = 0.5\n",
            "is no longer a key; write typeOfSamplingForTraining = 0",
        ),
        (
            3,
            "performIntAugm = True\nsampleIntAugmShiftWithMuAndStd = [0, -1]\n",
            "entry 2: found -1; allowed: a standard",
        ),
    ],
)
def test_what_cannot_be_used_is_refused(refusal, number, extra, message):
    assert message in refusal(load_train_config, TRAIN.format(schedule=number) + extra)


def test_default_sampling_ignores_the_other_keys_of_sampling(write):
    extra = (
        "typeOfSamplingForTraining = 3\nproportionOfSamplesToExtractPerCategoryTraining = [0.3, 0.7]\n"
        'weightedMapsForSamplingEachCategoryTrain = ["a.cfg"]\ntypeOfSamplingForVal = 0\n'
    )
    config = load_train_config(write(TRAIN.format(schedule=3) + extra), 5)
    assert config.sampling == SamplingConfig(kind=0, proportions=None)
    assert config.data.weight_maps is None
    assert config.validation_sampling == SamplingConfig(kind=1)
    assert config.source.notes[1].endswith(
        "typeOfSamplingForTraining, proportionOfSamplesToExtractPerCategoryTraining, "
        "weightedMapsForSamplingEachCategoryTrain not used, because useDefaultTrainingSamplingFromGtAndRoi is on by "
        "default "
        "in files of the Theano version"
    )
    assert "typeOfSamplingForVal not used" in config.source.notes[2]


def test_sampling_of_ones_own(write):
    extra = (
        "useDefaultTrainingSamplingFromGtAndRoi = False\nuseDefaultUniformValidationSampling = False\n"
        "proportionOfSamplesToExtractPerCategoryTraining = [0.3, 0.7]\ntypeOfSamplingForVal = 0\n"
    )
    config = load_train_config(write(TRAIN.format(schedule=3) + extra), 5)
    assert config.sampling == SamplingConfig(kind=0, proportions=(0.3, 0.7))
    assert config.validation_sampling.kind == 0
    chosen = load_train_config(write(TRAIN.format(schedule=3) + extra + "typeOfSamplingForTraining = 1\n"), 5)
    assert chosen.sampling.kind == 1


def test_augmentation(write):
    extra = (
        "reflectImagesPerAxis = [True,False,False]\nperformIntAugm = True\nsampleIntAugmMultiWithMuAndStd = [1., 0.2]\n"
    )
    segment = load_train_config(write(TRAIN.format(schedule=3) + extra)).augmentation.segment
    assert segment.reflect == (0.5, 0.0, 0.0)
    assert segment.shift == Gaussian(mean=0.0, std=0.1)
    assert segment.scale == Gaussian(mean=1.0, std=0.2)


def test_batch_sizes_come_from_the_model(write):
    model = load_model_config(write(MODEL + "batchSizeVal = 48\nbatchSizeInfer = 7\n", "model.cfg"))
    text = TRAIN.format(schedule=3)
    config = load_train_config(write(text), model=model)
    assert (config.batch_size, config.validation_batch_size, config.volume_batch_size) == (10, 48, 7)
    later = fit_train_config(load_train_config(write(text)), model)
    assert later == config
    given = load_train_config(write(text + "batchsize_train = 4\nbatchsize_val_whole = 3\n"), model=model)
    assert (given.batch_size, given.validation_batch_size, given.volume_batch_size) == (4, 48, 3)
    test = 'folderForOutput = "out"\nchannels = ["c1.cfg", "c2.cfg"]\n'
    assert load_test_config(write(test), model=model).batch_size == 7
    assert load_test_config(write(test + "batchsize = 3\n"), model=model).batch_size == 3
    assert load_test_config(write(test)).batch_size == 10


def test_a_batch_size_that_nobody_gives_is_refused(refusal, write):
    model = load_model_config(write(MODEL.replace("batchSizeTrain = 10\n", ""), "model.cfg"))
    message = refusal(load_train_config, TRAIN.format(schedule=3), model=model)
    assert message == (
        "some.cfg: batchsize_train: is missing; it has no default and must be given (or batchSizeTrain in a model "
        "config of "
        "the Theano version)"
    )


def test_whole_volumes_may_be_segmented_without_labels(write, refusal):
    extra = (
        "performFullInferenceOnValidationImagesEveryFewEpochs = True\n"
        'channelsValidation = ["v1.cfg", "v2.cfg"]\nnamesForPredictionsPerCaseVal = "names.cfg"\n'
    )
    assert load_train_config(write(TRAIN.format(schedule=3) + extra)).validation_data.labels is None
    later = NO_SCHEDULE + "batchsize_train = 10\n" + extra
    assert refusal(load_train_config, later).startswith("some.cfg: gtLabelsValidation: is missing")


@pytest.mark.parametrize(
    ("extra", "theano"),
    [
        ("reflectImagesPerAxis = [True, False, False]\n", True),
        ("saveAllFmsIn4DimImageVal = False\n", True),
        ("reflectImagesPerAxis = [True, False, False]\nbatchsize_train = 10\n", False),
        ("saveAllFmsIn4DimImageVal = False\nbatchsize_train = 10\n", False),
        ("useDefaultUniformValidationSampling = True\nbatchsize_train = 10\n", True),
        ("useDefaultUniformValidationSampling = None\nbatchsize_train = 10\n", False),
        ("batchsize_train = 10\n", False),
    ],
)
def test_which_files_are_of_the_theano_version(write, extra, theano):
    config = load_train_config(write(NO_SCHEDULE + extra))
    assert bool(config.source.theano_keys) == theano
    assert config.schedule.theano == theano
    assert config.schedule.kind == ("expon" if theano else "poly")


def test_one_file_with_all_feature_maps_is_refused_in_tests(refusal, write):
    text = 'folderForOutput = "out"\nchannels = ["c1.cfg"]\nsaveAllFmsIn4DimImage = {}\n'
    assert load_test_config(write(text.format(False))).source.theano_keys == ()
    assert refusal(load_test_config, text.format(True)) == (
        "some.cfg:3: saveAllFmsIn4DimImage: found true; allowed: false, because feature maps are saved one file each; "
        "set "
        "saveIndividualFms instead"
    )
