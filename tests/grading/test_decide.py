"""The verdict, held against stock `pytest --nbval`, against the self-study comparison, and against leaks."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from course_lib.checks.compare import INPUTS, RETURNED, compare
from course_lib.checks.engine import run_answer
from course_lib.checks.exercise import Case, Exercise, Misconception, Tolerance
from course_lib.checks.registry import all_exercises, get
from course_lib.checks.scores import with_truth
from course_lib.checks.values import Array, Opaque, Raised
from course_lib.grading import decide as module
from course_lib.grading.decide import (
    ENDINGS,
    Mark,
    agree,
    as_notebook,
    decide,
    public_first,
    render,
    rendered,
    settle,
)

SEED = 20_260
CANARY = "CANARY-4f1d"


def exercise(**changes: Any) -> Exercise:
    """An exercise of which nothing is run."""
    entry = Exercise(
        id="topic/name",
        title="A title",
        points=3,
        minutes=1,
        difficulty=1,
        cases=lambda rng: [],
        probe=lambda answer, case: {},
        reference=None,
        misconceptions=(Misconception("the sign is wrong", None, "Look at the *sign*."),),
        also_right=(),
        hints=("", "", ""),
    )
    return replace(entry, **changes)


def array(data: Any, dtype: str = "float32", container: str = "torch.Tensor", device: str = "cpu") -> Array:
    return Array(
        np.asarray(data, dtype="float32" if dtype == "bfloat16" else dtype), dtype, container, device
    )


def values(value: Any) -> dict[str, Any]:
    return {"the output": value, INPUTS: "as they were"}


PUBLIC, HIDDEN = Case("two rows", {}), Case(f"{CANARY} a single row", {}, hidden=True)
RIGHT = values(array([1.0, 2.0]))


@cache
def case_values(exercise_id: str) -> tuple[list[Case], list[Any], dict[str, list[Any]]]:
    """Cases, the reference's values, and by name those of right and wrong answers."""
    entry = get(exercise_id)
    cases = public_first(entry.cases(np.random.default_rng(SEED)))
    answers = {f"right {index}": answer for index, answer in enumerate(entry.also_right)}
    answers |= {wrong.name: wrong.answer for wrong in entry.misconceptions}
    answers["starter"] = _starter
    # The reference may be the library's own version, which no answer may call.
    expected = run_answer(replace(entry, forbidden=()), entry.reference, cases)
    return cases, expected, {name: run_answer(entry, answer, cases) for name, answer in answers.items()}


def _starter(*args: Any, **kwargs: Any) -> None:
    raise NotImplementedError


@pytest.fixture(scope="module")
def stock_outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, bool, bool]]:
    """For cases of every exercise, right and wrong: (which, what we say, what stock nbval says)."""
    names, pairs, ours = [], [], []
    for exercise_id, entry in all_exercises().items():
        cases, expected, answers = case_values(exercise_id)
        expected = [with_truth(entry, case, want) for case, want in zip(cases, expected, strict=True)]
        for name, actual in answers.items():
            for want, got in list(zip(expected, actual, strict=False))[::3]:
                names.append(f"{exercise_id}: {name}")
                pairs.append(rendered(entry, want, got))
                ours.append(agree(entry, want, got))
    theirs = run_stock_nbval(tmp_path_factory.mktemp("nbval"), pairs)
    return list(zip(names, ours, theirs, strict=True))


def run_stock_nbval(folder: Path, pairs: Sequence[tuple[str, str]]) -> list[bool]:
    """Whether `pytest --nbval`, with no plugin of ours, passes each cell."""
    notebook, junit = folder / "rendered.ipynb", folder / "junit.xml"
    nbformat.write(as_notebook(pairs), notebook)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--nbval",
        "--nbval-current-env",
        "-q",
        "-p",
        "no:cacheprovider",
    ]
    command += [f"--junitxml={junit}", "--assert=plain", f"--rootdir={folder}", "-c", os.devnull]
    done = subprocess.run([*command, str(notebook)], capture_output=True, text=True, cwd=folder)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return [len(case.findall("failure")) == 0 for case in ElementTree.parse(junit).iter("testcase")]


def test_stock_nbval_says_what_we_say_over_every_exercise_right_and_wrong(
    stock_outcomes: list[tuple[str, bool, bool]],
) -> None:
    assert [row for row in stock_outcomes if row[1] != row[2]] == []
    for exercise_id in all_exercises():
        verdicts = {ours for name, ours, _ in stock_outcomes if name.startswith(f"{exercise_id}: ")}
        assert verdicts == {True, False}, exercise_id


