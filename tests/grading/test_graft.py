"""Only the text of answer cells gets through, and no cell's damage reaches another exercise.

Oracles: Python's own compiler (which sources are plain Python), IPython's transformer (which are not),
nbval's reader of comments, and nbformat's validator.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from IPython.core.inputtransformer2 import TransformerManager
from nbval.plugin import find_comment_markers

from course_lib.grading import graft as graft_module
from course_lib.grading.answers import is_answer
from course_lib.grading.graft import (
    MAX_BYTES,
    MAX_SOURCE,
    Cell,
    Extracted,
    context_cells,
    extract_answers,
    graft,
    ipython_line,
    program,
)

ROOT = Path(__file__).resolve().parents[2]
PRISTINE = nbformat.read(ROOT / "exercises" / "06_attention.ipynb", as_version=4)
STARTERS = {cell.id: cell.source for cell in PRISTINE.cells if is_answer(cell)}
IDS = sorted(STARTERS)
ANSWERS = {grade_id: f"answer_{index} = {index}" for index, grade_id in enumerate(IDS)}
SDPA = "attention-sdpa"
Json = dict[str, Any]


def submission() -> Json:
    """A submission with every answer changed, as plain JSON."""
    notebook = json.loads(nbformat.writes(PRISTINE))
    for cell in notebook["cells"]:
        cell["source"] = ANSWERS.get(cell["id"], cell["source"])
    return notebook


def cell_of(notebook: Json, grade_id: str) -> Json:
    return next(cell for cell in notebook["cells"] if cell["id"] == grade_id)


def extract(notebook: Any) -> Extracted:
    return extract_answers(json.dumps(notebook).encode(), PRISTINE)


def assert_others_untouched(extracted: Extracted, grade_id: str = SDPA) -> None:
    assert extracted.problem is None
    assert {key: extracted.answers[key] for key in IDS if key != grade_id} == {
        key: ANSWERS[key] for key in IDS if key != grade_id
    }
    assert set(extracted.notes) <= {grade_id}


# --- What is taken -----------------------------------------------------------------------------------------


def test_every_answer_is_taken_as_it_stands() -> None:
    extracted = extract(submission())
    assert extracted == Extracted(ANSWERS)


def test_an_untouched_notebook_gives_the_starters_without_a_note() -> None:
    extracted = extract_answers(nbformat.writes(PRISTINE).encode(), PRISTINE)
    assert extracted == Extracted(STARTERS)


@pytest.mark.parametrize("chapter", ["00_welcome", "03_tokenizers", "06_attention"])
def test_the_published_solutions_are_taken_whole(chapter: str) -> None:
    pristine = nbformat.read(ROOT / "exercises" / f"{chapter}.ipynb", as_version=4)
    raw = (ROOT / "solutions" / f"{chapter}.ipynb").read_bytes()
    solved = {cell.id: cell.source for cell in nbformat.reads(raw.decode(), 4).cells if is_answer(cell)}
    extracted = extract_answers(raw, pristine)
    assert (extracted.answers, extracted.notes, extracted.problem) == (solved, {}, None)


def test_a_byte_order_mark_and_windows_line_ends_change_nothing() -> None:
    notebook = submission()
    cell_of(notebook, SDPA)["source"] = "a = 1\r\nb = 2\rc = 3\n"
    extracted = extract_answers(b"\xef\xbb\xbf" + json.dumps(notebook).encode(), PRISTINE)
    assert extracted.answers[SDPA] == "a = 1\nb = 2\nc = 3\n"


def test_a_source_may_be_a_list_of_lines() -> None:
    notebook = submission()
    cell_of(notebook, SDPA)["source"] = ["a = 1\n", "b = 2"]
    assert extract(notebook).answers[SDPA] == "a = 1\nb = 2"


def test_the_order_of_cells_does_not_matter() -> None:
    notebook = submission()
    notebook["cells"].reverse()
    assert extract(notebook) == Extracted(ANSWERS)


def test_edited_metadata_outputs_and_check_cells_change_nothing() -> None:
    notebook = submission()
    notebook["metadata"] = {"course": {"chapter": "00_welcome"}}
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "passed"}]
        cell["metadata"]["tags"] = ["nbval-skip", "raises-exception"]
        cell["metadata"].setdefault("nbgrader", {}).update(
            points=1000, solution=False, locked=True, grade=True
        )
        if cell["id"].endswith("-check"):
            cell["source"] = "earned = 1000"
    extracted = extract(notebook)
    assert (extracted.answers, extracted.notes, extracted.problem) == (ANSWERS, {}, None)
    rebuilt = graft(PRISTINE, extracted.answers)
    for cell, pristine in zip(rebuilt.cells, PRISTINE.cells, strict=True):
        assert (cell.id, cell.metadata, cell.cell_type) == (
            pristine.id,
            pristine.metadata,
            pristine.cell_type,
        )
        assert cell.source == ANSWERS.get(cell.id, pristine.source)


def test_own_cells_and_changed_setup_are_left_behind_and_said_so() -> None:
    notebook = submission()
    notebook["cells"][1]["source"] += "\nimport helpers"
    notebook["cells"].append({"cell_type": "code", "id": "own", "metadata": {}, "source": "helper = 1"})
    extracted = extract(notebook)
    assert (extracted.answers, extracted.notes) == (ANSWERS, {})
    assert extracted.remarks == (
        "2 code cells outside the answers were added or changed and not run: an answer must hold all that it "
        "needs itself.",
    )


# --- Which cell counts -------------------------------------------------------------------------------------


def copy_of(notebook: Json, grade_id: str, source: str) -> Json:
    return deepcopy(cell_of(notebook, grade_id)) | {"id": "pasted", "source": source}


@pytest.mark.parametrize("before", [True, False])
def test_a_copy_does_not_replace_a_changed_original(before: bool) -> None:
    notebook = submission()
    copy = copy_of(notebook, SDPA, "copied = True")
    notebook["cells"].insert(0 if before else len(notebook["cells"]), copy)
    extracted = extract(notebook)
    assert extracted.answers == ANSWERS
    assert "2 times" in extracted.notes[SDPA]
    assert_others_untouched(extracted)


def test_the_first_changed_copy_counts_where_the_original_is_the_starter() -> None:
    notebook = submission()
    cell_of(notebook, SDPA)["source"] = STARTERS[SDPA] + "\n"
    copies = [copy_of(notebook, SDPA, source) for source in (STARTERS[SDPA], "first = 1", "second = 2")]
    notebook["cells"] += copies
    extracted = extract(notebook)
    assert extracted.answers[SDPA] == "first = 1"
    assert "4 times" in extracted.notes[SDPA]
    assert_others_untouched(extracted)


def test_an_answer_with_a_lost_grade_id_is_found_by_its_cell_id() -> None:
    notebook = submission()
    del cell_of(notebook, SDPA)["metadata"]["nbgrader"]
    extracted = extract(notebook)
    assert extracted.answers == ANSWERS
    assert "cell id" in extracted.notes[SDPA]
    assert_others_untouched(extracted)


def test_an_answer_with_a_lost_cell_id_is_found_by_its_grade_id() -> None:
    notebook = submission()
    for cell in notebook["cells"]:
        del cell["id"]
    assert extract(notebook) == Extracted(ANSWERS)


def test_an_answer_relabelled_as_another_stays_where_its_cell_id_says() -> None:
    notebook = submission()
    cell_of(notebook, SDPA)["metadata"]["nbgrader"]["grade_id"] = "attention-cross"
    extracted = extract(notebook)
    assert extracted.answers == ANSWERS
    assert_others_untouched(extracted)


def test_one_cell_never_answers_two_exercises() -> None:
    notebook = submission()
    notebook["cells"].remove(cell_of(notebook, "attention-cross"))
    cell_of(notebook, SDPA)["metadata"]["nbgrader"]["grade_id"] = "attention-cross"
    extracted = extract(notebook)
    assert extracted.answers == ANSWERS | {"attention-cross": ANSWERS[SDPA], SDPA: STARTERS[SDPA]}


def test_two_answers_with_swapped_cell_ids_are_told_apart_by_their_grade_ids() -> None:
    notebook = submission()
    first, second = cell_of(notebook, SDPA), cell_of(notebook, "attention-cross")
    first["id"], second["id"] = second["id"], first["id"]
    assert extract(notebook).answers == ANSWERS


def test_a_check_cell_is_never_taken_for_an_answer() -> None:
    notebook = submission()
    notebook["cells"].remove(cell_of(notebook, SDPA))
    cell_of(notebook, f"{SDPA}-check")["id"] = SDPA
    extracted = extract(notebook)
    assert extracted.answers[SDPA] == STARTERS[SDPA]
    assert_others_untouched(extracted)


def _delete(notebook: Json) -> None:
    notebook["cells"].remove(cell_of(notebook, SDPA))


def _rename(notebook: Json) -> None:
    cell = cell_of(notebook, SDPA)
    cell["id"] = cell["metadata"]["nbgrader"]["grade_id"] = "renamed"


def _set(key: str, value: Any) -> Callable[[Json], None]:
    return lambda notebook: cell_of(notebook, SDPA).__setitem__(key, value)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_delete, "missing"),
        (_rename, "missing or was renamed"),
        (_set("cell_type", "markdown"), "text cell"),
        (_set("cell_type", "raw"), "text cell"),
        (_set("cell_type", ["code"]), "text cell"),
        (_set("source", "x" * (MAX_SOURCE + 1)), "100,001 characters"),
        (_set("source", 7), "not text"),
        (_set("source", ["a", 1]), "not text"),
        (_set("source", None), "not text"),
        (_set("source", "a = '\0'"), "characters"),
        (_set("source", "a = '\udc80'"), "characters"),
        (_set("source", "a = 1\n%timeit a"), "Line 2"),
        (_set("source", "%%bash\nls"), "Line 1"),
        (_set("source", "!ls"), "Line 1"),
        (_set("source", "?print"), "Line 1"),
        (_set("source", "a = 1\n\nprint??  # what\n"), "Line 3"),
    ],
)
def test_an_unusable_answer_leaves_the_starter_and_one_sentence(
    damage: Callable[[Json], None], words: str
) -> None:
    notebook = submission()
    damage(notebook)
    extracted = extract(notebook)
    assert extracted.answers[SDPA] == STARTERS[SDPA]
    assert words in extracted.notes[SDPA]
    assert extracted.notes[SDPA].count(".") == 1 and extracted.notes[SDPA].endswith(".")
    assert_others_untouched(extracted)


def test_a_usable_copy_counts_where_the_original_is_refused() -> None:
    notebook = submission()
    cell_of(notebook, SDPA)["source"] = "%time 1"
    notebook["cells"].append(copy_of(notebook, SDPA, "usable = 1"))
    extracted = extract(notebook)
    assert extracted.answers[SDPA] == "usable = 1"
    assert_others_untouched(extracted)


@pytest.mark.parametrize("value", [None, 3, [], {}, "x", [[]], True])
@pytest.mark.parametrize("key", ["metadata", "id", "source", "cell_type", "outputs"])
def test_a_cell_of_any_shape_harms_only_its_own_exercise(key: str, value: Any) -> None:
    notebook = submission()
    cell_of(notebook, SDPA)[key] = value
    notebook["cells"].insert(0, value)
    assert_others_untouched(extract(notebook))


# --- nbval's comments and IPython's lines -------------------------------------------------------------------


@pytest.mark.parametrize(
    "comment",
    [
        "# NBVAL_SKIP",
        "   ##NBVAL_IGNORE_OUTPUT  ",
        "#NBVAL_RAISES_EXCEPTION",
        "# PYTEST_VALIDATE_IGNORE_OUTPUT",
    ],
)
@pytest.mark.parametrize("template", ["{}\na = 1", "a = 1\n{}", '"""\n{}\n"""', "a = 1\x0c{}\x1cb = 2"])
def test_nbval_obeys_no_comment_of_an_answer(comment: str, template: str) -> None:
    source = template.format(comment)
    assert list(find_comment_markers(source))
    notebook = submission()
    cell_of(notebook, SDPA)["source"] = source
    extracted = extract(notebook)
    assert not list(find_comment_markers(extracted.answers[SDPA]))
    assert extracted.answers[SDPA].count("\n") == source.count("\n")
    assert_others_untouched(extracted)


@pytest.mark.parametrize(
    "source",
    [
        "a = (7\n    % 2)",
        "a = 7 \\\n  % 2",
        '"""Is it?\n% no\n! no\n"""',
        "a = 1  # is it?",
        "a = '\\\n% text'",
        "a = [1,  # (\n  2,\n# ?\n]\nb = 1",
        "a = 'it''s'\nb = \"# %\"",
        "r'\\''\nr\"\\\\\"",
        "a = f'{1!r}'",
        "a = 1 != 2",
    ],
)
def test_plain_python_is_never_taken_for_a_command(source: str) -> None:
    compile(source, "answer", "exec")
    assert ipython_line(source) is None


def test_no_file_of_the_standard_library_is_taken_for_a_command() -> None:
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[::3]
    assert len(files) > 40
    for file in files:
        assert ipython_line(file.read_text(encoding="utf-8", errors="replace")) is None, file


PIECES = [
    "a",
    "'",
    '"',
    '"""',
    "#",
    "(",
    ")",
    "\n",
    "%",
    "!",
    "?",
    "\\",
    " ",
    "1",
    "=",
    ":",
    "[",
    "]",
    "b + ",
]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
def test_what_python_compiles_is_never_a_command(source: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compile(source, "answer", "exec")
        except (SyntaxError, ValueError):
            return
    assert ipython_line(source) is None


@pytest.mark.parametrize(
    "line", ["%time f()", "%%timeit\nf()", "!ls -l", "!!ls", "?f", "f?", "f??", "  %time f()", "%ls it's (a"]
)
def test_what_ipython_transforms_is_a_command(line: str) -> None:
    assert TransformerManager().transform_cell(line).strip() != line.strip()
    assert ipython_line(line) == 1
    assert ipython_line(f"a = (1,\n2)\n{line}") == 3


# --- Files that are no notebooks ---------------------------------------------------------------------------


def _with(**changes: Any) -> bytes:
    return json.dumps(submission() | changes).encode()


VALID = json.dumps(submission()).encode()
BAD_FILES = {
    "empty": b"",
    "spaces": b" \n ",
    "truncated": VALID[: len(VALID) // 2],
    "trailing": VALID + b"}",
    "not json": b"<html>Please log in</html>",
    "NUL": VALID[:50] + b"\0" + VALID[50:],
    "UTF-16": VALID.decode().encode("utf-16-le").replace(b"\0", b"\1") + b"\xff",
    "latin-1": VALID.replace(b"answer_1", b"answer_\xe9"),
    "a list": b"[1, 2]",
    "a number": b"4",
    "null": b"null",
    "format 3": _with(nbformat=3, worksheets=[]),
    "format true": _with(nbformat=True),
    "format text": _with(nbformat="4"),
    "format huge": _with(nbformat=10**300),
    "no cells": b'{"nbformat": 4}',
    "cells an object": _with(cells={}),
    "100,000 cells": _with(cells=[{"cell_type": "code", "source": ""}] * 100_000),
    "deep lists": b"[" * 2_000_000,
    "deep objects": b'{"cells":' * 200_000 + b"1" + b"}" * 200_000,
    "deep in an output": _with(outputs="@").replace(b'"@"', b"[" * 5_000 + b"]" * 5_000),
    "duplicate keys": VALID.replace(b'"nbformat": 4', b'"nbformat": 4, "nbformat": 4', 1),
    "duplicate sources": VALID.replace(b'"source":', b'"source": "", "source":', 1),
    "a huge integer": _with(count="@").replace(b'"@"', b"9" * 1_000_000),
    "a huge fraction": _with(count="@").replace(b'"@"', b"9" * 1_000_000 + b".5"),
    "many values": b"[" + b"[]," * 1_500_000 + b"[]]",
    "unclosed text": b'{"cells": "' + b'\\"' * 1_000_000,
    "lone backslash": b'{"cells": "' + b'\\"' * 1_000_000 + b"\\",
    "too large": b" " * (MAX_BYTES + 1),
    "another chapter": (ROOT / "exercises" / "00_welcome.ipynb").read_bytes(),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_is_no_notebook_is_a_problem_in_one_sentence(name: str) -> None:
    extracted = extract_answers(BAD_FILES[name], PRISTINE)
    assert extracted.answers == STARTERS
    assert extracted.notes == {}
    problem = extracted.problem or ""
    assert len(problem) < 160 and problem.endswith((".", "?"))
    assert "\n" not in problem and ". " not in problem


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("deep lists", "100 deep"),
        ("deep in an output", "100 deep"),
        ("many values", "2,000,000 values"),
        ("100,000 cells", "100,000 cells"),
        ("duplicate keys", "one key twice"),
        ("a huge integer", "1,000,000 digits"),
        ("too large", "33,554,433 bytes"),
        ("format 3", "format is 3"),
        ("truncated", "stops or breaks at character"),
        ("another chapter", "right one?"),
    ],
)
def test_the_sentence_says_what_is_wrong(name: str, words: str) -> None:
    assert words in (extract_answers(BAD_FILES[name], PRISTINE).problem or "")


@pytest.mark.parametrize("text", ["1e999999", "-0.5", "NaN", "-Infinity", "123456789012345678901234567890"])
def test_unusual_numbers_outside_the_answers_are_no_problem(text: str) -> None:
    raw = _with(count="@").replace(b'"@"', text.encode())
    assert extract_answers(raw, PRISTINE) == Extracted(ANSWERS)


def test_a_large_output_is_no_problem() -> None:
    notebook = submission()
    cell_of(notebook, SDPA)["outputs"] = [
        {"data": {"image/png": "A" * 20_000_000}, "rows": [[1] * 1000] * 100}
    ]
    assert extract(notebook) == Extracted(ANSWERS)


# --- Any bytes, any mutation -------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_never_raise(raw: bytes) -> None:
    extracted = extract_answers(raw, PRISTINE)
    assert extracted.problem and extracted.answers == STARTERS


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_mutated_bytes_never_raise_and_every_exercise_keeps_an_answer(data: st.DataObject) -> None:
    raw = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 8))):
        start = data.draw(st.integers(0, len(raw)))
        length = data.draw(st.sampled_from([0, 1, 1, 1, 3, 500]))
        raw[start : start + length] = data.draw(
            st.one_of(st.binary(max_size=4), st.sampled_from(list(JSON_BITS)))
        )
    extracted = extract_answers(bytes(raw), PRISTINE)
    assert set(extracted.answers) == set(IDS)
    assert set(extracted.notes) <= set(IDS)
    if extracted.problem:
        assert extracted.answers == STARTERS


