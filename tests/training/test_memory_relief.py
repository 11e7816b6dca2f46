"""A step for which memory runs out: room is made, then it is found out what fits."""

from __future__ import annotations

import logging

import pytest
import torch

from deepmedic.config.architecture import Architecture, Pathway
from deepmedic.data.segments import SegmentBatch
from deepmedic.errors import ResourceError
from deepmedic.model import parameters
from deepmedic.model.network import DeepMedicNet
from deepmedic.training.memory_relief import counted_within_memory, within_memory

OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has ...")


@pytest.fixture
def network() -> DeepMedicNet:
    kernels, valid, none = ((3, 3, 3), (3, 3, 3)), ("valid",) * 2, (0.0,) * 2
    fc = Pathway("fc", (3, 2), ((1, 1, 1),) * 2, valid, none)
    torch.manual_seed(0)
    return DeepMedicNet(Architecture(1, 2, Pathway("normal", (2, 3), kernels, valid, none), (), fc)).train()


@pytest.fixture
def batch() -> SegmentBatch:
    generator = torch.Generator().manual_seed(1)
    return SegmentBatch((torch.randn(10, 1, 7, 7, 7, generator=generator),), torch.zeros(10, 3, 3, 3))


class Device:
    """Computes with a network; memory holds `fitting` segments, and more once room was made."""

    def __init__(self, network, fitting, after_room=None, error=OUT_OF_MEMORY):
        self.network, self.fitting, self.after_room, self.error = network, fitting, after_room, error
        self.tried = []

    def compute(self, batch):
        count = batch.inputs[0].shape[0]
        self.tried.append(count)
        result = self.network(*batch.inputs)  # batch norm has stored its statistics when memory runs out
        if count > self.fitting:
            raise self.error
        return result.detach()

    def make_room(self):
        if self.after_room is None:
            return False
        self.fitting, self.after_room = self.after_room, None
        return True


def test_with_enough_memory_nothing_else_happens(network, batch):
    device = Device(network, 10)
    result = within_memory(device.compute, batch, network, lambda: pytest.fail("no room was needed"), "batchsize_train")
    assert (device.tried, result.shape) == ([10], (10, 2, 3, 3, 3))


@pytest.mark.parametrize("error", [OUT_OF_MEMORY, MemoryError(), RuntimeError("[enforce fail] can't allocate memory")])
def test_room_is_made_and_the_result_is_as_if_there_had_been_enough(network, batch, caplog, error):
    undisturbed = DeepMedicNet(network.architecture).train()
    undisturbed.load_state_dict(network.state_dict())
    expected = undisturbed(*batch.inputs)
    device = Device(network, 4, after_room=10, error=error)
    with caplog.at_level(logging.WARNING):
        result = within_memory(device.compute, batch, network, device.make_room, "batchsize_train")
    assert device.tried == [10, 10]
    assert torch.equal(result, expected)
    for name, values in undisturbed.state_dict().items():
        assert torch.equal(network.state_dict()[name], values), name
    [record] = caplog.records
    assert "The volumes that it does not need were given up, and it is repeated" in record.getMessage()
    assert "\n" not in record.getMessage()


@pytest.mark.parametrize("after_room", [None, 7])
@pytest.mark.parametrize("fitting", [1, 4, 6, 7])
def test_batch_size_that_fits_is_named(network, batch, fitting, after_room):
    device = Device(network, fitting, after_room and fitting)
    with pytest.raises(ResourceError) as refusal:
        within_memory(device.compute, batch, network, device.make_room, "batchsize_train")
    message = str(refusal.value)
    assert "Memory ran out in a step with batchsize_train = 10, although resident volumes were given up" in message
    assert "Tried to allocate 20.00 GiB." in message
    assert f"batchsize_train = {fitting} fits, as was tried out. Set batchsize_train to {fitting} or less" in message
    assert "GPU 0 has" not in message
    assert refusal.value.exit_code == 6


def test_not_even_one_segment_fits(network, batch):
    device = Device(network, 0)
    with pytest.raises(ResourceError, match=r"Not even one segment at a time fits\. Lower segmentsDimTrain"):
        within_memory(device.compute, batch, network, device.make_room, "batchsize_train")
    assert min(device.tried) == 1


def test_other_errors_are_not_taken_for_it(network, batch):
    device = Device(network, 4, 10, error=RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        within_memory(device.compute, batch, network, device.make_room, "batchsize_train")
    assert device.tried == [10]


def test_next_rows_are_put_back(network, batch):
    before = parameters.rolling_rows(network)
    rows = parameters.next_rows(network)
    network(*batch.inputs), network(*batch.inputs)
    assert parameters.rolling_rows(network) != before
    parameters.put_next_rows(network, rows)
    assert parameters.rolling_rows(network) == before


class TestCounting:
    """Batches of validation, of which several are computed together."""

    @staticmethod
    def count(device):
        return lambda batch: torch.stack([(device.compute(batch) > 0).sum(), torch.tensor(len(batch.inputs[0]))])

    def test_at_once_where_memory_is_enough(self, network, batch):
        device = Device(network.eval(), 10)
        counts = counted_within_memory(self.count(device), batch, network, lambda: pytest.fail("no room needed"), 4)
        assert device.tried == [10]
        assert counts.tolist() == [int((network(*batch.inputs) > 0).sum()), 10]

    def test_batch_by_batch_where_it_is_not(self, network, batch):
        device = Device(network.eval(), 4)
        counts = counted_within_memory(self.count(device), batch, network, lambda: pytest.fail("no room needed"), 4)
        assert device.tried == [10, 4, 4, 2]
        assert counts.tolist() == [int((network(*batch.inputs) > 0).sum()), 10]

    def test_counts_that_a_recorded_step_overwrites_add_up(self, network, batch):
        device, recorded = Device(network.eval(), 4), torch.zeros(2, dtype=torch.int64)

        def count(part):
            return recorded.copy_(self.count(device)(part))

        counts = counted_within_memory(count, batch, network, lambda: pytest.fail("no room needed"), 4)
        assert counts.tolist() == [int((network(*batch.inputs) > 0).sum()), 10]

    def test_the_refusal_is_about_the_batch_that_was_asked_for(self, network, batch):
        device = Device(network.eval(), 3)
        with pytest.raises(ResourceError, match=r"batchsize_val_samples = 4, although .* = 3 fits"):
            counted_within_memory(self.count(device), batch, network, device.make_room, 4)
