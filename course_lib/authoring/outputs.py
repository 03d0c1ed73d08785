"""What may stand in a committed output: the same bytes on every run, and nothing of this machine."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from .source import describe, tags

VOLATILE = "volatile"
COMPARED = "NBVAL_CHECK_OUTPUT"
_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]{6,}|\b0x[57][0-9a-f]{11}\b")
_WIDGET = "application/vnd.jupyter.widget-view+json"
_CELL_FILE = re.compile(r"(?:[A-Za-z]:)?[^\s\"'<>:]*ipykernel_\d+[/\\]\d+\.py")
_CARRIAGE_RETURN = re.compile(r"[^\n]*\r(?=[^\n])")


def normalise(cells: Iterable[NotebookNode], root: Path) -> None:
    """Bring outputs to a form that does not depend on the run, in place.

    Execution counts are numbered from 1; streams between two other outputs are merged, stdout
    first; paths of this machine in tracebacks and warnings are shortened.
    """
    count = 0
    for cell in cells:
        if cell.cell_type != "code":
            continue
        ran = bool(cell.source.strip())
        count += ran
        cell.execution_count = count if ran else None
        cell.outputs = _merged(cell.outputs)
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count
            _shorten_paths(output, root)


def keep_volatile(cells: Iterable[NotebookNode], committed: Iterable[NotebookNode]) -> None:
    """Give cells tagged `volatile` the outputs they had, where their id and source are unchanged."""
    before = {cell.id: cell for cell in committed if cell.cell_type == "code" and "id" in cell}
    for cell in cells:
        old = before.get(cell.id)
        if VOLATILE in tags(cell) and old is not None and old.source == cell.source and is_complete([old]):
            cell.outputs = old.outputs


def is_complete(cells: Iterable[NotebookNode]) -> bool:
    """Whether every cell with code has been run."""
    code = [cell for cell in cells if cell.cell_type == "code" and cell.source.strip()]
    return all(cell.execution_count is not None for cell in code)


def output_problems(label: str, cells: Sequence[NotebookNode], root: Path) -> list[str]:
    """A sentence for everything in the outputs that may not be committed."""
    return [
        f"{label}: {describe(cell, number)} {what}"
        for number, cell in enumerate(cells, 1)
        if cell.cell_type == "code"
        for what in dict.fromkeys(_complaints(cell, root))
    ]


def changed_outputs(
    label: str, committed: Sequence[NotebookNode], fresh: Sequence[NotebookNode]
) -> list[str]:
    """A sentence for every cell with NBVAL_CHECK_OUTPUT whose fresh output is not the committed one.

    Pictures, metadata and tracebacks are not compared, as nbval does not.
    """
    before = {cell.id: cell for cell in committed if "id" in cell}
    return [
        f"{label}: {describe(cell, number)} no longer gives the committed output; run `course build`"
        for number, cell in enumerate(fresh, 1)
        if cell.cell_type == "code" and COMPARED in cell.source and cell.id in before
        if _comparable(cell) != _comparable(before[cell.id])
    ]


def texts(output: NotebookNode) -> Iterator[tuple[str, str]]:
    """(MIME type, text) of everything readable in an output."""
    if output.output_type == "stream":
        yield "text/plain", output.text
    elif output.output_type == "error":
        yield "text/plain", "\n".join([output.evalue, *output.traceback])
    else:
        for mime, value in output.data.items():
            if isinstance(value, str) and not mime.startswith("image/p") and mime != "image/jpeg":
                yield mime, value


class _Tags(HTMLParser):
    """Collects the elements of a piece of HTML with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def html_elements(html: str) -> list[tuple[str, dict[str, str | None]]]:
    """(name, attributes) of every element, in order."""
    return _Tags(html).found


def _merged(outputs: Sequence[NotebookNode]) -> list[NotebookNode]:
    result: list[NotebookNode] = []
    streams: dict[str, NotebookNode] = {}
    for output in outputs:
        if output.output_type != "stream":
            result.extend(_in_order(streams))
            streams = {}
            result.append(output)
        elif output.name in streams:
            streams[output.name].text += output.text
        else:
            streams[output.name] = output
    return [*result, *_in_order(streams)]


def _in_order(streams: dict[str, NotebookNode]) -> list[NotebookNode]:
    # The two streams arrive independently, so only a fixed order is the same on every run.
    present = [streams[name] for name in ("stdout", "stderr") if name in streams]
    for stream in present:
        stream.text = _CARRIAGE_RETURN.sub("", stream.text)
    return [stream for stream in present if stream.text]


def _shorten_paths(output: NotebookNode, root: Path) -> None:
    if output.output_type == "stream" and output.name == "stderr":
        output.text = _shortened(output.text, root)
    elif output.output_type == "error":
        output.evalue = _shortened(output.evalue, root)
        output.traceback = [_shortened(line, root) for line in output.traceback]


def _shortened(text: str, root: Path) -> str:
    text = _CELL_FILE.sub("<cell>", text)
    for pattern, name in _machine_paths(root):
        text = pattern.sub(name, text)
    return text


@lru_cache
def _machine_paths(root: Path) -> tuple[tuple[re.Pattern[str], str], ...]:
    """Patterns of the folders that only this machine has, the longest first, and short names for them."""
    folders = {str(root.resolve()): "<course>", sys.prefix: "<python>", str(Path.home()): "~"}
    named = sorted(folders.items(), key=lambda item: -len(item[0]))
    return tuple(
        (re.compile(r"(?<![\w/.~])" + re.escape(folder) + r"(?![\w.-])"), name)
        for folder, name in named
        if len(Path(folder).parts) > 1
    )


def _complaints(cell: NotebookNode, root: Path) -> Iterator[str]:
    for output in cell.outputs:
        for mime, text in texts(output):
            if _ADDRESS.search(text):
                yield "shows the address of an object, which differs on every run; print something else"
            if any(pattern.search(text) for pattern, _ in _machine_paths(root)):
                yield "shows a path of this machine; print a relative path or a name"
            if mime == "text/html" and any(_lacks_alt(*element) for element in html_elements(text)):
                yield "shows a picture without alternative text; give every <img> an alt"
        if _WIDGET in output.get("data", {}):
            yield "shows a live widget, whose id differs on every run; show it still when COURSE_BUILD is set"
        if output.output_type in ("display_data", "execute_result") and _picture_without_alt(output):
            yield "shows a picture without alternative text; use show(figure, alt=...)"


def _lacks_alt(tag: str, attributes: dict[str, str | None]) -> bool:
    return tag == "img" and not (attributes.get("alt") or "").strip()


def _picture_without_alt(output: NotebookNode) -> bool:
    pictures = [mime for mime in output.data if mime.startswith("image/")]
    if not pictures:
        return False
    described = any(output.metadata.get(mime, {}).get("alt") for mime in pictures) or output.metadata.get(
        "alt"
    )
    html = output.data.get("text/html", "")
    in_html = any(tag == "img" and not _lacks_alt(tag, attributes) for tag, attributes in html_elements(html))
    svg = output.data.get("image/svg+xml", "")
    in_svg = any(tag == "title" or attributes.get("aria-label") for tag, attributes in html_elements(svg))
    return not (described or in_html or in_svg)


def _comparable(cell: NotebookNode) -> list[tuple[str, Any]]:
    parts: list[tuple[str, Any]] = []
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            parts.append((output.name, output.text))
        elif output.output_type == "error":
            parts.append(("error", (output.ename, output.evalue)))
        else:
            parts.extend(
                (m, v) for m, v in sorted(output.data.items()) if m not in ("image/png", "image/jpeg")
            )
    return parts
