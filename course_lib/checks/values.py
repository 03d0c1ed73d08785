"""What a probe returned, brought to a form that can be compared, stored and sent to another process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_ELEMENTS = 50_000_000


@dataclass(frozen=True, eq=False)
class Array:
    """A tensor or array: its numbers, and where and as what the answer gave them.

    data: float32 for 16-bit floats, else the array itself. dtype: "float32", "bfloat16", "int64" …
    container: "torch.Tensor" or "numpy.ndarray". device: "cpu", "cuda", "meta" …
    """

    data: np.ndarray
    dtype: str
    container: str
    device: str = "cpu"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape as a tuple."""
        return self.data.shape


@dataclass(frozen=True)
class Opaque:
    """A value of a type that no check compares."""

    type_name: str


@dataclass(frozen=True)
class Raised:
    """The answer raised instead of returning. line: in the learner's code, 0 where unknown."""

    type_name: str
    message: str
    line: int = 0
    source: str = ""


def normalise(value: Any, depth: int = 0) -> Any:
    """Tensors and arrays become `Array`, sequences lists, everything else a plain value or `Opaque`."""
    if depth > 8:
        return Opaque("a structure nested more than 8 deep")
    if value is None or isinstance(value, (bool, str, bytes, int, float, Raised, Opaque, Array)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return _from_numpy(value)
    if type(value).__module__.split(".")[0] == "torch" and hasattr(value, "detach"):
        return _from_torch(value)
    if isinstance(value, (list, tuple)):
        return [normalise(item, depth + 1) for item in value]
    if isinstance(value, Mapping):
        return {str(key): normalise(item, depth + 1) for key, item in value.items()}
    return Opaque(type(value).__name__)


def equal(one: Any, other: Any) -> bool:
    """Whether two inputs of a case are the same, arrays and nested structures included; NaN equals NaN."""
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        same_kind = isinstance(one, np.ndarray) and isinstance(other, np.ndarray) and one.dtype == other.dtype
        return same_kind and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return type(one) is type(other) and bool(one == other)


def _from_numpy(value: np.ndarray) -> Any:
    if value.size > MAX_ELEMENTS:
        return Opaque(f"an array of {value.size:,} elements")
    if value.dtype == object:
        return Opaque("an array of Python objects")
    return Array(np.array(value, copy=True), str(value.dtype), "numpy.ndarray")


def _from_torch(value: Any) -> Any:
    import torch

    if value.numel() > MAX_ELEMENTS:
        return Opaque(f"a tensor of {value.numel():,} elements")
    name = str(value.dtype).removeprefix("torch.")
    if value.device.type == "meta":
        return Array(np.zeros(tuple(value.shape), dtype=np.float32), name, "torch.Tensor", "meta")
    plain = value.detach()
    if plain.dtype in (torch.bfloat16, torch.float16):
        plain = plain.float()
    data = np.array(plain.cpu().numpy(), copy=True)
    return Array(data, name, "torch.Tensor", value.device.type)
