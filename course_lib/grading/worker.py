"""The process inside the sandbox: it has imported torch, and forks one child for each submission.

Three generations. The *preloaded* process imports and never computes: a child of a process that has run a
multithreaded product hangs. Its child, the *supervisor*, makes namespaces for one submission, keeps the
first characters of what is printed, and ends everything when the grader says so. The supervisor's child is
the *learner's process*: limits, no privileges, then the program's cells, then one case after the other.

What a learner's code can do. It shares its process with the probe and with this module, so it can replace
both, write to the grader's connection, and say what it likes about its own values. It gains nothing: it is
given inputs only, one case at a time, after it has answered the one before, and it has to send the right
values for inputs that it has never seen. Expected values, references, seeds and later cases are never in
any process here. A frame more, less, or out of turn ends the exercise without marks; the grader counts.
Forbidden names are refused here, too (`grading.forbidding`); "right values, by a forbidden shortcut" is what
a determined attacker can still reach.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import importlib
import json
import linecache
import os
import pkgutil
import select
import signal
import socket
import sys
import traceback
import types
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from ..checks.exercise import Case
from ..checks.guard import ForbiddenCall, noticing
from ..checks.probes import watched_inputs, were_changed
from ..checks.values import Opaque, Raised, equal, normalise
from . import confine, forbidding, seccomp
from .confine import Limits
from .protocol import Channel, ChannelClosed, ProtocolError
from .watch import MemoryWatch

CONNECTION = 3
READ_AT_ONCE = 1 << 16
LONGEST_MESSAGE = 2000


def main(settings: str) -> None:
    """Import, report, and fork for each job until the grader goes. settings: JSON, made by the sandbox.

    control: the descriptor of the line to the grader, or in a container the path of a socket to connect to.
    confined: whether this runs inside namespaces of its own. filtered: whether the kernel filters calls.
    preload: modules to import. limits: the fields of `Limits`.
    """
    given = json.loads(settings)
    if not given["confined"]:
        confine.die_with_parent()
    control = Channel(_connected(given["control"]))
    try:
        _preload(given["preload"])
    except Exception as error:
        control.send({"failed": f"{type(error).__name__}: {error}"})
        return
    # What is loaded stays: a collection in a child would copy every page that it counts on.
    gc.collect()
    gc.freeze()
    confine.use_large_pages()
    control.send({"ready": os.getpid()})
    with contextlib.suppress(ChannelClosed, ProtocolError):
        _serve_jobs(control, given)


def _connected(control: int | str) -> socket.socket:
    if isinstance(control, int):
        return socket.socket(fileno=control)
    confine.cover("/sys")
    line = socket.socket(socket.AF_UNIX)
    line.connect(control)
    return line


def _preload(modules: list[str]) -> None:
    import torch

    torch.set_num_threads(1)
    package = importlib.import_module("course_lib.checks.probes")
    for found in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{found.name}")
    # What each child would import anew, and takes longer than the rest of a short exercise: what the
    # notebooks' first cell asks for, `check`, and what watches torch's operators.
    for name in ("course_lib.checks.notebook", "course_lib.checks.modes", *modules):
        importlib.import_module(name)
    forbidding.prepare()


def _serve_jobs(control: Channel, given: Mapping[str, Any]) -> None:
    while True:
        # One byte with the descriptor of the connection to the coming child, then a frame.
        _, descriptors, _, _ = socket.recv_fds(control.connection, 1, 1)
        if not descriptors:
            return
        job = control.receive()
        supervisor = os.fork()
        if supervisor == 0:
            _supervise(control, descriptors[0], given, job)
        os.close(descriptors[0])
        _, status = os.waitpid(supervisor, 0)
        if status != 0:
            control.send({"failed": f"the supervisor ended with {status}"})


# --- the supervisor -------------------------------------------------------------------------------------


def _supervise(
    control: Channel, connection: int, given: Mapping[str, Any], job: Mapping[str, Any]
) -> NoReturn:
    """Start the learner's process, drain its output, and end it when told. Never returns.

    job: scratch, the folder to work in; uid, the user to become, None for no other; forbidden, names.
    """
    status = 1
    try:
        limits = Limits(**given["limits"])
        uid = os.getuid() if job["uid"] is None else job["uid"]
        confine.die_with_parent()
        confine.adopt_orphans()
        watch = None
        if given["confined"]:
            # Before /proc is covered; the child inherits what it prefers.
            watch = MemoryWatch(limits.together)
            confine.prefer_as_victim()
            confine.own_namespaces(job["scratch"], limits.scratch, uid)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            _learn(connection, writing, given, limits, uid, job)
        os.close(connection)
        os.close(writing)
        _report(control, child, reading, limits.printed, watch)
        status = 0
    except BaseException:
        with contextlib.suppress(BaseException):
            control.send({"failed": traceback.format_exc()[-LONGEST_MESSAGE:]})
            status = 0
    finally:
        os._exit(status)


def _report(control: Channel, child: int, reading: int, keep: int, watch: MemoryWatch | None) -> None:
    """Collect output until the grader sends anything or goes; then end the child and tell what it did."""
    exceeded = False
    os.set_blocking(reading, False)
    printed = bytearray()
    poll = select.poll()
    poll.register(control.connection, select.POLLIN)
    poll.register(reading, select.POLLIN)
    while True:
        ready = dict(poll.poll(1000 * watch.pause if watch else None))
        if control.connection.fileno() in ready:
            break
        if reading in ready and not _drain(reading, printed, keep):
            poll.unregister(reading)
        if watch and watch.exceeded():
            exceeded, watch = True, None
            os.kill(child, signal.SIGKILL)
    control.receive()
    status = _end(child)
    _drain(reading, printed, keep)
    ended = {"signal": os.WTERMSIG(status)} if os.WIFSIGNALED(status) else {"code": os.WEXITSTATUS(status)}
    told = {"printed": printed.decode("utf-8", "replace")[:keep], "exceeded": exceeded}
    control.send(told | ended)


def _drain(reading: int, printed: bytearray, keep: int) -> bool:
    """Read what is there, up to a pipe's content. False once nobody can write any more."""
    for _ in range(16):
        try:
            piece = os.read(reading, READ_AT_ONCE)
        except BlockingIOError:
            return True
        if not piece:
            return False
        # UTF-8 takes up to four bytes a character.
        printed += piece[: max(0, 4 * keep - len(printed))]
    return True


