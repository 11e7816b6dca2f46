from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from original_names import canonical

from deepmedic import checkpoints
from deepmedic.config.architecture import Architecture
from deepmedic.errors import ModelError
from deepmedic.model import parameters
from deepmedic.model.saved import SavedModel
from deepmedic.transfer.tensorflow_bundle import digests_of, read_bundle
from deepmedic.transfer.tensorflow_model import ImportedModel, import_model, to_saved_model

KINDS = ("SGD", "Adam", "RMSProp")


@pytest.fixture
def imported_golden(golden: str, golden_prefix: Any, architectures: Any, config_of: Any) -> ImportedModel:
    return import_model(golden_prefix(golden), config_of(architectures[golden]))


class TestOriginalsCheckpoints:
    def test_parameters(self, golden: str, golden_folder: Any, imported_golden: ImportedModel) -> None:
        table = json.loads((golden_folder(golden) / "variables.json").read_text())["network"]
        with np.load(golden_folder(golden) / "params.npz") as arrays:
            expected = {canonical(row["meaning"]): arrays[row["meaning"]] for row in table if row["used_in_inference"]}
        assert imported_golden.parameters.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(imported_golden.parameters[name].numpy(), array, err_msg=name, strict=True)

    def test_optimiser(self, golden: str, golden_folder: Any, imported_golden: ImportedModel, slots: Any) -> None:
        table = json.loads((golden_folder(golden) / "variables.json").read_text())
        kind = {"RmsPropOptimizer": 2, "AdamOptimizer": 1}[table["optimiser"]]
        state = imported_golden.optimiser
        assert state is not None
        assert imported_golden.optimiser_problem is None
        assert state["kind"] == KINDS[kind]
        assert state["steps"] == (3 if kind == 1 else 0)
        slot_of = {base: slot for slot, base in slots[kind].items()}
        seen = 0
        with np.load(golden_folder(golden) / "trainer_state.npz") as arrays:
            for row in table["trainer"]:
                if row["shape"]:
                    base, meaning = row["meaning"].removeprefix("optimiser.").split(" of ")
                    found = state["slots"][slot_of[base]][canonical(meaning)]
                    np.testing.assert_array_equal(found.numpy(), arrays[row["tf_name"].replace("/", ".")], strict=True)
                    seen += 1
        assert seen == sum(len(slot) for slot in state["slots"].values())

    def test_scalars_and_provenance(self, golden: str, golden_prefix: Any, imported_golden: ImportedModel) -> None:
        assert imported_golden.epochs_trained == 1
        assert imported_golden.trained
        expected = {"num_epochs_trained": 1, "init_lr": float(np.float32(0.001)), "init_mom": float(np.float32(0.6))}
        assert imported_golden.trainer == expected | ({"i_adam": 3.0} if golden == "threepath" else {})
        prefix = golden_prefix(golden)
        assert imported_golden.provenance["checkpoint"] == prefix.name
        assert imported_golden.provenance["sha256"] == digests_of(prefix)
        assert len(imported_golden.provenance["sha256"]) == 2

    def test_saved_model(
        self, golden: str, tmp_path: Path, architectures: Any, config_of: Any, imported_golden: ImportedModel
    ) -> None:
        config = config_of(architectures[golden], name=golden)
        path = tmp_path / "m.save"
        checkpoints.save(path, to_saved_model(imported_golden, config).to_content())
        model = SavedModel.from_content(checkpoints.load(path), str(path))
        assert (model.name, model.dialect, model.training) == (golden, "tensorflow", None)
        assert model.trained
        assert model.config == config
        assert model.provenance == imported_golden.provenance
        network = model.network()
        assert set(parameters.rolling_rows(network).values()) == {0}
        for name, tensor in parameters.named_tensors(network).items():
            assert torch.equal(tensor, imported_golden.parameters[name])
            assert torch.equal(tensor, model.start_parameters[name])

    def test_every_byte_of_the_data_is_verified(
        self, tmp_path: Path, golden_prefix: Any, architectures: Any, config_of: Any
    ) -> None:
        source = golden_prefix("tiny")
        prefix = tmp_path / source.name
        for path in source.parent.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        data = tmp_path / (source.name + ".data-00000-of-00001")
        content = data.read_bytes()
        for position in range(100, len(content), 2801):
            altered = bytearray(content)
            altered[position] ^= 0x10
            data.write_bytes(altered)
            with pytest.raises(ModelError, match="the checksum of the variable"):
                import_model(prefix, config_of(architectures["tiny"]))


@pytest.mark.parametrize(
    "variant", ["basic", "no batch norm", "relu", "no batch norm, elu", "low rank", "single pathway", "twelve layers"]
)
def test_names_follow_from_the_architecture(variant: str, imported: Any, simulated: Any, variants: Any) -> None:
    saved, network = simulated(variants[variant])
    model = imported(variants[variant], saved)
    assert model.parameters.keys() == network.keys()
    for name, array in network.items():
        np.testing.assert_array_equal(model.parameters[name].numpy(), array, err_msg=name, strict=True)
    normalized = {name.rpartition("/")[0] for name in network if name.endswith("gamma")}
    assert model.rolling_rows == dict.fromkeys(normalized, 0)
    assert model.optimiser is not None


def test_scratch_variables_do_not_matter(imported: Any, basic: Architecture, simulated: Any) -> None:
    saved, network = simulated(basic)
    without = {name: array for name, array in saved.items() if "sharedNew" not in name}
    assert len(without) == len(saved) - 8
    other = without | {"net/sharedNewMu_B": np.full(99, np.nan, np.float32)}
    for variables in (without, other):
        assert imported(basic, variables).parameters.keys() == network.keys()


def test_golden_bundle_is_what_the_simulated_original_saves(
    golden: str, golden_prefix: Any, architectures: Any, simulated: Any
) -> None:
    """The test's own idea of the original's naming agrees with real checkpoints."""
    saved, _ = simulated(architectures[golden], 1 if golden == "threepath" else 2)
    bundle = read_bundle(golden_prefix(golden))
    assert {name: np.shape(array) for name, array in saved.items()} == {
        name: array.shape for name, array in bundle.items()
    }
