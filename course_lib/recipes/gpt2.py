"""GPT-2 with 124 million parameters from nothing, on one GPU or on many, with the loop of all chapters.

    python -m course_lib.recipes.gpt2 prepare book.txt news.txt --tokenizer gpt2 --into tokens
    torchrun --standalone --nproc_per_node=8 -m course_lib.recipes.gpt2 train tokens --checkpoint run.pt

`prepare` cuts texts into tokens and writes `train.bin` and `validation.bin`, 16 bits a token. `train` reads
them; without `torchrun` it uses one device. The batch is the same on any number of GPUs, half a million
tokens, and so are the losses. A run that is stopped goes on where its checkpoint was written. The plan is
that of GPT-3's smallest model (Brown et al. 2020, table 2.1), which has this shape: 19,073 steps read ten
billion tokens. `--size tiny --steps 20 --device cpu` tries it all out in a minute.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from course_lib.device import set_seed
from course_lib.hub import load_tokenizer, save_pretrained
from course_lib.models.gpt import GPT, GPTConfig
from course_lib.tokenizers.base import Tokenizer
from course_lib.training import History, TrainConfig, train
from course_lib.training.language_model import next_token_loss, text_loss

CONFIG = GPTConfig(activation="gelu_tanh")
BATCH = 512  # windows of 1,024 tokens
PLAN = TrainConfig(
    steps=19_073,
    learning_rate=6e-4,
    betas=(0.9, 0.95),
    eps=1e-8,
    weight_decay=0.1,
    warmup=715,
    schedule="cosine",
    accumulate=32,
    dtype="auto",
    evaluate_every=250,
    checkpoint_every=250,
)
TINY = replace(CONFIG, context=64, d_model=64, num_layers=2, num_heads=2)


@dataclass(frozen=True)
class TokenFile:
    """Batches of windows of a file of tokens, which stays on the disk; (b, t) inputs and targets."""

    path: Path
    context: int
    size: int
    seed: int = 0

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """The windows of a step begin anywhere; the same step always has the same ones."""
        tokens = np.memmap(self.path, dtype=np.uint16, mode="r")
        random = np.random.default_rng((self.seed, step))
        starts = random.integers(len(tokens) - self.context, size=self.size)
        windows = np.stack([tokens[first : first + self.context + 1] for first in starts])
        ids = torch.from_numpy(windows.astype(np.int64))
        return ids[:, :-1], ids[:, 1:]


def prepare(paths: Iterable[Path], tokenizer: Tokenizer, into: Path, held_out: float = 0.005) -> None:
    """Write the tokens of texts, one after the other, into two files; the last share of each is held out.

    Raises ValueError for a vocabulary that 16 bits cannot count.
    """
    if tokenizer.vocab_size > 2**16:
        raise ValueError(f"a vocabulary of {tokenizer.vocab_size} does not fit into 16 bits a token")
    into.mkdir(parents=True, exist_ok=True)
    with (into / "train.bin").open("wb") as learned, (into / "validation.bin").open("wb") as kept:
        for path in paths:
            ids = np.asarray(tokenizer.encode(path.read_text(encoding="utf-8")), dtype=np.uint16)
            cut = round(len(ids) * (1 - held_out))
            ids[:cut].tofile(learned)
            ids[cut:].tofile(kept)


def train_gpt2(
    folder: Path, config: GPTConfig = CONFIG, plan: TrainConfig = PLAN, batch: int = BATCH
) -> tuple[GPT, History]:
    """A model of the texts that were prepared in a folder."""
    kept = torch.from_numpy(np.fromfile(folder / "validation.bin", dtype=np.uint16).astype(np.int64))

    def evaluate(model: GPT) -> dict[str, float]:
        return {
            "validation loss": text_loss(model, kept[: 200 * config.context + 1], config.context, batch=8)
        }

    set_seed(plan.seed)
    model = GPT(config)
    data = TokenFile(folder / "train.bin", config.context, batch, plan.seed)
    return model, train(model, data, next_token_loss, plan, evaluate=evaluate)


def main() -> None:
    """Prepare texts, or train on them."""
    parser = argparse.ArgumentParser(description="Train GPT-2 124M on one or many GPUs.")
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("prepare")
    making.add_argument("texts", type=Path, nargs="+")
    making.add_argument("--tokenizer", default="gpt2", help="a published name, or a folder")
    making.add_argument("--into", type=Path, required=True)
    training = commands.add_parser("train")
    training.add_argument("folder", type=Path)
    training.add_argument("--size", choices=("124M", "tiny"), default="124M")
    training.add_argument("--steps", type=int, default=PLAN.steps)
    training.add_argument("--device", default="auto")
    training.add_argument("--checkpoint", type=Path)
    training.add_argument("--save", type=Path, help="a folder for the model, as transformers reads it")
    given = parser.parse_args()
    if given.command == "prepare":
        prepare(given.texts, load_tokenizer(given.tokenizer), given.into)
        return
    config, batch, accumulate = (CONFIG, BATCH, PLAN.accumulate) if given.size == "124M" else (TINY, 8, 1)
    plan = replace(
        PLAN,
        steps=given.steps,
        warmup=min(PLAN.warmup, given.steps // 10),
        accumulate=accumulate,
        device=given.device,
        checkpoint=given.checkpoint,
    )
    model, history = train_gpt2(given.folder, config, plan, batch)
    if history.evaluations:  # of process 0
        print(f"validation loss {history.evaluations[-1]['validation loss']:.3f} nats a token")
        if given.save is not None:
            save_pretrained(model, given.save)


if __name__ == "__main__":
    main()
