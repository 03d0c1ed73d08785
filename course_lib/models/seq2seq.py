"""Sequence to sequence with recurrent networks: an encoder, a decoder, and how one looks at the other.

Axes: b sentences, s source and t target tokens, d width of state and memory, e of an embedding, v words.

The encoder leaves a memory, one vector a token, and a summary, one vector a sentence. A decoder without
attention has the summary alone. With attention it compares its state with every vector of the memory, at
each step anew; `SCORES` names the ways to compare.

Oracles: `nn.GRU` with the weights loaded; the papers' equations token by token; gradients by differences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .recurrent import GRU

PAD, BEGIN, END, UNKNOWN = range(4)
SCORES = ("additive", "dot", "general", "concat", "location", "cosine")


@dataclass(frozen=True)
class Seq2SeqConfig:
    """Sizes. attention: "none" or one of `SCORES`. max_source: places that the score "location" knows."""

    source_vocab: int
    target_vocab: int
    d_embedding: int = 64
    d_model: int = 128
    attention: str = "additive"
    max_source: int = 64


def masked_softmax(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """Shares over the last axis, 0 where the mask is False: (…, s) → (…, s).

    mask: boolean, True = may attend, broadcastable to the scores. A row that sees nothing has only zeros.
    """
    if mask is None:
        return scores.softmax(dim=-1)
    # The smallest finite score in place of -inf: a row that sees nothing then has no NaN, nor its gradient.
    return scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(dim=-1).masked_fill(~mask, 0.0)


class Attention(nn.Module):
    """Compare queries q with the vectors m of a memory, by one of `SCORES`.

    - additive, concat: vᵀ tanh(W q + U m). Bahdanau et al. 2015, section 3.1.2. Luong et al. 2015 write
      vᵀ tanh(W [q; m]) and call it concat, the same with W and U side by side.
    - dot: q · m, and general: qᵀ W m. Luong et al. 2015, eq. 8.
    - location: row s of W q, which knows the place and not what stands there. Luong et al. 2015, eq. 9.
    - cosine: β cos(q, m) with one learned β > 0, "content-based". Graves et al. 2014, eq. 5 and 6.
    """

    def __init__(self, score: str, d_model: int, max_source: int = 64) -> None:
        super().__init__()
        if score not in SCORES:
            raise ValueError(f"attention={score!r}; expected none, {', '.join(SCORES)}")
        self.score, self.max_source = score, max_source
        if score in ("additive", "concat"):
            self.from_query = nn.Linear(d_model, d_model, bias=False)
            self.judge = nn.Linear(d_model, 1, bias=False)
        if score in ("additive", "concat", "general"):
            self.from_memory = nn.Linear(d_model, d_model, bias=False)
        elif score == "location":
            self.places = nn.Linear(d_model, max_source, bias=False)
        elif score == "cosine":
            self.log_strength = nn.Parameter(torch.tensor(2.0))

    def keys(self, memory: Tensor) -> Tensor:
        """What of the memory the queries are compared with, the same at every step: (b, s, d)."""
        if self.score == "cosine":
            return nn.functional.normalize(memory, dim=-1)
        return self.from_memory(memory) if hasattr(self, "from_memory") else memory

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """How well each query fits each key: (b, t, d), (b, s, d) → (b, t, s)."""
        if self.score in ("additive", "concat"):
            together = self.from_query(query)[:, :, None] + keys[:, None]  # (b, t, s, d)
            return self.judge(together.tanh()).squeeze(-1)
        if self.score == "location":
            if keys.shape[1] > self.max_source:
                raise ValueError(f"{keys.shape[1]} source tokens, but max_source={self.max_source}")
            return self.places(query)[..., : keys.shape[1]]
        if self.score == "cosine":
            query = self.log_strength.exp() * nn.functional.normalize(query, dim=-1)
        return query @ keys.transpose(1, 2)

    def forward(
        self, query: Tensor, memory: Tensor, mask: Tensor | None = None, keys: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(context (b, t, d), weights (b, t, s)) of queries (b, t, d) in a memory (b, s, d).

        mask: boolean (b, s), True where there is a token. keys: `keys(memory)`, where it is at hand.
        """
        scores = self.scores(query, self.keys(memory) if keys is None else keys)
        weights = masked_softmax(scores, None if mask is None else mask[:, None])
        return weights @ memory, weights


class Encoded(NamedTuple):
    """memory: (b, s, d). summary: (b, d). mask: (b, s), True at tokens. keys: for attention, (b, s, d)."""

    memory: Tensor
    summary: Tensor
    mask: Tensor | None
    keys: Tensor | None = None


