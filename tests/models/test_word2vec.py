"""word2vec. Oracles: autograd for every gradient, definitions by loops for pairs and negatives."""

from __future__ import annotations

import math
from itertools import islice

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from course_lib.data import story_world
from course_lib.models.word2vec import (
    Corpus,
    Word2VecConfig,
    WordVectors,
    _Trainer,
    block_gradients,
    draw_negatives,
    keep_probability,
    noise_distribution,
    sgns_gradients,
    sgns_loss,
    skip_gram_pairs,
    train_word2vec,
)

TEXTS = [list("abacadabra"), list("cabbage"), ["a"], [], list("dadabeca")]


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 6), st.integers(0, 1000))
def test_the_closed_form_gradient_is_autograds(pairs: int, negatives: int, width: int, seed: int) -> None:
    shapes = ((pairs, width), (pairs, width), (pairs, negatives, width))
    inputs = [normal(*shape, seed=seed + place) for place, shape in enumerate(shapes)]
    expected = torch.autograd.grad(sgns_loss(*inputs), inputs)
    for ours, theirs in zip(sgns_gradients(*inputs), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_loss_of_unlearned_vectors_is_one_log_two_for_each_score() -> None:
    zeros = torch.zeros(3, 4), torch.zeros(3, 4), torch.zeros(3, 5, 4)
    assert sgns_loss(*zeros).item() == pytest.approx(6 * math.log(2))


def test_the_loss_is_exact_where_a_sigmoid_is_zero() -> None:
    one = torch.full((1, 1), 20.0)
    assert sgns_loss(one, -one, one[:, None]).item() == pytest.approx(800.0)


def test_the_gradients_of_a_block_are_autograds() -> None:
    centres, outside = normal(2, 3, 4), normal(2, 5, 4, seed=1)
    pull, push = normal(2, 3, 5, seed=2).detach().square(), normal(2, 3, 5, seed=3).detach().square()
    scores = centres @ outside.transpose(1, 2)
    scores.retain_grad()
    loss = -(pull * F.logsigmoid(scores)).sum() - (push * F.logsigmoid(-scores)).sum()
    loss.backward()
    expected = (scores.grad, centres.grad, outside.grad)
    for ours, theirs in zip(block_gradients(centres, outside, pull, push), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_step_descends_the_loss_of_all_pairs_and_their_negatives() -> None:
    """By the definition: for each pair its neighbour, and all drawn words that are not that neighbour."""
    corpus = Corpus.read(TEXTS, min_count=1)
    config = Word2VecConfig(d_model=3, window=2, negatives=4, block=6, most_pairs=math.inf)
    trainer = _Trainer(corpus, config, 0, torch.device("cpu"))
    trainer.centre, trainer.outside = (normal(len(corpus.names), 3, seed=s).detach().float() for s in (1, 2))
    tables = [table.clone().requires_grad_() for table in (trainer.centre, trainer.outside)]
    words, documents = trainer._blocks(corpus.ids, 0), trainer._blocks(corpus.documents, -1)

    state = trainer.generator.get_state()
    trainer.step(words, documents, lr=0.1)
    trainer.generator.set_state(state)
    draws = torch.rand((len(words), 6), generator=trainer.generator)
    negatives = torch.searchsorted(trainer.noise_ends, draws)
    reach = torch.randint(1, 3, (len(words), 6, 1), generator=trainer.generator)

    loss = torch.zeros(())
    for block in range(len(words)):
        for place in range(6):
            own = place + 2
            for other in range(own - int(reach[block, place]), own + int(reach[block, place]) + 1):
                if (
                    other == own
                    or documents[block, other] != documents[block, own]
                    or documents[block, own] < 0
                ):
                    continue
                centre = tables[0][words[block, own]]
                loss = loss - F.logsigmoid(centre @ tables[1][words[block, other]])
                for negative in negatives[block]:
                    if negative != words[block, other]:
                        loss = loss - 4 / 6 * F.logsigmoid(-centre @ tables[1][negative])
    loss.backward()
    for table, updated in zip(tables, (trainer.centre, trainer.outside), strict=True):
        assert table.grad is not None
        torch.testing.assert_close(updated, table.detach() - 0.1 * table.grad, atol=1e-5, rtol=1e-4)


def test_a_word_is_moved_by_no_more_pairs_than_allowed() -> None:
    corpus = Corpus.read(TEXTS, min_count=1)
    trainer = _Trainer(corpus, Word2VecConfig(d_model=2, most_pairs=10), 0, torch.device("cpu"))
    table = torch.zeros(3, 2)
    gradients = torch.tensor([[4.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    trainer._descend(table, torch.tensor([0, 0, 2]), gradients, torch.tensor([15.0, 5.0, 10.0]), lr=0.5)
    assert table.tolist() == [[-2.0, 0.0], [0.0, 0.0], [0.0, -2.0]]


def test_blocks_cover_every_word_once_with_its_surroundings() -> None:
    corpus = Corpus.read([list("abcdefghij")], min_count=1)
    trainer = _Trainer(corpus, Word2VecConfig(window=2, block=4), 0, torch.device("cpu"))
    assert trainer._blocks(torch.arange(1, 11), 0).tolist() == [
        [0, 0, 1, 2, 3, 4, 5, 6],
        [3, 4, 5, 6, 7, 8, 9, 10],
        [7, 8, 9, 10, 0, 0, 0, 0],
    ]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 4), max_size=12), st.integers(1, 4), st.integers(0, 1000))
def test_pairs_are_those_of_the_definition(words: list[int], window: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    keep, reach = torch.rand(2, len(words), generator=generator, dtype=torch.float64)
    counts = torch.tensor([50, 20, 10, 5, 15])
    found = skip_gram_pairs(torch.tensor(words, dtype=torch.int64), counts, window, 0.05, keep, reach)
    left = [i for i, word in enumerate(words) if keep[i] < math.sqrt(0.05 / (float(counts[word]) / 100))]
    expected = [
        [words[i], words[j]]
        for place, i in enumerate(left)
        for other, j in enumerate(left)
        if 0 < abs(place - other) <= 1 + int(reach[i] * window)
    ]
    assert found.tolist() == expected
    assert found.shape == (len(expected), 2) and found.dtype == torch.int64


def test_rare_words_are_always_kept_and_the_noise_lifts_them() -> None:
    counts = torch.tensor([9000, 900, 99, 1])
    assert keep_probability(counts, 0.01).tolist() == pytest.approx(
        [math.sqrt(0.01 / 0.9), math.sqrt(1 / 9), 1, 1]
    )
    noise = noise_distribution(counts)
    assert noise.sum().item() == pytest.approx(1)
    assert (noise / (counts / counts.sum())).diff().gt(0).all()
    assert noise_distribution(torch.tensor([5, 0, 5]), power=0.0).tolist() == [0.5, 0.0, 0.5]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 50), min_size=2, max_size=9), st.integers(0, 1000))
