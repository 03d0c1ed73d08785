"""Probes of 07_multi_head_attention: call the answer on a case and return what came back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..exercise import Case
from . import tensor


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
    import torch

    sizes = {name: case[name] for name in ("d_model", "num_heads")}
    if case["refused"]:
        return {"what the class does": _refusal(lambda: answer(**sizes), "makes a layer")}
    module = answer(**sizes) if case["bias"] else answer(**sizes, bias=False)
    is_module = isinstance(module, torch.nn.Module)
    values: dict[str, Any] = {"what the class makes": "a Module" if is_module else type(module).__name__}
    if not is_module:
        return values
    state = {name: tensor(array) for name, array in case["state"].items()}
    found = dict(module.named_parameters())
    values["the list of parameters"] = sorted(found)
    if sorted(found) != sorted(state):
        return values
    values |= {f"the shape of {name}": list(found[name].shape) for name in sorted(found)}
    if any(found[name].shape != state[name].shape for name in state):
        return values
    module.load_state_dict(state, strict=False)  # a buffer of the answer's own is no parameter
    return values | _outcome(module.to(case.device), case)


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
    returned = answer(**sizes)
    if returned is None:
        return {"what you returned": None}
    form = {"what you return": _form(returned, "parameters", "cache_bytes")}
    if not isinstance(returned, tuple) or len(returned) != 2:
        return form
    kinds = sorted({type(count).__name__ for count in returned})
    form |= {"the type of the counts": " and ".join(kinds)}
    return form | {"the number of parameters": returned[0], "the number of bytes in the cache": returned[1]}


def rank_heads(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The loss, what each head is worth, the heads in order, and the pair that stands in for each other."""
    names = ("heads", "output_weight", "output_bias", "residual", "guess_weight", "labels")
    returned = answer(*(tensor(case[name], case.device) for name in names))
    if returned is None:
        return {"what you returned": None}
    form = {"what you return": _form(returned, "loss", "increase", "order", "pair")}
    if not isinstance(returned, tuple) or len(returned) != 4:
        return form
    loss, increase, order, pair = returned
    values = form | {"the loss with all heads": loss, "the increase of each head": increase}
    return values | {"the list of heads in order": order, "the list of the two heads of the pair": pair}


def _refusal(act: Callable[[], Any], otherwise: str) -> str:
    """Whether a ValueError is raised, in words; any other exception passes on."""
    try:
        act()
    except ValueError:
        return "raises a ValueError"
    return otherwise


def _attended(returned: Any, name: str, case: Case, inputs: dict[str, Any]) -> dict[str, Any]:
    """An (output, weights) pair, taken apart, with the inputs' gradients where the case asks for them."""
    if returned is None:
        return {"what you returned": None}
    form = {name: _form(returned, "output", "weights")}
    if not isinstance(returned, tuple) or len(returned) != 2:
        return form
    values = form | {"the output": returned[0], "the table of weights": returned[1]}
    if not case["gradient"]:
        return values
    return values | _gradients(returned[0], tensor(case["direction"], case.device), inputs)


def _form(returned: Any, *parts: str) -> str:
    """What came back, in words: the same words for every answer that returns a tuple of these parts."""
    import torch

    if isinstance(returned, torch.Tensor):
        return "one torch.Tensor"
    if isinstance(returned, tuple) and len(returned) == len(parts):
        return f"a tuple ({', '.join(parts)})"
    if isinstance(returned, (tuple, list)):
        return f"a {type(returned).__name__} of {len(returned)}"
    return f"one {type(returned).__name__}"


def _gradients(output: Any, direction: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs' gradients of a weighted sum of the output; zeros where none arrives.

    Empty where the output is no tensor of the right shape: then the output itself is the finding.
    """
    import torch

    if not isinstance(output, torch.Tensor) or output.shape != direction.shape:
        return {}
    if output.requires_grad:
        (output * direction).sum().backward()
    return {
        f"the gradient of {name}": torch.zeros_like(given) if given.grad is None else given.grad
        for name, given in inputs.items()
    }
