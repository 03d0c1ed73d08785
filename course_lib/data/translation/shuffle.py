"""An order that a seed decides, the same on every platform."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from course_lib.data.story_world.chooser import SplitMix64

Item = TypeVar("Item")


def shuffled(items: Sequence[Item], seed: int) -> Iterator[Item]:
    """The items in random order (Fisher and Yates), each shuffled only when it is asked for."""
    left = list(items)
    generator = SplitMix64(seed)
    while left:
        chosen = generator.below(len(left))
        left[chosen], left[-1] = left[-1], left[chosen]
        yield left.pop()
