"""Word vectors from scratch: skip-gram with negative sampling and subsampling.

Axes: n words of a text, v words of the vocabulary, b pairs or blocks, k negatives, d width of a vector;
inside the trainer t centres of a block and s words outside, its neighbours and negatives.

Every word has two vectors: one as centre, which is kept, and one as neighbour. For a centre c, a neighbour o
and k words n drawn at random, the loss is (Mikolov et al. 2013b, eq. 4)

    −log σ(c · o) − Σ log σ(−c · n).

`sgns_loss` and `sgns_gradients` are that formula, pair by pair. `train_word2vec` works off blocks of
neighbouring words, so that the same sums become a few matrix products.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

TOO_LONG = 1e4  # No entry of a vector comes near it, unless the steps are too large.


@dataclass(frozen=True)
class Corpus:
    """A text as numbers. ids: (n,). documents: (n,), which document each word stands in; windows end there.

    names, counts: (v,) of the vocabulary, the most frequent word first.
    """

    names: tuple[str, ...]
    ids: Tensor
    documents: Tensor
    counts: Tensor

    @classmethod
    def read(cls, documents: Iterable[Sequence[str]], min_count: int = 5) -> Corpus:
        """Number the words; those that occur less than `min_count` times are left out of the text."""
        texts = list(documents)
        counts = Counter(word for text in texts for word in text)
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        names = tuple(word for word in ranked if counts[word] >= min_count)
        if not names:
            raise ValueError(f"no word occurs {min_count} times; give more text, or a lower min_count")
        number = {word: index for index, word in enumerate(names)}
        kept = [[number[word] for word in text if word in number] for text in texts]
        lengths = torch.tensor([len(text) for text in kept])
        ids = torch.tensor([index for text in kept for index in text])
        documents_of = torch.arange(len(kept)).repeat_interleave(lengths)
        return cls(names, ids, documents_of, torch.tensor([counts[word] for word in names]))


# --- Subsampling, pairs, negatives --------------------------------------------------------------


def keep_probability(counts: Tensor, threshold: float) -> Tensor:
    """How likely a word is kept, min(1, √(threshold / frequency)): (v,) counts → (v,), float64.

    Source: Mikolov et al. 2013b, eq. 5, which gives the probability of the opposite.
    """
    frequency = counts.double() / counts.sum()
    return (threshold / frequency).sqrt().clamp(max=1.0)


def skip_gram_pairs(
    ids: Tensor, counts: Tensor, window: int, threshold: float, keep_draws: Tensor, reach_draws: Tensor
) -> Tensor:
    """The (centre, neighbour) pairs of one text, as word ids: (n,) → (p, 2).

    keep_draws, reach_draws: (n,), uniform in [0, 1). A word whose draw is not below its `keep_probability`
    is taken out first. Of the rest, each reaches 1 to `window` words to either side: 1 + ⌊draw · window⌋.
    Pairs come in the order of the centres, and for each centre in that of its neighbours.
    """
    kept = keep_draws < keep_probability(counts, threshold)[ids]
    words = ids[kept]
    reach = 1 + (reach_draws[kept] * window).long()
    place = torch.arange(len(words), device=ids.device)
    distance = (place[:, None] - place).abs()
    centres, neighbours = ((distance > 0) & (distance <= reach[:, None])).nonzero(as_tuple=True)
    return torch.stack([words[centres], words[neighbours]], dim=1)


def noise_distribution(counts: Tensor, power: float = 0.75) -> Tensor:
    """What negatives are drawn from, counts^power brought to sum 1: (v,) → (v,), float64."""
    weights = torch.where(counts > 0, counts.double() ** power, 0.0)
    return weights / weights.sum()


def draw_negatives(noise: Tensor, positives: Tensor, draws: Tensor) -> Tensor:
    """Negatives for each positive, never the positive itself: (v,), (b,), (b, k) → (b, k) ids.

    draws: uniform in [0, 1). The distribution is `noise` without the positive, brought to sum 1; a draw u
    gives the first word up to and including which more than the share u of that distribution lies.
    """
    ends = noise.cumsum(0)
    share = noise[positives][:, None]
    place = draws.double() * (ends[-1] - share)
    # Everything from the positive on moves up by the positive's own share.
    place = place + share * (place >= (ends - noise)[positives][:, None])
    return torch.searchsorted(ends, place, right=True).clamp(max=int(noise.nonzero().amax()))


# --- The loss and its gradient ------------------------------------------------------------------


def sgns_loss(centre: Tensor, neighbour: Tensor, negatives: Tensor) -> Tensor:
    """The mean loss over pairs, in nats: (b, d), (b, d), (b, k, d) → a scalar."""
    pull = (centre * neighbour).sum(dim=-1)  # (b,)
    push = torch.einsum("bd,bkd->bk", centre, negatives)
    return -(F.logsigmoid(pull) + F.logsigmoid(-push).sum(dim=-1)).mean()


def sgns_gradients(centre: Tensor, neighbour: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of `sgns_loss`, in closed form, in the shapes of its arguments.

    A score's gradient is its error: σ(score) − 1 for the neighbour, σ(score) for a negative.
    """
    pairs = len(centre)
    pull = ((centre * neighbour).sum(dim=-1, keepdim=True).sigmoid() - 1) / pairs  # (b, 1)
    push = torch.einsum("bd,bkd->bk", centre, negatives).sigmoid() / pairs
    return (
        pull * neighbour + torch.einsum("bk,bkd->bd", push, negatives),
        pull * centre,
        push[:, :, None] * centre[:, None, :],
    )


