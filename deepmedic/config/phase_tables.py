"""Reads the `[[phase]]` tables of a train config: keys that a table leaves out are inherited from the file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from deepmedic.config.phases import PhaseConfig
from deepmedic.config.schema import declared_keys
from deepmedic.config.source import ConfigFile, ConfigSource, KeyPath, Refusals
from deepmedic.config.training import TrainConfig
from deepmedic.config.values import INVALID, Converter

KEY = "phase"


class PhaseRefusals(Refusals):
    """The problems of one phase's keys, each put where it stands: in the phase's table, or else in the file."""

    def __init__(self, of_file: Refusals, index: int, own: frozenset[str]) -> None:
        super().__init__(None, {}, of_file.problems)
        self._of_file = of_file
        self._index = index
        self._own = own

    def refuse(self, key: str | KeyPath, message: str) -> None:
        path: KeyPath = (key,) if isinstance(key, str) else key
        self._refused.add(str(path[0]))
        self._of_file.refuse(self._place(path), message)

    def usable(self, *keys: str) -> bool:
        return super().usable(*keys) and self._of_file.usable(*(key for key in keys if key not in self._own))

    def line(self, key: str) -> int | None:
        return self._of_file.line(key)

    def where(self, key: str | KeyPath) -> str:
        return self._of_file.where(self._place((key,) if isinstance(key, str) else key))

    def _place(self, path: KeyPath) -> KeyPath:
        inherited = path[0] not in self._own and self._of_file.line(str(path[0])) is not None
        return path if inherited else (KEY, self._index, *path)


def bind_phases(file: ConfigFile, config: TrainConfig, refusals: Refusals, known: frozenset[str]) -> TrainConfig:
    """Return a config with the phases that a file has tables for.

    Args:
        file: the file.
        config: its other keys.
        refusals: gets what is wrong with the tables.
        known: the keys of the file itself, to recognise one that stands in a table by mistake.
    """
    tables = file.values.get(KEY)
    if tables is None:
        return config
    if file.dialect == "python":
        refusals.refuse(
            KEY,
            "phases are [[phase]] tables of TOML, which config files of the original's dialect cannot have; write this "
            "file in TOML (key = value, true, false), or use a recipe",
        )
        return config
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        kind = "a single table" if isinstance(tables, dict) else "no list of tables"
        refusals.refuse(KEY, f"found {kind}; allowed: a table [[phase]] for each phase, with two brackets")
        return config
    phases = []
    for index, table in enumerate(tables):
        own = PhaseRefusals(refusals, index, frozenset(table))
        converter = Converter(Path(file.path).absolute().parent, file.dialect, own, known)
        phases.append(_phase(table, index, config, converter, own))
    return replace(config, phases=tuple(phases))


def refusals_by_phase(config: TrainConfig, refusals: Refusals) -> Iterator[tuple[TrainConfig, Refusals]]:
    """Give for each phase the config that it is trained with, and where its problems go."""
    if not config.phases:
        yield config, refusals
    for index, phase in enumerate(config.phases):
        yield config.in_phase(index), PhaseRefusals(refusals, index, phase.source.given)


def _phase(
    table: dict[str, Any], index: int, config: TrainConfig, converter: Converter, refusals: Refusals
) -> PhaseConfig:
    phase: Any = PhaseConfig(
        name=f"phase {index + 1}",
        epochs=config.epochs,
        schedule=config.schedule,
        optimizer=config.optimizer,
        refinements=config.refinements,
        early_stopping=config.early_stopping,
        freezing=config.freezing,
        source=ConfigSource(given=frozenset(table)),
    )
    keys = {key.name: key for key in declared_keys(PhaseConfig)}
    for name, given in table.items():
        if name not in keys:
            refusals.refuse(name, converter.unknown_sub_key(name, keys, (KEY,)))
            continue
        value = converter.convert(given, keys[name])
        if value is not INVALID:
            phase = _replaced(phase, keys[name].attributes, value)
    result: PhaseConfig = phase
    return result


def _replaced(config: Any, path: tuple[str, ...], value: Any) -> Any:
    """Return a configuration dataclass with another value of the attribute at a path."""
    if len(path) > 1:
        value = _replaced(getattr(config, path[0]), path[1:], value)
    return replace(config, **{path[0]: value})
