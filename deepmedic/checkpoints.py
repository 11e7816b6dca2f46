"""Saved models: one verified file of plain values and tensors.

The file is what `torch.save` writes, readable by `torch.load(weights_only=True)`, plus the header of
`deepmedic.model_files`. PyTorch does not check the checksums of its own files (pytorch #126952), so they are checked
here before anything is used, and after reading, a digest of the content as a whole. Content is a dictionary of
None, bool, int, float, str, list, tuple, dict (keys str or int) and tensors; these top-level keys have a meaning here:

- `formatVersion`: written by `save`;
- `modelName` (str), `session` (str or None) and `counter` (int, grows from one save of a session to the next): they go
  into the header and tell which of a session's files is the newest.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import pickletools
import re
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from deepmedic.errors import ModelError, ResourceError
from deepmedic.files import sha256_of, write_atomically
from deepmedic.model_files import (
    DAMAGE_ERRORS,
    FORMAT_VERSION,
    HEADER_MEMBER,
    Header,
    SavedFile,
    damaged,
    dated_name,
    foreign,
    header_bytes,
    header_of,
    identify,
    latest_name,
    prune,
    read_header,
    saved_files,
    unreadable,
    update_latest,
)
from deepmedic.plain_content import content_digest, moved, plain_copy

__all__ = [
    "FORMAT_VERSION",
    "dated_name",
    "identify",
    "latest_name",
    "load",
    "newest_valid",
    "prune",
    "read_header",
    "save",
    "update_latest",
]

_MEMBERS = re.compile(r"archive/(data\.pkl|data/\d+|version|byteorder|deepmedic\.json|\.[\w./]+)")
_GLOBALS = re.compile(r"torch\._utils _rebuild_tensor_v2|collections OrderedDict|torch [A-Za-z0-9]+Storage")
_SEAL_LENGTH = len("sha256:") + 64
_CALLING_OPCODES = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "BUILD", "PERSID"}
"""Ways of a pickle to call something that a file of this program has no use for."""
_UNREADABLE: tuple[type[Exception], ...] = (
    *DAMAGE_ERRORS,
    *(pickle.UnpicklingError, AttributeError, AssertionError, MemoryError),
)


def save(path: Path, content: dict[str, Any]) -> str:
    """Write `content` to `path`, atomically and verified; returns the SHA-256 of the file.

    Tensors are stored as they are on the CPU, without gradients; equal content gives equal bytes. Dictionaries of
    other types become plain ones.

    Raises:
        TypeError: a value is neither plain nor a tensor.
        ResourceError: the file cannot be written, or reads back differently; an older file is untouched.
    """
    plain = plain_copy({"formatVersion": 0} | content | {"formatVersion": FORMAT_VERSION})
    header = Header(
        format_version=FORMAT_VERSION,
        model_name=plain.get("modelName", ""),
        session=plain.get("session"),
        counter=plain.get("counter", 0),
        content_sha256=content_digest(plain),
    )
    packed = _packed(plain, header)
    sha256 = hashlib.sha256(packed).hexdigest()

    def verify(temporary: Path) -> None:
        if sha256_of(temporary) != sha256:
            raise ResourceError(f"{path}: what was read back differs from what was written; check the disk.")

    write_atomically(path, lambda file: file.write(packed), verify, expected_bytes=len(packed))
    return sha256


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a saved model, verified as a whole before it is returned; all its tensors are put on `device`.

    Random states must be on the CPU where they are set again.

    Raises:
        ModelError: the file is missing, foreign, damaged, hostile, or written by a newer version of this program.
    """
    kind = identify(path)
    if kind == "tensorflow":
        raise foreign(path, kind)
    try:
        with open(path, "rb") as file:
            if file.seek(0, io.SEEK_END) == 0:
                raise damaged(path, "it is empty (0 bytes)")
            if kind != "save":
                raise foreign(path, kind)
            header = header_of(path, file)
            content = _read(path, file, header)
    except OSError as problem:
        raise unreadable(path, problem) from problem
    return content if torch.device(device).type == "cpu" else moved(content, torch.device(device))


def newest_valid(folder: Path) -> tuple[Path, dict[str, Any], list[str]]:
    """The furthest trained model in a session's folder that is whole: its path, its content, and notes for the user.

    The order comes from the counters in the files, never from dates. Damaged files are passed over with a note each.

    Raises:
        ModelError: no file is whole (all are listed), or the files belong to several models.
    """
    candidates, notes = saved_files(folder)
    owners = {saved.header.owner for saved in candidates}
    if len(owners) > 1:
        raise _several_models(folder, candidates)
    for saved in candidates:
        try:
            content = load(saved.path)
        except ModelError as problem:
            notes.append(str(problem))
            continue
        return saved.path, content, [f"Passed over: {note}" for note in notes]
    if not notes:
        raise ModelError(f"{folder}: holds no saved model (*.save). Name a saved model, or a session's folder.")
    listing = "\n".join(f"  {note}" for note in notes)
    raise ModelError(f"{folder}: none of its {len(notes)} saved models can be used:\n{listing}")


