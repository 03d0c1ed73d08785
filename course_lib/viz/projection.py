"""Words on a plane: principal components by hand, and a map of words to search and hover.

Axes: n words, d width of a vector, k neighbours of a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import traitlets

from course_lib.viz.arrays import FloatArray, as_array, check_labels
from course_lib.viz.embedding import Explorer, page, read_static
from course_lib.viz.plots import annotate, place_labels
from course_lib.viz.style import MARKERS, PALETTE, Picture, figure, in_course_style
from course_lib.viz.text import axis_label, visible

MOST_WORDS = 2_000
_MOST_LABELS = 14


@dataclass(frozen=True)
class Projection:
    """points: (n, count). directions: (count, d), of length 1. shares: (count,), of the variance."""

    points: FloatArray
    directions: FloatArray
    shares: FloatArray


def principal_components(vectors: Any, count: int = 2) -> Projection:
    """The `count` directions in which centred vectors (n, d) vary most, and the vectors along them.

    The largest entry of each direction is positive, so that equal vectors always give an equal picture.
    Raises ValueError where there are fewer vectors or entries than directions asked for.
    """
    array = as_array(vectors, "vectors (n, d)", (2,))
    if not 1 <= count <= min(array.shape):
        raise ValueError(
            f"count={count}; {array.shape[0]} vectors of width {array.shape[1]} have 1 to {min(array.shape)}"
        )
    centred = array - array.mean(axis=0)
    _, spread, directions = np.linalg.svd(centred, full_matrices=False)
    largest = np.abs(directions).argmax(axis=1)
    directions = directions * np.sign(directions[np.arange(len(directions)), largest])[:, None]
    shares = spread**2 / max(float((spread**2).sum()), 1e-300)
    return Projection(centred @ directions[:count].T, directions[:count], shares[:count])


def nearest_words(vectors: FloatArray, count: int) -> tuple[np.ndarray, FloatArray]:
    """For each vector the `count` others with the largest cosine, and the cosines: (n, k) twice."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.maximum(lengths, 1e-12)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
    return order, np.take_along_axis(cosines, order, axis=1)


class WordMap(Explorer):
    """A map of words: hover one to see its nearest words, or search for it.

    vectors: (n, d), one for each word; their first two principal components are the plane, unless `points`
    (n, 2) are given. The nearest words are those with the largest cosine in all d directions. groups: a name
    for each word; it gets a colour and a marker. `search` and `word` can be set from Python.
    """

    _esm = read_static("projection.js")
    _css = read_static("projection.css")

    words = traitlets.List(traitlets.Unicode()).tag(sync=True)
    # Places in thousandths of the picture, across and down, flat.
    places = traitlets.List(traitlets.Int()).tag(sync=True)
    groups = traitlets.List(traitlets.Int()).tag(sync=True)
    group_names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    # Per word the numbers of its neighbours, and their cosines in thousandths, flat.
    neighbours = traitlets.List(traitlets.Int()).tag(sync=True)
    cosines = traitlets.List(traitlets.Int()).tag(sync=True)
    axes = traitlets.List(traitlets.Unicode()).tag(sync=True)
    search = traitlets.Unicode("").tag(sync=True)
    word = traitlets.Int(-1).tag(sync=True)
    pinned = traitlets.Bool(False).tag(sync=True)

    def __init__(
        self,
        words: Sequence[str],
        vectors: Any,
        groups: Sequence[str] | None = None,
        *,
        alt: str,
        points: Any = None,
        labels: Sequence[str] = (),
        neighbours: int = 8,
        word: str | None = None,
    ) -> None:
        array = as_array(vectors, "vectors (n, d)", (2,))
        names = check_labels(words, len(array), "words", "vectors")
        if len(names) > MOST_WORDS:
            raise ValueError(f"{len(names):,} words; at most {MOST_WORDS:,} can be explored. Choose fewer.")
        if len(names) < 2:
            raise ValueError("a map needs two words at least")
        members = (
            [""] * len(names) if groups is None else check_labels(groups, len(names), "groups", "vectors")
        )
        kinds = list(dict.fromkeys(members))
        if len(kinds) > len(PALETTE):
            raise ValueError(f"{len(kinds)} groups; at most {len(PALETTE)} can be told apart in one picture")
        unknown = [name for name in (*labels, *([word] if word else [])) if name not in names]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is not among the words of this map")
        plane, axes = _plane(array, points)
        order, cosines = nearest_words(array, min(neighbours, len(names) - 1))
        self._picture = _draw(plane, names, members, axes, list(labels)[:_MOST_LABELS], alt)
        chosen = -1 if word is None else names.index(word)
        super().__init__(
            words=[visible(name) for name in names],
            places=_thousandths(plane).ravel().tolist(),
            groups=[kinds.index(member) for member in members],
            group_names=kinds,
            neighbours=order.ravel().tolist(),
            cosines=np.rint(1000 * cosines).astype(int).ravel().tolist(),
            axes=axes,
            word=chosen,
            pinned=chosen >= 0,
        )

    def state(self) -> dict[str, Any]:
        """What the page needs to draw the map: the data, and where the reader is."""
        names = ("words", "places", "groups", "group_names", "neighbours", "cosines", "axes")
        return {name: getattr(self, name) for name in (*names, "search", "word", "pinned")}

    def to_html(self) -> str:
        """Self-contained HTML: a picture that needs no script, replaced by the map where scripts run."""
        note = "<p>Run the cell to search and hover the words.</p>"
        return page(f"<div>{self._picture.to_html()}{note}</div>", self._esm, self._css, self.state())

    def summary(self) -> str:
        """One line: how many words, and what the picture shows."""
        return f"[word map] {len(self.words)} words: {self._picture.alt}"


