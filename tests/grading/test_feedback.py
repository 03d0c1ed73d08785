"""The feedback page, read as a browser would, with secrets planted wherever they might come from."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from course_lib.checks.exercise import Case, Exercise, Misconception
from course_lib.checks.values import Raised
from course_lib.grading.book import Book, Entry, Override, Paper, Row, content_key
from course_lib.grading.decide import Mark, decide
from course_lib.grading.feedback import page

HIDDEN_CASE, HIDDEN_VALUE, SEED, OTHER = "HIDDENCASE-1", "HIDDENVALUE-2", "SEED-3", "OTHERLEARNER-4"
STAFF = "STAFFNAME-5"
ATTACK = "</code></pre><script>alert(1)</script><img src=//evil.example/x onerror=alert(1)>"
EXERCISE = Exercise(
    id="attention/sdpa",
    title="Attention & <masks>",
    points=3,
    minutes=1,
    difficulty=1,
    cases=lambda rng: [],
    probe=lambda answer, case: {},
    reference=None,
    misconceptions=(Misconception("the sign is wrong", None, "Look at *the sign* of `x < 0`."),),
    also_right=(),
    hints=("", "", ""),
)
CASES = [Case("two rows", {}), Case(HIDDEN_CASE, {"seed": SEED}, hidden=True)]
EXPECTED = [{"the text": "right"}, {"the text": HIDDEN_VALUE}]


class Reader(HTMLParser):
    """Every tag with its attributes, and the text outside the style sheet."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def row(*entries: Entry, **changes: Any) -> Row:
    made = Row(
        id=1,
        learner="ada",
        assignment="06_attention",
        name="06_attention.ipynb",
        received="2026-03-01T12:00:00.000000Z",
        late=False,
        sha256="0" * 64,
        key="k",
        problem="",
        counts=True,
        entries=entries,
        answers={"attention-sdpa": "def attention(query):\n    return query < 0"},
    )
    return replace(made, **changes)


def entry(status: str = "failed", earned: int | None = 0, override: Override | None = None) -> Entry:
    return Entry(Mark("attention/sdpa", "Attention", 3, earned, status, cases=1), override)


def test_the_page_of_a_gradebook_holds_no_hidden_case_seed_path_or_other_learner(tmp_path: Path) -> None:
    failing = Raised("ValueError", f"{HIDDEN_VALUE} {SEED} at /srv/grader/{OTHER}/x", 1, HIDDEN_VALUE)
    for actual in ([EXPECTED[0], {"the text": HIDDEN_VALUE + "!"}], [EXPECTED[0], failing]):
        mark = decide(EXERCISE, CASES, EXPECTED, actual)
        assert any(HIDDEN_VALUE in text for text in mark.private)
        with Book.open(tmp_path / f"{len(mark.private[0])}.sqlite") as book:
            run = book.begin_run(SEED, note=SEED)
            answers = {"attention-sdpa": "x = 1"}
            own = content_key(answers, "06_attention", SEED)
            for learner in ("ada", OTHER):
                number = book.record(
                    Paper(learner, "06_attention", "n"), own, [mark], answers=answers, run=run
                )
                book.override(number, "attention/sdpa", 1, reason="partly right", who=STAFF)
            text = page(book.rows()[1])
        assert "ada" in text and "partly right" in text and "a case that is not shown" in text
        for secret in (HIDDEN_CASE, HIDDEN_VALUE, SEED, OTHER, STAFF, "/srv", "sqlite", str(tmp_path), own):
            assert secret not in text


def test_paths_in_the_learners_own_errors_are_cut() -> None:
    raised = Raised("FileNotFoundError", "no file /srv/grader/run/secret.txt")
    text = page(row(Entry(decide(EXERCISE, CASES, EXPECTED, [raised, EXPECTED[1]]))))
    assert "…/secret.txt" in text and "/srv" not in text


def test_why_something_is_ungraded_is_for_staff() -> None:
    mark = Mark("attention/sdpa", "t", 3, None, "ungraded", private=(f"worker at /srv/{SEED} broke",))
    text = page(row(Entry(mark)))
    assert SEED not in text and "/srv" not in text
    assert "no mark yet, of 3 points" in text and "0 of 3" not in text


