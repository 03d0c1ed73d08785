"""The Transformer of 2017 (Vaswani et al., "Attention Is All You Need"), encoder and decoder.

Axes: b batch, s source positions, t target positions, d width d_model, v words of the target's vocabulary.

    memory = encoder(embed(source))                     what was read, one vector a source token
    logits = project(decoder(embed(target), memory))    for every target position, the token that comes next

The blocks are those of chapter 08: in post-norm order, with ReLU, and with cross-attention in the decoder.
Oracles: `nn.Transformer`, and the Marian translators of `transformers`, whose checkpoints load.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.layers.block import BlockConfig, BlockOutput, Order, TransformerBlock, TransformerStack
from course_lib.layers.cache import KeyValueCache
from course_lib.layers.dropout import Dropout
from course_lib.layers.feed_forward import Activation
from course_lib.layers.masks import causal_mask, combine_masks, over_keys
from course_lib.layers.norms import LayerNorm
from course_lib.layers.positions import sinusoidal_table
from course_lib.shapes import expect_shape

Positions: TypeAlias = Literal["sinusoidal", "sinusoidal_halves", "learned"]


@dataclass(frozen=True)
class TransformerConfig:
    """The sizes of the model; the defaults are the paper's base model (table 3).

    source_vocab, target_vocab: how many tokens there are; target_vocab None is one vocabulary for both, with
    one embedding, as in the paper. tie_weights: the final projection is the target's embedding, too (§3.4).
    positions: "sinusoidal" as in §3.5; "sinusoidal_halves" with all sines before all cosines, as Marian has
    it; "learned". max_length: the longest source or target. scale_embeddings: multiply them by √d_model.
    output_bias: added to the logits. pad_id, begin_id, end_id: the special tokens.
    """

    source_vocab: int
    target_vocab: int | None = None
    d_model: int = 512
    num_heads: int = 8
    num_encoder_layers: int = 6
    num_decoder_layers: int = 6
    d_ff: int = 2048
    dropout: float = 0.1
    order: Order = "post"
    activation: Activation = "relu"
    positions: Positions = "sinusoidal"
    tie_weights: bool = True
    max_length: int = 512
    scale_embeddings: bool = True
    output_bias: bool = False
    pad_id: int = 0
    begin_id: int = 1
    end_id: int = 2

    def __post_init__(self) -> None:
        if self.positions not in get_args(Positions):
            raise ValueError(
                f"positions={self.positions!r}; expected one of {', '.join(get_args(Positions))}"
            )

    def block(self, cross_attention: bool) -> BlockConfig:
        """What the encoder's blocks are made of, or with cross_attention the decoder's."""
        return BlockConfig(
            d_model=self.d_model,
            num_heads=self.num_heads,
            d_ff=self.d_ff,
            order=self.order,
            activation=self.activation,
            dropout=self.dropout,
            cross_attention=cross_attention,
        )


@dataclass(frozen=True)
class TransformerOutput:
    """logits: (b, t, v), at position i those of the token after target token i. memory: (b, s, d).

    blocks: what each decoder block returned; with return_weights their `weights` (b, h, t, t) and
    `cross_weights` (b, h, t, s).
    """

    logits: Tensor
    memory: Tensor
    blocks: tuple[BlockOutput, ...]


class Embedding(nn.Module):
    """Tokens as vectors, times √d_model, plus positions, then dropout (§3.4, §3.5, §5.4)."""

    positions: Tensor

    def __init__(self, config: TransformerConfig, vocab: int) -> None:
        super().__init__()
        self.scale = math.sqrt(config.d_model) if config.scale_embeddings else 1.0
        self.tokens = nn.Embedding(vocab, config.d_model)
        if config.positions == "learned":
            self.positions = nn.Parameter(torch.empty(config.max_length, config.d_model))
        else:
            table = sinusoidal_table(config.max_length, config.d_model)
            if config.positions == "sinusoidal_halves":
                table = torch.cat([table[:, 0::2], table[:, 1::2]], dim=1)
            self.register_buffer("positions", table, persistent=False)
        self.dropout = Dropout(config.dropout)

    def forward(self, ids: Tensor, offset: int = 0) -> Tensor:
        """(b, n) → (b, n, d); the first token stands at position `offset`."""
        expect_shape(ids, "batch tokens")
        end = offset + ids.shape[1]
        if end > len(self.positions):
            raise ValueError(f"{end} tokens are more than max_length={len(self.positions)}; shorten the text")
        return self.dropout(self.scale * self.tokens(ids) + self.positions[offset:end])


class Transformer(nn.Module):
    """Encoder and decoder, the embeddings before them and the projection behind."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        shared = config.target_vocab is None
        target_vocab = config.source_vocab if config.target_vocab is None else config.target_vocab
        self.source_embedding = None if shared else Embedding(config, config.source_vocab)
        self.target_embedding = Embedding(config, target_vocab)
        self.encoder = TransformerStack(config.block(cross_attention=False), config.num_encoder_layers)
        self.decoder = TransformerStack(config.block(cross_attention=True), config.num_decoder_layers)
        self.projection = None if config.tie_weights else nn.Linear(config.d_model, target_vocab, bias=False)
        self.output_bias = nn.Parameter(torch.zeros(target_vocab)) if config.output_bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew: Xavier's for matrices, and embeddings that are of size 1 once scaled."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, Embedding):
                nn.init.normal_(module.tokens.weight, std=1 / module.scale)
                if isinstance(module.positions, nn.Parameter):
                    nn.init.normal_(module.positions, std=0.02)

    def forward(
        self,
        source_ids: Tensor,
        target_ids: Tensor,
        source_mask: Tensor | None = None,
        target_mask: Tensor | None = None,
        *,
        return_weights: bool = False,
    ) -> TransformerOutput:
        """All positions at once, as in training: source_ids (b, s), target_ids (b, t) → logits (b, t, v).

        target_ids begin with begin_id; position i of the logits is for the token that follows, since no
        position sees those behind it. source_mask: (b, s), boolean, True = a token; where source_ids differ
        from pad_id when None. target_mask: (b, t), likewise, needed only where padding stands *before*
        tokens: padding behind them lies in the future, which they do not see.
        """
        source_mask = self.real_tokens(source_ids) if source_mask is None else source_mask
        memory = self.encode(source_ids, source_mask)
        return self.decode(target_ids, memory, source_mask, target_mask, return_weights=return_weights)

    def real_tokens(self, ids: Tensor) -> Tensor:
        """Where ids (b, n) are no padding, (b, n)."""
        return ids != self.config.pad_id

    def encode(self, source_ids: Tensor, source_mask: Tensor | None = None) -> Tensor:
        """The memory: source_ids (b, s) → (b, s, d). source_mask: as in `forward`."""
        source_mask = self.real_tokens(source_ids) if source_mask is None else source_mask
        embed = self.target_embedding if self.source_embedding is None else self.source_embedding
        return self.encoder(embed(source_ids), mask=over_keys(source_mask, source_ids)).hidden_states

    def new_cache(self) -> KeyValueCache:
        """An empty cache for `decode`."""
        return KeyValueCache(self.config.num_decoder_layers)

    def decode(
        self,
        target_ids: Tensor,
        memory: Tensor,
        source_mask: Tensor | None,
        target_mask: Tensor | None = None,
        *,
        cache: KeyValueCache | None = None,
        return_weights: bool = False,
    ) -> TransformerOutput:
        """target_ids (b, t) and memory (b, s, d) → logits (b, t, v).

        source_mask: (b, s), True = a token of the source; None where no source has padding.
        cache: target_ids are then the new tokens alone; they go on where the cache ends, and are added to it.
        target_mask, (b, cache.length + t), then covers those of before, too.
        """
        start = 0 if cache is None else cache.length
        end = start + target_ids.shape[1]
        # One new token sees all before it, and needs no mask for that.
        ahead = None if target_ids.shape[1] == 1 else causal_mask(end - start, end, target_ids.device)
        decoded = self.decoder(
            self.target_embedding(target_ids, start),
            memory,
            combine_masks(ahead, over_keys(target_mask, target_ids, end)),
            over_keys(source_mask, memory),
            cache=cache,
            return_weights=return_weights,
        )
        return TransformerOutput(self.project(decoded.hidden_states), memory, decoded.blocks)

    def project(self, hidden_states: Tensor) -> Tensor:
        """(b, t, d) → logits (b, t, v)."""
        tied = self.target_embedding.tokens.weight if self.projection is None else self.projection.weight
        return F.linear(hidden_states, tied, self.output_bias)

    @classmethod
    def from_torch(
        cls, module: nn.Transformer, source_vocab: int, target_vocab: int | None = None
    ) -> Transformer:
        """The stacks with a copy of the weights of `nn.Transformer`; it has no embeddings, so ours are new.

        torch puts a norm behind its stacks in both orders, so that in post-norm order there are two in a row.
        """
        encoder = [TransformerBlock.from_torch(layer) for layer in module.encoder.layers]  # type: ignore[arg-type]
        decoder = [TransformerBlock.from_torch(layer) for layer in module.decoder.layers]  # type: ignore[arg-type]
        first = module.encoder.layers[0]
        config = TransformerConfig(
            source_vocab,
            target_vocab,
            d_model=module.d_model,
            num_heads=module.nhead,
            num_encoder_layers=len(encoder),
            num_decoder_layers=len(decoder),
            d_ff=first.linear1.out_features,
            dropout=first.dropout1.p,
            order=encoder[0].config.order,
            activation=encoder[0].config.activation,
        )
        model = cls(config).to(first.linear1.weight)
        for stack, blocks, norm in (
            (model.encoder, encoder, module.encoder.norm),
            (model.decoder, decoder, module.decoder.norm),
        ):
            stack.blocks, stack.final_norm = nn.ModuleList(blocks), None
            if norm is not None:
                stack.final_norm = LayerNorm(config.d_model, norm.eps, norm.bias is not None).to(norm.weight)
                stack.final_norm.load_state_dict(norm.state_dict())
        return model.train(module.training)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Transformer:
        """A published Marian translator, in evaluation mode; see `course_lib.models.marian` for errors."""
        from course_lib.models.marian import read_marian

        config, weights = read_marian(Path(folder))
        model = cls(config)
        model.load_state_dict(weights)
        return model.eval()
