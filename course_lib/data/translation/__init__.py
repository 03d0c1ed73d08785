"""Sentence pairs for translators, made on the spot: gold word alignments, and splits that share nothing.

The levels, how many different pairs each has, and the skeleton, which no two splits share:

- `dates`: every day from 1900 to 2099 in three styles, as CLDR has them (219,147). Skeleton: the month of a
  year, so that nothing of March 2024 is known to who is tested on it.
- `names`: lists of one to three countries, languages, months or weekdays (9,373,767). Skeleton: which names.
- `numbers`: 0 to 9,999 in words (10,000). Skeleton: the number. German compounds are cut into their parts.
- `sentences`: of `story_world`, and about Apple and apples (without end; the first 20,000 drawn hold 14,782
  different ones). Skeleton: the sentence with people made equal and its details left out.

Dates, names and numbers go from any to any of English, French, German, Chinese and Japanese; sentences
between English and French or Chinese. Eight tenths of the skeletons are for training, one for validation, one
for the test. Names alone, and sentences with words that no other sentence has, are for training only: the
test asks for what is new in its composition, not for words never met. Chinese and Japanese are cut into
words, their number words into characters.

>>> from course_lib.data.translation import pairs
>>> [pair] = pairs("numbers", "en", "de", split="test", count=1, seed=8)
>>> pair.source, pair.target, sorted(pair.alignment)
(('eighty', '-', 'three'), ('drei', 'und', 'achtzig'), [(0, 2), (1, 1), (2, 0)])
"""

from __future__ import annotations

from course_lib.data.translation.generate import LevelName, pairs
from course_lib.data.translation.pair import LANGUAGES, SPLITS, Pair, join, tokenize
from course_lib.data.translation.vocabulary import (
    BEGIN,
    END,
    PAD,
    SPECIAL_TOKENS,
    UNKNOWN,
    Vocabulary,
)

__all__ = [
    "BEGIN",
    "END",
    "LANGUAGES",
    "PAD",
    "SPECIAL_TOKENS",
    "SPLITS",
    "UNKNOWN",
    "LevelName",
    "Pair",
    "Vocabulary",
    "join",
    "pairs",
    "tokenize",
]
