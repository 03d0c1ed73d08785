"""The three-way merge: single cases by hand, then random edits on both sides.

The oracle for the random ones is a law, not a second implementation: whatever a learner typed is in the
result, whatever the learner left alone is the course's, and merging again changes nothing.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbformat import v4

from course_lib.merge import (
    MergeError,
    NotANotebook,
    _check_nothing_lost,
    grading_of,
    merge,
    read_notebook,
    source_of,
    write_notebook,
)

Cell = dict[str, Any]
Book = dict[str, Any]


def text(identity: str, source: str) -> Cell:
    return dict(v4.new_markdown_cell(source, id=identity))


def code(identity: str, source: str, result: str | None = None) -> Cell:
    outputs = [v4.new_output("stream", text=result)] if result else []
    return dict(v4.new_code_cell(source, id=identity, outputs=outputs))


def graded(identity: str, source: str, solution: bool) -> Cell:
    cell = code(identity, source)
    marks = {"schema_version": 3, "grade": not solution, "locked": not solution, "solution": solution}
    cell["metadata"] = {"nbgrader": {**marks, "grade_id": identity + "-grade"}}
    return cell


def answer(identity: str, source: str = "raise NotImplementedError") -> Cell:
    return graded(identity, source, solution=True)


def check(identity: str, source: str = "check()") -> Cell:
    return graded(identity, source, solution=False)


def book(*cells: Cell) -> Book:
    plain: Book = json.loads(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return plain


def sources(notebook: Book) -> list[str]:
    return [source_of(cell) for cell in notebook["cells"]]


def ids(notebook: Book) -> list[str]:
    return [cell["id"] for cell in notebook["cells"]]


BASE = book(text("intro", "Hello"), answer("a1"), check("c1"), code("plot", "draw()", "old picture"))


def edited(notebook: Book, **changes: str) -> Book:
    """A copy with the sources of the named cells replaced."""
    changed = copy.deepcopy(notebook)
    for cell in changed["cells"]:
        cell["source"] = changes.get(cell["id"], cell["source"])
    return changed


def test_nothing_changed_gives_the_same_notebook() -> None:
    merged = merge(BASE, BASE, BASE)
    assert merged.notebook == BASE
    assert not (merged.added or merged.replaced or merged.kept or merged.dropped or merged.problems)


def test_an_answer_is_kept_and_an_untouched_cell_replaced() -> None:
    new = edited(BASE, intro="Hello again", a1="raise NotImplementedError  # new starter")
    merged = merge(BASE, new, edited(BASE, a1="return 42"))
    assert sources(merged.notebook) == ["Hello again", "return 42", "check()", "draw()"]
    assert (merged.kept, merged.replaced) == (["a1"], ["intro"])


def test_an_untouched_answer_cell_gets_the_new_starter() -> None:
    merged = merge(BASE, edited(BASE, a1="new starter"), BASE)
    assert sources(merged.notebook)[1] == "new starter" and merged.replaced == ["a1"]


def test_a_cell_changed_on_both_sides_stays_the_learners() -> None:
    merged = merge(BASE, edited(BASE, plot="draw(theirs)"), edited(BASE, plot="draw(mine)"))
    assert sources(merged.notebook)[3] == "draw(mine)" and merged.kept == ["plot"]


def test_new_cells_come_in_at_their_place_and_the_order_is_the_new_one() -> None:
    new = book(
        code("plot", "draw()"), text("intro", "Hello"), text("fresh", "New"), answer("a1"), check("c1")
    )
    merged = merge(BASE, new, edited(BASE, a1="return 42"))
    assert ids(merged.notebook) == ["plot", "intro", "fresh", "a1", "c1"]
    assert merged.added == ["fresh"]


def test_own_cells_stay_after_their_predecessor() -> None:
    mine = book(
        code("zero", "first"), BASE["cells"][0], code("x", "mine x"), code("y", "mine y"), *BASE["cells"][1:]
    )
    new = book(BASE["cells"][3], *BASE["cells"][:3])
    merged = merge(BASE, new, mine)
    assert ids(merged.notebook) == ["zero", "plot", "intro", "x", "y", "a1", "c1"]
    assert merged.kept == ["zero", "x", "y"]


def test_cells_that_the_course_removed_go_unless_the_learner_changed_them() -> None:
    new = book(*BASE["cells"][1:3])
    merged = merge(BASE, new, edited(BASE, plot="draw(mine)"))
    assert ids(merged.notebook) == ["a1", "c1", "plot"]
    assert (merged.dropped, merged.kept) == (["intro"], ["plot"])


def test_an_answer_whose_exercise_was_removed_is_kept() -> None:
    merged = merge(BASE, book(BASE["cells"][0]), edited(BASE, a1="return 42"))
    assert "return 42" in sources(merged.notebook)


def test_a_lesson_cell_that_the_learner_deleted_stays_deleted() -> None:
    mine = book(*BASE["cells"][1:])
    assert ids(merge(BASE, edited(BASE, intro="Better"), mine).notebook) == ["a1", "c1", "plot"]


@pytest.mark.parametrize(("gone", "kind"), [("a1", "answer"), ("c1", "check")])
def test_a_missing_answer_or_check_cell_is_put_back_and_said(gone: str, kind: str) -> None:
    mine = book(*[cell for cell in BASE["cells"] if cell["id"] != gone])
    merged = merge(BASE, BASE, mine)
    assert ids(merged.notebook) == ids(BASE)
    (told,) = merged.problems
    assert f"The {kind} cell {gone}-grade was missing" in told


def test_a_rewritten_check_cell_is_put_back_and_the_learners_version_kept_as_an_own_cell() -> None:
    merged = merge(BASE, BASE, edited(BASE, c1="check(); print('mine')"))
    assert sources(merged.notebook) == [
        "Hello",
        "raise NotImplementedError",
        "check(); print('mine')",
        "check()",
        "draw()",
    ]
    assert not grading_of(merged.notebook["cells"][2]) and "rewritten" in merged.problems[0]


@pytest.mark.parametrize("worked_on", [0, 1])
def test_of_two_cells_with_one_id_the_worked_on_keeps_it_and_both_stay(worked_on: int) -> None:
    pair = [answer("a1"), answer("a1")]
    pair[worked_on]["source"] = "return 42"
    merged = merge(BASE, BASE, book(BASE["cells"][0], *pair, *BASE["cells"][2:]))
    (kept,) = [cell for cell in merged.notebook["cells"] if grading_of(cell).get("solution")]
    assert (kept["id"], source_of(kept)) == ("a1", "return 42")
    assert len(merged.notebook["cells"]) == 5 and len(set(ids(merged.notebook))) == 5
    assert merged.problems[0].startswith("The cell a1-grade stands 2 times")


def test_an_answer_cell_pasted_under_a_new_id_is_a_copy_and_does_not_count_twice() -> None:
    pasted = {**answer("a1"), "id": "pasted", "source": "return 43"}
    mine = edited(BASE, a1="return 42")
    mine["cells"].insert(2, pasted)
    merged = merge(BASE, BASE, mine)
    (kept,) = [cell for cell in merged.notebook["cells"] if grading_of(cell).get("solution")]
    assert source_of(kept) == "return 42" and "return 43" in sources(merged.notebook)
    assert "stands 2 times" in merged.problems[0]


def test_an_answer_cell_that_lost_its_id_is_found_by_its_grade_id() -> None:
    mine = edited(BASE, a1="return 42")
    mine["cells"][1]["id"] = "renamed"
    merged = merge(BASE, edited(BASE, intro="Better"), mine)
    assert ids(merged.notebook) == ids(BASE) and sources(merged.notebook)[1] == "return 42"
    assert merged.problems == ["The cell a1-grade had another id; it has its own again."]


def test_a_notebook_that_lost_all_its_ids_is_not_doubled() -> None:
    mine = edited(BASE, a1="return 42")
    mine["nbformat_minor"] = 4
    for cell in mine["cells"]:
        del cell["id"]
    merged = merge(BASE, edited(BASE, plot="draw(better)"), mine)
    assert ids(merged.notebook) == ids(BASE) and merged.notebook["nbformat_minor"] == 5
    assert sources(merged.notebook) == ["Hello", "return 42", "check()", "draw(better)"]


def test_an_answer_cell_turned_into_markdown_is_code_again() -> None:
    mine = edited(BASE, a1="return 42")
    mine["cells"][1] = {**text("a1", "return 42"), "metadata": mine["cells"][1]["metadata"]}
    merged = merge(BASE, BASE, mine)
    assert merged.notebook["cells"][1]["cell_type"] == "code" and sources(merged.notebook)[1] == "return 42"
    assert "had become markdown" in merged.problems[0]
    nbformat.validate(nbformat.from_dict(merged.notebook))


def test_outputs_of_unchanged_cells_and_of_answers_stay_the_learners() -> None:
    mine = edited(BASE, a1="return 42")
    mine["cells"][1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "passed"}]
    mine["cells"][3]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "my picture"}]
    cells = merge(BASE, edited(BASE, intro="Better"), mine).notebook["cells"]
    assert cells[1]["outputs"][0]["text"] == "passed" and cells[3]["outputs"][0]["text"] == "my picture"


def test_grading_metadata_is_always_the_courses_and_other_metadata_merges() -> None:
    mine, new = copy.deepcopy(BASE), copy.deepcopy(BASE)
    mine["cells"][1]["metadata"]["nbgrader"]["grade_id"] = "stolen"
    mine["cells"][1]["metadata"]["collapsed"] = True
    new["cells"][1]["metadata"]["tags"] = ["new"]
    mine["metadata"]["kernelspec"] = {"name": "my-kernel"}
    merged = merge(BASE, new, mine).notebook
    expected = {"collapsed": True, "tags": ["new"], "nbgrader": BASE["cells"][1]["metadata"]["nbgrader"]}
    assert merged["cells"][1]["metadata"] == expected
    assert merged["metadata"]["kernelspec"] == {"name": "my-kernel"}


def test_without_a_base_everything_that_differs_is_the_learners() -> None:
    merged = merge(None, edited(BASE, intro="Better"), edited(BASE, a1="return 42"))
    assert sources(merged.notebook) == ["Hello", "return 42", "check()", "draw()"]


def test_a_result_that_lacks_something_the_learner_wrote_is_refused() -> None:
    mine = edited(BASE, a1="return 42")
    with pytest.raises(MergeError, match="return 42"):
        _check_nothing_lost({}, {}, mine, BASE)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "ends in the middle"),
        (write_notebook(BASE)[:-90], "ends in the middle"),
        (b'{"cells": [', "ends in the middle"),
        (b'{"cells" 3}', "line 1 is not JSON"),
        (b"\0" * 4096, "NUL bytes"),
        (b'{"cells": "\xff"}', "byte 11 is not UTF-8"),
        (b"[]", "no list of cells"),
        (b'{"nbformat": 3, "worksheets": []}', "no list of cells"),
        (b'{"nbformat": 3, "cells": []}', "format 3"),
        (b'{"nbformat": 4, "cells": [3]}', "cell 1 is not a cell"),
        (b'{"nbformat": 4, "cells": [{"cell_type": "code", "source": 3}]}', "cell 1 has no text"),
        (b'{"nbformat": 4, "cells": ' + b"[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_not_a_notebook_is_refused_with_a_reason(content: bytes, told: str) -> None:
    with pytest.raises(NotANotebook, match=told):
        read_notebook(content)


def test_written_notebooks_are_what_nbformat_writes_and_any_text_survives() -> None:
    odd = book(code("a", "x = '苹果'\n\ty = 1\r\n"), text("b", "\u2028 line \x0c feed"))
    assert write_notebook(odd).decode() == nbformat.writes(nbformat.from_dict(odd)) + "\n"
    lone = book(code("a", "half = '\ud800'"))
    assert sources(read_notebook(write_notebook(lone))) == ["half = '\ud800'"]


# --- random edits -----------------------------------------------------------------------------------------

EDITS = (
    "type",
    "delete",
    "insert",
    "move",
    "duplicate",
    "paste",
    "lose id",
    "rename",
    "lose metadata",
    "retype",
)


def original(size: int) -> Book:
    makers = [text, answer, check, code]
    return book(*[makers[i % 4](f"cell{i}", f"source {i}") for i in range(size)])


@st.composite
def edit_lists(draw: st.DrawFn, kinds: tuple[str, ...], most: int) -> list[tuple[str, int, int]]:
    positions = st.integers(0, 40)
    return draw(st.lists(st.tuples(st.sampled_from(kinds), positions, positions), max_size=most))


def apply(notebook: Book, edits: list[tuple[str, int, int]], author: str) -> Book:
    """Do to a notebook what people do to notebooks; what is typed carries its author's name."""
    notebook = copy.deepcopy(notebook)
    cells = notebook["cells"]
    for number, (kind, position, other) in enumerate(edits):
        if not cells:
            break
        position, other = position % len(cells), other % len(cells)
        cell = cells[position]
        if kind == "type":
            cell["source"] = f"{author} typed {number}"
        elif kind == "delete":
            del cells[position]
        elif kind == "insert":
            cells.insert(position, code(f"{author}{number}", f"{author} inserted {number}"))
        elif kind == "move":
            cells.insert(other, cells.pop(position))
        elif kind == "duplicate":
            cells.insert(other, copy.deepcopy(cell))
        elif kind == "paste":
            cells.insert(other, {**copy.deepcopy(cell), "id": f"pasted{number}"})
        elif kind == "lose id":
            cell.pop("id", None)
        elif kind == "rename":
            cell["id"] = f"renamed{number}"
        elif kind == "lose metadata":
            cell["metadata"] = {}
        elif kind == "retype":
            cells[position] = {**cell, "cell_type": "markdown" if cell["cell_type"] == "code" else "code"}
    return notebook


