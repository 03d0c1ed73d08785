"""BERT: a stack of blocks in which every token sees all others (Devlin et al. 2019), and its two heads.

Axes: b batch, t tokens, h heads, d d_model, v vocabulary, m masked tokens.

    stream = dropout(norm(tokens + segments + positions))
    stream = norm(stream + attention(stream))                        in every block
    stream = norm(stream + feed_forward(stream))
    pooled = tanh(dense(stream at the first token))

RoBERTa (Liu et al. 2019) and DistilBERT (Sanh et al. 2019) are configurations. Oracles: `BertForPreTraining`,
`RobertaForMaskedLM` and `DistilBertForMaskedLM` of `transformers`, whose checkpoints load.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.layers.block import BlockConfig, TransformerStack
from course_lib.layers.dropout import Dropout
from course_lib.layers.feed_forward import FUNCTIONS, Activation
from course_lib.layers.masks import over_keys
from course_lib.layers.norms import LayerNorm
from course_lib.shapes import expect_shape


@dataclass(frozen=True)
class BertConfig:
    """The sizes of the model and its parts; the defaults are those of BERT base.

    max_length: the longest input, in tokens. num_segments: 2 for pairs of sentences, 0 for no such vectors.
    skip_padding: RoBERTa's positions, which count tokens alone and from pad_id + 1 on; padding is at pad_id.
    pooler, mlm_head, nsp_head: whether there is one; the head for next sentences reads the pooler's output.
    dropout: on the input, on attention weights, inside the feed-forward layer and on what a sublayer adds.
    """

    vocab_size: int = 30522
    d_model: int = 768
    num_layers: int = 12
    num_heads: int = 12
    d_ff: int = 3072
    max_length: int = 512
    num_segments: int = 2
    activation: Activation = "gelu"
    dropout: float = 0.1
    eps: float = 1e-12
    pad_id: int = 0
    skip_padding: bool = False
    pooler: bool = True
    mlm_head: bool = True
    nsp_head: bool = True

    def __post_init__(self) -> None:
        if self.nsp_head and not self.pooler:
            raise ValueError("nsp_head=True needs pooler=True, whose output it reads")

    def block(self) -> BlockConfig:
        """What the blocks are made of."""
        return BlockConfig(
            self.d_model,
            self.num_heads,
            self.d_ff,
            order="post",
            activation=self.activation,
            dropout=self.dropout,
            eps=self.eps,
        )

    @property
    def num_positions(self) -> int:
        """Rows of the table of positions."""
        return self.max_length + (self.pad_id + 1 if self.skip_padding else 0)


# BertConfig(…, **ROBERTA): byte-level BPE, no next sentences, and all padding at one position.
ROBERTA: dict[str, Any] = {"vocab_size": 50265, "num_segments": 1, "eps": 1e-5, "pad_id": 1}
ROBERTA |= {"skip_padding": True, "pooler": False, "nsp_head": False}
# DistilBERT: half the blocks, no segments, no pooler.
DISTILBERT: dict[str, Any] = {"num_layers": 6, "num_segments": 0, "pooler": False, "nsp_head": False}


@dataclass(frozen=True)
class BertOutput:
    """The four outputs, under the names that the field uses.

    last_hidden_state: (b, t, d), a vector of every token in its sentence. pooler_output: (b, d), one of the
    whole input; None without a pooler. hidden_states: the stream before the first block and after each,
    num_layers + 1 times (b, t, d). attentions: num_layers times (b, h, t, t), or None.
    """

    last_hidden_state: Tensor
    pooler_output: Tensor | None
    hidden_states: tuple[Tensor, ...]
    attentions: tuple[Tensor, ...] | None = None


class InputEmbedding(nn.Module):
    """What a token is, which segment it is in and where it stands, added up and normed."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config, d = config, config.d_model
        self.tokens = nn.Embedding(config.vocab_size, d)
        self.segments = nn.Embedding(config.num_segments, d) if config.num_segments else None
        self.positions = nn.Embedding(config.num_positions, d)
        self.norm = LayerNorm(d, config.eps)
        self.dropout = Dropout(config.dropout)

    def forward(self, ids: Tensor, segments: Tensor | None) -> Tensor:
        """ids and segments (b, t) → (b, t, d)."""
        expect_shape(ids, "batch tokens")
        if ids.shape[1] > self.config.max_length:
            raise ValueError(
                f"{ids.shape[1]} tokens are more than max_length={self.config.max_length}; shorten the text"
            )
        stream = self.tokens(ids) + self.places(ids)
        if self.segments is not None:
            # All in the first segment, unless it is said otherwise.
            stream = stream + (self.segments.weight[0] if segments is None else self.segments(segments))
        elif segments is not None:
            raise ValueError("this model has no segments (num_segments=0); leave them away")
        return self.dropout(self.norm(stream))

    def places(self, ids: Tensor) -> Tensor:
        """The vectors of the tokens' positions, (t, d), or with skip_padding (b, t, d)."""
        if not self.config.skip_padding:
            return self.positions.weight[: ids.shape[1]]
        real = ids != self.config.pad_id
        return self.positions(real.cumsum(dim=1) * real + self.config.pad_id)


