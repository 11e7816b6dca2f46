"""Configurations as plain dicts, for fingerprints and logs, and what changed between two of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from deepmedic.config.architecture import Architecture
from deepmedic.config.options import Option, Section, declaration
from deepmedic.config.schema import declared_keys
from deepmedic.config.source import ConfigSource, shown

_NOT_GIVEN = object()


def to_plain(config: Any) -> dict[str, Any]:
    """Return the settings of a configuration dataclass as JSON-able dicts, lists, numbers and text.

    Settings go by their key in the file, those that no key gives by their attribute. Where the config was read from
    is left out. The order is that of the declarations, so equal settings give equal JSON.
    """
    return dict(_settings(config, {}))


def digest_of_plain(values: Any) -> str:
    """SHA-256 of plain values, whatever the order of keys; what JSON does not know counts by its text."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def settings_changed(
    old: Mapping[str, Any], new: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> list[str]:
    """Return one line "key: old -> new" for each setting that differs between two results of `to_plain`.

    A key that the old settings do not have, because an earlier version wrote them, counts as its default where
    `defaults` are given.
    """
    missing = {key: value for key, value in (defaults or {}).items() if key in new and key not in old}
    return list(_changes({**old, **missing}, new, ""))


def default_settings(config: type) -> dict[str, Any]:
    """Return what `to_plain` says of the defaults of a configuration dataclass; required keys are left out."""
    return {key.name: _plain(key.default) for key in declared_keys(config) if not key.required}


def _changes(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for name in [*old, *(name for name in new if name not in old)]:
        before, after = old.get(name, _NOT_GIVEN), new.get(name, _NOT_GIVEN)
        if before is _NOT_GIVEN and (after is None or after == []):
            continue  # a setting that an earlier version did not have, and that is off
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from _changes(before, after, f"{prefix}{name}.")
        elif before != after and not (before is _NOT_GIVEN and after is None):  # a key newer than `old`, not used
            yield f"{prefix}{name}: {_spelled(before)} -> {_spelled(after)}"


def _settings(config: Any, names: Mapping[str, str | None]) -> Iterator[tuple[str, Any]]:
    for field in fields(config):
        declared = declaration(field)
        value = getattr(config, field.name)
        if isinstance(value, ConfigSource):
            continue
        if isinstance(declared, Section):
            yield from _settings(value, declared.keys)
        elif isinstance(declared, Option):
            name = names.get(field.name, declared.key)
            if name is not None:
                yield name, _plain(value)
        else:
            yield field.name, _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Architecture):
        return value.to_dict()
    if is_dataclass(value):
        return dict(_settings(value, {}))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple) and value and all(map(is_dataclass, value)):
        return {str(number): _plain(item) for number, item in enumerate(value, 1)}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _spelled(value: Any) -> str:
    if value is _NOT_GIVEN:
        return "not set"
    if isinstance(value, Mapping):
        return shown({name: item for name, item in value.items() if item is not None})
    return "none" if value is None else shown(value)
