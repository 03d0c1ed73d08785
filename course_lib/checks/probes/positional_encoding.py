"""Probes of 05_positional_encoding: call the answer on a case and return what came back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..exercise import Case
from . import tensor


def sinusoidal(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The table; without a base of the case's own the answer is called without one."""
    return {"the table": answer(case["n_positions"], case["d_model"], **_given(case, "base"))}


def shift(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The matrix for one offset."""
    return {"the matrix": answer(case["offset"], case["d_model"], **_given(case, "base"))}


def rotate(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """What was turned, on the case's device; on torch's "meta" device only its form is known."""
    import torch

    device = case["device"] if case["device"] != "cpu" else case.device
    x = tensor(case["x"], "cpu", case["dtype"]).to(torch.device(device))
    positions = tensor(case["positions"], "cpu").to(torch.device(device))
    return {"the result": answer(x, positions, **_given(case, "base"), **_given(case, "layout"))}


def bucket(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The buckets of the case's relative positions."""
    names = ("num_buckets", "max_distance", "bidirectional")
    settings = {name: case[name] for name in names if case[name] is not None}
    return {"the table of buckets": answer(tensor(case["relative_position"]), **settings)}


def alibi(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The bias for the case's numbers of heads, queries and keys."""
    return {"the bias": answer(case["num_heads"], case["n_query"], case["n_key"])}


def checkpoint(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The four things that the answer says of a checkpoint."""
    names = ("query_weight", "key_weight", "hidden_states", "scores")
    returned = answer(*(tensor(case[name]) for name in names), case["num_heads"])
    if not isinstance(returned, (tuple, list)) or len(returned) != 4:
        return {"what you returned": returned}
    return {
        "the layout": returned[0],
        "the pair of errors": returned[1],
        "the query weight that you return": returned[2],
        "the key weight that you return": returned[3],
    }


def _given(case: Case, name: str) -> dict[str, Any]:
    return {} if case[name] is None else {name: case[name]}
