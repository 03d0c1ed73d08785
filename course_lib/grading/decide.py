"""The verdict: a learner's values and the reference's as cell outputs, compared by nbval.

Nothing of the learner's runs here and torch is not imported: both sides arrive as plain values. Numbers
within the exercise's tolerance are first brought to the reference's text; then nbval's own
`IPyNbCell.compare_outputs`, unmodified, says equal or not. `course_lib.checks.compare` only explains.
Judged predictions are measured here against the truth that their case withholds: where they reach the bar
they become the truth's own text, elsewhere a sentence with the score.

Points for speed stand beside an exercise's own. They are had, and missed, only where timed cases ran on a
GPU; elsewhere `Mark.points` leaves them out and the mark says that speed was not measured. A timed case
counts for nothing else: a right answer that is slow, or too large for the GPU, keeps the exercise's points.

What a learner may read never depends on anything sent after the first hidden case: from there on the
learner's process knows a hidden input, and could put it into a message or a value. `public_first` puts
the cases into the order that leaves the most to explain.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import statistics
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from ..checks.compare import INPUTS, RETURNED, Finding, alike, below_the_bar, compare
from ..checks.exercise import Case, Exercise, Misconception, Score, Speed, Tolerance
from ..checks.messages import sentence
from ..checks.scores import with_truth
from ..checks.values import Array, Opaque, Raised

if TYPE_CHECKING:
    import nbformat
    from nbval.plugin import IPyNbCell

# What nbval leaves out of a comparison, as `IPyNbFile` sets it; a test holds the two equal.
SKIP_COMPARE = (
    "metadata",
    "traceback",
    "prompt_number",
    "output_type",
    "name",
    "execution_count",
    "application/vnd.jupyter.widget-view+json",
    "image/png",
    "image/jpeg",
)
# Larger arrays are rendered as a digest of their numbers, after these were brought to the reference's.
MAX_RENDERED = 20_000
WIDEST_NUMBER = 32
MAX_TEXT = 600
TIMINGS = {"not measured": "not_measured", "fast": "fast", "slow": "slow", "no values": "not_timed"}
STATUSES = ("passed", "failed", "not started", "timeout", "ungraded")
# How the learner's process may end, and what kind of finding that is.
ENDINGS = {"ok": "", "error": "cell", "timeout": "timeout", "killed": "killed", "violation": "violation"}

SENTENCES: dict[str, str] = {
    "differs": "On {case}, a value differs from the expected one.",
    "hidden": "It fails on a case that is not shown: {what}.",
    "cell": "The cell with your answer could not be run: {message}",
    "killed": "Your code ended its own process, or used more memory or processes than it may.",
    "violation": "Your code did not answer as a function does, and its answers were not read.",
    "timeout": "Your code was still running when its time was over, and was stopped.",
    "ungraded": "This exercise could not be graded, for a reason that is not yours. It counts neither as "
    "right nor as wrong until it has been.",
    "no_reference": "the reference gave no values for {case}",
    "no_cases": "there were no cases to try the answer on",
    "no_reply": "the answer's process gave {given} of {wanted} values and no reason",
    "no_times": "the reference was timed, and of the answer's values {given} of {wanted}",
    "timed_last": "{case} came after a case that is timed; `public_first` puts those last",
    "fast": "It is fast enough for the points for speed ({points}).",
    "slow": "The points for speed ({points}) are missing: your code takes more than {at_most:g} times as "
    "long as the reference.",
    "not_timed": "The points for speed ({points}) are missing: on the larger inputs that are timed, your "
    "code gives no right values.",
    "not_measured": "Speed was not measured, which takes a GPU: the points for it ({points}) do not "
    "count here.",
    "ratio": "Speed: {ratio:.3g} times the reference's time; at most {at_most:g} is asked for.",
    "unknown_ending": "the answer's process ended as {ended!r}, which is none of {known}",
}
_HIDDEN: dict[str, str] = {
    "raised": "there your code raises an exception",
    "cell": "there your code could not be run",
    "timeout": "there your code was still running when its time was over",
    "memory": "there your code runs out of memory",
    "killed": "there your code ended its own process, or used more memory or processes than it may",
    "nothing": "there your function returns nothing",
    "changed": "there your code changes its input in place",
    "type": "there you return another type than expected",
    "returned": "there you return another type than expected",
    "missing": "there a part of what you return is missing",
    "device": "there a tensor is on another device than expected",
    "dtype": "there a tensor has another dtype than expected",
    "shape": "there a tensor has another shape than expected",
    "length": "there something has more or fewer items than expected",
    "nan": "there a number is NaN",
    "score": "there your predictions are less good than is asked for",
    "predictions": "there your predictions are not numbers",
    "probabilities": "there your probabilities do not add up to 1",
    "forbidden": "there your code uses something that this exercise does not allow",
}
_OTHERWISE = "there a value differs from the expected one"


@dataclass(frozen=True)
class Timing:
    """What came of an exercise's points for speed.

    status: "not measured", "fast", "slow", or "no values" where an answer was wrong or gave none. ratio: the
    answer's time divided by the reference's, for staff: the answer knows hidden inputs by then.
    """

    points: int
    at_most: float
    status: str
    ratio: float | None = None

    def __post_init__(self) -> None:
        if self.status not in TIMINGS:
            raise ValueError(f"status={self.status!r}, expected one of {', '.join(TIMINGS)}")

    @property
    def measured(self) -> bool:
        """Whether the points can be had at all."""
        return self.status != "not measured"

    @property
    def earned(self) -> int:
        """The points: all or none."""
        return self.points if self.status == "fast" else 0

    def sentence(self) -> str:
        """What to tell the learner."""
        return SENTENCES[TIMINGS[self.status]].format(points=self.points, at_most=self.at_most)


@dataclass(frozen=True)
class Mark:
    """The machine's mark for one exercise of one submission.

    points: what could be had, with those for speed where speed was measured. earned: None where ungraded.
    status: one of STATUSES; speed has no part in it. cases, failed: how many were decided on, and how many
    were not passed. findings: what a learner may read. private: the same in full, hidden cases included, and
    the reason why something is ungraded: for staff. timing: None where an exercise has no points for speed.
    """

    exercise: str
    title: str
    points: int
    earned: int | None
    status: str
    cases: int = 0
    failed: int = 0
    findings: tuple[Finding, ...] = ()
    misconception: str | None = None
    advice: str | None = None
    private: tuple[str, ...] = ()
    timing: Timing | None = None

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status={self.status!r}, expected one of {', '.join(STATUSES)}")
        if (self.earned is None) != (self.status == "ungraded"):
            raise ValueError(f"earned={self.earned} with status={self.status!r}: only ungraded has no points")

    @property
    def grade_id(self) -> str:
        """The exercise's id without a slash, as cells carry it."""
        return self.exercise.replace("/", "-")

    def sentences(self) -> list[str]:
        """What to tell the learner, most helpful first."""
        if self.status == "ungraded":
            return [SENTENCES["ungraded"]]
        if self.status == "passed":
            return [
                sentence("passed" if self.cases > 1 else "passed_one", cases=self.cases),
                *self._on_speed(),
            ]
        lines = []
        if self.misconception and self.advice:
            lines += [sentence("misconception", name=self.misconception), self.advice]
        lines += [finding.text for finding in self.findings[:1]]
        if self.failed > 1:
            lines.append(sentence("more_cases", failed=self.failed, cases=self.cases))
        return lines + self._on_speed()

    def _on_speed(self) -> list[str]:
        """Nothing where an answer is wrong and speed was measured: there is more to say on the answer."""
        told = self.timing and (self.status == "passed" or not self.timing.measured)
        return [self.timing.sentence()] if self.timing and told else []

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary; `from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Mark:
        """The mark that `to_json` wrote, also before there were points for speed."""
        findings = tuple(Finding(**finding) for finding in row["findings"])
        timing = Timing(**row["timing"]) if row.get("timing") else None
        return cls(**{**row, "findings": findings, "private": tuple(row["private"]), "timing": timing})


def public_first(cases: Iterable[Case]) -> list[Case]:
    """The cases with the public ones first and the timed ones last, otherwise in their order."""
    return sorted(cases, key=lambda case: (case.timed, case.hidden))


def ungraded(exercise: Exercise, reason: str) -> Mark:
    """The mark where the machinery failed: no points, and not zero points. reason: for staff."""
    return Mark(exercise.id, exercise.title, exercise.points, None, "ungraded", private=(reason,))


def decide(
    exercise: Exercise,
    cases: Sequence[Case],
    expected: Sequence[Any],
    actual: Sequence[Any],
    *,
    ended: str = "ok",
    message: str = "",
    wrong: Mapping[str, Sequence[Any]] | None = None,
    seconds: Sequence[float] = (),
    reference_seconds: Sequence[float] = (),
) -> Mark:
    """The mark for an answer's values on these cases, as `public_first` orders them.

    expected, actual: one normalised dict of values, or `Raised`, per case, in the cases' order; `actual`
    stops early where the answer did. ended: how the learner's process ended, a key of ENDINGS, with its
    `message`. wrong: by misconception's name its values on the same cases; looked up only on a failure.
    seconds, reference_seconds: wall time for each value of `actual` and of `expected`, both measured in the
    same way (`Outcome.seconds`); without those of the reference speed is not measured.
    """
    reason = _machinery(cases, expected, actual, ended)
    if reason:
        return ungraded(exercise, reason)
    try:
        expected = [with_truth(exercise, case, want) for case, want in zip(cases, expected, strict=False)]
    except ValueError as error:
        return ungraded(exercise, str(error))
    untimed = [case for case in cases if not case.timed]
    if len(untimed) < len(cases) and len(actual) >= len(untimed) and ended in ("timeout", "killed"):
        ended = "ok"  # it ended over a timed case
    mark = _on_values(exercise, untimed, expected, actual[: len(untimed)], ended, message, wrong or {})
    if exercise.speed is None:
        return mark
    right = (
        mark.status == "passed"
        and len(actual) == len(cases)
        and all(agree(exercise, expected[i], actual[i]) for i in range(len(untimed), len(cases)))
    )
    if right and reference_seconds and len(seconds) != len(cases):
        return ungraded(exercise, SENTENCES["no_times"].format(given=len(seconds), wanted=len(cases)))
    return _with_speed(mark, _timing(exercise.speed, cases, right, seconds, reference_seconds))


def _on_values(
    exercise: Exercise,
    cases: Sequence[Case],
    expected: Sequence[Any],
    actual: Sequence[Any],
    ended: str,
    message: str,
    wrong: Mapping[str, Sequence[Any]],
) -> Mark:
    found = _findings(exercise, cases, expected, actual)
    named = _recognise(exercise, found, actual, wrong) if found and ended == "ok" else None
    if ended != "ok":
        index = min(len(actual), len(cases) - 1)
        found[index] = _ending(cases[index], ended, message)
    if not found:
        return Mark(exercise.id, exercise.title, exercise.points, exercise.points, "passed", len(cases))
    return _not_passed(exercise, cases, found, named)


def _timing(
    speed: Speed, cases: Sequence[Case], right: bool, seconds: Sequence[float], reference: Sequence[float]
) -> Timing:
    timed = [index for index, case in enumerate(cases) if case.timed and case.device == "cuda"]
    if not timed or len(reference) != len(cases):
        return Timing(speed.points, speed.at_most, "not measured")
    if not right:
        return Timing(speed.points, speed.at_most, "no values")
    ours, theirs = (_typical(cases, timed, times) for times in (seconds, reference))
    return Timing(
        speed.points, speed.at_most, "fast" if ours <= speed.at_most * theirs else "slow", ours / theirs
    )


def _typical(cases: Sequence[Case], timed: Sequence[int], seconds: Sequence[float]) -> float:
    """The median of the draws of each timed case, added up."""
    names = {cases[index].name for index in timed}
    return sum(statistics.median(seconds[i] for i in timed if cases[i].name == name) for name in names)


def _with_speed(mark: Mark, timing: Timing) -> Mark:
    assert mark.earned is not None
    ratio = (
        SENTENCES["ratio"].format(ratio=timing.ratio, at_most=timing.at_most)
        if timing.ratio is not None
        else ""
    )
    return replace(
        mark,
        points=mark.points + (timing.points if timing.measured else 0),
        earned=mark.earned + timing.earned,
        private=(*mark.private, ratio) if ratio else mark.private,
        timing=timing,
    )


def _findings(
    exercise: Exercise, cases: Sequence[Case], expected: Sequence[Any], actual: Sequence[Any]
) -> dict[int, Finding]:
    """What is wrong, by the case's place; nothing where nbval calls all outputs equal."""
    return {
        index: _explain(exercise, case, want, got)
        for index, (case, want, got) in enumerate(zip(cases, expected, actual, strict=False))
        if not agree(exercise, want, got)
    }


def _not_passed(
    exercise: Exercise, cases: Sequence[Case], found: dict[int, Finding], named: Misconception | None
) -> Mark:
    shown = _shown_cases(cases)
    first = next(iter(found.values()))
    return Mark(
        exercise=exercise.id,
        title=exercise.title,
        points=exercise.points,
        earned=0,
        status={"not_started": "not started", "timeout": "timeout"}.get(first.kind, "failed"),
        cases=len(cases),
        failed=len(found),
        findings=tuple(_for_learner(finding, index < shown) for index, finding in found.items()),
        misconception=named.name if named else None,
        advice=named.sentence if named else None,
        private=tuple(dict.fromkeys(_cut(finding.text) for finding in found.values())),
    )


def agree(exercise: Exercise, expected: Any, actual: Any) -> bool:
    """Whether nbval calls the two sides' outputs for one case equal."""
    reference, answer = rendered(exercise, expected, actual)
    return _nbval_equal(answer, reference)


def rendered(exercise: Exercise, expected: Any, actual: Any) -> tuple[str, str]:
    """(the reference's, the answer's) text for one case, the answer's numbers settled within tolerance."""
    return render(expected), render(settle(exercise, expected, actual))


def as_notebook(pairs: Sequence[tuple[str, str]]) -> nbformat.NotebookNode:
    """A notebook for stock `pytest --nbval`: a cell prints an answer's text, and stores the reference's.

    pairs: (reference's, answer's) text, as `rendered` gives them.
    """
    from nbformat import v4

    cells = []
    for number, (reference, answer) in enumerate(pairs, start=1):
        # A literal on one line: nothing in an answer's text can begin a line with an NBVAL comment.
        cell = v4.new_code_cell(f"print({answer!r})", execution_count=number, id=f"case-{number}")
        cell.outputs = [v4.new_output("stream", name="stdout", text=reference + "\n")]
        cells.append(cell)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


# --- settling: numbers within tolerance become the reference's own -------------------------------


def settle(exercise: Exercise, expected: Any, actual: Any) -> Any:
    """The answer's values on one case, each number that is close enough replaced by the reference's.

    Names that the reference does not have are left out, as the self-study check leaves them; a value
    that the probe could not take apart stands alone.
    """
    if not isinstance(expected, dict) or not isinstance(actual, dict):
        return actual
    if RETURNED in actual and RETURNED not in expected:
        return {RETURNED: actual[RETURNED]}
    return {
        name: _settle_judged(exercise.judged[name], name, value, actual[name])
        if name in exercise.judged
        else _settle(value, actual[name], exercise.tolerance_of(name))
        for name, value in expected.items()
        if name in actual
    }


def _settle_judged(score: Score, name: str, truth: Array, predicted: Any) -> Any:
    """The truth itself where the bar is reached, else a text, which no truth is."""
    found = below_the_bar(score, truth, predicted, "this case", name)
    return truth if found is None else found.text


def _settle(expected: Any, actual: Any, tolerance: Tolerance) -> Any:
    if isinstance(expected, Array):
        return _settle_array(expected, actual, tolerance) if isinstance(actual, Array) else actual
    if isinstance(expected, list):
        if not isinstance(actual, list):
            return actual
        pairs = zip(expected, actual, strict=False)
        return [_settle(want, got, tolerance) for want, got in pairs] + actual[len(expected) :]
    if isinstance(expected, dict):
        if not isinstance(actual, dict):
            return actual
        known = {key: _settle(expected[key], actual[key], tolerance) for key in expected if key in actual}
        return known | {key: value for key, value in actual.items() if key not in expected}
    return _settle_scalar(expected, actual, tolerance)


def _settle_array(expected: Array, actual: Array, tolerance: Tolerance) -> Array:
    kinds = ("container", "device", "shape", "dtype")
    if any(getattr(expected, kind) != getattr(actual, kind) for kind in kinds):
        return actual
    close = _close(expected, actual, tolerance)
    if close.all():
        return expected
    data = np.where(close, expected.data, actual.data)
    return Array(data, actual.dtype, actual.container, actual.device)


def _close(expected: Array, actual: Array, tolerance: Tolerance) -> np.ndarray:
    if expected.data.dtype.kind not in "fc" or actual.data.dtype.kind not in "fc":
        return np.asarray(expected.data == actual.data)
    absolute, relative = tolerance.bounds(expected.dtype)
    with np.errstate(all="ignore"):
        return np.isclose(actual.data, expected.data, rtol=relative, atol=absolute, equal_nan=True)


def _settle_scalar(expected: Any, actual: Any, tolerance: Tolerance) -> Any:
    got = actual
    if isinstance(got, Array) and got.data.size == 1 and isinstance(expected, (int, float)):
        got = got.data.reshape(()).item()
    numbers = isinstance(expected, (int, float)) and isinstance(got, (int, float))
    if numbers and isinstance(expected, bool) == isinstance(got, bool):
        return expected if _near(expected, got, tolerance) else actual
    return expected if type(expected) is type(got) and bool(expected == got) else actual


def _near(expected: float, actual: float, tolerance: Tolerance) -> bool:
    if isinstance(expected, int) and isinstance(actual, int):
        return expected == actual
    if expected != expected or actual != actual:  # NaN is near NaN and near nothing else
        return expected != expected and actual != actual
    absolute, relative = tolerance.bounds("float32")
    try:
        if math.isinf(expected) or math.isinf(actual):
            return expected == actual
        return abs(actual - expected) <= absolute + relative * abs(expected)
    except OverflowError:  # a whole number too large to be a float
        return False


# --- rendering: one text for one value, and different texts for different values -----------------


def render(values: Any) -> str:
    """One case's values as the text of a cell output: a line for each name, in plain ASCII.

    Text is quoted and control characters are written as escapes, so no value looks like another and
    nothing in it can move a terminal's cursor, which nbval follows.
    """
    if not isinstance(values, dict):
        return _text(values)
    return "\n".join(f"{json.dumps(name)}: {_text(value)}" for name, value in values.items())


def _text(value: Any) -> str:
    if isinstance(value, Array):
        return _array_text(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, bytes):
        return f"bytes {value.hex()}"
    if isinstance(value, Raised):
        kind, *rest = map(json.dumps, (value.type_name, value.message, value.source))
        return f"raised {kind} {' '.join(rest)} {value.line}"
    if isinstance(value, Opaque):
        return f"an object of type {json.dumps(value.type_name)}"
    if isinstance(value, int) and not isinstance(value, bool):
        # Python refuses to write very large whole numbers in decimal digits.
        return str(value) if value.bit_length() < 1024 else hex(value)
    return repr(value) if value is None or isinstance(value, (bool, float)) else "something else"


# The reference's arrays are rendered once for many submissions; a learner's are forgotten with the array.
_TEXTS: WeakKeyDictionary[Array, str] = WeakKeyDictionary()


def _array_text(array: Array) -> str:
    if array not in _TEXTS:
        _TEXTS[array] = _fresh_array_text(array)
    return _TEXTS[array]


def _fresh_array_text(array: Array) -> str:
    what = " ".join(map(json.dumps, (array.container, array.dtype, array.device)))
    head = f"{what} shape {list(array.shape)}"
    # By bytes, too: a forged array of long texts would take minutes to write out.
    if array.data.size > MAX_RENDERED or array.data.itemsize > WIDEST_NUMBER:
        digest = hashlib.sha256(f"{array.data.dtype.str}:".encode())
        digest.update(np.ascontiguousarray(array.data).tobytes())
        return f"{head} sha256 {digest.hexdigest()}"
    return f"{head} {array.data.ravel().tolist()!a}"


def prepare() -> None:
    """Import what decides now, while there is time, rather than at the first verdict."""
    _nbval_cell()


# --- nbval ---------------------------------------------------------------------------------------


def _nbval_equal(answer: str, reference: str) -> bool:
    from nbformat import NotebookNode

    outputs = [
        [NotebookNode(output_type="stream", name="stdout", text=text + "\n")] for text in (answer, reference)
    ]
    cell = _nbval_cell()
    equal = cell.compare_outputs(*outputs)
    cell.comparison_traceback = []  # it quotes the reference, and nobody reads it here
    return bool(equal)


@cache
def _nbval_cell() -> IPyNbCell:
    """A cell of nbval's own class without a kernel, a file or a pytest session.

    pytest builds its items from a session only; the comparison needs four attributes of one. The hook
    gives no explanation: pytest's own takes quadratic time, and an answer's text may be long.
    """
    from nbval.plugin import IPyNbCell, nocolors

    cell = IPyNbCell.__new__(IPyNbCell)
    hooks = SimpleNamespace(pytest_assertrepr_compare=lambda **sides: [])
    cell.parent = SimpleNamespace(skip_compare=SKIP_COMPARE, sanitize_patterns={})
    cell.session = SimpleNamespace(gethookproxy=lambda path: hooks)
    cell.path = cell.config = None
    cell.colors = nocolors
    return cell


# --- what went wrong -----------------------------------------------------------------------------


def _machinery(cases: Sequence[Case], expected: Sequence[Any], actual: Sequence[Any], ended: str) -> str:
    """Why nothing can be decided, or nothing."""
    if ended not in ENDINGS:
        return SENTENCES["unknown_ending"].format(ended=ended, known=", ".join(ENDINGS))
    if not cases or cases[0].timed:
        return SENTENCES["no_cases"]
    for before, case in pairwise(cases):
        if before.timed and not case.timed:
            return SENTENCES["timed_last"].format(case=case.name)
    for index, case in enumerate(cases):
        if (
            index >= len(expected)
            or not isinstance(expected[index], dict)
            or not set(expected[index]) - {INPUTS}
        ):
            return SENTENCES["no_reference"].format(case=case.name)
    stopped = bool(actual) and isinstance(actual[-1], Raised)
    too_few = len(actual) < len(cases) and ended == "ok" and not stopped
    if too_few or len(actual) > len(cases):
        return SENTENCES["no_reply"].format(given=len(actual), wanted=len(cases))
    return ""


def _explain(exercise: Exercise, case: Case, expected: Any, actual: Any) -> Finding:
    """What differs, in full; the verdict is given already."""
    if isinstance(actual, Raised):
        return _raised(exercise, case, actual)
    if not isinstance(actual, dict):
        return Finding(case.name, "violation", SENTENCES["violation"])
    try:
        found = compare(exercise, case.name, expected, actual)
    except (ValueError, OverflowError, TypeError):  # a number that numpy cannot hold
        found = None
    return found or Finding(case.name, "value", SENTENCES["differs"].format(case=case.name))


def _raised(exercise: Exercise, case: Case, raised: Raised) -> Finding:
    if raised.type_name == "NotImplementedError" and not raised.message:
        return Finding(case.name, "not_started", sentence("not_started"))
    if raised.type_name == "ForbiddenCall":
        name = re.sub(r"^aten::(\w+)$", r"torch's `\1`", raised.message)
        return Finding(case.name, "forbidden", sentence("forbidden", name=name))
    if raised.type_name == "TimeLimitReached":
        return Finding(case.name, "timeout", sentence("timeout", case=case.name, seconds=exercise.seconds))
    if raised.type_name in ("MemoryError", "OutOfMemoryError") or "can't allocate memory" in raised.message:
        return Finding(case.name, "memory", sentence("memory", case=case.name))
    values = {"case": case.name, "type": raised.type_name, "source": raised.source}
    key = "raised_at" if raised.source else "raised"
    return Finding(case.name, "raised", sentence(key, **values, message=raised.message))


def _ending(case: Case, ended: str, message: str) -> Finding:
    kind = ENDINGS[ended]
    return Finding(case.name, kind, SENTENCES[kind].format(message=message or "no reason was given."))


def _shown_cases(cases: Sequence[Case]) -> int:
    """How many cases come before the first hidden one."""
    return next((index for index, case in enumerate(cases) if case.hidden), len(cases))


def _for_learner(finding: Finding, shown: bool) -> Finding:
    if shown:
        return Finding(finding.case, finding.kind, _without_paths(_cut(finding.text)))
    if finding.kind in ("not_started", "violation"):  # these say nothing of the case
        return Finding("", finding.kind, finding.text)
    what = _HIDDEN.get(finding.kind, _OTHERWISE)
    return Finding("", finding.kind, SENTENCES["hidden"].format(what=what))


# The lookbehind spares "1/2/3", "and/or" and the host of an address.
_PATH = re.compile(r"(?<![\w./:])(?:~|[A-Za-z]:)?(?:[/\\][\w.@+-]+){2,}[/\\]?")


def _without_paths(text: str) -> str:
    """The text with each absolute path cut to its last part: where a grader runs is nobody's business."""
    return _PATH.sub(lambda match: "…/" + re.split(r"[/\\]", match.group().rstrip("/\\"))[-1], text)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def _recognise(
    exercise: Exercise, found: Container[int], actual: Sequence[Any], wrong: Mapping[str, Sequence[Any]]
) -> Misconception | None:
    """The misconception whose values the answer's are wherever the answer is wrong, and most often.

    found: the places of the cases where it is wrong.
    """
    best, most = None, 0
    for misconception in exercise.misconceptions:
        if misconception.name not in wrong:
            continue
        count = _agreement(exercise, found, actual, wrong[misconception.name])
        if count > most:
            best, most = misconception, count
    return best


def _agreement(exercise: Exercise, found: Container[int], actual: Sequence[Any], wrong: Sequence[Any]) -> int:
    """On how many cases two wrong answers agree, or 0 unless they agree wherever `actual` is wrong."""
    count = 0
    for index, (got, other) in enumerate(zip(actual, wrong, strict=False)):
        alike = _alike(exercise, got, other)
        if not alike and index in found:
            return 0
        count += alike
    return count


def _alike(exercise: Exercise, one: Any, other: Any) -> bool:
    if isinstance(one, Raised) and isinstance(other, Raised):
        # The same kind of exception with the same message, but for the numbers in it.
        messages = {re.sub(r"\d+", "#", raised.message) for raised in (one, other)}
        return one.type_name == other.type_name and len(messages) == 1
    if not isinstance(one, dict) or not isinstance(other, dict):
        return False
    try:
        return alike(exercise, one, other)
    except (ValueError, OverflowError, TypeError):  # a number that numpy cannot hold
        return False
