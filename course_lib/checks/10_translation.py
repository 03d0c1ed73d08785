"""Exercises of 10_translation: what is asked, what is right, and how people go wrong."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..training import schedules
from ..training.bleu import corpus_bleu
from .exercise import Case, Exercise, Misconception, Tolerance
from .probes import translation as probes

Pairs = Sequence[tuple[Sequence[int], Sequence[int]]]

# The library's own versions are no answers, nor parts of one.
LIBRARY = (
    "course_lib.data.parallel.pad",
    "course_lib.data.parallel.collate",
    "course_lib.training.label_smoothing.smoothed_loss",
    "course_lib.training.schedules.paper_rate",
    "course_lib.training.schedules.schedule_factor",
    "course_lib.training.bleu.corpus_bleu",
    "course_lib.training.bleu.ngrams",
    "course_lib.generation.beam_search",
    "course_lib.generation.length_penalty",
    "course_lib.generation.greedy",
)
# torch's own cross-entropy smooths, too.
CROSS_ENTROPY = (
    "torch.nn.functional.cross_entropy",
    "torch.nn.functional.linear_cross_entropy",
    "torch.nn.CrossEntropyLoss",
    "torch._C._nn.cross_entropy_loss",
)

# --- translation/make_batch --------------------------------------------------------------------


def make_batch_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Unequal lengths; other special ids; one pair alone; a target without any word."""
    yield _batch_case(rng, "two pairs", [(3, 2), (1, 4)])
    yield _batch_case(rng, "padding with another id", [(2, 5), (4, 1), (3, 3)], special=[9, 7, 8])
    yield _batch_case(rng, "one pair alone", [(4, 3)], hidden=True)
    yield _batch_case(rng, "five pairs", [(1, 1), (6, 2), (3, 7), (2, 2), (5, 4)], hidden=True)
    yield _batch_case(rng, "a target without any word", [(2, 0), (3, 2)], special=[5, 6, 4], hidden=True)


def _batch_case(
    rng: np.random.Generator,
    name: str,
    lengths: list[tuple[int, int]],
    special: list[int] | None = None,
    hidden: bool = False,
) -> Case:
    pairs = [[rng.integers(10, 99, size=length).tolist() for length in pair] for pair in lengths]
    return Case(name, {"pairs": pairs, "special": special}, hidden)


def _fill(rows: Sequence[Sequence[int]], pad_id: int, width: int = 0) -> Tensor:
    longest = max(width, *map(len, rows))
    return torch.tensor([[*row, *[pad_id] * (longest - len(row))] for row in rows])


def _make_batch(pairs: Pairs, pad_id: int = 0, begin_id: int = 1, end_id: int = 2) -> tuple[Tensor, ...]:
    return (
        _fill([source for source, _ in pairs], pad_id),
        _fill([[begin_id, *target] for _, target in pairs], pad_id),
        _fill([[*target, end_id] for _, target in pairs], pad_id),
    )


def _make_batch_by_writing(
    pairs: Pairs, pad_id: int = 0, begin_id: int = 1, end_id: int = 2
) -> tuple[Tensor, ...]:
    source_ids = torch.full((len(pairs), max(len(source) for source, _ in pairs)), pad_id)
    inputs = torch.full((len(pairs), 1 + max(len(target) for _, target in pairs)), pad_id)
    targets = inputs.clone()
    inputs[:, 0] = begin_id
    for row, (source, target) in enumerate(pairs):
        source_ids[row, : len(source)] = torch.tensor(source)
        if target:
            inputs[row, 1 : 1 + len(target)] = torch.tensor(target)
            targets[row, : len(target)] = torch.tensor(target)
        targets[row, len(target)] = end_id
    return source_ids, inputs, targets


def _make_batch_by_pad_sequence(
    pairs: Pairs, pad_id: int = 0, begin_id: int = 1, end_id: int = 2
) -> tuple[Tensor, ...]:
    columns = zip(
        *((source, [begin_id, *target], [*target, end_id]) for source, target in pairs), strict=True
    )
    return tuple(
        torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(row) for row in rows], batch_first=True, padding_value=pad_id
        )
        for rows in columns
    )


def _wrong_batch(
    *,
    source: Callable[..., list[int]] = lambda ids, begin, end: [*ids],
    inputs: Callable[..., list[int]] = lambda ids, begin, end: [begin, *ids],
    targets: Callable[..., list[int]] = lambda ids, begin, end: [*ids, end],
    before: bool = False,
    always_zero: bool = False,
    one_width: bool = False,
) -> Callable[..., tuple[Tensor, ...]]:
    """A batch with one thing wrong; by default nothing is."""

    def make(pairs: Pairs, pad_id: int = 0, begin_id: int = 1, end_id: int = 2) -> tuple[Tensor, ...]:
        pad_id = 0 if always_zero else pad_id
        columns = [
            [source([*ids], begin_id, end_id) for ids, _ in pairs],
            [inputs([*ids], begin_id, end_id) for _, ids in pairs],
            [targets([*ids], begin_id, end_id) for _, ids in pairs],
        ]
        width = max(len(row) for rows in columns for row in rows) if one_width else 0
        if before:
            return tuple(_fill([row[::-1] for row in rows], pad_id).flip(1) for rows in columns)
        return tuple(_fill(rows, pad_id, width) for rows in columns)

    return make


def _cut_from_one_table(
    pairs: Pairs, pad_id: int = 0, begin_id: int = 1, end_id: int = 2
) -> tuple[Tensor, ...]:
    whole = _fill([[begin_id, *target, end_id] for _, target in pairs], pad_id)
    return _fill([source for source, _ in pairs], pad_id), whole[:, :-1], whole[:, 1:]


