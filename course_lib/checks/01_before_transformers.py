"""Exercises of 01_before_transformers: what is asked, what is right, and how people go wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .exercise import Case, Exercise, Misconception, Tolerance
from .probes import before_transformers as probes

Pairs = Sequence[tuple[Tensor, Tensor]]

# The library's own versions are no answers, nor parts of one.
LIBRARY = (
    "course_lib.models.alignment.Model1",
    "course_lib.models.alignment.train_model1",
    "course_lib.models.ngram.NGramModel",
    "course_lib.models.ngram.AddK",
    "course_lib.models.ngram.Interpolated",
    "course_lib.models.ngram.KneserNey",
    "course_lib.models.recurrent.rnn_cell",
    "course_lib.models.recurrent.lstm_cell",
    "course_lib.models.recurrent.gru_cell",
    "course_lib.models.recurrent.RNN",
    "course_lib.models.recurrent.LSTM",
    "course_lib.models.recurrent.GRU",
)

# --- before_transformers/em_step ---------------------------------------------------------------


def em_cases(rng: np.random.Generator) -> Iterator[Case]:
    """One pair, several, words that repeat; then words that do not occur, a pair with no source word."""
    yield _em_case(rng, "one pair", [(2, 3)], 4, 4)
    yield _em_case(rng, "three pairs", [(3, 3), (2, 4), (4, 2)], 6, 6)
    yield _em_case(rng, "words that repeat", [(6, 5), (5, 6)], 4, 3)
    yield _em_case(rng, "source words that do not occur", [(2, 2), (3, 3)], 9, 5, hidden=True)
    yield _em_case(rng, "a pair with no source word", [(0, 3), (2, 2)], 4, 5, hidden=True)
    yield _em_case(rng, "twenty pairs", [(5, 6)] * 20, 12, 15, hidden=True)


def _em_case(
    rng: np.random.Generator,
    name: str,
    lengths: Sequence[tuple[int, int]],
    num_sources: int,
    num_targets: int,
    hidden: bool = False,
) -> Case:
    """Sentences of words drawn at random, and a table whose rows sum to 1; source word 0 is NULL."""
    sources = [rng.integers(1, num_sources, size=length) for length, _ in lengths]
    targets = [rng.integers(0, num_targets, size=length) for _, length in lengths]
    if max(length for length, _ in lengths) > 4:
        for sentence in (sources[0], targets[0]):
            sentence[1] = sentence[0]
    table = rng.dirichlet(np.full(num_targets, 2.0), size=num_sources)
    return Case(name, {"sources": sources, "targets": targets, "table": table}, hidden)


def em_steps(case: Case) -> Mapping[str, np.ndarray]:
    """For the first pair: its part of the table, the sum for each target word, and the shares."""
    source, target = case["sources"][0], case["targets"][0]
    block = case["table"][np.append(0, source)][:, target]
    steps = {"the first pair's part of the table (NULL and source words by target words)": block}
    steps |= {"the sum over NULL and source words for each of its target words": block.sum(0)}
    return steps | {"the share of each of them in each target word": block / block.sum(0)}


def _em(
    *,
    has_null: bool = True,
    share: Callable[[Tensor], Tensor] = lambda block: block / block.sum(dim=0),
    distinct: bool = False,
    overwrites: bool = False,
    fresh: bool = True,
    maximise: Callable[[Tensor], Tensor] = lambda counts: counts / counts.sum(dim=1, keepdim=True),
    unseen: str = "kept",
    swapped: bool = False,
) -> Callable[..., Any]:
    """One EM step with at most one thing wrong; by default nothing is."""

    def em_step(pairs: Pairs, table: Tensor) -> tuple[Tensor, ...]:
        counts = torch.zeros_like(table) if fresh else table.clone()
        for source, target in pairs:
            words = F.pad(source, (1, 0)) if has_null else source
            if distinct:
                words, target = words.unique(), target.unique()
            shares = share(table[words][:, target])
            if overwrites:
                counts[words[:, None], target] += shares
            else:
                counts.index_put_((words[:, None], target), shares, accumulate=True)
        found = maximise(counts)
        rest = table if unseen == "kept" else torch.zeros_like(table)
        found = torch.where(counts.sum(dim=1, keepdim=True) > 0, found, rest)
        return (found, counts) if swapped else (counts, found)

    return em_step


def _em_by_loops(pairs: Pairs, table: Tensor) -> tuple[Tensor, Tensor]:
    counts = [[0.0] * table.shape[1] for _ in table]
    for source, target in pairs:
        words = [0, *source.tolist()]
        for f in target.tolist():
            total = sum(float(table[e, f]) for e in words)
            for e in words:
                counts[e][f] += float(table[e, f]) / total
    rows = [
        [count / sum(row) for count in row] if sum(row) else old.tolist()
        for row, old in zip(counts, table, strict=True)
    ]
    return torch.tensor(counts, dtype=table.dtype), torch.tensor(rows, dtype=table.dtype)


def _em_by_one_hot(pairs: Pairs, table: Tensor) -> tuple[Tensor, Tensor]:
    counts = torch.zeros_like(table)
    for source, target in pairs:
        left = F.one_hot(F.pad(source, (1, 0)), table.shape[0]).to(table)
        right = F.one_hot(target, table.shape[1]).to(table)
        posterior = F.normalize(left @ table @ right.T, p=1, dim=0)
        counts = counts + left.T @ posterior @ right
    seen = counts.sum(dim=1) > 0
    updated = table.clone()
    updated[seen] = F.normalize(counts[seen], p=1, dim=1)
    return counts, updated


def _hardened(block: Tensor) -> Tensor:
    return F.one_hot(block.argmax(dim=0), len(block)).T.to(block)


EM_STEP = Exercise(
    id="before_transformers/em_step",
    title="One step of expectation maximisation",
    points=4,
    minutes=45,
    difficulty=3,
    cases=em_cases,
    probe=probes.em_step,
    reference=_em(),
    also_right=(_em_by_loops, _em_by_one_hot),
    steps=em_steps,
    tolerance=Tolerance(absolute=1e-9, relative=1e-7),
    forbidden=LIBRARY,
    misconceptions=(
        Misconception(
            "the shares are taken over the target words",
            _em(share=lambda block: block / block.sum(dim=1, keepdim=True)),
            "Every target word comes from exactly one source word or NULL. So for each *target* word the shares of NULL "
            "and the source words sum to 1, not for each source word those of the target words.",
        ),
        Misconception(
            "the table's entries are counted as they are",
            _em(share=lambda block: block),
            "An entry t(f | e) is no share. Divide it by the sum over NULL and all source words of the sentence, so that one "
            "target word counts as one.",
        ),
        Misconception(
            "every pair of words counts the same",
            _em(share=lambda block: torch.full_like(block, 1 / max(1, len(block)))),
            "You share every target word out equally and never look at the table. Equal shares are right in the very first "
            "step only.",
        ),
        Misconception(
            "only the likeliest source word is counted",
            _em(share=_hardened),
            "Expectation gives every source word its share of the count. Giving all of it to the likeliest one is another "
            "algorithm, which settles too early.",
        ),
        Misconception(
            "there is no NULL",
            _em(has_null=False),
            "Some target words translate nothing. NULL, word 0, stands in front of every source sentence: put it there.",
        ),
        Misconception(
            "the counts are not reset",
            _em(fresh=False),
            "The counts of a step begin at zero. Yours begin with the old table in them.",
        ),
        Misconception(
            "words that repeat are counted once",
            _em(distinct=True),
            "A word that stands twice in a sentence is there twice: both places take part in the sum, and both target "
            "places are counted.",
        ),
        Misconception(
            "words that repeat overwrite each other",
            _em(overwrites=True),
            "`counts[words, targets] += shares` adds only once where the same entry is named twice. Use `index_put_` with "
            "`accumulate=True`, or a loop.",
        ),
        Misconception(
            "the new table is normalised over the wrong side",
            _em(maximise=lambda counts: counts / counts.sum(dim=0).clamp(min=1e-300)),
            "t(f | e) says what a source word becomes: for each source word, a row of the table, the target words sum to 1.",
        ),
        Misconception(
            "the new table is normalised over everything",
            _em(maximise=lambda counts: counts / counts.sum()),
            "Each source word has a distribution of its own: divide each row of the counts by its own sum.",
        ),
        Misconception(
            "the counts are not normalised",
            _em(maximise=lambda counts: counts),
            "The M-step turns counts into probabilities: divide each row by its sum.",
        ),
        Misconception(
            "source words that do not occur lose their row",
            _em(unseen="zeros"),
            "Of a source word that does not occur nothing was learned. It keeps the row that it had.",
        ),
        Misconception(
            "the table comes first",
            _em(swapped=True),
            "Return the expected counts first, then the new table: `return counts, table`.",
        ),
    ),
    hints=(
        "Take one pair and one target word f. Which numbers of the table say how likely it comes from NULL, from the first "
        "source word, from the second …? What must their shares sum to?",
        "For one pair: `words = F.pad(source, (1, 0))` puts NULL in front, `block = table[words][:, target]` is its part of "
        "the table, and `block / block.sum(dim=0)` are the shares.",
        "Add the shares up with `counts.index_put_((words[:, None], target), shares, accumulate=True)`, so that repeated words "
        "are added, too. Then divide each row by its sum, where that is not 0.",
    ),
)

# --- before_transformers/next_word -------------------------------------------------------------


def next_word_cases(rng: np.random.Generator) -> Iterator[Case]:
    """No context, one word, two; then contexts never seen, at the very end of the text, longer than it."""
    yield _next_word_case(rng, "no context", 40, 5, ())
    yield _next_word_case(rng, "one word of context", 60, 5, (1,))
    yield _next_word_case(rng, "two words of context", 160, 4, (2, 1))
    yield _next_word_case(rng, "the first of two words never seen", 60, 6, (5, 1))
    yield _next_word_case(rng, "the context ends the text, too", 60, 5, (1, 2), ending=(1, 2))
    yield _next_word_case(rng, "a word never seen", 50, 7, (6,), hidden=True)
    yield _next_word_case(rng, "the nearer of two words never seen", 50, 6, (1, 5), hidden=True)
    yield _next_word_case(rng, "three words of context", 400, 3, (1, 1, 2), hidden=True)
    yield _next_word_case(rng, "a context longer than the text", 3, 3, (0, 1, 0, 1, 0), hidden=True)
    yield _next_word_case(rng, "a text of one word", 1, 4, (1,), hidden=True)


def _next_word_case(
    rng: np.random.Generator,
    name: str,
    length: int,
    vocab_size: int,
    context: tuple[int, ...],
    *,
    ending: tuple[int, ...] = (),
    hidden: bool = False,
) -> Case:
    """A text of the words below 5; where it is long, the context stands in it, followed by several words."""
    words = min(vocab_size, 5)
    ids = rng.choice(words, size=length, p=rng.dirichlet(np.full(words, 8.0)))
    if length >= 40 and all(word < words for word in context):
        for place in range(0, 4 * (len(context) + 1), len(context) + 1):
            ids[place : place + len(context)] = context
        if not ending:  # The text ends otherwise, so that only the case made for it tells the count apart.
            ids[-1] = (context[-1] + 1) % words if context else ids[-1]
    if ending:
        ids[-len(ending) :] = ending
    inputs: dict[str, Any] = {"ids": ids.astype(np.int64), "context": np.array(context, dtype=np.int64)}
    inputs |= {"vocab_size": vocab_size, "k": float(rng.uniform(0.1, 0.9))}
    return Case(name, inputs | {"weight": float(rng.uniform(0.6, 0.9))}, hidden)


def _next_word(
    *,
    base: Callable[[Tensor, int, float], Tensor] = lambda counts, v, k: (counts + k) / (counts.sum() + k * v),
    suffix: Callable[[list[int], int], list[int]] = lambda context, length: context[len(context) - length :],
    lengths: Callable[[int], Sequence[int]] = lambda longest: range(1, longest + 1),
    mix: Callable[[Tensor, Tensor, float], Tensor] = lambda own, shorter, weight: (
        weight * own + (1 - weight) * shorter
    ),
    own: Callable[[Tensor, int, float], Tensor] = lambda counts, v, k: counts / counts.sum(),
    unseen: Callable[[Tensor, float], Tensor] = lambda shorter, weight: shorter,
    at_the_end: bool = False,
    finish: Callable[[Tensor], Tensor] = lambda found: found,
) -> Callable[..., Tensor]:
    """The distribution with at most one thing wrong; by default nothing is."""

    def next_word(ids: Tensor, vocab_size: int, context: Tensor, k: float, weight: float) -> Tensor:
        text, given = ids.tolist(), context.tolist()
        found = base(torch.bincount(ids, minlength=vocab_size).double(), vocab_size, k)
        for length in lengths(len(given)):
            history = suffix(given, length)
            counts = torch.zeros(vocab_size, dtype=torch.float64)
            for start in range(len(text) - length):
                if text[start : start + length] == history:
                    counts[text[start + length]] += 1
            if counts.sum() == 0:
                found = unseen(found, weight)
                continue
            shares = own(counts, vocab_size, k)
            if at_the_end and text[len(text) - length :] == history:
                shares = counts / (counts.sum() + 1)
            found = mix(shares, found, weight)
        return finish(found)

    return next_word


def _next_word_by_windows(ids: Tensor, vocab_size: int, context: Tensor, k: float, weight: float) -> Tensor:
    found = (torch.bincount(ids, minlength=vocab_size) + k).double()
    found = found / found.sum()
    for length in range(1, min(len(context), len(ids) - 1) + 1):
        windows = ids.unfold(0, length + 1, 1)
        following = windows[(windows[:, :-1] == context[-length:]).all(dim=1), -1]
        if len(following):
            shares = torch.bincount(following, minlength=vocab_size).double() / len(following)
            found = torch.lerp(found, shares, weight)
    return found


def _next_word_by_recursion(ids: Tensor, vocab_size: int, context: Tensor, k: float, weight: float) -> Tensor:
    text, history = ids.tolist(), context.tolist()
    if not history:
        return torch.tensor(
            [(text.count(word) + k) / (len(text) + k * vocab_size) for word in range(vocab_size)],
            dtype=torch.float64,
        )
    shorter = _next_word_by_recursion(ids, vocab_size, context[1:], k, weight)
    n = len(history)
    following = [text[i + n] for i in range(len(text) - n) if text[i : i + n] == history]
    if not following:
        return shorter
    shares = [following.count(word) / len(following) for word in range(vocab_size)]
    return weight * torch.tensor(shares, dtype=torch.float64) + (1 - weight) * shorter


NEXT_WORD = Exercise(
    id="before_transformers/next_word",
    title="The next word, from counts",
    points=3,
    minutes=35,
    difficulty=2,
    cases=next_word_cases,
    probe=probes.next_word,
    reference=_next_word(),
    also_right=(_next_word_by_windows, _next_word_by_recursion),
    tolerance=Tolerance(absolute=1e-9, relative=1e-7),
    forbidden=LIBRARY,
    misconceptions=(
        Misconception(
            "k is added once to the total",
            _next_word(base=lambda counts, v, k: (counts + k) / (counts.sum() + k)),
            "Every word of the vocabulary gets k more, so the total grows by k · vocab_size. Yours sums to more than 1.",
        ),
        Misconception(
            "k is not added at all",
            _next_word(base=lambda counts, v, k: counts / counts.sum()),
            "A word that the text does not have gets probability 0 from you, and the perplexity of any text with it would be "
            "infinite. Add k to every count.",
        ),
        Misconception(
            "k is added at every length",
            _next_word(own=lambda counts, v, k: (counts + k) / (counts.sum() + k * v)),
            "Longer contexts use plain shares, count(h w) / count(h). What they have not seen the shorter context gives "
            "through the mixture; k is added where there is no context.",
        ),
        Misconception(
            "the weights are swapped",
            _next_word(mix=lambda own, shorter, weight: (1 - weight) * own + weight * shorter),
            "`weight` belongs to the longer context, 1 − weight to the shorter one.",
        ),
        Misconception(
            "the context loses its nearest word first",
            _next_word(suffix=lambda context, length: context[:length]),
            "A shorter context keeps the words nearest to the one predicted: drop words from the front, `context[-length:]`.",
        ),
        Misconception(
            "a context never seen still takes its weight",
            _next_word(unseen=lambda shorter, weight: (1 - weight) * shorter),
            "A context that never occurred has nothing to say. Then the shorter one gets all the weight; yours does not "
            "sum to 1.",
        ),
        Misconception(
            "a context never seen says that all words are alike",
            _next_word(unseen=lambda shorter, weight: weight / len(shorter) + (1 - weight) * shorter),
            "A context that never occurred has nothing to say, not even that all words are equally likely. Leave it out of "
            "the mixture.",
        ),
        Misconception(
            "the lengths in between are left out",
            _next_word(lengths=lambda longest: [longest] if longest else []),
            "Between the whole context and none there are the shorter ones. Mix from short to long, each length in turn.",
        ),
        Misconception(
            "the longest context that was seen decides alone",
            _next_word(mix=lambda own, shorter, weight: own),
            "You take the shares of the longest context that occurred, and mix nothing in. Words that never followed it get "
            "probability 0.",
        ),
        Misconception(
            "a context at the end of the text is counted",
            _next_word(at_the_end=True),
            "Where the context stands at the very end of the text, no word follows it. Count(h) is how often *a word* "
            "followed, so that the shares sum to 1.",
        ),
        Misconception(
            "logarithms are returned",
            _next_word(finish=torch.log),
            "Probabilities are asked for, which sum to 1, not their logarithms.",
        ),
    ),
    hints=(
        "Begin without a context: counts of single words, each raised by k, divided by their sum. Then ask what one word of "
        "context changes, and mix.",
        "For each length from 1 to len(context): take the last `length` words of the context, collect the words that follow "
        "them in the text, and turn their counts into shares.",
        "`windows = ids.unfold(0, length + 1, 1)` has every run of length + 1 words. Keep the rows whose beginning equals "
        "`context[-length:]`; mind that a text can be too short for any.",
    ),
)

# --- before_transformers/perplexity ------------------------------------------------------------


def perplexity_cases(rng: np.random.Generator) -> Iterator[Case]:
    """A sentence, sentences of several lengths; then large scores, gaps, one word, float64."""
    yield _perplexity_case(rng, "one sentence", [5], 6)
    yield _perplexity_case(rng, "sentences of different lengths", [7, 2, 4], 9)
    yield _perplexity_case(rng, "a sentence much longer than the other", [11, 1], 5)
    yield _perplexity_case(rng, "scores of some hundreds", [4, 6, 2], 8, scale=250.0, hidden=True)
    yield _perplexity_case(rng, "gaps in the middle", [8, 5, 3], 7, gaps=True, hidden=True)
    yield _perplexity_case(rng, "one single word", [1], 4, hidden=True)
    yield _perplexity_case(rng, "float64", [6, 3], 12, dtype="float64", hidden=True)


def _perplexity_case(
    rng: np.random.Generator,
    name: str,
    lengths: list[int],
    vocab_size: int,
    *,
    scale: float = 2.0,
    gaps: bool = False,
    dtype: str = "float32",
    hidden: bool = False,
) -> Case:
    """Scores; those of some hundreds are near the truth, so that the perplexity stays finite."""
    longest = max(lengths)
    logits = rng.normal(size=(len(lengths), longest, vocab_size)) * min(scale, 2.0)
    targets = rng.integers(0, vocab_size, size=logits.shape[:2])
    if scale > 2.0:
        logits += scale
    mask = np.arange(longest) < np.array(lengths)[:, None]
    if gaps:
        mask[0, 2:4] = mask[1, 0] = False
    # Sentences differ in how well they are predicted, and padding is predicted badly.
    np.put_along_axis(
        logits,
        targets[..., None],
        np.take_along_axis(logits, targets[..., None], 2) + 2.0 * np.arange(len(lengths))[:, None, None],
        2,
    )
    logits[~mask] *= np.float64(1.5)
    return Case(
        name, {"logits": logits.astype(dtype), "targets": targets.astype(np.int64), "mask": mask}, hidden
    )


def _perplexity(
    *,
    log_of: Callable[[Tensor], Tensor] = lambda logits: logits.log_softmax(dim=-1),
    average: Callable[[Tensor, Tensor], Tensor] = lambda logs, mask: logs[mask].mean(),
    finish: Callable[[Tensor], Tensor] = lambda mean: torch.exp(-mean),
    whole: Callable[[Tensor, Tensor], Tensor] | None = None,
    shifted: bool = False,
) -> Callable[..., Tensor]:
    """The perplexity with at most one thing wrong; by default nothing is."""

    def perplexity(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
        targets = targets.roll(-1, dims=1) if shifted else targets
        logs = log_of(logits).gather(2, targets[..., None])[..., 0]
        return finish(average(logs, mask)) if whole is None else whole(logs, mask)

    return perplexity


def _perplexity_by_logsumexp(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    right = torch.take_along_dim(logits, targets.unsqueeze(-1), dim=-1).squeeze(-1)
    losses = torch.logsumexp(logits, dim=-1) - right
    return (torch.where(mask, losses, 0.0).sum() / mask.sum()).exp()


def _perplexity_by_sentences(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    total, words = torch.zeros((), dtype=torch.float64, device=logits.device), 0
    for scores, answers, counted in zip(logits.double(), targets, mask, strict=True):
        probabilities = scores[counted].softmax(dim=-1)
        total += probabilities[torch.arange(len(probabilities)), answers[counted]].log2().sum()
        words += int(counted.sum())
    return (2 ** (-total / words)).to(logits.dtype)


PERPLEXITY = Exercise(
    id="before_transformers/perplexity",
    title="Perplexity",
    points=2,
    minutes=20,
    difficulty=1,
    cases=perplexity_cases,
    probe=probes.perplexity,
    reference=_perplexity(),
    also_right=(_perplexity_by_logsumexp, _perplexity_by_sentences),
    tolerance=Tolerance(absolute=1e-5, relative=2e-4),
    forbidden=(
        *LIBRARY,
        "torch.nn.functional.cross_entropy",
        "torch.nn.functional.nll_loss",
        "torch.nn.CrossEntropyLoss",
        "torch.nn.NLLLoss",
        "aten::nll_loss_forward",
        "aten::cross_entropy_loss",
    ),
    misconceptions=(
        Misconception(
            "padding is counted",
            _perplexity(average=lambda logs, mask: logs.mean()),
            "Where `mask` is False there is no word to predict. Take the mean over the places where it is True.",
        ),
        Misconception(
            "padding counts as predicted perfectly",
            _perplexity(average=lambda logs, mask: torch.where(mask, logs, 0.0).mean()),
            "The sum leaves padding out, but you divide by all places. Divide by how many words were counted, `mask.sum()`.",
        ),
        Misconception(
            "every sentence counts the same",
            _perplexity(
                average=lambda logs, mask: (
                    torch.where(mask, logs, 0.0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
                ).mean()
            ),
            "The mean runs over words, not over sentences: a sentence of ten words counts ten times as much as one of one.",
        ),
        Misconception(
            "the loss is returned",
            _perplexity(finish=lambda mean: -mean),
            "The mean of −ln p is the loss. The perplexity is its exponential.",
        ),
        Misconception(
            "the base is 2, the logarithm natural",
            _perplexity(finish=lambda mean: 2**-mean),
            "2 goes with base-2 logarithms. `log_softmax` is natural, so take `exp`.",
        ),
        Misconception(
            "the sign is lost",
            _perplexity(finish=torch.exp),
            "The exponential of the mean of ln p is the mean probability, at most 1. Perplexity is one over it: exp(−mean).",
        ),
        Misconception(
            "perplexities of words are averaged",
            _perplexity(whole=lambda logs, mask: torch.exp(-logs[mask]).mean()),
            "Take the mean of the logarithms first and the exponential last. One badly predicted word would decide your mean.",
        ),
        Misconception(
            "probabilities are averaged",
            _perplexity(whole=lambda logs, mask: 1 / logs[mask].exp().mean()),
            "The mean is taken of ln p, not of p. A text's probability is a product, whose logarithm is a sum.",
        ),
        Misconception(
            "logarithms are added up, not averaged",
            _perplexity(average=lambda logs, mask: logs[mask].sum() / len(logs)),
            "Perplexity is a number for one word: divide the sum by the number of *words*, not by that of sentences.",
        ),
        Misconception(
            "the scores are taken for logarithms of probabilities",
            _perplexity(log_of=lambda logits: logits),
            "Scores become log-probabilities by `log_softmax` over the vocabulary, the last axis.",
        ),
        Misconception(
            "the softmax runs over the sentence",
            _perplexity(log_of=lambda logits: logits.log_softmax(dim=1)),
            "At each place the words of the vocabulary compete, not the places: `dim=-1`.",
        ),
        Misconception(
            "the targets are shifted once more",
            _perplexity(shifted=True),
            "`targets` already holds the word to be predicted at each place. Do not shift it.",
        ),
    ),
    hints=(
        "Three steps: ln p of the right word at every place, their mean over the words that count, exp of minus that mean.",
        "`logs = logits.log_softmax(dim=-1)`, then `gather` picks the right word's entry at each place: its index needs a last "
        "axis, `targets[..., None]`.",
        "`logs[mask]` keeps the places where mask is True, as one flat row, and `.mean()` of it weighs every word equally.",
    ),
)

# --- before_transformers/lstm_cell -------------------------------------------------------------


def lstm_cases(rng: np.random.Generator) -> Iterator[Case]:
    """One step, several, a forget bias; then one sentence, width 1, large inputs, float64."""
    yield _lstm_case(rng, "one step from zeros", 1, 2, 3, 4, zeros=True)
    yield _lstm_case(rng, "one step from a state", 1, 3, 4, 3)
    yield _lstm_case(rng, "three steps", 3, 2, 3, 5)
    yield _lstm_case(rng, "two steps, a forget bias", 2, 2, 4, 3, forget_bias=1.5)
    yield _lstm_case(rng, "one sentence, width 1", 2, 1, 2, 1, hidden=True)
    # Not so wide that exp(−x) overflows in a sigmoid by its formula, which is right as well.
    yield _lstm_case(rng, "gates wide open and shut", 2, 3, 3, 4, scale=2.0, hidden=True)
    yield _lstm_case(rng, "a negative forget bias", 3, 2, 3, 3, forget_bias=-2.0, hidden=True)
    yield _lstm_case(rng, "float64", 4, 2, 5, 6, dtype="float64", hidden=True)


def _lstm_case(
    rng: np.random.Generator,
    name: str,
    steps: int,
    batch: int,
    d_in: int,
    d_hidden: int,
    *,
    forget_bias: float | None = None,
    zeros: bool = False,
    scale: float = 1.0,
    dtype: str = "float32",
    hidden: bool = False,
) -> Case:
    """forget_bias: left to its default when None."""

    def draw(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) * scale).astype(dtype)

    states = {"hidden": np.tanh(draw(batch, d_hidden)), "cell": draw(batch, d_hidden)}
    inputs: dict[str, Any] = {"inputs": [draw(batch, d_in) for _ in range(steps)]}
    inputs |= {part: np.zeros_like(values) if zeros else values for part, values in states.items()}
    inputs |= {"weight_input": draw(4 * d_hidden, d_in), "weight_hidden": draw(4 * d_hidden, d_hidden)}
    inputs |= {"bias": draw(4 * d_hidden), "forget_bias": forget_bias}
    inputs |= {"to_hidden": draw(batch, d_hidden), "to_cell": draw(batch, d_hidden)}
    return Case(name, inputs, hidden)


def lstm_steps(case: Case) -> Mapping[str, np.ndarray]:
    """The first step: what goes into the gates, the gates, the cell and the hidden state."""
    forget_bias = case["forget_bias"] or 0.0
    before = (
        case["inputs"][0] @ case["weight_input"].T + case["hidden"] @ case["weight_hidden"].T + case["bias"]
    )
    enter, keep, candidate, show = np.split(before, 4, axis=1)

    def sigmoid(values: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-values))

    cell = sigmoid(keep + forget_bias) * case["cell"] + sigmoid(enter) * np.tanh(candidate)
    steps = {"what goes into the four gates, in the first step": before}
    steps |= {"the input gate": sigmoid(enter), "the forget gate": sigmoid(keep + forget_bias)}
    steps |= {"the candidate": np.tanh(candidate), "the output gate": sigmoid(show)}
    return steps | {"the new cell": cell, "the new hidden state": sigmoid(show) * np.tanh(cell)}


def _lstm(
    *,
    order: str = "ifgo",
    recurrent: Callable[[Tensor, Tensor], Tensor] = lambda hidden, cell: hidden,
    biased: str = "f",
    candidate_of: Callable[[Tensor], Tensor] = torch.tanh,
    squash: Callable[[Tensor], Tensor] = torch.tanh,
    keep: str = "f",
    gates: Callable[[Tensor], Tensor] = torch.sigmoid,
    has_bias: bool = True,
    shown: str = "new",
    stored: str = "cell",
    swapped: bool = False,
    cut: bool = False,
) -> Callable[..., Any]:
    """An LSTM cell with at most one thing wrong; by default nothing is."""

    def lstm_cell(
        inputs: Tensor,
        hidden: Tensor,
        cell: Tensor,
        weight_input: Tensor,
        weight_hidden: Tensor,
        bias: Tensor,
        forget_bias: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        if cut:
            hidden, cell = hidden.detach(), cell.detach()
        before = inputs @ weight_input.T + recurrent(hidden, cell) @ weight_hidden.T
        before = before + bias if has_bias else before
        parts = dict(zip(order, before.chunk(4, dim=-1), strict=True))
        if biased:
            parts[biased] = parts[biased] + forget_bias
        i, f, o = (gates(parts[name]) for name in "ifo")
        share = {"f": f, "1 - f": 1 - f, "1 - i": 1 - i}[keep]
        new = share * cell + i * candidate_of(parts["g"])
        out = o * squash(new if shown == "new" else cell)
        kept = new if stored == "cell" else squash(new)
        return (kept, out) if swapped else (out, kept)

    return lstm_cell


def _lstm_by_blocks(
    inputs: Tensor,
    hidden: Tensor,
    cell: Tensor,
    weight_input: Tensor,
    weight_hidden: Tensor,
    bias: Tensor,
    forget_bias: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """One product for both, of [input, hidden], and the four blocks cut by hand."""
    both = torch.cat([inputs, hidden], dim=1)
    before = F.linear(both, torch.cat([weight_input, weight_hidden], dim=1), bias)
    width = hidden.shape[1]
    enter = 1 / (1 + torch.exp(-before[:, :width]))
    keep = 1 / (1 + torch.exp(-(before[:, width : 2 * width] + forget_bias)))
    candidate = 2 * torch.sigmoid(2 * before[:, 2 * width : 3 * width]) - 1
    show = 1 / (1 + torch.exp(-before[:, 3 * width :]))
    new_cell = torch.addcmul(enter * candidate, keep, cell)
    return show * torch.tanh(new_cell), new_cell


def _lstm_by_einsum(
    inputs: Tensor,
    hidden: Tensor,
    cell: Tensor,
    weight_input: Tensor,
    weight_hidden: Tensor,
    bias: Tensor,
    forget_bias: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Gates on an axis of their own."""
    width = hidden.shape[-1]
    before = torch.einsum("bi,ghi->gbh", inputs, weight_input.unflatten(0, (4, width)))
    before = before + torch.einsum("bk,ghk->gbh", hidden, weight_hidden.unflatten(0, (4, width)))
    before = before + bias.view(4, 1, width)
    shift = torch.tensor([0.0, forget_bias, 0.0, 0.0], dtype=bias.dtype, device=bias.device)
    i, f, _, o = torch.sigmoid(before + shift[:, None, None])
    new = f * cell + i * before[2].tanh()
    return o * new.tanh(), new


