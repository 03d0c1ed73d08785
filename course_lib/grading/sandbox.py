"""The grader's side of the sandbox: start a worker, hand it programs, and believe nothing that it says.

    with Worker(library, Limits()) as worker:
        outcome = worker.run(cells, "attention.sdpa", "scaled_dot_product_attention", cases)

The worker process (`course_lib.grading.worker`) is started once, inside namespaces, and forks for each
submission. This process never imports torch. It draws a case only when the case before is answered.

What it does not do: limit the memory of all processes of a submission together (each has its limit, and
the kernel is told to end them first), show a GPU, or withstand a fault in the kernel itself. With the
rights of root but without CAP_SYS_ADMIN the kernel does not count processes; wall time still ends them.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from .. import doctor
from ..checks.compare import INPUTS
from ..checks.exercise import Case
from ..checks.values import Array, Opaque, Raised
from .confine import Limits
from .protocol import Channel, ChannelClosed, OutOfTime, ProtocolError, encode

START_SECONDS = 180.0
ANSWER_SECONDS = 15.0
INSIDE = "/course"
SYSTEM = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")
ETC = ("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime")
# Of course_lib, what a learner's process may read. The rest decides, or holds references.
NOT_STAGED = ("authoring", "__pycache__", "*.pyc", "[0-9][0-9]_*.py")
STAGED_OF_GRADING = ("__init__.py", "confine.py", "forbidding.py", "protocol.py", "worker.py")
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
# confine.py by itself, before anything else is imported: afterwards the old paths are gone.
ENTER = (
    "import importlib.util as u, json, sys; s = u.spec_from_file_location('alone', {confine!r});"
    " m = u.module_from_spec(s); sys.modules['alone'] = m; s.loader.exec_module(m);"
    " m.enter(json.loads(sys.argv[2])); "
)
BOOT = "import sys; sys.path[:0] = {paths!r}; from course_lib.grading.worker import main; main(sys.argv[1])"
CAPABILITIES = ("CAP_SYS_ADMIN", "CAP_SETUID", "CAP_SETGID", "CAP_KILL")
NEEDED_CAPABILITIES = 1 << 21 | 1 << 7 | 1 << 6


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


def available() -> dict[str, bool]:
    """Which means of isolation work on this machine, by name."""
    return doctor.isolation()


@functools.cache
def _bubblewrap_works() -> bool:
    return available()["bubblewrap"]


@functools.cache
def _namespaces_work() -> bool:
    return sys.platform == "linux" and (_privileged() or available()["user namespaces"])


def stage_library(root: Path, into: Path) -> Path:
    """Copy of `root/course_lib` a learner's process may read; returns `into`, to be given to `Worker`.

    Left out: the entries of the exercises, whose references are answers, and the code that decides.
    """

    def left_out(folder: str, names: list[str]) -> set[str]:
        ignored = set(shutil.ignore_patterns(*NOT_STAGED)(folder, names))
        if Path(folder).name == "grading":
            ignored |= set(names) - set(STAGED_OF_GRADING)
        return ignored

    shutil.copytree(root / "course_lib", into / "course_lib", ignore=left_out)
    # Learners' processes run as users that own nothing.
    for path in (into, *into.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return into


class Worker:
    """A preloaded process that runs learners' programs, one at a time.

    library: a staged copy of the library, as `stage_library` makes it. isolation: "auto" takes "bwrap"
    (bubblewrap), else "namespaces" (the same by Linux's own calls), and refuses (NoIsolation) without
    either; "none" runs submissions with the rights of whoever grades. preload: further modules to import
    before the first submission.
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
        self.isolation = _chosen(isolation)
        self.preload = tuple(preload)
        self._process: subprocess.Popen[bytes] | None = None
        self._control: Channel | None = None
        self._said: Any = None

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker and everything in it."""
        if self._control:
            self._control.close()
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._said.close()
        self._process, self._control = None, None

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
        Raises SandboxFailure where the machinery failed; the next call starts a new worker.
        """
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._start()
        task: dict[str, Any] = {
            "program": list(program),
            "probe": probe,
            "expression": expression,
            "forbidden": list(forbidden),
        }
        with (
            tempfile.TemporaryDirectory(prefix="course-scratch-")
            if self.isolation == "none"
            else (contextlib.nullcontext("/tmp")) as scratch
        ):
            try:
                return self._run(task, cases, seconds or self.limits.case, scratch)
            except (SandboxFailure, ChannelClosed, OutOfTime, ProtocolError) as error:
                self.close()
                raise SandboxFailure(f"The sandbox failed: {error or type(error).__name__}.") from error
            except BaseException:
                self.close()
                raise

    def _run(self, task: dict[str, Any], cases: Iterable[Case], seconds: float, scratch: str) -> Outcome:
        assert self._control is not None
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                socket.send_fds(self._control.connection, [b"j"], [theirs.fileno()])
            self._control.send({"scratch": scratch, "forbidden": task["forbidden"]}, _after(ANSWER_SECONDS))
            talk = _Conversation(Channel(ours), self.limits.program, seconds)
            if problem := talk.trouble():
                raise SandboxFailure(f"{problem} {self._reason()}")
            talk.hold(task, cases)
            self._control.send({"end": True}, _after(ANSWER_SECONDS))
            report = self._control.receive(_after(ANSWER_SECONDS))
            if "failed" in report:
                raise SandboxFailure(str(report["failed"]))
            return talk.outcome(report)

    def _reason(self) -> str:
        """What the supervisor says about a learner's process that did not come up."""
        assert self._control is not None
        with contextlib.suppress(ChannelClosed, OutOfTime, ProtocolError):
            return str(self._control.receive(_after(1)).get("failed"))
        return self._last_words()

    # --- starting ---------------------------------------------------------------------------------------

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        with theirs:
            self._process = subprocess.Popen(
                self._command(theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._said,
                start_new_session=True,
                cwd="/",
            )
        self._control = Channel(ours)
        try:
            first = self._control.receive(_after(START_SECONDS))
        except (ChannelClosed, OutOfTime, ProtocolError):
            first = {"failed": "it ended, or did not answer"}
        if "ready" not in first:
            said = self._last_words()
            self.close()
            raise SandboxFailure(f"The worker did not start: {first.get('failed')}. {said}".strip())

    def _last_words(self) -> str:
        self._said.seek(0)
        return self._said.read()[-2000:].decode("utf-8", "replace").strip()

    def _command(self, control: int) -> list[str]:
        privileged = self.isolation != "none" and _privileged()
        settings = {
            "control": control,
            "confined": self.isolation != "none",
            "drop": privileged,
            "preload": self.preload,
            "limits": asdict(self.limits),
        }
        python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
        inside = str(self.library) if self.isolation == "none" else INSIDE
        boot = BOOT.format(paths=[inside, *installed_packages()])
        words = [json.dumps(settings)]
        if self.isolation == "namespaces":
            boot = ENTER.format(confine=str(self.library / "course_lib/grading/confine.py")) + boot
            words.append(json.dumps(_view(self.library, privileged)))
        # Isolated and without site: no path of the learner's, and no .pth file that names the repository.
        command = [python, "-I", "-S", "-B", "-c", boot, *words]
        return _bubblewrap(self.library, privileged) + command if self.isolation == "bwrap" else command


def _chosen(isolation: str) -> str:
    if isolation not in ("auto", "bwrap", "namespaces", "none"):
        raise ValueError(f"isolation={isolation!r}, expected 'auto', 'bwrap', 'namespaces' or 'none'")
    if not hasattr(os, "fork"):
        raise NoIsolation("This system cannot fork a process: grade on Linux, in a container or in WSL2.")
    works: dict[str, Callable[[], bool]] = {"bwrap": _bubblewrap_works, "namespaces": _namespaces_work}
    for name in ("bwrap", "namespaces") if isolation == "auto" else (isolation,):
        if name == "none" or works[name]():
            return name
    raise NoIsolation(
        "Neither bubblewrap nor Linux namespaces work here as asked, so a submission could read and change"
        " everything that you can: install bubblewrap, or pass isolation='none' to run submissions with your"
        " own rights all the same."
    )


def _after(seconds: float) -> float:
    return time.monotonic() + seconds


def _environment() -> dict[str, str]:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    places = dict.fromkeys(("HOME", "TMPDIR", "MPLCONFIGDIR", "XDG_CACHE_HOME"), "/tmp")
    rest = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "USER": "learner", "MPLBACKEND": "agg"}
    return threads | places | rest


def installed_packages() -> list[str]:
    """The folders of installed packages, each once."""
    return list(dict.fromkeys(os.path.realpath(sysconfig.get_path(name)) for name in ("purelib", "platlib")))


def _privileged() -> bool:
    """Whether this process may make namespaces without a user namespace, and change users in them."""
    if os.geteuid() != 0:
        return False
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    effective = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff"))
    return effective & NEEDED_CAPABILITIES == NEEDED_CAPABILITIES


def _bubblewrap(library: Path, privileged: bool) -> list[str]:
    """bubblewrap's command line: nothing of this machine but what is named here, and that read-only."""
    command = [
        shutil.which("bwrap") or "bwrap",
        "--unshare-pid",
        "--unshare-net",
        "--unshare-ipc",
        "--unshare-uts",
    ]
    command += ["--unshare-cgroup-try", "--hostname", "sandbox", "--die-with-parent", "--new-session"]
    if not privileged:
        command += ["--unshare-user", "--uid", "1000", "--gid", "1000"]
    command += ["--cap-drop", "ALL", *(word for name in CAPABILITIES for word in ("--cap-add", name))]
    command += ["--clearenv"]
    for name, value in _environment().items():
        command += ["--setenv", name, value]
    folders, links = _system()
    command += [word for folder in folders for word in ("--ro-bind", folder, folder)]
    command += [word for name, target in links for word in ("--symlink", target, name)]
    for name in ETC:
        command += ["--ro-bind-try", name, name]
    command += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    for folder in _beyond_usr([os.path.realpath(sys.base_prefix)]):
        command += [*_open_parents(folder), "--ro-bind", folder, folder]
    command += [word for folder in _repository_shown() for word in ("--tmpfs", folder)]
    for folder in installed_packages():
        command += [*_open_parents(folder), "--ro-bind", folder, folder]
    command += [word for folder in _installed() for word in ("--tmpfs", folder)]
    return [
        *command,
        "--ro-bind",
        str(library),
        INSIDE,
        "--remount-ro",
        "/dev",
        "--remount-ro",
        "/",
        "--chdir",
        "/tmp",
    ]


def _view(library: Path, privileged: bool) -> dict[str, Any]:
    """The same as `_bubblewrap` for a machine that has namespaces and no bubblewrap."""
    folders, links = _system()
    if _repository_shown():
        raise NoIsolation("The course lies in a system folder: install bubblewrap to grade here.")
    files = [name for name in ETC if Path(name).exists()]
    shown: list[Any] = [
        *folders,
        *files,
        *_beyond_usr([os.path.realpath(sys.base_prefix)]),
        *installed_packages(),
    ]
    return {
        "user": not privileged,
        "shown": [*shown, [str(library), INSIDE]],
        "links": links,
        "devices": [path for path in DEVICES if Path(path).exists()],
        "hidden": _installed(),
    }


def _system() -> tuple[list[str], list[tuple[str, str]]]:
    """(folders of the system to show, links to make beside them as (name, target))"""
    folders, links = ["/usr"], []
    for path in (Path("/") / name for name in SYSTEM):
        if path.is_symlink():
            links.append((str(path), str(path.readlink())))
        elif path.is_dir():
            folders.append(str(path))
    return folders, links


def _open_parents(folder: str) -> list[str]:
    """Make the folders above one that learners' users may pass: bubblewrap gives some of them 0700."""
    parents = [str(path) for path in reversed(Path(folder).parents) if str(path) != "/"]
    return [word for parent in _beyond_usr(parents) for word in ("--perms", "0755", "--dir", parent)]


def _beyond_usr(folders: list[str]) -> list[str]:
    return [folder for folder in folders if not folder.startswith("/usr/") and folder != "/usr"]


def _repository_shown() -> list[str]:
    """The repository itself, where it lies below a folder that is shown: to be covered."""
    repository = Path(__file__).resolve().parents[2]
    shown = [Path("/usr"), Path(os.path.realpath(sys.base_prefix))]
    installed = str(repository) in installed_packages()
    if installed or not any(repository.is_relative_to(folder) for folder in shown):
        return []
    return [str(repository)]


def _installed() -> list[str]:
    """Copies of the course among the installed packages, which hold the references: to be covered."""
    found = [Path(folder) / "course_lib" for folder in installed_packages()]
    return [str(path) for path in found if path.is_dir()]


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

    def outcome(self, report: dict[str, Any]) -> Outcome:
        """The outcome, after the process has ended; `report` is the supervisor's."""
        if self.status in ("ok", "error") and not self.channel.quiet():
            self.status, self.message = "violation", "The process sent more than it was asked for."
        if self.status == "killed":
            how = f"signal {report['signal']}" if "signal" in report else f"exit code {report['code']}"
            self.message = f"The process ended before it had answered ({how})."
        told = self.status != "violation"
        return Outcome(
            self.status,
            tuple(self.values) if told else (),
            self.message,
            report["printed"],
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
