"""Text that is shown: nothing stays invisible, and nothing leaves the place it was put in."""

from __future__ import annotations

import html
import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib.viz.text import display_width, escape, script_json, shorten, visible

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        ("", "∅"),
        (" ", "␣"),
        (" the", "·the"),
        ("\n", "⏎"),
        ("\ta", "⇥a"),
        ("a\u00a0b", "a⍽b"),
        ("\u0301", "◌\u0301"),
        ("e\u0301", "e\u0301"),
        ("\x00", "␀"),
        ("\u202egnp.exe", "⟨202E⟩gnp.exe"),
        ("\u200d", "⟨200D⟩"),
        ("👩\u200d👧", "👩\u200d👧"),
        ("银行", "银行"),
        ("\ud800", "⟨D800⟩"),
    ],
)
def test_what_leaves_no_ink_is_shown_by_a_sign(token: str, shown: str) -> None:
    assert visible(token) == shown


@given(ANY_TEXT)
def test_a_shown_token_holds_no_space_control_or_direction_mark(text: str) -> None:
    shown = visible(text)
    assert shown
    for character in shown.replace("\u200c", "").replace("\u200d", ""):
        assert unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zs", "Zl", "Zp")


@given(ANY_TEXT)
def test_escaped_text_comes_back_and_holds_no_markup(text: str) -> None:
    escaped = escape(text)
    assert html.unescape(escaped).encode() == html.unescape(html.escape(text)).encode()
    assert not set("<>\"'") & set(escaped)


@given(st.recursive(ANY_TEXT | st.integers() | st.booleans(), lambda inner: st.lists(inner, max_size=4)))
def test_json_for_a_script_comes_back_and_cannot_end_the_script(value: object) -> None:
    text = script_json(value)
    assert json.loads(text) == value
    assert not set("<>&\u2028\u2029") & set(text)


def test_wide_characters_take_two_columns_and_combining_marks_none() -> None:
    assert [display_width(text) for text in ("ab", "银行", "e\u0301", "")] == [2, 4, 1, 0]


@given(ANY_TEXT, st.integers(2, 20))
def test_a_shortened_text_fits_and_keeps_its_beginning(text: str, most: int) -> None:
    short = shorten(text, most)
    assert display_width(short) <= most or short == text
    assert text.startswith(short.removesuffix("…"))
