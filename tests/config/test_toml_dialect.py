"""TOML: line numbers, syntax errors with their place, repeated keys."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmedic.config.source import line_of
from deepmedic.config.toml_dialect import parse_toml
from deepmedic.config.toml_lines import scan_keys
from deepmedic.errors import ConfigError

PATH = Path("model.cfg")


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_toml(PATH, text)
    return str(caught.value)


def test_every_key_has_its_line():
    text = """\
# a = 1
name = "x"  # b = 2
text = \"\"\"
c = 3
\"\"\"
kernels = [
    [3, 3, 3],  # d = 4
    [1, 1, 1],
]
prms = {low = 5.0, high = {e = 'x = 6'}}
augm.reflect = [0.5, 0.0, 0.0]

[norm]
"cut off" = [1]
below = true
"""
    file = parse_toml(PATH, text)
    assert file.values["kernels"] == [[3, 3, 3], [1, 1, 1]]
    assert file.values["text"] == "c = 3\n"
    assert file.lines == {
        "name": 2,
        "text": 3,
        "kernels": 6,
        "prms": 10,
        "prms.low": 10,
        "prms.high": 10,
        "prms.high.e": 10,
        "augm": 11,
        "augm.reflect": 11,
        "norm": 13,
        "norm.cut off": 14,
        "norm.below": 15,
    }
    assert file.dialect == "toml"
    assert file.notes == []


def test_a_line_is_found_for_the_innermost_known_part_of_a_key():
    lines = {"norm": 3, "norm.cutoff": 5}
    assert line_of(("norm", "cutoff", 1), lines) == 5
    assert line_of(("norm", "other"), lines) == 3
    assert line_of(("missing",), lines) is None


def test_an_open_bracket_is_placed_where_it_stands():
    text = "".join(f"a{number} = {number}\n" for number in range(6)) + "a = [1,\nb = 2\n"
    message = refused(text)
    assert message.startswith("model.cfg:7:5: not valid TOML: this bracket is not closed (noticed on line 8, column 1)")
    assert "close it with ]\n    a = [1,\n        ^" in message


@pytest.mark.parametrize(
    ("text", "place", "line", "hint"),
    [
        ("a = [1,", "1:5", "    a = [1,\n        ^", "close it with ]"),
        ("a = 1\nb = {c = 1", "2:5", "    b = {c = 1\n        ^", "close it with }"),
        ("a = 1\nb = ?", "2:5", "    b = ?\n        ^", "values are numbers, true, false, quoted text"),
        ("a = 1\n\nb", "3:2", "    b\n     ^", "every line is key = value"),
        ('p = "C:\\data"', "1:8", '    p = "C:\\data"\n           ^', "use single quotes, or / in paths"),
        ("a = [1,\n 2 3]\nb = 1", "2:4", "     2 3]\n       ^", "a list is [a, b, c]"),
    ],
)
def test_a_syntax_error_shows_its_place_and_line(text, place, line, hint):
    message = refused(text)
    assert message.startswith(f"model.cfg:{place}: not valid TOML: ")
    assert message.endswith(line)
    assert hint in message


def test_a_very_long_line_is_cut_around_the_error():
    message = refused("a = [" + "1, " * 5000 + "?]")
    excerpt, caret = message.splitlines()[-2:]
    assert len(excerpt) < 170
    assert excerpt[caret.index("^")] == "?"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a = 1\nb = 2\na = [1,\n 2]\n", "a stands on lines 1 and 3"),
        ("a = 1\nb = 2\na = 3\nb = 1\na = 2\n", "a stands on lines 1 and 3 and 5; b stands on lines 2 and 4"),
        ("[t]\na = 1\n[t]\nb = 1", "t stands on lines 1 and 3"),
        ("t = {b = 1,\n b = 2}", "t.b stands on lines 1 and 2"),
        ('a = 1\n"a" = 2', "a stands on lines 1 and 2"),
    ],
)
def test_a_repeated_key_names_all_its_lines(text, found):
    message = refused(text)
    assert f"a key may stand only once: {found}; keep one of them" in message


def test_too_deep_nesting_and_too_long_numbers_are_refused():
    assert "nested too deeply" in refused("a = " + "[" * 900)
    assert "a number is too large to be read" in refused("a = " + "1" * 5000)


KEYS = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,8}", fullmatch=True)
SCALARS = st.sampled_from(["1", "-2.5", "true", "'it # = [x'", '"a \\" b = {"', '"""\nm = 1\n"""', "[1, # c ]\n 2]"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(KEYS, SCALARS, st.sampled_from(["", "# note = 1\n", "\n\n"])), unique_by=lambda row: row[0]))
def test_lines_agree_with_the_position_of_each_assignment(rows):
    text, expected = "", {}
    for key, value, before in rows:
        text += before
        expected[key] = text.count("\n") + 1
        text += f"{key} = {value}\n"
    assert parse_toml(PATH, text).lines == expected


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.sampled_from("ab=[]{}\"'#\n,.1 t\\"), max_size=60))
def test_the_scan_takes_any_text(text):
    scan = scan_keys(text)
    assert all(1 <= key.line <= text.count("\n") + 1 for key in scan.keys)
