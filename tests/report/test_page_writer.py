"""The page as a file: whole, escaped, and with the files that lie beside it."""

from __future__ import annotations

import builtins
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from small_cases import NASTY

from deepmedic.errors import ResourceError
from deepmedic.report import page_writer
from deepmedic.report.content import ReportContent
from deepmedic.report.page_writer import write_report


class Elements(HTMLParser):
    """What a browser would see: elements with their attributes, and texts by element."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self._open, []).append(data)


def test_names_of_users_stay_text(make_content: Callable[..., ReportContent], tmp_path: Path) -> None:
    page = write_report(make_content(NASTY, "b"), tmp_path / "page.html").read_text()

    elements = Elements(page)
    scripts = [attributes for tag, attributes in elements.tags if tag == "script"]
    assert scripts == [
        *[{"type": "application/json", "id": name} for name in ("report-data", "case-0", "case-1")],
        *[{}] * 5,
    ]
    assert "<script>alert" not in page
    assert NASTY[-12:] not in page
    assert not [name for _, attributes in elements.tags for name in attributes if name.startswith("on")]
    assert NASTY in elements.texts["h1"]


def test_nothing_on_the_page_points_elsewhere(make_content: Callable[..., ReportContent], tmp_path: Path) -> None:
    page = write_report(make_content("a"), tmp_path / "page.html").read_text()

    links = [
        value for _, attributes in Elements(page).tags for name in ("src", "href") if (value := attributes.get(name))
    ]
    assert all(link.startswith("#") for link in links)
    assert set(re.findall(r"https?://[^\s\"')]+", page)) <= {"http://www.w3.org/2000/svg"}
    [policy] = [attributes["content"] for _, attributes in Elements(page).tags if "http-equiv" in attributes]
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy


def test_many_cases_lie_beside_the_page(
    make_content: Callable[..., ReportContent], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = write_report(make_content("a"), tmp_path / "one.html").read_text()
    packed = re.search(r'id="case-0">(.*?)</script>', one)
    assert packed is not None
    monkeypatch.setattr(page_writer, "LARGEST_INLINE", len(packed[1]) + 10)
    path = write_report(make_content("a", "b", "c"), tmp_path / "page.html")

    data = re.search(r'id="report-data">(.*?)</script>', path.read_text())
    assert data is not None
    files = [entry["file"] for entry in json.loads(data[1])["cases"]]
    assert files[0] is None
    assert re.fullmatch(r"page_files/case_0002\.[0-9a-f]{12}\.js", files[1])
    text = (tmp_path / files[2]).read_text()
    assert text.startswith('deepmedicCase(2,{"name":"c",')
    assert path.read_text().count('<script type="application/json" id="case-') == 1
    assert not (tmp_path / "one_files").exists()


def test_a_second_report_replaces_the_first_and_leaves_nothing_of_it(
    make_content: Callable[..., ReportContent], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_writer, "LARGEST_INLINE", 0)
    path = write_report(make_content("a", "b"), tmp_path / "page.html")
    first = {found.name for found in (tmp_path / "page_files").iterdir()}
    again = write_report(make_content("a", "b"), path)

    assert {found.name for found in (tmp_path / "page_files").iterdir()} == first
    write_report(make_content("another"), again)
    [left] = (tmp_path / "page_files").iterdir()
    assert left.name not in first
    monkeypatch.setattr(page_writer, "LARGEST_INLINE", 10**9)
    write_report(make_content("another"), again)
    assert not (tmp_path / "page_files").exists()


def test_a_report_that_fails_leaves_the_older_one_working(
    make_content: Callable[..., ReportContent], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_writer, "LARGEST_INLINE", 0)
    path = write_report(make_content("a"), tmp_path / "page.html")
    page, beside = path.read_text(), set((tmp_path / "page_files").iterdir())

    def fail(*_: Any) -> str:
        raise ResourceError("no more room")

    monkeypatch.setattr(page_writer, "_render", fail)
    with pytest.raises(ResourceError, match="no more room"):
        write_report(make_content("other"), path)

    assert path.read_text() == page
    assert beside <= set((tmp_path / "page_files").iterdir())


def test_equal_content_gives_equal_bytes(make_content: Callable[..., ReportContent], tmp_path: Path) -> None:
    content = make_content("a", "b")

    assert (
        write_report(content, tmp_path / "1.html").read_bytes()
        == write_report(content, tmp_path / "2.html").read_bytes()
    )


def test_only_so_many_cases_have_images(
    make_content: Callable[..., ReportContent], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_writer, "MOST_CASES", 1)
    page = write_report(make_content("a", "b"), tmp_path / "page.html").read_text()

    assert 'id="case-0"' in page
    assert 'id="case-1"' not in page
    assert page.count("<option") - page.count('<option value="0"') > 0
    assert "2. b" not in page


def test_a_page_without_anything_is_still_a_page(tmp_path: Path) -> None:
    page = write_report(ReportContent("empty", "training"), tmp_path / "page.html").read_text()

    assert "What was run" in page
    assert '<h2 id="cases-title"' not in page


def test_a_missing_extra_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    really = builtins.__import__

    def without_jinja(name: str, *others: Any) -> Any:
        if name == "jinja2":
            raise ImportError(name)
        return really(name, *others)

    monkeypatch.setattr(builtins, "__import__", without_jinja)
    with pytest.raises(ResourceError, match=r'jinja2, which is not installed.*pip install "deepmedic\[report\]"'):
        page_writer.check_installed()
