"""Exercises of 02_seq2seq_attention: what is asked, what is right, and how people go wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models import seq2seq as library
from .exercise import Case, Exercise, Misconception, Tolerance
from .probes import seq2seq_attention as probes

# The library's own versions are no answers, nor parts of one.
LIBRARY = (
    "course_lib.models.seq2seq.Attention",
    "course_lib.models.seq2seq.Decoder",
    "course_lib.models.seq2seq.masked_softmax",
)
# A score would come with its softmax, its mask and its context.
FUSED = (
    "torch.nn.functional.scaled_dot_product_attention",
    "torch.nn.attention.flex_attention.flex_attention",
    "torch.nn.MultiheadAttention",
    "torch.nn.functional.multi_head_attention_forward",
)


def _draw(rng: np.random.Generator, *shape: int, spread: float = 1.0) -> np.ndarray:
    return (spread * rng.normal(size=shape)).astype(np.float32)


def _mask(*lengths: int, width: int) -> np.ndarray:
    """True at the tokens of sentences of these lengths: (b, width)."""
    return np.arange(width) < np.array(lengths)[:, None]


# --- seq2seq_attention/teacher_forcing ---------------------------------------------------------


def teacher_forcing_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Sentences of several lengths, full ones, a single word, an empty one."""
    yield _target_case(rng, "two sentences, one of them shorter", (4, 2))
    yield _target_case(rng, "several lengths", (5, 1, 3, 4))
    yield _target_case(rng, "one full sentence", (6,), hidden=True)
    yield _target_case(rng, "an empty sentence among others", (3, 0, 2), hidden=True)
    yield _target_case(rng, "sentences of one word", (1, 1), hidden=True)
    yield _target_case(rng, "a column of padding alone", (2, 3), width=5, hidden=True)


def _target_case(
    rng: np.random.Generator, name: str, lengths: tuple[int, ...], width: int = 0, hidden: bool = False
) -> Case:
    width = width or max(lengths)
    ids = rng.integers(3, 50, size=(len(lengths), width))
    return Case(name, {"target_ids": np.where(_mask(*lengths, width=width), ids, 0)}, hidden)


def _shifted(target_ids: Tensor) -> tuple[Tensor, Tensor]:
    empty = torch.zeros_like(target_ids[:, :1])
    lengths = (target_ids != 0).sum(dim=1, keepdim=True)
    labels = torch.cat([target_ids, empty], dim=1).scatter(1, lengths, 2)
    return torch.cat([empty + 1, target_ids], dim=1), labels


def _shifted_by_loops(target_ids: Tensor) -> tuple[Tensor, Tensor]:
    batch, width = target_ids.shape
    inputs, labels = (torch.zeros(batch, width + 1, dtype=torch.int64) for _ in range(2))
    for row, ids in enumerate(target_ids.tolist()):
        words = [word for word in ids if word != 0]
        for place, word in enumerate([1, *words]):
            inputs[row, place] = word
        for place, word in enumerate([*words, 2]):
            labels[row, place] = word
    return inputs, labels


def _shifted_from_whole_sentences(target_ids: Tensor) -> tuple[Tensor, Tensor]:
    """begin, words, end, padding: all but the last as inputs, all but the first as labels."""
    whole = F.pad(target_ids, (1, 1))
    whole[:, 0] = 1
    whole[torch.arange(len(whole)), (whole != 0).sum(dim=1)] = 2
    return whole[:, :-1], whole[:, 1:]


def _shifted_then(change: Callable[[Tensor, Tensor, Tensor], Any]) -> Callable[[Tensor], Any]:
    """The right shift with a wrong end: `change` gets the words, the inputs and the labels."""
    return lambda target_ids: change(target_ids, *_shifted(target_ids))


def _end_in_the_last_column(target_ids: Tensor) -> tuple[Tensor, Tensor]:
    column = torch.ones_like(target_ids[:, :1])
    return torch.cat([column, target_ids], dim=1), torch.cat([target_ids, 2 * column], dim=1)


TEACHER_FORCING = Exercise(
    id="seq2seq_attention/teacher_forcing",
    title="What the decoder reads, and what it should say",
    points=2,
    minutes=15,
    difficulty=1,
    cases=teacher_forcing_cases,
    probe=probes.teacher_forcing,
    reference=_shifted,
    also_right=(_shifted_by_loops, _shifted_from_whole_sentences),
    forbidden=LIBRARY,
    misconceptions=(
        Misconception(
            "the inputs are not shifted",
            _shifted_then(lambda ids, inputs, labels: (F.pad(ids, (0, 1)), labels)),
            "Each input is the very word that is asked for: the decoder has only to copy it, and learns "
            "nothing. Put 1 (begin) in front, so that it reads one word and is asked for the next.",
        ),
        Misconception(
            "the inputs are the labels, with their end",
            _shifted_then(lambda ids, inputs, labels: (labels, labels)),
            "You return the labels twice. The inputs are one place behind: 1 (begin), and then the words.",
        ),
        Misconception(
            "the end stands in the last column",
            _end_in_the_last_column,
            "In a short sentence there is padding between its last word and your 2. The end comes directly "
            "after the last word, at another place in every row.",
        ),
        Misconception(
            "the end is left out",
            _shifted_then(lambda ids, inputs, labels: (inputs, F.pad(ids, (0, 1)))),
            "No label is 2 (end). A decoder that is never asked for the end never stops.",
        ),
        Misconception(
            "the end is left out, and with it a column",
            _shifted_then(lambda ids, inputs, labels: (inputs[:, :-1], ids)),
            "Inputs and labels have one column more than the words: for begin in the one, for end in the "
            "other. Yours has no label 2, and a decoder that is never asked for the end never stops.",
        ),
        Misconception(
            "the last word gives way to the end",
            _shifted_then(lambda ids, inputs, labels: (inputs[:, :-1], labels[:, 1:])),
            "Your labels are one word ahead of what they should be: the first word is asked for nowhere. "
            "Input 0 is begin, and label 0 is the first word.",
        ),
        Misconception(
            "the labels begin with begin",
            _shifted_then(
                lambda ids, inputs, labels: (inputs, inputs.where(F.pad(labels[:, 1:], (0, 1)) != 0, labels))
            ),
            "Begin is never asked for: it is what the decoder reads in order to say the first word. The "
            "labels start with that word.",
        ),
        Misconception(
            "the two are exchanged",
            _shifted_then(lambda ids, inputs, labels: (labels, inputs)),
            "The tuple is `(inputs, labels)`: first what the decoder reads, then what it is asked for.",
        ),
        Misconception(
            "padding becomes -100",
            _shifted_then(lambda ids, inputs, labels: (inputs, labels.masked_fill(labels == 0, -100))),
            "−100 is what `F.cross_entropy` leaves out unless it is told otherwise. Here padding stays 0, "
            "and the loss is told so with `ignore_index=0`.",
        ),
        Misconception(
            "every padded place becomes an end",
            _shifted_then(lambda ids, inputs, labels: (inputs, labels.masked_fill(labels == 0, 2))),
            "A sentence ends once. After its 2 come zeros, which the loss leaves out.",
        ),
    ),
    hints=(
        "Write both rows for one sentence of two words on paper, one above the other: what is read, and "
        "under it what is asked for.",
        "`torch.cat` with a column of ones in front gives the inputs. For the labels, put a column of zeros "
        "behind, and count the words of each row to know where its end belongs.",
        "`lengths = (target_ids != 0).sum(dim=1, keepdim=True)`, and then `labels.scatter(1, lengths, 2)` "
        "writes a 2 into each row at its own place.",
    ),
)

# --- seq2seq_attention/additive ----------------------------------------------------------------


