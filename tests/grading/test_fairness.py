"""The measurement of fairness counts what is fair and reports what is not.

Oracle: one exercise of the course, and the same with its right and wrong answers exchanged.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from course_lib.checks.registry import get

ROOT = Path(__file__).resolve().parents[2]
EXERCISE = get("attention/causal_mask")


@pytest.fixture(scope="module")
def fairness() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fairness", ROOT / "benchmarks" / "fairness.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_answer_of_an_exercise_is_run_and_fair(fairness: ModuleType) -> None:
    tally = fairness.decide_all(EXERCISE, seed=5)
    assert tally.misses == []
    assert tally.right == 2 + len(EXERCISE.also_right)  # the reference and the published solution
    assert tally.wrong == tally.named == len(EXERCISE.misconceptions)


def test_a_right_answer_without_marks_and_a_wrong_one_with_marks_are_misses(fairness: ModuleType) -> None:
    wrong = EXERCISE.misconceptions[0]
    unfair = replace(
        EXERCISE,
        also_right=(wrong.answer,),
        misconceptions=(replace(wrong, answer=EXERCISE.also_right[0]),),
    )
    tally = fairness.decide_all(unfair, seed=5)
    assert [(miss.answer, miss.right, miss.seed, miss.status) for miss in tally.misses] == [
        ("right answer 1", True, 5, "failed"),
        (wrong.name, False, 5, "passed"),
    ]
    table = fairness.markdown({EXERCISE.id: tally})
    assert f"| {EXERCISE.id} | 3 | 1 | 1 | 1 | 0.00 % |" in table
    assert "right answer 1, seed 5: failed." in table
    plain = json.loads(fairness.as_json({EXERCISE.id: tally}))[EXERCISE.id]
    assert (plain["right"], plain["wrong"], plain["otherwise"]) == (3, 1, {})
    assert [missed["answer"] for missed in plain["misses"]] == ["right answer 1", wrong.name]


def test_a_misconception_that_is_taken_for_another_is_no_miss_but_reported(fairness: ModuleType) -> None:
    first, second = EXERCISE.misconceptions[:2]
    twins = (first, replace(second, answer=first.answer))
    tally = fairness.decide_all(replace(EXERCISE, misconceptions=twins), seed=5)
    assert (tally.misses, tally.named) == ([], 1)
    assert dict(tally.otherwise) == {f"{second.name} → {first.name}, seed 5": 1}


def test_the_seeds_follow_from_one_and_all_work_is_shared_out(fairness: ModuleType) -> None:
    seeds = fairness.derive_seeds(1, 12)
    assert seeds == fairness.derive_seeds(1, 12) != fairness.derive_seeds(2, 12)
    assert len(set(seeds)) == 12 and all(0 <= seed < 2**63 for seed in seeds)
    work = fairness.tasks(["a/b", "c/d"], seeds)
    assert sorted((task.exercise, seed) for task in work for seed in task.seeds) == sorted(
        (exercise, seed) for exercise in ("a/b", "c/d") for seed in seeds
    )
