"""Hostile programs in the sandbox: each one is contained, and the next submission gets its right values.

Oracles: the kernel's own errors, the processes and files of this machine, and 2 · x computed here.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from course_lib.checks.exercise import Case
from course_lib.checks.values import Array, Opaque, Raised
from course_lib.grading import sandbox, seccomp
from course_lib.grading.confine import Limits
from course_lib.grading.sandbox import (
    NoIsolation,
    Outcome,
    SandboxFailure,
    Worker,
    available,
    stage_library,
)

ROOT = Path(__file__).resolve().parents[2]
LIMITS = Limits(program=2.5, case=1.5, printed=1000)
THERE = sys.platform == "linux" and available()["bubblewrap"]
confined = pytest.mark.skipif(not THERE, reason="bubblewrap does not work on this machine")
HONEST = "def double(matrix):\n    return 2 * matrix"
MATRIX = np.arange(6, dtype=np.float32).reshape(2, 3)
# What every learner's process is allowed to be seen doing by these programs: answer with text.
TOLD = "def double(matrix):\n    return told"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stage_library(ROOT, tmp_path_factory.mktemp("staged") / "library")


@pytest.fixture(scope="module")
def worker(library: Path) -> Iterator[Worker]:
    """One worker for all attacks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_SECRET", "the grader's own")
        with Worker(library, LIMITS) as made:
            yield made


@pytest.fixture(scope="module")
def in_user_namespace(library: Path) -> Iterator[Worker]:
    """A worker as it is made for a person who is not root, whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox, "privileged", lambda: False)
        with Worker(library, LIMITS) as made:
            yield made


@pytest.fixture(scope="module")
def by_own_calls(library: Path) -> Iterator[Worker]:
    """A worker for a machine without bubblewrap."""
    with Worker(library, LIMITS, isolation="namespaces") as made:
        yield made


@pytest.fixture(params=["worker", "in_user_namespace", "by_own_calls"])
def either(request: pytest.FixtureRequest) -> Any:
    """Each kind of worker, for what namespaces and privileges do."""
    return request.getfixturevalue(request.param)


def case(seed: int = 0) -> Case:
    return Case(f"case {seed}", {"matrix": MATRIX + seed, "dtype": "float32"}, hidden=True)


def run(worker: Worker, *cells: str, count: int = 1, **more: Any) -> Outcome:
    program = [textwrap.dedent(cell) for cell in cells]
    return worker.run(program, "welcome.rows", "double", [case(seed) for seed in range(count)], **more)


def result(outcome: Outcome, index: int = 0) -> Any:
    values = outcome.values[index]
    return values if isinstance(values, Raised) else values["the result"]


def assert_unharmed(worker: Worker) -> None:
    """The next submission gets its right values, in full."""
    before = worker.pid
    outcome = run(worker, "import torch", HONEST, count=3)
    assert (outcome.status, outcome.errors, outcome.printed) == ("ok", {}, ""), outcome
    for seed in range(3):
        assert np.array_equal(result(outcome, seed).data, 2 * (MATRIX + seed))
    assert worker.pid == before


def told(worker: Worker, code: str) -> Any:
    """What a program that sets `told` says."""
    outcome = run(worker, code, TOLD)
    assert outcome.status == "ok", outcome
    assert not outcome.errors, outcome.errors
    return result(outcome)


ATTEMPT = """
def attempt(action):
    try:
        action()
    except OSError as error:
        return type(error).__name__ + " " + str(error.errno)
    return "done"
