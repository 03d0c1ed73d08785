"""Exercises of 04_embeddings: what is asked, what is right, and how people go wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..models import word2vec as library
from .exercise import Case, Exercise, Misconception, Score, Tolerance
from .probes import embeddings as probes

# The library's own versions are no answers, nor parts of one.
LIBRARY = tuple(
    f"course_lib.models.word2vec.{name}"
    for name in (
        "keep_probability",
        "skip_gram_pairs",
        "noise_distribution",
        "draw_negatives",
        "sgns_loss",
        "sgns_gradients",
        "block_gradients",
        "train_word2vec",
        "WordVectors",
    )
)
# What finds a gradient that an exercise asks for by hand.
AUTOGRAD = (
    "torch.autograd.grad",
    "torch.autograd.backward",
    "torch.autograd.graph._engine_run_backward",
    "torch.autograd.functional",
    "torch.autograd.forward_ad",
    "torch.Tensor.backward",
    "torch.func.grad",
    "torch.func.grad_and_value",
    "torch.func.vjp",
    "torch.func.jvp",
    "torch.func.jacrev",
    "torch.func.jacfwd",
    "torch.func.linearize",
)
# torch's own look-up, and its gradient.
LOOKUP_OPERATORS = (
    "torch.nn.functional.embedding",
    "torch.nn.functional.embedding_bag",
    "torch.nn.Embedding",
    "torch.nn.EmbeddingBag",
    "aten::embedding",
    "aten::embedding_dense_backward",
    "aten::_embedding_bag",
)

# --- embeddings/lookup -------------------------------------------------------------------------


def lookup_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Different words, a word three times, a batch; then no word, one word without an axis, float64."""
    yield _lookup_case(rng, "three different words", rng.permutation(5)[:3], 5, 4)
    one, other = (int(word) for word in rng.permutation(6)[:2])
    yield _lookup_case(rng, "one word three times", np.array([one, other, one, one]), 6, 3)
    repeated = rng.integers(0, 7, size=(3, 5))
    repeated[0, :2] = repeated[2, 4]
    yield _lookup_case(rng, "a batch of sentences", repeated, 9, 4)
    yield _lookup_case(rng, "no words at all", np.zeros(0, dtype=np.int64), 4, 3, hidden=True)
    yield _lookup_case(rng, "a single id without an axis", np.array(rng.integers(5)), 5, 3, hidden=True)
    many = rng.integers(0, 20, size=(2, 3, 40))
    yield _lookup_case(rng, "float64, many repeats, width 1", many, 30, 1, dtype="float64", hidden=True)


def _lookup_case(
    rng: np.random.Generator,
    name: str,
    ids: np.ndarray,
    words: int,
    width: int,
    *,
    dtype: str = "float32",
    hidden: bool = False,
) -> Case:
    table = rng.normal(size=(words, width)).astype(dtype)
    upstream = rng.normal(size=(*ids.shape, width)).astype(dtype)
    return Case(name, {"table": table, "ids": ids.astype(np.int64), "upstream": upstream}, hidden)


