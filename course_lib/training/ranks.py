"""The processes of a training under `torchrun`: each takes a part of every batch, and all keep equal weights.

Without `torchrun` there is one process, and every function here does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import reduce

import torch
import torch.distributed as dist
from torch import Tensor

from course_lib.device import pick_device


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def together(device: str) -> Iterator[torch.device]:
    """Join the other processes that `torchrun` started, for as long as the context is open.

    Yields this process's device; "auto" picks CUDA where there is one, and each process its own GPU.
    """
    chosen = pick_device(None if device == "auto" else device)
    if chosen.type == "cuda" and chosen.index is None and "LOCAL_RANK" in os.environ:
        chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(chosen)
    joins = dist.is_torchelastic_launched() and not dist.is_initialized()
    if joins:
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield chosen
    finally:
        if joins:
            dist.destroy_process_group()


def add_up(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over all processes, in one message."""
    if world_size() == 1:
        return
    dtype = reduce(torch.promote_types, [tensor.dtype for tensor in tensors])
    message = torch.cat([tensor.reshape(-1).to(dtype) for tensor in tensors])
    dist.all_reduce(message)
    parts = message.split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))


def take_from_first(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by that of process 0."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def wait_for_all() -> None:
    """Go on when every process has come here."""
    if world_size() > 1:
        dist.barrier()
