"""The learner's passed answers as a package, `my_transformer`, with the library's versions for the rest.

Every exercise's function or class has its place there, under the name that the notebook gives it. An
answer is tried again, in a process of its own, before it becomes part of the package.
"""

from __future__ import annotations

import ast
import json
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import nbformat

from ..atomic import write_text
from ..chapters import BY_NAME
from ..grading.answers import CheckCell, NotebookProblem, check_cells, read_notebook
from ..workspace import project_root
from .engine import evaluate
from .exercise import Exercise
from .registry import chapters, exercises_of, get
from .replay import Replay

VERIFY_SECONDS = 600
VERDICT = "verdict:"


@dataclass
class ExportReport:
    """Which names of the package are the learner's own, which the library's, and what went wrong.

    waiting: names that work only once the learner's answer has passed, because a pack has no other.
    """

    destination: str
    own: list[str] = field(default_factory=list)
    from_library: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return asdict(self)


def export_package(work: Path, destination: Path) -> ExportReport:
    """Write the package `destination` from the exercises in `work`; an earlier one there is replaced.

    Raises FileExistsError when `destination` is a folder that no export made.
    """
    if destination.exists() and not (destination / MARK).exists():
        raise FileExistsError(f"{destination} exists and is not an exported package; name another folder")
    report = ExportReport(str(destination))
    with tempfile.TemporaryDirectory(prefix="course-export-") as folder:
        candidates = list(_candidates(work, Path(folder), report))
        passed = _passing(candidates)
        report.problems += [
            f"Your answer to {candidate.exercise.id} does not pass now, so the library's stands in for it."
            for candidate in candidates
            if candidate not in passed
        ]
        package = Path(folder) / destination.name
        package.mkdir()
        lines: list[str] = []
        for chapter in chapters():
            own = {c.exercise.id: c for c in candidates if c.exercise.chapter == chapter and c in passed}
            lines += _write_chapter(package, chapter, own, report)
        write_text(package / "__init__.py", _INIT + "\n".join(lines) + "\n")
        write_text(package / MARK, "")
        if destination.exists():
            shutil.rmtree(destination)
        shutil.copytree(package, destination, ignore=shutil.ignore_patterns("__pycache__"))
    return report


def fallback(exercise_id: str) -> Any:
    """The course's own right answer to an exercise: the same interface as the learner's.

    In a pack for learners, where the library has none, a stand-in that says so when it is called.
    """
    reference = get(exercise_id).reference
    return (reference.in_library() or reference) if isinstance(reference, Replay) else reference


MARK = ".exported-by-course"
_INIT = '''"""Your own library: the answers that passed their checks, and the course's for the rest."""

from course_lib.checks.export import fallback as _fallback

'''


@dataclass(frozen=True)
class Candidate:
    """An answer that may be exported. trial: a file with the answer and what it uses, and nothing else."""

    exercise: Exercise
    expression: str
    notebook: nbformat.NotebookNode
    trial: Path


def _candidates(work: Path, folder: Path, report: ExportReport) -> Iterator[Candidate]:
    """Every answer that was started."""
    for chapter in chapters():
        path = work / "exercises" / f"{chapter}.ipynb"
        if not path.exists():
            continue
        try:
            notebook = read_notebook(path)
        except NotebookProblem as error:
            report.problems.append(str(error))
            continue
        cells = {cell.exercise: cell for cell in check_cells(notebook)}
        for exercise in exercises_of(chapter):
            cell = cells.get(exercise.id)
            if cell and _started(notebook, cell):
                trial = folder / f"trial_{exercise.grade_id}.py"
                write_text(trial, module_source(notebook, [cell.expression]))
                yield Candidate(exercise, cell.expression, notebook, trial)


def _started(notebook: nbformat.NotebookNode, cell: CheckCell) -> bool:
    if cell.answer_index is None or not cell.expression.isidentifier():
        return False
    return "raise NotImplementedError" not in notebook.cells[cell.answer_index].source


