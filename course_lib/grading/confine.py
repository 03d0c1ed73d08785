"""What a process does to itself before a learner's code runs in it: namespaces, limits, no privileges.

Linux's own calls, by ctypes: Python 3.11 has no `unshare` and no `mount`. On other systems only the
limits that POSIX has are set; `course_lib.grading.sandbox` says what that means and asks first.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import stat
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWPID = 0x00020000, 0x08000000, 0x20000000
CLONE_NEWUTS, CLONE_NEWUSER, CLONE_NEWNET = 0x04000000, 0x10000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 1 << 12, 1 << 14, 1 << 18, 2
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38
MADV_COLLAPSE, LARGE_PAGE = 25, 2 << 20
CAPABILITY_VERSION_3 = 0x20080522
LINUX = sys.platform == "linux"
EMPTY = b"mode=0755,size=1m"
GIBIBYTE = 1 << 30


@dataclass(frozen=True)
class Limits:
    """What one submission may use. Sizes in bytes, times in seconds.

    memory: address space of one process. together: memory that all processes hold. processes: with threads
    counted. file: the largest file. scratch: all files together. cpu: of one process. printed: characters
    of output that are kept. program: wall time of all cells together. case: wall time of one case.
    """

    memory: int = 4 * GIBIBYTE
    together: int = 4 * GIBIBYTE
    processes: int = 32
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
        call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def adopt_orphans() -> None:
    """Grandchildren whose parent has ended become children of this process, where it can find them."""
    if LINUX:
        call("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def prepare() -> None:
    """Look up what the others here need once, in the process that forks: afterwards it may be refused."""
    if LINUX:
        for name in ("capset", "mount", "prctl", "setns", "unshare"):
            getattr(_c_library(), name)
        _processor()


@contextlib.contextmanager
def own_processes(again: bool) -> Iterator[None]:
    """The one child that is forked in here is the first process of a namespace, and all of it ends with it.

    again: whether another is to be forked afterwards, in a namespace of its own.
    """
    outside = os.open("/proc/self/ns/pid", os.O_RDONLY)
    try:
        call("unshare", CLONE_NEWPID)
        yield
        if again:
            call("setns", outside, CLONE_NEWPID)
    finally:
        os.close(outside)


def own_view(scratch: str, scratch_bytes: int, uid: int) -> None:
    """Give this process and its future children an own view of files and of shared memory.

    scratch: the folder that becomes an empty one of `scratch_bytes`, belongs to `uid`, and goes with the
    last process. /dev/shm and /proc are emptied: both would show, or keep, what other submissions did.
    """
    call("unshare", CLONE_NEWNS | CLONE_NEWIPC)
    _mount(b"none", b"/", None, MS_REC | MS_PRIVATE)
    owned = f"size={scratch_bytes},nr_inodes=10000,mode=0700,uid={uid},gid={uid}".encode()
    _mount(b"tmpfs", scratch.encode(), b"tmpfs", MS_NOSUID | MS_NODEV, owned)
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


def cover(folder: str) -> None:
    """Show an empty folder in its place, in which nothing can be made."""
    _mount(b"tmpfs", folder.encode(), b"tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)


@functools.cache
def _processor() -> bytes:
    with open("/proc/cpuinfo", "rb") as file:  # noqa: PTH123
        return file.read(1 << 20)


def enter(view: Mapping[str, Any]) -> None:
    """Go on in a new process that sees only what `view` shows; the calling process waits and ends with it.

    user: whether a user namespace comes first, as it must where this process is not root. steps, links:
    as in `views.View`. library: the folder that is shown as `course`. devices: paths. scratch: a folder.
    """
    _go_on_in_new_namespaces(view["user"], CLONE_NEWUTS)
    call("sethostname", b"sandbox", ctypes.c_size_t(7))
    _new_root(view)


def enter_apart(user: bool) -> None:
    """The same with what is seen already: nothing is shared with what runs beside but the files to read.

    user: as above. /proc shows the new process and those below it.
    """
    _go_on_in_new_namespaces(user)
    _mount(b"none", b"/", None, MS_REC | MS_PRIVATE)
    _mount(b"proc", b"/proc", b"proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)


def _go_on_in_new_namespaces(user: bool, further: int = 0) -> None:
    own, group = os.getuid(), os.getgid()
    kinds = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET | further
    call("unshare", kinds | (CLONE_NEWUSER if user else 0))
    if user:
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"1000 {own} 1")
        _write("/proc/self/gid_map", f"1000 {group} 1")
    inside = os.fork()
    if inside:
        die_with_parent()
        os._exit(os.waitstatus_to_exitcode(os.waitpid(inside, 0)[1]) & 255)
    die_with_parent()


def _new_root(view: Mapping[str, Any]) -> None:
    """Build the view in a file system in memory, make it the root, and let go of the old one."""
    os.umask(0o022)
    _mount(b"none", b"/", None, MS_REC | MS_PRIVATE)
    shown = {path: path for kind, path in view["steps"] if kind == "show"} | {view["course"]: view["library"]}
    # Opened first: what lies in /tmp is covered by the next line.
    opened = {inside: os.open(outside, os.O_PATH) for inside, outside in shown.items()}
    devices = {path: os.open(path, os.O_PATH) for path in view["devices"]}
    _mount(b"tmpfs", b"/tmp", b"tmpfs", MS_NOSUID | MS_NODEV, b"mode=0755,size=16m")
    for kind, path in (*view["steps"], ("show", view["course"])):
        if kind == "show":
            _show(opened[path], path, MS_RDONLY | MS_NODEV)
        else:
            _folder(path)
            _mount(b"tmpfs", f"/tmp{path}".encode(), b"tmpfs", MS_NOSUID | MS_NODEV, EMPTY)
    for path, descriptor in devices.items():
        _show(descriptor, path, MS_NOEXEC)
    for name, target in view["links"]:
        Path(f"/tmp{name}").symlink_to(target)
    for folder in ("/proc", "/dev/shm", "/.old", view["scratch"]):
        _folder(folder)
    _mount(b"proc", b"/tmp/proc", b"proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    _mount(b"tmpfs", f"/tmp{view['scratch']}".encode(), b"tmpfs", MS_NOSUID | MS_NODEV, b"mode=0700,size=64m")
    call("pivot_root", b"/tmp", b"/tmp/.old")
    os.chdir("/")
    call("umount2", b"/.old", MNT_DETACH)
    covered = [path for kind, path in view["steps"] if kind == "empty"]
    for path in (*covered, "/"):
        _mount(b"none", path.encode(), None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def _folder(path: str) -> None:
    Path(f"/tmp{path}").mkdir(parents=True, exist_ok=True)


def _show(descriptor: int, path: str, flags: int) -> None:
    """Bind an opened file or folder below the new root, with these flags and those that it had."""
    target = Path(f"/tmp{path}")
    target.parent.mkdir(parents=True, exist_ok=True)
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        target.mkdir(exist_ok=True)
    else:
        target.touch()
    _mount(f"/proc/self/fd/{descriptor}".encode(), bytes(target), None, MS_BIND | MS_REC)
    os.close(descriptor)
    # The flags of a mount that came from another owner must not be taken away.
    had = os.statvfs(target).f_flag & (MS_RDONLY | MS_NODEV | MS_NOEXEC)
    _mount(b"none", bytes(target), None, MS_REMOUNT | MS_BIND | MS_NOSUID | flags | had)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:  # noqa: PTH123
        file.write(text)


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
    import resource  # which Windows lacks

    if not processes:
        del wanted["RLIMIT_NPROC"]
    for name, value in wanted.items():
        kind = getattr(resource, name, None)
        if kind is not None:
            _set_limit(kind, value)


def _set_limit(kind: int, value: int) -> None:
    import resource

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
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    call("capset", ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)()))


def prefer_as_victim() -> None:
    """Where memory runs out, the kernel ends this process rather than another."""
    try:
        _write("/proc/self/oom_score_adj", "1000")
    except OSError:
        return


def use_large_pages() -> None:
    """Gather this process's own memory in pages of 2 MiB: what a fork costs is the number of its pages.

    Does nothing where Linux is older than 6.1, or has no memory to spare.
    """
    if not LINUX:
        return
    madvise = _c_library().madvise
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        bounds, rights, *_, inode = line.split(maxsplit=5)[:5]
        if rights == "rw-p" and inode == "0":
            start, end = (int(number, 16) for number in bounds.split("-"))
            start, end = -(-start // LARGE_PAGE) * LARGE_PAGE, end // LARGE_PAGE * LARGE_PAGE
            if start < end:
                madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_COLLAPSE)


def _mount(source: bytes, target: bytes, kind: bytes | None, flags: int, data: bytes | None = None) -> None:
    call("mount", source, target, kind, ctypes.c_ulong(flags), data)


def call(name: str, *arguments: object) -> None:
    """Call the C library; raises OSError with the call's name where it says no."""
    function = getattr(_c_library(), name)
    if function(*arguments) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


@functools.cache
def _c_library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
