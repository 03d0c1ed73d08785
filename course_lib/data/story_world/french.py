"""French: noun phrases, agreement, object pronouns before the verb, elision and contraction."""

from __future__ import annotations

from course_lib.data.story_world.english import OPENERS
from course_lib.data.story_world.events import Token
from course_lib.data.story_world.lexicon import COUNT_WORDS, Adjective
from course_lib.data.story_world.state import SOME, Entity
from course_lib.data.story_world.telling import Mention, Told

Aligned = tuple[str, str]  # a word, and the key that aligns it with words of another language

_OPENERS = {
    "first": ("", "Un matin ,", "Un soir ,", "Un jour ,", "Hier ,"),
    "later": ("", "Puis", "Plus tard ,", "Bientôt", "Après cela ,"),
}
_SUBJECT = {"he": "il", "she": "elle", "it": "il", "they": "ils"}
_VERB_PLURAL = {"était": "étaient", "est": "sont", "a": "ont", "avait": "avaient"}
_PREPOSITIONS = {"to": "à", "i": "à", "at": "à", "from": "de", "of": "de", "de": "de"}
_ELIDING = frozenset({"le", "la", "de", "ne", "que", "se", "je", "jusque"})
_CONTRACTED = {("à", "le"): "au", ("à", "les"): "aux", ("de", "le"): "du", ("de", "les"): "des"}
_VOWELS = frozenset("aeiouyéèêàâîôûœAEIOUÉÈÊ")
_MUTE_H = ("homme", "herbe", "horloge", "hôpital", "hôtel", "heureu")
_SONS_BEFORE_VOWEL = {"sa": "son"}


def starts_with_vowel(word: str) -> bool:
    """Whether a word makes the one before it elide: a vowel or a mute h (the hache's h is not)."""
    return word[0] in _VOWELS or word.startswith(_MUTE_H)


def translate(told: Told) -> list[Aligned]:
    """The French words of a sentence with their alignment keys."""
    sentence = _Sentence(told)
    words: list[Aligned] = [(w, "opener") for w in _OPENERS[told.opener_set][told.opener].split()]
    for token in told.kind.french_tokens:
        words += sentence.render(token)
    words.append((".", "end"))
    words = _polish(words)
    first = words[0][0]
    return [(first[0].upper() + first[1:], words[0][1]), *words[1:]]


def gender_of(entity: Entity) -> str:
    return entity.noun.french_gender


class _Sentence:
    """One sentence on its way into French: which slots have become object pronouns, and where those go."""

    def __init__(self, told: Told) -> None:
        self.told = told
        direct = {t.slot for t in told.kind.french_tokens if t.form == "o"}
        indirect = {t.slot for t in told.kind.french_tokens if t.form == "i"}
        has_room = any(t.word == "^" for t in told.kind.french_tokens)
        self.clitics = {slot for slot in direct | indirect if has_room and self.form(slot) == "pronoun"}
        self.direct = direct & self.clitics
        self.indirect = indirect & self.clitics

    def form(self, slot: str) -> str:
        return self.told.forms.get(slot, "definite")

    def render(self, token: Token) -> list[Aligned]:
        if token.word == "^":
            return self._object_pronouns()
        if not token.slot:
            return [(self._agreed(token), token.key)]
        if token.slot == "AB":
            return self._pair()
        value = self.told.values[token.slot]
        if isinstance(value, Adjective):
            return [(w, token.slot) for w in self._adjective(value, token.agree).split()]
        return self._entity(token, value)

    def _object_pronouns(self) -> list[Aligned]:
        found = [(_accusative(self.told.entity(slot)), f"{slot}.noun") for slot in sorted(self.direct)]
        for slot in sorted(self.indirect):
            found.append(("leur" if self.told.entity(slot).plural else "lui", f"{slot}.noun"))
        return found

    def _agreed(self, token: Token) -> str:
        if not token.agree or (token.after_clitic and token.agree not in self.direct):
            return token.word
        gender, plural = self._gender_number(token.agree)
        if token.word in _VERB_PLURAL:
            return _VERB_PLURAL[token.word] if plural else token.word
        word = token.word + ("e" if gender == "f" else "")
        return word + "s" if plural and word[-1] != "s" else word

    def _gender_number(self, slot: str) -> tuple[str, bool]:
        if slot == "AB":
            people = [self.told.entity("A"), self.told.entity("B")]
            return ("f" if all(gender_of(p) == "f" for p in people) else "m"), True
        entity = self.told.entity(slot)
        return gender_of(entity), entity.plural

    def _adjective(self, adjective: Adjective, slot: str) -> str:
        gender, plural = self._gender_number(slot) if slot else ("m", False)
        return adjective.french_form(gender, plural)

    def _pair(self) -> list[Aligned]:
        pair: Mention = next(m for m in self.told.mentions if m.slot == "AB")
        if pair.form == "pronoun":
            return [("elles" if self._gender_number("AB")[0] == "f" else "ils", "AB")]
        return [*self._phrase("A"), ("et", "AB.and"), *self._phrase("B")]

    def _entity(self, token: Token, entity: Entity) -> list[Aligned]:
        slot, form = token.slot, token.form
        key = f"{slot}.noun"
        if slot in self.clitics and form in ("o", "i"):
            return []
        if form in ("pro", "lui"):
            return [("lui" if form == "lui" else _nominative(entity), f"{slot}.again")]
        if not form and self.form(slot) == "pronoun":
            return [(_nominative(entity), key)]
        if form in ("p", "o", "i") and self.form(slot) == "pronoun" and form != "o":
            stressed = [(_stressed(entity), key)]
            return stressed if form == "p" else [("à", f"{slot}.prep"), *stressed]
        return self._with_preposition(token, entity)

    def _with_preposition(self, token: Token, entity: Entity) -> list[Aligned]:
        slot, form, key = token.slot, token.form, f"{token.slot}.prep"
        if form == "in" and self.form(slot) == "there":
            near = self.told.kind.name == "be_too"
            return [("là" if near else "là-bas", f"{slot}.noun")]
        if form == "in":
            return [(entity.noun.french_preposition, key), *self._phrase(slot)]
        if form == "until":
            return [("jusque", key), ("à", key), *self._phrase(slot)]
        if form in _PREPOSITIONS:
            if self.form(slot) == "pronoun":
                return [(_PREPOSITIONS[form], key), (_stressed(entity), f"{slot}.noun")]
            return [(_PREPOSITIONS[form], key), *self._phrase(slot)]
        return self._phrase(slot)

    def _phrase(self, slot: str) -> list[Aligned]:
        form = next(
            (m.form for m in self.told.mentions if m.slot == slot and m.form != "pronoun"), "definite"
        )
        return noun_phrase(self.told.entity(slot), form, slot)


