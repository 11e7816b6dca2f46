"""Names of files in BIDS derivatives: entities in their order, from the names of the images that results belong to.

https://bids-specification.readthedocs.io (version 1.10), "Filenames" and "Imaging derivative data".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepmedic.data.output_names import without_extension
from deepmedic.errors import DataError

BIDS_VERSION = "1.10.0"
KEPT = ("sub", "ses", "run", "space")
"""Entities of an image that its segmentation keeps, in the order of the specification."""

_ENTITY = re.compile(r"(?P<key>[a-z]+)-(?P<value>[A-Za-z0-9+]+)")
_NOT_IN_LABELS = re.compile(r"[^A-Za-z0-9]+")


@dataclass(frozen=True)
class BidsCase:
    """Where the results of one case go in a derivatives folder."""

    entities: tuple[tuple[str, str], ...]
    """Those of `KEPT` that the case has; the first is the subject."""

    @property
    def folder(self) -> str:
        """Relative to the derivatives folder."""
        given = dict(self.entities)
        session = f"ses-{given['ses']}/" if "ses" in given else ""
        return f"sub-{given['sub']}/{session}anat"

    def file(self, suffix: str, ending: str, label: str | None = None, statistic: str | None = None) -> str:
        """Path of a result relative to the derivatives folder, for instance `sub-1/anat/sub-1_dseg.nii.gz`."""
        further = {"stat": statistic, "label": label}
        entities = [*self.entities, *((key, value) for key, value in further.items() if value)]
        name = "_".join([*(f"{key}-{value}" for key, value in entities), suffix])
        return f"{self.folder}/{name}{ending}"


def bids_cases(names: Sequence[str], first_images: Sequence[Path]) -> list[BidsCase]:
    """Return the place of each case's results.

    Entities come from the case's name if that begins with `sub-`, else from the name of its first image; a case without
    them is a subject called by its name.

    Args:
        names: of the cases' results.
        first_images: the first image of each case.

    Raises:
        DataError: two cases would have the same files.
    """
    cases = [_case(name, image) for name, image in zip(names, first_images, strict=True)]
    places: dict[BidsCase, list[str]] = {}
    for name, case in zip(names, cases, strict=True):
        places.setdefault(case, []).append(name)
    shared = [f"{case.file('dseg', '.nii.gz')}: {', '.join(same)}" for case, same in places.items() if len(same) > 1]
    if shared:
        raise DataError(
            f'outputLayout = "bids": several cases would have the same files: {"; ".join(shared[:10])}. Name the '
            "results of each case differently, for instance sub-1_ses-a, with namesForPredictionsPerCase."
        )
    return cases


def label_of_class(number: int, class_names: Sequence[str] | None) -> str:
    """The value of `label-` for a class: its name without what BIDS does not allow, else "class" and its number."""
    if class_names is None:
        return f"class{number}"
    plain = [_NOT_IN_LABELS.sub("", name) for name in class_names]
    return plain[number] if plain[number] and plain.count(plain[number]) == 1 else f"class{number}"


def entities_in(text: str) -> Mapping[str, str]:
    """Entities and their values in a file name such as `sub-1_ses-a_T1w.nii.gz`; empty without a subject."""
    found = {
        match["key"]: match["value"] for match in map(_ENTITY.fullmatch, without_extension(text).split("_")) if match
    }
    return found if text.startswith("sub-") and "sub" in found else {}


def _case(name: str, image: Path) -> BidsCase:
    last = name.rpartition("/")[2]
    found = entities_in(last) or entities_in(image.name) or {"sub": _NOT_IN_LABELS.sub("", name) or "case"}
    return BidsCase(tuple((key, found[key]) for key in KEPT if key in found))
