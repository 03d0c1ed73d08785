"""Bring what a lesson hands over, array, tensor or list, to a checked NumPy array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

FloatArray = np.ndarray[Any, np.dtype[np.float64]]
BoolArray = np.ndarray[Any, np.dtype[np.bool_]]


def as_array(values: object, name: str, dimensions: Sequence[int]) -> FloatArray:
    """The values as float64 with one of the allowed numbers of dimensions; NaN and infinity are errors.

    Tensors are detached and brought to the CPU; half precision is widened.
    """
    array = _as_numpy(values, name)
    if array.ndim not in dimensions:
        allowed = " or ".join(str(count) for count in dimensions)
        raise ValueError(f"{name} has shape {array.shape}; expected {allowed} dimensions")
    if array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}: there is nothing to draw")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinity, which cannot be drawn; find out where they arise")
    return array


def _as_numpy(values: Any, name: str) -> FloatArray:
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    if isinstance(values, list | tuple) and any(hasattr(entry, "detach") for entry in values):
        values = [_as_numpy(entry, name) for entry in values]
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is not an array of numbers: {error}") from error


def as_mask(values: Any, name: str, shape: tuple[int, ...]) -> BoolArray:
    """A boolean mask, `True` = may attend, broadcast to `shape`."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    mask = np.asarray(values)
    if mask.dtype != np.bool_:
        raise ValueError(f"{name} has dtype {mask.dtype}; expected booleans, where True means: may attend")
    try:
        return np.broadcast_to(mask, shape)
    except ValueError as error:
        raise ValueError(f"{name} has shape {mask.shape}, which does not broadcast to {shape}") from error


def check_labels(labels: Sequence[str], count: int, name: str, of_what: str) -> list[str]:
    """The labels as a list, one for each of `count` entries."""
    if isinstance(labels, str):
        raise ValueError(f"{name} is one string, {labels!r}; expected a list of {count} strings")
    listed = [str(entry) for entry in labels]
    if len(listed) != count:
        raise ValueError(f"{name} has {len(listed)} entries, but {of_what} has {count}")
    return listed
