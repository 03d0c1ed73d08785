"""Subclasses become plain values: the same in self-study and through the sandbox's frames.

Oracles: the base classes' own values, and what a frame's reader makes of what its writer wrote.
"""

from __future__ import annotations

import enum
from collections import Counter, OrderedDict, UserDict, defaultdict, namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_lib.checks.values import Array, Opaque, normalise
from course_lib.grading.protocol import decode, encode


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 7


class Word(enum.StrEnum):
    CAT = "cat"


class Liar:
    """Says yes to every question, and raises where it is asked for a value."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0

    def _refuse(self, *given: Any) -> Any:
        raise AssertionError("an overridden method was called")

    __str__ = __repr__ = __int__ = __float__ = __index__ = __iter__ = __len__ = __getitem__ = _refuse
    items = keys = values = item = __bytes__ = __array__ = __reduce__ = _refuse


def lying(base: type) -> Any:
    """A subclass of this class whose own methods must not be called."""
    return type(f"Lying{base.__name__}", (Liar, base), {})


LyingText = lying(str)


Pair = namedtuple("Pair", "first second")
NESTED = defaultdict(list, {"a": [Level.LOW], "b": [np.str_("x"), Pair(1, 2.0)]})

PLAIN = {
    "IntEnum": (Level.HIGH, 7),
    "StrEnum": (Word.CAT, "cat"),
    "np.str_": (np.str_("word"), "word"),
    "np.bytes_": (np.bytes_(b"ab"), b"ab"),
    "np.int64": (np.int64(5), 5),
    "np.float64": (np.float64(0.5), 0.5),
    "np.float32": (np.float32(0.5), 0.5),
    "np.bool_": (np.bool_(True), True),
    "namedtuple": (Pair(1, "x"), [1, "x"]),
    "Counter": (Counter("aab"), {"a": 2, "b": 1}),
    "OrderedDict": (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    "nested": (NESTED, {"a": [1], "b": ["x", [1, 2.0]]}),
    "UserDict": (UserDict(a=Level.LOW), {"a": 1}),
    "torch.Size": (torch.zeros(2, 3).shape, [2, 3]),
    "lying text": (LyingText("word"), "word"),
    "lying integer": (lying(int)(3), 3),
    "lying float": (lying(float)(2.5), 2.5),
    "lying bytes": (lying(bytes)(b"ab"), b"ab"),
    "lying list": (lying(list)([1, LyingText("x")]), [1, "x"]),
    "lying tuple": (lying(tuple)((1, 2)), [1, 2]),
    "lying dict": (lying(dict)({LyingText("k"): 1}), {"k": 1}),
    "lying scalar": (lying(np.float64)(1.5), 1.5),
    "keys": ({Level.LOW: 0, np.str_("k"): 0, b"b": 0, None: 0}, {"1": 0, "k": 0, "b'b'": 0, "None": 0}),
    "keys of pairs": ({Pair("a", np.int64(1)): 0, (LyingText("b"), 2): 0}, {"('a', 1)": 0, "('b', 2)": 0}),
}


def types_of(value: Any) -> Any:
    if isinstance(value, list):
        return [list, *map(types_of, value)]
    if isinstance(value, dict):
        return [dict, *((type(key), types_of(item)) for key, item in value.items())]
    return type(value)


@pytest.mark.parametrize("name", PLAIN)
def test_a_subclass_becomes_a_plain_value_and_crosses_as_it_is(name: str) -> None:
    value, plain = PLAIN[name]
    found = normalise(value)
    crossed = decode(encode(found))
    assert types_of(found) == types_of(plain) == types_of(crossed)
    assert found == plain == crossed


def test_arrays_of_subclasses_become_plain_arrays() -> None:
    liar = np.arange(3.0).view(lying(np.ndarray))
    masked = np.ma.masked_array([1.0, 2.0], mask=[True, False])
    for value, numbers in ((liar, [0, 1, 2]), (masked, [1, 2])):
        found = normalise(value)
        assert isinstance(found, Array)
        assert type(found.data) is np.ndarray
        assert found.data.tolist() == numbers


def test_tensors_of_subclasses_become_plain_arrays() -> None:
    kind = lying(torch.Tensor)
    kind.detach = kind.numel = kind.cpu = kind.__torch_function__ = Liar._refuse
    liar = torch.Tensor.as_subclass(torch.arange(3.0), kind)
    for value in (liar, torch.nn.Parameter(torch.arange(3.0))):
        found = normalise(value)
        assert isinstance(found, Array)
        assert (found.data.tolist(), found.dtype, found.container) == ([0, 1, 2], "float32", "torch.Tensor")


def test_a_class_that_tells_nothing_of_itself_is_opaque() -> None:
    scope: dict[str, Any] = {}
    exec("made = type('Made', (), {})()", {}, scope)
    assert normalise(scope["made"]) == Opaque("Made")


@pytest.mark.parametrize(
    "value",
    [
        3 + 4j,
        np.complex64(1j),
        {1, 2},
        object(),
        bytearray(b"a"),
        np.datetime64("2026-11-21"),
        lying(np.int64)(1),
        Liar(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_plain_value_is_opaque(value: Any) -> None:
    assert isinstance(normalise(value), Opaque)


@pytest.mark.parametrize("data", [["2026"], [(1, 2.0)]], ids=["dates", "records"])
def test_arrays_that_no_frame_holds_are_opaque_everywhere(data: list[Any]) -> None:
    dtype = "datetime64[Y]" if data == ["2026"] else [("a", "i4"), ("b", "f4")]
    found = normalise(np.array(data, dtype=dtype))
    assert isinstance(found, Opaque)
    assert decode(encode(found)) == found


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()


@given(st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8))
def test_plain_values_stay_what_they_are(value: Any) -> None:
    assert normalise(value) == value
    assert types_of(normalise(value)) == types_of(value)