MAKE_BATCH = Exercise(
    id="translation/make_batch",
    title="A batch: padded and shifted",
    points=2,
    minutes=20,
    difficulty=1,
    cases=make_batch_cases,
    probe=probes.make_batch,
    reference=_make_batch,
    also_right=(_make_batch_by_writing, _make_batch_by_pad_sequence),
    forbidden=LIBRARY,
    library="course_lib.data.parallel:collate",
    misconceptions=(
        Misconception(
            "the targets are not shifted",
            _wrong_batch(targets=lambda ids, begin, end: [begin, *ids]),
            "At position i the decoder is given token i and has to say token i + 1. Your targets are the inputs "
            "themselves, which a model learns in a minute, and then it translates nothing.",
        ),
        Misconception(
            "the inputs do not begin",
            _wrong_batch(inputs=lambda ids, begin, end: [*ids]),
            "The decoder needs something to start from: the inputs are `begin_id` and then the target.",
        ),
        Misconception(
            "the targets do not end",
            _wrong_batch(targets=lambda ids, begin, end: [*ids]),
            "Without `end_id` behind every target the model never learns when to stop.",
        ),
        Misconception(
            "the inputs hold the end of shorter rows",
            _cut_from_one_table,
            "The two tensors were cut from one table: in rows shorter than the longest the inputs then still hold "
            "`end_id`, where padding should be.",
        ),
        Misconception(
            "the inputs begin and end",
            _wrong_batch(inputs=lambda ids, begin, end: [begin, *ids, end]),
            "The end is something to predict, never something to continue: it belongs to the targets alone.",
        ),
        Misconception(
            "begin and end are exchanged",
            _wrong_batch(
                inputs=lambda ids, begin, end: [end, *ids], targets=lambda ids, begin, end: [*ids, begin]
            ),
            "`begin_id` opens the inputs, and `end_id` closes the targets. Yours are the other way round.",
        ),
        Misconception(
            "the source begins and ends, too",
            _wrong_batch(source=lambda ids, begin, end: [begin, *ids, end]),
            "The source stays as it is: nobody has to begin or end it.",
        ),
        Misconception(
            "padding stands before the tokens",
            _wrong_batch(before=True),
            "Padding belongs behind the tokens, so that the first token of every row stands at position 0.",
        ),
        Misconception(
            "padding is always 0",
            _wrong_batch(always_zero=True),
            "Fill up with `pad_id`, which need not be 0.",
        ),
        Misconception(
            "all three tensors have one width",
            _wrong_batch(one_width=True),
            "Each tensor is as wide as its own longest row. Sources and targets need not be equally long.",
        ),
    ),
    hints=(
        "Make three lists of rows first: the sources as they are, begin and then the target, the target and then "
        "the end. Then fill up each list on its own.",
        "A row is filled up with `row + [pad_id] * (longest - len(row))`, where `longest` is the longest row of that "
        "list.",
        "`inputs = [[begin_id, *target] for _, target in pairs]` and `targets = [[*target, end_id] for _, target in "
        "pairs]`; after filling up, `torch.tensor(rows)` makes the tensor.",
    ),
)

# --- translation/smoothed_cross_entropy --------------------------------------------------------


