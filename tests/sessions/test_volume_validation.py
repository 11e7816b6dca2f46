"""Cases that are in memory for another purpose are not read again, and equal those on disk: for validation on whole
volumes and for the description of the data in the model."""

from __future__ import annotations

import pytest
import torch

from deepmedic.data.dataset import DataSet
from deepmedic.data.resident_cases import ResidentCases
from deepmedic.sessions.models.data_description import describe_data

TENSORS = ("channels", "labels", "roi", "border_values")


@pytest.fixture
def validated(study, run, monkeypatch):
    """Train for two epochs with validation; return each case as validation on whole volumes gets it, as it is on disk,
    and whether it was read."""

    def validated(model=None, **changes):
        found = []
        from_disk, read_each = DataSet.read_each, ResidentCases.read_each

        def watched(self, index, needs=()):
            reads = []
            with monkeypatch.context() as patch:
                patch.setattr(DataSet, "read_each", lambda *args: reads.append(index) or from_disk(*args))
                [case] = read_each(self, index, needs)
            found.append((case, from_disk(self._data, index)[0], bool(reads)))
            return [case]

        monkeypatch.setattr(ResidentCases, "read_each", watched)
        config = study.train(validate=True, **changes)
        assert run("-newModel", study.model(**(model or {})), "-train", config).code == 0
        return found

    return validated


@pytest.mark.parametrize("with_roi", [True, False])
@pytest.mark.parametrize("pad", [True, False])
def test_cases_in_memory_are_not_read_again(validated, study, with_roi, pad):
    if with_roi:
        # Two cases, of which only the first has a mask: both are kept with one.
        study.list_cases("val", [2, 1])
        (study.folder / "lists" / "val_roi.cfg").write_text("../images/case2_roi.nii.gz\n-\n")
    changes = {} if with_roi else {"roiMasksValidation": None, "roiMasksTraining": None}
    found = validated(padInputImagesBool=pad, **changes)
    assert len(found) == (4 if with_roi else 2)
    for case, on_disk, was_read in found:
        assert not was_read
        assert (case.name, case.padding, case.header) == (on_disk.name, on_disk.padding, on_disk.header)
        for name in TENSORS:
            one, other = getattr(case, name), getattr(on_disk, name)
            assert (one is None) == (other is None)
            assert one is None or torch.equal(one, other)


def test_what_is_kept_in_another_way_is_read(validated):
    """Resampled cases, of which labels on the grid of the files are not kept."""
    found = validated(resampleTo=[2.0, 2.0, 2.0])
    assert [was_read for _, _, was_read in found] == [True, True]


def test_other_padding_is_read(validated):
    """Tiles larger than the image, so that it is padded further for whole volumes than for samples."""
    found = validated(model={"segmentsDimInference": [31, 13, 13]})
    assert [was_read for _, _, was_read in found] == [True, True]
    assert all(case.size[0] == 31 for case, _, _ in found)


def test_description_of_the_training_cases_needs_no_reading(study, run, monkeypatch):
    described, reads = [], []

    def watched(data, load):
        with monkeypatch.context() as patch:
            patch.setattr(DataSet, "read_each", lambda *args: reads.append(args))
            found = describe_data(data, load)
        described.append((found, describe_data(data)))
        return found

    monkeypatch.setattr("deepmedic.sessions.training.training_session.describe_data", watched)
    assert run("-newModel", study.model(), "-train", study.train()).code == 0
    [(found, as_read)] = described
    assert reads == []
    assert len(found.intensities) == 2
    assert found == as_read