def _plane(vectors: FloatArray, points: Any) -> tuple[FloatArray, list[str]]:
    """Points (n, 2), and the names of the two axes."""
    if points is None:
        found = principal_components(vectors)
        names = ["first", "second"]
        shares = zip(names, found.shares, strict=True)
        return found.points, [
            f"{name} principal direction, {share:.0%} of the variance" for name, share in shares
        ]
    given = as_array(points, "points (n, 2)", (2,))
    if given.shape != (len(vectors), 2):
        raise ValueError(f"points has shape {given.shape}; expected ({len(vectors)}, 2)")
    return given, ["first direction", "second direction"]


def _thousandths(plane: FloatArray) -> np.ndarray:
    """Across and down, both from 0 to 1000, with the larger extent filling it and the other in proportion."""
    low, high = plane.min(axis=0), plane.max(axis=0)
    extent = np.maximum(high - low, 1e-12)
    scaled = (plane - low) / extent
    scaled[:, 1] = 1 - scaled[:, 1]
    return np.rint(1000 * scaled).astype(int)


@in_course_style
def _draw(
    plane: FloatArray, words: list[str], groups: list[str], axes: list[str], labels: list[str], alt: str
) -> Picture:
    """The map without a script: points by group, a few of them labelled."""
    drawing, panel = figure(height=4.0)
    kinds = list(dict.fromkeys(groups))
    handles = []
    for index, kind in enumerate(kinds):
        chosen = plane[[group == kind for group in groups]]
        across, up = chosen.T
        dots = panel.scatter(across, up, s=10, color=PALETTE[index], marker=MARKERS[index], alpha=0.7)
        handles.append(dots)
    panel.set(xlabel=axes[0], ylabel=axes[1])
    panel.margins(0.06)
    if len(kinds) > 1:
        # Left to find the names itself, matplotlib skips those with a leading "_".
        drawing.legend(handles, kinds, fontsize=8, loc="outside right upper")
    drawing.draw_without_rendering()
    marked = plane[[words.index(label) for label in labels]].reshape(-1, 2)
    for label, place, offset in zip(labels, marked, place_labels(panel, marked, labels), strict=True):
        annotate(panel, axis_label(label), place, offset)
    return Picture(drawing, alt)
