"""Chapter 08's curves: three places for the norm, with and without warm-up, and three feed-forward layers.

    python -m course_lib.recipes.norm_orders

trains 27 small language models on the story world, which takes about ten minutes on one core, and writes the
curves beside this file, into `data/08_norm_orders.json`. The lesson runs the first steps of a few of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from course_lib.data import story_world
from course_lib.layers.block import BlockConfig, Order, TransformerStack
from course_lib.layers.feed_forward import gated_width
from course_lib.layers.masks import causal_mask

CURVES = Path(__file__).parent / "data" / "08_norm_orders.json"
ORDERS: tuple[Order, ...] = ("post", "pre", "residual_dual")
WIDTH, D_FF = 64, 192
BLOCK = BlockConfig(d_model=WIDTH, num_heads=4, d_ff=D_FF, activation="relu")
FEED_FORWARDS = {
    "ReLU": BLOCK,
    "GELU": replace(BLOCK, activation="gelu"),
    "SwiGLU": replace(BLOCK, activation="swiglu", d_ff=gated_width(D_FF)),
}


@dataclass(frozen=True)
class Plan:
    """How to train. warm_up: steps in which the learning rate rises from zero; 0 starts at the full rate."""

    steps: int = 600
    warm_up: int = 0
    learning_rate: float = 3e-3
    num_layers: int = 6
    batch: int = 16
    length: int = 24
    seed: int = 0


@dataclass(frozen=True)
class Text:
    """names: the vocabulary; the first stands for words that training never saw. The rest: word ids, (n,)."""

    names: tuple[str, ...]
    train: Tensor
    held_out: Tensor


@cache
def read_text(train_stories: int = 1500, held_out_stories: int = 300) -> Text:
    """Stories of the story world as one stream of word ids, for training and held out."""
    words = list(_words("train", train_stories))
    names = ("‹new›", *sorted(set(words)))
    ids = {word: index for index, word in enumerate(names)}
    held_out = [ids.get(word, 0) for word in _words("test", held_out_stories)]
    return Text(names, torch.tensor([ids[word] for word in words]), torch.tensor(held_out))


def _words(split: str, count: int) -> Iterator[str]:
    for story in islice(story_world.stories(seed=8, split=split), count):
        for sentence in story.sentences:
            yield from (word.lower() for word in sentence.words)


class LanguageModel(nn.Module):
    """Word and position vectors, a causal stack of blocks, and a layer that predicts each next word."""

    def __init__(self, config: BlockConfig, num_layers: int, vocabulary_size: int, length: int) -> None:
        super().__init__()
        self.word = nn.Embedding(vocabulary_size, config.d_model)
        self.position = nn.Embedding(length, config.d_model)
        self.stack = TransformerStack(config, num_layers)
        self.predict = nn.Linear(config.d_model, vocabulary_size)
        nn.init.normal_(self.position.weight, std=0.1)
        for weight in self.stack.parameters():
            if weight.dim() == 2:  # as in 2017, and in torch's own Transformer
                nn.init.xavier_uniform_(weight)

    def forward(self, ids: Tensor) -> Tensor:
        """(b, t) → logits (b, t, vocabulary)."""
        position = torch.arange(ids.shape[1], device=ids.device)
        mask = causal_mask(ids.shape[1], device=ids.device)
        return self.predict(self.stack(self.word(ids) + self.position(position), mask=mask).hidden_states)


def windows(stream: Tensor, starts: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The `length` words from each start, and for each the next one: (b, length) twice."""
    ids = stream[starts[:, None] + torch.arange(length + 1)]
    return ids[:, :-1], ids[:, 1:]


def next_word_loss(model: nn.Module, ids: Tensor, targets: Tensor) -> Tensor:
    """Mean loss in nats per word."""
    return F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())


def train(
    config: BlockConfig,
    plan: Plan,
    device: torch.device | str = "cpu",
    progress: bool = False,
    observe: Callable[[int, LanguageModel], object] | None = None,
) -> tuple[LanguageModel, list[float]]:
    """A trained language model, and its training loss at every step in nats per word.

    observe: called with the step's number and the model before every step, to measure what it likes.
    """
    text = read_text()
    torch.manual_seed(plan.seed)
    model = LanguageModel(config, plan.num_layers, len(text.names), plan.length).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=plan.learning_rate, betas=(0.9, 0.98))
    generator, losses = torch.Generator().manual_seed(plan.seed), []
    for step in tqdm(range(plan.steps), desc=config.order, disable=not progress):
        if observe is not None:
            observe(step, model)
        for group in optimizer.param_groups:
            group["lr"] = plan.learning_rate * min(1.0, (step + 1) / max(1, plan.warm_up))
        starts = torch.randint(len(text.train) - plan.length, (plan.batch,), generator=generator)
        ids, targets = windows(text.train, starts, plan.length)
        loss = next_word_loss(model, ids.to(device), targets.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, losses


@torch.no_grad()
def held_out_loss(model: LanguageModel, plan: Plan, device: torch.device | str = "cpu") -> float:
    """Loss on stories that training never saw, in nats per word."""
    stream = read_text().held_out
    starts = torch.arange(0, len(stream) - plan.length, plan.length)
    ids, targets = windows(stream, starts, plan.length)
    return next_word_loss(model.eval(), ids.to(device), targets.to(device)).item()


def averaged(losses: list[float], every: int = 20) -> list[float]:
    """The mean of each run of `every` steps."""
    return [round(sum(losses[i : i + every]) / every, 4) for i in range(0, len(losses), every)]


def load_curves() -> dict[str, Any]:
    """What this recipe measured: "orders" and "feed_forwards", each by name and then by kind, a list of runs.

    A run holds the seed, "losses" (the mean of every 20 steps) and "held_out".
    """
    return json.loads(CURVES.read_text(encoding="utf-8"))


def _runs(config: BlockConfig, plan: Plan, seeds: int) -> list[dict[str, Any]]:
    runs = []
    for seed in range(seeds):
        own = replace(plan, seed=seed)
        model, losses = train(config, own, progress=True)
        held_out = round(held_out_loss(model, own), 4)
        runs.append({"seed": seed, "losses": averaged(losses), "held_out": held_out})
    return runs


def main(warm_up: int = 150, seeds: int = 3) -> None:
    """Train everything and write the curves."""
    torch.set_num_threads(1)
    plan, slow = Plan(), Plan(warm_up=warm_up)
    measured = {
        "plan": asdict(plan) | {"warm_up": warm_up},
        "orders": {
            order: {
                "no warm-up": _runs(replace(BLOCK, order=order), plan, seeds),
                "warm-up": _runs(replace(BLOCK, order=order), slow, seeds),
            }
            for order in ORDERS
        },
        "feed_forwards": {
            name: {"warm-up": _runs(block, slow, seeds)} for name, block in FEED_FORWARDS.items()
        },
    }
    CURVES.parent.mkdir(exist_ok=True)
    CURVES.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
