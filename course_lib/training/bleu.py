"""BLEU (Papineni et al. 2002): how many runs of one to four words a translation shares with its reference."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Words = Sequence[str]
LONGEST = 4


@dataclass(frozen=True)
class Bleu:
    """score: 0 to 100. precisions: of runs of 1, 2, 3 and 4 words, in percent, with what they are made of.

    brevity_penalty: below 1 where the translations are shorter, all together, than the references.
    """

    score: float
    precisions: tuple[float, ...]
    brevity_penalty: float
    matches: tuple[int, ...]
    totals: tuple[int, ...]
    length: int
    reference_length: int


def ngrams(words: Words, n: int) -> Counter[tuple[str, ...]]:
    """Every run of n words, and how often it occurs.

    >>> ngrams("a b a b".split(), 2)
    Counter({('a', 'b'): 2, ('b', 'a'): 1})
    """
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def corpus_bleu(
    hypotheses: Sequence[Words], references: Sequence[Words], smoothing: Literal["none", "exp"] = "none"
) -> Bleu:
    """BLEU of a whole corpus: one reference for each hypothesis, both as words.

    A run counts as often as it occurs in the reference at most. smoothing: "exp" replaces precisions of 0 by
    1/2, 1/4, … of a match. Oracle: `sacrebleu`, whose default is "exp".
    Raises ValueError where there are not equally many of both.
    """
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references; give one each")
    matches, totals = [0] * LONGEST, [0] * LONGEST
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        for n in range(1, LONGEST + 1):
            found = ngrams(hypothesis, n)
            matches[n - 1] += (found & ngrams(reference, n)).total()
            totals[n - 1] += found.total()
    length, wanted = sum(map(len, hypotheses)), sum(map(len, references))
    brevity = 1.0 if length >= wanted else math.exp(1 - wanted / length) if length else 0.0
    precisions = _precisions(matches, totals, smoothing)
    score = 0.0
    if min(precisions) > 0:
        score = brevity * math.exp(sum(map(math.log, precisions)) / LONGEST)
    return Bleu(score, precisions, brevity, tuple(matches), tuple(totals), length, wanted)


def _precisions(matches: Sequence[int], totals: Sequence[int], smoothing: str) -> tuple[float, ...]:
    precisions, halved = [], 1.0
    for match, total in zip(matches, totals, strict=True):
        # Without any match at all there is nothing to smooth.
        if match == 0 and total and smoothing == "exp" and any(matches):
            halved /= 2
            precisions.append(100 * halved / total)
        else:
            precisions.append(100 * match / total if total else 0.0)
    return tuple(precisions)
