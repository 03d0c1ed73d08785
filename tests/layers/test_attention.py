"""Attention and its masks. Oracles: torch's own attention, `nn.MultiheadAttention`, masks by definition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from course_lib.layers.attention import (
    SingleHeadAttention,
    attention_weights,
    scaled_dot_product_attention,
)
from course_lib.layers.chunked import chunked_attention
from course_lib.layers.masks import causal_mask, combine_masks, padding_mask

B, H, Q, K, D, V = 2, 3, 5, 7, 8, 6

Triple: TypeAlias = tuple[Tensor, Tensor, Tensor]

TOLERANCE: dict[torch.dtype, dict[str, Any]] = {
    torch.float32: {"atol": 1e-5, "rtol": 1e-4},
    torch.float64: {"atol": 1e-12, "rtol": 1e-10},
    torch.bfloat16: {"atol": 2e-2, "rtol": 2e-2},
}


def some_rows(seed: int, *shape: int) -> Tensor:
    """A random mask in which every row has at least one key."""
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    mask[..., 0] = True
    return mask


def one_row_hidden() -> Tensor:
    mask = some_rows(3, B, H, Q, K)
    mask[0, 1, 2] = False
    mask[1, :, 4] = False
    return mask


MASKS: dict[str, Tensor | None] = {
    "none": None,
    "causal": causal_mask(Q, K),
    "padding": padding_mask(torch.tensor([4, 7]), K),
    "causal and padding": combine_masks(causal_mask(Q, K), padding_mask(torch.tensor([4, 7]), K)),
    "per head": some_rows(1, B, H, Q, K),
    "shared by heads": some_rows(2, B, 1, Q, K),
    "one row for all queries": some_rows(4, 1, K),
    "keys alone": some_rows(5, K),
    "rows fully hidden": one_row_hidden(),
    "everything hidden": torch.zeros(Q, K, dtype=torch.bool),
}
each_mask = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)


def draw(dtype: torch.dtype = torch.float32, seed: int = 0) -> Triple:
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (
        torch.randn(shape, generator=generator).to(dtype).requires_grad_()
        for shape in ((B, H, Q, D), (B, H, K, D), (B, H, K, V))
    )
    return query, key, value


def oracle(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """torch's attention with an additive mask; rows without a key are zeros by our convention."""
    if mask is None:
        return F.scaled_dot_product_attention(query, key, value)
    full = mask.expand(B, H, Q, K)
    seeing = full.any(dim=-1, keepdim=True)
    # Rows that see nothing are given one key, so that torch has no 0/0, and are then cut off.
    additive = torch.zeros(full.shape, dtype=query.dtype).masked_fill(~(full | ~seeing), float("-inf"))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=additive) * seeing


def gradients(output: Tensor, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    direction = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)
    return torch.autograd.grad((output * direction).sum(), inputs)


