"""Rebuild, never trust: the answers of a submitted notebook, set into the notebook that was handed out.

Of a submission only the source of its answer cells is read, as text. Everything else in the file (outputs,
metadata, tags, points, check cells, the learner's own cells) is left behind, and nothing in it can abort
the reading or reach another exercise.

Which cell is the answer to an exercise: the code cell with its grade id, else the one with its cell id.
Where several carry the grade id, the original (the one that still has its cell id) counts if it was changed
from the starter, else the first copy that was: adding a copy never changes what an answer is worth.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .answers import is_answer, parse_check

if TYPE_CHECKING:
    from nbformat import NotebookNode

MAX_BYTES = 32 * 2**20  # A chapter with all of its pictures is under 2 MiB.
MAX_CELLS = 2_000
MAX_DEPTH = 100  # Lists and objects inside each other; a plot in an output needs about 20.
MAX_TOKENS = 2_000_000  # Texts, brackets and commas: bounds the memory that the parsed file takes.
MAX_DIGITS = 400  # Of one number; the largest double has 309 before its point.
MAX_SOURCE = 100_000  # Characters of one answer; the longest published solution has under 3,000.


@dataclass(frozen=True)
class Extracted:
    """What a submission answers.

    answers: source by grade id, one for every exercise of the pristine notebook; the starter where nothing
    usable was handed in. notes: one sentence for the learner by grade id, where a cell was not taken as it
    stands. problem: one sentence when the file as a whole cannot be read, else None; the answers are then
    all starters. remarks: sentences on the notebook as a whole, which change nothing.
    """

    answers: dict[str, str]
    notes: dict[str, str] = field(default_factory=dict)
    problem: str | None = None
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """A cell of the program to run: an answer with its grade id, or a setup cell with None."""

    grade_id: str | None
    source: str


def extract_answers(raw: bytes, pristine: NotebookNode) -> Extracted:
    """The answers in the bytes of a submitted notebook. Never raises, whatever the bytes are."""
    slots = _slots(pristine)
    starters = {slot.grade_id: slot.starter for slot in slots}
    try:
        cells = _read_cells(raw)
    except _Unreadable as error:
        return Extracted(starters, problem=str(error))
    found = _assign(cells, slots, _protected(pristine))
    if slots and not any(found.values()):
        return Extracted(
            starters, problem="None of this chapter's answer cells is in the file: is it the right one?"
        )
    answers, notes = dict(starters), {}
    for slot in slots:
        answers[slot.grade_id], note = _choose(slot, found[slot.grade_id], cells)
        if note:
            notes[slot.grade_id] = note
    return Extracted(answers, notes, None, _remarks(cells, found, pristine))


def graft(pristine: NotebookNode, answers: Mapping[str, str]) -> NotebookNode:
    """A copy of the pristine notebook with the answers in their cells and no outputs.

    answers: source by grade id; an exercise without one keeps its starter. Raises KeyError for a grade id
    that the pristine notebook does not have.
    """
    _known(pristine, answers)
    notebook = deepcopy(pristine)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            if is_answer(cell):
                cell.source = answers.get(_grade_id(cell), cell.source)
    return notebook


def program(pristine: NotebookNode, answers: Mapping[str, str]) -> list[Cell]:
    """The cells to run, in order: setup cells and answers, without checks and progress reports.

    answers: as for `graft`.
    """
    _known(pristine, answers)
    cells = []
    for cell in pristine.cells:
        if cell.cell_type == "code" and is_answer(cell):
            cells.append(Cell(_grade_id(cell), answers.get(_grade_id(cell), cell.source)))
        elif _is_setup(cell):
            cells.append(Cell(None, cell.source))
    return cells


def context_cells(pristine: NotebookNode) -> list[str]:
    """The sources of the setup cells, in order: code that is no answer, no check, no progress report."""
    return [cell.source for cell in pristine.cells if _is_setup(cell)]


def ipython_line(source: str) -> int | None:
    """The number, from 1, of the first line that only IPython understands (`%`, `!`, `?`), else None.

    Looks at logical lines outside strings, comments and brackets, so that no plain Python is ever named:
    a `%` that continues an expression and a docstring that ends in a question are both Python.
    """
    for number, line in _logical_lines(source):
        stripped = line.strip()
        if stripped.startswith(("%", "!", "?")) or stripped.endswith("?"):
            return number
    return None


# --- The pristine notebook ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Slot:
    """The place of one answer in the pristine notebook."""

    grade_id: str
    cell_id: str
    starter: str


def _slots(pristine: NotebookNode) -> list[_Slot]:
    return [
        _Slot(_grade_id(cell), cell.get("id", ""), cell.source)
        for cell in pristine.cells
        if cell.cell_type == "code" and is_answer(cell)
    ]


def _protected(pristine: NotebookNode) -> set[str]:
    """Grade ids that are no answers: those of the checks."""
    return {_grade_id(cell) for cell in pristine.cells if not is_answer(cell)} - {""}


def _grade_id(cell: NotebookNode) -> str:
    return str(cell.get("metadata", {}).get("nbgrader", {}).get("grade_id", ""))


_PROGRESS = re.compile(r"\s*progress\([^()]*\)\s*\Z")


def _is_setup(cell: NotebookNode) -> bool:
    if cell.cell_type != "code" or is_answer(cell) or parse_check(cell.source):
        return False
    graded = cell.get("metadata", {}).get("nbgrader", {}).get("grade", False)
    return not graded and not _PROGRESS.match(cell.source)


def _known(pristine: NotebookNode, answers: Mapping[str, str]) -> None:
    known = [slot.grade_id for slot in _slots(pristine)]
    unknown = sorted(set(answers) - set(known))
    if unknown:
        raise KeyError(f"no exercise {', '.join(unknown)}; this notebook has {', '.join(known)}")


# --- The submitted bytes -----------------------------------------------------------------------------------


class _Unreadable(ValueError):
    """Why a file is no notebook, in one sentence."""


@dataclass(frozen=True)
class _Submitted:
    """A cell of a submission; source is None where it is not text."""

    kind: str
    id: str
    grade_id: str
    source: str | None


def _read_cells(raw: bytes) -> list[_Submitted]:
    """The cells in a notebook's bytes. Raises _Unreadable."""
    document = _parse(_decode(raw))
    if not isinstance(document, dict):
        raise _Unreadable("The file is not a notebook: it holds no object with cells.")
    version, cells = document.get("nbformat"), document.get("cells")
    if version != 4:
        shown = version if type(version) is int and abs(version) < 1000 else "unknown"
        raise _Unreadable(f"The notebook's format is {shown}, not 4: open it in Jupyter and save it again.")
    if not isinstance(cells, list):
        raise _Unreadable("The notebook has no list of cells.")
    if len(cells) > MAX_CELLS:
        raise _Unreadable(f"The notebook has {len(cells):,} cells; at most {MAX_CELLS:,} are read.")
    return [_submitted(cell) for cell in cells if isinstance(cell, dict)]


