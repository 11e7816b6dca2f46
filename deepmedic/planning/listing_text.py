"""The listing files of a ready set of configs: one per part and channel, and a table of all cases with labels."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path

from deepmedic.data.cases import ImageRef
from deepmedic.data.listing import MISSING
from deepmedic.planning.config_plan import ALL_CASES, LISTS, ConfigPlan, listing_name, slugs
from deepmedic.planning.found import FoundCase


def listings(plan: ConfigPlan, folder: Path) -> dict[str, str]:
    """The listing files by their names relative to the folder of the configs, where they will be.

    Paths of images are relative where the data lie below the parent of that folder, else absolute.
    """
    texts = {}
    home = Path(os.path.abspath(folder))
    for part, cases in plan.parts.items():
        if not cases:
            continue
        columns: dict[str, list[ImageRef | None]] = {
            slug: [case.channels[number] for case in cases] for number, slug in enumerate(slugs(plan.channel_names))
        }
        if plan.has(part, "labels"):
            columns["labels"] = [case.labels for case in cases]
        if plan.has(part, "roi"):
            columns["masks"] = [case.roi for case in cases]
        for what, refs in columns.items():
            texts[listing_name(part, what)] = "".join(f"{_entry(ref, home)}\n" for ref in refs)
        texts[listing_name(part, "names")] = "".join(f"{name}\n" for name in result_names(cases))
    if plan.is_cross_validated:
        texts[ALL_CASES] = _table(plan, home)
    return texts


def result_names(cases: Sequence[FoundCase]) -> list[str]:
    """Different names for results, made of the cases' names."""
    return _different([case.name for case in cases])


def _table(plan: ConfigPlan, home: Path) -> str:
    """The cases of a cross-validation as CSV; channels are used in the order of their columns' names."""
    cases, text = plan.labelled, io.StringIO()
    digits = len(str(len(plan.channel_names)))
    columns = {
        f"channel_{number:0{digits}}_{slug}": [case.channels[number - 1] for case in cases]
        for number, slug in enumerate(slugs(plan.channel_names), 1)
    }
    columns["ground_truth"] = [case.labels for case in cases]
    if any(case.roi is not None for case in cases):
        columns["roi_mask"] = [case.roi for case in cases]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, "subject", "prediction_filename"])
    subjects = list(dict.fromkeys(plan.subjects[case.name] for case in cases))
    named = dict(zip(subjects, _different(subjects), strict=True))
    whose = [named[plan.subjects[case.name]] for case in cases]
    images = [[_entry(ref, home) for ref in refs] for refs in columns.values()]
    writer.writerows(zip(*images, whose, result_names(cases), strict=True))
    return text.getvalue()


def _entry(ref: ImageRef | None, home: Path) -> str:
    if ref is None:
        return MISSING
    path = Path(os.path.abspath(ref.path))
    near = path.is_relative_to(home.parent) and not home.is_symlink()  # a link would lead astray
    text = os.path.relpath(path, home / LISTS) if near else str(path)
    return text if ref.volume is None else f"{text}[{ref.volume}]"


def _different(texts: Sequence[str]) -> list[str]:
    """A name for each text that can stand in a list and name a file, each another one."""
    names: list[str] = []
    taken: set[str] = set()
    for text in texts:
        plain = re.sub(r"[^A-Za-z0-9.+_\-]+", "_", text).strip("._")[:100] or "case"
        name = next(n for n in (plain, *(f"{plain}_{number}" for number in range(2, len(texts) + 2))) if n not in taken)
        taken.add(name)
        names.append(name)
    return names
