"""BERT's parts, fast path and errors; test_hub.py holds it equal to the models of `transformers`."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.models.bert import BERT, DISTILBERT, ROBERTA, BertConfig

B, T, VOCAB = 3, 8, 23
SMALL: dict[str, Any] = {
    "vocab_size": VOCAB,
    "d_model": 16,
    "num_layers": 3,
    "num_heads": 4,
    "d_ff": 24,
    "max_length": 12,
}
KINDS: dict[str, dict[str, Any]] = {"BERT": {}, "RoBERTa": ROBERTA, "DistilBERT": DISTILBERT}
each_kind = pytest.mark.parametrize("kind", KINDS)


def small(kind: str = "BERT", **options: Any) -> BERT:
    """A small model with random weights everywhere, in evaluation mode."""
    torch.manual_seed(0)
    model = BERT(BertConfig(**KINDS[kind] | SMALL | options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def ids(b: int = B, t: int = T, seed: int = 0) -> Tensor:
    return torch.randint(2, VOCAB, (b, t), generator=torch.Generator().manual_seed(seed))


MASK = torch.arange(T) < torch.tensor([8, 5, 2])[:, None]


@each_kind
@pytest.mark.parametrize("masked", [False, True])
def test_the_fast_path_equals_the_explicit_softmax(kind: str, masked: bool) -> None:
    model, mask = small(kind).double(), MASK if masked else None
    real = MASK if masked else torch.ones_like(MASK)
    fast, shown = model(ids(), mask=mask), model(ids(), mask=mask, return_weights=True)
    one, other = (
        torch.autograd.grad(
            model.token_logits(found.last_hidden_state[real]).square().sum(), model.embedding.tokens.weight
        )[0]
        for found in (fast, shown)
    )
    torch.testing.assert_close(one, other, atol=1e-8, rtol=1e-8)
    assert fast.attentions is None and len(shown.attentions) == 3
    for fast_state, shown_state in zip(fast.hidden_states, shown.hidden_states, strict=True):
        torch.testing.assert_close(fast_state[real], shown_state[real], atol=1e-10, rtol=1e-10)
    for weights in shown.attentions:
        assert weights.shape == (B, 4, T, T)
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(B, 4, T).double())
        assert not masked or (weights[2, :, :, 2:] == 0).all()


@each_kind
def test_every_token_sees_all_others_but_no_padding(kind: str) -> None:
    model = small(kind)
    for place, other in ((0, 7), (7, 0)):
        words = model.embedding(ids(), None).detach().requires_grad_()
        last = model.encoder(words).hidden_states
        assert torch.autograd.grad(last[0, place].square().sum(), words)[0][0, other].abs().sum() > 0
    alone = model(ids()[1:2, :5]).last_hidden_state
    padded = ids().masked_fill(~MASK, model.config.pad_id)
    torch.testing.assert_close(
        model(padded, mask=MASK).last_hidden_state[1:2, :5], alone, atol=1e-5, rtol=1e-5
    )


def test_the_four_outputs_are_what_their_names_say() -> None:
    model = small()
    segments = (torch.arange(T) > 3).long().expand(B, T)
    found = model(ids(), segments)
    assert [tuple(state.shape) for state in found.hidden_states] == [(B, T, 16)] * 4
    assert found.last_hidden_state is found.hidden_states[-1]
    dense, table = model.pooler, model.embedding.segments
    assert dense is not None and table is not None
    first = found.last_hidden_state[:, 0] @ dense.weight.T + dense.bias
    torch.testing.assert_close(found.pooler_output, first.tanh())
    parts = model.embedding
    total = parts.tokens.weight[ids()] + table.weight[segments] + parts.positions.weight[:T]
    normed = F.layer_norm(total, (16,), parts.norm.weight, parts.norm.bias, 1e-12)
    torch.testing.assert_close(found.hidden_states[0], normed)
    torch.testing.assert_close(model(ids()).last_hidden_state, model(ids(), 0 * segments).last_hidden_state)
    assert not torch.allclose(found.last_hidden_state, model(ids()).last_hidden_state, atol=1e-3)
    assert model.sentence_logits(found.pooler_output).shape == (B, 2)
    every = model.token_logits(found.last_hidden_state)
    torch.testing.assert_close(model.token_logits(found.last_hidden_state[MASK]), every[MASK])


def test_robertas_positions_count_tokens_and_leave_padding_out() -> None:
    model, table = small("RoBERTa"), small("RoBERTa").embedding.positions.weight
    given = torch.tensor([[5, 6, 7, 1], [1, 1, 8, 9]])
    expected = torch.tensor([[2, 3, 4, 1], [1, 1, 2, 3]])
    torch.testing.assert_close(model.embedding.places(given), table[expected])
    assert len(table) == 12 + 2


def test_parameters_are_those_of_the_published_models() -> None:
    def count(**options: Any) -> int:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in BERT(BertConfig(**options)).parameters())

    assert count(mlm_head=False, nsp_head=False) == 109_482_240
    large = {"d_model": 1024, "num_layers": 24, "num_heads": 16, "d_ff": 4096}
    assert count(mlm_head=False, nsp_head=False, **large) == 335_141_888
    assert count(**ROBERTA) == 124_697_433
    assert count(**DISTILBERT | {"mlm_head": False}) == 66_362_880


@each_kind
def test_a_new_model_guesses_evenly_and_learns_a_text_by_heart(kind: str) -> None:
    torch.manual_seed(0)
    model = BERT(BertConfig(**KINDS[kind] | SMALL | {"dropout": 0.0}))
    text, hidden = ids(), torch.rand(B, T, generator=torch.Generator().manual_seed(1)) < 0.3
    given = text.masked_fill(hidden, 0)
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=1e-2), []
    for _ in range(60):
        loss = F.cross_entropy(model.token_logits(model(given).last_hidden_state[hidden]), text[hidden])
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert abs(losses[0] - math.log(VOCAB)) < 0.2 and losses[-1] < 0.1


def test_mistakes_are_named() -> None:
    model = small()
    with pytest.raises(ValueError, match="13 tokens are more than max_length=12"):
        model(ids(1, 13))
    with pytest.raises(ValueError, match=r"expected axes \(batch, tokens\)"):
        model(ids()[0])
    with pytest.raises(ValueError, match=r"expected torch.bool and \(3, 8\)"):
        model(ids(), mask=MASK.long())
    with pytest.raises(ValueError, match="has no segments"):
        small("DistilBERT")(ids(), torch.zeros(B, T, dtype=torch.long))
    with pytest.raises(ValueError, match="no head for next sentences"):
        small("RoBERTa").sentence_logits(torch.zeros(B, 16))
    with pytest.raises(ValueError, match="no head for masked tokens"):
        small(mlm_head=False).token_logits(torch.zeros(B, 16))
    with pytest.raises(ValueError, match="nsp_head=True needs pooler=True"):
        BertConfig(pooler=False)
