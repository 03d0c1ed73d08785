"""The preloaded processes of a grading run, and the copies of the library that they show to learners."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from .bundle import Bundle
from .confine import Limits
from .sandbox import SandboxFailure, Worker, can_be_shared, chosen, stage_library

PREFIX = "course-grading-"


class Staging:
    """The copies of the library that learners' processes read, one for each chapter, made when asked for."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._lock = threading.Lock()
        self._folder: Path | None = None

    def library(self, chapter: str) -> Path:
        """The copy for this chapter: without what its exercises forbid."""
        with self._lock:
            if self._folder is None:
                _sweep()
                self._folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
                # Learners' users pass through it.
                self._folder.chmod(0o755)
            library = self._folder / chapter
            if not library.is_dir():
                stage_library(self.bundle.library, library, self.bundle.cut(chapter))
            return library

    def close(self) -> None:
        """Remove the copies."""
        with self._lock:
            if self._folder:
                shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


class Workers:
    """Preloaded processes: one for each chapter, and for each thread where threads cannot share one.

    isolation: as for `sandbox.Worker`. limits: of one exercise's process. kept: how many run on when
    nobody uses them; those that were used last stay. Raises NoIsolation.
    """

    def __init__(
        self, bundle: Bundle, isolation: str = "auto", limits: Limits | None = None, kept: int = 1
    ) -> None:
        self.bundle = bundle
        self.staging = Staging(bundle)
        self.isolation, self.limits, self.kept = chosen(isolation), limits, kept
        self._shared = can_be_shared(self.isolation)
        self._lock = threading.Lock()
        # In the order of their last use.
        self._found: dict[tuple[str, int], Worker] = {}
        self._used: Counter[tuple[str, int]] = Counter()
        self._closed = False

    @contextlib.contextmanager
    def of(self, chapter: str) -> Iterator[Worker]:
        """The worker of this chapter, for as long as this is entered. Raises SandboxFailure after `close`."""
        with self._lock:
            if self._closed:
                raise SandboxFailure("The grading run has ended.")
            key = (chapter, 0 if self._shared else threading.get_ident())
            worker = self._found.pop(key, None) or self._made(chapter)
            self._found[key] = worker
            self._used[key] += 1
            ended = self._beyond()
        for old in ended:
            old.close()
        try:
            yield worker
        finally:
            with self._lock:
                self._used[key] -= 1

    def begin(self, chapter: str) -> None:
        """Start this chapter's, which is asked for soon; does not wait for it."""
        with self.of(chapter) as worker:
            worker.begin()

    def close(self) -> None:
        """End them all, whatever they are doing, and remove the staged libraries."""
        with self._lock:
            self._closed = True
        for worker in self._found.values():
            worker.close()
        self._found.clear()
        self.staging.close()

    def _made(self, chapter: str) -> Worker:
        library = self.staging.library(chapter)
        return Worker(library, self.limits, self.isolation, self.bundle.preload(chapter))

    def _beyond(self) -> list[Worker]:
        """Those that nobody uses and that are too many, taken off the list."""
        idle = [key for key in self._found if not self._used[key]]
        return [self._found.pop(key) for key in idle[: max(0, len(self._found) - self.kept)]]


def _sweep() -> None:
    """Remove the staged libraries of graders that were killed: their folders are named after them."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        number = folder.name.removeprefix(PREFIX).split("-")[0]
        with contextlib.suppress(OSError):
            if number.isdigit() and folder.stat().st_uid == os.getuid() and not _runs(int(number)):
                shutil.rmtree(folder, ignore_errors=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
