"""Questions about a story: the answer follows from its state, and is a span of its words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from course_lib.data.story_world.english import name_of
from course_lib.data.story_world.state import Entity
from course_lib.data.story_world.telling import Told

if TYPE_CHECKING:
    from course_lib.data.story_world.story import Sentence, Story


@dataclass(frozen=True)
class Question:
    """A question and its answer: words `start` to `end` of the story. `support` are the sentences needed."""

    kind: str
    text: str
    answer: str
    start: int
    end: int
    support: tuple[int, ...]


@dataclass
class _Fact:
    """Something known of an entity: about whom it is, and the sentence that told it."""

    value: Entity
    sentence: int


@dataclass
class _Knowledge:
    """What a reader knows after the sentences read so far."""

    place: dict[Entity, _Fact] = field(default_factory=dict)
    before: dict[Entity, _Fact] = field(default_factory=dict)
    holder: dict[Entity, _Fact] = field(default_factory=dict)
    feeling: dict[Entity, tuple[int, int, int]] = field(default_factory=dict)
    spans: dict[Entity, list[tuple[int, int, int]]] = field(default_factory=dict)
    events: list[tuple[str, int, Told]] = field(default_factory=list)


def ask(story: Story) -> tuple[Question, ...]:
    """All questions that the story answers, in a fixed order."""
    known = _Knowledge()
    for index, sentence in enumerate(story.sentences):
        _read(known, index, sentence)
    asker = _Asker(story, known)
    return (*asker.places(), *asker.holders(), *asker.feelings(), *asker.events(), *asker.reasons())


def _read(known: _Knowledge, index: int, sentence: Sentence) -> None:
    told, shift = sentence.told, sentence.start
    for mention in told.mentions:
        if mention.form not in ("pronoun", "possessive", "pair", "there"):
            spans = known.spans.setdefault(mention.entities[0], [])
            spans.append((index, mention.start + shift, mention.end + shift))
    for name, subject, other, _ in told.effects:
        _learn(known, index, name, subject, other)
    for command in told.kind.effects:
        if command[0] == "word":
            at = shift + told.keys.index(command[2])
            known.feeling[told.entity(command[1])] = (index, at, at + 1)
    known.events.append((told.kind.name, index, told))


def _learn(known: _Knowledge, index: int, name: str, subject: Entity, other: Entity | None) -> None:
    if name == "feel":
        known.feeling.pop(subject, None)
    elif name == "at" and other is not None:
        old = known.place.get(subject)
        if old is not None and old.value is not other:
            known.before[subject] = old
        known.place[subject] = _Fact(other, index)
    elif name == "hold" and other is not None:
        known.place.pop(other, None)
        known.holder[other] = _Fact(subject, index)
    elif name == "leave" and other is not None:
        known.holder.pop(subject, None)
        known.place[subject] = _Fact(other, index)
    elif name in ("lose", "gone"):
        thing = other if name == "lose" and other is not None else subject
        known.place.pop(thing, None)
        known.holder.pop(thing, None)


# What is asked of an event: kind of event -> (question, slot of the answer)
_EVENT_QUESTIONS = {
    "give": ("Who gave {T} to {B}?", "A"),
    "lend": ("Who lent {T} to {B}?", "A"),
    "sell": ("Who sold {T} to {B}?", "A"),
    "throw": ("To whom did {A} throw {T}?", "B"),
    "steal": ("From whom did {A} steal {T}?", "B"),
    "borrow": ("From whom did {A} borrow {T}?", "B"),
    "take": ("From whom did {A} take {T}?", "B"),
    "find": ("What did {A} find?", "T"),
    "buy": ("What did {A} buy?", "T"),
    "lose_own": ("What did {A} lose?", "T"),
    "pick_fruit": ("What did {A} pick from the tree?", "T"),
    "cook": ("What did {A} cook?", "T"),
    "bake": ("What did {A} bake?", "T"),
    "chase": ("Who chased {N}?", "A"),
    "chase_person": ("Who chased {B}?", "A"),
    "help": ("Whom did {A} help?", "B"),
    "repair_for": ("Who repaired {T}?", "A"),
    "tell_where": ("Whom did {A} tell where {T} was?", "B"),
}
_REASONS = {
    "not_cross": "Why did {A} not cross {X}?",
    "not_fit": "Why could {A} not put {T} into {Y}?",
    "not_eat": "Why did {A} not eat {T}?",
    "not_buy": "Why did {A} not buy {T}?",
}


class _Asker:
    """Turns what is known into questions."""

    def __init__(self, story: Story, known: _Knowledge) -> None:
        self.story, self.known = story, known

    def span(self, entity: Entity, until: int) -> tuple[int, int, int]:
        """The last naming of an entity up to a sentence, as (sentence, start, end)."""
        return max(span for span in self.known.spans[entity] if span[0] <= until)

    def question(
        self, kind: str, text: str, span: tuple[int, int, int], support: tuple[int, ...]
    ) -> Question:
        sentence, start, end = span
        answer = " ".join(self.story.words[start:end])
        return Question(kind, text, answer, start, end, tuple(sorted({sentence, *support})))

    def places(self) -> Iterator[Question]:
        for who, fact in self.known.place.items():
            be = "are" if who.plural else "is"
            text = f"Where {be} {name_of(who)}?"
            yield self.question("where", text, self.span(fact.value, fact.sentence), (fact.sentence,))
        for who, fact in self.known.before.items():
            now = self.known.place[who]
            text = f"Where was {name_of(who)} before {name_of(now.value)}?"
            span = self.span(fact.value, fact.sentence)
            yield self.question("where_before", text, span, (fact.sentence, now.sentence))

    def holders(self) -> Iterator[Question]:
        for thing, fact in self.known.holder.items():
            span = self.span(fact.value, fact.sentence)
            yield self.question("who_has", f"Who has {name_of(thing)}?", span, (fact.sentence,))
            place = self.known.place.get(fact.value)
            if place is not None:
                be = "are" if thing.plural else "is"
                text = f"Where {be} {name_of(thing)}?"
                span = self.span(place.value, place.sentence)
                yield self.question("where_thing", text, span, (fact.sentence, place.sentence))

    def feelings(self) -> Iterator[Question]:
        for who, span in self.known.feeling.items():
            yield self.question("feeling", f"How does {name_of(who)} feel?", span, (span[0],))

    def events(self) -> Iterator[Question]:
        told_kinds = [name for name, _, _ in self.known.events]
        for name, index, told in self.known.events:
            found = _EVENT_QUESTIONS.get(name)
            if found is None or told_kinds.count(name) > 1:
                continue
            text, slot = found
            names = {key: name_of(told.entity(key)) for key in "ABNT" if key in told.values}
            span = self.span(told.entity(slot), index)
            yield self.question(name, text.format(**names), span, (index,))

    def reasons(self) -> Iterator[Question]:
        for name, index, told in self.known.events:
            text = next((t for start, t in _REASONS.items() if name.startswith(start)), None)
            if text is None:
                continue
            sentence = self.story.sentences[index]
            because = "but" if name.startswith("not_buy") else "because"
            start = sentence.start + sentence.words.index(because) + 1
            end = sentence.start + len(sentence.words) - 1
            names = {key: name_of(told.entity(key)) for key in "ATXY" if key in told.values}
            yield self.question("why", text.format(**names), (index, start, end), (index,))
