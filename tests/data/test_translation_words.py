"""Dates, names and numbers. Oracles: Babel's formatting, `num2words`, arithmetic, and alignments by hand."""

from __future__ import annotations

from datetime import date, timedelta
from itertools import permutations

import pytest
from babel import Locale
from babel.dates import format_date, format_skeleton
from babel.lists import format_list
from num2words import num2words

from course_lib.data.translation import LANGUAGES, Pair, dates, join, names, numbers, pairs

_SMALL = {
    "en": "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen",
    "de": "null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn "
    "sechzehn siebzehn achtzehn neunzehn",
    "zh": "零 一 二 三 四 五 六 七 八 九",
}
_TENS = {
    "en": "twenty thirty forty fifty sixty seventy eighty ninety",
    "de": "zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig",
}
VALUES = {word: value for words in _SMALL.values() for value, word in enumerate(words.split())}
VALUES |= {word: 10 * value for words in _TENS.values() for value, word in enumerate(words.split(), 2)}
VALUES["ein"] = 1
MULTIPLIERS = {
    **{"hundred": 100, "thousand": 1000, "hundert": 100, "tausend": 1000},
    **{"十": 10, "百": 100, "千": 1000},
}
GLUE = {",", "and", "-", "und"}
NO_FRENCH = ("en", "de", "zh", "ja")  # whose words add up decimal place by decimal place


def addends(tokens: tuple[str, ...]) -> list[tuple[int, list[int]]]:
    """The numbers that a number word adds up, each with the indices of its tokens: 300 and 40 and 5."""
    found: list[tuple[int, list[int]]] = []
    for index, token in enumerate(tokens):
        if token in MULTIPLIERS:
            counted = bool(found) and found[-1][0] in range(1, 10) and tokens[index - 1] in VALUES
            value, places = found.pop() if counted else (1, [])
            found.append((value * MULTIPLIERS[token], [*places, index]))
        elif token not in GLUE:
            found.append((VALUES[token], [index]))
    return found


def components(value: int) -> set[int]:
    """The decimal places of a number that are not empty: 17 is {1, 0}."""
    return {place for place, digit in enumerate(reversed(str(value))) if digit != "0"} or {0}


def links(pair: Pair) -> list[tuple[str, str]]:
    return [(pair.source[i], pair.target[j]) for i, j in sorted(pair.alignment)]


# Numbers


@pytest.mark.parametrize("language", ["en", "fr", "de", "ja"])
def test_number_words_are_those_of_num2words(language: str) -> None:
    for number in range(numbers.LIMIT):
        written = join([word for word, _ in numbers.words_of(number, language)], language)
        assert written == num2words(number, lang=language)


@pytest.mark.parametrize("language", NO_FRENCH)
def test_number_words_add_up_to_the_number(language: str) -> None:
    for number in range(numbers.LIMIT):
        tokens = tuple(word for word, _ in numbers.words_of(number, language))
        assert sum(value for value, _ in addends(tokens)) == number


@pytest.mark.parametrize(
    ("number", "written"),
    [
        *[(0, "零"), (2, "二"), (10, "十"), (12, "十二"), (20, "二十"), (99, "九十九"), (100, "一百")],
        *[(101, "一百零一"), (110, "一百一十"), (112, "一百一十二"), (1000, "一千"), (1001, "一千零一")],
        *[(1010, "一千零一十"), (1100, "一千一百"), (2030, "二千零三十"), (9999, "九千九百九十九")],
    ],
)
def test_chinese_numbers_name_their_empty_places_once(number: int, written: str) -> None:
    assert join([word for word, _ in numbers.words_of(number, "zh")], "zh") == written


@pytest.mark.parametrize(("source", "target"), list(permutations(NO_FRENCH, 2)))
def test_number_words_are_aligned_where_they_write_the_same_decimal_places(source: str, target: str) -> None:
    for number in range(0, numbers.LIMIT, 7):
        pair = numbers.pair(number, source, target)
        linked = pair.alignment
        for value, here in addends(pair.source):
            for other, there in addends(pair.target):
                expected = bool(components(value) & components(other)) and not {
                    pair.source[here[0]],
                    pair.target[there[0]],
                } & ({"零"} if number else set())
                assert any((i, j) in linked for i in here for j in there) == expected, (pair, value, other)


@pytest.mark.parametrize(
    ("number", "source", "target", "expected"),
    [
        (21, "en", "de", {(0, 2), (1, 1), (2, 0)}),
        (21, "de", "fr", {(0, 2), (1, 1), (2, 0)}),
        (300, "en", "fr", {(0, 0), (1, 1)}),
        (1000, "en", "fr", {(0, 0), (1, 0)}),
        (101, "en", "zh", {(0, 0), (1, 1), (3, 3)}),
        (17, "en", "fr", {(0, 0), (0, 2)}),
        # ninety - one: quatre - vingt - onze
        (91, "en", "fr", {(0, 0), (0, 1), (0, 2), (0, 4), (1, 3), (2, 4)}),
        # soixante - dix - sept: sieben und siebzig
        (77, "fr", "de", {(0, 2), (1, 2), (2, 2), (3, 1), (4, 0)}),
        (80, "fr", "ja", {(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)}),
        # two thousand , three hundred and forty - five: 二 千 三 百 四 十 五
        (2345, "en", "zh", {(0, 0), (1, 1), (3, 2), (4, 3), (6, 4), (6, 5), (8, 6)}),
    ],
)
def test_numbers_aligned_by_hand(
    number: int, source: str, target: str, expected: set[tuple[int, int]]
) -> None:
    assert numbers.pair(number, source, target).alignment == expected