def additive_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Padded and not, as many sentences as tokens, one token, none, scores of some hundreds."""
    yield _additive_case(rng, "sentences without padding", (4, 4, 4), (5, 5, 5))
    yield _additive_case(rng, "padded sentences of other widths", (5, 2), (3, 6, 4))
    yield _additive_case(rng, "as many sentences as tokens", (3, 2, 1), (4, 3, 5))
    yield _additive_case(rng, "a sentence of one token", (1,), (4, 4, 4), hidden=True)
    yield _additive_case(rng, "a sentence without any token", (4, 0, 2), (4, 5, 3), hidden=True)
    yield _additive_case(rng, "scores of some hundreds", (5, 3), (4, 4, 6), spread=120.0, hidden=True)


def _additive_case(
    rng: np.random.Generator,
    name: str,
    lengths: tuple[int, ...],
    widths: tuple[int, int, int],
    *,
    spread: float = 1.0,
    hidden: bool = False,
) -> Case:
    (d, m, a), batch, width = widths, len(lengths), max(lengths)
    inputs = {
        "query": _draw(rng, batch, d),
        "memory": _draw(rng, batch, width, m),
        "mask": _mask(*lengths, width=width),
        "w_query": _draw(rng, a, d, spread=0.7),
        "w_memory": _draw(rng, a, m, spread=0.7),
        "v": _draw(rng, a, spread=spread),
        "direction": _draw(rng, batch, m),
    }
    return Case(name, inputs, hidden)


def additive_steps(case: Case) -> Mapping[str, np.ndarray]:
    """The two products, their sum under tanh, scores, weights and context."""
    names = ("query", "memory", "w_query", "w_memory", "v", "mask")
    query, memory, w_query, w_memory, v, mask = (torch.as_tensor(case[name]) for name in names)
    from_query, from_memory = query @ w_query.T, memory @ w_memory.T
    together = from_query[:, None] + from_memory
    scores = together.tanh() @ v
    weights = library.masked_softmax(scores, mask)
    context = (weights[:, None] @ memory)[:, 0]
    steps = {"W times the query": from_query, "U times the memory": from_memory, "their sum": together}
    steps |= {"the tanh of the sum": together.tanh(), "the scores": scores}
    steps |= {"the weights": weights, "the context": context}
    return {name: step.numpy() for name, step in steps.items()}


def _weights_of(scores: Tensor, mask: Tensor) -> Tensor:
    hidden = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return hidden.softmax(dim=-1).masked_fill(~mask, 0.0)


def _additive(
    query: Tensor, memory: Tensor, mask: Tensor, w_query: Tensor, w_memory: Tensor, v: Tensor
) -> tuple[Tensor, Tensor]:
    scores = torch.tanh((query @ w_query.T)[:, None] + memory @ w_memory.T) @ v
    weights = _weights_of(scores, mask)
    return (weights[:, None] @ memory)[:, 0], weights


def _additive_by_einsum(
    query: Tensor, memory: Tensor, mask: Tensor, w_query: Tensor, w_memory: Tensor, v: Tensor
) -> tuple[Tensor, Tensor]:
    left = torch.einsum("ad,bd->ba", w_query, query).unsqueeze(1)
    right = torch.einsum("am,bsm->bsa", w_memory, memory)
    scores = torch.einsum("a,bsa->bs", v, torch.tanh(left + right))
    weights = torch.nan_to_num(scores.masked_fill(~mask, float("-inf")).softmax(-1), nan=0.0)
    return torch.einsum("bs,bsm->bm", weights, memory), weights


def _additive_by_loops(
    query: Tensor, memory: Tensor, mask: Tensor, w_query: Tensor, w_memory: Tensor, v: Tensor
) -> tuple[Tensor, Tensor]:
    contexts, tables = [], []
    for one, vectors, real in zip(query, memory, mask, strict=True):
        scores = torch.stack([v @ torch.tanh(w_query @ one + w_memory @ vector) for vector in vectors])
        weights = torch.zeros_like(scores)
        if real.any():
            exponentials = (scores[real] - scores[real].max()).exp()
            weights = weights.masked_scatter(real, exponentials / exponentials.sum())
        tables.append(weights)
        contexts.append(weights @ vectors)
    return torch.stack(contexts), torch.stack(tables)


def _wrong_additive(
    *,
    combine: Callable[[Tensor, Tensor], Tensor] = lambda query, memory: query[:, None] + memory,
    inner: Callable[[Tensor], Tensor] = torch.tanh,
    weigh: Callable[[Tensor, Tensor], Tensor] = _weights_of,
    mix: Callable[[Tensor, Tensor], Tensor] = lambda weights, memory: (weights[:, None] @ memory)[:, 0],
    returns: Callable[[Tensor, Tensor], Any] = lambda context, weights: (context, weights),
) -> Callable[..., Any]:
    """Additive attention with one thing wrong; by default nothing is."""

    def attention(
        query: Tensor, memory: Tensor, mask: Tensor, w_query: Tensor, w_memory: Tensor, v: Tensor
    ) -> Any:
        scores = inner(combine(query @ w_query.T, memory @ w_memory.T)) @ v
        weights = weigh(scores, mask)
        return returns(mix(weights, memory), weights)

    return attention


def _over_the_batch(scores: Tensor, mask: Tensor) -> Tensor:
    filled = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return filled.softmax(dim=0).masked_fill(~mask, 0.0)


def _tanh_of_the_score(
    query: Tensor, memory: Tensor, mask: Tensor, w_query: Tensor, w_memory: Tensor, v: Tensor
) -> tuple[Tensor, Tensor]:
    scores = torch.tanh(((query @ w_query.T)[:, None] + memory @ w_memory.T) @ v)
    weights = _weights_of(scores, mask)
    return (weights[:, None] @ memory)[:, 0], weights


def _scaled_as_dot_products(
    query: Tensor, memory: Tensor, mask: Tensor, w_query: Tensor, w_memory: Tensor, v: Tensor
) -> tuple[Tensor, Tensor]:
    return _additive(query, memory, mask, w_query, w_memory, v / len(v) ** 0.5)


def _bare_exponentials(scores: Tensor, mask: Tensor) -> Tensor:
    exponentials = scores.exp() * mask
    return exponentials / (exponentials.sum(dim=-1, keepdim=True) + 1e-9)


ADDITIVE = Exercise(
    id="seq2seq_attention/additive",
    title="Additive attention",
    points=3,
    minutes=30,
    difficulty=2,
    cases=additive_cases,
    probe=probes.additive,
    reference=_additive,
    also_right=(_additive_by_einsum, _additive_by_loops),
    steps=additive_steps,
    tolerance=Tolerance(absolute=5e-4, relative=1e-3),
    forbidden=(*LIBRARY, *FUSED),
    library="course_lib.models.seq2seq:Attention",
    misconceptions=(
        Misconception(
            "the tanh is left out",
            _wrong_additive(inner=lambda together: together),
            "Without tanh the score is v·W q + v·U m: the query adds the same number to every score, and the "
            "softmax takes it out again. What the decoder asks would not matter at all.",
        ),
        Misconception(
            "the tanh comes after v",
            _tanh_of_the_score,
            "tanh goes over the sum W q + U m, entry by entry, and v weighs what comes out. Yours squeezes "
            "the finished score, and the query still makes no difference between tokens but this.",
        ),
        Misconception(
            "a sigmoid in place of the tanh",
            _wrong_additive(inner=torch.sigmoid),
            "The equation has tanh, which runs from −1 to 1. A sigmoid runs from 0 to 1.",
        ),
        Misconception(
            "a ReLU in place of the tanh",
            _wrong_additive(inner=torch.relu),
            "The equation has tanh. A ReLU has no upper bound, and drops every entry below 0.",
        ),
        Misconception(
            "the softmax runs over the batch",
            _wrong_additive(weigh=_over_the_batch),
            "The weights of one sentence sum to 1 over its tokens, the last axis of the scores. Yours sum to "
            "1 over the sentences, which have nothing to do with each other.",
        ),
        Misconception(
            "the padding is not hidden",
            _wrong_additive(weigh=lambda scores, mask: scores.softmax(dim=-1)),
            "Your result does not depend on the mask. Put the smallest number at the padding's scores before "
            "the softmax.",
        ),
        Misconception(
            "the mask comes after the softmax",
            _wrong_additive(weigh=lambda scores, mask: scores.softmax(dim=-1).masked_fill(~mask, 0.0)),
            "The padding has already taken part in the softmax's sum, and the weights of a padded sentence "
            "sum to less than 1. Hide the scores before the softmax.",
        ),
        Misconception(
            "the mask is inverted",
            _wrong_additive(weigh=lambda scores, mask: _weights_of(scores, ~mask)),
            "True means that there is a token. Hide the scores where the mask is False: `~mask`.",
        ),
        Misconception(
            "hidden scores are set to zero",
            _wrong_additive(weigh=lambda scores, mask: scores.masked_fill(~mask, 0.0).softmax(dim=-1)),
            "A score of 0 is not nothing: exp(0) = 1. Hidden scores need minus infinity, or the smallest "
            "number there is.",
        ),
        Misconception(
            "a sentence without tokens becomes NaN",
            _wrong_additive(
                weigh=lambda scores, mask: scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)
            ),
            "Where all scores are minus infinity the softmax is 0/0. Such a sentence gets weights of 0: fill "
            "with the smallest finite number, and set hidden weights to 0 afterwards.",
        ),
        Misconception(
            "a sentence without tokens looks everywhere",
            _wrong_additive(weigh=lambda scores, mask: scores.masked_fill(~mask, -1e9).softmax(dim=-1)),
            "With the same number at every place the softmax spreads evenly over padding. Set the hidden "
            "weights to 0 after the softmax, too.",
        ),
        Misconception(
            "the exponentials overflow",
            _wrong_additive(weigh=_bare_exponentials),
            "exp of a score above 88 is infinite in float32. Use `softmax`, or subtract the largest score of "
            "each sentence first.",
        ),
        Misconception(
            "the queries are laid along the tokens",
            _wrong_additive(combine=lambda query, memory: query + memory),
            "(b, a) + (b, s, a) lines up the sentences of the first with the tokens of the second. That "
            "fails, or, where there are as many of both, mixes the sentences. Give the query an axis: "
            "`query[:, None]`.",
        ),
        Misconception(
            "the query is left out",
            _wrong_additive(combine=lambda query, memory: 0 * query[:, None] + memory),
            "Your weights are the same whatever the decoder asks. W q belongs under the tanh.",
        ),
        Misconception(
            "the product of the two in place of their sum",
            _wrong_additive(combine=lambda query, memory: query[:, None] * memory),
            "The attention is called additive: W q + U m. You multiply the two.",
        ),
        Misconception(
            "the scores are divided by the root of their width",
            _scaled_as_dot_products,
            "That scale belongs to dot products. Here v is learned, and no scale is in the equation.",
        ),
        Misconception(
            "the context is the plain sum",
            _wrong_additive(mix=lambda weights, memory: memory.sum(dim=1)),
            "The context is the sum of the memory's vectors *in the shares of the weights*.",
        ),
        Misconception(
            "the context keeps an axis",
            _wrong_additive(mix=lambda weights, memory: weights[:, None] @ memory),
            "`weights[:, None] @ memory` has shape (b, 1, m). Take the middle axis away: `[:, 0]`.",
        ),
        Misconception(
            "the context is returned alone",
            _wrong_additive(returns=lambda context, weights: context),
            "The answer is a tuple of two tensors. End with `return context, weights`.",
        ),
        Misconception(
            "the weights come first",
            _wrong_additive(returns=lambda context, weights: (weights, context)),
            "The context stands first in the tuple, then the weights: `return context, weights`.",
        ),
    ),
    hints=(
        "Write the equation as four lines: what goes under the tanh, the scores, the weights, the context. "
        "Print the shape after each.",
        "`query @ w_query.T` is (b, a), and `memory @ w_memory.T` is (b, s, a). An axis of size 1 in the "
        "first, `[:, None]`, lets every token of a sentence meet the sentence's one query.",
        "`scores = torch.tanh(…) @ v` is (b, s). Fill the padding with `torch.finfo(scores.dtype).min`, take "
        "the softmax over the last axis, then `masked_fill(~mask, 0.0)`. The context is "
        "`(weights[:, None] @ memory)[:, 0]`.",
    ),
)

# --- seq2seq_attention/luong -------------------------------------------------------------------


def luong_cases(rng: np.random.Generator) -> Iterator[Case]:
    """The three scores, equal and unequal widths, as many sentences as tokens, one token, another kind."""
    yield _luong_case(rng, "dot", "dot", (2, 4), (5, 5))
    yield _luong_case(rng, "general with a square matrix", "general", (3, 2), (4, 4))
    yield _luong_case(rng, "general with two widths", "general", (2, 4), (3, 5))
    yield _luong_case(rng, "concat", "concat", (2, 5), (4, 4))
    yield _luong_case(rng, "concat with two widths", "concat", (3, 4), (5, 3), hidden=True)
    yield _luong_case(rng, "dot, as many sentences as tokens", "dot", (4, 4), (6, 6), hidden=True)
    yield _luong_case(rng, "concat, as many sentences as tokens", "concat", (4, 4), (3, 3), hidden=True)
    yield _luong_case(rng, "general with one token", "general", (2, 1), (3, 4), hidden=True)
    yield _luong_case(rng, "a kind that does not exist", "cosine", (2, 3), (4, 4), refused=True, hidden=True)


def _luong_case(
    rng: np.random.Generator,
    name: str,
    kind: str,
    sizes: tuple[int, int],
    widths: tuple[int, int],
    *,
    refused: bool = False,
    hidden: bool = False,
) -> Case:
    (batch, length), (d, m) = sizes, widths
    a = 6
    weight = {"general": _draw(rng, d, m), "concat": _draw(rng, a, d + m, spread=0.7)}
    inputs: dict[str, Any] = {
        "kind": kind,
        "query": _draw(rng, batch, d),
        "memory": _draw(rng, batch, length, m),
    }
    inputs |= {"weight": weight.get(kind), "v": _draw(rng, a) if kind == "concat" else None}
    return Case(name, inputs | {"refused": refused}, hidden)


def _luong(
    kind: str, query: Tensor, memory: Tensor, weight: Tensor | None = None, v: Tensor | None = None
) -> Tensor:
    return _wrong_luong()(kind, query, memory, weight, v)


def _dot(query: Tensor, memory: Tensor) -> Tensor:
    return (memory @ query[:, :, None])[..., 0]


def _general(query: Tensor, memory: Tensor, weight: Tensor) -> Tensor:
    return _dot(query @ weight, memory)


def _concat(query: Tensor, memory: Tensor, weight: Tensor, v: Tensor) -> Tensor:
    beside = query[:, None].expand(-1, memory.shape[1], -1)
    return torch.tanh(torch.cat([beside, memory], dim=-1) @ weight.T) @ v


def _refuse(kind: str) -> Any:
    raise ValueError(f"kind={kind!r}; expected dot, general or concat")


def _wrong_luong(
    *,
    dot: Callable[..., Any] = _dot,
    general: Callable[..., Any] = _general,
    concat: Callable[..., Any] = _concat,
    other: Callable[[str], Any] = _refuse,
    then: Callable[[Tensor], Tensor] = lambda scores: scores,
) -> Callable[..., Any]:
    """The three scores with one thing wrong; by default nothing is."""

    def score(
        kind: str, query: Tensor, memory: Tensor, weight: Tensor | None = None, v: Tensor | None = None
    ) -> Any:
        if kind == "dot":
            return then(dot(query, memory))
        if kind == "general":
            return then(general(query, memory, weight))
        if kind == "concat":
            return then(concat(query, memory, weight, v))
        return other(kind)

    return score


def _luong_by_einsum(
    kind: str, query: Tensor, memory: Tensor, weight: Tensor | None = None, v: Tensor | None = None
) -> Tensor:
    if kind not in ("dot", "general", "concat"):
        raise ValueError(kind)
    if kind == "dot":
        return torch.einsum("bd,bsd->bs", query, memory)
    assert weight is not None
    if kind == "general":
        return torch.einsum("bd,dm,bsm->bs", query, weight, memory)
    assert v is not None
    d = query.shape[1]
    left = torch.einsum("ad,bd->ba", weight[:, :d], query)[:, None]
    right = torch.einsum("am,bsm->bsa", weight[:, d:], memory)
    return torch.einsum("a,bsa->bs", v, (left + right).tanh())


def _luong_by_loops(
    kind: str, query: Tensor, memory: Tensor, weight: Tensor | None = None, v: Tensor | None = None
) -> Tensor:
    def one(q: Tensor, m: Tensor) -> Tensor:
        if kind == "dot":
            return q.dot(m)
        if kind == "general" and weight is not None:
            return q @ weight @ m
        if kind == "concat" and weight is not None and v is not None:
            return v.dot(torch.tanh(weight @ torch.cat([q, m])))
        raise ValueError("no such kind")

    return torch.stack(
        [torch.stack([one(q, m) for m in vectors]) for q, vectors in zip(query, memory, strict=True)]
    )


def _concat_memory_first(query: Tensor, memory: Tensor, weight: Tensor, v: Tensor) -> Tensor:
    beside = query[:, None].expand(-1, memory.shape[1], -1)
    return torch.tanh(torch.cat([memory, beside], dim=-1) @ weight.T) @ v


def _concat_without_tanh(query: Tensor, memory: Tensor, weight: Tensor, v: Tensor) -> Tensor:
    beside = query[:, None].expand(-1, memory.shape[1], -1)
    return torch.cat([beside, memory], dim=-1) @ weight.T @ v


def _concat_without_v(query: Tensor, memory: Tensor, weight: Tensor, v: Tensor) -> Tensor:
    beside = query[:, None].expand(-1, memory.shape[1], -1)
    return torch.tanh(torch.cat([beside, memory], dim=-1) @ weight.T).sum(dim=-1)


def _concat_along_the_tokens(query: Tensor, memory: Tensor, weight: Tensor, v: Tensor) -> Tensor:
    beside = query.expand(len(query), memory.shape[1], -1)
    return torch.tanh(torch.cat([beside, memory], dim=-1) @ weight.T) @ v


LUONG = Exercise(
    id="seq2seq_attention/luong",
    title="Luong's three scores",
    points=2,
    minutes=25,
    difficulty=2,
    cases=luong_cases,
    probe=probes.luong,
    reference=_luong,
    also_right=(_luong_by_einsum, _luong_by_loops),
    tolerance=Tolerance(absolute=5e-5, relative=2e-4),
    forbidden=LIBRARY,
    library="course_lib.models.seq2seq:Attention",
    misconceptions=(
        Misconception(
            "the matrix of general is transposed",
            _wrong_luong(general=lambda query, memory, weight: _general(query, memory, weight.T)),
            "The score is qᵀ W m, so W has a row for each entry of the query and a column for each entry of "
            "the memory: `query @ weight`. Yours is mᵀ W q.",
        ),
        Misconception(
            "general ignores its matrix",
            _wrong_luong(general=lambda query, memory, weight: _dot(query, memory)),
            "General has a matrix between the two, qᵀ W m. Without it, it is dot, and needs equal widths.",
        ),
        Misconception(
            "concat puts the memory first",
            _wrong_luong(concat=_concat_memory_first),
            "In [q; m] the query stands first. The other way round, the columns of W meet the wrong entries.",
        ),
        Misconception(
            "concat without its tanh",
            _wrong_luong(concat=_concat_without_tanh),
            "Concat is v · tanh(W [q; m]). Without tanh the query adds the same number to every score, and "
            "the softmax takes it out again.",
        ),
        Misconception(
            "concat without v",
            _wrong_luong(concat=_concat_without_v),
            "The entries of tanh(W [q; m]) are not added up as they are: v weighs them, `… @ v`.",
        ),
        Misconception(
            "concat lays the queries along the tokens",
            _wrong_luong(concat=_concat_along_the_tokens),
            "`expand` of (b, d) to (b, s, d) takes the sentences for tokens, where there are as many of "
            "both, and fails where not. Give the query its axis first: `query[:, None].expand(…)`.",
        ),
        Misconception(
            "dot is divided by the root of the width",
            _wrong_luong(dot=lambda query, memory: _dot(query, memory) / query.shape[-1] ** 0.5),
            "The scale 1/√d came two years later, with the Transformer. Luong's dot has none.",
        ),
        Misconception(
            "dot and general are divided by the root of the width",
            _wrong_luong(
                dot=lambda query, memory: _dot(query, memory) / query.shape[-1] ** 0.5,
                general=lambda query, memory, weight: (
                    _general(query, memory, weight) / query.shape[-1] ** 0.5
                ),
            ),
            "The scale 1/√d came two years later, with the Transformer. Luong's scores have none.",
        ),
        Misconception(
            "dot is divided by both norms",
            _wrong_luong(dot=lambda query, memory: F.cosine_similarity(query[:, None], memory, dim=-1)),
            "That is the cosine of the angle. Dot keeps the lengths of the two vectors.",
        ),
        Misconception(
            "each query meets the tokens of all sentences",
            _wrong_luong(dot=lambda query, memory: query @ memory.transpose(-2, -1)),
            "`query @ memory.transpose(-2, -1)` is (b, b, s): every query against every sentence. Each query "
            "belongs to one sentence; write `memory @ query[:, :, None]`, or an `einsum`.",
        ),
        Misconception(
            "the products are not added up",
            _wrong_luong(dot=lambda query, memory: query[:, None] * memory),
            "`query[:, None] * memory` is (b, s, d). Add up over the last axis: one number a token.",
        ),
        Misconception(
            "the products are added up over the tokens",
            _wrong_luong(dot=lambda query, memory: (query[:, None] * memory).sum(dim=1)),
            "The sum runs over the entries of the vectors, the last axis. Yours runs over the tokens, and "
            "leaves one number for each entry.",
        ),
        Misconception(
            "the scores keep an axis",
            _wrong_luong(then=lambda scores: scores[..., None]),
            "The scores are (b, s). `memory @ query[:, :, None]` has one axis more: end with `[..., 0]`.",
        ),
        Misconception(
            "the softmax is taken, too",
            _wrong_luong(then=lambda scores: scores.softmax(dim=-1)),
            "Asked for are the scores, before any softmax. Whoever calls the function hides the padding "
            "first.",
        ),
        Misconception(
            "another kind returns nothing",
            _wrong_luong(other=lambda kind: None),
            "A function that reaches its end returns None, and the mistake shows up far away. Raise a "
            "`ValueError` for a kind that is none of the three.",
        ),
    ),
    hints=(
        "Do `dot` first. What is its shape for one sentence, and which of torch's products does that for a "
        "batch of sentences, each with a query of its own?",
        "`memory @ query[:, :, None]` is (b, s, 1): the dot products. General is the same with "
        "`query @ weight` in place of the query.",
        "Concat: `query[:, None].expand(-1, memory.shape[1], -1)` repeats the query for each token; "
        "`torch.cat([…, memory], dim=-1) @ weight.T` is (b, s, a); then tanh, then `@ v`. Last line: "
        "`raise ValueError(…)`.",
    ),
)

# --- seq2seq_attention/step --------------------------------------------------------------------


def step_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Padded and not, equal widths, one token, no token."""
    yield _step_case(rng, "sentences without padding", (4, 4), (3, 5))
    yield _step_case(rng, "padded sentences", (5, 2, 3), (4, 6))
    yield _step_case(rng, "a word as wide as the state", (3, 2), (5, 5))
    yield _step_case(rng, "a sentence of one token", (1,), (3, 4), hidden=True)
    yield _step_case(rng, "as many sentences as tokens", (3, 3, 1), (2, 3), hidden=True)
    yield _step_case(rng, "a sentence without any token", (3, 0), (3, 4), hidden=True)


