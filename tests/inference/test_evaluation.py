"""Scores of a case, their log lines in the original's words, and the way to a record and back."""

from __future__ import annotations

import json
import logging

import pytest
import torch

from deepmedic.inference.evaluation import CaseEvaluation, evaluate_case, log_case, log_means, mean_dices
from deepmedic.inference.predictor import Prediction


def evaluation(roi: bool = True) -> CaseEvaluation:
    """Four voxels: predicted 1 1 2 0, true 1 0 2 2, the last two of them outside the ROI."""
    everywhere = torch.tensor([1, 1, 2, 0], dtype=torch.uint8).view(4, 1, 1)
    labels = torch.tensor([1, 0, 2, 2], dtype=torch.uint8).view(4, 1, 1)
    mask = torch.tensor([True, True, False, False]).view(4, 1, 1) if roi else None
    inside = everywhere if mask is None else everywhere * mask
    prediction = Prediction(torch.zeros(3, 4, 1, 1), inside, everywhere)
    return evaluate_case("a", prediction, labels, mask, (2.0, 1.0, 5.0), ("air", "core", "edema"))


def test_three_dices_by_hand() -> None:
    dices = evaluation().dices
    assert dices.dice1 == pytest.approx([2 * 2 / (3 + 3), 2 / (2 + 1), 2 / (1 + 2)])
    assert dices.dice2 == pytest.approx([2 * 1 / (2 + 3), 2 / (2 + 1), 0])
    assert dices.dice3[:2] == pytest.approx([2 * 1 / (2 + 1), 2 / (2 + 1)])
    assert dices.dice3[2] is None  # no voxel of class 2 inside the ROI


def test_rows_score_what_is_saved() -> None:
    rows = evaluation().rows
    assert [(row.case, row.class_index) for row in rows] == [("a", 0), ("a", 1), ("a", 2)]
    assert rows[2].class_name == "edema"
    assert [row.dice for row in rows] == pytest.approx(evaluation().dices.dice2)
    assert rows[0].volume_truth_ml == pytest.approx(3 * 10 / 1000)


def test_without_roi_the_three_are_equal() -> None:
    dices = evaluation(roi=False).dices
    assert dices.dice1 == dices.dice2 == dices.dice3


def test_a_record_brings_the_scores_back() -> None:
    first = evaluation()
    text = json.dumps(first.to_plain())
    again = CaseEvaluation.from_plain(json.loads(text))
    assert again.dices == first.dices
    assert json.dumps(again.to_plain()) == text  # as text, since nan differs from itself


def test_log_line_of_a_case_is_the_original_s(caplog) -> None:
    with caplog.at_level(logging.DEBUG, "deepmedic"):
        log_case("Testing", 4, evaluation().dices)
    assert (
        "ACCURACY: (Testing) The Per-Class DICE Coefficients for subject with index #4 equal: "
        "DICE1=[ 0.6667 0.6667 0.6667 ] DICE2=[ 0.4000 0.6667 0.0000 ] DICE3=[ 0.6667 0.6667 N/A ]"
    ) in caplog.messages


def test_log_line_of_the_means_skips_undefined_ones(caplog) -> None:
    means = mean_dices([evaluation(), evaluation(roi=False)])
    assert means is not None
    with caplog.at_level(logging.DEBUG, "deepmedic"):
        log_means("Validation", means)
    assert (
        "ACCURACY: (Validation) The Per-Class average DICE Coefficients over all subjects are: "
        "DICE1=[ 0.6667 0.6667 0.6667 ] DICE2=[ 0.5333 0.6667 0.3333 ] DICE3=[ 0.6667 0.6667 0.6667 ]"
    ) in caplog.messages


def test_no_cases_have_no_means() -> None:
    assert mean_dices([]) is None
