"""Chapter 07: the lesson's form, what the exercises' probes measure, and the reader that the lesson opens.

Oracles: gold coreference of the story world, the library's own layer, and tensors on the meta device.
"""

from __future__ import annotations

import json
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
from course_lib.checks.registry import get
from course_lib.layers.multi_head import MultiHeadAttention, replace_heads
from course_lib.recipes import heads as recipe

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("source", find_sources(ROOT, ["07"]), ids=lambda source: source.label)
def test_lesson_and_solution_have_all_their_parts(source: Any) -> None:
    cells = jupytext.read(source.text_path).cells
    assert structure_problems(source, cells, registered_entry) == []


# --- the exercises -----------------------------------------------------------------------------


def split_only_right(hidden_states: Tensor, num_heads: int, function: Any) -> Tensor:
    heads = hidden_states.unflatten(-1, (num_heads, -1)).transpose(1, 2)
    function(heads)
    return hidden_states


def test_a_merge_that_ignores_what_comes_back_does_not_pass() -> None:
    verdict = evaluate(get("multi_head_attention/through_heads"), split_only_right, seed=1)
    assert "the output after the merge" in verdict.findings[0].text


def test_a_function_that_is_never_called_is_told() -> None:
    verdict = evaluate(
        get("multi_head_attention/through_heads"), lambda hidden, heads, function: hidden, seed=1
    )
    assert "the tensor after the split" in verdict.findings[0].text


class Packed(nn.Module):
    """Right in its values, with one layer where three are asked for."""

    def __init__(self, d_model: int, num_heads: int, bias: bool = True) -> None:
        super().__init__()
        if d_model % num_heads:
            raise ValueError
        self.packed, self.output = nn.Linear(d_model, 3 * d_model, bias), nn.Linear(d_model, d_model, bias)


def test_a_layer_with_other_parameters_hears_which() -> None:
    verdict = evaluate(get("multi_head_attention/layer"), Packed, seed=1)
    assert "packed.weight" in verdict.findings[0].text and "query.weight" in verdict.findings[0].text


def test_torchs_own_layer_is_no_answer() -> None:
    class Wrapped(nn.Module):
        def __init__(self, d_model: int, num_heads: int, bias: bool = True) -> None:
            super().__init__()
            self.inner = nn.MultiheadAttention(d_model, num_heads, bias=bias)

    verdict = evaluate(get("multi_head_attention/layer"), Wrapped, seed=1)
    assert "MultiheadAttention may not be used" in verdict.sentences()[0]


