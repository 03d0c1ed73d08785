"""Heat maps, bars, lines, words: what is drawn is what was given, and wrong shapes are named."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.patches import Rectangle
from PIL import Image

from course_lib.viz import Picture, bars, compare_distributions, figure, heatmap, lines, scatter_words
from course_lib.viz.arrays import as_array
from course_lib.viz.plots import _box, mean_and_error, place_labels
from course_lib.viz.text import display_width

ALT = "A picture made for a test of the library."
AXES: dict[str, Any] = {"alt": ALT, "row_axis": "query", "column_axis": "key", "value_axis": "weight"}


def texts(picture: Picture) -> list[str]:
    return [text.get_text() for text in picture.figure.axes[0].texts]


def test_a_small_matrix_carries_its_numbers_and_labels() -> None:
    picture = heatmap([[0.25, -0.75], [1.0, 0.5]], ["a", " b"], ["c", "\n"], **AXES, diverging=True)
    assert texts(picture) == ["0.25", "−0.75", "1.00", "0.50"]
    axes = picture.figure.axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "·b"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["c", "⏎"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("key", "query")
    assert axes.images[0].get_clim() == (-1.0, 1.0)


def test_what_rounds_to_zero_has_no_sign() -> None:
    picture = heatmap([[-0.04, 0.04, -0.06]], ["a"], list("bcd"), **AXES, digits=1)
    assert texts(picture) == ["0.0", "0.0", "−0.1"]


def test_masked_cells_are_hatched_and_carry_no_number() -> None:
    mask = np.tril(np.ones((3, 3), dtype=bool))
    picture = heatmap(np.full((3, 3), 0.5), list("abc"), list("abc"), **AXES, mask=mask)
    axes = picture.figure.axes[0]
    hatched = [patch for patch in axes.patches if isinstance(patch, Rectangle) and patch.get_hatch()]
    centres = {(patch.get_y() + 0.5, patch.get_x() + 0.5) for patch in hatched}
    assert centres == {(0, 1), (0, 2), (1, 2)}
    assert len(texts(picture)) == 6


def test_darker_means_more_also_in_grey() -> None:
    shades = []
    for value in (0.0, 0.5, 1.0):
        picture = heatmap([[value]], ["a"], ["b"], **AXES, limits=(0, 1))
        grey = np.asarray(Image.open(io.BytesIO(picture.to_png())).convert("L"))
        shades.append(int(grey[40, 160]))
    assert shades[0] - shades[1] > 50 and shades[1] - shades[2] > 50


def test_a_large_matrix_carries_no_numbers() -> None:
    names = [str(index) for index in range(20)]
    assert texts(heatmap(np.eye(20), names, names, **AXES)) == []


@pytest.mark.parametrize("matrix", [np.zeros((2, 2)), np.ones((2, 2)), -np.ones((2, 2))])
def test_a_constant_matrix_can_be_drawn(matrix: np.ndarray[Any, Any]) -> None:
    picture = heatmap(matrix, ["a", "b"], ["c", "d"], **AXES)
    low, high = picture.figure.axes[0].images[0].get_clim()
    assert low <= matrix.min() <= high and low < high


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"matrix": np.zeros(3)}, r"matrix has shape \(3,\); expected 2 dimensions"),
        ({"matrix": np.zeros((0, 2))}, "nothing to draw"),
        ({"matrix": [[math.nan, 1], [1, 1]]}, "NaN or infinity"),
        ({"matrix": [["a", "b"], ["c", "d"]]}, "not an array of numbers"),
        ({"row_labels": ["a"]}, "row_labels has 1 entries, but the matrix's first axis has 2"),
        ({"column_labels": "ab"}, "column_labels is one string"),
        ({"mask": np.ones((2, 2))}, "expected booleans"),
        ({"mask": np.ones((3, 2), dtype=bool)}, "does not broadcast"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_argument_is_named(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"matrix": np.eye(2), "row_labels": ["a", "b"], "column_labels": ["c", "d"]}
    with pytest.raises(ValueError, match=message):
        heatmap(**{**given, **AXES, **change})


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float64])
def test_tensors_are_taken_with_gradient_half_precision_and_in_lists(kind: torch.dtype) -> None:
    tensor = torch.tensor([[0.5, 0.25]], dtype=kind, requires_grad=True)
    assert as_array(tensor, "t", (2,)).tolist() == [[0.5, 0.25]]
    assert as_array([tensor, tensor], "t", (3,)).shape == (2, 1, 2)


@given(st.lists(st.lists(st.floats(-10, 10), min_size=3, max_size=3), min_size=2, max_size=6))
def test_the_band_is_the_mean_and_its_standard_error(runs: list[list[float]]) -> None:
    mean, error = mean_and_error(np.array(runs))
    assert error is not None
    for point, column in enumerate(zip(*runs, strict=True)):
        centre = math.fsum(column) / len(column)
        variance = math.fsum((value - centre) ** 2 for value in column) / (len(column) - 1)
        assert mean[point] == pytest.approx(centre, abs=1e-9)
        assert error[point] == pytest.approx(math.sqrt(variance / len(column)), abs=1e-7)


def test_one_run_has_no_error_band() -> None:
    assert mean_and_error(np.ones((1, 4)))[1] is None
    assert mean_and_error(np.ones(4))[1] is None


def test_lines_draw_the_means_and_a_band_where_there_are_runs() -> None:
    series = {"one": [3.0, 2.0, 1.0], "runs": [[3.0, 2.0, 1.0], [5.0, 4.0, 3.0]]}
    picture = lines([1, 10, 100], series, alt=ALT, x_axis="step", y_axis="loss (nats)", x_scale="log")
    axes: Any = picture.figure.axes[0]
    assert [line.get_ydata().tolist() for line in axes.lines] == [[3, 2, 1], [4, 3, 2]]
    assert len({(line.get_linestyle(), line.get_marker(), line.get_color()) for line in axes.lines}) == 2
    assert len(axes.collections) == 1
    assert axes.get_xscale() == "log"


def test_bars_have_the_heights_given_and_their_values_written() -> None:
    series = {"English": [3.5, 1.25], "Chinese": [[1.0, 2.0], [3.0, 4.0]]}
    words: dict[str, Any] = {"category_axis": "tokenizer", "value_axis": "bytes per token"}
    picture = bars(series, ["BPE", "character"], alt=ALT, **words, digits=2)
    axes: Any = picture.figure.axes[0]
    heights = [bar.get_height() for bar in axes.patches]
    assert heights == [3.5, 1.25, 2.0, 3.0]
    assert [text.get_text() for text in axes.texts] == ["3.50", "1.25", "2.00", "3.00"]
    assert len({bar.get_hatch() for bar in axes.patches}) == 2


def test_series_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"series\['a'\] has 2 points, but x has 3"):
        lines([1, 2, 3], {"a": [1, 2]}, alt=ALT, x_axis="x", y_axis="y")
    with pytest.raises(ValueError, match="at most 7 can be told apart"):
        lines([1], {str(i): [1] for i in range(8)}, alt=ALT, x_axis="x", y_axis="y")
    with pytest.raises(ValueError, match="series is empty"):
        bars({}, [], alt=ALT, category_axis="x", value_axis="y")
    with pytest.raises(ValueError, match="categories has 2 entries"):
        bars({"a": [1, 2, 3]}, ["x", "y"], alt=ALT, category_axis="x", value_axis="y")


def test_a_distribution_must_sum_to_one() -> None:
    words: dict[str, Any] = {"alt": ALT, "outcome_axis": "next word"}
    picture = compare_distributions({"T = 1": [0.75, 0.25]}, ["cat", "dog"], **words)
    drawn: Any = picture.figure.axes[0].patches
    assert [bar.get_height() for bar in drawn] == [0.75, 0.25]
    for wrong in ([0.7, 0.2], [1.5, -0.5]):
        with pytest.raises(ValueError, match="expected probabilities that sum to 1"):
            compare_distributions({"T = 1": wrong}, ["cat", "dog"], **words)


def test_every_word_gets_a_label_and_crowded_labels_are_moved_apart() -> None:
    places = np.array([[0.0, 0.0], [0.02, 0.0], [0.0, 0.02], [1.0, 1.0], [0.02, 0.02]])
    names = ["river", "bank", "银行", "far away", "money"]
    picture = scatter_words(places, names, alt=ALT, x_axis="component 1", y_axis="component 2")
    assert texts(picture) == ["river", "bank", "银行", "far away", "money"]
    _, axes = figure()
    axes.scatter(places[:, 0], places[:, 1])
    offsets = place_labels(axes, places, names)
    anchors = axes.transData.transform(places)
    boxes = [
        _box(anchor, np.array(offset) * 80 / 72, np.array([4.6 * display_width(name), 9.0]) * 80 / 72)
        for anchor, offset, name in zip(anchors, offsets, names, strict=True)
    ]
    for index, one in enumerate(boxes):
        for other in boxes[:index]:
            sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
            assert sides.min() <= 0, "two labels overlap"


def test_points_must_lie_on_a_plane() -> None:
    with pytest.raises(ValueError, match="project to a plane first"):
        scatter_words(np.zeros((3, 5)), list("abc"), alt=ALT, x_axis="x", y_axis="y")