def _write_chapter(
    package: Path, chapter: str, own: Mapping[str, Candidate], report: ExportReport
) -> Iterator[str]:
    """Write one chapter's module; the lines it adds to the package's __init__."""
    topic = BY_NAME[chapter].topic
    for candidate in list(own.values())[:1]:
        expressions = [other.expression for other in own.values()]
        write_text(package / f"{topic}.py", module_source(candidate.notebook, expressions))
    names = public_names(chapter)
    for exercise in exercises_of(chapter):
        name = names[exercise.id]
        if exercise.id in own:
            report.own.append(name)
            yield f"from .{topic} import {own[exercise.id].expression} as {name}"
        else:
            found = report.waiting if isinstance(fallback(exercise.id), Replay) else report.from_library
            found.append(name)
            yield f'{name} = _fallback("{exercise.id}")'


def public_names(chapter: str) -> dict[str, str]:
    """The names that a chapter's answers have in the package, by exercise id: those of its notebook."""
    notebook = read_notebook(project_root() / "exercises" / f"{chapter}.ipynb")
    return {cell.exercise: cell.expression for cell in check_cells(notebook)}


def module_source(notebook: nbformat.NotebookNode, names: Iterable[str]) -> str:
    """The notebook's top-level statements that define `names` and what they use, in order."""
    statements = list(_statements(notebook))
    defined = [_defines(statement) for statement in statements]
    wanted, kept = set(names), set[int]()
    while True:
        new = {i for i, made in enumerate(defined) if made & wanted} - kept
        if not new:
            break
        kept |= new
        for index in new:
            wanted |= _uses(statements[index])
    body = [ast.unparse(statements[index]) for index in sorted(kept)]
    return "\n\n".join(["from __future__ import annotations", *body]) + "\n"


def _statements(notebook: nbformat.NotebookNode) -> Iterable[ast.stmt]:
    checks = {cell.index for cell in check_cells(notebook)}
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type != "code" or index in checks:
            continue
        lines = ["pass" if line.lstrip().startswith(("%", "!")) else line for line in cell.source.split("\n")]
        try:
            yield from ast.parse("\n".join(lines)).body
        except SyntaxError:
            continue  # An unfinished cell: what it should define will be missing, and its check fails.


def _defines(statement: ast.stmt) -> set[str]:
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
        return {statement.name}
    if isinstance(statement, ast.ImportFrom) and statement.module == "__future__":
        return set()
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return {(alias.asname or alias.name).split(".")[0] for alias in statement.names}
    if isinstance(statement, (ast.Assign, ast.AnnAssign)):
        return {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return set()


def _uses(statement: ast.stmt) -> set[str]:
    names = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        names.discard(statement.name)
    return names


def _passing(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those whose answers pass now, tried in a process of their own; one that ends it costs no other."""
    passed: list[Candidate] = []
    waiting = list(candidates)
    while waiting:
        verdicts = _verdicts(waiting)
        passed += [candidate for candidate, good in zip(waiting, verdicts, strict=False) if good]
        # The one after the last verdict ended the process, or outlasted it: it did not pass.
        waiting = waiting[len(verdicts) + 1 :]
    return passed


def _verdicts(candidates: Sequence[Candidate]) -> list[bool]:
    rows = [[str(c.trial), c.exercise.id, c.expression] for c in candidates]
    code = "import sys; from course_lib.checks.export import verify; verify(sys.argv[1])"
    command = [sys.executable, "-c", code, json.dumps(rows)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=VERIFY_SECONDS, stdin=subprocess.DEVNULL
        )
        said = done.stdout
    except subprocess.TimeoutExpired as error:
        said = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
    return [line == f"{VERDICT} True" for line in said.split("\n") if line.startswith(f"{VERDICT} ")]


def verify(rows: str) -> None:
    """Load each module file, evaluate its exercise, and print a line with the result.

    rows: JSON, a list of [module file, exercise id, expression].
    """
    for module, exercise_id, expression in json.loads(rows):
        try:
            answer = eval(expression, runpy.run_path(module))
            passed = evaluate(get(exercise_id), answer, explain=False).passed
        except Exception:
            passed = False
        print(f"\n{VERDICT} {passed}", flush=True)
