"""The grader's side of the sandbox: start a worker, hand it programs, and believe nothing that it says.

    with Worker(library, Limits()) as worker:
        outcome = worker.run(cells, "attention.sdpa", "scaled_dot_product_attention", cases)

The worker process (`course_lib.grading.worker`) is started once, inside namespaces, and forks for each
program. This process never imports torch. It draws a case only when the case before is answered.

What it does not do: show a GPU, or withstand a fault in the kernel itself. All memory of a submission is
limited exactly where a control group can be made (`control_group`, and in a container); elsewhere it is
looked at many times a second (`watch`), and shared memory that no process has mapped in is not seen. The
kernel is told to end learners' processes first where memory runs out.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import queue
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, NoReturn, Self

import numpy as np

from .. import doctor
from ..checks.compare import INPUTS
from ..checks.exercise import Case
from ..checks.values import Array, Opaque, Raised
from . import seccomp
from .confine import Limits
from .control_group import ControlGroup
from .protocol import Channel, ChannelClosed, OutOfTime, ProtocolError, encode
from .views import (
    CONTROL,
    COURSE,
    SCRATCH,
    View,
    bubblewrap,
    container,
    environment,
    installed_packages,
    of_supervisor,
    own_calls,
    privileged,
)

START_SECONDS = 180.0
# Far from the users that systems and containers give out; times the largest process id, below 2^31.
FIRST_UID, UIDS_OF_WORKER = 1_600_000_000, 64
FIRST_UID_IN_CONTAINER = 50_000
POLL_SECONDS, CONTAINER_ENDS_SECONDS = 0.2, 10.0
ANSWER_SECONDS = 15.0
# Of course_lib, what a learner's process may read. The rest decides, or holds references.
NOT_STAGED = ("authoring", "__pycache__", "*.pyc", "[0-9][0-9]_*.py")
STAGED_OF_GRADING = (
    "__init__.py",
    "confine.py",
    "forbidding.py",
    "protocol.py",
    "seccomp.py",
    "watch.py",
    "worker.py",
)
# confine.py by itself, before anything else is imported: afterwards the old paths are gone.
ENTER = (
    "import importlib.util as u, json, sys; s = u.spec_from_file_location('alone', {confine!r});"
    " m = u.module_from_spec(s); sys.modules['alone'] = m; s.loader.exec_module(m);"
    " m.enter(json.loads(sys.argv[2])); "
)
BOOT = "import sys; sys.path[:0] = {paths!r}; from course_lib.grading.worker import main; main(sys.argv[1])"


class NoIsolation(RuntimeError):
    """Nothing on this machine keeps a learner's code apart from the rest of it."""


class SandboxFailure(RuntimeError):
    """The machinery failed, not the submission: what was being graded is ungraded."""


@dataclass(frozen=True)
class Outcome:
    """What came of one program.

    status: "ok" (every case was answered), "error" (there was nothing to try: the expression could not
    be evaluated), "timeout", "killed" (the process ended itself or was ended by a limit) or "violation"
    (it sent what no honest worker sends). values: one entry for each case answered, as
    `checks.engine.run_answer` gives them; none after a violation. errors: exceptions by cell.
    problem: what the expression raised. seconds: for each value, the wall time from before its case was
    sent until the answer was here, by this process's own clock.
    """

    status: str
    values: tuple[dict[str, Any] | Raised, ...] = ()
    message: str = ""
    printed: str = ""
    errors: dict[int, Raised] = field(default_factory=dict)
    problem: Raised | None = None
    seconds: tuple[float, ...] = ()


@functools.cache
def _bubblewrap_works() -> bool:
    return doctor.bubblewrap_works()


@functools.cache
def _namespaces_work() -> bool:
    return sys.platform == "linux" and (privileged() or doctor.user_namespaces_work())


@functools.cache
def _container_program() -> str | None:
    return doctor.container_program() if sys.platform == "linux" else None