def _decode(raw: bytes) -> str:
    if len(raw) > MAX_BYTES:
        raise _Unreadable(
            f"The file has {len(raw):,} bytes, more than the {MAX_BYTES:,} that are read: "
            "clear the outputs and hand it in again."
        )
    if not raw.strip():
        raise _Unreadable("The file is empty.")
    if b"\0" in raw:
        raise _Unreadable("The file holds NUL bytes: it was damaged or is not a notebook.")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _Unreadable("The file is not UTF-8 text: it was damaged or is not a notebook.") from None


# Possessive, with every end optional: one pass over the text, whatever it is.
_JSON_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?+|[\[\]{},]', re.DOTALL)


def _measure(text: str) -> None:
    """Refuse what would nest too deep, or take too much memory, before anything is built from it."""
    depth = 0
    for count, match in enumerate(_JSON_TOKEN.finditer(text)):
        first = text[match.start()]
        if first in "[{":
            depth += 1
        elif first in "]}":
            depth -= 1
        if depth > MAX_DEPTH:
            raise _Unreadable(f"The file nests lists and objects more than {MAX_DEPTH} deep.")
        if count >= MAX_TOKENS:
            raise _Unreadable(
                f"The file holds more than {MAX_TOKENS:,} values: clear the outputs and hand it in again."
            )


