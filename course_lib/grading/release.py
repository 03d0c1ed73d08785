"""The learners' pack: exercises, lessons and library of the chapters that are handed out, and no answers.

    pack/
      README.md  course.py  pyproject.toml  environment.yml  LICENSE  LICENSE-PROSE
      exercises/NN_topic.ipynb  notebooks/NN_topic.ipynb
      course_lib/            without what only authors and staff use
        checks/NN_topic.py       three lines; what it loads is
        checks/NN_topic.frames   the recorded exercises: public cases, and what is right and wrong on them

A pack holds no solution, no hidden case, and neither the source of a reference nor of a misconception. The
same course and seeds give the same bytes on one machine.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import course_lib

from ..atomic import write_bytes, write_text
from ..chapters import BY_NAME, BY_TOPIC
from ..checks.recorded import SEEDS, RecordingProblem, data_file, record
from ..checks.registry import chapters as all_chapters
from ..checks.registry import exercises_of
from ..workspace import WorkspaceError

FILES = ("course.py", "pyproject.toml", "environment.yml", "LICENSE", "LICENSE-PROSE")
# Of `grading`, what `course check` and `course export` use and what reads the recorded exercises; the staff's
# commands say that they are not in a pack.
GRADING = ("__init__.py", "answers.py", "commands.py", "local.py", "protocol.py")
NOT_PACKED = ("__pycache__", "*.pyc", ".*")
_IMAGE = re.compile(r"images/[\w.-]+")


class ReleaseProblem(WorkspaceError):
    """The pack cannot be made; the message is one sentence that says why."""


def make_pack(root: Path, chapters: Sequence[str], into: Path, seeds: Sequence[int] = SEEDS) -> list[str]:
    """Write the pack of these chapters, as "06_attention", of the course in `root` to a new folder.

    seeds: one recorded draw for each. Returns the written paths, relative, with forward slashes, in order.
    Raises ReleaseProblem.
    """
    chapters = sorted(set(chapters))
    _refuse(root, chapters, into)
    _copy_library(root, chapters, into)
    for chapter in chapters:
        _write_checks(chapter, into, seeds)
        _copy_notebooks(root, chapter, into)
    for name in FILES:
        shutil.copyfile(root / name, into / name)
    write_text(into / "README.md", _readme(chapters))
    return sorted(path.relative_to(into).as_posix() for path in into.rglob("*") if path.is_file())


def _refuse(root: Path, chapters: Sequence[str], into: Path) -> None:
    if not chapters:
        raise ReleaseProblem("Name a chapter to release, for example 06.")
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise ReleaseProblem(f"{into} exists and is not an empty folder: name a new one.")
    if not (root / "course_lib").samefile(Path(course_lib.__file__).parent):
        raise ReleaseProblem(f"This is not the course in {root}: run the release with that course's own.")
    for chapter in chapters:
        files = [root / folder / f"{chapter}.ipynb" for folder in ("exercises", "notebooks")]
        if chapter not in all_chapters() or not all(path.is_file() for path in files):
            raise ReleaseProblem(
                f"Chapter {chapter} has no exercises or no lesson yet: it cannot be released."
            )


# --- the library ----------------------------------------------------------------------------------------


def _copy_library(root: Path, chapters: Sequence[str], into: Path) -> None:
    """The library without any entry, without what only authors and staff use, and without later probes."""
    source = root / "course_lib"
    leave = {source / "authoring", *(source / "checks").glob("[0-9][0-9]_*.*")}
    leave |= {path for path in (source / "grading").iterdir() if path.name not in GRADING}
    topics = {BY_NAME[chapter].topic for chapter in chapters}
    leave |= {source / "checks" / "probes" / f"{topic}.py" for topic in BY_TOPIC if topic not in topics}
    always = shutil.ignore_patterns(*NOT_PACKED)

    def ignored(folder: str, names: list[str]) -> set[str]:
        return always(folder, names) | {name for name in names if Path(folder, name) in leave}

    shutil.copytree(source, into / "course_lib", ignore=ignored)


def _write_checks(chapter: str, into: Path, seeds: Sequence[int]) -> None:
    checks = into / "course_lib" / "checks"
    try:
        write_bytes(data_file(chapter, checks), record(exercises_of(chapter), seeds))
    except RecordingProblem as error:
        raise ReleaseProblem(str(error)) from error
    write_text(checks / f"{chapter}.py", _LOADER.format(chapter=chapter))


_LOADER = '''"""Exercises of {chapter}, as they were recorded when this pack was made."""

from .recorded import load

EXERCISES = load("{chapter}")
'''


# --- notebooks and the page to begin with ---------------------------------------------------------------


def _copy_notebooks(root: Path, chapter: str, into: Path) -> None:
    for folder in ("exercises", "notebooks"):
        name = f"{folder}/{chapter}.ipynb"
        write_bytes(into / name, (root / name).read_bytes())
        for image in sorted(set(_IMAGE.findall((root / name).read_text(encoding="utf-8")))):
            if (root / folder / image).is_file():
                write_bytes(into / folder / image, (root / folder / image).read_bytes())


def _readme(chapters: Sequence[str]) -> str:
    first = chapters[0]
    exercise = exercises_of(first)[0].id
    rows = "\n".join(map(_table_row, chapters))
    return _README.format(first=first, number=first[:2], exercise=exercise, rows=rows)


def _table_row(chapter: str) -> str:
    exercises = exercises_of(chapter)
    points, minutes = (sum(getattr(e, name) for e in exercises) for name in ("points", "minutes"))
    title = f"{chapter[:2]} · {BY_NAME[chapter].title}"
    return f"| {title} | {len(exercises)} | {points} | {minutes} |"


_README = """# The Transformer, piece by piece: exercises

## Start

You need Python 3.11 or newer, and nothing else. In this folder:

    python3 course.py lab

makes an environment in `.venv` (about 1.5 GB, a few minutes), copies the notebooks into `work/`, and opens
JupyterLab there. From the second time on it takes seconds. On Windows, write `py course.py lab`.

## What there is to do

| chapter | exercises | points | minutes |
|---|---|---|---|
{rows}

Read the lesson in `work/notebooks/`, then write your answers in `work/exercises/`. A check cell tells you at
once whether an answer is right, and what the mistake looks like where it is not.

| command | what it does |
|---|---|
| `python3 course.py check {number}` | runs your exercises of a chapter and shows the verdicts |
| `python3 course.py hint {exercise}` | the first hint; called again, the next |
| `python3 course.py progress` | how far you are |
| `python3 course.py reset {number}` | a fresh copy of a chapter; yours goes to a dated backup |

## Hand in

Hand in the notebook file, `work/exercises/{first}.ipynb` (for another chapter the file of its name), and
nothing else. Save it in JupyterLab first, and keep the file's name and the cells as they are: only what you
write into the answer cells counts. It is graded on further cases, so an answer has to be right in general,
and not only on the cases that the check shows.

## Licence

Code: [MIT](LICENSE). Prose, figures and exercise statements: [CC BY 4.0](LICENSE-PROSE).
"""
