"""Plain content: the values that a saved model may hold, copied, moved between devices, freed of
numbers that JSON does not have, and condensed to a digest.

Plain are None, bool, int, float, str, list, tuple, dict with keys of str or int, and dense tensors of the usual types.
"""

from __future__ import annotations

import hashlib
import math
import struct
import sys
from typing import Any

import torch

_DTYPES = {
    torch.float64: "f8",
    torch.float32: "f4",
    torch.float16: "f2",
    torch.bfloat16: "b2",
    torch.int64: "i8",
    torch.int32: "i4",
    torch.int16: "i2",
    torch.int8: "i1",
    torch.uint8: "u1",
    torch.bool: "?1",
}


def plain_copy(content: dict[str, Any]) -> dict[str, Any]:
    """A copy that pickles to the same bytes whenever it is equal; tensors come to the CPU, without gradients.

    Raises:
        TypeError: a value or key is not plain; names where it stands.
    """
    return dict(_plain(content, "", set()))


def content_digest(content: Any, limit: int | None = None) -> str:
    """SHA-256 over the names, types, shapes and bytes of plain content on the CPU, the same on every machine.

    Raises:
        TypeError, ValueError: a value is not plain, a tensor is not alone in its storage, or there are more than
            `limit` values (a damaged file may repeat a value within itself without end).
    """
    digest = _Digest(limit)
    digest.add(content)
    return digest.hexdigest()


def finite(value: Any) -> Any:
    """The value with None for infinite numbers and not-a-number, which JSON does not have; tuples become lists."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def moved(value: Any, device: torch.device) -> Any:
    """The same plain content with all tensors on `device`."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, list | tuple):
        return type(value)(moved(item, device) for item in value)
    if isinstance(value, dict):
        return {key: moved(item, device) for key, item in value.items()}
    return value


def _plain(value: Any, where: str, seen: set[int]) -> Any:
    """A copy of `value` in plain types that pickles to the same bytes whenever it is equal.

    Strings are interned and containers made anew, since a pickle tells one object used twice from two equal ones.
    """
    kind = type(value)
    if kind is str:
        return sys.intern(value)
    if value is None or kind in (bool, int, float):
        return value
    if kind in (list, tuple):
        return kind(_plain(item, f"{where}/{index}", seen) for index, item in enumerate(value))
    if isinstance(value, dict):
        return {_plain_key(key, where): _plain(item, f"{where}/{key}", seen) for key, item in value.items()}
    if kind in (torch.Tensor, torch.nn.Parameter) and value.layout is torch.strided and value.dtype in _DTYPES:
        return _own_tensor(value, seen)
    raise TypeError(
        f"{where or '/'}: {kind.__module__}.{kind.__qualname__} cannot be saved; only None, bool, int, float, str, "
        "list, tuple, dict and dense tensors of usual types can"
    )


def _plain_key(key: Any, where: str) -> str | int:
    if type(key) is str:
        return sys.intern(key)
    if type(key) is int:
        return key
    raise TypeError(f"{where or '/'}: the key {key!r} cannot be saved; only str and int can")


def _own_tensor(tensor: torch.Tensor, seen: set[int]) -> torch.Tensor:
    """The tensor on the CPU, contiguous, and alone in its storage."""
    own = tensor.detach().cpu().contiguous()
    storage = own.untyped_storage()
    if storage.nbytes() != own.numel() * own.element_size() or storage.data_ptr() in seen:
        own = own.clone(memory_format=torch.contiguous_format)
    seen.add(own.untyped_storage().data_ptr())
    return own


class _Digest:
    def __init__(self, limit: int | None) -> None:
        self._hash = hashlib.sha256()
        self._values_left = limit

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def add(self, value: Any) -> None:
        if self._values_left is not None:
            self._values_left -= 1
            if self._values_left < 0:
                raise ValueError("more values than bytes")
        kind = type(value)
        if kind is torch.Tensor:
            self._add_tensor(value)
        elif kind in (list, tuple):
            self._mark("l" if kind is list else "t", len(value))
            for item in value:
                self.add(item)
        elif kind is dict:
            self._mark("d", len(value))
            for key, item in value.items():
                self.add(key)
                self.add(item)
        else:
            self._add_scalar(value, kind)

    def _add_scalar(self, value: Any, kind: type) -> None:
        if kind is str:
            text = value.encode("utf-8", "surrogatepass")
            self._mark("s", len(text))
            self._hash.update(text)
        elif kind is float:
            self._hash.update(b"f" + struct.pack("<d", value))
        elif kind is int:
            self._mark(f"i{value:x}", 0)
        elif value is None or kind is bool:
            self._mark(str(value), 0)
        else:
            raise TypeError(f"{kind} is not plain")

    def _add_tensor(self, tensor: torch.Tensor) -> None:
        size = tensor.numel() * tensor.element_size()
        if not tensor.is_contiguous() or tensor.requires_grad or tensor.untyped_storage().nbytes() != size:
            raise ValueError("a tensor is not alone in its storage")
        self._mark(_DTYPES[tensor.dtype] + "x".join(map(str, tensor.shape)), size)
        self._hash.update(tensor.reshape(-1).view(torch.uint8).numpy().data)

    def _mark(self, word: str, size: int) -> None:
        self._hash.update(f"{word}:{size};".encode())
