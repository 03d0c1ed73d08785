"""Exercises of 13_gpt: what is asked, what is right, and how people go wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .exercise import Case, Exercise, Misconception, Score, Tolerance
from .probes import gpt as probes

# The library's own versions are no answers, nor parts of one, to any exercise of the chapter.
LIBRARY = (
    "course_lib.training.language_model.next_token_loss",
    "course_lib.training.language_model.text_loss",
    "course_lib.generation.generate",
    "course_lib.generation.keep_likeliest",
    "course_lib.models.gpt.GPT",
    "course_lib.models.gpt.Block",
    "course_lib.models.gpt.CausalAttention",
    "course_lib.layers.block.TransformerBlock",
    "course_lib.layers.multi_head.MultiHeadAttention",
)
TORCH_LAYERS = (
    "torch.nn.MultiheadAttention",
    "torch.nn.TransformerEncoderLayer",
    "torch.nn.TransformerDecoderLayer",
)
CROSS_ENTROPY = (
    "torch.nn.functional.cross_entropy",
    "torch.nn.functional.linear_cross_entropy",
    "torch.nn.CrossEntropyLoss",
    "torch._C._nn.cross_entropy_loss",
)


def _draw(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


# --- gpt/shifted_loss --------------------------------------------------------------------------


def shifted_cases(rng: np.random.Generator) -> Iterator[Case]:
    """With and without padding; a row of one token; one row alone; huge logits; two tokens."""
    yield _shifted_case(rng, "two texts of five tokens", 7, [5, 5])
    yield _shifted_case(rng, "padding behind two of three texts", 6, [6, 3, 4], masked=True)
    yield _shifted_case(rng, "a text of a single token", 8, [1, 5, 3], masked=True, hidden=True)
    yield _shifted_case(rng, "one text of two tokens", 5, [2], hidden=True)
    yield _shifted_case(rng, "a mask without any padding", 5, [4, 4], masked=True, hidden=True)
    yield _shifted_case(rng, "logits of some hundreds", 6, [4, 3], masked=True, spread=300.0, hidden=True)


def _shifted_case(
    rng: np.random.Generator,
    name: str,
    vocabulary: int,
    lengths: list[int],
    masked: bool = False,
    spread: float = 2.0,
    hidden: bool = False,
) -> Case:
    shape = (len(lengths), max(lengths))
    # A mean of each vector of logits that is not 0, so that forgotten normalisation shows.
    logits = spread * _draw(rng, *shape, vocabulary) + rng.uniform(0.5, 1.5, size=(*shape, 1))
    mask = np.arange(shape[1]) < np.array(lengths)[:, None]
    ids = rng.integers(vocabulary, size=shape)
    inputs = {"logits": logits.astype(np.float32), "ids": ids, "mask": mask if masked else None}
    return Case(name, inputs, hidden)


def _shifted(logits: Tensor, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    log_probs = F.log_softmax(logits[:, :-1], dim=-1)
    losses = -log_probs.gather(-1, ids[:, 1:, None])[..., 0]
    return losses.mean() if mask is None else losses[mask[:, 1:]].mean()


def _shifted_by_weights(logits: Tensor, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    right = logits[:, :-1].gather(-1, ids[:, 1:].unsqueeze(-1)).squeeze(-1)
    losses = logits[:, :-1].logsumexp(dim=-1) - right
    counted = torch.ones_like(losses) if mask is None else mask[:, 1:].to(losses.dtype)
    return (losses * counted).sum() / counted.sum()


def _shifted_by_nll(logits: Tensor, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    targets = ids.clone()
    if mask is not None:
        targets[~mask] = -100
    log_probs = logits.log_softmax(dim=-1)[:, :-1].flatten(0, 1)
    return F.nll_loss(log_probs, targets[:, 1:].flatten(), ignore_index=-100)


def _mean_over(losses: Tensor, counted: Tensor) -> Tensor:
    return losses[counted].mean()


def _wrong_shifted(
    *,
    of_logits: slice = slice(None, -1),
    of_targets: slice = slice(1, None),
    of_mask: slice | None = None,
    rolled: bool = False,
    log_probs: Callable[[Tensor], Tensor] = lambda logits: logits.log_softmax(dim=-1),
    masked: bool = True,
    reduce: Callable[[Tensor, Tensor], Tensor] = _mean_over,
    factor: float = -1.0,
) -> Callable[..., Tensor]:
    """A loss with one thing wrong; by default nothing is."""

    def loss(logits: Tensor, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        mask = torch.ones_like(ids, dtype=torch.bool) if mask is None or not masked else mask
        if rolled:
            found, targets, counted = log_probs(logits), ids.roll(-1, dims=1), mask.roll(-1, dims=1)
        else:
            found, targets = log_probs(logits)[:, of_logits], ids[:, of_targets]
            counted = mask[:, of_targets if of_mask is None else of_mask]
        return reduce(factor * found.gather(-1, targets[..., None])[..., 0], counted)

    return loss


def _mean_of_means(losses: Tensor, counted: Tensor) -> Tensor:
    found = counted.sum(dim=1) > 0
    return ((losses * counted).sum(dim=1)[found] / counted.sum(dim=1)[found]).mean()


SHIFTED = Exercise(
    id="gpt/shifted_loss",
    title="The loss of the next token",
    points=3,
    minutes=25,
    difficulty=2,
    gpu=True,
    cases=shifted_cases,
    probe=probes.shifted_loss,
    reference=_shifted,
    also_right=(_shifted_by_weights, _shifted_by_nll),
    tolerance=Tolerance(absolute=2e-5, relative=1e-4),
    forbidden=(*LIBRARY, *CROSS_ENTROPY),
    library="course_lib.training.language_model:next_token_loss",
    misconceptions=(
        Misconception(
            "the targets are not shifted",
            _wrong_shifted(of_logits=slice(None), of_targets=slice(None)),
            "The logits at position i are those of token i + 1. Yours are asked for token i, which the model has just "
            "read: it learns to repeat, and its loss falls to nothing.",
        ),
        Misconception(
            "the shift goes the wrong way",
            _wrong_shifted(of_logits=slice(1, None), of_targets=slice(None, -1)),
            "You ask position i for the token *before* it. The logits lose their last position, and the ids their first: "
            "`logits[:, :-1]` and `ids[:, 1:]`.",
        ),
        Misconception(
            "the shift is two tokens wide",
            _wrong_shifted(of_logits=slice(None, -2), of_targets=slice(2, None)),
            "Shift once. Where a data loader has already shifted the targets, shifting again asks for the token after "
            "the next one; here the ids are not shifted yet.",
        ),
        Misconception(
            "the last position predicts the first token",
            _wrong_shifted(rolled=True),
            "`roll` puts the first token behind the last one, and the last position is asked for it. Nothing "
            "follows the last token: cut it off.",
        ),
        Misconception(
            "the mask is not shifted",
            _wrong_shifted(of_mask=slice(None, -1)),
            "A loss counts where its *target* is a real token, so the mask is shifted as the ids are: `mask[:, 1:]`. "
            "Yours also counts the first padding behind each text.",
        ),
        Misconception(
            "padding is predicted, too",
            _wrong_shifted(masked=False),
            "Where the mask is False there is nothing to predict: leave these targets out of the mean.",
        ),
        Misconception(
            "padding is averaged in as zeros",
            _wrong_shifted(reduce=lambda losses, counted: (losses * counted).mean()),
            "The losses of padding are zero, but they are still counted. Divide by the number of real targets.",
        ),
        Misconception(
            "the mean is taken text by text",
            _wrong_shifted(reduce=_mean_of_means),
            "A token of a short text counts more in yours than a token of a long one. Take one mean over all targets.",
        ),
        Misconception(
            "the losses are summed",
            _wrong_shifted(reduce=lambda losses, counted: losses[counted].sum()),
            "The loss is the mean over the targets; yours is their sum.",
        ),
        Misconception(
            "the logits are not normalised",
            _wrong_shifted(log_probs=lambda logits: logits),
            "A logit is no log-probability yet. `log_softmax` over the vocabulary makes it one.",
        ),
        Misconception(
            "the softmax runs over the positions",
            _wrong_shifted(log_probs=lambda logits: logits.log_softmax(dim=1)),
            "At each position the words compete with one another, so the softmax runs over the last axis, the vocabulary.",
        ),
        Misconception(
            "the logarithm is taken of a softmax",
            _wrong_shifted(log_probs=lambda logits: logits.softmax(dim=-1).log()),
            "A small probability is rounded to 0, and its logarithm is −∞. `log_softmax` never computes the "
            "probability itself.",
        ),
        Misconception(
            "the minus is missing",
            _wrong_shifted(factor=1.0),
            "A log-probability is never above 0; the loss is *minus* that.",
        ),
        Misconception(
            "the loss is in bits",
            _wrong_shifted(factor=-1 / math.log(2)),
            "The loss is in nats, with the natural logarithm. Bits are for comparing models, not for training them.",
        ),
    ),
    hints=(
        "Write the tokens of one text down, and under each the token that the model is to say there. The last position "
        "has nothing under it, and the first token stands under nothing.",
        "`log_probs = F.log_softmax(logits[:, :-1], dim=-1)` are the predictions, `ids[:, 1:]` the targets, and "
        "`mask[:, 1:]` says which targets are real.",
        "`losses = -log_probs.gather(-1, ids[:, 1:, None])[..., 0]`, (b, t − 1). Then `losses.mean()` without a mask, "
        "and `losses[mask[:, 1:]].mean()` with one.",
    ),
)

# --- gpt/causal_block --------------------------------------------------------------------------


def block_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Several sizes; one head; a single token; a stream as large as it is deep in a stack."""
    yield _block_case(rng, "two texts, four heads", (2, 5, 16), 4)
    yield _block_case(rng, "one text, three heads", (1, 7, 12), 3)
    yield _block_case(rng, "a single head", (2, 4, 8), 1, hidden=True)
    yield _block_case(rng, "a single token", (3, 1, 8), 2, hidden=True)
    yield _block_case(rng, "a large stream", (1, 6, 24), 4, spread=12.0, hidden=True)


