"""Chapter 08: the lesson's form, what the exercises' probes measure, and the curves that the lesson shows.

Oracles: torch's own LayerNorm and encoder, finite differences, and the recipe run again.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jupytext
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.authoring.exercises import registered_entry
from course_lib.authoring.project import find_sources
from course_lib.authoring.structure import structure_problems
from course_lib.checks.engine import evaluate
from course_lib.checks.exercise import Case
from course_lib.checks.probes import residual_norm_ffn as probes
from course_lib.checks.registry import exercises_of, get
from course_lib.recipes import norm_orders as recipe

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("source", find_sources(ROOT, ["08"]), ids=lambda source: source.label)
def test_lesson_and_solution_have_all_their_parts(source: Any) -> None:
    cells = jupytext.read(source.text_path).cells
    assert structure_problems(source, cells, registered_entry) == []


# --- the recipe and its curves --------------------------------------------------------------------------


@pytest.mark.parametrize("order", recipe.ORDERS)
def test_the_shipped_curves_are_the_recipes(order: Any) -> None:
    curves = recipe.load_curves()
    for kind, warm_up in (("no warm-up", 0), ("warm-up", curves["plan"]["warm_up"])):
        plan = recipe.Plan(steps=20, warm_up=warm_up)
        _, losses = recipe.train(replace(recipe.BLOCK, order=order), plan)
        shipped = curves["orders"][order][kind][0]
        assert shipped["seed"] == plan.seed
        assert recipe.averaged(losses)[0] == pytest.approx(shipped["losses"][0], abs=0.03)


def test_all_runs_are_there_and_equally_long() -> None:
    curves = recipe.load_curves()
    runs = [
        run
        for part in ("orders", "feed_forwards")
        for kinds in curves[part].values()
        for found in kinds.values()
        for run in found
    ]
    assert len(runs) == 27
    assert {len(run["losses"]) for run in runs} == {curves["plan"]["steps"] // 20}
    assert {run["seed"] for run in runs} == {0, 1, 2}
    assert all(math.isfinite(loss) for run in runs for loss in (*run["losses"], run["held_out"]))


def test_the_three_feed_forward_layers_have_equally_many_weights() -> None:
    sizes = {
        name: sum(p.numel() for p in recipe.LanguageModel(block, 1, 2, 2).parameters() if p.dim() == 2)
        for name, block in recipe.FEED_FORWARDS.items()
    }
    assert len(set(sizes.values())) == 1, sizes


def test_held_out_stories_are_not_trained_on() -> None:
    text = recipe.read_text()
    ids, targets = recipe.windows(text.train, torch.tensor([0, 7]), 5)
    assert torch.equal(ids[:, 1:], targets[:, :-1])
    trained = {tuple(row) for row in text.train.unfold(0, 40, 1).tolist()}
    assert not any(tuple(row) in trained for row in text.held_out.unfold(0, 40, 40).tolist())


def test_averaged_is_the_mean_of_each_run_of_steps() -> None:
    assert recipe.averaged([1.0, 3.0, 5.0, 7.0], every=2) == [2.0, 6.0]


# --- the exercises --------------------------------------------------------------------------------------


def cases_of(name: str, seed: int = 3) -> dict[str, Case]:
    cases = get(f"residual_norm_ffn/{name}").cases(np.random.default_rng(seed))
    return {case.name: case for case in cases}


def test_the_points_and_the_gpu_exercise() -> None:
    exercises = exercises_of("08_residual_norm_ffn")
    assert [exercise.id for exercise in exercises if exercise.gpu] == ["residual_norm_ffn/rms_norm"]
    assert sum(exercise.points for exercise in exercises) == 17


@pytest.mark.parametrize("case", cases_of("layer_norm").values(), ids=lambda case: case.name)
def test_the_reference_of_layer_norm_is_torchs(case: Case) -> None:
    def torchs(hidden_states: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
        return F.layer_norm(hidden_states, weight.shape, weight, bias, eps)

    ours = probes.layer_norm(get("residual_norm_ffn/layer_norm").reference, case)
    for name, values in probes.layer_norm(torchs, case).items():
        torch.testing.assert_close(ours[name], values, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("case", cases_of("layer_norm_backward").values(), ids=lambda case: case.name)
def test_the_reference_of_the_backward_is_the_gradient_of_torchs(case: Case) -> None:
    def by_autograd(
        grad_output: Tensor, hidden_states: Tensor, weight: Tensor, eps: float = 1e-5
    ) -> tuple[Tensor, ...]:
        bias = torch.zeros_like(weight)
        inputs = [given.clone().requires_grad_() for given in (hidden_states, weight, bias)]
        with torch.enable_grad():
            output = F.layer_norm(inputs[0], weight.shape, inputs[1], inputs[2], eps)
        return torch.autograd.grad(output, inputs, grad_output)

    ours = probes.layer_norm_backward(get("residual_norm_ffn/layer_norm_backward").reference, case)
    theirs = probes.layer_norm_backward(by_autograd, case)
    for name in ours.keys() - {"what you return"}:
        torch.testing.assert_close(ours[name], theirs[name], atol=5e-5, rtol=2e-4)


def plain_layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * weight + bias


def leaves(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The token, the weight and a bias of zeros, as autograd wants them."""
    bias = torch.zeros_like(weight)
    return x.clone().requires_grad_(), weight.clone().requires_grad_(), bias.requires_grad_()


