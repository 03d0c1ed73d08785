"""The learners' pack. Oracle: the course it was made of, and a process that sees nothing but the pack."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import typer

from course_lib.chapters import CHAPTERS as ALL
from course_lib.checks.compare import compare
from course_lib.checks.engine import expected_values, run_answer
from course_lib.checks.exercise import Exercise
from course_lib.checks.recorded import CAPS
from course_lib.checks.registry import exercises_of
from course_lib.checks.values import Raised
from course_lib.cli import app
from course_lib.grading import protocol
from course_lib.grading.answers import is_answer
from course_lib.grading.release import ReleaseProblem, make_pack
from course_lib.lab import _first_page
from course_lib.workspace import Workspace

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = ("00_welcome", "03_tokenizers", "06_attention")
EXERCISES = [exercise for chapter in CHAPTERS for exercise in exercises_of(chapter)]
SEED = 1
# The course itself may be installed beside what runs the tests; in a pack's own environment it is not.
ONLY_THE_PACK = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in finder.__module__]
"""
# Shorter lines are everybody's: `return mask`, `for i in range(n):`.
DISTINCTIVE = 30


@dataclass(frozen=True)
class Pack:
    """A pack, and the way into a process that has nothing else of the course on its path."""

    folder: Path
    paths: tuple[str, ...]

    def run(self, *arguments: str, work: Path, **more: str) -> subprocess.CompletedProcess[str]:
        names = ("COURSE_PROGRESS", "COURSE_VERDICTS", "COURSE_BUILD")
        environment = {name: value for name, value in os.environ.items() if name not in names}
        (work / "only").mkdir(exist_ok=True)
        (work / "only" / "sitecustomize.py").write_text(ONLY_THE_PACK)
        environment |= {"PYTHONPATH": os.pathsep.join([str(work / "only"), str(self.folder)])}
        environment |= {"PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200"}
        environment |= {"COURSE_WORK": str(work / "work")} | more
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=300)

    def course(self, *arguments: str, work: Path) -> subprocess.CompletedProcess[str]:
        return self.run("-m", "course_lib.cli", *arguments, work=work)

    def texts(self) -> Iterator[tuple[str, str]]:
        """Every file's content as text, and every text inside the recorded exercises as it is."""
        for name in self.paths:
            content = (self.folder / name).read_bytes()
            yield name, content.decode("utf-8", "replace")
            if name.endswith(".frames"):
                yield name, "\n".join(strings_in(frames_of(content)))


def frames_of(content: bytes) -> list[Any]:
    found = []
    while content:
        size = protocol.PREFIX.size
        end = size + sum(protocol.sizes(content[:size], CAPS))
        found.append(protocol.decode(content[:end], CAPS))
        content = content[end:]
    return found


def strings_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from (*strings_in(key), *strings_in(item))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from strings_in(item)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    folder = tmp_path_factory.mktemp("released") / "pack"
    return Pack(folder, tuple(make_pack(ROOT, CHAPTERS, folder, seeds=(SEED,))))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """A pack of one chapter that is not the first."""
    folder = tmp_path_factory.mktemp("released") / "pack"
    return Pack(folder, tuple(make_pack(ROOT, ["03_tokenizers"], folder, seeds=(SEED,))))


def solve(chapter: str, path: Path, leave: str = "") -> None:
    """The chapter's exercises with the published answers but one, as a learner would save them."""
    notebook = nbformat.read(ROOT / "exercises" / f"{chapter}.ipynb", as_version=4)
    solved = nbformat.read(ROOT / "solutions" / f"{chapter}.ipynb", as_version=4)
    answers = {cell.id: cell.source for cell in solved.cells}
    for cell in notebook.cells:
        if is_answer(cell) and cell.id != leave:
            cell.source = answers[cell.id]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


# --- what is in it --------------------------------------------------------------------------------------


