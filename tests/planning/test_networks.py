"""Networks for devices and spacings."""

from __future__ import annotations

import pytest

from deepmedic.planning.networks import choose_network


def test_a_gpu_gets_the_network_of_the_original_and_a_cpu_a_small_one():
    large, small = (choose_network((1.0, 1.0, 1.0), gpu=gpu) for gpu in (True, False))
    assert large.feature_maps == (30, 30, 40, 40, 40, 40, 50, 50)
    assert large.factors == ((3, 3, 3), (5, 5, 5))
    assert sum(small.feature_maps) < sum(large.feature_maps)


@pytest.mark.parametrize(
    ("spacing", "kernel", "factor"),
    [
        ((1.0, 1.0, 2.0), (3, 3, 3), (3, 3, 3)),
        ((0.5, 0.5, 5.0), (3, 3, 1), (3, 3, 1)),
        ((6.0, 1.0, 0.9), (1, 3, 3), (1, 3, 3)),
        ((1.0, 3.0, 3.0), (3, 3, 3), (3, 3, 3)),
    ],
)
def test_long_voxels_get_flat_kernels(spacing, kernel, factor):
    plan = choose_network(spacing, gpu=False)
    assert plan.kernels[0] == kernel
    assert plan.kernels[-1] == (3, 3, 3)
    assert plan.factors == (factor,)
