"""Configs with the keys of both versions of the original, and its command lines, from checking to segmenting."""

from __future__ import annotations

import pytest

THEANO_MODEL = '''\
"""a model of the Theano version"""
modelName = "net"
folderForOutput = "./out"
numberOfOutputClasses = 3
numberOfInputChannels = 2
numberFMsPerLayerNormal = [3] * 2
kernelDimPerLayerNormal = [[3,3,3], [3,3,3]]
layersWithResidualConnNormal = []
lowerRankLayersNormal = []
useSubsampledPathway = True
numberFMsPerLayerSubsampled = [3, 4]
kernelDimPerLayerSubsampled = [[3,3,3], [3,3,3]]
subsampleFactor = [3,3,3]
numberFMsPerLayerFC = [5]
kernelDimFor1stFcLayer = [3,3,3]
segmentsDimTrain = [9,9,9]
segmentsDimVal = [7,7,7]
segmentsDimInference = [13,13,13]
batchSizeTrain = 4
batchSizeVal = 4
batchSizeInfer = 3
dropoutRatesNormal = []
dropoutRatesFc = [0.0, 0.5]
convWeightsInit = ["fanIn", 2]
activationFunction = "prelu"
rollAverageForBNOverThatManyBatches = 10
'''
THEANO_TRAIN = """\
sessionName = "first"
folderForOutput = "./out"
cnnModelFilePath = "./out/placeholder"
channelsTraining = ["./lists/train_t1.cfg", "./lists/train_t2.cfg"]
gtLabelsTraining = "./lists/train_labels.cfg"
roiMasksTraining = "./lists/train_roi.cfg"
useDefaultTrainingSamplingFromGtAndRoi = True
numberOfEpochs = 2
numberOfSubepochs = 1
numOfCasesLoadedPerSubepoch = 50
numberTrainingSegmentsLoadedOnGpuPerSubep = 8
stable0orAuto1orPredefined2orExponential3LrSchedule = 3
whenDecreasingDivideLrBy = 2.0
exponentialSchedForLrAndMom = [0, 1.0/(2**(7)), 0.9]
reflectImagesPerAxis = [True,False,False]
performIntAugm = False
learningRate = 0.001
sgd0orAdam1orRms2 = 2
momentumValue = 0.6
rhoRms = 0.9
epsilonRms = 10**(-4)
layersToFreezeNormal = []
layersToFreezeFC = []
performValidationOnSamplesThroughoutTraining = True
performFullInferenceOnValidationImagesEveryFewEpochs = True
channelsValidation = ["./lists/val_t1.cfg", "./lists/val_t2.cfg"]
gtLabelsValidation = "./lists/val_labels.cfg"
roiMasksValidation = "./lists/val_roi.cfg"
numberValidationSegmentsLoadedOnGpuPerSubep = 8
useDefaultUniformValidationSampling = True
numberOfEpochsBetweenFullInferenceOnValImages = 1
saveSegmentationVal = True
saveProbMapsForEachClassVal = [True, True, True]
namesForPredictionsPerCaseVal = "./lists/val_names.cfg"
padInputImagesBool = True
"""
THEANO_TEST = """\
sessionName = "segment"
folderForOutput = "./out"
cnnModelFilePath = "./out/placeholder"
channels = ["./lists/val_t1.cfg", "./lists/val_t2.cfg"]
gtLabels = "./lists/val_labels.cfg"
roiMasks = "./lists/val_roi.cfg"
namesForPredictionsPerCase = "./lists/val_names.cfg"
saveSegmentation = True
saveProbMapsForEachClass = [True, True, False]
saveIndividualFms = False
padInputImagesBool = True
"""
TENSORFLOW_MODEL = """\
modelName = 'net'
folderForOutput = './out'
numberOfOutputClasses = 3
numberOfInputChannels = 2
numberFMsPerLayerNormal = [3, 4]
kernelDimPerLayerNormal = [[3,3,3], [3,3,3]]
useSubsampledPathway = True
numberFMsPerLayerSubsampled = [[3, 4], [2, 2]]
subsampleFactor = [[3,3,3], [5,5,5]]
numberFMsPerLayerFC = [5]
kernelDimPerLayerFC = [[3,3,3], [1,1,1]]
padTypePerLayerFC = ['MIRROR', None]
segmentsDimTrain = [9,9,9]
dropoutRatesFc = [0., 0.5]
"""
TENSORFLOW_TRAIN = """\
sessionName = "first"
folderForOutput = "./out"
channelsTraining = ["./lists/train_t1.cfg", "./lists/train_t2.cfg"]
gtLabelsTraining = "./lists/train_labels.cfg"
roiMasksTraining = "./lists/train_roi.cfg"
typeOfSamplingForTraining = 3
proportionOfSamplesToExtractPerCategoryTraining = None
numberOfEpochs = 2
numberOfSubepochs = 1
numberTrainingSegmentsLoadedOnGpuPerSubep = 8
batchsize_train = 4
num_processes_sampling = 0
typeOfLearningRateSchedule = 'predef'
whenDecreasingDivideLrBy = 2.0
predefinedSchedule = [1]
augm_img_prms_tr = {'affine': {'prob': 0.5, 'max_rot_xyz': (45., 45., 45.), 'max_scaling': 0.1,
                               'interp_order_imgs': 1}}
augm_sample_prms_tr = {'hist_dist': {'shift': {'mu': 0., 'std': 0.05}, 'scale': {'mu': 1., 'std': 0.01}},
                       'reflect':   (0.5, 0., 0.),
                       'rotate90':  {'xy': {'0': 0.8, '90': 0.1, '180': 0., '270': 0.1}}}
epsilonRms = 10**(-4)
losses_and_weights = {"xentr": 1.0, "iou": None, "dsc": None}
performValidationOnSamplesThroughoutTraining = True
performFullInferenceOnValidationImagesEveryFewEpochs = True
channelsValidation = ["./lists/val_t1.cfg", "./lists/val_t2.cfg"]
gtLabelsValidation = "./lists/val_labels.cfg"
roiMasksValidation = "./lists/val_roi.cfg"
namesForPredictionsPerCaseVal = "./lists/val_names.cfg"
numberValidationSegmentsLoadedOnGpuPerSubep = 8
batchsize_val_samples = 8
numberOfEpochsBetweenFullInferenceOnValImages = 1
batchsize_val_whole = 10
norm_zscore_prms = {'apply_to_all_channels': True,
                    'apply_per_channel': None,
                    'cutoff_percents': [5., 95.],
                    'cutoff_times_std': [3., 3.],
                    'cutoff_below_mean': False}
"""
TENSORFLOW_TEST = """\
sessionName = "segment"
folderForOutput = "./out"
channels = ["./lists/val_t1.cfg", "./lists/val_t2.cfg"]
roiMasks = "./lists/val_roi.cfg"
gtLabels = "./lists/val_labels.cfg"
namesForPredictionsPerCase = "./lists/val_names.cfg"
batchsize = 10
saveProbMapsForEachClass = [True, True, False]
norm_zscore_prms = {'apply_to_all_channels': True, 'apply_per_channel': None, 'cutoff_percents': [5., 95.],
                    'cutoff_times_std': [3., 3.], 'cutoff_below_mean': False}
"""


