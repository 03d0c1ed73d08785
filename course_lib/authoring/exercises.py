"""Answer cells and check cells: from a solved notebook to the one that learners get.

In a solution an answer cell holds one region or more between `### BEGIN SOLUTION` and
`### END SOLUTION`; a check cell is one line, `check("topic/name", answer)`, and belongs to the one
answer cell between it and the check before. Both carry nbgrader's metadata, schema 3, so that
nbgrader releases and grades the same files. A cell tagged `solution-only` is left out of the exercises.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nbformat import NotebookNode

from .project import SourceError
from .source import copy_cell, describe, tags

BEGIN_SOLUTION, END_SOLUTION = "### BEGIN SOLUTION", "### END SOLUTION"
BEGIN_HIDDEN, END_HIDDEN = "### BEGIN HIDDEN TESTS", "### END HIDDEN TESTS"
STARTER = "raise NotImplementedError"
SOLUTION_ONLY = "solution-only"


@dataclass(frozen=True)
class Entry:
    """What the notebooks need of an exercise's entry in `course_lib.checks`."""

    points: int
    minutes: int
    difficulty: int


# Finds the entry of an exercise id; raises SourceError where there is none.
Entries = Callable[[str], Entry]
_EXERCISE_ID = re.compile(r"^[a-z0-9_]+/[a-z0-9_\-]+$")


@dataclass(frozen=True)
class Exercise:
    """Where one exercise lies in a solution: the places of its two cells, counted from 0."""

    id: str
    answer: int
    check: int

    @property
    def grade_id(self) -> str:
        """ "attention-sdpa" for "attention/sdpa": nbgrader allows no slash."""
        return self.id.replace("/", "-")

    @property
    def cell_ids(self) -> tuple[str, str]:
        """The ids of the answer cell and of the check cell."""
        return self.grade_id, f"{self.grade_id}-check"


def find_exercises(cells: Sequence[NotebookNode], name: str) -> list[Exercise]:
    """Pair every check cell with its answer cell.

    Raises SourceError, naming the file and the exercise, for a check without exactly one answer
    cell, an answer without a check, an exercise that occurs twice, or unpaired markers.
    """
    found: list[Exercise] = []
    waiting: list[int] = []
    for index, cell in enumerate(cells):
        if is_answer(cell, f"{name}: {describe(cell, index + 1)}"):
            waiting.append(index)
        exercise_id = checked_exercise(cell, f"{name}: {describe(cell, index + 1)}")
        if exercise_id is None:
            continue
        if len(waiting) != 1:
            raise SourceError(
                f"{name}: exercise {exercise_id} has {len(waiting)} answer cells before its check cell; "
                "it needs exactly one"
            )
        if any(exercise.id == exercise_id for exercise in found):
            raise SourceError(f"{name}: exercise {exercise_id} is checked twice; keep one check cell")
        found.append(Exercise(exercise_id, waiting.pop(), index))
        if len({cell_id for one in found for cell_id in one.cell_ids}) < 2 * len(found):
            raise SourceError(
                f"{name}: the cells of exercise {exercise_id} would have the ids of another; rename it"
            )
    if waiting:
        answer = describe(cells[waiting[0]], waiting[0] + 1)
        raise SourceError(f"{name}: {answer} is an answer cell without a check cell after it")
    return found


def is_answer(cell: NotebookNode, where: str) -> bool:
    """Whether this is an answer cell. Raises SourceError where a marker lacks its partner."""
    if cell.cell_type != "code":
        return False
    inside = False
    regions = 0
    for line in cell.source.splitlines():
        marker = line.strip()
        if marker == (END_SOLUTION if not inside else BEGIN_SOLUTION):
            raise SourceError(f"{where}: {marker!r} without its partner before it")
        if marker in (BEGIN_SOLUTION, END_SOLUTION):
            inside = not inside
            regions += inside
    if inside:
        raise SourceError(f"{where}: {BEGIN_SOLUTION!r} is never closed; add {END_SOLUTION!r}")
    return regions > 0


def checked_exercise(cell: NotebookNode, where: str) -> str | None:
    """The id that a check cell checks, or None for any other cell.

    Raises SourceError for a cell that calls `check` at its top level in any other form.
    """
    if cell.cell_type != "code" or "check(" not in cell.source:
        return None
    try:
        body = ast.parse(cell.source).body
    except SyntaxError:
        return None
    calls = [statement.value for statement in body if _is_check(statement)]
    if not calls:
        return None
    exercise_id = _one_line_check(cell.source, body, calls[0])
    if exercise_id is None:
        raise SourceError(f'{where}: a check cell is exactly one line, check("topic/name", answer)')
    return exercise_id


