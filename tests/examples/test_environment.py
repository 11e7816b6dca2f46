"""`environment.sh`: an environment that has the pinned packages already is used as it is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXTRA_PACKAGES = {"report": ("jinja2", "matplotlib", "scipy"), "test": ("jinja2", "isal", "monai", "pytest-xdist")}
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
