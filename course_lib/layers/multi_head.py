"""Multi-head attention (Vaswani et al. 2017, §3.2.2), with grouped queries (Ainslie et al. 2023).

Axes: b batch, h query heads, g key/value heads, q query positions, k key positions, d width of one head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.layers.attention import check_shapes
from course_lib.layers.cache import AttentionCache
from course_lib.layers.dropout import drop

Rotation: TypeAlias = Callable[[Tensor], Tensor]


def split_heads(hidden_states: Tensor, num_heads: int) -> Tensor:
    """(b, n, num_heads · d) → (b, num_heads, n, d); head i takes the i-th run of d features.

    >>> split_heads(torch.arange(8).reshape(1, 2, 4), 2).tolist()
    [[[[0, 1], [4, 5]], [[2, 3], [6, 7]]]]
    """
    width = hidden_states.shape[-1]
    if width % num_heads:
        raise ValueError(f"num_heads={num_heads} does not divide the width {width}")
    return hidden_states.unflatten(-1, (num_heads, width // num_heads)).transpose(1, 2)


def merge_heads(heads: Tensor) -> Tensor:
    """(b, h, n, d) → (b, n, h · d), which undoes `split_heads`."""
    return heads.transpose(1, 2).flatten(2)


def repeat_kv_heads(heads: Tensor, num_heads: int) -> Tensor:
    """(b, g, k, d) → (b, num_heads, k, d): each serves num_heads / g neighbouring query heads.

    >>> repeat_kv_heads(torch.tensor([[[[1]], [[2]]]]), 4).flatten().tolist()
    [1, 1, 2, 2]
    """
    groups = heads.shape[1]
    return heads if groups == num_heads else heads.repeat_interleave(num_heads // groups, dim=1)


class MultiHeadAttention(nn.Module):
    """Self- or cross-attention with several heads.

    d_model: width of inputs and output. num_heads: heads of queries. num_kv_heads: heads of keys and values,
    default num_heads; fewer is grouped-query attention, 1 is multi-query attention (Shazeer 2019).
    d_head: width of one head, default d_model / num_heads. bias: on all four projections.
    dropout: share of the weights set to zero while training.
    Oracle: `nn.MultiheadAttention`; `from_torch` loads its weights.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        *,
        d_head: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        check_heads(d_model, num_heads, num_kv_heads, d_head)
        self.num_heads, self.num_kv_heads, self.dropout = num_heads, num_kv_heads, dropout
        self.d_head = d_model // num_heads if d_head is None else d_head
        self.query = nn.Linear(d_model, num_heads * self.d_head, bias=bias)
        self.key = nn.Linear(d_model, num_kv_heads * self.d_head, bias=bias)
        self.value = nn.Linear(d_model, num_kv_heads * self.d_head, bias=bias)
        self.output = nn.Linear(num_heads * self.d_head, d_model, bias=bias)

    def forward(
        self,
        hidden_states: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        rotate: Rotation | None = None,
        score_bias: Tensor | None = None,
        return_weights: bool = False,
        cache: AttentionCache | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Queries from hidden_states (b, q, d_model), keys and values from context (b, k, d_model).

        context: hidden_states when None, which is self-attention.
        mask: boolean, True = may attend, broadcastable to (b, h, q, k); a query that sees no key gives zeros
        to the output projection. rotate: applied to the queries and the keys, (b, h or g, n, d) → the same.
        score_bias: broadcastable to (b, h, q, k), added to the scaled scores.
        cache: keys and values of earlier calls. In self-attention those of hidden_states are appended, and k
        counts them all; those of a context are computed at the first call and then taken from the cache.
        Returns (b, q, d_model); with return_weights also the weights before dropout, (b, h, q, k).
        """
        query = split_heads(self.query(hidden_states), self.num_heads)  # (b, h, q, d)
        if rotate is not None:
            query = rotate(query)
        key, value = self._keys_and_values(hidden_states, context, rotate, cache)  # (b, g, k, d)
        key, value = repeat_kv_heads(key, self.num_heads), repeat_kv_heads(value, self.num_heads)
        check_shapes(query, key, value, mask)
        dropout = self.dropout if self.training else 0.0
        # torch's fused attention has no dropout on a CPU, and would compute the weights, too.
        if return_weights or (dropout and query.device.type == "cpu"):
            weights = explicit_weights(query, key, mask, score_bias)
            output = self.output(merge_heads(drop(weights, dropout) @ value))
            return (output, weights) if return_weights else output
        return self.output(merge_heads(fused_heads(query, key, value, mask, score_bias, dropout)))

    def _keys_and_values(
        self,
        hidden_states: Tensor,
        context: Tensor | None,
        rotate: Rotation | None,
        cache: AttentionCache | None,
    ) -> tuple[Tensor, Tensor]:
        if context is not None and cache is not None and cache.key is not None and cache.value is not None:
            if cache.length != context.shape[-2]:
                raise ValueError(
                    f"the cache holds {cache.length} positions of a context, but this one has "
                    f"{context.shape[-2]}; use a new cache for a new context"
                )
            return cache.key, cache.value
        source = hidden_states if context is None else context
        key = split_heads(self.key(source), self.num_kv_heads)
        value = split_heads(self.value(source), self.num_kv_heads)
        if rotate is not None:
            key = rotate(key)
        return (key, value) if cache is None else cache.extend(key, value)

    @classmethod
    def from_torch(cls, module: nn.MultiheadAttention) -> MultiHeadAttention:
        """The same layer with a copy of the weights of `nn.MultiheadAttention`.

        torch packs three projections into `in_proj_weight`: rows of queries, then keys, then values.
        Raises ValueError for options that this layer has not: kdim, vdim, add_bias_kv, add_zero_attn.
        """
        if module.in_proj_weight is None or module.bias_k is not None or module.add_zero_attn:
            raise ValueError("kdim, vdim, add_bias_kv and add_zero_attn are not supported; build it without")
        bias = module.in_proj_bias is not None
        ours = cls(module.embed_dim, module.num_heads, bias=bias, dropout=module.dropout)
        ours.to(module.in_proj_weight).train(module.training)
        with torch.no_grad():
            for part, weight in zip(
                (ours.query, ours.key, ours.value), module.in_proj_weight.chunk(3), strict=True
            ):
                part.weight.copy_(weight)
            if bias:
                for part, values in zip(
                    (ours.query, ours.key, ours.value), module.in_proj_bias.chunk(3), strict=True
                ):
                    part.bias.copy_(values)
            ours.output.load_state_dict(module.out_proj.state_dict())
        return ours


@contextmanager
def watch_heads(layer: MultiHeadAttention) -> Iterator[list[Tensor]]:
    """Collect what the heads of a layer read, (b, q, h, d) a forward pass, while the context is open."""
    seen: list[Tensor] = []

    def note(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        seen.append(given[0].unflatten(-1, (layer.num_heads, layer.d_head)))

    handle = layer.output.register_forward_pre_hook(note)
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def replace_heads(
    layer: MultiHeadAttention, heads: Iterable[int], values: Tensor | None = None
) -> Iterator[None]:
    """Ablate heads of a layer: while the context is open, what they read is replaced before W_O.

    heads: their numbers. values: (h, d), what each head is to read instead, such as its mean over a data set;
    zeros when None.
    """
    chosen = list(heads)

    def replaced(module: nn.Module, given: tuple[Tensor, ...]) -> Tensor:
        read = given[0].unflatten(-1, (layer.num_heads, layer.d_head)).clone()
        read[..., chosen, :] = 0.0 if values is None else values[chosen].to(read)
        return read.flatten(-2)

    handle = layer.output.register_forward_pre_hook(replaced)
    try:
        yield
    finally:
        handle.remove()


def explicit_weights(query: Tensor, key: Tensor, mask: Tensor | None, score_bias: Tensor | None) -> Tensor:
    """softmax(query keyᵀ / √d + score_bias), hidden keys at exactly 0: (b, h, q, k)."""
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    if score_bias is not None:
        scores = scores + score_bias
    if mask is None:
        return scores.softmax(dim=-1)
    # The smallest finite score in place of -inf: a fully masked row then has no NaN, in its gradient neither.
    weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(dim=-1)
    return weights.masked_fill(~mask, 0.0)


def fused_heads(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, score_bias: Tensor | None, dropout: float
) -> Tensor:
    """What each head reads, (b, h, q, d), by torch's fused attention, which never stores the weights."""
    attn_mask = mask
    if score_bias is not None:
        attn_mask = score_bias.to(query.dtype)
        attn_mask = attn_mask if mask is None else attn_mask.masked_fill(~mask, -math.inf)
    # torch's own wants at least (q, k), where a mask over the keys alone would broadcast.
    attn_mask = None if attn_mask is None else torch.atleast_2d(attn_mask)
    heads = F.scaled_dot_product_attention(query, key, value, attn_mask=attn_mask, dropout_p=dropout)
    if mask is None or heads.device.type == "cpu":
        return heads  # on the CPU torch itself gives zeros to a query that sees no key
    return heads.masked_fill(~torch.atleast_2d(mask).any(dim=-1, keepdim=True), 0.0)


def check_heads(d_model: int, num_heads: int, num_kv_heads: int, d_head: int | None) -> None:
    """Raise ValueError where d_model is not shared out evenly, or the key/value heads are not."""
    if num_heads < 1 or num_kv_heads < 1:
        raise ValueError(f"num_heads={num_heads}, num_kv_heads={num_kv_heads}; both must be at least 1")
    if d_head is None and d_model % num_heads:
        raise ValueError(f"num_heads={num_heads} does not divide d_model={d_model}; give d_head, too")
    if num_heads % num_kv_heads:
        raise ValueError(f"num_kv_heads={num_kv_heads} does not divide num_heads={num_heads}")
