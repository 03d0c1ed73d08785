"""Probes of 06_attention: call the answer on a case and return what came back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..exercise import Case
from . import gradients, in_words, loaded, taken_apart, tensor


def causal_mask(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The mask for `n_query` queries and `n_key` keys."""
    return {"the mask": answer(case["n_query"], case["n_key"])}


def sdpa(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """Output and weights, and the gradients of a weighted sum of the output."""
    inputs = [_input(case, name) for name in ("query", "key", "value")]
    # Without a mask the answer is called without one: the statement gives it a default.
    returned = answer(*inputs, *([] if case["mask"] is None else [tensor(case["mask"], case.device)]))
    values = taken_apart(returned, "the output", "the table of weights", names=("output", "weights"))
    if case["gradient"] and "the output" in values:
        direction = tensor(case["direction"], case.device, case["dtype"])
        given = dict(zip(("query", "key", "value"), inputs, strict=True))
        values |= gradients(values["the output"], direction, given)
    return values


def _input(case: Case, name: str) -> Any:
    """A leaf tensor; in the layout "transposed" its rows do not lie one after another in memory."""
    made = tensor(case[name], case.device, case["dtype"])
    if case["layout"] == "transposed":
        made = made.transpose(-2, -1).contiguous().transpose(-2, -1)
    return made.requires_grad_()


def cross(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The parameters' shapes; with the case's weights loaded, output, weights and the inputs' gradients."""

    sizes = {name: case[name] for name in ("d_model", "d_k", "d_v") if case[name] is not None}
    made = answer(**sizes, bias=True) if case["bias"] else answer(**sizes)
    module, values = loaded(made, case)
    return values if module is None else values | _outcome(module, case)


def _outcome(module: Any, case: Case) -> dict[str, Any]:
    inputs = {"hidden_states": tensor(case["hidden_states"], case.device, requires_grad=True)}
    if case["context"] is not None:
        inputs["context"] = tensor(case["context"], case.device, requires_grad=True)
    mask = {} if case["mask"] is None else {"mask": tensor(case["mask"], case.device)}
    returned = module(*inputs.values(), **mask)
    told = ("the output", "the table of weights")
    values = taken_apart(returned, *told, names=("output", "weights"), subject="what forward returns")
    return values | gradients(values.get(told[0]), tensor(case["direction"], case.device), inputs)


def saturation(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The two lists of norms and the width that the answer names."""
    queries = [tensor(array, case.device, case["dtype"]) for array in case["queries"]]
    keys = [tensor(array, case.device, case["dtype"]) for array in case["keys"]]
    told = ("the mean norm with the scale", "the mean norm without the scale", "the width")
    return taken_apart(answer(queries, keys), *told, names=("scaled", "unscaled", "width"))


def chunked(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The output, and whether each new tensor, and all that were alive at once, kept to the case's budget."""
    import torch

    inputs = [tensor(case[name], case.device, case["dtype"]) for name in ("query", "key", "value")]
    memory = _live_memory(inputs)
    with torch.no_grad(), memory:
        output = answer(*inputs, case["chunk"], causal=case["causal"])
    if output is None:
        return {"what you returned": None}
    form = {"what you return": in_words(output)}
    if not isinstance(output, torch.Tensor):
        return form
    largest = _against(case["largest"], memory.largest)
    # One tensor that is too large settles it; what is held besides differs from answer to answer.
    together = _against(case["budget"], memory.peak) if memory.largest <= case["largest"] else "not judged"
    return form | {
        "the output": output,
        "the largest tensor that you made": largest,
        "the sum of all tensors that you held at once": together,
    }


def _against(budget: int, measured: int) -> str:
    # In words: two answers that overspend in the same way seldom do so by the same number.
    return f"{'at most' if measured <= budget else 'more than'} {budget:,} numbers"


def _live_memory(inputs: list[Any]) -> Any:
    """A mode that counts the numbers in new tensors: `largest` of one, `peak` of all alive at once.

    Numbers of any dtype count alike: one boolean is one number, and so is one float32 made from a bfloat16.
    """
    import torch
    from torch.multiprocessing.reductions import StorageWeakRef

    from ..modes import DispatchMode

    class LiveMemory(DispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.peak = self.largest = 0
            self.given = {StorageWeakRef(given.untyped_storage()) for given in inputs}
            self.alive: dict[Any, int] = {}

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            for leaf in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(leaf, torch.Tensor):
                    self.note(leaf.untyped_storage(), leaf.element_size())
            return result

        def note(self, storage: Any, element_size: int) -> None:
            reference = StorageWeakRef(storage)
            if reference in self.given or reference in self.alive:
                return
            self.alive = {ref: size for ref, size in self.alive.items() if not ref.expired()}
            self.alive[reference] = storage.nbytes() // element_size
            self.largest = max(self.largest, self.alive[reference])
            self.peak = max(self.peak, sum(self.alive.values()))

    return LiveMemory()
