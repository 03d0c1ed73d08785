"""Deciding: run an answer on fresh cases, compare with the reference, and say what went wrong."""

from __future__ import annotations

import copy
import re
import secrets
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from .compare import INPUTS, Finding, alike, compare, same
from .exercise import Case, Exercise, Misconception
from .guard import ForbiddenCall, forbid
from .limits import TimeLimitReached, time_limit
from .messages import sentence
from .probes import watched_inputs, were_changed
from .replay import Replay
from .scores import with_truth
from .trace import Trace, first_departure
from .values import Raised, equal, normalise


@dataclass(frozen=True)
class Verdict:
    """What a check found. status: "passed", "failed", "not started" or "timeout".

    findings: one sentence per failed case. misconception, advice: the recognised misconception's
    name and sentence. step: where the values leave the reference, as a sentence.
    """

    exercise: str
    title: str
    points: int
    status: str
    cases: int
    findings: tuple[Finding, ...] = ()
    misconception: str | None = None
    advice: str | None = None
    step: str | None = None
    device: str = "cpu"
    notes: tuple[str, ...] = field(default=())

    @property
    def passed(self) -> bool:
        """Whether every case passed."""
        return self.status == "passed"

    @property
    def earned(self) -> int:
        """The points earned: all or none."""
        return self.points if self.passed else 0

    def sentences(self) -> list[str]:
        """What to tell the learner, most helpful first."""
        if self.passed:
            return [sentence("passed" if self.cases > 1 else "passed_one", cases=self.cases)]
        lines = []
        if self.misconception and self.advice:
            lines += [sentence("misconception", name=self.misconception), self.advice]
        elif self.step:
            lines.append(self.step)
        lines += [finding.text for finding in self.findings[:1]]
        if len(self.findings) > 1:
            lines.append(sentence("more_cases", failed=len(self.findings), cases=self.cases))
        return lines

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, for `--json` and for files."""
        return asdict(self) | {"earned": self.earned, "sentences": self.sentences()}


class NoCases(LookupError):
    """An exercise has no cases of the kind that was asked for; the message says so."""

    def _render_traceback_(self) -> list[str]:
        """One line in a notebook."""
        return [str(self)]


def evaluate(
    exercise: Exercise,
    answer: Any,
    *,
    seed: int | None = None,
    hidden_only: bool = False,
    explain: bool = True,
) -> Verdict:
    """Run `answer` on the exercise's cases and compare with the reference.

    seed: for the cases; a fresh one when None. hidden_only: leave out the public cases.
    explain: on failure, look for the misconception and the first differing step.
    Raises NoCases where only hidden cases are asked for and there are none.
    """
    cases = draw_cases(exercise, secrets.randbits(63) if seed is None else seed, hidden_only)
    expected = [expected_values(exercise, case) for case in cases]
    actual = run_answer(exercise, answer, cases)
    findings = []
    for case, want, got in zip(cases, expected, actual, strict=False):
        found = _judge(exercise, case, want, got)
        if found:
            findings.append(found)
    if not findings:
        return _verdict(exercise, "passed", cases)
    status = {"not_started": "not started", "timeout": "timeout"}.get(findings[0].kind, "failed")
    if not explain or findings[0].kind in ("not_started", "timeout", "forbidden"):
        return _verdict(exercise, status, cases, findings)
    named = recognise(exercise, cases, expected, actual)
    # A step is named where a number is wrong; an exception, a type or a shape speaks for itself.
    looks = named is None and findings[0].kind in ("value", "nan", "scalar")
    step = _departure(exercise, answer, cases, findings[0].case) if looks else None
    return _verdict(exercise, status, cases, findings, named, step)


def draw_cases(exercise: Exercise, seed: int, hidden_only: bool = False, timed: bool = False) -> list[Case]:
    """The exercise's cases for this seed, on the GPU too where the exercise asks and there is one.

    timed: with those for speed, as a graded run measures them, after the others; only where a GPU is.
    """
    drawn = [case for case in exercise.cases(np.random.default_rng(seed)) if case.hidden or not hidden_only]
    cases = [case for case in drawn if not case.timed]
    if not cases:
        raise NoCases(sentence("no_hidden", id=exercise.id))
    if exercise.gpu and _cuda_available():
        cases += [replace(case, name=f"{case.name} on CUDA", device="cuda") for case in cases]
        cases += _timed_cases(exercise, seed) if timed else []
    return cases


def _timed_cases(exercise: Exercise, seed: int) -> list[Case]:
    seeds = np.random.SeedSequence(seed).spawn(exercise.speed.repeats if exercise.speed else 0)
    draws = [exercise.cases(np.random.default_rng(own)) for own in seeds]
    return [replace(case, device="cuda") for draw in draws for case in draw if case.timed]


def expected_values(exercise: Exercise, case: Case) -> dict[str, Any]:
    """What a right answer's values are compared with: the reference's, and the truth where it is judged."""
    return with_truth(exercise, case, run_probe(exercise, exercise.reference, case))


def run_answer(exercise: Exercise, answer: Any, cases: Sequence[Case]) -> list[dict[str, Any] | Raised]:
    """The answer's values on each case; stops early when it was not started, forbidden, or out of time."""
    results: list[dict[str, Any] | Raised] = []
    for case in cases:
        value = _run_guarded(exercise, answer, case)
        results.append(value)
        if isinstance(value, Raised) and (value.type_name in _STOPPING or _not_started(value)):
            break
    return results


