"""Groups of keys that training, validation and inference configs share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deepmedic.config.options import option


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the cases of one data set are listed: listing files (one line per case) or one CSV table."""

    table: Path | None = option("dataframe", None)
    channels: tuple[Path, ...] | None = option("channels", None)
    """One listing file per image channel."""
    labels: Path | None = option("gtLabels", None)
    roi_masks: Path | None = option("roiMasks", None)
    names: Path | None = option("namesForPredictionsPerCase", None)
    weight_maps: tuple[Path, ...] | None = option("weightedMapsForSamplingEachCategory", None)


@dataclass(frozen=True, kw_only=True)
class ZScoreConfig:
    """Z-score normalisation of intensities, per case and channel, within the ROI."""

    all_channels: bool = False
    per_channel: tuple[bool, ...] | None = None
    cutoff_percents: tuple[float, float] | None = None
    cutoff_times_std: tuple[float, float] | None = None
    cutoff_below_mean: bool = False

    def applies_to(self, channel: int) -> bool:
        return self.all_channels or (self.per_channel is not None and self.per_channel[channel])


@dataclass(frozen=True, kw_only=True)
class PreprocessingConfig:
    """What is checked and done when a case is read."""

    pad_images: bool = option("padInputImagesBool", True)
    zscore: ZScoreConfig = option("norm_zscore_prms", ZScoreConfig())
    norm_verbosity: int = option("norm_verbosity_lvl", 0, minimum=0, maximum=2)
    check_inputs: bool = option("run_input_checks", True)
    non_finite_voxels: Literal["refuse", "zero", "mean"] = option("nonFiniteVoxels", "refuse")
    affine_tolerance: float = option("affineTolerance", 1e-3, minimum=0)
    """Millimetres by which any voxel corner of two images of one case may disagree."""
    orientation: Literal["asStored", "RAS"] = option("orientation", "asStored")
    allow_skipped_cases: bool = option("allowSkippedCases", False)


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """Which files an inference writes for each case."""

    save_segmentation: bool = option("saveSegmentation", True)
    save_probability_maps: tuple[bool, ...] | None = option("saveProbMapsForEachClass", None)
    """One entry per class; None: all."""
    suffixes: dict[str, str] = option("suffixForSegmAndProbsDict", None)
    save_feature_maps: bool = option("saveIndividualFms", False)
    feature_maps_normal: tuple[tuple[int, ...], ...] = option("minMaxIndicesOfFmsToSaveFromEachLayerOfNormalPathway", ())
    feature_maps_subsampled: tuple[tuple[int, ...], ...] = option("minMaxIndicesOfFmsToSaveFromEachLayerOfSubsampledPathway", ())
    feature_maps_fc: tuple[tuple[int, ...], ...] = option("minMaxIndicesOfFmsToSaveFromEachLayerOfFullyConnectedPathway", ())


@dataclass(frozen=True, kw_only=True)
class ExecutionConfig:
    """How computations are carried out; no key of the original."""

    precision: Literal["float32", "tf32", "bf16"] = option("precision", "float32")
    deterministic: bool | None = option("deterministic", None)
    """None: yes on a CPU, no on a GPU."""
    memory_budget: float | None = option("memoryBudget", None, above=0)
    """GiB of volumes kept on the device; None: chosen from what is free."""
