"""Three views of a model with many heads, after BertViz (Vig 2019), which need no kernel and no network.

Head view: the lines of several heads in one picture. Model view: every head of every layer, small.
Neuron view: the products, feature by feature, that make one head's scores.

Axes: `layers`, `h` heads, `q` query positions, `k` key positions, `d` width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import traitlets

from course_lib.viz.arrays import FloatArray, as_array, as_mask
from course_lib.viz.attention import AttentionData, AttentionExplorer
from course_lib.viz.embedding import page, read_static
from course_lib.viz.text import escape, shorten

_MOST_NUMBERS = 200_000
_STATIC_CELLS = 4_000  # some 30 bytes each
_STATIC_TOKENS = 48
_LABEL = "color:#000;border:0;padding:1px 4px;font-weight:normal;text-align:right"


def _module(view: str) -> str:
    """A module with the attention explorer's helpers, whose rendering is that of another view."""
    helpers = read_static("attention.js").replace("export default { render };", "")
    return f"{helpers}\n{read_static('heads.js')}\nexport default {{ render: {view} }};\n"


_STYLE = read_static("attention.css") + read_static("heads.css")


class HeadView(AttentionExplorer):
    """The lines of several heads in one picture: a colour and a dash for each, buttons to show and hide them.

    What is given is as for `AttentionExplorer`. `shown`: the heads to begin with, all by default.
    """

    _esm = _module("headView")
    _css = _STYLE

    shown = traitlets.List(traitlets.Int()).tag(sync=True)

    def __init__(
        self,
        tokens: Sequence[str],
        weights: Any,
        key_tokens: Sequence[str] | None = None,
        *,
        mask: Any = None,
        head_names: Sequence[str] | None = None,
        layer_names: Sequence[str] | None = None,
        query: int | None = None,
        layer: int = 0,
        shown: Sequence[int] | None = None,
    ) -> None:
        super().__init__(
            tokens,
            weights,
            key_tokens,
            mask=mask,
            head_names=head_names,
            layer_names=layer_names,
            query=query,
            layer=layer,
        )
        heads = len(self.head_names)
        chosen = range(heads) if shown is None else shown
        if not set(chosen) <= set(range(heads)):
            raise ValueError(f"shown={list(chosen)}: expected numbers of heads, 0 to {heads - 1}")
        self.shown = [int(head in chosen) for head in range(heads)]

    def state(self) -> dict[str, Any]:
        """What the page needs to draw the view: the data, and where the reader is."""
        return super().state() | {"shown": self.shown}

    def summary(self) -> str:
        """One line: the sizes."""
        return super().summary().replace("attention explorer", "head view")


class _OfOneHead(AttentionExplorer):
    """A view with one head in the foreground."""

    head = traitlets.Int(0).tag(sync=True)

    @traitlets.validate("head")
    def _check_head(self, proposal: Any) -> int:
        head, heads = int(proposal["value"]), len(self._data.head_names)
        if not 0 <= head < heads:
            raise traitlets.TraitError(f"head={head} is out of range; expected 0 to {heads - 1}")
        return head

    def state(self) -> dict[str, Any]:
        """What the page needs to draw the view: the data, and where the reader is."""
        return super().state() | {"head": self.head}


class ModelView(_OfOneHead):
    """A small picture for every head of every layer; a click enlarges one of them.

    What is given is as for `AttentionExplorer`. `layer` and `head`: the one that is large to begin with.
    """

    _esm = _module("modelView")
    _css = _STYLE

    def __init__(
        self,
        tokens: Sequence[str],
        weights: Any,
        key_tokens: Sequence[str] | None = None,
        *,
        mask: Any = None,
        head_names: Sequence[str] | None = None,
        layer_names: Sequence[str] | None = None,
        query: int | None = None,
        layer: int = 0,
        head: int = 0,
    ) -> None:
        super().__init__(
            tokens,
            weights,
            key_tokens,
            mask=mask,
            head_names=head_names,
            layer_names=layer_names,
            query=query,
            layer=layer,
        )
        self.head = head

    def to_html(self) -> str:
        """Self-contained HTML: small tables that need no script, replaced by the view where scripts run."""
        return page(static_thumbs(self._data), self._esm, self._css, self.state())

    def summary(self) -> str:
        """One line: the sizes."""
        return super().summary().replace("attention explorer", "model view")


