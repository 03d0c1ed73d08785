"""What runs in the learner's process: a probe calls an answer on a case and returns values.

A probe holds no expected value, no reference and no misconception; a graded run sends this package
into the sandbox and nothing else of an exercise.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_made: list[tuple[Any, int, Any]] = []


@contextmanager
def watched_inputs() -> Iterator[list[tuple[Any, int, Any]]]:
    """The tensors that `tensor` makes meanwhile: each with its version, and a copy of its numbers."""
    _made.clear()
    yield _made
    _made.clear()


def were_changed(made: list[tuple[Any, int, Any]]) -> bool:
    """Whether any of these tensors was written into since it was made."""
    import torch

    for given, version, copy in made:
        if given._version != version:
            return True
        if given.device.type != "meta" and not torch.equal(given.detach().isnan(), copy.isnan()):
            return True
        if given.device.type != "meta" and not torch.equal(given.detach().nan_to_num(), copy.nan_to_num()):
            return True
    return False


def tensor(data: Any, device: str = "cpu", dtype: str | None = None, requires_grad: bool = False) -> Any:
    """A fresh tensor of a case's array, on the case's device."""
    import torch

    made = torch.as_tensor(data)
    if dtype is not None:
        made = made.to(getattr(torch, dtype))
    given = made.to(device).clone().requires_grad_(requires_grad)
    _made.append((given, given._version, given.detach().clone()))
    return given
