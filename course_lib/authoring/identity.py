"""Cell ids that survive edits: a learner's notebook is brought up to date by them.

The text holds no ids. A cell that was there before keeps the id it had in the committed notebook,
found by alignment; a new one is named after its first words.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Sequence
from difflib import SequenceMatcher
from functools import lru_cache

from nbformat import NotebookNode

SIMILAR = 0.5
_VALID = re.compile(r"^[a-zA-Z0-9\-_]{1,64}$")
_SLUG_LENGTH = 40

Key = tuple[str, str]


def assign_ids(
    chapter: str,
    cells: Sequence[NotebookNode],
    committed: Sequence[NotebookNode],
    reserved: Collection[str] = (),
) -> list[str]:
    """An id for every cell: that of the committed cell it corresponds to, or a new one.

    reserved: ids that are given out elsewhere (the exercises' own) and are never used here.
    A committed notebook with a missing, repeated or invalid id keeps only its good ones.
    """
    usable = _usable(committed, reserved)
    partner = align([_key(cell) for cell in cells], [_key(cell) for cell in usable])
    ids = [usable[old].id if old is not None else "" for old in partner]
    taken = {*reserved, *ids}
    occurrences: dict[Key, int] = {}
    for index, cell in enumerate(cells):
        key = _key(cell)
        occurrences[key] = occurrences.get(key, 0) + 1
        if not ids[index]:
            ids[index] = _fresh(chapter, cell, occurrences[key], taken)
            taken.add(ids[index])
    return ids


def align(new: Sequence[Key], old: Sequence[Key]) -> list[int | None]:
    """For each new cell the place of the old cell it corresponds to, or None; no old cell is used twice.

    Equal cells are matched first, in order and then wherever they moved to; in the gaps between
    them the most similar cells of the same type, from a ratio of 0.5 on, in order.
    """
    partner: list[int | None] = [None] * len(new)
    blocks = SequenceMatcher(None, new, old, autojunk=False).get_matching_blocks()
    gaps: list[tuple[int, int, int, int]] = []
    new_start = old_start = 0
    for block in blocks:
        gaps.append((new_start, block.a, old_start, block.b))
        for offset in range(block.size):
            partner[block.a + offset] = block.b + offset
        new_start, old_start = block.a + block.size, block.b + block.size
    _match_moved(partner, new, old)
    for gap in gaps:
        _match_similar(partner, new, old, gap)
    return partner


def new_id(chapter: str, cell: NotebookNode, occurrence: int) -> str:
    """An id from a cell's first heading or words and a hash of where and what it is."""
    heading = re.search(r"^#+\s+(.+)$", cell.source, re.MULTILINE) if cell.cell_type == "markdown" else None
    words = heading.group(1) if heading else cell.source.strip().split("\n")[0]
    slug = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")[:_SLUG_LENGTH].strip("-") or cell.cell_type
    content = "\0".join([chapter, cell.cell_type, cell.source, str(occurrence)])
    return f"{slug}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def _key(cell: NotebookNode) -> Key:
    return cell.cell_type, cell.source


def _usable(committed: Sequence[NotebookNode], reserved: Collection[str]) -> list[NotebookNode]:
    seen = set(reserved)
    usable = []
    for cell in committed:
        cell_id = cell.get("id", "")
        if _VALID.match(cell_id) and cell_id not in seen and "nbgrader" not in cell.metadata:
            seen.add(cell_id)
            usable.append(cell)
    return usable


def _fresh(chapter: str, cell: NotebookNode, occurrence: int, taken: Collection[str]) -> str:
    while (candidate := new_id(chapter, cell, occurrence)) in taken:
        occurrence += 1
    return candidate


def _match_moved(partner: list[int | None], new: Sequence[Key], old: Sequence[Key]) -> None:
    used = {index for index in partner if index is not None}
    places: dict[Key, list[int]] = {}
    for index, key in enumerate(old):
        if index not in used:
            places.setdefault(key, []).append(index)
    for index, key in enumerate(new):
        if partner[index] is None and places.get(key):
            partner[index] = places[key].pop(0)


def _match_similar(
    partner: list[int | None], new: Sequence[Key], old: Sequence[Key], gap: tuple[int, int, int, int]
) -> None:
    new_start, new_end, old_start, old_end = gap
    used = {index for index in partner if index is not None}
    best = (0.0, 0, 0)
    for i in range(new_start, new_end):
        for j in range(old_start, old_end):
            if partner[i] is None and j not in used:
                # Among equals the first pair wins, so that the result depends on nothing but the texts.
                best = max(best, (similarity(new[i], old[j]), -i, -j))
    ratio, i, j = best[0], -best[1], -best[2]
    if ratio < SIMILAR:
        return
    partner[i] = j
    _match_similar(partner, new, old, (new_start, i, old_start, j))
    _match_similar(partner, new, old, (i + 1, new_end, j + 1, old_end))


@lru_cache(maxsize=50_000)
def similarity(first: Key, second: Key) -> float:
    """Between 0 and 1: how much of two cells' text agrees; 0 for cells of different types."""
    if first[0] != second[0]:
        return 0.0
    matcher = SequenceMatcher(None, first[1], second[1], autojunk=False)
    if matcher.real_quick_ratio() < SIMILAR or matcher.quick_ratio() < SIMILAR:
        return 0.0
    return matcher.ratio()
