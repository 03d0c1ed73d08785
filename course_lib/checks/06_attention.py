"""Exercises of 06_attention: what is asked, what is right, and how people go wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import attention as library
from ..layers import chunked as library_chunked
from ..layers import masks as library_masks
from .exercise import Case, Exercise, Misconception, Tolerance
from .probes import attention as probes

# The library's own versions are no answers, nor parts of one. Its attention is: exercise 3 may build on it.
LIBRARY = (
    "course_lib.layers.masks.causal_mask",
    "course_lib.layers.attention.SingleHeadAttention",
    "course_lib.layers.chunked.chunked_attention",
)
ATTENTION = (
    "course_lib.layers.attention.scaled_dot_product_attention",
    "course_lib.layers.attention.attention_weights",
)
# torch's own, with the Python that it falls back on.
HEADS = (
    "torch.nn.MultiheadAttention",
    "torch.nn.functional.multi_head_attention_forward",
    "torch.ao.nn.quantizable.MultiheadAttention",
)
FUSED = (
    "torch.nn.functional.scaled_dot_product_attention",
    "torch.nn.attention.flex_attention.flex_attention",
    "torch._higher_order_ops.flex_attention.math_attention",
    "torch.onnx.ops.attention",
    "torch.onnx.ops._impl.attention_23",
    *HEADS,
)

# --- attention/causal_mask ---------------------------------------------------------------------


def causal_mask_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Square, then fewer queries than keys, then the edges, then longer ones."""
    square = int(rng.integers(3, 7))
    yield Case("as many queries as keys", {"n_query": square, "n_key": square})
    yield Case("fewer queries than keys", {"n_query": 3, "n_key": int(rng.integers(5, 9))})
    yield Case("one query, several keys", {"n_query": 1, "n_key": int(rng.integers(2, 6))}, hidden=True)
    yield Case("a single position", {"n_query": 1, "n_key": 1}, hidden=True)
    # So many pairs of lengths that no table of all masks fits into an answer.
    n_query, more = (int(length) for length in rng.integers(20, 100, size=2))
    yield Case("longer sequences", {"n_query": n_query, "n_key": n_query + more}, hidden=True)


def _mask_by_loops(n_query: int, n_key: int) -> Tensor:
    mask = torch.zeros(n_query, n_key, dtype=torch.bool)
    for i in range(n_query):
        for j in range(n_key):
            mask[i, j] = j <= i + n_key - n_query
    return mask


def _mask_by_tril(n_query: int, n_key: int) -> Tensor:
    return torch.ones(n_query, n_key, dtype=torch.bool).tril(diagonal=n_key - n_query)


CAUSAL_MASK = Exercise(
    id="attention/causal_mask",
    title="A mask that hides the future",
    points=1,
    minutes=10,
    difficulty=1,
    cases=causal_mask_cases,
    probe=probes.causal_mask,
    reference=library_masks.causal_mask,
    also_right=(_mask_by_loops, _mask_by_tril),
    forbidden=(*LIBRARY, *ATTENTION),
    library="course_lib.layers.masks:causal_mask",
    misconceptions=(
        Misconception(
            "the mask is inverted",
            lambda n_query, n_key: ~_mask_by_tril(n_query, n_key),
            "Here True means *may attend*. Yours is True exactly where it should be False.",
        ),
        Misconception(
            "a position may not see itself",
            lambda n_query, n_key: torch.ones(n_query, n_key, dtype=torch.bool).tril(n_key - n_query - 1),
            "A token may look at itself: query i may see position `n_key - n_query + i` and all before it. "
            "Yours stops one key too early, as `<` does in place of `<=`.",
        ),
        Misconception(
            "the past is hidden instead of the future",
            lambda n_query, n_key: torch.ones(n_query, n_key, dtype=torch.bool).triu(n_key - n_query),
            "Row i is a query. It may see columns up to its own position, so the allowed part is the "
            "lower triangle, not the upper one.",
        ),
        Misconception(
            "queries are taken for the first positions",
            lambda n_query, n_key: torch.ones(n_query, n_key, dtype=torch.bool).tril(),
            "With fewer queries than keys, the queries are the *last* positions: query i stands at "
            "position `n_key - n_query + i`.",
        ),
        Misconception(
            "the mask is made of numbers",
            lambda n_query, n_key: _mask_by_tril(n_query, n_key).float(),
            "A mask in this course is boolean. Compare positions, or end with `.bool()`.",
        ),
        Misconception(
            "the mask is made of whole numbers",
            lambda n_query, n_key: _mask_by_tril(n_query, n_key).int(),
            "The entries are 0 and 1 as integers. `~` turns an integer 1 into −2, so a mask must be boolean: "
            "end with `.bool()`.",
        ),
        Misconception(
            "the mask is made to be added to the scores",
            lambda n_query, n_key: torch.zeros(n_query, n_key).masked_fill(
                ~_mask_by_tril(n_query, n_key), float("-inf")
            ),
            "Zeros and minus infinities are for adding to scores, as some libraries do. A mask of this course "
            "is a table of True and False.",
        ),
        Misconception(
            "the offset has the wrong sign",
            lambda n_query, n_key: torch.ones(n_query, n_key, dtype=torch.bool).tril(n_query - n_key),
            "With more keys than queries the diagonal moves to the right, by `n_key - n_query`. Yours moves "
            "to the left, and the first queries see no key.",
        ),
        Misconception(
            "there is a row for every key",
            lambda n_query, n_key: _mask_by_tril(n_key, n_key),
            "The mask has one row per query, n_query of them, and one column per key. Yours is square even "
            "with fewer queries than keys.",
        ),
    ),
    hints=(
        "Which keys may the very last query see? Which may the one before it see?",
        "Query i stands at position `n_key - n_query + i`. Key j stands at position j. Write the "
        "condition on i and j first, in words.",
        "`torch.arange(n)[:, None]` is a column of positions and `torch.arange(n)[None, :]` a row. "
        "Comparing a column with a row gives a table of booleans.",
    ),
)

# --- attention/sdpa ----------------------------------------------------------------------------