def block_gradients(
    centres: Tensor, outside: Tensor, pull: Tensor, push: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and gradients of whole blocks: (b, t, d), (b, s, d), (b, t, s), (b, t, s).

    pull, push: how often centre and outside word meet as neighbours, and as negatives. The loss is the sum of
    −pull · log σ(score) − push · log σ(−score); returned are its errors (b, t, s), that is, the gradient of
    the scores, and the gradients of `centres` and `outside`.
    """
    scores = torch.bmm(centres, outside.transpose(1, 2))
    errors = (pull + push) * scores.sigmoid_() - pull
    return errors, torch.bmm(errors, outside), torch.bmm(errors.transpose(1, 2), centres)


# --- Training -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Word2VecConfig:
    """How to train.

    window: the farthest that a centre may reach. negatives: for each pair. subsample: the frequency from
    which on words are thinned out, 0 for never. lr: falls linearly to a thousandth of itself. block: centres
    that share their negatives. blocks: how many of them make one step, in which gradients are summed.
    most_pairs: the pairs of one step that a word is moved by; it is moved no further by more of them, because
    pulls that do not know of one another overshoot.
    """

    d_model: int = 64
    window: int = 5
    negatives: int = 5
    subsample: float = 1e-3
    power: float = 0.75
    epochs: int = 10
    lr: float = 0.025
    block: int = 32
    blocks: int = 16
    most_pairs: float = 200.0


def train_word2vec(
    corpus: Corpus,
    config: Word2VecConfig | None = None,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> WordVectors:
    """Word vectors of a corpus, by stochastic gradient descent on the negative-sampling loss.

    The centres of a block share `block` negatives, each with the weight negatives / block for each pair, and
    none where it is the pair's own neighbour: the gradient is that of `negatives` drawn for each pair, in the
    mean. Raises ValueError where the steps are so large that the vectors grow without end.
    """
    config = config or Word2VecConfig()
    trainer = _Trainer(corpus, config, seed, torch.device(device))
    for epoch in tqdm(range(config.epochs), desc="word2vec", disable=not progress):
        trainer.run_epoch(epoch)
        if not trainer.centre.abs().amax() < TOO_LONG:  # NaN is not below it, either
            raise ValueError(
                f"the vectors overflowed in epoch {epoch + 1}: frequent words overshoot with lr={config.lr} "
                f"and most_pairs={config.most_pairs:g}; lower one of the two"
            )
    return WordVectors(corpus.names, trainer.centre.cpu(), trainer.outside.cpu())


class _Trainer:
    """The two tables, and what is the same in every step."""

    def __init__(self, corpus: Corpus, config: Word2VecConfig, seed: int, device: torch.device) -> None:
        self.config, self.device = config, device
        self.ids, self.documents = corpus.ids.to(device), corpus.documents.to(device)
        self.generator = torch.Generator(device).manual_seed(seed)
        size = (len(corpus.names), config.d_model)
        self.centre = (torch.rand(size, generator=self.generator, device=device) - 0.5) / config.d_model
        self.outside = torch.zeros(size, device=device)
        threshold = config.subsample or float("inf")
        self.keep = keep_probability(corpus.counts, threshold).float().to(device)
        self.noise_ends = noise_distribution(corpus.counts, config.power).cumsum(0).float().to(device)
        centre_places = torch.arange(config.block, device=device)[:, None] + config.window
        places = torch.arange(config.block + 2 * config.window, device=device)
        self.distance = (centre_places - places).abs()  # (t, t + 2 · window)

    def run_epoch(self, epoch: int) -> None:
        """One pass over the text, thinned out anew, its blocks in random order."""
        config = self.config
        kept = torch.rand(self.ids.shape, generator=self.generator, device=self.device) < self.keep[self.ids]
        if not kept.any():  # A few words, all of them frequent.
            return
        words, documents = self._blocks(self.ids[kept], 0), self._blocks(self.documents[kept], -1)
        order = torch.randperm(len(words), generator=self.generator, device=self.device)
        for start in range(0, len(order), config.blocks):
            done = (epoch + start / len(order)) / config.epochs
            chosen = order[start : start + config.blocks]
            self.step(words[chosen], documents[chosen], config.lr * max(1 - done, 1e-3))

    def _blocks(self, values: Tensor, filler: int) -> Tensor:
        """(n,) → (blocks, t + 2 · window): each block with the margins that its centres can reach."""
        block, window = self.config.block, self.config.window
        missing = -len(values) % block
        return F.pad(values, (window, window + missing), value=filler).unfold(0, block + 2 * window, block)

    def step(self, words: Tensor, documents: Tensor, lr: float) -> None:
        """One update from blocks (b, t + 2 · window) of word ids; documents: −1 where a margin is empty."""
        config, middle = self.config, slice(self.config.window, -self.config.window)
        shape = (len(words), config.block)
        draws = torch.rand(shape, generator=self.generator, device=self.device)
        negatives = torch.searchsorted(self.noise_ends, draws).clamp(max=len(self.centre) - 1)
        outside, centres = torch.cat([words, negatives], dim=1), words[:, middle]
        near = self._neighbours(documents, documents[:, middle])
        # A negative that is a pair's own neighbour does not count against that pair.
        same = (words[:, :, None] == negatives[:, None, :]).float()  # (b, t + 2 · window, t)
        times = (near.sum(dim=-1, keepdim=True) - torch.bmm(near, same)) * (config.negatives / config.block)
        pull = F.pad(near, (0, config.block))
        push = F.pad(times, (near.shape[-1], 0))
        _, of_centres, of_outside = block_gradients(self.centre[centres], self.outside[outside], pull, push)
        pairs = pull + push
        self._descend(
            self.centre, centres.flatten(), of_centres.flatten(0, 1), pairs.sum(dim=2).flatten(), lr
        )
        self._descend(
            self.outside, outside.flatten(), of_outside.flatten(0, 1), pairs.sum(dim=1).flatten(), lr
        )

    def _descend(self, table: Tensor, rows: Tensor, gradients: Tensor, pairs: Tensor, lr: float) -> None:
        """Add up the steps of equal rows; those of more than `most_pairs` pairs are shortened to as many.

        rows: (n,), the row that each of the gradients (n, d) is for; pairs: (n,), how many are summed in it.
        """
        together = torch.zeros(len(table), device=self.device).index_add_(0, rows, pairs)
        shorter = (self.config.most_pairs / together).clamp(max=1.0)
        table.index_add_(0, rows, gradients.mul_(shorter[rows, None]), alpha=-lr)

    def _neighbours(self, documents: Tensor, own: Tensor) -> Tensor:
        """1 where a word is within a centre's drawn reach and in its document: (b, t, t + 2 · window)."""
        reach = torch.randint(
            1, self.config.window + 1, (*own.shape, 1), generator=self.generator, device=self.device
        )
        near = (self.distance > 0) & (self.distance <= reach)
        return (near & (documents[:, None, :] == own[:, :, None]) & (own >= 0)[:, :, None]).float()


# --- What the vectors know ----------------------------------------------------------------------


@dataclass(frozen=True)
class WordVectors:
    """Words with their vectors. vectors, contexts: (v, d), of a word as centre and as neighbour."""

    names: tuple[str, ...]
    vectors: Tensor
    contexts: Tensor

    @cached_property
    def number(self) -> dict[str, int]:
        """The row of each word."""
        return {name: index for index, name in enumerate(self.names)}

    @cached_property
    def unit(self) -> Tensor:
        """The vectors at length 1: (v, d)."""
        return F.normalize(self.vectors, dim=-1)

    def __contains__(self, word: str) -> bool:
        return word in self.number

    def __getitem__(self, word: str) -> Tensor:
        return self.vectors[self._row(word)]

    def _row(self, word: str) -> int:
        if word not in self.number:
            raise KeyError(f"{word!r} is not in the vocabulary of {len(self.names)} words")
        return self.number[word]

    def cosine(self, one: str, other: str) -> float:
        """The cosine of the angle between two words' vectors."""
        return float(self.unit[self._row(one)] @ self.unit[self._row(other)])

    def nearest(self, word: str, count: int = 5) -> list[tuple[str, float]]:
        """The `count` words with the largest cosine to a word, itself left out; of equal ones the first."""
        return self._ranked(self.unit[self._row(word)], [word], count)

    def analogy(self, a: str, b: str, c: str, count: int = 1) -> list[tuple[str, float]]:
        """What is to c as b is to a: the words nearest to b − a + c at length 1 each, these three left out.

        Source: Mikolov et al. 2013c; the name 3CosAdd is Levy and Goldberg's, 2014.
        """
        unit = [self.unit[self._row(word)] for word in (a, b, c)]
        return self._ranked(F.normalize(unit[1] - unit[0] + unit[2], dim=0), [a, b, c], count)

    def _ranked(self, direction: Tensor, left_out: Sequence[str], count: int) -> list[tuple[str, float]]:
        cosines = self.unit @ direction
        order = cosines.argsort(descending=True, stable=True).tolist()
        found = [index for index in order if self.names[index] not in left_out][:count]
        return [(self.names[index], float(cosines[index])) for index in found]
