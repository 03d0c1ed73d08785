"""What a training was like: losses, learning rates and evaluations, which draw themselves."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from course_lib.viz import Picture


@dataclass
class History:
    """One entry a step, in nats per target: `losses`; the rate that the step used: `learning_rates`.

    evaluations: what `evaluate` returned, and under "step" after how many steps.
    """

    losses: list[float] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """How many steps were made."""
        return len(self.losses)

    def smoothed(self, points: int = 100) -> tuple[list[float], list[float]]:
        """At most `points` means of neighbouring losses: the step in the middle of each, and the mean."""
        every = -(-self.steps // points) or 1
        parts = [self.losses[first : first + every] for first in range(0, self.steps, every)]
        middles = [index * every + (len(part) + 1) / 2 for index, part in enumerate(parts)]
        return middles, [sum(part) / len(part) for part in parts]

    def plot(self, title: str | None = None) -> Picture:
        """The loss over the steps, and beside it every quantity that was evaluated."""
        from course_lib.viz.history import draw_history

        if not self.losses:
            raise ValueError("there is nothing to draw yet: the history has no steps")
        return draw_history(*self.smoothed(), self.evaluations, title=title)

    def to_json(self) -> str:
        """All numbers, exactly."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> History:
        """The history that `to_json` wrote."""
        return cls(**json.loads(text))
