"""Imports without searching for garbage: where it is left out, and that it goes on afterwards."""

from __future__ import annotations

import gc
import importlib
import subprocess
import sys

import pytest
import torch

from deepmedic.quick_imports import quick_imports


def answer(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def test_modules_are_left_out_of_searches_from_then_on():
    program = (
        "import gc, sys\n"
        "from deepmedic.quick_imports import quick_imports\n"
        "before = [generation['collections'] for generation in gc.get_stats()]\n"
        "with quick_imports():\n"
        "    import torch\n"
        "after = [generation['collections'] for generation in gc.get_stats()]\n"
        "print(after == before, gc.isenabled(), gc.get_freeze_count() > 100_000, len(gc.get_objects()) < 1_000)\n"
    )
    assert answer(program) == "True True True True"


def test_commands_that_need_torch_import_it_in_this_way(tmp_path):
    program = (
        "import gc\n"
        "from deepmedic.cli import main\n"
        f"assert main(['-inspect', {str(tmp_path / 'absent.save')!r}]) != 0\n"
        "print(gc.isenabled(), gc.get_freeze_count() > 100_000)\n"
    )
    assert answer(program) == "True True"


def test_nothing_is_left_out_when_torch_is_there_already():
    """What a test or a notebook has made by then may become garbage."""
    assert torch.__version__
    frozen = gc.get_freeze_count()
    with quick_imports():
        assert gc.isenabled()
    assert gc.get_freeze_count() == frozen


def test_searches_go_on_after_a_failed_import(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    frozen = gc.get_freeze_count()
    with pytest.raises(ImportError), quick_imports():
        importlib.import_module("deepmedic.absent")
    assert gc.isenabled()
    assert gc.get_freeze_count() == frozen
