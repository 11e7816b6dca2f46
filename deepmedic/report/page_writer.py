"""Writes a report: one page that needs no network and no program but a browser, and files beside it for many cases.

Nothing that a user named can become code: values are escaped by the template, data for the scripts are JSON without
any character that ends an element, scripts only set text, and a content security policy lets the browser run nothing
but the scripts written here, known by their SHA-256, and the files beside the page. It forbids every connection.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from deepmedic import files, versions
from deepmedic.errors import ResourceError
from deepmedic.inference.label_tables import colour_of
from deepmedic.report import architecture_svg
from deepmedic.report.architecture_facts import layer_table
from deepmedic.report.charts import DrawnChart, draw_chart
from deepmedic.report.content import CaseImages, Chart, ReportContent, Table
from deepmedic.report.inlining import Address, inlined_picture, link_to, with_addresses
from deepmedic.report.packing import packed_case, script_json
from deepmedic.report.page_values import cell, shown, words
from deepmedic.report.volumes import LARGEST_LABEL, view_case

if TYPE_CHECKING:
    from jinja2 import Environment

LARGEST_INLINE = 16_000_000
"""Bytes of cases inside the page; the worst come first, the rest lie in files beside it."""
MOST_CASES = 100
"""With images; the table of metrics has all of them."""
_SCRIPTS = ("page.js", "volumes.js", "uncertainty.js", "slices.js", "viewer.js")
_READERS = 2


@dataclass(frozen=True)
class _PackedCase:
    """One case as the page holds it."""

    name: str
    json: str
    largest: dict[str, float]
    """Of each map of uncertainty; the page knows those of all cases, so that all have one scale of colours."""


@dataclass
class _Cases:
    """Where the images of the cases are."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    inlined: list[dict[str, Any]] = field(default_factory=list)
    written: set[Path] = field(default_factory=set)


def write_report(content: ReportContent, path: Path) -> Path:
    """Write the page of a session and the files beside it, `<stem>_files/`; an older page works until it is replaced.

    Raises:
        ResourceError: jinja2 is not installed, or a file cannot be written; then an older report is as it was.
    """
    environment = _environment()
    cases = _write_cases(content, path)
    page = _render(environment, content, cases, path)
    files.write_text_atomically(path, page)
    _remove_older(_folder_beside(path), cases.written)
    return path


def check_installed() -> None:
    """Refuse when what reports are made with is not installed.

    Raises:
        ResourceError: naming the command that installs it.
    """
    _environment()


def _environment() -> Environment:
    try:
        import jinja2
    except ImportError as problem:
        raise ResourceError(
            "Reports are made with jinja2, which is not installed. "
            'Install it with: python -m pip install "deepmedic[report]"'
        ) from problem
    parts = {name: _part(name) for name in ("report.html", "parts.html")}
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.DictLoader(parts),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(shown=shown, cell=cell, words=words)
    environment.tests["address"] = lambda value: isinstance(value, Address)
    return environment


def _render(environment: Environment, content: ReportContent, cases: _Cases, path: Path) -> str:
    drawn: list[DrawnChart] = []
    charts = _draw(content.charts, drawn)
    charts_of_findings = {found.anchor: _draw(found.charts, drawn) for found in content.findings}
    style = _part("report.css")
    scripts = [_part(name) for name in _SCRIPTS]
    model = content.model
    data = {
        "charts": [chart.values for chart in drawn],
        "cases": cases.entries,
        "classes": list(model.class_names) if model else [],
        "colours": [colour_of(number) for number in range(1, LARGEST_LABEL + 1)],
        **_columns(content.metrics),
    }
    template = environment.get_template("report.html")
    return template.render(
        report=replace(
            content,
            cases=content.cases[:MOST_CASES],
            findings=tuple(with_addresses(found, path) for found in content.findings),
        ),
        charts=charts,
        charts_of_findings=charts_of_findings,
        scored=any(case.score is not None for case in content.cases),
        classes_in_table=_classes(content.metrics),
        architecture=architecture_svg.draw(model) if model else "",
        layers=layer_table(model) if model else None,
        memory=model.memory if model else None,
        policy=_policy(style, scripts),
        style=style,
        scripts=scripts,
        data=script_json(data),
        inlined=cases.inlined,
        pictures={one.path: inlined_picture(one.path) for found in content.findings for one in found.pictures},
        links={one: link_to(one, path) for found in content.findings for one in found.files.values()},
        footer=f"Written by deepmedic {versions.VERSION}. This page loads nothing from any network.",
    )


