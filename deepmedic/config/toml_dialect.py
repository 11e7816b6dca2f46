"""Reads TOML, telling the line of every key, and the place of an error with the line it is on."""

from __future__ import annotations

import re
from pathlib import Path

import tomli

from deepmedic.config.source import ConfigFile, printable
from deepmedic.config.toml_lines import KeyScan, scan_keys
from deepmedic.errors import ConfigError

_NEXT_ASSIGNMENT = re.compile(r"""[ \t]*[\w."'-]+[ \t]*=""")
_REPEATED = ("Cannot overwrite", "Cannot declare", "Cannot mutate", "Cannot redefine", "Duplicate")
_BAD_ESCAPE = ("Unescaped '\\'", "Escaped character", "Invalid hex value")
_REMEDIES = {
    "Unescaped '\\'": "a backslash starts an escape between double quotes: use single quotes, or / in paths",
    "Invalid value": "values are numbers, true, false, quoted text, [lists] and {tables}",
    "Expected '=' after": "every line is key = value, a [table] or a # comment",
    "Unclosed array": "a list is [a, b, c]",
    "Unclosed inline table": "a table is {key = value, key = value}",
}


class TomlSyntaxError(ConfigError):
    """A text that is not TOML."""

    def __init__(self, message: str, position: int, in_escape: bool) -> None:
        super().__init__(message)
        self.position = position
        """Where the parser stopped, in characters from the start of the text."""
        self.in_escape = in_escape
        """Whether it stopped at an escape that TOML does not have, inside quoted text."""


def parse_toml(path: Path, text: str) -> ConfigFile:
    """Return the keys and values of a TOML text whose lines end in a line feed.

    Raises `TomlSyntaxError` where it is not TOML, with file, line, column and the line itself, and `ConfigError` for
    keys that stand twice, naming both lines.
    """
    try:
        values = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        raise _refusal(path, text, error) from None
    except RecursionError:
        raise ConfigError(f"{path}: lists or tables are nested too deeply to be a configuration") from None
    except ValueError as error:  # an integer of thousands of digits
        raise ConfigError(f"{path}: a number is too large to be read: {error}") from None
    return ConfigFile(path, "toml", values, scan_keys(text).lines())


def repeated_keys(path: Path, repeated: dict[str, list[int]]) -> ConfigError | None:
    """Return the refusal of keys that stand more than once (name -> lines), or None when there are none."""
    if not repeated:
        return None
    first_lines = min(repeated.values())
    found = "; ".join(
        f"{printable(name)} stands on lines {' and '.join(map(str, lines))}" for name, lines in repeated.items()
    )
    return ConfigError(f"{path}:{first_lines[-1]}: a key may stand only once: {found}; keep one of them")


def pointed_line(text: str, position: int) -> tuple[int, int, str]:
    """Return line and column (from 1) of a position, and the line with a caret below that column."""
    start = text.rfind("\n", 0, position) + 1
    end = text.find("\n", position)
    line = text[start : len(text) if end < 0 else end]
    number, column = text.count("\n", 0, position) + 1, position - start + 1
    cut = max(0, column - 100)  # keep the caret of a very long line in view
    shown = line[cut : cut + 160].expandtabs(1)
    return number, column, f"    {printable(shown)}\n    {' ' * (column - 1 - cut)}^"


def _refusal(path: Path, text: str, error: tomli.TOMLDecodeError) -> ConfigError:
    scan = scan_keys(text)
    if error.msg.startswith(_REPEATED):
        repeated = repeated_keys(path, scan.repeated())
        if repeated is not None:
            return repeated
    in_escape = error.msg.startswith(_BAD_ESCAPE)
    position = text.rfind("\\", 0, error.pos) if in_escape else _place(text, error.pos, scan)
    line, column, excerpt = pointed_line(text, position)
    what = error.msg[:1].lower() + error.msg[1:]
    remedy = next((text for start, text in _REMEDIES.items() if error.msg.startswith(start)), "")
    if position != error.pos and not in_escape:
        found_line, found_column, _ = pointed_line(text, error.pos)
        what = f"this bracket is not closed (noticed on line {found_line}, column {found_column})"
        remedy = f"close it with {'}' if text[position] == '{' else ']'}"
    message = f"{path}:{line}:{column}: not valid TOML: {what}{'; ' if remedy else ''}{remedy}\n{excerpt}"
    return TomlSyntaxError(message, error.pos, in_escape)


def _place(text: str, noticed: int, scan: KeyScan) -> int:
    """Return where the mistake is: an open bracket is noticed only where the next key or the end of the file comes."""
    opened = [position for position in scan.open_brackets if position < noticed]
    if not opened:
        opened = _open_brackets(text[:noticed])
    at_line_start = text[text.rfind("\n", 0, noticed) + 1 : noticed].strip() == ""
    next_key = at_line_start and _NEXT_ASSIGNMENT.match(text, noticed) is not None
    if opened and (next_key or not text[noticed:].strip()):
        return opened[-1]
    return noticed


def _open_brackets(text: str) -> list[int]:
    return scan_keys(text).open_brackets
