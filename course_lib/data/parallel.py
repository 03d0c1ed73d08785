"""Batches of sentence pairs for an encoder–decoder: padded, shifted, and of like lengths.

Axes: b sentence pairs, s source tokens, t target tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Ids = Sequence[int]


@dataclass(frozen=True)
class PairBatch:
    """source_ids (b, s). inputs (b, t): begin, then the target. targets (b, t): the target, then end.

    So targets[:, i] is the token that follows inputs[:, i]. Shorter rows are filled up with padding behind.
    """

    source_ids: Tensor
    inputs: Tensor
    targets: Tensor


def pad(rows: Sequence[Ids], pad_id: int = 0) -> Tensor:
    """Rows of ids as one tensor, filled up behind: (b, length of the longest).

    >>> pad([[5, 6, 7], [8]]).tolist()
    [[5, 6, 7], [8, 0, 0]]
    """
    longest = max(map(len, rows), default=0)
    return torch.tensor([[*row, *[pad_id] * (longest - len(row))] for row in rows])


def collate(
    pairs: Sequence[tuple[Ids, Ids]], *, pad_id: int = 0, begin_id: int = 1, end_id: int = 2
) -> PairBatch:
    """(source ids, target ids) of each pair, without special tokens, as one batch."""
    return PairBatch(
        pad([source for source, _ in pairs], pad_id),
        pad([[begin_id, *target] for _, target in pairs], pad_id),
        pad([[*target, end_id] for _, target in pairs], pad_id),
    )


class LengthBatches:
    """Batches of pairs of like lengths, in an order that is drawn anew for every pass over the data.

    tokens: of a batch at most, padding counted, sources and targets together; a longer pair is alone in
    its batch. `batch(step)` depends on the seed and the step alone. by_length False leaves pairs as drawn.
    """

    def __init__(
        self, pairs: Sequence[tuple[Ids, Ids]], tokens: int, *, seed: int = 0, by_length: bool = True
    ) -> None:
        if not pairs:
            raise ValueError("there are no pairs to make batches of")
        self.pairs, self.tokens, self.seed, self.by_length = pairs, tokens, seed, by_length
        self._sizes: list[int] = []  # how many batches each pass has, as far as they have been drawn
        self._drawn: tuple[int, list[list[int]]] = (-1, [])

    def batch(self, step: int) -> PairBatch:
        """The batch of a step, counted from 0."""
        number = 0
        while True:
            if number == len(self._sizes):
                self._sizes.append(len(self.groups(number)))
            if step < self._sizes[number]:
                return collate([self.pairs[index] for index in self.groups(number)[step]])
            step, number = step - self._sizes[number], number + 1

    def groups(self, number: int) -> list[list[int]]:
        """The pairs of every batch of one pass over the data, as numbers."""
        if number != self._drawn[0]:
            self._drawn = (number, self._draw(number))
        return self._drawn[1]

    def _draw(self, number: int) -> list[list[int]]:
        generator = np.random.default_rng((self.seed, number))
        order = generator.permutation(len(self.pairs))
        if self.by_length:
            lengths = np.array([[len(source), len(target)] for source, target in self.pairs])
            # By target, then source; the sort is stable, so that equals stay in the order that was drawn.
            order = order[np.lexsort((lengths[order, 0], lengths[order, 1]))]
        groups: list[list[int]] = []
        widths = [0, 0]
        for index in order.tolist():
            source, target = self.pairs[index]
            grown = [max(widths[0], len(source)), max(widths[1], len(target) + 1)]
            if groups and (len(groups[-1]) + 1) * sum(grown) <= self.tokens:
                groups[-1].append(index)
                widths = grown
            else:
                groups.append([index])
                widths = [len(source), len(target) + 1]
        return [groups[place] for place in generator.permutation(len(groups)).tolist()]


def share_of_padding(batch: PairBatch, pad_id: int = 0) -> float:
    """The share of a batch's entries that are padding."""
    parts = (batch.source_ids, batch.inputs)
    return sum(int((part == pad_id).sum()) for part in parts) / sum(part.numel() for part in parts)
