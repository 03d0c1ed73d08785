"""The learner's passed answers as a package, `my_transformer`, with the library's versions for the rest.

Only exercises that build a part of the library are exported (their entry names `library`). An
answer is tried again, in a process of its own, before it becomes part of the package.
"""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import nbformat

from ..atomic import write_text
from ..chapters import BY_NAME
from ..grading.answers import CheckCell, NotebookProblem, check_cells, read_notebook
from .exercise import Exercise
from .registry import chapters, exercises_of, get

VERIFY_SECONDS = 600


@dataclass
class ExportReport:
    """Which names of the package are the learner's own, which the library's, and what went wrong."""

    destination: str
    own: list[str] = field(default_factory=list)
    from_library: list[str] = field(default_factory=list)
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
        package = Path(folder) / destination.name
        package.mkdir()
        lines = []
        for chapter in chapters():
            lines += _export_chapter(work, package, chapter, report)
        write_text(package / "__init__.py", _INIT + "\n".join(lines) + "\n")
        write_text(package / MARK, "")
        if destination.exists():
            shutil.rmtree(destination)
        shutil.copytree(package, destination, ignore=shutil.ignore_patterns("__pycache__"))
    return report


def fallback(exercise_id: str) -> Any:
    """The course's own right answer to an exercise: the same interface as the learner's."""
    return get(exercise_id).reference


MARK = ".exported-by-course"
_INIT = '''"""Your own library: the answers that passed their checks, and the course's for the rest."""

from course_lib.checks.export import fallback as _fallback

'''


def _export_chapter(work: Path, package: Path, chapter: str, report: ExportReport) -> list[str]:
    """Write one chapter's module; the lines it adds to the package's __init__."""
    parts = [exercise for exercise in exercises_of(chapter) if exercise.library]
    cells: dict[str, CheckCell] = {}
    path = work / "exercises" / f"{chapter}.ipynb"
    passed: set[str] = set()
    topic = BY_NAME[chapter].topic
    if path.exists() and parts:
        try:
            notebook = read_notebook(path)
            cells = {cell.exercise: cell for cell in check_cells(notebook)}
            passed = _write_verified(notebook, package, topic, [e for e in parts if e.id in cells], cells)
        except (NotebookProblem, SyntaxError) as error:
            report.problems.append(str(error))
    lines = []
    for exercise in parts:
        name = public_name(exercise)
        own = exercise.id in passed
        (report.own if own else report.from_library).append(name)
        expression = cells[exercise.id].expression if own else ""
        lines.append(
            f"from .{topic} import {expression} as {name}" if own else f'{name} = _fallback("{exercise.id}")'
        )
    return lines


def public_name(exercise: Exercise) -> str:
    """The name that an exported answer has in the package: the library's."""
    assert exercise.library is not None
    return exercise.library.split(":")[1]


def _write_verified(
    notebook: nbformat.NotebookNode,
    package: Path,
    topic: str,
    parts: list[Exercise],
    cells: dict[str, CheckCell],
) -> set[str]:
    """Write the module with every answer that passes; a broken answer keeps no other one out."""
    passed: set[str] = set()
    for exercise in parts:
        answer = cells[exercise.id].answer_index
        if answer is None or "raise NotImplementedError" in notebook.cells[answer].source:
            continue
        trial = package / f"_trial_{topic}.py"
        write_text(trial, module_source(notebook, [cells[exercise.id].expression]))
        if _passes(trial, exercise.id, cells[exercise.id].expression):
            passed.add(exercise.id)
        trial.unlink()
    if passed:
        names = [cells[exercise_id].expression for exercise_id in sorted(passed)]
        write_text(package / f"{topic}.py", module_source(notebook, names))
    return passed


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


def _passes(module: Path, exercise_id: str, expression: str) -> bool:
    code = "import sys; from course_lib.checks.export import verify; verify(*sys.argv[1:])"
    command = [sys.executable, "-c", code, str(module), exercise_id, expression]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=VERIFY_SECONDS, stdin=subprocess.DEVNULL
        )
        return done.returncode == 0 and json.loads(done.stdout.strip().split("\n")[-1]) == {"passed": True}
    except (subprocess.TimeoutExpired, json.JSONDecodeError):
        return False


def verify(module: str, exercise_id: str, expression: str) -> None:
    """Load a module file, evaluate the exercise on `expression` in it, and print the result as JSON."""
    import importlib.util

    from .engine import evaluate

    specification = importlib.util.spec_from_file_location("answer", module)
    assert specification is not None and specification.loader is not None
    loaded = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(loaded)
    verdict = evaluate(get(exercise_id), eval(expression, vars(loaded)), explain=False)
    print("\n" + json.dumps({"passed": verdict.passed}))
