"""Exercises of 17_lora: what is asked, what is right, and how people go wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..peft.quantize import nf4_code
from .exercise import Case, Exercise, Misconception, Score, Tolerance
from .probes import lora as probes

# The library's own versions are no answers, nor parts of one.
LIBRARY = (
    "course_lib.peft.lora.Adapter",
    "course_lib.peft.lora.LoRALinear",
    "course_lib.peft.lora.add_adapter",
    "course_lib.peft.lora.merge",
    "course_lib.peft.quantize.quantize",
    "course_lib.peft.quantize.dequantize",
    "course_lib.peft.quantize.encode_blocks",
    "course_lib.peft.quantize.decode_blocks",
    "course_lib.peft.quantize.quantize_absmax",
    "course_lib.peft.quantize.dequantize_absmax",
    "course_lib.peft.quantize.quantization_error",
    "course_lib.peft.quantize.NF4Linear",
    "course_lib.peft.quantize.quantize_linears",
    "course_lib.peft.quantize.dequantize_linears",
)

# --- lora/linear -------------------------------------------------------------------------------


def linear_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Tokens in a batch; then no bias, no leading axes, rank 1, and an alpha that is no multiple."""
    yield _linear_case(rng, "a few tokens", (4,), 5, 3, 2)
    yield _linear_case(rng, "a batch of sentences", (2, 3), 4, 6, 3)
    yield _linear_case(rng, "a base without a bias", (2, 3), 4, 4, 2, bias=False)
    yield _linear_case(rng, "one token alone", (), 6, 4, 3, hidden=True)
    yield _linear_case(rng, "rank 1", (3,), 5, 7, 1, hidden=True)
    yield _linear_case(rng, "a rank above both widths", (3,), 3, 2, 5, hidden=True)


def _linear_case(
    rng: np.random.Generator,
    name: str,
    leading: tuple[int, ...],
    d_in: int,
    d_out: int,
    rank: int,
    *,
    bias: bool = True,
    hidden: bool = False,
) -> Case:
    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype("float32")

    inputs: dict[str, Any] = {"d_in": d_in, "d_out": d_out, "rank": rank}
    # Never 1 and never the rank's own square, so that no wrong scaling is right by chance.
    inputs["alpha"] = float(rng.choice([0.5, 2.5, 7.0, 12.0])) * (1.25 if rank == 1 else 1.0)
    inputs |= {"weight": draw(d_out, d_in), "bias": draw(d_out) if bias else None}
    inputs |= {"A": draw(rank, d_in), "B": draw(d_out, rank)}
    inputs |= {"hidden_states": draw(*leading, d_in), "direction": draw(*leading, d_out)}
    return Case(name, inputs, hidden)