def test_it_holds_the_chapters_the_library_and_the_front_door(pack: Pack) -> None:
    assert sorted(pack.paths) == list(pack.paths)
    on_disk = {path.relative_to(pack.folder).as_posix() for path in pack.folder.rglob("*") if path.is_file()}
    assert set(pack.paths) == on_disk
    assert {name.split("/")[0] for name in pack.paths} == {
        *("LICENSE", "LICENSE-PROSE", "README.md", "course.py", "course_lib", "environment.yml"),
        *("exercises", "notebooks", "pyproject.toml"),
    }
    for chapter in CHAPTERS:
        for name in (f"exercises/{chapter}.ipynb", f"notebooks/{chapter}.ipynb"):
            assert (pack.folder / name).read_bytes() == (ROOT / name).read_bytes()


def test_it_leaves_out_what_is_for_authors_and_staff(pack: Pack, small: Pack) -> None:
    for name in pack.paths:
        parts = name.split("/")
        assert not {"solutions", "tests", "benchmarks", ".ci", "authoring", "__pycache__"} & set(parts)
    grading = {Path(name).stem for name in pack.paths if name.startswith("course_lib/grading/")}
    assert grading == {"__init__", "answers", "commands", "local", "protocol"}
    probes = {Path(name).stem for name in small.paths if "/probes/" in name}
    assert "tokenizers" in probes and not probes & {"attention", "welcome"}
    assert not any("attention" in name for name in small.paths if "/checks/" in name)


def hidden_names() -> set[str]:
    names: dict[bool, set[str]] = {True: set(), False: set()}
    for exercise in EXERCISES:
        for seed in range(3):
            for case in exercise.cases(np.random.default_rng(seed)):
                names[case.hidden].add(case.name)
    return names[True] - names[False]


def test_no_file_names_a_hidden_case(pack: Pack) -> None:
    names = hidden_names()
    assert len(names) > 30
    for file, text in pack.texts():
        assert not names & set(text.split("\n")), file
        # Elsewhere only those of several words: "a single key" stands in a statement, too.
        found = [name for name in names if len(name.split()) > 3 and name in text]
        assert file.endswith(".frames") or not found, (file, found)


def code_lines(source: str) -> set[str]:
    """The distinctive lines inside functions, without docstrings."""
    tree, lines = ast.parse(source), source.split("\n")
    told = set[int]()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            first = node.body[1:] if ast.get_docstring(node) is not None else node.body
            for statement in first:
                told |= set(range(statement.lineno, (statement.end_lineno or 0) + 1))
        elif isinstance(node, ast.Lambda):
            told |= {node.lineno}
    stripped = {lines[number - 1].strip() for number in told}
    return {line for line in stripped if len(line) >= DISTINCTIVE}


def test_no_file_holds_code_of_an_entry(pack: Pack) -> None:
    published = [path for path in (ROOT / "course_lib").rglob("*.py") if not path.name[:2].isdigit()]
    published += (ROOT / "exercises").glob("*.ipynb")
    library = "\n".join(path.read_text(encoding="utf-8") for path in published)
    for chapter in CHAPTERS:
        source = (ROOT / "course_lib" / "checks" / f"{chapter}.py").read_text(encoding="utf-8")
        lines = {line for line in code_lines(source) if line not in library}
        assert len(lines) > 50
        for file, text in pack.texts():
            if not file.startswith("notebooks/"):
                assert not [line for line in lines if line in text], file


def test_no_file_beside_the_library_holds_a_line_of_a_solution(pack: Pack) -> None:
    for chapter in CHAPTERS:
        solved = nbformat.read(ROOT / "solutions" / f"{chapter}.ipynb", as_version=4)
        starter = (ROOT / "exercises" / f"{chapter}.ipynb").read_text(encoding="utf-8")
        answers = "\n".join(cell.source for cell in solved.cells if is_answer(cell))
        lines = {line.strip() for line in answers.split("\n")}
        # The last hint may show a line.
        starter += json.dumps([exercise.hints for exercise in exercises_of(chapter)], ensure_ascii=False)
        lines = {line for line in lines if len(line) >= DISTINCTIVE and json.dumps(line)[1:-1] not in starter}
        assert lines
        for file, text in pack.texts():
            if file.startswith(("exercises/", "course_lib/checks/", "README")):
                assert not [line for line in lines if line in text or json.dumps(line)[1:-1] in text], file


