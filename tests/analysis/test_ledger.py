"""Outcomes of forecasts: what belongs together, how good forecasts were, and that nothing is changed unnoticed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from deepmedic.analysis.forecasts import append_forecast, forecasts_file, read_forecasts
from deepmedic.analysis.ledger import (
    Pair,
    append_outcome,
    evaluate,
    evaluation_text,
    forecasts_of,
    ledger_file,
    outcome_of,
    read_ledger,
    scored,
    spearman,
)
from deepmedic.errors import DataError

BEGUN = "2026-03-02T10:00:00+00:00"


def forecast(date="2026-03-01T10:00:00+00:00", source="s", images="i", gain=(0.1, 0.0, 0.3), knn=0.2, **rivals):
    mean, low, high = gain
    return {
        "date": date,
        "model": {"sha256": source, "target": "t"},
        "data": {"images": images},
        "prediction": {"gain": {"mean": mean, "low": low, "high": high}, "verdict": "transfer"},
        "rivals": {"knn_gain": {"mean": knn}, **rivals},
    }


def setting(gain=0.2, verdict="helps"):
    return {
        "gain": {"mean": gain, "low": 0.1, "high": 0.3},
        "verdict": verdict,
        "seeds": [0, 1],
        "subjects": ["a", "b"],
        "trainingCases": 4,
    }


@pytest.fixture
def note(tmp_path):
    """Make a forecast and let it come true; returns what is scored then."""

    def note(measured, comparison="c", in_time=True, **predicted):
        records = forecasts_file(tmp_path)
        record = append_forecast(records, forecast(**predicted))
        outcome = outcome_of(record, in_time=in_time, comparison=comparison, begun=BEGUN, setting=setting(measured))
        append_outcome(ledger_file(tmp_path), outcome)
        return scored(read_ledger(ledger_file(tmp_path)))

    return note


def test_forecasts_of_a_pair_and_whether_they_were_made_before(tmp_path) -> None:
    path = forecasts_file(tmp_path)
    late = "2026-03-02T12:30:00+02:00"  # 10:30 in the time zone of the comparison
    others = forecast(source="other"), forecast(images="others"), {**forecast(), "data": {}}
    for one in (forecast(), *others):
        append_forecast(path, one)
    append_forecast(path, forecast(late))
    assert len(read_forecasts(path)) == 4  # the date alone does not make it another one
    append_forecast(path, forecast(late, knn=0.3))
    found = forecasts_of(Pair("s", "t", "i"), read_forecasts(path), BEGUN)
    assert [(record["number"], in_time) for record, in_time in found] == [(1, True), (5, False)]


def test_only_the_last_forecast_in_time_of_a_pair_counts(note) -> None:
    note(0.2)
    assert len(note(0.25, comparison="again")) == 1
    assert note(0.3, knn=0.4)[0]["rivals"]["knn_gain"]["mean"] == 0.4
    assert note(0.3, knn=0.5, in_time=False)[0]["rivals"]["knn_gain"]["mean"] == 0.4
    assert len(note(0.1, source="other")) == 2


def test_coverage_verdicts_and_ranks(note) -> None:
    pairs = [(0.1, 0.3, 0.4, -1.0, 0.05), (0.2, 0.3, 0.3, -2.0, 0.25)]
    pairs += [(0.3, 0.35, 0.2, None, 0.5), (0.4, 0.9, 0.1, -3.0, 0.6)]
    for number, (mean, high, knn, logme, gain) in enumerate(pairs):
        outcomes = note(gain, source=str(number), gain=(mean, 0.0, high), knn=knn, logme=logme)
    found = evaluate(outcomes)
    assert found["pairs"] == 4
    assert found["coverage"] == {"held": 3, "of": 4}  # 0.5 is above 0.35
    assert found["verdicts"] == {"transfer: helps": 4}
    ranks = found["rankCorrelation"]
    assert ranks["forecast"] == {"coefficient": pytest.approx(1.0), "pairs": 4}
    assert ranks["knn_gain"] == {"coefficient": pytest.approx(-1.0), "pairs": 4}
    assert ranks["logme"] == {"coefficient": pytest.approx(-1.0), "pairs": 3}
    text = evaluation_text(found)
    assert "intervals that held the measured gain: 3 of 4" in text
    assert "rank correlation of knn_gain with the measured gain: -1.00 (4 pairs)" in text


def test_few_pairs_have_no_rank_correlation(note) -> None:
    found = evaluate(note(0.2))
    assert found["rankCorrelation"]["forecast"] == {"coefficient": None, "pairs": 1}
    assert "too few pairs (1 pairs)" in evaluation_text(found)


def test_an_outcome_that_was_changed_is_noticed(note, tmp_path) -> None:
    note(0.2)
    path = ledger_file(tmp_path)
    path.write_text(path.read_text().replace('"mean": 0.2', '"mean": 0.9'))
    with pytest.raises(DataError, match=r"ledger.jsonl:1: this record of an outcome is not as it was written"):
        read_ledger(path)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=8))
def test_rank_correlation_is_that_of_scipy(pairs) -> None:
    one, other = zip(*pairs, strict=True)
    found = spearman(one, other)
    if len(set(one)) == 1 or len(set(other)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(stats.spearmanr(one, other).statistic)
