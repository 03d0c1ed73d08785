"""Shapes: what broadcasting makes of them, and a guard against the mistakes that it hides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def broadcast_shape(first: Sequence[int], second: Sequence[int]) -> tuple[int, ...]:
    """The shape of an elementwise operation on arrays of these two shapes.

    Shapes are aligned at their right ends; a missing axis counts as 1; an axis of length 1 is
    stretched. Raises ValueError where two lengths differ and neither is 1.
    Source: NumPy user guide, "Broadcasting".

    >>> broadcast_shape((5, 1, 4), (3, 1))
    (5, 3, 4)
    """
    length = max(len(first), len(second))
    result = []
    for position in range(-length, 0):
        one = first[position] if -position <= len(first) else 1
        other = second[position] if -position <= len(second) else 1
        if one != other and 1 not in (one, other):
            raise ValueError(
                f"shapes {tuple(first)} and {tuple(second)} do not broadcast: "
                f"axis {position} has lengths {one} and {other}, and neither is 1"
            )
        # Not max(): an axis of length 0 stays 0 beside an axis of length 1.
        result.append(other if one == 1 else one)
    return tuple(result)


def expect_shape(array: Any, axes: str, **sizes: int) -> None:
    """Raise ValueError unless `array` has the named axes, and those named in `sizes` the given lengths.

    axes: names in order, separated by blanks. The same name twice means the same length twice.

    >>> import numpy as np
    >>> expect_shape(np.zeros((2, 5, 8)), "batch tokens d_model", d_model=8)
    >>> expect_shape(np.zeros((2, 8)), "batch tokens d_model")
    Traceback (most recent call last):
    ValueError: expected axes (batch, tokens, d_model), got 2 axes of lengths (2, 8)
    """
    names, shape = axes.split(), tuple(array.shape)
    if len(names) != len(shape):
        raise ValueError(f"expected axes ({', '.join(names)}), got {len(shape)} axes of lengths {shape}")
    known = dict(sizes)
    for name, length in zip(names, shape, strict=True):
        if known.setdefault(name, length) != length:
            raise ValueError(
                f"axis {name!r} has length {length}, expected {known[name]}; the shape is {shape}"
            )


def pairwise_squared_distances(first: Any, second: Any) -> Any:
    """Squared Euclidean distances between the rows of two matrices: (n, d) and (m, d) → (n, m).

    Works on NumPy arrays and torch tensors.
    """
    expect_shape(first, "n d")
    expect_shape(second, "m d", d=first.shape[1])
    return ((first[:, None, :] - second[None, :, :]) ** 2).sum(-1)


def centre_rows(matrix: Any) -> Any:
    """Each row minus its own mean: (n, d) → (n, d)."""
    expect_shape(matrix, "n d")
    return matrix - matrix.mean(-1)[:, None]
