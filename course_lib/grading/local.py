"""Checking a learner's own notebook with nbval, outside the process that wrote it.

This is `course check`: for the learner's own use. It trusts the notebook; graded runs do not.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import nbformat

from .answers import CheckCell, NotebookProblem, check_cells, is_answer, read_notebook


@dataclass(frozen=True)
class ExerciseReport:
    """One exercise's result. status: "passed", "failed", "not started", "timeout", "broken" or "missing"."""

    id: str
    title: str
    points: int
    earned: int
    status: str
    sentence: str


@dataclass
class NotebookReport:
    """All exercises of a notebook, and what is wrong with the notebook itself."""

    notebook: str
    exercises: list[ExerciseReport] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every exercise passed and the notebook is sound."""
        return not self.problems and all(report.status == "passed" for report in self.exercises)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        earned, points = (sum(getattr(r, name) for r in self.exercises) for name in ("earned", "points"))
        return asdict(self) | {"passed": self.passed, "earned": earned, "points": points}


@dataclass(frozen=True)
class CellResult:
    """What nbval said of one code cell. kind: "passed", "failed", "timeout", "died" or "not run"."""

    kind: str
    message: str = ""


def check_notebook(
    path: Path, *, cell_timeout: float = 60, progress: Callable[[str], None] | None = None
) -> NotebookReport:
    """Run a notebook under stock nbval and report each exercise of its chapter.

    cell_timeout: seconds a cell may run. progress: called with a line as each exercise is decided.
    """
    report = NotebookReport(path.name)
    try:
        notebook = read_notebook(path)
    except NotebookProblem as error:
        report.problems.append(
            f"{error} `course reset {path.stem}` brings back a fresh copy and keeps yours."
        )
        return report
    report.problems += structure_problems(notebook, path.stem)
    with tempfile.TemporaryDirectory(prefix="course-check-") as folder:
        verdicts_file = Path(folder) / "verdicts.jsonl"
        cells = _run_nbval(path, Path(folder), verdicts_file, cell_timeout, progress)
        verdicts = {row["exercise"]: row for row in _json_lines(verdicts_file)}
    results = _by_index(notebook, cells)
    found = {cell.exercise: cell for cell in check_cells(notebook)}
    for exercise in _expected(path.stem, found):
        report.exercises.append(_exercise_report(exercise, found, verdicts, results, cell_timeout))
    return report


def structure_problems(notebook: nbformat.NotebookNode, chapter: str) -> list[str]:
    """One sentence for each cell that is duplicated, missing or renamed."""
    ids = [cell.get("id", "") for cell in notebook.cells]
    problems = [
        f"Two cells carry the id {cell_id!r} (cells {_places(ids, cell_id)}): keep the one with your answer."
        for cell_id in dict.fromkeys(ids)
        if cell_id and ids.count(cell_id) > 1
    ]
    checks = [cell.exercise for cell in check_cells(notebook)]
    problems += [
        f"{exercise} is checked {checks.count(exercise)} times: keep one check cell and one answer cell."
        for exercise in dict.fromkeys(checks)
        if checks.count(exercise) > 1
    ]
    grade_ids = {cell.metadata.nbgrader.get("grade_id") for cell in notebook.cells if is_answer(cell)}
    for exercise in _entries(chapter):
        if exercise.id not in checks:
            problems.append(f"The check cell of {exercise.id} is missing or was changed. {_MEND}")
        elif exercise.grade_id not in grade_ids:
            problems.append(f"The answer cell of {exercise.id} is missing or was renamed. {_MEND}")
    return problems


_MEND = "`course update` brings it back and keeps your answers."


def _places(ids: list[str], cell_id: str) -> str:
    return " and ".join(str(index + 1) for index, other in enumerate(ids) if other == cell_id)


def _entries(chapter: str) -> tuple[Any, ...]:
    from ..checks.registry import chapters, exercises_of

    return exercises_of(chapter) if chapter in chapters() else ()


def _expected(chapter: str, found: dict[str, CheckCell]) -> list[Any]:
    from ..checks.registry import get

    return list(_entries(chapter)) or [get(exercise_id) for exercise_id in found]


def _run_nbval(
    path: Path, folder: Path, verdicts: Path, cell_timeout: float, progress: Callable[[str], None] | None
) -> list[CellResult]:
    """Stock nbval over one notebook; one result for each code cell, in order."""
    junit = folder / "junit.xml"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--nbval-lax",
        "--nbval-current-env",
        "-q",
        "-p",
        "no:cacheprovider",
    ]
    command += [f"--nbval-cell-timeout={cell_timeout:g}", f"--junitxml={junit}", f"--rootdir={folder}"]
    command += ["-c", os.devnull, str(path.resolve())]
    environment = os.environ | {"COURSE_VERDICTS": str(verdicts), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
    )
    try:
        shown = 0
        while True:
            try:
                process.communicate(timeout=0.5)
                break
            except subprocess.TimeoutExpired:
                shown = _tell(verdicts, shown, progress)
        _tell(verdicts, shown, progress)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    return [_cell_result(case) for case in _test_cases(junit)]


def _tell(verdicts: Path, shown: int, progress: Callable[[str], None] | None) -> int:
    rows = _json_lines(verdicts)
    if progress:
        for row in rows[shown:]:
            progress(f"{row['exercise']}: {row['status']}")
    return len(rows)


def _json_lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    # The last piece is empty, or a line still being written.
    return [json.loads(line) for line in lines[:-1]]


def _test_cases(junit: Path) -> list[ElementTree.Element]:
    if not junit.exists():
        return []
    return list(ElementTree.parse(junit).getroot().iter("testcase"))


def _cell_result(case: ElementTree.Element) -> CellResult:
    for kind in ("failure", "error", "skipped"):
        child = case.find(kind)
        if child is not None:
            text = f"{child.get('message', '')}\n{child.text or ''}"
            if "Timeout of" in text:
                return CellResult("timeout")
            if "kernel" in text.lower() and "died" in text.lower():
                return CellResult("died")
            return CellResult("not run" if kind == "skipped" else "failed", _last_line(text))
    return CellResult("passed")


# JUnit's XML writes a terminal's escape character as #x1B.
_COLOUR = re.compile(r"(?:\x1b|#x1B)\[[0-9;]*m")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in _COLOUR.sub("", text).split("\n") if line.strip()]
    errors = [
        line
        for line in lines
        if line.split(":")[0].endswith(("Error", "Exception", "NotPassed", "Interrupt"))
    ]
    return (errors or lines or [""])[-1]


def _by_index(notebook: nbformat.NotebookNode, results: list[CellResult]) -> dict[int, CellResult]:
    code = [index for index, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    return dict(zip(code, results, strict=False))


def _exercise_report(
    exercise: Any,
    found: dict[str, CheckCell],
    verdicts: dict[str, dict[str, Any]],
    results: dict[int, CellResult],
    cell_timeout: float,
) -> ExerciseReport:
    cell = found.get(exercise.id)
    if exercise.id in verdicts:
        row = verdicts[exercise.id]
        status, earned, text = row["status"], row["earned"], " ".join(row["sentences"][:2])
    elif cell is None:
        status, earned, text = "missing", 0, f"Its check cell is not in this notebook. {_MEND}"
    else:
        status, text = _why_no_verdict(cell, results, cell_timeout)
        earned = 0
    return ExerciseReport(exercise.id, exercise.title, exercise.points, earned, status, text)


def _why_no_verdict(cell: CheckCell, results: dict[int, CellResult], cell_timeout: float) -> tuple[str, str]:
    own = results.get(cell.answer_index) if cell.answer_index is not None else None
    for index, result in sorted(results.items()):
        if result.kind == "timeout" and index <= cell.index:
            whose = "Its answer cell" if index == cell.answer_index else f"Cell {index + 1}, above it,"
            return "timeout", f"{whose} was still running after {cell_timeout:g} s and was stopped."
    if own and own.kind == "failed":
        return "broken", f"Its answer cell fails when it is run: {own.message}"
    checked = results.get(cell.index)
    if checked and checked.kind == "failed" and checked.message:
        return "broken", f"The check could not run: {checked.message}"
    return (
        "broken",
        "The kernel stopped before this check was reached; look for an exit() or a crash above it.",
    )