def test_the_learner_sees_their_source_the_verdict_the_sentence_and_the_points() -> None:
    wrong = [{"the text": "wrong"}, {"the text": "wrong"}]
    mark = decide(EXERCISE, CASES, EXPECTED, wrong, wrong={"the sign is wrong": wrong})
    notes = {"attention-sdpa": "Two cells had its id."}
    read = Reader(page(row(Entry(mark), late=True, notes=notes, problem="A cell was missing.")))
    for told in (
        "def attention(query):\n    return query < 0",
        "✗ Not yet · 0 of 3 points",
        "This looks like: the sign is wrong.",
        "Look at the sign of x < 0.",
        "On two rows, the text is 'wrong'; expected 'right'.",
        "2 of 2 cases failed.",
        "Attention & <masks>",
        "(late)",
        "received 2026-03-01 12:00 UTC",
        "Two cells had its id.",
        "A cell was missing.",
    ):
        assert told in read.text
    assert ("em", {}) in read.tags and read.open == []


def test_nothing_that_a_learner_wrote_becomes_markup() -> None:
    bad = Raised(ATTACK, f"`{ATTACK}` *{ATTACK}*", 1, ATTACK)
    mark = decide(EXERCISE, CASES, EXPECTED, [bad, bad])
    made = row(
        Entry(mark, Override(1, ATTACK, ATTACK, "")),
        learner=ATTACK,
        assignment=ATTACK,
        problem=ATTACK,
        answers={"attention-sdpa": ATTACK},
        notes={"attention-sdpa": ATTACK},
    )
    read = Reader(page(made))
    allowed = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "pre", "code", "div", "em"}
    assert {tag for tag, _ in read.tags} <= allowed | {"table", "tr", "th", "td", "strong"}
    assert {name for _, attributes in read.tags for name in attributes} <= {
        *("lang", "charset", "http-equiv", "content", "name", "class", "scope")
    }
    assert read.text.count("<script>alert(1)</script>") >= 5


def test_the_page_runs_no_script_and_asks_for_nothing_outside() -> None:
    text = page(row(entry()))
    policies = [a["content"] for tag, a in Reader(text).tags if a.get("http-equiv")]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"]
    assert not re.search(r"<script|<link|<img|<iframe|@import|url\(|src=|href=|https?:|javascript:", text)


def test_characters_that_hide_or_turn_text_are_shown_as_marks() -> None:
    source = "a = 1\u202e  # \u2066x\u200b\x00\x1b[31m\ud800\tb\r\nc\rd"
    text = page(row(entry(), answers={"attention-sdpa": source}))
    text.encode("utf-8")
    assert not re.search("[\u202e\u2066\u200b\x00\x1b\ud800\r]", text)
    assert "a = 1�  # �x���[31m?\tb\nc�d" in text


@pytest.mark.parametrize(
    ("status", "earned", "sign"),
    [
        ("passed", 3, "✓ Passed"),
        ("failed", 0, "✗ Not yet"),
        ("timeout", 0, "✗ Stopped"),
        ("not started", 0, "○ Not started"),
        ("ungraded", None, "? Not graded yet"),
    ],
)
def test_every_verdict_has_a_sign_a_word_and_a_border_of_its_own(
    status: str, earned: int | None, sign: str
) -> None:
    text = page(row(entry(status, earned)))
    name = status.replace(" ", "-")
    assert Reader(text).text.count(sign) == 2
    assert f'<div class="card {name}">' in text
    assert re.search(rf"\.{name}\b[^}}]*{{ border-left: 6px (solid|double|dotted|dashed)", text)


def test_a_decision_of_staff_is_what_counts_on_the_page() -> None:
    text = Reader(page(row(entry(override=Override(3, "right after all", STAFF, ""))))).text
    assert "✓ Passed · 3 of 3 points" in text and "Decided by staff: right after all" in text


def test_a_submission_without_marks_or_answers_says_so() -> None:
    assert "Nothing of this submission has been graded yet." in Reader(page(row())).text
    assert "No answer was found." in Reader(page(row(entry("not started"), answers={}))).text
