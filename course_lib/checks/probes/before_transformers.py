"""Probes of 01_before_transformers: call the answer on a case and return what came back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..exercise import Case
from . import taken_apart, tensor


def em_step(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The expected counts and the new table."""
    pairs = [
        (tensor(source, case.device), tensor(target, case.device))
        for source, target in zip(case["sources"], case["targets"], strict=True)
    ]
    returned = answer(pairs, tensor(case["table"], case.device))
    return taken_apart(returned, "the expected counts", "the new table")


def next_word(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The distribution of the next word."""
    ids, context = tensor(case["ids"]), tensor(case["context"])
    returned = answer(ids, case["vocab_size"], context, case["k"], case["weight"])
    return {"what you returned": None} if returned is None else {"the distribution": returned}


def perplexity(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The perplexity of a batch."""
    given = [tensor(case[name], case.device) for name in ("logits", "targets", "mask")]
    returned = answer(*given)
    return {"what you returned": None} if returned is None else {"the perplexity": returned}


def lstm_cell(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """Hidden state and cell after the last of a few steps, and the gradients of a weighted sum of both."""
    import torch

    names = ("hidden", "cell", "weight_input", "weight_hidden", "bias")
    given = {name: tensor(case[name], case.device, requires_grad=True) for name in names}
    options = {} if case["forget_bias"] is None else {"forget_bias": case["forget_bias"]}
    hidden, cell = given["hidden"], given["cell"]
    values: dict[str, Any] = {}
    for inputs in case["inputs"]:
        weights = (given["weight_input"], given["weight_hidden"], given["bias"])
        returned = answer(tensor(inputs, case.device), hidden, cell, *weights, **options)
        values = taken_apart(returned, "the hidden state", "the cell")
        if not all(isinstance(part, torch.Tensor) for part in _tensors(values, hidden)):
            return values
        hidden, cell = returned
    directions = [tensor(case[name], case.device) for name in ("to_hidden", "to_cell")]
    total = (hidden * directions[0]).sum() + (cell * directions[1]).sum()
    if total.requires_grad:
        total.backward()
    return values | {
        f"the gradient of {name}": torch.zeros_like(part) if part.grad is None else part.grad
        for name, part in given.items()
    }


def _tensors(values: dict[str, Any], like: Any) -> list[Any]:
    """The two states that came back; None for one that is missing or has another shape than before."""
    found = [values.get(name) for name in ("the hidden state", "the cell")]
    return [part if getattr(part, "shape", None) == like.shape else None for part in found]


def clip_gradients(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """What was returned, the gradients after it, and whether the parameters are as they were."""
    import torch

    parameters = []
    for values, gradient in zip(case["parameters"], case["gradients"], strict=True):
        parameter = torch.nn.Parameter(torch.as_tensor(values).clone().to(case.device))
        parameter.grad = None if gradient is None else torch.as_tensor(gradient).clone().to(case.device)
        parameters.append(parameter)
    returned = answer(parameters, case["max_norm"])
    if returned is None:
        return {"what you returned": None}
    found: dict[str, Any] = {"the norm that is returned": returned}
    for number, parameter in enumerate(parameters):
        if case["gradients"][number] is None:
            found[f"the gradient of parameter {number}"] = "None" if parameter.grad is None else "a tensor"
        else:
            found[f"the gradient of parameter {number}"] = parameter.grad
    return found | {f"parameter {number}": parameter for number, parameter in enumerate(parameters)}


def how_far_back(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The influences, the reach, the half-life and the verdict."""
    import torch

    given = ("inputs", "hidden", "direction", "weight_input", "weight_hidden", "keep")
    inputs, hidden, direction, weight_input, weight_hidden, keep = (
        tensor(case[name], case.device) for name in given
    )

    def step(x: Any, state: Any) -> Any:
        return keep * state + torch.tanh(x @ weight_input + state @ weight_hidden)

    options = {} if case["threshold"] is None else {"threshold": case["threshold"]}
    returned = answer(step, inputs, hidden, direction, **options)
    return taken_apart(returned, "the table of influences", "the reach", "the half-life", "the verdict")
