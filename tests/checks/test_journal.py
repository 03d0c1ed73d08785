"""Progress that cannot be lost: crashes, full disks, damaged files, several kernels at once."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from course_lib.checks.engine import Verdict
from course_lib.checks.journal import Progress


def verdict(status: str, exercise: str = "attention/sdpa", misconception: str | None = None) -> Verdict:
    return Verdict(exercise, "A title", 3, status, 4, misconception=misconception)


def test_a_pass_is_kept_through_later_failures(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    Progress(path).record(verdict("failed", misconception="the scale is left out"))
    Progress(path).record(verdict("passed"))
    Progress(path).record(verdict("failed"))
    record = Progress.load(path).of("attention/sdpa")
    assert (record.passed, record.points, record.attempts, record.status) == (True, 3, 3, "failed")
    assert record.misconceptions == ["the scale is left out"]


def test_hints_come_one_at_a_time_and_the_last_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    numbers = [Progress(path).next_hint("attention/sdpa").number for _ in range(5)]
    assert numbers == [1, 2, 3, 3, 3]
    assert Progress(path).hints_left("attention/sdpa") == 0


def test_a_damaged_file_is_put_aside_and_the_one_before_it_used(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    Progress(path).record(verdict("passed"))
    Progress(path).record(verdict("passed", exercise="attention/causal_mask"))
    path.write_text(path.read_text()[:40])
    state = Progress(path)
    assert state.of("attention/sdpa").passed
    assert "put aside as progress-damaged-" in state.notes[0]
    assert list(tmp_path.glob("progress-damaged-*.json"))


def test_a_full_disk_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "progress.json"
    Progress(path).record(verdict("passed"))
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="space"):
        Progress(path).record(verdict("passed", exercise="attention/causal_mask"))
    assert path.read_bytes() == before
    assert Progress(path).of("attention/sdpa").passed


def _record_many(path: Path, name: str, count: int) -> None:
    for index in range(count):
        Progress(path).record(verdict("passed", exercise=f"{name}/{index}"))


def test_two_processes_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_record_many, args=(path, name, 15)) for name in ("one", "two")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert len(Progress(path).records) == 30


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this platform")
def test_a_kill_at_any_moment_leaves_a_readable_file(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    code = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[2])\n"
        "from course_lib.checks.engine import Verdict; from course_lib.checks.journal import Progress\n"
        "for i in range(10**6):\n"
        "    Progress(pathlib.Path(sys.argv[1])).record(Verdict(f'a/{i}', 't', 1, 'passed', 1))\n"
        "    print(i, flush=True)\n"
    )
    told = -1
    for pause in (0.05, 0.11, 0.17):
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(path), str(Path.cwd())], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(pause)
        child.send_signal(signal.SIGKILL)
        rest, _ = child.communicate()
        told = max(told, *(int(line) for line in rest.split()), 0)
        (tmp_path / "progress.lock").unlink(missing_ok=True)
        assert json.loads(path.read_text())["version"] == 1
    records = Progress(path).records
    assert all(records[f"a/{i}"].passed for i in range(told + 1))


def test_an_abandoned_lock_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    lock = tmp_path / "progress.lock"
    lock.touch()
    os.utime(lock, (time.time() - 3600,) * 2)
    Progress(path).record(verdict("passed"))
    assert Progress(path).of("attention/sdpa").passed


def test_the_summary_counts_points_by_chapter(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    Progress(path).record(verdict("passed"))
    rows = {row.chapter: row for row in Progress(path).summary()}
    assert rows["06_attention"].passed == 1
    assert rows["06_attention"].points == 3
    assert rows["06_attention"].of > 3
