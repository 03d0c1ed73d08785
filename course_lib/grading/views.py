"""What a worker sees of this machine: an allow-list, and the command lines that show it nothing else.

The same view by three means: bubblewrap, Linux's own calls (`confine.enter`), and a container of docker or
podman. Everything is read-only but /scratch, of which each submission is given a new one.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .confine import GIBIBYTE, Limits

COURSE = "/course"
SCRATCH = "/scratch"
CONTROL = "/control"
SYSTEM = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")
ETC = ("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime")
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
# Of a container's own files, those that tell about this machine.
TELLING = ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf")
# What the worker needs to confine, count and end its children, who keep none of it.
CAPABILITIES = {"SYS_ADMIN": 21, "SYS_PTRACE": 19, "SETUID": 7, "SETGID": 6, "KILL": 5}
TRIAL_SECONDS = 60
# For the preloaded process and for a supervisor, beside what a submission may use.
PRELOADED_BYTES, PRELOADED_PROCESSES = 2 * GIBIBYTE, 32
SUPERVISOR_BYTES, SUPERVISOR_PROCESSES = GIBIBYTE // 2, 8


@dataclass(frozen=True)
class View:
    """What is shown. steps: ("show", path) or ("empty", path), in order; links: (name, target)."""

    library: str
    steps: tuple[tuple[str, str], ...]
    links: tuple[tuple[str, str], ...]

    @classmethod
    def of_this_machine(cls, library: Path) -> View:
        """The system's programs, Python, the installed packages, and the staged library."""
        folders, links = _system()
        base = [os.path.realpath(sys.base_prefix)]
        packages = installed_packages()
        files = [name for name in ETC if Path(name).exists()]
        steps = [("show", path) for path in (*folders, *files, *_beyond_usr(base))]
        steps += [("empty", path) for path in _repository_shown(base)]
        steps += [("show", path) for path in packages]
        # Copies of the course among the installed packages hold the references.
        copies = [Path(folder) / "course_lib" for folder in packages]
        steps += [("empty", str(path)) for path in copies if path.is_dir()]
        if not any(path.startswith("/tmp/") for _, path in steps):
            links.append(("/tmp", SCRATCH))
        return cls(str(library), tuple(steps), tuple(links))


def installed_packages() -> list[str]:
    """The folders of installed packages, each once."""
    return list(dict.fromkeys(os.path.realpath(sysconfig.get_path(name)) for name in ("purelib", "platlib")))


def _system() -> tuple[list[str], list[tuple[str, str]]]:
    """(folders of the system to show, links to make beside them as (name, target))"""
    folders, links = ["/usr"], []
    for path in (Path("/") / name for name in SYSTEM):
        if path.is_symlink():
            links.append((str(path), str(path.readlink())))
        elif path.is_dir():
            folders.append(str(path))
    return folders, links


def _beyond_usr(folders: list[str]) -> list[str]:
    return [folder for folder in folders if not folder.startswith("/usr/") and folder != "/usr"]


def _repository_shown(base: list[str]) -> list[str]:
    """The repository itself, where it lies below a folder that is shown: to be covered."""
    repository = Path(__file__).resolve().parents[2]
    if str(repository) in installed_packages():
        return []
    return [str(repository)] if any(repository.is_relative_to(folder) for folder in ("/usr", *base)) else []


