"""Words as tokens: the oldest idea, and where the unknown word comes from.

The vocabulary is the most frequent words of the training text. Every other word becomes the unknown token,
and what it said is lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import regex

from course_lib.tokenizers.base import (
    Tokenizer,
    number_tokens,
    ordinary_parts,
    require_unk,
    room_for_tokens,
)
from course_lib.tokenizers.storage import require_section

# A run of letters, marks, digits and underscores, or one sign of any other kind that is no space.
WORD_PATTERN = r"[\p{L}\p{M}\p{N}_]+|[^\s\p{L}\p{M}\p{N}_]"


class WholePieceTokenizer(Tokenizer):
    """A tokenizer whose pieces are looked up whole; an unlisted piece is the unknown token."""

    default_special_tokens: ClassVar[tuple[str, ...]] = ("<pad>", "<unk>")
    model_type: ClassVar[str] = "WordLevel"
    pad_token = "<pad>"
    unk_token = "<unk>"
    bos_token = "<s>"
    eos_token = "</s>"

    pattern: ClassVar[regex.Pattern[str]]
    decoder: ClassVar[dict[str, Any] | None]

    def __init__(
        self, vocab: Mapping[str, int], special_tokens: Sequence[str] = (), unk_token: str = "<unk>"
    ) -> None:
        super().__init__(vocab, special_tokens)
        require_unk(unk_token, self.special_tokens)
        self.unk_token = unk_token
        self._unknown = (self.vocab[unk_token],)

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        *,
        special_tokens: Sequence[str] | None = None,
        progress: bool = False,
    ) -> Self:
        """The most frequent pieces; of equally frequent ones the alphabetically first."""
        special = cls._special_for_training(special_tokens)
        room = room_for_tokens(vocab_size, special)
        counts: Counter[str] = Counter()
        for text in ordinary_parts(texts, special, progress):
            counts.update(cls.pattern.findall(text))
        ranked = sorted(counts, key=lambda piece: (-counts[piece], piece))
        kept = [piece for piece in ranked if piece not in special][:room]
        return cls(number_tokens(special, kept), special)

    def _split(self, text: str) -> list[str]:
        return self.pattern.findall(text)

    def _encode_stretch(self, stretch: str) -> tuple[int, ...]:
        index = self.vocab.get(stretch)
        return self._unknown if index is None else (index,)

    def _sections(self) -> dict[str, Any]:
        model = {"type": self.model_type, "vocab": self.vocab, "unk_token": self.unk_token}
        return {"pre_tokenizer": self._pre_tokenizer(), "decoder": self.decoder, "model": model}

    @classmethod
    def _pre_tokenizer(cls) -> dict[str, Any]:
        """Keep what the pattern matches, drop the rest."""
        pattern = {"Regex": cls.pattern.pattern}
        return {"type": "Split", "pattern": pattern, "behavior": "Removed", "invert": True}

    @classmethod
    def _from_sections(cls, content: dict[str, Any], special_tokens: list[str]) -> Self:
        require_section(content, "normalizer", None)
        require_section(content, "pre_tokenizer", cls._pre_tokenizer())
        model = content["model"]
        return cls(model["vocab"], special_tokens, model["unk_token"])


class WordTokenizer(WholePieceTokenizer):
    """Words and signs of punctuation; `decode` puts a space between any two."""

    pattern = regex.compile(WORD_PATTERN)
    decoder = None

    def _join(self, tokens: list[str]) -> str:
        return " ".join(tokens)