def test_torchs_option_for_groups_is_no_answer() -> None:
    def grouped(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Any:
        output = nn.functional.scaled_dot_product_attention(query, key, value, mask, enable_gqa=True)
        return output, output

    verdict = evaluate(get("multi_head_attention/grouped"), grouped, seed=1)
    assert "may not be used" in verdict.sentences()[0]


@pytest.mark.parametrize(("more", "bytes_more"), [(1, 0), (0, 1)])
def test_a_count_that_is_off_by_one_does_not_pass(more: int, bytes_more: int) -> None:
    exercise = get("multi_head_attention/cost")

    def nearly(**sizes: Any) -> tuple[int, int]:
        parameters, cache_bytes = exercise.reference(**sizes)
        return parameters + more, cache_bytes + bytes_more

    assert not evaluate(exercise, nearly, seed=1).passed


def test_the_counts_are_those_of_the_librarys_layer_and_of_a_cache_that_exists() -> None:
    exercise = get("multi_head_attention/cost")
    for case in exercise.cases(np.random.default_rng(5)):
        sizes = dict(case.inputs) | {"dtype": getattr(torch, case["dtype"])}
        with torch.device("meta"):
            layer = MultiHeadAttention(
                case["d_model"], case["num_heads"], case["num_kv_heads"], bias=case["bias"]
            )
            shape = (case["batch"], case["num_kv_heads"], case["length"], layer.d_head)
            cached = [torch.empty(shape, dtype=sizes["dtype"]) for _ in range(2 * case["num_layers"])]
        parameters = case["num_layers"] * sum(parameter.numel() for parameter in layer.parameters())
        assert exercise.reference(**sizes) == (parameters, sum(tensor.nbytes for tensor in cached))


@pytest.mark.parametrize("seed", range(3))
def test_the_pair_of_the_reference_is_that_of_the_two_heads_with_one_role(seed: int) -> None:
    """The same layer as a module: its two twins are those whose parts point the same way at most pronouns."""
    exercise = get("multi_head_attention/rank_heads")
    for case in exercise.cases(np.random.default_rng(seed)):
        heads, weight = (torch.as_tensor(case[name]).double() for name in ("heads", "output_weight"))
        guess, labels = torch.as_tensor(case["guess_weight"]).double(), torch.as_tensor(case["labels"])
        added = torch.einsum("nhd,mhd,vm->nhv", heads, weight.unflatten(1, heads.shape[1:]), guess)
        rows = torch.arange(len(labels))
        merit = (added - added.mean(dim=0))[rows, :, labels]  # (n, h), to the logit of the right answer
        alike = merit.T.corrcoef().fill_diagonal_(-1)
        twins = tuple(sorted(divmod(int(alike.argmax()), heads.shape[1])))
        names = ("heads", "output_weight", "output_bias", "residual", "guess_weight", "labels")
        assert exercise.reference(*(torch.as_tensor(case[name]) for name in names))[3] == twins


# --- the reader --------------------------------------------------------------------------------


def test_a_window_holds_words_and_where_each_pronoun_points() -> None:
    windows = recipe.read_windows("train", 40)
    assert windows
    for window in windows:
        for place, noun in window.antecedents.items():
            assert window.words[place] in recipe.PRONOUNS and noun < place
            assert window.words[noun] not in recipe.PRONOUNS
        assert set(window.reasons()) <= set(window.antecedents)
    apart = recipe.read_windows("train", 40, step=3)
    assert len(apart) < len(windows)


def test_tables_ask_at_pronouns_alone() -> None:
    windows = recipe.read_windows("train", 20)
    vocabulary = recipe.vocabulary_of(windows)
    ids, answers = recipe.tables(windows, vocabulary)
    asked = (answers != recipe.NOT_ASKED).nonzero().tolist()
    assert asked == [
        [row, place] for row, window in enumerate(windows) for place in sorted(window.antecedents)
    ]
    for row, place in asked:
        noun = windows[row].words[windows[row].antecedents[place]]
        assert vocabulary[answers[row, place]] in (noun, "‹new›")
    lengths = torch.tensor([[len(window.words)] for window in windows])
    assert torch.equal(ids == recipe.PADDING, torch.arange(ids.shape[1]) >= lengths)


def test_training_teaches_the_reader() -> None:
    windows = recipe.read_windows("train", 60)
    vocabulary = recipe.vocabulary_of(windows)
    ids, answers = recipe.tables(windows, vocabulary)
    config = recipe.ReaderConfig(len(vocabulary), d_model=32, num_layers=1, num_heads=2, num_kv_heads=1)
    untrained = recipe.examine(recipe.PronounReader(config), ids, answers)[0].mean()
    trained = recipe.train_reader(config, ids, answers, steps=60, seed=0)
    assert recipe.examine(trained, ids, answers)[0].mean() < untrained - 1


def test_the_reader_comes_back_from_its_file(tmp_path: Path) -> None:
    config = recipe.ReaderConfig(5, d_model=8, num_heads=2, num_kv_heads=1, longest=6)
    reader = recipe.PronounReader(config)
    recipe.save_reader(reader, config, ("‹pad›", "‹new›", "a", "b", "c"), tmp_path / "reader.safetensors")
    loaded, vocabulary = recipe.load_reader(tmp_path / "reader.safetensors")
    ids = torch.tensor([[2, 3, 4, 0]])
    torch.testing.assert_close(loaded(ids)[0], reader(ids)[0])
    assert vocabulary == ("‹pad›", "‹new›", "a", "b", "c")


def test_the_shipped_reader_is_small_and_knows_what_it_was_too_tired() -> None:
    assert recipe.READER.stat().st_size < 1_000_000
    reader, vocabulary = recipe.load_reader()
    found = recipe.measure(reader, recipe.read_windows("test", 150, step=3), vocabulary)
    assert found["right"] > 0.95 and found["right_at_reasons"] > 0.8
    for reason, expected in (("tired", "kitten"), ("wide", "street")):
        words = f"the kitten did not cross the street because it was too {reason} .".split()
        logits, _ = reader(torch.tensor([[vocabulary.index(word) for word in words]]))
        assert vocabulary[int(logits[0, words.index("it")].argmax())] == expected


def test_the_reader_is_not_moved_by_padding() -> None:
    reader, _ = recipe.load_reader()
    ids = torch.tensor([[5, 6, 7, 8]])
    padded = torch.cat([ids, torch.zeros(1, 3, dtype=torch.long)], dim=1)
    torch.testing.assert_close(reader(padded)[0][:, :4], reader(ids)[0], atol=1e-5, rtol=1e-4)


def test_without_its_heads_a_layer_of_the_reader_is_missed() -> None:
    reader, vocabulary = recipe.load_reader()
    ids, answers = recipe.tables(recipe.read_windows("test", 60, step=3), vocabulary)
    whole = recipe.examine(reader, ids, answers)[0].mean()
    for layer in reader.layers:
        assert isinstance(layer, MultiHeadAttention)
        with replace_heads(layer, range(layer.num_heads)):
            assert recipe.examine(reader, ids, answers)[0].mean() > whole + 0.3
    torch.testing.assert_close(recipe.examine(reader, ids, answers)[0].mean(), whole)


def test_what_was_measured_of_the_relatives_is_there() -> None:
    found = json.loads(recipe.VARIANTS.read_text(encoding="utf-8"))
    pairs = [(run["num_heads"], run["num_kv_heads"], run["seed"]) for run in found["variants"]]
    expected = [(h, g, seed) for h, g in ((1, 1), (2, 2), (4, 4), (4, 2), (4, 1)) for seed in (1, 2)]
    assert pairs == expected
    assert all(0 < run["right_at_reasons"] < 1 and run["loss"] > 0 for run in found["variants"])
