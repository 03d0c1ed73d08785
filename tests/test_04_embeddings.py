"""Chapter 04: the lesson's form, and what the exercises' cases and probes promise.

Oracles: the definitions of the statements, and the truth that a judged case withholds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jupytext
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.authoring.exercises import registered_entry
from course_lib.authoring.project import find_sources
from course_lib.authoring.structure import structure_problems
from course_lib.checks.engine import evaluate
from course_lib.checks.probes import embeddings as probes
from course_lib.checks.registry import get

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("source", find_sources(ROOT, ["04"]), ids=lambda source: source.label)
def test_lesson_and_solution_have_all_their_parts(source: Any) -> None:
    cells = jupytext.read(source.text_path).cells
    assert structure_problems(source, cells, registered_entry) == []


def refused(exercise: str, answer: Any) -> str:
    verdict = evaluate(get(exercise), answer, seed=1, explain=False)
    assert verdict.findings[0].kind == "forbidden", verdict.sentences()
    return verdict.findings[0].text


def by_autograd(centre: Tensor, neighbour: Tensor, negatives: Tensor) -> Any:
    inputs = [given.clone().requires_grad_() for given in (centre, neighbour, negatives)]
    push = torch.einsum("bd,bkd->bk", inputs[0], inputs[2])
    loss = -(F.logsigmoid((inputs[0] * inputs[1]).sum(-1)) + F.logsigmoid(-push).sum(-1)).mean()
    return (loss.detach(), *torch.autograd.grad(loss, inputs))


def test_autograd_finds_no_gradient_that_is_asked_for_by_hand() -> None:
    assert "torch.autograd.grad" in refused("embeddings/negative_sampling", by_autograd)

    def by_backward(table: Tensor, ids: Tensor, upstream: Tensor) -> Any:
        table = table.clone().requires_grad_()
        table[ids].backward(upstream)
        return table[ids], table.grad

    assert "backward" in refused("embeddings/lookup", by_backward)


def test_torchs_own_look_up_is_no_answer() -> None:
    def by_torch(table: Tensor, ids: Tensor, upstream: Tensor) -> Any:
        return F.embedding(ids, table), table

    assert "embedding" in refused("embeddings/lookup", by_torch)


@pytest.mark.parametrize("seed", range(5))
def test_draws_stay_away_from_every_boundary(seed: int) -> None:
    """So that a right answer in float32 gets the same words."""
    for case in get("embeddings/skip_gram_pairs").cases(np.random.default_rng(seed)):
        frequency = (case["counts"] / case["counts"].sum())[case["ids"]]
        assert np.abs(case["keep_draws"] - np.minimum(1, np.sqrt(case["threshold"] / frequency))).min() > 5e-5
        scaled = case["reach_draws"] * case["window"]
        assert np.abs(scaled - np.round(scaled)).min() > 0.05
        assert ((case["keep_draws"] >= 0) & (case["keep_draws"] < 1)).all()
    for case in get("embeddings/negatives").cases(np.random.default_rng(seed)):
        noise = case["counts"] ** 0.75
        for positive, row in zip(case["positives"], case["draws"], strict=True):
            ends = np.cumsum(np.where(np.arange(len(noise)) == positive, 0, noise))
            distance = np.abs(row[:, None] - ends / ends[-1]).min(axis=1)
            assert (distance[row > 0] > 5e-5).all()


@pytest.mark.parametrize("seed", range(5))
def test_equal_cosines_are_equal_in_every_arithmetic(seed: int) -> None:
    case = next(c for c in get("embeddings/senses").cases(np.random.default_rng(seed)) if "equal" in c.name)
    table, word = case["table"], case["word"]
    exact = {n: round(4 * float(c)) / 4 for n, c in enumerate(_cosines(table.astype(np.float64), word))}
    assert len(set(exact.values())) < len(exact) - 3
    for dtype in (np.float32, np.float64):
        assert list(_cosines(table.astype(dtype), word)) == list(exact.values())


def _cosines(table: np.ndarray, word: int) -> np.ndarray:
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    return unit @ unit[word]


@pytest.mark.parametrize("seed", range(3))
def test_the_readings_of_the_senses_are_all_met(seed: int) -> None:
    exercise = get("embeddings/senses")
    cases = list(exercise.cases(np.random.default_rng(seed)))
    read = {case.name: probes.senses(exercise.reference, case)["the reading"] for case in cases}
    assert set(read.values()) == {"both", "first", "second", "neither"}
    assert read["a word with two senses"] == read["words with equal cosines"] == "both"
    assert read["the opposite of the second sense"] == "first"


@pytest.mark.parametrize("seed", range(3))
def test_the_questions_alone_do_not_tell_the_fourth_words(seed: int) -> None:
    for case in get("embeddings/analogies").cases(np.random.default_rng(seed)):
        truth, questions = case.withheld["fourth words"], case["questions"]
        assert len(truth) == len(questions) == 80
        shown = {tuple(sorted(pair)) for pair in questions[:, :2].tolist()}
        asked = {tuple(sorted(pair)) for pair in zip(questions[:, 2].tolist(), truth.tolist(), strict=True)}
        assert not shown & asked
        assert not set(questions[:, :2].ravel()) & set(truth.tolist())
        assert "fourth words" not in case.inputs


def test_trained_vectors_complete_analogies_and_untrained_ones_do_not() -> None:
    exercise = get("embeddings/analogies")
    case = next(iter(exercise.cases(np.random.default_rng(7))))
    truth = torch.as_tensor(case.withheld["fourth words"])
    right = {
        name: (probes.analogies(answer, case)["the list of fourth words"] == truth).float().mean().item()
        for name, answer in {
            "trained": exercise.reference,
            "counted": exercise.also_right[0],
            "any word": lambda sentences, num_words, questions: torch.randint(num_words, (len(questions),)),
        }.items()
    }
    assert right["trained"] > 0.95 and right["counted"] > 0.95 and right["any word"] < 0.2


@pytest.mark.parametrize("name", ["lookup", "negatives", "negative_sampling", "senses"])
def test_another_form_than_the_tuple_is_described(name: str) -> None:
    exercise = get(f"embeddings/{name}")
    verdict = evaluate(exercise, lambda *given: list(exercise.also_right[0](*given)), seed=1, explain=False)
    assert "a list of" in verdict.findings[0].text and "a tuple (" in verdict.findings[0].text
