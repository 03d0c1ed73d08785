"""Every kind of isolation gives the same protection, as root and not; oracles: the kernel, and this machine.

What hostile programs do is in test_sandbox.py; here is what differs between the means that stop them.
"""

from __future__ import annotations

import platform
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from course_lib.checks.exercise import Case
from course_lib.checks.values import Raised
from course_lib.grading import sandbox, seccomp, views
from course_lib.grading.confine import Limits
from course_lib.grading.sandbox import Outcome, Worker, stage_library

ROOT = Path(__file__).resolve().parents[2]
LINUX = sys.platform == "linux"
MEBIBYTE = 1 << 20
LIMITS = Limits(program=10, case=5, together=700 * MEBIBYTE)
KINDS = ("bwrap", "bwrap, not root", "namespaces", "namespaces, not root", "docker")
TOLD = "def double(matrix):\n    return told"
Maker = Callable[..., Worker]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stage_library(ROOT, tmp_path_factory.mktemp("staged") / "library")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed packages below /tmp with a copy of the course, as `pip install .` makes one."""
    folder = tmp_path_factory.mktemp("environment") / "site-packages"
    (folder / "course_lib").mkdir(parents=True)
    (folder / "course_lib" / "references.py").write_text("answer = 42\n")
    (folder / "seldom_used.py").write_text("answer = 'imported late'\n")
    for path in (folder.parent, folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


@pytest.fixture(scope="module", params=KINDS)
def worker(request: pytest.FixtureRequest, library: Path, packages: Path) -> Iterator[Worker]:
    """A worker of each kind, on a machine whose packages lie partly below /tmp."""
    isolation, *rest = request.param.split(", ")
    if not LINUX or not sandbox.WORKS[isolation]():
        pytest.skip(f"{isolation} does not work on this machine")
    installed = [*sandbox.installed_packages(), str(packages)]
    with pytest.MonkeyPatch.context() as patch:
        for module in (views, sandbox):
            patch.setattr(module, "installed_packages", lambda: installed)
        if rest:
            patch.setattr(sandbox, "privileged", lambda: False)
        with Worker(library, LIMITS, isolation) as made:
            yield made


def run(worker: Worker, *cells: str, forbidden: tuple[str, ...] = ()) -> Outcome:
    program = [textwrap.dedent(cell) for cell in cells]
    case = Case("a case", {"matrix": [1.0], "dtype": "float32"})
    return worker.run(program, "welcome.rows", "double", [case], forbidden=forbidden)


def told(worker: Worker, code: str) -> Any:
    """What a program that sets `told` says."""
    outcome = run(worker, code, TOLD)
    assert outcome.status == "ok" and not outcome.errors, outcome
    values = outcome.values[0]
    return values if isinstance(values, Raised) else values["the result"]


# --- the same by every means ----------------------------------------------------------------------------


def test_modules_below_tmp_are_imported_late_and_the_course_there_is_covered(
    worker: Worker, packages: Path
) -> None:
    code = f"""
    import os, seldom_used, sys
    told = [seldom_used.answer, os.listdir({str(packages / "course_lib")!r}), os.listdir("/tmp")]
    """
    top = packages.relative_to("/tmp").parts[0]
    assert told(worker, code) == ["imported late", [], [top]]


def test_scratch_is_the_only_place_to_write_and_is_empty_each_time(worker: Worker, packages: Path) -> None:
    code = f"""
    import os, tempfile
    def writable(folder):
        try:
            open(folder + "/left", "w").close()
        except OSError:
            return False
        return True
    places = ["/", "/tmp", "/course", "/usr", "/etc", "/dev", "/dev/shm", "/proc", "/sys", "/scratch"]
    places += [{str(packages)!r}, {str(packages / "course_lib")!r}, os.path.expanduser("~")]
    told = [os.listdir("/scratch"), tempfile.gettempdir(), os.getcwd(), [p for p in places if writable(p)]]
    """
    for _ in range(2):
        found = told(worker, code)
        assert found == [[], "/scratch", "/scratch", ["/dev/shm", "/scratch", "/scratch"]]


def test_nothing_tells_about_this_machine(worker: Worker) -> None:
    code = """
    import os, socket
    def read(path):
        try:
            return open(path).read()
        except OSError:
            return ""
    files = ["hosts", "hostname", "resolv.conf", "passwd", "machine-id"]
    told = [[path for path in files if read("/etc/" + path)], os.listdir("/proc"), os.environ["USER"],
            socket.gethostname(), os.path.exists("/sys") and os.listdir("/sys")]
    """
    found = told(worker, code)
    assert found[:4] == [[], ["cpuinfo"], "learner", "sandbox"]
    assert not found[4]


def test_a_learners_process_holds_its_own_connection_and_nothing_else(worker: Worker) -> None:
    code = """
    import os
    def opened(number):
        try:
            os.fstat(number)
        except OSError:
            return False
        return True
    told = [number for number in range(1000) if opened(number)]
    """
    assert told(worker, code) == [0, 1, 2, 3]


def test_each_submission_of_root_has_a_user_of_its_own(worker: Worker) -> None:
    first, second = (told(worker, "import os\ntold = os.getresuid() + os.getresgid()") for _ in range(2))
    assert len(set(first)) == len(set(second)) == 1
    assert 0 not in first
    if worker._as_root:
        assert first != second


# --- the filter of calls --------------------------------------------------------------------------------

REFUSED = """
import ctypes, errno, socket
from course_lib.grading import seccomp
libc = ctypes.CDLL(None, use_errno=True)
def refused(number, *arguments):
    ctypes.set_errno(0)
    libc.syscall(number, *arguments)
    return errno.errorcode.get(ctypes.get_errno(), "done")
