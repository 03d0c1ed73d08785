"""From text to cells: reading MyST markdown through jupytext."""

from __future__ import annotations

import re
from typing import Any

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

from .project import Source, SourceError

_OPENED_INSIDE = re.compile(r"^```\{code-cell\}", re.MULTILINE)
_CELL_ID = "written-later"


def read_cells(source: Source) -> list[NotebookNode]:
    """The cells of a source, without ids and outputs.

    Raises SourceError when the text is missing, is not UTF-8 or is not valid MyST markdown.
    """
    name = f"{source.folder.name}/{source.text_path.name}"
    try:
        text = source.text_path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SourceError(f"{name}: there is no such file") from None
    except UnicodeDecodeError as error:
        raise SourceError(f"{name}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    return parse(text, name)


def parse(text: str, name: str) -> list[NotebookNode]:
    """The cells of MyST markdown; `name` is what messages call the file."""
    import jupytext
    import yaml
    from jupytext.myst import MystMetadataParsingError

    try:
        notebook = jupytext.reads(text, fmt="md:myst")
    except (ValueError, yaml.YAMLError, MystMetadataParsingError) as error:
        raise SourceError(f"{name}: not valid MyST markdown: {_one_line(error)}") from None
    cells = [_clean(cell) for cell in notebook.cells]
    for number, cell in enumerate(cells, 1):
        if cell.cell_type == "code" and _OPENED_INSIDE.search(cell.source):
            raise SourceError(
                f"{name}: {describe(cell, number)} is not closed before the next cell; end it with ```"
            )
    if not cells:
        raise SourceError(f"{name}: no cells; write some text first")
    return cells


def describe(cell: NotebookNode, number: int) -> str:
    """How messages name a cell: its place, counted from 1, and its first line."""
    lines = [line.strip() for line in cell.source.splitlines() if line.strip()]
    first = lines[0] if lines else "empty"
    return f"cell {number} ({first if len(first) <= 60 else first[:57] + '...'})"


def tags(cell: NotebookNode) -> list[str]:
    """The cell's tags."""
    return list(cell.metadata.get("tags", []))


def copy_cell(cell: NotebookNode, **changes: Any) -> NotebookNode:
    """A deep copy without outputs; `changes` replace source, metadata or id."""
    from copy import deepcopy

    fields = {
        "source": cell.source,
        "metadata": deepcopy(cell.metadata),
        "id": cell.get("id", _CELL_ID),
        **changes,
    }
    make = new_code_cell if cell.cell_type == "code" else new_markdown_cell
    return make(**fields)


def _clean(cell: NotebookNode) -> NotebookNode:
    if cell.cell_type == "raw":
        cell = NotebookNode({**cell, "cell_type": "markdown"})
    return copy_cell(cell, id=_CELL_ID)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
