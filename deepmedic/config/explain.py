"""What every config key means: for `-explain WORD`, and as the pages of the documentation."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass
from typing import Any

from deepmedic.config.kinds import CLASSES, REMOVED, Kind
from deepmedic.config.plain import to_plain
from deepmedic.config.schema import Key, choices_of, declared_keys, in_words, range_in_words, table_type
from deepmedic.config.source import listed, shown

_WIDTH = 100
_ORIGINS = {"theano": "Theano version only", "new": "new in this program", "original": ""}


@dataclass(frozen=True)
class _Entry:
    """One key of one kind of config; of a table also its sub-keys, as "table.key"."""

    name: str
    kind: Kind
    key: Key

    @property
    def allowed(self) -> str:
        option = self.key.option
        choices = choices_of(self.key.annotation, option)
        if choices:
            return listed(shown(choice) for choice in choices)
        if table_type(self.key.annotation) is not None:
            return listed(sub.name for sub in self.key.sub_keys())
        return range_in_words(option)

    @property
    def type_name(self) -> str:
        return in_words(self.key.annotation)

    @property
    def default(self) -> str:
        option = self.key.option
        if option.required:
            return "none: it must be given"
        if option.default_text:
            return option.default_text
        value = to_plain(self.key.default) if is_dataclass(self.key.default) else self.key.default
        return "not set" if value is None else _toml(value)


def explain(word: str) -> str:
    """Return the keys whose name or meaning has a word in it: meaning, type, allowed values, default, kind of config.

    The word may be part of a word, in upper or lower case. A key of that name stands alone, and without any match the
    nearest keys are named.
    """
    wanted = word.strip().lower()
    entries = list(_entries())
    exact = [entry for entry in entries if wanted in (entry.name.lower(), entry.key.name.lower())]
    exact.sort(key=lambda entry: entry.name.lower() != wanted)  # keys of the file before those inside tables
    named = [entry for entry in entries if wanted and wanted in entry.name.lower()]
    meant = [entry for entry in entries if wanted and wanted in entry.key.option.doc.lower() and entry not in named]
    found = exact or [*named, *meant]
    removed = [f"{name} {text}." for name, text in _removed() if wanted == name.lower()]
    if not found and not removed:
        names = {entry.name.lower(): entry.name for entry in entries}
        nearest = [names[name] for name in difflib.get_close_matches(wanted, names, n=3, cutoff=0.4)]
        hint = f" The nearest keys are {listed(nearest)}." if nearest else ""
        return f"No config key has {word!r} in its name or meaning.{hint}"
    return "\n\n".join([*removed, *(_paragraph(group) for group in _grouped(found))])


def reference_markdown() -> str:
    """Return the page of the documentation that lists every key of every config."""
    parts = [_INTRODUCTION]
    for kind, title in _TITLES.items():
        parts.append(f"## {title}\n")
        entries = [entry for entry in _entries() if entry.kind == kind]
        older = [entry for entry in entries if entry.key.option.origin == "theano"]
        parts.extend(_section(entry) for entry in entries if entry not in older)
        if older:
            parts.append(f"### Keys of the Theano version in the {kind} config\n\n{_OLDER}\n")
            parts.extend(_section(entry) for entry in older)
    parts.append(_removed_keys())
    return "\n".join(parts)


_TITLES: dict[Kind, str] = {
    "model": "Model config",
    "train": "Train config",
    "test": "Test config",
    "analysis": "Analysis config",
    "comparison": "Comparison config",
}

_INTRODUCTION = """\
# Configuration reference

This page is generated from the program's own declarations. `-explain WORD` shows the same for the keys whose name or
meaning has a word in it.

Config files (`.cfg`) are [TOML](https://toml.io): `key = value` lines, `#` comments, `true` and `false`, text in
quotes. TOML has no `None`: leave a key out to have its default, and write `"none"` where an entry of a list is to be
none. Config files of the original DeepMedic, which are Python assignments, are read as they are; nothing in them is
executed. Every key may stand once. Paths are relative to the file that names them. A key that is not listed here is an
error.
"""

_OLDER = """\
A file with one of these keys is read with the defaults and meanings of the Theano version (v0.6.1); a notice in the
log lists them. `reflectImagesPerAxis`, `performIntAugm` and the keys of intensity augmentation are understood in files
of version 0.8 too, as it does, and do not change the other defaults there.
"""


def _entries() -> Iterator[_Entry]:
    for kind, classes in CLASSES.items():
        for cls in classes:
            for key in declared_keys(cls):
                yield _Entry(key.name, kind, key)
                yield from _sub_entries(key, key.name, kind)


def _sub_entries(key: Key, name: str, kind: Kind) -> Iterator[_Entry]:
    for sub in key.sub_keys():
        yield _Entry(f"{name}.{sub.name}", kind, sub)
        yield from _sub_entries(sub, f"{name}.{sub.name}", kind)


def _grouped(entries: list[_Entry]) -> list[list[_Entry]]:
    """Return the entries, those of several kinds of config that say the same together."""
    groups: dict[tuple[str, str], list[_Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.name, entry.key.option.doc), []).append(entry)
    return list(groups.values())


def _paragraph(group: list[_Entry]) -> str:
    entry = group[0]
    option = entry.key.option
    configs = " and ".join(f"{member.kind} config" for member in group)
    origin = _ORIGINS[option.origin]
    heading = f"{entry.name}  ({configs}{', ' if origin else ''}{origin})"
    rows = [option.doc, f"Type: {entry.type_name}", f"Allowed: {entry.allowed}" if entry.allowed else ""]
    rows.append(f"Default: {entry.default}")
    body = [textwrap.fill(row, _WIDTH, initial_indent="    ", subsequent_indent="    ") for row in rows if row]
    return "\n".join([heading, *body])


def _section(entry: _Entry) -> str:
    option = entry.key.option
    level = "####" if "." in entry.name else "###"
    details = [f"- Type: {entry.type_name}"]
    if entry.allowed:
        details.append(f"- {'Sub-keys' if table_type(entry.key.annotation) else 'Allowed'}: {entry.allowed}")
    details.append(f"- Default: {entry.default}")
    if option.origin == "new":
        details.append("- New in this program; the original has no such key.")
    return "\n".join([f"{level} `{entry.name}`\n", textwrap.fill(option.doc, 120), "", *details, ""])


def _removed() -> Iterator[tuple[str, str]]:
    for texts in REMOVED.values():
        yield from texts.items()


def _removed_keys() -> str:
    rows = [f"- `{name}` {text}." for name, text in _removed()]
    return "\n".join(["## Keys that are no longer understood\n", *rows, ""])


def _toml(value: Any) -> str:
    """Return a default as it would stand in a file."""
    if isinstance(value, dict):
        return "{" + listed(f"{name} = {_toml(item)}" for name, item in value.items() if item is not None) + "}"
    if isinstance(value, list | tuple):
        return f"[{listed(_toml(item) for item in value)}]"
    return shown(value)
