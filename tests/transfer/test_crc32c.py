from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepmedic.transfer.crc32c import crc32c, masked


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_published_values_of_rfc_3720(data: bytes, expected: int) -> None:
    assert crc32c(data) == expected


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300))
def test_equals_the_definition(data: bytes, crc_by_definition: Callable[[bytes], int]) -> None:
    assert crc32c(data) == crc_by_definition(data)


@pytest.mark.parametrize("size", [(1 << 20) - 1, 1 << 20, (1 << 20) + 1, (1 << 20) + 6, 2_500_003])
def test_pieces_continue_each_other(size: int) -> None:
    """A CRC register is affine in the data: CRC(a) ^ CRC(b) ^ CRC(c) = CRC(a ^ b ^ c) for texts of one length."""
    generator = np.random.default_rng(size)
    a, b, c = generator.integers(0, 256, (3, size), dtype=np.uint8)
    together = crc32c((a ^ b ^ c).tobytes())
    assert crc32c(a.tobytes()) ^ crc32c(b.tobytes()) ^ crc32c(c.tobytes()) == together
    # The CRC of a text followed by its own CRC is the same for all texts.
    assert crc32c(a.tobytes() + crc32c(a.tobytes()).to_bytes(4, "little")) == 0x48674BC7


def test_a_long_text_equals_the_table_driven_form() -> None:
    data = np.random.default_rng(0).integers(0, 256, (1 << 20) + 5, dtype=np.uint8).tobytes()
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    register = 0xFFFFFFFF
    for byte in data:
        register = table[(register ^ byte) & 0xFF] ^ (register >> 8)
    assert crc32c(data) == register ^ 0xFFFFFFFF


def test_mask_can_be_undone() -> None:
    for crc in (0, 1, 0xE3069283, 0xFFFFFFFF):
        rotated = (masked(crc) - 0xA282EAD8) % 2**32
        assert (rotated >> 17 | rotated << 15) % 2**32 == crc
        assert masked(crc) != crc
