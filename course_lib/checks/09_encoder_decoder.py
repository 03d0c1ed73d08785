"""Exercises of 09_encoder_decoder: what is asked, what is right, and how people go wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.block import BlockConfig, TransformerBlock
from ..layers.feed_forward import FeedForward
from ..layers.masks import causal_mask, combine_masks
from ..layers.multi_head import MultiHeadAttention, merge_heads, split_heads
from ..layers.positions import sinusoidal_table
from .exercise import Case, Exercise, Misconception, Tolerance
from .probes import encoder_decoder as probes

# The library's own model and torch's are no answers, nor parts of one.
MODELS = (
    "course_lib.models.transformer.Transformer",
    "course_lib.models.transformer.Embedding",
    "torch.nn.Transformer",
    "torch.nn.TransformerEncoder",
    "torch.nn.TransformerDecoder",
    "torch.nn.TransformerEncoderLayer",
    "torch.nn.TransformerDecoderLayer",
)
BLOCKS = ("course_lib.layers.block.TransformerBlock", "course_lib.layers.block.TransformerStack")
PAD, BEGIN, END = 0, 1, 2

# --- encoder_decoder/shift_targets -------------------------------------------------------------


def shift_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Sentences of different lengths, then of one length, one alone, an empty one, other special tokens."""
    yield _shift_case(rng, "two sentences", (4, 2))
    yield _shift_case(rng, "sentences of one length", (3, 3, 3))
    yield _shift_case(rng, "the shortest first", (1, 5, 3))
    yield _shift_case(rng, "one sentence alone", (4,), hidden=True)
    yield _shift_case(rng, "an empty sentence", (0, 3), hidden=True)
    yield _shift_case(rng, "other special tokens", (2, 5, 4), special=(97, 98, 99), hidden=True)


def _shift_case(
    rng: np.random.Generator,
    name: str,
    lengths: tuple[int, ...],
    special: tuple[int, int, int] = (PAD, BEGIN, END),
    hidden: bool = False,
) -> Case:
    sentences = [[int(token) for token in rng.integers(3, 90, size=length)] for length in lengths]
    pad_id, begin_id, end_id = special
    return Case(
        name, {"sentences": sentences, "pad_id": pad_id, "begin_id": begin_id, "end_id": end_id}, hidden
    )


Shifted = tuple[Tensor, Tensor, int]


def _shift(sentences: list[list[int]], begin_id: int, end_id: int, pad_id: int) -> Shifted:
    """The reference."""
    width = max(map(len, sentences)) + 2
    rows = [[begin_id, *sentence, end_id] for sentence in sentences]
    padded = torch.tensor([row + [pad_id] * (width - len(row)) for row in rows])
    return padded[:, :-1], padded[:, 1:], sum(len(sentence) + 1 for sentence in sentences)


def _shift_with_pad_sequence(sentences: list[list[int]], begin_id: int, end_id: int, pad_id: int) -> Shifted:
    rows = [torch.tensor([begin_id, *sentence, end_id]) for sentence in sentences]
    padded = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad_id)
    targets = padded[:, 1:].clone()
    return padded[:, :-1].contiguous(), targets, int((targets != pad_id).sum())


def _shift_by_filling(sentences: list[list[int]], begin_id: int, end_id: int, pad_id: int) -> Shifted:
    longest = max(len(sentence) for sentence in sentences)
    inputs, targets = torch.full((2, len(sentences), longest + 1), pad_id)
    inputs[:, 0] = begin_id
    for row, sentence in enumerate(sentences):
        n = len(sentence)
        tokens = torch.tensor(sentence, dtype=torch.long)
        inputs[row, 1 : n + 1] = tokens
        targets[row, :n], targets[row, n] = tokens, end_id
        if n < longest:
            inputs[row, n + 1] = end_id
    return inputs, targets, len(sentences) + sum(map(len, sentences))


def _wrong_shift(
    *,
    begin: bool = True,
    end: str = "after the sentence",
    shifted: bool = True,
    direction: str = "right",
    side: str = "right",
    padding: str = "pad_id",
    count: str = "targets",
) -> Callable[..., Any]:
    """Shifted targets with one thing wrong; by default nothing is."""

    def shift(sentences: list[list[int]], begin_id: int, end_id: int, pad_id: int) -> Any:
        filler = {"pad_id": pad_id, "zero": 0, "end_id": end_id}[padding]
        width = max(map(len, sentences)) + 2
        rows = []
        for sentence in sentences:
            row = [begin_id, *sentence] if begin else list(sentence)
            row = row if end == "missing" else [*row, end_id]
            room = [filler] * (width - len(row) - (not begin) - (end == "missing"))
            if end == "after the padding":
                row = [*row[:-1], *room, end_id]
            else:
                row = room + row if side == "left" else row + room
            rows.append(row)
        padded = torch.tensor(rows)
        inputs, targets = padded[:, :-1], padded[:, 1:]
        if not shifted:
            targets = inputs
        if direction == "left":
            inputs, targets = targets, inputs
        tokens = sum(len(sentence) for sentence in sentences)
        number = {"targets": tokens + len(sentences), "all places": targets.numel(), "tokens": tokens}
        return inputs, targets, number[count]

    return shift


SHIFT = Exercise(
    id="encoder_decoder/shift_targets",
    title="Shifted inputs and targets",
    points=2,
    minutes=15,
    difficulty=1,
    cases=shift_cases,
    probe=probes.shift,
    reference=_shift,
    also_right=(_shift_with_pad_sequence, _shift_by_filling),
    forbidden=(*MODELS, *BLOCKS),
    misconceptions=(
        Misconception(
            "the targets are not shifted",
            _wrong_shift(shifted=False),
            "Input and target are the same, so the model is asked for the token that it is looking at. The target "
            "at position i is the token that stands at i + 1 in the input.",
        ),
        Misconception(
            "input and target are exchanged",
            _wrong_shift(direction="left"),
            "The decoder is given the sentence from its beginning on, and asked for what follows. Yours is given "
            "what follows and asked for what was before.",
        ),
        Misconception(
            "begin is missing",
            _wrong_shift(begin=False),
            "Before the first token has been written, the decoder needs something to stand on: every input row "
            "starts with `begin_id`.",
        ),
        Misconception(
            "end is missing",
            _wrong_shift(end="missing"),
            "A model that is never asked for `end_id` never learns to stop. It follows every sentence as the last "
            "target.",
        ),
        Misconception(
            "end stands after the padding",
            _wrong_shift(end="after the padding"),
            "`end_id` follows the sentence's own last token. Put it there first, and pad afterwards.",
        ),
        Misconception(
            "the padding stands before the sentence",
            _wrong_shift(side="left"),
            "Padding fills the rows up at their right ends, behind `end_id`.",
        ),
        Misconception(
            "the padding is always 0",
            _wrong_shift(padding="zero"),
            "The padding token is `pad_id`, whatever its number is.",
        ),
        Misconception(
            "rows are padded with end",
            _wrong_shift(padding="end_id"),
            "Padding has a token of its own, `pad_id`. Filled up with `end_id`, a row would have many ends, and all "
            "of them would count as targets.",
        ),
        Misconception(
            "padding is counted",
            _wrong_shift(count="all places"),
            "The loss is averaged over real targets. Count the places where a target is no padding.",
        ),
        Misconception(
            "end is not counted",
            _wrong_shift(count="tokens"),
            "`end_id` is a target like any other: each sentence counts its tokens and one more.",
        ),
    ),
    hints=(
        "Write one row on paper: begin, the tokens, end. Which part of it is the input, and which the target?",
        "Make rows `[begin_id, *sentence, end_id]`, pad them all to the longest, and look at the whole table: "
        "the input is all columns but the last, the target all but the first.",
        "`padded = torch.tensor([row + [pad_id] * (width - len(row)) for row in rows])`, then `padded[:, :-1]` "
        "and `padded[:, 1:]`; each sentence has `len(sentence) + 1` targets.",
    ),
)

# --- encoder_decoder/count_parameters ----------------------------------------------------------


