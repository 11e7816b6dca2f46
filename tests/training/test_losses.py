"""Losses against golden numbers of the original, brute force in NumPy, and numerical gradients."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmedic.config.training import ClassReweighting, LossConfig, LossWeights
from deepmedic.errors import ConfigError
from deepmedic.training.losses import (
    class_weights,
    cross_entropy,
    dice_loss,
    iou_loss,
    regularization,
    training_cost,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "losses"
SETTINGS = json.loads((GOLDEN / "losses.json").read_text())
LABELS = ("all_classes", "one_class_missing", "background_only")
ATTRIBUTE = {"xentr": "cross_entropy", "iou": "iou", "dsc": "dice"}


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "losses.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def only(loss: str, weight: float = 1.0) -> LossConfig:
    weights = {"cross_entropy": None, "iou": None, "dice": None, ATTRIBUTE[loss]: weight}
    return LossConfig(weights=LossWeights(**weights))


@pytest.mark.parametrize("case", SETTINGS["values"], ids=lambda case: case["label"])
def test_values_and_gradients_equal_the_original(golden, case):
    logits = golden[f"logits.{case['logits']}"].clone().requires_grad_()
    weights = golden[f"class_weights.{case['class_weights']}"] if case["class_weights"] else None
    cost = training_cost(logits, golden[f"y.{case['y']}"], only(case["loss"]), weights)
    cost.backward()
    assert cost.item() == pytest.approx(case["value"], rel=1e-5)
    torch.testing.assert_close(logits.grad, golden[f"grad_logits.{case['label']}"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", SETTINGS["values"], ids=lambda case: case["label"])
def test_gradients_of_probabilities_equal_the_original(golden, case):
    probabilities = golden[f"probs.{case['logits']}"].clone().requires_grad_()
    labels = golden[f"y.{case['y']}"].long()
    if case["loss"] == "xentr":
        cross_entropy(probabilities, labels, golden[f"class_weights.{case['class_weights']}"]).backward()
    else:
        {"iou": iou_loss, "dsc": dice_loss}[case["loss"]](probabilities, labels).backward()
    torch.testing.assert_close(probabilities.grad, golden[f"grad_probs.{case['label']}"], rtol=1e-5, atol=1e-9)


def test_weighted_sum_of_all_losses(golden):
    logits, labels = golden["logits.moderate"], golden["y.all_classes"]
    together = training_cost(
        logits, labels, LossConfig(weights=LossWeights(cross_entropy=0.5, iou=2.0, dice=3.0)), None
    )
    apart = sum(
        training_cost(logits, labels, only(loss, weight))
        for loss, weight in (("xentr", 0.5), ("iou", 2.0), ("dsc", 3.0))
    )
    torch.testing.assert_close(together, apart, rtol=1e-6, atol=0)


def test_unweighted_cross_entropy_is_close_to_that_of_torch_where_probabilities_are_not_tiny(golden):
    logits, labels = golden["logits.moderate"], golden["y.all_classes"].long()
    expected = torch.nn.functional.cross_entropy(logits, labels)
    assert training_cost(logits, labels, LossConfig()).item() == pytest.approx(expected.item(), abs=1e-4)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**16), classes=st.integers(2, 5), batch=st.integers(1, 3))
def test_overlap_losses_equal_their_definitions(seed, classes, batch):
    generator = np.random.default_rng(seed)
    p = generator.dirichlet(np.ones(classes), size=(batch, 3, 2, 2)).transpose(0, 4, 1, 2, 3)
    labels = generator.integers(0, classes, size=(batch, 3, 2, 2))
    dice, iou = [], []
    for c in range(classes):
        truth = labels == c
        true_positives = p[:, c][truth].sum()
        dice.append((2 * true_positives + 1e-5) / (p[:, c].sum() + truth.sum() + 1e-5))
        iou.append((true_positives + 1e-5) / (p[:, c][~truth].sum() + truth.sum() + 1e-5))
    probabilities, targets = torch.from_numpy(p), torch.from_numpy(labels)
    assert dice_loss(probabilities, targets).item() == pytest.approx(1 - np.mean(dice), abs=1e-9)
    assert iou_loss(probabilities, targets).item() == pytest.approx(1 - np.mean(iou), abs=1e-9)


def test_gradients_agree_with_finite_differences():
    torch.manual_seed(0)
    p = torch.softmax(torch.randn(2, 3, 2, 2, 1, dtype=torch.float64), 1).requires_grad_()
    labels = torch.randint(0, 3, (2, 2, 2, 1))
    weights = torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda q: cross_entropy(q, labels, weights), p)
    assert torch.autograd.gradcheck(lambda q: iou_loss(q, labels), p)
    assert torch.autograd.gradcheck(lambda q: dice_loss(q, labels), p)


def test_the_cost_is_float32_under_autocast_and_for_narrow_label_types(golden):
    logits, labels = golden["logits.moderate"].bfloat16(), golden["y.all_classes"].to(torch.uint8)
    loss = LossConfig(weights=LossWeights(cross_entropy=1.0, iou=1.0, dice=1.0))
    expected = training_cost(logits.float(), labels.long(), loss)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cost = training_cost(logits, labels, loss)
    assert cost.dtype == torch.float32
    assert torch.equal(cost, expected)


def test_without_any_loss_the_cost_is_zero(golden):
    config = LossConfig(weights=LossWeights(cross_entropy=None))
    assert training_cost(golden["logits.moderate"], golden["y.all_classes"], config).item() == 0.0


@pytest.mark.parametrize("case", SETTINGS["reweighting"], ids=lambda case: f"case{case['case']}")
@pytest.mark.parametrize("labels", LABELS)
def test_class_weights_of_each_epoch_equal_the_original(golden, case, labels):
    asked = case["reweight_classes_in_cost"]
    reweighting = ClassReweighting(
        kind=asked["type"],
        weights=tuple(asked["prms"]) if asked["prms"] else None,
        schedule=tuple(asked["schedule"]),
    )
    expected = golden[f"class_weights_per_epoch.{case['case']}.{labels}"]
    for epoch in range(len(expected)):
        weights = class_weights(reweighting, golden[f"y.{labels}"], epoch, epochs=35, classes=3)
        weights = torch.ones(3) if weights is None else weights
        torch.testing.assert_close(weights, expected[epoch], rtol=1e-5, atol=1e-6)


def test_without_a_schedule_class_weights_are_annealed_over_all_epochs():
    reweighting = ClassReweighting(kind="per_c", weights=(3.0, 1.0))
    labels = torch.zeros(1, 1, 1, 1, dtype=torch.long)
    weights = [class_weights(reweighting, labels, epoch, epochs=4, classes=2).tolist() for epoch in (0, 1, 2, 4, 9)]
    assert weights == [[3.0, 1.0], [2.5, 1.0], [2.0, 1.0], [1.0, 1.0], [1.0, 1.0]]


def test_a_wrong_number_of_class_weights_is_refused():
    reweighting = ClassReweighting(kind="per_c", weights=(1.0, 2.0))
    with pytest.raises(ConfigError, match=r"'prms' has 2 weights \[1.0, 2.0\], but the model has 3 classes"):
        class_weights(reweighting, torch.zeros(1, 1, 1, 1), 0, epochs=4, classes=3)


def test_a_falling_schedule_of_class_weights_is_refused():
    reweighting = ClassReweighting(kind="freq", schedule=(5.0, 5.0))
    with pytest.raises(ConfigError, match=r"'schedule' is \[5.0, 5.0\]; the first epoch must be below the second"):
        class_weights(reweighting, torch.zeros(1, 1, 1, 1), 0, epochs=4, classes=3)


@pytest.mark.parametrize(("l1", "l2", "label"), [(1.0, 0.0, "L1"), (0.0, 1.0, "L2")])
def test_regularization_equals_the_original(golden, l1, l2, label):
    weights = [golden["reg.w0"].clone().requires_grad_(), golden["reg.w1"].clone().requires_grad_()]
    cost = regularization(weights, l1, l2)
    cost.backward()
    assert cost.item() == pytest.approx(SETTINGS["regularisation"][label], rel=1e-6)
    for index, weight in enumerate(weights):
        torch.testing.assert_close(weight.grad, golden[f"reg.grad_{label}.w{index}"], rtol=1e-6, atol=1e-7)


def test_regularization_counts_frozen_weights_but_gives_them_no_gradient():
    frozen = torch.full((2, 3), -2.0)
    trained = torch.tensor([1.0, 0.0, -3.0], requires_grad=True)
    cost = regularization([frozen, trained], l1=0.5, l2=0.25)
    (4 * cost).backward()
    assert cost.item() == pytest.approx(0.5 * (12 + 4) + 0.25 * (24 + 10))
    assert trained.grad.tolist() == [4 * (0.5 + 0.5), 0.0, 4 * (-0.5 - 1.5)]
    assert frozen.grad is None


@pytest.mark.parametrize(("l1", "l2"), [(1.0, 0.0), (0.0, 1.0), (1e-6, 1e-4)])
@pytest.mark.parametrize("kind", ["alike", "normal"])
def test_regularization_of_a_million_weights_keeps_its_digits(l1, l2, kind):
    shapes = [(250, 150, 3, 3, 3), (40, 30, 3, 3, 3), (5, 250, 1, 1, 1)]
    generator = torch.Generator().manual_seed(3)
    weights = [torch.full(shape, 0.1) for shape in shapes]
    if kind == "normal":
        weights = [0.05 * torch.randn(shape, generator=generator) for shape in shapes]
    exact = sum(l1 * one.double().abs().sum() + l2 * one.double().square().sum() for one in weights)
    assert regularization(weights, l1, l2).item() == pytest.approx(exact.item(), rel=1e-6)


def test_regularization_of_frozen_weights_alone_or_switched_off():
    frozen = [torch.ones(3)]
    assert regularization(frozen, 1.0, 1.0).item() == 6.0
    assert not regularization(frozen, 1.0, 1.0).requires_grad
    assert regularization([torch.ones(3, requires_grad=True)], 0.0, 0.0).item() == 0.0
    assert regularization([], 1.0, 1.0).item() == 0.0
