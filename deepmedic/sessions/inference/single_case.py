"""One case in memory: images from files or arrays in, probabilities and segmentation out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from deepmedic import devices
from deepmedic.config.binding import bind
from deepmedic.config.inference import TestConfig
from deepmedic.config.load import fit_test_config
from deepmedic.config.sections import AXIS_ORDERS, PreprocessingConfig, ZScoreConfig
from deepmedic.config.source import ConfigFile
from deepmedic.data import voxel_checks
from deepmedic.data.case_headers import check_case
from deepmedic.data.cases import Case, ImageRef, image_ref
from deepmedic.data.dataset import DataSet
from deepmedic.data.nifti import VolumeHeader, array_header, to_native, write_volume
from deepmedic.data.preprocessing import PreparedCase, prepare_case, unnormalised_warning
from deepmedic.data.volumes import LoadedCase
from deepmedic.errors import DataError, ProblemList
from deepmedic.inference.blending import blending_of
from deepmedic.inference.case_prediction import predict_case
from deepmedic.inference.execution import InferenceSettings
from deepmedic.model.saved import SavedModel
from deepmedic.sessions.inference.ensemble import (
    NamedModel,
    members_of,
    needs_of,
    refuse_what_needs_other_models,
    speaking_for_all,
    taken_from_others,
    tiling_of,
)
from deepmedic.sessions.inference.model_use import (
    ComparedWithTraining,
    compare_with_training,
    intensity_warnings,
    resolved_spacing,
)

log = logging.getLogger(__name__)

Image = str | Path | np.ndarray | torch.Tensor
"""A NIfTI file (`scan.nii.gz`, or `scan.nii.gz[2]` for one volume of a 4D file), or an array [x, y, z]."""
Images = np.ndarray | torch.Tensor | Sequence[Image | None] | Mapping[str, Image | None]
"""An array [channel, x, y, z], one image per channel, or images by the model's channel names; None: missing."""

_NOT_LISTED = ""


@dataclass(frozen=True, eq=False, repr=False)
class Segmentation:
    """What a model says about one case, in the axes of its images and of their size."""

    probabilities: np.ndarray
    """float32 [class, x, y, z]; 0 for all classes outside the ROI and where the network does not reach."""
    segmentation: np.ndarray
    """uint8 (int32 above 256 classes) [x, y, z]: the most probable class, 0 outside the ROI."""
    header: VolumeHeader
    """Of the first image that is present; results that are saved get its geometry."""
    uncertainty: Mapping[str, np.ndarray] = field(default_factory=dict)
    """float32 [x, y, z] by kind, "entropy" or "variance", for what was asked for."""

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.segmentation.shape))
        return f"Segmentation({len(self.probabilities)} classes, {size} voxels)"

    @property
    def affine(self) -> np.ndarray:
        """float64 [4, 4]: voxel indices to millimetres; the identity for arrays."""
        return self.header.affine

    def save(self, path: str | Path) -> Path:
        """Write the segmentation as an image, `.nii.gz` or `.nii`, that lies on the images it was made from.

        Raises:
            ResourceError: the file cannot be written.
        """
        write_volume(_result_path(path), self.segmentation, self.header, "labels")
        return Path(path)

    def save_probabilities(self, path: str | Path, class_number: int) -> Path:
        """Write the probability map of a class as `save` writes the segmentation.

        Raises:
            DataError: there is no such class.
            ModelError: the probabilities are not finite.
            ResourceError: the file cannot be written.
        """
        if not 0 <= class_number < len(self.probabilities):
            raise DataError(f"class {class_number}: the model has the classes 0 to {len(self.probabilities) - 1}.")
        write_volume(_result_path(path), self.probabilities[class_number], self.header, "probability")
        return Path(path)


