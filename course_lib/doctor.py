"""`course doctor`: what this machine has of what the course uses, a row and a sentence each.

Each look is fenced: one that fails becomes a row that says so, never a traceback. torch is imported in a
process of its own, so that a broken one is reported too.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .workspace import Workspace, WorkspaceError

GIGABYTE = 10**9
BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "msedge",
    "microsoft-edge",
    "firefox",
)
APPLICATIONS = (
    "/Applications/Google Chrome.app",
    "/Applications/Chromium.app",
    "/Applications/Microsoft Edge.app",
    "/Applications/Firefox.app",
    "/Applications/Safari.app",
    "C:/Program Files/Google/Chrome/Application/chrome.exe",
    "C:/Program Files (x86)/Microsoft/Edge/Application/msedge.exe",
)
CJK_FONTS = re.compile(
    r"noto ?(sans|serif) ?(mono )?cjk|source ?han|pingfang|hiragino|heiti|songti|yahei|simhei|simsun"
    r"|wenquanyi|wqy|ar ?pl u|droid sans fallback|malgun|meiryo|yu ?gothic|noto ?sans ?(sc|tc|jp|kr)",
    re.IGNORECASE,
)
TORCH_PROGRAM = """
import json, torch
found = {"version": torch.__version__, "threads": torch.get_num_threads(), "cuda": torch.cuda.is_available()}
found["sum"] = float(torch.ones(3).sum())
if found["cuda"]:
    free, total = torch.cuda.mem_get_info()
    found |= {"gpu": torch.cuda.get_device_name(), "free": free, "total": total}
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Row:
    """One finding. status: "ok", "warn" (the course works without) or "missing" (it does not)."""

    name: str
    status: str
    sentence: str


def examine() -> list[Row]:
    """Every finding about this machine, in the order in which they matter."""
    looks: tuple[tuple[str, Callable[[], list[Row]]], ...] = (
        ("Python", _python),
        ("environment", _environment),
        ("packages", _packages),
        ("torch", _torch),
        ("memory", _memory),
        ("disk", _disk),
        ("browser", _browser),
        ("CJK font", _font),
        ("isolation", _isolation),
        ("your folder", _work),
    )
    return [row for name, look in looks for row in _fenced(name, look)]


def _fenced(name: str, look: Callable[[], list[Row]]) -> list[Row]:
    try:
        return look()
    except Exception as error:  # a look must never take the others with it
        return [Row(name, "warn", f"This could not be looked at: {type(error).__name__}: {error}.")]


def _output(command: list[str], seconds: float = 20) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL)


# --- the software ---------------------------------------------------------------------------------------


def _python() -> list[Row]:
    told = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}."
    return [Row("Python", "ok", told)]


def _environment() -> list[Row]:
    if os.environ.get("CONDA_PREFIX") == sys.prefix:
        return [Row("environment", "ok", f"The conda environment {sys.prefix}.")]
    if sys.prefix == sys.base_prefix:
        told = "Outside a virtual environment: `python3 course.py lab` makes one that is known to fit."
        return [Row("environment", "warn", told)]
    if (Path(sys.prefix) / "course-stamp.json").exists():
        return [Row("environment", "ok", f"{sys.prefix}, made by course.py and complete.")]
    told = f"{sys.prefix} was not made by course.py, which therefore cannot tell whether it is complete."
    return [Row("environment", "warn", told)]


def _required() -> list[str]:
    declared = tomllib.loads((Workspace().root / "pyproject.toml").read_text(encoding="utf-8"))
    return [str(line) for line in declared["project"]["dependencies"]]


def _packages() -> list[Row]:
    """Whether the installed versions are those that pyproject.toml asks for."""
    from packaging.requirements import Requirement

    wrong = []
    for requirement in map(Requirement, _required()):
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is not installed")
            continue
        if not requirement.specifier.contains(version.split("+")[0], prereleases=True):
            wrong.append(f"{requirement.name} is {version}, not {requirement.specifier}")
    if wrong:
        told = f"{'; '.join(wrong)}: delete the environment's folder and run `python3 course.py lab`."
        return [Row("packages", "missing", told)]
    return [Row("packages", "ok", "All packages are there in the versions that the course asks for.")]


