"""`environment.sh`: an environment that has the pinned packages already is used as it is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXTRA_PACKAGES = {
    "report": ("jinja2", "matplotlib", "scipy"),
    "test": ("jinja2", "isal", "monai", "numba", "pytest-xdist"),
}
"""Some packages of each extra, under the names by which `pyproject.toml` asks for them."""


def _pins() -> dict[str, str]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    return dict(line.split("==") for line in lines if line)


def _is_used(extra: str, installed: dict[str, str], folder: Path) -> bool:
    """Whether `environment.sh` takes this Python as it is, if these versions of packages were installed."""
    for name, version in installed.items():
        metadata = folder / f"{name.replace('-', '_')}-{version}.dist-info" / "METADATA"
        metadata.parent.mkdir(parents=True)
        metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    script = f'source "{ROOT}/environment.sh"; _satisfies_pins "{sys.executable}" {extra}'
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(["bash", "-c", script], env=environment, check=False).returncode == 0


@pytest.mark.parametrize("extra", EXTRA_PACKAGES)
def test_an_environment_with_the_pinned_versions_is_used(extra: str, tmp_path: Path) -> None:
    pins = _pins()
    assert _is_used(extra, pins | {"torch": f"{pins['torch']}+cpu"}, tmp_path)


@pytest.mark.parametrize(
    ("extra", "name"), [(extra, name) for extra, names in EXTRA_PACKAGES.items() for name in names]
)
def test_one_with_another_version_is_not(extra: str, name: str, tmp_path: Path) -> None:
    pins = {pinned.lower(): version for pinned, version in _pins().items()}
    assert not _is_used(extra, pins | {name: "0.1"}, tmp_path)


class TestWelcomeExtra:
    """What makes things faster is installed where that is possible, and nothing fails without it."""

    @staticmethod
    def prepare(folder: Path, *, satisfied: bool = False, failing: str = "") -> tuple[int, list[str], str]:
        """Exit code, extras that pip was asked for, and what was said; with a stand-in for pip and the environment."""
        asked = folder / "asked"
        asked.write_text("")
        script = f"""
            source "{ROOT}/environment.sh"
            ENVIRONMENT_ROOT="{folder}"
            _find_python() {{ echo "{sys.executable}"; }}
            _satisfies_pins() {{ {"true" if satisfied else "false"}; }}
            _install() {{ echo "$1" >> "{asked}"; [ "$1" != "{failing}" ]; }}
            set -e
            prepare_environment report fast
            echo "PY=$PY"
        """
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
        return done.returncode, asked.read_text().split(), done.stdout + done.stderr

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """With pins, and an environment that has a Python and nothing else."""
        python = tmp_path / ".venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.symlink_to(sys.executable)
        for name in ("constraints.txt", "pyproject.toml"):
            (tmp_path / name).write_text(name)
        return tmp_path

    def test_is_installed_once(self, folder: Path) -> None:
        code, asked, said = self.prepare(folder)
        assert (code, asked) == (0, ["report", "fast"])
        assert f"PY={folder}/.venv/bin/python" in said
        assert self.prepare(folder)[:2] == (0, [])

    def test_may_fail(self, folder: Path) -> None:
        code, asked, said = self.prepare(folder, failing="fast")
        assert (code, asked) == (0, ["report", "fast"])
        assert "Going on without the extra fast, which could not be installed" in said

    def test_what_is_needed_may_not(self, folder: Path) -> None:
        code, asked, said = self.prepare(folder, failing="report")
        assert (code, asked) == (1, ["report"])
        assert "The installation failed" in said

    def test_is_no_reason_to_leave_an_environment_that_has_what_is_needed(self, folder: Path) -> None:
        code, asked, said = self.prepare(folder, satisfied=True)
        assert (code, asked) == (0, [])
        assert f"PY={sys.executable}" in said


@pytest.mark.parametrize("script", ["quickstart.sh", "transfer.sh"])
def test_examples_train_on_a_cpu_as_fast_as_it_can(script: str) -> None:
    assert "prepare_environment report fast\n" in (ROOT / "examples" / script).read_text()
