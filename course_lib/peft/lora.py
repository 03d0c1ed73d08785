"""LoRA (Hu et al. 2021): a frozen linear layer, and beside it a trained change of low rank.

Axes: … any leading axes, i width in, o width out, r rank.

    y = x Wᵀ + α/r · (x Aᵀ) Bᵀ          A (r, i) random, B (o, r) zero: at the start nothing changes

A base carries several adapters, each under its name; those in use are added up. Merged into W they cost
nothing, and unmerging puts back the very same W. Oracle: `peft` on the same base.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.peft.quantize import NF4Linear


@dataclass(frozen=True)
class LoRAConfig:
    """Which layers are adapted, and how.

    targets: names of linear layers or the ends of them, such as "query" or "feed_forward.up"; a single string
    is a regular expression for whole names. rank: r. alpha: the change is multiplied by alpha / rank, or by
    alpha / √rank where rank_stabilized (Kalajdzievski 2023). dropout: on what A reads, while training.
    """

    targets: Sequence[str] | str
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    rank_stabilized: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank={self.rank}; it is at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout}; it is at least 0 and less than 1")
        if not self.targets:
            raise ValueError("targets is empty; name the linear layers to adapt")
        if not isinstance(self.targets, str):
            object.__setattr__(self, "targets", tuple(self.targets))

    @property
    def scaling(self) -> float:
        """What the change is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)


class Adapter(nn.Module):
    """The change of low rank: (…, i) → (…, o)."""

    def __init__(self, d_in: int, d_out: int, config: LoRAConfig) -> None:
        super().__init__()
        self.config = config
        self.A = nn.Parameter(torch.empty(config.rank, d_in))
        self.B = nn.Parameter(torch.zeros(d_out, config.rank))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # as nn.Linear draws its weight

    def forward(self, x: Tensor) -> Tensor:
        """α/r · (x Aᵀ) Bᵀ: two thin products, and never the matrix B A."""
        x = F.dropout(x.to(self.A.dtype), self.config.dropout, self.training)
        return F.linear(F.linear(x, self.A), self.B) * self.config.scaling

    def change(self) -> Tensor:
        """What is added to W, (o, i)."""
        return self.B @ self.A * self.config.scaling


