"""The kernel that runs a notebook: this Python, a fixed environment, no trace of who builds."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from . import network_guard

# One thread a kernel, however many run at once: the order of floating-point sums, and with it the
# last digits of what a notebook shows, must not depend on how it was built.
THREADS = "1"

_FIXED = {
    "COURSE_BUILD": "1",
    "COURSE_DEVICE": "cpu",
    "PYTHONHASHSEED": "0",
    "OMP_NUM_THREADS": THREADS,
    "MKL_NUM_THREADS": THREADS,
    "OPENBLAS_NUM_THREADS": THREADS,
    "TQDM_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
    "COLUMNS": "100",
    "LINES": "40",
    "TZ": "UTC",
}
_UNWANTED = ("MPLBACKEND", "PYTHONWARNINGS", "PYTHONSTARTUP", "NO_COLOR", "FORCE_COLOR")

_SITECUSTOMIZE = """\
import importlib.util
specification = importlib.util.spec_from_file_location("course_network_guard", {path!r})
guard = importlib.util.module_from_spec(specification)
specification.loader.exec_module(guard)
guard.install()
"""


class CourseKernelManager(AsyncKernelManager):
    """Starts ipykernel with the Python that runs the build, whatever kernels are installed."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """A specification made here, so that no kernel.json of this machine is read."""
        return KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            display_name="Python 3",
            language="python",
            metadata={"supported_encryption": ["curve"]},
        )


def make_manager(scratch: Path) -> CourseKernelManager:
    """A manager that talks to its kernel over sockets in `scratch`, where the system has such sockets.

    Ports are chosen before they are bound: two kernels that start together can choose the same one.
    """
    if sys.platform == "win32":
        return CourseKernelManager()
    return CourseKernelManager(transport="ipc", ip=str(scratch / "k"))


def environment(root: Path, scratch: Path) -> dict[str, str]:
    """The environment of one kernel.

    scratch: an empty folder of its own, for progress, IPython's profile and the network log; the
    learner's progress and the author's profile are never touched.
    """
    site = scratch / "site"
    site.mkdir(parents=True, exist_ok=True)
    (site / "sitecustomize.py").write_text(_SITECUSTOMIZE.format(path=str(Path(network_guard.__file__))))
    inherited = {name: value for name, value in os.environ.items() if _is_harmless(name)}
    own_library = [str(root)] if (root / "course_lib").is_dir() else []
    paths = [str(site), *own_library, *filter(None, [os.environ.get("PYTHONPATH", "")])]
    return {
        **inherited,
        **_FIXED,
        "PYTHONPATH": os.pathsep.join(paths),
        "IPYTHONDIR": str(scratch / "ipython"),
        "COURSE_PROGRESS": str(scratch / "progress.json"),
        network_guard.LOG_VARIABLE: str(network_log(scratch)),
    }


def _is_harmless(name: str) -> bool:
    # A COURSE_ variable of the caller's (a device, a file for verdicts) would change what notebooks show.
    return name not in _UNWANTED and not name.startswith("COURSE_")


def network_log(scratch: Path) -> Path:
    """Where a kernel's attempts to reach the network are noted, one a line."""
    return scratch / "network.log"
