"""Chapter 17's measurements: chapter 13's storyteller is adapted to smaller worlds, wholly and by LoRA.

    python -m course_lib.recipes.low_rank

adapts it about fifty times, ten minutes on one core, and writes what was measured into
`data/17_low_rank.json`. The lesson runs a few of these by itself. "gap" is how much more than the least
possible loss a model has on stories that it was never told, nats a word: of the test split, but in the tables
of rates, by which rates were chosen, of the validation split.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from course_lib.data import story_world
from course_lib.data.story_world import WorldConfig
from course_lib.peft.lora import LoRAConfig, add_adapter, trainable_table
from course_lib.peft.quantize import quantize_linears
from course_lib.recipes.gpt import StoryRows, Storyteller, load_storyteller
from course_lib.training import History, TrainConfig, train
from course_lib.training.language_model import next_token_loss

MEASURED = Path(__file__).parent / "data" / "17_low_rank.json"
LINEARS = ("query_key_value", "output", "up", "down")  # the four matrices of a block
# The world that the storyteller knows, and two parts of it that are told as if there were nothing else.
WORLDS = {
    "all": WorldConfig(),
    "sea": WorldConfig(
        people=("Anna", "Leo", "Mia"),
        animals=("crab", "seagull", "turtle"),
        places=("beach", "harbour", "lighthouse", "jetty"),
    ),
    "farm": WorldConfig(
        people=("Tom", "Rosa", "Felix"),
        animals=("dog", "goose", "duck"),
        places=("barn", "stable", "field", "meadow", "farmyard"),
    ),
}
TOLD, ROWS = 1_500, 8  # stories of a world that are told, and rows in a batch
FULL_RATES, LORA_RATE = (3e-4, 1e-3), 3e-3
RANKS, SEEDS = (1, 2, 4, 8, 16, 64), (0, 1, 2)
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)


@dataclass(frozen=True)
class Way:
    """How a model is adapted. rank: None trains all weights. four_bits: the frozen base is in NF4."""

    rank: int | None = None
    alpha: float = 16.0
    targets: tuple[str, ...] = LINEARS
    rate: float = LORA_RATE
    steps: int = 100
    four_bits: bool = False
    seed: int = 0

    def prepare(self, model: nn.Module, name: str = "default") -> nn.Module:
        """Set free what is to be trained, and freeze the rest."""
        if self.four_bits:
            quantize_linears(model, LINEARS)
        if self.rank is not None:
            torch.manual_seed(self.seed)
            add_adapter(model, LoRAConfig(self.targets, rank=self.rank, alpha=self.alpha), name)
        return model


@cache
def rows_of(world: str, seed: int = 0) -> StoryRows:
    """Batches of stories of a world, of the training split."""
    told = story_world.stories(seed=0, split="train", config=WORLDS[world], count=TOLD)
    teller = base()
    return StoryRows(
        [teller.vocabulary.encode(story.words) for story in told], teller.model.config.context, ROWS, seed
    )


@cache
def base() -> Storyteller:
    """Chapter 13's storyteller, which nobody may change: adapt a copy."""
    return load_storyteller()


def fit(
    model: nn.Module, world: str, way: Way, *, device: torch.device | str = "cpu", progress: bool = False
) -> History:
    """Train what is set free in a model on stories of a world."""
    plan = TrainConfig(way.steps, way.rate, warmup=5, schedule="linear", seed=way.seed, device=str(device))
    return train(model, rows_of(world, way.seed), next_token_loss, plan, progress=progress)


@cache
def adapted(
    world: str, way: Way, *, device: torch.device | str = "cpu", progress: bool = False
) -> Storyteller:
    """The storyteller, adapted to a world; the same one when it is asked for again."""
    model = way.prepare(copy.deepcopy(base().model)).to(device)
    fit(model, world, way, device=device, progress=progress)
    return Storyteller(model.eval(), base().vocabulary)  # type: ignore[arg-type]


@cache
def unseen(world: str, count: int, split: str) -> tuple[list[tuple[str, ...]], float, int]:
    """Stories of a split: their words, the log-probability of all, and how many words they have."""
    told = list(story_world.stories(seed=1, split=split, config=WORLDS[world], count=count))
    words = [tuple(story.words) for story in told]
    return words, math.fsum(story.log_probability for story in told), sum(len(story) + 1 for story in words)


def gap(teller: Storyteller, world: str, count: int = 150, split: str = "test") -> float:
    """How far a teller is from the least possible loss on a world's stories, nats a word."""
    words, exact, size = unseen(world, count, split)
    parts = (teller.log_probabilities(words[first : first + 50]) for first in range(0, count, 50))
    return (exact - sum(float(logs.sum()) for part in parts for logs in part)) / size


def measure(way: Way, world: str = "sea", split: str = "test") -> dict[str, Any]:
    """What a way of adapting reaches on its world, and what it leaves of all others."""
    teller = adapted(world, way)
    table = trainable_table(teller.model)
    return asdict(way) | {
        "gap": round(gap(teller, world, split=split), 4),
        "forgotten": round(gap(teller, "all", split=split), 4),
        "trained": table.trained_numbers,
        "bytes": table.bytes,
        "training_bytes": table.training_bytes,
    }


def ways() -> Iterator[tuple[str, Way]]:
    """All that is measured, each under the name of its table."""
    for seed in SEEDS:
        for rate in FULL_RATES:
            yield "full", Way(rate=rate, seed=seed)
        for rank in RANKS:
            yield "ranks", Way(rank, 2.0 * rank, seed=seed)
    for rank in RANKS:
        yield "alpha fixed", Way(rank, 16.0)
    for rate in RATES:
        yield "rates, LoRA", Way(8, 16.0, rate=rate)
        yield "rates, full", Way(rate=rate)
    # About as many trained numbers each: 8,192 in a block.
    for targets, rank in (
        (("query_key_value",), 16),
        (("output",), 32),
        (("up",), 13),
        (("down",), 13),
        (("query_key_value", "output"), 11),
        (("up", "down"), 6),
        (LINEARS, 4),
    ):
        yield "targets", Way(rank, 2.0 * rank, targets)
    for rank in (1, 8, 64):
        yield "four bits", Way(rank, 2.0 * rank, four_bits=True)


def load_measured() -> dict[str, Any]:
    """What the recipe measured: "before" for each world, and a list of measurements for each table."""
    return json.loads(MEASURED.read_text(encoding="utf-8"))


def main() -> None:
    """Adapt, measure and write."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {"before": {world: round(gap(base(), world), 4) for world in WORLDS}}
    for table, way in tqdm(list(ways())):
        split = "valid" if table.startswith("rates") else "test"
        found.setdefault(table, []).append(measure(way, split=split))
    MEASURED.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