def test_the_attributes_lent_to_nbvals_cell_are_those_that_nbval_sets(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    from nbval.plugin import IPyNbCell, IPyNbFile

    path = tmp_path / "empty.ipynb"
    nbformat.write(as_notebook([]), path)
    assert IPyNbFile.from_parent(request.session, path=path).skip_compare == module.SKIP_COMPARE
    cell = module._nbval_cell()
    assert type(cell) is IPyNbCell
    assert cell.compare_outputs.__func__ is IPyNbCell.compare_outputs


@pytest.mark.parametrize("exercise_id", sorted(all_exercises()))
def test_right_answers_get_all_points_and_wrong_ones_none(exercise_id: str) -> None:
    entry = get(exercise_id)
    cases, expected, answers = case_values(exercise_id)
    for name, actual in answers.items():
        mark = decide(entry, cases, expected, actual, wrong=answers)
        assert mark.status == _status_for(name), (name, mark.private)
        assert mark.earned == (entry.points if name.startswith("right") else 0)
        if mark.status == "failed":
            assert mark.misconception == name
            assert mark.advice in mark.sentences()


def _status_for(name: str) -> str:
    return "passed" if name.startswith("right") else "not started" if name == "starter" else "failed"


# --- the text, held against the self-study comparison --------------------------------------------

FLOATS = st.sampled_from([0.0, -0.0, 1.0, 1.0 + 1e-6, 1.0 + 3e-5, 1.02, -1.0, 1e30, np.inf, -np.inf, np.nan])
SCALARS = st.one_of(
    FLOATS, st.integers(-3, 3), st.booleans(), st.none(), st.sampled_from(["", "1", "a\rb", '"', "1.0"])
)
ARRAYS = st.builds(
    array,
    hnp.arrays(
        np.float64,
        st.sampled_from([(), (1,), (2,), (2, 1)]),
        elements=st.sampled_from([0.0, 1.0, 1.0 + 1e-6, 1.02, np.nan, -np.inf]),
    ),
    dtype=st.sampled_from(["float32", "float64", "bfloat16"]),
    container=st.sampled_from(["torch.Tensor", "numpy.ndarray"]),
)
OTHERS = st.sampled_from([Opaque("Thing"), Opaque("set"), b"", b"1", Raised("ValueError", "no")])
VALUES = st.recursive(
    st.one_of(SCALARS, ARRAYS, OTHERS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
    ),
    max_leaves=4,
)


@settings(max_examples=400, deadline=None)
@given(expected=VALUES, actual=VALUES, twin=st.booleans())
def test_two_values_agree_exactly_where_the_self_study_check_finds_no_difference(
    expected: Any, actual: Any, twin: bool
) -> None:
    actual = expected if twin else actual
    entry = exercise(tolerance=Tolerance())
    found = compare(entry, "", values(expected), values(actual))
    assert agree(entry, values(expected), values(actual)) == (found is None)


@pytest.mark.parametrize(
    "actual",
    [
        array([1.0, np.nan]),
        array([1.0, np.inf]),
        array([1.0, 2.1]),
        array([1.0, 2.0], "float64"),
        array([1.0, 2.0], "bfloat16"),
        array([1, 2], "int64"),
        array([[1.0, 2.0]]),
        array([1.0, 2.0], container="numpy.ndarray"),
        array([1.0, 2.0], device="cuda"),
        array([1.0, 2.0], device="meta"),
        [1.0, 2.0],
        "[1.0, 2.0]",
        Opaque("Tensor"),
        Raised("ValueError", ""),
        None,
    ],
    ids=str,
)
def test_a_number_dtype_shape_device_or_container_that_differs_is_wrong(actual: Any) -> None:
    mark = decide(exercise(), [PUBLIC], [RIGHT], [values(actual)])
    assert (mark.status, mark.earned) == ("failed", 0)
    assert mark.findings[0].text.startswith("On two rows, ")


@pytest.mark.parametrize("size", [2, module.MAX_RENDERED + 1])
def test_numbers_within_the_tolerance_pass_and_others_do_not(size: int) -> None:
    expected = np.linspace(-1, 1, size, dtype=np.float32)
    near, far = expected * np.float32(1 + 1e-6), expected.copy()
    far[-1] += 1e-3
    assert agree(exercise(), values(array(expected)), values(array(near)))
    assert not agree(exercise(), values(array(expected)), values(array(far)))


def test_the_tolerance_is_the_exercises_by_name_and_wider_for_half_precision() -> None:
    loose = exercise(tolerance={"the output": Tolerance(absolute=0.5)})
    assert agree(loose, values(1.0), values(1.4)) and not agree(exercise(), values(1.0), values(1.4))
    half, other = array([1.0], "bfloat16"), array([1.01], "bfloat16")
    assert agree(exercise(), values(half), values(other))


def test_whole_numbers_too_large_for_a_float_are_compared_and_rendered() -> None:
    huge = 10**5000
    assert not agree(exercise(), values(1.0), values(huge))
    assert not agree(exercise(), values(huge), values(huge + 1))
    assert agree(exercise(), values(huge), values(huge))
    assert decide(exercise(), [PUBLIC], [values(1.0)], [values(huge)]).status == "failed"


def test_no_text_of_an_answer_can_look_like_another_value_or_move_the_cursor() -> None:
    forged = 'x\r"the output": 1.0\b\x1b[2K\n"more": "\u2028\ud800'
    text = render(values(forged))
    assert text.isascii() and text.count("\n") == 1 and "\r" not in text and "\b" not in text
    assert not agree(exercise(), values(1.0), values("1.0"))
    assert not agree(exercise(), {"a": 1, "b": 2}, {'a": 1\n"b': 2})


def test_an_nbval_comment_in_an_answer_has_no_effect_in_the_rendered_notebook(tmp_path: Path) -> None:
    pairs = [rendered(exercise(), values("right"), values("\n# NBVAL_SKIP\n# NBVAL_IGNORE_OUTPUT\n"))]
    assert run_stock_nbval(tmp_path, [*pairs, ("same", "same")]) == [False, True]


def test_a_list_or_dict_inside_a_value_has_the_references_items_and_no_others() -> None:
    expected: dict[str, Any] = {"a": [1.0, 2.0], "b": {}}
    assert agree(exercise(), values(expected), values({"b": {}, "a": [1.0, 2.0 + 1e-6]}))
    others: tuple[dict[str, Any], ...] = (
        {"a": [1.0, 2.0], "b": {"c": 1}},
        {"a": [1.0], "b": {}},
        expected | {"c": 1},
        {"b": {}},
    )
    for other in others:
        assert not agree(exercise(), values(expected), values(other))


def test_names_that_the_reference_lacks_are_left_out_and_what_was_returned_stands_alone() -> None:
    assert settle(exercise(), RIGHT, RIGHT | {"extra": 1}) == RIGHT
    lone = {RETURNED: Opaque("Thing")}
    assert settle(exercise(), RIGHT, RIGHT | lone) == lone


# --- the verdict -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Skipped", "XFailed", "SystemExit", "KeyboardInterrupt", "CellTimeout"])
def test_a_skip_or_an_expected_failure_is_never_a_pass(name: str) -> None:
    mark = decide(exercise(), [PUBLIC], [RIGHT], [Raised(name, "skipped")])
    assert (mark.status, mark.earned) == ("failed", 0)


@pytest.mark.parametrize("ended", sorted(set(ENDINGS) - {"ok"}))
@pytest.mark.parametrize("replies", [0, 1, 2])
def test_a_process_that_did_not_end_well_earns_nothing_whatever_it_sent(ended: str, replies: int) -> None:
    mark = decide(exercise(), [PUBLIC, HIDDEN], [RIGHT] * 2, [RIGHT] * replies, ended=ended, message="m")
    assert (mark.status, mark.earned) == ("timeout" if ended == "timeout" else "failed", 0)


@pytest.mark.parametrize(
    ("cases", "expected", "actual", "ended"),
    [
        ([], [], [], "ok"),
        ([PUBLIC], [], [RIGHT], "ok"),
        ([PUBLIC], [Raised("ValueError", "the reference broke")], [RIGHT], "ok"),
        ([PUBLIC], [{INPUTS: "as they were"}], [{INPUTS: "as they were"}], "ok"),
        ([PUBLIC, HIDDEN], [RIGHT, RIGHT], [RIGHT], "ok"),
        ([PUBLIC], [RIGHT], [RIGHT, RIGHT], "ok"),
        ([PUBLIC], [RIGHT], [RIGHT], "skipped"),
        ([PUBLIC], [RIGHT], [], "the worker broke"),
    ],
    ids=str,
)
def test_a_failure_of_the_machinery_is_ungraded_and_never_zero_or_a_pass(
    cases: list[Case], expected: list[Any], actual: list[Any], ended: str
) -> None:
    mark = decide(exercise(), cases, expected, actual, ended=ended)
    assert (mark.status, mark.earned) == ("ungraded", None)
    assert mark.private and mark.findings == ()
    assert "could not be graded" in mark.sentences()[0]


def test_a_mark_cannot_be_made_with_points_for_what_is_ungraded_or_with_another_status() -> None:
    with pytest.raises(ValueError, match="only ungraded has no points"):
        Mark("topic/name", "t", 1, 0, "ungraded")
    with pytest.raises(ValueError, match="only ungraded has no points"):
        Mark("topic/name", "t", 1, None, "failed")
    with pytest.raises(ValueError, match="expected one of passed"):
        Mark("topic/name", "t", 1, 1, "skipped")


def test_values_that_are_no_values_fail_and_raise_nothing() -> None:
    for value in (None, 3, "text", [RIGHT], array([1.0])):
        assert decide(exercise(), [PUBLIC], [RIGHT], [value]).status == "failed"


def test_a_mark_survives_its_own_json() -> None:
    mark = decide(exercise(), [PUBLIC, HIDDEN], [RIGHT] * 2, [values(1), Raised("ValueError", "x", 3, "y")])
    assert mark.failed == 2 and Mark.from_json(mark.to_json()) == mark


# --- what a learner may read -----------------------------------------------------------------------

LEAKS = [
    values(array([1.0, 123456.0])),
    values(array([1.0], "float64")),
    values(CANARY),
    {RETURNED: Opaque(CANARY)},
    values(array([1.0, 2.0])) | {INPUTS: "changed"},
    Raised("ValueError", CANARY, 3, CANARY),
    Raised(CANARY, ""),
    Raised("ForbiddenCall", CANARY),
    Raised("TimeLimitReached", "20"),
    Raised("MemoryError", CANARY),
    CANARY,
]


@pytest.mark.parametrize("leak", LEAKS, ids=str)
def test_nothing_of_a_hidden_case_reaches_the_learner_and_all_of_it_the_staff(leak: Any) -> None:
    expected = values(array([1.0, 654321.0]))
    mark = decide(exercise(), [PUBLIC, HIDDEN], [RIGHT, expected], [RIGHT, leak])
    told = " ".join([*mark.sentences(), *(f"{found.case} {found.text}" for found in mark.findings)])
    assert mark.earned == 0 and told
    for secret in (CANARY, "123456", "654321", "float64", "single row"):
        assert secret not in told
    assert mark.private


def test_a_public_case_after_a_hidden_one_is_told_no_more_than_a_hidden_one() -> None:
    cases = [HIDDEN, PUBLIC]
    mark = decide(exercise(), cases, [RIGHT] * 2, [RIGHT, Raised("ValueError", CANARY)])
    assert CANARY not in " ".join(mark.sentences())
    mark = decide(exercise(), public_first(cases), [RIGHT] * 2, [Raised("ValueError", "mine"), RIGHT])
    assert mark.sentences() == ["On two rows, your code raised ValueError: mine"]


def test_a_message_that_was_sent_after_a_hidden_case_is_not_shown() -> None:
    mark = decide(exercise(), [PUBLIC, HIDDEN], [RIGHT] * 2, [RIGHT], ended="error", message=CANARY)
    assert CANARY not in " ".join(mark.sentences())
    mark = decide(exercise(), [PUBLIC, HIDDEN], [RIGHT] * 2, [], ended="error", message="SyntaxError: x")
    assert mark.sentences()[0] == "The cell with your answer could not be run: SyntaxError: x"


def test_paths_are_cut_and_long_messages_are_shortened() -> None:
    raised = Raised("FileNotFoundError", "no '/srv/grader/run-7/secret.db', C:\\Users\\staff\\a.txt or 1/2")
    text = decide(exercise(), [PUBLIC], [RIGHT], [raised]).findings[0].text
    assert text.endswith("no '…/secret.db', …/a.txt or 1/2")
    mark = decide(exercise(), [PUBLIC], [RIGHT], [Raised("ValueError", "x" * 10**6)])
    assert len(mark.findings[0].text) <= module.MAX_TEXT >= len(mark.private[0])


def test_a_misconception_is_recognised_on_hidden_cases_and_only_where_the_values_are_its_own() -> None:
    cases, expected = [PUBLIC, HIDDEN], [RIGHT, RIGHT]
    wrong = {"the sign is wrong": [RIGHT, values(array([-1.0, -2.0]))]}
    mark = decide(exercise(), cases, expected, [RIGHT, values(array([-1.0, -2.0]))], wrong=wrong)
    assert mark.sentences()[:2] == ["This looks like: the sign is wrong.", "Look at the *sign*."]
    mark = decide(exercise(), cases, expected, [RIGHT, values(array([1.0, -2.0]))], wrong=wrong)
    assert mark.misconception is None


def test_deciding_imports_no_torch() -> None:
    code = (
        "import sys, numpy as np\n"
        "from course_lib.grading import book, exports, feedback\n"
        "from course_lib.grading.decide import decide, agree\n"
        "from course_lib.checks.exercise import Case, Exercise\n"
        "e = Exercise('a/b', 't', 1, 1, 1, None, None, None, (), (), ('', '', ''))\n"
        "assert decide(e, [Case('c', {})], [{'x': 1}], [{'x': 1}]).earned == 1\n"
        "assert decide(e, [Case('c', {})], [{'x': 1}], [{'x': 2}]).earned == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
