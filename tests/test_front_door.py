"""The front door, run as a user runs it: copies of `course.py` in folders of their own.

Most tests replace pip by a small script (COURSE_PIP) that installs a two-file `course_lib`, so that they need
no network and take a fraction of a second. The oracle is what is on the disk and on the screen afterwards.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = """
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "tiny-course"
version = "0.1.0"
description = "words"
requires-python = ">=3.11"
dependencies = [{dependencies}]

[project.optional-dependencies]
test = []
oracles = []
"""
# What stands in for pip. Behaviour is chosen by the file `behaviour` beside it.
FAKE_PIP = """
import os, pathlib, sys, sysconfig, time
here = pathlib.Path(__file__).parent
with open(here / "calls", "a") as calls:
    calls.write(" ".join(sys.argv[1:]) + "\\n")
behaviour = (here / "behaviour").read_text() if (here / "behaviour").exists() else ""
site = pathlib.Path(sysconfig.get_paths()["purelib"])
package = site / "course_lib"
package.mkdir(parents=True, exist_ok=True)
print("Collecting torch", flush=True)
if behaviour == "slow":
    (package / "__init__.py").write_text("")
    (here / "half.new").write_text(str(os.getpid()))
    (here / "half.new").replace(here / "half")
    time.sleep(1.5 if (here / "resume").exists() else 60)
if behaviour.startswith("fail:"):
    sys.exit(behaviour[5:])