LSTM_CELL = Exercise(
    id="before_transformers/lstm_cell",
    title="An LSTM cell",
    points=4,
    minutes=40,
    difficulty=3,
    cases=lstm_cases,
    probe=probes.lstm_cell,
    reference=_lstm(),
    also_right=(_lstm_by_blocks, _lstm_by_einsum),
    steps=lstm_steps,
    tolerance=Tolerance(absolute=5e-5, relative=2e-4),
    forbidden=(
        *LIBRARY,
        "torch.nn.RNNBase",
        "torch.nn.RNNCellBase",
        "torch.nn.LSTM",
        "torch.nn.LSTMCell",
        "torch.lstm",
        "torch.lstm_cell",
        # What a cell of torch is made of, on a GPU and on a CPU; nobody writes them by hand.
        "aten::_thnn_fused_lstm_cell",
        "aten::unsafe_split",
    ),
    gpu=True,
    misconceptions=(
        Misconception(
            "the forget gate comes before the input gate",
            _lstm(order="figo"),
            "The blocks of the weights come in the order input gate, forget gate, candidate, output gate. You have the "
            "first two the other way round.",
        ),
        Misconception(
            "the candidate comes last",
            _lstm(order="ifog"),
            "The blocks come in the order input gate, forget gate, candidate, output gate: the candidate is the third, the "
            "output gate the last.",
        ),
        Misconception(
            "the candidate is a gate, too",
            _lstm(candidate_of=torch.sigmoid),
            "The three gates go through the sigmoid. The candidate is what is written, and goes through tanh, so that it may "
            "be negative.",
        ),
        Misconception(
            "the gates go through tanh",
            _lstm(gates=torch.tanh),
            "A gate lies between 0, shut, and 1, open: that is the sigmoid's range. tanh is for the candidate and for the "
            "cell that is shown.",
        ),
        Misconception(
            "the cell is shown without tanh",
            _lstm(squash=lambda cell: cell),
            "The hidden state is output gate · tanh(cell). Without tanh it has no limit, since the cell adds up.",
        ),
        Misconception(
            "the cell is stored after tanh",
            _lstm(stored="squashed"),
            "tanh belongs to what is shown. The cell itself is kept as it is: squashed at every step it would fade.",
        ),
        Misconception(
            "the old cell is shown",
            _lstm(shown="old"),
            "The hidden state shows the *new* cell: compute that first.",
        ),
        Misconception(
            "the forget gate says how much is forgotten",
            _lstm(keep="1 - f"),
            "The name misleads: the forget gate multiplies the old cell, so 1 keeps everything and 0 forgets it.",
        ),
        Misconception(
            "what is kept is one minus the input gate",
            _lstm(keep="1 - i"),
            "Keeping and writing have a gate each in an LSTM. One gate for both is the idea of the GRU.",
        ),
        Misconception(
            "the gates read the cell",
            _lstm(recurrent=lambda hidden, cell: cell),
            "`weight_hidden` multiplies the hidden state. The cell never meets a weight: it is only kept, added to and shown.",
        ),
        Misconception(
            "the bias is left out",
            _lstm(has_bias=False),
            "`bias` is added to what goes into the four gates, before the sigmoid and tanh.",
        ),
        Misconception(
            "the forget bias is left out",
            _lstm(biased=""),
            "`forget_bias` is added to what goes into the forget gate, before its sigmoid.",
        ),
        Misconception(
            "the forget bias goes to the input gate",
            _lstm(biased="i"),
            "`forget_bias` belongs to the forget gate, the second block, not to the first.",
        ),
        Misconception(
            "the cell comes first",
            _lstm(swapped=True),
            "The hidden state stands first in the tuple, then the cell: `return hidden, cell`.",
        ),
        Misconception(
            "the gradient does not reach the steps before",
            _lstm(cut=True),
            "The states are cut off from their history. Gradients must flow through `hidden` and `cell`, or nothing is "
            "learned through time: no `detach` here.",
        ),
    ),
    hints=(
        "Everything that goes into the gates is one sum: inputs times weight_input transposed, plus hidden times "
        "weight_hidden transposed, plus bias. Its shape is (b, 4h).",
        "`i, f, g, o = before.chunk(4, dim=-1)`. Then the cell is kept and added to: sigmoid(f + forget_bias) · cell + "
        "sigmoid(i) · tanh(g).",
        "The new hidden state is sigmoid(o) · tanh(new cell). Return it first, then the new cell, which itself went through "
        "no tanh.",
    ),
)

