"""Validation on whole volumes during training: the validation cases are segmented and scored after an epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from deepmedic.config.training import TrainConfig
from deepmedic.devices import is_deterministic
from deepmedic.inference.case_reading import CaseSource
from deepmedic.inference.execution import InferenceSettings
from deepmedic.inference.feature_maps import selected_feature_maps
from deepmedic.inference.results import ResultFiles, RunIdentity
from deepmedic.inference.segment_cases import Saving, SegmentationOptions, segment_cases
from deepmedic.model.network import DeepMedicNet
from deepmedic.model.saved import SavedModel
from deepmedic.sessions.inference.model_use import choose_tiling
from deepmedic.training.history import VolumeRecord


class VolumeValidation:
    """Segments the validation cases as a whole with the network as it is."""

    def __init__(
        self,
        config: TrainConfig,
        data: CaseSource,
        model: SavedModel,
        device: torch.device,
        predictions: Path,
        leave_if_asked: Callable[[], None],
    ) -> None:
        """Create a validation.

        Args:
            config: of the session.
            data: the validation cases, prepared for whole volumes.
            model: for names of classes and the size of tiles.
            device: where the network is.
            predictions: folder for the results, if the config wants any saved.
            leave_if_asked: called after each batch of tiles; what it raises ends the validation.
        """
        self.skipped: dict[str, str] = {}
        """Name of each case that could not be used so far -> why."""
        self._config = config
        self._data = data
        self._model = model
        self._predictions = predictions
        self._leave_if_asked = leave_if_asked
        self._inference = InferenceSettings(
            segment=model.config.segment_size_inference,
            batch_size=config.volume_batch_size,
            tiling=choose_tiling(None, config.source, model),
            precision=config.execution.precision,
            device=device,
            across_cases=not is_deterministic(device, config.execution),
        )

    def __call__(self, network: DeepMedicNet, epoch: int) -> VolumeRecord:
        """Segment all cases after `epoch` and return their mean Dice.

        Raises:
            DataError: a case cannot be used, and cases may not be skipped.
            ResourceError: memory or disk are not enough.
        """
        options = SegmentationOptions(
            inference=self._inference,
            purpose="Validation",
            saving=self._saving(network, epoch),
            allow_skipped_cases=self._config.preprocessing.allow_skipped_cases,
            class_names=self._model.config.class_names,
            progress=lambda *_: self._leave_if_asked(),
        )
        summary = segment_cases(network, self._data, options)
        self.skipped |= summary.failures
        dices = summary.mean_dices
        return VolumeRecord(asdict(dices) if dices else {}, summary.mean_foreground_dice)

    def _saving(self, network: DeepMedicNet, epoch: int) -> Saving | None:
        """Where results go; None when the config saves none."""
        output = self._config.validation_output
        probability_maps = output.save_probability_maps is None or any(output.save_probability_maps)
        if not (output.save_segmentation or probability_maps or output.save_feature_maps):
            return None
        architecture = network.architecture
        ranges = selected_feature_maps(architecture, output)
        files = ResultFiles(self._predictions, output, architecture.classes, ranges)
        # Those of the epoch before are replaced; there is no file of the model yet, so the epoch stands for it.
        identity = RunIdentity.of(f"epoch {epoch}", self._inference, self._config.preprocessing)
        return Saving(files, identity, overwrite=True)
