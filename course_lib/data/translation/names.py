"""Lists of one to three names of one kind, as CLDR has them: countries, languages, months or weekdays.

A name is here if it is one word of letters in all five languages and means one thing in each: Nauru, country
and language, is not. A list of several is joined as CLDR joins lists: *Chile, Japan, and Malta*,
*Chile, Japan und Malta*, 智利、日本和马耳他.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache

from babel import Locale

from course_lib.data.story_world.chooser import SplitMix64, mix
from course_lib.data.translation.pair import LANGUAGES, Keyed, Pair, align, assigned_split

KINDS = ("country", "language", "month", "weekday")
_KIND_OF_DRAW = ("country",) * 4 + ("language",) * 4 + ("month", "weekday")  # ten equally likely draws
_LONGEST = 3
_FRUITLESS_DRAWS = 20_000  # so many draws in a row that give nothing new: the split is used up

_WORD = re.compile(r"[^\W\d_]+")
_MONTH = re.compile(r"(?:\d+月)|[^\W\d_]+")
_SIGN = re.compile(r"[^\W\d_]+|[^\w\s]")


def stream(source: str, target: str, split: str, seed: int) -> Iterator[Pair]:
    """The pairs of a split, each once, until nearly all have been given."""
    generator = SplitMix64(mix(seed, 0x4A3E))
    seen: set[tuple[str, ...]] = set()
    fruitless = 0
    while fruitless < _FRUITLESS_DRAWS:
        fruitless += 1
        kind = _KIND_OF_DRAW[generator.below(len(_KIND_OF_DRAW))]
        codes = tuple(names(kind))
        count = 1 + generator.below(_LONGEST)
        drawn = tuple(codes[generator.below(len(codes))] for _ in range(count))
        if len(set(drawn)) < count or (kind, *drawn) in seen or _split_of(kind, drawn) != split:
            continue
        seen.add((kind, *drawn))
        fruitless = 0
        yield pair(kind, drawn, source, target)


def _skeleton(kind: str, codes: tuple[str, ...]) -> str:
    return " ".join((kind, *sorted(codes)))


def _split_of(kind: str, codes: tuple[str, ...]) -> str:
    """A name alone is for training: nobody can translate a name from a language never met."""
    return "train" if len(codes) == 1 else assigned_split("names", _skeleton(kind, codes))


def pair(kind: str, codes: tuple[str, ...], source: str, target: str) -> Pair:
    """One list in two languages, name aligned with name; its skeleton is the set of names."""
    words = (words_of(kind, codes, source), words_of(kind, codes, target))
    return align(*words, _skeleton(kind, codes), (source, target))


def words_of(kind: str, codes: tuple[str, ...], language: str) -> Keyed:
    """The words of a list with their keys: which name of the list, or the place between which two.

    >>> words_of("country", ("FR", "JP"), "en")
    [('France', '0'), ('and', '0+'), ('Japan', '1')]
    """
    words: Keyed = []
    for place, code in enumerate(codes):
        if place:
            last = place == len(codes) - 1
            words += [(sign, f"{place - 1}+") for sign in _joint(language, last, len(codes))]
        words.append((names(kind)[code][language], str(place)))
    return words


@cache
def _joint(language: str, last: bool, count: int) -> tuple[str, ...]:
    """What stands between two names: `,` or `, and`."""
    patterns = Locale.parse(language).list_patterns["standard"]
    pattern = patterns["2" if count == 2 else "end" if last else "start"]
    return tuple(_SIGN.findall(pattern.replace("{0}", "").replace("{1}", "")))


@cache
def names(kind: str) -> dict[str, dict[str, str]]:
    """The names of a kind: by code (`FR`, `fr`, `1`), then by language."""
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} is not known; choose one of {', '.join(KINDS)}")
    return {code: name for code, name in _candidates(kind).items() if _is_clear(name)}


@cache
def _candidates(kind: str) -> dict[str, dict[str, str]]:
    """What CLDR names in all five languages, with one word in each."""
    tables = {language: _table(kind, Locale.parse(language)) for language in LANGUAGES}
    shared = [code for code in tables["en"] if all(code in table for table in tables.values())]
    found = {code: {language: tables[language][code] for language in LANGUAGES} for code in sorted(shared)}
    pattern = _MONTH if kind == "month" else _WORD
    return {code: name for code, name in found.items() if all(map(pattern.fullmatch, name.values()))}


def _table(kind: str, locale: Locale) -> dict[str, str]:
    """CLDR's names of a kind by code: countries and languages by their two letters."""
    if kind in ("month", "weekday"):
        table = (locale.months if kind == "month" else locale.days)["format"]["wide"]
        return {str(number): str(name) for number, name in table.items()}
    table = locale.territories if kind == "country" else locale.languages
    return {code: name for code, name in table.items() if len(code) == 2 and code.isalpha()}


def _is_clear(name: dict[str, str]) -> bool:
    return all(_uses(language)[word] == 1 for language, word in name.items())


@cache
def _uses(language: str) -> Counter[str]:
    """How many names each word is."""
    return Counter(name[language] for kind in KINDS for name in _candidates(kind).values())
