"""Dropout (Srivastava et al. 2014): while training, some values become zero and the others larger."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 2**16


class Dropout(nn.Module):
    """`nn.Dropout`, which on a CPU draws its random numbers in half the time or less.

    p: the share to drop, from 0 to 1; on a CPU to the nearest 1/65536. What is kept is divided by its share,
    so that the mean stays. In evaluation mode nothing happens.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"p={p}; it is a share from 0 to 1")
        self.p = p

    def forward(self, values: Tensor) -> Tensor:
        """Any shape → the same."""
        return drop(values, self.p) if self.training else values

    def extra_repr(self) -> str:
        """What is shown between the brackets."""
        return f"p={self.p}"


def drop(values: Tensor, p: float) -> Tensor:
    """Drop a share p of the values, whatever the mode."""
    kept = round((1 - p) * LEVELS)
    if values.device.type != "cpu" or kept == 0:
        return F.dropout(values, p)
    if kept == LEVELS:
        return values
    # One random number of 64 bits decides about four values, each kept if its quarter is `first` or more.
    drawn = torch.empty(-(-values.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    decisions = drawn.view(torch.int16)[: values.numel()].view(values.shape)
    first = LEVELS // 2 - kept
    # 1 or 0 by arithmetic: a comparison gives booleans, which torch reads one by one.
    keep = decisions.clamp_(first - 1, first).sub_(first - 1)
    return values * keep.to(values.dtype).mul_(LEVELS / kept)
