"""Stories, corpora and sentence pairs from a seed, in splits that share no skeleton."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count as count_up

from course_lib.data.story_world.chooser import SamplingChooser, mix
from course_lib.data.story_world.config import WorldConfig
from course_lib.data.story_world.exact import find_choices
from course_lib.data.story_world.narrator import tell_story
from course_lib.data.story_world.skeleton import SPLITS, Skeleton, split_of, story_skeleton
from course_lib.data.story_world.story import Sentence, Story, Translation

FULL_WORLD = WorldConfig()
_ATTEMPTS = 10_000


def _check_split(split: str | None) -> None:
    if split is not None and split not in SPLITS:
        raise ValueError(f"split={split!r} is not known; choose one of {', '.join(SPLITS)}, or None for all")


def story(seed: int, split: str | None = "train", config: WorldConfig = FULL_WORLD) -> Story:
    """The story of a seed in a split (None: of the whole world); the same bytes everywhere."""
    _check_split(split)
    for attempt in range(_ATTEMPTS):
        chooser = SamplingChooser(mix(seed, attempt))
        told = tell_story(config, chooser)
        if split is None or split_of(story_skeleton(told)) == split:
            return Story(tuple(told), tuple(chooser.choices), config, seed, split)
    raise ValueError(f"no story of split {split!r} in {_ATTEMPTS} attempts; this world is too small for it")


def stories(
    seed: int = 0,
    split: str | None = "train",
    config: WorldConfig = FULL_WORLD,
    count: int | None = None,
) -> Iterator[Story]:
    """Stories without end, or `count` of them; story i of a seed does not depend on `count`."""
    _check_split(split)
    if count is not None and count < 0:
        raise ValueError(f"count={count} is negative; give how many stories are wanted, or None for no end")
    for index in count_up() if count is None else range(count):
        yield story(mix(seed, index), split, config)


def read_story(text: str, config: WorldConfig = FULL_WORLD) -> Story:
    """The story that a text tells, with all of its labels and its log-probability.

    Raises ValueError where the text is not a story of this world, naming the first sentence that cannot be:
    a way to judge what a language model has written.
    """
    words = re.findall(r"[“”.,]|[^\s“”.,]+", text)
    if not words:
        raise ValueError("the text has no words; give a story such as `story(0).text`")
    told, choices = find_choices(config, words)
    return Story(tuple(told), tuple(choices), config, 0)


def corpus(words: int, seed: int = 0, split: str | None = "train", config: WorldConfig = FULL_WORLD) -> str:
    """Text of at least so many words (stops count as words), whole stories, a blank line between two."""
    if words <= 0:
        raise ValueError(f"words={words} is not positive; give the size of the corpus in words")
    texts = []
    for told in stories(seed, split, config):
        texts.append(told.text)
        words -= sum(len(sentence.words) for sentence in told.told)
        if words <= 0:
            break
    return "\n\n".join(texts)


def entropy_per_word(sample: Iterable[Story]) -> float:
    """Nats a word of a sample of stories, the end of each story counted as one word.

    The mean over many stories of the whole world (`split=None`) tends to the world's entropy: no model can
    have a lower expected loss on its words and story ends.
    """
    total, positions = 0.0, 0
    for told in sample:
        total -= told.log_probability
        positions += len(told.words) + 1
    if not positions:
        raise ValueError("no stories given; entropy_per_word needs at least one")
    return total / positions


def split_log_probability(
    split: str, config: WorldConfig = FULL_WORLD, samples: int = 20_000, seed: int = 0
) -> float:
    """An estimate of log P(split), in nats: how likely a story of the world falls into a split.

    `log_probability` of a story minus this is its log-probability among the stories of the split. Its
    standard error is `sqrt((1 - p) / (p * samples))`. For a small world `exact.split_probabilities` has it
    exactly.
    """
    _check_split(split)
    hits = sum(
        split_of(story_skeleton(tell_story(config, SamplingChooser(mix(seed, i))))) == split
        for i in range(samples)
    )
    return math.log(hits / samples)


def stranger(told: Story) -> Story:
    """Another story of the same split, for sentences that do not follow."""
    first = told.text
    for attempt in range(_ATTEMPTS):
        other = story(mix(told.seed, 0x5EED, attempt), told.split, told.config)
        if other.text != first:
            return other
    raise ValueError("this world has a single story; there is no other to take sentences from")


@dataclass(frozen=True)
class TranslatedSentence:
    """An English sentence with its aligned translation, from a split by sentence skeleton."""

    english: tuple[str, ...]
    target: tuple[str, ...]
    alignment: frozenset[tuple[int, int]]
    text: str
    target_text: str
    skeleton: Skeleton


def sentence_pairs(
    split: str | None,
    language: str,
    seed: int = 0,
    config: WorldConfig = FULL_WORLD,
    count: int | None = None,
    context_free: bool = True,
    unique: bool = True,
) -> Iterator[TranslatedSentence]:
    """English sentences with their `french` or `chinese`; no two splits share a sentence skeleton.

    `context_free` leaves out sentences whose translation depends on the ones before (the gender of an *it* or
    *they*); `unique` leaves out English sentences already given.
    """
    _check_split(split)
    seen: set[tuple[str, ...]] = set()
    given = 0
    for told in stories(mix(seed, 0x7A1E), None, config):
        for sentence in told.sentences:
            if count is not None and given >= count:
                return
            if (split is None or split_of(sentence.skeleton) == split) and sentence.words not in seen:
                if context_free and not stands_alone(sentence):
                    continue
                if unique:
                    seen.add(sentence.words)
                given += 1
                yield _translated(sentence, sentence.translation(language))


def _translated(sentence: Sentence, translation: Translation) -> TranslatedSentence:
    return TranslatedSentence(
        sentence.words,
        translation.words,
        translation.alignment,
        sentence.text,
        translation.text,
        sentence.skeleton,
    )


def stands_alone(sentence: Sentence) -> bool:
    """Whether a translator needs nothing but the sentence: each *it* and *they* has its noun within it."""
    named: set[int] = set()
    for mention in sentence.told.mentions:
        identities = {entity.identity for entity in mention.entities}
        if mention.form != "pronoun":
            named |= identities
        elif identities <= named:
            continue
        elif len(mention.entities) > 1 or mention.entities[0].pronoun in ("it", "they"):
            return False
    return True
