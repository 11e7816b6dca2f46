"""Advice from scores: every rule on a case that can be checked by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from random_architectures import small_architecture

from deepmedic.analysis.ccfv import CcFv
from deepmedic.analysis.evidence import Evidence, weigh
from deepmedic.analysis.learning_curve import CurvePoint, LearningCurve
from deepmedic.analysis.recommendation import Schedule, depth_of, describe_cases, frozen_lists, recommend
from deepmedic.analysis.scores import Confusions, Interval
from deepmedic.analysis.transferability import LayerScores, compare_layer

SUBJECTS = ("a", "b", "c", "d")
CURVE = LearningCurve((CurvePoint(2, Interval(0.7, 0.6, 0.8)), CurvePoint(4, Interval(0.7, 0.6, 0.8))), 0.02)


def scores(layer: str, shares: tuple[float, ...]) -> LayerScores:
    """Two classes of 100 voxels in every subject, of each of which a share is found."""
    counts = np.array([[[100 * p, 100 * (1 - p)], [100 * (1 - p), 100 * p]] for p in shares])
    confusions = Confusions(SUBJECTS, counts)
    return LayerScores(layer, 8, confusions, confusions, confusions, 0.0, 0.0, CcFv(1.0, 1.0))


def evidence(**layers: tuple[tuple[float, ...], tuple[float, ...]]) -> Evidence:
    """From (pretrained, random) shares of each layer; `__` stands for the slash in a name."""
    compared = [
        compare_layer(scores(name.replace("__", "/"), own), [scores(name.replace("__", "/"), random)], 0)
        for name, (own, random) in layers.items()
    ]
    return weigh(compared, 0.02, seed=0)


GOOD, BETTER = (0.85, 0.9, 0.88, 0.87), (0.95, 0.97, 0.96, 0.94)
WEAK, CHANCE = (0.7, 0.72, 0.69, 0.71), (0.5, 0.51, 0.49, 0.5)


def advise(found: Evidence, as_it_is: Interval | None = None, epochs: int = 20):
    return recommend(found, CURVE, small_architecture(), Schedule(epochs, 100, 0.004), as_it_is)


class TestEvidence:
    def test_the_best_layers_are_compared_with_each_other(self) -> None:
        found = evidence(normal__1=(WEAK, GOOD), normal__2=(BETTER, WEAK))
        assert (found.best_layer, found.best_random) == ("normal/2", ("normal/1",))
        differences = np.array(BETTER) - np.array(GOOD)  # Dice of two balanced classes is the share that is found
        assert found.gain.mean == pytest.approx(differences.mean())
        assert found.gain.low == pytest.approx(differences.min(), abs=1e-6)
        assert found.useful_layers == ("normal/2",)
        assert (found.chance, found.learnable) == (0.5, True)

    def test_guessing_is_not_learnable(self) -> None:
        assert not evidence(normal__1=(CHANCE, CHANCE)).learnable
        assert not evidence(normal__1=((0.5, 0.9, 0.9, 0.9), CHANCE)).learnable


class TestVerdict:
    def test_clear_gain_is_transfer_up_to_the_deepest_useful_layer(self) -> None:
        found = advise(evidence(normal__1=(GOOD, WEAK), normal__2=(BETTER, WEAK), normal__3=(WEAK, WEAK)))
        assert (found.verdict, found.layers, found.keep_classes) == ("transfer", (1, 2), False)
        assert [(phase.frozen, phase.rate) for phase in found.phases] == [((1, 2), 1.0), ((), 1.0)]
        assert [(phase.epochs, phase.learning_rate) for phase in found.phases] == [(2, 0.004), (18, 0.004)]

    def test_guessing_is_do_not_transfer(self) -> None:
        found = advise(evidence(normal__1=(CHANCE, CHANCE)))
        assert (found.verdict, found.layers) == ("do not transfer", ())
        assert "guessing gives 0.500" in found.reasons[0]
        assert found.predicted_gain.mean == 0.0

    def test_random_features_that_are_as_good_are_do_not_transfer(self) -> None:
        found = advise(evidence(normal__1=(GOOD, GOOD)))
        assert found.verdict == "do not transfer"
        assert "random features are as good" in found.reasons[0]

    def test_a_model_that_knows_nothing_of_a_task_that_can_be_learnt_is_do_not_transfer(self) -> None:
        found = advise(evidence(normal__1=(CHANCE, GOOD)))
        assert found.verdict == "do not transfer"
        assert "random features are as good" in found.reasons[0]

    def test_a_gain_that_may_be_chance_is_no_evidence(self) -> None:
        found = advise(evidence(normal__1=(GOOD, (0.7, 0.95, 0.8, 0.9))))
        assert found.verdict == "no evidence"
        assert "can be neither shown nor ruled out" in found.reasons[0]

    def test_classes_are_kept_where_the_model_knows_them_already(self) -> None:
        found = evidence(normal__1=(GOOD, WEAK), normal__2=(BETTER, WEAK))
        keeps = advise(found, Interval(0.9, 0.8, 0.95))
        assert keeps.keep_classes
        assert keeps.layers == (1, 2, 3, 4)  # three in the parallel pathways, one hidden in the FC pathway
        assert [(phase.epochs, phase.rate, phase.frozen) for phase in keeps.phases] == [(20, 1.0, ())]
        assert not advise(found, Interval(0.3, 0.2, 0.4)).keep_classes

    def test_the_forecast_reaches_from_nothing_to_all_of_the_head_start(self) -> None:
        found = evidence(normal__1=(BETTER, WEAK))
        predicted = advise(found).predicted_gain
        assert predicted.low == 0.0
        assert predicted.high == found.volume_gain.high
        assert predicted.mean == pytest.approx(0.25 * found.volume_gain.mean)
        worse = advise(evidence(normal__1=(WEAK, BETTER))).predicted_gain
        assert worse.low < worse.mean < worse.high == 0.0

    def test_every_phase_has_an_epoch_and_together_they_have_those_of_the_schedule(self) -> None:
        found = evidence(normal__1=(GOOD, WEAK))
        for epochs in range(2, 50):
            given = [phase.epochs for phase in advise(found, epochs=epochs).phases]
            assert min(given) >= 1
            assert sum(given) == epochs
        assert [phase.epochs for phase in advise(found, epochs=1).phases] == [1, 1]

    def test_equal_evidence_gives_equal_advice(self) -> None:
        found = evidence(normal__1=(GOOD, WEAK))
        assert advise(found).to_plain() == advise(found).to_plain()


class TestDepths:
    @pytest.mark.parametrize(
        ("layer", "depth"), [("normal/2", 2), ("subsampled2/3", 3), ("fc/1", 4), ("penultimate", 4)]
    )
    def test_depths_are_those_of_layers(self, layer, depth) -> None:
        assert depth_of(small_architecture(), layer) == depth

    def test_depths_become_lists_of_layers_to_freeze(self) -> None:
        assert frozen_lists(small_architecture(), (1, 2, 3, 4)) == {
            "layersToFreezeNormal": [1, 2, 3],
            "layersToFreezeSubsampled": [1, 2, 3],
            "layersToFreezeFC": [1],
        }
        assert frozen_lists(replace(small_architecture(), subsampled=()), (1,)) == {
            "layersToFreezeNormal": [1],
            "layersToFreezeFC": [],
        }


def test_the_learning_curve_in_words() -> None:
    assert "4 cases to learn from seem enough" in describe_cases(CURVE)
    steep = LearningCurve((CurvePoint(2, Interval(0.4, 0.3, 0.5)), CurvePoint(4, Interval(0.6, 0.5, 0.7))), 0.02)
    assert describe_cases(steep).startswith("not enough cases: with 4 to learn from the curve still rises")
    slow = LearningCurve((CurvePoint(2, Interval(0.4, 0.3, 0.5)), CurvePoint(4, Interval(0.45, 0.4, 0.5))), 0.001)
    assert "many more, above 40, would be needed until that is less than 0.001" in describe_cases(slow)
    single = LearningCurve((CurvePoint(1, Interval(0.4, -math.inf, math.inf)),), 0.02)
    assert "list at least 3 labelled cases" in describe_cases(single)
