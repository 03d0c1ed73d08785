"""Whether grading loses anything when it is killed: SIGKILL at random moments, and the same command again.

    python benchmarks/nothing_lost.py [--submissions 300] [--kills 50] [--seed 0]

Hands in notebooks of 00_welcome, no two alike, whose points are known; starts `course grade`, kills it at a
random moment (one time in three while it starts, else while it grades), looks into the gradebook, and starts
again; after the last kill it may come to its end. Exit code 1 unless every submission was graded exactly
once, no mark that was there ever changed, each mark is the right one, SQLite finds the file whole each time,
and nothing is left running or lying about.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from copy import deepcopy
from pathlib import Path

import nbformat
import psutil

from course_lib.grading.answers import is_answer
from course_lib.grading.bundle import Bundle, make_bundle

ROOT = Path(__file__).resolve().parents[1]
CHAPTER = "00_welcome"
WRONG = "def centre_rows(matrix):\n    return matrix * {index}"


def hand_in(folder: Path, number: int) -> dict[str, float]:
    """Write the submissions; the points that each must get, by learner."""
    solved = nbformat.read(ROOT / "solutions" / f"{CHAPTER}.ipynb", as_version=4)
    points = {
        cell.metadata.nbgrader.grade_id: cell.metadata.nbgrader.points
        for cell in solved.cells
        if cell.metadata.get("nbgrader", {}).get("grade")
    }
    full, one = sum(points.values()), points["welcome-centre_rows-check"]
    expected = {}
    for index in range(number):
        notebook = deepcopy(solved)
        for cell in notebook.cells:
            if is_answer(cell):
                wrong = index % 3 == 0 and cell.metadata.nbgrader.grade_id == "welcome-centre_rows"
                cell.source = WRONG.format(index=index) if wrong else f"{cell.source}\n# learner {index}"
        expected[f"learner{index:03d}"] = float(full - one if index % 3 == 0 else full)
        (folder / f"learner{index:03d}").mkdir(parents=True)
        nbformat.write(notebook, folder / f"learner{index:03d}" / f"{CHAPTER}.ipynb")
    return expected


def start(submissions: Path, bundle: Bundle, out: Path) -> subprocess.Popen[bytes]:
    """`course grade`, in a session of its own."""
    command = [sys.executable, "-m", "course_lib.cli", "grade", str(submissions), "--json"]
    command += ["--bundle", str(bundle.folder), "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(out.parent / "scratch")}
    return subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def wait_for_a_mark(process: subprocess.Popen[bytes], out: Path, known: int) -> None:
    """Wait until the run has added a mark, or has ended."""
    while process.poll() is None and len(look(out)) <= known:
        time.sleep(0.1)


def look(out: Path) -> dict[tuple[str, str], str]:
    """Every mark that is kept, by content and exercise, after SQLite has found the file whole."""
    if not (out / "gradebook.sqlite").exists():
        return {}
    with closing(sqlite3.connect(out / "gradebook.sqlite", timeout=60)) as book:
        (whole,) = book.execute("PRAGMA integrity_check").fetchone()
        if whole != "ok":
            raise SystemExit(f"the gradebook is damaged: {whole}")
        try:
            found = book.execute("SELECT key, exercise, detail, decided, run FROM marks").fetchall()
        except sqlite3.OperationalError:  # killed before the tables were made
            return {}
    return {(key, exercise): json.dumps(rest) for key, exercise, *rest in found}


def leftovers(folder: Path) -> list[str]:
    """Processes of this program's graders that are there still; they have five seconds to end."""
    deadline = time.monotonic() + 5
    while True:
        found = []
        for process in psutil.process_iter(["pid", "cmdline"]):
            words = " ".join(process.info["cmdline"] or [])
            if process.pid != os.getpid() and str(folder) in words:
                found.append(f"{process.info['pid']} {words[:80]}")
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def main() -> int:
    """Kill, look, start again; print what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--submissions", type=int, default=300)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=4.0, help="seconds of grading until a kill, at most")
    given = parser.parse_args()
    moments = random.Random(given.seed)
    problems: list[str] = []
    with tempfile.TemporaryDirectory(prefix="nothing-lost-", dir=Path.home()) as name:
        folder = Path(name)
        (folder / "scratch").mkdir()
        bundle = make_bundle(ROOT, [CHAPTER], folder / "bundle")
        expected = hand_in(folder / "in", given.submissions)
        kept: dict[tuple[str, str], str] = {}
        kills = 0
        while kills < given.kills:
            process = start(folder / "in", bundle, folder / "out")
            if kills % 3:
                wait_for_a_mark(process, folder / "out", len(kept))
            try:
                process.wait(moments.uniform(0.0, given.longest))
                print(f"came to its end before kill {kills + 1}", flush=True)
                break
            except subprocess.TimeoutExpired:
                # The command alone: what it has started must end of itself.
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                kills += 1
            problems += [f"after kill {kills}, left running: {line}" for line in leftovers(folder)]
            now = look(folder / "out")
            changed = [key for key, value in kept.items() if now.get(key) != value]
            problems += [f"after kill {kills}, a mark changed or went: {key}" for key in changed]
            kept = now
            print(f"kill {kills}: {len(kept)} marks are kept", flush=True)
        process = start(folder / "in", bundle, folder / "out")
        code = process.wait()
        if code:
            assert process.stderr
            problems.append(f"the last run ended with {code}: {process.stderr.read().decode()}")
        now = look(folder / "out")
        problems += [
            f"in the last run, a mark changed: {key}" for key, value in kept.items() if now.get(key) != value
        ]
        problems += judged(folder / "out", expected)
        scratch = sorted(path.name for path in (folder / "scratch").glob("course-*"))
        problems += [f"left lying about: {name}" for name in scratch]
        print(f"{kills} kills, {len(expected)} submissions, {len(now)} marks")
    for problem in problems:
        print(problem)
    print("nothing lost" if not problems else f"{len(problems)} problems")
    return int(bool(problems))


def judged(out: Path, expected: dict[str, float]) -> list[str]:
    """What is wrong with the book at the end."""
    with closing(sqlite3.connect(out / "gradebook.sqlite")) as book:
        rows = book.execute(
            "SELECT learner, count(DISTINCT submissions.id), count(*), sum(earned) FROM submissions"
            " JOIN marks USING (key) GROUP BY learner"
        ).fetchall()
        (exercises,) = book.execute("SELECT count(DISTINCT exercise) FROM marks").fetchone()
    found = {learner: (papers, marks, earned) for learner, papers, marks, earned in rows}
    wanted = {learner: (1, exercises, points) for learner, points in expected.items()}
    differing = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    return [f"{name}: {found.get(name)}, expected {wanted.get(name)}" for name in differing]


if __name__ == "__main__":
    sys.exit(main())
