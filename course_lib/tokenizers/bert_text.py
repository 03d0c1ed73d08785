"""BERT's cleaning of text, and its cutting into words: what happens before WordPiece.

Controls go, every kind of space becomes one space, each Chinese character and each sign of punctuation stands
alone; the uncased models also lose capitals and accents.

Source: Devlin et al. 2019, `BasicTokenizer` in the published code; the details follow `tokenizers`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from course_lib.tokenizers.unicode8 import YOUNGER_COMPOSITES, is_control, is_mark, is_punctuation

_CHINESE_BLOCKS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (
        0x2B920,
        0x2CEAF,
    ),  # starts at 2B820 in Unicode; a slip in the published code that every model has learned
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
_COMPOSITES_TO_KEEP = re.compile(f"([{''.join(sorted(YOUNGER_COMPOSITES))}])")


class _CharacterTable(dict[int, str]):
    """A table for `str.translate` that works out the entry of a character when it first meets it."""

    def __init__(self, rule: Callable[[str], str]) -> None:
        super().__init__()
        self._rule = rule

    def __missing__(self, code: int) -> str:
        self[code] = replacement = self._rule(chr(code))
        return replacement


class BertText:
    """Cuts text into the words that WordPiece sees.

    >>> BertText(lowercase=True).words("Café, naïve!")
    ['cafe', ',', 'naive', '!']
    """

    def __init__(self, *, lowercase: bool = True, strip_accents: bool | None = None) -> None:
        """`strip_accents=None` follows `lowercase`, as in BERT."""
        self.lowercase = lowercase
        self.strip_accents = lowercase if strip_accents is None else strip_accents
        self._cleaning = _CharacterTable(_clean)
        self._folding = _CharacterTable(self._fold)

    def words(self, text: str) -> list[str]:
        """The words and signs of `text`, cleaned."""
        cleaned = text.translate(self._cleaning)
        if self.strip_accents and not cleaned.isascii():
            cleaned = _decompose(cleaned)
        # Only spaces are left between words: cleaning has removed or replaced all else that `split` cuts at.
        return cleaned.translate(self._folding).split()

    def _fold(self, character: str) -> str:
        """A character of cleaned text, without accent or capital, with spaces about punctuation."""
        if self.strip_accents and is_mark(character):
            return ""
        if is_punctuation(character):
            return f" {character} "
        # One character at a time: `str.lower` on a whole word knows the Greek final sigma, BERT does not.
        return character.lower() if self.lowercase else character


def _clean(character: str) -> str:
    """A character of raw text: dropped, made a space, spaced out, or kept."""
    if character in "\t\n\r":
        return " "
    if character in "\0\ufffd" or is_control(character):
        return ""
    if character.isspace():
        return " "
    return f" {character} " if _is_chinese(character) else character


def _is_chinese(character: str) -> bool:
    """Whether `character` is in one of the blocks of Chinese characters; kana and hangul are not."""
    return any(low <= ord(character) <= high for low, high in _CHINESE_BLOCKS)


def _decompose(text: str) -> str:
    """`text` with letters and their accents taken apart (NFD)."""
    parts = _COMPOSITES_TO_KEEP.split(text)
    parts[::2] = [unicodedata.normalize("NFD", part) for part in parts[::2]]
    return "".join(parts)