def sdpa_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Plain, masked, a fully masked row, length 1, heads, no leading axes, large scores, half precision."""
    shapes = {"two tokens, no mask": (2, 2, 4, 4), "cross-attention, no mask": (3, 5, 8, 6)}
    for name, shape in shapes.items():
        yield _sdpa_case(rng, name, *shape)
    yield _sdpa_case(rng, "a causal mask", 5, 5, 8, 8, mask=np.tril(np.ones((5, 5), dtype=bool)))
    rows = rng.random((4, 6)) < 0.6
    rows[:, 0], rows[1] = True, False
    yield _sdpa_case(rng, "a fully masked row", 4, 6, 8, 5, mask=rows)
    yield _sdpa_case(rng, "a single key", 3, 1, 8, 8, hidden=True)
    yield _sdpa_case(
        rng,
        "four heads and a padding mask",
        4,
        4,
        16,
        16,
        lead=(2, 4),
        hidden=True,
        mask=(np.arange(4) < np.array([2, 4])[:, None])[:, None, None, :],
    )
    yield _sdpa_case(rng, "non-contiguous inputs", 3, 4, 6, 5, hidden=True, layout="transposed")
    yield _sdpa_case(rng, "no leading axes", 4, 6, 8, 5, lead=(), hidden=True)
    yield _large_scores(rng)
    yield _sdpa_case(rng, "bfloat16", 4, 4, 16, 16, hidden=True, dtype="bfloat16", gradient=False)


def _large_scores(rng: np.random.Generator) -> Case:
    """Rows of scores around +150 and around −150: too large for a bare exp, and below a fill of −100.

    Whole numbers at width 4, so that the scores are the same in whatever order they are added up.
    """
    case = _sdpa_case(rng, "scores of some hundreds", 4, 4, 4, 3, mask=np.tri(4, dtype=bool), hidden=True)
    query, key = (rng.integers(-2, 3, size=(2, 4, 4)).astype(np.float32) for _ in range(2))
    query[..., 0] = 20 * np.array([1, -1, 1, -1])
    key[..., 0] = 15
    return Case(case.name, dict(case.inputs) | {"query": query, "key": key, "gradient": False}, True)


def _sdpa_case(
    rng: np.random.Generator,
    name: str,
    n_query: int,
    n_key: int,
    d_k: int,
    d_v: int,
    *,
    lead: tuple[int, ...] = (2,),
    mask: np.ndarray | None = None,
    hidden: bool = False,
    dtype: str = "float32",
    gradient: bool = True,
    layout: str = "contiguous",
) -> Case:
    def draw(rows: int, width: int) -> np.ndarray:
        return rng.normal(size=(*lead, rows, width)).astype(np.float32)

    inputs: dict[str, Any] = {"query": draw(n_query, d_k), "key": draw(n_key, d_k), "value": draw(n_key, d_v)}
    inputs |= {"direction": draw(n_query, d_v), "mask": mask, "dtype": dtype, "gradient": gradient}
    inputs["layout"] = layout
    return Case(name, inputs, hidden)


def sdpa_steps(case: Case) -> Mapping[str, np.ndarray]:
    """The six steps, as far as they are values."""
    query, key, value = (torch.as_tensor(case[name]) for name in ("query", "key", "value"))
    scores = query @ key.transpose(-2, -1)
    scaled = scores / math.sqrt(query.shape[-1])
    mask = (
        torch.ones_like(scaled, dtype=torch.bool) if case["mask"] is None else torch.as_tensor(case["mask"])
    )
    exponentials = (scaled - scaled.amax(-1, keepdim=True)).exp() * mask
    weights = exponentials / exponentials.sum(-1, keepdim=True).clamp(min=1e-30)
    steps = {"scores (query · key)": scores, "scores divided by √d_k": scaled}
    steps |= {"weights (softmax over the keys)": weights, "output (weights · value)": weights @ value}
    return {name: step.numpy() for name, step in steps.items()}


def _reference_sdpa(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    found = library.scaled_dot_product_attention(query, key, value, mask, return_weights=True)
    assert found.weights is not None
    return found.output, found.weights


def _sdpa_by_einsum(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    scores = torch.einsum("...qd,...kd->...qk", query, key) * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = torch.nan_to_num(torch.softmax(scores, dim=-1), nan=0.0)
    return torch.einsum("...qk,...kv->...qv", weights, value), weights


def _sdpa_by_exponentials(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    scores = (query / math.sqrt(query.size(-1))) @ key.mT
    exponentials = torch.exp(scores - scores.max(dim=-1, keepdim=True).values)
    if mask is not None:
        exponentials = exponentials * mask
    total = exponentials.sum(dim=-1, keepdim=True)
    weights = exponentials / torch.where(total == 0, torch.ones_like(total), total)
    return weights @ value, weights


def _sdpa_in_ten_lines(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    scores = query @ key.transpose(-2, -1)
    scores = scores / math.sqrt(query.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(dim=-1)
    if mask is not None:
        weights = weights.masked_fill(~mask, 0.0)
    return weights @ value, weights


def _wrong_sdpa(
    *,
    scale: str = "root",
    axis: int = -1,
    masking: str = "right",
    swap: bool = False,
    output: str = "weights @ value",
) -> Callable[..., tuple[Tensor, Tensor]]:
    """An attention with one thing wrong; by default nothing is."""

    def attention(
        query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        d_k = query.shape[-1]
        under = {"root": d_k, "none": 1, "d_k": d_k**2, "keys": key.shape[-2], "values": value.shape[-1]}[
            scale
        ]
        scores = query @ key.transpose(-2, -1) / math.sqrt(under)
        if mask is not None and masking == "added":
            scores = scores + mask
        elif mask is not None and masking in ("right", "nan", "inverted"):
            hidden = mask if masking == "inverted" else ~mask
            scores = scores.masked_fill(hidden, float("-inf"))
        elif mask is not None and masking in ("tiny", "not tiny"):
            scores = scores.masked_fill(~mask, -1e9 if masking == "tiny" else -100.0)
        elif mask is not None and masking == "zero":
            scores = scores.masked_fill(~mask, 0.0)
        weights = scores.softmax(dim=axis)
        if masking in ("right", "inverted"):
            weights = torch.nan_to_num(weights, nan=0.0)
        if mask is not None and masking in ("after", "not tiny"):
            weights = weights.masked_fill(~mask, 0.0)
        if mask is not None and masking == "renormalised":
            weights = weights * mask / (weights * mask).sum(dim=-1, keepdim=True)
        return (weights @ value if output == "weights @ value" else value), weights

    return attention


def _sdpa_then(change: Callable[[Tensor, Tensor, Tensor], Any]) -> Callable[..., Any]:
    """Right attention whose end is wrong: `change` gets output, weights and values."""

    def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Any:
        return change(*_wrong_sdpa()(query, key, value, mask), value)

    return attention


def _bare_exponentials(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    exponentials = (query @ key.mT / math.sqrt(query.shape[-1])).exp()
    if mask is not None:
        exponentials = exponentials * mask
    weights = exponentials / (exponentials.sum(dim=-1, keepdim=True) + 1e-9)
    return weights @ value, weights


def _bare_exponentials_without_epsilon(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    exponentials = (query @ key.mT / math.sqrt(query.shape[-1])).exp()
    if mask is not None:
        exponentials = exponentials * mask
    weights = exponentials / exponentials.sum(dim=-1, keepdim=True)
    return weights @ value, weights


SDPA = Exercise(
    id="attention/sdpa",
    title="Scaled dot-product attention",
    points=3,
    minutes=30,
    difficulty=2,
    cases=sdpa_cases,
    probe=probes.sdpa,
    reference=_reference_sdpa,
    also_right=(_sdpa_by_einsum, _sdpa_by_exponentials, _sdpa_in_ten_lines),
    steps=sdpa_steps,
    tolerance=Tolerance(absolute=2e-5, relative=1e-4),
    forbidden=(*LIBRARY, *ATTENTION, *FUSED),
    library="course_lib.layers.attention:scaled_dot_product_attention",
    misconceptions=(
        Misconception(
            "the scale is left out",
            _wrong_sdpa(scale="none"),
            "Divide the scores by √d_k before the softmax. Without it their spread grows with the width, "
            "and the softmax puts nearly all weight on one key.",
        ),
        Misconception(
            "the scores are divided by d_k",
            _wrong_sdpa(scale="d_k"),
            "The divisor is the square root of d_k. A sum of d_k products has variance d_k, so its spread "
            "is √d_k.",
        ),
        Misconception(
            "the scale uses the number of keys",
            _wrong_sdpa(scale="keys"),
            "d_k is the width of a query, `query.shape[-1]`. You divided by the root of the number of keys.",
        ),
        Misconception(
            "the softmax runs over the queries",
            _wrong_sdpa(axis=-2),
            "Each query shares out its attention among the keys, so each *row* sums to 1: the softmax is "
            "over the last axis.",
        ),
        Misconception(
            "the mask is inverted",
            _wrong_sdpa(masking="inverted"),
            "True means *may attend*. Hide the scores where the mask is False: `~mask`.",
        ),
        Misconception(
            "the mask comes after the softmax",
            _wrong_sdpa(masking="after"),
            "Hidden keys already took part in the softmax's sum, so the rest of the row sums to less than "
            "1. Hide the scores before the softmax.",
        ),
        Misconception(
            "hidden scores are set to zero",
            _wrong_sdpa(masking="zero"),
            "A score of 0 is not nothing: exp(0) = 1. A hidden key needs a score of minus infinity, whose "
            "exponential is 0.",
        ),
        Misconception(
            "the mask is added to the scores",
            _wrong_sdpa(masking="added"),
            "Adding True adds 1 to a score. Use `masked_fill` to put minus infinity where the mask is False.",
        ),
        Misconception(
            "the mask is ignored",
            _wrong_sdpa(masking="ignored"),
            "Your result is the same with and without a mask. Put minus infinity where the mask is False, "
            "before the softmax.",
        ),
        Misconception(
            "a fully masked row becomes NaN",
            _wrong_sdpa(masking="nan"),
            "A query that sees no key has only minus infinity in its row, and the softmax of that is 0/0. "
            "By this course's convention its weights and output are zeros.",
        ),
        Misconception(
            "a fully masked row attends everywhere",
            _wrong_sdpa(masking="tiny"),
            "With −1e9 everywhere in a row, the softmax spreads evenly over keys that are all hidden. A "
            "query that sees no key gets zeros: set the hidden weights to 0 after the softmax, too.",
        ),
        Misconception(
            "the values are returned unmixed",
            _wrong_sdpa(output="value"),
            "The output is a weighted sum of the values, `weights @ value`. You returned the values "
            "themselves.",
        ),
        Misconception(
            "the scale uses the width of the values",
            _wrong_sdpa(scale="values"),
            "d_k is the width of a query and of a key. The values may have another width, and it plays no "
            "part in the scores.",
        ),
        Misconception(
            "a hidden score is not small enough",
            _wrong_sdpa(masking="not tiny"),
            "A fill of −100 is larger than scores that may themselves be below it, and then the hidden keys "
            "take the weight. Fill with minus infinity or with `torch.finfo(scores.dtype).min`.",
        ),
        Misconception(
            "the weights of a fully masked row are divided by zero",
            _wrong_sdpa(masking="renormalised"),
            "You set hidden weights to 0 and divide by the sum of the rest. Where all keys are hidden that "
            "sum is 0, and 0/0 is NaN. Hide the scores before the softmax, and nothing needs dividing.",
        ),
        Misconception(
            "the exponentials overflow",
            _bare_exponentials,
            "exp of a score above 88 is infinite in float32, and of one below −104 it is 0. Use `softmax`, or "
            "subtract the largest score of each row first.",
        ),
        Misconception(
            "a softmax by hand that divides 0 by 0",
            _bare_exponentials_without_epsilon,
            "exp of a large score is infinite, of a very negative one 0, and where all keys are hidden every "
            "exponential is 0: each time the division gives NaN. Use `softmax`, and set hidden weights to 0.",
        ),
        Misconception(
            "the output alone is returned",
            _sdpa_then(lambda output, weights, value: output),
            "The answer is a tuple of two tensors. End with `return output, weights`.",
        ),
        Misconception(
            "the weights come first",
            _sdpa_then(lambda output, weights, value: (weights, output)),
            "The output stands first in the tuple, then the weights: `return output, weights`.",
        ),
        Misconception(
            "no gradient reaches query and key",
            _sdpa_then(lambda output, weights, value: (weights.detach() @ value, weights)),
            "The numbers are right, but the weights are cut off from query and key. `torch.no_grad()`, "
            "`.detach()` and `.data` do that: training could not change what attends to what.",
        ),
        Misconception(
            "no gradient reaches the inputs",
            _sdpa_then(lambda output, weights, value: (output.detach(), weights)),
            "The numbers are right, but the output is cut off from what it was computed from. "
            "`torch.no_grad()`, `.detach()`, `.data` and `torch.tensor(…)` of a tensor do that.",
        ),
    ),
    hints=(
        "Write the formula as three lines: scores, weights, output. Print the shape after each.",
        "`key.transpose(-2, -1)` turns (…, k, d) into (…, d, k), so that `query @ …` has shape (…, q, k). "
        "Mask these scores before the softmax, and run the softmax over the keys.",
        "A fully masked row: fill hidden scores with `torch.finfo(scores.dtype).min`, take the softmax, then "
        "`masked_fill(~mask, 0.0)` on the weights. No NaN ever arises, in the gradient neither.",
    ),
)

# --- attention/cross ---------------------------------------------------------------------------


def cross_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Self and cross, equal and unequal lengths and widths, masks, biases, a single context token."""
    yield _cross_case(rng, "self-attention", (4, None), (6, 4, None))
    yield _cross_case(rng, "cross-attention with equal lengths and widths", (4, 4), (5, 5, 5))
    yield _cross_case(rng, "cross-attention with a longer context", (3, 7), (8, 4, 6))
    causal = np.tril(np.ones((5, 5), dtype=bool))
    yield _cross_case(rng, "causal self-attention", (5, None), (6, 3, None), mask=causal)
    padded = np.broadcast_to(np.arange(4) < np.array([4, 2])[:, None, None], (2, 4, 4)).copy()
    padded[0, 1] = False
    yield _cross_case(
        rng, "a padded context and a fully masked row", (4, 4), (6, 6, 6), mask=padded, hidden=True
    )
    yield _cross_case(rng, "projections with a bias", (3, 3), (4, 4, 4), bias=True, hidden=True)
    yield _cross_case(rng, "a context of one token", (3, 1), (6, 2, 4), hidden=True)


