"""Pairs of any level, languages and split from a seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Literal, NamedTuple

from course_lib.data.translation import dates, names, numbers, sentences
from course_lib.data.translation.pair import LANGUAGES, SPLITS, Pair

LevelName = Literal["dates", "names", "numbers", "sentences"]
Direction = tuple[str, str]


class Level(NamedTuple):
    """A level: its directions, and the pairs of (source, target, split, seed), each once."""

    directions: frozenset[Direction]
    stream: Callable[[str, str, str, int], Iterator[Pair]]


_ANY = frozenset((source, target) for source in LANGUAGES for target in LANGUAGES if source != target)
_STORIES = frozenset({("en", "fr"), ("fr", "en"), ("en", "zh"), ("zh", "en")})
LEVELS: dict[str, Level] = {
    "dates": Level(_ANY, dates.stream),
    "names": Level(_ANY, names.stream),
    "numbers": Level(_ANY, numbers.stream),
    "sentences": Level(_STORIES, sentences.stream),
}


def pairs(
    level: LevelName,
    source: str = "en",
    target: str = "fr",
    *,
    split: str = "train",
    count: int,
    seed: int = 0,
) -> list[Pair]:
    """`count` different pairs of a level in a split, the same bytes everywhere for a seed.

    No two splits share a skeleton or a sentence, whatever their seeds, and within the list no source comes
    twice. Raises ValueError for a level, direction or split that does not exist, and where a split has fewer
    pairs than asked for.

    >>> [pair] = pairs("numbers", "en", "de", count=1, seed=1)
    >>> pair.source_text, pair.target_text
    ('four thousand, six hundred and thirty-three', 'viertausendsechshundertdreiunddreißig')
    """
    _check(level, source, target, split, count)
    found = list(islice(LEVELS[level].stream(source, target, split, seed), count))
    if len(found) < count:
        raise ValueError(
            f"count={count:,} is more than there is: ask for at most {len(found):,} pairs of split {split!r}"
            f" of {level!r}"
        )
    return found


def _check(level: str, source: str, target: str, split: str, count: int) -> None:
    if level not in LEVELS:
        raise ValueError(f"level={level!r} is not known; choose one of {', '.join(LEVELS)}")
    if (source, target) not in LEVELS[level].directions:
        known = ", ".join(f"{a} to {b}" for a, b in sorted(LEVELS[level].directions))
        raise ValueError(f"{level!r} has no pairs from {source!r} to {target!r}; it has {known}")
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is not known; choose one of {', '.join(SPLITS)}")
    if count < 0:
        raise ValueError(f"count={count} is negative; give how many pairs are wanted")
