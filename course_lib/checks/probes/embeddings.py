"""Probes of 04_embeddings: call the answer on a case and return what came back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..exercise import Case
from . import tensor


def lookup(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The vectors of the ids, and the gradient of the table."""
    given = [tensor(case[name], case.device) for name in ("table", "ids", "upstream")]
    return _parts(answer(*given), ("vectors", "gradient"), ("the vectors", "the gradient of the table"))


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
    return _parts(
        answer(*given), ("noise", "negatives"), ("the noise distribution", "the table of negatives")
    )


def negative_sampling(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The loss and three gradients."""
    parts = ("centre", "neighbour", "negatives")
    given = [tensor(case[name], case.device) for name in parts]
    names = ("loss", *(f"{part}_gradient" for part in parts))
    told = ("the loss", *(f"the gradient of {part}" for part in parts))
    return _parts(answer(*given), names, told)


def senses(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The neighbours of a word, the weights of its senses, what they explain, and how that reads."""
    table, first, second = (tensor(case[name], case.device) for name in ("table", "first", "second"))
    returned = answer(table, case["word"], first, second, case["count"])
    names = ("neighbours", "weights", "explained", "reading")
    told = ("the list of neighbours", "the pair of weights", "the share explained", "the reading")
    return _parts(returned, names, told)


def analogies(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The fourth words that are predicted; PyTorch's random numbers begin the same at every call."""
    import torch

    sentences, questions = (tensor(case[name], case.device) for name in ("sentences", "questions"))
    devices = [torch.cuda.current_device()] if case.device == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        return {"the list of fourth words": answer(sentences, case["num_words"], questions)}


def _parts(returned: Any, names: tuple[str, ...], told: tuple[str, ...]) -> dict[str, Any]:
    """The parts of a tuple under the names by which a sentence tells of them."""
    if returned is None:
        return {"what you returned": None}
    form = {"what you return": _form(returned, names)}
    if not isinstance(returned, tuple) or len(returned) != len(names):
        return form
    return form | dict(zip(told, returned, strict=True))


def _form(returned: Any, names: tuple[str, ...]) -> str:
    import torch

    if isinstance(returned, torch.Tensor):
        return "one torch.Tensor"
    if isinstance(returned, tuple) and len(returned) == len(names):
        return f"a tuple ({', '.join(names)})"
    if isinstance(returned, (tuple, list)):
        return f"a {type(returned).__name__} of {len(returned)}"
    return f"one {type(returned).__name__}"
