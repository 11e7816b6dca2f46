"""An inference session: segment the listed scans with a saved model, score them where labels are listed."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from deepmedic import devices
from deepmedic.arguments import Arguments
from deepmedic.config.inference import TestConfig
from deepmedic.config.load import fit_test_config
from deepmedic.config.model import ModelConfig
from deepmedic.data.dataset import CaseNeeds, DataSet, read_data_set
from deepmedic.errors import CommandLineError, DataError, DeepMedicError, ProblemList
from deepmedic.inference.execution import InferenceSettings
from deepmedic.inference.feature_maps import selected_feature_maps
from deepmedic.inference.results import ResultFiles, RunIdentity
from deepmedic.inference.segment_cases import Saving, SegmentationOptions, SegmentationSummary, segment_cases
from deepmedic.locks import session_lock
from deepmedic.logs import EventLog, log_refusal, session_log
from deepmedic.metrics import format_ratio
from deepmedic.model.saved import SavedModel
from deepmedic.sessions import estimates
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
    def tiling(self) -> str:
        return choose_tiling(self.config, self.model)


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
        stack.enter_context(session_log(paths.log))
        try:
            return _run(plan)
        except Interrupted as interrupted:
            log.warning("%s: finished cases are kept. Repeat the same command to compute the rest.", interrupted)
            return interrupted.exit_code
        except DeepMedicError as problem:
            log_refusal(paths.log, str(problem))
            raise


def choose_tiling(config: TestConfig, model: SavedModel) -> str:
    """The original's tiles wherever its configs, models or a tile size of the user's are involved; else fast ones."""
    if config.tiling is not None:
        return config.tiling
    dialects = (config.source.dialect, model.dialect)
    original = any(dialect != "toml" for dialect in dialects)
    return "segments" if original or model.config.segment_size_inference_given else "auto"


def compare_with_training(data: DataSet, model: SavedModel) -> list[str]:
    """Refuse cases whose arrays run in other directions than those of training; say where else they differ.

    Raises:
        DataError: the axis order differs.
    """
    trained, notes = model.data, []
    if trained.axis_order is None or not data.headers:
        return notes
    if data.preprocessing.orientation != trained.orientation:
        raise DataError(
            f'the model was trained with orientation = "{trained.orientation}", this config says '
            f'"{data.preprocessing.orientation}"; set orientation = "{trained.orientation}".'
        )
    codes = data.headers[0].header.axis_codes
    if codes != trained.axis_order:
        raise DataError(
            f"{data.headers[0].header.path}: the axes of this image run {codes}, those of the training images ran "
            f"{trained.axis_order}; the network would see it flipped or turned. Store the images as in training, or "
            'train and segment with orientation = "RAS".'
        )
    spacing = data.median_spacing()
    if trained.spacing is not None and any(abs(a / b - 1) > 0.05 for a, b in zip(spacing, trained.spacing, strict=True)):
        notes.append(
            f"The voxel spacing of these cases is {_millimetres(spacing)}, in training it was "
            f"{_millimetres(trained.spacing)}: the network knows shapes in voxels. Resample the images for good results."
        )
    if trained.zscore is not None and trained.zscore != asdict(data.preprocessing.zscore):
        notes.append(
            f"norm_zscore_prms differ from training: {asdict(data.preprocessing.zscore)} here, {trained.zscore} there. "
            "The network expects intensities as in training."
        )
    return notes


def _find_model(
    arguments: Arguments, config: TestConfig, model_config: ModelConfig | None
) -> tuple[Path, SavedModel, str]:
    point = find_start_point(arguments, config.model_path, model_config)
    if point is None or point.weights is None:
        raise CommandLineError(
            "-test needs a trained model: -model X.save, -model FOLDER, -load X, or cnnModelFilePath in the config."
        )
    return read_weights(point)


def _run(plan: TestPlan) -> int:
    config, model = plan.config, plan.model
    devices.configure(plan.device, config.execution)
    log.info("Session %s on %s, precision %s.", plan.paths.session, devices.describe(plan.device), config.execution.precision)
    log.info("Model: %s (SHA-256 %s)", plan.model_path, plan.model_sha256[:12])
    for note in plan.notes:
        log.warning("%s", note)
    if not model.trained:
        log.warning("This model was never trained: its segmentations mean nothing.")
    inference = InferenceSettings(
        segment=model.config.segment_size_inference,
        batch_size=config.batch_size,
        tiling="segments" if plan.tiling == "segments" else "auto",
        precision=config.execution.precision,
        device=plan.device,
    )
    interruption = Interruption()
    with interruption.listening(), tqdm(desc="segmenting", unit="batch", leave=False, disable=None) as progress:

        def advance(*_: object) -> None:
            progress.update()
            interruption.raise_if_requested()

        options = SegmentationOptions(
            inference=inference,
            saving=_saving(plan, inference),
            allow_skipped_cases=config.preprocessing.allow_skipped_cases,
            class_names=model.config.class_names,
            progress=advance,
        )
        summary = segment_cases(model.network().to(plan.device), plan.data, options)
    _report(plan, summary)
    return summary.exit_code


def _saving(plan: TestPlan, inference: InferenceSettings) -> Saving:
    architecture = plan.model.architecture
    ranges = selected_feature_maps(architecture, plan.config.output)
    files = ResultFiles(plan.paths.predictions, plan.config.output, architecture.classes, ranges)
    identity = RunIdentity.of(plan.model_sha256, inference, plan.config.preprocessing)
    return Saving(files, identity, plan.arguments.overwrite)


def _report(plan: TestPlan, summary: SegmentationSummary) -> None:
    events = EventLog(plan.paths.events)
    computed, kept = len(summary.computed), len(summary.kept)
    events.write("segmented", computed=summary.computed, kept=summary.kept, failures=summary.failures)
    log.info("%d cases segmented, %d kept from before, %d skipped.", computed, kept, len(summary.failures))
    means = summary.mean_dices
    if means is not None:
        names = plan.model.config.class_names or tuple(f"class {c}" for c in range(plan.model.architecture.classes))
        parts = [f"{name} {format_ratio(value)}" for name, value in zip(names[1:], means.dice1[1:], strict=True)]
        log.info("Mean Dice over cases: %s", ", ".join(parts))
        log.info("Metrics: %s", plan.paths.predictions / "metrics.csv")
    log.info("Segmentations: %s", plan.paths.predictions / "predictions")
    log.info("Next: look at them in a viewer, for instance ITK-SNAP or FSLeyes, over the scans they were made from.")


def _millimetres(spacing: tuple[float, float, float]) -> str:
    return " x ".join(f"{size:.3g}" for size in spacing) + " mm"
