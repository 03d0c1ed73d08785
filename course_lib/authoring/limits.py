"""How long a lesson may take, and how much it may use."""

from __future__ import annotations

import os
from dataclasses import dataclass

GIBIBYTE = 2**30
SCALE_VARIABLE = "COURSE_TIME_SCALE"


@dataclass(frozen=True)
class Limits:
    """Seconds and bytes. A cell that runs `patience` times its limit is interrupted."""

    cell_seconds: float = 45.0
    lesson_seconds: float = 90.0
    memory_bytes: int = 2 * GIBIBYTE
    notebook_bytes: int = 1_000_000
    patience: float = 3.0

    @property
    def interrupt_after(self) -> float:
        """Seconds after which a cell is interrupted."""
        return self.cell_seconds * self.patience


def limits_from_environment() -> Limits:
    """The course's limits; COURSE_TIME_SCALE stretches the times on a slow machine.

    Raises ValueError when the variable is not a positive number.
    """
    given = os.environ.get(SCALE_VARIABLE, "1")
    try:
        scale = float(given)
    except ValueError:
        scale = 0.0
    if not scale > 0:
        raise ValueError(f"{SCALE_VARIABLE}={given!r}: expected a positive number such as 2")
    standard = Limits()
    return Limits(cell_seconds=standard.cell_seconds * scale, lesson_seconds=standard.lesson_seconds * scale)
