"""Every kind of isolation gives the same protection, as root and not; oracles: the kernel, and this machine.

What hostile programs do is in test_sandbox.py; here is what differs between the means that stop them.
"""

from __future__ import annotations

import io
import os
import platform
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from course_lib import doctor
from course_lib.checks.exercise import Case
from course_lib.checks.values import Raised
from course_lib.grading import control_group, sandbox, seccomp, views
from course_lib.grading.confine import Limits
from course_lib.grading.control_group import ControlGroup
from course_lib.grading.sandbox import Outcome, Worker, stage_library
from course_lib.grading.views import View

ROOT = Path(__file__).resolve().parents[2]
LINUX = sys.platform == "linux"
MEBIBYTE = 1 << 20
LIMITS = Limits(program=10, case=5, together=700 * MEBIBYTE)
KINDS = ("bwrap", "bwrap, not root", "namespaces", "namespaces, not root", "docker")
TOLD = "def double(matrix):\n    return told"


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
    # The environment that the tests run in may lie there as well.
    shown = {packages, *map(Path, sandbox.installed_packages())}
    tops = {path.relative_to("/tmp").parts[0] for path in shown if path.is_relative_to("/tmp")}
    answer, course, listed = told(worker, code)
    assert (answer, course, set(listed)) == ("imported late", [], tops)


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


def test_programs_that_run_at_once_meet_nowhere_and_are_counted_apart(worker: Worker) -> None:
    if not worker._shared:
        pytest.skip("such a worker runs one program at a time")
    # Each alone is within the limit, both together are not.
    code = f"""
    import os, signal, socket, time
    held = bytearray(b"x") * {LIMITS.together * 6 // 10}
    line = socket.socket(socket.AF_UNIX)
    line.bind("\\0met")
    open("left", "w").close()
    for number in range(2, 100):
        try:
            os.kill(number, signal.SIGKILL)
        except OSError:
            pass
    time.sleep(1.5)
    told = [os.getpid(), *os.listdir("/scratch"), os.getuid()]
    """
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda _: told(worker, code), range(2)))
    assert [each[:2] for each in found] == [[1, "left"], [1, "left"]]
    assert (found[0][2] != found[1][2]) == worker._as_root


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


# --- without root, without a container, without anything ------------------------------------------------

AS_ANOTHER = """
import os, sys, tempfile
from pathlib import Path
from course_lib.grading.sandbox import Worker, available, privileged, stage_library
os.environ["HOME"] = "/"
with tempfile.TemporaryDirectory() as folder:
    library = stage_library(Path.cwd(), Path(folder) / "library")
    print("privileged", privileged())
    for isolation in ("auto", "namespaces"):
        with Worker(library, isolation=isolation) as worker:
            program = "import os, torch\\nprint(os.getuid(), os.listdir('/scratch'))"
            seen = worker.run([program], "welcome.rows", "1", [])
            print(worker.isolation, seen.status, seen.printed.strip())
"""


@pytest.mark.skipif(
    not LINUX or os.geteuid() != 0, reason="run as another user, the other tests are this one"
)
def test_a_grader_who_is_not_root_has_the_same(tmp_path: Path) -> None:
    if not (sandbox.WORKS["bwrap"]() and doctor.user_namespaces_work() and shutil.which("setpriv")):
        pytest.skip("needs bubblewrap, user namespaces and setpriv")
    base = os.path.realpath(sys.base_prefix)
    # Another user passes neither /root, where Python may lie, nor the folders that tests work in.
    shown = ["bwrap", "--dev-bind", "/", "/", "--cap-add", "ALL"]
    shown += ["--perms", "0755", "--tmpfs", "/root", "--perms", "1777", "--tmpfs", "/tmp"]
    for folder in (base, str(ROOT)):
        shown += [*views._open_parents(folder), "--ro-bind", folder, folder]
    other = ["setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups", "--inh-caps=-all"]
    other += ["--bounding-set=-all", "env", "-u", "TMPDIR", sys.executable, "-c", AS_ANOTHER]
    done = subprocess.run([*shown, *other], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["privileged False", "bwrap ok 1000 []", "namespaces ok 1000 []"]


KILLED = """
import sys
from pathlib import Path
from course_lib.grading.confine import Limits
from course_lib.grading.sandbox import Worker
with Worker(Path(sys.argv[1]), Limits(program=float(sys.argv[2])), "docker") as worker:
    print("started", flush=True)
    worker.run(["while True: pass"], "welcome.rows", "1", [])
"""


def test_no_container_outlives_a_grader_that_is_killed(library: Path) -> None:
    if not LINUX or not sandbox.WORKS["docker"]():
        pytest.skip("docker does not work on this machine")
    # Seen in the command lines of the container's program and of the worker in it.
    mark = f"61.{os.getpid():08d}7"
    grader = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(library), mark], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert grader.stdout is not None and grader.stdout.readline() == "started\n"

    def left() -> int:
        lines = [process.info["cmdline"] or () for process in psutil.process_iter(["cmdline"])]
        return sum(any(f'"program": {mark}' in word for word in line) for line in lines)

    assert left() >= 2
    grader.kill()
    grader.wait()
    deadline = time.monotonic() + 20
    while left() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left() == 0