def _cross_case(
    rng: np.random.Generator,
    name: str,
    lengths: tuple[int, int | None],
    widths: tuple[int, int, int | None],
    *,
    mask: np.ndarray | None = None,
    bias: bool = False,
    hidden: bool = False,
) -> Case:
    (n_query, n_key), (d_model, d_k, d_v) = lengths, widths
    out = {"query": d_k, "key": d_k, "value": d_k if d_v is None else d_v}

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    state = {f"{part}.weight": draw(width, d_model) for part, width in out.items()}
    if bias:
        state |= {f"{part}.bias": draw(width) for part, width in out.items()}
    inputs: dict[str, Any] = {"d_model": d_model, "d_k": d_k, "d_v": d_v, "bias": bias, "state": state}
    inputs["hidden_states"] = draw(2, n_query, d_model)
    inputs["context"] = None if n_key is None else draw(2, n_key, d_model)
    inputs |= {"mask": mask, "direction": draw(2, n_query, out["value"])}
    return Case(name, inputs, hidden)


def cross_steps(case: Case) -> Mapping[str, np.ndarray]:
    """The projections, then the steps of attention."""
    given = case["hidden_states"]
    context = given if case["context"] is None else case["context"]
    sources = {"query": given, "key": context, "value": context}
    projected = {
        part: source @ case["state"][f"{part}.weight"].T + case["state"].get(f"{part}.bias", np.float32(0))
        for part, source in sources.items()
    }
    names = {"query": "hidden_states", "key": "the context", "value": "the context"}
    steps = {f"the {part} projection of {names[part]}": values for part, values in projected.items()}
    inner = Case(case.name, projected | {"mask": case["mask"]})
    return steps | dict(sdpa_steps(inner))


