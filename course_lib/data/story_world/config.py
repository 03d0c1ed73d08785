"""How large a world is: which people, things, places and events it has, and how long its stories are."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

from course_lib.data.story_world import lexicon
from course_lib.data.story_world.events import KINDS, Kind
from course_lib.data.story_world.lexicon import Adjective, Noun
from course_lib.data.story_world.state import BITS, World

# A story is about as often set by the river or in town as at home: both banks are met often.
_START_WEIGHTS = {"h": 3, "t": 4, "f": 4, "r": 8, "s": 4, "w": 4, "b": 4}


@dataclass(frozen=True)
class WorldConfig:
    """The world's size. Every `None` means all that there is; the names are lemmas and kinds of event.

    Stories have `min_sentences` to `max_sentences` sentences; once it may end, each further
    sentence adds `end_weight_step` to the weight of the end, against about fifty for going on.
    """

    people: tuple[str, ...] | None = None
    animals: tuple[str, ...] | None = None
    things: tuple[str, ...] | None = None
    places: tuple[str, ...] | None = None
    adjectives: tuple[str, ...] | None = None
    kinds: tuple[str, ...] | None = None
    min_sentences: int = 4
    max_sentences: int = 12
    end_weight_step: int = 4
    max_people: int = 3
    max_animals: int = 2
    max_things: int = 4
    plurals: bool = True
    openers: bool = True
    _tables: dict[object, object] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not 1 <= self.min_sentences <= self.max_sentences:
            raise ValueError(
                f"min_sentences={self.min_sentences}, max_sentences={self.max_sentences}: "
                "give 1 <= min_sentences <= max_sentences"
            )
        for given, known, what in self._named():
            unknown = sorted(set(given or ()) - known)
            if unknown:
                raise ValueError(f"no such {what} in the world: {', '.join(unknown)}; see `vocabulary()`")

        beginnings: dict[str, tuple[object, ...]] = {
            "a person": self.people_pool(""),
            "a place": self.start_places[0],
        }
        beginnings["a kind of event to begin with (be, visit, wait)"] = self._kind_table("first")
        for what, found in beginnings.items():
            if not found:
                raise ValueError(f"no story can begin in this world: it lacks {what}")

    def _named(self) -> tuple[tuple[tuple[str, ...] | None, set[str], str], ...]:
        return (
            (self.people, {n.lemma for n in (*lexicon.NAMES, *lexicon.ROLES)}, "person"),
            (self.animals, {n.lemma for n in lexicon.ANIMALS}, "animal"),
            (self.things, {n.lemma for n in lexicon.THINGS}, "thing"),
            (self.places, {n.lemma for n in lexicon.PLACES}, "place"),
            (self.adjectives, {a.lemma for a in lexicon.ADJECTIVES}, "adjective"),
            (self.kinds, {k.name for k in KINDS}, "kind of event"),
        )

    @classmethod
    def small(cls) -> WorldConfig:
        """A world so small that all its stories can be listed."""
        return cls(
            people=("Anna", "Tom"),
            animals=("dog",),
            things=("ball", "apple"),
            places=("kitchen", "garden"),
            adjectives=("red", "happy", "tired"),
            kinds=(
                *("be", "come", "go", "find", "give", "lose", "pick_fruit", "feel_glad", "sing", "hug"),
                *("run_up", "animal_run", "chased_by", "rain"),
            ),
            min_sentences=2,
            max_sentences=3,
            max_people=2,
            max_animals=1,
            max_things=1,
            plurals=False,
            openers=False,
        )

    def new_world(self) -> World:
        return World(self.max_people, self.max_animals)

    def end_weight(self, sentences: int) -> int | None:
        """The weight of ending after so many sentences; None where the story must end."""
        if sentences >= self.max_sentences:
            return None
        return max(0, sentences - self.min_sentences + 1) * self.end_weight_step

    # The tables below are made when first asked for, and kept: the narrator asks for them at every sentence.

    def kinds_for(self, role: str, facts: int) -> tuple[tuple[Kind, str], ...]:
        """The kinds open to a role (person, animal, …) given the facts, each with the pool it draws on."""
        found = self._tables.get((role, facts))
        if found is None:
            found = self._tables[(role, facts)] = tuple(
                (kind, pool) for kind, mask, pool in self._kind_table(role) if not mask & ~facts
            )
        return found  # type: ignore[return-value]

    def _kind_table(self, role: str) -> tuple[tuple[Kind, int, str], ...]:
        found = self._tables.get(role)
        if found is None:
            chosen = [k for k in KINDS if k.actor == role and (self.kinds is None or k.name in self.kinds)]
            found = self._tables[role] = tuple(
                (kind, sum(BITS[name] for name in set(kind.needs)), _pool_of(kind))
                for kind in chosen
                if self._words_for(kind)
            )
        return found  # type: ignore[return-value]

    def _words_for(self, kind: Kind) -> bool:
        """Whether this world has the adjectives and the places that a kind cannot do without."""
        for _, rule in kind.slots:
            name, _, use = rule.partition(":")
            if name == "adjective" and not self.adjectives_of(use):
                return False
            if name == "too" and not all(self.adjectives_too(noun) for noun in self.scenery_of("barrier")):
                return False
            if name == "place" and any(len(self.places_of(s)) < 2 for s in self._settings()):
                return False
        return True

    def _settings(self) -> set[str]:
        return {noun.settings for noun in self.start_places[0]}

    @property
    def start_places(self) -> tuple[tuple[Noun, ...], tuple[int, ...]]:
        found = self._tables.get("start")
        if found is None:
            nouns = tuple(p for p in lexicon.PLACES if self.places is None or p.lemma in self.places)
            found = self._tables["start"] = (nouns, tuple(_START_WEIGHTS[p.settings] for p in nouns))
        return found  # type: ignore[return-value]

    def places_of(self, setting: str) -> tuple[Noun, ...]:
        return self._filtered(("place", setting), lexicon.PLACES, self.places, setting, "")

    def people_pool(self, setting: str) -> tuple[Noun, ...]:
        return self._filtered(("person", setting), (*lexicon.NAMES, *lexicon.ROLES), self.people, setting, "")

    def animal_pool(self, setting: str) -> tuple[Noun, ...]:
        return self._filtered(("animal", setting), lexicon.ANIMALS, self.animals, setting, "")

    def thing_pool(self, use: str, setting: str) -> tuple[Noun, ...]:
        return self._filtered(("thing", use, setting), lexicon.THINGS, self.things, setting, use)

    def scenery_of(self, use: str) -> tuple[Noun, ...]:
        uses = {"road", "stream", "way"} if use == "barrier" else {use}
        return tuple(noun for noun in lexicon.SCENERY if uses & noun.classes)

    def bank(self, letter: str) -> Noun:
        return next(noun for noun in lexicon.BANKS if noun.settings == letter)

    def adjectives_of(self, group: str) -> tuple[Adjective, ...]:
        found = self._tables.get(("adjective", group))
        if found is None:
            found = self._tables[("adjective", group)] = tuple(
                a
                for a in lexicon.adjectives_of(group)
                if self.adjectives is None or a.lemma in self.adjectives
            )
        return found  # type: ignore[return-value]

    def adjectives_of_noun(self, noun: Noun) -> tuple[Adjective, ...]:
        """The adjectives with which a new thing may be told: a fruit is ripe, a hat is old or red."""
        own = self.adjectives_of(noun.described_as)
        return own + self.adjectives_of("colour") if noun.described_as == "thing" else own

    def adjectives_for(self, nouns: list[Noun]) -> tuple[tuple[Adjective | None, ...], tuple[int, ...]]:
        """The adjectives that some of the nouns take, none first and half of the time, with their weights."""
        groups = {noun.described_as: noun for noun in nouns}
        key = ("adjectives for", *sorted(groups))
        found = self._tables.get(key)
        if found is None:
            options = [a for _, noun in sorted(groups.items()) for a in self.adjectives_of_noun(noun)]
            found = self._tables[key] = ((None, *options), (max(1, len(options)), *[1] * len(options)))
        return found  # type: ignore[return-value]

    def always_open(self, role: str) -> int:
        """Below how many sentences a role surely has something to do: a sentence uses up one kind."""
        found = self._tables.get(("always open", role))
        if found is None:
            free = [k for k, _, pool in self._kind_table(role) if not pool and set(k.needs) <= {"placed"}]
            endless = sum(kind.repeats for kind in free) > 1
            found = self._tables[("always open", role)] = 1_000_000 if endless else len(free)
        return found  # type: ignore[return-value]

    def adjectives_too(self, noun: Noun) -> tuple[Adjective, ...]:
        """The adjectives that keep one from crossing: any may be dangerous, a road busy, a stream deep."""
        groups = ("cross_too", *(f"{c}_too" for c in sorted(noun.classes)))
        found = [a for group in groups for a in self.adjectives_of(group)]
        return tuple(dict.fromkeys(found))

    def _filtered(
        self, key: object, nouns: tuple[Noun, ...], allowed: tuple[str, ...] | None, setting: str, use: str
    ) -> tuple[Noun, ...]:
        found = self._tables.get(key)
        if found is None:
            found = self._tables[key] = tuple(
                noun
                for noun in nouns
                if (allowed is None or noun.lemma in allowed)
                and ("*" in noun.settings or (setting and setting in noun.settings))
                and (not use or use in noun.classes)
            )
        return found  # type: ignore[return-value]


@cache
def _pool_of(kind: Kind) -> str:
    """The pool of new entities that a kind draws on, or nothing."""
    for _, rule in kind.slots:
        name, _, use = rule.partition(":")
        if name in ("new", "own", "plain"):
            return use
        if name in ("new_person", "new_animal"):
            return name.removeprefix("new_")
    return {"newcomer": "person", "first": "person", "new_animal": "animal"}.get(kind.actor, "")
