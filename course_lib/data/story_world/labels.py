"""Gold labels of a story, all read off the record of what was told.

Word positions index the story's words; spans are `[start, end)`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from course_lib.data.story_world.chooser import SplitMix64, mix
from course_lib.data.story_world.lexicon import SETTINGS
from course_lib.data.story_world.questions import Question, ask
from course_lib.data.story_world.retell import retell
from course_lib.data.story_world.state import Entity
from course_lib.data.story_world.telling import Mention

if TYPE_CHECKING:
    from course_lib.data.story_world.story import Story

ENTITY_TYPES = ("PERSON", "ANIMAL", "THING", "PLACE", "ORGANISATION")
_TYPE_OF = {"person": "PERSON", "animal": "ANIMAL", "thing": "THING", "place": "PLACE", "scenery": "PLACE"}
SENTIMENTS = ("negative", "neutral", "positive")
APPLE_IDENTITY = -1  # the company has no state, and no number among the entities


@dataclass(frozen=True)
class EntityMention:
    """Words `start` to `end` name an entity; pronouns are left to `Coreference`."""

    start: int
    end: int
    type: str
    identity: int
    text: str


@dataclass(frozen=True)
class Coreference:
    """A pronoun (or *there*) and the last naming of what it means."""

    start: int
    end: int
    text: str
    antecedent_start: int
    antecedent_end: int
    antecedent: str
    identities: tuple[int, ...]


@dataclass(frozen=True)
class Sense:
    """Which sense a homonym has: river_bank, money_bank, apple_fruit or apple_company."""

    index: int
    word: str
    sense: str


@dataclass(frozen=True)
class SentencePair:
    """Two sentences, and whether the second follows the first in the story."""

    first: str
    second: str
    is_next: bool


@dataclass(frozen=True)
class Instruction:
    """A task in words, what it is about, and the right answer."""

    instruction: str
    input: str
    answer: str


def located_mentions(story: Story) -> Iterator[tuple[int, Mention]]:
    """Every mention with the index of its sentence, its span counted from the story's first word."""
    for index, sentence in enumerate(story.sentences):
        shift = sentence.start
        for mention in sentence.told.mentions:
            yield index, mention._replace(start=mention.start + shift, end=mention.end + shift)


def span_text(story: Story, start: int, end: int) -> str:
    return " ".join(story.words[start:end])


def entities(story: Story) -> tuple[EntityMention, ...]:
    """Every naming of a person, animal, thing, place or organisation, in order."""
    found = [
        EntityMention(m.start, m.end, _TYPE_OF[m.entities[0].type], m.entities[0].identity, _text(story, m))
        for _, m in located_mentions(story)
        if m.form not in ("pronoun", "possessive", "pair", "there")
        and (m.entities[0].type != "scenery" or m.entities[0].noun.classes & {"road", "stream", "way"})
    ]
    for sentence in story.sentences:
        for position, key in enumerate(sentence.told.keys):
            if key == "a" and sentence.words[position] == "Apple":
                at = sentence.start + position
                found.append(EntityMention(at, at + 1, "ORGANISATION", APPLE_IDENTITY, "Apple"))
    return tuple(sorted(found, key=lambda mention: (mention.start, mention.end)))


def _text(story: Story, mention: Mention) -> str:
    return span_text(story, mention.start, mention.end)


def coreference(story: Story) -> tuple[Coreference, ...]:
    """Each pronoun with its antecedent: the last mention before it that is not itself a pronoun."""
    named: dict[tuple[Entity, ...], Mention] = {}
    found = []
    for _, mention in sorted(located_mentions(story), key=lambda item: (item[1].start, -item[1].end)):
        if mention.form in ("pronoun", "possessive", "there"):
            antecedent = named[mention.entities]
            found.append(
                Coreference(
                    mention.start,
                    mention.end,
                    _text(story, mention),
                    antecedent.start,
                    antecedent.end,
                    _text(story, antecedent),
                    tuple(entity.identity for entity in mention.entities),
                )
            )
        else:
            named[mention.entities] = mention
    return tuple(found)


def sentiment_of(amounts: Iterable[int]) -> str:
    """The sign of a sum of feelings, in words."""
    total = sum(amounts)
    return "positive" if total > 0 else "negative" if total < 0 else "neutral"


def story_sentiment(story: Story) -> str:
    """The people's feelings at the end, added up."""
    last: dict[int, int] = {}
    for told in story.told:
        for name, who, _, amount in told.effects:
            if name == "feel" and who.type == "person":
                last[who.identity] = amount
    return sentiment_of(last.values())


