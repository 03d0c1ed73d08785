"""Chapter 06: the lesson's form, and what the exercises' probes measure.

Oracles: tensors whose size in memory is known, and gradients by finite differences.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jupytext
import numpy as np
import pytest
import torch
from torch import Tensor

from course_lib.authoring.exercises import registered_entry
from course_lib.authoring.project import find_sources
from course_lib.authoring.structure import structure_problems
from course_lib.checks.engine import evaluate
from course_lib.checks.exercise import Case, Exercise
from course_lib.checks.probes import attention as probes
from course_lib.checks.registry import get

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("source", find_sources(ROOT, ["06"]), ids=lambda source: source.label)
def test_lesson_and_solution_have_all_their_parts(source: Any) -> None:
    cells = jupytext.read(source.text_path).cells
    assert structure_problems(source, cells, registered_entry) == []


def chunk_case(n_query: int = 60, chunk: int = 5) -> Case:
    exercise = get("attention/chunked")
    cases = list(exercise.cases(np.random.default_rng(3)))
    template = next(case for case in cases if case.name == "chunks that fit exactly")
    inputs = dict(template.inputs)
    inputs |= {name: inputs[name][:, :n_query] for name in ("query", "key", "value")}
    return Case("a case of known size", inputs | {"chunk": chunk})


def measured(answer: Any, budget: int, largest: int) -> tuple[str, str]:
    case = chunk_case()
    inputs = dict(case.inputs) | {"budget": budget, "largest": largest}
    values = probes.chunked(answer, Case(case.name, inputs))
    return values["the largest tensor that you made"], values["the sum of all tensors that you held at once"]


def one_after_another(query: Tensor, key: Tensor, value: Tensor, chunk: int, causal: bool = False) -> Tensor:
    for _ in range(5):
        table = torch.empty(1000)
        del table
    return torch.empty(10)


def all_at_once(query: Tensor, key: Tensor, value: Tensor, chunk: int, causal: bool = False) -> Tensor:
    tables = [torch.empty(1000) for _ in range(5)]
    return tables[0]


def views_alone(query: Tensor, key: Tensor, value: Tensor, chunk: int, causal: bool = False) -> Tensor:
    return query.transpose(-2, -1)[..., 1:].unsqueeze(0)


def in_place(query: Tensor, key: Tensor, value: Tensor, chunk: int, causal: bool = False) -> Tensor:
    table = torch.zeros(1000)
    for _ in range(9):
        table.add_(1.0).mul_(2.0)
    return table


@pytest.mark.parametrize(
    ("answer", "largest", "together"),
    [(one_after_another, 1000, 1000), (all_at_once, 1000, 5000), (views_alone, 0, 0), (in_place, 1000, 1000)],
)
def test_the_memory_that_the_probe_reports_is_the_memory_that_was_held(
    answer: Any, largest: int, together: int
) -> None:
    assert measured(answer, together, largest) == (
        f"at most {largest:,} numbers",
        f"at most {together:,} numbers",
    )
    if largest:
        assert measured(answer, together - 1, largest)[1] == f"more than {together - 1:,} numbers"
        assert measured(answer, together, largest - 1) == (
            f"more than {largest - 1:,} numbers",
            "not judged",
        )


@pytest.mark.parametrize("dtype", [torch.bool, torch.bfloat16, torch.float32, torch.int64])
def test_a_number_counts_once_whatever_its_dtype(dtype: torch.dtype) -> None:
    def of_one_dtype(query: Tensor, key: Tensor, value: Tensor, chunk: int, causal: bool = False) -> Tensor:
        return torch.zeros(1000, dtype=dtype)

    assert measured(of_one_dtype, 1000, 1000) == ("at most 1,000 numbers", "at most 1,000 numbers")
    assert measured(of_one_dtype, 1000, 999) == ("more than 999 numbers", "not judged")


@pytest.mark.parametrize("seed", range(3))
def test_no_right_way_to_chunk_comes_near_the_budget(seed: int) -> None:
    exercise = get("attention/chunked")
    for case in exercise.cases(np.random.default_rng(seed)):
        tight = Case(case.name, dict(case.inputs) | {"budget": int(0.95 * case["budget"])})
        for answer in (exercise.reference, *exercise.also_right):
            values = probes.chunked(answer, tight)
            assert str(values["the sum of all tensors that you held at once"]).startswith("at most"), (
                case.name
            )


def test_a_module_is_judged_by_the_cases_weights_not_by_its_own_draw() -> None:
    exercise = get("attention/cross")
    case = next(iter(exercise.cases(np.random.default_rng(0))))
    torch.manual_seed(1)
    first = probes.cross(exercise.reference, case)
    torch.manual_seed(2)
    second = probes.cross(exercise.reference, case)
    torch.testing.assert_close(first["the output"], second["the output"])


def test_a_module_whose_layers_have_other_names_hears_which() -> None:
    class Renamed(torch.nn.Module):
        def __init__(self, d_model: int, d_k: int, d_v: int | None = None, bias: bool = False) -> None:
            super().__init__()
            self.w_q = torch.nn.Linear(d_model, d_k, bias=bias)

    verdict = evaluate(get("attention/cross"), Renamed, seed=1)
    assert "['w_q.weight']" in verdict.findings[0].text
    assert "'query.weight'" in verdict.findings[0].text


def test_a_buffer_of_the_learners_own_is_no_parameter() -> None:
    class Buffered(get("attention/cross").also_right[0]):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.register_buffer("scale", torch.tensor(0.5))

    assert evaluate(get("attention/cross"), Buffered, seed=1).passed


def test_a_head_whose_mask_stands_before_its_context_does_not_pass() -> None:
    class MaskFirst(get("attention/cross").also_right[0]):  # type: ignore[misc]
        def forward(self, hidden_states: Tensor, mask: Any = None, context: Any = None) -> Any:
            return super().forward(hidden_states, context, mask)

    assert not evaluate(get("attention/cross"), MaskFirst, seed=1).passed


def plain_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Any:
    scores = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -1e9)
    weights = scores.softmax(-1)
    weights = weights if mask is None else weights * mask
    return weights @ value, weights


def test_values_cut_off_from_the_output_are_told_by_their_gradient() -> None:
    def cut_off(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Any:
        return plain_attention(query, key, value.detach(), mask)

    verdict = evaluate(get("attention/sdpa"), cut_off, seed=1)
    assert "the gradient of value is 0 at" in verdict.findings[0].text


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        (lambda output, weights: output, "one torch.Tensor"),
        (lambda output, weights: [output, weights], "a list of 2"),
        (lambda output, weights: (output, weights, None), "a tuple of 3"),
    ],
)
def test_another_form_than_the_tuple_is_described(returned: Any, told: str) -> None:
    def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Any:
        return returned(*plain_attention(query, key, value, mask))

    text = evaluate(get("attention/sdpa"), attention, seed=1).findings[0].text
    assert told in text and "a tuple (output, weights)" in text


@pytest.mark.parametrize("seed", range(3))
def test_attention_that_needs_leading_axes_or_a_given_mask_does_not_pass(seed: int) -> None:
    def three_axes(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Any:
        assert query.dim() >= 3
        return plain_attention(query, key, value, mask)

    def mask_required(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Any:
        return plain_attention(query, key, value, mask)

    exercise = get("attention/sdpa")
    assert evaluate(exercise, plain_attention, seed=seed).passed
    assert not evaluate(exercise, three_axes, seed=seed, explain=False).passed
    assert not evaluate(exercise, mask_required, seed=seed, explain=False).passed


def test_the_reference_norms_equal_finite_differences_of_the_softmax() -> None:
    exercise = get("attention/saturation")
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(4, 9, generator=generator, dtype=torch.float64)
    key = torch.randn(4, 5, 9, generator=generator, dtype=torch.float64)
    scaled, unscaled, _ = exercise.reference([query], [key])
    for norm, divisor in ((scaled, 3.0), (unscaled, 1.0)):
        scores = (key @ query[:, :, None])[..., 0] / divisor
        step = 1e-6 * torch.eye(5, dtype=torch.float64)
        above, below = (scores[:, None] + step).softmax(-1), (scores[:, None] - step).softmax(-1)
        jacobians = (above - below) / 2e-6
        torch.testing.assert_close(
            norm[0], jacobians.square().sum((1, 2)).sqrt().mean(), rtol=1e-6, atol=1e-9
        )


def test_a_step_that_leaves_the_reference_is_named() -> None:
    def from_the_wrong_end(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Any:
        scores = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5
        weights = (scores * 1.3).softmax(-1)
        return weights @ value, weights

    exercise: Exercise = get("attention/sdpa")
    verdict = evaluate(exercise, from_the_wrong_end, seed=5)
    assert verdict.misconception is None
    assert verdict.step is not None
    assert "scores divided by √d_k" in verdict.step and "weights (softmax over the keys)" in verdict.step
