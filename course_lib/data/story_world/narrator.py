"""The narrator: chooses what happens next, and tells it in English, one word after another.

Every choice goes through a `Chooser`, so sampling, enumerating and scoring a story are this same code. A
choice is made only where the text shows it, which makes choices and texts one to one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from course_lib.data.story_world.chooser import Chooser
from course_lib.data.story_world.events import Kind, Token
from course_lib.data.story_world.lexicon import COUNT_WORDS, Adjective, Noun
from course_lib.data.story_world.state import SOME, Entity, World, noun_mask

if TYPE_CHECKING:
    from course_lib.data.story_world.config import WorldConfig

Value = Entity | Adjective
OPENERS = {
    "first": ("", "One morning ,", "One evening ,", "One day ,", "Yesterday ,"),
    "later": ("", "Then", "Later ,", "Soon", "After that ,"),
}
_OPENER_WEIGHTS = {"first": (6, 2, 2, 2, 1), "later": (28, 3, 2, 1, 1)}
_COUNTS = (1, 2, 3, 4, SOME)
_COUNT_WEIGHTS = (2, 1, 1, 2)  # of 2, 3, 4 and some, against 8 for one
PREPOSITIONS = frozenset({"to", "from", "with", "for", "at", "of"})
OBJECTIVE = {"he": "him", "she": "her", "it": "it", "they": "them"}
_POSSESSIVE = {"he": "his", "she": "her", "it": "its", "they": "their"}
_FOCUS, _OTHER, _PAIR, _ANIMAL, _NEWCOMER, _NEW_ANIMAL, _WORLD = 20, 12, 16, 5, 12, 1, 4


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


def tell_story(config: WorldConfig, chooser: Chooser) -> list[Told]:
    """A whole story, every choice of it left to `chooser`."""
    world = config.new_world()
    story: list[Told] = []
    while (told := tell_next(config, world, chooser, Words())) is not None:
        commit(world, told)
        story.append(told)
    return story


def tell_next(
    config: WorldConfig, world: World, chooser: Chooser, words: Words, actors: list[Actor] | None = None
) -> Told | None:
    """The next sentence, or None where the story ends. Changes nothing: `commit` does.

    `actors` saves finding `possible_actors(config, world)` again where one state is left many times.
    """
    actors = possible_actors(config, world) if actors is None else actors
    end = config.end_weight(world.sentences)
    if not actors or end is None:
        return None
    index = chooser.weighted([end, *(actor.weight for actor in actors)])
    if not index:
        return None
    told = _choose_kind(config, world, chooser, words, actors[index - 1])
    if told.actor is not None:
        told.values["A"] = told.actor
    if told.kind.actor == "pair":
        told.values["A"], told.values["B"] = world.last_pair
    _tell(_Scene(config, world, told, chooser))
    return told


def _choose_kind(config: WorldConfig, world: World, chooser: Chooser, words: Words, actor: Actor) -> Told:
    """What the actor does; before it, in the order of the text, what the sentence opens with."""
    kinds, weights = actor.open_kinds(config, world)
    openers, opener = "later" if world.sentences else "first", 0
    if config.openers and any(kind.opener for kind in kinds):
        opener = chooser.weighted(_OPENER_WEIGHTS[openers])
    if opener:
        for word in OPENERS[openers][opener].split():
            words.append(word)
        weights = [weight if kind.opener else 0 for kind, weight in zip(kinds, weights, strict=True)]
    told = Told(kinds[chooser.weighted(weights)], actor.entity, {}, words, opener, openers)
    told.keys.extend(["opener"] * len(words))
    return told


def commit(world: World, told: Told) -> None:
    """Make what a sentence told part of the world."""
    for entity in told.new:
        world.introduce(entity)
    for command in told.kind.effects:
        _apply(world, told, command)
    world.last_kind = told.kind.name
    world.used_kinds.add(told.kind.name)
    world.last_mentioned = [entity for mention in told.mentions for entity in mention.entities]
    world.last_pair = next((m.entities for m in told.mentions if len(m.entities) == 2), ())
    if told.actor is not None and told.actor.type == "person":
        world.focus = told.actor
        world.scene = told.actor.place or world.scene
    world.sentences += 1


def _apply(world: World, told: Told, command: tuple[str, ...]) -> None:
    name, subject = command[0], told.entity(command[1])
    other: Entity | None = None
    amount = 0
    if name == "feel":
        amount = int(command[2])
    elif name == "word":
        adjective = told.values[command[2]]
        assert isinstance(adjective, Adjective)
        name, amount = "feel", ("glad" in adjective.classes) - ("sorry" in adjective.classes)
    elif len(command) > 2:
        other = told.entity(command[2])
    world.apply(name, subject, other, amount)
    told.effects.append((name, subject, other, amount))


# Who acts, and what they do


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


# Who and what takes part. Number, adjective and noun are chosen in the order in which English says them.


def _new_entity(world: World, told: Told, entity_type: str, noun: Noun) -> Entity:
    entity = Entity(world.entity_count + len(told.new), entity_type, noun)
    entity.mask = noun_mask(noun, entity_type)
    told.new.append(entity)
    return entity


def _new_person(scene: _Scene) -> Entity:
    config, world, chooser = scene.config, scene.world, scene.chooser
    pool = [noun for noun in config.people_pool(world.setting) if noun not in world.used]
    names = [noun for noun in pool if noun.is_name]
    roles = [noun for noun in pool if not noun.is_name]
    if chooser.weighted((4 * len(names), len(roles))) == 0:
        return _new_entity(world, scene.told, "person", names[chooser.uniform(len(names))])
    return _described(scene, "person", roles, config.adjectives_of("role"))


def _new_animal(scene: _Scene) -> Entity:
    pool = [n for n in scene.config.animal_pool(scene.world.setting) if n not in scene.world.used]
    return _described(scene, "animal", pool, scene.config.adjectives_of("animal"))


def _described(
    scene: _Scene, entity_type: str, nouns: list[Noun], adjectives: tuple[Adjective, ...]
) -> Entity:
    """A new entity with an adjective or, half of the time, none."""
    adjective = None
    if adjectives:
        index = scene.chooser.weighted([len(adjectives), *[1] * len(adjectives)])
        adjective = adjectives[index - 1] if index else None
    scene.announce(1, adjective)
    entity = _new_entity(scene.world, scene.told, entity_type, nouns[scene.chooser.uniform(len(nouns))])
    entity.adjective = adjective
    return entity


def _new_thing(scene: _Scene, use: str) -> Entity:
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
    thing = _new_entity(world, scene.told, "thing", noun)
    thing.count, thing.adjective = count, adjective
    return thing


def _new_count(config: WorldConfig, chooser: Chooser, pool: list[Noun]) -> int:
    """One, or several of what comes in numbers."""
    many = sum("many" in noun.classes for noun in pool) if config.plurals else 0
    return _COUNTS[chooser.weighted([8 * len(pool), *(many * weight for weight in _COUNT_WEIGHTS)])]


def _place(world: World, told: Told, noun: Noun, entity_type: str = "place") -> Entity:
    """The entity of a place: the known one, or a new one."""
    for known in world.scenery if entity_type == "scenery" else world.places:
        if known.noun is noun:
            return known
    return _new_entity(world, told, entity_type, noun)


class _Scene(NamedTuple):
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
        words = [_indefinite(count, adjective.lemma if adjective else "")]
        if adjective is not None:
            words.append(adjective.lemma)
        told.words.announce(words if told.words else [words[0].capitalize(), *words[1:]])

    def pick(self, candidates: Sequence[Entity]) -> Entity:
        return candidates[self.chooser.uniform(len(candidates))]

    def pick_new(self, entity_type: str, nouns: Sequence[Noun]) -> Entity:
        noun = nouns[self.chooser.uniform(len(nouns))]
        return _new_entity(self.world, self.told, entity_type, noun)

    @property
    def actor(self) -> Entity:
        assert self.told.actor is not None
        return self.told.actor

    def others(self) -> list[Entity]:
        actor = self.actor
        return [who for who in self.world.people if who is not actor and who.place is actor.place]


def _rule_start(scene: _Scene, use: str) -> Entity:
    nouns, weights = scene.config.start_places
    return _place(scene.world, scene.told, nouns[scene.chooser.weighted(weights)])


def _rule_scene(scene: _Scene, use: str) -> Entity:
    assert scene.world.scene is not None
    return scene.world.scene


def _rule_here(scene: _Scene, use: str) -> Entity:
    assert scene.actor.place is not None
    return scene.actor.place


def _rule_place(scene: _Scene, use: str) -> Entity:
    """Another place of the story's setting."""
    here = scene.actor.place.noun if scene.actor.place else None
    nouns = [noun for noun in scene.config.places_of(scene.world.setting) if noun is not here]
    return _place(scene.world, scene.told, nouns[scene.chooser.uniform(len(nouns))])


