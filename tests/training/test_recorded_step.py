"""Recorded steps give what plain ones give; recordings that fail or differ are not used.

No GPU is needed: `HostRecording` stands for a CUDA graph.
"""

from __future__ import annotations

import logging

import pytest
import torch
from host_recording import HostRecording, Recorder, copied

from deepmedic.config.architecture import Architecture
from deepmedic.data.segments import SegmentBatch
from deepmedic.model import parameters
from deepmedic.model.network import DeepMedicNet
from deepmedic.sessions.selftest import selftest_steps
from deepmedic.sessions.selftest.selftest_reference import golden
from deepmedic.training import recorded_step
from deepmedic.training.recorded_step import RecordedStep

CPU = torch.device("cpu")
STEPS = 8


@pytest.fixture
def recorder(monkeypatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(recorded_step, "record", recorder)
    return recorder


def network_and_batches() -> tuple[DeepMedicNet, list[SegmentBatch]]:
    """The self-test's network with dropout and two resolutions, and other batches of its size."""
    numbers = golden("forward")
    network = DeepMedicNet(Architecture.from_dict(numbers.settings["multiscale"]["architecture"])).train()
    parameters.load_tensors(network, numbers.below("multiscale/parameters"))
    inputs = numbers.numbered("multiscale/train/inputs", CPU)
    labels = numbers.arrays["multiscale/train/labels"]
    generator = torch.Generator().manual_seed(1)
    batches = [
        SegmentBatch(tuple(torch.randn(images.shape, generator=generator) for images in inputs), labels.roll(step, 0))
        for step in range(STEPS)
    ]
    return network, batches


class Steps:
    """Steps of gradient descent, with everything that a recording must not disturb."""

    def __init__(self, *, possible: bool) -> None:
        self.network, self.batches = network_and_batches()
        self.trained = [tensor for _, tensor in parameters.optimizer_order(self.network)]
        self.number = 0
        self.step = RecordedStep(
            self.compute,
            self.network,
            lambda: self.trained,
            lambda: torch.manual_seed(self.number),
            device=CPU,
            possible=possible,
        )

    def compute(self, batch):
        logits = self.network(*batch.inputs)
        cost = torch.nn.functional.cross_entropy(logits, batch.labels.long())
        cost.backward()
        return logits.detach(), cost.detach()

    def run(self, batch=None, kind=None) -> torch.Tensor:
        _, cost = self.step(batch or self.batches[self.number], kind)
        with torch.no_grad():
            for parameter in self.trained:
                if parameter.grad is not None:
                    parameter -= 0.01 * parameter.grad
        self.number += 1
        return cost.clone()

    def run_all(self) -> list[torch.Tensor]:
        return [self.run() for _ in self.batches]

    def state(self) -> dict[str, torch.Tensor]:
        return copied(self.network) | {"rows": parameters.next_rows(self.network)}


def assert_same(one, other) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_steps_equal_plain_ones_to_the_bit(recorder):
    plain, repeated = Steps(possible=False), Steps(possible=True)
    recorder.network = repeated.network
    assert torch.equal(torch.stack(plain.run_all()), torch.stack(repeated.run_all()))
    assert_same(plain.state(), repeated.state())
    assert [graph.repeated for graph in recorder.made] == [STEPS - recorded_step._STEPS_BEFORE]


def test_gradients_that_others_took_away_are_there_again(recorder):
    plain, repeated = Steps(possible=False), Steps(possible=True)
    recorder.network = repeated.network
    for _ in range(STEPS):
        for steps in (plain, repeated):
            for parameter in steps.trained:
                parameter.grad = None
            steps.run()
    assert_same(plain.state(), repeated.state())


def test_another_kind_or_size_of_batch_is_recorded_anew(recorder):
    steps = Steps(possible=True)
    recorder.network = steps.network
    before = recorded_step._STEPS_BEFORE + 1
    for kind in (0, 1):
        for _ in range(before):
            steps.number = 0
            steps.run(kind=kind)
    whole = steps.batches[0]
    half = SegmentBatch(tuple(images[:2] for images in whole.inputs), whole.labels[:2])
    for _ in range(before):
        steps.run(half, kind=1)
        steps.number = 0
    assert [graph.inputs.inputs[0].shape[0] for graph in recorder.made] == [len(whole.labels)] * 2 + [2]


def test_after_release_nothing_is_kept(recorder):
    steps = Steps(possible=True)
    recorder.network = steps.network
    assert not steps.step.release()
    steps.run_all()
    assert steps.step.release()
    assert all(parameter.grad is None for parameter in steps.trained)
    steps.number = 0
    steps.run_all()
    assert len(recorder.made) == 2


def test_what_cannot_be_recorded_is_computed_plainly(monkeypatch, caplog):
    def refuse(*arguments):
        try:
            raise RuntimeError("operation not permitted when stream is capturing")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")  # as leaving a graph does

    monkeypatch.setattr(recorded_step, "record", refuse)
    plain, repeated = Steps(possible=False), Steps(possible=True)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(torch.stack(plain.run_all()), torch.stack(repeated.run_all()))
    assert_same(plain.state(), repeated.state())
    assert [record.getMessage() for record in caplog.records] == [
        "Steps cannot be recorded on cpu, and are launched kernel by kernel: operation not permitted when stream is "
        "capturing"
    ]


@pytest.mark.parametrize("wrong", ["outputs", "gradients"])
def test_recording_that_differs_is_not_used(recorder, monkeypatch, caplog, wrong):
    plain, repeated = Steps(possible=False), Steps(possible=True)
    recorder.network = repeated.network
    replay = HostRecording.replay

    def differing(graph):
        replay(graph)
        for tensor in graph.outputs if wrong == "outputs" else graph.gradients:
            tensor.mul_(1.1)

    monkeypatch.setattr(HostRecording, "replay", differing)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(torch.stack(plain.run_all()), torch.stack(repeated.run_all()))
    assert_same(plain.state(), repeated.state())
    assert [graph.repeated for graph in recorder.made] == [1]
    assert "differs from the plain one" in caplog.text


def test_batch_without_a_finite_cost_is_not_recorded(recorder):
    steps = Steps(possible=True)
    recorder.network = steps.network
    for _ in range(recorded_step._STEPS_BEFORE):
        steps.run()
    steps.batches[steps.number].inputs[0].fill_(torch.nan)
    assert not torch.isfinite(steps.run())
    assert recorder.made == []


def test_the_step_before_is_computed_where_the_next_one_is_recorded(monkeypatch):
    """Libraries make room for each stream when it is first used, which is not allowed within a recording."""
    order = []

    class Stream:
        device = torch.device("cuda", 0)

        def __init__(self, name) -> None:
            self.name = name

        def wait_stream(self, other) -> None:
            order.append(f"{self.name} waits for {other.name}")

    class Current:
        def __init__(self, stream) -> None:
            self.stream = stream

        def __enter__(self) -> None:
            order.append(f"on {self.stream.name}")

        def __exit__(self, *_: object) -> None:
            order.append("back")

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("usual"))
    monkeypatch.setattr(torch.cuda, "stream", Current)
    with pytest.raises(ZeroDivisionError), recorded_step.aside(Stream("side")):
        order.append(1 / 0)
    assert order == ["side waits for usual", "on side", "back", "usual waits for side"]


