"""`course grade` from a folder to the gradebook. Oracle: whose notebook it is, and what was done to it."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
import pytest

from course_lib.grading import run as run_module
from course_lib.grading.answers import is_answer
from course_lib.grading.book import Book, Row
from course_lib.grading.bundle import Bundle, make_bundle
from course_lib.grading.confine import Limits
from course_lib.grading.grader import Grader, programs
from course_lib.grading.graft import program
from course_lib.grading.run import BOOK, Options, Tally, grade_submissions
from course_lib.grading.sandbox import NoIsolation, SandboxFailure, Worker, available

ROOT = Path(__file__).resolve().parents[2]
CHAPTER = "00_welcome"
POINTS = {"welcome/centre_rows": 1, "welcome/broadcast_shape": 2}
# What is meant to run out of time does so soon.
LIMITS = Limits(program=4.0)
ONE = Options(workers=1, limits=LIMITS)

pytestmark = pytest.mark.skipif(not available()["bubblewrap"], reason="bubblewrap does not work here")
Answers = Mapping[str, str]


def source(folder: str) -> dict[str, str]:
    cells = nbformat.read(ROOT / folder / f"{CHAPTER}.ipynb", as_version=4).cells
    return {cell.metadata.nbgrader.grade_id: cell.source for cell in cells if is_answer(cell)}


SOLVED = source("solutions")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(ROOT, [CHAPTER], tmp_path_factory.mktemp("bundle") / "private")


@pytest.fixture(scope="module")
def grader(bundle: Bundle) -> Iterator[Grader]:
    with Grader(bundle, limits=LIMITS) as entered:
        yield entered


@pytest.fixture
def hand_in(tmp_path: Path) -> Callable[..., Path]:
    """Writes submissions/LEARNER/00_welcome.ipynb with these answers; the folder of all."""

    def write(learner: str, answers: Answers, name: str = f"{CHAPTER}.ipynb") -> Path:
        notebook = nbformat.read(ROOT / "exercises" / f"{CHAPTER}.ipynb", as_version=4)
        for cell in notebook.cells:
            if is_answer(cell):
                cell.source = answers.get(cell.metadata.nbgrader.grade_id, cell.source)
        path = tmp_path / "submissions" / learner / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, path)
        return tmp_path / "submissions"

    return write


def rows_in(out: Path, everything: bool = False) -> list[Row]:
    with Book.open(out / BOOK) as book:
        return book.rows(everything=everything)


def test_a_class_is_graded_and_nothing_is_graded_twice(
    bundle: Bundle, hand_in: Callable[..., Path], tmp_path: Path
) -> None:
    half = {"welcome-centre_rows": SOLVED["welcome-centre_rows"]}
    hand_in("anna", SOLVED)
    hand_in("berta", half)
    hand_in("carl", {})
    folder = hand_in("dora", SOLVED)
    (folder / "eva").mkdir()
    (folder / "eva" / f"{CHAPTER}.ipynb").write_text('{"nbformat": 4, "cells": [')
    (folder / "eva" / "notes.txt").write_text("a note")
    tally = grade_submissions(folder, bundle, tmp_path / "out", ONE)
    found = {row.learner: row for row in rows_in(tmp_path / "out")}
    points = {name: row.earned for name, row in found.items()}
    assert points == {"anna": 10, "berta": 1, "carl": 0, "dora": 10, "eva": 0}
    assert found["eva"].problem and "not a complete notebook" in found["eva"].problem
    # Two are equal to the solution; the empty one and the damaged one are starters.
    assert (tally.read, tally.graded, tally.known) == (5, 3, 2)
    assert tally.counts["ungraded"] == 0
    again = grade_submissions(folder, bundle, tmp_path / "out", ONE)
    assert (again.read, again.graded, again.known) == (5, 0, 5)
    assert again.counts == tally.counts
    assert {row.learner: row for row in rows_in(tmp_path / "out")} == found
    pages = sorted(path.parent.name for path in (tmp_path / "out/feedback").rglob("*.html"))
    assert pages == ["anna", "berta", "carl", "dora", "eva"]


def test_the_newest_counts_all_are_kept_and_what_came_late_is_marked(
    bundle: Bundle, tmp_path: Path, hand_in: Callable[..., Path]
) -> None:
    folder = hand_in("anna", SOLVED, name="first/00_welcome.ipynb")
    hand_in("anna", {}, name="second/00_welcome.ipynb")
    hand_in("berta", {})
    for name, moment in (("first", 1_000_000_000), ("second", 1_000_086_400)):
        os.utime(folder / "anna" / name / "00_welcome.ipynb", (moment, moment))
    due = datetime.fromtimestamp(1_000_000_001, UTC)
    grade_submissions(folder, bundle, tmp_path / "out", Options(workers=1, due=due))
    first, second, _ = rows_in(tmp_path / "out", everything=True)
    assert (first.earned, first.counts, first.late) == (10, False, False)
    assert (second.earned, second.counts, second.late) == (0, True, True)


@pytest.mark.parametrize(
    "hostile",
    [
        "import os\nos._exit(0)",
        "raise SystemExit",
        "import torch\ntorch.Tensor.mean = torch.Tensor.sum\ntorch.tensor = None",
        "import builtins\nbuiltins.len = lambda thing: 0",
        "def centre_rows(matrix):\n    return matrix * 0\ntorch = None",
        "while True:\n    pass",
        "this is not Python",
    ],
)
def test_what_one_cell_does_reaches_no_other_exercise(grader: Grader, hostile: str) -> None:
    answers = SOLVED | {"welcome-broadcast_shape": hostile}
    marks = {mark.exercise: mark for mark in grader.grade(CHAPTER, answers, seed=3)}
    assert marks.pop("welcome/broadcast_shape").earned == 0
    assert [mark.exercise for mark in marks.values() if mark.earned != mark.points] == []


def test_a_cell_may_use_what_another_defines(grader: Grader) -> None:
    helper = "import torch\ndef mean_of_rows(matrix):\n    return matrix.mean(dim=1, keepdim=True)\n"
    user = "def centre_rows(matrix):\n    return matrix - mean_of_rows(matrix)\n"
    hidden = "def centre_rows(matrix):\n    return matrix - globals()['mean_' + 'of_rows'](matrix)\n"
    for answer in (user, hidden):
        answers = {"welcome-broadcast_shape": helper, "welcome-centre_rows": answer}
        marks = {mark.exercise: mark for mark in grader.grade(CHAPTER, answers, seed=4)}
        assert marks["welcome/centre_rows"].status == "passed", marks["welcome/centre_rows"].private
        assert marks["welcome/broadcast_shape"].earned == 0


def test_which_cells_an_exercise_runs_with(bundle: Bundle) -> None:
    pristine = bundle.assignment(CHAPTER).pristine
    first, second, third = [cell.grade_id for cell in program(pristine, {}) if cell.grade_id][:3]
    answers = {
        first: "def one(x):\n    return torch.ones(x)",
        second: "def two(x):\n    return one(x)",
        third: "torch = None\nlen = None\nfrom math import tau as one_more",
    }
    assert list(programs(pristine, answers, first)) == [{first: answers[first]}, answers]
    assert next(programs(pristine, answers, second)) == {name: answers[name] for name in (first, second)}
    assert list(programs(pristine, {first: answers[first]}, second)) == [None]
    assert list(programs(pristine, {first: answers[first]}, first)) == [{first: answers[first]}]


def test_a_misconception_is_named_in_the_feedback(
    bundle: Bundle, hand_in: Callable[..., Path], tmp_path: Path
) -> None:
    wrong = "def centre_rows(matrix):\n    return matrix - matrix.mean(dim=0)\n"
    grade_submissions(hand_in("anna", {"welcome-centre_rows": wrong}), bundle, tmp_path / "out", ONE)
    (row,) = rows_in(tmp_path / "out")
    mark = next(entry.mark for entry in row.entries if entry.mark.exercise == "welcome/centre_rows")
    assert mark.misconception == "the mean of each column was subtracted"
    page = (tmp_path / "out/feedback/anna/00_welcome.html").read_text()
    assert "the mean of each column was subtracted" in page
    with sqlite3.connect(tmp_path / "out" / BOOK) as book:
        (note,) = book.execute("SELECT note FROM runs").fetchone()
    seed = note.split('"seed": ')[1].split(",")[0]
    for secret in (seed, bundle.manifest["seed"], str(tmp_path), "float64", "a single row"):
        assert secret not in page


def test_each_submission_has_cases_of_its_own_where_asked(
    bundle: Bundle, hand_in: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: dict[str, list[int]] = {}
    real = Grader.grade

    def noted(self: Grader, chapter: str, answers: Answers, seed: int) -> Any:
        seeds.setdefault(kind, []).append(seed)
        return real(self, chapter, answers, seed)

    monkeypatch.setattr(Grader, "grade", noted)
    hand_in("anna", SOLVED)
    folder = hand_in("berta", {"welcome-centre_rows": SOLVED["welcome-centre_rows"]})
    for kind in ("run", "submission"):
        tally = grade_submissions(folder, bundle, tmp_path / kind, Options(workers=1, seed_per=kind))
        assert tally.counts["passed"] == len(SOLVED) + 1
    assert len(set(seeds["run"])) == 1 and len(set(seeds["submission"])) == 2


def test_a_failure_of_the_machinery_is_no_mark_and_is_mended_by_the_next_run(
    bundle: Bundle, hand_in: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = hand_in("anna", SOLVED)

    def fails(*given: object, **named: object) -> None:
        raise SandboxFailure("no room for another process")

    with monkeypatch.context() as patched:
        patched.setattr(Worker, "run", fails)
        tally = grade_submissions(folder, bundle, tmp_path / "out", ONE)
    assert tally.counts == {"passed": 0, "failed": 0, "ungraded": len(SOLVED)}
    (row,) = rows_in(tmp_path / "out")
    assert row.earned is None
    assert "could not be graded" in (tmp_path / "out/feedback/anna/00_welcome.html").read_text()
    grade_submissions(folder, bundle, tmp_path / "out", ONE)
    (row,) = rows_in(tmp_path / "out")
    assert row.earned == 10


def test_without_isolation_nothing_is_run(
    bundle: Bundle, hand_in: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from course_lib.grading import workers

    def none(isolation: str) -> str:
        raise NoIsolation("Nothing works here.")

    monkeypatch.setattr(workers, "chosen", none)
    with pytest.raises(NoIsolation):
        grade_submissions(hand_in("anna", SOLVED), bundle, tmp_path / "out", ONE)
    assert rows_in(tmp_path / "out", everything=True) == []


def test_a_clock_that_jumps_changes_nothing(
    bundle: Bundle, hand_in: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from course_lib.grading import book

    moments = iter(["2031-01-01T00:00:00.000000Z", "1970-01-01T00:00:00.000000Z"] * 50)
    monkeypatch.setattr(book, "_now", lambda: next(moments))
    hand_in("anna", SOLVED)
    folder = hand_in("berta", {})
    tally = grade_submissions(folder, bundle, tmp_path / "out", ONE)
    again = grade_submissions(folder, bundle, tmp_path / "out", ONE)
    assert (tally.graded, again.graded, again.known) == (2, 0, 2)
    assert {row.learner: row.earned for row in rows_in(tmp_path / "out")} == {"anna": 10, "berta": 0}
    assert tally.seconds >= 0


def test_an_interrupted_run_keeps_what_it_has(
    bundle: Bundle, hand_in: Callable[..., Path], tmp_path: Path
) -> None:
    for index in range(4):
        folder = hand_in(f"learner{index}", SOLVED | {"welcome-centre_rows": f"# {index}"})
    done = []

    def stop(tally: Tally) -> None:
        if tally.graded == 2:
            done.append(tally.graded)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        grade_submissions(folder, bundle, tmp_path / "out", ONE, stop)
    kept = rows_in(tmp_path / "out")
    assert len(kept) == 2 and all(row.earned is not None for row in kept)
    tally = grade_submissions(folder, bundle, tmp_path / "out", ONE)
    assert tally.known == 2 and len(rows_in(tmp_path / "out")) == 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("grader")]


def test_options_say_what_is_wrong_with_them() -> None:
    with pytest.raises(ValueError, match="workers=0"):
        Options(workers=0)
    with pytest.raises(ValueError, match="seed_per='learner'"):
        Options(seed_per="learner")
    with pytest.raises(ValueError, match="the sandbox shows no GPU"):
        Options(gpu=True)
    assert run_module.parse_due("2026-11-30T23:59+01:00") == datetime(2026, 11, 30, 22, 59, tzinfo=UTC)
