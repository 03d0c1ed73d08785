"""JupyterLab as `course lab` starts it, and a page of headless Chromium on it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest


@dataclass
class Lab:
    """A running course: its folder, its address, and what it printed."""

    work: Path
    address: str
    said: list[str] = field(default_factory=list)

    def saved(self, path: str) -> str:
        """The text of a notebook in the learner's folder."""
        return (self.work / path).read_text(encoding="utf-8")

    def notebook(self, path: str) -> str:
        """The address of a notebook in a workspace of its own."""
        base, token = self.address.split("/lab/")[0], self.address.split("token=")[1]
        name = re.sub(r"\W", "-", path)
        return f"{base}/lab/workspaces/auto-{name}/tree/{path}?reset&token={token}"


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("learner")
    environment = os.environ | {"COURSE_WORK": str(folder / "work"), "PYTHONUNBUFFERED": "1"}
    environment.pop("COURSE_PROGRESS", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "course_lib.cli", "lab", "--no-browser"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said: list[str] = []
    address = _first_address(process, said)
    threading.Thread(target=lambda: said.extend(process.stdout or ()), daemon=True).start()
    yield Lab(folder / "work", address, said)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0, "".join(said)


def _first_address(process: subprocess.Popen[str], said: list[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        said.append(line)
        found = re.search(r"http://127\.0\.0\.1:\d+/lab/\S+", line)
        if found:
            return found.group()
    raise AssertionError("course lab printed no address:\n" + "".join(said))


@dataclass
class Browser:
    """A page, and every address outside this machine that it asked for."""

    page: Any
    outside: list[str]


@pytest.fixture(scope="session")
def browser(chromium: Any) -> Browser:
    context = chromium.new_context(viewport={"width": 1280, "height": 960})
    outside: list[str] = []
    own = ("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:", "about:")
    context.on("request", lambda r: None if r.url.startswith(own) else outside.append(r.url))
    return Browser(context.new_page(), outside)
