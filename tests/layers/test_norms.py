"""LayerNorm and RMSNorm. Oracles: `nn.LayerNorm`, `nn.RMSNorm`, and autograd for the backward by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from course_lib.layers.norms import LayerNorm, RMSNorm, layer_norm, layer_norm_backward, rms_norm

CLOSE: dict[torch.dtype, dict[str, Any]] = {
    torch.float32: {"atol": 1e-6, "rtol": 1e-6},
    torch.float64: {"atol": 1e-12, "rtol": 1e-12},
    # torch multiplies by the weight before it rounds, Llama after; ours is torch's order.
    torch.bfloat16: {"atol": 1e-2, "rtol": 1e-2},
}
SHAPES = [(7,), (3, 1), (2, 5, 16), (2, 3, 4, 33)]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
each_dtype = pytest.mark.parametrize("dtype", CLOSE, ids=str)


def draw(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens with a large mean, a weight and a bias."""
    generator = torch.Generator().manual_seed(len(shape))
    hidden_states = torch.randn(shape, generator=generator) * 2 + 3
    weight, bias = (torch.randn(shape[-1:], generator=generator) for _ in range(2))
    return hidden_states.to(dtype).requires_grad_(), weight.to(dtype), bias.to(dtype)


def gradients(output: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    direction = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)
    return torch.autograd.grad((output * direction).sum(), inputs)


def pair(kind: str, width: int, dtype: torch.dtype, bias: bool = True) -> tuple[Any, Any]:
    """Ours and torch's with the same random weights."""
    ours: Any = LayerNorm(width, 1e-5, bias) if kind == "layer" else RMSNorm(width, 1e-6)
    theirs: Any = (
        nn.LayerNorm(width, 1e-5, bias=bias, dtype=dtype)
        if kind == "layer"
        else nn.RMSNorm(width, 1e-6, dtype=dtype)
    )
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    ours.to(dtype).load_state_dict(theirs.state_dict())
    return ours, theirs


@each_shape
@each_dtype
@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_a_module_and_its_gradients_equal_torchs_own(
    shape: tuple[int, ...], dtype: torch.dtype, kind: str
) -> None:
    hidden_states, _, _ = draw(shape, dtype)
    ours, theirs = pair(kind, shape[-1], dtype)
    one, other = ours(hidden_states), theirs(hidden_states)
    assert one.dtype == dtype
    torch.testing.assert_close(one, other, **CLOSE[dtype])
    for mine, its in zip(
        gradients(one, [hidden_states, *ours.parameters()]),
        gradients(other, [hidden_states, *theirs.parameters()]),
        strict=True,
    ):
        torch.testing.assert_close(mine, its, **CLOSE[dtype])


@each_shape
@each_dtype
def test_the_functions_by_hand_equal_torchs_own(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    hidden_states, weight, bias = draw(shape, dtype)
    for ours, theirs in (
        (
            layer_norm(hidden_states, weight, bias),
            F.layer_norm(hidden_states, shape[-1:], weight, bias),
        ),
        (layer_norm(hidden_states), F.layer_norm(hidden_states, shape[-1:])),
        (rms_norm(hidden_states, weight), F.rms_norm(hidden_states, shape[-1:], weight, 1e-6)),
        (rms_norm(hidden_states), F.rms_norm(hidden_states, shape[-1:], None, 1e-6)),
    ):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours, theirs, **CLOSE[dtype])


def test_layer_norm_without_a_bias_has_none() -> None:
    ours, theirs = pair("layer", 6, torch.float32, bias=False)
    assert [name for name, _ in ours.named_parameters()] == ["weight"]
    torch.testing.assert_close(ours(torch.ones(2, 6)), theirs(torch.ones(2, 6)))


@pytest.mark.parametrize("shape", [(5,), (4, 6), (2, 3, 7)], ids=str)
@pytest.mark.parametrize("eps", [1e-5, 0.3])
def test_the_backward_by_hand_equals_autograd(shape: tuple[int, ...], eps: float) -> None:
    hidden_states, weight, bias = draw(shape, torch.float64)
    weight.requires_grad_(), bias.requires_grad_()
    output = layer_norm(hidden_states, weight, bias, eps)
    direction = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).reshape(shape)
    expected = gradients(output, [hidden_states, weight, bias])
    with torch.no_grad():
        found = layer_norm_backward(direction, hidden_states, weight, eps)
    for mine, its in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, its, atol=1e-12, rtol=1e-10)


def test_layer_norm_passes_a_finite_difference_check() -> None:
    hidden_states, weight, bias = draw((3, 5), torch.float64)
    assert torch.autograd.gradcheck(
        layer_norm, (hidden_states, weight.requires_grad_(), bias.requires_grad_())
    )


def test_the_gradient_through_layer_norm_cannot_shift_or_stretch_a_token() -> None:
    hidden_states, weight, _ = draw((4, 9), torch.float64)
    upstream = torch.randn(4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    found, _, _ = layer_norm_backward(upstream, hidden_states, weight, eps=0.0)
    zero = torch.zeros(4, dtype=torch.float64)
    torch.testing.assert_close(found.sum(-1), zero, atol=1e-12, rtol=0)
    torch.testing.assert_close((found * hidden_states).sum(-1), zero, atol=1e-12, rtol=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.floats(0.1, 50), st.floats(-50, 50), st.integers(0, 2**31))
def test_layer_norm_forgets_shift_and_scale_and_rms_norm_scale_alone(
    width: int, factor: float, shift: float, seed: int
) -> None:
    hidden_states = torch.randn(3, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    close: dict[str, Any] = {"atol": 1e-8, "rtol": 1e-6}
    torch.testing.assert_close(
        layer_norm(factor * hidden_states + shift, eps=0.0), layer_norm(hidden_states, eps=0.0), **close
    )
    torch.testing.assert_close(
        rms_norm(factor * hidden_states, eps=0.0), rms_norm(hidden_states, eps=0.0), **close
    )
    centred = hidden_states - hidden_states.mean(-1, keepdim=True)
    torch.testing.assert_close(rms_norm(centred, eps=0.0), layer_norm(hidden_states, eps=0.0), **close)


def test_a_token_of_equal_numbers_gives_the_bias_and_finite_gradients() -> None:
    hidden_states = torch.full((2, 4), 3.0, requires_grad=True)
    bias = torch.arange(4.0)
    output = layer_norm(hidden_states, torch.ones(4), bias)
    torch.testing.assert_close(output, bias.expand(2, 4))
    assert gradients(output, [hidden_states])[0].isfinite().all()
    assert (rms_norm(torch.zeros(2, 4)) == 0).all()


def test_large_half_precision_tokens_do_not_overflow() -> None:
    hidden_states = torch.full((1, 8), 300.0, dtype=torch.float16)
    assert (hidden_states * hidden_states).isinf().all(), "the squares do"
    torch.testing.assert_close(rms_norm(hidden_states), torch.ones(1, 8, dtype=torch.float16))
    assert layer_norm(hidden_states).isfinite().all()


def test_a_weight_of_another_width_is_named() -> None:
    with pytest.raises(ValueError, match=r"weight has shape \(1,\); expected \(4,\)"):
        layer_norm(torch.zeros(2, 4), torch.ones(1))
    with pytest.raises(ValueError, match=r"bias has shape \(3,\)"):
        layer_norm(torch.zeros(2, 4), torch.ones(4), torch.zeros(3))
    with pytest.raises(ValueError, match=r"expected \(4,\)"):
        rms_norm(torch.zeros(2, 4), torch.ones(2, 4))
