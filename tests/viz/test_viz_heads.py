"""The three views of many heads: what is checked, what a saved page holds, and what a reader does with it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import traitlets
from playwright.sync_api import Browser, Page, expect

from course_lib.viz import HeadView, ModelView, NeuronView
from course_lib.viz.attention import AttentionExplorer
from course_lib.viz.embedding import read_static

TOKENS = ["The", " bank", "银行", "<script>alert(1)</script>"]
MASK = np.tril(np.ones((4, 4), dtype=bool))
GENERATOR = np.random.default_rng(5)
QUERIES, KEYS = GENERATOR.normal(size=(2, 2, 3, 4, 6))  # (layers, h, n, d) each
SCORES = np.where(MASK, QUERIES @ KEYS.swapaxes(-2, -1) / np.sqrt(6), -np.inf)
WEIGHTS = np.exp(SCORES) / np.exp(SCORES).sum(-1, keepdims=True)

# What JupyterLab 4.6 lets pass in a notebook that is not trusted (of the tags and attributes used here).
ALLOWED_TAGS = {"b", "br", "details", "div", "p", "summary", "table", "td", "th", "tr"}
ALLOWED_ATTRIBUTES = {"bgcolor", "style", "title", "id", "open"}

VIEWS: dict[str, Callable[..., AttentionExplorer]] = {
    "head view": lambda **options: HeadView(TOKENS, WEIGHTS, mask=MASK, **options),
    "model view": lambda **options: ModelView(TOKENS, WEIGHTS, mask=MASK, **options),
    "neuron view": lambda **options: NeuronView(TOKENS, QUERIES, KEYS, mask=MASK, **options),
}
each_view = pytest.mark.parametrize("name", VIEWS)


@pytest.fixture
def building(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COURSE_BUILD", "1")


class Tags(HTMLParser):
    """Notes every tag and attribute outside a script, and the text of every table's cells."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.colours: list[str] = []
        self.rows: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.colours += [value or "" for name, value in attrs if name == "bgcolor"]
        if tag == "tr":
            self.rows.append("")

    def handle_data(self, data: str) -> None:
        if self.rows:
            self.rows[-1] += data.strip() + " "


def static_part(html: str) -> str:
    """What is shown where no script runs."""
    return html[: html.index("<script>")]


def read_state(html: str) -> dict[str, Any]:
    found = re.search(r"const state = (\{.*?\}), listeners", html, re.DOTALL)
    assert found is not None
    state: dict[str, Any] = json.loads(found.group(1))
    return state


@each_view
def test_the_page_needs_nothing_from_outside_and_its_static_part_passes_the_sanitiser(
    building: None, name: str
) -> None:
    html = VIEWS[name]().to_html()
    assert set(re.findall(r"https?://[^\s\"']+", html)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"\bimport\b|\bfetch\(|\bsrc=", html)
    found = Tags(static_part(html))
    assert found.tags <= ALLOWED_TAGS and found.attributes <= ALLOWED_ATTRIBUTES
    assert html.count("<script>") == html.count("</script>") == 1, "a token cannot end the script"


@each_view
def test_building_gives_the_same_bytes_twice_and_no_widget(building: None, name: str) -> None:
    first, second = VIEWS[name](), VIEWS[name]()
    assert first._repr_mimebundle_() == second._repr_mimebundle_()
    assert set(first._repr_mimebundle_()[0]) == {"text/html", "text/plain"}
    assert first._repr_mimebundle_()[0]["text/plain"] == f"[{name}] layers 2, heads 3, queries 4, keys 4"