def smoothed_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Padding in the targets; no smoothing; a row of padding; another pad id; huge logits; two words."""
    yield _smoothed_case(rng, "two sentences, one shorter", 7, [3, 5], [0.2, 0])
    yield _smoothed_case(rng, "smoothing of 0.1 and padding 0 by default", 6, [2, 4, 4], None)
    yield _smoothed_case(rng, "no smoothing", 5, [4, 2], [0.0, 0], hidden=True)
    yield _smoothed_case(rng, "a sentence of padding alone", 8, [3, 0, 1], [0.3, 0], hidden=True)
    yield _smoothed_case(rng, "padding with another id", 6, [2, 5], [0.2, 4], hidden=True)
    yield _smoothed_case(rng, "logits of some hundreds", 5, [3, 1], [0.1, 0], spread=300.0, hidden=True)
    yield _smoothed_case(rng, "a single target", 9, [1], [0.4, 0], hidden=True)


def _smoothed_case(
    rng: np.random.Generator,
    name: str,
    vocabulary: int,
    lengths: list[int],
    options: list[float] | None,
    spread: float = 2.0,
    hidden: bool = False,
) -> Case:
    pad_id = 0 if options is None else int(options[1])
    words = [word for word in range(vocabulary) if word != pad_id]
    targets = np.full((len(lengths), max(lengths)), pad_id)
    for row, length in enumerate(lengths):
        targets[row, :length] = rng.choice(words, size=length)
    logits = spread * rng.normal(size=(*targets.shape, vocabulary)).astype(np.float32)
    # A mean of each vector of logits that is not 0, so that forgotten normalisation shows.
    logits = (logits + rng.uniform(0.5, 1.5, size=(*targets.shape, 1))).astype(np.float32)
    own = None if options is None else [options[0], int(options[1])]
    return Case(name, {"logits": logits, "targets": targets, "options": own}, hidden)


def _smoothed(logits: Tensor, targets: Tensor, smoothing: float = 0.1, pad_id: int = 0) -> Tensor:
    log_probs = F.log_softmax(logits, dim=-1)
    right = log_probs.gather(-1, targets[..., None])[..., 0]
    losses = -(1 - smoothing) * right - smoothing * log_probs.mean(dim=-1)
    return losses[targets != pad_id].mean()


def _smoothed_by_distribution(
    logits: Tensor, targets: Tensor, smoothing: float = 0.1, pad_id: int = 0
) -> Tensor:
    vocabulary = logits.shape[-1]
    wanted = torch.full_like(logits, smoothing / vocabulary)
    wanted.scatter_add_(-1, targets[..., None], torch.full_like(logits[..., :1], 1 - smoothing))
    losses = -(wanted * (logits - logits.logsumexp(dim=-1, keepdim=True))).sum(dim=-1)
    real = (targets != pad_id).to(losses.dtype)
    return (losses * real).sum() / real.sum()


def _smoothed_by_nll(logits: Tensor, targets: Tensor, smoothing: float = 0.1, pad_id: int = 0) -> Tensor:
    log_probs = logits.log_softmax(dim=-1).flatten(0, 1)
    flat = targets.flatten()
    hard = F.nll_loss(log_probs, flat, ignore_index=pad_id)
    uniform = -log_probs[flat != pad_id].mean()
    return (1 - smoothing) * hard + smoothing * uniform


def _wrong_smoothed(
    *,
    shares: Callable[[int, float], tuple[float, float]] = lambda v, e: (1 - e + e / v, e / v),
    no_share_for_padding: bool = False,
    softmax_over: int = -1,
    normalised: bool = True,
    masked: bool = True,
    reduce: Callable[[Tensor, Tensor], Tensor] = lambda losses, real: losses.sum() / real.sum(),
) -> Callable[..., Tensor]:
    """A loss with one thing wrong; by default nothing is. shares: of the target and of every other word."""

    def loss(logits: Tensor, targets: Tensor, smoothing: float = 0.1, pad_id: int = 0) -> Tensor:
        log_probs = F.log_softmax(logits, dim=softmax_over) if normalised else logits
        on_target, on_others = shares(logits.shape[-1], smoothing)
        wanted = torch.full_like(logits, on_others)
        wanted = wanted.scatter(-1, targets[..., None], on_target)
        if no_share_for_padding:
            wanted[..., pad_id] = 0.0
        losses = -(wanted * log_probs).sum(dim=-1)
        real = (targets != pad_id).to(losses.dtype)
        return reduce(losses * real if masked else losses, real if masked else torch.ones_like(real))

    return loss


def _mean_of_means(losses: Tensor, real: Tensor) -> Tensor:
    found = real.sum(dim=1) > 0
    return (losses.sum(dim=1)[found] / real.sum(dim=1)[found]).mean()


SMOOTHED = Exercise(
    id="translation/smoothed_cross_entropy",
    title="Cross-entropy with label smoothing",
    points=3,
    minutes=30,
    difficulty=2,
    gpu=True,
    cases=smoothed_cases,
    probe=probes.smoothed_cross_entropy,
    reference=_smoothed,
    also_right=(_smoothed_by_distribution, _smoothed_by_nll),
    tolerance=Tolerance(absolute=2e-5, relative=1e-4),
    forbidden=(*LIBRARY, *CROSS_ENTROPY),
    library="course_lib.training.label_smoothing:smoothed_loss",
    misconceptions=(
        Misconception(
            "padding is averaged in as zeros",
            _wrong_smoothed(reduce=lambda losses, real: losses.mean()),
            "The losses of padding are zero, but they are still counted. Divide by the number of real targets.",
        ),
        Misconception(
            "padding is predicted, too",
            _wrong_smoothed(masked=False),
            "Where the target is `pad_id`, there is nothing to predict: leave these positions out of the mean.",
        ),
        Misconception(
            "the mean is taken sentence by sentence",
            _wrong_smoothed(reduce=_mean_of_means),
            "A word of a short sentence counts more in yours than a word of a long one. Take one mean over all "
            "real targets.",
        ),
        Misconception(
            "the losses are summed",
            _wrong_smoothed(reduce=lambda losses, real: losses.sum()),
            "The loss is the mean over the real targets; yours is their sum.",
        ),
        Misconception(
            "the target gets no part of what is spread",
            _wrong_smoothed(shares=lambda v, e: (1 - e, e / (v - 1))),
            "ε is spread over all V words, the target among them: it gets 1 − ε + ε / V, every other word ε / V. "
            "With ε / (V − 1) for the others alone the loss is another one.",
        ),
        Misconception(
            "padding gets no part of what is spread",
            _wrong_smoothed(shares=lambda v, e: (1 - e, e / (v - 2)), no_share_for_padding=True),
            "Some implementations spread ε over the words that are neither the target nor padding, ε / (V − 2). Here "
            "it is spread over all V, so that every entry of the vocabulary gets ε / V.",
        ),
        Misconception(
            "what is spread is not taken from the target",
            _wrong_smoothed(shares=lambda v, e: (1 + e / v, e / v)),
            "The smoothed target has to sum to 1: what is spread, ε, is taken from the target word, which keeps "
            "1 − ε (and gets ε / V back).",
        ),
        Misconception(
            "every word gets all of ε",
            _wrong_smoothed(shares=lambda v, e: (1 - e + e, e)),
            "ε is what all words get *together*. Each gets ε / V: take the mean of the log-probabilities over the "
            "words, not their sum.",
        ),
        Misconception(
            "the two shares are exchanged",
            _wrong_smoothed(shares=lambda v, e: (e + (1 - e) / v, (1 - e) / v)),
            "The target keeps 1 − ε, and ε is spread. Yours gives ε to the target and spreads the rest.",
        ),
        Misconception(
            "the softmax runs over the positions",
            _wrong_smoothed(softmax_over=1),
            "The probabilities of one position sum to 1 over the vocabulary, the last axis: `dim=-1`.",
        ),
        Misconception(
            "the logits are taken for log-probabilities",
            _wrong_smoothed(normalised=False),
            "Logits are not log-probabilities until `log_softmax` has made them sum to 1.",
        ),
    ),
    hints=(
        "Take `log_softmax` over the vocabulary first. The loss of one position is a weighted sum of these numbers: "
        "1 − ε for the target word, and ε / V for every word.",
        "`log_probs.gather(-1, targets[..., None])[..., 0]` gives the log-probability of each target; the spread "
        "part is ε times the *mean* of the log-probabilities over the vocabulary.",
        "`losses = -(1 - smoothing) * right - smoothing * log_probs.mean(dim=-1)`, and then the mean of "
        "`losses[targets != pad_id]`.",
    ),
)

# --- translation/paper_schedule ----------------------------------------------------------------


def schedule_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Around the peak and far behind it; the paper's own numbers; no warm-up to speak of."""
    for name, hidden in (("a short warm-up", False), ("another width", False), ("drawn anew", True)):
        warmup = int(rng.integers(20, 200))
        steps = [0, 1, int(rng.integers(2, warmup - 2)), warmup - 2, warmup - 1, warmup, 3 * warmup + 1]
        yield Case(
            name, {"steps": steps, "d_model": int(rng.choice([64, 96, 128, 300])), "warmup": warmup}, hidden
        )
    yield Case(
        "the paper's base model",
        {"steps": [0, 999, 3999, 99_999], "d_model": 512, "warmup": 4000},
        hidden=True,
    )
    yield Case("a warm-up of one step", {"steps": [0, 1, 8], "d_model": 16, "warmup": 1}, hidden=True)


