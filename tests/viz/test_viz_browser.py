"""The explorers in a real browser: what a reader sees, hovers, types and reaches by keyboard, and offline."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from course_lib.viz import AttentionExplorer, TokenizerExplorer
from course_lib.viz.embedding import read_static

pytestmark = pytest.mark.browser

TOKENS = ["The", " bank", "银行", "<img src=x onerror=alert(1)>"]
MASK = np.tril(np.ones((4, 4), dtype=bool))
WEIGHTS = np.random.default_rng(1).dirichlet(np.ones(4), (2, 3, 4)) * MASK
WEIGHTS /= WEIGHTS.sum(axis=-1, keepdims=True)


class Letters:
    """One token a letter; capitals are unknown."""

    unk_token = "?"

    def tokens(self, text: str) -> list[str]:
        return ["?" if letter.isupper() else letter for letter in text]

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A page whose requests, errors and dialogs are collected; there must be none of them."""
    opened = chromium.new_page()
    opened.set_default_timeout(5_000)
    seen: list[str] = []
    opened.on("request", lambda request: seen.append(request.url))
    opened.on("pageerror", lambda error: seen.append(str(error)))
    opened.on("dialog", lambda dialog: seen.append(dialog.message))
    yield opened
    opened.close()
    assert [entry for entry in seen if not entry.startswith("file:")] == []


