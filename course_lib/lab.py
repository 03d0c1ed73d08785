"""JupyterLab on the learner's folder, with settings of its own: no news, no update check, no request outside.

Everything that JupyterLab remembers for the course lies in `work/.course/lab`; the user's own Jupyter
settings are neither read nor changed.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from .atomic import write_text
from .workspace import Workspace, WorkspaceError, course_notebooks

WELCOME = "notebooks/00_welcome.ipynb"
FIRST_PORT, PORTS = 8888, 50
START_SECONDS = 120
# Written once; what the learner changes in JupyterLab afterwards stays.
SETTINGS: dict[str, dict[str, object]] = {
    "@jupyterlab/apputils-extension/notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": False,
    },
    # A saved notebook shows its explorers again without a kernel.
    "@jupyter-widgets/jupyterlab-manager/plugin": {"saveState": True},
    # Explorers and sliders must not be torn down as they scroll out of view.
    "@jupyterlab/notebook-extension/tracker": {"autoStartDefaultKernel": True, "windowingMode": "none"},
}
# Tools of the course's authors that add themselves to any JupyterLab beside them: jupytext's server part
# would write a text file beside every notebook that is saved; nbgrader's menus are for makers of assignments.
SERVER_PARTS_OFF = (
    "jupyterlab_jupytext",
    "nbgrader.server_extensions.formgrader",
    "nbgrader.server_extensions.validate_assignment",
    "nbgrader.server_extensions.assignment_list",
    "nbgrader.server_extensions.course_list",
)
PAGE_PARTS_OFF = ("jupyterlab-jupytext", "@jupyter/nbgrader")


class LabError(RuntimeError):
    """JupyterLab does not work on this machine; the message says what it said and where its log is."""


@dataclass(frozen=True)
class Server:
    """A JupyterLab server that was started here."""

    process: subprocess.Popen[bytes]
    port: int
    token: str
    log: Path

    def address(self, path: str) -> str:
        """The full address of a path on the server, with its token."""
        return f"http://127.0.0.1:{self.port}/{path}?token={self.token}"


def run_lab(workspace: Workspace, *, browser: bool, port: int | None) -> int:
    """Prepare the learner's folder, run JupyterLab until Ctrl-C, and return the exit code.

    Raises WorkspaceError where the port is taken, LabError where the server does not come up.
    """
    started = time.monotonic()
    _tell_about_folder(workspace)
    server = start_server(workspace, _free_port(port))
    with _ending(server):
        _wait_until_up(server)
        address = server.address(f"lab/tree/{_first_page(workspace)}")
        print(f"JupyterLab is ready in {time.monotonic() - started:.1f} s. Ctrl-C ends it.", flush=True)
        print(f"  {address}", flush=True)
        if browser and not _open_browser(workspace, address):
            print("No browser could be opened: copy the address into one.", flush=True)
        code = server.process.wait()
        print(f"JupyterLab has ended by itself (exit code {code}); its log is {server.log}.", file=sys.stderr)
        return 0 if code == 0 else 3
    print(f"\nJupyterLab has ended. Your notebooks are in {workspace.work}.", flush=True)
    return 0


def _first_page(workspace: Workspace) -> str:
    """The welcome notebook, or the first there is: a pack for learners may hold other chapters only."""
    names = course_notebooks(workspace.root)
    return WELCOME if WELCOME in names or not names else names[0]


def _tell_about_folder(workspace: Workspace) -> None:
    copied = workspace.prepare()
    if copied:
        print(f"Notebooks copied to {workspace.work}: {len(copied)}.", flush=True)
    elif workspace.outdated():
        print(
            "The course has newer notebooks than yours: `course update` brings them and keeps your answers."
        )


# --- starting -------------------------------------------------------------------------------------------


def start_server(workspace: Workspace, port: int) -> Server:
    """Start JupyterLab in the learner's folder; returns at once, before it answers."""
    home = workspace.work / ".course" / "lab"
    _write_settings(home / "settings")
    _write_configuration(home / "config")
    token = secrets.token_hex(24)
    log = home / "server.log"
    command = [sys.executable, "-m", "jupyterlab", *_options(workspace.work, port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=workspace.work,
            env=_environment(workspace, home, token),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # In a session of its own it does not see our Ctrl-C, and so does not ask whether it is meant.
            start_new_session=True,
        )
    return Server(process, port, token, log)


def _options(work: Path, port: int) -> list[str]:
    options = [
        "--no-browser",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        f"--ServerApp.root_dir={work}",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly",
        "--LabApp.expose_app_in_browser=True",
    ]
    return options + (["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else [])


def _environment(workspace: Workspace, home: Path, token: str) -> dict[str, str]:
    """The server's environment: the token here, where no list of processes shows it."""
    scripts = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "JUPYTER_TOKEN": token,
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "JUPYTER_PREFER_ENV_PATH": "1",  # else a kernel named python3 elsewhere would be taken
        "COURSE_WORK": str(workspace.work),
        "PATH": scripts
        + os.pathsep
        + os.environ.get("PATH", ""),  # so that `!course progress` works in a cell
    }


def _write_settings(folder: Path) -> None:
    for plugin, settings in SETTINGS.items():
        path = folder / f"{plugin}.jupyterlab-settings"
        if not path.exists():
            write_text(path, json.dumps(settings, indent=2) + "\n")


def _write_configuration(folder: Path) -> None:
    server = {"ServerApp": {"jpserver_extensions": dict.fromkeys(SERVER_PARTS_OFF, False)}}
    page = {"disabledExtensions": dict.fromkeys(PAGE_PARTS_OFF, True)}
    write_text(folder / "jupyter_server_config.json", json.dumps(server, indent=2) + "\n")
    write_text(folder / "labconfig" / "page_config.json", json.dumps(page, indent=2) + "\n")


def _free_port(wanted: int | None) -> int:
    """The wanted port, or the first free one. Raises WorkspaceError where it is taken."""
    for port in [wanted] if wanted else range(FIRST_PORT, FIRST_PORT + PORTS):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            if os.name == "posix":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except (OSError, OverflowError):
                continue
            return port
    if wanted:
        raise WorkspaceError(f"Port {wanted} is taken or not allowed: leave out --port, or name another.")
    raise WorkspaceError(
        f"The ports {FIRST_PORT} to {FIRST_PORT + PORTS - 1} are all taken: name one with --port."
    )


def _wait_until_up(server: Server) -> None:
    """Return when the server answers. Raises LabError with its last words if it does not."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise LabError(f"JupyterLab did not start: {_last_words(server.log)} (log: {server.log})")
        try:
            with urllib.request.urlopen(server.address("api/status"), timeout=2):
                return
        except (OSError, urllib.error.URLError):
            time.sleep(0.1)
    raise LabError(f"JupyterLab did not answer within {START_SECONDS} s; its log is {server.log}")


def _last_words(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing."


def _open_browser(workspace: Workspace, address: str) -> bool:
    """Open the address through a file that only this user can read: a command line would show the token."""
    page = workspace.work / ".course" / "lab" / "open.html"
    page.unlink(missing_ok=True)
    page.touch(mode=0o600)
    page.write_text(f'<meta http-equiv="refresh" content="0; url={address}">\n', encoding="utf-8")
    try:
        return webbrowser.open(page.as_uri())
    except (webbrowser.Error, OSError):
        return False


# --- ending ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _ending(server: Server) -> Iterator[None]:
    """End the server with the block, however it ends; Ctrl-C and a request to terminate are ordinary ends."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signals = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = [signal.signal(number, interrupt) for number in signals]
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        with contextlib.suppress(KeyboardInterrupt):  # a second Ctrl-C must not leave the server running
            stop_server(server)
        if server.process.poll() is None:
            server.process.kill()
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def stop_server(server: Server) -> None:
    """Ask the server to shut down with its kernels, and make sure that it does."""
    if server.process.poll() is not None:
        return
    request = urllib.request.Request(server.address("api/shutdown"), method="POST", data=b"")
    with contextlib.suppress(OSError):
        urllib.request.urlopen(request, timeout=5).close()
    for ask in (None, server.process.terminate, server.process.kill):
        if ask is not None:
            ask()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.process.wait(timeout=5)
            return
