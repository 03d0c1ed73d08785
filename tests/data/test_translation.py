"""`data.translation`: seeds, splits, text and tokens. Oracles: pinned digests, and what a split promises."""

from __future__ import annotations

import doctest
import hashlib
import importlib
import json
import time
from collections import Counter
from functools import cache

import pytest

from course_lib.data import translation
from course_lib.data.translation import SPLITS, Pair, Vocabulary, join, pairs, tokenize
from course_lib.data.translation import names as names_module
from course_lib.data.translation.generate import LEVELS, LevelName

DIRECTIONS: list[tuple[LevelName, str, str]] = [
    ("dates", "en", "fr"),
    ("dates", "ja", "de"),
    ("names", "en", "zh"),
    ("names", "de", "en"),
    ("numbers", "en", "de"),
    ("numbers", "fr", "ja"),
    ("sentences", "en", "fr"),
    ("sentences", "zh", "en"),
]
COUNTS = {"train": 4000, "validation": 600, "test": 600}
SENTENCES = 15_000  # for training: their words are many
every_direction = pytest.mark.parametrize(("level", "source", "target"), DIRECTIONS)


@cache
def drawn(level: LevelName, source: str, target: str, split: str) -> tuple[Pair, ...]:
    """Pairs of a split; each split has a seed of its own, as in real use."""
    count = SENTENCES if (level, split) == ("sentences", "train") else COUNTS[split]
    return tuple(pairs(level, source, target, split=split, count=count, seed=SPLITS.index(split)))


def digest(found: list[Pair]) -> str:
    rows = [[pair.source_text, pair.target_text, sorted(pair.alignment), pair.skeleton] for pair in found]
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("level", "source", "target", "expected"),
    [
        ("dates", "en", "fr", "6bde0a4363cf16e0"),
        ("names", "en", "ja", "62d9cf1f63b8bf7f"),
        ("numbers", "en", "de", "7cabcddb4cfc8e76"),
        ("sentences", "en", "fr", "5821abb50194d227"),
        ("sentences", "en", "zh", "fb4f3ca9e5c16dd8"),
    ],
)
def test_a_seed_gives_the_same_bytes_on_every_machine(
    level: LevelName, source: str, target: str, expected: str
) -> None:
    assert digest(pairs(level, source, target, count=200, seed=7)) == expected


@every_direction
def test_a_longer_list_begins_with_the_shorter_and_another_seed_gives_another(
    level: LevelName, source: str, target: str
) -> None:
    short = pairs(level, source, target, count=20, seed=1)
    assert pairs(level, source, target, count=40, seed=1)[:20] == short
    assert pairs(level, source, target, count=20, seed=2) != short


@every_direction
@pytest.mark.parametrize("splits", [("train", "validation"), ("train", "test"), ("validation", "test")])
def test_no_two_splits_share_a_skeleton_or_a_sentence(
    level: LevelName, source: str, target: str, splits: tuple[str, str]
) -> None:
    one, other = (drawn(level, source, target, split) for split in splits)
    assert {pair.skeleton for pair in one}.isdisjoint(pair.skeleton for pair in other)
    assert {pair.source for pair in one}.isdisjoint(pair.source for pair in other)
    assert {pair.target for pair in one}.isdisjoint(pair.target for pair in other)


@every_direction
def test_what_is_held_back_is_new_but_its_words_are_not(level: LevelName, source: str, target: str) -> None:
    train = drawn(level, source, target, "train")
    for side in ("source", "target"):
        known = {word for pair in train for word in getattr(pair, side)}
        words = Counter(word for pair in drawn(level, source, target, "test") for word in getattr(pair, side))
        unknown = sum(times for word, times in words.items() if word not in known)
        assert unknown <= 0.001 * words.total()


@every_direction
def test_no_source_comes_twice_and_every_index_is_in_its_sentence(
    level: LevelName, source: str, target: str
) -> None:
    train = drawn(level, source, target, "train")
    assert len({pair.source for pair in train}) == len(train)
    for pair in train:
        assert pair.alignment
        assert all(0 <= i < len(pair.source) and 0 <= j < len(pair.target) for i, j in pair.alignment)


@every_direction
def test_the_other_direction_is_the_same_pair_reversed(level: LevelName, source: str, target: str) -> None:
    forth = {pair.source: pair for pair in pairs(level, source, target, count=300)}
    back = [pair.reversed() for pair in pairs(level, target, source, count=300)]
    shared = [pair for pair in back if pair.source in forth]
    assert len(shared) > 280
    same = sum(pair == forth[pair.source] for pair in shared)
    assert same >= len(shared) - 2  # one Chinese sentence may be two in English: 苹果 is an apple or apples
    assert (shared[0].source_language, shared[0].target_language) == (source, target)


