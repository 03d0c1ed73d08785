#!/usr/bin/env python3
"""The front door of the course: sets up everything on the first start, then runs the `course` command.

    python3 course.py lab                 open JupyterLab on the welcome notebook
    python3 course.py lab --no-browser    the same, but only print the address
    python3 course.py test                run the whole test suite (options go to pytest)
    python3 course.py check 06            any other verb goes to the `course` command

Needs Python 3.11 or newer and nothing else. The packages go into the folder .venv beside this file; the
variable COURSE_VENV names another folder.
"""

# This file must still be *parsed* by Python 3.6, so that an old Python prints a sentence and not a syntax
# error. Hence no `from __future__ import annotations`, quoted annotations, and imports of newer modules only
# inside functions.
import contextlib
import errno
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

MINIMUM_PYTHON = (3, 11)
ROOT = Path(__file__).resolve().parent
TEST_EXTRAS = ("test", "oracles")
# Options that every `course.py test` passes to pytest before the user's own.
PYTEST_OPTIONS = ("-n", "auto", "--dist", "loadgroup")
STAMP_NAME = "course-stamp.json"
LOCK_NAME = "course.lock"
LOG_NAME = "course-install.log"
SPACE_NEEDED = 3 * 10**9
QUIET_LINE_SECONDS = 15.0
EXIT_WRONG_USE, EXIT_BROKEN, EXIT_INTERRUPTED = 2, 3, 130

NO_NETWORK = re.compile(
    r"name resolution|NewConnectionError|ConnectTimeoutError|getaddrinfo failed|Network is unreachable"
    r"|Name or service not known|nodename nor servname|Failed to establish a new connection|ReadTimeoutError"
    r"|Connection refused|Max retries exceeded|ProxyError|Could not fetch URL|Connection reset by peer"
    r"|RemoteDisconnected",
    re.IGNORECASE,
)
DISK_FULL = re.compile(r"No space left on device|Errno 28\b|WinError 112\b|Disk quota exceeded|Errno 122\b")
NO_WRITE = re.compile(r"Permission denied|Errno 13\b|Read-only file system|Errno 30\b")
NO_PACKAGE = re.compile(r"(?:No matching distribution found for|Could not find a version that satisfies) .*")
NO_ENSUREPIP = re.compile(r"ensurepip is not available|No module named ensurepip|No module named venv")


class SetUpError(Exception):
    """Set-up cannot go on; the message is the sentence that the user reads."""


def say(text: str) -> None:
    """Print one line about the set-up, on stderr so that `--json` output on stdout stays clean."""
    print(text, file=sys.stderr, flush=True)


# --- what went wrong, in one sentence -------------------------------------------------------------------


def python_problem(version: "tuple[int, ...]") -> "str | None":
    """The sentence for a Python that is too old, or None."""
    if tuple(version[:2]) >= MINIMUM_PYTHON:
        return None
    given, needed = ".".join(map(str, version[:2])), ".".join(map(str, MINIMUM_PYTHON))
    return (
        f"This course needs Python {needed} or newer, and this is Python {given}: install a newer one from "
        f"https://www.python.org/downloads/ and start again with it (for example "
        f"`python{needed} course.py lab`)."
    )


def disk_full_sentence(folder: Path) -> str:
    """What to do about a full disk."""
    return (
        f"The disk is full: free about {SPACE_NEEDED / 1e9:.0f} GB on the disk of {folder} (and of the "
        f"temporary folder {tempfile.gettempdir()}), then run the same command again."
    )


def not_writable_sentence(folder: Path) -> str:
    """What to do about a folder that cannot be written."""
    return (
        f"Cannot write to {folder}: copy the course to a folder of your own (or set COURSE_VENV to one where "
        "the environment may be made) and run the same command there."
    )


def no_venv_sentence() -> str:
    """What to do where Python lacks venv or ensurepip, as on a bare Debian."""
    return (
        "This Python cannot make virtual environments: on Debian or Ubuntu run "
        "`sudo apt install python3-venv`, elsewhere install Python from https://www.python.org/downloads/; "
        "then run the same command again."
    )


