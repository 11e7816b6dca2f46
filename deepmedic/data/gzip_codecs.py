"""Gzip by Intel's ISA-L where the optional package isal is installed, which is several times as fast; else by zlib.

What is read is the same with both: whatever ISA-L refuses or does not check as strictly is left to zlib. What is
written holds the same values, in other bytes; each library writes equal content as equal bytes.
"""

from __future__ import annotations

import zlib
from functools import cache
from typing import Any, Literal, Protocol

GZIP_MAGIC = b"\x1f\x8b"

Bytes = bytes | memoryview
Content = Literal["labels", "floats"]
"""What is compressed, which decides how: whole numbers that repeat, or numbers that hardly do."""

_AS_GZIP = 16 + zlib.MAX_WBITS
"""Window bits that mean gzip's header and checksum; the latter is then verified by the library itself."""
_FAST_LEVEL = 2
"""Of ISA-L's four levels the one that is both fastest and smallest for probability maps: 3 % larger than zlib's."""
_FLAGS_AT = 3
_SAME_FLAGS = 0b00011101
"""Flags of a gzip header that both libraries understand alike: text, extra field, name, comment."""


class Inflater(Protocol):
    """Unpacks one member of a gzip file, as `zlib.decompressobj` does."""

    @property
    def eof(self) -> bool: ...

    @property
    def unconsumed_tail(self) -> bytes: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class Deflater(Protocol):
    """Packs one member of a gzip file, as `zlib.compressobj` does."""

    def compress(self, data: Bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


def is_fast() -> bool:
    """Whether ISA-L is there."""
    return _isal() is not None


def inflater(start: bytes, *, fast: bool) -> Inflater:
    """Return what unpacks a member that begins with `start`: ISA-L if `fast` and possible, else zlib."""
    isal = _isal()
    if not fast or isal is None or len(start) <= _FLAGS_AT or start[_FLAGS_AT] & ~_SAME_FLAGS:
        return zlib.decompressobj(_AS_GZIP)
    return isal.decompressobj(_AS_GZIP)


def deflater(content: Content) -> Deflater:
    """Return what packs a file; neither name nor time go into its header, so that equal content gives equal bytes.

    Labels are left to zlib, which makes them smallest and needs little time for them. Floats hardly become smaller
    than by shortening runs of zeros.
    """
    return _deflater(content, _AS_GZIP)


def deflated(values: bytes, content: Content) -> bytes:
    """Pack bytes in the same way, in zlib's container (RFC 1950)."""
    packer = _deflater(content, zlib.MAX_WBITS)
    return packer.compress(values) + packer.flush()


def _deflater(content: Content, container: int) -> Deflater:
    if content == "labels":
        return zlib.compressobj(6, zlib.DEFLATED, container)
    isal = _isal()
    if isal is not None:
        packer: Deflater = isal.compressobj(_FAST_LEVEL, isal.DEFLATED, container)
        return packer
    return zlib.compressobj(1, zlib.DEFLATED, container, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)


def errors() -> tuple[type[Exception], ...]:
    """What an inflater raises for damaged content."""
    isal = _isal()
    return (zlib.error,) if isal is None else (zlib.error, isal.error)


def crc32(content: Bytes, before: int = 0) -> int:
    """The checksum of gzip, going on from that of what comes before."""
    isal = _isal()
    return zlib.crc32(content, before) if isal is None else isal.crc32(content, before)


@cache
def _isal() -> Any:
    """The module of ISA-L with zlib's interface, or None."""
    try:
        from isal import isal_zlib
    except ImportError:
        return None
    return isal_zlib
