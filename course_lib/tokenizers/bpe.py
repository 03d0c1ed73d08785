"""Byte-level byte-pair encoding (BPE), the tokenizer of GPT-2 and most models since.

Training: start from single bytes, count which two neighbours meet most often, join them into a new token,
and repeat until the vocabulary is full. Encoding: cut the text into chunks, then join neighbours in the order
in which training learned to. Every text is bytes, so nothing is unknown, and decoding gives it back exactly.

This file has training twice: `train_bpe_slow`, the idea and nothing else, and `train_bpe`, the same merges
hundreds of times faster. A test holds them equal, and equal to the trainer of the `tokenizers` library.

Sources: Sennrich et al. 2016, algorithm 1 (BPE); Radford et al. 2019, section 2.2 (bytes, chunks).
"""

from __future__ import annotations

import heapq
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Self

import regex
from tqdm import tqdm

from course_lib.tokenizers.base import Tokenizer, number_tokens, ordinary_parts
from course_lib.tokenizers.byte_symbols import BYTE_SYMBOLS, to_bytes, to_symbols
from course_lib.tokenizers.storage import require_section

Merge = tuple[str, str]


def train_bpe_slow(chunk_counts: Mapping[str, int], num_new_tokens: int) -> list[Merge]:
    """The merges that BPE learns from chunks and how often each occurs, most frequent pair first.

    Of pairs that occur equally often the one whose parts are older wins, letters first, in their order.

    >>> train_bpe_slow({"low": 5, "lower": 2, "newest": 6, "widest": 3}, 3)
    [('e', 's'), ('es', 't'), ('l', 'o')]
    """
    symbols = {chunk: list(chunk) for chunk in chunk_counts}
    age = {letter: index for index, letter in enumerate(sorted(set("".join(chunk_counts))))}
    full, merges = len(age) + num_new_tokens, []
    while len(age) < full:
        pairs: Counter[Merge] = Counter()
        for chunk, count in chunk_counts.items():
            for pair in pairwise(symbols[chunk]):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], age[pair[0]], age[pair[1]]))
        merges.append(best)
        age.setdefault("".join(best), len(age))
        symbols = {chunk: merge_pair(pieces, best) for chunk, pieces in symbols.items()}
    return merges


def merge_pair(pieces: Sequence[str], pair: Merge) -> list[str]:
    """`pieces` with every occurrence of `pair`, from the left, joined into one.

    >>> merge_pair(["a", "a", "a", "b"], ("a", "a"))
    ['aa', 'a', 'b']
    """
    joined: list[str] = []
    position = 0
    while position < len(pieces):
        width = 2 if tuple(pieces[position : position + 2]) == pair else 1
        joined.append("".join(pieces[position : position + width]))
        position += width
    return joined


def train_bpe(
    chunk_counts: Mapping[str, int], num_new_tokens: int, *, min_frequency: int = 1, progress: bool = False
) -> list[Merge]:
    """The merges of `train_bpe_slow`, found by touching only the chunks that a merge changes.

    Training stops early when no pair occurs `min_frequency` times.
    """
    table = _PairTable(chunk_counts)
    full = len(table.names) + num_new_tokens
    merges: list[Merge] = []
    with tqdm(total=num_new_tokens, desc="BPE merges", disable=not progress) as bar:
        while len(table.names) < full:
            pair = table.most_frequent(max(min_frequency, 1))
            if pair is None:
                break
            merges.append(table.merge(pair))
            bar.update(len(table.names) - full + num_new_tokens - bar.n)
    return merges


