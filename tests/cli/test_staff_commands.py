"""release, grade, gradebook, similarity as staff meet them: one assignment from its release to its marks."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import nbformat
import pytest
from typer.testing import CliRunner, Result

from course_lib.cli import app
from course_lib.grading import bundle as bundle_module
from course_lib.grading import workers
from course_lib.grading.answers import is_answer
from course_lib.grading.sandbox import NoIsolation, available

ROOT = Path(__file__).resolve().parents[2]
CHAPTER = "00_welcome"

pytestmark = pytest.mark.skipif(not available()["bubblewrap"], reason="bubblewrap does not work here")


def course(*arguments: object) -> Result:
    return CliRunner().invoke(
        app, [str(word) for word in arguments], prog_name="course", env={"COLUMNS": "250"}
    )


def read_json(*arguments: object) -> Any:
    done = course(*arguments, "--json")
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def hand_in(folder: Path, learner: str, answers: str, marker: str = "") -> None:
    notebook = nbformat.read(ROOT / answers / f"{CHAPTER}.ipynb", as_version=4)
    for cell in notebook.cells:
        if is_answer(cell) and marker:
            cell.source += f"\n# {marker}"
    (folder / learner).mkdir(parents=True)
    nbformat.write(notebook, folder / learner / f"{CHAPTER}.ipynb")


@pytest.fixture(scope="module")
def week(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Released, handed in by three learners, graded once."""
    folder = tmp_path_factory.mktemp("week")
    done = course("release", "00", "--out", folder / "out")
    assert done.exit_code == 0, done.output
    hand_in(folder / "in", "anna", "solutions", "anna")
    hand_in(folder / "in", "berta", "exercises")
    hand_in(folder / "in", "carl", "solutions", "carl")
    (folder / "in" / "carl" / "readme.txt").write_text("hello")
    (folder / "in" / "dora").mkdir()
    (folder / "in" / "dora" / "essay.pdf").write_bytes(b"%PDF")
    done = course(
        "grade", folder / "in", "--bundle", folder / "out/bundle", "--out", folder / "marks", "--workers", 1
    )
    assert done.exit_code == 1, done.output  # dora's file was not taken
    assert "dora" in done.output and "exercises: 10 passed, 5 failed, 0 ungraded" in done.output
    return folder


def test_a_release_has_a_pack_without_secrets_and_a_bundle_with_them(week: Path) -> None:
    pack = {path.relative_to(week / "out/pack").as_posix() for path in (week / "out/pack").rglob("*")}
    assert f"exercises/{CHAPTER}.ipynb" in pack and "course.py" in pack
    assert not [name for name in pack if name.startswith("solutions")]
    bundle = {path.relative_to(week / "out/bundle").as_posix() for path in (week / "out/bundle").rglob("*")}
    assert {"manifest.json", f"pristine/{CHAPTER}.ipynb", f"library/course_lib/checks/{CHAPTER}.py"} <= bundle


def test_marks_are_shown_overridden_and_kept(week: Path) -> None:
    rows = {row["learner"]: row for row in read_json("gradebook", "show", week / "marks")}
    assert {name: row["earned"] for name, row in rows.items()} == {"anna": 10, "berta": 0, "carl": 10}
    number = rows["berta"]["id"]
    words = ("gradebook", "override", week / "marks", number, "welcome/centre_rows")
    assert course(*words, 1, "--reason", "", "--who", "ann").exit_code == 2
    unknown = course(*words[:-1], "welcome/nothing", 1, "--reason", "right", "--who", "ann")
    assert unknown.exit_code == 2 and "welcome/broadcast_shape" in unknown.output
    done = course(*words, 0.5, "--reason", "half of it is right", "--who", "ann")
    assert done.exit_code == 0, done.output
    (berta,) = [row for row in read_json("gradebook", "show", week / "marks") if row["learner"] == "berta"]
    assert berta["earned"] == 0.5
    assert berta["exercises"]["welcome/centre_rows"] == {"status": "not started", "machine": 0, "counts": 0.5}
    assert "half of it is right" in (week / f"marks/feedback/berta/{CHAPTER}.html").read_text()


def test_marks_are_exported_for_every_program(week: Path) -> None:
    for form, name in (
        ("csv", "marks.csv"),
        ("gradescope", "gradescope"),
        ("junit", "marks.xml"),
        ("html", "feedback"),
    ):
        done = course("gradebook", "export", week / "marks", "--format", form)
        assert done.exit_code == 0 and name in done.output
    with (week / "marks/marks.csv").open(encoding="utf-8") as file:
        table = {row["learner"]: row for row in csv.DictReader(file)}
    assert table["anna"]["earned"] == "10" and table["anna"]["welcome/centre_rows"] == "1"
    results = json.loads((week / f"marks/gradescope/anna-{CHAPTER}/results.json").read_text())
    assert sum(test["score"] for test in results["tests"]) == 10
    suites = ElementTree.parse(week / "marks/marks.xml").getroot()
    assert suites.get("tests") == "15" and suites.get("errors") == "0"
    done = course("gradebook", "export", week / "marks", "--to", week / "elsewhere.csv")
    assert done.exit_code == 0 and (week / "elsewhere.csv").exists()


