"""The engine that decides. Oracle: a tiny exercise whose answers are right or wrong by construction."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.checks.engine import evaluate
from course_lib.checks.exercise import Case, Exercise, Misconception, Tolerance
from course_lib.checks.guard import ForbiddenCall, forbid
from course_lib.checks.limits import TimeLimitReached, time_limit
from course_lib.checks.probes import tensor
from course_lib.checks.registry import UnknownExercise, get


def centre(x: torch.Tensor) -> torch.Tensor:
    return x - x.mean(dim=-1, keepdim=True)


TINY = Exercise(
    id="welcome/tiny",
    title="Centre the rows",
    points=2,
    minutes=1,
    difficulty=1,
    cases=lambda rng: [
        Case("a square", {"x": rng.normal(size=(3, 3)).astype(np.float32)}),
        Case("a wide one", {"x": rng.normal(size=(2, 5)).astype(np.float32)}, hidden=True),
    ],
    probe=lambda answer, case: {"the result": answer(tensor(case["x"], case.device))},
    reference=centre,
    also_right=(lambda x: (x.T - x.mean(1)).T, lambda x: x - x.sum(-1)[:, None] / x.shape[-1]),
    misconceptions=(
        Misconception("the mean runs over columns", lambda x: x - x.mean(dim=0), "Use the last axis."),
        Misconception("the whole mean", lambda x: x - x.mean(), "One mean for each row."),
    ),
    steps=lambda case: {
        "the mean of each row": case["x"].mean(-1),
        "the difference": case["x"] - case["x"].mean(-1, keepdims=True),
    },
    hints=("a", "b", "c"),
    seconds=2.0,
)


def sentences(answer: object, exercise: Exercise = TINY) -> str:
    verdict = evaluate(exercise, answer, seed=3)
    assert not verdict.passed
    assert verdict.earned == 0
    assert all("\n" not in line for line in verdict.sentences())
    return " ".join(verdict.sentences())


def test_a_right_answer_earns_its_points() -> None:
    verdict = evaluate(TINY, centre, seed=3)
    assert (verdict.status, verdict.earned, verdict.cases) == ("passed", 2, 2)


def test_an_unfinished_answer_is_not_started_rather_than_wrong() -> None:
    def answer(x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    assert evaluate(TINY, answer).status == "not started"


def test_the_misconception_is_named_with_its_sentence() -> None:
    verdict = evaluate(TINY, lambda x: x - x.mean(0, keepdim=True), seed=3)
    assert verdict.misconception == "the mean runs over columns"
    assert verdict.sentences()[:2] == ["This looks like: the mean runs over columns.", "Use the last axis."]


def test_an_answer_wrong_on_one_case_only_is_matched_on_that_case() -> None:
    def answer(x: torch.Tensor) -> torch.Tensor:
        return centre(x) if x.shape[0] == x.shape[1] else x - x.mean()

    assert evaluate(TINY, answer, seed=3).misconception == "the whole mean"


def test_two_mistakes_that_no_misconception_explains_name_the_step() -> None:
    verdict = evaluate(TINY, lambda x: x + x.mean(dim=-1, keepdim=True), seed=3)
    assert verdict.misconception is None
    assert verdict.step == (
        "Your values agree with the reference up to “the mean of each row”. "
        "The next, “the difference”, is not among them."
    )


def test_the_first_step_is_named_when_it_was_made_and_differs() -> None:
    verdict = evaluate(TINY, lambda x: x - 2 * x.mean(dim=-1).square()[:, None], seed=3)
    assert verdict.step is not None and "up to “the mean of each row”" in verdict.step
    verdict = evaluate(TINY, lambda x: x - x.amax(dim=-1)[:, None], seed=3)
    assert verdict.step == "The first step, “the mean of each row”, already differs from the reference."


def test_no_step_is_named_for_another_way_to_a_wrong_value_nor_beside_an_exception_or_a_type() -> None:
    for answer in (
        lambda x: x * 2,
        lambda x: [row - row.mean() for row in x],
        lambda x: (x - x.mean(dim=-1, keepdim=True)).double(),
        lambda x: x.mean(dim=-1).no_such_name,
    ):
        assert evaluate(TINY, answer, seed=3).step is None


def test_steps_of_numpy_code_are_found_among_its_locals() -> None:
    def answer(x: torch.Tensor) -> torch.Tensor:
        rows = x.numpy()
        mean = rows.mean(axis=-1)
        return torch.from_numpy(rows + mean[:, None])

    verdict = evaluate(TINY, answer, seed=3)
    assert verdict.step is not None and "up to “the mean of each row”" in verdict.step


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (lambda x: centre(x).numpy(), "the result is a numpy.ndarray; expected a torch.Tensor"),
        (lambda x: None, "your function returned nothing. `print` shows a value"),
        (lambda x: object(), "an object of type object; expected a torch.Tensor"),
        (lambda x: centre(x).double(), "has dtype float64; expected float32"),
        (lambda x: centre(x)[:, :1], "has shape (3, 1); expected (3, 3)"),
        (lambda x: centre(x) * float("nan"), "has NaN at [0, 0]"),
        (lambda x: torch.empty_like(x, device="meta"), "is on device 'meta'; expected 'cpu'"),
        (lambda x: x @ torch.ones(7, 7), "raised RuntimeError at `(lambda x: x @ torch.ones(7, 7)"),
        (lambda x: x.no_such_thing, "raised AttributeError"),
    ],
)
def test_bad_values_get_one_clear_sentence(answer: Callable[..., Any], expected: str) -> None:
    assert expected in sentences(answer)


def test_an_exit_is_a_failure_and_not_the_end() -> None:
    def answer(x: torch.Tensor) -> torch.Tensor:
        raise SystemExit(0)

    assert "raised SystemExit" in sentences(answer)


def test_an_endless_loop_is_stopped_and_said() -> None:
    def answer(x: torch.Tensor) -> torch.Tensor:
        while True:
            pass

    started = time.monotonic()
    verdict = evaluate(replace(TINY, seconds=0.3), answer)
    assert verdict.status == "timeout"
    assert "still running after 0.3 s" in verdict.sentences()[0]
    assert time.monotonic() - started < 5


def test_a_loop_that_swallows_the_interrupt_once_is_stopped_all_the_same() -> None:
    def answer(x: torch.Tensor) -> torch.Tensor:
        for _ in range(2):
            try:
                while True:
                    pass
            except BaseException:
                continue
        while True:
            pass

    assert evaluate(replace(TINY, seconds=0.2), answer).status == "timeout"


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_the_time_limit_holds_where_interrupts_were_ignored(handler: signal.Handlers) -> None:
    before = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(TimeLimitReached), time_limit(0.1):
            while True:
                pass
        assert signal.getsignal(signal.SIGINT) == handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_memory_that_is_not_there_gets_its_own_sentence() -> None:
    assert "ran out of memory" in sentences(lambda x: torch.empty(1 << 60))


def test_an_answer_that_changes_its_input_is_told_so() -> None:
    def by_operator(x: torch.Tensor) -> torch.Tensor:
        x -= x.mean(dim=-1, keepdim=True)
        return x

    def through_numpy(x: torch.Tensor) -> torch.Tensor:
        result = centre(x)
        x.numpy()[0, 0] = 7.0
        return result

    for answer in (by_operator, through_numpy):
        assert sentences(answer).startswith("On a square, your code changed its input in place.")


def test_a_changed_input_is_told_before_the_numbers_that_it_made_wrong() -> None:
    def by_operator_and_wrong(x: torch.Tensor) -> torch.Tensor:
        x -= x.mean()
        return x + 1

    assert sentences(by_operator_and_wrong).startswith("On a square, your code changed its input in place.")


def test_a_misconception_is_named_whether_a_number_comes_as_a_tensor_or_not() -> None:
    exercise = replace(
        TINY,
        probe=lambda answer, case: {"the sum": answer(tensor(case["x"]))},
        reference=lambda x: x.sum().item(),
        misconceptions=(Misconception("the mean", lambda x: x.mean().item(), "Add up, do not average."),),
        steps=None,
    )
    for answer in (lambda x: x.mean(), lambda x: x.mean().item()):
        assert evaluate(exercise, answer, seed=3).misconception == "the mean"


def test_a_list_that_was_changed_is_an_input_changed_too() -> None:
    def double(numbers: list[int]) -> list[int]:
        return [2 * number for number in numbers]

    def popping(numbers: list[int]) -> list[int]:
        return [2 * numbers.pop(0) for _ in range(len(numbers))]

    exercise = replace(
        TINY,
        cases=lambda rng: [Case("three numbers", {"numbers": [1, 2, 3]})],
        probe=lambda answer, case: {"the result": answer(case["numbers"])},
        reference=double,
        misconceptions=(),
        steps=None,
    )
    assert evaluate(exercise, double).passed
    assert "changed its input in place" in evaluate(exercise, popping).sentences()[0]
    one_short = evaluate(exercise, lambda numbers: [2, 4])
    assert one_short.sentences()[0] == "On three numbers, the result is [2, 4]; expected [2, 4, 6]."
    assert "returned nothing" in evaluate(exercise, lambda numbers: None).sentences()[0]


def test_a_not_implemented_error_of_torchs_own_is_not_an_unstarted_answer() -> None:
    verdict = evaluate(TINY, lambda x: x.to("meta").item(), seed=3)
    assert verdict.status == "failed"
    assert "raised" in verdict.sentences()[0]


def test_two_exceptions_of_one_type_are_the_same_misconception_only_with_the_same_message() -> None:
    wrong = Misconception("the shapes do not fit", lambda x: x @ torch.ones(7, 7), "Look at the shapes.")
    exercise = replace(TINY, misconceptions=(wrong,))
    assert evaluate(exercise, lambda x: x @ torch.zeros(7, 7)).misconception == wrong.name

    def other(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("something else")

    assert evaluate(exercise, other).misconception is None


def test_hidden_only_leaves_the_public_cases_out() -> None:
    assert evaluate(TINY, centre, hidden_only=True).cases == 1


def test_fresh_cases_are_drawn_each_time() -> None:
    seen: list[np.ndarray] = []

    def answer(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.numpy().copy())
        return centre(x)

    evaluate(TINY, answer)
    evaluate(TINY, answer)
    assert not np.array_equal(seen[0], seen[2])


def test_an_answer_cannot_pass_by_an_always_equal_object() -> None:
    class Agreeable:
        shape, dtype = (3, 3), torch.float32

        def __eq__(self, other: object) -> bool:
            return True

        def __array__(self, *args: object) -> np.ndarray:
            return np.zeros((3, 3))

    assert "expected a torch.Tensor" in sentences(lambda x: Agreeable())


@given(st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_verdicts_do_not_depend_on_the_seed(seed: int) -> None:
    assert evaluate(TINY, centre, seed=seed).passed
    for wrong in TINY.misconceptions:
        assert evaluate(TINY, wrong.answer, seed=seed).misconception == wrong.name


def test_16_bit_floats_have_their_own_tolerance() -> None:
    half = replace(
        TINY,
        tolerance=Tolerance(absolute=1e-6, relative=1e-6, half=2e-2),
        probe=lambda answer, case: {"the result": answer(tensor(case["x"], dtype="bfloat16"))},
    )
    assert evaluate(half, lambda x: centre(x.float()).bfloat16(), seed=1).passed
    assert not evaluate(half, lambda x: centre(x) * 1.1, seed=1).passed


FORBIDDEN = (
    "torch.nn.functional.scaled_dot_product_attention",
    "course_lib.layers.masks.causal_mask",
    "aten::_softmax",
    "torch.nn.Linear",
)


def test_forbidden_calls_are_refused_under_any_alias() -> None:
    import torch.nn.functional as functional

    from course_lib.layers import masks
    from course_lib.layers.masks import causal_mask as another_name

    alias = getattr(functional, "scaled_dot_product" + "_attention")
    q = torch.ones(1, 2, 4)
    calls: list[Callable[[], object]] = [
        lambda: alias(q, q, q),
        lambda: another_name(3),
        lambda: vars(masks)["causal_mask"](3),
        lambda: torch.softmax(q, -1),
        lambda: q.softmax(-1),
        lambda: torch.nn.Softmax(-1)(q),
        lambda: torch.nn.Linear(2, 2),
    ]
    for call in calls:
        with pytest.raises(ForbiddenCall), forbid(FORBIDDEN):
            call()
    for call in calls:
        call()


def test_the_verdict_names_what_was_forbidden() -> None:
    exercise = replace(TINY, forbidden=("torch.mean",))
    verdict = evaluate(exercise, lambda x: x - torch.mean(x, -1, keepdim=True))
    assert verdict.sentences()[0].startswith("torch.mean may not be used in this exercise")
    assert evaluate(exercise, lambda x: x - x.sum(-1, keepdim=True) / x.shape[-1]).passed


@pytest.mark.parametrize("number", [2**60 + 1, 10**400, -(10**400), float("inf"), float("nan")])
def test_large_and_odd_numbers_are_compared_exactly_and_break_nothing(number: float) -> None:
    exercise = replace(
        TINY,
        cases=lambda rng: [Case("an exact one", {"n": 2**60})],
        probe=lambda answer, case: {"the number": answer(case["n"])},
        reference=lambda n: n,
        misconceptions=(),
        steps=None,
    )
    assert evaluate(exercise, lambda n: 2**60).passed
    assert evaluate(exercise, lambda n: number).status == "failed"


def test_a_forbidden_operator_is_named_as_a_person_would() -> None:
    verdict = evaluate(replace(TINY, forbidden=("aten::mean",)), centre)
    assert verdict.sentences()[0].startswith("torch's `mean` may not be used in this exercise.")


def test_an_unknown_exercise_is_answered_with_near_names() -> None:
    with pytest.raises(UnknownExercise, match="Did you mean 'attention/sdpa'") as caught:
        get("attention/sdp")
    assert caught.value._render_traceback_() == [str(caught.value)]
    with pytest.raises(UnknownExercise):
        get("something/else")


def test_the_second_half_of_an_id_is_enough_where_only_one_has_it() -> None:
    assert get("sdpa").id == "attention/sdpa"


def test_a_verdict_is_plain_data(tmp_path: object) -> None:
    import json

    row = json.loads(json.dumps(evaluate(TINY, lambda x: x - x.mean(0), seed=3).to_json()))
    assert (row["status"], row["earned"], row["points"]) == ("failed", 0, 2)
    assert row["misconception"] == "the mean runs over columns"
    assert os.linesep not in row["sentences"][0]
