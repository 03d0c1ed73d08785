"""What an exercise is: one entry, from which the check, the gate and the grading all follow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """One input that an answer is tried on.

    inputs: arrays, numbers, text and lists of those: what can cross to another process.
    hidden: an edge case or fresh draw that feedback to a graded learner never shows.
    device: where the probe puts the tensors ("cpu", or "cuda" for exercises marked gpu).
    """

    name: str
    inputs: Mapping[str, Any]
    hidden: bool = False
    device: str = "cpu"

    def __getitem__(self, key: str) -> Any:
        return self.inputs[key]


@dataclass(frozen=True)
class Tolerance:
    """|value - expected| ≤ absolute + relative · |expected|; `half` is both bounds for 16-bit floats."""

    absolute: float = 1e-5
    relative: float = 1e-5
    half: float = 2e-2

    def bounds(self, dtype: str) -> tuple[float, float]:
        """(absolute, relative) for values of this dtype."""
        if dtype in ("float16", "bfloat16"):
            return self.half, self.half
        return self.absolute, self.relative


@dataclass(frozen=True)
class Misconception:
    """A plausible wrong answer, and the sentence that would help whoever wrote it."""

    name: str
    answer: Any
    sentence: str


@dataclass(frozen=True)
class Exercise:
    """One exercise of one chapter.

    id: "topic/name", where topic is the chapter's ("attention/sdpa" belongs to 06_attention).
    cases: fresh cases from a generator. probe: calls the answer on a case and returns named
    values, never a verdict; it lives in `course_lib.checks.probes`, because it is the only part
    of an exercise that enters the learner's process while grading.
    reference: a right answer. also_right: two or more others, written differently.
    tolerance: one for all values, or one per name.
    steps: named intermediate values of the reference on a case, in order of computation.
    forbidden: dotted names that would give the answer away; "aten::…" names a torch operator.
    library: "module:name" of the library's own version, which is no answer to hand in.
    seconds: how long one check of this exercise may take.
    """

    id: str
    title: str
    points: int
    minutes: int
    difficulty: int
    cases: Callable[[np.random.Generator], Iterable[Case]]
    probe: Callable[[Any, Case], Values]
    reference: Any
    misconceptions: tuple[Misconception, ...]
    also_right: tuple[Any, ...]
    hints: tuple[str, str, str]
    tolerance: Tolerance | Mapping[str, Tolerance] = field(default_factory=Tolerance)
    steps: Callable[[Case], Mapping[str, np.ndarray]] | None = None
    forbidden: tuple[str, ...] = ()
    library: str | None = None
    gpu: bool = False
    seconds: float = 20.0

    def __post_init__(self) -> None:
        if self.id.count("/") != 1:
            raise ValueError(f"exercise id {self.id!r} is not of the form 'topic/name'")
        if not 1 <= self.difficulty <= 5:
            raise ValueError(f"{self.id}: difficulty={self.difficulty}, expected 1 to 5")

    @property
    def topic(self) -> str:
        """The first half of the id, which names the chapter."""
        return self.id.split("/")[0]

    @property
    def chapter(self) -> str:
        """The chapter's name, as "06_attention"."""
        from ..chapters import BY_TOPIC

        return BY_TOPIC[self.topic].name if self.topic in BY_TOPIC else self.topic

    @property
    def grade_id(self) -> str:
        """The id without a slash, as nbgrader and cell ids want it: "attention-sdpa"."""
        return self.id.replace("/", "-")

    def tolerance_of(self, name: str) -> Tolerance:
        """The tolerance for the value called `name`."""
        if isinstance(self.tolerance, Tolerance):
            return self.tolerance
        return self.tolerance.get(name, Tolerance())
