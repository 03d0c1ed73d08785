"""Learning rates over the steps of a training, as functions that can be drawn."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias, get_args

Schedule: TypeAlias = Literal["constant", "inverse_sqrt", "cosine", "linear"]
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)


def schedule_factor(schedule: Schedule, step: int, steps: int, warmup: int = 0) -> float:
    """What the highest learning rate is multiplied by at `step`, counted from 0.

    It rises in a straight line to 1 over `warmup` steps; then it stays ("constant"), falls with the root of
    the step ("inverse_sqrt", Vaswani et al. 2017), or falls to 0 behind the last step ("linear", "cosine").

    >>> [schedule_factor("linear", step, steps=6, warmup=2) for step in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule={schedule!r}; expected one of {', '.join(SCHEDULES)}")
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    if schedule == "inverse_sqrt":
        return math.sqrt(max(1, warmup) / (step + 1))
    done = (step - warmup) / (steps - warmup)
    return 1 - done if schedule == "linear" else (1 + math.cos(math.pi * done)) / 2


def paper_rate(step: int, d_model: int, warmup: int) -> float:
    """The learning rate of Vaswani et al. 2017, eq. 3; here the first step is number 1.

    It equals `schedule_factor("inverse_sqrt", step - 1, …)` times its peak, 1 / √(d_model · warmup).
    """
    if step < 1 or warmup < 1:
        raise ValueError(f"step={step}, warmup={warmup}; both are counted from 1")
    return d_model**-0.5 * min(step**-0.5, step * warmup**-1.5)