def test_the_same_course_gives_the_same_bytes(small: Pack, tmp_path: Path) -> None:
    again = make_pack(ROOT, ["03_tokenizers", "03_tokenizers"], tmp_path / "again", seeds=(SEED,))
    assert tuple(again) == small.paths
    for name in small.paths:
        assert (tmp_path / "again" / name).read_bytes() == (small.folder / name).read_bytes(), name


def test_the_page_to_begin_with_lists_chapters_points_and_the_file_to_hand_in(
    pack: Pack, small: Pack
) -> None:
    text = (pack.folder / "README.md").read_text(encoding="utf-8")
    for chapter in CHAPTERS:
        points = sum(exercise.points for exercise in exercises_of(chapter))
        assert f"| {len(exercises_of(chapter))} | {points} |" in text
    assert "work/exercises/03_tokenizers.ipynb" in (small.folder / "README.md").read_text(encoding="utf-8")


NOT_OPEN = [chapter.name for chapter in ALL if not chapter.open][:1]


@pytest.mark.parametrize("chapters", [[], NOT_OPEN, ["attention"]], ids=str)
def test_what_cannot_be_released_is_one_sentence(chapters: list[str], tmp_path: Path) -> None:
    with pytest.raises(ReleaseProblem) as caught:
        make_pack(ROOT, chapters, tmp_path / "pack")
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
    assert not (tmp_path / "pack").exists()


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ReleaseProblem, match="is not an empty folder"):
        make_pack(ROOT, ["00_welcome"], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


# --- how it decides -------------------------------------------------------------------------------------

# Runs in the pack. Only the answers come from the course: its entries are loaded as modules of the pack.
VERDICTS = """
import importlib.util, json, sys
from pathlib import Path
import course_lib
from course_lib.checks.engine import evaluate
from course_lib.checks.registry import exercises_of
from course_lib.grading.answers import load_answers

root, pack, *chapters = map(Path, sys.argv[1:])
assert Path(course_lib.__file__).parent == pack / "course_lib"

def entries(chapter):
    path = root / "course_lib" / "checks" / f"{chapter}.py"
    specification = importlib.util.spec_from_file_location(f"course_lib.checks.entries_{chapter}", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.EXERCISES

rows = []
for chapter in map(str, chapters):
    solved = load_answers(root / "solutions" / f"{chapter}.ipynb").objects
    starters = load_answers(pack / "exercises" / f"{chapter}.ipynb").objects
    for exercise, entry in zip(exercises_of(chapter), entries(chapter), strict=True):
        answers = [("solution", solved[exercise.id]), ("starter", starters[exercise.id])]
        answers += [(f"right {index}", answer) for index, answer in enumerate(entry.also_right)]
        answers += [(wrong.name, wrong.answer) for wrong in entry.misconceptions]
        for name, answer in answers:
            rows.append([exercise.id, name, evaluate(exercise, answer).to_json()])
print(json.dumps(rows))
"""


@pytest.fixture(scope="module")
def verdicts(pack: Pack, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, Any]]:
    arguments = ("-c", VERDICTS, str(ROOT), str(pack.folder), *CHAPTERS)
    done = pack.run(*arguments, work=tmp_path_factory.mktemp("verdicts"))
    assert done.returncode == 0, done.stderr
    return {(exercise, name): verdict for exercise, name, verdict in json.loads(done.stdout.split("\n")[-2])}


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.id)
def test_solutions_pass_and_starters_are_not_started(
    exercise: Exercise, verdicts: dict[tuple[str, str], dict[str, Any]]
) -> None:
    right = ["solution", *(f"right {index}" for index in range(len(exercise.also_right)))]
    for name in right:
        verdict = verdicts[exercise.id, name]
        assert (verdict["status"], verdict["earned"]) == ("passed", exercise.points), verdict
    assert verdicts[exercise.id, "starter"]["status"] == "not started"


