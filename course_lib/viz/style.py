"""One look for every picture of the course, and one way to show it with alternative text.

Pictures are 6 × 3 inches at 80 dots per inch and carry no software tag: the same arrays give the same
bytes. Colours are Okabe and Ito's, told apart by colour-blind eyes; line styles tell them apart in grey.
"""

from __future__ import annotations

import base64
import io
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

import matplotlib
from cycler import cycler
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from course_lib.viz.text import escape

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

WIDTH, HEIGHT, DOTS_PER_INCH = 6.0, 3.0, 80

# Okabe & Ito 2008, ordered so that neighbours differ in lightness too.
PALETTE = ("#0072B2", "#E69F00", "#000000", "#56B4E9", "#D55E00", "#009E73", "#CC79A7")
LINE_STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (3, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "ooo", "+++")

CJK_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "Source Han Sans CN",
    "PingFang SC",
    "Heiti SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "SimHei",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Arial Unicode MS",
    "Noto Sans CJK JP",
)

# The layout is fixed by the figure: a tight bounding box would make the size depend on the labels.
SAVE_OPTIONS: dict[str, Any] = {"metadata": {"Software": None}, "bbox_inches": None}


@cache
def cjk_font() -> str | None:
    """The first installed font that draws Chinese, or None."""
    installed = {entry.name for entry in font_manager.fontManager.ttflist}
    return next((name for name in CJK_FONTS if name in installed), None)


@cache
def _say_no_cjk_font() -> None:
    warnings.warn(
        "No font with Chinese characters is installed, so pictures use latin labels instead. "
        "Installing 'Noto Sans CJK SC' and restarting the kernel brings them back.",
        stacklevel=3,
    )


def label(text: str, fallback: str) -> str:
    """The text where a font can draw it, else the latin fallback, saying so once per session."""
    if all(ord(character) < 0x2E80 for character in text) or cjk_font() is not None:
        return text
    _say_no_cjk_font()
    return fallback


def course_settings() -> dict[Any, Any]:
    """The matplotlib settings of the course, as a dictionary for `rcParams`."""
    fonts = ["DejaVu Sans"] + ([name] if (name := cjk_font()) else [])
    return {
        "figure.figsize": (WIDTH, HEIGHT),
        "figure.dpi": DOTS_PER_INCH,
        "savefig.dpi": DOTS_PER_INCH,
        "figure.facecolor": "white",
        "figure.constrained_layout.use": True,
        "figure.constrained_layout.w_pad": 0.08,
        "figure.constrained_layout.h_pad": 0.06,
        "font.family": fonts,
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.prop_cycle": cycler(color=PALETTE) + cycler(linestyle=LINE_STYLES),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#d9d9d9",
        "grid.linewidth": 0.6,
        "lines.linewidth": 1.6,
        "hatch.linewidth": 0.6,
        "legend.frameon": False,
        "image.cmap": "Blues",
    }


def use_course_style() -> None:
    """Make the course's look the default, for matplotlib and for IPython's inline pictures."""
    matplotlib.rcParams.update(course_settings())
    from IPython import get_ipython

    if get_ipython() is None:
        return
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    set_matplotlib_formats("png", **SAVE_OPTIONS)


def in_course_style(draw: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Decorate a drawing function so that all it makes, texts too, takes the course's settings."""

    @wraps(draw)
    def styled(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        with matplotlib.rc_context(course_settings()):
            return draw(*args, **kwargs)

    return styled


def figure(width: float = WIDTH, height: float = HEIGHT) -> tuple[Figure, Axes]:
    """A figure and its axes in the course's look, `width` × `height` inches; show it with `show`.

    It is not registered with pyplot, so it never appears twice and needs no closing.
    """
    drawing, axes = panels(1, width=width, height=height)
    return drawing, axes[0]


@in_course_style
def panels(count: int, width: float = WIDTH, height: float = HEIGHT) -> tuple[Figure, list[Axes]]:
    """A figure with `count` axes side by side."""
    if count < 1:
        raise ValueError(f"a figure needs at least one panel; count={count}")
    drawing = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")
    return drawing, [drawing.add_subplot(1, count, position + 1) for position in range(count)]


def _checked_alt(alt: str) -> str:
    text = " ".join(alt.split())
    if len(text) < 10:
        raise ValueError(
            f"alt={alt!r} does not describe the picture. Write a sentence that says what it shows, "
            "for a reader who cannot see it."
        )
    return text


@dataclass(frozen=True, eq=False)
class Picture:
    """A drawn figure with the sentence that says what it shows; a notebook displays it as an image.

    The image is HTML, not `image/png`: neither JupyterLab nor nbconvert's default template puts alternative
    text on a PNG output, and the sanitiser of untrusted notebooks lets `<img alt>` with a data URL pass.
    """

    figure: Figure
    alt: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "alt", _checked_alt(self.alt))

    @in_course_style
    def to_png(self) -> bytes:
        """The PNG's bytes, equal for equal arrays and fonts, in at most 256 colours: a third of the size."""
        # Constrained layout moves a little at each draw; settled once, every later draw is the same.
        self.figure.draw_without_rendering()
        self.figure.set_layout_engine("none")
        raw, small = io.BytesIO(), io.BytesIO()
        self.figure.savefig(raw, format="png", dpi=DOTS_PER_INCH, **SAVE_OPTIONS)
        picture = (
            Image.open(raw).convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        )
        picture.save(small, format="png", optimize=True)
        return small.getvalue()

    def to_html(self) -> str:
        """An `<img>` with the picture inside, its size and its alternative text."""
        data = base64.b64encode(self.to_png()).decode("ascii")
        width, height = (round(inches * DOTS_PER_INCH) for inches in self.figure.get_size_inches())
        size = f'width="{width}" height="{height}"'
        return f'<img alt="{escape(self.alt)}" {size} src="data:image/png;base64,{data}">'

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/html": self.to_html(), "text/plain": f"[picture] {self.alt}"}

    def __repr__(self) -> str:
        return f"Picture(alt={self.alt!r})"


def show(drawing: Figure | Picture, alt: str | None = None) -> None:
    """Display a figure with its alternative text: one sentence that says what the picture shows.

    A `Picture` brings its own sentence. For a bare figure the sentence is required.
    """
    from IPython.display import display

    if isinstance(drawing, Figure):
        drawing = Picture(drawing, alt or "")
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is not None:
            # Otherwise the inline backend shows a figure made with pyplot a second time.
            pyplot.close(drawing.figure)
    elif alt is not None:
        drawing = Picture(drawing.figure, alt)
    display(drawing)
