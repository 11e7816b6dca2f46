"""Sorted tables of keys and values in the form of LevelDB's, as TensorFlow writes the index of a checkpoint.

A table is a sequence of blocks, each followed by its type and its masked CRC-32C. Blocks of data come first, then one
of metadata (empty here), then one that lists the places of the data blocks; a footer of fixed size says where the last
two lie.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from deepmedic.errors import ModelError
from deepmedic.transfer.crc32c import crc32c, masked

MAGIC = bytes.fromhex("57fb808b247547db")
"""The last bytes of a table."""
FOOTER = 48
"""Size of the footer in bytes, with the mark."""
_TRAILER = 5
"""Bytes after a block: its type, and the masked CRC-32C of block and type."""
_LONGEST_NAME = 1000

Handle = tuple[int, int]
"""Offset and size of a block in bytes."""


def pairs(content: bytes, path: Path) -> Iterator[tuple[bytes, bytes]]:
    """All keys and values of a table that ends with `MAGIC`, in order; `path` is named in messages.

    Raises:
        ValueError: the table is damaged; the text says where.
        ModelError: it is whole, but compressed.
    """
    footer = content[-FOOTER : -len(MAGIC)]
    meta, position = _handle(footer, 0)
    top, position = _handle(footer, position)
    if any(footer[position:]):
        raise ValueError("its footer is wrong")
    blocks = [_whole_handle(value) for _, value in _block_pairs(_block(content, top, path))]
    _check_layout([*blocks, meta, top], len(content) - FOOTER)
    _block(content, meta, path)
    last: bytes | None = None
    for handle in blocks:
        for key, value in _block_pairs(_block(content, handle, path)):
            if last is not None and key <= last:
                raise ValueError("its names are not in order")
            last = key
            yield key, value


def _check_layout(handles: list[Handle], end: int) -> None:
    """TensorFlow writes block after block; so a changed handle cannot point to another sound block."""
    position = 0
    for offset, size in handles:
        if offset != position:
            raise ValueError(f"a block is said to begin at byte {offset}, not at {position}")
        position = offset + size + _TRAILER
    if position != end:
        raise ValueError(f"its blocks end at byte {position}, not at {end}")


def _block(content: bytes, handle: Handle, path: Path) -> bytes:
    """The verified bytes of a block."""
    offset, size = handle
    end = offset + size
    if end + _TRAILER > len(content) - FOOTER:
        raise ValueError(f"a block of {size} bytes is said to begin at byte {offset}")
    kind = content[end]
    if masked(crc32c(content[offset : end + 1])) != int.from_bytes(content[end + 1 : end + _TRAILER], "little"):
        raise ValueError(f"the checksum of the block at byte {offset} is wrong")
    if kind != 0:
        raise ModelError(
            f"{path}: is compressed ({'Snappy' if kind == 1 else f'type {kind}'}), which this program does not read. "
            "TensorFlow has not compressed the index of a checkpoint since its version 1.2: load and save the "
            "checkpoint again with DeepMedic v0.8."
        )
    return content[offset:end]


def _block_pairs(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The pairs of a block; a key is stored as what it shares with the one before, and the rest."""
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 - 4 * restarts
    if len(block) < 4 or end < 0:
        raise ValueError("a block is too short")
    key, position = b"", 0
    while position < end:
        shared, position = varint(block, position)
        own, position = varint(block, position)
        length, position = varint(block, position)
        start = position + own
        if shared > len(key) or start + length > end or shared + own > _LONGEST_NAME:
            raise ValueError("a name is wrong")
        key = key[:shared] + block[position:start]
        position = start + length
        yield key, block[start:position]


def _whole_handle(value: bytes) -> Handle:
    handle, position = _handle(value, 0)
    if position != len(value):
        raise ValueError("the place of a block is wrong")
    return handle


def _handle(data: bytes, position: int) -> tuple[Handle, int]:
    offset, position = varint(data, position)
    size, position = varint(data, position)
    return (offset, size), position


def varint(data: bytes, position: int) -> tuple[int, int]:
    """A number of up to 64 bits in groups of seven, lowest first, and the position after it."""
    value = 0
    for shift in range(0, 64, 7):
        if position >= len(data):
            raise ValueError("a number is cut short")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
    else:
        raise ValueError("a number is too long")
    if value >= 1 << 64 or (byte == 0 and shift > 0):
        raise ValueError("a number is not written as TensorFlow writes it")
    return value, position
