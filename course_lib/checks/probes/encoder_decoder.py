"""Probes of 09_encoder_decoder: call the answer on a case and return what came back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..exercise import Case
from . import gradients, loaded, taken_apart, tensor


def shift(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The decoder's input, the targets, and their number."""
    sentences = [list(sentence) for sentence in case["sentences"]]
    returned = answer(sentences, case["begin_id"], case["end_id"], case["pad_id"])
    parts = ("the decoder's input", "the tensor of targets", "the number of targets")
    return taken_apart(returned, *parts)


def count_parameters(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The three counts."""
    tied = {} if case["tied"] is None else {"tied": case["tied"]}
    sizes = (case[name] for name in ("vocab", "d_model", "num_heads", "d_ff", "num_layers"))
    parts = ("the count of the embeddings", "the count of the encoder", "the count of the decoder")
    return taken_apart(answer(*sizes, **tied), *parts)


def encoder_layer(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The module's parameters; with the case's weights, its output and the gradient of its input."""
    module, values = loaded(answer(case["d_model"], case["num_heads"], case["d_ff"]), case, by_parts=True)
    if module is None:
        return values
    inputs = {"hidden_states": tensor(case["hidden_states"], case.device, requires_grad=True)}
    mask = [] if case["source_mask"] is None else [tensor(case["source_mask"], case.device)]
    return values | _outcome(module(*inputs.values(), *mask), case, inputs)


def decoder_layer(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The module's parameters; with the case's weights, its output and the gradients of its inputs."""
    module, values = loaded(answer(case["d_model"], case["num_heads"], case["d_ff"]), case, by_parts=True)
    if module is None:
        return values
    inputs = {
        name: tensor(case[name], case.device, requires_grad=True) for name in ("hidden_states", "memory")
    }
    masks = {
        name: tensor(case[name], case.device)
        for name in ("target_mask", "source_mask")
        if case[name] is not None
    }
    return values | _outcome(module(*inputs.values(), **masks), case, inputs)


def transformer(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The module's parameters; with the case's weights, the logits at the tokens of the target."""
    import torch

    sizes = [case[name] for name in ("vocab", "d_model", "num_heads", "d_ff", "num_layers")]
    pad = {} if case["pad_id"] is None else {"pad_id": case["pad_id"]}
    module, values = loaded(answer(*sizes, **pad), case, by_parts=True)
    if module is None:
        return values
    source_ids, target_ids = (tensor(case[name], case.device) for name in ("source_ids", "target_ids"))
    logits = module(source_ids, target_ids)
    if logits is None:
        return {"what you returned": None}
    expected = (*target_ids.shape, case["vocab"])
    if isinstance(logits, torch.Tensor) and logits.shape == expected:
        # What stands at padding is of no concern: no loss counts it.
        logits = logits * (target_ids != (case["pad_id"] or 0))[..., None]
    return values | {"the tensor of logits": logits}


def _outcome(output: Any, case: Case, inputs: dict[str, Any]) -> dict[str, Any]:
    """The output, and the inputs' gradients of a weighted sum of it; zeros where none arrives."""

    if output is None:
        return {"what you returned": None}
    direction = tensor(case["direction"], case.device)
    return {"the output": output} | gradients(output, direction, inputs)


# --- a small decoder that counts what it is asked for ---------------------------------------------------


@dataclass(frozen=True)
class Decoded:
    """What the model's `decode` returns."""

    logits: Any


@dataclass
class Cache:
    """Keys and values: those of the target, which grow, and those of the source."""

    target: list[Any] = field(default_factory=list)
    source: list[Any] = field(default_factory=list)

    @property
    def length(self) -> int:
        """How many target positions are kept."""
        return self.target[0].shape[1] if self.target else 0

    @property
    def num_bytes(self) -> int:
        """The memory of all that is kept."""
        return sum(kept.nbytes for kept in (*self.target, *self.source))


class CountingModel:
    """One layer of self- and cross-attention without training; it notes every call."""

    def __init__(self, weights: Any, device: str = "cpu") -> None:
        self.weights = {name: tensor(array, device) for name, array in weights.items()}
        self.encoded = 0
        self.positions: list[int] = []

    def encode(self, source_ids: Any) -> Any:
        """(b, s) → (b, s, d)."""
        self.encoded += 1
        return self.weights["source"][source_ids]

    def new_cache(self) -> Cache:
        """An empty cache."""
        return Cache()

    def decode(self, target_ids: Any, memory: Any, source_mask: Any, cache: Cache | None = None) -> Decoded:
        """(b, t) new tokens → logits (b, t, v); they go on where the cache ends."""
        import torch

        w = self.weights
        start, length = 0 if cache is None else cache.length, target_ids.shape[1]
        self.positions.append(length)
        places = torch.arange(start, start + length, device=target_ids.device)
        x = w["target"][target_ids] + w["places"][places]
        cache = Cache() if cache is None else cache
        fresh = [x @ w["key"], x @ w["value"]]
        if cache.target:
            fresh = [torch.cat(pair, dim=1) for pair in zip(cache.target, fresh, strict=True)]
        cache.target = fresh
        cache.source = cache.source or [memory @ w["source key"], memory @ w["source value"]]
        seen = torch.arange(cache.length, device=places.device) <= places[:, None]
        x = x + _attend(x @ w["query"], cache.target, seen)
        x = x + _attend(x @ w["source query"], cache.source, source_mask[:, None])
        # The longer it gets, the likelier is its end.
        ending = torch.zeros(len(w["target"]), device=places.device)
        ending[2] = 1.0
        return Decoded(torch.tanh(x) @ w["target"].T + w["urge"] * places[:, None] * ending)


def _attend(query: Any, kept: list[Any], seen: Any) -> Any:
    key, value = kept
    scores = (query @ key.transpose(1, 2)).masked_fill(~seen, -1e9)
    return scores.softmax(dim=-1) @ value


def measure_decoding(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The tokens, the two measures, and what the model was asked for meanwhile."""
    import torch

    model = CountingModel(case["weights"], case.device)
    source_ids, source_mask = (tensor(case[name], case.device) for name in ("source_ids", "source_mask"))
    with torch.no_grad():
        returned = answer(model, source_ids, source_mask, case["max_new"], case["budget"])
    found = taken_apart(returned, "the tensor of tokens", "the ratio", "the number of positions that fit")
    calls = {
        "the list of positions in each call of decode": model.positions,
        "the number of calls of encode": model.encoded,
    }
    return found | (calls if len(found) > 1 else {})
