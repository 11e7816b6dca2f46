"""Names of results stay inside the output folder and never collide."""

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmedic.data.listing import Column, Entry
from deepmedic.data.output_names import output_names
from deepmedic.errors import ProblemList


def check(*texts: str) -> tuple[list[str], list[str]]:
    problems = ProblemList()
    column = Column("names", Path("names.cfg"), tuple(Entry(text, line) for line, text in enumerate(texts, 1)))
    names = output_names(column, problems)
    return names, [str(problem) for problem in problems.problems]


def test_extensions_are_left_out_and_folders_kept() -> None:
    texts = ("a.nii.gz", "b.nii", "c", "site/d.nii.gz", "./e.NII.GZ", "f.v2.nii", "-g")
    assert check(*texts) == (["a", "b", "c", "site/d", "e", "f.v2", "-g"], [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("../../../outside/x", "leads out of its folder with '..'"),
        ("a/../../b", "leads out of its folder with '..'"),
        ("a/../b", "leads out of its folder with '..'"),
        ("..", "leads out of its folder with '..'"),
        ("/tmp/x.nii.gz", "is an absolute path"),
        ("~/x", "is an absolute path"),
        ("C:\\x", "is an absolute path"),
        ("C:x", "is an absolute path"),
        ("a\\..\\b", "has a backslash"),
        ("a\tb", "cannot be printed"),
        ("a\0b", "cannot be printed"),
        (".nii.gz", "is empty but for its extension"),
        ("a/.nii.gz", "is empty but for its extension"),
        ("a/", "is empty but for its extension"),
        (".hidden", "begins with a dot"),
        ("-", "is missing"),
        ("x" * 200, "more than 180 bytes"),
    ],
)
def test_a_name_that_leads_elsewhere_is_refused_with_its_line(text: str, message: str) -> None:
    _, problems = check("fine", text)
    assert len(problems) == 1
    assert problems[0].startswith("names.cfg:2: the name ")
    assert message in problems[0]


def test_equal_names_are_refused_with_both_lines_also_when_equal_but_for_the_extension() -> None:
    _, problems = check("a", "b", "a.nii.gz", "./b.nii")
    assert len(problems) == 2
    assert problems[0].startswith("names.cfg:1 and names.cfg:3: 'a' and 'a.nii.gz' name the same result files")
    assert problems[1].startswith("names.cfg:2 and names.cfg:4: 'b' and './b.nii'")


@settings(max_examples=300, deadline=None)
@given(text=st.text("./\\~a-: \0\n", min_size=1, max_size=12))
def test_what_is_accepted_stays_below_the_folder(text: str) -> None:
    names, problems = check(text)
    if not problems:
        name = PurePosixPath(names[0])
        assert not name.is_absolute()
        assert name.parts
        assert not any(part.startswith(".") for part in name.parts)
