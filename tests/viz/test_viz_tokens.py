"""The tokenizer explorer: every tokenizer's pieces, counted right, whatever the text and whatever fails."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from course_lib.viz import TokenizerExplorer
from course_lib.viz.tokens import MOST_CHARACTERS, cut, static_table


class Library:
    """A tokenizer of the `tokenizers` library behind the explorer's two methods."""

    def __init__(self) -> None:
        vocabulary = {"[UNK]": 0, "the": 1, "river": 2, "bank": 3, "<b>": 4}
        self.inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
        self.inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()

    def tokens(self, text: str) -> list[str]:
        return list(self.inner.encode(text).tokens)

    def encode(self, text: str) -> list[int]:
        return list(self.inner.encode(text).ids)


class Bytes:
    """One token a byte; shows the byte's number."""

    unk_token = None

    def tokens(self, text: str) -> list[str]:
        return [chr(0x100 + byte) for byte in text.encode()]

    def pieces(self, text: str) -> list[str]:
        return [f"\\x{byte:02x}" for byte in text.encode()]

    def encode(self, text: str) -> list[int]:
        return list(text.encode())


class Broken(Bytes):
    def encode(self, text: str) -> list[int]:
        raise RuntimeError("no <merges> were trained")


@pytest.fixture
def building(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COURSE_BUILD", "1")


def test_a_row_holds_pieces_ids_and_marks_the_unknown() -> None:
    row = cut("words", Library(), "the 银行 bank")
    assert row["pieces"] == [
        ("the", "the", 1, False),
        ("[UNK]", "[UNK]", 0, True),
        ("bank", "bank", 3, False),
    ]
    assert row["count"] == 3
    assert row["bytes_per_token"] == pytest.approx(len("the 银行 bank".encode()) / 3, abs=0.0005)


def test_the_pieces_for_people_are_shown_where_a_tokenizer_has_them() -> None:
    row = cut("bytes", Bytes(), "é")
    assert [piece[0] for piece in row["pieces"]] == ["\\xc3", "\\xa9"]
    assert [piece[2] for piece in row["pieces"]] == [0xC3, 0xA9]


def test_an_own_unknown_token_is_the_only_one_marked() -> None:
    class Own(Library):
        unk_token = "river"

    row = cut("own", Own(), "river 银行")
    assert [piece[3] for piece in row["pieces"]] == [True, False]


def test_one_that_fails_says_so_and_leaves_the_others() -> None:
    explorer = TokenizerExplorer({"broken": Broken(), "bytes": Bytes()}, "ab")
    assert [row["error"] for row in explorer.rows] == ["RuntimeError: no <merges> were trained", ""]
    assert explorer.rows[1]["count"] == 2
    assert "no &lt;merges&gt;" in explorer.to_html()


def test_tokens_and_ids_that_do_not_pair_are_an_error() -> None:
    class Uneven(Bytes):
        def encode(self, text: str) -> list[int]:
            return [1]

    assert cut("uneven", Uneven(), "abc")["error"].startswith(
        "ValueError: tokens() gives 3 tokens and encode() 1"
    )


def test_the_rows_follow_the_text() -> None:
    explorer = TokenizerExplorer({"bytes": Bytes(), "words": Library()}, "the")
    assert [row["count"] for row in explorer.rows] == [3, 1]
    explorer.text = "the river"
    assert [row["count"] for row in explorer.rows] == [9, 2]
    explorer.text = ""
    assert [(row["count"], row["bytes_per_token"], row["error"]) for row in explorer.rows] == [
        (0, 0, ""),
        (0, 0, ""),
    ]


def test_the_explorer_follows_the_page_as_it_sends_what_was_typed() -> None:
    explorer = TokenizerExplorer({"words": Library()}, "the")
    explorer.set_state({"text": "river bank the"})
    assert [piece[0] for piece in explorer.rows[0]["pieces"]] == ["river", "bank", "the"]


def test_a_long_text_is_cut_and_its_row_says_how_many_pieces_are_left_out() -> None:
    explorer = TokenizerExplorer({"bytes": Bytes()}, "x" * 5_000)
    assert len(explorer.text) == MOST_CHARACTERS
    (row,) = explorer.rows
    assert row["count"] == MOST_CHARACTERS
    assert len(row["pieces"]) + row["left_out"] == MOST_CHARACTERS
    assert f"and {row['left_out']} more" in explorer.to_html()


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=30))
def test_any_text_gives_rows_that_travel_as_json_and_html_without_markup_of_its_own(text: str) -> None:
    rows = [cut("bytes", Bytes(), text), cut("<i>words</i>", Library(), text)]
    json.dumps(rows, allow_nan=False)
    html = static_table(text, rows)
    assert "<i>" not in html
    assert html.count("<span") == sum(len(row["pieces"]) for row in rows)


def test_building_gives_html_alone_and_the_same_bytes_twice(building: None) -> None:
    first, second = (TokenizerExplorer({"bytes": Bytes()}, "<b> x").to_html() for _ in range(2))
    assert first == second
    explorer = TokenizerExplorer({"bytes": Bytes()}, "<b> x")
    assert set(explorer._repr_mimebundle_()[0]) == {"text/html", "text/plain"}
    assert explorer.comm is None
    assert "&lt;b&gt; x" in first and "<script" not in first


def test_the_html_uses_only_what_jupyterlabs_sanitiser_lets_pass(building: None) -> None:
    html = TokenizerExplorer({"words": Library(), "broken": Broken()}, "the 银行 <b>").to_html()
    tags = set(re.findall(r"<([a-z]+)", html))
    attributes = set(re.findall(r" ([a-z-]+)=\"", html))
    assert tags == {"div", "table", "tr", "th", "td", "b", "span", "small", "bdi", "p"}
    assert attributes == {"style", "title"}
    assert "flex" not in html


def test_the_summary_counts_for_front_ends_without_html() -> None:
    explorer = TokenizerExplorer({"words": Library(), "broken": Broken()}, "the bank")
    assert explorer.summary() == (
        "[tokenizer explorer] tokens of 'the bank': words: 2, broken: RuntimeError: no <merges> were trained"
    )


def test_what_is_no_tokenizer_is_named() -> None:
    wrong: Any = {"mine": object()}
    with pytest.raises(TypeError, match=r"tokenizers\['mine'\] lacks tokens and encode\(\)"):
        TokenizerExplorer(wrong)
    with pytest.raises(ValueError, match="tokenizers is empty"):
        TokenizerExplorer({})