class _LoRA(nn.Module):
    """The reference; what a wrong answer does otherwise is a class attribute."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base = base
        self.rank, self.alpha = rank, alpha
        self.A = nn.Parameter(torch.empty(rank, base.in_features, device=base.weight.device))
        self.B = nn.Parameter(torch.zeros(base.out_features, rank, device=base.weight.device))
        self.begin()

    def begin(self) -> None:
        self.base.requires_grad_(False)
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def scaling(self) -> float:
        return self.alpha / self.rank

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + F.linear(F.linear(x, self.A), self.B) * self.scaling()


class _LoRAByWholeMatrix(_LoRA):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.base.weight + self.scaling() * self.B @ self.A, self.base.bias)


class _LoRAByEinsum(nn.Module):
    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        for parameter in base.parameters():
            parameter.requires_grad = False
        self.frozen = base
        like: dict[str, Any] = {"device": base.weight.device, "dtype": base.weight.dtype}
        self.A = nn.Parameter(torch.randn(rank, base.in_features, **like) / rank)
        self.B = nn.Parameter(torch.zeros(base.out_features, rank, **like))
        self.share = alpha / rank

    def forward(self, x: Tensor) -> Tensor:
        change = torch.einsum("...i,ri,or->...o", x, self.A, self.B)
        return self.frozen(x) + self.share * change


class _BNotZero(_LoRA):
    def begin(self) -> None:
        super().begin()
        nn.init.normal_(self.B, std=0.5)


class _AllZero(_LoRA):
    def begin(self) -> None:
        super().begin()
        nn.init.zeros_(self.A)


class _NotFrozen(_LoRA):
    def begin(self) -> None:
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))


class _FrozenA(_LoRA):
    def begin(self) -> None:
        super().begin()
        self.A.requires_grad_(False)


class _BiasTrained(_LoRA):
    def begin(self) -> None:
        super().begin()
        if self.base.bias is not None:
            self.base.bias.requires_grad_(True)


class _Unscaled(_LoRA):
    def scaling(self) -> float:
        return 1.0


class _AlphaAlone(_LoRA):
    def scaling(self) -> float:
        return self.alpha


class _RootOfRank(_LoRA):
    def scaling(self) -> float:
        return self.alpha / math.sqrt(self.rank)


class _TurnedScale(_LoRA):
    def scaling(self) -> float:
        return self.rank / self.alpha


class _WithoutBase(_LoRA):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.A), self.B) * self.scaling()


class _ScalesAll(_LoRA):
    def forward(self, x: Tensor) -> Tensor:
        return (self.base(x) + F.linear(F.linear(x, self.A), self.B)) * self.scaling()


class _WithoutGradient(_LoRA):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            given = self.base(x)
        return given + F.linear(F.linear(x, self.A), self.B) * self.scaling()


LINEAR = Exercise(
    id="lora/linear",
    title="A linear layer with an adapter",
    points=3,
    minutes=30,
    difficulty=2,
    cases=linear_cases,
    probe=probes.linear,
    reference=_LoRA,
    also_right=(_LoRAByWholeMatrix, _LoRAByEinsum),
    forbidden=LIBRARY,
    library="course_lib.peft.lora:LoRALinear",
    gpu=True,
    misconceptions=(
        Misconception(
            "B does not begin at zero",
            _BNotZero,
            "Before training the layer has to give what its base gives. It does when B is zero: then B A is "
            "zero, whatever A is.",
        ),
        Misconception(
            "A and B both begin at zero",
            _AllZero,
            "With A and B both zero, the gradient of each is zero too, because it is multiplied by the other: "
            "nothing would ever be learned. Draw A at random, and set B alone to zero.",
        ),
        Misconception(
            "the base is not frozen",
            _NotFrozen,
            "Only A and B are trained. Call `base.requires_grad_(False)`: it is the frozen weight that needs no "
            "gradient and no optimiser state.",
        ),
        Misconception(
            "the base's bias is trained",
            _BiasTrained,
            "The whole base is frozen here, its bias too: only A and B are trained.",
        ),
        Misconception(
            "A is not trained",
            _FrozenA,
            "A is a parameter that is trained, as B is. Freeze the base alone.",
        ),
        Misconception(
            "the change is not scaled",
            _Unscaled,
            "The change is multiplied by alpha / rank before it is added.",
        ),
        Misconception(
            "the change is scaled by alpha alone",
            _AlphaAlone,
            "The factor is alpha / rank: with a larger rank each direction counts less.",
        ),
        Misconception(
            "alpha is divided by the root of the rank",
            _RootOfRank,
            "alpha / √rank is the scaling of rsLoRA. LoRA itself divides by the rank.",
        ),
        Misconception(
            "the scaling is turned round",
            _TurnedScale,
            "The factor is alpha / rank, not rank / alpha.",
        ),
        Misconception(
            "the base's output is left out",
            _WithoutBase,
            "The adapter gives only the change. Add it to what the base gives.",
        ),
        Misconception(
            "the base's output is scaled as well",
            _ScalesAll,
            "alpha / rank multiplies the change alone; what the base gives stays as it is.",
        ),
        Misconception(
            "no gradient goes through the base",
            _WithoutGradient,
            "A frozen weight needs no gradient, but what comes in does: earlier layers have adapters, too. "
            "Freeze the parameters, and do not call the base under `no_grad`.",
        ),
    ),
    hints=(
        "Two thin matrices in place of a change of W: A reads the input into rank numbers, B writes them out.",
        "`nn.Parameter(torch.zeros(base.out_features, rank))` for B; draw A with `nn.init.kaiming_uniform_`.",
        "`self.base(x) + F.linear(F.linear(x, self.A), self.B) * (alpha / rank)`, with the base frozen by "
        "`requires_grad_(False)`.",
    ),
)

# --- lora/merge --------------------------------------------------------------------------------


def merge_cases(rng: np.random.Generator) -> Iterator[Case]:
    """One adapter, several, a square weight; then none, 16 bits."""
    yield _merge_case(rng, "one adapter", (3, 5), (2,))
    yield _merge_case(rng, "two adapters of different rank", (4, 3), (1, 3))
    yield _merge_case(rng, "a square weight", (4, 4), (2,))
    yield _merge_case(rng, "no adapter", (3, 4), (), hidden=True)
    yield _merge_case(rng, "a weight in float16", (4, 6), (3, 2), dtype="float16", hidden=True)


def _merge_case(
    rng: np.random.Generator,
    name: str,
    shape: tuple[int, int],
    ranks: tuple[int, ...],
    *,
    dtype: str = "float32",
    hidden: bool = False,
) -> Case:
    adapters = [
        {
            "A": rng.normal(size=(rank, shape[1])).astype("float32"),
            "B": rng.normal(size=(shape[0], rank)).astype("float32"),
            "alpha": float(rng.choice([2.5, 7.0, 0.4])),
        }
        for rank in ranks
    ]
    weight = rng.normal(size=shape).astype("float32")
    return Case(name, {"weight": weight, "adapters": adapters, "dtype": dtype}, hidden)


Adapters = list[tuple[Tensor, Tensor, float]]


def _merge(weight: Tensor, adapters: Adapters) -> Tensor:
    merged = weight.float()
    for a, b, alpha in adapters:
        merged = merged + alpha / len(a) * b @ a
    return merged.to(weight.dtype, copy=True)


def _merge_by_outer_products(weight: Tensor, adapters: Adapters) -> Tensor:
    total = torch.zeros(weight.shape)
    for a, b, alpha in adapters:
        for row, column in zip(a, b.T, strict=True):
            total += torch.outer(column, row) * (alpha / a.shape[0])
    return (weight.float() + total).to(weight.dtype)


def _merge_by_stacking(weight: Tensor, adapters: Adapters) -> Tensor:
    if not adapters:
        return weight.clone()
    a = torch.cat([a * (alpha / a.shape[0]) for a, _, alpha in adapters])
    b = torch.cat([b for _, b, _ in adapters], dim=1)
    return (weight.float() + torch.einsum("or,ri->oi", b, a)).to(weight.dtype)


def _merging(
    change: Callable[[Tensor, Tensor, float], Tensor],
    taken: Callable[[Adapters], Adapters] = lambda adapters: adapters,
) -> Callable[..., Tensor]:
    def merge(weight: Tensor, adapters: Adapters) -> Tensor:
        merged = weight.float().clone()
        for a, b, alpha in taken(adapters):
            merged = merged + change(a, b, alpha)
        return merged.to(weight.dtype)

    return merge


def _scaled(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    return alpha / a.shape[0] * (b @ a)


def _merge_into_the_weight(weight: Tensor, adapters: Adapters) -> Tensor:
    for a, b, alpha in adapters:
        weight += _scaled(a, b, alpha).to(weight.dtype)
    return weight


def _merge_by_one_rank(weight: Tensor, adapters: Adapters) -> Tensor:
    whole = sum(a.shape[0] for a, _, _ in adapters)
    return _merging(lambda a, b, alpha: alpha / whole * b @ a)(weight, adapters)


MERGE = Exercise(
    id="lora/merge",
    title="Adapters inside the weight",
    points=2,
    minutes=20,
    difficulty=2,
    cases=merge_cases,
    probe=probes.merge,
    reference=_merge,
    also_right=(_merge_by_outer_products, _merge_by_stacking),
    forbidden=LIBRARY,
    misconceptions=(
        Misconception(
            "the change is transposed",
            _merging(
                lambda a, b, alpha: (
                    alpha / a.shape[0] * (b @ a).T if a.shape[1] == b.shape[0] else _scaled(a, b, alpha)
                )
            ),
            "The change is B A, of shape (out, in) as the weight is. Where both are equal nothing fails, but the "
            "transposed change is another one.",
        ),
        Misconception(
            "the changes are not scaled",
            _merging(lambda a, b, alpha: b @ a),
            "Each change is multiplied by its own alpha / rank, as it is in the forward pass.",
        ),
        Misconception(
            "the changes are scaled by alpha alone",
            _merging(lambda a, b, alpha: alpha * (b @ a)),
            "The factor is alpha / rank, and the rank is the number of rows of A.",
        ),
        Misconception(
            "the changes are scaled by the root of the rank",
            _merging(lambda a, b, alpha: alpha / math.sqrt(a.shape[0]) * (b @ a)),
            "alpha / √rank is rsLoRA. Here the factor is alpha / rank.",
        ),
        Misconception(
            "the change is taken away",
            _merging(lambda a, b, alpha: -_scaled(a, b, alpha)),
            "Merging adds the change; taking it away is unmerging.",
        ),
        Misconception(
            "only the last adapter is merged",
            _merging(_scaled, taken=lambda adapters: adapters[-1:]),
            "All adapters of the list are added up.",
        ),
        Misconception(
            "only the first adapter is merged",
            _merging(_scaled, taken=lambda adapters: adapters[:1]),
            "All adapters of the list are added up.",
        ),
        Misconception(
            "all adapters are scaled by one rank",
            _merge_by_one_rank,
            "Adapters of one base may have different ranks. Each is scaled by its own alpha / rank.",
        ),
        Misconception(
            "the result has another dtype",
            lambda weight, adapters: _merge(weight.float(), adapters),
            "The merged weight takes the place of the weight, so it has its dtype. Add in float32, and convert "
            "at the end.",
        ),
        Misconception(
            "without adapters the weight itself is returned",
            lambda weight, adapters: _merge(weight, adapters) if adapters else weight,
            "What is returned shares no memory with `weight`, also where nothing is added: copy it.",
        ),
        Misconception(
            "the weight is written into",
            _merge_into_the_weight,
            "`weight` was changed. Return a new tensor: whoever merges wants to be able to go back.",
        ),
    ),
    hints=(
        "What the adapter adds to the output for every input is what B A adds to the weight.",
        "B is (out, rank) and A is (rank, in): `b @ a` has the weight's shape.",
        "Begin with `weight.float()`, add `alpha / len(a) * b @ a` for each adapter, and end with "
        "`.to(weight.dtype)`.",
    ),
)

# --- lora/nf4_quantize and lora/nf4_dequantize -------------------------------------------------


def _values(rng: np.random.Generator, count: int) -> np.ndarray:
    """Nearly normal numbers whose blocks differ in size; none lies where rounding decides."""
    values = rng.normal(size=count) * np.repeat(rng.uniform(0.2, 4.0, size=-(-count // 4)), 4)[:count]
    return values.astype("float32")


def quantize_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Two blocks, NF4 itself, a short last block; then zeros, one pair, a code of other values."""
    code = nf4_code().numpy()
    even = np.linspace(-1, 1, 16, dtype="float32")
    yield Case("two blocks of eight", {"values": _values(rng, 16), "code": code, "block": 8})
    yield Case("a last block that is shorter", {"values": _values(rng, 22), "code": code, "block": 8})
    yield Case("another code", {"values": _values(rng, 24), "code": even, "block": 4})
    zeros = np.concatenate([np.zeros(8, "float32"), _values(rng, 8)])
    yield Case("a block of zeros", {"values": zeros, "code": code, "block": 8}, hidden=True)
    yield Case("one pair", {"values": _values(rng, 2), "code": code, "block": 64}, hidden=True)
    yield Case("more blocks", {"values": _values(rng, 640), "code": code, "block": 64}, hidden=True)


