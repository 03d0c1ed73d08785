"""Four bits. Oracles: the table of the paper's appendix E, and quantisation written out value by value."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_lib.peft.quantize import (
    NF4Linear,
    QuantizedScales,
    dequantize,
    nf4_code_book,
    quantize,
    quantize_linears,
    quantize_scales,
)

# Dettmers et al. 2023, appendix E.
PAPER = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)


def test_the_code_book_is_that_of_the_paper() -> None:
    torch.testing.assert_close(nf4_code_book(), torch.tensor(PAPER), atol=1e-6, rtol=0)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.sampled_from([1, 7, 64]), st.integers(0, 1000))
def test_every_value_becomes_the_nearest_code_of_its_block(count: int, block: int, seed: int) -> None:
    values = torch.randn(count, generator=torch.Generator().manual_seed(seed))
    found = dequantize(quantize(values, block))
    assert found.shape == values.shape
    for first in range(0, count, block):
        piece = values[first : first + block]
        codes = nf4_code_book() * piece.abs().max()
        distance = (piece[:, None] - codes).abs().min(dim=1).values
        torch.testing.assert_close((found[first : first + block] - piece).abs(), distance, atol=1e-6, rtol=0)


@pytest.mark.parametrize("double", [False, True])
def test_shapes_zeros_and_extremes_survive(double: bool) -> None:
    torch.manual_seed(0)
    for shape in ((5,), (3, 7), (2, 3, 65), (1, 1)):
        values = torch.randn(shape)
        assert dequantize(quantize(values, double=double)).shape == values.shape
    assert (dequantize(quantize(torch.zeros(3, 64), double=double)) == 0).all()
    again = dequantize(quantize(torch.randn(64, 64)))
    torch.testing.assert_close(dequantize(quantize(again)), again)
    with pytest.raises(ValueError, match="not all finite"):
        quantize(torch.tensor([1.0, math.nan]))


def test_bits_a_value_are_those_of_the_paper() -> None:
    weights = torch.randn(512, 512)
    assert quantize(weights).bits == 4.5
    assert quantize(weights, double=True).bits == pytest.approx(4 + 8 / 64 + 32 / (64 * 256), abs=1e-3)


def test_the_error_is_small_on_normal_weights_and_double_quantisation_adds_little() -> None:
    weights = torch.randn(512, 512, generator=torch.Generator().manual_seed(0))

    def error(found: torch.Tensor) -> float:
        return float((found - weights).norm() / weights.norm())

    four = error(dequantize(quantize(weights)))
    assert 0.08 < four < 0.1
    assert error(dequantize(quantize(weights, double=True))) < 1.02 * four
    # Sixteen values of even distance, as int4 has them, do worse.
    even = torch.linspace(-1, 1, 16)
    blocks = weights.view(-1, 64)
    scales = blocks.abs().amax(dim=1, keepdim=True)
    nearest = even[((blocks / scales)[..., None] - even).abs().argmin(dim=-1)] * scales
    assert four < 0.95 * error(nearest.view_as(weights))


def test_scales_in_eight_bits_are_within_half_a_step() -> None:
    scales = torch.rand(600, generator=torch.Generator().manual_seed(0)) + 2
    kept = quantize_scales(scales)
    assert isinstance(kept, QuantizedScales) and kept.codes.dtype == torch.int8 and len(kept.steps) == 3
    steps = kept.steps.repeat_interleave(256)[:600]
    assert ((kept.values() - scales).abs() <= steps / 2 + 1e-6).all()


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_in_four_bits_reads_its_weight_and_passes_gradients_on(bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(96, 64, bias=bias)
    layer = NF4Linear(linear)
    x, same = (
        torch.randn(5, 96, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2)
    )
    whole = dequantize(quantize(linear.weight, double=True))
    expected = nn.functional.linear(same, whole, linear.bias)
    torch.testing.assert_close(layer(x), expected)
    layer(x).square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(x.grad, same.grad)
    assert not list(layer.parameters())
    stored = sum(values.nbytes for name, values in layer.state_dict().items() if name != "bias")
    assert stored < linear.weight.nbytes / 7


def test_the_chosen_layers_of_a_model_are_replaced() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8), nn.ReLU()), nn.Linear(8, 2))
    assert quantize_linears(model, "1.0", "2") == 2
    assert [type(model[0]), type(model[2])] == [nn.Linear, NF4Linear]
    assert quantize_linears(model) == 1 and not [m for m in model.modules() if isinstance(m, nn.Linear)]
