"""Chapter 07's reader: a small encoder that says what each pronoun means, and how its weights were made.

    python -m course_lib.recipes.heads

trains the reader of the lesson and then some relatives of it, a quarter of an hour on one core, and
writes the weights into `data/07_reader.safetensors` and what was measured into `data/07_variants.json`.

Axes: n windows, t words of a window, h heads, v words of the vocabulary.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from course_lib.data import story_world
from course_lib.data.story_world import Story
from course_lib.device import set_seed
from course_lib.layers.multi_head import MultiHeadAttention

DATA = Path(__file__).parent / "data"
READER, VARIANTS = DATA / "07_reader.safetensors", DATA / "07_variants.json"
PRONOUNS = ("he", "she", "it", "him", "her", "his")
PADDING, UNKNOWN = 0, 1
NOT_ASKED = -100  # what `F.cross_entropy` leaves out


# --- the text ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Window:
    """Some sentences of a story in small letters. antecedents: for a pronoun's place, its noun's place."""

    words: tuple[str, ...]
    antecedents: dict[int, int]

    def reasons(self) -> list[int]:
        """The places of pronouns as in "… because it was too tired": what follows says what they mean."""
        return [place for place in self.antecedents if self.words[place + 1 : place + 3] == ("was", "too")]


def read_windows(split: str, count: int, *, step: int = 1, sentences: int = 3, seed: int = 7) -> list[Window]:
    """Windows of neighbouring sentences that hold a pronoun and what it means, from `count` stories.

    step: how many sentences on the next window begins; as many as it has, and no two overlap.
    """
    told = islice(story_world.stories(seed=seed, split=split), count)
    return [window for story in told for window in _windows(story, step, sentences)]


def _windows(story: Story, step: int, sentences: int) -> Iterator[Window]:
    for first in range(0, max(1, len(story.sentences) - sentences + 1), step):
        part = story.sentences[first : first + sentences]
        start, stop = part[0].start, part[-1].start + len(part[-1].words)
        antecedents = {
            found.start - start: found.antecedent_end - 1 - start
            for found in story.coreference
            if start <= found.antecedent_start < found.start < stop
            and found.text.lower() in PRONOUNS
            and len(found.identities) == 1
        }
        if antecedents:
            yield Window(tuple(word.lower() for word in story.words[start:stop]), antecedents)


def vocabulary_of(windows: Iterable[Window]) -> tuple[str, ...]:
    """Padding, a stand-in for unknown words, and every word that occurs twice, the commonest first."""
    counts = Counter(word for window in windows for word in window.words)
    return ("‹pad›", "‹new›", *(word for word, count in counts.most_common() if count > 1))


def tables(windows: Sequence[Window], vocabulary: Sequence[str]) -> tuple[Tensor, Tensor]:
    """The words' ids, 0 for padding, and at each pronoun its noun's id, elsewhere NOT_ASKED: (n, t) both."""
    ids = {word: index for index, word in enumerate(vocabulary)}
    rows = [torch.tensor([ids.get(word, UNKNOWN) for word in window.words]) for window in windows]
    table = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PADDING)
    answers = torch.full_like(table, NOT_ASKED)
    for row, window in enumerate(windows):
        for place, noun in window.antecedents.items():
            answers[row, place] = table[row, noun]
    return table, answers


# --- the model ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReaderConfig:
    """Sizes of a reader. num_kv_heads: None for as many as num_heads. longest: words in a window."""

    vocabulary_size: int
    d_model: int = 64
    num_layers: int = 2
    num_heads: int = 4
    num_kv_heads: int | None = None
    longest: int = 48


class PronounReader(nn.Module):
    """Vectors for words and places, layers of attention that add what they find, and a guess at every word.

    Only the guesses at pronouns count: each is to be the noun or name that the pronoun stands for.
    """

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        width = config.d_model
        self.word = nn.Embedding(config.vocabulary_size, width)
        self.place = nn.Embedding(config.longest, width)
        self.layers = nn.ModuleList(
            MultiHeadAttention(width, config.num_heads, config.num_kv_heads) for _ in range(config.num_layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(config.num_layers + 1))
        self.guess = nn.Linear(width, config.vocabulary_size)

    def forward(self, ids: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(n, t) ids → logits (n, t, v), and the weights of each layer (n, h, t, t)."""
        mask = (ids != PADDING)[:, None, None, :]
        hidden_states = self.word(ids) + self.place(torch.arange(ids.shape[1], device=ids.device))
        weights = []
        for layer, norm in zip(self.layers, self.norms, strict=False):
            found, shares = layer(norm(hidden_states), mask=mask, return_weights=True)
            hidden_states = hidden_states + found
            weights.append(shares)
        return self.guess(self.norms[-1](hidden_states)), weights


