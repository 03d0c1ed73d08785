"""Unigram against enumeration: all cuts of short words, and what training does to their probabilities."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.data.stdlib_text import reference_prose
from course_lib.tokenizers import UnigramTokenizer
from course_lib.tokenizers.unigram import SCORE_STEP, space_to_mark
from course_lib.tokenizers.unigram_training import (
    expected_uses,
    probabilities,
    prune,
    seed_pieces,
    train_unigram,
)

LETTERS = {"a": 0.2, "b": 0.1, "c": 0.15}
PIECES = LETTERS | {"ab": 0.2, "bc": 0.05, "abc": 0.1, "ca": 0.1, "aa": 0.1}


def all_cuts(word: str) -> list[list[str]]:
    """Every way to cut a word into pieces of PIECES."""
    cuts = []
    for count in range(len(word)):
        for places in combinations(range(1, len(word)), count):
            edges = [0, *places, len(word)]
            pieces = [word[start:end] for start, end in pairwise(edges)]
            if all(piece in PIECES for piece in pieces):
                cuts.append(pieces)
    return cuts


def probability(pieces: list[str]) -> float:
    """The product of the pieces' probabilities."""
    return math.prod(PIECES[piece] for piece in pieces)


@pytest.fixture(scope="module")
def small() -> UnigramTokenizer:
    """A tokenizer with the pieces above, and the mark of a space."""
    vocab = {token: index for index, token in enumerate(["<unk>", "▁", *PIECES])}
    return UnigramTokenizer(vocab, [0.0, math.log(0.5), *map(math.log, PIECES.values())], ["<unk>"])


@given(st.text("abc", min_size=1, max_size=9))
@settings(max_examples=150, deadline=None)
def test_the_cut_found_is_the_most_probable_of_all(word: str) -> None:
    vocab = {token: index for index, token in enumerate(["<unk>", "▁", *PIECES])}
    scores = [0.0, math.log(0.5), *map(math.log, PIECES.values())]
    small = UnigramTokenizer(vocab, scores, ["<unk>"])
    found = small.tokens(word)
    assert found[0] == "▁" and "".join(found[1:]) == word
    assert probability(found[1:]) == pytest.approx(max(map(probability, all_cuts(word))))


def test_n_best_lists_every_cut_in_order(small: UnigramTokenizer) -> None:
    cuts = small.n_best("abcab", 1000)
    expected = sorted((math.log(0.5 * probability(cut)) for cut in all_cuts("abcab")), reverse=True)
    assert [score for score, _ in cuts] == pytest.approx(expected)
    assert {tuple(pieces) for _, pieces in cuts} == {("▁", *cut) for cut in all_cuts("abcab")}
    assert small.n_best("abcab", 3) == cuts[:3]
    assert cuts[0][1] == small.tokens("abcab")


def test_n_best_ranks_cuts_of_several_words_together(small: UnigramTokenizer) -> None:
    scores = [score for score, _ in small.n_best("ab abc", 4)]
    each = [[math.log(0.5 * probability(cut)) for cut in all_cuts(word)] for word in ("ab", "abc")]
    expected = sorted((left + right for left in each[0] for right in each[1]), reverse=True)
    assert scores == pytest.approx(expected[:4])


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_samples_are_drawn_with_the_probability_of_their_cut(small: UnigramTokenizer, alpha: float) -> None:
    rng = random.Random(5)
    draws = Counter(tuple(small.sample("abca", alpha, rng)) for _ in range(20_000))
    weights = {
        tuple(small.vocab[piece] for piece in ["▁", *cut]): probability(cut) ** alpha
        for cut in all_cuts("abca")
    }
    assert set(draws) == set(weights)
    total = sum(weights.values())
    for cut, weight in weights.items():
        share = weight / total
        assert abs(draws[cut] / 20_000 - share) < 5 * math.sqrt(share * (1 - share) / 20_000)


def test_a_large_alpha_draws_the_best_cut(small: UnigramTokenizer) -> None:
    assert small.sample("abcab", 200.0, random.Random(1)) == small.encode("abcab")


def test_samples_decode_to_the_text_with_either_kind_of_generator(small: UnigramTokenizer) -> None:
    for rng in (random.Random(2), np.random.default_rng(2)):
        assert small.decode(small.sample("abc ca", 0.5, rng)) == "abc ca"
    assert small.sample("", 1.0, random.Random(1)) == []


def test_unknown_characters_become_one_unknown_token(small: UnigramTokenizer) -> None:
    assert small.tokens("a??b!") == ["▁", "a", "<unk>", "b", "<unk>"]


