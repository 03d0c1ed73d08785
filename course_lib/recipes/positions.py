"""One small writer of stories with every positional scheme: trained on 64 words, read on 256.

    python -m course_lib.recipes.positions [SCHEME …]

trains the schemes, all by default, with each seed, one after another (about half a minute each on one calm
core), and writes the losses into `data/05_extrapolation.json` after each scheme. The lesson loads them, and
trains two of the schemes itself.

Axes: b batch, n positions, d width of the model.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.atomic import write_text
from course_lib.data import story_world
from course_lib.device import set_seed
from course_lib.layers.masks import causal_mask
from course_lib.layers.multi_head import MultiHeadAttention
from course_lib.layers.positions import (
    LearnedPositions,
    SinusoidalEncoding,
    binary_code,
    integer_code,
    unit_interval_code,
)
from course_lib.layers.relative import RelativeBias, ShawAttention, TransformerXLAttention, alibi_bias
from course_lib.layers.rotary import Rotary

RESULTS = Path(__file__).parent / "data" / "05_extrapolation.json"
SEEDS = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class Config:
    """trained: words of a window in training. read: words of a window in the test, four times as many.

    bin: neighbouring positions whose losses are averaged. stories, unseen: of the training and the test text.
    """

    d_model: int = 64
    num_heads: int = 4
    layers: int = 2
    trained: int = 64
    read: int = 256
    batch: int = 16
    steps: int = 800
    learning_rate: float = 3e-3
    windows: int = 256
    bin: int = 16
    stories: int = 4000
    unseen: int = 1500


# --- text ---------------------------------------------------------------------------------------------


@cache
def stream(split: str, stories: int) -> tuple[str, ...]:
    """The words of so many stories, one after another, each story closed by a mark."""
    told = islice(story_world.stories(seed=5, split=split), stories)
    return tuple(word for story in told for word in (*map(str.lower, story.words), "‹end›"))


@cache
def vocabulary(config: Config) -> dict[str, int]:
    """Ids of the words of the training stories; 0 is any other word."""
    return {word: index for index, word in enumerate(sorted(set(stream("train", config.stories))), 1)}


@cache
def text(split: str, config: Config) -> Tensor:
    """The ids of the training or the test stories' words."""
    ids = vocabulary(config)
    words = stream(split, config.stories if split == "train" else config.unseen)
    return torch.tensor([ids.get(word, 0) for word in words])


# --- model --------------------------------------------------------------------------------------------


class AddedCode(nn.Module):
    """Words plus a learned projection of a code of the position, (n, columns)."""

    def __init__(self, code: Callable[[int], Tensor], d_model: int) -> None:
        super().__init__()
        self.code = code
        self.project = nn.Linear(code(2).shape[-1], d_model)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(b, n, d) → (b, n, d)."""
        return hidden_states + self.project(self.code(hidden_states.shape[1]).to(hidden_states))


def added_to_words(scheme: str, config: Config) -> nn.Module:
    """What a scheme does to the words' vectors; nothing for those that work inside attention.

    "learned" gets a row for each position of the test, of which training reaches the first quarter.
    """
    d_model = config.d_model
    if scheme == "integer":
        return AddedCode(integer_code, d_model)
    if scheme == "unit interval":
        return AddedCode(unit_interval_code, d_model)
    if scheme == "binary":
        bits = (config.read - 1).bit_length()
        return AddedCode(lambda n: binary_code(n, bits), d_model)
    if scheme == "learned":
        return LearnedPositions(config.read, d_model)
    return SinusoidalEncoding(d_model, scale=1.0) if scheme == "sinusoidal" else nn.Identity()


def attention_of(scheme: str, config: Config) -> nn.Module:
    """The attention of one layer."""
    if scheme == "Shaw":
        return ShawAttention(config.d_model, config.num_heads, max_distance=16)
    if scheme == "Transformer-XL":
        return TransformerXLAttention(config.d_model, config.num_heads)
    return MultiHeadAttention(config.d_model, config.num_heads)


# From here on all distances share the last bucket. In T5 that is 128, a quarter of the length of training, so
# that every bucket is trained; with windows of 64 words 32 does the same, and 128 leaves buckets untouched.
T5_DISTANCES = {"T5": 32, "T5, 128": 128}

SCHEMES = (
    "none",
    "integer",
    "unit interval",
    "binary",
    "learned",
    "sinusoidal",
    "Shaw",
    "Transformer-XL",
    "T5",
    "T5, 128",
    "RoPE",
    "ALiBi",
)


def feed_forward(d_model: int) -> nn.Module:
    """One layer's feed-forward part, with its norm."""
    d_ff = 4 * d_model
    return nn.Sequential(nn.LayerNorm(d_model), nn.Linear(d_model, d_ff), nn.GELU(), nn.Linear(d_ff, d_model))