def _end(child: int) -> int:
    """Kill the child and all that it started; its wait status, as it was before where it had ended."""
    ended, status = os.waitpid(child, os.WNOHANG)
    # In a namespace of its own the child is process 1, and the kernel ends every other with it.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    if not ended:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    for _ in range(1000):
        if not _end_orphans():
            break
    return status


def _end_orphans() -> bool:
    """Kill the processes that this one has adopted. Whether there were any."""
    try:
        with open("/proc/thread-self/children", encoding="ascii") as file:  # noqa: PTH123
            orphans = [int(number) for number in file.read().split()]
    except OSError:  # covered: a namespace has ended them
        orphans = []
    for orphan in orphans:
        with contextlib.suppress(ProcessLookupError):
            os.kill(orphan, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, 0 if orphans else os.WNOHANG)[0] and orphans:
            pass
    return bool(orphans)


# --- the learner's process ------------------------------------------------------------------------------


def _learn(
    connection: int,
    output: int,
    given: Mapping[str, Any],
    limits: Limits,
    uid: int,
    job: Mapping[str, Any],
) -> NoReturn:
    """Confine this process, then run the program and answer cases. Never returns."""
    try:
        channel = Channel(socket.socket(fileno=_own_descriptors(connection, output)))
        try:
            os.setsid()
            if given["confined"]:
                confine.drop_privileges(uid)
            os.chdir(job["scratch"])
            # A change of user forgets it, so this comes after.
            confine.die_with_parent()
            confine.set_limits(limits, processes=given["confined"])
            if given["filtered"]:
                seccomp.refuse_calls(programs=bool(job["forbidden"]))
            forbidding.enforce(job["forbidden"])
        except Exception as error:
            channel.send({"failed": f"{type(error).__name__}: {error}"})
            os._exit(1)
        channel.send({"learner": "ready"})
        _answer(channel)
    finally:
        os._exit(0)


