"""The benchmarks that a GPU is measured with run from start to end, on a CPU with a network of few feature maps."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    """Imports a benchmark, made small."""
    monkeypatch.syspath_prepend(str(FOLDER))
    throughput = importlib.import_module("throughput")
    full_size = throughput.default_model

    def small() -> Any:
        config = full_size()
        architecture = config.architecture

        def thin(pathway):
            depth, last = 2, pathway.feature_maps[-1] if pathway is architecture.fc else 3
            maps = (3,) * (depth - 1) + (last,)
            kernels, paddings = pathway.kernels[:depth], pathway.paddings[:depth]
            rates = (0.0, 0.5) if pathway is architecture.fc else (0.0,) * depth
            return replace(
                pathway,
                feature_maps=maps,
                kernels=kernels,
                paddings=paddings,
                dropout_rates=rates,
                residual_layers=(),
                low_rank_layers=(),
            )

        parts = {"normal": thin(architecture.normal), "fc": thin(architecture.fc)}
        thinner = replace(architecture, subsampled=tuple(map(thin, architecture.subsampled)), **parts)
        sizes = {"segment_size_train": (13, 13, 13), "segment_size_inference": (15, 15, 15)}
        return replace(config, architecture=thinner, **sizes)

    monkeypatch.setattr(throughput, "default_model", small)
    monkeypatch.setattr(throughput, "VOLUME", (30, 28, 26))
    monkeypatch.setattr(throughput, "BATCH", 2)

    def load_one(name: str) -> ModuleType:
        module = importlib.import_module(name)
        for shared in ("default_model", "VOLUME", "BATCH"):
            if hasattr(module, shared):
                monkeypatch.setattr(module, shared, getattr(throughput, shared))
        return module

    return load_one


@pytest.fixture
def output(tmp_path):
    return tmp_path / "results.json"


def results(module: ModuleType, output: Path, *words: str) -> dict[str, Any]:
    module.main([*words, "--device", "cpu", "--output", str(output)])
    found: dict[str, Any] = json.loads(output.read_text())
    return found


def test_throughput(load, output, capsys):
    found = results(load("throughput"), output, "--precision", "bf16", "--seconds", "0.01")
    training = found["training bf16"]
    assert training["segmentsPerSecond"] == pytest.approx(training["segments"] / training["seconds"])
    assert training["segments"] % (2 * training["steps"]) == 0
    profiled = training["profiled"]
    assert 0 < profiled["busy"] <= profiled["wall"]
    assert sum(profiled["kinds"].values()) == pytest.approx(profiled["busy"])
    assert found["inference bf16 auto"]["median"] > 0
    assert "segments a second" in capsys.readouterr().out


def test_time_that_kernels_share_counts_once(load, monkeypatch):
    throughput = load("throughput")
    watch = throughput.Watch(torch.device("cpu"))
    watch.begin()

    class Event:
        device_type = torch.autograd.DeviceType.CPU

        def __init__(self, name, start, end):
            self.name = name
            self.time_range = type("Range", (), {"start": start * 1e6, "end": end * 1e6})

    events = [Event("sm90_xmma_fprop_x", 0, 4), Event("Memcpy DtoH (Device -> Pinned)", 3, 6), Event("relu", 8, 9)]
    monkeypatch.setattr(watch._profile, "events", lambda: events)
    busy = watch.end()
    assert busy.busy == pytest.approx(7)
    assert busy.by_kind == {"convolutions": 4, "copies between host and device": 2, "voxel by voxel": 1}
    assert busy.kernels == 3


def test_fusion(load, output):
    found = results(load("fusion"), output, "--tiles", "17", "--batch", "2", "--repetitions", "1")
    assert found["tile of 17^3"]["fused"]["median"] > 0
    assert found["training, 2 x 37^3"]["ratio"] > 0


def test_hardware_limit(load, output, monkeypatch):
    module = load("hardware_limit")
    monkeypatch.setattr(module, "SIDE", {"cpu": 64})
    found = results(module, output, "--precision", "float32", "--repetitions", "1")
    assert found["step, float32"]["operations"] > 0
    assert found["scan, float32"]["fewest"] < found["scan, float32"]["operations"]


def test_step_variants(load, output):
    ways = ("--precision", "float32", "bf16", "--launch", "plain", "recorded", "--repetitions", "1")
    found = results(load("step_variants"), output, *ways)
    errors = {name: way["error"] for name, way in found.items() if isinstance(way, dict)}
    assert len(errors) == 16
    assert max(error for name, error in errors.items() if "float32" in name) < 1e-4
    assert 1e-4 < max(error for name, error in errors.items() if "bf16" in name) < 0.2


@pytest.mark.parametrize("without", [[], ["--without-network", "0"]])
def test_stream(load, output, monkeypatch, without):
    module, throughput = load("stream"), load("throughput")
    architecture = throughput.default_model().architecture
    monkeypatch.setattr(module, "make_network", lambda channels, device: module.DeepMedicNet(architecture).eval())
    found = results(module, output, "--scans", "9", "--size", "50", "48", "46", *without)
    assert found["scansPerSecond"] == pytest.approx(9 / found["together"]["wall"])
    assert found["parts"].keys() == {"read", "compute", "write"}


def test_against_monai(load, output, monkeypatch):
    module = load("against_monai")
    monkeypatch.setattr(module, "TWIN_WINDOW", (16, 16, 16))
    monkeypatch.setattr(module, "UNET_WINDOW", (16, 16, 16))
    monkeypatch.setattr(module, "unet", lambda channels: torch.nn.Conv3d(channels, module.CLASSES, 3, padding=1))
    found = results(module, output, "--repetitions", "1")
    assert found.keys() == {"ours, float32", "twin, MONAI, float32", "nnU-Net's size, float32"}