def _parse(text: str) -> Any:
    _measure(text)
    try:
        return json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_not_needed,
            parse_constant=_not_needed,
        )
    except _Unreadable:
        raise
    except json.JSONDecodeError as error:
        raise _Unreadable(
            f"The file is not a complete notebook: it stops or breaks at character {error.pos + 1:,}."
        ) from None
    except (ValueError, RecursionError):
        raise _Unreadable("The file is not a readable notebook.") from None


_READ_KEYS = {"nbformat", "cells", "cell_type", "id", "metadata", "nbgrader", "grade_id", "source"}


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Readers differ on which of two equal keys they take; what the learner saw cannot be known.
    if len({key for key, _ in pairs}) != len(pairs):
        raise _Unreadable("The file gives one key twice in the same place: no notebook program writes that.")
    return {key: value for key, value in pairs if key in _READ_KEYS}


def _integer(digits: str) -> int:
    _not_needed(digits)
    return int(digits)


def _not_needed(number: str) -> None:
    if len(number) > MAX_DIGITS:
        raise _Unreadable(f"The file holds a number of {len(number):,} digits.")


def _submitted(cell: dict[str, Any]) -> _Submitted:
    metadata = cell.get("metadata")
    nbgrader = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    grade_id = nbgrader.get("grade_id") if isinstance(nbgrader, dict) else None
    return _Submitted(_text(cell.get("cell_type")), _text(cell.get("id")), _text(grade_id), _source(cell))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _source(cell: dict[str, Any]) -> str | None:
    """A cell's source with plain line ends; notebooks hold it as one text or as a list of lines."""
    source = cell.get("source")
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        source = "".join(source)
    if not isinstance(source, str):
        return None
    return _without_markers(source.replace("\r\n", "\n").replace("\r", "\n"))


_MARKER = re.compile(r"(?:NBVAL|PYTEST_VALIDATE)_\w+\Z")


def _without_markers(source: str) -> str:
    """The source in which no line is a comment that nbval obeys: a full stop is added to each.

    nbval looks at lines only, so a line inside a string counts too.
    """
    if "NBVAL" not in source and "PYTEST_VALIDATE" not in source:
        return source
    lines = []
    for line in source.splitlines(keepends=True):
        body = line.rstrip()
        comment = body.strip()
        if comment.startswith("#") and _MARKER.match(comment.lstrip("#").strip()):
            line = body + "." + line[len(body) :]
        lines.append(line)
    return "".join(lines)


# --- Which cell answers which exercise ---------------------------------------------------------------------


def _assign(
    cells: Sequence[_Submitted], slots: Sequence[_Slot], protected: set[str]
) -> dict[str, list[_Submitted]]:
    """The code cells that may answer each exercise, the original first, by grade id.

    A cell whose grade id and cell id belong to two exercises answers the first only where no other cell
    does, and then the second: so the change of one cell's ids takes nothing from another exercise.
    """
    code = [cell for cell in cells if cell.kind == "code"]
    cell_ids = {slot.cell_id for slot in slots}
    found: dict[str, list[_Submitted]] = {}
    for slot in slots:
        named = [cell for cell in code if cell.grade_id == slot.grade_id]
        sure = [cell for cell in named if cell.id == slot.cell_id or cell.id not in cell_ids]
        found[slot.grade_id] = sorted(sure or named, key=lambda cell: cell.id != slot.cell_id)
    used = {id(cell) for candidates in found.values() for cell in candidates}
    free = [cell for cell in code if id(cell) not in used and cell.id and cell.grade_id not in protected]
    for slot in slots:
        if not found[slot.grade_id]:
            found[slot.grade_id] = [cell for cell in free if cell.id == slot.cell_id]
    return found