class LoRALinear(nn.Module):
    """A linear layer, frozen, with any number of adapters.

    base: `nn.Linear`, `NF4Linear`, or the `Conv1D` of `transformers`, whose weight is stored as (i, o).
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.turned = is_conv1d(base)
        self.in_features, self.out_features = widths(base)
        self.adapters = nn.ModuleDict()
        self.active: tuple[str, ...] = ()
        # The base's own weight while adapters are merged; in a tuple it is no parameter of this module.
        self.unmerged: tuple[nn.Parameter, ...] = ()

    def add(self, name: str, config: LoRAConfig) -> None:
        """A new adapter; in float32 where the base has fewer bits."""
        like = next(iter(self.base.state_dict().values()))
        adapter = Adapter(self.in_features, self.out_features, config).train(self.training)
        self.adapters[name] = adapter.to(like.device, torch.promote_types(like.dtype, torch.float32))

    def in_use(self) -> list[Adapter]:
        """The adapters that are added to what the base gives: the active ones, unless they are merged."""
        names = () if self.unmerged else self.active
        return [adapter for name, adapter in self.adapters.items() if name in names]  # type: ignore[misc]

    def forward(self, x: Tensor) -> Tensor:
        """(…, i) → (…, o)."""
        given = self.base(x)
        total = given
        for adapter in self.in_use():
            total = total + adapter(x)
        return total.to(given.dtype)

    @property
    def weight(self) -> Tensor:
        """The weight that this layer applies, (o, i): the base's and the changes in use, without dropout."""
        own: Tensor = self.base.weight.T if self.turned else self.base.weight  # type: ignore[assignment,union-attr,operator]
        return sum((adapter.change() for adapter in self.in_use()), start=own).to(own.dtype)

    @property
    def bias(self) -> Tensor | None:
        """The base's bias, (o,)."""
        return self.base.bias  # type: ignore[return-value]

    @torch.no_grad()
    def merge(self) -> None:
        """Put the active adapters into W."""
        if self.active and not self.unmerged:
            merged = self.weight.T.contiguous() if self.turned else self.weight
            own: nn.Parameter = self.base.weight  # type: ignore[assignment]
            self.base.weight = nn.Parameter(merged, requires_grad=False)
            self.unmerged = (own,)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Put back the W that there was: the same object, shared with whatever shared it."""
        for own in self.unmerged:
            own.data = own.data.to(self.base.weight)  # type: ignore[arg-type]
            self.base.weight = own
        self.unmerged = ()


# --- a whole model --------------------------------------------------------------------------------------


def add_adapter(model: nn.Module, config: LoRAConfig, name: str = "default") -> list[str]:
    """Give the linear layers that config.targets names an adapter, use it alone, and freeze all else.

    Returns the names of the layers. What else shall be trained, such as a new head, is set free afterwards.
    Raises ValueError where a target names no linear layer, the name is taken, or adapters are merged.
    """
    if name in adapter_names(model):
        raise ValueError(f"there is an adapter {name!r} already; choose another name")
    if not name or "." in name:
        raise ValueError(f"{name!r} cannot name an adapter; choose a name without a dot")
    _refuse_merged(model)
    paths = find_targets(linear_layers(model), config.targets)
    model.requires_grad_(False)
    for path in paths:
        layer = model.get_submodule(path)
        if not isinstance(layer, LoRALinear):
            layer = LoRALinear(layer).train(layer.training)
            model.set_submodule(path, layer)
        layer.add(name, config)
    use_adapters(model, name)
    return paths


def use_adapters(model: nn.Module, *names: str) -> None:
    """Add up these adapters and train them and no others; with no name the base works as it was.

    Raises ValueError for an adapter that there is not, or while adapters are merged.
    """
    _refuse_merged(model)
    known = adapter_names(model)
    for name in names:
        if name not in known:
            raise ValueError(f"there is no adapter {name!r}; the model has {', '.join(known) or 'none'}")
    for _, layer in adapted_layers(model):
        layer.active = tuple(name for name in names if name in layer.adapters)
        for name, adapter in layer.adapters.items():
            adapter.requires_grad_(name in names)


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """The base as it was, for as long as the context is open. Raises ValueError while adapters are merged."""
    _refuse_merged(model)
    active = [(layer, layer.active) for _, layer in adapted_layers(model)]
    try:
        for layer, _ in active:
            layer.active = ()
        yield
    finally:
        for layer, names in active:
            layer.active = names


def merge(model: nn.Module) -> None:
    """Put the active adapters into the weights of the base, so that they cost nothing more.

    Each weight keeps its dtype. Raises ValueError, and merges nothing, where a base is in four bits.
    """
    for path, layer in adapted_layers(model):
        if layer.active and isinstance(layer.base, NF4Linear):
            raise ValueError(f"{path} is in four bits, too few for a merged weight; dequantise it first")
    for _, layer in adapted_layers(model):
        layer.merge()


def unmerge(model: nn.Module) -> None:
    """Put the weights of the base back, bit for bit."""
    for _, layer in adapted_layers(model):
        layer.unmerge()


def remove_adapters(model: nn.Module) -> None:
    """Take the adapters away. What was merged stays; the model has plain layers again."""
    for path, layer in adapted_layers(model):
        model.set_submodule(path, layer.base)


def adapter_names(model: nn.Module) -> list[str]:
    """The names of all adapters of a model, in the order in which they came."""
    return list(dict.fromkeys(name for _, layer in adapted_layers(model) for name in layer.adapters))


def adapted_layers(model: nn.Module) -> list[tuple[str, LoRALinear]]:
    """The layers that have adapters, with their names."""
    return [(path, layer) for path, layer in model.named_modules() if isinstance(layer, LoRALinear)]


def find_targets(paths: Sequence[str], targets: Sequence[str] | str) -> list[str]:
    """Those of the layers' names that are meant, as in LoRAConfig; ValueError where a target fits none."""
    if isinstance(targets, str):
        found = [path for path in paths if re.fullmatch(targets, path)]
        unknown = [] if found else [targets]
    else:
        found = [path for path in paths if any(ends_with(path, target) for target in targets)]
        unknown = [target for target in targets if not any(ends_with(path, target) for path in paths)]
    if unknown:
        ends = ", ".join(sorted({path.rpartition(".")[2] for path in paths}))
        raise ValueError(f"no linear layer is named {unknown[0]!r}; their names end with {ends or 'nothing'}")
    return found


