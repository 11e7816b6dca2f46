"""Groups of keys that training, validation and inference configs share."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deepmedic.config.options import option

AXIS_ORDERS = tuple(
    "".join(letters) for pairs in itertools.permutations(("RL", "AP", "SI")) for letters in itertools.product(*pairs)
)
"""Where the three axes of an array may point: right or left, anterior or posterior, superior or inferior."""

REPORT_DOC = (
    "Whether reports/<session>.html is written at the end: one page for any browser with curves, metrics and a viewer "
    "of the segmented cases. It needs the extra report; without that, or when it fails, the session goes on without it."
)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the cases of one data set are listed: listing files (one line per case) or one CSV table."""

    table: Path | None = option(
        "dataframe",
        None,
        doc="CSV table of the cases, one row each, instead of listing files. Columns: channel_<name> (one per channel, "
        "used in the alphabetical order of their names), ground_truth, roi_mask, prediction_filename and subject "
        "(whose scan it is, for splits). Paths in it are relative to the table.",
    )
    channels: tuple[Path, ...] | None = option(
        "channels",
        None,
        nonempty=True,
        doc="Listing files of the images, one file per channel in the order of the model's channels. Each line of a "
        "listing file is the path of one case's image, relative to that file; - stands for a missing channel.",
    )
    labels: Path | None = option(
        "gtLabels",
        None,
        doc="Listing file of the manual segmentations, one line per case: whole numbers from 0 (background) to the "
        "number of classes - 1. With it the predictions are scored.",
    )
    roi_masks: Path | None = option(
        "roiMasks",
        None,
        doc="Listing file of region-of-interest masks, one line per case; every voxel other than 0 is inside. Samples "
        "are drawn and voxels are classified only inside, and intensities are normalised with the voxels inside.",
    )
    names: Path | None = option(
        "namesForPredictionsPerCase",
        None,
        default_text="pred_case<number>",
        doc="Listing file of the names that the results of each case get, one line per case.",
    )
    weight_maps: tuple[Path, ...] | None = option(
        "weightedMapsForSamplingEachCategory",
        None,
        nonempty=True,
        doc="Listing files of weight maps, one file per category of sampling in the order of the proportions (type 0: "
        "foreground, background; types 1 and 2: one map; type 3: one per class from the background). A voxel is drawn "
        "as the centre of a segment with a probability proportional to its weight, instead of by labels and ROI.",
    )
    subjects: Path | None = option(
        "subjects",
        None,
        default_text="the BIDS label sub-... in the paths of a case, else each case for itself",
        origin="new",
        doc="Listing file of the subjects, one line per case: whose scan it is. -split and -crossValidate keep all "
        "scans of a subject together.",
    )


@dataclass(frozen=True, kw_only=True)
class ZScoreConfig:
    """Z-score normalisation of intensities, per case and channel, within the ROI."""

    all_channels: bool = option(
        "apply_to_all_channels", False, doc="Whether all channels are normalised; leave out apply_per_channel then."
    )
    per_channel: tuple[bool, ...] | None = option(
        "apply_per_channel", None, doc="Which channels are normalised, one entry per channel."
    )
    cutoff_percents: tuple[float, float] | None = option(
        "cutoff_percents",
        None,
        minimum=0,
        maximum=100,
        doc="Percentiles [low, high]; voxels outside them do not count for the mean and the standard deviation.",
    )
    cutoff_times_std: tuple[float, float] | None = option(
        "cutoff_times_std",
        None,
        above=0,
        doc="Factors [below, above]; voxels further than that many standard deviations from the mean do not count.",
    )
    cutoff_below_mean: bool = option(
        "cutoff_below_mean",
        False,
        doc="Whether voxels below the mean of the whole image do not count, which leaves out the air around a head.",
    )

    def applies_to(self, channel: int) -> bool:
        """Return whether a channel (from 0) is normalised."""
        return self.all_channels or (self.per_channel is not None and self.per_channel[channel])

    @property
    def applies(self) -> bool:
        """Whether any channel is normalised."""
        return self.all_channels or any(self.per_channel or ())


