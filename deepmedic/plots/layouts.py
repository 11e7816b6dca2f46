"""Which panels a picture of training curves has, in rows: for an overview, for one session, for several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from deepmedic.plots import canvas
from deepmedic.plots.histories import SessionHistory
from deepmedic.plots.panels import Line, Panel, Style, line, panel
from deepmedic.training.history import ROLES, Role

Rows = list[list[Panel]]

_PER_CLASS = {
    "dice": "Dice on samples",
    "sensitivity": "Sensitivity on samples",
    "precision": "Precision on samples",
    "specificity": "Specificity on samples",
}
_NEUTRAL: Style = ("0.25", "")
"""For what concerns all classes, where colours stand for classes."""
_COLUMNS = 4


@dataclass(frozen=True)
class CurveSettings:
    """How curves on samples are drawn."""

    moving_average: int = 1
    dashed_training: bool = True
    """To tell training from validation where both are drawn."""

    def on_samples(
        self, history: SessionHistory, metric: str, role: Role, style: Style, class_index: int | None = None
    ) -> Line | None:
        """Return a metric on samples as a line; None where the session does not have it."""
        curve = history.on_samples(role, metric, class_index)
        dashed = self.dashed_training and role == "training"
        return line(curve, style, dashed=dashed, moving_average=self.moving_average)


def overview(histories: Sequence[SessionHistory], settings: CurveSettings) -> Rows:
    """Mean accuracy over all classes, validation above training; colours stand for sessions."""
    solid = replace(settings, dashed_training=False)
    rows = []
    for role in reversed(ROLES):
        lines = [solid.on_samples(one, "accuracy", role, style) for one, style in _styled(histories)]
        rows.append([panel(f"{role.capitalize()} on samples", lines, label="mean accuracy")])
    return [row for row in rows if row[0].lines]


def one_session(history: SessionHistory, classes: Sequence[int], settings: CurveSettings) -> Rows:
    """Every metric, in which colours stand for classes."""
    pairs = [(c, canvas.curve_style(index)) for index, c in enumerate(classes)]
    dice, sensitivity, precision, specificity = (
        panel(
            title,
            [settings.on_samples(history, metric, role, style, c) for c, style in pairs for role in ROLES],
        )
        for metric, title in _PER_CLASS.items()
    )
    volumes = panel("Dice on whole volumes", [line(history.on_volumes(c), style) for c, style in pairs])
    cost, accuracy, rate = _of_all_classes([(history, _NEUTRAL)], settings)
    source = panel("Mean Dice of the source task", [line(history.on_source_task(), _NEUTRAL)])
    order = [cost, accuracy, dice, volumes, rate, source, sensitivity, precision, specificity]
    filled = [shown for shown in order if shown.lines]
    return [filled[start : start + _COLUMNS] for start in range(0, len(filled), _COLUMNS)]


def several_sessions(histories: Sequence[SessionHistory], classes: Sequence[int], settings: CurveSettings) -> Rows:
    """Every metric, in which colours stand for sessions; each class has a row of its own below what concerns all."""
    pairs = _styled(histories)
    rows = [_of_all_classes(pairs, settings)]
    for c in classes:
        row = [
            panel(title, [settings.on_samples(one, metric, role, s, c) for one, s in pairs for role in ROLES])
            for metric, title in _PER_CLASS.items()
        ]
        row.insert(1, panel("Dice on whole volumes", [line(one.on_volumes(c), style) for one, style in pairs]))
        row[0] = replace(row[0], label=_shared_name(histories, c))
        rows.append(row)
    return rows


def _of_all_classes(pairs: Sequence[tuple[SessionHistory, Style]], settings: CurveSettings) -> list[Panel]:
    """Cost, accuracy and learning rate."""
    solid = replace(settings, dashed_training=False)  # there is no cost of validation to tell it from
    cost = [solid.on_samples(one, "cost", "training", style) for one, style in pairs]
    accuracy = [settings.on_samples(one, "accuracy", role, style) for one, style in pairs for role in ROLES]
    return [
        panel("Cost of training", cost, "cost"),
        panel("Mean accuracy on samples", accuracy),
        panel("Learning rate", [line(one.learning_rate(), style) for one, style in pairs], "rate"),
    ]


def _shared_name(histories: Sequence[SessionHistory], class_index: int) -> str:
    """The name of a class, where all sessions call it the same."""
    names = {history.name_of(class_index) for history in histories}
    return names.pop() if len(names) == 1 else f"class {class_index}"


def _styled(histories: Sequence[SessionHistory]) -> list[tuple[SessionHistory, Style]]:
    return [(history, canvas.curve_style(index)) for index, history in enumerate(histories)]
