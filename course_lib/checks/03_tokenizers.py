"""Exercises of 03_tokenizers: what is asked, what is right, and how people go wrong."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..tokenizers import bpe as library
from .exercise import Case, Exercise, Misconception, Tolerance
from .probes import tokenizers as probes

_ALPHABET = list("abcdefghijklmnopqrstuvwxyz")


def _letters(rng: np.random.Generator, count: int) -> list[str]:
    """`count` different letters, in alphabetical order."""
    return sorted(str(letter) for letter in rng.choice(_ALPHABET, size=count, replace=False))


def _random_words(rng: np.random.Generator, letters: str, count: int, longest: int) -> list[str]:
    """`count` words of 1 to `longest` of these letters; some may be equal."""
    lengths = rng.integers(1, longest + 1, size=count)
    return ["".join(rng.choice(list(letters), size=length)) for length in lengths]


# --- ways to merge, right and wrong -------------------------------------------------------------

Merge = Callable[[Sequence[Any], tuple[Any, Any]], list[Any]]


def _merge(pieces: Sequence[Any], pair: tuple[Any, Any]) -> list[Any]:
    """Every occurrence of the pair joined, from the left; pieces are str or bytes."""
    result: list[Any] = []
    rest = list(pieces)
    while rest:
        width = 2 if tuple(rest[:2]) == pair else 1
        result.append(pair[0] + pair[1] if width == 2 else rest[0])
        del rest[:width]
    return result


def _merge_from_the_right(pieces: Sequence[Any], pair: tuple[Any, Any]) -> list[Any]:
    result: list[Any] = []
    rest = list(pieces)
    while rest:
        width = 2 if tuple(rest[-2:]) == pair else 1
        result.insert(0, pair[0] + pair[1] if width == 2 else rest[-1])
        del rest[-width:]
    return result


def _merge_first_only(pieces: Sequence[Any], pair: tuple[Any, Any]) -> list[Any]:
    places = [index for index, two in enumerate(pairwise(pieces)) if two == pair]
    if not places:
        return list(pieces)
    return [*pieces[: places[0]], pair[0] + pair[1], *pieces[places[0] + 2 :]]


def _merge_overlapping(pieces: Sequence[Any], pair: tuple[Any, Any]) -> list[Any]:
    """Both of two overlapping occurrences are joined: a a a becomes aa aa."""
    result: list[Any] = []
    used = False
    for index, piece in enumerate(pieces):
        joins = tuple(pieces[index : index + 2]) == pair
        if joins:
            result.append(pair[0] + pair[1])
        elif not used:
            result.append(piece)
        used = joins
    return result


def _merge_as_text(pieces: Sequence[str], pair: tuple[str, str]) -> list[str]:
    """The pieces written with spaces, and the pair's text replaced in that."""
    return " ".join(pieces).replace(" ".join(pair), "".join(pair)).split(" ")


def _merge_by_spelling(pieces: Sequence[str], pair: tuple[str, str]) -> list[str]:
    """Any two neighbours that make the same text as the pair are joined."""
    result: list[str] = []
    rest = list(pieces)
    while rest:
        width = 2 if len(rest) > 1 and rest[0] + rest[1] == "".join(pair) else 1
        result.append("".join(rest[:width]))
        del rest[:width]
    return result


# What does an exercise's work, whole or in part: the library's own versions, and the package `tokenizers`.
LIBRARY = (
    "course_lib.tokenizers.bpe.merge_pair",
    "course_lib.tokenizers.bpe.train_bpe",
    "course_lib.tokenizers.bpe.train_bpe_slow",
    "course_lib.tokenizers.bpe.BPETokenizer",
    "course_lib.tokenizers.wordpiece.train_wordpiece",
    "course_lib.tokenizers.wordpiece.train_wordpiece_slow",
    "course_lib.tokenizers.wordpiece.WordPieceTokenizer",
    "course_lib.tokenizers.unigram.UnigramTokenizer",
    "course_lib.tokenizers.unigram_training.prune",
    "tokenizers",
)

# --- tokenizers/bpe_step -----------------------------------------------------------------------

Words = list[tuple[list[str], int]]
StepResult = tuple[tuple[str, str] | None, Words]


def bpe_step_cases(rng: np.random.Generator) -> Iterator[Case]:
    """One case for each way to count or to merge wrongly, then the edges."""
    a, b, c, d, e = _letters(rng, 5)
    n = int(rng.integers(3, 9))
    random = [(list(word), int(rng.integers(1, 30))) for word in _random_words(rng, a + b + c, 8, 6)]
    table: list[tuple[str, Words, bool]] = [
        ("one frequent word among rare ones", [([a, b], 1), ([a, b, c], 1), ([d, e], n)], False),
        ("a letter many times in a row", [([a] * 3, 2 * n), ([a] * 4, 1), ([b, c], 3 * n)], False),
        ("a pair that comes twice in a word", [([a, b, c, a, b, d], n)], False),
        ("three pairs that are equally frequent", [([b, c], n), ([d, e], n), ([a, b], n)], False),
        ("a piece that ends like the pair begins", [([a, b], n), ([c + a, b], 1), ([c, a + b], 1)], False),
        ("a tie of pieces that are not letters", [([a + b, c], n), ([a, b + d], n)], True),
        ("two pairs that spell the same", [([a + b, c], n), ([a, b + c], n), ([d, e], n + 1)], True),
        ("neighbours that spell the pair", [([a + b, c], n), ([a, b + c], 1)], True),
        ("two words with the same pieces", [([a, b, c], n), ([d, a, b], 1), ([a, b, c], 2)], True),
        ("a pair that occurs once", [([a], n), ([b, c], 1)], True),
        ("a frequent word of one letter", [([a], 3 * n), ([b, c], n)], True),
        ("random words", random, True),
        ("emoji and Chinese", [(["👍", "苹", "果"], n), (["苹", "果"], 2)], True),
        ("words without a pair", [([a], n), ([b + c], 2)], True),
        ("no words", [], True),
    ]
    for name, words, hidden in table:
        yield Case(name, {"words": [[list(pieces), count] for pieces, count in words]}, hidden)