class NeuronView(_OfOneHead):
    """Why a query attends to a key: the products of their features, their sum, and the softmax.

    queries `(q, d)`, `(h, q, d)` or `(layers, h, q, d)`, keys the same with k in place of q, as they meet in
    the scores: for a batch pass one example. `mask` is boolean, `True` = may attend, broadcastable to
    `(layers, h, q, k)`. `query`, `layer`, `head`: what is shown to begin with.
    """

    _esm = _module("neuronView")
    _css = _STYLE

    width = traitlets.Int().tag(sync=True)
    query_vectors = traitlets.List(traitlets.Int()).tag(sync=True)
    key_vectors = traitlets.List(traitlets.Int()).tag(sync=True)

    def __init__(
        self,
        tokens: Sequence[str],
        queries: Any,
        keys: Any,
        key_tokens: Sequence[str] | None = None,
        *,
        mask: Any = None,
        head_names: Sequence[str] | None = None,
        layer_names: Sequence[str] | None = None,
        query: int = 0,
        layer: int = 0,
        head: int = 0,
    ) -> None:
        asks, answers = _check_vectors(queries, keys)
        super().__init__(
            tokens,
            _weights_of(asks, answers, mask),
            key_tokens,
            mask=mask,
            head_names=head_names,
            layer_names=layer_names,
            query=query,
            layer=layer,
        )
        self.head, self.width = head, asks.shape[-1]
        self.query_vectors = np.rint(1000 * asks).astype(int).ravel().tolist()
        self.key_vectors = np.rint(1000 * answers).astype(int).ravel().tolist()
        self._asks, self._answers = asks, answers

    def state(self) -> dict[str, Any]:
        """What the page needs to draw the view: the data, and where the reader is."""
        names = ("width", "query_vectors", "key_vectors")
        return super().state() | {name: getattr(self, name) for name in names}

    def to_html(self) -> str:
        """Self-contained HTML: a table of one query's products, replaced by the view where scripts run."""
        place = self.layer, self.head, max(0, self.query)
        static = static_products(self._data, self._asks[place] * self._answers[place[:2]], place)
        return page(static, self._esm, self._css, self.state())

    def summary(self) -> str:
        """One line: the sizes."""
        return super().summary().replace("attention explorer", "neuron view")


def _check_vectors(queries: Any, keys: Any) -> tuple[FloatArray, FloatArray]:
    asks, answers = (
        as_array(given, f"{name} (…, tokens, d)", (2, 3, 4))
        for given, name in ((queries, "queries"), (keys, "keys"))
    )
    asks, answers = (array.reshape((1,) * (4 - array.ndim) + array.shape) for array in (asks, answers))
    if asks.shape[:2] != answers.shape[:2] or asks.shape[3] != answers.shape[3]:
        raise ValueError(
            f"queries has shape {asks.shape} and keys {answers.shape}; layers, heads and width must agree"
        )
    if asks.size + answers.size > _MOST_NUMBERS:
        raise ValueError(
            f"queries and keys have {asks.size + answers.size:,} numbers; at most {_MOST_NUMBERS:,} can be "
            "shown. Choose fewer layers, heads or tokens."
        )
    return asks, answers


def _weights_of(queries: FloatArray, keys: FloatArray, mask: Any) -> FloatArray:
    """softmax(q · k / √d) over the visible keys, zeros for a query that sees none."""
    scores = queries @ keys.swapaxes(-2, -1) / math.sqrt(queries.shape[-1])
    visible = as_mask(np.True_ if mask is None else mask, "mask", scores.shape)
    scores = np.where(visible, scores, -np.inf)
    largest = np.maximum(scores.max(axis=-1, keepdims=True), np.finfo(np.float64).min)
    powers = np.exp(scores - largest)
    weights: FloatArray = powers / np.maximum(powers.sum(axis=-1, keepdims=True), np.finfo(np.float64).tiny)
    return weights


