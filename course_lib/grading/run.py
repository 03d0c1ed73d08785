"""A grading run: every submission read, graded once, and kept, whatever happens on the way.

The gradebook is written after each submission, as one transaction; a run that is stopped at any moment, by
whatever means, goes on where it was when the same command is given again. What could not be taken is listed
with a reason beside the gradebook, and the learners' pages are written at the end.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..atomic import write_text
from .book import Book, Paper, content_key
from .bundle import Bundle
from .confine import Limits
from .decide import Mark
from .exports import csv_cell
from .graft import Extracted, extract_answers
from .intake import Refused, Submission, read_submissions
from .pages import write_pages
from .pools import DaskPool, Job, LocalPool, Pool

BOOK = "gradebook.sqlite"
PAGES = "feedback"
NOT_TAKEN = "not-taken.csv"
SEEDS = ("run", "submission")
ADDRESSES_FOR_CUDA = 1 << 46


@dataclass(frozen=True)
class Options:
    """How to grade.

    workers: submissions at once on this machine. scheduler: a Dask cluster's address instead. isolation: as
    for `sandbox.Worker`. seed_per: "run" (all submissions have the same cases) or "submission". due: what
    comes after is late. gpu: whether exercises marked gpu run on one as well; the sandbox shows none, so
    this needs isolation "none". limits: of one exercise's process.
    """

    workers: int = 2
    scheduler: str | None = None
    isolation: str = "auto"
    seed_per: str = "run"
    due: datetime | None = None
    gpu: bool = False
    limits: Limits | None = None

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers={self.workers}, expected at least 1")
        if self.seed_per not in SEEDS:
            raise ValueError(f"seed_per={self.seed_per!r}, expected one of {', '.join(SEEDS)}")
        if self.gpu and self.isolation != "none":
            raise ValueError(f"gpu=True with isolation={self.isolation!r}: the sandbox shows no GPU")


@dataclass
class Tally:
    """What a run has done so far: submissions by kind, exercises by status, and the time it took.

    read: notebooks. graded: in this run; known: content that had been graded before, or equal to another's.
    not_taken: files that are no submission, with the reason. began, first, ended: when the run began, when
    its first submission was graded, and when it ended, by a clock that does not jump.
    """

    read: int = 0
    graded: int = 0
    known: int = 0
    exercises: Counter[str] = field(default_factory=Counter)
    not_taken: list[Refused] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    first: float | None = None
    ended: float | None = None

    @property
    def seconds(self) -> float:
        """Wall time since the run began."""
        return (self.ended or time.monotonic()) - self.began

    @property
    def rate(self) -> float:
        """Submissions graded in a second."""
        return self.graded / self.seconds if self.seconds else 0.0

    @property
    def steady_rate(self) -> float:
        """Submissions graded in a second after the first, when all that is started once has started."""
        since = self.seconds - (self.first - self.began) if self.first else 0.0
        return (self.graded - 1) / since if since and self.graded > 1 else 0.0

    def add(self, marks: Iterable[Mark]) -> None:
        """Count the marks of one submission."""
        self.exercises.update(mark.status for mark in marks)

    @property
    def counts(self) -> dict[str, int]:
        """Exercises passed, failed and ungraded; whatever earned nothing has failed."""
        found = self.exercises
        failed = found.total() - found["passed"] - found["ungraded"]
        return {"passed": found["passed"], "failed": failed, "ungraded": found["ungraded"]}

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return {
            "read": self.read,
            "graded": self.graded,
            "known": self.known,
            "exercises": self.counts,
            "not_taken": [asdict(refused) for refused in self.not_taken],
            "seconds": round(self.seconds, 3),
            "per_second": round(self.rate, 3),
            "steady_per_second": round(self.steady_rate, 3),
        }


Report = Callable[[Tally], None]


def grade_submissions(
    submissions: Path, bundle: Bundle, out: Path, options: Options | None = None, report: Report | None = None
) -> Tally:
    """Grade everything below a folder, in an archive or in a file, into the gradebook in `out`.

    report: called after each submission. Raises BookProblem, NoIsolation, or the OSError of `out`.
    """
    options = options or Options()
    report = report or (lambda tally: None)
    out.mkdir(parents=True, exist_ok=True)
    # The pool first: its processes take longest to start.
    with _pool(bundle, options) as pool, Book.open(out / BOOK) as book:
        run = _Run(book, bundle, options, pool, report)
        try:
            run.grade(read_submissions(submissions, bundle.chapters))
        finally:
            write_text(out / NOT_TAKEN, _listed(run.tally.not_taken))
            write_pages(book.rows(), out / PAGES)
    run.tally.ended = time.monotonic()
    return run.tally


def _pool(bundle: Bundle, options: Options) -> Pool:
    limits = options.limits or Limits()
    # CUDA reserves more addresses than a machine has memory.
    limits = replace(limits, memory=ADDRESSES_FOR_CUDA) if options.gpu else limits
    settings = (options.isolation, limits, options.gpu)
    if options.scheduler:
        return DaskPool(bundle, options.scheduler, *settings)
    return LocalPool(bundle, options.workers, *settings)


class _Run:
    """One run over a stream of submissions."""

    def __init__(self, book: Book, bundle: Bundle, options: Options, pool: Pool, report: Report) -> None:
        self.book, self.bundle, self.options, self.pool, self.report = book, bundle, options, pool, report
        self.tally = Tally()
        self.seed = secrets.randbits(63)
        self.run = book.begin_run(
            bundle.environment, json.dumps({"seed": self.seed, "seed_per": options.seed_per})
        )
        # Papers by content key: of the same content, the first is graded, and the others wait for it.
        self.waiting: dict[str, list[tuple[Paper, Extracted]]] = {}

    def grade(self, items: Iterator[Submission | Refused]) -> None:
        for item in items:
            if isinstance(item, Refused):
                self.tally.not_taken.append(item)
            else:
                self._take(item)
            self.report(self.tally)
        while self.waiting:
            self._finish_one()
        self.book.end_run(self.run)

    def _take(self, submission: Submission) -> None:
        self.tally.read += 1
        found = extract_answers(submission.raw, self.bundle.assignment(submission.chapter).pristine)
        paper = self._paper(submission, found)
        key = content_key(found.answers, submission.chapter, self.bundle.environment)
        known = self.book.known(key)
        if known is not None:
            self.tally.known += 1
            self.tally.add(known)
            self._record(paper, found, key, ())
        elif key in self.waiting:
            self.tally.known += 1
            self.waiting[key].append((paper, found))
        else:
            # Two for each worker: one that runs, and one that is ready when it ends.
            while len(self.waiting) >= 2 * self.pool.size:
                self._finish_one()
            self.waiting[key] = [(paper, found)]
            self.pool.submit(Job(key, submission.chapter, found.answers, self._seed_of(key)))

    def _finish_one(self) -> None:
        job, marks = self.pool.next()
        for paper, found in self.waiting.pop(job.key):
            self._record(paper, found, job.key, marks)
            self.tally.add(marks)
        self.tally.graded += 1
        self.tally.first = self.tally.first or time.monotonic()
        self.report(self.tally)

    def _record(self, paper: Paper, found: Extracted, key: str, marks: tuple[Mark, ...]) -> None:
        self.book.record(paper, key, marks, answers=found.answers, notes=found.notes, run=self.run)

    def _paper(self, submission: Submission, found: Extracted) -> Paper:
        due, received = self.options.due, submission.received
        return Paper(
            learner=submission.learner,
            assignment=submission.chapter,
            name=submission.name,
            received=received,
            version=submission.version,
            late=submission.late or (due is not None and received is not None and received > due),
            sha256=submission.sha256,
            problem=found.problem or " ".join(found.remarks),
        )

    def _seed_of(self, key: str) -> int:
        if self.options.seed_per == "run":
            return self.seed
        digest = hashlib.sha256(f"{self.seed}:{key}".encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 1


def _listed(refused: Iterable[Refused]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["file", "reason"])
    writer.writerows([csv_cell(item.name), csv_cell(item.reason)] for item in refused)
    return buffer.getvalue()


def parse_due(text: str) -> datetime:
    """A moment such as "2026-11-30T23:59+01:00"; without a zone, this machine's. Raises ValueError."""
    return datetime.fromisoformat(text).astimezone(UTC)
