"""Chapter 02: the lesson's form, what the exercises' probes measure, and the recipe of its translators.

Oracles: gold links by construction, sums by loops, and the library's own decoder.
"""

from __future__ import annotations

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
from course_lib.checks.engine import evaluate
from course_lib.checks.registry import get
from course_lib.data.translation import BEGIN, END, PAD, UNKNOWN, pairs
from course_lib.models import seq2seq as library
from course_lib.recipes import seq2seq as recipe

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("source", find_sources(ROOT, ["02"]), ids=lambda source: source.label)
def test_lesson_and_solution_have_all_their_parts(source: Any) -> None:
    cells = jupytext.read(source.text_path).cells
    assert structure_problems(source, cells, registered_entry) == []


# --- the exercises -----------------------------------------------------------------------------


def findings(name: str, answer: Any, seed: int = 1) -> str:
    return " ".join(
        found.text for found in evaluate(get(f"seq2seq_attention/{name}"), answer, seed=seed).findings
    )


def reference(name: str) -> Any:
    return get(f"seq2seq_attention/{name}").reference


def test_what_the_decoder_reads_behind_its_last_word_does_not_count() -> None:
    def with_anything(target_ids: Tensor) -> tuple[Tensor, Tensor]:
        inputs, labels = reference("teacher_forcing")(target_ids)
        return inputs.where(labels != PAD, 7), labels

    assert evaluate(get("seq2seq_attention/teacher_forcing"), with_anything, seed=1).passed


def test_inputs_of_another_shape_or_dtype_than_the_labels_do_not_pass() -> None:
    def narrow(target_ids: Tensor) -> tuple[Tensor, Tensor]:
        inputs, labels = reference("teacher_forcing")(target_ids)
        return inputs[:, :-1], labels

    def of_32_bits(target_ids: Tensor) -> tuple[Tensor, Tensor]:
        inputs, labels = reference("teacher_forcing")(target_ids)
        return inputs.int(), labels

    assert "what the decoder reads" in findings("teacher_forcing", narrow)
    assert "int32" in findings("teacher_forcing", of_32_bits)


def test_weights_cut_off_from_the_query_are_told_by_their_gradient() -> None:
    def cut_off(query: Tensor, *others: Tensor) -> Any:
        return reference("additive")(query.detach(), *others)

    assert "the gradient of query" in findings("additive", cut_off)


@pytest.mark.parametrize("seed", range(3))
def test_operations_may_grow_with_the_batch_and_not_with_the_steps(seed: int) -> None:
    right = reference("all_steps")

    def sentence_by_sentence(hidden: Tensor, memory: Tensor, mask: Tensor, *matrices: Tensor) -> Any:
        parts = [
            right(hidden[i : i + 1], memory[i : i + 1], mask[i : i + 1], *matrices)
            for i in range(len(hidden))
        ]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    def two_steps_at_a_time(hidden: Tensor, *others: Tensor) -> Any:
        parts = [right(part, *others) for part in hidden.split(2, dim=1)]
        return torch.cat([part[0] for part in parts], dim=1), torch.cat([part[1] for part in parts], dim=1)

    assert evaluate(get("seq2seq_attention/all_steps"), sentence_by_sentence, seed=seed).passed
    assert "the number of operations" in findings("all_steps", two_steps_at_a_time, seed)


def test_the_step_of_the_exercise_is_the_librarys_step() -> None:
    torch.manual_seed(0)
    config = library.Seq2SeqConfig(9, 9, d_embedding=3, d_model=6, attention="dot")
    decoder = library.Decoder(config)
    cell = torch.nn.GRUCell(9, 6)
    ours = decoder.gru.state_dict()
    names = {"weight_ih": "read.weight", "bias_ih": "read.bias"}
    names |= {"weight_hh": "recall.weight", "bias_hh": "recall.bias"}
    cell.load_state_dict({name: ours[own] for name, own in names.items()})
    memory, mask = torch.randn(2, 4, 6), torch.tensor([[True] * 4, [True, True, False, False]])
    embedded, hidden, fed = torch.randn(2, 3), torch.randn(2, 6), torch.randn(2, 6)
    source = library.Encoded(memory, torch.zeros(2, 6), mask, keys=memory)
    state, weights = decoder.step(embedded, library.DecoderState(hidden, fed), source)
    found = reference("step")(embedded, hidden, fed, memory, mask, cell, decoder.combine)
    for one, other in zip(found, (state.attentional, state.hidden, weights), strict=True):
        torch.testing.assert_close(one, other)


def test_the_judges_error_rate_is_that_of_the_library() -> None:
    exercise = get("seq2seq_attention/judge")
    for case in exercise.cases(np.random.default_rng(4)):
        gold = [{(source, target) for source, target in links} for links in case["gold"]]
        weights = [torch.as_tensor(table) for table in case["weights"]]
        names = ("lengths", "references", "fixed", "attended")
        found = exercise.reference(*(case[name] for name in names), weights, gold)
        links = [recipe.links_of(table) for table in weights]
        assert found[2] == pytest.approx(recipe.alignment_error_rate(links, gold))


# --- the recipe --------------------------------------------------------------------------------


def test_numbers_of_the_test_are_none_of_the_training_and_have_no_new_words() -> None:
    train, unseen = recipe.numbers("train"), recipe.numbers("unseen")
    assert len(train) == 54 and len(unseen) == 16
    assert not {pair.skeleton for pair in train} & {pair.skeleton for pair in unseen}
    words = recipe.Words.of(train)
    assert not any(UNKNOWN in words.source.encode(p.source) + words.target.encode(p.target) for p in unseen)


