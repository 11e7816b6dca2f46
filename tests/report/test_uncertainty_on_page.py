"""Maps of uncertainty in the viewer: off at first, in colours that all can order, with a scale that tells values."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from headless_browser import Browser
from small_cases import PART, SIZE, WHOLE
from viewer_steps import LOADED, SNAPSHOT, painted_after, set_value

from deepmedic.data.cases import ImageRef
from deepmedic.report import page_writer
from deepmedic.report.content import ReportContent
from deepmedic.report.page_writer import write_report

LARGEST = (0.6, 0.3)
"""Entropy in the bright corner of the first and of the second case."""
OPTIONS = "Array.from(document.getElementById('overlay').options, (o) => o.value)"
SCALE = "document.getElementById('scale')"
SCALE_END = "document.querySelector('.scale-colours + span').textContent"
READOUT = "document.getElementById('readout').textContent"
PREDICTION = "document.querySelector('canvas[data-plane=axial][data-what=prediction]').toDataURL()"
COLOUR = """(() => {
  const canvas = document.querySelector("canvas[data-plane=axial][data-what=prediction]");
  const [column, row] = %s;
  const x = Math.floor(column * canvas.width), y = Math.floor(row * canvas.height);
  return Array.from(canvas.getContext("2d").getImageData(x, y, 1, 1).data.slice(0, 3));
})()"""
"""The colour of the prediction's axial plane, from 0 at the left and the top to 1."""
# Which colours people see who lack one kind of cone, in linear RGB: Machado, Oliveira, Fernandes, "A
# Physiologically-based Model for Simulation of Color Vision Deficiency", IEEE TVCG 15(6), 2009, severity 1.0.
SEEN = {
    "everybody": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


@pytest.fixture
def make_uncertain(
    make_content: Callable[..., ReportContent], write_image: Callable[..., ImageRef]
) -> Callable[..., ReportContent]:
    """Two cases: entropy of a third of the largest value in the head, of the largest in its bright corner."""

    def make(*, predicted: bool = True) -> ReportContent:
        content, cases = make_content("one", "two"), []
        for number, (case, largest) in enumerate(zip(content.cases, LARGEST, strict=True)):
            entropy = np.zeros(SIZE, np.float32)
            entropy[WHOLE] = largest / 3
            entropy[PART] = largest
            maps = {"entropy": write_image(f"entropy{number}", entropy)}
            if number == 0:
                maps["variance"] = write_image("variance", np.zeros(SIZE, np.float32))
            cases.append(replace(case, uncertainty=maps))
        if not predicted:
            cases = [replace(case, segmentation=None, probabilities={}) for case in cases]
        return replace(content, cases=tuple(cases))

    return make


@pytest.fixture
def uncertain(browser: Browser, make_uncertain: Callable[..., ReportContent], tmp_path: Path) -> Browser:
    """A browser that shows their page, with the crosshair in the bright corner of the first case."""
    browser.open(write_report(make_uncertain(), tmp_path / "page.html"))
    browser.wait(LOADED.format(0))
    for axis, place in enumerate((10, 8, 6)):
        painted_after(browser, set_value(f"input[data-axis='{axis}']", str(place)))
    return browser


def test_maps_are_offered_and_off_at_first(uncertain: Browser) -> None:
    assert uncertain.run(OPTIONS) == ["labels", "errors", "class 1", "uncertainty entropy", "uncertainty variance"]
    assert uncertain.run("document.getElementById('overlay').value") == "labels"
    assert uncertain.run(SCALE) is None
    assert uncertain.run(READOUT).endswith(" · entropy 0.6 nats · variance 0")

    seen = uncertain.run(SNAPSHOT)
    painted_after(uncertain, set_value("#overlay", "uncertainty entropy"))
    assert uncertain.run(SNAPSHOT) != seen
    assert uncertain.run(f"{SCALE}.hidden") is False
    text = uncertain.run(f"{SCALE}.textContent")
    assert text.startswith("Uncertainty: entropy of the class probabilities00.6 natsColours up to")
    assert "0: one class is certain, or outside the ROI." in text
    assert "Where all 3 classes are equally likely it is log(3) = 1.1 nats." in text
    assert "Largest in this case: 0.6 nats; in any case of this report: 0.6 nats." in text
    assert "Shown in 8 bits, in steps of 0.00235 nats" in text
    painted_after(uncertain, set_value("#overlay", "labels"))
    assert uncertain.run(f"{SCALE}.hidden") is True
    assert uncertain.run(SNAPSHOT) == seen


def colour_at(browser: Browser, voxel: tuple[int, int]) -> list[int]:
    """The colour of an axial voxel, counted to the right and to anterior, in the radiological convention."""
    column, row = (SIZE[0] - 0.5 - voxel[0]) / SIZE[0], (SIZE[1] - 0.5 - voxel[1]) / SIZE[1]
    return browser.run(COLOUR % json.dumps([column, row]))


def plasma(value: float) -> list[float]:
    return [255 * part for part in mpl.colormaps["plasma"](value)[:3]]


def test_colours_are_those_of_the_scale_and_the_same_for_all_cases(uncertain: Browser) -> None:
    painted_after(uncertain, "document.getElementById('crosshair').click()")
    painted_after(uncertain, set_value("#opacity", "100"))
    painted_after(uncertain, set_value("#overlay", "uncertainty entropy"))

    corner, head, outside = (9, 7), (4, 4), (0, 0)
    assert colour_at(uncertain, corner) == pytest.approx(plasma(1.0), abs=6)
    assert colour_at(uncertain, head) == pytest.approx(plasma(1 / 3), abs=6)
    assert colour_at(uncertain, outside) == [0, 0, 0]

    painted_after(uncertain, set_value("#scale-end", "50"))
    assert uncertain.run(SCALE_END) == "0.3 nats and more"
    assert colour_at(uncertain, corner) == pytest.approx(plasma(1.0), abs=6)
    assert colour_at(uncertain, head) == pytest.approx(plasma(2 / 3), abs=6)
    painted_after(uncertain, set_value("#scale-end", "100"))

    uncertain.click("#next")
    uncertain.wait(LOADED.format(1))
    painted_after(uncertain, set_value("input[data-axis='2']", "6"))
    assert uncertain.run("document.getElementById('overlay').value") == "uncertainty entropy"
    assert uncertain.run(OPTIONS)[-1] == "uncertainty entropy"
    assert uncertain.run(SCALE_END) == "0.6 nats"
    assert "Largest in this case: 0.3 nats" in uncertain.run(f"{SCALE}.textContent")
    assert colour_at(uncertain, corner) == pytest.approx(plasma(0.5), abs=6)


def test_opacity_and_outlines_work_as_for_other_overlays(uncertain: Browser) -> None:
    seen = []
    for script in (
        set_value("#overlay", "uncertainty entropy"),
        set_value("#opacity", "20"),
        "document.getElementById('outline').click()",
        set_value("#opacity", "0"),
    ):
        painted_after(uncertain, script)
        seen.append(uncertain.run(PREDICTION))
    assert len(set(seen)) == len(seen)
    grey = colour_at(uncertain, (4, 4))
    assert grey[0] == grey[1] == grey[2] > 0


def test_a_map_of_zeros_shows_nothing(uncertain: Browser) -> None:
    painted_after(uncertain, set_value("#opacity", "0"))
    painted_after(uncertain, set_value("#overlay", "uncertainty variance"))
    nothing = uncertain.run(PREDICTION)
    painted_after(uncertain, set_value("#opacity", "100"))
    assert uncertain.run(PREDICTION) == nothing
    assert uncertain.run(SCALE_END) == "0"
    assert uncertain.complaints == []


def test_the_order_of_colours_is_seen_by_the_colour_blind(uncertain: Browser) -> None:
    painted_after(uncertain, set_value("#overlay", "uncertainty entropy"))
    background = uncertain.run("document.querySelector('.scale-colours').style.background")
    colours = np.array([[int(part) for part in one.split(",")] for one in re.findall(r"rgb\(([^)]*)\)", background)])
    assert len(colours) > 10
    linear = np.where(colours <= 10, colours / 255 / 12.92, ((colours / 255 + 0.055) / 1.055) ** 2.4)
    for people, matrix in SEEN.items():
        luminance = np.clip(linear @ np.transpose(matrix), 0, 1) @ [0.2126, 0.7152, 0.0722]
        lightness = 116 * np.cbrt(luminance) - 16  # CIE L*, from 0 to 100
        assert np.diff(lightness).min() > 1, people
        assert lightness[-1] - lightness[0] > 60, people


def test_without_anything_else_the_image_is_shown_first(
    browser: Browser, make_uncertain: Callable[..., ReportContent], tmp_path: Path
) -> None:
    browser.open(write_report(make_uncertain(predicted=False), tmp_path / "page.html"))
    browser.wait(LOADED.format(0))

    assert browser.run(OPTIONS) == ["labels", "uncertainty entropy", "uncertainty variance"]
    assert browser.run("document.getElementById('overlay').selectedOptions[0].textContent") == "the image alone"
    assert browser.run("document.querySelectorAll('canvas[data-what=prediction]').length") == 3


@pytest.mark.parametrize("dark", [False, True])
def test_the_scale_fits_a_small_window(
    browser: Browser, make_uncertain: Callable[..., ReportContent], tmp_path: Path, dark: bool
) -> None:
    browser.open(write_report(make_uncertain(), tmp_path / "page.html"), 390, 700, dark)
    browser.wait(LOADED.format(0))
    painted_after(browser, set_value("#overlay", "uncertainty entropy"))

    assert browser.run("document.documentElement.scrollWidth") <= 390
    assert browser.run("document.querySelector('.scale-colours').clientWidth") > 100


def entries(page: str) -> list[dict[str, Any]]:
    found = re.search(r'id="report-data">(.*?)</script>', page)
    assert found is not None
    return json.loads(found[1])["cases"]


def test_maps_go_where_their_case_goes(
    make_uncertain: Callable[..., ReportContent], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_writer, "LARGEST_INLINE", 0)
    path = write_report(make_uncertain(), tmp_path / "page.html")

    one, two = entries(path.read_text())
    assert one["uncertainty"] == {"entropy": pytest.approx(0.6), "variance": 0.0}
    assert two["uncertainty"] == {"entropy": pytest.approx(0.3)}
    assert '"uncertainty":{"entropy":{"largest":0.3' in (tmp_path / two["file"]).read_text()


def test_a_session_without_maps_has_nothing_of_them(make_content: Callable[..., ReportContent], tmp_path: Path) -> None:
    page = write_report(make_content("one"), tmp_path / "page.html").read_text()

    assert entries(page) == [{"name": "one", "file": None}]
    outside_of_scripts = re.sub(r"<(script|style)>.*?</\1>", "", page, flags=re.DOTALL)
    assert "uncertain" not in outside_of_scripts.lower()
