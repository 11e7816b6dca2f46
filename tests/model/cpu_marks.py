"""What tests of ways to compute on a CPU need."""

from __future__ import annotations

import pytest
import torch

from deepmedic.model import cpu_convolution

needs_own_convolutions = pytest.mark.skipif(
    not cpu_convolution.is_possible(torch.zeros(1), torch.zeros(1)),
    reason="needs a CPU with AVX2 or AVX-512 and a torch with oneDNN: elsewhere the program convolves as torch does",
)
