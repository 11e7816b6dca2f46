"""The data that a session's config lists, as far as it says so, whatever else is wrong with the file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from deepmedic.config.binding import bind_known
from deepmedic.config.checks import SessionChecks
from deepmedic.config.inference import TestConfig
from deepmedic.config.kinds import refuse_other_kind, vocabulary
from deepmedic.config.reader import read_config
from deepmedic.config.schema import declared_keys
from deepmedic.config.sections import DataConfig, PreprocessingConfig
from deepmedic.config.source import Refusals
from deepmedic.config.training import TrainConfig
from deepmedic.errors import DeepMedicError, ProblemList

Role = Literal["training", "validation", "inference"]

_MAY_BE_MISSING = frozenset({"batchsize_train"})
_HEADERS = ("affine_tolerance", "orientation")
"""What of the preprocessing the headers of images are judged by."""


@dataclass(frozen=True)
class ListedData:
    """Where the cases of one role are listed, and how they would be read."""

    role: Role
    data: DataConfig
    preprocessing: PreprocessingConfig

    @property
    def needs_labels(self) -> bool:
        """Whether cases without labels are to be told; that no labels are listed at all is told of the config."""
        return self.role != "inference" and (self.data.labels is not None or self.data.table is not None)


def listed_data(path: Path, kind: Literal["train", "test"], *, is_split: bool = False) -> list[ListedData]:
    """Return the data sets of a config that was refused, or may be.

    A data set is left out where a key that it depends on is refused or images are not listed, and all are where the
    file cannot be read or is one of another kind.

    Args:
        path: of the config.
        kind: of the config.
        is_split: the validation cases are some of the training cases.
    """
    try:
        file = read_config(path)
        refuse_other_kind(file, kind)
    except DeepMedicError:
        return []
    refusals = Refusals(file.path, file.lines, ProblemList())
    cls: type[TrainConfig | TestConfig] = TrainConfig if kind == "train" else TestConfig
    keys = declared_keys(cast(type, cls))
    config = bind_known(file, cls, refusals, vocabulary(kind), _MAY_BE_MISSING)
    SessionChecks(refusals, frozenset(file.values)).orientation(config.preprocessing)

    def usable(*attributes: str) -> bool:
        count = len(attributes)
        return refusals.usable(*(key.name for key in keys if key.attributes[:count] == attributes))

    parts: dict[Role, tuple[str, DataConfig]] = {}
    if isinstance(config, TestConfig):
        parts["inference"] = ("data", config.data)
    else:
        parts["training"] = ("data", config.data)
        if (config.validate_on_samples or config.validate_on_volumes) and not is_split:
            parts["validation"] = ("validation_data", config.validation_data)
    return [
        ListedData(role, data, config.preprocessing)
        for role, (section, data) in parts.items()
        if (data.channels or data.table) and usable(section) and all(usable("preprocessing", one) for one in _HEADERS)
    ]
