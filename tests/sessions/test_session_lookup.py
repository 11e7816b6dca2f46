"""The session that a path points to."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepmedic.errors import CommandLineError
from deepmedic.sessions.reports.session_lookup import find_session


@pytest.fixture
def out(tmp_path: Path) -> Path:
    for name in ("logs", "cnnModels/first", "predictions/second/predictions", "reports"):
        (tmp_path / "out" / name).mkdir(parents=True)
    for name in (
        *("logs/first.jsonl", "logs/first.txt", "logs/first.metrics.csv", "logs/second.jsonl", "logs/old.txt"),
        *(
            "cnnModels/first/net.first.latest.save",
            "predictions/second/predictions/a_Segm.nii.gz",
            "reports/first.html",
        ),
    ):
        (tmp_path / "out" / name).touch()
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("named", "session"),
    [
        ("logs/first.txt", "first"),
        ("logs/first.jsonl", "first"),
        ("logs/first.metrics.csv", "first"),
        ("logs/first", "first"),
        ("cnnModels/first", "first"),
        ("cnnModels/first/net.first.latest.save", "first"),
        ("reports/first.html", "first"),
        ("first", "first"),
        ("second", "second"),
        ("predictions/second", "second"),
        ("predictions/second/predictions/a_Segm.nii.gz", "second"),
        ("logs/old.txt", "old"),
    ],
)
def test_a_session_is_found_by_all_that_belongs_to_it(out: Path, named: str, session: str) -> None:
    found = find_session(out / named)

    assert (found.folder, found.session) == (out, session)


def test_a_folder_with_several_sessions_is_refused_with_the_list(out: Path) -> None:
    with pytest.raises(CommandLineError, match=r"holds 2 sessions; name one of them:\n  .*/first\n  .*/second"):
        find_session(out)


@pytest.mark.parametrize("named", ["whole", "splits/whole", "splits/whole/folds.json", "reports/whole.html"])
def test_a_cross_validation_is_known_by_its_folds(out: Path, named: str) -> None:
    (out / "splits" / "whole").mkdir(parents=True)
    (out / "splits" / "whole" / "folds.json").touch()
    (out / "reports" / "whole.html").touch()

    found = find_session(out / named)

    assert (found.folder, found.session) == (out, "whole")
    with pytest.raises(CommandLineError, match=r"holds 3 sessions; name one of them:\n  .*\n  .*\n  .*/whole"):
        find_session(out)


def test_a_folder_with_one_session_is_that_session(out: Path) -> None:
    (out / "logs" / "second.jsonl").unlink()

    assert find_session(out).session == "first"


def test_a_wrong_name_is_refused_with_the_sessions_there_are(out: Path) -> None:
    with pytest.raises(CommandLineError, match=r"third: there is no session .* Sessions found there: first, second\."):
        find_session(out / "third")
