"""Scaled dot-product attention (Vaswani et al. 2017, eq. 1).

Axes: b batch, h heads, q query positions, k key positions, d width of a query or key, v width of a value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class AttentionOutput:
    """output: (…, q, v). weights: (…, q, k), each row summing to 1, or to 0 where a query sees no key."""

    output: Tensor
    weights: Tensor | None = None


def attention_weights(
    query: Tensor, key: Tensor, mask: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """How much each query looks at each key, softmax(query keyᵀ · scale): (…, q, d), (…, k, d) → (…, q, k).

    mask: boolean, True = may attend, broadcastable to (…, q, k). scale: default 1/√d.
    """
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = query @ key.transpose(-2, -1) * scale  # (…, q, k)
    if mask is None:
        return scores.softmax(dim=-1)
    # The smallest finite score in place of -inf: a fully masked row then has no NaN, in its gradient neither.
    weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(dim=-1)
    return weights.masked_fill(~mask, 0.0)


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *,
    scale: float | None = None,
    return_weights: bool = False,
) -> AttentionOutput:
    """softmax(query keyᵀ / √d) value, with (…, q, d), (…, k, d), (…, k, v) → (…, q, v).

    mask: boolean, True = may attend, broadcastable to (…, q, k); a query that sees no key gives zeros.
    scale: default 1/√d. return_weights: compute the weights explicitly and return them, too.
    Raises ValueError when shapes or the mask's dtype do not fit.
    """
    check_shapes(query, key, value, mask)
    if return_weights:
        weights = attention_weights(query, key, mask, scale)
        return AttentionOutput(weights @ value, weights)
    # torch's own wants at least (q, k), where a mask over the keys alone would broadcast.
    mask = None if mask is None else torch.atleast_2d(mask)
    output = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    if mask is not None:
        output = output.masked_fill(~mask.any(dim=-1, keepdim=True), 0.0)
    return AttentionOutput(output)


def check_shapes(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> None:
    """Raise ValueError where query, key, value and mask do not fit together."""
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(f"query has width {query.shape[-1]}, key has {key.shape[-1]}; they must be equal")
    if key.shape[-2] != value.shape[-2]:
        raise ValueError(
            f"there are {key.shape[-2]} keys but {value.shape[-2]} values; each key has one value"
        )
    if mask is None:
        return
    if mask.dtype != torch.bool:
        raise ValueError(f"mask has dtype {mask.dtype}; expected torch.bool, True where a query may attend")
    expected = (*torch.broadcast_shapes(query.shape[:-2], key.shape[:-2]), query.shape[-2], key.shape[-2])
    try:
        fits = torch.broadcast_shapes(mask.shape, expected) == expected
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(f"mask has shape {tuple(mask.shape)}, which does not broadcast to {tuple(expected)}")


class SingleHeadAttention(nn.Module):
    """One attention head with its own projections, for self- and for cross-attention.

    d_model: width of the inputs. d_k: width of queries and keys. d_v: width of values, default d_k.
    """

    def __init__(self, d_model: int, d_k: int, d_v: int | None = None, bias: bool = False) -> None:
        super().__init__()
        self.query = nn.Linear(d_model, d_k, bias=bias)
        self.key = nn.Linear(d_model, d_k, bias=bias)
        self.value = nn.Linear(d_model, d_k if d_v is None else d_v, bias=bias)

    def forward(
        self,
        hidden_states: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        return_weights: bool = False,
    ) -> AttentionOutput:
        """Queries from `hidden_states` (b, q, d_model), keys and values from `context` (b, k, d_model).

        context: the same as hidden_states when None, which is self-attention.
        mask: boolean, True = may attend, broadcastable to (b, q, k).
        """
        context = hidden_states if context is None else context
        return scaled_dot_product_attention(
            self.query(hidden_states),
            self.key(context),
            self.value(context),
            mask,
            return_weights=return_weights,
        )
