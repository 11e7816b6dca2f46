"""The page in a real browser, opened from disk: it moves, sorts, loads cases, and asks for nothing from a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from headless_browser import Browser
from small_cases import NASTY
from viewer_steps import LOADED, SNAPSHOT, painted_after, set_value

from deepmedic.report import page_writer
from deepmedic.report.content import ReportContent
from deepmedic.report.page_writer import write_report

BRIGHTEST = """(() => {
  const canvas = document.querySelector("canvas[data-plane=%s][data-what=truth]");
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let sum = 0, x = 0, y = 0;
  for (let at = 0; at < pixels.length; at += 4) {
    if (pixels[at] < 250) continue;
    sum += 1; x += (at / 4) %% canvas.width; y += Math.floor(at / 4 / canvas.width);
  }
  return [x / sum / canvas.width, y / sum / canvas.height];
})()"""
"""Where the white voxels of a plane are: from 0 at the left and the top to 1."""


def set_up(browser: Browser, path: Path, **window: int | bool) -> None:
    browser.open(path, **window)  # type: ignore[arg-type]
    browser.wait(LOADED.format(0))
    painted_after(browser, set_value("#opacity", "0"))
    # Each step is waited for, or a later one could take the paint of an earlier one for its own.
    painted_after(browser, "document.getElementById('crosshair').click()")
    painted_after(browser, "window.dispatchEvent(new Event('resize'))")


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR"])
def test_right_and_left_are_where_the_convention_says(
    browser: Browser, make_content: Callable[..., ReportContent], tmp_path: Path, codes: str
) -> None:
    """The bright corner is at the patient's right, anterior and superior, however the file is stored."""
    set_up(browser, write_report(make_content("one", codes=codes), tmp_path / "page.html"))
    painted_after(browser, set_value("input[data-axis='0']", "10"))
    painted_after(browser, set_value("input[data-axis='1']", "8"))
    painted_after(browser, set_value("input[data-axis='2']", "6"))

    sides = "Array.from(document.querySelectorAll('.picture:first-child .side'), (e) => e.textContent).join('')"
    assert browser.run(sides) == "RLAP"
    x, y = browser.run(BRIGHTEST % "axial")
    assert x < 0.4  # right is on the left
    assert y < 0.4  # anterior is up
    x, y = browser.run(BRIGHTEST % "coronal")
    assert x < 0.4
    assert y < 0.4  # superior is up
    x, y = browser.run(BRIGHTEST % "sagittal")
    assert x < 0.4  # the nose points left
    assert y < 0.4

    painted_after(browser, set_value("#convention", "neurological"))

    assert browser.run(sides) == "LRAP"
    x, _ = browser.run(BRIGHTEST % "axial")
    assert x > 0.6
    x, _ = browser.run(BRIGHTEST % "sagittal")
    assert x < 0.4


def test_planes_have_the_proportions_of_the_body(
    browser: Browser, make_content: Callable[..., ReportContent], tmp_path: Path
) -> None:
    set_up(browser, write_report(make_content("one"), tmp_path / "page.html"))

    sizes = browser.run(
        "Array.from(document.querySelectorAll('canvas[data-what=truth]'), (c) => [c.clientWidth, c.clientHeight])"
    )

    millimetres = [(14 * 1.0, 12 * 1.5), (14 * 1.0, 10 * 2.0), (12 * 1.5, 10 * 2.0)]
    scale = sizes[0][0] / millimetres[0][0]
    for (width, height), (across, up) in zip(sizes, millimetres, strict=True):
        assert width == pytest.approx(across * scale, abs=1.5)
        assert height == pytest.approx(up * scale, abs=1.5)


