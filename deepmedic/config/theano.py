"""The Theano version: which files are written for it, and its defaults and meanings for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from deepmedic.config.augmentation import Gaussian, SegmentAugmentation
from deepmedic.config.older_keys import OlderTrainKeys
from deepmedic.config.optimisation import ScheduleConfig
from deepmedic.config.source import ConfigFile, Refusals, line_of, listed
from deepmedic.config.training import SamplingConfig, TrainConfig

_SCHEDULES: Mapping[int, str] = {0: "stable", 1: "auto", 2: "predef", 3: "expon"}

# Version 0.8 knows these too, so that they tell the version only in a file without a key that is new in it.
_IN_BOTH_VERSIONS = frozenset(
    {
        "reflectImagesPerAxis",
        "performIntAugm",
        "sampleIntAugmShiftWithMuAndStd",
        "sampleIntAugmMultiWithMuAndStd",
        "saveAllFmsIn4DimImage",
        "saveAllFmsIn4DimImageVal",
    }
)
_ONLY_IN_THEANO = frozenset(
    {
        "kernelDimFor1stFcLayer",
        "batchSizeTrain",
        "batchSizeVal",
        "batchSizeInfer",
        "useDefaultTrainingSamplingFromGtAndRoi",
        "useDefaultUniformValidationSampling",
        "stable0orAuto1orPredefined2orExponential3LrSchedule",
        "minIncreaseInValidationAccuracyThatResetsWaiting",
        "exponentialSchedForLrAndMom",
    }
)
_NEW_IN_TENSORFLOW = frozenset(
    {
        "tensorboard_log",
        "dataframe_train",
        "dataframe_val",
        "batchsize_train",
        "batchsize_val_samples",
        "batchsize_val_whole",
        "num_processes_sampling",
        "typeOfLearningRateSchedule",
        "min_incr_of_val_acc_considered",
        "paramsForExpSchedForLrAndMom",
        "augm_img_prms_tr",
        "augm_sample_prms_tr",
        "suffixForSegmAndProbsDictVal",
        "losses_and_weights",
        "reweight_classes_in_cost",
        "run_input_checks",
        "norm_verbosity_lvl",
        "norm_zscore_prms",
    }
)


def theano_keys(file: ConfigFile) -> tuple[str, ...]:
    """Return the keys of a file that show it to be of the Theano version; empty for all other files."""
    given = {key for key, value in file.values.items() if value is not None}
    certain = given & _ONLY_IN_THEANO
    if not certain and (given & _NEW_IN_TENSORFLOW or not given & (_IN_BOTH_VERSIONS - {"saveAllFmsIn4DimImage"})):
        return ()
    return tuple(key for key in file.values if key in certain | (given & _IN_BOTH_VERSIONS))


def theano_notice(file: ConfigFile, keys: tuple[str, ...]) -> str:
    """Return the notice that a file is read with the Theano version's defaults and meanings."""
    places = [f"{key} (line {line_of((key,), file.lines)})" for key in keys]
    return f"{file.path}: has keys of the Theano version, whose defaults and meanings apply: {listed(places)}"


def refuse_4d_feature_maps(asked: bool, key: str, instead: str, refusals: Refusals) -> None:
    """Refuse the one file with all feature maps that the Theano version could write."""
    if asked:
        refusals.refuse(
            key, f"found true; allowed: false, because feature maps are saved one file each; set {instead} instead"
        )