def _draw(charts: Sequence[Chart], drawn: list[DrawnChart]) -> list[tuple[int, DrawnChart]]:
    """Draw the charts that have a value, each with its number among all `drawn` on the page."""
    first = len(drawn)
    drawn += [one for one in map(draw_chart, charts) if one is not None]
    return list(enumerate(drawn))[first:]


def _columns(metrics: Table | None) -> dict[str, int]:
    """Where the table of metrics has cases and classes; -1 where it has not."""
    names = metrics.columns if metrics else ()
    return {key: names.index(name) if name in names else -1 for key, name in _SPECIAL.items()}


_SPECIAL = {"caseColumn": "case", "classColumn": "class"}


def _classes(metrics: Table | None) -> list[str]:
    if metrics is None or "class" not in metrics.columns:
        return []
    column = metrics.columns.index("class")
    return list(dict.fromkeys(str(row[column]) for row in metrics.rows))


def _policy(style: str, scripts: list[str]) -> str:
    hashes = " ".join(_source_hash(script) for script in scripts)
    return (
        f"default-src 'none'; script-src {hashes} 'self' file:; style-src {_source_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _source_hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _part(name: str) -> str:
    return resources.files("deepmedic.report").joinpath("page", name).read_text(encoding="utf-8")


def _write_cases(content: ReportContent, path: Path) -> _Cases:
    """Pack the images of the cases: into the page as long as there is room, then into files beside it."""
    cases, room = _Cases(), LARGEST_INLINE
    folder = _folder_beside(path)
    for index, case in enumerate(_packed(content)):
        packed = case.json
        entry: dict[str, Any] = {"name": case.name, "file": None}
        if case.largest:
            entry["uncertainty"] = case.largest
        if len(packed) <= room:
            room -= len(packed)
            cases.inlined.append({"index": index, "json": packed})
        else:
            room = 0
            digest = hashlib.sha256(packed.encode()).hexdigest()[:12]
            target = folder / f"case_{index + 1:04d}.{digest}.js"
            if not target.is_file():
                files.write_text_atomically(target, f"deepmedicCase({index},{packed});\n")
            cases.written.add(target)
            entry["file"] = quote(f"{folder.name}/{target.name}")
        cases.entries.append(entry)
    return cases


def _packed(content: ReportContent) -> Iterator[_PackedCase]:
    """Each case as JSON, in order; the next one is read while one is written."""
    names = content.model.channel_names if content.model else ()

    def pack(images: CaseImages) -> _PackedCase:
        case = view_case(images)
        largest = {kind: found.largest for kind, found in case.uncertainty.items()}
        return _PackedCase(case.name, script_json(packed_case(case, names)), largest)

    with ThreadPoolExecutor(_READERS, thread_name_prefix="report") as pool:
        cases = content.cases[:MOST_CASES]
        for start in range(0, len(cases), _READERS):  # a few at a time, so that few are in memory
            yield from pool.map(pack, cases[start : start + _READERS])


def _folder_beside(path: Path) -> Path:
    return path.with_name(f"{path.stem}_files")


def _remove_older(folder: Path, written: set[Path]) -> None:
    """Remove the cases of an earlier report, and the temporaries of one that was killed."""
    if not folder.is_dir():
        return
    files.remove_stale_temporaries(folder)
    for found in folder.glob("case_*.js"):
        if found not in written:
            found.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()
