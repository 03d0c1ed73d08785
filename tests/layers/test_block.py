"""The feed-forward layer, the block and the stack.

Oracles: `nn.TransformerEncoderLayer`, `nn.TransformerDecoderLayer`, `nn.TransformerEncoder`,
`nn.TransformerDecoder`; the layers of Llama, BERT and GPT-2 in `transformers`; and for ResiDual the paper's
equations, written out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from course_lib.layers.block import BlockConfig, Order, TransformerBlock, TransformerStack
from course_lib.layers.feed_forward import FeedForward, gated_width
from course_lib.layers.masks import causal_mask, padding_mask
from course_lib.layers.norms import layer_norm, rms_norm
from course_lib.layers.rotary import Rotary

B, H, Q, K, D, D_FF = 2, 4, 5, 7, 16, 24
SMALL: dict[str, Any] = {"atol": 1e-6, "rtol": 1e-6}
CONFIG = BlockConfig(d_model=D, num_heads=H, d_ff=D_FF)
ORDERS: tuple[Order, ...] = ("pre", "post", "residual_dual")
each_order = pytest.mark.parametrize("order", ORDERS)
each_norm_first = pytest.mark.parametrize("norm_first", [False, True], ids=["post", "pre"])


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).requires_grad_()


def shaken(module: Any) -> Any:
    """The module with all parameters drawn anew, so that norms and biases matter."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator) + (parameter.dim() == 1))
    return module


def gradients(output: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    direction = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)
    return list(torch.autograd.grad((output * direction).sum(), inputs))


def torchs(kind: str, **options: Any) -> Any:
    layer = {"encoder": nn.TransformerEncoderLayer, "decoder": nn.TransformerDecoderLayer}[kind]
    return shaken(layer(D, H, D_FF, batch_first=True, dtype=torch.float64, **{"dropout": 0.0} | options))


# --- feed-forward ---------------------------------------------------------------------------------------


