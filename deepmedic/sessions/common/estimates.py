"""What a session will need, estimated from headers before it starts: memory, disk and, on request, time."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from deepmedic.config.architecture import Architecture
from deepmedic.config.options import Size3
from deepmedic.config.sections import ExecutionConfig
from deepmedic.config.training import TrainConfig
from deepmedic.data.dataset import DataSet
from deepmedic.data.memory import bytes_as_text, memory_limit
from deepmedic.data.residency import subepoch_bytes, volume_bytes
from deepmedic.errors import ResourceError
from deepmedic.files import free_bytes
from deepmedic.model.network import DeepMedicNet
from deepmedic.model.saved import SavedModel

_GIB = 2**30
_FLOAT = 4
# Parameters, those at the start, and up to two accumulators of the optimiser.
_COPIES_OF_PARAMETERS = 4
# The averages, and the parameters that training goes on from.
_COPIES_OF_AVERAGING = 2
_SHARE_OF_MEMORY = 0.5
"""Of what the device has, for resident volumes, when `memoryBudget` is not given."""
_PARTS_OF_MEMORY = 8
"""One of which is for the features of an analysis, when `memoryBudget` is not given."""


@dataclass(frozen=True)
class Budgets:
    """Bytes that resident volumes may take."""

    training: int
    validation: int = 0


def volume_budgets(config: TrainConfig, device: torch.device, validation: DataSet | None) -> Budgets:
    """Share `memoryBudget`, or half of the device's memory: validation gets what it needs, up to a third."""
    if config.execution.memory_budget is not None:
        together = int(config.execution.memory_budget * _GIB)
    else:
        together = int(_SHARE_OF_MEMORY * _memory_of(device))
    if validation is None:
        return Budgets(together)
    share = max(together // 3, subepoch_bytes(validation, config.cases_per_subepoch))
    share = min(share, volume_bytes(validation))
    return Budgets(together - share, share)


def feature_budget(execution: ExecutionConfig) -> int:
    """Bytes that the features of an analysis may take, in main memory: `memoryBudget`, or an eighth of the memory."""
    budget = execution.memory_budget
    return int(budget * _GIB) if budget is not None else memory_limit() // _PARTS_OF_MEMORY


def step_budget(device: torch.device) -> int:
    """Bytes that one training step may take, where half of the memory is left to volumes."""
    return int((1 - _SHARE_OF_MEMORY) * _memory_of(device))


def check_budget(volumes: int, budget: int, device: torch.device) -> None:
    """Refuse to start when volumes would fill more memory than the device has, as `memoryBudget` would let them.

    Args:
        volumes: bytes of all that could be resident.
        budget: bytes that may be.
        device: where they would be.

    Raises:
        ResourceError: names what would be used and what there is.
    """
    used, there_is = min(volumes, budget), _memory_of(device)
    if used > there_is:
        raise ResourceError(
            f"memoryBudget allows {bytes_as_text(budget)} for volumes, of which {bytes_as_text(used)} would be used, "
            f"but {device} has only {bytes_as_text(there_is)}. Lower memoryBudget (in GiB), or leave it out for half "
            "of the memory: cases that do not fit are read when they are needed."
        )


def check_memory(data: DataSet, cases: int, budget: int) -> None:
    """Refuse to start when a subepoch could draw from more volumes than the budget holds.

    Args:
        data: the cases.
        cases: the most that a subepoch draws from.
        budget: bytes for resident volumes.

    Raises:
        ResourceError: names what is needed and what there is.
    """
    needed = subepoch_bytes(data, cases)
    if needed > budget:
        raise ResourceError(
            f"{data.role}: the {min(cases, len(data))} largest cases, which one subepoch may draw from, need "
            f"{bytes_as_text(needed)} of memory, and {bytes_as_text(budget)} may be used for volumes. Lower "
            "numOfCasesLoadedPerSubepoch, or raise memoryBudget (in GiB) if there is more memory."
        )


def training_disk(config: TrainConfig, model: SavedModel, volumes: DataSet | None) -> int:
    """Bytes that a training session may write: its checkpoints and the results of validation."""
    copies = _COPIES_OF_PARAMETERS + (_COPIES_OF_AVERAGING if config.refinements.weight_averaging is not None else 0)
    copies += any(phase.required_improvement is not None for phase in config.phases)  # the start of the phase
    one = copies * parameter_bytes(model)
    checkpoints = one * (config.keep_last_checkpoints + 4)
    output = config.validation_output
    saves = output.save_segmentation or output.save_probability_maps is None or any(output.save_probability_maps)
    return checkpoints + (result_bytes(volumes, model.architecture.classes) if volumes is not None and saves else 0)


def result_bytes(data: DataSet, classes: int) -> int:
    """Bytes of segmentations and probability maps, as if they could not be compressed to less than a half."""
    voxels = sum(shape[0] * shape[1] * shape[2] for shape in (headers.result_shape for headers in data.headers))
    return voxels * (1 + _FLOAT * classes) // 2


def parameter_bytes(model: SavedModel) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in model.parameters.values())


