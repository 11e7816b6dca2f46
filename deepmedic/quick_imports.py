"""Importing the modules of a session without searching them for garbage."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import in the block whatever needs torch, if nothing did yet.

    Modules are some hundred thousand objects that stay to the end. While they are made, Python would search them for
    garbage again and again, and later whenever it looks through all there is, at the end of the process once more:
    half a second in all, as long as half of importing torch.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()
