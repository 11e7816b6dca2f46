"""Saved models come back exactly, or are refused: damaged, hostile, foreign, or cut short by a kill or a full disk."""

from __future__ import annotations

import errno
import gzip
import io
import math
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmedic import checkpoints
from deepmedic.checkpoints import load, save
from deepmedic.errors import ModelError, ResourceError
from deepmedic.files import sha256_of
from deepmedic.plain_content import content_digest

GOLDEN = Path(__file__).resolve().parent / "golden" / "checkpoints"


def a_model() -> dict:
    generator = torch.Generator().manual_seed(1)
    return {
        "modelName": "tiny",
        "session": "first",
        "counter": 3,
        "parameters": {
            "normal/1/weight": torch.randn(4, 2, 3, 3, 3, generator=generator),
            "normal/1/bn_var_rolling": torch.rand(5, 4, generator=generator, dtype=torch.float64),
        },
        "optimizer": {0: {"step": torch.tensor(7), "lr": 0.1}},
        "history": [{"dice": math.nan, "cost": math.inf}, {"dice": None, "done": True}],
        "random": (torch.arange(20, dtype=torch.uint8), 2**70, -1, "ä"),
        "empty": [torch.zeros(0, 3), [], {}, (), ""],
        "half": torch.ones(3, dtype=torch.bfloat16),
        "mask": torch.tensor([True, False]),
    }


def assert_same(found, expected, where: str = "") -> None:
    assert type(found) is type(expected), where
    if isinstance(expected, torch.Tensor):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape), where
        assert torch.equal(found, expected), where
    elif isinstance(expected, dict):
        assert list(found) == list(expected), where
        for key in expected:
            assert_same(found[key], expected[key], f"{where}/{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for index, pair in enumerate(zip(found, expected, strict=True)):
            assert_same(*pair, f"{where}/{index}")
    else:
        assert repr(found) == repr(expected), where


@pytest.fixture(scope="module")
def saved_bytes(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "model.save"
    save(path, a_model())
    return path.read_bytes()


# ---- what is saved comes back


def test_content_comes_back_exactly(tmp_path):
    path = tmp_path / "model.save"
    digest = save(path, a_model())
    assert digest == sha256_of(path)
    assert_same(load(path), {"formatVersion": 1, **a_model()})


def test_file_is_readable_by_pytorch_alone(tmp_path):
    path = tmp_path / "model.save"
    save(path, a_model())
    for options in ({}, {"mmap": True}):
        content = torch.load(path, weights_only=True, **options)
        assert_same(content, {"formatVersion": 1, **a_model()})
        del content


def test_equal_content_gives_equal_bytes(tmp_path):
    name = "".join(["nor", "mal"])
    shared, separate = torch.ones(3), [1.5, "normal"]
    one = {"modelName": "m", "a": shared, "b": shared, "c": separate, "d": separate, "e": "normal"}
    two = {
        "modelName": "m",
        "a": torch.ones(3),
        "b": torch.ones(6)[::2],
        "c": [1.5, name],
        "d": [1.5, "normal"],
        "e": name,
    }
    two["a"].requires_grad_()
    assert save(tmp_path / "1.save", one) == save(tmp_path / "2.save", two)
    loaded = load(tmp_path / "2.save")
    assert save(tmp_path / "3.save", loaded) == sha256_of(tmp_path / "1.save")


def test_part_of_a_large_tensor_is_saved_alone(tmp_path):
    part = torch.arange(100_000, dtype=torch.float32).reshape(1000, 100)[3, 10:12]
    save(tmp_path / "model.save", {"part": part})
    assert (tmp_path / "model.save").stat().st_size < 10_000
    assert load(tmp_path / "model.save")["part"].tolist() == [310, 311]


def test_parameters_and_ordered_dictionaries_become_plain(tmp_path):
    layer = torch.nn.Linear(2, 1)
    save(tmp_path / "model.save", {"state": layer.state_dict(), "weight": layer.weight, "more": OrderedDict(a=1)})
    content = load(tmp_path / "model.save")
    assert type(content["state"]) is dict
    assert type(content["weight"]) is torch.Tensor
    assert torch.equal(content["state"]["weight"], layer.weight)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.float64(1.0), r"/a/2: numpy\.float64 cannot be saved; only None, bool"),
        (np.zeros(3), r"/a/2: numpy\.ndarray cannot be saved"),
        ({"x": {1, 2}}, r"/a/2/x: builtins\.set cannot be saved"),
        (b"bytes", r"/a/2: builtins\.bytes cannot be saved"),
        (Path("x"), r"/a/2: pathlib\.PosixPath cannot be saved"),
        (torch.Size([3]), r"/a/2: torch\.Size cannot be saved"),
        (torch.zeros(3).to_sparse(), r"/a/2: torch\.Tensor cannot be saved"),
        ({1.5: 0}, r"/a/2: the key 1\.5 cannot be saved; only str and int can"),
        ({True: 0}, r"/a/2: the key True cannot be saved"),
        (print, r"/a/2: builtins\.builtin_function_or_method cannot be saved"),
    ],
)
def test_other_values_are_refused_before_anything_is_written(tmp_path, value, message):
    with pytest.raises(TypeError, match=message):
        save(tmp_path / "model.save", {"a": [0, 1, value]})
    assert list(tmp_path.iterdir()) == []