def _torch() -> list[Row]:
    try:
        done = _output([sys.executable, "-c", TORCH_PROGRAM], seconds=120)
    except subprocess.TimeoutExpired:
        return [
            Row(
                "torch",
                "missing",
                "Importing torch took more than two minutes: restart the computer, try again.",
            )
        ]
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        told = (
            f"torch does not work ({last}): delete the environment's folder and run `python3 course.py lab`."
        )
        return [Row("torch", "missing", told)]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return [_torch_row(found), _gpu_row(found)]


def _torch_row(found: dict[str, Any]) -> Row:
    pinned = next(line.split("==")[1] for line in _required() if line.startswith("torch=="))
    cores = os.cpu_count() or 1
    told = f"torch {found['version']} works, with {found['threads']} threads on {cores} logical cores"
    if found["version"].split("+")[0] != pinned:
        return Row("torch", "warn", f"{told}; the course is tested with {pinned}.")
    return Row("torch", "ok", f"{told}.")


def _gpu_row(found: dict[str, Any]) -> Row:
    if found["cuda"]:
        free, total = (found[key] / GIGABYTE for key in ("free", "total"))
        return Row("GPU", "ok", f"{found['gpu']}: {free:.1f} of {total:.1f} GB free.")
    if shutil.which("nvidia-smi"):
        told = "There is an NVIDIA driver, but this torch cannot use it; everything runs on the CPU."
    else:
        told = (
            "No CUDA device; everything runs on the CPU, and points for speed are reported as not measured."
        )
    return Row("GPU", "warn", told)


# --- the machine ----------------------------------------------------------------------------------------


def total_memory() -> int:
    """The machine's memory in bytes, or the container's limit where that is less."""
    import psutil

    found = [int(psutil.virtual_memory().total)]
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        found.append(int(text))
    return min(found)


def _memory() -> list[Row]:
    total = total_memory()
    told = f"{total / GIGABYTE:.1f} GB of memory"
    if total < 4 * GIGABYTE:
        return [Row("memory", "warn", f"{told}; a lesson uses up to 2 GiB, so close other programs.")]
    return [Row("memory", "ok", f"{told}; a lesson uses up to 2 GiB.")]


