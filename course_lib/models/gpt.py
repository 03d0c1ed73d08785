"""GPT: a stack of causal blocks that predicts the next token (Radford et al. 2019, GPT-2), and its heirs.

Axes: b batch, t tokens given, n those and the cached, h heads, g key/value heads, d d_model, v vocabulary.

    stream = tokens + positions
    stream = stream + attention(norm(stream))             in every block; a token sees itself and those before
    stream = stream + feed_forward(norm(stream))
    logits = head(norm(stream))                           at position i those of token i + 1

Oracles: `GPT2LMHeadModel` and `LlamaForCausalLM` of `transformers`, whose checkpoints load.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.layers.block import Norm
from course_lib.layers.cache import AttentionCache, KeyValueCache
from course_lib.layers.dropout import drop
from course_lib.layers.feed_forward import Activation, FeedForward
from course_lib.layers.masks import causal_mask, combine_masks, over_keys
from course_lib.layers.multi_head import check_heads, explicit_weights, fused_heads, repeat_kv_heads
from course_lib.layers.norms import LayerNorm, RMSNorm
from course_lib.layers.rotary import Rotary, join_pairs, split_pairs
from course_lib.layers.stacked import StackedLinear
from course_lib.shapes import expect_shape

Positions: TypeAlias = Literal["learned", "rotary"]
Attended: TypeAlias = tuple[Tensor, Tensor | None]  # what was read, and the weights where they are asked for


@dataclass(frozen=True)
class GPTConfig:
    """The sizes of the model and its parts; the defaults are GPT-2's (124 million parameters).

    context: the longest text, in tokens. num_kv_heads: num_heads when None; fewer is grouped-query attention.
    d_head: d_model / num_heads when None; d_ff: 4 · d_model. positions: "learned" vectors that are added, or
    "rotary" with rotary_base. activation: GPT-2 itself has "gelu_tanh", which differs by at most 0.0005 and
    takes six times as long on a CPU. qk_norm: queries and keys of one length, no weights (Dehghani et al.
    2023). bias: in linear layers and LayerNorm. tie_weights: the head is the embedding. zero_init: what a
    sublayer adds starts at zero. dropout: on the embedding, attention weights and what a sublayer adds.
    """

    vocab_size: int = 50257
    context: int = 1024
    d_model: int = 768
    num_layers: int = 12
    num_heads: int = 12
    num_kv_heads: int | None = None
    d_head: int | None = None
    d_ff: int | None = None
    positions: Positions = "learned"
    rotary_base: float = 10000.0
    norm: Norm = "layer"
    activation: Activation = "gelu"
    qk_norm: bool = False
    bias: bool = True
    tie_weights: bool = True
    zero_init: bool = False
    dropout: float = 0.0
    eps: float = 1e-5

    def __post_init__(self) -> None:
        check_heads(self.d_model, self.num_heads, self.kv_heads, self.d_head)
        for name, given, kinds in (("positions", self.positions, Positions), ("norm", self.norm, Norm)):
            if given not in get_args(kinds):
                raise ValueError(f"{name}={given!r}; expected one of {', '.join(get_args(kinds))}")

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def head_width(self) -> int:
        """The width of one head."""
        return self.d_model // self.num_heads if self.d_head is None else self.d_head

    def make_norm(self) -> LayerNorm | RMSNorm:
        """A norm of the configured kind."""
        layer = self.norm == "layer"
        return LayerNorm(self.d_model, self.eps, self.bias) if layer else RMSNorm(self.d_model, self.eps)


# GPTConfig(…, **LLAMA) has Llama's shape (Touvron et al. 2023); MODERN learns fastest at a small size.
LLAMA: dict[str, Any] = {"positions": "rotary", "norm": "rms", "activation": "swiglu", "bias": False}
LLAMA |= {"tie_weights": False, "eps": 1e-6}
MODERN = LLAMA | {"activation": "relu2", "qk_norm": True, "zero_init": True}


class Sight(NamedTuple):
    """What attention is told besides the stream, the same in every block.

    mask: (…, t, n), True = may attend; None where every query sees all keys up to its own position.
    rotation: cosine and sine of the positions' angles, (t, d_head / 2) each, where they are rotary.
    """

    mask: Tensor | None
    rotation: tuple[Tensor, Tensor] | None
    return_weights: bool


class CausalAttention(nn.Module):
    """Self-attention with one projection for all queries, keys and values, in this order of its rows."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads = (config.num_heads, config.kv_heads, config.kv_heads)
        self.d_head, self.qk_norm, self.dropout = config.head_width, config.qk_norm, config.dropout
        d, widths = config.d_model, [count * self.d_head for count in self.heads]
        self.query_key_value = StackedLinear(d, widths, bias=config.bias)
        self.output = nn.Linear(widths[0], d, bias=config.bias)

    def forward(self, hidden_states: Tensor, sight: Sight, cache: AttentionCache | None) -> Attended:
        """(b, t, d) → (b, t, d), and the weights (b, h, t, n)."""
        b, t, _ = hidden_states.shape
        packed = self.query_key_value(hidden_states).view(b, t, -1, self.d_head)  # (b, t, h + 2g, d_head)
        query, key, value = (x.transpose(1, 2) for x in packed.split_with_sizes(self.heads, dim=2))
        if self.qk_norm:
            query, key = (F.rms_norm(part, (self.d_head,)) for part in (query, key))
        if sight.rotation is not None:
            query, key = (rotate(part, *sight.rotation) for part in (query, key))
        if cache is not None:
            key, value = cache.extend(key, value)  # (b, g, n, d_head)
        key, value = repeat_kv_heads(key, self.heads[0]), repeat_kv_heads(value, self.heads[0])
        weights, dropout = None, self.dropout if self.training else 0.0
        if sight.return_weights:
            weights = explicit_weights(query, key, sight.mask, None)
            heads = drop(weights, dropout) @ value
        elif sight.mask is None:  # a single query sees all keys, which torch would call not causal
            heads = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=t > 1)
        else:
            heads = fused_heads(query, key, value, sight.mask, None, dropout)
        return self.output(heads.transpose(1, 2).reshape(b, t, -1)), weights


