"""What analyses found, as sections of a page: escaped, inlined, linked beside it, and shown by a browser."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import pytest
from headless_browser import Browser
from markupsafe import escape
from small_cases import NASTY

from deepmedic.report import inlining
from deepmedic.report.content import Chart, Findings, Line, Link, NamedTable, Picture, ReportContent, Table
from deepmedic.report.page_writer import write_report

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAYAAABytg0kAAAAFElEQVQIW2NkYGD4z8DAwMgAI0AMDA4wAwHGzkLTAAAAAElFTkSuQmCC"
)
BEYOND = "nasty <b>&\"' #1.json"


@pytest.fixture
def make_findings(tmp_path: Path) -> Callable[..., ReportContent]:
    """A page of an analysis whose names are nasty; beside it lie a picture, a file that is none, and results."""
    folder = tmp_path / "analyses" / "one"
    folder.mkdir(parents=True)
    (folder / "good.png").write_bytes(PNG)
    (folder / "other.png").write_text("<svg onload='alert(1)'></svg>")
    (folder / BEYOND).write_text("{}")

    def make() -> ReportContent:
        rows = (("b", 0.25, (0.1, 0.4)), ("a", float("nan"), None), ("c", 0.125, None))
        numbers = Table(("layer", "Dice", "interval"), rows)
        found = Findings(
            anchor="analysis-1",
            title=NASTY,
            headline={NASTY: NASTY, "Verdict": "transfer"},
            sentences=(NASTY,),
            tables=(NamedTable(NASTY, numbers, NASTY), NamedTable("more", numbers, folded=True)),
            pictures=tuple(Picture(folder / name, NASTY) for name in ("good.png", "other.png", "missing.png")),
            charts=(Chart(NASTY, (Line(NASTY, (1.0, 2.0), (0.25, 0.75)),)), Chart("empty", ())),
            facts={NASTY: NASTY},
            files={NASTY: folder / BEYOND, "gone": folder / "gone.json"},
        )
        curve = Line("cost", (1.0, 2.0), (5.0, 4.0))
        return ReportContent(session="one", kind="analysis", findings=(found,), charts=(Chart("of all", (curve,)),))

    return make


def test_names_of_users_stay_text_and_only_pictures_are_inlined(
    make_findings: Callable[..., ReportContent], tmp_path: Path
) -> None:
    page = write_report(make_findings(), tmp_path / "reports" / "one.html").read_text()

    assert NASTY not in page
    assert page.count("<img ") == 1
    assert f'src="data:image/png;base64,{base64.b64encode(PNG).decode()}"' in page
    assert "<svg onload" not in page
    [link] = re.findall(r'href="(\.[^"]*)"', page)
    assert link.startswith("./../analyses/one/nasty%20%3Cb%3E")
    assert (tmp_path / "reports" / unquote(link)).is_file()
    assert ">gone<" not in page


def test_cells_lead_to_files_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "a b.html").touch()
    there, gone = (Link(NASTY, tmp_path / "reports" / name, 'case="x&y=+#z') for name in ("a b.html", "gone.html"))
    table = NamedTable("folds", Table(("fold", "Dice"), ((there, 0.5), (gone, 0.25))))
    content = ReportContent("one", "cross-validation", (Findings("folds", "Folds", tables=(table,)),))

    page = write_report(content, tmp_path / "reports" / "one.html").read_text()

    [address] = re.findall(r'href="(\.[^"]*)"', page)
    assert address == "./a%20b.html#case=%22x%26y=%2B%23z"
    assert NASTY not in page
    assert page.count(str(escape(NASTY))) == 2  # once as a link, once as text
    assert '<p class="kind">cross-validation</p>' in page


def test_a_picture_that_is_too_large_is_left_out(
    make_findings: Callable[..., ReportContent], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inlining, "LARGEST_PICTURE", len(PNG) - 1)

    assert "<img " not in write_report(make_findings(), tmp_path / "one.html").read_text()


def test_a_browser_shows_pictures_and_sorts_tables_and_asks_for_nothing(
    browser: Browser, make_findings: Callable[..., ReportContent], tmp_path: Path
) -> None:
    path = write_report(make_findings(), tmp_path / "reports" / "one.html")
    browser.open(path, width=420)

    assert browser.run("document.querySelector('img').naturalWidth") == 2
    assert browser.run("document.querySelector('h2').textContent") == NASTY
    assert browser.run("document.querySelector('img').alt") == NASTY
    assert browser.run("document.documentElement.scrollWidth") <= 420
    rows = "document.querySelector('#analysis-1-table-1').tBodies[0].rows"
    first = f"Array.from({rows}, (row) => row.cells[0].textContent).join('')"
    assert browser.run(first) == "bac"
    browser.click("#analysis-1-table-1 th:nth-child(2) button")
    assert browser.run(first) == "cba"  # what is not defined stays last
    assert not browser.run("document.querySelector('details').open")
    browser.click("details summary")
    assert browser.run("document.querySelector('details').open")
    linked = browser.run("document.querySelector('.files a').href")
    assert Path(unquote(linked.removeprefix("file://"))) == tmp_path / "analyses" / "one" / BEYOND
    assert browser.run("Array.from(document.querySelectorAll('figcaption'), (c) => c.textContent)") == [NASTY, "of all"]
    for section, values in (("#analysis-1", [NASTY, "0.25"]), ("#curves", ["cost", "5"])):
        browser.run(f"document.querySelector('{section} .plot svg').focus()")
        browser.press("ArrowRight")
        shown = f"Array.from(document.querySelectorAll('{section} .tooltip td'), (cell) => cell.textContent)"
        assert browser.run(shown) == ["epoch", "1", *values]
    assert [one for one in browser.requests if not one.startswith("data:")] == [path.resolve().as_uri()]
    assert browser.complaints == []
