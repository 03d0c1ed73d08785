"""A training on disk, to go on from: weights, the optimiser's moments and history in one safetensors file.

Random numbers need no place in it: those of a step follow from the seed and the step's number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from course_lib.atomic import write_bytes
from course_lib.training.config import TrainConfig
from course_lib.training.history import History

ABOUT = "course_lib.training"  # the only entry of the metadata: several would have no fixed order
MOMENTS = ("step", "exp_avg", "exp_avg_sq", "momentum_buffer")


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    history: History,
    config: TrainConfig,
) -> None:
    """Write all that the next step depends on, atomically: the file is the old one or the new one."""
    tensors = {f"model.{name}": tensor for name, tensor in _named(model).items()}
    for name, parameter in model.named_parameters():
        for optimizer in optimizers:
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{key}.{name}"] = value
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    about = {"config": config.fixed(), "history": asdict(history)}
    write_bytes(path, save(stored, metadata={ABOUT: json.dumps(about)}))


def load_checkpoint(
    path: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], config: TrainConfig
) -> History:
    """Put back what was saved, and return the history up to there.

    Raises ValueError for a file that is damaged, is no checkpoint, or is of another model or configuration.
    """
    metadata, tensors = _read(path)
    if ABOUT not in metadata:
        raise ValueError(f"{path} is not a checkpoint of this loop; choose another file to write to")
    about, here = json.loads(metadata[ABOUT]), config.fixed()
    there = TrainConfig(steps=1).fixed() | about["config"]  # settings that are newer than the file
    differing = [name for name in here if there.get(name) != here[name]]
    if differing:
        other = [f"{name} {there.get(name)} there, {here[name]} here" for name in differing]
        raise ValueError(f"{path} is of another run ({'; '.join(other)}); delete it, or choose another file")
    _copy(path, _named(model), {name[6:]: t for name, t in tensors.items() if name.startswith("model.")})
    owners = {p: optimizer for optimizer in optimizers for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in model.named_parameters():
        for key in MOMENTS:
            stored = tensors.get(f"optimizer.{key}.{name}")
            if stored is not None:
                owners[parameter].state[parameter][key] = stored.to(parameter.device)
    return History(**about["history"])


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            return stored.metadata() or {}, tensors
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file ({error}); delete it") from error


def _copy(path: Path, into: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> None:
    if {name: tensor.shape for name, tensor in into.items()} != {n: t.shape for n, t in stored.items()}:
        raise ValueError(f"{path} holds the weights of another model; delete it, or choose another file")
    with torch.no_grad():
        for name, tensor in into.items():
            tensor.copy_(stored[name])


def _named(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and stored buffers, each once even where two layers share it."""
    kept = model.state_dict(keep_vars=True)
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: kept[name] for name, _ in named if name in kept}
