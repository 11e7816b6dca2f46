"""What is known of a training by its layers and rates, as sections of a report: `-analyseLayers` and `-findLr`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepmedic.report.content import Findings, NamedTable, Picture, Table


def layer_findings(content: Mapping[str, Any], folder: Path) -> list[Findings]:
    """Describe `layers.json`: importance, distances, neighbours and similarity of every layer."""
    importance = content["importance"]
    single = [one for one in importance if one["kind"] == "layer" and one["criticality"] is not None]
    most = max(single, key=lambda one: one["criticality"], default=None)
    idle = [one["unit"] for one in single if one["criticality"] < content["idleBelow"]]
    unchanged = [row["layer"] for row in content["weightDistance"] if row["unchanged"]]
    headline = {"Dice of the model": _number(content["reference"])}
    if most is not None:
        headline["Most critical layer"] = f"{most['unit']} (drop {most['criticality']:.3f})"
    sentences = [f"Layers that may go back to their start for less than {content['idleBelow']:g} of Dice: "
                 f"{', '.join(idle) or 'none'}."]  # fmt: skip
    if unchanged:
        sentences.append(f"Layers that training left as they were: {', '.join(unchanged)}.")
    sentences += [f"Case {name} was left out: {why}" for name, why in content["skippedCases"].items()]
    tables = [_importance(importance), _distances(content["weightDistance"]), _neighbours(content["knn"])]
    tables.append(_similarity(content["layers"], content["cka"], content["voxels"]))
    return [
        Findings(
            anchor="layers",
            title="Layers",
            headline=headline,
            sentences=(*sentences, *content.get("notes", ())),
            tables=tuple(tables),
            pictures=(
                Picture(folder / "layers.png", "Distance from the start, importance and neighbours of every layer"),
                Picture(folder / "cka.png", "Heat maps of CKA between all layers, for pairs of networks"),
            ),
            facts={"models": content["models"], "version": content["program"], "seed": content["seed"]},
            files={"all numbers": folder / "layers.json", "folder with tables": folder},
        )
    ]


def rate_findings(content: Mapping[str, Any], folder: Path) -> list[Findings]:
    """Describe `lr_finder.json`: the suggestion, and every rate of the grid."""
    grid, ramp = content["grid"], content["ramp"]
    headline = {"Suggestion": _rate(content["suggestion"])}
    if grid:
        headline |= {"Lowest cost": _rate(content["lowestCost"]), "Highest Dice": _rate(content["highestDice"])}
    if ramp is not None:
        headline["Steepest fall of the ramp"] = _rate(ramp["suggestion"])
    rows = tuple(
        (f"{row['learningRate']:.4g}", "diverged" if row["diverged"] else row["cost"], row["dice"]) for row in grid
    )
    table = NamedTable("Rates of the grid", Table(("learning rate", "validation cost", "mean foreground Dice"), rows))
    return [
        Findings(
            anchor="learning-rate",
            title="Search for a learning rate",
            headline=headline,
            sentences=tuple(content.get("notes", ())),
            tables=(table,) if grid else (),
            pictures=(Picture(folder / "lr_finder.png", "Cost and Dice against the learning rate"),),
            facts={"version": content["program"], "seed": content["seed"]},
            files={"all numbers": folder / "lr_finder.json", "folder with tables": folder},
        )
    ]


def _importance(units: Sequence[Mapping[str, Any]]) -> NamedTable:
    rows = tuple((one["unit"], one["kind"], one["criticality"], one["randomDrop"]) for one in units)
    columns = ("unit", "kind", "drop as at the start", "drop when drawn anew")
    return NamedTable("Importance", Table(columns, rows), "Drop in mean foreground Dice when a unit is replaced.")


def _distances(distances: Sequence[Mapping[str, Any]]) -> NamedTable:
    rows = tuple((row["layer"], *(row["weights"][name] for name in ("l2", "relative", "cosine"))) for row in distances)
    columns = ("layer", "mean L2 per number", "relative", "cosine")
    return NamedTable("Distance of weights from the start", Table(columns, rows), "Without batch norm.")


def _neighbours(found: Sequence[Mapping[str, Any]]) -> NamedTable:
    rows = tuple((row["layer"], row["network"], row["dice"]["mean"], row["balancedAccuracy"]["mean"]) for row in found)
    columns = ("layer", "network", "Dice", "balanced accuracy")
    return NamedTable("Nearest neighbours", Table(columns, rows), "On voxels of other subjects.", folded=True)


def _similarity(layers: Sequence[str], pairs: Mapping[str, Mapping[str, Any]], voxels: int) -> NamedTable:
    """CKA of each layer with itself, for pairs of different networks."""
    shown = {name: found["values"] for name, found in pairs.items() if len(set(name.split("-"))) == 2}
    rows = tuple((layer, *(values[at][at] for values in shown.values())) for at, layer in enumerate(layers))
    columns = ("layer", *(name.replace("-", " and ") for name in shown))
    return NamedTable("Similarity of layers (CKA)", Table(columns, rows), f"From {voxels} voxels.")


def _rate(rate: float | None) -> str:
    return "none" if rate is None else f"{rate:.3g}"


def _number(value: float | None) -> str:
    return "not known" if value is None else f"{value:.4f}"
