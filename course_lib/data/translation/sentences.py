"""Sentences of `story_world` that can be translated on their own, and sentences about Apple and apples.

Left out are sentences that need the ones before them: an *it* whose noun is elsewhere, and a *bank* of which
nothing in the sentence says whether it is the river's.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from course_lib.data.story_world.chooser import SamplingChooser, mix
from course_lib.data.story_world.english import OPENERS
from course_lib.data.story_world.generate import stands_alone, stories
from course_lib.data.story_world.lexicon import Adjective
from course_lib.data.story_world.story import Sentence
from course_lib.data.story_world.telling import Told
from course_lib.data.translation import apple
from course_lib.data.translation.pair import Pair, assigned_split

_NAMES = {"fr": "french", "zh": "chinese"}

# These say which bank is meant: boats, fish and water are at the river; coins, accounts and clerks are not.
_BANK_IS_CLEAR = frozenset(
    {
        *("sit_on_bank", "fish_from_bank", "tie_boat", "water_rises", "bank_is_wet"),
        *("pay_in", "open_account", "bank_lends", "clerk_counts", "bank_is_closed"),
    }
)
# These have words that no other sentence has: of a skeleton held back, a word would never have been seen.
_TRAINING_ONLY = frozenset({"bank_is_wet", "call", "screen", "weather", "write"})
_DETAILS = frozenset({"too", "a", "an", "the", "some"})
_STORY_SENTENCES_TO_ONE_OF_APPLE = 9


def stream(source: str, target: str, split: str, seed: int) -> Iterator[Pair]:
    """The pairs of a split without end; no source comes twice."""
    foreign = source if target == "en" else target
    seen: set[tuple[str, ...]] = set()
    for sentence in _sentences(seed):
        skeleton = skeleton_of(sentence.told)
        if _split_of(sentence.told, skeleton) != split:
            continue
        pair = _pair(sentence, foreign, skeleton)
        pair = pair if source == "en" else pair.reversed()
        if pair.source not in seen:
            seen.add(pair.source)
            yield pair


def _sentences(seed: int) -> Iterator[Sentence]:
    """Sentences of stories that stand alone, one in ten about Apple or apples."""
    chooser = SamplingChooser(mix(seed, 0xA991E))
    given = count(1)
    for story in stories(mix(seed, 0x7A1E), None):
        for sentence in story.sentences:
            if stands_alone(sentence) and _bank_is_clear(sentence):
                yield sentence
                if next(given) % _STORY_SENTENCES_TO_ONE_OF_APPLE == 0:
                    told = apple.tell_one(chooser)
                    yield Sentence(told, 0, tuple(told.words))


def _bank_is_clear(sentence: Sentence) -> bool:
    return "bank" not in sentence.words or sentence.event in _BANK_IS_CLEAR


def _pair(sentence: Sentence, foreign: str, skeleton: str) -> Pair:
    translation = sentence.translation(_NAMES[foreign])
    words = translation.words
    opening = len(OPENERS[sentence.told.opener_set][sentence.told.opener].split())
    alignment = {
        (i, j)
        for i, j in translation.alignment
        if i >= opening and not _is_crossed(sentence.words, i, words[j])
    }
    ends = [j for i, j in translation.alignment if i < opening]
    if opening:
        alignment |= _opening_links(sentence.words[:opening], words[: max(ends) + 1])
    return Pair(sentence.words, words, frozenset(alignment), skeleton, "en", foreign)


# `story_world` aligns opening words, and a noun of two words, as a whole: each word with each.
# The two functions below say which of these links hold between single words.


def _opening_links(english: tuple[str, ...], foreign: tuple[str, ...]) -> set[tuple[int, int]]:
    """Word by word where there are as many, each with each where not; a comma only with a comma."""
    ours = [i for i, word in enumerate(english) if word != ","]
    theirs = [j for j, word in enumerate(foreign) if word not in (",", "，")]
    if foreign[:3] == ("在", "那", "之后"):
        links = {(0, 0), (1, 1), (0, 2)}
    elif len(ours) == len(theirs):
        links = set(zip(ours, theirs, strict=True))
    else:
        links = {(i, j) for i in ours for j in theirs}
    if len(ours) < len(english) and len(theirs) < len(foreign):
        links.add((len(english) - 1, len(foreign) - 1))
    return links


def _is_crossed(english: tuple[str, ...], index: int, foreign: str) -> bool:
    """Whether a link ties the name in *Apple phone* to the other language's phone, or *phone* to the name."""
    is_name = foreign in ("Apple", "苹果")
    if english[index] == "Apple":
        return not is_name
    return english[index].startswith("phone") and is_name


def skeleton_of(told: Told) -> str:
    """The sentence with people made equal, and its details left out, such as `person went cinema`.

    Left out are opening words, articles, numbers, possessives, prepositions, *too*, and the adjective that a
    noun first comes with. Sentences that differ only in those, and in people, have one skeleton.
    """
    parts = []
    for token in told.kind.english_tokens:
        if token.slot:
            parts.append(_part(told, token.slot))
        elif token.word not in _DETAILS:
            parts.append(token.word)
    return " ".join(parts)


def _part(told: Told, slot: str) -> str:
    if slot == "AB":
        return "people"
    value = told.values[slot]
    if isinstance(value, Adjective):
        return value.lemma
    if value.type == "person":
        return "person"
    form = told.forms.get(slot)
    return form if form in ("there", "pronoun") else value.noun.lemma


def _split_of(told: Told, skeleton: str) -> str:
    """By the skeleton's hash; sentences whose words are all fixed but for people are for training."""
    slots = {token.slot for token in told.kind.english_tokens if token.slot}
    varied = {_part(told, slot) for slot in slots} - {"people", "person", "bank"}
    if not varied or told.kind.name in _TRAINING_ONLY:
        return "train"
    return assigned_split("sentences", skeleton)