def _rule_visited(scene: _Scene, use: str) -> Entity:
    trail = scene.world.visited[scene.actor.identity]
    return scene.pick([place for place in trail if place is not scene.actor.place])


def _rule_bank(letter: str) -> Callable[[_Scene, str], Entity]:
    def rule(scene: _Scene, use: str) -> Entity:
        return _place(scene.world, scene.told, scene.config.bank(letter))

    return rule


def _rule_scenery(scene: _Scene, use: str) -> Entity:
    nouns = scene.config.scenery_of(use)
    return _place(scene.world, scene.told, nouns[scene.chooser.uniform(len(nouns))], "scenery")


def _rule_other(scene: _Scene, use: str) -> Entity:
    return scene.pick(scene.others())


def _rule_person_here(scene: _Scene, use: str) -> Entity:
    return scene.pick(scene.others())


def _rule_acquaintance(scene: _Scene, use: str) -> Entity:
    return scene.pick([who for who in scene.world.people if who is not scene.actor])


def _rule_new_person(scene: _Scene, use: str) -> Entity:
    return _new_person(scene)


def _rule_new_animal(scene: _Scene, use: str) -> Entity:
    return _new_animal(scene)


def _rule_animal_here(scene: _Scene, use: str) -> Entity:
    actor = scene.actor
    return scene.pick([a for a in scene.world.animals if a is not actor and a.place is actor.place])


