"""What a training is told besides its model, its data and its loss."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from course_lib.training.schedules import SCHEDULES, Schedule

# These may change between a run and its continuation; all others would make it another run.
FREE = ("device", "checkpoint", "checkpoint_every")


@dataclass(frozen=True)
class TrainConfig:
    """How to train. Weight decay falls on matrices, not on biases and norms.

    steps: updates of the weights. learning_rate: the highest one. warmup, schedule: what becomes of it, see
    `schedule_factor`. optimizer: "muon" takes it for the matrices inside blocks, with matrix_learning_rate,
    and AdamW for all else. clip: the longest gradient, None for any length. accumulate: parts that a batch is
    cut into, to need less memory; the result is the same. seed: of the random numbers that the model draws.
    device: "auto" is CUDA where there is one. dtype: of matrix products; "auto" is bfloat16 where the
    processor has units for it and the matrices are wide enough to gain by it, see `narrow_pays`.
    evaluate_every: steps between evaluations, the last step is always one; None evaluates only there.
    checkpoint: a file to continue from, written every `checkpoint_every` steps and at the end.
    """

    steps: int
    learning_rate: float = 1e-3
    warmup: int = 0
    schedule: Schedule = "constant"
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-9
    optimizer: Literal["adamw", "muon"] = "adamw"
    matrix_learning_rate: float = 0.02
    weight_decay: float = 0.0
    clip: float | None = 1.0
    accumulate: int = 1
    seed: int = 0
    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    evaluate_every: int | None = None
    checkpoint: Path | None = None
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        least = {
            "steps": 1,
            "warmup": 0,
            "accumulate": 1,
            "seed": 0,
            "checkpoint_every": 1,
            "evaluate_every": 1,
        }
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise ValueError(f"{name}={value}; it is at least {bound}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule={self.schedule!r}; expected one of {', '.join(SCHEDULES)}")
        if self.optimizer not in ("adamw", "muon"):
            raise ValueError(f"optimizer={self.optimizer!r}; expected adamw or muon")
        if self.dtype not in ("float32", "bfloat16", "auto"):
            raise ValueError(f"dtype={self.dtype!r}; expected float32, bfloat16 or auto")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip={self.clip}; it is more than 0, or None for no limit")

    def fixed(self) -> dict[str, Any]:
        """What a continued run has to agree on, as JSON holds it."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if name not in FREE
        }
