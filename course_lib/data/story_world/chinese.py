"""Chinese: measure words, dropped articles, 的 after longer adjectives, places with their localisers."""

from __future__ import annotations

from course_lib.data.story_world.events import Token
from course_lib.data.story_world.lexicon import COUNT_WORDS, Adjective
from course_lib.data.story_world.state import SOME, Entity
from course_lib.data.story_world.telling import Told

Aligned = tuple[str, str]

_OPENERS = {
    "first": ("", "一天 早上 ，", "一天 晚上 ，", "有 一天 ，", "昨天 ，"),
    "later": ("", "然后", "后来 ，", "不久 ，", "在 那 之后 ，"),
}
_PRONOUNS = {"he": "他", "she": "她", "it": "它", "they": "它们"}


def translate(told: Told) -> list[Aligned]:
    """The Chinese words of a sentence with their alignment keys."""
    words: list[Aligned] = [(w, "opener") for w in _OPENERS[told.opener_set][told.opener].split()]
    for token in told.kind.chinese_tokens:
        words += _render(told, token)
    words.append(("。", "end"))
    return words


def _render(told: Told, token: Token) -> list[Aligned]:
    if not token.slot:
        return [(token.word, token.key)]
    if token.slot == "AB":
        return _pair(told)
    value = told.values[token.slot]
    if isinstance(value, Adjective):
        return [(value.chinese, token.slot)]
    return _entity(told, token, value)


def _pair(told: Told) -> list[Aligned]:
    pair = next(m for m in told.mentions if m.slot == "AB")
    if pair.form == "pronoun":
        women = all(person.noun.gender == "f" for person in pair.entities)
        return [("她们" if women else "他们", "AB")]
    return [*_phrase(told, "A"), ("和", "AB.and"), *_phrase(told, "B")]


def _entity(told: Told, token: Token, entity: Entity) -> list[Aligned]:
    slot, form = token.slot, token.form
    noun, preposition = f"{slot}.noun", f"{slot}.prep"
    if form == "in" and told.forms.get(slot) == "there":
        return [("在", noun), ("那里", noun)]
    if entity.type == "place":
        name = (entity.noun.chinese, noun)
        place = [name, (entity.noun.localiser, preposition)]
        reached = place if entity.noun.localiser != "里" and form != "bare" else [name]
        return {"in": [("在", preposition), *place], "loc": place}.get(form, reached)
    phrase = _pronoun_or_phrase(told, slot, entity, form)
    if form == "from":
        return [("从", preposition), *phrase, ("那里", preposition)]
    return phrase


def _pronoun_or_phrase(told: Told, slot: str, entity: Entity, form: str) -> list[Aligned]:
    if form == "pro":
        return [(_PRONOUNS[entity.pronoun], f"{slot}.again")]
    if told.forms.get(slot) == "pronoun":
        return [(_PRONOUNS[entity.pronoun], f"{slot}.noun")]
    return _phrase(told, slot)


def _phrase(told: Told, slot: str) -> list[Aligned]:
    form = next((m.form for m in told.mentions if m.slot == slot and m.form != "pronoun"), "definite")
    entity = told.entity(slot)
    words = [(word, f"{slot}.noun") for word in entity.noun.chinese.split()]
    if form == "possessed":
        owner = _PRONOUNS[told.owned[slot].pronoun]
        return [(owner, f"{slot}.det"), ("的", f"{slot}.det"), *words]
    if form != "indefinite":
        return words
    adjective = entity.adjective.chinese_attributive if entity.adjective else ()
    return [(_number(entity), f"{slot}.det"), *((w, f"{slot}.adj") for w in adjective), *words]


def _number(entity: Entity) -> str:
    """The number and its measure word, as one word: 一只, 两个, 一些."""
    if entity.count == SOME:
        return "一些"
    return ("一" if entity.count == 1 else COUNT_WORDS[entity.count][2]) + entity.noun.classifier