def _block_case(
    rng: np.random.Generator,
    name: str,
    shape: tuple[int, int, int],
    num_heads: int,
    spread: float = 2.0,
    hidden: bool = False,
) -> Case:
    d = shape[-1]
    state: dict[str, np.ndarray] = {}
    for part, rows, columns in (
        ("query_key_value", 3 * d, d),
        ("output", d, d),
        ("up", 4 * d, d),
        ("down", d, 4 * d),
    ):
        state[f"{part}.weight"] = _draw(rng, rows, columns) * np.float32(1.5 / math.sqrt(columns))
        state[f"{part}.bias"] = _draw(rng, rows) * np.float32(0.3)
    for norm in ("attention_norm", "feed_forward_norm"):
        state[f"{norm}.weight"] = 1 + _draw(rng, d) * np.float32(0.3)
        state[f"{norm}.bias"] = _draw(rng, d) * np.float32(0.3)
    inputs: dict[str, Any] = {"d_model": d, "num_heads": num_heads, "state": state}
    inputs |= {"hidden_states": np.float32(spread) * _draw(rng, *shape), "direction": _draw(rng, *shape)}
    return Case(name, inputs, hidden)


class _Parts(nn.Module):
    """The layers of a block, by the names that the exercise gives them."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(d_model)
        self.query_key_value = nn.Linear(d_model, 3 * d_model)
        self.output = nn.Linear(d_model, d_model)
        self.feed_forward_norm = nn.LayerNorm(d_model)
        self.up = nn.Linear(d_model, 4 * d_model)
        self.down = nn.Linear(4 * d_model, d_model)


class _CausalBlock(_Parts):
    def forward(self, hidden_states: Tensor) -> Tensor:
        b, t, d = hidden_states.shape
        packed = self.query_key_value(self.attention_norm(hidden_states))
        query, key, value = (
            part.view(b, t, self.num_heads, -1).transpose(1, 2) for part in packed.chunk(3, dim=-1)
        )
        heads = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden_states = hidden_states + self.output(heads.transpose(1, 2).reshape(b, t, d))
        inner = F.gelu(self.up(self.feed_forward_norm(hidden_states)), approximate="tanh")
        return hidden_states + self.down(inner)


class _CausalBlockWrittenOut(_Parts):
    def forward(self, hidden_states: Tensor) -> Tensor:
        t, d = hidden_states.shape[1:]
        size = d // self.num_heads
        packed = self.query_key_value(self.attention_norm(hidden_states))
        later = torch.ones(t, t, dtype=torch.bool, device=hidden_states.device).triu(1)
        heads = []
        for first in range(0, d, size):
            query, key, value = (packed[..., at + first : at + first + size] for at in (0, d, 2 * d))
            scores = (query @ key.mT / math.sqrt(size)).masked_fill(later, -torch.inf)
            heads.append(scores.softmax(dim=-1) @ value)
        x = hidden_states + self.output(torch.cat(heads, dim=-1))
        inner = self.up(self.feed_forward_norm(x))
        curve = 0.5 * inner * (1 + torch.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
        return x + self.down(curve)


class _CausalBlockByEinsum(_Parts):
    def forward(self, hidden_states: Tensor) -> Tensor:
        b, t, d = hidden_states.shape
        packed = self.query_key_value(self.attention_norm(hidden_states))
        query, key, value = packed.view(b, t, 3, self.num_heads, d // self.num_heads).unbind(dim=2)
        scores = torch.einsum("bqhd,bkhd->bhqk", query, key) * (d // self.num_heads) ** -0.5
        allowed = torch.ones_like(scores[0, 0], dtype=torch.bool).tril()
        weights = scores.where(allowed, -1e30).softmax(dim=-1)
        found = torch.einsum("bhqk,bkhd->bqhd", weights, value).flatten(2)
        stream = hidden_states + self.output(found)
        return stream + self.down(nn.GELU("tanh")(self.up(self.feed_forward_norm(stream))))


def _before_softmax(scores: Tensor, allowed: Tensor) -> Tensor:
    return scores.masked_fill(~allowed, -torch.inf).softmax(dim=-1)


def _gelu(inner: Tensor) -> Tensor:
    return F.gelu(inner, approximate="tanh")


def _cut_in_thirds(packed: Tensor, num_heads: int) -> tuple[Tensor, ...]:
    """Queries, keys and values, (b, h, t, d_head) each."""
    b, t, _ = packed.shape
    return tuple(part.view(b, t, num_heads, -1).transpose(1, 2) for part in packed.chunk(3, dim=-1))


def _without_transposing(packed: Tensor, num_heads: int) -> tuple[Tensor, ...]:
    b, t, _ = packed.shape
    return tuple(part.reshape(b, num_heads, t, -1) for part in packed.chunk(3, dim=-1))


def _cut_head_by_head(packed: Tensor, num_heads: int) -> tuple[Tensor, ...]:
    b, t, _ = packed.shape
    return packed.view(b, t, num_heads, 3, -1).permute(3, 0, 2, 1, 4).unbind()


def _wrong_block(
    *,
    allowed: Callable[[Tensor], Tensor] = torch.tril,
    weigh: Callable[[Tensor, Tensor], Tensor] = _before_softmax,
    split: Callable[[Tensor, int], tuple[Tensor, ...]] = _cut_in_thirds,
    scale_by: Callable[[int, int], float] = lambda d, d_head: d_head**-0.5,
    merge: Callable[[Tensor], Tensor] = lambda heads: heads.transpose(1, 2),
    activation: Callable[[Tensor], Tensor] = _gelu,
    order: str = "pre",
    projected: bool = True,
) -> type[nn.Module]:
    """A block with one thing wrong; by default nothing is."""

    class Wrong(_Parts):
        def attend(self, x: Tensor) -> Tensor:
            b, t, d = x.shape
            query, key, value = split(self.query_key_value(x), self.num_heads)
            mask = allowed(torch.ones(t, t, dtype=torch.bool, device=x.device))
            weights = weigh(query @ key.mT * scale_by(d, d // self.num_heads), mask)
            found = merge(weights @ value).reshape(b, t, d)
            return self.output(found) if projected else found

        def feed(self, x: Tensor) -> Tensor:
            return self.down(activation(self.up(x)))

        def forward(self, hidden_states: Tensor) -> Tensor:
            x, one, two = hidden_states, self.attention_norm, self.feed_forward_norm
            if order == "post":
                x = one(x + self.attend(x))
                return two(x + self.feed(x))
            if order == "on the path":
                x = one(x)
                x = two(x + self.attend(x))
                return x + self.feed(x)
            if order == "side by side":
                return x + self.attend(one(x)) + self.feed(two(x))
            if order == "without the first":
                x = self.attend(one(x))
                return x + self.feed(two(x))
            if order == "without the second":
                return self.feed(two(x + self.attend(one(x))))
            x = x + self.attend(one(x))
            return x + self.feed(x if order == "second norm unused" else two(x))

    return Wrong


CAUSAL_BLOCK = Exercise(
    id="gpt/causal_block",
    title="A block of GPT-2",
    points=5,
    minutes=50,
    difficulty=3,
    cases=block_cases,
    probe=probes.causal_block,
    reference=_CausalBlock,
    also_right=(_CausalBlockWrittenOut, _CausalBlockByEinsum),
    tolerance=Tolerance(absolute=5e-5, relative=2e-4),
    forbidden=(*LIBRARY, *TORCH_LAYERS),
    library="course_lib.models.gpt:Block",
    misconceptions=(
        Misconception(
            "every token sees every other",
            _wrong_block(allowed=lambda ones: ones),
            "A token may see itself and those before it. Yours also see what they are to predict: the loss falls, and the "
            "model cannot write.",
        ),
        Misconception(
            "the mask is the wrong way round",
            _wrong_block(allowed=torch.triu),
            "Your tokens see themselves and those *after* them. Query i may see keys 0 to i: a lower triangle, `tril`.",
        ),
        Misconception(
            "a token does not see itself",
            _wrong_block(allowed=lambda ones: ones.tril(-1)),
            "Only the tokens *after* it are hidden from a token. The first one has nothing but itself to look at.",
        ),
        Misconception(
            "the mask comes after the softmax",
            _wrong_block(weigh=lambda scores, allowed: scores.softmax(dim=-1) * allowed),
            "Weights that are set to zero after the softmax leave the others too small. Set the hidden scores to −∞ "
            "*before* it.",
        ),
        Misconception(
            "hidden scores are set to 0",
            _wrong_block(weigh=lambda scores, allowed: (scores * allowed).softmax(dim=-1)),
            "A score of 0 still gets a weight, because exp(0) is 1. A hidden score is −∞.",
        ),
        Misconception(
            "the softmax runs over the queries",
            _wrong_block(
                weigh=lambda scores, allowed: scores.masked_fill(~allowed, -torch.inf).softmax(dim=-2)
            ),
            "The weights of one *query* add up to 1: the softmax runs over the keys, the last axis.",
        ),
        Misconception(
            "the scores are not scaled",
            _wrong_block(scale_by=lambda d, d_head: 1.0),
            "Scores are divided by the square root of the width of a head.",
        ),
        Misconception(
            "the scale is that of the model",
            _wrong_block(scale_by=lambda d, d_head: d**-0.5),
            "Scores are divided by the square root of the width of *one head*, d_model / num_heads.",
        ),
        Misconception(
            "heads are split without transposing",
            _wrong_block(split=_without_transposing, merge=lambda heads: heads),
            "`view(b, num_heads, t, −1)` cuts the tokens up and mixes them. First `view(b, t, num_heads, −1)`, then "
            "`transpose(1, 2)`.",
        ),
        Misconception(
            "heads are merged without transposing",
            _wrong_block(merge=lambda heads: heads),
            "Before the heads are laid side by side again, their axis goes back behind the tokens': "
            "`heads.transpose(1, 2).reshape(b, t, d_model)`.",
        ),
        Misconception(
            "queries, keys and values lie head by head",
            _wrong_block(split=_cut_head_by_head),
            "`query_key_value` gives all queries, then all keys, then all values. Cut it into three first, and each of "
            "those into heads.",
        ),
        Misconception(
            "queries and keys are exchanged",
            _wrong_block(
                split=lambda packed, h: tuple(_cut_in_thirds(packed, h)[index] for index in (1, 0, 2))
            ),
            "The first third of `query_key_value` holds the queries, and the second the keys.",
        ),
        Misconception(
            "the norm comes after the sum",
            _wrong_block(order="post"),
            "This is the order of 2017. GPT-2 normalises what a sublayer *reads*: `x = x + sublayer(norm(x))`.",
        ),
        Misconception(
            "the norm stands on the residual path",
            _wrong_block(order="on the path"),
            "The stream itself is never normalised. Only what a sublayer reads is: `x = x + sublayer(norm(x))`.",
        ),
        Misconception(
            "both sublayers read the same",
            _wrong_block(order="side by side"),
            "Your feed-forward layer does not see what attention has found. It reads the stream *after* attention was added.",
        ),
        Misconception(
            "attention is not added to the stream",
            _wrong_block(order="without the first"),
            "What attention returns is added to the stream; yours takes its place.",
        ),
        Misconception(
            "the feed-forward layer is not added to the stream",
            _wrong_block(order="without the second"),
            "What the feed-forward layer returns is added to the stream; yours takes its place.",
        ),
        Misconception(
            "the second norm is not used",
            _wrong_block(order="second norm unused"),
            "The feed-forward layer reads the stream through `feed_forward_norm`.",
        ),
        Misconception(
            "the output projection is not used",
            _wrong_block(projected=False),
            "The heads, side by side, go through `output` before they are added: it mixes what they have found.",
        ),
        Misconception(
            "the activation is a ReLU",
            _wrong_block(activation=F.relu),
            'The Transformer of 2017 has ReLU. GPT-2 has GELU: `F.gelu(…, approximate="tanh")`.',
        ),
        Misconception(
            "the GELU is not GPT-2's",
            _wrong_block(activation=F.gelu),
            "GPT-2 computes GELU by a formula with tanh, which differs from the exact one by less than 0.001. "
            '`approximate="tanh"` gives it, and a checkpoint wants it.',
        ),
        Misconception(
            "there is no activation",
            _wrong_block(activation=lambda inner: inner),
            'Without an activation `up` and `down` are one matrix. `F.gelu(…, approximate="tanh")` stands between.',
        ),
    ),
    hints=(
        "Two lines, each of the form `x = x + sublayer(norm(x))`: attention first, then the feed-forward layer, which "
        "reads what attention has added.",
        "`query, key, value = self.query_key_value(self.attention_norm(x)).chunk(3, dim=-1)`, and each becomes "
        "`part.view(b, t, num_heads, -1).transpose(1, 2)`, (b, h, t, d_head).",
        "`F.scaled_dot_product_attention(query, key, value, is_causal=True)` scales, masks and weighs. Then "
        '`.transpose(1, 2).reshape(b, t, d)`, `output`, and the sum; `down(F.gelu(up(norm(x)), approximate="tanh"))`.',
    ),
)

# --- gpt/sample --------------------------------------------------------------------------------


def sample_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Each option alone, two together, none; a prompt of one token; a nucleus of one token."""
    yield _sample_case(rng, "the three likeliest tokens", (4, 3), 6, top_k=3)
    yield _sample_case(rng, "a nucleus of 0.7", (4, 2), 6, top_p=0.7)
    yield _sample_case(rng, "a temperature, and nothing is cut off", (3, 4), 6, temperature=0.6)
    yield _sample_case(rng, "all defaults, after one token", (3, 1), 5, hidden=True)
    yield _sample_case(rng, "all three options", (8, 3), 10, temperature=1.6, top_k=6, top_p=0.6, hidden=True)
    yield _sample_case(rng, "a hot nucleus", (8, 3), 8, temperature=2.0, top_p=0.5, hidden=True)
    yield _sample_case(rng, "a nucleus that one token fills", (2, 5), 6, top_p=0.02, hidden=True)
    yield _sample_case(rng, "more tokens than there are", (2, 2), 4, top_k=99, hidden=True)


