"""The table of features: rows of each subject, and parts that share none."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from random_architectures import small_architecture

from deepmedic.analysis.bank import Bank
from deepmedic.analysis.features import FeatureSettings, stream_features
from deepmedic.analysis.voxels import VoxelSettings
from deepmedic.errors import DataError
from deepmedic.model.network import DeepMedicNet


@pytest.fixture
def bank(make_case, in_memory) -> Bank:
    data = in_memory(*(make_case(name=name, seed=seed) for seed, name in enumerate("abcdefg")))
    networks = {"net": DeepMedicNet(small_architecture())}
    settings = FeatureSettings(VoxelSettings(5, 3), layers=("normal/1",))
    return Bank.of(stream_features(networks, data, (11, 11, 11), settings), 3)


def test_rows_belong_to_the_subjects_they_come_from(bank) -> None:
    assert bank.subjects == tuple("abcdefg")
    rows = bank.rows_of([1, 4])
    assert Counter(bank.subject_of[rows].tolist()) == {1: 15, 4: 15}
    parts = list(bank.by_subject(bank.features["net"]["normal/1"]))
    assert torch.equal(torch.cat([parts[1], parts[4]]), bank.features["net"]["normal/1"][rows])


def test_no_subject_is_learnt_from_and_tested_on(bank) -> None:
    folds = bank.folds()
    assert len(folds) == 5
    assert all(not set(fold.learning) & set(fold.testing) for fold in folds)
    assert all(set(fold.learning) | set(fold.testing) == set(range(7)) for fold in folds)
    assert Counter(subject for fold in folds for subject in fold.testing) == dict.fromkeys(range(7), 1)


def test_all_cases_of_a_subject_stay_together(make_case, in_memory) -> None:
    data = in_memory(*(make_case(name=name) for name in "abcd"), subjects=("Ann", "Bob", "Ann", "Cat"))
    networks = {"net": DeepMedicNet(small_architecture())}
    settings = FeatureSettings(VoxelSettings(5, 3), layers=("normal/1",))
    bank = Bank.of(stream_features(networks, data, (11, 11, 11), settings), 3)
    assert bank.subjects == ("Ann", "Bob", "Cat")
    assert Counter(bank.subject_of.tolist()) == {0: 30, 1: 15, 2: 15}
    assert [fold.testing for fold in bank.folds()] == [(0,), (1,), (2,)]


def test_scans_of_a_person_by_their_bids_names_stay_together(make_case, in_memory) -> None:
    paths = ("sub-01/ses-1/anat/t1.nii.gz", "sub-01/ses-2/anat/t1.nii.gz", "sub-02/anat/t1.nii.gz")
    data = in_memory(*(make_case(name=name) for name in "abc"), paths=paths)
    networks = {"net": DeepMedicNet(small_architecture())}
    found = stream_features(networks, data, (11, 11, 11), FeatureSettings(VoxelSettings(5, 3), layers=("normal/1",)))
    assert [case.subject for case in found] == ["sub-01", "sub-01", "sub-02"]


def test_frequencies_are_those_of_whole_cases_not_of_the_sample(bank, make_case) -> None:
    labels = make_case().labels[2:-2, 3:-3, 2:-2]  # what the network reaches without padding
    expected = torch.bincount(labels.flatten().long(), minlength=3).double()
    found = bank.frequencies([0, 1])
    torch.testing.assert_close(found, expected / expected.sum())


def test_a_single_case_is_refused(make_case, in_memory) -> None:
    networks = {"net": DeepMedicNet(small_architecture())}
    cases = stream_features(networks, in_memory(make_case()), (11, 11, 11), FeatureSettings(VoxelSettings(5, 3)))
    with pytest.raises(
        DataError, match="found labelled cases of 1 subjects that can be used; an analysis needs at least 2"
    ):
        Bank.of(cases, 3)
