"""Running notebooks: a fresh kernel each, several at once, every limit watched."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from .kernel import CourseKernelManager, environment, make_manager, network_log
from .limits import GIBIBYTE, Limits
from .source import describe, tags

_SAMPLE_SECONDS = 0.1
# A kernel that is this much over the limit is stopped before it takes the machine with it.
_MEMORY_PATIENCE = 1.25
# How often a kernel that does not come up is started anew.
_ATTEMPTS = 3


@dataclass(frozen=True)
class Job:
    """A notebook to run. folder: the working directory of its cells. label: how messages name it."""

    label: str
    notebook: NotebookNode
    folder: Path


@dataclass
class Run:
    """What running a notebook showed.

    seconds: from the start of the first cell to the end of the last.
    cell_seconds: place of the cell, counted from 0, and seconds, for cells with code.
    problems: sentences about errors, memory and network; slow: those about time alone, which
    may be the fault of a neighbour on the machine.
    """

    job: Job
    seconds: float = 0.0
    peak_bytes: int = 0
    cell_seconds: dict[int, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Seconds and mebibytes, rounded, for reports."""
        slowest = max(self.cell_seconds.values(), default=0.0)
        return {
            "seconds": round(self.seconds, 2),
            "slowest_cell_seconds": round(slowest, 2),
            "cells": len(self.cell_seconds),
            "peak_mebibytes": round(self.peak_bytes / 2**20),
        }


# Called in the worker's thread with the job and the place of the cell that starts, counted from 0.
OnCell = Callable[[Job, int], None]


class Runner:
    """Runs notebooks, `jobs` at a time."""

    def __init__(self, root: Path, limits: Limits, jobs: int = 2, on_cell: OnCell | None = None) -> None:
        self.root = root
        self.limits = limits
        self.jobs = max(1, jobs)
        self.on_cell = on_cell or (lambda job, index: None)
        self._kernels: set[CourseKernelManager] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run_all(self, jobs: Sequence[Job]) -> Iterator[Run]:
        """Run every notebook in place and yield each result as it comes.

        Those that were only too slow are run again, alone, and judged by that. When the caller is
        interrupted, or stops asking, the kernels are killed.
        """
        again: list[Job] = []
        for run in self._pool(jobs, self.jobs):
            if run.slow and not run.problems and self.jobs > 1 and len(jobs) > 1:
                again.append(run.job)
            else:
                yield run
        yield from self._pool(again, 1)

    def _pool(self, jobs: Sequence[Job], workers: int) -> Iterator[Run]:
        if not jobs:
            return
        pool = ThreadPoolExecutor(workers, thread_name_prefix="notebook")
        try:
            waiting: set[Future[Run]] = {pool.submit(self._run, job) for job in jobs}
            while waiting:
                # A timeout keeps the main thread responsive to Ctrl-C on every platform.
                done, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        except BaseException:
            self._stop()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, job: Job) -> Run:
        with tempfile.TemporaryDirectory(prefix="course-build-", ignore_cleanup_errors=True) as scratch:
            return asyncio.run(_Execution(self, job, Path(scratch)).run())

    @contextmanager
    def registered(self, manager: CourseKernelManager) -> Iterator[None]:
        """While inside, an interrupted build kills this kernel."""
        with self._lock:
            if self._stopped:
                raise InterruptedError("the build was interrupted")
            self._kernels.add(manager)
        try:
            yield
        finally:
            with self._lock:
                self._kernels.discard(manager)

    def _stop(self) -> None:
        with self._lock:
            self._stopped = True
            for manager in self._kernels:
                kill_tree(process_of(manager))


