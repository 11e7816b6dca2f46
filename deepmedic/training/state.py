"""Where a training session stands: the counters from which everything random and scheduled follows."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypedDict

from deepmedic.training import early_stopping
from deepmedic.training.early_stopping import StoppingState
from deepmedic.training.schedules import ScheduleState, initial_state

Stage = Literal["samples", "train", "volumes"]


@dataclass
class Position:
    """The next thing to do. Segments, augmentation and dropout are functions of the seed and these counters.

    That is why no state of a random generator is kept: whatever was interrupted is repeated exactly.
    """

    epoch: int = 0
    subepoch: int = 0
    stage: Stage = "samples"
    """Within the subepoch: validation on samples, then training; "volumes" follows the last subepoch."""
    batch: int = 0
    """Batches trained in this subepoch."""
    step: int = 0
    """Training steps since optimisation began."""

    def next_subepoch(self) -> None:
        self.subepoch, self.stage, self.batch = self.subepoch + 1, "samples", 0

    def next_epoch(self) -> None:
        self.epoch, self.subepoch, self.stage, self.batch = self.epoch + 1, 0, "samples", 0


class PhaseState(TypedDict):
    """What is remembered of the phase that a training is in; a training without phases is one phase."""

    index: int
    """From 0."""
    first_epoch: int
    """Epoch in which it began."""
    start_score: float | None
    """Validation score of the weights it began with; None: not measured."""
    last_score: float | None
    """The last one in this phase so far."""
    best: dict[str, Any] | None
    """As `TrainingState.best`, of the epochs of this phase alone."""
    restores_best: bool
    """Whether the phase ends with the weights of that epoch, so that its checkpoint must be kept."""


def phase_at(index: int, first_epoch: int, start_score: float | None) -> PhaseState:
    """Return the state of a phase that begins."""
    return {
        "index": index,
        "first_epoch": first_epoch,
        "start_score": start_score,
        "last_score": None,
        "best": None,
        "restores_best": False,
    }


@dataclass
class TrainingState:
    """What a checkpoint keeps of a session beside the model and the optimiser; plain types only."""

    session: str
    seed: int
    origin: dict[str, Any]
    settings: dict[str, Any]
    """The training config as plain values, to say what changed when the session goes on."""
    position: Position = field(default_factory=Position)
    phase: PhaseState = field(default_factory=lambda: phase_at(0, 0, None))
    schedule: ScheduleState = field(default_factory=initial_state)
    """Its epochs are counted from the start of the phase."""
    stopping: StoppingState = field(default_factory=early_stopping.initial_state)
    """Of the phase."""
    forgot: bool = False
    """Whether the training was ended because too much of the source task was lost."""
    best: dict[str, Any] | None = None
    """Mean foreground Dice, epoch and save index of the best checkpoint."""
    save_index: int = 0
    """Counts the checkpoints of the session; the newest has the highest, whatever the clock says."""
    finished: bool = False
    rewound: dict[str, Any] | None = None
    """Path and SHA-256 of the session's own checkpoint that a command named to go on from, if one did."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Cases left out so far, each with the reason; they decide the exit code of the session."""
    files: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)
    """By role, case and what a file is to it: its mark, to say which files changed when the session goes on."""

    def to_plain(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> TrainingState:
        """Restore what `to_plain` returned, also that of an earlier version, which knew less."""
        values = {item.name: plain[item.name] for item in fields(cls) if item.name in plain and item.name != "position"}
        state = cls(**values, position=Position(**plain["position"]))
        if "best" not in plain.get("phase", {}):
            in_phase = state.best is not None and state.best["epoch"] >= state.phase["first_epoch"]
            state.phase = {**phase_at(0, 0, None), **state.phase, "best": state.best if in_phase else None}
        return state
