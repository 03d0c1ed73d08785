"""What a process does to itself before a learner's code runs in it: namespaces, limits, no privileges.

Linux's own calls, by ctypes: Python 3.11 has no `unshare` and no `mount`. On other systems only the
limits that POSIX has are set; `course_lib.grading.sandbox` says what that means and asks first.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import resource
import signal
import sys
from dataclasses import dataclass

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWPID = 0x00020000, 0x08000000, 0x20000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_REC, MS_PRIVATE = 1 << 14, 1 << 18
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
CAPABILITY_VERSION_3 = 0x20080522
LINUX = sys.platform == "linux"
GIBIBYTE = 1 << 30


@dataclass(frozen=True)
class Limits:
    """What one submission may use. Sizes in bytes, times in seconds.

    memory: address space of one process. processes: with threads counted. file: the largest file.
    scratch: all files together. cpu: of one process. printed: characters of output that are kept.
    program: wall time of all cells together. case: wall time of one case.
    """

    memory: int = 4 * GIBIBYTE
    processes: int = 64
    file: int = 32 << 20
    scratch: int = 64 << 20
    open_files: int = 256
    cpu: int = 600
    printed: int = 65_536
    program: float = 60.0
    case: float = 20.0


def die_with_parent() -> None:
    """This process is killed when the one that started it ends."""
    if LINUX:
        _call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def adopt_orphans() -> None:
    """Grandchildren whose parent has ended become children of this process, where it can find them."""
    if LINUX:
        _call("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def own_namespaces(scratch_bytes: int, uid: int) -> None:
    """Give this process's future children an own view: of processes, of shared memory, and of files.

    /tmp becomes an empty folder of `scratch_bytes`, which belongs to `uid` and goes with the last child;
    /dev/shm and /proc are emptied: both would show, or keep, what other submissions did.
    """
    _call("unshare", CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWPID)
    _mount(b"none", b"/", None, MS_REC | MS_PRIVATE)
    owned = f"size={scratch_bytes},nr_inodes=10000,mode=0700,uid={uid},gid={uid}".encode()
    _mount(b"tmpfs", b"/tmp", b"tmpfs", MS_NOSUID | MS_NODEV, owned)
    _mount(b"tmpfs", b"/dev/shm", b"tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, owned)
    _cover_proc()


def _cover_proc() -> None:
    """An empty /proc, but for what torch reads about the processor when it first computes."""
    about = _processor()
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    _mount(b"tmpfs", b"/proc", b"tmpfs", flags, b"size=2m,mode=0755")
    with open("/proc/cpuinfo", "wb") as file:  # noqa: PTH123
        file.write(about)
    _mount(b"tmpfs", b"/proc", b"tmpfs", flags | MS_REMOUNT | MS_RDONLY)


@functools.cache
def _processor() -> bytes:
    with open("/proc/cpuinfo", "rb") as file:  # noqa: PTH123
        return file.read(1 << 20)


def set_limits(limits: Limits, processes: bool) -> None:
    """Limits that the kernel holds this process and its children to.

    processes: whether their number is limited, too. The kernel counts by user, so this is right only
    where the user id, or the namespace that it is counted in, is this submission's own.
    """
    wanted = {
        "RLIMIT_AS": limits.memory,
        "RLIMIT_NPROC": limits.processes,
        "RLIMIT_FSIZE": limits.file,
        "RLIMIT_NOFILE": limits.open_files,
        "RLIMIT_CPU": limits.cpu,
        "RLIMIT_CORE": 0,
        "RLIMIT_MEMLOCK": 0,
        "RLIMIT_MSGQUEUE": 0,
    }
    if not processes:
        del wanted["RLIMIT_NPROC"]
    for name, value in wanted.items():
        kind = getattr(resource, name, None)
        if kind is not None:
            _set_limit(kind, value)


def _set_limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    lowered = value if hard == resource.RLIM_INFINITY else min(value, hard)
    # Some systems know a limit by name and refuse to set it.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(kind, (lowered, lowered))


def drop_privileges(uid: int) -> None:
    """Become `uid` where that is another one, and give up every capability for good."""
    if os.geteuid() != uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    _call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    _call("capset", ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)()))


def prefer_as_victim() -> None:
    """Where memory runs out, the kernel ends this process rather than another."""
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:  # noqa: PTH123
            file.write("1000")
    except OSError:
        return


def _mount(source: bytes, target: bytes, kind: bytes | None, flags: int, data: bytes | None = None) -> None:
    _call("mount", source, target, kind, ctypes.c_ulong(flags), data)


def _call(name: str, *arguments: object) -> None:
    """Call the C library; raises OSError with the call's name where it says no."""
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    if function(*arguments) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
