"""Files of saved models, without opening the tensors in them: what a file is, its header, names, and retention.

A saved model is a zip file as PyTorch writes it, with one member more: a small JSON header that tells the format
version, whose model it is and how far it was trained. `deepmedic.checkpoints` writes and reads the rest.
"""

from __future__ import annotations

import json
import re
import struct
import zipfile
import zlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal

from deepmedic.errors import ModelError
from deepmedic.files import link_atomically

FORMAT_VERSION = 1
"""Of the files that this version writes; it reads this and every earlier one."""
HEADER_MEMBER = "archive/deepmedic.json"
DAMAGE_ERRORS: tuple[type[Exception], ...] = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, struct.error, OSError, EOFError),
    *(RuntimeError, ValueError, KeyError, IndexError, OverflowError, TypeError),
)
"""What the readers of the standard library raise on damaged zip files."""

Kind = Literal["save", "tensorflow", "theano", "npz", "config", "other"]

_LONGEST_HEADER = 1 << 16
_STAMP = r"\d{4}-\d\d-\d\d\.\d\d\.\d\d\.\d\d\.\d{6}"
_PICKLE = re.compile(
    rb"\x80[\x02-\x05]|c[A-Za-z_][\w.]*\n[A-Za-z_]\w*\n|\(i[A-Za-z_][\w.]*\n|\([dl]p\d+\n",
)
_OLD_PYTORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_ASSIGNMENT = re.compile(r"^\s*(\[[\w.]+\]\s*$|[A-Za-z_]\w*\s*=)", re.MULTILINE)
_ANOTHER_COPY = "Copy it again from where it came from, or use another saved model, for instance an earlier one."


@dataclass(frozen=True)
class Header:
    """What a saved model says about itself before its tensors are read."""

    format_version: int
    model_name: str
    session: str | None
    """Name of the training session that saved it; None for a model that `-newModel` made."""
    counter: int
    """Grows from one save of a session to the next; tells the newest, whatever the clock said."""
    content_sha256: str

    @property
    def owner(self) -> tuple[str, str]:
        """Files of one owner are states of one model; a model outside a session is an owner of its own."""
        return (self.model_name, self.session) if self.session is not None else (self.model_name, self.content_sha256)


@dataclass(frozen=True)
class SavedFile:
    """A saved model in a folder, with what its name says."""

    path: Path
    header: Header
    tag: str
    """"" for the regular checkpoints of a training, or "best", "final", "latest", "initial", ..., "renamed"."""
    stamp: str

    @property
    def age_key(self) -> tuple[int, int, str, str]:
        """Grows with the progress of training; of equal ones, the final and then the regular checkpoint comes last."""
        rank = {"final": 3, "": 2, "latest": 1}.get(self.tag, 0)
        return (self.header.counter, rank, self.stamp, self.path.name)


def identify(path: Path) -> Kind:
    """What kind of file a user named, by its content; its name decides only where the content says nothing.

    "tensorflow" is the prefix `X.model.ckpt` of a checkpoint with `.index` and `.data-*` files, or one of these.
    A file that is damaged at its beginning, and one that is missing, is what its name says.
    """
    if _is_tensorflow(path):
        return "tensorflow"
    try:
        with open(path, "rb") as file:
            head = file.read(1 << 16)
    except OSError:
        head = b""
    by_name: dict[str, Kind] = {".save": "save", ".npz": "npz", ".cfg": "config"}
    return _kind_of_bytes(head) or by_name.get(path.suffix.lower(), "other")


def read_header(path: Path) -> Header:
    """The header of a saved model.

    Raises:
        ModelError: the file is no saved model, is damaged, or was written by a newer version of this program.
    """
    try:
        with open(path, "rb") as file:
            return header_of(path, file)
    except OSError as problem:
        raise unreadable(path, problem) from problem


