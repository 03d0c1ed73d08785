"""A notebook as its source says it is: cells, ids and metadata, before anything has run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_notebook

from .exercises import Entries, exercise_cells, find_exercises, solution_cells
from .fingerprint import fingerprint
from .identity import assign_ids
from .outputs import is_complete
from .project import Source
from .source import copy_cell, read_cells

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
# No version: it would differ between the machines that build.
LANGUAGE = {
    "codemirror_mode": {"name": "ipython", "version": 3},
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "nbconvert_exporter": "python",
    "pygments_lexer": "ipython3",
}


@dataclass
class Draft:
    """What a source derives, beside what is committed.

    notebook: the lesson or solution without outputs. committed: the notebook on disk, None where
    there is none or it cannot be read. exercise: the learner's notebook of a solution.
    """

    source: Source
    notebook: NotebookNode
    committed: NotebookNode | None
    exercise: NotebookNode | None

    @property
    def is_current(self) -> bool:
        """Whether the committed outputs are those of this code and this library, and complete."""
        if self.committed is None or not is_complete(self.committed.cells):
            return False
        if self.committed.metadata.get("course") != self.notebook.metadata["course"]:
            return False
        return _code(self.committed) == _code(self.notebook)

    def with_committed_outputs(self) -> NotebookNode:
        """The notebook of the source with the outputs that are committed. Only where `is_current`."""
        assert self.committed is not None
        notebook = deepcopy(self.notebook)
        before = (cell for cell in self.committed.cells if cell.cell_type == "code")
        after = (cell for cell in notebook.cells if cell.cell_type == "code")
        for cell, old in zip(after, before, strict=True):
            cell.outputs, cell.execution_count = deepcopy(old.outputs), old.execution_count
        return notebook


def draft(source: Source, entries: Entries) -> Draft:
    """Derive a source's notebooks. Raises SourceError where the text does not allow it."""
    name = f"{source.folder.name}/{source.text_path.name}"
    cells = read_cells(source)
    mark = fingerprint(source.root, cells)
    exercises = find_exercises(cells, name) if source.kind == "solution" else []
    cells = solution_cells(cells, exercises, entries)
    committed = read_notebook(source.notebook_path)
    _set_ids(source, cells, committed)
    notebook = _notebook(cells, source.chapter, source.kind, mark)
    learners = None
    if source.kind == "solution":
        learners = _notebook(exercise_cells(cells), source.chapter, "exercise", mark)
    return Draft(source, notebook, committed, learners)


def serialise(notebook: NotebookNode) -> bytes:
    """The bytes of a notebook file: indented by 1, keys sorted, one newline at the end.

    Raises nbformat.ValidationError for a notebook that is not valid.
    """
    nbformat.validate(notebook)
    text = nbformat.writes(notebook, version=nbformat.NO_CONVERT)
    return (text.rstrip("\n") + "\n").encode("utf-8")


def read_notebook(path: Path) -> NotebookNode | None:
    """The notebook of a file, or None where there is none, or nothing that is one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("nbformat") != 4:
            return None
        return nbformat.reads(json.dumps(content), as_version=nbformat.NO_CONVERT)
    except (OSError, ValueError, AttributeError, KeyError, nbformat.ValidationError):
        return None


def difference(expected: NotebookNode, committed: NotebookNode) -> str | None:
    """In words, the first way in which a committed notebook is not what its source derives; outputs aside."""
    if len(expected.cells) != len(committed.cells):
        return f"it has {len(committed.cells)} cells, its source {len(expected.cells)}"
    for number, (new, old) in enumerate(zip(expected.cells, committed.cells, strict=True), 1):
        for part in ("cell_type", "source", "metadata", "id"):
            if new.get(part) != old.get(part):
                return f"the {part.replace('cell_', '')} of cell {number} differs"
    if expected.metadata.get("course") != committed.metadata.get("course"):
        return "what its outputs depend on has changed since it was run"
    if expected.metadata != committed.metadata:
        return "its metadata differ"
    return None


def _set_ids(source: Source, cells: Sequence[NotebookNode], committed: NotebookNode | None) -> None:
    free = [cell for cell in cells if "nbgrader" not in cell.metadata]
    reserved = {cell.id for cell in cells if "nbgrader" in cell.metadata}
    # The solution's ids and the lesson's are apart, for both lie in one learner's folder.
    scope = f"{source.chapter}/{source.kind}"
    ids = assign_ids(scope, free, committed.cells if committed is not None else [], reserved)
    for cell, cell_id in zip(free, ids, strict=True):
        cell.id = cell_id


def _notebook(cells: Sequence[NotebookNode], chapter: str, kind: str, mark: str) -> NotebookNode:
    metadata: dict[str, Any] = {
        "course": {"chapter": chapter, "fingerprint": mark, "kind": kind},
        "kernelspec": dict(KERNEL),
        "language_info": deepcopy(LANGUAGE),
    }
    return new_notebook(cells=[copy_cell(cell) for cell in cells], metadata=metadata)


def _code(notebook: NotebookNode) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]
