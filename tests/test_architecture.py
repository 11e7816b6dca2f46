"""The rules of the source: which module may import which, and how large files and functions may be."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "deepmedic"

RANKS = {
    0: (
        "errors",
        "logs",
        "files",
        "locks",
        "geometry",
        "nvidia",
        "versions",
        "arguments",
        "argument_values",
        "command_options",
        "bootstrap",
        "model_files",
        "plain_content",
        "quick_imports",
        "words",
    ),
    1: ("config", "components", "metrics", "checkpoints", "devices"),
    2: ("data", "model"),
    3: ("inference", "planning"),
    4: ("training",),
    5: ("transfer", "plots", "analysis", "report"),
    6: ("sessions",),
    7: ("cli", "api", "api_training", "api_transfer", "api_analysis", "deepmedic"),
}
"""Top-level modules and packages; "deepmedic" is the package's own `__init__`."""
RANK = {name: rank for rank, names in RANKS.items() for name in names}

SESSION_ROOMS = ("common", "models", "reports", "inference", "training", "checking", "transfer", "selftest")
"""Packages of sessions from the lowest one up: each imports those before it, modules beside them import all."""

WITHOUT_TORCH = ("deepmedic", "deepmedic.cli", "deepmedic.arguments", "deepmedic.errors", "deepmedic.sessions.dispatch")
"""Start-up: help, version and refusals of configs come without torch, numpy and nibabel, with all that these import."""
HEAVY = ("torch", "numpy", "nibabel", "scipy", "matplotlib", "tqdm")

LATE_IMPORTS = {
    "deepmedic.cli": "torch is imported only by commands that need it",
    "deepmedic.sessions.dispatch": "configs are read and refused before torch is imported",
    "deepmedic.model.compiled_rows": "loops that numba compiles can be imported only where this extra is installed",
    "deepmedic.model.compiled_spread": "the same",
    "deepmedic.model.winograd": "the same",
}
"""Modules that may import this package's modules inside functions."""
OPTIONAL = {"matplotlib", "scipy", "tensorboard", "torch", "jinja2", "isal", "numba"}
"""Packages whose imports may stand in functions: extras; of torch only `torch.utils.tensorboard`."""

LARGEST_FILE = 400
LONGEST_FUNCTION = 60
MOST_PARAMETERS = 7
DEEPEST_NESTING = 4
LARGER = {
    ("deepmedic.api", "segment"): "a public function; its options are keyword-only and independent of each other",
    ("deepmedic.data.cases", "read_cases"): "four demands on the cases, each keyword-only and with a default",
}
"""Functions with more parameters, and why."""


@dataclass(frozen=True)
class Import:
    """One module of this package imported by another."""

    importer: str
    imported: str
    line: int
    late: bool
    """It stands inside a function."""

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


