"""What a session logs and writes: lines that scripts for the original's logs find, events, CSV, TensorBoard."""

import csv
import json
import logging
import re
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from deepmedic.config.training import LossConfig, LossWeights, TrainConfig
from deepmedic.logs import EventLog
from deepmedic.training.history import History, SampleRecord, VolumeRecord
from deepmedic.training.log_lines import number_list
from deepmedic.training.recorder import Recorder, RecorderOutputs
from deepmedic.training.tensorboard_writer import open_tensorboard

CLASSES = ("background", "oedema", "core")
SUBEPOCHS = 3
METRICS = ("accuracy", "sensitivity", "precision", "specificity", "Dice")


def config() -> TrainConfig:
    return TrainConfig(
        folder_for_output=Path("out"),
        batch_size=2,
        session_name="trial",
        epochs=2,
        subepochs=SUBEPOCHS,
        epochs_between_volume_validation=2,
        loss=LossConfig(weights=LossWeights(cross_entropy=1.0, dice=0.5)),
    )


def record(epoch: int, subepoch: int, cost: float | None = None) -> SampleRecord:
    """100 voxels: 60 background, 40 of class 1; class 2 is absent, and predicted in one voxel."""
    found = 10 * epoch + subepoch + 20
    return SampleRecord(((60, 40, 59, 40), (40, 60, found, 60 - 40 + found), (0, 100, 0, 99)), cost)


def run(recorder: Recorder, epochs: range = range(2)) -> None:
    recorder.session_started()
    recorder.optimisation_started(uninitialized=False, reset=True)
    for epoch in epochs:
        recorder.epoch_started(epoch)
        for subepoch in range(SUBEPOCHS):
            recorder.subepoch_started(subepoch)
            recorder.subepoch_finished("validation", epoch, subepoch, record(epoch, subepoch), 1.0)
            for done in range(11):
                recorder.progress("training", done, 10)
            recorder.subepoch_finished("training", epoch, subepoch, record(epoch, subepoch, 0.5 / (1 + subepoch)), 2.0)
        recorder.epoch_finished(epoch, 0.001, 0.6)
        dice = [0.5 + epoch / 10, 0.25, None]
        recorder.volumes_finished(epoch, VolumeRecord({"dice1": dice, "dice2": dice, "dice3": dice}, 0.375), 9.0)
    recorder.session_finished()
    recorder.close()


@pytest.fixture
def messages(caplog) -> list[str]:
    """All log lines of a session, each as the text log has it: a time stamp, then the message."""
    with caplog.at_level(logging.DEBUG, logger="deepmedic"):
        run(Recorder(config(), CLASSES, RecorderOutputs()))
    return [f"2026-01-31 23:59:59.123+01:00  {line}" for line in caplog.messages]


def lists_behind(messages: list[str], expression: str, sentence: str) -> list[float | None]:
    """Read lists as the original's plotting script does: a pattern, then numbers between the next brackets."""
    values: list[float | None] = []
    for line in messages:
        if re.match(expression, line, re.MULTILINE | re.IGNORECASE):
            rest = line[line.find(sentence) + len(sentence) :]
            inside = rest[rest.find("[") : rest.find("]") + 1].strip("[]")
            values += [None if word == "N/A" else float(word) for word in inside.split()]
    return values


def value_after(messages: list[str], pattern: str) -> int:
    line = next(line for line in messages if pattern in line)
    return int(line[line.find(pattern) + len(pattern) :].strip())


def test_settings_are_found_by_their_phrases(messages):
    assert value_after(messages, "Number of Subepochs per epoch =") == SUBEPOCHS
    assert value_after(messages, "Perform Full-Inference on Val. cases every that many epochs =") == 2
    assert value_after(messages, "Number of Classes (including background) =") == 3
    assert any(line.endswith("Session's name = trial") for line in messages)
    assert [line.split("  ")[1] for line in messages if "COST:" in line] == [
        "COST: Using cross entropy with weight: 1.0",
        "COST: Using dsc loss with weight: 0.5",
    ]


@pytest.mark.parametrize("role", ["TRAINING", "VALIDATION"])
@pytest.mark.parametrize("class_index", [0, 1, 2])
@pytest.mark.parametrize("metric", METRICS)
def test_lists_per_class_are_found_by_the_expressions_of_the_original(messages, role, class_index, metric):
    sentence = f"mean {metric} of each subepoch:"
    values = lists_behind(messages, f".*{role}:.*Class-{class_index}:.*{sentence}", sentence)
    records = [record(epoch, subepoch) for epoch in range(2) for subepoch in range(SUBEPOCHS)]
    expected = [getattr(of.ratios(class_index), metric.lower()) for of in records]
    assert values == [None if value is None else pytest.approx(value, abs=5.1e-5) for value in expected]