"""


# --- honest programs ------------------------------------------------------------------------------------


@confined
def test_values_come_back_as_the_check_itself_would_see_them(either: Worker) -> None:
    outcome = run(either, "import torch\nprint('from a cell')", HONEST, count=2)
    assert outcome.status == "ok"
    assert outcome.printed == "from a cell\n"
    found = result(outcome, 1)
    assert isinstance(found, Array)
    assert (found.dtype, found.container, found.device) == ("float32", "torch.Tensor", "cpu")
    assert np.array_equal(found.data, 2 * (MATRIX + 1))
    assert [values["the inputs"] for values in outcome.values if not isinstance(values, Raised)] == [
        "as they were"
    ] * 2


@confined
def test_a_cell_that_raises_is_noted_and_the_rest_runs(worker: Worker) -> None:
    outcome = run(worker, "x = 1\n1 / 0", "def broken(:", "raise SystemExit(3)", HONEST)
    assert outcome.status == "ok"
    assert outcome.errors[0] == Raised("ZeroDivisionError", "division by zero", 2, "1 / 0")
    assert [outcome.errors[index].type_name for index in (1, 2)] == ["SyntaxError", "SystemExit"]


@confined
def test_an_answer_that_is_not_there_is_an_error(worker: Worker) -> None:
    outcome = run(worker, "x = 1")
    assert (outcome.status, outcome.values) == ("error", ())
    assert outcome.problem is not None and outcome.problem.type_name == "NameError"


@confined
def test_exceptions_changed_inputs_and_forbidden_names_are_told(worker: Worker) -> None:
    outcome = run(worker, "def double(matrix):\n    raise ValueError('no')", count=2)
    assert outcome.values == (Raised("ValueError", "no", 2, "raise ValueError('no')"),) * 2
    outcome = run(worker, "def double(matrix):\n    return matrix.mul_(2)")
    assert not isinstance(outcome.values[0], Raised)
    assert outcome.values[0]["the inputs"] == "changed"
    cheat = "import torch\nother = getattr(torch, 'soft' + 'max')\ndef double(m):\n    return other(m, -1)"
    assert run(worker, cheat).status == "ok"
    caught = run(worker, cheat, forbidden=["aten::_softmax"])
    assert caught.values == (Raised("ForbiddenCall", "aten::_softmax"),)


@confined
def test_cells_do_not_inherit_how_the_worker_is_compiled(worker: Worker) -> None:
    assert told(worker, "def f(x: int): ...\ntold = str(f.__annotations__)") == "{'x': <class 'int'>}"


@confined
def test_cases_are_drawn_one_at_a_time(worker: Worker) -> None:
    drawn = []

    def draw() -> Iterator[Case]:
        for seed in range(5):
            drawn.append(seed)
            yield case(seed)

    code = (
        "import os\ncalls = []\ndef double(m):\n    calls.append(1)\n    return len(calls) < 3 or os._exit(7)"
    )
    outcome = worker.run([code], "welcome.rows", "double", draw())
    assert outcome.status == "killed"
    assert "exit code 7" in outcome.message
    assert len(outcome.values) == 2
    assert drawn == [0, 1, 2]


@confined
def test_programs_that_are_no_programs_are_errors_of_their_own(worker: Worker) -> None:
    outcome = run(worker, "x = 1\0", "'\ud800'", "(" * 5000, "\x0c\u2028 = 3", HONEST)
    assert outcome.status == "ok"
    assert {0, 2, 3} <= set(outcome.errors)
    outcome = run(worker, "x = '" + "x" * 5_000_000 + "'", HONEST)
    assert (outcome.status, outcome.values) == ("error", ())
    assert "too large" in outcome.message
    assert_unharmed(worker)


# --- what is not to be seen -----------------------------------------------------------------------------


@confined
def test_files_of_this_machine_cannot_be_read(either: Worker, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("the reference")
    secret.chmod(0o644)
    wanted = [str(secret), "/etc/passwd", "/etc/shadow", str(ROOT / "solutions"), str(ROOT / "course_lib")]
    wanted += [__file__, "/proc/1/environ", "/proc/self/environ", "/sys", "/var", "/home/"]
    assert told(either, f"import os\ntold = [path for path in {wanted!r} if os.path.exists(path)]") == []


@confined
def test_no_reference_lies_in_the_library(worker: Worker, library: Path) -> None:
    code = """
    import os
    told = "\\n".join(os.path.join(folder, name) for top in ("/course", "/tmp")
                      for folder, _, names in os.walk(top) for name in names)
    """
    files = told(worker, textwrap.dedent(code)).splitlines()
    assert "/course/course_lib/checks/probes/welcome.py" in files
    assert not [name for name in files if "/checks/0" in name or "solution" in name or "authoring" in name]
    grading = {Path(name).name for name in files if "/grading/" in name}
    assert grading == {"__init__.py", *sandbox.STAGED_OF_GRADING}
    assert grading.isdisjoint({"decide.py", "book.py", "graft.py", "sandbox.py", "views.py"})
    assert sorted(path.name for path in library.rglob("06_*")) == []


@confined
def test_the_environment_is_not_the_graders(either: Worker) -> None:
    names = told(either, "import os\ntold = sorted(os.environ)")
    assert "OMP_NUM_THREADS" in names
    assert not [name for name in names if name.startswith(("COURSE", "PYTEST", "SSH", "GIT"))]


@confined
def test_there_is_no_network(either: Worker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        code = f"""
        import socket
        told = [attempt(lambda: socket.create_connection(("127.0.0.1", {port}), timeout=1)),
                attempt(lambda: socket.create_connection(("192.0.2.1", 80), timeout=1))]
        """
        found = told(either, ATTEMPT + textwrap.dedent(code))
        # 101 is ENETUNREACH; a loopback of the sandbox's own, where it is up, refuses; a filter comes before.
        assert found[0] in ("ConnectionRefusedError 111", "OSError 101", "PermissionError 1")
        assert found[1] in ("OSError 101", "PermissionError 1")
        with pytest.raises(TimeoutError):
            server.accept()


@confined
def test_abstract_sockets_of_this_machine_cannot_be_reached(either: Worker) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0course-test-{os.getpid()}")
        server.listen()
        code = f"""
        import socket
        told = attempt(lambda: socket.socket(socket.AF_UNIX).connect("\\0course-test-{os.getpid()}"))
        """
        assert told(either, ATTEMPT + textwrap.dedent(code)) == "ConnectionRefusedError 111"


@confined
def test_no_privilege_is_left(either: Worker) -> None:
    code = """
    import ctypes, os
    libc = ctypes.CDLL(None, use_errno=True)
    def call(name, *arguments):
        return getattr(libc, name)(*arguments)
    told = [os.getuid() != 0, attempt(lambda: os.chroot("/tmp")), call("sethostname", b"x", 1),
            call("mount", b"none", b"/tmp", b"tmpfs", 0, None), call("umount", b"/proc")]
    told += [attempt(lambda: os.setuid(0)) != "done"]
    """
    assert told(either, ATTEMPT + textwrap.dedent(code)) == [True, "PermissionError 1", -1, -1, -1, True]


@confined
def test_nothing_is_left_for_the_next_submission(either: Worker) -> None:
    leave = """
    import ctypes, os
    for folder in ("/tmp", "/dev/shm", os.getcwd()):
        open(os.path.join(folder, "left"), "w").write("my answer")
    told = ctypes.CDLL(None).shmget(4711, 4096, 0o1666)
    """
    look = """
    import ctypes, os
    told = [os.listdir("/tmp"), os.listdir("/dev/shm"), os.getcwd(), ctypes.CDLL(None).shmget(4711, 0, 0)]
    """
    assert (told(either, textwrap.dedent(leave)) >= 0) is not seccomp.works()
    assert told(either, textwrap.dedent(look)) == [[], [], "/scratch", -1]


@confined
def test_nothing_outside_scratch_can_be_written(either: Worker, library: Path) -> None:
    packages = sandbox.installed_packages()[0]
    code = f"""
    places = ["/", "/usr", "/course", "/course/course_lib/checks", "/etc", "/dev", "/proc", {packages!r}]
    told = [attempt(lambda: open(place + "/planted.py", "w")) for place in places]
    """
    found = told(either, ATTEMPT + textwrap.dedent(code))
    assert len(found) == 8 and "done" not in found
    assert not (Path(packages) / "planted.py").exists() and not list(library.rglob("planted.py"))


# --- what is to be stopped ------------------------------------------------------------------------------


def alive(worker: Worker) -> set[int]:
    """The worker's processes, without those that have ended and are not waited for yet."""
    assert worker.pid is not None
    found = set()
    for process in psutil.Process(worker.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.add(process.pid)
    return found


def has_left_nothing(worker: Worker, before: set[int]) -> bool:
    """Whether soon no process is there that was not before."""
    deadline = time.monotonic() + 5
    while not alive(worker) <= before and time.monotonic() < deadline:
        time.sleep(0.02)
    return alive(worker) <= before


STOPPED = {
    "os._exit in a cell": ("killed", "import os\nos._exit(0)"),
    "os._exit in the answer": ("killed", "import os\ndef double(m):\n    os._exit(0)"),
    "infinite loop": ("timeout", "while True:\n    pass"),
    "infinite loop in the answer": ("timeout", "def double(m):\n    while True:\n        pass"),
    "a loop that catches everything": (
        "timeout",
        """
        import signal
        for number in range(1, 32):
            try:
                signal.signal(number, signal.SIG_IGN)
            except OSError:
                pass
        while True:
            try:
                while True:
                    pass
            except BaseException:
                pass
        """,
    ),
    "fork bomb": (
        "timeout",
        """
        import os
        while True:
            try:
                os.fork()
            except OSError:
                pass
        """,
    ),
    "abort": ("killed", "import os\nos.abort()"),
    "a crash": ("killed", "import ctypes\nctypes.string_at(0)"),
    "the connection closed": ("killed", "import os\nos.closerange(0, 100)\n"),
}


@confined
@pytest.mark.parametrize("name", STOPPED)
def test_programs_that_do_not_end_well_are_ended(worker: Worker, name: str) -> None:
    status, code = STOPPED[name]
    assert run(worker, HONEST).status == "ok"
    before = alive(worker)
    started = time.monotonic()
    outcome = run(worker, HONEST, code)
    assert (outcome.status, outcome.values) == (status, ()), outcome
    assert time.monotonic() - started < 12
    assert_unharmed(worker)
    assert has_left_nothing(worker, before)


@confined
def test_processes_that_outlive_the_program_are_ended(either: Worker) -> None:
    code = """
    import os, signal, time
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                time.sleep(1000)
            os._exit(0)
    told = "left"
    """
    assert run(either, HONEST).status == "ok"
    before = alive(either)
    assert told(either, textwrap.dedent(code)) == "left"
    assert has_left_nothing(either, before)
    assert_unharmed(either)


@confined
def test_what_one_program_printed_is_not_in_the_memory_of_the_next(either: Worker) -> None:
    assert run(either, HONEST, "for number in range(500):\n    print('written by', 'anna')").printed
    code = """
    import ctypes, os
    out, into = os.pipe()

    def there(address):
        try:
            os.write(into, (ctypes.c_char * 4096).from_address(address))
        except OSError:
            return False
        return bool(os.read(out, 4096))

    def around(address):
        begin = end = address // 4096 * 4096
        while there(begin - 4096):
            begin -= 4096
        while there(end):
            end += 4096
        return ctypes.string_at(begin, end - begin)

    sbrk = ctypes.CDLL(None).sbrk
    sbrk.restype = ctypes.c_void_p
    places = (sbrk(ctypes.c_ssize_t(0)) - 8192, id(os), id(there))
    told = sum(around(place).count(b" ".join([b"written by", b"anna"])) for place in places)
    """
    # The words that are looked for are there themselves.
    assert told(either, textwrap.dedent(code)) < 10


@confined
def test_killing_others_kills_no_one_outside(either: Worker) -> None:
    code = """
    import os, signal
    for target in (os.getppid(), 1, 2, -1, 0):
        try:
            os.kill(target, signal.SIGKILL)
        except OSError:
            pass
    told = "still here"
    """
    run(either, textwrap.dedent(code), TOLD)
    assert_unharmed(either)


@confined
def test_processes_are_counted(worker: Worker) -> None:
    code = """
    import os, signal
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    told = 0
    try:
        while told < 1000:
            if os.fork() == 0:
                signal.pause()
            told += 1
    except OSError:
        pass
    """
    assert 0 < told(worker, textwrap.dedent(code)) < LIMITS.processes
    assert_unharmed(worker)


@confined
def test_memory_is_limited(worker: Worker) -> None:
    code = "import torch\ndef double(m):\n    return torch.ones(50 * 10**9 // 4)"
    found = result(run(worker, code))
    assert isinstance(found, Raised) and "allocate memory" in found.message
    found = result(run(worker, "def double(m):\n    return bytearray(50 * 10**9)"))
    assert isinstance(found, Raised) and found.type_name == "MemoryError"
    assert_unharmed(worker)


@confined
def test_files_are_limited(worker: Worker) -> None:
    code = """
    def large():
        with open("large", "wb") as file:
            for _ in range(10_000):
                file.write(bytes(1_000_000))
    def many():
        for number in range(100_000):
            open(f"small-{number}", "wb").close()
    def several():
        for number in range(100):
            open(f"medium-{number}", "wb").write(bytes(10_000_000))
    told = [attempt(large), attempt(several), attempt(many)]
    """
    assert told(worker, ATTEMPT + textwrap.dedent(code)) == ["OSError 27", "OSError 28", "OSError 28"]
    assert_unharmed(worker)


@confined
def test_a_flood_of_output_is_capped_and_costs_nothing(worker: Worker) -> None:
    outcome = run(worker, "line = 'x' * 1_000_000\nfor _ in range(200):\n    print(line)", HONEST)
    assert outcome.status == "ok"
    assert outcome.printed == "x" * LIMITS.printed
    assert np.array_equal(result(outcome).data, 2 * MATRIX)
    assert_unharmed(worker)


# --- what is not to be believed -------------------------------------------------------------------------

SEND = """
import os, socket
from course_lib.grading.protocol import encode
from course_lib.checks.values import Raised
def send(data):
    os.write(3, data)
done = {"errors": {}, "problem": None}
reply = {"case": 0, "values": {"the result": 1}, "changed": False}
"""
FORGED = {
    "the program's end, early": "send(encode(done))",
    "a reply, early": "send(encode(done) + encode(reply))",
    "a reply too many": "def double(m):\n    send(encode(reply))\n    return 1",
    "a reply to another case": "def double(m):\n    send(encode(reply | {'case': 1}))\n    os._exit(0)",
    "a truth value as number": "def double(m):\n    send(encode(reply | {'case': False}))\n    os._exit(0)",
    "a value that is no normalised one": (
        "import numpy as np\n"
        "def double(m):\n    send(encode(reply | {'values': {'the result': np.ones(2)}}))\n    os._exit(0)"
    ),
    "more keys": "def double(m):\n    send(encode(reply | {'passed': True}))\n    os._exit(0)",
    "an exception as a reply": "def double(m):\n    send(encode(Raised('a', 'b')))\n    os._exit(0)",
    "a pickle": "import pickle\ndef double(m):\n    send(pickle.dumps(print))\n    os._exit(0)",
    "an endless frame": "def double(m):\n    send(b'CFR1' + b'\\xff' * 12)\n    os._exit(0)",
    "half a frame": "def double(m):\n    send(encode(reply)[:-1])\n    os._exit(0)",
    "nonsense": "send(b'x' * 1000)",
}


@confined
@pytest.mark.parametrize("name", FORGED)
def test_forged_replies_are_violations(worker: Worker, name: str) -> None:
    outcome = run(worker, HONEST, SEND, FORGED[name], count=2)
    assert (outcome.status, outcome.values) == ("violation", ()), outcome
    assert_unharmed(worker)


@confined
def test_hostile_values_are_told_by_their_type_alone(worker: Worker) -> None:
    code = """
    import torch
    class Yes:
        __eq__ = lambda self, other: True
        __reduce__ = lambda self: (print, ("unpickled",))
        __array__ = lambda self: 1 / 0
    class Liar:
        @property
        def __class__(self):
            return torch.Tensor
    class Number(int):
        __eq__ = lambda self, other: True
        __hash__ = None
    class Text(str):
        __eq__ = lambda self, other: True
    values = iter([Yes(), [{"a": Yes()}], Liar(), Number(3), Text("a")])
    def double(matrix):
        return next(values)
    """
    outcome = run(worker, textwrap.dedent(code), count=5)
    assert outcome.status == "ok"
    assert result(outcome, 0) == Opaque("Yes")
    assert result(outcome, 1) == [{"a": Opaque("Yes")}]
    assert result(outcome, 2) == Opaque("Liar")
    assert (result(outcome, 3), result(outcome, 4)) == (3, "a")
    assert_unharmed(worker)


@confined
def test_a_value_too_large_is_named_and_not_sent(worker: Worker) -> None:
    found = result(run(worker, "import torch\ndef double(m):\n    return torch.zeros(20_000_000)"))
    assert isinstance(found, Opaque)
    found = result(run(worker, "def double(m):\n    return 'x' * 50_000_000"))
    assert isinstance(found, Opaque)
    found = result(run(worker, "def double(m):\n    raise ValueError('x' * 50_000_000)"))
    assert isinstance(found, Raised) and found.type_name == "ValueError"
    assert_unharmed(worker)


@confined
def test_replaced_modules_die_with_the_submission(worker: Worker) -> None:
    code = """
    import sys, types, os
    os.makedirs("course_lib/checks")
    open("torch.py", "w").write("raise RuntimeError('shadowed')")
    open("course_lib/__init__.py", "w").write("raise RuntimeError('shadowed')")
    sys.path.insert(0, os.getcwd())
    import torch
    torch.as_tensor = lambda data: 1 / 0
    sys.modules["torch"] = sys.modules["numpy"] = types.ModuleType("torch")
    import course_lib.grading.worker as worker
    worker._run_case = lambda *given: ({"the result": 42}, False)
    """
    outcome = run(worker, textwrap.dedent(code), HONEST)
    # It may lie about its own values, which then are not the right ones.
    assert outcome.status == "ok" and result(outcome) == 42
    assert_unharmed(worker)


# --- the machinery --------------------------------------------------------------------------------------


@confined
def test_a_worker_that_is_killed_is_the_machinerys_fault_and_comes_back(library: Path) -> None:
    with Worker(library, LIMITS) as worker:
        assert run(worker, HONEST).status == "ok"
        assert worker.pid is not None

        def kill() -> None:
            time.sleep(0.5)
            os.killpg(worker.pid or 0, signal.SIGKILL)

        thread = threading.Thread(target=kill)
        thread.start()
        with pytest.raises(SandboxFailure):
            run(worker, "import time\ntime.sleep(3)", HONEST)
        thread.join()
        assert run(worker, HONEST).status == "ok"


GRADER = """
import sys, time
from pathlib import Path
from course_lib.checks.exercise import Case
from course_lib.grading.sandbox import Worker
with Worker(Path(sys.argv[1])) as worker:
    print(worker.pid, flush=True)
    worker.run(["import time; time.sleep(60)"], "welcome.rows", "x", [])
"""


@confined
def test_nothing_outlives_a_grader_that_is_killed(library: Path) -> None:
    grader = subprocess.Popen(
        [sys.executable, "-c", GRADER, str(library)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert grader.stdout is not None
    worker = psutil.Process(int(grader.stdout.readline()))
    time.sleep(0.3)
    everyone = [worker, *worker.children(recursive=True)]
    assert len(everyone) >= 4  # bubblewrap, its process 1, the worker, a supervisor
    grader.kill()
    grader.wait()
    _, left = psutil.wait_procs(everyone, timeout=5)
    assert [process for process in left if process.status() != psutil.STATUS_ZOMBIE] == []


def test_without_isolation_it_refuses_and_says_why(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in sandbox.WORKS:
        monkeypatch.setitem(sandbox.WORKS, name, lambda: False)
    for asked in ("auto", *sandbox.WORKS):
        with pytest.raises(NoIsolation, match="read and change everything that you can"):
            Worker(library, isolation=asked)
    with pytest.raises(ValueError, match="isolation='jail', expected one of auto, bwrap, namespaces, docker"):
        Worker(library, isolation="jail")


def test_the_best_means_that_works_is_taken(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for works in (("bwrap", "namespaces", "docker"), ("namespaces", "docker"), ("docker",)):
        for name in sandbox.WORKS:
            monkeypatch.setitem(sandbox.WORKS, name, functools.partial(bool, name in works))
        assert Worker(library).isolation == works[0]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot fork")
def test_without_isolation_programs_still_end_as_a_group(library: Path, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    orphan = f"""
    import os, time
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            open({str(mark)!r}, "w").write(str(os.getpid()))
            time.sleep(1000)
        os._exit(0)
    while not os.path.exists({str(mark)!r}):
        time.sleep(0.01)
    time.sleep(0.1)
    """
    with Worker(library, LIMITS, isolation="none") as worker:
        assert_unharmed(worker)
        assert run(worker, orphan, HONEST).status == "ok"
        assert not psutil.pid_exists(int(mark.read_text()))
        assert run(worker, HONEST, "while True:\n    pass").status == "timeout"
        assert run(worker, HONEST, "import os\nos._exit(5)").message.endswith("(exit code 5).")
        assert_unharmed(worker)


def test_the_deciding_process_never_imports_torch() -> None:
    code = "import sys, course_lib.grading.sandbox; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
