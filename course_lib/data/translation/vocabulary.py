"""Tokens as numbers, with the four special ids that every translator of the course uses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

PAD, BEGIN, END, UNKNOWN = 0, 1, 2, 3
SPECIAL_TOKENS = ("<pad>", "<begin>", "<end>", "<unknown>")


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of one language in the order of their ids: the four special ones, then the words.

    >>> vocabulary = Vocabulary.of([("le", "chat"), ("le", "chien")])
    >>> vocabulary.encode(("le", "cheval"), begin=True, end=True)
    [1, 4, 3, 2]
    """

    tokens: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.tokens[: len(SPECIAL_TOKENS)] != SPECIAL_TOKENS:
            raise ValueError(
                f"tokens begins with {self.tokens[:4]}, not with the special tokens; use Vocabulary.of"
            )
        if len(set(self.tokens)) < len(self.tokens):
            raise ValueError("tokens holds a token twice; give each once")

    @classmethod
    def of(cls, sentences: Iterable[Sequence[str]], min_count: int = 1) -> Vocabulary:
        """The words met at least `min_count` times, the most frequent first, equals by the alphabet."""
        counts = Counter(token for sentence in sentences for token in sentence)
        words = [word for word, times in counts.items() if times >= min_count and word not in SPECIAL_TOKENS]
        return cls((*SPECIAL_TOKENS, *sorted(words, key=lambda word: (-counts[word], word))))

    @property
    def words(self) -> tuple[str, ...]:
        """The tokens without the special ones."""
        return self.tokens[len(SPECIAL_TOKENS) :]

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {token: index for index, token in enumerate(self.tokens)}

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, sentence: Sequence[str], *, begin: bool = False, end: bool = False) -> list[int]:
        """The ids of a sentence's tokens, between `BEGIN` and `END` where asked for."""
        ids = [self._ids.get(token, UNKNOWN) for token in sentence]
        return [BEGIN] * begin + ids + [END] * end

    def decode(self, ids: Iterable[int]) -> tuple[str, ...]:
        """The tokens up to the first `END`; padding and `BEGIN` are left out."""
        tokens: list[str] = []
        for index in ids:
            if index == END:
                break
            if index not in (PAD, BEGIN):
                tokens.append(self.tokens[index])
        return tuple(tokens)
