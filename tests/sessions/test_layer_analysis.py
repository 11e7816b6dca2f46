"""`-analyseLayers` as a whole command: what it writes, that it repeats itself, and refusals."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from study import Study, table_of

from deepmedic import checkpoints
from deepmedic.sessions.transfer import layer_analysis, layer_results
from deepmedic.sessions.transfer.kept_units import KeptUnits

BOTH = {
    "channels": ["lists/train_t1.cfg", "lists/train_t2.cfg"],
    "gtLabels": "lists/train_labels.cfg",
    "roiMasks": "lists/train_roi.cfg",
    "namesForPredictionsPerCase": None,
}


@pytest.fixture(autouse=True)
def _quick(request, monkeypatch) -> None:
    """Drawing takes longer than all else, and fewer voxels show as much."""
    monkeypatch.setattr(layer_analysis, "_MOST_VOXELS", 120)
    monkeypatch.setattr(layer_analysis, "_FEWEST_PER_CLASS", 20)
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr(layer_results, "draw_layers", lambda plain, folder: [])


def results(study: Study) -> Path:
    return study.out / "layers" / "segment"


def found(study: Study) -> dict[str, Any]:
    return json.loads((results(study) / "layers.json").read_text())


def table(study: Study, name: str) -> list[dict[str, str]]:
    return table_of(results(study) / name)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_everything_is_written_and_the_model_stays_as_it_is(study, run, source, pictures) -> None:
    before = source.read_bytes()
    outcome = run("-analyseLayers", study.test(**BOTH, report=True), "-model", source)
    assert outcome.code == 0, outcome.err
    assert source.read_bytes() == before
    plain = found(study)
    assert plain["layers"] == ["normal/1", "normal/2", "subsampled1/1", "subsampled1/2", "fc/1", "penultimate", "fc/2"]
    rows = table(study, "layer_importance.csv")
    assert (rows[0]["unit"], rows[0]["drop_reinitialised"]) == ("model", "0")
    assert {"normal/1", "subsampled1", "fc", "all layers"} <= {row["unit"] for row in rows}
    [whole] = [one for one in plain["importance"] if one["unit"] == "all layers"]
    assert whole["dice"] + whole["criticality"] == pytest.approx(float(rows[0]["dice_reinitialised"]))
    assert not any(row["unchanged"] for row in plain["weightDistance"])
    assert [row["network"] for row in plain["knn"][:3]] == ["trained", "start", "random"]
    matrix = plain["cka"]["trained-trained"]["values"]
    assert [row[place] for place, row in enumerate(matrix)] == [1.0] * 7
    diagonal = table(study, "cka.csv")
    assert float(diagonal[0]["trained-start"]) == pytest.approx(plain["cka"]["trained-start"]["values"][0][0])
    assert {"layers.png", "cka.png", "weight_distance.csv", "cka_trained_start.csv"} <= set(digests(results(study)))
    assert "Most critical layer: " in outcome.out
    assert f"deepmedic -inspect {source}" in outcome.out
    page = (study.out / "reports" / "segment.html").read_text()
    assert f"<dt>Dice of the model</dt><dd>{plain['reference']:.4f}</dd>" in page
    assert page.count('src="data:image/png;base64,') == 2
    assert all(page.count(f"<td>{layer}</td>") >= 3 for layer in plain["layers"][:3])


def test_a_model_that_never_moved_has_no_distance_and_no_critical_layer(study, run, source) -> None:
    content = checkpoints.load(source)
    content["start_parameters"] = {name: tensor.clone() for name, tensor in content["parameters"].items()}
    checkpoints.save(study.folder / "same.save", content)
    assert run("-analyseLayers", study.test(**BOTH), "-model", study.folder / "same.save").code == 0
    plain = found(study)
    assert plain["totalL2"] == 0
    assert all(row["unchanged"] for row in plain["weightDistance"])
    assert {one["criticality"] for one in plain["importance"]} == {0.0}
    similar = plain["cka"]["trained-start"]["values"]
    assert [row[place] for place, row in enumerate(similar)] == pytest.approx([1.0] * 7)
    trained, start = ([row["dice"] for row in plain["knn"] if row["network"] == name] for name in ("trained", "start"))
    assert trained == start


def test_two_models_are_compared_and_a_repeated_analysis_is_the_same(study, run, source) -> None:
    content = checkpoints.load(source)
    content["parameters"] = content["start_parameters"]
    checkpoints.save(study.folder / "other.save", content)
    command = ("-analyseLayers", study.test(**BOTH), "-model", source, study.folder / "other.save")
    assert run(*command).code == 0
    plain, files = found(study), digests(results(study))
    between, earlier = (np.array(plain["cka"][name]["values"]) for name in ("trained-other", "trained-start"))
    np.testing.assert_allclose(between, earlier, atol=1e-9)
    assert "This analysis was made before" in run(*command).out
    assert run(*command, "-overwrite").code == 0
    assert digests(results(study)) == files
    refused = run(*command[:-1])
    assert refused.code == 8
    assert "holds the results of another request" in refused.err


def test_a_case_that_cannot_be_read_is_left_out_where_that_is_allowed(study, run, source) -> None:
    study.write_cases(4)
    study.list_cases("train", range(3))
    path = study.image(1, "t2")
    path.write_bytes(path.read_bytes()[:-2000])
    config = study.test(**BOTH, allowSkippedCases=True)
    assert run("-analyseLayers", config, "-model", source).code == 9
    assert list(found(study)["skippedCases"]) == ["case1_t1"]


class TestInterruption:
    def test_units_that_were_replaced_are_not_replaced_again_and_the_results_are_the_same(
        self, study, run, source, monkeypatch
    ) -> None:
        command = ("-analyseLayers", study.test(**BOTH), "-model", source)
        segmented: list[int] = []
        segment_cases = layer_analysis.segment_cases

        def counted(*words: Any) -> Any:
            segmented.append(1)
            if stop_after is not None and len(segmented) > stop_after:
                raise KeyboardInterrupt
            return segment_cases(*words)

        monkeypatch.setattr(layer_analysis, "segment_cases", counted)
        stop_after: int | None = 1 + 4 * 2  # the model, then every layer once as it was and three times drawn anew
        assert run(*command).code == 130
        assert sorted(path.name for path in results(study).iterdir()) == ["finished_units.json"]
        stop_after = None
        outcome = run(*command)
        assert outcome.code == 0, outcome.err
        assert "Going on: 2 units were replaced before the interruption." in outcome.out
        whole = 1 + 10 + 3 * 9
        assert len(segmented) == 1 + 4 * 2 + 1 + (whole - 1 - 4 * 2)
        found = digests(results(study))
        assert "finished_units.json" not in found
        assert run(*command, "-overwrite").code == 0
        assert digests(results(study)) == found

    def test_units_of_another_request_and_damaged_ones_are_not_used(self, study, run, source) -> None:
        results(study).mkdir(parents=True)
        path = results(study) / "finished_units.json"
        for text in ('{"format": 1, "request": "another", "units": {"normal/1": {}}, "skippedCases": {}}', "{"):
            path.write_text(text)
            outcome = run("-analyseLayers", study.test(**BOTH), "-model", source, "-overwrite")
            assert outcome.code == 0, outcome.err
            assert "Going on" not in outcome.out
            path.write_text(text)
            assert KeptUnits.read(path, "this one").units == {}


def test_features_and_cases_stay_within_the_memory_budget(study, run, source, monkeypatch) -> None:
    kept = []
    held = layer_analysis._Held

    def noted(data: Any, memory: int) -> Any:
        kept.append(held(data, memory))
        return kept[-1]

    monkeypatch.setattr(layer_analysis, "_Held", noted)
    voxels = []
    for budget in (1.0, 4e-5):
        outcome = run("-analyseLayers", study.test(**BOTH, memoryBudget=budget), "-model", source, "-overwrite")
        assert outcome.code == 0, outcome.err
        voxels.append(found(study)["voxels"])
    assert [one._keeps for one in kept] == [True, False]
    channels = 3 + 4 + 3 + 4 + 5 + 5 + 3  # of all layers, that of the classes included
    assert voxels[1] < voxels[0]
    assert voxels[1] * channels * 4 * 5 <= 4e-5 * 2**30  # bytes, networks


class TestRefusals:
    def test_without_a_model(self, study, run) -> None:
        outcome = run("-analyseLayers", study.test())
        assert outcome.code == 2
        assert "-analyseLayers needs one trained model, or two to compare with each other; found 0" in outcome.err

    def test_an_untrained_model_labels_that_are_missing_and_one_subject_together(self, study, run) -> None:
        assert run("-newModel", study.model()).code == 0
        [model] = study.out.glob("cnnModels/*.save")
        before = study.files()
        outcome = run("-analyseLayers", study.test(gtLabels=None), "-model", model)
        assert outcome.code in (4, 5)
        assert "this model was never trained, so that there is nothing that training did to its layers" in outcome.err
        assert "no labels for case2; list them with gtLabels" in outcome.err
        assert "1 labelled cases of one subject are listed" in outcome.err
        assert study.files() == before

    def test_a_second_model_of_another_architecture(self, study, run, source) -> None:
        assert run("-newModel", study.model(modelName="wide", numberFMsPerLayerFC=[6])).code == 0
        [other] = study.out.glob("cnnModels/wide*.save")
        outcome = run("-analyseLayers", study.test(**BOTH), "-model", source, other)
        assert outcome.code == 5
        assert f"{other}: this model has another architecture than {source}" in outcome.err

    def test_check_tells_a_finished_analysis_from_another_one(self, study, run, source) -> None:
        command = ("-analyseLayers", study.test(**BOTH), "-model", source)
        assert run(*command).code == 0
        before, path = study.files(), study.folder / "check.json"
        again, check = run(*command), run(*command, "-check", "-output", path)
        assert again.code == check.code == 0, again.err + check.err
        assert study.files() == before
        assert f"This analysis was made before; its results are in {results(study)}." in again.out
        assert "begins: finished: its results are there; nothing would be done" in check.out
        told = json.loads(path.read_text())
        assert (told["session"], told["output"]) == ("segment", str(results(study)))
        assert "estimated" not in told
        assert run(*command, "-check", "-seed", 1).code == 8

    def test_check_writes_nothing(self, study, run, source) -> None:
        before = study.files()
        outcome = run(
            "-analyseLayers", study.test(**BOTH), "-model", source, "-check", "-output", study.folder / "c.json"
        )
        assert outcome.code == 0, outcome.err
        assert study.files() == before
        found = json.loads((study.folder / "c.json").read_text())
        # The model; 6 layers, 3 pathways and all as at the start; the former two drawn anew three times.
        assert found["segmentationsPerCase"] == 1 + 10 + 3 * 9
        assert [str(source)] == found["models"]
        assert "for 38 segmentations of each case" in found["estimated"]["time"]
        assert found["estimated"]["memoryOfFeatures"].endswith("B")
        assert found["begins"] == "starts"
