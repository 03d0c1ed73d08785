"""Chapter 02's translators: lists of numbers, with and without attention, and readers of dates and stories.

    python -m course_lib.recipes.seq2seq [curves] [dates] [sentences]

trains all of them, ten minutes on one calm core. What was measured on lists goes into `data/02_curves.json`;
the readers' weights, and what was measured on them, into `data/02_dates.safetensors` and
`data/02_sentences.safetensors`.

The task of the curves is the same at every length: numbers such as *eighty-three*, one after another, into
German, *drei und achtzig*. Every list is made of the same few words, so that nothing but its length is hard.

Axes: b pairs, s source and t target tokens, v words.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from course_lib.atomic import write_text
from course_lib.data.translation import BEGIN, END, PAD, LevelName, Pair, Vocabulary, pairs
from course_lib.device import set_seed
from course_lib.models.alignment import alignment_error_rate
from course_lib.models.seq2seq import SCORES, Seq2Seq, Seq2SeqConfig
from course_lib.training import History, Loss, TrainConfig, train

DATA = Path(__file__).parent / "data"
CURVES = DATA / "02_curves.json"
SEEDS = (0, 1, 2)
LONGEST = 8  # numbers of a list in the training of the curves
LENGTHS = tuple(range(1, LONGEST + 3))
WIDTHS = (32, 64, 128)  # of the decoder without attention; 64 is the width of all others


# --- data ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """source: (b, s). inputs, labels: (b, t), what the decoder reads, and what it is asked for."""

    source: Tensor
    inputs: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Words:
    """The words of both languages, as numbers."""

    source: Vocabulary
    target: Vocabulary

    @classmethod
    def of(cls, known: Iterable[Pair], min_count: int = 1) -> Words:
        """Those that occur at least `min_count` times."""
        known = list(known)
        sides = ((pair.source for pair in known), (pair.target for pair in known))
        return cls(*(Vocabulary.of(side, min_count) for side in sides))

    def batch(self, chosen: Sequence[Pair]) -> Batch:
        """The pairs as ids, padded at the right."""
        targets = [self.target.encode(pair.target) for pair in chosen]
        rows = (
            [self.source.encode(pair.source) for pair in chosen],
            [[BEGIN, *ids] for ids in targets],
            [[*ids, END] for ids in targets],
        )
        return Batch(*(_padded(side) for side in rows))


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    tensors = [torch.tensor(row) for row in rows]
    return nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=PAD)


@cache
def numbers(split: str) -> tuple[Pair, ...]:
    """The two-digit numbers that German says from behind: 54 in "train", and 16 others in "unseen"."""
    sizes = {"train": 7_960} if split == "train" else {"validation": 990, "test": 950}
    found = [
        pair
        for part, count in sizes.items()
        for pair in pairs("numbers", "en", "de", split=part, count=count)
    ]
    turned = [pair for pair in found if len(pair.source) == 3 and "und" in pair.target]
    return tuple(sorted(turned, key=lambda pair: pair.source))


def number_list(parts: Sequence[Pair]) -> Pair:
    """One number after another, as one pair."""
    links: set[tuple[int, int]] = set()
    sources: list[str] = []
    targets: list[str] = []
    for part in parts:
        links |= {(i + len(sources), j + len(targets)) for i, j in part.alignment}
        sources += part.source
        targets += part.target
    skeleton = " ".join(part.skeleton for part in parts)
    return Pair(tuple(sources), tuple(targets), frozenset(links), skeleton, "en", "de")


def number_lists(length: int, count: int, split: str = "unseen", seed: int = 0) -> list[Pair]:
    """`count` lists of `length` numbers, drawn at random."""
    draw, pool = random.Random(f"{split} {length} {seed}"), numbers(split)
    return [number_list(draw.choices(pool, k=length)) for _ in range(count)]


@dataclass(frozen=True)
class ListBatches:
    """Lists of one to `longest` numbers to train on, new ones at every step."""

    words: Words
    longest: int
    size: int = 32
    seed: int = 0

    def batch(self, step: int) -> Batch:
        """The batch of a step."""
        draw, pool = random.Random(f"{self.seed} {step}"), numbers("train")
        lengths = [draw.randint(1, self.longest) for _ in range(self.size)]
        return self.words.batch([number_list(draw.choices(pool, k=length)) for length in lengths])


@dataclass(frozen=True)
class PairBatches:
    """Pairs drawn from a fixed collection."""

    words: Words
    known: Sequence[Pair]
    size: int = 64

    def batch(self, step: int) -> Batch:
        """The batch of a step."""
        return self.words.batch(random.Random(step).sample(self.known, self.size))


# --- training and translating -------------------------------------------------------------------


def loss(model: Seq2Seq, batch: Batch) -> Loss:
    """Cross-entropy of each next word; padding does not count."""
    logits = model(batch.source, batch.inputs).logits  # (b, t, v)
    total = F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), ignore_index=PAD, reduction="sum")
    return Loss(total, (batch.labels != PAD).sum())


def train_translator(
    batches: ListBatches | PairBatches,
    attention: str = "additive",
    *,
    d_model: int = 64,
    steps: int = 400,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> tuple[Seq2Seq, History]:
    """A model trained with Adam and a learning rate that rises and falls, and how that went."""
    words = batches.words
    set_seed(seed)
    model = Seq2Seq(Seq2SeqConfig(len(words.source), len(words.target), 32, d_model, attention))
    plan = TrainConfig(
        steps, learning_rate=1e-2, warmup=steps // 10, schedule="cosine", seed=seed, device=str(device)
    )
    return model, train(model, batches, loss, plan)


@torch.no_grad()
def translate(model: Seq2Seq, words: Words, chosen: Sequence[Pair]) -> list[tuple[str, ...]]:
    """What the model writes for each source."""
    source = words.batch(chosen).source.to(next(model.parameters()).device)
    longest = 4 + max(len(pair.target) for pair in chosen)
    written = []
    for row in model.translate(source, max_length=longest).ids.tolist():
        ids = row[: row.index(END)] if END in row else [word for word in row if word != PAD]
        written.append(tuple(words.target.tokens[word] for word in ids))
    return written


@torch.no_grad()
def look(model: Seq2Seq, words: Words, chosen: Sequence[Pair]) -> list[Tensor]:
    """How the model looks at the source while it reads the right translation: (t, s) for each pair."""
    batch = words.batch(chosen)
    device = next(model.parameters()).device
    weights = model(batch.source.to(device), batch.inputs.to(device)).weights
    if weights is None:
        raise ValueError("a model without attention looks nowhere; train one with attention")
    return [table[: len(p.target), : len(p.source)].cpu() for table, p in zip(weights, chosen, strict=True)]


def quality(written: Sequence[Sequence[str]], chosen: Sequence[Pair]) -> float:
    """The share of places with the right word, of the longer of translation and reference; a mean."""
    shares = [
        sum(map(str.__eq__, words, pair.target)) / max(len(words), len(pair.target))
        for words, pair in zip(written, chosen, strict=True)
    ]
    return sum(shares) / len(shares)


def links_of(weights: Tensor) -> frozenset[tuple[int, int]]:
    """Each target word with the source word that it looks at most: (t, s) → (source, target) pairs."""
    return frozenset((source, target) for target, source in enumerate(weights.argmax(dim=1).tolist()))


def error_rate(weights: Sequence[Tensor], chosen: Sequence[Pair]) -> float:
    """The alignment error rate of the links of these tables, over all pairs together."""
    return alignment_error_rate(map(links_of, weights), [pair.alignment for pair in chosen])


def gold_share(weights: Sequence[Tensor], chosen: Sequence[Pair]) -> float:
    """The mean share of its attention that a target word with gold links gives to them."""
    shares = []
    for table, pair in zip(weights, chosen, strict=True):
        gold = torch.zeros_like(table)
        for source, target in pair.alignment:
            gold[target, source] = 1
        linked = gold.any(dim=1)
        shares.append((table * gold).sum(dim=1)[linked])
    return torch.cat(shares).mean().item()


# --- what ships with the course -----------------------------------------------------------------


def curves() -> dict[str, Any]:
    """What was measured on lists. "quality": by attention, a row for each seed and a column for each length.

    "widths": the same without attention, by the width of the model. "error rate" and "gold share": by
    attention, one number a seed, of the alignment of lists of four. "parameters": by attention.
    """
    measured: dict[str, Any] = json.loads(CURVES.read_text(encoding="utf-8"))
    return measured


def examine(model: Seq2Seq, words: Words, count: int = 100) -> list[float]:
    """The quality on `count` lists of each length, all of numbers that training never had."""
    found = []
    for length in LENGTHS:
        lists = number_lists(length, count)
        found.append(round(quality(translate(model, words, lists), lists), 4))
    return found


def measure_curves(steps: int = 400) -> None:
    """Train every kind with every seed, and write what they reach."""
    words, fours = Words.of(numbers("train")), number_lists(4, 100)
    found: dict[str, Any] = {"lengths": LENGTHS, "trained": LONGEST, "steps": steps}
    found |= {name: {} for name in ("quality", "widths", "error rate", "gold share", "parameters")}

    def run(attention: str, d_model: int, seed: int) -> Seq2Seq:
        batches = ListBatches(words, LONGEST, seed=seed)
        model, history = train_translator(batches, attention, d_model=d_model, steps=steps, seed=seed)
        print(f"{attention:>10} {d_model:>4} seed {seed}: loss {history.losses[-1]:.3f}", flush=True)
        return model

    for attention in ("none", *SCORES):
        models = [run(attention, 64, seed) for seed in SEEDS]
        found["quality"][attention] = [examine(model, words) for model in models]
        found["parameters"][attention] = sum(p.numel() for p in models[0].parameters())
        if attention != "none":
            tables = [look(model, words, fours) for model in models]
            found["error rate"][attention] = [round(error_rate(table, fours), 4) for table in tables]
            found["gold share"][attention] = [round(gold_share(table, fours), 4) for table in tables]
        write_text(CURVES, json.dumps(found) + "\n")
    found["widths"]["64"] = found["quality"]["none"]
    for width in (width for width in WIDTHS if width != 64):
        found["widths"][str(width)] = [examine(run("none", width, seed), words) for seed in SEEDS]
        write_text(CURVES, json.dumps(found) + "\n")


class Task(NamedTuple):
    """What a shipped translator was trained on: a level of `data.translation`, and how long."""

    level: LevelName
    target: str
    pairs: int
    steps: int
    d_model: int


TASKS = {
    "dates": Task("dates", "fr", 8_000, 600, 64),
    "sentences": Task("sentences", "fr", 12_000, 1_500, 96),
}


def train_reader(task: str) -> None:
    """Train a task's translator with two scores; write the weights of "additive", and how well both align."""
    about = TASKS[task]
    known = pairs(about.level, "en", about.target, count=about.pairs)
    words = Words.of(known, min_count=2)
    held_out = pairs(about.level, "en", about.target, split="test", count=500)
    measured: dict[str, dict[str, float]] = {}
    for attention in ("general", "additive"):
        model, history = train_translator(
            PairBatches(words, known), attention, d_model=about.d_model, steps=about.steps
        )
        tables = look(model, words, held_out)
        measured[attention] = {
            "quality": round(quality(translate(model, words, held_out), held_out), 4),
            "error rate": round(error_rate(tables, held_out), 4),
            "gold share": round(gold_share(tables, held_out), 4),
        }
        told = ", ".join(f"{name} {value:.3f}" for name, value in measured[attention].items())
        print(f"{task:>10} {attention:>10}: loss {history.losses[-1]:.3f}, {told}", flush=True)
    text = {
        "config": json.dumps(asdict(model.config)),
        "source": json.dumps(words.source.words, ensure_ascii=False),
        "target": json.dumps(words.target.words, ensure_ascii=False),
        "measured": json.dumps(measured),
    }
    save_file(model.state_dict(), weights_of(task), metadata=text)


