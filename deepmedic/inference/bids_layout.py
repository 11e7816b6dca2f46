"""Results as BIDS derivatives: which file is where, and the texts that go with the images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepmedic.config.prediction import UncertaintyKind
from deepmedic.data.bids_names import BIDS_VERSION, BidsCase, bids_cases, label_of_class
from deepmedic.data.cases import Case
from deepmedic.versions import PROGRAM_NAME, VERSION
from deepmedic.words import classes_by_number

FOLDER = "bids"
"""Below the session's folder of predictions."""
DESCRIPTION = f"{FOLDER}/dataset_description.json"
IGNORED = (f"{FOLDER}/.bidsignore", "*_statmap.*\n")
"""File and text that tell validators which files the specification has no name for: maps of uncertainty."""
_SOURCE = "source"
_UNCERTAINTY: dict[UncertaintyKind, tuple[str, str]] = {
    "entropy": ("Entropy of the class probabilities of each voxel", "nats"),
    "variance": ("Variance of the class probabilities over all predictions, mean over the classes", "arbitrary"),
}
"""What the sidecars of maps of uncertainty say: description and units."""


@dataclass(frozen=True)
class BidsLayout:
    """The derivatives of one session."""

    cases: Mapping[str, BidsCase]
    """By the name of a case's results."""
    sources: Mapping[str, tuple[str, ...]]
    """By the same name: the images it was made from, as BIDS URIs; none for images outside a BIDS tree."""
    source_roots: tuple[Path, ...]
    """BIDS trees that the images come from."""
    classes: int
    class_names: tuple[str, ...] | None

    @classmethod
    def of(
        cls, cases: Sequence[Case], names: Sequence[str], classes: int, class_names: tuple[str, ...] | None
    ) -> BidsLayout:
        """The layout for some cases and the names of their results.

        Raises:
            DataError: two cases would have the same files.
        """
        images = [[image.path for image in case.channels if image is not None] for case in cases]
        places = dict(zip(names, bids_cases(names, [paths[0] for paths in images]), strict=True))
        roots = tuple(sorted({root for paths in images for path in paths if (root := _root_of(path)) is not None}))
        sources = {
            name: tuple(uri for path in paths if (uri := _uri(path, roots)))
            for name, paths in zip(names, images, strict=True)
        }
        return cls(places, sources, roots, classes, class_names)

    def segmentation(self, name: str) -> str:
        """Path of a segmentation, relative to the session's folder."""
        return f"{FOLDER}/{self.cases[name].file('dseg', '.nii.gz')}"

    def probability(self, name: str, class_number: int) -> str:
        """Path of a probability map, relative to the session's folder."""
        return f"{FOLDER}/{self.cases[name].file('probseg', '.nii.gz', self._label(class_number))}"

    def uncertainty_map(self, name: str, kind: UncertaintyKind) -> str:
        """Path of a map of uncertainty, relative to the session's folder.

        The specification has no name for these yet; this one is that of statistical maps.
        """
        return f"{FOLDER}/{self.cases[name].file('statmap', '.nii.gz', statistic=kind)}"

    def texts(
        self,
        name: str,
        *,
        segmentation: bool,
        probabilities: Sequence[int],
        uncertainty: Sequence[UncertaintyKind] = (),
    ) -> dict[str, str]:
        """Sidecars and label table of a case by path, relative to the session's folder."""
        case, sidecar = self.cases[name], {"Manual": False, "Sources": list(self.sources[name])}
        found = {}
        if segmentation:
            found[case.file("dseg", ".json")] = _json(sidecar)
            found[case.file("dseg", ".tsv")] = self._table()
        for number in probabilities:
            of_class = {**sidecar, "ClassName": self._name(number)}
            found[case.file("probseg", ".json", self._label(number))] = _json(of_class)
        for kind in uncertainty:
            of_kind = {"Description": _UNCERTAINTY[kind][0], "Units": _UNCERTAINTY[kind][1], **sidecar}
            found[case.file("statmap", ".json", statistic=kind)] = _json(of_kind)
        return {f"{FOLDER}/{path}": text for path, text in found.items()}

    def description(self, session: str, models: Sequence[str]) -> str:
        """The text of `dataset_description.json`.

        Args:
            session: name of the session.
            models: SHA-256 of the models that made the results.
        """
        content: dict[str, Any] = {
            "Name": f"Segmentations of session {session}",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [
                {
                    "Name": PROGRAM_NAME,
                    "Version": VERSION,
                    "Description": f"Automatic segmentation by the model with SHA-256 {', '.join(models)}",
                }
            ],
            "SourceDatasets": [{"URL": root.as_uri()} for root in self.source_roots],
        }
        links = {_link(number, self.source_roots): root.as_uri() for number, root in enumerate(self.source_roots)}
        return _json({**content, "DatasetLinks": links} if links else content)

    def _label(self, number: int) -> str:
        return label_of_class(number, self.class_names)

    def _name(self, number: int) -> str:
        return " ".join((self.class_names or classes_by_number(self.classes))[number].split())

    def _table(self) -> str:
        rows = [f"{number}\t{self._name(number)}" for number in range(self.classes)]
        return "\n".join(["index\tname", *rows]) + "\n"


def _root_of(path: Path) -> Path | None:
    """The BIDS tree that an image lies in: the folder above `derivatives`, or else above its `sub-` folder."""
    parents = list(path.parents)
    for folder in reversed(parents):
        if folder.name.startswith("sub-"):
            return folder.parent
        if folder.name == "derivatives":
            return folder.parent
    return None


def _uri(path: Path, roots: Sequence[Path]) -> str | None:
    root = _root_of(path)
    if root is None:
        return None
    return f"bids:{_link(roots.index(root), roots)}:{path.relative_to(root).as_posix()}"


def _link(number: int, roots: Sequence[Path]) -> str:
    return _SOURCE if len(roots) == 1 else f"{_SOURCE}{number + 1}"


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
