"""Exercises of 07_multi_head_attention: what is asked, what is right, and how people go wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import multi_head as library
from .exercise import Case, Exercise, Misconception, Tolerance
from .probes import multi_head_attention as probes

# The library's own versions are no answers, nor parts of one.
LIBRARY = (
    "course_lib.layers.multi_head.split_heads",
    "course_lib.layers.multi_head.merge_heads",
    "course_lib.layers.multi_head.repeat_kv_heads",
    "course_lib.layers.multi_head.MultiHeadAttention",
    "course_lib.layers.multi_head.fused_heads",
    "course_lib.layers.multi_head.explicit_weights",
    "course_lib.layers.multi_head.replace_heads",
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


def _draw(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


# --- multi_head_attention/through_heads --------------------------------------------------------


def through_heads_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Unequal and equal lengths; heads that come back as wide as they went, and of another width."""
    yield _through_case(rng, "two heads", 2, 3, 2, 4, 4)
    yield _through_case(rng, "heads that come back narrower", 2, 5, 4, 3, 2)
    yield _through_case(rng, "as many tokens as heads", 2, 4, 4, 4, 4, hidden=True)
    yield _through_case(rng, "one sentence, heads that come back wider", 1, 6, 3, 2, 5, hidden=True)
    yield _through_case(rng, "a single head", 3, 4, 1, 5, 5, hidden=True)
    yield _through_case(rng, "heads of width 1", 2, 3, 4, 1, 1, hidden=True)


def _through_case(
    rng: np.random.Generator,
    name: str,
    batch: int,
    length: int,
    num_heads: int,
    width: int,
    found: int,
    hidden: bool = False,
) -> Case:
    inputs = {
        "hidden_states": _draw(rng, batch, length, num_heads * width),
        "num_heads": num_heads,
        "found": _draw(rng, batch, num_heads, length, found),
    }
    return Case(name, inputs, hidden)


def _through_heads(hidden_states: Tensor, num_heads: int, function: Callable[[Tensor], Tensor]) -> Tensor:
    return library.merge_heads(function(library.split_heads(hidden_states, num_heads)))


def _through_by_chunks(hidden_states: Tensor, num_heads: int, function: Callable[[Tensor], Tensor]) -> Tensor:
    heads = function(torch.stack(hidden_states.chunk(num_heads, dim=-1), dim=1))
    return torch.cat(heads.unbind(dim=1), dim=-1)


