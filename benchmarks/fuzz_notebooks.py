"""Bad input: mutated notebooks and archives, each of which must be read, or refused with a reason.

    python benchmarks/fuzz_notebooks.py [--count 20000] [--seed 1] [--grade-every 100] [--save-failures DIR]

Items are made from the published solutions and exercises, by changes that know what a notebook is, by changes
of bytes, and as folders and zip archives with the names that learning platforms give. What must hold:

- nothing raises, takes more than SECONDS, or more than MEGABYTES of new memory;
- each exercise has an answer, and each whole answer cell that stands in the file is taken byte for byte;
- the graft of the answers is a valid notebook that differs from the pristine one in the answers only;
- a refusal is one sentence, a note is one sentence, and no notebook of an undamaged archive goes unmentioned;
- every N-th notebook is graded in the sandbox: a mark for each exercise, full marks for what was left whole.

Prints how many items came out how, and their rate. The exit status is 1 where something did not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import nbformat

from course_lib.grading.answers import is_answer
from course_lib.grading.graft import Extracted, extract_answers, graft
from course_lib.grading.intake import Submission, read_submissions

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = ("00_welcome", "03_tokenizers", "06_attention")
SECONDS = 10.0  # The slowest are files near the limits; the median takes milliseconds.
MEGABYTES = 700
Json = dict[str, Any]
# Of one notebook: its chapter and answers by grade id.
Grade = Callable[[str, Mapping[str, str]], Mapping[str, tuple[float | None, float]]]


class Violation(AssertionError):
    """Something that must hold did not."""


def require(holds: bool, what: str) -> None:
    """Raise Violation unless it holds."""
    if not holds:
        raise Violation(what)


@dataclass(frozen=True)
class Base:
    """A notebook that items are made from. whole: its answers; starters: the pristine ones, by grade id."""

    chapter: str
    pristine: nbformat.NotebookNode
    document: Json
    whole: Mapping[str, str]
    starters: Mapping[str, str]


@cache
def bases() -> tuple[Base, ...]:
    """The solved and the unsolved notebook of each chapter."""
    found = []
    for chapter in CHAPTERS:
        pristine = nbformat.read(ROOT / "exercises" / f"{chapter}.ipynb", as_version=4)
        starters = answers_of(pristine)
        for folder in ("solutions", "exercises"):
            raw = (ROOT / folder / f"{chapter}.ipynb").read_text(encoding="utf-8")
            whole = answers_of(nbformat.reads(raw, as_version=4))
            found.append(Base(chapter, pristine, json.loads(raw), whole, starters))
    return tuple(found)


def answers_of(notebook: nbformat.NotebookNode) -> dict[str, str]:
    """The sources of the answer cells by grade id."""
    return {cell.metadata.nbgrader.grade_id: cell.source for cell in notebook.cells if is_answer(cell)}


# --- Changes that know what a notebook is ------------------------------------------------------------------

Change = Callable[[random.Random, Json], None]
STRUCTURE: list[Change] = []
# After these the file as a whole may be refused, whatever its answer cells are.
OF_THE_WHOLE_FILE = {"format", "top_level", "deep", "long_number", "many_cells", "many_values", "large"}

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 4, 4.0, 1e308, float("nan"), float("inf"), 10**30, "", " ", "code", "\0"),
    *([], {}, [[]], [None], [{}], {"": ""}, [[["x"]]], {"nbgrader": None}, {"nbgrader": []}, "\ud800", "💥"),
    *({"nbgrader": {"grade_id": 7}}, {"nbgrader": {"grade_id": ["x"]}}, ["x", 1, None], {"source": "x"}),
)
LOOK_ALIKES = ("\u200b", "\u00a0", "\u0301", "\ufeff", "\u202e", " ", "\n", "\0", "-", "\ud83d", "\uff0d")
FRAGMENTS = (
    *("pass", "", "\n\n", "x = 1", "raise NotImplementedError", "def f(:", "if x:\n\tpass\n        y", "'''"),
    *("# NBVAL_SKIP", "#NBVAL_IGNORE_OUTPUT\nx = 1", "# PYTEST_VALIDATE_IGNORE_OUTPUT", "\ufeffx = 1"),
    *("%%bash\nls", "!ls", "x = !ls", "%matplotlib inline", "len?", "?len", "get_ipython()", "x = 1 % 2"),
    *("x = '\0'", "\0", "x = '\ud800'", "print('\u202e')", "x = 1\r\ny = 2\rz = 3", "\x0cx = 1", "\x1a"),
    *("(" * 300, "[" * 90 + "]" * 90, "-" * 90_000 + "1", "x" + ".a" * 40_000, "1+" * 40_000 + "1"),
    *("not " * 20_000 + "x", "x" * 100_001, "9" * 5_000, "f'{" * 100, "lambda: " * 10_000 + "1"),
    *(
        "import os; os._exit(0)",
        "raise SystemExit",
        "raise KeyboardInterrupt",
        "1 / 0",
        "return 1",
        "await x",
    ),
    *("### BEGIN SOLUTION\n### END SOLUTION", "### BEGIN HIDDEN TESTS", "check('attention/sdpa', None)"),
    *("import torch\ntorch.softmax = None", "del __builtins__", "globals().clear()", "\\\n" * 9_000),
)


def odd(rng: random.Random) -> Any:
    """A value of a type or form that does not belong there."""
    return deepcopy(rng.choice(ODD))


def structural(change: Change) -> Change:
    """Add a change to the list that items draw from."""
    STRUCTURE.append(change)
    return change


def some_cell(rng: random.Random, document: Json) -> Json:
    """A cell, an answer cell twice as often as another; an empty one where there is none."""
    cells = [cell for cell in document.get("cells") or () if isinstance(cell, dict)]
    answers = [cell for cell in cells if "nbgrader" in str(cell.get("metadata"))]
    return rng.choice([*cells, *answers] or [{}])


def nbgrader_of(cell: Json) -> Json:
    """A cell's nbgrader metadata; where it has none, a dictionary that belongs to nothing."""
    metadata = cell.get("metadata")
    found = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    return found if isinstance(found, dict) else {}


