"""Three-way merge of a notebook by cell id: the course's old version, its new one, and the learner's.

The rule above all others: no source that the learner wrote is ever lost. `merge` proves it for each result
before it returns one.
"""

from __future__ import annotations

import copy
import json
import re
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

Cell = dict[str, Any]
Notebook = dict[str, Any]


class NotANotebook(ValueError):
    """The text is not a notebook of format 4; the message says what is wrong with it."""


class MergeError(RuntimeError):
    """A merge would have lost something; nothing is written."""


@dataclass
class Merged:
    """A merged notebook, the ids of the cells by what happened to them, and what the learner should know."""

    notebook: Notebook
    added: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


# --- reading and writing --------------------------------------------------------------------------------


def read_notebook(content: bytes) -> Notebook:
    """Parse a notebook of format 4. Raises NotANotebook with the reason."""
    if b"\0" in content:
        raise NotANotebook("it holds NUL bytes, as a crash of the computer leaves them")
    try:
        notebook = json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise NotANotebook(f"byte {error.start} is not UTF-8") from error
    except RecursionError as error:
        raise NotANotebook("its JSON is nested too deeply") from error
    except json.JSONDecodeError as error:
        ended = error.pos >= len(error.doc.rstrip()) or "Unterminated" in error.msg
        reason = "it ends in the middle" if ended else error.msg
        raise NotANotebook(f"line {error.lineno} is not JSON: {reason}") from error
    _check_shape(notebook)
    return dict(notebook)


def _check_shape(notebook: object) -> None:
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
        raise NotANotebook("it is JSON, but has no list of cells")
    if notebook.get("nbformat") != 4:
        raise NotANotebook(f"it has notebook format {notebook.get('nbformat')!r}, and 4 is needed")
    for position, cell in enumerate(notebook["cells"]):
        _check_cell(cell, position + 1)


def _check_cell(cell: object, number: int) -> None:
    if not isinstance(cell, dict) or cell.get("cell_type") not in ("code", "markdown", "raw"):
        raise NotANotebook(f"cell {number} is not a cell")
    if not isinstance(cell.get("source", ""), str | list):
        raise NotANotebook(f"cell {number} has no text as its source")
    if not isinstance(cell.get("metadata"), dict):
        cell["metadata"] = {}


def salvage(content: bytes) -> list[Cell]:
    """The whole cells at the start of a notebook that a crash cut off or filled up with zeros; often most."""
    text = content.split(b"\0")[0].decode("utf-8", errors="ignore")
    opening = re.search(r'"cells"\s*:\s*\[', text)
    position, cells = opening.end() if opening else len(text), []  # type: int, list[Cell]
    while position < len(text):
        position += len(text[position:]) - len(text[position:].lstrip(" \n\r\t,"))
        try:
            cell, position = json.JSONDecoder().raw_decode(text, position)
            _check_cell(cell, len(cells) + 1)
        except (ValueError, RecursionError):
            break
        cells.append(cell)
    return cells


def write_notebook(notebook: Notebook) -> bytes:
    """The notebook as JupyterLab writes it: sources and text outputs in lines, keys sorted, one space."""
    text = json.dumps(_in_lines(notebook), indent=1, sort_keys=True, ensure_ascii=False)
    try:
        return (text + "\n").encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can carry
        return (json.dumps(_in_lines(notebook), indent=1, sort_keys=True) + "\n").encode("ascii")


def _in_lines(notebook: Notebook) -> Notebook:
    written = {**notebook, "cells": []}
    for cell in notebook["cells"]:
        written["cells"].append({**cell, "source": source_of(cell).splitlines(keepends=True)})
    return written


# --- what a cell is -------------------------------------------------------------------------------------


def source_of(cell: Cell) -> str:
    """The source as one string, however it is stored."""
    source = cell.get("source", "")
    return source if isinstance(source, str) else "".join(map(str, source))


def grading_of(cell: Cell) -> dict[str, Any]:
    """The cell's nbgrader metadata; empty for a plain cell."""
    found = cell["metadata"].get("nbgrader")
    return found if isinstance(found, dict) else {}


def is_answer(cell: Cell) -> bool:
    """Whether this is a cell for the learner to fill in."""
    return bool(grading_of(cell).get("solution"))


def is_check(cell: Cell) -> bool:
    """Whether this cell checks an answer: its text is the course's, and a rewritten one is put back."""
    return bool(grading_of(cell).get("grade")) and not is_answer(cell)


