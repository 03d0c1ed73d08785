"""Chapter 17: the lesson's form, what its recipe measured, a part of it again, and the references.

Oracles: the library, which tests hold equal to `peft` and to the paper's table; and `torch.linalg`.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import jupytext
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from course_lib.authoring.exercises import registered_entry
from course_lib.authoring.project import find_sources
from course_lib.authoring.structure import structure_problems
from course_lib.checks.engine import evaluate
from course_lib.checks.exercise import Case
from course_lib.checks.probes import lora as probes
from course_lib.checks.registry import exercises_of, get
from course_lib.data import story_world
from course_lib.peft import lora, quantize
from course_lib.recipes import low_rank as recipe

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("source", find_sources(ROOT, ["17"]), ids=lambda source: source.label)
def test_lesson_and_solution_have_all_their_parts(source: Any) -> None:
    cells = jupytext.read(source.text_path).cells
    assert structure_problems(source, cells, registered_entry) == []


# --- what the recipe measured ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    return recipe.load_measured()


def mean_gap(rows: list[dict[str, Any]]) -> float:
    return float(np.mean([row["gap"] for row in rows]))


def test_it_measured_every_way_once(measured: dict[str, Any]) -> None:
    found = {
        name: [recipe.Way(**{key: row[key] for key in recipe.Way.__dataclass_fields__}) for row in rows]
        for name, rows in measured.items()
        if name != "before"
    }
    wanted: dict[str, list[recipe.Way]] = {}
    for name, way in recipe.ways():
        wanted.setdefault(name, []).append(way)
    as_lists = [replace(way, targets=tuple(way.targets)) for rows in found.values() for way in rows]
    assert as_lists == [way for rows in wanted.values() for way in rows]


def test_low_ranks_are_enough_as_the_lesson_says(measured: dict[str, Any]) -> None:
    start = measured["before"]["sea"]
    full = min(
        mean_gap([row for row in measured["full"] if row["rate"] == rate]) for rate in recipe.FULL_RATES
    )
    by_rank = {
        rank: mean_gap([row for row in measured["ranks"] if row["rank"] == rank]) for rank in recipe.RANKS
    }
    assert start - by_rank[1] > 0.6 * (start - full)
    assert start - by_rank[8] > 0.85 * (start - full)
    for row in measured["ranks"]:
        assert row["trained"] == 8_192 * row["rank"]
        assert row["forgotten"] > measured["before"]["all"]


def test_four_bits_end_where_32_do(measured: dict[str, Any]) -> None:
    for row in measured["four bits"]:
        whole = [other for other in measured["ranks"] if other["rank"] == row["rank"]]
        assert row["gap"] == pytest.approx(mean_gap(whole), abs=0.02)
        assert row["training_bytes"] < whole[0]["training_bytes"] - 2e6


def test_budgets_are_about_equal(measured: dict[str, Any]) -> None:
    sizes = [row["trained"] for row in measured["targets"]]
    assert max(sizes) < 1.12 * min(sizes)


def test_a_part_of_the_recipe_again(measured: dict[str, Any]) -> None:
    way = recipe.Way(8, 16.0, steps=30)
    teller = recipe.adapted("sea", way)
    count = 40
    assert recipe.gap(teller, "sea", count) < recipe.gap(recipe.base(), "sea", count) - 0.05
    weights = dict(recipe.base().model.named_parameters())
    for name, layer in lora.adapted_layers(teller.model):
        assert torch.equal(layer.base.weight, weights[f"{name}.weight"])  # type: ignore[arg-type]


def test_the_smaller_worlds_are_parts_of_the_one_that_was_learned() -> None:
    known = set(recipe.base().vocabulary.tokens)
    for world, config in recipe.WORLDS.items():
        for story in story_world.stories(seed=2, split="test", config=config, count=60):
            assert set(story.words) <= known, world
            assert story_world.read_story(story.text).text == story.text


# --- the exercises --------------------------------------------------------------------------------------


def cases_of(name: str, seed: int = 3) -> list[Case]:
    return list(get(f"lora/{name}").cases(np.random.default_rng(seed)))


def agree(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        if isinstance(value, Tensor):
            tolerance = 2e-3 if value.dtype == torch.float16 else 1e-5
            torch.testing.assert_close(ours[name], value, atol=1e-5, rtol=tolerance)
        else:
            assert ours[name] == value, name


def test_the_points_and_the_gpu_exercises() -> None:
    exercises = exercises_of("17_lora")
    assert [e.id for e in exercises if e.gpu] == ["lora/linear", "lora/train_adapter"]
    assert [e.id for e in exercises if e.judged] == ["lora/train_adapter"]
    assert sum(e.points for e in exercises) == 17


@pytest.mark.parametrize("case", cases_of("linear"), ids=lambda case: case.name)
def test_the_reference_of_the_layer_is_the_librarys(case: Case) -> None:
    class Librarys(nn.Module):
        def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
            super().__init__()
            self.layer: Any = nn.Sequential(base)
            lora.add_adapter(self.layer, lora.LoRAConfig(["0"], rank=rank, alpha=alpha))
            layer: Any = self.layer[0]  # type: ignore[index]
            adapter = layer.adapters["default"]
            self.A, self.B = adapter.A, adapter.B

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)  # type: ignore[no-any-return]

    agree(probes.linear(get("lora/linear").reference, case), probes.linear(Librarys, case))


@pytest.mark.parametrize("case", cases_of("merge"), ids=lambda case: case.name)
def test_the_reference_of_merging_is_the_librarys(case: Case) -> None:
    def librarys(weight: Tensor, adapters: list[tuple[Tensor, Tensor, float]]) -> Tensor:
        d_out, d_in = weight.shape
        model: Any = nn.Sequential(nn.Linear(d_in, d_out, bias=False, dtype=weight.dtype))
        model[0].weight.data = weight.clone()
        for number, (a, b, alpha) in enumerate(adapters):
            lora.add_adapter(model, lora.LoRAConfig(["0"], rank=len(a), alpha=alpha), f"n{number}")
            model[0].adapters[f"n{number}"].load_state_dict({"A": a, "B": b})
        lora.use_adapters(model, *lora.adapter_names(model))
        lora.merge(model)
        lora.remove_adapters(model)
        return model[0].weight.detach()  # type: ignore[no-any-return]

    agree(probes.merge(get("lora/merge").reference, case), probes.merge(librarys, case))


@pytest.mark.parametrize("size", [64, 640, 200])
@pytest.mark.parametrize("block", [8, 64])
def test_the_references_of_four_bits_are_the_librarys(size: int, block: int) -> None:
    values, code = torch.randn(size, generator=torch.Generator().manual_seed(size)), quantize.nf4_code()
    theirs = quantize.quantize(values, block, double=False)
    assert isinstance(theirs.absmax, Tensor)
    packed, absmax = get("lora/nf4_quantize").reference(values, code, block)
    assert torch.equal(packed, theirs.packed)
    assert torch.equal(absmax, theirs.absmax)
    back = get("lora/nf4_dequantize").reference(packed, absmax, code, block)
    torch.testing.assert_close(back, quantize.dequantize(theirs))


@pytest.mark.parametrize("seed", range(5))
def test_the_reference_of_the_rank_is_that_of_the_best_approximation(seed: int) -> None:
    for case in cases_of("rank_profile", seed):
        change = case["after"] - case["before"]
        left, sizes, right = np.linalg.svd(change, full_matrices=False)
        kept, rank, _ = get("lora/rank_profile").reference(
            torch.from_numpy(case["before"]), torch.from_numpy(case["after"]), case["share"]
        )
        errors = [
            1 - np.square(change - (left[:, :r] * sizes[:r]) @ right[:r]).sum() / np.square(change).sum()
            for r in range(1, len(sizes) + 1)
        ]
        np.testing.assert_allclose(kept.numpy(), errors, atol=1e-12)
        assert errors[rank - 1] >= case["share"] - 1e-12
        assert rank == 1 or errors[rank - 2] < case["share"]


def test_both_verdicts_occur() -> None:
    profile = get("lora/rank_profile").reference
    verdicts = {
        profile(torch.from_numpy(case["before"]), torch.from_numpy(case["after"]), case["share"])[2]
        for case in cases_of("rank_profile")
    }
    assert verdicts == {"low rank pays", "train it all"}


def test_adapters_of_one_layer_alone_are_not_enough() -> None:
    exercise = get("lora/train_adapter")

    def second_only(base: nn.Sequential, *given: Any) -> list[tuple[Tensor, Tensor]]:
        first, second = exercise.reference(copy.deepcopy(base), *given)
        return [(first[0], torch.zeros_like(first[1])), second]

    verdict = evaluate(exercise, second_only, seed=1)
    assert not verdict.passed
    assert any("accuracy" in sentence for sentence in verdict.sentences())
