"""From Python: whether a model is worth transferring to new cases, before any training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from deepmedic.arguments import Arguments
from deepmedic.config.analysis import AnalysisConfig
from deepmedic.config.load import config_kind, load_analysis_config, load_train_config
from deepmedic.config.training import TrainConfig
from deepmedic.model.saved import SavedModel
from deepmedic.sessions.transfer import analysis
from deepmedic.sessions.transfer.analysis import AnalysisResult

__all__ = ["AnalysisResult", "analyse_model_and_data"]


def analyse_model_and_data(
    model: SavedModel | str | Path | None,
    data: AnalysisConfig | TrainConfig | str | Path,
    *,
    device: str = "auto",
    seed: int = 0,
) -> AnalysisResult:
    """Tell whether and how a model should be transferred to new cases, as `-analyse` does, without writing anything.

    The result has the advice for the best model as `recommendation` (`verdict`, `reasons`, `layers`, `phases`,
    `predicted_gain`), each model's scores as `models`, and all of it as `to_text()` and `to_plain()`. What the scores
    mean is in documentation/analysis.md.

    Args:
        model: the trained model, where one is saved, or a folder of several, which are ranked; None: those that
            `sourceModels` of the analysis config names.
        data: an analysis config or a train config, or the path of one: its labelled cases are the new task.
        device: as `-dev`.
        seed: of the voxels that are drawn, of random networks and of intervals.

    Example:
        >>> result = deepmedic.analyse_model_and_data("output/cnnModels/sessionA", "analysis.cfg")
        >>> result.recommendation.verdict
        'transfer'
        >>> print(result.to_text())

    Raises:
        ConfigError: the config has mistakes; all of them are listed.
        DataError: a case cannot be used, or there are fewer than two subjects.
        ModelError: a model cannot be read, or does not fit the cases; says why.
        ResourceError: the device is absent, or memory is not enough.
    """
    if not isinstance(data, AnalysisConfig | TrainConfig):
        path = Path(data)
        data = load_train_config(path) if config_kind(path) == "train" else load_analysis_config(path)
    arguments = Arguments(device=device, seed=seed)
    if model is not None and not isinstance(model, SavedModel):
        arguments = replace(arguments, models=(Path(model),))
    plan = analysis.prepare(arguments, data, model if isinstance(model, SavedModel) else None)
    return analysis.analyse(plan)
