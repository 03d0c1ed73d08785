"""Label smoothing (Szegedy et al. 2015; Vaswani et al. 2017, §5.4): a target that is not quite certain."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.training.loop import Loss


def smoothed_loss(logits: Tensor, targets: Tensor, smoothing: float = 0.1, pad_id: int = 0) -> Loss:
    """Cross-entropy against 1 − smoothing on the target and smoothing spread over all v words, in nats.

    logits (b, t, v), targets (b, t); where a target is pad_id, nothing counts. Returns the sum and the number
    of targets; their quotient is never below `entropy_floor`. Oracle: `F.cross_entropy`.
    """
    log_probs = F.log_softmax(logits.float(), dim=-1)
    right = log_probs.gather(-1, targets[..., None])[..., 0]  # (b, t)
    losses = -(1 - smoothing) * right - smoothing * log_probs.mean(dim=-1)
    real = targets != pad_id
    return Loss(losses.masked_fill(~real, 0.0).sum(), real.sum())


def entropy_floor(vocabulary: int, smoothing: float) -> float:
    """The least that `smoothed_loss` can be per target: the entropy of the smoothed target itself, in nats.

    >>> entropy_floor(1000, 0.0)
    0.0
    """
    target = torch.full((vocabulary,), smoothing / vocabulary, dtype=torch.float64)
    target[0] += 1 - smoothing
    return float(-torch.xlogy(target, target).sum()) + 0.0
