"""What a decoder need not compute twice: the keys and values of attention, kept from step to step.

Axes: b batch, g key/value heads, n positions kept so far, t new positions, d width of one head.

A token's key and value never change once it has been read, because it sees no token after it. So a decoder
that writes one token at a time keeps them, and computes query, key and value of the new token alone. In
cross-attention nothing grows: the context's keys and values are computed at the first step, for good.

    cache = KeyValueCache(num_layers)
    stack(first, cache=cache)                         # t positions; the cache is empty before, t long after
    stack(following, cache=cache)                     # one position more, which sees those before

Positions go on where the cache ends. Read `start = cache.length` before the stack runs, since its first block
lengthens the cache; then `encoding(words, start)` for absolute positions, and for rotary ones
`rotate=partial(rotary.rotate, offset=start)`, whose keys are kept as turned.
"""

from __future__ import annotations

import torch
from torch import Tensor


class AttentionCache:
    """The keys and values of one attention layer, (b, g, n, d) each; None as long as there are none."""

    def __init__(self) -> None:
        self.key: Tensor | None = None
        self.value: Tensor | None = None

    @property
    def length(self) -> int:
        """How many positions are kept."""
        return 0 if self.key is None else self.key.shape[-2]

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append those of t new positions, (b, g, t, d) each; returns all of them, (b, g, n + t, d)."""
        if self.key is not None and self.value is not None:
            if key.shape[0] != self.key.shape[0]:
                raise ValueError(
                    f"the cache holds {self.key.shape[0]} sequences, but {key.shape[0]} were given; "
                    "use a new cache for a new batch"
                )
            key, value = torch.cat([self.key, key], dim=-2), torch.cat([self.value, value], dim=-2)
        self.key, self.value = key, value
        return key, value

    def reorder(self, index: Tensor) -> None:
        """Row i becomes what row index[i] was; index (b',), and a row may be taken several times."""
        if self.key is not None and self.value is not None:
            self.key, self.value = self.key.index_select(0, index), self.value.index_select(0, index)


class BlockCache:
    """The caches of one block: of its self-attention, which grows, and of its cross-attention."""

    def __init__(self) -> None:
        self.attention = AttentionCache()
        self.cross_attention = AttentionCache()


class KeyValueCache:
    """The caches of a whole stack, `blocks[i]` for block i."""

    def __init__(self, num_layers: int) -> None:
        self.blocks = tuple(BlockCache() for _ in range(num_layers))

    @property
    def length(self) -> int:
        """How many positions have been read."""
        return self.blocks[0].attention.length

    @property
    def num_bytes(self) -> int:
        """The memory of all keys and values kept."""
        parts = (part for block in self.blocks for part in (block.attention, block.cross_attention))
        return sum(kept.nbytes for part in parts for kept in (part.key, part.value) if kept is not None)

    def reorder(self, index: Tensor, context: bool = True) -> None:
        """Row i of the batch becomes what row index[i] was, as beam search asks for; index (b',).

        context: whether the rows of the context move, too. False saves their copies, and is right where
        every row keeps reading the same context, as the beams of one sentence do.
        """
        for block in self.blocks:
            block.attention.reorder(index)
            if context:
                block.cross_attention.reorder(index)
