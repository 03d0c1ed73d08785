"""Characters as tokens: nothing is cut wrong, almost nothing is unknown, and sequences are long.

A character is a Unicode code point. What a reader sees as one sign may be several: an accent typed after its
letter, an emoji of a family.
"""

from __future__ import annotations

import regex

from course_lib.tokenizers.word import WholePieceTokenizer


class CharacterTokenizer(WholePieceTokenizer):
    """One token per code point, spaces and line feeds included; `decode` puts nothing between them."""

    pattern = regex.compile(r"[\s\S]")
    decoder = {"type": "Fuse"}  # noqa: RUF012 - a constant, declared a class variable by the base class

    def _split(self, text: str) -> list[str]:
        return list(text)

    def _join(self, tokens: list[str]) -> str:
        return "".join(tokens)
