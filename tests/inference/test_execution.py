"""Precision flags, the order of remedies for a lack of memory, and the default sizes of tiles."""

from __future__ import annotations

import pytest
import torch

from deepmedic.devices import numerical_precision
from deepmedic.inference.execution import (
    InferenceSettings,
    attempts,
    default_tile_memory,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def test_batches_shrink_then_stitching_moves_then_the_network(make_net) -> None:
    chosen = InferenceSettings(segment=(9, 9, 9), batch_size=6, device=CUDA)
    found = [
        (a.batch_size, a.device, a.stitch_on) for a in attempts(make_net().architecture, (20, 20, 20), None, chosen)
    ]
    assert found == [(6, CUDA, CUDA), (3, CUDA, CUDA), (1, CUDA, CUDA), (1, CUDA, CPU), (1, CPU, CPU)]


def test_tiles_shrink_with_auto(make_net) -> None:
    chosen = InferenceSettings(segment=(9, 9, 9), tiling="auto", tile_memory=4_000_000)
    found = list(attempts(make_net().architecture, (40, 40, 40), None, chosen))
    batches = [attempt.batch_size * torch.tensor(attempt.tilings[0].segment).prod().item() for attempt in found]
    assert len(found) > 2
    assert batches == sorted(batches, reverse=True)
    assert len(set(batches)) == len(batches)


def test_auto_uses_memory_for_several_small_tiles(make_net) -> None:
    chosen = InferenceSettings(segment=(9, 9, 9), tiling="auto", tile_memory=1_000_000, batch_size=7)
    first = next(attempts(make_net().architecture, (40, 40, 40), None, chosen))
    assert 1 <= first.batch_size <= 7


@pytest.mark.parametrize(
    ("precision", "tf32", "autocast"), [("float32", False, False), ("tf32", True, False), ("bf16", False, True)]
)
@pytest.mark.parametrize("before", [False, True])
def test_precision_is_set_inside_the_block_only(precision, tf32, autocast, before) -> None:
    flags = (torch.backends.cuda.matmul, torch.backends.cudnn)
    originally = [flag.allow_tf32 for flag in flags]
    try:
        for flag in flags:
            flag.allow_tf32 = before
        with numerical_precision(precision, CPU):
            assert [flag.allow_tf32 for flag in flags] == [tf32, tf32]
            assert torch.is_autocast_enabled("cpu") is autocast
        assert [flag.allow_tf32 for flag in flags] == [before, before]
        assert not torch.is_autocast_enabled("cpu")
    finally:
        for flag, value in zip(flags, originally, strict=True):
            flag.allow_tf32 = value


def test_default_memory_is_a_share_of_what_is_installed() -> None:
    assert 2**20 < default_tile_memory(CPU) <= 3 * 2**30