class FailingGraph:
    """Stands for `torch.cuda.graph` where something in it cannot be recorded: leaving it fails too."""

    def __init__(self, graph, stream) -> None:
        self.stream = stream

    def __enter__(self) -> None:
        streams.append(self.stream)

    def __exit__(self, *_: object) -> None:
        raise RuntimeError("capture was invalidated")


streams: list[object] = []


def test_failed_recording_leaves_stream_and_generator_as_they_were(monkeypatch):
    class Place:
        device = torch.device("cuda", 0)

        def __init__(self, name="default") -> None:
            self.name, self.taken = name, []

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

        def graphsafe_set_state(self, generator) -> None:
            self.taken.append(generator)

    default, generator = Place(), Place("generator")
    streams[:] = [default]
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", FailingGraph)
    monkeypatch.setattr(torch.cuda, "device", lambda device: Place())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: streams[-1])
    monkeypatch.setattr(torch.cuda, "set_stream", streams.append)
    monkeypatch.setattr(torch.cuda, "default_generators", (generator,))
    monkeypatch.setattr(torch, "Generator", lambda device: "fresh")
    batch = SegmentBatch((torch.zeros(1),), None)
    with pytest.raises(RuntimeError, match="invalidated"):
        recorded_step.record(lambda inputs: inputs.inputs, batch, list, Place("side"))
    assert [place.name for place in streams] == ["default", "side", "default"]
    assert generator.taken == ["fresh"]


class TestSelfTest:
    """The check that the self-test makes on a GPU."""

    @pytest.fixture
    def made(self, recorder, monkeypatch):
        build = DeepMedicNet.train

        def train(network, mode=True):
            recorder.network = network
            return build(network, mode)

        monkeypatch.setattr(DeepMedicNet, "train", train)
        return recorder.made

    def test_recorded_steps_pass(self, made):
        comparison = selftest_steps.recorded_steps(CPU)
        assert comparison.error == 0
        assert [graph.repeated for graph in made] == [STEPS - recorded_step._STEPS_BEFORE]

    def test_steps_that_keep_the_labels_of_an_earlier_batch_are_found(self, made, monkeypatch):
        repeated = RecordedStep._repeated

        def careless(step, recording, batch):
            if step._recording is None:  # it passes its own comparison
                return repeated(step, recording, batch)
            return repeated(step, recording, SegmentBatch(batch.inputs, None))

        monkeypatch.setattr(RecordedStep, "_repeated", careless)
        assert not selftest_steps.recorded_steps(CPU).passed

    def test_steps_that_cannot_be_recorded_fail(self, monkeypatch):
        def refuse(*arguments):
            raise RuntimeError("not supported")

        monkeypatch.setattr(recorded_step, "record", refuse)
        with pytest.raises(ValueError, match="could not be recorded"):
            selftest_steps.recorded_steps(CPU)
