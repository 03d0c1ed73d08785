"""WordPiece: its score by hand, the slow trainer, and BERT's way with words."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.data.stdlib_text import reference_prose
from course_lib.tokenizers import WordPieceTokenizer, train_wordpiece, train_wordpiece_slow
from course_lib.tokenizers.bert_text import BertText
from course_lib.tokenizers.wordpiece import join_pieces, split_into_pieces

COURSE_EXAMPLE = {"hug": 10, "pug": 5, "pun": 12, "bun": 4, "hugs": 5}


def test_the_example_of_the_hugging_face_course() -> None:
    # ##g ##s: 5 / (20 · 5) = 1/20, the only pair above 1/36. Then all tie at 1/36, and h ##u was seen first.
    # Then hu ##gs: 5 / (15 · 5) = 1/15, and hu ##g: 10 / (15 · 15) = 2/45. The course's text has 1/15 for
    # both, and so goes on with "hug"; by the formula "hugs" is next.
    assert train_wordpiece_slow(COURSE_EXAMPLE, 4) == ["##gs", "hu", "hugs", "hug"]
    assert train_wordpiece(COURSE_EXAMPLE, 4) == ["##gs", "hu", "hugs", "hug"]


def test_the_score_prefers_a_rare_pair_that_always_stands_together() -> None:
    counts = {"qu": 3, "eu": 50, "en": 100, "an": 100}
    # q u: 3 / (3 · 53); e n: 100 / (150 · 200); a n: 100 / (100 · 200); e u: 50 / (150 · 53)
    assert train_wordpiece(counts, 1) == ["qu"]


@given(st.dictionaries(st.text("abc", min_size=1, max_size=10), st.integers(1, 4), min_size=1, max_size=8))
@settings(max_examples=300, deadline=None)
def test_the_fast_trainer_equals_the_slow_one_on_any_words(word_counts: dict[str, int]) -> None:
    assert train_wordpiece(word_counts, 12) == train_wordpiece_slow(word_counts, 12)


def test_the_fast_trainer_equals_the_slow_one_on_real_text() -> None:
    counts = Counter(BertText().words(reference_prose()[:15_000]))
    assert train_wordpiece(counts, 100) == train_wordpiece_slow(counts, 100)


def test_pairs_rarer_than_min_frequency_wait_or_are_left_out() -> None:
    counts = {"ab": 8, "cd": 2}
    assert train_wordpiece(counts, 5) == ["cd", "ab"]
    assert train_wordpiece(counts, 5, min_frequency=4) == ["ab"]
    assert train_wordpiece(counts, 5, min_frequency=4, relax=True) == ["ab", "cd"]


def test_pieces_join_to_the_word() -> None:
    pieces = split_into_pieces("hugs")
    assert pieces == ["h", "##u", "##g", "##s"]
    word = pieces[0]
    for piece in pieces[1:]:
        word = join_pieces(word, piece)
    assert word == "hugs"


def tokenizer_of(*tokens: str, lowercase: bool = True) -> WordPieceTokenizer:
    """A tokenizer with these tokens after the special ones."""
    names = [*WordPieceTokenizer.default_special_tokens, *tokens]
    return WordPieceTokenizer({name: index for index, name in enumerate(names)}, lowercase=lowercase)


def test_the_longest_piece_wins_from_the_left() -> None:
    # The example of the published code: greedy, so "unaff" comes before any thought of "affable".
    tokenizer = tokenizer_of("un", "##aff", "##able", "unaff", "##a", "##ble")
    assert tokenizer.tokens("unaffable") == ["unaff", "##able"]


def test_a_word_that_cannot_be_finished_is_unknown_as_a_whole() -> None:
    tokenizer = tokenizer_of("hug", "##s", "a")
    assert tokenizer.tokens("hugs hugz a") == ["hug", "##s", "[UNK]", "a"]


def test_a_word_of_more_than_a_hundred_characters_is_unknown() -> None:
    tokenizer = tokenizer_of("a", "##a")
    assert tokenizer.encode("a" * 100) == [5] + [6] * 99
    assert tokenizer.tokens("a" * 101) == ["[UNK]"]


def test_decoding_joins_pieces_and_spaces_words() -> None:
    tokenizer = tokenizer_of("hug", "##s", ",", "café", lowercase=False)
    assert tokenizer.decode(tokenizer.encode("hugs,   café")) == "hugs , café"


def test_a_vocab_file_of_a_published_model_is_read(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhug\n##s\n", encoding="utf-8")
    assert WordPieceTokenizer.from_vocab_file(path).encode("Hugs [MASK]") == [5, 6, 4]


def test_the_vocabulary_is_filled_and_packs_prose() -> None:
    prose = reference_prose()[:100_000]
    tokenizer = WordPieceTokenizer.train([prose], 1000)
    assert tokenizer.vocab_size == 1000
    assert tokenizer.unk_id not in tokenizer.encode(prose)
    assert len(prose) / len(tokenizer.encode(prose)) > 2.5


def test_a_script_with_too_many_letters_keeps_the_frequent_ones() -> None:
    text = "猫" * 50 + " " + "".join(chr(0x4E00 + index) for index in range(300))
    tokenizer = WordPieceTokenizer.train([text], 105)
    assert tokenizer.vocab_size <= 105
    assert tokenizer.token_to_id("猫") is not None


@pytest.mark.parametrize("size", [6, 20])
def test_a_small_vocabulary_is_kept_to(size: int) -> None:
    assert WordPieceTokenizer.train([reference_prose()[:5000]], size).vocab_size <= size
