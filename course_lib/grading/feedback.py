"""A learner's feedback: one HTML page with their answers, the verdicts and the points.

The page stands alone: no script, no style sheet, picture or font from elsewhere, and a policy in it that
forbids them. It holds what the learner wrote and what `Mark.sentences` tells; hidden cases, seeds, paths
and other learners are not in its input, and staff's private findings are not read. Sign, word and border
say what colour says, so it reads the same in grey.
"""

from __future__ import annotations

import re
from html import escape

from .book import Entry, Row
from .exports import explanation

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52em; margin: 2em auto; padding: 0 1em;
  color: #212121; background: #fff; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin: 2em 0 .4em; }
pre { font: 13px/1.45 ui-monospace, monospace; background: #f5f5f5; border: 1px solid #bdbdbd;
  border-radius: 4px; padding: .7em .9em; overflow-x: auto; white-space: pre; }
table { border-collapse: collapse; } th, td { text-align: left; padding: .2em 1.2em .2em 0; }
td.points { text-align: right; }
.card { border: 1px solid #bdbdbd; border-left: 6px solid #757575; border-radius: 4px;
  padding: .5em .9em; margin: .5em 0; }
.card p { margin: .25em 0; }
.passed { border-left: 6px solid #1b7f5c; } .failed, .timeout { border-left: 6px double #c4540a; }
.not-started { border-left: 6px dotted #757575; } .ungraded { border-left: 6px dashed #3b6fb6; }
@media print { body { margin: 0; max-width: none; } pre { white-space: pre-wrap; } }
"""
_LOOKS = {
    "passed": ("✓", "Passed"),
    "failed": ("✗", "Not yet"),
    "timeout": ("✗", "Stopped"),
    "not started": ("○", "Not started"),
    "ungraded": ("?", "Not graded yet"),
}
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_EMPHASIS = re.compile(r"\*([^*\s](?:[^*]*[^*\s])?)\*")
# What turns the direction of text or hides it: shown as a mark, so that a page reads as it is.
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]")


def page(row: Row) -> str:
    """The learner's page for one submission, as the text of a UTF-8 file."""
    cards = "\n".join(_section(row, entry) for entry in row.entries)
    problem = f'<div class="card ungraded"><p>{_prose(row.problem)}</p></div>' if row.problem else ""
    title = escaped(f"{row.assignment}: feedback")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{title}</h1>\n{_head(row)}\n{problem}\n{_table(row)}\n{cards}\n</body>\n</html>\n"
    )


def _head(row: Row) -> str:
    received = f", received {row.received[:16].replace('T', ' ')} UTC" if row.received else ""
    late = " <strong>(late)</strong>" if row.late else ""
    return f"<p>{escaped(row.learner)}{escape(received)}{late}</p>"


def _table(row: Row) -> str:
    if not row.entries:
        return "<p>Nothing of this submission has been graded yet.</p>"
    head = '<tr><th scope="col">Exercise</th><th scope="col">Verdict</th><th scope="col">Points</th></tr>'
    lines = [
        f"<tr><td>{escaped(entry.mark.title)}</td><td>{' '.join(_LOOKS[_look(entry)])}</td>"
        f'<td class="points">{_points(entry.earned, entry.mark.points)}</td></tr>'
        for entry in row.entries
    ]
    total = (
        f'<tr><th scope="row">All</th><td></td><td class="points">{_points(row.earned, row.points)}</td></tr>'
    )
    return f"<table>{head}{''.join(lines)}{total}</table>"


def _section(row: Row, entry: Entry) -> str:
    look = _look(entry)
    sign, word = _LOOKS[look]
    lines = explanation(entry).split("\n")
    note = row.notes.get(entry.mark.grade_id)
    lines += [note] if note else []
    told = "".join(f"<p>{_prose(line)}</p>" for line in lines)
    points = _points(entry.earned, entry.mark.points)
    source = row.answers.get(entry.mark.grade_id)
    code = f"<pre><code>{escaped(source)}</code></pre>" if source else "<p>No answer was found.</p>"
    verdict = f"<p><strong>{sign} {word} · {points}</strong></p>"
    return (
        f"<h2>{escaped(entry.mark.title)}</h2>\n{code}\n"
        f'<div class="card {look.replace(" ", "-")}">{verdict}{told}</div>'
    )


def _look(entry: Entry) -> str:
    """How the points that count look: a decision of staff goes before the machine's."""
    if entry.override is None:
        return entry.mark.status
    return "passed" if entry.override.points >= entry.mark.points else "failed"


def _points(earned: float | None, points: int) -> str:
    return f"no mark yet, of {points} points" if earned is None else f"{earned:g} of {points} points"


def escaped(text: str) -> str:
    """Escaped, and with nothing in it that hides or turns other text."""
    plain = text.replace("\r\n", "\n").encode("utf-8", "replace").decode("utf-8")
    return escape(_INVISIBLE.sub("\ufffd", plain))


def _prose(text: str) -> str:
    """Escaped text, with `code` in backticks set as code and *words* between stars emphasised."""
    return "".join(
        f"<code>{part}</code>" if index % 2 else _EMPHASIS.sub(r"<em>\1</em>", part)
        for index, part in enumerate(escaped(text).split("`"))
    )
