"""The course's look: the same arrays give the same bytes, and every picture says what it shows."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
import warnings
from html.parser import HTMLParser
from itertools import combinations

import matplotlib
import matplotlib.pyplot
import nbformat
import numpy as np
import pytest
from matplotlib.figure import Figure
from nbclient import NotebookClient
from PIL import Image

from course_lib.viz import Picture, figure, label, panels, show, style, use_course_style

ALT = "A line that rises from zero to three."


def rising() -> Figure:
    drawing, axes = figure()
    axes.plot([0, 1, 2, 3], label="<rise> & fall")
    axes.set(xlabel="step", ylabel="loss (nats)")
    return drawing


def read_image(picture: Picture) -> Image.Image:
    return Image.open(io.BytesIO(picture.to_png()))


def test_a_picture_is_480_by_240_pixels_and_names_no_software() -> None:
    image = read_image(Picture(rising(), ALT))
    assert image.size == (480, 240)
    assert image.format == "PNG"
    assert "Software" not in image.info


def test_equal_arrays_give_equal_bytes_however_often_they_are_drawn() -> None:
    picture = Picture(rising(), ALT)
    assert picture.to_png() == picture.to_png() == Picture(rising(), ALT).to_png()


def test_another_process_gives_the_same_bytes() -> None:
    code = (
        "import hashlib; from course_lib.viz import Picture, figure; drawing, axes = figure(); "
        "axes.plot([0, 1, 2, 3], label='<rise> & fall'); axes.set(xlabel='step', ylabel='loss (nats)'); "
        f"print(Picture(drawing, {ALT!r}).to_html())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == Picture(rising(), ALT).to_html()


class Images(HTMLParser):
    """Collects the attributes of every `<img>`."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.found.append(dict(attrs))


def test_the_html_is_one_image_with_its_alternative_text_size_and_data() -> None:
    picture = Picture(rising(), 'Loss < 3 & "falling".')
    parser = Images()
    parser.feed(picture.to_html())
    (image,) = parser.found
    assert image["alt"] == 'Loss < 3 & "falling".'
    assert (image["width"], image["height"]) == ("480", "240")
    assert image["src"] is not None
    assert base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) == picture.to_png()


@pytest.mark.parametrize("alt", ["", "   ", "plot"])
def test_a_picture_without_a_describing_sentence_is_refused(alt: str) -> None:
    with pytest.raises(ValueError, match="does not describe the picture"):
        Picture(rising(), alt)


def test_show_displays_the_image_and_the_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    show(rising(), ALT)
    assert capsys.readouterr().out == f"Picture(alt={ALT!r})\n"
    with pytest.raises(ValueError, match="alt=''"):
        show(rising())


def test_a_pyplot_figure_is_not_shown_twice() -> None:
    drawing = matplotlib.pyplot.figure()
    drawing.add_subplot().plot([1, 2])
    show(drawing, ALT)
    assert not matplotlib.pyplot.fignum_exists(drawing.number)


def test_panels_stand_side_by_side() -> None:
    drawing, axes = panels(3, width=9)
    drawing.draw_without_rendering()
    lefts = [axis.get_position().x0 for axis in axes]
    assert lefts == sorted(lefts) and len(set(lefts)) == 3
    with pytest.raises(ValueError, match="count=0"):
        panels(0)


def lightness(colour: str) -> float:
    """CIE L*, from 0 (black) to 100 (white)."""
    values = np.array(matplotlib.colors.to_rgb(colour))
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ [0.2126, 0.7152, 0.0722])
    return 116 * luminance ** (1 / 3) - 16 if luminance > 0.008856 else 903.3 * luminance


def test_the_first_colours_differ_in_grey_and_every_series_has_its_own_dash_marker_and_hatch() -> None:
    shades = [lightness(colour) for colour in style.PALETTE[:3]]
    assert min(abs(one - other) for one, other in combinations(shades, 2)) > 20
    for kind in (style.PALETTE, style.LINE_STYLES, style.MARKERS, style.HATCHES):
        assert len(set(kind)) == len(style.PALETTE)


def test_a_chinese_label_is_kept_with_a_font_and_replaced_once_with_a_warning_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(style, "cjk_font", lambda: "Some CJK font")
    assert label("银行", "bank") == "银行"
    monkeypatch.setattr(style, "cjk_font", lambda: None)
    style._say_no_cjk_font.cache_clear()
    with pytest.warns(UserWarning, match="Noto Sans CJK SC"):
        assert label("银行", "bank") == "bank"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert label("苹果", "apple") == "apple"
        assert label("café", "cafe") == "café"


@pytest.mark.skipif(style.cjk_font() is None, reason="no font with Chinese characters is installed")
def test_chinese_is_drawn_without_missing_glyphs() -> None:
    drawing, axes = figure()
    axes.set_title("银行 and bank")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Picture(drawing, ALT).to_png()


def test_the_course_style_sets_what_pyplot_makes() -> None:
    with matplotlib.rc_context():
        use_course_style()
        made = matplotlib.pyplot.figure()
        assert tuple(made.get_size_inches()) == (6, 3)
        assert made.dpi == 80
        matplotlib.pyplot.close(made)


def test_in_a_notebook_inline_pictures_keep_their_size_and_carry_no_software_tag() -> None:
    source = (
        "from course_lib.viz import use_course_style\nuse_course_style()\n"
        "import matplotlib.pyplot as plt\nplt.plot([1, 2, 3]);"
    )
    images = []
    for _ in range(2):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
        NotebookClient(notebook, timeout=60).execute()
        (output,) = notebook.cells[0].outputs
        images.append(base64.b64decode(output.data["image/png"]))
    image = Image.open(io.BytesIO(images[0]))
    assert image.size == (480, 240)
    assert "Software" not in image.info
    assert images[0] == images[1]


def test_importing_the_package_loads_neither_matplotlib_nor_torch() -> None:
    heavy = ("matplotlib", "torch", "ipywidgets")
    code = f"import sys, course_lib.viz; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_fresh_machines_font_cache_message_does_not_reach_the_notebook() -> None:
    code = (
        "import course_lib.viz, logging; logging.basicConfig(); "
        "logging.getLogger('matplotlib.font_manager').warning('Matplotlib is building the font cache')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr == ""


def test_every_public_name_can_be_imported_and_others_cannot() -> None:
    import course_lib.viz as viz

    for name in viz.__all__:
        assert callable(getattr(viz, name)), name
    assert set(viz.__all__) <= set(dir(viz))
    with pytest.raises(AttributeError, match=re.escape("'course_lib.viz' has no attribute 'nothing'")):
        viz.nothing  # noqa: B018
