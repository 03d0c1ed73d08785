"""Windows of a text and their loss. Oracle: the sums written out token by token."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from course_lib.models.gpt import GPT, GPTConfig
from course_lib.training.language_model import TextWindows, next_token_loss, text_loss

TEXT = torch.arange(50) % 13


def small() -> GPT:
    torch.manual_seed(0)
    return GPT(GPTConfig(vocab_size=13, context=8, d_model=8, num_layers=1, num_heads=2, dropout=0.5))


@torch.no_grad()
def log_probability(model: GPT, ids: Tensor) -> float:
    """Of each token but the first, one after the other."""
    total = 0.0
    for end in range(1, len(ids)):
        total += float(model(ids[None, :end]).logits[0, -1].log_softmax(dim=-1)[ids[end]])
    return total


def test_targets_are_the_inputs_one_token_later_and_every_place_is_drawn() -> None:
    windows = TextWindows(TEXT, 8, 6, seed=1)
    starts = set()
    for step in range(100):
        inputs, targets = windows.batch(step)
        assert inputs.shape == targets.shape == (6, 8)
        assert torch.equal(inputs[:, 1:], targets[:, :-1]) and torch.equal(targets, (inputs + 1) % 13)
        starts |= set(inputs[:, 0].tolist())
    assert starts == set(range(13))
    whole = TextWindows(torch.arange(10), 8, 40)
    assert set(whole.batch(0)[0][:, 0].tolist()) == {0, 1}  # the last window's last target is the last token
    assert torch.equal(windows.batch(3)[0], TextWindows(TEXT, 8, 6, seed=1).batch(3)[0])
    assert not torch.equal(windows.batch(3)[0], TextWindows(TEXT, 8, 6, seed=2).batch(3)[0])
    with pytest.raises(ValueError, match="text of 8 tokens has no window of 8"):
        TextWindows(torch.arange(8), 8, 1)


def test_the_loss_of_a_window_is_that_of_its_tokens() -> None:
    model = small().eval()
    found = next_token_loss(model, TextWindows(TEXT, 8, 2).batch(0))
    inputs, targets = TextWindows(TEXT, 8, 2).batch(0)
    rows = torch.cat([inputs, targets[:, -1:]], dim=1)
    expected = -sum(log_probability(model, row) for row in rows)
    assert found.count == 16 and found.total.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("batch", [1, 4, 256])
def test_the_loss_of_a_text_reads_every_whole_window_once_and_without_dropout(batch: int) -> None:
    model = small().train()
    expected = -sum(log_probability(model.eval(), TEXT[first : first + 9]) for first in range(0, 41, 8)) / 48
    model.train()
    assert text_loss(model, TEXT, 8, batch) == pytest.approx(expected, rel=1e-5)
    assert model.training
