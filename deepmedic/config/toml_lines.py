"""The line of every key of a TOML text, which its parser does not tell.

The scan knows strings, comments and brackets, so it is not deceived by what they contain. It is used on texts that
the parser accepted, and on refused ones up to where they stop making sense, to say where a repeated key stood first
and which bracket was left open.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import tomli

_KEY_PART = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_KEY = re.compile(rf"{_KEY_PART}(?:[ \t]*\.[ \t]*{_KEY_PART})*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_HEADER = re.compile(rf"(\[\[?)[ \t]*({_KEY.pattern})[ \t]*\]\]?")
_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_STRING = re.compile(
    r'"""(?:[^"\\]|\\.|"{1,2}(?!"))*"{3,5}'
    r"|'''(?:[^']|'{1,2}(?!'))*'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_PLAIN = re.compile(r"""[^\[\]{},"'#\n]+""")


@dataclass(frozen=True)
class KeyLine:
    """One key of a text: its dotted path and its line, counted from 1."""

    path: tuple[str, ...]
    line: int

    @property
    def name(self) -> str:
        return ".".join(self.path)


@dataclass
class KeyScan:
    """What a scan found."""

    keys: list[KeyLine] = field(default_factory=list)
    open_brackets: list[int] = field(default_factory=list)
    """Positions in the text of the brackets that were not closed where the scan stopped."""

    def lines(self) -> dict[str, int]:
        """Return the first line of each key and each table by its dotted name."""
        first: dict[str, int] = {}
        for key in self.keys:
            for length in range(1, len(key.path) + 1):
                first.setdefault(".".join(key.path[:length]), key.line)
        return first

    def repeated(self) -> dict[str, list[int]]:
        """Return the lines of each key that stands more than once."""
        counts = Counter(key.path for key in self.keys)
        repeated: dict[str, list[int]] = {}
        for key in self.keys:
            if counts[key.path] > 1:
                repeated.setdefault(key.name, []).append(key.line)
        return repeated


def scan_keys(text: str) -> KeyScan:
    """Return the keys of a TOML text in their order; of an invalid text those before it stops making sense."""
    scanner = _Scanner(text)
    scanner.run()
    return scanner.found


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._counted = (0, 1)
        self._array_tables: Counter[tuple[str, ...]] = Counter()
        self.found = KeyScan()

    def run(self) -> None:
        table: tuple[str, ...] = ()
        while True:
            self._take(_BLANK)
            if self._position >= len(self._text):
                return
            header = _HEADER.match(self._text, self._position)
            if header is not None:
                table = self._header(header)
            elif not self._assignment(table):
                return

    def _header(self, header: re.Match[str]) -> tuple[str, ...]:
        path = _split(header.group(2))
        if header.group(1) == "[[":
            # Each [[table]] starts a new one: number them, so that their keys do not look repeated.
            self._array_tables[path] += 1
            if self._array_tables[path] > 1:
                path = (*path[:-1], f"{path[-1]}#{self._array_tables[path]}")
        self._record(path)
        self._position = header.end()
        return path

    def _assignment(self, table: tuple[str, ...]) -> bool:
        key = self._key()
        if key is None:
            return False
        path = (*table, *key)
        return self._value(path)

    def _key(self) -> tuple[str, ...] | None:
        """Take a key and its equals sign; leave the position alone when there is none."""
        match = _KEY.match(self._text, self._position)
        if match is None:
            return None
        equals = _SPACE.match(self._text, match.end())
        after = match.end() if equals is None else equals.end()
        if self._text[after : after + 1] != "=":
            return None
        self._key_start = self._position
        self._position = after + 1
        return _split(match.group())

    def _value(self, path: tuple[str, ...]) -> bool:
        """Skip a value, recording the keys of inline tables; return False where the text makes no sense."""
        self._record(path, self._key_start)
        stack: list[tuple[int, tuple[str, ...]]] = []
        current = path
        while self._position < len(self._text):
            character = self._text[self._position]
            if character in "\n#" and not stack:
                return True
            if character in "[{":
                stack.append((self._position, current))
                self._position += 1
            elif character in "]}":
                if not stack or self._text[stack[-1][0]] + character not in ("[]", "{}"):
                    return False
                current = stack.pop()[1]
                self._position += 1
                continue
            elif character == ",":
                self._position += 1
            elif not self._skip_plain():
                self.found.open_brackets = [start for start, _ in stack]
                return False
            if character in "{," and stack and self._text[stack[-1][0]] == "{":
                current = self._inline_key(stack[-1][1])
        self.found.open_brackets = [start for start, _ in stack]
        return not stack

    def _inline_key(self, table: tuple[str, ...]) -> tuple[str, ...]:
        self._take(_BLANK)
        key = self._key()
        if key is None:
            return table
        self._record((*table, *key), self._key_start)
        return (*table, *key)

    def _skip_plain(self) -> bool:
        for pattern in (_STRING, _PLAIN):
            match = pattern.match(self._text, self._position)
            if match is not None:
                self._position = match.end()
                return True
        if self._text[self._position] in "\n#":
            self._take(_BLANK)
            return True
        return False

    def _take(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self._text, self._position)
        if match is not None:
            self._position = match.end()

    def _record(self, path: tuple[str, ...], start: int | None = None) -> None:
        self.found.keys.append(KeyLine(path, self._line(self._position if start is None else start)))

    def _line(self, position: int) -> int:
        counted_to, line = self._counted
        line += self._text.count("\n", counted_to, position)
        self._counted = (position, line)
        return line


def _split(key: str) -> tuple[str, ...]:
    """Return the parts of a dotted key; the parser itself undoes quotes and escapes."""
    if _BARE_KEY.fullmatch(key):
        return (key,)
    try:
        value: Any = tomli.loads(f"{key} = 0")
    except ValueError:
        return (key,)
    parts = []
    while isinstance(value, dict):
        part, value = next(iter(value.items()))
        parts.append(part)
    return tuple(parts)
