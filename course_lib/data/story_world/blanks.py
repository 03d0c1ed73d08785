"""What may stand in a blank of a story: the exact probability of every word, given all the others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from course_lib.data.story_world.config import WorldConfig
from course_lib.data.story_world.exact import find_choices
from course_lib.data.story_world.generate import FULL_WORLD


def fill_in(
    words: Sequence[str], index: int, candidates: Iterable[str], config: WorldConfig = FULL_WORLD
) -> dict[str, float]:
    """p(word at `index` | all other words) of every candidate that can stand there, the likeliest first.

    The story is one of the whole world. A candidate that makes it no story is left out.
    Raises ValueError where no candidate makes it one.
    """
    logs = {}
    for word in candidates:
        try:
            _, choices = find_choices(config, [*words[:index], word, *words[index + 1 :]])
        except ValueError:
            continue
        logs[word] = math.fsum(math.log(choice.weight) - math.log(choice.total) for choice in choices)
    if not logs:
        raise ValueError(f"none of the candidates makes a story at place {index}")
    most = max(logs.values())
    whole = math.fsum(math.exp(log - most) for log in logs.values())
    return {
        word: math.exp(log - most) / whole
        for word, log in sorted(logs.items(), key=lambda item: (-item[1], item[0]))
    }
