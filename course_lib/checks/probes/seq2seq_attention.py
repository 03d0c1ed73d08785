"""Probes of 02_seq2seq_attention: call the answer on a case and return what came back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..exercise import Case
from . import gradients, taken_apart, tensor


def teacher_forcing(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """What the decoder reads, and its labels. Where a label is padding, what it reads is set to 0."""
    import torch

    read, labels = "what the decoder reads", "what it is asked for"
    values = taken_apart(
        answer(tensor(case["target_ids"], case.device)), read, labels, names=("inputs", "labels")
    )
    one, other = values.get(read), values.get(labels)
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor) and one.shape == other.shape:
        values[read] = torch.where(other == 0, torch.zeros_like(one), one)
    return values


def additive(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """Context and weights, and the gradients of a weighted sum of the context."""
    names = ("query", "memory", "w_query", "w_memory", "v")
    given = {name: tensor(case[name], case.device, requires_grad=True) for name in names}
    mask = tensor(case["mask"], case.device)
    returned = answer(given["query"], given["memory"], mask, given["w_query"], given["w_memory"], given["v"])
    values = taken_apart(returned, "the context", "the table of weights", names=("context", "weights"))
    return values | gradients(values.get("the context"), tensor(case["direction"], case.device), given)


def luong(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The scores, or whether a score that does not exist is refused."""
    query, memory = (tensor(case[name], case.device) for name in ("query", "memory"))
    more = [tensor(case[name], case.device) for name in ("weight", "v") if case[name] is not None]
    if not case["refused"]:
        return {"the table of scores": answer(case["kind"], query, memory, *more)}
    try:
        answer(case["kind"], query, memory, *more)
    except ValueError:
        return {"what the function does": "raises a ValueError"}
    return {"what the function does": "returns"}


def step(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """What one step of the decoder returns, and the gradients of a weighted sum of its new vector."""
    import torch

    d_model, d_embedding = case["hidden"].shape[1], case["embedded"].shape[1]
    cell = torch.nn.GRUCell(d_embedding + d_model, d_model)
    combine = torch.nn.Linear(2 * d_model, d_model)
    for module, name in ((cell, "cell"), (combine, "combine")):
        module.load_state_dict({part: tensor(array) for part, array in case[name].items()})
    names = ("embedded", "hidden", "attentional", "memory")
    given = {name: tensor(case[name], case.device, requires_grad=True) for name in names}
    returned = answer(
        *given.values(), tensor(case["mask"], case.device), cell.to(case.device), combine.to(case.device)
    )
    told = ("the attentional vector", "the hidden state", "the table of weights")
    values = taken_apart(returned, *told, names=("attentional", "hidden", "weights"))
    return values | gradients(values.get(told[0]), tensor(case["direction"], case.device), given)


def all_steps(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """What all steps at once give, and whether more steps take more operations of torch."""
    import torch

    names = ("hidden", "memory", "general", "combine")
    needs = case["dtype"] == "float32"
    given = {name: tensor(case[name], case.device, case["dtype"], requires_grad=needs) for name in names}
    mask = tensor(case["mask"], case.device)

    def call(hidden: Any) -> Any:
        return answer(hidden, given["memory"], mask, given["general"], given["combine"])

    counted = _operations()
    with counted:
        returned = call(given["hidden"])
    told = ("the attentional vectors", "the table of weights")
    values = taken_apart(returned, *told, names=("attentional", "weights"))
    if not isinstance(values.get(told[0]), torch.Tensor):
        return values
    of_two = _operations()
    with torch.no_grad(), of_two:
        call(given["hidden"][:, :2])
    same = counted.count <= of_two.count + 8  # taking two steps is an operation, and so on
    values["the number of operations"] = "does not grow with the steps" if same else "grows with the steps"
    if not needs:
        return values
    return values | gradients(values[told[0]], tensor(case["direction"], case.device), given)


def judge(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The quality by length, the length at which it breaks, and the alignment error rate."""
    weights = [tensor(array, case.device) for array in case["weights"]]
    gold = [{(source, target) for source, target in links} for links in case["gold"]]
    names = ("lengths", "references", "fixed", "attended")
    returned = answer(*(case[name] for name in names), weights, gold)
    told = ("the dict of qualities", "the length at which it breaks", "the alignment error rate")
    return taken_apart(returned, *told, names=("quality", "breaks_at", "error_rate"))


def _operations() -> Any:
    """A mode that counts the operations of torch."""
    from ..modes import DispatchMode

    class Operations(DispatchMode):
        count = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.count += 1
            return func(*args, **(kwargs or {}))

    return Operations()