def test_every_number_of_a_list_is_turned_round_at_its_own_place() -> None:
    for pair in recipe.number_lists(3, 20):
        expected = {(3 * block + 2 - place, 3 * block + place) for block in range(3) for place in range(3)}
        assert pair.alignment == expected
        assert len(pair.source) == len(pair.target) == 9
        assert [pair.source[i] for i in (1, 4, 7)] == ["-"] * 3


def test_a_step_always_has_the_same_batch_shifted_by_one() -> None:
    batches = recipe.ListBatches(recipe.Words.of(recipe.numbers("train")), longest=4)
    one, again, other = batches.batch(3), batches.batch(3), batches.batch(4)
    assert torch.equal(one.source, again.source) and torch.equal(one.labels, again.labels)
    assert one.source.shape != other.source.shape or not torch.equal(one.source, other.source)
    assert (one.inputs[:, 0] == BEGIN).all()
    for inputs, labels in zip(one.inputs.tolist(), one.labels.tolist(), strict=True):
        length = labels.index(END)
        assert inputs[1 : length + 1] == labels[:length]
        assert not any(labels[length + 1 :])


def test_the_loss_is_the_sum_over_words_and_padding_has_no_part_in_it() -> None:
    torch.manual_seed(0)
    words = recipe.Words.of(recipe.numbers("train"))
    model = library.Seq2Seq(library.Seq2SeqConfig(len(words.source), len(words.target), 4, 8))
    lists = [recipe.number_lists(length, 1)[0] for length in (1, 3)]
    together = recipe.loss(model, words.batch(lists))
    alone = [recipe.loss(model, words.batch([pair])) for pair in lists]
    torch.testing.assert_close(together.total, alone[0].total + alone[1].total)
    assert int(together.count) == sum(len(pair.target) + 1 for pair in lists)


def test_quality_counts_places_of_the_longer_one() -> None:
    [pair] = recipe.number_lists(1, 1)
    a, und, b = pair.target
    assert recipe.quality([pair.target], [pair]) == 1
    assert recipe.quality([(a, und)], [pair]) == pytest.approx(2 / 3)
    assert recipe.quality([(a, und, b, b)], [pair]) == pytest.approx(3 / 4)
    assert recipe.quality([(), pair.target], [pair, pair]) == pytest.approx(1 / 2)


def test_gold_share_is_the_attention_on_linked_words() -> None:
    chosen = pairs("sentences", "en", "fr", split="test", count=5)
    tables = [torch.rand(len(p.target), len(p.source)).softmax(dim=-1) for p in chosen]
    shares = []
    for table, pair in zip(tables, chosen, strict=True):
        for target in range(len(pair.target)):
            linked = [source for source, other in pair.alignment if other == target]
            if linked:
                shares.append(sum(float(table[target, source]) for source in linked))
    assert recipe.gold_share(tables, chosen) == pytest.approx(sum(shares) / len(shares), abs=1e-5)


def test_what_is_written_ends_before_the_end() -> None:
    torch.manual_seed(0)
    words = recipe.Words.of(recipe.numbers("train"))
    model = library.Seq2Seq(library.Seq2SeqConfig(len(words.source), len(words.target), 4, 8))
    with torch.no_grad():
        model.decoder.predict.bias[END] += 100
    assert recipe.translate(model, words, recipe.number_lists(2, 3)) == [(), (), ()]


@pytest.mark.parametrize(("task", "least"), [("dates", 0.98), ("sentences", 0.85)])
def test_the_shipped_translators_translate_what_they_never_saw(task: Any, least: float) -> None:
    model, words = recipe.load_reader(task)
    assert recipe.weights_of(task).stat().st_size < 1_000_000
    chosen = pairs(task, "en", "fr", split="test", count=100)
    assert recipe.quality(recipe.translate(model, words, chosen), chosen) > least
    tables = recipe.look(model, words, chosen)
    recorded = recipe.reader_measures(task)["additive"]
    assert recipe.error_rate(tables, chosen) == pytest.approx(recorded["error rate"], abs=0.06)
    assert recipe.gold_share(tables, chosen) == pytest.approx(recorded["gold share"], abs=0.06)
    for table, pair in zip(tables, chosen, strict=True):
        assert table.shape == (len(pair.target), len(pair.source))
        torch.testing.assert_close(table.sum(dim=1), torch.ones(len(table)))


def test_the_shipped_curves_are_complete_and_show_the_bottleneck() -> None:
    measured = recipe.curves()
    assert set(measured["quality"]) == {"none", *library.SCORES} == set(measured["parameters"])
    assert set(measured["error rate"]) == set(library.SCORES) == set(measured["gold share"])
    assert set(measured["widths"]) == {str(width) for width in recipe.WIDTHS}
    for runs in (*measured["quality"].values(), *measured["widths"].values()):
        assert len(runs) == len(recipe.SEEDS) and all(len(run) == len(measured["lengths"]) for run in runs)
    last = measured["lengths"].index(measured["trained"])
    for run in measured["quality"]["none"]:
        assert run[last] < run[0] - 0.2
    for run in measured["quality"]["additive"]:
        assert run[last] > 0.9


def test_a_model_without_attention_looks_nowhere() -> None:
    words = recipe.Words.of(recipe.numbers("train"))
    config = library.Seq2SeqConfig(len(words.source), len(words.target), 4, 8, "none")
    with pytest.raises(ValueError, match="looks nowhere"):
        recipe.look(library.Seq2Seq(config), words, recipe.number_lists(1, 1))