def test_french_aligns_every_word_and_only_those_that_stand_for_something() -> None:
    for number in range(0, numbers.LIMIT, 3):
        pair = numbers.pair(number, "fr", "en")
        loose = {word for i, word in enumerate(pair.source) if i not in {a for a, _ in pair.alignment}}
        assert loose <= {"-"}
        left = {word for j, word in enumerate(pair.target) if j not in {b for _, b in pair.alignment}}
        assert left <= {",", "and"}


def test_a_number_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="number=10000 is out of range; give one from 0 to 9,999"):
        numbers.words_of(10_000, "en")


# Dates


DAYS = [date(1900, 1, 1), date(2024, 2, 29), date(2099, 12, 31)]
DAYS += [date(2024, 1, 1) + timedelta(days=9 * step) for step in range(80)]


@pytest.mark.parametrize("language", LANGUAGES)
def test_dates_are_written_as_babel_writes_them(language: str) -> None:
    for day in DAYS:
        for style in dates.STYLES:
            written = join([word for word, _ in dates.words_of(day, style, language)], language)
            if style == "numeric":
                assert written == format_skeleton("yMd", day, locale=language)
            else:
                assert written == format_date(day, style, locale=language)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_is_one_date_in_one_style(language: str) -> None:
    texts = {
        tuple(word for word, _ in dates.words_of(day, style, language))
        for day in DAYS
        for style in dates.STYLES
    }
    assert len(texts) == len(set(DAYS)) * len(dates.STYLES)


@pytest.mark.parametrize(
    ("style", "language", "expected"),
    [
        # Friday , March 1 , 2024: vendredi 1 mars 2024, Freitag , 1 . März 2024, 2024 年 3 月 1 日 星期五
        ("full", "fr", {(0, 0), (2, 2), (3, 1), (5, 3)}),
        ("full", "de", {(0, 0), (1, 1), (2, 4), (3, 2), (3, 3), (5, 5)}),
        ("full", "zh", {(0, 6), (2, 2), (2, 3), (3, 4), (3, 5), (5, 0), (5, 1)}),
        ("full", "ja", {(0, 6), (2, 2), (2, 3), (3, 4), (3, 5), (5, 0), (5, 1)}),
        # March 1 , 2024
        ("long", "fr", {(0, 1), (1, 0), (3, 2)}),
        ("long", "de", {(0, 2), (1, 0), (1, 1), (3, 3)}),
        ("long", "zh", {(0, 2), (0, 3), (1, 4), (1, 5), (3, 0), (3, 1)}),
        # 3 / 1 / 2024
        ("numeric", "fr", {(0, 2), (1, 1), (2, 0), (3, 3), (4, 4)}),
        ("numeric", "de", {(0, 2), (1, 1), (2, 0), (3, 3), (4, 4)}),
        ("numeric", "ja", {(0, 2), (1, 1), (2, 4), (3, 3), (4, 0)}),
    ],
)
def test_dates_aligned_by_hand(style: str, language: str, expected: set[tuple[int, int]]) -> None:
    assert dates.pair(date(2024, 3, 1), style, "en", language).alignment == expected


# Names


def test_names_are_those_of_cldr_and_lists_are_joined_as_babel_joins_them() -> None:
    tables = {language: Locale.parse(language) for language in LANGUAGES}
    for pair in pairs("names", "en", "ja", count=300) + pairs("names", "de", "zh", count=300):
        kind, *codes = pair.skeleton.split()
        for language, text, tokens in (
            (pair.source_language, pair.source_text, pair.source),
            (pair.target_language, pair.target_text, pair.target),
        ):
            locale = tables[language]
            table = {
                "country": locale.territories,
                "language": locale.languages,
                "month": {str(k): v for k, v in locale.months["format"]["wide"].items()},
                "weekday": {str(k): v for k, v in locale.days["format"]["wide"].items()},
            }[kind]
            written = [str(table[code]) for code in codes]
            assert text == format_list([word for word in tokens if word in written], locale=language)
            assert sum(word in written for word in tokens) == len(codes)


def test_a_name_is_aligned_with_its_translation() -> None:
    for language in ("fr", "de", "zh", "ja"):
        for pair in pairs("names", "en", language, count=300):
            kind, *codes = pair.skeleton.split()
            named = {(names.names(kind)[code]["en"], names.names(kind)[code][language]) for code in codes}
            signs = {",", "and", "et", "und", "、", "和"}
            assert {link for link in links(pair) if not set(link) & signs} == named


def test_a_name_means_one_thing_in_every_language() -> None:
    for language in LANGUAGES:
        words = [name[language] for kind in names.KINDS for name in names.names(kind).values()]
        assert len(words) == len(set(words)) > 350
        assert "Nauru" not in words and "Fidschi" not in words


def test_names_alone_are_for_training_only() -> None:
    assert any(len(pair.source) == 1 for pair in pairs("names", count=200))
    for split in ("validation", "test"):
        assert all(len(pair.source) > 1 for pair in pairs("names", split=split, count=200))


def test_an_unknown_kind_of_name_is_refused() -> None:
    with pytest.raises(ValueError, match="kind='river' is not known"):
        names.names("river")