class Encoder(nn.Module):
    """Two GRUs read the source, one from each end; each has half of the width d."""

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__()
        if config.d_model % 2:
            raise ValueError(f"d_model={config.d_model} is odd; each direction has half of it")
        self.embedding = nn.Embedding(config.source_vocab, config.d_embedding)
        self.forwards, self.backwards = (GRU(config.d_embedding, config.d_model // 2) for _ in range(2))

    def forward(self, source_ids: Tensor, mask: Tensor | None = None) -> Encoded:
        """Read (b, s) ids. mask: boolean (b, s), True where there is a token; padding changes nothing."""
        embedded = self.embedding(source_ids)
        onwards, last = self.forwards(embedded, mask=mask)
        returning, first = self.backwards(embedded.flip(1), mask=None if mask is None else mask.flip(1))
        memory = torch.cat([onwards, returning.flip(1)], dim=-1)  # (b, s, d)
        return Encoded(memory, torch.cat([last, first], dim=-1), mask)


class DecoderState(NamedTuple):
    """hidden: (b, d). attentional: (b, d), which predicts a word and is fed into the next step."""

    hidden: Tensor
    attentional: Tensor


class Decoder(nn.Module):
    """A GRU that writes the target.

    With "additive" it is Bahdanau's: it looks with the state before the step, and the context enters the
    step. With the other scores it is Luong's with input feeding: the step comes first, the new state looks,
    and what it found enters the next step. "none" is the first with the summary as its only context. All
    have the same parameters but for the score's own.
    """

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__()
        d_model, kind = config.d_model, config.attention
        self.embedding = nn.Embedding(config.target_vocab, config.d_embedding)
        self.start = nn.Linear(d_model, d_model)
        self.gru = GRU(config.d_embedding + d_model, d_model)
        self.combine = nn.Linear(2 * d_model, d_model)
        self.predict = nn.Linear(d_model, config.target_vocab)
        self.attention = None if kind == "none" else Attention(kind, d_model, config.max_source)
        self.looks_first = kind in ("none", "additive")

    def begin(self, source: Encoded) -> tuple[DecoderState, Encoded]:
        """The state before the first word, and the source with its keys."""
        hidden = torch.tanh(self.start(source.summary))
        keys = None if self.attention is None else self.attention.keys(source.memory)
        return DecoderState(hidden, torch.zeros_like(hidden)), source._replace(keys=keys)

    def look(self, hidden: Tensor, source: Encoded) -> tuple[Tensor, Tensor | None]:
        """(context (b, d), weights (b, s)); without attention the summary, and no weights."""
        if self.attention is None:
            return source.summary, None
        context, weights = self.attention(hidden[:, None], source.memory, source.mask, source.keys)
        return context[:, 0], weights[:, 0]

    def step(
        self, embedded: Tensor, state: DecoderState, source: Encoded
    ) -> tuple[DecoderState, Tensor | None]:
        """One word, embedded as (b, e): the next state, which predicts the word after it, and the weights."""
        found = self.look(state.hidden, source) if self.looks_first else None
        beside = found[0] if found else state.attentional
        hidden = self.gru.step(self.gru.read(torch.cat([embedded, beside], dim=-1)), state.hidden)
        context, weights = found or self.look(hidden, source)
        attentional = torch.tanh(self.combine(torch.cat([context, hidden], dim=-1)))
        return DecoderState(hidden, attentional), weights


class Seq2SeqOutput(NamedTuple):
    """logits: (b, t, v). weights: (b, t, s), how much a step looks at each source token; None without."""

    logits: Tensor
    weights: Tensor | None


class Translations(NamedTuple):
    """ids: (b, t), up to and with END, then PAD. weights: (b, t, s), or None without attention."""

    ids: Tensor
    weights: Tensor | None


class Seq2Seq(nn.Module):
    """Encoder and decoder. Ids: 0 padding, 1 begin, 2 end, 3 unknown."""

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)

    def begin(self, source_ids: Tensor, mask: Tensor | None) -> tuple[DecoderState, Encoded]:
        """Read (b, s) ids, and be ready to write. mask: as for `forward`."""
        mask = source_ids != PAD if mask is None else mask
        return self.decoder.begin(self.encoder(source_ids, None if bool(mask.all()) else mask))

    def forward(
        self, source_ids: Tensor, target_ids: Tensor, source_mask: Tensor | None = None
    ) -> Seq2SeqOutput:
        """Teacher forcing: scores of each next word after (b, t) target ids, of which the first is BEGIN.

        source_mask: boolean (b, s), True where there is a token; default, wherever the id is not PAD.
        """
        state, source = self.begin(source_ids, source_mask)
        attentional, looks = [], []
        for embedded in self.decoder.embedding(target_ids).unbind(dim=1):
            state, weights = self.decoder.step(embedded, state, source)
            attentional.append(state.attentional)
            looks.append(weights)
        return Seq2SeqOutput(self.decoder.predict(torch.stack(attentional, dim=1)), _stacked(looks))

    @torch.no_grad()
    def translate(
        self, source_ids: Tensor, source_mask: Tensor | None = None, max_length: int = 64
    ) -> Translations:
        """Write the likeliest word at each step (greedy), until every sentence has its END."""
        state, source = self.begin(source_ids, source_mask)
        written: list[Tensor] = []
        looks: list[Tensor | None] = []
        word = source_ids.new_full((len(source_ids),), BEGIN)
        is_open = torch.ones_like(word, dtype=torch.bool)
        while is_open.any() and len(written) < max_length:
            state, weights = self.decoder.step(self.decoder.embedding(word), state, source)
            word = self.decoder.predict(state.attentional).argmax(dim=-1).where(is_open, PAD)
            is_open &= word != END
            written.append(word)
            looks.append(weights)
        return Translations(torch.stack(written, dim=1), _stacked(looks))


def _stacked(looks: list[Tensor | None]) -> Tensor | None:
    found = [weights for weights in looks if weights is not None]
    return torch.stack(found, dim=1) if found else None
