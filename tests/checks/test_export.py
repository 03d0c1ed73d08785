"""Passed answers become a package. Oracle: what each notebook held, and the check of the exported object."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import nbformat
import pytest
import torch

from course_lib.checks.engine import evaluate
from course_lib.checks.export import export_package, fallback, module_source
from course_lib.checks.registry import get
from course_lib.grading.answers import is_answer

ROOT = Path(__file__).resolve().parents[2]

HELPED = """
def column_of(values):
    return values[:, None]

def centre_rows(matrix: torch.Tensor) -> torch.Tensor:
    return matrix - column_of(matrix.mean(dim=1))
"""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    notebook = nbformat.read(ROOT / "exercises" / "00_welcome.ipynb", as_version=4)
    answers = {
        "welcome-centre_rows": HELPED,
        "welcome-distances": "def pairwise_squared_distances(first, second):\n    return first @ second.T",
    }
    for cell in notebook.cells:
        if is_answer(cell):
            cell.source = answers.get(cell.id, cell.source)
    (tmp_path / "work" / "exercises").mkdir(parents=True)
    nbformat.write(notebook, tmp_path / "work" / "exercises" / "00_welcome.ipynb")
    return tmp_path / "work"


def test_a_passed_answer_is_exported_with_what_it_uses_and_the_rest_comes_from_the_library(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = export_package(work, tmp_path / "my_transformer")
    assert report.own == ["centre_rows"]
    assert "pairwise_squared_distances" in report.from_library
    assert "Your answer to welcome/distances does not pass now" in report.problems[0]
    monkeypatch.syspath_prepend(str(tmp_path))
    package = importlib.import_module("my_transformer")
    source = Path(package.centre_rows.__code__.co_filename).read_text()
    assert "def column_of" in source
    assert "raise NotImplementedError" not in source
    assert evaluate(get("welcome/centre_rows"), package.centre_rows).passed
    assert package.pairwise_squared_distances is fallback("welcome/distances")
    result = package.pairwise_squared_distances(torch.zeros(2, 3), torch.ones(1, 3))
    assert result.tolist() == [[3.0], [3.0]]
    for name in [name for name in sys.modules if name.split(".")[0] == "my_transformer"]:
        del sys.modules[name]


def test_exporting_again_replaces_the_package_and_nothing_else(work: Path, tmp_path: Path) -> None:
    export_package(work, tmp_path / "my_transformer")
    export_package(work, tmp_path / "my_transformer")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file.txt").write_text("kept")
    with pytest.raises(FileExistsError, match="not an exported package"):
        export_package(work, tmp_path / "precious")
    assert (tmp_path / "precious" / "file.txt").read_text() == "kept"


def test_a_damaged_notebook_is_reported_and_its_parts_come_from_the_library(
    work: Path, tmp_path: Path
) -> None:
    (work / "exercises" / "00_welcome.ipynb").write_text('{"cells": [')
    report = export_package(work, tmp_path / "my_transformer")
    assert not report.own
    assert "is not a readable notebook" in report.problems[0]


def test_a_module_keeps_only_what_its_names_need() -> None:
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell("%matplotlib inline\nimport math\nimport os\nWIDTH = 4\nOTHER = 5"),
            nbformat.v4.new_code_cell("def unused():\n    return OTHER"),
            nbformat.v4.new_code_cell("def wanted():\n    return math.sqrt(WIDTH)"),
            nbformat.v4.new_code_cell("this is not python"),
        ]
    )
    source = module_source(notebook, ["wanted"])
    scope: dict[str, object] = {}
    exec(source, scope)
    assert scope["wanted"]() == 2.0  # type: ignore[operator]
    assert not {"os", "unused", "OTHER"} & set(scope)


def test_an_answer_that_ends_the_process_keeps_no_other_out(work: Path, tmp_path: Path) -> None:
    path = work / "exercises" / "00_welcome.ipynb"
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.id == "welcome-centre_rows":
            cell.source = "import os\ndef centre_rows(matrix):\n    os._exit(0)"
        if cell.id == "welcome-distances":
            cell.source = (
                "def pairwise_squared_distances(first, second):\n"
                "    return ((first[:, None] - second) ** 2).sum(-1)"
            )
    nbformat.write(notebook, path)
    assert export_package(work, tmp_path / "mine").own == ["pairwise_squared_distances"]