def _absmax(values: Tensor, block: int) -> Tensor:
    padded = F.pad(values, (0, -len(values) % block))
    return padded.view(-1, block).abs().amax(dim=1)


def _pack(codes: Tensor) -> Tensor:
    codes = codes.to(torch.uint8)
    return codes[0::2] * 16 + codes[1::2]


def _nearest(shares: Tensor, code: Tensor) -> Tensor:
    return (shares[:, None] - code).abs().argmin(dim=1)


def _quantizing(
    *,
    scale: Callable[[Tensor, int], Tensor] = _absmax,
    place: Callable[[Tensor, Tensor], Tensor] = _nearest,
    pack: Callable[[Tensor], Tensor] = _pack,
) -> Callable[..., tuple[Tensor, Tensor]]:
    """A quantisation with one thing wrong; by default nothing is."""

    def quantize(values: Tensor, code: Tensor, block: int) -> tuple[Tensor, Tensor]:
        scales = scale(values, block)
        spread = (
            scales.repeat_interleave(block)[: len(values)] if len(scales) > 1 else scales.expand(len(values))
        )
        return pack(place(values / spread.where(spread != 0, 1.0), code)), scales

    return quantize


def _quantize_by_midpoints(values: Tensor, code: Tensor, block: int) -> tuple[Tensor, Tensor]:
    parts, scales = [], []
    for part in values.split(block):
        scale = part.abs().max()
        shares = part / scale if scale > 0 else part
        parts.append(torch.bucketize(shares, (code[1:] + code[:-1]) / 2))
        scales.append(scale)
    codes = torch.cat(parts).to(torch.uint8)
    return codes[0::2] << 4 | codes[1::2], torch.stack(scales)


