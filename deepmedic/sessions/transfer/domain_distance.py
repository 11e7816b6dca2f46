"""How far the cases of a new task are from those a source model learnt from, for a comparison without an analysis."""

from __future__ import annotations

import logging

from deepmedic import devices
from deepmedic.analysis.model_analysis import AnalysisSettings, domain_shift
from deepmedic.analysis.voxels import VoxelSettings
from deepmedic.arguments import Arguments
from deepmedic.config.analysis import AnalysisConfig
from deepmedic.errors import DeepMedicError
from deepmedic.sessions.transfer import analysis
from deepmedic.sessions.transfer.comparison_configs import Compared
from deepmedic.sessions.transfer.comparison_runs import Source

log = logging.getLogger(__name__)


def measure_distance(source: Source, compared: Compared, device: str) -> float | None:
    """Return what the forecast of an `-analyse` of this model and these cases would hold as `domain_distance`.

    It is the relative Frechet distance of what the deepest layer with batch norm is given to the statistics in it.

    Args:
        source: the model that is transferred from.
        compared: the new model and its training, all of whose training cases are looked at.
        device: as `-dev`.

    Returns:
        None where it is not known, as for a model without batch norm; the log says so.
    """
    training = compared.training
    config = AnalysisConfig(
        session_name=training.session_name,
        folder_for_output=training.folder_for_output,
        target_model=compared.path,
        data=training.data,
        preprocessing=training.preprocessing,
        execution=training.execution,
    )
    try:
        plan = analysis.prepare(Arguments(models=(source.path,), device=device), config)
        [group] = plan.groups
        settings = AnalysisSettings(
            voxels=VoxelSettings(config.voxels_per_class, config.segments_per_case, plan.seed),
            device=plan.device,
            precision=config.execution.precision,
        )
        log.info("Distance of the data from those of %s, at voxels of %d cases.", source.name, len(group.data))
        with devices.session_numerics(plan.device, config.execution):
            found = domain_shift(group.models[0].candidate, group.data, settings).distance
    except (DeepMedicError, RuntimeError, MemoryError, OSError) as problem:  # what is optional must not cost the tables
        reason = str(problem) or type(problem).__name__
        log.warning("The distance of the data from those of %s is not known: %s", source.name, reason)
        return None
    if found is None:
        log.warning("The distance of the data from those of %s is not known: it has no batch norm.", source.name)
    return found
