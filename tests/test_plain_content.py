"""Plain content without the numbers that JSON does not have; digests are tested with checkpoints."""

from __future__ import annotations

import json
import math

import numpy as np

from deepmedic.plain_content import finite


def test_numbers_that_json_does_not_have_become_null_wherever_they_are() -> None:
    content = {
        "gain": math.nan,
        "ends": (-math.inf, 0.5),
        "layers": [{"dice": np.float64("inf"), "name": "nan"}],
        "n": 3,
    }
    found = json.dumps(finite(content), allow_nan=False)
    assert json.loads(found) == {"gain": None, "ends": [None, 0.5], "layers": [{"dice": None, "name": "nan"}], "n": 3}
    assert content["ends"] == (-math.inf, 0.5)  # the original is as it was