def rotate(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn queries or keys, (b, h, t, d_head), by their positions' angles; see `layers.rotary`."""
    first, second = split_pairs(heads, "half")
    return join_pairs(first * cosine - second * sine, second * cosine + first * sine, "half")


class Block(nn.Module):
    """Attention and a feed-forward layer, each reading the stream through a norm and adding to it."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        d, d_ff, self.dropout = config.d_model, config.d_ff or 4 * config.d_model, config.dropout
        self.attention_norm, self.attention = config.make_norm(), CausalAttention(config)
        self.feed_forward_norm = config.make_norm()
        self.feed_forward = FeedForward(d, d_ff, config.activation, bias=config.bias)

    def forward(self, stream: Tensor, sight: Sight, cache: AttentionCache | None) -> Attended:
        """(b, t, d) → (b, t, d), and the weights (b, h, t, n)."""
        change, weights = self.attention(self.attention_norm(stream), sight, cache)
        stream = stream + (drop(change, self.dropout) if self.training else change)
        change = self.feed_forward(self.feed_forward_norm(stream))
        return stream + (drop(change, self.dropout) if self.training else change), weights


@dataclass(frozen=True)
class GPTOutput:
    """logits: (b, t, v). hidden_states: the stream, num_layers + 1 times (b, t, d), the last one normed.
    attentions: num_layers times (b, h, t, n), or None."""

    logits: Tensor
    hidden_states: tuple[Tensor, ...]
    attentions: tuple[Tensor, ...] | None = None


class GPT(nn.Module):
    """The language model: tokens in, at every position the logits of the token that comes next."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        learned, tied = config.positions == "learned", config.tie_weights
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.positions = nn.Embedding(config.context, config.d_model) if learned else None
        self.rotary = None if learned else Rotary(config.head_width, config.rotary_base)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.final_norm = config.make_norm()
        self.head = None if tied else nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew as GPT-2 does (§2.3): 0.02 wide, narrower where many blocks add up."""
        added = 0.0 if self.config.zero_init else 0.02 * (2 * self.config.num_layers) ** -0.5
        for name, parameter in self.named_parameters():
            if name.endswith(("output.weight", "down.weight")):
                nn.init.normal_(parameter, std=added)
            elif parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        *,
        cache: KeyValueCache | None = None,
        return_weights: bool = False,
    ) -> GPTOutput:
        """ids (b, t) → logits (b, t, v).

        mask: (b, n), boolean, True = a token, False = padding; needed only where padding stands before
        tokens. cache: ids go on where it ends, and are added to it. Raises ValueError beyond the context.
        """
        expect_shape(ids, "batch tokens")
        start = 0 if cache is None else cache.length
        end, stream = start + ids.shape[1], self.tokens(ids)
        if end > self.config.context:
            raise ValueError(f"{end} tokens are more than context={self.config.context}; shorten the text")
        if self.positions is not None:
            stream = stream + self.positions.weight[start:end]
        stream = drop(stream, self.config.dropout) if self.training else stream
        sight = self.sight(ids, mask, start, return_weights)
        streams, attentions = [stream], []
        for index, block in enumerate(self.blocks):
            stream, weights = block(stream, sight, cache and cache.blocks[index].attention)
            streams.append(stream)
            attentions.append(weights)
        streams[-1] = self.final_norm(stream)
        logits = F.linear(streams[-1], self.tokens.weight if self.head is None else self.head.weight)
        return GPTOutput(logits, tuple(streams), tuple(attentions) if return_weights else None)

    def sight(self, ids: Tensor, mask: Tensor | None, start: int, return_weights: bool) -> Sight:
        """What the blocks are told; the causal mask is written out only where torch cannot see to it."""
        length, device = ids.shape[1], ids.device
        written = length > 1 and (return_weights or mask is not None or start > 0)
        ahead = causal_mask(length, start + length, device) if written else None
        rotation = None
        if self.rotary is not None:
            angles = self.rotary.angles(torch.arange(start, start + length, device=device))
            rotation = angles.cos(), angles.sin()
        return Sight(combine_masks(ahead, over_keys(mask, ids, start + length)), rotation, return_weights)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path) -> GPT:
        """A published GPT-2 or Llama, in evaluation mode; see `course_lib.hub` for where it looks."""
        from course_lib.hub import from_pretrained

        return from_pretrained(name_or_path, cls)
