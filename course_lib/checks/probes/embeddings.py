"""Probes of 04_embeddings: call the answer on a case and return what came back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..exercise import Case
from . import seeded, taken_apart, tensor


def lookup(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The vectors of the ids, and the gradient of the table."""
    given = [tensor(case[name], case.device) for name in ("table", "ids", "upstream")]
    return taken_apart(
        answer(*given), "the vectors", "the gradient of the table", names=("vectors", "gradient")
    )


def skip_gram_pairs(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The pairs of a text."""
    ids, counts, keep_draws, reach_draws = (
        tensor(case[name], case.device) for name in ("ids", "counts", "keep_draws", "reach_draws")
    )
    return {
        "the list of pairs": answer(ids, counts, case["window"], case["threshold"], keep_draws, reach_draws)
    }


def negatives(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The noise distribution and the negatives that were drawn from it."""
    given = [tensor(case[name], case.device) for name in ("counts", "positives", "draws")]
    return taken_apart(
        answer(*given), "the noise distribution", "the table of negatives", names=("noise", "negatives")
    )


def negative_sampling(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The loss and three gradients."""
    parts = ("centre", "neighbour", "negatives")
    given = [tensor(case[name], case.device) for name in parts]
    names = ("loss", *(f"{part}_gradient" for part in parts))
    told = ("the loss", *(f"the gradient of {part}" for part in parts))
    return taken_apart(answer(*given), *told, names=names)


def senses(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The neighbours of a word, the weights of its senses, what they explain, and how that reads."""
    table, first, second = (tensor(case[name], case.device) for name in ("table", "first", "second"))
    returned = answer(table, case["word"], first, second, case["count"])
    names = ("neighbours", "weights", "explained", "reading")
    told = ("the list of neighbours", "the pair of weights", "the share explained", "the reading")
    return taken_apart(returned, *told, names=names)


def analogies(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The fourth words that are predicted; PyTorch's random numbers begin the same at every call."""

    sentences, questions = (tensor(case[name], case.device) for name in ("sentences", "questions"))
    with seeded(case.device):
        return {"the list of fourth words": answer(sentences, case["num_words"], questions)}