def _step_case(
    rng: np.random.Generator,
    name: str,
    lengths: tuple[int, ...],
    widths: tuple[int, int],
    hidden: bool = False,
) -> Case:
    (e, d), batch, width = widths, len(lengths), max(lengths)
    cell = {
        "weight_ih": _draw(rng, 3 * d, e + d, spread=0.6),
        "weight_hh": _draw(rng, 3 * d, d, spread=0.6),
        "bias_ih": _draw(rng, 3 * d, spread=0.3),
        "bias_hh": _draw(rng, 3 * d, spread=0.3),
    }
    inputs: dict[str, Any] = {"embedded": _draw(rng, batch, e), "hidden": np.tanh(_draw(rng, batch, d))}
    inputs |= {
        "attentional": np.tanh(_draw(rng, batch, d)),
        "memory": _draw(rng, batch, width, d, spread=1.5),
    }
    inputs |= {"mask": _mask(*lengths, width=width), "direction": _draw(rng, batch, d), "cell": cell}
    inputs["combine"] = {"weight": _draw(rng, d, 2 * d, spread=0.6), "bias": _draw(rng, d, spread=0.3)}
    return Case(name, inputs, hidden)


def _step(
    embedded: Tensor,
    hidden: Tensor,
    attentional: Tensor,
    memory: Tensor,
    mask: Tensor,
    cell: nn.GRUCell,
    combine: nn.Linear,
) -> tuple[Tensor, Tensor, Tensor]:
    found: tuple[Tensor, Tensor, Tensor] = _wrong_step()(
        embedded, hidden, attentional, memory, mask, cell, combine
    )
    return found


