"""Which letters a vocabulary of subwords starts from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping


def frequent_letters(word_counts: Mapping[str, int], limit: int) -> list[str]:
    """The `limit` most frequent characters of the words, in alphabetical order.

    >>> frequent_letters({"abba": 2, "ac": 1}, 2)
    ['a', 'b']
    """
    counts: Counter[str] = Counter()
    for word, count in word_counts.items():
        for letter in word:
            counts[letter] += count
    by_frequency = sorted(counts, key=lambda letter: (-counts[letter], letter))
    return sorted(by_frequency[:limit])
