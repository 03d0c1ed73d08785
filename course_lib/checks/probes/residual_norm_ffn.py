"""Probes of 08_residual_norm_ffn: call the answer on a case and return what came back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..exercise import Case
from . import gradients, taken_apart, tensor


def layer_norm(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The output, and the gradients of a weighted sum of it."""
    return _normalised(answer, case, ("hidden_states", "weight", "bias"))


def rms_norm(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The output, and where the case asks the gradients of a weighted sum of it."""
    return _normalised(answer, case, ("hidden_states", "weight"))


def _normalised(answer: Callable[..., Any], case: Case, names: tuple[str, ...]) -> dict[str, Any]:
    inputs = {name: tensor(case[name], case.device, case["dtype"], requires_grad=True) for name in names}
    # Where the case has no eps the answer is called without one: the statement gives it a default.
    output = answer(*inputs.values(), *([] if case["eps"] is None else [case["eps"]]))
    if output is None:
        return {"what you returned": None}
    values = {"the output": output}
    if case["gradient"]:
        values |= gradients(output, tensor(case["direction"], case.device, case["dtype"]), inputs)
    return values


def layer_norm_backward(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The three gradients; autograd records nothing meanwhile."""
    import torch

    names = ("grad_output", "hidden_states", "weight")
    inputs = [tensor(case[name], case.device, case["dtype"]) for name in names]
    with torch.no_grad():
        returned = answer(*inputs, *([] if case["eps"] is None else [case["eps"]]))
    parts = ("the gradient of hidden_states", "the gradient of weight", "the gradient of bias")
    return taken_apart(returned, *parts)


def stack(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The norms that the module holds; with the case's weights, its output and the input's gradient."""
    import torch

    sublayers = [
        (_mixing(block["mixing"], case.device), _feed_forward(block, case.device)) for block in case["blocks"]
    ]
    given = {id(parameter) for pair in sublayers for part in pair for parameter in part.parameters()}
    options = {} if case["dropout"] is None else {"dropout": case["dropout"]}
    module = answer(sublayers, case["d_model"], case["order"], **options)
    is_module = isinstance(module, torch.nn.Module)
    values: dict[str, Any] = {"what the class makes": "a Module" if is_module else type(module).__name__}
    if not is_module:
        return values
    held = {id(parameter) for parameter in module.parameters()}
    values["the number of the sublayers' parameters that the module holds"] = len(given & held)
    own = {name: parameter for name, parameter in module.named_parameters() if id(parameter) not in given}
    values["the list of the other parameters"] = sorted(own)
    norms = case["norms"]
    if sorted(own) != sorted(norms) or any(own[name].shape != norms[name].shape for name in norms):
        return values
    with torch.no_grad():
        for name, array in norms.items():
            own[name].copy_(tensor(array))
    return values | _outcome(module.to(case.device).train(case["training"]), case)


def _outcome(module: Any, case: Case) -> dict[str, Any]:
    hidden_states = tensor(case["hidden_states"], case.device, requires_grad=True)
    mask = {} if case["mask"] is None else {"mask": tensor(case["mask"], case.device)}
    output = module(hidden_states, **mask)
    if output is None:
        return {"what you returned": None}
    direction = tensor(case["direction"], case.device)
    return {"the output": output} | gradients(output, direction, {"hidden_states": hidden_states})


def _mixing(weight: Any, device: str) -> Any:
    """Stands for an attention layer: each token gets the mean of the tokens that it sees, and a matrix."""
    import torch

    class Mixing(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(tensor(weight, device))

        def forward(self, hidden_states: Any, mask: Any = None) -> Any:
            length = hidden_states.shape[-2]
            seen = torch.ones(length, length, device=hidden_states.device)
            seen = seen if mask is None else seen * mask
            shares = seen / seen.sum(dim=-1, keepdim=True)
            return torch.tanh(shares @ hidden_states @ self.weight)

    return Mixing()


def _feed_forward(block: Any, device: str) -> Any:
    """A small feed-forward layer."""
    import torch

    class FeedForward(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = torch.nn.Parameter(tensor(block["up"], device))
            self.down = torch.nn.Parameter(tensor(block["down"], device))

        def forward(self, hidden_states: Any) -> Any:
            return torch.tanh(hidden_states @ self.up) @ self.down

    return FeedForward()


def swiglu(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The parameters' shapes; with the case's weights loaded, the output and the input's gradient."""
    import torch

    options = {} if case["multiple_of"] is None else {"multiple_of": case["multiple_of"]}
    module = answer(case["d_model"], case["d_ff"], **options)
    is_module = isinstance(module, torch.nn.Module)
    values: dict[str, Any] = {"what the class makes": "a Module" if is_module else type(module).__name__}
    if not is_module:
        return values
    state = {name: tensor(array) for name, array in case["state"].items()}
    found = dict(module.named_parameters())
    values["the list of parameters"] = sorted(found)
    values |= {f"the shape of {name}": list(found[name].shape) for name in sorted(found)}
    if sorted(found) != sorted(state) or any(found[name].shape != state[name].shape for name in state):
        return values
    module.load_state_dict(state, strict=False)  # a buffer of the answer's own is no parameter
    module.to(case.device)
    hidden_states = tensor(case["hidden_states"], case.device, requires_grad=True)
    output = module(hidden_states)
    if output is None:
        return {"what you returned": None}
    direction = tensor(case["direction"], case.device)
    return values | {"the output": output} | gradients(output, direction, {"hidden_states": hidden_states})


def gradient_profile(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The norms, the factor and the verdict."""
    import torch

    class Layer(torch.nn.Module):
        def __init__(self, weight: Any) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(tensor(weight, case.device))

        def forward(self, stream: Any) -> Any:
            stream = stream @ self.weight
            return torch.tanh(stream) if case["tanh"] else stream

    layers = [Layer(weight) for weight in case["weights"]]
    inputs = [tensor(case[name], case.device) for name in ("hidden_states", "direction")]
    residual = {} if case["residual"] is None else {"residual": case["residual"]}
    returned = answer(layers, *inputs, case["depth"], **residual)
    return taken_apart(returned, "the table of norms", "the factor", "the verdict")
