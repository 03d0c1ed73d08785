"""A pair of sentences that say the same, and how their tokens become the text that a person writes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from course_lib.data.story_world.skeleton import split_of
from course_lib.data.translation.german import NUMBER_WORDS

LANGUAGES = ("en", "fr", "de", "zh", "ja")
UNSPACED = frozenset({"zh", "ja"})
SPLITS = ("train", "validation", "test")

Keyed = list[tuple[str, str]]  # words of a sentence, each with the keys of what it says, spaces between keys

_NO_SPACE_BEFORE = frozenset({",", ".", "?", "!", "”", "-", "/"})
_NO_SPACE_AFTER = frozenset({"“", "-", "/"})


@dataclass(frozen=True)
class Pair:
    """A sentence, its translation, and which of their tokens say the same.

    `alignment` holds (source index, target index). A token may have several partners or none: German *und* in
    *einundzwanzig* has the hyphen of *twenty-one*, the *and* of *one hundred and one* has nothing. `skeleton`
    is what no two splits share; the module's docstring says what it is at each level.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    alignment: frozenset[tuple[int, int]]
    skeleton: str
    source_language: str = "en"
    target_language: str = "fr"

    @property
    def source_text(self) -> str:
        """The source as a person writes it."""
        return join(self.source, self.source_language)

    @property
    def target_text(self) -> str:
        """The target as a person writes it."""
        return join(self.target, self.target_language)

    def reversed(self) -> Pair:
        """The same pair in the other direction."""
        alignment = frozenset((target, source) for source, target in self.alignment)
        return Pair(
            self.target, self.source, alignment, self.skeleton, self.target_language, self.source_language
        )


def align(source: Keyed, target: Keyed, skeleton: str, languages: tuple[str, str]) -> Pair:
    """The pair of two keyed sentences: words that share a key are aligned."""
    alignment = frozenset(
        (i, j)
        for i, (_, source_keys) in enumerate(source)
        for j, (_, target_keys) in enumerate(target)
        if not set(source_keys.split()).isdisjoint(target_keys.split())
    )
    return Pair(
        tuple(word for word, _ in source), tuple(word for word, _ in target), alignment, skeleton, *languages
    )


def assigned_split(level: str, skeleton: str) -> str:
    """The split of a skeleton: eight tenths are for training, one for validation, one for the test."""
    found = split_of((level, skeleton))
    return "validation" if found == "valid" else found


def join(tokens: Sequence[str], language: str) -> str:
    """Written text from tokens.

    >>> join(["twenty", "-", "one"], "en"), join(["ein", "und", "zwanzig"], "de")
    ('twenty-one', 'einundzwanzig')
    """
    if language in UNSPACED or not tokens:
        return "".join(tokens)
    gaps = ["" if _touch(left, right, language) else " " for left, right in pairwise(tokens)]
    return tokens[0] + "".join(gap + token for gap, token in zip(gaps, tokens[1:], strict=True))


def _touch(left: str, right: str, language: str) -> bool:
    """Whether no space stands between two tokens."""
    if right in _NO_SPACE_BEFORE or left in _NO_SPACE_AFTER or left.endswith("'"):
        return True
    if language != "de":
        return False
    return (left == "." and right.isdigit()) or (left in NUMBER_WORDS and right in NUMBER_WORDS)


def tokenize(text: str, language: str, words: Iterable[str] = ()) -> tuple[str, ...]:
    """The tokens of a text, as in the pairs: the inverse of `join`.

    `words` are the words that the reader knows, such as a vocabulary. They decide where text without spaces
    is cut, and which hyphens belong to a word (*grand-père*): at each place the longest known word is
    taken. What is unknown is a run of letters, a number or a sign; in Chinese and Japanese one character.

    >>> tokenize("Friday, March 1, 2024", "en")
    ('Friday', ',', 'March', '1', ',', '2024')
    >>> tokenize("2024年3月1日星期五", "zh", ["星期五"])
    ('2024', '年', '3', '月', '1', '日', '星期五')
    """
    if language not in LANGUAGES:
        raise ValueError(f"language={language!r} is not known; choose one of {', '.join(LANGUAGES)}")
    known = {word for word in words if word}
    longest = max(map(len, known), default=0)
    tokens: list[str] = []
    start = 0
    while start < len(text):
        if text[start].isspace():
            start += 1
            continue
        end = _known_end(text, start, known, longest, language) or _run_end(text, start, language)
        tokens += _compound(text[start:end]) if language == "de" else [text[start:end]]
        start = end
    return tuple(tokens)


def _known_end(text: str, start: int, known: set[str], longest: int, language: str) -> int | None:
    """Where the longest known word ends that begins here and, with spaces between words, is a whole word."""
    for end in range(min(len(text), start + longest), start, -1):
        whole = language in UNSPACED or end == len(text) or not (text[end - 1] + text[end]).isalnum()
        if whole and text[start:end] in known:
            return end
    return None


def _run_end(text: str, start: int, language: str) -> int:
    """The end of a run of digits or letters (an elision's apostrophe included), or of one sign."""
    belongs = str.isdigit if text[start].isdigit() else str.isalpha
    if not belongs(text[start]) or (language in UNSPACED and belongs is str.isalpha):
        return start + 1
    end = start
    while end < len(text) and belongs(text[end]):
        end += 1
    return end + (belongs is str.isalpha and text[end : end + 1] == "'")


def _compound(word: str) -> list[str]:
    """A German number word cut into its parts; any other word whole."""
    parts: list[str] = []
    rest = word
    while rest:
        part = max((known for known in NUMBER_WORDS if rest.startswith(known)), key=len, default="")
        if not part:
            return [word]
        parts.append(part)
        rest = rest.removeprefix(part)
    return parts
