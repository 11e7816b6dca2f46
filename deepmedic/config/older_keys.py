"""Keys that version 0.8 renamed or dropped, most of them of the Theano version."""

from __future__ import annotations

from dataclasses import dataclass

from deepmedic.config.options import option


@dataclass(frozen=True, kw_only=True)
class OlderTrainKeys:
    """Keys of a train config that version 0.8 renamed or dropped; None: not given."""

    default_sampling: bool | None = option(
        "useDefaultTrainingSamplingFromGtAndRoi",
        None,
        origin="theano",
        default_text="true in files of the Theano version",
        doc="True draws half of the training segments from the foreground and half from the background, and ignores "
        "the other keys of training sampling; false uses those. Today: typeOfSamplingForTraining = 0.",
    )
    default_validation_sampling: bool | None = option(
        "useDefaultUniformValidationSampling",
        None,
        origin="theano",
        default_text="true in files of the Theano version",
        doc="True draws validation segments uniformly and ignores the other keys of validation sampling; false uses "
        "those. Today: typeOfSamplingForVal = 1.",
    )
    schedule: int | None = option(
        "stable0orAuto1orPredefined2orExponential3LrSchedule",
        None,
        choices=(0, 1, 2, 3),
        origin="theano",
        default_text="3 in files of the Theano version",
        doc="The schedule of the learning rate as a number: 0 divides it every numEpochsToWaitBeforeLoweringLr epochs "
        '(0: never), 1 is "auto", 2 "predef", 3 "expon" as exponentialSchedForLrAndMom says. Today: '
        "typeOfLearningRateSchedule.",
    )
    minimum_increase: float | None = option(
        "minIncreaseInValidationAccuracyThatResetsWaiting",
        None,
        minimum=0,
        maximum=1,
        origin="theano",
        default_text="0.0005 in files of the Theano version",
        doc="The Theano version's name of min_incr_of_val_acc_considered.",
    )
    exponential: tuple[float, float, float] | None = option(
        "exponentialSchedForLrAndMom",
        None,
        minimum=0,
        origin="theano",
        default_text="[numberOfEpochs / 2, 1 / 2^8, 0.9] in files of the Theano version",
        doc="Exponential schedule: [first epoch, factor of the initial learning rate at the last epoch, momentum at "
        "the last epoch]. Today: numEpochsToWaitBeforeLoweringLr and paramsForExpSchedForLrAndMom.",
    )
    reflect: tuple[bool, bool, bool] | None = option(
        "reflectImagesPerAxis",
        None,
        origin="theano",
        doc="Whether segments are flipped along x, y and z with probability 0.5. Today: reflect in "
        "augm_sample_prms_tr.",
    )
    change_intensities: bool | None = option(
        "performIntAugm",
        None,
        origin="theano",
        doc="Whether intensities are changed as the next two keys say. Today: hist_dist in augm_sample_prms_tr.",
    )
    shift: tuple[float, float] | None = option(
        "sampleIntAugmShiftWithMuAndStd",
        None,
        origin="theano",
        default_text="[0.0, 0.1]",
        doc="Mean and standard deviation of the number added to intensities.",
    )
    scale: tuple[float, float] | None = option(
        "sampleIntAugmMultiWithMuAndStd",
        None,
        origin="theano",
        default_text="[1.0, 0.0]",
        doc="Mean and standard deviation of the number that multiplies intensities after the shift.",
    )
    feature_maps_4d: bool = option(
        "saveAllFmsIn4DimImageVal",
        False,
        origin="theano",
        doc="One file with all feature maps is not offered: only false is accepted. Use saveIndividualFmsVal.",
    )


@dataclass(frozen=True, kw_only=True)
class OlderTestKeys:
    """Keys of a test config that version 0.8 dropped."""

    feature_maps_4d: bool = option(
        "saveAllFmsIn4DimImage",
        False,
        origin="theano",
        doc="One file with all feature maps is not offered: only false is accepted. Use saveIndividualFms.",
    )
