"""`-newConfigs`: a ready set of configs and listing files for a data set, after every voxel of it was read."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from deepmedic import devices
from deepmedic.arguments import Arguments
from deepmedic.config.load import load_model_config, load_test_config, load_train_config
from deepmedic.data.cases import read_cases
from deepmedic.data.fingerprint import repeated_voxels
from deepmedic.errors import OutputHeldError, ProblemList, ResourceError
from deepmedic.files import is_other_process_alive, make_folder, write_text_atomically
from deepmedic.logs import init_logging
from deepmedic.planning.config_plan import ConfigPlan, safe_name
from deepmedic.planning.config_text import cross_validation_text, model_text, test_text, train_text
from deepmedic.planning.found import FoundData
from deepmedic.planning.listing_text import listings
from deepmedic.planning.networks import choose_network
from deepmedic.planning.parts import choose_parts
from deepmedic.planning.sources import read_source
from deepmedic.planning.suggestions import suggest
from deepmedic.planning.tables import described
from deepmedic.sessions.checking.data_check import room_for_steps
from deepmedic.sessions.checking.source_survey import SurveyedData, survey_source
from deepmedic.words import counted

log = logging.getLogger(__name__)

_CONFIGS = ("model.cfg", "train.cfg", "test.cfg")
_FOLDS = "cross_validation.cfg"
_MOST_NOTES = 30


def run(arguments: Arguments) -> int:
    """Read the data set, write the configs and return the exit code.

    Raises:
        DataError: the data set cannot be understood, or images of it cannot be used.
        OutputHeldError: the folder holds configs already.
        ResourceError: the folder cannot be written, or the device that was asked for is not there.
    """
    init_logging()
    assert arguments.new_configs is not None
    assert arguments.output is not None
    device = devices.choose_device(arguments.device)
    folder = Path(os.path.abspath(arguments.output))
    _refuse_existing(folder, arguments)
    found = read_source(arguments.new_configs)
    cases = counted(len(found.cases), "case")
    log.info("%s: %s, %s, channels %s.", arguments.new_configs, found.kind, cases, _listed(found))
    surveyed = survey_source(found, arguments.new_configs)
    plan, notes = _plan(arguments, surveyed, device)
    with _staging(folder) as staging:
        plan = _write_configs(staging, plan, surveyed, device)
        files = _write_listings(staging, plan, folder)
        _check(staging, plan)
        _move(staging, folder)
    _tell(folder, plan, [*found.notes, *surveyed.notes, *notes], surveyed, files)
    return 0


def _plan(arguments: Arguments, surveyed: SurveyedData, device: torch.device) -> tuple[ConfigPlan, list[str]]:
    """Everything that is written but the suggestions, which need the network."""
    source = arguments.new_configs
    assert source is not None
    notes = repeated_voxels([surveyed.labelled, surveyed.unlabelled])
    chosen = choose_parts(surveyed.cases, surveyed.digests, arguments.seed)
    name = safe_name(source.resolve().stem if source.is_file() else source.resolve().name)
    if name == "dataset":
        name = safe_name(source.resolve().parent.name)
    plan = ConfigPlan(
        name=name,
        source=f"{source.resolve().name} ({surveyed.found.kind})",
        channel_names=surveyed.found.channel_names,
        class_names=surveyed.found.class_names,
        classes=surveyed.classes,
        network=choose_network(surveyed.labelled.median_spacing, gpu=device.type == "cuda"),
        parts=chosen.parts,
        test_is=chosen.test_is,
        split=chosen.split,
        subjects=chosen.subjects,
        orientation=surveyed.why_turned,
        affine_tolerance=surveyed.why_tolerant,
    )
    return plan, [*notes, *chosen.notes]


def _write_configs(staging: Path, plan: ConfigPlan, surveyed: SurveyedData, device: torch.device) -> ConfigPlan:
    """Write the configs; the network is resolved first, since suggestions depend on it."""
    path = staging / "model.cfg"
    write_text_atomically(path, model_text(plan, None))
    architecture = load_model_config(path).architecture
    room = room_for_steps(architecture, device)
    suggestions = {found.key: found for found in suggest(surveyed.labelled, architecture, room, surveyed.class_names)}
    plan = replace(plan, suggestions=suggestions)
    texts = (model_text(plan, suggestions["segmentsDimTrain"]), train_text(plan), test_text(plan))
    for name, text in zip(_CONFIGS, texts, strict=True):
        write_text_atomically(staging / name, text)
    if plan.is_cross_validated:
        write_text_atomically(staging / _FOLDS, cross_validation_text(plan))
    return plan


def _write_listings(staging: Path, plan: ConfigPlan, folder: Path) -> int:
    texts = listings(plan, folder)
    for name, text in texts.items():
        write_text_atomically(staging / name, text)
    return len(texts)


def _check(staging: Path, plan: ConfigPlan) -> None:
    """Read back what was written, as a session would, up to the lists of images.

    Raises:
        DeepMedicError: what a session would refuse.
    """
    problems = ProblemList()
    model = load_model_config(staging / "model.cfg")
    train = load_train_config(staging / "train.cfg", model=model)
    test = load_test_config(staging / "test.cfg", model=model)
    read_cases(train.data, "training", problems, needs_labels=True, channels=len(plan.channel_names))
    read_cases(test.data, "inference", problems, channels=len(plan.channel_names))
    if plan.parts["validation"]:
        read_cases(train.validation_data, "validation", problems, needs_labels=True, needs_names=True)
    if plan.is_cross_validated:
        folds = load_train_config(staging / _FOLDS, model=model, split_by="-crossValidate")
        read_cases(folds.data, "training", problems, needs_labels=True, channels=len(plan.channel_names))
    problems.raise_if_any()


def _refuse_existing(folder: Path, arguments: Arguments) -> None:
    if folder.exists() and not folder.is_dir():
        raise ResourceError(f"{folder}: this is a file; name a folder with -output.")
    present = [name for name in (*_CONFIGS, _FOLDS, "lists") if (folder / name).exists()]
    if present and not arguments.overwrite:
        raise OutputHeldError(
            f"{folder} holds {', '.join(present)} already. Choose another folder with -output, or replace them with "
            "-overwrite."
        )


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """A folder beside the final one, from which paths lead the same ways; removed at the end, with what failed."""
    make_folder(folder.parent)
    for left in folder.parent.glob(f".{folder.name}.*.partial"):
        pid = left.name.split(".")[-2]
        if left.is_dir() and pid.isdecimal() and int(pid) != os.getpid() and not is_other_process_alive(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    staging = make_folder(folder.parent / f".{folder.name}.{os.getpid()}.partial")
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _move(staging: Path, folder: Path) -> None:
    """Put the finished files in their place: at once, or one by one into a folder that exists; configs come last."""
    try:
        if not folder.exists():
            staging.rename(folder)
            return
        make_folder(folder / "lists")
        for path in sorted((staging / "lists").iterdir()):
            path.replace(folder / "lists" / path.name)
        (folder / _FOLDS).unlink(missing_ok=True)  # an older one would name cases that are listed no more
        for name in (*_CONFIGS, _FOLDS):
            if (staging / name).exists():
                (staging / name).replace(folder / name)
    except OSError as problem:
        raise ResourceError(f"{folder}: cannot be written ({problem.strerror}). Choose another folder.") from problem


def _tell(folder: Path, plan: ConfigPlan, notes: Sequence[str], surveyed: SurveyedData, files: int) -> None:
    for note in notes[:_MOST_NOTES]:
        log.warning("%s", note)
    if len(notes) > _MOST_NOTES:
        log.warning("... and %d more notes.", len(notes) - _MOST_NOTES)
    for line in described(surveyed.labelled, plan.channel_names, surveyed.class_names):
        log.info("%s", line)
    for part, cases in plan.parts.items():
        which = f" ({plan.test_is})" if part == "test" and cases else ""
        log.info("%s: %s%s", part, counted(len(cases), "case"), which)
    written = ", ".join((*_CONFIGS, _FOLDS) if plan.is_cross_validated else _CONFIGS)
    log.info("Wrote %s and %d listing files to %s", written, files, folder)
    shown = os.path.relpath(folder) if folder.is_relative_to(Path.cwd()) else str(folder)
    train = f"deepmedic -newModel {shown}/model.cfg -train {shown}/train.cfg"
    log.info("Next: read the comments in %s/train.cfg, check, train, and segment:", shown)
    log.info("  %s -check", train)
    log.info("  %s", train)
    log.info("  deepmedic -test %s/test.cfg -model %s/output/cnnModels/%s", shown, shown, plan.session)
    if plan.is_cross_validated:
        subjects = len(set(plan.subjects.values()))
        log.info("Or cross-validate, with each of the %d subjects with labels held out once:", subjects)
        log.info("  deepmedic -newModel %s/model.cfg -train %s/%s -crossValidate %d", shown, shown, _FOLDS, plan.folds)


def _listed(found: FoundData) -> str:
    return ", ".join(found.channel_names)
