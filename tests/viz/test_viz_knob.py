"""Knobs: live they are widgets that redraw, in a built notebook the first picture and a sentence."""

from __future__ import annotations

from typing import Any

import ipywidgets
import pytest

from course_lib.viz import Choice, Slider, Toggle, explore
from course_lib.viz.knob import as_control


@pytest.fixture
def displayed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is displayed, in order."""
    shown: list[Any] = []
    monkeypatch.setattr("IPython.display.display", lambda *objects: shown.extend(objects))
    return shown


def test_built_it_calls_once_with_the_first_values_and_shows_the_result(
    displayed: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COURSE_BUILD", "1")
    calls = []

    def draw(rank: int, kind: str, causal: bool) -> str:
        calls.append((rank, kind, causal))
        return "picture"

    explore(draw, rank=Slider(1, 16, value=4), kind=["dot", "general"], causal=True)
    assert calls == [(4, "dot", True)]
    assert displayed == ["picture"]
    told = "Shown for rank = 4, kind = dot, causal = True. Run this cell to move the controls.\n"
    assert capsys.readouterr().out == told


def live_panel(displayed: list[Any]) -> Any:
    (panel,) = (entry for entry in displayed if isinstance(entry, ipywidgets.interactive))
    return panel


def test_live_every_control_is_a_widget_that_waits_until_it_is_released(
    displayed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COURSE_BUILD", raising=False)
    explore(
        print,
        temperature=(0.1, 2.0, 0.1),
        num_heads=(1, 8),
        kind=Choice(("a", "b"), "b"),
        on=Toggle(True, "mask"),
    )
    temperature, heads, kind, on, output = live_panel(displayed).children
    assert isinstance(temperature, ipywidgets.FloatSlider) and isinstance(heads, ipywidgets.IntSlider)
    assert not temperature.continuous_update and not heads.continuous_update
    assert (heads.description, on.description) == ("num heads", "mask")
    assert (temperature.step, heads.step, kind.value, on.value) == (0.1, 1, "b", True)
    assert output.layout.min_height == "280px"


def test_live_moving_a_control_calls_the_function_and_displays_what_it_returns(
    displayed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COURSE_BUILD", raising=False)

    def draw(rank: int) -> str:
        return f"rank {rank}"

    explore(draw, rank=(1, 4))
    panel = live_panel(displayed)
    displayed.clear()
    panel.children[0].value = 3
    assert displayed == ["rank 3"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((1, 5), Slider(1, 5)),
        ((0.0, 1.0, 0.25), Slider(0.0, 1.0, 0.25)),
        (["a", "b"], Choice(("a", "b"))),
        (True, Toggle(True)),
        (Slider(2, 3), Slider(2, 3)),
    ],
    ids=str,
)
def test_short_forms_stand_for_controls(given: Any, expected: Any) -> None:
    assert as_control(given, "knob") == expected


def test_a_slider_is_whole_only_if_every_number_is() -> None:
    assert Slider(1, 5).is_whole and Slider(1, 9, 2, 3).is_whole
    assert not Slider(0, 1.5).is_whole and not Slider(0, 1, 0.5).is_whole


@pytest.mark.parametrize("wrong", [3, "abc", (1,), (1, 2, 3, 4), [], {"a": 1}, None], ids=str)
def test_what_is_no_control_is_named(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"rank=.* is not a control"):
        explore(print, rank=wrong)


def test_impossible_controls_are_refused() -> None:
    with pytest.raises(ValueError, match="low=5, high=1"):
        Slider(5, 1)
    with pytest.raises(ValueError, match="value=9 is not between"):
        Slider(1, 5, value=9)
    with pytest.raises(ValueError, match="step=7"):
        Slider(1, 5, 7)
    with pytest.raises(ValueError, match="at least one option"):
        Choice(())
    with pytest.raises(ValueError, match="not among the options"):
        Choice(("a",), "b")
    with pytest.raises(ValueError, match="at least one control"):
        explore(print)