@every_direction
def test_tokens_come_back_from_the_text(level: LevelName, source: str, target: str) -> None:
    words = Vocabulary.of(pair.source for pair in drawn(level, source, target, "train")).words
    test = drawn(level, source, target, "test")
    cut = sum(tokenize(pair.source_text, source, words) == pair.source for pair in test)
    assert cut >= 0.99 * len(test)
    assert all(join(tokenize(pair.source_text, source, words), source) == pair.source_text for pair in test)


def test_text_is_cut_without_known_words_too() -> None:
    assert tokenize("Friday, March 1, 2024", "en") == ("Friday", ",", "March", "1", ",", "2024")
    assert tokenize("l'écharpe d'Anna", "fr") == ("l'", "écharpe", "d'", "Anna")
    assert tokenize("neunundneunzig Tage", "de") == ("neun", "und", "neunzig", "Tage")
    assert tokenize("2024年苹果", "zh") == ("2024", "年", "苹", "果")
    assert tokenize("grand-père", "fr", ["grand-père"]) == ("grand-père",)
    assert tokenize("grand-père", "fr") == ("grand", "-", "père")
    assert tokenize("applepie", "en", ["apple"]) == ("applepie",)
    assert tokenize("  ", "en") == ()
    with pytest.raises(ValueError, match="language='it' is not known; choose one of en, fr, de, zh, ja"):
        tokenize("ciao", "it")


def test_the_docstring_has_the_sizes() -> None:
    dates = sum(_size("dates", split) for split in SPLITS)
    numbers = sum(_size("numbers", split) for split in SPLITS)
    kinds = [len(names_module.names(kind)) for kind in names_module.KINDS]
    names = sum(n + n * (n - 1) + n * (n - 1) * (n - 2) for n in kinds)
    for size in (dates, numbers, names):
        assert f"({size:,})" in (translation.__doc__ or "")


def _size(level: str, split: str) -> int:
    return sum(1 for _ in LEVELS[level].stream("zh", "ja", split, 0))


def test_a_split_that_is_used_up_says_how_much_it_has() -> None:
    with pytest.raises(ValueError, match=r"count=8,001 is more than there is: ask for at most 7,960 pairs"):
        pairs("numbers", count=8001)
    assert len(pairs("numbers", count=7960)) == 7960
    assert pairs("numbers", count=0) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"level": "poems"}, "level='poems' is not known; choose one of dates, names, numbers, sentences"),
        ({"target": "it"}, "'dates' has no pairs from 'en' to 'it'"),
        ({"target": "en"}, "'dates' has no pairs from 'en' to 'en'"),
        ({"level": "sentences", "target": "de"}, "it has en to fr, en to zh, fr to en, zh to en"),
        ({"split": "valid"}, "split='valid' is not known; choose one of train, validation, test"),
        ({"count": -1}, "count=-1 is negative"),
    ],
)
def test_what_does_not_exist_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pairs(**{"level": "dates", "count": 1, **arguments})  # type: ignore[arg-type]


def test_ten_thousand_sentences_take_seconds() -> None:
    start = time.process_time()
    assert len(pairs("sentences", count=10_000, seed=9)) == 10_000
    assert time.process_time() - start < 20


def test_a_vocabulary_numbers_frequent_words_first() -> None:
    vocabulary = Vocabulary.of([("b", "a"), ("a", "c"), ("a", "c")])
    assert vocabulary.tokens == ("<pad>", "<begin>", "<end>", "<unknown>", "a", "c", "b")
    assert len(vocabulary) == 7
    assert vocabulary.encode(("a", "z", "b")) == [4, 3, 6]
    assert vocabulary.encode((), begin=True, end=True) == [1, 2]
    assert vocabulary.decode([1, 4, 6, 0, 3, 2, 5]) == ("a", "b", "<unknown>")
    assert Vocabulary.of([("a", "b", "a")], min_count=2).words == ("a",)
    assert Vocabulary.of([]).words == ()


@pytest.mark.parametrize(
    ("tokens", "message"),
    [(("a", "b"), "use Vocabulary.of"), ((*translation.SPECIAL_TOKENS, "a", "a"), "a token twice")],
)
def test_a_vocabulary_needs_its_special_tokens_and_no_word_twice(
    tokens: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Vocabulary(tokens)


@pytest.mark.parametrize("name", ["", ".pair", ".numbers", ".names", ".dates", ".vocabulary", ".generate"])
def test_the_examples_in_docstrings_are_true(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"course_lib.data.translation{name}"))
    assert result.failed == 0
    assert result.attempted > 0
