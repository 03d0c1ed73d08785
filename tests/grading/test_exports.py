"""The gradebook's exports, read back by a CSV reader, a JSON reader and an XML reader."""

from __future__ import annotations

import csv
import io
import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from typing import Any

import pytest

from course_lib.checks.compare import Finding
from course_lib.grading.book import Entry, Override, Row
from course_lib.grading.decide import Mark
from course_lib.grading.exports import gradescope_text, note_of, status_of, to_csv, to_gradescope, to_junit

SECRET = "SECRET-91"
PASSED = Entry(Mark("attention/sdpa", "Attention", 3, 3, "passed", cases=2))
FAILED = Entry(
    Mark(
        "attention/cross",
        "Cross",
        2,
        0,
        "failed",
        cases=4,
        failed=2,
        findings=(Finding("two rows", "shape", "On two rows, the shape is wrong."),),
        misconception="the sign is wrong",
        advice="Look at the sign.",
        private=(SECRET,),
    )
)
TIMEOUT = Entry(replace(FAILED.mark, exercise="attention/slow", status="timeout"))
UNSTARTED = Entry(Mark("attention/empty", "Empty", 1, 0, "not started", cases=1, failed=1))
UNGRADED = Entry(Mark("attention/mask", "Mask", 1, None, "ungraded", private=(SECRET,)))
BY_STAFF = Override(1.5, "the idea is right", "T. A.", "2026-03-02T00:00:00.000000Z")


def row(*entries: Entry, learner: str = "ada", **changes: Any) -> Row:
    made = Row(
        id=1,
        learner=learner,
        assignment="06_attention",
        name="06_attention.ipynb",
        received="2026-03-01T12:00:00.000000Z",
        late=False,
        sha256="0",
        key="k",
        problem="",
        counts=True,
        entries=entries,
    )
    return replace(made, **changes)


def read_csv(*rows: Row) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(rows))))


def test_csv_has_a_column_for_each_exercise_the_sum_and_what_could_be_had() -> None:
    first, second = read_csv(row(PASSED, FAILED), row(FAILED, UNSTARTED, learner="bob", late=True))
    assert list(first) == [
        *("learner", "assignment", "received", "late"),
        *("attention/sdpa", "attention/cross", "attention/empty"),
        *("earned", "points", "note"),
    ]
    assert (first["attention/sdpa"], first["attention/cross"], first["earned"]) == ("3", "0", "3")
    assert (first["points"], first["late"], first["note"]) == ("5", "no", "")
    assert (second["attention/sdpa"], second["attention/empty"], second["late"]) == ("", "0", "yes")
    assert second["received"] == "2026-03-01T12:00:00.000000Z"


def test_what_is_ungraded_is_empty_in_csv_never_zero_and_noted() -> None:
    (line,) = read_csv(row(PASSED, UNGRADED))
    assert (line["attention/mask"], line["earned"]) == ("", "")
    assert line["note"] == "Not graded yet, and not zero: attention/mask."
    (line,) = read_csv(row(problem="The file was cut short."))
    assert line["earned"] == ""
    assert line["note"] == "The file was cut short. Nothing of this submission has been graded yet."


def test_an_override_counts_in_every_export_and_names_the_machines_mark() -> None:
    overridden = row(PASSED, replace(FAILED, override=BY_STAFF), replace(UNGRADED, override=BY_STAFF))
    (line,) = read_csv(overridden)
    assert (line["attention/cross"], line["attention/mask"], line["earned"]) == ("1.5", "1.5", "6")
    assert "attention/cross: 1.5 points by staff (the machine's mark: 0): the idea is right" in line["note"]
    assert "(the machine's mark: no mark)" in line["note"]
    tests = to_gradescope(overridden)["tests"]
    assert [test["score"] for test in tests] == [3, 1.5, 1.5]
    assert tests[1]["output"].startswith("Decided by staff: the idea is right")
    assert [status_of(entry) for entry in overridden.entries] == ["passed", "failed", "passed"]
    assert ElementTree.fromstring(to_junit([overridden])).get("failures") == "1"


@pytest.mark.parametrize("learner", ["=cmd()", "+1", "-1", "@x", "\tx", 'Quote " and , comma', "two\nlines"])
def test_no_name_becomes_a_formula_or_another_line(learner: str) -> None:
    (line,) = read_csv(row(PASSED, learner=learner))
    assert line["learner"].lstrip("'") == learner
    assert line["learner"][0] not in "=+-@\t"


def test_gradescope_gets_a_test_for_each_exercise_and_adds_them_up_itself() -> None:
    result = json.loads(gradescope_text(row(PASSED, FAILED, TIMEOUT, UNSTARTED)))
    assert set(result) == {"visibility", "tests"}
    scores = [(test["score"], test["max_score"], test["status"]) for test in result["tests"]]
    assert scores == [(3, 3, "passed"), (0, 2, "failed"), (0, 2, "failed"), (0, 1, "failed")]
    assert result["tests"][1]["output"].split("\n") == [
        "This looks like: the sign is wrong.",
        "Look at the sign.",
        "On two rows, the shape is wrong.",
        "2 of 4 cases failed.",
    ]
    assert all(test["visibility"] == "visible" for test in result["tests"])


def test_gradescope_gets_no_score_for_what_is_ungraded() -> None:
    result = to_gradescope(row(PASSED, UNGRADED))
    assert not {"score", "max_score", "status"} & set(result["tests"][1])
    assert "could not be graded" in result["tests"][1]["output"]
    assert result["output"] == "Not graded yet, and not zero: attention/mask."
    assert "score" not in result


def test_junit_has_failures_for_wrong_answers_and_errors_for_what_is_ungraded() -> None:
    rows = [row(PASSED, FAILED, UNGRADED), row(TIMEOUT, UNSTARTED, learner="bob \x1b\ud800 <&>")]
    root = ElementTree.fromstring(to_junit(rows).encode())
    assert dict(root.attrib) == {"tests": "5", "failures": "3", "errors": "1"}
    suites = root.findall("testsuite")
    assert [suite.get("name") for suite in suites] == ["06_attention: ada", "06_attention: bob �� <&>"]
    assert dict(suites[0].attrib) | {"name": ""} == {"name": "", "tests": "3", "failures": "1", "errors": "1"}
    found = {case.get("name"): [child.tag for child in case] for case in suites[0]}
    assert found == {
        "attention/sdpa": ["properties"],
        "attention/cross": ["properties", "failure"],
        "attention/mask": ["properties", "error"],
    }
    earned = [case.find("properties/property[@name='earned']") for case in suites[0]]
    assert [None if one is None else one.get("value") for one in earned] == ["3", "0", ""]


def test_what_only_staff_may_read_is_in_no_export() -> None:
    every = row(PASSED, FAILED, TIMEOUT, UNSTARTED, UNGRADED)
    assert SECRET not in to_csv([every]) + gradescope_text(every) + to_junit([every]) + note_of(every)


def test_no_rows_make_files_that_can_be_read() -> None:
    assert read_csv() == []
    assert ElementTree.fromstring(to_junit([])).get("tests") == "0"