"""


@pytest.mark.skipif(not seccomp.works(), reason="this kernel has no filter of calls that is known here")
def test_calls_that_no_exercise_needs_are_refused(worker: Worker) -> None:
    column = seccomp.MACHINES[platform.machine()][1]
    numbers = {name: found[column] for name, found in seccomp.CALLS.items()}
    code = f"told = {{name: refused(number, 0, 0, 0, 0, 0) for name, number in {numbers!r}.items()}}"
    assert told(worker, REFUSED + code) == dict.fromkeys(numbers, "EPERM")
    namespaces = [0x10000000, 0x00020000, 0x40000000]
    clone, clone3 = seccomp.CLONE[column], seccomp.CLONE3[column]
    code = f"""
    told = [[refused({clone}, flags | 17, 0, 0, 0, 0) for flags in {namespaces}], refused({clone3}, 0, 0)]
    """
    assert told(worker, REFUSED + textwrap.dedent(code)) == [["EPERM"] * 3, "ENOSYS"]


@pytest.mark.skipif(not seccomp.works(), reason="this kernel has no filter of calls that is known here")
def test_sockets_of_other_kinds_are_refused(worker: Worker) -> None:
    code = """
    def made(family, kind=socket.SOCK_STREAM):
        try:
            socket.socket(family, kind).close()
        except OSError as error:
            return errno.errorcode[error.errno]
        return "done"
    told = [made(socket.AF_UNIX), made(socket.AF_INET), made(socket.AF_VSOCK),
            made(socket.AF_ALG, socket.SOCK_SEQPACKET), made(socket.AF_PACKET, socket.SOCK_RAW)]
    """
    found = told(worker, REFUSED + textwrap.dedent(code))
    assert found == ["done", "EPERM", "EPERM", "EPERM", "EPERM"]


@pytest.mark.skipif(not seccomp.works(), reason="this kernel has no filter of calls that is known here")
def test_the_kernels_buffers_of_a_socket_stay_as_small_as_they_are(worker: Worker) -> None:
    code = """
    import errno, socket
    def refused(option):
        one, other = socket.socketpair()
        try:
            one.setsockopt(socket.SOL_SOCKET, option, 1 << 24)
        except OSError as error:
            return errno.errorcode[error.errno]
        return "done"
    told = [refused(socket.SO_SNDBUF), refused(socket.SO_PASSCRED)]
    """
    assert told(worker, code) == ["EPERM", "done"]


def test_torch_numpy_threads_and_processes_still_work(worker: Worker) -> None:
    code = """
    import multiprocessing, subprocess, threading
    import numpy as np, torch
    model = torch.nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    told = [bool(np.allclose(np.linalg.inv(np.eye(3)), np.eye(3))), model.weight.grad.tolist()[0]]
    thread = threading.Thread(target=lambda: told.append("thread"))
    thread.start()
    thread.join()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        told.append(pool.map(abs, [-1, -2]))
    told.append(subprocess.run(["/bin/echo", "program"], capture_output=True, text=True).stdout)
    data = torch.utils.data.TensorDataset(torch.arange(4))
    loader = torch.utils.data.DataLoader(data, batch_size=2, num_workers=1)
    told.append([batch.tolist() for (batch,) in loader])
    """
    assert told(worker, code) == [True, [2.0] * 3, "thread", [1, 2], "program\n", [[0, 1], [2, 3]]]


@pytest.mark.skipif(not seccomp.works(), reason="this kernel has no filter of calls that is known here")
def test_where_names_are_forbidden_the_kernel_starts_no_other_program(worker: Worker) -> None:
    code = """
    import subprocess, sys, types
    unheard = types.ModuleType("sys")
    vars(unheard).update(vars(sys), audit=lambda *event: None)
    subprocess.sys = unheard
    try:
        told = subprocess.run(["/bin/true"]).returncode
    except PermissionError as error:
        told = "refused"
    """
    assert told(worker, code) == 0
    outcome = run(worker, code, TOLD, forbidden=("torch.softmax",))
    assert outcome.status == "ok" and not outcome.errors, outcome
    assert not isinstance(outcome.values[0], Raised) and outcome.values[0]["the result"] == "refused"


# --- the memory of all processes together ---------------------------------------------------------------


def test_processes_share_one_limit_of_memory(worker: Worker) -> None:
    code = f"""
    import os, signal
    for _ in range(8):
        if os.fork() == 0:
            held = b"x" * {200 * MEBIBYTE}
            signal.pause()
    signal.pause()
    """
    started = time.monotonic()
    outcome = run(worker, code, TOLD)
    assert (outcome.status, outcome.values) == ("killed", ())
    assert time.monotonic() - started < LIMITS.program
    assert told(worker, "told = 'unharmed'") == "unharmed"


def test_memory_that_processes_share_is_counted_once(worker: Worker) -> None:
    code = f"""
    import os, time
    held = b"x" * {300 * MEBIBYTE}
    readers = [os.fork() for _ in range(4)]
    if 0 in readers:
        time.sleep(1)
        os._exit(held[-1] != ord("x"))
    told = [os.waitpid(reader, 0)[1] for reader in readers]
    """
    assert told(worker, code) == [0] * 4


def test_memory_does_not_hide_behind_a_thread_that_has_ended(worker: Worker) -> None:
    code = f"""
    import ctypes, platform, threading, time
    def hold():
        held = bytearray(b"x") * {900 * MEBIBYTE}
        time.sleep(1000)
    threading.Thread(target=hold).start()
    ctypes.CDLL(None).syscall(60 if platform.machine() == "x86_64" else 93, 0)
    """
    started = time.monotonic()
    outcome = run(worker, code, TOLD)
    assert (outcome.status, outcome.values) == ("killed", ()), outcome
    assert "more memory together" in outcome.message or worker.isolation == "docker"
    assert time.monotonic() - started < LIMITS.program