def test_expected_uses_are_the_average_over_all_cuts() -> None:
    words = {"abcab": 3, "caab": 2}
    uses = expected_uses(words, PIECES)
    by_hand: defaultdict[str, float] = defaultdict(float)
    for word, count in words.items():
        total = sum(map(probability, all_cuts(word)))
        for cut in all_cuts(word):
            for piece in cut:
                by_hand[piece] += count * probability(cut) / total
    assert uses == pytest.approx({piece: by_hand[piece] for piece in PIECES})


def log_likelihood(words: dict[str, int], pieces: dict[str, float]) -> float:
    """Log-probability of the words, summed over all cuts, by the forward recursion written out anew."""
    result = 0.0
    for word, count in words.items():
        total = [1.0]
        for end in range(1, len(word) + 1):
            total.append(sum(total[start] * pieces.get(word[start:end], 0.0) for start in range(end)))
        result += count * math.log(total[-1])
    return result


def test_each_step_of_expectation_and_maximisation_raises_the_likelihood() -> None:
    words = dict(Counter(reference_prose()[:5000].split()))
    letters = set("".join(words))
    pieces = seed_pieces(words, letters, 2000, longest_piece=8)
    before = log_likelihood(words, pieces)
    for _ in range(4):
        uses = expected_uses(words, pieces)
        total = sum(uses.values())
        pieces = {piece: count / total for piece, count in uses.items()}
        after = log_likelihood(words, pieces)
        assert after > before
        before = after


def test_probabilities_sum_to_one_and_keep_every_letter() -> None:
    shares = probabilities({"a": 3.0, "ab": 0.1, "b": 0.0}, "ab")
    assert set(shares) == {"a", "b"}
    assert sum(shares.values()) == pytest.approx(1)


def test_seeds_are_the_substrings_that_occur_twice() -> None:
    words = {"abcd": 1, "xbcd": 1, "bcbc": 1}
    seeds = seed_pieces(words, set("abcdx"), 100, longest_piece=4)
    counted = Counter(word[start:end] for word in words for start in range(4) for end in range(start + 2, 5))
    assert set(seeds) - set("abcdx") == {piece for piece, count in counted.items() if count > 1}


def test_pruning_drops_the_piece_that_is_missed_least() -> None:
    uses = {"a": 5.0, "b": 5.0, "c": 5.0, "ab": 30.0, "bc": 1.0}
    pieces = probabilities(uses, "abc")
    assert set(prune(pieces, uses, set("abc"), 4)) == {"a", "b", "c", "ab"}


def test_training_finds_the_words_that_text_is_made_of() -> None:
    rng = random.Random(4)
    words = Counter("".join(rng.choices(["token", "iza", "mur"], k=3)) for _ in range(500))
    pieces = train_unigram(words, num_pieces=15)
    assert {"token", "iza", "mur"} <= set(pieces)
    assert sum(map(math.exp, pieces.values())) == pytest.approx(1)


def test_the_vocabulary_has_the_size_asked_for_and_packs_prose() -> None:
    prose = reference_prose()[:40_000]
    tokenizer = UnigramTokenizer.train([prose], 500)
    assert tokenizer.vocab_size == 500
    assert len(prose) / len(tokenizer.encode(prose)) > 2.2
    assert tokenizer.decode(tokenizer.encode(prose)) == prose


def test_training_copes_with_very_long_words_and_many_letters() -> None:
    text = "中" * 5000 + "".join(chr(0x4E00 + index) for index in range(500)) + "ab" * 3000
    tokenizer = UnigramTokenizer.train([text], 60)
    assert tokenizer.vocab_size <= 60
    assert tokenizer.token_to_id("中") is not None


def test_scores_are_multiples_of_a_power_of_two() -> None:
    tokenizer = UnigramTokenizer.train(["some words and some more words"], 40)
    assert all((score / SCORE_STEP).is_integer() for score in tokenizer.scores)


def test_spaces_belong_to_the_word_after_them() -> None:
    assert space_to_mark("two  words") == ["▁two", "▁", "▁words"]
    assert space_to_mark(" a") == ["▁a"]
    assert space_to_mark("") == []


def test_wrong_arguments_are_refused(small: UnigramTokenizer) -> None:
    with pytest.raises(ValueError, match="n=0 cuts"):
        small.n_best("abc", 0)
    with pytest.raises(ValueError, match=r"alpha=-1\.0 must be at least 0"):
        small.sample("abc", -1.0, random.Random(1))
    with pytest.raises(ValueError, match="finite scores"):
        UnigramTokenizer({"<unk>": 0, "a": 1}, [0.0], ["<unk>"])
