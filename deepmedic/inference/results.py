"""Result files of a session, and the record beside each case's files that says what they were made from.

A record is written before a case's files, without their checksums, and again after them, with the checksums. So a case
that a crash cut short is told from a complete one, and results of this run from those of another.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from deepmedic.config.prediction import PredictionConfig, UncertaintyKind
from deepmedic.config.sections import OutputConfig, PreprocessingConfig
from deepmedic.data.cases import Case, ImageRef
from deepmedic.errors import DataError
from deepmedic.files import sha256_of, write_json_atomically
from deepmedic.inference.bids_layout import BidsLayout
from deepmedic.inference.execution import InferenceSettings
from deepmedic.inference.feature_maps import FeatureRanges

log = logging.getLogger(__name__)

Status = Literal["match", "absent", "other run", "damaged"]

_RECORD_FORMAT = 1
_RESULT_ENDINGS = (".nii.gz", "_dseg.json", "_dseg.tsv", "_probseg.json", "_statmap.json")
_DECIDE_NOTHING = ("norm_verbosity", "check_inputs", "affine_tolerance", "spacing_tolerance", "allow_skipped_cases")
"""Options of preprocessing that do not change a number."""


@dataclass(frozen=True)
class RunIdentity:
    """What a run has in common for all cases."""

    model_sha256: str
    settings: Mapping[str, Any]
    """Everything else that decides the numbers; plain values."""

    @classmethod
    def of(
        cls,
        model_sha256: str,
        inference: InferenceSettings,
        preprocessing: PreprocessingConfig,
        refinement: PredictionConfig | None = None,
        ensemble: Sequence[str] = (),
        padded: Sequence[bool | None] = (),
    ) -> RunIdentity:
        """Of a model, by the SHA-256 of its file, and the settings it is used with.

        Refinements that are off are left out, so that results from before they existed are still recognised.

        Args:
            model_sha256: of the (first) model.
            inference: how it is used.
            preprocessing: how images are prepared for it.
            refinement: what is done beyond one plain pass.
            ensemble: SHA-256 of every model, when there are several.
            padded: whether cases are padded for each model, where that is not the same for all.
        """
        settings = {"tiling": inference.tiling, "segment": inference.segment, "precision": inference.precision}
        prepared = {key: value for key, value in asdict(preprocessing).items() if key not in _DECIDE_NOTHING}
        if preprocessing.resample_to is None:
            del prepared["resample_to"]
        refined = {} if refinement is None else refinement.deciding()
        members = {"ensemble": list(ensemble)} if len(ensemble) > 1 else {}
        if len(set(padded)) > 1:
            prepared["pad_images"] = list(padded)
        return cls(model_sha256, {**settings, **prepared, **refined, **members})


@dataclass(frozen=True)
class ResultFiles:
    """Names of the files that a session writes for a case, below `predictions/<session>/`."""

    folder: Path
    output: OutputConfig
    classes: int
    feature_maps: FeatureRanges = field(default_factory=dict)
    uncertainty: Sequence[UncertaintyKind] = ()
    tables: bool = True
    """Whether tables of metrics are kept in the folder."""
    bids: BidsLayout | None = None
    """Places of all maps but feature maps as BIDS derivatives; None: those of the original."""

    @property
    def probability_classes(self) -> list[int]:
        """Classes whose probability maps are saved."""
        chosen = self.output.save_probability_maps
        if chosen is None:
            return list(range(self.classes))
        return [number for number in range(self.classes) if number < len(chosen) and chosen[number]]

    def segmentation(self, name: str) -> Path:
        if self.bids is not None:
            return self.folder / self.bids.segmentation(name)
        return self._prediction(name, self._suffix("segm", "Segm"))

    def probability(self, name: str, class_number: int) -> Path:
        if self.bids is not None:
            return self.folder / self.bids.probability(name, class_number)
        return self._prediction(name, f"{self._suffix('prob', 'ProbMapClass')}{class_number}")

    def uncertainty_map(self, name: str, kind: UncertaintyKind) -> Path:
        if self.bids is not None:
            return self.folder / self.bids.uncertainty_map(name, kind)
        return self._prediction(name, kind.capitalize())

    def feature_map(self, name: str, pathway: int, layer: int, number: int) -> Path:
        return self.folder / "features" / f"{name}_pathway{pathway}_layer{layer}_fm{number}.nii.gz"

    def record(self, name: str) -> Path:
        return self.folder / "predictions" / f"{name}.json"

    @staticmethod
    def is_record(path: Path) -> bool:
        """Whether a file is a record, of any case and run."""
        return _read_record(path) is not None

    def texts(self, name: str) -> dict[Path, str]:
        """Texts that are saved beside the images of a case."""
        if self.bids is None:
            return {}
        segmentation, probabilities = self.output.save_segmentation, self.probability_classes
        found = self.bids.texts(
            name, segmentation=segmentation, probabilities=probabilities, uncertainty=self.uncertainty
        )
        return {self.folder / path: text for path, text in found.items()}

    def all_of(self, name: str) -> list[Path]:
        """Every file that is saved for a case."""
        paths = [self.segmentation(name)] if self.output.save_segmentation else []
        paths += [self.probability(name, number) for number in self.probability_classes]
        paths += [self.uncertainty_map(name, kind) for kind in self.uncertainty]
        for pathway, layers in self.feature_maps.items():
            for layer, (first, end) in layers.items():
                paths += [self.feature_map(name, pathway, layer, number) for number in range(first, end)]
        return [*paths, *self.texts(name)]

    def _prediction(self, name: str, suffix: str) -> Path:
        return self.folder / "predictions" / f"{name}_{suffix}.nii.gz"

    def _suffix(self, key: str, default: str) -> str:
        return (self.output.suffixes or {}).get(key, default)


@dataclass(frozen=True)
class ExistingResults:
    """What lies in the output folder for a case."""

    status: Status
    reason: str = ""
    """What differs from this run, or what is damaged; for messages."""
    evaluation: Mapping[str, Any] | None = None
    """Of a match that was evaluated: what `write_record` was given."""


def output_name(index: int, case: Case) -> str:
    """Name of a case's files, relative to the folder of predictions; by default as in the original."""
    return case.output_name or f"pred_case{index}"


