"""Turns the values of a config file into the types that the configuration dataclasses declare."""

from __future__ import annotations

import difflib
import math
import os
import typing
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal

from deepmedic.config.options import Option
from deepmedic.config.schema import (
    Key,
    alternatives,
    choices_of,
    declared_keys,
    in_words,
    item_types,
    mixed_items,
    named_items,
    optional,
    range_in_words,
)
from deepmedic.config.source import Dialect, KeyPath, Refusals, listed, shown

_LARGEST_INTEGER = 2**53


class _Invalid:
    """Stands for a value that was refused."""


INVALID = _Invalid()


class Converter:
    """Converts the values of one file; what cannot be converted is refused with its place and given as `INVALID`."""

    def __init__(self, folder: Path, dialect: Dialect, refusals: Refusals, known_elsewhere: frozenset[str]) -> None:
        self._folder = folder
        self._dialect = dialect
        self._refusals = refusals
        self._known_elsewhere = known_elsewhere
        """Top-level keys, to recognise one that stands inside a table by mistake."""

    def convert(self, value: Any, key: Key, path: KeyPath = ()) -> Any:
        """Return the value for a key, checked for type, range and choices."""
        path = path or (key.name,)
        result = self._convert(value, key.annotation, key.option, path)
        if isinstance(result, _Invalid) or key.option.build is None or result is None:
            return result
        try:
            return key.option.build(result)
        except ValueError as error:
            return self._refuse(path, str(error))

    def _convert(self, value: Any, annotation: Any, option: Option, path: KeyPath) -> Any:
        members = alternatives(annotation)
        if value is None or (value == "none" and optional(annotation)):
            return None if optional(annotation) else self._absent(value, annotation, option, path)
        member = members[0] if len(members) == 1 else _closest(members, value)
        if is_dataclass(member):
            return self._table(value, member, path)  # type: ignore[arg-type]
        if named_items(member) is not None:
            return self._named(value, member, option, path)
        if typing.get_origin(member) is tuple:
            return self._list(value, member, option, path)
        return self._scalar(value, member, option, path)

    def _absent(self, value: Any, annotation: Any, option: Option, path: KeyPath) -> Any:
        items = item_types(alternatives(annotation)[0])
        if items is not None and items[1] is None:
            return ()  # an empty list, as the original reads None for one layer of several
        return self._mismatch(value, annotation, option, path)

    def _table(self, value: Any, cls: type, path: KeyPath) -> Any:
        if not isinstance(value, dict):
            return self._refuse(path, f"found {self._found(value)}; allowed: a table of {self._names(cls)}")
        keys = {key.name: key for key in declared_keys(cls)}
        valid = True
        for name in value:
            if name not in keys:
                valid = False
                self._refuse((*path, name), self.unknown_sub_key(name, keys, path))
        arguments = {}
        for name, key in keys.items():
            found = value.get(name)
            if found is None and not key.required:
                continue  # left out, or Python's None: the default
            if name not in value:
                valid = False
                self._refuse(path, f"{name} is missing; give {self._names(cls)}")
                continue
            arguments[key.attributes[-1]] = self.convert(found, key, (*path, name))
        if not valid or any(isinstance(argument, _Invalid) for argument in arguments.values()):
            return INVALID
        return cls(**arguments)

    def _named(self, value: Any, annotation: Any, option: Option, path: KeyPath) -> Any:
        """A table whose names the user chooses."""
        if not isinstance(value, dict):
            return self._mismatch(value, annotation, option, path)
        results = {}
        for name, item in value.items():
            if not isinstance(name, str) or not name.strip() or not name.isprintable():
                return self._refuse(path, f"found the name {name!r}; allowed: text of at least one printable character")
            results[name] = self._convert(item, named_items(annotation), option, (*path, name))
        return INVALID if any(isinstance(result, _Invalid) for result in results.values()) else results

    def unknown_sub_key(self, name: str, keys: dict[str, Key], path: KeyPath) -> str:
        """Return what is wrong with a key that the table at `path` does not have."""
        if name in self._known_elsewhere:
            table = str(path[0])
            return (
                f"is a key of the file, not of the table {table} that begins on line {self._refusals.line(table)}; "
                "move it above that line"
            )
        nearest = difflib.get_close_matches(name, keys, n=1, cutoff=0.5)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        return f"is not a key of this table{hint} (allowed: {listed(keys)})"

    def _names(self, cls: type) -> str:
        return listed(key.name for key in declared_keys(cls))

    def _list(self, value: Any, annotation: Any, option: Option, path: KeyPath) -> Any:
        mixed = mixed_items(annotation)
        item, count = item_types(annotation) or (annotation, None)
        count = count if mixed is None else len(mixed)
        if not isinstance(value, list) or (count is not None and len(value) != count):
            return self._mismatch(value, annotation, option, path)
        if option.nonempty and not value:
            return self._refuse(path, f"found an empty list; allowed: at least one entry ({in_words(annotation)})")
        types = [item] * len(value) if mixed is None else list(mixed)
        results = tuple(
            self._convert(element, kind, option, (*path, position))
            for position, (element, kind) in enumerate(zip(value, types, strict=True))
        )
        return INVALID if any(isinstance(result, _Invalid) for result in results) else results

    def _scalar(self, value: Any, annotation: Any, option: Option, path: KeyPath) -> Any:
        if annotation is bool:
            return value if isinstance(value, bool) else self._mismatch(value, annotation, option, path)
        if annotation is int or annotation is float:
            return self._number(value, annotation, option, path)
        if not isinstance(value, str):
            return self._mismatch(value, annotation, option, path)
        if "\0" in value:
            return self._refuse(path, "found text with a null character; leave it out")
        if annotation is Path:
            return self._path(value, annotation, option, path)
        if option.nonempty and not value.strip():
            return self._refuse(path, "found an empty text; allowed: a text of at least one character")
        choices = choices_of(annotation, option) if typing.get_origin(annotation) is Literal else option.choices
        if choices and value not in choices:
            return self._refuse_choice(value, choices, path)
        return value

    def _number(self, value: Any, annotation: Any, option: Option, path: KeyPath) -> Any:
        allowed = (int,) if annotation is int else (int, float)
        if isinstance(value, bool) or not isinstance(value, allowed):
            return self._mismatch(value, annotation, option, path)
        if isinstance(value, float) and not math.isfinite(value):
            return self._mismatch(value, annotation, option, path)
        if abs(value) > _LARGEST_INTEGER and isinstance(value, int):
            return self._refuse(path, f"found {self._found(value)}; allowed: whole numbers up to 2^53")
        if option.choices is not None and value not in option.choices:
            return self._refuse_choice(value, option.choices, path)
        too_small = (option.minimum is not None and value < option.minimum) or (
            option.above is not None and value <= option.above
        )
        too_large = (option.maximum is not None and value > option.maximum) or (
            option.below is not None and value >= option.below
        )
        if too_small or too_large:
            kind = in_words(annotation)
            return self._refuse(path, f"found {shown(value, self._dialect)}; allowed: {kind} {range_in_words(option)}")
        return annotation(value)

    def _path(self, value: str, annotation: Any, option: Option, path: KeyPath) -> Any:
        if not value.strip():
            return self._mismatch(value, annotation, option, path)
        return Path(os.path.normpath(os.path.join(self._folder, value)))

    def _mismatch(self, value: Any, annotation: Any, option: Option, path: KeyPath) -> Any:
        limits = range_in_words(option)
        choices = choices_of(annotation, option)
        detail = f" {limits}" if limits else f" ({listed(shown(choice) for choice in choices)})" if choices else ""
        return self._refuse(path, f"found {self._found(value)}; allowed: {self._words(annotation)}{detail}")

    def _refuse_choice(self, value: Any, choices: tuple[Any, ...], path: KeyPath) -> Any:
        hint = ""
        if isinstance(value, str):
            spelled = {str(choice).lower(): choice for choice in choices}
            nearest = difflib.get_close_matches(value.lower(), spelled, n=1, cutoff=0.5)
            hint = f"; did you mean {shown(spelled[nearest[0]])}?" if nearest else ""
        allowed = listed(shown(choice, self._dialect) for choice in choices)
        return self._refuse(path, f"found {shown(value, self._dialect)}; allowed: {allowed}{hint}")

    def _words(self, annotation: Any) -> str:
        words = in_words(annotation)
        return words if self._dialect == "toml" else words.replace("true", "True").replace("false", "False")

    def _found(self, value: Any) -> str:
        return f"{shown(value, self._dialect)} ({_kind(value)})"

    def _refuse(self, path: KeyPath, message: str) -> Any:
        self._refusals.refuse(path, message)
        return INVALID


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return f"a list of {len(value)}"
    kinds = {bool: "a truth value", int: "a whole number", str: "text", dict: "a table", type(None): "no value"}
    if isinstance(value, float):
        return "a number with decimals" if math.isfinite(value) else "not a finite number"
    return kinds.get(type(value), f"a {type(value).__name__}")


def _closest(members: tuple[Any, ...], value: Any) -> Any:
    """Return the member of a union that is nested as deeply as the value."""
    return min(members, key=lambda member: abs(_type_depth(member) - _value_depth(value)))


def _type_depth(annotation: Any) -> int:
    items = item_types(annotation)
    return 0 if items is None else 1 + _type_depth(items[0])


def _value_depth(value: Any) -> int:
    if not isinstance(value, list):
        return 0
    return 1 + max((_value_depth(item) for item in value), default=0)
