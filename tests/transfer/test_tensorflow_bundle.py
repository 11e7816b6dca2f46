from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmedic.errors import ModelError
from deepmedic.transfer import tensorflow_index
from deepmedic.transfer.crc32c import crc32c, masked
from deepmedic.transfer.tensorflow_bundle import digest_of, digests_of, prefix_of, read_bundle
from deepmedic.transfer.tensorflow_index import parse_index, read_index

ARRAYS = {
    "net/W": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "net/W_1": np.linspace(-1, 1, 10),
    "net/empty": np.zeros((0, 3), np.float32),
    "net/flags": np.array([True, False, True]),
    "trainer/epochs": np.int64(-(2**40)),
    "trainer/init_lr": np.float32(0.001),
    "trainer/steps": np.array([[-7, 2**31 - 1]], np.int32),
}


@pytest.fixture
def copied(tmp_path: Path, golden_prefix: Any) -> Path:
    """The prefix of a copy of the smaller golden checkpoint."""
    source = golden_prefix("tiny")
    shutil.copytree(source.parent, tmp_path / "ckpt")
    for path in (tmp_path / "ckpt").iterdir():
        path.chmod(0o644)
    return tmp_path / "ckpt" / source.name


@pytest.fixture
def small(tmp_path: Path, writer: Any) -> Path:
    return writer.write(tmp_path / "small.model.ckpt", ARRAYS)


def data_file(prefix: Path) -> Path:
    return prefix.with_name(prefix.name + ".data-00000-of-00001")


def index_file(prefix: Path) -> Path:
    return prefix.with_name(prefix.name + ".index")


def test_every_variable_of_the_originals_checkpoints(golden: str, golden_prefix: Any, golden_folder: Any) -> None:
    bundle = read_bundle(golden_prefix(golden))
    table = json.loads((golden_folder(golden) / "variables.json").read_text())
    with np.load(golden_folder(golden) / "params.npz") as network:
        expected = {row["tf_name"]: network[row["meaning"]] for row in table["network"]}
    with np.load(golden_folder(golden) / "trainer_state.npz") as trainer:
        expected |= {row["tf_name"]: trainer[row["tf_name"].replace("/", ".")] for row in table["trainer"]}
    assert bundle.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(bundle[name], array, err_msg=name, strict=True)


@pytest.mark.parametrize(
    "options",
    [{}, {"shards": 3}, {"big_endian": True}, {"alignment": 64}, {"per_block": 1}, {"shards": 2, "big_endian": True}],
    ids=str,
)
def test_every_layout_that_tensorflow_can_write(tmp_path: Path, writer: Any, options: dict[str, Any]) -> None:
    prefix = writer.write(tmp_path / "x.ckpt", ARRAYS, writer.layout(**options))
    bundle = read_bundle(prefix)
    assert bundle.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(bundle[name], np.asarray(array), err_msg=name, strict=True)
        assert bundle[name].flags.writeable
        assert bundle[name].dtype.isnative


def test_names_may_be_any_text(tmp_path: Path, writer: Any) -> None:
    arrays = {f"scope_{number}/Größe \n'{number}'": np.float32(number) for number in range(300)}
    bundle = read_bundle(writer.write(tmp_path / "x", arrays, writer.layout(per_block=50)))
    assert {name: float(value) for name, value in bundle.items()} == {name: float(v) for name, v in arrays.items()}


