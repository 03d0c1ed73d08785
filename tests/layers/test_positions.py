"""Positional encodings. Oracles: `transformers`' Llama, NeoX, GPT-J, T5, BLOOM, XLNet; the papers' sums."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from course_lib.layers.masks import causal_mask
from course_lib.layers.multi_head import MultiHeadAttention
from course_lib.layers.positions import (
    LearnedPositions,
    SinusoidalEncoding,
    binary_code,
    integer_code,
    shift_matrix,
    sinusoidal_table,
    unit_interval_code,
)
from course_lib.layers.relative import (
    RelativeBias,
    ShawAttention,
    TransformerXLAttention,
    alibi_bias,
    alibi_slopes,
    distance_table,
    relative_bucket,
    relative_positions,
)
from course_lib.layers.rotary import Layout, Rotary, convert_layout

EXACT: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-5}
LAYOUTS: tuple[Layout, ...] = ("half", "interleaved")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- absolute positions -------------------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(1, 12), st.sampled_from([100.0, 10000.0]))
@settings(max_examples=30, deadline=None)
def test_the_table_is_the_papers_formula(n: int, pairs: int, base: float) -> None:
    table = sinusoidal_table(n, 2 * pairs, base)
    assert table.shape == (n, 2 * pairs) and table.dtype == torch.float32
    for position in range(n):
        for i in range(pairs):
            angle = position / base ** (2 * i / (2 * pairs))
            assert table[position, 2 * i] == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[position, 2 * i + 1] == pytest.approx(math.cos(angle), abs=1e-6)


@given(st.integers(-300, 300), st.integers(1, 16), st.sampled_from([50.0, 10000.0]))
@settings(max_examples=40, deadline=None)
def test_one_matrix_moves_every_position(offset: int, pairs: int, base: float) -> None:
    table = sinusoidal_table(700, 2 * pairs, base)
    rows = torch.arange(max(0, -offset), 700 - max(0, offset))
    moved = table[rows] @ shift_matrix(offset, 2 * pairs, base).T
    torch.testing.assert_close(moved, table[rows + offset], **EXACT)


def test_shifts_add_up_and_lose_nothing() -> None:
    torch.testing.assert_close(shift_matrix(3, 8) @ shift_matrix(4, 8), shift_matrix(7, 8))
    torch.testing.assert_close(shift_matrix(5, 8).T, shift_matrix(-5, 8))


def test_the_encoding_adds_the_table_to_scaled_words() -> None:
    words = draw(2, 5, 16)
    table = sinusoidal_table(9, 16)
    torch.testing.assert_close(SinusoidalEncoding(16)(words), 4 * words + table[:5])
    torch.testing.assert_close(SinusoidalEncoding(16, scale=1.0)(words, offset=4), words + table[4:])
    assert SinusoidalEncoding(16)(words.bfloat16()).dtype == torch.bfloat16


def test_learned_positions_train_the_rows_that_are_read_and_have_an_end() -> None:
    layer = LearnedPositions(6, 4)
    layer(draw(2, 2, 4), offset=3).sum().backward()
    assert layer.embedding.weight.grad is not None
    assert layer.embedding.weight.grad[:, 0].tolist() == [0, 0, 0, 2, 2, 0]
    with pytest.raises(ValueError, match="position 6 was asked for"):
        layer(draw(1, 4, 4), offset=3)


@pytest.mark.parametrize("n", [1, 2, 5, 16])
def test_simple_codes_hold_their_position(n: int) -> None:
    digits = binary_code(n, 4)
    assert (digits @ torch.tensor([1.0, 2.0, 4.0, 8.0])).tolist() == list(range(n))
    assert integer_code(n)[:, 0].tolist() == list(range(n))
    assert unit_interval_code(n).max() == (1 if n > 1 else 0)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: sinusoidal_table(3, 5), "d_model=5 is odd"),
        (lambda: SinusoidalEncoding(5), "d_model=5 is odd"),
        (lambda: binary_code(9, 3), "3 bits count to 8"),
        (lambda: Rotary(7), "d_head=7 is odd"),
        (lambda: Rotary(8, layout="pairs"), "layout='pairs'"),  # type: ignore[arg-type]
        (lambda: Rotary(8)(draw(3, 6), torch.arange(3)), "x has width 6"),
        (lambda: convert_layout(draw(12, 4), 4, "half"), "12 rows"),
        (lambda: convert_layout(draw(16, 4), 4, "other"), "layout='other'"),  # type: ignore[arg-type]
        (lambda: relative_bucket(torch.arange(3), 7), "num_buckets=7 is odd"),
        (lambda: relative_bucket(torch.arange(3), 32, 8), "max_distance=8"),
        (lambda: alibi_slopes(0), "num_heads=0"),
    ],
)
def test_a_mistake_is_named(call: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        call()


# --- rotary -------------------------------------------------------------------------------------------


def llama(query: Tensor, key: Tensor, positions: Tensor, base: float) -> tuple[Tensor, Tensor]:
    pytest.importorskip("transformers")
    from transformers import LlamaConfig
    from transformers.models.llama import modeling_llama

    d_head = query.shape[-1]
    config = LlamaConfig(
        hidden_size=d_head,
        num_attention_heads=1,
        rope_parameters={"rope_type": "default", "rope_theta": base},
    )
    cos, sin = modeling_llama.LlamaRotaryEmbedding(config)(query, positions[None])
    rotated: tuple[Tensor, Tensor] = modeling_llama.apply_rotary_pos_emb(query, key, cos, sin)
    return rotated


@pytest.mark.parametrize("d_head", [2, 16, 64])
@pytest.mark.parametrize("base", [10000.0, 500000.0])
def test_the_half_layout_is_llamas(d_head: int, base: float) -> None:
    query, key = draw(2, 3, 40, d_head, seed=1), draw(2, 3, 40, d_head, seed=2)
    positions = torch.randint(0, 2000, (40,), generator=torch.Generator().manual_seed(3))
    rotary = Rotary(d_head, base)
    for ours, theirs in zip(
        (rotary(query, positions), rotary(key, positions)), llama(query, key, positions, base), strict=True
    ):
        torch.testing.assert_close(ours, theirs, **EXACT)


def test_the_half_layout_is_gpt_neoxs() -> None:
    pytest.importorskip("transformers")
    from transformers import GPTNeoXConfig
    from transformers.models.gpt_neox import modeling_gpt_neox

    config = GPTNeoXConfig(
        hidden_size=32,
        num_attention_heads=2,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
    )
    query, key = draw(2, 2, 9, 16, seed=1), draw(2, 2, 9, 16, seed=2)
    positions = torch.arange(9)
    cos, sin = modeling_gpt_neox.GPTNeoXRotaryEmbedding(config)(query, positions[None])
    theirs = modeling_gpt_neox.apply_rotary_pos_emb(query, key, cos, sin)
    rotary = Rotary(16)
    torch.testing.assert_close(rotary(query, positions), theirs[0], **EXACT)
    torch.testing.assert_close(rotary(key, positions), theirs[1], **EXACT)


@pytest.mark.parametrize("d_head", [2, 16, 64])
def test_the_interleaved_layout_is_gpt_js(d_head: int) -> None:
    pytest.importorskip("transformers")
    from transformers.models.gptj import modeling_gptj

    x, positions = draw(2, 3, 30, d_head), torch.arange(500, 530)
    sin, cos = modeling_gptj.create_sinusoidal_positions(530, d_head)[positions][None].chunk(2, dim=-1)
    theirs = modeling_gptj.apply_rotary_pos_emb(x.transpose(1, 2), sin, cos).transpose(1, 2)  # (b, n, h, d)
    torch.testing.assert_close(Rotary(d_head, layout="interleaved")(x, positions), theirs, **EXACT)


@given(st.integers(0, 400), st.integers(0, 400), st.integers(-200, 200), st.sampled_from(LAYOUTS))
@settings(max_examples=40, deadline=None)
def test_a_score_depends_on_the_distance_alone(at: int, other: int, shift: int, layout: Layout) -> None:
    rotary = Rotary(16, layout=layout)
    query, key = draw(1, 16, seed=1), draw(1, 16, seed=2)
    shift = max(shift, -min(at, other))

    def score(query_at: int, key_at: int) -> Tensor:
        return rotary(query, torch.tensor([query_at])) @ rotary(key, torch.tensor([key_at])).T

    torch.testing.assert_close(score(at, other), score(at + shift, other + shift), atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_turning_keeps_lengths_and_the_first_position(layout: Layout) -> None:
    rotary, x = Rotary(8, layout=layout), draw(2, 3, 5, 8)
    torch.testing.assert_close(rotary.rotate(x).norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(rotary.rotate(x)[..., 0, :], x[..., 0, :])
    torch.testing.assert_close(rotary.rotate(x, offset=7), rotary(x, torch.arange(7, 12)))
    each = torch.stack([torch.arange(5), torch.arange(3, 8)])[:, None]  # (b, 1, n)
    torch.testing.assert_close(rotary(x, each)[1], rotary(x[1], each[1]))
    assert rotary.rotate(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("to", LAYOUTS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("num_kv_heads", [4, 2])
def test_converted_projections_give_the_same_layer(to: Layout, bias: bool, num_kv_heads: int) -> None:
    torch.manual_seed(0)
    first = MultiHeadAttention(32, 4, num_kv_heads, bias=bias)
    second = MultiHeadAttention(32, 4, num_kv_heads, bias=bias)
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        for part, heads in ((second.query, 4), (second.key, num_kv_heads)):
            for parameter in part.parameters():
                parameter.copy_(convert_layout(parameter, heads, to))
    before: Layout = "interleaved" if to == "half" else "half"
    x, mask = draw(2, 7, 32), causal_mask(7)
    ours = first(x, mask=mask, rotate=Rotary(8, layout=before).rotate)
    theirs = second(x, mask=mask, rotate=Rotary(8, layout=to).rotate)
    torch.testing.assert_close(ours, theirs, **EXACT)
    unconverted = first(x, mask=mask, rotate=Rotary(8, layout=to).rotate)
    assert (unconverted - ours).abs().max() > 1e-2


def test_converting_there_and_back_changes_nothing() -> None:
    weight = draw(24, 5)
    torch.testing.assert_close(
        convert_layout(convert_layout(weight, 3, "interleaved"), 3, "half"), weight, rtol=0, atol=0
    )


# --- biases -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (8, 20), (64, 512), (4, 3), (32, 17)])
def test_buckets_are_t5s(bidirectional: bool, num_buckets: int, max_distance: int) -> None:
    pytest.importorskip("transformers")
    from transformers.models.t5.modeling_t5 import T5Attention

    relative = torch.arange(-700, 701).reshape(3, 467)
    if num_buckets == 4 and not bidirectional:
        max_distance = 5
    theirs = T5Attention._relative_position_bucket(relative, bidirectional, num_buckets, max_distance)
    ours = relative_bucket(relative, num_buckets, max_distance, bidirectional)
    assert torch.equal(ours, theirs)


def test_the_relative_bias_is_t5s_and_learns_a_number_a_bucket() -> None:
    pytest.importorskip("transformers")
    from transformers import T5Config
    from transformers.models.t5.modeling_t5 import T5Attention

    config = T5Config(d_model=16, d_kv=4, num_heads=4, is_decoder=False)
    theirs = T5Attention(config, has_relative_attention_bias=True, layer_idx=0)
    ours = RelativeBias(4)
    with torch.no_grad():
        ours.embedding.weight.copy_(draw(32, 4))
        theirs.relative_attention_bias.weight.copy_(ours.embedding.weight)
    torch.testing.assert_close(ours(9, 9), theirs.compute_bias(9, 9))
    torch.testing.assert_close(ours(2, 9), ours(9, 9)[:, :, -2:])
    ours(3, 3).sum().backward()
    assert ours.embedding.weight.grad is not None
    assert ours.embedding.weight.grad[:, 0].nonzero().flatten().tolist() == [0, 1, 2, 17, 18]


@pytest.mark.parametrize("num_heads", [1, 2, 3, 4, 5, 6, 8, 12, 16, 20, 71])
def test_alibi_is_blooms_but_for_what_is_the_same_along_a_row(num_heads: int) -> None:
    pytest.importorskip("transformers")
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    n = 11
    theirs = build_alibi_tensor(torch.ones(1, n, dtype=torch.long), num_heads, torch.float32)  # (h, 1, k)
    ours, seen = alibi_bias(num_heads, n), causal_mask(n)
    of_own_key = theirs.mT  # slope · query's position
    torch.testing.assert_close(
        ours.masked_fill(~seen, 0), (theirs - of_own_key).masked_fill(~seen, 0), **EXACT
    )
    scores = draw(num_heads, n, n)
    torch.testing.assert_close(
        (scores + ours).masked_fill(~seen, -math.inf).softmax(-1),
        (scores + theirs).masked_fill(~seen, -math.inf).softmax(-1),
        **EXACT,
    )


def test_queries_are_the_last_positions() -> None:
    torch.testing.assert_close(alibi_bias(6, 2, 7), alibi_bias(6, 7)[:, -2:])
    assert relative_positions(1, 4).tolist() == [[-3, -2, -1, 0]]


# --- Shaw and Transformer-XL --------------------------------------------------------------------------


def heads_of(layer: Any, x: Tensor, name: str) -> Tensor:
    projected: Tensor = getattr(layer, name)(x)
    return projected.unflatten(-1, (layer.num_heads, -1)).transpose(1, 2)


@pytest.mark.parametrize("mask", [None, causal_mask(6)], ids=["all", "causal"])
def test_shaws_sums_written_as_loops(mask: Tensor | None) -> None:
    torch.manual_seed(0)
    layer, x = ShawAttention(8, 2, max_distance=2), draw(2, 6, 8)
    query, key, value = (heads_of(layer, x, name) for name in ("query", "key", "value"))
    output = torch.zeros(2, 2, 6, 4)
    for b, h, i in torch.cartesian_prod(torch.arange(2), torch.arange(2), torch.arange(6)).tolist():
        seen = [j for j in range(6) if mask is None or mask[i, j]]
        row = {j: min(max(j - i, -2), 2) + 2 for j in seen}
        scores = [query[b, h, i] @ (key[b, h, j] + layer.key_distances[row[j]]) / 2 for j in seen]
        weights = torch.stack(scores).softmax(0)
        for weight, j in zip(weights, seen, strict=True):
            output[b, h, i] += weight * (value[b, h, j] + layer.value_distances[row[j]])
    expected = layer.output(output.transpose(1, 2).flatten(2))
    torch.testing.assert_close(layer(x, mask), expected, **EXACT)


@pytest.mark.parametrize("mask", [None, causal_mask(5)], ids=["all", "causal"])
def test_the_four_terms_of_transformer_xl_written_as_loops(mask: Tensor | None) -> None:
    torch.manual_seed(0)
    layer, x = TransformerXLAttention(8, 2), draw(1, 5, 8)
    with torch.no_grad():
        layer.content_bias.normal_()
        layer.position_bias.normal_()
    query, key, value = (heads_of(layer, x, name)[0] for name in ("query", "key", "value"))
    output = torch.zeros(2, 5, 4)
    for h, i in torch.cartesian_prod(torch.arange(2), torch.arange(5)).tolist():
        seen = [j for j in range(5) if mask is None or mask[i, j]]
        scores = []
        for j in seen:
            angles = (i - j) / 10000.0 ** (torch.arange(0, 8, 2) / 8)
            distance = layer.distance(torch.cat([angles.sin(), angles.cos()])).unflatten(-1, (2, 4))[h]
            q, u, v = query[h, i], layer.content_bias[h, 0], layer.position_bias[h, 0]
            scores.append((q @ key[h, j] + q @ distance + u @ key[h, j] + v @ distance) / 2)
        output[h, i] = torch.stack(scores).softmax(0) @ value[h, seen]
    expected = layer.output(output.transpose(0, 1).flatten(1))[None]
    torch.testing.assert_close(layer(x, mask), expected, **EXACT)


def test_transformer_xls_scores_are_xlnets() -> None:
    pytest.importorskip("transformers")
    from transformers import XLNetConfig
    from transformers.models.xlnet.modeling_xlnet import XLNetRelativeAttention

    torch.manual_seed(0)
    ours, x = TransformerXLAttention(8, 2), draw(2, 6, 8)
    theirs = XLNetRelativeAttention(XLNetConfig(d_model=8, n_head=2, dropout=0.0)).eval()
    with torch.no_grad():
        ours.content_bias.normal_()
        ours.position_bias.normal_()
        theirs.r_w_bias.copy_(ours.content_bias[:, 0])
        theirs.r_r_bias.copy_(ours.position_bias[:, 0])

    def of(projected: Tensor) -> Tensor:  # (n, b, h, d)
        return projected.transpose(0, 1).unflatten(-1, (2, 4))

    # XLNet counts distances down from the farthest earlier key, with one row more for its shift.
    table = distance_table(7, 8).flip(0)[:-1].expand(2, -1, -1)
    parts = [of(project(x)) for project in (ours.query, ours.key, ours.value)]
    heads: Any = theirs.rel_attn_core(parts[0], parts[1], parts[2], of(ours.distance(table)))  # (n, b, h, d)
    torch.testing.assert_close(ours(x), ours.output(heads.flatten(2).transpose(0, 1)), **EXACT)


@pytest.mark.parametrize("make", [lambda: ShawAttention(8, 2, 3), lambda: TransformerXLAttention(8, 2)])
def test_a_query_that_sees_no_key_gives_the_output_of_zeros(make: Any) -> None:
    layer = make()
    mask = causal_mask(4)
    mask[2] = False
    output = layer(draw(1, 4, 8), mask)
    output.sum().backward()
    torch.testing.assert_close(output[0, 2], layer.output.bias)
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in layer.parameters())


def test_positions_break_the_equivariance_that_attention_has_without_them() -> None:
    torch.manual_seed(0)
    attention, x, order = MultiHeadAttention(16, 2), draw(1, 6, 16), torch.randperm(6)
    torch.testing.assert_close(attention(x[:, order]), attention(x)[:, order], **EXACT)
    for arguments in ({"rotate": Rotary(8).rotate}, {"score_bias": alibi_bias(2, 6)}):
        moved = attention(x[:, order], **arguments) - attention(x, **arguments)[:, order]
        assert moved.abs().max() > 1e-3
