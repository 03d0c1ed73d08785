"""From a submitted notebook to a mark: graft, sandbox and verdict together. Oracle: whose notebook it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from course_lib.checks.engine import draw_cases, run_probe
from course_lib.checks.exercise import Exercise
from course_lib.checks.registry import all_exercises
from course_lib.grading.answers import check_cells, read_notebook
from course_lib.grading.decide import Mark, decide, public_first
from course_lib.grading.graft import extract_answers, program
from course_lib.grading.sandbox import Worker, available, stage_library

ROOT = Path(__file__).resolve().parents[2]
EXERCISES = list(all_exercises().values())

pytestmark = pytest.mark.skipif(not available()["bubblewrap"], reason="bubblewrap does not work here")


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    library = stage_library(ROOT, tmp_path_factory.mktemp("staged") / "library")
    # What the cells import is loaded once, before anything is confined.
    with Worker(library, preload=("numpy", "torch")) as started:
        yield started


def mark(worker: Worker, exercise: Exercise, submitted: bytes, seed: int) -> Mark:
    pristine = read_notebook(ROOT / "exercises" / f"{exercise.chapter}.ipynb")
    cells = [cell.source for cell in program(pristine, extract_answers(submitted, pristine).answers)]
    expression = next(cell.expression for cell in check_cells(pristine) if cell.exercise == exercise.id)
    cases = public_first(draw_cases(exercise, seed))
    expected = [run_probe(exercise, exercise.reference, case) for case in cases]
    outcome = worker.run(
        cells,
        exercise.probe_name,
        expression,
        iter(cases),
        forbidden=exercise.forbidden,
        seconds=exercise.seconds,
    )
    return decide(exercise, cases, expected, outcome.values, ended=outcome.status, message=outcome.message)


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.id)
def test_the_solution_gets_full_marks_and_the_starter_none(worker: Worker, exercise: Exercise) -> None:
    solved, starter = (
        (ROOT / folder / f"{exercise.chapter}.ipynb").read_bytes() for folder in ("solutions", "exercises")
    )
    assert mark(worker, exercise, solved, seed=11).earned == exercise.points
    unsolved = mark(worker, exercise, starter, seed=12)
    assert (unsolved.status, unsolved.earned) == ("not started", 0)
