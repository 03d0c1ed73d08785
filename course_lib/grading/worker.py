"""The process inside the sandbox: it has imported torch, and what forks from it runs learners' programs.

Three generations. The *preloaded* process imports, and computes on one thread only: a child of a process that
has run a multithreaded product hangs. Its children, the *supervisors*, refuse forbidden names, start one
program after the other, and end it with all that it started when the grader says so; where they cannot be
given a view of processes of their own, each starts one program and ends. The supervisor's child is the
*learner's process*: its own namespaces, limits, no privileges, then the program's cells, then one case after
the other.

A supervisor's later children inherit its memory, so nothing that a learner's process writes comes into it:
what is printed goes from the pipe to a file of the grader's within the kernel, and of what the kernel tells
about the processes only numbers are kept.

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
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from ..checks.exercise import Case
from ..checks.guard import ForbiddenCall, noticing
from ..checks.probes import tensor, watched_inputs, were_changed
from ..checks.values import Opaque, Raised, equal, normalise
from . import confine, forbidding, seccomp
from .confine import Limits
from .protocol import Channel, ChannelClosed, ProtocolError, decode, encode
from .watch import MemoryWatch

CONNECTION = 3
WARM_UPS = 3
READ_AT_ONCE = 1 << 16
LONGEST_CHARACTER = 4  # in UTF-8
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
        _preload(given["preload"], given["confined"])
    except Exception as error:
        control.send({"failed": f"{type(error).__name__}: {error}"})
        return
    # What is loaded stays: a collection in a child would copy every page that it counts on.
    gc.collect()
    gc.freeze()
    confine.use_large_pages()
    control.send({"ready": os.getpid()})
    with contextlib.suppress(ChannelClosed, ProtocolError):
        _fork_supervisors(control, given)


def _connected(control: int | str) -> socket.socket:
    if isinstance(control, int):
        return socket.socket(fileno=control)
    confine.cover("/sys")
    line = socket.socket(socket.AF_UNIX)
    line.connect(control)
    return line


def _preload(modules: list[str], confined: bool) -> None:
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
    if confined:
        _warm_up()


def _warm_up() -> None:
    """Compute a little: what Python and torch make at the first use of a thing, a fork then has already.

    On one thread, so that no child waits for another thread; and only where no GPU is seen, because torch
    starts threads for one when it first differentiates.
    """

    def probe(answer: Any, case: Case) -> dict[str, Any]:
        given = tensor(case["matrix"], dtype="float32", requires_grad=True)
        loss = answer(given)
        loss.backward()
        return {"the loss": loss, "the gradient": given.grad}

    cells = ["def answer(x):\n    return (torch.exp(x @ x.T / 2.0) + torch.ones(2, 2)).sum()"]
    scope, _ = _run_program(["import torch", *cells])
    case = {"inputs": {"matrix": np.ones((2, 2), dtype=np.float32)}, "device": "cpu"}
    for _ in range(WARM_UPS):
        decode(encode({"values": _run_case(probe, scope["answer"], case)[0]}))


def _fork_supervisors(control: Channel, given: Mapping[str, Any]) -> None:
    while True:
        # One byte with the descriptor of the coming supervisor's own line to the grader, then a frame.
        _, descriptors, _, _ = socket.recv_fds(control.connection, 1, 1)
        if not descriptors:
            return
        forbidden = control.receive()["forbidden"]
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if os.fork() == 0:
            control.close()
            _supervise(Channel(socket.socket(fileno=descriptors[0])), given, forbidden)
        os.close(descriptors[0])


# --- the supervisor -------------------------------------------------------------------------------------


def _supervise(line: Channel, given: Mapping[str, Any], forbidden: Sequence[str]) -> NoReturn:
    """Run one program after the other as the grader asks, until it goes. Never returns."""
    try:
        confine.die_with_parent()
        if given["apart"]:
            confine.enter_apart(user=not given["as_root"])
        confine.adopt_orphans()
        # Before /proc is covered.
        watch = MemoryWatch(Limits(**given["limits"]).together) if given["confined"] else None
        confine.prepare()
        forbidding.enforce(forbidden)
        gc.freeze()
        line.send({"supervisor": "ready"})
        with contextlib.suppress(ChannelClosed):
            while _serve(line, given, forbidden, watch) and given["apart"]:
                pass
    except BaseException:
        with contextlib.suppress(BaseException):
            line.send({"failed": traceback.format_exc()[-LONGEST_MESSAGE:]})
    finally:
        os._exit(0)


def _serve(
    line: Channel, given: Mapping[str, Any], forbidden: Sequence[str], watch: MemoryWatch | None
) -> bool:
    """Start a learner's process, drain its output, and end it when told. False where the grader has gone.

    A job has scratch, the folder to work in, and uid, the user to become, None for no other.
    """
    # One byte with the descriptors of the connection to the coming process and of a file for its output.
    _, descriptors, _, _ = socket.recv_fds(line.connection, 1, 2)
    if not descriptors:
        return False
    connection, printed = descriptors
    job = line.receive()
    limits = Limits(**given["limits"])
    reading, writing = os.pipe()
    with confine.own_processes(given["apart"]) if given["confined"] else contextlib.nullcontext():
        child = os.fork()
        if child == 0:
            _learn(connection, writing, given, limits, job, forbidden)
    os.close(connection)
    os.close(writing)
    with contextlib.closing(_Output(reading, printed, limits.printed)) as output:
        _report(line, child, output, watch)
    return True


def _report(line: Channel, child: int, output: _Output, watch: MemoryWatch | None) -> None:
    """Pass output on until the grader sends anything or goes; then end the child and tell how it ended."""
    exceeded = False
    poll = select.poll()
    poll.register(line.connection, select.POLLIN)
    poll.register(output.reading, select.POLLIN)
    while True:
        ready = dict(poll.poll(1000 * watch.pause if watch else None))
        if line.connection.fileno() in ready:
            break
        if output.reading in ready and not output.drain():
            poll.unregister(output.reading)
        if watch and watch.exceeded():
            exceeded, watch = True, None
            os.kill(child, signal.SIGKILL)
    line.receive()
    status = _end(child)
    output.drain()
    ended = {"signal": os.WTERMSIG(status)} if os.WIFSIGNALED(status) else {"code": os.WEXITSTATUS(status)}
    line.send({"exceeded": exceeded} | ended)


class _Output:
    """The pipe that learners' processes print to, and the file to which the first of it goes.

    keep: how many characters; the rest goes nowhere.
    """

    def __init__(self, reading: int, file: int, keep: int) -> None:
        self.reading, self._file = reading, file
        self._room = LONGEST_CHARACTER * keep
        self._nowhere = os.open(os.devnull, os.O_WRONLY)
        os.set_blocking(reading, False)

    def drain(self) -> bool:
        """Empty the pipe, up to what it holds. False once nobody can write any more."""
        for _ in range(16):
            try:
                moved = self._move()
            except BlockingIOError:
                return True
            if not moved:
                return False
        return True

    def _move(self) -> int:
        """Pass a piece on, outside of this process's memory where the system can; how many bytes."""
        target = self._file if self._room else self._nowhere
        size = min(self._room, READ_AT_ONCE) or READ_AT_ONCE
        if hasattr(os, "splice"):
            moved = os.splice(self.reading, target, size, flags=os.SPLICE_F_NONBLOCK)
        else:
            moved = os.write(target, os.read(self.reading, size))
        self._room = max(0, self._room - moved)
        return moved

    def close(self) -> None:
        """Close the pipe, the file, and what leads nowhere."""
        for descriptor in (self.reading, self._file, self._nowhere):
            os.close(descriptor)


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
    job: Mapping[str, Any],
    forbidden: Sequence[str],
) -> NoReturn:
    """Confine this process, then run the program and answer cases. Never returns."""
    try:
        confine.die_with_parent()
        channel = Channel(socket.socket(fileno=_own_descriptors(connection, output)))
        try:
            os.setsid()
            if given["confined"]:
                uid = os.getuid() if job["uid"] is None else job["uid"]
                confine.prefer_as_victim()
                confine.own_view(job["scratch"], limits.scratch, uid)
                confine.drop_privileges(uid)
            os.chdir(job["scratch"])
            # A change of user forgets it, so this comes after.
            confine.die_with_parent()
            confine.set_limits(limits, processes=given["confined"])
            if given["filtered"]:
                seccomp.refuse_calls(programs=bool(forbidden))
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
