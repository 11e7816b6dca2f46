"""Stands for a GPU on a machine without one: tensors on torch's meta device, which have no values.

What the package does on whatever is no CPU runs on it, forward and backward. What a GPU refuses is refused: operations
with tensors on both devices, and those that have no deterministic implementation for CUDA, since a config may ask for
deterministic ones. What is read back is noted: a single number is 0, a tensor is all ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GPU = torch.device("meta")
_aten = torch.ops.aten
_COPIES = (_aten.copy_.default, _aten._to_copy.default, _aten._foreach_copy_.default)
_NOT_DETERMINISTIC = (
    *("histc", "bincount", "kthvalue", "put_", "ctc_loss", "nll_loss2d_forward", "embedding_bag", "scatter_reduce"),
    *("max_pool3d_with_indices_backward", "avg_pool3d_backward", "max_unpool3d", "fractional_max_pool3d_backward"),
    *("adaptive_avg_pool3d_backward", "adaptive_max_pool3d_backward", "grid_sampler_3d_backward"),
    *("upsample_nearest3d_backward", "upsample_trilinear3d_backward"),
    *("replication_pad3d_backward", "reflection_pad3d_backward"),
)
"""From the documentation of `torch.use_deterministic_algorithms`, as far as it is about volumes."""


class StandInGpu(TorchDispatchMode):
    """Looks at every operation, those of backward passes too."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        """Operations whose result is read back, for which the host would wait."""

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        named = named or {}
        tensors = [value for value in tree_leaves((arguments, named)) if isinstance(value, Tensor)]
        there, here = (any(tensor.is_meta == is_there for tensor in tensors) for is_there in (True, False))
        if there:
            found = self._read_back(function, arguments, named)
            if found is not None:
                self.waits.append(str(function))
                return found
            self._refuse_what_is_not_deterministic(function, tensors)
        if there and here and function not in _COPIES:
            # A number on the host may take part, in what makes new tensors.
            others = [tensor for tensor in tensors if not tensor.is_meta and tensor.dim() > 0]
            if others or "foreach" in str(function):
                raise RuntimeError(f"{function}: tensors on both devices, {[tuple(one.shape) for one in others]} here")
        return function(*arguments, **named)

    @staticmethod
    def _read_back(function: Any, arguments: Any, named: Any) -> Any:
        if function is _aten._local_scalar_dense.default:
            return torch.zeros((), dtype=arguments[0].dtype).item()
        if function is _aten._to_copy.default and torch.device(named.get("device") or GPU).type == "cpu":
            return torch.ones(arguments[0].shape, dtype=named.get("dtype") or arguments[0].dtype)
        if function is _aten.copy_.default and not arguments[0].is_meta:
            return arguments[0].fill_(1)
        if function is _aten.nonzero.default:
            return torch.ones(arguments[0].shape).nonzero().to(GPU)
        return None

    @staticmethod
    def _refuse_what_is_not_deterministic(function: Any, tensors: list[Tensor]) -> None:
        name = function.overloadpacket.__name__
        of_floats = name in ("cumsum", "cumsum_") and tensors[0].is_floating_point()
        if name in _NOT_DETERMINISTIC or of_floats:
            raise RuntimeError(f"{function} has no deterministic implementation for CUDA")


@contextmanager
def stand_in_gpu() -> Iterator[StandInGpu]:
    """Inside the block, `GPU` stands for one; autocast, which torch has not for it, does nothing."""
    with pytest.MonkeyPatch.context() as patch, StandInGpu() as gpu:
        patch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
        yield gpu
