"""Who and what takes part in an event: the rules that the slots of `kinds` name.

A new entity's number, adjective and noun are chosen in the order in which English says them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from course_lib.data.story_world.chooser import Chooser
from course_lib.data.story_world.lexicon import Adjective, Noun
from course_lib.data.story_world.state import SOME, Entity
from course_lib.data.story_world.telling import Scene, Value

if TYPE_CHECKING:
    from course_lib.data.story_world.config import WorldConfig

_COUNTS = (1, 2, 3, 4, SOME)
_COUNT_WEIGHTS = (2, 1, 1, 2)  # of 2, 3, 4 and some, against 8 for one


def bind(scene: Scene, slot: str) -> Value:
    """Who or what fills a slot, found by the slot's rule when it is first asked for."""
    values = scene.told.values
    if slot == "A" and slot not in values:
        new = _new_animal if scene.told.kind.actor == "new_animal" else _new_person
        values["A"] = scene.told.actor = new(scene)
    elif slot not in values:
        rule, _, use = scene.told.kind.rules[slot].partition(":")
        values[slot] = RULES[rule](scene, use)
    return values[slot]


def _new_person(scene: Scene) -> Entity:
    config, world, chooser = scene.config, scene.world, scene.chooser
    pool = [noun for noun in config.people_pool(world.setting) if noun not in world.used]
    names = [noun for noun in pool if noun.is_name]
    roles = [noun for noun in pool if not noun.is_name]
    if chooser.weighted((4 * len(names), len(roles))) == 0:
        return scene.new_entity("person", names[chooser.uniform(len(names))])
    return _described(scene, "person", roles, config.adjectives_of("role"))


def _new_animal(scene: Scene) -> Entity:
    pool = [n for n in scene.config.animal_pool(scene.world.setting) if n not in scene.world.used]
    return _described(scene, "animal", pool, scene.config.adjectives_of("animal"))


def _described(
    scene: Scene, entity_type: str, nouns: list[Noun], adjectives: tuple[Adjective, ...]
) -> Entity:
    """A new entity with an adjective or, half of the time, none."""
    adjective = None
    if adjectives:
        index = scene.chooser.weighted([len(adjectives), *[1] * len(adjectives)])
        adjective = adjectives[index - 1] if index else None
    scene.announce(1, adjective)
    entity = scene.new_entity(entity_type, nouns[scene.chooser.uniform(len(nouns))])
    entity.adjective = adjective
    return entity


def _new_thing(scene: Scene, use: str) -> Entity:
    config, world, chooser = scene.config, scene.world, scene.chooser
    pool = [noun for noun in config.thing_pool(use, world.setting) if noun not in world.used]
    count = _new_count(config, chooser, pool) if use != "box" else 1
    if count != 1:
        pool = [noun for noun in pool if "many" in noun.classes]
        scene.announce(count, None)
    options, weights = config.adjectives_for(pool)
    adjective = options[chooser.weighted(weights)]
    if adjective is not None:
        pool = [noun for noun in pool if adjective in config.adjectives_of_noun(noun)]
        scene.announce(count, adjective)
    noun = pool[chooser.weighted([noun.weight for noun in pool])]
    thing = scene.new_entity("thing", noun)
    thing.count, thing.adjective = count, adjective
    return thing


def _new_count(config: WorldConfig, chooser: Chooser, pool: list[Noun]) -> int:
    """One, or several of what comes in numbers."""
    many = sum("many" in noun.classes for noun in pool) if config.plurals else 0
    return _COUNTS[chooser.weighted([8 * len(pool), *(many * weight for weight in _COUNT_WEIGHTS)])]


def _place(scene: Scene, noun: Noun, entity_type: str = "place") -> Entity:
    """The entity of a place: the known one, or a new one."""
    for known in scene.world.scenery if entity_type == "scenery" else scene.world.places:
        if known.noun is noun:
            return known
    return scene.new_entity(entity_type, noun)


def _rule_start(scene: Scene, use: str) -> Entity:
    nouns, weights = scene.config.start_places
    return _place(scene, nouns[scene.chooser.weighted(weights)])


def _rule_scene(scene: Scene, use: str) -> Entity:
    assert scene.world.scene is not None
    return scene.world.scene


def _rule_here(scene: Scene, use: str) -> Entity:
    assert scene.actor.place is not None
    return scene.actor.place


def _rule_place(scene: Scene, use: str) -> Entity:
    """Another place of the story's setting."""
    here = scene.actor.place.noun if scene.actor.place else None
    nouns = [noun for noun in scene.config.places_of(scene.world.setting) if noun is not here]
    return _place(scene, nouns[scene.chooser.uniform(len(nouns))])


def _rule_visited(scene: Scene, use: str) -> Entity:
    trail = scene.world.visited[scene.actor.identity]
    return scene.pick([place for place in trail if place is not scene.actor.place])


def _rule_bank(letter: str) -> Callable[[Scene, str], Entity]:
    def rule(scene: Scene, use: str) -> Entity:
        return _place(scene, scene.config.bank(letter))

    return rule


def _rule_scenery(scene: Scene, use: str) -> Entity:
    nouns = scene.config.scenery_of(use)
    return _place(scene, nouns[scene.chooser.uniform(len(nouns))], "scenery")


def _rule_other(scene: Scene, use: str) -> Entity:
    return scene.pick(scene.others())


