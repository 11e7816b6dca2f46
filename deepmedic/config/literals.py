"""Evaluates the expressions of the original's config files from their syntax tree, within bounds.

Literals, arithmetic of numbers and repetition of lists have a value; names, calls and all other code have none.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from typing import Any

ALLOWED = (
    "allowed: name = value with numbers, text, True, False, None, lists, tuples and dicts of them, arithmetic of "
    "numbers, and [value] * count; write the value itself (nothing in the file was executed)"
)

_LARGEST_EXPONENT = 1024
_LARGEST_INTEGER = 2**256
_LONGEST_LIST = 10_000

_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_CODE: dict[type[ast.expr], str] = {
    ast.Call: "a call",
    ast.Attribute: "an attribute access",
    ast.Subscript: "an index",
    ast.JoinedStr: "an f-string",
    ast.ListComp: "a comprehension",
    ast.SetComp: "a comprehension",
    ast.DictComp: "a comprehension",
    ast.GeneratorExp: "a comprehension",
    ast.Lambda: "a function",
    ast.IfExp: "a condition",
    ast.Compare: "a comparison",
    ast.BoolOp: "a logical operation",
    ast.NamedExpr: "an assignment inside a value",
    ast.Set: "a set",
    ast.Starred: "an unpacking",
    ast.Name: "the name of another value",
}
_KINDS = {bool: "truth values", str: "text", list: "lists", dict: "dicts", type(None): "None"}


class NotALiteralError(Exception):
    """An expression without a value; `node` is the part of it that is not read."""

    def __init__(self, node: ast.AST, message: str, quote: bool = False) -> None:
        super().__init__(message)
        self.node = node
        self.quote = quote
        """Whether a message should quote the node and say what is allowed."""


def evaluate(node: ast.expr) -> Any:
    """Return the value of an expression; tuples become lists.

    Raises `NotALiteralError` for everything but literals, bounded arithmetic and bounded repetition of lists.
    """
    if isinstance(node, ast.Constant):
        return _constant(node)
    if isinstance(node, ast.List | ast.Tuple):
        return [evaluate(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        return _dict(node)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        number = _number(node.operand)
        return -number if isinstance(node.op, ast.USub) else number
    if isinstance(node, ast.BinOp):
        return _operation(node)
    raise NotALiteralError(node, code_name(node), quote=True)


def code_name(node: ast.expr) -> str:
    """Return what an expression without a value is called in messages."""
    return _CODE.get(type(node), "code")


def _constant(node: ast.Constant) -> Any:
    value = node.value
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise NotALiteralError(node, "text with half a character (a surrogate) is not read")
    if value is not None and not isinstance(value, bool | int | float | str):
        raise NotALiteralError(node, f"a value of type {type(value).__name__}", quote=True)
    return value


def _dict(node: ast.Dict) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in zip(node.keys, node.values, strict=True):
        if key_node is None:
            raise NotALiteralError(node, "an unpacking", quote=True)
        key = evaluate(key_node)
        if not isinstance(key, str):
            raise NotALiteralError(key_node, f"found the key {str(key)[:40]}; keys of a dict are text: write '{key}'")
        if key in result:
            raise NotALiteralError(key_node, f"the key {key!r} stands twice in this dict; keep one of them")
        result[key] = evaluate(value_node)
    return result


def _operation(node: ast.BinOp) -> Any:
    operation = _ARITHMETIC.get(type(node.op))
    if operation is None:
        raise NotALiteralError(node, "an operation other than + - * / // % **", quote=True)
    left, right = evaluate(node.left), evaluate(node.right)
    if isinstance(node.op, ast.Mult) and (isinstance(left, list) or isinstance(right, list)):
        return _repetition(node, left, right)
    left, right = _checked(node.left, left), _checked(node.right, right)
    if isinstance(node.op, ast.Pow) and abs(right) > _LARGEST_EXPONENT:
        raise NotALiteralError(node, f"found the exponent {right}; allowed: at most {_LARGEST_EXPONENT}")
    try:
        result = operation(left, right)
    except (ArithmeticError, ValueError) as error:
        raise NotALiteralError(node, f"cannot be computed: {error}; write the value itself") from None
    if isinstance(result, complex) or (isinstance(result, float) and not math.isfinite(result)):
        raise NotALiteralError(node, "the result is not a finite real number; write the value itself")
    if isinstance(result, int) and abs(result) > _LARGEST_INTEGER:
        raise NotALiteralError(node, "the result is larger than 2**256; write a smaller value")
    return result


def _number(node: ast.expr) -> int | float:
    return _checked(node, evaluate(node))


def _checked(node: ast.expr, value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NotALiteralError(node, f"arithmetic of {_KINDS.get(type(value), 'this')} is not read; {ALLOWED}")
    if isinstance(value, int) and abs(value) > _LARGEST_INTEGER:
        raise NotALiteralError(node, "the number is larger than 2**256; write a smaller value")
    return value


def _repetition(node: ast.BinOp, left: Any, right: Any) -> list[Any]:
    items, count = (left, right) if isinstance(left, list) else (right, left)
    if isinstance(count, bool) or not isinstance(count, int):
        raise NotALiteralError(node, "a list is repeated by a whole number: [value] * count")
    if max(count, 0) * max(_size(items), 1) > _LONGEST_LIST:
        raise NotALiteralError(node, f"the repeated list is too long; allowed: at most {_LONGEST_LIST} values")
    repeated: list[Any] = items * count
    return repeated


def _size(value: Any) -> int:
    """Return the number of values in nested lists and dicts."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return sum(max(_size(item), 1) for item in value)
    return 1
