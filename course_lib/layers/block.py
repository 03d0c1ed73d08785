"""The Transformer's block, in the order of 2017, of today, and with ResiDual's two streams.

Axes: b batch, h heads, q positions, k positions attended to, d_model width of a token.

The residual stream is the tensor that runs through all blocks. Each sublayer (attention, feed-forward) reads
from it, and what it returns is added to it. `order` says where the norm stands:

    post            stream = norm(stream + change(stream))          Vaswani et al. 2017
    pre             stream = stream + change(norm(stream))          Xiong et al. 2020
    residual_dual   as post, and dual = dual + change beside it     Xie et al. 2023 (ResiDual)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.layers.cache import BlockCache, KeyValueCache
from course_lib.layers.dropout import Dropout
from course_lib.layers.feed_forward import Activation, FeedForward
from course_lib.layers.multi_head import MultiHeadAttention, Rotation
from course_lib.layers.norms import LayerNorm, RMSNorm

Norm: TypeAlias = Literal["layer", "rms"]
Order: TypeAlias = Literal["pre", "post", "residual_dual"]
TorchBlock: TypeAlias = nn.TransformerEncoderLayer | nn.TransformerDecoderLayer


@dataclass(frozen=True)
class BlockConfig:
    """What a block is made of; the defaults are GPT-2's.

    d_ff: width inside the feed-forward layer. num_kv_heads: heads of keys and values, num_heads when None.
    d_head: width of one head, d_model / num_heads when None. cross_attention: a second attention, to a
    context. bias: in all linear layers and in LayerNorm. dropout: on attention weights, inside the
    feed-forward layer, and on what each sublayer adds to the stream. eps: of the norms.
    """

    d_model: int
    num_heads: int
    d_ff: int
    norm: Norm = "layer"
    order: Order = "pre"
    activation: Activation = "gelu"
    dropout: float = 0.0
    bias: bool = True
    num_kv_heads: int | None = None
    d_head: int | None = None
    cross_attention: bool = False
    eps: float = 1e-5

    def __post_init__(self) -> None:
        for name, value, known in (
            ("norm", self.norm, ("layer", "rms")),
            ("order", self.order, ("pre", "post", "residual_dual")),
        ):
            if value not in known:
                raise ValueError(f"{name}={value!r}; expected one of {', '.join(known)}")

    def make_norm(self) -> LayerNorm | RMSNorm:
        """A norm of the configured kind, for tokens of width d_model."""
        if self.norm == "rms":
            return RMSNorm(self.d_model, self.eps)
        return LayerNorm(self.d_model, self.eps, self.bias)

    def make_attention(self) -> MultiHeadAttention:
        """An attention layer as configured."""
        return MultiHeadAttention(
            self.d_model,
            self.num_heads,
            self.num_kv_heads,
            d_head=self.d_head,
            bias=self.bias,
            dropout=self.dropout,
        )


@dataclass(frozen=True)
class BlockOutput:
    """hidden_states: (b, q, d_model). dual: ResiDual's second stream, of the same shape, else None.

    weights, cross_weights: (b, h, q, k), where they were asked for.
    """

    hidden_states: Tensor
    dual: Tensor | None = None
    weights: Tensor | None = None
    cross_weights: Tensor | None = None


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention where configured, and feed-forward, each added to the stream.

    Oracles: `nn.TransformerEncoderLayer` and `nn.TransformerDecoderLayer`; `from_torch` loads their weights.
    """

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.config = config
        self.order = config.order
        self.attention_norm = config.make_norm()
        self.attention = config.make_attention()
        self.cross_norm = config.make_norm() if config.cross_attention else None
        self.cross_attention = config.make_attention() if config.cross_attention else None
        self.feed_forward_norm = config.make_norm()
        self.feed_forward = FeedForward(
            config.d_model, config.d_ff, config.activation, bias=config.bias, dropout=config.dropout
        )
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        hidden_states: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        context_mask: Tensor | None = None,
        *,
        dual: Tensor | None = None,
        rotate: Rotation | None = None,
        score_bias: Tensor | None = None,
        return_weights: bool = False,
        cache: BlockCache | None = None,
    ) -> BlockOutput:
        """hidden_states (b, q, d_model) → the same shape; context (b, k, d_model) for cross-attention.

        mask, context_mask: boolean, True = may attend, broadcastable to (b, h, q, q) and (b, h, q, k).
        rotate, score_bias: for self-attention alone, as `MultiHeadAttention` takes them.
        dual: ResiDual's second stream; in the first block, and when None, hidden_states itself.
        cache: of earlier positions, which the mask's keys then include; the new ones are added to it.
        Raises ValueError when a context is given or missing against the configuration.
        """
        self._check_context(context)
        stream, dual = hidden_states, self._start(hidden_states, dual)
        found = self.attention(
            self._read(stream, self.attention_norm),
            mask=mask,
            rotate=rotate,
            score_bias=score_bias,
            return_weights=return_weights,
            cache=None if cache is None else cache.attention,
        )
        change, weights = found if isinstance(found, tuple) else (found, None)
        stream, dual = self._write(stream, dual, change, self.attention_norm)
        cross_weights = None
        if self.cross_attention is not None and self.cross_norm is not None:
            found = self.cross_attention(
                self._read(stream, self.cross_norm),
                context,
                context_mask,
                return_weights=return_weights,
                cache=None if cache is None else cache.cross_attention,
            )
            change, cross_weights = found if isinstance(found, tuple) else (found, None)
            stream, dual = self._write(stream, dual, change, self.cross_norm)
        change = self.feed_forward(self._read(stream, self.feed_forward_norm))
        stream, dual = self._write(stream, dual, change, self.feed_forward_norm)
        return BlockOutput(stream, dual, weights, cross_weights)

    def _read(self, stream: Tensor, norm: nn.Module) -> Tensor:
        """What a sublayer is given."""
        return norm(stream) if self.order == "pre" else stream

    def _write(
        self, stream: Tensor, dual: Tensor | None, change: Tensor, norm: nn.Module
    ) -> tuple[Tensor, Tensor | None]:
        """The streams after a sublayer's change."""
        change = self.dropout(change)
        if self.order == "pre":
            return stream + change, None
        return norm(stream + change), None if dual is None else dual + change

    def _start(self, hidden_states: Tensor, dual: Tensor | None) -> Tensor | None:
        if self.order != "residual_dual":
            return None
        return hidden_states if dual is None else dual

    def _check_context(self, context: Tensor | None) -> None:
        if self.cross_attention is None and context is not None:
            raise ValueError("a context was given; build the block with cross_attention=True to use it")
        if self.cross_attention is not None and context is None:
            raise ValueError("this block has cross-attention; give it a context (b, k, d_model)")

    @classmethod
    def from_torch(cls, layer: TorchBlock) -> TransformerBlock:
        """The same block with a copy of the weights of torch's encoder or decoder layer.

        Raises ValueError for an activation other than ReLU and GELU.
        """
        cross = isinstance(layer, nn.TransformerDecoderLayer)
        config = BlockConfig(
            d_model=layer.self_attn.embed_dim,
            num_heads=layer.self_attn.num_heads,
            d_ff=layer.linear1.out_features,
            order="pre" if layer.norm_first else "post",
            activation=_activation_of(layer.activation),
            dropout=layer.dropout1.p,
            bias=layer.linear1.bias is not None,
            cross_attention=cross,
            eps=layer.norm1.eps,
        )
        block = cls(config).to(layer.linear1.weight)
        block.attention = MultiHeadAttention.from_torch(layer.self_attn)
        pairs: list[tuple[nn.Module | None, nn.Module]] = [(block.attention_norm, layer.norm1)]
        if isinstance(layer, nn.TransformerDecoderLayer):
            block.cross_attention = MultiHeadAttention.from_torch(layer.multihead_attn)
            pairs += [(block.cross_norm, layer.norm2), (block.feed_forward_norm, layer.norm3)]
        else:
            pairs += [(block.feed_forward_norm, layer.norm2)]
        pairs += [(block.feed_forward.up, layer.linear1), (block.feed_forward.down, layer.linear2)]
        for ours, theirs in pairs:
            assert ours is not None
            ours.load_state_dict(theirs.state_dict())
        return block.train(layer.training)


