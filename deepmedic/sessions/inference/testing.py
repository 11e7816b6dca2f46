"""An inference session: segment the listed scans with a saved model, score them where labels are listed."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
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
from deepmedic.data.case_headers import check_without_model
from deepmedic.data.cases import Case
from deepmedic.data.dataset import DataSet, read_data_set
from deepmedic.errors import ProblemList
from deepmedic.files import write_text_atomically
from deepmedic.inference import paper_table, tables
from deepmedic.inference.bids_layout import DESCRIPTION, IGNORED, BidsLayout
from deepmedic.inference.blending import blending_of
from deepmedic.inference.case_prediction import mirrorings
from deepmedic.inference.evaluation import described
from deepmedic.inference.execution import InferenceSettings
from deepmedic.inference.feature_maps import selected_feature_maps
from deepmedic.inference.label_tables import write_label_tables
from deepmedic.inference.parts import Part, part_lock, session_name
from deepmedic.inference.results import ExistingResults, ResultFiles, RunIdentity, output_name
from deepmedic.inference.segment_cases import SegmentationOptions, SegmentationSummary, segment_cases
from deepmedic.inference.survey import Saving, survey
from deepmedic.logs import EventLog, session_log
from deepmedic.model.saved import SavedModel
from deepmedic.sessions.common import estimates
from deepmedic.sessions.common.paths import SessionPaths
from deepmedic.sessions.inference.ensemble import (
    NamedModel,
    compare_spacings,
    find_models,
    members_of,
    needs_of,
    refuse_what_needs_other_models,
    speaking_for_all,
    tiling_of,
)
from deepmedic.sessions.inference.model_use import (
    ComparedWithTraining,
    as_in_training,
    compare_with_training,
)
from deepmedic.sessions.inference.overlap import shared_with_training
from deepmedic.sessions.reports.reporting import after_session
from deepmedic.sessions.reports.session_record import EVENT, case_facts, common_facts, model_facts
from deepmedic.training.interruption import Interrupted, Interruption
from deepmedic.words import counted

log = logging.getLogger(__name__)


@dataclass
class TestPlan:
    """An inference session that can be started: all checks but those of voxels are passed."""

    __test__ = False  # not a test class, whatever pytest thinks of the name

    arguments: Arguments
    config: TestConfig
    paths: SessionPaths
    device: torch.device
    data: DataSet
    models: list[NamedModel]
    """All models whose probabilities are averaged."""
    notes: list[str] = field(default_factory=list)
    in_a_session: bool = True
    """Whether there is a session's folder, which is locked and gets logs."""

    @property
    def part(self) -> Part | None:
        """The part of the session that this process segments; None: all of it."""
        return None if self.arguments.part is None else Part(*self.arguments.part)

    @property
    def own_paths(self) -> SessionPaths:
        """Where this process logs: each part of a session for itself."""
        return replace(self.paths, session=session_name(self.paths.session, self.part))

    @property
    def files(self) -> ResultFiles:
        """Where results go."""
        config, architecture = self.config, self.model.architecture
        ranges = selected_feature_maps(architecture, config.output)
        uncertainty = config.prediction.uncertainty
        bids = bids_layout(config, self.data.cases, self.model)
        files = ResultFiles(self.paths.predictions, config.output, architecture.classes, ranges, uncertainty)
        return replace(files, bids=bids)

    @property
    def label_tables(self) -> tuple[Path, str]:
        """Folder of the tables that tell viewers the names of classes, and what their file names begin with."""
        return self.paths.predictions, ""

    @property
    def results(self) -> Path:
        """What the user is told as the place of results."""
        return self.paths.predictions

    @property
    def model(self) -> SavedModel:
        """The first model, which speaks for all."""
        return speaking_for_all(self.models)

    @property
    def own_padding(self) -> bool:
        """Whether cases are padded for each model as in its training; else for all as the config says."""
        return False

    @property
    def tiling(self) -> Literal["segments", "auto"]:
        """Of all models; the original's tiles if one of them was made for these."""
        return tiling_of(self.config.tiling, self.config.source, [one.model for one in self.models])

    @property
    def passes(self) -> int:
        """How often each case is predicted."""
        return len(self.models) * len(mirrorings(self.config.prediction))


