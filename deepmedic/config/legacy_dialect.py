"""Reads the original's config files, which are Python assignments, without ever executing them.

The text is only parsed. Assignments of literals, of arithmetic of numbers and of repeated lists are read; bare strings
are comments; anything else is refused with its line.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deepmedic.config.literals import ALLOWED, NotALiteralError, code_name, evaluate
from deepmedic.config.source import ConfigFile, printable
from deepmedic.config.toml_dialect import pointed_line, repeated_keys
from deepmedic.errors import ConfigError, ProblemList

NOT_VALID = "not valid in the Python dialect of the original"

_MOST_PROBLEMS = 50
_PARSER_ERRORS = (ValueError, RecursionError, MemoryError, OverflowError)
_CODE: dict[type[ast.stmt], str] = {
    ast.Import: "an import",
    ast.ImportFrom: "an import",
    ast.FunctionDef: "a function",
    ast.ClassDef: "a class",
    ast.For: "a loop",
    ast.While: "a loop",
    ast.If: "a condition",
    ast.With: "a with block",
    ast.Try: "a try block",
    ast.Delete: "a deletion",
    ast.AugAssign: "a combined assignment",
    ast.AnnAssign: "an annotation",
}


def parse_legacy(path: Path, text: str) -> ConfigFile:
    """Return the keys and values of a text in the original's Python dialect.

    Every value that is computed (`10 ** (-4)`) is told in the notes. Raises `ConfigError` for a syntax error, with
    file, line, column and the line itself, and for everything that is not a literal, a key given twice, or a number
    or list out of bounds: all of them together.
    """
    tree = _syntax_tree(path, text)
    reader = _Reader(path, text)
    try:
        reader.read(tree)
    except RecursionError:
        raise ConfigError(f"{path}: an expression is nested too deeply to be a configuration") from None
    reader.problems.raise_if_any()
    return ConfigFile(path, "python", reader.values, reader.lines, reader.notes)


def python_tree(text: str) -> ast.Module | None:
    """Return the syntax tree of a text that is Python, otherwise None."""
    try:
        return _parse(text)
    except (SyntaxError, *_PARSER_ERRORS):
        return None


def _parse(text: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as unknown escapes in text
        return ast.parse(text)


def _syntax_tree(path: Path, text: str) -> ast.Module:
    try:
        return _parse(text)
    except SyntaxError as error:
        if error.lineno is None:
            raise ConfigError(f"{path}: {NOT_VALID}: {error.msg}") from None
        start = sum(len(content) + 1 for content in text.split("\n")[: error.lineno - 1])
        position = min(start + max((error.offset or 1) - 1, 0), max(len(text) - 1, 0))
        line, column, excerpt = pointed_line(text, position)
        raise ConfigError(f"{path}:{line}:{column}: {NOT_VALID}: {error.msg}\n{excerpt}") from None
    except _PARSER_ERRORS as error:
        raise ConfigError(f"{path}: cannot be read as a configuration: {error}") from None


class _Reader:
    """Reads the statements of one file."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._lines = [line.encode() for line in text.split("\n")]
        self._places: dict[str, list[int]] = {}
        self.values: dict[str, Any] = {}
        self.lines: dict[str, int] = {}
        self.notes: list[str] = []
        self.problems = ProblemList()

    def read(self, tree: ast.Module) -> None:
        for statement in tree.body:
            try:
                self._statement(statement)
            except NotALiteralError as problem:
                self.problems.add(ConfigError(self._refusal(problem, statement)))
            if len(self.problems.problems) >= _MOST_PROBLEMS:
                return
        repeated = repeated_keys(self._path, {key: lines for key, lines in self._places.items() if len(lines) > 1})
        if repeated is not None:
            self.problems.add(repeated)

    def _statement(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.Expr):
            if not (isinstance(statement.value, ast.Constant) and isinstance(statement.value.value, str)):
                name = code_name(statement.value)
                raise NotALiteralError(statement, "a value without a key" if name == "code" else name, quote=True)
            return
        if not isinstance(statement, ast.Assign):
            raise NotALiteralError(statement, _CODE.get(type(statement), "code"), quote=True)
        for target in statement.targets:
            self._assign(target, statement.value)

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        if not isinstance(target, ast.Name):
            several = isinstance(target, ast.Tuple | ast.List)
            what = "an assignment to several names" if several else code_name(target)
            raise NotALiteralError(target, what, quote=True)
        self._places.setdefault(target.id, []).append(target.lineno)
        self.values[target.id] = evaluate(value)
        self._record_lines((target.id,), value, target.lineno)
        for node in _outermost_arithmetic(value):
            result = str(evaluate(node))[:60]
            self.notes.append(f"{self._path}:{node.lineno}: {target.id}: {self._source(node)} was read as {result}")

    def _record_lines(self, path: tuple[str, ...], node: ast.expr, line: int) -> None:
        self.lines.setdefault(".".join(path), line)
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(key.value, str):
                    self._record_lines((*path, key.value), value, key.lineno)

    def _refusal(self, problem: NotALiteralError, statement: ast.stmt) -> str:
        line = getattr(problem.node, "lineno", statement.lineno)
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        key = next((f"{target.id}: " for target in targets if isinstance(target, ast.Name)), "")
        source = self._source(problem.node)
        quoted = f" ({source}) is not read; {ALLOWED}" if problem.quote else ""
        return f"{self._path}:{line}: {key}{problem}{quoted}"

    def _source(self, node: ast.AST) -> str:
        """Return the text of a node, of a long one its start."""
        if not isinstance(node, ast.expr | ast.stmt) or node.lineno > len(self._lines):
            return ""
        end = node.end_col_offset if node.end_lineno == node.lineno else None
        line = self._lines[node.lineno - 1]
        source = printable(" ".join(line[node.col_offset : end].decode(errors="replace").split()))
        return source[:57] + "..." if len(source) > 60 or end is None else source


def _outermost_arithmetic(node: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node, ast.BinOp):
        yield node
        return
    for child in ast.iter_child_nodes(node):
        yield from _outermost_arithmetic(child)
