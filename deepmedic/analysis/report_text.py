"""An analysis in words and tables, for the console and a file."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deepmedic.analysis.model_analysis import ModelAnalysis
from deepmedic.analysis.scores import Interval
from deepmedic.analysis.transferability import LayerComparison, LayerScores
from deepmedic.metrics import mean_of_numbers

_WIDTH = 100
_HEAD = "  ".join(
    (
        f"{'layer':<15} {'channels':>8}",
        f"{'kNN Dice':<15}",
        f"{'probe Dice':<15}",
        f"{'probe gain [95 %]':<25}",
        f"{'LogME':<15}",
        f"{'H-score':<12}",
        "CC-FV",
    )
)


def layer_line(comparison: LayerComparison) -> str:
    """One line of the table of layers: pretrained / random, for every score."""

    def pair(score: Any, digits: int) -> str:
        own, random = score(comparison.pretrained), comparison.random_mean(score)
        return f"{own:.{digits}f} / {random:.{digits}f}"

    cells = (
        f"{comparison.layer:<15} {comparison.pretrained.channels:>8}",
        f"{pair(_knn_dice, 3):<15}",
        f"{pair(_probe_dice, 3):<15}",
        f"{comparison.probe_gain!s:<25}",
        f"{pair(lambda scores: scores.logme, 2):<15}",
        f"{pair(lambda scores: scores.h_score, 2):<12}",
        pair(lambda scores: scores.ccfv.score, 2),
    )
    return "  ".join(cells)


def model_text(analysis: ModelAnalysis, compatibility: Sequence[str] = ()) -> str:
    """All that is known of one model, in a page; with sentences on how it fits the new model."""
    lines = [f"MODEL {analysis.candidate.name}", ""]
    if compatibility:
        lines += ["What a new model could receive:", *(line for text in compatibility for line in _wrapped(text)), ""]
    lines.append("How its layers do on the new cases (pretrained / random weights):")
    lines += [_HEAD, *(layer_line(comparison) for comparison in analysis.layers), ""]
    lines += [*_shift_lines(analysis), "", *_curve_lines(analysis), "", *_advice_lines(analysis)]
    return "\n".join(lines)


def ranking_text(analyses: Sequence[ModelAnalysis], unfit: Mapping[str, str]) -> str:
    """The models, best first, and those that cannot be transferred with the reason."""
    lines = []
    if len(analyses) > 1:
        lines += ["RANKING OF THE MODELS (by what their features add to random ones)", ""]
        lines.append("rank  model                           gain [95 %]               LogME   CC-FV   advice")
        for rank, one in enumerate(analyses, 1):
            _, logme = one.rank_key
            lines.append(
                f"{rank:<5} {one.candidate.name:<31} {one.evidence.gain!s:<25} {logme:<7.3f} {one.ccfv:<7.3f} "
                f"{one.recommendation.verdict}"
            )
    lines += [f"Cannot be transferred: {path}\n{textwrap.indent(reason, '  ')}" for path, reason in unfit.items()]
    return "\n".join(lines)


def data_text(description: Mapping[str, Any]) -> str:
    """The new cases, in a few lines."""
    shape = " x ".join(f"{size:g}" for size in description["shapeMedian"])
    spacing = " x ".join(f"{size:.3g}" for size in description["spacing"])
    voxels = ", ".join(f"{name}: {count:.0f}" for name, count in description["voxels"].items())
    return (
        f"DATA: {description['cases']} labelled cases of {description['subjects']} subjects, median size {shape} "
        f"voxels of {spacing} mm.\nVoxels by class that the models reach, over all cases: {voxels}."
    )


def _shift_lines(analysis: ModelAnalysis) -> Iterator[str]:
    shift = analysis.shift
    yield "How far the new images are from those the model was trained on:"
    for one in shift.intensities:
        yield (
            f"  {one.channel}: means {one.shift:.2f} standard deviations apart, spread {one.spread:.2f} times that of "
            f"the source, 1-Wasserstein distance {one.wasserstein:.3f}"
        )
    ratio = shift.spacing["ratio"]
    if ratio is not None:
        target, source = (" x ".join(f"{size:.3g}" for size in shift.spacing[key]) for key in ("target", "source"))
        yield f"  voxels of {target} mm, in training {source} mm"
    stored = [one for one in shift.features if one.stored is not None]
    if stored:
        listed = ", ".join(f"{one.layer} {one.stored:.2f}" for one in stored)
        yield from _wrapped(
            f"what each layer is given, against the statistics of its batch norm (relative Frechet distance): {listed}"
        )
    measured = [one for one in shift.features if one.measured is not None]
    if measured:
        listed = ", ".join(f"{one.layer} {one.measured:.2f}" for one in measured)
        yield from _wrapped(f"features of source and new cases (relative Frechet distance): {listed}")
    yield from (f"  {note}" for note in shift.notes)


def _curve_lines(analysis: ModelAnalysis) -> Iterator[str]:
    yield f"Linear probe on {analysis.evidence.best_layer}, by the number of cases that it learns from:"
    for point in analysis.curve.points:
        yield f"  {point.cases:>4}: Dice {point.dice}"


def _advice_lines(analysis: ModelAnalysis) -> Iterator[str]:
    advice = analysis.recommendation
    yield f"ADVICE: {advice.verdict.upper()}"
    for reason in advice.reasons:
        yield from _wrapped(f"- {reason}.")
    if analysis.as_it_is is not None and not advice.keep_classes:
        yield from _wrapped(f"- without any training the model reaches a Dice of {analysis.as_it_is} here.")
    yield from _wrapped(f"- labelled cases: {advice.cases}.")
    yield from _wrapped(f"- {predicted_text(advice.predicted_gain)}.")
    epochs = sum(phase.epochs for phase in advice.phases)
    yield from _wrapped(
        f"- length: {epochs} epochs of {analysis.segments_per_epoch} segments, as from random weights, which predict "
        f"each labelled voxel {times_text(analysis.passes)}."
    )
    for phase in advice.phases:
        frozen = f", depths {_range(phase.frozen)} frozen" if phase.frozen else ""
        yield from _wrapped(
            f"- phase '{phase.name}': {phase.epochs} epochs at learning rate {phase.learning_rate:g}, "
            f"{rate_text(phase.rate)} from random weights{frozen}: {phase.reason}."
        )


def predicted_text(gain: Interval) -> str:
    """The forecast in a sentence."""
    if math.isnan(gain.mean):
        return "predicted gain in Dice of transfer over random initialisation: not known"
    return (
        f"predicted gain in Dice of transfer over random initialisation, after training: {gain.mean:+.3f}, from "
        f"{gain.low:+.3f} to {gain.high:+.3f}"
    )


def times_text(number: float) -> str:
    """How often, in words."""
    return f"about {number:.0f} times" if number >= 10 else f"about {number:.2g} times"


def rate_text(share: float) -> str:
    """A share of the learning rate from scratch, in words."""
    return "that" if share == 1 else f"{share:g} times that"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="    ", break_long_words=False)


def _range(depths: Sequence[int]) -> str:
    return f"{depths[0]} to {depths[-1]}" if len(depths) > 1 else str(depths[0])


def _knn_dice(scores: LayerScores) -> float:
    return mean_of_numbers(scores.knn.foreground_dice())


def _probe_dice(scores: LayerScores) -> float:
    return mean_of_numbers(scores.probe.foreground_dice())
