"""The keys that configuration dataclasses declare, and their types in words."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union

from deepmedic.config.options import Option, Section, declaration


@dataclass(frozen=True)
class Key:
    """One key of a config file."""

    name: str
    option: Option
    annotation: Any
    """The type of the value in the file, as a type annotation."""
    attributes: tuple[str, ...]
    """Where its value goes: attribute names from the top dataclass inwards."""
    default: Any

    @property
    def required(self) -> bool:
        return self.option.required

    @property
    def is_array_of_tables(self) -> bool:
        """Whether it stands in the file as [[key]], once for each table."""
        items = item_types(self.annotation)
        return items is not None and is_dataclass(items[0])

    def sub_keys(self) -> tuple[Key, ...]:
        """Return the keys inside this one's table, of an array of tables its own ones; none for other keys."""
        if self.is_array_of_tables:
            item, _ = item_types(self.annotation) or (None, None)
            return tuple(key for key in declared_keys(item) if len(key.attributes) == 1)
        table = table_type(self.annotation)
        return () if table is None else declared_keys(table)


@cache
def declared_keys(cls: type) -> tuple[Key, ...]:
    """Return the keys of a configuration dataclass and its sections, in the order of their declaration."""
    return tuple(_keys(cls, None, {}, ()))


def _keys(cls: type, base: Any, names: Any, attributes: tuple[str, ...]) -> Iterator[Key]:
    hints = type_hints(cls)
    for field in fields(cls):
        declared = declaration(field)
        path = (*attributes, field.name)
        if isinstance(declared, Section):
            yield from _keys(hints[field.name], declared.factory(), declared.keys, path)
        elif isinstance(declared, Option):
            name = names.get(field.name, declared.key)
            if name is not None:
                default = _default(field) if base is None else getattr(base, field.name)
                yield Key(name, declared, declared.shape or hints[field.name], path, default)


def _default(field: Any) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return None if field.default is MISSING else field.default


@cache
def type_hints(cls: type) -> dict[str, Any]:
    """Return the type annotations of a dataclass, resolved."""
    return typing.get_type_hints(cls)


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """Return the types that an annotation allows: of a union its members without None."""
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return tuple(member for member in typing.get_args(annotation) if member is not types.NoneType)
    return (annotation,)


def optional(annotation: Any) -> bool:
    """Return whether an annotation allows None."""
    return types.NoneType in typing.get_args(annotation)


def table_type(annotation: Any) -> type | None:
    """Return the dataclass of sub-keys that an annotation allows, or None."""
    for member in alternatives(annotation):
        if is_dataclass(member):
            return member  # type: ignore[return-value]
    return None


def item_types(annotation: Any) -> tuple[Any, int | None] | None:
    """Return (type of the items, their number or None for any) of a tuple annotation; None for other annotations."""
    if typing.get_origin(annotation) is not tuple:
        return None
    arguments = typing.get_args(annotation)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return arguments[0], None
    return arguments[0], len(arguments)


def named_items(annotation: Any) -> Any:
    """Return the type of the values of a table whose names the user chooses (`Mapping[str, ...]`); None for others."""
    return typing.get_args(annotation)[1] if typing.get_origin(annotation) is Mapping else None


def mixed_items(annotation: Any) -> tuple[Any, ...] | None:
    """Return the item types of a tuple whose items differ in type, such as `tuple[str, float]`; otherwise None."""
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is not tuple or Ellipsis in arguments or len(set(arguments)) < 2:
        return None
    return arguments


def in_words(annotation: Any, plural: bool = False) -> str:
    """Return what a value of this type is, for messages and the documentation."""
    members = alternatives(annotation)
    if len(members) > 1:
        return " or ".join(in_words(member, plural) for member in members)
    member = members[0]
    if is_dataclass(member):
        return "tables" if plural else "a table {sub-key = value, ...}"
    named = named_items(member)
    if named is not None:
        return f"{'tables' if plural else 'a table'} {{name = {in_words(named)}, ...}}"
    mixed = mixed_items(member)
    if mixed is not None:
        return f"{'lists' if plural else 'a list'} of {' and '.join(in_words(item) for item in mixed)}"
    items = item_types(member)
    if items is not None:
        count = "" if items[1] is None else f"{items[1]} "
        return f"{'lists' if plural else 'a list'} of {count}{in_words(items[0], plural=True)}"
    if typing.get_origin(member) is Literal:
        return f"{'names' if plural else 'a name'} in quotes"
    return _WORDS[member][1 if plural else 0]


_WORDS: dict[Any, tuple[str, str]] = {
    bool: ("true or false", "true or false values"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text in quotes", "texts in quotes"),
    Path: ("a path in quotes", "paths in quotes"),
}


def range_in_words(option: Option) -> str:
    """Return the allowed numbers of an option, such as "at least 1", or an empty text."""
    if option.minimum is not None and option.maximum is not None:
        return f"from {option.minimum:g} to {option.maximum:g}"
    lower = f"at least {option.minimum:g}" if option.minimum is not None else ""
    lower = f"greater than {option.above:g}" if option.above is not None else lower
    upper = f"at most {option.maximum:g}" if option.maximum is not None else ""
    upper = f"less than {option.below:g}" if option.below is not None else upper
    return " and ".join(part for part in (lower, upper) if part)


def choices_of(annotation: Any, option: Option) -> tuple[Any, ...]:
    """Return the values that are allowed one by one, or an empty tuple when a range or the type decides."""
    if option.choices is not None:
        return option.choices
    items = item_types(alternatives(annotation)[0])
    member = alternatives(annotation)[0] if items is None else items[0]
    return typing.get_args(member) if typing.get_origin(member) is Literal else ()
