"""The other pictures of the course: bars, lines with error bands, words on a plane, distributions.

Arrays go in and a `Picture` comes out. Axis names, with their units, are required.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation

from course_lib.viz.arrays import FloatArray, as_array, check_labels
from course_lib.viz.style import (
    HATCHES,
    HEIGHT,
    LINE_STYLES,
    MARKERS,
    PALETTE,
    WIDTH,
    Picture,
    figure,
    in_course_style,
)
from course_lib.viz.text import axis_label, display_width

Series = Mapping[str, Any]
WordPoint = tuple[float, float]


def _check_series(series: Series, name: str) -> None:
    if not series:
        raise ValueError(f"{name} is empty; expected a dictionary from a name to its values")
    if len(series) > len(PALETTE):
        raise ValueError(
            f"{name} has {len(series)} entries; at most {len(PALETTE)} can be told apart in one picture"
        )


@in_course_style
def bars(
    series: Series,
    categories: Sequence[str],
    *,
    alt: str,
    category_axis: str,
    value_axis: str,
    title: str | None = None,
    digits: int | None = None,
    width: float = WIDTH,
    height: float = HEIGHT,
) -> Picture:
    """Grouped bars: `series` maps a name to `(categories,)`, or `(runs, categories)` for mean ± error.

    With `digits`, each bar carries its value. Groups differ in colour and in hatch.
    """
    _check_series(series, "series")
    drawing, axes = figure(width=width, height=height)
    names = check_labels(categories, len(categories), "categories", "categories")
    thickness = 0.8 / len(series)
    for index, (name, values) in enumerate(series.items()):
        mean, error = mean_and_error(as_array(values, f"series[{name!r}]", (1, 2)))
        check_labels(names, len(mean), "categories", f"series[{name!r}]")
        positions = np.arange(len(names)) + (index - (len(series) - 1) / 2) * thickness
        style: dict[str, Any] = {"color": PALETTE[index], "edgecolor": "white", "hatch": HATCHES[index]}
        drawn = axes.bar(positions, mean, thickness, label=name, yerr=error, capsize=2, **style)
        if digits is not None:
            axes.bar_label(drawn, fmt=f"%.{digits}f", fontsize=7, padding=1)
    axes.set_xticks(range(len(names)), [axis_label(name) for name in names])
    axes.grid(False, axis="x")
    _finish(axes, category_axis, value_axis, title, len(series) > 1)
    return Picture(drawing, alt)


def mean_and_error(values: FloatArray) -> tuple[FloatArray, FloatArray | None]:
    """Mean and standard error over the first axis of `(runs, points)`; `(points,)` has no error.

    The standard error is the sample deviation (divisor runs − 1) over √runs; one run has none.
    """
    if values.ndim == 1:
        return values, None
    runs = values.shape[0]
    if runs == 1:
        return values[0], None
    return values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(runs)


@in_course_style
def lines(
    x: Any,
    series: Series,
    *,
    alt: str,
    x_axis: str,
    y_axis: str,
    title: str | None = None,
    x_scale: str = "linear",
    y_scale: str = "linear",
    width: float = WIDTH,
    height: float = HEIGHT,
) -> Picture:
    """Lines over `x`: `series` maps a name to `(points,)`, or to `(runs, points)` for mean ± standard error.

    Lines differ in colour, dash and marker. Scales are matplotlib's: "linear", "log", "symlog".
    """
    _check_series(series, "series")
    positions = as_array(x, "x", (1,))
    drawing, axes = figure(width=width, height=height)
    for index, (name, values) in enumerate(series.items()):
        mean, error = mean_and_error(as_array(values, f"series[{name!r}]", (1, 2)))
        if len(mean) != len(positions):
            raise ValueError(f"series[{name!r}] has {len(mean)} points, but x has {len(positions)}")
        _draw_line(axes, positions, mean, error, name, index)
    axes.set(xscale=x_scale, yscale=y_scale)
    _finish(axes, x_axis, y_axis, title, len(series) > 1)
    return Picture(drawing, alt)


def _draw_line(
    axes: Axes, x: FloatArray, mean: FloatArray, error: FloatArray | None, name: str, index: int
) -> None:
    every = max(1, len(x) // 10)
    style: dict[str, Any] = {"color": PALETTE[index], "linestyle": LINE_STYLES[index]}
    axes.plot(x, mean, label=name, marker=MARKERS[index], markersize=4, markevery=every, **style)
    if error is not None:
        axes.fill_between(x, mean - error, mean + error, color=PALETTE[index], alpha=0.2, linewidth=0)


def _finish(axes: Axes, x_axis: str, y_axis: str, title: str | None, has_legend: bool) -> None:
    axes.set(xlabel=x_axis, ylabel=y_axis, title=title or "")
    if has_legend:
        axes.legend(fontsize=8)


def compare_distributions(
    distributions: Series,
    outcomes: Sequence[str],
    *,
    alt: str,
    outcome_axis: str,
    value_axis: str = "probability",
    title: str | None = None,
    digits: int | None = None,
    width: float = WIDTH,
    height: float = HEIGHT,
) -> Picture:
    """Probability distributions over the same outcomes, side by side; each must sum to 1 within 1e-3."""
    for name, values in distributions.items():
        array = as_array(values, f"distributions[{name!r}]", (1,))
        if array.min() < 0 or abs(array.sum() - 1) > 1e-3:
            raise ValueError(
                f"distributions[{name!r}] sums to {array.sum():.4f}, least value {array.min():.4f}; "
                "expected probabilities that sum to 1"
            )
    return bars(
        distributions,
        outcomes,
        alt=alt,
        category_axis=outcome_axis,
        value_axis=value_axis,
        title=title,
        digits=digits,
        width=width,
        height=height,
    )


@in_course_style
def scatter_words(
    points: Any,
    labels: Sequence[str],
    *,
    alt: str,
    x_axis: str,
    y_axis: str,
    groups: Sequence[str] | None = None,
    title: str | None = None,
    width: float = WIDTH,
    height: float = HEIGHT,
) -> Picture:
    """Words on a plane: `points` `(words, 2)` with one label each; `groups` gives each a marker and colour.

    Labels are moved around their points so that few of them overlap; the same points give the same picture.
    """
    places = as_array(points, "points", (2,))
    if places.shape[1] != 2:
        raise ValueError(f"points has shape {places.shape}; expected (words, 2): project to a plane first")
    names = check_labels(labels, len(places), "labels", "points")
    members = (
        check_labels(groups, len(places), "groups", "points") if groups is not None else [""] * len(places)
    )
    kinds = list(dict.fromkeys(members))
    _check_series(dict.fromkeys(kinds), "groups")
    drawing, axes = figure(width=width, height=height)
    for index, kind in enumerate(kinds):
        chosen = places[[member == kind for member in members]]
        axes.scatter(
            chosen[:, 0], chosen[:, 1], s=18, color=PALETTE[index], marker=MARKERS[index], label=kind
        )
    axes.margins(0.1)
    _finish(axes, x_axis, y_axis, title, len(kinds) > 1)
    drawing.draw_without_rendering()
    for name, place, offset in zip(names, places, place_labels(axes, places, names), strict=True):
        annotate(axes, axis_label(name), place, offset)
    return Picture(drawing, alt)


def annotate(axes: Axes, text: str, place: FloatArray, offset: tuple[float, float]) -> Annotation:
    """Write `text` beside a place, `offset` points away from it."""
    across = "left" if offset[0] > 0 else "right" if offset[0] < 0 else "center"
    upright = "bottom" if offset[1] > 0 else "top" if offset[1] < 0 else "center"
    return axes.annotate(
        text, place.tolist(), xytext=offset, textcoords="offset points", ha=across, va=upright, fontsize=8
    )


# Where a label may sit, in points from its word, the best first.
_OFFSETS: tuple[WordPoint, ...] = (
    (5, 0),
    (-5, 0),
    (0, 5),
    (0, -5),
    (4, 4),
    (-4, 4),
    (4, -4),
    (-4, -4),
    (0, 14),
    (0, -14),
    (12, 10),
    (-12, 10),
    (12, -10),
    (-12, -10),
)


def place_labels(axes: Axes, places: FloatArray, labels: Sequence[str]) -> list[WordPoint]:
    """For each label in turn the offset, in points, whose box overlaps least with what is already there."""
    scale = axes.get_figure(root=True).dpi / 72  # type: ignore[union-attr]
    anchors = axes.transData.transform(places)
    marks = np.column_stack([anchors - 3 * scale, anchors + 3 * scale])
    taken: list[FloatArray] = []
    chosen: list[WordPoint] = []
    for anchor, text in zip(anchors, labels, strict=True):
        size = np.array([4.6 * display_width(axis_label(text)), 9.0]) * scale
        boxes = [_box(anchor, np.array(offset) * scale, size) for offset in _OFFSETS]
        others = np.vstack([marks, *taken])
        best = min(range(len(boxes)), key=lambda index: (_overlap(boxes[index], others), index))
        taken.append(boxes[best])
        chosen.append(_OFFSETS[best])
    return chosen


def _box(anchor: FloatArray, offset: FloatArray, size: FloatArray) -> FloatArray:
    low = anchor + offset - size * (1 - np.sign(offset)) / 2
    return np.concatenate([low, low + size])


def _overlap(box: FloatArray, others: FloatArray) -> float:
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return float(np.clip(sides, 0, None).prod(axis=1).sum())
