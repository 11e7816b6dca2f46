"""The check of the self-test on training steps that a GPU repeats from a recording."""

from __future__ import annotations

import torch
from torch.nn import functional

from deepmedic.config.architecture import Architecture
from deepmedic.data.segments import SegmentBatch
from deepmedic.model import parameters
from deepmedic.model.network import DeepMedicNet
from deepmedic.sessions.selftest.selftest_reference import Check, Comparison, difference, golden
from deepmedic.training.recorded_step import RecordedStep

_STEPS, _RATE = 8, 0.01
_ROUNDING = 1e-3
"""Kernels that add in any order give other last digits in each run; a step without one input moves more than 1e-2."""


def recorded_steps(device: torch.device) -> Comparison:
    """Parameters and statistics after steps of gradient descent with dropout, recorded and plain."""
    plain, recorded = (_trained(device, possible=possible) for possible in (False, True))
    errors = [difference(recorded[name], expected) for name, expected in plain.items()]
    return Comparison(f"{_STEPS} steps launched one by one", max(errors), _ROUNDING)


def _trained(device: torch.device, *, possible: bool) -> dict[str, torch.Tensor]:
    numbers = golden("forward")
    network = DeepMedicNet(Architecture.from_dict(numbers.settings["multiscale"]["architecture"]))
    parameters.load_tensors(network, numbers.below("multiscale/parameters"))
    network.to(device).train()
    trained = [tensor for _, tensor in parameters.optimizer_order(network)]
    inputs = numbers.numbered("multiscale/train/inputs", device)
    labels = numbers.arrays["multiscale/train/labels"].to(device).long()
    done = 0

    def compute(batch: SegmentBatch) -> tuple[torch.Tensor, ...]:
        logits = network(*batch.inputs)
        assert batch.labels is not None
        cost = functional.cross_entropy(logits, batch.labels)
        cost.backward()
        return logits.detach(), cost.detach()

    def seed() -> None:
        torch.manual_seed(done)

    step = RecordedStep(compute, network, lambda: trained, seed, device=device, possible=possible)
    for done in range(_STEPS):
        step(SegmentBatch(tuple(images * (1 + 0.1 * done) for images in inputs), labels.roll(done, 0)))
        with torch.no_grad():
            for parameter in trained:
                if parameter.grad is not None:
                    parameter.sub_(parameter.grad, alpha=_RATE)
    if possible and not step.is_recorded:
        raise ValueError("steps could not be recorded, so training is slower than it could be")
    found = {name: tensor.detach().clone() for name, tensor in parameters.named_tensors(network).items()}
    step.release()
    return found


CHECKS = (Check("training steps, recorded", recorded_steps, only_cuda=True),)
