"""Unigram: each piece has a probability, and a word is cut where the product of its pieces' is highest.

BPE and WordPiece remember merges. Unigram remembers how likely each piece is, so one word has many cuts with
known probabilities: the best is found by Viterbi's algorithm, others can be listed or drawn. Training is in
`unigram_training.py`.

Spaces are written `▁` and belong to the word that follows, as in SentencePiece; one is put before the text.

Sources: Kudo 2018 (the model, sampling); Kudo and Richardson 2018 (SentencePiece).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, ClassVar, Protocol, Self

from course_lib.tokenizers.base import (
    Tokenizer,
    number_tokens,
    ordinary_parts,
    require_unk,
    room_for_tokens,
)
from course_lib.tokenizers.storage import require_section
from course_lib.tokenizers.unigram_training import train_unigram

SPACE = "▁"
_WORDS = re.compile(f"{SPACE}[^{SPACE}]*")

# An unknown character costs as much as the least likely piece and this much more, in nats.
UNKNOWN_PENALTY = 10.0

# Scores are kept as multiples of this. Their sums are then exact, so two cuts that tie, tie in every program.
SCORE_STEP = 2.0**-12


class RandomSource(Protocol):
    """What `sample` needs: `random.Random` and `numpy.random.Generator` both have it."""

    def random(self) -> float:
        """A number drawn uniformly from [0, 1)."""


def space_to_mark(text: str) -> list[str]:
    """The words of `text`, each with the space before it as `▁`.

    >>> space_to_mark("two  words")
    ['▁two', '▁', '▁words']
    """
    marked = text.replace(" ", SPACE)
    if marked and not marked.startswith(SPACE):
        marked = SPACE + marked
    return _WORDS.findall(marked)


class UnigramTokenizer(Tokenizer):
    """The tokenizer of T5, ALBERT and XLNet. `scores[id]` is the log-probability of a piece, in nats."""

    default_special_tokens: ClassVar[tuple[str, ...]] = ("<pad>", "</s>", "<unk>")
    model_type: ClassVar[str] = "Unigram"
    pad_token = "<pad>"
    eos_token = "</s>"
    unk_token = "<unk>"

    def __init__(
        self,
        vocab: Mapping[str, int],
        scores: Sequence[float],
        special_tokens: Sequence[str] = default_special_tokens,
        unk_token: str = "<unk>",
    ) -> None:
        super().__init__(vocab, special_tokens)
        require_unk(unk_token, self.special_tokens)
        if len(scores) != len(self.vocab) or not all(map(math.isfinite, scores)):
            raise ValueError(f"{len(self.vocab)} tokens need as many finite scores, got {len(scores)} scores")
        self.unk_token = unk_token
        self.scores = [float(score) for score in scores]
        self._unknown_score = min(self.scores) - UNKNOWN_PENALTY
        # Special tokens are found before the text is cut, so they are no pieces of a word.
        self._pieces = {
            piece: (self.scores[index], index)
            for piece, index in self.vocab.items()
            if index not in self._special_ids
        }
        self._longest_piece = max(map(len, self._pieces), default=1)

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        *,
        special_tokens: Sequence[str] | None = None,
        longest_piece: int = 16,
        progress: bool = False,
    ) -> Self:
        """A tokenizer with at most `vocab_size` tokens; the pieces are in order of their probability."""
        special = cls._special_for_training(special_tokens)
        room = room_for_tokens(vocab_size, special)
        counts: Counter[str] = Counter()
        for text in ordinary_parts(texts, special, progress):
            counts.update(space_to_mark(text))
        log_probabilities = train_unigram(counts, room, longest_piece=longest_piece, progress=progress)
        pieces = sorted(log_probabilities, key=lambda piece: (-log_probabilities[piece], piece))
        pieces = [piece for piece in pieces if piece not in special]
        scores = [0.0] * len(special) + [_rounded(log_probabilities[piece]) for piece in pieces]
        return cls(number_tokens(special, pieces), scores, special)

    def _split(self, text: str) -> list[str]:
        return space_to_mark(text)

    def _encode_stretch(self, stretch: str) -> tuple[int, ...]:
        """The most probable cut; of equal ones, at each end, the one whose last piece starts earliest.

        Neighbouring unknown characters become one unknown token.
        """
        return self._with_unknowns_joined(self._best_cut(stretch))

    def _best_cut(self, word: str) -> list[int]:
        """Viterbi: `best[end]` is the highest score of any cut of `word[:end]`, with its last piece."""
        best = [(0.0, 0, 0)] + [(-math.inf, 0, 0)] * len(word)  # score, start of the last piece, its id
        for start in range(len(word)):
            score = best[start][0]
            for end, piece_score, index in self._pieces_from(word, start):
                if score + piece_score > best[end][0]:
                    best[end] = (score + piece_score, start, index)
        ids: list[int] = []
        end = len(word)
        while end > 0:
            _, end, index = best[end]
            ids.append(index)
        return ids[::-1]

    def _pieces_from(self, word: str, start: int) -> list[tuple[int, float, int]]:
        """The pieces that `word` continues with at `start`, shortest first: their end, score and id.

        A character that is no piece itself may be passed over as unknown.
        """
        found: list[tuple[int, float, int]] = []
        for end in range(start + 1, min(len(word), start + self._longest_piece) + 1):
            entry = self._pieces.get(word[start:end])
            if entry is not None:
                found.append((end, *entry))
        if not found or found[0][0] != start + 1:
            found.append((start + 1, self._unknown_score, self.vocab[self.unk_token]))
        return found

    def _with_unknowns_joined(self, ids: Iterable[int]) -> tuple[int, ...]:
        """`ids` with each run of the unknown token as one."""
        unknown = self.vocab[self.unk_token]
        return tuple(
            index for index, run in groupby(ids) for _ in range(1 if index == unknown else len(list(run)))
        )

    def n_best(self, text: str, n: int) -> list[tuple[float, list[str]]]:
        """The `n` most probable cuts of `text` and their log-probabilities, best first.

        Special tokens in the text are read as ordinary characters.
        """
        if n < 1:
            raise ValueError(f"n={n} cuts were asked for; ask for at least 1")
        cuts: list[tuple[float, list[str]]] = [(0.0, [])]
        for word in space_to_mark(text):
            following = self._n_best_of_word(word, n)
            joined = [(score + more, pieces + rest) for score, pieces in cuts for more, rest in following]
            cuts = sorted(joined, key=lambda cut: -cut[0])[:n]
        return cuts

    def _n_best_of_word(self, word: str, n: int) -> list[tuple[float, list[str]]]:
        """Viterbi that keeps the `n` best cuts of each `word[:end]` in place of one."""
        best: list[list[tuple[float, list[str]]]] = [[(0.0, [])], *([] for _ in word)]
        for start in range(len(word)):
            best[start] = sorted(best[start], key=lambda cut: -cut[0])[:n]
            for end, piece_score, _ in self._pieces_from(word, start):
                piece = word[start:end]
                best[end] += [(score + piece_score, [*pieces, piece]) for score, pieces in best[start]]
        return sorted(best[-1], key=lambda cut: -cut[0])[:n]

    def sample(self, text: str, alpha: float, rng: RandomSource) -> list[int]:
        """The ids of one cut drawn at random: P(cut) ∝ (product of its pieces' probabilities)^alpha.

        `alpha=0` makes all cuts equally likely; as it grows, the most probable cut is drawn ever more often.
        A model that sees many cuts of one word learns what they have in common (subword regularisation,
        Kudo 2018, section 3). Special tokens in the text are read as ordinary characters.
        """
        if not alpha >= 0:
            raise ValueError(f"alpha={alpha} must be at least 0")
        ids: list[int] = []
        for word in space_to_mark(text):
            ids += self._with_unknowns_joined(self._sample_word(word, alpha, rng))
        return ids

    def _sample_word(self, word: str, alpha: float, rng: RandomSource) -> list[int]:
        """Forward: sum the weights of all cuts of `word[:end]`. Backward: draw the pieces, the last first."""
        arriving: list[list[tuple[float, int, int]]] = [[] for _ in range(len(word) + 1)]
        total = [0.0] + [-math.inf] * len(word)  # log of the summed weights
        for start in range(len(word)):
            if start:
                total[start] = _log_sum_exp([weight for weight, _, _ in arriving[start]])
            for end, score, index in self._pieces_from(word, start):
                arriving[end].append((total[start] + alpha * score, start, index))
        ids: list[int] = []
        end = len(word)
        while end > 0:
            _, end, index = _draw(arriving[end], rng)
            ids.append(index)
        return ids[::-1]

    def _join(self, tokens: list[str]) -> str:
        """The text, without the space that was put before it."""
        return "".join(tokens[:1]).replace(SPACE, "") + "".join(tokens[1:]).replace(SPACE, " ")

    def _readable(self, token: str) -> str:
        return token.replace(SPACE, " ")

    def _sections(self) -> dict[str, Any]:
        metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": True}
        pieces = [[token, score] for token, score in zip(self._tokens, self.scores, strict=True)]
        unknown = self.vocab[self.unk_token]
        model = {"type": self.model_type, "unk_id": unknown, "vocab": pieces, "byte_fallback": False}
        return {"pre_tokenizer": metaspace, "decoder": metaspace, "model": model}

    @classmethod
    def _from_sections(cls, content: dict[str, Any], special_tokens: list[str]) -> Self:
        metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always"}
        require_section(content, "normalizer", None)
        require_section(content, "pre_tokenizer", metaspace)
        require_section(content, "model", {"byte_fallback": False})
        pieces = content["model"]["vocab"]
        tokens = [token for token, _ in pieces]
        scores = [score for _, score in pieces]
        return cls(number_tokens(tokens), scores, special_tokens, tokens[content["model"]["unk_id"]])


def _rounded(score: float) -> float:
    """The nearest multiple of `SCORE_STEP`."""
    return round(score / SCORE_STEP) * SCORE_STEP


def _log_sum_exp(values: list[float]) -> float:
    """log Σ exp(value), without overflow."""
    highest = max(values)
    return highest + math.log(sum(math.exp(value - highest) for value in values))


def _draw(choices: list[tuple[float, int, int]], rng: RandomSource) -> tuple[float, int, int]:
    """One of `choices`, whose first entries are log-weights."""
    highest = max(choice[0] for choice in choices)
    weights = [math.exp(choice[0] - highest) for choice in choices]
    remaining = rng.random() * sum(weights)
    for choice, weight in zip(choices, weights, strict=True):
        remaining -= weight
        if remaining < 0:
            return choice
    return choices[-1]
