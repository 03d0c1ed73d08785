"""The gradebook: every submission, every mark and every override, in one SQLite file.

Marks belong to content: the answers' source, the assignment and the environment make a key, and what is
known under a key is never graded again. Each call is one transaction, so a process killed at any moment
leaves the book as it was before the call or after it; the next run goes on with the keys that are not
`known`. A mark that was decided never changes; one that the machinery could not decide is replaced by
the first that it can. What staff decide stands beside the machine's mark, never in its place.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from .decide import Mark

SCHEMA_VERSION = 1
# "cour" in ASCII: tells a gradebook from any other SQLite file.
APPLICATION_ID = 0x636F7572
WAIT_SECONDS = 60.0

_SCHEMA = """
CREATE TABLE runs (
    id INTEGER PRIMARY KEY, started TEXT NOT NULL, finished TEXT, environment TEXT NOT NULL,
    note TEXT NOT NULL);
CREATE TABLE contents (
    key TEXT PRIMARY KEY, assignment TEXT NOT NULL, answers TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE marks (
    key TEXT NOT NULL REFERENCES contents (key), exercise TEXT NOT NULL, position INTEGER NOT NULL,
    status TEXT NOT NULL, points INTEGER NOT NULL, earned INTEGER, detail TEXT NOT NULL,
    run INTEGER REFERENCES runs (id), decided TEXT NOT NULL,
    PRIMARY KEY (key, exercise), CHECK ((earned IS NULL) = (status = 'ungraded'))) WITHOUT ROWID;
CREATE TABLE submissions (
    id INTEGER PRIMARY KEY, learner TEXT NOT NULL, assignment TEXT NOT NULL, name TEXT NOT NULL,
    received TEXT NOT NULL, version INTEGER NOT NULL, late INTEGER NOT NULL, sha256 TEXT NOT NULL,
    key TEXT NOT NULL REFERENCES contents (key), problem TEXT NOT NULL, notes TEXT NOT NULL,
    run INTEGER REFERENCES runs (id),
    UNIQUE (learner, assignment, name, received, version, sha256, key));
CREATE TABLE overrides (
    id INTEGER PRIMARY KEY, submission INTEGER NOT NULL REFERENCES submissions (id), exercise TEXT NOT NULL,
    points REAL NOT NULL CHECK (points >= 0), reason TEXT NOT NULL, who TEXT NOT NULL, made TEXT NOT NULL);
CREATE INDEX submissions_by_key ON submissions (key);
CREATE INDEX overrides_by_submission ON overrides (submission);
"""


class BookProblem(RuntimeError):
    """The gradebook cannot be read or written; the message is one sentence that says why and what to do."""


@dataclass(frozen=True)
class Paper:
    """One notebook that a learner handed in.

    received: with its time zone; without one it is taken as UTC; None where unknown, which is before all.
    version: orders papers of the same time, then the name does. sha256: of the file as it came.
    problem: why it could not be read, in one sentence, or nothing.
    """

    learner: str
    assignment: str
    name: str
    received: datetime | None = None
    version: int = 0
    late: bool = False
    sha256: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Override:
    """What staff decided for one exercise of one submission, and why. made: UTC, ISO 8601."""

    points: float
    reason: str
    who: str
    made: str


@dataclass(frozen=True)
class Entry:
    """One exercise of a submission: the machine's mark, and the staff's where there is one."""

    mark: Mark
    override: Override | None = None

    @property
    def earned(self) -> float | None:
        """The points that count, or None where nobody has decided."""
        return self.override.points if self.override else self.mark.earned


@dataclass(frozen=True)
class Row:
    """One submission with its marks, exercises in the order in which they were recorded.

    received: UTC, ISO 8601, or empty. counts: whether it is the learner's newest for the assignment.
    answers: source by grade_id, and notes: one sentence by grade_id, as they were recorded.
    """

    id: int
    learner: str
    assignment: str
    name: str
    received: str
    late: bool
    sha256: str
    key: str
    problem: str
    counts: bool
    entries: tuple[Entry, ...] = ()
    answers: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def points(self) -> int:
        """The points that could be had."""
        return sum(entry.mark.points for entry in self.entries)

    @property
    def earned(self) -> float | None:
        """The points that count, or None as long as any exercise is undecided."""
        earned = [entry.earned for entry in self.entries]
        known = [points for points in earned if points is not None]
        return sum(known) if known and len(known) == len(earned) else None


def content_key(answers: Mapping[str, str], assignment: str, environment: str) -> str:
    """SHA-256 over the answers' sources, the assignment and the environment; order does not matter."""
    parts = json.dumps([dict(sorted(answers.items())), assignment, environment], sort_keys=True)
    return hashlib.sha256(parts.encode("ascii")).hexdigest()


class Book:
    """An open gradebook; one for each process or thread. Close it, or use it in a `with` statement."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path

    @classmethod
    def open(cls, path: Path) -> Book:
        """The gradebook in this file, made where there is none. Raises BookProblem."""
        with _in_one_sentence(path):
            connection = sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None)
            try:
                _prepare(connection, path)
            except BaseException:
                connection.close()
                raise
        return cls(connection, path)

    def __enter__(self) -> Book:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. What was recorded is on the disk already."""
        self._connection.close()

    def begin_run(self, environment: str, note: str = "") -> int:
        """A new run's number. environment: what the marks are made with, as it enters the content keys."""
        with self._transaction() as connection:
            made = connection.execute(
                "INSERT INTO runs (started, environment, note) VALUES (?, ?, ?)",
                (_now(), environment, _plain(note)),
            )
            return int(made.lastrowid or 0)

    def end_run(self, run: int) -> None:
        """Note that a run came to its end; a run that was killed has none."""
        with self._transaction() as connection:
            connection.execute("UPDATE runs SET finished = ? WHERE id = ?", (_now(), run))

    def known(self, key: str) -> tuple[Mark, ...] | None:
        """The marks under a content key, or None where there are none or one is still ungraded."""
        with _in_one_sentence(self._path):
            marks = self._marks(key)
        return None if not marks or any(mark.status == "ungraded" for mark in marks) else marks

    def record(
        self,
        paper: Paper,
        key: str,
        marks: Iterable[Mark] = (),
        *,
        answers: Mapping[str, str] | None = None,
        notes: Mapping[str, str] | None = None,
        run: int | None = None,
    ) -> int:
        """Add a submission with the marks of its content, as one transaction; the submission's number.

        Recording the same paper again changes nothing, and a decided mark stays as it is. No marks:
        for content that is known already, or that is still to be graded.
        """
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO contents VALUES (?, ?, ?) ON CONFLICT DO UPDATE"
                " SET answers = excluded.answers WHERE contents.answers = '{}'",
                (key, _plain(paper.assignment), json.dumps(dict(answers or {}))),
            )
            for position, mark in enumerate(marks):
                _keep_mark(connection, key, position, mark, run)
            return _keep_paper(connection, paper, key, dict(notes or {}), run)

    def override(self, submission: int, exercise: str, points: float, *, reason: str, who: str) -> None:
        """Decide an exercise of one submission by hand; the newest such decision counts, all are kept.

        Raises ValueError without a reason or a name, for negative points, or for an unknown exercise.
        """
        if not reason.strip() or not who.strip():
            raise ValueError("an override needs a reason and the name of who decides")
        if not 0 <= points < float("inf"):
            raise ValueError(f"points={points}, expected a number that is not negative")
        with self._transaction() as connection:
            row = connection.execute("SELECT key FROM submissions WHERE id = ?", (submission,)).fetchone()
            if row is None:
                raise ValueError(f"there is no submission {submission}")
            known = [mark.exercise for mark in self._marks(row[0])]
            if exercise not in known:
                told = ", ".join(known) or "none"
                raise ValueError(f"submission {submission} has no exercise {exercise!r}; it has {told}")
            connection.execute(
                "INSERT INTO overrides (submission, exercise, points, reason, who, made)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (submission, exercise, points, _plain(reason), _plain(who), _now()),
            )

    def overrides(self, submission: int, exercise: str) -> tuple[Override, ...]:
        """Every override of an exercise, oldest first."""
        with _in_one_sentence(self._path):
            found = self._connection.execute(
                "SELECT points, reason, who, made FROM overrides WHERE submission = ? AND exercise = ?"
                " ORDER BY id",
                (submission, exercise),
            ).fetchall()
        return tuple(Override(*row) for row in found)

    def rows(self, *, everything: bool = False) -> list[Row]:
        """The newest submission of every learner for every assignment, by learner; or every submission."""
        with self._snapshot() as connection:
            found = connection.execute(
                "SELECT id, learner, assignment, name, received, late, sha256, key, problem, notes"
                " FROM submissions ORDER BY learner, assignment, received, version, name, id"
            ).fetchall()
            newest = {(row[1], row[2]): row[0] for row in found}
            rows = ((row, newest[row[1], row[2]] == row[0]) for row in found)
            return [self._row(row, counts) for row, counts in rows if everything or counts]

    def _row(self, row: tuple[object, ...], counts: bool) -> Row:
        number, learner, assignment, name, received, late, sha256, key, problem, notes = row
        query = "SELECT answers FROM contents WHERE key = ?"
        (answers,) = self._connection.execute(query, (key,)).fetchone()
        decided = self._connection.execute(
            "SELECT exercise, points, reason, who, made FROM overrides WHERE submission = ? ORDER BY id",
            (number,),
        )
        by_staff = {exercise: Override(*rest) for exercise, *rest in decided}
        entries = tuple(Entry(mark, by_staff.get(mark.exercise)) for mark in self._marks(str(key)))
        return Row(
            id=int(str(number)),
            learner=str(learner),
            assignment=str(assignment),
            name=str(name),
            received=str(received),
            late=bool(late),
            sha256=str(sha256),
            key=str(key),
            problem=str(problem),
            counts=counts,
            entries=entries,
            answers=json.loads(answers),
            notes=json.loads(str(notes)),
        )

    def _marks(self, key: str) -> tuple[Mark, ...]:
        query = "SELECT detail FROM marks WHERE key = ? ORDER BY position, exercise"
        rows = self._connection.execute(query, (key,)).fetchall()
        try:
            return tuple(Mark.from_json(json.loads(row[0])) for row in rows)
        except (ValueError, KeyError, TypeError) as error:
            raise BookProblem(_DAMAGED.format(name=self._path.name, reason="a mark is unreadable")) from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything inside, or nothing of it. IMMEDIATE: two writers wait, and never deadlock."""
        with _in_one_sentence(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _snapshot(self) -> Iterator[sqlite3.Connection]:
        """One state of the book, whatever others write meanwhile."""
        with _in_one_sentence(self._path):
            self._connection.execute("BEGIN")
            try:
                yield self._connection
            finally:
                self._connection.execute("ROLLBACK")


def _keep_mark(connection: sqlite3.Connection, key: str, position: int, mark: Mark, run: int | None) -> None:
    row = (key, mark.exercise, position, mark.status, mark.points, mark.earned, json.dumps(mark.to_json()))
    connection.execute(
        "INSERT INTO marks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key, exercise) DO UPDATE SET"
        " position = excluded.position, status = excluded.status, points = excluded.points,"
        " earned = excluded.earned, detail = excluded.detail, run = excluded.run, decided = excluded.decided"
        " WHERE marks.status = 'ungraded'",
        (*row, run, _now()),
    )


def _keep_paper(
    connection: sqlite3.Connection, paper: Paper, key: str, notes: dict[str, str], run: int | None
) -> int:
    texts = [_plain(text) for text in (paper.learner, paper.assignment, paper.name)]
    identity = (*texts, _utc(paper.received), paper.version, paper.sha256, key)
    connection.execute(
        "INSERT INTO submissions"
        " (learner, assignment, name, received, version, sha256, key, late, problem, notes, run)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (*identity, int(paper.late), _plain(paper.problem), json.dumps(notes), run),
    )
    found = connection.execute(
        "SELECT id FROM submissions WHERE learner = ? AND assignment = ? AND name = ? AND received = ?"
        " AND version = ? AND sha256 = ? AND key = ?",
        identity,
    ).fetchone()
    return int(found[0])


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables, or see that they are a gradebook's, whole, and of this version."""
    connection.execute("PRAGMA foreign_keys = ON")
    empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if empty and _stamp(connection)[0] == 0:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")
        if _stamp(connection)[0] == 0:  # else another process made it while this one waited
            for statement in _SCHEMA.split(";\n"):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    application, version = _stamp(connection)
    if application != APPLICATION_ID:
        raise BookProblem(f"{path.name} is a database, but not a gradebook; name another file.")
    if version != SCHEMA_VERSION:
        raise BookProblem(
            f"{path.name} has the gradebook format {version}, and this course reads format {SCHEMA_VERSION}; "
            "open it with the version of the course that wrote it."
        )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
        raise sqlite3.DatabaseError("malformed")


