"""Sentences of `data.translation`. Oracles: translations and alignments by hand, and rules of grammar."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import islice

import pytest

from course_lib.data.translation import Pair, pairs, sentences

FRENCH = pairs("sentences", "en", "fr", count=12_000, seed=5)
CHINESE = pairs("sentences", "en", "zh", count=12_000, seed=5)
BY_TEXT = {
    "fr": {pair.source_text: pair for pair in FRENCH},
    "zh": {pair.source_text: pair for pair in CHINESE},
}


def links(pair: Pair) -> str:
    return " ".join(f"{pair.source[i]}-{pair.target[j]}" for i, j in sorted(pair.alignment))


@pytest.mark.parametrize(
    ("language", "english", "translated", "aligned"),
    [
        (
            "fr",
            "Apple gave Eva an apple.",
            "Apple a donné une pomme à Eva.",
            "Apple-Apple gave-a gave-donné Eva-Eva an-une apple-pomme .-.",
        ),
        (
            "zh",
            "Apple gave Eva an apple.",
            "苹果给了伊娃一个苹果。",
            "Apple-苹果 gave-给 Eva-伊娃 an-一个 apple-苹果 .-。",
        ),
        (
            "fr",
            "Apple made a new computer.",
            "Apple a fabriqué un nouvel ordinateur.",
            "Apple-Apple made-a made-fabriqué a-un new-nouvel computer-ordinateur .-.",
        ),
        (
            "zh",
            "Rosa bought a watch from Apple.",
            "罗莎从苹果那里买了一块手表。",
            "Rosa-罗莎 bought-买 a-一块 watch-手表 from-从 from-那里 Apple-苹果 .-。",
        ),
        (
            "fr",
            "Later, the water rose over the bank.",
            "Plus tard, l'eau a recouvert la rive.",
            "Later-Plus Later-tard ,-, the-l' water-eau rose-a rose-recouvert the-la bank-rive .-.",
        ),
        (
            "fr",
            "The bank lent Anna some money.",
            "La banque a prêté de l'argent à Anna.",
            "The-La bank-banque lent-a lent-prêté Anna-Anna some-de some-l' money-argent .-.",
        ),
        (
            "zh",
            "After that, the bank lent Sam some money.",
            "在那之后，银行借给了萨姆一些钱。",
            "After-在 After-之后 that-那 ,-， bank-银行 lent-借给 Sam-萨姆 some-一些 money-钱 .-。",
        ),
        (
            "zh",
            "Soon the boy went to the park.",
            "不久，男孩去了公园。",
            "Soon-不久 boy-男孩 went-去 park-公园 .-。",
        ),
        (
            "fr",
            "One morning, Victor went to the farmyard.",
            "Un matin, Victor est allé dans la cour de ferme.",
            "One-Un morning-matin ,-, Victor-Victor went-est went-allé to-dans the-la farmyard-cour "
            "farmyard-de farmyard-ferme .-.",
        ),
    ],
)
def test_sentences_translated_and_aligned_by_hand(
    language: str, english: str, translated: str, aligned: str
) -> None:
    pair = BY_TEXT[language][english]
    assert pair.target_text == translated
    assert links(pair) == aligned


def test_both_languages_tell_the_same_sentences() -> None:
    assert [pair.source for pair in FRENCH] == [pair.source for pair in CHINESE]
    assert [pair.skeleton for pair in FRENCH] == [pair.skeleton for pair in CHINESE]


def test_capital_apple_is_the_company_and_the_fruit_is_not() -> None:
    senses: Counter[bool] = Counter()
    for french, chinese in zip(FRENCH, CHINESE, strict=True):
        for index, word in enumerate(french.source):
            if word.lower() not in ("apple", "apples"):
                continue
            here = {french.target[j] for i, j in french.alignment if i == index}
            there = {chinese.target[j] for i, j in chinese.alignment if i == index}
            assert here <= ({"Apple"} if word == "Apple" else {"pomme", "pommes"}) and here
            assert there == {"苹果"}
            senses[word == "Apple"] += 1
    assert min(senses.values()) > 200


def test_a_phone_of_apple_is_aligned_word_by_word() -> None:
    found = [pair for pair in FRENCH if "Apple phone" in pair.source_text]
    assert found
    for pair in found:
        assert "Apple-Apple phone-téléphone" in links(pair)


def test_one_english_sentence_has_one_translation_and_names_its_bank() -> None:
    found: dict[tuple[str, ...], set[tuple[str, str]]] = defaultdict(set)
    banks = defaultdict(set)
    for sentence in islice(sentences._sentences(11), 20_000):
        both = (sentence.translation("french").text, sentence.translation("chinese").text)
        found[sentence.words].add(both)
        if "bank" in sentence.words:
            banks[sentence.event].add("银行" in both[1])
    assert all(len(translations) == 1 for translations in found.values())
    assert {True} in banks.values() and {False} in banks.values()
    assert all(len(meant) == 1 for meant in banks.values())


def test_french_agrees_and_puts_adjectives_on_their_side() -> None:
    before, after = 0, 0
    for pair in FRENCH:
        for index, word in enumerate(pair.source[:-1]):
            if word not in ("red", "white", "small", "new"):
                continue
            (adjective,) = [j for i, j in pair.alignment if i == index]
            nouns = [j for i, j in pair.alignment if i == index + 1]
            if not nouns or pair.source[index + 1] in (".", ","):
                continue
            if word in ("small", "new"):
                assert adjective < min(nouns)
                before += 1
            else:
                assert adjective > max(nouns)
                after += 1
    assert min(before, after) > 50


def test_chinese_drops_articles() -> None:
    for pair in CHINESE:
        aligned = {i for i, _ in pair.alignment}
        assert not any(word in ("the", "The") and i in aligned for i, word in enumerate(pair.source))


def test_a_skeleton_keeps_what_makes_a_sentence_and_not_who_is_in_it() -> None:
    by_skeleton = defaultdict(set)
    for pair in FRENCH:
        by_skeleton[pair.skeleton].add(pair.source_text)
    there = by_skeleton["person was there"]
    assert {"Tom was there too.", "Anna was there too."} <= there
    assert all("there" in text for text in there)
    found = by_skeleton["person found apple at Apple"]
    assert any("sweet" in text for text in found) and any("sweet" not in text for text in found)
    assert all("at Apple." in text for text in found)
