"""What a session will need, from headers and sizes alone."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deepmedic.config.load import load_model_config, load_train_config
from deepmedic.config.sections import ExecutionConfig
from deepmedic.data.dataset import CaseNeeds, read_data_set
from deepmedic.data.residency import volume_bytes
from deepmedic.errors import ProblemList, ResourceError
from deepmedic.model.saved import SavedModel
from deepmedic.sessions.common import estimates

CPU = torch.device("cpu")


@pytest.fixture
def model(study):
    return SavedModel.new(load_model_config(study.folder / "model.cfg"), 0)


@pytest.fixture
def config(study):
    return load_train_config(study.train(validate=True))


@pytest.fixture
def data(config):
    problems = ProblemList()
    needs = CaseNeeds(3, ((2, 2),) * 3, (9, 9, 9), 2)
    found = read_data_set(config.data, "training", config.preprocessing, needs, problems, needs_labels=True)
    problems.raise_if_any()
    return found


ONE_CASE = (1 + 24 * 22 * 20) * (2 * 4 + 1 + 1)


def test_volumes_take_their_channels_labels_and_roi(data):
    assert volume_bytes(data) == 2 * ONE_CASE


def test_budget_is_shared_between_training_and_validation(config, data):
    def budgets(gib, cases=50, validation=data):
        execution = ExecutionConfig(memory_budget=gib)
        changed = replace(config, execution=execution, cases_per_subepoch=cases)
        return estimates.volume_budgets(changed, CPU, validation)

    assert budgets(1, validation=None) == estimates.Budgets(2**30)
    assert budgets(1) == estimates.Budgets(2**30 - 2 * ONE_CASE, 2 * ONE_CASE)
    # As much as one subepoch may need, even if that is more than a third.
    gib = 4 * ONE_CASE / 2**30
    assert budgets(gib, cases=1).validation == 4 * ONE_CASE // 3
    assert budgets(gib, cases=2).validation == 2 * ONE_CASE


def test_half_of_the_memory_is_the_default(config, monkeypatch):
    monkeypatch.setattr(estimates, "memory_limit", lambda: 1000)
    assert estimates.volume_budgets(config, CPU, None).training == 500


def test_features_of_an_analysis_may_take_an_eighth_of_the_memory_or_what_the_budget_says(monkeypatch):
    monkeypatch.setattr(estimates, "memory_limit", lambda: 1000)
    assert estimates.feature_budget(ExecutionConfig()) == 125
    assert estimates.feature_budget(ExecutionConfig(memory_budget=0.5)) == 2**29


def test_subepoch_that_may_not_fit_is_refused(data):
    estimates.check_memory(data, 2, 2 * ONE_CASE)
    estimates.check_memory(data, 1, 2 * ONE_CASE - 1)
    with pytest.raises(
        ResourceError, match=r"training: the 2 largest cases, which one subepoch may draw from, need 206\.3 KiB"
    ):
        estimates.check_memory(data, 50, 2 * ONE_CASE - 1)


def test_budget_that_the_device_does_not_have_is_refused(monkeypatch):
    monkeypatch.setattr(estimates, "memory_limit", lambda: 2**30)
    estimates.check_budget(2**30, 2**40, CPU)  # less is used
    estimates.check_budget(2**40, 2**30, CPU)
    expected = r"memoryBudget allows 3\.0 GiB for volumes, of which 2\.0 GiB would be used, but cpu has only 1\.0 GiB"
    with pytest.raises(ResourceError, match=expected):
        estimates.check_budget(2 * 2**30, 3 * 2**30, CPU)


def test_budget_is_compared_with_what_is_free_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 2**40))
    with pytest.raises(ResourceError, match=r"but cuda:1 has only 1\.0 GiB"):
        estimates.check_budget(2**31, 2**31, torch.device("cuda", 1))


def test_disk_holds_checkpoints_and_results(config, data, model):
    parameters = sum(tensor.numel() * 4 for tensor in model.parameters.values())
    without = estimates.training_disk(config, model, None)
    assert without == 4 * parameters * (config.keep_last_checkpoints + 4)
    assert estimates.training_disk(config, model, data) - without == 2 * 20 * 18 * 16 * (1 + 3 * 4) // 2


def test_disk_with_too_little_room_is_refused(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**20))
    estimates.check_disk(tmp_path / "a" / "b", 2**20)
    with pytest.raises(ResourceError, match=r"this session may write 2\.0 MiB, but only 1\.0 MiB are free there"):
        estimates.check_disk(tmp_path / "a" / "b", 2**21)


def test_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="file is not a folder that can be written; choose another folderForOutput"):
        estimates.check_disk(tmp_path / "file" / "out", 1)
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(ResourceError, match=f"{tmp_path} is not a folder that can be written"):
        estimates.check_disk(tmp_path / "out", 1)


def test_relative_folder_is_looked_up_from_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    estimates.check_disk(Path("out"), 1)


def test_feature_maps_of_a_batch(model):
    # Normal: 3 maps of 7^3 and 4 of 5^3. Low resolution: inputs of 6^3, so 3 of 4^3 and 4 of 2^3. Of 5^3, the 8 fused
    # ones and 5 and 3 of the FC path.
    voxels = 3 * 343 + 4 * 125 + 3 * 64 + 4 * 8 + (8 + 5 + 3) * 125
    assert model.architecture.input_sizes((9, 9, 9)) == ((9, 9, 9), (6, 6, 6))
    found = estimates.activation_bytes(model.architecture, (9, 9, 9), 10, training=False)
    assert found == voxels * 10 * 4
    assert estimates.activation_bytes(model.architecture, (9, 9, 9), 10, training=True) == 3 * found


def test_times_are_measured(model, data):
    assert 0 < estimates.seconds_per_step(model.network(), (9, 9, 9), 10, CPU) < 60
    assert 0 < estimates.seconds_of_inference(model.network(), data, CPU) < 60
