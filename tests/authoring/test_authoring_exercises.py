"""From a solved notebook to the learner's: markers, nbgrader's metadata, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

from course_lib.authoring.exercises import (
    Entry,
    exercise_cells,
    find_exercises,
    is_answer,
    solution_cells,
    with_hidden_tests,
    with_starter,
    without_hidden_tests,
)
from course_lib.authoring.project import SourceError

ANSWER = '''def double(x):
    """Twice x."""
    ### BEGIN SOLUTION
    return 2 * x
    ### END SOLUTION'''
CHECK = 'check("one/double", double)'


def cells(*sources: str) -> list[NotebookNode]:
    return [new_code_cell(source) for source in sources]


def solved(*sources: str) -> list[NotebookNode]:
    given = cells(*sources)
    return solution_cells(given, find_exercises(given, "solutions/01_one.md"), lambda _: Entry(4, 10, 2))


def assert_schema_3(metadata: dict[str, Any]) -> None:
    """nbgrader's JSON schema, version 3, written out."""
    types = {
        "schema_version": int,
        "grade": bool,
        "locked": bool,
        "solution": bool,
        "task": bool,
        "grade_id": str,
        "points": int,
    }
    assert set(metadata) <= set(types)
    assert {"schema_version", "grade", "locked", "solution"} <= set(metadata)
    for name, value in metadata.items():
        assert type(value) is types[name], name
    assert metadata["schema_version"] == 3
    assert re.fullmatch(r"[a-zA-Z0-9_\-]+", metadata["grade_id"])
    assert ("points" in metadata) == metadata["grade"]
    assert metadata.get("points", 0) >= 0


def test_the_starter_keeps_what_stands_around_the_region_and_its_indentation():
    region = "        ### BEGIN SOLUTION\n        y\n\n        ### END SOLUTION\n"
    text = f"class A:\n    def f(self):\n        x = 1\n{region}\nz = 2"
    assert with_starter(text) == (
        "class A:\n    def f(self):\n        x = 1\n        raise NotImplementedError\n\nz = 2"
    )


def test_every_region_of_a_cell_is_replaced():
    text = ANSWER + "\n\n\n" + ANSWER.replace("double", "twice")
    assert with_starter(text).count("raise NotImplementedError") == 2
    assert "2 * x" not in with_starter(text)


def test_a_starter_fails_and_a_solution_works():
    namespace: dict[str, Any] = {}
    exec(ANSWER, namespace)
    assert namespace["double"](3) == 6
    exec(with_starter(ANSWER), namespace)
    with pytest.raises(NotImplementedError):
        namespace["double"](3)


def test_hidden_tests_are_appended_and_taken_away_again():
    hidden = with_hidden_tests(CHECK)
    assert hidden.split("\n") == [
        CHECK,
        "### BEGIN HIDDEN TESTS",
        'check("one/double", double, hidden=True)',
        "### END HIDDEN TESTS",
    ]
    assert without_hidden_tests(hidden) == CHECK


def test_both_notebooks_carry_nbgraders_schema_3():
    notebook = solved("import math", ANSWER, CHECK)
    for released in (notebook, exercise_cells(notebook)):
        found = [cell.metadata["nbgrader"] for cell in released if "nbgrader" in cell.metadata]
        assert len(found) == 2
        for metadata in found:
            assert_schema_3(metadata)
    assert notebook[1].metadata["nbgrader"] == {
        "schema_version": 3, "grade": False, "locked": False, "solution": True, "task": False,
        "grade_id": "one-double",
    }  # fmt: skip
    assert notebook[2].metadata["nbgrader"] == {
        "schema_version": 3, "grade": True, "locked": True, "solution": False, "task": False,
        "grade_id": "one-double-check", "points": 4,
    }  # fmt: skip


def test_released_cells_cannot_be_deleted_nor_the_check_edited():
    answer, check = exercise_cells(solved(ANSWER, CHECK))
    assert answer.metadata["deletable"] is False and "editable" not in answer.metadata
    assert check.metadata["deletable"] is False and check.metadata["editable"] is False
    assert check.source == CHECK
    assert (answer.id, check.id) == ("one-double", "one-double-check")


def test_no_trace_of_the_solution_is_released():
    released = exercise_cells(solved(ANSWER, CHECK))
    text = "\n".join(cell.source for cell in released)
    assert "2 * x" not in text and "###" not in text and "hidden" not in text


def test_a_cell_for_the_solution_only_is_left_out_and_metadata_stay():
    note = new_markdown_cell("Why this works.", metadata={"tags": ["solution-only"]})
    slide = new_markdown_cell("Text", metadata={"slideshow": {"slide_type": "slide"}})
    released = exercise_cells([note, slide])
    assert [cell.source for cell in released] == ["Text"]
    assert released[0].metadata == slide.metadata and released[0].id == slide.id


def test_the_answer_is_the_one_between_two_checks():
    second = ANSWER.replace("double", "triple")
    found = find_exercises(cells(ANSWER, "x = 1", CHECK, second, 'check("one/triple", triple)'), "f")
    assert [(one.id, one.answer, one.check) for one in found] == [("one/double", 0, 2), ("one/triple", 3, 4)]


@pytest.mark.parametrize(
    ("sources", "sentence"),
    [
        ((CHECK,), "one/double has 0 answer cells"),
        ((ANSWER, ANSWER, CHECK), "one/double has 2 answer cells"),
        ((ANSWER,), "answer cell without a check"),
        ((ANSWER, CHECK, ANSWER, CHECK), "one/double is checked twice"),
        ((ANSWER, CHECK, ANSWER, 'check("one/double-check", f)'), "would have the ids of another"),
        ((ANSWER, CHECK + "\nprint(1)"), "exactly one line"),
        ((ANSWER, 'check(\n    "one/double",\n    double,\n)'), "exactly one line"),
        ((ANSWER, 'check("double", double)'), "exactly one line"),
        ((ANSWER, 'check("one/double", double, hidden=True)'), "exactly one line"),
        ((ANSWER, 'check("one/double", double)  # now'), "exactly one line"),
        (("### BEGIN SOLUTION\nx = 1",), "never closed"),
        (("### END SOLUTION\nx = 1",), "without its partner"),
        (("### BEGIN SOLUTION\n### BEGIN SOLUTION\n### END SOLUTION",), "without its partner"),
    ],
)
def test_what_cannot_be_an_exercise_is_refused_by_name(sources: tuple[str, ...], sentence: str):
    with pytest.raises(SourceError, match=re.escape("solutions/01_one.md")) as error:
        find_exercises(cells(*sources), "solutions/01_one.md")
    assert sentence in str(error.value)


def test_a_function_that_calls_check_is_no_check_cell():
    assert find_exercises(cells("def f():\n    check('a', 1)\nrecheck(2)"), "f") == []


def test_text_that_mentions_the_markers_is_no_answer():
    assert not is_answer(new_markdown_cell("### BEGIN SOLUTION\n### END SOLUTION"), "f")
    assert not is_answer(new_code_cell("print('### BEGIN SOLUTION')"), "f")


def test_an_exercise_without_an_entry_is_a_problem_that_names_the_file(course, cell: Callable[..., str]):
    course.solution("01_one", cell(ANSWER), cell('check("nowhere/nothing", double)'))
    from course_lib.authoring.exercises import registered_entry

    report = course.build(entries=registered_entry)
    assert len(report.problems) == 1
    assert "solutions/01_one.md" in report.problems[0] and "nowhere/nothing" in report.problems[0]
    assert course.bytes() == {}