@each_view
def test_a_live_view_offers_the_widget_with_the_same_state_as_the_page(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv("COURSE_BUILD", raising=False)
    view = VIEWS[name](layer=1)
    data, _ = view._repr_mimebundle_()
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == view.model_id
    state, live = read_state(data["text/html"]), view.get_state()
    assert {key: live[key] for key in state} == state
    assert live["_esm"].count("export default") == 1


def test_the_shared_drawing_is_still_that_of_the_attention_explorer() -> None:
    """The views put another rendering behind its module; this line has to be there to be replaced."""
    assert read_static("attention.js").count("export default { render };") == 1


def test_the_neuron_view_computes_the_weights_that_attention_gives(building: None) -> None:
    state = read_state(VIEWS["neuron view"](query=2, layer=1, head=2).to_html())
    assert (np.array(state["weights"]).reshape(2, 3, 4, 4) == np.rint(1000 * WEIGHTS)).all()
    assert (np.array(state["query_vectors"]).reshape(QUERIES.shape) == np.rint(1000 * QUERIES)).all()
    assert (state["width"], state["query"], state["layer"], state["head"]) == (6, 2, 1, 2)
    state = read_state(NeuronView(TOKENS, QUERIES[0, 0], KEYS[0, 0], mask=np.zeros((4, 4), bool)).to_html())
    assert not any(state["weights"]), "a query that sees nothing has weights of zero"


def test_the_static_products_hold_the_dot_product_and_the_weight_of_every_key(building: None) -> None:
    found = Tags(static_part(VIEWS["neuron view"](query=2, head=1).to_html()))
    for key, (token, row) in enumerate(zip(["The", "·bank", "银行"], found.rows, strict=False)):
        label, score, weight = row.split()
        assert label == token
        assert float(score) == pytest.approx(QUERIES[0, 1, 2] @ KEYS[0, 1, key], abs=0.0051)
        assert float(weight) == pytest.approx(WEIGHTS[0, 1, 2, key], abs=0.00051)
    assert found.rows[3].split()[2] == "╱", "the blocked key is marked"
    # Blue has more blue than red, orange more red than blue.
    signs = [int(colour[5:], 16) >= int(colour[1:3], 16) for colour in found.colours]
    products = QUERIES[0, 1, 2] * KEYS[0, 1]
    clear = np.abs(products).ravel() > 0.02 * np.abs(products).max()
    assert (np.array(signs)[clear] == (products.ravel() > 0)[clear]).all()


def test_the_static_thumbs_are_darker_for_more(building: None) -> None:
    found = Tags(static_part(VIEWS["model view"]().to_html()))
    shades = np.array([int(colour[1:3], 16) for colour in found.colours]).reshape(WEIGHTS.shape)
    assert (np.abs(shades - (255 - 225 * WEIGHTS)) <= 0.51).all()


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [((4, 8, 20), "10 of 32 heads are shown."), ((1, 1, 300), "Only the first 48 tokens are shown.")],
)
def test_a_large_model_stays_small_on_disk_and_says_what_is_left_out(
    building: None, shape: tuple[int, int, int], sentence: str
) -> None:
    layers, heads, length = shape
    weights = np.random.default_rng(0).dirichlet(np.ones(length), (layers, heads, length))
    html = ModelView([f"token{index}" for index in range(length)], weights).to_html()
    assert sentence in static_part(html)
    assert len(static_part(html)) < 200_000


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_vectors_of_a_model_are_taken_as_they_come(building: None, kind: torch.dtype) -> None:
    queries, keys = (
        torch.randn(3, count, 8, dtype=torch.float32).to(kind).requires_grad_() for count in (2, 5)
    )
    view = NeuronView(["a", "b"], queries, keys, ["v", "w", "x", "y", "z"], query=1)
    assert read_state(view.to_html())["shape"] == [1, 3, 2, 5]


WRONG: list[tuple[Callable[[], object], str]] = [
    (lambda: HeadView(TOKENS, SCORES), "NaN or infinity"),
    (lambda: HeadView(TOKENS, WEIGHTS, shown=[0, 3]), r"shown=\[0, 3\]: expected numbers of heads, 0 to 2"),
    (lambda: ModelView(TOKENS, WEIGHTS, head=3), "head=3 is out of range; expected 0 to 2"),
    (lambda: NeuronView(TOKENS, QUERIES, KEYS[..., :5]), "layers, heads and width must agree"),
    (lambda: NeuronView(TOKENS, QUERIES, KEYS[:, :2]), "layers, heads and width must agree"),
    (lambda: NeuronView(TOKENS, QUERIES, KEYS, head=-1), "head=-1 is out of range"),
    (lambda: NeuronView(TOKENS[:3], QUERIES, KEYS), "tokens has 3 entries"),
    (lambda: NeuronView(["a"], np.zeros((1, 1, 500_000)), np.zeros((1, 1, 500_000))), "at most 200,000"),
]


@pytest.mark.parametrize(("make", "message"), WRONG, ids=[message[:30] for _, message in WRONG])
def test_what_does_not_fit_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises((ValueError, traitlets.TraitError), match=message):
        make()


# --- in a browser ----------------------------------------------------------------------------------


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


def shown(page: Page, folder: Path, *views: AttentionExplorer) -> Page:
    path = folder / "page.html"
    body = "".join(view.to_html() for view in views)
    path.write_text(f'<!doctype html><meta charset="utf-8"><body>{body}', encoding="utf-8")
    page.goto(path.as_uri())
    return page


