"""Time is taken outside: what the sandbox measures, and what points for speed follow from it.

Oracles: the machine's own clock, and medians worked out by hand.
"""

from __future__ import annotations

import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from course_lib.checks import engine
from course_lib.checks.compare import INPUTS
from course_lib.checks.engine import draw_cases, evaluate
from course_lib.checks.exercise import Case, Exercise, Speed
from course_lib.checks.probes.welcome import rows
from course_lib.checks.values import Raised
from course_lib.grading.book import Entry, Row
from course_lib.grading.confine import Limits
from course_lib.grading.decide import Mark, Timing, decide, public_first, ungraded
from course_lib.grading.exports import note_of, to_gradescope, to_junit
from course_lib.grading.feedback import page
from course_lib.grading.sandbox import Outcome, Worker, available, stage_library

ROOT = Path(__file__).resolve().parents[2]
confined = pytest.mark.skipif(not available()["bubblewrap"], reason="bubblewrap does not work here")


def cases_of(rng: np.random.Generator) -> Iterator[Case]:
    yield Case("a fresh draw", {"matrix": rng.standard_normal((2, 3)), "dtype": "float32"}, hidden=True)
    yield Case("many rows", {"matrix": rng.standard_normal((9, 3)), "dtype": "float32"}, timed=True)
    yield Case("two rows", {"matrix": rng.standard_normal((2, 3)), "dtype": "float32"})


EXERCISE = Exercise(
    id="welcome/double",
    title="Twice",
    points=4,
    minutes=1,
    difficulty=1,
    cases=cases_of,
    probe=rows,
    reference=lambda matrix: 2 * matrix,
    misconceptions=(),
    also_right=(),
    hints=("", "", ""),
    gpu=True,
    speed=Speed(points=2, at_most=1.5, repeats=3),
)
RIGHT: dict[str, Any] = {"the result": 1, INPUTS: "as they were"}
WRONG = RIGHT | {"the result": 2}
PLAIN = [Case("two rows", {}), Case("a fresh draw", {}, hidden=True)]
TIMED = [Case("many rows", {}, device="cuda", timed=True)] * 3


def mark_of(
    actual: Sequence[Any],
    seconds: Sequence[float],
    *,
    cases: Sequence[Case] = (*PLAIN, *TIMED),
    reference: Sequence[float] = (9.0, 9.0, 1.0, 1.0, 1.0),
    **more: Any,
) -> Mark:
    expected = [RIGHT] * len(cases)
    return decide(EXERCISE, cases, expected, actual, seconds=seconds, reference_seconds=reference, **more)


# --- the clock --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    library = stage_library(ROOT, tmp_path_factory.mktemp("staged") / "library")
    with Worker(library, Limits(program=5, case=2)) as started:
        yield started


def run(worker: Worker, source: str, count: int = 3) -> Outcome:
    drawn = (Case("", {"matrix": np.ones((1, 2)), "dtype": "float32"}) for _ in range(count))
    return worker.run([source], "welcome.rows", "double", drawn)


SLEEPER = """
import time
sleep = time.sleep
calls = []

def double(matrix):
    calls.append(1)
    sleep(0.3 if len(calls) == 2 else 0)
    return 2 * matrix
"""
LIAR = (
    SLEEPER
    + """
import datetime, sys
for name in ("time", "monotonic", "perf_counter", "time_ns", "monotonic_ns", "perf_counter_ns", "sleep"):
    setattr(time, name, lambda *given: 0)
for module in list(sys.modules.values()):
    if getattr(module, "__name__", "").startswith("course_lib.grading"):
        module.time = time
"""
)


@confined
@pytest.mark.parametrize("source", [SLEEPER, LIAR], ids=["an honest program", "one that stops its clocks"])
def test_each_case_has_its_own_time_by_the_grader_s_clock(worker: Worker, source: str) -> None:
    began = time.perf_counter()
    outcome = run(worker, source)
    whole = time.perf_counter() - began
    assert outcome.status == "ok"
    first, second, third = outcome.seconds
    assert 0.3 <= second < 1
    assert 0 < first < 0.3
    assert 0 < third < 0.3
    assert sum(outcome.seconds) < whole


@confined
def test_a_case_that_is_not_answered_has_no_time(worker: Worker) -> None:
    outcome = run(worker, "import os\ndef double(matrix):\n    os._exit(0)")
    assert (outcome.status, outcome.seconds) == ("killed", ())
    outcome = run(worker, "def double(matrix):\n    raise ValueError")
    assert len(outcome.seconds) == len(outcome.values) == 3


@confined
def test_an_answer_before_the_question_is_no_answer(worker: Worker) -> None:
    """Sent ahead of its case, in the hope of a short time."""
    source = (
        "import os\nfrom course_lib.grading.protocol import encode\n"
        "def double(matrix):\n"
        "    frame = encode({'case': 0, 'values': {'the result': 1}, 'changed': False})\n"
        "    for _ in range(2):\n        os.write(3, frame)\n    return 2 * matrix"
    )
    outcome = run(worker, source)
    assert (outcome.status, outcome.values, outcome.seconds) == ("violation", (), ())