def told_by_public_cases(exercise: Exercise) -> set[str]:
    """The misconceptions that the draw in the pack tells from the reference, found with the course itself."""
    cases = [
        case for case in exercise.cases(np.random.default_rng(SEED)) if not case.hidden and not case.timed
    ]
    expected = [expected_values(exercise, case) for case in cases]
    return {
        wrong.name
        for wrong in exercise.misconceptions
        if any(
            isinstance(value, Raised) or compare(exercise, case.name, want, value)
            for case, want, value in zip(
                cases, expected, run_answer(exercise, wrong.answer, cases), strict=False
            )
        )
    }


def test_misconceptions_are_rejected_and_named(verdicts: dict[tuple[str, str], dict[str, Any]]) -> None:
    """But for those that only a hidden case tells, and for those that are like another on public cases."""
    unseen, misnamed, total = [], [], 0
    for exercise in EXERCISES:
        told = told_by_public_cases(exercise)
        sentences = {wrong.name: wrong.sentence for wrong in exercise.misconceptions}
        for name in sentences:
            verdict = verdicts[exercise.id, name]
            total += 1
            assert (verdict["status"] == "passed") == (name not in told), (exercise.id, name, verdict)
            if name not in told:
                unseen.append((exercise.id, name))
                continue
            assert verdict["misconception"] in told, (exercise.id, name, verdict)
            assert verdict["advice"] == sentences[verdict["misconception"]]
            if verdict["misconception"] != name:
                misnamed.append((exercise.id, name))
    assert total > 120
    assert len(unseen) < total / 5, unseen
    assert len(misnamed) < total / 20, misnamed


def test_the_first_step_that_differs_is_told(pack: Pack, tmp_path: Path) -> None:
    code = """
from course_lib.checks import check

def sdpa(query, key, value, mask=None):
    scores = query @ key.transpose(-2, -1)
    scaled = scores / query.shape[-1] ** 0.4
    if mask is not None:
        scaled = scaled.masked_fill(~mask, float("-inf"))
    weights = scaled.softmax(-1).nan_to_num()
    return weights @ value, weights

check("attention/sdpa", sdpa)
"""
    done = pack.run("-c", code, work=tmp_path)
    assert done.returncode == 1
    assert "up to “scores (query · key)”. The next, “scores divided by √d_k”" in done.stdout
    assert 'hint("attention/sdpa")' in done.stdout
    assert "NotPassed: attention/sdpa: failed" in done.stderr


# --- the commands in it ---------------------------------------------------------------------------------

LEARNERS = {"lab", "check", "progress", "hint", "reset", "update", "export", "doctor"}
# Commands that make no sense in a pack, with arguments.
STAFF = {
    "build": [],
    "new": ["07_multi_head_attention"],
    "release": ["06", "--out", "x"],
    "grade": [".", "--bundle", "x", "--out", "y"],
    "gradebook": ["show", "x"],
    "similarity": ["x", "--bundle", "y"],
}
COMMANDS = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def test_every_command_is_a_learners_or_not_in_a_pack() -> None:
    assert set(STAFF) >= COMMANDS - LEARNERS


