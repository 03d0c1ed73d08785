"""Several projections of one input as one matrix product, which saves the overhead of the others."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


class StackedLinear(nn.Linear):
    """Projections to `widths` features each, one under the other in the rows of the weight.

    What treats a matrix as a whole, as Muon does, has to take each of them by itself.
    """

    def __init__(self, d_in: int, widths: Sequence[int], bias: bool = True) -> None:
        super().__init__(d_in, sum(widths), bias=bias)
        self.widths = tuple(widths)