JSON_BITS = (
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\\",
    b"null",
    b'"id"',
    b'"source"',
    b"\\ud800",
    b"9" * 500,
)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_mutated_bytes_of_one_answer_never_change_another(data: st.DataObject) -> None:
    start = VALID.index(json.dumps(ANSWERS[SDPA]).encode())
    place = data.draw(st.integers(start, start + len(ANSWERS[SDPA])))
    removed = data.draw(st.integers(0, start + len(ANSWERS[SDPA]) + 2 - place))
    put = data.draw(st.one_of(st.binary(max_size=6), st.sampled_from(JSON_BITS)))
    extracted = extract_answers(VALID[:place] + put + VALID[place + removed :], PRISTINE)
    if extracted.problem:
        assert extracted.answers == STARTERS
    else:
        assert_others_untouched(extracted)


LABELS = st.sampled_from([*IDS, f"{SDPA}-check", "", "new"])
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | LABELS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_mutation_of_one_answer_cell_changes_another_exercise(data: st.DataObject) -> None:
    notebook = submission()
    own = cell_of(notebook, SDPA)
    unsolved = data.draw(st.sets(st.sampled_from([key for key in IDS if key != SDPA])))
    for grade_id in unsolved:
        cell_of(notebook, grade_id)["source"] = STARTERS[grade_id]
    for _ in range(data.draw(st.integers(1, 4))):
        what = data.draw(st.sampled_from(["key", "grade_id", "nbgrader", "copy", "move"]))
        if what == "key":
            key = data.draw(st.sampled_from(["cell_type", "metadata", "source", "outputs", "attachments"]))
            own[key] = data.draw(JSON_VALUES)
        elif what == "grade_id":
            own["metadata"] = {"nbgrader": {"grade_id": data.draw(LABELS), "solution": True}}
        elif what == "nbgrader":
            own["metadata"] = {"nbgrader": data.draw(JSON_VALUES)}
        elif what == "copy":
            notebook["cells"].insert(data.draw(st.integers(0, 20)), deepcopy(own))
        else:
            notebook["cells"].remove(own)
            notebook["cells"].insert(data.draw(st.integers(0, 20)), own)
    extracted = extract(notebook)
    assert extracted.problem is None
    for grade_id in set(IDS) - {SDPA}:
        assert extracted.answers[grade_id] == (STARTERS if grade_id in unsolved else ANSWERS)[grade_id]
        assert grade_id not in extracted.notes


