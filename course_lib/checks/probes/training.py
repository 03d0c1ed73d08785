"""Probes of exercises that train a model, in any chapter: what it predicts is judged, not how it was made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..exercise import Case
from . import seeded, tensor


def fit_and_predict(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The predictions of `answer(train_inputs, train_labels, test_inputs)`.

    The case's inputs are called "train inputs", "train labels" and "test inputs". Arrays are given as
    tensors on the case's device; text and lists are given as they are. The labels of the test inputs are
    no input: `Case.withheld` has them, for `Exercise.judged` to measure "the predictions" by.
    PyTorch's random numbers begin the same at every call, and go on afterwards as if there had been none.
    """
    names = ("train inputs", "train labels", "test inputs")
    given = [
        tensor(value, case.device) if isinstance(value, np.ndarray) else value
        for value in (case[name] for name in names)
    ]
    with seeded(case.device):
        return {"the predictions": answer(*given)}
