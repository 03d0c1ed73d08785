"""Byte-level BPE against the `tokenizers` library, the slow trainer, and worked examples."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.data.stdlib_text import python_files, reference_prose
from course_lib.tokenizers import BPETokenizer, Tokenizer, train_bpe, train_bpe_slow
from course_lib.tokenizers.bpe import _LONG_CHUNK, GPT2_PATTERN, gpt2_chunks, merge_pair
from course_lib.tokenizers.byte_symbols import BYTE_SYMBOLS, to_bytes, to_symbols

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def library_merges(texts: list[str], vocab_size: int) -> list[tuple[str, str]]:
    """The merges that the `tokenizers` library's trainer learns."""
    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    trained.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator(texts, trainer)
    return merges_of(trained)


def merges_of(trained: tokenizers.Tokenizer) -> list[tuple[str, str]]:
    """The merges in a library tokenizer."""
    import json

    return [tuple(merge) for merge in json.loads(trained.to_str())["model"]["merges"]]


@pytest.mark.parametrize("vocab_size", [256, 257, 1024, 3000])
def test_merges_equal_the_library_trainers_on_real_text(vocab_size: int) -> None:
    texts = [*python_files(0.2), reference_prose()[:100_000]]
    ours = BPETokenizer.train(texts, vocab_size, special_tokens=[])
    assert ours.merges == library_merges(texts, vocab_size)
    assert ours.vocab_size == vocab_size


def test_merges_equal_the_library_trainers_on_many_scripts(odd_strings: list[str]) -> None:
    texts = odd_strings[:3000]
    assert BPETokenizer.train(texts, 1500, special_tokens=[]).merges == library_merges(texts, 1500)


def test_merges_equal_the_library_trainers_where_ties_and_overlaps_abound() -> None:
    for seed in range(300):
        rng = random.Random(seed)
        words = ["".join(rng.choices("abc", k=rng.randint(1, 14))) for _ in range(rng.randint(1, 12))]
        counts = Counter(words * rng.randint(1, 2) + words[:3])
        letters = len(set("".join(words)))
        trained = tokenizers.Tokenizer(tokenizers.models.BPE())
        trained.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
        trainer = tokenizers.trainers.BpeTrainer(vocab_size=letters + 12, show_progress=False)
        trained.train_from_iterator([" ".join(counts.elements())], trainer)
        assert train_bpe(counts, 12) == merges_of(trained), f"seed {seed}"


@given(st.dictionaries(st.text("abc", min_size=1, max_size=12), st.integers(1, 4), min_size=1, max_size=8))
@settings(max_examples=300, deadline=None)
def test_the_fast_trainer_equals_the_slow_one_on_any_words(chunk_counts: dict[str, int]) -> None:
    # Three letters and long words make overlapping pairs, ties, and tokens that two merges spell alike.
    assert train_bpe(chunk_counts, 12) == train_bpe_slow(chunk_counts, 12)


def test_the_fast_trainer_equals_the_slow_one_on_real_text() -> None:
    counts = Counter(gpt2_chunks(reference_prose()[:15_000]))
    assert train_bpe(counts, 150) == train_bpe_slow(counts, 150)


def test_the_classic_example_of_low_lower_newest_widest() -> None:
    counts = {"low": 5, "lower": 2, "newest": 6, "widest": 3}
    merges = train_bpe_slow(counts, 4)
    # es and est occur 9 times, lo and low 7 times: Sennrich et al. 2016, section 3.2
    assert merges == [("e", "s"), ("es", "t"), ("l", "o"), ("lo", "w")]


def test_the_classic_example_of_hug_pug_pun_bun_hugs() -> None:
    counts = {"hug": 10, "pug": 5, "pun": 12, "bun": 4, "hugs": 5}
    assert train_bpe_slow(counts, 3) == [("u", "g"), ("u", "n"), ("h", "ug")]


def test_training_stops_when_no_pair_is_left() -> None:
    assert train_bpe({"ab": 2}, 10) == train_bpe_slow({"ab": 2}, 10) == [("a", "b")]
    assert train_bpe({}, 10) == train_bpe_slow({}, 10) == []
    assert BPETokenizer.train([], 1000).vocab_size == 257


def test_pairs_rarer_than_min_frequency_are_not_joined() -> None:
    counts = {"aab": 3, "cd": 2}
    assert train_bpe(counts, 10, min_frequency=3) == [("a", "a"), ("aa", "b")]


def test_merging_takes_overlapping_pairs_from_the_left() -> None:
    assert merge_pair(list("aaaa"), ("a", "a")) == ["aa", "aa"]
    assert merge_pair(list("aaa"), ("a", "a")) == ["aa", "a"]
    assert merge_pair([], ("a", "a")) == []


@given(ANY_TEXT)
@settings(max_examples=400, deadline=None)
def test_decoding_gives_back_any_text(text: str) -> None:
    assert _english().decode(_english().encode(text)) == text
    assert _english().decode(_english().encode(text, allow_special=False)) == text