def failure_reason(output: str, environment: Path) -> str:
    """The sentence for a failed installation, from what the installer printed.

    The order matters: a full disk or a dead network makes the installer report follow-up errors such as
    'no matching distribution', which alone would send the reader the wrong way.
    """
    if DISK_FULL.search(output):
        return disk_full_sentence(environment)
    if NO_ENSUREPIP.search(output):
        return no_venv_sentence()
    if NO_NETWORK.search(output):
        return (
            "There is no network, or the package index cannot be reached: connect this computer (or set "
            "PIP_INDEX_URL to a mirror, or HTTPS_PROXY to your proxy) and run the same command again."
        )
    if NO_WRITE.search(output):
        return not_writable_sentence(environment)
    missing = NO_PACKAGE.search(output)
    if missing:
        return (
            f"A package is not available for Python {platform.python_version()} on this "
            f"{platform.system()} {platform.machine()} machine ({missing.group(0).strip()}): try another "
            "Python version, 3.11 to 3.13."
        )
    return f"The installation failed: the reason is at the end of {environment / LOG_NAME}."


def operating_system_reason(error: OSError, environment: Path) -> str:
    """The sentence for an error of the operating system during the set-up."""
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", -1)):
        return disk_full_sentence(environment)
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return f"{error.filename or environment} is a file where a folder is needed: move it away."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return not_writable_sentence(Path(error.filename or environment))
    return f"The set-up could not go on: {error}."


# --- what the environment should be, and whether it is --------------------------------------------------


def environment_folder() -> Path:
    """Where the virtual environment is: COURSE_VENV, or .venv beside this file."""
    return Path(os.environ.get("COURSE_VENV") or ROOT / ".venv").expanduser().resolve()


