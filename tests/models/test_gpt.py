"""GPT. Oracles: `GPT2LMHeadModel` and `LlamaForCausalLM` of `transformers`, and the model's own slow path."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from course_lib.layers.cache import KeyValueCache
from course_lib.models.gpt import GPT, LLAMA, MODERN, GPTConfig

B, T, VOCAB = 3, 9, 23
SMALL: dict[str, Any] = {"vocab_size": VOCAB, "context": 16, "d_model": 16, "num_layers": 3, "num_heads": 4}
KINDS: dict[str, dict[str, Any]] = {
    "GPT-2": {"activation": "gelu_tanh"},
    "Llama": LLAMA | {"num_kv_heads": 2, "d_ff": 40},
    "modern": MODERN,
    "one key, wide heads": {"num_kv_heads": 1, "d_head": 6, "norm": "rms", "bias": False},
}
each_kind = pytest.mark.parametrize("kind", KINDS)
CLOSE: dict[str, Any] = {"atol": 2e-5, "rtol": 2e-5}


def small(kind: str = "GPT-2", **options: Any) -> GPT:
    """A small model with random weights everywhere, in evaluation mode."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(**SMALL | KINDS[kind] | options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def ids(b: int = B, t: int = T, seed: int = 0) -> Tensor:
    return torch.randint(0, VOCAB, (b, t), generator=torch.Generator().manual_seed(seed))


def padded(*lengths: int, left: bool) -> Tensor:
    """A mask of tokens with padding on one side."""
    behind = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return behind.flip(1) if left else behind


# --- causality ------------------------------------------------------------------------------------------


@each_kind
@settings(max_examples=10, deadline=None)
@given(t=st.integers(1, 9), data=st.data())
def test_no_later_token_changes_an_earlier_logit(kind: str, t: int, data: Any) -> None:
    model, given_ids = small(kind), ids(1, t)
    place = data.draw(st.integers(0, t - 1))
    changed = given_ids.clone()
    changed[0, place] = (changed[0, place] + 1) % VOCAB
    before, after = model(given_ids).logits, model(changed).logits
    torch.testing.assert_close(after[:, :place], before[:, :place], atol=0, rtol=0)
    assert not torch.allclose(after[:, place], before[:, place], atol=1e-4)


@each_kind
@pytest.mark.parametrize("explicit", [False, True])
def test_the_gradient_of_a_logit_reaches_no_later_token(kind: str, explicit: bool) -> None:
    model, given_ids = small(kind), ids(1, T)
    for place in range(T):
        states = model(given_ids, return_weights=explicit)
        words = states.hidden_states[0]
        (gradient,) = torch.autograd.grad(states.logits[0, place].square().sum(), words)
        reached = gradient[0].abs().sum(dim=-1) > 0
        assert reached.tolist() == [position <= place for position in range(T)]


# --- one model, several ways ----------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("mask", [None, "left", "right"])
def test_the_fast_path_equals_the_explicit_softmax(kind: str, mask: str | None) -> None:
    model = small(kind).double()
    seen = None if mask is None else padded(9, 6, 2, left=mask == "left")
    real = torch.ones(B, T, dtype=torch.bool) if seen is None else seen
    fast, shown = model(ids(), seen), model(ids(), seen, return_weights=True)
    assert fast.attentions is None and shown.attentions is not None
    torch.testing.assert_close(fast.logits[real], shown.logits[real], atol=1e-9, rtol=1e-9)
    one, other = (
        torch.autograd.grad(found.logits[real].square().sum(), model.tokens.weight)[0]
        for found in (fast, shown)
    )
    torch.testing.assert_close(one, other, atol=1e-7, rtol=1e-7)
    for weights in shown.attentions:
        assert weights.shape == (B, 4, T, T) and (weights.triu(1) == 0).all()
        torch.testing.assert_close(weights.sum(dim=-1).transpose(1, 2)[real].min().item(), 1.0)


@each_kind
@pytest.mark.parametrize("steps", [(1,) * T, (4, 1, 3, 1), (T,)], ids=str)
@pytest.mark.parametrize("left", [False, True], ids=["no padding", "padding before"])
def test_step_by_step_with_a_cache_equals_all_at_once(kind: str, steps: tuple[int, ...], left: bool) -> None:
    model = small(kind)
    mask = padded(9, 6, 2, left=True) if left else None
    expected, cache, found, seen = model(ids(), mask), KeyValueCache(3), [], 0
    for part in ids().split(steps, dim=1):
        seen += part.shape[1]
        found.append(model(part, None if mask is None else mask[:, :seen], cache=cache).logits)
    real = torch.ones(B, T, dtype=torch.bool) if mask is None else mask
    torch.testing.assert_close(torch.cat(found, dim=1)[real], expected.logits[real], **CLOSE)
    assert cache.length == T


