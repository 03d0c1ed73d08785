"""Rotary position embedding (Su et al. 2021): queries and keys are turned by their positions.

A head's features are taken in pairs, and pair i is turned by position · base^(-2i/d). Two layouts of the
pairs are in use, and weights trained in one are wrong in the other until they are converted:

- "half": feature i is paired with feature i + d/2 (GPT-NeoX; Llama in `transformers`);
- "interleaved": feature 2i is paired with feature 2i + 1 (the paper, GPT-J).

Axes: b batch, h heads, n positions, d width of one head.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

Layout: TypeAlias = Literal["half", "interleaved"]


class Rotary(nn.Module):
    """Turns queries or keys by their positions; a product of two then depends on the distance alone.

    d_head: width of one head, even. base: the slowest pair turns by about 1/base a position.
    Oracles: `transformers`' Llama for "half", its GPT-J for "interleaved".
    """

    def __init__(self, d_head: int, base: float = 10000.0, layout: Layout = "half") -> None:
        super().__init__()
        if d_head % 2:
            raise ValueError(f"d_head={d_head} is odd; features are turned in pairs, so use an even width")
        check_layout(layout)
        self.d_head, self.base, self.layout = d_head, base, layout

    def angles(self, positions: Tensor) -> Tensor:
        """(…, n) → (…, n, d / 2), radians, float32 whatever the dtype of what is turned."""
        exponents = torch.arange(0, self.d_head, 2, device=positions.device).float() / self.d_head
        return positions.float()[..., None] * (1.0 / self.base**exponents)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """(…, n, d) → (…, n, d). positions: (n,), or with axes that broadcast to those of x, as (b, 1, n)."""
        if x.shape[-1] != self.d_head:
            raise ValueError(f"x has width {x.shape[-1]}, but this Rotary was made for d_head={self.d_head}")
        angles = self.angles(positions)
        cos, sin = angles.cos(), angles.sin()
        first, second = split_pairs(x.float(), self.layout)
        turned = join_pairs(first * cos - second * sin, second * cos + first * sin, self.layout)
        return turned.to(x.dtype)

    def rotate(self, x: Tensor, offset: int = 0) -> Tensor:
        """(…, n, d) → (…, n, d), the first row at position `offset`."""
        return self(x, torch.arange(offset, offset + x.shape[-2], device=x.device))


def split_pairs(x: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """The first and the second feature of every pair: (…, d) → two of (…, d / 2).

    >>> [part.tolist() for part in split_pairs(torch.arange(4), "half")]
    [[0, 1], [2, 3]]
    >>> [part.tolist() for part in split_pairs(torch.arange(4), "interleaved")]
    [[0, 2], [1, 3]]
    """
    if layout == "half":
        first, second = x.chunk(2, dim=-1)
        return first, second
    return x[..., 0::2], x[..., 1::2]


def join_pairs(first: Tensor, second: Tensor, layout: Layout) -> Tensor:
    """Undoes `split_pairs`."""
    if layout == "half":
        return torch.cat([first, second], dim=-1)
    return torch.stack([first, second], dim=-1).flatten(-2)


def convert_layout(weight: Tensor, num_heads: int, to: Layout) -> Tensor:
    """Reorder a query or key projection's rows so that its features come in the other layout.

    weight: (num_heads · d, …), the weight or the bias of an `nn.Linear` whose features are in the layout
    that is not `to`. Scores stay the same when both projections are converted and the Rotary's layout, too.
    Oracle: rotating before and after. Raises ValueError where the rows are no whole number of pairs a head.

    >>> convert_layout(torch.arange(4), 1, "interleaved").tolist()
    [0, 2, 1, 3]
    """
    check_layout(to)
    rows = weight.shape[0]
    if rows % (2 * num_heads):
        raise ValueError(f"weight has {rows} rows, which is no whole number of pairs for {num_heads} heads")
    pairs = rows // (2 * num_heads)
    split = (num_heads, 2, pairs) if to == "interleaved" else (num_heads, pairs, 2)
    return weight.unflatten(0, split).transpose(1, 2).flatten(0, 2)


def check_layout(layout: str) -> None:
    """Raise ValueError for a layout that there is not."""
    if layout not in get_args(Layout):
        raise ValueError(f"layout={layout!r}; expected one of {', '.join(get_args(Layout))}")
