"""Pictures and explorers: this package draws arrays and knows no model.

Names are loaded on first use, so importing the package costs milliseconds.

>>> from course_lib.viz import heatmap, use_course_style
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from course_lib.viz.attention import AttentionExplorer
    from course_lib.viz.heads import HeadView, ModelView, NeuronView
    from course_lib.viz.heatmaps import heatmap
    from course_lib.viz.knob import Choice, Slider, Toggle, explore
    from course_lib.viz.plots import (
        bars,
        compare_distributions,
        lines,
        scatter_words,
    )
    from course_lib.viz.projection import WordMap, principal_components
    from course_lib.viz.style import Picture, figure, label, panels, show, use_course_style
    from course_lib.viz.text import visible
    from course_lib.viz.tokens import TokenizerExplorer
    from course_lib.viz.translation import TranslationExplorer

# On a fresh machine matplotlib warns that it builds a font cache; that line would be stored in a notebook.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)

_HOME = {
    "AttentionExplorer": "attention",
    "Choice": "knob",
    "HeadView": "heads",
    "ModelView": "heads",
    "NeuronView": "heads",
    "Picture": "style",
    "Slider": "knob",
    "Toggle": "knob",
    "TokenizerExplorer": "tokens",
    "TranslationExplorer": "translation",
    "WordMap": "projection",
    "bars": "plots",
    "compare_distributions": "plots",
    "explore": "knob",
    "figure": "style",
    "heatmap": "heatmaps",
    "label": "style",
    "lines": "plots",
    "panels": "style",
    "principal_components": "projection",
    "scatter_words": "plots",
    "show": "style",
    "use_course_style": "style",
    "visible": "text",
}

__all__ = [
    "AttentionExplorer",
    "Choice",
    "HeadView",
    "ModelView",
    "NeuronView",
    "Picture",
    "Slider",
    "Toggle",
    "TokenizerExplorer",
    "TranslationExplorer",
    "WordMap",
    "bars",
    "compare_distributions",
    "explore",
    "figure",
    "heatmap",
    "label",
    "lines",
    "panels",
    "principal_components",
    "scatter_words",
    "show",
    "use_course_style",
    "visible",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'course_lib.viz' has no attribute {name!r}")
    # Stored under its name, so that this runs once for each.
    value = getattr(import_module(f"course_lib.viz.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