def test_sliders_keys_and_clicks_move_the_image(
    browser: Browser, make_content: Callable[..., ReportContent], tmp_path: Path
) -> None:
    browser.open(write_report(make_content("one"), tmp_path / "page.html"))
    browser.wait(LOADED.format(0))
    before = browser.run(SNAPSHOT)
    painted_after(browser, set_value("input[data-axis='2']", "5"))
    moved = browser.run(SNAPSHOT)
    assert moved != before
    assert browser.run("document.querySelector(\"input[data-axis='2'] + output\").value").startswith("6/10 ")

    browser.run("document.querySelector('canvas[data-plane=axial]').focus()")
    browser.press("PageUp")
    browser.wait("document.querySelector(\"input[data-axis='2']\").value === '6'")
    right = "Number(document.querySelector(\"input[data-axis='0']\").value)"
    place = browser.run(right)
    browser.press("ArrowRight")  # to the patient's left
    browser.wait(f"{right} === {place - 1}")
    browser.press("ArrowLeft")
    browser.wait(f"{right} === {place}")

    browser.click("canvas[data-plane=coronal][data-what=truth]")
    browser.wait("document.querySelector(\"input[data-axis='2']\").value === '5' || "
                 "document.querySelector(\"input[data-axis='2']\").value === '4'")  # fmt: skip
    assert "truth: " in browser.run("document.getElementById('readout').textContent")


def test_overlays_show_what_they_say(
    browser: Browser, make_content: Callable[..., ReportContent], tmp_path: Path
) -> None:
    browser.open(write_report(make_content("one"), tmp_path / "page.html"))
    browser.wait(LOADED.format(0))
    options = browser.run("Array.from(document.getElementById('overlay').options, (o) => o.textContent)")
    assert options == ["labels", "errors", f"probability of {NASTY}"]
    seen = [browser.run(SNAPSHOT)]
    for script in (
        set_value("#overlay", "errors"),
        set_value("#overlay", "class 1"),
        "document.getElementById('outline').click()",
        set_value("#opacity", "0"),
        set_value("#channel", "1"),
        set_value("#high", "100"),
        set_value("#layout", "2"),
    ):
        painted_after(browser, script)
        seen.append(browser.run(SNAPSHOT))
    assert len(set(seen)) == len(seen)
    assert browser.run("document.querySelectorAll('canvas').length") == 2


def test_tables_sort_by_value_with_undefined_ones_last(
    browser: Browser, make_content: Callable[..., ReportContent], tmp_path: Path
) -> None:
    names = ["case 10", "case 9", "case 1"]
    browser.open(write_report(make_content(*names), tmp_path / "page.html"))
    browser.wait(LOADED.format(0))
    browser.run(set_value("#class-filter", "lesion"))

    def column(index: int) -> list[str]:
        rows = "document.querySelectorAll('#metrics-table tbody tr:not([hidden])')"
        return browser.run(f"Array.from({rows}, (row) => row.cells[{index}].textContent)")

    assert column(0) == names
    assert browser.run("document.getElementById('row-count').textContent") == "3 rows"
    browser.click("#metrics-table th:nth-child(1) button")
    assert column(0) == ["case 1", "case 9", "case 10"]
    browser.click("#metrics-table th:nth-child(4) button")
    assert column(3) == ["8", "9", "10"]
    browser.click("#metrics-table th:nth-child(4) button")
    assert column(3) == ["10", "9", "8"]
    assert browser.run("document.querySelector('#metrics-table th:nth-child(4)').ariaSort") == "descending"
    for _ in range(2):
        browser.click("#metrics-table th:nth-child(5) button")
        assert column(4)[-1] == "\N{EN DASH}"


def test_cases_beside_the_page_are_loaded_when_asked_for(
    browser: Browser, make_content: Callable[..., ReportContent], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_writer, "LARGEST_INLINE", 0)
    path = write_report(make_content("one", "two", "three"), tmp_path / "page with spaces & #.html")
    browser.open(path)
    browser.wait(LOADED.format(0))
    assert [address.rpartition("/")[2][:9] for address in browser.requests[1:]] == ["case_0001"]

    browser.click("#metrics-table tbody tr:nth-child(7) .case-link")
    browser.wait(LOADED.format(2))

    assert [address.rpartition("/")[2][:9] for address in browser.requests[2:]] == ["case_0003"]
    assert all(address.startswith("file://") for address in browser.requests)
    assert browser.run("document.getElementById('case').value") == "2"
    for found in (tmp_path / "page with spaces & #_files").iterdir():
        found.unlink()
    browser.click("#previous")
    browser.wait("document.getElementById('status').textContent.includes('copy that folder along')")


