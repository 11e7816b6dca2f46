"""CRC-32C (Castagnoli polynomial), the checksum in TensorFlow's files, fast enough for large ones without an extension.

The register of a CRC is linear over GF(2) in what it was before and in the data: the register of a text AB that starts
at zero is that of A, moved on over as many zero bytes as B has, XOR that of B. So neighbouring words are combined in
pairs, the results in pairs again, and so on, all pairs of a round at once. Moving a register on over 2^k zero bytes is
a 32 x 32 matrix, held as one table for each of the register's four bytes.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

_POLYNOMIAL = 0x82F63B78
"""Castagnoli's, with its bits in reverse order."""
_ONES = 0xFFFFFFFF
_MASK_DELTA = 0xA282EAD8
_WORD = 4
_CHUNK = 1 << 20
"""Bytes that are combined at once; their intermediate results fit into the processor's cache."""

Words = NDArray[np.uint32]


def crc32c(data: bytes | memoryview) -> int:
    """CRC-32C of `data`, as in RFC 3720."""
    view = memoryview(data)
    register = _ONES
    head = len(view) % _WORD
    byte_table = _moving_on(0)[0]
    for byte in view[:head]:
        register = int(byte_table[(register ^ byte) & 0xFF]) ^ (register >> 8)
    for start in range(head, len(view), _CHUNK):
        register = _over_words(np.frombuffer(view[start : start + _CHUNK], dtype="<u4").astype(np.uint32), register)
    return register ^ _ONES


def masked(crc: int) -> int:
    """The form in which TensorFlow stores a CRC, so that a CRC over data that holds CRCs stays a good one."""
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & _ONES


def _over_words(words: Words, register: int) -> int:
    """The register after `words`, which are changed."""
    words[0] ^= np.uint32(register)
    power = 2
    while words.size > 1:
        if words.size % 2:
            words = np.concatenate([np.zeros(1, np.uint32), words])  # zeros in front do not change a zero register
        words = _move_on(words[0::2], power) ^ words[1::2]
        power += 1
    return int(_move_on(words, 2)[0])


def _move_on(registers: Words, power: int) -> Words:
    """The registers after 2^power zero bytes."""
    first, second, third, last = _moving_on(power)
    moved = first[registers & 0xFF]
    moved ^= second[(registers >> 8) & 0xFF]
    moved ^= third[(registers >> 16) & 0xFF]
    moved ^= last[registers >> 24]
    return moved


@cache
def _moving_on(power: int) -> Words:
    """Tables [4, 256]: what each value of each byte of a register becomes after 2^power zero bytes."""
    values = np.arange(256, dtype=np.uint32)
    if power > 0:
        half = _moving_on(power - 1)
        return _move_on(half.ravel(), power - 1).reshape(4, 256)
    eight_bits = values
    for _ in range(8):
        eight_bits = (eight_bits >> np.uint32(1)) ^ (np.uint32(_POLYNOMIAL) * (eight_bits & np.uint32(1)))
    return np.stack([eight_bits, values, values << np.uint32(8), values << np.uint32(16)])