def test_copies_are_listed_for_a_person(week: Path) -> None:
    words = ("similarity", week / "marks", "--bundle", week / "out/bundle")
    found = read_json(*words)
    pairs = {(match["first"]["learner"], match["second"]["learner"]) for match in found["matches"]}
    assert ("anna", "carl") in pairs
    done = course(*words)
    assert done.exit_code == 0 and "for a person to look at" in done.output
    assert "anna" in (week / "marks/similarity/index.html").read_text()
    assert (week / "marks/similarity/pairs.csv").read_text().count("\n") > 1


def test_what_was_graded_is_not_graded_again_and_an_archive_will_do(week: Path) -> None:
    archive = shutil.make_archive(str(week / "class"), "zip", week / "in")
    words = ("grade", archive, "--bundle", week / "out/bundle", "--out", week / "marks")
    found = read_json(*words)
    assert (found["read"], found["graded"], found["known"]) == (3, 0, 3)
    assert [item["name"] for item in found["not_taken"]] != []
    assert "dora" in (week / "marks/not-taken.csv").read_text()


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("grade", "nothing.zip", "-b", "{b}", "-o", "{o}"), 2, "There is no nothing.zip"),
        (("grade", "{i}", "-b", "{i}", "-o", "{o}"), 2, "is no bundle"),
        (("grade", "{i}", "-b", "{b}", "-o", "{o}", "--due", "tomorrow"), 2, "is no moment"),
        (("grade", "{i}", "-b", "{b}", "-o", "{o}", "--isolation", "hope"), 2, "hope"),
        (("grade", "{i}", "-b", "{b}", "-o", "{o}", "--gpu"), 2, "--gpu needs --isolation none"),
        (
            ("grade", "{i}", "-b", "{b}", "-o", "{o}", "--scheduler", "tcp://127.0.0.1:1"),
            3,
            "No Dask scheduler",
        ),
        (("gradebook", "show", "{i}"), 2, "There is no gradebook"),
        (("gradebook", "export", "{i}"), 2, "There is no gradebook"),
        (("release", "00", "--out", "{i}"), 2, "not an empty folder"),
        (("release", "99", "--out", "{o}"), 2, "There is no chapter"),
        (("release", "00", "--out", "{o}", "--points", "centre_rows"), 2, "not of the form"),
        (("release", "00", "--out", "{o}", "--points", "welcome/nothing=3"), 2, "welcome/nothing"),
    ],
)
def test_wrong_use_is_one_sentence(
    week: Path, tmp_path: Path, words: tuple[str, ...], code: int, told: str
) -> None:
    places = {"b": week / "out/bundle", "o": tmp_path / "new", "i": week / "in"}
    done = course(*(word.format(**places) for word in words))
    assert done.exit_code == code, done.output
    assert told in " ".join(done.output.split())
    assert "Traceback" not in done.output


def test_without_isolation_it_refuses_and_with_none_it_says_what_that_means(
    week: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("grade", week / "in", "-b", week / "out/bundle", "-o", tmp_path / "marks", "--workers", 1)

    def refuse(isolation: str) -> str:
        raise NoIsolation("Nothing here keeps a submission apart.")

    with monkeypatch.context() as patched:
        patched.setattr(workers, "chosen", refuse)
        done = course(*words)
    assert done.exit_code == 3 and "Nothing here keeps a submission apart." in done.output
    done = course(*words, "--isolation", "none")
    assert "run with your rights" in done.output and "10 passed" in done.output


def test_a_release_whose_solution_fails_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = bundle_module.make_bundle

    def broken(root: Path, chapters: list[str], into: Path, points: dict[str, int]) -> bundle_module.Bundle:
        made = real(root, chapters, into, points)
        solution = made.assignment(CHAPTER).solution
        for cell in solution.cells:
            if cell.get("metadata", {}).get("nbgrader", {}).get("grade_id") == "welcome-centre_rows":
                cell.source = "def centre_rows(matrix):\n    return matrix"
        return made

    monkeypatch.setattr(bundle_module, "make_bundle", broken)
    done = course("release", "00", "--out", tmp_path / "out")
    assert done.exit_code == 3 and "the solution of welcome/centre_rows got 0 points" in done.output
    assert not (tmp_path / "out").exists()


def in_view(arguments: list[str], *command: object) -> subprocess.CompletedProcess[str]:
    """Run `course` with parts of the disk replaced."""
    view = ["bwrap", "--dev-bind", "/", "/", *arguments, sys.executable, "-m", "course_lib.cli"]
    words = [*view, *map(str, command)]
    return subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=300)


def test_a_full_disk_and_a_read_only_folder_are_told_in_a_sentence(week: Path, tmp_path: Path) -> None:
    out = tmp_path / "marks"
    out.mkdir()
    words = ("grade", week / "in", "-b", week / "out/bundle", "-o", out, "--workers", 1)
    done = in_view(["--ro-bind", str(out), str(out)], *words)
    assert done.returncode == 3 and "Traceback" not in done.stderr
    assert "read-only" in done.stderr or "may not be written" in done.stderr, done.stderr
    done = in_view(["--size", "40960", "--tmpfs", str(out)], *words)
    assert done.returncode == 3 and "Traceback" not in done.stderr
    assert "disk is full" in done.stderr, done.stderr
    assert in_view([], *words).returncode == 1  # dora's file, and nothing else
    with_marks = {row["learner"]: row["earned"] for row in read_json("gradebook", "show", out)}
    assert with_marks == {"anna": 10, "berta": 0, "carl": 10}