def _wrong_step(
    *,
    reads: str = "attentional",
    word_last: bool = False,
    looks_with: str = "new",
    score: Callable[[Tensor, Tensor], Tensor] = _dot,
    weigh: Callable[[Tensor, Tensor], Tensor] = _weights_of,
    combines: tuple[str, str] = ("context", "new"),
    squash: Callable[[Tensor], Tensor] = torch.tanh,
    returns: tuple[str, ...] = ("attentional", "new", "weights"),
) -> Callable[..., Any]:
    """A decoder's step with one thing wrong; by default nothing is."""

    def step(
        embedded: Tensor,
        hidden: Tensor,
        attentional: Tensor,
        memory: Tensor,
        mask: Tensor,
        cell: nn.GRUCell,
        combine: nn.Linear,
    ) -> tuple[Tensor, ...]:
        beside = {"attentional": attentional, "hidden": hidden, "nothing": torch.zeros_like(attentional)}
        read = [embedded, beside[reads]]
        known = {"old": hidden, "new": cell(torch.cat(read[::-1] if word_last else read, dim=-1), hidden)}
        known["weights"] = weigh(score(known[looks_with], memory), mask)
        known["context"] = (known["weights"][:, None] @ memory)[:, 0]
        together = torch.cat([known[name] for name in combines], dim=-1)
        known["attentional"] = squash(combine(together))
        return tuple(known[name] for name in returns)

    return step


