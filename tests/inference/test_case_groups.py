"""Which cases are computed together, and that they get what each gets alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from deepmedic.inference.blending import Blending
from deepmedic.inference.case_groups import CaseGroup
from deepmedic.inference.execution import Attempt, InferenceSettings, batch_limit
from deepmedic.inference.forward_cost import forward_cost
from deepmedic.inference.predictor import Prediction, plan_case, predict_together, predict_volume
from deepmedic.inference.tiling import Tiling

CPU = torch.device("cpu")
SETTINGS = InferenceSettings(segment=(9, 9, 9), batch_size=10)


def way(tiles: int, segment=(9, 9, 9), sizes: int = 1) -> Attempt:
    corners = torch.zeros([tiles, 3], dtype=torch.int64)
    return Attempt((Tiling(segment, corners, corners, corners, (0, 0, 0)),) * sizes, 10, CPU, CPU)


def grouped(ways: Sequence[Attempt | None], limit: int = 10) -> list[list[int]]:
    """The numbers of cases in the order in which they are computed, by group."""
    group: CaseGroup[int] = CaseGroup(lambda _: limit)
    groups = []
    for number, one in enumerate(ways):
        if not group.admits(one):
            groups.append(group.release())
        group.add(number, one)
        if group.is_full:
            groups.append(group.release())
    return [*groups, group.release()]


# Which cases --------------------------------------------------------------------------------------------------------


def test_cases_wait_until_their_tiles_fill_a_batch() -> None:
    assert grouped([way(4), way(4), way(2), way(3)]) == [[0, 1, 2], [3]]


def test_a_case_that_does_not_fit_begins_the_next_group() -> None:
    assert grouped([way(4), way(7), way(3)]) == [[0], [1, 2], []]


@pytest.mark.parametrize(
    "alone",
    [way(10), way(25), way(0), way(2, sizes=2), way(2, segment=(9, 9, 10)), None],
    ids=["as many tiles as a batch", "more tiles", "no tile", "tiles of two sizes", "other tiles", "no memory"],
)
def test_other_cases_do_not_join(alone) -> None:
    assert [cases for cases in grouped([way(1), way(1), alone, way(1)]) if cases] == [[0, 1], [2], [3]]


def test_a_case_that_is_computed_alone_does_not_wait() -> None:
    group: CaseGroup[str] = CaseGroup(lambda _: 10)
    group.add("large", way(12))
    assert group.is_full
    assert group.release() == ["large"]
    assert not group.is_full


def test_a_group_knows_how_many_were_computed_last() -> None:
    group: CaseGroup[int] = CaseGroup(lambda _: 10)
    group.add(0, way(1))
    group.add(1, way(1))
    group.release()
    assert group.last_size == 2
    group.release()
    assert group.last_size == 1


@given(st.lists(st.tuples(st.integers(0, 6), st.sampled_from([(9, 9, 9), (7, 7, 7)])), max_size=12), st.integers(1, 6))
@examples(max_examples=100, deadline=None)
def test_every_case_comes_once_in_order_and_no_batch_is_too_large(cases, limit) -> None:
    found = grouped([way(tiles, segment) for tiles, segment in cases], limit)
    assert [number for group in found for number in group] == list(range(len(cases)))
    for group in found:
        if len(group) > 1:
            assert sum(cases[number][0] for number in group) <= limit
            assert len({cases[number][1] for number in group}) == 1


def test_memory_for_tiles_limits_a_batch(make_net) -> None:
    architecture = make_net().architecture
    assert batch_limit(architecture, (9, 9, 9), SETTINGS) == 10
    auto = InferenceSettings(segment=(9, 9, 9), tiling="auto", tile_memory=10**9)
    assert batch_limit(architecture, (9, 9, 9), auto) == 10
    per_tile = int(forward_cost(architecture, (9, 9, 9)).memory)
    little = InferenceSettings(segment=(9, 9, 9), tiling="auto", tile_memory=4 * per_tile - 1)
    assert batch_limit(architecture, (9, 9, 9), little) == 3
    nothing = InferenceSettings(segment=(9, 9, 9), tiling="auto", tile_memory=1)
    assert batch_limit(architecture, (9, 9, 9), nothing) == 1


# What they get ------------------------------------------------------------------------------------------------------


def together(net, cases, chosen: InferenceSettings, wanted=None, progress=None) -> list[Prediction]:
    return predict_together(net, [plan_case(net, case, chosen) for case in cases], chosen, wanted, progress)


def small_cases(make_case):
    roi = torch.zeros(12, 11, 9, dtype=torch.bool)
    roi[3:6, 4:9, 3:6] = True
    return [
        make_case((10, 9, 9), seed=1, name="a"),
        make_case((12, 11, 9), roi=roi, padding=((0, 1), (0, 0), (0, 0)), seed=2, name="b"),
        make_case((9, 9, 9), seed=3, name="c"),
    ]


class Passes:
    """Counts forward passes, and fails in those with more tiles than allowed."""

    def __init__(self, monkeypatch, net, most: int = 1000) -> None:
        self.tiles: list[int] = []
        real = type(net).forward_features

        def watched(this, *inputs, wanted):
            self.tiles.append(len(inputs[0]))
            if len(inputs[0]) > most:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return real(this, *inputs, wanted=wanted)

        monkeypatch.setattr(type(net), "forward_features", watched)


def assert_equal(found: list[Prediction], expected: list[Prediction]) -> None:
    for one, alone in zip(found, expected, strict=True):
        torch.testing.assert_close(one.probabilities, alone.probabilities, atol=1e-6, rtol=0)
        assert torch.equal(one.segmentation, alone.segmentation)
        assert torch.equal(one.segmentation_everywhere, alone.segmentation_everywhere)
        assert one.feature_maps.keys() == alone.feature_maps.keys()
        for layer, maps in one.feature_maps.items():
            torch.testing.assert_close(maps, alone.feature_maps[layer], atol=1e-5, rtol=0)


@pytest.mark.parametrize("blending", [None, Blending(0.5, 0.125)], ids=["plain", "blended"])
@pytest.mark.parametrize("factors", [(), ((3, 3, 2), (1, 2, 3))], ids=["one resolution", "three"])
def test_tiles_of_several_cases_in_one_batch_are_those_of_each_alone(make_net, make_case, factors, blending) -> None:
    net, cases, wanted = make_net(factors), small_cases(make_case), {0: {1: (0, 2)}}
    chosen = InferenceSettings(segment=(9, 9, 9), batch_size=30, blending=blending)
    expected = [predict_volume(net, case, chosen, wanted) for case in cases]
    assert_equal(together(net, cases, chosen, wanted), expected)
    assert_equal(together(net, cases[::-1], chosen, wanted), expected[::-1])


def test_whole_small_volumes_in_one_batch(make_net, make_case) -> None:
    net, chosen = make_net(((3, 3, 3),), (3, 3, 3)), InferenceSettings(segment=(9, 9, 9), tiling="auto")
    cases = [make_case((13, 12, 11), seed=seed) for seed in range(3)]
    assert_equal(together(net, cases, chosen), [predict_volume(net, case, chosen) for case in cases])


def test_a_group_makes_one_forward_pass(make_net, make_case, monkeypatch) -> None:
    net, cases = make_net(), small_cases(make_case)
    passes = Passes(monkeypatch, net)
    for case in cases:
        predict_volume(net, case, SETTINGS)
    assert len(passes.tiles) == 3
    alone = list(passes.tiles)
    passes.tiles.clear()
    together(net, cases, SETTINGS)
    assert passes.tiles == [sum(alone)]


def test_a_net_in_training_mode_does_not_mix_the_cases(make_net, make_case) -> None:
    net, cases = make_net().train(), small_cases(make_case)
    assert_equal(together(net, cases, SETTINGS), [predict_volume(net, case, SETTINGS) for case in cases])
    assert net.training


def test_out_of_memory_means_case_by_case(make_net, make_case, monkeypatch, caplog) -> None:
    net, cases = make_net(((3, 3, 3),)), small_cases(make_case)
    expected = [predict_volume(net, case, SETTINGS) for case in cases]
    passes = Passes(monkeypatch, net, most=4)
    assert_equal(together(net, cases, SETTINGS), expected)
    assert passes.tiles[0] > 4 >= max(passes.tiles[1:])
    assert "Memory ran out with the tiles of 3 cases in one batch; trying one by one: a, b, c." in caplog.text


def test_other_errors_are_raised(make_net, make_case, monkeypatch) -> None:
    net, cases = make_net(), small_cases(make_case)

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(type(net), "forward_features", broken)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        together(net, cases, SETTINGS)


def test_progress_is_told_for_each_case(make_net, make_case) -> None:
    calls: list[tuple[int, int]] = []
    cases = [make_case((9, 9, 13), seed=1), make_case((9, 9, 9), seed=2)]
    together(make_net(), cases, SETTINGS, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(2, 2), (1, 1)]


def test_the_log_has_the_originals_number_of_tiles_of_each_case(make_net, make_case, caplog) -> None:
    cases = [make_case((9, 13, 13), seed=1), make_case((9, 9, 9), seed=2)]
    chosen = InferenceSettings(segment=(9, 9, 9), batch_size=6)
    with caplog.at_level(logging.DEBUG, "deepmedic"):
        together(make_net(), cases, chosen)
    assert caplog.messages == ["Total number of Segments to process:6"] * 2
