"""Probes of 11_bert: call the answer on a case and return what came back."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from ..exercise import Case
from . import loaded, seeded, taken_apart, tensor


def mask_tokens(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The model's inputs and the targets."""
    names = ("ids", "special", "first", "second", "random_ids")
    given = [tensor(case[name], case.device) for name in names]
    share = {} if case["share"] is None else {"share": case["share"]}
    return taken_apart(
        answer(*given, case["mask_id"], **share), "the tensor of inputs", "the tensor of targets"
    )


def next_sentence_pairs(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The ids, the segments and the labels of all pairs, in order."""
    documents = [[list(sentence) for sentence in document] for document in case["documents"]]
    found = answer(
        documents, random.Random(case["seed"]), case["begin_id"], case["sep_id"], case["max_length"]
    )
    if found is None:
        return {"what you returned": None}
    if not isinstance(found, list) or not all(isinstance(one, tuple) and len(one) == 3 for one in found):
        return {"what you return": "no list of triples"}
    return {
        "what you return": "a list of triples",
        "the number of pairs": len(found),
        "the list of ids": [ids for ids, _, _ in found],
        "the list of segments": [segments for _, segments, _ in found],
        "the list of labels": [label for _, _, label in found],
    }


def input_embedding(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The module's parameters; with the case's weights, its output."""
    sizes = [case[name] for name in ("vocab_size", "d_model", "max_length")]
    module, values = loaded(answer(*sizes), case)
    if module is None:
        return values
    segments = [] if case["segments"] is None else [tensor(case["segments"], case.device)]
    output = module(tensor(case["ids"], case.device), *segments)
    return {"what you returned": None} if output is None else values | {"the output": output}


def pretraining_heads(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The module's parameters; with the case's weights, the logits of both heads."""
    module, values = loaded(answer(case["d_model"], case["vocab_size"]), case)
    if module is None:
        return values
    given = [tensor(case[name], case.device) for name in ("hidden_states", "token_embedding")]
    found = taken_apart(module(*given), "the tensor of token logits", "the tensor of sentence logits")
    return values | found if len(found) > 1 else found


def probe_layers(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The accuracies, the baseline and the verdict."""
    names = ("train_states", "train_labels", "test_states", "test_labels")
    given = [tensor(case[name], case.device) for name in names]
    penalty = {} if case["penalty"] is None else {"penalty": case["penalty"]}
    found = taken_apart(answer(*given, **penalty), "the list of accuracies", "the baseline", "the verdict")
    if len(found) > 1 and found["the verdict"] is None:
        found["the verdict"] = "none of the layers"  # None is an answer here, and not a missing one
    return found


def fill_blanks(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The words put into the blanks; PyTorch's random numbers begin the same at every call."""

    sentences, questions = (tensor(case[name], case.device) for name in ("sentences", "questions"))
    with seeded(case.device):
        return {"the tensor of words": answer(sentences, case["num_words"], questions)}
