"""Two pictures of how data flows: boxes with shapes and arrows, and a grid of cells of a few kinds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Patch, Rectangle

from course_lib.viz.arrays import as_array, check_labels
from course_lib.viz.style import HEIGHT, PALETTE, WIDTH, Picture, figure, in_course_style
from course_lib.viz.text import axis_label

_ARROW = {"arrowstyle": "-|>", "color": "#404040", "shrinkA": 0, "shrinkB": 0, "lw": 1.1}
_FILLS = ("#0072B2", "#E69F00", "#cfe3f1", "#f0f0f0")
_MARKS = ("", "////", "..", "")
_BOX_WIDTH, _BOX_HEIGHT = 0.74, 0.62


@dataclass(frozen=True)
class Box:
    """A box of a flow chart: what is done, and the shape that leaves it, as text. strong: drawn darker."""

    title: str
    shape: str = ""
    strong: bool = False


Place = tuple[int, int]


@in_course_style
def flow_chart(
    columns: Sequence[Sequence[Box | None]],
    links: Sequence[tuple[Place, Place]] = (),
    *,
    alt: str,
    headings: Sequence[str] = (),
    width: float = WIDTH,
    height: float = 4.2,
) -> Picture:
    """Columns of boxes, read from the bottom up, each box with an arrow to the one above it.

    columns: boxes from the bottom; None leaves a place free, and the arrow passes through it. links:
    further arrows, from (column, row) to (column, row). headings: one below each column, or none.
    """
    if not columns or not any(columns):
        raise ValueError("columns is empty; expected at least one column with a box")
    drawing, axes = figure(width=width, height=height)
    for column, boxes in enumerate(columns):
        _draw_column(axes, column, boxes)
    for start, end in links:
        _draw_link(axes, columns, start, end)
    for column, heading in enumerate(headings):
        axes.text(column, -0.75, heading, ha="center", va="center", fontsize=9, weight="bold")
    rows = max(len(boxes) for boxes in columns)
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(-1.0 if headings else -0.5, rows - 0.5))
    axes.axis("off")
    return Picture(drawing, alt)


def _draw_column(axes: Axes, column: int, boxes: Sequence[Box | None]) -> None:
    below: int | None = None
    for row, box in enumerate(boxes):
        if box is None:
            continue
        corner = (column - _BOX_WIDTH / 2, row - _BOX_HEIGHT / 2)
        fill = "#cfe3f1" if box.strong else "#f5f5f5"
        style: dict[str, Any] = {"boxstyle": "round,pad=0,rounding_size=0.05", "facecolor": fill}
        axes.add_patch(FancyBboxPatch(corner, _BOX_WIDTH, _BOX_HEIGHT, edgecolor="#404040", lw=0.9, **style))
        axes.text(column, row + (0.13 if box.shape else 0), box.title, ha="center", va="center", fontsize=8)
        if box.shape:
            axes.text(column, row - 0.16, box.shape, ha="center", va="center", fontsize=7.5, color="#0b4f7a")
        if below is not None:
            ends = (column, row - _BOX_HEIGHT / 2), (column, below + _BOX_HEIGHT / 2)
            axes.annotate("", *ends, arrowprops=_ARROW)
        below = row


def _draw_link(axes: Axes, columns: Sequence[Sequence[Box | None]], start: Place, end: Place) -> None:
    for column, row in (start, end):
        if not (0 <= column < len(columns) and 0 <= row < len(columns[column]) and columns[column][row]):
            raise ValueError(f"a link names place {(column, row)}, where there is no box")
    side = _BOX_WIDTH / 2 * (1 if end[0] > start[0] else -1)
    (x0, y0), (x1, y1) = (start[0] + side, start[1]), (end[0] - side, end[1])
    middle = (x0 + x1) / 2
    axes.plot([x0, middle, middle], [y0, y0, y1], color="#404040", lw=1.1, linestyle="-")
    axes.annotate("", (x1, y1), (middle, y1), arrowprops=_ARROW)


@in_course_style
def kinds_grid(
    cells: Any,
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    kinds: Sequence[str],
    *,
    alt: str,
    row_axis: str,
    column_axis: str,
    title: str | None = None,
    width: float = WIDTH,
    height: float = HEIGHT,
) -> Picture:
    """A grid of cells, each of one kind: cells (rows, columns) hold an index into kinds, or -1 for none.

    Kinds differ in colour, in lightness and in hatch; there may be up to four.
    """
    values = as_array(cells, "cells", (2,))
    rows = check_labels(row_labels, values.shape[0], "row_labels", "the grid's first axis")
    columns = check_labels(column_labels, values.shape[1], "column_labels", "the grid's second axis")
    if not 1 <= len(kinds) <= len(_FILLS):
        raise ValueError(f"there are {len(kinds)} kinds; expected 1 to {len(_FILLS)}")
    if not np.isin(values, range(-1, len(kinds))).all():
        raise ValueError(f"cells holds other numbers than -1 to {len(kinds) - 1}, the kinds' indices")
    drawing, axes = figure(width=width, height=height)
    for (row, column), kind in np.ndenumerate(values.astype(int)):
        look: dict[str, Any] = {"facecolor": "white", "edgecolor": "#d9d9d9", "lw": 0.5}
        if kind >= 0:
            look = {"facecolor": _FILLS[kind], "hatch": _MARKS[kind], "edgecolor": "white", "lw": 0.5}
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **look))
    axes.set_xticks(range(len(columns)), [axis_label(text) for text in columns])
    axes.set_yticks(range(len(rows)), [axis_label(text) for text in rows])
    axes.grid(False)
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    axes.set(xlabel=column_axis, ylabel=row_axis, title=title or "")
    keys = [
        Patch(facecolor=_FILLS[i], hatch=_MARKS[i], edgecolor="white", label=name)
        for i, name in enumerate(kinds)
    ]
    drawing.legend(handles=keys, loc="outside right center", fontsize=8, labelcolor=PALETTE[2])
    return Picture(drawing, alt)