def test_padding_behind_changes_nothing_and_rotary_positions_allow_it_before() -> None:
    model = small("Llama")
    plain = model(ids(1, 5)).logits
    wide = torch.cat([torch.zeros(1, 3, dtype=torch.long), ids(1, 5)], dim=1)
    mask = padded(8, 5, left=True)[1:]
    torch.testing.assert_close(model(wide, mask).logits[:, 3:], plain, **CLOSE)


@each_kind
def test_hidden_states_are_the_stream_and_end_normed(kind: str) -> None:
    model = small(kind)
    found = model(ids())
    assert [tuple(state.shape) for state in found.hidden_states] == [(B, T, 16)] * 4
    head = model.tokens.weight if model.head is None else model.head.weight
    torch.testing.assert_close(found.hidden_states[-1] @ head.T, found.logits, **CLOSE)
    places = model.positions.weight[:T] if model.positions is not None else 0.0
    torch.testing.assert_close(found.hidden_states[0], model.tokens.weight[ids()] + places, **CLOSE)


# --- sizes and beginnings -------------------------------------------------------------------------------


def test_parameters_are_those_of_the_published_models() -> None:
    def count(config: GPTConfig) -> int:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in GPT(config).parameters())

    assert count(GPTConfig()) == 124_439_808
    xl = GPTConfig(d_model=1600, num_layers=48, num_heads=25)
    assert count(xl) == 1_557_611_200
    llama = LLAMA | {"vocab_size": 32000, "d_model": 4096, "num_layers": 32, "num_heads": 32, "d_ff": 11008}
    assert count(GPTConfig(**llama)) == 6_738_415_616
    eight_b = llama | {"vocab_size": 128256, "num_kv_heads": 8, "d_ff": 14336}
    assert count(GPTConfig(**eight_b)) == 8_030_261_248


@each_kind
def test_a_new_model_guesses_evenly_and_zero_init_makes_blocks_do_nothing(kind: str) -> None:
    torch.manual_seed(0)
    model = GPT(GPTConfig(**SMALL | KINDS[kind]))
    found = model(ids())
    loss = F.cross_entropy(found.logits.flatten(0, 1), ids(seed=1).flatten())
    assert abs(loss.item() - math.log(VOCAB)) < 0.1
    first, last = found.hidden_states[0], found.hidden_states[-2]
    assert torch.equal(first, last) == model.config.zero_init


@each_kind
def test_a_few_steps_of_training_learn_a_text_by_heart(kind: str) -> None:
    torch.manual_seed(0)
    model = GPT(GPTConfig(**SMALL | KINDS[kind] | {"dropout": 0.02}))
    text = ids(4, T + 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(80):
        loss = F.cross_entropy(model(text[:, :-1]).logits.flatten(0, 1), text[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.5


def test_dropout_acts_while_training_alone() -> None:
    model = small(dropout=0.5)
    torch.testing.assert_close(model(ids()).logits, small()(ids()).logits)
    assert not torch.allclose(model.train()(ids()).logits, model(ids()).logits)


def test_mistakes_are_named() -> None:
    model = small()
    with pytest.raises(ValueError, match="17 tokens are more than context=16"):
        model(ids(1, 17))
    cache = KeyValueCache(3)
    model(ids(1, 16), cache=cache)
    with pytest.raises(ValueError, match="17 tokens are more than context=16"):
        model(ids(1, 1), cache=cache)
    with pytest.raises(ValueError, match=r"expected axes \(batch, tokens\)"):
        model(ids()[0])
    with pytest.raises(ValueError, match=r"expected torch.bool and \(3, 9\)"):
        model(ids(), torch.ones(B, 1, 1, T, dtype=torch.bool))
    with pytest.raises(ValueError, match="positions='sinusoidal'; expected one of learned, rotary"):
        GPTConfig(positions="sinusoidal")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="norm='batch'; expected one of layer, rms"):
        GPTConfig(norm="batch")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_heads=5 does not divide d_model=768"):
        GPTConfig(num_heads=5)