(package / "__init__.py").write_text("")
(package / "cli.py").write_text("import sys; print('COURSE', *sys.argv[1:]); sys.exit(7)")
(site / "pytest.py").write_text("import os, sys; print('PYTEST', os.getcwd(), *sys.argv[1:]); sys.exit(5)")
"""


@dataclass
class Clone:
    """A copy of the front door in a folder of its own, with a pip that can be told how to behave."""

    root: Path
    helper: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    @property
    def calls(self) -> list[str]:
        record = self.helper / "calls"
        return record.read_text().splitlines() if record.exists() else []

    def behave(self, how: str) -> None:
        (self.helper / "behaviour").write_text(how)

    def process(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(self.root / "course.py"), *arguments]
        environment = {**os.environ, **self.environment}
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, env=environment, stdout=pipe, stderr=pipe, text=True, cwd=self.helper
        )

    def run(self, *arguments: str, timeout: float = 60) -> tuple[int, str, str]:
        process = self.process(*arguments)
        out, err = process.communicate(timeout=timeout)
        return process.returncode, out, err


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    root, helper = tmp_path / "a clone", tmp_path / "helper"
    root.mkdir()
    helper.mkdir()
    (root / "tests").mkdir()
    shutil.copy(ROOT / "course.py", root / "course.py")
    (root / "pyproject.toml").write_text(PYPROJECT.format(dependencies=""))
    (helper / "pip.py").write_text(FAKE_PIP)
    return Clone(root, helper, {"COURSE_PIP": str(helper / "pip.py"), "COURSE_VENV": ""})


@pytest.fixture
def course() -> Iterator[ModuleType]:
    specification = importlib.util.spec_from_file_location("course_front_door", ROOT / "course.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    yield module


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def sentence(err: str) -> str:
    """The last line on the screen: what the user is told."""
    assert "Traceback" not in err
    return err.strip().splitlines()[-1]


# --- the plain path ---------------------------------------------------------------------------------------


def test_first_start_installs_then_forwards_and_the_second_runs_no_pip(clone: Clone) -> None:
    code, out, err = clone.run("lab", "--no-browser")
    assert (code, out) == (7, "COURSE lab --no-browser\n")
    assert "Making the environment" in err and "Installing" in err
    assert len(clone.calls) == 1 and clone.calls[0].endswith(f"--editable {clone.root}")

    started = time.monotonic()
    code, out, err = clone.run("check", "06", "--json")
    assert (code, out, err) == (7, "COURSE check 06 --json\n", "")
    assert time.monotonic() - started < 5
    assert len(clone.calls) == 1


def test_test_verb_says_so_where_there_are_no_tests(clone: Clone) -> None:
    (clone.root / "tests").rmdir()
    code, out, err = clone.run("test")
    assert (code, out) == (2, "")
    assert sentence(err).startswith("This copy of the course has no tests:")
    assert not clone.calls


def test_test_verb_adds_its_extras_runs_pytest_in_the_clone_and_exits_with_its_code(clone: Clone) -> None:
    assert clone.run("lab")[0] == 7
    assert "[" not in clone.calls[0].rsplit("--editable", 1)[1]
    code, out, err = clone.run("test", "-k", "attention")
    assert code == 5
    assert out.startswith(f"PYTEST {clone.root}") and out.endswith("-k attention\n")
    assert clone.calls[1].endswith(f"--editable {clone.root}[oracles,test]")
    assert "Making the environment" not in err  # an extra is added to what is there
    clone.run("lab")
    assert len(clone.calls) == 2  # the extras stay


def test_course_venv_names_another_folder(clone: Clone, tmp_path: Path) -> None:
    clone.environment["COURSE_VENV"] = str(tmp_path / "elsewhere")
    assert clone.run("lab")[0] == 7
    assert (tmp_path / "elsewhere/course-stamp.json").exists() and not clone.venv.exists()


def test_a_folder_with_other_files_is_never_emptied(clone: Clone, tmp_path: Path) -> None:
    precious = tmp_path / "elsewhere/bin/thesis.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("years")
    clone.environment["COURSE_VENV"] = str(tmp_path / "elsewhere")
    code, _, err = clone.run("lab")
    assert code == 3 and "holds other files" in sentence(err)
    assert precious.read_text() == "years"


def test_without_a_verb_the_usage_is_shown_and_the_exit_code_says_wrong_use(clone: Clone) -> None:
    code, out, _ = clone.run()
    assert code == 2 and "python3 course.py lab" in out
    assert clone.run("--help")[0] == 0
    assert not clone.venv.exists()


# --- interrupted, broken, outdated ------------------------------------------------------------------------


def test_a_killed_installation_is_not_trusted_and_the_next_start_makes_it_anew(clone: Clone) -> None:
    clone.behave("slow")
    first = clone.process("lab")
    wait_for((clone.helper / "half").exists)
    first.kill()
    first.communicate()
    assert list(clone.venv.glob("**/site-packages/course_lib")) and not list(clone.venv.glob("*stamp*"))
    os.kill(int((clone.helper / "half").read_text()), signal.SIGKILL)  # the orphan; the next test keeps it
    clone.behave("")
    code, out, err = clone.run("lab")
    assert (code, out) == (7, "COURSE lab\n") and "Making the environment" in err


@pytest.mark.skipif(sys.platform == "win32", reason="an orphan inherits the lock on POSIX systems only")
def test_the_next_start_waits_for_an_installer_that_outlived_its_killed_front_door(clone: Clone) -> None:
    clone.behave("slow")
    (clone.helper / "resume").write_text("")
    first = clone.process("lab")
    wait_for((clone.helper / "half").exists)
    first.kill()
    first.communicate()
    clone.behave("")
    code, out, err = clone.run("lab")
    assert (code, out) == (7, "COURSE lab\n")
    assert "waiting for it to finish" in err
    assert len(clone.calls) == 2  # it did not trust what the orphan had made


def test_interrupt_gives_one_line_and_exit_code_130(clone: Clone) -> None:
    clone.behave("slow")
    process = clone.process("lab")
    wait_for((clone.helper / "half").exists)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert sentence(err).startswith("Interrupted.")
    clone.behave("")
    assert clone.run("lab")[0] == 7


@pytest.mark.parametrize("damage", ["missing", "not executable code", "empty", "dangling"])
def test_a_broken_interpreter_is_noticed_and_the_environment_rebuilt(clone: Clone, damage: str) -> None:
    assert clone.run("lab")[0] == 7
    python = clone.venv / "bin/python"
    python.unlink()
    if damage == "not executable code":
        python.write_bytes(b"\x7fELF rubbish")
        python.chmod(0o755)
    if damage == "empty":
        python.write_bytes(b"")
    if damage == "dangling":
        python.symlink_to("/nowhere/python3.11")
    code, out, _ = clone.run("lab")
    assert (code, out) == (7, "COURSE lab\n")
    assert len(clone.calls) == 2


@pytest.mark.parametrize("stamp", ["", "{", "[]", "null", '{"fingerprint": 3, "extras": 7}'])
def test_a_damaged_stamp_is_not_trusted(clone: Clone, stamp: str) -> None:
    assert clone.run("lab")[0] == 7
    (clone.venv / "course-stamp.json").write_text(stamp)
    assert clone.run("lab")[0] == 7
    assert len(clone.calls) == 2


def test_changed_requirements_reinstall_and_edited_prose_does_not(clone: Clone) -> None:
    assert clone.run("lab")[0] == 7
    file = clone.root / "pyproject.toml"
    file.write_text(
        "# a comment\n" + file.read_text().replace('"words"', '"other words"') + "\n[tool.ruff]\n"
    )
    assert clone.run("lab")[2] == "" and len(clone.calls) == 1
    file.write_text(file.read_text().replace("dependencies = []", 'dependencies = ["numpy>=2"]'))
    code, _, err = clone.run("lab")
    assert code == 7 and "requirements have changed" in err and len(clone.calls) == 2
    assert clone.run("lab")[2] == "" and len(clone.calls) == 2


def test_a_failed_update_leaves_an_environment_that_is_not_trusted(clone: Clone) -> None:
    assert clone.run("lab")[0] == 7
    (clone.root / "pyproject.toml").write_text(PYPROJECT.format(dependencies='"numpy>=2"'))
    clone.behave("fail:ERROR: something odd")
    code, _, err = clone.run("lab")
    assert code == 3 and "course-install.log" in sentence(err)
    assert "something odd" in (clone.venv / "course-install.log").read_text()
    clone.behave("")
    code, _, err = clone.run("lab")
    assert code == 7 and "Making the environment" in err


def test_a_clone_that_moved_is_set_up_again(clone: Clone, tmp_path: Path) -> None:
    assert clone.run("lab")[0] == 7
    clone.root = clone.root.rename(tmp_path / "moved")
    assert clone.run("lab")[0] == 7
    assert clone.calls[1].endswith(f"--editable {tmp_path / 'moved'}")


def test_two_starts_at_once_install_once(clone: Clone) -> None:
    clone.behave("slow")
    (clone.helper / "resume").write_text("")
    both = [clone.process("lab"), clone.process("lab")]
    results = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [7, 7]
    assert [out for out, _ in results] == ["COURSE lab\n"] * 2
    assert len(clone.calls) == 1
    assert sum("waiting for it to finish" in err for _, err in results) == 1


# --- what is told when it cannot work ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("printed", "told"),
    [
        (
            "Retrying: Temporary failure in name resolution\nERROR: No matching distribution found for torch",
            "network",
        ),
        ("NewConnectionError: [Errno 111] Connection refused", "network"),
        ("HTTPSConnectionPool: Read timed out. ReadTimeoutError", "network"),
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
            "disk is full",
        ),
        ("Connection refused\nOSError: [Errno 28] No space left on device", "disk is full"),
        ("ERROR: [WinError 112] There is not enough space on the disk", "disk is full"),
        ("ERROR: Could not install packages: [Errno 13] Permission denied: '/x'", "Cannot write"),
        ("ERROR: No matching distribution found for torch==2.13.0", "not available for Python"),
        ("No module named ensurepip", "python3-venv"),
    ],
)
def test_the_installers_failure_becomes_one_sentence(clone: Clone, printed: str, told: str) -> None:
    clone.behave(f"fail:{printed}")
    code, out, err = clone.run("lab")
    assert code == 3 and out == ""
    assert told in sentence(err)
    assert not (clone.venv / "course-stamp.json").exists()


def test_real_pip_without_a_network_says_so(clone: Clone) -> None:
    (clone.root / "pyproject.toml").write_text(PYPROJECT.format(dependencies='"no-such-package-of-ours==1"'))
    (clone.root / "course_lib").mkdir()
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        clone.environment[variable] = ""
    del clone.environment["COURSE_PIP"]
    clone.environment |= {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "1"}
    clone.environment |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1"}
    code, _, err = clone.run("lab", timeout=120)
    assert code == 3
    assert sentence(err).startswith("There is no network")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "tiny"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True
    )
    assert done.returncode == 0, done.stderr
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def can_mount() -> bool:
    """Whether this process may make a small disk of its own."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/mnt"]
    return subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="needs the right to mount a small disk")