@functools.cache
def sources() -> dict[str, ast.Module]:
    """All modules of the package, parsed, by dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


def path_of(module: str) -> Path:
    path = ROOT / Path(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def imports_of(tree: ast.Module) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """All imports that are ever carried out, and whether they stand in a function."""

    def walk(node: ast.AST, late: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import | ast.ImportFrom):
                yield child, late
            elif not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
                yield from walk(child, late or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    return walk(tree, False)


def names_in(statement: ast.Import | ast.ImportFrom) -> list[str]:
    """Dotted names that a statement imports; of `from package import name` the name with its package."""
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    assert statement.level == 0, f"line {statement.lineno}: relative imports are not used"
    return [f"{statement.module}.{alias.name}" for alias in statement.names]


@functools.cache
def own_imports() -> tuple[Import, ...]:
    """All imports of one module of this package by another."""
    found = []
    for module, tree in sources().items():
        for statement, late in imports_of(tree):
            for name in names_in(statement):
                imported = name if name in sources() else name.rpartition(".")[0]
                if imported in sources():
                    found.append(Import(module, imported, statement.lineno, late))
    return tuple(found)


def unit(module: str) -> str:
    """The top-level module or package that a module belongs to."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def functions() -> Iterator[tuple[str, str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """All functions and methods as module, name and node."""
    for module, tree in sources().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield module, node.name, node


def test_every_module_has_a_rank() -> None:
    assert {unit(module) for module in sources()} == set(RANK)


def test_modules_import_only_lower_ranks_or_their_own_package() -> None:
    wrong = [str(found) for found in own_imports() if RANK[unit(found.imported)] > RANK[unit(found.importer)]]
    assert wrong == []


def test_packages_of_one_rank_do_not_import_each_other() -> None:
    def is_package(name: str) -> bool:
        return (PACKAGE / name).is_dir()

    wrong = []
    for found in own_imports():
        one, other = unit(found.importer), unit(found.imported)
        if one != other and RANK[one] == RANK[other] and is_package(one) and is_package(other):
            wrong.append(str(found))
    assert wrong == []


def test_rooms_of_sessions_import_only_those_below_them() -> None:
    def room(module: str) -> int:
        parts = module.split(".")
        inside = parts[:2] == ["deepmedic", "sessions"]
        return SESSION_ROOMS.index(parts[2]) if inside and len(parts) > 3 else -1 if not inside else len(SESSION_ROOMS)

    upward = [found for found in own_imports() if 0 <= room(found.importer) < room(found.imported)]
    assert upward == []
    assert {path.parent.name for path in (PACKAGE / "sessions").glob("*/__init__.py")} == set(SESSION_ROOMS)


def test_the_documentation_tells_these_ranks_and_rooms() -> None:
    text = (ROOT / "documentation" / "architecture.md").read_text(encoding="utf-8")
    rows = {
        int(rank): re.findall(r"`(\w+)`", modules) for rank, modules in re.findall(r"^\| (\d) \| (.*) \|$", text, re.M)
    }
    told = {rank: {"deepmedic" if name == "__init__" else name for name in names} for rank, names in rows.items()}
    assert told == {rank: set(names) for rank, names in RANKS.items()}
    rooms = re.search(r"`sessions` has rooms, each of which imports only those before it: ([^.]*)\.", text)
    assert rooms is not None
    assert tuple(re.findall(r"`(\w+)`", rooms[1])) == SESSION_ROOMS


def test_no_module_imports_itself_around_others() -> None:
    graph: dict[str, set[str]] = {module: set() for module in sources()}
    for found in own_imports():
        graph[found.importer].add(found.imported)
    finished: set[str] = set()

    def visit(module: str, way: list[str]) -> None:
        assert module not in way, f"cycle: {' -> '.join([*way[way.index(module) :], module])}"
        if module in finished:
            return
        for imported in sorted(graph[module]):
            visit(imported, [*way, module])
        finished.add(module)

    for module in graph:
        visit(module, [])
    assert finished == set(sources())


def test_imports_stand_at_the_top_of_a_module() -> None:
    wrong = [str(found) for found in own_imports() if found.late and found.importer not in LATE_IMPORTS]
    for module, tree in sources().items():
        for statement, late in imports_of(tree):
            packages = {name.split(".")[0] for name in names_in(statement)} - {"deepmedic"}
            if late and not packages <= OPTIONAL and module not in LATE_IMPORTS:
                wrong.append(f"{module}:{statement.lineno} imports {', '.join(packages)} in a function")
    assert wrong == []


def loaded_with(module: str) -> set[str]:
    """All modules of this package, and top-level names of others, that are imported along with one."""
    graph: dict[str, set[str]] = {name: set() for name in sources()}
    for name, tree in sources().items():
        for statement, late in imports_of(tree):
            if not late:
                graph[name].update(names_in(statement))
    for found in own_imports():
        if not found.late:
            graph[found.importer].add(found.imported)
    reached, waiting = {module}, [module]
    while waiting:
        for name in graph.get(waiting.pop(), ()):
            if name not in reached:
                reached.add(name)
                waiting.append(name)
    return {name if name in sources() else name.split(".")[0] for name in reached}


def light_modules() -> list[str]:
    return [*WITHOUT_TORCH, *(module for module in sources() if unit(module) == "config")]


@pytest.mark.parametrize("module", light_modules())
def test_start_up_is_light(module: str) -> None:
    assert loaded_with(module).isdisjoint(HEAVY)


def test_start_up_is_light_in_a_fresh_process() -> None:
    imports = "\n".join(f"import {module}" for module in light_modules())
    script = f"import sys\n{imports}\nprint(*sorted(set(sys.modules) & {set(HEAVY)}))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_packages_export_nothing() -> None:
    """A package's `__init__` is its docstring; only that of `deepmedic` exports the public functions."""
    for module, tree in sources().items():
        if path_of(module).name == "__init__.py" and module != "deepmedic":
            assert ast.get_docstring(tree), f"{module} says nothing about itself"
            assert len(tree.body) == 1, f"{module} holds more than its docstring"


def test_every_module_says_what_it_is() -> None:
    assert [module for module, tree in sources().items() if not ast.get_docstring(tree)] == []


def test_only_the_command_line_prints() -> None:
    printing = [
        f"{module}:{node.lineno}"
        for module, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print" and module != "deepmedic.cli"
    ]
    assert printing == []


