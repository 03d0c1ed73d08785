"""A control group for a submission: the kernel's own count of all memory that its processes use.

Linux lets root, and a user within a systemd session, make groups (version 2). Elsewhere there is none, and
`watch` is what limits the memory of a submission's processes together.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
REMOVED_WITHIN_SECONDS = 2.0
NUMBERS = itertools.count()


@dataclass(frozen=True)
class ControlGroup:
    """A group that exists. path: its folder below /sys/fs/cgroup."""

    path: Path

    @classmethod
    def make(cls, memory: int, processes: int) -> ControlGroup | None:
        """A new group with these limits, in bytes and processes; None where none can be made."""
        for parent in _parents():
            path = parent / f"course-{os.getpid()}-{next(NUMBERS)}"
            try:
                path.mkdir()
            except OSError:
                continue
            with contextlib.suppress(OSError):
                _set(path / "memory.max", memory)
                for name, value in (("memory.swap.max", 0), ("pids.max", processes)):
                    with contextlib.suppress(FileNotFoundError):
                        _set(path / name, value)
                return cls(path)
            with contextlib.suppress(OSError):
                path.rmdir()
        return None

    def take_in(self, process: int) -> None:
        """Move a process into the group; what it starts from now on is born there."""
        _set(self.path / "cgroup.procs", process)

    def remove(self) -> None:
        """Take the group away; its processes have been killed, and the kernel lets go of them soon."""
        deadline = time.monotonic() + REMOVED_WITHIN_SECONDS
        while time.monotonic() < deadline:
            try:
                self.path.rmdir()
                return
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.01)


def works() -> bool:
    """Whether this process can make a group that limits memory, and move processes into it: tried."""
    group = ControlGroup.make(1 << 30, 100)
    if group is None:
        return False
    try:
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
            group.take_in(process.pid)
            return group.path.name in Path(f"/proc/{process.pid}/cgroup").read_text(encoding="ascii")
    except OSError:
        return False
    finally:
        group.remove()


def _parents() -> list[Path]:
    """Where a group may be made: beside this process's own, as a group with processes has none below it."""
    try:
        lines = OWN.read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)
    if own is None or not (ROOT / "cgroup.controllers").exists():
        return []
    return [(ROOT / own).parent] if own else [ROOT]


def _set(path: Path, value: int) -> None:
    # Opened without making it: a file that the kernel does not show is a limit that it does not have.
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, str(value).encode())
    finally:
        os.close(descriptor)
