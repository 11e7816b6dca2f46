"""Means, variances and entropies of probabilities against numpy and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

from deepmedic.inference.averaging import MeanPrediction, entropy


def probabilities(seed: int, classes: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(classes, 4, 5, 6, generator=generator).softmax(dim=0)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_mean_and_variance_are_those_of_numpy(count) -> None:
    several = [probabilities(seed) for seed in range(count)]
    found = MeanPrediction(with_variance=True)
    for one in several:
        found.add(one.clone())
    stacked = np.stack([one.numpy().astype(np.float64) for one in several])
    np.testing.assert_allclose(found.mean().numpy(), stacked.mean(axis=0), atol=1e-7)
    np.testing.assert_allclose(found.variance().numpy(), stacked.var(axis=0).mean(axis=0), atol=1e-8)


def test_predictions_that_hardly_differ_keep_their_variance() -> None:
    """Sums of squares in float32 would lose it."""
    base = probabilities(0).double()
    several = [base + 1e-4 * torch.tensor([-1.0, 0.0, 1.0]).roll(shift)[:, None, None, None] for shift in range(3)]
    found = MeanPrediction(with_variance=True)
    for one in several:
        found.add(one.float())
    np.testing.assert_allclose(found.variance().numpy(), 1e-8 * 2 / 3, rtol=0.01)


def test_a_voxel_is_averaged_over_the_predictions_that_reach_it() -> None:
    first, second, third = (probabilities(seed) for seed in range(3))
    first[:, 0] = 0
    second[:, 0] = 0
    second[:, 1] = 0
    first[:, 2] = second[:, 2] = third[:, 2] = 0
    found = MeanPrediction(with_variance=True)
    for one in (first, second, third):
        found.add(one.clone())
    mean, variance = found.mean(), found.variance()
    torch.testing.assert_close(mean[:, 0], third[:, 0])
    torch.testing.assert_close(mean[:, 1], (first[:, 1] + third[:, 1]) / 2)
    assert not mean[:, 2].any()
    assert not variance[0].any()
    assert not variance[2].any()
    torch.testing.assert_close(variance[1], ((first[:, 1] - third[:, 1]) / 2).square().mean(dim=0))


def test_a_mirrored_prediction_is_mirrored_back() -> None:
    found = MeanPrediction(with_variance=False)
    found.add(probabilities(1).flip([1, 3]), (0, 2))
    found.add(probabilities(2).flip([2]), (1,))
    torch.testing.assert_close(found.mean(), (probabilities(1) + probabilities(2)) / 2)


def test_one_prediction_is_its_own_mean() -> None:
    found = MeanPrediction(with_variance=False)
    found.add(probabilities(1))
    assert torch.equal(found.mean(), probabilities(1))


@pytest.mark.parametrize("classes", [2, 5])
def test_entropy_is_that_of_scipy(classes) -> None:
    some = probabilities(3, classes)
    some[:, 0] = 0
    some[0, 0] = 1
    some[:, 1] = 1 / classes
    found = entropy(some).numpy()
    np.testing.assert_allclose(found, scipy.stats.entropy(some.numpy().astype(np.float64), axis=0), atol=1e-6)
    assert not found[0].any()
    np.testing.assert_allclose(found[1], np.log(classes), atol=1e-6)
    assert not entropy(torch.zeros(classes, 2, 2, 2)).any()


# Devices -------------------------------------------------------------------------------------------------------------


class Elsewhere(torch.Tensor):
    """A tensor of the CPU that says it is on a GPU; so are those computed from it, until `cpu()` is called."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("cuda", 0)

    def cpu(self) -> torch.Tensor:  # type: ignore[override]
        return self.as_subclass(torch.Tensor)

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.Tensor.cpu or function is cls.cpu:
            return args[0].as_subclass(torch.Tensor)
        return super().__torch_function__(function, types, args, kwargs or {})


def on_gpu(seed: int) -> torch.Tensor:
    return probabilities(seed).as_subclass(Elsewhere)


def expected(*seeds: int) -> tuple[np.ndarray, np.ndarray]:
    stacked = np.stack([probabilities(seed).numpy().astype(np.float64) for seed in seeds])
    return stacked.mean(axis=0), stacked.var(axis=0).mean(axis=0)


def assert_mean_and_variance(found: MeanPrediction, *seeds: int) -> None:
    mean, variance = expected(*seeds)
    np.testing.assert_allclose(found.mean().cpu().numpy(), mean, atol=1e-7)
    np.testing.assert_allclose(found.variance().cpu().numpy(), variance, atol=1e-8)


def test_sums_stay_on_the_device_of_the_predictions() -> None:
    found = MeanPrediction(with_variance=True)
    for _ in range(3):
        found.add(torch.zeros(3, 4, 5, 6, device="meta"))
    assert found.mean().device == found.variance().device == entropy(found.mean()).device == torch.device("meta")


@pytest.mark.parametrize("places", [(on_gpu, on_gpu, probabilities), (probabilities, on_gpu, on_gpu)])
def test_predictions_from_several_devices_are_averaged_on_the_cpu(places) -> None:
    found = MeanPrediction(with_variance=True)
    for seed, place in enumerate(places):
        found.add(place(seed))
    assert found.device == torch.device("cpu")
    assert_mean_and_variance(found, 0, 1, 2)


@pytest.mark.parametrize("failing", [1, 2, 3, 4])
def test_sums_move_to_the_cpu_when_memory_runs_out(monkeypatch, caplog, failing) -> None:
    """Whichever step of adding the second prediction fails, nothing is added twice."""
    found, calls = MeanPrediction(with_variance=True), []
    found.add(on_gpu(0))
    assert found.device.type == "cuda"
    names = {1: "__sub__", 2: "clamp", 3: "__truediv__", 4: "flip"}
    real = getattr(torch.Tensor, names[failing])

    def short(this, *arguments, **keywords):
        if isinstance(this, Elsewhere) and not calls:
            calls.append(this)
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(this, *arguments, **keywords)

    monkeypatch.setattr(torch.Tensor, names[failing], short)
    found.add(on_gpu(1))
    assert len(calls) == 1
    assert "Memory ran out when predictions were averaged on cuda:0; trying on the CPU." in caplog.text
    found.add(on_gpu(2))
    assert found.device == torch.device("cpu")
    assert_mean_and_variance(found, 0, 1, 2)


def test_other_errors_of_averaging_are_raised() -> None:
    found = MeanPrediction(with_variance=False)
    found.add(on_gpu(0))
    with pytest.raises(RuntimeError, match="must match the size"):
        found.add(torch.zeros(3, 9, 5, 6).as_subclass(Elsewhere))
