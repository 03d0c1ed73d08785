"""How Unigram finds its pieces: start with far too many, and drop those that the text misses least.

1. Seeds: all characters, and the substrings of words that cover most text.
2. Expectation: over all cuts of every word, how often is each piece expected to be used?
3. Maximisation: a piece's new probability is its share of all uses. Repeat 2 and 3.
4. Prune: drop the pieces whose loss lowers the likelihood of the text least. Repeat from 2 until few enough.

SentencePiece shrinks the counts of rare pieces a little more in step 3 (with the digamma function); this file
keeps plain shares.

Source: Kudo 2018, section 3.2.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping

from tqdm import tqdm

from course_lib.tokenizers.letters import frequent_letters

SEEDS_PER_PIECE = 10
SEEDS_AT_LEAST = 5_000
EXPECTATION_STEPS = 2
KEEP_PER_ROUND = 0.75

# Longer words are cut, so that products of probabilities stay far above the smallest float.
_LONGEST_WORD = 32
# A piece expected to be used less often than this is dropped at once; a character is kept with this count.
_FEWEST_USES = 0.5


def train_unigram(
    word_counts: Mapping[str, int], num_pieces: int, *, longest_piece: int = 16, progress: bool = False
) -> dict[str, float]:
    """At most `num_pieces` pieces, every kept character among them, and their log-probabilities in nats.

    A script with more than `num_pieces` characters keeps the most frequent ones.
    """
    letters = set(frequent_letters(word_counts, num_pieces))
    words = _trainable(word_counts, letters)
    pieces = seed_pieces(words, letters, max(SEEDS_PER_PIECE * num_pieces, SEEDS_AT_LEAST), longest_piece)
    with tqdm(desc="Unigram pieces", disable=not progress) as bar:
        while True:
            for _ in range(EXPECTATION_STEPS):
                expected = expected_uses(words, pieces)
                pieces = probabilities(expected, letters)
            bar.set_postfix(pieces=len(pieces))
            bar.update()
            if len(pieces) <= num_pieces:
                return {piece: math.log(probability) for piece, probability in pieces.items()}
            fewer = max(num_pieces, int(KEEP_PER_ROUND * len(pieces)))
            pieces = prune(pieces, expected, letters, fewer)


def _trainable(word_counts: Mapping[str, int], letters: set[str]) -> Counter[str]:
    """The words without other letters than these, and cut to `_LONGEST_WORD` characters."""
    words: Counter[str] = Counter()
    for word, count in word_counts.items():
        known = "".join(letter if letter in letters else "\0" for letter in word)
        for part in known.split("\0") if "\0" not in letters else [known]:
            for start in range(0, len(part), _LONGEST_WORD):
                words[part[start : start + _LONGEST_WORD]] += count
    return words


def seed_pieces(
    words: Mapping[str, int], letters: Iterable[str], num_seeds: int, longest_piece: int
) -> dict[str, float]:
    """All letters and the substrings with the highest count · length, with probabilities to start from.

    Substrings are counted by length. One that occurs twice has a beginning that does too, so each length
    looks only where the length before found something.
    """
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for letter in word:
            counts[letter] += count
    repeated, substrings = set(counts), Counter[str]()
    for length in range(2, longest_piece + 1):
        found: Counter[str] = Counter()
        for word, count in words.items():
            for start in range(len(word) - length + 1):
                if word[start : start + length - 1] in repeated:
                    found[word[start : start + length]] += count
        repeated = {piece for piece, count in found.items() if count > 1}
        if not repeated:
            break
        substrings.update({piece: count for piece, count in found.items() if count > 1})
    by_cover = sorted(substrings, key=lambda piece: (-substrings[piece] * len(piece), piece))
    uses = {letter: counts[letter] for letter in sorted(letters)}
    uses |= {piece: substrings[piece] for piece in by_cover[:num_seeds]}
    return probabilities(uses, letters)


def probabilities(uses: Mapping[str, float], letters: Iterable[str]) -> dict[str, float]:
    """Each piece's share of all uses, rare pieces dropped and every letter kept."""
    kept = {piece: count for piece, count in uses.items() if count >= _FEWEST_USES}
    kept |= {letter: max(uses.get(letter, 0.0), _FEWEST_USES) for letter in sorted(letters)}
    total = math.fsum(kept.values())
    return {piece: count / total for piece, count in kept.items()}


def expected_uses(words: Mapping[str, int], pieces: Mapping[str, float]) -> dict[str, float]:
    """How often each piece is used, expected over all cuts of every word (forward–backward).

    P(word) sums the products over all cuts. Of it, forward[start] · P(piece) · backward[end] goes through one
    piece at one place, where forward sums over the cuts of what is before it and backward of what is after.
    """
    uses: dict[str, float] = dict.fromkeys(pieces, 0.0)
    longest = max(map(len, pieces))
    for word, count in words.items():
        places = _places(word, pieces, longest)
        forward = [1.0] + [0.0] * len(word)
        for start, end, _, probability in places:
            forward[end] += forward[start] * probability
        backward = [0.0] * len(word) + [1.0]
        for start, end, _, probability in reversed(places):
            backward[start] += probability * backward[end]
        share = count / forward[-1]
        for start, end, piece, probability in places:
            uses[piece] += forward[start] * probability * backward[end] * share
    return uses


def _places(word: str, pieces: Mapping[str, float], longest: int) -> list[tuple[int, int, str, float]]:
    """Every piece at every place in the word: start, end, piece, probability; ordered by start."""
    return [
        (start, end, piece, pieces[piece])
        for start in range(len(word))
        for end in range(start + 1, min(len(word), start + longest) + 1)
        if (piece := word[start:end]) in pieces
    ]


def prune(
    pieces: Mapping[str, float], uses: Mapping[str, float], letters: set[str], num_kept: int
) -> dict[str, float]:
    """The letters, and of the other pieces those that are missed most, `num_kept` in all.

    Without a piece each of its uses would cost the best cut into other pieces: the log-likelihood of the text
    falls by uses · (log P(piece) − log P(that cut)).
    """
    longest = max(map(len, pieces))
    loss = {
        piece: uses[piece] * (math.log(probability) - _best_other_cut(piece, pieces, longest))
        for piece, probability in pieces.items()
        if piece not in letters
    }
    missed_most = sorted(loss, key=lambda piece: (-loss[piece], piece))
    kept = letters.union(missed_most[: max(num_kept - len(letters), 0)])
    return {piece: probability for piece, probability in pieces.items() if piece in kept}


def _best_other_cut(piece: str, pieces: Mapping[str, float], longest: int) -> float:
    """Log-probability of the best cut of a piece into shorter ones; its letters make at least one."""
    best = [1.0] + [0.0] * len(piece)
    for start, end, shorter, probability in _places(piece, pieces, longest):
        if len(shorter) < len(piece):
            best[end] = max(best[end], best[start] * probability)
    return math.log(best[-1])