@torch.no_grad()
def examine(reader: PronounReader, ids: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
    """For each pronoun that is asked about, in order: its loss in nats, and whether it is right: (m,)."""
    logits = torch.cat([reader(part)[0] for part in ids.split(256)])
    asked = answers != NOT_ASKED
    losses = F.cross_entropy(logits[asked], answers[asked], reduction="none")
    return losses, logits[asked].argmax(dim=-1) == answers[asked]


# --- training ----------------------------------------------------------------------------------


def train_reader(
    config: ReaderConfig, ids: Tensor, answers: Tensor, *, steps: int, seed: int
) -> PronounReader:
    """A reader trained on windows drawn at random, 64 a step, with Adam and a rate that rises and falls."""
    set_seed(seed)
    reader = PronounReader(config).to(ids.device)
    optimizer = torch.optim.Adam(reader.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in tqdm(
        range(steps), desc=f"{config.num_heads} heads, {config.num_kv_heads} for keys, seed {seed}"
    ):
        rows = torch.randint(len(ids), (64,), device=ids.device)
        length = int((ids[rows] != PADDING).sum(dim=1).max())
        logits, _ = reader(ids[rows, :length])
        loss = F.cross_entropy(logits.flatten(0, 1), answers[rows, :length].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return reader.eval()


def save_reader(reader: PronounReader, config: ReaderConfig, vocabulary: Sequence[str], path: Path) -> None:
    """Weights, sizes and vocabulary in one file."""
    about = {"config": json.dumps(asdict(config)), "vocabulary": json.dumps(vocabulary, ensure_ascii=False)}
    save_file(reader.state_dict(), path, metadata=about)


def load_reader(path: Path = READER) -> tuple[PronounReader, tuple[str, ...]]:
    """The trained reader, on the CPU, and its vocabulary."""
    with safe_open(path, framework="pt") as stored:
        about: dict[str, str] = stored.metadata()
        state = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    reader = PronounReader(ReaderConfig(**json.loads(about["config"])))
    reader.load_state_dict(state)
    return reader.eval(), tuple(json.loads(about["vocabulary"]))


def training_windows(stories: int = 50_000, plain: int = 25_000) -> list[Window]:
    """Windows to learn from: every one with a reason, "because it was too …", and some of the others."""
    windows = read_windows("train", stories)
    with_reason = [window for window in windows if window.reasons()]
    others = [window for window in windows if not window.reasons()]
    return with_reason + random.Random(0).sample(others, plain)


def measure(reader: PronounReader, windows: Sequence[Window], vocabulary: Sequence[str]) -> dict[str, float]:
    """The loss and the share of right guesses, over all pronouns and over those of a reason."""
    losses, right = examine(reader, *tables(windows, vocabulary))
    reasons = torch.tensor(
        [place in window.reasons() for window in windows for place in sorted(window.antecedents)]
    )
    return {
        "loss": losses.mean().item(),
        "right": right.float().mean().item(),
        "loss_at_reasons": losses[reasons].mean().item(),
        "right_at_reasons": right[reasons].float().mean().item(),
    }


def main() -> None:
    """Train the lesson's reader and its relatives."""
    windows, held_out = training_windows(), read_windows("test", 6_000, step=3)
    vocabulary = vocabulary_of(windows)
    ids, answers = tables(windows, vocabulary)
    config = ReaderConfig(len(vocabulary))
    reader = train_reader(config, ids, answers, steps=3_000, seed=0)
    save_reader(reader, config, vocabulary, READER)
    found: dict[str, Any] = {"lesson": measure(reader, held_out, vocabulary), "steps": 1_500, "variants": []}
    for heads, kv_heads in ((1, 1), (2, 2), (4, 4), (4, 2), (4, 1)):
        for seed in (1, 2):
            config = ReaderConfig(len(vocabulary), num_heads=heads, num_kv_heads=kv_heads)
            reader = train_reader(config, ids, answers, steps=found["steps"], seed=seed)
            row = {"num_heads": heads, "num_kv_heads": kv_heads, "seed": seed}
            found["variants"].append(row | measure(reader, held_out, vocabulary))
            VARIANTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
