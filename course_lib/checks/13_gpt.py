"""Exercises of 13_gpt: what is asked, what is right, and how people go wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.gpt import GPT, MODERN, GPTConfig
from .exercise import Case, Exercise, Misconception, Score, Tolerance
from .probes import gpt as probes

# The library's own versions are no answers, nor parts of one.
LIBRARY = (
    "course_lib.training.language_model.next_token_loss",
    "course_lib.training.language_model.text_loss",
    "course_lib.generation.generate",
    "course_lib.generation.keep_likeliest",
)
MODELS = (
    "course_lib.models.gpt.GPT",
    "course_lib.models.gpt.Block",
    "course_lib.models.gpt.CausalAttention",
    "course_lib.layers.block.TransformerBlock",
    "course_lib.layers.multi_head.MultiHeadAttention",
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
    forbidden=(*LIBRARY, *MODELS),
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
            "The Transformer of 2017 has ReLU. GPT-2 has GELU: `F.gelu(…, approximate=\"tanh\")`.",
        ),
        Misconception(
            "the GELU is not GPT-2's",
            _wrong_block(activation=F.gelu),
            "GPT-2 computes GELU by a formula with tanh, which differs from the exact one by less than 0.001. "
            "`approximate=\"tanh\"` gives it, and a checkpoint wants it.",
        ),
        Misconception(
            "there is no activation",
            _wrong_block(activation=lambda inner: inner),
            "Without an activation `up` and `down` are one matrix. `F.gelu(…, approximate=\"tanh\")` stands between.",
        ),
    ),
    hints=(
        "Two lines, each of the form `x = x + sublayer(norm(x))`: attention first, then the feed-forward layer, which "
        "reads what attention has added.",
        "`query, key, value = self.query_key_value(self.attention_norm(x)).chunk(3, dim=-1)`, and each becomes "
        "`part.view(b, t, num_heads, -1).transpose(1, 2)`, (b, h, t, d_head).",
        "`F.scaled_dot_product_attention(query, key, value, is_causal=True)` scales, masks and weighs. Then "
        "`.transpose(1, 2).reshape(b, t, d)`, `output`, and the sum; `down(F.gelu(up(norm(x)), approximate=\"tanh\"))`.",
    ),
)
