"""Exact probabilities: every story of a small world, and every way on from a given beginning."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise

from course_lib.data.story_world.actors import possible_actors
from course_lib.data.story_world.chooser import Choice, ReplayChooser
from course_lib.data.story_world.config import WorldConfig
from course_lib.data.story_world.narrator import commit, tell_next, tell_story
from course_lib.data.story_world.skeleton import SPLITS, split_of, story_skeleton
from course_lib.data.story_world.state import World
from course_lib.data.story_world.telling import Told, Words


def enumerate_stories(config: WorldConfig) -> Iterator[tuple[list[Told], Fraction]]:
    """Every story of a world with its exact probability. Only for worlds like `WorldConfig.small()`."""
    pending: list[list[int]] = [[]]
    while pending:
        chooser = ReplayChooser(pending.pop())
        told = tell_story(config, chooser)
        pending.extend(chooser.branches)
        yield told, chooser.probability()


def exact_entropy(config: WorldConfig) -> float:
    """The entropy of a world's stories, in nats a story, by listing them all."""
    return -math.fsum(float(p) * math.log(p) for _, p in enumerate_stories(config))


def split_probabilities(config: WorldConfig) -> dict[str, Fraction]:
    """The exact probability of each split of a small world."""
    found = dict.fromkeys(SPLITS, Fraction(0))
    for told, probability in enumerate_stories(config):
        found[split_of(story_skeleton(told))] += probability
    return found


class _Differs(Exception):
    """The sentence being told leaves the words that were given."""


class _Matching(Words):
    """A list that only takes the words it is expected to take; where None is expected, any word."""

    def __init__(self, expected: Sequence[str | None], start: int) -> None:
        super().__init__()
        self.expected, self.start = expected, start
        self.announced = 0

    def append(self, word: str) -> None:
        position = self.start + len(self)
        if position >= len(self.expected) or self.expected[position] not in (word, None):
            raise _Differs
        super().append(word)

    def announce(self, words: list[str]) -> None:
        position = self.start + len(self)
        for word, expected in zip(
            words, [*self.expected[position : position + len(words)], ""], strict=False
        ):
            if expected not in (word, None):
                raise _Differs
            self.announced += 1
        self.announced = 0

    @property
    def matched(self) -> int:
        """How many words agree, said or announced."""
        return len(self) + self.announced


def word_log_probabilities(
    config: WorldConfig, words: Sequence[str], path: Sequence[int]
) -> tuple[float, ...]:
    """log p(word | words before) for every word of a story and its end, given the choices that made it."""
    world, start, taken = config.new_world(), 0, 0
    logs: list[float] = []
    while start < len(words):
        mass, _ = _ways_on(config, world, words, start)
        chooser = ReplayChooser(path[taken:])
        told = tell_next(config, world, chooser, Words())
        assert told is not None
        commit(world, told)
        taken += len(chooser.choices)
        logs += _conditionals(mass, len(told.words))
        start += len(told.words)
    _, ended = _ways_on(config, world, words, start)
    return (*logs, math.log(ended))


def _ways_on(
    config: WorldConfig, world: World, words: Sequence[str], start: int
) -> tuple[dict[int, float], float]:
    """Follow every next sentence as long as it agrees with the words.

    Returns the probability of agreeing with exactly so many words, and that of the story ending here.
    """
    mass: dict[int, float] = {}
    ended = 0.0
    actors = possible_actors(config, world)
    pending: list[list[int]] = [[]]
    while pending:
        chooser, matched = ReplayChooser(pending.pop()), _Matching(words, start)
        try:
            if tell_next(config, world, chooser, matched, actors) is None:
                ended += _float_probability(chooser)
                pending.extend(chooser.branches)
                continue
        except _Differs:
            pass
        count = matched.matched
        mass[count] = mass.get(count, 0.0) + _float_probability(chooser)
        pending.extend(chooser.branches)
    return mass, ended


def find_choices(config: WorldConfig, words: Sequence[str]) -> tuple[list[Told], list[Choice]]:
    """The sentences and the choices that tell exactly these words as a whole story.

    Raises ValueError naming the first sentence that could not come next, or that the story could not end.
    """
    world, story = config.new_world(), list[Told]()
    choices: list[Choice] = []
    start = 0
    while start < len(words):
        told, chosen = _sentence_at(config, world, words, start)
        commit(world, told)
        story.append(told)
        choices += chosen
        start += len(told.words)
    ending = ReplayChooser([0])
    if config.end_weight(world.sentences) == 0 or tell_next(config, world, ending, Words()) is not None:
        raise ValueError(f"this world has no story that ends after {world.sentences} sentences")
    return story, choices + ending.choices


def words_for(config: WorldConfig, words: Sequence[str], index: int) -> set[str]:
    """The words with which the sentence around `index` may come next; what follows it is not looked at.

    Raises ValueError where there is none.
    """
    world, start = config.new_world(), 0
    blank = [*words[:index], None, *words[index + 1 :]]
    while True:
        found = [told for told, _ in _sentences_at(config, world, blank, start)]
        fitting = {told.words[index - start] for told in found if start + len(told.words) > index}
        if fitting or not found:
            break
        commit(world, found[0])
        start += len(found[0].words)
    if not fitting:
        raise ValueError(f"no word at place {index} makes a sentence that could come next")
    return fitting


def _sentence_at(
    config: WorldConfig, world: World, words: Sequence[str], start: int
) -> tuple[Told, list[Choice]]:
    for found in _sentences_at(config, world, words, start):
        return found
    sentence = " ".join(
        words[start : next((i for i in range(start, len(words)) if words[i] == "."), start) + 1]
    )
    raise ValueError(f"this sentence cannot come next in a story of this world: {sentence!r}")


def _sentences_at(
    config: WorldConfig, world: World, words: Sequence[str | None], start: int
) -> Iterator[tuple[Told, list[Choice]]]:
    pending: list[list[int]] = [[]]
    actors = possible_actors(config, world)
    while pending:
        chooser = ReplayChooser(pending.pop())
        try:
            told = tell_next(config, world, chooser, _Matching(words, start), actors)
        except _Differs:
            told = None
        if told is not None:
            yield told, chooser.choices
        pending.extend(chooser.branches)


def _float_probability(chooser: ReplayChooser) -> float:
    return math.prod(choice.weight / choice.total for choice in chooser.choices)


def _conditionals(mass: dict[int, float], length: int) -> list[float]:
    """From the mass that agrees with exactly n words to log p(word n | the words before).

    The first word bears the probability that there is a sentence at all.
    """
    reach = [math.fsum(p for n, p in mass.items() if n >= m) for m in range(length + 1)]
    reach[0] = 1.0
    return [math.log(after) - math.log(before) for before, after in pairwise(reach)]
