"""Chapter 13: the lesson's form, the storyteller that ships, the recipes, the references of the exercises.

Oracles: `F.cross_entropy`, the library's block and sampling, the exact world, and the recipes run again.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import jupytext
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from course_lib.authoring.exercises import registered_entry
from course_lib.authoring.project import find_sources
from course_lib.authoring.structure import structure_problems
from course_lib.checks.exercise import Case
from course_lib.checks.registry import exercises_of, get
from course_lib.data import story_world
from course_lib.generation import keep_likeliest
from course_lib.models.gpt import Block, GPTConfig, Sight
from course_lib.recipes import gpt as recipe
from course_lib.recipes import gpt2, in_context, scaling

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("source", find_sources(ROOT, ["13"]), ids=lambda source: source.label)
def test_lesson_and_solution_have_all_their_parts(source: Any) -> None:
    cells = jupytext.read(source.text_path).cells
    assert structure_problems(source, cells, registered_entry) == []


# --- the storyteller that ships -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped() -> recipe.Storyteller:
    return recipe.load_storyteller()


def test_the_shipped_model_is_near_the_exact_entropy(
    shipped: recipe.Storyteller,
) -> None:
    assert recipe.load_measured()["test"]["gap"] <= 0.05
    found = recipe.measure(shipped, count=200)
    assert found["gap"] <= 0.07  # of two hundred stories alone
    assert recipe.WEIGHTS.stat().st_size < 5e6


def test_many_of_its_stories_could_have_happened(shipped: recipe.Storyteller) -> None:
    possible = 0
    for text in shipped.tell(40, seed=5):
        try:
            story_world.read_story(text)
        except ValueError:
            continue
        possible += 1
    assert possible >= 10  # of stories drawn by counting four words at a time none could


# --- the scaling law ------------------------------------------------------------------------------------


def test_the_fit_finds_the_law_that_made_the_numbers() -> None:
    made = scaling.Law(a=40.0, alpha=0.42, b=900.0, beta=0.61)
    parameters, tokens = (values.ravel() for values in np.meshgrid([1e3, 1e4, 1e5], [1e5, 1e6, 1e7]))
    found = scaling.fit_law(parameters, tokens, made(parameters, tokens))
    assert found.alpha == pytest.approx(made.alpha, abs=0.01)
    assert found.beta == pytest.approx(made.beta, abs=0.01)
    np.testing.assert_allclose(found(parameters, tokens), made(parameters, tokens), rtol=0.01)


def test_the_law_of_the_recipes_runs_misses_them_by_little() -> None:
    runs = scaling.load_measured()
    assert len(runs) == len(scaling.WIDTHS) * len(scaling.STEPS)
    parameters, tokens, gaps = (
        np.array([run[name] for run in runs]) for name in ("parameters", "tokens", "gap")
    )
    law = scaling.fit_law(parameters, tokens, gaps)
    assert np.abs(np.log(law(parameters, tokens) / gaps)).mean() < 0.15


def test_a_small_run_of_the_scaling_recipe() -> None:
    runs = scaling.train_all(widths=(8, 16), steps=(3,), held_out=5)
    assert [run["width"] for run in runs] == [8, 16]
    assert runs[0]["parameters"] < runs[1]["parameters"]
    assert all(run["gap"] == pytest.approx(run["loss"] - run["exact"]) and run["gap"] > 0 for run in runs)


# --- in-context learning --------------------------------------------------------------------------------


def test_rows_of_pairs_follow_one_rule_each() -> None:
    rules = in_context.draw_rules(3, seed=0)
    rows = in_context.PairRows(rules, size=10).batch(0)
    keys, values = rows[:, ::2], rows[:, 1::2] - in_context.KEYS
    said = rules.expand(10, -1, -1).gather(2, keys[:, None].expand(-1, 3, -1))  # by each of the three rules
    assert (said == values[:, None]).all(dim=-1).any(dim=1).all()
    assert torch.equal(rows, in_context.PairRows(rules, size=10).batch(0))


def test_what_the_recipe_measured_shows_what_the_lesson_says() -> None:
    runs = {(run["layers"], run["pool"]): run for run in in_context.load_measured()}
    many = runs[2, max(in_context.POOLS)]
    assert many["new rules"][1] > 0.8
    assert runs[2, min(in_context.POOLS)]["new rules"][1] < 0.5
    assert runs[1, max(in_context.POOLS)]["new rules"][1] < 0.5


def test_a_short_run_of_the_in_context_recipe() -> None:
    found = in_context.run(1, 4, replace(in_context.PLAN, steps=3))
    assert len(found["losses"]) == 3
    assert all(0 <= share <= 1 for share in found["new rules"])


# --- GPT-2 ----------------------------------------------------------------------------------------------


class Bytes:
    """A tokenizer of bytes."""

    vocab_size = 256

    def encode(self, text: str) -> list[int]:
        return list(text.encode())


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    text = tmp_path / "text.txt"
    text.write_text("The cat sat on the mat. " * 400, encoding="utf-8")
    gpt2.prepare([text], Bytes(), tmp_path / "tokens", held_out=0.1)  # type: ignore[arg-type]
    return tmp_path / "tokens"


def test_the_recipe_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        model = gpt2.GPT(gpt2.CONFIG)
    assert sum(parameter.numel() for parameter in model.parameters()) == 124_439_808


def test_prepared_tokens_are_the_text_and_windows_are_shifted(prepared: Path) -> None:
    tokens = [np.fromfile(prepared / name, dtype=np.uint16) for name in ("train.bin", "validation.bin")]
    assert bytes(np.concatenate(tokens).tolist()).decode() == "The cat sat on the mat. " * 400
    inputs, targets = gpt2.TokenFile(prepared / "train.bin", context=16, size=4).batch(0)
    assert inputs.shape == targets.shape == (4, 16)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])


@pytest.mark.parametrize("processes", [1, 2])
def test_it_trains_alone_and_under_torchrun(prepared: Path, processes: int) -> None:
    options = ["train", str(prepared), "--size", "tiny", "--steps", "2", "--device", "cpu"]
    start = ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m"]
    command = [sys.executable, "-m", *(start if processes > 1 else []), "course_lib.recipes.gpt2", *options]
    surroundings = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=surroundings, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("validation loss") == 1


# --- the references of the exercises --------------------------------------------------------------------


def cases_of(name: str, seed: int = 3) -> list[Case]:
    return list(get(f"gpt/{name}").cases(np.random.default_rng(seed)))


def test_the_points_and_the_gpu_exercise() -> None:
    exercises = exercises_of("13_gpt")
    assert sum(exercise.points for exercise in exercises) == 23
    assert [exercise.id for exercise in exercises if exercise.gpu] == ["gpt/shifted_loss"]


@pytest.mark.parametrize("case", cases_of("shifted_loss"), ids=lambda case: case.name)
def test_the_reference_of_the_loss_is_torchs(case: Case) -> None:
    logits, ids = torch.tensor(case["logits"]), torch.tensor(case["ids"])
    targets = ids[:, 1:].clone()
    if case["mask"] is not None:
        targets[~torch.tensor(case["mask"])[:, 1:]] = -100
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten())
    mask = () if case["mask"] is None else (torch.tensor(case["mask"]),)
    torch.testing.assert_close(get("gpt/shifted_loss").reference(logits, ids, *mask), expected)


@pytest.mark.parametrize("case", cases_of("causal_block"), ids=lambda case: case.name)
def test_the_reference_of_the_block_is_the_librarys(case: Case) -> None:
    state = {name: torch.tensor(array) for name, array in case["state"].items()}
    block = Block(GPTConfig(d_model=case["d_model"], num_heads=case["num_heads"], activation="gelu_tanh"))
    inside = {
        "query_key_value": "attention",
        "output": "attention",
        "up": "feed_forward",
        "down": "feed_forward",
    }
    block.load_state_dict(
        {
            f"{inside[part]}.{part}.{kind}" if part in inside else f"{part}.{kind}": values
            for (part, kind), values in ((name.split("."), values) for name, values in state.items())
        }
    )
    answer = get("gpt/causal_block").reference(case["d_model"], case["num_heads"])
    answer.load_state_dict(state)
    hidden_states = torch.tensor(case["hidden_states"])
    with torch.no_grad():
        expected = block(hidden_states, Sight(None, None, False), None)[0]
        torch.testing.assert_close(answer(hidden_states), expected, atol=1e-4, rtol=1e-4)


class OneLogit:
    """A model that always gives the same logits, and whose cache is nothing."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits

    def new_cache(self) -> None:
        return None

    def __call__(self, ids: torch.Tensor, cache: None) -> torch.Tensor:
        return self.logits.expand(*ids.shape, -1)


