"""NF4. Oracles: the table of QLoRA's appendix E, `bitsandbytes`, and a plain linear layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from course_lib.peft.lora import LoRAConfig, add_adapter, merge, trainable_table
from course_lib.peft.quantize import (
    NF4Linear,
    QuantizedAbsmax,
    decode_blocks,
    dequantize,
    dequantize_absmax,
    dequantize_linears,
    encode_blocks,
    float8_code,
    nf4_code,
    quantization_error,
    quantize,
    quantize_absmax,
    quantize_linears,
)

# Dettmers et al. 2023, appendix E.
# fmt: off
PUBLISHED = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]
# fmt: on
SHAPES = [(32, 128), (30, 96), (3, 64), (7, 37), (1, 1), (5,)]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def theirs() -> Any:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is in the extra 'oracles'")
    import bitsandbytes.functional

    return bitsandbytes.functional


def test_nf4_is_the_published_table_to_the_last_bit_of_float32() -> None:
    assert torch.equal(nf4_code(), torch.tensor(PUBLISHED))


def test_nf4_uses_more_of_its_four_bits_than_even_steps_do_and_errs_less() -> None:
    values, even = torch.randn(128_000), torch.linspace(-1, 1, 16)
    entropies, errors = [], []
    for code in (nf4_code(), even):
        codes, absmax = encode_blocks(values, code, 64)
        shares = codes.long().bincount(minlength=16) / len(codes)
        entropies.append(-(shares * shares.log2()).sum())
        errors.append((decode_blocks(codes, absmax, code[:, None], 64, len(values)) - values).square().mean())
    assert entropies[0] > 3.8 > 3.65 > entropies[1]
    assert errors[0] < 0.9 * errors[1]


def test_eight_bits_are_those_of_bitsandbytes(theirs: Any) -> None:
    assert torch.equal(float8_code(), theirs.create_dynamic_map())
    assert len(float8_code().unique()) == 256


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("block", [64, 128])
def test_bytes_are_those_of_bitsandbytes(theirs: Any, shape: tuple[int, ...], block: int) -> None:
    values = torch.randn(shape)
    packed, state = theirs.quantize_4bit(values, blocksize=block, quant_type="nf4")
    ours = quantize(values, block, double=False)
    assert isinstance(ours.absmax, Tensor)
    assert torch.equal(ours.packed, packed.flatten())
    torch.testing.assert_close(ours.absmax, state.absmax)
    # On CPUs with AVX-512 version 0.50.2 misreads some rows that are no whole number of blocks.
    if shape[-1] % block == 0:
        torch.testing.assert_close(dequantize(ours), theirs.dequantize_4bit(packed, state))


def test_double_quantisation_is_that_of_bitsandbytes(theirs: Any) -> None:
    values = torch.randn(200, 640) * (0.5 + torch.rand(200, 1))
    packed, state = theirs.quantize_4bit(values, quant_type="nf4", compress_statistics=True)
    ours = quantize(values)
    assert isinstance(ours.absmax, QuantizedAbsmax)
    assert torch.equal(ours.packed, packed.flatten())
    torch.testing.assert_close(ours.absmax.scales, state.state2.absmax)
    torch.testing.assert_close(ours.absmax.mean, state.offset)
    # Its search rounds up or down where a value lies in the middle, to some digits.
    apart = (ours.absmax.codes.int() - state.absmax.int()).abs()
    assert apart.max() <= 1 and apart.float().mean() < 0.003
    same = (apart == 0).repeat_interleave(64).view(values.shape)
    torch.testing.assert_close(dequantize(ours)[same], theirs.dequantize_4bit(packed, state)[same])


def unpack(packed: Tensor) -> Tensor:
    """The codes, one in a byte."""
    return torch.stack([packed >> 4, packed & 15], dim=1).flatten()


@given(st.lists(st.integers(0, 5), min_size=1, max_size=3), st.integers(1, 9))
def test_no_other_value_of_the_code_is_nearer(sizes: list[int], block: int) -> None:
    values = torch.randn(sizes, generator=torch.Generator().manual_seed(sum(sizes) + block))
    kept = quantize(values, block, double=False)
    found = dequantize(kept)
    assert found.shape == values.shape and isinstance(kept.absmax, Tensor)
    candidates = nf4_code() * kept.absmax.repeat_interleave(block)[: values.numel(), None]
    nearest = (candidates - values.flatten()[:, None]).abs().amin(dim=1)
    torch.testing.assert_close((found - values).abs().flatten(), nearest, atol=1e-6, rtol=0)


def test_values_of_the_code_come_back_exactly() -> None:
    values = torch.stack([nf4_code() * 0.5, nf4_code().flip(0) * 4.0, nf4_code() * 0.0])
    assert torch.equal(dequantize(quantize(values, 16, double=False)), values)


def test_zeros_stay_zeros() -> None:
    assert torch.equal(dequantize(quantize(torch.zeros(3, 70))), torch.zeros(3, 70))


def test_bits_of_a_value() -> None:
    values = torch.randn(1024, 1024)
    assert quantize(values, double=False).bits == 4.5
    assert quantize(values).bits == pytest.approx(4 + 8 / 64 + 32 / (64 * 256), abs=1e-4)


def test_error_of_normal_weights_and_of_an_outlier() -> None:
    values = torch.randn(512, 512)
    once, twice = quantization_error(values, double=False), quantization_error(values)
    assert 0.085 < once < 0.1
    assert once < twice < 1.01 * once
    # One large value spoils its block alone; with one scale for all it spoils the whole.
    values[0, 0] = 50.0
    assert quantization_error(values) < 1.1 * twice
    assert quantization_error(values, block=values.numel()) > 5 * twice


def test_scales_in_eight_bits_are_close() -> None:
    absmax = 2.5 + 0.3 * torch.randn(1000)
    error = dequantize_absmax(quantize_absmax(absmax)) - absmax
    assert error.abs().max() < 0.01


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: quantize(torch.tensor([1.0, math.nan])), "not finite"),
        (lambda: quantize(torch.tensor([1.0]), 0), "block=0"),
        (lambda: quantize_linears(nn.Sequential(nn.ReLU()), ["0"]), "no linear layer is named '0'"),
    ],
)
def test_what_is_wrong_is_said(call: Callable[[], Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()


# --- layers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_in_four_bits_is_a_plain_one_with_the_rounded_weight(bias: bool) -> None:
    plain = nn.Linear(70, 33, bias=bias)
    layer = NF4Linear(plain)
    rounded = dequantize(quantize(plain.weight))
    x = torch.randn(2, 5, 70, requires_grad=True)
    expected = F.linear(x, rounded, plain.bias)
    torch.testing.assert_close(layer(x), expected)
    upstream = torch.randn_like(expected)
    (theirs,) = torch.autograd.grad(expected, x, upstream)
    (ours,) = torch.autograd.grad(layer(x), x, upstream)
    torch.testing.assert_close(ours, theirs)


def test_gradient_through_four_bits_in_float64() -> None:
    layer = NF4Linear(nn.Linear(6, 4, dtype=torch.float64), block=8)
    assert torch.autograd.gradcheck(layer, torch.randn(3, 6, dtype=torch.float64, requires_grad=True))


def test_no_whole_weight_is_kept_for_the_way_back() -> None:
    layer, x = NF4Linear(nn.Linear(64, 64)), torch.randn(2, 64, requires_grad=True)
    kept: list[int] = []

    def pack(values: Tensor) -> Tensor:
        kept.append(values.numel())
        return values

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda values: values):
        layer(x).sum()
        plain = list(kept)
        F.linear(x, layer.weight).sum()
    assert max(plain, default=0) < 64 * 64 <= max(kept)


def two_layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))


def test_adapters_learn_on_a_base_in_four_bits_and_the_base_stays() -> None:
    model, x = two_layers(), torch.randn(64, 64)
    labels = (x[:, 0] * x[:, 1] > 0).long()
    assert quantize_linears(model, ["0", "2"]) == ["0", "2"]
    add_adapter(model, LoRAConfig(["0", "2"], rank=4))
    before = {name: values.clone() for name, values in model.state_dict().items() if ".adapters." not in name}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(60):
        loss = F.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(model.state_dict()[name], values) for name, values in before.items())


def test_memory_is_an_eighth_and_numbers_are_the_same() -> None:
    model = nn.Sequential(nn.Linear(1024, 1024, bias=False))
    whole = trainable_table(model)
    quantize_linears(model, ["0"])
    packed = trainable_table(model)
    assert packed.numbers == whole.numbers == 1024 * 1024
    assert packed.bytes / whole.bytes == pytest.approx(4.127 / 32, rel=1e-3)


def test_a_base_in_four_bits_is_merged_after_it_was_dequantised() -> None:
    model, x = two_layers(), torch.randn(3, 64)
    add_adapter(model, LoRAConfig(["0", "2"]))
    assert quantize_linears(model, ["0", "2"]) == ["0", "2"]
    for name, values in model.named_parameters():
        if name.endswith("B"):
            nn.init.normal_(values.data)
    expected = model(x)
    with pytest.raises(ValueError, match="0 is in four bits"):
        merge(model)
    assert dequantize_linears(model) == ["0", "2"]
    torch.testing.assert_close(model(x), expected)
    merge(model)
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)


def test_a_shared_weight_stays_as_it_is() -> None:
    model = nn.ModuleDict({"tokens": nn.Embedding(8, 4), "head": nn.Linear(4, 8, bias=False)})
    model["head"].weight = model["tokens"].weight
    with pytest.raises(ValueError, match="head shares its weight"):
        quantize_linears(model, ["head"])


def test_a_layer_in_four_bits_is_saved_and_loaded_with_its_model() -> None:
    first, second = NF4Linear(nn.Linear(70, 33)), NF4Linear(nn.Linear(70, 33))
    second.load_state_dict(first.state_dict())
    x = torch.randn(2, 70)
    assert torch.equal(first(x), second(x))


def test_a_model_that_goes_to_16_bits_keeps_its_scales() -> None:
    model = nn.Sequential(NF4Linear(nn.Linear(70, 33)))
    before = model[0].weight
    model.bfloat16()
    assert torch.equal(model[0].weight, before)  # type: ignore[arg-type]
    assert model(torch.randn(2, 70, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert model[0].bias.dtype == torch.bfloat16  # type: ignore[union-attr]
