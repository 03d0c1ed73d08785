"""How fast submissions are graded: nbgrader's `autograde` against `course grade`, and a thousand submissions.

    python benchmarks/grading.py [--copies 50] [--rounds 2] [--thousand 1000]

First, the same assignment of three questions with torch (causal mask, scaled dot product, a layer of its
own), in as many copies, no two alike, two thirds right: alternated in one run, each command whole, from its
start to its end. Both must give the same points. Then a thousand submissions of chapter 06, with the memory
of all processes together. Needs the extra `oracles`. Exit code 1 where the bar of 40 × is missed, memory
reaches 2 GiB, or a mark is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from copy import deepcopy
from pathlib import Path

import nbformat
import psutil

from course_lib.grading.book import Book
from course_lib.grading.bundle import Bundle, make_bundle

ROOT = Path(__file__).resolve().parents[1]
CHAPTER = "06_attention"
QUESTIONS = ("attention/causal_mask", "attention/sdpa", "attention/cross")
BAR = 40.0
MEMORY_BAR = 2 << 30
CONFIGURATION = """
c = get_config()
c.CourseDirectory.course_id = "course"
c.ClearSolutions.code_stub = {"python": "raise NotImplementedError"}
"""
SCORES = """
import json
from nbgrader.api import Gradebook
with Gradebook("sqlite:///gradebook.db") as book:
    print(json.dumps({s.student.id: s.score for s in book.assignment_submissions("one")}))
"""
# A mistake in one of three, as a class makes them: the scale is forgotten.
RIGHT, MISTAKE = "/ math.sqrt(query.shape[-1])", "/ 1.0"


def of_three_questions(folder: str) -> nbformat.NotebookNode:
    """The chapter's notebook in this folder with three of its questions."""
    notebook = nbformat.read(ROOT / folder / f"{CHAPTER}.ipynb", as_version=4)
    kept = {name.replace("/", "-") for name in QUESTIONS}
    notebook.cells = [
        cell
        for cell in notebook.cells
        if "nbgrader" not in cell.metadata
        or cell.metadata.nbgrader.grade_id.removesuffix("-check").removesuffix("-hidden") in kept
    ]
    return notebook


def copies(source: nbformat.NotebookNode, number: int) -> dict[str, nbformat.NotebookNode]:
    """By learner: this solved notebook, no two alike, one in three with a mistake."""
    assert any(RIGHT in cell.source for cell in source.cells), "the solution has changed: mend RIGHT above"
    found = {}
    for index in range(number):
        notebook = deepcopy(source)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                if index % 3 == 2:
                    cell.source = cell.source.replace(RIGHT, MISTAKE)
                cell.source += f"\n# handed in by learner {index}"
                cell.outputs, cell.execution_count = [], None
        found[f"learner{index:04d}"] = notebook
    return found


def environment(folder: Path) -> dict[str, str]:
    """Of a subprocess: one thread for torch in each process, and nothing of the user's."""
    return os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "JUPYTER_CONFIG_DIR": str(folder / "jupyter"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "COURSE_PROGRESS": str(folder / "progress.json"),
        "OMP_NUM_THREADS": "1",
    }


def nbgrader(folder: Path, submissions: dict[str, nbformat.NotebookNode]) -> tuple[float, dict[str, float]]:
    """(seconds of `nbgrader autograde`, points by learner)"""
    (folder / "source/one").mkdir(parents=True)
    (folder / "nbgrader_config.py").write_text(CONFIGURATION)
    nbformat.write(of_three_questions("solutions"), folder / f"source/one/{CHAPTER}.ipynb")

    def call(*arguments: str) -> str:
        command = [sys.executable, "-W", "ignore", *arguments]
        done = subprocess.run(
            command, cwd=folder, env=environment(folder), check=True, capture_output=True, text=True
        )
        return done.stdout

    call("-m", "nbgrader", "generate_assignment", "one", "--create")
    for learner, notebook in submissions.items():
        target = folder / f"submitted/{learner}/one/{CHAPTER}.ipynb"
        target.parent.mkdir(parents=True)
        nbformat.write(notebook, target)
    began = time.perf_counter()
    call("-m", "nbgrader", "autograde", "one", "--create")
    taken = time.perf_counter() - began
    return taken, json.loads(call("-c", SCORES).strip().split("\n")[-1])


def ours(
    folder: Path, bundle: Bundle, submissions: dict[str, nbformat.NotebookNode]
) -> tuple[float, dict[str, float], float, int]:
    """(seconds of `course grade`, points by learner, submissions a second once it runs, bytes at most)"""
    for learner, notebook in submissions.items():
        (folder / "in" / learner).mkdir(parents=True)
        nbformat.write(notebook, folder / "in" / learner / f"{CHAPTER}.ipynb")
    command = [sys.executable, "-m", "course_lib.cli", "grade", str(folder / "in"), "--json"]
    command += ["--bundle", str(bundle.folder), "--out", str(folder / "out")]
    began = time.perf_counter()
    with subprocess.Popen(command, env=environment(folder), stdout=subprocess.PIPE, text=True) as process:
        memory = Memory(process.pid)
        told = process.communicate()[0]
    taken = time.perf_counter() - began
    with Book.open(folder / "out/gradebook.sqlite") as book:
        points = {row.learner: float(row.earned or 0) for row in book.rows()}
    return taken, points, json.loads(told)["steady_per_second"], memory.peak()


class Memory(threading.Thread):
    """Watches a process and all below it: the most memory that they held together.

    Proportional set size: a page that is shared by several counts once among them.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._root = psutil.Process(pid)
        self._most = 0
        self._ended = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._ended.wait(0.5):
            total = 0
            try:
                processes = [self._root, *self._root.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            for process in processes:
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue
            self._most = max(self._most, total)

    def peak(self) -> int:
        """The most so far, in bytes; the watch ends."""
        self._ended.set()
        self.join()
        return self._most


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--copies", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--thousand", type=int, default=1000)
    given = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory(prefix="grading-", dir=Path.home()) as name:
        folder = Path(name)
        left_out = {"attention/saturation": 0, "attention/chunked": 0}
        three = make_bundle(ROOT, [CHAPTER], folder / "three", left_out)
        submissions = copies(of_three_questions("solutions"), given.copies)
        ratios = []
        for number in range(given.rounds):
            theirs, their_points = nbgrader(folder / f"nbgrader{number}", submissions)
            taken, points, steady, _ = ours(folder / f"ours{number}", three, submissions)
            if points != their_points:
                print(f"The points differ: {points} and {their_points}")
                failed = True
            ratios.append(theirs / taken)
            print(
                f"{given.copies} copies: nbgrader {theirs:.1f} s, course grade {taken:.2f} s, "
                f"{theirs / taken:.1f} ×; without the start {steady * theirs / given.copies:.1f} ×",
                flush=True,
            )
        print(f"median {statistics.median(ratios):.1f} × (bar {BAR:g})")
        failed |= statistics.median(ratios) < BAR
        if given.thousand:
            whole = make_bundle(ROOT, [CHAPTER], folder / "whole")
            solved = nbformat.read(ROOT / "solutions" / f"{CHAPTER}.ipynb", as_version=4)
            taken, points, _, memory = ours(folder / "thousand", whole, copies(solved, given.thousand))
            print(
                f"{len(points)} submissions of {CHAPTER}: {taken:.0f} s, {len(points) / taken:.1f} a second, "
                f"at most {memory / 2**20:.0f} MiB"
            )
            failed |= memory >= MEMORY_BAR or len(points) != given.thousand
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