def _own_descriptors(connection: int, output: int) -> int:
    """Nothing to read, output to the pipe, and one connection; every other descriptor is closed."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    kept = os.dup(connection)
    for source, target in ((nothing, 0), (output, 1), (output, 2), (kept, CONNECTION)):
        os.dup2(source, target)
    os.closerange(CONNECTION + 1, 4096)
    for name in ("stdout", "stderr"):
        stream = open(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    return CONNECTION


def _answer(channel: Channel) -> None:
    task = channel.receive()
    topic, name = task["probe"].split(".")
    probe = getattr(importlib.import_module(f"course_lib.checks.probes.{topic}"), name)
    scope, errors = _run_program(task["program"])
    try:
        answer, problem = eval(compile(task["expression"], "check", "eval", dont_inherit=True), scope), None
    except BaseException as error:
        answer, problem = None, _raised(error)
    _flush()
    channel.send({"errors": errors, "problem": problem})
    while True:
        case = channel.receive()
        values, changed = _run_case(probe, answer, case)
        _flush()
        reply = {"case": case["number"], "values": values, "changed": changed}
        try:
            channel.send(reply)
        except ProtocolError:
            channel.send(reply | {"values": _sendable(values, channel)})


def _run_program(cells: list[str]) -> tuple[dict[str, Any], dict[int, Raised]]:
    """Run the cells in a new `__main__`; a cell that raises is noted by its index, and the rest goes on."""
    main_module = types.ModuleType("__main__")
    sys.modules["__main__"] = main_module
    scope = main_module.__dict__
    errors = {}
    for index, source in enumerate(cells):
        name = f"cell-{index}.py"
        # Known to linecache, so that tracebacks and inspect.getsource show the learner's lines.
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        try:
            exec(compile(source, name, "exec", dont_inherit=True), scope)
        except BaseException as error:
            errors[index] = _raised(error)
    return scope, errors


def _run_case(
    probe: Callable[[Any, Case], Mapping[str, Any]], answer: Any, given: Mapping[str, Any]
) -> tuple[dict[str, Any] | Raised, bool]:
    """The probe's values, and whether the answer changed its inputs."""
    inputs = given["inputs"]
    case = Case("a case", copy.deepcopy(inputs), device=given["device"])
    try:
        with watched_inputs() as made:
            with noticing():
                values = {str(name): normalise(value) for name, value in probe(answer, case).items()}
            return values, were_changed(made) or not equal(case.inputs, inputs)
    except ForbiddenCall as error:
        return Raised("ForbiddenCall", error.name), False
    except BaseException as error:
        return _raised(error), False


def _sendable(values: dict[str, Any] | Raised, channel: Channel) -> dict[str, Any] | Raised:
    """The values, with those that no frame holds told by their type alone."""
    from .protocol import encode

    if isinstance(values, Raised):
        return Raised("ProtocolError", "an exception that cannot be told")
    total, kept = 0, {}
    for name, value in list(values.items())[:100]:
        try:
            total += len(encode(value, channel.caps))
            fits = total < channel.caps.body // 2
        except ProtocolError:
            fits = False
        kept[name] = value if fits else Opaque(f"a {type(value).__name__} that cannot be sent")
    return kept


def _raised(error: BaseException) -> Raised:
    """What an exception says, in plain text; a hostile one says only its type."""
    try:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if frame.filename.startswith("cell-")]
        line = own[-1].lineno or 0 if own else getattr(error, "lineno", None) or 0
        source = (own[-1].line if own else getattr(error, "text", None)) or ""
        name, message, told = (_plain(text) for text in (type(error).__name__, str(error), source))
        return Raised(name, message, line if type(line) is int else 0, told)
    except BaseException:
        return Raised("Exception", "an exception that cannot be told")


def _plain(text: str) -> str:
    """The first line, as text of no class of the learner's."""
    lines = str.__getitem__(text, slice(0, LONGEST_MESSAGE)).strip().split("\n")
    return lines[0].strip()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):
            stream.flush()