def test_overall_lists_are_found_by_the_expressions_of_the_original(messages):
    sentence = "mean accuracy of each subepoch:"
    accuracies = [(59 + 10 * epoch + subepoch + 20) / 100 for epoch in range(2) for subepoch in range(SUBEPOCHS)]
    for role in ("TRAINING", "VALIDATION"):
        assert lists_behind(messages, f".*{role}:.*Overall:.*{sentence}", sentence) == pytest.approx(accuracies)
    sentence = "mean cost of each subepoch:"
    costs = [0.5, 0.25, 0.16667] * 2
    assert lists_behind(messages, f".*TRAINING:.*Overall:.*{sentence}", sentence) == pytest.approx(costs)
    assert lists_behind(messages, f".*VALIDATION:.*Overall:.*{sentence}", sentence) == []


def test_dice_of_whole_volumes_is_found_by_the_expression_of_the_original(messages):
    expression = ".*ACCURACY:.*Validation.*The Per-Class average DICE Coefficients over all subjects are:.*DICE2="
    assert lists_behind(messages, expression, "DICE2=") == [0.5, 0.25, None, 0.6, 0.25, None]


def test_lines_of_a_subepoch_have_the_wording_of_the_original(messages):
    text = "\n".join(messages)
    assert "TRAINING: Epoch #0, Subepoch #1, Overall:\t mean accuracy:   \t0.8000\t=> Correctly-Classified" in text
    assert "Correctly-Classified-Voxels/All-Predicted-Voxels = 80/100" in text
    assert "TRAINING: Epoch #0, Subepoch #1, Overall:\t mean cost:      \t0.25000" in text
    assert "VALIDATION: Epoch #1, Subepoch #2, Class-1:\t mean sensitivity:\t0.8000\t=> TruePos/RealPos = 32/40" in text
    assert "Class-0:\t mean sensitivity:\t1.0000\t=> TruePos/RealPos = 40/40" in text
    assert "Class-2:\t mean Dice:       \tN/A" in text
    assert "Class-2:\t mean precision:  \t0.0000\t=> TruePos/(TruePos+FalsePos) = 0/1" in text


def test_stages_and_times_have_the_wording_of_the_original(messages):
    text = "\n".join(messages)
    assert "Starting new Epoch! Epoch #0/2" in text
    assert "Starting new Subepoch: #2/3" in text
    assert "Compiling the Training Function" in text
    assert (
        "(Re)Initializing parameters for the optimization. Reason: Uninitialized: [False], Reset requested: [True]"
    ) in text
    assert "...Initializing attributes for the optimization..." in text
    assert "TIMING: Training on batches of this subepoch #2 lasted: 2.0 secs." in text
    assert "TIMING: Validation on batches of subepoch #2 lasted: 1.0 secs." in text
    assert re.search(r"TIMING: Whole Epoch #1 lasted: \d+\.\d secs\.", text)
    assert text.count("[TRAINING] Processed") == 2 * SUBEPOCHS * 6


def test_a_continued_session_does_not_say_that_optimisation_starts_anew(caplog):
    with caplog.at_level(logging.DEBUG, logger="deepmedic"):
        Recorder(config(), CLASSES, RecorderOutputs()).optimisation_started(uninitialized=False, reset=False)
    assert "Compiling the Training Function" in caplog.text
    assert "Initializing" not in caplog.text


def test_the_console_shows_a_few_lines_per_epoch(caplog):
    with caplog.at_level(logging.INFO, logger="deepmedic"):
        run(Recorder(config(), CLASSES, RecorderOutputs()), range(1))
    lines = caplog.messages[5:]
    assert lines[0] == "~~ Starting new Epoch! Epoch #0/2 ~~"
    assert re.fullmatch(r"Epoch #0/2 took \d+\.\d s at learning rate 0\.001, momentum 0\.6", lines[1])
    assert lines[2:] == [
        "   training:   cost 0.30556, accuracy 0.8000, Dice oedema 0.5250, core N/A",
        "   validation: accuracy 0.8000, Dice oedema 0.5250, core N/A",
        "   whole volumes: mean Dice 0.3750 (whole foreground 0.5000, oedema 0.2500, core N/A)",
    ]


def test_number_lists_are_separated_by_spaces():
    assert number_list([0.123456, None, 1.0]) == "[ 0.1235 N/A 1.0000 ]"
    assert number_list([]) == "[ ]"


