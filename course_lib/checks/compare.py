"""Where two normalised values first differ, as one sentence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .exercise import Exercise, Score, Tolerance
from .messages import sentence
from .scores import shortfall
from .values import Array, Opaque, Raised

# Names of values that every probe may return, or that the engine adds.
RETURNED = "what you returned"
INPUTS = "the inputs"


@dataclass(frozen=True)
class Finding:
    """One difference between an answer's values and the reference's. kind: a key of the sentences."""

    case: str
    kind: str
    text: str


def compare(
    exercise: Exercise, case: str, expected: dict[str, Any], actual: dict[str, Any]
) -> Finding | None:
    """The first difference between two probes' values on one case, or None when they agree.

    Judged values are measured: in `expected` stands the truth for them, where `with_truth` put it.
    """
    if RETURNED in actual and RETURNED not in expected:
        return _unexpected(case, actual[RETURNED], [name for name in expected if name != INPUTS])
    if INPUTS in expected and actual.get(INPUTS, expected[INPUTS]) != expected[INPUTS]:
        # Whatever else is wrong may come from it.
        return Finding(case, "changed", sentence("changed", case=case))
    for name, value in expected.items():
        if name not in actual:
            return Finding(case, "missing", sentence("missing", case=case, name=name))
        if value is not None and actual[name] is None and set(actual) <= {name, INPUTS}:
            return Finding(case, "nothing", sentence("nothing", case=case))
        found = (
            below_the_bar(exercise.judged[name], value, actual[name], case, name)
            if name in exercise.judged
            else difference(value, actual[name], exercise.tolerance_of(name), case, name)
        )
        if found:
            return found
    return None


def below_the_bar(score: Score, truth: Array, predicted: Any, case: str, name: str) -> Finding | None:
    """Why predictions are not good enough, or None where they are."""
    found = shortfall(score, truth, predicted)
    return None if found is None else _finding(found.kind, case, name, **found.details)


def _unexpected(case: str, value: Any, names: list[str]) -> Finding:
    """The answer returned something that the probe could not take apart."""
    if value is None:
        return Finding(case, "nothing", sentence("nothing", case=case))
    wanted = f"a tuple of {' and '.join(names)}" if len(names) > 1 else names[0]
    return Finding(case, "returned", sentence("returned", case=case, actual=describe(value), expected=wanted))


def same(exercise: Exercise, expected: dict[str, Any], actual: dict[str, Any]) -> bool:
    """Whether an answer's values are what is expected, and no more."""
    return compare(exercise, "", expected, actual) is None and set(expected) == set(actual)


