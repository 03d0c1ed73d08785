"""Adapters in files as the library `peft` has them: `adapter_config.json` and `adapter_model.safetensors`.

An adapter fits the model that it was made for, by the names of its layers. For our GPT-2, BERT, RoBERTa and
DistilBERT it can have the names that their layers have in `transformers`, so that one adapter serves both.
Only numbers and names are read; nothing is unpickled. What is wrong with a folder is said in one sentence.
Oracle: `peft`, which reads what is written here and writes what is read here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from course_lib.atomic import write_bytes, write_text
from course_lib.models.bert import BERT
from course_lib.models.checkpoint_files import CheckpointError, read_json
from course_lib.models.gpt import GPT
from course_lib.models.published import FAMILIES, kind_of
from course_lib.peft.lora import (
    LoRAConfig,
    adapted_layers,
    adapter_names,
    add_adapter,
    find_targets,
    linear_layers,
    widths,
)

CONFIG, WEIGHTS, PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model."
PARTS = {".lora_A.weight": "A", ".lora_B.weight": "B"}
# Settings that are read, and those that say nothing of what the adapter computes; all others have to be off.
READ = {"peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules", "init_lora_weights"}
SILENT = {
    "task_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
}
SILENT |= {"fan_in_fan_out", "megatron_core", "qalora_group_size", "layers_pattern", "ensure_weight_tying"}
# Ways to begin that leave the base as it is; others, such as "pissa", change it when an adapter is loaded.
BEGINNINGS = (True, False, None, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True)
class AdapterFile:
    """What a folder holds. weights: for each layer by its name there, A (r, i) and B (o, r)."""

    config: LoRAConfig
    weights: dict[str, dict[str, Tensor]]


def save_adapter(
    model: nn.Module,
    folder: str | Path,
    name: str = "default",
    *,
    published: bool = False,
    base: str | None = None,
) -> None:
    """Write an adapter so that `load_adapter` reads it, and `peft` on the same model.

    published: layers by the names that they have in `transformers`; only for our GPT and BERT. base: name or
    folder of the base model, for those who look for it. Raises ValueError for an adapter that there is not,
    and CheckpointError where a layer has no name there; then nothing is written.
    """
    layers = [(path, layer) for path, layer in adapted_layers(model) if name in layer.adapters]
    if not layers:
        known = ", ".join(adapter_names(model)) or "none"
        raise ValueError(f"there is no adapter {name!r}; the model has {known}")
    names = published_names(model) if published else {path: (path, layer.turned) for path, layer in layers}
    weights: dict[str, Tensor] = {}
    for path, layer in layers:
        if path not in names:
            raise CheckpointError(f"{path} is not one layer of its own in transformers; adapt other layers")
        for end, part in PARTS.items():
            values: Tensor = getattr(layer.adapters[name], part)
            weights[PREFIX + names[path][0] + end] = values.detach().cpu().contiguous()
    config: LoRAConfig = layers[0][1].adapters[name].config  # type: ignore[assignment]
    if published:
        config = replace(config, targets=[names[path][0] for path, _ in layers])
    settings = written(config) | {
        "base_model_name_or_path": base,
        "fan_in_fan_out": any(names[path][1] for path, _ in layers),
    }
    write_text(Path(folder) / CONFIG, json.dumps(settings, indent=2, sort_keys=True) + "\n")
    write_bytes(Path(folder) / WEIGHTS, save(weights, metadata={"format": "pt"}))


def load_adapter(model: nn.Module, folder: str | Path, name: str = "default") -> list[str]:
    """Add the adapter in a folder, ours or one of `peft`, and use it alone; returns the layers' names.

    Layers may have the names of this model or, for our GPT and BERT, those in `transformers`. Raises
    CheckpointError where files are missing, damaged, of another method or for another model, and ValueError
    where the name is taken; then the model is as before.
    """
    file = read_adapter(folder)
    paths = {path: path for path in linear_layers(model)}
    if not file.weights.keys() & paths.keys():
        paths = by_published_names(model, file)
    try:
        wanted = find_targets(list(paths), file.config.targets)
    except ValueError as error:
        raise CheckpointError(f"{folder} has an adapter for another model: {error}") from None
    for there in sorted(file.weights.keys() | set(wanted)):
        if there not in file.weights:
            raise CheckpointError(f"{Path(folder) / WEIGHTS} lacks {there}, a target by {CONFIG}")
        if there not in wanted:
            raise CheckpointError(f"{folder} has an adapter for another model: this one has no {there}")
        d_in, d_out = widths(model.get_submodule(paths[there]))
        expected = {"A": (file.config.rank, d_in), "B": (d_out, file.config.rank)}
        for part, values in file.weights[there].items():
            if tuple(values.shape) != expected[part]:
                raise CheckpointError(
                    f"{folder} has an adapter for another model: {part} of {there} has shape "
                    f"{tuple(values.shape)}, but here it is {expected[part]}"
                )
    ours = {paths[there]: parts for there, parts in file.weights.items()}
    targets = file.config.targets if set(ours) <= file.weights.keys() else list(ours)
    added = add_adapter(model, replace(file.config, targets=targets), name)
    for path, layer in adapted_layers(model):
        if path in ours:
            layer.adapters[name].load_state_dict(ours[path])
    return added


def read_adapter(folder: str | Path) -> AdapterFile:
    """The configuration and the numbers in a folder. Raises CheckpointError."""
    folder = Path(folder)
    config = read_settings(read_json(folder / CONFIG))
    if not (folder / WEIGHTS).is_file():
        pickled = (folder / "adapter_model.bin").exists()
        advice = (
            "adapter_model.bin is a pickle, which can run code when opened; fetch the safetensors file"
            if pickled
            else "give the folder of an adapter"
        )
        raise CheckpointError(f"{folder} has no {WEIGHTS}; {advice}")
    try:
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder / WEIGHTS} is damaged or incomplete ({error}); fetch it again"
        ) from None
    weights: dict[str, dict[str, Tensor]] = {}
    for key, values in tensors.items():
        ends = [end for end in PARTS if key.startswith(PREFIX) and key.endswith(end)]
        if not ends:
            raise CheckpointError(f"{folder / WEIGHTS} has {key}, which no adapter of a linear layer has")
        path = key.removeprefix(PREFIX).removesuffix(ends[0])
        weights.setdefault(path, {})[PARTS[ends[0]]] = values
    for path, parts in weights.items():
        if len(parts) < len(PARTS):
            raise CheckpointError(f"{folder / WEIGHTS} has {next(iter(parts))} of {path} alone")
    return AdapterFile(config, weights)


def read_settings(given: Mapping[str, Any]) -> LoRAConfig:
    """The settings of `peft` as ours; CheckpointError where one is missing, unknown or not supported."""
    if given.get("peft_type") != "LORA":
        raise CheckpointError(f"{CONFIG} describes an adapter of type {given.get('peft_type')!r}, not 'LORA'")
    for name in sorted(given.keys() - READ - SILENT):
        if given[name] and given[name] != "none":
            raise CheckpointError(f"{CONFIG} has {name}={given[name]!r}, which is not supported")
    if given.get("init_lora_weights", True) not in BEGINNINGS:
        raise CheckpointError(
            f"{CONFIG} has init_lora_weights={given['init_lora_weights']!r}, which changes the base; "
            "convert the adapter to plain LoRA first"
        )
    targets = given.get("target_modules")
    named = isinstance(targets, list) and all(isinstance(target, str) for target in targets)
    if not (named or isinstance(targets, str)):
        raise CheckpointError(f"{CONFIG} has target_modules={targets!r}; expected names or a pattern")
    try:
        return LoRAConfig(
            targets,  # type: ignore[arg-type]
            rank=given["r"],
            alpha=given["lora_alpha"],
            dropout=given.get("lora_dropout", 0.0),
            rank_stabilized=given.get("use_rslora", False),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{CONFIG} lacks, or has an unknown value for, {error}") from None


def written(config: LoRAConfig) -> dict[str, Any]:
    """Our settings as those of `peft`."""
    return {
        "peft_type": "LORA",
        "task_type": None,
        "inference_mode": True,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "use_rslora": config.rank_stabilized,
        "target_modules": config.targets if isinstance(config.targets, str) else list(config.targets),
        "bias": "none",
        "init_lora_weights": True,
        "modules_to_save": None,
    }


def published_names(model: nn.Module) -> dict[str, tuple[str, bool]]:
    """For the layers of our GPT or BERT: their names in `transformers`, and if they are stored turned there.

    Layers that are several there are left out. Raises CheckpointError for other models.
    """
    if not isinstance(model, GPT | BERT):
        raise CheckpointError(f"a {type(model).__name__} has no layers with names in transformers")
    entries = FAMILIES[kind_of(model.config)].entries(model.config)
    return {
        entry.ours.removesuffix(".weight"): (entry.published[0].removesuffix(".weight"), entry.turned)
        for entry in entries
        if entry.ours.endswith(".weight") and len(entry.published) == 1
    }


def by_published_names(model: nn.Module, file: AdapterFile) -> dict[str, str]:
    """Our name of each linear layer by the one in `transformers`; nothing where the model is not ours."""
    if not isinstance(model, GPT | BERT):
        return {}
    prefix = FAMILIES[kind_of(model.config)].prefix
    bare = not any(there.startswith(prefix) for there in file.weights)  # made for a model without a head
    names = {ours: there for ours, (there, _) in published_names(model).items()}
    found = {names[path]: path for path in linear_layers(model) if path in names}
    return {there.removeprefix(prefix): path for there, path in found.items()} if bare else found
