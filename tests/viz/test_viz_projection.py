"""Principal components against the covariance matrix, and the map of words with and without a script."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playwright.sync_api import Browser, Page, expect

from course_lib.viz import WordMap, principal_components
from course_lib.viz.projection import MOST_WORDS, nearest_words

WORDS = ["king", "queen", "kitchen", "银行", "<b>bold</b>", "otter"]
VECTORS = np.array([[3, 0.1, 0], [3, 0.2, 0.1], [0, 2, 0.3], [0, 2, 0.1], [-1, 0, 1], [-1, -1, 0.9]])
GROUPS = ["person", "person", "place", "place", "other", "animal"]
ALT = "A map of six words in four groups, two of which lie close together."


def word_map(**more: Any) -> WordMap:
    return WordMap(WORDS, VECTORS, GROUPS, alt=ALT, neighbours=3, **more)


@settings(deadline=None, max_examples=30)
@given(st.integers(3, 12), st.integers(2, 6), st.integers(0, 1000))
def test_directions_and_shares_are_those_of_the_covariance_matrix(n: int, d: int, seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(n, d)) * np.arange(1, d + 1) ** 2
    found = principal_components(vectors)
    values, directions = np.linalg.eigh(np.cov(vectors.T, bias=True))
    np.testing.assert_allclose(found.shares, values[::-1][:2] / values.sum(), atol=1e-9)
    for ours, theirs in zip(found.directions, directions.T[::-1], strict=False):
        assert abs(ours @ theirs) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(found.points, (vectors - vectors.mean(0)) @ found.directions.T, atol=1e-9)


def test_a_direction_has_its_largest_entry_positive() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        vectors = rng.normal(size=(8, 5))
        for flipped in (vectors, -vectors):
            directions = principal_components(flipped).directions
            assert (directions[np.arange(2), np.abs(directions).argmax(axis=1)] > 0).all()


def test_too_many_directions_are_refused() -> None:
    with pytest.raises(ValueError, match="count=4; 6 vectors of width 3 have 1 to 3"):
        principal_components(VECTORS, 4)


def test_neighbours_are_nearest_by_cosine_without_the_word_itself() -> None:
    order, cosines = nearest_words(np.array([[2.0, 0], [1, 1], [0, 5], [-1, 0]]), 2)
    assert order.tolist() == [[1, 2], [0, 2], [1, 0], [2, 1]]
    assert cosines[0].tolist() == pytest.approx([0.5**0.5, 0])


def test_the_map_fills_its_frame_and_points_up_is_up() -> None:
    places = np.array(word_map(points=[[0, 0], [4, 2], [1, 1], [2, 0], [3, 2], [0, 2]]).places).reshape(-1, 2)
    assert places[0].tolist() == [0, 1000] and places[1].tolist() == [1000, 0]


def test_a_group_with_a_leading_underscore_is_in_the_legend() -> None:
    groups = ["__method__", "word", "word", "word", "word", "__method__"]
    (legend,) = WordMap(WORDS, VECTORS, groups, alt=ALT)._picture.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["__method__", "word"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"words": ["a", "b"]}, "words has 2 entries, but vectors has 6"),
        ({"groups": list("abcdefgh")[:6], "words": [*WORDS], "labels": ["nobody"]}, "'nobody' is not among"),
        ({"points": [[0, 0]]}, r"points has shape \(1, 2\); expected \(6, 2\)"),
        ({"word": "nobody"}, "'nobody' is not among the words of this map"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], told: str) -> None:
    arguments: dict[str, Any] = {"words": WORDS, "vectors": VECTORS, "groups": GROUPS, "alt": ALT}
    with pytest.raises(ValueError, match=told):
        WordMap(**arguments | change)


def test_too_many_words_or_groups_are_refused() -> None:
    many = MOST_WORDS + 1
    with pytest.raises(ValueError, match="at most 2,000"):
        WordMap([str(i) for i in range(many)], np.ones((many, 2)), alt=ALT)
    with pytest.raises(ValueError, match="8 groups; at most 7"):
        WordMap([str(i) for i in range(8)], np.eye(8), list("abcdefgh"), alt=ALT)


def test_while_building_the_same_map_gives_the_same_bytes_in_allowed_tags(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COURSE_BUILD", "1")
    first, second = (word_map(labels=["king"]).to_html() for _ in range(2))
    assert first == second
    static = first.split("<script>")[0]
    assert set(re.findall(r"<([a-z]+)", static)) == {"div", "img", "p"}
    assert ALT in static and "<b>bold" not in first
    bundle = word_map()._repr_mimebundle_()[0]
    assert set(bundle) == {"text/html", "text/plain"}
    assert bundle["text/plain"] == f"[word map] 6 words: {ALT}"


@pytest.fixture
def page(chromium: Browser, tmp_path: Path) -> Iterator[Page]:
    """The map in a page without a kernel; nothing may be requested or raised."""
    opened = chromium.new_page()
    opened.set_default_timeout(5_000)
    seen: list[str] = []
    opened.on("request", lambda request: seen.append(request.url))
    opened.on("pageerror", lambda error: seen.append(str(error)))
    path = tmp_path / "page.html"
    path.write_text(f'<!doctype html><meta charset="utf-8"><body>{word_map().to_html()}', encoding="utf-8")
    opened.goto(path.as_uri())
    yield opened
    opened.close()
    assert [entry for entry in seen if not entry.startswith("file:")] == []


def rows(page: Page) -> list[str]:
    return page.locator(".course-side td button").all_inner_texts()


@pytest.mark.browser
def test_hovering_a_word_lists_its_nearest_and_leaving_lets_go(page: Page) -> None:
    page.locator("[data-word='0']").hover()
    order, cosines = nearest_words(VECTORS, 3)
    assert rows(page) == [WORDS[place] for place in order[0]]
    expect(page.locator("caption")).to_contain_text("nearest to “king”")
    expect(page.locator(".course-side tr").first).to_contain_text(f"{cosines[0][0]:.2f}")
    page.locator("input").hover()
    expect(page.locator(".course-side")).to_contain_text("Hover a word")


@pytest.mark.browser
def test_searching_shows_the_matches_and_enter_takes_the_first(page: Page) -> None:
    page.get_by_role("searchbox").fill("ki")
    expect(page.locator(".course-side")).to_contain_text("2 of 6 words contain “ki”")
    assert sorted(page.locator(".course-label").all_text_contents()) == ["king", "kitchen"]
    page.keyboard.press("Enter")
    expect(page.locator(".course-main")).to_have_text("king")
    page.keyboard.press("ArrowDown")
    expect(page.locator(".course-main")).to_have_text("kitchen")
    page.keyboard.press("Escape")
    expect(page.locator(".course-side")).to_contain_text("Hover a word")
    page.get_by_role("searchbox").fill("nothing")
    expect(page.locator(".course-side")).to_contain_text("None of the 6 words")


@pytest.mark.browser
def test_a_click_keeps_a_word_and_a_click_on_a_neighbour_goes_there(page: Page) -> None:
    page.locator("[data-word='2']").click()
    page.locator("[data-word='0']").hover()
    expect(page.locator(".course-main")).to_have_text("kitchen")
    page.locator(".course-side td button").first.click()
    expect(page.locator(".course-main")).to_have_text("银行")


@pytest.mark.browser
def test_the_map_zooms_about_the_word_and_comes_back(page: Page) -> None:
    page.locator("[data-word='5']").click()
    place = page.locator("[data-word='5']").get_attribute("transform")
    other = page.locator("[data-word='0']").get_attribute("transform")
    page.get_by_role("button", name="zoom in").click()
    assert page.locator("[data-word='5']").get_attribute("transform") == place
    assert page.locator("[data-word='0']").get_attribute("transform") != other
    page.get_by_role("button", name="whole map").click()
    assert page.locator("[data-word='0']").get_attribute("transform") == other