def test_negatives_follow_the_noise_without_the_positive(counts: list[int], seed: int) -> None:
    if sum(count > 0 for count in counts) < 2:
        counts = [*counts, 3, 4]
    rng = np.random.default_rng(seed)
    noise = noise_distribution(torch.tensor(counts))
    positives = torch.tensor(rng.choice(np.flatnonzero(counts), size=6))
    draws = torch.tensor(rng.uniform(size=(6, 40)))
    found = draw_negatives(noise, positives, draws)
    for positive, row, drawn in zip(positives.tolist(), draws, found, strict=True):
        own = noise.clone()
        own[positive] = 0
        ends = (own / own.sum()).cumsum(0)
        near = (row[:, None] - ends).abs().amin(dim=1) < 1e-9
        expected = torch.searchsorted(ends, row, right=True)
        assert torch.equal(drawn[~near], expected[~near])
        assert (drawn != positive).all()


def test_a_draw_at_either_end_is_a_word_that_occurs() -> None:
    noise = noise_distribution(torch.tensor([0, 4, 0, 4, 0]))
    draws = torch.tensor([[0.0, 1 - 2**-53]], dtype=torch.float64)
    for positive, other in ((1, 3), (3, 1)):
        assert draw_negatives(noise, torch.tensor([positive]), draws).tolist() == [[other, other]]


