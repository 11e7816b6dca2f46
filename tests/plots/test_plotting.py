from pathlib import Path

import pytest

from deepmedic.errors import CommandLineError
from deepmedic.sessions.reports import plotting


def test_without_options_an_overview_lies_where_the_original_put_it(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(output)
    assert plotting.plot([Path("first"), Path("second")]) == Path("trainingProgress.pdf")
    assert (output / "trainingProgress.pdf").read_bytes().startswith(b"%PDF")


def test_all_options_reach_the_picture(output: Path) -> None:
    plain = plotting.plot([output / "first"], output / "a.png", detailed=True)
    chosen = plotting.plot([output / "first"], output / "b.png", detailed=True, classes=[1], moving_average=2)
    assert plain.read_bytes() != chosen.read_bytes()


def test_classes_without_details_are_refused(output: Path) -> None:
    with pytest.raises(CommandLineError, match="-plotClasses 1 only has a meaning with -detailed"):
        plotting.plot([output / "first"], output / "a.png", classes=[1])
