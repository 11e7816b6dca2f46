"""Cases that another data set keeps in memory: what is taken from there, how it is copied, and what is read instead."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from deepmedic.config.sections import PreprocessingConfig
from deepmedic.data.case_headers import CaseHeaders, resampled_header
from deepmedic.data.cases import Case, ImageRef
from deepmedic.data.dataset import CaseNeeds, DataSet
from deepmedic.data.nifti import array_header
from deepmedic.data.pool import PoolLayout, VolumePool
from deepmedic.data.resident_cases import ResidentCases

SIZE = (8, 7, 6)
NEEDS = CaseNeeds(3, ((2, 2),) * 3, (5, 5, 5), 2)
UNPADDED = PreprocessingConfig(pad_images=False)
KINDS = ("channels", "labels", "roi", "weight_maps", "border_values")


class Cases(DataSet):
    """Cases made in memory; it is noted which are read."""

    def read_each(self, index, needs=()):
        self.read.append(index)
        return [self.make(index)] * max(1, len(needs))


@pytest.fixture
def make_data(make_case, tmp_path):
    """Two cases of two channels, of which only the first has an ROI."""

    def make(needs=NEEDS, preprocessing=UNPADDED, spacing=None) -> Cases:
        header = array_header(SIZE)
        header = header if spacing is None else resampled_header(header, spacing)
        found = CaseHeaders((header, header), header, header, (header, header, header), header)
        mask = ImageRef(tmp_path / "roi.nii")
        cases = [Case(f"case-{number}", (), roi=None if number else mask) for number in range(2)]
        data = Cases("validation", cases, [found, found], preprocessing, needs)
        data.read = []
        data.make = lambda index: make_case(SIZE, seed=index, with_roi=index == 0, n_weight_maps=3)
        return data

    return make


@pytest.fixture
def make_resident(make_data):
    """A view of a data set whose cases lie in a pool on the device, as rows beside each other."""

    def make(data=None, device="cpu", keeper=None) -> ResidentCases:
        data, keeper = data or make_data(), keeper or make_data()
        pool = VolumePool(PoolLayout.of(keeper.make(0)), device, 2**20)
        pool.require([0, 1], keeper.make)
        return ResidentCases(data, keeper, pool.view)

    return make


def same(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    return one is other if one is None or other is None else one.dtype == other.dtype and torch.equal(one, other)


@pytest.mark.parametrize("index", [0, 1])
def test_a_resident_case_is_as_it_was_read_on_the_cpu(make_data, make_resident, device, index):
    data = make_data()
    for found in (*make_resident(data, device).read_each(index), make_resident(data, device).load_if_usable(index)):
        expected = data.make(index)
        for kind in KINDS:
            assert same(getattr(found, kind), getattr(expected, kind)), kind
        assert found.channels.is_contiguous()
    assert data.read == []


class OnDevice(torch.Tensor):
    """Notes what is copied, by its shape."""

    copied: list[tuple[int, ...]] = []  # noqa: RUF012

    @classmethod
    def __torch_function__(cls, function, types, arguments=(), keywords=None):
        if function in {torch.Tensor.cpu, torch.Tensor.to, torch.Tensor.contiguous, torch.Tensor.clone}:
            cls.copied.append(tuple(arguments[0].shape))
        return super().__torch_function__(function, types, arguments, keywords or {})


def beside_others(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As a pool has them: each image is one piece of memory, all together are none. Also that memory."""
    line = torch.zeros(len(images), 1000)
    line[:, : images[0].numel()] = images.flatten(1)
    return line[:, : images[0].numel()].view(images.shape).as_subclass(OnDevice), line


@pytest.mark.parametrize("kind", ["channels", "weight_maps"])
def test_images_are_copied_one_by_one(make_data, make_case, monkeypatch, kind):
    monkeypatch.setattr(OnDevice, "copied", [])
    case = make_case(SIZE, n_weight_maps=3)
    expected = getattr(case, kind)
    on_device, memory = beside_others(expected)
    view = ResidentCases(make_data(), make_data(), lambda _: replace(case, **{kind: on_device}))
    found = getattr(view.read_each(0)[0], kind)
    assert OnDevice.copied == [SIZE] * len(expected)
    assert torch.equal(found.as_subclass(torch.Tensor), expected)
    memory.zero_()
    assert found.any()  # a copy, whatever becomes of the original


def test_on_a_gpu_the_copy_takes_hardly_any_memory_there(make_data, make_resident, device):
    view = make_resident(device=device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    (found,) = view.read_each(0)
    assert {getattr(found, kind).device.type for kind in KINDS} == {"cpu"}
    if device == "cuda":
        assert torch.cuda.max_memory_allocated() - before < found.channels[0].nbytes


def test_a_case_that_is_not_resident_is_read(make_data):
    data = make_data()
    view = ResidentCases(data, make_data(), lambda index: None)
    assert same(view.read_each(1)[0].channels, data.make(1).channels)
    assert data.read == [1]


def test_cases_for_other_networks_are_read(make_data, make_resident):
    data = make_data()
    assert len(make_resident(data).read_each(0, [NEEDS, NEEDS])) == 2
    assert data.read == [0]


WIDER = replace(NEEDS, margins=((3, 3),) * 3)
PADDED = PreprocessingConfig(pad_images=True)


@pytest.mark.parametrize(
    ("wanted", "kept", "taken"),
    [
        ({"needs": replace(NEEDS, segment=(8, 1, 1))}, {}, True),  # no case is smaller than either segment
        ({"needs": replace(NEEDS, segment=(9, 1, 1))}, {}, False),
        ({"needs": WIDER}, {}, True),  # volumes are not padded
        ({"needs": WIDER, "preprocessing": PADDED}, {"preprocessing": PADDED}, False),
        ({"preprocessing": PADDED}, {"preprocessing": PADDED}, True),
        ({"preprocessing": PADDED}, {}, False),
        ({"needs": replace(NEEDS, classes=4)}, {}, False),
        ({"spacing": (2.0, 1.0, 1.0)}, {"spacing": (2.0, 1.0, 1.0)}, False),
    ],
)
def test_what_is_prepared_in_another_way_is_read(make_data, make_resident, wanted, kept, taken):
    data = make_data(**wanted)
    make_resident(data, keeper=make_data(**kept)).read_each(0)
    assert data.read == ([] if taken else [0])


def test_other_cases_are_read(make_data, make_resident):
    data = make_data()
    data.cases[1] = replace(data.cases[1], name="another")
    view = make_resident(data)
    view.read_each(0), view.read_each(1)
    assert data.read == [1]
