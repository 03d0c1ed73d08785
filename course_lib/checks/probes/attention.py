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
    inputs = [_input(case, name) for name in ("query", "key", "value")]
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


def _input(case: Case, name: str) -> Any:
    """A leaf tensor; in the layout "transposed" its rows do not lie one after another in memory."""
    made = tensor(case[name], case.device, case["dtype"])
    if case["layout"] == "transposed":
        made = made.transpose(-2, -1).contiguous().transpose(-2, -1)
    return made.requires_grad_()


def cross(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The parameters' shapes; with the case's weights loaded, output, weights and the inputs' gradients."""
    import torch

    sizes = {name: case[name] for name in ("d_model", "d_k", "d_v") if case[name] is not None}
    module = answer(**sizes, bias=True) if case["bias"] else answer(**sizes)
    is_module = isinstance(module, torch.nn.Module)
    values: dict[str, Any] = {"what the class makes": "a Module" if is_module else type(module).__name__}
    if not is_module:
        return values
    state = {name: tensor(array) for name, array in case["state"].items()}
    values["the table of parameters"] = _shapes(module.state_dict())
    if values["the table of parameters"] != _shapes(state):
        return values
    module.load_state_dict(state)
    return values | _outcome(module.to(case.device), case)


def _shapes(state: Any) -> dict[str, list[int]]:
    return {name: list(parameter.shape) for name, parameter in state.items()}


def _outcome(module: Any, case: Case) -> dict[str, Any]:
    hidden_states = tensor(case["hidden_states"], case.device, requires_grad=True)
    given: dict[str, Any] = {}
    if case["context"] is not None:
        given["context"] = tensor(case["context"], case.device, requires_grad=True)
    if case["mask"] is not None:
        given["mask"] = tensor(case["mask"], case.device)
    returned = module(hidden_states, **given)
    if not isinstance(returned, tuple) or len(returned) != 2:
        return {"what forward returned": returned}
    output, weights = returned
    (output * tensor(case["direction"], case.device)).sum().backward()
    values = {"the output": output, "the weights": weights}
    values["the gradient of hidden_states"] = hidden_states.grad
    if "context" in given:
        values["the gradient of context"] = given["context"].grad
    return values


def saturation(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The two lists of norms and the width that the answer names."""
    queries = [tensor(array, case.device, case["dtype"]) for array in case["queries"]]
    keys = [tensor(array, case.device, case["dtype"]) for array in case["keys"]]
    returned = answer(queries, keys)
    if not isinstance(returned, tuple) or len(returned) != 3:
        return {"what you returned": returned}
    return {
        "the mean norm with the scale": returned[0],
        "the mean norm without the scale": returned[1],
        "the width": returned[2],
    }


def chunked(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The output, and whether each new tensor, and all that were alive at once, kept to the case's budget."""
    import torch

    inputs = [tensor(case[name], case.device, case["dtype"]) for name in ("query", "key", "value")]
    size = inputs[0].element_size()
    memory = _live_memory(inputs)
    with torch.no_grad(), memory:
        output = answer(*inputs, case["chunk"], causal=case["causal"])
    return {
        "the output": output,
        "the largest tensor that you made": _against(case["largest"], memory.largest // size),
        "the sum of all tensors that you held at once": _against(case["budget"], memory.peak // size),
    }


def _against(budget: int, measured: int) -> str:
    # In words: two answers that overspend in the same way seldom do so by the same number.
    return f"{'at most' if measured <= budget else 'more than'} {budget:,} numbers"


def _live_memory(inputs: list[Any]) -> Any:
    """A mode that notes the bytes of new tensors: `largest` of one, `peak` of all alive at once."""
    import torch
    from torch.multiprocessing.reductions import StorageWeakRef
    from torch.utils._python_dispatch import TorchDispatchMode

    class LiveMemory(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.peak = self.largest = 0
            self.given = {StorageWeakRef(given.untyped_storage()) for given in inputs}
            self.alive: dict[Any, int] = {}

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            for leaf in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(leaf, torch.Tensor):
                    self.note(leaf.untyped_storage())
            return result

        def note(self, storage: Any) -> None:
            reference = StorageWeakRef(storage)
            if reference in self.given or reference in self.alive:
                return
            self.alive = {ref: size for ref, size in self.alive.items() if not ref.expired()}
            self.alive[reference] = storage.nbytes()
            self.largest = max(self.largest, storage.nbytes())
            self.peak = max(self.peak, sum(self.alive.values()))

    return LiveMemory()