def write_page(folder: Path, body: str) -> str:
    path = folder / "page.html"
    path.write_text(f'<!doctype html><meta charset="utf-8"><body>{body}', encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def attention(page: Page, tmp_path: Path) -> Page:
    page.goto(write_page(tmp_path, AttentionExplorer(TOKENS, WEIGHTS, mask=MASK).to_html()))
    return page


def numbers(page: Page, head: int) -> list[float]:
    """The weights written beside the keys of one head."""
    written = page.locator(".course-head").nth(head).locator(".course-number")
    return [float(text) for text in written.all_text_contents()]


def test_hovering_a_token_shows_its_row_in_every_head_and_hatches_the_blocked(attention: Page) -> None:
    attention.locator("[data-query='1']").first.hover()
    for head in range(3):
        assert numbers(attention, head) == pytest.approx(WEIGHTS[0, head, 1, :2].tolist(), abs=0.00051)
        hatched = attention.locator(".course-head").nth(head).locator("rect[fill^='url(#course-hatch']")
        assert hatched.count() == 2
    expect(attention.locator(".course-spoken")).to_contain_text("Query “·bank” (position 1) attends most to")


def test_thicker_lines_are_larger_weights(attention: Page) -> None:
    attention.locator("[data-query='3']").first.hover()
    lines = attention.locator(".course-head").first.locator("line[stroke-linecap]")
    widths = [float(lines.nth(index).get_attribute("stroke-width") or 0) for index in range(lines.count())]
    assert len(widths) == 4
    assert np.argsort(widths).tolist() == np.argsort(WEIGHTS[0, 0, 3]).tolist()


def test_a_query_shown_at_the_start_gives_way_to_hovering_and_comes_back(page: Page, tmp_path: Path) -> None:
    page.goto(write_page(tmp_path, AttentionExplorer(TOKENS, WEIGHTS, mask=MASK, query=1).to_html()))
    spoken = page.locator(".course-spoken")
    expect(spoken).to_contain_text("(position 1) attends most to")
    page.locator("[data-query='2']").first.hover()
    expect(spoken).to_contain_text("(position 2) attends most to")
    page.mouse.move(1, 1)
    expect(spoken).to_contain_text("(position 1) attends most to")


def test_leaving_lets_go_and_a_click_pins(attention: Page) -> None:
    spoken = attention.locator(".course-spoken")
    attention.locator("[data-query='1']").first.hover()
    attention.locator(".course-layer").hover()
    expect(spoken).to_contain_text("Hover a token")
    attention.locator("[data-query='2']").first.click()
    attention.locator("[data-query='0']").first.hover()
    attention.locator(".course-layer").hover()
    expect(spoken).to_contain_text("position 2, pinned")
    attention.locator("[data-query='2']").first.click()
    attention.locator(".course-layer").hover()
    expect(spoken).to_contain_text("Hover a token")


def test_everything_can_be_reached_by_keyboard_with_a_visible_focus(attention: Page) -> None:
    spoken = attention.locator(".course-spoken")
    for _ in range(4):
        attention.keyboard.press("Tab")
    heads = attention.locator(".course-heads")
    expect(heads).to_be_focused()
    assert heads.evaluate("element => getComputedStyle(element).outlineStyle") == "solid"
    for key, position in (
        ("ArrowDown", 0),
        ("ArrowRight", 1),
        ("End", 3),
        ("ArrowDown", 3),
        ("ArrowUp", 2),
        ("Home", 0),
    ):
        attention.keyboard.press(key)
        expect(spoken).to_contain_text(f"position {position}, pinned")
    attention.keyboard.press("Escape")
    expect(spoken).to_contain_text("Hover a token")
    suppressed = attention.locator(".course-attention").get_attribute("data-lm-suppress-shortcuts")
    assert suppressed == "true"


def test_another_layer_shows_its_own_weights(attention: Page) -> None:
    attention.locator("[data-query='2']").first.click()
    attention.locator(".course-layer").select_option("1")
    assert numbers(attention, 1) == pytest.approx(WEIGHTS[1, 1, 2, :3].tolist(), abs=0.00051)


def test_the_grid_shows_every_weight_darker_for_more_and_frames_the_chosen_row(attention: Page) -> None:
    attention.get_by_role("button", name="Grid").click()
    cells = attention.locator(".course-head").first.locator(".course-cell")
    assert cells.count() == 16
    titles = cells.locator("title").all_text_contents()
    fills = [cells.nth(index).get_attribute("fill") or "" for index in range(16)]
    for place, (title, fill) in enumerate(zip(titles, fills, strict=True)):
        query, key = divmod(place, 4)
        if MASK[query, key]:
            weight = WEIGHTS[0, 0, query, key]
            assert title.endswith(f": {weight:.3f}")
            assert abs(int(fill[4:].split(",")[0]) - (255 - 247 * weight)) <= 1
        else:
            assert title.endswith(": blocked") and fill.startswith("url(#course-hatch")
    cells.nth(4).hover()
    expect(attention.locator(".course-head").first.locator(".course-frame")).to_have_count(1)


def test_two_explorers_in_one_page_do_not_disturb_each_other(page: Page, tmp_path: Path) -> None:
    html = AttentionExplorer(TOKENS, WEIGHTS, mask=MASK).to_html()
    page.goto(write_page(tmp_path, html + html))
    page.locator("[data-query='1']").first.click()
    expect(page.locator(".course-spoken").nth(0)).to_contain_text("position 1, pinned")
    expect(page.locator(".course-spoken").nth(1)).to_contain_text("Hover a token")


def test_without_scripts_the_tables_and_chips_are_there(chromium: Browser, tmp_path: Path) -> None:
    explorers = AttentionExplorer(TOKENS, WEIGHTS, mask=MASK), TokenizerExplorer({"letters": Letters()}, "aB")
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(write_page(tmp_path, "".join(explorer.to_html() for explorer in explorers)))
    expect(page.locator("details[open] table")).to_have_count(3)
    expect(page.locator("details[open] table").first).to_contain_text("·bank")
    expect(page.get_by_title("token 1: ?, id 66")).to_be_visible()
    context.close()


LIVE = """<div id="explorer"></div><style>%s</style><script>%s
const listeners = {}, state = %s;
const model = {
  get: (name) => state[name], set: (name, value) => { state[name] = value; },
  on: (name, listener) => (listeners[name] ??= []).push(listener),
  save_changes: async () => {
    state.rows = JSON.parse(await cutInPython(state.text));
    for (const listener of listeners["change:rows"]) listener();
  },
};
explorer.render({ model, el: document.getElementById("explorer") });</script>"""


@pytest.fixture
def tokens(page: Page, tmp_path: Path) -> Page:
    """The tokenizer explorer's page, with the Python object that cuts the text behind it."""
    explorer = TokenizerExplorer({"letters": Letters()}, "ab")

    def cut_in_python(text: str) -> str:
        explorer.set_state({"text": text})
        return json.dumps(explorer.rows)

    page.expose_function("cutInPython", cut_in_python)
    state: dict[str, Any] = {"text": explorer.text, "limit": explorer.limit, "rows": explorer.rows}
    module = read_static("tokens.js").replace("export default", "const explorer =")
    page.goto(write_page(tmp_path, LIVE % (read_static("tokens.css"), module, json.dumps(state))))
    return page


def test_typing_shows_the_new_pieces_their_count_and_the_unknown(tokens: Page) -> None:
    expect(tokens.locator(".course-chip")).to_have_count(2)
    tokens.get_by_label("Text to cut into tokens").fill("<b> Xé")
    expect(tokens.locator(".course-chip")).to_have_count(6)
    assert tokens.locator(".course-chip bdi").all_inner_texts() == ["<", "b", ">", "␣", "? ?", "é"]
    expect(tokens.locator(".course-unknown")).to_have_count(1)
    assert tokens.locator(".course-count").all_inner_texts() == ["6", "1.17"]
    assert tokens.locator(".course-unknown").get_attribute("title") == (
        "token 4: ?\nid 88\nunknown: not in the vocabulary"
    )


def test_chips_are_numbered_and_the_numbers_become_ids_on_request(tokens: Page) -> None:
    assert tokens.locator(".course-place").all_inner_texts() == ["0", "1"]
    tokens.get_by_label("show ids").check()
    assert tokens.locator(".course-place").all_inner_texts() == ["97", "98"]


def test_the_box_keeps_what_is_being_typed_while_rows_arrive(tokens: Page) -> None:
    box = tokens.get_by_label("Text to cut into tokens")
    box.focus()
    for letter in "cdefg":
        tokens.keyboard.press(letter)
        tokens.wait_for_timeout(60)
    expect(tokens.locator(".course-chip")).to_have_count(7)
    assert sorted(box.input_value()) == list("abcdefg")
    expect(box).to_be_focused()
