"""Links that lead somewhere: every relative link of a notebook, in its text and in its outputs."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token
from nbformat import NotebookNode

from .outputs import html_elements, texts
from .source import describe

# What a learner's own copy of the course holds: a link that leaves it is dead there.
LEARNER_FOLDERS = ("notebooks", "exercises")
# In $E[x](t)$ there is no link. As in JupyterLab, a formula's dollars touch what they enclose.
_FORMULA = re.compile(r"(?<![\\$])(\${1,2})(?![\s$])[^$`]+?(?<![\s\\])\1(?![\d$])")


def link_problems(
    label: str, cells: Sequence[NotebookNode], root: Path, kind: str, planned: Collection[Path] = ()
) -> list[str]:
    """A sentence for every relative link that leads nowhere.

    label: the notebook's path from the root. kind: "lesson", "solution" or "exercise".
    planned: files that this build is about to write.
    """
    folder = (root / label).parent
    anchors = heading_anchors(cells)
    return [
        f"{label}: {describe(cell, number)} {what}"
        for number, cell in enumerate(cells, 1)
        for target in dict.fromkeys(cell_links(cell))
        if (what := _complaint(target, folder, root, kind, anchors, planned))
    ]


def cell_links(cell: NotebookNode) -> Iterator[str]:
    """The targets of all links and pictures of a cell: Markdown, HTML in Markdown, HTML in outputs."""
    if cell.cell_type == "markdown":
        for token in _tokens(_FORMULA.sub("", cell.source)):
            target = token.attrGet("href") or token.attrGet("src")
            if isinstance(target, str):
                yield target
            if token.type in ("html_block", "html_inline"):
                yield from html_links(token.content)
        return
    for output in cell.get("outputs", []):
        for mime, text in texts(output):
            if mime == "text/html":
                # Inside an output an anchor is the output's own affair.
                yield from (target for target in html_links(text) if not target.startswith("#"))


def html_links(html: str) -> Iterator[str]:
    """The href of every link and the src of every element."""
    for tag, attributes in html_elements(html):
        href = attributes.get("href") if tag in ("a", "area", "link") else None
        yield from (value for value in (href, attributes.get("src")) if value)


def heading_anchors(cells: Sequence[NotebookNode]) -> set[str]:
    """What `#anchor` may name in a notebook: headings, as JupyterLab and GitHub call them, and ids."""
    anchors: set[str] = set()
    for cell in cells:
        if cell.cell_type != "markdown":
            continue
        tokens = list(_tokens(cell.source))
        for before, token in pairwise(tokens):
            if before.type == "heading_open":
                anchors |= {jupyter_anchor(token.content), github_anchor(token.content)}
        elements = (
            element for token in tokens if "html" in token.type for element in html_elements(token.content)
        )
        anchors |= {
            str(attributes[name])
            for _, attributes in elements
            for name in ("id", "name")
            if name in attributes
        }
    return anchors


def pictures_without_alt(cell: NotebookNode) -> int:
    """How many pictures of a Markdown cell have no alternative text."""
    missing = 0
    for token in _tokens(cell.source):
        if token.type == "image":
            missing += not token.content.strip()
        elif "html" in token.type:
            elements = html_elements(token.content)
            missing += sum(tag == "img" and not attributes.get("alt") for tag, attributes in elements)
    return missing


def jupyter_anchor(heading: str) -> str:
    """The anchor that JupyterLab gives a heading: its text with hyphens for spaces."""
    return re.sub(r"\s+", "-", _plain(heading))


def github_anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading: lower case, punctuation dropped, hyphens for spaces."""
    return re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", _plain(heading).lower()))


def _plain(heading: str) -> str:
    return re.sub(r"[`*]|(?<!\w)_|_(?!\w)", "", heading).strip()


def _tokens(text: str) -> Iterator[Token]:
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        yield token
        yield from token.children or ()


def _complaint(
    target: str, folder: Path, root: Path, kind: str, anchors: Collection[str], planned: Collection[Path]
) -> str | None:
    parts = urlsplit(target)
    if parts.scheme or parts.netloc:
        return None
    if not parts.path:
        known = not parts.fragment or unquote(parts.fragment) in anchors
        return None if known else f"links to {target}, but no heading here is called so"
    if parts.path.startswith("/"):
        return f"links to {target}; a link inside the course is relative"
    path = Path(os.path.normpath(folder / unquote(parts.path)))
    if not path.exists() and path not in planned:
        return f"links to {target}, which is not there"
    if kind != "solution" and not any(path.is_relative_to(root / name) for name in LEARNER_FOLDERS):
        return f"links to {target}, which a learner's copy of the course does not hold"
    return None
