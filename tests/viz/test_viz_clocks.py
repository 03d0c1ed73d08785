"""Clock faces: each hand points where its angle says. Oracle: the arrows' ends, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.text import Annotation

from course_lib.viz.clocks import clocks

ALT = "Two clock faces with two hands each."


def test_hands_point_where_their_angles_say() -> None:
    picture = clocks({"query": [0, np.pi / 2], "key": [np.pi, 0]}, ["pair 0", "pair 1"], alt=ALT)
    ends = [
        [np.round(child.xy, 6).tolist() for child in axes.get_children() if isinstance(child, Annotation)]
        for axes in picture.figure.axes
    ]
    assert ends == [[[0.84, 0], [-0.84, 0]], [[0, 0.84], [0.84, 0]]]
    assert [axes.get_title() for axes in picture.figure.axes] == ["pair 0", "pair 1"]
    assert [text.get_text() for text in picture.figure.legends[0].get_texts()] == ["query", "key"]


def test_the_same_angles_give_the_same_bytes() -> None:
    made = [clocks({"query": [0.3]}, ["pair 0"], alt=ALT, title="turned").to_png() for _ in range(2)]
    assert made[0] == made[1]


@pytest.mark.parametrize(
    ("hands", "faces", "told"),
    [
        ({}, ["one"], "0 hands"),
        ({"query": np.zeros(9)}, [str(i) for i in range(9)], "9 faces"),
        ({"query": np.zeros(3)}, ["one"], "faces"),
    ],
)
def test_a_mistake_is_named(hands: dict[str, object], faces: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        clocks(hands, faces, alt=ALT)
