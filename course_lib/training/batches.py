"""Batches: a tensor, or a tuple, list, dict or dataclass of tensors, whose first axis counts examples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor


class Batches(Protocol):
    """Data to train on. The same step always gives the same batch, so that a run can be continued."""

    def batch(self, step: int) -> Any:
        """The batch of a step, counted from 0."""


def take_part(batch: Any, part: int, parts: int, device: torch.device) -> Any:
    """Every parts-th example, from number `part` on, on the device; None where there is none."""
    sizes: list[int] = []
    map_tensors(batch, lambda tensor: sizes.append(len(tensor)))
    if part >= max(sizes, default=0):
        return None
    return map_tensors(batch, lambda tensor: tensor[part::parts].to(device, non_blocking=True))


def map_tensors(batch: Any, change: Callable[[Tensor], Any]) -> Any:
    """The same structure with every tensor changed; None, numbers and text stay."""
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, dict):
        return {name: map_tensors(value, change) for name, value in batch.items()}
    if isinstance(batch, tuple | list):
        return type(batch)(map_tensors(value, change) for value in batch)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        names = [field.name for field in dataclasses.fields(batch)]
        return type(batch)(**{name: map_tensors(getattr(batch, name), change) for name in names})
    return batch