def test_digest_tells_types_and_shapes_apart():
    contents = [
        *(1, 1.0, "1", True, None, "None", [1], (1,), {"1": 1}, {1: 1}, [[1], []], [[], [1]], ["ab", "c"], ["a", "bc"]),
        *(torch.ones(4), torch.ones(2, 2), torch.ones(1, 4), torch.ones(4, dtype=torch.int32), -0.0, 0.0, -1),
    ]
    assert len({content_digest(content) for content in contents}) == len(contents)


def test_tensors_are_put_on_the_device_that_is_asked_for(tmp_path):
    save(tmp_path / "model.save", a_model())
    content = load(tmp_path / "model.save", device="meta")
    assert content["parameters"]["normal/1/weight"].device.type == "meta"
    assert content["random"][0].device.type == "meta"
    assert content["random"][1:] == a_model()["random"][1:]


def test_tensors_of_an_absent_device_are_stored_for_the_cpu(tmp_path, monkeypatch):
    asked = []
    real = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: asked.append(tensor) or real(tensor))
    save(tmp_path / "model.save", {"weight": torch.ones(2)})
    assert len(asked) == 1
    with zipfile.ZipFile(tmp_path / "model.save") as archive:
        pickled = archive.read("archive/data.pkl")
    assert b"cuda" not in pickled
    assert b"cpu" in pickled


def test_every_format_that_landed_still_loads():
    content = load(GOLDEN / "format1.save")
    assert_same(content, {"formatVersion": 1, **a_model()})


# ---- damage


def refused(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        load(path)
    assert caught.value.exit_code == 5
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99, 0.999])
def test_truncated_file_is_refused(tmp_path, saved_bytes, kept):
    message = refused(tmp_path / "model.save", saved_bytes[: int(len(saved_bytes) * kept)])
    assert "is damaged or cut short" in message
    assert "Copy it again from where it came from" in message


def test_empty_and_missing_files_are_refused(tmp_path):
    assert "it is empty (0 bytes)" in refused(tmp_path / "model.save", b"")
    with pytest.raises(ModelError, match=r"none\.save: cannot be read \(No such file or directory\)"):
        load(tmp_path / "none.save")
    with pytest.raises(ModelError, match=r"cannot be read \(Is a directory\)"):
        load(tmp_path)


def test_each_of_100_flips_in_weights_is_refused(tmp_path, saved_bytes):
    weight = a_model()["parameters"]["normal/1/weight"].numpy().tobytes()
    start = saved_bytes.index(weight)
    generator = np.random.default_rng(0)
    for position in generator.choice(len(weight) * 8, 100, replace=False):
        flipped = bytearray(saved_bytes)
        flipped[start + position // 8] ^= 1 << (position % 8)
        assert "the checksum of its part archive/data/0 is wrong" in refused(tmp_path / "model.save", bytes(flipped))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_each_flip_anywhere_is_refused(tmp_path_factory, saved_bytes, data):
    position = data.draw(st.integers(0, len(saved_bytes) * 8 - 1))
    flipped = bytearray(saved_bytes)
    flipped[position // 8] ^= 1 << (position % 8)
    refused(tmp_path_factory.getbasetemp() / "flipped.save", bytes(flipped))


@settings(max_examples=50, deadline=None)
@given(cut=st.integers(0, 4000), length=st.integers(1, 50), replacement=st.binary(max_size=50))
def test_replaced_stretches_are_refused(tmp_path_factory, saved_bytes, cut, length, replacement):
    changed = saved_bytes[:cut] + replacement + saved_bytes[cut + length :]
    if changed != saved_bytes:
        refused(tmp_path_factory.getbasetemp() / "changed.save", changed)


def test_bytes_after_the_end_are_refused(tmp_path, saved_bytes):
    refused(tmp_path / "model.save", saved_bytes + b"\0")
    refused(tmp_path / "model.save", b"\0" + saved_bytes)


# ---- foreign files


def test_foreign_files_are_refused_with_the_way_to_use_them(tmp_path):
    path = tmp_path / "model.save"
    message = refused(path, gzip.compress(pickle.dumps({"a": 1}, protocol=2)))
    assert "Theano version of DeepMedic" in message
    assert "-newModel MODEL.cfg -pretrained PARAMETERS.npz" in message
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, buffer)
    assert "is a PyTorch file, but not a model that this program saved" in refused(path, buffer.getvalue())
    np.savez(buffer := io.BytesIO(), a=np.zeros(2))
    assert "holds arrays, not a saved model" in refused(path, buffer.getvalue())
    assert "is a text file with settings" in refused(path, b"modelName = 'm'\n")
    assert "is not a saved model" in refused(tmp_path / "scan.nii.gz", gzip.compress(bytes(400)))


def test_tensorflow_checkpoint_is_refused_with_the_way_to_use_it(tmp_path):
    for ending in (".index", ".data-00000-of-00001"):
        (tmp_path / f"m.model.ckpt{ending}").touch()
    with pytest.raises(ModelError, match=r"is a TensorFlow checkpoint.*-load X\.model\.ckpt together with -model"):
        load(tmp_path / "m.model.ckpt")


# ---- full disks


def test_full_disk_keeps_the_older_file_and_names_need_and_free_bytes(tmp_path, monkeypatch):
    path = tmp_path / "model.save"
    save(path, a_model())
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match=rf"{len(before)} bytes are needed and \d+ bytes are free") as caught:
        save(path, a_model())
    assert caught.value.exit_code == 6
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_file_that_reads_back_differently_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "sha256_of", lambda path: "0" * 64)
    with pytest.raises(ResourceError, match=r"model\.save: what was read back differs from what was written"):
        save(tmp_path / "model.save", a_model())
    assert list(tmp_path.iterdir()) == []
