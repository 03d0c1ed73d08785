"""Angles as hands: a row of clock faces, each with a hand or more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Circle

from course_lib.viz.arrays import FloatArray, as_array, check_labels
from course_lib.viz.style import PALETTE, WIDTH, Picture, in_course_style, panels

_MOST_FACES = 8
_ARROW = {"arrowstyle": "-|>", "mutation_scale": 9, "shrinkA": 0, "shrinkB": 0}
_WIDTHS, _DASHES = (2.4, 1.5, 1.5), ("-", (0, (3, 1.5)), (0, (1, 1)))


@in_course_style
def clocks(
    hands: Mapping[str, Any],
    faces: Sequence[str],
    *,
    alt: str,
    title: str | None = None,
    width: float = WIDTH,
    height: float = 2.4,
) -> Picture:
    """Clock faces side by side: `hands` maps a name to `(faces,)` angles in radians.

    As in mathematics, an angle of 0 points to the right, and a growing one turns against the clock's way.
    Hands differ in colour, width and dash. Raises ValueError for more than 8 faces or 3 hands, or for none.
    """
    if not 1 <= len(hands) <= len(_WIDTHS):
        raise ValueError(f"there are {len(hands)} hands; expected 1 to {len(_WIDTHS)}")
    angles = {name: as_array(given, f"hands[{name!r}]", (1,)) for name, given in hands.items()}
    for name, given in angles.items():
        check_labels(faces, len(given), "faces", f"hands[{name!r}]")
    if not 1 <= len(faces) <= _MOST_FACES:
        raise ValueError(f"there are {len(faces)} faces; expected 1 to {_MOST_FACES}")
    drawing, places = panels(len(faces), width=width, height=height)
    for index, (axes, face) in enumerate(zip(places, faces, strict=True)):
        _draw_face(axes, face, {name: float(given[index]) for name, given in angles.items()})
    handles = [
        places[0].plot([], [], color=PALETTE[i], lw=_WIDTHS[i], ls=_DASHES[i])[0] for i in range(len(angles))
    ]
    drawing.legend(handles, list(angles), loc="outside lower center", ncols=len(angles), fontsize=8)
    drawing.suptitle(title or "", fontsize=10)
    return Picture(drawing, alt)


def _draw_face(axes: Axes, name: str, hands: Mapping[str, float]) -> None:
    axes.add_patch(Circle((0, 0), 1, facecolor="#f5f5f5", edgecolor="#8c8c8c", linewidth=1))
    for place in np.arange(12) * np.pi / 6:
        inner, outer = 0.9 * _end(place), _end(place)
        axes.plot([inner[0], outer[0]], [inner[1], outer[1]], color="#8c8c8c", linewidth=0.8, linestyle="-")
    for index, angle in enumerate(hands.values()):
        style = {**_ARROW, "color": PALETTE[index], "lw": _WIDTHS[index], "ls": _DASHES[index]}
        axes.annotate("", tuple(0.84 * _end(angle)), (0, 0), arrowprops=style)
    axes.set(xlim=(-1.08, 1.08), ylim=(-1.08, 1.08), aspect="equal")
    axes.set_title(name, fontsize=8)
    axes.axis("off")


def _end(angle: float) -> FloatArray:
    return np.array([np.cos(angle), np.sin(angle)])