def environment() -> dict[str, str]:
    """All environment variables of a worker."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    places = dict.fromkeys(("HOME", "TMPDIR", "MPLCONFIGDIR", "XDG_CACHE_HOME"), SCRATCH)
    # Memory in pages of 2 MiB from the beginning: `confine.use_large_pages` then has little left to gather.
    pages = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    rest = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "USER": "learner", "MPLBACKEND": "agg"}
    return threads | places | pages | rest


def of_worker(limits: Limits) -> tuple[int, int]:
    """(bytes of memory, processes) of a worker with one submission in it."""
    return limits.together + limits.scratch + PRELOADED_BYTES, limits.processes + PRELOADED_PROCESSES


def of_supervisor(limits: Limits) -> tuple[int, int]:
    """(bytes of memory, processes) of a supervisor with one submission below it."""
    return limits.together + limits.scratch + SUPERVISOR_BYTES, limits.processes + SUPERVISOR_PROCESSES


def privileged() -> bool:
    """Whether this process may make namespaces without a user namespace, and change users in them."""
    if os.geteuid() != 0:
        return False
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    effective = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff"))
    return all(effective >> number & 1 for number in CAPABILITIES.values())


# --- by Linux's own calls -------------------------------------------------------------------------------


def own_calls(view: View, as_root: bool) -> dict[str, Any]:
    """The view as `confine.enter` takes it."""
    devices = [path for path in DEVICES if Path(path).exists()]
    return {"user": not as_root, "devices": devices, "course": COURSE, "scratch": SCRATCH} | asdict(view)


# --- bubblewrap -----------------------------------------------------------------------------------------


def bubblewrap(view: View, as_root: bool) -> list[str]:
    """The command line up to the program that runs inside."""
    unshared = [f"--unshare-{kind}" for kind in ("pid", "net", "ipc", "uts", "cgroup-try")]
    command = [shutil.which("bwrap") or "bwrap", *unshared, "--hostname", "sandbox"]
    command += ["--die-with-parent", "--new-session"]
    if not as_root:
        command += ["--unshare-user", "--uid", "1000", "--gid", "1000"]
    command += ["--cap-drop", "ALL", *_pairs("--cap-add", [f"CAP_{name}" for name in CAPABILITIES])]
    command += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", SCRATCH]
    for kind, path in view.steps:
        shown = ("--tmpfs", path) if kind == "empty" else ("--ro-bind", path, path)
        command += [*_open_parents(path), *shown]
    command += [word for name, target in view.links for word in ("--symlink", target, name)]
    command += ["--ro-bind", view.library, COURSE]
    covered = [path for kind, path in view.steps if kind == "empty"]
    return command + _pairs("--remount-ro", [*covered, "/dev", "/"]) + ["--chdir", SCRATCH]


def _open_parents(path: str) -> list[str]:
    """Make the folders above one that learners' users may pass: bubblewrap gives some of them 0700."""
    parents = [str(parent) for parent in reversed(Path(path).parents) if str(parent) != "/"]
    return [word for parent in _beyond_usr(parents) for word in ("--perms", "0755", "--dir", parent)]


def _pairs(option: str, values: list[str]) -> list[str]:
    return [word for value in values for word in (option, value)]


# --- a container of docker or podman --------------------------------------------------------------------


def container(program: str, view: View, control: Path, limits: Limits) -> list[str]:
    """The command line up to the program that runs inside. control: the socket to be shown as /control."""
    command = [program, "run", "--rm", "--pull", "never", "--network", "none", "--hostname", "sandbox"]
    command += ["--read-only", "--log-driver", "none", "--user", "0:0", "--workdir", SCRATCH]
    podman = Path(program).name == "podman"
    if podman:
        command += ["--read-only-tmpfs=false", "--passwd=false"]
    command += ["--cap-drop", "ALL", *_pairs("--cap-add", list(CAPABILITIES))]
    # The default profiles of AppArmor and SELinux forbid the worker to give each submission its own folders.
    command += _pairs("--security-opt", ["no-new-privileges", "apparmor=unconfined", "label=disable"])
    memory, processes = map(str, of_worker(limits))
    command += ["--memory", memory, "--memory-swap", memory, "--pids-limit", processes]
    command += ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"]
    command += _pairs("--env", [f"{name}={value}" for name, value in environment().items()])
    shown = [(path, path) for kind, path in view.steps if kind == "show"]
    shown += [(view.library, COURSE), (str(control), CONTROL), *(("/dev/null", name) for name in TELLING)]
    binds = [f"type=bind,source={path},target={inside},readonly" for path, inside in shown]
    # Where podman covers a folder, it copies what lies in it unless told not to.
    bare = "mode=0755,notmpcopyup" if podman else "mode=0755"
    empty = [f"{path}:size=1m,{bare}" for kind, path in view.steps if kind == "empty"]
    command += [*_pairs("--mount", binds), *_pairs("--tmpfs", [*empty, f"{SCRATCH}:size=64m,mode=0700"])]
    return [*command, _image(program, view)]


def container_starts(program: str) -> bool:
    """Whether `program` runs such a container for this user, here and now."""
    view = View.of_this_machine(Path(__file__).parent)
    try:
        command = [*container(program, view, Path("/dev/null"), Limits()), "/bin/true"]
        return subprocess.run(command, capture_output=True, timeout=TRIAL_SECONDS).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def _image(program: str, view: View) -> str:
    """The name of an image of folders to mount upon, links and no program; made where it is missing."""
    packed = _packed(view)
    name = f"localhost/course-sandbox:{hashlib.sha256(packed).hexdigest()[:12]}"
    if subprocess.run([program, "image", "inspect", name], capture_output=True).returncode != 0:
        subprocess.run([program, "import", "-", name], input=packed, capture_output=True, check=True)
    return name


def _packed(view: View) -> bytes:
    """A tar file of empty folders and of the view's links."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name in ("proc", "dev", "sys", "etc", SCRATCH[1:], COURSE[1:]):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(folder)
        for name, target in view.links:
            link = tarfile.TarInfo(name.removeprefix("/"))
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
    return made.getvalue()
