"""Which kind of config a file is."""

import pytest

from deepmedic.config.kinds import CLASSES, REMOVED, config_kind, key_names, vocabulary
from deepmedic.config.load import load_analysis_config, load_model_config, load_test_config, load_train_config
from deepmedic.config.schema import declared_keys
from deepmedic.errors import ConfigError

MODEL = "numberOfOutputClasses = 3\nnumberOfInputChannels = 2\nnumberFMsPerLayerNormal = [4]\n"
TRAIN = 'sessionName = "s"\nfolderForOutput = "o"\nchannelsTraining = ["c"]\n'
TEST = 'sessionName = "s"\nfolderForOutput = "o"\nchannels = ["c"]\n'
ANALYSIS = 'folderForOutput = "o"\nchannelsTarget = ["c"]\ngtLabelsTarget = "l"\n'


@pytest.mark.parametrize(("text", "kind"), [(MODEL, "model"), (TRAIN, "train"), (TEST, "test"), (ANALYSIS, "analysis")])
def test_the_kind_is_told_by_the_keys(write, text, kind):
    assert config_kind(write(text)) == kind
    assert config_kind(write(text + "padInputImagesBool = True\n")) == kind  # in the Python dialect, too


@pytest.mark.parametrize(
    "text", ["", 'sessionName = "s"\n', "numberOfOutputClasses = 3\nnumberOfEpochs = 3\n", "x = 3"]
)
def test_a_file_without_telling_keys_is_refused(write, text):
    with pytest.raises(ConfigError, match="is no model, train, test, analysis or comparison config: found"):
        config_kind(write(text))


@pytest.mark.parametrize(
    ("text", "load", "found", "expected"),
    [
        (MODEL, load_train_config, "model", "train"),
        (MODEL, load_test_config, "model", "test"),
        (TRAIN, load_model_config, "train", "model"),
        (TEST, load_model_config, "test", "model"),
        (ANALYSIS, load_train_config, "analysis", "train"),
        (MODEL, load_analysis_config, "model", "analysis"),
    ],
)
def test_a_config_of_another_kind_is_refused_as_a_whole(refusal, text, load, found, expected):
    article = {"analysis": "an"}
    message = (
        f"some.cfg: is {article.get(found, 'a')} {found} config, but {article.get(expected, 'a')} {expected} config is "
        "needed here; check the options"
    )
    assert refusal(load, text) == message


def test_a_train_config_given_as_a_test_config_names_what_belongs_elsewhere(refusal):
    message = refusal(load_test_config, TRAIN)
    assert "channelsTraining: is a key of the train config, not of the test config; move it there" in message


def test_no_key_stands_twice_in_one_kind_and_every_key_is_explained():
    for kind, classes in CLASSES.items():
        names = [key.name for cls in classes for key in declared_keys(cls)]
        assert len(names) == len(set(names))
        for cls in classes:
            for key in declared_keys(cls):
                _check_explained(key)
        assert key_names(kind).isdisjoint(REMOVED[kind])


def _check_explained(key):
    assert len(key.option.doc) > 15, key.name
    assert key.option.doc.endswith("."), key.name
    assert not key.option.doc[0].islower(), key.name
    for sub in key.sub_keys():
        _check_explained(sub)