class OlderTrainSettings:
    """Applies the keys of earlier versions to a train config."""

    def __init__(self, older: OlderTrainKeys, given: frozenset[str], theano: bool, refusals: Refusals) -> None:
        self._older = older
        self._given = given
        self._theano = theano
        self._refusals = refusals
        self.notes: list[str] = []

    def apply(self, config: TrainConfig) -> TrainConfig:
        """Return the config with what the older keys mean in today's ones."""
        refuse_4d_feature_maps(
            self._older.feature_maps_4d, "saveAllFmsIn4DimImageVal", "saveIndividualFmsVal", self._refusals
        )
        segment = self._augmentation(config.augmentation.segment)
        config = replace(config, augmentation=replace(config.augmentation, segment=segment))
        if not self._theano:
            return config
        config = self._sampling(config)
        return replace(config, schedule=self._schedule(config))

    def _augmentation(self, segment: SegmentAugmentation | None) -> SegmentAugmentation | None:
        older = self._older
        settings = segment or SegmentAugmentation()
        if older.reflect is not None:
            x, y, z = (0.5 if axis else 0.0 for axis in older.reflect)
            settings = replace(settings, reflect=(x, y, z))
        if older.change_intensities:
            shift = self._gaussian("sampleIntAugmShiftWithMuAndStd", older.shift or (0.0, 0.1))
            scale = self._gaussian("sampleIntAugmMultiWithMuAndStd", older.scale or (1.0, 0.0))
            settings = replace(settings, shift=shift, scale=scale)
        return segment if settings == SegmentAugmentation() else settings

    def _gaussian(self, key: str, numbers: tuple[float, float]) -> Gaussian:
        mean, std = numbers
        if std < 0:
            self._refusals.refuse((key, 1), f"found {std:g}; allowed: a standard deviation of at least 0")
        return Gaussian(mean=mean, std=std)

    def _sampling(self, config: TrainConfig) -> TrainConfig:
        if self._older.default_sampling is not False:
            self._note_ignored(
                "useDefaultTrainingSamplingFromGtAndRoi",
                "typeOfSamplingForTraining",
                "proportionOfSamplesToExtractPerCategoryTraining",
                "weightedMapsForSamplingEachCategoryTrain",
            )
            config = replace(config, sampling=SamplingConfig(kind=0), data=replace(config.data, weight_maps=None))
        elif "typeOfSamplingForTraining" not in self._given:
            config = replace(config, sampling=replace(config.sampling, kind=0))
        if self._older.default_validation_sampling is not False:
            self._note_ignored(
                "useDefaultUniformValidationSampling",
                "typeOfSamplingForVal",
                "proportionOfSamplesToExtractPerCategoryVal",
                "weightedMapsForSamplingEachCategoryVal",
            )
            data = replace(config.validation_data, weight_maps=None)
            config = replace(config, validation_sampling=SamplingConfig(kind=1), validation_data=data)
        return config

    def _note_ignored(self, switch: str, *keys: str) -> None:
        ignored = [key for key in keys if key in self._given]
        if ignored:
            state = "is on" if switch in self._given else "is on by default in files of the Theano version"
            self.notes.append(f"{listed(ignored)} not used, because {switch} {state}")

    def _schedule(self, config: TrainConfig) -> ScheduleConfig:
        schedule = self._renamed(config.schedule)
        if schedule.kind == "stable":
            return self._stable(schedule)
        if schedule.kind == "expon":
            return self._exponential(schedule, config.epochs)
        if schedule.kind == "auto" and schedule.epochs_to_wait == 0:
            self.notes.append("numEpochsToWaitBeforeLoweringLr = 0: the learning rate stays the same")
            return replace(schedule, kind="stable")
        return schedule

    def _renamed(self, schedule: ScheduleConfig) -> ScheduleConfig:
        older = self._older
        self._refuse_both("stable0orAuto1orPredefined2orExponential3LrSchedule", "typeOfLearningRateSchedule")
        self._refuse_both("minIncreaseInValidationAccuracyThatResetsWaiting", "min_incr_of_val_acc_considered")
        self._refuse_both("exponentialSchedForLrAndMom", "paramsForExpSchedForLrAndMom")
        increase = older.minimum_increase
        if increase is None:
            increase = schedule.minimum_increase if "min_incr_of_val_acc_considered" in self._given else 0.0005
        number = 3 if older.schedule is None else older.schedule
        kind = schedule.kind if "typeOfLearningRateSchedule" in self._given else _SCHEDULES[number]
        wait = 3.0 if schedule.epochs_to_wait is None else schedule.epochs_to_wait
        return replace(schedule, kind=kind, epochs_to_wait=wait, minimum_increase=increase, theano=True)  # type: ignore[arg-type]

    def _refuse_both(self, older: str, newer: str) -> None:
        if older in self._given and newer in self._given:
            self._refusals.refuse(older, f"stands together with {newer}, which replaced it; keep one of them")

    def _stable(self, schedule: ScheduleConfig) -> ScheduleConfig:
        wait = schedule.epochs_to_wait or 0.0
        if wait != int(wait):
            self._refusals.refuse(
                "numEpochsToWaitBeforeLoweringLr",
                f"found {wait:g}; allowed: a whole number for the Theano version's schedule 0",
            )
        return replace(schedule, stable_interval=int(wait) or None)

    def _exponential(self, schedule: ScheduleConfig, epochs: int) -> ScheduleConfig:
        factor, momentum = schedule.exponential_target or (1 / 2**8, 0.9)
        start = epochs / 2
        if self._older.exponential is not None:
            start, factor, momentum = self._older.exponential
        if factor <= 0:
            self._refusals.refuse(("exponentialSchedForLrAndMom", 1), f"found {factor:g}; allowed: a factor above 0")
        if momentum > 1:
            self._refusals.refuse(("exponentialSchedForLrAndMom", 2), f"found {momentum:g}; allowed: from 0 to 1")
        if start >= epochs:
            self.notes.append(
                f"exponentialSchedForLrAndMom begins at epoch {start:g} of {epochs}: the learning rate stays the same"
            )
            return replace(schedule, kind="stable", epochs_to_wait=None)
        return replace(schedule, epochs_to_wait=start, exponential_target=(factor, momentum))
