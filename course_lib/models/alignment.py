"""IBM Model 1: which word translates which, learned from sentence pairs alone.

Every target word is the translation of one source word, or of none (NULL), each equally likely before the
words are looked at (Brown et al. 1993, eq. 5):

    p(target | source) ∝ Π over target words f of Σ over source words e and NULL of t(f | e).

The table t is found by expectation maximisation. t(· | e) sums to 1 over the target words.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

NULL = "NULL"
Links = Collection[tuple[int, int]]


class WordPair(Protocol):
    """A sentence and its translation, as words."""

    @property
    def source(self) -> Sequence[str]: ...

    @property
    def target(self) -> Sequence[str]: ...


@dataclass(frozen=True)
class Model1:
    """The table t(f | e) of the pairs that ever stood in one sentence pair; all others have probability 0.

    sources: the source words, NULL first. targets: the target words. keys: (p,), rising, each
    source number · number of targets + target number. probability: (p,), float64, t of each key.
    log_likelihoods: of the training pairs before each iteration and after the last, in nats a target word.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    keys: Tensor
    probability: Tensor
    log_likelihoods: tuple[float, ...]

    @cached_property
    def _source_number(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.sources)}

    @cached_property
    def _target_number(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.targets)}

    def table(self, source: Sequence[str], target: Sequence[str]) -> Tensor:
        """t(f | e) for one sentence pair, NULL as first column: (target words, source words + 1), float64."""
        rows = torch.tensor([self._target_number.get(word, -1) for word in target])
        columns = torch.tensor([self._source_number.get(word, -1) for word in (NULL, *source)])
        wanted = columns * len(self.targets) + rows[:, None]
        place = torch.searchsorted(self.keys, wanted).clamp(max=len(self.keys) - 1)
        known = (self.keys[place] == wanted) & (rows[:, None] >= 0) & (columns >= 0)
        return torch.where(known, self.probability[place], 0.0)

    def posterior(self, source: Sequence[str], target: Sequence[str]) -> Tensor:
        """How likely each target word comes from NULL and from each source word: rows sum to 1.

        Shape (target words, source words + 1). A word that never met any of these is NULL's.
        """
        table = self.table(source, target)
        table[:, 0] += table.sum(dim=1) == 0
        return table / table.sum(dim=1, keepdim=True)

    def align(self, source: Sequence[str], target: Sequence[str]) -> frozenset[tuple[int, int]]:
        """The likeliest links (source index, target index); of equal ones the first. NULL's are left out."""
        best = self.posterior(source, target).argmax(dim=1).tolist()
        return frozenset((column - 1, row) for row, column in enumerate(best) if column > 0)

    def translations(self, source_word: str, count: int = 5) -> list[tuple[str, float]]:
        """The target words that a source word (or `NULL`) most likely becomes, the likeliest first."""
        if source_word not in self._source_number:
            raise KeyError(f"{source_word!r} is not among the {len(self.sources)} source words")
        start = self._source_number[source_word] * len(self.targets)
        first, last = torch.searchsorted(self.keys, torch.tensor([start, start + len(self.targets)])).tolist()
        probability, place = self.probability[first:last].sort(descending=True, stable=True)
        found = (self.keys[first:last] - start)[place[:count]].tolist()
        return [(self.targets[number], p) for number, p in zip(found, probability.tolist(), strict=False)]


@dataclass(frozen=True)
class _Cells:
    """Every (target word, source word or NULL) that stand in one pair, c of them, over m target words.

    key: (c,), which entry of the table; word: (c,), which of the m target words of the corpus;
    sources_of_word: (m,), source words and NULL; source_of_key: (p,), the source number of an entry.
    """

    keys: Tensor
    key: Tensor
    word: Tensor
    sources_of_word: Tensor
    source_of_key: Tensor

    @classmethod
    def of(cls, pairs: Sequence[WordPair], sources: Sequence[str], targets: Sequence[str]) -> _Cells:
        source_number = {word: number for number, word in enumerate(sources)}
        target_number = {word: number for number, word in enumerate(targets)}
        found: list[int] = []
        lengths: list[int] = []
        for pair in pairs:
            starts = [source_number[word] * len(targets) for word in (NULL, *pair.source)]
            for word in pair.target:
                number = target_number[word]
                found += [start + number for start in starts]
                lengths.append(len(starts))
        keys, key = torch.tensor(found).unique(return_inverse=True)
        sources_of_word = torch.tensor(lengths)
        word_of_cell = torch.arange(len(lengths)).repeat_interleave(sources_of_word)
        return cls(keys, key, word_of_cell, sources_of_word, keys // len(targets))

    def expect(self, probability: Tensor) -> tuple[Tensor, float]:
        """E-step: how often each entry of the table was used, in the mean (p,); and the log-likelihood."""
        weight = probability[self.key]
        total = torch.bincount(self.word, weight)
        counts = torch.bincount(self.key, weight / total[self.word])
        return counts, float((total / self.sources_of_word).log().mean())

    def maximise(self, counts: Tensor) -> Tensor:
        """M-step: counts as shares of their source word: (p,) → (p,)."""
        return counts / torch.bincount(self.source_of_key, counts)[self.source_of_key]


def train_model1(pairs: Iterable[WordPair], iterations: int = 10) -> Model1:
    """IBM Model 1 of sentence pairs, by expectation maximisation from a table in which all is equally likely.

    The likelihood never falls, and its only maximum is found in the end (Brown et al. 1993);
    at most where that is not unique, the start decides. Raises ValueError where no target word is given.
    """
    pairs = list(pairs)
    sources = (NULL, *sorted({word for pair in pairs for word in pair.source}))
    targets = tuple(sorted({word for pair in pairs for word in pair.target}))
    if not targets:
        raise ValueError("there is no target word in the pairs; give at least one pair with words")
    cells = _Cells.of(pairs, sources, targets)
    probability = torch.full(cells.keys.shape, 1 / len(targets), dtype=torch.float64)
    history = []
    for _ in range(iterations):
        counts, log_likelihood = cells.expect(probability)
        history.append(log_likelihood)
        probability = cells.maximise(counts)
    history.append(cells.expect(probability)[1])
    return Model1(sources, targets, cells.keys, probability, tuple(history))


def alignment_error_rate(found: Iterable[Links], gold: Iterable[Links]) -> float:
    """1 − 2 · |found and gold| / (|found| + |gold|) over all sentences: 0 is perfect, 1 is all wrong.

    Source: Och and Ney 2003, with every gold link sure.

    >>> alignment_error_rate([{(0, 0), (1, 1)}], [{(0, 0), (1, 2)}])
    0.5
    """
    both = total = 0
    for ours, theirs in zip(found, gold, strict=True):
        both += len(set(ours) & set(theirs))
        total += len(set(ours)) + len(set(theirs))
    return 1 - 2 * both / total if total else 0.0
