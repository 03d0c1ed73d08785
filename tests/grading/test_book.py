"""The gradebook under kills, several writers, damage and repetition."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from course_lib.checks.compare import Finding
from course_lib.grading.book import Book, BookProblem, Paper, content_key
from course_lib.grading.decide import Mark

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ASSIGNMENT, ENVIRONMENT = "06_attention", "environment"
FORK = multiprocessing.get_context("fork")


def mark(exercise: str = "attention/sdpa", earned: int | None = 3, status: str = "passed") -> Mark:
    return Mark(exercise, "A title", 3, earned, status, cases=2)


UNGRADED = mark(earned=None, status="ungraded")
FAILED = replace(
    mark(earned=0, status="failed"), failed=1, findings=(Finding("case", "value", "text"),), private=("all",)
)


def paper(learner: str = "ada", hour: int = 0, **changes: Any) -> Paper:
    made = Paper(learner, ASSIGNMENT, "06_attention.ipynb", NOON + timedelta(hours=hour), sha256=f"{hour}")
    return replace(made, **changes)


def key(source: str) -> str:
    return content_key({"attention-sdpa": source}, ASSIGNMENT, ENVIRONMENT)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "book.sqlite"


@pytest.fixture
def book(path: Path) -> Iterator[Book]:
    with Book.open(path) as opened:
        yield opened


def integrity(path: Path) -> str:
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])
    finally:
        connection.close()


# --- what is kept ----------------------------------------------------------------------------------


def test_a_key_changes_with_an_answer_the_assignment_or_the_environment_and_not_with_their_order() -> None:
    answers = {"a": "x = 1", "b": "y = '\ud800'"}
    same = content_key(dict(reversed(answers.items())), "06", "e")
    assert same == content_key(answers, "06", "e")
    others = {
        content_key(answers | {"a": "x = 2"}, "06", "e"),
        content_key({"a": answers["b"], "b": answers["a"]}, "06", "e"),
        content_key(answers, "07", "e"),
        content_key(answers, "06", "f"),
        content_key(answers, "06e", ""),
    }
    assert len(others) == 5 and same not in others


def test_what_was_recorded_is_there_after_closing(path: Path) -> None:
    with Book.open(path) as book:
        run = book.begin_run(ENVIRONMENT)
        answers, notes = {"attention-sdpa": "x = '\ud800'"}, {"attention-sdpa": "Two cells had its id."}
        late = paper(late=True, problem="A cell was missing.")
        book.record(late, key("x"), [FAILED, mark("attention/cross")], answers=answers, notes=notes, run=run)
        book.end_run(run)
    with Book.open(path) as book:
        (row,) = book.rows()
        assert [entry.mark for entry in row.entries] == [FAILED, mark("attention/cross")]
        assert (row.learner, row.late, row.problem, row.counts) == ("ada", True, "A cell was missing.", True)
        assert (row.answers, row.notes) == (answers, notes)
        assert (row.earned, row.points) == (3, 6)


def test_content_is_known_once_all_its_marks_are_decided(book: Book) -> None:
    assert book.known(key("x")) is None
    book.record(paper(), key("x"), [mark("a/b"), UNGRADED])
    assert book.known(key("x")) is None and book.rows()[0].earned is None
    book.record(paper(), key("x"), [mark("a/b"), FAILED])
    assert book.known(key("x")) == (mark("a/b"), FAILED)
    assert book.known(key("y")) is None


def test_a_decided_mark_never_changes(book: Book) -> None:
    book.record(paper(), key("x"), [FAILED])
    for other in (mark(), UNGRADED):
        book.record(paper(), key("x"), [other])
        assert book.known(key("x")) == (FAILED,)


def test_two_learners_with_the_same_answers_share_the_marks(book: Book) -> None:
    book.record(paper("ada"), key("x"), [mark()], answers={"attention-sdpa": "x"})
    book.record(paper("bob"), key("x"))
    assert [(row.learner, row.earned, row.answers) for row in book.rows()] == [
        ("ada", 3, {"attention-sdpa": "x"}),
        ("bob", 3, {"attention-sdpa": "x"}),
    ]


def test_recording_the_same_paper_again_adds_nothing(book: Book) -> None:
    first = book.record(paper(), key("x"), [mark()])
    assert book.record(paper(), key("x"), [mark()]) == first
    assert len(book.rows(everything=True)) == 1


def test_the_newest_submission_counts_whatever_the_order_of_recording_and_all_are_kept(book: Book) -> None:
    book.record(paper(hour=5, late=True), key("new"), [FAILED])
    book.record(paper(hour=1), key("old"), [mark()])
    book.record(paper(received=None), key("undated"), [mark()])
    assert [(row.key, row.late) for row in book.rows()] == [(key("new"), True)]
    assert [(row.key, row.counts) for row in book.rows(everything=True)] == [
        (key("undated"), False),
        (key("old"), False),
        (key("new"), True),
    ]


def test_of_two_exports_that_tell_no_times_the_one_recorded_later_counts(book: Book) -> None:
    for content in ("first", "second", "third", "first"):
        book.record(paper(received=None, sha256=content), key(content), [mark()])
    assert [row.key for row in book.rows()] == [key("third")]


def test_versions_order_papers_of_one_time_and_zones_are_understood(book: Book) -> None:
    book.record(paper(version=2), key("second"), [mark()])
    book.record(paper(version=1), key("first"), [mark()])
    assert book.rows()[0].key == key("second")
    book.record(paper("eve", name="b.ipynb"), key("b"), [mark()])
    book.record(paper("eve", name="a.ipynb"), key("a"), [mark()])
    assert {row.learner: row.key for row in book.rows()}["eve"] == key("b")
    east = NOON.replace(hour=20, tzinfo=timezone(timedelta(hours=9)))  # 11:00 UTC
    book.record(paper(received=east), key("earlier"), [mark()])
    book.record(paper("bob", received=datetime(2026, 3, 1, 12)), key("x"), [mark()])
    rows = {row.learner: row for row in book.rows()}
    assert rows["ada"].key == key("second") and rows["bob"].received == "2026-03-01T12:00:00.000000Z"


def test_each_assignment_counts_for_itself(book: Book) -> None:
    book.record(paper(), key("x"), [mark()])
    book.record(paper(hour=1, assignment="03_tokenizers"), key("y"), [FAILED])
    assert {row.assignment: row.earned for row in book.rows()} == {ASSIGNMENT: 3, "03_tokenizers": 0}


def test_names_that_are_no_proper_text_and_sql_in_names_are_harmless(book: Book) -> None:
    for name in ("\udcff\udcfe", "'); DROP TABLE marks; --", "", "名前"):
        book.record(paper(name), key("x"), [mark()])
    assert {row.learner for row in book.rows()} == {"??", "'); DROP TABLE marks; --", "", "名前"}


# --- staff -----------------------------------------------------------------------------------------


def test_an_override_counts_stands_beside_the_machines_mark_and_is_never_lost(book: Book) -> None:
    number = book.record(
        paper(), key("x"), [FAILED, UNGRADED.__class__(**{**vars(UNGRADED), "exercise": "a/b"})]
    )
    book.override(number, "attention/sdpa", 1.5, reason="the idea is right", who="T. A.")
    assert book.rows()[0].earned is None
    book.override(number, "a/b", 0, reason="empty", who="T. A.")
    book.override(number, "attention/sdpa", 2, reason="read again", who="Prof.")
    (row,) = book.rows()
    assert [entry.mark.earned for entry in row.entries] == [0, None]
    assert [entry.earned for entry in row.entries] == [2, 0] and row.earned == 2
    kept = book.overrides(number, "attention/sdpa")
    assert [(one.points, one.reason, one.who) for one in kept] == [
        (1.5, "the idea is right", "T. A."),
        (2.0, "read again", "Prof."),
    ]
    book.record(paper(), key("x"), [mark()])
    assert book.rows()[0].entries[0].override == kept[-1]


def test_an_override_belongs_to_one_submission(book: Book) -> None:
    number = book.record(paper(), key("x"), [FAILED])
    book.record(paper("bob"), key("x"), [FAILED])
    book.override(number, "attention/sdpa", 3, reason="r", who="w")
    book.record(paper(hour=3), key("newer"), [FAILED])
    assert {row.learner: row.earned for row in book.rows()} == {"ada": 0, "bob": 0}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"reason": " "}, "needs a reason"),
        ({"who": ""}, "needs a reason and the name"),
        ({"points": -1}, "points=-1, expected"),
        ({"points": float("nan")}, "points=nan, expected"),
        ({"points": float("inf")}, "points=inf, expected"),
        ({"exercise": "a/b"}, "has no exercise 'a/b'; it has attention/sdpa"),
        ({"submission": 99}, "there is no submission 99"),
    ],
)
def test_an_override_that_makes_no_sense_is_refused(book: Book, change: dict[str, object], told: str) -> None:
    number = book.record(paper(), key("x"), [FAILED])
    good = {"submission": number, "exercise": "attention/sdpa", "points": 1, "reason": "r", "who": "w"}
    with pytest.raises(ValueError, match=told):
        book.override(**(good | change))  # type: ignore[arg-type]
    assert book.rows()[0].earned == 0
    book.override(**good)  # type: ignore[arg-type]


# --- kills and other writers -----------------------------------------------------------------------

PAPERS, KILLS = 200, 50


def grade_all(path: Path, attempt: int, seconds: float = 0.0) -> None:
    """A grader: what is not known is graded and recorded; the attempt's number shows in each mark.

    seconds: how long grading one paper takes.
    """
    with Book.open(path) as book:
        run = book.begin_run(ENVIRONMENT)
        for index in range(PAPERS):
            own = key(f"answer {index}")
            time.sleep(0 if book.known(own) else seconds)
            marks = (
                () if book.known(own) else [mark(), replace(FAILED, exercise="a/b", private=(str(attempt),))]
            )
            book.record(paper(f"learner {index:03}"), own, marks, run=run)
        book.end_run(run)


def marks_by_key(path: Path) -> dict[tuple[str, str], str]:
    connection = sqlite3.connect(path)
    try:
        # A grader killed early enough leaves a file without tables, and the next one makes them.
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'marks'").fetchone():
            return {}
        return {(k, e): d for k, e, d in connection.execute("SELECT key, exercise, detail FROM marks")}
    finally:
        connection.close()


def test_a_grader_killed_at_any_moment_loses_and_changes_nothing(path: Path) -> None:
    chance, before, killed_midway = random.Random(5), dict[tuple[str, str], str](), 0
    for attempt in range(KILLS):
        grader = FORK.Process(target=grade_all, args=(path, attempt, 0.001))
        grader.start()
        time.sleep(chance.uniform(0.0, 0.05))
        os.kill(grader.pid or 0, signal.SIGKILL)
        grader.join()
        if path.exists():
            assert integrity(path) == "ok"
            after = marks_by_key(path)
            assert before.items() <= after.items()
            assert len(after) % 2 == 0  # a submission's two marks are there together
            killed_midway += 0 < len(after) < 2 * PAPERS and grader.exitcode == -signal.SIGKILL
            before = after
    assert killed_midway >= 5
    grade_all(path, 99)
    done = marks_by_key(path)
    assert before.items() <= done.items() and len(done) == 2 * PAPERS
    with Book.open(path) as book:
        rows = book.rows(everything=True)
        assert [row.learner for row in rows] == [f"learner {index:03}" for index in range(PAPERS)]
        assert all(row.earned == 3 and row.counts for row in rows)
    assert integrity(path) == "ok"


def test_several_graders_may_write_at_the_same_time_and_a_new_book_is_made_once(path: Path) -> None:
    graders = [FORK.Process(target=grade_all, args=(path, attempt)) for attempt in range(4)]
    for grader in graders:
        grader.start()
    for grader in graders:
        grader.join()
    assert [grader.exitcode for grader in graders] == [0, 0, 0, 0]
    with Book.open(path) as book:
        assert len(book.rows(everything=True)) == PAPERS
    assert integrity(path) == "ok"


def test_a_failure_inside_a_record_leaves_no_half_of_it(book: Book) -> None:
    def marks() -> Iterator[Mark]:
        yield mark()
        raise RuntimeError("the worker broke")

    with pytest.raises(RuntimeError, match="the worker broke"):
        book.record(paper(), key("x"), marks())
    assert book.known(key("x")) is None and book.rows() == []
    book.record(paper(), key("x"), [mark()])


# --- files that are not what they should be --------------------------------------------------------


def filled(path: Path) -> None:
    with Book.open(path) as book:
        for index in range(300):
            book.record(paper(f"learner {index}"), key(str(index)), [FAILED], answers={"a": "x" * 500})


def told_on_opening(path: Path) -> str:
    with pytest.raises(BookProblem) as caught:
        Book.open(path)
    return in_one_sentence(path, str(caught.value))


def in_one_sentence(path: Path, text: str) -> str:
    assert path.name in text and str(path.parent) not in text and "\n" not in text
    return text


@pytest.mark.parametrize(
    "content", [b"not a database, but some text\n" * 99, os.urandom(5000)], ids=["text", "noise"]
)
def test_a_file_that_is_no_database_is_told_in_one_sentence_and_left_as_it_is(
    path: Path, content: bytes
) -> None:
    path.write_bytes(content)
    assert "is damaged or is no gradebook" in told_on_opening(path)
    assert path.read_bytes() == content


def test_a_truncated_or_overwritten_book_is_told_in_one_sentence(path: Path) -> None:
    filled(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "is damaged" in told_on_opening(path)
    middle = len(whole) // 2 // 4096 * 4096
    path.write_bytes(whole[:middle] + b"\xa5" * 3 * 4096 + whole[middle + 3 * 4096 :])
    assert "is damaged" in told_on_opening(path)


def test_a_mark_that_cannot_be_read_is_told_in_one_sentence(path: Path) -> None:
    filled(path)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE marks SET detail = '{\"exercise\": 1'")
    connection.commit()
    connection.close()
    with Book.open(path) as book, pytest.raises(BookProblem) as caught:
        book.rows()
    assert "a mark is unreadable" in in_one_sentence(path, str(caught.value))


def test_another_programs_database_and_another_version_are_told_apart_and_left_alone(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE grades (x)")
    connection.commit()
    assert "is a database, but not a gradebook" in told_on_opening(path)
    assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (1,)
    connection.close()
    newer = path.with_name("newer.sqlite")
    filled(newer)
    connection = sqlite3.connect(newer)
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    assert "has the gradebook format 7, and this course reads format 1" in told_on_opening(newer)


def test_a_folder_that_is_not_there_is_told_in_one_sentence(tmp_path: Path) -> None:
    assert "its folder is missing" in told_on_opening(tmp_path / "nowhere" / "book.sqlite")


def test_a_full_disk_is_told_and_what_was_recorded_stays(path: Path) -> None:
    filled(path)
    with Book.open(path) as book:
        connection = book._connection
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(BookProblem, match=r"the disk is full\. What it held is unchanged"):
            book.record(paper("new"), key("new"), [mark()], answers={"a": "x" * 10**6})
        assert len(book.rows()) == 300
        connection.execute(f"PRAGMA max_page_count = {pages + 1000}")
        book.record(paper("new"), key("new"), [mark()], answers={"a": "x" * 10**6})
        assert len(book.rows()) == 301


def test_a_book_that_may_not_be_written_says_so(book: Book) -> None:
    book.record(paper(), key("x"), [mark()])
    book._connection.execute("PRAGMA query_only = 1")
    with pytest.raises(BookProblem, match=r"is read-only\. Nothing was changed"):
        book.record(paper("bob"), key("y"), [mark()])
    assert len(book.rows()) == 1


def test_a_clock_that_jumps_back_changes_no_order(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    from course_lib.grading import book as module

    number = book.record(paper(), key("x"), [FAILED])
    book.override(number, "attention/sdpa", 1, reason="first", who="w")
    monkeypatch.setattr(module, "_now", lambda: "1980-01-01T00:00:00.000000Z")
    book.override(number, "attention/sdpa", 2, reason="second", who="w")
    book.record(paper(hour=1), key("y"), [mark()])
    assert book.rows()[0].key == key("y")
    assert book.rows(everything=True)[0].earned == 2