def _rule_new(scene: _Scene, use: str) -> Entity:
    return _new_thing(scene, use)


def _rule_plain(scene: _Scene, use: str) -> Entity:
    """One new thing without an adjective."""
    pool = scene.config.thing_pool(use, scene.world.setting)
    return scene.pick_new("thing", [noun for noun in pool if noun not in scene.world.used])


def _rule_own(scene: _Scene, use: str) -> Entity:
    """A thing of the actor's, not heard of before: "her key"."""
    thing = _rule_plain(scene, use)
    scene.told.owned["T"] = scene.actor
    return thing


def _rule_held(scene: _Scene, use: str) -> Entity:
    held = [thing for thing in scene.world.things if thing.holder is scene.actor]
    if use:
        held = [thing for thing in held if use in thing.noun.classes and not thing.broken]
    return scene.pick(held)


def _rule_broken(scene: _Scene, use: str) -> Entity:
    return scene.pick([t for t in scene.world.things if t.holder is scene.actor and t.broken])


def _rule_loose(scene: _Scene, use: str) -> Entity:
    loose = [thing for thing in scene.world.things if thing.place is scene.actor.place]
    return scene.pick([thing for thing in loose if not use or use in thing.noun.classes])


def _rule_lost(scene: _Scene, use: str) -> Entity:
    return scene.pick([thing for thing in scene.world.things if thing.loser is scene.actor])


def _rule_borrowed(scene: _Scene, use: str) -> Entity:
    others = scene.others()
    held = [thing for thing in scene.world.things if thing.holder is scene.actor]
    return scene.pick([thing for thing in held if any(thing.owner is who for who in others)])


def _rule_gift(scene: _Scene, use: str) -> Entity:
    others = scene.others()
    held = [thing for thing in scene.world.things if thing.holder is scene.actor]
    return scene.pick([thing for thing in held if any(thing.giver is who for who in others)])