def _step_by_gates(
    embedded: Tensor,
    hidden: Tensor,
    attentional: Tensor,
    memory: Tensor,
    mask: Tensor,
    cell: nn.GRUCell,
    combine: nn.Linear,
) -> tuple[Tensor, Tensor, Tensor]:
    read = F.linear(torch.cat([embedded, attentional], dim=1), cell.weight_ih, cell.bias_ih).chunk(3, dim=1)
    kept = F.linear(hidden, cell.weight_hh, cell.bias_hh).chunk(3, dim=1)
    reset, update = torch.sigmoid(read[0] + kept[0]), torch.sigmoid(read[1] + kept[1])
    new = torch.tanh(read[2] + reset * kept[2])
    state = new + update * (hidden - new)
    scores = torch.einsum("bd,bsd->bs", state, memory).masked_fill(~mask, float("-inf"))
    weights = torch.nan_to_num(scores.softmax(dim=-1), nan=0.0)
    context = torch.einsum("bs,bsd->bd", weights, memory)
    d = state.shape[1]
    found = context @ combine.weight[:, :d].T + state @ combine.weight[:, d:].T + combine.bias
    return found.tanh(), state, weights


def _step_sentence_by_sentence(
    embedded: Tensor,
    hidden: Tensor,
    attentional: Tensor,
    memory: Tensor,
    mask: Tensor,
    cell: nn.GRUCell,
    combine: nn.Linear,
) -> tuple[Tensor, Tensor, Tensor]:
    state = cell(torch.cat((embedded, attentional), -1), hidden)
    rows, tables = [], []
    for one, vectors, real in zip(state, memory, mask, strict=True):
        weights = torch.zeros(len(vectors))
        if real.any():
            weights = weights.masked_scatter(real, (vectors[real] @ one).softmax(0))
        tables.append(weights)
        rows.append(combine(torch.cat((weights @ vectors, one))).tanh())
    return torch.stack(rows), state, torch.stack(tables)


STEP = Exercise(
    id="seq2seq_attention/step",
    title="One step of the decoder",
    points=3,
    minutes=35,
    difficulty=3,
    cases=step_cases,
    probe=probes.step,
    reference=_step,
    also_right=(_step_by_gates, _step_sentence_by_sentence),
    tolerance=Tolerance(absolute=5e-5, relative=2e-4),
    forbidden=(*LIBRARY, *FUSED),
    library="course_lib.models.seq2seq:Decoder",
    misconceptions=(
        Misconception(
            "nothing is fed in beside the word",
            _wrong_step(reads="nothing"),
            "The cell reads the word and, behind it, `attentional`, the vector of the step before. Without "
            "it the decoder forgets where it has looked already.",
        ),
        Misconception(
            "the state is fed in, in place of the attentional vector",
            _wrong_step(reads="hidden"),
            "Behind the word stands `attentional`. The old state goes into the cell as its state, and only "
            "there.",
        ),
        Misconception(
            "the word stands behind the attentional vector",
            _wrong_step(word_last=True),
            "The cell reads the word first and `attentional` behind it: `torch.cat([embedded, attentional], "
            "dim=-1)`. In the other order the columns of its weights meet the wrong entries.",
        ),
        Misconception(
            "the old state looks",
            _wrong_step(looks_with="old"),
            "Luong's decoder takes its step first, and the *new* state looks. Looking with the old one is "
            "Bahdanau's order.",
        ),
        Misconception(
            "the old state is combined with the context",
            _wrong_step(combines=("context", "old")),
            "`combine` gets the context and the *new* state.",
        ),
        Misconception(
            "the state stands before the context",
            _wrong_step(combines=("new", "context")),
            "`combine` reads the context first and the new state behind it: [c; h].",
        ),
        Misconception(
            "the tanh is left out",
            _wrong_step(squash=lambda together: together),
            "The attentional vector is the *tanh* of `combine`. Without it, it grows from step to step, "
            "since it is fed in again.",
        ),
        Misconception(
            "the dot products are scaled",
            _wrong_step(score=lambda state, memory: _dot(state, memory) / state.shape[-1] ** 0.5),
            "The scores are plain dot products; the scale 1/√d came with the Transformer.",
        ),
        Misconception(
            "the softmax runs over the batch",
            _wrong_step(weigh=_over_the_batch),
            "The weights of one sentence sum to 1 over its tokens, the last axis. Yours sum to 1 over the "
            "sentences.",
        ),
        Misconception(
            "the padding is not hidden",
            _wrong_step(weigh=lambda scores, mask: scores.softmax(dim=-1)),
            "Your result does not depend on the mask. Hide the padding's scores before the softmax.",
        ),
        Misconception(
            "the mask comes after the softmax",
            _wrong_step(weigh=lambda scores, mask: scores.softmax(dim=-1).masked_fill(~mask, 0.0)),
            "The padding has already taken part in the softmax's sum. Hide the scores before the softmax.",
        ),
        Misconception(
            "the mask is inverted",
            _wrong_step(weigh=lambda scores, mask: _weights_of(scores, ~mask)),
            "True means that there is a token. Hide the scores where the mask is False: `~mask`.",
        ),
        Misconception(
            "a sentence without tokens becomes NaN",
            _wrong_step(weigh=lambda scores, mask: scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)),
            "Where all scores are minus infinity the softmax is 0/0. Fill with the smallest finite number, "
            "and set hidden weights to 0 afterwards.",
        ),
        Misconception(
            "a sentence without tokens looks everywhere",
            _wrong_step(weigh=lambda scores, mask: scores.masked_fill(~mask, -1e9).softmax(dim=-1)),
            "With the same number at every place the softmax spreads evenly over padding. Set the hidden "
            "weights to 0 after the softmax, too.",
        ),
        Misconception(
            "the old state is returned",
            _wrong_step(returns=("attentional", "old", "weights")),
            "The second of the three is the *new* state, from which the next step starts.",
        ),
        Misconception(
            "the context is returned in place of the attentional vector",
            _wrong_step(returns=("context", "new", "weights")),
            "The context is half of what `combine` reads. The first of the three is tanh of `combine`.",
        ),
        Misconception(
            "the state stands first in the tuple",
            _wrong_step(returns=("new", "attentional", "weights")),
            "The order is `(attentional, hidden, weights)`.",
        ),
        Misconception(
            "the weights are not returned",
            _wrong_step(returns=("attentional", "new")),
            "The answer is a tuple of three tensors, `(attentional, hidden, weights)`.",
        ),
    ),
    hints=(
        "Four lines, in the order of the statement. Name what is new differently from what is old until the "
        "values are right.",
        "`hidden = cell(torch.cat([embedded, attentional], dim=-1), hidden)` is the first line. From here on "
        "`hidden` is the new state, and everything looks with it.",
        "Scores `torch.einsum('bd,bsd->bs', hidden, memory)`; weights as in exercise 2; context "
        "`torch.einsum('bs,bsd->bd', weights, memory)`; last `torch.tanh(combine(torch.cat([context, "
        "hidden], dim=-1)))`.",
    ),
)

# --- seq2seq_attention/all_steps ---------------------------------------------------------------


