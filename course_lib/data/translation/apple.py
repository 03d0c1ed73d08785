"""Sentences about the company Apple and about fruit: what one meets beside the word decides which it is.

苹果 is both: *Apple gave Anna an apple.* is 苹果给了安娜一个苹果。 French has *Apple* and *une pomme*. The
templates are read as those of `story_world` are; their sentences are told one by one, outside any story.
"""

from __future__ import annotations

from course_lib.data.story_world.chooser import SamplingChooser
from course_lib.data.story_world.config import WorldConfig
from course_lib.data.story_world.events import Kind, read_kinds
from course_lib.data.story_world.lexicon import ADJECTIVES, THINGS, Adjective, Noun
from course_lib.data.story_world.narrator import tell
from course_lib.data.story_world.state import Entity
from course_lib.data.story_world.telling import Scene, Told, Words

_TABLE = """
apple_makes | world | | T=device
  |
  Apple~a made~v {T}
  Apple~a a~v fabriqué~v {T:o}
  苹果~a 制造~v 了 {T}
apple_shows | world | | T=device P=start
  |
  Apple~a presented~v {T} {P:in}
  Apple~a a~v présenté~v {T:o} {P:in}
  苹果~a {P:in} 发布~v 了 {T}
apple_sells | newcomer | | T=device
  |
  Apple~a sold~v {T} {A:to}
  Apple~a a~v vendu~v {T:o} {A:to}
  苹果~a 卖给~v 了 {A} {T}
apple_gives | newcomer | | T=any
  |
  Apple~a gave~v {A} {T}
  Apple~a a~v donné~v {T:o} {A:to}
  苹果~a 给~v 了 {A} {T}
buy_from_apple | newcomer | | T=device
  |
  {A} bought~v {T} from~f Apple~a
  {A} a~v acheté~v {T:o} chez~f Apple~a
  {A} 从~f 苹果~a 那里~f 买~v 了 {T}
find_at_apple | newcomer | | T=any
  |
  {A} found~v {T} at~f Apple~a
  {A} a~v trouvé~v {T:o} chez~f Apple~a
  {A} 在~f 苹果~a 找到~v 了 {T}
fruit_is | world | | T=known_fruit F=taste
  |
  {T} was~v {F}
  {T} était~v {F@T}
  {T} 很~v {F}
"""
_KINDS = read_kinds(_TABLE)
_WORLD = WorldConfig()
_SETTING = "t"


def _things(*lemmas: str) -> tuple[Noun, ...]:
    return tuple(noun for lemma in lemmas for noun in THINGS if noun.lemma == lemma)


def _adjectives(*lemmas: str) -> tuple[Adjective, ...]:
    return tuple(adjective for lemma in lemmas for adjective in ADJECTIVES if adjective.lemma == lemma)


_DEVICES = _things("phone", "computer", "watch", "camera")
_FRUIT = _things("apple", "apple", "apple", "pear", "peach", "plum", "banana", "lemon")  # apples thrice
_LOOKS = _adjectives("new", "small", "big", "beautiful", "black", "white", "grey", "green", "red", "strange")
_TASTES = _adjectives("sweet", "ripe", "sour", "bitter", "hard", "fresh", "delicious", "small")


def tell_one(chooser: SamplingChooser) -> Told:
    """One sentence, every choice of it left to `chooser`."""
    kind = _KINDS[chooser.uniform(len(_KINDS))]
    world = _WORLD.new_world()
    world.setting = _SETTING
    told = Told(kind, None, {}, Words(), 0, "first")
    scene = Scene(_WORLD, world, told, chooser)
    _cast(scene, kind)
    tell(scene)
    return told


def _cast(scene: Scene, kind: Kind) -> None:
    """Fill the slots for a thing and for its taste; the narrator finds the people and places."""
    chooser, told = scene.chooser, scene.told
    rule = kind.rules["T"]
    nouns = {"device": _DEVICES, "any": _DEVICES + _FRUIT}.get(rule, _FRUIT)
    noun = nouns[chooser.uniform(len(nouns))]
    if rule == "known_fruit":
        told.values["T"] = Entity(0, "thing", noun)
        told.values["F"] = _TASTES[chooser.uniform(len(_TASTES))]
        return
    thing = scene.new_entity("thing", noun)
    looks = _TASTES if noun in _FRUIT else _LOOKS
    if chooser.uniform(2):
        thing.adjective = looks[chooser.uniform(len(looks))]
    told.values["T"] = thing
