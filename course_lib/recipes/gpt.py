"""Chapter 13's GPT: it reads stories of the story world word by word, and how it was made.

    python -m course_lib.recipes.gpt [--stories 120000] [--steps 3000]

trains it, twenty minutes on one core, and writes the weights into `data/13_gpt.safetensors` and what was
measured into the JSON beside them. The exact probability of every story is known: "gap" is how much more than
the least possible loss the model has on stories of the test split, nats a word. A run that is interrupted
goes on where it was, from a checkpoint beside them that is deleted at the end.

Axes: n stories, b rows in a batch, t tokens in a row.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from course_lib.data import story_world
from course_lib.data.translation.vocabulary import END, PAD, SPECIAL_TOKENS, Vocabulary
from course_lib.device import set_seed
from course_lib.generation import generate
from course_lib.models.gpt import GPT, MODERN, GPTConfig
from course_lib.training import History, TrainConfig, train
from course_lib.training.language_model import next_token_loss

DATA = Path(__file__).parent / "data"
WEIGHTS, MEASURED = DATA / "13_gpt.safetensors", DATA / "13_gpt.json"
CONFIG = GPTConfig(
    vocab_size=len(SPECIAL_TOKENS), context=128, d_model=128, num_layers=4, num_heads=4, **MODERN
)
PLAN = TrainConfig(
    steps=2_600,
    learning_rate=3e-3,
    optimizer="muon",
    weight_decay=0.05,
    betas=(0.9, 0.95),
    eps=1e-8,
    warmup=50,
    schedule="linear",
    checkpoint_every=100,
)
ROWS = 32  # in a batch


@dataclass
class Storyteller:
    """A trained model with its vocabulary. A story is read and written behind the end of another."""

    model: GPT
    vocabulary: Vocabulary

    @torch.no_grad()
    def log_probabilities(self, stories: Sequence[Sequence[str]]) -> list[Tensor]:
        """log p of every word of each story and of its end, given all before: one (words + 1,) a story."""
        rows = [torch.tensor([END, *self.vocabulary.encode(words, end=True)]) for words in stories]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)
        device = next(self.model.parameters()).device
        logs = self.model.eval()(ids[:, :-1].to(device)).logits.log_softmax(dim=-1).cpu()
        found = logs.gather(-1, ids[:, 1:, None])[..., 0]
        return [found[row, : len(words) + 1] for row, words in enumerate(stories)]

    def tell(self, count: int, beginning: Sequence[str] = (), *, seed: int = 0, **options: Any) -> list[str]:
        """Written texts of `count` stories that begin with the given words; options as in `generate`."""
        device = next(self.model.parameters()).device
        start = torch.tensor([[END, *self.vocabulary.encode(beginning)]], device=device).expand(count, -1)
        room = self.model.config.context - start.shape[1]
        chosen: dict[str, Any] = {
            "temperature": 1.0,
            "generator": torch.Generator(device).manual_seed(seed),
        } | options
        rows = generate(self.model, start, room, **chosen)[:, 1:].tolist()
        return [story_world.join_words(self.vocabulary.decode(row)) for row in rows]


class StoryRows:
    """Batches of rows that begin with an end and hold whole stories, the last one cut off; (b, t) each.

    Every epoch takes each row once, in an order of its own.
    """

    def __init__(self, stories: Iterable[Sequence[int]], context: int, batch: int, seed: int = 0) -> None:
        rows: list[list[int]] = [[]]
        for ids in stories:
            if len(rows[-1]) > context:
                rows.append([])
            rows[-1] += [END, *ids] if not rows[-1] else [*ids]
            rows[-1] += [END]
        full = [row[: context + 1] for row in rows if len(row) > context]
        if len(full) < batch:
            raise ValueError(f"{len(full)} rows of stories make no batch of {batch}; give more stories")
        self.ids, self.size, self.seed = torch.tensor(full), batch, seed

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """The inputs and the targets of a step."""
        in_epoch = len(self.ids) // self.size
        order = np.random.default_rng((self.seed, step // in_epoch)).permutation(len(self.ids))
        first = step % in_epoch * self.size
        rows = self.ids[torch.from_numpy(order[first : first + self.size])]
        return rows[:, :-1], rows[:, 1:]


def train_storyteller(
    count: int, config: GPTConfig = CONFIG, plan: TrainConfig = PLAN, *, progress: bool = True
) -> tuple[Storyteller, History]:
    """A model of so many stories of the training split. config: its vocabulary's size is filled in."""
    told = [story.words for story in story_world.stories(seed=0, split="train", count=count)]
    vocabulary = Vocabulary.of(told)
    batches = StoryRows((vocabulary.encode(words) for words in told), config.context, ROWS, plan.seed)
    set_seed(plan.seed)
    model = GPT(replace(config, vocab_size=len(vocabulary)))
    history = train(model, batches, next_token_loss, plan, progress=progress)
    return Storyteller(model, vocabulary), history


def measure(teller: Storyteller, count: int = 2_000, split: str = "test") -> dict[str, float]:
    """On so many stories of a split, nats a word: "loss", "exact" (the least possible), and their "gap"."""
    told = list(story_world.stories(seed=1, split=split, count=count))
    ours = sum(
        -float(logs.sum())
        for first in range(0, count, 100)
        for logs in teller.log_probabilities([story.words for story in told[first : first + 100]])
    )
    exact = -math.fsum(story.log_probability for story in told)
    words = sum(len(story.words) + 1 for story in told)
    return {"loss": ours / words, "exact": exact / words, "gap": (ours - exact) / words}


def save_storyteller(teller: Storyteller, path: Path = WEIGHTS) -> None:
    """Weights in 16 bits, sizes and vocabulary in one file."""
    about = {
        "config": json.dumps(asdict(teller.model.config)),
        "tokens": json.dumps(teller.vocabulary.tokens, ensure_ascii=False),
    }
    state = {name: tensor.half().contiguous() for name, tensor in teller.model.state_dict().items()}
    save_file(state, path, metadata=about)


def load_storyteller(path: Path = WEIGHTS) -> Storyteller:
    """The trained model, on the CPU, in 32 bits."""
    with safe_open(path, framework="pt") as stored:
        about: dict[str, str] = stored.metadata()
        state = {name: stored.get_tensor(name).float() for name in stored.keys()}  # noqa: SIM118
    model = GPT(GPTConfig(**json.loads(about["config"])))
    model.load_state_dict(state)
    return Storyteller(model.eval(), Vocabulary(tuple(json.loads(about["tokens"]))))


def load_measured() -> dict[str, Any]:
    """What the recipe measured: "steps" and "losses" of the training, and "test", as `measure` has it."""
    return json.loads(MEASURED.read_text(encoding="utf-8"))


def main() -> None:
    """Train the model and measure it."""
    parser = argparse.ArgumentParser(description="Train chapter 13's GPT on stories.")
    parser.add_argument("--stories", type=int, default=120_000)
    parser.add_argument("--steps", type=int, default=PLAN.steps)
    given = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint = DATA / "13_gpt.checkpoint"
    plan = replace(PLAN, steps=given.steps, checkpoint=checkpoint)
    teller, history = train_storyteller(given.stories, plan=plan)
    save_storyteller(teller)
    teller = load_storyteller()
    steps, losses = history.smoothed()
    made_by = {"stories": given.stories, "steps": given.steps}
    rounded = {"steps": steps, "losses": [round(loss, 4) for loss in losses]}
    measured = made_by | rounded | {"test": measure(teller)}
    MEASURED.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    checkpoint.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