class _PairTable:
    """The chunks of a corpus, and how often each pair of neighbouring tokens occurs in them.

    A token is held as one character whose code point is its age, so a chunk is a short `str`, a pair is a
    `str` of length 2, and joining a pair is `str.replace`: the loops over symbols run in C. Strings compare
    by code point, which is the tie rule.
    """

    def __init__(self, chunk_counts: Mapping[str, int]) -> None:
        letters = sorted(set("".join(chunk_counts)))
        self.names = {letter: index for index, letter in enumerate(letters)}
        to_age = str.maketrans({letter: chr(index) for letter, index in self.names.items()})
        self._name_of = letters
        self._chunks = [chunk.translate(to_age) for chunk in chunk_counts]
        self._weights = list(chunk_counts.values())
        self._counts: defaultdict[str, int] = defaultdict(int)
        self._where: defaultdict[str, list[int]] = defaultdict(list)  # pair → chunks that have or had it
        for index, (chunk, weight) in enumerate(zip(self._chunks, self._weights, strict=True)):
            for pair in map(str.__add__, chunk, chunk[1:]):
                self._counts[pair] += weight
                self._where[pair].append(index)
        self._heap = [(-count, pair) for pair, count in self._counts.items()]
        heapq.heapify(self._heap)

    def most_frequent(self, at_least: int) -> str | None:
        """The pair that occurs most often, or None if none occurs `at_least` times.

        Counts fall between two looks, and the heap is told only now: an outdated entry goes back corrected.
        """
        while self._heap:
            believed, pair = heapq.heappop(self._heap)
            count = self._counts[pair]
            if count == -believed:
                return pair if count >= at_least else None
            if count > 0:
                heapq.heappush(self._heap, (-count, pair))
        return None

    def merge(self, pair: str) -> Merge:
        """Join `pair` everywhere, bring the counts up to date, and return the names of its two parts."""
        first, second = (self._name_of[ord(token)] for token in pair)
        joined = chr(self.names.setdefault(first + second, len(self.names)))
        if ord(joined) == len(self._name_of):
            self._name_of.append(first + second)
        new_pairs: set[str] = set()
        for index in self._where.pop(pair):
            head, found, tail = self._chunks[index].partition(pair)
            if not found:
                continue  # an earlier merge took one of the two tokens away
            if pair in tail:
                self._recount(index, pair, joined, new_pairs)
            else:
                self._join_once(index, pair, joined, head, tail, new_pairs)
        self._counts[pair] = 0
        for changed in new_pairs:
            heapq.heappush(self._heap, (-self._counts[changed], changed))
        return first, second

    def _join_once(
        self, index: int, pair: str, joined: str, head: str, tail: str, new_pairs: set[str]
    ) -> None:
        """Update a chunk that has `pair` once: only the pairs on its two sides change."""
        self._chunks[index] = head + joined + tail
        weight = self._weights[index]
        if head:
            self._counts[head[-1] + pair[0]] -= weight
            self._add(head[-1] + joined, index, weight, new_pairs)
        if tail:
            self._counts[pair[1] + tail[0]] -= weight
            self._add(joined + tail[0], index, weight, new_pairs)

    def _recount(self, index: int, pair: str, joined: str, new_pairs: set[str]) -> None:
        """Update a chunk that has `pair` several times, perhaps overlapping: count all of its pairs anew."""
        old = self._chunks[index]
        new = self._chunks[index] = old.replace(pair, joined)
        weight = self._weights[index]
        for gone in map(str.__add__, old, old[1:]):
            self._counts[gone] -= weight
        for here in map(str.__add__, new, new[1:]):
            if joined in here:
                self._add(here, index, weight, new_pairs)
            else:
                self._counts[here] += weight

    def _add(self, pair: str, index: int, weight: int, new_pairs: set[str]) -> None:
        """Count a pair that a merge has made, and remember in which chunk."""
        self._counts[pair] += weight
        self._where[pair].append(index)
        new_pairs.add(pair)


# GPT-2's rule for cutting text into chunks, which merges never cross: English contractions, then letters,
# digits or other signs with at most one space before them; of several spaces the last goes to the next word.
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_GPT2_CHUNKS = regex.compile(GPT2_PATTERN)
# The same rule where every character is ASCII, in the standard module, which takes half the time.
_GPT2_CHUNKS_ASCII = re.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+", re.ASCII
)


def gpt2_chunks(text: str) -> list[str]:
    """The chunks of `text`; joined, they are the text.

    >>> gpt2_chunks("Let's do tokenization!")
    ['Let', "'s", ' do', ' tokenization', '!']
    """
    return (_GPT2_CHUNKS_ASCII if text.isascii() else _GPT2_CHUNKS).findall(text)


_LONG_CHUNK = 200


