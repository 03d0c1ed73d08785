"""ruff and mypy over the library, the tests, the front door and the notebooks' code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import jupytext
import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ["course.py", "course_lib", "tests", "benchmarks"]
TEXTS = sorted([*(ROOT / "notebooks").glob("*.md"), *(ROOT / "solutions").glob("*.md")])
# A notebook imports in the cell that first needs a name, shows the value of a last line, and offers names
# for the learner's own use.
# A lesson's code is short and unannotated; names, modules and calls are checked, inferred types are not.
UNCHECKED = "no-redef,var-annotated,union-attr,arg-type,operator,assignment,attr-defined,call-overload,misc"
MYPY_OPTIONS = f'# mypy: allow-redefinition, disable-error-code="{UNCHECKED}"\n'
NOTEBOOK_RULES = ("--select=E,F,B,UP,C4", "--ignore=E402,E501,F401,B018,B023,B905,C408")


def _run(*command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_lint() -> None:
    _run("ruff", "check", *SOURCES)


def test_format() -> None:
    _run("ruff", "format", "--check", *SOURCES)


def test_types_of_the_library() -> None:
    _run("mypy")


def test_types_of_the_tests() -> None:
    # A folder at a time: test folders are no packages, and several have a conftest.
    for folder in sorted({path.parent for path in (ROOT / "tests").rglob("*.py")}):
        _run("mypy", *(str(path) for path in sorted(folder.glob("*.py"))))


@pytest.fixture(scope="module")
def notebook_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("notebook-code")
    for path in TEXTS:
        # Each lesson is a program: named, so that two of them do not collide as modules.
        code = MYPY_OPTIONS + jupytext.writes(jupytext.read(path), fmt="py:light")
        (folder / f"{path.parent.name}_{path.stem}.py").write_text(code, encoding="utf-8")
    return folder


def test_notebooks_lint(notebook_code: Path) -> None:
    configuration = f"--config={ROOT / 'pyproject.toml'}"
    _run("ruff", "check", "--no-cache", configuration, *NOTEBOOK_RULES, str(notebook_code))


def test_notebooks_types(notebook_code: Path) -> None:
    files = [str(path) for path in sorted(notebook_code.glob("*.py"))]
    _run("mypy", *files)
