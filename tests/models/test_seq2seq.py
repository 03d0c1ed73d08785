"""Sequence to sequence. Oracles: `nn.GRU` with the weights loaded; the papers' equations token by token."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from course_lib.models.seq2seq import (
    BEGIN,
    END,
    PAD,
    SCORES,
    Attention,
    Seq2Seq,
    Seq2SeqConfig,
    masked_softmax,
)

B, S, T, D, E, SOURCE, TARGET = 3, 5, 4, 6, 3, 11, 9
KINDS = ("none", *SCORES)
CLOSE: dict[str, Any] = {"atol": 1e-10, "rtol": 1e-8}
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]], dtype=torch.bool)
each_score = pytest.mark.parametrize("score", SCORES)
each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def model_of(kind: str) -> Seq2Seq:
    config = Seq2SeqConfig(SOURCE, TARGET, E, D, attention=kind, max_source=S)
    return Seq2Seq(config).double()


def source() -> Tensor:
    return torch.randint(4, SOURCE, (B, S)).where(MASK, PAD)


def target() -> Tensor:
    return torch.cat([torch.full((B, 1), BEGIN), torch.randint(3, TARGET, (B, T - 1))], dim=1)


# --- attention ---------------------------------------------------------------------------------


def score_by_the_paper(attention: Attention, query: Tensor, memory: Tensor, place: int) -> Tensor:
    """The score of one query (d,) with the vector of one place of the memory (s, d)."""
    vector = memory[place]
    weights = dict(attention.named_parameters())
    if attention.score == "additive":  # Bahdanau et al. 2015, A.1.2
        inner = weights["from_query.weight"] @ query + weights["from_memory.weight"] @ vector
        return weights["judge.weight"][0] @ torch.tanh(inner)
    if attention.score == "concat":  # Luong et al. 2015, eq. 8
        w_a = torch.cat([weights["from_query.weight"], weights["from_memory.weight"]], dim=1)
        return weights["judge.weight"][0] @ torch.tanh(w_a @ torch.cat([query, vector]))
    if attention.score == "dot":
        return query @ vector
    if attention.score == "general":
        return query @ weights["from_memory.weight"] @ vector
    if attention.score == "location":
        return (weights["places.weight"] @ query)[place]
    return weights["log_strength"].exp() * (query @ vector) / (query.norm() * vector.norm())


@each_score
def test_scores_equal_the_papers_equation_pair_by_pair(score: str) -> None:
    attention = Attention(score, D, max_source=S).double()
    query, memory = draw(B, T, D), draw(B, S, D)
    scores = attention.scores(query, attention.keys(memory))
    assert scores.shape == (B, T, S)
    for b in range(B):
        for t in range(T):
            for s in range(S):
                expected = score_by_the_paper(attention, query[b, t], memory[b], s)
                torch.testing.assert_close(scores[b, t, s], expected, **CLOSE)


@each_score
def test_context_is_the_memory_in_the_shares_of_a_softmax_over_real_tokens(score: str) -> None:
    attention = Attention(score, D, max_source=S).double()
    query, memory = draw(B, T, D), draw(B, S, D)
    context, weights = attention(query, memory, MASK)
    scores = attention.scores(query, attention.keys(memory))
    for b in range(B):
        real = int(MASK[b].sum())
        shares = scores[b, :, :real].exp() / scores[b, :, :real].exp().sum(dim=-1, keepdim=True)
        torch.testing.assert_close(weights[b, :, :real], shares, **CLOSE)
        assert not weights[b, :, real:].any()
        torch.testing.assert_close(context[b], shares @ memory[b, :real], **CLOSE)


@each_score
def test_gradients_equal_finite_differences(score: str) -> None:
    attention = Attention(score, D, max_source=S).double()
    names = [name for name, _ in attention.named_parameters()]
    query, memory = draw(2, 2, D).requires_grad_(), draw(2, S, D).requires_grad_()

    def context(query: Tensor, memory: Tensor, *parameters: Tensor) -> Tensor:
        state = dict(zip(names, parameters, strict=True))
        found: tuple[Tensor, Tensor] = torch.func.functional_call(attention, state, (query, memory, MASK[1:]))
        return found[0]

    assert torch.autograd.gradcheck(context, (query, memory, *attention.parameters()))


def test_a_sentence_of_nothing_but_padding_gives_zeros_and_no_nan() -> None:
    attention = Attention("additive", D)
    query, memory = torch.randn(1, T, D), torch.randn(1, S, D).requires_grad_()
    context, weights = attention(query, memory, torch.zeros(1, S, dtype=torch.bool))
    assert not context.any() and not weights.any()
    (gradient,) = torch.autograd.grad(context.sum(), memory)
    assert gradient.isfinite().all()


@given(st.integers(1, 6), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_shares_are_positive_and_sum_to_one_where_anything_is_seen(length: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = 100 * torch.randn(4, length, generator=generator)
    mask = torch.rand(4, length, generator=generator) < 0.6
    weights = masked_softmax(scores, mask)
    torch.testing.assert_close(weights.sum(dim=-1), mask.any(dim=-1).float())
    assert (weights[~mask] == 0).all() and (weights >= 0).all()


def test_what_is_asked_for_and_not_there_is_said() -> None:
    with pytest.raises(ValueError, match="attention='sum'; expected none, additive"):
        model_of("sum")
    with pytest.raises(ValueError, match="6 source tokens, but max_source=5"):
        Attention("location", D, max_source=5)(torch.randn(1, 1, D), torch.randn(1, 6, D))
    with pytest.raises(ValueError, match="d_model=5 is odd"):
        Seq2Seq(Seq2SeqConfig(SOURCE, TARGET, E, d_model=5))


# --- the whole ---------------------------------------------------------------------------------


def torchs(gru: Any) -> nn.GRU:
    """torch's GRU with the weights of ours."""
    theirs = nn.GRU(gru.d_in, gru.d_hidden, batch_first=True).double()
    state = gru.state_dict()
    names = {"weight_ih_l0": "read.weight", "bias_ih_l0": "read.bias"}
    names |= {"weight_hh_l0": "recall.weight", "bias_hh_l0": "recall.bias"}
    theirs.load_state_dict({their: state[name] for their, name in names.items()})
    return theirs