class TestDamage:
    def test_every_bit_of_a_small_index(self, small: Path) -> None:
        content, path = index_file(small).read_bytes(), index_file(small)
        for position in range(len(content)):
            for bit in range(8):
                altered = bytearray(content)
                altered[position] ^= 1 << bit
                with pytest.raises(ModelError, match=re.escape(str(path))):
                    parse_index(bytes(altered), path)

    def test_bytes_of_a_real_index(self, copied: Path) -> None:
        content, path = index_file(copied).read_bytes(), index_file(copied)
        positions = [*range(0, len(content), 11), *range(len(content) - 80, len(content))]
        for position in positions:
            altered = bytearray(content)
            altered[position] ^= 0x55
            with pytest.raises(ModelError, match=re.escape(str(path))):
                parse_index(bytes(altered), path)

    def test_every_byte_of_small_data(self, small: Path) -> None:
        content = data_file(small).read_bytes()
        for position in range(len(content)):
            altered = bytearray(content)
            altered[position] ^= 1 << position % 8
            data_file(small).write_bytes(altered)
            with pytest.raises(
                ModelError, match=r"data-00000-of-00001: is damaged .*checksum of the variable (net|tra)"
            ):
                read_bundle(small)

    def test_bytes_of_real_data(self, copied: Path) -> None:
        content = data_file(copied).read_bytes()
        for position in [0, 1, len(content) - 1, *range(777, len(content), 4999)]:
            altered = bytearray(content)
            altered[position] ^= 1
            data_file(copied).write_bytes(altered)
            with pytest.raises(ModelError, match="the checksum of the variable"):
                read_bundle(copied)

    @pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99, 0.999])
    def test_index_cut_short(self, copied: Path, share: float) -> None:
        content = index_file(copied).read_bytes()
        index_file(copied).write_bytes(content[: int(len(content) * share)])
        with pytest.raises(ModelError, match=r"is not, or not all of, the index .* Copy the \.index and \.data files"):
            read_bundle(copied)

    @pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99, 0.999])
    def test_data_cut_short(self, copied: Path, share: float) -> None:
        content = data_file(copied).read_bytes()
        data_file(copied).write_bytes(content[: int(len(content) * share)])
        with pytest.raises(ModelError, match=rf"it has {int(56476 * share)} bytes, its index needs 56476"):
            read_bundle(copied)

    def test_data_of_another_checkpoint(self, copied: Path, golden_prefix: Any) -> None:
        shutil.copy(data_file(golden_prefix("threepath")), data_file(copied))
        with pytest.raises(ModelError, match="the checksum of the variable net/W is wrong"):
            read_bundle(copied)

    def test_data_file_missing(self, copied: Path) -> None:
        data_file(copied).unlink()
        with pytest.raises(ModelError, match=r"data-00000-of-00001: there is no such file, but the checkpoint's index"):
            read_bundle(copied)

    def test_index_missing(self, copied: Path) -> None:
        index_file(copied).unlink()
        with pytest.raises(ModelError, match=r"index: there is no such file"):
            read_bundle(copied)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<!DOCTYPE html><html>404</html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3040\n",
        b"PK\x03\x04" + bytes(100),
    ],
)
def test_foreign_index(small: Path, content: bytes) -> None:
    index_file(small).write_bytes(content)
    with pytest.raises(ModelError, match=f"its {len(content)} bytes end with"):
        read_bundle(small)


