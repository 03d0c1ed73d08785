"""Grading on several machines. Oracle: what was handed in; the cluster is Dask's LocalCluster."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import nbformat
import pytest

from course_lib.grading.answers import is_answer
from course_lib.grading.book import Book
from course_lib.grading.bundle import Bundle, make_bundle
from course_lib.grading.pools import NoCluster
from course_lib.grading.run import BOOK, Options, Tally, grade_submissions
from course_lib.grading.sandbox import available

distributed = pytest.importorskip("distributed", reason="distributed is in the extra 'cluster'")

ROOT = Path(__file__).resolve().parents[2]
CHAPTER = "00_welcome"
LEARNERS = 14

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not available()["bubblewrap"], reason="bubblewrap does not work here"),
]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(ROOT, [CHAPTER], tmp_path_factory.mktemp("bundle") / "private")


@pytest.fixture(scope="module")
def submissions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No two alike; each third has one exercise wrong."""
    folder = tmp_path_factory.mktemp("class")
    for index in range(LEARNERS):
        notebook = nbformat.read(ROOT / "solutions" / f"{CHAPTER}.ipynb", as_version=4)
        for cell in notebook.cells:
            if is_answer(cell):
                cell.source += f"\n# learner {index}"
                if index % 3 == 0 and cell.metadata.nbgrader.grade_id == "welcome-centre_rows":
                    cell.source = f"def centre_rows(matrix):\n    return matrix * {index}"
        (folder / f"learner{index}").mkdir()
        nbformat.write(notebook, folder / f"learner{index}" / f"{CHAPTER}.ipynb")
    return folder


def points(out: Path) -> dict[str, float | None]:
    with Book.open(out / BOOK) as book:
        return {row.learner: row.earned for row in book.rows()}


def test_a_worker_is_killed_and_nothing_is_lost(bundle: Bundle, submissions: Path, tmp_path: Path) -> None:
    killed: list[int] = []
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        pids = [nanny.pid for nanny in cluster.workers.values()]

        def kill_one(tally: Tally) -> None:
            if tally.graded >= 3 and not killed:
                killed.append(pids[0])
                os.kill(pids[0], signal.SIGKILL)

        options = Options(scheduler=cluster.scheduler_address)
        tally = grade_submissions(submissions, bundle, tmp_path / "out", options, kill_one)
    assert killed, "the worker was to be killed while it graded"
    assert (tally.graded, tally.counts["ungraded"]) == (LEARNERS, 0)
    full = 10
    expected = {f"learner{i}": full - 1 if i % 3 == 0 else full for i in range(LEARNERS)}
    assert points(tmp_path / "out") == expected
    with Book.open(tmp_path / "out" / BOOK) as book:
        rows = book.rows(everything=True)
    assert Counter(row.learner for row in rows) == dict.fromkeys(expected, 1)
    # Workers end what they started, even where they were killed.
    deadline = time.monotonic() + 20
    while left := _sandboxes_of(pids):
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.2)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("grader")]


def _sandboxes_of(pids: list[int]) -> list[int]:
    """Processes of the sandbox below these, or adopted by the system since."""
    import psutil

    mine = psutil.Process().children(recursive=True)
    return [process.pid for process in mine if "bwrap" in process.name()] + [
        pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    ]


def test_a_scheduler_that_is_not_there_is_said_so(bundle: Bundle, submissions: Path, tmp_path: Path) -> None:
    with pytest.raises(NoCluster, match=r"No Dask scheduler answers at tcp://127\.0\.0\.1:1 "):
        grade_submissions(submissions, bundle, tmp_path / "out", Options(scheduler="tcp://127.0.0.1:1"))