def test_the_encoder_equals_torchs_in_both_directions_over_packed_sequences() -> None:
    model, ids = model_of("none"), source()
    onwards, backwards = torchs(model.encoder.forwards), torchs(model.encoder.backwards)
    theirs = nn.GRU(E, D // 2, batch_first=True, bidirectional=True).double()
    state = onwards.state_dict() | {f"{name}_reverse": w for name, w in backwards.state_dict().items()}
    theirs.load_state_dict(state)
    packed = nn.utils.rnn.pack_padded_sequence(
        model.encoder.embedding(ids), MASK.sum(dim=1), batch_first=True
    )
    outputs, last = theirs(packed)
    expected, _ = nn.utils.rnn.pad_packed_sequence(outputs, batch_first=True)
    found = model.encoder(ids, MASK)
    torch.testing.assert_close(found.memory[MASK], expected[MASK], **CLOSE)
    torch.testing.assert_close(found.summary, torch.cat([last[0], last[1]], dim=-1), **CLOSE)


def test_without_attention_it_equals_torchs_gru_fed_with_the_summary() -> None:
    model, ids, inputs = model_of("none"), source(), target()
    decoder, summary = model.decoder, model.encoder(ids, MASK).summary
    beside = summary[:, None].expand(-1, T, -1)
    start = torch.tanh(summary @ decoder.start.weight.T + decoder.start.bias)
    fed = torch.cat([decoder.embedding(inputs), beside], dim=-1)
    hidden, _ = torchs(decoder.gru)(fed, start[None].contiguous())
    expected = decoder.predict(torch.tanh(decoder.combine(torch.cat([beside, hidden], dim=-1))))
    output = model(ids, inputs)
    torch.testing.assert_close(output.logits, expected, **CLOSE)
    assert output.weights is None


def test_bahdanau_looks_before_the_step_and_luong_after_it() -> None:
    """Both decoders, for one sentence without padding, step by step from torch's own cell."""
    ids, inputs = torch.randint(4, SOURCE, (1, S)), target()[:1]
    for kind in ("additive", "concat"):
        model = model_of(kind)
        decoder = model.decoder
        attention, gru = decoder.attention, torchs(decoder.gru)
        assert attention is not None
        source = model.encoder(ids)
        hidden, fed = torch.tanh(decoder.start(source.summary)), torch.zeros(1, D, dtype=torch.float64)
        for step in range(T):
            word = decoder.embedding(inputs[:, step])
            if kind == "additive":
                fed = attention(hidden[:, None], source.memory)[0][:, 0]
            hidden = gru(torch.cat([word, fed], dim=-1)[:, None], hidden[None])[1][0]
            context = fed if kind == "additive" else attention(hidden[:, None], source.memory)[0][:, 0]
            fed = torch.tanh(decoder.combine(torch.cat([context, hidden], dim=-1)))
            logits = model(ids, inputs).logits[:, step]
            torch.testing.assert_close(logits, decoder.predict(fed), **CLOSE)


@each_kind
def test_padding_changes_nothing(kind: str) -> None:
    model, ids, inputs = model_of(kind), source(), target()
    together = model(ids, inputs)
    for row in range(B):
        real = int(MASK[row].sum())
        alone = model(ids[row : row + 1, :real], inputs[row : row + 1])
        torch.testing.assert_close(together.logits[row], alone.logits[0], **CLOSE)
        if together.weights is not None and alone.weights is not None:
            torch.testing.assert_close(together.weights[row, :, :real], alone.weights[0], **CLOSE)
            assert not together.weights[row, :, real:].any()


@each_kind
def test_a_step_depends_on_the_words_before_it_alone(kind: str) -> None:
    model, ids, inputs = model_of(kind), source(), target()
    changed = inputs.clone()
    changed[:, -1] = (inputs[:, -1] + 1) % TARGET
    before, after = model(ids, inputs).logits, model(ids, changed).logits
    assert torch.equal(before[:, :-1], after[:, :-1])
    assert not torch.allclose(before[:, -1], after[:, -1])


@each_kind
def test_every_parameter_learns(kind: str) -> None:
    model = model_of(kind)
    model(source(), target()).logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


def test_all_kinds_share_their_parameters_but_those_of_the_score() -> None:
    shapes = {
        kind: {
            name: tuple(parameter.shape)
            for name, parameter in model_of(kind).named_parameters()
            if not name.startswith("decoder.attention")
        }
        for kind in KINDS
    }
    assert all(shape == shapes["none"] for shape in shapes.values())


@each_kind
def test_translate_writes_what_teacher_forcing_finds_likeliest(kind: str) -> None:
    model, ids = model_of(kind), source()
    with torch.no_grad():
        model.decoder.predict.bias[END] += 0.3
    found = model.translate(ids, max_length=12)
    length = found.ids.shape[1]
    begun = torch.cat([torch.full((B, 1), BEGIN), found.ids[:, :-1]], dim=1)
    output = model(ids, begun)
    for row in range(B):
        ends = (found.ids[row] == END).nonzero()
        stop = int(ends[0]) + 1 if len(ends) else length
        assert torch.equal(output.logits[row, :stop].argmax(dim=-1), found.ids[row, :stop])
        assert (found.ids[row, stop:] == PAD).all()
    if output.weights is not None:
        assert found.weights is not None and found.weights.shape == (B, length, S)
        torch.testing.assert_close(found.weights[:, 0], output.weights[:, 0], **CLOSE)
