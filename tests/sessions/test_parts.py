"""Sessions in parts, for array jobs."""

from __future__ import annotations

import json

import pytest

from deepmedic.inference.parts import Part
from deepmedic.locks import session_lock


def contents(folder) -> dict[str, bytes]:
    """All results but those of the parts themselves."""
    files = (path for path in folder.rglob("*") if path.is_file() and "part" not in path.name)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def listed(study):
    study.list_cases("val", [0, 1, 2])
    return study.out / "predictions" / "segment"


@pytest.fixture
def whole(study, run, source, listed):
    """What an undivided session writes."""
    config = study.test("whole", folderForOutput="whole", saveProbMapsForEachClass=[False, True, False])
    assert run("-test", config, "-model", source).code == 0
    return contents(study.folder / "whole" / "predictions" / "segment")


@pytest.fixture
def command(study, source):
    return ["-test", study.test(saveProbMapsForEachClass=[False, True, False]), "-model", source]


def test_cases_are_divided_without_gaps_or_overlaps() -> None:
    for cases in range(8):
        for of in range(1, 10):
            parts = [Part(number, of).indices(cases) for number in range(1, of + 1)]
            assert sorted(index for part in parts for index in part) == list(range(cases))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("order", [(1, 2), (2, 1)], ids=["in order", "the last first"])
def test_parts_together_write_what_the_whole_session_writes(run, listed, whole, command, order):
    first, second = (f"{number}/2" for number in order)
    outcome = run(*command, "-part", first)
    assert outcome.code == 0
    assert f"Part {first[0]} of 2: {3 - order[0]} of 3 cases." in outcome.out
    assert f"Parts that are not finished yet: {second[0]} of 2." in outcome.out
    assert not (listed / "metrics.csv").exists()
    assert (listed / f"metrics.part{first[0]}of2.csv").exists()
    outcome = run(*command, "-part", second)
    assert outcome.code == 0
    assert "All 2 parts are finished: the tables of metrics cover all cases." in outcome.out
    assert f"Metrics: {listed / 'metrics.csv'}" in outcome.out
    assert contents(listed) == whole


def test_a_repeated_part_keeps_its_results_and_the_tables(study, run, listed, whole, command):
    for part in ("1/2", "2/2"):
        assert run(*command, "-part", part).code == 0
    outcome = run(*command, "-part", "1/2")
    assert (outcome.code, "0 cases segmented, 2 kept from before" in outcome.out) == (0, True)
    assert contents(listed) == whole
    outcome = run(*command)
    assert (outcome.code, "0 cases segmented, 3 kept from before" in outcome.out) == (0, True)
    assert contents(listed) == whole
    logs = {path.name for path in (study.out / "logs").glob("*.txt")}
    assert logs == {"segment.txt", "segment.part1of2.txt", "segment.part2of2.txt"}


def test_more_parts_than_cases(run, listed, whole, command):
    for number in (4, 1, 3, 2):
        outcome = run(*command, "-part", f"{number}/4")
        assert outcome.code == 0
    assert "All 4 parts are finished" in outcome.out
    assert contents(listed) == whole


def test_scores_of_another_run_are_not_merged(study, run, source, listed, command):
    assert run(*command, "-part", "1/2").code == 0
    other = study.test(saveProbMapsForEachClass=[False, True, False], keepLargestComponent=[True, False, False])
    outcome = run("-test", other, "-model", source, "-part", "2/2")
    assert outcome.code == 0
    assert "Parts that are not finished yet: 1 of 2." in outcome.out
    assert not (listed / "metrics.csv").exists()


def test_tables_go_when_results_are_replaced(study, run, listed, whole, command):
    for part in ("1/2", "2/2"):
        assert run(*command, "-part", part).code == 0
    assert (listed / "metrics.csv").exists()
    outcome = run(*command, "-part", "2/2")
    assert (outcome.code, (listed / "metrics.csv").exists()) == (0, True)
    intact = study.image(2, "t1").read_bytes()
    study.image(2, "t1").write_bytes(intact[:-30])

    assert run(*command, "-part", "1/2", "-overwrite").code == 4

    left = {path.name for path in listed.iterdir() if path.is_file()}
    assert not any(name.startswith(("metrics.csv", "metrics.json", "metrics.md", "metrics_summary")) for name in left)
    assert not any("part1of2" in name for name in left)
    assert {"scores.part2of2.json", "metrics.part2of2.csv"} <= left
    study.image(2, "t1").write_bytes(intact)
    outcome = run(*command, "-part", "1/2")
    assert (outcome.code, "All 2 parts are finished" in outcome.out) == (0, True)
    assert contents(listed) == whole


def test_a_part_with_a_skipped_case_counts_as_finished(study, run, source, listed):
    study.image(1, "t1").write_bytes(study.image(1, "t1").read_bytes()[:-30])
    config = study.test(allowSkippedCases=True)
    assert run("-test", config, "-model", source, "-part", "2/2").code == 9
    outcome = run("-test", config, "-model", source, "-part", "1/2")
    assert (outcome.code, "All 2 parts are finished" in outcome.out) == (0, True)
    skipped = json.loads((listed / "scores.part2of2.json").read_text())["skipped"]
    assert list(skipped) == ["case1"]


@pytest.mark.parametrize(
    ("held", "part", "refused"),
    [
        ("segment", "1/2", True),
        ("segment.part2of2", "1/2", False),
        ("segment.part1of2", "1/2", True),
        ("segment.part2of3", "1/2", True),
        ("segment.part1of2", None, True),
        ("segment.other", None, False),
        ("another.part1of2", None, False),
    ],
)
def test_who_stands_in_whose_way(study, run, listed, command, held, part, refused):
    words = [*command, *(["-part", part] if part else [])]
    with session_lock(study.out, held):
        outcomes = [run(*words, "-check"), run(*words)]
    assert [outcome.code for outcome in outcomes] == [8 if refused else 0] * 2
    assert all((f'Session "{held}"' in outcome.err) == refused for outcome in outcomes)


def test_check_tells_how_many_cases_a_part_has(run, listed, command):
    outcome = run(*command, "-part", "2/2", "-check")
    assert (outcome.code, "in part2of2: 1" in outcome.out) == (0, True)


@pytest.mark.parametrize("value", ["3/2", "0/2", "1", "1/0", "a/b", "-1/2", "1/2/3"])
def test_parts_that_do_not_exist(run, command, value):
    outcome = run(*command, "-part", value)
    assert outcome.code == 2
    assert "-part" in outcome.err


def test_only_an_inference_has_parts(study, run):
    outcome = run("-train", study.folder / "train.cfg", "-newModel", study.folder / "model.cfg", "-part", "1/2")
    assert (outcome.code, "-part only has a meaning with -test" in outcome.err) == (2, True)
