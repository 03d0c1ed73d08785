"""Where submissions are graded: in threads of this process, each with a sandbox, or on a Dask cluster.

A pool takes jobs and gives back marks, in the order in which they are ready. Only the process that owns the
pool writes the gradebook, so a worker that dies takes nothing with it.
"""

from __future__ import annotations

import gc
import hashlib
import io
import tempfile
import threading
import zipfile
from collections.abc import Mapping
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from .bundle import Bundle
from .confine import Limits
from .decide import Mark, prepare, ungraded
from .grader import Grader
from .oracle import Oracle
from .sandbox import NoIsolation
from .workers import Workers

Marks = tuple[Mark, ...]


@dataclass(frozen=True)
class Job:
    """One submission's content to grade. key: its content key. answers: source by grade id."""

    key: str
    chapter: str
    answers: Mapping[str, str]
    seed: int


class NoCluster(RuntimeError):
    """The Dask cluster cannot be used; the message is one sentence that says why."""


class Pool(Protocol):
    """What grades jobs."""

    size: int

    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: object) -> None: ...

    def submit(self, job: Job) -> None:
        """Begin a job."""

    def next(self) -> tuple[Job, Marks]:
        """A job that is finished, with its marks; waits for one. Raises NoIsolation."""


class LocalPool:
    """`size` threads that share the preloaded sandboxes, and one process for the references."""

    def __init__(self, bundle: Bundle, size: int, isolation: str, limits: Limits | None, gpu: bool) -> None:
        self.size = size
        self._bundle = bundle
        self._oracle = Oracle(bundle.library, gpu)
        self._workers = Workers(bundle, isolation, limits, kept=size)
        self._mine = threading.local()
        self._threads = futures.ThreadPoolExecutor(size, thread_name_prefix="grader")
        self._waiting: dict[futures.Future[Marks], Job] = {}

    def __enter__(self) -> Self:
        # Of several chapters it is not known which will come first.
        if len(self._bundle.chapters) == 1:
            futures.wait([self._threads.submit(self._workers.begin, self._bundle.chapters[0])])
        self._oracle.start()
        try:
            # While they import what they need.
            prepare()
        except BaseException:
            self.__exit__()
            raise
        # What is loaded stays: to look for garbage in it is a twentieth of the time that a submission takes.
        gc.freeze()
        return self

    def __exit__(self, *exception: object) -> None:
        for future in self._waiting:
            future.cancel()
        # Before the threads are waited for: a sandbox that has gone ends what a thread is waiting for.
        self._workers.close()
        self._oracle.close()
        self._threads.shutdown(wait=True, cancel_futures=True)
        gc.unfreeze()

    def submit(self, job: Job) -> None:
        """Begin a job."""
        self._waiting[self._threads.submit(self._grade, job)] = job

    def next(self) -> tuple[Job, Marks]:
        """A job that is finished, with its marks."""
        ready, _ = futures.wait(self._waiting, return_when=futures.FIRST_COMPLETED)
        future = ready.pop()
        job = self._waiting.pop(future)
        return job, _marks_of(future, self._bundle, job)

    def _grade(self, job: Job) -> Marks:
        if not hasattr(self._mine, "grader"):
            self._mine.grader = Grader(self._bundle, oracle=self._oracle, workers=self._workers)
        marks: Marks = self._mine.grader.grade(job.chapter, job.answers, job.seed)
        return marks


def _marks_of(future: Any, bundle: Bundle, job: Job) -> Marks:
    """The marks of a finished future; where it failed, every exercise is ungraded."""
    try:
        marks: Marks = future.result()
        return marks
    except NoIsolation:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        questions = bundle.assignment(job.chapter).questions
        return tuple(ungraded(question.exercise, reason) for question in questions)


# --- several machines -----------------------------------------------------------------------------------


class DaskPool:
    """The workers of a Dask cluster; the bundle travels to each once.

    scheduler: its address, such as "tcp://10.0.0.5:8786". Each worker process grades one submission at a
    time, whatever its number of threads. A worker that dies has its jobs done by another; a job that ends
    three workers is given up, and its exercises are ungraded.
    """

    def __init__(
        self, bundle: Bundle, scheduler: str, isolation: str, limits: Limits | None, gpu: bool
    ) -> None:
        try:
            from distributed import Client
        except ImportError:
            raise NoCluster("Dask is not installed: install the course with its extra, `cluster`.") from None
        self._bundle = bundle
        self._settings = (isolation, limits, gpu)
        try:
            self._client = Client(scheduler, timeout="10s")
        except (OSError, ValueError) as error:
            told = " ".join(str(error).split())
            raise NoCluster(f"No Dask scheduler answers at {scheduler} ({told}).") from None
        self.size = max(1, len(self._client.scheduler_info(n_workers=-1)["workers"]))
        self._waiting: dict[Any, Job] = {}

    def __enter__(self) -> Self:
        packed = pack(self._bundle.folder)
        self._digest = hashlib.sha256(packed).hexdigest()
        self._packed = self._client.scatter(packed, broadcast=True)
        return self

    def __exit__(self, *exception: object) -> None:
        for future in self._waiting:
            future.cancel()
        self._client.close()

    def submit(self, job: Job) -> None:
        """Begin a job."""
        future = self._client.submit(
            _grade_there, self._packed, self._digest, self._settings, job, key=f"grade-{job.key}", retries=2
        )
        self._waiting[future] = job

    def next(self) -> tuple[Job, Marks]:
        """A job that is finished, with its marks."""
        from distributed import wait

        ready = wait(list(self._waiting), return_when="FIRST_COMPLETED").done
        future = ready.pop()
        job = self._waiting.pop(future)
        return job, _marks_of(future, self._bundle, job)


def pack(folder: Path) -> bytes:
    """A bundle as the bytes of a zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder))
    return buffer.getvalue()


class _There:
    """What one worker process of a cluster keeps: the newest bundle, and a thread with a grader for it.

    The thread is ours: the sandbox ends with the thread that started it, and Dask's come and go.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.digest = ""
        self.thread: futures.ThreadPoolExecutor | None = None
        self.grader: Grader | None = None
        self.folder: tempfile.TemporaryDirectory[str] | None = None

    def grade(self, packed: bytes, digest: str, settings: tuple[str, Limits | None, bool], job: Job) -> Marks:
        with self.lock:
            if self.digest != digest:
                self._open(packed, digest, settings)
            assert self.thread and self.grader
            return self.thread.submit(self.grader.grade, job.chapter, job.answers, job.seed).result()

    def _open(self, packed: bytes, digest: str, settings: tuple[str, Limits | None, bool]) -> None:
        if self.grader:
            self.grader.close()
        self.folder = tempfile.TemporaryDirectory(prefix="course-bundle-")
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            archive.extractall(self.folder.name)
        bundle = Bundle.open(Path(self.folder.name))
        isolation, limits, gpu = settings
        grader = Grader(bundle, isolation=isolation, limits=limits, oracle=Oracle(bundle.library, gpu))
        self.thread = self.thread or futures.ThreadPoolExecutor(1, thread_name_prefix="grader")
        self.grader = self.thread.submit(grader.__enter__).result()
        self.digest = digest


_THERE = _There()


def _grade_there(packed: bytes, digest: str, settings: tuple[str, Limits | None, bool], job: Job) -> Marks:
    """Grade a job in a worker process of a cluster."""
    return _THERE.grade(packed, digest, settings, job)
