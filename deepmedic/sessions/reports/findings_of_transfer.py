"""Analyses of transfer, before and after training, as sections of a report: `-analyse` and `-compare`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deepmedic.analysis.report_text import times_text
from deepmedic.metrics import mean_of_numbers
from deepmedic.report.content import Findings, NamedTable, Picture, Table
from deepmedic.sessions.reports.report_tables import transfer_table

_MOST_MODELS = 5
"""That have a section each; the ranking has all."""


def analysis_findings(content: Mapping[str, Any], folder: Path) -> list[Findings]:
    """Describe `analysis.json`: the ranking of several models, and a section for each of the best."""
    models, unfit = content["models"], content["unfit"]
    found = []
    if len(models) > 1 or unfit:
        found.append(_ranking(content, folder))
    for rank, model in enumerate(models[:_MOST_MODELS], 1):
        found.append(_model(content, model, (rank, len(models)), folder))
    return found


def comparison_findings(content: Mapping[str, Any], folder: Path) -> list[Findings]:
    """Describe `comparison.json`: a row per setting and initialisation, and how good forecasts were."""
    settings = content["settings"]
    columns = ("model", "source", "training subjects", "seeds", "scored subjects", "initialisation")
    rows = tuple(
        (
            *(one["model"], one["source"], one["trainingCases"], len(one["seeds"]), len(one["subjects"])),
            arm["initialisation"],
            *_with_interval(arm["dice"]),
            *_with_interval(arm["overRandom"]),
        )
        for one in settings
        for arm in one["arms"]
    )
    measures = ("Dice", "its 95 % interval", "less random", "95 % interval of that")
    verdicts = tuple(
        (
            *(one["model"], one["source"], one["trainingCases"], one["verdict"]),
            *_with_interval(one["relativeGain"]),
            *_with_interval(one["featureReuse"]),
            content["domainDistances"].get(one["source"]),
            one["reason"],
        )
        for one in settings
    )
    shares = ("WT / RI", "its interval", "(WT - ST) / WT", "interval of that")
    tables = [
        NamedTable(
            "Verdicts",
            Table(
                ("model", "source", "training subjects", "verdict", *shares, "distance of the data", "why"), verdicts
            ),
        ),
        NamedTable(
            "Initialisations", Table((*columns, *measures), rows), "Mean foreground Dice of subjects and seeds."
        ),
        *_forecasts(content["forecasts"]),
    ]
    best = max(settings, key=_gain)
    headline = {"Verdict": best["verdict"], "Gain in Dice": _interval_text(best["gain"]), "Of": best["source"]}
    return [
        Findings(
            anchor="comparison",
            title="Comparison of initialisations",
            headline=headline if len(settings) == 1 else {**headline, "Settings": str(len(settings))},
            sentences=(*_verdict_lines(settings), *content.get("notes", ())),
            tables=tuple(tables),
            pictures=(
                Picture(
                    folder / "comparison.png",
                    "Relative gain against the number of subjects to train on and the distance of the data, "
                    "coloured by feature reuse",
                ),
            ),
            facts={"version": content["program"], "begun": content["begun"], "runs": len(content["runs"])},
            files={name: folder / name for name in ("comparison.csv", "runs.csv", "comparison.json")},
        )
    ]


def _gain(setting: Mapping[str, Any]) -> float:
    """The mean gain of a setting, by which the largest is found; that of one without seeds in common is not defined."""
    gain = setting["gain"]
    return -math.inf if gain is None or math.isnan(gain["mean"]) else float(gain["mean"])


def _ranking(content: Mapping[str, Any], folder: Path) -> Findings:
    rows = tuple(
        (
            rank,
            model["model"],
            model["recommendation"]["verdict"],
            *_with_interval(model["evidence"]["gain"]),
            *_with_interval(model["recommendation"]["predictedGain"]),
            model["ccfv"],
            model["source"]["file"],
        )
        for rank, model in enumerate(content["models"], 1)
    )
    columns = ("rank", "model", "advice", "gain of probes", "95 % interval", "predicted gain", "its interval", "CC-FV")
    tables = [NamedTable("Ranking", Table((*columns, "file"), rows), "By what their features add to random ones.")]
    if content["unfit"]:
        tables.append(NamedTable("Cannot be transferred", Table(("file", "why"), tuple(content["unfit"].items()))))
    return Findings(
        anchor="ranking",
        title="Models that might be transferred",
        headline={"Best": content["models"][0]["model"], "Advice": content["models"][0]["recommendation"]["verdict"]},
        tables=tuple(tables),
        pictures=(Picture(folder / "ranking.png", "Gain of each model over random networks, with its interval"),),
    )


def _model(content: Mapping[str, Any], model: Mapping[str, Any], place: tuple[int, int], folder: Path) -> Findings:
    rank, of = place
    advice, first = model["recommendation"], rank == 1
    headline = {
        "Advice": advice["verdict"],
        "Predicted gain in Dice": _interval_text(advice["predictedGain"]),
        "Transfer": _depths(advice["layers"], advice["keepClasses"]),
        "Epochs": str(sum(phase["epochs"] for phase in advice["phases"])),
        "Labelled cases": str(content["data"]["cases"]),
    }
    sentences = [f"{line}." for line in advice["reasons"]]
    if model["asItIs"] is not None and not advice["keepClasses"]:
        sentences.append(f"without any training the model reaches a Dice of {_interval_text(model['asItIs'])} here.")
    sentences += [
        f"labelled cases: {advice['cases']}.",
        f"the training predicts each labelled voxel {times_text(model['passes'])}.",
        *(f"{note}." for note in model["domainShift"]["notes"]),
        *(f"Case {name} was left out: {why}" for name, why in content.get("skippedCases", {}).items()),
        *content.get("notes", ()),
    ]
    source = model["source"]
    received, share = transfer_table(source["transfer"])
    tables = [_phases(advice["phases"]), _layers(model["layers"]), _curve(model), *_shift(model["domainShift"])]
    if received is not None:
        tables.append(NamedTable("What a new model could receive", received, share, folded=True))
    files = {"model to start from": "start.save", "train config": "advised.train.cfg", "in words": "analysis.txt"}
    return Findings(
        anchor=f"analysis-{rank}",
        title=f"Analysis of transfer: {model['model']}" if of > 1 else "Analysis of transfer",
        headline=headline,
        sentences=tuple(sentences),
        tables=tuple(tables),
        pictures=(
            Picture(
                folder / ("layers.png" if of == 1 else f"layers.{rank}.png"),
                "Dice of linear probes and of nearest neighbours on every layer, pretrained and random; the learning "
                "curve; the distance of features to those of the source",
            ),
        ),
        facts={
            "model": source["file"],
            "SHA-256": source["sha256"],
            "version": content["program"],
            "seed": content["seed"],
            "cases": content["data"]["names"],
        },
        files={**({name: folder / file for name, file in files.items()} if first else {}),
               "all scores": folder / "analysis.json"},
    )  # fmt: skip


def _phases(phases: Sequence[Mapping[str, Any]]) -> NamedTable:
    rows = tuple(
        (phase["name"], phase["epochs"], phase["learningRate"], _depths(phase["frozen"], False), phase["reason"])
        for phase in phases
    )
    return NamedTable("Advised training", Table(("phase", "epochs", "learning rate", "frozen", "why"), rows))


def _layers(layers: Sequence[Mapping[str, Any]]) -> NamedTable:
    """A row per layer, each score of the pretrained network beside the mean over random ones."""

    def pair(layer: Mapping[str, Any], of: Callable[[Mapping[str, Any]], float]) -> tuple[float, float]:
        return of(layer["pretrained"]), mean_of_numbers(of(one) for one in layer["random"])

    rows = tuple(
        (
            layer["layer"],
            layer["pretrained"]["channels"],
            *pair(layer, lambda one: mean_of_numbers(one["knn"]["dice"].values())),
            *pair(layer, lambda one: mean_of_numbers(one["probe"]["dice"].values())),
            *_with_interval(layer["gain"]["probeDice"]),
            *pair(layer, lambda one: float(one["logme"])),
            *pair(layer, lambda one: float(one["hScore"])),
            *pair(layer, lambda one: float(one["ccfv"])),
        )
        for layer in layers
    )
    scores = ("kNN Dice", "random", "probe Dice", "random", "gain", "95 % interval", "LogME", "random")
    columns = ("layer", "channels", *scores, "H-score", "random", "CC-FV", "random")
    return NamedTable(
        "Layers",
        Table(columns, rows),
        "Scores on voxels of other subjects, beside those of networks of random weights.",
    )


def _curve(model: Mapping[str, Any]) -> NamedTable:
    rows = tuple((point["cases"], *_with_interval(point["dice"])) for point in model["learningCurve"]["points"])
    title = f"Linear probe on {model['evidence']['bestLayer']}, by the number of cases that it learns from"
    return NamedTable(title, Table(("cases", "Dice", "95 % interval"), rows))


def _shift(shift: Mapping[str, Any]) -> list[NamedTable]:
    tables = []
    if shift["intensities"]:
        rows = tuple((one["channel"], one["shift"], one["spread"], one["wasserstein"]) for one in shift["intensities"])
        columns = ("channel", "distance of means, deviations", "spread, times", "1-Wasserstein distance")
        tables.append(NamedTable("Intensities, against those of the source", Table(columns, rows)))
    if shift["features"]:
        tables.append(_feature_shift(shift["features"]))
    return tables


def _feature_shift(features: Sequence[Mapping[str, Any]]) -> NamedTable:
    rows = tuple((one["layer"], one["stored"], one["measured"]) for one in features)
    table = Table(("layer", "to the statistics of batch norm", "to source cases"), rows)
    return NamedTable("Distance of features to those of the source", table, "Relative Frechet distance.")


def _forecasts(evaluation: Mapping[str, Any]) -> list[NamedTable]:
    if not evaluation["pairs"]:
        return []
    rows = tuple((name, found["coefficient"], found["pairs"]) for name, found in evaluation["rankCorrelation"].items())
    held = evaluation["coverage"]
    note = f"Intervals that held the measured gain: {held['held']} of {held['of']}. Below: Spearman's rank correlation."
    return [NamedTable("Forecasts scored", Table(("score", "with the measured gain", "pairs"), rows), note)]


def _verdict_lines(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    return [f"{settings[0]['verdict']}: {settings[0]['reason']}."] if len(settings) == 1 else []


def _depths(depths: Sequence[int], classes: bool) -> str:
    if not depths:
        return "nothing"
    together = f"depth {depths[0]}" if len(depths) == 1 else f"depths {depths[0]} to {depths[-1]}"
    return f"{together} and the classes" if classes else together


def _with_interval(interval: Mapping[str, float] | None) -> tuple[float | None, tuple[float, float] | None]:
    """A number and the ends of its interval, for two columns."""
    return (None, None) if interval is None else (interval["mean"], (interval["low"], interval["high"]))


def _interval_text(interval: Mapping[str, float] | None) -> str:
    if interval is None or math.isnan(interval["mean"]):
        return "not known"
    return f"{interval['mean']:.3f} ({interval['low']:.3f} to {interval['high']:.3f})"