# --- The rebuilt notebook and program ----------------------------------------------------------------------


def test_a_graft_is_a_valid_copy_with_the_answers_and_without_outputs() -> None:
    pristine = deepcopy(PRISTINE)
    pristine.cells[1].outputs = [nbformat.v4.new_output("stream", text="old")]
    pristine.cells[1].execution_count = 3
    before = nbformat.writes(pristine)
    rebuilt = graft(pristine, {SDPA: "a = 1"})
    nbformat.validate(rebuilt)
    assert nbformat.writes(pristine) == before
    sources = {cell.id: cell.source for cell in rebuilt.cells}
    assert sources == {cell.id: cell.source for cell in PRISTINE.cells} | {SDPA: "a = 1"}
    assert all(
        not cell.outputs and cell.execution_count is None for cell in rebuilt.cells if "outputs" in cell
    )
    assert rebuilt.metadata == PRISTINE.metadata


def test_the_program_holds_setup_and_answers_in_order_and_no_check() -> None:
    cells = program(PRISTINE, {SDPA: "a = 1"})
    assert cells[0] == Cell(None, PRISTINE.cells[1].source)
    assert [cell.grade_id for cell in cells[1:]] == [cell.id for cell in PRISTINE.cells if is_answer(cell)]
    sources = {cell.grade_id: cell.source for cell in cells[1:]}
    assert sources == STARTERS | {SDPA: "a = 1"}


def test_context_cells_are_those_of_the_program_without_a_grade_id() -> None:
    pristine = nbformat.read(ROOT / "exercises" / "00_welcome.ipynb", as_version=4)
    context = context_cells(pristine)
    assert context == [cell.source for cell in program(pristine, {}) if cell.grade_id is None]
    assert len(context) == 2
    assert not any("check(" in source or "progress(" in source for source in context)


@pytest.mark.parametrize("rebuild", [graft, program])
def test_an_unknown_grade_id_is_refused(rebuild: Callable[..., Any]) -> None:
    with pytest.raises(KeyError, match=r"attention-unknown; this notebook has attention-"):
        rebuild(PRISTINE, {"attention-unknown": ""})


def test_no_torch_is_imported() -> None:
    code = f"import sys, {graft_module.__name__}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
