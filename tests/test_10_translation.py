"""Chapter 10: the lesson's form, the translator that ships, its recipe, and the references of the exercises.

Oracles: `F.cross_entropy`, `sacrebleu`, all sequences searched, the library, and the recipe run again.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
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
from course_lib.checks.exercise import Case
from course_lib.checks.probes import translation as probes
from course_lib.checks.registry import exercises_of, get
from course_lib.data.parallel import collate
from course_lib.generation import length_penalty
from course_lib.recipes import translator as recipe
from course_lib.training import TrainConfig, schedule_factor

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("source", find_sources(ROOT, ["10"]), ids=lambda source: source.label)
def test_lesson_and_solution_have_all_their_parts(source: Any) -> None:
    cells = jupytext.read(source.text_path).cells
    assert structure_problems(source, cells, registered_entry) == []


# --- the translator that ships --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped() -> recipe.Translator:
    return recipe.load_translator()


def test_what_the_recipe_measured_reaches_the_bars() -> None:
    unseen = recipe.load_measured()["unseen"]
    assert set(unseen) == {f"{task.level}, {task.target}" for task in recipe.TASKS}
    for name, scores in unseen.items():
        if name.startswith("sentences"):
            assert scores["BLEU"] >= 90, name
        else:
            assert scores["exact"] >= 98, name


@pytest.mark.parametrize("task", recipe.TASKS, ids=lambda task: f"{task.level}, {task.target}")
def test_it_translates_unseen_pairs_as_measured(shipped: recipe.Translator, task: recipe.Task) -> None:
    measured = recipe.load_measured()["unseen"][f"{task.level}, {task.target}"]
    found = recipe.measure(shipped, task._replace(size=60))
    assert found["exact"] >= measured["exact"] - 8
    assert found["BLEU"] >= measured["BLEU"] - 8


def test_it_is_small_and_knows_the_words_of_training(shipped: recipe.Translator) -> None:
    assert recipe.WEIGHTS.stat().st_size < 5e6
    known = set(shipped.vocabulary.tokens)
    for task in recipe.TASKS:
        for pair in recipe.task_pairs(task._replace(size=100)):
            assert {recipe.tag(task.target), *pair.source, *pair.target} <= known


def test_greedy_is_one_beam_and_a_batch_changes_nothing(shipped: recipe.Translator) -> None:
    sources = [pair.source for pair in recipe.task_pairs(recipe.Task("sentences", "fr", 12), "test")]
    together = shipped.translate(sources, "fr", num_beams=1)
    alone = [shipped.translate([source], "fr", num_beams=1, batch=1)[0].ids for source in sources]
    assert [hypothesis.ids for hypothesis in together] == alone
    assert [found.ids for found in shipped.translate(sources, "fr", batch=5)] == [
        found.ids for found in shipped.translate(sources, "fr")
    ]


def test_attention_has_a_row_for_each_word_and_the_end(shipped: recipe.Translator) -> None:
    [pair] = recipe.task_pairs(recipe.Task("numbers", "de", 1), "test")
    config = shipped.model.config
    found = shipped.attention(pair.source, pair.target, "de")
    assert found.shape == (
        config.num_decoder_layers,
        config.num_heads,
        len(pair.target) + 1,
        len(pair.source) + 1,
    )
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(found.shape[:-1]))


# --- the recipe -----------------------------------------------------------------------------------------


def test_a_small_run_of_the_recipe_learns_and_comes_back_from_its_file(tmp_path: Path) -> None:
    task = recipe.Task("numbers", "fr", 400)
    small = replace(recipe.CONFIG, d_model=32, d_ff=64, num_encoder_layers=1, num_decoder_layers=1)
    plan = TrainConfig(steps=60, learning_rate=3e-3, warmup=10)
    trained, history = recipe.train_translator([task], small, plan, tokens=600, progress=False)
    assert history.losses[-1] < 0.6 * history.losses[0]
    recipe.save_translator(trained, tmp_path / "small.safetensors")
    loaded = recipe.load_translator(tmp_path / "small.safetensors")
    assert loaded.vocabulary.tokens == trained.vocabulary.tokens
    sources = [pair.source for pair in recipe.task_pairs(task)[:5]]
    one, other = (model.attention(sources[0], ["deux"], "fr") for model in (trained, loaded))
    torch.testing.assert_close(one, other, atol=5e-3, rtol=0)
    assert recipe.measure(loaded, task._replace(size=5))["exact"] <= 100


def test_tasks_mix_and_every_source_begins_with_its_language() -> None:
    tasks = [recipe.Task("numbers", language, 50) for language in ("fr", "de")]
    vocabulary = recipe.read_vocabulary(tasks)
    firsts = [source[0] for source, _ in recipe.encoded(tasks, vocabulary)]
    tags = vocabulary.encode([recipe.tag("fr"), recipe.tag("de")])
    assert sorted(firsts) == sorted(tags * 50)
    assert len(set(firsts[:20])) == 2


# --- the exercises --------------------------------------------------------------------------------------


def cases_of(name: str, seed: int = 3) -> list[Case]:
    return list(get(f"translation/{name}").cases(np.random.default_rng(seed)))


def test_the_points_and_the_gpu_exercise() -> None:
    exercises = exercises_of("10_translation")
    assert [exercise.id for exercise in exercises if exercise.gpu] == ["translation/smoothed_cross_entropy"]
    assert sum(exercise.points for exercise in exercises) == 17


@pytest.mark.parametrize("case", cases_of("make_batch"), ids=lambda case: case.name)
def test_the_reference_of_the_batch_is_the_librarys(case: Case) -> None:
    def librarys(pairs: Any, **special: int) -> tuple[Tensor, ...]:
        batch = collate(pairs, **special)
        return batch.source_ids, batch.inputs, batch.targets

    ours = probes.make_batch(get("translation/make_batch").reference, case)
    theirs = probes.make_batch(librarys, case)
    assert ours.keys() == theirs.keys()
    for name in ours.keys() - {"what you return"}:
        assert torch.equal(ours[name], theirs[name]), name


@pytest.mark.parametrize("case", cases_of("smoothed_cross_entropy"), ids=lambda case: case.name)
def test_the_reference_of_label_smoothing_is_torchs(case: Case) -> None:
    def torchs(logits: Tensor, targets: Tensor, smoothing: float = 0.1, pad_id: int = 0) -> Tensor:
        flat = logits.flatten(0, 1), targets.flatten()
        return F.cross_entropy(*flat, label_smoothing=smoothing, ignore_index=pad_id)

    ours = probes.smoothed_cross_entropy(get("translation/smoothed_cross_entropy").reference, case)
    for name, value in probes.smoothed_cross_entropy(torchs, case).items():
        torch.testing.assert_close(ours[name], value, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "way",
    [
        lambda logits, targets, smoothing=0.1, pad_id=0: F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), label_smoothing=smoothing, ignore_index=pad_id
        ),
        lambda logits, targets, smoothing=0.1, pad_id=0: torch.nn.CrossEntropyLoss(
            label_smoothing=smoothing, ignore_index=pad_id
        )(logits.flatten(0, 1), targets.flatten()),
        lambda logits, targets, smoothing=0.1, pad_id=0: torch._C._nn.cross_entropy_loss(
            logits.flatten(0, 1),
            targets.flatten(),
            None,
            1,  # type: ignore[arg-type]
            pad_id,
            smoothing,
        ),
    ],
    ids=["F.cross_entropy", "nn.CrossEntropyLoss", "torch._C"],
)
def test_torchs_own_smoothing_is_no_answer(way: Any) -> None:
    exercise = get("translation/smoothed_cross_entropy")
    assert evaluate(replace(exercise, forbidden=()), way, seed=1).passed, "it would"
    verdict = evaluate(exercise, way, seed=1)
    assert verdict.findings[0].kind == "forbidden", verdict.sentences()


def test_the_reference_of_the_schedule_is_the_loops_shape_times_its_peak() -> None:
    schedule = get("translation/paper_schedule").reference
    for step, d_model, warmup in itertools.product((0, 5, 99, 100, 101, 5_000), (16, 512), (1, 100, 4_000)):
        factor = schedule_factor("inverse_sqrt", step, 10_000, warmup)
        assert schedule(step, d_model, warmup) == pytest.approx(factor * (d_model * warmup) ** -0.5)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_reference_beam_as_wide_as_the_tree_finds_the_best_of_all_sequences(
    alpha: float, seed: int
) -> None:
    words, longest, beams = 4, 3, 40  # begin 0, end 1, and two more have a chance
    logits = 2 * np.random.default_rng(seed).normal(size=(2 * beams, 2 * beams, 2 * beams))
    logits[..., words:] = -1e4
    table = torch.from_numpy(logits).log_softmax(dim=-1).float().numpy()
    inputs = {"table": table, "begin_id": 0, "end_id": 1, "num_beams": beams, "max_length": longest}
    found = probes.beam_search(
        get("translation/beam_search").reference, Case("wide", inputs | {"alpha": alpha})
    )

    def score(ids: tuple[int, ...]) -> float:
        before = (0, 0, *ids)
        total = sum(table[before[i], before[i + 1], word] for i, word in enumerate(ids))
        return total / length_penalty(len(ids), alpha)

    others = [word for word in range(words) if word != 1]
    sequences = [(*ids, 1) for n in range(longest) for ids in itertools.product(others, repeat=n)]
    sequences += itertools.product(others, repeat=longest)
    best = max(sequences, key=score)
    assert found["the list of sequences"][0] == [word for word in best if word != 1]
    assert found["the list of scores"][0] == pytest.approx(score(best), abs=1e-4)


@pytest.mark.parametrize("seed", range(8))
def test_the_reference_of_bleu_is_sacrebleus(seed: int) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    for case in cases_of("bleu_report", seed):
        ours = probes.bleu_report(get("translation/bleu_report").reference, case)
        theirs = sacrebleu.corpus_bleu(
            [" ".join(words) for words in case["hypotheses"]],
            [[" ".join(words) for words in case["references"]]],
            tokenize="none",
            smooth_method="none",
            force=True,
        )
        assert ours["the score"] == pytest.approx(theirs.score, abs=1e-9)
        assert ours["the list of precisions"] == pytest.approx(theirs.precisions, abs=1e-9)
        assert ours["the brevity penalty"] == pytest.approx(theirs.bp, abs=1e-12)


def test_every_verdict_occurs_and_none_lies_near_its_bound() -> None:
    report, verdicts = get("translation/bleu_report").reference, set()
    for seed in range(20):
        for case in cases_of("bleu_report", seed):
            _, precisions, brevity, verdict = report(case["hypotheses"], case["references"])
            verdicts.add(verdict)
            assert abs(brevity - 0.9) > 1e-3 and abs(precisions[0] - 70) > 0.1, case.name
            assert abs(precisions[1] - 0.6 * precisions[0]) > 0.1 or not precisions[1], case.name
    assert verdicts == {"too short", "wrong words", "wrong order", "good"}


def test_a_wrong_number_of_tokens_is_told_by_the_decoder() -> None:
    def careless(decoder: Any, begin_id: int, *others: Any, **options: Any) -> Any:
        return decoder.step(torch.tensor([begin_id, begin_id]))

    verdict = evaluate(get("translation/beam_search"), careless, seed=1)
    assert "step was given (2,); there are 1 rows, so (r,) is needed" in verdict.findings[0].text
