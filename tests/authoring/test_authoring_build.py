"""The build as a whole: what is run, what is written, what stays the same byte for byte."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import psutil
import pytest

from course_lib.authoring.limits import Limits
from course_lib.chapters import UnknownChapter

ANSWER = "def double(x):\n    ### BEGIN SOLUTION\n    return 2 * x\n    ### END SOLUTION"
CHECK_FUNCTION = "def check(name, answer, hidden=False):\n    assert answer(2) == 4\n    print(name, hidden)"
OUTPUTS = (
    "import sys\nprint('a')\nprint('b', file=sys.stderr)\nprint('c')",
    "from IPython.display import HTML, display\nprint('x')\ndisplay(HTML('<b>h</b>'))\nprint('y')\n(1, 2)",
    "print('10%\\r100%')",
    "import os\nprint(os.environ['COURSE_BUILD'], os.getcwd().endswith('notebooks'))",
    "hash('text')",
)


@pytest.fixture(scope="module")
def built(make_course, cell: Callable[..., str]):
    """Two lessons and a solution, built once, with the report."""
    course = make_course()
    course.lesson("01_one", "A [link](../exercises/01_one.ipynb).\n", *map(cell, OUTPUTS))
    course.lesson("02_two", cell("print(2)"))
    course.solution("01_one", cell(CHECK_FUNCTION), cell(ANSWER), cell('check("one/double", double)'))
    return course, course.build()


def test_a_build_writes_lessons_solutions_and_exercises(built):
    course, report = built
    assert report.problems == []
    names = {path.relative_to(course.root).as_posix() for path in report.written}
    assert names == {
        "notebooks/01_one.ipynb",
        "notebooks/02_two.ipynb",
        "solutions/01_one.ipynb",
        "exercises/01_one.ipynb",
    }
    assert set(report.timings) == {name for name in names if not name.startswith("exercises")}
    json.dumps(report.to_json())


def test_every_notebook_is_valid_and_says_what_it_is(built):
    course, _ = built
    for name, kind in (("notebooks", "lesson"), ("solutions", "solution"), ("exercises", "exercise")):
        notebook = course.notebook(f"{name}/01_one.ipynb")
        nbformat.validate(notebook)
        assert notebook.metadata.course.kind == kind
        assert notebook.metadata.course.chapter == "01_one"
        assert re.fullmatch("[0-9a-f]{64}", notebook.metadata.course.fingerprint)
        assert notebook.metadata.kernelspec.name == "python3"
        assert not re.search(r"3\.\d+", json.dumps(notebook.metadata.language_info))


def test_exercises_share_ids_with_the_solution_and_have_no_outputs(built):
    course, _ = built
    solution, exercise = course.notebook("solutions/01_one.ipynb"), course.notebook("exercises/01_one.ipynb")
    assert [cell.id for cell in solution.cells] == [cell.id for cell in exercise.cells]
    for cell in exercise.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


def test_outputs_are_merged_in_a_fixed_order(built):
    course, _ = built
    streams, display, progress, environment, hashed = (
        cell for cell in course.notebook("notebooks/01_one.ipynb").cells if cell.cell_type == "code"
    )
    assert [(output.name, output.text) for output in streams.outputs] == [
        ("stdout", "a\nc\n"),
        ("stderr", "b\n"),
    ]
    kinds = [output.output_type for output in display.outputs]
    assert kinds == ["stream", "display_data", "stream", "execute_result"]
    assert progress.outputs[0].text == "100%\n"
    assert environment.outputs[0].text == "1 True\n"
    assert [cell.execution_count for cell in (streams, display, progress, environment, hashed)] == [
        1,
        2,
        3,
        4,
        5,
    ]


def test_hidden_tests_ran_in_the_solution(built):
    course, _ = built
    check = course.notebook("solutions/01_one.ipynb").cells[-1]
    assert check.outputs[0].text == "one/double False\none/double True\n"


def test_a_second_build_runs_nothing_and_changes_no_byte(built):
    course, _ = built
    before = course.bytes()
    report = course.build()
    assert report.executed == [] and report.written == []
    assert course.bytes() == before


def test_running_everything_again_gives_the_same_bytes(built):
    course, _ = built
    before = course.bytes()
    report = course.build(force=True, jobs=1)
    assert len(report.executed) == 3 and report.written == []
    assert course.bytes() == before


def test_a_build_from_nothing_gives_the_same_bytes(built, make_course):
    course, _ = built
    other = make_course()
    for path in course.root.rglob("*.md"):
        other.write(path.relative_to(course.root).as_posix(), path.read_text(encoding="utf-8"))
    other.build()
    assert other.bytes() == course.bytes()


def test_check_accepts_what_was_built_and_writes_nothing(built):
    course, _ = built
    before = {path: path.stat().st_mtime_ns for path in course.root.rglob("*") if path.is_file()}
    report = course.build(check=True)
    assert report.problems == [] and len(report.executed) == 3
    assert {path: path.stat().st_mtime_ns for path in course.root.rglob("*") if path.is_file()} == before


def test_notebooks_are_files_as_nbformat_writes_them(built):
    course, _ = built
    for content in course.bytes().values():
        text = content.decode("utf-8")
        assert text.endswith("}\n") and not text.endswith("\n\n")
        parsed = json.loads(text)
        assert text == json.dumps(parsed, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def test_a_chapter_may_be_named_in_several_ways(built):
    course, _ = built
    for name in ("1", "01", "one", "01_one", "notebooks/01_one.ipynb"):
        report = course.build(name, check=True, execute=False)
        assert report.problems == []
    with pytest.raises(UnknownChapter, match="Did you mean 01_one"):
        course.build("onne")


@pytest.fixture
def copy(built, course):
    """A copy of the built course that a test may change."""
    for path in built[0].root.rglob("*"):
        if path.is_file():
            target = course.root / path.relative_to(built[0].root)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return course


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "old", "new", "sentence"),
    [
        ("notebooks/02_two.md", "print(2)", "print(3)", "notebooks/02_two.ipynb: out of step"),
        ("notebooks/02_two.ipynb", "print(2)", "print(4)", "the source of cell 2 differs"),
        (
            "exercises/01_one.ipynb",
            "raise NotImplementedError",
            "return 2 * x",
            "the source of cell 3 differs",
        ),
        ("exercises/01_one.ipynb", '"points": 3', '"points": 5', "the metadata of cell 4 differs"),
        (
            "exercises/01_one.ipynb",
            '"one-double-check",\n   "m',
            '"other",\n   "m',
            "the id of cell 4 differs",
        ),
        (
            "notebooks/02_two.ipynb",
            '"display_name": "Python 3"',
            '"display_name": "P"',
            "its metadata differ",
        ),
        ("notebooks/02_two.ipynb", '"execution_count": 1', '"execution_count": null', "have been run"),
        ("notebooks/02_two.ipynb", '{\n "cells', '{\n\n "cells', "not written by `course build`"),
        ("notebooks/02_two.ipynb", '"nbformat": 4', '"nbformat": 3', "not a readable notebook"),
    ],
)
def test_check_finds_what_is_out_of_step(copy, name: str, old: str, new: str, sentence: str):
    edit(copy.root / name, old, new)
    report = copy.build(check=True, execute=False)
    assert any(sentence in problem for problem in report.problems), report.problems
    assert len(report.problems) == 1
    assert "run `course build" in report.problems[0]


def test_check_finds_missing_and_orphaned_notebooks(copy):
    (copy.root / "exercises/01_one.ipynb").rename(copy.root / "exercises/09_other.ipynb")
    problems = copy.build(check=True, execute=False).problems
    assert any("exercises/01_one.ipynb" in problem and "no such file" in problem for problem in problems)
    assert any("exercises/09_other.ipynb: no .md stands behind it" in problem for problem in problems)


def test_only_what_changed_is_run_again(copy):
    edit(copy.root / "notebooks/02_two.md", "print(2)", "print(22)")
    report = copy.build()
    assert report.executed == ["notebooks/02_two.ipynb"]
    assert [path.name for path in report.written] == ["02_two.ipynb"]


def test_new_prose_runs_nothing_and_keeps_outputs(copy, cell: Callable[..., str]):
    outputs = copy.notebook("notebooks/02_two.ipynb").cells[-1].outputs
    assert outputs
    copy.lesson("02_two", "A sentence.\n\n+++\n", cell("print(2)"), "And another.\n")
    report = copy.build()
    assert report.problems == [] and report.executed == [] and len(report.written) == 1
    texts = [(one.cell_type, one.source) for one in copy.notebook("notebooks/02_two.ipynb").cells]
    assert texts[-2:] == [("code", "print(2)"), ("markdown", "And another.")]
    assert copy.notebook("notebooks/02_two.ipynb").cells[-2].outputs == outputs
    assert copy.build(check=True).problems == []


def test_a_broken_notebook_is_not_built_over(copy):
    path = copy.root / "notebooks/02_two.ipynb"
    path.write_text("<<<<<<< HEAD\n" + path.read_text())
    before = path.read_bytes()
    report = copy.build(force=True)
    assert len(report.problems) == 1 and "not a readable notebook" in report.problems[0]
    assert path.read_bytes() == before


def test_check_says_an_error_once(copy):
    edit(copy.root / "notebooks/02_two.md", "print(2)", "print(undefined)")
    problems = copy.build("02", check=True).problems
    assert len(problems) == 2
    assert "out of step" in problems[0] and "NameError" in problems[1]


def test_a_full_disk_is_one_sentence_and_the_old_notebook_stays(copy, monkeypatch):
    from course_lib.atomic import DiskFull
    from course_lib.authoring import build as module

    def full(path: Path, content: bytes) -> None:
        raise DiskFull(path)

    before = copy.bytes()
    edit(copy.root / "notebooks/02_two.md", "# Lesson", "# Another title")
    monkeypatch.setattr(module, "write_bytes", full)
    report = copy.build()
    assert len(report.problems) == 1 and "The disk is full" in report.problems[0]
    assert report.written == [] and copy.bytes() == before


def test_a_wrong_time_scale_is_one_problem(copy, monkeypatch):
    monkeypatch.setenv("COURSE_TIME_SCALE", "quick")
    assert len(copy.build().problems) == 1


def test_a_cell_put_in_front_leaves_the_ids_of_the_others(copy, cell: Callable[..., str]):
    before = [one.id for one in copy.notebook("notebooks/02_two.ipynb").cells]
    copy.lesson("02_two", "New text.\n\n+++\n", cell("y = 1"), cell("print(2)  # still"))
    copy.build("02")
    after = [one.id for one in copy.notebook("notebooks/02_two.ipynb").cells]
    assert before[1] == after[-1] and len(set(after)) == len(after)


def test_a_mistake_in_one_source_does_not_stop_the_others(copy):
    edit(copy.root / "solutions/01_one.md", "### END SOLUTION", "### END SOLUTIONS")
    edit(copy.root / "notebooks/02_two.md", "print(2)", "print(5)")
    report = copy.build()
    assert len(report.problems) == 1 and "never closed" in report.problems[0]
    assert [path.name for path in report.written] == ["02_two.ipynb"]


def test_an_error_leaves_the_committed_notebook_as_it_was(copy):
    before = copy.bytes()
    edit(copy.root / "notebooks/02_two.md", "print(2)", "print(undefined)")
    report = copy.build()
    assert len(report.problems) == 1 and "NameError" in report.problems[0]
    assert copy.bytes() == before


def test_volatile_cells_keep_their_output_until_their_text_changes(course, cell: Callable[..., str]):
    timing = "import time\nprint(time.perf_counter_ns())"
    course.lesson("01_one", cell(timing, tags="volatile"), cell("print(1)"))
    course.build()
    before = course.notebook("notebooks/01_one.ipynb").cells[1].outputs
    course.lesson("01_one", cell(timing, tags="volatile"), cell("print(2)"))
    assert course.build().executed
    after = course.notebook("notebooks/01_one.ipynb").cells
    assert after[1].outputs == before and after[2].outputs[0].text == "2\n"
    course.lesson("01_one", cell(timing + " ", tags="volatile"), cell("z = 0\n" + timing, tags="volatile"))
    course.build()
    assert course.notebook("notebooks/01_one.ipynb").cells[2].outputs != before


def test_check_compares_only_outputs_that_ask_for_it(course, cell: Callable[..., str]):
    timing = "import time\nprint(time.perf_counter_ns())"
    course.lesson("01_one", cell(timing), cell("# NBVAL_CHECK_OUTPUT\nprint(1)"))
    course.build()
    assert course.build(check=True).problems == []
    edit(course.root / "notebooks/01_one.ipynb", '"1\\n"', '"7\\n"')
    problems = course.build(check=True).problems
    assert len(problems) == 1 and "no longer gives the committed output" in problems[0]


def test_a_changed_module_makes_its_notebooks_run_again(course, cell: Callable[..., str]):
    course.write("course_lib/__init__.py", "")
    course.write("course_lib/used.py", "from .deep import VALUE\n")
    course.write("course_lib/deep.py", "VALUE = 1\n")
    course.write("course_lib/unused.py", "VALUE = 1\n")
    course.lesson("01_one", cell("from course_lib.used import VALUE\nprint(VALUE)"))
    course.lesson("02_two", cell("print(2)"))
    assert course.build().problems == []
    course.write("course_lib/unused.py", "VALUE = 2\n")
    assert course.build().executed == []
    course.write("course_lib/deep.py", "VALUE = 2\n")
    problems = course.build(check=True, execute=False).problems
    assert len(problems) == 1 and "depend on has changed" in problems[0]
    assert course.build().executed == ["notebooks/01_one.ipynb"]
    assert course.notebook("notebooks/01_one.ipynb").cells[1].outputs[0].text == "2\n"


def test_a_notebook_may_not_be_too_large(course, cell: Callable[..., str]):
    course.lesson("01_one", cell("print('x' * 5000)"))
    report = course.build(limits=Limits(notebook_bytes=4000))
    assert len(report.problems) == 1 and "a notebook may have 4,000" in report.problems[0]


def test_notebooks_run_at_the_same_time(course, cell: Callable[..., str]):
    # Each waits for the other's file, so that neither can end unless both run.
    for chapter, other in (("01_one", "02_two"), ("02_two", "01_one")):
        course.lesson(
            chapter,
            cell(
                "import time\nfrom pathlib import Path\n"
                f"Path('{chapter}.here').touch()\nend = time.monotonic() + 20\n"
                f"while not Path('{other}.here').exists():\n"
                "    assert time.monotonic() < end\n    time.sleep(0.05)"
            ),
        )
    assert course.build(jobs=2).problems == []


def test_building_never_touches_the_learners_progress(course, cell: Callable[..., str], monkeypatch):
    mine = course.root / "mine.json"
    monkeypatch.setenv("COURSE_PROGRESS", str(mine))
    course.lesson("01_one", cell("import os\nopen(os.environ['COURSE_PROGRESS'], 'w').write('x')\nNone"))
    assert course.build().problems == []
    assert not mine.exists()


def test_progress_is_shown_on_a_console(course, cell: Callable[..., str]):
    from io import StringIO

    from rich.console import Console

    course.lesson("01_one", cell("print(1)"))
    shown = StringIO()
    course.build(console=Console(file=shown, width=100))
    assert re.search(r"notebooks/01_one.ipynb +done +\d+\.\d s +\d+ MiB", shown.getvalue())


@pytest.mark.skipif(os.name == "nt", reason="signals are delivered otherwise on Windows")
def test_an_interrupted_build_leaves_whole_notebooks_and_no_kernel(course, cell: Callable[..., str]):
    course.lesson("01_one", cell("print(1)"))
    course.lesson(
        "02_two", cell("import os, time\nopen('running', 'w').write(str(os.getpid()))\ntime.sleep(60)")
    )
    program = (
        "import sys\nfrom pathlib import Path\nfrom course_lib.authoring.build import build\n"
        "build(Path(sys.argv[1]), structure=False, jobs=1)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(course.root)], stderr=subprocess.PIPE, text=True
    )
    running = course.root / "notebooks/running"
    deadline = time.monotonic() + 60
    while not (running.exists() and running.read_text()):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode != 0 and "KeyboardInterrupt" in errors
    assert not psutil.pid_exists(int(running.read_text()))
    names = sorted(path.name for path in (course.root / "notebooks").iterdir())
    assert names == ["01_one.ipynb", "01_one.md", "02_two.md", "running"]
    nbformat.validate(course.notebook("notebooks/01_one.ipynb"))
