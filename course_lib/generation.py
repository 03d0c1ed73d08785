"""Decoding: from a model that gives the next token's logits to whole sequences, greedily, by chance, by beam.

Axes: n sentences, k beams kept for each, r rows of the decoder (n before the first token, then n · k),
v words of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from course_lib.layers.cache import KeyValueCache
from course_lib.models.gpt import GPT
from course_lib.models.transformer import Transformer


class Decoder(Protocol):
    """What decoding needs of a model: sequences, one in each row, that grow by one token at a time."""

    def step(self, tokens: Tensor) -> Tensor:
        """Append tokens (r,), one to each row; returns the logits of the tokens that follow, (r, v)."""

    def select(self, rows: Tensor, same_sources: bool = False) -> None:
        """Row i becomes what rows[i] was. same_sources: every row keeps the source that it had."""


class TransformerDecoder:
    """An encoder–decoder that has read its sources, and keeps keys and values while it writes."""

    def __init__(self, model: Transformer, source_ids: Tensor) -> None:
        """source_ids: (n, s), one row a sentence, padding behind."""
        self.model = model
        self.source_mask = model.real_tokens(source_ids)
        self.memory = model.encode(source_ids, self.source_mask)
        self.cache = model.new_cache()

    def step(self, tokens: Tensor) -> Tensor:
        """As `Decoder.step`."""
        decoded = self.model.decode(tokens[:, None], self.memory, self.source_mask, cache=self.cache)
        return decoded.logits[:, -1]

    def select(self, rows: Tensor, same_sources: bool = False) -> None:
        """As `Decoder.select`."""
        self.cache.reorder(rows, context=not same_sources)
        if not same_sources:
            self.memory, self.source_mask = self.memory[rows], self.source_mask[rows]


@dataclass(frozen=True)
class Hypothesis:
    """A finished sequence, without its begin and end. score: log_probability over the length penalty."""

    ids: tuple[int, ...]
    log_probability: float
    score: float


def length_penalty(length: int, alpha: float, offset: float = 5.0) -> float:
    """What a log-probability is divided by, so that being short is no advantage: Wu et al. 2016, eq. 14.

    length counts the end. alpha 0 divides by 1, alpha 1 is near a mean over the tokens; offset 0 makes it
    length ** alpha, as in `transformers`.

    >>> length_penalty(7, alpha=1.0), length_penalty(7, alpha=0.0), length_penalty(7, alpha=1.0, offset=0)
    (2.0, 1.0, 7.0)
    """
    return ((offset + length) / (offset + 1)) ** alpha


@torch.no_grad()
def greedy(
    decoder: Decoder,
    count: int,
    *,
    begin_id: int,
    end_id: int,
    max_length: int,
    device: torch.device | str = "cpu",
) -> list[Hypothesis]:
    """The likeliest token at every step, for each of `count` sentences; rows that have ended are dropped.

    max_length: tokens to write at most, the end among them. The score is the log-probability.
    """
    found = [Hypothesis((), 0.0, 0.0)] * count
    alive = torch.arange(count, device=device)
    written = torch.empty(count, 0, dtype=torch.long, device=device)
    totals = torch.zeros(count, device=device)
    tokens = torch.full((count,), begin_id, device=device)
    for length in range(1, max_length + 1):
        best, tokens = decoder.step(tokens).log_softmax(dim=-1).max(dim=-1)
        totals, written = totals + best, torch.cat([written, tokens[:, None]], dim=1)
        ended = tokens == end_id
        done = torch.ones_like(ended) if length == max_length else ended
        for row in done.nonzero()[:, 0].tolist():
            ids = written[row, : length - int(ended[row])]
            found[int(alive[row])] = Hypothesis(tuple(ids.tolist()), float(totals[row]), float(totals[row]))
        if done.any():
            keep = (~done).nonzero()[:, 0]
            if not len(keep):
                break
            decoder.select(keep)
            alive, written, totals, tokens = alive[keep], written[keep], totals[keep], tokens[keep]
    return found


@torch.no_grad()
def beam_search(
    decoder: Decoder,
    count: int,
    *,
    begin_id: int,
    end_id: int,
    num_beams: int = 5,
    max_length: int = 64,
    alpha: float = 0.6,
    offset: float = 5.0,
    device: torch.device | str = "cpu",
) -> list[list[Hypothesis]]:
    """For each of `count` sentences the num_beams best hypotheses found, best first.

    Of the 2 · num_beams best continuations those that end are finished, if they are among the best num_beams;
    the best that do not end go on. A sentence is done when it has num_beams hypotheses and no running one, at
    its present length, scores better than the worst of them. max_length, alpha, offset: as in `greedy` and
    `length_penalty`. Oracle: `generate` of `transformers`, which has offset 0.
    Raises ValueError for a vocabulary smaller than 2 · num_beams.
    """
    finished: list[list[Hypothesis]] = [[] for _ in range(count)]
    alive = list(range(count))
    written = torch.empty(count, 1, 0, dtype=torch.long, device=device)  # (n, k, length)
    totals = torch.zeros(count, 1, device=device)  # (n, k)
    tokens = torch.full((count,), begin_id, device=device)
    for length in range(1, max_length + 1):
        log_probs = decoder.step(tokens).log_softmax(dim=-1)
        candidates, beams, tokens_of = _best(totals, log_probs, 2 * num_beams)
        grown = torch.cat([_take(written, beams), tokens_of[..., None]], dim=-1)  # (n, 2k, length)
        ends = torch.ones_like(beams, dtype=torch.bool) if length == max_length else tokens_of == end_id
        penalty = length_penalty(length, alpha, offset)
        for row, rank in ends[:, :num_beams].nonzero().tolist():
            ids = grown[row, rank].tolist()
            total = float(candidates[row, rank])
            ids = ids[:-1] if ids[-1] == end_id else ids
            _keep(finished[alive[row]], Hypothesis(tuple(ids), total, total / penalty), num_beams)
        if length == max_length:
            break
        totals, going_on = candidates.masked_fill(ends, -torch.inf).topk(num_beams)
        before = len(alive)
        rows = [
            row
            for row, best in enumerate((totals[:, 0] / penalty).tolist())
            if len(finished[alive[row]]) < num_beams or best > finished[alive[row]][-1].score
        ]
        if not rows:
            break
        alive = [alive[row] for row in rows]
        kept = torch.tensor(rows, device=device)
        totals, going_on, beams = totals[kept], going_on[kept], beams[kept]
        written = _take(grown[kept], going_on)
        tokens = written[:, :, -1].flatten()
        width = log_probs.shape[0] // before
        parents = kept[:, None] * width + beams.gather(1, going_on)
        decoder.select(parents.flatten(), same_sources=len(rows) == before and width == num_beams)
    return finished


def _best(totals: Tensor, log_probs: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best continuations of each sentence: their totals, the beams continued, the tokens, (n, count)."""
    vocabulary = log_probs.shape[-1]
    if vocabulary < count:
        raise ValueError(
            f"a vocabulary of {vocabulary} is too small: {count // 2} beams need at least {count}"
        )
    sums = totals[:, :, None] + log_probs.view(*totals.shape, vocabulary)
    best, places = sums.flatten(1).topk(count)
    return best, places // vocabulary, places % vocabulary


