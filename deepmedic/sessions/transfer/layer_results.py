"""What `-analyseLayers` writes: tables, JSON, pictures."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from deepmedic import versions
from deepmedic.analysis.layer_importance import Importance
from deepmedic.analysis.weight_distance import total_l2
from deepmedic.arguments import Arguments
from deepmedic.config.inference import TestConfig
from deepmedic.config.plain import digest_of_plain, to_plain
from deepmedic.errors import FINISHED_WITH_SKIPPED_CASES
from deepmedic.files import write_json_atomically
from deepmedic.inference.results import case_fingerprint, labels_fingerprint
from deepmedic.locks import session_lock
from deepmedic.logs import session_log
from deepmedic.plain_content import finite
from deepmedic.plots.canvas import can_draw
from deepmedic.plots.layers import draw_layers
from deepmedic.sessions.common.kept_results import refuse_other_results
from deepmedic.sessions.common.result_tables import write_table
from deepmedic.sessions.inference import testing
from deepmedic.sessions.reports.reporting import after_session
from deepmedic.sessions.transfer import analysis_check
from deepmedic.sessions.transfer.kept_units import KeptUnits
from deepmedic.sessions.transfer.layer_analysis import LayerFindings, LayerPlan, analyse, prepare

log = logging.getLogger(__name__)

_UNITS = "finished_units.json"
_IDLE = 0.01
"""Drop in Dice below which a layer may as well go back to its start."""


def run(arguments: Arguments, config: TestConfig) -> int:
    """Make an analysis of layers, write everything below `folderForOutput`, and return the exit code.

    Raises:
        DeepMedicError: something is wrong; or the folder holds the results of another analysis.
    """
    plan = prepare(arguments, config)
    paths = plan.inference.paths
    folder, request = paths.layers, request_digest(plan)
    if arguments.check:
        finished = refuse_other_results(folder, folder / "layers.json", request, overwrite=arguments.overwrite)
        return analysis_check.layers(plan, finished=finished)
    with ExitStack() as stack:
        stack.enter_context(session_lock(paths.folder, f"{paths.session}.layers"))
        stack.enter_context(session_log(paths.layers_log))
        if refuse_other_results(folder, folder / "layers.json", request, overwrite=arguments.overwrite):
            log.info("This analysis was made before; its results are in %s.", folder)
            return 0
        for note in plan.notes:
            log.warning("%s", note)
        kept = KeptUnits(folder / _UNITS, request)
        if not arguments.overwrite:
            kept = KeptUnits.read(folder / _UNITS, request)
        findings = analyse(plan, kept)
        _write(plan, findings, folder, request)
        kept.remove()
    return FINISHED_WITH_SKIPPED_CASES if findings.skipped else 0


def request_digest(plan: LayerPlan) -> str:
    """SHA-256 of what was asked for: models, config, images and labels, and the seed."""
    inference = plan.inference
    identity = testing.saving(inference, testing.inference_settings(inference)).run
    return digest_of_plain(
        {
            "models": [one.sha256 for one in (*inference.models, plan.other) if one is not None],
            "config": to_plain(replace(inference.config, report=True)),
            "cases": [[case_fingerprint(case, identity), labels_fingerprint(case)] for case in inference.data.cases],
            "seed": plan.seed,
            "program": versions.VERSION,
        }
    )


def to_plain_findings(findings: LayerFindings) -> dict[str, Any]:
    """Plain values for JSON; what is infinite or not a number is null."""
    plain = {
        "layers": findings.layers,
        "voxels": findings.voxels,
        "skippedCases": findings.skipped,
        "reference": findings.importance[0].reference,
        "idleBelow": _IDLE,
        "weightDistance": [
            {
                "layer": row.layer,
                "unchanged": row.unchanged,
                "weights": vars(row.weights),
                "batchNorm": vars(row.batch_norm),
                "statistics": vars(row.statistics),
            }
            for row in findings.distances
        ],
        "totalL2": total_l2(findings.distances),
        "importance": [_plain_importance(one) for one in findings.importance],
        "knn": [
            {
                "layer": row.layer,
                "network": row.network,
                "dice": row.dice.to_plain(),
                "balancedAccuracy": row.balanced_accuracy.to_plain(),
            }
            for row in findings.knn
        ],
        "cka": {
            name: {"values": similarity.values.tolist(), "notDefined": dict(similarity.reasons)}
            for name, similarity in findings.similarities.items()
        },
    }
    return dict(finite(plain))


def _write(plan: LayerPlan, findings: LayerFindings, folder: Path, request: str) -> None:
    """Write tables and pictures, and last the JSON, by which a finished analysis is known."""
    models = [str(one.path) for one in (*plan.inference.models, plan.other) if one is not None]
    head = {"format": 1, "request": request, "seed": plan.seed, "program": versions.VERSION, "models": models}
    head |= {"notes": plan.notes}
    plain = {**head, **to_plain_findings(findings)}
    written = [write_table(folder / f"{name}.csv", rows) for name, rows in _tables(findings).items()]
    if can_draw():
        written += draw_layers(plain, folder)
    write_json_atomically(folder / "layers.json", plain)
    for path in [*written, folder / "layers.json"]:
        log.info("Written: %s", path)
    unchanged = [row.layer for row in findings.distances if row.unchanged]
    if unchanged:
        log.info("Layers that training left as they were: %s", ", ".join(unchanged))
    single = [one for one in findings.importance if one.unit.kind == "layer" and not math.isnan(one.criticality)]
    if single:
        most = max(single, key=lambda one: one.criticality)
        log.info("Dice of the model: %.4f", most.reference)
        log.info("Most critical layer: %s (drop in Dice %.4f as at the start)", most.unit.name, most.criticality)
        idle = ", ".join(one.unit.name for one in single if one.criticality < _IDLE)
        log.info("Layers that may go back to their start for less than %g of Dice: %s", _IDLE, idle or "none")
    after_session(plan.inference.paths, plan.inference.config.report)
    log.info("Next: how the layers are named and shaped:\n  deepmedic -inspect %s", models[0])


def _tables(findings: LayerFindings) -> dict[str, list[Sequence[Any]]]:
    """Rows of every table by its name, the heads first."""
    distances: list[Sequence[Any]] = [
        ["layer", *(f"{group}_{kind}" for group in ("weights", "batch_norm", "statistics")
                    for kind in ("l2", "relative", "cosine"))]
    ]  # fmt: skip
    distances += [
        [row.layer, *(value for one in (row.weights, row.batch_norm, row.statistics) for value in vars(one).values())]
        for row in findings.distances
    ]
    distances.append(["total", total_l2(findings.distances), *[math.nan] * 8])
    importance: list[Sequence[Any]] = [
        ["unit", "kind", "dice_reinitialised", "drop_reinitialised", "drop_rerandomised", "sd_rerandomised"]
    ]
    reference = findings.importance[0].reference
    importance.append(["model", "reference", reference, 0.0, 0.0, 0.0])
    importance += [
        [one.unit.name, one.unit.kind, one.reinitialised, one.criticality, *one.random_drop]
        for one in findings.importance
    ]
    knn: list[Sequence[Any]] = [
        ["layer", "network", "dice", "dice_low", "dice_high", "balanced_accuracy", "accuracy_low", "accuracy_high"]
    ]
    knn += [
        [row.layer, row.network, *vars(row.dice).values(), *vars(row.balanced_accuracy).values()]
        for row in findings.knn
    ]
    pairs = [name for name in findings.similarities if len(set(name.split("-"))) == 2]
    diagonal: list[Sequence[Any]] = [["layer", *pairs]]
    diagonal += [
        [layer, *(findings.similarities[name].values[place, place] for name in pairs)]
        for place, layer in enumerate(findings.layers)
    ]
    tables = {"weight_distance": distances, "layer_importance": importance, "layerwise_knn": knn, "cka": diagonal}
    for name, similarity in findings.similarities.items():
        rows = [[layer, *values] for layer, values in zip(findings.layers, similarity.values.tolist(), strict=True)]
        tables[f"cka_{name.replace('-', '_')}"] = [["layer", *findings.layers], *rows]
    return tables


def _plain_importance(one: Importance) -> dict[str, Any]:
    drop, deviation = one.random_drop
    return {
        "unit": one.unit.name,
        "kind": one.unit.kind,
        "layers": one.unit.layers,
        "dice": one.reinitialised,
        "criticality": one.criticality,
        "randomDrop": drop,
        "randomDropDeviation": deviation,
        "randomDice": one.rerandomised,
    }
