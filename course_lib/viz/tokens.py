"""The tokenizer explorer: type a text and see how every tokenizer cuts it, side by side.

A tokenizer is anything with `tokens(text) -> list[str]` and `encode(text) -> list[int]`. One that has
`pieces(text)` is shown by those, and `unk_token` or `unk_id` tells which tokens are unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import traitlets

from course_lib.viz.embedding import Explorer, read_static
from course_lib.viz.text import escape, visible

MOST_CHARACTERS = 2_000
_MOST_CHIPS = 400
_TINTS = ("#cfe3f5", "#fbe6bd", "#cdeee3", "#f6dcea", "#f7d3bd", "#eeeeee")
_UNKNOWN_BY_CUSTOM = ("[UNK]", "<unk>", "<UNK>")

Piece = tuple[str, str, int, bool]


class CutsText(Protocol):
    """What the explorer needs of a tokenizer."""

    def tokens(self, text: str) -> list[str]:
        """The tokens of a text."""

    def encode(self, text: str) -> list[int]:
        """Their ids, one for each."""


def cut(name: str, tokenizer: CutsText, text: str) -> dict[str, Any]:
    """One row of the explorer: the pieces of `text`, how many, and how many bytes each stands for.

    What a tokenizer raises becomes the row's `error`, so that one that fails does not hide the others.
    """
    row: dict[str, Any] = {"name": name, "count": 0, "bytes_per_token": 0.0, "error": "", "left_out": 0}
    try:
        pieces = _pieces(tokenizer, text)
    except Exception as error:
        return {**row, "error": f"{type(error).__name__}: {error}", "pieces": []}
    size = len(text.encode("utf-8", "surrogatepass"))
    return {
        **row,
        "count": len(pieces),
        "bytes_per_token": round(size / len(pieces), 3) if pieces else 0.0,
        "left_out": max(0, len(pieces) - _MOST_CHIPS),
        "pieces": pieces[:_MOST_CHIPS],
    }


def _pieces(tokenizer: Any, text: str) -> list[Piece]:
    tokens, ids = tokenizer.tokens(text), tokenizer.encode(text)
    if len(tokens) != len(ids):
        raise ValueError(f"tokens() gives {len(tokens)} tokens and encode() {len(ids)} ids; expected as many")
    shown = tokenizer.pieces(text) if hasattr(tokenizer, "pieces") else tokens
    if len(shown) != len(tokens):
        raise ValueError(f"pieces() gives {len(shown)} pieces for {len(tokens)} tokens; expected as many")
    own = getattr(tokenizer, "unk_token", None)
    unknown = _UNKNOWN_BY_CUSTOM if own is None else (own,)
    return [
        (visible(piece), token, int(index), token in unknown)
        for piece, token, index in zip(shown, tokens, ids, strict=True)
    ]


class TokenizerExplorer(Explorer):
    """A text box, and below it the pieces that each tokenizer makes of the text, redrawn while typing.

    `tokenizers` maps the name to show to a tokenizer. At most 2,000 characters are read. `text` can be set
    from Python; `rows` holds what is shown.
    """

    _esm = read_static("tokens.js")
    _css = read_static("tokens.css")

    text = traitlets.Unicode("").tag(sync=True)
    limit = traitlets.Int(MOST_CHARACTERS).tag(sync=True)
    rows = traitlets.List(traitlets.Dict()).tag(sync=True)

    def __init__(self, tokenizers: Mapping[str, CutsText], text: str = "Let's do tokenization!") -> None:
        if not tokenizers:
            raise ValueError("tokenizers is empty; expected a dictionary from a name to a tokenizer")
        for name, tokenizer in tokenizers.items():
            missing = [method for method in ("tokens", "encode") if not hasattr(tokenizer, method)]
            if missing:
                raise TypeError(
                    f"tokenizers[{name!r}] lacks {' and '.join(missing)}(); "
                    "expected an object with tokens(text) and encode(text)"
                )
        self._tokenizers = dict(tokenizers)
        super().__init__(text=text, rows=self._cut(text[:MOST_CHARACTERS]))

    def _cut(self, text: str) -> list[dict[str, Any]]:
        return [cut(name, tokenizer, text) for name, tokenizer in self._tokenizers.items()]

    @traitlets.validate("text")
    def _shorten_text(self, proposal: Any) -> str:
        return str(proposal["value"])[:MOST_CHARACTERS]

    @traitlets.observe("text")
    def _redraw(self, change: Any) -> None:
        self.rows = self._cut(change["new"])

    def to_html(self) -> str:
        """Self-contained HTML, without a script: cutting another text takes Python."""
        return static_table(self.text, self.rows)

    def summary(self) -> str:
        """One line: each tokenizer and its number of tokens."""
        counts = ", ".join(f"{row['name']}: {row['error'] or row['count']}" for row in self.rows)
        return f"[tokenizer explorer] tokens of {self.text!r}: {counts}"


def static_table(text: str, rows: list[dict[str, Any]]) -> str:
    """The rows as an HTML table with inline styles, which a sanitiser lets pass."""
    plain = 'style="text-align:left;vertical-align:top;padding:3px 10px 3px 0"'
    heading = plain[:-1] + ';white-space:nowrap"'
    names = ("tokenizer", "tokens", "bytes per token", "pieces")
    parts = ["<tr>", *(f"<th {heading}>{name}</th>" for name in names), "</tr>"]
    for row in rows:
        parts += ["<tr>", *(f"<td {plain}>{cell}</td>" for cell in _static_cells(row)), "</tr>"]
    box = f'<div style="border:1px solid #8c8c8c;padding:3px 6px;white-space:pre-wrap">{escape(text)}</div>'
    note = "<p>Hover a piece for its id. Run the cell to type a text of your own.</p>"
    return f'<div>{box}<table style="border-collapse:collapse">{"".join(parts)}</table>{note}</div>'


def _static_cells(row: dict[str, Any]) -> list[str]:
    name = f"<b>{escape(row['name'])}</b>"
    if row["error"]:
        return [name, "–", "–", escape(row["error"])]
    rate = f"{row['bytes_per_token']:.2f}" if row["count"] else "–"
    chips = "".join(_static_chip(piece, place) for place, piece in enumerate(row["pieces"]))
    more = f" … and {row['left_out']} more" if row["left_out"] else ""
    return [name, str(row["count"]), rate, chips + more]


def _static_chip(piece: Piece, place: int) -> str:
    shown, token, index, is_unknown = piece
    border = "2px dashed #a83200" if is_unknown else "1px solid #595959"
    style = f"background-color:{_TINTS[place % len(_TINTS)]};border:{border}"
    mark = "? " if is_unknown else ""
    return (
        f'<span title="token {place}: {escape(token)}, id {index}" style="{style};color:#1a1a1a;'
        f'border-radius:3px;padding:0 4px;margin:1px 3px 1px 0;display:inline-block;white-space:pre-wrap">'
        f'<small style="font-size:9px">{place}</small> <bdi>{mark}{escape(shown)}</bdi></span>'
    )
