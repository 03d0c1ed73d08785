"""Reads a `tokenizer.json` without being told which kind it holds."""

from __future__ import annotations

from pathlib import Path

from course_lib.tokenizers.base import Tokenizer
from course_lib.tokenizers.bpe import BPETokenizer
from course_lib.tokenizers.character import CharacterTokenizer
from course_lib.tokenizers.storage import read_tokenizer_json
from course_lib.tokenizers.unigram import UnigramTokenizer
from course_lib.tokenizers.word import WordTokenizer
from course_lib.tokenizers.wordpiece import WordPieceTokenizer

_KINDS: dict[str, type[Tokenizer]] = {
    "BPE": BPETokenizer,
    "WordPiece": WordPieceTokenizer,
    "Unigram": UnigramTokenizer,
    "WordLevel": WordTokenizer,
}


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer saved at `path`, of whichever kind; `ValueError` if it is none of ours."""
    content = read_tokenizer_json(path)
    kind = content["model"].get("type")
    if kind not in _KINDS:
        raise ValueError(f"{path} holds a model of type {kind!r}; known types are {', '.join(_KINDS)}")
    joins_without_spaces = kind == "WordLevel" and content.get("decoder") == CharacterTokenizer.decoder
    return (CharacterTokenizer if joins_without_spaces else _KINDS[kind]).load(path)
