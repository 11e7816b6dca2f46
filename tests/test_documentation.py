"""The documentation against the program: options, config keys, links, the map of modules.

Run as a program, this file writes the map of modules in `documentation/architecture.md` anew.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from deepmedic.command_options import OPTIONS
from deepmedic.config.kinds import CLASSES, REMOVED
from deepmedic.config.schema import Key, declared_keys
from deepmedic.model.saved import SavedModel

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "deepmedic"
DOCUMENTATION = ROOT / "documentation"
MAP = DOCUMENTATION / "architecture.md"
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *sorted(DOCUMENTATION.glob("*.md")),
]
PAGE_NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

MAP_BEGIN, MAP_END = "<!-- map of modules: begin -->\n", "<!-- map of modules: end -->\n"
PROMISED_PAGES = {
    "installation", "architecture", "commands", "outputs", "data", "training", "inference", "differences",
    "reliability", "configuration", "README", "transfer", "migration",
}  # fmt: skip

CODE_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE_CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.*?) *$", re.MULTILINE)
WORD_OF_A_COMMAND = re.compile(r"(?<!\S)--?[A-Za-z][\w-]*")
MIXED_CASE = re.compile(r"[a-z]+[a-z0-9]*[A-Z]\w*")
FOREIGN_PATHS = re.compile(r"(?<![\w.-])/(work|tmp|root|home|opt|mnt)/")
FOREIGN_ADDRESSES = re.compile(r"https?://(?:localhost|\d+\.|[\w.-]*(?:artifactory|nexus|mirror|proxy|simple))", re.I)

NOT_KEYS = {"formatVersion", "key", "sourceShape", "finalTargetLayer"}
"""Written like config keys, but something else."""
NO_OPTIONS = {"-tr"}
"""Shown as an example of what is refused."""


@dataclass(frozen=True)
class Page:
    """One page, its code blocks apart from its prose."""

    path: Path
    prose: str
    blocks: tuple[tuple[str, str], ...]
    """Language and text of each code block."""

    @classmethod
    def read(cls, name: str) -> Page:
        text = (ROOT / name).read_text(encoding="utf-8")
        text = re.sub(f"{MAP_BEGIN}.*{MAP_END}", "", text, flags=re.DOTALL)  # docstrings, which are not checked
        blocks = tuple((match[1], match[2]) for match in CODE_BLOCK.finditer(text))
        return cls(ROOT / name, CODE_BLOCK.sub("", text), blocks)

    @property
    def inline_codes(self) -> list[str]:
        return INLINE_CODE.findall(self.prose)

    def commands(self) -> Iterator[str]:
        """Calls of this program, in code blocks and in backticks, without the program's name and comments."""
        lines = [line for language, text in self.blocks if language != "python" for line in text.splitlines()]
        for line in [*lines, *self.inline_codes]:
            match = re.match(r"^(?:\$ )?(?:srun )?(?:deepmedic|python deepmedic_run\.py) +(-.*)", line.strip())
            if match:
                yield match[1].split(" #")[0]


def option_names() -> set[str]:
    return {option.name for option in OPTIONS}


def key_names() -> set[str]:
    """All config keys, sub-keys, and keys of earlier versions that are refused with a hint."""

    def with_sub_keys(key: Key) -> Iterator[str]:
        yield key.name
        for sub in key.sub_keys():
            yield from with_sub_keys(sub)

    names = {
        name
        for classes in CLASSES.values()
        for cls in classes
        for key in declared_keys(cls)
        for name in with_sub_keys(key)
    }
    return names.union(*REMOVED.values())


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    plain = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower())
    return plain.replace(" ", "-")


