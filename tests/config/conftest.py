"""Config files in a temporary folder."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deepmedic.errors import DeepMedicError


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a text as a config file and return its path."""

    def write_text(text: str, name: str = "some.cfg") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write_text


@pytest.fixture
def refusal(write: Callable[..., Path]) -> Callable[..., str]:
    """Load a text that must be refused with exit code 3; return the message without the folder of the file."""

    def refused(load: Callable[..., object], text: str, *arguments: object, code: int = 3, **named: object) -> str:
        path = write(text)
        with pytest.raises(DeepMedicError) as caught:
            load(path, *arguments, **named)
        assert caught.value.exit_code == code
        return str(caught.value).replace(f"{path.parent}/", "")

    return refused


@pytest.fixture
def run_python() -> Callable[[str], str]:
    """Run a program in a fresh interpreter and return what it prints."""

    def run(program: str) -> str:
        root = Path(__file__).parents[2]
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout.strip()

    return run
