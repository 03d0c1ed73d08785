"""What an answer computes on its way: the tensors that torch makes, and the learner's local arrays."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import FrameType, TracebackType
from typing import Any

import numpy as np

from .values import Array, normalise

MAX_RECORDED = 4000
MAX_SIZE = 100_000


class Trace:
    """Records, while it is entered, the arrays that code computes. `arrays` holds them in order.

    own_file: whether a code object's file name is the learner's (a notebook cell by default).
    """

    def __init__(self, own_file: Callable[[str], bool] | None = None) -> None:
        self.arrays: list[np.ndarray] = []
        self._own_file = own_file or _not_installed
        # Made here, not on entry: torch's first import for it takes a second that is not the answer's.
        self._mode: Any = _recording_mode(self) if "torch" in sys.modules else None
        self._before: Any = None
        self._last: dict[str, np.ndarray] = {}

    def record(self, value: Any) -> None:
        """Keep a copy of a tensor or array, or of each in a tuple or list."""
        if isinstance(value, (tuple, list)):
            for item in value[:16]:
                self.record(item)
            return
        if len(self.arrays) >= MAX_RECORDED or not hasattr(value, "shape"):
            return
        try:
            array = normalise(value)
        except Exception:
            return
        if isinstance(array, Array) and array.data.size <= MAX_SIZE and array.device != "meta":
            self.arrays.append(array.data)

    def __enter__(self) -> Trace:
        if self._mode is not None:
            self._mode.__enter__()
        self._before = sys.gettrace()
        sys.settrace(self._on_call)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        sys.settrace(self._before)
        if self._mode is not None:
            self._mode.__exit__(kind, error, traceback)

    def _on_call(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._on_line if self._own_file(frame.f_code.co_filename) else None

    def _on_line(self, frame: FrameType, event: str, argument: Any) -> Any:
        # Looked at before each line: a name bound twice, or changed in place, shows both values.
        for name, value in list(frame.f_locals.items()):
            if isinstance(value, np.ndarray) and value.size <= MAX_SIZE:
                last = self._last.get(name)
                if last is None or not np.array_equal(last, value):
                    self.record(value)
                    self._last[name] = value.copy()
        if event == "return":
            self.record(argument)
        return self._on_line


def first_departure(
    steps: Mapping[str, np.ndarray], arrays: list[np.ndarray]
) -> tuple[str | None, str] | None:
    """(last step that was met, first step that was not), or None where nothing can be said for sure.

    A step counts as met when some recorded array equals it, its transpose, or it without axes of
    length 1. A step that was merged into a later one is passed over: the last match decides.
    Where no step was met, the first is named only if an array of its shape was made: an answer may
    take another way.
    """
    names = list(steps)
    met = [any(_alike(steps[name], array) for array in arrays) for name in names]
    last = max((index for index, ok in enumerate(met) if ok), default=-1)
    if last == len(names) - 1:
        return None
    if last < 0 and not any(np.squeeze(array).shape == np.squeeze(steps[names[0]]).shape for array in arrays):
        return None
    return (names[last] if last >= 0 else None), names[last + 1]


def _alike(step: np.ndarray, array: np.ndarray) -> bool:
    step, array = np.squeeze(step), np.squeeze(array)
    candidates = [array] if array.ndim < 2 else [array, np.swapaxes(array, -1, -2)]
    for candidate in candidates:
        if candidate.shape == step.shape:
            if candidate.dtype.kind == "b" or step.dtype.kind == "b":
                return bool(np.array_equal(candidate, step))
            if np.allclose(candidate, step, rtol=1e-3, atol=1e-4, equal_nan=True):
                return True
    return False


def _not_installed(file_name: str) -> bool:
    return (
        "site-packages" not in file_name and "course_lib" not in file_name and "/lib/python" not in file_name
    )


def _recording_mode(trace: Trace) -> Any:
    from .modes import DispatchMode

    class Recording(DispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            trace.record(result)
            return result

    return Recording()