class BPETokenizer(Tokenizer):
    """Byte-level BPE. `merges` are in the order learned; `train` numbers special tokens, 256 bytes, merges.

    `decode(encode(text)) == text` for every text.
    """

    default_special_tokens: ClassVar[tuple[str, ...]] = ("<|endoftext|>",)
    model_type: ClassVar[str] = "BPE"
    bos_token = eos_token = "<|endoftext|>"
    pad_token = "<|pad|>"

    def __init__(
        self, vocab: Mapping[str, int], merges: Iterable[Merge], special_tokens: Sequence[str] = ()
    ) -> None:
        super().__init__(vocab, special_tokens)
        self.merges = list(merges)
        absent = [symbol for symbol in BYTE_SYMBOLS if symbol not in self.vocab]
        if absent:
            raise ValueError(f"the vocabulary lacks {len(absent)} of 256 byte symbols, {absent[0]!r} first")
        self._byte_ids = [self.vocab[symbol] for symbol in BYTE_SYMBOLS]
        # (left id, right id) → (rank, id of the two joined)
        self._ranks = {
            (self._id_in_merge(left), self._id_in_merge(right)): (rank, self._id_in_merge(left + right))
            for rank, (left, right) in enumerate(self.merges)
        }

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        *,
        special_tokens: Sequence[str] | None = None,
        min_frequency: int = 1,
        progress: bool = False,
    ) -> Self:
        """A tokenizer with `vocab_size` tokens, fewer if the texts have no more pairs to join."""
        special = cls._special_for_training(special_tokens)
        num_merges = vocab_size - len(special) - len(BYTE_SYMBOLS)
        if num_merges < 0:
            raise ValueError(f"vocab_size={vocab_size} is below 256 bytes + {len(special)} special tokens")
        counts: Counter[str] = Counter()
        for text in ordinary_parts(texts, special, progress):
            counts.update(gpt2_chunks(text))
        symbol_counts = {to_symbols(chunk): count for chunk, count in counts.items()}
        merges = train_bpe(symbol_counts, num_merges, min_frequency=min_frequency, progress=progress)
        vocab = number_tokens(special, sorted(BYTE_SYMBOLS), (left + right for left, right in merges))
        return cls(vocab, merges, special)

    def _id_in_merge(self, token: str) -> int:
        """The id of a token that a merge names."""
        if token not in self.vocab:
            raise ValueError(f"a merge names {token!r}, which is not in the vocabulary")
        return self.vocab[token]

    def _split(self, text: str) -> list[str]:
        return gpt2_chunks(text)

    def _encode_stretch(self, stretch: str) -> tuple[int, ...]:
        """Join the pair of lowest rank, leftmost first, until no pair has a rank.

        `ranks[i]` is what joining tokens `i` and `i + 1` would give, so a step looks up only two new pairs.
        """
        ids = [self._byte_ids[byte] for byte in stretch.encode("utf-8")]
        if len(ids) > _LONG_CHUNK:
            return self._encode_long(ids)
        never = (len(self._ranks), -1)
        ranks = [self._ranks.get(pair, never) for pair in pairwise(ids)]
        while ranks and (best := min(ranks)) is not never:
            position = ranks.index(best)
            ids[position : position + 2] = [best[1]]
            del ranks[position]
            if position > 0:
                ranks[position - 1] = self._ranks.get((ids[position - 1], ids[position]), never)
            if position < len(ranks):
                ranks[position] = self._ranks.get((ids[position], ids[position + 1]), never)
        return tuple(ids)

    def _encode_long(self, ids: list[int]) -> tuple[int, ...]:
        """The same for a chunk of any length, in n log n steps: a heap of candidates over a linked list."""
        count = len(ids)
        before, after = list(range(-1, count - 1)), list(range(1, count + 1))
        candidates: list[tuple[int, int, int, int, int]] = []  # rank, position, left id, right id, joined id

        def consider(position: int) -> None:
            if position >= 0 and after[position] < count:
                pair = (ids[position], ids[after[position]])
                if pair in self._ranks:
                    rank, joined = self._ranks[pair]
                    heapq.heappush(candidates, (rank, position, *pair, joined))

        for position in range(count - 1):
            consider(position)
        while candidates:
            _, position, left, right, joined = heapq.heappop(candidates)
            following = after[position]
            if ids[position] != left or following >= count or ids[following] != right:
                continue  # one of the two has been joined with another neighbour since
            ids[position], ids[following] = joined, -1
            after[position] = after[following]
            if after[position] < count:
                before[after[position]] = position
            consider(before[position])
            consider(position)
        return tuple(index for index in ids if index >= 0)

    def _join(self, tokens: list[str]) -> str:
        """The text of the bytes; bytes that are no UTF-8, as after cutting a token list, become U+FFFD."""
        return b"".join(map(self._bytes_of, tokens)).decode("utf-8", "replace")

    def _readable(self, token: str) -> str:
        return self._bytes_of(token).decode("utf-8", "backslashreplace")

    def _bytes_of(self, token: str) -> bytes:
        """The bytes of one token; a special token is text already."""
        return token.encode("utf-8") if token in self.special_tokens else to_bytes(token)

    def _sections(self) -> dict[str, Any]:
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        settings = dict.fromkeys(("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"))
        flags = dict.fromkeys(("fuse_unk", "byte_fallback", "ignore_merges"), False)
        merges = [list(merge) for merge in self.merges]
        model = {"type": self.model_type, **settings, **flags, "vocab": self.vocab, "merges": merges}
        return {"pre_tokenizer": byte_level, "decoder": byte_level, "model": model}

    @classmethod
    def _from_sections(cls, content: dict[str, Any], special_tokens: list[str]) -> Self:
        require_section(content, "normalizer", None)
        require_section(content, "pre_tokenizer", {"type": "ByteLevel", "add_prefix_space": False})
        model = content["model"]
        if not content["pre_tokenizer"].get("use_regex", True) or model.get("ignore_merges"):
            raise ValueError("it sets use_regex=false or ignore_merges=true, and GPT-2's rules do neither")
        # Files written before 2024 hold a merge as one string, "a b"; a byte symbol is never a space.
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        return cls(model["vocab"], [(left, right) for left, right in pairs], special_tokens)