def test_scripts_in_names_do_not_run_and_nothing_is_fetched(
    browser: Browser, make_content: Callable[..., ReportContent], tmp_path: Path
) -> None:
    browser.open(write_report(make_content(NASTY), tmp_path / "page.html"))
    browser.wait(LOADED.format(0))

    assert browser.complaints == []
    assert len(browser.requests) == 1
    assert browser.run("document.scripts.length") == 7
    assert NASTY in browser.run("document.getElementById('legend').textContent")
    refused = "fetch('https://example.org/').then(() => 'fetched', () => 'refused')"
    assert browser.run(refused) == "refused"
    assert any("Content Security Policy" in complaint for complaint in browser.complaints)
    injected = (
        "(() => { const e = document.createElement('div'); e.innerHTML = '<img src=x onerror=\"window.ran = 1\">';"
        " document.body.append(e); return new Promise((r) => setTimeout(() => r(window.ran), 50)); })()"
    )
    assert browser.run(injected) is None


def test_curves_tell_their_values(browser: Browser, make_content: Callable[..., ReportContent], tmp_path: Path) -> None:
    browser.open(write_report(make_content("one"), tmp_path / "page.html"))
    browser.run("document.querySelector('figure.chart .plot svg').focus()")
    browser.press("ArrowRight")
    assert browser.run("document.querySelector('.tooltip').textContent") == f"epoch0.5training0.3{NASTY}0.4"
    browser.press("ArrowRight")
    assert browser.run("document.querySelector('.tooltip').textContent").startswith("epoch1")


@pytest.mark.parametrize(("width", "height", "dark"), [(1280, 720, False), (390, 700, True)], ids=["laptop", "small"])
def test_the_page_fits_the_window(
    browser: Browser, make_content: Callable[..., ReportContent], tmp_path: Path, width: int, height: int, dark: bool
) -> None:
    browser.open(write_report(make_content("one"), tmp_path / "page.html"), width, height, dark)
    browser.wait(LOADED.format(0))

    assert browser.run("document.documentElement.scrollWidth") <= width
    deep = "Array.from(document.querySelectorAll('dl.facts dd')).find((value) => value.textContent === 'samples')"
    assert browser.run(f"{deep}.clientWidth") > 80  # nested facts have room too: words are not broken
    assert browser.run("document.getElementById('planes').clientHeight") <= (height if width > 1000 else 2 * height)
    background = browser.run("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(18, 22, 28)" if dark else "rgb(246, 247, 249)")


def test_the_drawing_has_room_for_the_names_of_pathways(
    browser: Browser, make_content: Callable[..., ReportContent], tmp_path: Path
) -> None:
    browser.open(write_report(make_content("one"), tmp_path / "page.html"))
    ends = browser.run(
        "Array.from(document.querySelectorAll('.arch-strong')).filter((t) => t.textContent.includes('sees'))"
        ".map((t) => t.getBBox().x + t.getBBox().width)"
    )
    joined = browser.run(
        "Array.from(document.querySelectorAll('.arch-line'), (line) => line.getAttribute('d'))"
        r".map((d) => d.match(/^M([\d.]+) [\d.]+h30$/)).filter(Boolean).map((found) => Number(found[1]))"
    )
    assert len(ends) > 1
    assert len(joined) == 1
    assert max(ends) + 8 < joined[0]


def test_an_address_leads_to_a_case(
    browser: Browser, make_content: Callable[..., ReportContent], tmp_path: Path
) -> None:
    path = write_report(make_content("a", "b", NASTY), tmp_path / "page.html")
    browser.open(path)
    browser.wait(LOADED.format(0))
    for name, index in ((NASTY, 2), ("b", 1), ("unknown", 0)):
        browser.run(f"history.replaceState(null, '', '#case=' + encodeURIComponent({name!r})); location.reload()")
        browser.wait(f"document.getElementById('viewer')?.dataset.loaded === '{index}'")
        assert browser.run("document.getElementById('case').value") == str(index)
    assert browser.complaints == []
