"""The original's Python dialect: read from the syntax tree, never executed."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmedic.config.legacy_dialect import parse_legacy
from deepmedic.errors import DeepMedicError

PATH = Path("old.cfg")


def refused(text: str) -> str:
    with pytest.raises(DeepMedicError) as caught:
        parse_legacy(PATH, text)
    return str(caught.value)


def test_literals_of_every_kind_are_read():
    text = """\
# -*- coding: utf-8 -*-
'''A bare string
is a comment.'''
name = "tiny"  # a comment
flags = [True, False, None]
rate = 1e-3
shape = (3, -3, +3)
prms = {'shift': {'mu': 0., 'std': .05},
        'reflect': (0.5, 0., 0.)}
"another comment"
first = second = 2
joined = "a" "b"
"""
    file = parse_legacy(PATH, text)
    assert file.values == {
        "name": "tiny",
        "flags": [True, False, None],
        "rate": 0.001,
        "shape": [3, -3, 3],
        "prms": {"shift": {"mu": 0.0, "std": 0.05}, "reflect": [0.5, 0.0, 0.0]},
        "first": 2,
        "second": 2,
        "joined": "ab",
    }
    assert file.lines["name"] == 4
    assert file.lines["prms"] == 8
    assert file.lines["prms.shift.std"] == 8
    assert file.lines["prms.reflect"] == 9
    assert file.dialect == "python"
    assert file.notes == []


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("10 ** (-4)", 1e-4),
        ("10**(-4)", 1e-4),
        ("1.0/2**8", 0.00390625),
        ("7 // 2 + 7 % 2 - -1", 5),
        ("2 * 3.5", 7.0),
        ("[True]*3", [True, True, True]),
        ("2 * [[1, 2]]", [[1, 2], [1, 2]]),
        ("[0.5] * 0", []),
        ("[1.0/(2**(7)), 0.9]", [0.0078125, 0.9]),
    ],
)
def test_arithmetic_and_repetition_are_computed(expression, value):
    assert parse_legacy(PATH, f"x = {expression}").values == {"x": value}


def test_a_computed_value_is_told_with_its_line():
    file = parse_legacy(PATH, "a = 1\nepsilonRms = 10 ** (-4)\nb = [12, 1.0/2**7, 0.9]\n")
    assert file.notes == [
        "old.cfg:2: epsilonRms: 10 ** (-4) was read as 0.0001",
        "old.cfg:3: b: 1.0/2**7 was read as 0.0078125",
    ]


CODE = [
    ('__import__("os").system("touch pwned")', "a call"),
    ('open("pwned", "w")', "a call"),
    ("os.path", "an attribute access"),
    ("(1).real", "an attribute access"),
    ("[n for n in (1, 2)]", "a comprehension"),
    ("{n: n for n in (1, 2)}", "a comprehension"),
    ("(n for n in (1, 2))", "a comprehension"),
    ('f"{1 + 1}"', "an f-string"),
    ("lambda: 1", "a function"),
    ("[1, 2][0]", "an index"),
    ("other", "the name of another value"),
    ("1 if True else 2", "a condition"),
    ("1 < 2", "a comparison"),
    ("not True", "code"),
    ("~1", "code"),
    ("True and False", "a logical operation"),
    ("1 << 3", "an operation other than + - * / // % **"),
    ("{1, 2}", "a set"),
    ("[*[1]]", "an unpacking"),
    ("{**{}}", "an unpacking"),
    ("(y := 1)", "an assignment inside a value"),
    ("b'bytes'", "a value of type bytes"),
    ("1j", "a value of type complex"),
    ("...", "a value of type ellipsis"),
]


@pytest.mark.parametrize(("expression", "what"), CODE)
def test_code_is_refused_with_its_line_and_not_executed(expression, what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refused(f"a = 1\nx = {expression}\n")
    assert message.startswith(f"old.cfg:2: x: {what} (")
    assert "nothing in the file was executed" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("import os", "an import (import os)"),
        ("from os import path", "an import (from os import path)"),
        ("if True:\n    x = 1", "a condition"),
        ("for n in []:\n    x = n", "a loop"),
        ("def f():\n    pass", "a function"),
        ("class C:\n    pass", "a class"),
        ("x += 1", "a combined assignment (x += 1)"),
        ("x: int = 1", "an annotation (x: int = 1)"),
        ("a, b = 1, 2", "an assignment to several names (a, b)"),
        ("a.b = 1", "an attribute access (a.b)"),
        ("a[0] = 1", "an index (a[0])"),
        ('print("x")', 'a call (print("x"))'),
        ("5", "a value without a key (5)"),
        ("del x", "a deletion (del x)"),
        ("pass", "code (pass)"),
    ],
)
def test_statements_other_than_assignments_are_refused(statement, what):
    message = refused(f"\n{statement}\n")
    assert message.startswith("old.cfg:2: ")
    assert what in message
    assert "is not read; allowed: name = value" in message


def test_all_refused_lines_are_reported_together():
    message = refused("import os\nx = open('a')\ny = 1\ny = 2\n")
    assert message.startswith("3 problems were found")
    assert "old.cfg:1: an import" in message
    assert "old.cfg:2: x: a call" in message
    assert "old.cfg:4: a key may stand only once: y stands on lines 3 and 4; keep one of them" in message


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("10 ** 100000000", "found the exponent 100000000; allowed: at most 1024"),
        ("2 ** 300", "the result is larger than 2**256"),
        ("9 ** 9 ** 9", "found the exponent 387420489; allowed: at most 1024"),
        ("[0] * 1000000000", "the repeated list is too long; allowed: at most 10000 values"),
        ("[[0] * 5000] * 5000", "the repeated list is too long"),
        ("1 / 0", "cannot be computed: division by zero"),
        ("1e300 * 1e300", "the result is not a finite real number"),
        ("(-8) ** 0.5", "the result is not a finite real number"),
        ("10.0 ** 400", "cannot be computed"),
        ("'a' * 5", "arithmetic of text is not read"),
        ("True + 1", "arithmetic of truth values is not read"),
        ("-None", "arithmetic of None is not read"),
        ("[1] + [2]", "arithmetic of lists is not read"),
        ("[1] * 2.0", "a list is repeated by a whole number"),
        ("{'a': 1, 'a': 2}", "the key 'a' stands twice in this dict; keep one of them"),
        ("{90: 0.1}", "found the key 90; keys of a dict are text: write '90'"),
        (r"'\ud800'", "text with half a character"),
    ],
)
def test_values_out_of_bounds_are_refused(expression, why):
    message = refused(f"x = {expression}")
    assert message.startswith("old.cfg:1: x: ")
    assert why in message


def test_a_syntax_error_shows_its_place_and_line():
    message = refused("a = True\nb = [1, 2\nc = 3 +\n")
    assert message.startswith("old.cfg:2:5: not valid in the Python dialect of the original: '[' was never closed")
    assert message.endswith("    b = [1, 2\n        ^")


@pytest.mark.parametrize(
    "text", ["x = " + "-" * 100000 + "1", "x = " + "1+" * 20000 + "1", "x = " + "(" * 300 + ")" * 300, "x = 1\0"]
)
def test_hostile_nesting_is_refused(text):
    assert refused(text).startswith("old.cfg")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(VALUES)
def test_every_literal_is_read_as_python_reads_it(value):
    assert parse_legacy(PATH, f"x = {value!r}").values == {"x": value}


NUMBERS = st.integers(-50, 50).map(str) | st.floats(0.001, 5).map(repr)


@settings(max_examples=100, deadline=None)
@given(NUMBERS, st.sampled_from(["+", "-", "*", "/", "//", "%"]), NUMBERS)
def test_arithmetic_agrees_with_python(left, operation, right):
    text = f"{left} {operation} {right}"
    compute = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "/": lambda a, b: a / b}
    compute |= {"//": lambda a, b: a // b, "%": lambda a, b: a % b}
    try:
        expected = compute[operation](float(left), float(right))
    except ZeroDivisionError:
        assert "cannot be computed" in refused(f"x = {text}")
        return
    assert parse_legacy(PATH, f"x = {text}").values["x"] == pytest.approx(expected)