def some_text(cell: Json) -> str:
    """The start of a cell's source, so that changes on changes stay small; nothing where it is no text."""
    return (text_of(cell.get("source")) or "")[:100_000]


@structural
def delete(rng: random.Random, document: Json) -> None:
    start = rng.randrange(len(document["cells"]))
    del document["cells"][start : start + rng.choice([1, 1, 2, 50])]


@structural
def double(rng: random.Random, document: Json) -> None:
    place = rng.randrange(len(document["cells"]) + 1)
    document["cells"].insert(place, deepcopy(some_cell(rng, document)))


@structural
def copy_anew(rng: random.Random, document: Json) -> None:
    copy = deepcopy(some_cell(rng, document))
    copy["id"] = rng.choice([f"copy-{rng.random()}", *ids(document)])
    copy["source"] = rng.choice(FRAGMENTS)
    if rng.random() < 0.5:
        nbgrader_of(copy)["grade_id"] = rng.choice(ids(document))
    document["cells"].insert(rng.randrange(len(document["cells"]) + 1), copy)


def ids(document: Json) -> list[Any]:
    """The ids of the cells, such as they are."""
    return [cell.get("id") for cell in document["cells"] if isinstance(cell, dict)] or [""]


@structural
def shuffle(rng: random.Random, document: Json) -> None:
    rng.shuffle(document["cells"])


@structural
def cell_type(rng: random.Random, document: Json) -> None:
    some_cell(rng, document)["cell_type"] = rng.choice(["markdown", "raw", "CODE", "heading", odd(rng)])


@structural
def swap_ids(rng: random.Random, document: Json) -> None:
    one, other = some_cell(rng, document), some_cell(rng, document)
    one["id"], other["id"] = other.get("id"), one.get("id")


@structural
def swap_grade_ids(rng: random.Random, document: Json) -> None:
    one, other = nbgrader_of(some_cell(rng, document)), nbgrader_of(some_cell(rng, document))
    one["grade_id"], other["grade_id"] = other.get("grade_id"), one.get("grade_id")


@structural
def foreign_id(rng: random.Random, document: Json) -> None:
    cell = some_cell(rng, document)
    rng.choice([cell, nbgrader_of(cell)])[rng.choice(["id", "grade_id"])] = rng.choice(ids(document))


