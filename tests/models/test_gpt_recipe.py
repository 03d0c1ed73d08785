"""Chapter 13's storyteller. Oracle: the exact log-probability of every story."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from course_lib.data import story_world
from course_lib.data.translation.vocabulary import END
from course_lib.recipes import gpt
from course_lib.recipes.gpt import CONFIG, PLAN, StoryRows, Storyteller, measure

TINY = replace(CONFIG, d_model=32, num_layers=1, num_heads=2)


@pytest.fixture(scope="module")
def teller() -> Storyteller:
    plan = replace(PLAN, steps=30, warmup=5, dtype="float32", device="cpu")
    found, history = gpt.train_storyteller(300, TINY, plan, progress=False)
    assert history.losses[-1] < history.losses[0] - 1
    return found


def test_rows_hold_whole_stories_in_turn_and_each_comes_once_an_epoch() -> None:
    told = [[10 + index] * (3 + index % 4) for index in range(60)]
    rows = StoryRows(told, 8, 4, seed=1)
    seen = []
    for step in range(len(rows.ids) // 4):
        inputs, targets = rows.batch(step)
        assert inputs.shape == targets.shape == (4, 8) and torch.equal(inputs[:, 1:], targets[:, :-1])
        assert (inputs[:, 0] == END).all()
        seen += inputs.tolist()
    assert len(set(map(tuple, seen))) == len(seen) >= 0.9 * len(rows.ids)
    row = [END, *told[0], END, *told[1], END]
    assert rows.ids[0].tolist() == row[:9]
    with pytest.raises(ValueError, match="make no batch of 4; give more stories"):
        StoryRows(told[:3], 8, 4)


def test_the_gap_is_over_the_exact_probability(teller: Storyteller) -> None:
    told = list(story_world.stories(seed=1, split="test", count=5))
    found = measure(teller, 5)
    words = sum(len(story.words) + 1 for story in told)
    exact = -sum(sum(story.word_log_probabilities) for story in told) / words
    assert found["exact"] == pytest.approx(exact, abs=1e-6)
    assert found["gap"] == pytest.approx(found["loss"] - found["exact"]) and found["gap"] > 0


def test_padding_changes_no_probability(teller: Storyteller) -> None:
    told = [story.words for story in story_world.stories(seed=2, count=3)]
    together = teller.log_probabilities(told)
    for words, logs in zip(told, together, strict=True):
        (alone,) = teller.log_probabilities([words])
        assert logs.shape == (len(words) + 1,)
        torch.testing.assert_close(logs, alone, atol=1e-4, rtol=1e-4)


def test_what_is_saved_tells_the_same(teller: Storyteller, tmp_path: Path) -> None:
    gpt.save_storyteller(teller, tmp_path / "teller.safetensors")
    back = gpt.load_storyteller(tmp_path / "teller.safetensors")
    assert back.vocabulary == teller.vocabulary and back.model.config == teller.model.config
    assert measure(back, 20)["loss"] == pytest.approx(measure(teller, 20)["loss"], abs=5e-3)
    texts = teller.tell(2, ("Anna", "went"), seed=4)
    assert texts == teller.tell(2, ("Anna", "went"), seed=4) and texts != teller.tell(
        2, ("Anna", "went"), seed=5
    )
    assert len(texts) == 2 and all(text.startswith("Anna went") for text in texts)


@pytest.mark.skipif(not gpt.WEIGHTS.exists(), reason="the checkpoint has not been trained")
def test_the_shipped_model_is_small_and_near_the_least_possible_loss() -> None:
    stored = gpt.load_measured()
    assert gpt.WEIGHTS.stat().st_size <= 5_000_000
    assert stored["test"]["gap"] <= 0.05
    found = measure(gpt.load_storyteller(), 60)
    assert found["gap"] == pytest.approx(stored["test"]["gap"], abs=0.02)
