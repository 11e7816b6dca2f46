"""From Python: parameters from one model to another, and models for other classes or channels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from deepmedic.api import new_model
from deepmedic.config.model import ModelConfig
from deepmedic.model.saved import SavedModel
from deepmedic.sessions.models.weights import read_model
from deepmedic.transfer import adaptation
from deepmedic.transfer.options import NewChannels, TransferOptions
from deepmedic.transfer.report import TransferResult
from deepmedic.transfer.transplant import transplant

__all__ = ["TransferResult", "adapt_model", "transfer_parameters"]


def transfer_parameters(
    source: SavedModel | str | Path,
    target: SavedModel | ModelConfig | str | Path,
    *,
    layers: Sequence[int] | None = None,
    grow: Literal["exact"] | None = None,
    new_channels: NewChannels = "keep",
    transfer_classes: bool = False,
    class_frequencies: Sequence[float] | None = None,
) -> TransferResult:
    """Give a new model what another one learnt, as `-newModel TARGET.cfg -pretrained SOURCE` does.

    Neither model is changed: the result has a copy of the target as `model`, untrained, and the `report` of what each
    tensor received (`report.to_text()`, `report.to_plain()`). Which layers and channels correspond, and what each
    choice is for, is in documentation/transfer.md.

    Args:
        source: the trained model, or where one is saved.
        target: the new model; or a model config or the path of its `.cfg`, for a new one with seed 0. The arguments
            below decide, not the keys `newChannels`, `transferClasses` and `classFrequencies` of the config.
        layers: depths in the source, from 1, along its parallel pathways and then its FC pathway; None: every layer
            except the classification layer.
        grow: "exact": the target, which is larger, computes what the source computes.
        new_channels: weights of image channels that the source lacks: "keep" the target's, "zero", "mean" or "repeat".
        transfer_classes: transfer the classification layer too, the rows of classes that both models know.
        class_frequencies: frequency, or count, of each class of the target, for the biases of new classes.

    Example:
        >>> result = deepmedic.transfer_parameters("output/cnnModels/sessionA", "wider.cfg")
        >>> print(result.report.summary())
        1091 of 1929 parameters (56.6%) of model wider come from model net
        >>> deepmedic.train("train.cfg", result.model)

    Raises:
        ConfigError: the target's `.cfg` has mistakes.
        ModelError: a model cannot be read, or they do not fit each other or what is asked; says why.
    """
    given, sha256 = _given(source)
    options = TransferOptions(
        layers=None if layers is None else tuple(layers),
        new_channels=new_channels,
        transfer_classes=transfer_classes,
        grow=grow,
        class_frequencies=None if class_frequencies is None else tuple(class_frequencies),
        source_sha256=sha256,
    )
    return transplant(given, target if isinstance(target, SavedModel) else new_model(target), options)


def adapt_model(
    model: SavedModel | str | Path,
    *,
    n_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    n_channels: int | None = None,
    channel_names: Sequence[str] | None = None,
    class_frequencies: Sequence[float] | None = None,
) -> TransferResult:
    """Make a model of the same architecture for other classes or image channels, as `-adapt` does.

    The given model is not changed: the result has the new one as `model`, untrained, and the `report` of what each
    tensor received. With the same classes it computes the same, bit by bit. Classes that the model knows by name are
    kept; new ones have weights 0 and the logarithm of their frequency as bias. New channels start from zero.

    Args:
        model: the trained model, or where one is saved.
        n_classes: number of classes, with the background.
        class_names: or their names.
        n_channels: number of image channels.
        channel_names: or their names.
        class_frequencies: frequency, or count, of each class; None: all equal.

    Example:
        >>> result = deepmedic.adapt_model("output/cnnModels/sessionA", n_classes=2, class_frequencies=[0.98, 0.02])
        >>> deepmedic.train("train.cfg", result.model)

    Raises:
        ModelError: the model cannot be read, fewer than two classes, numbers and names that contradict each other, or
            no channel in common.
    """
    given, sha256 = _given(model)
    return adaptation.adapt_model(
        given,
        n_classes=n_classes,
        class_names=class_names,
        n_channels=n_channels,
        channel_names=channel_names,
        class_frequencies=class_frequencies,
        source_sha256=sha256,
    )


def _given(model: SavedModel | str | Path) -> tuple[SavedModel, str | None]:
    """The model, and the SHA-256 of its file if it was read from one."""
    if isinstance(model, SavedModel):
        return model, None
    _, found, sha256 = read_model(Path(model))
    return found, sha256