def alike(exercise: Exercise, one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two answers' values agree within tolerance, number by number, judged ones too.

    Either may hold a tensor of one entry where the other holds a number.
    """
    unjudged = replace(exercise, judged={})
    return same(unjudged, one, other) or same(unjudged, other, one)


def difference(expected: Any, actual: Any, tolerance: Tolerance, case: str, name: str) -> Finding | None:
    """The first difference between two values, or None. Arrays must agree in type, device, dtype, shape."""
    if isinstance(expected, Array):
        return _array_difference(expected, actual, tolerance, case, name)
    if isinstance(expected, dict):
        return _dict_difference(expected, actual, tolerance, case, name)
    if isinstance(expected, list):
        return _list_difference(expected, actual, tolerance, case, name)
    return _scalar_difference(expected, actual, tolerance, case, name)


def describe(value: Any) -> str:
    """What a value is, in words: "a torch.Tensor", "a list", "text" …"""
    if isinstance(value, Array):
        return f"a {value.container}"
    if isinstance(value, Opaque):
        return (
            value.type_name
            if value.type_name.startswith(("a ", "an "))
            else f"an object of type {value.type_name}"
        )
    if isinstance(value, Raised):
        return f"an exception ({value.type_name})"
    names = {str: "text", bool: "True or False", dict: "a dict", list: "a list", int: "an integer"}
    names |= {float: "a number", bytes: "bytes", type(None): "None"}
    # A frame can hold a NumPy scalar, which no honest answer leaves one.
    return names.get(type(value), f"an object of type {type(value).__name__}")


def _finding(kind: str, case: str, name: str, **values: object) -> Finding:
    return Finding(case, kind, sentence(kind, case=case, name=name, **values))


def _array_difference(
    expected: Array, actual: Any, tolerance: Tolerance, case: str, name: str
) -> Finding | None:
    if not isinstance(actual, Array) or actual.container != expected.container:
        return _finding("type", case, name, actual=describe(actual), expected=describe(expected))
    for kind in ("device", "shape", "dtype"):
        want, got = getattr(expected, kind), getattr(actual, kind)
        if want != got:
            return _finding(kind, case, name, actual=got, expected=want)
    wrong = ~_close(expected, actual, tolerance)
    if not wrong.any():
        return None
    where = tuple(int(i) for i in np.argwhere(wrong)[0])
    got, want = actual.data[where], expected.data[where]
    kind = "nan" if _is_nan(got) else "value"
    place = f"[{', '.join(map(str, where))}]" if where else "its only entry"
    return _finding(kind, case, name, actual=_number(got), expected=_number(want), where=place)


def _close(expected: Array, actual: Array, tolerance: Tolerance) -> np.ndarray:
    if expected.data.dtype.kind not in "fc":
        return np.asarray(expected.data == actual.data)
    absolute, relative = tolerance.bounds(expected.dtype)
    return np.isclose(actual.data, expected.data, rtol=relative, atol=absolute, equal_nan=True)


def _dict_difference(
    expected: dict[str, Any], actual: Any, tolerance: Tolerance, case: str, name: str
) -> Finding | None:
    if not isinstance(actual, dict):
        return _finding("type", case, name, actual=describe(actual), expected="a dict")
    for key, value in expected.items():
        if key not in actual:
            return _finding("missing", case, f"{name}[{key!r}]")
        found = difference(value, actual[key], tolerance, case, f"{name}[{key!r}]")
        if found:
            return found
    extra = sorted(set(actual) - set(expected))
    if extra:
        return _finding("length", case, name, actual=len(actual), expected=len(expected))
    return None


def _list_difference(
    expected: list[Any], actual: Any, tolerance: Tolerance, case: str, name: str
) -> Finding | None:
    if not isinstance(actual, list):
        return _finding("type", case, name, actual=describe(actual), expected="a list or tuple")
    if max(len(expected), len(actual)) <= 24 and _is_flat(expected) and _is_flat(actual):
        pairs = zip(expected, actual, strict=False)
        differs = any(difference(want, got, tolerance, case, name) for want, got in pairs)
        if differs or len(expected) != len(actual):
            return _finding("scalar", case, name, actual=_shown(actual), expected=_shown(expected))
    if len(expected) != len(actual):
        return _finding("length", case, name, actual=len(actual), expected=len(expected))
    for index, (want, got) in enumerate(zip(expected, actual, strict=True)):
        found = difference(want, got, tolerance, case, f"{name}[{index}]")
        if found:
            return found
    return None


def _scalar_difference(
    expected: Any, actual: Any, tolerance: Tolerance, case: str, name: str
) -> Finding | None:
    if isinstance(actual, Array) and actual.data.size == 1 and isinstance(expected, (int, float)):
        actual = actual.data.reshape(()).item()
    numbers = isinstance(expected, (int, float)) and isinstance(actual, (int, float))
    if numbers and isinstance(expected, bool) == isinstance(actual, bool):
        if _close_numbers(expected, actual, tolerance):
            return None
    elif type(expected) is not type(actual) and not _none_and_a_scalar(expected, actual):
        return _finding("type", case, name, actual=describe(actual), expected=describe(expected))
    elif expected == actual:
        return None
    return _finding("scalar", case, name, actual=_shown(actual), expected=_shown(expected))


def _none_and_a_scalar(one: Any, other: Any) -> bool:
    """Two values that are told by what they are: "the layout is None; expected 'half'"."""
    known = [value for value in (one, other) if value is not None]
    return len(known) == 1 and _is_flat(known)


def _close_numbers(expected: float, actual: float, tolerance: Tolerance) -> bool:
    if isinstance(expected, int) and isinstance(actual, int):
        return expected == actual
    absolute, relative = tolerance.bounds("float32")
    try:
        return bool(np.isclose(float(actual), float(expected), rtol=relative, atol=absolute, equal_nan=True))
    except OverflowError:  # An integer beyond the largest float.
        return False


def _is_flat(items: list[Any]) -> bool:
    return all(isinstance(item, (str, int, float, bytes)) for item in items)


def _is_nan(value: Any) -> bool:
    return bool(value != value)


def _number(value: Any) -> str:
    # + 0.0, so that minus zero is written as 0.
    return f"{value + 0.0:.6g}" if isinstance(value, (float, np.floating)) else str(value)


def _shown(value: Any, limit: int = 160) -> str:
    if isinstance(value, list):
        text = f"[{', '.join(map(_shown, value))}]"
    else:
        text = f"{value:.6g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
