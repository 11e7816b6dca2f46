"""Binds the keys of a config file to a configuration dataclass, refusing everything that is not understood."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from deepmedic.config.options import Section, declaration
from deepmedic.config.schema import Key, declared_keys, type_hints
from deepmedic.config.source import ConfigFile, Refusals, line_of
from deepmedic.config.values import INVALID, Converter
from deepmedic.errors import ProblemList

T = TypeVar("T")

# What an invalid or missing value is replaced by, so that the other keys can still be checked in the same run.
_PLACEHOLDERS: dict[Any, Any] = {int: 1, float: 1.0, str: "", Path: Path(".")}


@dataclass(frozen=True)
class Vocabulary:
    """The keys of one kind of config, and what is known about other keys a user may write."""

    kind: str
    """As messages call it: "model config", "train config" or "test config"."""
    classes: tuple[type, ...]
    removed: Mapping[str, str]
    """Keys that are no longer offered -> what to write instead."""
    elsewhere: Mapping[str, str]
    """Keys of the other kinds of config -> their kind."""

    def keys(self) -> dict[str, Key]:
        return {key.name: key for cls in self.classes for key in declared_keys(cls)}


def bind(file: ConfigFile, cls: type[T]) -> T:
    """Return the dataclass `cls` with the values of the file; keys that are not in the file have their default.

    Raises `ConfigError`, or `SeveralProblems` with all of them: unknown keys with the nearest valid one, missing keys,
    and values of a wrong type or outside the allowed range, each with file, line and key.
    """
    problems = ProblemList()
    refusals = Refusals(file.path, file.lines, problems)
    vocabulary = Vocabulary("config", (cls,), {}, {})
    refuse_unknown_keys(file, vocabulary, refusals)
    bound = bind_known(file, cls, refusals, vocabulary)
    problems.raise_if_any()
    return bound


def bind_known(
    file: ConfigFile,
    cls: type[T],
    refusals: Refusals,
    vocabulary: Vocabulary,
    may_be_missing: frozenset[str] = frozenset(),
) -> T:
    """Return `cls` with the values of its keys; problems are refused and replaced by placeholders.

    A required key in `may_be_missing` is None when it is not in the file.
    """
    known = frozenset(vocabulary.keys())
    converter = Converter(Path(file.path).absolute().parent, file.dialect, refusals, known)
    values: dict[tuple[str, ...], Any] = {}
    for key in declared_keys(cast(type, cls)):
        if key.is_array_of_tables:
            continue  # the tables of one are read one by one
        found = file.values.get(key.name)
        value = INVALID if found is None else converter.convert(found, key)
        if found is None and key.required and key.name not in may_be_missing:
            refusals.refuse(key.name, "is missing; it has no default and must be given")
        if value is not INVALID:
            values[key.attributes] = value
        elif key.required:
            missing = found is None and key.name in may_be_missing
            values[key.attributes] = None if missing else _PLACEHOLDERS.get(key.annotation)
    return build(cls, values)


def refuse_unknown_keys(file: ConfigFile, vocabulary: Vocabulary, refusals: Refusals) -> None:
    """Refuse every key that this kind of config does not have, saying where it belongs or what it may be meant as."""
    known = vocabulary.keys()
    for name, value in file.values.items():
        if name not in known:
            inside = [key for key in value if key in known] if isinstance(value, dict) else []
            if inside:
                line = line_of((name, inside[0]), file.lines)
                refusals.refuse(
                    name,
                    f"is not a table of the {vocabulary.kind}; {inside[0]} (line {line}) is a key of the file itself: "
                    "take it out of the table",
                )
            else:
                refusals.refuse(name, _unknown(name, vocabulary, known))


def _unknown(name: str, vocabulary: Vocabulary, known: Mapping[str, Key]) -> str:
    if name in vocabulary.removed:
        return vocabulary.removed[name]
    if name in vocabulary.elsewhere:
        return f"is a key of the {vocabulary.elsewhere[name]}, not of the {vocabulary.kind}; move it there"
    spelled = {key.lower(): key for key in known}
    nearest = difflib.get_close_matches(name.lower(), spelled, n=1, cutoff=0.6)
    if nearest:
        return f"is not a key of the {vocabulary.kind}; did you mean {spelled[nearest[0]]}?"
    return f"is not a key of the {vocabulary.kind}; `-explain WORD` finds keys by a word of their meaning"


def build(cls: type[T], values: Mapping[tuple[str, ...], Any]) -> T:
    """Return `cls` with values by attribute path; attributes without a value have their default."""
    result: T = _build(cls, None, (), values)
    return result


def _build(cls: type, base: Any, path: tuple[str, ...], values: Mapping[tuple[str, ...], Any]) -> Any:
    arguments = {}
    for field in fields(cls):
        declared = declaration(field)
        here = (*path, field.name)
        if isinstance(declared, Section):
            arguments[field.name] = _build(type_hints(cls)[field.name], declared.factory(), here, values)
        elif here in values:
            arguments[field.name] = values[here]
    return cls(**arguments) if base is None else replace(base, **arguments)