def by_grad(grad_output: Tensor, x: Tensor, weight: Tensor, eps: float = 1e-5) -> tuple[Tensor, ...]:
    inputs = leaves(x, weight)
    with torch.enable_grad():
        output = plain_layer_norm(*inputs, eps=eps)
    return torch.autograd.grad(output, inputs, grad_output)


def by_backward(grad_output: Tensor, x: Tensor, weight: Tensor, eps: float = 1e-5) -> tuple[Any, ...]:
    inputs = leaves(x, weight)
    with torch.enable_grad():
        plain_layer_norm(*inputs, eps=eps).backward(grad_output)
    return tuple(given.grad for given in inputs)


def by_vjp(grad_output: Tensor, x: Tensor, weight: Tensor, eps: float = 1e-5) -> Any:
    normalise = partial(plain_layer_norm, eps=eps)
    return torch.func.vjp(normalise, x, weight, torch.zeros_like(weight))[1](grad_output)


def by_the_engine(grad_output: Tensor, x: Tensor, weight: Tensor, eps: float = 1e-5) -> Any:
    from torch.autograd.graph import _engine_run_backward as run

    inputs = leaves(x, weight)
    with torch.enable_grad():
        output = plain_layer_norm(*inputs, eps=eps)
    return run((output,), (grad_output,), False, False, inputs, False, accumulate_grad=False)


def by_torchs_backward(grad_output: Tensor, x: Tensor, weight: Tensor, eps: float = 1e-5) -> Any:
    bias, shape = torch.zeros_like(weight), list(weight.shape)
    mean = x.mean(-1, keepdim=True)
    inverse = ((x - mean).square().mean(-1, keepdim=True) + eps).rsqrt()
    every = [True, True, True]
    return torch.ops.aten.native_layer_norm_backward(
        grad_output, x, shape, mean, inverse, weight, bias, every
    )


@pytest.mark.parametrize("way", [by_grad, by_backward, by_vjp, by_the_engine, by_torchs_backward])
def test_no_way_of_autograd_gives_the_backward_away(way: Any) -> None:
    exercise = get("residual_norm_ffn/layer_norm_backward")
    assert evaluate(replace(exercise, forbidden=()), way, seed=1).passed, "it would"
    verdict = evaluate(exercise, way, seed=1)
    assert verdict.findings[0].kind == "forbidden", verdict.sentences()


@pytest.mark.parametrize(
    "way",
    [
        lambda x, w, b, eps=1e-5: F.layer_norm(x, w.shape, w, b, eps),
        lambda x, w, b, eps=1e-5: torch.native_layer_norm(x, list(w.shape), w, b, eps)[0],
        lambda x, w, b, eps=1e-5: torch.group_norm(x.reshape(-1, len(w), 1), 1, w, b, eps).reshape(x.shape),
    ],
    ids=["F.layer_norm", "native_layer_norm", "group_norm"],
)
def test_no_norm_of_torchs_gives_layer_norm_away(way: Any) -> None:
    verdict = evaluate(get("residual_norm_ffn/layer_norm"), way, seed=1)
    assert verdict.findings[0].kind == "forbidden", verdict.sentences()


