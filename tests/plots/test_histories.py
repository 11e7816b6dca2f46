import math
from collections.abc import Callable
from pathlib import Path

import pytest

from deepmedic.errors import DataError
from deepmedic.plots.histories import Curve, SessionHistory, parse_history
from deepmedic.plots.history_files import read_history
from deepmedic.training.history import History


def test_curves_are_the_ratios_of_the_history_at_their_place_in_the_epoch(
    output: Path, make_history: Callable[..., History]
) -> None:
    session, history = read_history(output / "logs" / "first.metrics.csv"), make_history()
    assert (session.name, session.epochs, session.subepochs, session.classes) == ("first", 3, 2, 3)
    records = [history.samples["training", epoch, subepoch] for epoch in range(3) for subepoch in range(2)]
    for class_index in range(3):
        for metric in ("accuracy", "sensitivity", "precision", "specificity", "dice"):
            curve = session.on_samples("training", metric, class_index)
            assert curve.x == (0.25, 0.75, 1.25, 1.75, 2.25, 2.75)
            assert list(curve.y) == [getattr(record.ratios(class_index), metric) for record in records]
    assert session.on_samples("training", "cost").y == tuple(1 / right for right in range(50, 56))
    assert session.on_samples("training", "accuracy").y == tuple(right / 100 for right in range(50, 56))


def test_validation_on_samples_stands_where_it_is_done_before_the_training_of_its_subepoch(output: Path) -> None:
    session = read_history(output / "logs" / "second.metrics.csv")
    assert session.on_samples("validation", "dice", 1).x == tuple(quarter / 4 for quarter in range(8))


def test_whole_volumes_and_learning_rates_belong_to_epochs(output: Path) -> None:
    session = read_history(output / "logs" / "first.metrics.csv")
    foreground, class_2, rate = session.on_volumes(0), session.on_volumes(2), session.learning_rate()
    assert foreground.x == class_2.x == (1.0, 2.0, 3.0)
    assert foreground.y == pytest.approx((0.5, 0.6, 0.7))
    assert class_2.y == pytest.approx((0.4, 0.5, 0.6))
    assert rate.x == (0.0, 1.0, 2.0, 3.0)
    assert rate.y == pytest.approx((1e-3, 1e-4, 1e-5, 1e-5))


def test_what_was_not_measured_is_an_empty_curve(tmp_path: Path, make_history: Callable[..., History]) -> None:
    (tmp_path / "plain.metrics.csv").write_text(make_history(validation=False, volumes=False).csv())
    session = read_history(tmp_path / "plain.metrics.csv")
    assert session.on_samples("validation", "dice", 1).is_empty
    assert session.on_volumes(1).is_empty
    assert not session.on_samples("training", "dice", 1).is_empty


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (1, [1.0, 2.0, math.nan, 6.0, 8.0]),
        (3, [1.5, 1.5, 4.0, 7.0, 7.0]),
        (2, [1.5, 2.0, 6.0, 7.0, 8.0]),
        (99, [4.25] * 5),
    ],
)
def test_smoothing_takes_the_mean_of_the_defined_values_around(window: int, expected: list[float]) -> None:
    curve = Curve((0, 1, 2, 3, 4), (1.0, 2.0, math.nan, 6.0, 8.0))
    assert list(curve.smoothed(window).y) == pytest.approx(expected, nan_ok=True)
    assert curve.smoothed(window).x == curve.x


@pytest.mark.parametrize(
    "broken", ["0,0,training,1,,abc,,,,,,,,,", "0,0,tests,1,,0.5,,,,,,,,,", "x,0,training,1,,0.5,,,,,,,,,"]
)
def test_a_spoilt_row_is_refused_with_its_line(
    tmp_path: Path, make_history: Callable[..., History], broken: str
) -> None:
    lines = make_history().csv().splitlines()
    lines[2] = broken
    with pytest.raises(DataError, match=r"h\.csv:3: this row is not as -train writes it"):
        parse_history("\n".join(lines), tmp_path / "h.csv")


def test_borders_of_phases_come_from_their_column(make_history: Callable[..., History]) -> None:
    header, *rows = make_history(epochs=4).csv().splitlines()
    phases = {"0": "head", "1": "head", "2": "all layers", "3": "all layers"}
    text = "\n".join([f"{header},phase", *(f"{row},{phases[row[0]]}" for row in rows)])
    source = Path("s.csv")
    assert SessionHistory("s", source, parse_history(text, source)).phase_borders() == [(2, "all layers")]
    without = parse_history("\n".join([header, *rows]), source)
    assert SessionHistory("s", source, without).phase_borders() == []