def header_of(path: Path, file: BinaryIO) -> Header:
    """As `read_header`, of a file that is open already."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            if HEADER_MEMBER not in names:
                raise foreign(path, "save")
            if names.count(HEADER_MEMBER) > 1 or archive.getinfo(HEADER_MEMBER).file_size > _LONGEST_HEADER:
                raise damaged(path, "its header is not as this program writes it")
            fields = json.loads(archive.read(HEADER_MEMBER))
        if fields["formatVersion"] > FORMAT_VERSION:
            raise ModelError(
                f"{path}: was saved by a newer version of this program (format version {fields['formatVersion']}; "
                f"this one reads up to {FORMAT_VERSION}). Update this program to use the file."
            )
        return _header_from(fields)
    except DAMAGE_ERRORS as problem:
        raise damaged(path, f"{_sentence(problem)}") from problem


def header_bytes(header: Header) -> bytes:
    """The header as it stands in the file."""
    fields = {
        "formatVersion": header.format_version,
        "modelName": header.model_name,
        "session": header.session,
        "counter": header.counter,
        "contentSha256": header.content_sha256,
    }
    return json.dumps(fields).encode()


def dated_name(model: str, session: str | None, tag: str, now: datetime) -> str:
    """`<model>[.<session>][.<tag>].<YYYY-MM-DD.HH.MM.SS.micro>.save`."""
    words = [model, session, tag, now.strftime("%Y-%m-%d.%H.%M.%S.%f"), "save"]
    return ".".join(word for word in words if word)


def latest_name(model: str, session: str) -> str:
    """The undated name of a session's newest checkpoint."""
    return f"{model}.{session}.latest.save"


def update_latest(saved: Path, model: str, session: str) -> Path:
    """Let the undated name stand for the checkpoint `saved` beside it, in one step; returns the undated path.

    It is a second name of the same file, or a copy where the file system has no such names.

    Raises:
        ResourceError: it cannot be made; an older one is untouched.
    """
    latest = saved.with_name(latest_name(model, session))
    link_atomically(saved, latest)
    return latest


def saved_files(folder: Path) -> tuple[list[SavedFile], list[str]]:
    """The saved models in a folder (not below it), furthest trained first, and why others were passed over.

    Raises:
        ModelError: the folder cannot be read.
    """
    found: list[SavedFile] = []
    notes: list[str] = []
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".save" and path.name[0] != ".")
    except OSError as problem:
        raise unreadable(folder, problem) from problem
    for path in paths:
        try:
            found.append(_described(path, read_header(path)))
        except ModelError as problem:
            notes.append(str(problem))
    return sorted(found, key=lambda saved: saved.age_key, reverse=True), notes


def prune(folder: Path, keep: int) -> list[Path]:
    """Remove all but the `keep` newest regular checkpoints of each session in `folder`; returns those removed.

    The best, the final, the latest, start models and files under names of the user's own stay.
    """
    if keep < 1:
        raise ValueError(f"{keep} checkpoints to keep; at least 1 is allowed")
    regular: dict[tuple[str, str], list[Path]] = {}
    for saved in saved_files(folder)[0]:
        if saved.tag == "" and saved.header.session is not None:
            regular.setdefault(saved.header.owner, []).append(saved.path)
    removed = [path for paths in regular.values() for path in paths[keep:]]
    for path in removed:
        path.unlink(missing_ok=True)
    return removed


