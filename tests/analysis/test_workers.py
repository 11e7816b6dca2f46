"""Workers for scores: one thread each, the same results, and torch as it was afterwards."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from deepmedic.analysis.workers import single_threaded_workers


@pytest.mark.parametrize("threads", [1, 2])
def test_each_computes_with_one_thread_and_later_threads_have_as_many_as_before(threads) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        matrix = torch.randn((70, 70), dtype=torch.float64)
        with single_threaded_workers() as workers:
            assert set(workers.map(lambda _: torch.get_num_threads(), range(20))) == {1}
            found = list(workers.map(lambda power: torch.linalg.matrix_power(matrix, power), range(6)))
        for power, product in enumerate(found):
            torch.testing.assert_close(product, torch.linalg.matrix_power(matrix, power))
        assert torch.get_num_threads() == threads
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == threads
    finally:
        torch.set_num_threads(before)


def test_an_error_of_a_worker_is_raised_and_torch_is_as_it_was() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), single_threaded_workers() as workers:
        workers.submit(lambda: 1 / 0).result()
    assert torch.get_num_threads() == before