def ends_with(path: str, target: str) -> bool:
    """Whether the last parts of a dotted name are these.

    >>> ends_with("blocks.0.attention.query", "query"), ends_with("blocks.0.subquery", "query")
    (True, False)
    """
    return f".{path}".endswith(f".{target}")


def linear_layers(model: nn.Module) -> list[str]:
    """The names of all layers that can be adapted, and of those that are."""
    bases = {id(layer.base) for _, layer in adapted_layers(model)}
    return [
        path
        for path, layer in model.named_modules()
        if (isinstance(layer, (nn.Linear, NF4Linear, LoRALinear)) or is_conv1d(layer))
        and id(layer) not in bases
        and path
    ]


def is_conv1d(layer: nn.Module) -> bool:
    """Whether a layer is what the GPT-2 of `transformers` has for linear layers."""
    return type(layer).__name__ == "Conv1D"


def widths(layer: nn.Module) -> tuple[int, int]:
    """The widths of what goes into a linear layer and of what comes out."""
    return (layer.nx, layer.nf) if is_conv1d(layer) else (layer.in_features, layer.out_features)  # type: ignore[return-value]


def _refuse_merged(model: nn.Module) -> None:
    if any(layer.unmerged for _, layer in adapted_layers(model)):
        raise ValueError("adapters are merged into the base; unmerge them first")


# --- counting -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainableTable:
    """What is trained, tensor by tensor, against the whole model.

    rows: (name, shape, numbers, bytes) of each trained tensor. numbers, bytes: of the whole model, where a
    weight in four bits counts its numbers once and the bytes that it takes.
    """

    rows: tuple[tuple[str, tuple[int, ...], int, int], ...]
    numbers: int
    bytes: int

    @property
    def trained_numbers(self) -> int:
        """How many numbers are trained."""
        return sum(count for _, _, count, _ in self.rows)

    @property
    def trained_bytes(self) -> int:
        """The bytes that they take."""
        return sum(size for *_, size in self.rows)

    @property
    def share(self) -> float:
        """The part of the model's numbers that is trained, 0 to 1."""
        return self.trained_numbers / max(self.numbers, 1)

    @property
    def training_bytes(self) -> int:
        """The model, and for all that is trained a gradient and AdamW's two averages; without activations."""
        return self.bytes + 3 * self.trained_bytes

    def __str__(self) -> str:
        width = max([len(name) for name, *_ in self.rows] + [len("whole model")])
        line = f"{{:<{width}}} {{:>14}} {{:>13}} {{:>9}} {{:>14}}".format
        lines = [line("trained tensor", "shape", "numbers", "share", "bytes")]
        for name, shape, count, size in self.rows:
            sizes, share = " × ".join(map(str, shape)), count / max(self.numbers, 1)
            lines.append(line(name, sizes, f"{count:,}", f"{share:.3%}", f"{size:,}"))
        trained = f"{self.trained_numbers:,}", f"{self.share:.3%}", f"{self.trained_bytes:,}"
        lines.append(line("all trained", "", *trained))
        lines.append(line("whole model", "", f"{self.numbers:,}", "100.000%", f"{self.bytes:,}"))
        return "\n".join(lines)


def trainable_table(model: nn.Module) -> TrainableTable:
    """Count what is trained and the whole model; a tensor that is used twice counts once."""
    rows = tuple(
        (name, tuple(values.shape), values.numel(), values.nbytes)
        for name, values in model.named_parameters()
        if values.requires_grad
    )
    packed = sum(layer.count for layer in model.modules() if isinstance(layer, NF4Linear))
    size = sum(values.nbytes for values in [*model.parameters(), *model.buffers()])
    return TrainableTable(rows, sum(values.numel() for values in model.parameters()) + packed, size)
