"""Probes of 07_multi_head_attention: call the answer on a case and return what came back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..exercise import Case
from . import gradients, loaded, taken_apart, tensor


def through_heads(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The heads that the answer hands to a function, and what it makes of those that come back."""
    values: dict[str, Any] = {}

    def function(heads: Any) -> Any:
        values["the tensor after the split"] = heads
        return tensor(case["found"], case.device)

    merged = answer(tensor(case["hidden_states"], case.device), case["num_heads"], function)
    return values | {"the output after the merge": merged}


def layer(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The parameters' shapes; with the case's weights loaded, output, weights and the inputs' gradients."""

    sizes = {name: case[name] for name in ("d_model", "num_heads")}
    if case["refused"]:
        return {"what the class does": _refusal(lambda: answer(**sizes), "makes a layer")}
    made = answer(**sizes) if case["bias"] else answer(**sizes, bias=False)
    module, values = loaded(made, case)
    return values if module is None else values | _outcome(module, case)


def _outcome(module: Any, case: Case) -> dict[str, Any]:
    inputs = {"hidden_states": tensor(case["hidden_states"], case.device, requires_grad=True)}
    if case["context"] is not None:
        inputs["context"] = tensor(case["context"], case.device, requires_grad=True)
    mask = {} if case["mask"] is None else {"mask": tensor(case["mask"], case.device)}
    return _attended(module(*inputs.values(), **mask), "what forward returns", case, inputs)


def grouped(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """Output and weights, and the gradients of a weighted sum of the output."""
    inputs = {
        name: tensor(case[name], case.device, case["dtype"], requires_grad=case["gradient"])
        for name in ("query", "key", "value")
    }
    mask = [] if case["mask"] is None else [tensor(case["mask"], case.device)]
    if case["refused"]:
        return {"what the function does": _refusal(lambda: answer(*inputs.values(), *mask), "returns")}
    return _attended(answer(*inputs.values(), *mask), "what you return", case, inputs)


def cost(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The two counts that the answer gives, and whether they are integers."""
    import torch

    sizes = dict(case.inputs) | {"dtype": getattr(torch, case["dtype"])}
    told = ("the number of parameters", "the number of bytes in the cache")
    values = taken_apart(answer(**sizes), *told, names=("parameters", "cache_bytes"))
    if told[0] not in values:
        return values
    kinds = " and ".join(sorted({type(values[name]).__name__ for name in told}))
    return {"what you return": values["what you return"], "the type of the counts": kinds} | values


def rank_heads(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The loss, what each head is worth, the heads in order, and the pair that stands in for each other."""
    names = ("heads", "output_weight", "output_bias", "residual", "guess_weight", "labels")
    returned = answer(*(tensor(case[name], case.device) for name in names))
    told = ("the loss with all heads", "the increase of each head", "the list of heads in order")
    pair = "the list of the two heads of the pair"
    return taken_apart(returned, *told, pair, names=("loss", "increase", "order", "pair"))


def _refusal(act: Callable[[], Any], otherwise: str) -> str:
    """Whether a ValueError is raised, in words; any other exception passes on."""
    try:
        act()
    except ValueError:
        return "raises a ValueError"
    return otherwise


def _attended(returned: Any, name: str, case: Case, inputs: dict[str, Any]) -> dict[str, Any]:
    """An (output, weights) pair, taken apart, with the inputs' gradients where the case asks for them."""
    told = ("the output", "the table of weights")
    values = taken_apart(returned, *told, names=("output", "weights"), subject=name)
    if not case["gradient"]:
        return values
    return values | gradients(values.get(told[0]), tensor(case["direction"], case.device), inputs)