@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"top_p": 0.6}, {"top_k": 5, "top_p": 0.7}])
@pytest.mark.parametrize("temperature", [0.5, 1.7])
def test_the_reference_of_sampling_draws_with_the_librarys_probabilities(
    options: dict[str, Any], temperature: float
) -> None:
    logits = torch.randn(8, generator=torch.Generator().manual_seed(0))
    rows = 4000
    draws = ((torch.arange(rows) + 0.5) / rows)[:, None]
    ids = torch.zeros(rows, 1, dtype=torch.long)
    texts = get("gpt/sample").reference(OneLogit(logits), ids, 1, draws, temperature=temperature, **options)
    found = torch.bincount(texts[:, 1], minlength=8) / rows
    expected = keep_likeliest(logits[None] / temperature, **options).softmax(dim=-1)[0]
    torch.testing.assert_close(found, expected, atol=2 / rows, rtol=0)


@pytest.mark.parametrize("seed", range(5))
def test_perplexity_misleads_in_some_cases_and_not_in_others(seed: int) -> None:
    from course_lib.checks.probes.gpt import TableModel

    reference, verdicts = get("gpt/compare_models").reference, set()
    for case in cases_of("compare_models", seed):
        models = {name: TableModel(*given) for name, given in case["models"].items()}
        perplexities, bits, _, misled = reference(case["text"], models)
        verdicts.add(misled)
        for values in (perplexities, bits):
            ordered = sorted(values.values())
            assert all(two - one > 0.02 for one, two in pairwise(ordered))
    assert verdicts == {True, False}


@pytest.mark.parametrize("seed", range(5))
def test_the_bar_of_the_training_lies_between_what_is_possible_and_pairs(seed: int) -> None:
    exercise = get("gpt/continue_texts")
    bar = exercise.judged["the tensor of log-probabilities"].bar
    wrong = {one.name: one.answer for one in exercise.misconceptions}
    for case in cases_of("continue_texts", seed):
        texts, beginnings = torch.tensor(case["texts"]), torch.tensor(case["beginnings"])
        truth = torch.tensor(case.withheld["tokens that follow"])
        losses = [
            float(F.nll_loss(answer(texts, beginnings, case["vocab_size"]), truth))
            for answer in (exercise.reference, wrong["only the last token is looked at"])
        ]
        assert losses[0] < bar - 0.1
        assert losses[1] > bar + 0.3
        assert losses[1] < math.log(case["vocab_size"])
