"""Probes of 03_tokenizers: call the answer on a case and return what came back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..exercise import Case


def bpe_step(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The pair that was chosen, and the words after the merge."""
    returned = answer([(list(pieces), count) for pieces, count in case["words"]])
    if not isinstance(returned, tuple) or len(returned) != 2:
        return {"what you returned": returned}
    return {"the pair": returned[0], "the list merged": returned[1]}


def train_bpe(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The merges that were learned."""
    return {"the list of merges": answer(dict(case["chunk_counts"]), case["num_new_tokens"])}


def encode_bpe(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The tokens of each text. A case writes bytes as text, one character for each."""
    merges = [(left.encode("latin-1"), right.encode("latin-1")) for left, right in case["merges"]]
    return {f"the list of tokens of {text!r}": answer(text, list(merges)) for text in case["texts"]}


def encode_wordpiece(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The pieces of each word."""
    vocab = case["vocab"]
    return {f"the list of pieces of {_short(word)!r}": answer(word, set(vocab)) for word in case["words"]}


def best_cut(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The best cut of one word and its score."""
    returned = answer(case["word"], dict(case["scores"]), case["unknown_score"])
    if not isinstance(returned, tuple) or len(returned) != 2:
        return {"what you returned": returned}
    return {"the list of pieces": returned[0], "the score": returned[1]}


def batch_cost(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The batch, its mask and the report; on torch's "meta" device tensors have no numbers."""
    device = torch.device(case["device"] if case["device"] != "cpu" else case.device)
    sequences = [list(sequence) for sequence in case["sequences"]]
    returned = answer(sequences, list(case["texts"]), case["pad_id"], set(case["special_ids"]), device)
    if not isinstance(returned, tuple) or len(returned) != 3:
        return {"what you returned": returned}
    return {"the tensor of ids": returned[0], "the mask": returned[1], "the report": returned[2]}


def _short(word: str) -> str:
    return word if len(word) <= 24 else f"{word[:20]}… ({len(word)} characters)"