def _schedule(step: int, d_model: int, warmup: int) -> float:
    return schedules.paper_rate(step + 1, d_model, warmup)


def _schedule_by_cases(step: int, d_model: int, warmup: int) -> float:
    peak = 1 / math.sqrt(d_model * warmup)
    number = step + 1
    return peak * number / warmup if number < warmup else peak * math.sqrt(warmup / number)


def _schedule_by_numpy(step: int, d_model: int, warmup: int) -> float:
    number = np.float64(step + 1)
    return float(np.minimum(number**-0.5, number * float(warmup) ** -1.5) / np.sqrt(d_model))


def _wrong_schedule(
    *,
    number_of: Callable[[int], int] = lambda step: step + 1,
    width: Callable[[int], float] = lambda d: d**-0.5,
    rising: Callable[[int, int], float] = lambda n, w: n * w**-1.5,
    falling: Callable[[int, int], float] = lambda n, w: n**-0.5,
    choose: Callable[..., float] = min,
) -> Callable[[int, int, int], float]:
    """A schedule with one thing wrong; by default nothing is."""

    def rate(step: int, d_model: int, warmup: int) -> float:
        number = number_of(step)
        return width(d_model) * choose(rising(number, warmup), falling(number, warmup))

    return rate


SCHEDULE = Exercise(
    id="translation/paper_schedule",
    title="The schedule of 2017",
    points=2,
    minutes=15,
    difficulty=1,
    cases=schedule_cases,
    probe=probes.paper_schedule,
    reference=_schedule,
    also_right=(_schedule_by_cases, _schedule_by_numpy),
    tolerance=Tolerance(absolute=1e-12, relative=1e-6),
    forbidden=LIBRARY,
    library="course_lib.training.schedules:paper_rate",
    misconceptions=(
        Misconception(
            "step 0 is made into step 1, and no other moves",
            _wrong_schedule(number_of=lambda step: max(step, 1)),
            "The paper counts its steps from 1 and we from 0, so all of them move: use step + 1, not only where "
            "step is 0.",
        ),
        Misconception(
            "the larger of the two is taken",
            _wrong_schedule(choose=max),
            "The rate follows the *smaller* of the two curves: first the rising one, then the falling one.",
        ),
        Misconception(
            "the width is left out",
            _wrong_schedule(width=lambda d: 1.0),
            "The factor d_model^−0.5 is missing: wider models get a lower rate.",
        ),
        Misconception(
            "the width is divided by, without a root",
            _wrong_schedule(width=lambda d: 1 / d),
            "d_model goes in with the exponent −0.5: divide by its *root*.",
        ),
        Misconception(
            "the rising line has the wrong slope",
            _wrong_schedule(rising=lambda n, w: n * w**-0.5),
            "The rising line is step · warmup^−1.5. With −0.5 it is never the smaller one, and there is no warm-up.",
        ),
        Misconception(
            "the rate rises to 1 and falls from there",
            _wrong_schedule(rising=lambda n, w: n / w, falling=lambda n, w: math.sqrt(w / n)),
            "Your curve has the right shape, but its peak is d_model^−0.5. It is (d_model · warmup)^−0.5: follow "
            "the two terms of the equation as they stand.",
        ),
        Misconception(
            "the rate stays at its peak",
            _wrong_schedule(falling=lambda n, w: w**-0.5),
            "After the warm-up the rate falls with the root of the step, step^−0.5. Yours stays where it is.",
        ),
    ),
    hints=(
        "Two curves meet at the end of the warm-up: a straight line that rises, and one over the root of the step "
        "that falls. The rate is always the smaller of them.",
        "Equation 3 of the paper: d_model^−0.5 · min(step^−0.5, step · warmup^−1.5), where its first step is "
        "number 1.",
        "With `number = step + 1`: `d_model**-0.5 * min(number**-0.5, number * warmup**-1.5)`.",
    ),
)

# --- translation/beam_search -------------------------------------------------------------------

Found = list[tuple[list[int], float]]


