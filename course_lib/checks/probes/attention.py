"""Probes of 06_attention: call the answer on a case and return what came back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..exercise import Case
from . import tensor


def causal_mask(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The mask for `n_query` queries and `n_key` keys."""
    return {"the mask": answer(case["n_query"], case["n_key"])}


def sdpa(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """Output and weights, and the gradients of a weighted sum of the output."""
    inputs = [
        tensor(case[name], case.device, case["dtype"], requires_grad=True)
        for name in ("query", "key", "value")
    ]
    mask = None if case["mask"] is None else tensor(case["mask"], case.device)
    returned = answer(*inputs, mask)
    if not isinstance(returned, tuple) or len(returned) != 2:
        return {"what you returned": returned}
    output, weights = returned
    values = {"the output": output, "the weights": weights}
    if case["gradient"]:
        (output * tensor(case["direction"], case.device, case["dtype"])).sum().backward()
        values |= {
            f"the gradient of {name}": given.grad
            for name, given in zip(("query", "key", "value"), inputs, strict=True)
        }
    return values