@each_mask
@pytest.mark.parametrize("return_weights", [False, True], ids=["fast", "explicit"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_values_and_gradients_equal_torchs_own(
    mask: Tensor | None, return_weights: bool, dtype: torch.dtype
) -> None:
    inputs = draw(dtype)
    ours = scaled_dot_product_attention(*inputs, mask, return_weights=return_weights).output
    theirs = oracle(*inputs, mask)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, theirs, **TOLERANCE[dtype])
    if dtype != torch.bfloat16:
        for one, other in zip(gradients(ours, inputs), gradients(theirs, inputs), strict=True):
            torch.testing.assert_close(one, other, **TOLERANCE[dtype])


@each_mask
def test_bfloat16_gradients_are_near_those_of_float64(mask: Tensor | None) -> None:
    half = draw(torch.bfloat16)
    query, key, value = (tensor.detach().double().requires_grad_() for tensor in half)
    exact = (query, key, value)
    rough = gradients(scaled_dot_product_attention(*half, mask, return_weights=True).output, half)
    sharp = gradients(scaled_dot_product_attention(*exact, mask, return_weights=True).output, exact)
    for one, other in zip(rough, sharp, strict=True):
        torch.testing.assert_close(one.double(), other, atol=5e-2, rtol=5e-2)


@each_mask
def test_weights_are_shares_of_the_visible_keys(mask: Tensor | None) -> None:
    query, key, value = draw()
    found = scaled_dot_product_attention(query, key, value, mask, return_weights=True)
    assert found.weights is not None
    full = torch.ones(B, H, Q, K, dtype=torch.bool) if mask is None else mask.expand(B, H, Q, K)
    assert (found.weights[~full] == 0).all()
    torch.testing.assert_close(found.weights.sum(dim=-1), full.any(dim=-1).float())
    torch.testing.assert_close(found.weights @ value, found.output)


@pytest.mark.parametrize("return_weights", [False, True], ids=["fast", "explicit"])
def test_a_query_that_sees_nothing_gives_zeros_and_finite_gradients(return_weights: bool) -> None:
    inputs = draw()
    output = scaled_dot_product_attention(
        *inputs, MASKS["rows fully hidden"], return_weights=return_weights
    ).output
    assert (output[0, 1, 2] == 0).all() and (output[1, :, 4] == 0).all()
    found = gradients(output, inputs)
    assert all(gradient.isfinite().all() for gradient in found)
    assert (found[0][0, 1, 2] == 0).all(), "such a query has no influence on anything"


def test_the_gradient_passes_a_finite_difference_check() -> None:
    inputs = draw(torch.float64)
    mask = MASKS["rows fully hidden"]
    assert torch.autograd.gradcheck(
        lambda q, k, v: scaled_dot_product_attention(q, k, v, mask, return_weights=True).output, inputs
    )


sizes = st.integers(1, 9)


@settings(max_examples=40, deadline=None)
@given(
    lead=st.lists(st.integers(1, 3), max_size=2), q=sizes, k=sizes, d=sizes, v=sizes, seed=st.integers(0, 99)
)
def test_any_shape_fast_equals_explicit_equals_the_formula(
    lead: list[int], q: int, k: int, d: int, v: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    query, key = torch.randn(*lead, q, d, generator=generator), torch.randn(*lead, k, d, generator=generator)
    value = torch.randn(*lead, k, v, generator=generator)
    mask = torch.rand(*lead, q, k, generator=generator) < 0.7
    fast = scaled_dot_product_attention(query, key, value, mask).output
    explicit = scaled_dot_product_attention(query, key, value, mask, return_weights=True).output
    exponentials = (query.double() @ key.double().mT / math.sqrt(d)).exp() * mask
    shares = exponentials / exponentials.sum(dim=-1, keepdim=True).clamp(min=1e-300)
    expected = (shares @ value.double()).float()
    assert fast.shape == (*lead, q, v)
    torch.testing.assert_close(fast, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(explicit, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("return_weights", [False, True], ids=["fast", "explicit"])
def test_non_contiguous_inputs_give_the_same(return_weights: bool) -> None:
    query, key, value = draw()
    plain = scaled_dot_product_attention(query, key, value, return_weights=return_weights).output
    strided = [tensor.detach().transpose(1, 2).contiguous().transpose(1, 2) for tensor in (query, key, value)]
    assert not any(tensor.is_contiguous() for tensor in strided)
    found = scaled_dot_product_attention(strided[0], strided[1], strided[2], return_weights=return_weights)
    torch.testing.assert_close(found.output, plain)
    found = scaled_dot_product_attention(query, key.flip(-2), value.flip(-2), return_weights=return_weights)
    torch.testing.assert_close(found.output, plain)


def test_one_key_set_serves_queries_of_every_head() -> None:
    query, key, value = draw()
    shared = scaled_dot_product_attention(query, key[:, :1], value[:, :1], return_weights=True)
    spread = scaled_dot_product_attention(
        query, key[:, :1].expand(B, H, K, D), value[:, :1].expand(B, H, K, V), return_weights=True
    )
    torch.testing.assert_close(shared.output, spread.output)


def test_a_given_scale_takes_the_place_of_the_root() -> None:
    query, key, value = draw()
    for return_weights in (False, True):
        ours = scaled_dot_product_attention(
            query, key, value, scale=0.3, return_weights=return_weights
        ).output
        torch.testing.assert_close(ours, F.scaled_dot_product_attention(query, key, value, scale=0.3))
    torch.testing.assert_close(
        attention_weights(query, key, scale=0.3), (query @ key.mT * 0.3).softmax(dim=-1)
    )


@pytest.mark.parametrize(
    ("shapes", "mask", "message"),
    [
        (((2, 4), (3, 5), (3, 5)), None, "query has width 4, key has 5"),
        (((2, 4), (3, 4), (2, 4)), None, "3 keys but 2 values"),
        (((2, 4), (3, 4), (3, 4)), torch.ones(2, 3), "expected torch.bool"),
        (((2, 4), (3, 4), (3, 4)), torch.ones(3, 2, dtype=torch.bool), "does not broadcast to (2, 3)"),
        (((2, 4), (3, 4), (3, 4)), torch.ones(5, 2, 3, dtype=torch.bool), "does not broadcast to (2, 3)"),
    ],
    ids=["widths", "values", "mask of numbers", "mask transposed", "mask that would add an axis"],
)
def test_what_does_not_fit_is_named(
    shapes: tuple[tuple[int, int], ...], mask: Tensor | None, message: str
) -> None:
    query, key, value = (torch.randn(shape) for shape in shapes)
    with pytest.raises(ValueError) as error:
        scaled_dot_product_attention(query, key, value, mask)
    assert message in str(error.value)


# --- masks -------------------------------------------------------------------------------------


@given(n_query=st.integers(1, 12), extra=st.integers(0, 8))
def test_causal_mask_by_definition(n_query: int, extra: int) -> None:
    n_key = n_query + extra
    mask = causal_mask(n_query, n_key)
    expected = [[j <= extra + i for j in range(n_key)] for i in range(n_query)]
    assert mask.dtype == torch.bool
    assert mask.tolist() == expected


def test_causal_mask_is_square_by_default_and_refuses_more_queries_than_keys() -> None:
    assert causal_mask(4).tolist() == causal_mask(4, 4).tolist()
    with pytest.raises(ValueError, match="n_query=4 exceeds n_key=3"):
        causal_mask(4, 3)


@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=5), extra=st.integers(0, 3))
def test_padding_mask_by_definition(lengths: list[int], extra: int) -> None:
    n_key = max(lengths) + extra
    mask = padding_mask(torch.tensor(lengths), n_key)
    assert mask.shape == (len(lengths), 1, 1, n_key)
    assert mask.flatten(1).tolist() == [[j < length for j in range(n_key)] for length in lengths]


def test_padding_mask_refuses_a_table_of_lengths() -> None:
    with pytest.raises(ValueError, match=r"expected \(batch,\)"):
        padding_mask(torch.tensor([[1, 2]]))


def test_combined_masks_allow_what_each_allows() -> None:
    first, second = some_rows(1, 4, 6), some_rows(2, 3, 1, 6)
    combined = combine_masks(first, None, second)
    assert combined is not None
    assert combined.tolist() == (first & second).tolist()
    assert combine_masks(None, None) is None


# --- the module --------------------------------------------------------------------------------


def loaded_pair(d_model: int, bias: bool) -> tuple[SingleHeadAttention, nn.MultiheadAttention]:
    """Our module and torch's with one head, the same weights, and an identity for torch's last projection."""
    torch.manual_seed(7)
    ours = SingleHeadAttention(d_model, d_model, bias=bias)
    theirs = nn.MultiheadAttention(d_model, 1, bias=bias, batch_first=True)
    parts = (ours.query, ours.key, ours.value)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        theirs.out_proj.weight.copy_(torch.eye(d_model))
        if bias:
            theirs.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
            theirs.out_proj.bias.zero_()
    return ours, theirs


@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("cross", [False, True], ids=["self", "cross"])
@pytest.mark.parametrize("masked", [False, True], ids=["open", "masked"])
def test_single_head_equals_multihead_attention_with_one_head(bias: bool, cross: bool, masked: bool) -> None:
    ours, theirs = loaded_pair(8, bias)
    hidden_states = torch.randn(2, 5, 8, requires_grad=True)
    context = torch.randn(2, 7, 8) if cross else None
    source = hidden_states if context is None else context
    mask = some_rows(6, 5, source.shape[1]) if masked else None
    found = ours(hidden_states, context, mask, return_weights=True)
    # torch's convention is the opposite: True there means hidden.
    expected, weights = theirs(
        hidden_states, source, source, attn_mask=None if mask is None else ~mask, need_weights=True
    )
    torch.testing.assert_close(found.output, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.weights, weights, atol=1e-5, rtol=1e-4)
    one, other = gradients(found.output, [hidden_states]), gradients(expected, [hidden_states])
    torch.testing.assert_close(one[0], other[0], atol=1e-5, rtol=1e-4)


def test_single_head_widths() -> None:
    module = SingleHeadAttention(8, 3, d_v=5)
    assert {name: tuple(p.shape) for name, p in module.named_parameters()} == {
        "query.weight": (3, 8),
        "key.weight": (3, 8),
        "value.weight": (5, 8),
    }
    assert module(torch.randn(2, 4, 8)).output.shape == (2, 4, 5)
    assert module(torch.randn(2, 4, 8)).weights is None


# --- in chunks ---------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(q=st.integers(1, 12), extra=st.integers(0, 5), chunk=st.integers(1, 15), causal=st.booleans())
def test_chunks_change_no_number(q: int, extra: int, chunk: int, causal: bool) -> None:
    torch.manual_seed(q + extra)
    query, key, value = torch.randn(2, q, 4), torch.randn(2, q + extra, 4), torch.randn(2, q + extra, 3)
    whole = scaled_dot_product_attention(query, key, value, causal_mask(q, q + extra) if causal else None)
    torch.testing.assert_close(
        chunked_attention(query, key, value, chunk, causal), whole.output, atol=1e-5, rtol=1e-4
    )


def test_chunks_pass_the_same_gradients() -> None:
    inputs = draw(torch.float64)
    chunks = gradients(chunked_attention(*inputs, 2), inputs)
    whole = gradients(scaled_dot_product_attention(*inputs).output, inputs)
    for one, other in zip(chunks, whole, strict=True):
        torch.testing.assert_close(one, other)


def test_chunks_refuse_what_makes_no_sense() -> None:
    query, key, value = torch.randn(4, 2), torch.randn(3, 2), torch.randn(3, 2)
    with pytest.raises(ValueError, match="chunk=0"):
        chunked_attention(query, key, value, 0)
    with pytest.raises(ValueError, match="4 queries but 3 keys"):
        chunked_attention(query, key, value, 2, causal=True)
