"""Tokenizers from words to Unigram, each trained here and saved as a `tokenizer.json`.

    tokenizer = BPETokenizer.train(texts, vocab_size=1024)
    ids = tokenizer.encode("Let's do tokenization!")
    assert tokenizer.decode(ids) == "Let's do tokenization!"
    tokenizer.save("tokenizer.json")

The simplest first: `character.py`, `word.py`, `bpe.py`, `wordpiece.py`, `unigram.py`.
"""

from __future__ import annotations

from course_lib.tokenizers.base import Tokenizer
from course_lib.tokenizers.bpe import BPETokenizer, train_bpe, train_bpe_slow
from course_lib.tokenizers.character import CharacterTokenizer
from course_lib.tokenizers.compression import bytes_per_token, fertility, unknown_share
from course_lib.tokenizers.loading import load_tokenizer
from course_lib.tokenizers.unigram import UnigramTokenizer
from course_lib.tokenizers.word import WordTokenizer
from course_lib.tokenizers.wordpiece import WordPieceTokenizer, train_wordpiece, train_wordpiece_slow

__all__ = [
    "BPETokenizer",
    "CharacterTokenizer",
    "Tokenizer",
    "UnigramTokenizer",
    "WordPieceTokenizer",
    "WordTokenizer",
    "bytes_per_token",
    "fertility",
    "load_tokenizer",
    "train_bpe",
    "train_bpe_slow",
    "train_wordpiece",
    "train_wordpiece_slow",
    "unknown_share",
]
