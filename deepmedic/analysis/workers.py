"""Threads for scores: many small computations, none of which gains from several threads."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


@contextmanager
def single_threaded_workers() -> Iterator[ThreadPoolExecutor]:
    """Give as many threads as torch computes with, each of which computes with one.

    Threads that share the product of two small matrices wait for each other longer than they compute, ten times as long
    where other programs want the same cores. What one thread computes does not depend on how many there are.
    """
    count = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(count, "scores", torch.set_num_threads, (1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(count)  # else threads that begin later have one as well
