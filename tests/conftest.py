"""For every test: one thread a process, and one Playwright, because a process can hold no two."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# The suite starts many small processes on few cores; more threads each only get in one another's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next((path for name in BROWSERS if (path := shutil.which(name))), None)
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without a browser its tests skip on a person's machine, and fail in CI, which installs one."""
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
