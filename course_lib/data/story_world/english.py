"""English: noun phrases, pronouns, and what a sentence may open with."""

from __future__ import annotations

from course_lib.data.story_world.lexicon import COUNT_WORDS
from course_lib.data.story_world.state import SOME, Entity

OPENERS = {
    "first": ("", "One morning ,", "One evening ,", "One day ,", "Yesterday ,"),
    "later": ("", "Then", "Later ,", "Soon", "After that ,"),
}
PREPOSITIONS = frozenset({"to", "from", "with", "for", "at", "of"})
OBJECTIVE = {"he": "him", "she": "her", "it": "it", "they": "them"}
POSSESSIVE = {"he": "his", "she": "her", "it": "its", "they": "their"}
WAS = {"was": "were", "is": "are"}


def noun_phrase(entity: Entity, form: str, slot: str, owner: Entity | None = None) -> list[tuple[str, str]]:
    """The English words for an entity in a form (name, possessed, definite, indefinite), with their keys."""
    noun, key = entity.noun, f"{slot}.noun"
    if form == "name":
        return [(noun.lemma, key)]
    words = (noun.plural if entity.plural else noun.lemma).split()
    adjective = entity.adjective.lemma if entity.adjective and form == "indefinite" else ""
    if form == "possessed" and owner is not None:
        determiner = POSSESSIVE[owner.pronoun]
    elif form == "definite":
        determiner = "the"
    else:
        determiner = indefinite(entity.count, adjective or words[0])
    found = [(determiner, f"{slot}.det"), *((word, key) for word in words)]
    if adjective:
        found.insert(1, (adjective, f"{slot}.adj"))
    return found


def name_of(entity: Entity) -> str:
    """What a question calls an entity that the story has named: `Anna`, `the ball`."""
    words = entity.noun.plural if entity.plural else entity.noun.lemma
    return words if entity.noun.is_name else f"the {words}"


def indefinite(count: int, following: str) -> str:
    if count == SOME:
        return "some"
    if count > 1:
        return COUNT_WORDS[count][0]
    return "an" if following[0] in "aeiouAEIOU" else "a"
