"""Decoding. Oracles: `generate` of `transformers`, all sequences searched, and no cache."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from course_lib.generation import TransformerDecoder, beam_search, greedy, length_penalty
from course_lib.models.transformer import Transformer, TransformerConfig

BEGIN, END = 1, 2
TOKENS: dict[str, Any] = {"begin_id": BEGIN, "end_id": END}


class TableDecoder:
    """A language model whose logits are a table of what stood before, up to `order` tokens of it."""

    def __init__(self, count: int, vocabulary: int = 6, seed: int = 0, sharp: float = 2.0) -> None:
        self.table = sharp * torch.randn(
            count, vocabulary, vocabulary, vocabulary, generator=torch.Generator().manual_seed(seed)
        )
        self.written = torch.zeros(count, 1, dtype=torch.long)
        self.source = torch.arange(count)

    def step(self, tokens: Tensor) -> Tensor:
        self.written = torch.cat([self.written, tokens[:, None]], dim=1)
        return self.table[self.source, self.written[:, -2], self.written[:, -1]]

    def select(self, rows: Tensor, same_sources: bool = False) -> None:
        assert not same_sources or torch.equal(self.source[rows], self.source)
        self.written, self.source = self.written[rows], self.source[rows]

    def log_probability(self, source: int, ids: tuple[int, ...]) -> float:
        before, last, total = 0, BEGIN, 0.0
        for token in ids:
            total += float(self.table[source, before, last].log_softmax(-1)[token])
            before, last = last, token
        return total


def every_sequence(vocabulary: int, longest: int) -> list[tuple[int, ...]]:
    """All sequences that end, with the end, and those of the longest length that do not."""
    others = [token for token in range(vocabulary) if token != END]
    ended = [(*ids, END) for n in range(longest) for ids in itertools.product(others, repeat=n)]
    return ended + list(itertools.product(others, repeat=longest))


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.6, 1.0]), st.sampled_from([0.0, 5.0]))
def test_a_beam_as_wide_as_the_tree_finds_the_best_of_all_sequences(
    seed: int, alpha: float, offset: float
) -> None:
    decoder = TableDecoder(2, vocabulary=64, seed=seed)
    # Only five tokens have a chance, so that 32 beams hold every beginning.
    decoder.table[..., 5:] = -1e4
    found = beam_search(decoder, 2, num_beams=32, max_length=3, alpha=alpha, offset=offset, **TOKENS)
    for source, hypotheses in enumerate(found):
        scores = {
            ids: decoder.log_probability(source, ids) / length_penalty(len(ids), alpha, offset)
            for ids in every_sequence(5, 3)
        }
        best = max(scores, key=scores.__getitem__)
        assert hypotheses[0].score == pytest.approx(scores[best], abs=1e-4)
        assert hypotheses[0].ids == (best[:-1] if best[-1] == END else best)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("num_beams", [1, 2, 3])
def test_every_hypothesis_has_the_score_that_its_tokens_have(alpha: float, num_beams: int) -> None:
    decoder = TableDecoder(5, vocabulary=8, seed=4)
    found = beam_search(decoder, 5, num_beams=num_beams, max_length=7, alpha=alpha, **TOKENS)
    for source, hypotheses in enumerate(found):
        assert 1 <= len(hypotheses) <= num_beams
        assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)
        assert len({h.ids for h in hypotheses}) == len(hypotheses)
        for hypothesis in hypotheses:
            ended = len(hypothesis.ids) < 7
            ids = (*hypothesis.ids, END) if ended else hypothesis.ids
            total = decoder.log_probability(source, ids)
            assert hypothesis.log_probability == pytest.approx(total, abs=1e-4)
            assert hypothesis.score == pytest.approx(total / length_penalty(len(ids), alpha), abs=1e-4)


def test_a_sentence_is_decoded_as_if_it_were_alone() -> None:
    together = beam_search(TableDecoder(6, vocabulary=8), 6, num_beams=3, max_length=9, **TOKENS)
    greedily = greedy(TableDecoder(6, vocabulary=8), 6, max_length=9, **TOKENS)
    assert len({len(hypothesis.ids) for hypothesis in greedily}) > 1
    for source in range(6):
        decoders = [TableDecoder(6, vocabulary=8) for _ in range(2)]
        for decoder in decoders:
            decoder.select(torch.tensor([source]))
        assert beam_search(decoders[0], 1, num_beams=3, max_length=9, **TOKENS)[0] == together[source]
        assert greedy(decoders[1], 1, max_length=9, **TOKENS)[0] == greedily[source]


def test_greedy_takes_the_likeliest_token_each_time() -> None:
    decoder = TableDecoder(4, seed=3)
    for source, found in enumerate(greedy(decoder, 4, max_length=6, **TOKENS)):
        ids: list[int] = []
        before, last = 0, BEGIN
        while len(ids) < 6:
            before, last = last, int(decoder.table[source, before, last].argmax())
            if last == END:
                break
            ids.append(last)
        assert found.ids == tuple(ids)


def test_a_wider_beam_never_ends_with_a_worse_score_than_greedy_on_these_tables() -> None:
    for seed in range(10):
        wide = beam_search(TableDecoder(1, 12, seed), 1, num_beams=5, max_length=8, alpha=0.0, **TOKENS)
        narrow = greedy(TableDecoder(1, 12, seed), 1, max_length=8, **TOKENS)
        assert wide[0][0].score >= narrow[0].score - 1e-5


def test_a_positive_alpha_makes_longer_sequences() -> None:
    lengths = []
    for alpha in (0.0, 1.0, 2.0):
        found = beam_search(TableDecoder(40, 12), 40, num_beams=5, max_length=15, alpha=alpha, **TOKENS)
        lengths.append(sum(len(hypotheses[0].ids) for hypotheses in found))
    assert lengths[0] < lengths[1] < lengths[2]


def test_the_penalty_is_that_of_the_paper() -> None:
    assert length_penalty(1, 0.6) == 1.0
    assert length_penalty(13, 0.6) == pytest.approx(3**0.6)
    assert length_penalty(13, 0.6, offset=0) == pytest.approx(13**0.6)


def test_too_small_a_vocabulary_is_named() -> None:
    with pytest.raises(ValueError, match="a vocabulary of 5 is too small: 3 beams need at least 6"):
        beam_search(TableDecoder(1, 5), 1, num_beams=3, max_length=4, **TOKENS)


# --- with a Transformer ---------------------------------------------------------------------------------


def small_transformer(vocabulary: int = 20) -> tuple[Transformer, Tensor]:
    torch.manual_seed(0)
    config = TransformerConfig(
        vocabulary,
        d_model=16,
        num_heads=2,
        num_encoder_layers=1,
        num_decoder_layers=2,
        d_ff=32,
        max_length=40,
    )
    source = torch.randint(3, vocabulary, (7, 6))
    return Transformer(config).eval(), source.masked_fill(
        torch.arange(6) >= torch.arange(7)[:, None].clamp(1), 0
    )


def test_the_cache_changes_nothing() -> None:
    class Recomputing(TransformerDecoder):
        def __init__(self, model: Transformer, source_ids: Tensor) -> None:
            super().__init__(model, source_ids)
            self.written = torch.empty(len(source_ids), 0, dtype=torch.long)

        def step(self, tokens: Tensor) -> Tensor:
            self.written = torch.cat([self.written, tokens[:, None]], dim=1)
            return self.model.decode(self.written, self.memory, self.source_mask).logits[:, -1]

        def select(self, rows: Tensor, same_sources: bool = False) -> None:
            assert not same_sources or torch.equal(self.memory[rows], self.memory)
            self.memory, self.source_mask = self.memory[rows], self.source_mask[rows]
            self.written = self.written[rows]

    model, source = small_transformer()
    cached, plain = (
        beam_search(kind(model, source), 7, num_beams=4, max_length=12, **TOKENS)
        for kind in (TransformerDecoder, Recomputing)
    )
    assert [[h.ids for h in row] for row in cached] == [[h.ids for h in row] for row in plain]
    for one, other in zip(itertools.chain(*cached), itertools.chain(*plain), strict=True):
        assert math.isclose(one.score, other.score, abs_tol=1e-4)


@pytest.mark.parametrize("num_beams", [1, 2, 5])
@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_sequences_are_those_of_transformers(tmp_path: Path, num_beams: int, alpha: float) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    settings: dict[str, Any] = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in {"layers": 2, "attention_heads": 4, "ffn_dim": 64}.items()
    }
    config = transformers.MarianConfig(
        vocab_size=60,
        d_model=32,
        max_position_embeddings=64,
        pad_token_id=59,
        eos_token_id=END,
        decoder_start_token_id=59,
        scale_embedding=True,
        init_std=0.5,
        **settings,
    )
    theirs = transformers.MarianMTModel(config).eval()
    theirs.save_pretrained(tmp_path)
    ours = Transformer.from_pretrained(tmp_path)
    source = torch.randint(3, 59, (32, 12))
    source[torch.arange(12) >= torch.randint(3, 13, (32, 1))] = 59
    options: dict[str, Any] = {} if num_beams == 1 else {"length_penalty": alpha, "early_stopping": False}
    generated = theirs.generate(
        source,
        attention_mask=(source != 59).long(),
        num_beams=num_beams,
        max_length=21,
        do_sample=False,
        forced_eos_token_id=None,
        bad_words_ids=None,
        **options,
    )
    decoder, tokens = TransformerDecoder(ours, source), TOKENS | {"begin_id": 59}
    if num_beams == 1:
        found = greedy(decoder, 32, max_length=20, **tokens)
    else:
        beams = beam_search(decoder, 32, num_beams=num_beams, max_length=20, alpha=alpha, offset=0, **tokens)
        found = [hypotheses[0] for hypotheses in beams]
    for row, hypothesis in zip(generated.tolist(), found, strict=True):
        assert row[1 : 1 + len(hypothesis.ids)] == list(hypothesis.ids)
        following = row[1 + len(hypothesis.ids) :]
        assert not following or following[0] == END or set(following) == {59}