class _Reference(library.SingleHeadAttention):
    """The library's module, returning the pair that the exercise asks for."""

    def forward(  # type: ignore[override]
        self, hidden_states: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        found = super().forward(hidden_states, context, mask, return_weights=True)
        assert found.weights is not None
        return found.output, found.weights


class _HeadByEinsum(nn.Module):
    def __init__(self, d_model: int, d_k: int, d_v: int | None = None, bias: bool = False) -> None:
        super().__init__()
        widths = {"query": d_k, "key": d_k, "value": d_v or d_k}
        for name, width in widths.items():
            self.add_module(name, nn.Linear(d_model, width, bias))

    def forward(
        self, hidden_states: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if context is None:
            context = hidden_states
        query, key, value = (
            self.get_submodule(name)(source)
            for name, source in (("query", hidden_states), ("key", context), ("value", context))
        )
        return _sdpa_by_einsum(query, key, value, mask)


class _HeadByHand(nn.Module):
    def __init__(self, d_model: int, d_k: int, d_v: int | None = None, bias: bool = False) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(d_model, d_k, bias=bias), nn.Linear(d_model, d_k, bias=bias)
        self.value = nn.Linear(d_model, d_k if d_v is None else d_v, bias=bias)

    def forward(
        self, hidden_states: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        source = hidden_states if context is None else context
        scores = torch.baddbmm(
            torch.zeros(1, 1, 1),
            self.query(hidden_states),
            self.key(source).mT,
            beta=0,
            alpha=self.query.out_features**-0.5,
        )
        allowed = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask.expand_as(scores)
        scores = torch.where(allowed, scores, scores.new_tensor(-1e30))
        weights = torch.where(allowed, scores.softmax(-1), scores.new_zeros(()))
        return torch.bmm(weights, self.value(source)), weights


def _wrong_head(
    *,
    query_from: str = "hidden_states",
    key_from: str = "context",
    value_from: str = "context",
    key_by: str = "key",
    ignore: tuple[str, ...] = (),
    always_bias: bool = False,
    scale: str = "d_k",
    value_by: str = "value",
    default_d_v: str = "d_k",
    attend: Callable[..., Any] | None = None,
) -> type[nn.Module]:
    """A head with one thing wrong; by default nothing is."""

    class Head(nn.Module):
        def __init__(self, d_model: int, d_k: int, d_v: int | None = None, bias: bool = False) -> None:
            super().__init__()
            if d_v is None or "d_v" in ignore:
                d_v = d_model if default_d_v == "d_model" else d_k
            bias = always_bias or (bias and "bias" not in ignore)
            self.query = nn.Linear(d_model, d_k, bias)
            self.key = nn.Linear(d_model, d_k, bias)
            self.value = nn.Linear(d_model, d_v, bias)

        def forward(
            self, hidden_states: Tensor, context: Tensor | None = None, mask: Tensor | None = None
        ) -> tuple[Tensor, Tensor]:
            own = context is None or "context" in ignore
            sources = {"hidden_states": hidden_states, "context": hidden_states if own else context}
            query = self.query(sources[query_from])
            value = (
                sources[value_from] if value_by == "nothing" else getattr(self, value_by)(sources[value_from])
            )
            key = sources[key_from] if key_by == "nothing" else getattr(self, key_by)(sources[key_from])
            if scale == "d_model":
                query = query * (query.shape[-1] / hidden_states.shape[-1]) ** 0.5
            # With `@`, as most learners write it: where shapes do not fit, the exception is theirs.
            return (attend or _wrong_sdpa())(query, key, value, None if "mask" in ignore else mask)

    return Head


CROSS = Exercise(
    id="attention/cross",
    title="One head for self- and cross-attention",
    points=3,
    minutes=30,
    difficulty=2,
    cases=cross_cases,
    probe=probes.cross,
    reference=_Reference,
    also_right=(_HeadByEinsum, _HeadByHand),
    steps=cross_steps,
    tolerance=Tolerance(absolute=5e-5, relative=2e-4),
    forbidden=(*LIBRARY, *HEADS),
    library="course_lib.layers.attention:SingleHeadAttention",
    misconceptions=(
        Misconception(
            "the queries come from the context",
            _wrong_head(query_from="context"),
            "A query is a question that a token of `hidden_states` asks. Project `hidden_states` to queries, "
            "and the context to keys and values: the output has one row per token of `hidden_states`.",
        ),
        Misconception(
            "the roles of the two sequences are swapped",
            _wrong_head(query_from="context", key_from="hidden_states", value_from="hidden_states"),
            "Here the context asks and `hidden_states` answers. It is the other way round: queries from "
            "`hidden_states`, keys and values from the context.",
        ),
        Misconception(
            "the values come from the asking sequence",
            _wrong_head(value_from="hidden_states"),
            "Key and value are two views of the same token: the key says what it can be found by, the value "
            "what it hands over. Both come from the context.",
        ),
        Misconception(
            "the context is ignored",
            _wrong_head(ignore=("context",)),
            "Your module attends to `hidden_states` even when a context is given. Keys and values come from "
            "the context, and from `hidden_states` only where it is None.",
        ),
        Misconception(
            "the keys are not projected",
            _wrong_head(key_by="nothing"),
            "The keys are `self.key(context)`, not the context itself. Where d_k differs from d_model the "
            "two do not even fit together.",
        ),
        Misconception(
            "the keys use the projection of the queries",
            _wrong_head(key_by="query"),
            "Keys have a projection of their own, `self.key`. With the one of the queries every token would "
            "look most at tokens like itself.",
        ),
        Misconception(
            "the mask is not passed on",
            _wrong_head(ignore=("mask",)),
            "`forward` takes a mask, but the result does not depend on it. Hand it to the attention function.",
        ),
        Misconception(
            "the scale is left out",
            _wrong_head(attend=_wrong_sdpa(scale="none")),
            "Your projections are right, but the scores are not divided by √d_k. If you call your own "
            "function from exercise 2, mend that one first.",
        ),
        Misconception(
            "the scale uses the width of the model",
            _wrong_head(scale="d_model"),
            "The divisor is √d_k, the root of the width of a query after its projection, not of d_model.",
        ),
        Misconception(
            "there is a bias where none is asked for",
            _wrong_head(always_bias=True),
            "`nn.Linear` adds a bias unless it is told not to. Pass `bias=bias`, which is False by default here.",
        ),
        Misconception(
            "d_v is ignored",
            _wrong_head(ignore=("d_v",)),
            "The values may have a width of their own: the projection to values has `d_v` outputs, and d_k "
            "only where `d_v` is None.",
        ),
        Misconception(
            "a fully masked row becomes NaN",
            _wrong_head(attend=_wrong_sdpa(masking="nan")),
            "A query that sees no key gets an output of zeros, not NaN. If you call your own function from "
            "exercise 2, mend that one first.",
        ),
        Misconception(
            "a fully masked row attends everywhere",
            _wrong_head(attend=_wrong_sdpa(masking="tiny")),
            "A query that sees no key gets an output of zeros. Use the attention function of the exercise "
            "before this one, whose convention it is.",
        ),
        Misconception(
            "the mask is inverted",
            _wrong_head(attend=_wrong_sdpa(masking="inverted")),
            "True means *may attend*, for the module as for the function that it calls. Pass the mask on as "
            "it is.",
        ),
        Misconception(
            "keys and values are exchanged",
            _wrong_head(key_by="value", value_by="key"),
            "`self.key` makes what the queries are compared with, `self.value` what is mixed into the output. "
            "The order of arguments is query, key, value.",
        ),
        Misconception(
            "the values are not projected",
            _wrong_head(value_by="nothing"),
            "What is mixed are the projected values, `self.value(context)`, and not the context itself.",
        ),
        Misconception(
            "the argument `bias` has no effect",
            _wrong_head(ignore=("bias",)),
            "With `bias=True` all three layers have a bias. Hand the argument on: `nn.Linear(…, bias=bias)`.",
        ),
        Misconception(
            "d_v falls back to d_model",
            _wrong_head(default_d_v="d_model"),
            "Where `d_v` is None, the values are as wide as the keys: d_k, not d_model.",
        ),
        Misconception(
            "the output alone is returned",
            _wrong_head(attend=_sdpa_then(lambda output, weights, value: output)),
            "`forward` returns a tuple of two tensors, `(output, weights)`.",
        ),
        Misconception(
            "the library's object is returned as it is",
            _wrong_head(attend=library.scaled_dot_product_attention),
            "The library's function returns one object. Take it apart: with `return_weights=True`, return "
            "`found.output, found.weights`.",
        ),
        Misconception(
            "the weights come first",
            _wrong_head(attend=_sdpa_then(lambda output, weights, value: (weights, output))),
            "The output stands first in the tuple, then the weights: `return output, weights`.",
        ),
    ),
    hints=(
        "Three `nn.Linear` in `__init__`, called `query`, `key` and `value`. In `forward`, decide first which "
        "sequence the keys and values come from.",
        "`context = hidden_states if context is None else context` makes self-attention a special case of "
        "cross-attention. Only the query projection ever sees `hidden_states` after that.",
        "`forward` ends with one call: `scaled_dot_product_attention(self.query(hidden_states), "
        "self.key(context), self.value(context), mask)`. `__init__` passes `bias=bias` to all three layers.",
    ),
)

# --- attention/saturation ----------------------------------------------------------------------


def saturation_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Unit variance over many widths; then other orders, spreads and sizes."""
    yield _saturation_case(rng, "unit variance, widths 1 to 256", [(w, 1.0) for w in (1, 4, 16, 64, 256)])
    # The first two always fall below half and the others never: a draw near one half would tell nothing.
    falling = [(256, 1.5), (64, 1.5), (16, 0.8), (4, 0.8)]
    yield _saturation_case(rng, "widths in falling order", falling)
    yield _saturation_case(rng, "small vectors, which never saturate", [(w, 0.05) for w in (2, 8, 32)])
    spread = [(8, 2.0), (16, 0.05), (128, 1.0)]
    yield _saturation_case(rng, "widths of different spread", spread, n_key=9, hidden=True)
    yield _saturation_case(rng, "a single key", [(4, 1.0), (64, 1.0)], n_key=1, hidden=True)
    # At width 2 large numbers saturate the softmax with the scale, too: only its own norm is a fair measure.
    narrow_last, narrow_first = [(32, 0.3), (256, 1.0), (2, 4.0)], [(2, 4.0), (32, 0.3), (256, 1.5)]
    yield _saturation_case(rng, "a narrow entry of large numbers", narrow_last, n_query=40, hidden=True)
    yield _saturation_case(rng, "a narrow entry at the start", narrow_first, n_query=40, hidden=True)
    yield _saturation_case(rng, "scores in the thousands", [(64, 6.0), (512, 6.0)], hidden=True)
    yield _saturation_case(
        rng, "float64", [(3, 1.0), (48, 1.5), (192, 1.0)], n_query=3, dtype="float64", hidden=True
    )


def _saturation_case(
    rng: np.random.Generator,
    name: str,
    batches: list[tuple[int, float]],
    *,
    n_query: int = 24,
    n_key: int = 6,
    dtype: str = "float32",
    hidden: bool = False,
) -> Case:
    queries = [(rng.normal(size=(n_query, d)) * spread).astype(dtype) for d, spread in batches]
    keys = [(rng.normal(size=(n_query, n_key, d)) * spread).astype(dtype) for d, spread in batches]
    return Case(name, {"queries": queries, "keys": keys, "dtype": dtype}, hidden)


def saturation_steps(case: Case) -> Mapping[str, np.ndarray]:
    """For the first entry: scores, and weights and norms with the scale."""
    query, key = torch.as_tensor(case["queries"][0]), torch.as_tensor(case["keys"][0])
    scores = (key @ query[:, :, None])[..., 0]
    scaled = scores / math.sqrt(query.shape[-1])
    steps = {"the scores of the first entry": scores, "its scores divided by √d_k": scaled}
    steps["its weights with the scale"] = scaled.softmax(-1)
    steps["the norms of its Jacobians with the scale"] = _jacobian_norms(scaled)
    return {name: step.numpy() for name, step in steps.items()}


def _jacobian_norms(scores: Tensor) -> Tensor:
    """The Frobenius norm of ∂ softmax(scores) / ∂ scores for each row of scores: (n, k) → (n,)."""
    weights = scores.softmax(dim=-1)
    jacobians = torch.diag_embed(weights) - weights[:, :, None] * weights[:, None, :]
    return torch.linalg.matrix_norm(jacobians)


def _scores(query: Tensor, key: Tensor) -> Tensor:
    return torch.einsum("nd,nkd->nk", query, key)


def _smallest_below_half(queries: list[Tensor], scaled: Tensor, unscaled: Tensor) -> int | None:
    fallen = [
        query.shape[-1]
        for query, one, other in zip(queries, unscaled, scaled, strict=True)
        if one < other / 2
    ]
    return min(fallen, default=None)


def _measure(
    queries: list[Tensor],
    keys: list[Tensor],
    norms: Callable[[Tensor], Tensor] = _jacobian_norms,
    scale: Callable[[Tensor, int], Tensor] = lambda scores, d_k: scores / math.sqrt(d_k),
    choose: Callable[[list[Tensor], Tensor, Tensor], int | None] = _smallest_below_half,
) -> tuple[Tensor, Tensor, int | None]:
    """The reference, whose parts the misconceptions replace one at a time."""
    scores = [_scores(query, key) for query, key in zip(queries, keys, strict=True)]
    scaled = torch.stack(
        [norms(scale(row, query.shape[-1])).mean() for row, query in zip(scores, queries, strict=True)]
    )
    unscaled = torch.stack([norms(row).mean() for row in scores])
    return scaled, unscaled, choose(queries, scaled, unscaled)


def _saturation_by_formula(queries: list[Tensor], keys: list[Tensor]) -> tuple[Tensor, Tensor, int | None]:
    """‖diag(p) − p pᵀ‖² = Σp² − 2Σp³ + (Σp²)²."""

    def mean_norm(query: Tensor, key: Tensor, divisor: float) -> Tensor:
        p = torch.softmax((key @ query.unsqueeze(-1)).squeeze(-1) / divisor, dim=-1)
        square = p.pow(2).sum(-1)
        return (square - 2 * p.pow(3).sum(-1) + square**2).clamp(min=0).sqrt().mean()

    pairs = list(zip(queries, keys, strict=True))
    scaled = torch.stack([mean_norm(q, k, q.shape[1] ** 0.5) for q, k in pairs])
    unscaled = torch.stack([mean_norm(q, k, 1.0) for q, k in pairs])
    widths = torch.tensor([q.shape[1] for q in queries])[unscaled < 0.5 * scaled]
    return scaled, unscaled, int(widths.min()) if len(widths) else None


def _saturation_by_autograd(queries: list[Tensor], keys: list[Tensor]) -> tuple[Tensor, Tensor, int | None]:
    def mean_norm(query: Tensor, key: Tensor, divisor: float) -> Tensor:
        norms = []
        for one, table in zip(query, key, strict=True):
            jacobian = torch.autograd.functional.jacobian(lambda s: s.softmax(-1), table @ one / divisor)
            norms.append(jacobian.norm())
        return torch.stack(norms).mean()

    scaled, unscaled, width = [], [], None
    for query, key in sorted(zip(queries, keys, strict=True), key=lambda pair: pair[0].shape[1]):
        scaled.append(mean_norm(query, key, math.sqrt(query.shape[1])))
        unscaled.append(mean_norm(query, key, 1.0))
        if width is None and unscaled[-1] < scaled[-1] / 2:
            width = query.shape[1]
    order = np.argsort(np.argsort([query.shape[1] for query in queries]))
    return torch.stack(scaled)[order], torch.stack(unscaled)[order], width


def _norm_of_the_mean(scores: Tensor) -> Tensor:
    weights = scores.softmax(dim=-1)
    jacobians = torch.diag_embed(weights) - weights[:, :, None] * weights[:, None, :]
    return torch.linalg.matrix_norm(jacobians.mean(dim=0))


def _gradient_of_the_sum(scores: Tensor) -> Tensor:
    leaf = scores.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(leaf.softmax(dim=-1).sum(), leaf)
    return gradient.norm(dim=-1)


def _diagonal_only(scores: Tensor) -> Tensor:
    weights = scores.softmax(dim=-1)
    return (weights * (1 - weights)).norm(dim=-1)


def _exponentials_overflow(scores: Tensor) -> Tensor:
    weights = scores.exp() / scores.exp().sum(dim=-1, keepdim=True)
    jacobians = torch.diag_embed(weights) - weights[:, :, None] * weights[:, None, :]
    return torch.linalg.matrix_norm(jacobians)


def _softmax_over_queries(scores: Tensor) -> Tensor:
    weights = scores.softmax(dim=0)
    jacobians = torch.diag_embed(weights) - weights[:, :, None] * weights[:, None, :]
    return torch.linalg.matrix_norm(jacobians)


def _below_half_of_the_first(queries: list[Tensor], scaled: Tensor, unscaled: Tensor) -> int | None:
    fallen = [query.shape[-1] for query, one in zip(queries, unscaled, strict=True) if one < unscaled[0] / 2]
    return min(fallen, default=None)


def _below_half_of_the_first_scaled(queries: list[Tensor], scaled: Tensor, unscaled: Tensor) -> int | None:
    fallen = [query.shape[-1] for query, one in zip(queries, unscaled, strict=True) if one < scaled[0] / 2]
    return min(fallen, default=None)


def _below_half_of_the_largest(queries: list[Tensor], scaled: Tensor, unscaled: Tensor) -> int | None:
    fallen = [query.shape[-1] for query, one in zip(queries, unscaled, strict=True) if one < scaled.max() / 2]
    return min(fallen, default=None)


def _largest_below_half(queries: list[Tensor], scaled: Tensor, unscaled: Tensor) -> int | None:
    trio = zip(queries, unscaled, scaled, strict=True)
    return max((query.shape[-1] for query, one, other in trio if one < other / 2), default=None)


def _first_in_the_list(queries: list[Tensor], scaled: Tensor, unscaled: Tensor) -> int | None:
    pairs = zip(queries, unscaled, scaled, strict=True)
    return next((query.shape[-1] for query, one, other in pairs if one < other / 2), None)


def _place_in_the_list(queries: list[Tensor], scaled: Tensor, unscaled: Tensor) -> int | None:
    width = _smallest_below_half(queries, scaled, unscaled)
    return None if width is None else [query.shape[-1] for query in queries].index(width)


def _measuring(**changed: Any) -> Callable[..., Any]:
    return lambda queries, keys: _measure(queries, keys, **changed)


def _by_the_plain_scores(queries: list[Tensor], keys: list[Tensor]) -> tuple[Tensor, Tensor, int | None]:
    """The chain rule's 1/√d goes into the norms with the scale."""
    scaled, unscaled, _ = _measure(queries, keys)
    scaled = scaled / torch.tensor([query.shape[-1] ** 0.5 for query in queries]).to(scaled)
    return scaled, unscaled, _smallest_below_half(queries, scaled, unscaled)


def _without_the_scale_first(queries: list[Tensor], keys: list[Tensor]) -> tuple[Tensor, Tensor, int | None]:
    scaled, unscaled, width = _measure(queries, keys)
    return unscaled, scaled, width


def _sorted_by_width(queries: list[Tensor], keys: list[Tensor]) -> tuple[Tensor, Tensor, int | None]:
    pairs = sorted(zip(queries, keys, strict=True), key=lambda pair: pair[0].shape[-1])
    return _measure([query for query, _ in pairs], [key for _, key in pairs])


SATURATION = Exercise(
    id="attention/saturation",
    title="When the softmax stops learning",
    points=3,
    minutes=35,
    difficulty=3,
    cases=saturation_cases,
    probe=probes.saturation,
    reference=_measure,
    also_right=(_saturation_by_formula, _saturation_by_autograd),
    forbidden=LIBRARY,
    steps=saturation_steps,
    # Near saturation a norm is a small difference of large numbers: the formula keeps half the digits.
    tolerance=Tolerance(absolute=4e-4, relative=1e-3),
    misconceptions=(
        Misconception(
            "the gradient of a sum that is always 1",
            _measuring(norms=_gradient_of_the_sum),
            "The weights of a row sum to 1 whatever the scores are, so the gradient of their sum is 0. You "
            "need the whole Jacobian, the derivative of each weight by each score.",
        ),
        Misconception(
            "the norm of the mean in place of the mean of the norms",
            _measuring(norms=_norm_of_the_mean),
            "Entries of different sign cancel when Jacobians are averaged first. Take the norm of each "
            "query's Jacobian, then the mean of the norms.",
        ),
        Misconception(
            "only the diagonal of the Jacobian",
            _measuring(norms=_diagonal_only),
            "p·(1 − p) is the diagonal: each weight by its own score. A score also moves the other weights, "
            "by −pᵢ·pⱼ, and those entries belong to the norm.",
        ),
        Misconception(
            "the scores are divided by d_k",
            _measuring(scale=lambda scores, d_k: scores / d_k),
            "The divisor is √d_k, the spread of a sum of d_k products; the width itself is too much.",
        ),
        Misconception(
            "the scale multiplies",
            _measuring(scale=lambda scores, d_k: scores * math.sqrt(d_k)),
            "You multiplied by √d_k. Scaling is there to bring the scores back to spread 1, so it divides.",
        ),
        Misconception(
            "the softmax runs over the queries",
            _measuring(norms=_softmax_over_queries),
            "Each query has keys of its own. The softmax runs over them, the last axis of the scores, so that "
            "the weights of one query sum to 1.",
        ),
        Misconception(
            "the exponentials overflow",
            _measuring(norms=_exponentials_overflow),
            "exp of a score above 88 is infinite in float32, and infinity by infinity is NaN. Use `softmax`, "
            "or subtract the largest score of each row first.",
        ),
        Misconception(
            "the norms are compared with that of the first entry, without the scale",
            _measuring(choose=_below_half_of_the_first),
            "Compare at the same width: without the scale against with it. Entries may differ in more than "
            "their width.",
        ),
        Misconception(
            "the norms are compared with that of the first entry, with the scale",
            _measuring(choose=_below_half_of_the_first_scaled),
            "Each norm without the scale is compared with the norm with the scale of the same entry. The "
            "first entry is a measure for itself alone.",
        ),
        Misconception(
            "the norms are compared with the largest",
            _measuring(choose=_below_half_of_the_largest),
            "Each norm without the scale is compared with the norm with the scale of the same entry, not with "
            "the largest of all.",
        ),
        Misconception(
            "the largest width in place of the smallest",
            _measuring(choose=_largest_below_half),
            "Asked for is the width from which on it hurts: the smallest of those that fall below half.",
        ),
        Misconception(
            "the derivative is by the plain scores in both cases",
            _by_the_plain_scores,
            "With the scale, differentiate by what goes into the softmax, the scores after the division. Yours "
            "are smaller by √d, which is the chain rule's factor for the division.",
        ),
        Misconception(
            "the norms without the scale come first",
            _without_the_scale_first,
            "The order of the tuple is `(scaled, unscaled, width)`: first the norms with the scale.",
        ),
        Misconception(
            "the norms are sorted by width",
            _sorted_by_width,
            "The norms belong in the order of the lists that came in. Only the third value looks for the "
            "smallest width.",
        ),
        Misconception(
            "the first in the list is taken for the smallest",
            _measuring(choose=_first_in_the_list),
            "The widths may come in any order. Collect those that fall below half, then take the smallest.",
        ),
        Misconception(
            "a place in the list in place of a width",
            _measuring(choose=_place_in_the_list),
            "The third value is the width itself, such as 64, not its index in the list.",
        ),
    ),
    hints=(
        "Write one function for one entry of the lists first: scores (n, k) in, one number out. Call it with the "
        "scores and with the scaled scores.",
        "For weights p of one query, the Jacobian has the entries pᵢ·(δᵢⱼ − pⱼ): `torch.diag(p) - "
        "torch.outer(p, p)`. `torch.autograd.functional.jacobian` gives the same.",
        "Scores: `torch.einsum('nd,nkd->nk', query, key)`. Jacobians of all queries: `torch.diag_embed(p) - "
        "p[:, :, None] * p[:, None, :]`. Their norms: `torch.linalg.matrix_norm`. Then `.mean()`.",
    ),
)

# --- attention/chunked -------------------------------------------------------------------------


def chunked_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Whole and partial chunks, plain and causal, with a cache, one query at a time, bfloat16."""
    # Nearly all have twelve chunks or more: then the whole table, its mask, or pieces of q/chunk rows overspend clearly.
    yield _chunked_case(rng, "chunks that fit exactly", 72, 72, 4)
    yield _chunked_case(rng, "a partial last chunk", 38, 40, 3)
    yield _chunked_case(rng, "four long chunks", 24, 24, 6, hidden=True)
    yield _chunked_case(rng, "causal", 72, 72, 4, causal=True)
    yield _chunked_case(rng, "causal with earlier keys", 25, 55, 2, causal=True, hidden=True)
    yield _chunked_case(rng, "one query at a time, causal", 24, 24, 1, causal=True, hidden=True)
    yield _chunked_case(rng, "a chunk longer than the sequence", 12, 40, 64, causal=True, hidden=True)
    yield _chunked_case(rng, "four heads", 24, 24, 2, lead=(2, 4), causal=True, hidden=True)
    yield _chunked_case(rng, "no leading axes, causal", 49, 60, 4, lead=(), causal=True, hidden=True)
    yield _chunked_case(rng, "bfloat16", 48, 48, 3, dtype="bfloat16", hidden=True)


def chunked_budgets(query: np.ndarray, key: np.ndarray, value: np.ndarray, chunk: int) -> tuple[int, int]:
    """(largest tensor, all together) that the statement allows, in numbers.

    One tensor: two tables of (chunk, k), or the largest of output and inputs where that is more.
    All together: six such tables, and the sizes of the output, query, key and value.
    """
    table = query[..., 0, 0].size * min(chunk, query.shape[-2]) * key.shape[-2]
    output = query[..., 0].size * value.shape[-1]
    largest = max(2 * table, output, query.size, key.size, value.size)
    return largest, 6 * table + output + query.size + key.size + value.size


def _chunked_case(
    rng: np.random.Generator,
    name: str,
    n_query: int,
    n_key: int,
    chunk: int,
    *,
    lead: tuple[int, ...] = (2,),
    causal: bool = False,
    dtype: str = "float32",
    hidden: bool = False,
) -> Case:
    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=(*lead, *shape)).astype(np.float32)

    query, key, value = draw(n_query, 4), draw(n_key, 4), draw(n_key, 3)
    inputs: dict[str, Any] = {"query": query, "key": key, "value": value, "chunk": chunk}
    largest, budget = chunked_budgets(query, key, value, chunk)
    inputs |= {"causal": causal, "dtype": dtype, "largest": largest, "budget": budget}
    return Case(name, inputs, hidden)


def _chunked_by_weights(
    query: Tensor, key: Tensor, value: Tensor, chunk: int, causal: bool = False
) -> Tensor:
    pieces = []
    offset = key.shape[-2] - query.shape[-2]
    for start in range(0, query.shape[-2], chunk):
        rows = query[..., start : start + chunk, :]
        mask = None
        if causal:
            positions = torch.arange(rows.shape[-2], device=query.device) + start + offset
            mask = torch.arange(key.shape[-2], device=query.device) <= positions.unsqueeze(-1)
        pieces.append(_sdpa_by_einsum(rows, key, value, mask)[0])
    return torch.cat(pieces, dim=-2)


def _chunked_in_float32(
    query: Tensor, key: Tensor, value: Tensor, chunk: int, causal: bool = False
) -> Tensor:
    """Keys and values are widened once, and the mask is cut from a triangle of one chunk's size."""
    wide_key, wide_value = key.float(), value.float()
    n_query, n_key = query.shape[-2], key.shape[-2]
    output = query.new_empty(*query.shape[:-1], value.shape[-1])
    for start in range(0, n_query, chunk):
        rows = query[..., start : start + chunk, :].float()
        scores = rows @ wide_key.mT / math.sqrt(rows.shape[-1])
        if causal:
            hidden = torch.full(scores.shape[-2:], -math.inf, device=query.device)
            scores = scores + hidden.triu(start + n_key - n_query + 1)
        output[..., start : start + chunk, :] = (scores.softmax(-1) @ wide_value).to(query.dtype)
    return output


def _chunked_by_ones_and_own_attention(
    query: Tensor, key: Tensor, value: Tensor, chunk: int, causal: bool = False
) -> Tensor:
    """As exercise 2 is most often solved: each chunk's weights live until the next chunk's exist."""
    n_query, n_key = query.shape[-2], key.shape[-2]
    pieces = []
    for start in range(0, n_query, chunk):
        rows, mask = query[..., start : start + chunk, :], None
        if causal:
            ones = torch.ones(rows.shape[-2], n_key, dtype=torch.bool, device=query.device)
            mask = ones.tril(start + n_key - n_query)
        output, _weights = _sdpa_in_ten_lines(rows, key, value, mask)
        pieces.append(output)
    return torch.cat(pieces, dim=-2)


def _chunked_by_split(query: Tensor, key: Tensor, value: Tensor, chunk: int, causal: bool = False) -> Tensor:
    """A running position instead of an index, and only the keys that a chunk can see."""
    output, position = [], key.shape[-2] - query.shape[-2]
    for rows in (query * query.shape[-1] ** -0.5).split(chunk, dim=-2):
        height = rows.shape[-2]
        seen = position + height if causal else key.shape[-2]
        scores = rows @ key[..., :seen, :].mT
        if causal:
            future = torch.ones(height, seen, dtype=torch.bool, device=query.device).triu(position + 1)
            scores.masked_fill_(future, float("-inf"))
        output.append(scores.softmax(-1) @ value[..., :seen, :])
        position += height
    return torch.cat(output, dim=-2)


def _whole_mask(n_query: int, n_key: int, device: torch.device) -> Tensor:
    positions = torch.arange(n_key - n_query, n_key, device=device)
    return torch.arange(n_key, device=device) <= positions[:, None]


def _wrong_chunked(
    *,
    first: str = "right",
    keys: str = "all",
    scaled: bool = True,
    dropped: bool = False,
    masked: str = "right",
    memory: str = "chunk",
    returned: str = "joined",
) -> Callable[..., Any]:
    """Chunked attention with one thing wrong; by default nothing is."""

    def attention(query: Tensor, key: Tensor, value: Tensor, chunk: int, causal: bool = False) -> Any:
        n_query, n_key = query.shape[-2], key.shape[-2]
        if not scaled:
            query = query * query.shape[-1] ** 0.5
        if memory == "whole":
            mask = _whole_mask(n_query, n_key, query.device) if causal else None
            return _sdpa_by_einsum(query, key, value, mask)[0]
        pieces, kept = [], []
        whole_mask = _whole_mask(n_query, n_key, query.device) if memory == "mask" else None
        if memory == "pieces":
            chunk = math.ceil(n_query / chunk)
        for start in range(0, n_query - (n_query % chunk if dropped else 0), chunk):
            rows = query[..., start : start + chunk, :]
            offsets = {"right": start + n_key - n_query, "chunk": 0, "queries": start}
            offset = (offsets | {"last": n_key - rows.shape[-2]})[first]
            positions = torch.arange(rows.shape[-2], device=query.device)[:, None] + offset
            if masked == "to the end of the chunk":
                positions = positions.amax().expand_as(positions)
            mask = torch.arange(n_key, device=query.device) <= positions
            if masked.startswith("inverted"):
                mask = ~mask
            if whole_mask is not None:
                mask = whole_mask[start : start + chunk]
            chosen = slice(start, start + chunk) if keys == "own chunk" else slice(None)
            attend = _wrong_sdpa(masking="nan") if masked == "inverted to NaN" else _sdpa_by_einsum
            output, weights = attend(
                rows,
                key[..., chosen, :],
                value[..., chosen, :],
                mask[:, chosen] if causal and masked != "ignored" else None,
            )
            pieces.append(output)
            if memory == "kept":
                kept.append(weights)
            if returned == "in the loop":
                break
        joined = torch.cat(pieces, dim=-2)
        if dropped and returned == "padded":
            joined = F.pad(joined, (0, 0, 0, n_query % chunk))
        return (joined, weights) if returned == "pair" else joined

    return attention


def _softmax_over_pieces_of_keys(
    query: Tensor, key: Tensor, value: Tensor, chunk: int, causal: bool = False
) -> Tensor:
    """Keys are cut too, and the outputs of the pieces added, each with a softmax of its own."""
    n_query, n_key = query.shape[-2], key.shape[-2]
    pieces = []
    for start in range(0, n_query, chunk):
        rows = query[..., start : start + chunk, :]
        positions = torch.arange(rows.shape[-2], device=query.device)[:, None] + start + n_key - n_query
        output = torch.zeros_like(value[..., :1, :].expand(*rows.shape[:-1], -1))
        for first in range(0, n_key, chunk):
            part = slice(first, first + chunk)
            mask = torch.arange(n_key, device=query.device)[part] <= positions if causal else None
            output = output + _sdpa_by_einsum(rows, key[..., part, :], value[..., part, :], mask)[0]
        pieces.append(output)
    return torch.cat(pieces, dim=-2)


CHUNKED = Exercise(
    id="attention/chunked",
    title="Attention for long sequences, a chunk at a time",
    points=4,
    minutes=90,
    difficulty=4,
    cases=chunked_cases,
    probe=probes.chunked,
    reference=library_chunked.chunked_attention,
    also_right=(
        _chunked_by_weights,
        _chunked_by_split,
        _chunked_in_float32,
        _chunked_by_ones_and_own_attention,
    ),
    tolerance=Tolerance(absolute=2e-5, relative=1e-4),
    forbidden=(*LIBRARY, *ATTENTION, *FUSED),
    library="course_lib.layers.chunked:chunked_attention",
    gpu=True,
    misconceptions=(
        Misconception(
            "the whole table is made at once",
            _wrong_chunked(memory="whole"),
            "The values are right, but the whole (q, k) table of scores exists at once. Make the scores of "
            "one chunk of queries, use them up, and go on to the next.",
        ),
        Misconception(
            "the weights of every chunk are kept",
            _wrong_chunked(memory="kept"),
            "The values are right, but all chunks' tables stay alive together, as large as the whole. Keep "
            "the output rows of a chunk and let its weights go.",
        ),
        Misconception(
            "every chunk's mask starts at position 0",
            _wrong_chunked(first="chunk"),
            "Row 0 of the second chunk is not the first query of the sequence. Its position is `start` plus "
            "its row, and the mask must say so.",
        ),
        Misconception(
            "queries are taken for the first positions",
            _wrong_chunked(first="queries"),
            "With more keys than queries the queries are the last positions: query i stands at position "
            "`n_key - n_query + i`.",
        ),
        Misconception(
            "the mask is cut only at the chunk's end",
            _wrong_chunked(masked="to the end of the chunk"),
            "Leaving out the keys after the chunk is not enough: inside the chunk, too, a query must not see "
            "later positions.",
        ),
        Misconception(
            "the mask is forgotten",
            _wrong_chunked(masked="ignored"),
            "`causal=True` changes nothing in your result. Build a mask for each chunk from the positions of "
            "its queries.",
        ),
        Misconception(
            "a chunk sees only its own keys",
            _wrong_chunked(keys="own chunk"),
            "Only the queries are cut into chunks. Each query still attends to all keys, or with "
            "`causal=True` to all up to its own position.",
        ),
        Misconception(
            "the last, partial chunk is dropped",
            _wrong_chunked(dropped=True),
            "When the chunk does not divide the number of queries, some rows are left over at the end. They "
            "belong to the output.",
        ),
        Misconception(
            "the scale is left out",
            _wrong_chunked(scaled=False),
            "Divide the scores by √d_k before the softmax, in each chunk as in the whole.",
        ),
        Misconception(
            "the mask of all queries is made at once",
            _wrong_chunked(memory="mask"),
            "The values are right, but a mask of shape (q, k) has as many entries as the table of scores. Make "
            "the mask of one chunk from the positions of its queries.",
        ),
        Misconception(
            "`chunk` is taken for the number of pieces",
            _wrong_chunked(memory="pieces"),
            "`chunk` is how many queries belong to one piece. `torch.chunk(x, n)` makes n pieces; "
            "`torch.split(x, n)` makes pieces of n.",
        ),
        Misconception(
            "every chunk is taken for the last one",
            _wrong_chunked(first="last"),
            "A mask for as many queries as the chunk has puts them at the last positions. That is true of the "
            "last chunk alone: each one begins at `start + n_key - n_query`.",
        ),
        Misconception(
            "the mask is inverted",
            _wrong_chunked(masked="inverted"),
            "True means *may attend*: a query sees the keys up to its own position. Yours sees the later ones.",
        ),
        Misconception(
            "the past is hidden, and the last query has NaN",
            _wrong_chunked(masked="inverted to NaN"),
            "A query sees the keys up to its own position. Yours sees the later ones, of which the last query "
            "has none, and a softmax over nothing but minus infinity is NaN. Turn the mask round.",
        ),
        Misconception(
            "the rows that are left over stay zero",
            _wrong_chunked(dropped=True, returned="padded"),
            "When the chunk does not divide the number of queries, the last rows are never computed. "
            "`range(0, n_query, chunk)` reaches them, and a slice may end beyond the axis.",
        ),
        Misconception(
            "the keys are cut into pieces with a softmax each",
            _softmax_over_pieces_of_keys,
            "A softmax over some of the keys has the wrong sum to divide by. Cut the queries alone, or carry "
            "the largest score and the sum from piece to piece.",
        ),
        Misconception(
            "the function returns after the first chunk",
            _wrong_chunked(returned="in the loop"),
            "Your result has the rows of one chunk. Look whether `return` stands inside the loop.",
        ),
        Misconception(
            "the weights are returned, too",
            _wrong_chunked(returned="pair"),
            "Here the output alone is returned. The weights of all queries are the table that must not exist.",
        ),
    ),
    hints=(
        "The softmax of a row needs that row's scores and no other. So which axis can be cut without changing "
        "any number?",
        "Loop over `range(0, n_query, chunk)`, take the rows `query[..., start:start + chunk, :]`, attend to "
        "all keys, keep the output rows in a list, and join them with `torch.cat(…, dim=-2)`.",
        "The rows of a chunk stand at `torch.arange(start, stop) + n_key - n_query`. Compare that column with "
        "a row of key positions: that is the chunk's causal mask. Do not hold on to the weights.",
    ),
)

EXERCISES = (CAUSAL_MASK, SDPA, CROSS, SATURATION, CHUNKED)