def _rule_person_here(scene: Scene, use: str) -> Entity:
    return scene.pick(scene.others())


def _rule_acquaintance(scene: Scene, use: str) -> Entity:
    return scene.pick([who for who in scene.world.people if who is not scene.actor])


def _rule_new_person(scene: Scene, use: str) -> Entity:
    return _new_person(scene)


def _rule_new_animal(scene: Scene, use: str) -> Entity:
    return _new_animal(scene)


def _rule_animal_here(scene: Scene, use: str) -> Entity:
    actor = scene.actor
    return scene.pick([a for a in scene.world.animals if a is not actor and a.place is actor.place])


def _rule_new(scene: Scene, use: str) -> Entity:
    return _new_thing(scene, use)


def _rule_plain(scene: Scene, use: str) -> Entity:
    """One new thing without an adjective."""
    pool = scene.config.thing_pool(use, scene.world.setting)
    return scene.pick_new("thing", [noun for noun in pool if noun not in scene.world.used])


def _rule_own(scene: Scene, use: str) -> Entity:
    """A thing of the actor's, not heard of before: "her key"."""
    thing = _rule_plain(scene, use)
    scene.told.owned["T"] = scene.actor
    return thing


def _rule_held(scene: Scene, use: str) -> Entity:
    held = [thing for thing in scene.world.things if thing.holder is scene.actor]
    if use:
        held = [thing for thing in held if use in thing.noun.classes and not thing.broken]
    return scene.pick(held)


def _rule_broken(scene: Scene, use: str) -> Entity:
    return scene.pick([t for t in scene.world.things if t.holder is scene.actor and t.broken])


def _rule_loose(scene: Scene, use: str) -> Entity:
    loose = [thing for thing in scene.world.things if thing.place is scene.actor.place]
    return scene.pick([thing for thing in loose if not use or use in thing.noun.classes])


def _rule_lost(scene: Scene, use: str) -> Entity:
    return scene.pick([thing for thing in scene.world.things if thing.loser is scene.actor])


def _rule_borrowed(scene: Scene, use: str) -> Entity:
    others = scene.others()
    held = [thing for thing in scene.world.things if thing.holder is scene.actor]
    return scene.pick([thing for thing in held if any(thing.owner is who for who in others)])


def _rule_gift(scene: Scene, use: str) -> Entity:
    others = scene.others()
    held = [thing for thing in scene.world.things if thing.holder is scene.actor]
    return scene.pick([thing for thing in held if any(thing.giver is who for who in others)])


def _rule_gift_opposite(scene: Scene, use: str) -> Entity:
    gender = scene.actor.noun.gender
    held = [thing for thing in scene.world.things if thing.holder is scene.actor and thing.giver is not None]
    return scene.pick([thing for thing in held if thing.giver and thing.giver.noun.gender != gender])


def _rule_held_by_other(scene: Scene, use: str) -> Entity:
    others = scene.others()
    return scene.pick([t for t in scene.world.things if any(t.holder is who for who in others)])


def _rule_broken_by_other(scene: Scene, use: str) -> Entity:
    others = scene.others()
    return scene.pick([t for t in scene.world.things if t.broken and any(t.holder is who for who in others)])


def _rule_known_thing(scene: Scene, use: str) -> Entity:
    return scene.pick([thing for thing in scene.world.things if thing.place is not None])


def _related(name: str) -> Callable[[Scene, str], Entity]:
    """A rule that follows from another slot: its holder, owner, giver or place."""

    def rule(scene: Scene, use: str) -> Entity:
        thing = bind(scene, use)
        found = getattr(thing, name)
        assert isinstance(found, Entity)
        return found

    return rule


def _rule_adjective(scene: Scene, use: str) -> Adjective:
    pool = scene.config.adjectives_of(use)
    return pool[scene.chooser.uniform(len(pool))]


def _rule_too(scene: Scene, use: str) -> Adjective:
    """What may be wrong with the thing that is to be crossed."""
    pool = scene.config.adjectives_too(scene.told.entity(use).noun)
    return pool[scene.chooser.uniform(len(pool))]


RULES: dict[str, Callable[[Scene, str], Value]] = {
    "start": _rule_start,
    "scene": _rule_scene,
    "here": _rule_here,
    "place": _rule_place,
    "visited": _rule_visited,
    "river_bank": _rule_bank("r"),
    "money_bank": _rule_bank("t"),
    "scenery": _rule_scenery,
    "other": _rule_other,
    "person_here": _rule_person_here,
    "acquaintance": _rule_acquaintance,
    "new_person": _rule_new_person,
    "new_animal": _rule_new_animal,
    "animal_here": _rule_animal_here,
    "other_animal": _rule_animal_here,
    "new": _rule_new,
    "plain": _rule_plain,
    "own": _rule_own,
    "held": _rule_held,
    "broken": _rule_broken,
    "loose": _rule_loose,
    "lost": _rule_lost,
    "borrowed": _rule_borrowed,
    "gift": _rule_gift,
    "gift_opposite": _rule_gift_opposite,
    "held_by_other": _rule_held_by_other,
    "broken_by_other": _rule_broken_by_other,
    "known_thing": _rule_known_thing,
    "holder": _related("holder"),
    "owner": _related("owner"),
    "giver": _related("giver"),
    "place_of": _related("place"),
    "adjective": _rule_adjective,
    "too": _rule_too,
}
