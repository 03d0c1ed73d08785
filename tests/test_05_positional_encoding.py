"""Chapter 05: the lesson's form, the exercises' cases, and the recipe behind the lesson's race.

Oracles: `transformers`' own functions as answers, scores worked out anew, the library's layers.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
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
from course_lib.checks.engine import draw_cases, evaluate
from course_lib.checks.probes import positional_encoding as probes
from course_lib.checks.registry import get
from course_lib.layers.positions import sinusoidal_table
from course_lib.layers.rotary import Rotary
from course_lib.recipes import positions as recipe

ROOT = Path(__file__).resolve().parents[1]
TINY = recipe.Config(
    d_model=16,
    num_heads=2,
    layers=1,
    trained=8,
    read=32,
    batch=4,
    steps=6,
    windows=8,
    bin=8,
    stories=300,
    unseen=100,
)


@pytest.mark.parametrize("source", find_sources(ROOT, ["05"]), ids=lambda source: source.label)
def test_lesson_and_solution_have_all_their_parts(source: Any) -> None:
    cells = jupytext.read(source.text_path).cells
    assert structure_problems(source, cells, registered_entry) == []


# --- exercises ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("d_model", [2, 8, 30])
def test_the_exercises_table_is_the_librarys_where_both_have_one(d_model: int) -> None:
    exercises = import_module("course_lib.checks.05_positional_encoding")
    torch.testing.assert_close(exercises.table_of_any_width(40, d_model), sinusoidal_table(40, d_model))


def test_t5s_own_buckets_pass() -> None:
    pytest.importorskip("transformers")
    from transformers.models.t5.modeling_t5 import T5Attention

    def of_t5(
        relative_position: Tensor, num_buckets: int = 32, max_distance: int = 128, bidirectional: bool = True
    ) -> Tensor:
        found: Tensor = T5Attention._relative_position_bucket(
            relative_position, bidirectional, num_buckets, max_distance
        )
        return found

    assert evaluate(get("positional_encoding/bucket"), of_t5, seed=3).passed


def bucket_in_whole_numbers(distance: int, own: int, max_distance: int) -> tuple[int, bool]:
    """The bucket of one direction without a logarithm, and whether the distance lies on an edge.

    Bucket exact + k begins where (distance / exact)^(own - exact) is (max_distance / exact)^k.
    """
    exact = own // 2
    if distance < exact:
        return distance, False
    large = own - exact
    edges = [(max_distance**k * exact**large, distance**large * exact**k) for k in range(1, large)]
    return exact + sum(reached >= edge for edge, reached in edges), any(
        edge == reached for edge, reached in edges
    )


@pytest.mark.parametrize("seed", range(5))
def test_no_rounding_decides_a_bucket(seed: int) -> None:
    exercise = get("positional_encoding/bucket")
    for case in draw_cases(exercise, seed):
        own, max_distance = case["num_buckets"] or 32, case["max_distance"] or 128
        both = case["bidirectional"] is not False
        own = own // 2 if both else own
        found = probes.bucket(exercise.reference, case)["the table of buckets"]
        for relative, bucket in zip(case["relative_position"].flat, found.flatten().tolist(), strict=True):
            distance = abs(int(relative)) if both else max(-int(relative), 0)
            expected, on_edge = bucket_in_whole_numbers(distance, own, max_distance)
            assert bucket == expected + (own if both and relative > 0 else 0)
            assert not on_edge


@pytest.mark.parametrize("seed", range(3))
def test_converted_checkpoints_give_the_recorded_scores_in_the_other_layout(seed: int) -> None:
    exercise = get("positional_encoding/checkpoint")
    layouts: list[str | None] = []
    for case in draw_cases(exercise, seed):
        values = probes.checkpoint(exercise.reference, case)
        layout, weights = values["the layout"], list(values.values())[2:]
        layouts.append(layout)
        if layout is None:
            assert all(
                torch.equal(weight, torch.as_tensor(case[name]))
                for weight, name in zip(weights, ("query_weight", "key_weight"), strict=True)
            )
            continue
        rotary = Rotary(
            len(weights[0]) // case["num_heads"], layout="half" if layout == "interleaved" else "interleaved"
        )
        hidden_states = torch.as_tensor(case["hidden_states"])
        query, key = (
            rotary.rotate((hidden_states @ weight.T).unflatten(-1, (case["num_heads"], -1)).transpose(0, 1))
            for weight in weights
        )
        scores = query @ key.mT / rotary.d_head**0.5
        recorded = torch.as_tensor(case["scores"])
        wrong = (scores - recorded).abs().mean() / recorded.abs().mean()
        assert wrong < (0.005 if "off by" in case.name else 1e-4)
    assert {"half", "interleaved", None} == set(layouts)


def test_a_layout_that_is_missed_is_told_by_its_name() -> None:
    exercise = get("positional_encoding/checkpoint")

    def never_sure(*given: Any) -> Any:
        return (None, *exercise.reference(*given)[1:])

    text = evaluate(exercise, never_sure, seed=1, explain=False).findings[0].text
    assert "the layout is None; expected 'half'" in text


def test_no_minus_zero_is_told() -> None:
    exercise = get("positional_encoding/alibi")

    def without_offset(num_heads: int, n_query: int, n_key: int) -> Any:
        return exercise.also_right[0](num_heads, n_key, n_key)[:, :n_query]

    text = evaluate(exercise, without_offset, seed=1, explain=False).findings[0].text
    assert "the bias is 0 at [0, 0, 0]" in text


def test_a_rotation_with_tables_on_the_cpu_hears_so() -> None:
    def rotate(x: Tensor, positions: Tensor, base: float = 10000.0, layout: str = "half") -> Tensor:
        angles = positions[:, None] * base ** -(torch.arange(0, x.shape[-1], 2) / x.shape[-1])
        first, second = (
            x.float().chunk(2, -1) if layout == "half" else (x.float()[..., 0::2], x.float()[..., 1::2])
        )
        pair = [first * angles.cos() - second * angles.sin(), first * angles.sin() + second * angles.cos()]
        return (torch.cat(pair, -1) if layout == "half" else torch.stack(pair, -1).flatten(-2)).to(x.dtype)

    verdict = evaluate(get("positional_encoding/rotate"), rotate, seed=2)
    assert verdict.misconception == "new tensors are made on the CPU"


# --- the recipe ---------------------------------------------------------------------------------------


def test_the_shipped_losses_are_of_every_scheme_and_seed() -> None:
    config, measured = recipe.Config(), recipe.results()
    assert set(measured) == set(recipe.SCHEMES)
    assert {tuple(losses.shape) for losses in measured.values()} == {
        (len(recipe.SEEDS), config.read // config.bin)
    }
    assert all(((losses > 0.5) & (losses < 20)).all() for losses in measured.values())


@pytest.mark.parametrize("scheme", recipe.SCHEMES)
def test_no_writer_sees_later_words(scheme: str) -> None:
    torch.manual_seed(0)
    writer = recipe.Writer(scheme, TINY, words=20).eval()
    ids = torch.randint(20, (2, TINY.read))
    changed = ids.clone()
    changed[:, 20:] = (changed[:, 20:] + 1) % 20
    before, after = writer(ids), writer(changed)
    torch.testing.assert_close(before[:, :20], after[:, :20], atol=1e-5, rtol=1e-4)
    assert (before[:, 20:] - after[:, 20:]).abs().max() > 1e-3


@pytest.mark.parametrize("scheme", recipe.SCHEMES)
def test_order_makes_a_difference_in_every_scheme(scheme: str) -> None:
    torch.manual_seed(0)
    writer = recipe.Writer(scheme, replace(TINY, layers=2), words=20).eval()
    for parameter in writer.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))  # T5's bias starts at zero
    ids = torch.randint(20, (1, 12))
    swapped = ids[:, [1, 0, *range(2, 12)]]
    changed = (writer(ids)[:, -1] - writer(swapped)[:, -1]).abs().max()
    assert changed > 1e-5


def test_training_is_the_same_for_the_same_seed_and_lowers_the_loss() -> None:
    runs = [recipe.losses_by_position(recipe.train("ALiBi", 1, TINY)) for _ in range(2)]
    assert runs[0].shape == (TINY.read // TINY.bin,)
    torch.testing.assert_close(runs[0], runs[1], rtol=0, atol=0)
    longer = recipe.losses_by_position(recipe.train("ALiBi", 1, replace(TINY, steps=60)))
    assert longer.mean() < runs[0].mean() - 0.5


def test_steps_can_be_watched_and_an_unknown_scheme_is_named() -> None:
    seen: list[int] = []

    def watch(steps: Any) -> Any:
        for step in steps:
            seen.append(step)
            yield step

    recipe.train("none", 0, TINY, each_step=watch)
    assert seen == list(range(TINY.steps))
    with pytest.raises(ValueError, match="scheme='Rope'"):
        recipe.Writer("Rope", TINY, words=5)


def test_the_learning_rate_warms_up_and_falls() -> None:
    rates = [recipe.schedule(done) for done in np.linspace(0, 1, 101)]
    assert rates[0] < 0.1 and max(rates) > 0.9 and rates[-1] == pytest.approx(0.05)
    assert rates.index(max(rates)) < 10 and rates[10:] == sorted(rates[10:], reverse=True)