def _several_models(folder: Path, candidates: list[SavedFile]) -> ModelError:
    names = sorted(saved.path.name for saved in candidates)
    listing = "\n".join(f"  {name}" for name in names)
    return ModelError(
        f"{folder}: holds saved models of several models or sessions, so it is not clear which is meant. "
        f"Name one of them:\n{listing}"
    )


def _packed(plain: dict[str, Any], header: Header) -> memoryview:
    """The bytes of the file: PyTorch's zip archive, the header, and at the end the seal as the archive's comment."""
    buffer = io.BytesIO()
    torch.save(plain, buffer)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(zipfile.ZipInfo(HEADER_MEMBER), header_bytes(header))
        archive.comment = bytes(_SEAL_LENGTH)
    packed = buffer.getbuffer()
    packed[-_SEAL_LENGTH:] = _seal(hashlib.sha256(packed[:-_SEAL_LENGTH]).hexdigest())
    return packed


def _seal(sha256: str) -> bytes:
    """What ends the file: a digest of all bytes before it, also of those that no checksum of the zip format covers."""
    return b"sha256:" + sha256.encode()


def _sha256_of_first(file: BinaryIO, size: int) -> str:
    digest = hashlib.sha256()
    file.seek(0)
    while size > 0 and (chunk := file.read(min(size, 1 << 20))):
        digest.update(chunk)
        size -= len(chunk)
    return digest.hexdigest()


def _read(path: Path, file: BinaryIO, header: Header) -> dict[str, Any]:
    """The content of an open file, after all checks."""
    _check_members(path, file)
    file.seek(0)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        digest = content_digest(content, limit=file.seek(0, io.SEEK_END))
    except _UNREADABLE as problem:
        raise damaged(path, f"its content is not as this program writes it ({type(problem).__name__})") from problem
    if digest != header.content_sha256 or not isinstance(content, dict):
        raise damaged(path, "its content does not match the digest that was stored with it")
    if _header_of_content(content) != (header.format_version, header.model_name, header.session, header.counter):
        raise damaged(path, "its header does not match its content")
    return content


def _check_members(path: Path, file: BinaryIO) -> None:
    """Refuse a file with other members than this program writes, with wrong checksums, or with calls in its pickle."""
    size = file.seek(0, io.SEEK_END)
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            strange = [name for name in names if not _MEMBERS.fullmatch(name)]
            if strange or len(set(names)) < len(names) or "archive/data.pkl" not in names:
                raise damaged(path, f"it has other members than this program writes ({', '.join(strange) or names})")
            if any(m.compress_type != zipfile.ZIP_STORED for m in members) or sum(m.file_size for m in members) > size:
                raise damaged(path, "its members are compressed or overlap, which this program never writes")
            wrong = archive.testzip()
            if wrong is not None:
                raise damaged(path, f"the checksum of its part {wrong} is wrong")
            if archive.comment != _seal(_sha256_of_first(file, size - _SEAL_LENGTH)):
                raise damaged(path, "its bytes do not match the digest at its end")
            _check_pickle(path, archive.read("archive/data.pkl"))
    except DAMAGE_ERRORS as problem:
        raise damaged(path, " ".join(str(problem).split()) or type(problem).__name__) from problem


def _check_pickle(path: Path, pickled: bytes) -> None:
    """Refuse a pickle that asks for anything but tensors and plain values; it is looked through, not run."""
    for opcode, argument, _ in pickletools.genops(pickled):
        is_call = opcode.name in _CALLING_OPCODES
        if is_call or (opcode.name == "GLOBAL" and not _GLOBALS.fullmatch(str(argument))):
            asked = argument if opcode.name == "GLOBAL" else opcode.name
            raise ModelError(
                f"{path}: asks to run code while it is read ({asked}), which a saved model never needs; nothing was "
                "run. Do not use this file, and be careful with others from where it came."
            )


def _header_of_content(content: dict[str, Any]) -> tuple[Any, ...]:
    fields = (("formatVersion", None), ("modelName", ""), ("session", None), ("counter", 0))
    return tuple(content.get(key, default) for key, default in fields)