def test_a_disk_that_is_really_full_gives_one_sentence(clone: Clone, tiny_disk: Path) -> None:
    clone.environment["COURSE_VENV"] = str(tiny_disk / "environment")
    (tiny_disk / "filler").write_bytes(b"x" * 60_000)
    code, _, err = clone.run("lab")
    assert code == 3
    assert sentence(err).startswith("The disk is full: free about")


@pytest.mark.skipif(not can_mount(), reason="needs the right to mount a small disk")
def test_a_disk_that_is_read_only_gives_one_sentence(clone: Clone, tiny_disk: Path) -> None:
    clone.environment["COURSE_VENV"] = str(tiny_disk / "environment")
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    code, _, err = clone.run("lab")
    assert code == 3 and sentence(err).startswith("Cannot write to")


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write everywhere"
)
def test_a_clone_that_cannot_be_written_gives_one_sentence(clone: Clone) -> None:
    clone.root.chmod(0o555)
    code, _, err = clone.run("lab")
    clone.root.chmod(0o755)
    assert code == 3 and sentence(err).startswith("Cannot write to")


def test_errors_of_the_operating_system_become_sentences(course: ModuleType, tmp_path: Path) -> None:
    def told(number: int) -> str:
        return course.operating_system_reason(OSError(number, os.strerror(number), "/there"), tmp_path)

    assert told(28).startswith("The disk is full")
    assert told(30).startswith("Cannot write to") and "/there" in told(30)
    assert told(17) == "/there is a file where a folder is needed: move it away."


