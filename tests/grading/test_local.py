"""`course check` on learners' notebooks. Oracle: what was put into each answer cell."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from course_lib.grading.local import check_notebook, structure_problems

ROOT = Path(__file__).resolve().parents[2]
Maker = Callable[..., Path]


def test_each_exercise_gets_its_own_verdict(learner_notebook: Maker) -> None:
    path = learner_notebook(
        "00_welcome",
        {
            "welcome-centre_rows": "def centre_rows(matrix):\n    return matrix - matrix.mean(dim=0)",
            "welcome-broadcast_shape": "solution",
            "welcome-distances": "def pairwise_squared_distances(first, second)\n    return first",
            "welcome-spread": "raise RuntimeError('while the cell runs')",
        },
    )
    said: list[str] = []
    report = check_notebook(path, progress=said.append)
    rows = {row.id.split("/")[1]: row for row in report.exercises}
    assert [row.status for row in report.exercises] == ["failed", "passed", "broken", "broken", "not started"]
    assert rows["centre_rows"].sentence.startswith("This looks like: the mean of each column was subtracted.")
    assert rows["broadcast_shape"].earned == rows["broadcast_shape"].points == 2
    assert "SyntaxError" in rows["distances"].sentence
    assert "RuntimeError: while the cell runs" in rows["spread"].sentence
    assert not report.passed
    assert json.loads(json.dumps(report.to_json()))["earned"] == 2
    assert "welcome/broadcast_shape: passed" in said


def test_an_endless_loop_costs_one_exercise_and_is_said(learner_notebook: Maker) -> None:
    path = learner_notebook(
        "00_welcome", {"welcome-centre_rows": "solution", "welcome-broadcast_shape": "while True:\n    pass"}
    )
    report = check_notebook(path, cell_timeout=8)
    rows = {row.id.split("/")[1]: row for row in report.exercises}
    assert rows["centre_rows"].status == "passed"
    assert rows["broadcast_shape"].status == "timeout"
    assert rows["broadcast_shape"].sentence == "Its answer cell was still running after 8 s and was stopped."


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"cells": [', "is not a readable notebook"),
        ("\x00\x01\x02", "is not a readable notebook"),
        ('{"hello": 1}', "is not a readable notebook"),
        ("[]", "is not a readable notebook"),
        ('{"cells": 7, "nbformat": 4, "nbformat_minor": 5, "metadata": {}}', "is not a readable notebook"),
        ("", "is not a readable notebook"),
    ],
)
def test_a_damaged_notebook_is_one_sentence_and_is_left_alone(
    tmp_path: Path, content: str, reason: str
) -> None:
    path = tmp_path / "00_welcome.ipynb"
    path.write_text(content)
    report = check_notebook(path)
    assert len(report.problems) == 1
    assert reason in report.problems[0]
    assert "course reset 00_welcome" in report.problems[0]
    assert "\n" not in report.problems[0]
    assert path.read_text() == content


def test_bytes_that_are_not_text_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "00_welcome.ipynb"
    path.write_bytes(b"\xff\xfe\xfa" * 10)
    assert "is not text" in check_notebook(path).problems[0]


def test_renamed_duplicated_and_missing_cells_are_named(learner_notebook: Maker) -> None:
    path = learner_notebook("00_welcome", {})
    notebook = nbformat.read(path, as_version=4)
    ids = [cell.id for cell in notebook.cells]
    notebook.cells[ids.index("welcome-distances")].metadata.nbgrader.grade_id = "mine"
    copy = nbformat.from_dict(notebook.cells[ids.index("welcome-spread")])
    notebook.cells.insert(ids.index("welcome-spread"), copy)
    notebook.cells = [cell for cell in notebook.cells if cell.id != "welcome-add_positions-check"]
    problems = " ".join(structure_problems(notebook, "00_welcome"))
    assert "Two cells carry the id 'welcome-spread'" in problems
    assert "The answer cell of welcome/distances is missing or was renamed" in problems
    assert "The check cell of welcome/add_positions is missing or was changed" in problems


def _stock_nbval(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
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
    return subprocess.run(
        [*command, *options, str(path)], capture_output=True, text=True, cwd=path.parent, timeout=600
    )


@pytest.mark.parametrize("chapter", sorted(path.stem for path in (ROOT / "solutions").glob("*.ipynb")))
def test_stock_nbval_passes_on_the_solutions(chapter: str) -> None:
    done = _stock_nbval(ROOT / "solutions" / f"{chapter}.ipynb")
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("chapter", sorted(path.stem for path in (ROOT / "exercises").glob("*.ipynb")))
def test_stock_nbval_fails_every_check_of_the_unsolved_exercises(chapter: str) -> None:
    path = ROOT / "exercises" / f"{chapter}.ipynb"
    done = _stock_nbval(path)
    assert done.returncode == 1, done.stdout[-3000:]
    checks = sum("check(" in cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code")
    assert f"{checks} failed" in done.stdout, done.stdout[-3000:]
