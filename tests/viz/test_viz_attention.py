"""The attention explorer's data: what is checked, and what a saved page holds, none of it random."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
import traitlets
from hypothesis import given, settings
from hypothesis import strategies as st
from nbconvert import HTMLExporter

from course_lib.viz import AttentionExplorer
from course_lib.viz.attention import check_attention, static_tables

TOKENS = ["The", " bank", "\n", "银行", "<script>alert(1)</script>"]
CAUSAL = np.tril(np.ones((5, 5), dtype=bool))

# What JupyterLab 4.6 lets pass in a notebook that is not trusted (of the tags and attributes used here).
ALLOWED_TAGS = {"b", "bdi", "details", "div", "p", "small", "span", "summary", "table", "td", "th", "tr"}
ALLOWED_ATTRIBUTES = {"bgcolor", "style", "title", "id", "open"}


def causal_weights(*leading: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Random weights `(*leading, 5, 5)`, lower triangular, rows summing to 1."""
    scores = np.where(CAUSAL, np.random.default_rng(seed).normal(size=(*leading, 5, 5)), -np.inf)
    powers = np.exp(scores)
    return powers / powers.sum(axis=-1, keepdims=True)


@pytest.fixture
def building(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COURSE_BUILD", "1")


class Tables(HTMLParser):
    """Reads the cells of every table, and notes every tag and attribute met outside a script."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self._in_cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.tables[-1][-1][-1] += data


def read_tables(html: str) -> Tables:
    parser = Tables()
    parser.feed(html)
    return parser


def test_the_static_tables_hold_every_weight_and_mark_the_blocked(building: None) -> None:
    weights = causal_weights(2)
    data = check_attention(TOKENS, weights, mask=CAUSAL)
    tables = read_tables(static_tables(data)).tables
    assert len(tables) == 2
    for head, (heading, *rows) in enumerate(tables):
        assert heading == [f"head {head}", "The", "·bank", "⏎", "银行", "<script>alert…"]
        for query, (token, *cells) in enumerate(rows):
            assert token == heading[query + 1]
            for key, cell in enumerate(cells):
                if CAUSAL[query, key]:
                    assert float(cell) == pytest.approx(weights[head, query, key], abs=0.0051)
                else:
                    assert cell == "╱"


def test_the_static_part_uses_only_what_jupyterlabs_sanitiser_lets_pass(building: None) -> None:
    html = AttentionExplorer(TOKENS, causal_weights(2, 2), mask=CAUSAL).to_html()
    static, script = html.split("<script>", 1)
    parser = read_tables(static)
    assert parser.tags <= ALLOWED_TAGS
    assert parser.attributes <= ALLOWED_ATTRIBUTES
    assert "flex" not in static
    assert script.count("</script>") == 1 and script.endswith("</script>")
    assert "&lt;script&gt;alert" in static


def test_the_page_asks_for_nothing_from_outside(building: None) -> None:
    html = AttentionExplorer(TOKENS, causal_weights(1)).to_html()
    addresses = set(re.findall(r"https?://[^\s\"'`]+", html))
    assert addresses == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"\b(fetch|import|XMLHttpRequest|src=|href=)\b", html)


def read_state(html: str) -> dict[str, Any]:
    found = re.search(r"const state = (\{.*?\}), listeners", html, re.DOTALL)
    assert found is not None
    state: dict[str, Any] = json.loads(found[1])
    return state


def test_the_page_holds_the_weights_to_three_digits(building: None) -> None:
    weights = causal_weights(2, 3)
    state = read_state(AttentionExplorer(TOKENS, weights, mask=CAUSAL).to_html())
    assert state["shape"] == [2, 3, 5, 5]
    assert np.abs(np.array(state["weights"]).reshape(2, 3, 5, 5) / 1000 - weights).max() <= 0.0005 + 1e-12
    blocked = np.array(state["blocked"], dtype=bool).reshape(2, 3, 5, 5)
    assert (blocked == ~CAUSAL).all()
    assert state["layer_names"] == ["layer 0", "layer 1"]


def test_gold_links_are_in_the_page_and_framed_in_the_static_table(building: None) -> None:
    html = AttentionExplorer(TOKENS, causal_weights(), gold={(2, 0), (3, 1)}).to_html()
    assert read_state(html)["gold"] == [2, 0, 3, 1]
    static = html.split("<script>", 1)[0]
    rows = static.split("<tr>")[2:]
    framed = [
        (query, key)
        for query, row in enumerate(rows)
        for key, cell in enumerate(row.split("<td")[1:])
        if "2px dashed" in cell
    ]
    assert framed == [(2, 0), (3, 1)]
    assert "A dashed frame marks tokens that belong together." in static
    assert "dashed" not in AttentionExplorer(TOKENS, causal_weights()).to_html().split("<script>", 1)[0]


def test_building_gives_the_same_bytes_twice_and_no_widget(building: None) -> None:
    made = [AttentionExplorer(TOKENS, causal_weights(2)) for _ in range(2)]
    first, second = (explorer._repr_mimebundle_() for explorer in made)
    assert first == second
    assert set(first[0]) == {"text/html", "text/plain"}
    assert all(explorer.comm is None for explorer in made)


def test_a_live_explorer_offers_the_widget_and_the_saved_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COURSE_BUILD", raising=False)
    explorer = AttentionExplorer(TOKENS, causal_weights(2))
    data, _ = explorer._repr_mimebundle_()
    view = data["application/vnd.jupyter.widget-view+json"]
    assert view["model_id"] == explorer.model_id
    assert data["text/html"] == explorer.to_html()
    assert data["text/plain"] == "[attention explorer] layers 1, heads 2, queries 5, keys 5"
    state = explorer.get_state()
    assert state["weights"] == read_state(explorer.to_html())["weights"]
    assert "export default { render }" in state["_esm"]


def test_nbconvert_shows_the_tables_where_the_widgets_state_was_not_saved() -> None:
    explorer = AttentionExplorer(TOKENS, causal_weights(2))
    data, _ = explorer._repr_mimebundle_()
    output = nbformat.v4.new_output("display_data", data=data)
    cell = nbformat.v4.new_code_cell("explorer", outputs=[output], execution_count=1)
    html, _ = HTMLExporter().from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))
    assert "·bank" in html and "const explorer = { render }" in html
    assert explorer.model_id not in html


def test_where_the_reader_is_can_be_set_and_is_kept_in_the_page(building: None) -> None:
    explorer = AttentionExplorer(TOKENS, causal_weights(2, 1), query=3, layer=1, view="grid")
    state = read_state(explorer.to_html())
    assert (state["query"], state["home"], state["layer"], state["view"]) == (3, 3, 1, "grid")
    assert not state["pinned"], "a query shown at the start must not keep the reader from hovering another"
    for name, value in (("query", 5), ("query", -2), ("layer", 2), ("view", "circle")):
        with pytest.raises(traitlets.TraitError):
            setattr(explorer, name, value)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.text(max_size=12), min_size=1, max_size=4))
def test_any_tokens_can_be_shown(tokens: list[str]) -> None:
    count = len(tokens)
    data = check_attention(tokens, np.full((count, count), 1 / count))
    parser = read_tables(static_tables(data))
    assert parser.tags <= ALLOWED_TAGS
    assert len(parser.tables[0]) == count + 1


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_of_a_model_are_taken_in_every_precision(kind: torch.dtype) -> None:
    weights = torch.randn(3, 40, 40, dtype=torch.float32).softmax(-1).to(kind).requires_grad_()
    data = check_attention([f"t{index}" for index in range(40)], weights)
    assert data.weights.shape == (1, 3, 40, 40)


def test_layers_may_come_as_a_list() -> None:
    layers = [torch.from_numpy(causal_weights(2, seed=seed)) for seed in range(3)]
    assert check_attention(TOKENS, layers).weights.shape == (3, 2, 5, 5)


def test_a_fully_masked_row_of_zeros_is_no_error() -> None:
    weights = causal_weights()
    weights[2] = 0
    mask = CAUSAL.copy()
    mask[2] = False
    data = check_attention(TOKENS, weights, mask=torch.from_numpy(mask))
    assert data.blocked is not None and data.blocked[0, 0, 2].all()


def test_cross_attention_has_its_own_keys() -> None:
    weights = np.full((1, 2, 3), 1 / 3)
    data = check_attention(["le", "chat"], weights, ["the", "black", "cat"])
    assert (data.queries, data.keys) == (["le", "chat"], ["the", "black", "cat"])
    with pytest.raises(ValueError, match="2 queries and 3 keys; pass key_tokens with 3"):
        check_attention(["le", "chat"], weights)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"weights": np.ones(5)}, r"has shape \(5,\); expected 2 or 3 or 4 dimensions"),
    ({"weights": np.ones((1, 1, 1, 5, 5))}, "expected 2 or 3 or 4 dimensions"),
    ({"weights": np.random.default_rng(0).normal(size=(5, 5))}, "these are scores, not weights"),
    ({"weights": causal_weights().T}, r"sums to .*; expected 1, or 0"),
    ({"weights": causal_weights() * np.nan}, "NaN or infinity"),
    ({"tokens": TOKENS[:4]}, "tokens has 4 entries, but the query axis of weights has 5"),
    ({"tokens": "abcde"}, "tokens is one string"),
    ({"key_tokens": TOKENS[:4]}, "key_tokens has 4 entries, but the key axis"),
    ({"mask": ~CAUSAL}, "True means: may attend"),
    ({"mask": CAUSAL.astype(float)}, "mask has dtype float64; expected booleans"),
    ({"mask": CAUSAL[:4]}, "does not broadcast"),
    ({"gold": {(0, 5)}}, "gold links query 0 with key 5, but there are 5 queries and 5 keys"),
    ({"head_names": ["a", "b"]}, "head_names has 2 entries, but the head axis of weights has 1"),
    ({"weights": np.full((100, 50, 50), 0.02), "tokens": ["a"] * 50}, "at most 200,000"),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=[message[:30] for _, message in WRONG])
def test_what_does_not_fit_is_named(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"tokens": TOKENS, "weights": causal_weights()}
    with pytest.raises(ValueError, match=message):
        check_attention(**{**given, **change})


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [((4, 8, 20), "6 of 32 heads are shown."), ((1, 1, 300), "Only the first 48 tokens are shown.")],
)
def test_a_large_attention_stays_small_on_disk_and_says_what_is_left_out(
    building: None, shape: tuple[int, int, int], sentence: str
) -> None:
    layers, heads, length = shape
    weights = np.random.default_rng(0).dirichlet(np.ones(length), (layers, heads, length))
    explorer = AttentionExplorer([f"token{index}" for index in range(length)], weights)
    html = explorer.to_html()
    assert sentence in html
    assert len(html.encode()) < 450_000
