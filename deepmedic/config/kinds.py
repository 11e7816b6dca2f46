"""The kinds of config: which keys each has, and which kind a file is."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from deepmedic.config.analysis import AnalysisConfig
from deepmedic.config.binding import Vocabulary
from deepmedic.config.comparison import ComparisonConfig
from deepmedic.config.inference import TestConfig
from deepmedic.config.model_keys import ModelKeys
from deepmedic.config.older_keys import OlderTestKeys, OlderTrainKeys
from deepmedic.config.reader import read_config
from deepmedic.config.schema import declared_keys
from deepmedic.config.source import ConfigFile, listed, printable
from deepmedic.config.training import TrainConfig
from deepmedic.errors import ConfigError

Kind = Literal["model", "train", "test", "analysis", "comparison"]

CLASSES: dict[Kind, tuple[type, ...]] = {
    "model": (ModelKeys,),
    "train": (TrainConfig, OlderTrainKeys),
    "test": (TestConfig, OlderTestKeys),
    "analysis": (AnalysisConfig,),
    "comparison": (ComparisonConfig,),
}
"""The dataclasses whose keys may stand in each kind of config."""

REMOVED: dict[Kind, dict[str, str]] = {
    "model": {
        "initializeClassic0orDelving1": "is no longer a key; write convWeightsInit instead: "
        '["normal", 0.01] for 0, ["fanIn", 2] for 1',
        "relu0orPrelu1": 'is no longer a key; write activationFunction instead: "relu" for 0, "prelu" for 1',
    },
    "train": {
        "percentOfSamplesToExtractPositiveTrain": "is no longer a key; write typeOfSamplingForTraining = 0 and "
        "proportionOfSamplesToExtractPerCategoryTraining = [foreground, background] instead, such as [0.3, 0.7]",
        "augm_params_tr": "is no longer a key; write augm_sample_prms_tr instead, with the same sub-keys",
    },
    "test": {},
    "analysis": {},
    "comparison": {},
}
"""Keys of earlier versions that are refused -> what to write instead."""


def vocabulary(kind: Kind) -> Vocabulary:
    """Return the keys of a kind of config and what is known about others."""
    own = key_names(kind)
    elsewhere = {
        name: f"{other} config" for other in CLASSES if other != kind for name in key_names(other) if name not in own
    }
    removed = {name: text for other in CLASSES for name, text in REMOVED[other].items()}
    return Vocabulary(f"{kind} config", CLASSES[kind], removed, elsewhere)


def key_names(kind: Kind) -> frozenset[str]:
    """Return the names of all keys of a kind of config."""
    return frozenset(key.name for cls in CLASSES[kind] for key in declared_keys(cls))


def config_kind(path: Path) -> Kind:
    """Return which kind of config a file is, by its keys.

    Raises `ConfigError` when the file cannot be read, or has no key that tells its kind.
    """
    file = read_config(path)
    kind = kind_of(file)
    if kind is None:
        found = printable(listed(list(file.values)[:5])) or "no key at all"
        raise ConfigError(f"{path}: is no model, train, test, analysis or comparison config: found {found}")
    return kind


def kind_of(file: ConfigFile) -> Kind | None:
    """Return the kind of config that most keys of a file belong to, or None when no key or no majority tells."""
    counts = {}
    for kind in CLASSES:
        others = frozenset().union(*(key_names(other) for other in CLASSES if other != kind))
        removed = REMOVED[kind].keys()
        counts[kind] = sum(1 for name in file.values if name in removed or name in key_names(kind) - others)
    best = max(counts, key=counts.__getitem__)
    return best if list(counts.values()).count(counts[best]) == 1 else None


def refuse_other_kind(file: ConfigFile, expected: Kind) -> None:
    """Raise `ConfigError` for a file that is a config of another kind as a whole, instead of refusing key by key."""
    kind = kind_of(file)
    own = sum(1 for name in file.values if name in key_names(expected))
    if kind is None or kind == expected or own > len(file.values) / 2:
        return
    found, needed = (f"{'an' if one == 'analysis' else 'a'} {one} config" for one in (kind, expected))
    raise ConfigError(f"{file.path}: is {found}, but {needed} is needed here; check the options")
