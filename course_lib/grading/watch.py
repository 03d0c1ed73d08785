"""The memory of all processes of a submission together, as the process outside its namespace sees it.

The kernel limits each process; only a control group limits them together, and few graders may make one
(`control_group`). So the supervisor looks, many times a second, and ends the submission.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import time
from collections.abc import Iterator

SECONDS, SECONDS_NEAR_LIMIT = 0.05, 0.01
HELD = ("RssAnon", "RssShmem", "VmSwap")
SHARED_OUT = ("Pss_Anon", "Pss_Shmem", "SwapPss")
INSIDE = "NSpid"
LONGEST = 1 << 16


class MemoryWatch:
    """Counts the processes that live in a namespace below this process's own. limit: bytes.

    Make it before /proc is covered. Not seen: memory that is shared and that no process has mapped in.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.pause = SECONDS
        self._proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
        self._text = bytearray(LONGEST)
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
                status = self._fields(f"{process}/status", (INSIDE, *HELD))
                if len(status.pop(INSIDE, [])) > 1:
                    yield self._holder(process, status)

    def _holder(self, process: str, status: dict[str, list[int]]) -> tuple[str, int]:
        """The process itself, or a thread of it where the first has ended: that one tells of no memory."""
        if status:
            return process, _bytes(status)
        for thread in self._numbers(f"{process}/task"):
            with contextlib.suppress(OSError):
                if held := _bytes(self._fields(f"{process}/task/{thread}/status", HELD)):
                    return f"{process}/task/{thread}", held
        return process, 0

    def _share(self, folder: str, held: int) -> int:
        """Bytes of one process, of each shared page its part; all of `held` where that cannot be read."""
        try:
            return _bytes(self._fields(f"{folder}/smaps_rollup", SHARED_OUT))
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

    def _fields(self, path: str, names: tuple[str, ...]) -> dict[str, list[int]]:
        """The numbers behind those of these names that the file has.

        Its text is wiped out at once: processes choose their own names, and later ones would find them here.
        """
        descriptor = os.open(path, os.O_RDONLY, dir_fd=self._proc)
        try:
            size = os.readv(descriptor, [self._text])
            found = {name: _line_of(name).search(self._text, 0, size) for name in names}
            return {name: [int(word) for word in line[1].split()] for name, line in found.items() if line}
        finally:
            self._text[:] = bytes(LONGEST)
            os.close(descriptor)


@functools.cache
def _line_of(name: str) -> re.Pattern[bytes]:
    return re.compile(rb"^%s:([ \t\d]*)(?: kB)?$" % name.encode(), re.MULTILINE)


def _bytes(fields: dict[str, list[int]]) -> int:
    return 1024 * sum(numbers[0] for numbers in fields.values())
