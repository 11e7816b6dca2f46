"""An inference session: segment the listed scans with a saved model, score them where labels are listed."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from tqdm import tqdm

from deepmedic import devices
from deepmedic.arguments import Arguments
from deepmedic.config.inference import TestConfig
from deepmedic.config.load import fit_test_config
from deepmedic.config.model import ModelConfig
from deepmedic.config.plain import to_plain
from deepmedic.data.dataset import CaseNeeds, DataSet, check_without_model, read_data_set
from deepmedic.errors import CommandLineError, ProblemList
from deepmedic.inference import paper_table, tables
from deepmedic.inference.evaluation import described
from deepmedic.inference.execution import InferenceSettings
from deepmedic.inference.feature_maps import selected_feature_maps
from deepmedic.inference.results import ExistingResults, ResultFiles, RunIdentity, output_name
from deepmedic.inference.segment_cases import SegmentationOptions, SegmentationSummary, segment_cases
from deepmedic.inference.survey import Saving, survey
from deepmedic.locks import session_lock
from deepmedic.logs import EventLog, session_log
from deepmedic.model.saved import SavedModel
from deepmedic.sessions import estimates
from deepmedic.sessions.model_use import choose_tiling, compare_with_training
from deepmedic.sessions.paths import SessionPaths
from deepmedic.sessions.start import find_start_point, read_weights
from deepmedic.training.interruption import Interrupted, Interruption

log = logging.getLogger(__name__)


@dataclass
class TestPlan:
    """An inference session that can be started: all checks but those of voxels are passed."""

    __test__ = False  # not a test class, whatever pytest thinks of the name

    arguments: Arguments
    config: TestConfig
    paths: SessionPaths
    device: torch.device
    model: SavedModel
    model_path: Path
    model_sha256: str
    data: DataSet
    notes: list[str] = field(default_factory=list)

    @property
    def tiling(self) -> Literal["segments", "auto"]:
        return choose_tiling(self.config.tiling, self.config.source, self.model)


def prepare(arguments: Arguments, config: TestConfig, model_config: ModelConfig | None) -> TestPlan:
    """Read the model, listing files and headers; check them together.

    Raises:
        DeepMedicError: everything that is wrong, listed together; nothing was written.
    """
    problems = ProblemList()
    device = torch.device("cpu")
    with problems.gather():
        device = devices.choose_device(arguments.device)
    found: tuple[Path, SavedModel, str] | None = None
    with problems.gather():
        found = _find_model(arguments, config, model_config)
    if found is None:
        check_without_model(config.data, "inference", config.preprocessing, problems, needs_labels=False)
        problems.raise_if_any()
        raise AssertionError("a session without a model was not refused")
    path, model, sha256 = found
    with problems.gather():
        config = fit_test_config(config, model.config)
    architecture, segment = model.architecture, model.config.segment_size_inference
    needs = CaseNeeds(architecture.classes, architecture.margins(segment), segment, architecture.input_channels)
    data = read_data_set(config.data, "inference", config.preprocessing, needs, problems, needs_labels=False)
    notes = [*config.source.notes, *data.notes]
    with problems.gather():
        notes += compare_with_training(data, model)
    paths = SessionPaths(config.folder_for_output, config.session_name)
    with problems.gather():
        estimates.check_disk(paths.folder, estimates.result_bytes(data, architecture.classes))
    problems.raise_if_any()
    return TestPlan(arguments, config, paths, device, model, path, sha256, data, notes)


def run(plan: TestPlan) -> int:
    """Segment all cases and return the exit code.

    Raises:
        DeepMedicError: a case cannot be used, or results of another run are in the way.
    """
    paths = plan.paths
    with ExitStack() as stack:
        stack.enter_context(session_lock(paths.folder, paths.session))
        existing = find_existing(plan)
        stack.enter_context(session_log(paths.log))
        stack.enter_context(devices.session_numerics(plan.device, plan.config.execution))
        try:
            return _run(plan, existing)
        except Interrupted as interrupted:
            log.warning("%s: finished cases are kept. Repeat the same command to compute the rest.", interrupted)
            return interrupted.exit_code


def _find_model(
    arguments: Arguments, config: TestConfig, model_config: ModelConfig | None
) -> tuple[Path, SavedModel, str]:
    point = find_start_point(arguments, config.model_path, model_config)
    if point is None or point.weights is None:
        raise CommandLineError(
            "-test needs a trained model: -model X.save, -model FOLDER, -load X, or cnnModelFilePath in the config."
        )
    path, model, sha256 = read_weights(point)
    return path, model if point.config is None else model.with_config(point.config), sha256


def find_existing(plan: TestPlan) -> dict[int, ExistingResults]:
    """Return the results that an earlier run of this session wrote, by index of the case.

    Raises:
        OutputHeldError: there are results of another run.
    """
    return survey(plan.data.cases, saving(plan, inference_settings(plan)))


def _run(plan: TestPlan, existing: dict[int, ExistingResults]) -> int:
    config, model = plan.config, plan.model
    precision = config.execution.precision
    log.info("Session %s on %s, precision %s.", plan.paths.session, devices.describe(plan.device), precision)
    log.info("Model: %s (SHA-256 %s)", plan.model_path, plan.model_sha256[:12])
    for note in plan.notes:
        log.warning("%s", note)
    if not model.trained:
        log.warning("%s", _untrained(model))
    interruption = Interruption()
    with interruption.listening(), tqdm(desc="segmenting", unit="batch", leave=False, disable=None) as progress:

        def advance(*_: object) -> None:
            progress.update()
            interruption.raise_if_requested()

        inference = inference_settings(plan)
        options = SegmentationOptions(
            inference=inference,
            saving=saving(plan, inference),
            allow_skipped_cases=config.preprocessing.allow_skipped_cases,
            class_names=model.config.class_names,
            scoring=config.scoring,
            progress=advance,
        )
        summary = segment_cases(model.network().to(plan.device), plan.data, options, existing)
    _report(plan, summary)
    return summary.exit_code


def _untrained(model: SavedModel) -> str:
    """What a user should know of a model without any training of its own."""
    if (model.provenance or {}).get("kind") in ("pretrained", "adapted"):
        return "This model was not trained since it received parameters from another one."
    return "This model was never trained: its segmentations mean nothing."


def inference_settings(plan: TestPlan) -> InferenceSettings:
    """How the volumes of a session are predicted."""
    return InferenceSettings(
        segment=plan.model.config.segment_size_inference,
        batch_size=plan.config.batch_size,
        tiling=plan.tiling,
        precision=plan.config.execution.precision,
        device=plan.device,
    )


def saving(plan: TestPlan, inference: InferenceSettings) -> Saving:
    """Where the results of a session go."""
    architecture = plan.model.architecture
    ranges = selected_feature_maps(architecture, plan.config.output)
    files = ResultFiles(plan.paths.predictions, plan.config.output, architecture.classes, ranges)
    identity = RunIdentity.of(plan.model_sha256, inference, plan.config.preprocessing)
    scoring = {**to_plain(plan.config.scoring), "classNames": plan.model.config.class_names}
    return Saving(files, identity, plan.arguments.overwrite, scoring)


def _report(plan: TestPlan, summary: SegmentationSummary) -> None:
    events = EventLog(plan.paths.events)
    computed, kept = len(summary.computed), len(summary.kept)
    events.write("segmented", computed=summary.computed, kept=summary.kept, failures=summary.failures)
    log.info("%d cases segmented, %d kept from before, %d skipped.", computed, kept, len(summary.failures))
    means = summary.mean_dices
    if means is not None:
        log.info("Mean Dice over cases: %s", described(means, plan.model.class_names))
        scores = tables.summary(summary.rows)
        log.info("%s\n%s", paper_table.heading(scores), paper_table.console(scores))
        log.info("Metrics: %s", plan.paths.predictions / "metrics.csv")
        log.info("A table for a paper (Markdown, LaTeX): %s", plan.paths.predictions / "metrics.md")
    log.info("Results: %s", plan.paths.predictions)
    if plan.config.output.save_segmentation:
        case = plan.data.cases[0]
        segmentation = saving(plan, inference_settings(plan)).files.segmentation(output_name(0, case))
        scan = next(image.path for image in case.channels if image is not None)
        log.info(
            "Next: look at them over their scans in a viewer, for instance:\n  itksnap -g %s -s %s", scan, segmentation
        )
