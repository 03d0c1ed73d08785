"""WordPiece, the tokenizer of BERT: words from the longest pieces in the vocabulary.

Training joins, like BPE, two neighbouring pieces at a time, but not the most frequent pair: the pair with the
highest

    score(a, b) = count(ab) / (count(a) · count(b)),

that is, the one whose parts meet most often for how common they are. This is the rule of Schuster and
Nakajima 2012 (the likelihood of the text rises most) as the Hugging Face course gives it; Google published no
trainer. The trainer in the `tokenizers` library does something else: it runs BPE and renames the pieces. Both
kinds of vocabulary are encoded in the same way.

The score favours rare pieces that always stand together, so `min_frequency` matters more than in BPE.

Sources: Schuster and Nakajima 2012, section 3.2 (training); Devlin et al. 2019 (encoding).
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Self

from tqdm import tqdm

from course_lib.tokenizers.base import (
    Tokenizer,
    number_tokens,
    ordinary_parts,
    require_unk,
    room_for_tokens,
)
from course_lib.tokenizers.bert_text import BertText
from course_lib.tokenizers.letters import frequent_letters
from course_lib.tokenizers.storage import require_section

Pair = tuple[str, str]

CONTINUATION = "##"


def split_into_pieces(word: str) -> list[str]:
    """The characters of a word, all but the first marked as continuing it.

    >>> split_into_pieces("hug")
    ['h', '##u', '##g']
    """
    return [letter if index == 0 else CONTINUATION + letter for index, letter in enumerate(word)]


def join_pieces(left: str, right: str) -> str:
    """Two neighbouring pieces as one.

    >>> join_pieces("h", "##u"), join_pieces("##u", "##g")
    ('hu', '##ug')
    """
    return left + right.removeprefix(CONTINUATION)


def train_wordpiece_slow(word_counts: Mapping[str, int], num_new_pieces: int) -> list[str]:
    """The pieces that WordPiece learns beside the characters, in order; ties go to the pair seen first.

    >>> train_wordpiece_slow({"hug": 10, "pug": 5, "pun": 12, "bun": 4, "hugs": 5}, 3)
    ['##gs', 'hu', 'hugs']
    """
    pieces = {word: split_into_pieces(word) for word in word_counts}
    learned: list[str] = []
    age: dict[Pair, int] = {}
    while len(learned) < num_new_pieces:
        singles: Counter[str] = Counter()
        pairs: Counter[Pair] = Counter()
        for word, count in word_counts.items():
            for piece in pieces[word]:
                singles[piece] += count
            for pair in pairwise(pieces[word]):
                pairs[pair] += count
                age.setdefault(pair, len(age))
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair] / (singles[pair[0]] * singles[pair[1]]), age[pair]))
        if join_pieces(*best) not in learned:
            learned.append(join_pieces(*best))
        pieces = {word: _merge(parts, best) for word, parts in pieces.items()}
    return learned


def _merge(pieces: list[str], pair: Pair) -> list[str]:
    """`pieces` with every occurrence of `pair`, from the left, joined."""
    merged: list[str] = []
    position = 0
    while position < len(pieces):
        if tuple(pieces[position : position + 2]) == pair:
            merged.append(join_pieces(*pair))
            position += 2
        else:
            merged.append(pieces[position])
            position += 1
    return merged


def train_wordpiece(
    word_counts: Mapping[str, int],
    num_new_pieces: int,
    *,
    min_frequency: int = 1,
    relax: bool = False,
    progress: bool = False,
) -> list[str]:
    """The pieces of `train_wordpiece_slow`, found by touching only what a merge changes.

    Pairs that occur less often than `min_frequency` are not joined. With `relax=True` it is halved each time
    that no pair is left.
    """
    table = _ScoreTable(word_counts, max(min_frequency, 1))
    learned: dict[str, None] = {}
    with tqdm(total=num_new_pieces, desc="WordPiece merges", disable=not progress) as bar:
        while len(learned) < num_new_pieces:
            pair = table.best_pair()
            if pair is None:
                if not relax or not table.halve_min_frequency():
                    break
                continue
            table.merge(pair)
            learned[join_pieces(*pair)] = None
            bar.update(len(learned) - bar.n)
    return list(learned)


class _ScoreTable:
    """The words of a corpus in pieces, with the score of every pair of neighbouring pieces.

    A merge makes its two parts rarer, which raises the score of every pair they are in. Each changed score is
    pushed on a heap anew; an entry whose score is no longer true is thrown away when it surfaces.
    """

    def __init__(self, word_counts: Mapping[str, int], min_frequency: int) -> None:
        self._words = [split_into_pieces(word) for word in word_counts]
        self._weights = list(word_counts.values())
        self._min_frequency = min_frequency
        self._singles: Counter[str] = Counter()
        self._pairs: Counter[Pair] = Counter()
        self._where: defaultdict[Pair, set[int]] = defaultdict(set)
        self._pairs_with: defaultdict[str, set[Pair]] = defaultdict(set)
        self._age: dict[Pair, int] = {}
        self._heap: list[tuple[float, int, Pair]] = []
        for index in range(len(self._words)):
            self._add(index)
        self._push(self._pairs)

    def best_pair(self) -> Pair | None:
        """The pair with the highest score, or None if no pair is frequent enough."""
        while self._heap:
            negative_score, _, pair = heapq.heappop(self._heap)
            if self._pairs[pair] >= self._min_frequency and negative_score == -self._score(pair):
                return pair
        return None

    def halve_min_frequency(self) -> bool:
        """Let rarer pairs in; False if all are in already."""
        if self._min_frequency == 1:
            return False
        self._min_frequency //= 2
        self._push(self._pairs)
        return True

    def merge(self, pair: Pair) -> None:
        """Join `pair` in every word that has it."""
        for index in sorted(self._where[pair]):
            self._remove(index)
            self._words[index] = _merge(self._words[index], pair)
            self._add(index)
        changed = set().union(*(self._pairs_with[piece] for piece in (*pair, join_pieces(*pair))))
        self._push(changed)

    def _score(self, pair: Pair) -> float:
        return self._pairs[pair] / (self._singles[pair[0]] * self._singles[pair[1]])

    def _push(self, pairs: Iterable[Pair]) -> None:
        """Enter the present score of `pairs` in the heap."""
        for pair in pairs:
            if self._pairs[pair] >= self._min_frequency:
                heapq.heappush(self._heap, (-self._score(pair), self._age[pair], pair))

    def _add(self, index: int) -> None:
        """Count the pieces and pairs of a word."""
        weight = self._weights[index]
        for piece in self._words[index]:
            self._singles[piece] += weight
        for pair in pairwise(self._words[index]):
            self._pairs[pair] += weight
            self._where[pair].add(index)
            if pair not in self._age:
                self._age[pair] = len(self._age)
            for piece in pair:
                self._pairs_with[piece].add(pair)

    def _remove(self, index: int) -> None:
        """Take the pieces and pairs of a word out of the counts."""
        weight = self._weights[index]
        for piece in self._words[index]:
            self._singles[piece] -= weight
        for pair in pairwise(self._words[index]):
            self._pairs[pair] -= weight
            self._where[pair].discard(index)
            if self._pairs[pair] == 0:
                for piece in pair:
                    self._pairs_with[piece].discard(pair)


class WordPieceTokenizer(Tokenizer):
    """BERT's tokenizer: cleaned words, cut from the left into the longest pieces that the vocabulary has.

    A word that cannot be cut so, or is longer than `longest_word` characters, is one unknown token.
    """

    default_special_tokens: ClassVar[tuple[str, ...]] = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    model_type: ClassVar[str] = "WordPiece"
    pad_token = "[PAD]"
    unk_token = "[UNK]"
    cls_token = "[CLS]"
    sep_token = "[SEP]"
    mask_token = "[MASK]"

    def __init__(
        self,
        vocab: Mapping[str, int],
        special_tokens: Sequence[str] = default_special_tokens,
        *,
        lowercase: bool = True,
        strip_accents: bool | None = None,
        unk_token: str = "[UNK]",
        longest_word: int = 100,
    ) -> None:
        super().__init__(vocab, special_tokens)
        require_unk(unk_token, self.special_tokens)
        self.unk_token = unk_token
        self.longest_word = longest_word
        self.text = BertText(lowercase=lowercase, strip_accents=strip_accents)
        self._unknown = (self.vocab[unk_token],)
        self._longest_piece = max(map(len, self.vocab))

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        *,
        special_tokens: Sequence[str] | None = None,
        lowercase: bool = True,
        strip_accents: bool | None = None,
        min_frequency: int | None = None,
        progress: bool = False,
    ) -> Self:
        """A tokenizer with at most `vocab_size` tokens: special tokens, characters, then learned pieces.

        A pair joins if it occurs `min_frequency` times. With a low number the score fills the vocabulary with
        rarities; None starts at the number of words for each token, and halves it whenever no pair is left.
        """
        special = cls._special_for_training(special_tokens)
        room = room_for_tokens(vocab_size, special)
        cleaning = BertText(lowercase=lowercase, strip_accents=strip_accents)
        counts: Counter[str] = Counter()
        for text in ordinary_parts(texts, special, progress):
            counts.update(cleaning.words(text))
        first_frequency = counts.total() // vocab_size if min_frequency is None else min_frequency
        counts, letters = _spellable(counts, room)
        learned = train_wordpiece(
            counts,
            room - len(letters),
            min_frequency=first_frequency,
            relax=min_frequency is None,
            progress=progress,
        )
        vocab = number_tokens(special, letters, learned)
        return cls(vocab, special, lowercase=lowercase, strip_accents=strip_accents)

    @classmethod
    def from_vocab_file(cls, path: str | Path, *, lowercase: bool = True) -> Self:
        """The tokenizer of a published BERT, from its `vocab.txt`: one token a line, the first with id 0."""
        lines = Path(path).read_text(encoding="utf-8").split("\n")
        vocab = {token.rstrip("\r"): index for index, token in enumerate(lines) if token.strip()}
        special = [token for token in cls.default_special_tokens if token in vocab]
        return cls(vocab, special, lowercase=lowercase)

    def _split(self, text: str) -> list[str]:
        return self.text.words(text)

    def _encode_stretch(self, stretch: str) -> tuple[int, ...]:
        """Take the longest piece that fits, from the left; no piece fits: the whole word is unknown."""
        if len(stretch) > self.longest_word:
            return self._unknown
        ids: list[int] = []
        start = 0
        while start < len(stretch):
            prefix = CONTINUATION if start else ""
            for end in range(min(len(stretch), start + self._longest_piece), start, -1):
                index = self.vocab.get(prefix + stretch[start:end])
                if index is not None:
                    break
            else:
                return self._unknown
            ids.append(index)
            start = end
        return tuple(ids)

    def _join(self, tokens: list[str]) -> str:
        """Words with one space between them; how the text was spaced and accented is gone."""
        spaced = [
            token.removeprefix(CONTINUATION) if token.startswith(CONTINUATION) and index else f" {token}"
            for index, token in enumerate(tokens)
        ]
        return "".join(spaced).removeprefix(" ")

    def _sections(self) -> dict[str, Any]:
        normalizer = {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": self.text.strip_accents,
            "lowercase": self.text.lowercase,
        }
        model = {
            "type": self.model_type,
            "unk_token": self.unk_token,
            "continuing_subword_prefix": CONTINUATION,
            "max_input_chars_per_word": self.longest_word,
            "vocab": self.vocab,
        }
        decoder = {"type": "WordPiece", "prefix": CONTINUATION, "cleanup": False}
        return {
            "normalizer": normalizer,
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "decoder": decoder,
            "model": model,
        }

    @classmethod
    def _from_sections(cls, content: dict[str, Any], special_tokens: list[str]) -> Self:
        always = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True}
        require_section(content, "normalizer", always)
        require_section(content, "pre_tokenizer", {"type": "BertPreTokenizer"})
        require_section(content, "model", {"continuing_subword_prefix": CONTINUATION})
        model, normalizer = content["model"], content["normalizer"]
        return cls(
            model["vocab"],
            special_tokens,
            lowercase=normalizer["lowercase"],
            strip_accents=normalizer["strip_accents"],
            unk_token=model["unk_token"],
            longest_word=model["max_input_chars_per_word"],
        )


def _spellable(word_counts: Counter[str], room: int) -> tuple[Counter[str], list[str]]:
    """The words to learn from and the one-letter pieces, which must fit in `room` tokens.

    A script with too many letters keeps the most frequent ones, and the words that these spell.
    """
    pieces = {piece for word in word_counts for piece in split_into_pieces(word)}
    if len(pieces) > room:
        letters = set(frequent_letters(word_counts, room // 2))
        word_counts = Counter({word: n for word, n in word_counts.items() if letters.issuperset(word)})
        pieces = {piece for word in word_counts for piece in split_into_pieces(word)}
    return word_counts, sorted(pieces)
