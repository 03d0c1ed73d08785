"""Number words from 0 to 9,999 in five languages, each word with the decimal places that it writes.

A key is a decimal place and what of it is written: `2d` is the digit of the hundreds, `2u` the word *hundred*
itself, and a word such as *seventeen* has both of the tens and the digit of the ones: `1d 1u 0d`. `joint` is
what ties ones to tens: the hyphen of *twenty-one*, *et* in *vingt et un*, *und* in *einundzwanzig*.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

from course_lib.data.story_world.chooser import mix
from course_lib.data.translation import german
from course_lib.data.translation.pair import Keyed, Pair, align, assigned_split
from course_lib.data.translation.shuffle import shuffled

LIMIT = 10_000  # numbers are below
_TENS, _TEEN, _ONES = "1d 1u", "1d 1u 0d", "0d"
_JOINT = "joint"

_ENGLISH = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen"),
    *("sixteen", "seventeen", "eighteen", "nineteen"),
)
_ENGLISH_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_FRENCH = (
    *("zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf"),
    *("dix", "onze", "douze", "treize", "quatorze", "quinze", "seize"),
)
_FRENCH_TENS = ("", "", "vingt", "trente", "quarante", "cinquante", "soixante")
_CHINESE = "零一二三四五六七八九"
_CHINESE_UNITS = "千百十"


def stream(source: str, target: str, split: str, seed: int) -> Iterator[Pair]:
    """The pairs of a split, each once, in an order that the seed decides."""
    for number in shuffled(_of_split(split), mix(seed, 0x4E42)):
        yield pair(number, source, target)


@cache
def _of_split(split: str) -> tuple[int, ...]:
    return tuple(n for n in range(LIMIT) if assigned_split("numbers", str(n)) == split)


def pair(number: int, source: str, target: str) -> Pair:
    """One number in words of two languages, aligned by decimal places; its skeleton is the number."""
    return align(words_of(number, source), words_of(number, target), str(number), (source, target))


def words_of(number: int, language: str) -> Keyed:
    """The words of a number with their keys.

    >>> words_of(21, "de")
    [('ein', '0d'), ('und', 'joint'), ('zwanzig', '1d 1u')]
    """
    if not 0 <= number < LIMIT:
        raise ValueError(f"number={number} is out of range; give one from 0 to {LIMIT - 1:,}")
    return _SPEAKERS[language](number)


def _english(number: int) -> Keyed:
    thousands, rest = divmod(number, 1000)
    words: Keyed = []
    if thousands:
        words += [(_ENGLISH[thousands], "3d"), ("thousand", "3u")]
        words += [(",", "")] if rest >= 100 else [("and", "")] if rest else []
    if rest >= 100:
        words += [(_ENGLISH[rest // 100], "2d"), ("hundred", "2u")]
        words += [("and", "")] if rest % 100 else []
    return words + _english_below_hundred(rest % 100) if rest % 100 or not number else words


def _english_below_hundred(number: int) -> Keyed:
    tens, ones = divmod(number, 10)
    if tens < 2:
        return [(_ENGLISH[number], _small_key(number))]
    words = [(_ENGLISH_TENS[tens], _TENS)]
    return [*words, ("-", _JOINT), (_ENGLISH[ones], _ONES)] if ones else words


def _small_key(number: int) -> str:
    """The key of a number below twenty that is one word."""
    return _ONES if number < 10 else _TENS if number == 10 else _TEEN


def _french(number: int) -> Keyed:
    thousands, hundreds, rest = number // 1000, number // 100 % 10, number % 100
    words: Keyed = []
    if thousands:
        words += [(_FRENCH[thousands], "3d"), ("mille", "3u")] if thousands > 1 else [("mille", "3d 3u")]
    if hundreds == 1:
        words.append(("cent", "2d 2u"))
    elif hundreds:
        words += [(_FRENCH[hundreds], "2d"), ("cent" if rest else "cents", "2u")]
    return words + _french_below_hundred(rest) if rest or not number else words


def _french_below_hundred(number: int) -> Keyed:
    """French counts in twenties from 60 to 99: the number from 1 to 19 added to 60 or 80 ends the word."""
    tens, ones = divmod(number, 10)
    if number < 20:
        return _french_added(number)
    if number == 80:
        return [("quatre", _TENS), ("-", _TENS), ("vingts", _TENS)]
    words: Keyed
    if tens >= 8:
        words, added = [("quatre", _TENS), ("-", _TENS), ("vingt", _TENS)], number - 80
    else:
        words, added = [(_FRENCH_TENS[min(tens, 6)], _TENS)], number - min(tens, 6) * 10
    if not added:
        return words
    joint = ("et" if ones == 1 and tens < 8 else "-", _TENS if added == 10 or added > 16 else _JOINT)
    return [*words, joint, *_french_added(added)]


def _french_added(number: int) -> Keyed:
    """A number below twenty: one word up to *seize*, then *dix-sept*."""
    if number <= 16:
        return [(_FRENCH[number], _small_key(number))]
    return [("dix", _TENS), ("-", _JOINT), (_FRENCH[number - 10], _ONES)]


def _german(number: int) -> Keyed:
    thousands, hundreds, rest = number // 1000, number // 100 % 10, number % 100
    words: Keyed = [(german.ONES[thousands], "3d"), ("tausend", "3u")] if thousands else []
    words += [(german.ONES[hundreds], "2d"), ("hundert", "2u")] if hundreds else []
    return words + _german_below_hundred(rest) if rest or not number else words


def _german_below_hundred(number: int) -> Keyed:
    tens, ones = divmod(number, 10)
    if number < 2:
        return [(("null", "eins")[number], _ONES)]
    if tens == 0:
        return [(german.ONES[ones], _ONES)]
    if tens == 1:
        return [(german.TEENS[ones], _small_key(number))]
    words = [(german.TENS[tens], _TENS)]
    return [(german.ONES[ones], _ONES), ("und", _JOINT), *words] if ones else words


def _chinese(number: int) -> Keyed:
    """零 stands for the empty places between two that are not; 10 to 19 begin with 十, not with 一十."""
    if number == 0:
        return [("零", _ONES)]
    if 10 <= number < 20:
        return [("十", _TENS), *([(_CHINESE[number % 10], _ONES)] if number % 10 else [])]
    words: Keyed = []
    skipped = False
    for place in (3, 2, 1, 0):
        digit = number // 10**place % 10
        if not digit:
            skipped = bool(words)
            continue
        words += [("零", "")] if skipped else []
        words.append((_CHINESE[digit], f"{place}d"))
        words += [(_CHINESE_UNITS[3 - place], f"{place}u")] if place else []
        skipped = False
    return words


def _japanese(number: int) -> Keyed:
    """As in Chinese, without 零 between and without 一 before 千, 百 and 十."""
    if number == 0:
        return [("零", _ONES)]
    words: Keyed = []
    for place in (3, 2, 1, 0):
        digit = number // 10**place % 10
        if digit == 1 and place:
            words.append((_CHINESE_UNITS[3 - place], f"{place}d {place}u"))
        elif digit:
            words.append((_CHINESE[digit], f"{place}d"))
            words += [(_CHINESE_UNITS[3 - place], f"{place}u")] if place else []
    return words


_SPEAKERS: dict[str, Callable[[int], Keyed]] = {
    "en": _english,
    "fr": _french,
    "de": _german,
    "zh": _chinese,
    "ja": _japanese,
}
