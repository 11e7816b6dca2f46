"""Values of files to typed dataclasses: types, ranges, choices, unknown keys, places."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from deepmedic.config.binding import bind
from deepmedic.config.options import option, section
from deepmedic.config.source import ConfigFile
from deepmedic.errors import DeepMedicError


@dataclass(frozen=True, kw_only=True)
class Inner:
    low: float = option("low", 0.5, minimum=0, maximum=1)
    names: tuple[str, ...] = option("names", ())


@dataclass(frozen=True, kw_only=True)
class Part:
    count: int = option("count", 1, minimum=1)
    hidden: int = option("hidden", 1)


@dataclass(frozen=True, kw_only=True)
class Example:
    rate: float = option("learningRate", 0.001, above=0)
    epochs: int = option("numberOfEpochs", 35, minimum=1, maximum=100)
    on: bool = option("switch", False)
    kind: Literal["poly", "expon"] = option("schedule", "poly")
    number: int = option("sgd0orAdam1", 0, choices=(0, 1))
    size: tuple[int, int, int] = option("size", (3, 3, 3), minimum=1)
    sizes: tuple[tuple[int, int, int], ...] | None = option("sizes", None, minimum=1, nonempty=True)
    layers: tuple[int, ...] | tuple[tuple[int, ...], ...] | None = option("layers", None)
    init: tuple[str, float] = option("init", ("fanIn", 2.0))
    padding: tuple[str | None, ...] = option("padding", ())
    path: Path | None = option("path", None)
    inner: Inner = option("inner", Inner())
    text: str = option("text", "x", nonempty=True)
    decay: float = option("decay", 0.9, minimum=0, below=1)
    training: Part = section(Part, {"count": "countTraining", "hidden": None})
    validation: Part = section(lambda: Part(count=7), {"count": "countVal", "hidden": None})
    needed: int | None = option("needed", None)


def file_of(values, dialect="toml", folder="/data/configs") -> ConfigFile:
    return ConfigFile(Path(folder) / "x.cfg", dialect, values, {key: line for line, key in enumerate(values, 3)})


def refused(values, dialect="toml") -> str:
    with pytest.raises(DeepMedicError) as caught:
        bind(file_of(values, dialect), Example)
    assert caught.value.exit_code == 3
    return str(caught.value).replace("/data/configs/", "")


def test_missing_keys_have_their_defaults():
    assert bind(file_of({}), Example) == Example()
    assert bind(file_of({}), Example).validation.count == 7


def test_values_get_the_declared_types():
    values = {
        "learningRate": 1,
        "numberOfEpochs": 100,
        "switch": True,
        "schedule": "expon",
        "size": [1, 2, 3],
        "sizes": [[1, 1, 1], [2, 2, 2]],
        "init": ["normal", 1],
        "padding": ["mirror", "none", None],
        "path": "../images/list.cfg",
        "inner": {"low": 1, "names": ["a"]},
        "countTraining": 2,
    }
    config = bind(file_of(values), Example)
    assert config.rate == 1.0
    assert isinstance(config.rate, float)
    assert config.size == (1, 2, 3)
    assert config.sizes == ((1, 1, 1), (2, 2, 2))
    assert config.init == ("normal", 1.0)
    assert config.padding == ("mirror", None, None)
    assert config.path == Path("/data/images/list.cfg")
    assert config.inner == Inner(low=1.0, names=("a",))
    assert config.training.count == 2
    assert config.validation.count == 7


@pytest.mark.parametrize(
    ("value", "expected"), [([1, 2], (1, 2)), ([[1], [2, 3]], ((1,), (2, 3))), ([], ()), ([[]], ((),))]
)
def test_a_list_or_a_list_of_lists(value, expected):
    assert bind(file_of({"layers": value}), Example).layers == expected


def test_an_absolute_path_stays_and_a_relative_config_path_is_made_absolute():
    assert bind(file_of({"path": "/a/../b"}), Example).path == Path("/b")
    relative = ConfigFile(Path("sub/x.cfg"), "toml", {"path": "y"}, {})
    assert bind(relative, Example).path == Path.cwd() / "sub" / "y"


def test_python_none_and_the_word_none_are_the_default():
    values = {"learningRate": None, "sizes": None, "path": "none", "layers": "none"}
    assert bind(file_of(values, "python"), Example) == Example()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"numberOfEpochs": "10"}, 'found "10" (text); allowed: a whole number from 1 to 100'),
        ({"numberOfEpochs": True}, "found true (a truth value); allowed: a whole number from 1 to 100"),
        ({"numberOfEpochs": 3.0}, "found 3.0 (a number with decimals); allowed: a whole number from 1 to 100"),
        ({"numberOfEpochs": 0}, "found 0; allowed: a whole number from 1 to 100"),
        ({"numberOfEpochs": 101}, "found 101; allowed: a whole number from 1 to 100"),
        ({"numberOfEpochs": [3]}, "found [3] (a list of 1); allowed: a whole number from 1 to 100"),
        ({"learningRate": -0.1}, "found -0.1; allowed: a number greater than 0"),
        ({"learningRate": 0}, "found 0; allowed: a number greater than 0"),
        ({"learningRate": float("nan")}, "found NaN (not a finite number); allowed: a number greater than 0"),
        ({"learningRate": float("inf")}, "found Infinity (not a finite number); allowed: a number greater than 0"),
        ({"learningRate": False}, "found false (a truth value); allowed: a number greater than 0"),
        ({"learningRate": 2**60}, "found 1152921504606846976 (a whole number); allowed: whole numbers up to 2^53"),
        ({"decay": 1.0}, "found 1.0; allowed: a number at least 0 and less than 1"),
        ({"switch": 1}, "found 1 (a whole number); allowed: true or false"),
        ({"switch": "True"}, 'found "True" (text); allowed: true or false'),
        ({"schedule": "poli"}, 'found "poli"; allowed: "poly", "expon"; did you mean "poly"?'),
        ({"schedule": 3}, 'found 3 (a whole number); allowed: a name in quotes ("poly", "expon")'),
        ({"sgd0orAdam1": 2}, "found 2; allowed: 0, 1"),
        ({"size": [1, 2]}, "found [1, 2] (a list of 2); allowed: a list of 3 whole numbers at least 1"),
        ({"size": 3}, "found 3 (a whole number); allowed: a list of 3 whole numbers at least 1"),
        ({"sizes": []}, "found an empty list; allowed: at least one entry (a list of lists of 3 whole numbers)"),
        ({"init": ["fanIn"]}, 'found ["fanIn"] (a list of 1); allowed: a list of text in quotes and a number'),
        ({"path": 3}, "found 3 (a whole number); allowed: a path in quotes"),
        ({"path": "  "}, 'found "  " (text); allowed: a path in quotes'),
        ({"path": "a\0b"}, "found text with a null character; leave it out"),
        ({"text": ""}, "found an empty text; allowed: a text of at least one character"),
        ({"inner": 3}, "found 3 (a whole number); allowed: a table of low, names"),
    ],
)  # fmt: skip
def test_a_wrong_value_names_what_was_found_and_what_is_allowed(values, message):
    key = next(iter(values))
    assert refused(values) == f"x.cfg:3: {key}: {message}"


@pytest.mark.parametrize(
    ("values", "place", "message"),
    [
        ({"size": [1, 0, 3]}, "size, entry 2", "found 0; allowed: a whole number at least 1"),
        ({"sizes": [[1, 1, 1], [1, 1]]}, "sizes, entry 2", "found [1, 1] (a list of 2); allowed: a list of 3 whole"),
        ({"sizes": [[1, 1, 1], [1, 1, 1.5]]}, "sizes, entry 2, entry 3", "found 1.5 (a number with decimals)"),
        ({"inner": {"low": 1.5}}, "inner.low", "found 1.5; allowed: a number from 0 to 1"),
        ({"inner": {"names": [1]}}, "inner.names, entry 1", "found 1 (a whole number); allowed: text in quotes"),
        ({"inner": {"lo": 1.0}}, "inner.lo", "is not a key of this table; did you mean low? (allowed: low, names)"),
        ({"inner": {"zzz": 1.0}}, "inner.zzz", "is not a key of this table (allowed: low, names)"),
        (
            {"inner": {"learningRate": 1.0}},
            "inner.learningRate",
            "is a key of the file, not of the table inner that begins on",
        ),
    ],
)
def test_the_place_inside_a_list_or_table_is_named(values, place, message):
    assert refused(values).startswith(f"x.cfg:3: {place}: {message}")


def test_values_are_shown_in_the_spelling_of_the_file():
    assert "found True (a truth value); allowed: a whole number" in refused({"numberOfEpochs": True}, "python")
    assert refused({"switch": "x"}, "python").endswith("found 'x' (text); allowed: True or False")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"numberOfEpochz": 3}, "is not a key of the config; did you mean numberOfEpochs?"),
        ({"NUMBEROFEPOCHS": 3}, "is not a key of the config; did you mean numberOfEpochs?"),
        ({"zzzzz": 3}, "is not a key of the config; `-explain WORD` finds keys by a word of their meaning"),
        ({"hidden": 3}, "is not a key of the config; `-explain WORD` finds keys by a word of their meaning"),
        ({"optimiser": {"learningRate": 1}}, "is not a table of the config; learningRate (line 3) is a key"),
    ],
)
def test_an_unknown_key_names_the_nearest_one(values, message):
    key = next(iter(values))
    assert refused(values).startswith(f"x.cfg:3: {key}: {message}")


def test_all_problems_are_listed_together_each_with_its_line():
    message = refused({"numberOfEpochz": 3, "learningRate": -1, "switch": 3, "size": [1, 2, 3], "inner": {"low": 2}})
    assert message.splitlines() == [
        "4 problems were found; nothing was started:",
        "  1. x.cfg:3: numberOfEpochz: is not a key of the config; did you mean numberOfEpochs?",
        "  2. x.cfg:4: learningRate: found -1; allowed: a number greater than 0",
        "  3. x.cfg:5: switch: found 3 (a whole number); allowed: true or false",
        "  4. x.cfg:7: inner.low: found 2; allowed: a number from 0 to 1",
    ]


def test_a_missing_required_key_is_refused_without_a_line():
    @dataclass(frozen=True, kw_only=True)
    class Needy:
        folder: Path = option("folderForOutput")
        count: int = option("count")

    with pytest.raises(DeepMedicError) as caught:
        bind(file_of({"count": 0.5}), Needy)
    assert "x.cfg: folderForOutput: is missing; it has no default and must be given" in str(caught.value)
    assert "x.cfg:3: count: found 0.5 (a number with decimals); allowed: a whole number" in str(caught.value)


def test_a_long_value_is_shortened():
    message = refused({"numberOfEpochs": list(range(1000))})
    assert "..." in message
    assert len(message) < 200