def test_a_corpus_numbers_words_by_frequency_then_alphabet_and_leaves_rare_ones_out() -> None:
    corpus = Corpus.read([["b", "a", "c", "b"], ["z"], ["a", "c", "b", "c"]], min_count=2)
    assert corpus.names == ("b", "c", "a")
    assert corpus.ids.tolist() == [0, 2, 1, 0, 2, 1, 0, 1]
    assert corpus.documents.tolist() == [0, 0, 0, 0, 2, 2, 2, 2]
    assert corpus.counts.tolist() == [3, 3, 2]
    with pytest.raises(ValueError, match="no word occurs 9 times"):
        Corpus.read([["a"]], min_count=9)


@pytest.fixture(scope="module")
def stories() -> Corpus:
    told = islice(story_world.stories(seed=1), 1500)
    return Corpus.read([[word.lower() for word in story.words if word.isalpha()] for story in told])


def same_part_of_speech(vectors: WordVectors) -> float:
    kinds = {form.lower(): word.part_of_speech for word in story_world.vocabulary() for form in word.forms}
    known = [name for name in vectors.names if kinds.get(name) in ("noun", "adjective", "verb", "name")]
    unit = torch.stack([vectors.unit[vectors.number[name]] for name in known])
    best = (unit @ unit.T).fill_diagonal_(-1).argmax(dim=1).tolist()
    return sum(kinds[one] == kinds[known[other]] for one, other in zip(known, best, strict=True)) / len(known)


def test_words_of_one_kind_end_up_together(stories: Corpus) -> None:
    trained = train_word2vec(stories, Word2VecConfig(epochs=12, subsample=0))
    luck = WordVectors(stories.names, torch.randn_like(trained.vectors), trained.contexts)
    assert same_part_of_speech(trained) > 0.8 > 0.6 > same_part_of_speech(luck)
    assert {"green", "blue"} & {word for word, _ in trained.nearest("red", 8)}


def test_a_seed_gives_the_same_vectors_again(stories: Corpus) -> None:
    one, again, other = (train_word2vec(stories, Word2VecConfig(epochs=1), seed=s).vectors for s in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("blocks", [4, 128])
def test_training_is_stable_without_subsampling_and_with_large_steps(stories: Corpus, blocks: int) -> None:
    found = train_word2vec(stories, Word2VecConfig(epochs=1, subsample=0, blocks=blocks))
    assert found.vectors.norm(dim=1).max() < 20


def test_steps_that_are_too_large_are_told(stories: Corpus) -> None:
    with pytest.raises(ValueError, match="overflowed in epoch 1: frequent words overshoot with lr=5"):
        train_word2vec(stories, Word2VecConfig(epochs=1, lr=5.0, most_pairs=math.inf))


def test_a_corpus_shorter_than_a_block_trains() -> None:
    corpus = Corpus.read([list("abab")], min_count=1)
    start, found = (train_word2vec(corpus, Word2VecConfig(epochs=n, subsample=0)).vectors for n in (0, 3))
    assert found.shape == (2, 64) and found.isfinite().all() and not torch.equal(start, found)


def test_a_corpus_that_is_thinned_out_altogether_leaves_the_vectors_as_they_were() -> None:
    corpus = Corpus.read([list("abab")], min_count=1)
    found = train_word2vec(corpus, Word2VecConfig(epochs=2, subsample=1e-12)).vectors
    assert torch.equal(found, train_word2vec(corpus, Word2VecConfig(epochs=0)).vectors)


@pytest.fixture
def four() -> WordVectors:
    vectors = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0], [5.0, 5.0], [-1.0, 0.0]])
    return WordVectors(("a", "b", "c", "d", "e"), vectors, vectors)


def test_the_nearest_words_leave_the_word_out_and_keep_the_order_of_equals(four: WordVectors) -> None:
    assert [name for name, _ in four.nearest("a", 9)] == ["c", "d", "b", "e"]
    assert four.nearest("c", 1) == [("d", pytest.approx(1.0))]
    assert four.cosine("a", "e") == pytest.approx(-1.0)


def test_an_analogy_adds_the_step_and_leaves_its_words_out(four: WordVectors) -> None:
    assert [name for name, _ in four.analogy("a", "b", "c", count=9)] == ["d", "e"]
    assert four.analogy("a", "c", "b")[0][0] == "d"


def test_an_unknown_word_is_named(four: WordVectors) -> None:
    assert "a" in four and "x" not in four
    with pytest.raises(KeyError, match="'x' is not in the vocabulary of 5 words"):
        four.nearest("x")