def count_cases(rng: np.random.Generator) -> Iterator[Case]:
    """The paper's base and big models, untied weights, one layer, a narrow inner layer."""
    yield _count_case("the base model", 37000, 512, 8, 2048, 6)
    yield _count_case("the base model, untied", 37000, 512, 8, 2048, 6, tied=False)
    d_model, d_ff = 8 * int(rng.integers(3, 40)), int(rng.integers(50, 400))
    vocab, layers = int(rng.integers(100, 900)), int(rng.integers(2, 6))
    yield _count_case("other sizes", vocab, d_model, 4, d_ff, layers, tied=True)
    yield _count_case("the big model", 37000, 1024, 16, 4096, 6, hidden=True)
    d_model = 2 * int(rng.integers(5, 30))
    yield _count_case("one layer and one head", vocab, d_model, 1, 7, 1, tied=False, hidden=True)


def _count_case(
    name: str,
    vocab: int,
    d_model: int,
    num_heads: int,
    d_ff: int,
    num_layers: int,
    tied: bool | None = None,
    hidden: bool = False,
) -> Case:
    sizes = {"vocab": vocab, "d_model": d_model, "num_heads": num_heads, "d_ff": d_ff}
    return Case(name, sizes | {"num_layers": num_layers, "tied": tied}, hidden)


Counts = tuple[int, int, int]


def _count(vocab: int, d_model: int, num_heads: int, d_ff: int, num_layers: int, tied: bool = True) -> Counts:
    """The reference."""
    attention = 4 * (d_model * d_model + d_model)
    feed_forward = d_model * d_ff + d_ff + d_ff * d_model + d_model
    norm = 2 * d_model
    encoder = num_layers * (attention + feed_forward + 2 * norm)
    decoder = num_layers * (2 * attention + feed_forward + 3 * norm)
    return (1 if tied else 3) * vocab * d_model, encoder, decoder


def _count_from_modules(
    vocab: int, d_model: int, num_heads: int, d_ff: int, num_layers: int, tied: bool = True
) -> Counts:
    def size(*modules: nn.Module) -> int:
        return sum(parameter.numel() for module in modules for parameter in module.parameters())

    with torch.device("meta"):
        attention = [nn.Linear(d_model, d_model) for _ in range(4)]
        feed_forward = [nn.Linear(d_model, d_ff), nn.Linear(d_ff, d_model)]
        norm = nn.LayerNorm(d_model)
        tables = [nn.Embedding(vocab, d_model)] * (1 if tied else 3)
    layer = size(*attention, *feed_forward, norm, norm)
    return size(*tables), num_layers * layer, num_layers * (layer + size(*attention, norm))


def _count_as_polynomial(
    vocab: int, d_model: int, num_heads: int, d_ff: int, num_layers: int, tied: bool = True
) -> Counts:
    d, f = d_model, d_ff
    layer = 4 * d**2 + 2 * d * f + f + 9 * d
    embeddings = vocab * d if tied else 3 * vocab * d
    return embeddings, layer * num_layers, (layer + 4 * d**2 + 6 * d) * num_layers


def _wrong_count(
    *,
    biases: bool = True,
    per_head: bool = False,
    matrices: int = 4,
    cross: bool = True,
    norm_parts: int = 2,
    encoder_norms: int = 2,
    decoder_norms: int = 3,
    inner: int = 2,
    layers: str = "all",
    tables: tuple[int, int] = (1, 3),
    final_norms: bool = False,
) -> Callable[..., Counts]:
    """A count with one thing wrong; by default nothing is."""

    def count(
        vocab: int, d_model: int, num_heads: int, d_ff: int, num_layers: int, tied: bool = True
    ) -> Counts:
        projection = d_model * d_model + (d_model if biases else 0)
        attention = matrices * projection * (num_heads if per_head else 1)
        feed_forward = inner * d_model * d_ff
        if biases:
            feed_forward += d_ff + (d_model if inner == 2 else 0)
        norm = norm_parts * d_model
        encoder = attention + feed_forward + encoder_norms * norm
        decoder = (2 if cross else 1) * attention + feed_forward + decoder_norms * norm
        repeats = num_layers if layers == "all" else 1
        final = norm if final_norms else 0
        held = tables[0] if tied else tables[1]
        return held * vocab * d_model, repeats * encoder + final, repeats * decoder + final

    return count


COUNT = Exercise(
    id="encoder_decoder/count_parameters",
    title="The parameters, counted by hand",
    points=2,
    minutes=20,
    difficulty=2,
    cases=count_cases,
    probe=probes.count_parameters,
    reference=_count,
    also_right=(_count_from_modules, _count_as_polynomial),
    forbidden=(*MODELS, *BLOCKS),
    misconceptions=(
        Misconception(
            "every head has a full matrix",
            _wrong_count(per_head=True),
            "The heads share out the rows of one matrix of d_model × d_model. However many heads there are, "
            "their number does not change.",
        ),
        Misconception(
            "the biases are left out",
            _wrong_count(biases=False),
            "Each of attention's four projections has a bias of d_model numbers, and the feed-forward layer one of "
            "d_ff and one of d_model.",
        ),
        Misconception(
            "attention's output projection is left out",
            _wrong_count(matrices=3),
            "Attention has four projections: query, key, value, and the output projection W_O that mixes the heads.",
        ),
        Misconception(
            "the decoder has no cross-attention",
            _wrong_count(cross=False),
            "A decoder layer has two attentions, one to the target and one to the memory, with four projections "
            "each.",
        ),
        Misconception(
            "a norm has a weight alone",
            _wrong_count(norm_parts=1),
            "LayerNorm has a weight and a bias for each feature: 2 · d_model numbers.",
        ),
        Misconception(
            "the norms are left out",
            _wrong_count(norm_parts=0),
            "Each sublayer ends with a LayerNorm, and each of those has 2 · d_model numbers.",
        ),
        Misconception(
            "the decoder has two norms a layer",
            _wrong_count(decoder_norms=2),
            "There is one norm for each sublayer, and a decoder layer has three of those.",
        ),
        Misconception(
            "the encoder has one norm a layer",
            _wrong_count(encoder_norms=1),
            "There is one norm for each sublayer, and an encoder layer has two of those: attention and "
            "feed-forward.",
        ),
        Misconception(
            "the feed-forward layer has one matrix",
            _wrong_count(inner=1),
            "It goes from d_model to d_ff and back: two matrices, and a bias for each.",
        ),
        Misconception(
            "one layer is counted",
            _wrong_count(layers="one"),
            "Encoder and decoder have `num_layers` layers each, with weights of their own.",
        ),
        Misconception(
            "tied weights are counted three times",
            _wrong_count(tables=(3, 3)),
            "With tied weights source, target and final projection use one and the same matrix. It is there once.",
        ),
        Misconception(
            "untied, the projection is forgotten",
            _wrong_count(tables=(1, 2)),
            "Untied, there are three matrices of vocab × d_model: for the source, for the target, and the final "
            "projection.",
        ),
        Misconception(
            "a final norm is counted",
            _wrong_count(final_norms=True),
            "The model of 2017 norms after every sublayer. Nothing is left to be normed at the end, so there is no "
            "final norm.",
        ),
    ),
    hints=(
        "Take it apart: how many numbers has one attention, one feed-forward layer, one norm? Then count how many "
        "of each a layer has.",
        "Attention: four matrices of d × d with biases. Feed-forward: d × d_ff and back, with biases. Norm: 2d. An "
        "encoder layer has 1, 1 and 2 of them, a decoder layer 2, 1 and 3.",
        "`attention = 4 * (d * d + d)`, `feed_forward = 2 * d * d_ff + d_ff + d`, `norm = 2 * d`; the number of "
        "heads plays no part. Embeddings are `vocab * d`, three times that if untied.",
    ),
)

# --- encoder_decoder/encoder_layer -------------------------------------------------------------