def all_steps_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Padded and not, as many steps as tokens, no token, long, bfloat16."""
    yield _all_steps_case(rng, "sentences without padding", (5, 5), 7, (4, 4))
    yield _all_steps_case(rng, "padded sentences, two widths", (6, 3, 2), 9, (4, 6))
    yield _all_steps_case(rng, "as many steps as tokens", (8, 5), 8, (5, 5))
    yield _all_steps_case(rng, "a sentence without any token", (4, 0), 7, (3, 5), hidden=True)
    yield _all_steps_case(rng, "many steps", (30, 12), 60, (8, 8), hidden=True)
    yield _all_steps_case(rng, "bfloat16", (6, 4), 8, (8, 8), dtype="bfloat16", hidden=True)


def _all_steps_case(
    rng: np.random.Generator,
    name: str,
    lengths: tuple[int, ...],
    steps: int,
    widths: tuple[int, int],
    *,
    dtype: str = "float32",
    hidden: bool = False,
) -> Case:
    (d, m), batch, width = widths, len(lengths), max(lengths)
    inputs: dict[str, Any] = {
        "hidden": np.tanh(_draw(rng, batch, steps, d)),
        "memory": _draw(rng, batch, width, m),
        "mask": _mask(*lengths, width=width),
        "general": _draw(rng, d, m, spread=0.8),
        "combine": _draw(rng, d, m + d, spread=0.6),
        "direction": _draw(rng, batch, steps, d),
        "dtype": dtype,
    }
    return Case(name, inputs, hidden)


def _all_steps(
    hidden: Tensor, memory: Tensor, mask: Tensor, general: Tensor, combine: Tensor
) -> tuple[Tensor, Tensor]:
    found: tuple[Tensor, Tensor] = _wrong_all_steps()(hidden, memory, mask, general, combine)
    return found


def _weights_of_steps(scores: Tensor, mask: Tensor) -> Tensor:
    return _weights_of(scores, mask[:, None].expand_as(scores))


def _wrong_all_steps(
    *,
    score: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda hidden, memory, general: (
        hidden @ general @ memory.transpose(1, 2)
    ),
    weigh: Callable[[Tensor, Tensor], Tensor] = _weights_of_steps,
    context_last: bool = False,
    squash: Callable[[Tensor], Tensor] = torch.tanh,
    returns: Callable[[Tensor, Tensor, Tensor], Any] = lambda attentional, weights, context: (
        attentional,
        weights,
    ),
) -> Callable[..., Any]:
    """All steps at once with one thing wrong; by default nothing is."""

    def attend(hidden: Tensor, memory: Tensor, mask: Tensor, general: Tensor, combine: Tensor) -> Any:
        weights = weigh(score(hidden, memory, general), mask)
        context = weights @ memory
        parts = [hidden, context] if context_last else [context, hidden]
        return returns(squash(torch.cat(parts, dim=-1) @ combine.T), weights, context)

    return attend


def _all_steps_by_einsum(
    hidden: Tensor, memory: Tensor, mask: Tensor, general: Tensor, combine: Tensor
) -> tuple[Tensor, Tensor]:
    keys = torch.einsum("dm,bsm->bsd", general, memory)
    scores = torch.einsum("btd,bsd->bts", hidden, keys).masked_fill(~mask.unsqueeze(1), float("-inf"))
    weights = torch.nan_to_num(torch.softmax(scores, dim=2), nan=0.0)
    context = torch.einsum("bts,bsm->btm", weights, memory)
    m = memory.shape[-1]
    return torch.tanh(context @ combine[:, :m].T + hidden @ combine[:, m:].T), weights


def _all_steps_in_float32(
    hidden: Tensor, memory: Tensor, mask: Tensor, general: Tensor, combine: Tensor
) -> tuple[Tensor, Tensor]:
    wide = memory.float()
    scores = torch.bmm(torch.matmul(hidden.float(), general.float()), wide.mT)
    allowed = mask[:, None, :].expand_as(scores)
    scores = torch.where(allowed, scores, scores.new_tensor(-1e30))
    weights = torch.where(allowed, scores.softmax(-1), scores.new_zeros(()))
    joined = torch.cat([torch.bmm(weights, wide), hidden.float()], dim=2)
    return F.linear(joined, combine.float()).tanh().to(hidden.dtype), weights.to(hidden.dtype)


def _step_by_step(
    hidden: Tensor, memory: Tensor, mask: Tensor, general: Tensor, combine: Tensor
) -> tuple[Tensor, Tensor]:
    vectors, tables = [], []
    for state in hidden.unbind(dim=1):
        weights = _weights_of(_dot(state @ general, memory), mask)
        context = (weights[:, None] @ memory)[:, 0]
        vectors.append(torch.tanh(torch.cat([context, state], dim=-1) @ combine.T))
        tables.append(weights)
    return torch.stack(vectors, dim=1), torch.stack(tables, dim=1)


def _over_the_steps(scores: Tensor, mask: Tensor) -> Tensor:
    filled = scores.masked_fill(~mask[:, None], torch.finfo(scores.dtype).min)
    return filled.softmax(dim=1).masked_fill(~mask[:, None], 0.0)


def _hides_later_tokens(scores: Tensor, mask: Tensor) -> Tensor:
    earlier = torch.ones(scores.shape[1:], dtype=torch.bool, device=scores.device).tril()
    return _weights_of(scores, mask[:, None] & earlier)


def _wide_weights(scores: Tensor, mask: Tensor) -> Tensor:
    return _weights_of_steps(scores.float(), mask)


ALL_STEPS = Exercise(
    id="seq2seq_attention/all_steps",
    title="All steps at once",
    points=3,
    minutes=35,
    difficulty=3,
    gpu=True,
    cases=all_steps_cases,
    probe=probes.all_steps,
    reference=_all_steps,
    also_right=(_all_steps_by_einsum, _all_steps_in_float32),
    tolerance=Tolerance(absolute=1e-4, relative=5e-4, half=4e-2),
    forbidden=(*LIBRARY, *FUSED),
    library="course_lib.models.seq2seq:Attention",
    misconceptions=(
        Misconception(
            "a loop over the steps",
            _step_by_step,
            "The numbers are right, but each step has operations of its own. `hidden @ general` works on "
            "(b, t, d) as it is, and a product with `memory.transpose(1, 2)` gives the scores of all steps.",
        ),
        Misconception(
            "the mask hides steps in place of tokens",
            _wrong_all_steps(weigh=lambda scores, mask: _weights_of(scores, mask[:, :, None])),
            "`mask[:, :, None]` lines up tokens with steps. The mask belongs to the last axis of (b, t, s), "
            "the same for all steps: `mask[:, None]`.",
        ),
        Misconception(
            "the padding is not hidden",
            _wrong_all_steps(weigh=lambda scores, mask: scores.softmax(dim=-1)),
            "Your result does not depend on the mask. Hide the padding's scores before the softmax.",
        ),
        Misconception(
            "the mask comes after the softmax",
            _wrong_all_steps(
                weigh=lambda scores, mask: scores.softmax(dim=-1).masked_fill(~mask[:, None], 0.0)
            ),
            "The padding has already taken part in the softmax's sum. Hide the scores before the softmax.",
        ),
        Misconception(
            "the mask is inverted",
            _wrong_all_steps(weigh=lambda scores, mask: _weights_of_steps(scores, ~mask)),
            "True means that there is a token. Hide the scores where the mask is False: `~mask[:, None]`.",
        ),
        Misconception(
            "the softmax runs over the steps",
            _wrong_all_steps(weigh=_over_the_steps),
            "Each step shares out its attention among the tokens: the softmax is over the last axis of "
            "(b, t, s). Yours lets the steps share a token.",
        ),
        Misconception(
            "later tokens are hidden",
            _wrong_all_steps(weigh=_hides_later_tokens),
            "The source is there from the beginning: every step may look at every token of it. What has to "
            "be hidden from a decoder is the future of the *target*.",
        ),
        Misconception(
            "the matrix is left out",
            _wrong_all_steps(score=lambda hidden, memory, general: hidden @ memory.transpose(1, 2)),
            "The score is *general*: hᵀ W m. Without W the two widths have to be equal, and here they need "
            "not.",
        ),
        Misconception(
            "the scores are divided by the root of the width",
            _wrong_all_steps(
                score=lambda hidden, memory, general: (
                    hidden @ general @ memory.transpose(1, 2) / memory.shape[-1] ** 0.5
                )
            ),
            "No scale is asked for: *general* has a matrix that can learn one.",
        ),
        Misconception(
            "the states stand before the contexts",
            _wrong_all_steps(context_last=True),
            "`combine` meets the context first and the state behind it: [c; h].",
        ),
        Misconception(
            "the tanh is left out",
            _wrong_all_steps(squash=lambda together: together),
            "The attentional vector is the *tanh* of the product.",
        ),
        Misconception(
            "a sentence without tokens becomes NaN",
            _wrong_all_steps(
                weigh=lambda scores, mask: scores.masked_fill(~mask[:, None], float("-inf")).softmax(dim=-1)
            ),
            "Where all scores are minus infinity the softmax is 0/0. Fill with the smallest finite number, "
            "and set hidden weights to 0 afterwards.",
        ),
        Misconception(
            "a sentence without tokens looks everywhere",
            _wrong_all_steps(
                weigh=lambda scores, mask: scores.masked_fill(
                    ~mask[:, None], torch.finfo(scores.dtype).min
                ).softmax(dim=-1)
            ),
            "With the same number at every place the softmax spreads evenly over padding. Set the hidden "
            "weights to 0 after the softmax, too.",
        ),
        Misconception(
            "the weights are returned in float32",
            _wrong_all_steps(returns=lambda attentional, weights, context: (attentional, weights.float())),
            "Whatever you compute in between, both results have the dtype of the inputs: end with "
            "`.to(hidden.dtype)`.",
        ),
        Misconception(
            "the contexts are returned",
            _wrong_all_steps(returns=lambda attentional, weights, context: (context, weights)),
            "The contexts go through `combine`, together with the states. Return tanh of that.",
        ),
        Misconception(
            "the weights come first",
            _wrong_all_steps(returns=lambda attentional, weights, context: (weights, attentional)),
            "The order is `(attentional, weights)`.",
        ),
    ),
    hints=(
        "Write the shapes of one step on paper, without b. Which of torch's products does the same for t "
        "rows as for one?",
        "`hidden @ general` is (b, t, m). Its product with `memory.transpose(1, 2)` is (b, t, s), one row of "
        "scores for each step. The mask needs an axis for the steps: `mask[:, None]`.",
        "`weights @ memory` is (b, t, m), all contexts. `torch.cat([context, hidden], dim=-1) @ combine.T` "
        "works on the last axis, whatever stands before it; then tanh.",
    ),
)

# --- seq2seq_attention/judge -------------------------------------------------------------------

Sentences = list[list[int]]
Links = list[set[tuple[int, int]]]


def judge_cases(rng: np.random.Generator) -> Iterator[Case]:
    """A fixed vector that breaks, two that fail together, a weak start, a worse attention, one sentence."""
    # By source length: the share of words that each model gets right.
    breaks = {4: (1, 1), 8: (0.9, 1), 12: (0.5, 1), 16: (0.2, 0.95)}
    yield _judge_case(rng, "a fixed vector that breaks", breaks)
    both_fail = {3: (0.9, 0.9), 6: (0.5, 0.55), 9: (0.2, 0.25)}
    yield _judge_case(rng, "two models that fail together", both_fail)
    late = {5: (0.3, 0.35), 10: (0.9, 0.95), 15: (0.45, 0.95), 20: (0.05, 1), 25: (0.3, 0.9)}
    yield _judge_case(rng, "weak at the start, broken later", late, hidden=True)
    better = {6: (1, 0.4), 12: (0.95, 0.5)}
    yield _judge_case(rng, "attention is the worse one", better, hidden=True)
    yield _judge_case(rng, "one sentence", {7: (0.3, 1)}, count=1, hidden=True)


def _judge_case(
    rng: np.random.Generator,
    name: str,
    levels: Mapping[int, tuple[float, float]],
    count: int = 4,
    hidden: bool = False,
) -> Case:
    rows = [(length, *levels[length]) for length in levels for _ in range(count)]
    order = rng.permutation(len(rows))
    columns: dict[str, list[Any]] = {
        name: [] for name in ("lengths", "references", "fixed", "attended", "weights", "gold")
    }
    for place, row in enumerate(order):
        length, fixed, attended = rows[row]
        size = int(rng.integers(10, 30))
        reference = [int(word) for word in rng.integers(3, 60, size=size)]
        columns["lengths"].append(length)
        columns["references"].append(reference)
        columns["fixed"].append(_spoilt(rng, reference, fixed, place % 4))
        columns["attended"].append(_spoilt(rng, reference, attended, 0))
        weights, links = _alignment(rng, size, length)
        columns["weights"].append(weights)
        columns["gold"].append(links)
    return Case(name, columns, hidden)


def _spoilt(rng: np.random.Generator, reference: list[int], share: float, form: int) -> list[int]:
    """A translation with about that share of right words: as long as it should be, too long, or too short.

    Forms 1 and 2 have words too many or too few at the end, form 3 has right words at wrong places.
    """
    size = len(reference)
    right = round(share * size)
    wrong = set(rng.permutation(size)[right:].tolist())
    written = [word + 100 if place in wrong else word for place, word in enumerate(reference)]
    if form == 1 and share < 1:
        written += [int(word) for word in rng.integers(200, 260, size=2)]
    if form == 2 and share < 1:
        written = written[:-2]
    if form == 3 and share < 1:
        written = [
            reference[size - 1 - place] if place in wrong else word for place, word in enumerate(written)
        ]
    return written


def _alignment(rng: np.random.Generator, size: int, length: int) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Weights (size, length) that mostly look at the gold source, and gold links, some words without any."""
    table = rng.random((size, length)).astype(np.float32) * 0.2
    links = []
    for target in range(size):
        source = int(rng.integers(length))
        if rng.random() < 0.75:
            table[target, source] += 1
        else:
            table[target, int(rng.integers(length))] += 1
        if rng.random() < 0.8:
            links.append((source, target))
            if rng.random() < 0.2:
                links.append(((source + 1) % length, target))
    return table / table.sum(axis=1, keepdims=True), sorted(set(links))