class TestForeign:
    """Files that are whole, but that DeepMedic never writes."""

    def refusal(self, prefix: Path) -> str:
        with pytest.raises(ModelError) as caught:
            read_bundle(prefix)
        assert str(prefix.parent) in str(caught.value)
        return str(caught.value)

    def entry(self, writer: Any, **values: Any) -> bytes:
        """An entry of a float32 variable [2, 3], altered."""
        fields = {"dtype": 1, "shape": (2, 3), "shard": 0, "offset": 0, "size": 24} | values
        dimensions = [writer.bytes_field(2, writer.number_field(1, size)) for size in fields["shape"]]
        numbers = ((3, "shard"), (4, "offset"), (5, "size"))
        return (
            writer.number_field(1, fields["dtype"])
            + writer.bytes_field(2, b"".join(dimensions))
            + b"".join(writer.number_field(number, fields[name]) for number, name in numbers)
            + fields.get("more", b"")
        )

    def written(self, tmp_path: Path, writer: Any, **values: Any) -> Path:
        entries = {"net/X": self.entry(writer, **values)}
        return writer.write(tmp_path / "x.ckpt", {}, writer.layout(entries=entries))

    def test_compressed(self, tmp_path: Path, writer: Any) -> None:
        prefix = writer.write(tmp_path / "x.ckpt", ARRAYS, writer.layout(compression=1))
        assert "is compressed (Snappy), which this program does not read" in self.refusal(prefix)

    def test_text(self, tmp_path: Path, writer: Any) -> None:
        message = self.refusal(self.written(tmp_path, writer, dtype=7))
        assert "holds the variable 'net/X' of type string, which DeepMedic never writes" in message

    def test_slices(self, tmp_path: Path, writer: Any) -> None:
        message = self.refusal(self.written(tmp_path, writer, more=writer.bytes_field(7, b"")))
        assert "'net/X' stored in slices" in message

    def test_newer_format(self, tmp_path: Path, writer: Any) -> None:
        header = writer.number_field(1, 1) + writer.bytes_field(3, writer.number_field(2, 5))
        prefix = writer.write(tmp_path / "x.ckpt", ARRAYS, writer.layout(header=header))
        assert "needs a reader of version 5 of TensorFlow's checkpoint format" in self.refusal(prefix)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"size": 20}, "'net/X' has the shape [2, 3] of float32, but 20 bytes"),
            ({"shape": (2**40, 2**40), "size": 2**63 - 1}, "has the shape [1099511627776, 1099511627776]"),
            ({"shape": (-2, -3)}, "a variable has the shape [-2, -3]"),
            ({"shape": (1,) * 100}, "a variable has the shape"),
            ({"shape": (2**40,), "size": 2**42}, f"it has 0 bytes, its index needs {2**42}"),
            ({"offset": 2**62}, f"it has 0 bytes, its index needs {2**62 + 24}"),
            ({"offset": -8}, "lies in data file 0 of 1 at -8, 24 bytes"),
            ({"shard": 1}, "lies in data file 1 of 1"),
        ],
        ids=str,
    )
    def test_impossible_places(self, tmp_path: Path, writer: Any, values: dict[str, Any], message: str) -> None:
        assert message in self.refusal(self.written(tmp_path, writer, **values))

    def test_overlapping_variables(self, tmp_path: Path, writer: Any) -> None:
        """Many names for the same bytes would take far more memory than the file has."""
        entries = {f"net/X_{number}": self.entry(writer) for number in range(5)}
        prefix = writer.write(tmp_path / "x.ckpt", {"net/A": np.ones(6, np.float32)}, writer.layout(entries=entries))
        assert "its index lets variables overlap" in self.refusal(prefix)

    def test_long_names_and_many_variables(self, tmp_path: Path, writer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        assert "a name is wrong" in self.refusal(writer.write(tmp_path / "x.ckpt", {"n" * 1001: np.float32(0)}))
        monkeypatch.setattr(tensorflow_index, "_MOST_VARIABLES", 3)
        assert "it names more than 3 variables" in self.refusal(writer.write(tmp_path / "y.ckpt", ARRAYS))

    @pytest.mark.parametrize("shards", [0, 100_000, 2**64 - 1])
    def test_number_of_data_files(self, tmp_path: Path, writer: Any, shards: int) -> None:
        layout = writer.layout(header=writer.number_field(1, shards))
        assert "data files and byte order 0" in self.refusal(writer.write(tmp_path / "x.ckpt", {}, layout))

    def test_table_without_header(self, tmp_path: Path, writer: Any) -> None:
        path = tmp_path / "x.ckpt.index"
        path.write_bytes(writer.table([(b"net/W", b"")]))
        assert "it has no header" in self.refusal(tmp_path / "x.ckpt")
        path.write_bytes(writer.table([]))
        assert "it is empty" in self.refusal(tmp_path / "x.ckpt")

    def test_names_out_of_order(self, tmp_path: Path, writer: Any) -> None:
        header = writer.number_field(1, 1)
        pairs = [(b"", header), (b"b", self.entry(writer)), (b"a", self.entry(writer))]
        (tmp_path / "x.ckpt.index").write_bytes(writer.table(pairs))
        assert "its names are not in order" in self.refusal(tmp_path / "x.ckpt")


def test_any_content_behind_right_checksums(small: Path) -> None:
    """Altered bytes whose checksum was made to fit are refused, or read as what they now say, but nothing else."""
    original, path = index_file(small).read_bytes(), index_file(small)
    block = next(
        size
        for size in range(4, len(original))
        if masked(crc32c(original[:size])) == int.from_bytes(original[size : size + 4], "little")
    )

    @settings(max_examples=300, deadline=None)
    @given(changes=st.lists(st.tuples(st.integers(0, block - 2), st.integers(0, 255)), min_size=1, max_size=4))
    def check(changes: list[tuple[int, int]]) -> None:
        content = bytearray(original)
        for position, value in changes:
            content[position] = value
        content[block : block + 4] = masked(crc32c(bytes(content[:block]))).to_bytes(4, "little")
        refusal, shapes = str(path), []
        try:
            shapes = [entry.shape for entry in parse_index(bytes(content), path).entries.values()]
        except ModelError as problem:
            refusal = str(problem)
        assert str(path) in refusal
        assert all(len(shape) <= 8 and min(shape, default=0) >= 0 for shape in shapes)

    check()


class TestPrefix:
    @pytest.mark.parametrize("suffix", ["", ".index", ".data-00000-of-00001", ".meta"])
    def test_any_file_of_the_checkpoint(self, small: Path, suffix: str) -> None:
        assert prefix_of(small.with_name(small.name + suffix)) == small

    @pytest.mark.parametrize(
        "line",
        [
            'model_checkpoint_path: "b.model.ckpt"',
            'model_checkpoint_path: "{folder}/b.model.ckpt"',
            'model_checkpoint_path: "/no/such/place/any more/b.model.ckpt"',
            'model_checkpoint_path:"\\142.model\\056ckpt"',
        ],
    )
    def test_newest_of_a_folder(self, tmp_path: Path, writer: Any, line: str) -> None:
        for name in "abc":
            writer.write(tmp_path / f"{name}.model.ckpt", ARRAYS)
        lines = [line.format(folder=tmp_path), 'all_model_checkpoint_paths: "a.model.ckpt"']
        (tmp_path / "checkpoint").write_text("\n".join(lines) + "\n")
        assert prefix_of(tmp_path) == tmp_path / "b.model.ckpt"

    def test_newest_in_another_folder(self, tmp_path: Path, writer: Any) -> None:
        prefix = writer.write(tmp_path / "models" / "größe 'x'.ckpt", ARRAYS)
        octal = "".join(f"\\{byte:03o}" for byte in str(prefix).encode())
        (tmp_path / "checkpoint").write_text(f'model_checkpoint_path: "{octal}"\n')
        assert prefix_of(tmp_path) == prefix

    def test_only_one_without_note(self, small: Path) -> None:
        assert prefix_of(small.parent) == small

    def test_several_without_note(self, tmp_path: Path, writer: Any) -> None:
        for name in "ab":
            writer.write(tmp_path / f"{name}.ckpt", ARRAYS)
        with pytest.raises(ModelError) as caught:
            prefix_of(tmp_path)
        assert "has no file 'checkpoint'" in str(caught.value)
        assert f"Name one of these:\n  {tmp_path / 'a.ckpt'}\n  {tmp_path / 'b.ckpt'}" in str(caught.value)

    def test_note_of_a_missing_checkpoint(self, small: Path) -> None:
        note = small.with_name("checkpoint")
        note.write_text('model_checkpoint_path: "gone.ckpt"\n')
        with pytest.raises(
            ModelError, match=r"names gone\.ckpt as the newest checkpoint, which is not there\. Name one"
        ):
            prefix_of(small.parent)
        note.write_text("all_model_checkpoint_paths: 7\n")
        with pytest.raises(ModelError, match="names no newest checkpoint"):
            prefix_of(small.parent)

    def test_nothing_there(self, tmp_path: Path, small: Path) -> None:
        with pytest.raises(ModelError, match=r"other\.ckpt\.index: there is no such file.*\n.*small\.model\.ckpt"):
            prefix_of(tmp_path / "other.ckpt")
        with pytest.raises(ModelError, match="does not exist"):
            prefix_of(tmp_path / "no folder" / "x.ckpt")
        (tmp_path / "empty").mkdir()
        with pytest.raises(ModelError, match="holds no TensorFlow checkpoint"):
            prefix_of(tmp_path / "empty")


def test_digest_changes_with_either_file_but_not_with_names(tmp_path: Path, small: Path, writer: Any) -> None:
    same = writer.write(tmp_path / "same.ckpt", ARRAYS)
    other = writer.write(tmp_path / "other.ckpt", ARRAYS | {"net/W": ARRAYS["net/W"] + 1})
    assert digest_of(small) == digest_of(same) != digest_of(other)
    assert list(digests_of(same)) == ["same.ckpt.index", "same.ckpt.data-00000-of-00001"]
    data_file(same).write_bytes(data_file(same).read_bytes() + b"\0")
    assert digest_of(small) != digest_of(same)


def test_reading_needs_no_more_memory_than_the_variables(small: Path, golden_prefix: Any) -> None:
    sizes = [entry.size for entry in read_index(golden_prefix("threepath")).entries.values()]
    assert sum(sizes) == data_file(golden_prefix("threepath")).stat().st_size
    with open(data_file(small), "r+b") as file:  # a file with a hole, as large as a disk
        file.truncate(2**40)
    assert read_bundle(small).keys() == ARRAYS.keys()