def beam_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Several widths and penalties; one beam; sequences that do not end in time; ends that come at once."""
    yield _beam_case(rng, "two beams", beams=2, alpha=0.6, longest=6)
    yield _beam_case(rng, "three beams, no length penalty", beams=3, alpha=0.0, longest=7)
    yield _beam_case(rng, "four beams, length penalty 1", beams=4, alpha=1.0, longest=8)
    for number in range(3):
        yield _beam_case(rng, f"drawn anew, {number + 1}", beams=3, alpha=1.0, longest=7, hidden=True)
    for number in range(3):
        name = f"a penalty that favours long ones, {number + 1}"
        yield _beam_case(rng, name, beams=4, alpha=2.0, longest=9, ending=0.9, hidden=True)
    yield _beam_case(rng, "one beam", beams=1, alpha=1.0, longest=6, hidden=True)
    yield _beam_case(rng, "alpha by default", beams=2, alpha=None, longest=7, hidden=True)
    yield _beam_case(rng, "hardly any ends", beams=3, alpha=0.6, longest=4, ending=-6.0, hidden=True)
    yield _beam_case(rng, "one token at most", beams=2, alpha=0.6, longest=1, hidden=True)


def _beam_case(
    rng: np.random.Generator,
    name: str,
    *,
    beams: int,
    alpha: float | None,
    longest: int,
    ending: float = 0.3,
    hidden: bool = False,
) -> Case:
    """A table of log-probabilities, (v, v, v): of each token after each two. ending: added to the end's logit."""
    vocabulary = 2 * beams + int(rng.integers(2, 5))
    begin_id, end_id = (int(token) for token in rng.choice(vocabulary, size=2, replace=False))
    logits = 1.2 * rng.normal(size=(vocabulary, vocabulary, vocabulary))
    logits[..., end_id] += ending
    logits[..., begin_id] -= 8.0
    table = (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32)
    inputs = {"table": table, "begin_id": begin_id, "end_id": end_id, "num_beams": beams}
    return Case(name, inputs | {"max_length": longest, "alpha": alpha}, hidden)


def _beams(
    decoder: Any, begin_id: int, end_id: int, num_beams: int, max_length: int, alpha: float = 0.6
) -> Found:
    finished: Found = []
    live: Found = [([], 0.0)]
    tokens = torch.tensor([begin_id])
    for length in range(1, max_length + 1):
        log_probs = decoder.step(tokens)
        totals = torch.tensor([total for _, total in live])[:, None] + log_probs
        best, places = totals.flatten().topk(min(2 * num_beams, totals.numel()))
        parents, words = places // log_probs.shape[1], places % log_probs.shape[1]
        penalty = ((5 + length) / 6) ** alpha
        going_on: list[tuple[list[int], float, int]] = []
        for rank, (total, parent, word) in enumerate(
            zip(best.tolist(), parents.tolist(), words.tolist(), strict=True)
        ):
            ids = live[parent][0]
            if word != end_id:
                going_on.append(([*ids, word], total, parent))
            elif rank < num_beams:
                finished.append((ids, total / penalty))
        going_on = going_on[:num_beams]
        live = [(ids, total) for ids, total, _ in going_on]
        if len(finished) >= num_beams or length == max_length:
            break
        tokens = torch.tensor([ids[-1] for ids, _ in live])
        decoder.reorder(torch.tensor([parent for *_, parent in going_on]))
    if len(finished) < num_beams:
        finished += [(ids, total / penalty) for ids, total in live]
    return sorted(finished, key=lambda one: -one[1])[:num_beams]


def _wrong_beams(
    *,
    penalty_of: Callable[[int, float], float] = lambda length, alpha: ((5 + length) / 6) ** alpha,
    keeps_end: bool = False,
    sorts_by: str = "score",
    ends_take_places: bool = False,
    any_rank_ends: bool = False,
    one_each: bool = False,
    accumulates: bool = True,
    reorders: str = "parents",
    adds_live: str = "when needed",
    stops: str = "when full",
    multiplies: bool = False,
) -> Callable[..., Found]:
    """A beam search with one thing wrong; by default nothing is."""

    def search(
        decoder: Any, begin_id: int, end_id: int, num_beams: int, max_length: int, alpha: float = 0.6
    ) -> Found:
        finished: list[tuple[list[int], float, float]] = []
        live: list[tuple[list[int], float]] = [([], 0.0)]
        tokens = torch.tensor([begin_id])

        def score(total: float, length: int) -> float:
            penalty = penalty_of(length, alpha)
            return total * penalty if multiplies else total / penalty

        for length in range(1, max_length + 1):
            log_probs = decoder.step(tokens)
            candidates = []
            for row, (ids, total) in enumerate(live):
                added = (total if accumulates else 0.0) + log_probs[row]
                values, words = added.topk(1 if one_each and len(live) == num_beams else len(added))
                candidates += [
                    (value, ids, word, row)
                    for value, word in zip(values.tolist(), words.tolist(), strict=True)
                ]
            candidates.sort(key=lambda one: -one[0])
            candidates = candidates[: num_beams if ends_take_places else 2 * num_beams]
            going_on = []
            for rank, (total, ids, word, row) in enumerate(candidates):
                if word != end_id:
                    going_on.append(([*ids, word], total, row))
                elif rank < num_beams or any_rank_ends:
                    shown = [*ids, word] if keeps_end else ids
                    finished.append((shown, score(total, length), total))
            going_on = going_on[:num_beams]
            live = [(ids, total) for ids, total, _ in going_on]
            full = len(finished) >= (1 if stops == "at the first" else num_beams)
            if (full and stops != "never") or length == max_length or not live:
                break
            tokens = torch.tensor([ids[-1] for ids, _ in live])
            parents = [row for *_, row in going_on]
            if reorders == "in place" and length > 1:
                parents = list(range(len(parents)))
            decoder.reorder(torch.tensor(parents))
        if adds_live == "always" or (adds_live == "when needed" and len(finished) < num_beams):
            finished += [(ids, score(total, length), total) for ids, total in live]
        finished.sort(key=lambda one: -(one[2] if sorts_by == "total" else one[1]))
        return [(ids, value) for ids, value, _ in finished[:num_beams]]

    return search