def _quantize_by_loops(values: Tensor, code: Tensor, block: int) -> tuple[Tensor, Tensor]:
    book, packed, scales = code.tolist(), [], []
    for first in range(0, len(values), block):
        scales.append(max(abs(value) for value in values[first : first + block].tolist()))
    for place in range(0, len(values), 2):
        pair = []
        for index in (place, place + 1):
            scale = scales[index // block]
            share = values[index].item() / scale if scale else 0.0
            pair.append(min(range(16), key=lambda i: abs(book[i] - share)))
        packed.append(pair[0] * 16 + pair[1])
    return torch.tensor(packed, dtype=torch.uint8), torch.tensor(scales)


def _below(shares: Tensor, code: Tensor) -> Tensor:
    return (torch.bucketize(shares, code, right=True) - 1).clamp_min(0)


QUANTIZE = Exercise(
    id="lora/nf4_quantize",
    title="Four bits a weight",
    points=3,
    minutes=40,
    difficulty=3,
    cases=quantize_cases,
    probe=probes.quantize,
    reference=_quantizing(),
    also_right=(_quantize_by_midpoints, _quantize_by_loops),
    forbidden=(*LIBRARY, "torch.quantize_per_tensor", "torch.quantize_per_channel"),
    library="course_lib.peft.quantize:quantize",
    misconceptions=(
        Misconception(
            "the halves of a byte are exchanged",
            _quantizing(pack=lambda codes: _pack(codes.view(-1, 2).flip(1).flatten())),
            "The first of two codes goes into the *upper* half of the byte: 16 · first + second.",
        ),
        Misconception(
            "a byte holds one code",
            _quantizing(pack=lambda codes: codes.to(torch.uint8)),
            "Two codes of four bits fit into one byte. Yours has a byte for each, which is eight bits a weight.",
        ),
        Misconception(
            "values are paired across the halves of the input",
            _quantizing(pack=lambda codes: _pack(codes.view(2, -1).T.flatten())),
            "Neighbours share a byte: values 0 and 1 the first, 2 and 3 the second.",
        ),
        Misconception(
            "the code below is taken",
            _quantizing(place=_below),
            "Each value becomes the *nearest* of the sixteen, not the next one below it.",
        ),
        Misconception(
            "the code is taken for even steps",
            _quantizing(place=lambda shares, code: ((shares + 1) / 2 * 15).round()),
            "The sixteen values of `code` lie at uneven distances. Compare with the values themselves.",
        ),
        Misconception(
            "one absmax serves all blocks",
            _quantizing(scale=lambda values, block: values.abs().max()[None]),
            "Every block has an absmax of its own, so that one large weight spoils its block alone.",
        ),
        Misconception(
            "the sign is left out of the size",
            _quantizing(
                scale=lambda values, block: F.pad(values, (0, -len(values) % block)).view(-1, block).amax(1)
            ),
            "absmax is the largest *absolute* value of a block. The largest value misses a large negative one.",
        ),
        Misconception(
            "the blocks are divided by their spread",
            _quantizing(
                scale=lambda values, block: torch.stack([part.std() for part in values.split(block)])
            ),
            "A block is divided by its largest absolute value, so that all shares lie between −1 and 1.",
        ),
    ),
    hints=(
        "Three steps: a scale for each block; every value as a share of its block's scale; the nearest code.",
        "`(shares[:, None] - code).abs().argmin(dim=1)` finds the nearest. Mind a block of zeros: 0 / 0.",
        "`codes[0::2] * 16 + codes[1::2]`, as uint8, puts two neighbours into one byte.",
    ),
)


def dequantize_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Two blocks, a short last one, another code; then one pair, a block of zeros, more blocks."""
    code = nf4_code().numpy()
    even = np.linspace(-1, 1, 16, dtype="float32")
    for name, count, block, book, hidden in (
        ("two blocks of eight", 16, 8, code, False),
        ("a last block that is shorter", 22, 8, code, False),
        ("another code", 24, 4, even, False),
        ("one pair", 2, 64, code, True),
        ("more blocks", 640, 64, code, True),
    ):
        packed = rng.integers(0, 256, size=count // 2).astype("uint8")
        packed[0] = 0x2D  # halves that differ
        absmax = rng.uniform(0.3, 4.0, size=-(-count // block)).astype("float32")
        yield Case(name, {"packed": packed, "absmax": absmax, "code": book, "block": block}, hidden)


def _unpack(packed: Tensor) -> Tensor:
    return torch.stack([packed >> 4, packed & 15], dim=1).flatten().long()


def _dequantize(packed: Tensor, absmax: Tensor, code: Tensor, block: int) -> Tensor:
    shares = code[_unpack(packed)]
    return shares * absmax.repeat_interleave(block)[: len(shares)]


def _dequantize_by_index(packed: Tensor, absmax: Tensor, code: Tensor, block: int) -> Tensor:
    places = torch.arange(2 * len(packed))
    whole = packed.int()[places // 2]
    codes = torch.where(places % 2 == 0, whole // 16, whole % 16)
    return code[codes] * absmax[places // block]


def _dequantize_by_loops(packed: Tensor, absmax: Tensor, code: Tensor, block: int) -> Tensor:
    book = code.tolist()
    values: list[float] = []
    for byte in packed.tolist():
        for half in divmod(byte, 16):
            values.append(book[half] * absmax[len(values) // block].item())
    return torch.tensor(values)


DEQUANTIZE = Exercise(
    id="lora/nf4_dequantize",
    title="Weights from four bits",
    points=2,
    minutes=20,
    difficulty=2,
    cases=dequantize_cases,
    probe=probes.dequantize,
    reference=_dequantize,
    also_right=(_dequantize_by_index, _dequantize_by_loops),
    forbidden=LIBRARY,
    library="course_lib.peft.quantize:dequantize",
    misconceptions=(
        Misconception(
            "the halves of a byte are exchanged",
            lambda packed, absmax, code, block: _dequantize(packed << 4 | packed >> 4, absmax, code, block),
            "The first of two values is in the *upper* half of the byte: `packed >> 4`, then `packed & 15`.",
        ),
        Misconception(
            "all upper halves come first",
            lambda packed, absmax, code, block: (
                code[torch.cat([packed >> 4, packed & 15]).long()]
                * absmax.repeat_interleave(block)[: 2 * len(packed)]
            ),
            "A byte holds two *neighbours*. Put its two halves beside each other before you go to the next byte.",
        ),
        Misconception(
            "the scales are left out",
            lambda packed, absmax, code, block: code[_unpack(packed)],
            "The code has values between −1 and 1. Multiply them by the absmax of their block.",
        ),
        Misconception(
            "the scales run along the values one by one",
            lambda packed, absmax, code, block: (
                code[_unpack(packed)] * absmax.repeat(block)[: 2 * len(packed)]
            ),
            "A scale belongs to `block` neighbours in a row: `repeat_interleave`, not `repeat`.",
        ),
        Misconception(
            "blocks are counted in bytes",
            lambda packed, absmax, code, block: (
                code[_unpack(packed)] * absmax.repeat_interleave(2 * block)[: 2 * len(packed)]
            ),
            "A block has `block` values, which is half as many bytes.",
        ),
        Misconception(
            "the code is taken for even steps",
            lambda packed, absmax, code, block: (
                (_unpack(packed) / 7.5 - 1) * absmax.repeat_interleave(block)[: 2 * len(packed)]
            ),
            "A code is a place in the table `code`: `code[codes]`, whose steps are not even.",
        ),
    ),
    hints=(
        "It is the way back: codes out of the bytes, values out of the table, times the scale of the block.",
        "`torch.stack([packed >> 4, packed & 15], dim=1).flatten()` gives the codes in their order.",
        "`code[codes.long()] * absmax.repeat_interleave(block)[:n]`, with n = 2 · len(packed).",
    ),
)

# --- lora/rank_profile -------------------------------------------------------------------------


def rank_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Updates of low rank with some noise, and one of full rank; then exact rank 1, and wide ones."""
    yield _rank_case(rng, "an update of low rank", (8, 6), 2, 0.02, 0.9)
    yield _rank_case(rng, "an update of full rank", (6, 6), 6, 0.0, 0.95)
    yield _rank_case(rng, "a wide layer", (5, 12), 3, 0.05, 0.8)
    yield _rank_case(rng, "an update of rank 1", (7, 5), 1, 0.0, 0.999, hidden=True)
    yield _rank_case(rng, "a large layer", (40, 30), 4, 0.01, 0.95, hidden=True)


def _rank_case(
    rng: np.random.Generator,
    name: str,
    shape: tuple[int, int],
    rank: int,
    noise: float,
    share: float,
    *,
    hidden: bool = False,
) -> Case:
    """Singular values that fall evenly, so that squares and plain sums need different ranks."""
    left, _ = np.linalg.qr(rng.normal(size=(shape[0], rank)))
    right, _ = np.linalg.qr(rng.normal(size=(shape[1], rank)))
    sizes = 1.5 ** -np.arange(rank) * rng.uniform(0.95, 1.05, size=rank)
    before = rng.normal(size=shape)
    after = before + (left * sizes) @ right.T + noise * rng.normal(size=shape)
    return Case(name, {"before": before, "after": after, "share": share}, hidden)


Profile = tuple[Tensor, int, str]


def _verdict(rank: int, before: Tensor) -> str:
    d_out, d_in = before.shape
    return "low rank pays" if rank * (d_out + d_in) < d_out * d_in else "train it all"


def _profiling(
    *,
    matrix: Callable[[Tensor, Tensor], Tensor] = lambda before, after: after - before,
    size: Callable[[Tensor], Tensor] = torch.square,
    least: Callable[[Tensor, float], int] = lambda kept, share: int((kept < share - 1e-12).sum()) + 1,
    verdict: Callable[[int, Tensor], str] = _verdict,
) -> Callable[..., Profile]:
    """A profile with one thing wrong; by default nothing is."""

    def rank_profile(before: Tensor, after: Tensor, share: float = 0.9) -> Profile:
        sizes = size(torch.linalg.svdvals(matrix(before, after)))
        kept = sizes.cumsum(0) / sizes.sum()
        rank = least(kept, share)
        return kept, rank, verdict(rank, before)

    return rank_profile


def _profile_by_eigenvalues(before: Tensor, after: Tensor, share: float = 0.9) -> Profile:
    change = after - before
    small = change @ change.T if change.shape[0] < change.shape[1] else change.T @ change
    squares = torch.linalg.eigvalsh(small).flip(0).clamp_min(0)
    kept = squares.cumsum(0) / squares.sum()
    rank = next(r for r, part in enumerate(kept.tolist(), start=1) if part >= share)
    return kept, rank, _verdict(rank, before)


def _profile_by_error(before: Tensor, after: Tensor, share: float = 0.9) -> Profile:
    change = after - before
    left, sizes, right = torch.linalg.svd(change, full_matrices=False)
    kept = []
    for rank in range(1, len(sizes) + 1):
        approximation = left[:, :rank] * sizes[:rank] @ right[:rank]
        kept.append(1 - (change - approximation).square().sum() / change.square().sum())
    enough = torch.stack(kept) >= share
    rank = int(enough.int().argmax()) + 1
    return torch.stack(kept), rank, _verdict(rank, before)


RANK = Exercise(
    id="lora/rank_profile",
    title="How low is the rank of an update?",
    points=3,
    minutes=30,
    difficulty=3,
    cases=rank_cases,
    probe=probes.rank_profile,
    reference=_profiling(),
    also_right=(_profile_by_eigenvalues, _profile_by_error),
    tolerance=Tolerance(absolute=1e-9, relative=1e-6),
    forbidden=LIBRARY,
    misconceptions=(
        Misconception(
            "the trained weight is measured in place of its change",
            _profiling(matrix=lambda before, after: after),
            "LoRA approximates the *change*, after − before. The weight itself is of full rank and stays.",
        ),
        Misconception(
            "the singular values are not squared",
            _profiling(size=lambda sizes: sizes),
            "The squared error of an approximation is a sum of *squared* singular values, so the share is one of "
            "squares.",
        ),
        Misconception(
            "the rank is counted from zero",
            _profiling(least=lambda kept, share: int((kept < share - 1e-12).sum())),
            "Entry 0 of the shares belongs to rank 1. Yours is one too low.",
        ),
        Misconception(
            "all singular values count as rank",
            _profiling(least=lambda kept, share: len(kept)),
            "The rank asked for is the smallest that keeps at least `share` of the change, not the full one.",
        ),
        Misconception(
            "the rank is the last below the share",
            _profiling(least=lambda kept, share: max(int((kept < share - 1e-12).sum()), 1) + 2),
            "The smallest rank that is enough is asked for. Yours is larger than it needs to be.",
        ),
        Misconception(
            "the verdict is turned round",
            _profiling(
                verdict=lambda rank, before: (
                    "low rank pays" if _verdict(rank, before) == "train it all" else "train it all"
                )
            ),
            'It is "low rank pays" where A and B together have *fewer* numbers than the weight.',
        ),
        Misconception(
            "the verdict compares the rank with the widths",
            _profiling(
                verdict=lambda rank, before: "low rank pays" if rank <= min(before.shape) else "train it all"
            ),
            "A and B have rank · (in + out) numbers, and the weight has in · out. Compare these two.",
        ),
    ),
    hints=(
        "`torch.linalg.svdvals` gives the singular values of the change, the largest first.",
        "The share that rank r keeps is the sum of the first r squares divided by the sum of all: `cumsum`.",
        "The rank is the number of shares below `share`, plus one. Then compare rank · (in + out) with in · out.",
    ),
)

# --- lora/train_adapter ------------------------------------------------------------------------


def adapter_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Bases whose task has changed by weights of low rank, which is what an adapter can learn."""
    yield _adapter_case(rng, "a new task", (6, 24, 3), 4, 0.2)
    yield _adapter_case(rng, "a wider network", (7, 32, 4), 3, 0.15, hidden=True)


def _adapter_case(
    rng: np.random.Generator,
    name: str,
    widths: tuple[int, int, int],
    rank: int,
    alpha: float,
    *,
    hidden: bool = False,
) -> Case:
    d_in, d_hidden, classes = widths

    def draw(*shape: int, size: float = 1.0) -> np.ndarray:
        return (size * rng.normal(size=shape)).astype("float32")

    first, second = draw(d_hidden, d_in, size=d_in**-0.5), draw(classes, d_hidden, size=d_hidden**-0.5)
    biases = draw(d_hidden, size=0.1), draw(classes, size=0.1)
    # Rank 2 each, and as large as the weights themselves: the base alone is wrong more often than right.
    new_first = first + draw(d_hidden, 2, size=1.2) @ draw(2, d_in, size=d_in**-0.5)
    new_second = second + draw(classes, 2, size=1.2) @ draw(2, d_hidden, size=d_hidden**-0.5)
    inputs = draw(8_000, d_in)
    scores = np.maximum(inputs @ new_first.T + biases[0], 0) @ new_second.T + biases[1]
    scores -= scores.mean(axis=0)  # every class occurs
    second_best, best = np.sort(scores, axis=1)[:, -2:].T
    clear = np.sort(np.argsort(second_best - best)[:4_000])  # the half in which little hangs on a trifle
    inputs, labels = inputs[clear], scores[clear].argmax(axis=1)
    alone = (np.maximum(inputs @ first.T + biases[0], 0) @ second.T + biases[1]).argmax(axis=1)
    if (alone == labels).mean() > 0.6:  # the tasks are too much alike: draw again
        return _adapter_case(rng, name, widths, rank, alpha, hidden=hidden)
    given: dict[str, Any] = {"first weight": first, "second weight": second}
    given |= {"first bias": biases[0], "second bias": biases[1], "rank": rank, "alpha": alpha}
    given |= {"train inputs": inputs[:3_000], "train labels": labels[:3_000], "test inputs": inputs[3_000:]}
    return Case(name, given, hidden, withheld={"labels": labels[3_000:]})


Pairs = list[tuple[Tensor, Tensor]]


def _adapting(
    *,
    steps: int = 250,
    rate: float = 3e-2,
    b_size: float = 0.0,
    a_size: float = 1.0,
    scaled: bool = True,
    frozen: bool = True,
    order: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = lambda a, b: (a, b),
) -> Callable[..., Pairs]:
    """Trains the adapters of both layers on all examples at once; by default nothing is wrong."""

    def train_adapter(base: nn.Sequential, inputs: Tensor, labels: Tensor, rank: int, alpha: float) -> Pairs:
        base.requires_grad_(not frozen)
        linears: list[Any] = [base[0], base[2]]
        pairs = []
        for linear in linears:
            a = (
                a_size
                * torch.randn(rank, linear.in_features, device=inputs.device)
                * linear.in_features**-0.5
            )
            b = b_size * torch.randn(linear.out_features, rank, device=inputs.device)
            pairs.append((a.requires_grad_(), b.requires_grad_()))
        scaling = alpha / rank if scaled else 1.0
        trained = [part for pair in pairs for part in pair] + ([] if frozen else list(base.parameters()))
        optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
        for _ in range(steps):
            x = inputs
            for place, (linear, (a, b)) in enumerate(zip(linears, pairs, strict=True)):
                x = linear(x.relu() if place else x) + scaling * (x.relu() if place else x) @ a.T @ b.T
            optimizer.zero_grad()
            F.cross_entropy(x, labels).backward()
            optimizer.step()
        return [order(a.detach(), b.detach()) for a, b in pairs]

    return train_adapter


def _adapt_by_layers(base: nn.Sequential, inputs: Tensor, labels: Tensor, rank: int, alpha: float) -> Pairs:
    model = nn.Sequential(
        *(_LoRA(layer, rank, alpha) if isinstance(layer, nn.Linear) else layer for layer in base)
    )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=2e-2)
    for _ in range(12):
        for part in torch.randperm(len(inputs), device=inputs.device).split(100):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[part]), labels[part]).backward()
            optimizer.step()
    return [(layer.A.detach(), layer.B.detach()) for layer in model if isinstance(layer, _LoRA)]


TRAIN = Exercise(
    id="lora/train_adapter",
    title="Train an adapter",
    points=4,
    minutes=50,
    difficulty=4,
    cases=adapter_cases,
    probe=probes.train_adapter,
    reference=_adapting(),
    also_right=(_adapt_by_layers, _adapting(steps=400, rate=2e-2)),
    forbidden=LIBRARY,
    gpu=True,
    seconds=30.0,
    judged={"the predictions": Score("accuracy", truth="labels", at_least=0.85)},
    misconceptions=(
        Misconception(
            "nothing is trained",
            _adapting(steps=0),
            "The adapters are as they were drawn: B is zero, so the base's own predictions come out. Give A and B "
            "to an optimizer, and take steps.",
        ),
        Misconception(
            "A and B both begin at zero",
            _adapting(a_size=0.0),
            "With A and B both zero neither gets a gradient, and training changes nothing. Draw A at random.",
        ),
        Misconception(
            "the scaling is left out while training",
            _adapting(scaled=False),
            "The change that is used is alpha / rank · B A. Train with the same factor, or what you return is "
            "several times too small.",
        ),
        Misconception(
            "the base is trained as well",
            _adapting(frozen=False),
            "The base has to stay as it was, to the bit: adapters trained beside a base that moves fit no other. "
            "Give the optimizer A and B alone.",
        ),
        Misconception(
            "B is returned before A",
            _adapting(order=lambda a, b: (b, a)),
            "Return a pair (A, B) for each layer, in this order: A has shape (rank, in), and B (out, rank).",
        ),
    ),
    hints=(
        "Make A and B for both linear layers, `base[0]` and `base[2]`, and write the forward pass out: layer, "
        "ReLU, layer, each with its change.",
        "`torch.optim.AdamW([A1, B1, A2, B2], lr=3e-2, weight_decay=0)` and some hundred steps on all examples.",
        "Each step: `x = base[0](inputs) + scaling * inputs @ A1.T @ B1.T`, then `relu`, then the second layer; "
        "`F.cross_entropy`, `backward`, `step`. `detach()` what you return.",
    ),
)

EXERCISES = (LINEAR, MERGE, QUANTIZE, DEQUANTIZE, RANK, TRAIN)
