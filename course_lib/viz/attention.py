"""The attention explorer: hover a token and see where each head looks.

Axes: `layers`, `h` heads, `q` query positions, `k` key positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import traitlets

from course_lib.viz.arrays import BoolArray, FloatArray, as_array, as_mask, check_labels
from course_lib.viz.embedding import Explorer, page, read_static
from course_lib.viz.text import escape, shorten, visible

_MOST_WEIGHTS = 200_000
_ROW_SUM_TOLERANCE = 1e-2  # bfloat16 keeps three digits: a row of weights may miss 1 by that much
_STATIC_CELLS = 2_400  # some 60 bytes each: the static tables stay under 150 kB
_STATIC_TOKENS = 48
_NUMBERS_UP_TO_KEYS = 16
_HEADING = "color:#000;border:0;padding:1px 4px;font-weight:normal;text-align:right"


@dataclass(frozen=True)
class AttentionData:
    """Checked weights `(layers, h, q, k)`, what is blocked in the same shape or None, and the names.

    gold: pairs (query, key) that are to be marked in every head.
    """

    weights: FloatArray
    blocked: BoolArray | None
    queries: list[str]
    keys: list[str]
    head_names: list[str]
    layer_names: list[str]
    gold: frozenset[tuple[int, int]] = frozenset()


def _check_rows(weights: FloatArray) -> None:
    if weights.min() < 0:
        raise ValueError(
            f"weights has a negative entry ({weights.min():.4g}): these are scores, not weights. "
            "Apply the softmax over the keys first."
        )
    sums = weights.sum(axis=-1)
    wrong = np.argwhere((np.abs(sums - 1) > _ROW_SUM_TOLERANCE) & (sums > 1e-6))
    if len(wrong):
        layer, head, query = wrong[0]
        raise ValueError(
            f"weights[layer {layer}, head {head}, query {query}] sums to {sums[layer, head, query]:.4f}; "
            "expected 1, or 0 for a query whose keys are all blocked. "
            "Each row, over the last axis, is a softmax over the keys."
        )


def _check_mask(mask: Any, weights: FloatArray) -> BoolArray | None:
    if mask is None:
        return None
    blocked = ~as_mask(mask, "mask", weights.shape)
    leak = np.argwhere(blocked & (weights > 1e-3))
    if len(leak):
        layer, head, query, key = leak[0]
        raise ValueError(
            f"mask blocks key {key} for query {query} (layer {layer}, head {head}), but its weight is "
            f"{weights[layer, head, query, key]:.3f}. In this course True means: may attend."
        )
    return blocked


def _check_gold(gold: Iterable[tuple[int, int]], weights: FloatArray) -> frozenset[tuple[int, int]]:
    found = frozenset((int(query), int(key)) for query, key in gold)
    queries, keys = weights.shape[2:]
    for query, key in sorted(found):
        if not (0 <= query < queries and 0 <= key < keys):
            raise ValueError(
                f"gold links query {query} with key {key}, but there are {queries} queries and {keys} keys; "
                "a link is (query index, key index)"
            )
    return found


def check_attention(
    tokens: Sequence[str],
    weights: Any,
    key_tokens: Sequence[str] | None = None,
    mask: Any = None,
    head_names: Sequence[str] | None = None,
    layer_names: Sequence[str] | None = None,
    gold: Iterable[tuple[int, int]] = (),
) -> AttentionData:
    """Check what an explorer is given; a `ValueError` names the axis that is wrong and what was expected."""
    array = as_array(weights, "weights (q, k), (h, q, k) or (layers, h, q, k)", (2, 3, 4))
    array = array.reshape((1,) * (4 - array.ndim) + array.shape)
    layers, heads, query_count, key_count = array.shape
    if array.size > _MOST_WEIGHTS:
        raise ValueError(
            f"weights has {array.size:,} entries; at most {_MOST_WEIGHTS:,} can be explored. "
            "Choose fewer layers, heads or tokens."
        )
    of_queries, of_keys = "the query axis of weights", "the key axis of weights"
    if key_tokens is None and query_count != key_count:
        raise ValueError(
            f"weights has {query_count} queries and {key_count} keys; pass key_tokens with {key_count} "
            "tokens, the ones attended to"
        )
    queries = check_labels(tokens, query_count, "tokens", of_queries)
    keys = queries if key_tokens is None else check_labels(key_tokens, key_count, "key_tokens", of_keys)
    _check_rows(array)
    return AttentionData(
        weights=array,
        blocked=_check_mask(mask, array),
        queries=[visible(token) for token in queries],
        keys=[visible(token) for token in keys],
        head_names=_names(head_names, heads, "head"),
        layer_names=_names(layer_names, layers, "layer"),
        gold=_check_gold(gold, array),
    )


def _names(given: Sequence[str] | None, count: int, kind: str) -> list[str]:
    if given is None:
        return [f"{kind} {index}" for index in range(count)]
    return check_labels(given, count, f"{kind}_names", f"the {kind} axis of weights")


class AttentionExplorer(Explorer):
    """Attention weights as lines from a query token to the keys, a panel a head.

    `weights` is `(q, k)`, `(h, q, k)` or `(layers, h, q, k)`, rows summing to 1 (0 where all is blocked):
    for a batch pass one example, `weights[0]`. `tokens` are the queries'; `key_tokens` those attended to,
    where they differ. `mask` is boolean, `True` = may attend, broadcastable to the weights. `gold` are pairs
    (query index, key index) that belong together, and are drawn dashed. Hover a token, or move with the arrow
    keys; click or Enter pins it. `query`, `layer`, `view` can be set from Python.
    """

    _esm = read_static("attention.js")
    _css = read_static("attention.css")

    query_labels = traitlets.List(traitlets.Unicode()).tag(sync=True)
    key_labels = traitlets.List(traitlets.Unicode()).tag(sync=True)
    shape = traitlets.List(traitlets.Int()).tag(sync=True)
    weights = traitlets.List(traitlets.Int()).tag(sync=True)
    blocked = traitlets.List(traitlets.Int()).tag(sync=True)
    # Query and key of each gold link, one after the other.
    gold = traitlets.List(traitlets.Int()).tag(sync=True)
    head_names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    layer_names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    layer = traitlets.Int(0).tag(sync=True)
    query = traitlets.Int(-1).tag(sync=True)
    # The query that is shown while none is hovered or pinned.
    home = traitlets.Int(-1).tag(sync=True)
    pinned = traitlets.Bool(False).tag(sync=True)
    view = traitlets.Enum(("lines", "grid"), default_value="lines").tag(sync=True)

    def __init__(
        self,
        tokens: Sequence[str],
        weights: Any,
        key_tokens: Sequence[str] | None = None,
        *,
        mask: Any = None,
        gold: Iterable[tuple[int, int]] = (),
        head_names: Sequence[str] | None = None,
        layer_names: Sequence[str] | None = None,
        query: int | None = None,
        layer: int = 0,
        view: str = "lines",
    ) -> None:
        data = check_attention(tokens, weights, key_tokens, mask, head_names, layer_names, gold)
        self._data = data
        blocked = data.blocked
        super().__init__(
            query_labels=data.queries,
            key_labels=data.keys,
            shape=list(data.weights.shape),
            weights=np.rint(1000 * data.weights).astype(int).ravel().tolist(),
            blocked=[] if blocked is None else blocked.astype(int).ravel().tolist(),
            gold=[index for link in sorted(data.gold) for index in link],
            head_names=data.head_names,
            layer_names=data.layer_names,
            layer=layer,
            query=-1 if query is None else query,
            home=-1 if query is None else query,
            view=view,
        )

    @traitlets.validate("query")
    def _check_query(self, proposal: Any) -> int:
        return _index(proposal["value"], "query", -1, len(self._data.queries))

    @traitlets.validate("layer")
    def _check_layer(self, proposal: Any) -> int:
        return _index(proposal["value"], "layer", 0, len(self._data.layer_names))

    def state(self) -> dict[str, Any]:
        """What the page needs to draw the explorer: the data, and where the reader is."""
        names = (
            "query_labels",
            "key_labels",
            "shape",
            "weights",
            "blocked",
            "gold",
            "head_names",
            "layer_names",
        )
        return {name: getattr(self, name) for name in (*names, "layer", "query", "home", "pinned", "view")}

    def to_html(self) -> str:
        """Self-contained HTML: tables that need no script, replaced by the explorer where scripts run."""
        return page(static_tables(self._data), self._esm, self._css, self.state())

    def summary(self) -> str:
        """One line: the sizes."""
        layers, heads, queries, keys = self._data.weights.shape
        return f"[attention explorer] layers {layers}, heads {heads}, queries {queries}, keys {keys}"


def _index(value: int, name: str, low: int, count: int) -> int:
    if not low <= value < count:
        raise traitlets.TraitError(f"{name}={value} is out of range; expected {low} to {count - 1}")
    return value


def static_tables(data: AttentionData) -> str:
    """HTML tables, a head each, as many as fit: lightness for the weight, and its number if there is room."""
    layers, heads, _, _ = data.weights.shape
    rows, columns = (min(len(names), _STATIC_TOKENS) for names in (data.queries, data.keys))
    room = max(1, _STATIC_CELLS // (rows * columns))
    chosen = [(layer, head) for layer in range(layers) for head in range(heads)][:room]
    parts = []
    for layer in dict.fromkeys(layer for layer, _ in chosen):
        tables = "".join(_head_table(data, *place) for place in chosen if place[0] == layer)
        row = f"<div>{tables}</div>"
        name, is_open = escape(data.layer_names[layer]), "" if layer else " open"
        parts.append(f"<details{is_open}><summary>{name}</summary>{row}</details>" if layers > 1 else row)
    return f"<div>{''.join(parts)}<p>{_static_note(data, len(chosen))}</p></div>"


def _static_note(data: AttentionData, drawn: int) -> str:
    sentences = ["Attention weights: rows are queries, columns are keys, darker is more."]
    if data.blocked is not None:
        sentences.append("╱ is blocked by the mask.")
    if data.gold:
        sentences.append("A dashed frame marks tokens that belong together.")
    total = len(data.layer_names) * len(data.head_names)
    if drawn < total:
        sentences.append(f"{drawn} of {total} heads are shown.")
    if max(len(data.queries), len(data.keys)) > _STATIC_TOKENS:
        sentences.append(f"Only the first {_STATIC_TOKENS} tokens are shown.")
    return " ".join([*sentences, "Run the cell to explore them."])


def _short(token: str) -> str:
    return escape(shorten(token, 14))


def _head_table(data: AttentionData, layer: int, head: int) -> str:
    keys = data.keys[:_STATIC_TOKENS]
    corner = f'<th bgcolor="#ffffff" style="{_HEADING}"><b>{escape(data.head_names[head])}</b></th>'
    heading = "".join(f'<th bgcolor="#ffffff" style="{_HEADING}">{_short(token)}</th>' for token in keys)
    rows = [f"<tr>{corner}{heading}</tr>"]
    for query, token in enumerate(data.queries[:_STATIC_TOKENS]):
        cells = "".join(_cell(data, layer, head, query, key) for key in range(len(keys)))
        rows.append(f'<tr><th bgcolor="#ffffff" style="{_HEADING}">{_short(token)}</th>{cells}</tr>')
    style = "border-collapse:collapse;margin:4px 16px 4px 0;font-size:11px;text-align:center"
    table = f'<table style="{style};color:#000;background:#fff">{"".join(rows)}</table>'
    # Not a flex box: JupyterLab's sanitiser knows display:inline-block, and drops display:flex.
    return f'<div style="display:inline-block;vertical-align:top">{table}</div>'


def _cell(data: AttentionData, layer: int, head: int, query: int, key: int) -> str:
    if data.blocked is not None and data.blocked[layer, head, query, key]:
        return '<td bgcolor="#ffffff" style="color:#999">╱</td>'
    weight = float(data.weights[layer, head, query, key])
    shade = f"{round(255 - 200 * min(weight, 1.0)):02x}" * 3
    styles = ["color:#fff"] * (weight > 0.6) + ["border:2px dashed #d55e00"] * ((query, key) in data.gold)
    ink = f' style="{";".join(styles)}"' if styles else ""
    digits = f"{weight:.2f}".removeprefix("0") if weight >= 0.005 else "0"
    if len(data.keys) <= _NUMBERS_UP_TO_KEYS:
        return f'<td bgcolor="#{shade}"{ink}>{digits}</td>'
    return f'<td bgcolor="#{shade}"{ink} title="{digits}"></td>'
