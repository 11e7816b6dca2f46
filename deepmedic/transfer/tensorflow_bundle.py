"""Checkpoints of TensorFlow, read without TensorFlow: `X.model.ckpt.index` and `X.model.ckpt.data-00000-of-00001`.

This is the format "V2" (a tensor bundle), in which DeepMedic v0.8 saved its models: the index says where the values of
each variable lie in one or more data files; every variable has a checksum, which is verified here before use.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from deepmedic.errors import ModelError, ResourceError
from deepmedic.files import sha256_of
from deepmedic.model_files import damaged, unreadable
from deepmedic.transfer.crc32c import crc32c, masked
from deepmedic.transfer.tensorflow_index import Entry, Index, index_path, read_index

_PART = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")
_NEWEST = re.compile(rb'^\s*model_checkpoint_path\s*:\s*"((?:[^"\\\n]|\\.)*)"', re.MULTILINE)
_ESCAPE = re.compile(rb"\\(?:(?P<octal>[0-7]{1,3})|(?P<letter>.))")
_LIST_OF_CHECKPOINTS = "checkpoint"
"""Text file in which TensorFlow notes the checkpoints of a folder."""
_LARGEST_LIST = 1 << 20

Array = NDArray[Any]


def prefix_of(path: Path) -> Path:
    """The prefix `X.model.ckpt` of the checkpoint that `path` names; its index exists.

    `path` is that prefix, one of the checkpoint's files, or a folder: then the newest checkpoint is taken, which
    TensorFlow notes in the folder's file `checkpoint`, or the only one.

    Raises:
        ModelError: there is no such checkpoint, or the folder holds several and no note which is the newest.
    """
    for prefix in (path, path.with_name(_PART.sub("", path.name)) if path.name else path):
        if prefix.name and index_path(prefix).is_file():
            return prefix
    if path.is_dir():
        return _newest_in(path)
    prefix = path.with_name(_PART.sub("", path.name))
    raise ModelError(
        f"{index_path(prefix)}: there is no such file, so no TensorFlow checkpoint {path.name}." + _others(path.parent)
    )


def read_bundle(prefix: Path) -> dict[str, Array]:
    """All variables of the checkpoint `prefix` by name, as arrays of their own memory in the native byte order.

    Raises:
        ModelError: a file is missing, cut short, altered or foreign.
        ResourceError: the variables do not fit into memory.
    """
    index = read_index(prefix)
    return read_variables(prefix, index, index.entries)


def read_variables(prefix: Path, index: Index, names: Iterable[str]) -> dict[str, Array]:
    """As `read_bundle`, of some variables of an index that is read already."""
    wanted = {name: index.entries[name] for name in names}
    arrays: dict[str, Array] = {}
    in_order = sorted(wanted, key=lambda name: wanted[name].offset)
    for shard, path in enumerate(data_paths(prefix, index)):
        here = [name for name in in_order if wanted[name].shard == shard]
        try:
            with open(path, "rb") as file:
                _check_extent(path, file, index, shard)
                for name in here:
                    arrays[name] = _read(path, file, name, wanted[name])
        except FileNotFoundError as problem:
            raise ModelError(
                f"{path}: there is no such file, but the checkpoint's index names it. Copy all files {prefix.name}.* "
                "of the checkpoint from where they came from."
            ) from problem
        except OSError as problem:
            raise unreadable(path, problem) from problem
    return {name: arrays[name] for name in wanted}


def data_paths(prefix: Path, index: Index) -> list[Path]:
    """The data files of a checkpoint, in order."""
    return [prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{index.shards:05d}") for shard in range(index.shards)]


def digests_of(prefix: Path) -> dict[str, str]:
    """SHA-256 of each file of a checkpoint by its name, the index first.

    Raises:
        ModelError: a file cannot be read, or the index is damaged.
    """
    paths = [index_path(prefix), *data_paths(prefix, read_index(prefix))]
    try:
        return {path.name: sha256_of(path) for path in paths}
    except OSError as problem:
        raise unreadable(prefix, problem) from problem


def digest_of(prefix: Path) -> str:
    """One SHA-256 for a checkpoint, over those of its files; it does not depend on their names.

    Raises:
        ModelError: as `digests_of`.
    """
    return hashlib.sha256("".join(digests_of(prefix).values()).encode()).hexdigest()


def _check_extent(path: Path, file: BinaryIO, index: Index, shard: int) -> None:
    """Refuse a file that cannot hold what the index says, before memory is taken."""
    size = file.seek(0, os.SEEK_END)
    end = 0
    for entry in sorted((e for e in index.entries.values() if e.shard == shard), key=lambda e: (e.offset, e.size)):
        if entry.offset < end:
            raise damaged(path, "its index lets variables overlap")
        end = entry.offset + entry.size
    if end > size:
        raise damaged(path, f"it has {size} bytes, its index needs {end}")


def _read(path: Path, file: BinaryIO, name: str, entry: Entry) -> Array:
    file.seek(entry.offset)
    try:
        raw = file.read(entry.size)
        if len(raw) != entry.size or masked(crc32c(raw)) != entry.masked_crc:
            raise damaged(path, f"the checksum of the variable {name} is wrong")
        if entry.dtype.kind == "b":
            return (np.frombuffer(raw, np.uint8) != 0).reshape(entry.shape)
        return np.frombuffer(raw, entry.dtype).astype(entry.dtype.newbyteorder("=")).reshape(entry.shape)
    except MemoryError as problem:
        raise ResourceError(
            f"{path}: the variable {name} has {entry.size} bytes, for which there is not enough memory. "
            "Use a machine with more."
        ) from problem


def _newest_in(folder: Path) -> Path:
    found = _prefixes(folder)
    note = folder / _LIST_OF_CHECKPOINTS
    if not note.is_file():
        if len(found) == 1:
            return found[0]
        raise ModelError(
            f"{folder}: has no file '{_LIST_OF_CHECKPOINTS}' that notes its newest TensorFlow checkpoint."
            + _others(folder)
        )
    try:
        with open(note, "rb") as file:
            match = _NEWEST.search(file.read(_LARGEST_LIST))
    except OSError as problem:
        raise unreadable(note, problem) from problem
    if match is None:
        raise ModelError(f"{note}: names no newest checkpoint (model_checkpoint_path)." + _others(folder))
    named = Path(os.fsdecode(_ESCAPE.sub(_unescaped, match[1])))
    # The note of a folder that was moved or copied still has the old place.
    for prefix in (folder / named.name, folder / named):
        if prefix in found or index_path(prefix).is_file():
            return prefix
    raise ModelError(f"{note}: names {named} as the newest checkpoint, which is not there." + _others(folder))


def _unescaped(match: re.Match[bytes]) -> bytes:
    if match["octal"]:
        return bytes([int(match["octal"], 8) & 0xFF])
    return {b"n": b"\n", b"t": b"\t", b"r": b"\r"}.get(match["letter"], match["letter"])


def _prefixes(folder: Path) -> list[Path]:
    try:
        return sorted(path.with_suffix("") for path in folder.iterdir() if path.suffix == ".index" and path.stem)
    except OSError as problem:
        raise unreadable(folder, problem) from problem


def _others(folder: Path) -> str:
    """What to name instead, as the end of a message."""
    if not folder.is_dir():
        return f" The folder {folder} does not exist."
    found = _prefixes(folder)
    if not found:
        return f" The folder {folder} holds no TensorFlow checkpoint (*.index)."
    listing = "".join(f"\n  {prefix}" for prefix in found)
    return f" Name one of these:{listing}"
