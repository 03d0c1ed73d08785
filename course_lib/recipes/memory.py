"""Chapter 01's curves: how long a recurrent network can remember, on one copy task.

    python -m course_lib.recipes.memory

trains 72 small networks, which takes about a quarter of an hour on one core, and writes the curves beside
this file, into `data/01_memory.json`. The lesson trains two of them.

The task: two symbols out of eight, then `delay` blanks, then a sign to go; now the two symbols are to be
said, in order. Whoever has forgotten them is right one time in eight.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from course_lib.models.recurrent import GRU, LSTM, RNN

CURVES = Path(__file__).parent / "data" / "01_memory.json"
SYMBOLS, COPIED = 8, 2
BLANK, GO = SYMBOLS, SYMBOLS + 1
WIDTH = 64
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "RNN": lambda: RNN(16, WIDTH),
    "GRU": lambda: GRU(16, WIDTH),
    "LSTM": lambda: LSTM(16, WIDTH),
    "LSTM, forget bias 3": lambda: LSTM(16, WIDTH, forget_bias=3.0),
}
DELAYS = (2, 5, 10, 20, 40, 80)
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Plan:
    """How to train: the same for every kind of layer."""

    delay: int
    steps: int = 1500
    learning_rate: float = 3e-3
    batch: int = 32
    clip: float = 1.0
    seed: int = 0


class Memory(nn.Module):
    """A recurrent layer between a table of vectors and a linear map to the symbols."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.embedding = nn.Embedding(SYMBOLS + 2, 16)
        self.layer = LAYERS[kind]()
        self.head = nn.Linear(WIDTH, SYMBOLS)

    def forward(self, ids: Tensor) -> Tensor:
        """(b, t) → scores of the symbols at the last two places, (b, 2, 8)."""
        outputs, _ = self.layer(self.embedding(ids))
        return self.head(outputs[:, -COPIED:])


def copy_task(count: int, delay: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sequences (count, 2 + delay + 2) of ids, and the symbols that they begin with, (count, 2)."""
    symbols = torch.randint(SYMBOLS, (count, COPIED), generator=generator)
    ids = torch.full((count, COPIED + delay + COPIED), BLANK)
    ids[:, :COPIED] = symbols
    ids[:, COPIED + delay] = GO
    return ids, symbols


def train(kind: str, plan: Plan, *, progress: bool = False) -> tuple[Memory, list[float]]:
    """A network trained on fresh sequences, and its loss at every step."""
    torch.manual_seed(plan.seed)
    model, generator = Memory(kind), torch.Generator().manual_seed(plan.seed)
    optimizer = torch.optim.Adam(model.parameters(), plan.learning_rate)
    losses = []
    for _ in tqdm(range(plan.steps), desc=f"{kind}, delay {plan.delay}", disable=not progress):
        ids, symbols = copy_task(plan.batch, plan.delay, generator)
        loss = F.cross_entropy(model(ids).flatten(0, 1), symbols.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), plan.clip)
        optimizer.step()
        losses.append(loss.item())
    return model, losses


@torch.no_grad()
def accuracy(model: Memory, delay: int, count: int = 500) -> float:
    """The share of symbols that are right, on sequences of another seed than any training."""
    ids, symbols = copy_task(count, delay, torch.Generator().manual_seed(10_000))
    return (model(ids).argmax(dim=-1) == symbols).double().mean().item()


def averaged(losses: list[float], every: int = 50) -> list[float]:
    """The mean of each run of `every` losses, to four digits."""
    return [round(sum(losses[i : i + every]) / every, 4) for i in range(0, len(losses), every)]


def load_curves() -> dict[str, Any]:
    """What `main` wrote: for each kind and delay, a list of runs with seed, accuracy and losses."""
    return json.loads(CURVES.read_text(encoding="utf-8"))


def main() -> None:
    """Train all kinds at all delays with all seeds, and write the curves."""
    kinds: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for kind in LAYERS:
        for delay in DELAYS:
            for seed in SEEDS:
                plan = Plan(delay, seed=seed)
                model, losses = train(kind, plan, progress=True)
                run = {"seed": seed, "accuracy": round(accuracy(model, delay), 4), "losses": averaged(losses)}
                kinds.setdefault(kind, {}).setdefault(str(delay), []).append(run)
    plan_of_all = {name: value for name, value in asdict(Plan(0)).items() if name not in ("delay", "seed")}
    CURVES.write_text(json.dumps({"plan": plan_of_all, "kinds": kinds}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
