"""Pictures inside the page, and links from it to files that lie beside it."""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from deepmedic.report.content import Findings, Link, Table

LARGEST_PICTURE = 8_000_000
"""Bytes of one; a larger one is left out."""
_PNG = b"\x89PNG\r\n\x1a\n"


def inlined_picture(path: Path) -> str | None:
    """Return a PNG file as a `data:` address; None where it is missing, too large or no PNG."""
    try:
        content = path.read_bytes() if path.stat().st_size <= LARGEST_PICTURE else b""
    except OSError:
        return None
    return f"data:image/png;base64,{base64.b64encode(content).decode()}" if content.startswith(_PNG) else None


def link_to(file: Path, page: Path) -> str | None:
    """Return the address of a file or folder relative to the page, so that both can be moved together; None if missing.

    Relative to the page also means that it has no scheme, whatever the name.
    """
    if not file.exists():
        return None
    return "./" + quote(os.path.relpath(file.resolve(), page.resolve().parent))


@dataclass(frozen=True)
class Address:
    """A cell that leads somewhere."""

    text: str
    address: str

    def __str__(self) -> str:
        return self.text


def with_addresses(found: Findings, page: Path) -> Findings:
    """Replace the links in tables by addresses relative to the page, or by their text where there is no such file."""
    tables = (replace(named, table=_addressed(named.table, page)) for named in found.tables)
    return replace(found, tables=tuple(tables))


def _addressed(table: Table, page: Path) -> Table:
    return Table(table.columns, tuple(tuple(_address(value, page) for value in row) for row in table.rows))


def _address(value: Any, page: Path) -> Any:
    if not isinstance(value, Link):
        return value
    address = link_to(value.file, page)
    part = f"#{quote(value.part, safe='=')}" if value.part else ""
    return value.text if address is None else Address(value.text, address + part)