def _beams_by_sorting(
    decoder: Any, begin_id: int, end_id: int, num_beams: int, max_length: int, alpha: float = 0.6
) -> Found:
    return _wrong_beams()(decoder, begin_id, end_id, num_beams, max_length, alpha)


def _beams_in_tensors(
    decoder: Any, begin_id: int, end_id: int, num_beams: int, max_length: int, alpha: float = 0.6
) -> Found:
    written, totals = torch.empty(1, 0, dtype=torch.long), torch.zeros(1)
    tokens, found = torch.tensor([begin_id]), []
    for length in range(1, max_length + 1):
        sums = totals[:, None] + decoder.step(tokens)
        order = sums.flatten().argsort(descending=True)[: 2 * num_beams]
        rows, words = order // sums.shape[1], order % sums.shape[1]
        best, ended = sums.flatten()[order], words == end_id
        scale = ((5 + length) / 6) ** -alpha
        chosen = ended & (torch.arange(len(order)) < num_beams)
        found += [(written[rows[i]].tolist(), best[i].item() * scale) for i in chosen.nonzero()[:, 0]]
        stay = (~ended).nonzero()[:num_beams, 0]
        written = torch.cat([written[rows[stay]], words[stay, None]], dim=1)
        totals, tokens = best[stay], words[stay]
        if len(found) >= num_beams:
            break
        decoder.reorder(rows[stay])
    if len(found) < num_beams:
        found += [(ids.tolist(), total.item() * scale) for ids, total in zip(written, totals, strict=True)]
    found.sort(key=lambda one: one[1], reverse=True)
    return found[:num_beams]


BEAM_SEARCH = Exercise(
    id="translation/beam_search",
    title="Beam search with a length penalty",
    points=6,
    minutes=75,
    difficulty=5,
    cases=beam_cases,
    probe=probes.beam_search,
    reference=_beams,
    also_right=(_beams_by_sorting, _beams_in_tensors),
    tolerance=Tolerance(absolute=2e-5, relative=1e-5),
    forbidden=LIBRARY,
    misconceptions=(
        Misconception(
            "there is no length penalty",
            _wrong_beams(penalty_of=lambda length, alpha: 1.0),
            "Sums of log-probabilities fall with every token, so that short sequences win. A finished one's score is "
            "its total divided by ((5 + length) / 6) to the power of alpha.",
        ),
        Misconception(
            "the penalty is the length to the power of alpha",
            _wrong_beams(penalty_of=lambda length, alpha: length**alpha),
            "That is another penalty, which some libraries use. Here it is ((5 + length) / 6) to the power of alpha.",
        ),
        Misconception(
            "the end is not counted in the length",
            _wrong_beams(penalty_of=lambda length, alpha: ((4 + length) / 6) ** alpha),
            "The length counts every token that was written, the end among them.",
        ),
        Misconception(
            "the total is multiplied by the penalty",
            _wrong_beams(multiplies=True),
            "Log-probabilities are negative: to help longer sequences, *divide* by a penalty that grows with length.",
        ),
        Misconception(
            "the totals are not summed up",
            _wrong_beams(accumulates=False),
            "A sequence is as likely as all its tokens together: add each token's log-probability to the total of the "
            "sequence that it continues.",
        ),
        Misconception(
            "the rows of the decoder are not reordered",
            _wrong_beams(reorders="in place"),
            "Row i of the decoder has to hold what your sequence i has written so far. Two of the best continuations may "
            "come from the same row, so call `reorder` with the parents' rows after every step.",
        ),
        Misconception(
            "every beam keeps its own best continuation",
            _wrong_beams(one_each=True),
            "The continuations of *all* sequences compete with each other. One sequence may have several children, and "
            "another none.",
        ),
        Misconception(
            "sequences that end take the places of others",
            _wrong_beams(ends_take_places=True),
            "A sequence that ends leaves the beam, and the next best continuation takes its place: look at the best "
            "2 · num_beams candidates, so that num_beams can go on.",
        ),
        Misconception(
            "every end among the candidates is kept",
            _wrong_beams(any_rank_ends=True),
            "Only ends among the best num_beams candidates are finished. The other half of the candidates is there to "
            "fill the beam up.",
        ),
        Misconception(
            "the end stays in the sequence",
            _wrong_beams(keeps_end=True),
            "The sequences are returned without `end_id`; it only counts in the length.",
        ),
        Misconception(
            "the search stops at the first end",
            _wrong_beams(stops="at the first"),
            "The first sequence that ends need not be the best. Go on until num_beams have ended.",
        ),
        Misconception(
            "the search always goes on to max_length",
            _wrong_beams(stops="never"),
            "Stop as soon as num_beams sequences have ended; later ones are not looked for.",
        ),
        Misconception(
            "sequences that have not ended are never returned",
            _wrong_beams(adds_live="never"),
            "When max_length is reached and fewer than num_beams have ended, those still under way are returned, too, "
            "with the score of their length.",
        ),
        Misconception(
            "the best total comes first",
            _wrong_beams(sorts_by="total"),
            "The order, and the choice of the best num_beams, is by score: the total divided by the penalty.",
        ),
    ),
    hints=(
        "Keep two lists: the sequences under way, each with its total, and the finished ones, each with its score. "
        "A round makes the candidates of all live sequences, and deals the best of them out to the two lists.",
        "`totals[:, None] + decoder.step(tokens)` holds all candidates; flatten it, and `topk(2 * num_beams)` gives the "
        "best. A place p belongs to row p // v and token p % v.",
        "Go through the 2 · num_beams best in order: one that ends is finished if its rank is below num_beams; of the "
        "others the first num_beams go on. Then `decoder.reorder` with their parents' rows, and `step` with their "
        "last tokens.",
    ),
)

