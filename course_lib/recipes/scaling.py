"""Chapter 13's scaling law: models of five sizes, each trained on four amounts of stories.

    python -m course_lib.recipes.scaling

trains them, some ten minutes on one core, and writes `data/13_scaling.json`. Every model reads each of its
tokens once. The least possible loss is known, and need not be fitted with the rest: the law is of the gap,

    gap(N, D) = A / N^alpha + B / D^beta        N parameters without embeddings, D tokens read
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from tqdm.auto import tqdm

from course_lib.data import story_world
from course_lib.data.translation.vocabulary import Vocabulary
from course_lib.device import set_seed
from course_lib.models.gpt import GPT
from course_lib.recipes.gpt import CONFIG, PLAN, StoryRows, Storyteller, measure
from course_lib.training import train
from course_lib.training.language_model import next_token_loss
from course_lib.viz.building import is_building

MEASURED = Path(__file__).parent / "data" / "13_scaling.json"
WIDTHS = (16, 24, 40, 64, 96)
STEPS = (240, 480, 960, 1920)
ROWS, CONTEXT, LAYERS, HEADS = 8, 96, 2, 2


@dataclass(frozen=True)
class Law:
    """gap = a / parameters ** alpha + b / tokens ** beta, nats a word."""

    a: float
    alpha: float
    b: float
    beta: float

    def __call__(self, parameters: Any, tokens: Any) -> Any:
        """The gap that the law foretells."""
        return self.a / np.asarray(parameters) ** self.alpha + self.b / np.asarray(tokens) ** self.beta


def fit_law(parameters: ArrayLike, tokens: ArrayLike, gaps: ArrayLike) -> Law:
    """The law with the least squared error of the gap's logarithm.

    For each pair of exponents on a grid the two factors follow from least squares of the relative error; the
    best pair is taken, and the grid made finer around it three times.
    """
    n, d, y = (np.asarray(values, dtype=float) for values in (parameters, tokens, gaps))
    centre, width, best = (0.5, 0.5), 0.5, (np.inf, Law(0, 0, 0, 0))
    for _ in range(4):
        for alpha in np.linspace(centre[0] - width, centre[0] + width, 21):
            for beta in np.linspace(centre[1] - width, centre[1] + width, 21):
                terms = np.stack([n**-alpha, d**-beta], axis=1)
                factors = np.linalg.lstsq(terms / y[:, None], np.ones_like(y), rcond=None)[0]
                if (factors <= 0).any():
                    continue
                error = float(np.square(np.log(terms @ factors / y)).mean())
                if error < best[0]:
                    best = (error, Law(float(factors[0]), float(alpha), float(factors[1]), float(beta)))
        centre, width = (best[1].alpha, best[1].beta), width / 5
    return best[1]


def inner_parameters(model: GPT) -> int:
    """Parameters without the embedding and the head, as Kaplan et al. 2020 count them."""
    return sum(p.numel() for name, p in model.named_parameters() if name.startswith("blocks"))


def train_all(
    widths: Sequence[int] = WIDTHS, steps: Sequence[int] = STEPS, held_out: int = 600
) -> list[dict[str, float]]:
    """One entry a run: "width", "parameters", "tokens", and "loss", "exact", "gap" as `measure` has them."""
    most = max(steps) * ROWS
    told = [story.words for story in story_world.stories(seed=13, split="train", count=3 * most)]
    vocabulary = Vocabulary.of(told)
    rows = StoryRows((vocabulary.encode(words) for words in told), CONTEXT, ROWS)
    if len(rows.ids) < most:
        raise ValueError(f"{len(told)} stories make {len(rows.ids)} rows; {most} are to be read")
    found = []
    for width in tqdm(widths, disable=is_building()):
        config = replace(
            CONFIG,
            vocab_size=len(vocabulary),
            context=128,
            d_model=width,
            num_layers=LAYERS,
            num_heads=HEADS,
        )
        for count in steps:
            set_seed(0)
            model = GPT(config)
            plan = replace(PLAN, steps=count, warmup=20)
            train(model, rows, next_token_loss, plan, progress=False)
            entry = {"width": width, "parameters": inner_parameters(model), "tokens": count * ROWS * CONTEXT}
            found.append(entry | measure(Storyteller(model, vocabulary), held_out))
    return found


def load_measured() -> list[dict[str, float]]:
    """What `train_all` returned when the recipe was run."""
    return json.loads(MEASURED.read_text(encoding="utf-8"))


def main() -> None:
    """Train all models and keep what was measured."""
    torch.set_num_threads(1)
    MEASURED.write_text(json.dumps(train_all(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