def trained_preprocessing(
    model: SavedModel, zscore: ZScoreConfig | Mapping[str, object] | None = None
) -> PreprocessingConfig:
    """Return how the images of a model are to be prepared: as in its training, where that is known.

    Cases that are stored along other axes than those of training are turned in memory.

    Args:
        zscore: normalisation instead of that of training; a mapping has the sub-keys of `norm_zscore_prms`.

    Raises:
        ConfigError: an unknown sub-key, or a value of another type or range.
    """
    data = model.data
    axes = next((order for order in (data.axis_order, data.orientation) if order in AXIS_ORDERS), "asStored")
    if isinstance(zscore, Mapping):
        zscore = bind(ConfigFile(Path("zscore"), "python", dict(zscore), {}), ZScoreConfig)
    elif zscore is None:
        zscore = ZScoreConfig(**(data.zscore or {}))
    return PreprocessingConfig(
        pad_images=True if data.pad_images is None else data.pad_images,
        zscore=zscore,
        orientation=axes,
    )


def segment_case(
    models: Sequence[NamedModel], images: Images, roi: Image | None, config: TestConfig, device: torch.device
) -> Segmentation:
    """Segment one case with the settings of an inference config; its listing files are not used.

    Args:
        models: one, or several whose probabilities are averaged; they are taken to be alike enough for it.
        images: of the case.
        roi: of the case.
        config: settings.
        device: where to compute.

    Raises:
        ConfigError: the config does not fit the model.
        DataError: an image cannot be used, or runs along other axes or with another spacing than those of training.
        ResourceError: memory is not enough.
    """
    model = speaking_for_all(models)
    config = fit_test_config(config, model.config)
    refuse_what_needs_other_models(config, len(models))
    preprocessing = config.preprocessing
    preprocessing = replace(preprocessing, resample_to=resolved_spacing(preprocessing, config.source, model))
    channels = _per_channel(model, images)
    read = _from_files if any(isinstance(image, str | Path) for image in channels) else _from_arrays
    cases, header = read(models, channels, roi, preprocessing)
    settings = InferenceSettings(
        segment=model.config.segment_size_inference,
        batch_size=config.batch_size,
        tiling=tiling_of(config.tiling, config.source, [one.model for one in models]),
        precision=config.execution.precision,
        device=device,
        blending=blending_of(config.prediction),
    )
    members = members_of(models, device, own_padding=True)
    with devices.session_numerics(device, config.execution):
        prediction = predict_case(members, cases, settings, config.prediction)
    grid = cases[0].result_header

    def returned(volume: torch.Tensor) -> np.ndarray:
        return np.ascontiguousarray(to_native(volume.numpy(), grid))

    return Segmentation(
        returned(prediction.probabilities),
        returned(prediction.segmentation),
        header,
        {kind: returned(volume) for kind, volume in prediction.uncertainty.items()},
    )


def _per_channel(model: SavedModel, images: Images) -> list[Image | None]:
    """One image per channel of the model."""
    expected = model.architecture.input_channels
    if isinstance(images, Mapping):
        names = model.config.channel_names
        if names is None:
            raise DataError("the model has no channel names; give a list of images, one per channel, in its order.")
        if set(images) != set(names):
            raise DataError(f"found images for {', '.join(images)}; needed are {', '.join(names)} (None: missing).")
        channels = [images[name] for name in names]
    elif isinstance(images, np.ndarray | torch.Tensor):
        if images.ndim != 4:
            raise DataError(f"found an array of shape {list(images.shape)}; allowed is [channel, x, y, z].")
        channels = list(images)
    elif isinstance(images, str | Path):
        channels = [images]
    else:
        channels = list(images)
    if len(channels) != expected:
        raise DataError(f"found {len(channels)} channels; the model has {expected}{_named(model)}.")
    if all(image is None for image in channels):
        raise DataError("all channels of this case are missing; at least one is needed.")
    return channels


def _named(model: SavedModel) -> str:
    names = model.config.channel_names
    return f" ({', '.join(names)})" if names else ""


def _from_files(
    models: Sequence[NamedModel],
    channels: Sequence[Image | None],
    roi: Image | None,
    preprocessing: PreprocessingConfig,
) -> tuple[list[PreparedCase], VolumeHeader]:
    """Prepare files for each model."""
    refs = [_file(image, f"channel {number}") for number, image in enumerate(channels, 1)]
    case = Case(_name_of(refs), tuple(refs), roi=_file(roi, "the ROI mask"))
    problems = ProblemList()
    notes: list[str] = []
    found = check_case(case, preprocessing, problems, notes)
    problems.raise_if_any()
    assert found is not None  # otherwise something was refused
    data = DataSet("inference", [case], [found], preprocessing, needs_of(speaking_for_all(models)))
    notes += taken_from_others(models)
    for one in models:
        notes += compare_with_training(data, one.model, refuse_other_spacing=True)
    for note in dict.fromkeys(notes):
        log.warning("%s", note)
    source = ComparedWithTraining(data, _by_name(models))
    cases = source.read_each(0, [needs_of(one.model, own_padding=True) for one in models])
    source.tell(0)
    return cases, next(header for header in found.channels if header)