def _lookup(table: Tensor, ids: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    gradient = torch.zeros_like(table)
    gradient.index_add_(0, ids.flatten(), upstream.reshape(-1, table.shape[1]))
    return table[ids], gradient


def _lookup_by_product(table: Tensor, ids: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    one_hot = F.one_hot(ids, len(table)).to(table.dtype)
    rows = one_hot.reshape(-1, len(table))
    return one_hot @ table, rows.T @ upstream.reshape(-1, table.shape[1])


def _lookup_by_loop(table: Tensor, ids: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    gradient = torch.zeros_like(table)
    for word, row in zip(ids.reshape(-1).tolist(), upstream.reshape(-1, table.shape[-1]), strict=True):
        gradient[word] += row
    return table[ids], gradient


def _lookup_by_accumulating(table: Tensor, ids: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    gradient = torch.zeros_like(table).index_put((ids,), upstream, accumulate=True)
    return table.index_select(0, ids.flatten()).unflatten(0, ids.shape) if ids.dim() > 1 else table[
        ids
    ], gradient


def _wrong_lookup(gradient: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[..., Any]:
    """A look-up with another gradient; ids come flat, upstream as (n, d)."""

    def lookup(table: Tensor, ids: Tensor, upstream: Tensor) -> Any:
        return table[ids], gradient(table, ids.flatten(), upstream.reshape(-1, table.shape[1]))

    return lookup


def _lookup_along_one_axis(table: Tensor, ids: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    gradient = torch.zeros_like(table)
    for i, word in enumerate(ids):
        gradient[word] += upstream[i]
    return table[ids], gradient


def _last_one_wins(table: Tensor, ids: Tensor, upstream: Tensor) -> Tensor:
    gradient = torch.zeros_like(table)
    for word, row in zip(ids.tolist(), upstream, strict=True):
        gradient[word] = row
    return gradient


def _mean_of_repeats(table: Tensor, ids: Tensor, upstream: Tensor) -> Tensor:
    counts = torch.bincount(ids, minlength=len(table)).clamp(min=1)
    return torch.zeros_like(table).index_add(0, ids, upstream) / counts[:, None].to(table.dtype)


def _rows_that_occur(table: Tensor, ids: Tensor, upstream: Tensor) -> Tensor:
    return torch.zeros_like(table).index_add(0, ids, upstream)[ids.unique()]


def _counts_alone(table: Tensor, ids: Tensor, upstream: Tensor) -> Tensor:
    return torch.zeros_like(table).index_add(0, ids, torch.ones_like(upstream))


def _times_the_table(table: Tensor, ids: Tensor, upstream: Tensor) -> Tensor:
    return torch.zeros_like(table).index_add(0, ids, upstream * table[ids])


LOOKUP = Exercise(
    id="embeddings/lookup",
    title="A look-up and its gradient",
    points=2,
    minutes=15,
    difficulty=1,
    cases=lookup_cases,
    probe=probes.lookup,
    reference=_lookup,
    also_right=(_lookup_by_product, _lookup_by_loop, _lookup_by_accumulating),
    tolerance=Tolerance(absolute=2e-5, relative=1e-4),
    forbidden=(*LIBRARY, *AUTOGRAD, *LOOKUP_OPERATORS),
    misconceptions=(
        Misconception(
            "a word that occurs twice keeps only its last gradient",
            _wrong_lookup(_last_one_wins),
            "`gradient[ids] = upstream`, and `+=` too, write each row once, so of equal ids one is left. All of them "
            "have to be added up: `index_add_` does.",
        ),
        Misconception(
            "a loop walks through the first axis of the ids alone",
            _lookup_along_one_axis,
            "`for word in ids` gives one row of the ids at a time, and a row may hold a word twice. Make them flat "
            "first, `ids.flatten()` and `upstream.reshape(-1, d)`; that serves ids of any shape.",
        ),
        Misconception(
            "the gradients of a repeated word are averaged",
            _wrong_lookup(_mean_of_repeats),
            "A word that occurs twice moves the loss in two places, and derivatives add up. Take the sum, not the mean.",
        ),
        Misconception(
            "the gradient has no rows for words that do not occur",
            _wrong_lookup(_rows_that_occur),
            "The gradient has the shape of the table. Words that do not occur have a row of zeros.",
        ),
        Misconception(
            "the upstream gradient is left out",
            _wrong_lookup(_counts_alone),
            "Your gradient counts how often each word occurs. By the chain rule each occurrence counts with the "
            "gradient that arrives at its vector, a row of `upstream`.",
        ),
        Misconception(
            "the upstream gradient is returned as it is",
            lambda table, ids, upstream: (table[ids], upstream),
            "`upstream` has one row for each id. The gradient of the table has one row for each word of the vocabulary.",
        ),
        Misconception(
            "the gradient is multiplied by the table",
            _wrong_lookup(_times_the_table),
            "The output is one-hot · table. Its derivative by the table is the one-hot matrix, in which the table "
            "does not appear.",
        ),
        Misconception(
            "the axes of the ids are lost",
            lambda table, ids, upstream: (table[ids.flatten()], _lookup(table, ids, upstream)[1]),
            "Ids of shape (b, t) give vectors of shape (b, t, d). Keep the ids' own axes; only the gradient needs "
            "them flat.",
        ),
        Misconception(
            "the gradient is divided by the number of ids",
            _wrong_lookup(
                lambda table, ids, upstream: (
                    torch.zeros_like(table).index_add(0, ids, upstream) / max(1, len(ids))
                )
            ),
            "No mean is taken here: whether the loss is a mean is already in `upstream`.",
        ),
        Misconception(
            "the vectors alone are returned",
            lambda table, ids, upstream: table[ids],
            "Two things are asked for: `return vectors, gradient`.",
        ),
        Misconception(
            "the gradient comes first",
            lambda table, ids, upstream: _lookup(table, ids, upstream)[::-1],
            "The vectors stand first in the tuple, then the gradient: `return vectors, gradient`.",
        ),
    ),
    hints=(
        "Write the ids as one-hot rows and multiply by the table, on paper, for two words. What is the derivative "
        "of a product X · W by W?",
        "The gradient is the transposed one-hot matrix times `upstream`. That adds, for each word, the rows of "
        "`upstream` at which it occurs.",
        "Start from `torch.zeros_like(table)`, and let `index_add_(0, ids.flatten(), upstream.reshape(-1, d))` add "
        "each row where it belongs, repeats included.",
    ),
)

# --- embeddings/skip_gram_pairs ----------------------------------------------------------------


def pair_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Every word kept, some thinned out, all taken out; then rare words, one word, a window beyond the text."""
    yield _pair_case(rng, "a short text, every word kept", 6, 4, window=2, threshold=100.0)
    yield _pair_case(rng, "window 1, frequent words thinned out", 30, 5, window=1, threshold=0.05)
    yield _pair_case(rng, "window 4, frequent words thinned out", 40, 6, window=4, threshold=0.08)
    yield _pair_case(rng, "every word taken out", 8, 3, window=2, threshold=1e-9, low=0.01)
    yield _pair_case(rng, "rare words only", 25, 12, window=3, threshold=0.02, hidden=True)
    yield _pair_case(rng, "a single word", 1, 3, window=5, threshold=100.0, hidden=True)
    yield _pair_case(rng, "a window longer than the text", 5, 3, window=9, threshold=100.0, hidden=True)
    yield _pair_case(rng, "a longer text", 120, 9, window=5, threshold=0.05, hidden=True)


def _pair_case(
    rng: np.random.Generator,
    name: str,
    length: int,
    words: int,
    *,
    window: int,
    threshold: float,
    low: float = 0.0,
    hidden: bool = False,
) -> Case:
    """A text whose first two words are equal, and draws that stay away from every boundary."""
    shares = 1 / np.arange(1, words + 1)
    ids = rng.choice(words, size=length, p=shares / shares.sum())
    ids[1:2] = ids[0]
    # The counts are those of a larger text, of which this one is a part.
    counts = np.bincount(ids, minlength=words) + np.maximum(1, rng.poisson(400 * shares))
    keep = np.minimum(1, np.sqrt(threshold / (counts / counts.sum())))[ids]
    keep_draws = _away_from(rng.uniform(low, 1, size=length), keep)
    reach_draws = (rng.integers(0, window, size=length) + rng.uniform(0.1, 0.9, size=length)) / window
    inputs = {"ids": ids.astype(np.int64), "counts": counts.astype(np.int64), "window": window}
    inputs |= {"threshold": threshold, "keep_draws": keep_draws, "reach_draws": reach_draws}
    return Case(name, inputs, hidden)


def _away_from(draws: np.ndarray, boundary: np.ndarray, least: float = 1e-4) -> np.ndarray:
    """Draws in [0, 1) that no rounding can bring to the other side of their boundary."""
    near = np.abs(draws - boundary) < least
    return np.where(near, np.where(boundary > 0.5, boundary - 2 * least, boundary + 2 * least), draws)


def _pairs(
    *,
    keep: Callable[[Tensor, float], Tensor] = lambda frequency, t: (t / frequency).sqrt(),
    draws: Callable[[Tensor], Tensor] = lambda given: given,
    own_frequency: bool = False,
    thin: str = "first",
    reach: Callable[[Tensor, int], Tensor] = lambda u, window: 1 + (u * window).long(),
    reach_of: str = "kept",
    near: Callable[[int, int, int], bool] = lambda i, j, r: i != j and abs(i - j) <= r,
    other_word: bool = False,
    swapped: bool = False,
) -> Callable[..., Tensor]:
    """Pairs by two loops, with at most one thing wrong; by default nothing is."""

    def pairs(
        ids: Tensor, counts: Tensor, window: int, threshold: float, keep_draws: Tensor, reach_draws: Tensor
    ) -> Tensor:
        counts = torch.bincount(ids, minlength=len(counts)) if own_frequency else counts
        frequency = (counts / counts.sum())[ids]
        kept = (draws(keep_draws) < keep(frequency, threshold)) | (thin == "never")
        places = torch.arange(len(ids)) if thin == "after" else kept.cumsum(0) - 1
        reaches = reach(reach_draws, window)
        if reach_of == "the first":
            reaches = reaches[places.clamp(min=0)]
        chosen = kept.nonzero().flatten().tolist()
        found = []
        for i in chosen:
            for j in chosen:
                if near(int(places[i]), int(places[j]), int(reaches[i])) and not (
                    other_word and ids[i] == ids[j]
                ):
                    found.append([int(ids[j]), int(ids[i])] if swapped else [int(ids[i]), int(ids[j])])
        return torch.tensor(found, dtype=torch.int64).reshape(-1, 2)

    return pairs


def _pairs_by_slices(
    ids: Tensor, counts: Tensor, window: int, threshold: float, keep_draws: Tensor, reach_draws: Tensor
) -> Tensor:
    chance = torch.sqrt(threshold * counts.sum() / counts[ids])
    left = [
        (word, 1 + int(u * window))
        for word, u, v, c in zip(ids.tolist(), reach_draws.tolist(), keep_draws, chance, strict=True)
        if v < c
    ]
    pairs = []
    for place, (centre, reach) in enumerate(left):
        start = max(0, place - reach)
        for neighbour in range(start, min(len(left), place + reach + 1)):
            if neighbour != place:
                pairs.append((centre, left[neighbour][0]))
    return torch.tensor(pairs, dtype=torch.long).view(-1, 2)


PAIRS = Exercise(
    id="embeddings/skip_gram_pairs",
    title="From a text to pairs of words",
    points=3,
    minutes=30,
    difficulty=2,
    cases=pair_cases,
    probe=probes.skip_gram_pairs,
    reference=library.skip_gram_pairs,
    also_right=(_pairs(), _pairs_by_slices),
    forbidden=LIBRARY,
    library="course_lib.models.word2vec:skip_gram_pairs",
    misconceptions=(
        Misconception(
            "the words that should go are kept",
            _pairs(draws=lambda given: 1 - given, keep=lambda f, t: 1 - (t / f).sqrt().clamp(max=1)),
            "1 − √(threshold / frequency) is the probability that a word is taken *out*. Keep a word where its draw is "
            "below √(threshold / frequency).",
        ),
        Misconception(
            "a draw below 1 − √(threshold / frequency) takes the word out",
            _pairs(draws=lambda given: -given, keep=lambda f, t: (t / f).sqrt().clamp(max=1) - 1),
            "That is the right probability, with the draws read from the other end. So that results can be compared: a "
            "word is kept where its draw is *below* √(threshold / frequency).",
        ),
        Misconception(
            "no word is taken out",
            _pairs(thin="never"),
            "Frequent words are to be thinned out first: keep a word only where its `keep_draws` is below its "
            "probability.",
        ),
        Misconception(
            "the square root is left out",
            _pairs(keep=lambda frequency, t: t / frequency),
            "The probability to keep a word is √(threshold / frequency). Without the root frequent words all but vanish.",
        ),
        Misconception(
            "the formula of the published C code",
            _pairs(keep=lambda frequency, t: (t / frequency).sqrt() + t / frequency),
            "√(t/f) + t/f is what the authors' C program computes. Here the paper's formula is asked for: √(t/f) alone.",
        ),
        Misconception(
            "frequencies are counted in the text that is given",
            _pairs(own_frequency=True),
            "The given text is only a part. A word's frequency is its entry in `counts`, divided by the sum of `counts`.",
        ),
        Misconception(
            "counts are taken for frequencies",
            _pairs(keep=lambda frequency, t: torch.zeros_like(frequency) + min(1.0, t) * 1e-6),
            "A frequency is a share: the word's count divided by the sum of all counts. With plain counts hardly any "
            "word is kept.",
        ),
        Misconception(
            "the window is laid before words are taken out",
            _pairs(thin="after"),
            "Take the words out first. Those that are left move together, and the window counts places among them.",
        ),
        Misconception(
            "a word is paired with itself",
            _pairs(near=lambda i, j, r: abs(i - j) <= r),
            "A place is no neighbour of itself: leave out the pair at distance 0.",
        ),
        Misconception(
            "two equal words next to each other are no pair",
            _pairs(other_word=True),
            "What is left out is the centre's own *place*. The same word at another place is a neighbour like any other.",
        ),
        Misconception(
            "every centre reaches the whole window",
            _pairs(reach=lambda u, window: torch.full_like(u, window).long()),
            "A centre reaches 1 + ⌊draw · window⌋ words to either side, with its own entry of `reach_draws`.",
        ),
        Misconception(
            "the reach begins at 0",
            _pairs(reach=lambda u, window: (u * window).long()),
            "⌊draw · window⌋ runs from 0 to window − 1. Add 1: every centre has a neighbour on either side.",
        ),
        Misconception(
            "the last neighbour on the right is missing",
            _pairs(near=lambda i, j, r: i != j and -r <= j - i < r),
            "`range(place - reach, place + reach)` ends one too early. The window has `reach` words on both sides.",
        ),
        Misconception(
            "only neighbours on the right are taken",
            _pairs(near=lambda i, j, r: 0 < j - i <= r),
            "A window looks both ways: `reach` words before the centre, and as many after it.",
        ),
        Misconception(
            "centre and neighbour are exchanged",
            _pairs(swapped=True),
            "The centre stands first in a pair, its neighbour second.",
        ),
        Misconception(
            "the draws of words that were taken out are used by others",
            _pairs(reach_of="the first"),
            "`reach_draws` belongs to the places of the given text. Thin it out together with the words: "
            "`reach_draws[kept]`.",
        ),
    ),
    hints=(
        "Two steps, one after the other: which words are kept, and which pairs the kept words form. Begin with every "
        "word kept.",
        "`kept = keep_draws < (threshold / (counts / counts.sum())).sqrt()[ids]`. Then index `ids` and `reach_draws` "
        "with `kept`, so that they stay side by side.",
        "For each place i of the kept words, run j from max(0, i − reach) to min(n, i + reach + 1), leave out j = i, "
        "and append (words[i], words[j]). End with `torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)`.",
    ),
)

# --- embeddings/negatives ----------------------------------------------------------------------


def negative_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Small counts, many draws, words that never occur and a draw of exactly 0; then two words, one draw."""
    yield _negative_case(rng, "four words", np.array([60, 25, 10, 5]), 3, 4)
    skewed = np.sort(rng.integers(1, 3000, size=12))[::-1]
    yield _negative_case(rng, "twelve words, many draws", skewed, 8, 20)
    gaps = rng.integers(5, 200, size=9)
    gaps[[0, 4, 8]] = 0
    yield _negative_case(rng, "words that never occur", gaps, 6, 15, zero=True)
    yield _negative_case(rng, "two words", rng.integers(3, 40, size=2), 5, 3, hidden=True)
    yield _negative_case(rng, "one draw each", rng.integers(1, 90, size=30), 12, 1, hidden=True)


def _negative_case(
    rng: np.random.Generator,
    name: str,
    counts: np.ndarray,
    positives: int,
    draws: int,
    *,
    zero: bool = False,
    hidden: bool = False,
) -> Case:
    """Positives among the words that occur, the last one of them too; draws away from every boundary."""
    occurring = np.flatnonzero(counts)
    chosen = rng.choice(occurring, size=positives)
    chosen[0] = occurring[-1]
    if zero:
        chosen[1] = occurring[0]
    noise = counts**0.75 / (counts**0.75).sum()
    given = rng.uniform(size=(positives, draws))
    for row, positive in zip(given, chosen, strict=True):
        own = np.where(np.arange(len(counts)) == positive, 0, noise)
        ends = np.cumsum(own / own.sum())
        near = np.abs(row[:, None] - ends).min(axis=1) < 1e-4
        row[near] = np.clip(row[near] - 3e-4, 1e-4, None)
    if zero:
        given[:2, 0] = 0
    inputs = {"counts": counts.astype(np.int64), "positives": chosen.astype(np.int64), "draws": given}
    return Case(name, inputs, hidden)


def _reference_negatives(counts: Tensor, positives: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    noise = library.noise_distribution(counts)
    return noise, library.draw_negatives(noise, positives, draws)


def _negatives(
    *,
    power: float = 0.75,
    again: bool = True,
    excluded: str = "own",
    right: bool = True,
    clamped: bool = True,
) -> Callable[..., Any]:
    """A table of distributions, one row a positive, with at most one thing wrong; by default nothing is."""

    def negatives(counts: Tensor, positives: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        weights = counts.double() ** power if again else (counts / counts.sum()).double() ** power
        noise = weights / weights.sum() if again else weights
        rows = noise.repeat(len(positives), 1)
        if excluded in ("own", "not made whole"):
            rows[torch.arange(len(positives)), positives] = 0
        elif excluded == "all":
            rows[:, positives] = 0
        if excluded != "not made whole" and again:
            rows = rows / rows.sum(dim=1, keepdim=True)
        found = torch.searchsorted(rows.cumsum(dim=1), draws.contiguous(), right=right)
        found = found.clamp(max=len(counts) - 1) if clamped else found
        if excluded == "next":
            found = torch.where(found == positives[:, None], (found + 1) % len(counts), found)
        return noise, found

    return negatives


def _negatives_by_loop(counts: Tensor, positives: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    powered = [float(count) ** 0.75 if count else 0.0 for count in counts.tolist()]
    found = []
    for positive, row in zip(positives.tolist(), draws.tolist(), strict=True):
        total = sum(weight for word, weight in enumerate(powered) if word != positive)
        drawn = []
        for draw in row:
            below = 0.0
            for word, weight in enumerate(powered):
                below += 0.0 if word == positive else weight
                if below > draw * total:
                    break
            drawn.append(word)
        found.append(drawn)
    noise = torch.tensor(powered, dtype=torch.float64)
    return noise / noise.sum(), torch.tensor(found, dtype=torch.int64).reshape(draws.shape)


NEGATIVES = Exercise(
    id="embeddings/negatives",
    title="Words drawn as negatives",
    points=2,
    minutes=25,
    difficulty=2,
    cases=negative_cases,
    probe=probes.negatives,
    reference=_reference_negatives,
    also_right=(_negatives(), _negatives_by_loop),
    tolerance=Tolerance(absolute=1e-9, relative=1e-6),
    forbidden=LIBRARY,
    library="course_lib.models.word2vec:draw_negatives",
    misconceptions=(
        Misconception(
            "the power is left out",
            _negatives(power=1.0),
            "Raise the counts to the power 3/4 before you bring them to sum 1. That draws rare words more often than "
            "they occur.",
        ),
        Misconception(
            "the square root stands in place of the power 3/4",
            _negatives(power=0.5),
            "The exponent is 0.75. The square root would be 0.5.",
        ),
        Misconception(
            "every word is equally likely",
            _negatives(power=0.0),
            "Your noise does not depend on the counts. It is proportional to counts^0.75, and a word that never occurs "
            "is never drawn.",
        ),
        Misconception(
            "frequencies are raised to the power and not brought to sum 1 again",
            _negatives(again=False),
            "After the power the numbers no longer sum to 1. Divide by their sum once more.",
        ),
        Misconception(
            "a positive can be its own negative",
            _negatives(excluded="no"),
            "For each positive take its own share out of the noise before you draw; otherwise a pair is pulled together "
            "and pushed apart at once.",
        ),
        Misconception(
            "the share of the positive is taken out and the rest not brought to sum 1",
            _negatives(excluded="not made whole"),
            "Without the positive the shares sum to less than 1, and draws above that fall off the end. Bring the rest "
            "to sum 1, row by row.",
        ),
        Misconception(
            "the rest is not brought to sum 1, so that some draws find no word",
            _negatives(excluded="not made whole", clamped=False),
            "Without the positive the shares sum to less than 1, and a draw above that gets an id that no word has. "
            "Bring the rest to sum 1, row by row.",
        ),
        Misconception(
            "the positive is replaced by the next word",
            _negatives(excluded="next"),
            "So the word after the positive gets the positive's share as well. Take the positive out of the distribution "
            "instead, and bring the rest to sum 1.",
        ),
        Misconception(
            "no positive of the batch is drawn for any other",
            _negatives(excluded="all"),
            "Each row leaves out its own positive only. Another pair's positive is a negative like any other.",
        ),
        Misconception(
            "a word that never occurs is drawn",
            _negatives(right=False),
            "At a draw of 0 the first word whose running sum is *greater* than the draw is meant, and a word with count 0 "
            "adds nothing. `torch.searchsorted(…, right=True)` does that.",
        ),
        Misconception(
            "the negatives alone are returned",
            lambda counts, positives, draws: _negatives()(counts, positives, draws)[1],
            "Two things are asked for: `return noise, negatives`.",
        ),
    ),
    hints=(
        "First the noise: counts to the power 0.75, divided by their sum. Print it for counts 60, 25, 10, 5.",
        "For one positive: set its entry of the noise to 0, divide by the sum of the rest, and look where the running "
        "sum first exceeds the draw.",
        "For all at once: `rows = noise.repeat(b, 1)`, set `rows[arange(b), positives] = 0`, divide each row by its sum; "
        "then `torch.searchsorted(rows.cumsum(1), draws, right=True)`.",
    ),
)

# --- embeddings/negative_sampling --------------------------------------------------------------


def sampling_cases(rng: np.random.Generator) -> Iterator[Case]:
    """One pair, several, large scores; then one negative, float64, width 1."""
    yield _sampling_case(rng, "one pair, two negatives", 1, 2, 3)
    yield _sampling_case(rng, "five pairs, three negatives", 5, 3, 4)
    yield _sampling_case(rng, "scores of some hundreds", 6, 4, 16, spread=9.0)
    yield _sampling_case(rng, "one negative each", 4, 1, 6, hidden=True)
    yield _sampling_case(rng, "float64", 3, 5, 8, dtype="float64", hidden=True)
    yield _sampling_case(rng, "vectors of width 1", 7, 2, 1, hidden=True)


def _sampling_case(
    rng: np.random.Generator,
    name: str,
    pairs: int,
    negatives: int,
    width: int,
    *,
    spread: float = 1.0,
    dtype: str = "float32",
    hidden: bool = False,
) -> Case:
    shapes = {"centre": (pairs, width), "neighbour": (pairs, width), "negatives": (pairs, negatives, width)}
    inputs = {part: (spread * rng.normal(size=shape)).astype(dtype) for part, shape in shapes.items()}
    if spread > 1:  # Scores far on the wrong side, whatever was drawn: their sigmoid is exactly 0 or 1.
        inputs["neighbour"][0] = -inputs["centre"][0] * np.float32(300 / np.square(inputs["centre"][0]).sum())
        inputs["negatives"][1, 0] = inputs["centre"][1] * np.float32(
            300 / np.square(inputs["centre"][1]).sum()
        )
    return Case(name, inputs, hidden)


def sampling_steps(case: Case) -> Mapping[str, np.ndarray]:
    """Scores, their errors, and the loss of each pair."""
    centre, neighbour, negatives = (torch.as_tensor(case[n]) for n in ("centre", "neighbour", "negatives"))
    pull = (centre * neighbour).sum(dim=-1)
    push = torch.einsum("bd,bkd->bk", centre, negatives)
    steps = {"the scores of the neighbours": pull, "the scores of the negatives": push}
    steps["the loss of each pair"] = -(F.logsigmoid(pull) + F.logsigmoid(-push).sum(dim=-1))
    return {name: step.numpy() for name, step in steps.items()}


def _reference_sampling(centre: Tensor, neighbour: Tensor, negatives: Tensor) -> tuple[Tensor, ...]:
    loss = library.sgns_loss(centre, neighbour, negatives)
    return (loss, *library.sgns_gradients(centre, neighbour, negatives))


def _sampling(
    *,
    mean: str = "both",
    log_sigmoid: Callable[[Tensor], Tensor] = F.logsigmoid,
    push_sign: float = 1.0,
    pull_error: Callable[[Tensor], Tensor] = lambda score: score.sigmoid() - 1,
    push_error: Callable[[Tensor], Tensor] = torch.sigmoid,
    of_centre: str = "both",
    own: bool = False,
    sign: float = 1.0,
    softmax: bool = False,
) -> Callable[..., Any]:
    """Loss and gradients with at most one thing wrong; by default nothing is."""

    def negative_sampling(centre: Tensor, neighbour: Tensor, negatives: Tensor) -> tuple[Tensor, ...]:
        pairs, count = negatives.shape[:2]
        pull, push = (centre * neighbour).sum(-1), (negatives @ centre[:, :, None])[..., 0]
        losses = -log_sigmoid(pull) - log_sigmoid(-push_sign * push).sum(-1)
        errors = pull_error(pull), push_sign * push_error(push_sign * push)
        if softmax:
            both = torch.cat([pull[:, None], push], dim=1)
            losses = -both.log_softmax(dim=1)[:, 0]
            chosen = both.softmax(dim=1)
            errors = chosen[:, 0] - 1, chosen[:, 1:]
        by_pairs = {
            "both": (pairs, pairs),
            "neither": (1, 1),
            "loss": (pairs, 1),
            "all": (pairs * (count + 1),) * 2,
        }
        of_loss, of_gradients = by_pairs[mean]
        pull_errors, push_errors = (sign * error / of_gradients for error in errors)
        attracted = pull_errors[:, None] * neighbour
        repelled = (push_errors[:, :, None] * negatives).sum(1)
        return (
            losses.sum() / of_loss,
            attracted if of_centre == "neighbour" else attracted + repelled,
            pull_errors[:, None] * (neighbour if own else centre),
            push_errors[:, :, None] * (negatives if own else centre[:, None, :]),
        )

    return negative_sampling


def _sampling_by_stacking(centre: Tensor, neighbour: Tensor, negatives: Tensor) -> tuple[Tensor, ...]:
    """Neighbour and negatives as one table of k + 1 rows with labels 1, 0, 0, …: binary cross-entropy."""
    outside = torch.cat([neighbour.unsqueeze(1), negatives], dim=1)
    labels = torch.zeros(outside.shape[:2], dtype=centre.dtype)
    labels[:, 0] = 1
    scores = torch.bmm(outside, centre.unsqueeze(2)).squeeze(2)
    loss = F.binary_cross_entropy_with_logits(scores, labels, reduction="sum") / len(centre)
    errors = (torch.sigmoid(scores) - labels) / len(centre)
    of_outside = errors.unsqueeze(2) * centre.unsqueeze(1)
    of_centre = torch.bmm(errors.unsqueeze(1), outside).squeeze(1)
    return loss, of_centre, of_outside[:, 0], of_outside[:, 1:]


NEGATIVE_SAMPLING = Exercise(
    id="embeddings/negative_sampling",
    title="The loss of skip-gram, and its gradient by hand",
    points=3,
    minutes=40,
    difficulty=3,
    cases=sampling_cases,
    probe=probes.negative_sampling,
    reference=_reference_sampling,
    also_right=(_sampling(), _sampling_by_stacking),
    steps=sampling_steps,
    tolerance=Tolerance(absolute=5e-5, relative=2e-4),
    forbidden=(*LIBRARY, *AUTOGRAD),
    library="course_lib.models.word2vec:sgns_gradients",
    misconceptions=(
        Misconception(
            "loss and gradients are summed over the pairs",
            _sampling(mean="neither"),
            "The loss is the mean over the b pairs. Divide it by b, and its gradients with it.",
        ),
        Misconception(
            "the mean is in the loss and not in its gradients",
            _sampling(mean="loss"),
            "A loss that is divided by b has gradients that are divided by b. Yours are b times too large.",
        ),
        Misconception(
            "the mean runs over the negatives as well",
            _sampling(mean="all"),
            "Within a pair the terms are added: one for the neighbour and k for the negatives. Only the pairs are "
            "averaged.",
        ),
        Misconception(
            "the negatives are pulled closer",
            _sampling(push_sign=-1.0),
            "For a negative n the term is log σ(−c · n): its score has to fall. The minus sign inside the σ is missing.",
        ),
        Misconception(
            "the error of the neighbour is σ(score)",
            _sampling(pull_error=torch.sigmoid),
            "The derivative of −log σ(s) is σ(s) − 1: the prediction minus the label, and the label of a real neighbour "
            "is 1.",
        ),
        Misconception(
            "the error of the neighbour is 1 − σ(score)",
            _sampling(pull_error=lambda score: 1 - score.sigmoid()),
            "The derivative of −log σ(s) is σ(s) − 1. With the sign turned a step pushes the neighbour away.",
        ),
        Misconception(
            "the error of a negative is σ(score) − 1",
            _sampling(push_error=lambda score: score.sigmoid() - 1),
            "The derivative of −log σ(−s) is σ(s): the prediction minus the label, and the label of a negative is 0.",
        ),
        Misconception(
            "the gradient of the centre forgets the negatives",
            _sampling(of_centre="neighbour"),
            "The centre stands in every score. Its gradient is the error times the neighbour, plus the sum over the "
            "negatives of error times negative.",
        ),
        Misconception(
            "a vector's gradient is made of itself",
            _sampling(own=True),
            "The derivative of c · o by o is c. So the gradients of neighbour and negatives are errors times the "
            "*centre*.",
        ),
        Misconception(
            "the gradients point downhill",
            _sampling(sign=-1.0),
            "You returned the direction of a step, minus the gradient. Asked for is the gradient itself.",
        ),
        Misconception(
            "one softmax over neighbour and negatives",
            _sampling(softmax=True),
            "Negative sampling asks a yes-or-no question about each pair by itself: a sigmoid for each score, and no "
            "softmax across them.",
        ),
        Misconception(
            "the logarithm of a sigmoid that is 0",
            _sampling(log_sigmoid=lambda score: score.sigmoid().log()),
            "σ of a score below −104 is 0 in float32, and its logarithm is minus infinity. `F.logsigmoid` never forms "
            "that 0.",
        ),
        Misconception(
            "an epsilon inside the logarithm",
            _sampling(log_sigmoid=lambda score: (score.sigmoid() + 1e-9).log()),
            "With + 1e−9 no loss exceeds 21, however wrong the score is. `F.logsigmoid` is exact: for a score of −300 it "
            "gives −300.",
        ),
        Misconception(
            "the loss alone is returned",
            lambda centre, neighbour, negatives: _sampling()(centre, neighbour, negatives)[0],
            "Four things are asked for: `return loss, centre_gradient, neighbour_gradient, negatives_gradient`.",
        ),
    ),
    hints=(
        "Begin with one pair on paper. What is the derivative of −log σ(s) by s? And of −log σ(−s)?",
        "Call the derivative of the loss by a score its error: σ(s) − 1 for the neighbour, σ(s) for a negative, both "
        "divided by b. Each gradient is errors times the *other* vector of the score.",
        "`pull = (centre * neighbour).sum(-1)`, `push = torch.einsum('bd,bkd->bk', centre, negatives)`. The centre's "
        "gradient is `e[:, None] * neighbour + torch.einsum('bk,bkd->bd', f, negatives)` with the errors e and f.",
    ),
)

# --- embeddings/senses -------------------------------------------------------------------------


def sense_cases(rng: np.random.Generator) -> Iterator[Case]:
    """A word of both senses, of one, of the other, of neither; in other sizes, orders and dtypes."""
    yield _sense_case(rng, "a word with two senses", (0.8, 0.7))
    yield _sense_case(rng, "a word of the first sense", (1.0, 0.08))
    yield _sense_case(rng, "a word of neither sense", (0.03, 0.02))
    yield _sense_case(rng, "a word of the second sense", (0.07, 1.0), hidden=True)
    yield _sense_case(rng, "two senses, one of them weaker", (0.55, 1.0), width=24, hidden=True)
    yield _equal_cosines(rng)
    yield _sense_case(rng, "the opposite of the second sense", (1.0, -0.6), hidden=True)
    yield _sense_case(rng, "float64, one word a sense", (0.9, 0.9), dtype="float64", members=1, hidden=True)


def _sense_case(
    rng: np.random.Generator,
    name: str,
    weights: tuple[float, float],
    *,
    width: int = 12,
    members: int = 4,
    dtype: str = "float32",
    hidden: bool = False,
) -> Case:
    """Two directions that are not at right angles, words around each, a word mixed of both, and others."""
    one, other = np.linalg.qr(rng.normal(size=(width, 2)))[0].T
    directions = np.stack([one, 0.4 * one + 0.9 * other])
    rest = rng.normal(size=width)
    rest -= (rest @ one) * one + (rest @ other) * other
    rest /= np.linalg.norm(rest)
    mixed = np.array(weights) @ directions + 0.25 * rest
    groups = [
        direction + 0.12 * rng.normal(size=(members, width)) / np.sqrt(width) for direction in directions
    ]
    others = rng.normal(size=(10, width)) / np.sqrt(width)
    vectors = np.concatenate([mixed[None], *groups, others])
    # Lengths that have nothing to do with directions, as those of word vectors, which grow with frequency.
    vectors *= np.exp(rng.uniform(-1, 1.2, size=(len(vectors), 1)))
    vectors[0] *= 1.7 / np.linalg.norm(vectors[0])
    order = rng.permutation(len(vectors))
    place = np.argsort(order)
    table = vectors[order].astype(dtype)
    first, second = place[1 : 1 + members], place[1 + members : 1 + 2 * members]
    inputs = {"table": table, "word": int(place[0]), "first": first.astype(np.int64)}
    inputs |= {"second": second.astype(np.int64), "count": 5}
    return Case(name, inputs, hidden)


def _equal_cosines(rng: np.random.Generator) -> Case:
    """Vectors with four entries of equal size, whose cosines are quarters: exact in whatever order one adds."""
    four = [(0, 1, 2, 3), (0, 1, 2, 4), (0, 1, 2, 5), (2, 3, 6, 7), (2, 3, 8, 9)]
    vectors = np.zeros((15, 16), dtype=np.float32)
    for row, places in enumerate(four):
        vectors[row, list(places)] = 0.5
    for row in range(len(four), len(vectors)):
        vectors[row, rng.permutation(16)[:4]] = rng.choice([-0.5, 0.5], size=4)
    vectors = vectors[:, rng.permutation(16)] * 2.0 ** rng.integers(-1, 3, size=(len(vectors), 1))
    order = rng.permutation(len(vectors))
    place = np.argsort(order).astype(np.int64)
    inputs = {"table": vectors[order].astype(np.float32), "word": int(place[0])}
    inputs |= {"first": place[1:3].copy(), "second": place[3:5].copy(), "count": 5}
    return Case("words with equal cosines", inputs, True)


def sense_steps(case: Case) -> Mapping[str, np.ndarray]:
    """Cosines, the two means, and what is left over."""
    unit = F.normalize(torch.as_tensor(case["table"]), dim=-1)
    own = unit[case["word"]]
    means = torch.stack([unit[torch.as_tensor(case[name])].mean(dim=0) for name in ("first", "second")])
    weights = torch.linalg.lstsq(means.T, own[:, None]).solution[:, 0]
    steps = {"the cosines with the word": unit @ own, "the means of the two groups": means}
    steps |= {"the weights": weights, "what the weights leave over": own - weights @ means}
    return {name: step.numpy() for name, step in steps.items()}


def _read(weights: Tensor, explained: float) -> str:
    small, large = sorted(weights.tolist())
    if explained < 0.25:
        return "neither"
    if small >= large / 3:
        return "both"
    return "first" if weights[0] > weights[1] else "second"


def _senses(
    *,
    rank: Callable[[Tensor, int], Tensor] = lambda table, word: (
        F.normalize(table, dim=-1) @ F.normalize(table[word], dim=0)
    ),
    keep_word: bool = False,
    later_first: bool = False,
    unit_members: bool = True,
    unit_word: bool = True,
    unit_means: bool = False,
    solve: Callable[[Tensor, Tensor], Tensor] | None = None,
    measure: Callable[[Tensor, Tensor], Tensor] = lambda own, left: 1 - left.square().sum(),
    read: Callable[[Tensor, float], str] = _read,
    order: Callable[..., Any] = lambda *parts: parts,
) -> Callable[..., Any]:
    """The reference, whose parts the misconceptions replace one at a time."""

    def sense_mixture(table: Tensor, word: int, first: Tensor, second: Tensor, count: int) -> Any:
        closeness = rank(table, word)
        if later_first:
            ranked = len(table) - 1 - closeness.flip(0).argsort(descending=True, stable=True)
        else:
            ranked = closeness.argsort(descending=True, stable=True)
        neighbours = (ranked if keep_word else ranked[ranked != word])[:count]
        unit = F.normalize(table, dim=-1)
        members = unit if unit_members else table
        own = unit[word] if unit_word else table[word]
        means = torch.stack([members[first].mean(dim=0), members[second].mean(dim=0)])  # (2, d)
        means = F.normalize(means, dim=1) if unit_means else means
        # The normal equations: the best weights leave nothing over in the direction of either mean.
        weights = torch.linalg.solve(means @ means.T, means @ own) if solve is None else solve(means, own)
        explained = float(measure(own, own - weights @ means))
        return order(neighbours, weights, explained, read(weights, explained))

    return sense_mixture


def _senses_by_lstsq(table: Tensor, word: int, first: Tensor, second: Tensor, count: int) -> Any:
    unit = table / table.norm(dim=1, keepdim=True)
    cosines = (unit @ unit[word]).tolist()
    ranked = sorted((n for n in range(len(table)) if n != word), key=lambda n: (-cosines[n], n))
    means = torch.stack([unit[first].sum(0) / len(first), unit[second].sum(0) / len(second)], dim=1)
    weights = torch.linalg.lstsq(means, unit[word].unsqueeze(1)).solution.squeeze(1)
    explained = (means @ weights).norm().item() ** 2
    alpha, beta = weights.tolist()
    if explained < 0.25:
        reading = "neither"
    elif min(alpha, beta) * 3 >= max(alpha, beta):
        reading = "both"
    else:
        reading = "first" if alpha > beta else "second"
    return torch.tensor(ranked[:count]), weights, explained, reading


def _senses_by_projection(table: Tensor, word: int, first: Tensor, second: Tensor, count: int) -> Any:
    """Through an orthonormal basis of the two means."""
    unit = F.normalize(table)
    similarity = F.cosine_similarity(table[word][None], table, dim=1)
    similarity[word] = -2
    neighbours = torch.sort(-similarity, stable=True).indices[:count]
    means = torch.stack([unit[first].mean(0), unit[second].mean(0)], dim=1)  # (d, 2)
    basis, upper = torch.linalg.qr(means)
    inside = basis.T @ unit[word]
    weights = torch.linalg.solve_triangular(upper, inside[:, None], upper=True)[:, 0]
    explained = inside.square().sum().item()
    return neighbours, weights, explained, _read(weights, explained)


SENSES = Exercise(
    id="embeddings/senses",
    title="How much one vector mixes two senses",
    points=3,
    minutes=40,
    difficulty=3,
    cases=sense_cases,
    probe=probes.senses,
    reference=_senses(),
    also_right=(_senses_by_lstsq, _senses_by_projection),
    steps=sense_steps,
    tolerance=Tolerance(absolute=2e-4, relative=1e-3),
    forbidden=LIBRARY,
    misconceptions=(
        Misconception(
            "neighbours by the dot product",
            _senses(rank=lambda table, word: table @ table[word]),
            "A long vector has a large dot product with everything. The cosine compares directions: bring every vector to "
            "length 1 first.",
        ),
        Misconception(
            "neighbours by the distance",
            _senses(rank=lambda table, word: -(table - table[word]).norm(dim=1)),
            "The distance between two vectors depends on their lengths, and those on how frequent the words are. Use the "
            "cosine.",
        ),
        Misconception(
            "the word is its own neighbour",
            _senses(keep_word=True),
            "The word itself has cosine 1 and comes first. Leave it out, and take `count` others.",
        ),
        Misconception(
            "of equal words the later one comes first",
            _senses(later_first=True),
            "Where two words have the same cosine the smaller id comes first. `argsort(descending=True, stable=True)` "
            "keeps that order; `flip` and `topk` do not.",
        ),
        Misconception(
            "the farthest words in place of the nearest",
            _senses(rank=lambda table, word: -(F.normalize(table) @ F.normalize(table[word], dim=0))),
            "The nearest words have the *largest* cosine. Sort in falling order.",
        ),
        Misconception(
            "each weight is found by itself",
            _senses(solve=lambda means, own: (means @ own) / means.square().sum(dim=1)),
            "The two means are not at right angles, so what they explain overlaps. Solve for both weights at once: "
            "`torch.linalg.lstsq`.",
        ),
        Misconception(
            "the weights are dot products",
            _senses(solve=lambda means, own: means @ own),
            "A dot product tells how near the word is to each mean, not how much of each it takes to make it. The "
            "weights solve a least-squares problem: `torch.linalg.lstsq`.",
        ),
        Misconception(
            "the weights are cosines",
            _senses(solve=lambda means, own: F.normalize(means, dim=1) @ own),
            "A cosine tells how near the word is to each mean, not how much of each it takes to make it. The weights "
            "solve a least-squares problem.",
        ),
        Misconception(
            "the means are taken of vectors of any length",
            _senses(unit_members=False),
            "Bring the vectors of each group to length 1 before you take their mean; otherwise the longest decides.",
        ),
        Misconception(
            "the means are brought to length 1 again",
            _senses(unit_means=True),
            "Only the vectors of a group are brought to length 1. Their mean is a little shorter, and stays so.",
        ),
        Misconception(
            "the word's vector keeps its length",
            _senses(unit_word=False),
            "What is explained is the word's vector at length 1. With its own length weights and share are off.",
        ),
        Misconception(
            "the share that is left is returned",
            _senses(measure=lambda own, left: left.square().sum()),
            "The squared length of what is left over is the *unexplained* share. Return one minus it.",
        ),
        Misconception(
            "the length that is left is not squared",
            _senses(measure=lambda own, left: 1 - left.norm()),
            "Shares are of squared lengths, which add up to 1 by Pythagoras: 1 − ‖left over‖².",
        ),
        Misconception(
            "a word is always given to some sense",
            _senses(read=lambda weights, explained: _read(weights, 1.0)),
            "Where the two senses explain less than a quarter of the vector, the weights mean little: the reading is "
            '"neither".',
        ),
        Misconception(
            "only one sense is ever read",
            _senses(
                read=lambda weights, explained: (
                    "neither" if explained < 0.25 else "first" if weights[0] > weights[1] else "second"
                )
            ),
            'Where the smaller weight is at least a third of the larger, the vector holds both senses: "both".',
        ),
        Misconception(
            "a negative weight counts by its size",
            _senses(read=lambda weights, explained: _read(weights.abs(), explained)),
            "A negative weight says that the word points away from that sense. Compare the weights themselves, not their "
            "absolute values.",
        ),
    ),
    hints=(
        "Three separate steps: neighbours, weights, reading. Bring the table to length 1 at the very beginning; all three "
        "need it.",
        "The weights solve `means @ weights ≈ own` in the least-squares sense, where `means` has two columns. "
        "`torch.linalg.lstsq(means, own[:, None]).solution[:, 0]` does it.",
        "`left = own - means @ weights`, `explained = 1 - float(left.square().sum())`. Then three questions in this order: "
        "less than 0.25? smaller weight at least a third of the larger? which one is larger?",
    ),
)

# --- embeddings/analogies ----------------------------------------------------------------------

RANKS, FORMS, SHOWN, SENTENCES = 8, 4, 3, 1800


def analogy_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Two invented languages, each with its own words."""
    yield _analogy_case(rng, "an invented language")
    yield _analogy_case(rng, "another invented language", hidden=True)


def _analogy_case(rng: np.random.Generator, name: str, hidden: bool = False) -> Case:
    """Sentences around a word that has a rank and a form, with words that go with each, and others.

    With four forms the word nearest to one of them is seldom the one that is asked for. The steps are shown on
    some ranks and asked for on others, so that the questions alone are not enough to answer them.
    """
    groups = {"word": RANKS * FORMS, "rank": 4 * RANKS, "form": 4 * FORMS, "filler": 24}
    num_words = sum(groups.values())
    numbers = iter(np.split(rng.permutation(num_words), np.cumsum(list(groups.values()))[:-1]))
    word, of_rank, of_form, filler = (next(numbers) for _ in groups)
    word, of_rank, of_form = word.reshape(RANKS, FORMS), of_rank.reshape(RANKS, 4), of_form.reshape(FORMS, 4)
    rank, form = (rng.integers(0, count, size=SENTENCES) for count in (RANKS, FORMS))
    falling = 1 / np.arange(1, 25)
    others = rng.choice(filler, size=(SENTENCES, 2), p=falling / falling.sum())
    rows = np.arange(SENTENCES)[:, None]
    columns = [
        word[rank, form][:, None],
        of_rank[rank][rows, rng.integers(0, 4, size=(SENTENCES, 2))],
        of_form[form][rows, rng.integers(0, 4, size=(SENTENCES, 3))],
        others,
    ]
    sentences = rng.permuted(np.concatenate(columns, axis=1), axis=1)
    asked = [
        (word[known, one], word[known, two], word[other, one], word[other, two])
        for known in range(SHOWN)
        for other in range(SHOWN, RANKS)
        for one in range(FORMS)
        for two in range(FORMS)
        if one != two
    ]
    table = np.array(asked, dtype=np.int64)[rng.permutation(len(asked))[:80]]
    inputs = {
        "sentences": sentences.astype(np.int64),
        "num_words": num_words,
        "questions": table[:, :3].copy(),
    }
    return Case(name, inputs, hidden, withheld={"fourth words": table[:, 3].copy()})


def _fourth_words(vectors: Tensor, questions: Tensor, step: float = 1.0) -> Tensor:
    """The word nearest to c + step · (b − a), the question's own words left out."""
    unit = F.normalize(vectors, dim=-1)
    a, b, c = unit[questions].unbind(dim=1)
    cosines = (c + step * (b - a)) @ unit.T
    return cosines.scatter(1, questions, -9.0).argmax(dim=1)


def _together(sentences: Tensor, num_words: int) -> Tensor:
    """How often two words share a sentence, at two places: (num_words, num_words)."""
    present = torch.zeros(len(sentences), num_words, device=sentences.device)
    present.scatter_add_(1, sentences, torch.ones_like(sentences, dtype=present.dtype))
    return present.T @ present - torch.diag(present.sum(dim=0))


def _trained(sentences: Tensor, num_words: int, negatives: int = 5) -> Tensor:
    """Skip-gram on all pairs at once, with every word a negative by its share of the noise: (v, 32)."""
    together = _together(sentences, num_words)
    pull = together / together.sum(dim=1, keepdim=True)
    noise = together.sum(dim=1) ** 0.75
    push = negatives * noise / noise.sum()
    centre, outside = 0.1 * torch.randn(2, num_words, 32, device=sentences.device)
    for _ in range(300):
        errors = (pull + push) * (centre @ outside.T).sigmoid() - pull
        centre, outside = centre - 0.5 * errors @ outside, outside - 0.5 * errors.T @ centre
    return centre


def _completing(step: float = 1.0, negatives: int = 5) -> Callable[..., Tensor]:
    """An answer with at most one thing wrong; by default nothing is."""

    def complete_analogies(sentences: Tensor, num_words: int, questions: Tensor) -> Tensor:
        return _fourth_words(_trained(sentences, num_words, negatives), questions, step)

    return complete_analogies


def _analogies_by_counting(sentences: Tensor, num_words: int, questions: Tensor) -> Tensor:
    """Positive pointwise mutual information and its leading directions, which skip-gram approximates."""
    together = _together(sentences, num_words)
    alone = together.sum(dim=1)
    information = (together * together.sum() / (alone[:, None] * alone)).log().clamp(min=0)
    left, spread, _ = torch.linalg.svd(information)
    return _fourth_words(left[:, :24] * spread[:24].sqrt(), questions)


def _analogies_by_batches(sentences: Tensor, num_words: int, questions: Tensor) -> Tensor:
    """Batches of pairs with drawn negatives, autograd and Adam."""
    device, length = sentences.device, sentences.shape[1]
    places = [(i, j) for i in range(length) for j in range(length) if i != j]
    pairs = sentences[:, torch.tensor(places, device=device)].reshape(-1, 2)
    noise = torch.bincount(sentences.flatten(), minlength=num_words).float() ** 0.75
    centre = (0.3 * torch.randn(num_words, 32, device=device)).requires_grad_()
    outside = torch.zeros(num_words, 32, device=device, requires_grad=True)
    optimizer = torch.optim.Adam([centre, outside], lr=0.03)
    for _ in range(5):
        for batch in pairs[torch.randperm(len(pairs), device=device)].split(4096):
            drawn = torch.multinomial(noise, 5 * len(batch), replacement=True).view(-1, 5)
            pull = (centre[batch[:, 0]] * outside[batch[:, 1]]).sum(-1)
            push = torch.einsum("bd,bkd->bk", centre[batch[:, 0]], outside[drawn])
            loss = -(F.logsigmoid(pull) + F.logsigmoid(-push).sum(-1)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return _fourth_words(centre.detach(), questions)


ANALOGIES = Exercise(
    id="embeddings/analogies",
    title="Train word vectors that complete analogies",
    points=4,
    minutes=90,
    difficulty=4,
    cases=analogy_cases,
    probe=probes.analogies,
    reference=_completing(),
    also_right=(_analogies_by_counting, _analogies_by_batches),
    forbidden=LIBRARY,
    library="course_lib.models.word2vec:train_word2vec",
    gpu=True,
    seconds=30.0,
    judged={"the list of fourth words": Score("accuracy", truth="fourth words", at_least=0.8)},
    misconceptions=(
        Misconception(
            "the step goes from b to a",
            _completing(step=-1.0),
            "*a is to b as c is to d*: the step from a to b is b − a, and it is added to c.",
        ),
        Misconception(
            "the answer is the word nearest to c",
            _completing(step=0.0),
            "The word nearest to c is like c in one respect or the other, and there are several such words. The step from a to "
            "b says in which respect to change it, and how: b − a + c.",
        ),
        Misconception(
            "the vectors are not trained",
            lambda sentences, num_words, questions: _fourth_words(
                torch.randn(num_words, 32, device=sentences.device), questions
            ),
            "Vectors as they were drawn know nothing of the sentences. Look at the loss: does it fall from one epoch to "
            "the next?",
        ),
        Misconception(
            "training has no negatives",
            _completing(negatives=0),
            "With neighbours alone the loss falls to 0 by making all vectors one and the same. Negatives push words apart "
            "that do not belong together.",
        ),
    ),
    hints=(
        "Make all pairs first: in a sentence of t words every word is a neighbour of every other. Train on batches of a few "
        "thousand pairs with Adam, and print the mean loss of each epoch.",
        "Two tables `requires_grad_()`, `torch.optim.Adam([centre, outside], lr=0.03)`, five negatives from "
        "`torch.multinomial(counts.float() ** 0.75, …, replacement=True)`, width 32, five epochs.",
        "`unit = F.normalize(centre.detach(), dim=-1)`, then `cosines = (unit[b] - unit[a] + unit[c]) @ unit.T`; set the "
        "columns of a, b and c to −9 with `scatter_`, and take `argmax(dim=1)`.",
    ),
)

EXERCISES = (LOOKUP, PAIRS, NEGATIVES, NEGATIVE_SAMPLING, SENSES, ANALOGIES)
