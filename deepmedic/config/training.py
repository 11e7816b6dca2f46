"""The training config: one dataclass per group of keys, `TrainConfig` for the file."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from deepmedic.config.augmentation import (
    AffineAugmentation,
    AugmentationConfig,
    Gaussian,
    SegmentAugmentation,
)
from deepmedic.config.optimisation import (
    ClassReweighting,
    FreezeConfig,
    LossConfig,
    LossWeights,
    OptimizerConfig,
    ScheduleConfig,
)
from deepmedic.config.options import option, section
from deepmedic.config.phases import PhaseConfig, RecipeConfig
from deepmedic.config.rate_search import RateSearchConfig
from deepmedic.config.refinements import EarlyStoppingConfig, RefinementConfig
from deepmedic.config.sections import REPORT_DOC, DataConfig, ExecutionConfig, OutputConfig, PreprocessingConfig
from deepmedic.config.source import ConfigSource
from deepmedic.config.source_task import SourceTaskConfig

__all__ = [
    "AffineAugmentation",
    "AugmentationConfig",
    "ClassReweighting",
    "EarlyStoppingConfig",
    "FreezeConfig",
    "Gaussian",
    "LossConfig",
    "LossWeights",
    "OptimizerConfig",
    "PhaseConfig",
    "RateSearchConfig",
    "RecipeConfig",
    "RefinementConfig",
    "SamplingConfig",
    "ScheduleConfig",
    "SegmentAugmentation",
    "SourceTaskConfig",
    "TrainConfig",
]


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """From which voxels the centres of segments are drawn."""

    kind: int = option(
        "typeOfSampling",
        3,
        choices=(0, 1, 2, 3),
        doc="From where the centres of segments are drawn: 0 foreground and background in given proportions, 1 "
        "uniformly in the ROI, 2 the same as 1, 3 each class in given proportions.",
    )
    proportions: tuple[float, ...] | None = option(
        "proportionOfSamplesToExtractPerCategory",
        None,
        minimum=0,
        nonempty=True,
        default_text="equal",
        doc="Shares of the segments per category: for type 0 [foreground, background], for type 3 one per class from "
        "the background. They are scaled to sum 1; types 1 and 2 do not use them.",
    )

    def categories(self, classes: int) -> int:
        """Return the number of categories among which segments are distributed."""
        return {0: 2, 1: 1, 2: 1, 3: classes}[self.kind]


_TRAINING_DATA: dict[str, str | None] = {
    "table": "dataframe_train",
    "channels": "channelsTraining",
    "labels": "gtLabelsTraining",
    "roi_masks": "roiMasksTraining",
    "names": None,
    "weight_maps": "weightedMapsForSamplingEachCategoryTrain",
    "subjects": "subjectsTraining",
}
_VALIDATION_DATA: dict[str, str | None] = {
    "table": "dataframe_val",
    "channels": "channelsValidation",
    "labels": "gtLabelsValidation",
    "roi_masks": "roiMasksValidation",
    "names": "namesForPredictionsPerCaseVal",
    "weight_maps": "weightedMapsForSamplingEachCategoryVal",
    "subjects": None,
}
_VALIDATION_OUTPUT: dict[str, str | None] = {
    "save_segmentation": "saveSegmentationVal",
    "save_probability_maps": "saveProbMapsForEachClassVal",
    "suffixes": "suffixForSegmAndProbsDictVal",
    "layout": None,
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

    session_name: str = option(
        "sessionName", "trainSession", nonempty=True, doc="Name of the session; its logs and checkpoints carry it."
    )
    folder_for_output: Path = option(
        "folderForOutput",
        doc="Folder below which logs, checkpoints and predictions are written; it is made when it does not exist.",
    )
    model_path: Path | None = option(
        "cnnModelFilePath",
        None,
        default_text="given on the command line",
        doc="The model to start from: a .save file, a folder with checkpoints, or the prefix of a TensorFlow "
        "checkpoint ending in .model.ckpt. A model named on the command line takes precedence.",
    )
    tensorboard_log: bool = option(
        "tensorboard_log", False, doc="Whether metrics are also written as TensorBoard events (needs that package)."
    )

    data: DataConfig = section(DataConfig, _TRAINING_DATA)
    sampling: SamplingConfig = section(SamplingConfig, _TRAINING_SAMPLING)
    epochs: int = option(
        "numberOfEpochs", 35, minimum=1, doc="Epochs of the training; after each a checkpoint is written."
    )
    subepochs: int = option(
        "numberOfSubepochs", 20, minimum=1, doc="Sub-epochs per epoch; each draws new segments and reports metrics."
    )
    cases_per_subepoch: int = option(
        "numOfCasesLoadedPerSubepoch", 50, minimum=1, doc="Most cases that the segments of one sub-epoch come from."
    )
    segments_per_subepoch: int = option(
        "numberTrainingSegmentsLoadedOnGpuPerSubep",
        1000,
        minimum=1,
        doc="Segments drawn per sub-epoch. Divided by batchsize_train it gives the training steps; a rest is dropped.",
    )
    batch_size: int = option(
        "batchsize_train",
        minimum=1,
        doc="Segments per training step. With a model config of the Theano version its batchSizeTrain is the default.",
    )
    sampling_processes: int | None = option(
        "num_processes_sampling",
        None,
        minimum=-1,
        default_text="one per processor core, at most 4",
        doc="Workers that read and prepare the cases of the next sub-epoch while the present one trains: -1 none, each "
        "case is read when it is needed; 0 one; n that many. They are threads, and have no effect on which samples are "
        "drawn. In the original the default was 0.",
    )

    schedule: ScheduleConfig = section(ScheduleConfig)
    optimizer: OptimizerConfig = section(OptimizerConfig)
    refinements: RefinementConfig = section(RefinementConfig)
    early_stopping: EarlyStoppingConfig = section(EarlyStoppingConfig)
    loss: LossConfig = section(LossConfig)
    freezing: FreezeConfig = section(FreezeConfig)
    augmentation: AugmentationConfig = section(AugmentationConfig)
    recipe: RecipeConfig = section(RecipeConfig)
    phases: tuple[PhaseConfig, ...] = option(
        "phase",
        (),
        origin="new",
        default_text="one phase, as the other keys say",
        doc="[[phase]] tables at the end of the file, one for each phase of the training, in their order. A table has "
        "the keys below, and any key of the schedule, the optimiser, frozen layers, early stopping and refinements "
        "(but scaleLearningRateWithBatch and weightAveraging); those it leaves out are as in the file itself.",
    )

    validate_on_samples: bool = option(
        "performValidationOnSamplesThroughoutTraining",
        False,
        doc="Whether each sub-epoch also scores segments of the validation cases; the schedule auto needs it.",
    )
    validate_on_volumes: bool = option(
        "performFullInferenceOnValidationImagesEveryFewEpochs",
        False,
        doc="Whether the validation cases are segmented as a whole every few epochs, which also chooses the best "
        "checkpoint.",
    )
    validation_data: DataConfig = section(DataConfig, _VALIDATION_DATA)
    validation_sampling: SamplingConfig = section(lambda: SamplingConfig(kind=1), _VALIDATION_SAMPLING)
    validation_segments: int = option(
        "numberValidationSegmentsLoadedOnGpuPerSubep",
        3000,
        minimum=1,
        doc="Segments drawn from the validation cases per sub-epoch.",
    )
    validation_batch_size: int = option(
        "batchsize_val_samples",
        50,
        minimum=1,
        doc="Segments at once in the validation on samples. On a CPU several such batches are computed together, where "
        "they have no more voxels than a training batch.",
    )
    epochs_between_volume_validation: int = option(
        "numberOfEpochsBetweenFullInferenceOnValImages",
        1,
        minimum=1,
        doc="Every how many epochs the validation cases are segmented as a whole.",
    )
    volume_batch_size: int = option(
        "batchsize_val_whole", 10, minimum=1, doc="Tiles at once in the segmentation of whole validation cases."
    )
    validation_output: OutputConfig = section(OutputConfig, _VALIDATION_OUTPUT)

    source_task: SourceTaskConfig | None = option(
        "sourceTask",
        None,
        origin="new",
        default_text="off",
        doc="A guard against forgetting: validation cases of the task that the model knew before, which are segmented "
        "as a whole and scored before and during the training of another task.",
    )
    rate_search: RateSearchConfig | None = option(
        "findLr",
        None,
        origin="new",
        default_text="the defaults of its sub-keys",
        doc="How -findLr looks for a learning rate; a training does not use it.",
    )
    report: bool = option("report", True, origin="new", doc=REPORT_DOC)
    preprocessing: PreprocessingConfig = section(PreprocessingConfig)
    execution: ExecutionConfig = section(ExecutionConfig)
    keep_last_checkpoints: int = option(
        "keepLastCheckpoints",
        3,
        minimum=1,
        origin="new",
        doc="How many of the newest checkpoints are kept, besides the best and the final one.",
    )
    strict_splits: bool = option(
        "strictSplits",
        False,
        origin="new",
        doc="Whether an image that is used both for training and for validation is refused instead of only named in a "
        "warning.",
    )
    cross_validation_model: Literal["final", "best"] = option(
        "crossValidationModel",
        "final",
        origin="new",
        doc="Which model of each fold of -crossValidate is scored on the held-out cases. The best one was chosen by "
        "its score on these very cases, so its table promises more than new cases will give.",
    )
    source: ConfigSource = field(default_factory=ConfigSource, compare=False)

    @property
    def total_epochs(self) -> int:
        """Epochs of all phases together, if none ends early."""
        return sum(phase.epochs for phase in self.phases) if self.phases else self.epochs

    def in_phase(self, index: int) -> TrainConfig:
        """Return the config that a phase (from 0) is trained with; the config itself where there are no phases."""
        if not self.phases:
            return self
        phase = self.phases[index]
        return replace(
            self,
            epochs=phase.epochs,
            schedule=phase.schedule,
            optimizer=phase.optimizer,
            refinements=phase.refinements,
            early_stopping=phase.early_stopping,
            freezing=phase.freezing,
            phases=(),
        )