def same_text(first: Cell, second: Cell) -> bool:
    """Whether two cells are of one type and have one source."""
    return first["cell_type"] == second["cell_type"] and source_of(first) == source_of(second)


def name_of(cell: Cell) -> str:
    """What a message calls the cell: its grade id where it has one, else its id."""
    return str(grading_of(cell).get("grade_id") or cell.get("id") or source_of(cell)[:30])


def by_id(cells: list[Cell]) -> dict[str, Cell]:
    """The cells that have an id; the first where one id stands twice."""
    found: dict[str, Cell] = {}
    for cell in cells:
        if isinstance(cell.get("id"), str):
            found.setdefault(cell["id"], cell)
    return found


# --- making the learner's ids sound before the merge ----------------------------------------------------


def _settle_identities(
    cells: list[Cell], base: dict[str, Cell], theirs: dict[str, Cell], problems: list[str]
) -> None:
    """Let each id stand once: of several claimants one keeps it, and the others become the learner's own.

    A cell claims its id; one whose id is not the course's (JupyterLab pastes under a new one, some editors
    renumber) claims the id that its grade id belongs to. One that was worked on wins over an untouched one.
    """
    homes = {grading_of(cell).get("grade_id"): identity for identity, cell in {**base, **theirs}.items()}
    claims: dict[str, list[Cell]] = {}
    for cell in cells:
        identity, grade_id = cell.get("id"), grading_of(cell).get("grade_id")
        if identity not in base and identity not in theirs and grade_id is not None:
            identity = homes.setdefault(grade_id, identity if isinstance(identity, str) else _new_id())
        if isinstance(identity, str):
            claims.setdefault(identity, []).append(cell)
    for identity, group in claims.items():
        keeper = _keeper(identity, group, base.get(identity) or theirs.get(identity))
        if len(group) > 1:
            problems.append(_duplicate_sentence(keeper, len(group)))
        elif keeper.get("id") != identity:
            problems.append(f"The cell {name_of(keeper)} had another id; it has its own again.")
        course = theirs.get(identity)
        rewritten = course is not None and is_check(course) and _changed(keeper, base.get(identity), course)
        for cell in group:
            if cell is keeper and not rewritten:
                cell["id"] = identity
            else:
                _make_own(cell)


def _changed(cell: Cell, *versions: Cell | None) -> bool:
    return not any(version is not None and same_text(cell, version) for version in versions)


def _keeper(identity: str, group: list[Cell], original: Cell | None) -> Cell:
    worked_on = [cell for cell in group if original is None or not same_text(cell, original)]
    first = [cell for cell in worked_on or group if cell.get("id") == identity]
    return (first or worked_on or group)[0]


def _settle_lost_ids(cells: list[Cell], base: dict[str, Cell], theirs: dict[str, Cell]) -> None:
    """Give a cell whose text is the course's, but whose id is not, that id: some editors renumber cells."""
    present = {cell.get("id") for cell in cells}
    free: dict[tuple[str, str], list[str]] = {}
    for identity, cell in {**theirs, **base}.items():
        if identity not in present:
            free.setdefault((cell["cell_type"], source_of(cell)), []).append(identity)
    for cell in cells:
        if cell.get("id") not in base and cell.get("id") not in theirs:
            candidates = free.get((cell["cell_type"], source_of(cell)))
            if candidates:
                cell["id"] = candidates.pop(0)
        if not isinstance(cell.get("id"), str):
            cell["id"] = _new_id()


def _make_own(cell: Cell) -> None:
    """Turn a copy into a cell of the learner's own: a new id, and nothing that a grader would look at."""
    cell["id"] = _new_id()
    cell["metadata"].pop("nbgrader", None)


def _new_id() -> str:
    return uuid.uuid4().hex[:12]


def _duplicate_sentence(keeper: Cell, count: int) -> str:
    return (
        f"The cell {name_of(keeper)} stands {count} times: one keeps its place and is the one that counts; "
        "the others stay as cells of your own, to be deleted when you no longer need them."
    )


# --- the merge ------------------------------------------------------------------------------------------