def _through_by_einsum(hidden_states: Tensor, num_heads: int, function: Callable[[Tensor], Tensor]) -> Tensor:
    batch, length, width = hidden_states.shape
    parts = hidden_states.reshape(batch, length, num_heads, width // num_heads)
    return torch.einsum("bhnd->bnhd", function(torch.einsum("bnhd->bhnd", parts))).reshape(batch, length, -1)


def _split_right(x: Tensor, h: int) -> Tensor:
    return x.reshape(*x.shape[:2], h, -1).transpose(1, 2)


def _merge_right(heads: Tensor) -> Tensor:
    return heads.transpose(1, 2).flatten(2)


def _through(
    split: Callable[[Tensor, int], Tensor] = _split_right, merge: Callable[[Tensor], Any] = _merge_right
) -> Callable[..., Any]:
    return lambda hidden_states, num_heads, function: merge(function(split(hidden_states, num_heads)))


def _split_by_reshape(x: Tensor, h: int) -> Tensor:
    return x.reshape(x.shape[0], h, x.shape[1], -1)


def _merge_by_reshape(heads: Tensor) -> Tensor:
    return heads.reshape(heads.shape[0], heads.shape[2], -1)


def _split_every_hth(x: Tensor, h: int) -> Tensor:
    return x.reshape(*x.shape[:2], -1, h).permute(0, 3, 1, 2)


def _merge_every_hth(heads: Tensor) -> Tensor:
    return heads.permute(0, 2, 3, 1).flatten(2)


def _merge_by_view(heads: Tensor) -> Tensor:
    b, h, n, d = heads.shape
    return heads.transpose(1, 2).view(b, n, h * d)


THROUGH_HEADS = Exercise(
    id="multi_head_attention/through_heads",
    title="Split into heads and merge again",
    points=2,
    minutes=15,
    difficulty=2,
    cases=through_heads_cases,
    probe=probes.through_heads,
    reference=_through_heads,
    also_right=(_through_by_chunks, _through_by_einsum),
    forbidden=LIBRARY,
    misconceptions=(
        Misconception(
            "both ways are a reshape without a transpose",
            _through(_split_by_reshape, _merge_by_reshape),
            "A reshape to (b, h, n, d) cuts the numbers where they lie in memory, so that a head holds pieces "
            "of other tokens. The two mistakes undo each other, and only attention between them would show "
            "it. Reshape to (b, n, h, d) and then transpose axes 1 and 2; merge the other way round.",
        ),
        Misconception(
            "the split is a reshape without a transpose",
            _through(split=_split_by_reshape),
            "Reshaped straight to (b, h, n, d), a head holds pieces of other tokens. The last axis alone may "
            "be cut: reshape to (b, n, h, d), then transpose axes 1 and 2.",
        ),
        Misconception(
            "the merge is a reshape without a transpose",
            _through(merge=_merge_by_reshape),
            "The heads lie as (b, h, n, d). A reshape to (b, n, h · d) puts several tokens of one head into "
            "one row. Transpose to (b, n, h, d) first.",
        ),
        Misconception(
            "the heads are not moved before the tokens",
            _through(split=lambda x, h: x.reshape(*x.shape[:2], h, -1)),
            "The heads are to stand before the tokens, (b, h, n, d), so that a matrix product over the last "
            "two axes works in each head. Yours are (b, n, h, d): transpose axes 1 and 2.",
        ),
        Misconception(
            "a head takes every h-th feature",
            _through(split=_split_every_hth),
            "Head i takes the i-th run of d neighbouring features, so the last axis is cut into (h, d). Yours "
            "is cut into (d, h).",
        ),
        Misconception(
            "a head takes every h-th feature, and gives it back the same way",
            _through(_split_every_hth, _merge_every_hth),
            "Split and merge undo each other, but a head then holds features from all over the row. Cut the "
            "last axis into (h, d), not into (d, h), and merge (n, h, d), not (n, d, h).",
        ),
        Misconception(
            "the features of the heads are shuffled together",
            _through(merge=_merge_every_hth),
            "In the merged row all features of head 0 come first, then all of head 1. Yours has the first "
            "feature of each head, then the second of each: the order is (n, h, d), not (n, d, h).",
        ),
        Misconception(
            "the heads are merged in reverse",
            _through(merge=lambda heads: _merge_right(heads.flip(1))),
            "Head 0 comes first in the merged row, as it did before the split.",
        ),
        Misconception(
            "the heads are added up",
            _through(merge=lambda heads: heads.sum(dim=1)),
            "The heads are laid side by side, h · d features a token, so that nothing that one of them found "
            "is lost. Adding them up mixes them for good.",
        ),
        Misconception(
            "the heads are averaged",
            _through(merge=lambda heads: heads.mean(dim=1)),
            "The heads are laid side by side, h · d features a token. An average mixes them for good.",
        ),
        Misconception(
            "view on a transposed tensor",
            _through(merge=_merge_by_view),
            "After a transpose the numbers no longer lie in memory in the order of the axes, and `view` never "
            "copies. Use `reshape` or `flatten(2)`, which copy where they must.",
        ),
        Misconception(
            "the merged rows are not flattened",
            _through(merge=lambda heads: heads.transpose(1, 2)),
            "The transpose is right. What is missing is the last step: (b, n, h, d) becomes (b, n, h · d).",
        ),
    ),
    hints=(
        "Which features of a token belong to head 0? Write a row of 8 features for 2 heads on paper, then cut it.",
        "Two steps: make the last axis two, (b, n, h, d), and then move the heads before the tokens. Merging is "
        "the same two steps in reverse order.",
        "`x.reshape(b, n, num_heads, -1).transpose(1, 2)` splits. `heads.transpose(1, 2).flatten(2)` merges.",
    ),
)

# --- multi_head_attention/layer ----------------------------------------------------------------


def layer_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Self and cross, masks of several forms, one head and many, no biases, a width that does not divide."""
    yield _layer_case(rng, "self-attention", (4, None), (8, 2))
    yield _layer_case(rng, "cross-attention", (3, 5), (6, 3))
    yield _layer_case(rng, "a causal mask", (5, None), (8, 4), mask=np.tri(5, dtype=bool))
    padding = (np.arange(4) < np.array([4, 2])[:, None])[:, None, None, :]
    yield _layer_case(rng, "a padding mask", (4, None), (8, 2), mask=padding)
    yield _layer_case(rng, "no biases", (3, None), (6, 2), bias=False)
    per_head = rng.random((2, 3, 4, 5)) < 0.5
    per_head[..., 0] = True
    per_head[0, 1, 2] = False
    yield _layer_case(
        rng, "a mask for each head, and a query that sees nothing", (4, 5), (6, 3), mask=per_head, hidden=True
    )
    yield _layer_case(rng, "as many tokens as heads", (4, 4), (8, 4), hidden=True)
    yield _layer_case(rng, "a single head", (3, None), (5, 1), hidden=True)
    yield _layer_case(rng, "heads of width 1", (4, None), (4, 4), hidden=True)
    yield Case(
        "a width that the heads do not divide",
        {"d_model": int(rng.integers(2, 5)) * 3 + 1, "num_heads": 3, "refused": True},
        hidden=True,
    )


def _layer_case(
    rng: np.random.Generator,
    name: str,
    lengths: tuple[int, int | None],
    sizes: tuple[int, int],
    *,
    mask: np.ndarray | None = None,
    bias: bool = True,
    hidden: bool = False,
) -> Case:
    (n_query, n_key), (d_model, num_heads) = lengths, sizes
    parts = ("query", "key", "value", "output")
    state = {f"{part}.weight": _draw(rng, d_model, d_model) for part in parts}
    state |= {f"{part}.bias": _draw(rng, d_model) for part in parts} if bias else {}
    inputs: dict[str, Any] = {"d_model": d_model, "num_heads": num_heads, "bias": bias, "state": state}
    inputs["hidden_states"] = _draw(rng, 2, n_query, d_model)
    inputs["context"] = None if n_key is None else _draw(rng, 2, n_key, d_model)
    inputs |= {"mask": mask, "direction": _draw(rng, 2, n_query, d_model), "gradient": True, "refused": False}
    return Case(name, inputs, hidden)


def layer_steps(case: Case) -> Mapping[str, np.ndarray]:
    """Projections, heads, scores, weights, what the heads read, the merged rows and the output."""
    heads = case["num_heads"]
    given = case["hidden_states"]
    context = given if case["context"] is None else case["context"]
    steps, parts = {}, {}
    for part, source in (("query", given), ("key", context), ("value", context)):
        projected = _projected(source, part, case["state"])
        steps[f"the {part} projection"] = projected
        parts[part] = _split_right(projected, heads)
    query, key, value = parts.values()
    scores = query @ key.mT / math.sqrt(query.shape[-1])
    weights = _shares(scores, None if case["mask"] is None else torch.as_tensor(case["mask"]))
    steps |= {"the queries in heads": query, "the scaled scores of each head": scores}
    steps |= {"the weights of each head": weights, "what each head reads": weights @ value}
    steps["the heads side by side"] = _merge_right(weights @ value)
    steps["the output projection"] = _projected(steps["the heads side by side"], "output", case["state"])
    return {name: step.numpy() for name, step in steps.items()}


def _projected(source: Any, part: str, state: Mapping[str, np.ndarray]) -> Tensor:
    bias = state.get(f"{part}.bias")
    return F.linear(
        torch.as_tensor(source),
        torch.as_tensor(state[f"{part}.weight"]),
        None if bias is None else torch.as_tensor(bias),
    )


def _shares(scores: Tensor, mask: Tensor | None, masking: str = "right", axis: int = -1) -> Tensor:
    """The softmax of scores with one thing wrong about the mask; by default nothing is."""
    if mask is None or masking == "ignored":
        return scores.softmax(dim=axis)
    visible = ~mask if masking == "inverted" else mask
    fill = -1e9 if masking == "tiny" else -math.inf
    weights = scores.softmax(axis) if masking == "after" else scores.masked_fill(~visible, fill).softmax(axis)
    if masking in ("right", "inverted"):
        return weights.nan_to_num(0.0)
    return weights * visible if masking == "after" else weights


class _ReferenceLayer(library.MultiHeadAttention):
    """The library's layer, with the signature and the pair that the exercise asks for."""

    def __init__(self, d_model: int, num_heads: int, bias: bool = True) -> None:
        super().__init__(d_model, num_heads, bias=bias)

    def forward(  # type: ignore[override]
        self, hidden_states: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        found = super().forward(hidden_states, context, mask, return_weights=True)
        assert isinstance(found, tuple)
        return found


class _LayerByEinsum(nn.Module):
    def __init__(self, d_model: int, num_heads: int, bias: bool = True) -> None:
        super().__init__()
        if d_model % num_heads != 0:
            raise ValueError(f"{num_heads} heads do not share a width of {d_model}")
        self.h = num_heads
        self.query, self.key = nn.Linear(d_model, d_model, bias), nn.Linear(d_model, d_model, bias)
        self.value, self.output = nn.Linear(d_model, d_model, bias), nn.Linear(d_model, d_model, bias)

    def forward(
        self, hidden_states: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        memory = hidden_states if context is None else context
        q, k, v = (
            part(source).unflatten(-1, (self.h, -1))
            for part, source in ((self.query, hidden_states), (self.key, memory), (self.value, memory))
        )
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * q.shape[-1] ** -0.5
        if mask is not None:
            scores = scores.masked_fill(mask.logical_not(), -1e30)
        weights = torch.softmax(scores, dim=-1)
        if mask is not None:
            weights = torch.where(mask, weights, torch.zeros_like(weights))
        return self.output(torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(-2)), weights


class _LayerByLoop(nn.Module):
    """One head after another, and the output as the sum of what each head adds."""

    def __init__(self, d_model: int, num_heads: int, bias: bool = True) -> None:
        super().__init__()
        if d_model % num_heads:
            raise ValueError("num_heads must divide d_model")
        self.num_heads, self.width = num_heads, d_model // num_heads
        self.query = nn.Linear(d_model, d_model, bias=bias)
        self.key = nn.Linear(d_model, d_model, bias=bias)
        self.value = nn.Linear(d_model, d_model, bias=bias)
        self.output = nn.Linear(d_model, d_model, bias=bias)

    def forward(
        self, hidden_states: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        context = hidden_states if context is None else context
        query, key, value = self.query(hidden_states), self.key(context), self.value(context)
        shape = (query.shape[0], self.num_heads, query.shape[1], key.shape[1])
        masks = None if mask is None else mask.expand(shape)
        total = torch.zeros(hidden_states.shape, device=query.device)
        weights = []
        for head in range(self.num_heads):
            part = slice(head * self.width, (head + 1) * self.width)
            scores = query[..., part] @ key[..., part].mT / math.sqrt(self.width)
            shares = _shares(scores, None if masks is None else masks[:, head])
            weights.append(shares)
            total = total + shares @ value[..., part] @ self.output.weight[:, part].T
        bias = self.output.bias
        return (total if bias is None else total + bias), torch.stack(weights, dim=1)


def _wrong_layer(
    *,
    split: Callable[[Tensor, int], Tensor] = _split_right,
    merge: Callable[[Tensor], Tensor] = _merge_right,
    scale: str = "head",
    masking: str = "right",
    axis: int = -1,
    context: str = "used",
    output: str = "used",
    biases: str = "as asked",
    refuses: bool = True,
    then: Callable[[Tensor, Tensor], Any] = lambda output, weights: (output, weights),
    of_mask: Callable[[Tensor], Tensor] = lambda mask: mask,
) -> type[nn.Module]:
    """A layer with one thing wrong; by default nothing is."""

    class Layer(nn.Module):
        def __init__(self, d_model: int, num_heads: int, bias: bool = True) -> None:
            super().__init__()
            if refuses and d_model % num_heads:
                raise ValueError("num_heads must divide d_model")
            self.num_heads = num_heads
            wanted = biases == "always" or (bias and biases != "never")
            for part in ("query", "key", "value", "output"):
                here = wanted and not (part == "output" and biases == "not on the output")
                self.add_module(part, nn.Linear(d_model, d_model, here))

        def forward(
            self, hidden_states: Tensor, other: Tensor | None = None, mask: Tensor | None = None
        ) -> Any:
            own = context == "ignored" or (other is None and context != "demanded")
            memory: Any = hidden_states if own else other
            asks, answers = (memory, hidden_states) if context == "swapped" else (hidden_states, memory)
            told = hidden_states if context == "not for values" else answers
            query, key, value = (
                split(self.get_submodule(part)(source), self.num_heads)
                for part, source in (("query", asks), ("key", answers), ("value", told))
            )
            under = {"head": query.shape[-1], "model": hidden_states.shape[-1], "none": 1}
            scores = query @ key.mT / math.sqrt(under[scale])
            weights = _shares(scores, None if mask is None else of_mask(mask), masking, axis)
            merged = merge(weights @ value)
            return then(self.get_submodule("output")(merged) if output == "used" else merged, weights)

    return Layer


LAYER = Exercise(
    id="multi_head_attention/layer",
    title="The whole multi-head layer",
    points=4,
    minutes=45,
    difficulty=3,
    cases=layer_cases,
    probe=probes.layer,
    reference=_ReferenceLayer,
    also_right=(_LayerByEinsum, _LayerByLoop),
    steps=layer_steps,
    tolerance=Tolerance(absolute=1e-4, relative=5e-4),
    forbidden=(*LIBRARY, *FUSED),
    library="course_lib.layers.multi_head:MultiHeadAttention",
    misconceptions=(
        Misconception(
            "the output projection is left out",
            _wrong_layer(output="left out"),
            "The merged heads still have to go through `output`, W_O in the paper. Until then each head's "
            "finding stands in a corner of its own, and no feature of the output has heard of two heads.",
        ),
        Misconception(
            "the scale uses the width of the model",
            _wrong_layer(scale="model"),
            "Each head works on vectors of width d_model / num_heads. That is the d_k whose root divides the "
            "scores, not d_model.",
        ),
        Misconception(
            "the scale is left out",
            _wrong_layer(scale="none"),
            "Divide the scores of each head by √d_k, where d_k = d_model / num_heads.",
        ),
        Misconception(
            "the split is a reshape without a transpose",
            _wrong_layer(split=_split_by_reshape),
            "Reshaped straight to (b, h, n, d), a head holds pieces of other tokens. Reshape to (b, n, h, d), "
            "then transpose axes 1 and 2.",
        ),
        Misconception(
            "both ways are a reshape without a transpose",
            _wrong_layer(split=_split_by_reshape, merge=_merge_by_reshape),
            "Shapes fit, but a head then holds pieces of a few neighbouring tokens and never sees the others. "
            "Reshape to (b, n, h, d) and transpose axes 1 and 2; merge the other way round.",
        ),
        Misconception(
            "the merge is a reshape without a transpose",
            _wrong_layer(merge=_merge_by_reshape),
            "What the heads read lies as (b, h, q, d). Transpose to (b, q, h, d) before you flatten, or several "
            "tokens of one head come to stand in one row.",
        ),
        Misconception(
            "the features of the heads are shuffled together",
            _wrong_layer(merge=_merge_every_hth),
            "In the merged row all features of head 0 come first, then all of head 1. Trained from scratch W_O "
            "would put up with your order, but weights that come from elsewhere do not.",
        ),
        Misconception(
            "a head takes every h-th feature",
            _wrong_layer(split=_split_every_hth),
            "Head i takes the i-th run of neighbouring features, so the last axis is cut into (h, d), not (d, h).",
        ),
        Misconception(
            "the softmax runs over the heads",
            _wrong_layer(axis=1),
            "Each query of each head shares out its attention among the keys, so the softmax is over the last "
            "axis of (b, h, q, k).",
        ),
        Misconception(
            "the softmax runs over the queries",
            _wrong_layer(axis=-2),
            "Each *row* sums to 1: the softmax is over the keys, the last axis of (b, h, q, k).",
        ),
        Misconception(
            "the mask is ignored",
            _wrong_layer(masking="ignored"),
            "The result is the same with and without a mask. It broadcasts to the scores, (b, h, q, k).",
        ),
        Misconception(
            "the mask is inverted",
            _wrong_layer(masking="inverted"),
            "True means *may attend*. `nn.MultiheadAttention` means the opposite; this course does not.",
        ),
        Misconception(
            "the mask comes after the softmax",
            _wrong_layer(masking="after"),
            "Hidden keys already took part in the softmax's sum. Hide the scores before the softmax.",
        ),
        Misconception(
            "every head gets the mask of the first",
            _wrong_layer(of_mask=lambda mask: mask[:, :1] if mask.dim() == 4 else mask),
            "A mask of shape (b, h, q, k) may differ from head to head. Let it broadcast; do not take head 0's.",
        ),
        Misconception(
            "the mask is given an axis for the heads",
            _wrong_layer(of_mask=lambda mask: mask[:, None]),
            "The mask comes ready to broadcast to (b, h, q, k), as (q, k) or (b, 1, 1, k) do. Another axis "
            "moves the others to where they do not belong: use it as it is.",
        ),
        Misconception(
            "a fully masked row becomes NaN",
            _wrong_layer(masking="nan"),
            "A query that sees no key has weights of zero in this course, so that its heads read zeros. With "
            "minus infinity in the whole row the softmax is 0/0.",
        ),
        Misconception(
            "a fully masked row attends everywhere",
            _wrong_layer(masking="tiny"),
            "With −1e9 in the whole row the softmax spreads evenly over hidden keys. Set hidden weights to 0 "
            "after the softmax, too.",
        ),
        Misconception(
            "the context is ignored",
            _wrong_layer(context="ignored"),
            "Keys and values come from `context` where one is given. Yours attends to `hidden_states` always.",
        ),
        Misconception(
            "self-attention is forgotten",
            _wrong_layer(context="demanded"),
            "Without a context the layer attends to its own tokens. Begin with "
            "`context = hidden_states if context is None else context`.",
        ),
        Misconception(
            "the roles of the two sequences are swapped",
            _wrong_layer(context="swapped"),
            "`hidden_states` asks, so the queries come from it, and keys and values from `context`. The output "
            "has one row for each token of `hidden_states`.",
        ),
        Misconception(
            "the values come from the asking sequence",
            _wrong_layer(context="not for values"),
            "Keys and values are two views of the same tokens: both are projected from `context`.",
        ),
        Misconception(
            "the argument `bias` has no effect",
            _wrong_layer(biases="always"),
            "`nn.Linear` adds a bias unless it is told not to. Hand the argument on: `nn.Linear(…, bias=bias)`.",
        ),
        Misconception(
            "there are no biases",
            _wrong_layer(biases="never"),
            "By default all four layers have a bias: `bias=True` is the default of the signature.",
        ),
        Misconception(
            "the output projection has no bias",
            _wrong_layer(biases="not on the output"),
            "With `bias=True` all four layers have one, `output` as well.",
        ),
        Misconception(
            "a width that the heads do not divide is let through",
            _wrong_layer(refuses=False),
            "Where num_heads does not divide d_model, raise a ValueError in `__init__`. Otherwise the mistake "
            "comes up much later, or some features belong to no head.",
        ),
        Misconception(
            "the weights are averaged over the heads",
            _wrong_layer(then=lambda output, weights: (output, weights.mean(dim=1))),
            "Return the weights of every head, (b, h, q, k). The average hides what the heads do differently.",
        ),
        Misconception(
            "the output alone is returned",
            _wrong_layer(then=lambda output, weights: output),
            "`forward` returns a tuple of two tensors, `(output, weights)`.",
        ),
        Misconception(
            "the weights come first",
            _wrong_layer(then=lambda output, weights: (weights, output)),
            "The output stands first in the tuple, then the weights: `return output, weights`.",
        ),
        Misconception(
            "no gradient reaches the inputs",
            _wrong_layer(then=lambda output, weights: (output.detach(), weights)),
            "The numbers are right, but the output is cut off from what it was computed from. "
            "`torch.no_grad()`, `.detach()` and `.data` do that.",
        ),
    ),
    hints=(
        "Five steps: project, split, attend in every head at once, merge, project. Print the shape after each.",
        "Attention of chapter 06 takes any leading axes: with (b, h, n, d) it works on all heads at once, and "
        "the mask broadcasts to (b, h, q, k).",
        "`query = split_heads(self.query(hidden_states))`, the same for key and value from the context; "
        "`found, weights = …attention of chapter 06…`; `return self.output(merge_heads(found)), weights`.",
    ),
)

# --- multi_head_attention/grouped --------------------------------------------------------------


def grouped_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Groups, one key head for all, as many as queries', masks, bfloat16, and groups that do not divide."""
    yield _grouped_case(rng, "four heads in two groups", (4, 2), (3, 5))
    yield _grouped_case(rng, "one key head for all, multi-query", (4, 1), (4, 4))
    yield _grouped_case(rng, "a causal mask", (6, 2), (5, 5), mask=np.tri(5, dtype=bool))
    yield _grouped_case(rng, "as many key heads as query heads", (3, 3), (4, 6), hidden=True)
    yield _grouped_case(rng, "six heads in three groups, wider values", (6, 3), (2, 4), value=7, hidden=True)
    per_head = rng.random((2, 4, 3, 5)) < 0.5
    per_head[..., 0] = True
    per_head[1, 2, 0] = False
    yield _grouped_case(
        rng, "a mask for each head, and a query that sees nothing", (4, 2), (3, 5), mask=per_head, hidden=True
    )
    yield _grouped_case(rng, "bfloat16", (4, 2), (4, 4), dtype="bfloat16")
    yield _grouped_case(rng, "groups that do not divide the heads", (6, 4), (3, 3), refused=True, hidden=True)


def _grouped_case(
    rng: np.random.Generator,
    name: str,
    heads: tuple[int, int],
    lengths: tuple[int, int],
    *,
    mask: np.ndarray | None = None,
    value: int = 4,
    dtype: str = "float32",
    refused: bool = False,
    hidden: bool = False,
) -> Case:
    (num_heads, groups), (n_query, n_key) = heads, lengths
    inputs: dict[str, Any] = {"query": _draw(rng, 2, num_heads, n_query, 4)}
    inputs |= {"key": _draw(rng, 2, groups, n_key, 4), "value": _draw(rng, 2, groups, n_key, value)}
    inputs |= {"mask": mask, "direction": _draw(rng, 2, num_heads, n_query, value), "dtype": dtype}
    inputs |= {"gradient": dtype == "float32" and not refused, "refused": refused}
    return Case(name, inputs, hidden)


def grouped_steps(case: Case) -> Mapping[str, np.ndarray]:
    """The keys for every query head, the scores, the weights and the output."""
    query, key, value = (torch.as_tensor(case[name]) for name in ("query", "key", "value"))
    key, value = (library.repeat_kv_heads(heads, query.shape[1]) for heads in (key, value))
    scores = query @ key.mT
    scaled = scores / math.sqrt(query.shape[-1])
    weights = _shares(scaled, None if case["mask"] is None else torch.as_tensor(case["mask"]))
    steps = {"the key of each query head": key, "scores (query · key)": scores}
    steps |= {"scores divided by √d_k": scaled, "weights (softmax over the keys)": weights}
    steps["output (weights · value)"] = weights @ value
    return {name: step.numpy() for name, step in steps.items()}


def _check_groups(query: Tensor, key: Tensor) -> None:
    if query.shape[1] % key.shape[1]:
        raise ValueError(f"{key.shape[1]} key heads do not divide {query.shape[1]} query heads")


def _grouped(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    _check_groups(query, key)
    key, value = (library.repeat_kv_heads(heads, query.shape[1]) for heads in (key, value))
    weights = library.explicit_weights(query, key, mask, None)
    return weights @ value, weights


def _grouped_by_axis(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """No key is copied: the query heads of a group stand on an axis of their own."""
    _check_groups(query, key)
    groups, shape = key.shape[1], query.shape[:-1]
    apart = query.unflatten(1, (groups, -1))  # (b, g, heads of a group, q, d)
    scores = apart @ key[:, :, None].mT * query.shape[-1] ** -0.5
    scores = scores.flatten(1, 2)
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(dim=-1)
    weights = weights if mask is None else weights.masked_fill(~mask, 0)
    output = weights.unflatten(1, (groups, -1)) @ value[:, :, None]
    return output.reshape(*shape, -1), weights


def _grouped_by_loop(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    _check_groups(query, key)
    size = query.shape[1] // key.shape[1]
    mask = None if mask is None else mask.expand(*query.shape[:3], key.shape[2])
    weights, outputs = [], []
    for head in range(query.shape[1]):
        scores = query[:, head] @ key[:, head // size].mT / math.sqrt(query.shape[-1])
        weights.append(_shares(scores, None if mask is None else mask[:, head]))
        outputs.append(weights[-1] @ value[:, head // size])
    return torch.stack(outputs, dim=1), torch.stack(weights, dim=1)


def _repeated(heads: Tensor, num_heads: int) -> Tensor:
    return heads.repeat_interleave(num_heads // heads.shape[1], dim=1)


def _wrong_grouped(
    *,
    keys: Callable[[Tensor, int], Tensor] = _repeated,
    values: Callable[[Tensor, int], Tensor] | None = None,
    refuses: bool = True,
    scaled: bool = True,
    masking: str = "right",
    axis: int = -1,
    then: Callable[[Tensor, Tensor], Any] = lambda output, weights: (output, weights),
) -> Callable[..., Any]:
    """Grouped attention with one thing wrong; by default nothing is."""

    def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Any:
        if refuses:
            _check_groups(query, key)
        heads = query.shape[1]
        key, value = keys(key, heads), (values or keys)(value, heads)
        scores = query @ key.mT / (math.sqrt(query.shape[-1]) if scaled else 1)
        weights = _shares(scores, mask, masking, axis)
        return then(weights @ value, weights)

    return attention


def _tiled(heads: Tensor, num_heads: int) -> Tensor:
    return heads.repeat(1, num_heads // heads.shape[1], 1, 1)


def _first_for_all(heads: Tensor, num_heads: int) -> Tensor:
    return heads[:, :1].expand(-1, num_heads, -1, -1)


def _mean_for_all(heads: Tensor, num_heads: int) -> Tensor:
    return heads.mean(dim=1, keepdim=True).expand(-1, num_heads, -1, -1)


def _flattened(heads: Tensor, num_heads: int) -> Tensor:
    return heads.repeat_interleave(num_heads // heads.shape[1])


def _queries_averaged(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Any:
    _check_groups(query, key)
    query = query.unflatten(1, (key.shape[1], -1)).mean(dim=2)
    return _wrong_grouped(refuses=False)(query, key, value, mask)


def _as_they_are(heads: Tensor, num_heads: int) -> Tensor:
    return heads


def _grouped_in_float32(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Any:
    return _wrong_grouped()(query.float(), key.float(), value.float(), mask)


def _grouped_with_group_in_mask(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Any:
    """Query heads of a group on an axis of their own, and a mask that is widened where it must not be."""
    _check_groups(query, key)
    apart = query.unflatten(1, (key.shape[1], -1))  # (b, g, heads of a group, q, d)
    scores = apart @ key[:, :, None].mT / math.sqrt(query.shape[-1])
    weights = _shares(scores, None if mask is None else mask.unsqueeze(2))
    return (weights @ value[:, :, None]).flatten(1, 2), weights.flatten(1, 2)


GROUPED = Exercise(
    id="multi_head_attention/grouped",
    title="Grouped-query attention",
    points=3,
    minutes=30,
    difficulty=3,
    cases=grouped_cases,
    probe=probes.grouped,
    reference=_grouped,
    also_right=(_grouped_by_axis, _grouped_by_loop),
    steps=grouped_steps,
    tolerance=Tolerance(absolute=2e-5, relative=1e-4),
    forbidden=(*LIBRARY, *FUSED),
    library="course_lib.layers.multi_head:repeat_kv_heads",
    gpu=True,
    misconceptions=(
        Misconception(
            "the key heads are tiled in place of repeated",
            _wrong_grouped(keys=_tiled),
            "`repeat` lays the heads out as 0, 1, 0, 1; neighbours belong together: 0, 0, 1, 1. Use "
            "`repeat_interleave`, so that query head i reads key head i // (h / g). With one key head, and "
            "with as many as query heads, the two agree.",
        ),
        Misconception(
            "the keys are repeated, the values tiled",
            _wrong_grouped(values=_tiled),
            "Key and value heads belong together in pairs: a query head that reads the key head 0 mixes the "
            "values of head 0. Repeat both in the same way.",
        ),
        Misconception(
            "all query heads read the first key head",
            _wrong_grouped(keys=_first_for_all),
            "That is multi-query attention. With g key heads, each group of h / g query heads has its own.",
        ),
        Misconception(
            "the key heads are averaged",
            _wrong_grouped(keys=_mean_for_all),
            "Each group reads its own key head as it is. (Averaging is how a trained layer's key heads are "
            "first turned into fewer, before training goes on.)",
        ),
        Misconception(
            "nothing says which axis is repeated",
            _wrong_grouped(keys=_flattened),
            "`repeat_interleave` without `dim` flattens the tensor first. The heads are axis 1: `dim=1`.",
        ),
        Misconception(
            "the query heads of a group are averaged",
            _queries_averaged,
            "Only keys and values are shared. All h query heads stay, and each has weights of its own.",
        ),
        Misconception(
            "the key heads are left to broadcasting",
            _wrong_grouped(keys=_as_they_are),
            "Broadcasting stretches an axis of length 1 and no other. Two key heads and four query heads do "
            "not fit together by themselves.",
        ),
        Misconception(
            "the mask does not fit scores with an axis for the groups",
            _grouped_with_group_in_mask,
            "The mask broadcasts to (b, h, q, k). Where the query heads of a group stand on an axis of their own, "
            "flatten the scores back to (b, h, q, k) before they are masked, or every shape of mask needs "
            "another change.",
        ),
        Misconception(
            "groups that do not divide the heads are let through",
            _wrong_grouped(refuses=False),
            "Where g does not divide h, raise a ValueError that says so, before anything is repeated.",
        ),
        Misconception(
            "the scale is left out",
            _wrong_grouped(scaled=False),
            "Divide the scores by √d before the softmax, in every head.",
        ),
        Misconception(
            "the softmax runs over the queries",
            _wrong_grouped(axis=-2),
            "Each row of each head sums to 1: the softmax is over the keys, the last axis.",
        ),
        Misconception(
            "the mask is ignored",
            _wrong_grouped(masking="ignored"),
            "The result is the same with and without a mask. It broadcasts to (b, h, q, k): h query heads.",
        ),
        Misconception(
            "the mask is inverted",
            _wrong_grouped(masking="inverted"),
            "True means *may attend*. Hide the scores where the mask is False.",
        ),
        Misconception(
            "a fully masked row becomes NaN",
            _wrong_grouped(masking="nan"),
            "A query that sees no key gets weights and an output of zeros. With minus infinity in the whole "
            "row the softmax is 0/0.",
        ),
        Misconception(
            "a fully masked row attends everywhere",
            _wrong_grouped(masking="tiny"),
            "With −1e9 in the whole row the softmax spreads evenly over hidden keys. Set hidden weights to 0 "
            "after the softmax, too.",
        ),
        Misconception(
            "the result stays in float32",
            _grouped_in_float32,
            "Output and weights come back in the dtype of the inputs. If you compute in float32 inside, end with "
            "`.to(query.dtype)`.",
        ),
        Misconception(
            "the output alone is returned",
            _wrong_grouped(then=lambda output, weights: output),
            "The answer is a tuple of two tensors. End with `return output, weights`.",
        ),
        Misconception(
            "the weights are those of the groups",
            _wrong_grouped(then=lambda output, weights: (output, weights[:, ::2])),
            "Every query head has weights of its own, also where keys are shared: (b, h, q, k), not (b, g, q, k).",
        ),
    ),
    hints=(
        "If every query head had its own copy of a key head, chapter 06's attention would do the rest. Which "
        "copy does query head i need?",
        "With h = 4 and g = 2, the query heads 0 and 1 read key head 0, and 2 and 3 read key head 1. Look up "
        "`torch.repeat_interleave`, and compare it with `Tensor.repeat` on [0, 1].",
        "`key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)`, the same for the values, then "
        "attention as usual. Check first that the number of key heads divides that of query heads.",
    ),
)

# --- multi_head_attention/cost -----------------------------------------------------------------

DTYPES = ("float32", "bfloat16", "float16", "float64", "int8")


def cost_cases(rng: np.random.Generator) -> Iterator[Case]:
    """MHA, GQA and MQA, with and without biases, in several dtypes."""
    yield _cost_case(rng, "multi-head attention, no biases", 8, 8, bias=False, dtype="float32")
    yield _cost_case(rng, "grouped queries, no biases", 8, 2, bias=False, dtype="bfloat16")
    yield _cost_case(rng, "multi-query attention with biases", 12, 1, bias=True, dtype="float16")
    yield _cost_case(rng, "grouped queries with biases", 16, 4, bias=True, dtype="float32", hidden=True)
    yield _cost_case(rng, "one layer, one sequence", 4, 4, bias=True, dtype="int8", small=True, hidden=True)
    yield _cost_case(rng, "a cache of int8", 8, 4, bias=False, dtype="int8", hidden=True)
    yield _cost_case(rng, "grouped queries in float64", 6, 3, bias=True, dtype="float64", hidden=True)


def _cost_case(
    rng: np.random.Generator,
    name: str,
    num_heads: int,
    num_kv_heads: int,
    *,
    bias: bool,
    dtype: str,
    small: bool = False,
    hidden: bool = False,
) -> Case:
    inputs: dict[str, Any] = {"d_model": num_heads * int(rng.integers(2, 9)) * 8, "num_heads": num_heads}
    inputs |= {"num_kv_heads": num_kv_heads, "num_layers": 1 if small else int(rng.integers(5, 40))}
    inputs |= {"bias": bias, "batch": 1 if small else int(rng.integers(3, 17))}
    inputs |= {"length": int(rng.integers(100, 5000)), "dtype": dtype}
    return Case(name, inputs, hidden)


def _cost(
    d_model: int,
    num_heads: int,
    num_kv_heads: int,
    num_layers: int,
    bias: bool,
    batch: int,
    length: int,
    dtype: torch.dtype,
) -> tuple[int, int]:
    width = num_kv_heads * (d_model // num_heads)
    parameters = 2 * d_model * d_model + 2 * d_model * width + bias * (2 * d_model + 2 * width)
    return num_layers * parameters, 2 * num_layers * batch * length * width * dtype.itemsize


def _cost_by_layers(
    d_model: int,
    num_heads: int,
    num_kv_heads: int,
    num_layers: int,
    bias: bool,
    batch: int,
    length: int,
    dtype: torch.dtype,
) -> tuple[int, int]:
    """Layers and a cache on the meta device, which have sizes and no numbers."""
    with torch.device("meta"):
        kv = d_model // num_heads * num_kv_heads
        layers = [nn.Linear(d_model, out, bias=bias) for out in (d_model, kv, kv)]
        layers.append(nn.Linear(d_model, d_model, bias=bias))
        shape = (num_layers, 2, batch, num_kv_heads, length, d_model // num_heads)
        cache = torch.empty(shape, dtype=dtype)
    count = sum(parameter.numel() for layer in layers for parameter in layer.parameters())
    return num_layers * count, cache.nbytes


def _cost_by_rows(
    d_model: int,
    num_heads: int,
    num_kv_heads: int,
    num_layers: int,
    bias: bool,
    batch: int,
    length: int,
    dtype: torch.dtype,
) -> tuple[int, int]:
    """A row of a projection has d_model weights, and one bias or none; a cached number stands for a row."""
    d_head = d_model // num_heads
    rows = (2 * num_heads + 2 * num_kv_heads) * d_head
    output_as_columns = num_heads * d_head
    one_layer = (rows - output_as_columns) * (d_model + bias) + d_model * (output_as_columns + bias)
    info = torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)
    cached = 2 * num_kv_heads * d_head * batch * length * num_layers
    return one_layer * num_layers, cached * info.bits // 8


def _costing(
    parameters: Callable[[dict[str, Any], int], Any] | None = None,
    cache: Callable[[dict[str, Any], int], Any] | None = None,
    then: Callable[[int, int], Any] = lambda parameters, cache: (parameters, cache),
) -> Callable[..., Any]:
    """The two counts, either of them changed by a function of the sizes and of what is right."""

    def answer(**sizes: Any) -> Any:
        right = _cost(**sizes)
        sizes["kv"] = sizes["num_kv_heads"] * (sizes["d_model"] // sizes["num_heads"])
        first = right[0] if parameters is None else parameters(sizes, right[0])
        return then(first, right[1] if cache is None else cache(sizes, right[1]))

    return answer


def _weights_of(s: dict[str, Any]) -> int:
    """Weights of all layers, no biases."""
    return int(s["num_layers"] * 2 * s["d_model"] * (s["d_model"] + s["kv"]))


COST = Exercise(
    id="multi_head_attention/cost",
    title="What attention costs: parameters and cache",
    points=2,
    minutes=25,
    difficulty=2,
    cases=cost_cases,
    probe=probes.cost,
    reference=_cost,
    also_right=(_cost_by_layers, _cost_by_rows),
    forbidden=LIBRARY,
    misconceptions=(
        Misconception(
            "the output projection is not counted",
            _costing(
                lambda s, right: right - s["num_layers"] * (s["d_model"] ** 2 + s["bias"] * s["d_model"])
            ),
            "A layer has four projections: query, key, value and output.",
        ),
        Misconception(
            "the key and value projections are taken to be as wide as the query's",
            _costing(lambda s, right: 4 * s["num_layers"] * (s["d_model"] ** 2 + s["bias"] * s["d_model"])),
            "Fewer key and value heads mean narrower projections: they go from d_model to num_kv_heads · d_head.",
        ),
        Misconception(
            "every head is given projections of full width",
            _costing(lambda s, right: right * s["num_heads"]),
            "A head has a share of the width. However many heads there are, query and output have d_model² "
            "weights each.",
        ),
        Misconception(
            "the biases are not counted",
            _costing(lambda s, right: _weights_of(s)),
            "With `bias=True` each projection has one number more for every output.",
        ),
        Misconception(
            "the biases are counted though there are none",
            _costing(lambda s, right: _weights_of(s) + s["num_layers"] * 2 * (s["d_model"] + s["kv"])),
            "With `bias=False` the projections have weights alone.",
        ),
        Misconception(
            "all biases are taken to have d_model entries",
            _costing(lambda s, right: _weights_of(s) + s["num_layers"] * s["bias"] * 4 * s["d_model"]),
            "A bias is as long as its projection is wide: num_kv_heads · d_head for keys and values.",
        ),
        Misconception(
            "the parameters of one layer",
            _costing(lambda s, right: right // s["num_layers"]),
            "Every layer has its own four projections: multiply by num_layers.",
        ),
        Misconception(
            "the parameters are counted in bytes",
            _costing(lambda s, right: right * s["dtype"].itemsize),
            "The first number is a count of parameters; only the cache is asked for in bytes.",
        ),
        Misconception(
            "the cache holds keys alone",
            _costing(cache=lambda s, right: right // 2),
            "The cache keeps the keys *and* the values of every token, so the size is twice that of one.",
        ),
        Misconception(
            "the cache has a key for every query head",
            _costing(cache=lambda s, right: right * s["num_heads"] // s["num_kv_heads"]),
            "Only num_kv_heads heads are kept. That is what grouped queries save.",
        ),
        Misconception(
            "the cache of one layer",
            _costing(cache=lambda s, right: right // s["num_layers"]),
            "Every layer keeps keys and values of its own: multiply by num_layers.",
        ),
        Misconception(
            "the cache of one sequence",
            _costing(cache=lambda s, right: right // s["batch"]),
            "Each of the `batch` sequences has its own keys and values.",
        ),
        Misconception(
            "the cache is counted in bits",
            _costing(cache=lambda s, right: right * 8),
            "Asked for are bytes: `dtype.itemsize` is a number of bytes, `torch.finfo(dtype).bits` one of bits.",
        ),
        Misconception(
            "the cache is counted in numbers",
            _costing(cache=lambda s, right: right // s["dtype"].itemsize),
            "Asked for are bytes. A float32 takes four, a bfloat16 two: `dtype.itemsize`.",
        ),
        Misconception(
            "every number takes four bytes",
            _costing(cache=lambda s, right: 4 * right // s["dtype"].itemsize),
            "How many bytes a number takes depends on the dtype: `dtype.itemsize`.",
        ),
        Misconception(
            "the cache holds the weights of attention",
            _costing(
                cache=lambda s, right: (
                    s["num_layers"] * s["batch"] * s["num_heads"] * s["length"] ** 2 * s["dtype"].itemsize
                )
            ),
            "The (length, length) tables of weights are thrown away at once. What is kept for the next token "
            "are keys and values, so the cache grows with the length and not with its square.",
        ),
        Misconception(
            "the counts are exchanged",
            _costing(then=lambda parameters, cache: (cache, parameters)),
            "The parameters come first, then the bytes of the cache.",
        ),
        Misconception(
            "the counts are floats",
            _costing(then=lambda parameters, cache: (float(parameters), float(cache))),
            "Counts are integers. `/` makes a float even where it divides evenly; `//` does not.",
        ),
    ),
    hints=(
        "Write down the shapes of the four weights and the four biases first. Which of them shrink when there "
        "are fewer key and value heads?",
        "d_head = d_model // num_heads. Keys and values are num_kv_heads · d_head wide; queries and output stay "
        "as wide as the model.",
        "A token leaves 2 · num_kv_heads · d_head numbers in every layer's cache. Times num_layers, batch, "
        "length, and `dtype.itemsize`.",
    ),
)

# --- multi_head_attention/rank_heads -----------------------------------------------------------


def rank_heads_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Layers in which some heads are worth something alone, two stand in for each other, and some are idle."""
    yield _ranked_case(rng, "four heads", 4)
    yield _ranked_case(rng, "five heads", 5)
    yield _ranked_case(rng, "two heads that share most pronouns", 4, shared=0.65)
    yield _ranked_case(rng, "six heads, more pronouns", 6, count=72, hidden=True)
    yield _ranked_case(rng, "four heads of width 6", 4, width=6, hidden=True)
    yield _ranked_case(rng, "five heads, other sizes", 5, count=40, width=7, hidden=True)


CLASSES = 5


def _ranked_case(
    rng: np.random.Generator,
    name: str,
    num_heads: int,
    *,
    count: int = 48,
    width: int = 5,
    shared: float = 0.4,
    hidden: bool = False,
) -> Case:
    """A layer whose heads have known parts; drawn again until its findings stand clearly apart.

    The pair that is asked for is never that of the two best heads. It is the pair that costs most together only
    where the two share most of the pronouns, so that the three can be told apart.
    """
    while True:
        inputs = _layer_with_roles(rng, num_heads, count, width, shared)
        given = {key: torch.as_tensor(array) for key, array in inputs.items()}
        _, increase, order, pair = _rank(**given)
        excess, together = _of_pairs(**given)
        margin = sorted(excess.values())[-1] - sorted(excess.values())[-2]
        apart = np.diff(sorted(increase.tolist())).min() > 0.004 and margin > 0.05
        costliest = pair == max(together, key=together.__getitem__)
        if apart and pair != tuple(sorted(order[:2])) and costliest == (shared > 0.5):
            return Case(name, inputs, hidden)


def _layer_with_roles(
    rng: np.random.Generator, num_heads: int, count: int, width: int, shared: float
) -> dict[str, np.ndarray]:
    """Two twins that know the same pronouns, one head that knows others alone, and idle heads."""
    d_model = CLASSES + 4
    guess_weight = rng.normal(size=(CLASSES, d_model))
    labels = rng.integers(0, CLASSES, size=count)
    both = rng.random(count) < shared
    strengths = np.zeros((num_heads, count))
    roles = rng.permutation(num_heads)
    strengths[roles[0]], strengths[roles[1]] = 3.0 * both, 2.6 * both
    strengths[roles[2]] = 3.4 * ~both
    wanted = strengths[:, :, None] * np.eye(CLASSES)[labels]  # (h, n, v), what each head adds to the logits
    wanted += rng.normal(size=wanted.shape) * np.linspace(0.25, 0.45, num_heads)[:, None, None]
    offsets = rng.normal(size=(num_heads, 1, CLASSES)) * 1.5
    added = (wanted + offsets) @ np.linalg.pinv(guess_weight).T  # (h, n, d_model)
    blocks = rng.normal(size=(num_heads, d_model, width)) / math.sqrt(width)
    heads = np.stack([rows @ np.linalg.pinv(block).T for rows, block in zip(added, blocks, strict=True)], 1)
    reached = np.einsum("nhd,hmd->nm", heads, blocks)
    output_bias = -reached.mean(0) + rng.normal(size=d_model) * 0.2
    made = {
        "heads": heads,
        "output_weight": np.concatenate(list(blocks), axis=1),
        "output_bias": output_bias,
        "residual": rng.normal(size=(count, d_model)) * 0.3,
        "guess_weight": guess_weight,
    }
    return {name: array.astype(np.float32) for name, array in made.items()} | {"labels": labels}


def _loss(
    heads: Tensor,
    output_weight: Tensor,
    output_bias: Tensor,
    residual: Tensor,
    guess_weight: Tensor,
    labels: Tensor,
) -> Tensor:
    hidden_states = residual + heads.flatten(1) @ output_weight.T + output_bias
    return F.cross_entropy(hidden_states @ guess_weight.T, labels)


def _increases(heads: Tensor, *rest: Tensor, **named: Tensor) -> Callable[..., Tensor]:
    """A function that gives the increase of the loss when some heads are replaced by their means."""
    means, loss = heads.mean(dim=0), _loss(heads, *rest, **named)

    def increase(*gone: int) -> Tensor:
        left = heads.clone()
        left[:, list(gone)] = means[list(gone)]
        return _loss(left, *rest, **named) - loss

    return increase


def _rank(heads: Tensor, *rest: Tensor, **named: Tensor) -> tuple[float, Tensor, list[int], tuple[int, int]]:
    without = _increases(heads, *rest, **named)
    increase = torch.stack([without(head) for head in range(heads.shape[1])])
    order = increase.argsort(descending=True).tolist()
    pairs = combinations(range(heads.shape[1]), 2)
    pair = max(pairs, key=lambda two: float(without(*two) - increase[list(two)].sum()))
    return _loss(heads, *rest, **named).item(), increase, order, pair


def _of_pairs(
    heads: Tensor, **named: Tensor
) -> tuple[dict[tuple[int, int], float], dict[tuple[int, int], float]]:
    """For each pair: its increase beyond the sum of the two alone, and its increase."""
    without = _increases(heads, **named)
    together = {(i, j): float(without(i, j)) for i, j in combinations(range(heads.shape[1]), 2)}
    excess = {(i, j): both - float(without(i) + without(j)) for (i, j), both in together.items()}
    return excess, together


def _rank_by_weights(
    heads: Tensor,
    output_weight: Tensor,
    output_bias: Tensor,
    residual: Tensor,
    guess_weight: Tensor,
    labels: Tensor,
) -> tuple[float, Tensor, list[int], tuple[int, int]]:
    """The columns of W_O that belong to a head carry its mean into the bias."""
    n, h, d = heads.shape
    blocks = output_weight.reshape(-1, h, d)
    added = torch.einsum("nhd,mhd->nhm", heads, blocks)
    moved = added.mean(dim=0) - added  # (n, h, d_model): what replacing a head by its mean changes
    whole = residual + added.sum(dim=1) + output_bias

    def loss_of(hidden_states: Tensor) -> Tensor:
        picked = (hidden_states @ guess_weight.T).log_softmax(dim=-1)[torch.arange(n), labels]
        return -picked.mean()

    loss = loss_of(whole)
    increase = torch.stack([loss_of(whole + moved[:, head]) for head in range(h)]) - loss
    best, pair = -math.inf, (0, 1)
    for first in range(h):
        for second in range(first + 1, h):
            both = loss_of(whole + moved[:, first] + moved[:, second]) - loss
            if both - increase[first] - increase[second] > best:
                best, pair = float(both - increase[first] - increase[second]), (first, second)
    return float(loss), increase, sorted(range(h), key=lambda i: -float(increase[i])), pair


def _rank_by_batch(
    heads: Tensor,
    output_weight: Tensor,
    output_bias: Tensor,
    residual: Tensor,
    guess_weight: Tensor,
    labels: Tensor,
) -> tuple[float, Tensor, list[int], tuple[int, int]]:
    """Every set of one or two heads at once, as a batch of copies."""
    n, h, _ = heads.shape
    rows, columns = torch.triu_indices(h, h)
    gone = F.one_hot(rows, h).bool() | F.one_hot(columns, h).bool()  # (sets, h)
    kept = torch.cat([torch.zeros(1, h, dtype=torch.bool), gone])[:, None, :, None]
    left = torch.where(kept, heads.mean(dim=0, keepdim=True), heads)
    logits = (residual + left.flatten(2) @ output_weight.T + output_bias) @ guess_weight.T
    losses = F.cross_entropy(logits.flatten(0, 1), labels.repeat(len(kept)), reduction="none")
    losses = losses.view(len(kept), n).mean(dim=1)
    table = torch.zeros(h, h).index_put((rows, columns), losses[1:] - losses[0])
    alone = table.diagonal()
    excess = (table - alone[:, None] - alone[None, :]).masked_fill(torch.ones(h, h).tril().bool(), -math.inf)
    place = int(excess.argmax())
    order = [int(head) for head in torch.argsort(-alone)]
    return losses[0].item(), alone.clone(), order, (place // h, place % h)


def _ranking(
    *,
    replace: str = "mean",
    measure: str = "loss",
    sign: int = 1,
    less_loss: bool = True,
    pairing: str = "excess",
    order: Callable[[list[int]], list[int]] = lambda ranked: ranked,
    layout: str = "heads",
    without: tuple[str, ...] = (),
    then: Callable[..., Any] = lambda *found: found,
) -> Callable[..., Any]:
    """A ranking with one thing wrong; by default nothing is."""

    def answer(
        heads: Tensor,
        output_weight: Tensor,
        output_bias: Tensor,
        residual: Tensor,
        guess_weight: Tensor,
        labels: Tensor,
    ) -> Any:
        count = heads.shape[1]

        def loss_of(left: Tensor) -> Tensor:
            merged = left.transpose(1, 2).flatten(1) if layout == "features" else left.flatten(1)
            hidden_states = merged @ output_weight.T
            hidden_states = hidden_states if "bias" in without else hidden_states + output_bias
            hidden_states = hidden_states if "residual" in without else hidden_states + residual
            logits = hidden_states @ guess_weight.T
            if measure == "errors":
                return (logits.argmax(dim=-1) != labels).float().mean()
            return F.cross_entropy(logits, labels, reduction="sum" if measure == "sum" else "mean")

        def left_without(*gone: int) -> Tensor:
            left = heads.clone()
            if replace == "never put back" and len(gone) == 1:
                gone = tuple(range(gone[0] + 1))
            for head in gone:
                stand_in = {
                    "zero": torch.zeros(heads.shape[2]),
                    "own mean": heads[:, head].mean(dim=1, keepdim=True),
                    "one number": heads[:, head].mean(),
                    "other heads": heads.mean(dim=1),
                }.get(replace, heads[:, head].mean(dim=0))
                left[:, head] = stand_in
            return left

        loss = loss_of(heads)
        base = loss if less_loss else 0
        increase = sign * torch.stack([loss_of(left_without(head)) - base for head in range(count)])
        ranked = increase.argsort(descending=True).tolist()
        pairs = list(combinations(range(count), 2))
        together = {pair: float(sign * (loss_of(left_without(*pair)) - base)) for pair in pairs}
        excess = {(i, j): both - float(increase[i] + increase[j]) for (i, j), both in together.items()}
        chosen = {
            "excess": max(excess, key=excess.__getitem__),
            "together": max(together, key=together.__getitem__),
            "least excess": min(excess, key=excess.__getitem__),
            "best two": tuple(sorted(ranked[:2])),
        }[pairing]
        return then(loss.item(), increase, order(ranked), chosen)

    return answer


def _rank_in_place(heads: Tensor, *rest: Tensor) -> Any:
    """As asked, but without a copy: what is taken away stays away."""
    loss = _loss(heads, *rest)

    def without(*gone: int) -> Tensor:
        for head in gone:
            heads[:, head] = heads[:, head].mean(dim=0)
        return _loss(heads, *rest) - loss

    count = heads.shape[1]
    increase = torch.stack([without(head) for head in range(count)])
    excess = {
        pair: float(without(*pair) - increase[list(pair)].sum()) for pair in combinations(range(count), 2)
    }
    return (
        loss.item(),
        increase,
        increase.argsort(descending=True).tolist(),
        max(excess, key=excess.__getitem__),
    )


def _by_size(heads: Tensor, output_weight: Tensor, *rest: Tensor) -> Any:
    """Heads ranked by the mean length of what they add."""
    loss, _, _, pair = _rank(heads, output_weight, *rest)
    blocks = output_weight.reshape(-1, *heads.shape[1:])
    size = torch.einsum("nhd,mhd->nhm", heads, blocks).norm(dim=-1).mean(dim=0)
    return loss, size, size.argsort(descending=True).tolist(), pair


RANK_HEADS = Exercise(
    id="multi_head_attention/rank_heads",
    title="What is each head worth?",
    points=4,
    minutes=60,
    difficulty=4,
    cases=rank_heads_cases,
    probe=probes.rank_heads,
    reference=_rank,
    also_right=(_rank_by_weights, _rank_by_batch),
    tolerance=Tolerance(absolute=2e-4, relative=1e-3),
    forbidden=LIBRARY,
    misconceptions=(
        Misconception(
            "a head is replaced by zeros in place of its mean",
            _ranking(replace="zero"),
            "Zeros are a value that the head never gives. What it always adds then counts as its merit, though "
            "a bias could do the same. Replace it by its mean over the pronouns, `heads[:, i].mean(dim=0)`.",
        ),
        Misconception(
            "a head is not put back before the next is taken out",
            _ranking(replace="never put back"),
            "Each head is judged with all others in place. Start from a fresh copy, `heads.clone()`, for every "
            "head.",
        ),
        Misconception(
            "the given heads are written into",
            _rank_in_place,
            "`left = heads` is another name for the same tensor, and what is taken away there stays away. Begin "
            "every trial with a copy: `left = heads.clone()`.",
        ),
        Misconception(
            "the mean runs over a head's features",
            _ranking(replace="own mean"),
            "The mean is over the n pronouns, axis 0, and is a vector of width d. Yours is one number for each "
            "pronoun, and still tells them apart.",
        ),
        Misconception(
            "the mean is one number for the whole head",
            _ranking(replace="one number"),
            "The mean is over the pronouns alone, axis 0, so that each of the d features keeps its own.",
        ),
        Misconception(
            "the mean runs over the heads",
            _ranking(replace="other heads"),
            "A head is replaced by its own mean over the pronouns. The mean over the heads still knows which "
            "pronoun it stands at.",
        ),
        Misconception(
            "the heads are merged feature by feature",
            _ranking(layout="features"),
            "The first d columns of W_O belong to head 0, the next d to head 1: the merged row is (h, d) "
            "flattened, not (d, h).",
        ),
        Misconception(
            "the increase has the wrong sign",
            _ranking(sign=-1),
            "The increase is the loss without the head minus the loss with all heads. A head that is needed has "
            "a positive one.",
        ),
        Misconception(
            "the losses are returned in place of their increase",
            _ranking(less_loss=False),
            "Take the loss with all heads away from each: what is asked for is how much worse it becomes.",
        ),
        Misconception(
            "the bias of the output projection is forgotten",
            _ranking(without=("bias",)),
            "The layer's output is merged · W_Oᵀ + output_bias. Without the bias every loss is another.",
        ),
        Misconception(
            "the residual is forgotten",
            _ranking(without=("residual",)),
            "What the layer puts out is *added* to `residual`, and the guess is made from the sum.",
        ),
        Misconception(
            "errors are counted in place of the loss",
            _ranking(measure="errors"),
            "Asked for is the cross-entropy. Counting errors loses what a head adds to or takes from a guess "
            "that stays right.",
        ),
        Misconception(
            "the loss is a sum over the pronouns",
            _ranking(measure="sum"),
            "The loss is the mean over the n pronouns, as `F.cross_entropy` gives by default.",
        ),
        Misconception(
            "the least important head comes first",
            _ranking(order=lambda ranked: ranked[::-1]),
            "The order begins with the head whose loss of it costs most. `argsort` sorts upwards unless told "
            "`descending=True`.",
        ),
        Misconception(
            "ranks in place of an order",
            _ranking(order=lambda ranked: [ranked.index(head) for head in range(len(ranked))]),
            "`order[0]` is the number of the most important head. Yours says for each head which rank it has, "
            "which is the inverse permutation.",
        ),
        Misconception(
            "a head is judged by the size of what it adds",
            _by_size,
            "A large vector may point where no guess depends on it. What a head is worth shows in the loss when "
            "it is taken away.",
        ),
        Misconception(
            "the pair is that of the two most important heads",
            _ranking(pairing="best two"),
            "Two heads that stand in for each other look unimportant one at a time. Take out both at once, and "
            "compare with the sum of what each costs alone.",
        ),
        Misconception(
            "the pair is the one that costs most together",
            _ranking(pairing="together"),
            "Two important heads cost much together without having to do with each other. Subtract what each "
            "costs alone, and look for what is left over.",
        ),
        Misconception(
            "the pair is the one with the least left over",
            _ranking(pairing="least excess"),
            "Heads that stand in for each other cost *more* together than the sum of what each costs alone: look "
            "for the largest difference.",
        ),
        Misconception(
            "the larger head of the pair comes first",
            _ranking(then=lambda loss, increase, order, pair: (loss, increase, order, pair[::-1])),
            "The pair is (i, j) with i < j.",
        ),
    ),
    hints=(
        "Write a function first that takes heads of shape (n, h, d) and gives the loss. Everything else is calls "
        "of it with changed copies.",
        "A copy without head i: `left = heads.clone(); left[:, i] = heads[:, i].mean(dim=0)`. The increase is its "
        "loss minus the loss of `heads`.",
        "For each pair (i, j): the increase without both, minus the increase without i, minus the increase without "
        "j. `max(pairs, key=…)` over `itertools.combinations(range(h), 2)` finds the pair.",
    ),
)

EXERCISES = (THROUGH_HEADS, LAYER, GROUPED, COST, RANK_HEADS)
