"""Every day from 1900 to 2099 in three styles of writing, as CLDR has them for five languages.

The styles are CLDR's full (*Friday, March 1, 2024*), long (*March 1, 2024*) and numeric (*3/1/2024*). Each
can be told from the others in every language, so that a translation has one right answer both ways.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date, timedelta
from functools import cache

from babel import Locale
from babel.dates import tokenize_pattern

from course_lib.data.story_world.chooser import mix
from course_lib.data.translation.pair import Keyed, Pair, align, assigned_split
from course_lib.data.translation.shuffle import shuffled

FIRST_YEAR, LAST_YEAR = 1900, 2099
STYLES = ("full", "long", "numeric")
_LITERAL = re.compile(r"\S")

# What a pattern is made of: a field of CLDR (y, M, d, E) with its width, or a literal (width 0) with its key.
_Part = tuple[str, int, str]


def stream(source: str, target: str, split: str, seed: int) -> Iterator[Pair]:
    """The pairs of a split, each once, in an order that the seed decides."""
    days = _of_split(split)
    for index in shuffled(range(len(days) * len(STYLES)), mix(seed, 0xDA7E)):
        yield pair(days[index // len(STYLES)], STYLES[index % len(STYLES)], source, target)


@cache
def _of_split(split: str) -> tuple[date, ...]:
    first = date(FIRST_YEAR, 1, 1)
    count = (date(LAST_YEAR, 12, 31) - first).days + 1
    days = [first + timedelta(number) for number in range(count)]
    months = {(year, month) for year in range(FIRST_YEAR, LAST_YEAR + 1) for month in range(1, 13)}
    chosen = {month for month in months if assigned_split("dates", _skeleton(*month)) == split}
    return tuple(day for day in days if (day.year, day.month) in chosen)


def _skeleton(year: int, month: int) -> str:
    return f"{year}-{month:02}"


def pair(day: date, style: str, source: str, target: str) -> Pair:
    """One day in two languages, aligned field by field; its skeleton is the month of the year."""
    words = (words_of(day, style, source), words_of(day, style, target))
    return align(*words, _skeleton(day.year, day.month), (source, target))


def words_of(day: date, style: str, language: str) -> Keyed:
    """The words of a date with their keys: the field that a word writes or, as 年 does, marks.

    >>> words_of(date(2024, 3, 1), "long", "de")
    [('1', 'd'), ('.', 'd'), ('März', 'M'), ('2024', 'y')]
    """
    return [
        (_written(day, field, width, language), field) if width else (field, key)
        for field, width, key in _pattern(style, language)
    ]


def _written(day: date, field: str, width: int, language: str) -> str:
    """A field as a number of at least `width` digits, or from CLDR's width 4 on as a name."""
    number = {"y": day.year, "M": day.month, "d": day.day, "E": day.weekday()}[field]
    if width < 4:
        return str(number).zfill(width)
    locale = Locale.parse(language)
    return str((locale.days if field == "E" else locale.months)["format"]["wide"][number])


@cache
def _pattern(style: str, language: str) -> tuple[_Part, ...]:
    """The parts of CLDR's pattern for a style.

    A literal belongs to the field before it; a comma only to a comma after the same field, and the signs
    between numbers only to each other, the first to the first.
    """
    locale = Locale.parse(language)
    found = locale.datetime_skeletons["yMd"] if style == "numeric" else locale.date_formats[style]
    parts: list[_Part] = []
    signs = 0
    field = ""
    for kind, value in tokenize_pattern(found.pattern):
        if kind == "field":
            field, width = str(value[0]), int(value[1])
            parts.append((field, width, ""))
            continue
        for literal in _LITERAL.findall(str(value)):
            signs += 1
            key = f"sign{signs}" if style == "numeric" else f"{field}," if literal == "," else field
            parts.append((literal, 0, key))
    return tuple(parts)