def test_nothing_runs_code_from_files() -> None:
    forbidden = {"eval", "exec", "pickle.load", "pickle.loads", "os.system"}
    found = []
    for module, tree in sources().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in forbidden:
                found.append(f"{module}:{node.lineno} calls {ast.unparse(node.func)}")
            if isinstance(node, ast.keyword) and node.arg in ("weights_only", "allow_pickle"):
                safe = node.arg == "weights_only"
                if not (isinstance(node.value, ast.Constant) and node.value.value is safe):
                    found.append(f"{module}:{node.value.lineno} says {ast.unparse(node)}")
    assert found == []


def test_no_file_is_too_long() -> None:
    long = {module: len(path_of(module).read_text(encoding="utf-8").splitlines()) for module in sources()}
    assert {module: lines for module, lines in long.items() if lines > LARGEST_FILE} == {}


def code_lines(module: str, node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring, comments and blank lines."""
    body = node.body[1:] if ast.get_docstring(node) else node.body
    if not body:
        return 0
    lines = path_of(module).read_text(encoding="utf-8").splitlines()[node.lineno - 1 : node.end_lineno]
    docstring = range(node.body[0].lineno - node.lineno, (node.body[0].end_lineno or 0) - node.lineno + 1)
    skipped = set(docstring) if body is not node.body else set()
    kept = [text.strip() for number, text in enumerate(lines) if number not in skipped]
    return sum(bool(text) and not text.startswith("#") for text in kept)


def test_functions_fit_on_a_screen() -> None:
    long = {f"{module}.{name}": code_lines(module, node) for module, name, node in functions()}
    assert {name: lines for name, lines in long.items() if lines > LONGEST_FUNCTION} == {}


def parameter_count(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return len([parameter for parameter in given if parameter.arg not in ("self", "cls")])


def test_functions_have_few_parameters() -> None:
    many = {(module, name) for module, name, node in functions() if parameter_count(node) > MOST_PARAMETERS}
    assert many == set(LARGER)


def nesting(node: ast.AST) -> int:
    """Depth of blocks within a function; an elif is not deeper than its if."""
    blocks = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match, ast.AsyncFor, ast.AsyncWith)

    def depth(inner: ast.AST, is_elif: bool = False) -> int:
        deepest = 0
        for name, value in ast.iter_fields(inner):
            children = value if isinstance(value, list) else [value]
            chained = name == "orelse" and isinstance(inner, ast.If) and len(children) == 1
            for child in children:
                if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    continue  # judged by itself
                if isinstance(child, ast.AST):
                    deepest = max(deepest, depth(child, chained and isinstance(child, ast.If)))
        return deepest + (isinstance(inner, blocks) and not is_elif)

    return depth(node)


def test_blocks_are_not_deep() -> None:
    deep = {f"{module}.{name}": nesting(node) for module, name, node in functions()}
    assert {name: depth for name, depth in deep.items() if depth > DEEPEST_NESTING} == {}


# The rules above are only worth something if their helpers find what breaks them.


def function_of(text: str) -> ast.FunctionDef:
    node = ast.parse(text).body[0]
    assert isinstance(node, ast.FunctionDef)
    return node


@pytest.mark.parametrize(
    ("text", "depth"),
    [
        ("def f():\n    return 1", 0),
        ("def f():\n    if a:\n        pass\n    elif b:\n        pass\n    else:\n        pass", 1),
        ("def f():\n    for a in b:\n        if a:\n            with c:\n                pass", 3),
        ("def f():\n    try:\n        pass\n    except E:\n        if a:\n            pass", 2),
        ("def f():\n    def g():\n        if a:\n            pass\n    return g", 0),
    ],
)
def test_nesting_is_counted(text: str, depth: int) -> None:
    assert nesting(function_of(text)) == depth


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import a\ndef f():\n    import b", [("a", False), ("b", True)]),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import a", [("typing.TYPE_CHECKING", False)]),
        ("try:\n    import a\nexcept ImportError:\n    from b import c", [("a", False), ("b.c", False)]),
        ("class C:\n    def f(self):\n        from b import c", [("b.c", True)]),
    ],
)
def test_imports_are_found(text: str, found: list[tuple[str, bool]]) -> None:
    assert [(name, late) for node, late in imports_of(ast.parse(text)) for name in names_in(node)] == found


def test_parameters_are_counted() -> None:
    assert parameter_count(function_of("def f(self, a, /, b, *args, c, d=1, **rest): pass")) == 4


def test_own_imports_are_found() -> None:
    pairs = {(found.importer, found.imported) for found in own_imports()}
    assert ("deepmedic.data.pool", "deepmedic.errors") in pairs
    assert ("deepmedic.inference.tiling", "deepmedic.config.architecture") in pairs
    assert ("deepmedic", "deepmedic.api") not in pairs  # only for type checkers, and when it is first used
