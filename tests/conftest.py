"""For every test: one thread a process, one Playwright, and what may run beside what.

`course.py test` runs the suite in several processes. Tests that start and kill processes, count what they
leave, or open ports and browsers stay together in one of them, one after the other; the rest is spread.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# The suite starts many small processes on few cores; more threads each only get in one another's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next((path for name in BROWSERS if (path := shutil.which(name))), None)
# What works on the whole machine, or as the type checker on one cache, below this folder.
FOLDERS = ("authoring", "browser", "cli", "grading", "training")
ALONE = (*FOLDERS, "test_environment.py", "test_front_door.py", "test_style.py")
MOST_PROCESSES = 4
# Without these Chromium itself looks up hosts outside; what is left is what our pages ask for.
QUIET = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def pytest_xdist_auto_num_workers() -> int:
    """One process for each core that this one may use, up to four: each holds torch."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_PROCESSES)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep together what cannot be spread; where there is no browser its tests skip, but fail in CI."""
    here = Path(__file__).parent
    for item in items:
        if item.path.relative_to(here).parts[0] in ALONE:
            item.add_marker(pytest.mark.xdist_group("machine"))
    if CHROMIUM is None and not os.environ.get("CI"):
        for item in items:
            if item.get_closest_marker("browser"):
                item.add_marker(pytest.mark.skipif(True, reason="no Chromium or Chrome on this machine"))


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Headless Chromium; each test that wants a profile of its own opens a context."""
    from playwright.sync_api import sync_playwright

    assert CHROMIUM, "no Chromium: CI has to install one"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=QUIET)
        yield browser
        browser.close()