TRACING_IS_SLOWER = 5
_STOPPING = ("ForbiddenCall", "TimeLimitReached")


def _run_guarded(exercise: Exercise, answer: Any, case: Case) -> dict[str, Any] | Raised:
    try:
        with forbid(exercise.forbidden), time_limit(exercise.seconds):
            return run_probe(exercise, answer, case)
    except TimeLimitReached:
        return Raised("TimeLimitReached", f"{exercise.seconds:g}")
    except ForbiddenCall as error:
        return Raised("ForbiddenCall", error.name)
    except (Exception, SystemExit) as error:
        return _raised(error)


def run_probe(exercise: Exercise, answer: Any, case: Case) -> dict[str, Any]:
    """The normalised values of an answer on one case, and whether it left the inputs as they were."""
    if isinstance(answer, Replay):
        return answer.on(case)
    # A copy: an answer that changes its inputs must not change what the reference is given.
    own = Case(case.name, copy.deepcopy(dict(case.inputs)), case.hidden, case.device)
    with watched_inputs() as given:
        values = {name: normalise(value) for name, value in exercise.probe(answer, own).items()}
        changed = were_changed(given) or not equal(own.inputs, case.inputs)
        return values | {INPUTS: "changed" if changed else "as they were"}


def _not_started(raised: Raised) -> bool:
    # torch raises NotImplementedError, too, but never without a message.
    return raised.type_name == "NotImplementedError" and not raised.message


def _raised(error: BaseException) -> Raised:
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "site-packages" not in frame.filename and "course_lib" not in frame.filename
    ]
    last = own[-1] if own else None
    message = str(error).strip().split("\n")[0]
    line = (last.line or "").strip() if last else ""
    return Raised(type(error).__name__, message, (last.lineno or 0) if last else 0, line)


def _judge(
    exercise: Exercise, case: Case, expected: dict[str, Any], actual: dict[str, Any] | Raised
) -> Finding | None:
    if not isinstance(actual, Raised):
        return compare(exercise, case.name, expected, actual)
    if _not_started(actual):
        return Finding(case.name, "not_started", sentence("not_started"))
    if actual.type_name == "ForbiddenCall":
        name = re.sub(r"^aten::(\w+)$", r"torch's `\1`", actual.message)
        return Finding(case.name, "forbidden", sentence("forbidden", name=name))
    if actual.type_name == "TimeLimitReached":
        return Finding(case.name, "timeout", sentence("timeout", case=case.name, seconds=exercise.seconds))
    if actual.type_name in ("MemoryError", "OutOfMemoryError") or "can't allocate memory" in actual.message:
        return Finding(case.name, "memory", sentence("memory", case=case.name))
    key = "raised_at" if actual.source else "raised"
    text = sentence(key, case=case.name, type=actual.type_name, source=actual.source, message=actual.message)
    return Finding(case.name, "raised", text)


