"""The `.index` file of a TensorFlow checkpoint: which variables there are, and where their values lie.

The file is a sorted table. Its keys are names of variables, its values protocol buffers (`BundleEntryProto` of
TensorFlow); the value of the empty key is the header of the checkpoint (`BundleHeaderProto`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepmedic.errors import ModelError
from deepmedic.model_files import damaged, unreadable
from deepmedic.transfer.tensorflow_table import FOOTER, MAGIC, pairs, varint

_LARGEST_INDEX = 1 << 24
_MOST_VARIABLES = 100_000
_MOST_SHARDS = 99_999
_NEWEST_FORMAT = 1
_DTYPES = {1: "f4", 2: "f8", 3: "i4", 9: "i8", 10: "?"}
_OTHER_TYPES = {4: "uint8", 5: "int16", 6: "int8", 7: "string", 8: "complex64", 14: "bfloat16", 19: "half"}


@dataclass(frozen=True)
class Entry:
    """One variable."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    shard: int
    offset: int
    """In bytes, from the start of its data file."""
    size: int
    """In bytes."""
    masked_crc: int

    @property
    def described(self) -> str:
        """For messages: type and shape."""
        return f"{self.dtype.name} {list(self.shape)}"


@dataclass(frozen=True)
class Index:
    """All variables of a checkpoint by name, sorted as text, and the number of its data files."""

    shards: int
    entries: dict[str, Entry]


def index_path(prefix: Path) -> Path:
    """The index file of the checkpoint `prefix`."""
    return prefix.with_name(f"{prefix.name}.index")


def read_index(prefix: Path) -> Index:
    """Read the index of the checkpoint `prefix`, verified by its checksums.

    Raises:
        ModelError: the file is missing, cut short, altered, foreign, or of variables that DeepMedic never writes.
    """
    path = index_path(prefix)
    try:
        with open(path, "rb") as file:
            content = file.read(_LARGEST_INDEX + 1)
    except FileNotFoundError as problem:
        raise ModelError(
            f"{path}: there is no such file, so there is no TensorFlow checkpoint {prefix.name}; check the path."
        ) from problem
    except OSError as problem:
        raise unreadable(path, problem) from problem
    return parse_index(content, path)


def parse_index(content: bytes, path: Path) -> Index:
    """As `read_index`, of what `path` holds."""
    if content[-len(MAGIC) :] != MAGIC or not FOOTER <= len(content) <= _LARGEST_INDEX:
        raise ModelError(
            f"{path}: is not, or not all of, the index of a TensorFlow checkpoint: its {len(content)} bytes end with "
            f"{content[-len(MAGIC) :].hex() or 'nothing'} in place of that format's mark {MAGIC.hex()}. Copy the "
            ".index and .data files of the checkpoint again from where they came from."
        )
    try:
        return _index(content, path)
    except ValueError as problem:
        raise damaged(path, str(problem)) from problem


def _index(content: bytes, path: Path) -> Index:
    shards = 0
    big_endian = False
    entries: dict[str, Entry] = {}
    for number, (key, value) in enumerate(pairs(content, path)):
        if number == 0:
            if key:
                raise ValueError("it has no header")
            shards, big_endian = _header(value, path)
            continue
        if number > _MOST_VARIABLES:
            raise ValueError(f"it names more than {_MOST_VARIABLES} variables")
        name = key.decode("utf-8")
        entries[name] = _entry(name, value, shards, big_endian, path)
    if not shards:
        raise ValueError("it is empty")
    return Index(shards, entries)


def _header(value: bytes, path: Path) -> tuple[int, bool]:
    """The number of data files, and whether their numbers have the most significant byte first."""
    fields = _Message(value)
    needed = _Message(fields.message(3)).number(2)
    if needed > _NEWEST_FORMAT:
        raise ModelError(
            f"{path}: needs a reader of version {needed} of TensorFlow's checkpoint format; this program reads version "
            f"{_NEWEST_FORMAT}, which DeepMedic v0.8 wrote."
        )
    shards, endianness = fields.number(1), fields.number(2)
    if not 1 <= shards <= _MOST_SHARDS or endianness not in (0, 1):
        raise ValueError(f"its header names {shards} data files and byte order {endianness}")
    return shards, endianness == 1


def _entry(name: str, value: bytes, shards: int, big_endian: bool, path: Path) -> Entry:
    fields = _Message(value)
    code = fields.number(1)
    if code not in _DTYPES or fields.has(7):
        found = "stored in slices" if fields.has(7) else f"of type {_OTHER_TYPES.get(code, f'number {code}')}"
        raise ModelError(
            f"{path}: holds the variable {name!r} {found}, which DeepMedic never writes. Checkpoints of its version "
            "0.8 can be read here."
        )
    dtype = np.dtype(_DTYPES[code]).newbyteorder(">" if big_endian else "<")
    shape = _shape(fields.message(2))
    entry = Entry(dtype, shape, fields.number(3), fields.number(4), fields.number(5), fields.number(6))
    if min(entry.shard, entry.offset, entry.size) < 0 or entry.shard >= shards:
        raise ValueError(f"{name!r} lies in data file {entry.shard} of {shards} at {entry.offset}, {entry.size} bytes")
    if entry.size != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name!r} has the shape {list(shape)} of {dtype.name}, but {entry.size} bytes")
    return entry


def _shape(value: bytes) -> tuple[int, ...]:
    fields = _Message(value)
    shape = tuple(_Message(dimension).number(1) for dimension in fields.messages(2))
    if len(shape) > 8 or min(shape, default=0) < 0 or fields.number(3):
        raise ValueError(f"a variable has the shape {list(shape[:20])}")
    return shape


class _Message:
    """The fields of a protocol buffer: numbers, and the bytes of texts and inner messages."""

    def __init__(self, message: bytes) -> None:
        self._fields: dict[int, list[int | bytes]] = {}
        position = 0
        while position < len(message):
            tag, position = varint(message, position)
            value: int | bytes
            if tag & 7 == 0:
                value, position = varint(message, position)
            elif tag & 7 == 2:
                length, position = varint(message, position)
                value, position = message[position : position + length], position + length
            elif tag & 7 in (1, 5):
                length = 8 if tag & 7 == 1 else 4
                value, position = int.from_bytes(message[position : position + length], "little"), position + length
            else:
                raise ValueError(f"a field has the unknown type {tag & 7}")
            self._fields.setdefault(tag >> 3, []).append(value)
        if position > len(message):
            raise ValueError("a field is cut short")

    def has(self, field: int) -> bool:
        return field in self._fields

    def number(self, field: int) -> int:
        """A signed number; 0 where the field is missing, as the format defines."""
        value = self._fields.get(field, [0])[-1]
        if not isinstance(value, int):
            raise ValueError(f"field {field} is no number")
        return value - (1 << 64) if value >= 1 << 63 else value

    def messages(self, field: int) -> list[bytes]:
        values = self._fields.get(field, [])
        found = [value for value in values if isinstance(value, bytes)]
        if len(found) < len(values):
            raise ValueError(f"field {field} is a number")
        return found

    def message(self, field: int) -> bytes:
        """An inner message; given in parts, these are put together, as the format defines."""
        return b"".join(self.messages(field))
