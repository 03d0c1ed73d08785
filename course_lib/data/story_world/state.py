"""What is true in the world: who and what there is, where, whose, and how they feel.

Nothing is decided before it is told: an entity enters the state with the sentence that names it, so the text
determines the state, and a story's probability is the probability of its text.
"""

from __future__ import annotations

from dataclasses import dataclass

from course_lib.data.story_world.lexicon import SETTINGS, Adjective, Noun

SOME = -1  # the count of a plural whose number is not told: "some coins"


@dataclass(eq=False, slots=True)
class Entity:
    """Somebody or something: what it is called (fixed once told), and its state (changed by events)."""

    identity: int
    type: str  # person, animal, thing, place or scenery
    noun: Noun
    adjective: Adjective | None = None
    count: int = 1
    place: Entity | None = None
    holder: Entity | None = None
    owner: Entity | None = None
    giver: Entity | None = None
    loser: Entity | None = None
    feeling: int = 0
    broken: bool = False
    mask: int = 0

    @property
    def plural(self) -> bool:
        return self.count != 1

    @property
    def pronoun(self) -> str:
        """The English pronoun: he, she, it or they."""
        if self.plural:
            return "they"
        return {"m": "he", "f": "she"}.get(self.noun.gender, "it")


class Bits(dict[str, int]):
    """Names of facts, each given the next free bit when first asked for."""

    def __missing__(self, name: str) -> int:
        self[name] = 1 << len(self)
        return self[name]


BITS = Bits()
_HELD = {
    name: BITS[f"held_{name}"]
    for name in (
        *("throw", "break", "food", "peel", "wash", "wear"),
        *("read", "play", "ride", "carry", "box", "phone"),
    )
}
_AT = {name: BITS[f"at_{name}"] for name in ["cook", "sleep", "tree", "shop", "indoors", "water", "grass"]}
_IN = {letter: BITS[f"in_{name}"] for letter, name in SETTINGS.items()}
_OTHER = BITS["other"] | BITS["acquaintance"]
_HELD_ANY, _BROKEN, _LOST, _BORROWED = BITS["held"], BITS["broken"], BITS["lost"], BITS["borrowed"]
_GIFT, _GIFT_OPPOSITE, _THEIRS = BITS["gift"], BITS["gift_opposite"], BITS["held_by_other"]
_THEIR_BROKEN, _LOOSE, _LOOSE_FOOD = BITS["broken_by_other"], BITS["loose"], BITS["loose_food"]
_KNOWN_THING, _PLACED, _VISITED, _SCENE = BITS["known_thing"], BITS["placed"], BITS["visited"], BITS["scene"]
_ANIMAL_HERE, _OTHER_ANIMAL, _PERSON_HERE = BITS["animal_here"], BITS["other_animal"], BITS["person_here"]
_GLAD, _SORRY, _ACQUAINTANCE = BITS["glad"], BITS["sorry"], BITS["acquaintance"]
_PEOPLE_LEFT, _ANIMALS_LEFT = BITS["people_left"], BITS["animals_left"]


def noun_mask(noun: Noun, entity_type: str) -> int:
    """The facts that follow from holding a thing of this noun, or from being at a place of it."""
    table = _HELD if entity_type == "thing" else _AT
    mask = 0
    for name in noun.classes:
        mask |= table.get(name, 0)
    return mask