def case_fingerprint(case: Case, run: RunIdentity) -> dict[str, Any]:
    """What the results of one case are made from; plain values.

    What the files hold counts, not where they lie.

    Raises:
        DataError: an input file cannot be read.
    """
    inputs = {f"channel {number}": _contents(ref) for number, ref in enumerate(case.channels, 1)}
    inputs["roi"] = _contents(case.roi)
    return {"format": _RECORD_FORMAT, "model": run.model_sha256, "settings": _plain(run.settings), "inputs": inputs}


def labels_fingerprint(case: Case) -> dict[str, Any] | None:
    """The labels that a case was evaluated on; they decide its metrics, not its results."""
    return _contents(case.labels)


def existing_results(
    case: Case,
    name: str,
    files: ResultFiles,
    fingerprint: Mapping[str, Any],
    scoring: Mapping[str, Any] | None = None,
) -> ExistingResults:
    """Judge what the output folder holds for a case; `scoring` is how it is to be scored if it has labels.

    "match": all files are there and are, byte for byte, what this run would write. "damaged": of this run, but not
    complete or not as they were written. "other run": made from something else, or of unknown origin.
    """
    wanted = files.all_of(name)
    record = _read_record(files.record(name))
    if record is None:
        present = [path for path in wanted if path.exists()]
        if present:
            return ExistingResults("other run", f"{present[0].name} has no record of what it was made from")
        return ExistingResults("absent")
    difference = _difference(record, fingerprint)
    written: dict[str, str] = record.get("results") or {}
    if difference:
        present = [path for path in [*wanted, *(files.folder / relative for relative in written)] if path.exists()]
        return ExistingResults("other run", difference) if present else ExistingResults("absent")
    for path in wanted:
        problem = _problem(path, written.get(_relative(path, files.folder)))
        if problem:
            return ExistingResults("damaged", problem)
    if record.get("labels") != labels_fingerprint(case):
        return ExistingResults("damaged", "they were evaluated on other labels")
    if case.labels is not None and record.get("scoring") != _plain(scoring):
        changed = _changes(record.get("scoring") or {}, _plain(scoring) or {})
        return ExistingResults("damaged", f"they were scored otherwise: {changed}")
    return ExistingResults("match", evaluation=record.get("evaluation"))