class MaskedTokenHead(nn.Module):
    """Which token stood there: a dense layer, then the token embedding as the projection."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.d_model, config.d_model)
        self.activation = FUNCTIONS[config.activation]
        self.norm = LayerNorm(config.d_model, config.eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden_states: Tensor, tokens: Tensor) -> Tensor:
        """hidden_states (…, d) and the token embedding (v, d) → logits (…, v)."""
        return F.linear(self.norm(self.activation(self.dense(hidden_states))), tokens, self.bias)


class BERT(nn.Module):
    """Tokens in, a vector in context for each of them out; and the heads, where configured."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = InputEmbedding(config)
        self.encoder = TransformerStack(config.block(), config.num_layers)
        self.pooler = nn.Linear(config.d_model, config.d_model) if config.pooler else None
        self.mlm_head = MaskedTokenHead(config) if config.mlm_head else None
        self.nsp_head = nn.Linear(config.d_model, 2) if config.nsp_head else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew, as the paper's code does: 0.02 wide, biases zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(
        self,
        ids: Tensor,
        segments: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        return_weights: bool = False,
    ) -> BertOutput:
        """ids (b, t) → the four outputs; attentions only with return_weights.

        segments: (b, t), 0 for the first sentence and 1 for the second; all 0 when None.
        mask: (b, t), boolean, True = a token, False = padding; None where there is no padding.
        Raises ValueError for an input longer than max_length.
        """
        first = self.embedding(ids, segments)
        found = self.encoder(first, mask=over_keys(mask, ids), return_weights=return_weights)
        last = found.hidden_states
        pooled = None if self.pooler is None else self.pooler(last[:, 0]).tanh()
        states = (first, *(block.hidden_states for block in found.blocks))
        weights = tuple(block.weights for block in found.blocks) if return_weights else None
        return BertOutput(last, pooled, states, weights)

    def token_logits(self, hidden_states: Tensor) -> Tensor:
        """Of the token that stood there, (…, d) → (…, v); in training for the m masked ones alone, (m, d)."""
        if self.mlm_head is None:
            raise ValueError("this model has no head for masked tokens (mlm_head=False)")
        return self.mlm_head(hidden_states, self.embedding.tokens.weight)

    def sentence_logits(self, pooler_output: Tensor | None) -> Tensor:
        """Of "the second sentence follows the first" and of "it does not", (b, d) → (b, 2)."""
        if self.nsp_head is None or pooler_output is None:
            raise ValueError("this model has no head for next sentences (nsp_head=False)")
        return self.nsp_head(pooler_output)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path) -> BERT:
        """A published BERT, RoBERTa or DistilBERT, in evaluation mode; see `course_lib.hub`."""
        from course_lib.hub import from_pretrained

        return from_pretrained(name_or_path, cls)
