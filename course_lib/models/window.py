"""Language models that see a window: an MLP and causal convolutions.

Axes: b sentences, t words, d width of a word's vector, v words of the vocabulary. Ids (b, t) → logits
(b, t, v): position i predicts word i + 1 from the words up to i, and from no more than `reach` of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PAD_ID = 0


class WindowMLP(nn.Module):
    """The vectors of the last `reach` words side by side, one hidden layer, a score for every word.

    In front of a sentence stand PAD_ID words. Source: Bengio et al. 2003, eq. 1, without the direct
    connections.
    """

    def __init__(self, vocab_size: int, reach: int, d_model: int = 32, d_hidden: int = 64) -> None:
        super().__init__()
        self.reach = reach
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.hidden = nn.Linear(reach * d_model, d_hidden)
        self.head = nn.Linear(d_hidden, vocab_size)

    def forward(self, ids: Tensor) -> Tensor:
        """(b, t) → (b, t, v)."""
        padded = F.pad(ids, (self.reach - 1, 0), value=PAD_ID)
        windows = padded.unfold(1, self.reach, 1)  # (b, t, reach)
        side_by_side = self.embedding(windows).flatten(start_dim=2)  # (b, t, reach · d)
        return self.head(torch.tanh(self.hidden(side_by_side)))


class CausalConvolution(nn.Module):
    """Layers that each mix a word with the `kernel` − 1 before it, or with every second, every fourth, ….

    dilations: for each layer the distance between the words it mixes. What the layers see adds up:
    reach = 1 + (kernel − 1) · Σ dilations. Source: van den Oord et al. 2016, section 2.1, without gates.
    """

    def __init__(
        self, vocab_size: int, dilations: Sequence[int] = (1, 1), kernel: int = 3, d_model: int = 32
    ) -> None:
        super().__init__()
        self.dilations, self.kernel = tuple(dilations), kernel
        self.reach = 1 + (kernel - 1) * sum(dilations)
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.layers = nn.ModuleList(
            nn.Conv1d(d_model, d_model, kernel, dilation=dilation) for dilation in dilations
        )
        self.head = nn.Linear(d_model, vocab_size)

    def forward(self, ids: Tensor) -> Tensor:
        """(b, t) → (b, t, v)."""
        stream = self.embedding(ids).transpose(1, 2)  # (b, d, t)
        for dilation, layer in zip(self.dilations, self.layers, strict=True):
            past = F.pad(stream, ((self.kernel - 1) * dilation, 0))  # Zeros in front, so none looks ahead.
            stream = stream + torch.relu(layer(past))
        return self.head(stream.transpose(1, 2))