def _from_arrays(
    models: Sequence[NamedModel],
    channels: Sequence[Image | None],
    roi: Image | None,
    preprocessing: PreprocessingConfig,
) -> tuple[list[PreparedCase], VolumeHeader]:
    """Prepare arrays for each model; they are taken to have the axes and the spacing of the training images."""
    if preprocessing.resample_to is not None:
        raise DataError(
            "arrays have no voxel spacing to resample from; give images as files, or leave resample_to out."
        )
    notes: list[str] = []
    arrays = [_array(image, f"channel {number}") for number, image in enumerate(channels, 1)]
    shapes = {array.shape for array in arrays if array is not None}
    mask = _array(roi, "the ROI mask")
    if len(shapes | ({mask.shape} if mask is not None else set())) > 1:
        found = [array.shape for array in (*arrays, mask) if array is not None]
        raise DataError(f"the images of a case must have one shape; found {', '.join(map(str, found))}.")
    x, y, z = shapes.pop()
    values = np.zeros((len(arrays), x, y, z), np.float32)
    for number, array in enumerate(arrays):
        if array is not None:
            values[number] = _checked(array, f"channel {number + 1}", notes, preprocessing)
    header = array_header((x, y, z))
    refs = tuple(None if a is None else ImageRef(Path(f"array {number}")) for number, a in enumerate(arrays, 1))
    loaded = LoadedCase(
        case=Case("array", refs),
        header=header,
        channels=values,
        labels=None,
        roi=None if mask is None else voxel_checks.roi_mask(mask, notes),
        weight_maps=None,
        notes=notes,
    )
    warning = unnormalised_warning(loaded, preprocessing.zscore)
    needs = [needs_of(one.model, own_padding=True) for one in models]
    cases = [prepare_case(loaded, one.margins, one.with_own_padding(preprocessing), one.segment) for one in needs]
    for note in dict.fromkeys([*taken_from_others(models), *loaded.notes, *([warning] if warning else [])]):
        log.warning("%s", note)
    intensity_warnings(cases, loaded.case, _by_name(models)).log(told=False)
    return cases, header


def _by_name(models: Sequence[NamedModel]) -> dict[str, SavedModel]:
    return {str(one.path): one.model for one in models}


def _checked(array: np.ndarray, title: str, notes: list[str], preprocessing: PreprocessingConfig) -> np.ndarray:
    try:
        return voxel_checks.finite_intensities(array, notes, non_finite=preprocessing.non_finite_voxels)
    except DataError as problem:
        raise DataError(f"{title}: {problem}") from problem


def _file(image: Image | None, title: str) -> ImageRef | None:
    if image is None:
        return None
    if not isinstance(image, str | Path):
        raise DataError(f"{title} is an array, but other images are files; give all images as files or all as arrays.")
    return image_ref(str(image), Path.cwd(), _NOT_LISTED)


def _array(image: Image | None, title: str) -> np.ndarray | None:
    if image is None:
        return None
    if isinstance(image, str | Path):
        raise DataError(f"{title} is a file, but other images are arrays; give all images as files or all as arrays.")
    array = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)
    if array.ndim != 3 or not array.size or array.dtype.kind not in "biuf":
        raise DataError(
            f"{title}: found {array.dtype} of shape {list(array.shape)}; allowed are real numbers [x, y, z]."
        )
    return array


def _name_of(refs: Sequence[ImageRef | None]) -> str:
    return next(ref.path.name for ref in refs if ref)


def _result_path(path: str | Path) -> Path:
    if not str(path).endswith((".nii", ".nii.gz")):
        raise DataError(f"{path}: the name of an image must end in .nii.gz or .nii.")
    return Path(path)