def _rule_gift_opposite(scene: _Scene, use: str) -> Entity:
    gender = scene.actor.noun.gender
    held = [thing for thing in scene.world.things if thing.holder is scene.actor and thing.giver is not None]
    return scene.pick([thing for thing in held if thing.giver and thing.giver.noun.gender != gender])


def _rule_held_by_other(scene: _Scene, use: str) -> Entity:
    others = scene.others()
    return scene.pick([t for t in scene.world.things if any(t.holder is who for who in others)])


def _rule_broken_by_other(scene: _Scene, use: str) -> Entity:
    others = scene.others()
    return scene.pick([t for t in scene.world.things if t.broken and any(t.holder is who for who in others)])


def _rule_known_thing(scene: _Scene, use: str) -> Entity:
    return scene.pick([thing for thing in scene.world.things if thing.place is not None])


def _related(name: str) -> Callable[[_Scene, str], Entity]:
    """A rule that follows from another slot: its holder, owner, giver or place."""

    def rule(scene: _Scene, use: str) -> Entity:
        thing = _bind(scene, use)
        found = getattr(thing, name)
        assert isinstance(found, Entity)
        return found

    return rule


def _rule_adjective(scene: _Scene, use: str) -> Adjective:
    pool = scene.config.adjectives_of(use)
    return pool[scene.chooser.uniform(len(pool))]


def _rule_too(scene: _Scene, use: str) -> Adjective:
    """What may be wrong with the thing that is to be crossed."""
    pool = scene.config.adjectives_too(scene.told.entity(use).noun)
    return pool[scene.chooser.uniform(len(pool))]


