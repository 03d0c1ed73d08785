"""Exercises of 06_attention: what is asked, what is right, and how people go wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..layers import attention as library
from ..layers import masks as library_masks
from .exercise import Case, Exercise, Misconception, Tolerance
from .probes import attention as probes

# --- attention/causal_mask ---------------------------------------------------------------------


def causal_mask_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Square, then fewer queries than keys, then the edges."""
    square = int(rng.integers(3, 7))
    yield Case("as many queries as keys", {"n_query": square, "n_key": square})
    yield Case("fewer queries than keys", {"n_query": 3, "n_key": int(rng.integers(5, 9))})
    yield Case("one query, several keys", {"n_query": 1, "n_key": int(rng.integers(2, 6))}, hidden=True)
    yield Case("a single position", {"n_query": 1, "n_key": 1}, hidden=True)


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
    forbidden=("course_lib.layers.masks.causal_mask",),
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
            "A token may look at itself: the diagonal belongs to the allowed part. With `<` in place of "
            "`<=` the first query sees no key at all.",
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
    """Plain, masked, a fully masked row, length 1, wide, heads, half precision."""
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
    yield _sdpa_case(rng, "bfloat16", 4, 4, 16, 16, hidden=True, dtype="bfloat16", gradient=False)


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
) -> Case:
    def draw(rows: int, width: int) -> np.ndarray:
        return rng.normal(size=(*lead, rows, width)).astype(np.float32)

    inputs: dict[str, Any] = {"query": draw(n_query, d_k), "key": draw(n_key, d_k), "value": draw(n_key, d_v)}
    inputs |= {"direction": draw(n_query, d_v), "mask": mask, "dtype": dtype, "gradient": gradient}
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


def _wrong_sdpa(
    *,
    scale: str = "root",
    axis: int = -1,
    masking: str = "right",
    swap: bool = False,
    output: str = "weights @ value",
):
    """An attention with one thing wrong; by default nothing is."""

    def attention(
        query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        d_k = query.shape[-1]
        divisor = {"root": math.sqrt(d_k), "none": 1.0, "d_k": d_k, "keys": math.sqrt(key.shape[-2])}[scale]
        scores = query @ key.transpose(-2, -1) / divisor
        if mask is not None and masking == "added":
            scores = scores + mask
        elif mask is not None and masking in ("right", "nan", "inverted"):
            hidden = mask if masking == "inverted" else ~mask
            scores = scores.masked_fill(hidden, float("-inf"))
        elif mask is not None and masking == "tiny":
            scores = scores.masked_fill(~mask, -1e9)
        elif mask is not None and masking == "zero":
            scores = scores.masked_fill(~mask, 0.0)
        weights = scores.softmax(dim=axis)
        if masking in ("right", "inverted"):
            weights = torch.nan_to_num(weights, nan=0.0)
        if mask is not None and masking == "after":
            weights = weights.masked_fill(~mask, 0.0)
        return (weights @ value if output == "weights @ value" else value), weights

    return attention


SDPA = Exercise(
    id="attention/sdpa",
    title="Scaled dot-product attention",
    points=3,
    minutes=30,
    difficulty=2,
    cases=sdpa_cases,
    probe=probes.sdpa,
    reference=_reference_sdpa,
    also_right=(_sdpa_by_einsum, _sdpa_by_exponentials),
    steps=sdpa_steps,
    tolerance=Tolerance(absolute=2e-5, relative=1e-4),
    forbidden=(
        "torch.nn.functional.scaled_dot_product_attention",
        "torch.nn.functional.multi_head_attention_forward",
        "course_lib.layers.attention.scaled_dot_product_attention",
        "course_lib.layers.attention.attention_weights",
    ),
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
    ),
    hints=(
        "Write the formula as three lines: scores, weights, output. Print the shape after each.",
        "`key.transpose(-2, -1)` turns (…, k, d) into (…, d, k), so that `query @ …` has shape (…, q, k). "
        "Mask these scores before the softmax, and run the softmax over the keys.",
        "A fully masked row: fill hidden scores with `torch.finfo(scores.dtype).min`, take the softmax, then "
        "`masked_fill(~mask, 0.0)` on the weights. No NaN ever arises, in the gradient neither.",
    ),
)

EXERCISES = (CAUSAL_MASK, SDPA)
