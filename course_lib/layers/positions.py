"""Positions as vectors that are added to the words: absolute positional encodings.

Axes: n positions, d width of the model. Positions count from 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def integer_code(n_positions: int) -> Tensor:
    """The position itself, (n, 1): it grows without bound.

    >>> integer_code(3).tolist()
    [[0.0], [1.0], [2.0]]
    """
    return torch.arange(n_positions, dtype=torch.float32)[:, None]


def unit_interval_code(n_positions: int) -> Tensor:
    """The position divided by the last one, (n, 1): a step's size depends on the length.

    >>> unit_interval_code(3).tolist()
    [[0.0], [0.5], [1.0]]
    """
    return integer_code(n_positions) / max(n_positions - 1, 1)


def binary_code(n_positions: int, bits: int) -> Tensor:
    """The position's binary digits, lowest first, (n, bits): neighbours may differ in every digit.

    Raises ValueError where the last position needs more digits.

    >>> binary_code(4, 3).tolist()
    [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0]]
    """
    if n_positions > 2**bits:
        raise ValueError(f"{bits} bits count to {2**bits}; {n_positions} positions need more")
    positions = torch.arange(n_positions)[:, None]
    return (positions >> torch.arange(bits) & 1).float()


def frequencies(d_model: int, base: float = 10000.0) -> Tensor:
    """Radians per position of each pair of columns, base^(-2i/d), (d / 2,) in float64.

    Raises ValueError for an odd width.
    """
    if d_model % 2:
        raise ValueError(f"d_model={d_model} is odd; sine and cosine come in pairs, so use an even width")
    return base ** -(torch.arange(0, d_model, 2, dtype=torch.float64) / d_model)


def sinusoidal_table(n_positions: int, d_model: int, base: float = 10000.0) -> Tensor:
    """Sines in the even columns and cosines in the odd ones, (n, d), float32.

    table[p, 2i] = sin(p / base^(2i/d)), table[p, 2i + 1] = cos(p / base^(2i/d)): Vaswani et al. 2017, §3.5.
    Raises ValueError for an odd width.

    >>> sinusoidal_table(1, 4).tolist()
    [[0.0, 1.0, 0.0, 1.0]]
    """
    # In float64: in float32 the angle of position 10,000 is off by a thousandth.
    angles = torch.arange(n_positions, dtype=torch.float64)[:, None] * frequencies(d_model, base)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).float()


def shift_matrix(offset: int, d_model: int, base: float = 10000.0) -> Tensor:
    """The matrix M, (d, d), with table[p + offset] = M table[p] for every p and the table above.

    One 2 × 2 rotation a pair of columns: [[cos kω, sin kω], [-sin kω, cos kω]], k the offset.

    >>> table = sinusoidal_table(8, 4)
    >>> torch.allclose(shift_matrix(3, 4) @ table[2], table[5])
    True
    """
    angles = offset * frequencies(d_model, base)
    cos, sin = angles.cos(), angles.sin()
    turns = torch.stack([torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)], -2)  # (d / 2, 2, 2)
    return torch.block_diag(*turns).float()


class SinusoidalEncoding(nn.Module):
    """Adds the sinusoidal table to the words; nothing is learned, and no length is too long.

    scale: what the words are multiplied by first; the paper's √d_model when None.
    """

    def __init__(self, d_model: int, base: float = 10000.0, scale: float | None = None) -> None:
        super().__init__()
        frequencies(d_model, base)  # refuses an odd width here, not at the first use
        self.d_model, self.base = d_model, base
        self.scale = math.sqrt(d_model) if scale is None else scale

    def forward(self, hidden_states: Tensor, offset: int = 0) -> Tensor:
        """(b, n, d) → (b, n, d); the first word stands at position `offset`."""
        end = offset + hidden_states.shape[-2]
        table = sinusoidal_table(end, self.d_model, self.base)[offset:]
        return self.scale * hidden_states + table.to(hidden_states)


class LearnedPositions(nn.Module):
    """Adds a vector of its own for each position, learned like a word's (BERT, GPT-2)."""

    def __init__(self, n_positions: int, d_model: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_positions, d_model)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, hidden_states: Tensor, offset: int = 0) -> Tensor:
        """(b, n, d) → (b, n, d); the first word stands at position `offset`.

        Raises ValueError beyond the last row of the table.
        """
        end = offset + hidden_states.shape[-2]
        if end > self.embedding.num_embeddings:
            raise ValueError(
                f"position {end - 1} was asked for, but the table of learned positions has "
                f"{self.embedding.num_embeddings} rows; shorten the input or train a longer table"
            )
        return hidden_states + self.embedding.weight[offset:end]