def _sample_case(
    rng: np.random.Generator,
    name: str,
    shape: tuple[int, int],
    count: int,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    hidden: bool = False,
) -> Case:
    vocabulary, d = 20, 12
    weights = {part: _draw(rng, d, d) / np.float32(math.sqrt(d)) for part in ("query", "key", "value")}
    weights |= {"tokens": _draw(rng, vocabulary, d), "places": _draw(rng, 64, d)}
    weights |= {"head": _draw(rng, d, vocabulary) * np.float32(0.7)}
    inputs: dict[str, Any] = {"weights": weights, "ids": rng.integers(vocabulary, size=shape)}
    inputs |= {"draws": rng.uniform(size=(shape[0], count)).astype(np.float32)}
    inputs |= {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    return Case(name, inputs, hidden)


@torch.no_grad()
def _sample(
    model: Any,
    ids: Tensor,
    count: int,
    draws: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Tensor:
    cache, new = model.new_cache(), ids
    for step in range(count):
        logits = model(new, cache)[:, -1] / temperature
        ordered, tokens = logits.sort(dim=-1, descending=True)
        if top_k is not None:
            ordered, tokens = ordered[:, :top_k], tokens[:, :top_k]
        probabilities = ordered.softmax(dim=-1)
        if top_p is not None:
            before = probabilities.cumsum(dim=-1) - probabilities
            probabilities = probabilities.masked_fill(before >= top_p, 0.0)
            probabilities = probabilities / probabilities.sum(dim=-1, keepdim=True)
        passed = (probabilities.cumsum(dim=-1) <= draws[:, step, None]).sum(dim=-1, keepdim=True)
        last = (probabilities > 0).sum(dim=-1, keepdim=True) - 1
        new = tokens.gather(-1, passed.minimum(last))
        ids = torch.cat([ids, new], dim=1)
    return ids


@torch.no_grad()
def _sample_row_by_row(
    model: Any,
    ids: Tensor,
    count: int,
    draws: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Tensor:
    cache, texts, new = model.new_cache(), ids.tolist(), ids
    for step in range(count):
        chosen = []
        for row, logits in enumerate(model(new, cache)[:, -1].double() / temperature):
            order = logits.argsort(descending=True)[:top_k].tolist()
            shares = [math.exp(float(logits[token] - logits[order[0]])) for token in order]
            total, kept, reached = sum(shares), [], 0.0
            for token, share in zip(order, shares, strict=True):
                kept.append((token, share))
                reached += share / total
                if top_p is not None and reached >= top_p:
                    break
            left = float(draws[row, step]) * sum(share for _, share in kept)
            token = kept[-1][0]
            for candidate, share in kept:
                if left < share:
                    token = candidate
                    break
                left -= share
            chosen.append([token])
            texts[row].append(token)
        new = torch.tensor(chosen, device=ids.device)
    return torch.tensor(texts, device=ids.device)


@torch.no_grad()
def _sample_by_masks(
    model: Any,
    ids: Tensor,
    count: int,
    draws: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Tensor:
    cache = model.new_cache()
    logits = model(ids, cache)[:, -1]
    for step in range(count):
        logits = logits / temperature
        if top_k is not None:
            least = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        ordered, places = logits.softmax(dim=-1).sort(dim=-1, descending=True)
        keep = torch.ones_like(ordered, dtype=torch.bool)
        if top_p is not None:
            keep[:, 1:] = ordered.cumsum(dim=-1)[:, :-1] < top_p
        ordered = ordered * keep
        reached = ordered.cumsum(dim=-1) / ordered.sum(dim=-1, keepdim=True)
        first = torch.searchsorted(reached, draws[:, step : step + 1].contiguous(), right=True)
        ids = torch.cat(
            [ids, places.gather(1, first.minimum((ordered > 0).sum(dim=-1, keepdim=True) - 1))], dim=1
        )
        if step < count - 1:
            logits = model(ids[:, -1:], cache)[:, -1]
    return ids


Reader = Callable[[Any, Tensor, Any, int], tuple[Tensor, Any]]


def _read_once(model: Any, ids: Tensor, cache: Any, new: int) -> tuple[Tensor, Any]:
    """The logits of the last `new` tokens of the text, and the cache."""
    return model(ids[:, -new:], cache), cache


def _read_all_anew(model: Any, ids: Tensor, cache: Any, new: int) -> tuple[Tensor, Any]:
    return model(ids, model.new_cache()), cache


def _read_last_alone(model: Any, ids: Tensor, cache: Any, new: int) -> tuple[Tensor, Any]:
    return model(ids[:, -new:], model.new_cache()), cache


def _read_all_again(model: Any, ids: Tensor, cache: Any, new: int) -> tuple[Tensor, Any]:
    return model(ids, cache), cache


def _wrong_sample(
    *,
    read: Reader = _read_once,
    position: int = -1,
    heat: Callable[[Tensor, float], Tensor] = lambda logits, temperature: logits / temperature,
    heat_last: bool = False,
    likeliest: bool = True,
    extra: int = 0,
    nucleus: Callable[[Tensor, float], Tensor] = lambda p, top_p: p.cumsum(dim=-1) - p < top_p,
    nucleus_first: bool = False,
    renormalised: bool = True,
    draw_of: Callable[[Tensor, int], Tensor] = lambda draws, step: draws[:, step, None],
    by_id: bool = False,
    greedy: bool = False,
) -> Callable[..., Tensor]:
    """Sampling with one thing wrong; by default nothing is."""

    def keep(logits: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
        """Which of the logits, likeliest first, may stay."""
        stay = torch.ones_like(logits, dtype=torch.bool)
        size = logits.shape[-1]
        if top_k is not None:
            number = min(max(top_k + extra, 1), size)
            stay[:, number:] = False
            if not likeliest:
                stay = stay.flip(-1)
        if top_p is not None:
            seen = logits if nucleus_first else logits.masked_fill(~stay, -torch.inf)
            stay = stay & nucleus(seen.softmax(dim=-1), top_p)
        return stay

    @torch.no_grad()
    def sample(
        model: Any,
        ids: Tensor,
        count: int,
        draws: Tensor,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> Tensor:
        cache, new = model.new_cache(), ids.shape[1]
        for step in range(count):
            found, cache = read(model, ids, cache, new)
            new, logits = 1, found[:, position]
            logits = logits if heat_last else heat(logits, temperature)
            ordered, tokens = logits.sort(dim=-1, descending=True)
            stay = keep(ordered, top_k, top_p)
            if heat_last:
                ordered = ordered / temperature
            shares = ordered.softmax(dim=-1) * stay
            if by_id:
                tokens, order = tokens.sort(dim=-1)
                shares = shares.gather(-1, order)
            if renormalised:
                shares = shares / shares.sum(dim=-1, keepdim=True)
            passed = (shares.cumsum(dim=-1) <= draw_of(draws, step)).sum(dim=-1, keepdim=True)
            index = torch.zeros_like(passed) if greedy else passed.clamp(max=tokens.shape[-1] - 1)
            ids = torch.cat([ids, tokens.gather(-1, index)], dim=1)
        return ids

    return sample


def _without_the_last(p: Tensor, top_p: float) -> Tensor:
    stay = p.cumsum(dim=-1) <= top_p
    stay[:, 0] = True
    return stay


SAMPLE = Exercise(
    id="gpt/sample",
    title="Sampling with a cache",
    points=6,
    minutes=75,
    difficulty=4,
    cases=sample_cases,
    probe=probes.sample,
    reference=_sample,
    also_right=(_sample_row_by_row, _sample_by_masks),
    forbidden=LIBRARY,
    library="course_lib.generation:generate",
    misconceptions=(
        Misconception(
            "the whole text is read at every step",
            _wrong_sample(read=_read_all_anew),
            "Your texts are right, but every step reads the whole text again with an empty cache. Keep one cache, give the "
            "model all tokens of `ids` once, and then only the token that was just written.",
        ),
        Misconception(
            "the whole text is read again into the cache",
            _wrong_sample(read=_read_all_again),
            "The cache already holds the text. What you give the model is read *behind* that: give it the new token alone.",
        ),
        Misconception(
            "the cache is thrown away",
            _wrong_sample(read=_read_last_alone),
            "Each of your steps begins with an empty cache, so the model sees one token and forgets the text. Make one "
            "cache before the loop.",
        ),
        Misconception(
            "the first position is asked",
            _wrong_sample(position=0),
            "What comes next is said at the *last* position that the model has read: `[:, -1]`.",
        ),
        Misconception(
            "the logits are multiplied by the temperature",
            _wrong_sample(heat=lambda logits, temperature: logits * temperature),
            "Logits are divided by the temperature: above 1 makes the tokens more alike, below 1 less.",
        ),
        Misconception(
            "the temperature is ignored",
            _wrong_sample(heat=lambda logits, temperature: logits),
            "The logits are divided by the temperature before anything else is done with them.",
        ),
        Misconception(
            "the temperature comes after the nucleus",
            _wrong_sample(heat_last=True),
            "The temperature comes first: the nucleus is measured with the probabilities that the tokens are drawn with.",
        ),
        Misconception(
            "the unlikeliest stay",
            _wrong_sample(likeliest=False),
            "`top_k` keeps the tokens with the *highest* logits.",
        ),
        Misconception(
            "one token too many stays",
            _wrong_sample(extra=1),
            "`top_k` tokens stay, not one more.",
        ),
        Misconception(
            "the nucleus does not reach `top_p`",
            _wrong_sample(nucleus=_without_the_last),
            "The token with which the sum reaches `top_p` stays, too: a token falls out if those *before* it already "
            "reach it.",
        ),
        Misconception(
            "the nucleus is a bar for single tokens",
            _wrong_sample(nucleus=lambda p, top_p: p >= (1 - top_p) * p[:, :1]),
            "You compare each token with the likeliest one, which is another method (min-p). A nucleus adds the "
            "probabilities up, the likeliest first.",
        ),
        Misconception(
            "the nucleus is measured before `top_k`",
            _wrong_sample(nucleus_first=True),
            "`top_k` comes first. The nucleus is measured among the tokens that it leaves, whose probabilities add up "
            "to 1.",
        ),
        Misconception(
            "what stays does not add up to 1",
            _wrong_sample(renormalised=False),
            "After tokens have fallen out, divide the probabilities of the others by their sum; otherwise a large draw "
            "finds no token.",
        ),
        Misconception(
            "every step has the same draw",
            _wrong_sample(draw_of=lambda draws, step: draws[:, :1]),
            "Token number `step` is drawn with column `step` of `draws`; yours are all drawn with the first.",
        ),
        Misconception(
            "all texts share the first one's draws",
            _wrong_sample(draw_of=lambda draws, step: draws[:1, step, None]),
            "Each text has a row of `draws` of its own.",
        ),
        Misconception(
            "the tokens stand in the order of their ids",
            _wrong_sample(by_id=True),
            "The draw goes through the tokens from the likeliest to the unlikeliest, not in the order of their ids.",
        ),
        Misconception(
            "the likeliest token is always taken",
            _wrong_sample(greedy=True),
            "This is greedy decoding. The token is the first, from the likeliest on, with which the sum of the "
            "probabilities is above the draw.",
        ),
    ),
    hints=(
        "First write it without `top_k` and `top_p`: one cache before the loop; the first call reads `ids`, every later "
        "one the token just written, (n, 1).",
        "`ordered, tokens = logits.sort(dim=-1, descending=True)` makes the rest easy: `top_k` cuts the columns off, and "
        "`cumsum` of the softmax is what both the nucleus and the draw need.",
        "A token is out of the nucleus where `probabilities.cumsum(-1) - probabilities >= top_p`. Divide by the new sum; "
        "then `(probabilities.cumsum(-1) <= draw).sum(-1)` is the column of the token that is drawn.",
    ),
)

# --- gpt/compare_models ------------------------------------------------------------------------

LETTERS = "aeionrst ,é苹果😀"


def compare_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Perplexity agrees and misleads; text of many bytes; three models; one model."""
    yield _compare_case(
        rng, "letters and pairs, and the pairs are better", {"letters": (1, 3.2), "pairs": (2, 2.0)}
    )
    yield _compare_case(
        rng, "letters and pairs, and the letters are better", {"letters": (1, 1.9), "pairs": (2, 2.5)}
    )
    yield _compare_case(
        rng, "three models", {"threes": (3, 1.3), "letters": (1, 2.8), "pairs": (2, 2.0)}, hidden=True
    )
    yield _compare_case(rng, "one tokenizer", {"first": (2, 2.4), "second": (2, 1.6)}, hidden=True)
    yield _compare_case(rng, "one model", {"alone": (1, 2.7)}, hidden=True)


def _compare_case(
    rng: np.random.Generator, name: str, wanted: Mapping[str, tuple[int, float]], hidden: bool = False
) -> Case:
    """wanted: for each model, how many characters a token has and how many bits a character shall cost it."""
    text = "".join(rng.choice(list(LETTERS), size=61))
    models = {key: _table_model(rng, text, size, bits) for key, (size, bits) in wanted.items()}
    return Case(name, {"text": text, "models": models}, hidden)


def _table_model(rng: np.random.Generator, text: str, size: int, bits: float) -> list[Any]:
    """What `TableModel` is made of, with logits that bring the text near to so many bits a character."""
    chunks = [text[i : i + size] for i in range(0, len(text), size)]
    tokens = sorted(set(chunks))
    ids, begin_id = [tokens.index(chunk) for chunk in chunks], len(tokens)
    counts = np.zeros((len(tokens) + 1, len(tokens) + 1))
    np.add.at(counts, ([begin_id, *ids[:-1]], ids), 1)
    noise = 0.3 * rng.normal(size=counts.shape) + 0.5
    least, most = -3.0, 9.0
    for _ in range(40):
        middle = (least + most) / 2
        table = (noise + middle * (counts > 0)).astype(np.float32)
        found = float(_nats(torch.tensor(table), ids, begin_id)) / math.log(2) / len(text)
        least, most = (middle, most) if found > bits else (least, middle)
    return [size, tokens, begin_id, table]


def _nats(table: Tensor, ids: Sequence[int], begin_id: int) -> Tensor:
    log_probs = table[torch.tensor([begin_id, *ids[:-1]])].double().log_softmax(dim=-1)
    return -log_probs.gather(1, torch.tensor(ids)[:, None]).sum()


Report = tuple[dict[str, float], dict[str, float], str, bool]


@torch.no_grad()
def _compare_models(text: str, models: Mapping[str, Any]) -> Report:
    perplexity, bits = {}, {}
    for name, model in models.items():
        ids = model.encode(text)
        logits = model(torch.tensor([[model.begin_id, *ids[:-1]]]))[0]
        nats = F.cross_entropy(logits, torch.tensor(ids), reduction="sum").item()
        perplexity[name] = math.exp(nats / len(ids))
        bits[name] = nats / math.log(2) / len(text.encode())
    better = min(bits, key=bits.__getitem__)
    return perplexity, bits, better, better != min(perplexity, key=perplexity.__getitem__)


@torch.no_grad()
def _compare_by_log_softmax(text: str, models: Mapping[str, Any]) -> Report:
    number_of_bytes = len(bytes(text, "utf-8"))
    means, bits = {}, {}
    for name, model in models.items():
        ids = torch.tensor([model.begin_id, *model.encode(text)])
        log_probs = model(ids[None, :-1]).log_softmax(dim=-1)[0]
        found = log_probs[torch.arange(len(ids) - 1), ids[1:]].double()
        means[name] = -found.mean().item()
        bits[name] = -(found / math.log(2)).sum().item() / number_of_bytes
    ranks = [sorted(measure, key=measure.__getitem__)[0] for measure in (bits, means)]
    return {name: math.exp(mean) for name, mean in means.items()}, bits, ranks[0], ranks[0] != ranks[1]


@torch.no_grad()
def _compare_token_by_token(text: str, models: Mapping[str, Any]) -> Report:
    perplexity, bits = {}, {}
    for name, model in models.items():
        total, ids = 0.0, model.encode(text)
        history = [model.begin_id]
        for token in ids:
            shares = model(torch.tensor([history]))[0, -1].double().softmax(dim=-1)
            total -= math.log2(float(shares[token]))
            history.append(token)
        bits[name] = total / len(text.encode("utf-8"))
        perplexity[name] = 2 ** (total / len(ids))
    better = sorted(bits.items(), key=lambda pair: pair[1])[0][0]
    return perplexity, bits, better, any(value < perplexity[better] for value in perplexity.values())


def _wrong_compare(
    *,
    read: Callable[[list[int], int], tuple[list[int], list[int]]] = lambda ids, begin: (
        [begin, *ids[:-1]],
        ids,
    ),
    perplexity_of: Callable[[Tensor], float] = lambda losses: math.exp(float(losses.mean())),
    per: Callable[[str, int], int] = lambda text, tokens: len(text.encode()),
    unit: float = math.log(2),
    choose: Callable[..., str] = lambda perplexity, bits: min(bits, key=bits.__getitem__),
    misled: Callable[[str, str], bool] = lambda better, seeming: better != seeming,
) -> Callable[..., Report]:
    """A comparison with one thing wrong; by default nothing is."""

    @torch.no_grad()
    def compare(text: str, models: Mapping[str, Any]) -> Report:
        perplexity, bits = {}, {}
        for name, model in models.items():
            inputs, targets = read(model.encode(text), model.begin_id)
            log_probs = model(torch.tensor([inputs]))[0].double().log_softmax(dim=-1)
            losses = -log_probs.gather(1, torch.tensor(targets)[:, None])[:, 0]
            perplexity[name] = perplexity_of(losses)
            bits[name] = float(losses.sum()) / unit / per(text, len(targets))
        better = choose(perplexity, bits)
        return perplexity, bits, better, misled(better, min(perplexity, key=perplexity.__getitem__))

    return compare


COMPARE = Exercise(
    id="gpt/compare_models",
    title="Bits per byte, and where perplexity misleads",
    points=4,
    minutes=40,
    difficulty=3,
    cases=compare_cases,
    probe=probes.compare_models,
    reference=_compare_models,
    also_right=(_compare_by_log_softmax, _compare_token_by_token),
    tolerance=Tolerance(absolute=1e-4, relative=1e-4),
    forbidden=LIBRARY,
    library="course_lib.training.language_model:text_loss",
    misconceptions=(
        Misconception(
            "bits are counted per token",
            _wrong_compare(per=lambda text, tokens: tokens),
            "Two tokenizers cut the text into different numbers of tokens, so a number per token compares nothing. Divide by "
            "the bytes of the text, which are the same for all models.",
        ),
        Misconception(
            "bits are counted per character",
            _wrong_compare(per=lambda text, tokens: len(text)),
            "`len(text)` counts characters. In UTF-8 an é takes two bytes, and 苹 three: `len(text.encode())`.",
        ),
        Misconception(
            "nats stand in place of bits",
            _wrong_compare(unit=1.0),
            "The loss is in nats, because its logarithm is the natural one. Divide by `math.log(2)` for bits.",
        ),
        Misconception(
            "nats are multiplied by log 2",
            _wrong_compare(unit=1 / math.log(2)),
            "A nat is more than a bit, 1 / log 2 = 1.44 of them: divide by `math.log(2)`.",
        ),
        Misconception(
            "the first token is left out",
            _wrong_compare(read=lambda ids, begin: (ids[:-1], ids[1:])),
            "The first token is predicted, too: from `begin_id`, which is put before the text. Otherwise a model is "
            "spared one token of its own length.",
        ),
        Misconception(
            "the targets are not shifted",
            _wrong_compare(read=lambda ids, begin: (ids, ids)),
            "The logits at a token are those of the *next* one. Give the model `[begin_id, *ids[:-1]]` and ask for `ids`.",
        ),
        Misconception(
            "perplexity is a power of 2",
            _wrong_compare(perplexity_of=lambda losses: 2.0 ** float(losses.mean())),
            "Perplexity is exp of a mean in nats, or 2 to the power of a mean in bits. You took 2 to the power of nats.",
        ),
        Misconception(
            "perplexity is the mean loss",
            _wrong_compare(perplexity_of=lambda losses: float(losses.mean())),
            "The mean loss is the logarithm of the perplexity. `math.exp` of it is missing.",
        ),
        Misconception(
            "the exponential comes before the mean",
            _wrong_compare(perplexity_of=lambda losses: float(losses.exp().mean())),
            "Take the mean of the losses first, and then exp of that one number.",
        ),
        Misconception(
            "the lower perplexity decides",
            _wrong_compare(choose=lambda perplexity, bits: min(perplexity, key=perplexity.__getitem__)),
            "Perplexity is per token, and favours the model with the smaller tokens. The better model is the one that "
            "needs fewer bits for the same text.",
        ),
        Misconception(
            "more bits are better",
            _wrong_compare(choose=lambda perplexity, bits: max(bits, key=bits.__getitem__)),
            "Bits are what the text *costs* with this model: fewer are better.",
        ),
        Misconception(
            "the last entry is the wrong way round",
            _wrong_compare(misled=lambda better, seeming: better == seeming),
            "The last entry is True where perplexity would have chosen *another* model than bits per byte.",
        ),
    ),
    hints=(
        "One number does it all: the sum of the losses of a model over all tokens of the text, in nats. Perplexity divides "
        "it by the tokens, and bits per byte by the bytes.",
        "`ids = model.encode(text)`, `logits = model(torch.tensor([[model.begin_id, *ids[:-1]]]))[0]`, and "
        '`F.cross_entropy(logits, torch.tensor(ids), reduction="sum").item()`.',
        "`math.exp(nats / len(ids))` and `nats / math.log(2) / len(text.encode())`. `min(bits, key=bits.get)` is the better "
        "model; compare it with the same of the perplexities.",
    ),
)

# --- gpt/continue_texts ------------------------------------------------------------------------

TITLES, WORDS = 5, 12
LENGTH = 24  # of a text, in tokens
FOLLOWED, CHANGED = 0.92, 0.1


def continue_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Two worlds with successors of their own."""
    yield _continue_case(rng, "a world of seventeen tokens")
    yield _continue_case(rng, "another world", hidden=True)


def _continue_case(rng: np.random.Generator, name: str, hidden: bool = False) -> Case:
    """What follows a word depends on the last title before it, so that pairs of tokens tell little."""
    after = np.stack([_one_cycle(rng) for _ in range(TITLES)])
    order = rng.permutation(TITLES + WORDS)  # ids tell nothing of which are titles
    texts = order[_tell(rng, after, 2500, LENGTH + 1)]
    asked = order[_tell(rng, after, 3000, LENGTH + 1)]
    inputs = {"texts": texts, "beginnings": asked[:, :-1].copy(), "vocab_size": TITLES + WORDS}
    return Case(name, inputs, hidden, withheld={"tokens that follow": asked[:, -1].copy()})


def _one_cycle(rng: np.random.Generator) -> np.ndarray:
    """A successor for every word, such that all words are visited."""
    order = rng.permutation(WORDS)
    after = np.empty(WORDS, dtype=np.int64)
    after[order] = np.roll(order, -1)
    return after


def _tell(rng: np.random.Generator, after: np.ndarray, count: int, length: int) -> np.ndarray:
    """Texts (count, length): titles are 0 to TITLES − 1, words come behind them."""
    titles = rng.integers(TITLES, size=count)
    text, words = [titles], rng.integers(WORDS, size=count)
    is_title = np.ones(count, dtype=bool)
    for _ in range(length - 1):
        any_word = is_title | (rng.random(count) >= FOLLOWED)
        words = np.where(any_word, rng.integers(WORDS, size=count), after[titles, words])
        is_title = ~is_title & (rng.random(count) < CHANGED)
        titles = np.where(is_title, rng.integers(TITLES, size=count), titles)
        text.append(np.where(is_title, titles, TITLES + words))
    return np.stack(text, axis=1)


def _last_titles(texts: Tensor) -> Tensor:
    """The last title at or before each position, (n, t). Texts begin with a title, and with nothing else."""
    is_title = torch.zeros(TITLES + WORDS, dtype=torch.bool, device=texts.device)
    is_title[texts[:, 0].unique()] = True
    places = torch.arange(texts.shape[1], device=texts.device)
    return texts.gather(1, torch.where(is_title[texts], places, 0).cummax(dim=1).values)


def _by_counting(texts: Tensor, beginnings: Tensor, vocab_size: int) -> Tensor:
    """What followed the same word after the same title: the rule of the world, known in advance."""
    titles = _last_titles(texts)
    together = titles[:, :-1] * vocab_size + texts[:, :-1]
    counts = torch.full((vocab_size**2, vocab_size), 0.05, device=texts.device)
    ones = torch.ones_like(together, dtype=counts.dtype)
    counts.index_put_((together, texts[:, 1:]), ones, accumulate=True)
    found = counts[_last_titles(beginnings)[:, -1] * vocab_size + beginnings[:, -1]]
    return (found / found.sum(dim=-1, keepdim=True)).log()


def _by_dictionary(texts: Tensor, beginnings: Tensor, vocab_size: int) -> Tensor:
    titles = set(texts[:, 0].tolist())
    counts: dict[tuple[int, int], list[float]] = {}

    def contexts(text: list[int]) -> Iterator[tuple[int, int]]:
        title = text[0]
        for token in text:
            title = token if token in titles else title
            yield title, token

    for text in texts.tolist():
        for context, following in zip(contexts(text), text[1:], strict=False):
            counts.setdefault(context, [0.1] * vocab_size)[following] += 1
    rows = [counts.get(list(contexts(text))[-1], [1.0] * vocab_size) for text in beginnings.tolist()]
    return F.normalize(torch.tensor(rows, device=texts.device), p=1, dim=-1).log()


class _SmallGPT(nn.Module):
    """Tokens and positions, blocks, a norm and a head."""

    def __init__(self, vocab_size: int, context: int, d_model: int, num_layers: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab_size, d_model), nn.Embedding(context, d_model)
        self.blocks = nn.Sequential(*(_CausalBlock(d_model, num_heads=1) for _ in range(num_layers)))
        self.norm, self.head = nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size)
        for embedding in (self.tokens, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        stream = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        logits: Tensor = self.head(self.norm(self.blocks(stream)))
        return logits


def _trained(
    texts: Tensor, vocab_size: int, steps: int, shift: int = 1, d_model: int = 48, num_layers: int = 2
) -> _SmallGPT:
    model = _SmallGPT(vocab_size, texts.shape[1], d_model, num_layers).to(texts.device)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    for step in range(steps):
        batch = texts[torch.randint(len(texts), (64,), device=texts.device)]
        logits = model(batch[:, : batch.shape[1] - shift])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, shift:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = 6e-3 * min(1.0, (step + 1) / 30, 1.5 * (1 - step / steps))
        optimizer.step()
    return model


@torch.no_grad()
def _asked(model: _SmallGPT, beginnings: Tensor) -> Tensor:
    return model(beginnings)[:, -1]


def _by_training(texts: Tensor, beginnings: Tensor, vocab_size: int) -> Tensor:
    return _asked(_trained(texts, vocab_size, steps=300), beginnings).log_softmax(dim=-1)


def _barely_trained(steps: int, shift: int = 1, normalised: bool = True) -> Callable[..., Tensor]:
    def continue_texts(texts: Tensor, beginnings: Tensor, vocab_size: int) -> Tensor:
        model = _trained(texts, vocab_size, steps, shift, d_model=24, num_layers=1)
        logits = _asked(model, beginnings)
        return logits.log_softmax(dim=-1) if normalised else logits

    return continue_texts


def _by_frequency(texts: Tensor, beginnings: Tensor, vocab_size: int) -> Tensor:
    counts = torch.bincount(texts.flatten(), minlength=vocab_size).float() + 0.1
    return (counts / counts.sum()).log().expand(len(beginnings), -1)


def _by_pairs(texts: Tensor, beginnings: Tensor, vocab_size: int) -> Tensor:
    counts = torch.full((vocab_size, vocab_size), 0.1, device=texts.device)
    ones = torch.ones_like(texts[:, 1:], dtype=counts.dtype)
    counts.index_put_((texts[:, :-1], texts[:, 1:]), ones, accumulate=True)
    return (counts / counts.sum(dim=-1, keepdim=True)).log()[beginnings[:, -1]]


CONTINUE = Exercise(
    id="gpt/continue_texts",
    title="Pretrain a model of an unknown world",
    points=5,
    minutes=90,
    difficulty=4,
    cases=continue_cases,
    probe=probes.continue_texts,
    reference=_by_counting,
    also_right=(_by_dictionary, _by_training),
    seconds=60.0,
    forbidden=LIBRARY,
    judged={
        "the tensor of log-probabilities": Score(
            "negative log-likelihood", truth="tokens that follow", at_most=1.3
        )
    },
    misconceptions=(
        Misconception(
            "the model is not trained",
            _barely_trained(0),
            "These are the log-probabilities of a model that knows nothing. Look at the loss of your training: does it fall?",
        ),
        Misconception(
            "the targets are not shifted",
            _barely_trained(40, shift=0),
            "Your model has learned to say the token that it has just read. Position i is to be asked for token i + 1.",
        ),
        Misconception(
            "the answer is the same for all beginnings",
            _by_frequency,
            "You give every beginning the same answer: how frequent each token is. Ask the model at the last position of "
            "each beginning.",
        ),
        Misconception(
            "only the last token is looked at",
            _by_pairs,
            "What follows a token depends on more than that token. Give the model the whole beginning, and let attention "
            "find what matters.",
        ),
        Misconception(
            "logits are returned",
            _barely_trained(40, normalised=False),
            "These are logits. `log_softmax(dim=-1)` makes log-probabilities of them.",
        ),
        Misconception(
            "probabilities are returned",
            lambda texts, beginnings, vocab_size: _by_counting(texts, beginnings, vocab_size).exp(),
            "These are probabilities. What is asked for is their natural logarithm, which is never above 0.",
        ),
    ),
    hints=(
        "This is the lesson's training on a smaller scale: rows of texts, the next token at every position, AdamW, a warm-up. "
        "Print the loss every 50 steps.",
        "Token embeddings plus position embeddings, both drawn 0.02 wide, two of your `CausalBlock(48, 1)`, a LayerNorm, a "
        "linear head; batches of 64 texts; a learning rate of 6e-3 that rises for 30 steps and then falls to 0; 300 steps.",
        "At the end, under `torch.no_grad()`, `model(beginnings)[:, -1].log_softmax(dim=-1)`: the last position of a "
        "beginning says what follows.",
    ),
)

EXERCISES = (SHIFTED, CAUSAL_BLOCK, SAMPLE, COMPARE, CONTINUE)