@pytest.mark.browser
def test_head_view_has_a_colour_and_a_dash_for_each_head_and_hides_what_is_not_wanted(
    page: Page, tmp_path: Path
) -> None:
    shown(page, tmp_path, VIEWS["head view"]())
    page.locator("[data-query='2']").hover()
    lines = page.locator(".course-line")
    marks = {(line.get_attribute("stroke"), line.get_attribute("stroke-dasharray")) for line in lines.all()}
    assert len(marks) == 3
    titles = [title.split(": ") for title in lines.locator("title").all_text_contents()]
    for head, _, weight in titles:
        assert float(weight) in np.round(WEIGHTS[0, int(head[-1]), 2], 3)
    page.get_by_role("button", name="head 1").click()
    expect(page.get_by_role("button", name="head 1")).to_have_attribute("aria-pressed", "false")
    page.locator("[data-query='2']").hover()
    assert not any("head 1" in text for text in lines.locator("title").all_text_contents())
    expect(page.locator(".course-box")).to_have_count(2 * 4)
    page.locator(".course-pick-layer").select_option("1")
    page.locator("[data-query='2']").hover()
    titles = [title.split(": ") for title in lines.locator("title").all_text_contents()]
    assert all(float(weight) in np.round(WEIGHTS[1, int(head[-1]), 2], 3) for head, _, weight in titles)


@pytest.mark.browser
def test_the_views_are_moved_and_pinned_by_keyboard(page: Page, tmp_path: Path) -> None:
    shown(page, tmp_path, VIEWS["head view"](), VIEWS["neuron view"](query=0))
    for place, panel in enumerate(page.locator(".course-heads").all()):
        spoken = page.locator(".course-spoken").nth(place)
        panel.focus()
        assert panel.evaluate("element => getComputedStyle(element).outlineStyle") == "solid"
        page.keyboard.press("End")
        expect(spoken).to_contain_text("(position 3")
        page.keyboard.press("ArrowUp")
        expect(spoken).to_contain_text("(position 2")
        page.keyboard.press("Escape")
        expect(spoken).to_contain_text("(position 0" if place else "Hover a token")


@pytest.mark.browser
def test_model_view_has_a_picture_for_every_head_and_enlarges_one(page: Page, tmp_path: Path) -> None:
    shown(page, tmp_path, VIEWS["model view"](query=3))
    thumbs = page.locator(".course-thumb")
    expect(thumbs).to_have_count(6)
    for place, thumb in enumerate(thumbs.all()):
        drawn = (np.rint(1000 * WEIGHTS.reshape(6, 16)[place]) >= 50).sum()
        expect(thumb.locator("line")).to_have_count(int(drawn))
    page.get_by_role("button", name="layer 1, head 2").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".course-thumb[aria-pressed='true']")).to_have_attribute(
        "aria-label", "layer 1, head 2"
    )
    best = int(WEIGHTS[1, 2, 3].argmax())
    expect(page.locator(".course-spoken")).to_contain_text(f"{WEIGHTS[1, 2, 3, best]:.3f}")
    numbers = [float(text) for text in page.locator(".course-heads .course-number").all_text_contents()]
    assert numbers == pytest.approx(WEIGHTS[1, 2, 3].tolist(), abs=0.00051)


@pytest.mark.browser
def test_neuron_view_shows_the_products_that_add_up_to_each_score(page: Page, tmp_path: Path) -> None:
    shown(page, tmp_path, VIEWS["neuron view"](query=0))
    page.locator(".course-pick-head").select_option("2")
    page.locator("[data-query='2']").hover()
    titles = page.locator(".course-neuron title").all_text_contents()
    for key, token in enumerate(["The", "·bank", "银行"]):
        products = [
            float(title.split(": ")[1]) for title in titles if title.startswith(f"product with {token},")
        ]
        assert products == pytest.approx((QUERIES[0, 2, 2] * KEYS[0, 2, key]).tolist(), abs=0.004)
        said = page.locator(".course-number").all_text_contents()
        assert f"{QUERIES[0, 2, 2] @ KEYS[0, 2, key]:.1f}" in [f"{float(text):.1f}" for text in said]
    expect(page.locator("rect[fill^='url(#course-hatch']")).to_have_count(1)
    fills = {rect.get_attribute("fill") for rect in page.locator(".course-neuron").all()}
    assert fills == {"#0072B2", "#D55E00"}


@pytest.mark.browser
def test_without_scripts_the_tables_are_there(chromium: Browser, tmp_path: Path) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = shown(context.new_page(), tmp_path, *(make() for make in VIEWS.values()))
    expect(page.locator("details[open] table")).to_have_count(3)
    expect(page.get_by_text("Every head's attention")).to_be_visible()
    expect(page.get_by_text("their sum q · k")).to_be_visible()
    context.close()