def _quality(written: list[int], reference: list[int]) -> float:
    same = sum(one == other for one, other in zip(written, reference, strict=False))
    return same / max(len(written), len(reference))


def _mean_by_length(
    lengths: list[int],
    model: Sentences,
    references: Sentences,
    quality: Callable[[list[int], list[int]], float],
) -> dict[int, float]:
    found: dict[int, list[float]] = {}
    for length, written, reference in zip(lengths, model, references, strict=True):
        found.setdefault(length, []).append(quality(written, reference))
    return {length: sum(values) / len(values) for length, values in found.items()}


def _largest(table: Tensor) -> set[tuple[int, int]]:
    return {(source, target) for target, source in enumerate(table.argmax(dim=1).tolist())}


def _pooled_error(found: Links, gold: Links) -> float:
    both = sum(len(ours & theirs) for ours, theirs in zip(found, gold, strict=True))
    return 1 - 2 * both / sum(len(ours) + len(theirs) for ours, theirs in zip(found, gold, strict=True))


def _smallest_break(quality: dict[int, tuple[float, float]]) -> int | None:
    return min((length for length, (one, other) in quality.items() if other - one > 0.25), default=None)


def _wrong_judge(
    *,
    quality: Callable[[list[int], list[int]], float] = _quality,
    mean: Callable[..., dict[int, float]] = _mean_by_length,
    choose: Callable[[dict[int, tuple[float, float]]], int | None] = _smallest_break,
    link: Callable[[Tensor], set[tuple[int, int]]] = _largest,
    error: Callable[[Links, Links], float] = _pooled_error,
    form: Callable[[dict[int, tuple[float, float]]], Any] = lambda found: found,
) -> Callable[..., Any]:
    """The judgement with one thing wrong; by default nothing is."""

    def judge(
        lengths: list[int],
        references: Sentences,
        fixed: Sentences,
        attended: Sentences,
        weights: list[Tensor],
        gold: Links,
    ) -> tuple[Any, int | None, float]:
        one, other = (mean(lengths, model, references, quality) for model in (fixed, attended))
        found = {length: (one[length], other[length]) for length in one}
        return form(found), choose(found), error([link(table) for table in weights], gold)

    return judge


def _judge(
    lengths: list[int],
    references: Sentences,
    fixed: Sentences,
    attended: Sentences,
    weights: list[Tensor],
    gold: Links,
) -> tuple[dict[int, tuple[float, float]], int | None, float]:
    found: tuple[dict[int, tuple[float, float]], int | None, float] = _wrong_judge()(
        lengths, references, fixed, attended, weights, gold
    )
    return found


def _judge_by_arrays(
    lengths: list[int],
    references: Sentences,
    fixed: Sentences,
    attended: Sentences,
    weights: list[Tensor],
    gold: Links,
) -> tuple[dict[int, tuple[float, float]], int | None, float]:
    scores = np.zeros((len(lengths), 2))
    for column, model in enumerate((fixed, attended)):
        for row, (written, reference) in enumerate(zip(model, references, strict=True)):
            width = max(len(written), len(reference))
            ours, theirs = np.full(width, -1), np.full(width, -2)
            ours[: len(written)], theirs[: len(reference)] = written, reference
            scores[row, column] = (ours == theirs).mean()
    sizes = np.array(lengths)
    quality: dict[int, tuple[float, float]] = {}
    breaks_at = None
    for length in sorted(set(lengths)):
        first, second = (float(value) for value in scores[sizes == length].mean(axis=0))
        quality[length] = (first, second)
        if breaks_at is None and first + 0.25 < second:
            breaks_at = length
    hits = sum(
        (int(row.argmax()), j) in own
        for table, own in zip(weights, gold, strict=True)
        for j, row in enumerate(table)
    )
    links = sum(len(table) for table in weights) + sum(map(len, gold))
    return quality, breaks_at, (links - 2 * hits) / links