def foreign(path: Path, kind: Kind) -> ModelError:
    """The refusal of a file that is whole, but no saved model of this program."""
    found = {
        "save": "is a PyTorch file, but not a model that this program saved, or its header is damaged. "
        "Use its parameters as arrays in an .npz file: -newModel MODEL.cfg -pretrained PARAMETERS.npz.",
        "theano": "is a Python pickle, as the Theano version of DeepMedic saved its models. Reading a pickle can run "
        "any program that is hidden in it, so this is never done here. Where the old program still runs, write the "
        "model's parameters into an .npz file, one array each, under the names that -exportParameters uses "
        "(normal/1/weight, ...; documentation/migration.md says how), and bring them in as a whole with "
        "-convert PARAMETERS.npz MODEL.cfg, or into a new model with: -newModel MODEL.cfg -pretrained PARAMETERS.npz.",
        "tensorflow": "is a TensorFlow checkpoint, not a saved model of this program. Give it as "
        "-load X.model.ckpt together with -model MODEL.cfg, as -pretrained X.model.ckpt -pretrainedConfig MODEL.cfg, "
        "or make a saved model of it with: -convert X.model.ckpt MODEL.cfg.",
        "npz": "holds arrays, not a saved model. Make one of them with: -convert PARAMETERS.npz MODEL.cfg, or bring "
        "them into a new one with: -newModel MODEL.cfg -pretrained PARAMETERS.npz.",
        "config": "is a text file with settings, not a saved model.",
        "other": "is not a saved model of this program.",
    }[kind]
    return ModelError(f"{path}: {found}")


def damaged(path: Path, reason: str) -> ModelError:
    """The refusal of a saved model that is not whole."""
    return ModelError(f"{path}: is damaged or cut short: {reason}. {_ANOTHER_COPY}")


def unreadable(path: Path, problem: OSError) -> ModelError:
    """The refusal of a path that the system does not open."""
    return ModelError(f"{path}: cannot be read ({problem.strerror or problem}). Check the path and its rights.")


def _header_from(fields: dict[str, Any]) -> Header:
    header = Header(
        fields["formatVersion"], fields["modelName"], fields["session"], fields["counter"], fields["contentSha256"]
    )
    if not all(isinstance(number, int) for number in (header.format_version, header.counter)):
        raise ValueError(f"the header's numbers are {header.format_version!r} and {header.counter!r}")
    if header.session is not None and not isinstance(header.session, str):
        raise ValueError(f"the header's session is {header.session!r}")
    return header


def _described(path: Path, header: Header) -> SavedFile:
    prefix = f"{header.model_name}.{header.session}." if header.session else f"{header.model_name}."
    name = path.name
    if name == f"{prefix}latest.save":
        return SavedFile(path, header, "latest", "")
    match = re.fullmatch(rf"(?:(?P<tag>.+)\.)?(?P<stamp>{_STAMP})\.save", name.removeprefix(prefix))
    if match is None or not name.startswith(prefix):
        return SavedFile(path, header, "renamed", "")
    return SavedFile(path, header, match["tag"] or "", match["stamp"])


def _is_tensorflow(path: Path) -> bool:
    prefix = re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", path.name)
    data = re.compile(re.escape(prefix) + r"\.data-\d{5}-of-\d{5}")
    if not path.with_name(f"{prefix}.index").is_file():
        return False
    return any(data.fullmatch(beside.name) for beside in path.parent.iterdir())


def _kind_of_bytes(head: bytes) -> Kind | None:
    """The kind that the first bytes of a file show, None where they show none."""
    if head.startswith(b"PK\x03\x04"):
        first_member = head[30 : 30 + int.from_bytes(head[26:28], "little")]
        if first_member.endswith(b"/data.pkl"):
            return "save"
        return "npz" if first_member.endswith(b".npy") else None
    if head.startswith(b"\x1f\x8b"):
        head = _first_unzipped(head)
    if head.startswith(_OLD_PYTORCH):
        return "other"
    if _PICKLE.match(head):
        return "theano"
    is_text = b"\0" not in head and _ASSIGNMENT.search(head.decode("utf-8", "ignore")) is not None
    return "config" if is_text else None


def _first_unzipped(head: bytes) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(head, 4096)
    except zlib.error:
        return b""


def _sentence(problem: BaseException) -> str:
    """What an error of the standard library says, on one line."""
    return " ".join(str(problem).split()).rstrip(".") or type(problem).__name__


def is_model_config(path: Path) -> bool:
    """True when `-model` (or `-inspect`) names an architecture `.cfg` and not a saved model; by content."""
    return not path.is_dir() and identify(path) == "config"
