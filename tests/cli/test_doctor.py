"""The doctor's rows on this machine and on machines that lack something; the oracle is the machine."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import course_lib.doctor as doctor
import course_lib.workspace
from course_lib.doctor import Row, examine, isolation, total_memory
from course_lib.grading import control_group, seccomp
from course_lib.workspace import Workspace

EXPECTED = {"Python", "environment", "packages", "torch", "GPU", "memory", "disk", "browser", "CJK font"}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COURSE_WORK", str(tmp_path / "work"))


def test_every_finding_has_a_status_and_one_sentence_of_meaning() -> None:
    rows = examine()
    named = {row.name for row in rows if not row.name.startswith("isolation: ")}
    assert {*EXPECTED, "isolation", "your folder"} == named
    assert all(row.status in ("ok", "warn", "missing") and row.sentence.endswith(".") for row in rows)
    assert platform.python_version() in rows[0].sentence


def test_the_doctor_speaks_json_and_its_exit_code_is_3_only_where_something_is_missing() -> None:
    command = [sys.executable, "-m", "course_lib.cli", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    rows = json.loads(done.stdout)
    assert done.returncode == (3 if any(row["status"] == "missing" for row in rows) else 0)
    assert set(rows[0]) == {"name", "status", "sentence"}


def test_a_broken_torch_is_a_row_and_not_a_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch_cpu.so: cannot open shared object file')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (found,) = doctor._torch()
    assert found.status == "missing"
    assert (
        "libtorch_cpu.so: cannot open shared object file" in found.sentence
        and "Traceback" not in found.sentence
    )


def test_another_torch_than_the_pinned_one_is_a_warning() -> None:
    found = doctor._torch_row({"version": "2.12.0+cpu", "threads": 2})
    assert found.status == "warn" and "tested with 2.13.0" in found.sentence
    assert doctor._torch_row({"version": "2.13.0+cpu", "threads": 2}).status == "ok"


def test_a_gpu_is_named_with_its_memory() -> None:
    found = doctor._gpu_row({"cuda": True, "gpu": "NVIDIA X", "free": 5 * 10**9, "total": 8 * 10**9})
    assert found == Row("GPU", "ok", "NVIDIA X: 5.0 of 8.0 GB free.")


def test_packages_of_another_version_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._packages()[0].status == "ok"
    monkeypatch.setattr(doctor, "_required", lambda: ["rich>=999", "no-such-package-of-ours"])
    (found,) = doctor._packages()
    assert found.status == "missing"
    assert ">=999" in found.sentence and "no-such-package-of-ours is not installed" in found.sentence


def test_a_look_that_fails_does_not_take_the_others_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(command: list[str], seconds: float = 20) -> None:
        raise OSError("no processes today")

    monkeypatch.setattr(doctor, "_output", broken)
    rows = examine()
    named = {row.name for row in rows if not row.name.startswith("isolation: ")}
    assert {*EXPECTED, "isolation", "your folder"} - {"GPU"} == named
    assert "no processes today" in next(row.sentence for row in rows if row.name == "torch")


@pytest.mark.skipif(sys.platform != "linux", reason="the oracle is Linux's own table")
def test_the_memory_is_what_the_kernel_says_or_the_containers_limit() -> None:
    total = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemTotal")
    )
    assert 0 < total_memory() <= total


def test_isolation_is_tried_and_not_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = shutil.which("bwrap") is not None and (
        subprocess.run(
            ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"], capture_output=True
        ).returncode
        == 0
    )
    assert isolation()["bubblewrap"] is truth
    for name in ("bwrap", "unshare", "docker", "podman"):
        program = tmp_path / name
        program.write_text("#!/bin/sh\nexit 1\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = isolation()
    assert not (found["bubblewrap"] or found["user namespaces"] or found["docker"])


NOTHING = dict.fromkeys(("bubblewrap", "user namespaces", "root", "docker"), False)


def test_without_isolation_there_is_advice_and_nothing_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "isolation", lambda: NOTHING)
    (told,) = doctor._isolation()
    assert told.status == "warn" and "Only grading" in told.sentence and "your own rights" in told.sentence


@pytest.mark.parametrize(
    ("working", "name"),
    [
        (("bubblewrap", "root", "docker"), "By bubblewrap:"),
        (("root", "docker"), "By Linux namespaces:"),
        (("user namespaces",), "By Linux namespaces:"),
        (("docker",), "By a container of docker or podman:"),
    ],
)
def test_the_isolation_that_a_grader_takes_is_named_with_what_it_does_and_does_not(
    monkeypatch: pytest.MonkeyPatch, working: tuple[str, ...], name: str
) -> None:
    monkeypatch.setattr(doctor, "isolation", lambda: NOTHING | dict.fromkeys(working, True))
    monkeypatch.setattr(seccomp, "works", lambda: False)
    monkeypatch.setattr(control_group, "works", lambda: False)
    first, calls, memory = doctor._isolation()
    assert first.sentence.startswith(name) and "does not protect from" in first.sentence
    assert (first.status, calls.status) == ("ok", "warn") and "not filtered" in calls.sentence
    assert ("A control group limits" in memory.sentence) == (working == ("docker",))
    monkeypatch.setattr(seccomp, "works", lambda: True)
    monkeypatch.setattr(control_group, "works", lambda: True)
    _, calls, memory = doctor._isolation()
    assert "refuses" in calls.sentence and "A control group limits" in memory.sentence


def test_a_machine_without_browser_or_font_gets_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(doctor, "APPLICATIONS", ())
    monkeypatch.setattr(doctor, "_font_names", lambda: ["DejaVu Sans", "Liberation Mono"])
    assert "--no-browser" in doctor._browser()[0].sentence
    (font,) = doctor._font()
    assert font.status == "warn" and "fonts-noto-cjk" in font.sentence


@pytest.mark.parametrize(
    "name",
    [
        "Noto Sans CJK SC",
        "Noto Serif CJK JP",
        "PingFang SC",
        "Microsoft YaHei",
        "SimSun",
        "WenQuanYi Zen Hei",
    ],
)
def test_common_chinese_fonts_are_known(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(doctor, "_font_names", lambda: ["DejaVu Sans", name])
    assert doctor._font() == [Row("CJK font", "ok", f"{name}.")]


def test_the_learners_folder_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = tmp_path / "course/notebooks/06_attention.ipynb"
    notebook.parent.mkdir(parents=True)
    notebook.write_text("{}")
    monkeypatch.setattr(course_lib.workspace, "project_root", lambda: tmp_path / "course")
    assert "will be made" in doctor._work()[0].sentence
    Workspace().prepare()
    assert "is up to date" in doctor._work()[0].sentence
    notebook.write_text('{"newer": 1}')
    (found,) = doctor._work()
    assert found.status == "warn" and "behind the course (notebooks/06_attention.ipynb)" in found.sentence


def test_a_nearly_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(os.sep)
    for free, status in ((10**8, "missing"), (10**9, "warn"), (10**10, "ok")):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: usage._replace(free=free))
        assert doctor._disk()[0].status == status
