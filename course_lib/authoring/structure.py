"""What every lesson and every exercise has to hold, as far as a program can tell."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from nbformat import NotebookNode

from .exercises import BEGIN_SOLUTION, Entries, checked_exercise
from .links import cell_links, pictures_without_alt
from .project import Source, SourceError
from .source import describe, tags

INSTRUCTOR = "instructor"
_OPENING_CELLS = 3
_CLOSING_CELLS = 4
_MINUTES = re.compile(r"(\d+)\s*(?:minutes|minute|min)\b", re.IGNORECASE)
_DIFFICULTY = re.compile(r"difficulty[\s:*_]*(\d)", re.IGNORECASE)
_PREDICT = re.compile(r"\bpredict\b", re.IGNORECASE)
_DEVICE_LINE = re.compile(r"^device = pick_device\(", re.MULTILINE)
_IMPORTS_TORCH = re.compile(r"^\s*(?:import torch|from torch)\b", re.MULTILINE)


def structure_problems(source: Source, cells: Sequence[NotebookNode], entries: Entries) -> list[str]:
    """A sentence for everything that a lesson or a solution lacks; an empty list when nothing is missing.

    cells: the cells of the text, or of the notebook. entries: finds the entry of an exercise, to
    which the minutes and the difficulty in its statement have to agree.
    """
    if source.kind == "lesson":
        found = [*_title(cells), *_opening(cells), *_predictions(cells), *_closing(cells, source.chapter)]
        found += [*_pictures(cells), *_workshop(cells), *_device(cells)]
    else:
        found = [*_title(cells), *_pictures(cells), *_statements(cells, entries)]
    name = f"{source.folder.name}/{source.text_path.name}"
    return [f"{name}: {problem}" for problem in found]


def _title(cells: Sequence[NotebookNode]) -> Iterator[str]:
    first = cells[0]
    if first.cell_type != "markdown" or not re.match(r"# \S", first.source):
        yield "the first cell is not a title; begin with '# ' and the chapter's name"
    extra = sum(len(re.findall(r"^# \S", _prose(cell), re.MULTILINE)) for cell in cells[1:] if _is_text(cell))
    if extra:
        yield f"{extra} more headings of the first level; only the title is one, use '## ' for parts"


def _opening(cells: Sequence[NotebookNode]) -> Iterator[str]:
    opening = " ".join(cell.source for cell in cells[:_OPENING_CELLS] if _is_text(cell))
    if not _MINUTES.search(opening):
        yield "the opening does not say how many minutes the lesson takes"
    if not re.search(r"\bchapters?\b", opening, re.IGNORECASE):
        yield "the opening does not say which chapters are needed (or that no chapter is)"
    if not re.search(r"\bGPU\b", opening):
        yield "the opening does not say what a GPU changes"


def _predictions(cells: Sequence[NotebookNode]) -> Iterator[str]:
    questions = [index for index, cell in enumerate(cells) if _is_text(cell) and _is_prediction(cell)]
    if len(questions) < 2:
        yield f"{len(questions)} questions to predict with a folded answer (<details>), expected at least 2"
    for index in questions:
        if not any(cell.cell_type == "code" for cell in cells[index + 1 :]):
            yield f"{describe(cells[index], index + 1)} asks for a prediction, but no cell after it answers"


def _closing(cells: Sequence[NotebookNode], chapter: str) -> Iterator[str]:
    target = f"../exercises/{chapter}.ipynb"
    if not any(target in cell_links(cell) for cell in cells[-_CLOSING_CELLS:] if _is_text(cell)):
        yield f"the closing does not link to the exercises; add a link to {target}"


def _pictures(cells: Sequence[NotebookNode]) -> Iterator[str]:
    for number, cell in enumerate(cells, 1):
        if _is_text(cell) and pictures_without_alt(cell):
            yield f"{describe(cell, number)} has a picture without alternative text"


def _workshop(cells: Sequence[NotebookNode]) -> Iterator[str]:
    if not any(
        cell.metadata.get("slideshow", {}).get("slide_type") in ("slide", "subslide") for cell in cells
    ):
        yield "no cell has slideshow metadata; mark those that make the workshop's slides"
    if not any(INSTRUCTOR in tags(cell) for cell in cells):
        yield f"no cell is tagged {INSTRUCTOR!r}; add one with timing, questions to ask, and what goes wrong"


def _device(cells: Sequence[NotebookNode]) -> Iterator[str]:
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    if any(_IMPORTS_TORCH.search(source) for source in code):
        lines = sum(len(_DEVICE_LINE.findall(source)) for source in code)
        if lines != 1:
            yield f"{lines} lines 'device = pick_device()', expected 1 in a lesson that uses torch"


def _statements(cells: Sequence[NotebookNode], entries: Entries) -> Iterator[str]:
    """Each exercise has a statement between the check before it and its answer cell."""
    checks = [(index, checked_exercise(cell, describe(cell, index + 1))) for index, cell in _plain(cells)]
    places = [(-1, None), *((index, found) for index, found in checks if found)]
    if len(places) == 1:
        yield "no exercise; write an answer cell and a check cell"
    for (start, _), (end, exercise_id) in pairwise(places):
        assert exercise_id is not None
        answer = next((i for i in range(start + 1, end) if BEGIN_SOLUTION in cells[i].source), end)
        statement = "\n".join(cell.source for cell in cells[start + 1 : answer] if _is_text(cell))
        yield from (
            f"exercise {exercise_id}: {problem}" for problem in _statement(statement, exercise_id, entries)
        )


def _statement(statement: str, exercise_id: str, entries: Entries) -> Iterator[str]:
    if not statement.strip():
        yield "no statement before its answer cell"
        return
    try:
        entry = entries(exercise_id)
    except SourceError:
        # The build reports a missing entry by itself.
        return
    for what, pattern, expected in (
        ("minutes", _MINUTES, entry.minutes),
        ("difficulty", _DIFFICULTY, entry.difficulty),
    ):
        said = [int(number) for number in pattern.findall(statement)]
        if expected not in said:
            given = f"it says {said[-1]}" if said else "it says nothing"
            yield f"its statement does not give its {what}, which the entry sets to {expected}; {given}"


def _plain(cells: Sequence[NotebookNode]) -> Iterator[tuple[int, NotebookNode]]:
    """Cells with their places; checks as their first line alone, hidden tests left out."""
    from .exercises import without_hidden_tests
    from .source import copy_cell

    for index, cell in enumerate(cells):
        yield index, copy_cell(cell, source=without_hidden_tests(cell.source))


def _prose(cell: NotebookNode) -> str:
    return re.sub(r"^```.*?^```", "", cell.source, flags=re.MULTILINE | re.DOTALL)


def _is_text(cell: NotebookNode) -> bool:
    return cell.cell_type == "markdown"


def _is_prediction(cell: NotebookNode) -> bool:
    return bool(_PREDICT.search(cell.source)) and "<details" in cell.source and "<summary" in cell.source
