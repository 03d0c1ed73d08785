"""The narrator: chooses what happens next, and tells it in English, one word after another.

Every choice goes through a `Chooser`, so sampling, enumerating and scoring a story are this same code. A
choice is made only where the text shows it, which makes choices and texts one to one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from course_lib.data.story_world.actors import Actor, possible_actors
from course_lib.data.story_world.casting import bind
from course_lib.data.story_world.chooser import Chooser
from course_lib.data.story_world.english import OBJECTIVE, OPENERS, PREPOSITIONS, WAS, noun_phrase
from course_lib.data.story_world.events import Token
from course_lib.data.story_world.lexicon import Adjective
from course_lib.data.story_world.state import Entity, World
from course_lib.data.story_world.telling import Mention, Scene, Told, Words

if TYPE_CHECKING:
    from course_lib.data.story_world.config import WorldConfig

_OPENER_WEIGHTS = {"first": (6, 2, 2, 2, 1), "later": (28, 3, 2, 1, 1)}


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
    tell(Scene(config, world, told, chooser))
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


# How it is told


def tell(scene: Scene) -> None:
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


def _agreed(scene: Scene, token: Token) -> str:
    if not token.agree:
        return token.word
    value = bind(scene, token.agree)
    return WAS[token.word] if isinstance(value, Entity) and value.plural else token.word


def _tell_slot(scene: Scene, token: Token) -> None:
    told = scene.told
    if token.slot == "AB":
        _tell_pair(scene)
        return
    value = bind(scene, token.slot)
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


def _is_there(scene: Scene, slot: str, place: Entity) -> bool:
    """Whether the actor's place is told as "there": the last sentence named it, and no other place."""
    told = scene.told
    if told.kind.rules[slot] not in ("here", "scene") or told.kind.actor in ("world", "animal"):
        return False
    if [e for e in scene.world.last_mentioned if e.type == "place"] != [place]:
        return False
    return scene.chooser.weighted((3, 1)) == 0


def _tell_pair(scene: Scene) -> None:
    """Two people as one subject: "Anna and Tom", or "they" for the pair of the last sentence."""
    told = scene.told
    other = bind(scene, "B")
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


def _mention(scene: Scene, slot: str, entity: Entity, form: str) -> None:
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


def _mention_form(scene: Scene, slot: str, entity: Entity, form: str) -> str:
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
