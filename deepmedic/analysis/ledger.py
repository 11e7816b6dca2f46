"""What became of forecasts: the ledger of comparisons, and how good the forecasts were.

An outcome belongs to a forecast when source model, target architecture and labelled cases are the same, and the
forecast was made before the comparison began. Intervals are judged by how often they held what came true. The forecast
gain, and the scores that were kept beside it as rivals, are judged by their rank correlation with what came true
(Spearman), which does not ask of a score that it is a Dice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from deepmedic.analysis.record_chain import RecordChain
from deepmedic.words import counted

FEWEST_FOR_RANKS = 3
"""With two pairs every rank correlation is 1 or -1."""
FORECAST = "forecast"


def ledger_file(folder: Path) -> Path:
    """Where the outcomes of an output folder are kept."""
    return folder / "forecasts" / "ledger.jsonl"


def append_outcome(path: Path, outcome: dict[str, Any]) -> dict[str, Any]:
    """Append what came true of a forecast; call it while holding a lock.

    Raises:
        DataError: the file was changed since it was written.
        ResourceError: it cannot be written.
    """
    return _chain(path).append(outcome)


def read_ledger(path: Path) -> list[dict[str, Any]]:
    """All records, oldest first.

    Raises:
        DataError: a record was changed, or the chain is broken.
    """
    return _chain(path).read()


@dataclass(frozen=True)
class Pair:
    """The pair of a source model and the labelled cases of a task, for one architecture."""

    source: str
    """SHA-256 of the model's file."""
    architecture: str
    """Digest of that of the new model."""
    images: str
    """Digest of the contents of images and labels."""

    @classmethod
    def of_forecast(cls, forecast: Mapping[str, Any]) -> Pair | None:
        """That of a forecast; None for one that did not record it."""
        source, architecture = forecast["model"]["sha256"], forecast["model"].get("target")
        images = forecast["data"].get("images")
        return None if architecture is None or images is None else cls(source, architecture, images)


def forecasts_of(pair: Pair, records: Sequence[Mapping[str, Any]], begun: str) -> list[tuple[Mapping[str, Any], bool]]:
    """The forecasts about a pair, and whether each was made before the comparison began.

    Args:
        pair: of the comparison.
        records: of `read_forecasts`.
        begun: when the comparison began, ISO 8601.
    """
    start = datetime.fromisoformat(begun)
    return [
        (record, datetime.fromisoformat(record["forecast"]["date"]) <= start)
        for record in records
        if Pair.of_forecast(record["forecast"]) == pair
    ]


def outcome_of(
    record: Mapping[str, Any], *, in_time: bool, comparison: str, begun: str, setting: Mapping[str, Any]
) -> dict[str, Any]:
    """What the ledger says of a forecast.

    Args:
        record: of the forecast.
        in_time: whether it was made before the comparison began; later ones are noted, and not scored.
        comparison: name of the session.
        begun: when it began.
        setting: of the comparison, as plain values.
    """
    forecast = record["forecast"]
    return {
        "date": begun,
        "forecast": {"number": record["number"], "sha256": record["sha256"], "date": forecast["date"]},
        "pair": vars(Pair.of_forecast(forecast)),
        "inTime": in_time,
        "predicted": forecast["prediction"]["gain"],
        "predictedVerdict": forecast["prediction"]["verdict"],
        "rivals": forecast["rivals"],
        "comparison": comparison,
        "seeds": len(setting["seeds"]),
        "subjects": len(setting["subjects"]),
        "trainingCases": setting["trainingCases"],
        "gain": setting["gain"],
        "verdict": setting["verdict"],
    }