def _count_weighted(words: Words) -> Counter[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    for pieces, count in words:
        for pair in pairwise(pieces):
            counts[pair] += count
    return counts


def _count_once_each(words: Words) -> Counter[tuple[str, str]]:
    return _count_weighted([(pieces, 1) for pieces, _ in words])


def _count_across_words(words: Words) -> Counter[tuple[str, str]]:
    return _count_weighted([([piece for pieces, count in words for piece in pieces * count], 1)])


def _count_without_overlap(words: Words) -> Counter[tuple[str, str]]:
    """The second half of a counted pair does not begin the same pair again."""
    counts: Counter[tuple[str, str]] = Counter()
    for pieces, count in words:
        last: dict[tuple[str, str], int] = {}
        for index, pair in enumerate(pairwise(pieces)):
            if last.get(pair) != index - 1:
                counts[pair] += count
                last[pair] = index
    return counts


def _step(
    words: Words,
    *,
    count: Callable[[Words], Counter[tuple[str, str]]] = _count_weighted,
    merge: Merge = _merge,
    choose: Callable[[list[tuple[str, str]]], tuple[str, str]] = min,
) -> StepResult:
    counts = count(words)
    if not counts:
        return None, words
    best = max(counts.values())
    tied = [pair for pair, number in counts.items() if number == best]
    pair = choose(tied)
    return pair, [(merge(pieces, pair), number) for pieces, number in words]


def _step_by_spelling(words: Words) -> StepResult:
    """Pairs are counted and found by the text that they make."""
    counts: Counter[str] = Counter()
    for (left, right), number in _count_weighted(words).items():
        counts[left + right] += number
    if not counts:
        return None, words
    text = min(counts, key=lambda text: (-counts[text], text))
    pair = next(pair for pair in _count_weighted(words) if "".join(pair) == text)
    return pair, [(_merge(pieces, pair), number) for pieces, number in words]


def _step_by_sorting(words: Words) -> StepResult:
    found = [
        (pieces[i], pieces[i + 1]) for pieces, n in words for i in range(len(pieces) - 1) for _ in range(n)
    ]
    if not found:
        return None, list(words)
    pair = sorted(set(found), key=lambda pair: (-found.count(pair), pair))[0]
    return pair, [(_merge(pieces, pair), n) for pieces, n in words]


def _step_in_place(words: Words) -> StepResult:
    counts: dict[tuple[str, str], int] = {}
    for pieces, number in words:
        for left, right in pairwise(pieces):
            counts[left, right] = counts.get((left, right), 0) + number
    if not counts:
        return None, words
    pair = max(sorted(counts), key=lambda pair: counts[pair])
    for pieces, _ in words:
        place = 0
        while place < len(pieces) - 1:
            if (pieces[place], pieces[place + 1]) == pair:
                pieces[place : place + 2] = ["".join(pair)]
            place += 1
    return pair, words


BPE_STEP = Exercise(
    id="tokenizers/bpe_step",
    title="One step of byte-pair encoding",
    points=2,
    minutes=20,
    difficulty=2,
    cases=bpe_step_cases,
    probe=probes.bpe_step,
    reference=_step,
    also_right=(_step_by_sorting, _step_in_place),
    forbidden=LIBRARY,
    misconceptions=(
        Misconception(
            "every word was counted once, however frequent it is",
            lambda words: _step(words, count=_count_once_each),
            "A word that occurs 6 times brings each of its pairs 6 times. Add `count`, not 1.",
        ),
        Misconception(
            "pairs were counted across the end of a word",
            lambda words: _step(words, count=_count_across_words),
            "The last piece of one word and the first of the next are no neighbours: merges never cross the end "
            "of a word. Count the pairs of each word by itself.",
        ),
        Misconception(
            "overlapping pairs were counted once",
            lambda words: _step(words, count=_count_without_overlap),
            "In a a a the pair (a, a) stands at two places and counts twice, although only one of the two can be "
            "merged. Count every two neighbours.",
        ),
        Misconception(
            "overlapping pairs were both merged",
            lambda words: _step(words, merge=_merge_overlapping),
            "A piece can be used once. After a merge go on *behind* the pair: a a a becomes aa a, not aa aa.",
        ),
        Misconception(
            "the merge starts from the right",
            lambda words: _step(words, merge=_merge_from_the_right),
            "Merges go from left to right: a a a becomes aa a, not a aa.",
        ),
        Misconception(
            "only the first occurrence in each word was merged",
            lambda words: _step(words, merge=_merge_first_only),
            "The pair is merged wherever it stands in the word, not only where it is found first.",
        ),
        Misconception(
            "text was replaced in place of pieces",
            lambda words: _step(words, merge=_merge_as_text),
            "Replacing text also hits the end of a longer piece: in the pieces `xa`, `b` the pair (a, b) does not "
            "occur, but in the text `xa b` its letters do. Compare whole pieces.",
        ),
        Misconception(
            "the tie went to the pair seen first",
            lambda words: _step(words, choose=lambda tied: tied[0]),
            "Of pairs that are equally frequent the statement asks for the smaller one, as Python compares tuples. "
            "`max` on a Counter gives the one that was seen first.",
        ),
        Misconception(
            "the tie went to the largest pair",
            lambda words: _step(words, choose=max),
            "Largest count, but *smallest* pair: `max` by `(count, pair)` turns the second half round, too. Take "
            "the minimum by `(-count, pair)`.",
        ),
        Misconception(
            "the tie was decided by the joined text",
            lambda words: _step(words, choose=lambda tied: min(tied, key="".join)),
            "Tuples are compared part by part: ('a', 'bd') comes before ('ab', 'c'), although 'abc' comes before "
            "'abd'. Compare the pairs, not the text that they make.",
        ),
        Misconception(
            "pairs that spell the same were counted as one",
            _step_by_spelling,
            "(ab, c) and (a, bc) both spell abc, but they are two different pairs. Count by the tuple of the two "
            "pieces, not by the joined text.",
        ),
        Misconception(
            "neighbours that spell the same were merged, too",
            lambda words: _step(words, merge=_merge_by_spelling),
            "(ab, c) and (a, bc) both spell abc, but only one of them is the pair. Compare each of the two pieces.",
        ),
    ),
    hints=(
        "Two jobs: count, then merge. For the count, `itertools.pairwise(pieces)` gives every two neighbours of "
        "one word. By how much does each of them raise the count?",
        "`min(counts, key=lambda pair: (-counts[pair], pair))` is the most frequent pair, the smaller one of "
        "several. For the merge, walk over the word with an index that moves by 2 after a merge and by 1 otherwise.",
        "While `i < len(pieces)`: if `tuple(pieces[i:i+2]) == pair`, append the joined pair and add 2 to i; "
        "otherwise append `pieces[i]` and add 1. Return `(None, words)` when nothing was counted.",
    ),
)

# --- tokenizers/train_bpe ----------------------------------------------------------------------

Merges = list[tuple[str, str]]


def train_bpe_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Ties of letters and of learned tokens, repeated letters, too few pairs, random chunks."""
    a, b, c, d, e = _letters(rng, 5)
    n = int(rng.integers(2, 6))
    hand = {a + b + c: 5 * n, a + b + c + d: 2 * n, e + c + d: 6 * n + 1, e + b: 3}
    random = Counter(_random_words(rng, a + b + c + d, 60, 7))
    weighted = {word: count * int(rng.integers(1, 9)) for word, count in random.items()}
    table: list[tuple[str, dict[str, int], int, bool]] = [
        ("four words", hand, 4, False),
        ("a rare pair in many words", {a + b: 1, a + b + c: 1, a + b + d: 1, d + e: 4 * n}, 2, False),
        ("two letters that tie with two others", {d + e: n, a + b: n, c: 1}, 2, False),
        ("a learned token that ties with a letter", {b + c + a: n, d + a: n, b + c: n}, 3, False),
        ("two pairs, the older right part in the second", {b + c: n, a + d: n}, 1, False),
        ("a right part that was learned", {c + d: 5 * n, a + c + d: n, a + e: n}, 3, False),
        ("a pair that comes twice in a chunk", {a + b + c + a + b: 3 * n, d + e: 5 * n}, 3, False),
        ("a letter many times in a row", {a * 3: 2 * n, b + c: 3 * n}, 3, False),
        ("a run of seven letters", {a * 7: n, b + c: 2 * n}, 5, True),
        ("fewer pairs than asked for", {a + b: n, c: 2}, 5, False),
        ("chunks that occur once", {a + b + c: 1, d + b: 1}, 3, True),
        (
            "a token that ends like a pair begins",
            {c + a: 9 * n, a + b: 7 * n, c + a + b: 6 * n, c + a + d: n},
            4,
            True,
        ),
        ("random chunks", weighted, 40, True),
        ("bytes of Chinese", {"è": n, "èĭ¹æŀľ": 2 * n, "Ġèĭ¹æŀľĠ": n}, 4, True),
        ("no chunks", {}, 3, True),
        ("no new tokens", hand, 0, True),
    ]
    for name, counts, number, hidden in table:
        yield Case(name, {"chunk_counts": counts, "num_new_tokens": number}, hidden)


Tie = Callable[[tuple[str, str], Mapping[str, int], int], Any]
TIES: dict[str, Tie] = {
    "age": lambda pair, age, seen: (age[pair[0]], age[pair[1]]),
    "alphabet": lambda pair, age, seen: pair,
    "seen": lambda pair, age, seen: seen,
    "last": lambda pair, age, seen: -seen,
    "right": lambda pair, age, seen: (age[pair[1]], age[pair[0]]),
    "left": lambda pair, age, seen: (age[pair[0]], seen),
    "youngest": lambda pair, age, seen: (-age[pair[0]], -age[pair[1]]),
}


def _train(
    chunk_counts: Mapping[str, int],
    num_new_tokens: int,
    *,
    count: Callable[[Words], Counter[tuple[str, str]]] = _count_weighted,
    merge: Merge = _merge,
    tie: str = "age",
    order: Callable[[str], Iterable[str]] = lambda text: sorted(set(text)),
    at_least: int = 1,
    extreme: Callable[..., int] | None = None,
) -> Merges:
    words: Words = [(list(chunk), number) for chunk, number in chunk_counts.items()]
    age = {letter: index for index, letter in enumerate(order("".join(chunk_counts)))}
    merges: Merges = []
    while len(merges) < num_new_tokens:
        counts = Counter({pair: number for pair, number in count(words).items() if number >= at_least})
        if not counts and extreme is None:
            break
        seen = {pair: index for index, pair in enumerate(counts)}
        # Of nothing, `min` and `max` are the ValueError of those who forget that pairs run out.
        most = max(counts.values()) if counts or extreme is None else extreme(())
        tied = [pair for pair, number in counts.items() if number == most]
        best = min(tied, key=lambda pair: TIES[tie](pair, age, seen[pair]))
        merges.append(best)
        age[best[0] + best[1]] = len(age)
        words = [(merge(pieces, best), number) for pieces, number in words]
    return merges


def _train_by_numbers(chunk_counts: Mapping[str, int], num_new_tokens: int) -> Merges:
    """On token numbers, which are ages: the smaller pair of numbers is the older one."""
    names = sorted(set("".join(chunk_counts)))
    words = [([names.index(letter) for letter in chunk], count) for chunk, count in chunk_counts.items()]
    merges: Merges = []
    for _ in range(num_new_tokens):
        counts: Counter[tuple[int, int]] = Counter()
        for pieces, count in words:
            for pair in pairwise(pieces):
                counts[pair] += count
        if not counts:
            break
        (left, right), _count = min(counts.items(), key=lambda item: (-item[1], item[0]))
        merges.append((names[left], names[right]))
        names.append(names[left] + names[right])
        for pieces, _count in words:
            for place in range(len(pieces) - 1):
                if pieces[place : place + 2] == [left, right]:
                    pieces[place : place + 2] = [len(names) - 1]
    return merges


def _train_incrementally(chunk_counts: Mapping[str, int], num_new_tokens: int) -> Merges:
    """Counts are kept, and only the chunks that hold the pair are counted anew."""
    words = [(list(chunk), count) for chunk, count in chunk_counts.items()]
    age = {letter: index for index, letter in enumerate(sorted(set("".join(chunk_counts))))}
    counts = _count_weighted(words)
    merges: Merges = []
    while len(merges) < num_new_tokens and +counts:
        best = min(+counts, key=lambda pair: (-counts[pair], age[pair[0]], age[pair[1]]))
        for index, (pieces, count) in enumerate(words):
            if best in pairwise(pieces):
                counts.subtract(_count_weighted([(pieces, count)]))
                words[index] = (_merge(pieces, best), count)
                counts.update(_count_weighted([words[index]]))
        merges.append(best)
        age["".join(best)] = len(age)
    return merges


def _train_without_recounting(chunk_counts: Mapping[str, int], num_new_tokens: int) -> Merges:
    counts = _count_weighted([(list(chunk), number) for chunk, number in chunk_counts.items()])
    return sorted(counts, key=lambda pair: (-counts[pair], pair))[:num_new_tokens]


TRAIN_BPE = Exercise(
    id="tokenizers/train_bpe",
    title="Train byte-pair encoding",
    points=4,
    minutes=90,
    difficulty=4,
    cases=train_bpe_cases,
    probe=probes.train_bpe,
    reference=library.train_bpe_slow,
    also_right=(_train_by_numbers, _train_incrementally),
    library="course_lib.tokenizers:train_bpe",
    forbidden=LIBRARY,
    misconceptions=(
        Misconception(
            "every chunk was counted once, however frequent it is",
            lambda chunks, n: _train(chunks, n, count=_count_once_each),
            "`chunk_counts[chunk]` says how often the chunk occurs; each of its pairs occurs as often. Add that "
            "number, not 1.",
        ),
        Misconception(
            "pairs were not counted again after a merge",
            _train_without_recounting,
            "A merge makes new pairs and takes occurrences away from old ones. Merge in all chunks, then count "
            "again, or bring the counts up to date, before you choose the next pair.",
        ),
        Misconception(
            "overlapping pairs were counted once",
            lambda chunks, n: _train(chunks, n, count=_count_without_overlap),
            "In a a a the pair (a, a) stands at two places and counts twice, although only one of the two can be "
            "merged. Count every two neighbours.",
        ),
        Misconception(
            "text was replaced in place of tokens",
            lambda chunks, n: _train(chunks, n, merge=_merge_as_text),
            "Replacing text also hits the end of a longer token: in the tokens `xa`, `b` the pair (a, b) does not "
            "occur, but in the text `xa b` its letters do. Compare whole tokens.",
        ),
        Misconception(
            "the tie went to the pair seen first",
            lambda chunks, n: _train(chunks, n, tie="seen"),
            "Of pairs that are equally frequent the one whose left part is older wins, then the one whose right "
            "part is. `max` on a Counter gives the one that was seen first.",
        ),
        Misconception(
            "the tie was decided by the alphabet",
            lambda chunks, n: _train(chunks, n, tie="alphabet"),
            "Comparing the tuples is right as long as both parts are letters. A learned token is younger than "
            "every letter, however it is spelled: keep the age of each token in a dictionary.",
        ),
        Misconception(
            "the right part decided the tie first",
            lambda chunks, n: _train(chunks, n, tie="right"),
            "The age of the *left* part is compared first, and that of the right part only where the left parts "
            "are the same.",
        ),
        Misconception(
            "only the left part decided the tie",
            lambda chunks, n: _train(chunks, n, tie="left"),
            "Two pairs can share their left part. Then the one whose *right* part is older wins.",
        ),
        Misconception(
            "the younger part won the tie",
            lambda chunks, n: _train(chunks, n, tie="youngest"),
            "Old parts come first: the smaller age wins, and of two letters the one that `sorted` puts first.",
        ),
        Misconception(
            "letters are as old as their first appearance",
            lambda chunks, n: _train(chunks, n, order=dict.fromkeys),
            "Among letters the order is that of `sorted`, not the order in which the chunks happen to show them.",
        ),
        Misconception(
            "pairs that occur once were left out",
            lambda chunks, n: _train(chunks, n, at_least=2),
            "The statement has no least count: as long as there is a pair, the most frequent one is merged, even "
            "if it occurs once.",
        ),
        Misconception(
            "only the first occurrence in each chunk was merged",
            lambda chunks, n: _train(chunks, n, merge=_merge_first_only),
            "The pair is merged wherever it stands in the chunk, not only where it is found first.",
        ),
        Misconception(
            "the merge starts from the right",
            lambda chunks, n: _train(chunks, n, merge=_merge_from_the_right),
            "Merges go from left to right: a a a becomes aa a, not a aa.",
        ),
        Misconception(
            "the number of merges was taken for the size of the vocabulary",
            lambda chunks, n: _train(chunks, max(0, n - len(set("".join(chunks))))),
            "`num_new_tokens` counts the merges; the letters, with which the vocabulary begins, come on top.",
        ),
        Misconception(
            "the end of the pairs was not expected",
            lambda chunks, n: _train(chunks, n, extreme=min),
            "When every chunk has become one token there is no pair left, and `min` of nothing is an error. Stop "
            "then, and return the merges that you have.",
        ),
        Misconception(
            "the end of the pairs was not expected, and `max` had nothing to choose from",
            lambda chunks, n: _train(chunks, n, extreme=max),
            "When every chunk has become one token there is no pair left, and `max` of nothing is an error. Stop "
            "then, and return the merges that you have.",
        ),
    ),
    hints=(
        "Keep three things: the chunks as lists of tokens with their counts, the merges so far, and the age of "
        "every token. One turn of the loop is your `bpe_step` with another rule for ties.",
        "`age = {letter: i for i, letter in enumerate(sorted(letters))}`; after a merge "
        "`age[left + right] = len(age)`. The best pair is the minimum of "
        "`(-count, age[left], age[right])`.",
        "Loop while `len(merges) < num_new_tokens`: count all pairs with their chunk's count; if there are none, "
        "break; take the minimum of the key above; append it; merge it in every chunk.",
    ),
)

# --- tokenizers/encode_bpe ---------------------------------------------------------------------

ByteMerges = list[tuple[bytes, bytes]]


def encode_bpe_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Merges whose order matters, repeated letters, several bytes a character, and learned merges."""
    a, b, c, d, e = _letters(rng, 5)
    learned = _train(Counter(_random_words(rng, a + b + c, 50, 8)), 20)
    texts = [word for word in _random_words(rng, a + b + c + d, 12, 9) if len(word) > 1]
    chinese = ["è\x8b", "¹", "æ\x9e", "\x9c"]
    apple = [("è", "\x8b"), (chinese[0], chinese[1]), ("æ", "\x9e"), (chinese[2], chinese[3])]
    long_token = [(b, c), (a, b), (a + b, c)]
    table: list[tuple[str, list[str], Merges, bool]] = [
        ("an older merge further right", [a + b + c], [(b, c), (a, b)], False),
        ("an older merge further left", [a + b + c], [(a, b), (b, c)], False),
        ("a long token that is not reached", [a + b + c, c + a + b], long_token, False),
        (
            "a long token that is reached",
            [a + b + c + d],
            [(c, d), (b, c + d), (a, b + c + d), (a, b)],
            False,
        ),
        ("a letter many times in a row", [a * 3, a * 4, a * 5], [(a, a)], False),
        ("a pair that comes twice", [a + b + e + a + b], [(a, b)], False),
        ("accents and Chinese", ["é", "苹果"], [("Ã", "©"), *apple], False),
        ("characters without merges", ["naïve", "果", "👍"], [(a, b)], True),
        ("an emoji whose bytes have merges", ["👍👍"], [("ð", "\x9f"), ("\x91", "\x8d")], True),
        ("spaces within and at the end", [f"{a} {b}", f" {a}  "], [(a, " "), (" ", " "), (" ", b)], True),
        ("a capital and an accent by itself", [a.upper() + b, "e\u0301"], [(a, b), ("Ì", "\x81")], True),
        ("learned merges", texts, learned, True),
        ("nothing at all", [""], [(a, b)], True),
        ("one letter, and no merges", [a], [], True),
    ]
    for name, words, merges, hidden in table:
        yield Case(name, {"texts": words, "merges": [list(merge) for merge in merges]}, hidden)


def _single_bytes(text: str) -> list[bytes]:
    return [bytes([byte]) for byte in text.encode("utf-8")]


def _whole_characters(text: str) -> list[bytes]:
    return [character.encode("utf-8") for character in text]


def _encode(
    text: str,
    merges: ByteMerges,
    *,
    start: Callable[[str], list[bytes]] = _single_bytes,
    merge: Merge = _merge,
    newest_first: bool = False,
) -> list[bytes]:
    """The definition: while some pair has a rank, merge the pair of lowest rank everywhere."""
    rank = {pair: (-index if newest_first else index) for index, pair in enumerate(merges)}
    tokens = start(text)
    while True:
        candidates = [pair for pair in pairwise(tokens) if pair in rank]
        if not candidates:
            return tokens
        tokens = merge(tokens, min(candidates, key=lambda pair: rank[pair]))


def _encode_merge_by_merge(text: str, merges: ByteMerges) -> list[bytes]:
    tokens = _single_bytes(text)
    for pair in merges:
        tokens = _merge(tokens, pair)
    return tokens


def _encode_one_place_at_a_time(text: str, merges: ByteMerges) -> list[bytes]:
    tokens = [text.encode("utf-8")[i : i + 1] for i in range(len(text.encode("utf-8")))]
    while True:
        places = [
            (merges.index((tokens[i], tokens[i + 1])), i)
            for i in range(len(tokens) - 1)
            if (tokens[i], tokens[i + 1]) in merges
        ]
        if not places:
            return tokens
        _, place = min(places)
        tokens[place : place + 2] = [tokens[place] + tokens[place + 1]]


def _encode_leftmost(text: str, merges: ByteMerges) -> list[bytes]:
    tokens = _single_bytes(text)
    while True:
        place = next((i for i, pair in enumerate(pairwise(tokens)) if pair in merges), None)
        if place is None:
            return tokens
        tokens[place : place + 2] = [tokens[place] + tokens[place + 1]]


def _encode_longest(text: str, merges: ByteMerges) -> list[bytes]:
    data = text.encode("utf-8")
    vocab = {bytes([byte]) for byte in range(256)} | {left + right for left, right in merges}
    tokens, start = [], 0
    while start < len(data):
        end = max(end for end in range(start + 1, len(data) + 1) if data[start:end] in vocab)
        tokens.append(data[start:end])
        start = end
    return tokens


def _encode_each_merge_once(text: str, merges: ByteMerges) -> list[bytes]:
    tokens = _single_bytes(text)
    for pair in merges:
        tokens = _merge_first_only(tokens, pair)
    return tokens


def _encode_in_one_pass(text: str, merges: ByteMerges) -> list[bytes]:
    """Neighbouring bytes are joined, and what was joined is never looked at again."""
    tokens = _single_bytes(text)
    result: list[bytes] = []
    while tokens:
        width = 2 if tuple(tokens[:2]) in merges else 1
        result.append(b"".join(tokens[:width]))
        del tokens[:width]
    return result


def _encode_by_spelling(text: str, merges: ByteMerges) -> list[bytes]:
    """The rank belongs to the joined token, whatever its two halves are."""
    rank = {left + right: index for index, (left, right) in reversed(list(enumerate(merges)))}
    tokens = _single_bytes(text)
    while True:
        candidates = [pair for pair in pairwise(tokens) if pair[0] + pair[1] in rank]
        if not candidates:
            return tokens
        tokens = _merge(tokens, min(candidates, key=lambda pair: rank[pair[0] + pair[1]]))


def _encode_once(text: str, merges: ByteMerges) -> list[bytes]:
    tokens = _single_bytes(text)
    pair = next((pair for pair in merges if pair in pairwise(tokens)), None)
    return tokens if pair is None else _merge(tokens, pair)


def _encode_words(text: str, merges: ByteMerges) -> list[bytes]:
    """Cut before each space first, as the tokenizer does before it encodes a chunk."""
    starts = [0, *(i for i in range(1, len(text)) if text[i] == " "), len(text)]
    return [token for start, end in pairwise(starts) for token in _encode(text[start:end], merges)]


ENCODE_BPE = Exercise(
    id="tokenizers/encode_bpe",
    title="Encode with learned merges",
    points=3,
    minutes=40,
    difficulty=3,
    cases=encode_bpe_cases,
    probe=probes.encode_bpe,
    reference=_encode,
    also_right=(_encode_merge_by_merge, _encode_one_place_at_a_time),
    forbidden=LIBRARY,
    misconceptions=(
        Misconception(
            "the leftmost pair was merged first",
            _encode_leftmost,
            "Merges are applied in the order in which they were learned. Of all pairs that stand in the tokens, "
            "look for the one that is earliest in `merges`, wherever it stands.",
        ),
        Misconception(
            "the longest token was taken from the left",
            _encode_longest,
            "That is WordPiece's rule. BPE does not look for long tokens: it repeats the merges of the training, in "
            "their order, and some long tokens are never reached.",
        ),
        Misconception(
            "the newest merge came first",
            lambda text, merges: _encode(text, merges, newest_first=True),
            "The earliest merge in the list has the lowest rank and comes first: the most frequent pair of the "
            "training was merged before all others.",
        ),
        Misconception(
            "each merge was applied at one place only",
            _encode_each_merge_once,
            "A pair can stand at several places. Merge all of them before you go on to a later merge.",
        ),
        Misconception(
            "what was merged is never merged again",
            _encode_in_one_pass,
            "One pass is not enough: a merge makes a token that may be half of a later pair. Go on until no pair of "
            "neighbours is in `merges`.",
        ),
        Misconception(
            "it starts from characters, not from bytes",
            lambda text, merges: _encode(text, merges, start=_whole_characters),
            "é is two bytes and 果 is three. Start from `text.encode('utf-8')` and make one token of each byte: "
            "`bytes([byte])`.",
        ),
        Misconception(
            "equal neighbours are merged from the right",
            lambda text, merges: _encode(text, merges, merge=_merge_from_the_right),
            "Of overlapping places the left one is merged: a a a becomes aa a.",
        ),
        Misconception(
            "two neighbours were merged because together they spell a token",
            _encode_by_spelling,
            "`merges` holds pairs. That two neighbours spell a learned token does not mean that this pair was ever "
            "merged: look up the pair, not the joined bytes.",
        ),
        Misconception(
            "only one pair was merged",
            _encode_once,
            "One merge is not enough. Look at the new tokens again, and go on until no pair of neighbours is in "
            "`merges`.",
        ),
        Misconception(
            "the text was cut at spaces first",
            _encode_words,
            "The text is one chunk: it was cut before it came here. A space is a byte like any other, and a merge "
            "may hold it on either side.",
        ),
        Misconception(
            "the tokens are letters of a string",
            lambda text, merges: list(text),
            "`list(text)` gives strings, and no pair of strings is in `merges`, which hold bytes. Start from "
            "`text.encode('utf-8')`.",
        ),
        Misconception(
            "the tokens are integers",
            lambda text, merges: list(text.encode("utf-8")),
            "Going through bytes gives integers, and no pair of integers is in `merges`. Make a token of each: "
            "`bytes([byte])`.",
        ),
    ),
    hints=(
        "Start with one token for each byte of `text.encode('utf-8')`. Which pairs of neighbours may be merged now, "
        "and which of them was learned first?",
        "`rank = {pair: i for i, pair in enumerate(merges)}`. In a loop: the pair of neighbours with the smallest "
        "rank, merged everywhere from the left; end when no pair has a rank.",
        "`best = min(pairwise(tokens), key=lambda pair: rank.get(pair, math.inf))`, taking care of fewer than two "
        "tokens; stop if `best not in rank`; otherwise merge as in the first exercise.",
    ),
)

# --- tokenizers/encode_wordpiece ---------------------------------------------------------------

UNKNOWN = "[UNK]"
LONGEST_WORD = 100


def encode_wordpiece_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Words that fit, words that do not, and words that would fit if one looked further."""
    a, b, c, d, e = _letters(rng, 5)
    marked = [f"##{letter}" for letter in (a, b, c, d)]
    letters = [a, b, c, d, *marked]
    random = {
        word if rng.random() < 0.4 else f"##{word}" for word in _random_words(rng, a + b + c + d, 30, 4)
    }
    words = _random_words(rng, a + b + c + d, 12, 9)
    signs = [*letters, "###", b * 5, b * 30]
    table: list[tuple[str, list[str], list[str], bool]] = [
        ("a word of two pieces", [a + b + c + d], [*letters, a + b, f"##{c}{d}"], False),
        (
            "pieces that fit in several ways",
            [a + b + c + d],
            [*letters, a + b, a + b + c, f"##{b}{c}{d}"],
            False,
        ),
        ("a stem that is a piece by itself, too", [a + b + c], [*letters, a, b + c, f"##{b}{c}"], False),
        ("a piece that only fits inside", [a + b, b + a], [a, b, f"##{a}{b}", f"##{b}"], False),
        ("a letter that is not in the vocabulary", [a + b + e + a, e + a, a + e], [*letters, a + b], False),
        ("another cut that would fit", [a + b + c + d], [a + b, a + b + c, f"##{c}{d}"], False),
        ("a long piece whose beginning is no piece", [a + b + c], [*letters, a + b + c], False),
        ("the same piece twice", [a + b + a + b + a + b], [*letters, a + b, f"##{a}{b}"], True),
        ("random pieces", words, sorted({*letters, *random}), True),
        ("Chinese and emoji", ["苹果", "果苹", "👍", "a👍"], ["苹", "##果", "果", "a"], True),
        ("a capital, a # and a piece of 30 letters", [a.upper() + b, a + "#", b * 31], signs, True),
        (
            "words of 100 and of 101 characters",
            ["苹" * 100, a * 100, a * 101],
            [a, f"##{a}", "苹", "##苹"],
            True,
        ),
        ("nothing at all", [""], letters, True),
    ]
    for name, given, vocab, hidden in table:
        yield Case(name, {"words": given, "vocab": vocab}, hidden)


def _longest_first(word: str, start: int) -> Sequence[int]:
    return range(len(word), start, -1)


def _shortest_first(word: str, start: int) -> Sequence[int]:
    return range(start + 1, len(word) + 1)


def _wordpiece(
    word: str,
    vocab: Set[str],
    *,
    ends: Callable[[str, int], Sequence[int]] = _longest_first,
    look_up: Callable[[str, int], str] = lambda part, start: f"##{part}" if start else part,
    no_fit: str = "word",
    longest: float = LONGEST_WORD,
) -> list[str]:
    if len(word) > longest:
        return [UNKNOWN]
    pieces: list[str] = []
    start = 0
    while start < len(word):
        end = next((end for end in ends(word, start) if look_up(word[start:end], start) in vocab), None)
        if end is None and no_fit != "character":
            return [UNKNOWN] if no_fit == "word" else [*pieces, UNKNOWN]
        pieces.append(UNKNOWN if end is None else look_up(word[start:end], start))
        start = start + 1 if end is None else end
    return pieces


def _wordpiece_by_recursion(word: str, vocab: Set[str]) -> list[str]:
    def cut(rest: str, mark: str) -> list[str] | None:
        if not rest:
            return []
        lengths = [n for n in range(1, len(rest) + 1) if mark + rest[:n] in vocab]
        if not lengths:
            return None
        following = cut(rest[lengths[-1] :], "##")
        return None if following is None else [mark + rest[: lengths[-1]], *following]

    found = cut(word, "") if len(word) <= LONGEST_WORD else None
    return [UNKNOWN] if found is None else found


def _wordpiece_by_shrinking(word: str, vocab: Set[str]) -> list[str]:
    if len(word) > LONGEST_WORD:
        return [UNKNOWN]
    rest, result = word, []
    while rest:
        piece = rest if rest is word else "##" + rest
        length = len(rest)
        while piece not in vocab and length:
            piece, length = piece[:-1], length - 1
        if not length:
            return [UNKNOWN]
        result.append(piece)
        rest = rest[length:]
    return result


def _wordpiece_from_the_right(word: str, vocab: Set[str]) -> list[str]:
    pieces: list[str] = []
    end = len(word)
    while end and len(word) <= LONGEST_WORD:
        marked = [("##" if start else "") + word[start:end] for start in range(end)]
        start = next((start for start, piece in enumerate(marked) if piece in vocab), None)
        if start is None:
            return [UNKNOWN]
        pieces.insert(0, marked[start])
        end = start
    return pieces if len(word) <= LONGEST_WORD else [UNKNOWN]


def _wordpiece_while_it_fits(word: str, vocab: Set[str]) -> list[str]:
    """Letter is added to letter, up to the first piece that is not in the vocabulary."""
    pieces: list[str] = []
    start = 0
    while start < len(word) <= LONGEST_WORD:
        mark = "##" if start else ""
        end = start
        while end < len(word) and mark + word[start : end + 1] in vocab:
            end += 1
        if end == start:
            return [UNKNOWN]
        pieces.append(mark + word[start:end])
        start = end
    return pieces if len(word) <= LONGEST_WORD else [UNKNOWN]


def _wordpiece_marked_afterwards(word: str, vocab: Set[str]) -> list[str]:
    pieces = _wordpiece(word, vocab, look_up=lambda part, start: part)
    return pieces if pieces == [UNKNOWN] else [*pieces[:1], *(f"##{piece}" for piece in pieces[1:])]


def _wordpiece_with_retreat(word: str, vocab: Set[str]) -> list[str]:
    """Longest first, but where that leads nowhere the next shorter piece is tried."""
    dead: set[int] = set()

    def cut(start: int) -> list[str] | None:
        if start == len(word):
            return []
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in vocab and end not in dead:
                rest = cut(end)
                if rest is not None:
                    return [piece, *rest]
        dead.add(start)
        return None

    return (cut(0) if len(word) <= LONGEST_WORD else None) or ([UNKNOWN] if word else [])


ENCODE_WORDPIECE = Exercise(
    id="tokenizers/encode_wordpiece",
    title="Cut a word as BERT does",
    points=2,
    minutes=30,
    difficulty=2,
    cases=encode_wordpiece_cases,
    probe=probes.encode_wordpiece,
    reference=_wordpiece,
    also_right=(_wordpiece_by_recursion, _wordpiece_by_shrinking),
    forbidden=LIBRARY,
    misconceptions=(
        Misconception(
            "the shortest piece was taken",
            lambda word, vocab: _wordpiece(word, vocab, ends=_shortest_first),
            "Of all pieces that fit at a place the *longest* is taken. Try the whole rest of the word first, then "
            "one letter less, and so on.",
        ),
        Misconception(
            "pieces inside the word were looked up without ##",
            lambda word, vocab: _wordpiece(word, vocab, look_up=lambda part, start: part),
            "`able` and `##able` are two pieces: one begins a word, the other continues it. From the second piece "
            "on, look up `'##' + part`.",
        ),
        Misconception(
            "the marks were taken off",
            lambda word, vocab: [piece.removeprefix("##") for piece in _wordpiece(word, vocab)],
            "Return the pieces as the vocabulary writes them, with their `##`. Without it nobody can tell where a "
            "word begins.",
        ),
        Misconception(
            "the first piece was marked, too",
            lambda word, vocab: _wordpiece(word, vocab, look_up=lambda part, start: f"##{part}"),
            "Only pieces that *continue* a word carry `##`. The first piece is looked up as it is.",
        ),
        Misconception(
            "only the rest of the word became unknown",
            lambda word, vocab: _wordpiece(word, vocab, no_fit="rest"),
            "If any part of a word does not fit, the *whole word* is one `[UNK]`; the pieces found before are "
            "thrown away.",
        ),
        Misconception(
            "only one character became unknown",
            lambda word, vocab: _wordpiece(word, vocab, no_fit="character"),
            "WordPiece does not skip a character: if any part of a word does not fit, the *whole word* is one "
            "`[UNK]`.",
        ),
        Misconception(
            "the longest piece was taken from the right end",
            _wordpiece_from_the_right,
            "The word is cut from its beginning: first the longest piece that begins the word, then the longest one "
            "that continues it.",
        ),
        Misconception(
            "another cut was tried when the longest pieces did not fit",
            _wordpiece_with_retreat,
            "WordPiece never goes back. It takes the longest piece at each place, and if that leads nowhere the word "
            "is `[UNK]`, even where shorter pieces would have fitted.",
        ),
        Misconception(
            "a word of any length was cut",
            lambda word, vocab: _wordpiece(word, vocab, longest=math.inf),
            "A word of more than 100 characters is `[UNK]` at once, as in BERT's code.",
        ),
        Misconception(
            "a word of 100 characters was too long",
            lambda word, vocab: _wordpiece(word, vocab, longest=LONGEST_WORD - 1),
            "*More* than 100 characters are too many. A word of exactly 100 is cut like any other.",
        ),
        Misconception(
            "the length was measured in bytes",
            lambda word, vocab: (
                _wordpiece(word, vocab) if len(word.encode("utf-8")) <= LONGEST_WORD else [UNKNOWN]
            ),
            "The limit is 100 *characters*, `len(word)`. A Chinese character is three bytes and counts once.",
        ),
        Misconception(
            "the search ended at the first piece that does not fit",
            _wordpiece_while_it_fits,
            "A long piece can be in the vocabulary though its beginning is not. Try every length, the longest "
            "first; do not stop growing at the first gap.",
        ),
        Misconception(
            "pieces inside the word got their ## after the search",
            _wordpiece_marked_afterwards,
            "`able` and `##able` are two pieces. Put the `##` before the part *before* you look it up; otherwise "
            "you return pieces that are not in the vocabulary.",
        ),
    ),
    hints=(
        "Keep `start`, where the next piece begins. Which ends do you try for it, and in which order?",
        "For `end` from `len(word)` down to `start + 1`: the piece is `word[start:end]`, with `##` before it if "
        "`start > 0`. What do you return if none of them is in the vocabulary?",
        "A `for … else` loop fits: `break` when the piece is in `vocab`, and in `else` return `['[UNK]']`. After it "
        "append the piece and set `start = end`. Words of more than 100 characters are `['[UNK]']` at once.",
    ),
)

# --- tokenizers/best_cut -----------------------------------------------------------------------

Cut = tuple[list[str], float]


def best_cut_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Words where greed, few pieces, or a wrong sum lead elsewhere; then unknown characters and edges."""
    a, b, c, d, e = _letters(rng, 5)
    greedy = {a: -6.0, b: -6.1, c: -6.2, d: -8.0, a + b: -2.0, c + d: -2.2, a + b + c: -7.0}
    short = {a: -2.0, b: -2.3, c: -2.6, a + b + c: -20.0, b + c: -11.0}
    long = {a: -2.1, b: -2.5, c: -3.0, a + b: -3.5, b + c: -4.5, a + b + c: -5.0}
    pieces = sorted({*_random_words(rng, a + b + c, 25, 4), a, b, c})
    random = {piece: -1.0 - 3.0 * len(piece) ** 0.5 - 0.5 * float(rng.random()) for piece in pieces}
    words = _words_without_ties(rng, a + b + c, random, 3)
    unknown = {a: -3.0, b: -3.1, a + b: -5.0, a + b + d: -9.0}
    halves = {a: -1.0, b: -9.0, c: -9.5, d: -1.0, a + b: -5.0, c + d: -5.5}
    table: list[tuple[str, str, dict[str, float], bool]] = [
        ("two likely ends against two even halves", a + b + c + d, halves, False),
        ("two middling pieces against a long one", a + b + c + d, greedy, False),
        ("three likely letters against one rare word", a + b + c, short, False),
        ("one likely word against its letters", a + b + c, long, False),
        ("a character that is no piece", a + b + e + a, unknown, False),
        ("a known character that is less likely than an unknown one", a + b, {a: -40.0, b: -3.0}, False),
        ("an unknown character against an unlikely piece", a + c, {a: -3.0, a + c: -60.0}, False),
        ("nothing but unknown characters", e + c, unknown, True),
        ("twelve unknown characters", (e + c) * 6, unknown, True),
        (
            "a piece of twelve letters",
            (a + b) * 6,
            {a: -3.0, b: -3.5, (a + b) * 2: -10.0, (a + b) * 6: -20.0},
            True,
        ),
        *((f"a random word, number {number}", word, random, True) for number, word in enumerate(words, 1)),
        ("Chinese and an emoji", "苹果👍", {"苹": -4.0, "果": -5.0, "苹果": -6.0}, True),
        ("one letter", a, unknown, True),
        ("nothing at all", "", unknown, True),
    ]
    for name, word, scores, hidden in table:
        shift = 0.0 if scores is random else 0.4
        shaken = {piece: score - shift * float(rng.random()) for piece, score in scores.items()}
        yield Case(
            name, {"word": word, "scores": shaken, "unknown_score": -18.0 - float(rng.random())}, hidden
        )


def _words_without_ties(
    rng: np.random.Generator, letters: str, scores: Mapping[str, float], count: int
) -> list[str]:
    """Random words whose best cut leaves the second best well behind; the same pieces in another order tie."""
    words: list[str] = []
    while len(words) < count:
        word = _random_words(rng, letters, 1, 9)[0] + letters[0] + letters[2]
        totals = sorted((total for total, _ in _all_cuts(word, scores, -18.0)), reverse=True)
        if len(totals) == 1 or totals[0] - totals[1] > 1e-3:
            words.append(word)
    return words


def _all_pieces(word: str, scores: Mapping[str, float], unknown_score: float) -> dict[tuple[int, int], float]:
    """The score of every piece at every place, (start, end); unknown characters are pieces, too."""
    places = {
        (start, end): scores[word[start:end]]
        for start, end in combinations(range(len(word) + 1), 2)
        if word[start:end] in scores
    }
    for start in range(len(word)):
        places.setdefault((start, start + 1), unknown_score)
    return places


Better = Callable[[tuple[float, int], tuple[float, int]], bool]


def _viterbi(
    word: str,
    scores: Mapping[str, float],
    unknown_score: float,
    *,
    better: Better = lambda new, old: new[0] > old[0],
    worth: Callable[[float], float] = lambda score: score,
) -> Cut:
    """`best[end]`: score, number of pieces and start of the last piece of the best cut of `word[:end]`."""
    places = _all_pieces(word, scores, unknown_score)
    best: list[tuple[float, int, int] | None] = [(0.0, 0, 0)] + [None] * len(word)
    for (start, end), score in sorted(places.items()):
        before, old = best[start], best[end]
        assert before is not None
        new = (before[0] + worth(score), before[1] + 1)
        if old is None or better(new, old[:2]):
            best[end] = (*new, start)
    pieces: list[str] = []
    end = len(word)
    while end:
        entry = best[end]
        assert entry is not None
        pieces.insert(0, word[entry[2] : end])
        end = entry[2]
    last = best[-1]
    assert last is not None
    return pieces, last[0]


def _best_by_memory(word: str, scores: Mapping[str, float], unknown_score: float) -> Cut:
    """By recursion over what is left of the word."""
    known: dict[int, Cut] = {len(word): ([], 0.0)}
    for start in reversed(range(len(word))):
        options = []
        for end in range(start + 1, len(word) + 1):
            piece = word[start:end]
            score = scores.get(piece, unknown_score if len(piece) == 1 else None)
            if score is not None:
                rest, more = known[end]
                options.append((score + more, [piece, *rest]))
        total, pieces = max(options)
        known[start] = (pieces, total)
    return known[0]


def _all_cuts(word: str, scores: Mapping[str, float], unknown_score: float) -> list[tuple[float, list[str]]]:
    """Every cut with its score; fine for a dozen characters."""
    results: list[tuple[float, list[str]]] = []
    for number in range(len(word)):
        for inner in combinations(range(1, len(word)), number):
            pieces = [word[start:end] for start, end in pairwise([0, *inner, len(word)])]
            if all(piece in scores or len(piece) == 1 for piece in pieces):
                results.append((sum(scores.get(piece, unknown_score) for piece in pieces), pieces))
    return results


def _best_of_all(word: str, scores: Mapping[str, float], unknown_score: float) -> Cut:
    total, best = max(_all_cuts(word, scores, unknown_score), default=(0.0, []))
    return best, total


def _likeliest_next_piece(word: str, scores: Mapping[str, float], unknown_score: float) -> Cut:
    """From the left, the piece with the best score of its own."""
    pieces: list[str] = []
    start, total = 0, 0.0
    while start < len(word):
        options = [
            (score, end)
            for (at, end), score in _all_pieces(word, scores, unknown_score).items()
            if at == start
        ]
        score, end = max(options)
        pieces.append(word[start:end])
        start, total = end, total + score
    return pieces, total


def _likeliest_last_piece(word: str, scores: Mapping[str, float], unknown_score: float) -> Cut:
    """At each position the last piece with the best score of its own; what came before does not count."""
    places = _all_pieces(word, scores, unknown_score)
    pieces: list[str] = []
    end, total = len(word), 0.0
    while end:
        score, earlier = max((score, -start) for (start, at), score in places.items() if at == end)
        pieces.insert(0, word[-earlier:end])
        end, total = -earlier, total + score
    return pieces, total


def _unknown_of_any_length(word: str, scores: Mapping[str, float], unknown_score: float) -> Cut:
    parts = {word[start:end] for start, end in combinations(range(len(word) + 1), 2)}
    return _viterbi(word, {**dict.fromkeys(parts, unknown_score), **scores}, unknown_score)


def _unknown_where_better(word: str, scores: Mapping[str, float], unknown_score: float) -> Cut:
    letters = {letter: max(scores.get(letter, unknown_score), unknown_score) for letter in word}
    return _viterbi(word, {**scores, **letters}, unknown_score)


def _unknown_where_stuck(word: str, scores: Mapping[str, float], unknown_score: float) -> Cut:
    """An unknown character ends only where no piece does."""
    best: list[Cut] = [([], 0.0)]
    for end in range(1, len(word) + 1):
        options = [
            (best[start][1] + scores[word[start:end]], start)
            for start in range(end)
            if word[start:end] in scores
        ]
        total, start = max(options, default=(best[end - 1][1] + unknown_score, end - 1))
        best.append(([*best[start][0], word[start:end]], total))
    return best[-1]


def _unknown_joined(word: str, scores: Mapping[str, float], unknown_score: float) -> Cut:
    pieces, total = _viterbi(word, scores, unknown_score)
    result: list[str] = []
    for before, piece in pairwise(["", *pieces]):
        if result and before not in scores and piece not in scores:
            result[-1] += piece
        else:
            result.append(piece)
    return result, total


def _unknown_left_out(word: str, scores: Mapping[str, float], unknown_score: float) -> Cut:
    """No way past an unknown character: what lies behind it keeps minus infinity."""
    pieces, total = _viterbi(word, scores, -1e9)
    return (pieces, total) if total > -1e8 else ([word], -math.inf)


def _greedy_cut(word: str, scores: Mapping[str, float], unknown_score: float) -> Cut:
    pieces: list[str] = []
    start, total = 0, 0.0
    while start < len(word):
        fits = [end for end in range(start + 1, len(word) + 1) if word[start:end] in scores]
        end = fits[-1] if fits else start + 1
        pieces.append(word[start:end])
        total += scores.get(word[start:end], unknown_score)
        start = end
    return pieces, total


def _fewest_pieces(word: str, scores: Mapping[str, float], unknown_score: float) -> Cut:
    return _viterbi(
        word, scores, unknown_score, better=lambda new, old: (-new[1], new[0]) > (-old[1], old[0])
    )


def _reversed_pieces(word: str, scores: Mapping[str, float], unknown_score: float) -> Cut:
    pieces, total = _viterbi(word, scores, unknown_score)
    return pieces[::-1], total


def _given_up(word: str, scores: Mapping[str, float], unknown_score: float) -> Cut:
    if any(letter not in scores for letter in word):
        return ["<unk>"], unknown_score
    return _viterbi(word, scores, unknown_score)


BEST_CUT = Exercise(
    id="tokenizers/best_cut",
    title="The most probable cut",
    points=3,
    minutes=45,
    difficulty=3,
    cases=best_cut_cases,
    probe=probes.best_cut,
    reference=_viterbi,
    also_right=(_best_by_memory, _best_of_all),
    tolerance=Tolerance(absolute=1e-6, relative=1e-6),
    forbidden=LIBRARY,
    misconceptions=(
        Misconception(
            "the longest piece was taken from the left",
            _greedy_cut,
            "A long piece now may leave only poor pieces for the rest. Keep, for *every* position in the word, the "
            "best cut that ends there, and decide at the end.",
        ),
        Misconception(
            "the least probable cut was taken",
            lambda *case: _viterbi(*case, better=lambda new, old: new[0] < old[0]),
            "Log-probabilities are negative, and the *largest* sum, the one nearest to 0, is the most probable. You "
            "kept the smallest, as one would with costs.",
        ),
        Misconception(
            "the probabilities were added",
            lambda *case: _viterbi(*case, worth=math.exp),
            "The probability of a cut is the *product* of its pieces' probabilities, so their logarithms are added. "
            "The scores are logarithms already: leave `exp` out.",
        ),
        Misconception(
            "the cut with the fewest pieces was taken",
            _fewest_pieces,
            "Few pieces are often likely, but not always. Compare the summed scores, not the number of pieces.",
        ),
        Misconception(
            "the pieces are in reverse order",
            _reversed_pieces,
            "Walking back from the end of the word finds the last piece first. Turn the list round before you "
            "return it.",
        ),
        Misconception(
            "an unknown character costs nothing",
            lambda word, scores, unknown_score: _viterbi(word, scores, 0.0),
            "A character that is no piece is passed over at the price `unknown_score`. A score of 0 would mean a "
            "probability of 1.",
        ),
        Misconception(
            "an unknown character made the whole word unknown",
            _given_up,
            "That is WordPiece's rule. Here a single character that is not in `scores` is a piece of its own with "
            "the score `unknown_score`, and the rest of the word is cut as usual.",
        ),
        Misconception(
            "the likeliest next piece was taken from the left",
            _likeliest_next_piece,
            "The best piece now may leave only poor pieces for the rest. Keep, for *every* position in the word, "
            "the best cut that ends there, and decide at the end.",
        ),
        Misconception(
            "only the last piece was compared, not the sum",
            _likeliest_last_piece,
            "The best way to a position is the best *sum*: the score of what comes before the last piece plus the "
            "score of that piece.",
        ),
        Misconception(
            "the scores began at 0",
            lambda word, scores, unknown_score: ([word] if word else [], 0.0),
            "All sums are negative, so none is ever larger than 0, and no cut is taken. Only position 0 has the "
            "score 0; the others start at minus infinity.",
        ),
        Misconception(
            "any part of the word could be an unknown piece",
            _unknown_of_any_length,
            "`scores.get(piece, unknown_score)` lets a part of any length pass. Only a *single* character may be "
            "unknown; a longer part that is not in `scores` is no piece.",
        ),
        Misconception(
            "a known character was taken for an unknown one",
            _unknown_where_better,
            "A character that is in `scores` has its own score, even where `unknown_score` is larger.",
        ),
        Misconception(
            "an unknown character was tried only where no piece fits",
            _unknown_where_stuck,
            "An unknown character is a piece like any other, with the score `unknown_score`. It is compared with "
            "the other pieces that end there, and may win against an unlikely one.",
        ),
        Misconception(
            "neighbouring unknown characters were joined",
            _unknown_joined,
            "Each unknown character is a piece of its own, as the statement says; its score was counted for each.",
        ),
        Misconception(
            "there was no way past an unknown character",
            _unknown_left_out,
            "Only pieces in `scores` were tried, so nothing behind an unknown character could be reached. A single "
            "character that is not in `scores` is a piece, too, with the score `unknown_score`.",
        ),
        Misconception(
            "the score was turned back into a probability",
            lambda *case: (_viterbi(*case)[0], math.exp(_viterbi(*case)[1])),
            "The score of a cut is the sum of log-probabilities, a negative number. Leave `exp` out.",
        ),
    ),
    hints=(
        "Suppose you knew the best cut of every beginning `word[:start]`. How do you find the best cut of "
        "`word[:end]` from those, looking only at its last piece?",
        "Keep two lists of length `len(word) + 1`: the best score of `word[:end]`, and where its last piece starts. "
        "Position 0 has score 0, and the others start at minus infinity.",
        "For each end and each start before it: if `word[start:end]` is in `scores`, or is one character (then "
        "`unknown_score`), try `best[start] + score`. At last walk back from the end along the starts.",
    ),
)

# --- tokenizers/batch_cost ---------------------------------------------------------------------

Report = dict[str, float]
Batch = tuple[Tensor, Tensor, Report]


def batch_cost_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Sequences of several lengths, a pad id that is a real token, several scripts, another device."""
    pad, end, start = (int(number) for number in rng.permutation(np.arange(5))[:3])

    def ids(length: int) -> list[int]:
        return [int(number) for number in rng.integers(10, 500, size=length)]

    uneven = [[start, *ids(2), end], [start, *ids(6), end], [start, *ids(4), end]]
    with_pad = [[*ids(3), pad], [pad, *ids(1), pad], ids(5)]
    texts = ["the red boat", "naïve café", "果园里的苹果"]
    table: list[tuple[str, list[list[int]], list[str], list[int], str, bool]] = [
        ("three sequences", uneven, texts, [start, end, pad], "cpu", False),
        ("a padding token that also ends a text", with_pad, ["a boat", "the", "红苹果"], [pad], "cpu", False),
        ("English beside Chinese", [ids(3), ids(9)], ["an apple", "一个苹果"], [pad], "cpu", False),
        ("tensors on another device", uneven, texts, [start, end, pad], "meta", False),
        ("sequences of one length", [ids(4), ids(4)], ["two boats", "👍 船"], [], "cpu", True),
        ("an empty sequence", [[], ids(5)], ["", "苹果 and apple"], [pad], "cpu", True),
        (
            "a padding token that is an ordinary one",
            [[pad, *ids(3)], ids(2)],
            ["a boat", "é"],
            [end],
            "cpu",
            True,
        ),
        ("one token", [ids(1)], ["é"], [pad, end], "cpu", True),
    ]
    for name, sequences, given, special, device, hidden in table:
        inputs = {"sequences": sequences, "texts": given, "pad_id": pad, "special_ids": special}
        yield Case(name, {**inputs, "device": device}, hidden)


def _rows(sequences: list[list[int]], pad_id: int, left: bool = False) -> list[list[int]]:
    longest = max(map(len, sequences))
    padding = [[pad_id] * (longest - len(row)) for row in sequences]
    return [[*pad, *row] if left else [*row, *pad] for row, pad in zip(sequences, padding, strict=True)]


def _bytes_per_token(
    sequences: list[list[int]],
    texts: list[str],
    special: Set[int],
    size: Callable[[str], int] = lambda text: len(text.encode("utf-8")),
) -> float:
    return sum(map(size, texts)) / sum(index not in special for row in sequences for index in row)


def _used_by_attention(lengths: list[int], longest: int) -> float:
    """How many score tables' worth of entries belong to two real tokens."""
    return sum(length * length for length in lengths) / longest**2


def _mean_of_ratios(sequences: list[list[int]], texts: list[str], special: Set[int]) -> float:
    pairs = [pair for pair in zip(sequences, texts, strict=True) if pair[0]]
    return sum(_bytes_per_token([row], [text], special) for row, text in pairs) / len(pairs)


def _batch(
    sequences: list[list[int]],
    texts: list[str],
    pad_id: int,
    special_ids: Set[int],
    device: torch.device,
    *,
    bytes_per_token: Callable[..., float] = _bytes_per_token,
    left: bool = False,
    by_id: bool = False,
    inverted: bool = False,
    attention: Callable[[list[int], int], float] = _used_by_attention,
) -> Batch:
    rows = _rows(sequences, pad_id, left)
    real = _rows([[1] * len(row) for row in sequences], 0, left)
    ids = torch.tensor(rows, dtype=torch.int64).to(device)
    mask = torch.tensor(rows).ne(pad_id) if by_id else torch.tensor(real).bool()
    lengths, longest = [len(row) for row in sequences], len(rows[0])
    report = {
        "bytes_per_token": bytes_per_token(sequences, texts, special_ids),
        "padding_share": 1 - sum(lengths) / (len(rows) * longest),
        "wasted_attention": 1 - attention(lengths, longest) / len(rows),
    }
    return ids, (~mask if inverted else mask).to(device), report


def _bytes_per_other_token(
    sequences: list[list[int]], texts: list[str], pad_id: int, special: Set[int]
) -> float:
    return _bytes_per_token(sequences, texts, {*special, pad_id})


def _batch_with_torch(
    sequences: list[list[int]], texts: list[str], pad_id: int, special_ids: Set[int], device: torch.device
) -> Batch:
    """torch's own padding, and the mask by comparing positions with lengths."""
    tensors = [torch.tensor(row, dtype=torch.int64, device=device) for row in sequences]
    ids = pad_sequence(tensors, batch_first=True, padding_value=pad_id)
    lengths = np.array([len(row) for row in sequences])
    mask = torch.arange(ids.shape[1], device=device) < torch.tensor(lengths, device=device)[:, None]
    size = sum(len(text.encode()) for text in texts)
    real = (lengths / lengths.max()).mean()
    squared = ((lengths / lengths.max()) ** 2).mean()
    ordinary = sum(len([index for index in row if index not in special_ids]) for row in sequences)
    shares = {"padding_share": float(1 - real), "wasted_attention": float(1 - squared)}
    return ids, mask, {"bytes_per_token": size / ordinary, **shares}


def _batch_by_filling(
    sequences: list[list[int]], texts: list[str], pad_id: int, special_ids: Set[int], device: torch.device
) -> Batch:
    """A tensor full of padding, filled row by row; the shares by counting positions."""
    longest = max(len(row) for row in sequences)
    ids = torch.full((len(sequences), longest), pad_id, dtype=torch.int64, device=device)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for index, row in enumerate(sequences):
        ids[index, : len(row)] = torch.tensor(row, dtype=torch.int64, device=device)
        mask[index, : len(row)] = True
    padding = sum(longest - len(row) for row in sequences)
    wasted = sum(longest**2 - len(row) ** 2 for row in sequences)
    tokens = Counter(index for row in sequences for index in row)
    ordinary = sum(count for index, count in tokens.items() if index not in special_ids)
    report = {
        "bytes_per_token": len("".join(texts).encode("utf-8")) / ordinary,
        "padding_share": padding / ids.numel(),
        "wasted_attention": wasted / (ids.numel() * longest),
    }
    return ids, mask, report


def _batch_on_the_cpu(
    sequences: list[list[int]], texts: list[str], pad_id: int, special_ids: Set[int], device: torch.device
) -> Batch:
    return _batch(sequences, texts, pad_id, special_ids, torch.device("cpu"))


BATCH_COST = Exercise(
    id="tokenizers/batch_cost",
    title="A batch of texts, and what it costs",
    points=3,
    minutes=45,
    difficulty=3,
    cases=batch_cost_cases,
    probe=probes.batch_cost,
    reference=_batch,
    also_right=(_batch_with_torch, _batch_by_filling),
    forbidden=LIBRARY,
    gpu=True,
    misconceptions=(
        Misconception(
            "the tensors are made on the CPU",
            _batch_on_the_cpu,
            "`torch.tensor(rows)` makes its tensor on the CPU. Pass `device=device`, for the ids and for the mask.",
        ),
        Misconception(
            "the mask was read off the padding token",
            lambda *case: _batch(*case, by_id=True),
            "GPT-2 pads with the token that also ends a text, so `ids != pad_id` hides a real token. What is "
            "padding follows from the *lengths* alone.",
        ),
        Misconception(
            "the mask is the wrong way round",
            lambda *case: _batch(*case, inverted=True),
            "In this course True means *may be attended to*: a real token. Padding is False.",
        ),
        Misconception(
            "the padding is on the left",
            lambda *case: _batch(*case, left=True),
            "Every row begins with its own tokens and is filled up on the right. (Padding on the left has its use "
            "in generation, in chapter 14.)",
        ),
        Misconception(
            "characters were counted, not bytes",
            lambda *case: _batch(
                *case, bytes_per_token=lambda s, t, special: _bytes_per_token(s, t, special, len)
            ),
            "`len(text)` counts characters. A Chinese character is three bytes, so comparing languages by "
            "characters flatters English: use `len(text.encode('utf-8'))`.",
        ),
        Misconception(
            "special tokens were counted",
            lambda *case: _batch(
                *case, bytes_per_token=lambda s, t, special: _bytes_per_token(s, t, frozenset())
            ),
            "Special tokens stand for no bytes of the text. Count only tokens whose id is not in `special_ids`.",
        ),
        Misconception(
            "the ratios of the texts were averaged",
            lambda *case: _batch(*case, bytes_per_token=_mean_of_ratios),
            "A mean of ratios gives a short text as much weight as a long one. Divide all bytes by all tokens.",
        ),
        Misconception(
            "the waste of attention was taken for the share of padding",
            lambda *case: _batch(*case, attention=lambda lengths, t: sum(lengths) / t),
            "Attention compares every position with every position: a row of n real tokens uses n · n of its t · t "
            "entries. The waste is 1 minus the share of those.",
        ),
        Misconception(
            "only scores between two padding positions were counted as waste",
            lambda *case: _batch(
                *case, attention=lambda lengths, t: sum(1 - (1 - n / t) ** 2 for n in lengths)
            ),
            "A score is wasted if *at least one* of its two positions is padding. Of a row's t · t scores only "
            "n · n are between two real tokens; all others are waste.",
        ),
        Misconception(
            "the share that is of use was given as waste",
            lambda *case: _batch(*case, attention=lambda lengths, t: sum(1 - (n / t) ** 2 for n in lengths)),
            "Σn² / (b·t²) is the share of scores between two real tokens. The waste is 1 minus that.",
        ),
        Misconception(
            "the mean length was squared",
            lambda *case: _batch(
                *case, attention=lambda lengths, t: len(lengths) * (sum(lengths) / len(lengths) / t) ** 2
            ),
            "The mean of squares is not the square of the mean: each row has its own n · n scores of use. Square "
            "the lengths first, then add them.",
        ),
        Misconception(
            "real tokens that look like padding were not counted",
            lambda sequences, texts, pad_id, special_ids, device: _batch(
                sequences,
                texts,
                pad_id,
                special_ids,
                device,
                bytes_per_token=lambda s, t, special: _bytes_per_other_token(s, t, pad_id, special),
            ),
            "`pad_id` may stand for a real token, and then it counts unless it is in `special_ids`. The sequences "
            "hold no padding yet: count their ids as they are.",
        ),
    ),
    hints=(
        "Take the longest length, and fill each row up to it with `pad_id`. The mask follows from the lengths: row "
        "i has `len(sequences[i])` times True.",
        "All three numbers come from Python lists, before any tensor is made: lengths n₁ … n_b, and the longest, t. "
        "Padding: 1 − Σn / (b·t). Attention: 1 − Σn² / (b·t²).",
        "`torch.tensor(rows, dtype=torch.int64, device=device)` and the same for the mask with "
        "`dtype=torch.bool`. Bytes: `sum(len(text.encode('utf-8')) for text in texts)`, divided by the number of "
        "ids that are not in `special_ids`.",
    ),
)

EXERCISES: tuple[Exercise, ...] = (
    BPE_STEP,
    TRAIN_BPE,
    ENCODE_BPE,
    ENCODE_WORDPIECE,
    BEST_CUT,
    BATCH_COST,
)
