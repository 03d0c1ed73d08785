"""Where the computation runs: one choice for a whole notebook."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def pick_device(prefer: str | None = None) -> torch.device:
    """The device of this notebook: CUDA where there is one, else the CPU.

    prefer: "cpu", "cuda", "mps" …; the environment variable COURSE_DEVICE has the same effect.
    Raises ValueError when the preferred device is not on this machine.
    """
    import torch

    name = prefer or os.environ.get("COURSE_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} was asked for, but torch sees no CUDA device; use 'cpu'")
    return device


def set_seed(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators, so that a rerun draws the same numbers."""
    import random

    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
