"""Chapter 09: the lesson's form, its data, and what the exercises' references and probes hold.

Oracles: torch's encoder and decoder layers, the library's Transformer, a decoder run without a cache.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from datetime import date, timedelta
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
from course_lib.checks.exercise import Case
from course_lib.checks.probes import encoder_decoder as probes
from course_lib.checks.registry import get
from course_lib.data import iso_dates as dates
from course_lib.layers.block import TransformerBlock
from course_lib.layers.masks import causal_mask
from course_lib.models.transformer import Transformer, TransformerConfig

ROOT = Path(__file__).resolve().parents[1]
entries = importlib.import_module("course_lib.checks.09_encoder_decoder")


@pytest.mark.parametrize("source", find_sources(ROOT, ["09"]), ids=lambda source: source.label)
def test_lesson_and_solution_have_all_their_parts(source: Any) -> None:
    cells = jupytext.read(source.text_path).cells
    assert structure_problems(source, cells, registered_entry) == []


# --- the dates ------------------------------------------------------------------------------------------


def test_every_form_of_every_day_is_made_of_known_tokens() -> None:
    for number in (0, 1, 59, 365, dates.DAYS - 1):
        for form in range(dates.FORMS):
            source, target = dates.pair(number, form)
            day = dates.FIRST + timedelta(days=number)
            assert "".join(target) == day.isoformat()
            assert str(day.year) in "".join(source) and dates.MONTHS[day.month - 1] in source
            assert {*source, *target} <= set(dates.VOCABULARY)
    assert dates.pair(dates.DAYS - 1, 0)[1] == list("2099-12-31")
    assert dates.written(date(1953, 5, 29), 2)[0] == "Friday"
    assert len(set(dates.VOCABULARY)) == len(dates.VOCABULARY)


def test_no_day_is_in_both_splits() -> None:
    train, test = dates.split()
    days = [{"".join(target) for _, target in pairs} for pairs in (train, test)]
    assert not days[0] & days[1] and len(days[0] | days[1]) == dates.DAYS == len(train) + len(test)
    assert dates.split()[1] == test and dates.split(seed=1)[1] != test


def test_a_batch_is_shifted_and_reads_back() -> None:
    pairs = [dates.pair(100, 3), dates.pair(40_000, 0)]
    source, inputs, targets = dates.batch(pairs)
    assert torch.equal(inputs[:, 1:], targets[:, :-1]) and (inputs[:, 0] == dates.BEGIN).all()
    assert (targets[:, -1] == dates.END).all()
    assert dates.words(targets) == [target for _, target in pairs]
    assert dates.words(source) == [tokens for tokens, _ in pairs]


# --- what is right --------------------------------------------------------------------------------------


def same_weights(ours: nn.Module, theirs: nn.TransformerEncoderLayer | nn.TransformerDecoderLayer) -> None:
    ours.load_state_dict(TransformerBlock.from_torch(theirs).state_dict())


def test_the_reference_layers_are_torchs() -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"dropout": 0.0, "batch_first": True}
    x, memory = torch.randn(3, 5, 8), torch.randn(3, 4, 8)
    target, source = (torch.arange(n) < torch.tensor([n, 2, 1])[:, None] for n in (5, 4))
    encoder = nn.TransformerEncoderLayer(8, 2, 12, **options)
    ours = get("encoder_decoder/encoder_layer").reference(8, 2, 12)
    same_weights(ours, encoder)
    expected = encoder(memory, src_key_padding_mask=~source)
    torch.testing.assert_close(ours(memory, source), expected, atol=1e-5, rtol=1e-4)
    decoder = nn.TransformerDecoderLayer(8, 2, 12, **options)
    ours = get("encoder_decoder/decoder_layer").reference(8, 2, 12)
    same_weights(ours, decoder)
    expected = decoder(
        x,
        memory,
        tgt_mask=~causal_mask(5),
        tgt_key_padding_mask=~target,
        memory_key_padding_mask=~source,
    )
    torch.testing.assert_close(ours(x, memory, target, source), expected, atol=1e-5, rtol=1e-4)


def test_the_reference_model_is_the_librarys() -> None:
    torch.manual_seed(0)
    library = Transformer(
        TransformerConfig(
            11, d_model=8, num_heads=2, num_encoder_layers=2, num_decoder_layers=2, d_ff=12, dropout=0.0
        )
    )
    model = get("encoder_decoder/transformer").reference(11, 8, 2, 12, 2)
    renamed = {"target_embedding.tokens.weight": "embedding.weight"}
    state = {
        renamed.get(name, name.replace(".blocks", "")): values
        for name, values in library.state_dict().items()
    }
    model.load_state_dict(state)
    source, target = torch.randint(1, 11, (3, 6)), torch.randint(1, 11, (3, 4))
    source[0, 3:] = 0
    torch.testing.assert_close(model(source, target), library(source, target).logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("target_vocab", [None, 300])
def test_the_counted_parameters_are_those_of_the_model(target_vocab: int | None) -> None:
    count = get("encoder_decoder/count_parameters").reference
    with torch.device("meta"):
        model = Transformer(TransformerConfig(300, target_vocab, tie_weights=target_vocab is None))
    sizes = [sum(p.numel() for p in part.parameters()) for part in (model, model.encoder, model.decoder)]
    embeddings, encoder, decoder = count(300, 512, 8, 2048, 6, tied=target_vocab is None)
    assert [embeddings + encoder + decoder, encoder, decoder] == sizes


# --- the decoder that counts ----------------------------------------------------------------------------


def decoding_cases(seed: int) -> list[Case]:
    return list(entries.decoding_cases(np.random.default_rng(seed)))


def test_the_counting_decoder_gives_the_same_with_and_without_a_cache() -> None:
    case = decoding_cases(0)[0]
    model = probes.CountingModel(case["weights"])
    source, mask = torch.as_tensor(case["source_ids"]), torch.as_tensor(case["source_mask"])
    ids = torch.randint(1, 12, (len(source), 6), generator=torch.Generator().manual_seed(1))
    memory, cache = model.encode(source), model.new_cache()
    at_once = model.decode(ids, memory, mask).logits
    steps = [model.decode(part, memory, mask, cache).logits for part in ids.split([1, 2, 3], dim=1)]
    torch.testing.assert_close(torch.cat(steps, dim=1), at_once, atol=1e-5, rtol=1e-4)
    assert model.positions == [6, 1, 2, 3] and model.encoded == 1 and cache.length == 6
    b, s, d = memory.shape
    assert cache.num_bytes == 2 * b * (6 + s) * d * 4


@pytest.mark.parametrize("seed", range(12))
def test_what_a_decoder_writes_is_no_close_call_and_ends_at_different_steps(seed: int) -> None:
    for case in decoding_cases(seed):
        ends, margin = entries._trial(case["weights"], case["source_ids"], case["source_mask"])
        assert margin > 1e-2 and 2 < min(ends) <= max(ends) < 13
        assert len(ends) == len(case["source_ids"]) and (len(ends) == 1 or len(set(ends)) > 1)


def test_the_measured_budget_is_the_caches_own_size() -> None:
    """With exactly as many bytes as n positions take, n fit; with one byte less, n − 1."""
    case = decoding_cases(3)[0]
    reference = get("encoder_decoder/measure_decoding").reference
    source, mask = torch.as_tensor(case["source_ids"]), torch.as_tensor(case["source_mask"])
    b, s = source.shape
    size = lambda n: 2 * b * (n + s) * 6 * 4  # noqa: E731
    for budget, expected in ((size(9), 9), (size(9) - 1, 8), (size(0), 0), (size(0) - 1, 0)):
        found = reference(probes.CountingModel(case["weights"]), source, mask, 16, budget)
        assert found[2] == expected


# --- what is not allowed, and what is found -------------------------------------------------------------


class TorchsDecoderLayer(nn.Module):
    def __init__(self, d_model: int, num_heads: int, d_ff: int) -> None:
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(d_model, num_heads, d_ff, 0.0, batch_first=True)


class LibrarysDecoderLayer(nn.Module):
    def __init__(self, d_model: int, num_heads: int, d_ff: int) -> None:
        super().__init__()
        config = importlib.import_module("course_lib.layers.block").BlockConfig(d_model, num_heads, d_ff)
        self.block = TransformerBlock(replace(config, cross_attention=True))


class LibrarysModel(nn.Module):
    def __init__(self, vocab: int, d_model: int, *sizes: int, pad_id: int = 0) -> None:
        super().__init__()
        self.model = Transformer(TransformerConfig(vocab, d_model=d_model, pad_id=pad_id))


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("decoder_layer", TorchsDecoderLayer),
        ("decoder_layer", LibrarysDecoderLayer),
        ("transformer", LibrarysModel),
        ("count_parameters", lambda vocab, *sizes, tied=True: Transformer(TransformerConfig(vocab))),
    ],
)
def test_ready_made_parts_are_refused(name: str, answer: Any) -> None:
    verdict = evaluate(get(f"encoder_decoder/{name}"), answer, seed=1)
    assert verdict.findings[0].kind == "forbidden", verdict.sentences()


def test_parts_under_other_names_are_listed() -> None:
    class Renamed(nn.Module):
        def __init__(self, d_model: int, num_heads: int, d_ff: int) -> None:
            super().__init__()
            self.self_attention = nn.Linear(d_model, d_model)

    text = evaluate(get("encoder_decoder/encoder_layer"), Renamed, seed=1).findings[0].text
    assert "self_attention" in text and "attention_norm" in text


def test_a_model_that_hides_only_its_targets_padding_is_right() -> None:
    """Logits at padding are not looked at, whichever way they were made."""
    reference = get("encoder_decoder/transformer").reference

    class Strange(reference):  # type: ignore[misc, valid-type]
        def forward(self, source_ids: Tensor, target_ids: Tensor) -> Tensor:
            logits = super().forward(source_ids, target_ids)
            return logits + 100 * (target_ids == self.pad_id)[..., None]

    assert evaluate(get("encoder_decoder/transformer"), Strange, seed=1).passed