def topic_of(story: Story) -> str:
    first = story.told[0].entity("P")
    return SETTINGS[first.noun.settings[0]]


def senses(story: Story) -> tuple[Sense, ...]:
    """The sense of every *bank* and *apple*."""
    found = []
    for _, mention in located_mentions(story):
        noun = mention.entities[0].noun
        if mention.form in ("pronoun", "possessive", "there", "pair") or len(mention.entities) > 1:
            continue
        if noun.lemma == "bank":
            name = "river_bank" if "river_bank" in noun.classes else "money_bank"
            found.append(Sense(mention.end - 1, "bank", name))
        elif noun.lemma == "apple":
            found.append(Sense(mention.end - 1, "apple", "apple_fruit"))
        elif noun.lemma == "Apple phone":
            found.append(Sense(mention.end - 2, "apple", "apple_company"))
    found += [Sense(m.start, "apple", "apple_company") for m in entities(story) if m.type == "ORGANISATION"]
    return tuple(sorted(found, key=lambda sense: sense.index))


def questions(story: Story) -> tuple[Question, ...]:
    """Questions whose answer is a span of the story, and the sentences that one must read to know it."""
    return ask(story)


def summary(story: Story) -> str:
    """The one or two events that matter most, told again in full."""
    ranked = sorted(range(len(story.told)), key=lambda i: (-story.told[i].kind.salience, i))
    chosen = sorted(ranked[: 1 if len(story.told) < 5 else 2])
    seen: set[int] = set()
    return " ".join(retell(story.told[index], seen) for index in chosen)


def next_sentence_pairs(story: Story, other: Story) -> tuple[SentencePair, ...]:
    """Each sentence with its true successor, and with a sentence of `other` that is not its successor."""
    texts = [sentence.text for sentence in story.sentences]
    strangers = [sentence.text for sentence in other.sentences]
    draw = SplitMix64(mix(story.seed, 0x9E7)).below
    pairs = []
    for first, second in pairwise(texts):
        pairs.append(SentencePair(first, second, True))
        wrong = [text for text in strangers if text != second]
        if wrong:
            pairs.append(SentencePair(first, wrong[draw(len(wrong))], False))
    return tuple(pairs)


def instructions(story: Story) -> tuple[Instruction, ...]:
    """Tasks about the story with their answers: questions, sentiment, summary, people, translation."""
    found = [Instruction(q.text, story.text, q.answer) for q in story.questions]
    found.append(Instruction("Is this story positive, negative or neutral?", story.text, story.sentiment))
    found.append(Instruction("Summarize this story.", story.text, story.summary))
    people = list(dict.fromkeys(_name(m.text) for m in story.entities if m.type == "PERSON"))
    found.append(Instruction("Who is in this story?", story.text, ", ".join(people)))
    found.append(Instruction("How many people are in this story?", story.text, str(len(people))))
    found.append(Instruction("What happens first?", story.text, story.sentences[0].text))
    found.append(Instruction("What happens last?", story.text, story.sentences[-1].text))
    for language in ("french", "chinese"):
        task = f"Translate this sentence into {language.capitalize()}."
        found += [Instruction(task, s.text, s.translation(language).text) for s in story.sentences]
    return tuple(found)


def _name(text: str) -> str:
    """A person as an answer names it: `the woman`, whatever article and adjective the story used."""
    words = text.split()
    return text if len(words) == 1 else f"the {words[-1]}"


def as_record(story: Story) -> dict[str, Any]:
    """The story and all of its labels as JSON-ready values."""
    return {
        "text": story.text,
        "words": list(story.words),
        "seed": story.seed,
        "split": story.split,
        "topic": story.topic,
        "sentences": [
            {
                "start": sentence.start,
                "text": sentence.text,
                "event": sentence.event,
                "sentiment": sentence.sentiment,
                "skeleton": list(sentence.skeleton),
                "translations": {
                    language: {
                        "words": list(told.words),
                        "text": told.text,
                        "alignment": sorted(map(list, told.alignment)),
                    }
                    for language in ("french", "chinese")
                    for told in (sentence.translation(language),)
                },
            }
            for sentence in story.sentences
        ],
        "choices": [list(choice) for choice in story.choices],
        "skeleton": list(story.skeleton),
        "sentiment": story.sentiment,
        "summary": story.summary,
        "entities": [asdict(label) for label in story.entities],
        "coreference": [asdict(label) for label in story.coreference],
        "senses": [asdict(label) for label in story.senses],
        "questions": [asdict(label) for label in story.questions],
        "next_sentence_pairs": [asdict(label) for label in story.next_sentence_pairs],
        "instructions": [asdict(label) for label in story.instructions],
    }
