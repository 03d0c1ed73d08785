"""Cell ids survive edits of the text."""

from __future__ import annotations

import random
import re
from difflib import SequenceMatcher

from hypothesis import given, settings
from hypothesis import strategies as st
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

from course_lib.authoring.identity import align, assign_ids, similarity

VALID = re.compile(r"[a-zA-Z0-9\-_]{1,64}")


def with_ids(cells: list[NotebookNode], committed: list[NotebookNode] = []) -> list[NotebookNode]:  # noqa: B006
    for cell, cell_id in zip(cells, assign_ids("01_one", cells, committed), strict=True):
        cell.id = cell_id
    return cells


def lesson(rng: random.Random, length: int) -> list[NotebookNode]:
    words = ["query", "key", "value", "mask", "scale", "softmax", "token", "vector", "loss", "layer"]
    return [
        rng.choice([new_code_cell, new_markdown_cell])(
            f"unique_{number} " + " ".join(rng.choices(words, k=rng.randint(3, 25)))
        )
        for number in range(length)
    ]


def test_ids_are_valid_unique_and_the_same_every_time():
    sources = ["# Attention, or: 苹果 & Co.", "x = 1", "x = 1", "", "", "   ", "%%%", "é" * 200, "a" * 500]
    first = assign_ids("01_one", [new_code_cell(source) for source in sources], [])
    again = assign_ids("01_one", [new_code_cell(source) for source in sources], [])
    assert first == again
    assert len(set(first)) == len(first)
    assert all(VALID.fullmatch(cell_id) for cell_id in first)


def test_a_new_id_is_named_after_the_heading():
    cell = new_markdown_cell("Text before.\n\n## Why 1/√d_k?\n\nText.")
    assert assign_ids("06_attention", [cell], [])[0].startswith("why-1-d-k-")


def test_two_chapters_give_the_same_text_different_ids():
    cell = new_markdown_cell("## The problem")
    assert assign_ids("01_one", [cell], []) != assign_ids("02_two", [cell], [])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), data=st.data())
def test_untouched_cells_keep_their_ids_under_insertions_deletions_and_moves(seed: int, data: st.DataObject):
    rng = random.Random(seed)
    before = with_ids(lesson(rng, 12))
    known = {cell.source: cell.id for cell in before}
    after = [
        new_code_cell(c.source) if c.cell_type == "code" else new_markdown_cell(c.source) for c in before
    ]
    for _ in range(data.draw(st.integers(1, 4))):
        place = rng.randrange(len(after))
        edit = rng.choice(["delete", "insert", "move"])
        if edit == "delete":
            del after[place]
        elif edit == "insert":
            after.insert(place, new_markdown_cell(f"Quite another thing {rng.random()}"))
        else:
            after.insert(rng.randrange(len(after)), after.pop(place))
    with_ids(after, before)
    assert len({cell.id for cell in after}) == len(after)
    for cell in after:
        if cell.source in known:
            assert cell.id == known[cell.source]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_cell_whose_words_change_a_little_keeps_its_id(seed: int):
    rng = random.Random(seed)
    before = with_ids(lesson(rng, 10))
    after = [
        new_code_cell(c.source) if c.cell_type == "code" else new_markdown_cell(c.source) for c in before
    ]
    for place in rng.sample(range(10), 3):
        after[place].source = after[place].source + "\nand one more word"
    with_ids(after, before)
    assert [cell.id for cell in after] == [cell.id for cell in before]


def test_a_cell_that_shares_little_gets_a_new_id():
    before = with_ids([new_code_cell("alpha = compute_everything(at_once)")])
    after = with_ids([new_code_cell("%timeit -n 3 print(len(words))")], before)
    assert after[0].id != before[0].id


def test_text_that_becomes_code_gets_a_new_id():
    before = with_ids([new_markdown_cell("the same words")])
    assert with_ids([new_code_cell("the same words")], before)[0].id != before[0].id


def test_reserved_ids_are_never_given_out():
    committed = [new_markdown_cell("Text", id="one-double")]
    assert assign_ids("01_one", [new_markdown_cell("Text")], committed, {"one-double"}) != ["one-double"]


def test_broken_ids_of_a_committed_notebook_are_not_taken_over():
    committed = [NotebookNode(cell_type="code", source=f"x = {n}", metadata={}) for n in range(4)]
    committed[0].id, committed[1].id, committed[2].id = "same", "same", "not valid!"
    ids = assign_ids("01_one", [new_code_cell(f"x = {n}") for n in range(4)], committed)
    assert ids[0] == "same" and len(set(ids)) == 4
    assert all(VALID.fullmatch(cell_id) for cell_id in ids)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("abc ", max_size=12), max_size=8), st.lists(st.text("abc ", max_size=12), max_size=8))
def test_alignment_uses_every_old_cell_once_and_pairs_only_similar_ones(new: list[str], old: list[str]):
    partner = align([("code", text) for text in new], [("code", text) for text in old])
    used = [place for place in partner if place is not None]
    assert len(set(used)) == len(used)
    for text, place in zip(new, partner, strict=True):
        if place is not None and text != old[place]:
            assert SequenceMatcher(None, text, old[place], autojunk=False).ratio() >= 0.5


def test_similarity_is_that_of_the_texts():
    assert similarity(("code", "abcd"), ("code", "abcd")) == 1.0
    assert similarity(("code", "abcd"), ("markdown", "abcd")) == 0.0
