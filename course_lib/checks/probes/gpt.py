"""Probes of 13_gpt: call the answer on a case and return what came back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..exercise import Case
from . import gradients, loaded, seeded, taken_apart, tensor


def shifted_loss(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The loss, and the gradient of the logits."""
    import torch

    logits = tensor(case["logits"], case.device, requires_grad=True)
    mask = [] if case["mask"] is None else [tensor(case["mask"], case.device)]
    loss = answer(logits, tensor(case["ids"], case.device), *mask)
    one = torch.ones((), device=case.device)
    return {"the loss": loss} | gradients(loss, one, {"the logits": logits})


def causal_block(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The module's parameters; with the case's weights, its output and the gradient of its input."""

    module, values = loaded(answer(case["d_model"], case["num_heads"]), case)
    if module is None:
        return values
    hidden_states = tensor(case["hidden_states"], case.device, requires_grad=True)
    output, direction = module(hidden_states), tensor(case["direction"], case.device)
    if output is None:
        return {"what you returned": None}
    return values | {"the output": output} | gradients(output, direction, {"the input": hidden_states})


@dataclass
class Cache:
    """The keys and values of the tokens read so far, (n, length, d) each."""

    kept: list[Any] = field(default_factory=list)

    @property
    def length(self) -> int:
        """How many tokens have been read."""
        return self.kept[0].shape[1] if self.kept else 0


class CountingModel:
    """One layer of causal attention without training; it notes how many tokens each call reads."""

    def __init__(self, weights: Any, device: str = "cpu") -> None:
        self.weights = {name: tensor(array, device) for name, array in weights.items()}
        self.read: list[int] = []

    def new_cache(self) -> Cache:
        """An empty cache."""
        return Cache()

    def __call__(self, ids: Any, cache: Cache) -> Any:
        """ids (n, t), behind what the cache holds, which grows by them → logits (n, t, v)."""
        import torch

        w, start, length = self.weights, cache.length, ids.shape[1]
        self.read.append(length)
        places = torch.arange(start, start + length, device=ids.device)
        x = w["tokens"][ids] + w["places"][places % len(w["places"])]
        fresh = [x @ w["key"], x @ w["value"]]
        if cache.kept:
            fresh = [torch.cat(pair, dim=1) for pair in zip(cache.kept, fresh, strict=True)]
        cache.kept = fresh
        key, value = fresh
        seen = torch.arange(cache.length, device=ids.device) <= places[:, None]
        scores = ((x @ w["query"]) @ key.transpose(1, 2)).masked_fill(~seen, -1e9)
        return torch.tanh(x + scores.softmax(dim=-1) @ value) @ w["head"]


def sample(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The texts, and how many tokens each call of the model has read."""
    import torch

    model = CountingModel(case["weights"], case.device)
    ids, draws = (tensor(case[name], case.device) for name in ("ids", "draws"))
    options = {name: case[name] for name in ("temperature", "top_k", "top_p") if case[name] is not None}
    with torch.no_grad():
        texts = answer(model, ids, draws.shape[1], draws, **options)
    return {"the tensor of texts": texts, "the list of tokens read in each call": model.read}


class TableModel:
    """A language model with its tokenizer: chunks of a text, and logits that depend on the chunk before."""

    def __init__(self, size: int, tokens: Any, begin_id: int, table: Any) -> None:
        self.begin_id = begin_id
        self._size, self._ids = size, {token: index for index, token in enumerate(tokens)}
        self._table = tensor(table)

    def encode(self, text: str) -> list[int]:
        """The ids of a text's tokens."""
        return [self._ids[text[i : i + self._size]] for i in range(0, len(text), self._size)]

    def __call__(self, ids: Any) -> Any:
        """ids (b, t) → logits (b, t, v), at each position those of the token that follows."""
        return self._table[ids]


def compare_models(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The perplexities, the bits per byte, the better model, and whether perplexity misleads."""
    models = {name: TableModel(*given) for name, given in case["models"].items()}
    returned = answer(case["text"], models)
    parts = ("the dict of perplexities", "the dict of bits", "the better model", "the last entry")
    return taken_apart(returned, *parts)


def continue_texts(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The log-probabilities of what follows each beginning.

    PyTorch's random numbers begin the same at every call, and go on afterwards as if there had been none.
    """

    texts, beginnings = (tensor(case[name], case.device) for name in ("texts", "beginnings"))
    with seeded(case.device):
        return {"the tensor of log-probabilities": answer(texts, beginnings, case["vocab_size"])}