# --- before_transformers/clip_gradients --------------------------------------------------------


def clip_cases(rng: np.random.Generator) -> Iterator[Case]:
    """A norm too large, one small enough, several shapes; then no gradient, zeros, tiny and huge bounds."""
    yield _clip_case(rng, "two parameters, a norm too large", [(3,), (2, 2)], 0.5)
    yield _clip_case(rng, "a norm that is small enough", [(4,), (2, 3)], 2.5)
    yield _clip_case(rng, "large and small gradients side by side", [(3, 4), (5,)], 0.2, spread=30.0)
    yield _clip_case(rng, "a parameter without gradient", [(3,), (2,), (4, 2)], 0.6, without=1)
    yield _clip_case(rng, "gradients of zeros", [(2,), (3,)], 1.0, size=0.0, hidden=True)
    yield _clip_case(rng, "one parameter with no axes", [()], 0.3, hidden=True)
    yield _clip_case(rng, "gradients that exploded", [(4, 4), (4,)], 1e-3, size=1e5, hidden=True)
    yield _clip_case(rng, "small gradients, clipped", [(4, 3), (6,)], 0.4, size=0.01, hidden=True)
    yield _clip_case(rng, "small gradients that are left alone", [(4,), (3,)], 40.0, size=0.01, hidden=True)