@structural
def look_alike_id(rng: random.Random, document: Json) -> None:
    cell = some_cell(rng, document)
    holder, key = rng.choice([(cell, "id"), (nbgrader_of(cell), "grade_id")])
    text, trick = str(holder.get(key))[:1_000], rng.choice(LOOK_ALIKES)
    place = rng.randrange(len(text) + 1)
    forms = (text[:place] + trick + text[place:], text.upper(), text.replace("a", "\u0430"), text * 1_000)
    holder[key] = rng.choice(forms)


@structural
def without_id(rng: random.Random, document: Json) -> None:
    cell = some_cell(rng, document)
    holder = rng.choice([cell, cell, nbgrader_of(cell)])
    holder.pop(
        rng.choice(["id", "metadata", "source", "cell_type"] if holder is cell else ["grade_id"]), None
    )


@structural
def metadata(rng: random.Random, document: Json) -> None:
    cell = some_cell(rng, document)
    holder, key = rng.choice(
        [(cell, "metadata"), (nbgrader_of(cell), rng.choice(["grade_id", "points", "solution", "grade"]))]
    )
    holder[key] = odd(rng)


@structural
def points(rng: random.Random, document: Json) -> None:
    nbgrader_of(some_cell(rng, document)).update(
        points=rng.choice([1000, -1, 1e400, "9"]), locked=odd(rng), schema_version=odd(rng)
    )


@structural
def odd_source(rng: random.Random, document: Json) -> None:
    some_cell(rng, document)["source"] = odd(rng)


@structural
def source_in_pieces(rng: random.Random, document: Json) -> None:
    cell = some_cell(rng, document)
    text = some_text(cell)
    lines = text.splitlines(keepends=True)
    cell["source"] = rng.choice(
        [lines, list(text), text, [lines], [*lines, 7], "\r\n".join(text.split("\n")), [*lines, None]]
    )


@structural
def answer(rng: random.Random, document: Json) -> None:
    cell = some_cell(rng, document)
    fragment = rng.choice([*FRAGMENTS, some_text(some_cell(rng, document))])
    own = some_text(cell)
    place = rng.randrange(len(own) + 1)
    cell["source"] = rng.choice([fragment, own + "\n" + fragment, own[:place] + fragment + own[place:]])


@structural
def outputs(rng: random.Random, document: Json) -> None:
    cell = some_cell(rng, document)
    cell["outputs"] = rng.choice(
        [odd(rng), odd(rng), [{"output_type": "stream", "text": 7}], [{"data": {"text/plain": []}}]]
    )
    cell["attachments"] = rng.choice([odd(rng), odd(rng), {"a.png": {"image/png": "x" * 10_000}}])
    cell["execution_count"] = odd(rng)


@structural
def no_cell(rng: random.Random, document: Json) -> None:
    document["cells"][rng.randrange(len(document["cells"]))] = odd(rng)


@structural
def anything(rng: random.Random, document: Json) -> None:
    """Some value at some depth inside a cell becomes an odd one."""
    place: Any = some_cell(rng, document)
    while isinstance(place, (dict, list)) and place:
        key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
        if not isinstance(place[key], (dict, list)) or not place[key] or rng.random() < 0.3:
            place[key] = odd(rng)
            return
        place = place[key]


@structural
def format(rng: random.Random, document: Json) -> None:
    document[rng.choice(["nbformat", "nbformat_minor"])] = rng.choice([3, 5, "4", odd(rng), odd(rng)])


@structural
def top_level(rng: random.Random, document: Json) -> None:
    key = rng.choice([*document, "worksheets"])
    document[key] = odd(rng)


def deep(rng: random.Random, document: Json) -> None:
    nested: Any = "x"
    for _ in range(rng.choice([50, 99, 101, 300])):
        nested = rng.choice([[nested], {"source": nested}])
    some_cell(rng, document)[rng.choice(["metadata", "source", "outputs"])] = nested


def long_number(rng: random.Random, document: Json) -> None:
    some_cell(rng, document)[rng.choice(["metadata", "source"])] = 10 ** rng.choice([399, 400, 4_000])


def many_cells(rng: random.Random, document: Json) -> None:
    count = rng.choice([1_900, 2_100, 20_000])
    document["cells"] += [{"cell_type": "code", "source": ""} for _ in range(count)]


def many_values(rng: random.Random, document: Json) -> None:
    some_cell(rng, document)["outputs"] = [0] * rng.choice([100_000, 3_000_000])


def large(rng: random.Random, document: Json) -> None:
    times = rng.choice([60_000, 5 * 10**6, 2**24])
    some_cell(rng, document)[rng.choice(["source", "outputs"])] = "x\n" * times


