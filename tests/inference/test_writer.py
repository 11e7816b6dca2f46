"""Saving in the background: what is written, and that no error is lost."""

from __future__ import annotations

import json
import threading

import nibabel as nib
import numpy as np
import pytest
import torch

from deepmedic.config.sections import OutputConfig
from deepmedic.data.nifti import array_header
from deepmedic.errors import ModelError
from deepmedic.inference import writer as writer_module
from deepmedic.inference.flow import Flow
from deepmedic.inference.predictor import Prediction
from deepmedic.inference.results import Record, ResultFiles
from deepmedic.inference.writer import CaseResults, ResultWriter, memory_of

SIZE = (4, 3, 2)
RECORD = Record({"format": 1, "model": "m", "settings": {}, "inputs": {}})


def results(name: str = "a", value: float = 0.25) -> CaseResults:
    labels = torch.arange(24, dtype=torch.uint8).view(SIZE) % 3
    maps = {(1, 0): torch.arange(48.0).view(2, *SIZE)}
    prediction = Prediction(torch.full((3, *SIZE), value), labels, labels, maps)
    return CaseResults(name, prediction, array_header(SIZE, np.diag([1.0, 2, 3, 1])), RECORD)


@pytest.fixture
def files(tmp_path) -> ResultFiles:
    output = OutputConfig(save_probability_maps=(False, False, True))
    return ResultFiles(tmp_path / "session", output, classes=3, feature_maps={1: {0: (4, 6)}})


def test_every_file_and_the_record_are_written(files) -> None:
    with ResultWriter(files) as writer:
        writer.submit(results())
    labels = nib.load(files.segmentation("a"))
    assert np.array_equal(np.asarray(labels.dataobj), np.arange(24).reshape(SIZE) % 3)
    assert labels.header.get_data_dtype() == np.uint8
    assert labels.header.get_zooms() == (1.0, 2.0, 3.0)
    probability = nib.load(files.probability("a", 2))
    assert probability.get_fdata().min() == 0.25
    assert probability.header.get_data_dtype() == np.float32
    second_map = nib.load(files.feature_map("a", 1, 0, 5)).get_fdata()
    assert np.array_equal(second_map.ravel(), np.arange(24.0, 48))
    assert len(json.loads(files.record("a").read_text())["results"]) == len(files.all_of("a")) == 4


def test_equal_results_give_equal_bytes(files) -> None:
    contents = []
    for _ in range(2):
        with ResultWriter(files) as writer:
            writer.submit(results())
        contents.append([path.read_bytes() for path in (*files.all_of("a"), files.record("a"))])
    assert contents[0] == contents[1]


def save(
    files: ResultFiles, *cases: CaseResults, then: type[BaseException] | None = None, flow: Flow | None = None
) -> None:
    with ResultWriter(files, flow) as writer:
        for case in cases:
            writer.submit(case)
        if then is not None:
            raise then


def test_an_error_surfaces_at_the_end(files) -> None:
    with pytest.raises(ModelError, match=r"a_ProbMapClass2\.nii\.gz: the model gives values that are not finite"):
        save(files, results(value=float("nan")))
    assert not files.probability("a", 2).exists()
    assert json.loads(files.record("a").read_text())["results"] is None


def test_an_error_surfaces_at_a_later_submit(files) -> None:
    with pytest.raises(ModelError):
        save(files, results("a", float("nan")), *(results(f"b{number}") for number in range(9)))
    assert not files.record("b8").exists()


def test_an_error_of_the_block_is_not_replaced(files) -> None:
    with pytest.raises(KeyboardInterrupt):
        save(files, results(value=float("nan")), then=KeyboardInterrupt)


MEMORY = memory_of(results().prediction)


@pytest.mark.parametrize(
    ("flow", "in_memory"),
    [
        (None, 2),
        (Flow(writers=3, memory=100 * MEMORY), 4),
        (Flow(writers=3, memory=6 * MEMORY), 3),
        (Flow(writers=3, memory=2 * MEMORY - 1), 2),
    ],
)
def test_few_cases_wait_in_memory(files, monkeypatch, flow, in_memory) -> None:
    may_write, submitted = threading.Event(), []
    write_volume = writer_module.write_volume

    def slow(*arguments) -> None:
        assert may_write.wait(timeout=20)
        write_volume(*arguments)

    monkeypatch.setattr(writer_module, "write_volume", slow)
    with ResultWriter(files, flow) as writer:

        def submit_all() -> None:
            for number in range(6):
                writer.submit(results(f"case{number}"))
                submitted.append(number)

        thread = threading.Thread(target=submit_all)
        thread.start()
        thread.join(timeout=0.3)
        waiting = list(submitted)
        may_write.set()
        thread.join(timeout=20)
    assert waiting == list(range(in_memory))
    assert submitted == [0, 1, 2, 3, 4, 5]
    assert all(files.record(f"case{number}").exists() for number in submitted)


def test_several_cases_are_written_at_once_and_told_of_in_order(files, monkeypatch, caplog) -> None:
    """No case is finished before the last one has begun."""
    write_volume, begun, last = writer_module.write_volume, set(), threading.Event()

    def together(path, *rest) -> None:
        begun.add(path.name.partition("_")[0])
        if len(begun) == 3:
            last.set()
        assert last.wait(timeout=20)
        write_volume(path, *rest)

    monkeypatch.setattr(writer_module, "write_volume", together)
    with caplog.at_level("DEBUG", "deepmedic"), ResultWriter(files, Flow(writers=3, memory=2**30, images=12)) as writer:
        for name in ("c", "a", "b"):
            writer.submit(results(name))
    told = [line.rpartition("/")[2].partition("_")[0] for line in caplog.messages if "Image saved at" in line]
    assert told == ["c"] * 4 + ["a"] * 4 + ["b"] * 4


def test_of_several_errors_that_of_the_first_case_is_raised(files, monkeypatch) -> None:
    second_failed = threading.Event()
    write_volume = writer_module.write_volume

    def later(path, *rest) -> None:
        if path.name.startswith("a_"):
            assert second_failed.wait(timeout=20)
        try:
            write_volume(path, *rest)
        finally:
            if path.name.startswith("b_"):
                second_failed.set()

    monkeypatch.setattr(writer_module, "write_volume", later)
    with pytest.raises(ModelError, match="a_ProbMapClass2"):
        save(
            files,
            results("a", float("nan")),
            results("b", float("nan")),
            flow=Flow(writers=2, memory=2**30, images=8),
        )