def environment_python(environment: Path) -> Path:
    """The interpreter inside the virtual environment."""
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def requirements_fingerprint(root: Path) -> str:
    """A hash of what decides the environment's content; other edits of pyproject.toml leave it as it is."""
    import tomllib

    with (root / "pyproject.toml").open("rb") as file:
        declared = tomllib.load(file)
    project = declared.get("project", {})
    fields = ("name", "requires-python", "dependencies", "optional-dependencies", "scripts", "entry-points")
    decisive = {
        "build-system": declared.get("build-system"),
        "project": {field: project.get(field) for field in fields},
        "packages": declared.get("tool", {}).get("setuptools", {}).get("packages"),
        "root": str(root),  # an editable installation and the scripts hold this path
        "platform": [sys.platform, platform.machine()],
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def python_inside(environment: Path) -> "str | None":
    """The version of the environment's interpreter, or None where it does not start."""
    code = "import encodings, sys; print('%d.%d' % sys.version_info[:2])"
    try:
        command = [str(environment_python(environment)), "-c", code]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode().strip() if done.returncode == 0 else None


def read_stamp(environment: Path) -> "dict[str, object]":
    """The stamp of a finished environment; empty where there is none or it cannot be read."""
    try:
        stamp = json.loads((environment / STAMP_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(environment: Path, fingerprint: str, extras: "set[str]", python: str) -> None:
    """Say that the environment is complete: the last write of a set-up, and an atomic one."""
    stamp = {"fingerprint": fingerprint, "extras": sorted(extras), "python": python}
    temporary = environment / (STAMP_NAME + ".new")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(stamp, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(environment / STAMP_NAME)


def state(environment: Path, fingerprint: str, extras: "set[str]") -> str:
    """'ready', 'outdated' (complete for other requirements) or 'unusable' (half made, broken, absent)."""
    stamp = read_stamp(environment)
    if not stamp or stamp.get("python") != python_inside(environment):
        return "unusable"
    installed = stamp.get("extras")
    complete = isinstance(installed, list) and extras <= set(installed)
    return "ready" if complete and stamp.get("fingerprint") == fingerprint else "outdated"


# --- one set-up at a time -------------------------------------------------------------------------------


def try_lock(descriptor: int) -> bool:
    """Take the operating system's lock on an open file; False where another process has it.

    The system frees the lock when its owner dies, however it dies, so no stale lock is ever left behind.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(descriptor, 0, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            return True  # a file system without locks: better unprotected than unusable
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
        raise
    return True


@contextlib.contextmanager
def locked(environment: Path):  # type: ignore[no-untyped-def]
    """Hold the environment's lock, waiting for another start to finish; yields the open descriptor."""
    environment.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(str(environment / LOCK_NAME), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        started, announced = time.monotonic(), False
        while not try_lock(descriptor):
            if not announced:
                say("Another start is setting up the environment at this moment; waiting for it to finish.")
                announced = True
            time.sleep(0.2)
        if announced:
            say(f"The other start has finished ({time.monotonic() - started:.0f} s).")
        yield descriptor
    finally:
        os.close(descriptor)


# --- running a step and showing that it runs ------------------------------------------------------------


class Ticker:
    """One line that says what is going on and for how long: redrawn on a terminal, now and then elsewhere."""

    def __init__(self, title: str) -> None:
        self.title, self.detail = title, ""
        self.started = time.monotonic()
        self.terminal = sys.stderr.isatty()
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Ticker":
        say(f"{self.title} …")
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._finished.set()
        self._thread.join()
        if self.terminal:
            print("\r\033[K", end="", file=sys.stderr)
        if error is None:
            say(f"  done in {time.monotonic() - self.started:.0f} s")

    def _run(self) -> None:
        while not self._finished.wait(0.5 if self.terminal else QUIET_LINE_SECONDS):
            line = f"  {time.monotonic() - self.started:4.0f} s  {self.detail}"
            if self.terminal:
                width = shutil.get_terminal_size().columns - 1
                print("\r\033[K" + line[:width], end="", file=sys.stderr, flush=True)
            else:
                say(line)


def detail_of(line: str) -> str:
    """What to show of a line that the installer printed: short, without its warnings; the log has all."""
    if line.startswith(("WARNING", "DEPRECATION", "  WARNING")):
        return ""
    packages = re.match(r"Installing collected packages: (.*)", line)
    if packages:
        return f"Installing {len(packages.group(1).split(','))} packages"
    return line.strip()[:100]


def child_environment() -> "dict[str, str]":
    """The variables for the set-up's own processes, without those that lead an installation elsewhere."""
    variables = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "PIP_TARGET")
    }
    return {**variables, "PIP_USER": "0", "PYTHONIOENCODING": "utf-8"}


def end_process(process: "subprocess.Popen[str]") -> None:
    """End a child that an interrupt left running: politely first."""
    try:
        process.wait(timeout=3)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def run_step(title: str, command: "list[str]", environment: Path, lock: int) -> None:
    """Run one command of the set-up with its output in the log, and say why if it fails.

    The child inherits the lock: should this process be killed, the next start waits for the orphan instead of
    working in the same folder at the same time.
    """
    keep = {"pass_fds": (lock,)} if os.name == "posix" else {}
    log = environment / LOG_NAME
    with Ticker(title) as ticker, log.open("a", encoding="utf-8", errors="replace") as log_file:
        process = subprocess.Popen(
            command,
            cwd=str(ROOT),
            env=child_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            encoding="utf-8",
            errors="replace",
            **keep,  # type: ignore[call-overload]
        )
        output = []
        try:
            for line in process.stdout:
                output.append(line)
                log_file.write(line)
                ticker.detail = detail_of(line) or ticker.detail
            code = process.wait()
        except BaseException:
            end_process(process)
            raise
        if code != 0:
            raise SetUpError(failure_reason("".join(output), environment))


# --- making the environment -----------------------------------------------------------------------------


def check_python_can_make_environments() -> None:
    """Raise the sentence where venv or ensurepip is missing, before anything is written."""
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        raise SetUpError(no_venv_sentence()) from None


def clear(environment: Path) -> None:
    """Empty the environment's folder, but for the lock that this process holds."""
    for entry in environment.iterdir():
        if entry.name == LOCK_NAME:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(str(entry))
        else:
            entry.unlink()


def may_be_emptied(environment: Path) -> bool:
    """Whether the folder is ours to empty: our .venv, a new folder, or one that a set-up has been at."""
    names = {entry.name for entry in environment.iterdir()} - {LOCK_NAME}
    return environment == ROOT / ".venv" or not names or bool(names & {LOG_NAME, "pyvenv.cfg"})


def make_environment(environment: Path, lock: int) -> None:
    """A new, empty virtual environment, whatever was there before."""
    check_python_can_make_environments()
    if not may_be_emptied(environment):
        raise SetUpError(f"COURSE_VENV names {environment}, which holds other files: name a new folder.")
    free = shutil.disk_usage(str(environment)).free
    if free < SPACE_NEEDED:
        say(f"Note: {free / 1e9:.1f} GB are free here; the course needs about {SPACE_NEEDED / 1e9:.0f} GB.")
    clear(environment)
    # The base interpreter: the one that runs this file may live in the very folder that was just emptied.
    python = getattr(sys, "_base_executable", None) or sys.executable
    without_pip = ["--without-pip"] if os.environ.get("COURSE_PIP") else []
    command = [python, "-m", "venv", *without_pip, str(environment)]
    run_step(f"Making the environment in {environment}", command, environment, lock)


def installer(environment: Path) -> "list[str]":
    """The command that installs: pip of the environment, or the Python script that COURSE_PIP names."""
    python, script = str(environment_python(environment)), os.environ.get("COURSE_PIP")
    return [python, script] if script else [python, "-m", "pip"]


def install(environment: Path, extras: "set[str]", lock: int) -> None:
    """Install the project, editable, with what it needs."""
    wanted = f"{ROOT}[{','.join(sorted(extras))}]" if extras else str(ROOT)
    command = [*installer(environment), "install", "--disable-pip-version-check", "--no-input"]
    command += ["--progress-bar", "off", "--no-warn-script-location", "--editable", wanted]
    title = "Installing the packages (about 1.4 GB: minutes on the first start, seconds afterwards)"
    run_step(title, command, environment, lock)


def set_up(environment: Path, extras: "set[str]") -> None:
    """Bring the environment to the state that the requirements ask for; returns at once where it is there.

    The stamp goes first and comes last, so an interrupted set-up is never taken for a finished one: it is
    made anew, and the installer's own cache saves the downloads.
    """
    fingerprint = requirements_fingerprint(ROOT)
    if state(environment, fingerprint, extras) == "ready":
        return
    started = time.monotonic()
    with locked(environment) as lock:
        found = state(environment, fingerprint, extras)
        if found == "ready":  # the other start, which this one waited for, did the work
            return
        stamp = read_stamp(environment)
        if found == "outdated":
            changed = stamp.get("fingerprint") != fingerprint
            say("The requirements have changed." if changed else "Adding what this verb needs.")
            extras = extras | set(map(str, stamp.get("extras") or []))  # type: ignore[call-overload]
            (environment / STAMP_NAME).unlink()
        else:
            make_environment(environment, lock)
        install(environment, extras, lock)
        version = python_inside(environment)
        if version is None:
            raise SetUpError(f"The Python in {environment} does not start: delete that folder, start again.")
        write_stamp(environment, fingerprint, extras, version)
    say(f"The environment is ready ({time.monotonic() - started:.0f} s). The next start takes seconds.")


# --- the way in -----------------------------------------------------------------------------------------


def hand_over(command: "list[str]") -> int:
    """Become the given command; where the system cannot, run it and return its exit code."""
    sys.stdout.flush()
    sys.stderr.flush()
    if os.name == "posix":
        os.execv(command[0], command)
    process = subprocess.Popen(command)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # the child has had it too, and decides
            continue


def start(arguments: "list[str]") -> int:
    """Set up what the verb needs, then hand over to it."""
    environment = environment_folder()
    python = str(environment_python(environment))
    verb, rest = arguments[0], arguments[1:]
    if verb == "test":
        if not (ROOT / "tests").is_dir():
            say("This copy of the course has no tests: `python3 course.py check` runs your exercises.")
            return EXIT_WRONG_USE
        set_up(environment, set(TEST_EXTRAS))
        os.chdir(str(ROOT))
        return hand_over([python, "-m", "pytest", *PYTEST_OPTIONS, *rest])
    set_up(environment, set())
    return hand_over([python, "-m", "course_lib.cli", verb, *rest])


def main(arguments: "list[str]") -> int:
    """Exit code: that of the verb, 2 for wrong use, 3 where the set-up failed, 130 after an interrupt."""
    problem = python_problem(sys.version_info[:3])
    if problem:
        say(problem)
        return EXIT_BROKEN
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print((__doc__ or "").strip())
        return 0 if arguments else EXIT_WRONG_USE
    try:
        return start(arguments)
    except SetUpError as error:
        say(str(error))
    except OSError as error:
        say(operating_system_reason(error, environment_folder()))
    except KeyboardInterrupt:
        say("Interrupted. Run the same command again to finish the set-up.")
        return EXIT_INTERRUPTED
    return EXIT_BROKEN


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