class _Execution:
    """One notebook in one kernel."""

    def __init__(self, runner: Runner, job: Job, scratch: Path) -> None:
        self.runner = runner
        self.limits = runner.limits
        self.job = job
        self.scratch = scratch
        self.result = Run(job)
        self.manager = make_manager(scratch)
        self.at = 0
        self.over_memory = False

    async def run(self) -> Run:
        """Run the cells in order until one fails; the notebook's outputs are replaced in place."""
        for attempt in range(_ATTEMPTS):
            try:
                async with self._kernel() as client:
                    await self._run_cells(client)
                break
            except DeadKernelError:
                self._kernel_died()
                break
            except RuntimeError as error:
                # This is how jupyter_client says that a kernel never answered; no cell has run yet.
                if attempt == _ATTEMPTS - 1:
                    reason = f"{_first_line(str(error))}{self._last_words()}"
                    self.result.problems.append(f"{self.job.label}: its kernel did not start: {reason}")
        self._judge()
        return self.result

    @asynccontextmanager
    async def _kernel(self) -> AsyncIterator[NotebookClient]:
        """A fresh kernel and the client that runs cells in it; ended on the way out, however that is."""
        self.manager = make_manager(self.scratch)
        client = NotebookClient(
            self.job.notebook,
            km=self.manager,
            timeout_func=lambda cell: self.limits.interrupt_after,
            record_timing=False,
            coalesce_streams=False,
            store_widget_state=False,
            log=_silent_log(),
        )
        own = environment(self.runner.root, self.scratch)
        with self.runner.registered(self.manager), (self.scratch / "kernel.log").open("wb") as log:
            try:
                await client.async_start_new_kernel(env=own, cwd=str(self.job.folder), stdout=log, stderr=log)
                channels = await client.async_start_new_kernel_client()
                try:
                    yield client
                finally:
                    channels.stop_channels()
            finally:
                # Its children end with it, also those it has left behind.
                kill_tree(process_of(self.manager))
                await self.manager.shutdown_kernel(now=True)

    async def _run_cells(self, client: NotebookClient) -> None:
        watch = asyncio.ensure_future(self._watch_memory())
        started = time.monotonic()
        try:
            for index, cell in enumerate(self.job.notebook.cells):
                if cell.cell_type == "code" and not await self._run_cell(client, cell, index):
                    return
        finally:
            watch.cancel()
            self.result.seconds = time.monotonic() - started
            self._sample_memory()

    async def _run_cell(self, client: NotebookClient, cell: NotebookNode, index: int) -> bool:
        self.at = index
        self.runner.on_cell(self.job, index)
        started = time.monotonic()
        try:
            await client.async_execute_cell(cell, index)
        except CellExecutionError as error:
            self._problem(f"raised {error.ename}: {_first_line(error.evalue)}")
            return False
        except CellTimeoutError:
            self.result.slow.append(self._sentence(f"was stopped after {self.limits.interrupt_after:g} s"))
            kill_tree(process_of(self.manager))
            return False
        finally:
            self.result.cell_seconds[index] = time.monotonic() - started
        return True

    async def _watch_memory(self) -> None:
        while not self.over_memory:
            await asyncio.sleep(_SAMPLE_SECONDS)
            if self._sample_memory() > _MEMORY_PATIENCE * self.limits.memory_bytes:
                self.over_memory = True
                kill_tree(process_of(self.manager))

    def _sample_memory(self) -> int:
        used = memory_of(process_of(self.manager))
        self.result.peak_bytes = max(self.result.peak_bytes, used)
        return used

    def _kernel_died(self) -> None:
        # Killed for its memory, the kernel gets its sentence from the peak in _judge.
        if not self.over_memory:
            self._problem(f"ended the kernel; the process died or was killed{self._last_words()}")

    def _last_words(self) -> str:
        """What the kernel's process wrote to its own stderr at the end, to be added to a sentence."""
        log = self.scratch / "kernel.log"
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
        words = [line.strip() for line in lines if line.strip()]
        return f" ({words[-1][:200]})" if words else ""

    def _judge(self) -> None:
        limits, result = self.limits, self.result
        for index, seconds in result.cell_seconds.items():
            if seconds > limits.cell_seconds and not (result.slow or self.over_memory):
                self.at = index
                result.slow.append(
                    self._sentence(f"took {seconds:.1f} s; a cell may take {limits.cell_seconds:g} s")
                )
        if result.seconds > limits.lesson_seconds and not self.over_memory:
            result.slow.append(
                f"{self.job.label}: took {result.seconds:.1f} s; "
                f"a notebook may take {limits.lesson_seconds:g} s"
            )
        if result.peak_bytes > limits.memory_bytes:
            used, allowed = result.peak_bytes / GIBIBYTE, limits.memory_bytes / GIBIBYTE
            result.problems.append(
                f"{self.job.label}: used {used:.2f} GiB of memory, by {describe(self._cell, self.at + 1)}; "
                f"a notebook may use {allowed:.2f} GiB"
            )
        result.problems.extend(self._network_problems())

    def _network_problems(self) -> Iterator[str]:
        log = network_log(self.scratch)
        targets = log.read_text(encoding="utf-8").split("\n") if log.exists() else []
        for target in dict.fromkeys(filter(None, targets)):
            yield f"{self.job.label}: tried to reach {target}; a lesson may not use the network"

    def _problem(self, what: str) -> None:
        self.result.problems.append(self._sentence(what))

    def _sentence(self, what: str) -> str:
        return f"{self.job.label}: {describe(self._cell, self.at + 1)} {what}"

    @property
    def _cell(self) -> NotebookNode:
        return self.job.notebook.cells[self.at]


def error_problems(label: str, cells: Iterable[NotebookNode]) -> list[str]:
    """A sentence for every stored error output of a cell that is not tagged `raises-exception`."""
    return [
        f"{label}: {describe(cell, number)} shows {output.ename}: {_first_line(output.evalue)}"
        for number, cell in enumerate(cells, 1)
        for output in cell.get("outputs", [])
        if output.output_type == "error" and "raises-exception" not in tags(cell)
    ]


def process_of(manager: CourseKernelManager) -> psutil.Process | None:
    """The kernel's process, or None before it starts and after it ends."""
    pid = getattr(manager.provisioner, "pid", None)
    try:
        return psutil.Process(pid) if pid else None
    except psutil.NoSuchProcess:
        return None


def kill_tree(process: psutil.Process | None) -> None:
    """Kill a process and its children."""
    for one in _tree(process):
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue


def memory_of(process: psutil.Process | None) -> int:
    """Resident bytes of a process and its children; of the process itself the peak, where it is told."""
    total = 0
    for one in _tree(process):
        try:
            resident = one.memory_info().rss
        except psutil.Error:
            continue
        total += max(resident, peak_resident(one.pid)) if one == process else resident
    return total


def peak_resident(pid: int) -> int:
    """The highest resident set of a process so far, in bytes (Linux's VmHWM); 0 where it is not told."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def default_jobs() -> int:
    """Two kernels at a time, one on a machine with a single core."""
    return min(2, os.cpu_count() or 1)


def _tree(process: psutil.Process | None) -> list[psutil.Process]:
    if process is None:
        return []
    try:
        return [*process.children(recursive=True), process]
    except psutil.Error:
        return []


def _first_line(text: str) -> str:
    return text.strip().split("\n")[0] if text.strip() else "(no message)"


def _silent_log() -> Any:
    """nbclient logs what the report says anyway."""
    import logging

    log = logging.getLogger("course_lib.authoring.nbclient")
    log.addHandler(logging.NullHandler())
    log.propagate = False
    return log
