"""Checks inside a real Jupyter kernel, where a learner meets them."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

SHORTER = """
import dataclasses
from course_lib.checks import check, notebook
from course_lib.checks.registry import get
notebook.get = lambda exercise_id: dataclasses.replace(get(exercise_id), seconds=1.0)
"""
ENDLESS = """
def causal_mask(n_query, n_key):
    while n_query:
        pass
"""
CHECK = 'check("attention/causal_mask", causal_mask)'


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[nbformat.NotebookNode]:
    folder = tmp_path_factory.mktemp("kernel")
    sources = [SHORTER, ENDLESS, CHECK, "print('the kernel is alive')", "int('x' * 3)"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_PROGRESS", str(folder / "progress.json"))
        NotebookClient(notebook, timeout=60, allow_errors=True, kernel_name="python3").execute(
            cwd=str(folder)
        )
    assert Path(folder / "progress.json").exists()
    return list(notebook.cells)


def test_an_endless_loop_in_an_answer_is_stopped_and_the_kernel_lives(
    cells: list[nbformat.NotebookNode],
) -> None:
    card, error = cells[2].outputs
    assert "Stopped" in card.data["text/plain"]
    assert "still running after 1 s and was stopped" in card.data["text/plain"]
    assert error.ename == "NotPassed"
    assert error.traceback == ["attention/causal_mask: timeout"]
    assert cells[3].outputs[0].text == "the kernel is alive\n"


def test_other_errors_keep_their_traceback(cells: list[nbformat.NotebookNode]) -> None:
    assert len(cells[4].outputs[0].traceback) > 1