def prepare(arguments: Arguments, config: TestConfig, model_config: ModelConfig | None) -> TestPlan:
    """Read the model, listing files and headers; check them together.

    Raises:
        DeepMedicError: everything that is wrong, listed together; nothing was written.
    """
    problems = ProblemList()
    device = torch.device("cpu")
    with problems.gather():
        device = devices.choose_device(arguments.device)
    models: list[NamedModel] = []
    with problems.gather():
        models = find_models(arguments, config, model_config)
    if not models:
        check_without_model(config.data, "inference", config.preprocessing, problems, needs_labels=False)
        problems.raise_if_any()
        raise AssertionError("a session without a model was not refused")
    model = speaking_for_all(models)
    with problems.gather():
        config = fit_test_config(config, model.config)
    taken: list[str] = []
    with problems.gather():
        # Configs of the original know no resampleTo, and go on with a warning as before.
        taken += compare_spacings(models, config.preprocessing, refuse=config.source.dialect == "toml")
    preprocessing = replace(config.preprocessing, resample_to=None)  # should the right one not be known
    with problems.gather():
        preprocessing, told = as_in_training(config.preprocessing, config.source, model)
        taken += told
    config = replace(config, preprocessing=preprocessing)
    with problems.gather():
        refuse_what_needs_other_models(config, len(models))
    data = read_data_set(config.data, "inference", config.preprocessing, needs_of(model), problems, needs_labels=False)
    notes = [*config.source.notes, *taken, *data.notes]
    for one in models:
        with problems.gather():
            refuse = config.source.dialect == "toml"
            notes += compare_with_training(data, one.model, refuse_other_spacing=refuse)
    notes = list(dict.fromkeys(notes))
    paths = SessionPaths(config.folder_for_output, config.session_name)
    with problems.gather():
        bids_layout(config, data.cases, model)
    with problems.gather():
        estimates.check_disk(paths.folder, estimates.result_bytes(data, model.architecture.classes))
    problems.raise_if_any()
    notes += [note for one in models for note in shared_with_training(one.model, data.cases, str(one.path))]
    plan = TestPlan(arguments, config, paths, device, data, models, notes)
    if plan.tiling == "auto" and config.prediction.blending != "none":
        plan.notes.append(
            'tileBlending changes nothing but rounding with tiling = "auto", whose tiles agree wherever they overlap'
        )
    return plan


def run(plan: TestPlan) -> int:
    """Segment all cases and return the exit code.

    Raises:
        DeepMedicError: a case cannot be used, or results of another run are in the way.
    """
    paths = plan.paths
    with ExitStack() as stack:
        if plan.in_a_session:
            stack.enter_context(part_lock(paths.folder, paths.session, plan.part))
        existing = find_existing(plan)
        if plan.in_a_session:
            stack.enter_context(session_log(plan.own_paths.log))
        stack.enter_context(devices.session_numerics(plan.device, plan.config.execution))
        try:
            return _run(plan, existing)
        except Interrupted as interrupted:
            log.warning("%s: finished cases are kept. Repeat the same command to compute the rest.", interrupted)
            return interrupted.exit_code


def find_existing(plan: TestPlan) -> dict[int, ExistingResults]:
    """Return the results that an earlier run of this session wrote, by index of the case.

    Raises:
        OutputHeldError: there are results of another run.
    """
    indices = None if plan.part is None else plan.part.indices(len(plan.data))
    return survey(plan.data.cases, saving(plan, inference_settings(plan)), indices)


def _run(plan: TestPlan, existing: dict[int, ExistingResults]) -> int:
    config = plan.config
    precision = config.execution.precision
    if plan.in_a_session:
        _record(plan)  # first of all: a report shows the warnings since then
    log.info("Session %s on %s, precision %s.", plan.paths.session, devices.describe(plan.device), precision)
    for one in plan.models:
        log.info("Model: %s (SHA-256 %s)", one.path, one.sha256[:12])
    if plan.part is not None:
        mine = len(plan.part.indices(len(plan.data)))
        log.info("Part %d of %d: %d of %s.", plan.part.number, plan.part.of, mine, counted(len(plan.data), "case"))
    if plan.passes > 1:
        log.info("Each case is predicted %d times; probabilities are averaged.", plan.passes)
    for note in plan.notes:
        log.warning("%s", note)
    for one in plan.models:
        if not one.model.trained:
            log.warning("%s", _untrained(one.model))
    interruption = Interruption()
    with interruption.listening(), tqdm(desc="segmenting", unit="batch", leave=False, disable=None) as progress:

        def advance(*_: object) -> None:
            progress.update()
            interruption.raise_if_requested()

        inference = inference_settings(plan)
        target = saving(plan, inference)
        _describe_bids(plan, target.files)
        options = SegmentationOptions(
            inference=inference,
            refinement=config.prediction,
            saving=target,
            part=plan.part,
            allow_skipped_cases=config.preprocessing.allow_skipped_cases,
            class_names=plan.model.config.class_names,
            scoring=config.scoring,
            progress=advance,
        )
        data = ComparedWithTraining(plan.data, {str(one.path): one.model for one in plan.models})
        members = members_of(plan.models, plan.device, own_padding=plan.own_padding)
        summary = segment_cases(members, data, options, existing)
    _report(plan, summary)
    return summary.exit_code


