"""The report of a transfer: table, plain values and log lines."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from transfer_models import A_DOZEN, architecture, fresh, model

from deepmedic.transfer.received import Run, runs_of
from deepmedic.transfer.transplant import TransferOptions, TransferReport, transplant

BATCH_NORM = "bn_gamma, bn_beta, prelu_alpha"


def report_of(source, target, **options) -> TransferReport:
    return transplant(source, target, TransferOptions(**options)).report


class TestText:
    def test_a_small_table(self) -> None:
        source = model(architecture((2, 3), (), (2,)), "A")
        report = report_of(source, fresh(architecture((2, 4), ((2, 2),), (2,)), "B"))
        summary, *rows, unused = report.to_text().splitlines()
        assert summary == "517 of 598 parameters (86.5%) of model B come from model A."
        assert [re.split(r" {2,}", row.strip()) for row in rows] == [
            ["layer", "depth", "kernel", "received from", "share", "what"],
            ["normal/1", "1", "3x3x3", "normal/1", "100%", "copied"],
            ["normal/2", "2", "3x3x3", "normal/2", "76%", f"copied: {BATCH_NORM}, bn_mean_rolling, bn_var_rolling"],
            ["sliced [0:3, 0:2] of 4x2 <- [0:3, 0:2] of 3x2: weight"],
            ["subsampled1/1", "1", "3x3x3", "normal/1", "100%", "copied"],
            [
                "subsampled1/2",
                "2",
                "3x3x3",
                "normal/2",
                "100%",
                f"copied: {BATCH_NORM}, bn_mean_rolling, bn_var_rolling",
            ],
            ["sliced [0:2, 0:2] of 2x2 <- [0:2, 0:2] of 3x2: weight"],
            ["fc/1", "3", "1x1x1", "fc/1", "50%", f"sliced [0:3] of 6 <- [0:3] of 3: {BATCH_NORM}"],
            ["sliced [0:2, 0:3] of 2x6 <- [0:2, 0:3] of 2x3: weight"],
            ["sliced [:, 0:3] of 3x6 <- [:, 0:3] of 3x3: bn_mean_rolling, bn_var_rolling"],
            ["fc/2", "4", "1x1x1", "-", "0%", "new"],
            ["(not transferred by default)"],
        ]
        assert unused == "Not used of the source: fc/2, softmax"
        start = rows[0].index("what")
        assert all(row[start - 2 : start] == "  " and row[start] != " " for row in rows)

    def test_single_channels_notes_and_unused_tensors(self) -> None:
        source = model(architecture(activation="prelu"), "A", channel_names=("T1", "T2"))
        target = fresh(architecture(activation="relu", channels=3), "B", channel_names=("T2", "CT", "T1"))
        text = report_of(source, target, new_channels="mean", layers=(1, 2)).to_text()
        assert (
            "sliced [0:3, 0+2] of 3x3 <- [0:3, 1+0] of 3x2 (image channel 1 from the mean of the source's; weights "
            in text
        )
        assert "(not in -layers)" in text
        assert (
            "Not used of the source: normal/2 (prelu_alpha), subsampled1/2 (prelu_alpha), fc/1, fc/2, softmax" in text
        )
        assert text.endswith("Note: the activation is relu in the new model and prelu in the source model")


class TestPlain:
    def test_survives_json_and_says_what_the_report_says(self) -> None:
        source, target = model(A_DOZEN["low_rank"][0], "A"), fresh(A_DOZEN["low_rank_wider"][0], "B")
        report = report_of(source, target)
        plain = json.loads(json.dumps(report.to_plain()))
        assert plain["share"] == report.transferred / report.parameters
        assert (plain["kind"], plain["source"], plain["target"]) == ("pretrained", "A", "B")
        tensors = {tensor["name"]: tensor for layer in plain["layers"] for tensor in layer["tensors"]}
        assert tensors.keys() == target.parameters.keys()
        assert tensors["normal/2/weight_y"] == {
            "name": "normal/2/weight_y",
            "shape": [3, 5, 1, 3, 3],
            "status": "sliced",
            "source": "normal/2/weight_y",
            "sourceShape": [2, 4, 1, 3, 3],
            "slices": [[[0, 0, 2]], [[0, 0, 4]]],
            "received": 2 * 4 * 9,
            "size": 3 * 5 * 9,
            "note": "",
        }
        assert tensors["softmax/bias"]["status"] == "new"
        assert plain["layers"][0]["source"] == "normal/1"
        assert plain["unused"] == list(report.unused)

    def test_parameters_are_those_that_training_adjusts(self) -> None:
        target = fresh(architecture())
        report = report_of(model(architecture()), target, transfer_classes=True)
        assert report.parameters == sum(parameter.numel() for parameter in target.network().parameters())
        assert report.transferred == report.parameters


class TestLogLines:
    def test_phrases_of_the_original(self) -> None:
        source = model(architecture((3, 4), ()), "A")
        target = fresh(architecture((3, 4), ((3, 3),), batch_norm_window=0), "B")
        assert report_of(source, target, layers=(2, 4)).log_lines() == [
            "[Pathway_NORMAL][Conv.Layer_1 (index)], depth [2] (Target): Receiving parameters...",
            "\t...receiving parameters from [Pathway_NORMAL][Conv.Layer_1 (index)] (Source).",
            "\tTransferring a of PReLu [aPrelu].",
            "\tTransferring weights [W].",
            "[Pathway_SUBSAMPLED[3, 3, 3]][Conv.Layer_1 (index)], depth [2] (Target): Receiving parameters...",
            "\tSource model has fewer parallel pathways than Target: parameters are received from its last parallel "
            "pathway [Pathway_NORMAL].",
            "\t...receiving parameters from [Pathway_NORMAL][Conv.Layer_1 (index)] (Source).",
            "\tTransferring a of PReLu [aPrelu].",
            "\tTransferring weights [W].",
            "[Pathway_FC][Conv.Layer_1 (index)], depth [4] (Target): Receiving parameters...",
            "\t...receiving parameters from [Pathway_FC][Conv.Layer_1 (index)] (Source).",
            "\tTransferring a of PReLu [aPrelu].",
            "\tTransferring weights [W].",
            "\tTransferring biases [b] of the softmax.",
        ]

    def test_batch_norm(self) -> None:
        lines = report_of(model(architecture()), fresh(architecture()), layers=(2,)).log_lines()
        assert lines[2:7] == [
            "\tTransferring g of Batch Norm [gBn].",
            "\tTransferring biases [b].",
            "\tTransferring a of PReLu [aPrelu].",
            "\tTransferring weights [W].",
            "\tTransferring rolling average of MU of Batch Norm [muBnsArrayForRollingAverage].",
        ]


@pytest.mark.parametrize(
    ("origins", "runs"),
    [
        ((), ()),
        ((-1, -1), ()),
        ((0, 1, 2), (Run(0, 0, 3),)),
        ((2, 3, -1, 4, 0), (Run(0, 2, 2), Run(3, 4, 1), Run(4, 0, 1))),
        ((1, 0), (Run(0, 1, 1), Run(1, 0, 1))),
    ],
)
def test_runs(origins, runs) -> None:
    assert runs_of(origins) == runs
