"""The optimisers of the loop: AdamW for everything, or Muon for the matrices inside the blocks.

Embeddings, heads, norms and biases stay with AdamW in both.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from course_lib.layers.stacked import StackedLinear
from course_lib.training.config import TrainConfig
from course_lib.training.muon import Muon

INSIDE = re.compile(r"\.\d+\.")  # the name of a parameter in one of many equal blocks has its number


def make_optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """What updates the trainable parameters. Every group has its highest learning rate as "peak"."""
    named = {name: values for name, values in model.named_parameters() if values.requires_grad}
    hidden = {
        name for name, values in named.items() if config.optimizer == "muon" and is_hidden(name, values)
    }
    rest = [values for name, values in named.items() if name not in hidden]
    found: list[torch.optim.Optimizer] = []
    groups = [
        {"params": [values for values in rest if values.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [values for values in rest if values.dim() < 2], "weight_decay": 0.0},
    ]
    if rest:
        found.append(
            torch.optim.AdamW(
                [group for group in groups if group["params"]],
                lr=config.learning_rate,
                betas=config.betas,
                eps=config.eps,
                fused=True,
            )
        )
    if hidden:
        stacked = {m.weight: m.widths for m in model.modules() if isinstance(m, StackedLinear)}
        matrices = [(named[name], stacked.get(named[name], (len(named[name]),))) for name in sorted(hidden)]
        found.append(Muon(matrices, config.matrix_learning_rate, weight_decay=config.weight_decay))
    for optimizer in found:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return found


def is_hidden(name: str, values: Tensor) -> bool:
    """Whether a parameter is a matrix inside one of many blocks, and no embedding or head.

    >>> matrix = torch.zeros(2, 2)
    >>> [is_hidden(name, matrix) for name in ("blocks.0.feed_forward.up.weight", "tokens.weight")]
    [True, False]
    """
    return values.dim() == 2 and INSIDE.search(name) is not None