@dataclass(frozen=True, kw_only=True)
class PreprocessingConfig:
    """What is checked and done when a case is read."""

    pad_images: bool = option(
        "padInputImagesBool",
        True,
        doc="Whether images are padded by reflection so that voxels at their borders are segmented too. Without it an "
        "unpredicted border keeps label 0.",
    )
    zscore: ZScoreConfig = option(
        "norm_zscore_prms",
        ZScoreConfig(),
        doc="Normalises the intensities of each image to mean 0 and standard deviation 1, measured within the ROI, or "
        "in the whole image without one. Networks need such intensities: switch it on unless the files are normalised "
        "already, and in the same way for training and inference.",
    )
    norm_verbosity: int = option(
        "norm_verbosity_lvl",
        0,
        minimum=0,
        maximum=2,
        doc="How much the session's log file says of the normalisation of each case that is read: 0 nothing, 1 "
        "channels, cut-offs and time, 2 also the mean and standard deviation that were taken.",
    )
    check_inputs: bool = option(
        "run_input_checks",
        True,
        doc="Kept for the original's files: labels and masks are checked against the number of classes whenever a "
        "case is read. With false, a note says that they are checked all the same; a wrong label would spoil a "
        "training unseen.",
    )
    non_finite_voxels: Literal["refuse", "zero", "mean"] = option(
        "nonFiniteVoxels",
        "refuse",
        origin="new",
        doc='What happens to voxels that are not a number or infinite: "refuse" stops with their number and place, '
        '"zero" and "mean" replace them by 0 or by the mean of the finite ones, and the log counts them.',
    )
    affine_tolerance: float = option(
        "affineTolerance",
        1e-3,
        minimum=0,
        origin="new",
        doc="Millimetres by which the corners of two images of one case may lie apart according to their headers. A "
        "difference of axis directions is never tolerated.",
    )
    orientation: str = option(
        "orientation",
        "asStored",
        origin="new",
        doc='Axis order in which cases are worked on: "asStored" takes the files as they are and refuses mixed orders; '
        '"RAS" turns every case to right, anterior, superior in memory, in training and inference alike, and returns '
        'results in each case\'s own axes. So do other orders, such as "LPS": an inference with a model that was '
        "trained on files as they were stored takes the order of those.",
    )
    resample_to: Literal["model"] | tuple[float, float, float] | None = option(
        "resampleTo",
        None,
        above=0,
        origin="new",
        default_text="off",
        doc="Voxel spacing in millimetres along x, y, z (of the array in memory) to which every case is resampled "
        'before anything else is done to it; "model" is the spacing that the model was trained with. Images are '
        "interpolated linearly (and smoothed where voxels become larger), labels by the strongest class. Results of an "
        "inference, and its metrics, are on the grid of each case's own files.",
    )
    spacing_tolerance: float = option(
        "spacingTolerance",
        0.05,
        minimum=0,
        origin="new",
        doc="Share by which the voxel spacing of a case may differ from that of the training cases. An inference with "
        "cases that differ more is refused, unless resampleTo is given; raise it to go on deliberately.",
    )
    allow_skipped_cases: bool = option(
        "allowSkippedCases",
        False,
        origin="new",
        doc="Whether cases that cannot be used (such as an empty ROI) are left out, named in the summary and told by "
        "exit code 9, instead of stopping the run.",
    )


@dataclass(frozen=True, kw_only=True)
class SuffixKeys:
    """Sub-keys of the suffixes of result files."""

    segm: str = option("segm", "Segm", nonempty=True, doc="What follows the case's name for its segmentation.")
    prob: str = option(
        "prob",
        "ProbMapClass",
        nonempty=True,
        doc="What follows the case's name for a probability map, before the class.",
    )