def _choose(
    slot: _Slot, candidates: Sequence[_Submitted], cells: Sequence[_Submitted]
) -> tuple[str, str | None]:
    """The source that counts for an exercise, and a note when that is not just what stands in its cell."""
    if not candidates:
        return slot.starter, _why_missing(slot, cells)
    looked_at = [(cell.source, _refusal(cell)) for cell in candidates]
    refusals = [refusal for _, refusal in looked_at if refusal]
    sources = [source for source, refusal in looked_at if source is not None and not refusal]
    changed = [source for source in sources if source.strip() != slot.starter.strip()]
    if not changed:
        return (sources or [slot.starter])[0], refusals[0] if refusals else None
    if len(candidates) > 1:
        return changed[0], (
            f"The answer cell {slot.grade_id} stands {len(candidates)} times in the notebook: the original "
            "counts if you changed it, else the first changed copy."
        )
    renamed = candidates[0].grade_id != slot.grade_id
    return changed[0], f"The answer cell {slot.grade_id} was found by its cell id only." if renamed else None


def _why_missing(slot: _Slot, cells: Sequence[_Submitted]) -> str:
    if any(
        slot.grade_id == cell.grade_id or slot.cell_id == cell.id for cell in cells if cell.kind != "code"
    ):
        return "The answer cell was turned into a text cell, so it was not run: turn it back into code."
    return "The answer cell is missing or was renamed, so the starter stands in its place."


def _refusal(cell: _Submitted) -> str | None:
    """Why a cell's source is not taken, else None."""
    if cell.source is None:
        return "The answer cell's source is not text, so it was not taken."
    if len(cell.source) > MAX_SOURCE:
        return f"The answer has {len(cell.source):,} characters; at most {MAX_SOURCE:,} are taken."
    if "\0" in cell.source or any("\ud800" <= character <= "\udfff" for character in cell.source):
        return "The answer holds characters that no Python source may hold, so it was not taken."
    line = ipython_line(cell.source)
    if line is not None:
        return (
            f"Line {line} of the answer is an IPython command; answers are plain Python, so it was not taken."
        )
    return None


def _remarks(
    cells: Sequence[_Submitted], found: Mapping[str, Sequence[_Submitted]], pristine: NotebookNode
) -> tuple[str, ...]:
    answers = {id(cell) for candidates in found.values() for cell in candidates}
    given = {cell.source.strip() for cell in pristine.cells} | {""}
    own = [
        cell
        for cell in cells
        if cell.kind == "code" and id(cell) not in answers and (cell.source or "").strip() not in given
    ]
    if not own:
        return ()
    what = (
        "1 code cell outside the answers was"
        if len(own) == 1
        else f"{len(own)} code cells outside the answers were"
    )
    return (f"{what} added or changed and not run: an answer must hold all that it needs itself.",)


# --- Logical lines of Python, without Python's own parser --------------------------------------------------

# Python's parser is kept away from untrusted text here: deep nesting can exhaust its stack.
_PYTHON_TOKEN = re.compile(
    r'''(?P<string>"""(?:[^"\\]|\\.|"(?!""))*+(?:""")?+|\'\'\'(?:[^'\\]|\\.|'(?!''))*+(?:\'\'\')?+'''
    r"""|"(?:[^"\\\n]|\\.)*+"?+|'(?:[^'\\\n]|\\.)*+'?+)"""
    r"|(?P<nothing>\#[^\n]*+|\\\n)|(?P<open>[(\[{])|(?P<close>[)\]}])|(?P<newline>\n)"
    r"|(?P<other>[^\"'\#\\()\[\]{}\n]++|\\)",
    re.DOTALL,
)


def _logical_lines(source: str) -> Iterator[tuple[int, str]]:
    """(number of its first line, text) of each logical line; strings are shortened, comments left out."""
    depth, number, start, pieces = 0, 1, 1, list[str]()
    for match in _PYTHON_TOKEN.finditer(source):
        kind, text = match.lastgroup, match.group()
        number += text.count("\n")
        if kind == "newline" and depth == 0:
            yield start, "".join(pieces)
            start, pieces = number, []
        elif kind in ("newline", "nothing"):
            pieces.append(" ")
        else:
            depth = max(0, depth + (kind == "open") - (kind == "close"))
            pieces.append('""' if kind == "string" else text)
    yield start, "".join(pieces)