def test_events_are_json_lines(tmp_path):
    events = tmp_path / "trial.jsonl"
    run(Recorder(config(), CLASSES, RecorderOutputs(events=EventLog(events))))
    rows = [json.loads(line) for line in events.read_text().splitlines()]
    kinds = [row["event"] for row in rows]
    assert kinds[:2] == ["optimisation_started", "epoch_started"]
    assert kinds[-1] == "session_finished"
    assert (kinds.count("subepoch"), kinds.count("epoch"), kinds.count("volumes")) == (12, 2, 2)
    subepoch = next(row for row in rows if row["event"] == "subepoch" and row["role"] == "training")
    assert (subepoch["epoch"], subepoch["subepoch"], subepoch["cost"]) == (0, 0, 0.5)
    assert subepoch["dice"][2] is None
    epoch = next(row for row in rows if row["event"] == "epoch")
    assert epoch["dice"]["validation"]["oedema"] == pytest.approx(0.525)


def test_the_csv_file_follows_the_history_and_is_cut_back_on_resume(tmp_path):
    path = tmp_path / "logs" / "trial.metrics.csv"
    whole = Recorder(config(), CLASSES, RecorderOutputs(metrics=path))
    run(whole)
    expected = path.read_bytes()
    assert expected.decode() == whole.history.csv()

    interrupted = Recorder(config(), CLASSES, RecorderOutputs(metrics=path))
    run(interrupted, range(1))
    saved = json.dumps(interrupted.history.to_plain())
    interrupted.subepoch_finished("training", 1, 0, record(1, 0, 0.9), 1.0)  # after the checkpoint; to be forgotten
    interrupted.write_metrics()
    assert "0.9" in path.read_text()

    resumed = Recorder(config(), CLASSES, RecorderOutputs(metrics=path), History.from_plain(json.loads(saved)))
    resumed.session_started()
    with path.open() as file:
        assert {row["epoch"] for row in csv.DictReader(file)} == {"0"}
    run(resumed, range(1, 2))
    assert path.read_bytes() == expected


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(of.step, of.value) for of in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_has_the_tags_and_steps_of_the_original(tmp_path):
    writer = open_tensorboard(tmp_path, History(), SUBEPOCHS)
    run(Recorder(config(), CLASSES, RecorderOutputs(tensorboard=writer)))
    train, val = scalars(tmp_path / "train"), scalars(tmp_path / "val")
    assert [step for step, _ in train["samples: cost/Class-all"]] == list(range(2 * SUBEPOCHS))
    assert train["samples: accuracy/Class-all"][1] == (1, pytest.approx(0.80))
    assert train["samples: Dice/Class-1"][0] == (0, pytest.approx(2 * 20 / (20 + 20 + 40)))
    assert train["samples: Dice/Class-2"][0][1] != train["samples: Dice/Class-2"][0][1]  # not a number
    assert "samples: cost/Class-all" not in val
    assert val["samples: specificity/Class-0"][0] == (0, pytest.approx(59 / 60))
    dice = val["whole scans: Dice1 (Prediction VS Truth)/Class-0"]
    assert dice == [(2, pytest.approx(0.5)), (5, pytest.approx(0.6))]
    assert "whole scans: Dice2 (Prediction within ROI mask VS Truth)/Class-1" in val
    assert "whole scans: Dice3 (Prediction VS Truth, both within ROI mask)/Class-1" in val


def test_tensorboard_forgets_what_came_after_the_checkpoint(tmp_path):
    first = open_tensorboard(tmp_path, History(), SUBEPOCHS)
    recorder = Recorder(config(), CLASSES, RecorderOutputs(tensorboard=first))
    run(recorder, range(1))
    saved = recorder.history.to_plain()
    first.write_subepoch("training", 1, 0, record(0, 0, 77.0))
    first.close()

    history = History.from_plain(saved)
    resumed = Recorder(
        config(), CLASSES, RecorderOutputs(tensorboard=open_tensorboard(tmp_path, history, SUBEPOCHS)), history
    )
    run(resumed, range(1, 2))
    costs = scalars(tmp_path / "train")["samples: cost/Class-all"]
    assert [step for step, _ in costs] == list(range(2 * SUBEPOCHS))
    assert 77.0 not in [cost for _, cost in costs]


def test_missing_tensorboard_is_one_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert open_tensorboard(tmp_path / "events", History(), SUBEPOCHS) is None
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING
    assert "the package tensorboard is not installed" in warning.message
    assert "pip install tensorboard" in warning.message
    assert not (tmp_path / "events").exists()