# --- where no script runs --------------------------------------------------------------------------


def static_thumbs(data: AttentionData) -> str:
    """A row of small tables for each layer, one for each head, as many as fit: darker is more weight."""
    layers, heads, queries, keys = data.weights.shape
    rows, columns = min(queries, _STATIC_TOKENS), min(keys, _STATIC_TOKENS)
    room = max(1, _STATIC_CELLS // (rows * columns))
    parts = []
    for layer, name in enumerate(data.layer_names):
        tables = [
            _thumb(data, layer, head, rows, columns) for head in range(heads) if layer * heads + head < room
        ]
        if tables:
            parts.append(f"<div><b>{escape(name)}</b><br>{''.join(tables)}</div>")
    sentences = ["Every head's attention: rows are queries, columns are keys, darker is more."]
    if room < layers * heads:
        sentences.append(f"{room} of {layers * heads} heads are shown.")
    if max(queries, keys) > _STATIC_TOKENS:
        sentences.append(f"Only the first {_STATIC_TOKENS} tokens are shown.")
    return f"<div>{''.join(parts)}<p>{' '.join([*sentences, 'Run the cell to explore them.'])}</p></div>"


def _thumb(data: AttentionData, layer: int, head: int, rows: int, columns: int) -> str:
    cells = "".join(
        "<tr>" + "".join(_shaded(weight) for weight in row) + "</tr>"
        for row in data.weights[layer, head, :rows, :columns].tolist()
    )
    table = f'<table style="border-collapse:collapse;font-size:5px;line-height:5px">{cells}</table>'
    name = escape(data.head_names[head])
    return f'<div style="display:inline-block;vertical-align:top;margin:0 12px 6px 0">{name}{table}</div>'


def _shaded(weight: float) -> str:
    shade = f"{round(255 - 225 * min(weight, 1.0)):02x}" * 3
    return f'<td bgcolor="#{shade}">&nbsp;</td>'


def static_products(data: AttentionData, products: FloatArray, place: tuple[int, int, int]) -> str:
    """A table with a row for each key: the products with one query, their sum, and the weight."""
    layer, head, query = place
    rows = []
    for key, token in enumerate(data.keys[:_STATIC_TOKENS]):
        cells = "".join(_signed(value, float(np.abs(products).max())) for value in products[key].tolist())
        weight = float(data.weights[layer, head, query, key])
        hidden = data.blocked is not None and data.blocked[layer, head, query, key]
        said = "╱" if hidden else f"{weight:.3f}"
        numbers = f'<td style="{_LABEL}">{products[key].sum():.2f}</td><td style="{_LABEL}">{said}</td>'
        rows.append(f'<tr><th style="{_LABEL}">{escape(shorten(token, 14))}</th>{cells}{numbers}</tr>')
    style = "border-collapse:collapse;font-size:11px;color:#000;background:#fff"
    names = f"{escape(data.layer_names[layer])}, {escape(data.head_names[head])}"
    about = (
        f"{names}, query “{escape(data.queries[query])}”: for each key its products with the query, feature "
        "by feature (blue positive, orange negative), their sum q · k, and the weight. "
        "Run the cell to explore them."
    )
    return f'<div><table style="{style}">{"".join(rows)}</table><p>{about}</p></div>'


def _signed(value: float, largest: float) -> str:
    """A cell between white and blue for a positive value, white and orange for a negative one."""
    end = (0, 114, 178) if value >= 0 else (213, 94, 0)
    share = abs(value) / max(largest, 1e-9)
    colour = "".join(f"{round(255 + share * (channel - 255)):02x}" for channel in end)
    return f'<td bgcolor="#{colour}" title="{value:.2f}">&nbsp;</td>'