def _disk() -> list[Row]:
    work = Workspace().work
    there = next(folder for folder in (work, *work.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    told = f"{free / GIGABYTE:.1f} GB free on the disk of {work}"
    if free < GIGABYTE // 5:
        return [Row("disk", "missing", f"{told}: free some space before you work, or saving will fail.")]
    if free < 2 * GIGABYTE:
        return [Row("disk", "warn", f"{told}: little for new packages.")]
    return [Row("disk", "ok", f"{told}.")]


def _browser() -> list[Row]:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    found = found or next((path for path in APPLICATIONS if Path(path).exists()), None)
    if found is None:
        told = (
            "No browser found: use `course lab --no-browser` and open the address on a machine that has one."
        )
        return [Row("browser", "warn", told)]
    return [Row("browser", "ok", f"{found}.")]


def _font() -> list[Row]:
    names = _font_names()
    found = next((name for name in names if CJK_FONTS.search(name)), None)
    if found is None:
        told = "No font with Chinese characters: pictures use other labels (Debian: fonts-noto-cjk)."
        return [Row("CJK font", "warn", told)]
    return [Row("CJK font", "ok", f"{found}.")]


def _font_names() -> list[str]:
    """The fonts that the system lists, or else the names of its font files."""
    if shutil.which("fc-list"):
        return sorted(set(_output(["fc-list", ":", "family"]).stdout.splitlines()))
    folders = [
        "/System/Library/Fonts",
        "/Library/Fonts",
        "~/Library/Fonts",
        "C:/Windows/Fonts",
        "/usr/share/fonts",
    ]
    windows = {"msyh": "Microsoft YaHei", "simsun": "SimSun", "simhei": "SimHei", "meiryo": "Meiryo"}
    files = [path.stem for folder in folders for path in Path(folder).expanduser().rglob("*.[to]t[fc]")]
    return [windows.get(name.lower(), name) for name in files]


# --- isolation for grading ------------------------------------------------------------------------------


def _works(*command: str) -> bool:
    if shutil.which(command[0]) is None:
        return False
    try:
        return _output(list(command)).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def bubblewrap_works() -> bool:
    """Whether bubblewrap can make namespaces here."""
    return _works("bwrap", "--unshare-all", "--ro-bind", "/", "/", "true")


def user_namespaces_work() -> bool:
    """Whether this user may make namespaces without being root."""
    return _works("unshare", "--user", "--map-root-user", "--net", "true")


def container_program() -> str | None:
    """docker or podman, where one of them starts containers as the grader uses them."""
    from .grading.views import container_starts

    names = (name for name in ("docker", "podman") if _works(name, "version"))
    return next((name for name in names if container_starts(name)), None)


def isolation() -> dict[str, bool]:
    """Which means of running untrusted code apart work here: tried, not guessed."""
    from .grading.views import privileged

    return {
        "bubblewrap": bubblewrap_works(),
        "user namespaces": user_namespaces_work(),
        "root": sys.platform == "linux" and privileged(),
        "docker": container_program() is not None,
    }


def _isolation() -> list[Row]:
    found = isolation()
    # In the order in which the grader takes them.
    means = (
        ("bubblewrap", found["bubblewrap"]),
        ("Linux namespaces", found["root"] or found["user namespaces"]),
        ("a container of docker or podman", found["docker"]),
    )
    by = next((name for name, works in means if works), None)
    if by is None:
        there = sys.platform == "linux"
        advice = "install bubblewrap" if there else "use a Linux machine, a container or WSL2"
        told = "None: submissions would run with your own rights. Only grading other people's code needs it;"
        told += f" to grade here, {advice}."
        return [Row("isolation", "warn", told)]
    told = (
        f"By {by}: a submission sees no file, process, network or variable of this machine, and its time,"
        " memory, processes and output are limited. It does not protect from a fault in the kernel itself."
        " Only grading other people's code needs it."
    )
    return [Row("isolation", "ok", told), _calls_row(), _shared_memory_row(contained=by.endswith("podman"))]


def _calls_row() -> Row:
    from .grading import seccomp

    if seccomp.works():
        told = "The kernel refuses a submission the calls that no exercise needs (seccomp)."
        return Row("isolation: calls", "ok", told)
    told = "Calls to the kernel are not filtered: grade on Linux on x86-64 or ARM64 for this second wall."
    return Row("isolation: calls", "warn", told)


def _shared_memory_row(contained: bool) -> Row:
    from .grading import control_group

    if contained or control_group.works():
        told = "A control group limits the memory of all processes of a submission together, exactly."
        return Row("isolation: memory", "ok", told)
    told = (
        "No control group can be made: the memory of all processes of a submission is added up twenty times a"
        " second instead, which misses shared memory that none of them has mapped in."
    )
    return Row("isolation: memory", "ok", told)


# --- the learner's folder -------------------------------------------------------------------------------


def _work() -> list[Row]:
    try:
        workspace = Workspace()
    except WorkspaceError as error:
        return [Row("your folder", "missing", str(error))]
    if not workspace.work.exists():
        return [Row("your folder", "ok", f"{workspace.work} will be made by `course lab`.")]
    if not os.access(workspace.work, os.W_OK):
        return [
            Row(
                "your folder",
                "missing",
                f"{workspace.work} cannot be written: make it yours, or set COURSE_WORK.",
            )
        ]
    behind = [name for name in workspace.outdated() if workspace.mine(name).exists()]
    if behind:
        told = f"{workspace.work} is behind the course ({', '.join(behind)}); `course update` brings them."
        return [Row("your folder", "warn", told)]
    return [Row("your folder", "ok", f"{workspace.work} is up to date.")]
