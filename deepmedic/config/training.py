"""The training config: one dataclass per group of keys, `TrainConfig` for the file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deepmedic.config.options import option, section
from deepmedic.config.sections import DataConfig, ExecutionConfig, OutputConfig, PreprocessingConfig


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """From which voxels the centres of segments are drawn."""

    kind: int = option("typeOfSampling", 3, choices=(0, 1, 2, 3))
    """0 foreground/background, 1 uniform in the ROI, 2 whole image, 3 per class."""
    proportions: tuple[float, ...] | None = option("proportionOfSamplesToExtractPerCategory", None)
    """One per category, foreground first for kind 0; None: equal."""


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How the learning rate changes over the epochs."""

    kind: Literal["stable", "predef", "poly", "auto", "expon"] = option("typeOfLearningRateSchedule", "poly")
    divide_by: float = option("whenDecreasingDivideLrBy", 2.0, above=0)
    epochs_to_wait: float | None = option("numEpochsToWaitBeforeLoweringLr", None, minimum=0)
    """None: 5 for auto, a third of the epochs for poly and expon."""
    minimum_increase: float = option("min_incr_of_val_acc_considered", 0.0)
    predefined_epochs: tuple[int, ...] | None = option("predefinedSchedule", None)
    exponential_target: tuple[float, float] | None = option("paramsForExpSchedForLrAndMom", None)
    """[learning rate, momentum] at the last epoch; None: initial rate / 2^8 and 0.9."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Optimiser and regularisation."""

    kind: int = option("sgd0orAdam1orRms2", 2, choices=(0, 1, 2))
    learning_rate: float = option("learningRate", 0.001, above=0)
    nesterov: int = option("classicMom0OrNesterov1", 1, choices=(0, 1))
    momentum: float = option("momentumValue", 0.6, minimum=0, maximum=1)
    normalized_momentum: int = option("momNonNorm0orNormalized1", 1, choices=(0, 1))
    adam_beta1: float = option("b1Adam", 0.9)
    adam_beta2: float = option("b2Adam", 0.999)
    adam_epsilon: float = option("epsilonAdam", 1e-8)
    rms_rho: float = option("rhoRms", 0.9)
    rms_epsilon: float = option("epsilonRms", 1e-4)
    l1: float = option("L1_reg", 1e-6, minimum=0)
    l2: float = option("L2_reg", 1e-4, minimum=0)


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weights of the terms of the training cost; None: the term is not computed."""

    cross_entropy: float | None = 1.0
    iou: float | None = None
    dice: float | None = None


@dataclass(frozen=True, kw_only=True)
class ClassReweighting:
    """Class weights in cross entropy, annealed linearly to 1 between the two epochs of `schedule`."""

    kind: Literal["freq", "per_c"] | None = None
    weights: tuple[float, ...] | None = None
    schedule: tuple[float, float] | None = None
    """None: from epoch 0 to the last epoch."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The training cost."""

    weights: LossWeights = option("losses_and_weights", LossWeights())
    reweighting: ClassReweighting = option("reweight_classes_in_cost", ClassReweighting())


@dataclass(frozen=True, kw_only=True)
class FreezeConfig:
    """Layers whose parameters stay as they are; numbered from 1."""

    normal: tuple[int, ...] = option("layersToFreezeNormal", ())
    subsampled: tuple[tuple[int, ...], ...] | tuple[int, ...] | None = option("layersToFreezeSubsampled", None)
    """One list for all low-resolution pathways or one per pathway; None: as the normal pathway."""
    fc: tuple[int, ...] = option("layersToFreezeFC", ())
    batch_norm: Literal["frozen", "moving"] = option("batchNormOfFrozenLayers", "frozen")


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """Mean and standard deviation of a normal distribution."""

    mean: float
    std: float


@dataclass(frozen=True, kw_only=True)
class SegmentAugmentation:
    """Augmentation of segments; everything None or zero: off."""

    shift: Gaussian | None = None
    scale: Gaussian | None = None
    reflect: tuple[float, float, float] | None = None
    """Probability to flip along x, y, z."""
    rotate90: dict[str, tuple[float, float, float, float]] | None = None
    """Plane "xy", "yz", "xz" -> probabilities of 0, 90, 180, 270 degrees (normalised to sum 1; all zero: off)."""


