"""Attention masks: boolean, True = may attend, broadcastable to (b, h, q, k).

Axes: b batch, h heads, q query positions, k key positions.
"""

from __future__ import annotations

import torch
from torch import Tensor


def causal_mask(n_query: int, n_key: int | None = None, device: torch.device | str | None = None) -> Tensor:
    """A query sees keys up to its own position. Shape (q, k).

    With fewer queries than keys, the queries are the last positions, as they are when a cache
    holds the keys of earlier ones. Raises ValueError for more queries than keys.

    >>> causal_mask(3).int().tolist()
    [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    >>> causal_mask(1, 3).int().tolist()
    [[1, 1, 1]]
    """
    n_key = n_query if n_key is None else n_key
    if n_query > n_key:
        raise ValueError(
            f"n_query={n_query} exceeds n_key={n_key}: a query without a key of its own position"
        )
    query_position = torch.arange(n_key - n_query, n_key, device=device)[:, None]
    return torch.arange(n_key, device=device)[None, :] <= query_position


def padding_mask(lengths: Tensor, n_key: int | None = None) -> Tensor:
    """No query sees a key past its sequence's length. Shape (b, 1, 1, k).

    lengths: (b,) integers, the number of real tokens in each sequence. n_key: default the longest.

    >>> padding_mask(torch.tensor([1, 3])).int().flatten(1).tolist()
    [[1, 0, 0], [1, 1, 1]]
    """
    if lengths.dim() != 1:
        raise ValueError(f"lengths has shape {tuple(lengths.shape)}; expected (batch,)")
    n_key = int(lengths.max()) if n_key is None else n_key
    return (torch.arange(n_key, device=lengths.device) < lengths[:, None])[:, None, None, :]


def combine_masks(*masks: Tensor | None) -> Tensor | None:
    """What every given mask allows; None stands for a mask that allows everything."""
    combined: Tensor | None = None
    for mask in masks:
        if mask is not None:
            combined = mask if combined is None else combined & mask
    return combined


def over_keys(mask: Tensor | None, tokens: Tensor, length: int | None = None) -> Tensor | None:
    """A mask of tokens, (b, n), as one over the keys of every head and query, (b, 1, 1, n).

    tokens: (b, n, …), whose shape the mask is checked against; length: another n. None stays None.
    """
    if mask is None:
        return None
    expected = (tokens.shape[0], tokens.shape[1] if length is None else length)
    if mask.dtype != torch.bool or mask.shape != expected:
        raise ValueError(
            f"mask has dtype {mask.dtype} and shape {tuple(mask.shape)}; expected torch.bool and {expected}, "
            "True where there is a token"
        )
    return mask[:, None, None, :]
