"""What a file is, told by its content; names, order and retention of a session's checkpoints."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import zipfile
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch

from deepmedic import model_files
from deepmedic.checkpoints import load, newest_valid, save
from deepmedic.errors import ModelError
from deepmedic.model_files import dated_name, identify, prune, read_header, saved_files, update_latest

PICKLE = pickle.dumps({"weights": [1.0, 2.0]}, protocol=2)


def stamp(second: int) -> datetime:
    return datetime(2026, 1, 31, 23, 59, second, 7)


def checkpoint(folder: Path, counter: int, tag: str = "", session: str = "first", second: int | None = None) -> Path:
    """A small saved model of a session; its date says nothing about its counter unless `second` does."""
    moment = stamp(59 - counter if second is None else second)
    path = folder / dated_name("tiny", session, tag, moment)
    save(path, {"modelName": "tiny", "session": session, "counter": counter, "value": counter})
    return path


def start_model(folder: Path, value: int, tag: str = "initial") -> Path:
    path = folder / dated_name("tiny", None, tag, stamp(value))
    save(path, {"modelName": "tiny", "value": value})
    return path


def tensorflow_files(folder: Path) -> Path:
    for ending in (".index", ".data-00000-of-00001", ".meta"):
        (folder / f"m.model.ckpt{ending}").write_bytes(b"\0")
    return folder / "m.model.ckpt"


def test_saved_model_is_recognised_under_any_name(tmp_path):
    save(tmp_path / "some.cfg", {"value": 1})
    assert identify(tmp_path / "some.cfg") == "save"


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("old.save", gzip.compress(PICKLE, mtime=0), "theano"),
        ("old.save", PICKLE, "theano"),
        ("old.save", pickle.dumps({"a": 1}, protocol=5), "theano"),
        ("old.save", pickle.dumps({"a": 1}, protocol=0), "theano"),
        ("old.save", pickle.dumps(Path("x"), protocol=0), "theano"),
        ("broken.save", b"", "save"),
        ("broken.save", b"\x00\x01garbage", "save"),
        ("scan.nii.gz", gzip.compress(bytes(400), mtime=0), "other"),
        ("short.gz", b"\x1f\x8b", "other"),
        ("model.cfg", b"", "config"),
        ("model.cfg", b"# only a comment\n", "config"),
        ("model.txt", "# Modell für zwei Klassen\nnumberOfOutputClasses = 2\n".encode(), "config"),
        ("page.html", b"<!DOCTYPE html>\n<a href='x'>x</a>\n", "other"),
        ("pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", "other"),
        ("a.zip", b"PK\x03\x04" + bytes(40), "other"),
    ],
)
def test_kind_by_content(tmp_path, name, content, kind):
    (tmp_path / name).write_bytes(content)
    assert identify(tmp_path / name) == kind


def test_kind_of_arrays_and_of_older_pytorch_files(tmp_path):
    np.savez(tmp_path / "parameters", **{"normal/1/weight": np.zeros(3)})
    torch.save({"a": 1}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert identify(tmp_path / "parameters.npz") == "npz"
    assert identify(tmp_path / "old.pt") == "other"


def test_tensorflow_checkpoint_by_its_prefix_or_any_of_its_files(tmp_path):
    prefix = tensorflow_files(tmp_path)
    for path in (prefix, *tmp_path.iterdir()):
        assert identify(path) == "tensorflow"
    (tmp_path / "m.model.ckpt.data-00000-of-00001").unlink()
    assert identify(prefix) == "other"


def test_missing_file_and_folder(tmp_path):
    assert identify(tmp_path / "none.save") == "save"
    assert identify(tmp_path / "none" / "x.model.ckpt") == "other"
    assert identify(tmp_path) == "other"


def test_header_tells_without_reading_the_content(tmp_path):
    header = read_header(checkpoint(tmp_path, 7))
    assert (header.format_version, header.model_name, header.session, header.counter) == (1, "tiny", "first", 7)
    assert read_header(start_model(tmp_path, 1)).session is None


def rewritten_header(path: Path, **changes: object) -> Path:
    """A copy of a saved model with another header."""
    target = path.with_name("changed.save")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            content = source.read(name)
            if name == model_files.HEADER_MEMBER:
                content = json.dumps({**json.loads(content), **changes}).encode()
            copy.writestr(name, content)
    return target


def test_newer_format_is_refused_with_the_advice_to_update(tmp_path):
    path = rewritten_header(checkpoint(tmp_path, 1), formatVersion=2)
    for read in (read_header, load):
        with pytest.raises(ModelError, match=r"newer version .*format version 2; this one reads up to 1") as caught:
            read(path)
        assert "Update this program" in str(caught.value)


@pytest.mark.parametrize(
    "changes", [{"formatVersion": "1"}, {"counter": 1.5}, {"session": 3}, {"counter": None}, {"counter": "x" * 70000}]
)
def test_strange_header_is_refused(tmp_path, changes):
    path = rewritten_header(checkpoint(tmp_path, 1), **changes)
    with pytest.raises(ModelError, match=r"changed\.save: is damaged or cut short"):
        read_header(path)


def test_names_are_dated_to_the_microsecond():
    name = dated_name("deepMedic", "train", "best", stamp(5))
    assert name == "deepMedic.train.best.2026-01-31.23.59.05.000007.save"
    assert (
        dated_name("m", None, "initial.pretrained", stamp(5)) == "m.initial.pretrained.2026-01-31.23.59.05.000007.save"
    )
    assert dated_name("m", "s", "", stamp(5)) == "m.s.2026-01-31.23.59.05.000007.save"


def test_order_is_by_progress_not_by_dates(tmp_path):
    paths = [checkpoint(tmp_path, counter) for counter in (1, 2, 3)]
    for age, path in enumerate(paths):
        os.utime(path, (1000 - age, 1000 - age))
    found, notes = saved_files(tmp_path)
    assert [saved.header.counter for saved in found] == [3, 2, 1]
    assert notes == []


def test_of_equal_progress_the_final_and_then_the_regular_one_is_newest(tmp_path):
    best = checkpoint(tmp_path, 3, "best", second=9)
    regular = checkpoint(tmp_path, 3, second=1)
    latest = update_latest(regular, "tiny", "first")
    final = checkpoint(tmp_path, 3, "final", second=0)
    mine = tmp_path / "before the operation.save"
    mine.write_bytes(checkpoint(tmp_path, 2).read_bytes())
    found, _ = saved_files(tmp_path)
    assert [saved.path for saved in found[:4]] == [final, regular, latest, best]
    assert {saved.path.name: saved.tag for saved in found[4:]}[mine.name] == "renamed"


def test_latest_moves_on_and_is_cheap(tmp_path):
    first, second = checkpoint(tmp_path, 1), checkpoint(tmp_path, 2)
    latest = update_latest(first, "tiny", "first")
    assert latest.name == "tiny.first.latest.save"
    assert latest.samefile(first)
    assert update_latest(second, "tiny", "first").samefile(second)
    first.unlink()
    second.unlink()
    assert load(latest)["value"] == 2


def test_pruning_keeps_the_newest_and_the_special_ones(tmp_path):
    regular = [checkpoint(tmp_path, counter) for counter in range(5)]
    special = [
        checkpoint(tmp_path, 1, "best"),
        checkpoint(tmp_path, 4, "final"),
        update_latest(regular[4], "tiny", "first"),
    ]
    special.append(start_model(tmp_path, 1))
    other = checkpoint(tmp_path, 0, session="second")
    mine = tmp_path / "mine.save"
    mine.write_bytes(regular[0].read_bytes())
    assert sorted(prune(tmp_path, 2)) == sorted(regular[:3])
    assert set(tmp_path.iterdir()) == {*regular[3:], *special, other, mine}


def test_pruning_keeps_the_only_checkpoint_and_damaged_ones(tmp_path):
    only = checkpoint(tmp_path, 0)
    torn = tmp_path / dated_name("tiny", "first", "", stamp(3))
    torn.write_bytes(only.read_bytes()[:100])
    assert prune(tmp_path, 1) == []
    assert only.exists()
    assert torn.exists()
    with pytest.raises(ValueError, match="0 checkpoints to keep; at least 1"):
        prune(tmp_path, 0)


def test_newest_of_a_session_ignores_temporaries_and_other_files(tmp_path):
    newest = checkpoint(tmp_path, 2)
    checkpoint(tmp_path, 1)
    (tmp_path / ".tiny.save.1.00000000-00000000.partial").write_bytes(b"half")
    (tmp_path / ".hidden.save").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("good run")
    path, content, notes = newest_valid(tmp_path)
    assert (path, content["value"], notes) == (newest, 2, [])


def test_newest_valid_falls_back_and_says_so(tmp_path):
    good, torn, flipped = (checkpoint(tmp_path, counter) for counter in (1, 2, 3))
    torn.write_bytes(torn.read_bytes()[:-200])
    content = bytearray(flipped.read_bytes())
    content[len(content) // 3] ^= 4
    flipped.write_bytes(content)
    path, content, notes = newest_valid(tmp_path)
    assert (path, content["value"]) == (good, 1)
    assert len(notes) == 2
    assert notes[0].startswith(f"Passed over: {torn}: is damaged or cut short")
    assert notes[1].startswith(f"Passed over: {flipped}: is damaged or cut short")


def test_all_damaged_are_listed(tmp_path):
    paths = [checkpoint(tmp_path, counter) for counter in (1, 2)]
    for path in paths:
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ModelError, match="none of its 2 saved models can be used") as caught:
        newest_valid(tmp_path)
    assert all(str(path) in str(caught.value) for path in paths)


def test_folder_without_models_and_missing_folder(tmp_path):
    with pytest.raises(ModelError, match=r"holds no saved model \(\*\.save\)"):
        newest_valid(tmp_path)
    with pytest.raises(ModelError, match=r"none: cannot be read \(No such file or directory\)"):
        newest_valid(tmp_path / "none")


def test_several_models_in_a_folder_are_refused_with_the_list(tmp_path):
    one = checkpoint(tmp_path, 1)
    two = checkpoint(tmp_path, 2, session="second")
    with pytest.raises(ModelError, match="several models or sessions") as caught:
        newest_valid(tmp_path)
    assert one.name in str(caught.value)
    assert two.name in str(caught.value)


def test_two_start_models_are_two_models_but_a_copy_is_not(tmp_path):
    one = start_model(tmp_path, 1)
    (tmp_path / "copy.save").write_bytes(one.read_bytes())
    assert newest_valid(tmp_path)[1]["value"] == 1
    start_model(tmp_path, 2, "initial.pretrained")
    with pytest.raises(ModelError, match="several models or sessions"):
        newest_valid(tmp_path)