def _pool_the_words(
    lengths: list[int],
    model: Sentences,
    references: Sentences,
    quality: Callable[[list[int], list[int]], float],
) -> dict[int, float]:
    sums: dict[int, tuple[float, int]] = {}
    for length, written, reference in zip(lengths, model, references, strict=True):
        size = max(len(written), len(reference))
        same, words = sums.get(length, (0.0, 0))
        sums[length] = (same + quality(written, reference) * size, words + size)
    return {length: same / words for length, (same, words) in sums.items()}


def _mean_of_errors(found: Links, gold: Links) -> float:
    rates = [_pooled_error([ours], [theirs]) for ours, theirs in zip(found, gold, strict=True)]
    return sum(rates) / len(rates)


def _counts(found: Links, gold: Links) -> tuple[int, int, int]:
    both = sum(len(ours & theirs) for ours, theirs in zip(found, gold, strict=True))
    return both, sum(map(len, found)), sum(map(len, gold))


def _missed_precision(found: Links, gold: Links) -> float:
    both, ours, _ = _counts(found, gold)
    return 1 - both / ours


def _missed_recall(found: Links, gold: Links) -> float:
    both, _, theirs = _counts(found, gold)
    return 1 - both / theirs


def _agreement_itself(found: Links, gold: Links) -> float:
    return 1 - _pooled_error(found, gold)


def _without_the_two(found: Links, gold: Links) -> float:
    both, ours, theirs = _counts(found, gold)
    return 1 - both / (ours + theirs)


def _of_the_union(found: Links, gold: Links) -> float:
    both, ours, theirs = _counts(found, gold)
    return 1 - both / (ours + theirs - both)


def _words_in_common(written: list[int], reference: list[int]) -> float:
    common = sum(min(written.count(word), reference.count(word)) for word in set(reference))
    return common / max(len(written), len(reference))


JUDGE = Exercise(
    id="seq2seq_attention/judge",
    title="Find the bottleneck, and score the alignment",
    points=4,
    minutes=45,
    difficulty=3,
    cases=judge_cases,
    probe=probes.judge,
    reference=_judge,
    also_right=(_judge_by_arrays, _wrong_judge(form=lambda found: dict(sorted(found.items())))),
    forbidden=(
        *LIBRARY,
        "course_lib.models.alignment.alignment_error_rate",
        *(f"course_lib.recipes.seq2seq.{name}" for name in ("links_of", "quality")),
    ),
    misconceptions=(
        Misconception(
            "the quality is divided by the length of the reference",
            _wrong_judge(
                quality=lambda written, reference: (
                    _quality(written, reference) * max(len(written), len(reference)) / len(reference)
                )
            ),
            "Words too many cost nothing that way. Divide by the longer of the two.",
        ),
        Misconception(
            "the quality is divided by the length of the translation",
            _wrong_judge(
                quality=lambda written, reference: (
                    _quality(written, reference) * max(len(written), len(reference)) / max(1, len(written))
                )
            ),
            "A translation that stops after its first right word would be perfect. Divide by the longer of "
            "the two.",
        ),
        Misconception(
            "the quality is divided by the shorter length",
            _wrong_judge(
                quality=lambda written, reference: (
                    _quality(written, reference)
                    * max(len(written), len(reference))
                    / max(1, min(len(written), len(reference)))
                )
            ),
            "`zip` stops at the shorter of the two, and what is missing or too much goes unseen. Divide by "
            "the longer.",
        ),
        Misconception(
            "a translation is right or wrong as a whole",
            _wrong_judge(quality=lambda written, reference: float(written == reference)),
            "The quality is a share of places, not all or nothing: long sentences would look bad only for "
            "having more places to go wrong at.",
        ),
        Misconception(
            "words count wherever they stand",
            _wrong_judge(quality=_words_in_common),
            "A word counts where it stands at the same place as in the reference. The order is half of a "
            "translation.",
        ),
        Misconception(
            "the words of a length are pooled",
            _wrong_judge(mean=_pool_the_words),
            "Asked for is the mean over sentences: each sentence of a length counts once, however many words "
            "it has.",
        ),
        Misconception(
            "the fixed vector is measured by itself",
            _wrong_judge(
                choose=lambda found: min((k for k, (one, _) in found.items() if one < 0.75), default=None)
            ),
            "Sentences can be hard for both models. The fixed vector breaks where it falls behind the "
            "*other* one, by more than 0.25.",
        ),
        Misconception(
            "the sign of the gap is ignored",
            _wrong_judge(
                choose=lambda found: min(
                    (k for k, (one, two) in found.items() if abs(one - two) > 0.25), default=None
                )
            ),
            "Where attention is the worse of the two, the fixed vector has not broken. Leave out `abs`.",
        ),
        Misconception(
            "the largest length in place of the smallest",
            _wrong_judge(
                choose=lambda found: max(
                    (k for k, (one, two) in found.items() if two - one > 0.25), default=None
                )
            ),
            "Asked for is where it begins to break: the smallest of those lengths.",
        ),
        Misconception(
            "the length with the largest gap",
            _wrong_judge(
                choose=lambda found: (
                    max(found, key=lambda k: found[k][1] - found[k][0])
                    if _smallest_break(found) is not None
                    else None
                )
            ),
            "Asked for is the smallest length with a gap of more than 0.25, not the one with the largest "
            "gap.",
        ),
        Misconception(
            "the links go from target to source",
            _wrong_judge(link=lambda table: {(target, source) for source, target in _largest(table)}),
            "A pair is `(source index, target index)`, as in the gold. Yours has the two exchanged.",
        ),
        Misconception(
            "each source token picks a target word",
            _wrong_judge(
                link=lambda table: {
                    (source, target) for source, target in enumerate(table.argmax(dim=0).tolist())
                }
            ),
            "A row of `weights` is one target word: the largest of each *row*, `argmax(dim=1)`, is the link.",
        ),
        Misconception(
            "every weight above one half is a link",
            _wrong_judge(
                link=lambda table: {(source, target) for target, source in (table > 0.5).nonzero().tolist()}
            ),
            "Every target word has exactly one link, to the token with the largest weight, however large it "
            "is.",
        ),
        Misconception(
            "the mean of the sentences' error rates",
            _wrong_judge(error=_mean_of_errors),
            "The error rate is taken over all sentences together: add up the links first, then divide.",
        ),
        Misconception(
            "the share of wrong links among those found",
            _wrong_judge(error=_missed_precision),
            "That is one minus the precision. The error rate also counts gold links that were not found: "
            "divide by |A| + |G|.",
        ),
        Misconception(
            "the share of gold links that were not found",
            _wrong_judge(error=_missed_recall),
            "That is one minus the recall. The error rate also counts links that are not gold: divide by "
            "|A| + |G|.",
        ),
        Misconception(
            "the agreement in place of the error",
            _wrong_judge(error=_agreement_itself),
            "2 |A ∩ G| / (|A| + |G|) is how much agrees. The error rate is 1 minus that.",
        ),
        Misconception(
            "the factor 2 is left out",
            _wrong_judge(error=_without_the_two),
            "A perfect alignment has |A ∩ G| = |A| = |G|, and an error of 0: that takes the 2 in front.",
        ),
        Misconception(
            "the union in place of the sum",
            _wrong_judge(error=_of_the_union),
            "You divide by |A ∪ G|, where the links in common count once. The error rate has |A| + |G|, "
            "where they count twice, and a 2 in front.",
        ),
    ),
    hints=(
        "Three small functions: the quality of one translation, the mean over the sentences of one length, "
        "and the links of one table of weights.",
        "`zip` stops at the shorter list, which is right for counting equal places; the division is by "
        "`max(len(…), len(…))`. Group by length with a dict of lists.",
        "`{(source, target) for target, source in enumerate(table.argmax(dim=1).tolist())}` are the links of "
        "one sentence. Add up `len(found & links)` and `len(found) + len(links)` over all sentences before "
        "you divide. `min(…, default=None)` for the length.",
    ),
)

EXERCISES = (TEACHER_FORCING, ADDITIVE, LUONG, STEP, ALL_STEPS, JUDGE)
