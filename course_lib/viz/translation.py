"""The translation explorer: type a sentence, read its translation, and see what each word of it looked at.

It knows no model: it is given a function from a text and a language to an `Answer`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import traitlets

from course_lib.viz.arrays import as_array
from course_lib.viz.embedding import Explorer, read_static
from course_lib.viz.text import escape

MOST_CHARACTERS = 200


@dataclass(frozen=True)
class Answer:
    """A translation: its text, the words of both sides, and what each word written looked at.

    weights: (target words, source words), each from 0 to 1. known: which source words are in the vocabulary,
    all where it is None.
    """

    written: str
    source: Sequence[str]
    target: Sequence[str]
    weights: Any
    known: Sequence[bool] | None = None


Translate = Callable[[str, str], Answer]


def to_state(answer: Answer) -> dict[str, Any]:
    """An answer as the page holds it. Raises ValueError for weights of another shape."""
    weights = as_array(answer.weights, "weights", (2,))
    if weights.shape != (len(answer.target), len(answer.source)):
        raise ValueError(
            f"weights has shape {weights.shape}; expected ({len(answer.target)}, {len(answer.source)}): "
            "a row for each word of the translation, a column for each of the source"
        )
    known = [True] * len(answer.source) if answer.known is None else [bool(one) for one in answer.known]
    return {
        "error": "",
        "written": answer.written,
        "source": [list(pair) for pair in zip(answer.source, known, strict=True)],
        "target": list(answer.target),
        "weights": np.rint(1000 * weights).astype(int).ravel().tolist(),
    }


def _told(error: str) -> dict[str, Any]:
    """A sentence in place of a translation."""
    return {"error": error, "written": "", "source": [], "target": [], "weights": []}


class TranslationExplorer(Explorer):
    """A text box and a list of languages; below, the translation, with a line to what each word looked at.

    translate: called with the text and the chosen language's code; the message of a ValueError that it raises
    is shown. languages: names by code. `text` and `language` can be set from Python; `answer` holds what is
    shown. At most 200 characters are read.
    """

    _esm = read_static("translation.js")
    _css = read_static("translation.css")

    text = traitlets.Unicode("").tag(sync=True)
    limit = traitlets.Int(MOST_CHARACTERS).tag(sync=True)
    language = traitlets.Unicode("").tag(sync=True)
    languages = traitlets.List(traitlets.List(traitlets.Unicode())).tag(sync=True)
    answer = traitlets.Dict().tag(sync=True)

    def __init__(
        self, translate: Translate, languages: Mapping[str, str], text: str, language: str | None = None
    ) -> None:
        if not languages:
            raise ValueError("languages is empty; expected a dictionary from a code to a language's name")
        self._translate = translate
        chosen = next(iter(languages)) if language is None else language
        super().__init__(
            text=text,
            language=chosen,
            languages=[list(pair) for pair in languages.items()],
            answer=self._answer(text[:MOST_CHARACTERS], chosen),
        )

    def _answer(self, text: str, language: str) -> dict[str, Any]:
        if not text.strip():
            return _told("Type a sentence.")
        try:
            answer = self._translate(text, language)
        except ValueError as error:  # a text that the model cannot read, such as one that is too long
            return _told(f"This cannot be translated: {error}")
        return to_state(answer)

    @traitlets.validate("text")
    def _shorten_text(self, proposal: Any) -> str:
        return str(proposal["value"])[:MOST_CHARACTERS]

    @traitlets.validate("language")
    def _check_language(self, proposal: Any) -> str:
        codes = [code for code, _ in self.languages]
        if codes and proposal["value"] not in codes:
            raise traitlets.TraitError(f"language={proposal['value']!r}; expected one of {', '.join(codes)}")
        return str(proposal["value"])

    @traitlets.observe("text", "language")
    def _redraw(self, change: Any) -> None:
        if self.answer:
            self.answer = self._answer(self.text, self.language)

    def to_html(self) -> str:
        """Self-contained HTML, without a script: another sentence takes Python."""
        return static_table(self.text, dict(self.languages)[self.language], self.answer)

    def summary(self) -> str:
        """One line: the text and its translation."""
        return f"[translation explorer] {self.text!r} → {self.answer['written'] or self.answer['error']!r}"


def static_table(text: str, language: str, answer: Mapping[str, Any]) -> str:
    """Text, translation and weights as an HTML table with inline styles, which a sanitiser lets pass."""
    head = f'<div style="border:1px solid #8c8c8c;padding:3px 6px">{escape(text)}</div>'
    head += (
        f'<p style="font-size:17px">{escape(language)}: {escape(answer["written"] or answer["error"])}</p>'
    )
    columns = len(answer["source"])
    cells = "".join(
        f'<th style="padding:2px 8px">{"" if known else "? "}{escape(word)}</th>'
        for word, known in answer["source"]
    )
    rows = [f"<tr><th></th>{cells}</tr>"] if columns else []
    for row, word in enumerate(answer["target"]):
        weights = answer["weights"][row * columns : (row + 1) * columns]
        shades = "".join(_static_cell(weight) for weight in weights)
        rows.append(f'<tr><th style="padding:2px 8px;text-align:right">{escape(word)}</th>{shades}</tr>')
    table = f'<table style="border-collapse:collapse">{"".join(rows)}</table>'
    note = (
        "<p>Rows are the words written, columns those looked at. Run the cell to type another sentence.</p>"
    )
    return f'<div style="color:#1a1a1a;background-color:#ffffff">{head}{table}{note}</div>'


def _static_cell(weight: int) -> str:
    shade = 255 - round(0.2 * weight)
    colour = f"#{255 - round(0.205 * weight):02x}{shade:02x}ff" if weight < 600 else "#0072b2"
    ink = "#1a1a1a" if weight < 600 else "#ffffff"
    number = f"{weight / 1000:.2f}" if weight >= 5 else ""
    style = f"padding:2px 8px;text-align:center;background-color:{colour};color:{ink}"
    return f'<td style="{style}">{number}</td>'
