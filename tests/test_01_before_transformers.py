"""Chapter 01: the lesson's form, what the exercises' probes measure, and the curves that the lesson shows.

Oracles: the library's Model 1, torch's LSTM cell, cross-entropy and clipping, and the recipe run again.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
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
from course_lib.checks.probes import before_transformers as probes
from course_lib.checks.registry import exercises_of, get
from course_lib.models.alignment import NULL, train_model1
from course_lib.recipes import memory as recipe

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("source", find_sources(ROOT, ["01"]), ids=lambda source: source.label)
def test_lesson_and_solution_have_all_their_parts(source: Any) -> None:
    cells = jupytext.read(source.text_path).cells
    assert structure_problems(source, cells, registered_entry) == []


# --- the recipe and its curves --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", recipe.LAYERS)
def test_the_shipped_curves_are_the_recipes(kind: str) -> None:
    shipped = recipe.load_curves()["kinds"][kind]["5"][1]
    plan = recipe.Plan(5, steps=50, seed=shipped["seed"])
    _, losses = recipe.train(kind, plan)
    assert recipe.averaged(losses)[0] == pytest.approx(shipped["losses"][0], abs=0.02)


def test_all_runs_are_there_and_equally_long() -> None:
    curves = recipe.load_curves()
    assert list(curves["kinds"]) == list(recipe.LAYERS)
    for runs in curves["kinds"].values():
        assert list(runs) == [str(delay) for delay in recipe.DELAYS]
        for of_delay in runs.values():
            assert [run["seed"] for run in of_delay] == list(recipe.SEEDS)
            assert {len(run["losses"]) for run in of_delay} == {curves["plan"]["steps"] // 50}
    plan = recipe.Plan(0)
    assert all(getattr(plan, name) == value for name, value in curves["plan"].items())


def test_the_copy_task_asks_for_what_it_showed() -> None:
    ids, symbols = recipe.copy_task(50, 3, torch.Generator().manual_seed(0))
    assert ids.shape == (50, 7) and torch.equal(ids[:, :2], symbols)
    assert ids[:, 2:].unique(dim=0).tolist() == [[recipe.BLANK] * 3 + [recipe.GO, recipe.BLANK]]
    assert symbols.unique().tolist() == list(range(recipe.SYMBOLS))


def test_accuracy_is_the_share_of_right_symbols() -> None:
    class Knows(recipe.Memory):
        def forward(self, ids: Tensor) -> Tensor:
            first = F.one_hot(ids[:, :1], recipe.SYMBOLS)
            return torch.cat([first, torch.zeros_like(first)], dim=1)

    assert recipe.accuracy(Knows("RNN"), 4) == pytest.approx(0.5 + 0.5 / 8, abs=0.03)


# --- the exercises --------------------------------------------------------------------------------------


def cases_of(name: str, seed: int = 3) -> dict[str, Case]:
    cases = get(f"before_transformers/{name}").cases(np.random.default_rng(seed))
    return {case.name: case for case in cases}


def test_the_points_and_the_gpu_exercise() -> None:
    exercises = exercises_of("01_before_transformers")
    assert [exercise.id for exercise in exercises if exercise.gpu] == ["before_transformers/lstm_cell"]
    assert sum(exercise.points for exercise in exercises) == 18


def test_the_reference_of_em_is_the_librarys_model() -> None:
    rng = np.random.default_rng(0)
    pairs = [(rng.integers(1, 6, size=3), rng.integers(0, 5, size=4)) for _ in range(8)]
    words = [
        SimpleNamespace(source=[str(e) for e in source], target=[str(f) for f in target])
        for source, target in pairs
    ]
    model = train_model1(words, iterations=3)
    table = torch.full((6, 5), 1 / 5, dtype=torch.float64)
    for _ in range(3):
        given = [(torch.tensor(source), torch.tensor(target)) for source, target in pairs]
        _, table = get("before_transformers/em_step").reference(given, table)
    for number, source in enumerate((NULL, "1", "2", "3", "4", "5")):
        for target, probability in model.translations(source, 99):
            assert table[number, int(target)] == pytest.approx(probability, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_every_distribution_of_the_next_word_sums_to_one(seed: int) -> None:
    exercise = get("before_transformers/next_word")
    for case in cases_of("next_word", seed).values():
        found = probes.next_word(exercise.reference, case)["the distribution"]
        assert found.shape == (case["vocab_size"],) and found.min() > 0
        assert float(found.sum()) == pytest.approx(1.0)


@pytest.mark.parametrize("case", cases_of("perplexity").values(), ids=lambda case: case.name)
def test_the_reference_of_perplexity_is_the_exponential_of_torchs_cross_entropy(case: Case) -> None:
    logits, targets, mask = (torch.tensor(case[name]) for name in ("logits", "targets", "mask"))
    expected = F.cross_entropy(logits[mask], targets[mask]).exp()
    found = probes.perplexity(get("before_transformers/perplexity").reference, case)["the perplexity"]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=2e-4)


@pytest.mark.parametrize("case", cases_of("lstm_cell").values(), ids=lambda case: case.name)
def test_the_reference_of_the_lstm_is_torchs_cell(case: Case) -> None:
    def torchs(
        x: Tensor, hidden: Tensor, cell: Tensor, w: Tensor, u: Tensor, b: Tensor, forget_bias: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        shift = torch.zeros_like(b).view(4, -1)
        shift[1] = forget_bias
        return torch.lstm_cell(x, (hidden, cell), w, u, b, shift.flatten())

    ours = probes.lstm_cell(get("before_transformers/lstm_cell").reference, case)
    theirs = probes.lstm_cell(torchs, case)
    for name in ours.keys() - {"what you return"}:
        torch.testing.assert_close(ours[name], theirs[name], atol=5e-5, rtol=2e-4)


@pytest.mark.parametrize("case", cases_of("clip_gradients").values(), ids=lambda case: case.name)
def test_the_reference_of_clipping_is_torchs(case: Case) -> None:
    ours = probes.clip_gradients(get("before_transformers/clip_gradients").reference, case)
    theirs = probes.clip_gradients(nn.utils.clip_grad_norm_, case)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(value, theirs[name], atol=1e-6, rtol=1e-3)


def test_a_network_that_keeps_nine_tenths_is_measured_exactly() -> None:
    def step(x: Tensor, hidden: Tensor) -> Tensor:
        return x + 0.9 * hidden

    how_far_back = get("before_transformers/how_far_back").reference
    zeros, ones = torch.zeros(2, 3, dtype=torch.float64), torch.ones(2, 3, dtype=torch.float64)
    influence, reach, half_life, verdict = how_far_back(step, zeros.expand(60, 2, 3), zeros, ones)
    torch.testing.assert_close(influence, math.sqrt(6) * 0.9 ** torch.arange(60).double())
    assert half_life == pytest.approx(math.log(0.5) / math.log(0.9))
    # 0.9 to the power of 43 is above one hundredth, to the power of 44 below.
    assert (reach, verdict) == (44, "forgets")
    assert how_far_back(step, zeros.expand(44, 2, 3), zeros, ones)[1:] == (
        44,
        pytest.approx(half_life),
        "remembers",
    )


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("lstm_cell", lambda x, h, c, w, u, b, forget_bias=0.0: torch.lstm_cell(x, (h, c), w, u, b)),
        ("lstm_cell", lambda x, h, c, *weights, **bias: nn.LSTMCell(x.shape[1], h.shape[1])(x, (h, c))),
        ("lstm_cell", lambda x, h, c, w, u, b, forget_bias=0.0: torch.ops.aten.lstm_cell(x, [h, c], w, u, b)),
        ("perplexity", lambda logits, targets, mask: F.cross_entropy(logits[mask], targets[mask]).exp()),
        ("perplexity", lambda z, t, m: F.nll_loss(z[m].log_softmax(-1), t[m]).exp()),
        ("perplexity", lambda z, t, m: torch.ops.aten.cross_entropy_loss(z[m], t[m]).exp()),
        ("clip_gradients", nn.utils.clip_grad_norm_),
        ("clip_gradients", lambda p, m: nn.utils.get_total_norm([q.grad for q in p if q.grad is not None])),
    ],
)
def test_nothing_of_torchs_gives_an_answer_away(name: str, way: Any) -> None:
    verdict = evaluate(get(f"before_transformers/{name}"), way, seed=1)
    assert verdict.findings[0].kind == "forbidden", verdict.sentences()


def test_the_library_gives_no_answer_away() -> None:
    def by_the_library(*given: Any) -> tuple[Tensor, Tensor]:
        x, hidden, cell, weight_input, weight_hidden, bias = given[:6]
        from course_lib.models.recurrent import lstm_cell

        return lstm_cell(x @ weight_input.T, hidden @ weight_hidden.T + bias, cell)

    exercise = get("before_transformers/lstm_cell")
    without_bias = replace(exercise, forbidden=())
    failed = {finding.case for finding in evaluate(without_bias, by_the_library, seed=1).findings}
    assert all("forget bias" in case or case.startswith("two steps") for case in failed)
    assert evaluate(exercise, by_the_library, seed=1).findings[0].kind == "forbidden"


@pytest.mark.parametrize("seed", range(10))
def test_influence_that_comes_and_goes_ends_where_it_last_counts(seed: int) -> None:
    case = cases_of("how_far_back", seed)["influence that comes and goes"]
    found = probes.how_far_back(get("before_transformers/how_far_back").reference, case)
    shares = found["the table of influences"] / found["the table of influences"][0]
    assert shares[1] < case["threshold"] < shares[found["the reach"] - 1] < shares.max()
    assert (shares[found["the reach"] :] < case["threshold"]).all()
