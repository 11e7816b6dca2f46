"""Reads a `.cfg` file in whichever dialect it is written."""

from __future__ import annotations

import ast
import codecs
import re
from pathlib import Path

from deepmedic.config.legacy_dialect import NOT_VALID, parse_legacy, python_tree
from deepmedic.config.source import ConfigFile
from deepmedic.config.toml_dialect import TomlSyntaxError, parse_toml, pointed_line
from deepmedic.errors import ConfigError

_LARGEST_FILE = 2**20
_CODING = re.compile(r"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")
_ENCODINGS = {"utf-8", "ascii", "iso8859-1", "iso8859-15", "cp1252"}
_SIGNATURES = {
    b"PK\x03\x04": "a zip archive or a saved model",
    b"\x1f\x8b": "a gzip file",
    b"\x93NUMPY": "a NumPy file",
}

# What the TOML parser stops at when a spelling that only Python has follows: names, tuples and brackets, arithmetic.
_PYTHON_SPELLING = re.compile(r"(?:True|False|None)\b|\(|[*/%]|[-+]\s*[\d.(]|[rRuU][\"']")
# The same, but a slip of the pen in TOML as well: numbers like .5 and 5., several assignments on one line.
_PERHAPS_PYTHON = re.compile(r"\.\d|\.(?![\w\"'])|;")
_IN_BOTH = (
    *(ast.Assign, ast.Expr, ast.Name, ast.Constant, ast.List, ast.UnaryOp, ast.Compare),
    *(ast.expr_context, ast.unaryop, ast.cmpop),
)
_BARE_STRING = re.compile(r"""\s*(?:\"\"|''|\"[^"\n]*\"\s*$|'[^'\n]*'\s*$)""")
_DICT_KEY = re.compile(r"""[{,]\s*(?:#[^\n]*\n\s*)*(?:\"[^"\n]*\"|'[^'\n]*')\s*$""")


def read_config(path: Path) -> ConfigFile:
    """Return the keys and values of a config file.

    The file is TOML, or a file of the original: that is tried when TOML stops at a spelling that only Python has.
    Nothing in the file is executed. Raises `ConfigError` for a file that is missing, is no text, or is not valid in
    its dialect, and for keys given twice.
    """
    text = _read_text(path)
    try:
        return parse_toml(path, text)
    except TomlSyntaxError as error:
        if not _written_in_python(text, error):
            raise
        line = pointed_line(text, error.position)[0]
    _refuse_mixed(path, text, line)
    try:
        return parse_legacy(path, text)
    except ConfigError as error:
        if NOT_VALID not in str(error):
            raise
        raise ConfigError(
            f"{error}\n    (read in that dialect because line {line} has a spelling that TOML does not have)"
        ) from None


def _refuse_mixed(path: Path, text: str, python_line: int) -> None:
    """Refuse a text that has spellings of both dialects, whichever it was meant to be."""
    tree = python_tree(text)
    for statement in [] if tree is None else tree.body:
        table = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.List)
        names = (node for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))
        name = next((node for node in names if node.id in ("true", "false")), None)
        if table or name is not None:
            line = statement.lineno if name is None else name.lineno
            raise ConfigError(
                f"{path}:{python_line}: this line is spelled as in Python, but line {line} as in TOML; use one of them "
                "in the whole file: TOML has true, false and [table], Python has True, False, None, (tuples), "
                "{'key': value} and arithmetic"
            )


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            content = stream.read(_LARGEST_FILE + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such config file{_similar(path)}") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder; name the .cfg file in it") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: the config file cannot be read: {error}") from None
    for signature, kind in _SIGNATURES.items():
        if content.startswith(signature):
            raise ConfigError(f"{path}: is {kind}, not a config file")
    if len(content) > _LARGEST_FILE:
        raise ConfigError(f"{path}: is larger than 1 MiB, which no config file is")
    return _decode(path, content)


def _similar(path: Path) -> str:
    try:
        names = sorted(entry.name for entry in path.parent.iterdir() if entry.suffix == ".cfg")
    except (OSError, ValueError):
        return f"; the folder {path.parent} does not exist"
    return f"; {path.parent} has {', '.join(names[:8])}" if names else f"; {path.parent} has no .cfg file"


def _decode(path: Path, content: bytes) -> str:
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        declared = _declared_encoding(content)
        if declared is None:
            line = content.count(b"\n", 0, error.start) + 1
            raise ConfigError(f"{path}:{line}: is not text in UTF-8 (byte 0x{content[error.start]:02x})") from None
        text = content.decode(declared, errors="replace")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ConfigError(f"{path}:{line}: has a null character; it is not a text file")
    return text


def _declared_encoding(content: bytes) -> str | None:
    """Return the encoding that one of the first two lines declares as Python files do, if it is a common one."""
    for line in content.split(b"\n", 2)[:2]:
        match = _CODING.match(line.decode("latin-1"))
        if match is None:
            continue
        try:
            name = codecs.lookup(match.group(1)).name
        except LookupError:
            return None
        return name if name in _ENCODINGS else None
    return None


def _written_in_python(text: str, error: TomlSyntaxError) -> bool:
    """Return whether TOML stopped at a spelling that only Python has."""
    position = error.position
    if _PYTHON_SPELLING.match(text, position):
        return True
    line_start = text.rfind("\n", 0, position) + 1
    if _BARE_STRING.match(text[line_start:position]):
        return True
    if text[position : position + 1] == ":" and _DICT_KEY.search(text, max(0, position - 300), position):
        return True
    tree = python_tree(text)
    if tree is None:
        return False
    if _PERHAPS_PYTHON.match(text, position):
        return True
    line = text.count("\n", 0, position) + 1
    # A backslash has another meaning in Python's text, but does not by itself make a file one of that dialect.
    anywhere = error.in_escape or "\\" in text[line_start:position]
    return _has_code(tree, None if anywhere else line)


def _has_code(tree: ast.Module, line: int | None) -> bool:
    """Return whether the statement on a line (None: any statement) is more than TOML can say.

    Such a file is better refused by the Python dialect, which says what it found.
    """
    statements = [node for node in tree.body if line is None or node.lineno <= line <= (node.end_lineno or line)]
    return any(not _toml_can_say(statement) for statement in statements)


def _toml_can_say(statement: ast.stmt) -> bool:
    return all(
        isinstance(node, _IN_BOTH) and not (isinstance(node, ast.Constant) and isinstance(node.value, bool | None))
        for node in ast.walk(statement)
    )
