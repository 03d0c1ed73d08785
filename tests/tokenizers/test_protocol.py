"""What every tokenizer promises, whatever its kind."""

from __future__ import annotations

import doctest
import importlib

import numpy as np
import pytest

from course_lib.tokenizers import BPETokenizer, Tokenizer, WordPieceTokenizer, WordTokenizer


def test_the_empty_text_has_no_tokens(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("") == []
    assert tokenizer.tokens("") == []
    assert tokenizer.decode([]) == ""
    assert tokenizer.encode_batch([]) == []


def test_ids_and_tokens_name_each_other(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == len(tokenizer.vocab) <= 800
    for index in range(tokenizer.vocab_size):
        assert tokenizer.token_to_id(tokenizer.id_to_token(index)) == index
    assert tokenizer.token_to_id("no token is spelled like this") is None


def test_tokens_are_the_encoded_ids_by_name(tokenizer: Tokenizer) -> None:
    text = "The value of the expression 苹果 is 42."
    ids = tokenizer.encode(text)
    assert tokenizer.tokens(text) == [tokenizer.id_to_token(index) for index in ids]
    assert len(tokenizer.pieces(text)) == len(ids)


def test_a_batch_is_each_text_encoded(tokenizer: Tokenizer) -> None:
    texts = ["one", "", "two words"]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


def test_special_tokens_have_the_first_ids_and_are_never_split(tokenizer: Tokenizer) -> None:
    assert list(tokenizer.special_tokens) == [
        tokenizer.id_to_token(i) for i in range(len(tokenizer.special_tokens))
    ]
    for token in tokenizer.special_tokens:
        assert tokenizer.encode(token) == [tokenizer.token_to_id(token)]
        assert tokenizer.token_to_id(token) in tokenizer.encode(f"before{token}after")


def test_special_tokens_from_a_stranger_can_be_read_as_plain_text(tokenizer: Tokenizer) -> None:
    reserved = {tokenizer.token_to_id(token) for token in tokenizer.special_tokens} - {tokenizer.unk_id}
    for token in tokenizer.special_tokens:
        assert not reserved & set(tokenizer.encode(f"a {token} b", allow_special=False))


def test_of_special_tokens_that_overlap_the_longest_is_found() -> None:
    tokenizer = BPETokenizer.train(["text"], 300, special_tokens=["<a>", "<a><b>", "<b>"])
    assert tokenizer.tokens("<a><b><b><a>") == ["<a><b>", "<b>", "<a>"]


def test_roles_lead_to_ids_or_to_none(trained: dict[str, Tokenizer]) -> None:
    wordpiece = trained["WordPieceTokenizer"]
    names = ["pad", "unk", "cls", "sep", "mask"]
    assert [getattr(wordpiece, f"{name}_id") for name in names] == [0, 1, 2, 3, 4]
    assert wordpiece.bos_id is None
    assert trained["BPETokenizer"].pad_id is None  # trained without <|pad|>
    with_pad = BPETokenizer.train([], 300, special_tokens=["<|endoftext|>", "<|pad|>"])
    assert (with_pad.eos_id, with_pad.pad_id) == (0, 1)


def test_skipping_special_tokens_leaves_the_text(trained: dict[str, Tokenizer]) -> None:
    tokenizer = trained["BPETokenizer"]
    ids = tokenizer.encode("one<|endoftext|>two")
    assert tokenizer.decode(ids) == "one<|endoftext|>two"
    assert tokenizer.decode(ids, skip_special=True) == "onetwo"


def test_ids_may_come_as_an_array(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("some words")
    assert tokenizer.decode(np.array(ids)) == tokenizer.decode(ids)


@pytest.mark.parametrize("wrong", [-1, 800, 10**9])
def test_an_id_outside_the_vocabulary_is_refused(tokenizer: Tokenizer, wrong: int) -> None:
    with pytest.raises(ValueError, match=f"id {wrong} is outside this vocabulary of {tokenizer.vocab_size}"):
        tokenizer.decode([wrong])


def test_what_is_no_text_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(TypeError, match="must be a str, got bytes"):
        tokenizer.encode(b"bytes")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="got one str"):
        tokenizer.encode_batch("text")
    with pytest.raises(TypeError, match="got one str"):
        type(tokenizer).train("text", 800)
    with pytest.raises(TypeError, match="must be a str, got NoneType"):
        type(tokenizer).train([None], 800)  # type: ignore[list-item]
    with pytest.raises(TypeError, match="special_tokens must be a list"):
        type(tokenizer).train(["text"], 800, special_tokens="<unk>")
    with pytest.raises(ValueError, match="lone surrogate"):
        tokenizer.encode("\ud800")


@pytest.mark.parametrize("special", [["<a>", "<a>"], [""]])
def test_special_tokens_that_are_empty_or_repeated_are_refused(special: list[str]) -> None:
    with pytest.raises(ValueError, match="non-empty and all different"):
        BPETokenizer.train(["text"], 300, special_tokens=special)


def test_a_kind_with_unknowns_needs_its_unknown_token() -> None:
    with pytest.raises(ValueError, match=r"lack '\[UNK\]', the unknown token"):
        WordPieceTokenizer.train(["text"], 300, special_tokens=["[PAD]"])


def test_a_vocabulary_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="vocab_size=2 leaves no room beside 2 special tokens"):
        WordTokenizer.train(["text"], 2)


def test_a_vocabulary_with_gaps_is_refused() -> None:
    with pytest.raises(ValueError, match="without gaps or repeats"):
        WordTokenizer({"<unk>": 0, "a": 2}, ["<unk>"])


def test_training_is_the_same_every_time(tokenizer: Tokenizer, training_texts: list[str]) -> None:
    assert type(tokenizer).train(iter(training_texts), 800).to_json() == tokenizer.to_json()


def test_progress_is_shown_only_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    WordPieceTokenizer.train(["some words"], 50)
    assert capsys.readouterr().err == ""
    WordPieceTokenizer.train(["some words"], 50, progress=True)
    assert "reading" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["base", "bert_text", "bpe", "byte_symbols", "letters", "unigram", "word", "wordpiece"]
)
def test_the_examples_in_docstrings_are_true(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"course_lib.tokenizers.{name}"))
    assert result.failed == 0
    assert result.attempted > 0 or name in ("base", "word")