@pytest.fixture(params=["Theano", "TensorFlow"])
def commands(study, request):
    """Command lines of one version for training, and for segmenting with the model."""
    theano = request.param == "Theano"
    texts = (
        (THEANO_MODEL, THEANO_TRAIN, THEANO_TEST) if theano else (TENSORFLOW_MODEL, TENSORFLOW_TRAIN, TENSORFLOW_TEST)
    )
    model, train, test = (study.folder / f"{name}.cfg" for name in ("model", "train", "test"))
    for path, text in zip((model, train, test), texts, strict=True):
        path.write_text(text)
    if theano:
        return ["-newModel", model, "-train", train], ["-test", test, "-model", study.newest()]
    return ["-model", model, "-train", train], ["-model", model, "-test", test, "-load", study.newest()]


def test_check_passes(study, run, commands):
    outcome = run(*commands[0], "-check")
    assert outcome.code == 0
    assert outcome.out.startswith("OK\n")
    assert not study.out.exists()


def test_training_and_segmenting(study, run, commands):
    train, test = commands
    assert run(*train).code == 0
    assert "is finished" in run(*train).out
    outcome = run(*test, "-check")
    assert (outcome.code, "tiling: segments" in outcome.out) == (0, True)
    assert run(*test).code == 0
    names = {path.name for path in (study.out / "predictions" / "segment" / "predictions").glob("*.nii.gz")}
    assert names == {"case2_Segm.nii.gz", "case2_ProbMapClass0.nii.gz", "case2_ProbMapClass1.nii.gz"}
