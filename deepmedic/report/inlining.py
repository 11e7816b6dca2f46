"""Pictures inside the page, and links from it to files that lie beside it."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from urllib.parse import quote

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
