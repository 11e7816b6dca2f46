"""When early stopping ends a training, by hand-made sequences of scores."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmedic.config.training import EarlyStoppingConfig
from deepmedic.training.early_stopping import after_epoch, initial_state


def last_epoch(config: EarlyStoppingConfig, scores: list) -> int | None:
    """Return the epoch after which the training ends, or None if it does not."""
    state = initial_state()
    for epoch, score in enumerate(scores):
        state = after_epoch(config, epoch, score, state)
        if state["stopped"]:
            return epoch
    return None


@pytest.mark.parametrize(
    ("patience", "change", "scores", "end"),
    [
        (2, 0.0, [0.5, 0.6, 0.6, 0.59], 3),
        (1, 0.0, [0.5, 0.5], 1),
        (2, 0.0, [0.5, 0.4, 0.6, 0.5, 0.7], None),
        (2, 0.05, [0.5, 0.54, 0.55, 0.9], 2),
        (2, 0.05, [0.5, 0.54, 0.5500001, 0.56], None),
        (2, 0.0, [0.0, 0.0, 0.0], 2),
        (3, 0.0, [0.5, None, None, None, None], None),
        (3, 0.0, [0.5, None, None, None, 0.5], 4),
        (3, 0.0, [None, math.nan, None, None, 0.5], None),
        (None, 0.0, [0.5] * 20, None),
    ],
)
def test_it_ends_after_the_patience(patience, change, scores, end):
    assert last_epoch(EarlyStoppingConfig(patience=patience, minimum_change=change), scores) == end


@settings(max_examples=50, deadline=None)
@given(scores=st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4]), max_size=15), patience=st.integers(1, 4))
def test_it_ends_at_the_first_epoch_whose_last_ones_bring_no_new_maximum(scores, patience):
    ends = [
        epoch
        for epoch in range(patience, len(scores))
        if max(scores[epoch - patience + 1 : epoch + 1]) <= max(scores[: epoch - patience + 1])
    ]
    assert last_epoch(EarlyStoppingConfig(patience=patience), scores) == (ends[0] if ends else None)
