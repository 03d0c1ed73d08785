"""Probes of 17_lora: call the answer on a case and return what came back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..exercise import Case
from . import seeded, taken_apart, tensor


def linear(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """What a new layer holds and gives; then, with the case's A and B, its output and gradients."""
    import torch

    base = torch.nn.Linear(case["d_in"], case["d_out"], bias=case["bias"] is not None)
    with torch.no_grad():
        base.weight.copy_(tensor(case["weight"]))
        if case["bias"] is not None:
            base.bias.copy_(tensor(case["bias"]))
    base.to(case.device)
    module = answer(base, case["rank"], case["alpha"])
    is_module = isinstance(module, torch.nn.Module)
    values: dict[str, Any] = {"what the class makes": "a Module" if is_module else type(module).__name__}
    if not is_module:
        return values
    trained = {name: given for name, given in module.named_parameters() if given.requires_grad}
    values["the list of trained parameters"] = sorted(trained)
    for name in ("A", "B"):
        given = getattr(module, name, None)
        if not isinstance(given, torch.nn.Parameter):
            return values | {f"what {name} is": type(given).__name__}
        values[f"the shape of {name}"] = list(given.shape)
    hidden_states = tensor(case["hidden_states"], case.device, requires_grad=True)
    # B A is drawn where B is not zero, and then the output is no value to compare.
    for name in ("A", "B"):
        zero = bool((getattr(module, name) == 0).all())
        values[f"{name} before training"] = "all zeros" if zero else "not all zeros"
    if values["B before training"] == "all zeros":
        values["the output before training"] = module(hidden_states)
    if module.A.shape != case["A"].shape or module.B.shape != case["B"].shape:
        return values
    with torch.no_grad():
        module.A.copy_(tensor(case["A"], case.device))
        module.B.copy_(tensor(case["B"], case.device))
    output = module(hidden_states)
    values["the output"] = output
    direction = tensor(case["direction"], case.device)
    if not isinstance(output, torch.Tensor) or output.shape != direction.shape or not output.requires_grad:
        return values
    (output * direction).sum().backward()
    given = {"hidden_states": hidden_states, "A": module.A, "B": module.B}
    return values | {
        f"the gradient of {name}": torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        for name, leaf in given.items()
    }


def merge(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The merged weight, and whether its memory is its own."""
    import torch

    weight = tensor(case["weight"], dtype=case["dtype"])
    adapters = [
        (tensor(adapter["A"]), tensor(adapter["B"]), adapter["alpha"]) for adapter in case["adapters"]
    ]
    merged = answer(weight, adapters)
    if merged is None:
        return {"what you returned": None}
    shared = isinstance(merged, torch.Tensor) and _memory(merged) == _memory(weight)
    return {
        "the merged weight": merged,
        "the memory of the merged weight": "that of the weight" if shared else "its own",
    }


def _memory(values: Any) -> int:
    """Where a tensor's storage begins."""
    return int(values.untyped_storage().data_ptr())


def quantize(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The bytes and the blocks' absmax."""
    returned = answer(tensor(case["values"]), tensor(case["code"]), case["block"])
    values = taken_apart(returned, "the bytes", "the table of absmax")
    if "the bytes" in values:
        values["the bytes"] = values.pop("the bytes")  # a wrong scale makes wrong bytes: it is told first
    return values


def dequantize(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The values."""
    packed, absmax = tensor(case["packed"]), tensor(case["absmax"])
    values = answer(packed, absmax, tensor(case["code"]), case["block"])
    return {"what you returned": None} if values is None else {"the values": values}


def rank_profile(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The shares, the rank and the verdict."""
    returned = answer(tensor(case["before"]), tensor(case["after"]), case["share"])
    return taken_apart(returned, "the table of kept shares", "the rank", "the verdict")


def train_adapter(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The shapes of what came back, whether the base is as it was, and what base and adapters predict.

    The predictions are those of a copy of the base that the answer never had in hand.
    """
    import torch

    def make_base() -> Any:
        layers = []
        for name in ("first", "second"):
            weight, bias = case[f"{name} weight"], case[f"{name} bias"]
            layer = torch.nn.Linear(*weight.shape[::-1])
            layer.load_state_dict({"weight": tensor(weight), "bias": tensor(bias)})
            layers.append(layer)
        return torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1]).to(case.device)

    base, whole, rank = make_base(), make_base(), case["rank"]
    inputs, labels = tensor(case["train inputs"], case.device), tensor(case["train labels"], case.device)
    with seeded(case.device):
        returned = answer(base, inputs, labels, rank, case["alpha"])
    if returned is None:
        return {"what you returned": None}
    layers = (whole[0], whole[2])
    wanted = [[[rank, layer.in_features], [layer.out_features, rank]] for layer in layers]
    try:
        shapes = [[list(part.shape) for part in pair] for pair in returned]
    except (TypeError, AttributeError):
        return {"what you return": f"one {type(returned).__name__}"}
    parameters = zip(base.parameters(), whole.parameters(), strict=True)
    same = all(torch.equal(one, other) for one, other in parameters)
    values: dict[str, Any] = {"the list of shapes": shapes, "the base": "as it was" if same else "changed"}
    if shapes != wanted:
        return values
    for name, place in (("A", 0), ("B", 1)):
        zero = not any(pair[place].any() for pair in returned)
        values[f"{name} after training"] = "all zeros" if zero else "not all zeros"
    with torch.no_grad():
        for layer, (a, b) in zip(layers, returned, strict=True):
            layer.weight += case["alpha"] / rank * b @ a
        return values | {"the predictions": whole(tensor(case["test inputs"], case.device)).argmax(dim=-1)}
