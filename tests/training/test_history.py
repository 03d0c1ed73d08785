"""The history of a training, kept and drawn."""

from __future__ import annotations

import pytest

from course_lib.training import History


def grown(steps: int, evaluated: bool = True) -> History:
    losses = [1 / (step + 3) for step in range(steps)]
    evaluations = [{"step": step, "BLEU": 0.1 * step, "exact": 0.2} for step in (5, 10)]
    return History(losses, [1e-3] * steps, evaluations if evaluated else [])


def test_json_keeps_every_digit() -> None:
    assert History.from_json(grown(17).to_json()) == grown(17)


@pytest.mark.parametrize(("steps", "points"), [(3, 100), (100, 100), (101, 100), (1000, 10)])
def test_smoothing_keeps_the_mean_and_the_ends(steps: int, points: int) -> None:
    history = grown(steps)
    middles, means = history.smoothed(points)
    assert len(middles) == len(means) <= points
    every = -(-steps // points)
    assert means[0] == pytest.approx(sum(history.losses[:every]) / every)
    assert middles[0] == (every + 1) / 2 and middles[-1] <= steps


def test_the_picture_has_the_loss_and_what_was_evaluated() -> None:
    picture = grown(20).plot("a title")
    left, right = picture.figure.axes
    assert len(left.lines) == 1 and [line.get_label() for line in right.lines] == ["BLEU", "exact"]
    assert list(right.lines[0].get_xdata()) == [5, 10]  # type: ignore[arg-type]
    assert "from 0.33 at the start" in picture.alt and "BLEU goes from 0.5 to 1." in picture.alt
    assert len(grown(20, evaluated=False).plot().figure.axes) == 1
    with pytest.raises(ValueError, match="nothing to draw"):
        History().plot()