def module_names() -> set[str]:
    """Paths of all modules below the package; packages by their folder."""
    paths = (path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
    return {str(path) for path in paths if path.name != "__init__.py" or len(path.parts) == 1}


def module_map() -> str:
    """The map of modules: a table per package, with the first sentence of each module's docstring."""

    def says(path: Path) -> str:
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        first = re.split(r"(?<=[.?])\s", docstring.split("\n\n")[0].replace("\n", " "))[0]
        return first.removesuffix(".").replace("|", "\\|")

    lines: list[str] = []
    top = [
        "",
        "config",
        "data",
        "model",
        "inference",
        "training",
        "transfer",
        "analysis",
        "plots",
        "report",
        "planning",
        "sessions",
    ]
    found = sorted({str(path.parent.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py")} - {"."})
    for name in [*(name for name in top if not name or name in found), *(name for name in found if name not in top)]:
        folder = PACKAGE / name
        lines += [f"### `deepmedic/{name}{'/' if name else ''}`", ""]
        if name:
            lines += [f"{says(folder / '__init__.py')}.", ""]
        lines += ["| module | |", "|---|---|"]
        modules = (path for path in sorted(folder.glob("*.py")) if not name or path.name != "__init__.py")
        lines += [f"| `{path.name}` | {says(path)} |" for path in modules]
        lines.append("")
    return "\n".join(lines)


def write_map() -> None:
    head, rest = MAP.read_text(encoding="utf-8").split(MAP_BEGIN)
    tail = rest.split(MAP_END)[1]
    MAP.write_text(f"{head}{MAP_BEGIN}\n{module_map()}\n{MAP_END}{tail}", encoding="utf-8")


def test_the_promised_pages_are_there() -> None:
    assert {page.stem for page in DOCUMENTATION.glob("*.md")} >= PROMISED_PAGES


def test_every_option_has_a_heading() -> None:
    headings = {word for name in PAGE_NAMES for heading in HEADING.findall(Page.read(name).prose)
                for word in re.findall(r"`(-[\w-]+)", heading)}  # fmt: skip
    assert option_names() - headings == set(), "describe these options in documentation/commands.md"
    assert headings - option_names() == set(), "these options do not exist"


def test_the_heading_of_an_option_shows_its_value() -> None:
    text = (DOCUMENTATION / "commands.md").read_text(encoding="utf-8")
    for option in OPTIONS:
        if f"### `{option.name}" in text:
            assert f"### `{f'{option.name} {option.metavar}'.strip()}`\n" in text


@pytest.mark.parametrize("name", PAGE_NAMES)
def test_documented_options_exist(name: str) -> None:
    page = Page.read(name)
    alone = [code.split()[0] for code in page.inline_codes if re.match(r"-[A-Za-z]{3,}", code)]
    in_commands = [word for command in page.commands() for word in WORD_OF_A_COMMAND.findall(command)]
    assert {*alone, *in_commands} - option_names() - NO_OPTIONS == set()


@pytest.mark.parametrize("name", PAGE_NAMES)
def test_documented_keys_exist(name: str) -> None:
    known = key_names() | NOT_KEYS | {field.name for field in fields(SavedModel)}
    named = set()
    for code in Page.read(name).inline_codes:
        assignment = re.fullmatch(r"([A-Za-z]\w*)(?:\.\w+)* = .*", code)
        if assignment:
            named.add(assignment[1])
        elif MIXED_CASE.fullmatch(code):
            named.add(code)
    assert named - known == set()


@pytest.mark.parametrize("name", PAGE_NAMES)
def test_config_examples_are_valid_toml_with_known_keys(name: str) -> None:
    known = {key.name for classes in CLASSES.values() for cls in classes for key in declared_keys(cls)}
    for language, text in Page.read(name).blocks:
        if language == "toml":
            assert set(tomllib.loads(text)) - known == set()


@pytest.mark.parametrize("name", PAGE_NAMES)
def test_python_examples_are_valid(name: str) -> None:
    for language, text in Page.read(name).blocks:
        if language == "python":
            assert ast.parse(text).body


@pytest.mark.parametrize("name", PAGE_NAMES)
def test_links_lead_somewhere(name: str) -> None:
    page = Page.read(name)
    broken = []
    for target in LINK.findall(page.prose):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.path.parent / path).resolve() if path else page.path
        if not file.exists():
            broken.append(target)
        elif anchor and file.suffix == ".md":
            headings = HEADING.findall(CODE_BLOCK.sub("", file.read_text(encoding="utf-8")))
            if anchor not in {slug(heading) for heading in headings}:
                broken.append(target)
    assert broken == []


@pytest.mark.parametrize("name", PAGE_NAMES)
def test_nothing_of_one_machine_is_named(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert [match[0] for match in FOREIGN_PATHS.finditer(text)] == []
    assert [match[0] for match in FOREIGN_ADDRESSES.finditer(text)] == []


def test_the_map_names_every_module() -> None:
    """If this fails: `python tests/test_documentation.py` writes the map anew."""
    text = MAP.read_text(encoding="utf-8")
    listed = text[text.index(MAP_BEGIN) : text.index(MAP_END)]
    found: set[str] = set()
    folder = ""
    for line in listed.splitlines():
        heading = re.match(r"### `deepmedic/(.*)`", line)
        folder = heading[1] if heading else folder
        row = re.match(r"\| `(\w+\.py)` \| \S", line)
        if row:
            found.add(folder + row[1])
    assert found == module_names(), "write the map anew: python tests/test_documentation.py"


# The checks above are only worth something if their helpers find what is wrong.


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("Names of parameters", "names-of-parameters"),
        ("`-newModel MODEL.cfg`", "-newmodel-modelcfg"),
        ("How to add ...", "how-to-add-"),
        ("1. The exit code tells what happened", "1-the-exit-code-tells-what-happened"),
    ],
)
def test_anchors_are_made_as_github_makes_them(heading: str, anchor: str) -> None:
    assert slug(heading) == anchor


def test_keys_and_sub_keys_are_known() -> None:
    assert {"numberOfEpochs", "apply_to_all_channels", "max_rot_xyz", "relu0orPrelu1"} <= key_names()
    assert "numberOfEpochz" not in key_names()


def test_commands_are_found_in_blocks_and_prose() -> None:
    page = Page(
        ROOT,
        "Run `deepmedic -explain x` and `pip install -c y`.",
        (("", "$ deepmedic -train a.cfg   # no -comment\npython deepmedic_run.py -test b.cfg\nls -la\n"),),
    )
    assert [command.strip() for command in page.commands()] == ["-train a.cfg", "-test b.cfg", "-explain x"]
    assert WORD_OF_A_COMMAND.findall("-train a-b.cfg -seed -1 --help") == ["-train", "-seed", "--help"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("see " + "/".join(["", "work", "main", "x"]), True),
        ("in /tmp/a", True),
        ("output/tmp/a", False),
        ("https://download.pytorch.org/whl/cu126", False),
    ],
)
def test_machine_paths_are_found(text: str, found: bool) -> None:
    assert bool(FOREIGN_PATHS.search(text)) is found


if __name__ == "__main__":
    write_map()
