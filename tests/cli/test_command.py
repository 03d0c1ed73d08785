"""The `course` command as a user and as a script meet it: output, exit codes, JSON, and no traceback ever."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
from nbformat import v4
from typer.testing import CliRunner, Result

import course_lib.atomic
import course_lib.authoring.build
import course_lib.authoring.skeleton
import course_lib.checks.export
import course_lib.grading.local
import course_lib.workspace
from course_lib.authoring.build import BuildReport
from course_lib.cli import app
from course_lib.workspace import Workspace

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = (
    *("lab", "check", "progress", "hint", "reset", "update", "export", "doctor", "build", "new"),
    *("release", "grade", "gradebook", "similarity"),
)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A course of one chapter and a learner's folder, both in a temporary place."""
    root = tmp_path / "course"
    for folder in ("notebooks", "exercises"):
        (root / folder).mkdir(parents=True)
        write_edition(root / folder / "06_attention.ipynb", "old")
    monkeypatch.setattr(course_lib.workspace, "project_root", lambda: root)
    monkeypatch.setenv("COURSE_WORK", str(tmp_path / "work"))
    monkeypatch.delenv("COURSE_PROGRESS", raising=False)
    monkeypatch.delenv("COURSE_DEBUG", raising=False)
    return Workspace()


def write_edition(path: Path, text: str) -> None:
    notebook = v4.new_notebook(cells=[v4.new_markdown_cell(text, id="intro")])
    path.write_text(json.dumps(notebook), encoding="utf-8")


def course(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), prog_name="course", env={"COLUMNS": "200"})


def read_json(*arguments: str) -> Any:
    done = course(*arguments, "--json")
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


# --- help -------------------------------------------------------------------------------------------------


