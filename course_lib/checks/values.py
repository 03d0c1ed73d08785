"""What a probe returned, brought to a form that can be compared, stored and sent to another process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
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
    """Tensors and arrays become `Array`, sequences lists, everything else a plain value or `Opaque`.

    A subclass becomes what its base class holds, by the base class's own methods: what an answer's class
    says of itself when it is compared, printed or iterated is never asked.
    """
    if depth > 8:
        return Opaque("a structure nested more than 8 deep")
    if value is None or type(value) in (bool, Raised, Opaque, Array):
        return value
    kind = type(value)
    if issubclass(kind, np.ndarray):
        return _from_numpy(np.ndarray.view(value, np.ndarray))
    if "torch" in sys.modules and issubclass(kind, sys.modules["torch"].Tensor):
        return _from_torch(value)
    if issubclass(kind, (list, tuple)):
        items = list.__iter__(value) if issubclass(kind, list) else tuple.__iter__(value)
        return [normalise(item, depth + 1) for item in items]
    if issubclass(kind, Mapping):
        pairs = dict.items(value) if issubclass(kind, dict) else value.items()
        return {_key(key): normalise(item, depth + 1) for key, item in pairs}
    return _plain(value)


def _plain(value: Any) -> Any:
    """Text, bytes or a number of exactly that type; `Opaque` for everything else."""
    # NumPy's own scalars only: asking a subclass of one for its item can end the process.
    if type(value) in _SCALARS:
        value = value.item()
    kind = type(value)
    if kind is bool:
        return value
    for base, plain in _PLAIN.items():
        if issubclass(kind, base):
            return plain(value)
    return Opaque(kind.__name__)


_SCALARS = frozenset(np.sctypeDict.values())
_PLAIN: dict[type, Callable[[Any], Any]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    bytes: lambda value: bytes.__getitem__(value, slice(None)),
}


def _key(key: Any) -> str:
    """A dict's key as text."""
    return str.__str__(str(_bare(key)))


def _bare(key: Any) -> Any:
    if issubclass(type(key), tuple):
        return tuple(map(_bare, tuple.__iter__(key)))
    plain = _plain(key)
    return key if isinstance(plain, Opaque) else plain


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
    if value.dtype.kind not in "biufcSU":
        return Opaque("an array of Python objects" if value.dtype == object else f"an array of {value.dtype}")
    return Array(np.array(value, copy=True), str(value.dtype), "numpy.ndarray")


def _from_torch(value: Any) -> Any:
    import torch

    if type(value) is not torch.Tensor:
        with torch._C.DisableTorchFunctionSubclass():
            value = torch.Tensor.as_subclass(value, torch.Tensor)
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