def recognise(
    exercise: Exercise, cases: Sequence[Case], expected: Sequence[dict[str, Any]], actual: Sequence[Any]
) -> Misconception | None:
    """The misconception whose values the answer's are, on every case where the answer is wrong.

    Of several, the one that agrees with the answer on the most cases.
    """
    best, best_agreement = None, 0
    for misconception in exercise.misconceptions:
        values = run_answer(exercise, misconception.answer, cases)
        agreement = _agreement(exercise, expected, actual, values)
        if agreement > best_agreement:
            best, best_agreement = misconception, agreement
    return best


def _agreement(
    exercise: Exercise, expected: Sequence[dict[str, Any]], actual: Sequence[Any], wrong: Sequence[Any]
) -> int:
    """On how many cases two answers agree, or 0 unless they agree wherever `actual` is wrong."""
    count = 0
    for want, got, other in zip(expected, actual, wrong, strict=False):
        alike = _alike(exercise, got, other)
        is_wrong = isinstance(got, Raised) or not same(exercise, want, got)
        if is_wrong and not alike:
            return 0
        count += alike
    return count


def _alike(exercise: Exercise, one: Any, other: Any) -> bool:
    if isinstance(one, Raised) or isinstance(other, Raised):
        return isinstance(one, Raised) and isinstance(other, Raised) and _same_error(one, other)
    return alike(exercise, one, other)


def _same_error(one: Raised, other: Raised) -> bool:
    """The same kind of exception with the same message, but for the numbers in it."""
    messages = {re.sub(r"\d+", "#", raised.message) for raised in (one, other)}
    return one.type_name == other.type_name and len(messages) == 1


def _departure(exercise: Exercise, answer: Any, cases: Sequence[Case], name: str) -> str | None:
    if exercise.steps is None:
        return None
    case = next(case for case in cases if case.name == name)
    trace = Trace()
    try:
        steps = exercise.steps(case)
        with time_limit(TRACING_IS_SLOWER * exercise.seconds), trace:
            run_probe(exercise, answer, case)
    except (Exception, SystemExit):
        if not trace.arrays:
            return None
    found = first_departure(steps, trace.arrays)
    if found is None:
        return None
    before, after = found
    if before is None:
        return sentence("first_step", after=after)
    return sentence("step", before=before, after=after)


def _verdict(
    exercise: Exercise,
    status: str,
    cases: Sequence[Case],
    findings: Sequence[Finding] = (),
    named: Misconception | None = None,
    step: str | None = None,
) -> Verdict:
    devices = {case.device for case in cases}
    notes: tuple[str, ...] = ()
    if exercise.gpu:
        told = sentence("device_note", device=" and ".join(sorted(devices)))
        notes = (told if "cuda" in devices else sentence("no_cuda"),)
    if exercise.speed:
        notes += (sentence("speed_later", points=exercise.speed.points),)
    if status == "passed" and not any(case.hidden for case in cases):  # as in a pack
        notes += (sentence("graded_further"),)
    return Verdict(
        exercise=exercise.id,
        title=exercise.title,
        points=exercise.points,
        status=status,
        cases=len(cases),
        findings=tuple(findings),
        misconception=named.name if named else None,
        advice=named.sentence if named else None,
        step=step,
        device="cuda" if "cuda" in devices else "cpu",
        notes=notes,
    )


def _cuda_available() -> bool:
    import torch

    return torch.cuda.is_available()
