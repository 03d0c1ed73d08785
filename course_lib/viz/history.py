"""A training's curves: its loss, and what was evaluated on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from course_lib.viz.style import LINE_STYLES, MARKERS, PALETTE, Picture, in_course_style, panels


@in_course_style
def draw_history(
    steps: Sequence[float],
    losses: Sequence[float],
    evaluations: Sequence[Mapping[str, float]] = (),
    *,
    title: str | None = None,
) -> Picture:
    """Losses over steps on the left; on the right what each evaluation found, by name, over its "step"."""
    names = [name for name in (evaluations[0] if evaluations else {}) if name != "step"]
    drawing, axes = panels(2 if names else 1)
    axes[0].plot(steps, losses, color=PALETTE[0])
    _label(axes[0], "loss in nats per target")
    for index, name in enumerate(names):
        axes[1].plot(
            [found["step"] for found in evaluations],
            [found[name] for found in evaluations],
            label=name,
            color=PALETTE[index % len(PALETTE)],
            linestyle=LINE_STYLES[index % len(LINE_STYLES)],
            marker=MARKERS[index % len(MARKERS)],
            markersize=4,
        )
    if names:
        _label(axes[1], names[0] if len(names) == 1 else "evaluated")
    if len(names) > 1:
        axes[1].legend(fontsize=8)
    if title:
        drawing.suptitle(title, fontsize=10)
    return Picture(drawing, _described(losses, evaluations, names))


def _label(axes: Axes, y_axis: str) -> None:
    axes.set(xlabel="training step", ylabel=y_axis)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def _described(
    losses: Sequence[float], evaluations: Sequence[Mapping[str, float]], names: Sequence[str]
) -> str:
    said = f"The loss goes from {losses[0]:.2f} at the start to {losses[-1]:.2f} at the end."
    for name in names:
        said += f" {name} goes from {evaluations[0][name]:.3g} to {evaluations[-1][name]:.3g}."
    return said
