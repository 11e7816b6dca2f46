"""Which dialect a file is read in, and files that are no config at all."""

import gzip
import os
import zipfile

import pytest

from deepmedic.config.reader import read_config
from deepmedic.errors import ConfigError


def message_of(path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert caught.value.exit_code == 3
    return str(caught.value).replace(f"{path.parent}{os.sep}", "")


@pytest.mark.parametrize(
    "text",
    [
        "a = True\nb = 1",
        "a = [1, False]",
        "a = None",
        "a = (1, 2)",
        "a = {'x': 1}",
        "a = {\n    'x': 1,\n    'y': (1, 2)}",
        'a = {"x": {"y": None}}',
        "a = 10 ** (-4)",
        "a = 1.0/2**8",
        "a = 3 - 1",
        "a = 7 // 2",
        "a = -(3)",
        "a = [0.5]*3",
        "a = [5., 95.]",
        "a = .5",
        '"""\na comment\n"""\na = 1',
        "'''a comment'''\na = 1",
        '"a comment"\na = 1',
        "a = 1\n  \n'a comment'",
        "a = 1; b = 2",
        "a = r'x'",
        "a = 'it\\'s'\nb = True",
        'a = "C:\\data"\nb = True',
        "a = [1,\n     2]  # comment\nb = True",
    ],
)
def test_spellings_that_only_python_has_are_read_as_python(write, text):
    assert read_config(write(text)).dialect == "python"


@pytest.mark.parametrize("text", ["a = true", "a = [1, 2,\n 3]\n[t]\nb = 'x'", "", "# nothing", "a = {x = 1}"])
def test_toml_is_read_as_toml(write, text):
    assert read_config(write(text)).dialect == "toml"


@pytest.mark.parametrize("text", ["a = yes", "a = [1,", "a", "a == 1", "a = C:/data", 'a = "x', "a = 1.2.3"])
def test_other_errors_are_reported_as_toml(write, text):
    assert "some.cfg:1:" in message_of(write(text))
    assert "not valid TOML" in message_of(write(text))


def test_a_windows_path_alone_does_not_make_a_file_python(write):
    message = message_of(write('a = "C:\\data"\nb = 1\n'))
    assert message.startswith("some.cfg:1:8: not valid TOML: unescaped")


def test_code_is_refused_by_the_python_dialect(write):
    assert message_of(write('x = open("pwned")\n')).startswith('some.cfg:1: x: a call (open("pwned")) is not read')
    assert message_of(write("\nimport os\n")).startswith("some.cfg:2: an import (import os) is not read")


@pytest.mark.parametrize(
    ("text", "python", "toml"),
    [("a = True\nb = true\n", 1, 2), ("b = [true]\n\na = True\n", 3, 1), ("a = True\n[t]\nc = 1\n", 1, 2)],
)
def test_a_mixture_of_both_spellings_names_a_line_of_each(write, text, python, toml):
    message = message_of(write(text))
    assert message.startswith(f"some.cfg:{python}: this line is spelled as in Python, but line {toml} as in TOML")


def test_a_syntax_error_in_python_says_why_the_file_is_read_as_python(write):
    message = message_of(write("a = True\nb = [1 2]\n"))
    assert message.startswith("some.cfg:2:6: not valid in the Python dialect of the original: ")
    assert message.endswith("(read in that dialect because line 1 has a spelling that TOML does not have)")


def test_a_file_in_a_declared_encoding_is_read(tmp_path):
    path = tmp_path / "old.cfg"
    path.write_bytes('# -*- coding: latin-1 -*-\nsessionName = "caf\xe9"\nb = None\n'.encode("latin-1"))
    assert read_config(path).values["sessionName"] == "café"


@pytest.mark.parametrize("content", [b"\xef\xbb\xbfa = 1\r\nb = 2\r\n", b"a = 1\rb = 2\r", b"a = 1\nb = 2"])
def test_byte_order_marks_and_all_line_ends_are_understood(tmp_path, content):
    path = tmp_path / "x.cfg"
    path.write_bytes(content)
    file = read_config(path)
    assert file.values == {"a": 1, "b": 2}
    assert file.lines == {"a": 1, "b": 2}


def test_what_is_no_text_is_refused(tmp_path):
    path = tmp_path / "x.cfg"
    path.write_bytes(b"a = 1\nb = '\xff\xfe'\n")
    assert message_of(path) == "x.cfg:2: is not text in UTF-8 (byte 0xff)"
    path.write_bytes(b"# -*- coding: no-such-encoding -*-\nb = '\xff'\n")
    assert message_of(path) == "x.cfg:2: is not text in UTF-8 (byte 0xff)"
    path.write_bytes(b"a = 1\n\0")
    assert message_of(path) == "x.cfg:2: has a null character; it is not a text file"
    path.write_bytes(gzip.compress(b"a = 1"))
    assert message_of(path) == "x.cfg: is a gzip file, not a config file"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", "x")
    assert message_of(path) == "x.cfg: is a zip archive or a saved model, not a config file"
    path.write_bytes(b"# " + b"x" * 2**20)
    assert message_of(path) == "x.cfg: is larger than 1 MiB, which no config file is"


def test_a_missing_file_names_those_that_are_there(tmp_path, write):
    assert message_of(tmp_path / "x.cfg").endswith("has no .cfg file")
    write("a = 1", "train.cfg")
    message = message_of(tmp_path / "trian.cfg")
    assert message.startswith("trian.cfg: there is no such config file; ")
    assert message.endswith("has train.cfg")
    assert "does not exist" in message_of(tmp_path / "none" / "x.cfg")
    assert message_of(tmp_path).endswith("is a folder; name the .cfg file in it")


def test_reading_configs_needs_no_heavy_package(run_python):
    loaded = run_python(
        "import sys, deepmedic.config.load, deepmedic.config.explain\n"
        "print([name for name in ('torch', 'numpy', 'nibabel') if name in sys.modules])"
    )
    assert loaded == "[]"
