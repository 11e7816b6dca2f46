"""Listing files and CSV tables as text, no image involved."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepmedic.data.listing import Column, read_listing, read_table
from deepmedic.errors import DataError


def listing(tmp_path: Path, content: bytes | str) -> Path:
    path = tmp_path / "list.cfg"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_blank_lines_and_comments_are_left_out_and_lines_are_counted_from_one(tmp_path: Path) -> None:
    column = read_listing(listing(tmp_path, "# first\n\n  a b.nii.gz \n\t# indented\n-\nc#1.nii\n"), "channel 1")
    assert [(entry.text, entry.line) for entry in column.entries] == [("a b.nii.gz", 3), ("-", 5), ("c#1.nii", 6)]
    assert column.place(2) == f"{tmp_path / 'list.cfg'}:6"


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_byte_order_mark_and_line_ends_of_other_systems_are_understood(tmp_path: Path, mark: bytes, end: bytes) -> None:
    content = mark + end.join([b"a.nii", "bé.nii".encode(), b"# no", b"c.nii"])
    column = read_listing(listing(tmp_path, content), "labels")
    assert [(entry.text, entry.line) for entry in column.entries] == [("a.nii", 1), ("bé.nii", 2), ("c.nii", 4)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the listing of labels is empty"),
        ("# only\n\n", "the listing of labels is empty"),
        (b"a.nii\nb\xe9.nii\n", "list.cfg:2: byte 0xe9 is not UTF-8 text"),
        (b"\x1f\x8b\x08\x00rest", "this is a gzip file, not a listing"),
        (b"\x5c\x01\x00\x00" + bytes(400), "this is an uncompressed NIfTI file, not a listing"),
    ],
)
def test_what_is_no_listing_is_refused(tmp_path: Path, content: bytes | str, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        read_listing(listing(tmp_path, content), "labels")


def test_a_listing_that_is_missing_or_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file; correct the path"):
        read_listing(tmp_path / "none.cfg", "labels")
    with pytest.raises(DataError, match="a folder, not a file"):
        read_listing(tmp_path, "labels")


def test_a_listing_far_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepmedic.data.listing._LARGEST_BYTES", 10)
    with pytest.raises(DataError, match=r"too large for a listing file \(10 bytes are allowed\)"):
        read_listing(listing(tmp_path, "a" * 11), "labels")


def table(tmp_path: Path, content: str) -> Path:
    path = tmp_path / "cases.csv"
    path.write_text(content, encoding="utf-8")
    return path


def test_a_table_gives_channels_in_alphabetical_order_and_empty_cells_as_missing(tmp_path: Path) -> None:
    columns = read_table(
        table(
            tmp_path,
            "prediction_filename, channel_t1c ,channel_flair,roi_mask,ground_truth\n"
            'one.nii.gz, "a, b.nii", f1.nii, r1.nii, g1.nii\n\n# a comment\n'
            "two.nii.gz,,f2.nii,r2.nii,g2.nii\n",
        )
    )
    assert [column.title for column in columns.channels] == ["channel 1 (channel_flair)", "channel 2 (channel_t1c)"]
    assert [[entry.text for entry in column.entries] for column in columns.channels] == [
        ["f1.nii", "f2.nii"],
        ["a, b.nii", "-"],
    ]
    assert columns.labels is not None
    assert columns.labels.place(1) == f"{tmp_path / 'cases.csv'}:5"
    assert columns.names is not None
    assert [entry.text for entry in columns.names.entries] == ["one.nii.gz", "two.nii.gz"]


def test_weight_maps_follow_the_order_in_which_sampling_counts_categories(tmp_path: Path) -> None:
    header = "weight_map_background,weight_map_foreground,channel_a\n"
    columns = read_table(table(tmp_path, header + "b.nii,f.nii,a.nii\n"))
    assert [column.entries[0].text for column in columns.weight_maps] == ["f.nii", "b.nii"]
    names = [f"weight_map_{number}" for number in range(11)]
    files = [f"{number}.nii" for number in range(11)]
    columns = read_table(table(tmp_path, f"channel_a,{','.join(reversed(names))}\na.nii,{','.join(reversed(files))}\n"))
    assert [column.entries[0].text for column in columns.weight_maps] == files
    with pytest.raises(DataError, match="weight map columns are named weight_map_lesion; name them weight_map_0"):
        read_table(table(tmp_path, "channel_a,weight_map_lesion\na.nii,w.nii\n"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("channel_a,groundtruth\na,b\n", "cases.csv:1: unknown column 'groundtruth'; did you mean ground_truth?"),
        ("channel_a,zzz\na,b\n", "unknown column 'zzz'; allowed are ground_truth, roi_mask, prediction_filename"),
        ("channel_a,channel_a\na,b\n", "the column channel_a stands there more than once"),
        ("ground_truth\nb\n", "no column of images; name at least one channel_<name>"),
        ("channel_a;ground_truth\na;b\n", "columns must be separated by commas"),
        ("channel_a,ground_truth\na\n", "cases.csv:2: this row has 1 cells, and there are 2 columns"),
        ("channel_a\n", "the table is empty"),
        ('channel_a\n"a\n', "not a readable CSV row"),
    ],
)
def test_an_unusable_table_is_refused(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        read_table(table(tmp_path, content))


def test_a_column_without_a_name_is_an_index_and_left_out(tmp_path: Path) -> None:
    columns = read_table(table(tmp_path, ",channel_a\n0,a.nii\n1,b.nii\n"))
    assert [entry.text for entry in columns.channels[0].entries] == ["a.nii", "b.nii"]


def columns_or_refusal(read: Callable[[], list[Column]], path: Path) -> list[Column]:
    """What was read, or nothing after a refusal that names the file."""
    refusal = ""
    try:
        return read()
    except DataError as problem:
        refusal = str(problem)
    assert str(path) in refusal
    return []


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.one_of(st.binary(max_size=80), st.text(max_size=80).map(str.encode)))
def test_any_bytes_give_entries_or_a_refusal(tmp_path: Path, content: bytes) -> None:
    path = listing(tmp_path, content)
    lines = content.count(b"\n") + content.count(b"\r") + 1
    for read in (lambda: [read_listing(path, "labels")], lambda: read_table(path).all()):
        columns = columns_or_refusal(read, path)
        assert all(entry.text and 1 <= entry.line <= lines for column in columns for entry in column.entries)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.text("channel_,gro\n\"' #;-=", max_size=60).map(lambda text: f"channel_a,{text}".encode()))
def test_any_table_gives_cells_or_a_refusal(tmp_path: Path, content: bytes) -> None:
    path = listing(tmp_path, content)
    columns = columns_or_refusal(lambda: read_table(path).all(), path)
    assert len({len(column) for column in columns}) <= 1
