"""A sentence while it is told: its words, its mentions, and what those who tell it may look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from course_lib.data.story_world.chooser import Chooser
from course_lib.data.story_world.english import indefinite
from course_lib.data.story_world.events import Kind
from course_lib.data.story_world.lexicon import Adjective, Noun
from course_lib.data.story_world.state import Entity, World, noun_mask

if TYPE_CHECKING:
    from course_lib.data.story_world.config import WorldConfig

Value = Entity | Adjective


class Mention(NamedTuple):
    """Words `start` to `end` of a sentence name `entities`, in a form: name, indefinite, definite, …"""

    slot: str
    entities: tuple[Entity, ...]
    form: str
    start: int
    end: int


class Words(list[str]):
    """The words of a sentence as they are said. Matching against a given text overrides `append`."""

    def announce(self, words: list[str]) -> None:
        """Called with the very next words as soon as they are certain, before the choices after them."""


@dataclass
class Told:
    """One sentence as it was told: the event, who took part, and the English words with their mentions."""

    kind: Kind
    actor: Entity | None
    values: dict[str, Value]
    words: Words
    opener: int
    opener_set: str
    slot_is_next: bool = False
    keys: list[str] = field(default_factory=list)
    mentions: list[Mention] = field(default_factory=list)
    new: list[Entity] = field(default_factory=list)
    owned: dict[str, Entity] = field(default_factory=dict)
    effects: list[tuple[str, Entity, Entity | None, int]] = field(default_factory=list)

    @cached_property
    def forms(self) -> dict[str, str]:
        """The form in which each slot was first mentioned."""
        forms: dict[str, str] = {}
        for mention in self.mentions:
            forms.setdefault(mention.slot, mention.form)
        return forms

    def entity(self, slot: str) -> Entity:
        value = self.values[slot]
        assert isinstance(value, Entity), f"slot {slot} of {self.kind.name} holds a word, not an entity"
        return value


class Scene(NamedTuple):
    """What a rule that finds candidates may look at."""

    config: WorldConfig
    world: World
    told: Told
    chooser: Chooser

    def announce(self, count: int, adjective: Adjective | None) -> None:
        """Say that a new entity's article and adjective come next, where that is certain."""
        told = self.told
        if not told.slot_is_next or (count == 1 and adjective is None):
            return
        words = [indefinite(count, adjective.lemma if adjective else "")]
        if adjective is not None:
            words.append(adjective.lemma)
        told.words.announce(words if told.words else [words[0].capitalize(), *words[1:]])

    def new_entity(self, entity_type: str, noun: Noun) -> Entity:
        """An entity that this sentence is the first to name."""
        entity = Entity(self.world.entity_count + len(self.told.new), entity_type, noun)
        entity.mask = noun_mask(noun, entity_type)
        self.told.new.append(entity)
        return entity

    def pick(self, candidates: Sequence[Entity]) -> Entity:
        return candidates[self.chooser.uniform(len(candidates))]

    def pick_new(self, entity_type: str, nouns: Sequence[Noun]) -> Entity:
        noun = nouns[self.chooser.uniform(len(nouns))]
        return self.new_entity(entity_type, noun)

    @property
    def actor(self) -> Entity:
        assert self.told.actor is not None
        return self.told.actor

    def others(self) -> list[Entity]:
        actor = self.actor
        return [who for who in self.world.people if who is not actor and who.place is actor.place]
