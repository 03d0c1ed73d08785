"""Every limit of a lesson, tripped once: time, memory, network, errors, a dead kernel."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from course_lib.authoring import network_guard
from course_lib.authoring.build import BuildReport
from course_lib.authoring.limits import Limits, limits_from_environment

LIMITS = Limits(cell_seconds=1.0, lesson_seconds=2.2, memory_bytes=180 * 2**20, patience=1.5)
CONNECT = 'import socket\nsocket.create_connection(("192.0.2.1", 80), timeout=1)'
LESSONS = {
    "01_connects": (CONNECT,),
    "02_looks_up": (
        "import socket\ntry:\n    socket.getaddrinfo('example.org', 443)\nexcept Exception:\n    pass",
    ),
    "03_subprocess": (
        "import subprocess, sys\n"
        "done = subprocess.run([sys.executable, '-c', '''" + CONNECT + "'''], capture_output=True)",
    ),
    "04_slow_cell": ("import time", "time.sleep(1.25)"),
    "05_endless": ("x = 1", "while True:\n    pass"),
    "06_slow_lesson": tuple("import time; time.sleep(0.8)" for _ in range(3)),
    "07_memory": ("block = b'x' * (190 * 2**20)",),
    "08_too_much_memory": ("blocks = []\nwhile True:\n    blocks.append(bytearray(b'x' * 2**20))",),
    "09_child_memory": (
        "import subprocess, sys, time\nprogram = 'import time; b = b\"x\" * (190 * 2**20); time.sleep(0.6)'\n"
        "done = subprocess.run([sys.executable, '-c', program])",
    ),
    "10_error": ("fine = 1", "1 / 0", "print('never')"),
    "11_exits": ("fine = 1", "import os\nos._exit(3)"),
    "12_loopback": (
        "import socket\nserver = socket.create_server(('127.0.0.1', 0))\n"
        "client = socket.create_connection(server.getsockname())\nprint(client.getpeername()[0])",
    ),
    "13_expected_error": ("# expected\n1 / 0",),
}


@pytest.fixture(scope="module")
def tripped(make_course, cell: Callable[..., str]):
    """One build of all these lessons, and the course it ran in."""
    course = make_course()
    for chapter, cells in LESSONS.items():
        tag = "raises-exception" if chapter == "13_expected_error" else ""
        course.lesson(chapter, *(cell(source, tags=tag) for source in cells))
    return course, course.build(limits=LIMITS, jobs=3)


def problems_of(report: BuildReport, chapter: str) -> str:
    return "\n".join(problem for problem in report.problems if chapter in problem)


@pytest.mark.parametrize(
    ("chapter", "sentences"),
    [
        ("01_connects", ["raised NetworkBlocked", "tried to reach 192.0.2.1:80", "cell 2 (import socket)"]),
        ("02_looks_up", ["tried to reach example.org:443"]),
        ("03_subprocess", ["tried to reach 192.0.2.1:80"]),
        ("04_slow_cell", ["cell 3 (time.sleep(1.25)) took 1.", "a cell may take 1 s"]),
        ("05_endless", ["cell 3 (while True:) was stopped after 1.5 s"]),
        ("06_slow_lesson", ["a notebook may take 2.2 s"]),
        ("07_memory", ["GiB of memory", "may use 0.18 GiB"]),
        ("08_too_much_memory", ["GiB of memory", "cell 2 (blocks = [])"]),
        ("09_child_memory", ["GiB of memory"]),
        ("10_error", ["cell 3 (1 / 0) raised ZeroDivisionError: division by zero"]),
        ("11_exits", ["cell 3 (import os) ended the kernel"]),
    ],
)
def test_a_limit_that_is_passed_is_said(tripped, chapter: str, sentences: list[str]):
    course, report = tripped
    found = problems_of(report, chapter)
    for sentence in sentences:
        assert sentence in found
    assert not (course.root / f"notebooks/{chapter}.ipynb").exists()


@pytest.mark.parametrize("chapter", ["12_loopback", "13_expected_error"])
def test_what_is_allowed_is_no_problem(tripped, chapter: str):
    course, report = tripped
    assert problems_of(report, chapter) == ""
    assert (course.root / f"notebooks/{chapter}.ipynb").exists()


def test_one_bad_notebook_says_one_thing(tripped):
    _, report = tripped
    assert len(problems_of(report, "04_slow_cell").split("\n")) == 1
    assert len(problems_of(report, "08_too_much_memory").split("\n")) == 1
    assert len(problems_of(report, "10_error").split("\n")) == 1


def test_what_took_too_long_beside_others_is_judged_alone(tripped):
    _, report = tripped
    assert len(report.executed) == len(set(report.executed)) == len(LESSONS)
    failed_at_once = report.executed.index("notebooks/10_error.ipynb")
    for name in ("04_slow_cell", "05_endless", "06_slow_lesson"):
        assert report.executed.index(f"notebooks/{name}.ipynb") > failed_at_once


def test_the_time_scale_stretches_times_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COURSE_TIME_SCALE", "2.5")
    limits = limits_from_environment()
    assert (limits.cell_seconds, limits.lesson_seconds) == (112.5, 225.0)
    assert limits.memory_bytes == 2 * 2**30
    for wrong in ("fast", "0", "-1", "nan"):
        monkeypatch.setenv("COURSE_TIME_SCALE", wrong)
        with pytest.raises(ValueError, match="COURSE_TIME_SCALE"):
            limits_from_environment()


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "", "0.0.0.0"]
)
def test_this_machine_is_no_network(host: str):
    assert network_guard.is_local(host)


@pytest.mark.parametrize(
    "host", ["example.org", "192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1", "localhost.org"]
)
def test_other_machines_are(host: str):
    assert not network_guard.is_local(host)


@pytest.mark.parametrize(
    "statement",
    [
        "socket.create_connection(('192.0.2.1', 80), 1)",
        "socket.gethostbyname('example.org')",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))",
        "urllib.request.urlopen('http://example.org', timeout=1)",
    ],
)
def test_every_way_out_is_watched(statement: str, tmp_path: Path):
    program = (
        "import socket, urllib.request\nfrom course_lib.authoring import network_guard\n"
        "network_guard.install()\n"
        f"try:\n    {statement}\nexcept network_guard.NetworkBlocked as error:\n    print(error)"
    )
    log = tmp_path / "log"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={"COURSE_NETWORK_LOG": str(log), "PYTHONPATH": str(Path(network_guard.__file__).parents[2])},
    )
    assert "may not use the network" in done.stdout
    assert log.read_text().strip()
