"""Label smoothing. Oracle: `F.cross_entropy`, which spreads the smoothing over all words, too."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.training.label_smoothing import entropy_floor, smoothed_loss


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(2, 9), st.floats(0, 0.5), st.integers(0, 999))
def test_sum_count_and_gradient_are_torchs(b: int, t: int, v: int, smoothing: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(b, t, v, generator=generator).requires_grad_()
    targets = torch.randint(0, v, (b, t), generator=generator)
    found = smoothed_loss(logits, targets, smoothing)
    expected = F.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), label_smoothing=smoothing, ignore_index=0, reduction="sum"
    )
    torch.testing.assert_close(found.total, expected, atol=1e-5, rtol=1e-5)
    assert found.count == (targets != 0).sum()
    ours, theirs = (
        torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (found.total, expected)
    )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
def test_the_floor_is_reached_by_the_smoothed_target_itself(smoothing: float) -> None:
    target = torch.full((1, 1, 7), smoothing / 7)
    target[..., 3] += 1 - smoothing
    loss = smoothed_loss(target.clamp_min(1e-30).log(), torch.tensor([[3]]), smoothing)
    assert loss.total.item() == pytest.approx(entropy_floor(7, smoothing), abs=1e-5)