@settings(max_examples=400, deadline=None)
@given(
    size=st.integers(1, 9),
    learner=edit_lists(EDITS, 12),
    course=edit_lists(("type", "delete", "insert", "move"), 8),
    base_known=st.booleans(),
)
def test_no_edit_on_either_side_loses_what_the_learner_wrote(
    size: int, learner: list[tuple[str, int, int]], course: list[tuple[str, int, int]], base_known: bool
) -> None:
    base = original(size)
    mine, theirs = apply(base, learner, "learner"), apply(base, course, "course")
    before = copy.deepcopy((base, theirs, mine))
    merged = merge(base if base_known else None, theirs, mine)
    result = merged.notebook
    assert (base, theirs, mine) == before

    for source in set(sources(mine)):
        if source.startswith("learner"):
            assert sources(result).count(source) >= sources(mine).count(source)
    assert len(set(ids(result))) == len(result["cells"])
    in_theirs = [identity for identity in ids(result) if identity in ids(theirs)]
    assert in_theirs == [identity for identity in ids(theirs) if identity in in_theirs]
    grades = [grading_of(cell).get("grade_id") for cell in result["cells"] if grading_of(cell)]
    assert len(grades) == len(set(grades))
    needed = {grading_of(cell)["grade_id"] for cell in theirs["cells"] if grading_of(cell)}
    assert needed <= set(grades)

    again = merge(theirs, theirs, result)
    assert write_notebook(again.notebook) == write_notebook(result) and not again.problems


@settings(max_examples=100, deadline=None)
@given(size=st.integers(1, 9), course=edit_lists(("type", "delete", "insert", "move"), 8))
def test_a_learner_who_changed_nothing_gets_exactly_the_new_version(
    size: int, course: list[tuple[str, int, int]]
) -> None:
    base = original(size)
    theirs = apply(base, course, "course")
    assert merge(base, theirs, base).notebook["cells"] == theirs["cells"]