def test_a_file_in_place_of_the_environment_gives_one_sentence(clone: Clone) -> None:
    clone.venv.write_text("")
    code, _, err = clone.run("lab")
    assert code == 3 and "is a file where a folder is needed" in sentence(err)


def test_a_python_without_ensurepip_is_told_before_anything_is_made(clone: Clone) -> None:
    program = f"""
        import runpy, sys
        sys.modules["ensurepip"] = None
        sys.argv = ["course.py", "lab"]
        runpy.run_path({str(clone.root / "course.py")!r}, run_name="__main__")
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    environment = {**os.environ, **clone.environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 3
    assert "sudo apt install python3-venv" in sentence(done.stderr)
    assert not (clone.venv / "pyvenv.cfg").exists()


def test_the_line_shown_is_short_and_does_not_scare(course: ModuleType) -> None:
    assert course.detail_of("WARNING: Location 'x' is ignored") == ""
    assert course.detail_of("Installing collected packages: a, b, torch\n") == "Installing 3 packages"
    assert course.detail_of("  Downloading torch-2.13.0 (196 MB)\n") == "Downloading torch-2.13.0 (196 MB)"
    assert len(course.detail_of("Collecting " + "x" * 500)) == 100


def test_settings_that_lead_an_installation_elsewhere_are_not_passed_on(
    course: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PYTHONHOME", "PIP_TARGET", "PIP_USER", "PIP_INDEX_URL"):
        monkeypatch.setenv(name, "1")
    passed = course.child_environment()
    assert "PYTHONHOME" not in passed and "PIP_TARGET" not in passed
    assert passed["PIP_USER"] == "0" and passed["PIP_INDEX_URL"] == "1"


# --- old Pythons and other systems ------------------------------------------------------------------------


def test_the_file_is_parsed_by_python_3_6() -> None:
    tree = ast.parse((ROOT / "course.py").read_text(encoding="utf-8"), feature_version=(3, 6))
    future = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    assert not future  # Python 3.6 refuses `annotations` from there, and that is a syntax error


@pytest.mark.parametrize("version", [(3, 6, 15), (3, 10, 13), (2, 7, 18)])
def test_an_old_python_is_told_in_one_sentence(
    course: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    version: tuple[int, ...],
) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    assert course.main(["lab"]) == 3
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"needs Python 3.11 or newer, and this is Python {version[0]}.{version[1]}" in told


def test_new_pythons_pass_the_gate(course: ModuleType) -> None:
    assert [course.python_problem(version) for version in [(3, 11, 0), (3, 14, 1), (4, 0, 0)]] == [None] * 3


def old_pythons() -> list[Path]:
    """Interpreters older than 3.11 that this machine has, by their own word."""
    names = [f"python3.{minor}" for minor in range(6, 11)]
    found = [Path(path) for name in names if (path := shutil.which(name))]
    found += sorted(Path.home().glob(".pyenv/versions/3.[6-9].*/bin/python"))
    found += sorted(Path.home().glob(".pyenv/versions/3.10.*/bin/python"))
    return [path for path in found if "shims" not in path.parts]


@pytest.mark.skipif(not old_pythons(), reason="no Python older than 3.11 on this machine")
def test_old_interpreters_of_this_machine_print_the_sentence(clone: Clone) -> None:
    for python in old_pythons():
        command = [str(python), str(clone.root / "course.py"), "lab"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 3 and done.stdout == ""
        assert done.stderr.startswith("This course needs Python 3.11 or newer"), done.stderr
        assert done.stderr.count("\n") == 1


def test_only_the_standard_library_is_imported() -> None:
    tree = ast.parse((ROOT / "course.py").read_text(encoding="utf-8"))
    imports = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imports |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imports} <= set(sys.stdlib_module_names)


def test_the_windows_layout_is_known(course: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(course, "os", type("nt", (), {"name": "nt"}))
    assert course.environment_python(Path("x")) == Path("x/Scripts/python.exe")


def test_the_stamp_is_replaced_in_one_step(
    course: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    course.write_stamp(tmp_path, "old", set(), "3.11")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError):
        course.write_stamp(tmp_path, "new", {"test"}, "3.11")
    assert json.loads((tmp_path / "course-stamp.json").read_text())["fingerprint"] == "old"