def _suffixes(keys: SuffixKeys) -> dict[str, str]:
    for text in (keys.segm, keys.prob):
        if any(character in "/\\" or not character.isprintable() for character in text):
            raise ValueError(f"found {text!r}; allowed: text that can be part of a file name, without / or \\")
    return {"segm": keys.segm, "prob": keys.prob}


def _all_if_empty(flags: tuple[bool, ...]) -> tuple[bool, ...] | None:
    return flags or None


_FEATURE_MAPS = (
    "Which feature maps of {pathway} are saved with saveIndividualFms: one entry per layer, [first, last + 1] counted "
    "from 0, or [] for none of a layer. An empty list saves none of this pathway."
)


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """Which files an inference writes for each case."""

    save_segmentation: bool = option(
        "saveSegmentation", True, doc="Whether the predicted labels of each case are saved as an image."
    )
    save_probability_maps: tuple[bool, ...] | None = option(
        "saveProbMapsForEachClass",
        None,
        default_text="all classes",
        build=_all_if_empty,
        doc="For which classes probability maps are saved: one entry per class, the background first.",
    )
    suffixes: dict[str, str] = option(
        "suffixForSegmAndProbsDict",
        {"segm": "Segm", "prob": "ProbMapClass"},
        shape=SuffixKeys,
        build=_suffixes,
        doc="What is appended to a case's name for its segmentation and its probability maps.",
    )
    layout: Literal["original", "bids"] = option(
        "outputLayout",
        "original",
        origin="new",
        doc='Where segmentations and probability maps go: "original" is predictions/<session>/predictions/<name>_...; '
        '"bids" makes predictions/<session>/bids a folder of BIDS derivatives, with dataset_description.json, label '
        "tables and sidecars. Subject, session, run and space come from the names of results or of the first image.",
    )
    save_feature_maps: bool = option(
        "saveIndividualFms",
        False,
        doc="Whether feature maps are saved, one image each; the minMaxIndices keys choose which. They take much disk.",
    )
    feature_maps_normal: tuple[tuple[int, ...], ...] = option(
        "minMaxIndicesOfFmsToSaveFromEachLayerOfNormalPathway",
        (),
        minimum=0,
        doc=_FEATURE_MAPS.format(pathway="the normal pathway"),
    )
    feature_maps_subsampled: tuple[tuple[int, ...], ...] = option(
        "minMaxIndicesOfFmsToSaveFromEachLayerOfSubsampledPathway",
        (),
        minimum=0,
        doc=_FEATURE_MAPS.format(pathway="every low-resolution pathway"),
    )
    feature_maps_fc: tuple[tuple[int, ...], ...] = option(
        "minMaxIndicesOfFmsToSaveFromEachLayerOfFullyConnectedPathway",
        (),
        minimum=0,
        doc=_FEATURE_MAPS.format(pathway="the FC pathway (its last layer is the classification layer)"),
    )


@dataclass(frozen=True, kw_only=True)
class ExecutionConfig:
    """How computations are carried out; no key of the original."""

    precision: Literal["float32", "tf32", "bf16"] = option(
        "precision",
        "float32",
        origin="new",
        doc='Numbers used in convolutions: "float32" is the reference; "tf32" and "bf16" are faster on recent GPUs and '
        "round more coarsely.",
    )
    deterministic: bool | None = option(
        "deterministic",
        None,
        origin="new",
        default_text="true on a CPU, false on a GPU",
        doc="Whether only deterministic algorithms are used, so that a repeated or resumed run gives the same bytes on "
        "the same machine; slower on a GPU.",
    )
    memory_budget: float | None = option(
        "memoryBudget",
        None,
        above=0,
        origin="new",
        default_text="half of the memory",
        doc="GiB that prepared images may take: those kept in the device's memory, and those read ahead. Cases that do "
        "not fit are read again when a sub-epoch needs them.",
    )