def available() -> dict[str, bool]:
    """Which means of isolation work on this machine."""
    found = {name: works() for name, works in WORKS.items()}
    return {"bubblewrap": found.pop("bwrap")} | found


# In the order in which "auto" takes them.
WORKS: dict[str, Callable[[], bool]] = {
    "bwrap": lambda: _bubblewrap_works(),
    "namespaces": lambda: _namespaces_work(),
    "docker": lambda: _container_program() is not None,
}


def stage_library(root: Path, into: Path, instead: Path | None = None) -> Path:
    """Copy of `root/course_lib` a learner's process may read; returns `into`, to be given to `Worker`.

    Left out: the entries of the exercises, whose references are answers, and the code that decides.
    instead: a folder with files that take the place of those of the same name.
    """

    def left_out(folder: str, names: list[str]) -> set[str]:
        ignored = set(shutil.ignore_patterns(*NOT_STAGED)(folder, names))
        if Path(folder).name == "grading":
            ignored |= set(names) - set(STAGED_OF_GRADING)
        return ignored

    shutil.copytree(root / "course_lib", into / "course_lib", ignore=left_out)
    if instead:
        shutil.copytree(instead, into, dirs_exist_ok=True)
    # Learners' processes run as users that own nothing.
    for path in (into, *into.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return into


class Worker:
    """A preloaded process that runs learners' programs, for several threads at once where it `can_be_shared`.

    library: a staged copy of the library, as `stage_library` makes it. isolation: "auto" takes "bwrap"
    (bubblewrap), else "namespaces" (the same by Linux's own calls), else "docker" (a container of docker
    or podman), and refuses (NoIsolation) without any; "none" runs submissions with the rights of whoever
    grades. preload: further modules to import before the first submission.
    Enter it in a thread that lives as long as the worker: Linux ends the worker with that thread.
    """

    def __init__(
        self,
        library: Path,
        limits: Limits | None = None,
        isolation: str = "auto",
        preload: Sequence[str] = (),
    ) -> None:
        self.library = library.resolve()
        self.limits = limits or Limits()
        self.isolation = chosen(isolation)
        self.preload = tuple(preload)
        self._lock = threading.Lock()
        self._closed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._control: Channel | None = None
        self._ready = False
        self._said: Any = None
        self._as_root = self.isolation == "docker" or (self.isolation != "none" and privileged())
        self._shared = can_be_shared(self.isolation)
        self._idle: list[_Supervisor] = []
        self._users: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in range(UIDS_OF_WORKER):
            self._users.put(number)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def begin(self) -> None:
        """Start the preloaded process where it does not run, and do not wait until it has imported all."""
        with self._lock:
            self._begin()

    def start(self) -> None:
        """Start the preloaded process where it does not run, and wait for it. Raises SandboxFailure."""
        with self._lock:
            self._begin()
            self._await()

    def close(self) -> None:
        """End the worker and everything in it, for good."""
        self._closed = True
        # First, because it ends what other threads are waiting for.
        self._kill()
        with self._lock:
            self._end()

    @property
    def pid(self) -> int | None:
        """The outermost process of the worker, None where none is running."""
        return self._process.pid if self._process else None

    def run(
        self,
        program: Sequence[str],
        probe: str,
        expression: str,
        cases: Iterable[Case],
        *,
        forbidden: Sequence[str] = (),
        seconds: float | None = None,
    ) -> Outcome:
        """Run the program's cells in a new process, then try `expression` on each case.

        probe: "topic.name" in `course_lib.checks.probes`. seconds: for one case, else the limit's.
        Raises SandboxFailure where the machinery failed; the next call starts what it needs anew.
        """
        task: dict[str, Any] = {"program": list(program), "probe": probe, "expression": expression}
        try:
            supervisor = self._supervisor(tuple(forbidden))
            with self._scratch() as scratch, self._user() as user:
                job = {"scratch": scratch, "uid": user}
                return self._run(supervisor, job, task, cases, seconds or self.limits.case)
        except (SandboxFailure, ChannelClosed, OutOfTime, ProtocolError, OSError) as error:
            raise SandboxFailure(f"The sandbox failed: {error or type(error).__name__}.") from error

    def _run(
        self,
        supervisor: _Supervisor,
        job: dict[str, Any],
        task: dict[str, Any],
        cases: Iterable[Case],
        seconds: float,
    ) -> Outcome:
        """What came of the program; the supervisor is idle afterwards, or closed where anything failed."""
        try:
            with tempfile.TemporaryFile() as printed:
                talk = _Conversation(supervisor.begin(job, printed), self.limits.program, seconds)
                with talk.channel.connection:
                    if problem := talk.trouble():
                        raise SandboxFailure(f"{problem} {supervisor.reason() or self._last_words()}")
                    talk.hold(task, cases)
                    outcome = talk.outcome(supervisor.end(), _beginning(printed, self.limits.printed))
        except BaseException:
            supervisor.close()
            raise
        if not self._shared:
            supervisor.close()
            return outcome
        with self._lock:
            self._idle.append(supervisor)
        return outcome

    def _scratch(self) -> contextlib.AbstractContextManager[str]:
        """The folder to work in; in namespaces, each program is given an own one of the same name."""
        if self.isolation == "none":
            return tempfile.TemporaryDirectory(prefix="course-scratch-")
        return contextlib.nullcontext(SCRATCH)

    @contextlib.contextmanager
    def _user(self) -> Iterator[int | None]:
        """A user that no other program has, nor had a short while ago; None where none can be had."""
        number = self._users.get()
        try:
            yield self._uid(number) if self._as_root else None
        finally:
            self._users.put(number)

    def _uid(self, number: int) -> int:
        number += (self.pid or 0) * UIDS_OF_WORKER
        # A container of a person who is not root has the first 65,536 users alone.
        return FIRST_UID_IN_CONTAINER + number % 10_000 if self.isolation == "docker" else FIRST_UID + number

    def _supervisor(self, forbidden: tuple[str, ...]) -> _Supervisor:
        """An idle supervisor that refuses these names, or a new one; a worker that has ended is started."""
        self.start()
        with self._lock:
            found = next((idle for idle in self._idle if idle.forbidden == forbidden), None)
            if found:
                self._idle.remove(found)
                return found
            if self._control is None:
                raise ChannelClosed
            ours, theirs = socket.socketpair()
            with theirs:
                socket.send_fds(self._control.connection, [b"s"], [theirs.fileno()])
            self._control.send({"forbidden": list(forbidden)}, _after(ANSWER_SECONDS))
        grouped = self.isolation in ("bwrap", "namespaces")
        return _Supervisor.met(ours, forbidden, of_supervisor(self.limits) if grouped else None)

    # --- starting and ending ----------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._closed:
            raise SandboxFailure("The worker has been closed.")
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._said = tempfile.TemporaryFile()  # noqa: SIM115
            try:
                self._control = Channel(self._connected())
            except (ChannelClosed, OSError) as error:
                self._fail(str(error))

    def _await(self) -> None:
        if self._ready:
            return
        assert self._control is not None
        try:
            first = self._control.receive(_after(START_SECONDS))
        except (ChannelClosed, OutOfTime, ProtocolError) as error:
            first = {"failed": str(error) or "it ended, or did not answer"}
        if "ready" not in first:
            self._fail(str(first.get("failed")))
        self._ready = True

    def _fail(self, reason: str) -> NoReturn:
        said = self._last_words()
        self._end()
        raise SandboxFailure(f"The worker did not start: {reason}. {said}".strip())

    def _kill(self) -> None:
        if (process := self._process) and process.poll() is None:
            # A container ends by itself when nobody is at the other end; its command line ends with it.
            if self.isolation == "docker":
                with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                    if self._control:
                        self._control.connection.shutdown(socket.SHUT_RDWR)
                    process.wait(CONTAINER_ENDS_SECONDS)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def _end(self) -> None:
        if self._control:
            self._control.close()
        if self._process:
            self._kill()
            self._process.wait()
            self._said.close()
        for supervisor in self._idle:
            supervisor.close()
        self._process, self._control, self._ready, self._idle = None, None, False, []

    def _connected(self) -> socket.socket:
        """Start the worker; the grader's end of the line to it."""
        if self.isolation == "docker":
            return self._connected_by_name()
        ours, theirs = socket.socketpair()
        with theirs:
            number = theirs.fileno()
            variables = None if self.isolation == "none" else environment()
            self._launch(self._command(number), variables, (number,))
        return ours

    def _connected_by_name(self) -> socket.socket:
        """The same for a container, which inherits nothing: it connects to a socket shown to it alone."""
        with (
            tempfile.TemporaryDirectory(prefix="course-control-") as private,
            socket.socket(socket.AF_UNIX) as listener,
        ):
            path = Path(private) / "socket"
            listener.bind(str(path))
            # Whoever the container's root is to this machine; the folder around it is this user's own.
            path.chmod(0o666)
            listener.listen(1)
            listener.settimeout(POLL_SECONDS)
            program = _container_program()
            assert program is not None
            view = View.of_this_machine(self.library)
            self._launch(container(program, view, path, self.limits) + self._command(CONTROL))
            deadline = _after(START_SECONDS)
            while self._process and self._process.poll() is None and time.monotonic() < deadline:
                with contextlib.suppress(TimeoutError):
                    ours, _ = listener.accept()
                    ours.setblocking(True)
                    return ours
        raise ChannelClosed(f"{program} did not start the container")

    def _launch(
        self, command: list[str], variables: dict[str, str] | None = None, inherited: tuple[int, ...] = ()
    ) -> None:
        self._process = subprocess.Popen(
            command,
            pass_fds=inherited,
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=self._said,
            start_new_session=True,
            cwd="/",
            env=variables,
        )

    def _last_words(self) -> str:
        self._said.seek(0)
        return self._said.read()[-2000:].decode("utf-8", "replace").strip()

    def _command(self, control: int | str) -> list[str]:
        """The command line that starts the worker. control: a descriptor, or the path of a socket."""
        confined = self.isolation != "none"
        settings = {
            "control": control,
            "confined": confined,
            "apart": self._shared,
            "as_root": self._as_root,
            "filtered": confined and seccomp.works(),
            "preload": self.preload,
            "limits": asdict(self.limits),
        }
        python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
        boot = BOOT.format(paths=[COURSE if confined else str(self.library), *installed_packages()])
        words = [json.dumps(settings)]
        if self.isolation == "namespaces":
            boot = ENTER.format(confine=str(self.library / "course_lib/grading/confine.py")) + boot
            words.append(json.dumps(own_calls(View.of_this_machine(self.library), self._as_root)))
        # Isolated and without site: no path of the learner's, and no .pth file that names the repository.
        command = [python, "-I", "-S", "-B", "-c", boot, *words]
        if self.isolation == "bwrap":
            return bubblewrap(View.of_this_machine(self.library), self._as_root) + command
        return command


class _Supervisor:
    """The process that has run, and will run, learners' programs in turn; as `grading.worker` describes it.

    line: to it. forbidden: names that are refused there. group: limits its memory, with all below it.
    """

    def __init__(self, line: Channel, forbidden: tuple[str, ...], group: ControlGroup | None) -> None:
        self.line, self.forbidden, self.group = line, forbidden, group

    @classmethod
    def met(
        cls, connection: socket.socket, forbidden: tuple[str, ...], group_limits: tuple[int, int] | None
    ) -> Self:
        """The one at the other end, when it is ready. group_limits: bytes, processes; None for no group."""
        group = ControlGroup.make(*group_limits) if group_limits else None
        made = cls(Channel(connection), forbidden, group)
        try:
            if group:
                group.take_in(_process_at(connection, _after(ANSWER_SECONDS)))
            first = made.line.receive(_after(ANSWER_SECONDS))
            if "supervisor" not in first:
                raise SandboxFailure(str(first.get("failed")))
        except BaseException:
            made.close()
            raise
        return made

    def begin(self, job: dict[str, Any], printed: IO[bytes]) -> Channel:
        """Start a learner's process, whose output goes to the file; the connection to it."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self.line.connection, [b"j"], [theirs.fileno(), printed.fileno()])
        self.line.send(job, _after(ANSWER_SECONDS))
        return Channel(ours)

    def end(self) -> dict[str, Any]:
        """End the learner's process, with all that it started; the report on it."""
        self.line.send({"end": True}, _after(ANSWER_SECONDS))
        report: dict[str, Any] = self.line.receive(_after(ANSWER_SECONDS))
        if "failed" in report:
            raise SandboxFailure(str(report["failed"]))
        return report

    def reason(self) -> str:
        """What it says about a learner's process that did not come up."""
        with contextlib.suppress(ChannelClosed, OutOfTime, ProtocolError):
            return str(self.line.receive(_after(1)).get("failed"))
        return ""

    def close(self) -> None:
        """Leave it, and it ends."""
        self.line.close()
        if self.group:
            self.group.remove()


def _beginning(file: IO[bytes], characters: int) -> str:
    """The first characters of what has been written to a file."""
    file.seek(0)
    return file.read(4 * characters).decode("utf-8", "replace")[:characters]


def _process_at(connection: socket.socket, deadline: float) -> int:
    """The process id of who has sent what lies unread, as the kernel tells it; waits until something does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    poll.poll(1000 * max(0.0, deadline - time.monotonic()))
    credentials = struct.Struct("3i")
    size = socket.CMSG_SPACE(credentials.size)
    found = connection.recvmsg(1, size, socket.MSG_PEEK | socket.MSG_DONTWAIT)[1]
    return int(credentials.unpack(found[0][2])[0])


def can_be_shared(isolation: str) -> bool:
    """Whether a worker may run several programs at once, and each supervisor several in turn.

    For that a supervisor needs a /proc of its own: bubblewrap lets only root make one, a container nobody.
    """
    return isolation == "namespaces" or (isolation == "bwrap" and privileged())


def chosen(isolation: str) -> str:
    """The means of isolation that is used where this is asked for. Raises NoIsolation."""
    if isolation not in ("auto", *WORKS, "none"):
        raise ValueError(f"isolation={isolation!r}, expected one of auto, {', '.join(WORKS)}, none")
    if not hasattr(os, "fork"):
        raise NoIsolation("This system cannot fork a process: grade on Linux, in a container or in WSL2.")
    for name in WORKS if isolation == "auto" else (isolation,):
        if name == "none" or WORKS[name]():
            return name
    raise NoIsolation(
        "Neither bubblewrap nor Linux namespaces nor docker work here as asked, so a submission could read"
        " and change everything that you can: install bubblewrap, or pass isolation='none' to run"
        " submissions with your own rights all the same."
    )


def _after(seconds: float) -> float:
    return time.monotonic() + seconds


# --- a conversation -------------------------------------------------------------------------------------


class _Violation(Exception):
    """The learner's process sent what an honest one never sends."""


class _Conversation:
    """One program's exchange of frames: strictly one question, one answer."""

    def __init__(self, channel: Channel, program_seconds: float, case_seconds: float) -> None:
        self.channel = channel
        self.program_seconds = program_seconds
        self.case_seconds = case_seconds
        self.status = "ok"
        self.message = ""
        self.values: list[dict[str, Any] | Raised] = []
        self.seconds: list[float] = []
        self.errors: dict[int, Raised] = {}
        self.problem: Raised | None = None

    def trouble(self) -> str | None:
        """What kept the learner's process from coming up; none of the learner's code has run yet."""
        try:
            first = self.channel.receive(_after(ANSWER_SECONDS))
        except (ChannelClosed, OutOfTime, ProtocolError) as error:
            return f"the learner's process did not come up ({type(error).__name__})"
        return None if first == {"learner": "ready"} else str(first)

    def hold(self, task: dict[str, Any], cases: Iterable[Case]) -> None:
        """Send the program and then the cases, as far as they are answered."""
        asked = "The program's cells"
        try:
            if not self._program(task):
                return
            for number, case in enumerate(cases):
                asked = f"Case {number + 1}"
                started = time.perf_counter()
                self.values.append(self._case(number, case))
                self.seconds.append(time.perf_counter() - started)
        except OutOfTime:
            self.status, self.message = "timeout", f"{asked} took longer than allowed."
        except ChannelClosed:
            self.status = "killed"
        except (ProtocolError, _Violation) as error:
            self.status, self.message = "violation", f"The process sent {error}."

    def _program(self, task: dict[str, Any]) -> bool:
        """Run the cells. Whether there is an answer to try."""
        try:
            encode(task)
        except ProtocolError as error:
            self.status, self.message = "error", f"The program is too large to be run: {error}."
            return False
        found = self._ask(task, self.program_seconds, {"errors", "problem"})
        errors, problem = found["errors"], found["problem"]
        numbered = isinstance(errors, dict) and all(
            type(key) is int and 0 <= key < len(task["program"]) and isinstance(value, Raised)
            for key, value in errors.items()
        )
        if not numbered or not (problem is None or isinstance(problem, Raised)):
            raise _Violation("an answer of the wrong form")
        self.errors, self.problem = errors, problem
        if problem is not None:
            self.status, self.message = "error", f"{problem.type_name}: {problem.message}"
        return problem is None

    def _case(self, number: int, case: Case) -> dict[str, Any] | Raised:
        asked = {"number": number, "inputs": dict(case.inputs), "device": case.device}
        found = self._ask(asked, self.case_seconds, {"case", "values", "changed"})
        values, changed = found["values"], found["changed"]
        if type(found["case"]) is not int or found["case"] != number or type(changed) is not bool:
            raise _Violation("an answer to another question")
        if isinstance(values, Raised):
            return values
        if not isinstance(values, dict) or not all(
            isinstance(name, str) and _is_normalised(value) for name, value in values.items()
        ):
            raise _Violation("values of the wrong form")
        return values | {INPUTS: "changed" if changed else "as they were"}

    def _ask(self, question: dict[str, Any], seconds: float, keys: set[str]) -> dict[str, Any]:
        """One frame there, one frame back; anything that came unasked is a violation."""
        if not self.channel.quiet():
            raise _Violation("something that it was not asked for")
        deadline = _after(seconds)
        try:
            self.channel.send(question, deadline)
        except ProtocolError as error:
            raise SandboxFailure(f"a question cannot be sent: {error}") from None
        found = self.channel.receive(deadline)
        if not isinstance(found, dict) or set(found) != keys:
            raise _Violation("an answer of the wrong form")
        return found

    def outcome(self, report: dict[str, Any], printed: str) -> Outcome:
        """The outcome, after the process has ended; `report` is the supervisor's."""
        if self.status in ("ok", "error") and not self.channel.quiet():
            self.status, self.message = "violation", "The process sent more than it was asked for."
        if report["exceeded"] and self.status == "killed":
            self.message = "The processes held more memory together than one submission is given."
        elif self.status == "killed":
            how = f"signal {report['signal']}" if "signal" in report else f"exit code {report['code']}"
            self.message = f"The process ended before it had answered ({how})."
        told = self.status != "violation"
        return Outcome(
            self.status,
            tuple(self.values) if told else (),
            self.message,
            printed,
            self.errors,
            self.problem,
            tuple(self.seconds) if told else (),
        )


def _is_normalised(value: Any) -> bool:
    """Whether `checks.values.normalise` could have made this."""
    if isinstance(value, list):
        return all(map(_is_normalised, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_normalised(item) for key, item in value.items())
    plain = (bool, int, float, str, bytes, np.generic, Array, Opaque, Raised, type(None))
    return isinstance(value, plain)
