"""A matrix as a picture: lightness for the value, its number where there is room, hatch for masked cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from course_lib.viz.arrays import BoolArray, FloatArray, as_array, as_mask, check_labels
from course_lib.viz.style import HEIGHT, WIDTH, Picture, figure, in_course_style
from course_lib.viz.text import axis_label, display_width

_NUMBERS_UP_TO_COLUMNS = 14
_NUMBERS_UP_TO_ROWS = 12


@in_course_style
def heatmap(
    matrix: Any,
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    *,
    alt: str,
    row_axis: str,
    column_axis: str,
    value_axis: str,
    mask: Any = None,
    diverging: bool = False,
    limits: tuple[float, float] | None = None,
    title: str | None = None,
    digits: int = 2,
    width: float = WIDTH,
    height: float = HEIGHT,
) -> Picture:
    """A picture of a matrix `(rows, columns)`; `row_axis`, `column_axis`, `value_axis` name axes and units.

    `mask` is boolean, `True` = may attend; blocked cells are hatched and carry no number. `diverging` is
    for signed values: the colours are symmetric about zero. `limits` fixes the ends of the colour scale.
    """
    values = as_array(matrix, "matrix", (2,))
    rows = check_labels(row_labels, values.shape[0], "row_labels", "the matrix's first axis")
    columns = check_labels(column_labels, values.shape[1], "column_labels", "the matrix's second axis")
    allowed = as_mask(np.True_ if mask is None else mask, "mask", values.shape)
    low, high = limits or _limits(values[allowed], diverging)
    drawing, axes = figure(width=width, height=height)
    shown = np.where(allowed, values, np.nan)
    colours = "PuOr" if diverging else "Blues"
    image = axes.imshow(shown, cmap=colours, vmin=low, vmax=high, aspect="auto", interpolation="nearest")
    _label_axes(axes, rows, columns)
    axes.set(xlabel=column_axis, ylabel=row_axis, title=title or "")
    _hatch(axes, allowed)
    if values.shape[0] <= _NUMBERS_UP_TO_ROWS and values.shape[1] <= _NUMBERS_UP_TO_COLUMNS:
        _write_numbers(axes, image, values, allowed, digits)
    _colour_bar(drawing, image, axes, value_axis)
    return Picture(drawing, alt)


def _limits(values: FloatArray, diverging: bool) -> tuple[float, float]:
    if values.size == 0:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    if diverging:
        reach = max(abs(low), abs(high)) or 1.0
        return -reach, reach
    low = min(low, 0.0)
    return low, high if high > low else low + 1.0


def _label_axes(axes: Axes, rows: list[str], columns: list[str]) -> None:
    axes.grid(False)
    wide = any(display_width(axis_label(text)) > 3 for text in columns) and len(columns) > 6
    axes.set_xticks(range(len(columns)), [axis_label(text) for text in columns], rotation=45 if wide else 0)
    if wide:
        for tick in axes.get_xticklabels():
            tick.set(horizontalalignment="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), [axis_label(text) for text in rows])
    axes.tick_params(length=0, labelsize=7 if max(len(rows), len(columns)) > 16 else 9)
    axes.spines[:].set_visible(False)


def _hatch(axes: Axes, allowed: BoolArray) -> None:
    for row, column in np.argwhere(~allowed):
        corner = (float(column) - 0.5, float(row) - 0.5)
        axes.add_patch(
            Rectangle(corner, 1, 1, facecolor="white", edgecolor="#8c8c8c", hatch="////", linewidth=0)
        )


def _write_numbers(axes: Axes, image: AxesImage, values: FloatArray, allowed: BoolArray, digits: int) -> None:
    shades = image.to_rgba(values)[..., :3] @ np.array([0.299, 0.587, 0.114])
    for row, column in np.argwhere(allowed):
        text = f"{values[row, column]:z.{digits}f}".replace("-", "\N{MINUS SIGN}")
        colour = "black" if shades[row, column] > 0.55 else "white"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)


def _colour_bar(drawing: Figure, image: AxesImage, axes: Axes, value_axis: str) -> None:
    bar = drawing.colorbar(image, ax=axes, pad=0.02)
    bar.set_label(value_axis)
    bar.outline.set_visible(False)  # type: ignore[operator]