class Writer(nn.Module):
    """A causal Transformer that predicts each next word; `scheme` is its only difference."""

    def __init__(self, scheme: str, config: Config, words: int) -> None:
        super().__init__()
        if scheme not in SCHEMES:
            raise ValueError(f"scheme={scheme!r}; expected one of {', '.join(SCHEMES)}")
        d_model = config.d_model
        self.scheme, self.config = scheme, config
        self.embedding = nn.Embedding(words, d_model)
        nn.init.normal_(self.embedding.weight, std=0.5)
        self.added = added_to_words(scheme, config)
        self.attention = nn.ModuleList(attention_of(scheme, config) for _ in range(config.layers))
        self.feed_forward = nn.ModuleList(feed_forward(d_model) for _ in range(config.layers))
        self.norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(config.layers + 1))
        self.predict = nn.Linear(d_model, words)
        distance = T5_DISTANCES.get(scheme)
        self.bias = RelativeBias(config.num_heads, 32, distance, bidirectional=False) if distance else None
        self.rotary = Rotary(d_model // config.num_heads) if scheme == "RoPE" else None

    def attend(self, layer: int, hidden_states: Tensor, mask: Tensor) -> Tensor:
        """One layer's attention, with what its scheme turns or adds."""
        attention = self.attention[layer]
        if not isinstance(attention, MultiHeadAttention):
            return attention(hidden_states, mask)
        n = hidden_states.shape[1]
        bias = None
        if self.bias is not None:
            bias = self.bias(n, n)
        elif self.scheme == "ALiBi":
            bias = alibi_bias(self.config.num_heads, n, device=hidden_states.device)
        rotate = None if self.rotary is None else self.rotary.rotate
        return attention(hidden_states, mask=mask, rotate=rotate, score_bias=bias)

    def forward(self, ids: Tensor) -> Tensor:
        """(b, n) ids → (b, n, words) scores of each next word."""
        hidden_states = self.added(self.embedding(ids))
        mask = causal_mask(ids.shape[1], device=ids.device)
        for layer, feed_forward in enumerate(self.feed_forward):
            hidden_states = hidden_states + self.attend(layer, self.norms[layer](hidden_states), mask)
            hidden_states = hidden_states + feed_forward(hidden_states)
        return self.predict(self.norms[-1](hidden_states))


# --- training and test --------------------------------------------------------------------------------


def train(
    scheme: str,
    seed: int,
    config: Config = Config(),  # noqa: B008 - frozen
    device: torch.device | str = "cpu",
    each_step: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Writer:
    """A writer trained on windows of `config.trained` words. each_step: wraps the steps, as tqdm does."""
    set_seed(seed)
    ids = text("train", config).to(device)
    writer = Writer(scheme, config, len(vocabulary(config)) + 1).to(device)
    optimizer = torch.optim.AdamW(writer.parameters(), lr=config.learning_rate, weight_decay=0.01)
    window = torch.arange(config.trained + 1, device=device)
    # The same windows in the same order for every scheme: the initial weights have drawn from torch's own.
    generator = torch.Generator().manual_seed(seed)
    for step in each_step(range(config.steps)):
        starts = torch.randint(len(ids) - len(window), (config.batch, 1), generator=generator).to(device)
        batch = ids[starts + window]
        loss = F.cross_entropy(writer(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(writer.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = config.learning_rate * schedule(step / config.steps)
        optimizer.step()
    return writer.eval()


def schedule(done: float) -> float:
    """A short warm-up, then half a cosine down to a twentieth."""
    return min(1.0, 20 * done + 0.05) * (0.05 + 0.95 * (1 + math.cos(math.pi * done)) / 2)


@torch.no_grad()
def losses_by_position(writer: Writer) -> Tensor:
    """Mean loss in nats a word in each bin of positions of a long window of unseen stories, (read / bin,)."""
    config = writer.config
    device = writer.embedding.weight.device
    ids = text("test", config).to(device)
    starts = torch.linspace(0, len(ids) - config.read - 1, config.windows).long()[:, None].to(device)
    windows = ids[starts + torch.arange(config.read + 1, device=device)]
    total = torch.zeros(config.read, device=device)
    for part in windows.split(32):
        scores = writer(part[:, :-1])
        total += F.cross_entropy(scores.transpose(1, 2), part[:, 1:], reduction="none").sum(dim=0)
    return (total / config.windows).reshape(-1, config.bin).mean(dim=1).cpu()


def results() -> dict[str, Tensor]:
    """The measured losses that ship with the course: by scheme, (seeds, read / bin)."""
    measured = json.loads(RESULTS.read_text(encoding="utf-8"))
    return {scheme: torch.tensor(losses) for scheme, losses in measured["losses"].items()}


def measure(scheme: str, config: Config = Config()) -> list[list[float]]:  # noqa: B008 - frozen
    """A scheme's losses, one list a seed."""
    runs = [losses_by_position(train(scheme, seed, config)).tolist() for seed in SEEDS]
    return [[round(loss, 4) for loss in run] for run in runs]


def main(schemes: Sequence[str]) -> None:
    """Train these schemes, and put their losses into the file among those that are there."""
    torch.set_num_threads(1)
    config = Config()
    losses = json.loads(RESULTS.read_text(encoding="utf-8"))["losses"] if RESULTS.exists() else {}
    for scheme in schemes:
        losses[scheme] = measure(scheme, config)
        mean = torch.tensor(losses[scheme]).mean(dim=0)
        inside = mean[: config.trained // config.bin].mean()
        print(f"{scheme:>15}: up to {config.trained} words {inside:.3f}, the last {mean[-1]:.3f}", flush=True)
        ordered = {name: losses[name] for name in SCHEMES if name in losses}
        content = {"trained": config.trained, "bin": config.bin, "seeds": len(SEEDS), "losses": ordered}
        write_text(RESULTS, json.dumps(content) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:] or SCHEMES)
