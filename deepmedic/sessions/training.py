"""A training session: from a checked plan to a trained model."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

from deepmedic import checkpoints, devices
from deepmedic.config.training import TrainConfig
from deepmedic.data.dataset import DataSet
from deepmedic.data.preprocessing import intensity_fingerprint
from deepmedic.data.source import SegmentSource, SourceSettings
from deepmedic.errors import FINISHED_WITH_SKIPPED_CASES, DeepMedicError
from deepmedic.inference.execution import InferenceSettings
from deepmedic.inference.feature_maps import selected_feature_maps
from deepmedic.inference.results import ResultFiles, RunIdentity
from deepmedic.inference.segment_cases import Saving, SegmentationOptions, segment_cases
from deepmedic.locks import session_lock
from deepmedic.logs import EventLog, log_refusal, session_log
from deepmedic.model import parameters
from deepmedic.model.network import DeepMedicNet
from deepmedic.model.saved import DataDescription, SavedModel
from deepmedic.sessions import estimates, new_model
from deepmedic.sessions.checkpointing import CheckpointWriter
from deepmedic.sessions.resume import Beginning, begin
from deepmedic.sessions.training_plan import TrainingPlan
from deepmedic.training.history import History, VolumeRecord
from deepmedic.training.interruption import Interrupted, Interruption
from deepmedic.training.optimisers import Optimiser, make_optimiser
from deepmedic.training.recorder import Recorder, RecorderOutputs
from deepmedic.training.tensorboard_writer import open_tensorboard
from deepmedic.training.trainer import Trainer, TrainerParts

log = logging.getLogger(__name__)

_FINGERPRINT_CASES = 5


def run(plan: TrainingPlan) -> int:
    """Train as planned and return the exit code.

    Raises:
        DeepMedicError: data, disk or cost turned out bad on the way; every checkpoint written before is kept.
    """
    paths = plan.paths
    if plan.beginning.kind == "finished":
        log.info(_finished_message(plan))
        return 0
    with ExitStack() as stack:
        stack.enter_context(session_lock(paths.folder, paths.session))
        # Another session may have written here between the checks and the lock.
        beginning = begin(plan.request())
        stack.enter_context(session_log(paths.log))
        try:
            return _Session(plan, beginning).run()
        except Interrupted as interrupted:
            log.warning("%s: the state is saved. Repeat the same command to go on exactly where it stopped.", interrupted)
            return interrupted.exit_code
        except DeepMedicError as problem:
            log_refusal(paths.log, str(problem))
            raise


class _Session:
    """One run of a training session, with everything it is put together from."""

    def __init__(self, plan: TrainingPlan, beginning: Beginning) -> None:
        self.plan = plan
        self.config = plan.config
        self.beginning = beginning
        self.interruption = Interruption()
        self.deterministic = devices.configure(plan.device, plan.config.execution)
        self._log_beginning()
        self.model = self._model()
        self.network = self.model.network().to(plan.device)
        frozen = parameters.freeze(self.network, plan.config.freezing)
        if frozen:
            log.info("Frozen layers, whose parameters do not change: %s", ", ".join(frozen))
        self.optimiser = self._optimiser()
        self.history = History.from_plain(beginning.extra["history"]) if beginning.extra else History()
        self.training = self._source(plan.training, "train")
        self.validation = self._source(plan.validation, "val") if plan.validation else None

    def run(self) -> int:
        recorder = self._recorder()
        parts = TrainerParts(
            config=self.config,
            device=self.plan.device,
            network=self.network,
            optimiser=self.optimiser,
            training=self.training,
            validation=self.validation,
            validate_volumes=self._validate_volumes if self.plan.validation_volumes else None,
            recorder=recorder,
            save=self._checkpoint_writer(),
            interruption=self.interruption,
        )
        fresh = self.beginning.kind == "started"
        if fresh and not self.beginning.extra:
            reset = self.beginning.reset
            recorder.optimisation_started(uninitialized=not reset, reset=self.plan.arguments.reset_optimizer)
        try:
            Trainer(parts, self.beginning.state, self.beginning.extra.get("tally")).run(save_first=fresh)
        finally:
            recorder.close()
        return self._finish()

    def _finish(self) -> int:
        models, best = self.plan.paths.models, self.beginning.state.best
        newest = models / checkpoints.latest_name(self.model.name, self.plan.paths.session)
        log.info("The training session is finished.")
        if best is not None:
            log.info("Best mean foreground Dice on validation: %.4f, after epoch #%d.", best["dice"], best["epoch"])
        log.info("Models: %s", models)
        log.info("Log: %s, history: %s", self.plan.paths.log, self.plan.paths.metrics)
        log.info("Next: segment scans with this model:\n  deepmedic -test TEST.cfg -model %s", newest)
        skipped = self.training.skipped | (self.validation.skipped if self.validation else set())
        return FINISHED_WITH_SKIPPED_CASES if skipped else 0

    def _log_beginning(self) -> None:
        beginning, plan = self.beginning, self.plan
        log.info("Session %s on %s, precision %s, %s.", plan.paths.session, devices.describe(plan.device),
                 self.config.execution.precision,
                 "deterministic" if self.deterministic else "not deterministic: repeated runs agree up to rounding")
        for note in plan.notes:
            log.warning("%s", note)
        if beginning.kind == "resumed":
            position = beginning.state.position
            log.info("Going on from %s: epoch #%d, subepoch #%d.", beginning.path, position.epoch, position.subepoch)
        elif beginning.path is not None:
            log.info("Starting from %s.", beginning.path)
        for change in beginning.changes:
            log.warning("Changed since the checkpoint: %s", change)

    def _model(self) -> SavedModel:
        """The model with what the session adds to it: the start of its parameters and a description of the data."""
        model, plan = self.beginning.model, self.plan
        if self.beginning.kind == "resumed":
            return model
        if self.beginning.path is None:
            path = new_model.save(model, plan.paths.new_models)
            log.info("New model: %s", path)
        keeps_start = model.start_parameters is not None and bool(self.beginning.extra)
        start = model.start_parameters if keeps_start else model.parameters
        origin = self.beginning.state.origin
        provenance = model.provenance if origin["kind"] == "new" else {"kind": "trained from", **origin}
        return replace(model, start_parameters=start, data=describe_data(plan.training), provenance=provenance)

    def _optimiser(self) -> Optimiser:
        optimiser = make_optimiser(self.config.optimizer, parameters.optimizer_order(self.network))
        if self.beginning.extra:
            optimiser.load_state_dict(self.beginning.extra["optimiser"])
        return optimiser

    def _source(self, data: DataSet, role: str) -> SegmentSource:
        config, training = self.config, role == "train"
        settings = SourceSettings(
            role=role,
            seed=self.beginning.state.seed,
            segment=data.needs.segment,
            segments=config.segments_per_subepoch if training else config.validation_segments,
            batch_size=config.batch_size if training else config.validation_batch_size,
            cases=config.cases_per_subepoch,
            sampling=config.sampling if training else config.validation_sampling,
            augmentation=config.augmentation if training else None,
            drop_incomplete=True,
        )
        budget = estimates.volume_budget(config, self.plan.device)
        if self.plan.validation is not None:
            # Validation gets what it needs, up to a third; training the rest.
            share = min(estimates.volume_bytes(self.plan.validation), budget // 3)
            budget = budget - share if training else share
        return SegmentSource(data, self.network.architecture, settings, self.plan.device, budget)

    def _recorder(self) -> Recorder:
        paths, config = self.plan.paths, self.config
        tensorboard = open_tensorboard(paths.tensorboard, self.history, config.subepochs) if config.tensorboard_log else None
        outputs = RecorderOutputs(metrics=paths.metrics, events=EventLog(paths.events), tensorboard=tensorboard)
        return Recorder(config, class_names(self.model), outputs, self.history)

    def _checkpoint_writer(self) -> CheckpointWriter:
        folder = self.plan.paths.models
        anew = self.plan.arguments.overwrite and self.beginning.kind == "started" and folder.is_dir()
        replaces = sorted(folder.glob("*.save")) if anew else []
        return CheckpointWriter(folder, self.model, self.network, self.config.keep_last_checkpoints, replaces)

    def _validate_volumes(self, network: DeepMedicNet, epoch: int) -> VolumeRecord:
        assert self.plan.validation_volumes is not None
        summary = segment_cases(network, self.plan.validation_volumes, self._segmentation_options())
        dices = summary.mean_dices
        return VolumeRecord(asdict(dices) if dices else {}, summary.mean_foreground_dice)

    def _segmentation_options(self) -> SegmentationOptions:
        config, model = self.config, self.model
        inference = InferenceSettings(
            segment=model.config.segment_size_inference,
            batch_size=config.volume_batch_size,
            precision=config.execution.precision,
            device=self.plan.device,
        )
        return SegmentationOptions(
            inference=inference,
            purpose="Validation",
            saving=self._saving(inference),
            allow_skipped_cases=config.preprocessing.allow_skipped_cases,
            class_names=model.config.class_names,
            progress=lambda *_: self.interruption.raise_if_requested(),
        )

    def _saving(self, inference: InferenceSettings) -> Saving | None:
        """Where validation results go; None when the config saves none."""
        output = self.config.validation_output
        if not saves_anything(output.save_segmentation, output.save_probability_maps, output.save_feature_maps):
            return None
        ranges = selected_feature_maps(self.network.architecture, output)
        files = ResultFiles(self.plan.paths.predictions, output, self.network.architecture.classes, ranges)
        # Results of the epoch before are replaced; the state of the network stands for the model's file.
        run_identity = RunIdentity.of(f"epoch {self.beginning.state.position.epoch}", inference, self.config.preprocessing)
        return Saving(files, run_identity, overwrite=True)


def saves_anything(segmentation: bool, probability_maps: tuple[bool, ...] | None, feature_maps: bool) -> bool:
    """True when an inference writes files for its cases."""
    return segmentation or feature_maps or probability_maps is None or any(probability_maps)


def class_names(model: SavedModel) -> tuple[str, ...]:
    """Names of the classes for logs: those of the model, else "class 0", "class 1", ..."""
    given = model.config.class_names
    return given if given else tuple(f"class {number}" for number in range(model.architecture.classes))


def describe_data(data: DataSet) -> DataDescription:
    """What a model keeps about the data it is trained on; reads the first cases."""
    fingerprints = [intensity_fingerprint(data.load(index)) for index in range(min(len(data), _FINGERPRINT_CASES))]
    return DataDescription(
        spacing=data.median_spacing(),
        axis_order=data.headers[0].header.axis_codes,
        orientation=data.preprocessing.orientation,
        zscore=asdict(data.preprocessing.zscore),
        pad_images=data.preprocessing.pad_images,
        intensities=fingerprints,
    )


def _finished_message(plan: TrainingPlan) -> str:
    epochs = plan.beginning.state.position.epoch
    return (
        f"The session {plan.paths.session} is finished: its model was trained for {epochs} epochs, and numberOfEpochs is "
        f"{plan.config.epochs}. Nothing was done. To train on, raise numberOfEpochs; to optimise anew, add "
        f"-resetOptimizer; to use the model: deepmedic -test TEST.cfg -model {Path(plan.paths.models)}"
    )

