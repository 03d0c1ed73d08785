"""RNN, LSTM and GRU. Oracle: nn.RNN, nn.LSTM and nn.GRU with the same weights, values and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from course_lib.models.recurrent import GRU, LSTM, RNN

KINDS: dict[str, tuple[Any, Any]] = {"RNN": (RNN, nn.RNN), "LSTM": (LSTM, nn.LSTM), "GRU": (GRU, nn.GRU)}
each_kind = pytest.mark.parametrize("kind", KINDS)
EXACT: dict[str, Any] = {"atol": 1e-6, "rtol": 1e-6}


def both(kind: str, d_in: int, d_hidden: int, seed: int = 0) -> tuple[Any, Any]:
    """Our layer and torch's, in float64, with the same weights."""
    torch.manual_seed(seed)
    ours, theirs = KINDS[kind]
    reference = theirs(d_in, d_hidden, batch_first=True, dtype=torch.float64)
    return ours.from_torch(reference), reference


def start(kind: str, batch: int, d_hidden: int) -> Any:
    """A state to begin with."""
    parts = [torch.randn(batch, d_hidden, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    return tuple(parts) if kind == "LSTM" else parts[0]


def tensors(state: Any) -> list[Tensor]:
    return list(state) if isinstance(state, tuple) else [state]


def with_layers(state: Any) -> Any:
    """A state as torch wants it, with an axis for the layer."""
    return tuple(part[None] for part in state) if isinstance(state, tuple) else state[None]


@each_kind
@settings(deadline=None, max_examples=15)
@given(
    st.integers(1, 4),
    st.integers(1, 7),
    st.integers(1, 5),
    st.integers(1, 6),
    st.booleans(),
    st.integers(0, 99),
)
def test_outputs_states_and_gradients_equal_torchs(
    kind: str, batch: int, length: int, d_in: int, d_hidden: int, has_state: bool, seed: int
) -> None:
    ours, theirs = both(kind, d_in, d_hidden, seed)
    inputs = torch.randn(batch, length, d_in, dtype=torch.float64, requires_grad=True)
    state = start(kind, batch, d_hidden) if has_state else None
    outputs, last = ours(inputs, state)
    expected, expected_last = theirs(inputs, with_layers(state) if has_state else None)
    torch.testing.assert_close(outputs, expected, **EXACT)
    for ours_part, their_part in zip(tensors(last), tensors(expected_last), strict=True):
        torch.testing.assert_close(ours_part, their_part[0], **EXACT)

    direction = torch.randn_like(outputs)
    leaves = [inputs, *(tensors(state) if has_state else [])]
    found = torch.autograd.grad((outputs * direction).sum(), [*leaves, *ours.parameters()])
    wanted = torch.autograd.grad((expected * direction).sum(), [*leaves, *their_weights(theirs)])
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, **EXACT)


def their_weights(theirs: Any) -> list[Tensor]:
    """In the order of our parameters: read, then recall."""
    return [theirs.weight_ih_l0, theirs.bias_ih_l0, theirs.weight_hh_l0, theirs.bias_hh_l0]


@each_kind
def test_padding_leaves_the_state_as_it_is(kind: str) -> None:
    ours, theirs = both(kind, 3, 5)
    inputs, lengths = torch.randn(4, 6, 3, dtype=torch.float64), torch.tensor([6, 2, 4, 1])
    mask = torch.arange(6) < lengths[:, None]
    outputs, last = ours(inputs, mask=mask)
    _, expected = theirs(pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False))
    for ours_part, their_part in zip(tensors(last), tensors(expected), strict=True):
        torch.testing.assert_close(ours_part, their_part[0], **EXACT)
    torch.testing.assert_close(outputs[1, 2:], outputs[1, 1].expand(4, 5))
    changed = torch.where(mask[..., None], inputs, 7.0)
    assert torch.equal(ours(changed, mask=mask)[0], outputs)


@each_kind
def test_reading_in_two_parts_is_reading_at_once(kind: str) -> None:
    ours, _ = both(kind, 3, 5)
    inputs = torch.randn(2, 7, 3, dtype=torch.float64)
    whole, last = ours(inputs)
    first, state = ours(inputs[:, :3])
    rest, end = ours(inputs[:, 3:], state)
    torch.testing.assert_close(torch.cat([first, rest], dim=1), whole)
    nothing, kept = ours(inputs[:, :0], end)
    assert nothing.shape == (2, 0, 5)
    for one, other in zip(tensors(kept), tensors(last), strict=True):
        torch.testing.assert_close(one, other)


def test_the_forget_bias_is_added_to_the_forget_gate_alone() -> None:
    torch.manual_seed(3)
    plain = LSTM(2, 4)
    torch.manual_seed(3)
    shifted = LSTM(2, 4, forget_bias=1.5)
    change = shifted.recall.bias - plain.recall.bias
    torch.testing.assert_close(change, torch.tensor([0.0, 1.5, 0.0, 0.0]).repeat_interleave(4))
    assert torch.equal(shifted.read.bias, plain.read.bias)


def test_what_has_no_equal_is_refused() -> None:
    refused = [nn.RNN(2, 3, num_layers=2), nn.RNN(2, 3, bidirectional=True)]
    refused += [nn.RNN(2, 3, nonlinearity="relu"), nn.RNN(2, 3, bias=False)]
    for theirs in refused:
        with pytest.raises(ValueError, match="more than one layer"):
            RNN.from_torch(theirs)
    with pytest.raises(ValueError, match="is no LSTM"):
        LSTM.from_torch(nn.GRU(2, 3))


def test_wrong_shapes_are_named() -> None:
    layer = GRU(3, 4)
    with pytest.raises(ValueError, match=r"inputs have shape \(5, 3\); expected \(b, t, 3\)"):
        layer(torch.zeros(5, 3))
    with pytest.raises(ValueError, match=r"mask has shape \(2, 4\); expected \(2, 5\)"):
        layer(torch.zeros(2, 5, 3), mask=torch.ones(2, 4, dtype=torch.bool))
