"""Words and characters: unknowns, decoding, and the library's trainer."""

from __future__ import annotations

import pytest
import tokenizers

from course_lib.data.stdlib_text import reference_prose
from course_lib.tokenizers import CharacterTokenizer, WordTokenizer
from course_lib.tokenizers.word import WORD_PATTERN


def test_a_word_outside_the_vocabulary_is_unknown() -> None:
    tokenizer = WordTokenizer.train(["the film was annoying"], 10)
    assert tokenizer.tokens("the film was annoyingly long") == ["the", "film", "was", "<unk>", "<unk>"]


def test_words_and_signs_stand_alone() -> None:
    tokenizer = WordTokenizer.train(["Don't stop, naïve_1 e\u0301!"], 30)
    assert tokenizer.tokens("Don't stop, naïve_1 e\u0301!") == [
        *("Don", "'", "t", "stop", ",", "naïve_1", "e\u0301", "!")
    ]
    assert tokenizer.decode(tokenizer.encode("stop, Don")) == "stop , Don"


@pytest.mark.parametrize(
    ("kind", "pattern"), [(WordTokenizer, WORD_PATTERN), (CharacterTokenizer, r"[\s\S]")]
)
def test_the_vocabulary_equals_the_library_trainers(kind: type[WordTokenizer], pattern: str) -> None:
    prose = reference_prose()[:50_000]
    trained = tokenizers.Tokenizer(tokenizers.models.WordLevel(unk_token="<unk>"))
    trained.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "removed", invert=True)
    trainer = tokenizers.trainers.WordLevelTrainer(
        vocab_size=500, special_tokens=["<pad>", "<unk>"], show_progress=False
    )
    trained.train_from_iterator([prose], trainer)
    assert kind.train([prose], 500).vocab == trained.get_vocab()


def test_characters_keep_the_text_as_it_is() -> None:
    text = "a  b\n\té 苹果"
    tokenizer = CharacterTokenizer.train([text], 50)
    assert tokenizer.tokens(text) == list(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.tokens("z") == ["<unk>"]


def test_the_most_frequent_are_kept_and_ties_go_by_the_alphabet() -> None:
    tokenizer = CharacterTokenizer.train(["ccbbad"], 5)
    assert list(tokenizer.vocab) == ["<pad>", "<unk>", "b", "c", "a"]
