"""The translation explorer: what Python holds, what a saved notebook shows, and the page in a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import traitlets
from playwright.sync_api import Browser, Page, expect

from course_lib.viz import TranslationExplorer
from course_lib.viz.embedding import page as html_page
from course_lib.viz.translation import MOST_CHARACTERS, Answer, static_table, to_state

LANGUAGES = {"fr": "French", "zh": "Chinese"}


def backwards(text: str, language: str) -> Answer:
    """Words in the opposite order; each looks at the one it came from, a little at the first."""
    words = text.split()
    if len(words) > 20:
        raise ValueError("20 words are the most; shorten the text")
    weights = 0.9 * np.eye(len(words))[::-1]
    weights[:, 0] += 0.1
    return Answer(
        f"{language}: " + " ".join(words[::-1]), words, words[::-1], weights, [w != "?" for w in words]
    )


def test_it_holds_the_translation_of_what_is_typed() -> None:
    explorer = TranslationExplorer(backwards, LANGUAGES, "one two", "zh")
    assert explorer.answer["written"] == "zh: two one"
    assert explorer.answer["source"] == [["one", True], ["two", True]]
    assert explorer.answer["weights"] == [100, 900, 1000, 0]
    explorer.set_state({"text": "one ?"})
    assert explorer.answer["target"] == ["?", "one"]
    assert explorer.answer["source"] == [["one", True], ["?", False]]
    explorer.set_state({"language": "fr"})
    assert explorer.answer["written"] == "fr: ? one"


def test_the_first_language_is_chosen_where_none_is_named() -> None:
    assert TranslationExplorer(backwards, LANGUAGES, "a").language == "fr"
    with pytest.raises(traitlets.TraitError, match="expected one of fr, zh"):
        TranslationExplorer(backwards, LANGUAGES, "a").language = "de"
    with pytest.raises(ValueError, match="languages is empty"):
        TranslationExplorer(backwards, {}, "a")


def test_nothing_typed_and_what_cannot_be_read_are_told_and_the_next_text_is_translated() -> None:
    explorer = TranslationExplorer(backwards, LANGUAGES, " ")
    assert explorer.answer["error"] == "Type a sentence."
    explorer.text = "a " * 30
    assert explorer.answer["error"] == "This cannot be translated: 20 words are the most; shorten the text"
    assert explorer.answer["target"] == []
    explorer.text = "a b"
    assert (explorer.answer["error"], explorer.answer["written"]) == ("", "fr: b a")


def test_a_long_text_is_cut() -> None:
    explorer = TranslationExplorer(backwards, LANGUAGES, "x" * 1_000)
    assert len(explorer.text) == MOST_CHARACTERS == len(explorer.answer["target"][0])


def test_weights_of_another_shape_are_named() -> None:
    with pytest.raises(ValueError, match=r"weights has shape \(2, 1\); expected \(1, 2\)"):
        to_state(Answer("x", ["a", "b"], ["c"], np.ones((2, 1))))


def test_the_saved_view_is_safe_stable_and_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COURSE_BUILD", "1")
    explorer = TranslationExplorer(backwards, LANGUAGES, "<b>bold</b> ?")
    bundle, _ = explorer._repr_mimebundle_()
    assert set(bundle) == {"text/html", "text/plain"} and explorer.comm is None
    html = explorer.to_html()
    assert html == TranslationExplorer(backwards, LANGUAGES, "<b>bold</b> ?").to_html()
    assert "&lt;b&gt;bold" in html and "<b>" not in html and "<script" not in html
    assert set(re.findall(r"<([a-z]+)", html)) == {"div", "p", "table", "tr", "th", "td"}
    assert re.findall(r">(\d\.\d\d)<", html) == ["0.10", "0.90", "1.00"]
    assert "? ?" in html  # the unknown word, marked
    assert bundle["text/plain"].startswith("[translation explorer] '<b>bold</b> ?' → 'fr: ? ")


def test_the_saved_view_of_an_error_says_it() -> None:
    explorer = TranslationExplorer(backwards, LANGUAGES, "")
    assert "Type a sentence." in explorer.to_html()
    assert "Type a sentence." in explorer.summary()
    assert "<th" not in static_table("", "French", explorer.answer)


# --- in a browser -------------------------------------------------------------------------------


@pytest.fixture
def page(chromium: Browser, tmp_path: Path) -> Iterator[Page]:
    """The explorer as its page draws it, without a kernel; any request or error fails the test."""
    explorer = TranslationExplorer(backwards, LANGUAGES, "one two <b> ?")
    names = ("text", "limit", "language", "languages", "answer")
    state: dict[str, Any] = json.loads(json.dumps({name: getattr(explorer, name) for name in names}))
    body = html_page("", str(explorer._esm), str(explorer._css), state)
    path = tmp_path / "page.html"
    path.write_text(f'<!doctype html><meta charset="utf-8"><body>{body}', encoding="utf-8")
    opened = chromium.new_page()
    opened.set_default_timeout(5_000)
    seen: list[str] = []
    opened.on("request", lambda request: seen.append(request.url))
    opened.on("pageerror", lambda error: seen.append(str(error)))
    opened.goto(path.as_uri())
    yield opened
    opened.close()
    assert [entry for entry in seen if not entry.startswith("file:")] == []


@pytest.mark.browser
def test_every_word_has_its_lines_and_the_unknown_a_frame_of_its_own(page: Page) -> None:
    expect(page.locator("output")).to_have_text("fr: ? <b> two one")
    expect(page.locator(".course-target text")).to_have_text(["?", "<b>", "two", "one"])
    # Each looks at its own word and, but for the last, a little at the first.
    assert page.locator(".course-line").count() == 7
    expect(page.locator(".course-unknown text")).to_have_text(["?"])


@pytest.mark.browser
def test_pointing_at_a_word_or_reaching_it_by_keyboard_leaves_its_lines_alone(page: Page) -> None:
    page.locator(".course-target").nth(1).hover()
    expect(page.locator(".course-spoken")).to_have_text("<b> looks most at <b>, with weight 0.90.")
    assert page.locator(".course-line:not(.course-faint)").count() == 2
    page.mouse.move(1, 1)
    assert page.locator(".course-faint").count() == 0
    page.locator(".course-target").nth(3).focus()
    expect(page.locator(".course-spoken")).to_have_text("one looks most at one, with weight 1.00.")


@pytest.mark.browser
def test_lines_lead_to_the_word_that_was_looked_at(page: Page) -> None:
    middles = [
        float(box.get_attribute("x") or 0) + float(box.get_attribute("width") or 0) / 2
        for box in page.locator(".course-word:not(.course-target) rect").all()
    ]
    thick = [
        line
        for line in page.locator(".course-line").all()
        if float(line.get_attribute("stroke-width") or 0) > 4
    ]
    assert [float(line.get_attribute("x2") or 0) for line in thick] == pytest.approx(middles[::-1])