def _clip_case(
    rng: np.random.Generator,
    name: str,
    shapes: list[tuple[int, ...]],
    share: float,
    *,
    size: float = 1.0,
    spread: float = 1.0,
    without: int | None = None,
    hidden: bool = False,
) -> Case:
    """share: the bound, as a multiple of the norm of all gradients together (and 1 where they are zero)."""
    gradients: list[np.ndarray | None] = [
        np.asarray(rng.uniform(0.3, 1.5, size=shape) * rng.choice([-1, 1], size=shape) * size * own).astype(
            "float32"
        )
        for shape, own in zip(shapes, [spread, *[1.0] * len(shapes)], strict=False)
    ]
    if without is not None:
        gradients[without] = None
    parts = [np.square(gradient.astype("float64")).sum() for gradient in gradients if gradient is not None]
    norm = math.sqrt(sum(parts))
    parameters = [np.asarray(rng.normal(size=shape), dtype="float32") for shape in shapes]
    inputs = {"parameters": parameters, "gradients": gradients, "max_norm": float(share * norm or share)}
    return Case(name, inputs, hidden)


def _global_norm(gradients: list[Tensor]) -> Tensor:
    return torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()


def _clip(
    *,
    norm_of: Callable[[list[Tensor]], Tensor] = _global_norm,
    factor_of: Callable[[Tensor, float], Tensor] = lambda norm, bound: (bound / norm).clamp(max=1.0),
    returned: str = "before",
    copies: bool = False,
) -> Callable[..., Any]:
    """Clipping with at most one thing wrong; by default nothing is."""

    def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = norm_of(gradients)
        factor = torch.where(norm > 0, factor_of(norm, max_norm), 1.0)
        for gradient in gradients:
            if copies:
                gradient = gradient.clone()
            gradient.mul_(factor)
        return {"before": norm, "after": norm * factor, "the factor": factor}[returned]

    return clip_gradients


