"""What a language model is trained on: windows of a long text, and the loss of every next token in them.

Axes: b windows in a batch, t tokens in a window, v vocabulary.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.training.loop import Loss


class TextWindows:
    """Batches of windows that begin anywhere in a text: inputs and targets, (b, t) each, one token apart.

    ids: the text, (n,). The same seed and step always give the same windows.
    """

    def __init__(self, ids: Tensor, context: int, batch: int, seed: int = 0) -> None:
        if len(ids) <= context:
            raise ValueError(
                f"a text of {len(ids)} tokens has no window of {context} and the token behind it"
            )
        self.ids, self.context, self.size, self.seed = ids, context, batch, seed

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """The inputs and the targets of a step."""
        random = np.random.default_rng((self.seed, step))
        starts = torch.from_numpy(random.integers(len(self.ids) - self.context, size=self.size))
        windows = self.ids[starts[:, None] + torch.arange(self.context + 1)]  # (b, t + 1)
        return windows[:, :-1], windows[:, 1:]


def next_token_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Loss:
    """−log p of every next token. model(ids).logits: (b, t, v)."""
    inputs, targets = batch
    logits: Tensor = model(inputs).logits
    total = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    return Loss(total, targets.numel())


@torch.no_grad()
def text_loss(model: Any, ids: Tensor, context: int, batch: int = 256) -> float:
    """The mean loss over a whole text in windows that do not overlap, nats a token.

    What is left over at the end, less than a window, is not read.
    """
    count = (len(ids) - 1) // context
    inputs = ids[: count * context].view(count, context)
    targets = ids[1 : count * context + 1].view(count, context)
    device, training = next(model.parameters()).device, model.training
    model.eval()
    total = 0.0
    for first in range(0, count, batch):
        piece = inputs[first : first + batch].to(device), targets[first : first + batch].to(device)
        total += float(next_token_loss(model, piece).total)
    model.train(training)
    return total / (count * context)