def solution_cells(
    cells: Sequence[NotebookNode], exercises: Sequence[Exercise], entries: Entries
) -> list[NotebookNode]:
    """The cells of the solved notebook: hidden tests appended to the checks, nbgrader's metadata on both."""
    result = [copy_cell(cell) for cell in cells]
    for exercise in exercises:
        answer, check = cells[exercise.answer], cells[exercise.check]
        result[exercise.answer] = copy_cell(
            answer, id=exercise.grade_id, metadata={**answer.metadata, "nbgrader": answer_metadata(exercise)}
        )
        result[exercise.check] = copy_cell(
            check,
            id=f"{exercise.grade_id}-check",
            source=with_hidden_tests(check.source),
            metadata={**check.metadata, "nbgrader": check_metadata(exercise, entries(exercise.id).points)},
        )
    return result


def exercise_cells(solved: Sequence[NotebookNode]) -> list[NotebookNode]:
    """The learner's cells, with the ids of the solved ones: answers and hidden tests are taken out."""
    return [_released(cell) for cell in solved if SOLUTION_ONLY not in tags(cell)]


def answer_metadata(exercise: Exercise) -> dict[str, Any]:
    """nbgrader's metadata of an answer cell, schema 3."""
    return {**_schema(exercise.grade_id), "grade": False, "locked": False, "solution": True}


def check_metadata(exercise: Exercise, points: int) -> dict[str, Any]:
    """nbgrader's metadata of a check cell, schema 3."""
    kind = {"grade": True, "locked": True, "solution": False, "points": points}
    return {**_schema(f"{exercise.grade_id}-check"), **kind}


def with_hidden_tests(line: str) -> str:
    """A check's line, followed by the same check on hidden cases between nbgrader's markers."""
    line = line.strip()
    return "\n".join([line, BEGIN_HIDDEN, f"{line[:-1]}, hidden=True)", END_HIDDEN])


def without_hidden_tests(text: str) -> str:
    """The text without the lines from BEGIN HIDDEN TESTS to END HIDDEN TESTS."""
    return _replace_regions(text, BEGIN_HIDDEN, END_HIDDEN, None)


def with_starter(text: str) -> str:
    """The text with `raise NotImplementedError` for every solution region, indented as the region was."""
    return _replace_regions(text, BEGIN_SOLUTION, END_SOLUTION, STARTER)


def _schema(grade_id: str) -> dict[str, Any]:
    return {"schema_version": 3, "task": False, "grade_id": grade_id}


def _released(cell: NotebookNode) -> NotebookNode:
    nbgrader = cell.metadata.get("nbgrader")
    if nbgrader is None:
        return copy_cell(cell)
    if nbgrader["solution"]:
        return copy_cell(
            cell, source=with_starter(cell.source), metadata={**cell.metadata, "deletable": False}
        )
    locked = {**cell.metadata, "deletable": False, "editable": False}
    return copy_cell(cell, source=without_hidden_tests(cell.source), metadata=locked)


def _replace_regions(text: str, begin: str, end: str, replacement: str | None) -> str:
    kept: list[str] = []
    inside = False
    for line in text.splitlines():
        if line.strip() == begin:
            inside = True
            if replacement is not None:
                kept.append(line[: len(line) - len(line.lstrip())] + replacement)
        elif line.strip() == end:
            inside = False
        elif not inside:
            kept.append(line)
    return "\n".join(kept)


def _is_check(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Call)
        and isinstance(statement.value.func, ast.Name)
        and statement.value.func.id == "check"
    )


def _one_line_check(text: str, body: list[ast.stmt], call: ast.expr) -> str | None:
    assert isinstance(call, ast.Call)
    if len(body) != 1 or "\n" in text.strip() or not text.strip().endswith(")"):
        return None
    if len(call.args) != 2 or call.keywords or not isinstance(call.args[0], ast.Constant):
        return None
    exercise_id = call.args[0].value
    return exercise_id if isinstance(exercise_id, str) and _EXERCISE_ID.match(exercise_id) else None


def registered_entry(exercise_id: str) -> Entry:
    """The entry of an exercise in the registry. Raises SourceError where there is none."""
    from ..checks.registry import get

    try:
        exercise = get(exercise_id)
    except KeyError:
        topic = exercise_id.split("/")[0]
        raise SourceError(
            f"exercise {exercise_id} has no entry; add one to course_lib/checks/NN_{topic}.py, or mend the id"
        ) from None
    except Exception as error:
        # Whatever a half-written chapter raises on import; the other chapters are built all the same.
        reason = f"{type(error).__name__}: {error}"
        raise SourceError(f"exercise {exercise_id}: its entry could not be loaded ({reason})") from error
    return Entry(exercise.points, exercise.minutes, exercise.difficulty)
