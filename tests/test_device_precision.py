"""Sessions decide themselves whether CUDA computes with TF32, whatever a program set before, and put it back."""

from __future__ import annotations

import pytest
import torch

from deepmedic import devices
from deepmedic.config.sections import ExecutionConfig

CPU = torch.device("cpu")
BACKENDS = {
    "products": torch.backends.cuda.matmul,
    "convolutions": torch.backends.cudnn.conv,
    "recurrences": torch.backends.cudnn.rnn,
    "cudnn": torch.backends.cudnn,
}


class TestSettingsOfOthers:
    """A notebook may have set the precision of CUDA before, in the newer one of torch's ways."""

    @pytest.fixture(autouse=True)
    def _as_they_were(self):
        before = {name: backend.fp32_precision for name, backend in BACKENDS.items()}
        older = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        yield
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = older
        for name, backend in BACKENDS.items():
            backend.fp32_precision = before[name]

    def found(self) -> dict[str, str]:
        return {name: backend.fp32_precision for name, backend in BACKENDS.items() if name != "cudnn"}

    @pytest.mark.parametrize("precision", ["float32", "tf32"])
    @pytest.mark.parametrize("name", ["products", "convolutions", "recurrences", "cudnn"])
    @pytest.mark.parametrize("chosen", ["ieee", "tf32"])
    def test_are_overruled_and_put_back(self, name, chosen, precision):
        BACKENDS[name].fp32_precision = chosen
        before = self.found()
        session = devices.session_numerics(CPU, ExecutionConfig(precision=precision))
        with session, devices.numerical_precision(precision, CPU):
            assert set(self.found().values()) == {"tf32" if precision == "tf32" else "ieee"}
            older = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
            assert older == (precision == "tf32",) * 2
        assert self.found() == before
