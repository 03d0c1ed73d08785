"""A sentence told again on its own: names for pronouns, an article that suits a first mention, no opener."""

from __future__ import annotations

from course_lib.data.story_world.english import OBJECTIVE, PREPOSITIONS, WAS, noun_phrase
from course_lib.data.story_world.lexicon import Adjective
from course_lib.data.story_world.state import Entity
from course_lib.data.story_world.telling import Told


def retell(told: Told, seen: set[int]) -> str:
    """English text of one event; `seen` holds the entities already named, and is added to."""
    words: list[str] = []
    for token in told.kind.english_tokens:
        if token.slot == "AB":
            words += [*_name(told, "A", seen), "and", *_name(told, "B", seen)]
        elif not token.slot:
            value = told.values.get(token.agree)
            plural = isinstance(value, Entity) and value.plural
            words.append(WAS[token.word] if plural else token.word)
        else:
            words += _slot(told, token.slot, token.form, seen)
    text = " ".join(words).replace(" ,", ",").replace("“ ", "“").replace(" ”", "”")
    return text[0].upper() + text[1:] + "."


def _slot(told: Told, slot: str, form: str, seen: set[int]) -> list[str]:
    value = told.values[slot]
    if isinstance(value, Adjective):
        return [value.lemma]
    if form == "pro":
        return [value.pronoun]
    if form == "her":
        return [OBJECTIVE[value.pronoun]]
    words = _name(told, slot, seen)
    if form == "in":
        return [value.noun.preposition, *words]
    return [form, *words] if form in PREPOSITIONS else words


def _name(told: Told, slot: str, seen: set[int]) -> list[str]:
    entity = told.entity(slot)
    new = entity.identity not in seen
    seen.add(entity.identity)
    if entity.noun.is_name:
        form = "name"
    elif slot in told.owned:
        form = "possessed"
    elif entity.type in ("place", "scenery") or not new:
        form = "definite"
    else:
        form = "indefinite"
    return [word for word, _ in noun_phrase(entity, form, slot, told.owned.get(slot))]