def _draw(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def _layer_state(rng: np.random.Generator, d_model: int, d_ff: int, cross: bool) -> dict[str, np.ndarray]:
    """Weights of one layer, large enough for every mistake to show."""
    state: dict[str, np.ndarray] = {}
    sizes = {"feed_forward.up": (d_ff, d_model), "feed_forward.down": (d_model, d_ff)}
    for attention in ("attention", "cross_attention")[: 1 + cross]:
        sizes |= {f"{attention}.{part}": (d_model, d_model) for part in ("query", "key", "value", "output")}
    for name, shape in sizes.items():
        state[f"{name}.weight"] = _draw(rng, *shape) * np.float32(1.5 / math.sqrt(shape[1]))
        state[f"{name}.bias"] = _draw(rng, shape[0]) * np.float32(0.3)
    for norm in ("attention_norm", "cross_norm", "feed_forward_norm"):
        if cross or norm != "cross_norm":
            state[f"{norm}.weight"] = 1 + _draw(rng, d_model) * np.float32(0.3)
            state[f"{norm}.bias"] = _draw(rng, d_model) * np.float32(0.3)
    return state


def _tokens(*lengths: int, width: int, left: bool = False) -> np.ndarray:
    """A mask (b, width), True for the first `length` places of each row, or with `left` for the last."""
    mask = np.arange(width) < np.array(lengths)[:, None]
    return mask[:, ::-1].copy() if left else mask


def encoder_cases(rng: np.random.Generator) -> Iterator[Case]:
    """No padding, padding behind and before, as many sentences as tokens, one token alone."""
    yield _encoder_case(rng, "no padding", 5)
    yield _encoder_case(rng, "padding behind", 5, mask=_tokens(5, 3, width=5))
    yield _encoder_case(rng, "as many sentences as tokens", 3, mask=_tokens(3, 2, 1, width=3))
    yield _encoder_case(rng, "padding before", 4, mask=_tokens(2, 4, width=4, left=True), hidden=True)
    yield _encoder_case(rng, "one token alone", 1, hidden=True)
    yield _encoder_case(rng, "one head", 4, mask=_tokens(4, 1, width=4), sizes=(6, 1, 5), hidden=True)


def _encoder_case(
    rng: np.random.Generator,
    name: str,
    length: int,
    *,
    mask: np.ndarray | None = None,
    sizes: tuple[int, int, int] = (8, 2, 12),
    hidden: bool = False,
) -> Case:
    d_model, num_heads, d_ff = sizes
    shape = (2 if mask is None else len(mask), length, d_model)
    inputs: dict[str, Any] = {"d_model": d_model, "num_heads": num_heads, "d_ff": d_ff}
    inputs |= {"state": _layer_state(rng, d_model, d_ff, cross=False), "source_mask": mask}
    inputs |= {"hidden_states": 2 * _draw(rng, *shape), "direction": _draw(rng, *shape)}
    return Case(name, inputs, hidden)


def _over_keys(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask[:, None, None, :]


class _EncoderLayer(nn.Module):
    """The reference."""

    def __init__(self, d_model: int, num_heads: int, d_ff: int) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(d_model, num_heads)
        self.attention_norm = nn.LayerNorm(d_model)
        self.feed_forward = FeedForward(d_model, d_ff, "relu")
        self.feed_forward_norm = nn.LayerNorm(d_model)

    def forward(self, hidden_states: Tensor, source_mask: Tensor | None = None) -> Tensor:
        found = self.attention(hidden_states, mask=_over_keys(source_mask))
        hidden_states = self.attention_norm(hidden_states + found)
        return self.feed_forward_norm(hidden_states + self.feed_forward(hidden_states))


class _EncoderLayerWithSDPA(_EncoderLayer):
    """The same parts, used by hand."""

    def forward(self, hidden_states: Tensor, source_mask: Tensor | None = None) -> Tensor:
        layer = self.attention
        query, key, value = (
            split_heads(part(hidden_states), layer.num_heads)
            for part in (layer.query, layer.key, layer.value)
        )
        mask = None if source_mask is None else source_mask.unsqueeze(1).unsqueeze(2)
        heads = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = self.attention_norm(layer.output(merge_heads(heads)) + hidden_states)
        inner = torch.relu(self.feed_forward.up(x))
        return self.feed_forward_norm(self.feed_forward.down(inner) + x)


class _EncoderLayerWithFullMask(_EncoderLayer):
    """The mask written out for every query."""

    def forward(self, hidden_states: Tensor, source_mask: Tensor | None = None) -> Tensor:
        b, s, _ = hidden_states.shape
        if source_mask is None:
            source_mask = torch.ones(b, s, dtype=torch.bool, device=hidden_states.device)
        full = source_mask.view(b, 1, 1, s).expand(b, 1, s, s)
        for norm, sublayer in (
            (self.attention_norm, partial(self.attention, mask=full)),
            (self.feed_forward_norm, self.feed_forward),
        ):
            hidden_states = norm(torch.add(hidden_states, sublayer(hidden_states)))
        return hidden_states


def _wrong_encoder(
    *,
    masking: str = "right",
    order: str = "post",
    activation: Any = "relu",
    residuals: str = "right",
    norms: str = "right",
) -> type[nn.Module]:
    """An encoder layer with one thing wrong; by default nothing is."""

    class Layer(_EncoderLayer):
        def __init__(self, d_model: int, num_heads: int, d_ff: int) -> None:
            super().__init__(d_model, num_heads, d_ff)
            self.feed_forward = FeedForward(d_model, d_ff, activation)

        def forward(self, hidden_states: Tensor, source_mask: Tensor | None = None) -> Tensor:
            x = hidden_states
            mask = _encoder_mask(masking, source_mask, x.shape[1], x.device)
            first = self.attention_norm
            second = first if norms == "the first twice" else self.feed_forward_norm
            if order == "pre":
                x = x + self.attention(first(x), mask=mask)
                return x + self.feed_forward(second(x))
            found = self.attention(x, mask=mask)
            if norms == "of the change":
                x = x + first(found)
                return x + second(self.feed_forward(x))
            if norms == "at the end alone":
                x = x + found
                return second(x + self.feed_forward(x))
            x = first(found if residuals == "left out" else x + found)
            if residuals == "left out":
                return second(self.feed_forward(x))
            base = hidden_states if residuals == "from the start" else x
            return second(base + self.feed_forward(x))

    return Layer


def _encoder_mask(masking: str, mask: Tensor | None, length: int, device: Any) -> Tensor | None:
    if masking == "causal":
        return combine_masks(causal_mask(length, device=device), _over_keys(mask))
    if mask is None or masking == "ignored":
        return None
    if masking == "over the queries":
        return mask[:, None, :, None]
    if masking == "as it is":
        return mask
    return ~mask[:, None, None, :] if masking == "inverted" else mask[:, None, None, :]


ENCODER = Exercise(
    id="encoder_decoder/encoder_layer",
    title="The encoder's layer",
    points=2,
    minutes=20,
    difficulty=2,
    cases=encoder_cases,
    probe=probes.encoder_layer,
    reference=_EncoderLayer,
    also_right=(_EncoderLayerWithSDPA, _EncoderLayerWithFullMask),
    tolerance=Tolerance(absolute=2e-4, relative=1e-3),
    forbidden=(*MODELS, *BLOCKS),
    library="course_lib.layers.block:TransformerBlock",
    misconceptions=(
        Misconception(
            "the mask is ignored",
            _wrong_encoder(masking="ignored"),
            "The result is the same with and without a mask, so tokens look at padding. Hand it to the attention.",
        ),
        Misconception(
            "the mask is inverted",
            _wrong_encoder(masking="inverted"),
            "True stands for a token, and the attention layer's True means *may attend*: they agree, and nothing "
            "has to be turned round.",
        ),
        Misconception(
            "the mask is laid over the queries",
            _wrong_encoder(masking="over the queries"),
            "It is the *keys* at padding that must not be seen. The axes are (b, h, q, k), so the mask becomes "
            "(b, 1, 1, s).",
        ),
        Misconception(
            "the mask is handed on as it is",
            _wrong_encoder(masking="as it is"),
            "A mask of shape (b, s) would be taken for one of queries and keys, which fits only by accident. Make "
            "it (b, 1, 1, s): one row of keys for all heads and queries of a sentence.",
        ),
        Misconception(
            "the encoder looks only back",
            _wrong_encoder(masking="causal"),
            "The source is there as a whole, so every token may look at every other. The look-ahead mask belongs "
            "into the decoder.",
        ),
        Misconception(
            "the norms come first",
            _wrong_encoder(order="pre"),
            "This is the pre-norm order of later models. In 2017 the norm comes after the addition: "
            "`norm(x + sublayer(x))`.",
        ),
        Misconception(
            "the residuals are left out",
            _wrong_encoder(residuals="left out"),
            "What a sublayer returns is added to what it was given, and the sum is normed.",
        ),
        Misconception(
            "the second residual comes from the layer's input",
            _wrong_encoder(residuals="from the start"),
            "The feed-forward layer's result is added to what it was given, the normed sum after attention, and not "
            "to the layer's input.",
        ),
        Misconception(
            "the norm is taken of the change alone",
            _wrong_encoder(norms="of the change"),
            "The norm comes after the addition, `norm(x + change)`. Yours is `x + norm(change)`.",
        ),
        Misconception(
            "attention has no norm of its own",
            _wrong_encoder(norms="at the end alone"),
            "`attention_norm` is made but not used. Each sublayer's sum is normed before the next sublayer reads it.",
        ),
        Misconception(
            "one norm serves both sublayers",
            _wrong_encoder(norms="the first twice"),
            "Both sums go through `attention_norm`. The second belongs to `feed_forward_norm`.",
        ),
        Misconception(
            "the feed-forward layer has GELU",
            _wrong_encoder(activation="gelu"),
            "The model of 2017 has ReLU between its two linear layers. `FeedForward` takes GELU unless it is given "
            '"relu".',
        ),
    ),
    hints=(
        "There are two sublayers, and the same thing happens around each: what it returns is added to what it was "
        "given, and the sum is normed.",
        "The mask (b, s) says which *keys* may be seen. Attention wants it over (b, h, q, k): "
        "`source_mask[:, None, None, :]`, and nothing where it is None.",
        "`x = self.attention_norm(x + self.attention(x, mask=mask))`, and the same again with `feed_forward` and "
        '`feed_forward_norm`. `FeedForward(d_model, d_ff, "relu")`.',
    ),
)

# --- encoder_decoder/decoder_layer -------------------------------------------------------------


def decoder_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Each mask alone, then together; padding before; equal lengths, where exchanged masks fit; one token."""
    yield _decoder_case(rng, "no padding", (4, 6))
    yield _decoder_case(rng, "padding in the source", (3, 5), source=_tokens(5, 2, width=5))
    yield _decoder_case(rng, "padding in the target", (5, 3), target=_tokens(2, 5, width=5))
    yield _decoder_case(
        rng,
        "padding in both, before the target",
        (4, 4),
        target=_tokens(3, 4, width=4, left=True),
        source=_tokens(4, 2, width=4),
    )
    yield _decoder_case(rng, "one token of the target", (1, 4), source=_tokens(1, 4, width=4), hidden=True)
    yield _decoder_case(rng, "one token of the source", (4, 1), hidden=True)
    yield _decoder_case(
        rng,
        "padding before both",
        (5, 3),
        target=_tokens(2, 5, width=5, left=True),
        source=_tokens(1, 3, width=3, left=True),
        hidden=True,
    )
    yield _decoder_case(rng, "one head", (3, 4), source=_tokens(3, 4, width=4), sizes=(6, 1, 5), hidden=True)


def _decoder_case(
    rng: np.random.Generator,
    name: str,
    lengths: tuple[int, int],
    *,
    target: np.ndarray | None = None,
    source: np.ndarray | None = None,
    sizes: tuple[int, int, int] = (8, 2, 12),
    hidden: bool = False,
) -> Case:
    (t, s), (d_model, num_heads, d_ff) = lengths, sizes
    inputs: dict[str, Any] = {"d_model": d_model, "num_heads": num_heads, "d_ff": d_ff}
    inputs |= {"state": _layer_state(rng, d_model, d_ff, cross=True)}
    inputs |= {"target_mask": target, "source_mask": source}
    inputs |= {"hidden_states": 2 * _draw(rng, 2, t, d_model), "memory": 2 * _draw(rng, 2, s, d_model)}
    return Case(name, inputs | {"direction": _draw(rng, 2, t, d_model)}, hidden)


class _DecoderLayer(nn.Module):
    """The reference."""

    def __init__(self, d_model: int, num_heads: int, d_ff: int) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(d_model, num_heads)
        self.attention_norm = nn.LayerNorm(d_model)
        self.cross_attention = MultiHeadAttention(d_model, num_heads)
        self.cross_norm = nn.LayerNorm(d_model)
        self.feed_forward = FeedForward(d_model, d_ff, "relu")
        self.feed_forward_norm = nn.LayerNorm(d_model)

    def forward(
        self,
        hidden_states: Tensor,
        memory: Tensor,
        target_mask: Tensor | None = None,
        source_mask: Tensor | None = None,
    ) -> Tensor:
        seen = causal_mask(hidden_states.shape[1], device=hidden_states.device)
        if target_mask is not None:
            seen = seen & target_mask[:, None, None, :]
        x = self.attention_norm(hidden_states + self.attention(hidden_states, mask=seen))
        x = self.cross_norm(x + self.cross_attention(x, memory, _over_keys(source_mask)))
        return self.feed_forward_norm(x + self.feed_forward(x))


class _DecoderLayerByTril(_DecoderLayer):
    """The look-ahead mask by `tril`, and both masks written out."""

    def forward(
        self,
        hidden_states: Tensor,
        memory: Tensor,
        target_mask: Tensor | None = None,
        source_mask: Tensor | None = None,
    ) -> Tensor:
        b, t, s = hidden_states.size(0), hidden_states.size(1), memory.size(1)
        every = partial(torch.ones, dtype=torch.bool, device=memory.device)
        target_mask = every(b, t) if target_mask is None else target_mask
        source_mask = every(b, s) if source_mask is None else source_mask
        seen = torch.tril(every(t, t)).logical_and(target_mask.view(b, 1, 1, t))
        x = hidden_states
        for norm, sublayer in (
            (self.attention_norm, partial(self.attention, mask=seen)),
            (self.cross_norm, lambda y: self.cross_attention(y, memory, source_mask.view(b, 1, 1, s))),
            (self.feed_forward_norm, self.feed_forward),
        ):
            x = norm(x + sublayer(x))
        return x


class _DecoderLayerWithSDPA(_DecoderLayer):
    """Attention by torch's function; a query that sees nothing is set to zeros by hand."""

    def attend(self, layer: MultiHeadAttention, x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        query = split_heads(layer.query(x), layer.num_heads)
        key, value = (split_heads(part(context), layer.num_heads) for part in (layer.key, layer.value))
        scores = torch.einsum("bhqd,bhkd->bhqk", query, key) / math.sqrt(query.shape[-1])
        weights = scores.masked_fill(mask.logical_not(), -1e9).softmax(-1) * mask
        return layer.output(merge_heads(weights @ value))

    def forward(
        self,
        hidden_states: Tensor,
        memory: Tensor,
        target_mask: Tensor | None = None,
        source_mask: Tensor | None = None,
    ) -> Tensor:
        t, s = hidden_states.shape[1], memory.shape[1]
        places = torch.arange(t, device=memory.device)
        seen = (places[None, :] <= places[:, None])[None, None]
        if target_mask is not None:
            seen = seen * target_mask[:, None, None, :]
        crossing = torch.ones(1, 1, 1, s, dtype=torch.bool, device=memory.device)
        if source_mask is not None:
            crossing = source_mask[:, None, None, :]
        x = self.attention_norm(
            hidden_states + self.attend(self.attention, hidden_states, hidden_states, seen)
        )
        x = self.cross_norm(x + self.attend(self.cross_attention, x, memory, crossing))
        return self.feed_forward_norm(x + self.feed_forward(x))


def _wrong_decoder(
    *,
    ahead: str = "right",
    combined: str = "and",
    target: str = "right",
    source: str = "right",
    swapped: bool = False,
    ahead_in_cross: bool = False,
    reads: str = "memory",
    asks: str = "the stream",
    order: str = "post",
    sequence: str = "self, cross",
    cross_residual: bool = True,
) -> type[nn.Module]:
    """A decoder layer with one thing wrong; by default nothing is."""

    class Layer(_DecoderLayer):
        def forward(
            self,
            hidden_states: Tensor,
            memory: Tensor,
            target_mask: Tensor | None = None,
            source_mask: Tensor | None = None,
        ) -> Tensor:
            if swapped:
                target_mask, source_mask = source_mask, target_mask
            x, t, s = hidden_states, hidden_states.shape[1], memory.shape[1]
            seen = _look_ahead(ahead, t, x.device)
            padding = _padding(target, target_mask)
            if seen is None or padding is None:
                seen = padding if seen is None else seen
            else:
                seen = seen & padding if combined == "and" else seen | padding
            crossing = _padding(source, source_mask)
            if ahead_in_cross:
                staircase = torch.ones(t, s, dtype=torch.bool, device=x.device).tril()
                crossing = staircase if crossing is None else staircase & crossing
            steps: list[tuple[nn.Module, Callable[[Tensor], Tensor], bool]] = [
                (self.attention_norm, lambda y: self.attention(y, mask=seen), True),
                (self.cross_norm, lambda y: self.cross(y, hidden_states, memory, crossing), cross_residual),
                (self.feed_forward_norm, self.feed_forward, True),
            ]
            if sequence == "cross, self":
                steps[0], steps[1] = steps[1], steps[0]
            if sequence == "self, feed-forward, cross":
                steps[1], steps[2] = steps[2], steps[1]
            for norm, sublayer, residual in steps:
                if order == "pre":
                    x = x + sublayer(norm(x))
                else:
                    x = norm(x + sublayer(x) if residual else sublayer(x))
            return x

        def cross(self, x: Tensor, start: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
            if asks == "the memory":
                return self.cross_attention(memory, x)
            if asks == "the layer's input":
                x = start
            if reads == "the target":
                return self.cross_attention(x)
            return self.cross_attention(x, memory, mask)

    return Layer


def _look_ahead(ahead: str, t: int, device: Any) -> Tensor | None:
    every = torch.ones(t, t, dtype=torch.bool, device=device)
    return {
        "right": every.tril(),
        "missing": None,
        "inverted": every.triu(),
        "without itself": every.tril(-1),
        "one too far": every.tril(1),
    }[ahead]


def _padding(kind: str, mask: Tensor | None) -> Tensor | None:
    if mask is None or kind == "ignored":
        return None
    if kind == "over the queries":
        return mask[:, None, :, None]
    return ~mask[:, None, None, :] if kind == "inverted" else mask[:, None, None, :]


DECODER = Exercise(
    id="encoder_decoder/decoder_layer",
    title="The decoder's layer, with all its masks",
    points=4,
    minutes=40,
    difficulty=3,
    cases=decoder_cases,
    probe=probes.decoder_layer,
    reference=_DecoderLayer,
    also_right=(_DecoderLayerByTril, _DecoderLayerWithSDPA),
    tolerance=Tolerance(absolute=5e-4, relative=2e-3),
    forbidden=(*MODELS, *BLOCKS),
    library="course_lib.layers.block:TransformerBlock",
    misconceptions=(
        Misconception(
            "the look-ahead mask is missing",
            _wrong_decoder(ahead="missing"),
            "A token sees those that come after it, so in training the answer lies open before the model. Position "
            "i may see positions up to i.",
        ),
        Misconception(
            "the look-ahead mask is turned round",
            _wrong_decoder(ahead="inverted"),
            "Your tokens see themselves and what comes *after* them. True means may attend, so it is the lower "
            "triangle that is True.",
        ),
        Misconception(
            "a token does not see itself",
            _wrong_decoder(ahead="without itself"),
            "The inputs are already shifted, so position i may see its own token: the diagonal is True, too.",
        ),
        Misconception(
            "a token sees one too many",
            _wrong_decoder(ahead="one too far"),
            "Position i sees position i + 1, and that is exactly the token it is asked for.",
        ),
        Misconception(
            "the target's padding is seen",
            _wrong_decoder(target="ignored"),
            "`target_mask` is not used. Padding that stands *before* tokens lies in their past, where the look-ahead "
            "mask does not hide it.",
        ),
        Misconception(
            "the source's padding is seen",
            _wrong_decoder(source="ignored"),
            "Cross-attention looks at padding of the source. Hand it `source_mask` as (b, 1, 1, s).",
        ),
        Misconception(
            "the target's mask is inverted",
            _wrong_decoder(target="inverted"),
            "In `target_mask` True stands for a token, which may be seen. Do not turn it round.",
        ),
        Misconception(
            "the source's mask is inverted",
            _wrong_decoder(source="inverted"),
            "In `source_mask` True stands for a token, which may be seen. Do not turn it round.",
        ),
        Misconception(
            "the target's mask is laid over the queries",
            _wrong_decoder(target="over the queries"),
            "It is the *keys* at padding that must not be seen: (b, 1, 1, t), so that the last axis is the keys.",
        ),
        Misconception(
            "the two masks of the target are joined by or",
            _wrong_decoder(combined="or"),
            "A key may be seen where it is no padding *and* does not lie in the future. With or, each mask opens "
            "what the other closes.",
        ),
        Misconception(
            "the masks are exchanged",
            _wrong_decoder(swapped=True),
            "`target_mask` belongs to self-attention, `source_mask` to cross-attention. Where both sentences are "
            "equally long the mistake raises no error.",
        ),
        Misconception(
            "cross-attention has a look-ahead mask",
            _wrong_decoder(ahead_in_cross=True),
            "The source has been read as a whole before the first word is written. Every target position may look "
            "at all of it.",
        ),
        Misconception(
            "cross-attention reads the target",
            _wrong_decoder(reads="the target"),
            "Keys and values of cross-attention come from `memory`. Without it the decoder never hears of the source.",
        ),
        Misconception(
            "the memory asks the target",
            _wrong_decoder(asks="the memory"),
            "Queries come from the target and keys and values from the memory, so the result has one row for each "
            "*target* position.",
        ),
        Misconception(
            "cross-attention asks with the layer's input",
            _wrong_decoder(asks="the layer's input"),
            "The queries of cross-attention are what self-attention and its norm have made, not the layer's input.",
        ),
        Misconception(
            "cross-attention comes first",
            _wrong_decoder(sequence="cross, self"),
            "In the paper's decoder self-attention comes first, then cross-attention, then the feed-forward layer.",
        ),
        Misconception(
            "cross-attention comes last",
            _wrong_decoder(sequence="self, feed-forward, cross"),
            "In the paper's decoder cross-attention stands between self-attention and the feed-forward layer.",
        ),
        Misconception(
            "cross-attention has no residual",
            _wrong_decoder(cross_residual=False),
            "What cross-attention finds is *added* to the stream. Without that, a token forgets what has been "
            "written so far.",
        ),
        Misconception(
            "the norms come first",
            _wrong_decoder(order="pre"),
            "This is the pre-norm order of later models. In 2017 the norm comes after the addition: "
            "`norm(x + sublayer(x))`.",
        ),
    ),
    hints=(
        "Three sublayers, each with a residual and a norm after it. For each attention, ask: whose keys are these, "
        "and which of them must this query not see?",
        "Self-attention hides what lies ahead *and* the target's padding: `causal_mask(t) & "
        "target_mask[:, None, None, :]`. Cross-attention hides the source's padding, and nothing else.",
        "`x = self.attention_norm(x + self.attention(x, mask=seen))`, `x = self.cross_norm(x + "
        "self.cross_attention(x, memory, crossing))`, then the feed-forward layer the same way.",
    ),
)

# --- encoder_decoder/transformer ---------------------------------------------------------------


def transformer_cases(rng: np.random.Generator) -> Iterator[Case]:
    """No padding, padding in the source, two layers, another padding token, one head, single tokens."""
    yield _model_case(rng, "no padding", (6, 6), (4, 4))
    yield _model_case(rng, "padding in the source", (6, 3), (4, 4))
    yield _model_case(rng, "two layers", (3, 5), (4, 2), sizes=(8, 2, 12, 2))
    yield _model_case(rng, "another padding token", (2, 5), (3, 5), pad_id=4)
    yield _model_case(rng, "one head", (5, 2), (6, 3), sizes=(6, 1, 7, 1), hidden=True)
    yield _model_case(rng, "a target of one token", (2, 7), (1, 1), pad_id=0, hidden=True)
    yield _model_case(rng, "a long target", (2, 3), (9, 9), sizes=(8, 4, 6, 1), hidden=True)


def _model_case(
    rng: np.random.Generator,
    name: str,
    source_lengths: tuple[int, int],
    target_lengths: tuple[int, int],
    *,
    pad_id: int | None = None,
    sizes: tuple[int, int, int, int] = (8, 2, 12, 1),
    hidden: bool = False,
) -> Case:
    vocab, (d_model, num_heads, d_ff, num_layers) = 11, sizes
    state = {"embedding.weight": _draw(rng, vocab, d_model) * np.float32(1 / math.sqrt(d_model))}
    for stack in ("encoder", "decoder"):
        for index in range(num_layers):
            layer = _layer_state(rng, d_model, d_ff, cross=stack == "decoder")
            state |= {f"{stack}.{index}.{part}": values for part, values in layer.items()}
    inputs: dict[str, Any] = {"vocab": vocab, "d_model": d_model, "num_heads": num_heads, "d_ff": d_ff}
    inputs |= {"num_layers": num_layers, "pad_id": pad_id, "state": state}
    for part, lengths in (("source_ids", source_lengths), ("target_ids", target_lengths)):
        ids = rng.integers(5, vocab, size=(2, max(lengths)))
        inputs[part] = np.where(_tokens(*lengths, width=max(lengths)), ids, pad_id or 0)
    return Case(name, inputs, hidden)


class _Model(nn.Module):
    """The reference."""

    def __init__(
        self, vocab: int, d_model: int, num_heads: int, d_ff: int, num_layers: int, pad_id: int = 0
    ) -> None:
        super().__init__()
        sizes = (d_model, num_heads, d_ff)
        self.pad_id = pad_id
        self.embedding = nn.Embedding(vocab, d_model)
        self.encoder = nn.ModuleList(_EncoderLayer(*sizes) for _ in range(num_layers))
        self.decoder = nn.ModuleList(_DecoderLayer(*sizes) for _ in range(num_layers))

    def embed(self, ids: Tensor) -> Tensor:
        d_model = self.embedding.embedding_dim
        places = sinusoidal_table(ids.shape[1], d_model).to(ids.device)
        return math.sqrt(d_model) * self.embedding(ids) + places

    def forward(self, source_ids: Tensor, target_ids: Tensor) -> Tensor:
        source_mask, target_mask = source_ids != self.pad_id, target_ids != self.pad_id
        memory = self.embed(source_ids)
        for layer in self.encoder:
            memory = layer(memory, source_mask)
        x = self.embed(target_ids)
        for layer in self.decoder:
            x = layer(x, memory, target_mask, source_mask)
        return x @ self.embedding.weight.T


class _ModelOfBlocks(nn.Module):
    """With the library's blocks, and no mask for the target's padding, which no token sees."""

    def __init__(
        self, vocab: int, d_model: int, num_heads: int, d_ff: int, num_layers: int, pad_id: int = 0
    ) -> None:
        super().__init__()
        self.pad_id, self.d_model = pad_id, d_model
        config = partial(BlockConfig, d_model, num_heads, d_ff, order="post", activation="relu")
        self.embedding = nn.Embedding(vocab, d_model)
        self.encoder = nn.ModuleList(TransformerBlock(config()) for _ in range(num_layers))
        blocks = [TransformerBlock(config(cross_attention=True)) for _ in range(num_layers)]
        self.decoder = nn.ModuleList(blocks)

    def forward(self, source_ids: Tensor, target_ids: Tensor) -> Tensor:
        source, target = (
            self.embedding(ids) * self.d_model**0.5
            + sinusoidal_table(ids.size(1), self.d_model).to(ids.device)
            for ids in (source_ids, target_ids)
        )
        padding = source_ids.ne(self.pad_id)[:, None, None]
        for block in self.encoder:
            source = block(source, mask=padding).hidden_states
        ahead = causal_mask(target_ids.size(1), device=target_ids.device)
        for block in self.decoder:
            target = block(target, source, ahead, padding).hidden_states
        return F.linear(target, self.embedding.weight)


class _ModelWithTable(_Model):
    """Sines and cosines by hand, kept as a buffer, as the paper writes them."""

    table: Tensor

    def __init__(
        self, vocab: int, d_model: int, num_heads: int, d_ff: int, num_layers: int, pad_id: int = 0
    ) -> None:
        super().__init__(vocab, d_model, num_heads, d_ff, num_layers, pad_id)
        places = torch.arange(64)[:, None] / 10000 ** (torch.arange(0, d_model, 2) / d_model)
        table = torch.zeros(64, d_model)
        table[:, 0::2], table[:, 1::2] = places.sin(), places.cos()
        self.register_buffer("table", table)

    def embed(self, ids: Tensor) -> Tensor:
        words = self.embedding.weight[ids]
        return words.mul(words.size(-1) ** 0.5).add(self.table[: ids.size(1)])


def _wrong_model(
    *,
    scale: Callable[[int], float] = math.sqrt,
    positions: str = "added",
    projection: str = "tied",
    source_padding: str = "both",
    padding_is: str = "pad_id",
    ahead: bool = True,
    encoder_ahead: bool = False,
    reads: str = "memory",
    output: Callable[[Tensor], Tensor] | None = None,
    order: Any = "post",
    activation: Any = "relu",
) -> type[nn.Module]:
    """A model with one thing wrong; by default nothing is."""

    class Model(nn.Module):
        def __init__(
            self, vocab: int, d_model: int, num_heads: int, d_ff: int, num_layers: int, pad_id: int = 0
        ) -> None:
            super().__init__()
            self.pad_id = 0 if padding_is == "0" else pad_id
            config = partial(BlockConfig, d_model, num_heads, d_ff, order=order, activation=activation)
            self.embedding = nn.Embedding(vocab, d_model)
            self.encoder = nn.ModuleList(TransformerBlock(config()) for _ in range(num_layers))
            blocks = [TransformerBlock(config(cross_attention=True)) for _ in range(num_layers)]
            self.decoder = nn.ModuleList(blocks)
            if projection == "its own":
                self.projection = nn.Linear(d_model, vocab, bias=False)
            if projection == "two embeddings":
                self.target_embedding = nn.Embedding(vocab, d_model)

        def embed(self, ids: Tensor, part: str) -> Tensor:
            d_model = self.embedding.embedding_dim
            words = self.embedding(ids)
            if positions == "nowhere" or (positions == "source alone" and part == "target"):
                return scale(d_model) * words
            start = 1 if positions == "from 1" else 0
            table = sinusoidal_table(ids.shape[1] + start, d_model).to(ids.device)[start:]
            if positions == "halves":
                table = torch.cat([table[:, 0::2], table[:, 1::2]], dim=1)
            if positions == "scaled, too":
                return scale(d_model) * (words + table)
            return scale(d_model) * words + table

        def forward(self, source_ids: Tensor, target_ids: Tensor) -> Tensor:
            real = (source_ids != self.pad_id)[:, None, None, :]
            if padding_is == "inverted":
                real = ~real
            mask = real if source_padding in ("both", "encoder") else None
            if encoder_ahead:
                staircase = causal_mask(source_ids.shape[1], device=source_ids.device)
                mask = staircase if mask is None else mask & staircase
            memory = embedded = self.embed(source_ids, "source")
            for block in self.encoder:
                memory = block(memory, mask=mask).hidden_states
            if reads == "the embedded source":
                memory = embedded
            x = self.embed(target_ids, "target")
            seen = causal_mask(target_ids.shape[1], device=x.device) if ahead else None
            crossing = real if source_padding in ("both", "cross") else None
            for block in self.decoder:
                x = block(x, memory, seen, crossing).hidden_states
            logits = x @ self.embedding.weight.T
            if projection == "scaled, too":
                logits = logits * math.sqrt(self.embedding.embedding_dim)
            return logits if output is None else output(logits)

    return Model


TRANSFORMER = Exercise(
    id="encoder_decoder/transformer",
    title="The whole model",
    points=4,
    minutes=45,
    difficulty=4,
    cases=transformer_cases,
    probe=probes.transformer,
    reference=_Model,
    also_right=(_ModelOfBlocks, _ModelWithTable),
    tolerance=Tolerance(absolute=1e-3, relative=2e-3),
    forbidden=(*MODELS, "course_lib.layers.block.TransformerStack"),
    library="course_lib.models.transformer:Transformer",
    gpu=True,
    misconceptions=(
        Misconception(
            "the embeddings are not scaled",
            _wrong_model(scale=lambda d_model: 1.0),
            "The embeddings are multiplied by √d_model. They also serve as the final projection, so they are small, "
            "and without the factor the positions would drown them.",
        ),
        Misconception(
            "the embeddings are multiplied by d_model",
            _wrong_model(scale=float),
            "The factor is the square root of d_model.",
        ),
        Misconception(
            "the embeddings are divided by √d_model",
            _wrong_model(scale=lambda d_model: 1 / math.sqrt(d_model)),
            "Attention's scores are divided by √d_k. Embeddings are *multiplied* by √d_model.",
        ),
        Misconception(
            "the positions are scaled, too",
            _wrong_model(positions="scaled, too"),
            "The factor √d_model belongs to the embeddings alone: first multiply, then add the positions.",
        ),
        Misconception(
            "there are no positions",
            _wrong_model(positions="nowhere"),
            "Attention does not know the order of its keys. Add `sinusoidal_table(n, d_model)` to the embeddings.",
        ),
        Misconception(
            "only the source has positions",
            _wrong_model(positions="source alone"),
            "The target needs positions as much as the source does.",
        ),
        Misconception(
            "the positions begin at 1",
            _wrong_model(positions="from 1"),
            "The first token stands at position 0, the first row of the table.",
        ),
        Misconception(
            "all sines come before all cosines",
            _wrong_model(positions="halves"),
            "In the paper's table sines stand in the even columns and cosines in the odd ones. Yours has them in two "
            "halves, which is Marian's order.",
        ),
        Misconception(
            "the projection has weights of its own",
            _wrong_model(projection="its own"),
            "The final projection is tied: it is the transposed embedding matrix, with no parameters of its own.",
        ),
        Misconception(
            "source and target have embeddings of their own",
            _wrong_model(projection="two embeddings"),
            "There is one vocabulary for both languages here, and one embedding for both.",
        ),
        Misconception(
            "the logits are scaled by √d_model",
            _wrong_model(projection="scaled, too"),
            "The factor √d_model belongs to the embeddings on their way in. The final projection is without it.",
        ),
        Misconception(
            "probabilities are returned",
            _wrong_model(output=partial(torch.softmax, dim=-1)),
            "Return the logits. Cross-entropy applies the softmax itself, and twice is once too often.",
        ),
        Misconception(
            "log-probabilities are returned",
            _wrong_model(output=partial(torch.log_softmax, dim=-1)),
            "Return the logits as the projection makes them, without a log-softmax.",
        ),
        Misconception(
            "the look-ahead mask is missing",
            _wrong_model(ahead=False),
            "A target position sees those that come after it: in training the answer lies open, and in use it is "
            "missing.",
        ),
        Misconception(
            "the encoder looks only back",
            _wrong_model(encoder_ahead=True),
            "The look-ahead mask belongs into the decoder. In the encoder every token sees the whole source.",
        ),
        Misconception(
            "the source's padding is never hidden",
            _wrong_model(source_padding="nowhere"),
            "Positions whose id is `pad_id` are no tokens. Hide them in the encoder and in cross-attention.",
        ),
        Misconception(
            "the encoder sees the padding",
            _wrong_model(source_padding="cross"),
            "Cross-attention hides the source's padding, but the encoder's own attention still sees it.",
        ),
        Misconception(
            "cross-attention sees the padding",
            _wrong_model(source_padding="encoder"),
            "The encoder hides the padding from its tokens, but there are memory vectors at padding, too, and "
            "cross-attention still sees those.",
        ),
        Misconception(
            "the padding mask is inverted",
            _wrong_model(padding_is="inverted"),
            "True means may attend: the mask is `source_ids != pad_id`.",
        ),
        Misconception(
            "the padding token is always 0",
            _wrong_model(padding_is="0"),
            "The padding token is `pad_id`, as the model was given it.",
        ),
        Misconception(
            "the decoder reads the embedded source",
            _wrong_model(reads="the embedded source"),
            "Cross-attention reads what the *last encoder layer* returned, not the embeddings that went in.",
        ),
        Misconception(
            "the norms come first",
            _wrong_model(order="pre"),
            'The model of 2017 norms after the addition. With `TransformerBlock` that is `order="post"`.',
        ),
        Misconception(
            "the feed-forward layers have GELU",
            _wrong_model(activation="gelu"),
            'The model of 2017 has ReLU. `BlockConfig` takes GELU unless it is given `activation="relu"`.',
        ),
    ),
    hints=(
        "Follow the picture of the lesson: embed the source, run the encoder's layers, embed the target, run the "
        "decoder's layers with the memory, project.",
        "One method for both sides: `sqrt(d_model) * self.embedding(ids) + sinusoidal_table(n, d_model)`. The masks "
        "are `source_ids != pad_id` and `target_ids != pad_id`; put every new tensor on the ids' device.",
        "`for layer in self.encoder: memory = layer(memory, source_mask)`, `for layer in self.decoder: x = layer(x, "
        "memory, target_mask, source_mask)`, and at the end `x @ self.embedding.weight.T`.",
    ),
)

# --- encoder_decoder/measure_decoding ----------------------------------------------------------


def decoding_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Rows that end at different steps, one row, rows that never end, budgets too small and just enough."""
    yield _decoding_case(rng, "three sentences", (5, 3, 4))
    yield _decoding_case(rng, "one sentence", (4,))
    yield _decoding_case(rng, "stopped before the end", (3, 5), max_new=3)
    yield _decoding_case(rng, "a budget that the source alone exceeds", (6, 4), budget="too small")
    yield _decoding_case(rng, "a budget that fits exactly", (2, 4, 3), budget="exact", hidden=True)
    yield _decoding_case(rng, "a long sentence", (7, 2), width=8, hidden=True)


def _decoding_case(
    rng: np.random.Generator,
    name: str,
    lengths: tuple[int, ...],
    *,
    max_new: int = 16,
    budget: str = "some",
    width: int = 6,
    hidden: bool = False,
) -> Case:
    """Drawn until the sentences end at different steps, and no choice of a token is a close one."""
    mask = _tokens(*lengths, width=max(lengths) + 1)
    b, s = mask.shape
    while True:
        weights = _decoder_weights(rng, width)
        source_ids = np.where(mask, rng.integers(3, 12, size=mask.shape), PAD)
        ends, margin = _trial(weights, source_ids, mask)
        stops = len(ends) == b and (b == 1 or len(set(ends)) > 1) and min(ends) > 2 and max(ends) < 13
        if stops and margin > 1e-2:
            break
    row, fixed = 2 * b * width * 4, 2 * b * s * width * 4
    room = {
        "some": fixed + row * int(rng.integers(20, 60)) + int(rng.integers(1, row)),
        "exact": fixed + row * int(rng.integers(20, 60)),
        "too small": fixed - int(rng.integers(1, row)),
    }[budget]
    inputs = {"weights": weights, "source_ids": source_ids, "source_mask": mask}
    return Case(name, inputs | {"max_new": max_new, "budget": room}, hidden)


def _decoder_weights(rng: np.random.Generator, width: int) -> dict[str, Any]:
    parts = ("query", "key", "value", "source query", "source key", "source value")
    weights: dict[str, Any] = {
        part: _draw(rng, width, width) * np.float32(1.5 / math.sqrt(width)) for part in parts
    }
    weights |= {name: _draw(rng, 12, width) for name in ("source", "target")}
    weights["target"][PAD] = weights["target"][BEGIN] = 0  # never the largest logit for long
    weights["places"] = 2 * _draw(rng, 32, width)
    return weights | {"urge": np.float32(rng.uniform(0.2, 0.9))}


def _trial(weights: Any, source_ids: np.ndarray, mask: np.ndarray) -> tuple[list[int], float]:
    """At which step each row ends, for those that do, and the smallest lead of a chosen token."""
    model = probes.CountingModel(weights)
    ids, source_mask = torch.as_tensor(source_ids), torch.as_tensor(mask)
    memory, cache, margin = model.encode(ids), model.new_cache(), math.inf
    token = torch.full((len(ids), 1), BEGIN)
    ends: dict[int, int] = {}
    for step in range(1, 17):
        logits = model.decode(token, memory, source_mask, cache).logits[:, -1]
        best, second = logits.topk(2, dim=-1).values.unbind(-1)
        margin = min(margin, float((best - second).min()))
        token = logits.argmax(dim=-1, keepdim=True)
        if bool(((token == PAD) | (token == BEGIN)).any()):
            return [], 0.0
        for row in (token[:, 0] == END).nonzero()[:, 0].tolist():
            ends.setdefault(row, step)
        if len(ends) == len(ids):
            break
    return list(ends.values()), margin


Measured = tuple[Tensor, float, int]


@torch.no_grad()
def _measure(model: Any, source_ids: Tensor, source_mask: Tensor, max_new: int, budget: int) -> Measured:
    """The reference."""
    memory, cache = model.encode(source_ids), model.new_cache()
    token = torch.full((len(source_ids), 1), BEGIN, device=source_ids.device)
    ended = torch.zeros(len(source_ids), dtype=torch.bool, device=source_ids.device)
    written: list[Tensor] = []
    sizes: list[int] = []
    while len(written) < max_new and not ended.all():
        logits = model.decode(token, memory, source_mask, cache).logits[:, -1]
        token = logits.argmax(dim=-1).masked_fill(ended, PAD)[:, None]
        ended = ended | (token[:, 0] == END)
        written.append(token)
        sizes.append(cache.num_bytes)
    n = len(written)
    each = sizes[1] - sizes[0]
    fixed = sizes[0] - each
    return torch.cat(written, dim=1), (n + 1) / 2, max(0, (budget - fixed) // each)


@torch.no_grad()
def _measure_into_a_table(
    model: Any, source_ids: Tensor, source_mask: Tensor, max_new: int, budget: int
) -> Measured:
    b = source_ids.size(0)
    table = source_ids.new_zeros(b, max_new + 1)
    table[:, 0] = BEGIN
    alive = torch.ones_like(table[:, 0], dtype=torch.bool)
    memory, cache, before, once = model.encode(source_ids), model.new_cache(), 0, 0
    steps, again, growth = 0, 0, 0
    for step in range(max_new):
        before = cache.num_bytes
        output = model.decode(table[:, step : step + 1], memory, source_mask, cache=cache)
        growth = cache.num_bytes - before
        best = output.logits[:, 0].max(dim=-1).indices
        table[alive, step + 1] = best[alive]
        alive &= best != END
        steps, once, again = step + 1, once + 1, again + step + 1
        if not alive.any():
            break
    fixed = cache.num_bytes - steps * growth
    fits = math.floor((budget - fixed) / growth) if budget > fixed else 0
    return table[:, 1 : steps + 1], again / once, fits


@torch.no_grad()
def _measure_by_lists(
    model: Any, source_ids: Tensor, source_mask: Tensor, max_new: int, budget: int
) -> Measured:
    rows: list[list[int]] = [[BEGIN] for _ in range(len(source_ids))]
    memory = model.encode(source_ids)
    cache = model.new_cache()
    sizes = [0]
    while len(rows[0]) <= max_new and not all(END in row for row in rows):
        last = torch.tensor([row[-1:] for row in rows], device=source_ids.device)
        chosen = model.decode(last, memory, source_mask, cache).logits.argmax(-1)[:, 0].tolist()
        sizes.append(cache.num_bytes)
        for row, token in zip(rows, chosen, strict=True):
            row.append(PAD if END in row else token)
    n = len(rows[0]) - 1
    slope = (sizes[-1] - sizes[1]) // (n - 1)
    left = budget - (sizes[1] - slope)
    ids = torch.tensor([row[1:] for row in rows], device=source_ids.device)
    return ids, sum(range(1, n + 1)) / n, left // slope if left > 0 else 0


def _wrong_measure(
    *,
    caching: str = "right",
    encoding: str = "once",
    begin: bool = False,
    stop: str = "all",
    padding: bool = True,
    end: bool = True,
    masked: bool = True,
    ratio: Callable[[int], float] = lambda n: (n + 1) / 2,
    fits: Callable[[int, int, int, int], int] = lambda budget, fixed, each, n: max(
        0, (budget - fixed) // each
    ),
) -> Callable[..., Any]:
    """A measurement with one thing wrong; by default nothing is."""

    @torch.no_grad()
    def measure(model: Any, source_ids: Tensor, source_mask: Tensor, max_new: int, budget: int) -> Any:
        seen = source_mask if masked else torch.ones_like(source_mask)
        b, memory, cache = len(source_ids), model.encode(source_ids), model.new_cache()
        written = torch.full((b, 1), BEGIN, device=source_ids.device)
        ended = torch.zeros(b, dtype=torch.bool, device=source_ids.device)
        sizes = []
        for step in range(max_new):
            if encoding == "each step" and step:
                memory = model.encode(source_ids)
            given = written if caching in ("none", "whole target") else written[:, -1:]
            if caching in ("none", "new each step"):
                cache = model.new_cache()
            logits = model.decode(given, memory, seen, cache).logits[:, -1]
            sizes.append(cache.num_bytes)
            token = logits.argmax(dim=-1)
            if padding:
                token = token.masked_fill(ended, PAD)
            ended = ended | (token == END)
            written = torch.cat([written, token[:, None]], dim=1)
            if stop != "never" and (ended.any() if stop == "any" else ended.all()):
                break
        n = written.shape[1] - 1
        ids = written if begin else written[:, 1:]
        if not end:
            ids = ids.masked_fill(ids == END, PAD)
        each = sizes[1] - sizes[0] if len(sizes) > 1 else sizes[0]
        return ids, ratio(n), fits(budget, sizes[0] - each, max(each, 1), n)

    return measure


DECODING = Exercise(
    id="encoder_decoder/measure_decoding",
    title="Decoding with a cache, measured",
    points=4,
    minutes=45,
    difficulty=4,
    cases=decoding_cases,
    probe=probes.measure_decoding,
    reference=_measure,
    also_right=(_measure_into_a_table, _measure_by_lists),
    forbidden=(*MODELS, *BLOCKS),
    misconceptions=(
        Misconception(
            "the cache is not used",
            _wrong_measure(caching="none"),
            "Your tokens are right, but the decoder runs over the whole target at every step. With the cache it "
            "needs the newest token alone: one position a step.",
        ),
        Misconception(
            "the whole target goes in beside the cache",
            _wrong_measure(caching="whole target"),
            "The cache already holds the earlier positions. Given the whole target as well, the decoder takes it "
            "for what comes next. Hand it the newest token alone, (b, 1).",
        ),
        Misconception(
            "every step has a new cache",
            _wrong_measure(caching="new each step"),
            "A new cache knows nothing of the tokens before, so every token is written as if it were the first. Make "
            "the cache once, before the loop.",
        ),
        Misconception(
            "the encoder runs at every step",
            _wrong_measure(encoding="each step"),
            "The source does not change while the target is written. Encode it once, before the loop.",
        ),
        Misconception(
            "the source's padding is seen",
            _wrong_measure(masked=False),
            "`decode` is given a mask that allows everything. Hand on `source_mask`.",
        ),
        Misconception(
            "begin is kept",
            _wrong_measure(begin=True),
            "`begin` is what the decoder starts from. It is no token that was written, so leave it out of the result.",
        ),
        Misconception(
            "the first sentence to end stops all",
            _wrong_measure(stop="any"),
            "The others are not finished yet. Go on until *every* row has written its end, or max_new is reached.",
        ),
        Misconception(
            "nothing stops before max_new",
            _wrong_measure(stop="never"),
            "Once every row has written its end there is nothing left to do. Leave the loop.",
        ),
        Misconception(
            "a finished sentence goes on",
            _wrong_measure(padding=False),
            "What a row writes after its end means nothing. From there on it gets padding, 0.",
        ),
        Misconception(
            "end is replaced by padding",
            _wrong_measure(end=False),
            "A row keeps its own end token. Padding begins behind it.",
        ),
        Misconception(
            "the ratio is upside down",
            _wrong_measure(ratio=lambda n: 2 / (n + 1)),
            "The ratio is positions *without* the cache, divided by positions *with* it: at least 1.",
        ),
        Misconception(
            "every step without a cache counts as the last",
            _wrong_measure(ratio=float),
            "Without a cache the first step runs 1 position, the second 2, and so on. Their sum is n(n + 1)/2, "
            "not n².",
        ),
        Misconception(
            "the source's share of the cache is forgotten",
            _wrong_measure(fits=lambda budget, fixed, each, n: budget // each),
            "The keys and values of the source are in the cache, too. They do not grow, but they take their room "
            "first.",
        ),
        Misconception(
            "the source's share is spread over the positions",
            _wrong_measure(fits=lambda budget, fixed, each, n: int(budget // ((fixed + n * each) / n))),
            "You divide the whole cache by the number of positions. Part of it is the source's and does not grow: "
            "measure by how much one position *more* makes it larger.",
        ),
        Misconception(
            "a position that does not fit is counted",
            _wrong_measure(fits=lambda budget, fixed, each, n: max(0, -((fixed - budget) // each))),
            "Half a position cannot be kept. Round down.",
        ),
        Misconception(
            "fewer than no positions fit",
            _wrong_measure(fits=lambda budget, fixed, each, n: (budget - fixed) // each),
            "Where the source alone is too large, no position fits: the answer is 0, not less.",
        ),
    ),
    hints=(
        "Encode once and make one cache, before the loop. In the loop `decode` is given the newest token of every "
        "row, (b, 1), and nothing else of the target.",
        "Keep a boolean for each row that says whether it has ended; `masked_fill` with it writes padding. Note "
        "`cache.num_bytes` after each step: from one step to the next it grows by one position.",
        "`each = sizes[1] - sizes[0]` is one position, `fixed = sizes[0] - each` the source, and `max(0, (budget - "
        "fixed) // each)` is what fits. Without a cache, n steps run n(n + 1)/2 positions; with it, n.",
    ),
)

EXERCISES = (SHIFT, COUNT, ENCODER, DECODER, TRANSFORMER, DECODING)
