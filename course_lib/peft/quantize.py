"""Weights in four bits (Dettmers et al. 2023, QLoRA): the code NF4, blocks, and double quantisation.

Axes: n values in all, m blocks, k values in a block.

The weights of a trained layer are nearly normal. NF4 has 16 values between −1 and 1, quantiles of a normal
distribution: they lie close together where weights are many. A block is divided by its largest absolute
value, absmax, and each value is replaced by the nearest of the 16; dequantising multiplies again.
Oracles: the table in the paper's appendix E, and `bitsandbytes`, whose bytes these are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK, SCALES_BLOCK = 64, 256
# The probability of the outermost quantile: the mean of 1 − 1/30 and 1 − 1/32, as far as the paper's authors
# wrote it down; these are the tails that 15 and that 16 even shares of the distribution would cut in half.
OUTERMOST = 0.9677083


@cache
def nf4_code() -> Tensor:
    """The 16 values of NF4, from −1 to 1: (16,) float32.

    On either side of 0 the quantiles of evenly spaced probabilities, eight above and seven below, divided by
    the largest. The probabilities are rounded to float32, as they were for the published table.
    """
    above = torch.special.ndtri(torch.linspace(OUTERMOST, 0.5, 9)[:-1].double())
    below = -torch.special.ndtri(torch.linspace(OUTERMOST, 0.5, 8)[:-1].double())
    values = torch.cat([below, torch.zeros(1), above]).float().sort().values
    return values / values.max()


@cache
def float8_code() -> Tensor:
    """The 256 values of eight bits with a dynamic exponent (Dettmers 2016, arXiv:1511.04561), −0.993 to 1.

    A decade lower there are half as many values, so the relative step grows as values shrink: 64 lie between
    0.1 and 1, 32 between 0.01 and 0.1, one in the lowest of seven; as many below 0, and 0 and 1.
    """
    values = [torch.tensor([0.0, 1.0])]
    for exponent in range(7):
        edges = torch.linspace(0.1, 1, 2**exponent + 1)
        middles = 10.0 ** (exponent - 6) * ((edges[:-1] + edges[1:]) / 2)
        values += [middles, -middles]
    return torch.cat(values).sort().values


@cache
def nf4_pairs() -> Tensor:
    """The two values that each byte stands for: (256, 2)."""
    places = torch.arange(256)
    return nf4_code()[torch.stack([places >> 4, places & 15], dim=1)]


@dataclass(frozen=True)
class Quantized:
    """Values in four bits. packed: two codes in a byte, the first in the upper half, (⌈n / 2⌉,) uint8.

    absmax: the largest absolute value of each block, (m,) float32, or itself in eight bits.
    """

    packed: Tensor
    absmax: Tensor | QuantizedAbsmax
    shape: tuple[int, ...]
    block: int = BLOCK

    @property
    def nbytes(self) -> int:
        """The memory of all."""
        return self.packed.nbytes + self.absmax.nbytes

    @property
    def bits(self) -> float:
        """How many bits a value takes, scales included."""
        return 8 * self.nbytes / max(torch.Size(self.shape).numel(), 1)


@dataclass(frozen=True)
class QuantizedAbsmax:
    """Scales in eight bits: mean + float8_code[codes] · scales of their blocks of 256.

    codes: (m,) uint8. scales: (⌈m / 256⌉,) float32. mean: () float32.
    """

    codes: Tensor
    scales: Tensor
    mean: Tensor

    @property
    def nbytes(self) -> int:
        """The memory of all."""
        return self.codes.nbytes + self.scales.nbytes + self.mean.nbytes


def quantize(values: Tensor, block: int = BLOCK, *, double: bool = True) -> Quantized:
    """Any shape → four bits a value, and a scale a block, which double quantisation keeps in eight bits.

    4 + 32 / 64 = 4.5 bits a value become 4 + 8 / 64 + 32 / (64 · 256) = 4.127. Raises ValueError where values
    are not finite.

    >>> quantize(torch.tensor([3.0, -3.0, 0.0, 1.5])).packed.tolist()  # codes 15 and 0, 7 and 12
    [240, 124]
    """
    if block < 1:
        raise ValueError(f"block={block}; it is at least 1")
    if not values.isfinite().all():
        raise ValueError("some values are not finite; they cannot be quantised")
    codes, absmax = encode_blocks(values.detach().flatten(), nf4_code(), block)
    codes = F.pad(codes, (0, len(codes) % 2), value=7)  # the code of 0
    kept = quantize_absmax(absmax) if double else absmax
    return Quantized(codes[0::2] << 4 | codes[1::2], kept, tuple(values.shape), block)


def dequantize(quantized: Quantized) -> Tensor:
    """The values, about, in the shape that they had, float32."""
    count, absmax = torch.Size(quantized.shape).numel(), quantized.absmax
    absmax = dequantize_absmax(absmax) if isinstance(absmax, QuantizedAbsmax) else absmax
    return decode_blocks(quantized.packed, absmax, nf4_pairs(), quantized.block, count).view(quantized.shape)


def quantize_absmax(absmax: Tensor) -> QuantizedAbsmax:
    """Double quantisation: scales (m,), less their mean as none is negative, in eight bits."""
    mean = absmax.mean() if len(absmax) else absmax.new_zeros(())
    return QuantizedAbsmax(*encode_blocks(absmax - mean, float8_code(), SCALES_BLOCK), mean)


def dequantize_absmax(quantized: QuantizedAbsmax) -> Tensor:
    """The scales, about, (m,)."""
    codes, table = quantized.codes, float8_code()[:, None]
    return decode_blocks(codes, quantized.scales, table, SCALES_BLOCK, len(codes)) + quantized.mean


def encode_blocks(values: Tensor, code: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Values (n,) → the places of the nearest in the code, (n,) uint8, and absmax of the blocks, (m,)."""
    flat = values.float()
    blocks = F.pad(flat, (0, -len(flat) % block)).view(-1, block)  # (m, k), zeros behind
    absmax = blocks.abs().amax(dim=1)
    # A block of zeros is left as it is: dividing by its absmax would give NaN.
    shares = blocks / absmax.where(absmax > 0, 1.0)[:, None]
    code = code.to(values.device)
    places = torch.bucketize(shares, (code[1:] + code[:-1]) / 2)
    return places.flatten()[: len(flat)].to(torch.uint8), absmax