RULES: dict[str, Callable[[_Scene, str], Value]] = {
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


# How it is told


def _tell(scene: _Scene) -> None:
    """Walk the English template, binding each slot where it is first needed."""
    told = scene.told
    for token in told.kind.english_tokens:
        if token.slot:
            told.slot_is_next = not token.form
            _tell_slot(scene, token)
        else:
            told.slot_is_next = False
            _say(told, _agreed(scene, token), token.key)
    _say(told, ".", "end")


def _say(told: Told, word: str, key: str) -> None:
    words = told.words
    words.append(word if words else word[0].upper() + word[1:])
    told.keys.append(key)


def _bind(scene: _Scene, slot: str) -> Value:
    values = scene.told.values
    if slot == "A" and slot not in values:
        new = _new_animal if scene.told.kind.actor == "new_animal" else _new_person
        values["A"] = scene.told.actor = new(scene)
    elif slot not in values:
        rule, _, use = scene.told.kind.rules[slot].partition(":")
        values[slot] = RULES[rule](scene, use)
    return values[slot]


WAS = {"was": "were", "is": "are"}


def _agreed(scene: _Scene, token: Token) -> str:
    if not token.agree:
        return token.word
    value = _bind(scene, token.agree)
    return WAS[token.word] if isinstance(value, Entity) and value.plural else token.word


def _tell_slot(scene: _Scene, token: Token) -> None:
    told = scene.told
    if token.slot == "AB":
        _tell_pair(scene)
        return
    value = _bind(scene, token.slot)
    if isinstance(value, Adjective):
        _say(told, value.lemma, token.slot)
        return
    if token.form == "in" and _is_there(scene, token.slot, value):
        told.mentions.append(Mention(token.slot, (value,), "there", len(told.words), len(told.words) + 1))
        _say(told, "there", f"{token.slot}.noun")
        return
    if token.form in PREPOSITIONS or token.form == "in":
        preposition = value.noun.preposition if token.form == "in" else token.form
        _say(told, preposition, f"{token.slot}.prep")
    _mention(scene, token.slot, value, token.form)


def _is_there(scene: _Scene, slot: str, place: Entity) -> bool:
    """Whether the actor's place is told as "there": the last sentence named it, and no other place."""
    told = scene.told
    if told.kind.rules[slot] not in ("here", "scene") or told.kind.actor in ("world", "animal"):
        return False
    if [e for e in scene.world.last_mentioned if e.type == "place"] != [place]:
        return False
    return scene.chooser.weighted((3, 1)) == 0


def _tell_pair(scene: _Scene) -> None:
    """Two people as one subject: "Anna and Tom", or "they" for the pair of the last sentence."""
    told = scene.told
    other = _bind(scene, "B")
    assert isinstance(other, Entity)
    people = (scene.actor, other)
    if told.kind.actor == "pair":
        told.mentions.append(Mention("AB", people, "pronoun", len(told.words), len(told.words) + 1))
        _say(told, "they", "AB")
        return
    start = len(told.words)
    _mention(scene, "A", people[0], "full")
    _say(told, "and", "AB.and")
    _mention(scene, "B", people[1], "full")
    told.mentions.append(Mention("AB", people, "pair", start, len(told.words)))


def _mention(scene: _Scene, slot: str, entity: Entity, form: str) -> None:
    """Name an entity, by the form the template forces or else by one that a reader can resolve."""
    told = scene.told
    start = len(told.words)
    mention = _mention_form(scene, slot, entity, form)
    if mention == "pronoun":
        nominative = form == "pro" or (slot == "A" and not form)
        key = f"{slot}.again" if form in ("pro", "her") else f"{slot}.noun"
        _say(told, entity.pronoun if nominative else OBJECTIVE[entity.pronoun], key)
    else:
        _say_noun_phrase(told, slot, entity, mention)
    if mention == "possessed":
        told.mentions.append(Mention(f"{slot}.owner", (told.owned[slot],), "possessive", start, start + 1))
    told.mentions.append(Mention(slot, (entity,), mention, start, len(told.words)))


def _mention_form(scene: _Scene, slot: str, entity: Entity, form: str) -> str:
    told = scene.told
    if form in ("pro", "her"):
        return "pronoun"
    if entity.type in ("place", "scenery"):
        return "definite"
    if slot in told.owned:
        return "possessed"
    named = entity.noun.is_name
    if entity in told.new:
        return "name" if named else "indefinite"
    clear = form != "full" and pronoun_is_clear(scene.world, told, entity)
    if clear and scene.chooser.weighted((3, 1)) == 0:
        return "pronoun"
    return "name" if named else "definite"


def pronoun_is_clear(world: World, told: Told, entity: Entity) -> bool:
    """Whether a pronoun can only mean this entity.

    It was mentioned in the sentence before or earlier in this one, and nobody and nothing else there shares
    its pronoun. Places and scenery are never called by a pronoun here, so they do not compete.
    """
    recent = [e for mention in told.mentions for e in mention.entities] + world.last_mentioned
    if entity not in recent:
        return False
    pronoun = entity.pronoun
    if pronoun == "they" and world.last_pair:
        return False
    return all(
        other is entity or other.type in ("place", "scenery") or other.pronoun != pronoun for other in recent
    )


def _say_noun_phrase(told: Told, slot: str, entity: Entity, form: str) -> None:
    for word, key in noun_phrase(entity, form, slot, told.owned.get(slot)):
        _say(told, word, key)


def noun_phrase(entity: Entity, form: str, slot: str, owner: Entity | None = None) -> list[tuple[str, str]]:
    """The English words for an entity in a form (name, possessed, definite, indefinite), with their keys."""
    noun, key = entity.noun, f"{slot}.noun"
    if form == "name":
        return [(noun.lemma, key)]
    words = (noun.plural if entity.plural else noun.lemma).split()
    adjective = entity.adjective.lemma if entity.adjective and form == "indefinite" else ""
    if form == "possessed" and owner is not None:
        determiner = _POSSESSIVE[owner.pronoun]
    elif form == "definite":
        determiner = "the"
    else:
        determiner = _indefinite(entity.count, adjective or words[0])
    found = [(determiner, f"{slot}.det"), *((word, key) for word in words)]
    if adjective:
        found.insert(1, (adjective, f"{slot}.adj"))
    return found


def name_of(entity: Entity) -> str:
    """What a question calls an entity that the story has named: `Anna`, `the ball`."""
    words = entity.noun.plural if entity.plural else entity.noun.lemma
    return words if entity.noun.is_name else f"the {words}"


def _indefinite(count: int, following: str) -> str:
    if count == SOME:
        return "some"
    if count > 1:
        return COUNT_WORDS[count][0]
    return "an" if following[0] in "aeiouAEIOU" else "a"
