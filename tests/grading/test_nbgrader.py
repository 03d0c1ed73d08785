"""The notebooks in nbgrader's own hands. Oracle: nbgrader 0.9.6, `generate_assignment` and `autograde`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from course_lib.checks.registry import exercises_of

pytest.importorskip("nbgrader", reason="nbgrader is in the extra 'oracles'")

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = sorted(path.stem for path in (ROOT / "solutions").glob("*.ipynb"))
CONFIGURATION = """
c = get_config()
c.CourseDirectory.course_id = "course"
c.ClearSolutions.code_stub = {"python": "raise NotImplementedError"}
c.ExecutePreprocessor.timeout = 120
"""
SCORES = """
import json, sys
from nbgrader.api import Gradebook
with Gradebook("sqlite:///gradebook.db") as book:
    print(json.dumps({s.student.id: {n.name: n.score for n in s.notebooks} | {"max": s.max_score}
                      for s in book.assignment_submissions("one")}))
"""


def _nbgrader(course: Path, *arguments: str) -> str:
    environment = os.environ | {
        # nbgrader calls alembic by its name.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "JUPYTER_CONFIG_DIR": str(course / "jupyter"),
        "JUPYTER_DATA_DIR": str(course / "data"),
        "COURSE_PROGRESS": str(course / "progress.json"),
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        cwd=course,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nbgrader")
    (folder / "nbgrader_config.py").write_text(CONFIGURATION)
    (folder / "source" / "one").mkdir(parents=True)
    for chapter in CHAPTERS:
        shutil.copy(ROOT / "solutions" / f"{chapter}.ipynb", folder / "source" / "one")
    _nbgrader(folder, "-m", "nbgrader", "generate_assignment", "one", "--create")
    return folder


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_nbgraders_release_is_our_exercise_notebook(course: Path, chapter: str) -> None:
    theirs = nbformat.read(course / "release" / "one" / f"{chapter}.ipynb", as_version=4)
    ours = nbformat.read(ROOT / "exercises" / f"{chapter}.ipynb", as_version=4)
    assert [cell.source.strip() for cell in theirs.cells] == [cell.source.strip() for cell in ours.cells]
    for their, our in zip(theirs.cells, ours.cells, strict=True):
        if "nbgrader" in our.metadata:
            for name, value in our.metadata.nbgrader.items():
                assert name == "checksum" or their.metadata.nbgrader[name] == value


def test_autograde_gives_the_solution_full_marks_and_the_starter_none(course: Path) -> None:
    for student, source in (("solver", ROOT / "solutions"), ("starter", course / "release" / "one")):
        folder = course / "submitted" / student / "one"
        folder.mkdir(parents=True)
        for chapter in CHAPTERS:
            shutil.copy(source / f"{chapter}.ipynb", folder)
    _nbgrader(course, "-m", "nbgrader", "autograde", "one", "--create")
    scores = json.loads(_nbgrader(course, "-c", SCORES).strip().split("\n")[-1])
    points = {chapter: sum(e.points for e in exercises_of(chapter)) for chapter in CHAPTERS}
    assert {chapter: scores["solver"][chapter] for chapter in CHAPTERS} == points
    assert {chapter: scores["starter"][chapter] for chapter in CHAPTERS} == dict.fromkeys(CHAPTERS, 0)