RARE: tuple[Change, ...] = (deep, long_number, many_cells, many_values, large)


def changed_document(rng: random.Random, base: Base) -> tuple[bytes, set[str]]:
    """A notebook after one to four changes of its structure, and the names of the changes."""
    document = deepcopy(base.document)
    applied = set()
    for _ in range(rng.choice([1, 1, 2, 4])):
        change = rng.choice(RARE if rng.random() < 0.02 else STRUCTURE)
        # After another change there may be nothing left for this one to change, or nothing to copy it with.
        with contextlib.suppress(AttributeError, LookupError, TypeError, ValueError, RecursionError):
            change(rng, document)
        applied.add(change.__name__)
    options: Json = {"ensure_ascii": rng.random() < 0.5, "indent": rng.choice([None, 1])}
    try:
        return json.dumps(document, **options).encode(), applied
    except UnicodeEncodeError:
        return json.dumps(document).encode(), applied


# --- Changes of bytes --------------------------------------------------------------------------------------


def changed_bytes(rng: random.Random, raw: bytes, others: tuple[bytes, ...]) -> bytes:
    """The bytes after one to three changes that know nothing of what they are."""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        raw = rng.choice(BYTES)(rng, raw, rng.choice(others))
    return raw


def flip(rng: random.Random, raw: bytes, other: bytes) -> bytes:
    """Up to eight bits turned."""
    changed = bytearray(raw)
    for _ in range(rng.choice([1, 1, 2, 8]) if raw else 0):
        changed[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(rng: random.Random, raw: bytes, other: bytes) -> bytes:
    """Truncated, or without a slice."""
    start, end = span(rng, raw)
    return rng.choice([raw[:start], raw[:start] + raw[end:]])


def insert(rng: random.Random, raw: bytes, other: bytes) -> bytes:
    """With something put in, from JSON's own signs to bytes that are no text."""
    start, _ = span(rng, raw)
    piece = rng.choice(
        [b'"', b",", b"{", b"]", b"\\", b"\\u", b"\0", b"\xff", b"\xed\xa0\x80", b"NaN", b"1e999"]
    )
    return raw[:start] + piece * rng.choice([1, 1, 3, 5_000]) + raw[start:]


def overwrite(rng: random.Random, raw: bytes, other: bytes) -> bytes:
    """With a slice of another file in place of a slice."""
    start, end = span(rng, raw)
    from_start, from_end = span(rng, other)
    return raw[:start] + other[from_start:from_end] + raw[end:]


def span(rng: random.Random, raw: bytes) -> tuple[int, int]:
    """Where a slice starts and ends, at most 400 bytes apart."""
    start = rng.randrange(len(raw) + 1)
    return start, min(len(raw), start + rng.randrange(400))


def recode(rng: random.Random, raw: bytes, other: bytes) -> bytes:
    """In another encoding, or with another order of bytes at the start."""
    text = raw.decode("utf-8", "replace")
    encoding = rng.choice(["utf-8-sig", "utf-16", "utf-32", "latin-1", "utf-7", "cp037"])
    return text.encode(encoding, "replace")


def other_line_ends(rng: random.Random, raw: bytes, other: bytes) -> bytes:
    """With the line ends of other systems between JSON's values."""
    return raw.replace(b"\n", rng.choice([b"\r\n", b"\r"]))


def double_a_key(rng: random.Random, raw: bytes, other: bytes) -> bytes:
    """With a key given twice in one object."""
    places = [match.start() for match in re.finditer(rb'"(?:source|id|grade_id|cells|nbformat)":', raw)]
    if not places:
        return raw
    place = rng.choice(places)
    key = raw[place : raw.index(b":", place) + 1]
    return raw[:place] + key + rng.choice([b'"x", ', b"[], ", b"4, "]) + raw[place:]


BYTES = (flip, flip, cut, insert, overwrite, recode, other_line_ends, double_a_key)


# --- What must hold of one notebook ------------------------------------------------------------------------


def judge_notebook(raw: bytes, base: Base, applied: set[str] | None, grade: Grade | None) -> str:
    """How a notebook came out. applied: names of the changes of structure; None after changes of bytes.

    Raises Violation.
    """
    extracted = extract_answers(raw, base.pristine)
    require(set(extracted.answers) == set(base.starters), "not one answer for each exercise")
    for sentence in (*extracted.notes.values(), *extracted.remarks, *filter(None, [extracted.problem])):
        require_sentence(sentence)
    require_graft(extracted, base)
    standing = whole_answers(raw, base)
    if extracted.problem:
        require(dict(extracted.answers) == dict(base.starters), "a file with a problem has answers")
        damaged = applied is None or applied & OF_THE_WHOLE_FILE
        require(bool(damaged) or not standing, f"refused with whole answers in it: {extracted.problem}")
    else:
        for grade_id, source in standing.items():
            require(extracted.answers[grade_id] == source, f"{grade_id} stands whole and was not taken")
        require_alone(raw, base, extracted)
    if grade:
        require_marks(grade(base.chapter, extracted.answers), base, extracted)
    graded = "graded: " if grade else ""
    if extracted.problem:
        return f"{graded}refused: " + re.sub(r"[\d,]*\d", "#", extracted.problem)
    return graded + ("read, with notes" if extracted.notes else "read")


def require_sentence(text: str) -> None:
    """One line of under 300 characters with an end, and nothing after the end."""
    ends = len(re.findall(r"[.!?](?=\s|$)", text))
    fits = 0 < len(text) < 300 and text.isprintable() and text.strip() == text
    require(fits and text[-1] in ".!?" and ends == 1, f"not one sentence: {text[:400]!r}")


def require_graft(extracted: Extracted, base: Base) -> None:
    """The rebuilt notebook is valid, and is the pristine one but for its answers and outputs."""
    rebuilt = graft(base.pristine, extracted.answers)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nbformat.validate(rebuilt)
    for cell, pristine in zip(rebuilt.cells, base.pristine.cells, strict=True):
        expected = extracted.answers[cell.id] if is_answer(pristine) else pristine.source
        same = (cell.id, cell.cell_type, cell.metadata) == (
            pristine.id,
            pristine.cell_type,
            pristine.metadata,
        )
        require(same and cell.source == expected, f"the graft changed the cell {cell.id}")
        require(not cell.get("outputs"), "the graft has outputs")
    json.dumps(rebuilt).encode()
    "".join(extracted.answers.values()).encode()


def whole_answers(raw: bytes, base: Base) -> dict[str, str]:
    """The answers whose cells stand unchanged in the file, as Python's own reader of JSON sees it.

    A cell is told by its id and grade id. Where the answer is still the starter, a copy may count instead.
    """
    found = {}
    cells = cells_in(raw)
    for grade_id, source in base.whole.items():
        originals = [cell for cell in cells if is_original(cell, grade_id)]
        claims = sum(grade_id in (cell.get("id"), nbgrader_of(cell).get("grade_id")) for cell in cells)
        changed = source.strip() != base.starters[grade_id].strip()
        untouched = {text_of(cell.get("source")) for cell in originals} == {source}
        if untouched and (changed or claims == len(originals)):
            found[grade_id] = source
    return found


def require_alone(raw: bytes, base: Base, extracted: Extracted) -> None:
    """A changed answer that nothing else claims to be is taken, or the starter stands with a note.

    The starter also stands, with a note, where nothing that claims to be the answer is code.
    """
    cells = cells_in(raw)
    for grade_id, starter in base.starters.items():
        claims = [cell for cell in cells if grade_id in (cell.get("id"), nbgrader_of(cell).get("grade_id"))]
        taken = extracted.answers[grade_id]
        noted = taken == starter and grade_id in extracted.notes
        if not any(cell.get("cell_type") == "code" for cell in claims):
            require(noted, f"{grade_id} has no code cell and is not noted")
        elif len(claims) == 1 and is_original(claims[0], grade_id):
            text = text_of(claims[0].get("source"))
            obeyed = text is not None and re.search("NBVAL_|PYTEST_VALIDATE_", text)
            require(taken == text or noted or bool(obeyed), f"{grade_id} is neither taken nor noted")


def cells_in(raw: bytes) -> list[Json]:
    """The cells that Python's own reader of JSON finds in the bytes."""
    try:
        document = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return []
    cells = document.get("cells") if isinstance(document, dict) else None
    return [cell for cell in cells if isinstance(cell, dict)] if isinstance(cells, list) else []


def is_original(cell: Json, grade_id: str) -> bool:
    """Whether a cell is code and carries both of an answer's ids."""
    ids = (cell.get("id"), nbgrader_of(cell).get("grade_id"))
    return cell.get("cell_type") == "code" and ids == (grade_id, grade_id)


def text_of(source: Any) -> str | None:
    """A source with plain line ends, from one text or a list of lines; None where it is neither."""
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        source = "".join(source)
    return source.replace("\r\n", "\n").replace("\r", "\n") if isinstance(source, str) else None


def require_marks(marks: Mapping[str, tuple[float | None, float]], base: Base, extracted: Extracted) -> None:
    """A mark for each exercise; full marks for published solutions beside which nothing else was changed."""
    require(list(marks) == list(base.starters), "not one mark for each exercise, in order")
    for grade_id, (earned, possible) in marks.items():
        require(earned is not None, f"{grade_id} is ungraded")
        solved = extracted.answers[grade_id] == solution_of(base.chapter)[grade_id]
        require(not solved or earned == possible, f"{grade_id} is solved and got {earned} of {possible}")
        starter = extracted.answers[grade_id].strip() == base.starters[grade_id].strip()
        require(not starter or earned == 0, f"{grade_id} is the starter and got {earned}")


@cache
def solution_of(chapter: str) -> dict[str, str]:
    """The published answers by grade id."""
    return next(dict(base.whole) for base in bases() if base.chapter == chapter)


# --- Folders and archives ----------------------------------------------------------------------------------

NAMES = (
    *("anna/{}.ipynb", "ben/week 6/{}.ipynb", "export/carla/{}.ipynb", "anna_{}.ipynb", "{}-ben (2).ipynb"),
    *("Anna Berg_1234567_assignsubmission_file_/{}.ipynb", "Zoë_7_assignsubmission_file_{}.ipynb"),
    *("berganna_LATE_12345_67890_{}-1.ipynb", "oun_23456_67892_{}.ipynb", "submitted/eve/week6/{}.ipynb"),
    *("submitted/eve/week6/timestamp.txt", "__MACOSX/anna/._{}.ipynb", "anna/.ipynb_checkpoints/{}.ipynb"),
    *("../{}.ipynb", "/etc/{}.ipynb", "C:/{}.ipynb", "a\\b\\{}.ipynb", "anna/{}.IPYNB", "notes.pdf", "x.zip"),
    *("anna/homework.ipynb", "{}.ipynb", ".ipynb", "anna/readme.txt", "a/" * 14 + "{}.ipynb"),
)
IN_NAMES = ("/", "//", ".", "..", "\\", ":", "\n", "\x1b", "_", "é", "e\u0301", "\u202e", "x" * 300, "%s")


@dataclass(frozen=True)
class Container:
    """A folder or an archive. whole: whether the archive's own bytes are as zipfile wrote them."""

    path: Path
    contents: frozenset[bytes]
    notebooks: int
    whole: bool


def make_container(rng: random.Random, folder: Path) -> Container:
    """A folder or a zip of one to six files, with names and bytes changed here and there."""
    files: dict[str, bytes] = {}
    for _ in range(rng.randrange(1, 7)):
        base = rng.choice(bases())
        raw = changed_document(rng, base)[0] if rng.random() < 0.3 else json.dumps(base.document).encode()
        files[some_name(rng, base.chapter)] = raw[: 2**20]
    return in_folder(rng, folder, files) if rng.random() < 0.3 else in_zip(rng, folder, files)


def some_name(rng: random.Random, chapter: str) -> str:
    """A name as a platform or a person gives it, every third with something put into it."""
    name = rng.choice(NAMES).format(chapter)
    if rng.random() < 0.7:
        return name
    place = rng.randrange(len(name) + 1)
    return name[:place] + rng.choice(IN_NAMES) + name[place:]


def in_folder(rng: random.Random, folder: Path, files: Mapping[str, bytes]) -> Container:
    """The files in a folder, as far as the file system takes their names."""
    root = folder / "all"
    root.mkdir()
    written = {}
    for name, raw in files.items():
        path = root / name.lstrip("/").replace("..", "__")
        with contextlib.suppress(OSError, ValueError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(raw)
            written[path] = raw
    shown = [path for path in written if is_notebook(path.relative_to(root).as_posix())]
    return Container(root, frozenset(written.values()), len(shown), True)


def in_zip(rng: random.Random, folder: Path, files: Mapping[str, bytes]) -> Container:
    """The files in a zip, whose headers or bytes are then changed in two of three."""
    buffer = io.BytesIO()
    whole = rng.random() < 0.3
    with zipfile.ZipFile(buffer, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.comment = rng.choice([b"", b"x" * 60_000] if whole else [b"PK\x05\x06", b"PK\x01\x02"])
        for name, raw in files.items():
            archive.writestr(some_member(rng, name, whole), raw)
    raw = buffer.getvalue() if whole else changed_archive(rng, buffer.getvalue())
    path = folder / rng.choice(["all.zip", "anna.zip", "submitted.zip", "all.7z", "noname"])
    path.write_bytes(raw)
    return Container(path, frozenset(files.values()), sum(map(is_notebook, files)), whole)


MOMENTS = ((2026, 3, 1, 12, 0, 0), (1980, 1, 1, 0, 0, 0), (2107, 12, 31, 23, 59, 58))
MODES = (0o100644, 0o100644, 0o100644, 0, 0o120777, 0o010644, 0o177777)
EXTRAS = (b"", b"", b"UT\5\0\1\xff\xff\xff\xff", b"UT\1\0\0", b"UT\5\0\1", b"\1\0\x08\0" + b"\xff" * 8)


def some_member(rng: random.Random, name: str, whole: bool) -> zipfile.ZipInfo:
    """A member with a usual or an odd time, mode and packing. whole: without extra fields that break off."""
    info = zipfile.ZipInfo(name, rng.choice(MOMENTS))
    info.compress_type = rng.choice([zipfile.ZIP_DEFLATED] * 4 + [zipfile.ZIP_STORED, zipfile.ZIP_BZIP2])
    info.external_attr = rng.choice(MODES) << 16
    info.extra = rng.choice(EXTRAS[:4] if whole else EXTRAS)
    return info


def changed_archive(rng: random.Random, raw: bytes) -> bytes:
    """Changed anywhere, in the table of contents only, or around."""
    start = raw.find(b"PK\x01\x02")
    where = rng.randrange(4)
    if where == 0:
        return changed_bytes(rng, raw, (raw,))
    if where == 1:
        return raw[:start] + flip(rng, raw[start:], b"")
    if where == 2:
        field = start + rng.choice([8, 10, 12, 16, 20, 24, 28, 30, 32, 34, 38, 42])
        value = rng.choice([b"\0" * 4, b"\xff" * 4, rng.randbytes(4)])
        return raw[:field] + value + raw[field + 4 :]
    return rng.choice([rng.randbytes(40) + raw, raw + rng.randbytes(40), raw + raw])


def is_notebook(name: str) -> bool:
    """Whether a file must be mentioned by its own name: a notebook, not hidden, not too deep."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return name.lower().endswith(".ipynb") and not hidden and len(parts) <= 12


def judge_container(made: Container) -> Iterator[str]:
    """How each file of a folder or an archive came out. Raises Violation."""
    notebooks = 0
    for item in read_submissions(made.path, CHAPTERS):
        if isinstance(item, Submission):
            notebooks += 1
            require(item.raw in made.contents, f"{item.name} was not read as it was written")
            require(bool(item.learner) and item.learner.isprintable(), f"the learner {item.learner!r}")
            require(item.received is None or item.received.tzinfo is not None, "a time without a zone")
            pristine = next(base.pristine for base in bases() if base.chapter == item.chapter)
            extract_answers(item.raw, pristine)
            yield "in a container: read"
        else:
            notebooks += item.name.lower().endswith(".ipynb")
            require_sentence(item.reason)
            require(item.name.isprintable(), f"a name that cannot be shown: {item.name!r}")
            yield "in a container: refused: " + re.sub(r"[\d,]*\d", "#", item.reason)
    require(
        not made.whole or notebooks >= made.notebooks, f"{notebooks} of {made.notebooks} notebooks mentioned"
    )


# --- Running -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Failure:
    """An item of which something did not hold. what: in words, or a traceback."""

    index: int
    what: str


@dataclass
class Report:
    """How many items came out how. slowest: seconds of one; memory: megabytes that the process grew by."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    items: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    memory: float = 0.0


def fuzz(
    indices: range, seed: int, grade: Grade | None = None, grade_every: int = 0, save: Path | None = None
) -> Report:
    """Make and judge the items with these numbers. save: a folder for those that fail."""
    report = Report()
    started, before = time.perf_counter(), megabytes()
    for index in indices:
        chosen = grade if grade_every and index % grade_every == 0 else None
        one(index, seed, chosen, report, save)
        if report.items % 1_000 == 0:
            print(f"{report.items:,} items, {len(report.failures)} failures", file=sys.stderr, flush=True)
    report.seconds, report.memory = time.perf_counter() - started, megabytes() - before
    return report


def one(index: int, seed: int, grade: Grade | None, report: Report, save: Path | None) -> None:
    """Make and judge one item, and count it."""
    rng = random.Random(f"{seed}:{index}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        judge = made(rng, folder, grade)
        memory, started = megabytes(), time.process_time()
        try:
            report.outcomes.update(judge())
            # Of this process alone: where an item is graded, the sandbox has limits of its own.
            seconds, more = time.process_time() - started, megabytes() - memory
            require(seconds < SECONDS, f"took {seconds:.1f} s")
            require(more < MEGABYTES, f"took {more:.0f} MB")
            report.slowest = max(report.slowest, seconds)
        except Exception as error:
            what = str(error) if isinstance(error, Violation) else traceback.format_exc()
            report.failures.append(Failure(index, what))
            if save:
                shutil.copytree(folder, save / f"{seed}-{index}", dirs_exist_ok=True)
                (save / f"{seed}-{index}.txt").write_text(what + "\n", encoding="utf-8")
    report.items += 1


def made(rng: random.Random, folder: Path, grade: Grade | None) -> Callable[[], list[str]]:
    """Make an item in a folder; what judges it. One in seven is a container, which is not graded."""
    if rng.randrange(7) == 0:
        container = make_container(rng, folder)
        return lambda: list(judge_container(container))
    base = rng.choice(bases())
    raw, applied = changed_notebook(rng, base)
    (folder / f"{base.chapter}.ipynb").write_bytes(raw)
    return lambda: [judge_notebook(raw, base, applied, grade)]


def changed_notebook(rng: random.Random, base: Base) -> tuple[bytes, set[str] | None]:
    """A notebook after changes of structure, bytes or both; the names of the former where they are all."""
    raw, applied = json.dumps(base.document, indent=1).encode(), set[str]()
    kind = rng.randrange(5)
    if kind > 0:
        raw, applied = changed_document(rng, base)
    if kind > 1:
        return raw, applied
    others = tuple(json.dumps(other.document).encode() for other in bases())
    return changed_bytes(rng, raw, others), None


def megabytes() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


@contextlib.contextmanager
def sandboxed() -> Iterator[Grade]:
    """A function that grades answers as `course grade` does, with a bundle made for it."""
    from course_lib.grading.bundle import make_bundle
    from course_lib.grading.grader import Grader

    with tempfile.TemporaryDirectory() as name:
        bundle = make_bundle(ROOT, CHAPTERS, Path(name) / "bundle")
        with Grader(bundle) as grader:

            def grade(chapter: str, answers: Mapping[str, str]) -> dict[str, tuple[float | None, float]]:
                marks = grader.grade(chapter, answers, seed=1)
                return {mark.grade_id: (mark.earned, mark.points) for mark in marks}

            yield grade


def main() -> int:
    """Run the fuzzer and print what came out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--start", type=int, default=0, help="number of the first item, to make one again")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--grade-every", type=int, default=0, help="grade each notebook whose number it divides"
    )
    parser.add_argument("--save-failures", type=Path, metavar="DIR")
    given = parser.parse_args()
    indices = range(given.start, given.start + given.count)
    with contextlib.ExitStack() as stack:
        grade = stack.enter_context(sandboxed()) if given.grade_every else None
        report = fuzz(indices, given.seed, grade, given.grade_every, given.save_failures)
    for outcome, count in report.outcomes.most_common():
        print(f"{count:8,}  {outcome}")
    for failure in report.failures:
        print(f"\nitem {failure.index}: {failure.what}")
    print(
        f"\n{report.items:,} items in {report.seconds:.0f} s ({report.items / report.seconds:.0f} a second), "
        f"{len(report.failures)} failures; the slowest took {report.slowest:.2f} s of processor time, memory "
        f"grew by {report.memory:.0f} MB"
    )
    return int(bool(report.failures))


if __name__ == "__main__":
    sys.exit(main())