@pytest.mark.parametrize("command", sorted(COMMANDS & set(STAFF)))
def test_a_command_that_makes_no_sense_in_a_pack_says_so(command: str, pack: Pack, tmp_path: Path) -> None:
    done = pack.course(command, *STAFF[command], work=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("This command is for authors and staff") and done.stderr.count("\n") == 1


def test_the_front_door_has_no_tests_to_run(pack: Pack, tmp_path: Path) -> None:
    # Should it go on, it finds no installer.
    done = pack.run(str(pack.folder / "course.py"), "test", work=tmp_path, COURSE_PIP=os.devnull)
    assert done.returncode == 2
    assert done.stderr.startswith("This copy of the course has no tests:") and done.stderr.count("\n") == 1


def test_what_is_solved_passes_course_check_and_counts(pack: Pack, tmp_path: Path) -> None:
    left, *solved = exercises_of("00_welcome")
    solve("00_welcome", tmp_path / "work" / "exercises" / "00_welcome.ipynb", leave=left.grade_id)
    done = pack.course("check", "00", "--json", work=tmp_path)
    assert done.returncode == 1, done.stderr
    rows = {row["id"]: row["status"] for row in json.loads(done.stdout)[0]["exercises"]}
    assert rows == {left.id: "not started"} | {exercise.id: "passed" for exercise in solved}

    progress = pack.course("progress", "--json", work=tmp_path)
    assert [(row["chapter"], row["points"]) for row in json.loads(progress.stdout)] == [
        ("00_welcome", sum(exercise.points for exercise in solved)),
        *((chapter, 0) for chapter in CHAPTERS[1:]),
    ]
    exported = json.loads(pack.course("export", "--json", work=tmp_path).stdout)
    assert "broadcast_shape" in exported["own"]
    assert {"centre_rows", "causal_mask"} <= set(exported["from_library"])
    assert "scaled_dot_product_attention" in exported["waiting"]


def test_hints_updates_resets_and_the_doctor_work(pack: Pack, tmp_path: Path) -> None:
    hints = exercises_of("06_attention")[0].hints
    for hint in hints[:2]:
        assert hint in pack.course("hint", "attention/causal_mask", work=tmp_path).stdout
    copied = json.loads(pack.course("update", "--json", work=tmp_path).stdout)["notebooks"]
    assert {row["notebook"] for row in copied} == {name for name in pack.paths if name.endswith(".ipynb")}
    path = tmp_path / "work" / "exercises" / "06_attention.ipynb"
    path.write_text("spoilt")
    assert pack.course("reset", "06", work=tmp_path).returncode == 0
    assert path.read_bytes() == (ROOT / "exercises" / "06_attention.ipynb").read_bytes()
    assert isinstance(json.loads(pack.course("doctor", "--json", work=tmp_path).stdout), list)


def test_hidden_cases_are_refused_in_one_line(pack: Pack, tmp_path: Path) -> None:
    code = (
        'from course_lib.checks import check\ncheck("attention/causal_mask", lambda q, k: None, hidden=True)'
    )
    done = pack.run("-c", code, work=tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert "There are no hidden cases of attention/causal_mask here" in done.stderr


def test_a_pack_knows_its_own_chapters_alone(small: Pack, tmp_path: Path) -> None:
    rows = json.loads(small.course("progress", "--json", work=tmp_path).stdout)
    assert [row["chapter"] for row in rows] == ["03_tokenizers"]
    done = small.course("hint", "attention/sdpa", work=tmp_path)
    assert done.returncode == 2 and "There is no exercise 'attention/sdpa'" in done.stderr
    assert _first_page(Workspace(small.folder, tmp_path / "work")) == "notebooks/03_tokenizers.ipynb"
    assert _first_page(Workspace(ROOT, tmp_path / "work")) == "notebooks/00_welcome.ipynb"


def test_every_module_of_a_pack_can_be_imported(pack: Pack, tmp_path: Path) -> None:
    names = [name for name in pack.paths if name.startswith("course_lib/") and name.endswith(".py")]
    modules = sorted({name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in names})
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    done = pack.run("-c", code, *modules, work=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("solved", [True, False])
def test_stock_nbval_passes_what_is_solved_and_fails_what_is_not(
    solved: bool, pack: Pack, tmp_path: Path
) -> None:
    notebook = tmp_path / "06_attention.ipynb"
    if solved:
        solve("06_attention", notebook)
    else:
        shutil.copy(pack.folder / "exercises" / notebook.name, notebook)
    options = ["--nbval-lax", "--nbval-current-env", "-q", "-p", "no:cacheprovider", "-c", os.devnull]
    done = pack.run("-m", "pytest", *options, str(notebook), work=tmp_path)
    assert done.returncode == (0 if solved else 1), done.stdout
    assert solved or f"{len(exercises_of('06_attention'))} failed" in done.stdout
