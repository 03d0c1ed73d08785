"""Multi-head attention. Oracles: `nn.MultiheadAttention` with the same weights; a loop over single heads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from course_lib.layers.masks import causal_mask, combine_masks, padding_mask
from course_lib.layers.multi_head import (
    MultiHeadAttention,
    merge_heads,
    repeat_kv_heads,
    replace_heads,
    split_heads,
    watch_heads,
)

B, H, Q, K, D_MODEL = 2, 4, 5, 7, 16
CLOSE: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-4}


def some_rows(seed: int, *shape: int) -> Tensor:
    """A random mask in which every row has at least one key."""
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    mask[..., 0] = True
    return mask


MASKS: dict[str, Tensor | None] = {
    "none": None,
    "causal": causal_mask(Q, K),
    "padding": padding_mask(torch.tensor([4, 7]), K),
    "causal and padding": combine_masks(causal_mask(Q, K), padding_mask(torch.tensor([4, 7]), K)),
    "per head": some_rows(1, B, H, Q, K),
    "shared by heads": some_rows(2, B, 1, Q, K),
    "one per head": some_rows(3, H, Q, K),
    "keys alone": some_rows(5, K),
}
each_mask = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
each_bias = pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])


def gradients(output: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    direction = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)
    return torch.autograd.grad((output * direction).sum(), inputs)


def torchs(bias: bool = True) -> nn.MultiheadAttention:
    torch.manual_seed(3)
    module = nn.MultiheadAttention(D_MODEL, H, bias=bias, batch_first=True)
    if bias:
        nn.init.normal_(module.in_proj_bias)
        nn.init.normal_(module.out_proj.bias)
    return module


def draw() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden_states = torch.randn(B, Q, D_MODEL, generator=generator).requires_grad_()
    context = torch.randn(B, K, D_MODEL, generator=generator).requires_grad_()
    return hidden_states, context


def theirs_mask(mask: Tensor | None) -> Tensor | None:
    """torch wants (b · h, q, k), and True there means hidden."""
    return None if mask is None else ~mask.expand(B, H, Q, K).flatten(0, 1)


@each_mask
@each_bias
def test_values_weights_and_gradients_equal_torchs_layer(mask: Tensor | None, bias: bool) -> None:
    theirs = torchs(bias)
    ours = MultiHeadAttention.from_torch(theirs)
    hidden_states, context = draw()
    expected, shares = theirs(
        hidden_states, context, context, attn_mask=theirs_mask(mask), average_attn_weights=False
    )
    wanted = gradients(expected, [hidden_states, context])
    fast = ours(hidden_states, context, mask)
    explicit, weights = ours(hidden_states, context, mask, return_weights=True)
    torch.testing.assert_close(weights, shares, **CLOSE)
    for found in (fast, explicit):
        torch.testing.assert_close(found, expected, **CLOSE)
        for one, other in zip(gradients(found, [hidden_states, context]), wanted, strict=True):
            torch.testing.assert_close(one, other, **CLOSE)


def test_key_padding_equals_torchs() -> None:
    theirs = torchs()
    hidden_states, context = draw()
    mask = padding_mask(torch.tensor([4, 7]), K)
    expected, _ = theirs(hidden_states, context, context, key_padding_mask=~mask[:, 0, 0])
    torch.testing.assert_close(MultiHeadAttention.from_torch(theirs)(hidden_states, context, mask), expected)


def test_split_and_merge_undo_each_other_and_keep_tokens_apart() -> None:
    hidden_states = torch.randn(2, 3, 8)
    heads = split_heads(hidden_states, 4)
    assert heads.shape == (2, 4, 3, 2)
    assert torch.equal(heads[1, 2, 0], hidden_states[1, 0, 4:6])
    assert torch.equal(merge_heads(heads), hidden_states)
    with pytest.raises(ValueError, match="num_heads=3 does not divide the width 8"):
        split_heads(hidden_states, 3)


@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_grouped_queries_equal_torchs_own(num_kv_heads: int) -> None:
    torch.manual_seed(2)
    layer = MultiHeadAttention(D_MODEL, H, num_kv_heads)
    hidden_states, context = draw()
    query = split_heads(layer.query(hidden_states), H)
    key, value = (split_heads(part(context), num_kv_heads) for part in (layer.key, layer.value))
    heads = F.scaled_dot_product_attention(query, key, value, enable_gqa=True)
    torch.testing.assert_close(layer(hidden_states, context), layer.output(merge_heads(heads)), **CLOSE)
    assert repeat_kv_heads(key, H).shape == (B, H, K, 4)


@pytest.mark.parametrize("return_weights", [False, True], ids=["fast", "explicit"])
@pytest.mark.parametrize("biased", [False, True], ids=["plain", "score bias"])
def test_a_query_that_sees_nothing_reads_zeros(return_weights: bool, biased: bool) -> None:
    torch.manual_seed(2)
    layer = MultiHeadAttention(D_MODEL, H)
    hidden_states, context = draw()
    mask = some_rows(1, B, 1, Q, K)
    mask[0, 0, 2] = False
    score_bias = torch.randn(H, Q, K, requires_grad=True)
    options = {"score_bias": score_bias} if biased else {}
    found = layer(hidden_states, context, mask, return_weights=return_weights, **options)
    output = found[0] if return_weights else found
    torch.testing.assert_close(output[0, 2], layer.output.bias)
    inputs = [hidden_states, context, *options.values()]
    of_inputs = gradients(output, inputs)
    assert all(gradient.isfinite().all() for gradient in of_inputs)
    assert (of_inputs[0][0, 2] == 0).all(), "such a query has no influence on anything"


@each_mask
def test_score_bias_and_rotation_mean_the_same_on_both_paths(mask: Tensor | None) -> None:
    torch.manual_seed(2)
    layer = MultiHeadAttention(D_MODEL, H, 2)
    hidden_states, context = draw()
    score_bias = torch.randn(H, Q, K, requires_grad=True)
    turn = torch.linalg.qr(torch.randn(4, 4)).Q
    options = {"rotate": lambda heads: heads @ turn, "score_bias": score_bias}
    fast = layer(hidden_states, context, mask, **options)
    explicit, _ = layer(hidden_states, context, mask, **options, return_weights=True)
    torch.testing.assert_close(fast, explicit, **CLOSE)
    # Turning queries and keys alike leaves every score as it was.
    torch.testing.assert_close(fast, layer(hidden_states, context, mask, score_bias=score_bias), **CLOSE)
    found = [gradients(output, [score_bias, hidden_states]) for output in (fast, explicit)]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


def test_a_score_bias_is_added_after_the_scale() -> None:
    layer = MultiHeadAttention(D_MODEL, H)
    hidden_states, _ = draw()
    score_bias = torch.randn(1, H, Q, Q)
    _, plain = layer(hidden_states, return_weights=True)
    _, shifted = layer(hidden_states, score_bias=score_bias, return_weights=True)
    expected = plain.log() + score_bias
    torch.testing.assert_close(shifted, expected.softmax(dim=-1), **CLOSE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((64, 3), "num_heads=3 does not divide d_model=64"),
        ((64, 8, 3), "num_kv_heads=3 does not divide num_heads=8"),
        ((64, 0), "both must be at least 1"),
    ],
)
def test_heads_that_do_not_fit_are_named(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiHeadAttention(*arguments)
    assert MultiHeadAttention(10, 3, d_head=4)(torch.randn(1, 2, 10)).shape == (1, 2, 10)


@settings(max_examples=30, deadline=None)
@given(
    heads=st.sampled_from([(1, 1), (4, 4), (4, 2), (6, 1), (6, 3)]),
    width=st.integers(1, 5),
    q=st.integers(1, 6),
    k=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_any_shape_equals_a_loop_over_single_heads(
    heads: tuple[int, int], width: int, q: int, k: int, seed: int
) -> None:
    torch.manual_seed(seed)
    num_heads, num_kv_heads = heads
    layer = MultiHeadAttention(8, num_heads, num_kv_heads, d_head=width).double()
    hidden_states, context = torch.randn(2, q, 8).double(), torch.randn(2, k, 8).double()
    mask = torch.rand(2, num_heads, q, k) < 0.6
    query, key, value = layer.query(hidden_states), layer.key(context), layer.value(context)
    read = []
    for head in range(num_heads):
        own, shared = head * width, head // (num_heads // num_kv_heads) * width
        scores = query[..., own : own + width] @ key[..., shared : shared + width].mT / width**0.5
        powers = scores.exp() * mask[:, head]
        shares = powers / powers.sum(dim=-1, keepdim=True).clamp(min=1e-300)
        read.append(shares @ value[..., shared : shared + width])
    expected = layer.output(torch.cat(read, dim=-1))
    torch.testing.assert_close(layer(hidden_states, context, mask), expected)
    torch.testing.assert_close(layer(hidden_states, context, mask, return_weights=True)[0], expected)


def test_the_gradient_passes_a_finite_difference_check() -> None:
    torch.manual_seed(1)
    layer = MultiHeadAttention(4, 2, 1).double()
    hidden_states = torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True)
    score_bias = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    mask = causal_mask(3)
    for explicit in (False, True):

        def forward(x: Tensor, bias: Tensor, explicit: bool = explicit) -> Any:
            found = layer(x, mask=mask, score_bias=bias, return_weights=explicit)
            return found[0] if explicit else found

        assert torch.autograd.gradcheck(forward, (hidden_states, score_bias))


@pytest.mark.parametrize("return_weights", [False, True], ids=["fast", "explicit"])
def test_dropout_drops_while_training_alone_and_leaves_the_mean(return_weights: bool) -> None:
    torch.manual_seed(1)
    layer = MultiHeadAttention(D_MODEL, H, dropout=0.4)
    hidden_states = torch.randn(1, 6, D_MODEL)

    def run() -> Tensor:
        found = layer(hidden_states, return_weights=return_weights)
        return found[0] if return_weights else found

    layer.eval()
    quiet = run()
    torch.testing.assert_close(run(), quiet)
    layer.train()
    drawn = torch.stack([run() for _ in range(400)])
    assert not torch.equal(drawn[0], drawn[1])
    assert (drawn.mean(dim=0) - quiet).abs().max() < 0.15


@pytest.mark.parametrize("option", [{"kdim": 5}, {"add_bias_kv": True}, {"add_zero_attn": True}], ids=str)
def test_what_torchs_layer_has_beyond_ours_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not supported"):
        MultiHeadAttention.from_torch(nn.MultiheadAttention(D_MODEL, H, **option))


def test_loading_copies_weights_dtype_and_mode() -> None:
    theirs = nn.MultiheadAttention(D_MODEL, H, dropout=0.2, dtype=torch.float64).eval()
    ours = MultiHeadAttention.from_torch(theirs)
    assert ours.query.weight.dtype == torch.float64 and not ours.training and ours.dropout == 0.2
    with torch.no_grad():
        theirs.in_proj_weight.zero_()
    assert ours.query.weight.abs().sum() > 0, "the weights are copies"


def test_an_ablated_head_adds_nothing_and_afterwards_all_is_as_before() -> None:
    torch.manual_seed(1)
    layer = MultiHeadAttention(D_MODEL, H)
    hidden_states, _ = draw()
    whole = layer(hidden_states)
    with watch_heads(layer) as seen:
        layer(hidden_states)
    (read,) = seen  # (b, q, h, d)
    with replace_heads(layer, [1, 3]):
        left = layer(hidden_states)
    columns = layer.output.weight.unflatten(1, (H, -1))
    added = torch.einsum("bqhd,mhd->bqhm", read, columns)
    torch.testing.assert_close(left, whole - added[:, :, 1] - added[:, :, 3], **CLOSE)
    means = read.mean(dim=(0, 1)).detach()
    with replace_heads(layer, [2], means):
        left = layer(hidden_states)
    torch.testing.assert_close(left, whole - added[:, :, 2] + columns[:, 2] @ means[2], **CLOSE)
    torch.testing.assert_close(layer(hidden_states), whole)
    assert len(seen) == 1, "nothing is watched once the context is closed"


def test_bfloat16_is_near_float32() -> None:
    torch.manual_seed(1)
    layer = MultiHeadAttention(D_MODEL, H, 2)
    hidden_states, _ = draw()
    sharp = layer(hidden_states, mask=causal_mask(Q))
    rough = layer.bfloat16()(hidden_states.bfloat16(), mask=causal_mask(Q), score_bias=torch.zeros(H, Q, Q))
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), sharp, atol=3e-2, rtol=3e-2)


def test_a_mask_that_does_not_fit_is_named() -> None:
    layer = MultiHeadAttention(D_MODEL, H)
    hidden_states, _ = draw()
    with pytest.raises(ValueError, match=r"does not broadcast to \(2, 4, 5, 5\)"):
        layer(hidden_states, mask=torch.ones(B, Q, Q, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"expected torch\.bool"):
        layer(hidden_states, mask=torch.ones(Q, Q))