def _describe_bids(plan: TestPlan, files: ResultFiles) -> None:
    """Write the description that makes a folder one of BIDS derivatives, if results go to one."""
    if files.bids is not None:
        path = files.folder / DESCRIPTION
        write_text_atomically(path, files.bids.description(plan.paths.session, [one.sha256 for one in plan.models]))
        if files.uncertainty:
            name, text = IGNORED
            write_text_atomically(files.folder / name, text)


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
        blending=blending_of(plan.config.prediction),
        across_cases=not devices.is_deterministic(plan.device, plan.config.execution),
    )


def bids_layout(config: TestConfig, cases: Sequence[Case], model: SavedModel) -> BidsLayout | None:
    """The places of results as BIDS derivatives, when the config asks for these.

    Raises:
        DataError: two cases would have the same files.
    """
    if config.output.layout != "bids":
        return None
    names = [output_name(index, case) for index, case in enumerate(cases)]
    return BidsLayout.of(cases, names, model.architecture.classes, model.config.class_names)


def saving(plan: TestPlan, inference: InferenceSettings) -> Saving:
    """Where the results of a session go."""
    config, digests = plan.config, [one.sha256 for one in plan.models]
    padded = [one.model.data.pad_images for one in plan.models] if plan.own_padding else []
    identity = RunIdentity.of(digests[0], inference, config.preprocessing, config.prediction, digests, padded)
    scoring = {**to_plain(config.scoring), "classNames": plan.model.config.class_names}
    return Saving(plan.files, identity, plan.arguments.overwrite, scoring)


def _report(plan: TestPlan, summary: SegmentationSummary) -> None:
    computed, kept = len(summary.computed), len(summary.kept)
    if plan.in_a_session:
        found = {"computed": summary.computed, "kept": summary.kept, "failures": summary.failures}
        EventLog(plan.own_paths.events).write("segmented", **found)
    skipped = len(summary.failures)
    log.info("%s segmented, %d kept from before, %d skipped.", counted(computed, "case"), kept, skipped)
    stem = "metrics"
    if summary.whole_session is not None:
        summary = replace(summary, evaluations=summary.whole_session)
    elif plan.part is not None:
        stem = f"metrics.{plan.part}"
    means = summary.mean_dices
    if means is not None:
        log.info("Mean Dice over cases: %s", described(means, plan.model.class_names))
        scores = tables.summary(summary.rows)
        log.info("%s\n%s", paper_table.heading(scores), paper_table.console(scores))
        log.info("Metrics: %s", plan.paths.predictions / f"{stem}.csv")
        log.info("A table for a paper (Markdown, LaTeX): %s", plan.paths.predictions / f"{stem}.md")
    log.info("Results: %s", plan.results)
    after_session(plan.paths, plan.config.report and plan.in_a_session)
    if plan.config.output.save_segmentation:
        _advise_viewers(plan)


def _advise_viewers(plan: TestPlan) -> None:
    """Write the tables of names of classes, if they have names, and say how to look at a result."""
    written = ((case, plan.files.segmentation(output_name(index, case))) for index, case in enumerate(plan.data.cases))
    found = next((pair for pair in written if pair[1].is_file()), None)
    if found is None:
        return
    case, segmentation = found
    scan = next(image.path for image in case.channels if image is not None)
    names, viewer, other = plan.model.config.class_names, f"itksnap -g {scan} -s {segmentation}", ""
    if names is not None:
        itk_snap, fsleyes = write_label_tables(*plan.label_tables, names)
        log.info("Names and colours of the classes: %s (ITK-SNAP), %s (FSLeyes)", itk_snap, fsleyes)
        viewer += f" -l {itk_snap}"
        other = f"\n  fsleyes {scan} {segmentation} -ot label -l {fsleyes}"
    log.info("Next: look at them over their scans in a viewer, for instance:\n  %s%s", viewer, other)


def _record(plan: TestPlan) -> None:
    """Note what an inference session runs with."""
    facts = {
        "kind": "inference",
        **common_facts(plan.arguments, plan.config, plan.device),
        "model": model_facts(plan.model, plan.models[0].path, plan.models[0].sha256),
        "ensemble": [{"file": str(one.path.resolve()), "sha256": one.sha256} for one in plan.models[1:]],
        "tiling": plan.tiling,
        "results": os.path.relpath(plan.files.folder, plan.paths.folder),
        "cases": case_facts(plan.data.cases, plan.files),
    }
    EventLog(plan.paths.events).write(EVENT, **facts)
