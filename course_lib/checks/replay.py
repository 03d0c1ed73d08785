"""Cases and answers that were recorded: what stands in a learners' pack where the course has code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .exercise import Case
from .guard import resolve
from .messages import sentence
from .values import Array

REFERENCE = ""


@dataclass(frozen=True)
class RecordedCase(Case):
    """A case, what the recorded answers gave on it, and the reference's steps.

    values: by the name of the answer; the reference's is REFERENCE. An answer that was stopped at an
    earlier case has none here.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    steps: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Replay:
    """Stands for an answer: gives on a recorded case what that answer gave.

    library: "module:name" of the same answer in the library, where it has it.
    """

    exercise: str
    name: str = REFERENCE
    library: str | None = None

    def on(self, case: Case) -> Any:
        """The answer's normalised values, or what it raised; on CUDA the tensors are said to be there."""
        assert isinstance(case, RecordedCase)
        found = case.values[self.name]
        return found if case.device == "cpu" else _on_device(found, case.device)

    def in_library(self) -> Any:
        """The same answer as a function or class of the library; None where the library has none."""
        return resolve(self.library.replace(":", ".")) if self.library else None

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        raise NotImplementedError(sentence("not_in_pack", id=self.exercise))


def _on_device(value: Any, device: str) -> Any:
    if isinstance(value, Array):
        moves = value.container == "torch.Tensor" and value.device == "cpu"
        return replace(value, device=device) if moves else value
    if isinstance(value, dict):
        return {name: _on_device(item, device) for name, item in value.items()}
    return [_on_device(item, device) for item in value] if isinstance(value, list) else value
