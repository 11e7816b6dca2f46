"""How a configuration dataclass declares the keys of a `.cfg` file: one `option` per key, `section` to nest them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from typing import Any

Size3 = tuple[int, int, int]
"""A size, kernel or factor along the axes x, y, z, in voxels."""

_METADATA_KEY = "deepmedic"


@dataclass(frozen=True)
class Option:
    """What `-explain`, the binder and the documentation know about one key."""

    key: str
    doc: str = ""
    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    choices: tuple[Any, ...] | None = None
    required: bool = False


@dataclass(frozen=True)
class Section:
    """A nested dataclass; `keys` renames its options in this file (attribute -> key, None: not offered here)."""

    keys: Mapping[str, str | None]


def option(
    key: str,
    default: Any = MISSING,
    *,
    doc: str = "",
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    choices: tuple[Any, ...] | None = None,
) -> Any:
    """Declare a field bound to `key`; without a default the key is required."""
    declared = Option(key, doc, minimum, above, maximum, choices, required=default is MISSING)
    if default is MISSING:
        return field(metadata={_METADATA_KEY: declared})
    return field(default=default, metadata={_METADATA_KEY: declared})


def section(factory: Any, keys: Mapping[str, str | None] | None = None) -> Any:
    """Declare a nested configuration dataclass whose keys stand in the same flat file."""
    return field(default_factory=factory, metadata={_METADATA_KEY: Section(keys or {})})


def declaration(dataclass_field: Any) -> Option | Section | None:
    """Return what `option` or `section` declared for a dataclass field, or None for a plain field."""
    return dataclass_field.metadata.get(_METADATA_KEY)
