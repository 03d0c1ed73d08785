"""BERT's cleaning against the `tokenizers` library, for every character there is."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

import pytest
from tokenizers import normalizers, pre_tokenizers

from course_lib.tokenizers.bert_text import BertText, _clean, _decompose
from course_lib.tokenizers.unicode8 import is_control, is_mark, is_punctuation

# A character that this Python does not know yet may have been given a meaning since.
CHARACTERS = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) not in ("Cn", "Cs")]


def bert_normalizer(**chosen: bool) -> Callable[[str], str]:
    """The library's normalizer with only these steps switched on."""
    steps = dict.fromkeys(("clean_text", "handle_chinese_chars", "strip_accents", "lowercase"), False)
    return normalizers.BertNormalizer(**(steps | chosen)).normalize_str


def test_cleaning_and_chinese_spacing_of_every_character() -> None:
    normalize = bert_normalizer(clean_text=True, handle_chinese_chars=True)
    assert [c for c in CHARACTERS if normalize(f"a{c}b") != f"a{_clean(c)}b"] == []


def test_controls_are_the_librarys() -> None:
    normalize = bert_normalizer(clean_text=True)
    dropped = {c for c in CHARACTERS if normalize(f"a{c}b") == "ab"}
    assert dropped ^ {c for c in CHARACTERS if is_control(c)} == {"\t", "\n", "\r", "\ufffd"}


def test_accents_of_every_character() -> None:
    normalize = bert_normalizer(strip_accents=True)

    def stripped(character: str) -> str:
        return "".join(part for part in _decompose(character) if not is_mark(part))

    assert [c for c in CHARACTERS if normalize(f"a{c}") != f"a{stripped(c)}"] == []


def test_lower_case_of_every_character() -> None:
    normalize = bert_normalizer(lowercase=True)
    assert [c for c in CHARACTERS if normalize(c) != c.lower()] == []


def test_punctuation_is_the_librarys_for_every_character() -> None:
    split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    assert [c for c in CHARACTERS if (len(split(f"a{c}b")) == 3) != is_punctuation(c)] == []


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("strip_accents", [True, False, None])
def test_words_are_the_librarys(odd_strings: list[str], lowercase: bool, strip_accents: bool | None) -> None:
    normalize = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strip_accents).normalize_str
    split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    ours = BertText(lowercase=lowercase, strip_accents=strip_accents)
    for text in odd_strings[:3000]:
        assert ours.words(text) == [word for word, _ in split(normalize(text))]


def test_a_greek_word_keeps_no_final_sigma() -> None:
    assert BertText().words("ΣΊΣΥΦΟΣ") == ["σισυφοσ"]
    assert "ΣΊΣΥΦΟΣ".lower().endswith("ς")  # what lowering the whole word would give
