"""Settings for all tests: property tests draw the same examples in every run, so that a failure can be repeated."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("same every time", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same every time"))