def _stamp(connection: sqlite3.Connection) -> tuple[int, int]:
    return tuple(
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
    )


_REASONS = {
    "readonly": "{name} cannot be written: the file or its folder is read-only. Nothing was changed.",
    "disk is full": "{name} was not written, because the disk is full. What it held is unchanged; free some "
    "space and run the same command again.",
    "unable to open": "{name} cannot be opened: its folder is missing, or may not be written.",
    "locked": "{name} is in use by another program, and stayed so for a minute. Nothing was changed.",
}
_DAMAGED = (
    "{name} is damaged or is no gradebook ({reason}). Move it away and run the same command again: the "
    "submissions are then graded anew."
)


@contextmanager
def _in_one_sentence(path: Path) -> Iterator[None]:
    """SQLite's errors as a BookProblem that says what to do."""
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except sqlite3.DatabaseError as error:
        found = [text for part, text in _REASONS.items() if part in str(error)]
        text = found[0] if found else _DAMAGED
        raise BookProblem(text.format(name=path.name, reason=error)) from error


def _now() -> str:
    return _utc(datetime.now(UTC))


def _utc(moment: datetime | None) -> str:
    """ISO 8601 in UTC, all of one width, so that text order is time order; empty for None."""
    if moment is None:
        return ""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return aware.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _plain(text: str) -> str:
    """Text that SQLite can hold: halves of characters, as a broken file name has them, become marks."""
    return text.encode("utf-8", "replace").decode("utf-8")
