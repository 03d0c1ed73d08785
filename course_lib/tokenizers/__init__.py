"""Tokenizers from words to Unigram, each trained here and saved as a `tokenizer.json`."""

from __future__ import annotations
