"""Attention for long sequences, a few queries at a time: the (q, k) table is never whole.

The softmax of one query needs the scores of that query alone, so the rows can be worked off in
chunks (Rabe & Staats 2021, "Self-attention does not need O(n²) memory", the outer loop).

Axes: q query positions, k key positions, d width of a query or key, v width of a value.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .attention import check_shapes, scaled_dot_product_attention


def chunked_attention(query: Tensor, key: Tensor, value: Tensor, chunk: int, causal: bool = False) -> Tensor:
    """Attention over `chunk` queries at a time: (…, q, d), (…, k, d), (…, k, v) → (…, q, v).

    Holds at most (chunk, k) scores at once instead of (q, k); the arithmetic is the same.
    causal: query i stands at position k - q + i and sees no later key.
    Raises ValueError for a chunk below 1, and for more queries than keys where `causal` is set.
    """
    check_shapes(query, key, value, None)
    n_query, n_key = query.shape[-2], key.shape[-2]
    if chunk < 1:
        raise ValueError(f"chunk={chunk}; expected at least one query at a time")
    if causal and n_query > n_key:
        raise ValueError(
            f"{n_query} queries but {n_key} keys: causal attention needs a key at each query's position"
        )
    lead = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    output = value.new_empty((*lead, n_query, value.shape[-1]))
    for start in range(0, n_query, chunk):
        stop = min(start + chunk, n_query)
        # The last query of the chunk sees no key after its own position: leave those out entirely.
        seen = n_key - n_query + stop if causal else n_key
        mask = _causal_rows(start, stop, n_query, n_key, seen, query.device) if causal else None
        rows = scaled_dot_product_attention(
            query[..., start:stop, :], key[..., :seen, :], value[..., :seen, :], mask
        )
        output[..., start:stop, :] = rows.output
    return output


def _causal_rows(start: int, stop: int, n_query: int, n_key: int, seen: int, device: torch.device) -> Tensor:
    """Rows `start` to `stop` and columns up to `seen` of the causal mask of (q, k)."""
    position = torch.arange(n_key - n_query + start, n_key - n_query + stop, device=device)
    return torch.arange(seen, device=device) <= position[:, None]
