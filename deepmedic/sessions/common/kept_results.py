"""Results of an analysis that are there already: those of the same question stay, those of another are not replaced."""

from __future__ import annotations

import json
from pathlib import Path

from deepmedic.errors import OutputHeldError


def refuse_other_results(folder: Path, results: Path, request: str, *, overwrite: bool) -> bool:
    """Return whether `results` answers this very request already.

    Args:
        folder: of all results, for the message.
        results: the JSON file that is written last, with the digest under "request".
        request: digest of what is asked for.
        overwrite: replace what is there, whatever it is.

    Raises:
        OutputHeldError: the folder holds the results of another request, and they are not to be replaced.
    """
    if overwrite or not results.exists():
        return False
    try:
        known = json.loads(results.read_text(encoding="utf-8")).get("request")
    except (OSError, ValueError, AttributeError):
        known = None
    if known == request:
        return True
    raise OutputHeldError(
        f"{folder}: holds the results of another request (other models, cases or contents of their files, settings or "
        "seed). Choose another sessionName or folderForOutput, or add -overwrite to replace them."
    )
