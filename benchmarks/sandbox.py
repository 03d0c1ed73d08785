"""How long one submission takes in the sandbox: a program of 3 cells that uses torch, tried on 5 cases.

    python benchmarks/sandbox.py [--runs 50] [--isolation auto]

Prints the time to start a worker, which is paid once, and the median per submission in milliseconds, beside
the same without isolation, alternated in one run. Exit code 1 where a submission did not get its values.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from course_lib.checks.exercise import Case
from course_lib.checks.values import Raised
from course_lib.grading.sandbox import Worker, stage_library

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = [
    "import torch",
    "def normalised(matrix):\n    return matrix / matrix.sum(-1, keepdim=True)",
    "print(normalised(torch.ones(2, 3)))",
]


def seconds(worker: Worker, cases: list[Case]) -> float:
    """The wall time of one submission. Raises ValueError where its values are not the right ones."""
    started = time.perf_counter()
    outcome = worker.run(PROGRAM, "welcome.rows", "normalised", cases)
    taken = time.perf_counter() - started
    for case, values in zip(cases, outcome.values, strict=True):
        expected = case["matrix"] / case["matrix"].sum(-1, keepdims=True)
        if isinstance(values, Raised) or not np.allclose(values["the result"].data, expected):
            raise ValueError(f"{outcome.status}: {outcome.message} {values}")
    return taken


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
        times: dict[str, list[float]] = {isolation: [] for isolation in workers}
        for _ in range(given.runs):
            for isolation, worker in workers.items():
                times[isolation].append(1000 * seconds(worker, cases))
    for isolation, measured in times.items():
        slowest = max(measured)
        print(f"{isolation:12s} median {statistics.median(measured):6.1f} ms   slowest {slowest:6.1f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
