"""What runs in the learner's process: a probe calls an answer on a case and returns values.

A probe holds no expected value, no reference and no misconception; a graded run sends this package
into the sandbox and nothing else of an exercise.
"""

from __future__ import annotations

from typing import Any

DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "bool")


def tensor(data: Any, device: str = "cpu", dtype: str | None = None, requires_grad: bool = False) -> Any:
    """A fresh tensor of a case's array, on the case's device."""
    import torch

    made = torch.as_tensor(data)
    if dtype is not None:
        made = made.to(getattr(torch, dtype))
    return made.to(device).clone().requires_grad_(requires_grad)
