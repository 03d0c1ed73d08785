"""Who may act next, and what they may do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from course_lib.data.story_world.events import Kind
from course_lib.data.story_world.state import Entity, World

if TYPE_CHECKING:
    from course_lib.data.story_world.config import WorldConfig

_FOCUS, _OTHER, _PAIR, _ANIMAL, _NEWCOMER, _NEW_ANIMAL, _WORLD = 20, 12, 16, 5, 12, 1, 4


@dataclass
class Actor:
    """Somebody who may act next (no entity: a newcomer, or the world at large), and what they may do."""

    role: str
    entity: Entity | None
    weight: int
    kinds: tuple[list[Kind], list[int]] | None = None

    def open_kinds(self, config: WorldConfig, world: World) -> tuple[list[Kind], list[int]]:
        if self.kinds is None:
            self.kinds = _open_kinds(config, world, self.role, self.entity)
        return self.kinds


def possible_actors(config: WorldConfig, world: World) -> list[Actor]:
    """Everyone to whom something can happen now."""
    return [
        actor
        for actor in _candidates(config, world)
        if world.sentences < config.always_open(actor.role) or actor.open_kinds(config, world)[0]
    ]


def _candidates(config: WorldConfig, world: World) -> list[Actor]:
    if not world.people:
        return [Actor("first", None, 1)]
    found = [Actor("person", who, _FOCUS if who is world.focus else _OTHER) for who in world.people]
    found += [Actor("animal", animal, _ANIMAL) for animal in world.animals]
    if world.last_pair and not any(entity.plural for entity in world.last_mentioned):
        found.append(Actor("pair", world.last_pair[0], _PAIR))
    if len(world.people) < config.max_people:
        found.append(Actor("newcomer", None, _NEWCOMER if len(world.people) == 1 else 2))
    if len(world.animals) < config.max_animals:
        found.append(Actor("new_animal", None, _NEW_ANIMAL))
    found.append(Actor("world", None, _WORLD))
    return found


def _open_kinds(
    config: WorldConfig, world: World, role: str, actor: Entity | None
) -> tuple[list[Kind], list[int]]:
    """The kinds of event that can happen to an actor now, with their weights."""
    kinds: list[Kind] = []
    weights: list[int] = []
    used, last = world.used_kinds, world.last_kind
    for kind, pool in config.kinds_for(role, world.facts(actor)):
        name = kind.name
        if name in used and (not kind.repeats or name == last):
            continue
        if pool and not _pool_left(config, world, pool):
            continue
        kinds.append(kind)
        weights.append(kind.weight * 6 if last in kind.after else kind.weight)
    return kinds, weights


def _pool_left(config: WorldConfig, world: World, pool: str) -> bool:
    """Whether the pool has a noun that the story has not used."""
    if pool == "person":
        nouns = config.people_pool(world.setting)
    elif pool == "animal":
        nouns = config.animal_pool(world.setting)
    elif len(world.things) < config.max_things:
        nouns = config.thing_pool(pool, world.setting)
    else:
        return False
    return len(nouns) > len(world.used) or any(noun not in world.used for noun in nouns)
