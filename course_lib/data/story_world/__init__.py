"""A seeded simulated world that tells what happens in it, with gold labels for every task of the course.

People, animals, things and places have state; events have needs and effects; a narrator tells them in short
English sentences. Every story knows its exact log-probability, its labels, and its French and Chinese. Only
the standard library is used, and only integers decide, so a seed gives the same bytes on every platform.

>>> from course_lib.data import story_world
>>> [len(told.translations("french")) == len(told.sentences) for told in story_world.stories(seed=3, count=2)]
[True, True]
"""

from __future__ import annotations

from course_lib.data.story_world.chooser import Choice
from course_lib.data.story_world.config import WorldConfig
from course_lib.data.story_world.exact import enumerate_stories, exact_entropy, split_probabilities
from course_lib.data.story_world.generate import (
    TranslatedSentence,
    corpus,
    entropy_per_word,
    read_story,
    sentence_pairs,
    split_log_probability,
    stories,
    story,
)
from course_lib.data.story_world.labels import (
    Coreference,
    EntityMention,
    Instruction,
    Sense,
    SentencePair,
)
from course_lib.data.story_world.lexicon import Word, vocabulary
from course_lib.data.story_world.questions import Question
from course_lib.data.story_world.skeleton import SPLITS, split_of
from course_lib.data.story_world.story import END_OF_STORY, Sentence, Story, Translation, join_words
from course_lib.data.story_world.view import StoryView, show

__all__ = [
    "END_OF_STORY",
    "SPLITS",
    "Choice",
    "Coreference",
    "EntityMention",
    "Instruction",
    "Question",
    "Sense",
    "Sentence",
    "SentencePair",
    "Story",
    "StoryView",
    "TranslatedSentence",
    "Translation",
    "Word",
    "WorldConfig",
    "corpus",
    "entropy_per_word",
    "enumerate_stories",
    "exact_entropy",
    "join_words",
    "read_story",
    "sentence_pairs",
    "show",
    "split_log_probability",
    "split_of",
    "split_probabilities",
    "stories",
    "story",
    "vocabulary",
]