@dataclass(frozen=True)
class Record:
    """What is recorded about the results of one case."""

    fingerprint: Mapping[str, Any]
    labels: Mapping[str, Any] | None = None
    """Of `labels_fingerprint`."""
    evaluation: Mapping[str, Any] | None = None
    """Scores on these labels, plain values."""
    scoring: Mapping[str, Any] | None = None
    """How it is scored; plain values."""


def write_record(name: str, files: ResultFiles, record: Record, written: Sequence[Path] | None = None) -> None:
    """Write the record of a case: before its files without `written`, after them with all that were written.

    Raises:
        ResourceError: it cannot be written.
    """
    results = None if written is None else {_relative(path, files.folder): sha256_of(path) for path in written}
    scored = {"labels": record.labels, "scoring": _plain(record.scoring), "evaluation": record.evaluation}
    write_json_atomically(files.record(name), {**record.fingerprint, **scored, "results": results})


def remove_other_results(name: str, files: ResultFiles) -> None:
    """Remove the files that the present record of a case lists and this run does not write."""
    record = _read_record(files.record(name)) or {}
    folder, wanted = files.folder.resolve(), {path.resolve() for path in files.all_of(name)}
    for relative in record.get("results") or {}:
        path = (folder / relative).resolve()
        # Only results below this folder: the record is a file that anyone may have edited.
        if path not in wanted and path.is_relative_to(folder) and path.name.endswith(_RESULT_ENDINGS):
            path.unlink(missing_ok=True)


def _contents(ref: ImageRef | None) -> dict[str, Any] | None:
    """Size and checksum of an image's file; None for a missing image."""
    if ref is None:
        return None
    try:
        content: dict[str, Any] = {"bytes": ref.path.stat().st_size, "sha256": sha256_of(ref.path)}
    except OSError as problem:
        raise DataError(f"{ref}: the file cannot be read ({problem.strerror}); listed at {ref.listed_at}.") from problem
    return content if ref.volume is None else {**content, "volume": ref.volume}


def _read_record(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("format") == _RECORD_FORMAT else None


def _difference(record: Mapping[str, Any], fingerprint: Mapping[str, Any]) -> str:
    """What a record was made from and this run is not; empty if they agree."""
    if record.get("model") != fingerprint["model"]:
        return f"made by another model (SHA-256 {str(record.get('model'))[:12]}..., now {fingerprint['model'][:12]}...)"
    for part in ("settings", "inputs"):
        found, wanted = record.get(part) or {}, fingerprint[part]
        differing = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
        if differing and part == "settings":
            return f"made with other settings: {_changes(found, wanted)}"
        if differing:
            return f"made from other images: {', '.join(differing)}"
    return ""


def _changes(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    differing = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
    return ", ".join(f"{key} was {found.get(key)}, now {wanted.get(key)}" for key in differing)


def _plain(values: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """As it comes back from JSON, where tuples are lists."""
    return None if values is None else json.loads(json.dumps(dict(values)))


def _problem(path: Path, sha256: str | None) -> str:
    """Why a result file cannot be kept; empty if it can."""
    if not path.is_file():
        return f"{path.name} is missing"
    if sha256 is None:
        return f"{path.name} was not finished"
    return "" if sha256_of(path) == sha256 else f"{path.name} was changed after it was written"


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