ORIGINAL = {
    "model": """modelName folderForOutput numberOfOutputClasses numberOfInputChannels numberFMsPerLayerNormal
        kernelDimPerLayerNormal padTypePerLayerNormal layersWithResidualConnNormal lowerRankLayersNormal
        useSubsampledPathway numberFMsPerLayerSubsampled kernelDimPerLayerSubsampled padTypePerLayerSubsampled
        subsampleFactor layersWithResidualConnSubsampled lowerRankLayersSubsampled numberFMsPerLayerFC
        kernelDimPerLayerFC padTypePerLayerFC kernelDimFor1stFcLayer layersWithResidualConnFC segmentsDimTrain
        segmentsDimVal segmentsDimInference batchSizeTrain batchSizeVal batchSizeInfer dropoutRatesNormal
        dropoutRatesSubsampled dropoutRatesFc convWeightsInit activationFunction rollAverageForBNOverThatManyBatches
        initializeClassic0orDelving1 relu0orPrelu1""",
    "train": """sessionName folderForOutput cnnModelFilePath tensorboard_log dataframe_train channelsTraining
        gtLabelsTraining roiMasksTraining useDefaultTrainingSamplingFromGtAndRoi typeOfSamplingForTraining
        proportionOfSamplesToExtractPerCategoryTraining weightedMapsForSamplingEachCategoryTrain
        percentOfSamplesToExtractPositiveTrain numberOfEpochs numberOfSubepochs numOfCasesLoadedPerSubepoch
        numberTrainingSegmentsLoadedOnGpuPerSubep batchsize_train num_processes_sampling typeOfLearningRateSchedule
        stable0orAuto1orPredefined2orExponential3LrSchedule whenDecreasingDivideLrBy numEpochsToWaitBeforeLoweringLr
        min_incr_of_val_acc_considered minIncreaseInValidationAccuracyThatResetsWaiting predefinedSchedule
        paramsForExpSchedForLrAndMom exponentialSchedForLrAndMom augm_img_prms_tr augm_sample_prms_tr
        reflectImagesPerAxis performIntAugm sampleIntAugmShiftWithMuAndStd sampleIntAugmMultiWithMuAndStd
        augm_params_tr performValidationOnSamplesThroughoutTraining
        performFullInferenceOnValidationImagesEveryFewEpochs dataframe_val channelsValidation gtLabelsValidation
        roiMasksValidation numberValidationSegmentsLoadedOnGpuPerSubep batchsize_val_samples
        useDefaultUniformValidationSampling typeOfSamplingForVal proportionOfSamplesToExtractPerCategoryVal
        weightedMapsForSamplingEachCategoryVal numberOfEpochsBetweenFullInferenceOnValImages batchsize_val_whole
        namesForPredictionsPerCaseVal saveSegmentationVal saveProbMapsForEachClassVal suffixForSegmAndProbsDictVal
        saveIndividualFmsVal saveAllFmsIn4DimImageVal minMaxIndicesOfFmsToSaveFromEachLayerOfNormalPathwayVal
        minMaxIndicesOfFmsToSaveFromEachLayerOfSubsampledPathwayVal
        minMaxIndicesOfFmsToSaveFromEachLayerOfFullyConnectedPathwayVal learningRate sgd0orAdam1orRms2
        classicMom0OrNesterov1 momentumValue momNonNorm0orNormalized1 b1Adam b2Adam epsilonAdam rhoRms epsilonRms
        losses_and_weights reweight_classes_in_cost L1_reg L2_reg layersToFreezeNormal layersToFreezeSubsampled
        layersToFreezeFC run_input_checks padInputImagesBool norm_verbosity_lvl norm_zscore_prms""",
    "test": """sessionName folderForOutput cnnModelFilePath dataframe channels namesForPredictionsPerCase roiMasks
        gtLabels saveSegmentation saveProbMapsForEachClass suffixForSegmAndProbsDict batchsize saveIndividualFms
        saveAllFmsIn4DimImage minMaxIndicesOfFmsToSaveFromEachLayerOfNormalPathway
        minMaxIndicesOfFmsToSaveFromEachLayerOfSubsampledPathway
        minMaxIndicesOfFmsToSaveFromEachLayerOfFullyConnectedPathway run_input_checks padInputImagesBool
        norm_verbosity_lvl norm_zscore_prms""",
    "analysis": "",
    "comparison": "",
}


@pytest.mark.parametrize("kind", list(CLASSES))
def test_every_key_of_the_original_is_understood_or_refused_with_what_to_write(kind):
    assert set(ORIGINAL[kind].split()) <= key_names(kind) | REMOVED[kind].keys()


def test_a_vocabulary_knows_the_keys_of_the_other_kinds():
    words = vocabulary("train")
    assert words.elsewhere["segmentsDimTrain"] == "model config"
    assert words.elsewhere["batchsize"] == "test config"
    assert "numberOfEpochs" not in words.elsewhere
