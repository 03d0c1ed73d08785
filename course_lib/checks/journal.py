"""The learner's progress, in one file that a crash, a full disk or two kernels at once cannot lose."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..atomic import write_text
from ..chapters import find_chapter
from .engine import Verdict
from .messages import sentence
from .registry import chapters, exercises_of, get


@dataclass
class Record:
    """What is known of one exercise. status: that of the latest check; passed: whether it ever passed."""

    status: str = "not started"
    passed: bool = False
    points: int = 0
    attempts: int = 0
    hints_seen: int = 0
    first_passed: str | None = None
    misconceptions: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Hint:
    """The `number`-th of `total` hints."""

    number: int
    total: int
    text: str


@dataclass(frozen=True)
class ChapterRow:
    """How far a chapter is: exercises passed of total, points earned of those there are."""

    chapter: str
    passed: int
    total: int
    points: int
    of: int


def default_path() -> Path:
    """Where progress is kept: COURSE_PROGRESS, else beside the learner's notebooks."""
    if os.environ.get("COURSE_PROGRESS"):
        return Path(os.environ["COURSE_PROGRESS"])
    from ..workspace import work_folder

    return work_folder() / ".course" / "progress.json"


class Progress:
    """Reads and changes the progress file. Every change is read–modify–write under a lock, and atomic."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or default_path()
        self.notes: list[str] = []
        self.records = self._read()

    @classmethod
    def load(cls, path: Path | None = None) -> Progress:
        """The progress as it stands in the file; an empty one when there is none."""
        return cls(path)

    def record(self, verdict: Verdict) -> None:
        """Keep a verdict. A pass is never lost to a later failure."""
        with self._changing():
            record = self.records.setdefault(verdict.exercise, Record())
            record.attempts += verdict.status != "not started"
            record.status = verdict.status
            if verdict.misconception and verdict.misconception not in record.misconceptions:
                record.misconceptions.append(verdict.misconception)
            if verdict.passed:
                record.passed, record.points = True, verdict.points
                record.first_passed = record.first_passed or time.strftime("%Y-%m-%dT%H:%M:%S")

    def next_hint(self, exercise_id: str) -> Hint:
        """The next hint not yet seen; the last one again when all were. Raises UnknownExercise."""
        exercise = get(exercise_id)
        hints = exercise.hints
        with self._changing():
            record = self.records.setdefault(exercise.id, Record())
            number = min(record.hints_seen + 1, len(hints))
            record.hints_seen = number
        return Hint(number, len(hints), hints[number - 1])

    def hints_left(self, exercise_id: str) -> int:
        """How many hints of an exercise have not been seen."""
        return len(get(exercise_id).hints) - self.of(exercise_id).hints_seen

    def of(self, exercise_id: str) -> Record:
        """The record of one exercise, an empty one when there is none."""
        return self.records.get(exercise_id, Record())

    def summary(self, only: str | None = None) -> list[ChapterRow]:
        """One row for each chapter that has exercises, or for one of them. Raises UnknownChapter."""
        rows = []
        for chapter in chapters() if only is None else [find_chapter(only, chapters())]:
            exercises = exercises_of(chapter)
            done = [exercise for exercise in exercises if self.of(exercise.id).passed]
            points, of = (sum(exercise.points for exercise in group) for group in (done, exercises))
            rows.append(ChapterRow(chapter, len(done), len(exercises), points, of))
        return rows

    @contextmanager
    def _changing(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(self.path.with_suffix(".lock")):
            self.records = self._read()
            yield
            text = json.dumps({"version": 1, "exercises": self._plain()}, indent=1, sort_keys=True)
            if self.path.exists():
                self._copy_aside().replace(self.path.with_suffix(".bak"))
            write_text(self.path, text + "\n")

    def _copy_aside(self) -> Path:
        aside = self.path.with_suffix(".bak-new")
        aside.write_bytes(self.path.read_bytes())
        return aside

    def _plain(self) -> dict[str, Any]:
        return {key: asdict(record) for key, record in self.records.items()}

    def _read(self) -> dict[str, Record]:
        if not self.path.exists():
            return {}
        try:
            return _parse(self.path)
        except (ValueError, TypeError, KeyError):
            kept = self.path.with_name(f"progress-damaged-{time.strftime('%Y%m%d-%H%M%S')}.json")
            self.path.replace(kept)
            self.notes.append(sentence("progress_damaged", kept=kept.name))
            backup = self.path.with_suffix(".bak")
            try:
                return _parse(backup)
            except (OSError, ValueError, TypeError, KeyError):
                return {}


def _parse(path: Path) -> dict[str, Record]:
    plain = json.loads(path.read_text(encoding="utf-8"))["exercises"]
    names = set(Record.__dataclass_fields__)
    return {key: Record(**{k: v for k, v in row.items() if k in names}) for key, row in plain.items()}


@contextmanager
def _locked(path: Path, patience: float = 5.0, stale: float = 30.0) -> Iterator[None]:
    """Hold a lock file. One older than `stale` seconds was left by a crash and is taken over."""
    deadline = time.monotonic() + patience
    while True:
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            break
        except FileExistsError:
            try:
                abandoned = time.time() - path.stat().st_mtime > stale
            except FileNotFoundError:
                continue
            # Past our patience we go on without it: the write is atomic, so at worst one update is lost.
            if abandoned or time.monotonic() > deadline:
                path.unlink(missing_ok=True)
                continue
            time.sleep(0.02)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
