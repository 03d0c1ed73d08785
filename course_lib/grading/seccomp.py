"""A filter in the kernel: calls that no exercise needs are refused to a learner's process, with EPERM.

A short list of what reaches other processes, other namespaces or little-tested parts of the kernel. A
filter cannot be taken off again, and holds for all children. See Linux's Documentation/userspace-api/
seccomp_filter.rst and linux/filter.h.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import socket
import struct
import sys
from pathlib import Path

from .confine import call

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
# Where a filter finds the number of the call, the architecture, and lower halves of two arguments.
NUMBER, ARCHITECTURE, ARGUMENT, THIRD_ARGUMENT = 0, 4, 16, 32
# AUDIT_ARCH_… of linux/audit.h, and the index in CALLS.
MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
# Numbers from here on are x86-64's second set, with 32-bit pointers.
X32 = 0x40000000
CLONE, CLONE3, SOCKET, SET_OPTION = (56, 220), (435, 435), (41, 198), (54, 208)
# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET.
NEW_NAMESPACES = 0x7E020000
# Others reach beyond the network namespace (vsock), are seldom used parts of the kernel, or outlive their
# process: a port stays taken for a minute, by which one submission could tell the next what it was asked.
FAMILIES = (socket.AF_UNIX,)
CALLS = {
    "add_key": (248, 217),
    "bpf": (321, 280),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    # Memory that belongs to no process, and which nothing but a control group would count.
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "msgget": (68, 186),
    "semget": (64, 190),
    "shmget": (29, 194),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "request_key": (249, 218),
    "setns": (308, 268),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
PROGRAMS = {"execve": (59, 221), "execveat": (322, 281)}


def works() -> bool:
    """Whether this machine's kernel takes such filters, and the numbers of its calls are known here."""
    known = sys.platform == "linux" and platform.machine() in MACHINES
    return known and Path("/proc/sys/kernel/seccomp/actions_avail").exists()


def refuse_calls(programs: bool = False) -> None:
    """Set the filter for this process and its children, for good. Raises OSError where the kernel says no.

    programs: whether no other program can be started either. Needs PR_SET_NO_NEW_PRIVS, and a process of
    one thread.
    """
    program = _program(platform.machine(), programs)
    kept = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: the number of instructions, and where they are.
    described = struct.pack("@HP", len(program) // 8, ctypes.addressof(kept))
    call("prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, described, 0, 0)


def _program(machine: str, programs: bool) -> bytes:
    """The filter: instructions of 8 bytes each, (code, jump if true, jump if not, operand)."""
    architecture, column = MACHINES[machine]
    steps = [_step(LOAD, ARCHITECTURE), *_unless(EQUAL, architecture, errno.EPERM)]
    steps += [_step(LOAD, NUMBER), *_if(AT_LEAST, X32, errno.EPERM)]
    # Its flags lie in memory, which a filter cannot read; the C library then uses clone.
    steps += _if(EQUAL, CLONE3[column], errno.ENOSYS)
    for numbers in (*CALLS.values(), *(PROGRAMS.values() if programs else ())):
        steps += _if(EQUAL, numbers[column], errno.EPERM)
    namespaces = [_step(LOAD, ARGUMENT), *_if(ANY_BIT, NEW_NAMESPACES, errno.EPERM), _step(RETURN, ALLOW)]
    steps += [_step(EQUAL, CLONE[column], skip_if_not=len(namespaces)), *namespaces]
    # A larger buffer is memory of the kernel's own, which nothing counts.
    options = [_step(LOAD, THIRD_ARGUMENT), *_if(EQUAL, socket.SO_SNDBUF, errno.EPERM), _step(RETURN, ALLOW)]
    steps += [_step(EQUAL, SET_OPTION[column], skip_if_not=len(options)), *options]
    # Each family jumps over those that follow, and over the refusal.
    families = [_step(EQUAL, family, skip_if=len(FAMILIES) - place) for place, family in enumerate(FAMILIES)]
    sockets = [_step(LOAD, ARGUMENT), *families, _step(RETURN, REFUSE | errno.EPERM)]
    steps += [_step(EQUAL, SOCKET[column], skip_if_not=len(sockets)), *sockets]
    return b"".join([*steps, _step(RETURN, ALLOW)])


def _step(code: int, operand: int, skip_if: int = 0, skip_if_not: int = 0) -> bytes:
    return struct.pack("=HBBI", code, skip_if, skip_if_not, operand)


def _if(code: int, operand: int, number: int) -> list[bytes]:
    """Fail with this error number where the comparison holds."""
    return [_step(code, operand, skip_if_not=1), _step(RETURN, REFUSE | number)]


def _unless(code: int, operand: int, number: int) -> list[bytes]:
    """Fail with this error number where it does not."""
    return [_step(code, operand, skip_if=1), _step(RETURN, REFUSE | number)]
