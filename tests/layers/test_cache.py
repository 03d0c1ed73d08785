"""The key/value cache. Oracle: the same layer or stack, run over all positions at once."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from course_lib.layers.block import BlockConfig, TransformerStack
from course_lib.layers.cache import AttentionCache, KeyValueCache
from course_lib.layers.masks import causal_mask
from course_lib.layers.multi_head import MultiHeadAttention
from course_lib.layers.positions import LearnedPositions, SinusoidalEncoding
from course_lib.layers.relative import RelativeBias, alibi_bias
from course_lib.layers.rotary import Rotary

B, N, K, D, H = 2, 7, 5, 16, 4
CLOSE: dict[str, Any] = {"atol": 1e-10, "rtol": 1e-8}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stack_of(**options: Any) -> TransformerStack:
    torch.manual_seed(3)
    return TransformerStack(BlockConfig(D, H, 24, **options), 3).double()


def in_steps(stack: TransformerStack, x: Tensor, sizes: list[int], context: Tensor | None = None) -> Tensor:
    cache, found = KeyValueCache(len(stack.blocks)), []
    for part in x.split(sizes, dim=1):
        mask = causal_mask(part.shape[1], cache.length + part.shape[1])
        found.append(stack(part, context, mask, cache=cache).hidden_states)
    assert cache.length == x.shape[1]
    return torch.cat(found, dim=1)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=5),
    st.sampled_from([None, 1, 2]),
    st.sampled_from(["pre", "post", "residual_dual"]),
    st.booleans(),
)
def test_steps_of_any_size_equal_all_at_once(
    sizes: list[int], num_kv_heads: int | None, order: str, crossing: bool
) -> None:
    stack = stack_of(order=order, num_kv_heads=num_kv_heads, cross_attention=crossing)
    x, context = draw(B, sum(sizes), D), draw(B, K, D, seed=1) if crossing else None
    expected = stack(x, context, causal_mask(sum(sizes))).hidden_states
    torch.testing.assert_close(in_steps(stack, x, sizes, context), expected, **CLOSE)


@pytest.mark.parametrize("layout", ["half", "interleaved"])
def test_rotary_positions_go_on_where_the_cache_ends(layout: Any) -> None:
    stack, rotary, x = stack_of(), Rotary(D // H, layout=layout), draw(B, N, D)
    expected = stack(x, mask=causal_mask(N), rotate=rotary.rotate).hidden_states
    cache, found = KeyValueCache(3), []
    for part in x.split([3, 1, 3], dim=1):
        start = cache.length
        mask = causal_mask(part.shape[1], start + part.shape[1])
        turn = partial(rotary.rotate, offset=start)
        found.append(stack(part, mask=mask, rotate=turn, cache=cache).hidden_states)
    torch.testing.assert_close(torch.cat(found, dim=1), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", ["alibi", "t5"])
def test_biases_of_the_distance_are_those_of_the_last_queries(kind: str) -> None:
    stack, x = stack_of(), draw(B, N, D)
    learned = RelativeBias(H, bidirectional=False).double()
    torch.nn.init.normal_(learned.embedding.weight)
    bias = partial(alibi_bias, H) if kind == "alibi" else learned
    expected = stack(x, mask=causal_mask(N), score_bias=bias(N, N)).hidden_states
    cache, found = KeyValueCache(3), []
    for part in x.split([4, 1, 2], dim=1):
        new, end = part.shape[1], cache.length + part.shape[1]
        options = {"mask": causal_mask(new, end), "score_bias": bias(new, end), "cache": cache}
        found.append(stack(part, **options).hidden_states)
    torch.testing.assert_close(torch.cat(found, dim=1), expected, **CLOSE)


@pytest.mark.parametrize(
    "make", [SinusoidalEncoding, partial(LearnedPositions, N)], ids=["sinusoidal", "learned"]
)
def test_absolute_positions_go_on_at_an_offset(make: Any) -> None:
    encoding, x = make(d_model=D).double(), draw(B, N, D)
    parts = [encoding(x[:, start : start + 2], start) for start in range(0, N, 2)]
    torch.testing.assert_close(torch.cat(parts, dim=1), encoding(x), **CLOSE)


def test_weights_run_over_all_keys_kept() -> None:
    torch.manual_seed(1)
    layer, cache, x = MultiHeadAttention(D, H).double(), AttentionCache(), draw(B, N, D)
    layer(x[:, :-1], cache=cache)
    output, weights = layer(x[:, -1:], cache=cache, return_weights=True)
    whole, expected = layer(x, return_weights=True)
    assert weights.shape == (B, H, 1, N)
    torch.testing.assert_close(weights, expected[:, :, -1:], **CLOSE)
    torch.testing.assert_close(output, whole[:, -1:], **CLOSE)


def test_gradients_flow_through_the_cache() -> None:
    torch.manual_seed(1)
    layer, x = MultiHeadAttention(D, H).double(), draw(B, N, D).requires_grad_()
    cache = AttentionCache()
    layer(x[:, :-1], cache=cache)
    stepped = layer(x[:, -1:], cache=cache)
    found, expected = (torch.autograd.grad(out.sum(), x)[0] for out in (stepped, layer(x)[:, -1:]))
    torch.testing.assert_close(found, expected, **CLOSE)


def test_a_context_is_projected_once() -> None:
    torch.manual_seed(1)
    layer, cache = MultiHeadAttention(D, H).double(), AttentionCache()
    x, context = draw(B, N, D), draw(B, K, D, seed=1)
    calls: list[int] = []
    layer.key.register_forward_hook(lambda *given: calls.append(1))
    found = torch.cat([layer(x[:, i : i + 1], context, cache=cache) for i in range(N)], dim=1)
    assert len(calls) == 1 and cache.length == K
    torch.testing.assert_close(found, layer(x, context), **CLOSE)
    with pytest.raises(ValueError, match="holds 5 positions of a context, but this one has 4"):
        layer(x, context[:, :4], cache=cache)


@pytest.mark.parametrize("context", [True, False])
def test_reorder_takes_rows_of_every_part(context: bool) -> None:
    stack, cache = stack_of(cross_attention=True, num_kv_heads=2), KeyValueCache(3)
    stack(draw(B, N, D), draw(B, K, D, seed=1), cache=cache)
    parts = [part for block in cache.blocks for part in (block.attention, block.cross_attention)]
    before = [(part.key, part.value) for part in parts]
    cache.reorder(torch.tensor([1, 1, 0]), context=context)
    for place, (part, (key, value)) in enumerate(zip(parts, before, strict=True)):
        assert key is not None and value is not None and part.key is not None and part.value is not None
        kept = not context and place % 2 == 1
        assert torch.equal(part.key, key if kept else key[[1, 1, 0]])
        assert torch.equal(part.value, value if kept else value[[1, 1, 0]])


def test_what_a_cache_holds_and_costs() -> None:
    cache = KeyValueCache(3)
    assert (cache.length, cache.num_bytes) == (0, 0)
    cache.reorder(torch.tensor([0]))  # nothing to move
    stack_of(num_kv_heads=2, cross_attention=True)(draw(B, N, D), draw(B, K, D), cache=cache)
    assert cache.length == N
    assert cache.num_bytes == 3 * 2 * B * 2 * (N + K) * (D // H) * 8


def test_mistakes_are_named() -> None:
    stack, x = stack_of(), draw(B, N, D)
    with pytest.raises(ValueError, match="the cache has 2 layers; expected 3"):
        stack(x, cache=KeyValueCache(2))
    cache = KeyValueCache(3)
    stack(x, cache=cache)
    with pytest.raises(ValueError, match="the cache holds 2 sequences, but 1 were given"):
        stack(x[:1], cache=cache)
    with pytest.raises(ValueError, match=r"does not broadcast to \(2, 4, 1, 8\)"):
        stack(x[:, :1], mask=causal_mask(1, 3), cache=cache)
