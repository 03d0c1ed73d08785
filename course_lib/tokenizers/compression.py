"""How well a tokenizer packs text: two numbers to compare tokenizers and languages by."""

from __future__ import annotations

from collections.abc import Iterable

import regex

from course_lib.tokenizers.base import Tokenizer
from course_lib.tokenizers.word import WORD_PATTERN

_WORDS = regex.compile(WORD_PATTERN)


def bytes_per_token(tokenizer: Tokenizer, texts: Iterable[str]) -> float:
    """UTF-8 bytes of the texts per token: higher is tighter. An unknown token packs much and says nothing."""
    texts = _as_list(texts)
    tokens = sum(map(len, tokenizer.encode_batch(texts)))
    return sum(len(text.encode("utf-8")) for text in texts) / _positive(tokens, "tokens")


def fertility(tokenizer: Tokenizer, texts: Iterable[str]) -> float:
    """Tokens per word: 1 would be a word tokenizer's.

    A word is a run of letters, marks and digits, or one other sign. Where words are written without spaces,
    as in Chinese, a run is a whole phrase, so compare such languages by `bytes_per_token`.
    """
    texts = _as_list(texts)
    words = sum(len(_WORDS.findall(text)) for text in texts)
    return sum(map(len, tokenizer.encode_batch(texts))) / _positive(words, "words")


def unknown_share(tokenizer: Tokenizer, texts: Iterable[str]) -> float:
    """The share of tokens that are the unknown token, from 0 to 1."""
    ids = [index for sequence in tokenizer.encode_batch(_as_list(texts)) for index in sequence]
    return (
        ids.count(tokenizer.unk_id) / _positive(len(ids), "tokens") if tokenizer.unk_id is not None else 0.0
    )


def _as_list(texts: Iterable[str]) -> list[str]:
    """The texts; one str is refused, for its characters would be taken as texts."""
    if isinstance(texts, str):
        raise TypeError("a list of texts is needed, got one str; write [text]")
    return list(texts)


def _positive(count: int, what: str) -> int:
    """`count`, or `ValueError` if there is nothing to divide by."""
    if count == 0:
        raise ValueError(f"the texts have no {what}, so there is nothing to measure; give some text")
    return count
