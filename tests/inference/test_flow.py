"""How many cases are in hand: by cores, device and memory."""

import torch

from deepmedic.inference.flow import Flow, usable_cores

CPU, GPU = torch.device("cpu"), torch.device("cuda")
GIB = 2**30


def test_a_gpu_is_fed_by_half_the_cores_and_no_more_than_eight_threads() -> None:
    assert Flow.of(GPU, 16, 128 * GIB) == Flow(readers=8, scorers=4, writers=4, images=8, memory=32 * GIB)
    assert Flow.of(GPU, 16, 128 * GIB, beside_training=True).memory == 8 * GIB
    assert Flow.of(GPU, 128, 4 * GIB) == Flow(readers=8, scorers=8, writers=8, images=16, memory=GIB)
    assert Flow.of(GPU, 1, 4 * GIB) == Flow(readers=1, scorers=1, writers=1, images=1, memory=GIB)


def test_beside_a_cpu_that_computes_there_is_one_of_each_up_to_a_dozen_cores() -> None:
    for cores in range(1, 16):
        found = Flow.of(CPU, cores, GIB)
        assert (found.readers, found.scorers, found.writers, found.images) == (1, 1, 1, min(4, cores))
    assert Flow.of(CPU, 64, GIB).readers == 8


def test_memory_limits_what_is_in_hand_but_the_least_is_always_allowed() -> None:
    flow = Flow(readers=8, scorers=4, writers=4, memory=100)
    assert [flow.cases_ahead(size) for size in (1, 10, 11, 30, 100, 1000)] == [10, 10, 9, 3, 1, 1]
    assert [flow.cases_scored(size) for size in (0, 1, 20, 1000)] == [4, 4, 2, 1]
    assert [flow.cases_written(size) for size in (0, 1, 15, 1000)] == [5, 5, 3, 2]
    assert Flow().cases_ahead(1) == 1


def test_readers_share_the_cores() -> None:
    assert Flow(readers=1).threads_per_reader == usable_cores() >= 1
    assert Flow(readers=1000).threads_per_reader == 1
