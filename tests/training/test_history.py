"""The metric history: ratios and means against golden numbers of the original, its CSV file, its plain form."""

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmedic.metrics import mean_defined
from deepmedic.training.history import (
    RATIO_NAMES,
    EpochRecord,
    History,
    SampleRecord,
    VolumeRecord,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "metrics" / "metrics.json").read_text())
EPOCH = GOLDEN["epoch"]


def counts_of(rows: list) -> tuple:
    return tuple(tuple(row) for row in rows)


def expected(value: float | str) -> float | None:
    return None if value == "N/A" else pytest.approx(value, abs=1e-12)


@pytest.fixture
def history() -> History:
    """One epoch of the original: four subepochs of training, the first two of them also as validation."""
    history = History()
    for subepoch, (counts, cost) in enumerate(zip(EPOCH["counts_per_subepoch"], EPOCH["costs"], strict=True)):
        if subepoch < 2:
            history.samples["validation", 0, subepoch] = SampleRecord(counts_of(counts))
        history.samples["training", 0, subepoch] = SampleRecord(counts_of(counts), cost)
    history.epochs[0] = EpochRecord(0.001, 0.6)
    history.volumes[0] = VolumeRecord({"dice1": [0.5, 0.25, None], "dice2": [0.5, 0.75, 1.0]}, 0.4)
    return history


@pytest.mark.parametrize("case", GOLDEN["samples"], ids=lambda case: case["label"])
def test_ratios_of_each_class_equal_the_original(case):
    record = SampleRecord(counts_of(case["rp_rn_tp_tn_per_class"]))
    assert record.accuracy == expected(case["overall_accuracy"])
    assert list(record.counts_of(0)) == case["foreground_rp_rn_tp_tn"]
    logged = [case["logged_as_class0_whole_foreground"], *case["per_class_one_vs_all"][1:]]
    for class_index, ratios in enumerate(logged):
        for name in RATIO_NAMES:
            golden = ratios["dsc" if name == "dice" else name]
            assert getattr(record.ratios(class_index), name) == expected(golden)


def test_means_over_an_epoch_equal_the_original(history):
    records = history.subepochs("training", 0)
    assert history.mean_accuracy("training", 0) == expected(EPOCH["accuracy_used_by_auto_schedule"])
    assert mean_defined([record.cost for record in records]) == expected(EPOCH["mean_cost_of_epoch"])
    for class_index, means in enumerate(EPOCH["epoch_means"].values()):
        for name in RATIO_NAMES:
            mean = mean_defined([getattr(record.ratios(class_index), name) for record in records])
            assert mean == expected(means["dsc" if name == "dice" else name])


def test_a_record_without_voxels_has_no_ratios():
    record = SampleRecord(((0, 0, 0, 0), (0, 0, 0, 0)))
    assert record.accuracy is None
    assert record.ratios(1) == record.ratios(0)
    assert all(getattr(record.ratios(1), name) is None for name in RATIO_NAMES)
    assert mean_defined([None, None]) is None


def test_csv_has_one_row_per_subepoch_role_and_class_and_the_means_of_the_epoch(history):
    rows = list(csv.DictReader(io.StringIO(history.csv())))
    assert len(rows) == 6 * 4 + 2 * 4 + 4
    first = rows[0]
    assert (first["epoch"], first["subepoch"], first["role"], first["class"]) == ("0", "0", "training", "all")
    assert first["cost"] == "0.8857"
    assert first["accuracy"] == "0.3"
    assert first["dice1"] == first["learning_rate"] == ""
    assert [row["role"] for row in rows[:8]] == ["training"] * 4 + ["validation"] * 4

    missing = next(row for row in rows if row["subepoch"] == "1" and row["class"] == "2")
    assert (missing["dice"], missing["sensitivity"], missing["precision"]) == ("nan", "nan", "0.0")

    mean = next(row for row in rows if row["subepoch"] == "" and row["role"] == "training" and row["class"] == "all")
    assert (mean["learning_rate"], mean["momentum"]) == ("0.001", "0.6")
    assert float(mean["accuracy"]) == expected(EPOCH["mean_accuracy_of_epoch"])

    volumes = [row for row in rows if row["role"] == "volumes"]
    assert [(row["class"], row["dice"], row["dice1"], row["dice2"]) for row in volumes] == [
        ("all", "0.4", "", ""),
        ("foreground", "", "0.5", "0.5"),
        ("1", "", "0.25", "0.75"),
        ("2", "", "nan", "1.0"),
    ]


def test_an_empty_history_is_a_header_line():
    assert History().csv().splitlines() == [
        "epoch,subepoch,role,class,cost,accuracy,sensitivity,precision,specificity,dice,dice1,dice2,dice3,"
        "learning_rate,momentum"
    ]


def test_the_plain_form_holds_lists_and_numbers_only_and_restores_the_same_history(history):
    plain = json.loads(json.dumps(history.to_plain()))
    restored = History.from_plain(plain)
    assert restored.csv() == history.csv()
    assert restored == history


def test_csv_does_not_depend_on_the_order_of_records(history):
    shuffled = History(dict(reversed(history.samples.items())), history.epochs, history.volumes)
    assert shuffled.csv() == history.csv()


def test_a_repeated_record_replaces_the_earlier_one(history):
    before = len(history.subepochs("training", 0))
    history.samples["training", 0, 1] = SampleRecord(((1, 1, 1, 1), (1, 1, 1, 1)), 9.0)
    assert len(history.subepochs("training", 0)) == before
    assert history.subepochs("training", 0)[1].cost == 9.0


def test_next_step_counts_subepochs_since_the_start(history):
    assert History().next_step("training", 4) == 0
    assert history.next_step("training", 4) == 4
    assert history.next_step("validation", 4) == 2
    history.samples["training", 1, 0] = SampleRecord(((1, 1, 1, 1),) * 2)
    assert history.next_step("training", 4) == 5


def test_the_score_on_samples_pools_subepochs_and_counts_false_alarms_as_zero():
    history = History()
    # class 1: 2 of 4 voxels found, 1 false alarm; class 2: absent, 3 false alarms; class 3: absent, not predicted
    history.samples["validation", 3, 0] = SampleRecord(((6, 4, 3, 3), (4, 6, 2, 6), (0, 10, 0, 8), (0, 10, 0, 10)))
    history.samples["validation", 3, 1] = SampleRecord(((10, 0, 8, 0), (0, 10, 0, 9), (0, 10, 0, 9), (0, 10, 0, 10)))
    assert history.samples_score(3) == pytest.approx((2 * 2 / (3 + 4) + 0.0) / 2)
    assert history.samples_score(2) is None


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["training", "validation"]),
            st.integers(0, 3),
            st.integers(0, 3),
            st.lists(st.lists(st.integers(0, 50), min_size=4, max_size=4), min_size=2, max_size=2),
            st.none() | st.floats(allow_nan=False),
        ),
        max_size=8,
    )
)
def test_any_history_survives_its_plain_form(records):
    history = History()
    for role, epoch, subepoch, counts, cost in records:
        history.samples[role, epoch, subepoch] = SampleRecord(counts_of(counts), cost)
    restored = History.from_plain(json.loads(json.dumps(history.to_plain())))
    assert restored == history
    assert list(restored.samples) == list(history.samples)