def _clip_one_by_one(parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
    squares = torch.zeros(())
    for parameter in parameters:
        if parameter.grad is not None:
            norm = parameter.grad.norm()
            squares = squares + norm**2
            parameter.grad.mul_((max_norm / norm.clamp(min=1e-30)).clamp(max=1.0))
    return squares.sqrt()


def _clip_by_value(parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
    norm = _clip()(parameters, math.inf)
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.clamp_(-max_norm, max_norm)
    return norm


def _clip_parameters(parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
    norm = _clip()(parameters, math.inf)
    factor = (max_norm / norm.clamp(min=1e-30)).clamp(max=1.0)
    with torch.no_grad():
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.mul_(factor)
    return norm


def _clip_by_flattening(parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.cat([gradient.flatten() for gradient in gradients]))
    if norm > max_norm:
        for gradient in gradients:
            gradient *= max_norm / norm
    return norm


def _clip_with_eps(parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
    norms = torch.stack([p.grad.norm() for p in parameters if p.grad is not None])
    norm = torch.hypot(norms[0], norms[1:].norm()) if len(norms) > 1 else norms[0]
    factor = min(1.0, max_norm / (float(norm) + 1e-12))
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad = parameter.grad * factor
    return norm


CLIP = Exercise(
    id="before_transformers/clip_gradients",
    title="Clipping by the global norm",
    points=2,
    minutes=20,
    difficulty=2,
    cases=clip_cases,
    probe=probes.clip_gradients,
    reference=_clip(),
    also_right=(_clip_by_flattening, _clip_with_eps),
    tolerance=Tolerance(absolute=1e-7, relative=1e-4),
    forbidden=(
        *LIBRARY,
        "torch.nn.utils.clip_grad_norm_",
        "torch.nn.utils.clip_grads_with_norm_",
        "torch.nn.utils.get_total_norm",
        "torch.nn.utils.clip_grad.clip_grad_norm",
    ),
    misconceptions=(
        Misconception(
            "each gradient is clipped on its own",
            _clip_one_by_one,
            "There is one norm, of all gradients together, and one factor for all of them. Clipped on their own they no "
            "longer point in the same direction.",
        ),
        Misconception(
            "each number is clipped on its own",
            _clip_by_value,
            "Numbers cut off at ±max_norm turn the gradient's direction. Clipping by norm multiplies all numbers by the same "
            "factor.",
        ),
        Misconception(
            "small gradients are scaled up",
            _clip(factor_of=lambda norm, bound: bound / norm),
            "A gradient whose norm is below max_norm is left alone: the factor is never above 1.",
        ),
        Misconception(
            "the norms are added up",
            _clip(norm_of=lambda gradients: sum((g.norm() for g in gradients), torch.zeros(()))),
            "Norms do not add up, their squares do: the global norm is the root of the sum of *all* squared numbers.",
        ),
        Misconception(
            "the root is left out",
            _clip(norm_of=lambda gradients: sum((g.square().sum() for g in gradients), torch.zeros(()))),
            "That is the squared norm. Take its root.",
        ),
        Misconception(
            "absolute values are added up",
            _clip(norm_of=lambda gradients: sum((g.abs().sum() for g in gradients), torch.zeros(()))),
            "The norm is the root of the sum of squares, not the sum of absolute values.",
        ),
        Misconception(
            "the largest number is taken for the norm",
            _clip(norm_of=lambda gradients: torch.stack([g.abs().amax() for g in gradients]).amax()),
            "The largest entry is another norm. Here it is the root of the sum of all squared numbers.",
        ),
        Misconception(
            "the squares are averaged",
            _clip(
                norm_of=lambda gradients: torch.cat([g.flatten() for g in gradients]).square().mean().sqrt()
            ),
            "The squares are added up, not averaged: a norm grows with the number of parameters.",
        ),
        Misconception(
            "the norm after clipping is returned",
            _clip(returned="after"),
            "Return the norm as it was *before* clipping. After it, the norm says nothing that you did not know.",
        ),
        Misconception(
            "the factor is returned",
            _clip(returned="the factor"),
            "Return the global norm before clipping, not the factor.",
        ),
        Misconception(
            "the factor is turned round",
            _clip(factor_of=lambda norm, bound: (norm / bound).clamp(max=1.0)),
            "The factor is max_norm / norm: a norm twice too large is halved.",
        ),
        Misconception(
            "copies are clipped",
            _clip(copies=True),
            "The gradients that the optimizer will read are unchanged. Scale `parameter.grad` itself, in place or by "
            "assigning to it.",
        ),
        Misconception(
            "the parameters are scaled",
            _clip_parameters,
            "It is the gradients, `parameter.grad`, that are scaled. The parameters stay as they are.",
        ),
    ),
    hints=(
        "Think of all gradients as one long vector. How long is it? By which one factor does it become max_norm long, and "
        "when should nothing happen?",
        "Collect `parameter.grad` of all parameters that have one. The norm is the root of the sum of the sums of their "
        "squares.",
        "The factor is `max_norm / norm` where norm is larger than max_norm, and 1 otherwise. Multiply every gradient in "
        "place with `grad.mul_(factor)`, and return the norm.",
    ),
)

# --- before_transformers/how_far_back ----------------------------------------------------------

DEFAULT_THRESHOLD = 0.01


def far_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Networks that forget fast and slowly, that remember, that explode; then other thresholds, few steps."""
    yield _far_case(rng, "a network that forgets", 30, gain=0.5, keep=0.0)
    yield _far_case(rng, "a network that remembers", 20, gain=0.1, keep=0.96)
    yield _far_case(rng, "a network that explodes", 30, gain=0.0, keep=0.0, linear=1.35)
    yield _far_case(rng, "two memories, one long and one short", 24, gain=0.1, keep=0.0, mixed=True)
    yield _far_case(rng, "a high threshold", 25, gain=0.2, keep=0.7, threshold=0.2, hidden=True)
    turning: dict[str, Any] = {"gain": 0.0, "keep": 0.0, "rotating": True, "threshold": 0.7}
    yield _far_case(rng, "influence that comes and goes", 26, **turning)
    yield _far_case(rng, "three steps", 3, gain=0.3, keep=0.5, hidden=True)


def _far_case(
    rng: np.random.Generator,
    name: str,
    steps: int,
    *,
    gain: float,
    keep: float,
    linear: float = 0.0,
    mixed: bool = False,
    rotating: bool = False,
    threshold: float | None = None,
    hidden: bool = False,
) -> Case:
    """A step is keep · hidden + tanh(x · weight_input + hidden · weight_hidden).

    Drawn again while a share of the influence lies so near the threshold that rounding could decide.
    """
    while True:
        width, batch = 6, 3
        scale = 1e-6 if linear or rotating else 1.0  # So near zero tanh is the identity.
        turn = np.linalg.qr(rng.normal(size=(width, width)))[0]
        weight_hidden = gain * rng.normal(size=(width, width)) / math.sqrt(width) + linear * turn
        keeps = np.full(width, keep)
        if mixed:
            keeps[: width // 2], keeps[width // 2 :] = 0.35, 0.9
        direction = rng.normal(size=(batch, width))
        weight_input = rng.normal(size=(width, width)) / math.sqrt(width)
        if rotating:
            weight_hidden, weight_input, direction = _rotation(rng, width, batch)
        inputs = {
            "inputs": scale * rng.normal(size=(steps, batch, width)),
            "hidden": scale * rng.normal(size=(batch, width)),
            "direction": direction,
            "weight_input": weight_input,
            "weight_hidden": weight_hidden,
            "keep": keeps,
            "threshold": threshold,
        }
        case = Case(name, inputs, hidden)
        if _is_clear(case):
            return case


def _rotation(rng: np.random.Generator, width: int, batch: int) -> tuple[np.ndarray, ...]:
    """The state turns in one plane, and inputs enter along one axis of it: each few steps they count less.

    The influence is |cos(phase + k · angle)| · shrink^k: near zero at k = 1, at its largest at k = 4.
    """
    angle, phase, shrink = rng.uniform(0.49, 0.505), math.pi / 3, 0.95
    turn, weight_input, direction = (
        np.zeros((width, width)),
        np.zeros((width, width)),
        np.zeros((batch, width)),
    )
    turn[:2, :2] = shrink * np.array(
        [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
    )
    weight_input[:, 0] = 1.0
    direction[:, :2] = math.cos(phase), -math.sin(phase)
    return turn, weight_input, direction


def _is_clear(case: Case) -> bool:
    """Whether no comparison that the answer makes is close."""
    influence = np.asarray(probes.how_far_back(_far, case)["the table of influences"])
    threshold = DEFAULT_THRESHOLD if case["threshold"] is None else case["threshold"]
    shares = influence / influence[0]
    return (
        np.abs(np.log(np.maximum(shares, 1e-300) / threshold)).min() > 0.02
        and abs(math.log(max(shares[-1], 1e-300) / 100)) > 0.1
    )


def _influence(
    step: Callable[..., Tensor], inputs: Tensor, hidden: Tensor, direction: Tensor
) -> list[Tensor]:
    """The gradients by the inputs, from the last to the first."""
    given = inputs.detach().clone().requires_grad_()
    for x in given:
        hidden = step(x, hidden)
    (gradient,) = torch.autograd.grad((hidden * direction).sum(), given)
    return list(gradient.flip(0))


def _half_life(influence: Tensor, base: Callable[[Tensor], Tensor] = torch.log) -> float:
    slope = float(np.polyfit(np.arange(len(influence)), base(influence).numpy(), 1)[0])
    return -math.log(2) / slope if slope < 0 else math.inf


def _reach(influence: Tensor, threshold: float) -> int:
    return int((influence >= threshold * influence[0]).nonzero().max()) + 1


def _verdict(influence: Tensor, reach: int) -> str:
    if influence[-1] > 100 * influence[0]:
        return "explodes"
    return "remembers" if reach == len(influence) else "forgets"


def _far_back(
    *,
    gradients: Callable[..., list[Tensor]] = _influence,
    measure: Callable[[Tensor], Tensor] = lambda gradient: gradient.norm(),
    reach_of: Callable[[Tensor, float], int] = _reach,
    half_life_of: Callable[[Tensor], float] = _half_life,
    verdict_of: Callable[[Tensor, int], str] = _verdict,
) -> Callable[..., Any]:
    """The reference, whose parts the misconceptions replace one at a time."""

    def how_far_back(
        step: Callable[..., Tensor],
        inputs: Tensor,
        hidden: Tensor,
        direction: Tensor,
        threshold: float = DEFAULT_THRESHOLD,
    ) -> tuple[Tensor, int, float, str]:
        found = gradients(step, inputs, hidden, direction)
        influence = torch.stack([measure(gradient) for gradient in found])
        reach = reach_of(influence, threshold)
        return influence, reach, half_life_of(influence), verdict_of(influence, reach)

    return how_far_back


_far = _far_back()


def _far_by_leaves(
    step: Callable[..., Tensor],
    inputs: Tensor,
    hidden: Tensor,
    direction: Tensor,
    threshold: float = DEFAULT_THRESHOLD,
) -> tuple[Tensor, int, float, str]:
    """Every input a leaf of its own; the line by its formula; the reach by a loop from the far end."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    state = hidden
    for x in leaves:
        state = step(x, state)
    state.backward(direction)
    norms = [math.sqrt(float(x.grad.square().sum())) for x in reversed(leaves) if x.grad is not None]
    reach = len(norms)
    while norms[reach - 1] < threshold * norms[0]:
        reach -= 1
    middle = (len(norms) - 1) / 2
    logs = [math.log(norm) for norm in norms]
    slope = sum((k - middle) * log for k, log in enumerate(logs))
    slope /= sum((k - middle) ** 2 for k in range(len(norms)))
    half_life = math.inf if slope >= 0 else math.log(0.5) / slope
    verdict = "forgets" if reach < len(norms) else "remembers"
    if norms[-1] > 100 * norms[0]:
        verdict = "explodes"
    return torch.tensor(norms, dtype=torch.float64), reach, half_life, verdict


def _far_by_steps(
    step: Callable[..., Tensor],
    inputs: Tensor,
    hidden: Tensor,
    direction: Tensor,
    threshold: float = DEFAULT_THRESHOLD,
) -> tuple[Tensor, int, float, str]:
    """Backpropagation through time by hand: the gradient is carried from each step to the one before."""
    states = [hidden]
    for x in inputs:
        states.append(step(x, states[-1]).detach())
    carried, norms = direction, []
    for x, state in zip(inputs.flip(0), reversed(states[:-1]), strict=True):
        leaves = x.clone().requires_grad_(), state.clone().requires_grad_()
        of_input, carried = torch.autograd.grad(step(*leaves), leaves, carried)
        norms.append(of_input.norm())
    influence = torch.stack(norms)
    design = torch.stack([torch.arange(len(norms)).double(), torch.ones(len(norms)).double()], dim=1)
    slope = float(torch.linalg.lstsq(design, influence.log()[:, None]).solution[0, 0])
    reach = 1 + max(k for k, norm in enumerate(norms) if norm >= threshold * norms[0])
    return influence, reach, _life(slope), _verdict(influence, reach)


def _life(slope: float) -> float:
    return -math.log(2) / slope if slope < 0 else math.inf


def _by_states(
    step: Callable[..., Tensor], inputs: Tensor, hidden: Tensor, direction: Tensor
) -> list[Tensor]:
    """The gradients by the hidden states after each step, from the last to the first."""
    states = []
    hidden = hidden.detach().requires_grad_()
    for x in inputs:
        hidden = step(x, hidden)
        states.append(hidden)
    return list(torch.autograd.grad((hidden * direction).sum(), states))[::-1]


FAR_BACK = Exercise(
    id="before_transformers/how_far_back",
    title="How far back a network hears",
    points=3,
    minutes=40,
    difficulty=3,
    cases=far_cases,
    probe=probes.how_far_back,
    reference=_far,
    also_right=(_far_by_leaves, _far_by_steps),
    tolerance=Tolerance(absolute=1e-12, relative=1e-6),
    forbidden=LIBRARY,
    misconceptions=(
        Misconception(
            "the influences run from the first input to the last",
            _far_back(gradients=lambda *given: _influence(*given)[::-1]),
            "Entry k is for the input k steps before the last, so entry 0 is the last one's. Turn the order round.",
        ),
        Misconception(
            "the gradients are those of the hidden states",
            _far_back(gradients=_by_states),
            "The question is what each *input* still does to the loss. Ask for the gradients by the inputs, not by the "
            "hidden states.",
        ),
        Misconception(
            "the direction is not used",
            _far_back(
                gradients=lambda step, inputs, hidden, direction: _influence(
                    step, inputs, hidden, torch.ones_like(direction)
                )
            ),
            "The loss is the sum of the last hidden state *times* `direction`, entry by entry.",
        ),
        Misconception(
            "the squares are not rooted",
            _far_back(measure=lambda gradient: gradient.square().sum()),
            "A norm is the root of the sum of the squares. Without it the influence is squared, and seems to fade twice as "
            "fast.",
        ),
        Misconception(
            "the norms are averages over the batch",
            _far_back(measure=lambda gradient: gradient.norm(dim=-1).mean()),
            "There is one norm for the gradient of one input (b, i): the root of the sum of all its squared entries.",
        ),
        Misconception(
            "the reach ends where the influence first falls below",
            _far_back(
                reach_of=lambda influence, threshold: next(
                    (k for k, norm in enumerate(influence) if norm < threshold * influence[0]), len(influence)
                )
            ),
            "Influence can fall and rise again. The reach ends after the *last* entry that is still at the threshold or "
            "above.",
        ),
        Misconception(
            "the reach is one short",
            _far_back(reach_of=lambda influence, threshold: _reach(influence, threshold) - 1),
            "Entry 0 is an input, too: if entry k is the last that counts, then k + 1 inputs count.",
        ),
        Misconception(
            "the threshold is absolute",
            _far_back(
                reach_of=lambda influence, threshold: max(
                    (k + 1 for k, norm in enumerate(influence) if norm >= threshold), default=0
                )
            ),
            "The threshold is a share of the last input's influence: compare with threshold · influence[0].",
        ),
        Misconception(
            "the influence is compared with the largest",
            _far_back(
                reach_of=lambda influence, threshold: _reach(
                    torch.cat([influence.max()[None], influence[1:]]), threshold
                )
            ),
            "Compare with the influence of the last input, entry 0, not with the largest one.",
        ),
        Misconception(
            "the half-life is the time to fall to 1/e",
            _far_back(half_life_of=lambda influence: _half_life(influence) / math.log(2)),
            "−1/slope is the time in which the influence falls to 1/e. It is halved in −ln(2)/slope steps.",
        ),
        Misconception(
            "the line is fitted to the influences themselves",
            _far_back(half_life_of=lambda influence: _half_life(influence, lambda values: values)),
            "What is multiplied at every step is a straight line only in its logarithm: fit the line to ln(influence).",
        ),
        Misconception(
            "the logarithms have different bases",
            _far_back(half_life_of=lambda influence: _half_life(influence, torch.log10)),
            "With base-10 logarithms the half-life is −log10(2)/slope. Use one base for both; `log` is natural.",
        ),
        Misconception(
            "the line goes through the end points alone",
            _far_back(
                half_life_of=lambda influence: _life(
                    float((influence[-1] / influence[0]).log()) / (len(influence) - 1)
                )
            ),
            "The first and the last entry alone make a line, but not the one of least squares, which takes all into account.",
        ),
        Misconception(
            "the half-life of what grows is negative",
            _far_back(
                half_life_of=lambda influence: (
                    -math.log(2) / float(np.polyfit(np.arange(len(influence)), influence.log().numpy(), 1)[0])
                )
            ),
            "Where the line does not fall, the influence is never halved: the half-life is `math.inf`.",
        ),
        Misconception(
            "what explodes is taken for memory",
            _far_back(
                verdict_of=lambda influence, reach: "remembers" if reach == len(influence) else "forgets"
            ),
            'Where the first input has more than 100 times the influence of the last, the verdict is "explodes": ask that '
            "first.",
        ),
    ),
    hints=(
        "Make the inputs need a gradient, run all the steps, multiply the last hidden state by `direction` and sum. One "
        "call of `torch.autograd.grad` gives the gradients of all inputs together, (t, b, i).",
        "`influence = gradient.flip(0).flatten(1).norm(dim=1)` puts the last input first. The reach is one more than the "
        "largest index at which it is still `threshold * influence[0]` or more.",
        "`np.polyfit(np.arange(t), influence.log(), 1)[0]` is the slope; the half-life is −ln(2)/slope where that is "
        "negative, else `math.inf`. For the verdict ask about exploding first.",
    ),
)

EXERCISES = (EM_STEP, NEXT_WORD, PERPLEXITY, LSTM_CELL, CLIP, FAR_BACK)
