"""Turn a knob and see what changes: a function, redrawn while its controls move.

While a notebook is built the function is called once with the initial values, and its output is stored
as it is: the committed notebook shows a picture before anything is run, and holds no widget ids.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from course_lib.viz.building import is_building


@dataclass(frozen=True)
class Slider:
    """A number from `low` to `high` in steps, first at `value` or else at `low`."""

    low: float
    high: float
    step: float | None = None
    value: float | None = None
    description: str = ""

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"a slider runs from low to high: low={self.low}, high={self.high}")
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            raise ValueError(f"step={self.step} does not fit between low={self.low} and high={self.high}")
        if self.value is not None and not self.low <= self.value <= self.high:
            raise ValueError(f"value={self.value} is not between low={self.low} and high={self.high}")

    @property
    def is_whole(self) -> bool:
        """True when every number given is an int, so the function receives ints."""
        given = (self.low, self.high, self.step, self.value)
        return all(isinstance(number, int) for number in given if number is not None)

    def initial(self) -> float:
        """The value that the function is first called with."""
        return self.low if self.value is None else self.value

    def widget(self, description: str) -> Any:
        """The ipywidgets slider; it reports when released, not while dragged."""
        import ipywidgets

        kind = ipywidgets.IntSlider if self.is_whole else ipywidgets.FloatSlider
        step = self.step or (1 if self.is_whole else (self.high - self.low) / 50)
        return kind(
            value=self.initial(),
            min=self.low,
            max=self.high,
            step=step,
            description=description,
            continuous_update=False,
            **_layout(),
        )


@dataclass(frozen=True)
class Choice:
    """One of several options, shown as a list. `value` defaults to the first."""

    options: tuple[Any, ...]
    value: Any = None
    description: str = ""

    def __post_init__(self) -> None:
        if not self.options:
            raise ValueError("a choice needs at least one option")
        if self.value is not None and self.value not in self.options:
            raise ValueError(f"value={self.value!r} is not among the options {self.options!r}")

    def initial(self) -> Any:
        """The option that the function is first called with."""
        return self.options[0] if self.value is None else self.value

    def widget(self, description: str) -> Any:
        """The ipywidgets drop-down list."""
        import ipywidgets

        named = [(str(option), option) for option in self.options]
        return ipywidgets.Dropdown(options=named, value=self.initial(), description=description, **_layout())


@dataclass(frozen=True)
class Toggle:
    """Yes or no, shown as a box to tick."""

    value: bool = False
    description: str = ""

    def initial(self) -> bool:
        """The value that the function is first called with."""
        return self.value

    def widget(self, description: str) -> Any:
        """The ipywidgets check box."""
        import ipywidgets

        return ipywidgets.Checkbox(value=self.value, description=description, indent=False, **_layout())


Control: TypeAlias = Slider | Choice | Toggle


def _layout() -> dict[str, Any]:
    return {"style": {"description_width": "initial"}, "layout": {"width": "26em"}}


def as_control(value: Any, name: str) -> Control:
    """A control, or its short form: `(low, high)` or `(low, high, step)`, a list of options, a boolean."""
    if isinstance(value, Slider | Choice | Toggle):
        return value
    if isinstance(value, bool):
        return Toggle(value)
    if isinstance(value, tuple) and len(value) in (2, 3) and all(isinstance(x, int | float) for x in value):
        return Slider(*value)
    if isinstance(value, list) and value:
        return Choice(tuple(value))
    raise ValueError(
        f"{name}={value!r} is not a control. Expected Slider(…), Choice(…), Toggle(…), "
        "(low, high), (low, high, step), a list of options, or True or False."
    )


def explore(function: Callable[..., Any], *, output_height: str = "280px", **controls: Any) -> None:
    """Display controls, one per keyword, and the function's output below them, redrawn when one moves.

    The function prints, shows, or returns a `Picture`. `output_height` is the least height kept for the
    output, so that the page does not jump.
    """
    if not controls:
        raise ValueError("explore needs at least one control, for example explore(draw, rank=(1, 16))")
    checked = {name: as_control(value, name) for name, value in controls.items()}
    if is_building():
        _show_initial_state(function, checked)
    else:
        _show_widgets(function, checked, output_height)


def _description(name: str, control: Control) -> str:
    return control.description or name.replace("_", " ")


def _showing_result(function: Callable[..., Any]) -> Callable[..., None]:
    """The function, with what it returns displayed: ipywidgets' `interactive` drops the result."""
    from IPython.display import display

    def run(**values: Any) -> None:
        result = function(**values)
        if result is not None:
            display(result)

    return run


def _show_initial_state(function: Callable[..., Any], controls: dict[str, Control]) -> None:
    values = {name: control.initial() for name, control in controls.items()}
    told = ", ".join(f"{_description(name, controls[name])} = {value}" for name, value in values.items())
    _showing_result(function)(**values)
    print(f"Shown for {told}. Run this cell to move the controls.")


def _show_widgets(function: Callable[..., Any], controls: dict[str, Control], output_height: str) -> None:
    import ipywidgets
    from IPython.display import display

    made = {name: control.widget(_description(name, control)) for name, control in controls.items()}
    panel = ipywidgets.interactive(_showing_result(function), **made)
    # A fixed least height and clearing only when the next picture is there: no flicker.
    panel.out.layout.min_height = output_height
    display(panel)