def _take(sequences: Tensor, index: Tensor) -> Tensor:
    """(n, k, length) and (n, m) → (n, m, length)."""
    return sequences.gather(1, index[:, :, None].expand(-1, -1, sequences.shape[-1]))


def _keep(found: list[Hypothesis], new: Hypothesis, most: int) -> None:
    """Add a hypothesis to the best ones found so far."""
    found.append(new)
    found.sort(key=lambda hypothesis: -hypothesis.score)
    del found[most:]


def generate(
    model: GPT,
    ids: Tensor,
    count: int,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Go on with texts by `count` tokens: ids (n, t) → (n, t + count).

    temperature: what the logits are divided by before a token is drawn; 0 takes the likeliest. top_k, top_p:
    as in `keep_likeliest`. The model reads each token once and keeps keys and values. Oracle: `generate` of
    `transformers`. Raises ValueError where t + count is more than the model's context.
    """
    if ids.shape[1] + count > model.config.context:
        raise ValueError(
            f"{ids.shape[1]} tokens and {count} more exceed context={model.config.context}; ask for fewer"
        )
    was_training, cache, written = model.training, KeyValueCache(model.config.num_layers), [ids]
    model.eval()
    with torch.inference_mode():
        for _ in range(count):
            logits = model(written[-1], cache=cache).logits[:, -1]
            if temperature == 0:
                following = logits.argmax(dim=-1, keepdim=True)
            else:
                shares = keep_likeliest(logits / temperature, top_k, top_p).softmax(dim=-1)
                following = torch.multinomial(shares, 1, generator=generator)
            written.append(following)
    model.train(was_training)
    return torch.cat(written, dim=1)  # outside inference mode, so that it may be trained on


def keep_likeliest(logits: Tensor, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """logits (n, v) with −∞ for all but the likeliest tokens.

    top_k: how many may stay. top_p: the fewest whose shares add up to at least that (Holtzman et al. 2020);
    it is applied after top_k.

    >>> keep_likeliest(torch.tensor([[1.0, 3.0, 2.0]]), top_k=2).tolist()
    [[-inf, 3.0, 2.0]]
    """
    if top_k is not None:
        if top_k < 1:
            raise ValueError(f"top_k={top_k}; at least 1 token has to stay")
        least = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p is not None:
        if not 0 < top_p <= 1:
            raise ValueError(f"top_p={top_p}; it is a share above 0 and up to 1")
        ordered, places = logits.sort(dim=-1, descending=True)
        shares = ordered.softmax(dim=-1)
        late = shares.cumsum(dim=-1) - shares >= top_p  # the tokens before it are enough
        logits = logits.masked_fill(late.scatter(-1, places, late), -torch.inf)
    return logits
