"""A grader that is killed at random moments loses nothing: the benchmark's program, on a small class."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from course_lib.grading.sandbox import available

PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "nothing_lost.py"


@pytest.mark.slow
@pytest.mark.skipif(not available()["bubblewrap"], reason="bubblewrap does not work here")
def test_every_submission_is_graded_once_whatever_is_killed() -> None:
    words = ["--submissions", "12", "--kills", "4", "--longest", "1", "--seed", "3"]
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *words], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("nothing lost\n")