def decode_blocks(codes: Tensor, absmax: Tensor, table: Tensor, block: int, count: int) -> Tensor:
    """Places in a table and absmax of the blocks (m,) → the first `count` values, (n,).

    A row of the table has all values that one place stands for.
    """
    shares = F.embedding(codes.int(), table.to(codes.device)).flatten()[:count]
    blocks = F.pad(shares, (0, -count % block)).view(-1, block)  # (m, k)
    return (blocks * absmax[:, None]).flatten()[:count]


def quantization_error(values: Tensor, block: int = BLOCK, *, double: bool = True) -> float:
    """The root of the mean squared error, as a part of that of the values themselves."""
    error = dequantize(quantize(values, block, double=double)) - values
    return float(error.square().mean().sqrt() / values.square().mean().sqrt())


# --- layers ---------------------------------------------------------------------------------------------


class NF4Linear(nn.Module):
    """A frozen linear layer whose weight is kept in four bits, and made whole each time that it is used.

    Gradients go through it to what comes in, as adapters in earlier layers need, and never to the weight.
    """

    packed: Tensor
    absmax_codes: Tensor
    absmax_scales: Tensor
    absmax_mean: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear, block: int = BLOCK) -> None:
        super().__init__()
        self.in_features, self.out_features, self.block = linear.in_features, linear.out_features, block
        kept = quantize(linear.weight, block)
        assert isinstance(kept.absmax, QuantizedAbsmax)
        self.register_buffer("packed", kept.packed)
        self.register_buffer("absmax_codes", kept.absmax.codes)
        self.register_buffer("absmax_scales", kept.absmax.scales)
        self.register_buffer("absmax_mean", kept.absmax.mean)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    @property
    def count(self) -> int:
        """How many numbers the layer holds, weight and bias."""
        return self.in_features * self.out_features + (0 if self.bias is None else self.out_features)

    @property
    def weight(self) -> Tensor:
        """The weight made whole, (out, in) float32."""
        absmax = QuantizedAbsmax(self.absmax_codes, self.absmax_scales, self.absmax_mean)
        return dequantize(Quantized(self.packed, absmax, (self.out_features, self.in_features), self.block))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> NF4Linear:
        """As for every module, but in 16 bits the scales would spoil the weight: they are only moved."""
        scales, mean = self.absmax_scales, self.absmax_mean
        super()._apply(fn, recurse)
        device = self.absmax_scales.device
        if device.type != "meta":
            self.absmax_scales, self.absmax_mean = scales.to(device), mean.to(device)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out)."""
        return _ThroughFourBits.apply(x, self)  # type: ignore[no-any-return]

    def dequantized(self) -> nn.Linear:
        """A plain layer with the weight as it is now, frozen."""
        has_bias = self.bias is not None
        linear = nn.Linear(self.in_features, self.out_features, has_bias, device=self.packed.device)
        linear.requires_grad_(False).weight.copy_(self.weight)
        if self.bias is not None:
            linear.bias.copy_(self.bias)
        return linear.train(self.training)


class _ThroughFourBits(torch.autograd.Function):
    """x Wᵀ + b. The whole weight is made anew for the way back, so that none is kept in between."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: NF4Linear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.weight.to(x.dtype), None if layer.bias is None else layer.bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient @ ctx.layer.weight.to(gradient.dtype), None


def quantize_linears(model: nn.Module, targets: Sequence[str], block: int = BLOCK) -> list[str]:
    """Put linear layers in four bits, and return their names.

    targets: the layers' names or the ends of them; a layer with adapters keeps its name. Raises ValueError
    where a target names no `nn.Linear`, or another module shares the weight.
    """
    linears = {path: layer for path, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    found: dict[str, nn.Linear] = {}
    for target in targets:
        fitting = {p: q for p, q in linears.items() if f".{p.removesuffix('.base')}".endswith(f".{target}")}
        if not fitting:
            raise ValueError(f"no linear layer is named {target!r} that could be put in four bits")
        found |= fitting
    owners = [id(own) for module in model.modules() for own in module.parameters(recurse=False)]
    for path, layer in found.items():
        if owners.count(id(layer.weight)) > 1:
            raise ValueError(f"{path} shares its weight with another layer; leave it out")
    for path, layer in found.items():
        model.set_submodule(path, NF4Linear(layer, block).train(layer.training))
    return [path.removesuffix(".base") for path in found]


def dequantize_linears(model: nn.Module) -> list[str]:
    """Make all layers in four bits plain ones with the weights that they have now; returns their names."""
    found = [(path, layer) for path, layer in model.named_modules() if isinstance(layer, NF4Linear)]
    for path, layer in found:
        model.set_submodule(path, layer.dequantized())
    return [path.removesuffix(".base") for path, _ in found]