class Squared(nn.Module):
    """What is positive, squared."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x * x, 0.0)


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("relu", nn.ReLU()),
        ("gelu", nn.GELU()),
        ("gelu_tanh", nn.GELU(approximate="tanh")),
        ("relu2", Squared()),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_a_feed_forward_layer_equals_two_linear_layers_with_a_function_between(
    activation: Any, function: nn.Module, bias: bool
) -> None:
    ours = shaken(FeedForward(D, D_FF, activation, bias=bias)).double()
    theirs = nn.Sequential(ours.up, function, ours.down)
    torch.testing.assert_close(ours(draw(B, Q, D)), theirs(draw(B, Q, D)), **SMALL)


def test_swiglu_by_the_papers_formula() -> None:
    ours = shaken(FeedForward(D, D_FF, "swiglu", bias=False)).double()
    x = draw(B, Q, D)
    gate, up = x @ ours.gate.weight.T, x @ ours.up.weight.T
    torch.testing.assert_close(ours(x), (gate * torch.sigmoid(gate) * up) @ ours.down.weight.T, **SMALL)


def test_swiglu_equals_that_of_transformers() -> None:
    pytest.importorskip("transformers")
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaMLP

    theirs = LlamaMLP(LlamaConfig(hidden_size=D, intermediate_size=D_FF, num_attention_heads=H)).double()
    ours = FeedForward(D, D_FF, "swiglu", bias=False).double()
    ours.load_state_dict({name.replace("_proj", ""): value for name, value in theirs.state_dict().items()})
    torch.testing.assert_close(ours(draw(B, Q, D)), theirs(draw(B, Q, D)), **SMALL)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 400))
def test_a_gated_layer_of_two_thirds_the_width_has_as_many_weights(d_model: int, d_ff: int) -> None:
    plain = parameters(FeedForward(d_model, d_ff, "relu", bias=False))
    gated = parameters(FeedForward(d_model, gated_width(d_ff), "swiglu", bias=False))
    assert abs(plain - gated) <= 3 * d_model
    assert gated_width(d_ff, 8) % 8 == 0 and 3 * gated_width(d_ff, 8) >= 2 * d_ff > 3 * (
        gated_width(d_ff, 8) - 8
    )


def test_an_unknown_activation_is_named() -> None:
    with pytest.raises(ValueError, match="activation='tanh'; expected one of relu, relu2, gelu"):
        FeedForward(D, D_FF, "tanh")  # type: ignore[arg-type]


# --- the block against torch's layers -------------------------------------------------------------------


@each_norm_first
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_an_encoder_block_and_its_gradients_equal_torchs_own(
    norm_first: bool, activation: str, bias: bool
) -> None:
    theirs = torchs("encoder", norm_first=norm_first, activation=activation, bias=bias)
    ours = TransformerBlock.from_torch(theirs)
    x, hidden = draw(B, Q, D), ~padding_mask(torch.tensor([3, Q]))[:, 0, 0]
    one = ours(x, mask=~hidden[:, None, None, :]).hidden_states
    other = theirs(x, src_key_padding_mask=hidden)
    torch.testing.assert_close(one, other, **SMALL)
    mine = gradients(one, [x, ours.feed_forward.up.weight, ours.attention_norm.weight])
    its = gradients(other, [x, theirs.linear1.weight, theirs.norm1.weight])
    for left, right in zip(mine, its, strict=True):
        torch.testing.assert_close(left, right, **SMALL)


@each_norm_first
def test_a_decoder_block_and_its_gradients_equal_torchs_own(norm_first: bool) -> None:
    theirs = torchs("decoder", norm_first=norm_first)
    ours = TransformerBlock.from_torch(theirs)
    x, context = draw(B, Q, D), draw(B, K, D, seed=1)
    hidden = ~padding_mask(torch.tensor([4, K]))[:, 0, 0]
    one = ours(x, context, causal_mask(Q), ~hidden[:, None, None, :]).hidden_states
    other = theirs(x, context, tgt_mask=~causal_mask(Q), memory_key_padding_mask=hidden)
    torch.testing.assert_close(one, other, **SMALL)
    own = dict(ours.named_parameters())
    mine = gradients(one, [x, context, own["cross_attention.key.weight"], own["cross_norm.bias"]])
    its = gradients(other, [x, context, theirs.multihead_attn.in_proj_weight, theirs.norm2.bias])
    its[2] = its[2].chunk(3)[1]
    for left, right in zip(mine, its, strict=True):
        torch.testing.assert_close(left, right, **SMALL)


@each_norm_first
def test_float32_agrees_with_torchs_own_as_far_as_float32_goes(norm_first: bool) -> None:
    torch.manual_seed(2)
    theirs = nn.TransformerEncoderLayer(D, H, D_FF, dropout=0.0, batch_first=True, norm_first=norm_first)
    x = draw(B, Q, D, dtype=torch.float32)
    ours = TransformerBlock.from_torch(theirs)
    assert ours(x).hidden_states.dtype == torch.float32
    torch.testing.assert_close(ours(x).hidden_states, theirs(x), atol=5e-6, rtol=5e-6)


@each_norm_first
def test_dropout_falls_where_torchs_own_falls(norm_first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch's random numbers, and one sequence, so that both draw masks over equal layouts."""
    monkeypatch.setattr("course_lib.layers.dropout.drop", F.dropout)
    theirs = torchs("encoder", norm_first=norm_first, dropout=0.4)
    theirs.self_attn.dropout = 0.0
    ours, x = TransformerBlock.from_torch(theirs), draw(1, Q, D)
    torch.manual_seed(5)
    one = ours(x).hidden_states
    torch.manual_seed(5)
    torch.testing.assert_close(one, theirs(x), **SMALL)
    assert not torch.allclose(one, ours(x).hidden_states), "the next draw is another one"
    assert torch.equal(ours.eval()(x).hidden_states, ours(x).hidden_states)


def test_from_torch_copies_and_keeps_the_mode() -> None:
    theirs = torchs("encoder").eval()
    ours = TransformerBlock.from_torch(theirs)
    assert not ours.training and not ours.attention.training
    before = theirs.linear1.weight.clone()
    with torch.no_grad():
        ours.feed_forward.up.weight.zero_()
    torch.testing.assert_close(theirs.linear1.weight, before)
    with pytest.raises(ValueError, match="has no counterpart"):
        TransformerBlock.from_torch(torchs("encoder", activation=F.silu))


@each_norm_first
def test_a_stack_equals_torchs_encoder_and_decoder(norm_first: bool) -> None:
    x, context = draw(B, Q, D), draw(B, K, D, seed=1)
    for kind in ("encoder", "decoder"):
        layer = torchs(kind, norm_first=norm_first)
        norm = shaken(nn.LayerNorm(D, dtype=torch.float64)) if norm_first else None
        kinds = {"encoder": nn.TransformerEncoder, "decoder": nn.TransformerDecoder}
        options = {"enable_nested_tensor": False} if kind == "encoder" else {}
        theirs = shaken(kinds[kind](layer, 3, norm=norm, **options))
        config = replace(
            CONFIG,
            order="pre" if norm_first else "post",
            activation="relu",
            cross_attention=kind == "decoder",
        )
        ours = TransformerStack(config, 3).double()
        for index, its in enumerate(theirs.layers):
            ours.blocks[index] = TransformerBlock.from_torch(its)
        if norm is not None:
            assert ours.final_norm is not None
            ours.final_norm.load_state_dict(theirs.norm.state_dict())
        expected = theirs(x, context) if kind == "decoder" else theirs(x)
        found = ours(x, context if kind == "decoder" else None)
        torch.testing.assert_close(found.hidden_states, expected, **SMALL)
        assert len(found.blocks) == 3


