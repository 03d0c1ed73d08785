"""The memory of all processes of a submission together, as the process outside its namespace sees it.

The kernel limits each process; only a control group limits them together, and few graders may make one
(`control_group`). So the supervisor looks, many times a second, and ends the submission.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

SECONDS, SECONDS_NEAR_LIMIT = 0.05, 0.01
HELD = ("RssAnon:", "RssShmem:", "VmSwap:")
SHARED_OUT = ("Pss_Anon:", "Pss_Shmem:", "SwapPss:")


class MemoryWatch:
    """Counts the processes that live in a namespace below this process's own. limit: bytes.

    Make it before /proc is covered. Not seen: memory that is shared and that no process has mapped in.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.pause = SECONDS
        self._proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
        self._next = time.monotonic() + self.pause

    def exceeded(self) -> bool:
        """Whether they hold more than the limit; looks only where the last look is long enough ago."""
        if time.monotonic() < self._next:
            return False
        held = self.held()
        self.pause = SECONDS if held < self.limit / 2 else SECONDS_NEAR_LIMIT
        self._next = time.monotonic() + self.pause
        return held > self.limit

    def held(self) -> int:
        """Bytes; pages that processes share are counted once if counting them for each is over the limit."""
        found = dict(self._inside())
        total = sum(found.values())
        return total if total <= self.limit else sum(self._share(*item) for item in found.items())

    def _inside(self) -> Iterator[tuple[str, int]]:
        """(folder in /proc, bytes) of each process in an inner namespace, shared pages with each."""
        for process in self._numbers("."):
            # Processes end while they are looked at.
            with contextlib.suppress(OSError):
                status = self._read(f"{process}/status")
                if len(_field(status, "NSpid:")) > 1:
                    yield self._holder(process, status)

    def _holder(self, process: str, status: str) -> tuple[str, int]:
        """The process itself, or a thread of it where the first has ended: that one tells of no memory."""
        if _field(status, HELD[0]):
            return process, _bytes(status, HELD)
        for thread in self._numbers(f"{process}/task"):
            with contextlib.suppress(OSError):
                if held := _bytes(self._read(f"{process}/task/{thread}/status"), HELD):
                    return f"{process}/task/{thread}", held
        return process, 0

    def _share(self, folder: str, held: int) -> int:
        """Bytes of one process, of each shared page its part; all of `held` where that cannot be read."""
        try:
            return _bytes(self._read(f"{folder}/smaps_rollup"), SHARED_OUT)
        except PermissionError:
            return held
        except OSError:  # it has ended
            return 0

    def _numbers(self, folder: str) -> list[str]:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._proc)
        try:
            return [name for name in os.listdir(descriptor) if name.isdigit()]  # noqa: PTH208
        finally:
            os.close(descriptor)

    def _read(self, path: str) -> str:
        descriptor = os.open(path, os.O_RDONLY, dir_fd=self._proc)
        with os.fdopen(descriptor, encoding="utf-8", errors="replace") as file:
            return file.read()


def _field(text: str, name: str) -> list[str]:
    return next((line.split()[1:] for line in text.splitlines() if line.startswith(name)), [])


def _bytes(text: str, names: tuple[str, ...]) -> int:
    return 1024 * sum(int(value[0]) for name in names if (value := _field(text, name)))