# --- the cases ------------------------------------------------------------------------------------------


def test_without_a_gpu_no_timed_case_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_cuda_available", lambda: False)
    assert [case.name for case in draw_cases(EXERCISE, 1, timed=True)] == ["a fresh draw", "two rows"]


def test_on_a_gpu_timed_cases_are_drawn_anew_for_each_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_cuda_available", lambda: True)
    assert not any(case.timed for case in draw_cases(EXERCISE, 1))
    cases = public_first(draw_cases(EXERCISE, 1, timed=True))
    assert [case.name for case in cases if not case.hidden] == ["two rows", "two rows on CUDA"] + 3 * [
        "many rows"
    ]
    timed = cases[-3:]
    assert all(case.timed and case.device == "cuda" for case in timed)
    assert len({case["matrix"].tobytes() for case in timed}) == 3
    again = draw_cases(EXERCISE, 1, timed=True)[-3:]
    assert [case["matrix"].tobytes() for case in again] == [case["matrix"].tobytes() for case in timed]


def test_self_study_says_where_the_points_for_speed_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_cuda_available", lambda: False)
    verdict = evaluate(EXERCISE, lambda matrix: 2 * matrix, seed=1)
    assert (verdict.earned, verdict.points) == (4, 4)
    assert verdict.notes[-1].startswith("Speed was not measured: the points for it (2)")


# --- the points -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "status", "earned", "told"),
    [
        ((9, 9, 1.2, 1.4, 1.0), "fast", 6, "1.2"),
        ((0, 0, 1.6, 1.0, 1.7), "slow", 4, "1.6"),
        ((9, 9, 1.0, 1.5, 99.0), "fast", 6, "1.5"),
    ],
    ids=["fast enough", "too slow", "one long pause"],
)
def test_the_median_decides(seconds: tuple[float, ...], status: str, earned: int, told: str) -> None:
    mark = mark_of([RIGHT] * 5, seconds)
    assert (mark.points, mark.earned, mark.status, mark.cases) == (6, earned, "passed", 2)
    assert mark.timing == Timing(2, 1.5, status, float(told))
    assert mark.private == (f"Speed: {told} times the reference's time; at most 1.5 is asked for.",)


def test_the_medians_of_different_cases_are_added() -> None:
    small = [Case("few rows", {}, device="cuda", timed=True)] * 2
    times = (0.0, 0.0, 10.0, 10.0, 10.0, 1.0, 1.0)
    mark = mark_of([RIGHT] * 7, (0, 0, 11, 11, 11, 3, 3), cases=[*PLAIN, *TIMED, *small], reference=times)
    assert mark.timing == Timing(2, 1.5, "fast", 14 / 11)


def test_what_a_learner_reads_tells_no_time() -> None:
    """By then the answer has seen hidden inputs, and could tell them by being slow."""
    slow, slower = (mark_of([RIGHT] * 5, (0, 0, t, t, t)) for t in (1.7, 40.0))
    assert slow.sentences() == slower.sentences()
    assert slow.sentences()[1].startswith(
        "The points for speed (2) are missing: your code takes more than 1.5"
    )
    assert mark_of([RIGHT] * 5, (0, 0, 1, 1, 1)).sentences()[1] == (
        "It is fast enough for the points for speed (2)."
    )


@pytest.mark.parametrize(
    ("actual", "ended"),
    [
        ([RIGHT, RIGHT, RIGHT, WRONG, RIGHT], "ok"),
        ([RIGHT, RIGHT, Raised("OutOfMemoryError", "CUDA"), RIGHT, RIGHT], "ok"),
        ([RIGHT, RIGHT, RIGHT], "timeout"),
        ([RIGHT, RIGHT], "killed"),
    ],
    ids=["a wrong value", "no memory", "still running", "killed"],
)
def test_quick_but_not_right_on_timed_inputs_keeps_the_exercise_s_points(
    actual: list[Any], ended: str
) -> None:
    mark = mark_of(actual, [0.1] * len(actual), ended=ended)
    assert (mark.points, mark.earned, mark.status) == (6, 4, "passed")
    assert mark.timing == Timing(2, 1.5, "no values")
    assert "gives no right values" in mark.sentences()[1]


@pytest.mark.parametrize(
    ("actual", "ended", "status"),
    [
        ([RIGHT, WRONG, RIGHT, RIGHT, RIGHT], "ok", "failed"),
        ([RIGHT], "timeout", "timeout"),
        ([RIGHT], "killed", "failed"),
        ([], "violation", "failed"),
        ([RIGHT, RIGHT, RIGHT], "violation", "failed"),
    ],
)
def test_a_wrong_answer_has_no_points_for_speed(actual: list[Any], ended: str, status: str) -> None:
    mark = mark_of(actual, [0.1] * len(actual), ended=ended)
    assert (mark.points, mark.earned, mark.status) == (6, 0, status)
    assert not any("speed" in line for line in mark.sentences())