def merge(base: Notebook | None, theirs: Notebook, mine: Notebook) -> Merged:
    """Bring the course's new version into the learner's notebook.

    base: the course's version that the learner's notebook came from; None where it is not known, and then
    every cell that differs from the new version is taken for the learner's work. theirs: the new version,
    which decides the order. mine: the learner's. None of the three is changed.
    Raises MergeError should the result lack anything the learner wrote.
    """
    old, new = by_id(base["cells"] if base else []), by_id(theirs["cells"])
    cells: list[Cell] = copy.deepcopy(mine["cells"])
    merged = Merged(notebook={})
    _settle_identities(cells, old, new, merged.problems)
    _settle_lost_ids(cells, old, new)
    result = _course_cells(old, new, by_id(cells), merged)
    result = _with_own_cells(result, cells, old, new, merged)
    merged.notebook = {
        **mine,
        "metadata": _merge_plain((base or {}).get("metadata"), theirs.get("metadata"), mine.get("metadata")),
        "nbformat": 4,
        "nbformat_minor": max(5, *(book.get("nbformat_minor") or 0 for book in (theirs, mine))),
        "cells": copy.deepcopy(result),
    }
    _check_nothing_lost(old, new, mine, merged.notebook)
    return merged


def _course_cells(
    old: dict[str, Cell], new: dict[str, Cell], own: dict[str, Cell], merged: Merged
) -> list[Cell]:
    """The cells of the new version in its order, each as the learner should have it."""
    result = []
    for identity, cell in new.items():
        if identity in own:
            result.append(_one_cell(old.get(identity), cell, own[identity], merged))
        elif identity not in old:
            merged.added.append(identity)
            result.append(cell)
        elif grading_of(cell):
            merged.added.append(identity)
            merged.problems.append(_missing_sentence(cell))
            result.append(cell)
        # else: the learner deleted a cell of the lesson, and may
    return result


def _missing_sentence(cell: Cell) -> str:
    if is_answer(cell):
        return (
            f"The answer cell {name_of(cell)} was missing and is put back empty; backups may have its text."
        )
    return f"The check cell {name_of(cell)} was missing or rewritten, and is put back."


def _one_cell(old: Cell | None, new: Cell, own: Cell, merged: Merged) -> Cell:
    """One cell that the new version and the learner both have."""
    metadata = _merge_plain((old or {}).get("metadata"), new.get("metadata"), own.get("metadata"))
    if "nbgrader" in new["metadata"]:
        metadata["nbgrader"] = new["metadata"]["nbgrader"]  # ids, points and locks are the course's
    if same_text(own, new):
        return {**own, "metadata": metadata}
    if old is not None and same_text(own, old):
        merged.replaced.append(str(new["id"]))
        return {**new, "metadata": metadata}
    merged.kept.append(str(new["id"]))
    if is_answer(new) and own["cell_type"] != new["cell_type"]:
        merged.problems.append(
            f"The answer cell {name_of(new)} had become {own['cell_type']}; it is code again."
        )
        fresh = {key: value for key, value in new.items() if key != "outputs"}
        return {**fresh, "outputs": [], "metadata": metadata, "source": source_of(own)}
    return {**own, "metadata": metadata}


def _merge_plain(old: object, new: object, own: object) -> dict[str, Any]:
    """Three-way merge of metadata by key: what the learner changed stays, the rest follows the course."""
    before, after, mine = (dict(side) if isinstance(side, dict) else {} for side in (old, new, own))
    result = {}
    for key in {**after, **mine}:
        changed = key in mine and mine[key] != before.get(key)
        side = mine if changed or (key not in before and key in mine) else after
        if key in side:
            result[key] = side[key]
    return result


def _with_own_cells(
    result: list[Cell], cells: list[Cell], old: dict[str, Cell], new: dict[str, Cell], merged: Merged
) -> list[Cell]:
    """Put the learner's own cells, and changed ones that the course removed, after their predecessors."""
    placed = {cell["id"] for cell in result}
    followers: dict[str | None, list[Cell]] = {None: []}
    anchor: str | None = None
    for cell in cells:
        identity = cell["id"]
        if identity in placed:
            anchor = identity
        elif identity in old and identity not in new and same_text(cell, old[identity]):
            merged.dropped.append(identity)
        else:
            merged.kept.append(identity)
            followers.setdefault(anchor, []).append(cell)
    woven = list(followers[None])
    for cell in result:
        woven += [cell, *followers.get(cell["id"], [])]
    return woven


def _check_nothing_lost(old: dict[str, Cell], new: dict[str, Cell], mine: Notebook, result: Notebook) -> None:
    """Raise MergeError unless every source that is not the course's is in the result as often as before."""
    courses = {source_of(cell) for cell in [*old.values(), *new.values()]}
    before, after = (Counter(map(source_of, notebook["cells"])) for notebook in (mine, result))
    lost = {source for source in before - after if source not in courses}
    if lost:
        raise MergeError(f"the merge would have lost {len(lost)} cell(s), beginning {min(lost)[:60]!r}")