def check_disk(folder: Path, needed: int) -> None:
    """Refuse to start when the disk has less room than needed.

    Raises:
        ResourceError: names folder, need and what is free, or a folder that cannot be written.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ResourceError(
            f"{folder}: {existing} is not a folder that can be written; choose another folderForOutput."
        )
    free = free_bytes(existing)
    if free < needed:
        raise ResourceError(
            f"{folder}: this session may write {bytes_as_text(needed)}, but only {bytes_as_text(free)} are free there; "
            "make room or choose another folderForOutput."
        )


def activation_bytes(architecture: Architecture, segment: Size3, batch: int, *, training: bool) -> int:
    """Bytes of feature maps for a batch of segments; training keeps about three values per feature-map voxel."""
    total = 0
    for pathway, size in zip(architecture.parallel, architecture.input_sizes(segment), strict=True):
        total += _pathway_voxels(pathway.kernels, pathway.feature_maps, size)
    normal = architecture.normal.output_size(segment)
    fused = sum(pathway.feature_maps[-1] for pathway in architecture.parallel)
    total += fused * normal[0] * normal[1] * normal[2]
    total += _pathway_voxels(architecture.fc.kernels, architecture.fc.feature_maps, normal)
    return total * batch * _FLOAT * (3 if training else 1)


def _memory_of(device: torch.device) -> int:
    """Bytes that are free on a GPU, or that this process may use."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else memory_limit()


def seconds_per_step(network: DeepMedicNet, segment: Size3, batch: int, device: torch.device) -> float:
    """Measure forward and backward of one segment and scale it to a batch; a rough number, made in a moment."""
    network = network.to(device).train()

    def step(inputs: list[torch.Tensor]) -> None:
        network(*inputs).square().mean().backward()

    return batch * _seconds_of_one(step, network, segment, device)


def seconds_of_inference(
    network: DeepMedicNet, data: DataSet, device: torch.device, segment: Size3 | None = None
) -> float:
    """Measure the segmentation of one tile and scale it to whole volumes; a rough number, made in a moment.

    Args:
        network: that segments.
        data: the cases.
        device: where.
        segment: input size of the tile; None: that for which the data set is set up.
    """
    segment = segment or data.needs.segment
    tile = math.prod(network.architecture.normal.output_size(segment))
    voxels = sum(math.prod(headers.shape) for headers in data.headers)
    return voxels / tile * seconds_of_segment(network, segment, device)


def seconds_of_segment(network: DeepMedicNet, segment: Size3, device: torch.device) -> float:
    """Measure one forward pass of one segment; a rough number, made in a moment."""
    network = network.to(device).eval()

    @torch.inference_mode()
    def predict(inputs: list[torch.Tensor]) -> None:
        network(*inputs)

    return _seconds_of_one(predict, network, segment, device)


def _seconds_of_one(
    compute: Callable[[list[torch.Tensor]], None], network: DeepMedicNet, segment: Size3, device: torch.device
) -> float:
    sizes = network.architecture.input_sizes(segment)
    inputs = [torch.randn(1, network.architecture.input_channels, *size, device=device) for size in sizes]
    seconds = 0.0
    for _ in range(2):  # the first time is spent on getting ready
        started = time.perf_counter()
        compute(inputs)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - started
    return seconds


def _pathway_voxels(kernels: tuple[Size3, ...], feature_maps: tuple[int, ...], size: Size3) -> int:
    total, x, y, z = 0, *size
    for kernel, maps in zip(kernels, feature_maps, strict=True):
        x, y, z = (max(1, extent - k + 1) for extent, k in zip((x, y, z), kernel, strict=True))
        total += maps * x * y * z
    return total
