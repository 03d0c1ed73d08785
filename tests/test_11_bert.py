"""Chapter 11: the lesson's form, masks and pairs, the recipe, and the references of the exercises.

Oracles: the library's own versions on the same random numbers, brute force over a small world, and counts.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import jupytext
import numpy as np
import pytest
import torch

from course_lib.authoring.exercises import registered_entry
from course_lib.authoring.project import find_sources
from course_lib.authoring.structure import structure_problems
from course_lib.checks.exercise import Case
from course_lib.checks.probes import bert as probes
from course_lib.checks.registry import exercises_of, get
from course_lib.data import story_world
from course_lib.data.masking import IGNORE, join_pair, mask_tokens, next_sentence_pairs
from course_lib.data.story_world.blanks import fill_in
from course_lib.models.bert import BERT, BertConfig
from course_lib.recipes import bert as recipe
from course_lib.training import TrainConfig

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("source", find_sources(ROOT, ["11"]), ids=lambda source: source.label)
def test_lesson_and_solution_have_all_their_parts(source: Any) -> None:
    cells = jupytext.read(source.text_path).cells
    assert structure_problems(source, cells, registered_entry) == []


# --- masks and pairs ------------------------------------------------------------------------------------


def test_shares_of_a_large_mask_are_the_papers_and_special_tokens_stay() -> None:
    ids = torch.randint(10, 50_000, (400, 500), generator=torch.Generator().manual_seed(1))
    special = torch.zeros_like(ids, dtype=torch.bool)
    special[:, [0, -1]] = True
    found = mask_tokens(ids, special, 4, range(10, 50_000), torch.Generator().manual_seed(2))
    chosen = found.targets != IGNORE
    assert torch.equal(found.targets[chosen], ids[chosen])
    assert torch.equal(found.inputs[~chosen], ids[~chosen])
    assert not chosen[special].any()
    hidden, kept = found.inputs[chosen] == 4, found.inputs[chosen] == ids[chosen]
    # Five standard errors of a share p of n draws.
    for share, p, n in (
        (chosen.sum() / (~special).sum(), 0.15, int((~special).sum())),
        (hidden.float().mean(), 0.8, int(chosen.sum())),
        (kept.float().mean(), 0.1, int(chosen.sum())),
    ):
        assert abs(float(share) - p) < 5 * math.sqrt(p * (1 - p) / n) + 1e-4


def test_shares_that_do_not_sum_to_one_are_refused() -> None:
    ids = torch.ones(1, 2, dtype=torch.long)
    with pytest.raises(ValueError, match=r"sum to 1\.1"):
        mask_tokens(ids, ids > 1, 4, range(5, 9), shares=(0.8, 0.2, 0.1))


def test_pairs_follow_or_are_strangers_as_their_label_says() -> None:
    documents = [[[100 * d + 10 * s + w for w in range(1, 4)] for s in range(6)] for d in range(1, 41)]
    pairs = next_sentence_pairs(documents, begin_id=1, sep_id=2, seed=3)
    assert len(pairs) == 40 * 5
    for ids, segments, label in pairs:
        first, second = ids[1:4], ids[5:8]
        assert segments == [0] * 5 + [1] * 4 and ids[0] == 1 and ids[4] == ids[8] == 2
        if label == 0:
            assert second[0] - first[0] == 10
        else:
            assert second[0] // 100 != first[0] // 100
    share = sum(pair.label for pair in pairs) / len(pairs)
    assert abs(share - 0.5) < 5 * math.sqrt(0.25 / len(pairs))
    with pytest.raises(ValueError, match="at least two"):
        next_sentence_pairs(documents[:1], 1, 2)


def test_the_law_of_a_blank_is_that_of_all_stories_of_a_small_world() -> None:
    config = story_world.WorldConfig.small()
    told = {
        tuple(word for sentence in sentences for word in sentence.words): float(p)
        for sentences, p in story_world.enumerate_stories(config)
    }
    for story in sorted(told)[:: max(1, len(told) // 8)]:
        for index in range(len(story)):
            alike = {
                other[index]: p
                for other, p in told.items()
                if len(other) == len(story)
                and other[:index] == story[:index]
                and other[index + 1 :] == story[index + 1 :]
            }
            law = fill_in(story, index, config)
            assert law == pytest.approx({word: p / sum(alike.values()) for word, p in alike.items()})


# --- the recipe -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoded() -> list[list[list[int]]]:
    rng = np.random.default_rng(0)
    return [[rng.integers(4, 40, size=5).tolist() for _ in range(int(rng.integers(1, 5)))] for _ in range(64)]


def test_dynamic_masks_change_from_epoch_to_epoch_and_static_ones_do_not(encoded: Any) -> None:
    for dynamic in (True, False):
        batches = recipe.StoryMasks(encoded, 40, recipe.Objective(pairs=0.0, dynamic=dynamic), rows=32)
        rows = []
        for epoch in range(2):
            found = [batches.batch(2 * epoch + step) for step in range(2)]
            whole: dict[tuple[int, ...], list[int]] = {}
            for part in found:
                for inputs, targets in zip(part.inputs.tolist(), part.targets.tolist(), strict=True):
                    real = [
                        target if target != IGNORE else given
                        for given, target in zip(inputs, targets, strict=True)
                    ]
                    key = tuple(token for token in real if token != recipe.PAD)
                    whole[key] = [
                        target for given, target in zip(inputs, targets, strict=True) if given != recipe.PAD
                    ]
            rows.append(whole)
        assert rows[0].keys() == rows[1].keys()
        assert (rows[0] == rows[1]) is not dynamic


def test_a_batch_depends_on_its_step_alone_and_halves_make_a_story(encoded: Any) -> None:
    batches = recipe.StoryMasks(encoded, 40, recipe.Objective(pairs=1.0, masked=0.0), rows=32)
    one, other = batches.batch(1), batches.batch(1)
    assert torch.equal(one.inputs, other.inputs)
    stories = {tuple(recipe.whole(story)[1:-1]) for story in encoded}
    for ids, label in zip(one.inputs.tolist(), one.labels.tolist(), strict=True):
        words = tuple(token for token in ids if token not in (recipe.PAD, recipe.BEGIN, recipe.END))
        if label != 1:
            assert words in stories
    assert {0, 1} <= set(one.labels.tolist())


def test_a_small_run_of_the_recipe_learns_and_comes_back_from_its_file(tmp_path: Path) -> None:
    config = replace(recipe.SMALL, d_model=32, num_layers=1, d_ff=64)
    plan = TrainConfig(steps=40, learning_rate=5e-3, warmup=5)
    reader, history = recipe.train_reader(recipe.read_stories(200), config, plan, progress=False)
    assert np.mean(history.losses[-5:]) < 0.85 * history.losses[0]
    recipe.save_reader(reader, tmp_path / "small.safetensors")
    loaded = recipe.load_reader(tmp_path / "small.safetensors")
    words = recipe.read_stories(1)[0].words
    one, other = reader.fill(words, 2), loaded.fill(words, 2)
    assert all(abs(one[word] - other[word]) < 5e-3 for word in one)
    assert sum(other.values()) == pytest.approx(1, abs=1e-4)
    assert loaded.hidden_states([words])[0].shape == (2, len(words), 32)


# --- the exercises --------------------------------------------------------------------------------------


def cases_of(name: str, seed: int = 3) -> list[Case]:
    return list(get(f"bert/{name}").cases(np.random.default_rng(seed)))


def test_the_points_and_the_gpu_exercise() -> None:
    exercises = exercises_of("11_bert")
    assert [exercise.id for exercise in exercises if exercise.gpu] == ["bert/fill_blanks"]
    assert sum(exercise.points for exercise in exercises) == 20


@pytest.mark.parametrize("case", cases_of("input_embedding"), ids=lambda case: case.name)
def test_the_reference_of_the_input_is_the_librarys(case: Case) -> None:
    sizes = BertConfig(case["vocab_size"], case["d_model"], 1, 2, 8, case["max_length"], dropout=0.0)
    library = BERT(sizes).embedding.eval()
    library.load_state_dict({name: torch.from_numpy(values) for name, values in case["state"].items()})
    segments = None if case["segments"] is None else torch.from_numpy(case["segments"])
    found = probes.input_embedding(get("bert/input_embedding").reference, case)
    torch.testing.assert_close(found["the output"], library(torch.from_numpy(case["ids"]), segments))


@pytest.mark.parametrize("case", cases_of("pretraining_heads"), ids=lambda case: case.name)
def test_the_reference_of_the_heads_is_the_librarys(case: Case) -> None:
    state = {name: torch.from_numpy(values) for name, values in case["state"].items()}
    model = BERT(BertConfig(case["vocab_size"], case["d_model"], 1, 2, 8, 16, dropout=0.0)).eval()
    head = {name: values for name, values in state.items() if name.startswith(("dense", "norm", "bias"))}
    model.mlm_head.load_state_dict(head)  # type: ignore[union-attr]
    given, table = (torch.from_numpy(case[name]) for name in ("hidden_states", "token_embedding"))
    pooled = torch.tanh(given[:, 0] @ state["pooler.weight"].T + state["pooler.bias"])
    model.nsp_head.load_state_dict(  # type: ignore[union-attr]
        {name: state[f"next_sentence.{name}"] for name in ("weight", "bias")}
    )
    found = probes.pretraining_heads(get("bert/pretraining_heads").reference, case)
    torch.testing.assert_close(found["the tensor of token logits"], model.mlm_head(given, table))  # type: ignore[misc]
    torch.testing.assert_close(found["the tensor of sentence logits"], model.sentence_logits(pooled))


def test_every_pair_of_the_cases_is_as_the_librarys_join_makes_it() -> None:
    for case in cases_of("next_sentence_pairs"):
        found = probes.next_sentence_pairs(get("bert/next_sentence_pairs").reference, case)
        assert {0, 1} == set(found["the list of labels"])
        for ids, segments in zip(found["the list of ids"], found["the list of segments"], strict=True):
            sep = ids.index(case["sep_id"])
            pair = join_pair(ids[1:sep], ids[sep + 1 : -1], 0, case["begin_id"], case["sep_id"])
            assert (pair.ids, pair.segments) == (ids, segments)
            assert len(ids) <= case["max_length"]


def test_no_verdict_of_the_probes_lies_near_its_bound() -> None:
    verdicts = set()
    for seed in range(10):
        for case in cases_of("probe_layers", seed):
            found = probes.probe_layers(get("bert/probe_layers").reference, case)
            best = max(found["the list of accuracies"])
            assert abs(best - found["the baseline"] - 0.05) > 1e-6, case.name
            assert all(abs(best - 0.02 - one) > 1e-6 for one in found["the list of accuracies"]), case.name
            verdicts.add(found["the verdict"])
    assert "none of the layers" in verdicts and len(verdicts) > 2


def test_neither_neighbour_alone_fills_a_blank() -> None:
    for case in cases_of("fill_blanks"):
        sentences, questions = case["sentences"], case["questions"]
        places = (questions == case["num_words"]).argmax(axis=1)
        for side in (-1, 1):
            counts = np.zeros((case["num_words"], case["num_words"]))
            for middle in (1, 4, 7):
                np.add.at(counts, (sentences[:, middle + side], sentences[:, middle]), 1)
            guesses = counts[questions[np.arange(len(questions)), places + side]].argmax(axis=1)
            assert (guesses == case.withheld["words"]).mean() < 0.4
