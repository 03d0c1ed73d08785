"""The probabilities of `story_world`. Oracle: complete enumeration, in exact fractions."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from fractions import Fraction
from functools import cache

import pytest

from course_lib.data import story_world
from course_lib.data.story_world import WorldConfig
from course_lib.data.story_world.actors import possible_actors
from course_lib.data.story_world.chooser import ReplayChooser, SamplingChooser, SplitMix64, mix
from course_lib.data.story_world.narrator import commit, tell_next
from course_lib.data.story_world.story import join_words
from course_lib.data.story_world.telling import Words

SMALL = WorldConfig.small()
# Plurals, openers, somebody with an article, and things that are lost, broken and eaten.
VARIED = WorldConfig(
    people=("Eva", "man"),
    animals=("owl",),
    things=("bowl", "apple"),
    places=("kitchen", "garden"),
    adjectives=("old", "red", "sad", "sweet"),
    kinds=("visit", "have", "eat", "lose", "break", "look_for", "feel_sorry", "not_buy_poor", "go"),
    min_sentences=2,
    max_sentences=3,
    max_people=1,
    max_animals=0,
)


@cache
def _texts(config: WorldConfig) -> tuple[tuple[str, Fraction], ...]:
    return tuple(
        (" ".join(word for told in story for word in told.words), probability)
        for story, probability in story_world.enumerate_stories(config)
    )


@pytest.mark.parametrize("config", [SMALL, VARIED], ids=["small", "varied"])
def test_probabilities_of_all_stories_add_up_to_exactly_one(config: WorldConfig) -> None:
    listed = _texts(config)
    assert len(listed) > 500
    assert sum(probability for _, probability in listed) == 1


@pytest.mark.parametrize("config", [SMALL, VARIED], ids=["small", "varied"])
def test_no_two_ways_of_choosing_tell_the_same_story(config: WorldConfig) -> None:
    texts = [text for text, _ in _texts(config)]
    assert len(texts) == len(set(texts))


@pytest.mark.parametrize("config", [SMALL, VARIED], ids=["small", "varied"])
def test_reported_log_probability_is_that_of_the_enumerated_text(config: WorldConfig) -> None:
    expected = {text: math.log(probability) for text, probability in _texts(config)}
    for told in story_world.stories(seed=5, split=None, config=config, count=200):
        assert told.log_probability == pytest.approx(expected[" ".join(told.words)], abs=1e-12)


@pytest.mark.parametrize("config", [SMALL, VARIED], ids=["small", "varied"])
def test_each_word_has_its_exact_conditional_probability(config: WorldConfig) -> None:
    prefixes: dict[tuple[str, ...], Fraction] = defaultdict(Fraction)
    for text, probability in _texts(config):
        words = (*text.split(), story_world.END_OF_STORY)
        for length in range(len(words) + 1):
            prefixes[words[:length]] += probability
    for told in story_world.stories(seed=6, split=None, config=config, count=12):
        words = (*told.words, story_world.END_OF_STORY)
        expected = [
            math.log(prefixes[words[: length + 1]] / prefixes[words[:length]]) for length in range(len(words))
        ]
        assert told.word_log_probabilities == pytest.approx(expected, abs=1e-9)


def test_entropy_of_the_small_world_is_the_mean_that_sampling_reports() -> None:
    exact = story_world.exact_entropy(SMALL)
    by_hand = -sum(float(p) * math.log(p) for _, p in _texts(SMALL))
    assert exact == pytest.approx(by_hand)
    sample = [-told.log_probability for told in story_world.stories(0, None, SMALL, 3000)]
    error = statistics.stdev(sample) / math.sqrt(len(sample))
    assert abs(statistics.fmean(sample) - exact) < 4 * error


def test_splits_of_the_small_world_have_known_probabilities() -> None:
    exact = story_world.split_probabilities(SMALL)
    assert sum(exact.values()) == 1
    estimate = math.exp(story_world.split_log_probability("train", SMALL, samples=4000))
    share = float(exact["train"])
    assert abs(estimate - share) < 4 * math.sqrt(share * (1 - share) / 4000)


@pytest.mark.parametrize("seed", range(4))
def test_every_next_sentence_of_the_full_world_is_told_in_one_way_only(seed: int) -> None:
    config = WorldConfig(openers=False, max_people=2)
    world, chooser = config.new_world(), SamplingChooser(mix(77, seed))
    for _ in range(3):
        told = tell_next(config, world, chooser, Words())
        assert told is not None
        commit(world, told)
    texts, mass = [], 0.0
    pending: list[list[int]] = [[]]
    actors = possible_actors(config, world)
    while pending:
        replay = ReplayChooser(pending.pop())
        following = tell_next(config, world, replay, Words(), actors)
        texts.append(" ".join(following.words) if following else story_world.END_OF_STORY)
        mass += math.prod(choice.weight / choice.total for choice in replay.choices)
        pending.extend(replay.branches)
    assert len(texts) > 1000
    assert len(texts) == len(set(texts))
    assert mass == pytest.approx(1.0, abs=1e-9)


def test_word_log_probabilities_of_the_full_world_add_up_to_the_story() -> None:
    for told in story_world.stories(seed=9, count=4):
        words = told.word_log_probabilities
        assert len(words) == len(told.words) + 1
        assert all(value <= 1e-12 for value in words)
        assert math.fsum(words) == pytest.approx(told.log_probability, abs=1e-9)


def test_entropy_per_word_counts_the_end_of_each_story_as_a_word() -> None:
    sample = list(story_world.stories(seed=1, split=None, count=20))
    positions = sum(len(told.words) + 1 for told in sample)
    expected = -sum(told.log_probability for told in sample) / positions
    assert story_world.entropy_per_word(sample) == pytest.approx(expected)
    with pytest.raises(ValueError, match="at least one"):
        story_world.entropy_per_word([])


def test_generator_agrees_with_the_published_splitmix64() -> None:
    # The first outputs for seed 1234567, from the reference implementation's documentation.
    generator = SplitMix64(1234567)
    assert [generator.next() for _ in range(3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_draws_below_a_bound_are_uniform() -> None:
    generator = SplitMix64(3)
    counts = [0] * 7
    for _ in range(7000):
        counts[generator.below(7)] += 1
    chi_squared = sum((count - 1000) ** 2 / 1000 for count in counts)
    assert chi_squared < 22.5  # the 0.1 % point at six degrees of freedom


def test_join_words_writes_each_language_as_it_is_written() -> None:
    assert join_words(["“", "I", "am", "sad", ",", "”", "said", "Eva", "."]) == "“I am sad,” said Eva."
    assert (
        join_words(["Elle", "n'", "a", "pas", "vu", "l'", "oie", "."], "french") == "Elle n'a pas vu l'oie."
    )
    assert join_words(["她", "很", "累", "。"], "chinese") == "她很累。"
