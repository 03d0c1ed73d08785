"""LayerNorm (Ba et al. 2016) and RMSNorm (Zhang & Sennrich 2019): each token normalised on its own.

Axes: … any leading axes, d width of a token; mean, variance and root mean square run over d.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def layer_norm(
    hidden_states: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """weight · (x − mean) / √(variance + eps) + bias, each token on its own: (…, d) → (…, d).

    weight, bias: (d,); 1 and 0 when None. The variance is the biased one, divided by d.
    16-bit inputs are computed in float32 and come back in their own dtype. `LayerNorm` does the same faster.

    >>> layer_norm(torch.tensor([1.0, 7.0, 7.0, 9.0]), eps=0.0)
    tensor([-1.6667,  0.3333,  0.3333,  1.0000])
    """
    check_width(hidden_states, weight, bias)
    normalised, _ = standardise(hidden_states, eps)
    scaled = normalised if weight is None else normalised * weight
    return (scaled if bias is None else scaled + bias).to(hidden_states.dtype)


def standardise(hidden_states: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(x − mean) / √(variance + eps) and 1 / √(variance + eps), in float32 at least: (…, d) and (…, 1)."""
    wide = at_least_float32(hidden_states)
    centred = wide - wide.mean(dim=-1, keepdim=True)
    inverse = (centred.square().mean(dim=-1, keepdim=True) + eps).rsqrt()  # (…, 1)
    return centred * inverse, inverse


def layer_norm_backward(
    grad_output: Tensor, hidden_states: Tensor, weight: Tensor, eps: float = 1e-5
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of hidden_states (…, d), weight (d,) and bias (d,), from that of the output (…, d).

    With n the normalised token and g = grad_output · weight, the first is
    (g − mean(g) − n · mean(g · n)) / √(variance + eps): what only shifts or stretches a token is taken out.
    """
    check_width(hidden_states, weight, None)
    normalised, inverse = standardise(hidden_states, eps)
    upstream = at_least_float32(grad_output)
    given = upstream * weight
    along = (given * normalised).mean(dim=-1, keepdim=True)  # (…, 1)
    grad_input = (given - given.mean(dim=-1, keepdim=True) - normalised * along) * inverse
    # Every token used the same weight and bias, so their gradients are sums over all tokens.
    rows = (-1, hidden_states.shape[-1])
    grad_weight = (upstream * normalised).reshape(rows).sum(dim=0)  # (d,)
    grad_bias = upstream.reshape(rows).sum(dim=0)
    return grad_input.to(hidden_states.dtype), grad_weight.to(weight.dtype), grad_bias.to(weight.dtype)


def rms_norm(hidden_states: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """weight · x / √(mean(x²) + eps), each token on its own: (…, d) → (…, d).

    weight: (d,); 1 when None. 16-bit inputs are computed in float32, because their squares overflow or lose
    their last digits, and come back in their own dtype. `RMSNorm` does the same faster.

    >>> rms_norm(torch.tensor([1.0, 7.0, 5.0, 5.0]), eps=0.0)
    tensor([0.2000, 1.4000, 1.0000, 1.0000])
    """
    check_width(hidden_states, weight, None)
    wide = at_least_float32(hidden_states)
    normalised = wide * (wide.square().mean(dim=-1, keepdim=True) + eps).rsqrt()
    return (normalised if weight is None else normalised * weight).to(hidden_states.dtype)


def at_least_float32(values: Tensor) -> Tensor:
    """The same values, 16-bit floats as float32."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def check_width(hidden_states: Tensor, weight: Tensor | None, bias: Tensor | None) -> None:
    """Raise ValueError where weight or bias is not of shape (d,)."""
    width = hidden_states.shape[-1]
    for name, given in (("weight", weight), ("bias", bias)):
        if given is not None and given.shape != (width,):
            raise ValueError(
                f"{name} has shape {tuple(given.shape)}; expected ({width},), as wide as a token"
            )


class LayerNorm(nn.Module):
    """`layer_norm` with its own weight and bias, by torch's fused version. Oracle: `nn.LayerNorm`.

    d_model: width of a token. bias: whether there is one.
    """

    def __init__(self, d_model: int, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model)) if bias else None

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(…, d_model) → (…, d_model)."""
        weight = self.weight  # looked up once: a lookup costs as much as a tenth of this layer on one token
        return F.layer_norm(hidden_states, weight.shape, weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    """`rms_norm` with its own weight, by torch's fused version. Oracle: `nn.RMSNorm`.

    d_model: width of a token. There is no bias.
    """

    def __init__(self, d_model: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(…, d_model) → (…, d_model)."""
        return F.rms_norm(hidden_states, self.weight.shape, self.weight, self.eps)
