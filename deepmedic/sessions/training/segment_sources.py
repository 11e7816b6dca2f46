"""Where the segments of a training come from: its cases, as far as memory allows resident on the device."""

from __future__ import annotations

import logging
import math

from deepmedic.data.dataset import DataSet
from deepmedic.data.memory import bytes_as_text
from deepmedic.data.reading import workers_of
from deepmedic.data.residency import pool_for, residency_of, volume_bytes
from deepmedic.data.source import SegmentSource, SourceSettings
from deepmedic.sessions.training.training_plan import TrainingPlan
from deepmedic.training.interruption import Interruption
from deepmedic.words import counted

log = logging.getLogger(__name__)


def segment_source(
    plan: TrainingPlan, data: DataSet, role: str, budget: int, interruption: Interruption
) -> SegmentSource:
    """Return where the segments of one role come from; nothing is read yet.

    Args:
        plan: of the training.
        data: the cases of the role.
        role: "train" or "val".
        budget: bytes that their volumes may take.
        interruption: asked while cases are read.
    """
    config, training = plan.config, role == "train"
    settings = SourceSettings(
        role=role,
        seed=plan.beginning.state.seed,
        segment=data.needs.segment,
        segments=config.segments_per_subepoch if training else config.validation_segments,
        batch_size=config.batch_size if training else config.validation_batch_size,
        batches_together=1 if training else batches_together(plan, data),
        cases=config.cases_per_subepoch,
        sampling=config.sampling if training else config.validation_sampling,
        augmentation=config.augmentation if training else None,
        subepochs=config.subepochs,
        epochs=config.total_epochs,
    )
    device, workers = plan.device, workers_of(config.sampling_processes)
    residency = residency_of(data, budget, config.cases_per_subepoch, workers, device)
    if not residency.everything:
        log.info(
            "The %s %s %s: up to %s stay in memory, and what else is needed is read ahead by %s.",
            counted(len(data), f"{data.role} case"),
            "takes" if len(data) == 1 else "take",
            bytes_as_text(volume_bytes(data)),
            bytes_as_text(residency.pool_bytes),
            counted(workers, "thread"),
        )
    pool = pool_for(data, device, residency.pool_bytes)
    architecture, leave_if_asked = plan.beginning.model.architecture, interruption.raise_if_requested
    return SegmentSource(data, architecture, settings, pool, leave_if_asked, residency.reading)


def batches_together(plan: TrainingPlan, validation: DataSet) -> int:
    """How many batches of validation on samples are computed as one: as many as have the voxels of a training batch.

    Segments of validation are small by default, and on a CPU a batch of them takes a fixed time rather than one for
    its voxels. Without gradients it needs less memory than the training batch. On a GPU, where steps are recorded for
    one size of batches, each is computed by itself.
    """
    if plan.device.type != "cpu":
        return 1
    trained = plan.config.batch_size * math.prod(plan.training.needs.segment)
    return max(1, trained // (plan.config.validation_batch_size * math.prod(validation.needs.segment)))