def test_an_rms_norm_that_squares_in_16_bits_fails_in_float16_alone() -> None:
    def narrow(hidden_states: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
        return hidden_states * (hidden_states.square().mean(-1, keepdim=True) + eps).rsqrt() * weight

    verdict = evaluate(get("residual_norm_ffn/rms_norm"), narrow, seed=2)
    assert verdict.misconception == "16-bit numbers are squared in 16 bits"
    assert {finding.case for finding in verdict.findings} == {"float16, numbers of some hundreds"}


@pytest.mark.parametrize("order", ["pre", "post"])
def test_the_reference_stack_is_torchs_encoder(order: str) -> None:
    torch.manual_seed(0)
    layers = [
        nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True, norm_first=order == "pre")
        for _ in range(2)
    ]

    class Attend(nn.Module):
        def __init__(self, attention: nn.MultiheadAttention) -> None:
            super().__init__()
            self.attention = attention

        def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
            return self.attention(x, x, x, attn_mask=None if mask is None else ~mask)[0]

    pairs = [
        (Attend(layer.self_attn), nn.Sequential(layer.linear1, nn.ReLU(), layer.linear2)) for layer in layers
    ]
    stack = get("residual_norm_ffn/stack").reference(pairs, 8, order)
    for norm, its in zip(
        stack.norms, [norm for layer in layers for norm in (layer.norm1, layer.norm2)], strict=True
    ):
        norm.load_state_dict(its.state_dict())
    x, mask = torch.randn(3, 5, 8), torch.ones(5, 5, dtype=torch.bool).tril()
    expected = x
    for layer in layers:
        expected = layer(expected, src_mask=~mask)
    expected = stack.final_norm(expected) if order == "pre" else expected
    torch.testing.assert_close(stack(x, mask=mask), expected, atol=1e-5, rtol=1e-4)


def test_a_stack_whose_norms_have_other_names_hears_which() -> None:
    class Renamed(nn.Module):
        def __init__(self, sublayers: Any, d_model: int, order: str = "pre", dropout: float = 0.0) -> None:
            super().__init__()
            self.parts = nn.ModuleList(nn.ModuleList(pair) for pair in sublayers)
            self.layer_norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(2 * len(sublayers)))

    text = evaluate(get("residual_norm_ffn/stack"), Renamed, seed=1).findings[0].text
    assert "layer_norms.0.bias" in text and "final_norm.bias" in text


def test_a_stack_that_drops_inside_its_norms_is_found_out_by_dropping_everything() -> None:
    class DropsWhatIsRead(get("residual_norm_ffn/stack").also_right[0]):  # type: ignore[misc]
        def forward(self, hidden_states: Tensor, mask: Tensor | None = None) -> Tensor:
            return super().forward(F.dropout(hidden_states, self.rate, self.training), mask)

    verdict = evaluate(get("residual_norm_ffn/stack"), DropsWhatIsRead, seed=1)
    assert {finding.case for finding in verdict.findings} == {
        "pre, all changes dropped in training",
        "post, all changes dropped in training",
    }


def test_the_profile_of_equal_matrices_is_their_gain() -> None:
    class Turn(nn.Module):
        """An orthogonal matrix times 0.8: every gradient shrinks by exactly that."""

        def __init__(self, seed: int) -> None:
            super().__init__()
            generator = torch.Generator().manual_seed(seed)
            self.matrix = (
                torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))[0] * 0.8
            )

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.matrix

    generator = torch.Generator().manual_seed(0)
    x, direction = (torch.randn(4, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    profile = get("residual_norm_ffn/gradient_profile").reference
    norms, factor, verdict = profile([Turn(seed) for seed in range(5)], x, direction, 64)
    torch.testing.assert_close(norms / direction.norm(), 0.8 ** torch.arange(5, -1, -1).double())
    assert factor == pytest.approx(0.8, abs=1e-12) and verdict == "vanishes"
    assert profile([Turn(seed) for seed in range(5)], x, direction, 30)[2] == "holds"


@pytest.mark.parametrize("seed", range(20))
def test_no_verdict_lies_near_its_bound(seed: int) -> None:
    exercise = get("residual_norm_ffn/gradient_profile")
    for case in cases_of("gradient_profile", seed).values():
        factor = probes.gradient_profile(exercise.reference, case)["the factor"]
        power = abs(case["depth"] * math.log(factor))
        assert abs(power - math.log(1000)) > 0.5, case.name
