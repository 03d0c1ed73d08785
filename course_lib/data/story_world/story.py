"""A story and its sentences: the text, its probability, and (made when asked for) its labels."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from course_lib.data.story_world import chinese, exact, french, labels, view
from course_lib.data.story_world.chooser import Choice
from course_lib.data.story_world.config import WorldConfig
from course_lib.data.story_world.labels import (
    Coreference,
    EntityMention,
    Instruction,
    Question,
    Sense,
    SentencePair,
)
from course_lib.data.story_world.skeleton import Skeleton, sentence_skeleton, story_skeleton
from course_lib.data.story_world.telling import Told

if TYPE_CHECKING:
    from collections.abc import Sequence

END_OF_STORY = "<end>"
LANGUAGES = {"french": french.translate, "chinese": chinese.translate}


def join_words(words: Sequence[str], language: str = "english") -> str:
    """Written text from words: no space before a stop, none after an elision, none at all in Chinese.

    >>> join_words(["It", "rained", "."]), join_words(["l'", "eau", "."], "french")
    ('It rained.', "l'eau.")
    """
    if language == "chinese":
        return "".join(words)
    text = " ".join(words).replace(" ,", ",").replace(" .", ".").replace("“ ", "“").replace(" ”", "”")
    return text.replace("' ", "'") if language == "french" else text


@dataclass(frozen=True)
class Translation:
    """One sentence in another language: `alignment` holds (English index, target index) of word pairs."""

    language: str
    words: tuple[str, ...]
    alignment: frozenset[tuple[int, int]]

    @property
    def text(self) -> str:
        return join_words(self.words, self.language)


@dataclass(frozen=True)
class Sentence:
    """One sentence of a story; `start` is the index of its first word in the story's words."""

    told: Told = field(repr=False, compare=False)
    start: int
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        return join_words(self.words)

    @property
    def event(self) -> str:
        """The kind of event that the sentence tells, such as `give`."""
        return self.told.kind.name

    @property
    def sentiment(self) -> str:
        """Positive, negative or neutral: how the sentence changes or tells the feelings of those in it."""
        return labels.sentiment_of(amount for name, _, _, amount in self.told.effects if name == "feel")

    @cached_property
    def skeleton(self) -> Skeleton:
        return sentence_skeleton(self.told)

    def translation(self, language: str) -> Translation:
        """The sentence in `french` or `chinese`, aligned word by word."""
        if language not in LANGUAGES:
            raise ValueError(f"language={language!r} is not known; choose one of {', '.join(LANGUAGES)}")
        aligned = LANGUAGES[language](self.told)
        return Translation(language, tuple(word for word, _ in aligned), _align(self.told.keys, aligned))


def _align(keys: Sequence[str], aligned: Sequence[tuple[str, str]]) -> frozenset[tuple[int, int]]:
    places: dict[str, list[int]] = {}
    for index, key in enumerate(keys):
        if key:
            places.setdefault(key, []).append(index)
    return frozenset(
        (source, target)
        for target, (_, target_keys) in enumerate(aligned)
        for key in target_keys.split()
        for source in places.get(key, ())
    )


@dataclass(frozen=True, repr=False)
class Story:
    """A story of the world with every gold label.

    Word positions in labels index `words`; spans are `[start, end)`. `choices` are the exact integer odds of
    everything the narrator chose, so `log_probability` (nats) is that of the text in the whole world. The
    stories of one split are a part of it: subtract `split_log_probability` for the law of the split alone.
    """

    told: tuple[Told, ...]
    choices: tuple[Choice, ...]
    config: WorldConfig
    seed: int
    split: str | None = None

    @cached_property
    def sentences(self) -> tuple[Sentence, ...]:
        found = []
        start = 0
        for told in self.told:
            found.append(Sentence(told, start, tuple(told.words)))
            start += len(told.words)
        return tuple(found)

    @cached_property
    def words(self) -> tuple[str, ...]:
        return tuple(word for told in self.told for word in told.words)

    @property
    def text(self) -> str:
        return join_words([word for told in self.told for word in told.words])

    @cached_property
    def log_probability(self) -> float:
        """The natural logarithm of the text's probability, its end included."""
        return math.fsum(math.log(choice.weight) - math.log(choice.total) for choice in self.choices)

    @cached_property
    def word_log_probabilities(self) -> tuple[float, ...]:
        """log p(word | all words before it), in nats, one for each of `words` and one for `END_OF_STORY`.

        These are the exact conditionals: every way in which the world could have gone on after the same words
        is followed. They sum to `log_probability`.
        """
        return exact.word_log_probabilities(
            self.config, self.words, [choice.option for choice in self.choices]
        )

    @cached_property
    def skeleton(self) -> Skeleton:
        """The structure without names: the events, and which of their slots the same entities fill."""
        return story_skeleton(self.told)

    @property
    def topic(self) -> str:
        """The setting that the story begins in: home, town, farm, river, school, forest or beach."""
        return labels.topic_of(self)

    @cached_property
    def entities(self) -> tuple[EntityMention, ...]:
        return labels.entities(self)

    @cached_property
    def coreference(self) -> tuple[Coreference, ...]:
        return labels.coreference(self)

    @cached_property
    def sentiment(self) -> str:
        """Positive, negative or neutral: how the people feel at the end, taken together."""
        return labels.story_sentiment(self)

    @cached_property
    def senses(self) -> tuple[Sense, ...]:
        return labels.senses(self)

    @cached_property
    def questions(self) -> tuple[Question, ...]:
        return labels.questions(self)

    @cached_property
    def summary(self) -> str:
        return labels.summary(self)

    @cached_property
    def next_sentence_pairs(self) -> tuple[SentencePair, ...]:
        from course_lib.data.story_world.generate import stranger

        return labels.next_sentence_pairs(self, stranger(self))

    def translations(self, language: str) -> tuple[Translation, ...]:
        """Every sentence in `french` or `chinese`, in order."""
        return tuple(sentence.translation(language) for sentence in self.sentences)

    @cached_property
    def instructions(self) -> tuple[Instruction, ...]:
        return labels.instructions(self)

    def to_json(self) -> str:
        """The story and its labels as JSON: integers and text only, so the same bytes on every platform."""
        return json.dumps(labels.as_record(self), ensure_ascii=False, sort_keys=True)

    def __repr__(self) -> str:
        return f"Story({self.text!r})"

    def _repr_html_(self) -> str:
        return view.story_html(self)