# --- the block against the layers of transformers -------------------------------------------------------


SIZES: dict[str, Any] = {"hidden_size": D, "intermediate_size": D_FF, "num_attention_heads": H}
SIZES |= {"attn_implementation": "eager"}


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """The mask as transformers' layers take it: zeros and the smallest number, (1, 1, q, k)."""
    return torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)[None, None]


def load(ours: TransformerBlock, theirs: nn.Module, names: dict[str, str]) -> TransformerBlock:
    """Ours with the weights of theirs; `names` maps the beginnings of their names to ours."""
    state = {}
    for name, value in theirs.state_dict().items():
        start = next(start for start in names if name.startswith(f"{start}."))
        state[names[start] + name.removeprefix(start)] = value
    ours.load_state_dict(state)
    return ours


def test_a_llama_shaped_block_equals_that_of_transformers() -> None:
    pytest.importorskip("transformers")
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

    config = LlamaConfig(**SIZES, num_key_value_heads=2, rms_norm_eps=1e-6)
    theirs = shaken(LlamaDecoderLayer(config, 0)).eval()
    shape = replace(CONFIG, norm="rms", activation="swiglu", bias=False, num_kv_heads=2, eps=1e-6)
    parts = {"q": "query", "k": "key", "v": "value", "o": "output"}
    names = {f"self_attn.{one}_proj": f"attention.{other}" for one, other in parts.items()}
    names |= {f"mlp.{part}_proj": f"feed_forward.{part}" for part in ("gate", "up", "down")}
    names |= {"input_layernorm": "attention_norm", "post_attention_layernorm": "feed_forward_norm"}
    ours = load(TransformerBlock(shape), theirs, names)
    x, mask = draw(B, Q, D, dtype=torch.float32), causal_mask(Q)
    turned = LlamaRotaryEmbedding(config)(x, torch.arange(Q)[None])
    expected = theirs(x, attention_mask=additive(mask, x.dtype), position_embeddings=turned)
    found = ours(x, mask=mask, rotate=Rotary(D // H).rotate).hidden_states
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradients(found, [x])[0], gradients(expected, [x])[0], atol=1e-4, rtol=1e-4)


def test_a_bert_shaped_block_equals_that_of_transformers() -> None:
    pytest.importorskip("transformers")
    from transformers import BertConfig
    from transformers.models.bert.modeling_bert import BertLayer

    theirs = shaken(BertLayer(BertConfig(**SIZES))).double().eval()
    names = {f"attention.self.{part}": f"attention.{part}" for part in ("query", "key", "value")}
    names |= {"attention.output.dense": "attention.output", "attention.output.LayerNorm": "attention_norm"}
    names |= {"intermediate.dense": "feed_forward.up", "output.dense": "feed_forward.down"}
    names |= {"output.LayerNorm": "feed_forward_norm"}
    ours = load(TransformerBlock(replace(CONFIG, order="post", eps=1e-12)).double(), theirs, names)
    x = draw(B, Q, D)
    expected = theirs(x)
    expected = expected[0] if isinstance(expected, tuple) else expected
    torch.testing.assert_close(ours(x).hidden_states, expected, **SMALL)


def test_a_gpt2_shaped_block_equals_that_of_transformers() -> None:
    pytest.importorskip("transformers")
    from transformers import GPT2Config
    from transformers.models.gpt2.modeling_gpt2 import GPT2Block

    options: dict[str, Any] = {"n_embd": D, "n_head": H, "n_inner": D_FF, "attn_implementation": "eager"}
    config = GPT2Config(**options)
    theirs = shaken(GPT2Block(config, layer_idx=0)).double().eval()
    ours = TransformerBlock(replace(CONFIG, activation="gelu_tanh")).double()
    attention, feed_forward = ours.attention, ours.feed_forward
    packed = (attention.query, attention.key, attention.value)
    with torch.no_grad():  # GPT-2 keeps its matrices transposed, and the first three in one
        for layer, weight, bias in zip(
            packed, theirs.attn.c_attn.weight.chunk(3, 1), theirs.attn.c_attn.bias.chunk(3), strict=True
        ):
            layer.weight.copy_(weight.T), layer.bias.copy_(bias)
        for layer, its in (
            (attention.output, theirs.attn.c_proj),
            (feed_forward.up, theirs.mlp.c_fc),
            (feed_forward.down, theirs.mlp.c_proj),
        ):
            layer.weight.copy_(its.weight.T), layer.bias.copy_(its.bias)
    ours.attention_norm.load_state_dict(theirs.ln_1.state_dict())
    ours.feed_forward_norm.load_state_dict(theirs.ln_2.state_dict())
    x, mask = draw(B, Q, D), causal_mask(Q)
    expected = theirs(x, attention_mask=additive(mask, x.dtype))
    expected = expected[0] if isinstance(expected, tuple) else expected
    torch.testing.assert_close(ours(x, mask=mask).hidden_states, expected, **SMALL)


# --- what torch does not have ---------------------------------------------------------------------------


def norm_of(module: Any, x: Tensor) -> Tensor:
    if hasattr(module, "bias"):
        return layer_norm(x, module.weight, module.bias, module.eps)
    return rms_norm(x, module.weight, module.eps)


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_residual_dual_by_the_papers_equations(norm: Any) -> None:
    stack = shaken(TransformerStack(replace(CONFIG, norm=norm, order="residual_dual"), 3)).double()
    x = draw(B, Q, D)
    stream = dual = x
    for block in stack.blocks:
        for sublayer, its_norm in (
            (block.attention, block.attention_norm),
            (block.feed_forward, block.feed_forward_norm),
        ):
            change = sublayer(stream)
            stream, dual = norm_of(its_norm, stream + change), dual + change
    found = stack(x)
    torch.testing.assert_close(found.hidden_states, stream + norm_of(stack.final_norm, dual), **SMALL)
    torch.testing.assert_close(found.blocks[-1].dual, dual, **SMALL)


def test_a_llama_shaped_block_by_hand() -> None:
    config = replace(CONFIG, norm="rms", activation="swiglu", bias=False, num_kv_heads=2, eps=1e-6)
    block = shaken(TransformerBlock(config)).double()
    x, turn = draw(B, Q, D), torch.linalg.qr(draw(D // H, D // H, seed=4))[0]
    rotate = lambda heads: heads @ turn * torch.arange(1, Q + 1)[:, None]  # noqa: E731
    read = rms_norm(x, block.attention_norm.weight, 1e-6)
    stream = x + block.attention(read, mask=causal_mask(Q), rotate=rotate)
    expected = stream + block.feed_forward(rms_norm(stream, block.feed_forward_norm.weight, 1e-6))
    found = block(x, mask=causal_mask(Q), rotate=rotate)
    torch.testing.assert_close(found.hidden_states, expected, **SMALL)
    assert not any(name.endswith("bias") for name, _ in block.named_parameters())


@each_order
def test_the_weights_are_returned_and_change_nothing(order: Any) -> None:
    block = shaken(TransformerBlock(replace(CONFIG, order=order, cross_attention=True))).double()
    x, context = draw(B, Q, D), draw(B, K, D, seed=1)
    bias = draw(H, Q, Q, seed=2)
    plain = block(x, context, causal_mask(Q), score_bias=bias)
    shown = block(x, context, causal_mask(Q), score_bias=bias, return_weights=True)
    torch.testing.assert_close(plain.hidden_states, shown.hidden_states, **SMALL)
    assert plain.weights is None and plain.cross_weights is None
    assert shown.weights.shape == (B, H, Q, Q) and shown.cross_weights.shape == (B, H, Q, K)
    assert (shown.weights[..., ~causal_mask(Q)] == 0).all()
    without = block(x, context, causal_mask(Q)).hidden_states
    assert not torch.allclose(without, plain.hidden_states), "the score bias counts"


@each_order
def test_no_token_sees_its_future_through_a_causal_stack(order: Any) -> None:
    stack = shaken(TransformerStack(replace(CONFIG, order=order), 2)).double()
    x = draw(1, Q, D)
    changed = x.detach().clone()
    changed[:, 3:] *= -1
    before, after = (stack(given, mask=causal_mask(Q)).hidden_states for given in (x, changed))
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3:], after[:, 3:])


@each_order
def test_the_first_order_gradient_check_of_a_whole_block(order: Any) -> None:
    block = shaken(TransformerBlock(replace(CONFIG, d_model=8, num_heads=2, d_ff=6, order=order))).double()
    assert torch.autograd.gradcheck(lambda x: block(x).hidden_states, (draw(1, 3, 8),))


def test_only_pre_and_residual_dual_have_a_final_norm() -> None:
    found = {order: TransformerStack(replace(CONFIG, order=order), 1).final_norm for order in ORDERS}
    assert found["post"] is None and found["pre"] is not None and found["residual_dual"] is not None


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="order='sandwich'; expected one of pre, post, residual_dual"):
        replace(CONFIG, order="sandwich")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="norm='batch'"):
        replace(CONFIG, norm="batch")  # type: ignore[arg-type]
    x = torch.zeros(1, 2, D)
    with pytest.raises(ValueError, match="cross_attention=True"):
        TransformerBlock(CONFIG)(x, x)
    with pytest.raises(ValueError, match="give it a context"):
        TransformerBlock(replace(CONFIG, cross_attention=True))(x)
    with pytest.raises(ValueError, match="num_layers=0"):
        TransformerStack(CONFIG, 0)
