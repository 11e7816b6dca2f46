"""Learning-rate schedules against golden numbers of the original and hand-made sequences."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmedic.config.training import OptimizerConfig, ScheduleConfig
from deepmedic.errors import ConfigError
from deepmedic.training.schedules import after_epoch, initial_state, rate_and_momentum, state_at

GOLDEN = Path(__file__).parents[1] / "golden" / "optim" / "lr_schedules.json"
CASES = json.loads(GOLDEN.read_text())


def config_of(case: dict) -> tuple[ScheduleConfig, int]:
    """Return the schedule of a golden case and its number of epochs."""
    kind = case["schedule"]["type"]
    asked = case["schedule"].get(kind, {})
    target = (asked["lr_to_reach_at_last_ep"], asked["mom_to_reach_at_last_ep"]) if kind == "expon" else None
    config = ScheduleConfig(
        kind=kind,
        divide_by=asked.get("div_lr_by", 2.0),
        epochs_to_wait=asked.get("epochs_wait_before_decr"),
        minimum_increase=asked.get("min_incr_of_val_acc_considered", 0.0),
        predefined_epochs=tuple(asked["epochs"]) if kind == "predef" else None,
        exponential_target=target,
    )
    return config, asked.get("final_ep_for_sch", len(case["lr_per_epoch"]))


def run(config: ScheduleConfig, optimizer: OptimizerConfig, epochs: int, accuracies: list) -> list[tuple[float, float]]:
    """Return rate and momentum of each epoch; `accuracies` has one entry per epoch."""
    state, used = initial_state(), []
    for epoch, accuracy in enumerate(accuracies):
        used.append(rate_and_momentum(config, optimizer, epochs, epoch, state))
        state = after_epoch(config, epochs, epoch, accuracy, state)
    return used


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["label"])
def test_rates_and_momenta_equal_the_original(case):
    config, epochs = config_of(case)
    optimizer = OptimizerConfig(learning_rate=case["initial_lr"], momentum=case["initial_momentum"])
    accuracies = case["val_accuracy_per_epoch"] or [None] * len(case["lr_per_epoch"])
    rates, momenta = zip(*run(config, optimizer, epochs, accuracies), strict=True)
    assert rates == pytest.approx(case["lr_per_epoch"], rel=1e-5)
    if config.kind != "expon":  # the original's formula for the momentum is wrong there
        assert momenta == pytest.approx(case["momentum_per_epoch"], rel=1e-6)


def test_the_exponential_momentum_goes_linearly_from_start_to_target():
    config = ScheduleConfig(kind="expon", epochs_to_wait=2, exponential_target=(1e-4, 0.9))
    momenta = [momentum for _, momentum in run(config, OptimizerConfig(momentum=0.5), 6, [None] * 8)]
    assert momenta == pytest.approx([0.5, 0.5, 0.5, 0.6, 0.7, 0.8, 0.9, 0.9])


def test_the_exponential_target_is_a_256th_of_the_initial_rate_by_default():
    config = ScheduleConfig(kind="expon", epochs_to_wait=0)
    rate, momentum = rate_and_momentum(config, OptimizerConfig(learning_rate=0.256), 10, 10, initial_state())
    assert rate == pytest.approx(0.001 + 1e-8, rel=1e-9)
    assert momentum == 0.9


def test_a_missing_schedule_is_polynomial_after_a_third_of_the_epochs():
    rates = [rate for rate, _ in run(ScheduleConfig(), OptimizerConfig(learning_rate=1.0), 6, [None] * 6)]
    assert rates == pytest.approx([1.0, 1.0, 1.0, 0.75**0.9, 0.5**0.9, 0.25**0.9])


def test_the_theano_version_lowers_a_stable_rate_every_so_many_epochs():
    config = ScheduleConfig(kind="stable", stable_interval=2, divide_by=2.0, theano=True)
    rates = [rate for rate, _ in run(config, OptimizerConfig(learning_rate=8.0), 6, [None] * 6)]
    assert rates == [8.0, 8.0, 4.0, 4.0, 2.0, 2.0]


def test_the_theano_version_gives_the_exponential_target_as_a_factor():
    config = ScheduleConfig(kind="expon", epochs_to_wait=2, exponential_target=(0.25, 0.9), theano=True)
    used = run(config, OptimizerConfig(learning_rate=0.1, momentum=0.5), 4, [None] * 5)
    assert [rate for rate, _ in used] == pytest.approx([0.1, 0.1, 0.1, 0.05, 0.025])
    assert [momentum for _, momentum in used] == pytest.approx([0.5, 0.5, 0.5, 0.7, 0.9])


def test_auto_waits_for_the_best_epoch_and_for_the_last_reduction():
    config = ScheduleConfig(kind="auto", epochs_to_wait=2, divide_by=10.0)
    accuracies = [0.5, 0.4, 0.4, 0.4, 0.4, 0.6, 0.6, 0.6, 0.6]
    rates = [rate for rate, _ in run(config, OptimizerConfig(learning_rate=1.0), 9, accuracies)]
    assert rates == pytest.approx([1.0, 1.0, 1.0, 0.1, 0.1, 0.01, 0.01, 0.01, 0.001])


@pytest.mark.parametrize("accuracy", [None, float("nan")])
def test_auto_takes_an_undefined_accuracy_for_no_improvement(accuracy):
    config = ScheduleConfig(kind="auto", epochs_to_wait=3)
    state = after_epoch(config, 9, 2, accuracy, {**initial_state(), "best_accuracy": 0.7, "best_epoch": 1})
    assert state == {"best_accuracy": 0.7, "best_epoch": 1, "last_reduction": 0, "reductions": 0}


def test_the_state_given_is_not_changed():
    state = initial_state()
    after_epoch(ScheduleConfig(kind="auto", epochs_to_wait=1), 9, 4, 0.9, state)
    assert state == initial_state()


@settings(max_examples=25, deadline=None)
@given(
    accuracies=st.lists(st.floats(0, 1), min_size=1, max_size=15),
    cut=st.integers(0, 15),
    wait=st.integers(1, 4),
)
def test_auto_resumed_from_its_state_goes_on_as_before(accuracies, cut, wait):
    config, optimizer, epochs = ScheduleConfig(kind="auto", epochs_to_wait=wait), OptimizerConfig(), len(accuracies)
    expected = run(config, optimizer, epochs, accuracies)
    state, used = initial_state(), []
    for epoch, accuracy in enumerate(accuracies):
        if epoch == cut:
            state = json.loads(json.dumps(state))
        used.append(rate_and_momentum(config, optimizer, epochs, epoch, state))
        state = after_epoch(config, epochs, epoch, accuracy, state)
    assert used == expected


@settings(max_examples=25, deadline=None)
@given(kind=st.sampled_from(["poly", "expon"]), epochs=st.integers(2, 50), share=st.floats(0, 0.9))
def test_rates_never_rise_and_start_at_the_initial_rate(kind, epochs, share):
    config = ScheduleConfig(kind=kind, epochs_to_wait=share * epochs)
    rates = [rate for rate, _ in run(config, OptimizerConfig(learning_rate=0.01), epochs, [None] * epochs)]
    assert rates[0] == pytest.approx(0.01)
    assert all(later <= earlier for earlier, later in pairwise(rates))


def test_a_schedule_without_epochs_left_is_refused():
    config = ScheduleConfig(kind="poly", epochs_to_wait=12)
    with pytest.raises(ConfigError, match=r"WaitBeforeLoweringLr is 12, which leaves none of the 10 epochs .* 'poly'"):
        rate_and_momentum(config, OptimizerConfig(), 10, 0, initial_state())


def test_predef_without_epochs_is_refused():
    with pytest.raises(ConfigError, match=r"'predef', but no epochs are given; list them.*predefinedSchedule = \[17"):
        rate_and_momentum(ScheduleConfig(kind="predef"), OptimizerConfig(), 10, 0, initial_state())


@settings(max_examples=40, deadline=None)
@given(
    scores=st.lists(st.floats(0.01, 1.0), min_size=1, max_size=20),
    wait=st.integers(1, 4),
    increase=st.sampled_from([0.0, 0.005]),
)
def test_plateau_equals_that_of_torch(scores, wait, increase):
    config = ScheduleConfig(
        kind="plateau", divide_by=4.0, epochs_to_wait=wait, minimum_increase=increase, lowest_rate=0.01
    )
    rates = [rate for rate, _ in run(config, OptimizerConfig(learning_rate=1.0), len(scores), scores)]
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    oracle = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimiser, "max", factor=0.25, patience=wait - 1, threshold=increase, threshold_mode="abs", min_lr=0.01, eps=0
    )
    expected = []
    for score in scores:
        expected.append(optimiser.param_groups[0]["lr"])
        oracle.step(score)
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_plateau_waits_for_epochs_with_a_score(missing):
    config = ScheduleConfig(kind="plateau", epochs_to_wait=2)
    scores = [0.5, missing, missing, missing, 0.5, 0.6]
    rates = [rate for rate, _ in run(config, OptimizerConfig(learning_rate=1.0), 6, scores)]
    assert rates == [1.0, 1.0, 1.0, 1.0, 1.0, 0.5]


def test_a_schedule_that_begins_later_waits_from_there():
    config = ScheduleConfig(kind="plateau", epochs_to_wait=2)
    states = [state_at(7)]
    for epoch in (7, 8, 9, 10):
        states.append(after_epoch(config, 20, epoch, 0.5 if epoch == 7 else 0.4, states[-1]))
    assert [state["reductions"] for state in states] == [0, 0, 0, 1, 1]
