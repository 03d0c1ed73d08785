"""Chapter 13's experiment on in-context learning: what a model needs to learn from what it is shown.

    python -m course_lib.recipes.in_context

trains small GPTs on rows of pairs, a key and its value. A row follows one rule, drawn from a pool of rules:
which value belongs to which key. With few rules in the pool they can be remembered; with many a row's rule
has to be read off the pairs shown in it. Writes `data/13_in_context.json`, some minutes on one core.

Axes: n rows, k keys (and values), t tokens in a row.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.device import set_seed
from course_lib.models.gpt import GPT, MODERN, GPTConfig
from course_lib.training import Loss, TrainConfig, train

MEASURED = Path(__file__).parent / "data" / "13_in_context.json"
KEYS, PAIRS = 8, 16
POOLS = (4, 32, 256, 4096)
PLAN = TrainConfig(
    steps=900, learning_rate=3e-3, optimizer="muon", betas=(0.9, 0.95), warmup=30, schedule="linear"
)


def draw_rules(count: int, seed: int) -> Tensor:
    """Rules: for each key its value, (count, k). Two keys may share a value."""
    return torch.from_numpy(np.random.default_rng((seed, 1)).integers(KEYS, size=(count, KEYS)))


@dataclass(frozen=True)
class PairRows:
    """Batches of rows: keys are 0 to k − 1, values k to 2k − 1; each row has a rule of the pool."""

    rules: Tensor
    size: int = 64
    seed: int = 0

    def batch(self, step: int) -> Tensor:
        """(n, t), keys at even places, and behind each its value."""
        random = np.random.default_rng((self.seed, step))
        chosen = self.rules[torch.from_numpy(random.integers(len(self.rules), size=self.size))]
        keys = torch.from_numpy(random.integers(KEYS, size=(self.size, PAIRS)))
        return torch.stack([keys, KEYS + chosen.gather(1, keys)], dim=-1).flatten(1)


def value_loss(model: GPT, rows: Tensor) -> Loss:
    """The loss of the values; keys are drawn by chance, and nothing is to be learned of them."""
    logits = model(rows[:, :-1]).logits[:, ::2]
    total = F.cross_entropy(logits.flatten(0, 1), rows[:, 1::2].flatten(), reduction="sum")
    return Loss(total, rows[:, 1::2].numel())


@torch.no_grad()
def accuracy_by_shown(model: GPT, rules: Tensor, rows: int = 2000) -> list[float]:
    """Share of values said right, by how often the key was shown before: never, once, twice …"""
    batch = PairRows(rules, size=rows, seed=99).batch(0)
    keys, values = batch[:, ::2], batch[:, 1::2]
    right = model.eval()(batch[:, :-1]).logits[:, ::2].argmax(dim=-1) == values
    earlier = (keys[:, :, None] == keys[:, None, :]).float().tril(-1).sum(dim=-1)
    return [float(right[earlier == times].float().mean()) for times in range(5)]


def make_model(num_layers: int) -> GPT:
    """A GPT for rows of pairs."""
    set_seed(0)
    return GPT(
        GPTConfig(2 * KEYS, context=2 * PAIRS, d_model=64, num_layers=num_layers, num_heads=2, **MODERN)
    )


def run(num_layers: int, pool: int, plan: TrainConfig = PLAN) -> dict[str, Any]:
    """One training: accuracies on rules of the pool, and on rules that are not in it."""
    rules, model = draw_rules(pool, seed=0), make_model(num_layers)
    history = train(model, PairRows(rules), value_loss, plan, progress=False)
    steps, losses = history.smoothed(60)
    return {
        "layers": num_layers,
        "pool": pool,
        "steps": steps,
        "losses": [round(loss, 4) for loss in losses],
        "known rules": accuracy_by_shown(model, rules),
        "new rules": accuracy_by_shown(model, draw_rules(500, seed=1)),
    }


def load_measured() -> list[dict[str, Any]]:
    """What the recipe measured, one entry a run."""
    return json.loads(MEASURED.read_text(encoding="utf-8"))


def main() -> None:
    """Train two layers on each pool, and one layer on the largest."""
    torch.set_num_threads(1)
    found = [run(2, pool) for pool in POOLS] + [run(1, POOLS[-1])]
    MEASURED.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
