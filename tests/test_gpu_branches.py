"""What runs on a GPU keeps to it: no operation of a training step, of cutting segments, or of inference has tensors on
two devices, and a step reads nothing back, as recording it demands. No GPU is needed: see `stand_in_gpu`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from stand_in_gpu import GPU, stand_in_gpu

from deepmedic.config.architecture import Architecture
from deepmedic.config.augmentation import AffineAugmentation, Gaussian, SegmentAugmentation
from deepmedic.config.optimisation import (
    ClassReweighting,
    FreezeConfig,
    LossConfig,
    LossWeights,
    OptimizerConfig,
)
from deepmedic.config.prediction import PredictionConfig
from deepmedic.config.refinements import RefinementConfig
from deepmedic.config.training import TrainConfig
from deepmedic.data import augmentation
from deepmedic.data.nifti import array_header
from deepmedic.data.pool import PoolLayout, VolumePool
from deepmedic.data.preprocessing import PreparedCase
from deepmedic.data.randomness import stream
from deepmedic.data.sampling import SubepochRequest, SubepochSampler
from deepmedic.data.sampling_maps import SamplingRule
from deepmedic.data.segments import SegmentBatch, SegmentGeometry, cut, places_around
from deepmedic.inference.blending import blending_of
from deepmedic.inference.case_prediction import Member, predict_case
from deepmedic.inference.execution import InferenceSettings
from deepmedic.model import parameters
from deepmedic.model.network import DeepMedicNet
from deepmedic.sessions.selftest.selftest_reference import golden
from deepmedic.training.interruption import Interruption
from deepmedic.training.learning import begin_phase
from deepmedic.training.recorder import Recorder, RecorderOutputs
from deepmedic.training.state import TrainingState
from deepmedic.training.trainer import Trainer, TrainerParts

SEGMENT = (13, 15, 13)
SIZE = (22, 20, 19)


def architecture(name: str = "multiscale", **changes) -> Architecture:
    return replace(Architecture.from_dict(golden("forward").settings[name]["architecture"]), **changes)


def with_everything() -> Architecture:
    """Residuals, low-rank layers, mirror and zero padding, dropout in all pathways."""
    plain = architecture()
    normal = replace(plain.normal, residual_layers=(3,), low_rank_layers=(2,), dropout_rates=(0.0, 0.1, 0.1))
    kernels, paddings = ((3, 3, 3), (3, 1, 3), (1, 1, 1)), ("mirror", "zero", "valid")
    maps, rates = (6, 6, plain.classes), (0.0, 0.5, 0.5)
    fc = replace(plain.fc, feature_maps=maps, kernels=kernels, paddings=paddings, dropout_rates=rates)
    return replace(plain, normal=normal, fc=replace(fc, residual_layers=(2,)))


def case(classes: int, *, weight_maps: int = 0) -> PreparedCase:
    generator = torch.Generator().manual_seed(0)
    return PreparedCase(
        name="case",
        header=array_header(SIZE, np.eye(4)),
        channels=torch.randn(2, *SIZE, generator=generator),
        labels=torch.randint(0, classes, SIZE, generator=generator, dtype=torch.uint8),
        roi=torch.ones(SIZE, dtype=torch.bool),
        weight_maps=torch.ones(weight_maps, *SIZE) if weight_maps else None,
        padding=((0, 0),) * 3,
        border_values=torch.zeros(2),
    )


class Batches:
    """Two batches, of the shape that the network takes."""

    def __init__(self, network: DeepMedicNet) -> None:
        described = network.architecture
        inputs = [torch.empty(3, 2, *size, device=GPU) for size in described.input_sizes(SEGMENT)]
        labels = torch.zeros(3, *described.output_size(SEGMENT), dtype=torch.int64, device=GPU)
        self.batch = SegmentBatch(tuple(inputs), labels)

    def subepoch(self, epoch: int, subepoch: int) -> Batches:
        return self

    def __len__(self) -> int:
        return 2

    def __getitem__(self, number: int) -> SegmentBatch:
        if number >= len(self):
            raise IndexError(number)
        return self.batch

    def case_names(self, number: int) -> list[str]:
        return ["case"]


def make_trainer(described: Architecture, **settings) -> Trainer:
    config = TrainConfig(folder_for_output=Path("out"), epochs=2, subepochs=1, batch_size=3, **settings)
    network = DeepMedicNet(described).to(GPU)
    start = {name: tensor.detach().cpu() for name, tensor in parameters.named_tensors(network).items()}
    learning, batches = begin_phase(network, config), Batches(network)
    parts = TrainerParts(
        config=config,
        device=GPU,
        network=network.train(),
        optimiser=learning.optimiser,
        training=batches,
        validation=batches,
        validate_volumes=None,
        recorder=Recorder(config, ["a"] * described.classes, RecorderOutputs()),
        save=lambda state, extra: None,
        interruption=Interruption(),
        average=learning.average,
        start=start,
    )
    return Trainer(parts, TrainingState(session="gpu", seed=0, origin={}, settings={}))


class TestStandIn:
    """What stands for a GPU refuses what one refuses."""

    @pytest.mark.parametrize(
        "compute",
        [
            lambda there, here: there + here,
            lambda there, here: torch.cat([there, here]),
            lambda there, here: there[here.long()],
            lambda there, here: torch.where(there > 0, here, 0.0),
            lambda there, here: torch._foreach_add([there, there], [there, here]),
            lambda there, here: (there.requires_grad_() * 2).backward(here),
        ],
    )
    def test_tensors_on_two_devices(self, compute):
        with stand_in_gpu(), pytest.raises(RuntimeError, match=r"both devices|must match|same device|expected device"):
            compute(torch.ones(3, device=GPU), torch.ones(3))

    @pytest.mark.parametrize(
        "compute", [lambda images: images.cumsum(0), lambda images: torch.histc(images, 4)], ids=["cumsum", "histc"]
    )
    def test_what_is_not_deterministic(self, compute):
        with stand_in_gpu(), pytest.raises(RuntimeError, match="no deterministic implementation"):
            compute(torch.ones(3, device=GPU))

    @pytest.mark.parametrize(
        "read",
        [
            lambda found: found.cpu(),
            lambda found: found.sum().item(),
            lambda found: bool(found.any()),
            lambda found: found.tolist(),
            lambda found: torch.zeros(3).copy_(found),
            lambda found: found.nonzero(),
        ],
        ids=["cpu", "item", "bool", "list", "copy", "nonzero"],
    )
    def test_what_is_read_back_is_noted(self, read):
        with stand_in_gpu() as gpu:
            on_gpu = torch.ones(3).to(GPU, non_blocking=True) * torch.tensor(2.0) + 1
            assert gpu.waits == []
            read(on_gpu)
        assert len(gpu.waits) == 1


LOSSES = LossConfig(weights=LossWeights(cross_entropy=1.0, iou=0.5, dice=0.5))
STEPS = {
    "RMSProp": {"optimizer": OptimizerConfig(kind=2, l1=1e-5, l2=1e-4)},
    "Adam, frozen layers": {
        "optimizer": OptimizerConfig(kind=1),
        "freezing": FreezeConfig(normal=(1,), subsampled=(1, 2), fc=()),
    },
    "SGD, all losses, weights by frequency": {
        "optimizer": OptimizerConfig(kind=0),
        "loss": replace(LOSSES, reweighting=ClassReweighting(kind="freq", schedule=(0, 2))),
    },
    "given weights, refinements": {
        "loss": replace(LOSSES, reweighting=ClassReweighting(kind="per_c", weights=(1.0, 2.0, 3.0, 4.0))),
        "refinements": RefinementConfig(
            gradient_clipping=1.0, weight_decay=0.01, weight_averaging=0.9, rate_decay_per_layer=0.8, l2_to_start=0.1
        ),
    },
}


class TestTraining:
    @pytest.mark.parametrize("settings", STEPS.values(), ids=STEPS)
    @pytest.mark.parametrize("described", [architecture(), with_everything()], ids=["plain", "with everything"])
    def test_a_step_stays_on_the_gpu_and_reads_nothing_back(self, described, settings):
        with stand_in_gpu() as gpu:
            trainer = make_trainer(described, **settings)
            trainer.network.train()
            batch = trainer.parts.training.batch
            gpu.waits.clear()
            cost, counts = trainer._step(batch, 0.01, 0.6)
            trainer._tally.add(counts, cost)
            assert (cost.device.type, counts.device.type) == (GPU.type, GPU.type)
            assert gpu.waits == []
            trainer.network.eval()
            with torch.inference_mode():
                trainer._new_tally().add(trainer._validation_counts(batch))
            assert gpu.waits == []

    @pytest.mark.parametrize("changes", [{"activation": "elu"}, {"activation": "selu", "batch_norm_window": 0}])
    def test_other_activations_and_no_batch_norm(self, changes):
        with stand_in_gpu() as gpu:
            trainer = make_trainer(architecture("padded", **changes))
            gpu.waits.clear()
            trainer._step(trainer.parts.training.batch, 0.01, 0.6)
        assert gpu.waits == []

    def test_a_whole_training(self):
        with stand_in_gpu() as gpu:
            trainer = make_trainer(with_everything(), **STEPS["given weights, refinements"])
            trainer.run()
        assert trainer.state.finished
        assert trainer.state.position.step == 4
        assert gpu.waits


class TestSegments:
    @pytest.mark.parametrize("weight_maps", [0, 4])
    def test_cutting_and_augmentation_read_nothing_back(self, weight_maps):
        described = architecture()
        geometry = SegmentGeometry.from_architecture(described, (13, 13, 13))
        drawn = SegmentAugmentation(
            shift=Gaussian(mean=0.0, std=0.1),
            scale=Gaussian(mean=1.0, std=0.1),
            reflect=(0.5, 0.5, 0.5),
            rotate90={"xy": (0.25,) * 4, "xz": (0.25,) * 4},
        )
        one = case(described.classes, weight_maps=weight_maps)
        draws = augmentation.draw_segment_augmentation(stream(0), 6, 2, drawn)
        with stand_in_gpu() as gpu:
            pool = VolumePool(PoolLayout.of(one), GPU, 2**30)
            pool.require([0, 1], lambda _: one)
            on_gpu = draws.to(GPU)
            rows, centres = torch.tensor([0, 1, 0, 1, 0, 1]), torch.full((6, 3), 9)
            places = augmentation.turned(places_around(pool, geometry, rows, centres), on_gpu)
            batch = augmentation.with_intensities(cut(pool, places[1:4]), on_gpu[1:4])
        assert [tuple(images.shape[2:]) for images in batch.inputs] == list(geometry.input_sizes)
        assert {images.device.type for images in (*batch.inputs, batch.labels)} == {GPU.type}
        assert gpu.waits == []

    @pytest.mark.parametrize("order", [0, 1, 3])
    @pytest.mark.parametrize(("kind", "weight_maps"), [(0, 0), (1, 0), (3, 0), (3, 4)])
    def test_drawing_centres_from_cases_that_are_rotated(self, kind, weight_maps, order):
        classes = architecture().classes
        one = case(classes, weight_maps=weight_maps)
        names = {"order_images": order, "order_labels": order, "order_roi": order, "order_weight_maps": order}
        affine = AffineAugmentation(probability=1.0, **names)
        proportions = (1.0,) * {0: 2, 1: 1, 3: classes}[kind]
        request = SubepochRequest(6, 2, SamplingRule(kind, classes, proportions), (5, 5, 5))
        with stand_in_gpu() as gpu:
            pool = VolumePool(PoolLayout.of(one), GPU, 2**30)
            plan = SubepochSampler(pool, lambda _: one, 2, request, 0, "train", affine).plan(0, 0)
            pool.shrink(2**20)
        assert plan.centres.shape == (6, 3)
        assert gpu.waits


class TestInference:
    @pytest.mark.parametrize("tiling", ["segments", "auto"])
    @pytest.mark.parametrize(
        "chosen",
        [
            PredictionConfig(),
            PredictionConfig(mirrored_axes=("x", "z"), uncertainty=("entropy", "variance")),
            PredictionConfig(blending="gaussian", keep_largest=(False, True, True, True)),
        ],
        ids=["plain", "mirrored", "blended"],
    )
    @pytest.mark.parametrize("described", [architecture(), with_everything()], ids=["plain net", "with everything"])
    def test_a_case(self, described, chosen, tiling):
        one = case(described.classes)
        settings = InferenceSettings(segment=SEGMENT, tiling=tiling, device=GPU, blending=blending_of(chosen))
        with stand_in_gpu() as gpu:
            network = DeepMedicNet(described).to(GPU)
            found = predict_case([Member(network, SEGMENT)], [one], settings, chosen, {0: {1: (0, 2)}})
        assert found.probabilities.shape == (described.classes, *SIZE)
        assert found.probabilities.device.type == found.segmentation.device.type == "cpu"
        assert found.feature_maps[0, 1].device.type == "cpu"
        assert gpu.waits