def test_the_help_lists_every_command_and_the_exit_codes() -> None:
    shown = course("--help")
    assert shown.exit_code == 0
    for word in (*COMMANDS, "Exit codes: 0 fine; 1 not passed", "2 wrong use", "3 something is broken"):
        assert word in " ".join(shown.stdout.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_with_an_example(command: str) -> None:
    shown = course(command, "--help")
    assert shown.exit_code == 0 and f"Example: course {command}" in shown.stdout


def test_the_command_loads_nothing_heavy_before_it_runs() -> None:
    heavy = [
        "torch",
        "numpy",
        "matplotlib",
        "nbformat",
        "jupyterlab",
        "IPython",
        "nbval",
        "course_lib.checks",
    ]
    program = f"import sys, course_lib.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_wrong_use_exits_with_2_and_suggests() -> None:
    wrong = course("chek")
    assert wrong.exit_code == 2 and "check" in wrong.stderr
    assert course().exit_code == 2
    assert course("hint").exit_code == 2
    assert course("check", "--no-such-option").exit_code == 2


# --- the learner's folder ---------------------------------------------------------------------------------


def test_update_tells_what_it_did_and_where_the_old_version_is(workspace: Workspace) -> None:
    assert "2 notebooks" not in course("update").stdout
    assert course("update").stdout == "Nothing to do: your notebooks are up to date.\n"
    write_edition(workspace.root / "notebooks/06_attention.ipynb", "new")
    done = course("update")
    assert done.exit_code == 0 and done.stderr == ""
    assert "notebooks/06_attention.ipynb: merged (cells: 1 replaced)" in done.stdout
    assert "Your earlier versions are in " in done.stdout


def test_update_speaks_json(workspace: Workspace) -> None:
    assert {row["status"] for row in read_json("update")["notebooks"]} == {"copied"}
    workspace.mine("exercises/06_attention.ipynb").write_bytes(b"\0")
    report = read_json("update")
    assert Path(report["backup"]).is_dir()
    assert "NUL bytes" in report["problems"][0]


def test_update_that_could_not_do_its_work_exits_with_3(workspace: Workspace) -> None:
    course("update")
    (workspace.root / "notebooks/06_attention.ipynb").write_text("{")
    done = course("update")
    assert done.exit_code == 3 and done.stderr.count("\n") == 1 and "left as it is" in done.stderr


def test_reset_takes_a_chapter_in_any_form_and_keeps_a_backup(workspace: Workspace) -> None:
    course("update")
    workspace.mine("exercises/06_attention.ipynb").write_text("my work")
    report = read_json("reset", "attention")
    kept = Path(report["backup"]) / "exercises/06_attention.ipynb"
    assert kept.read_text() == "my work"
    assert [row["status"] for row in report["notebooks"]] == ["reset", "reset"]


@pytest.mark.parametrize("command", ["reset", "check"])
def test_an_unknown_chapter_is_one_sentence_with_a_near_name(workspace: Workspace, command: str) -> None:
    done = course(command, "atention")
    assert done.exit_code == 2 and done.stdout == ""
    assert done.stderr.startswith("There is no chapter 'atention'. Did you mean 06_attention")
    assert done.stderr.count("\n") == 1


# --- check ------------------------------------------------------------------------------------------------


@dataclass
class FakeExercise:
    id: str
    status: str
    title: str = "A title [with brackets]"
    points: int = 3
    earned: int = 0
    sentence: str = "Divide by the root of [d_k]."


@dataclass
class FakeReport:
    notebook: str
    exercises: list[FakeExercise]
    problems: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@pytest.fixture
def verdicts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statuses that checking a notebook gives; a test changes them in place."""
    statuses = ["passed"]

    def fake(path: Path, *, cell_timeout: float, progress: Any) -> FakeReport:
        assert path.exists()
        return FakeReport(path.name, [FakeExercise(f"attention/{i}", s) for i, s in enumerate(statuses)])

    monkeypatch.setattr(course_lib.grading.local, "check_notebook", fake)
    return statuses


@pytest.mark.parametrize("what", [[], ["06"], ["attention"], ["work/exercises/06_attention"]])
def test_check_finds_the_notebook_meant_and_shows_a_table(
    workspace: Workspace, verdicts: list[str], what: list[str]
) -> None:
    done = course("check", *what)
    assert done.exit_code == 0, done.stderr
    assert "attention/0" in done.stdout and "A title [with brackets]" in done.stdout
    assert "0/3" in done.stdout and "Divide by the root of [d_k]." in done.stdout
    assert "Checking" in done.stderr


@pytest.mark.parametrize("status", ["failed", "not started", "timeout", "broken", "missing"])
def test_check_exits_with_1_unless_everything_passed(
    workspace: Workspace, verdicts: list[str], status: str
) -> None:
    verdicts.append(status)
    done = course("check", "06")
    assert done.exit_code == 1 and status in done.stdout
    assert [row["status"] for row in read_json("check", "06")[0]["exercises"]] == ["passed", status]


def test_check_takes_a_path_and_says_when_there_is_no_such_notebook(
    workspace: Workspace, verdicts: list[str], tmp_path: Path
) -> None:
    shutil.copy(workspace.root / "exercises/06_attention.ipynb", tmp_path / "06_attention.ipynb")
    assert course("check", str(tmp_path / "06_attention.ipynb")).exit_code == 0
    done = course("check", "nowhere.ipynb")
    assert done.exit_code == 2 and done.stderr.startswith("There is no notebook nowhere.ipynb")


def test_check_of_an_unwritten_chapter_says_so(workspace: Workspace) -> None:
    done = course("check", "24")
    assert done.exit_code == 2 and "24_capstone has no exercises yet" in done.stderr


# --- progress and hints, with the real exercises ----------------------------------------------------------


def test_hints_come_one_after_the_other_and_progress_keeps_them(workspace: Workspace) -> None:
    first, second = read_json("hint", "attention/sdpa"), read_json("hint", "attention/sdpa")
    assert (first["number"], second["number"]) == (1, 2) and first["text"] != second["text"]
    assert course("hint", "attention/sdpa").stdout.startswith("Hint 3 of ")
    assert (workspace.work / ".course/progress.json").exists()


def test_a_hint_for_an_unknown_exercise_is_one_sentence_with_near_names(workspace: Workspace) -> None:
    done = course("hint", "attention/sdpaa")
    assert done.exit_code == 2 and "attention/sdpa" in done.stderr and done.stderr.count("\n") == 1


def test_progress_has_a_row_for_each_chapter_with_exercises(workspace: Workspace) -> None:
    rows = read_json("progress")
    (attention,) = [row for row in rows if row["chapter"] == "06_attention"]
    assert attention["passed"] == 0 and attention["total"] >= 3 and attention["of"] > 0
    shown = course("progress")
    assert shown.exit_code == 0 and f"0/{attention['total']}" in shown.stdout


# --- export and the authors' commands ----------------------------------------------------------------------


def test_export_names_what_is_the_learners_and_refuses_a_folder_of_other_things(
    workspace: Workspace, tmp_path: Path
) -> None:
    report = read_json("export", "--to", str(tmp_path / "my_transformer"))
    assert report["own"] == [] and report["from_library"]
    assert (tmp_path / "my_transformer/__init__.py").exists()
    shown = course("export", "--to", str(tmp_path / "my_transformer"))
    assert shown.exit_code == 0 and shown.stdout.startswith("Yours: nothing yet\nFrom the library: ")
    (tmp_path / "thesis").mkdir()
    refused = course("export", "--to", str(tmp_path / "thesis"))
    assert refused.exit_code == 2 and "thesis" in refused.stderr and refused.stderr.count("\n") == 1


@pytest.mark.parametrize("problems", [[], ["06_attention.ipynb is out of step."]])
def test_build_passes_its_options_on_and_exits_with_1_where_something_is_out_of_step(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, problems: list[str]
) -> None:
    asked: list[tuple[object, ...]] = []

    def fake(root: Path, *options: object) -> BuildReport:
        asked.append((root, *options[:4]))
        return BuildReport(problems=problems, written=[root / "notebooks/06_attention.ipynb"])

    monkeypatch.setattr(course_lib.authoring.build, "build", fake)
    done = course("build", "06", "attention", "--check", "--jobs", "3", "--force")
    assert asked == [(workspace.root, ["06", "attention"], True, 3, True)]
    assert done.exit_code == len(problems) and done.stderr.splitlines() == problems
    assert "written: " in done.stdout
    assert read_json("build")["problems"] == problems and asked[1] == (
        workspace.root,
        None,
        False,
        None,
        False,
    )


def test_build_and_new_of_a_wrong_name_are_wrong_use(workspace: Workspace) -> None:
    for command in (["build", "no-such-chapter"], ["new", "Attention!"]):
        done = course(*command)
        assert done.exit_code == 2 and done.stdout == ""
        assert command[1] in done.stderr and "Traceback" not in done.stderr


def test_new_lists_the_files_that_it_made(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [workspace.root / "notebooks/25_my_topic.md"]
    monkeypatch.setattr(course_lib.authoring.skeleton, "new_chapter", lambda root, name: made)
    assert course("new", "25_my_topic").stdout == f"written: {made[0]}\n"


# --- what is unexpected -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raised", "code", "told"),
    [
        (course_lib.atomic.DiskFull(Path("x")), 3, "The disk is full: x was not written"),
        (PermissionError(13, "Permission denied", "work/a"), 3, "work/a may not be read or written by you"),
        (KeyboardInterrupt(), 130, "Interrupted."),
        (RuntimeError("two\nlines"), 3, "The course itself failed (RuntimeError: two lines)."),
    ],
)
def test_whatever_happens_is_one_sentence_and_an_exit_code(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int, told: str
) -> None:
    def fail(self: Workspace) -> None:
        raise raised

    monkeypatch.setattr(Workspace, "update", fail)
    done = course("update")
    assert done.exit_code == code
    assert done.stderr.startswith(told) and done.stderr.count("\n") == 1 and done.stdout == ""


def test_debugging_shows_the_traceback(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Workspace, "update", lambda self: 1 / 0)
    monkeypatch.setenv("COURSE_DEBUG", "1")
    assert isinstance(course("update").exception, ZeroDivisionError)


# --- as real processes ------------------------------------------------------------------------------------


def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "course_lib.cli", *arguments]
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )


def test_the_command_works_from_any_folder_on_the_real_course(tmp_path: Path) -> None:
    done = run("update", "--json", cwd=tmp_path, COURSE_WORK=str(tmp_path / "work"))
    assert done.returncode == 0, done.stderr
    copied = {row["notebook"] for row in json.loads(done.stdout)["notebooks"]}
    assert copied == {
        f"{folder}/{path.name}"
        for folder in ("notebooks", "exercises")
        for path in (ROOT / folder).glob("*.ipynb")
    }
    assert list(tmp_path.iterdir()) == [tmp_path / "work"]


def test_the_entry_point_is_declared(tmp_path: Path) -> None:
    script = Path(sys.executable).parent / ("course.exe" if os.name == "nt" else "course")
    done = subprocess.run([str(script), "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "course" in done.stdout


def test_a_reader_that_closes_the_pipe_causes_no_traceback(tmp_path: Path) -> None:
    command = f'"{sys.executable}" -m course_lib.cli --help | head -1'
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert "Traceback" not in done.stderr


def test_the_benchmark_of_the_start_measures_both_bars() -> None:
    command = [sys.executable, str(ROOT / "benchmarks/startup.py"), "--runs", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "import course_lib" in done.stdout and "course --help" in done.stdout, done.stderr
