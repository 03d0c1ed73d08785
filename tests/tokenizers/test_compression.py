"""Bytes a token, tokens a word: against counting by hand."""

from __future__ import annotations

import pytest

from course_lib.tokenizers import (
    BPETokenizer,
    CharacterTokenizer,
    Tokenizer,
    WordTokenizer,
    bytes_per_token,
    fertility,
    unknown_share,
)


def test_without_merges_a_token_is_a_byte() -> None:
    plain = BPETokenizer.train([], 257)
    assert bytes_per_token(plain, ["abc", "苹果"]) == 1
    assert fertility(plain, ["ab cd"]) == 2.5  # five bytes, the space among them, for two words


def test_a_character_may_be_several_bytes() -> None:
    tokenizer = CharacterTokenizer.train(["苹果ab"], 20)
    assert bytes_per_token(tokenizer, ["苹果ab"]) == 8 / 4


def test_a_word_tokenizer_has_one_token_a_word() -> None:
    tokenizer = WordTokenizer.train(["one two"], 20)
    assert fertility(tokenizer, ["one two", "three, four"]) == 1
    assert unknown_share(tokenizer, ["one two three four"]) == 0.5


def test_a_tokenizer_without_unknowns_has_a_share_of_zero(trained: dict[str, Tokenizer]) -> None:
    assert unknown_share(trained["BPETokenizer"], ["anything 苹果"]) == 0


@pytest.mark.parametrize("measure", [bytes_per_token, fertility])
def test_nothing_to_measure_is_refused(measure: object, trained: dict[str, Tokenizer]) -> None:
    assert callable(measure)
    with pytest.raises(ValueError, match="nothing to measure"):
        measure(trained["BPETokenizer"], [""])
    with pytest.raises(TypeError, match="got one str"):
        measure(trained["BPETokenizer"], "text")
