"""Checks of the self-test on a small case: its segments, and its segmentation as a whole."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepmedic.config.architecture import Architecture
from deepmedic.config.model import ModelConfig
from deepmedic.config.options import Size3
from deepmedic.config.sections import DataConfig, PreprocessingConfig, ZScoreConfig
from deepmedic.config.training import SamplingConfig
from deepmedic.data.dataset import CaseNeeds, DataSet, read_data_set
from deepmedic.data.nifti import array_header, write_volume
from deepmedic.data.nifti_writer import Kind
from deepmedic.data.pool import PoolLayout, VolumePool, elements_for
from deepmedic.data.preprocessing import PreparedCase
from deepmedic.data.sampling import SubepochRequest, SubepochSampler
from deepmedic.data.sampling_maps import SamplingRule
from deepmedic.data.segments import SegmentBatch, SegmentGeometry, gather
from deepmedic.errors import ProblemList
from deepmedic.inference.execution import InferenceSettings
from deepmedic.inference.predictor import predict_volume
from deepmedic.model import parameters
from deepmedic.model.network import DeepMedicNet
from deepmedic.sessions.selftest.selftest_reference import PROBABILITY, Check, Comparison, difference, golden

_SEGMENT: Size3 = (15, 15, 15)
_SEGMENTS = 48


def model_config() -> ModelConfig:
    """The config of the network that the golden probabilities of the case were computed with."""
    settings = golden("volume").settings
    x, y, z = settings["segment"]
    return ModelConfig(
        name="selfTest",
        folder_for_output=None,
        architecture=Architecture.from_dict(settings["architecture"]),
        segment_size_train=_SEGMENT,
        segment_size_validation=_SEGMENT,
        segment_size_inference=(x, y, z),
        segment_size_inference_given=True,
    )


def write_case(folder: Path) -> DataConfig:
    """Write the case as NIfTI files with their listing files into an existing folder."""
    numbers = golden("volume")
    affine = np.array(numbers.settings["affine"])
    images: dict[str, tuple[np.ndarray, Kind]] = {
        "labels": (numbers.arrays["labels"].numpy(), "labels"),
        "roi": (numbers.arrays["roi"].numpy(), "labels"),
    }
    for number, (name, scaling) in enumerate(numbers.settings["scaling"].items()):
        values = numbers.arrays[name].numpy().astype(np.float64) * scaling["slope"] + scaling["inter"]
        images[f"channel{number}"] = (values.astype(np.float32), "feature")
    listings = {}
    for name, (image, kind) in images.items():
        x, y, z = image.shape
        write_volume(folder / f"{name}.nii.gz", image, array_header((x, y, z), affine), kind)
        listings[name] = folder / f"{name}.cfg"
        listings[name].write_text(f"{name}.nii.gz\n", encoding="utf-8")
    channels = tuple(path for name, path in listings.items() if name.startswith("channel"))
    return DataConfig(channels=channels, labels=listings["labels"], roi_masks=listings["roi"])


def preprocessing() -> PreprocessingConfig:
    """Padding and normalisation of the case."""
    zscore: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in golden("volume").settings["zscore"].items()
    }
    return PreprocessingConfig(zscore=ZScoreConfig(**zscore))


def segments(device: torch.device) -> Comparison:
    """Centres drawn and segments gathered on the device: those of the CPU, and plain slices of the volume."""
    case, config = _prepared_case(_SEGMENT), model_config()
    geometry = SegmentGeometry.from_architecture(config.architecture, _SEGMENT)
    centres, batch = _drawn(case, geometry, device)
    expected_centres, expected = _drawn(case, geometry, torch.device("cpu"))
    errors = [difference(centres, expected_centres)]
    errors += [difference(found, wanted) for found, wanted in zip(batch.inputs, expected.inputs, strict=True)]
    assert batch.labels is not None
    assert case.labels is not None
    margin = (_SEGMENT[0] - geometry.output_size[0]) // 2
    for number, centre in enumerate(expected_centres.tolist()):
        x, y, z = (slice(at - 7, at + 8) for at in centre)  # 15 voxels around the centre
        errors.append(difference(batch.inputs[0][number], case.channels[:, x, y, z]))
        x, y, z = (slice(at - 7 + margin, at + 8 - margin) for at in centre)
        errors.append(difference(batch.labels[number], case.labels[x, y, z]))
    return Comparison("the CPU, and slices of the volume", max(errors), 0.0)


def inference(device: torch.device) -> Comparison:
    """The probabilities of a whole case: files, padding, normalisation, tiles, stitching, ROI."""
    numbers = golden("volume")
    config = model_config()
    net = DeepMedicNet(config.architecture)
    parameters.load_tensors(net, numbers.below("parameters"))
    settings = InferenceSettings(
        segment=config.segment_size_inference,
        batch_size=numbers.settings["batch_size"],
        tiling="segments",
        device=device,
    )
    prediction = predict_volume(net.to(device), _prepared_case(config.segment_size_inference), settings)
    expected = torch.stack(numbers.numbered("probabilities", torch.device("cpu")))
    return Comparison("the original DeepMedic", difference(prediction.probabilities, expected), PROBABILITY)


def _prepared_case(segment: Size3) -> PreparedCase:
    """The case, written to files and read from them, for segments of a size."""
    with tempfile.TemporaryDirectory(prefix="deepmedic-selftest-") as folder:
        return _data_set(write_case(Path(folder)), segment).load(0)


def _data_set(data: DataConfig, segment: Size3) -> DataSet:
    architecture = model_config().architecture
    needs = CaseNeeds(architecture.classes, architecture.margins(segment), segment, architecture.input_channels)
    problems = ProblemList()
    found = read_data_set(data, "inference", preprocessing(), needs, problems, needs_labels=True)
    problems.raise_if_any()
    return found


def _drawn(case: PreparedCase, geometry: SegmentGeometry, device: torch.device) -> tuple[torch.Tensor, SegmentBatch]:
    """Draw and gather segments with a pool on a device; returns centres and segments."""
    layout = PoolLayout.of(case)
    elements = elements_for(case.size)
    pool = VolumePool(layout, device, elements * layout.bytes_per_voxel, elements)
    rule = SamplingRule.from_config(SamplingConfig(kind=3), model_config().architecture.classes)
    request = SubepochRequest(_SEGMENTS, 1, rule, geometry.segment)
    plan = SubepochSampler(pool, lambda _: case, 1, request, seed=7, role="train").plan(0, 0)
    return plan.centres, gather(pool, geometry, plan.rows.to(device), plan.centres.to(device))


CHECKS = (
    Check("sampling and cutting segments", segments),
    Check("inference of a volume", inference),
)
