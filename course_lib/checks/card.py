"""A verdict, a hint or the progress as a compact card: HTML for notebooks, text for everything else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from .engine import Verdict
from .journal import ChapterRow, Hint
from .messages import sentence

_STYLE = (
    "font-family:var(--jp-ui-font-family,system-ui,sans-serif);font-size:14px;line-height:1.45;"
    "max-width:46em;margin:4px 0;padding:8px 12px;border:1px solid var(--jp-border-color1,#bdbdbd);"
    "border-left:6px {line} {colour};border-radius:4px;color:var(--jp-ui-font-color1,#212121);"
    "background:var(--jp-layout-color1,#fff)"
)
# Colour, border style and sign say the same thing, so that grey print and any eye can read it.
_LOOKS = {
    "passed": ("#1b7f5c", "solid", "✓", "Passed"),
    "failed": ("#c4540a", "double", "✗", "Not yet"),
    "timeout": ("#c4540a", "double", "✗", "Stopped"),
    "not started": ("#757575", "dotted", "○", "Not started"),
}


_EMPHASIS = re.compile(r"\*([^*\s](?:[^*]*[^*\s])?)\*")


@dataclass(frozen=True)
class Card:
    """Something shown in a notebook, with a plain text of the same content."""

    html: str
    text: str

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/html": self.html, "text/plain": self.text}

    def __repr__(self) -> str:
        return self.text


def verdict_card(verdict: Verdict, hints_left: int, hints_total: int) -> Card:
    """The card that a check shows."""
    colour, line, sign, word = _LOOKS[verdict.status]
    head = f"{sign} {word}: {verdict.title} · {verdict.earned}/{verdict.points} points"
    lines = [*verdict.sentences(), *verdict.notes]
    if not verdict.passed:
        key = "hint" if hints_left else "no_hint" if _solutions_are_here() else "no_hint_nor_solution"
        lines.append(sentence(key, id=verdict.exercise, left=hints_left, total=hints_total))
    style = _STYLE.format(colour=colour, line=line)
    body = "".join(f'<div style="margin-top:4px">{_prose(text)}</div>' for text in lines)
    html = (
        f'<div class="course-card" role="status" style="{style}"><strong>{escape(head)}</strong>{body}</div>'
    )
    return Card(html, "\n".join([head, *(f"  {text}" for text in lines)]))


def _solutions_are_here() -> bool:
    """A pack for learners has none."""
    return (Path(__file__).resolve().parents[2] / "solutions").is_dir()


def hint_card(exercise_id: str, hint: Hint) -> Card:
    """The card that a hint shows."""
    head = f"Hint {hint.number} of {hint.total} for {exercise_id}"
    if hint.number == hint.total:
        head += " (the last)"
    style = _STYLE.format(colour="#3b6fb6", line="dashed")
    html = f'<div class="course-card" style="{style}"><strong>{escape(head)}</strong>'
    return Card(
        f'{html}<div style="margin-top:4px">{_prose(hint.text)}</div></div>', f"{head}\n  {hint.text}"
    )


def progress_card(rows: Sequence[ChapterRow], notes: Sequence[str] = ()) -> Card:
    """The panel of all chapters: exercises passed, points, and a bar."""
    cells, lines = [], []
    for row in rows:
        share = row.points / row.of if row.of else 0.0
        cells.append(
            f"<tr><td>{escape(row.chapter)}</td><td>{row.passed} of {row.total}</td>"
            f"<td>{row.points} of {row.of}</td><td>{_bar(share)}</td></tr>"
        )
        lines.append(
            f"  {row.chapter:<28}{row.passed:>3} of {row.total:<4}{row.points:>4} of {row.of} points"
        )
    head = '<tr><th style="text-align:left">Chapter</th><th>Exercises</th><th>Points</th><th></th></tr>'
    style = _STYLE.format(colour="#3b6fb6", line="solid")
    said = "".join(f"<div>{_prose(note)}</div>" for note in notes)
    html = f'<div class="course-card" style="{style}"><strong>Your progress</strong>{said}<table>{head}'
    return Card(html + "".join(cells) + "</table></div>", "\n".join(["Your progress", *notes, *lines]))


def _bar(share: float) -> str:
    percent = round(100 * share)
    return (
        f'<div role="img" aria-label="{percent} percent" style="width:160px;height:12px;'
        f'border:1px solid var(--jp-border-color1,#bdbdbd);border-radius:3px">'
        f'<div style="width:{percent}%;height:100%;background:#3b6fb6"></div></div>'
    )


def _prose(text: str) -> str:
    """Escaped text, with `code` in backticks set as code and *words* between stars emphasised."""
    parts = escape(text, quote=False).split("`")
    return "".join(
        f"<code>{part}</code>" if index % 2 else _EMPHASIS.sub(r"<em>\1</em>", part)
        for index, part in enumerate(parts)
    )
