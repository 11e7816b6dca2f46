from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepmedic.config.architecture import Architecture, Pathway
from deepmedic.errors import ModelError
from deepmedic.transfer.tensorflow_model import import_model


class TestMisfit:
    """The original took parameters of another shape without a word."""

    def refusal(self, imported: Any, architecture: Architecture, saved: dict[str, Any]) -> list[str]:
        with pytest.raises(ModelError) as caught:
            imported(architecture, saved)
        return str(caught.value).splitlines()

    def test_channels(self, imported: Any, basic: Architecture, simulated: Any) -> None:
        lines = self.refusal(imported, replace(basic, input_channels=3), simulated(basic)[0])
        assert "x.model.ckpt: this TensorFlow checkpoint does not fit the architecture of model 'm': " in lines[0]
        assert lines[0].endswith("variables that differ: 4, missing: 0, without a place in it: 0")
        assert " ".join(lines[1].split()) == "parameter in TensorFlow in the checkpoint in the architecture"
        assert lines[2] == ("  normal/1/bias         net/b          float32 [2]              float32 [3]")
        assert lines[3] == ("  normal/1/weight       net/W          float32 [3, 2, 3, 3, 3]  float32 [3, 3, 3, 3, 3]")
        assert lines[4].split()[:2] == ["subsampled1/1/bias", "net/b_1"]
        assert lines[-1].startswith("Name the model config that the checkpoint was trained with")

    def test_rolling_window(self, imported: Any, basic: Architecture, simulated: Any) -> None:
        lines = self.refusal(imported, replace(basic, batch_norm_window=60), simulated(basic)[0])
        assert "variables that differ: 8, missing: 0" in lines[0]
        assert any("varBnsForRollingAverage_3" in line and "[2, 5]" in line and "[60, 5]" in line for line in lines)

    def test_missing_layer_and_surplus_layer(self, imported: Any, basic: Architecture, simulated: Any) -> None:
        deeper = replace(basic, fc=Pathway("fc", (5, 5, 3), ((1, 1, 1),) * 3, ("valid",) * 3, (0.0,) * 3))
        lines = self.refusal(imported, deeper, simulated(basic)[0])
        assert "missing: 6, without a place in it: 0" in lines[0]
        assert any(line.split()[:3] == ["fc/3/weight", "net/W_6", "-"] for line in lines)
        lines = self.refusal(imported, basic, simulated(deeper)[0])
        assert "missing: 0, without a place in it: 6" in lines[0]
        assert any(line.split() == ["-", "net/W_6", "float32", "[3,", "5,", "1,", "1,", "1]", "-"] for line in lines)

    def test_batch_norm_off(self, imported: Any, basic: Architecture, simulated: Any) -> None:
        lines = self.refusal(imported, replace(basic, batch_norm_window=0), simulated(basic)[0])
        assert any(line.split()[:2] == ["softmax/bias", "net/b_6"] for line in lines)
        assert any(line.split()[:2] == ["-", "net/gBn"] for line in lines)

    def test_type(self, imported: Any, basic: Architecture, simulated: Any) -> None:
        saved, _ = simulated(basic)
        lines = self.refusal(imported, basic, saved | {"net/W": saved["net/W"].astype(np.float64)})
        assert lines[2].split()[:3] == ["normal/1/weight", "net/W", "float64"]

    def test_config_file_is_named(
        self, tmp_path: Path, writer: Any, config_of: Any, basic: Architecture, simulated: Any
    ) -> None:
        config = config_of(replace(basic, input_channels=1))
        source = dataclasses.replace(config.source, path=Path("models/model.cfg"))
        prefix = writer.write(tmp_path / "x.ckpt", simulated(basic)[0])
        with pytest.raises(ModelError, match=r"model 'm' \(models/model\.cfg\): variables that differ: 4,"):
            import_model(prefix, dataclasses.replace(config, source=source))

    def test_not_of_deepmedic(self, imported: Any, basic: Architecture) -> None:
        saved = {"resnet/conv": np.ones(3, np.float32), "global_step": np.int64(1)}
        lines = self.refusal(imported, basic, saved)
        assert "not one of DeepMedic v0.8: none of the names of its 2 variables begins with net/" in lines[0]

    def test_values_that_are_not_finite(self, imported: Any, basic: Architecture, simulated: Any) -> None:
        saved, _ = simulated(basic)
        saved["net/gBn"][1] = np.nan
        saved["net/W_1"][0, 0] = np.inf
        lines = self.refusal(imported, basic, saved)
        assert "holds values that are infinite or not a number" in lines[0]
        assert lines[1:] == [
            "  normal/2/bn_gamma (net/gBn): 1 of 3",
            "  normal/2/weight (net/W_1): 27 of 324",
            "Use an earlier checkpoint.",
        ]