@dataclass(frozen=True, kw_only=True)
class AffineAugmentation:
    """Random rotation and scaling of a whole case, before segments are cut."""

    probability: float = 0.0
    max_rotation: tuple[float, float, float] = (45.0, 45.0, 45.0)
    """Degrees, in the planes of array axes (0, 1), (0, 2), (1, 2)."""
    max_scaling: float = 0.1
    seed: int | None = None
    order_images: int = 1
    order_labels: int = 0
    order_roi: int = 0
    order_weight_maps: int = 1
    boundary_mode: str = "nearest"
    constant: float = 0.0


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """What is changed at random in training data."""

    image: AffineAugmentation | None = option("augm_img_prms_tr", None)
    segment: SegmentAugmentation | None = option("augm_sample_prms_tr", None)


_TRAINING_DATA = {
    "table": "dataframe_train",
    "channels": "channelsTraining",
    "labels": "gtLabelsTraining",
    "roi_masks": "roiMasksTraining",
    "names": None,
    "weight_maps": "weightedMapsForSamplingEachCategoryTrain",
}
_VALIDATION_DATA = {
    "table": "dataframe_val",
    "channels": "channelsValidation",
    "labels": "gtLabelsValidation",
    "roi_masks": "roiMasksValidation",
    "names": "namesForPredictionsPerCaseVal",
    "weight_maps": "weightedMapsForSamplingEachCategoryVal",
}
_VALIDATION_OUTPUT = {
    "save_segmentation": "saveSegmentationVal",
    "save_probability_maps": "saveProbMapsForEachClassVal",
    "suffixes": "suffixForSegmAndProbsDictVal",
    "save_feature_maps": "saveIndividualFmsVal",
    "feature_maps_normal": "minMaxIndicesOfFmsToSaveFromEachLayerOfNormalPathwayVal",
    "feature_maps_subsampled": "minMaxIndicesOfFmsToSaveFromEachLayerOfSubsampledPathwayVal",
    "feature_maps_fc": "minMaxIndicesOfFmsToSaveFromEachLayerOfFullyConnectedPathwayVal",
}
_TRAINING_SAMPLING: dict[str, str | None] = {
    "kind": "typeOfSamplingForTraining",
    "proportions": "proportionOfSamplesToExtractPerCategoryTraining",
}
_VALIDATION_SAMPLING: dict[str, str | None] = {
    "kind": "typeOfSamplingForVal",
    "proportions": "proportionOfSamplesToExtractPerCategoryVal",
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training session."""

    session_name: str = option("sessionName", "trainSession")
    folder_for_output: Path = option("folderForOutput")
    model_path: Path | None = option("cnnModelFilePath", None)
    tensorboard_log: bool = option("tensorboard_log", False)

    data: DataConfig = section(DataConfig, _TRAINING_DATA)
    sampling: SamplingConfig = section(SamplingConfig, _TRAINING_SAMPLING)
    epochs: int = option("numberOfEpochs", 35, minimum=1)
    subepochs: int = option("numberOfSubepochs", 20, minimum=1)
    cases_per_subepoch: int = option("numOfCasesLoadedPerSubepoch", 50, minimum=1)
    segments_per_subepoch: int = option("numberTrainingSegmentsLoadedOnGpuPerSubep", 1000, minimum=1)
    batch_size: int = option("batchsize_train", minimum=1)
    sampling_processes: int = option("num_processes_sampling", 0, minimum=-1)

    schedule: ScheduleConfig = section(ScheduleConfig)
    optimizer: OptimizerConfig = section(OptimizerConfig)
    loss: LossConfig = section(LossConfig)
    freezing: FreezeConfig = section(FreezeConfig)
    augmentation: AugmentationConfig = section(AugmentationConfig)

    validate_on_samples: bool = option("performValidationOnSamplesThroughoutTraining", False)
    validate_on_volumes: bool = option("performFullInferenceOnValidationImagesEveryFewEpochs", False)
    validation_data: DataConfig = section(DataConfig, _VALIDATION_DATA)
    validation_sampling: SamplingConfig = section(lambda: SamplingConfig(kind=1), _VALIDATION_SAMPLING)
    validation_segments: int = option("numberValidationSegmentsLoadedOnGpuPerSubep", 3000, minimum=1)
    validation_batch_size: int = option("batchsize_val_samples", 50, minimum=1)
    epochs_between_volume_validation: int = option("numberOfEpochsBetweenFullInferenceOnValImages", 1, minimum=1)
    volume_batch_size: int = option("batchsize_val_whole", 10, minimum=1)
    validation_output: OutputConfig = section(OutputConfig, _VALIDATION_OUTPUT)

    preprocessing: PreprocessingConfig = section(PreprocessingConfig)
    execution: ExecutionConfig = section(ExecutionConfig)
    keep_last_checkpoints: int = option("keepLastCheckpoints", 3, minimum=1)
    strict_splits: bool = option("strictSplits", False)
    """Refuse (exit 4) a training image that is also used for validation, instead of warning."""
