"""IBM Model 1. Oracle: the sums over every alignment, written out; and a corpus small enough for paper."""

from __future__ import annotations

from collections import defaultdict
from itertools import product
from math import log, prod
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.models.alignment import NULL, Model1, alignment_error_rate, train_model1


class Pair(NamedTuple):
    source: tuple[str, ...]
    target: tuple[str, ...]


def pair(source: str, target: str) -> Pair:
    return Pair(tuple(source.split()), tuple(target.split()))


BOOKS = [pair("the house", "das Haus"), pair("the book", "das Buch"), pair("a book", "ein Buch")]
pairs_of_words = st.builds(
    Pair,
    st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(tuple),
    st.lists(st.sampled_from("xyz"), min_size=1, max_size=3).map(tuple),
)


def t(model: Model1, source: str, target: str) -> float:
    return dict(model.translations(source, 99)).get(target, 0.0)


def by_listing_alignments(
    pairs: list[Pair], iterations: int
) -> tuple[dict[tuple[str, str], float], list[float]]:
    """EM as it is defined: over all (s + 1) to the power of t alignments of each pair."""
    targets = {word for pair in pairs for word in pair.target}
    table: dict[tuple[str, str], float] = defaultdict(lambda: 1 / len(targets))
    words, history = sum(len(pair.target) for pair in pairs), []
    for _ in range(iterations + 1):
        counts: dict[tuple[str, str], float] = defaultdict(float)
        likelihood = 0.0
        for source, target in pairs:
            choices = list(product((NULL, *source), repeat=len(target)))
            weights = [prod(map(table.__getitem__, zip(chosen, target, strict=True))) for chosen in choices]
            likelihood += log(sum(weights) / len(choices)) / words
            for chosen, weight in zip(choices, weights, strict=True):
                for link in zip(chosen, target, strict=True):
                    counts[link] += weight / sum(weights)
        history.append(likelihood)
        if len(history) > iterations:
            break
        totals: dict[str, float] = defaultdict(float)
        for (source_word, _), count in counts.items():
            totals[source_word] += count
        table = defaultdict(float, {link: count / totals[link[0]] for link, count in counts.items()})
    return dict(table), history


@settings(deadline=None, max_examples=25)
@given(st.lists(pairs_of_words, min_size=1, max_size=4), st.integers(1, 3))
def test_em_equals_the_sums_over_all_alignments(pairs: list[Pair], iterations: int) -> None:
    model = train_model1(pairs, iterations)
    expected, history = by_listing_alignments(pairs, iterations)
    for (source, target), probability in expected.items():
        assert t(model, source, target) == pytest.approx(probability, abs=1e-9)
    assert model.log_likelihoods == pytest.approx(history, abs=1e-9)


@settings(deadline=None, max_examples=25)
@given(st.lists(pairs_of_words, min_size=1, max_size=6))
def test_the_likelihood_never_falls_and_each_word_shares_out_one(pairs: list[Pair]) -> None:
    model = train_model1(pairs, 6)
    assert (torch.tensor(model.log_likelihoods).diff() > -1e-12).all()
    for source in model.sources:
        assert sum(p for _, p in model.translations(source, 99)) == pytest.approx(1.0)


def test_what_occurs_together_more_often_wins() -> None:
    model = train_model1(BOOKS, 30)
    assert [model.translations(word, 1)[0][0] for word in ("the", "house", "book", "a")] == [
        "das",
        "Haus",
        "Buch",
        "ein",
    ]
    assert t(model, "book", "Buch") > 0.9 and t(model, "book", "Haus") == 0
    assert model.align(("a", "house"), ("ein", "Haus")) == {(0, 0), (1, 1)}
    assert model.align(("book", "the"), ("das", "Buch")) == {(1, 0), (0, 1)}


def test_a_posterior_is_the_table_shared_out_over_the_source_words_and_null() -> None:
    model = train_model1(BOOKS, 2)
    posterior = model.posterior(("the", "book"), ("Buch",))
    weights = [t(model, word, "Buch") for word in (NULL, "the", "book")]
    torch.testing.assert_close(posterior[0], torch.tensor(weights).double() / sum(weights))


def test_words_never_seen_are_nulls() -> None:
    model = train_model1(BOOKS, 2)
    posterior = model.posterior(("the", "cat"), ("Katze", "das"))
    assert posterior[0].tolist() == [1.0, 0.0, 0.0]
    assert model.table(("cat",), ("das",))[0, 1] == 0
    assert model.align(("the", "cat"), ("Katze",)) == frozenset()
    assert model.posterior((), ("das",)).tolist() == [[1.0]]
    with pytest.raises(KeyError, match="'cat' is not among the 5 source words"):
        model.translations("cat")


def test_no_words_are_refused() -> None:
    with pytest.raises(ValueError, match="no target word"):
        train_model1([])


def test_the_error_rate_counts_over_all_sentences() -> None:
    gold = [{(0, 0), (1, 1), (2, 2)}, {(0, 0)}]
    assert alignment_error_rate(gold, gold) == 0
    assert alignment_error_rate([set(), set()], gold) == 1
    # 2 of 3 links right, 4 in the gold: 1 − 2 · 2 / (3 + 4).
    assert alignment_error_rate([{(0, 0), (1, 2)}, {(0, 0)}], gold) == pytest.approx(3 / 7)
    assert alignment_error_rate([set()], [set()]) == 0
    with pytest.raises(ValueError):
        alignment_error_rate([set()], gold)
