"""Probes of 00_welcome: call the answer on a case and return what came back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ..exercise import Case
from . import tensor


def rows(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The result for one matrix."""
    return {"the result": answer(tensor(case["matrix"], case.device, case["dtype"]))}


def broadcast_shape(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The predicted shape or the refusal in words, as "(5, 7)" or "a ValueError"; None stays None."""
    try:
        predicted = answer(tuple(case["first"]), tuple(case["second"]))
    except ValueError:
        return {"the result": "a ValueError"}
    return {"the result": None if predicted is None else _in_words(predicted)}


def _in_words(predicted: Any) -> str:
    if isinstance(predicted, tuple):
        return repr(tuple(_plain(length) for length in predicted))
    if isinstance(predicted, list):
        return f"a list, {[_plain(length) for length in predicted]}"
    if isinstance(predicted, ValueError) or predicted is ValueError:
        return "a ValueError that was returned, not raised"
    return f"an object of type {type(predicted).__name__}"


def _plain(length: Any) -> Any:
    """NumPy's integers as Python's; everything else as it is, so that 5.0 does not pass for 5."""
    return int(length) if isinstance(length, np.integer) else length


def distances(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The table of distances between the rows of two matrices."""
    first, second = (tensor(case[name], case.device) for name in ("first", "second"))
    return {"the table": answer(first, second)}


def spread(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The measured spreads and the fitted exponent."""
    pairs = [(tensor(first, case.device), tensor(second, case.device)) for first, second in case["pairs"]]
    returned = answer(pairs)
    if not isinstance(returned, (tuple, list)) or len(returned) != 2:
        return {"what you returned": returned}
    return {"the list of spreads": returned[0], "the exponent": returned[1]}


def add_positions(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The result on the case's device; on torch's "meta" device only shape, dtype and device are known."""
    device = case["device"] if case["device"] != "cpu" else case.device
    vectors = tensor(case["vectors"], "cpu", case["dtype"]).to(torch.device(device))
    return {"the result": answer(vectors)}
