"""Dropout. Oracle: `F.dropout`, whose values a share of the elements has, and their mean."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_lib.layers.dropout import Dropout, drop
from course_lib.layers.multi_head import MultiHeadAttention


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_a_share_is_zero_and_the_rest_is_as_torch_makes_it(p: float) -> None:
    torch.manual_seed(0)
    ones = torch.ones(999, 333)
    ours, theirs = drop(ones, p), F.dropout(ones, p)
    assert (ours == 0).float().mean().item() == pytest.approx(p, abs=0.005)
    assert ours.max().item() == pytest.approx(theirs.max().item(), rel=2e-4)
    assert ours.unique().numel() == 2
    assert ours.mean().item() == pytest.approx(1, abs=0.02)


def test_neighbours_are_dropped_independently() -> None:
    torch.manual_seed(0)
    dropped = (drop(torch.ones(400_000), 0.3) == 0).float()
    for distance in range(1, 9):
        both = (dropped[:-distance] * dropped[distance:]).mean().item()
        assert both == pytest.approx(0.09, abs=0.004), distance
    # One random number decides about four values: each of the four has the same share.
    assert torch.allclose(dropped.view(-1, 4).mean(dim=0), torch.tensor(0.3), atol=0.006)


def test_the_gradient_passes_where_the_value_did() -> None:
    values = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    output = drop(values, 0.4)
    output.backward(torch.ones_like(output))
    assert values.grad is not None
    torch.testing.assert_close(values.grad * values.detach(), output.detach())


def test_a_seed_fixes_it_and_evaluation_mode_leaves_all_as_it_is() -> None:
    layer, values = Dropout(0.2), torch.randn(3, 11)
    torch.manual_seed(4)
    first = layer(values)
    torch.manual_seed(4)
    assert torch.equal(first, layer(values))
    assert not torch.equal(first, layer(values))
    assert layer.eval()(values) is values


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3,), (2, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_any_shape_and_dtype(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    values = torch.randn(shape, dtype=dtype)
    found = drop(values, 0.5)
    assert found.shape == values.shape and found.dtype == dtype
    assert ((found == 0) | torch.isclose(found, 2 * values)).all()


def test_none_and_all() -> None:
    values = torch.randn(4, 4)
    assert drop(values, 0.0) is values
    assert torch.equal(drop(values, 1.0), torch.zeros(4, 4))


@pytest.mark.parametrize("p", [-0.1, 1.1])
def test_what_is_no_share_is_named(p: float) -> None:
    with pytest.raises(ValueError, match="it is a share from 0 to 1"):
        Dropout(p)


def test_attention_drops_weights_while_it_is_trained_and_only_then() -> None:
    torch.manual_seed(0)
    layer = MultiHeadAttention(8, 2, dropout=0.5)
    hidden_states = torch.randn(2, 6, 8)
    exact = layer.eval()(hidden_states)
    layer.train()
    mean = torch.stack([layer(hidden_states) for _ in range(1_500)]).mean(dim=0)
    assert not torch.allclose(layer(hidden_states), exact, atol=1e-2)
    torch.testing.assert_close(mean, exact, atol=0.08, rtol=0)
    torch.manual_seed(1)
    fused = layer(hidden_states)
    torch.manual_seed(1)
    shown, weights = layer(hidden_states, return_weights=True)
    assert torch.equal(fused, shown)
    assert torch.allclose(weights.sum(dim=-1), torch.ones(2, 2, 6))


def test_its_share_is_shown() -> None:
    assert str(Dropout(0.1)) == str(nn.Dropout(0.1)).replace(", inplace=False", "")