def _nominative(entity: Entity) -> str:
    feminine = gender_of(entity) == "f"
    return ("elle" if feminine else "il") + ("s" if entity.plural else "")


def _accusative(entity: Entity) -> str:
    return "les" if entity.plural else "la" if gender_of(entity) == "f" else "le"


def _stressed(entity: Entity) -> str:
    if gender_of(entity) == "f":
        return "elles" if entity.plural else "elle"
    return "eux" if entity.plural else "lui"


def noun_phrase(entity: Entity, form: str, slot: str) -> list[Aligned]:
    """Determiner, adjective and noun; before elision, which `_polish` does."""
    noun, plural = entity.noun, entity.plural
    key = f"{slot}.noun"
    if form == "name":
        return [(noun.french, key)]
    nouns = [(word, key) for word in (noun.french_plural if plural else noun.french).split()]
    adjective = entity.adjective if form == "indefinite" else None
    words = [(_determiner(entity, form, adjective), f"{slot}.det")]
    if adjective is None:
        return words + nouns
    told = [(w, f"{slot}.adj") for w in _attributive(adjective, entity).split()]
    return words + (told + nouns if adjective.before_noun else nouns + told)


def _attributive(adjective: Adjective, entity: Entity) -> str:
    masculine = not entity.plural and gender_of(entity) == "m"
    if masculine and adjective.before_noun and starts_with_vowel(entity.noun.french):
        return adjective.before_vowel
    return adjective.french_form(gender_of(entity), entity.plural)


def _determiner(entity: Entity, form: str, adjective: Adjective | None) -> str:
    feminine = gender_of(entity) == "f"
    if form == "definite":
        return "les" if entity.plural else "la" if feminine else "le"
    if form == "possessed":
        return "ses" if entity.plural else "sa" if feminine else "son"
    if entity.count == SOME:
        return "de" if adjective is not None and adjective.before_noun else "des"
    if entity.plural:
        return COUNT_WORDS[entity.count][1]
    return "une" if feminine else "un"


def _polish(words: list[Aligned]) -> list[Aligned]:
    """Elide (le homme → l' homme), contract (à le → au), and say son before a feminine vowel."""
    elided: list[Aligned] = []
    for index, (word, key) in enumerate(words):
        following = words[index + 1][0] if index + 1 < len(words) else "."
        lower = word.lower()
        if starts_with_vowel(following):
            if lower in _ELIDING:
                word = word[:-1] + "'"
            word = _SONS_BEFORE_VOWEL.get(word, word)
        elided.append((word, key))
    return _contract(elided)


def _contract(words: list[Aligned]) -> list[Aligned]:
    result: list[Aligned] = []
    for word, key in words:
        pair = (result[-1][0], word) if result else ("", word)
        if pair in _CONTRACTED and key.endswith(".det"):
            result[-1] = (_CONTRACTED[pair], f"{result[-1][1]} {key}")
        else:
            result.append((word, key))
    return result


assert all(len(_OPENERS[name]) == len(OPENERS[name]) for name in OPENERS)
