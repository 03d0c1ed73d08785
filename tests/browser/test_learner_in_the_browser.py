"""A learner's first hour, driven in a real browser. Oracle: what the page shows."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from conftest import Browser, Lab
from playwright.sync_api import Locator, Page, expect

pytestmark = pytest.mark.browser

KERNEL_IS_READY = """async () => {
    const open = () => window.jupyterapp?.shell?.currentWidget?.sessionContext;
    while (!open()) await new Promise(r => setTimeout(r, 100));
    const context = open();
    await context.ready;
    while (context.session?.kernel?.status !== 'idle') await new Promise(r => setTimeout(r, 100));
    await context.session.kernel.info;
}"""
RUN_ALL = "() => jupyterapp.commands.execute('notebook:run-all-cells')"
# Each code cell's state: how often it ran, and whether it shows an error.
CELL_STATES = """() => jupyterapp.shell.currentWidget.content.widgets
    .filter(cell => cell.model.type === 'code')
    .map(cell => ({id: cell.model.id, count: cell.model.executionCount,
                   error: cell.model.outputs.toJSON().some(o => o.output_type === 'error')}))"""
ALL_RAN = f"() => {{ const s = ({CELL_STATES})(); return s.every(c => c.count) || s.some(c => c.error); }}"
SOURCE_OF = """(id) => jupyterapp.shell.currentWidget.content.widgets
    .find(cell => cell.model.id === id).model.sharedModel.source"""
RUN_ACTIVE = "() => jupyterapp.commands.execute('notebook:run-cell')"
ACTIVATE = """(id) => {
    const content = jupyterapp.shell.currentWidget.content;
    content.activeCellIndex = content.widgets.findIndex(cell => cell.model.id === id);
}"""
SHOW_CELL = """(id) => {
    const content = jupyterapp.shell.currentWidget.content;
    content.widgets.find(cell => cell.model.id === id).node.scrollIntoView({block: 'center'});
}"""
SAVE = "() => jupyterapp.commands.execute('docmanager:save')"

SHOTS = Path(os.environ["COURSE_SCREENSHOTS"]) if os.environ.get("COURSE_SCREENSHOTS") else None


def open_notebook(browser: Browser, lab: Lab, path: str) -> Page:
    page: Page = browser.page
    page.goto(lab.notebook(path))
    page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=60_000)
    page.evaluate(KERNEL_IS_READY)
    return page


def panel(page: Page) -> Locator:
    return page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")


def run_all(page: Page, seconds: float = 150) -> list[dict[str, Any]]:
    """Run every cell as *Run All* does, and return the cells' states once the last has run."""
    page.evaluate(RUN_ALL)
    page.wait_for_function(ALL_RAN, timeout=seconds * 1000)
    page.evaluate(KERNEL_IS_READY)
    states: list[dict[str, Any]] = page.evaluate(CELL_STATES)
    return states


def screenshot(page: Page, name: str) -> None:
    if SHOTS:
        page.wait_for_timeout(700)
        page.screenshot(path=SHOTS / f"{name}.png")


def cell_of(page: Page, text: str) -> Locator:
    return panel(page).locator(".jp-CodeCell", has_text=text).first


def test_the_lab_opens_on_the_welcome_notebook(lab: Lab, browser: Browser) -> None:
    browser.page.goto(lab.address)
    browser.page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=60_000)
    expect(panel(browser.page).locator("h1").first).to_contain_text("Welcome")
    assert (lab.work / "notebooks" / "00_welcome.ipynb").exists()
    screenshot(browser.page, "welcome-opened")


def test_the_welcome_lesson_runs_from_the_top_and_its_control_moves(lab: Lab, browser: Browser) -> None:
    page = open_notebook(browser, lab, "notebooks/00_welcome.ipynb")
    states = run_all(page)
    assert not [state for state in states if state["error"]]
    cell = cell_of(page, "def draw_broadcast")
    picture = cell.locator("img").first
    picture.scroll_into_view_if_needed()
    before = picture.get_attribute("alt")
    cell.locator("select").first.select_option("(1, 4)")
    expect(cell.locator("img").first).not_to_have_attribute("alt", before or "", timeout=15_000)
    screenshot(page, "welcome-control-moved")
    cell_of(page, "def centre_rows(matrix):").scroll_into_view_if_needed()
    expect(panel(page).locator(".course-card", has_text="Passed").first).to_be_visible()
    screenshot(page, "welcome-cards")


