"""How long one submission takes in the sandbox: a program of 3 cells that uses torch, tried on 5 cases.

    python benchmarks/sandbox.py [--runs 50] [--isolation auto]

Prints the time to start a worker, which is paid once, and per submission the median wall time and the mean
processor time of the sandbox, in milliseconds, beside the same without isolation, alternated in one run; and
the same for a program of one line tried on one case. Exit code 1 where a submission did not get its values.
Processor time in a container is not counted.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import psutil

from course_lib.checks.exercise import Case
from course_lib.checks.values import Raised
from course_lib.grading.sandbox import Worker, stage_library

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = [
    "import torch",
    "def normalised(matrix):\n    return matrix / matrix.sum(-1, keepdim=True)",
    "print(normalised(torch.ones(2, 3)))",
]


TRIVIAL = ["def normalised(matrix):\n    return matrix / matrix.sum(-1, keepdim=True)"]


def seconds(worker: Worker, program: list[str], cases: list[Case]) -> float:
    """The wall time of one submission. Raises ValueError where its values are not the right ones."""
    started = time.perf_counter()
    outcome = worker.run(program, "welcome.rows", "normalised", cases)
    taken = time.perf_counter() - started
    for case, values in zip(cases, outcome.values, strict=True):
        expected = case["matrix"] / case["matrix"].sum(-1, keepdims=True)
        if isinstance(values, Raised) or not np.allclose(values["the result"].data, expected):
            raise ValueError(f"{outcome.status}: {outcome.message} {values}")
    return taken


def processor_seconds(worker: Worker) -> float:
    """What the worker's processes have used until now, those that have ended included."""
    # The last submission's process is counted with its parent once it has ended.
    time.sleep(0.2)
    top = psutil.Process(worker.pid)
    used = 0.0
    for process in (top, *top.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            used += sum(process.cpu_times()[:4])
    return used


def compare(workers: dict[str, Worker], program: list[str], cases: list[Case], runs: int) -> None:
    """Run the program in each worker in turn, and print a line for each."""
    times: dict[str, list[float]] = {isolation: [] for isolation in workers}
    before = {isolation: processor_seconds(worker) for isolation, worker in workers.items()}
    for _ in range(runs):
        for isolation, worker in workers.items():
            times[isolation].append(1000 * seconds(worker, program, cases))
    for isolation, worker in workers.items():
        used = 1000 * (processor_seconds(worker) - before[isolation]) / runs
        wall, slowest = statistics.median(times[isolation]), max(times[isolation])
        told = f"median {wall:6.1f} ms   slowest {slowest:6.1f} ms   processor {used:6.1f} ms"
        print(f"{isolation:12s} {len(program)} cells, {len(cases)} cases   {told}")


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--isolation", default="auto")
    given = parser.parse_args()
    random = np.random.default_rng(0)
    cases = [
        Case("", {"matrix": random.random((4, 8), dtype=np.float32), "dtype": "float32"}) for _ in range(5)
    ]
    with ExitStack() as stack:
        library = stage_library(ROOT, Path(stack.enter_context(tempfile.TemporaryDirectory())) / "library")
        workers = {}
        for isolation in dict.fromkeys((given.isolation, "none")):
            started = time.perf_counter()
            workers[isolation] = stack.enter_context(Worker(library, isolation=isolation))
            print(f"{isolation:12s} started in {time.perf_counter() - started:5.2f} s")
        compare(workers, TRIVIAL, cases[:1], given.runs)
        compare(workers, PROGRAM, cases, given.runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