def test_a_container_is_given_nothing_that_it_does_not_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "_image", lambda program, view: "image")
    view = views.View("/library", (("show", "/usr"), ("empty", "/usr/course_lib")), (("/bin", "usr/bin"),))
    command = views.container("docker", view, Path("/private/socket"), Limits(together=1 << 30, processes=8))
    options = " ".join(command)
    for wanted in ("--network none", "--read-only", "--cap-drop ALL", "no-new-privileges", "--pids-limit 40"):
        assert wanted in options
    assert "--privileged" not in options and "seccomp=unconfined" not in options
    memory = (1 << 30) + Limits().scratch + views.PRELOADED_BYTES
    assert f"--memory {memory} --memory-swap {memory}" in options
    mounts = [word for word in command if word.startswith("type=bind")]
    assert all(mount.endswith(",readonly") for mount in mounts)
    sources = {mount.split(",")[1].removeprefix("source=") for mount in mounts}
    assert sources == {"/usr", "/library", "/private/socket", "/dev/null"}
    assert command[-1] == "image"
    assert "/usr/course_lib:size=1m,mode=0755" in command
    by_podman = views.container("podman", view, Path("/private/socket"), Limits())
    assert "/usr/course_lib:size=1m,mode=0755,notmpcopyup" in by_podman


def test_the_containers_image_holds_folders_and_links_alone() -> None:
    packed = views._packed(views.View("/library", (), (("/bin", "usr/bin"), ("/tmp", "/scratch"))))
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        assert all(member.isdir() or member.issym() for member in archive.getmembers())
        links = {member.name: member.linkname for member in archive.getmembers() if member.issym()}
    assert links == {"bin": "usr/bin", "tmp": "/scratch"}


def test_tmp_is_scratch_unless_the_environment_lies_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "installed_packages", lambda: ["/usr/lib/python3/site-packages"])
    assert ("/tmp", "/scratch") in View.of_this_machine(ROOT).links
    monkeypatch.setattr(views, "installed_packages", lambda: ["/tmp/environment/site-packages"])
    assert ("/tmp", "/scratch") not in View.of_this_machine(ROOT).links


def test_a_kernel_without_such_filters_runs_submissions_all_the_same(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not LINUX or not any(works() for works in sandbox.WORKS.values()):
        pytest.skip("nothing isolates on this machine")
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert not seccomp.works()
    with Worker(library, LIMITS) as worker:
        assert told(worker, "told = 'ran'") == "ran"


@pytest.mark.parametrize("machine", seccomp.MACHINES)
def test_a_filter_jumps_within_itself_and_ends_by_allowing(machine: str) -> None:
    program = seccomp._program(machine, programs=True)
    steps = list(struct.iter_unpack("=HBBI", program))
    assert all(place + 1 + max(yes, no) < len(steps) for place, (_, yes, no, _) in enumerate(steps[:-1]))
    assert steps[-1] == (seccomp.RETURN, 0, 0, seccomp.ALLOW)


# --- a control group ------------------------------------------------------------------------------------


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which this process's own control group lies, on a machine that we make up."""
    (tmp_path / "cgroup.controllers").write_text("memory pids\n")
    (tmp_path / "session" / "mine").mkdir(parents=True)
    monkeypatch.setattr(control_group, "ROOT", tmp_path)
    monkeypatch.setattr(control_group, "OWN", tmp_path / "own")
    (tmp_path / "own").write_text("0::/session/mine\n")
    return tmp_path / "session"


def test_a_control_group_is_made_beside_our_own_with_its_limits(
    groups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Path.mkdir

    def mkdir(path: Path) -> None:
        made(path)
        for name in ("memory.max", "pids.max", "cgroup.procs"):
            (path / name).touch()

    monkeypatch.setattr(Path, "mkdir", mkdir)
    group = ControlGroup.make(1 << 30, 40)
    assert group is not None and group.path.parent == groups
    assert (group.path / "memory.max").read_text() == str(1 << 30)
    assert (group.path / "pids.max").read_text() == "40"
    group.take_in(4711)
    assert (group.path / "cgroup.procs").read_text() == "4711"


def test_no_group_is_left_where_memory_cannot_be_limited(groups: Path) -> None:
    assert ControlGroup.make(1 << 30, 40) is None
    assert [path.name for path in groups.iterdir()] == ["mine"]


@pytest.mark.skipif(not control_group.works(), reason="no control group can be made on this machine")
def test_a_real_control_group_limits_memory() -> None:
    group = ControlGroup.make(1 << 30, 40)
    assert group is not None
    code = "input(); bytearray(b'x') * (2 << 30)"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        group.take_in(process.pid)
        process.communicate(b"\n")
    group.remove()
    assert process.returncode == -signal.SIGKILL and not group.path.exists()
