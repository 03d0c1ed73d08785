"""What BERT is trained on: texts with some tokens hidden, and pairs of sentences (Devlin et al. 2019, 3.1).

Axes: b texts, t tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

IGNORE = -100  # the target where there is none, as `F.cross_entropy` has it
Shares = tuple[float, float, float]
PAPER: Shares = (0.8, 0.1, 0.1)  # of the chosen tokens: hidden, replaced at random, left as they are


class Masked(NamedTuple):
    """inputs: the ids with some changed. targets: the original id where a token was chosen, else `IGNORE`.

    Both (b, t).
    """

    inputs: Tensor
    targets: Tensor


def mask_tokens(
    ids: Tensor,
    special: Tensor,
    mask_id: int,
    words: range,
    generator: torch.Generator | None = None,
    *,
    share: float = 0.15,
    shares: Shares = PAPER,
) -> Masked:
    """Choose a share of the tokens as targets, and hide, replace or keep each of them.

    ids: (b, t). special: (b, t), True where nothing may be chosen. words: the ids to replace with.
    shares: of the chosen tokens, that become `mask_id`, a random word, and that stay; they sum to 1.
    """
    if abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"shares={shares} sum to {sum(shares):g}; they have to sum to 1")
    first, second = torch.rand(2, *ids.shape, generator=generator)
    others = torch.randint(words.start, words.stop, ids.shape, generator=generator)
    chosen = (first < share) & ~special
    hidden = chosen & (second < shares[0])
    replaced = chosen & ~hidden & (second < shares[0] + shares[1])
    inputs = torch.where(hidden, mask_id, torch.where(replaced, others, ids))
    return Masked(inputs, torch.where(chosen, ids, IGNORE))


class SentencePairIds(NamedTuple):
    """`[CLS] a [SEP] b [SEP]`; segments, 0 up to the first separator; label 0 where b follows a, else 1."""

    ids: list[int]
    segments: list[int]
    label: int


def join_pair(
    first: Sequence[int], second: Sequence[int], label: int, begin_id: int, sep_id: int
) -> SentencePairIds:
    """Two sentences as one input.

    >>> join_pair([7, 8], [9], 0, begin_id=1, sep_id=2)
    SentencePairIds(ids=[1, 7, 8, 2, 9, 2], segments=[0, 0, 0, 0, 1, 1], label=0)
    """
    ids = [begin_id, *first, sep_id, *second, sep_id]
    return SentencePairIds(ids, [0] * (len(first) + 2) + [1] * (len(second) + 1), label)


def next_sentence_pairs(
    documents: Sequence[Sequence[Sequence[int]]], begin_id: int, sep_id: int, seed: int = 0
) -> list[SentencePairIds]:
    """Every sentence but the last of each document, half with its successor, half with a stranger.

    A stranger is a sentence of another document. Raises ValueError for fewer than two documents.
    """
    if len(documents) < 2:
        raise ValueError(f"{len(documents)} documents; a stranger needs at least two")
    random = np.random.default_rng(seed)
    pairs = []
    for number, document in enumerate(documents):
        for place in range(len(document) - 1):
            second, label = document[place + 1], 0
            if random.random() < 0.5:
                other = int(random.integers(len(documents) - 1))
                strangers = documents[other + (other >= number)]
                second, label = strangers[int(random.integers(len(strangers)))], 1
            pairs.append(join_pair(document[place], second, label, begin_id, sep_id))
    return pairs