def weights_of(task: str) -> Path:
    """The file with the weights of a task's translator."""
    return DATA / f"02_{task}.safetensors"


def load_reader(task: str) -> tuple[Seq2Seq, Words]:
    """The trained translator of a task, on the CPU, and its words."""
    with safe_open(weights_of(task), framework="pt") as stored:
        about: dict[str, str] = stored.metadata()
        state = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    model = Seq2Seq(Seq2SeqConfig(**json.loads(about["config"])))
    model.load_state_dict(state)
    special = Vocabulary.of([]).tokens
    sides = (Vocabulary((*special, *json.loads(about[side]))) for side in ("source", "target"))
    return model.eval(), Words(*sides)


def reader_measures(task: str) -> dict[str, dict[str, float]]:
    """What a task's translators reach on 500 unseen pairs: by score "quality", "error rate", "gold share"."""
    with safe_open(weights_of(task), framework="pt") as stored:
        found: dict[str, dict[str, float]] = json.loads(stored.metadata()["measured"])
    return found


def main(wanted: Sequence[str]) -> None:
    """Train what is named, all of it by default."""
    torch.set_num_threads(1)
    parts: dict[str, Callable[[], None]] = {"curves": measure_curves}
    parts |= {task: lambda task=task: train_reader(task) for task in TASKS}  # type: ignore[misc]
    for part in wanted or parts:
        parts[part]()


if __name__ == "__main__":
    main(sys.argv[1:])
