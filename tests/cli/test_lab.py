"""JupyterLab started for real by `course lab`, on a small course in a temporary folder."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from nbformat import v4
from playwright.sync_api import Browser

import course_lib.lab as lab
from course_lib.lab import LabError
from course_lib.workspace import Workspace, WorkspaceError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="ends the server by POSIX signals")
# The command, on another course than the real one.
PROGRAM = """
    import pathlib, sys
    import course_lib.workspace
    course_lib.workspace.project_root = lambda: pathlib.Path({root!r})
    from course_lib.cli import app
    app(sys.argv[1:], prog_name="course")
"""


@dataclass
class Running:
    """A running `course lab`: its process, what it has printed, and the address that it gave."""

    process: subprocess.Popen[str]
    printed: list[str]
    address: str

    @property
    def server(self) -> str:
        return self.address.split("/lab/")[0]

    @property
    def token(self) -> str:
        return self.address.split("token=")[1]

    def ask(self, path: str, method: str = "GET") -> bytes:
        headers = {"Authorization": f"token {self.token}"}
        request = urllib.request.Request(f"{self.server}/{path}", headers=headers, method=method, data=None)
        with urllib.request.urlopen(request, timeout=10) as reply:
            content: bytes = reply.read()
            return content


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "course/notebooks"
    folder.mkdir(parents=True)
    cells = [v4.new_markdown_cell("# Welcome", id="a"), v4.new_code_cell("print(6 * 7)", id="b")]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    # The pairing that the committed notebooks carry: saving must write no text file beside the notebook.
    kernel["jupytext"] = {"formats": "ipynb,md:myst"}
    (folder / "00_welcome.ipynb").write_text(json.dumps(v4.new_notebook(cells=cells, metadata=kernel)))
    return tmp_path / "course"


def start(root: Path, *options: str) -> subprocess.Popen[str]:
    program = textwrap.dedent(PROGRAM).format(root=str(root))
    environment = {
        **os.environ,
        "COURSE_WORK": str(root / "work"),
        "HOME": str(root.parent),
        "COLUMNS": "200",
    }
    return subprocess.Popen(
        [sys.executable, "-c", program, "lab", *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture
def running(root: Path) -> Iterator[Running]:
    process = start(root, "--no-browser")
    assert process.stdout is not None
    printed: list[str] = []
    for line in process.stdout:
        printed.append(line)
        if "http://" in line:
            break
    yield Running(process, printed, printed[-1].strip())
    process.send_signal(signal.SIGINT)
    process.wait(timeout=30)


def gone(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_lab_serves_the_welcome_notebook_prints_its_address_and_ends_on_ctrl_c(
    running: Running, root: Path
) -> None:
    assert running.printed[0] == f"Notebooks copied to {root / 'work'}: 1.\n"
    assert re.match(r"JupyterLab is ready in \d+\.\d s", running.printed[1])
    pattern = r"http://127\.0\.0\.1:\d+/lab/tree/notebooks/00_welcome\.ipynb\?token=[0-9a-f]{48}"
    assert re.fullmatch(pattern, running.address)
    assert json.loads(running.ask("api/contents/notebooks/00_welcome.ipynb"))["type"] == "notebook"
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{running.server}/api/contents", timeout=10)

    command_lines = b"".join(
        path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()
    )
    assert running.token.encode() not in command_lines
    kernel = json.loads(running.ask("api/kernels", method="POST"))
    assert kernel["name"] == "python3"

    running.process.send_signal(signal.SIGINT)
    rest, _ = running.process.communicate(timeout=30)
    assert running.process.returncode == 0
    assert rest.strip() == f"JupyterLab has ended. Your notebooks are in {root / 'work'}."
    assert gone(int(running.server.rsplit(":", 1)[1]))


def test_a_terminated_lab_takes_its_server_with_it(running: Running) -> None:
    running.process.terminate()
    running.process.wait(timeout=30)
    assert gone(int(running.server.rsplit(":", 1)[1]))


def test_a_taken_port_is_one_sentence(root: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        process = start(root, "--no-browser", "--port", str(port))
        printed, _ = process.communicate(timeout=30)
    assert process.returncode == 2
    assert (
        printed.splitlines()[-1] == f"Port {port} is taken or not allowed: leave out --port, or name another."
    )


def test_a_server_that_does_not_start_is_told_with_its_last_words(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab, "_options", lambda work, port: ["--no-such-option=1", "--ServerApp.port=x"])
    with pytest.raises(LabError, match=r"JupyterLab did not start: .*server\.log"):
        lab.run_lab(Workspace(root, root / "work"), browser=False, port=None)


def test_the_first_free_port_is_taken_and_none_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setattr(lab, "FIRST_PORT", other.getsockname()[1])
        monkeypatch.setattr(lab, "PORTS", 1)
        with pytest.raises(WorkspaceError, match="name one with --port"):
            lab._free_port(None)


def test_settings_that_the_learner_changed_stay(tmp_path: Path) -> None:
    lab._write_settings(tmp_path)
    files = sorted(tmp_path.rglob("*.jupyterlab-settings"))
    assert {json.loads(path.read_text()).get("fetchNews") for path in files} == {"false", None}
    files[0].write_text("{}")
    lab._write_settings(tmp_path)
    assert files[0].read_text() == "{}"


def test_the_page_that_opens_the_browser_is_for_this_user_alone(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def remember(address: str) -> bool:
        opened.append(address)
        return True

    monkeypatch.setattr(lab.webbrowser, "open", remember)
    workspace = Workspace(root, root / "work")
    lab._write_settings(workspace.work / ".course/lab")
    assert lab._open_browser(workspace, "http://127.0.0.1:1/lab?token=secret")
    page = workspace.work / ".course/lab/open.html"
    assert opened == [page.as_uri()] and page.stat().st_mode & 0o077 == 0
    assert "token=secret" in page.read_text()


def test_a_newer_course_is_told_and_nothing_is_changed(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = Workspace(root, root / "work")
    workspace.prepare()
    mine = workspace.mine("notebooks/00_welcome.ipynb")
    before = mine.read_bytes()
    source = root / "notebooks/00_welcome.ipynb"
    source.write_text(source.read_text().replace("Welcome", "Welcome back"))
    lab._tell_about_folder(workspace)
    assert "`course update` brings them" in capsys.readouterr().out
    assert mine.read_bytes() == before


@pytest.mark.browser
@pytest.mark.browser
def test_the_notebook_opens_with_a_kernel_no_pop_up_and_no_request_outside(
    running: Running, root: Path, chromium: Browser
) -> None:
    outside: list[str] = []
    context = chromium.new_context()
    page = context.new_page()
    local = (running.server, running.server.replace("http", "ws"), "data:", "blob:")
    page.on("request", lambda r: None if r.url.startswith(local) else outside.append(r.url))
    page.goto(running.address)
    page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=60_000)
    page.evaluate("""async () => {
        const session = jupyterapp.shell.currentWidget.sessionContext; await session.ready;
        while (session.session?.kernel?.status !== 'idle') await new Promise(r => setTimeout(r, 100));
        await session.session.kernel.info; }""")
    page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
    page.locator(".jp-OutputArea-output", has_text="42").wait_for(timeout=60_000)
    page.evaluate("jupyterapp.commands.execute('docmanager:save')")
    saved = root / "work/notebooks/00_welcome.ipynb"
    deadline = time.monotonic() + 20
    while '"42\\n"' not in saved.read_text() and time.monotonic() < deadline:
        page.wait_for_timeout(100)
    assert page.locator(".jp-Dialog").count() == 0
    assert page.locator(".Toastify__toast").count() == 0
    menus = page.locator(".lm-MenuBar-itemLabel").all_inner_texts()
    assert "Kernel" in menus and "Nbgrader" not in menus
    context.close()
    assert '"42\\n"' in saved.read_text()
    assert outside == []
    assert sorted(path.name for path in saved.parent.iterdir() if path.is_file()) == ["00_welcome.ipynb"]
