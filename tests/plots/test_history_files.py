import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from deepmedic import checkpoints
from deepmedic.config.load import load_model_config
from deepmedic.errors import CommandLineError, DataError, ModelError
from deepmedic.model.saved import SavedModel
from deepmedic.plots.histories import parse_history
from deepmedic.plots.history_files import read_histories, read_history
from deepmedic.training.history import History

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def test_a_history_is_found_by_whatever_names_its_session(output: Path) -> None:
    expected = (output / "logs" / "first.metrics.csv").resolve()
    for folder in ("cnnModels", "predictions", "tensorboard"):
        (output / folder / "first").mkdir(parents=True)
    (output / "logs" / "first.txt").write_text("log")
    (output / "logs" / "first.jsonl").write_text("")
    names = ["logs/first.metrics.csv", "logs/first.txt", "logs/first.jsonl", "logs/first", "first"]
    names += ["cnnModels/first", "predictions/first", "tensorboard/first"]
    assert {name: read_history(output / name).source.resolve() for name in names} == dict.fromkeys(names, expected)


def test_an_output_folder_with_one_session_stands_for_it(output: Path) -> None:
    (output / "logs" / "second.metrics.csv").unlink()
    assert read_history(output).name == "first"
    assert read_history(output / "logs").name == "first"


def test_an_output_folder_with_several_sessions_is_refused_with_the_list(output: Path) -> None:
    with pytest.raises(CommandLineError, match=r"(?s)histories of 2 sessions; name those to plot:.*first\..*second\."):
        read_history(output)


def test_a_name_that_leads_nowhere_is_refused_with_the_sessions_there_are(output: Path) -> None:
    with pytest.raises(CommandLineError, match=r"frist: there is no such file.* Sessions found there: first, second\."):
        read_history(output / "frist")


def test_a_folder_without_histories_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandLineError, match="holds neither a metric history"):
        read_history(tmp_path)


def test_files_that_are_no_history_are_refused(tmp_path: Path) -> None:
    scores, log = tmp_path / "metrics.csv", tmp_path / "old.txt"
    scores.write_text("case,class_index,dice\ns,1,0.9\n")
    log.write_text("Starting new Epoch!\n")
    with pytest.raises(DataError, match=r"metrics\.csv: is not the metric history .* lacks the column\(s\) epoch, sub"):
        read_history(scores)
    with pytest.raises(DataError, match=r"old\.txt: is neither a metric history .* nor a saved model"):
        read_history(log)
    scores.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"metrics\.csv: cannot be read as the metric history"):
        read_history(scores)


def test_a_history_without_rows_has_nothing_to_plot(tmp_path: Path) -> None:
    path = tmp_path / "new.metrics.csv"
    path.write_text(History().csv())
    with pytest.raises(DataError, match="nothing to plot yet: no subepoch of this session is finished"):
        read_history(path)


def test_class_names_come_from_the_record_of_events(output: Path) -> None:
    events = output / "logs" / "first.jsonl"
    dice = {"CSF": 0.5, "white matter": 0.4}
    epoch = {"event": "epoch", "dice": {"training": dice}}
    events.write_text('{"event": "epoch_started", "epoch": 0}\n' + json.dumps(epoch) + "\n")
    session = read_history(output / "first")
    assert [session.name_of(index) for index in range(3)] == ["whole foreground", "CSF", "white matter"]
    events.write_text("spoilt\n")
    assert read_history(output / "first").name_of(1) == "class 1"
    del dice["CSF"]  # one name for two classes tells nothing
    events.write_text(json.dumps(epoch) + "\n")
    assert read_history(output / "first").name_of(1) == "class 1"


def saved_model(path: Path, training: dict[str, object] | None) -> Path:
    model = SavedModel.new(load_model_config(CONFIGS / "tiny" / "model.cfg"), seed=0)
    checkpoints.save(path, replace(model, training=training).to_content())
    return path


def test_a_saved_model_has_the_history_of_its_session(tmp_path: Path, make_history: Callable[..., History]) -> None:
    history = make_history(classes=4)
    training = {"session": "trial", "save_index": 3, "history": history.to_plain()}
    path = saved_model(tmp_path / "tiny.trial.latest.save", training)
    session = read_history(path)
    assert (session.name, session.name_of(2)) == ("trial", "grey matter")
    assert session.rows == parse_history(history.csv(), path)
    assert read_history(tmp_path) == session


def test_a_model_that_was_never_trained_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"new\.save: has no history to plot"):
        read_history(saved_model(tmp_path / "new.save", None))


def test_a_damaged_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cut.save").write_bytes(b"PK\x03\x04")
    with pytest.raises(ModelError, match="damaged"):
        read_history(tmp_path / "cut.save")


def test_sessions_of_equal_names_are_told_apart_by_their_folders(
    tmp_path: Path, make_history: Callable[..., History]
) -> None:
    paths = [tmp_path / run / "logs" / "s.metrics.csv" for run in ("monday", "tuesday")]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_text(make_history().csv())
    assert [session.name for session in read_histories(paths)] == ["s (monday)", "s (tuesday)"]


def test_a_session_given_twice_is_refused(output: Path) -> None:
    with pytest.raises(CommandLineError, match="this session is given twice"):
        read_histories([output / "first", output / "logs" / "first.metrics.csv"])
