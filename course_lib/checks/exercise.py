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
    withheld: truth that predictions are judged by, as arrays by name. It stays with whoever decides: no
    probe, no answer and no learner's process is given it.
    timed: measured for speed, on a GPU; without one the case is left out. Give it few inputs (a seed and a
    shape, say) and enough work, because the time includes the inputs' way to the answer.
    """

    name: str
    inputs: Mapping[str, Any]
    hidden: bool = False
    device: str = "cpu"
    withheld: Mapping[str, Any] = field(default_factory=dict)
    timed: bool = False

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


# Measures of predictions against the truth, and whether more of one is better.
MEASURES = {
    "accuracy": True,
    "correlation": True,
    "mean squared error": False,
    "negative log-likelihood": False,
}


@dataclass(frozen=True)
class Score:
    """A bar for predictions: `Score("accuracy", at_least=0.9, truth="labels")`.

    measure: "accuracy" of whole numbers; "mean squared error" or "correlation" (Pearson's) of numbers;
    "negative log-likelihood" (in nats, the mean) of log-probabilities with the classes on the last axis.
    truth: the name in `Case.withheld` of what is predicted. at_least, at_most: the bar, one of them; it
    should leave room for the luck of a draw, because every right answer has to reach it on every seed.
    """

    measure: str
    truth: str
    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise ValueError(f"measure={self.measure!r}, expected one of {', '.join(MEASURES)}")
        given, other = ("at_least", "at_most") if MEASURES[self.measure] else ("at_most", "at_least")
        if getattr(self, given) is None or getattr(self, other) is not None:
            raise ValueError(f"{self.measure} needs {given}, and not {other}")

    @property
    def bar(self) -> float:
        """The least or the most that is enough."""
        bar = self.at_most if self.at_least is None else self.at_least
        assert bar is not None
        return bar

    def reached(self, measured: float) -> bool:
        """Whether a measured value is good enough; NaN never is."""
        return measured >= self.bar if MEASURES[self.measure] else measured <= self.bar


@dataclass(frozen=True)
class Speed:
    """Points beside the exercise's own, for an answer that is right and fast on the cases marked timed.

    at_most: the answer's time, divided by the reference's. repeats: how often each timed case is drawn,
    with other inputs each time, so that nothing can be remembered; the median counts.
    """

    points: int
    at_most: float
    repeats: int = 5

    def __post_init__(self) -> None:
        if self.points < 1 or self.repeats < 1 or not self.at_most > 0:
            raise ValueError(f"{self}: points, at_most and repeats are more than zero")


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
    judged: by a value's name, how good it has to be. Such a value is compared with no reference: it is
    measured against the truth that its case withholds, outside the learner's code.
    steps: named intermediate values of the reference on a case, in order of computation.
    forbidden: dotted names that give the answer away, of modules too; "aten::…" names a torch operator.
    library: "module:name" of the library's own version, which is no answer to hand in.
    seconds: how long one check of this exercise may take.
    speed: further points for speed, given where a GPU is and nowhere else.
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
    judged: Mapping[str, Score] = field(default_factory=dict)
    speed: Speed | None = None

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

    @property
    def probe_name(self) -> str:
        """The probe as `Worker.run` wants it: "attention.sdpa" is `sdpa` in `checks/probes/attention.py`."""
        return f"{self.probe.__module__.rsplit('.', 1)[-1]}.{self.probe.__name__}"

    def tolerance_of(self, name: str) -> Tolerance:
        """The tolerance for the value called `name`."""
        if isinstance(self.tolerance, Tolerance):
            return self.tolerance
        return self.tolerance.get(name, Tolerance())
