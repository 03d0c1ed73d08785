"""Learners' notebooks in every state: solved, unsolved, half solved, damaged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import nbformat
import pytest

from course_lib.grading.answers import is_answer

ROOT = Path(__file__).resolve().parents[2]
Maker = Callable[..., Path]


@pytest.fixture(autouse=True)
def own_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "progress.json"))


@pytest.fixture
def learner_notebook(tmp_path: Path) -> Maker:
    """A copy of a chapter's exercises in tmp_path/exercises, with some answers filled in.

    answers: source by grade_id, or "solution" to take the published one.
    """

    def make(chapter: str, answers: Mapping[str, str]) -> Path:
        notebook = nbformat.read(ROOT / "exercises" / f"{chapter}.ipynb", as_version=4)
        solved = {
            cell.id: cell.source for cell in nbformat.read(ROOT / "solutions" / f"{chapter}.ipynb", 4).cells
        }
        for cell in notebook.cells:
            if is_answer(cell) and cell.id in answers:
                cell.source = solved[cell.id] if answers[cell.id] == "solution" else answers[cell.id]
        path = tmp_path / "exercises" / f"{chapter}.ipynb"
        path.parent.mkdir(exist_ok=True)
        nbformat.write(notebook, path)
        return path

    return make