class World:
    """The state of one story: its entities, what was mentioned last, which kinds of event happened."""

    def __init__(self, max_people: int, max_animals: int) -> None:
        self.max_people = max_people
        self.max_animals = max_animals
        self.people: list[Entity] = []
        self.animals: list[Entity] = []
        self.things: list[Entity] = []
        self.places: list[Entity] = []
        self.scenery: list[Entity] = []
        self.used: set[Noun] = set()
        self.used_kinds: set[str] = set()
        self.visited: dict[int, list[Entity]] = {}
        self.setting = ""
        self.scene: Entity | None = None
        self.focus: Entity | None = None
        self.last_mentioned: list[Entity] = []
        self.last_pair: tuple[Entity, ...] = ()
        self.last_kind = ""
        self.sentences = 0
        self.entity_count = 0

    def facts(self, actor: Entity | None) -> int:
        """The facts that hold for an actor (or, without one, of the scene) as a set of `BITS`."""
        mask = _IN[self.setting] if self.setting else 0
        if self.scene is not None:
            mask |= _SCENE
        if len(self.people) < self.max_people:
            mask |= _PEOPLE_LEFT
        if len(self.animals) < self.max_animals:
            mask |= _ANIMALS_LEFT
        if any(thing.place is not None for thing in self.things):
            mask |= _KNOWN_THING
        if actor is None or actor.place is None:
            return mask
        return mask | self._company(actor) | self._belongings(actor)

    def _company(self, actor: Entity) -> int:
        """Facts about where the actor is, how it feels and who is there."""
        place = actor.place
        assert place is not None
        mask = _PLACED | place.mask
        if len(self.visited.get(actor.identity, ())) > 1:
            mask |= _VISITED
        if actor.feeling:
            mask |= _GLAD if actor.feeling > 0 else _SORRY
        for person in self.people:
            if person is not actor:
                mask |= (_OTHER | _PERSON_HERE) if person.place is place else _ACQUAINTANCE
        for animal in self.animals:
            if animal is not actor and animal.place is place:
                mask |= _ANIMAL_HERE | _OTHER_ANIMAL
        return mask

    def _belongings(self, actor: Entity) -> int:
        """Facts about what the actor holds or lost, what the others here hold, and what lies about."""
        mask, place = 0, actor.place
        for thing in self.things:
            holder = thing.holder
            if holder is actor:
                mask |= self._held(actor, thing)
            elif holder is not None and holder.place is place:
                mask |= _THEIRS | (_THEIR_BROKEN if thing.broken else 0)
            elif thing.place is place:
                mask |= _LOOSE | (_LOOSE_FOOD if "food" in thing.noun.classes else 0)
            elif thing.loser is actor:
                mask |= _LOST
        return mask

    def _held(self, actor: Entity, thing: Entity) -> int:
        mask = _HELD_ANY | (_BROKEN if thing.broken else thing.mask)
        if thing.owner is not None and thing.owner.place is actor.place and thing.owner is not actor:
            mask |= _BORROWED
        giver = thing.giver
        if giver is not None and giver.noun.gender != actor.noun.gender:
            mask |= _GIFT_OPPOSITE
        if giver is not None and giver.place is actor.place:
            mask |= _GIFT
        return mask

    def introduce(self, entity: Entity) -> None:
        """Make an entity that a sentence has named part of the world."""
        lists = {
            "person": self.people,
            "animal": self.animals,
            "thing": self.things,
            "place": self.places,
            "scenery": self.scenery,
        }
        lists[entity.type].append(entity)
        self.used.add(entity.noun)
        self.entity_count = max(self.entity_count, entity.identity + 1)

    def apply(self, command: str, subject: Entity, other: Entity | None, amount: int = 0) -> None:
        """Make one effect of an event true; see `_EFFECTS`."""
        _EFFECTS[command](self, subject, other, amount)

    def move(self, who: Entity, place: Entity) -> None:
        who.place = place
        trail = self.visited.setdefault(who.identity, [])
        if place not in trail:
            trail.append(place)
        self.scene = place
        if not self.setting:
            self.setting = place.noun.settings[0]


def _at(world: World, who: Entity, place: Entity | None, amount: int) -> None:
    assert place is not None
    world.move(who, place)


def _hold(world: World, holder: Entity, thing: Entity | None, amount: int) -> None:
    assert thing is not None
    thing.holder, thing.place, thing.loser, thing.giver = holder, None, None, None
    if thing.owner is holder:
        thing.owner = None


def _leave(world: World, thing: Entity, place: Entity | None, amount: int) -> None:
    thing.holder, thing.place, thing.giver = None, place, None


def _lose(world: World, loser: Entity, thing: Entity | None, amount: int) -> None:
    assert thing is not None
    thing.holder, thing.place, thing.loser, thing.giver = None, None, loser, None


def _gone(world: World, thing: Entity, other: Entity | None, amount: int) -> None:
    thing.holder = thing.place = thing.loser = thing.giver = thing.owner = None


def _owner(world: World, thing: Entity, owner: Entity | None, amount: int) -> None:
    thing.owner = owner


def _owe(world: World, thing: Entity, owner: Entity | None, amount: int) -> None:
    """Taken or borrowed: it stays whose it was."""
    if thing.owner is None:
        thing.owner = owner


def _giver(world: World, thing: Entity, giver: Entity | None, amount: int) -> None:
    thing.giver = giver


def _break(world: World, thing: Entity, other: Entity | None, amount: int) -> None:
    thing.broken = True


def _repair(world: World, thing: Entity, other: Entity | None, amount: int) -> None:
    thing.broken = False


def _feel(world: World, who: Entity, other: Entity | None, amount: int) -> None:
    who.feeling = amount


_EFFECTS = {
    "at": _at,
    "hold": _hold,
    "leave": _leave,
    "lose": _lose,
    "gone": _gone,
    "owner": _owner,
    "owe": _owe,
    "giver": _giver,
    "break": _break,
    "repair": _repair,
    "feel": _feel,
}
