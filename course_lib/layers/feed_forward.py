"""The feed-forward layer of a block: each token on its own, through a wider layer and back.

Sources: Vaswani et al. 2017, eq. 2 (ReLU); Hendrycks & Gimpel 2016 (GELU, SiLU); Shazeer 2020 (SwiGLU);
So et al. 2021 (ReLU²).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, TypeAlias

import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.layers.dropout import Dropout

Activation: TypeAlias = Literal["relu", "relu2", "gelu", "gelu_tanh", "silu", "swiglu"]


def relu_squared(values: Tensor) -> Tensor:
    """max(x, 0)², entry by entry."""
    return F.relu(values).square()


# "gelu_tanh" is the approximation that GPT-2 was trained with; of "swiglu" this is the gate's part.
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu2": relu_squared,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
    "swiglu": F.silu,
}


def gated_width(d_ff: int, multiple_of: int = 1) -> int:
    """The width of a gated layer with as many weights as an ordinary one of width d_ff.

    A gated layer has three matrices in place of two, so this is 2/3 of d_ff, rounded up to a multiple of
    multiple_of: hardware likes widths such as multiples of 256.

    >>> gated_width(3072), gated_width(4 * 4096, multiple_of=256)
    (2048, 11008)
    """
    return -(-2 * d_ff // (3 * multiple_of)) * multiple_of


class FeedForward(nn.Module):
    """down(f(up x)), or for "swiglu" down(silu(gate x) · up x): (…, d_model) → (…, d_ff) → (…, d_model).

    d_ff: the width inside, for "swiglu" too; `gated_width` gives the one with equally many weights.
    bias: on all layers. dropout: share of the inner values set to zero while training.
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        activation: Activation = "gelu",
        *,
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if activation not in FUNCTIONS:
            raise ValueError(f"activation={activation!r}; expected one of {', '.join(FUNCTIONS)}")
        self.activation = FUNCTIONS[activation]
        self.gate = nn.Linear(d_model, d_ff, bias=bias) if activation == "swiglu" else None
        self.up = nn.Linear(d_model, d_ff, bias=bias)
        self.down = nn.Linear(d_ff, d_model, bias=bias)
        self.dropout = Dropout(dropout)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(…, d_model) → (…, d_model); no token sees another."""
        wide = self.up(hidden_states)  # (…, d_ff)
        if self.gate is None:
            wide = self.activation(wide)
        else:
            wide = self.activation(self.gate(hidden_states)) * wide
        return self.down(self.dropout(wide) if self.training else wide)
