"""What may stand in a blank of a story: the exact probability of every word, given all the others."""

from __future__ import annotations

import math
from collections.abc import Sequence

from course_lib.data.story_world.config import WorldConfig
from course_lib.data.story_world.exact import find_choices, words_for
from course_lib.data.story_world.generate import FULL_WORLD


def fill_in(words: Sequence[str], index: int, config: WorldConfig = FULL_WORLD) -> dict[str, float]:
    """p(word at `index` | all other words) of every word that can stand there, the likeliest first.

    The story is one of the whole world. Raises ValueError where no word makes it one.
    """
    logs = {}
    for word in words_for(config, words, index):
        try:
            _, choices = find_choices(config, [*words[:index], word, *words[index + 1 :]])
        except ValueError:
            continue
        logs[word] = math.fsum(math.log(choice.weight) - math.log(choice.total) for choice in choices)
    if not logs:
        raise ValueError(f"no word at place {index} makes this a story")
    most = max(logs.values())
    whole = math.fsum(math.exp(log - most) for log in logs.values())
    return {
        word: math.exp(log - most) / whole
        for word, log in sorted(logs.items(), key=lambda item: (-item[1], item[0]))
    }
