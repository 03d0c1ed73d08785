"""n-gram models. Oracle: the formulas worked out by hand, and the exact entropy of a world of stories."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.data import story_world
from course_lib.models.ngram import BEGIN, END, UNKNOWN, AddK, Interpolated, KneserNey, NGramModel

TEXTS = [["a", "b", "a"], ["a", "b", "b"], ["c"]]
texts_of_letters = st.lists(st.lists(st.sampled_from("abcd"), max_size=5), min_size=1, max_size=4)


def models(texts: list[list[str]], order: int) -> list[NGramModel]:
    return [AddK(texts, order, 0.5), Interpolated(texts, order, 0.7), KneserNey(texts, order, 0.6)]


@settings(deadline=None, max_examples=30)
@given(texts_of_letters, st.integers(1, 4), st.lists(st.sampled_from("abcz"), max_size=4))
def test_every_distribution_sums_to_one_and_spares_the_unseen(
    texts: list[list[str]], order: int, context: list[str]
) -> None:
    for model in models(texts, order):
        found = [model.probability(word, context) for word in model.words]
        assert math.fsum(found) == pytest.approx(1.0)
        assert min(found) > 0
        assert model.probability("never seen", context) == model.probability(UNKNOWN, context)


def test_plain_counting_is_relative_frequency() -> None:
    model = AddK(TEXTS, 2, k=0)
    assert model.probability("b", ["a"]) == pytest.approx(2 / 3)
    assert model.probability(END, ["a"]) == pytest.approx(1 / 3)
    assert model.probability("a") == model.probability("a", [BEGIN]) == pytest.approx(2 / 3)
    assert model.probability("b", [UNKNOWN]) == pytest.approx(1 / 5), "nothing is known: V equal shares"
    assert model.loss([["b"]]) == math.inf


def test_adding_k_counts_every_word_of_the_vocabulary() -> None:
    model = AddK(TEXTS, 2, k=0.5)
    assert len(model.words) == 5
    assert model.probability("b", ["a"]) == pytest.approx((2 + 0.5) / (3 + 5 * 0.5))
    assert model.probability("c", ["a"]) == pytest.approx(0.5 / (3 + 5 * 0.5))


def test_interpolation_mixes_down_to_equal_shares() -> None:
    model = Interpolated(TEXTS, 2, weight=0.8)
    # 10 words and ends: a 3, b 3, c 1, END 3.
    unigram = 0.8 * 3 / 10 + 0.2 / 5
    assert model.probability("b", ["a"]) == pytest.approx(0.8 * 2 / 3 + 0.2 * unigram)
    assert model.probability("b", ["never seen"]) == pytest.approx(unigram)


def kneser_ney(
    texts: list[list[str]], order: int, discount: float, word: str, context: Sequence[str]
) -> float:
    """The formula by listing: every n-gram of the padded texts, looked through for each count."""
    padded = [[BEGIN] * (order - 1) + text + [END] for text in texts]
    words = {END, UNKNOWN} | {word for text in texts for word in text}
    grams = [tuple(text[i : i + order]) for text in padded for i in range(len(text) - order + 1)]
    context = tuple(context[len(context) - order + 1 :])
    found = 1 / len(words)
    for length in range(1, order + 1):
        ends = [gram[-length:] for gram in grams]
        if length < order:
            ends = [gram[1:] for gram in {gram[-length - 1 :] for gram in grams}]
        history = context[len(context) - length + 1 :]
        after = Counter(end[-1] for end in ends if end[:-1] == history)
        if after:
            kept = max(after[word] - discount, 0)
            found = (kept + discount * len(after) * found) / sum(after.values())
    return found


@settings(deadline=None, max_examples=30)
@given(
    texts_of_letters, st.integers(1, 3), st.sampled_from(["a", "b", END]), st.sampled_from(["ab", "ca", "dd"])
)
def test_kneser_ney_equals_its_formula(texts: list[list[str]], order: int, word: str, context: str) -> None:
    model = KneserNey(texts, order, 0.6)
    known = [letter if letter in model.words else UNKNOWN for letter in context]
    read = word if word in model.words else UNKNOWN
    expected = kneser_ney(texts, order, 0.6, read, known)
    assert model.probability(word, list(context)) == pytest.approx(expected)


def test_kneser_ney_asks_how_many_words_stand_before() -> None:
    """*Francisco* is as frequent as *glasses*, but follows *San* alone."""
    texts = [["San", "Francisco"]] * 6 + [[word, "glasses"] for word in "abcdef"]
    model, frequency = KneserNey(texts, 2), Interpolated(texts, 2)
    new = ["Francisco-free"]
    assert frequency.probability("Francisco", new) == pytest.approx(frequency.probability("glasses", new))
    assert model.probability("glasses", new) > 3 * model.probability("Francisco", new)


def test_the_perplexity_of_equal_shares_is_how_many_there_are() -> None:
    model = AddK([["a", "b", "c", "d"]], 1, k=1e9)
    assert model.perplexity([["a", "b"], []]) == pytest.approx(6)
    logs = model.log_probabilities(["a", "z"])
    assert len(logs) == 3
    assert model.loss([["a", "z"]]) == pytest.approx(-sum(logs) / 3)
    with pytest.raises(ValueError, match="no text"):
        model.loss([])


def test_no_model_is_below_the_entropy_and_kneser_ney_comes_nearest() -> None:
    told = list(story_world.stories(seed=5, split=None, count=1300))
    texts = [list(story.words) for story in told]
    train, held_out = texts[:1000], texts[1000:]
    floor = story_world.entropy_per_word(told[1000:])
    losses = [
        AddK(train, 3, 0.05).loss(held_out),
        Interpolated(train, 3, 0.8).loss(held_out),
        KneserNey(train, 3).loss(held_out),
    ]
    assert floor < losses[2] < losses[1] < losses[0]


def test_a_sample_is_drawn_from_the_model_and_a_seed_gives_it_again() -> None:
    model = AddK(TEXTS, 2, k=0)
    texts = [model.sample(seed) for seed in range(300)]
    assert texts == [model.sample(seed) for seed in range(300)]
    first = Counter(text[0] for text in texts)
    assert first["a"] / 300 == pytest.approx(2 / 3, abs=0.1) and first["b"] == 0
    assert len(AddK([["a"] * 50], 1, k=0).sample(0, longest=7)) <= 7


def test_senseless_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="order=0"):
        AddK(TEXTS, 0)
    with pytest.raises(ValueError, match="weight=1"):
        Interpolated(TEXTS, 2, weight=1)
    with pytest.raises(ValueError, match="discount=1"):
        KneserNey(TEXTS, 2, discount=1)
