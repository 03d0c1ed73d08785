"""The files of a published checkpoint: a folder with `config.json` and the weights as safetensors.

The weights are one `model.safetensors`, or several files that `model.safetensors.index.json` lists. Only
numbers and names are read; nothing is unpickled. What is wrong with a folder is said in one sentence.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from course_lib.atomic import write_bytes, write_text

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"

# Activations by the names of published configurations, and by ours.
ACTIVATIONS = {
    "relu": "relu",
    "relu2": "relu2",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "swish": "silu",
    "silu": "silu",
}


class CheckpointError(ValueError):
    """A folder holds no checkpoint that can be read; the message says what to do."""


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} has no {path.name}; give the folder of a checkpoint") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error}); fetch it again") from None
    if not isinstance(given, dict):
        raise CheckpointError(f"{path} holds a {type(given).__name__}; expected an object with settings")
    return given


def read_config(folder: Path, *kinds: str) -> dict[str, Any]:
    """The settings in `config.json`, whose model_type must be one of `kinds`."""
    given = read_json(folder / CONFIG)
    if given.get("model_type") not in kinds:
        expected = " or ".join(repr(kind) for kind in kinds)
        raise CheckpointError(
            f"{folder / CONFIG} describes a model of type {given.get('model_type')!r}; expected {expected}"
        )
    return given


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, as float32."""
    if (folder / WEIGHTS).is_file():
        return _read_file(folder / WEIGHTS)
    if not (folder / INDEX).is_file():
        pickled = (folder / "pytorch_model.bin").exists() or any(folder.glob("pytorch_model*.bin"))
        advice = (
            "pytorch_model.bin is a pickle, which can run code when opened; fetch the safetensors file"
            if pickled
            else "give the folder of a checkpoint"
        )
        raise CheckpointError(f"{folder} has no {WEIGHTS}; {advice}")
    places = shard_names(folder / INDEX)
    weights: dict[str, Tensor] = {}
    for name in sorted(set(places.values())):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} has no {name}, which {INDEX} lists; fetch it")
        weights |= _read_file(folder / name)
    for tensor, name in places.items():
        if tensor not in weights:
            raise CheckpointError(f"{name} lacks {tensor}, which {INDEX} says is in it; fetch it again")
    return weights


def shard_names(index: Path) -> dict[str, str]:
    """The file of each tensor, as an index lists them; only files in the same folder are accepted."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{index} has no weight_map; fetch it again")
    for name in places.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{index} lists {name!r}, which is no safetensors file of this folder")
    return places


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        return {name: values.float() for name, values in load_file(path).items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or incomplete ({error}); fetch it again") from None


def expected_shapes(build: Callable[[], nn.Module]) -> dict[str, tuple[int, ...]]:
    """The shapes of a model's tensors, without the numbers."""
    try:
        with torch.device("meta"):
            return {name: tuple(values.shape) for name, values in build().state_dict().items()}
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{CONFIG} describes no model that can be built ({error})") from None


def check_fit(
    expected: Mapping[str, tuple[int, ...]],
    weights: Mapping[str, Tensor],
    called: Callable[[str], str] = str,
) -> None:
    """Raise CheckpointError unless the weights are those of the model. called: their published names."""
    for name in sorted(expected.keys() | weights.keys()):
        if name not in weights:
            raise CheckpointError(f"{WEIGHTS} lacks {called(name)}; fetch it again")
        if name not in expected:
            raise CheckpointError(f"{WEIGHTS} has {called(name)}, which {CONFIG} leaves no room for")
        found, wanted = tuple(weights[name].shape), expected[name]
        if found != wanted:
            raise CheckpointError(f"{called(name)} has shape {found}, but by {CONFIG} it is {wanted}")


def write_checkpoint(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Write both files, each of them whole or not at all."""
    stored = {name: values.detach().cpu().contiguous() for name, values in weights.items()}
    write_text(folder / CONFIG, json.dumps(dict(config), indent=2, sort_keys=True) + "\n")
    write_bytes(folder / WEIGHTS, save(stored, metadata={"format": "pt"}))
