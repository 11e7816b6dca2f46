"""What was read from a `.cfg` file, where each key stands in it, and how its problems are reported."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from deepmedic.errors import ConfigError, DeepMedicError, ProblemList

Dialect = Literal["toml", "python"]

_PLAIN_KEY = re.compile(r"\w[\w-]{0,99}")

KeyPath = tuple[str | int, ...]
"""A key, its sub-keys, and positions (counted from 0) in lists: ("norm_zscore_prms", "cutoff_percents", 1)."""


@dataclass(frozen=True)
class ConfigFile:
    """The keys and values of one file, not yet checked against any configuration dataclass."""

    path: Path
    dialect: Dialect
    values: dict[str, Any]
    """None, truth values, numbers, text, dates (TOML only), lists and dicts of them; tuples are read as lists."""
    lines: dict[str, int]
    """Line of each key, counted from 1; sub-keys of tables as "table.key"."""
    notes: list[str] = field(default_factory=list)
    """What the user should know about how the file was read, one sentence each."""


@dataclass(frozen=True)
class ConfigSource:
    """Where a configuration came from; takes no part in comparisons of settings."""

    path: Path | None = None
    dialect: Dialect = "toml"
    notes: tuple[str, ...] = ()
    given: frozenset[str] = frozenset()
    """Keys that stand in the file with a value of their own; all others have their default."""
    lines: Mapping[str, int] = field(default_factory=dict)
    theano_keys: tuple[str, ...] = ()
    """Keys of the Theano version found in the file; with any of them its defaults and meanings apply."""


class Refusals:
    """Gathers the problems of one file's keys, each with file, line and key."""

    def __init__(self, path: Path | None, lines: Mapping[str, int], problems: ProblemList) -> None:
        self._path = path
        self._lines = lines
        self.problems = problems
        self._refused: set[str] = set()
        self._said: set[str] = set()

    def refuse(self, key: str | KeyPath, message: str) -> None:
        """Add the problem `message` of a key; later checks that involve the key can be left out by `usable`."""
        path: KeyPath = (key,) if isinstance(key, str) else key
        self._refused.add(str(path[0]))
        text = f"{self.where(path)}: {key_label(path)}: {message}"
        if text not in self._said:  # a key that several phases inherit
            self._said.add(text)
            self.problems.add(ConfigError(text))

    def add(self, problem: DeepMedicError) -> None:
        """Add a problem of another kind, such as a config that does not fit a model."""
        self.problems.add(problem)

    def usable(self, *keys: str) -> bool:
        """Return whether none of the keys was refused so far, so that their values mean something."""
        return self._refused.isdisjoint(keys)

    def line(self, key: str) -> int | None:
        """Return the line of a key, or None for one that is not in the file."""
        return line_of((key,), self._lines)

    def where(self, key: str | KeyPath) -> str:
        """Return "file:line", or the file alone for a key that is not in it."""
        path: KeyPath = (key,) if isinstance(key, str) else key
        line = line_of(path, self._lines)
        return self._name if line is None else f"{self._name}:{line}"

    @property
    def _name(self) -> str:
        return "configuration" if self._path is None else str(self._path)


def line_of(path: KeyPath, lines: Mapping[str, int]) -> int | None:
    """Return the line of the innermost part of a key path whose line is known."""
    name, line = "", None
    for part in path:
        if isinstance(part, str):
            name = f"{name}.{part}" if name else part
        elif part and f"{name}#{part + 1}" in lines:
            name = f"{name}#{part + 1}"  # a further [[table]] of that name
        line = lines.get(name, line)
    return line


def key_label(path: KeyPath) -> str:
    """Return the key path as a message shows it: `kernelDimPerLayerNormal, entry 2`, or `phase 2.learningRate`."""
    label = ""
    for part, after in zip_longest(path, path[1:]):
        if isinstance(part, int):
            label += f" {part + 1}" if isinstance(after, str) else f", entry {part + 1}"
        else:
            name = part if _PLAIN_KEY.fullmatch(part) else shown(part)
            label += f".{name}" if label else name
    return label


def shown(value: Any, dialect: Dialect = "toml") -> str:
    """Return a value as it is spelled in the file's dialect, shortened to fit a message."""
    text = printable(repr(value) if dialect == "python" else _toml_spelling(value))
    return text if len(text) <= 80 else text[:77] + "..."


def printable(text: str) -> str:
    """Return a text with "?" for every character that a terminal would not show, or would act upon."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _toml_spelling(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return str(value)


def listed(names: Iterable[Any]) -> str:
    """Return names separated by commas."""
    return ", ".join(str(name) for name in names)