@given(st.lists(st.sampled_from(["<|endoftext|>", "<|end", "é", "\n", " ", "word", "|>"])))
def test_decoding_gives_back_text_with_special_tokens(parts: list[str]) -> None:
    text = "".join(parts)
    assert _english().decode(_english().encode(text)) == text


_ENGLISH: list[BPETokenizer] = []


def _english() -> BPETokenizer:
    """A tokenizer that hypothesis can use without a fixture."""
    if not _ENGLISH:
        _ENGLISH.append(BPETokenizer.train([reference_prose()[:50_000]], 600))
    return _ENGLISH[0]


def test_a_lone_surrogate_is_refused_with_its_place_and_a_way_out() -> None:
    with pytest.raises(
        ValueError, match=r"lone surrogate U\+D83D at position 2, which is no character; replace"
    ):
        _english().encode("ab\ud83d")
    with pytest.raises(ValueError, match="lone surrogate"):
        BPETokenizer.train(["\udc00"], 300)


def test_bytes_that_are_no_text_decode_to_the_replacement_character() -> None:
    ids = _english().encode("苹")
    assert len(ids) == 3
    assert _english().decode(ids[:2]) == "\ufffd"
    assert _english().pieces("苹") == ["\\xe8", "\\x8b", "\\xb9"]


def test_tokens_are_written_with_byte_symbols_and_pieces_for_reading() -> None:
    assert _english().tokens(" the the\n") == ["Ġthe", "Ġthe", "Ċ"]
    assert _english().pieces(" the the\n") == [" the", " the", "\n"]


def test_the_256_byte_symbols_are_the_librarys() -> None:
    assert sorted(BYTE_SYMBOLS) == sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    everything = bytes(range(256))
    assert to_bytes("".join(BYTE_SYMBOLS)) == everything


@given(ANY_TEXT)
def test_symbols_turn_back_into_the_bytes(text: str) -> None:
    assert to_bytes(to_symbols(text)) == text.encode("utf-8")


def test_chunks_are_cut_as_in_the_library(odd_strings: list[str]) -> None:
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(GPT2_PATTERN), "isolated")
    for text in odd_strings[:3000]:
        assert gpt2_chunks(text) == [chunk for chunk, _ in split.pre_tokenize_str(text)]


@given(st.text(st.characters(max_codepoint=127)))
@settings(max_examples=500)
def test_the_pattern_for_ascii_cuts_as_the_general_one(text: str) -> None:
    import regex

    assert gpt2_chunks(text) == regex.findall(GPT2_PATTERN, text)


@given(st.text("aab ", min_size=_LONG_CHUNK, max_size=3 * _LONG_CHUNK))
@settings(max_examples=60, deadline=None)
def test_long_chunks_are_encoded_as_by_the_library(text: str) -> None:
    texts = ["".join(random.Random(1).choices("aab", k=400)), "a" * 300]
    ours = BPETokenizer.train(texts, 300)
    stretch = text.replace(" ", "")
    reference = tokenizers.Tokenizer.from_str(ours.to_json())
    assert ours.encode(stretch) == reference.encode(stretch).ids


def test_a_chunk_of_a_megabyte_is_encoded_in_reasonable_time() -> None:
    import time

    text = "".join(random.Random(2).choices("etaoinshrdlu", k=300_000))
    start = time.process_time()
    ids = _english().encode(text)
    assert time.process_time() - start < 30  # a loop over all pairs for each merge takes many minutes
    assert _english().decode(ids) == text


def test_a_vocabulary_smaller_than_the_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="vocab_size=200 is below 256 bytes \\+ 1 special tokens"):
        BPETokenizer.train(["text"], 200)


def test_training_is_the_same_every_time_and_for_an_iterator() -> None:
    texts = [reference_prose()[:20_000], "ab " * 50]
    assert BPETokenizer.train(texts, 400).to_json() == BPETokenizer.train(iter(texts), 400).to_json()


def test_special_tokens_come_first_and_teach_nothing() -> None:
    with_marks = BPETokenizer.train(["low<|endoftext|>lower<|endoftext|>low"] * 5, 262)
    without = BPETokenizer.train(["low", "lower", "low"] * 5, 262)
    assert with_marks.token_to_id("<|endoftext|>") == with_marks.eos_id == 0
    assert with_marks.merges == without.merges


def test_the_cache_is_bounded(trained: dict[str, Tokenizer]) -> None:
    tokenizer = trained["BPETokenizer"]
    cache = type(tokenizer._cache)(tokenizer._encode_stretch, size=10, longest=5)
    for number in range(1000):
        assert cache[f"w{number}"] == tokenizer._encode_stretch(f"w{number}")
        assert len(cache) <= 10
    assert cache["longer than five"] and "longer than five" not in cache
