"""What `advice.py` found: means over repetitions with intervals, differences within repetitions, and a picture."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepmedic.analysis.ledger import evaluate, evaluation_text, read_ledger, scored
from deepmedic.analysis.scores import Interval, interval
from deepmedic.errors import ResourceError
from deepmedic.plots.canvas import COLOURS, drawing, new_figure, save_figure

Outcome = Mapping[str, Any]
"""What `advice.repeat` returns for one source in one repetition."""

TRAININGS = ("default", "fine-tuned", "as advised", "frozen")
BAD = "bad choice"
DIFFERENCES = (("as advised", "default"), ("as advised", "fine-tuned"), ("as advised", BAD), ("fine-tuned", "default"))
SMALLEST = 0.02
"""Dice below which a difference does not matter, as in `-analyse` and `-compare`."""


@dataclass(frozen=True)
class SourceResult:
    """All repetitions with one source."""

    source: str
    verdicts: Mapping[str, int]
    dice: Mapping[str, Interval]
    """By training; those that some repetition does not have are left out."""
    differences: Mapping[tuple[str, str], Interval]
    remaining: float
    """Of the head start that probes saw on volumes, the part that was left after training; nan without head start."""

    def to_plain(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "source": self.source,
            "verdicts": dict(self.verdicts),
            "dice": {name: found.to_plain() for name, found in self.dice.items()},
            "differences": {
                f"{one} - {other}": {**found.to_plain(), "verdict": verdict(found)}
                for (one, other), found in self.differences.items()
            },
            "remainingShare": None if math.isnan(self.remaining) else self.remaining,
        }


def bad_choice(outcome: Outcome) -> float:
    """The Dice of the opposite of the advice."""
    return float(outcome["dice"]["frozen" if outcome["verdict"] == "transfer" else "fine-tuned"])


def summarise(outcomes: Sequence[Outcome]) -> list[SourceResult]:
    """Put the repetitions of every source together, in the order in which sources come."""
    return [_of_source(name, outcomes) for name in dict.fromkeys(one["source"] for one in outcomes)]


def remaining_share(outcomes: Sequence[Outcome]) -> float:
    """Least-squares slope through 0 of the measured gain over the gain that probes foretold on volumes.

    Only where they foretold one that matters; nan where they never did.
    """
    told = [one for one in outcomes if one["probeGainOnVolumes"]["mean"] >= SMALLEST]
    probes = np.array([one["probeGainOnVolumes"]["mean"] for one in told])
    gains = np.array([one["dice"]["fine-tuned"] - one["dice"]["default"] for one in told])
    return float(probes @ gains / (probes @ probes)) if told else math.nan


def verdict(difference: Interval) -> str:
    """In a word: an interval on one side of 0 shows a difference, and a small one does not matter."""
    if difference.low > 0 or difference.high < 0:
        size = "" if abs(difference.mean) >= SMALLEST else ", but small"
        return ("better" if difference.mean > 0 else "worse") + size
    return "no evidence of a difference"


def text(results: Sequence[SourceResult], negatives: Sequence[Mapping[str, Any]], repetitions: int) -> str:
    """Tables for the console and the file."""
    lines = [f"Mean foreground Dice on the scans of people left over, {repetitions} repetitions; in brackets 95 %", ""]
    lines += [f"{'source':13}{'verdicts':50}" + "".join(f"{name:>23}" for name in TRAININGS)]
    for one in results:
        told = ", ".join(f"{count} {name}" for name, count in one.verdicts.items())
        lines.append(f"{one.source:13}{told:50}" + "".join(f"{one.dice.get(name, '-')!s:>23}" for name in TRAININGS))
    lines += ["", f"{'source':13}{'difference':28}{'mean and interval':>25}  verdict"]
    for one in results:
        for (first, second), found in one.differences.items():
            lines.append(f"{one.source:13}{f'{first} - {second}':28}{found!s:>25}  {verdict(found)}")
    if negatives:
        lines += ["", "Planted negatives:"]
        for kind in dict.fromkeys(one["kind"] for one in negatives):
            told = Counter(one["verdict"] for one in negatives if one["kind"] == kind)
            lines.append(f"  {kind}: " + ", ".join(f"{count} {name}" for name, count in told.items()))
    return "\n".join(lines) + "\n"


def write_results(path: Path, outcomes: list[Outcome], negatives: list[Mapping[str, Any]], ledger: Path) -> str:
    """Write `<path>.json`, `.txt` and `.png`, and return the text."""
    results = summarise(outcomes)
    forecasts = evaluate(scored(read_ledger(ledger)))
    share = remaining_share(outcomes)
    shown = text(results, negatives, len({one["seed"] for one in outcomes}))
    shown += f"\n{evaluation_text(forecasts)}\nOf the probes' gain on volumes was left after training: {share:.2f}\n"
    plain = {
        "results": [one.to_plain() for one in results],
        "forecasts": forecasts,
        "remainingShare": None if math.isnan(share) else share,
        "outcomes": outcomes,
        "negatives": negatives,
    }
    path.with_suffix(".json").write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".txt").write_text(shown, encoding="utf-8")
    try:
        draw(outcomes, path.with_suffix(".png"))
    except ResourceError as problem:
        shown += f"No picture: {problem}\n"
    return shown


def draw(outcomes: Sequence[Outcome], path: Path) -> Path:
    """A panel for each source: the Dice of every training, repetitions joined by lines, means with their intervals."""
    results = summarise(outcomes)
    with drawing():
        figure = new_figure(2.2 * len(results) + 0.6, 3.2, "constrained")
        panels = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
        for axes, one in zip(panels, results, strict=True):
            own = [outcome for outcome in outcomes if outcome["source"] == one.source]
            for outcome in own:
                known = [place for place, name in enumerate(TRAININGS) if name in outcome["dice"]]
                axes.plot(known, [outcome["dice"][TRAININGS[place]] for place in known], color="0.8", linewidth=0.8)
            for place, name in enumerate(TRAININGS):
                values = [outcome["dice"][name] for outcome in own if name in outcome["dice"]]
                axes.plot([place] * len(values), values, "o", color="0.6", markersize=2.5)
                if name in one.dice:
                    found = one.dice[name]
                    ends = [[found.mean - found.low], [found.high - found.mean]]
                    axes.errorbar(
                        [place], [found.mean], yerr=ends, marker="s", markersize=5, capsize=3, color=COLOURS[place]
                    )
            told = "\n".join(f"{count} {name}" for name, count in one.verdicts.items())
            axes.set_title(f"from {one.source}\n{told}", fontsize=8)
            axes.set_xticks(range(len(TRAININGS)), TRAININGS, rotation=30)
        panels[0].set_ylabel("mean foreground Dice, person left over")
        return save_figure(figure, path)


def _of_source(name: str, outcomes: Sequence[Outcome]) -> SourceResult:
    own = [one for one in outcomes if one["source"] == name]
    dice = {training: [one["dice"].get(training, math.nan) for one in own] for training in TRAININGS}
    values = {training: np.array(found) for training, found in dice.items() if not np.isnan(found).any()}
    every = {**values, BAD: np.array([bad_choice(one) for one in own])}
    return SourceResult(
        source=name,
        verdicts=Counter(one["verdict"] for one in own),
        dice={training: interval(found, 0) for training, found in values.items()},
        differences={(one, other): interval(every[one] - every[other], 0) for one, other in DIFFERENCES},
        remaining=remaining_share(own),
    )