def test_an_exercise_is_solved_by_typing(lab: Lab, browser: Browser) -> None:
    page = open_notebook(browser, lab, "exercises/00_welcome.ipynb")
    page.evaluate(ACTIVATE, page.evaluate(CELL_STATES)[0]["id"])
    page.evaluate(RUN_ACTIVE)
    wrong = "def centre_rows(matrix):\n    return matrix - matrix.mean(dim=1)"
    type_answer(page, "welcome-centre_rows", wrong)
    card = panel(page).locator(".course-card").first
    expect(card).to_contain_text("Not yet", timeout=30_000)
    expect(card).to_contain_text("the means of the rows were subtracted along the columns")
    expect(panel(page).locator(".jp-RenderedText", has_text="Traceback")).to_have_count(0)
    screenshot(page, "exercise-misconception")
    type_answer(page, "welcome-centre_rows", wrong.replace("dim=1", "dim=1, keepdim=True"))
    card = panel(page).locator(".course-card").first
    expect(card).to_contain_text("Passed", timeout=30_000)
    screenshot(page, "exercise-passed")
    page.evaluate(SAVE)
    progress = json.loads((lab.work / ".course" / "progress.json").read_text())
    assert progress["exercises"]["welcome/centre_rows"]["passed"]


def type_answer(page: Page, cell_id: str, source: str) -> None:
    """Put the cursor into an answer cell, select all, type, run it, and run its check."""
    page.evaluate(ACTIVATE, cell_id)
    page.evaluate(SHOW_CELL, cell_id)
    page.evaluate("() => jupyterapp.commands.execute('notebook:enter-edit-mode')")
    page.keyboard.press("Control+a")
    # Inserted at once: key by key, the editor would add its own indentation and brackets.
    page.keyboard.insert_text(source)
    assert page.evaluate(SOURCE_OF, cell_id) == source
    page.evaluate(RUN_ACTIVE)
    page.evaluate(ACTIVATE, f"{cell_id}-check")
    page.evaluate(RUN_ACTIVE)
    page.evaluate(KERNEL_IS_READY)


def test_the_attention_lesson_runs_and_its_slider_and_explorer_answer(lab: Lab, browser: Browser) -> None:
    page = open_notebook(browser, lab, "notebooks/06_attention.ipynb")
    states = run_all(page)
    assert not [state for state in states if state["error"]]
    slider_cell = cell_of(page, "def draw_softmax")
    handle = slider_cell.locator(".widget-slider .noUi-handle").first
    handle.scroll_into_view_if_needed()
    picture = slider_cell.locator(".jp-OutputArea img").first
    before = picture.get_attribute("alt")
    handle.focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    expect(picture).not_to_have_attribute("alt", before or "", timeout=15_000)
    screenshot(page, "attention-slider")
    explorer = panel(page).locator(".course-attention").first
    explorer.scroll_into_view_if_needed()
    spoken = explorer.locator(".course-spoken")
    explorer.locator("[data-query='1']").first.hover()
    expect(spoken).to_contain_text("(position 1) attends most to")
    one = spoken.text_content()
    explorer.locator("[data-query='3']").first.hover()
    expect(spoken).to_contain_text("(position 3) attends most to")
    assert spoken.text_content() != one
    page.mouse.move(5, 5)
    expect(spoken).to_contain_text("Query “bank”")
    explorer.evaluate("node => node.scrollIntoView({block: 'center'})")
    screenshot(page, "attention-explorer")
    page.evaluate(SAVE)


def test_a_saved_lesson_shows_its_explorer_again_without_a_kernel(lab: Lab, browser: Browser) -> None:
    page = browser.page
    if "application/vnd.jupyter.widget-state+json" not in lab.saved("notebooks/06_attention.ipynb"):
        page = open_notebook(browser, lab, "notebooks/06_attention.ipynb")
        run_all(page)
        page.evaluate(SAVE)
    assert "application/vnd.jupyter.widget-state+json" in lab.saved("notebooks/06_attention.ipynb")
    page.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    page.goto("about:blank")
    page = open_notebook(browser, lab, "notebooks/06_attention.ipynb")
    explorer = panel(page).locator(".course-attention").first
    explorer.scroll_into_view_if_needed()
    explorer.locator("[data-query='2']").first.hover()
    expect(explorer.locator(".course-spoken")).to_contain_text("(position 2) attends most to")


def test_nothing_was_asked_of_any_other_machine(browser: Browser) -> None:
    assert browser.outside == []
