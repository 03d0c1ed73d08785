"""Cases and right values: a process of the staff's own, which runs references and never a learner's code.

    with Oracle(bundle.library) as oracle:
        draw = oracle.draw("attention/sdpa", seed)

The process that decides imports no torch, so what needs torch (drawing cases, running the reference and
the misconceptions) is asked of this one. It runs the bundle's own library, not the clone's.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ..checks.exercise import Case
from ..checks.values import Raised
from .protocol import Caps, Channel, ChannelClosed, OutOfTime, ProtocolError

BOOT = "import sys; sys.path[:0] = {paths!r}; from course_lib.grading.oracle import main; main({line})"
CAPS = Caps(header=64 << 20, body=1 << 30, elements=256 << 20, values=5_000_000)
ANSWER_SECONDS = 900.0
KEPT_DRAWS = 64


class OracleFailure(RuntimeError):
    """The reference could not be run; what it was needed for is ungraded."""


@dataclass(frozen=True)
class Draw:
    """An exercise's cases for one seed, public ones first, with the reference's values."""

    cases: tuple[Case, ...]
    expected: tuple[Any, ...]


class Oracle:
    """The process, started when it is first asked; any number of threads may ask.

    library: a folder that holds `course_lib` with its entries. gpu: whether it may see one; exercises marked
    gpu have cases on it then. The newest draws are kept.
    """

    def __init__(self, library: Path, gpu: bool = False) -> None:
        self.library = library.resolve()
        self.gpu = gpu
        self._lock, self._keeping = threading.Lock(), threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._kept: OrderedDict[tuple[str, str, int], Any] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the process where it does not run; it is ready some seconds later."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._stop()
                self._start()

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._stop()

    def draw(self, exercise: str, seed: int) -> Draw:
        """The cases and the reference's values on them. Raises OracleFailure."""
        found: Draw = self._asked("draw", exercise, seed, _draw_of)
        return found

    def wrong(self, exercise: str, seed: int) -> Mapping[str, Any]:
        """By misconception's name, its values on the same cases. Raises OracleFailure."""
        found: Mapping[str, Any] = self._asked("wrong", exercise, seed, dict)
        return found

    def _asked(self, what: str, exercise: str, seed: int, read: Any) -> Any:
        key = (what, exercise, seed)
        # Who asks for what is known does not wait for who asks for something new.
        if (known := self._known(key)) is not None:
            return known
        with self._lock:
            if (known := self._known(key)) is not None:
                return known
            found = read(self._answer({"ask": what, "exercise": exercise, "seed": seed}))
            with self._keeping:
                self._kept[key] = found
                while len(self._kept) > KEPT_DRAWS:
                    self._kept.popitem(last=False)
            return found

    def _known(self, key: tuple[str, str, int]) -> Any:
        with self._keeping:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _answer(self, question: dict[str, Any]) -> Any:
        if self._process is None or self._process.poll() is not None:
            self._stop()
            self._start()
        assert self._channel is not None
        try:
            self._channel.send(question, time.monotonic() + ANSWER_SECONDS)
            found = self._channel.receive(time.monotonic() + ANSWER_SECONDS)
        except (ChannelClosed, OutOfTime, ProtocolError, OSError) as error:
            said = self._last_words()
            self._stop()
            raise OracleFailure(f"The reference's process failed ({type(error).__name__}). {said}") from error
        if "failed" in found:
            raise OracleFailure(f"The reference of {question['exercise']} failed: {found['failed']}")
        return found["answer"]

    def _start(self) -> None:
        from .sandbox import installed_packages

        ours, theirs = socket.socketpair()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        paths = [str(self.library), *installed_packages()]
        python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        with theirs:
            self._process = subprocess.Popen(
                [python, "-I", "-S", "-B", "-c", BOOT.format(paths=paths, line=theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._said,
                env=dict(os.environ) | threads | ({} if self.gpu else {"CUDA_VISIBLE_DEVICES": ""}),
                start_new_session=True,
            )
        self._channel = Channel(ours, CAPS)

    def _stop(self) -> None:
        if self._channel:
            self._channel.close()
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()
            self._said.close()
        self._process, self._channel = None, None

    def _last_words(self) -> str:
        self._said.seek(0)
        return " ".join(self._said.read()[-500:].decode("utf-8", "replace").split())


def _draw_of(plain: Mapping[str, Any]) -> Draw:
    cases = tuple(Case(**fields) for fields in plain["cases"])
    return Draw(cases, tuple(plain["expected"]))


# --- inside the process ---------------------------------------------------------------------------------


def main(line: int) -> None:
    """Answer questions on the socket with this descriptor until the other side goes."""
    from . import confine

    confine.die_with_parent()
    channel = Channel(socket.socket(fileno=line), CAPS)
    _preload()
    with contextlib.suppress(ChannelClosed):
        for question in _questions(channel):
            found: dict[str, Any]
            try:
                found = {"answer": _ANSWERS[question["ask"]](question["exercise"], question["seed"])}
            except Exception as error:
                found = {"failed": " ".join(f"{type(error).__name__}: {error}".split())[:500]}
            channel.send(found)


def _preload() -> None:
    """Import what takes longest now: the first question comes when the grader has started, too."""
    gc.disable()  # What modules make stays: to look for garbage meanwhile takes an eighth of the time.
    # Where something is missing, the answer to the first question says so.
    with contextlib.suppress(ImportError):
        for name in ("torch", "course_lib.checks.engine", "course_lib.grading.decide"):
            importlib.import_module(name)
    gc.freeze()
    gc.enable()


def _questions(channel: Channel) -> Iterator[dict[str, Any]]:
    while True:
        yield channel.receive()


def _draw(exercise_id: str, seed: int) -> dict[str, Any]:
    from ..checks.engine import draw_cases, run_probe
    from ..checks.registry import get
    from .decide import public_first

    exercise = get(exercise_id)
    cases = public_first(draw_cases(exercise, seed, timed=True))
    expected = [run_probe(exercise, exercise.reference, case) for case in cases]
    return {"cases": [_plain(case) for case in cases], "expected": expected}


def _plain(case: Case) -> dict[str, Any]:
    return {
        "name": case.name,
        "inputs": dict(case.inputs),
        "hidden": case.hidden,
        "device": case.device,
        "withheld": dict(case.withheld),
        "timed": case.timed,
    }


def _wrong(exercise_id: str, seed: int) -> dict[str, list[Any]]:
    from ..checks.engine import draw_cases, run_answer
    from ..checks.registry import get
    from .decide import public_first

    exercise = get(exercise_id)
    cases = public_first(draw_cases(exercise, seed))
    found = {wrong.name: run_answer(exercise, wrong.answer, cases) for wrong in exercise.misconceptions}
    return {name: [_told(value) for value in values] for name, values in found.items()}


def _told(values: Any) -> Any:
    """An exception's text may be of a class that no frame holds."""
    if isinstance(values, Raised):
        return Raised(str(values.type_name), str(values.message), int(values.line), str(values.source))
    return values


_ANSWERS = {"draw": _draw, "wrong": _wrong}