def scored(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The outcomes that count: of each pair the newest one of its last forecast that was made in time."""
    chosen: dict[tuple[str, ...], Mapping[str, Any]] = {}
    for record in records:
        outcome = record["outcome"]
        if not outcome["inTime"] or outcome["gain"] is None or outcome["gain"]["mean"] is None:
            continue
        pair = tuple(sorted(outcome["pair"].values()))
        if pair not in chosen or outcome["forecast"]["number"] >= chosen[pair]["forecast"]["number"]:
            chosen[pair] = outcome
    return list(chosen.values())


def evaluate(outcomes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Say how good forecasts were, as plain values.

    Returns:
        "pairs": how many; "coverage": the share whose interval held the measured gain; "verdicts": how often each
        forecast verdict met each measured one; "rankCorrelation": Spearman's coefficient with the measured gain, of the
        forecast and of each rival, with the number of pairs that have it; None where there are fewer than three.
    """
    measured = [float(outcome["gain"]["mean"]) for outcome in outcomes]
    predicted = [outcome["predicted"] for outcome in outcomes]
    known = [
        (one, gain) for one, gain in zip(predicted, measured, strict=True) if None not in (one["low"], one["high"])
    ]
    held = [one["low"] <= gain <= one["high"] for one, gain in known]
    verdicts: dict[str, int] = {}
    for outcome in outcomes:
        name = f"{outcome['predictedVerdict']}: {outcome['verdict']}"
        verdicts[name] = verdicts.get(name, 0) + 1
    columns = {FORECAST: [one["mean"] for one in predicted]}
    for outcome in outcomes:
        for name in outcome["rivals"]:
            columns.setdefault(name, [_number(other["rivals"].get(name)) for other in outcomes])
    return {
        "pairs": len(outcomes),
        "coverage": {"held": sum(held), "of": len(held)},
        "verdicts": verdicts,
        "rankCorrelation": {name: _correlation(values, measured) for name, values in columns.items()},
    }


def evaluation_text(evaluation: Mapping[str, Any]) -> str:
    """The evaluation in lines."""
    coverage, pairs = evaluation["coverage"], evaluation["pairs"]
    lines = [
        f"Forecasts scored: {counted(pairs, 'pair')} of source model and data.",
        f"  intervals that held the measured gain: {coverage['held']} of {coverage['of']}",
    ]
    lines += [f"  forecast {name}: {count}" for name, count in evaluation["verdicts"].items()]
    for name, found in evaluation["rankCorrelation"].items():
        shown = "too few pairs" if found["coefficient"] is None else f"{found['coefficient']:.2f}"
        lines.append(f"  rank correlation of {name} with the measured gain: {shown} ({found['pairs']} pairs)")
    return "\n".join(lines)


def spearman(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Spearman's rank correlation; equal values share their mean rank. None with fewer than three, or all equal."""
    if len(one) < FEWEST_FOR_RANKS:
        return None
    ranks = np.stack([_ranks(one), _ranks(other)])
    ranks -= ranks.mean(axis=1, keepdims=True)
    norm = float(np.sqrt((ranks**2).sum(axis=1).prod()))
    return float((ranks[0] * ranks[1]).sum()) / norm if norm > 0 else None


def _ranks(values: Sequence[float]) -> np.ndarray:
    """float64 [value]: from 1, the mean rank for equal ones."""
    array = np.asarray(values, np.float64)
    smaller = (array[:, np.newaxis] > array).sum(axis=1)
    equal = (array[:, np.newaxis] == array).sum(axis=1)
    ranks: np.ndarray = smaller + (equal + 1) / 2
    return ranks


def _correlation(values: Sequence[float | None], measured: Sequence[float]) -> dict[str, Any]:
    known = [(value, gain) for value, gain in zip(values, measured, strict=True) if value is not None]
    coefficient = spearman([value for value, _ in known], [gain for _, gain in known])
    return {"coefficient": coefficient, "pairs": len(known)}


def _number(value: Any) -> float | None:
    """The number of a rival, which may be an interval."""
    found = value.get("mean") if isinstance(value, Mapping) else value
    return None if found is None else float(found)


def _chain(path: Path) -> RecordChain:
    return RecordChain(path, "outcome", "an outcome")
