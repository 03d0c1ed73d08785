"""A learner's answers, taken out of a notebook: which cells they are, and the objects they define."""

from __future__ import annotations

import ast
import linecache
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import nbformat


class NotebookProblem(ValueError):
    """A notebook that cannot be read, in one sentence."""


@dataclass(frozen=True)
class CheckCell:
    """One `check("topic/name", expression)` cell and the answer cell before it.

    index, answer_index: positions among the notebook's cells. expression: source of what is checked.
    """

    exercise: str
    index: int
    answer_index: int | None
    expression: str


@dataclass
class Answers:
    """The objects that a notebook's cells define, by exercise id; errors by exercise id or cell number."""

    objects: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, BaseException] = field(default_factory=dict)


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """The notebook in a file. Raises NotebookProblem, in one sentence, when it is not one."""
    import nbformat

    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotebookProblem(f"{path.name} does not exist.") from None
    except UnicodeDecodeError:
        raise NotebookProblem(f"{path.name} is not text; it was damaged or is not a notebook.") from None
    try:
        notebook = nbformat.reads(text, as_version=4)
    except Exception as error:
        reason = str(error).split("\n")[0][:120]
        raise NotebookProblem(f"{path.name} is not a readable notebook ({reason}).") from None
    if not isinstance(notebook.get("cells"), list):
        raise NotebookProblem(f"{path.name} is not a readable notebook (it has no list of cells).")
    return notebook


def parse_check(source: str) -> tuple[str, str] | None:
    """(exercise id, source of the checked expression) of a check cell, else None."""
    try:
        statements = ast.parse(source).body
    except (SyntaxError, ValueError):
        return None
    for statement in statements:
        call = statement.value if isinstance(statement, ast.Expr) else None
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id != "check":
            continue
        if len(call.args) == 2 and isinstance(call.args[0], ast.Constant):
            return str(call.args[0].value), ast.unparse(call.args[1])
    return None


def check_cells(notebook: nbformat.NotebookNode) -> Iterator[CheckCell]:
    """The check cells in order, each with the nearest answer cell above it."""
    answer_index: int | None = None
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        parsed = parse_check(cell.source)
        if parsed:
            yield CheckCell(parsed[0], index, answer_index, parsed[1])
            answer_index = None
        elif is_answer(cell):
            answer_index = index


def is_answer(cell: nbformat.NotebookNode) -> bool:
    """Whether nbgrader's metadata says that the learner writes this cell."""
    return bool(cell.get("metadata", {}).get("nbgrader", {}).get("solution", False))


def load_answers(path: Path) -> Answers:
    """Run the notebook's cells in a fresh namespace, check cells left out, and collect what they check.

    For notebooks that are trusted: this runs their code in this very process.
    A cell that raises is noted under "cell N" and the rest goes on.
    """
    notebook = read_notebook(path)
    checks = {cell.index: cell for cell in check_cells(notebook)}
    scope: dict[str, Any] = {"__name__": "__main__"}
    answers = Answers()
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        try:
            if index in checks:
                found = checks[index]
                answers.objects[found.exercise] = eval(found.expression, scope)
            else:
                _execute(cell.source, f"{path.stem}-cell-{index}.py", scope)
        except Exception as error:
            answers.errors[checks[index].exercise if index in checks else f"cell {index}"] = error
    return answers


def _execute(source: str, name: str, scope: dict[str, Any]) -> None:
    # Known to linecache, so that tracebacks and inspect.getsource show the learner's lines.
    plain = "\n".join("pass" if line.lstrip().startswith(("%", "!")) else line for line in source.split("\n"))
    linecache.cache[name] = (len(plain), None, plain.splitlines(keepends=True), name)
    # Not our own __future__ imports: a learner's cell runs as in a kernel.
    exec(compile(plain, name, "exec", dont_inherit=True), scope)
