"""Settings for all tests: property tests draw the same examples in every run, so that a failure can be repeated."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# What tests of several folders import.
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "report"))

from headless_browser import find_browser

settings.register_profile("same every time", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same every time"))


@pytest.fixture(params=["numba", "torch alone"])
def with_and_without_numba(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks on a CPU compute with what numba compiles, and once more without."""
    from deepmedic.model import compilation

    assert compilation.is_possible(), "the environment of the tests has numba"
    if request.param == "torch alone":
        monkeypatch.setattr(compilation, "is_possible", lambda: False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say so when tests were not run for want of a browser, which is no package that could be required."""
    if find_browser() is None:
        terminalreporter.write_line(
            "NOT RUN: the tests of the report in a browser, since no Chromium was found. Install it "
            "(Debian/Ubuntu: apt-get install chromium) or name one: BROWSER_FOR_TESTS=/path/to/chrome.",
            yellow=True,
        )
