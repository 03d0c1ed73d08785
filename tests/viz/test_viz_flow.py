"""Flow charts and grids of kinds. Oracle: what stands on the axes."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.patches import FancyBboxPatch, Rectangle

from course_lib.viz.flow import Box, flow_chart, kinds_grid

ALT = "A chart for the tests, with boxes and arrows."


def texts(picture: object) -> list[str]:
    return [text.get_text() for text in picture.figure.axes[0].texts]  # type: ignore[attr-defined]


def test_every_box_is_drawn_with_its_shape_and_an_arrow_to_the_next() -> None:
    columns: list[list[Box | None]] = [
        [Box("embed", "(2, 5, 8)"), None, Box("encoder")],
        [Box("embed"), Box("decoder", strong=True)],
    ]
    picture = flow_chart(columns, [((0, 2), (1, 1))], alt=ALT, headings=("source", "target"))
    axes = picture.figure.axes[0]
    assert sum(isinstance(patch, FancyBboxPatch) for patch in axes.patches) == 4
    found = texts(picture)
    assert [text for text in found if text] == [
        "embed",
        "(2, 5, 8)",
        "encoder",
        "embed",
        "decoder",
        "source",
        "target",
    ]
    assert found.count("") == 3, "arrows: one in each column, and the link's"
    assert (
        picture.to_png()
        == flow_chart(columns, [((0, 2), (1, 1))], alt=ALT, headings=("source", "target")).to_png()
    )


def test_mistakes_in_a_chart_are_named() -> None:
    with pytest.raises(ValueError, match=r"place \(0, 1\), where there is no box"):
        flow_chart([(Box("a"), None), (Box("b"),)], [((0, 1), (1, 0))], alt=ALT)
    with pytest.raises(ValueError, match="at least one column"):
        flow_chart([], alt=ALT)


def test_cells_have_the_look_of_their_kind() -> None:
    picture = kinds_grid(
        np.array([[0, -1], [1, 0]]),
        ["a", "b"],
        ["x", "y"],
        ["new", "again"],
        alt=ALT,
        row_axis="r",
        column_axis="c",
    )
    cells = [patch for patch in picture.figure.axes[0].patches if isinstance(patch, Rectangle)]
    colours = [cell.get_facecolor() for cell in cells]
    assert len(cells) == 4 and colours[0] == colours[3]
    assert len({colours[0], colours[1], colours[2]}) == 3
    assert cells[2].get_hatch() and not cells[0].get_hatch()
    assert [text.get_text() for text in picture.figure.legends[0].texts] == ["new", "again"]


def test_mistakes_in_a_grid_are_named() -> None:
    with pytest.raises(ValueError, match="other numbers than -1 to 0"):
        kinds_grid(np.array([[1]]), ["a"], ["x"], ["new"], alt=ALT, row_axis="r", column_axis="c")
    with pytest.raises(ValueError, match="there are 5 kinds"):
        kinds_grid(np.array([[1]]), ["a"], ["x"], list("abcde"), alt=ALT, row_axis="r", column_axis="c")