def _activation_of(function: Callable[[Tensor], Tensor]) -> Activation:
    if function is F.relu or isinstance(function, nn.ReLU):
        return "relu"
    if function is F.gelu or isinstance(function, nn.GELU):
        return "gelu"
    raise ValueError(f"activation {function!r} has no counterpart here; expected ReLU or GELU")


@dataclass(frozen=True)
class StackOutput:
    """hidden_states: (b, q, d_model), after the final norm. blocks: what each block returned, in order."""

    hidden_states: Tensor
    blocks: tuple[BlockOutput, ...]


class TransformerStack(nn.Module):
    """num_layers blocks one after another, and the norm that their order needs at the end.

    pre: the stream was never normalised, so a final norm is. post: the last block ends with its norm.
    residual_dual: the stream, and beside it the second stream normalised, are added up.
    Oracles: `nn.TransformerEncoder` and `nn.TransformerDecoder`.
    """

    def __init__(self, config: BlockConfig, num_layers: int) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"num_layers={num_layers}; a stack has at least 1 block")
        self.order = config.order
        self.blocks = nn.ModuleList(TransformerBlock(config) for _ in range(num_layers))
        self.final_norm = None if config.order == "post" else config.make_norm()

    def forward(
        self,
        hidden_states: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        context_mask: Tensor | None = None,
        *,
        rotate: Rotation | None = None,
        score_bias: Tensor | None = None,
        return_weights: bool = False,
        cache: KeyValueCache | None = None,
    ) -> StackOutput:
        """hidden_states (b, q, d_model) → the same shape; every block is given the same further arguments.

        cache: each block gets its part. Raises ValueError where it was made for another number of layers.
        """
        if cache is not None and len(cache.blocks) != len(self.blocks):
            raise ValueError(f"the cache has {len(cache.blocks)} layers; expected {len(self.blocks)}")
        outputs: list[BlockOutput] = []
        last = BlockOutput(hidden_states)
        for index, block in enumerate(self.blocks):
            last = block(
                last.hidden_states,
                context,
                mask,
                context_mask,
                dual=last.dual,
                rotate=rotate,
                score_bias=score_bias,
                return_weights=return_weights,
                cache=None if cache is None else cache.blocks[index],
            )
            outputs.append(last)
        return StackOutput(self._finish(last), tuple(outputs))

    def _finish(self, last: BlockOutput) -> Tensor:
        if self.final_norm is None:
            return last.hidden_states
        if last.dual is None:
            return self.final_norm(last.hidden_states)
        return last.hidden_states + self.final_norm(last.dual)
