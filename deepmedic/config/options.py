"""How a configuration dataclass declares the keys of a `.cfg` file: one `option` per key, `section` to nest them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field
from typing import Any, Literal, TypedDict, Unpack

Size3 = tuple[int, int, int]
"""A size, kernel or factor along the axes x, y, z, in voxels."""

Origin = Literal["original", "theano", "new"]
"""Where a key comes from: DeepMedic v0.8.4 (most are in v0.6.1 too), the Theano version v0.6.1, or this program."""

_METADATA_KEY = "deepmedic"


@dataclass(frozen=True)
class Option:
    """What `-explain`, the binder and the documentation know about one key."""

    key: str
    doc: str = ""
    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    below: float | None = None
    """Ranges hold for every number of a list."""
    choices: tuple[Any, ...] | None = None
    required: bool = False
    nonempty: bool = False
    """Whether an empty list or text is refused."""
    default_text: str = ""
    """The default in words, where it depends on other keys."""
    origin: Origin = "original"
    shape: Any = None
    """The type that the value has in the file, where it differs from the field's: a dataclass of sub-keys."""
    build: Callable[[Any], Any] | None = None
    """Makes the field's value from a value of type `shape`."""


class OptionDetails(TypedDict, total=False):
    """The keyword arguments of `option`; meanings as in `Option`."""

    doc: str
    minimum: float
    above: float
    maximum: float
    below: float
    choices: tuple[Any, ...]
    nonempty: bool
    default_text: str
    origin: Origin
    shape: Any
    build: Callable[[Any], Any]


@dataclass(frozen=True)
class Section:
    """A nested dataclass; `keys` renames its options in this file (attribute -> key, None: not offered here)."""

    factory: Callable[[], Any]
    keys: Mapping[str, str | None]


def option(key: str, default: Any = MISSING, **details: Unpack[OptionDetails]) -> Any:
    """Declare a field bound to `key`; without a default the key is required."""
    metadata = {_METADATA_KEY: Option(key, required=default is MISSING, **details)}
    if default is MISSING:
        return field(metadata=metadata)
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def section(factory: Callable[[], Any], keys: Mapping[str, str | None] | None = None) -> Any:
    """Declare a nested configuration dataclass whose keys stand in the same flat file."""
    return field(default_factory=factory, metadata={_METADATA_KEY: Section(factory, keys or {})})


def declaration(dataclass_field: Any) -> Option | Section | None:
    """Return what `option` or `section` declared for a dataclass field, or None for a plain field."""
    declared: Option | Section | None = dataclass_field.metadata.get(_METADATA_KEY)
    return declared
