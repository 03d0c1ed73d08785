"""What runs in the learner's process: a probe calls an answer on a case and returns values.

A probe holds no expected value, no reference and no misconception; a graded run sends this package
into the sandbox and nothing else of an exercise.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_made: list[tuple[Any, int, Any]] = []


@contextmanager
def watched_inputs() -> Iterator[list[tuple[Any, int, Any]]]:
    """The tensors that `tensor` makes meanwhile: each with its version, and a copy of its numbers."""
    _made.clear()
    yield _made
    _made.clear()


def were_changed(made: list[tuple[Any, int, Any]]) -> bool:
    """Whether any of these tensors was written into since it was made."""
    import torch

    for given, version, copy in made:
        if given._version != version:
            return True
        if given.device.type != "meta" and not torch.equal(given.detach().isnan(), copy.isnan()):
            return True
        if given.device.type != "meta" and not torch.equal(given.detach().nan_to_num(), copy.nan_to_num()):
            return True
    return False


def tensor(data: Any, device: str = "cpu", dtype: str | None = None, requires_grad: bool = False) -> Any:
    """A fresh tensor of a case's array, on the case's device."""
    import torch

    made = torch.as_tensor(data)
    if dtype is not None:
        made = made.to(getattr(torch, dtype))
    given = made.to(device).clone().requires_grad_(requires_grad)
    _made.append((given, given._version, given.detach().clone()))
    return given


def taken_apart(
    returned: Any, *told: str, names: tuple[str, ...] = (), subject: str = "what you return"
) -> dict[str, Any]:
    """What came back, taken apart where it is a tuple with one entry for each of `told`.

    told: what a sentence calls each entry. names: what the statement calls them, where it names them.
    subject: what a sentence calls the whole; its value is the form in words, the same for all right answers.
    """
    if returned is None:
        return {"what you returned": None}
    whole = isinstance(returned, tuple) and len(returned) == len(told)
    form = {subject: f"a tuple ({', '.join(names)})" if whole and names else in_words(returned)}
    return form | dict(zip(told, returned, strict=True)) if whole else form


def in_words(returned: Any) -> str:
    """The form of what came back, without its numbers."""
    import torch

    if isinstance(returned, torch.Tensor):
        return "one torch.Tensor"
    if isinstance(returned, (tuple, list)):
        return f"a {type(returned).__name__} of {len(returned)}"
    return f"one {type(returned).__name__}"


def gradients(output: Any, direction: Any, inputs: dict[str, Any]) -> dict[str, Any]:
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


def loaded(made: Any, case: Any, *, by_parts: bool = False) -> tuple[Any, dict[str, Any]]:
    """The answer's module with the case's weights, or None where they do not fit; and what was found.

    It is on the case's device, in evaluation mode. by_parts: tell of the parts that have parameters first.
    """
    import torch

    is_module = isinstance(made, torch.nn.Module)
    values: dict[str, Any] = {"what the class makes": "a Module" if is_module else type(made).__name__}
    if not is_module:
        return None, values
    state = {name: tensor(array) for name, array in case["state"].items()}
    found = dict(made.named_parameters())
    if by_parts:
        values["the list of parts with parameters"] = sorted({name.split(".")[0] for name in found})
    values["the list of parameters"] = sorted(found)
    if sorted(found) != sorted(state):
        return None, values
    values |= {f"the shape of {name}": list(found[name].shape) for name in sorted(found)}
    if any(found[name].shape != state[name].shape for name in state):
        return None, values
    made.load_state_dict(state, strict=False)  # a buffer of the answer's own is no parameter
    return made.to(case.device).eval(), values


@contextmanager
def seeded(device: str) -> Iterator[None]:
    """PyTorch's random numbers begin the same meanwhile, and go on afterwards as if there had been none."""
    import torch

    devices = [torch.cuda.current_device()] if device == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        yield