@pytest.mark.parametrize(
    ("cases", "given"),
    [
        (PLAIN, {}),
        ([*PLAIN, *TIMED], {"reference": ()}),
        ([*PLAIN, *(replace(case, device="cpu") for case in TIMED)], {}),
    ],
    ids=["no timed case", "no time of the reference", "timed on a CPU"],
)
def test_where_speed_is_not_measured_its_points_do_not_count(
    cases: list[Case], given: dict[str, Any]
) -> None:
    times = {"seconds": [0.1] * len(cases), "reference": [9.0] * len(cases)} | given
    seconds = times.pop("seconds")
    mark = mark_of([RIGHT] * len(cases), seconds, cases=cases, **times)
    assert (mark.points, mark.earned, mark.status) == (4, 4, "passed")
    assert mark.timing == Timing(2, 1.5, "not measured")
    assert mark.sentences()[1].startswith("Speed was not measured, which takes a GPU")
    wrong = mark_of([WRONG] * len(cases), seconds, cases=cases, **times)
    assert (wrong.points, wrong.earned) == (4, 0)


def test_what_can_be_had_is_the_same_for_an_answer_that_has_no_times() -> None:
    """As for a starter that nobody touched, which is never run."""
    mark = mark_of([Raised("NotImplementedError", "")], [])
    assert (mark.points, mark.earned, mark.status) == (6, 0, "not started")
    assert mark_of([RIGHT] * 5, []).status == "ungraded"


def test_cases_out_of_order_are_not_decided_on() -> None:
    cases = [*TIMED, *PLAIN]
    assert mark_of([RIGHT] * 5, [1.0] * 5, cases=cases).status == "ungraded"
    assert (
        mark_of([RIGHT] * 5, [1.0] * 5, cases=[PLAIN[0], *TIMED, PLAIN[1]])
        .private[0]
        .startswith("a fresh draw came after a case that is timed")
    )
    assert public_first(cases) == [*PLAIN, *TIMED]


def test_an_exercise_without_points_for_speed_is_not_timed() -> None:
    entry = replace(EXERCISE, speed=None)
    mark = decide(entry, PLAIN, [RIGHT] * 2, [RIGHT] * 2, seconds=[1.0, 1.0], reference_seconds=[1.0, 1.0])
    assert (mark.timing, mark.points, mark.sentences()) == (None, 4, ["All 2 cases passed."])


# --- marks in files and on pages --------------------------------------------------------------------------


@pytest.mark.parametrize("mark", [mark_of([RIGHT] * 5, [1.0] * 5), ungraded(EXERCISE, "a reason")])
def test_a_mark_is_read_back_as_it_was_written(mark: Mark) -> None:
    assert Mark.from_json(mark.to_json()) == mark


def test_a_mark_that_was_stored_before_there_was_speed_is_read() -> None:
    row = decide(replace(EXERCISE, speed=None), PLAIN, [RIGHT] * 2, [WRONG] * 2).to_json()
    assert row.pop("timing") is None
    assert Mark.from_json(row).timing is None


def test_pages_and_exports_say_what_became_of_speed() -> None:
    fast = mark_of([RIGHT] * 5, [1.0] * 5)
    slow = mark_of([RIGHT] * 5, [2.0] * 5)
    unmeasured = mark_of([RIGHT] * 2, [1.0] * 2, cases=PLAIN)
    shown = {}
    for name, mark in (("fast", fast), ("slow", slow), ("not measured", unmeasured)):
        entries = (Entry(mark),)
        row = Row(1, "ada", "welcome", "one.ipynb", "", False, "", "", "", True, entries)
        test = to_gradescope(row)["tests"][0]
        shown[name] = (test["score"], test["max_score"], test["status"])
        assert mark.sentences()[1] in test["output"]
        assert mark.sentences()[1] in page(row).replace("&#x27;", "'")
        speed = ElementTree.fromstring(to_junit([row])).find(".//property[@name='speed']")
        assert speed is not None
        assert speed.get("value") == name
        assert ("Speed was not measured" in note_of(row)) == (name == "not measured")
    assert shown == {"fast": (6, 6, "passed"), "slow": (4, 6, "passed"), "not measured": (4, 4, "passed")}


@pytest.mark.parametrize(
    "fields", [{"points": 0}, {"at_most": 0.0}, {"repeats": 0}, {"at_most": float("nan")}]
)
def test_speed_that_cannot_be_meant_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="are more than zero"):
        replace(Speed(1, 2.0), **fields)
