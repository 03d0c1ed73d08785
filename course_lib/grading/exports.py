"""The gradebook's rows for other programs: CSV for people, `results.json` for Gradescope, JUnit XML.

Partial credit is by exercise. What nobody has decided is no score: an empty field with a note in CSV, a
test without a score in Gradescope, an error and not a failure in JUnit. Points for speed are part of what
could be had only where speed was measured; a note says where it was not. Nothing here says more of a
hidden case than the learner's own feedback does.
"""

from __future__ import annotations

import csv
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from typing import Any

from .book import Entry, Row

# Gradescope's words for how a test went; "failed" stands for everything that earned nothing.
_GRADESCOPE_STATUS = {"passed": "passed", "failed": "failed", "timeout": "failed", "not started": "failed"}
# A spreadsheet would take these for the beginning of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_csv(rows: Sequence[Row]) -> str:
    """A line for each row, a column for each exercise, then the sum, what could be had, and notes.

    An exercise that nobody has decided is empty, and so is the sum then; the note says which.
    """
    exercises = list(dict.fromkeys(entry.mark.exercise for row in rows for entry in row.entries))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        ["learner", "assignment", "received", "late", *map(csv_cell, exercises), "earned", "points", "note"]
    )
    for row in rows:
        earned = {entry.mark.exercise: _number(entry.earned) for entry in row.entries}
        head = [csv_cell(row.learner), csv_cell(row.assignment), row.received, "yes" if row.late else "no"]
        scores = [earned.get(exercise, "") for exercise in exercises]
        writer.writerow([*head, *scores, _number(row.earned), str(row.points), csv_cell(note_of(row))])
    return buffer.getvalue()


def to_gradescope(row: Row) -> dict[str, Any]:
    """One submission as Gradescope's `results.json`.

    No score stands at the top, so Gradescope adds up the tests; a test without a score is shown and
    not counted.
    """
    result: dict[str, Any] = {"visibility": "visible", "tests": [_gradescope_test(e) for e in row.entries]}
    note = note_of(row)
    if note:
        result["output"] = note
    return result


def gradescope_text(row: Row) -> str:
    """`to_gradescope` as the text of a file."""
    return json.dumps(to_gradescope(row), indent=2, ensure_ascii=False) + "\n"


def to_junit(rows: Sequence[Row]) -> str:
    """JUnit XML: a suite for each submission, a test case for each exercise."""
    root = ElementTree.Element("testsuites")
    totals = {"tests": 0, "failures": 0, "errors": 0}
    for row in rows:
        suite = ElementTree.SubElement(root, "testsuite", name=_xml(f"{row.assignment}: {row.learner}"))
        counts = _suite(suite, row)
        for name, count in counts.items():
            suite.set(name, str(count))
            totals[name] += count
    for name, count in totals.items():
        root.set(name, str(count))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def note_of(row: Row) -> str:
    """What a person should know of a row, in sentences: problems, what is undecided, what staff decided."""
    marks = [entry.mark for entry in row.entries]
    undecided = [entry.mark.exercise for entry in row.entries if entry.earned is None]
    notes = [row.problem] if row.problem else []
    if not row.entries:
        notes.append("Nothing of this submission has been graded yet.")
    if undecided:
        notes.append(f"Not graded yet, and not zero: {', '.join(undecided)}.")
    unmeasured = [mark.exercise for mark in marks if mark.timing and not mark.timing.measured]
    if unmeasured:
        notes.append(f"Speed was not measured, and its points do not count: {', '.join(unmeasured)}.")
    for entry in row.entries:
        if entry.override:
            machine = _number(entry.mark.earned) or "no mark"
            notes.append(
                f"{entry.mark.exercise}: {_number(entry.override.points)} points by staff "
                f"(the machine's mark: {machine}): {entry.override.reason}"
            )
    return " ".join(notes)


def explanation(entry: Entry) -> str:
    """The sentences that the learner gets for one exercise, a staff decision first."""
    lines = entry.mark.sentences()
    if entry.override:
        lines = [f"Decided by staff: {entry.override.reason}", *lines]
    return "\n".join(lines)


def status_of(entry: Entry) -> str:
    """ "passed", "failed" or "ungraded": what the points that count amount to."""
    if entry.earned is None:
        return "ungraded"
    if entry.override:
        return "passed" if entry.earned >= entry.mark.points else "failed"
    return _GRADESCOPE_STATUS[entry.mark.status]


def _gradescope_test(entry: Entry) -> dict[str, Any]:
    test: dict[str, Any] = {
        "name": f"{entry.mark.title} ({entry.mark.exercise})",
        "output": explanation(entry),
        "output_format": "text",
        "visibility": "visible",
    }
    if entry.earned is None:
        return test
    scores = {"score": entry.earned, "max_score": entry.mark.points}
    return test | scores | {"status": status_of(entry)}


def _suite(suite: ElementTree.Element, row: Row) -> Mapping[str, int]:
    counts = {"tests": len(row.entries), "failures": 0, "errors": 0}
    for entry in row.entries:
        case = ElementTree.SubElement(
            suite, "testcase", name=_xml(entry.mark.exercise), classname=_xml(row.assignment)
        )
        properties = ElementTree.SubElement(case, "properties")
        ElementTree.SubElement(properties, "property", name="points", value=str(entry.mark.points))
        ElementTree.SubElement(properties, "property", name="earned", value=_number(entry.earned))
        if entry.mark.timing:
            ElementTree.SubElement(properties, "property", name="speed", value=entry.mark.timing.status)
        status = status_of(entry)
        if status == "passed":
            continue
        kind, plural = ("error", "errors") if status == "ungraded" else ("failure", "failures")
        counts[plural] += 1
        told = ElementTree.SubElement(case, kind, message=_xml(explanation(entry).split("\n")[0]))
        told.text = _xml(explanation(entry))
    return counts


def _number(points: float | None) -> str:
    """Points without a needless fraction; empty where there are none."""
    return "" if points is None else f"{points:g}"


def csv_cell(text: str) -> str:
    """Text that no spreadsheet runs: a quote before what would be a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _xml(text: str) -> str:
    """Text without the characters that XML cannot hold."""
    return _NOT_XML.sub("\ufffd", text)