# --- translation/bleu_report -------------------------------------------------------------------

Texts = Sequence[Sequence[str]]
Report = tuple[float, list[float], float, str]
WORDS = [
    "a",
    "the",
    "cat",
    "dog",
    "bird",
    "sat",
    "saw",
    "ate",
    "big",
    "red",
    "old",
    "on",
    "in",
    "to",
    "it",
    "was",
    "one",
    "two",
    "day",
    "night",
]


def bleu_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Good translations, cut ones, shuffled ones, wrong words; words said too often; nothing said at all."""
    yield _bleu_case(rng, "mostly right", [_with_errors] * 5)
    yield _bleu_case(rng, "too short", [_cut] * 5)
    yield _bleu_case(rng, "the right words in another order", [_shuffled] * 5)
    yield _bleu_case(rng, "wrong words", [_replaced] * 5, hidden=True)
    yield _bleu_case(rng, "every second word wrong", [_every_second] * 4, hidden=True)
    yield _bleu_case(rng, "words said too often", [_stuttered, _with_errors, _with_errors], hidden=True)
    yield _bleu_case(
        rng, "some long and some short", [_padded, _cut, _with_errors, _padded, _with_errors], hidden=True
    )
    yield _bleu_case(rng, "one right sentence", [lambda rng, words: list(words)], hidden=True)
    yield _bleu_case(rng, "sentences of two words", [_first_two] * 3, lengths=(2, 4), hidden=True)
    yield _bleu_case(rng, "nothing at all", [lambda rng, words: []] * 2, hidden=True)


def _bleu_case(
    rng: np.random.Generator,
    name: str,
    changes: Sequence[Callable[[np.random.Generator, list[str]], list[str]]],
    lengths: tuple[int, int] = (8, 15),
    hidden: bool = False,
) -> Case:
    references = [rng.choice(WORDS, size=int(rng.integers(*lengths))).tolist() for _ in changes]
    hypotheses = [change(rng, list(words)) for change, words in zip(changes, references, strict=True)]
    return Case(name, {"hypotheses": hypotheses, "references": references}, hidden)


def _with_errors(rng: np.random.Generator, words: list[str]) -> list[str]:
    words[int(rng.integers(len(words)))] = "oops"
    return words


def _cut(rng: np.random.Generator, words: list[str]) -> list[str]:
    return words[: len(words) - int(rng.integers(3, 5))]


def _shuffled(rng: np.random.Generator, words: list[str]) -> list[str]:
    # The middle stays, so that every precision is above 0.
    kept = words[:5]
    return kept + words[:4:-1] if len(words) > 9 else words[::-1][:4] + words[:5]


def _replaced(rng: np.random.Generator, words: list[str]) -> list[str]:
    return [word if place < 4 else f"x{place}" for place, word in enumerate(words)]


def _every_second(rng: np.random.Generator, words: list[str]) -> list[str]:
    return [word if place % 2 else f"x{place}" for place, word in enumerate(words)]


def _stuttered(rng: np.random.Generator, words: list[str]) -> list[str]:
    return [*words[:5], *[words[4]] * len(words[5:])]


def _padded(rng: np.random.Generator, words: list[str]) -> list[str]:
    return [*words, "and", "so", "on"]


def _first_two(rng: np.random.Generator, words: list[str]) -> list[str]:
    return words[:2]


def _verdict(precisions: Sequence[float], brevity: float) -> str:
    if brevity < 0.9:
        return "too short"
    if precisions[0] < 70:
        return "wrong words"
    return "wrong order" if precisions[1] < 0.6 * precisions[0] else "good"


def _bleu_report(hypotheses: Texts, references: Texts) -> Report:
    found = corpus_bleu(hypotheses, references)
    verdict = _verdict(found.precisions, found.brevity_penalty)
    return found.score, list(found.precisions), found.brevity_penalty, verdict


def _runs(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _clipped(hypothesis: Sequence[str], reference: Sequence[str], n: int) -> int:
    left = _runs(reference, n)
    found = 0
    for run in _runs(hypothesis, n):
        if run in left:
            left.remove(run)
            found += 1
    return found


def _brevity(length: int, wanted: int) -> float:
    if length == 0:
        return 0.0
    return min(1.0, math.exp(1 - wanted / length))


def _geometric(precisions: Sequence[float]) -> float:
    return math.prod(precisions) ** 0.25


def _wrong_bleu(
    *,
    matches: Callable[[Sequence[str], Sequence[str], int], int] = _clipped,
    totals: Callable[[Sequence[str], Sequence[str], int], int] = lambda h, r, n: len(_runs(h, n)),
    brevity: Callable[[int, int], float] = _brevity,
    mean: Callable[[Sequence[float]], float] = _geometric,
    verdict: Callable[[Sequence[float], float], str] = _verdict,
    percent: float = 100.0,
) -> Callable[[Texts, Texts], Report]:
    """A report with one thing wrong; by default nothing is."""

    def report(hypotheses: Texts, references: Texts) -> Report:
        pairs = list(zip(hypotheses, references, strict=True))
        precisions = []
        for n in range(1, 5):
            total = sum(totals(h, r, n) for h, r in pairs)
            precisions.append(100 * sum(matches(h, r, n) for h, r in pairs) / total if total else 0.0)
        penalty = brevity(sum(len(h) for h, _ in pairs), sum(len(r) for _, r in pairs))
        score = penalty * mean(precisions) * percent / 100
        return score, [value * percent / 100 for value in precisions], penalty, verdict(precisions, penalty)

    return report


def _bleu_by_removing(hypotheses: Texts, references: Texts) -> Report:
    return _wrong_bleu()(hypotheses, references)


def _bleu_by_counting(hypotheses: Texts, references: Texts) -> Report:
    matched, made = np.zeros(4), np.zeros(4)
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        for n in range(1, 5):
            ours, theirs = Counter(_runs(hypothesis, n)), Counter(_runs(reference, n))
            matched[n - 1] += sum(min(count, theirs[run]) for run, count in ours.items())
            made[n - 1] += sum(ours.values())
    precisions = 100 * matched / np.maximum(made, 1)
    length, wanted = sum(map(len, hypotheses)), sum(map(len, references))
    brevity = 0.0 if not length else 1.0 if length > wanted else float(np.exp(1 - wanted / length))
    with np.errstate(divide="ignore"):
        score = brevity * float(np.exp(np.log(precisions).mean()))
    return score, precisions.tolist(), brevity, _verdict(precisions.tolist(), brevity)


def _mean_of_sentences(hypotheses: Texts, references: Texts) -> Report:
    right = _wrong_bleu()
    _, precisions, brevity, verdict = right(hypotheses, references)
    each = [right([h], [r])[0] for h, r in zip(hypotheses, references, strict=True)]
    return sum(each) / len(each), precisions, brevity, verdict


BLEU = Exercise(
    id="translation/bleu_report",
    title="BLEU, and what its parts tell",
    points=4,
    minutes=45,
    difficulty=3,
    cases=bleu_cases,
    probe=probes.bleu_report,
    reference=_bleu_report,
    also_right=(_bleu_by_removing, _bleu_by_counting),
    tolerance=Tolerance(absolute=1e-6, relative=1e-6),
    forbidden=LIBRARY,
    library="course_lib.training.bleu:corpus_bleu",
    misconceptions=(
        Misconception(
            "matches are not clipped",
            _wrong_bleu(matches=lambda h, r, n: sum(run in set(_runs(r, n)) for run in _runs(h, n))),
            "A run that occurs once in the reference counts once, however often the translation repeats it. Clip "
            "its count at that of the reference.",
        ),
        Misconception(
            "each run counts once",
            _wrong_bleu(
                matches=lambda h, r, n: len(set(_runs(h, n)) & set(_runs(r, n))),
                totals=lambda h, r, n: len(set(_runs(h, n))),
            ),
            "Runs are counted with their multiplicity, in the matches and in the totals. Sets forget it: use a "
            "`Counter`.",
        ),
        Misconception(
            "the matches are divided by the reference's runs",
            _wrong_bleu(totals=lambda h, r, n: len(_runs(r, n))),
            "Precision asks how much of the *translation* is right, so divide by its number of runs. Dividing by "
            "the reference's is recall; shortness is what the brevity penalty is for.",
        ),
        Misconception(
            "the precisions are averaged arithmetically",
            _wrong_bleu(mean=lambda precisions: sum(precisions) / 4),
            "The four precisions are multiplied and the fourth root is taken: a geometric mean, which is 0 as soon "
            "as one of them is.",
        ),
        Misconception(
            "the score is the mean of the sentences' scores",
            _mean_of_sentences,
            "BLEU adds up matches and totals over the whole corpus first, and divides once. A mean of the sentences' "
            "scores is another number.",
        ),
        Misconception(
            "there is no brevity penalty",
            _wrong_bleu(brevity=lambda length, wanted: 1.0 if length else 0.0),
            "Without the brevity penalty a translation that says only what it is sure of scores best. It is "
            "exp(1 − reference length / length) where the translations are shorter.",
        ),
        Misconception(
            "the brevity penalty is the ratio of the lengths",
            _wrong_bleu(brevity=lambda length, wanted: min(1.0, length / wanted)),
            "The penalty is not length / reference length but exp(1 − reference length / length).",
        ),
        Misconception(
            "long translations are penalised",
            _wrong_bleu(
                brevity=lambda length, wanted: math.exp(-abs(1 - wanted / length)) if length else 0.0
            ),
            "A translation that is too long already loses precision. The brevity penalty is 1 there.",
        ),
        Misconception(
            "shares stand in place of percent",
            _wrong_bleu(percent=1.0),
            "The score and the precisions are in percent, from 0 to 100.",
        ),
        Misconception(
            "the order is judged before the words",
            _wrong_bleu(
                verdict=lambda p, b: (
                    "too short"
                    if b < 0.9
                    else "wrong order"
                    if p[1] < 0.6 * p[0]
                    else "wrong words"
                    if p[0] < 70
                    else "good"
                )
            ),
            "Where the words are wrong, runs of two are wrong, too. So ask for the words first, and for the order only "
            "if most words are right.",
        ),
        Misconception(
            "the order is judged by runs of two alone",
            _wrong_bleu(
                verdict=lambda p, b: (
                    "too short"
                    if b < 0.9
                    else "wrong words"
                    if p[0] < 70
                    else "wrong order"
                    if p[1] < 85
                    else "good"
                )
            ),
            "Runs of two are never better than single words. Compare their precision with that of single words: the order "
            "is wrong where it is below 0.6 times as much.",
        ),
    ),
    hints=(
        "`Counter` counts the runs of a text, and `ours & theirs` keeps for each the smaller of its two counts, which is "
        "clipping.",
        "Add up matches and totals of all sentences for each n first. Then precision n is 100 · matches / totals, 0 where "
        "there are none, and the score is the brevity penalty times the fourth root of the product.",
        "The brevity penalty is 1 where the translations are together at least as long as the references, otherwise "
        "exp(1 − r / c), and 0 where c is 0. Ask in the order: too short, wrong words, wrong order, good.",
    ),
)

EXERCISES = (MAKE_BATCH, SMOOTHED, SCHEDULE, BEAM_SEARCH, BLEU)
