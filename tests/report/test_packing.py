"""Volumes and values as text inside a page."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from small_cases import NASTY

from deepmedic.data import gzip_codecs
from deepmedic.report.content import CaseImages
from deepmedic.report.packing import packed_case, packed_image, packed_labels, packed_probabilities, script_json
from deepmedic.report.volumes import QuantisedMap, view_case


def unpacked(text: str, shape: tuple[int, ...], *, differences: bool) -> np.ndarray:
    """As the page does it, in Python."""
    codes = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
    codes = np.cumsum(codes, dtype=np.uint8) if differences else codes
    return codes.reshape(shape, order="F")


@pytest.mark.parametrize("fast", [False, True], ids=["zlib", "isal"])
@pytest.mark.parametrize("pack", [packed_image, packed_labels, packed_probabilities])
@given(volume=arrays.arrays(np.uint8, (3, 4, 2)))
def test_a_packed_volume_comes_back_unchanged(
    pack: Callable[[np.ndarray], str], fast: bool, volume: np.ndarray
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if not fast:
            patch.setattr(gzip_codecs, "_isal", lambda: None)
        text = pack(volume)

    np.testing.assert_array_equal(unpacked(text, volume.shape, differences=pack is packed_image), volume)


@pytest.mark.parametrize("fast", [False, True], ids=["zlib", "isal"])
def test_packing_faster_makes_pages_hardly_larger(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Smooth intensities in air, against zlib's usual way with which pages used to be packed."""
    if not fast:
        monkeypatch.setattr(gzip_codecs, "_isal", lambda: None)
    random = np.random.default_rng(0)
    image = np.zeros((60, 60, 40), np.uint8)
    image[10:50, 10:50, 5:35] = (120 + np.cumsum(random.normal(size=(40, 40, 30)), axis=0)).astype(np.uint8)
    plain = zlib.compress(np.diff(image.ravel(order="F"), prepend=np.uint8(0)).tobytes(), 4)

    assert len(base64.b64decode(packed_image(image))) < 1.1 * len(plain)


@given(st.text())
def test_nothing_in_a_text_can_end_a_script_element(text: str) -> None:
    content = script_json({"name": text})

    assert not set("<>&\u2028\u2029") & set(content)
    assert json.loads(content) == {"name": text}


def test_values_that_json_does_not_know_become_null() -> None:
    assert script_json([float("nan"), float("inf"), (1, 2.5)]) == "[null,null,[1,2.5]]"


def test_a_case_names_its_channels_and_leaves_out_missing_ones(make_case: Callable[..., CaseImages]) -> None:
    case = view_case(make_case(NASTY))

    plain = packed_case(case, ["T1", "missing"])

    assert plain["name"] == NASTY
    assert [channel["name"] for channel in plain["channels"]] == ["T1", "channel 3"]
    assert plain["channels"][0]["background"] == 0.0
    assert case.labels is not None
    np.testing.assert_array_equal(unpacked(plain["labels"], case.shape, differences=False), case.labels)
    codes = case.channels[1][1].codes
    np.testing.assert_array_equal(unpacked(plain["channels"][1]["data"], case.shape, differences=True), codes)


def test_maps_of_uncertainty_are_packed_with_their_largest_value(make_case: Callable[..., CaseImages]) -> None:
    case = view_case(make_case("a"))
    assert "uncertainty" not in packed_case(case, [])
    codes = np.arange(case.labels.size, dtype=np.uint8).reshape(case.shape)  # type: ignore[union-attr]
    case.uncertainty = {"variance": QuantisedMap(codes, 0.125)}

    [(kind, packed)] = packed_case(case, [])["uncertainty"].items()

    assert (kind, packed["largest"]) == ("variance", 0.125)
    np.testing.assert_array_equal(unpacked(packed["data"], case.shape, differences=False), codes)
