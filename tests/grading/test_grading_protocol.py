"""Frames: what goes in comes out exactly, and nothing that comes in does harm.

Oracles: Python's own types, numpy's bytes, and tracemalloc for what is allocated.
"""

from __future__ import annotations

import math
import socket
import struct
import threading
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from course_lib.checks.values import Array, Opaque, Raised
from course_lib.grading.protocol import (
    PREFIX,
    Caps,
    Channel,
    ChannelClosed,
    OutOfTime,
    ProtocolError,
    decode,
    encode,
)

TEXT = st.text(st.characters(), max_size=20)  # lone surrogates included
NUMBERS = st.one_of(st.booleans(), st.integers(), st.integers(min_value=2**63), st.floats())
DTYPES = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(),
    hnp.floating_dtypes(endianness="?"),
    hnp.complex_number_dtypes(),
    hnp.unicode_string_dtypes(max_len=5),
)
ARRAYS = hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, min_side=0, max_dims=4, max_side=4))
WORDS = st.text("abc.", max_size=5)
LEAVES = st.one_of(
    st.none(),
    NUMBERS,
    TEXT,
    st.binary(max_size=20),
    ARRAYS,
    st.builds(Array, ARRAYS, WORDS, WORDS, WORDS),
    st.builds(Raised, TEXT, TEXT, st.integers(0, 2**40), TEXT),
    st.builds(Opaque, TEXT),
)
KEYS = st.one_of(TEXT, st.integers(), st.binary(max_size=3), st.none())
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
    ),
    max_leaves=12,
)


def identical(one: Any, other: Any) -> bool:
    """The same kind, the same bits."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return struct.pack("d", one) == struct.pack("d", other)
    if isinstance(one, (np.ndarray, np.generic)):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(identical, one, other))
    if isinstance(one, dict):
        return identical(list(one.items()), list(other.items()))
    if isinstance(one, Array):
        return identical(list(vars(one).values()), list(vars(other).values()))
    return bool(one == other)


@given(VALUES)
@settings(max_examples=300, deadline=None)
def test_every_value_survives_to_the_bit(value: Any) -> None:
    assert identical(decode(encode(value)), value)


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        -math.nan,
        math.inf,
        -math.inf,
        -0.0,
        5e-324,
        1,
        1.0,
        True,
        2**64,
        -(2**5000),
        "\ud83d\ude00",
        "\x00\u2028",
        b"\xff\x00",
        np.float32(0.1),
        np.int64(-3),
        np.array(3.5),
        np.empty((0, 3), dtype=np.int8),
        {1: "a", "1": "b", None: [(), {}]},
    ],
    ids=repr,
)
def test_values_on_the_edge_survive(value: Any) -> None:
    assert identical(decode(encode(value)), value)


def test_the_payload_of_a_nan_survives() -> None:
    odd = struct.unpack(">d", bytes.fromhex("7ff8000000000123"))[0]
    assert struct.pack(">d", decode(encode(odd))).hex() == "7ff8000000000123"


def test_the_order_of_an_array_survives() -> None:
    given_ = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    found = decode(encode(given_))
    assert found.flags.f_contiguous and not found.flags.c_contiguous
    assert np.array_equal(found, given_)


class Hostile(int):
    """Says yes to everything, and would run code where it is unpickled."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> Any:
        return (print, ("unpickled",))


@pytest.mark.parametrize(
    "value",
    [
        Hostile(3),
        object(),
        {1.5: 2},
        {(1, 2): 3},
        np.array([object()]),
        np.zeros(2, dtype=[("a", "i4")]),
        np.array(["2026-01-01"], dtype="M8[D]"),
        {1, 2},
        print,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_place_in_a_frame_is_refused(value: Any) -> None:
    with pytest.raises(ProtocolError):
        encode(value)


CAPS = Caps(header=4096, body=4096, elements=500, dimensions=4, depth=5, values=200, keys=20, text=300)


def deep(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("within", "beyond"),
    [
        (np.zeros(500, dtype=np.int8), np.zeros(501, dtype=np.int8)),
        (np.zeros(512, dtype=np.int8)[:500], np.zeros(500, dtype=np.complex128)),
        (np.zeros((1, 1, 1, 1)), np.zeros((1, 1, 1, 1, 1))),
        (deep(5), deep(6)),
        ([0] * 199, [0] * 200),
        (dict.fromkeys(range(20)), dict.fromkeys(range(21))),
        ("x" * 300, "x" * 301),
        (["x" * 250] * 10, ["x" * 250] * 20),
    ],
    ids=["elements", "body", "dimensions", "depth", "values", "keys", "text", "header"],
)
def test_caps_hold_on_both_sides(within: Any, beyond: Any) -> None:
    assert identical(decode(encode(within, CAPS), CAPS), within)
    with pytest.raises(ProtocolError):
        encode(beyond, CAPS)
    with pytest.raises(ProtocolError):
        decode(encode(beyond), CAPS)


def frame(header: bytes, body: bytes = b"") -> bytes:
    return PREFIX.pack(b"CFR1", len(header), len(body)) + header + body


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"[" * 4000,
        b"9" * 4000,
        b"{}",
        b'{"list":[],"dict":[]}',
        b'{"pickle":"gASVAAAA"}',
        b'{"dict":[["a",1],["a",2]]}',
        b'{"dict":[[1,1],[true,2]]}',
        b'{"dict":[[[],1]]}',
        b'{"dict":[["a"]]}',
        b'{"dict":{"bytes":""}}',
        b'{"array":["O",[1],"C"]}',
        b'{"array":["|O8",[1],"C"]}',
        b'{"array":["<f4",[0],"K"]}',
        b'{"array":["<f4",[-1],"C"]}',
        b'{"array":["<f4",[true],"C"]}',
        b'{"array":["<f4",[0,1099511627775,1099511627775],"C"]}',
        b'{"array":["<f3",[0],"C"]}',
        b'{"array":["<U999999999",[0],"C"]}',
        b'{"array":["f4,f4",[0],"C"]}',
        '{"array":["<f\u0664",[0],"C"]}'.encode(),
        b'{"array":[["<f4"],[0],"C"]}',
        b'{"array":["<f4",[1],"C"]}',
        b'{"scalar":["<f4",[0],"C"]}',
        b'{"value":[[],"float32","torch.Tensor","cpu"]}',
        b'{"value":[{"array":["<f4",[0],"C"]},1,"torch.Tensor","cpu"]}',
        b'{"raised":["E","m","1",""]}',
        b'{"raised":["E","m",1]}',
        b'{"opaque":[1]}',
        b'{"integer":"0x5"}',
        b'{"integer":"0x"}',
        b'{"integer":"0x_ffffffffffffffffff"}',
        b'{"float":"00"}',
        b'{"float":"zz"}',
        b'{"bytes":"*"}',
        b'{"bytes":"\xc3\xa9"}',
        b"\xff\xfe",
        b"1 2",
    ],
    ids=lambda header: ascii(header[:40]),
)
def test_malformed_headers_are_refused(header: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(frame(header), CAPS)


def test_bytes_that_belong_to_no_array_are_refused() -> None:
    with pytest.raises(ProtocolError, match="belong to no array"):
        decode(frame(b"[1]", b"more"))


@pytest.mark.parametrize(("dtype", "body"), [("|b1", b"\x01\x02"), ("<U1", b"\xff\xff\xff\x00" * 2)])
def test_items_that_numpy_itself_would_not_make_are_refused(dtype: str, body: bytes) -> None:
    with pytest.raises(ProtocolError, match="an array with a"):
        decode(frame(f'{{"array":["{dtype}",[2],"C"]}}'.encode(), body))


def harmless(data: bytes) -> None:
    """Decoding gives a value or ProtocolError, and allocates in proportion to what was given."""
    tracemalloc.start()
    try:
        decode(data, CAPS)
    except ProtocolError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 1 << 20, peak


@given(st.binary(max_size=300), st.booleans())
@settings(max_examples=200, deadline=None)
def test_random_bytes_do_no_harm(data: bytes, framed: bool) -> None:
    harmless(frame(data) if framed else data)


@given(VALUES, st.data())
@settings(max_examples=300, deadline=None)
def test_mutated_frames_do_no_harm(value: Any, data: st.DataObject) -> None:
    mutated = bytearray(encode(value))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(mutated) - 1))
        action = data.draw(st.sampled_from(["set", "delete", "insert"]))
        if action == "set":
            mutated[place] = data.draw(st.integers(0, 255))
        elif action == "insert":
            mutated[place:place] = data.draw(st.binary(max_size=4))
        elif len(mutated) > 1:
            del mutated[place]
    harmless(bytes(mutated))
    # The same damage behind a prefix that fits reaches the reader of the header, too.
    harmless(frame(bytes(mutated[PREFIX.size :])))


# --- channels -------------------------------------------------------------------------------------------


def pair() -> tuple[Channel, Channel]:
    one, other = socket.socketpair()
    return Channel(one), Channel(other)


def soon(seconds: float = 5) -> float:
    return time.monotonic() + seconds


def test_large_values_cross_a_socket_whole_and_in_order() -> None:
    one, other = pair()
    sent = [np.arange(3_000_000), {"second": 2}, [None]]

    def send_all() -> None:
        for value in sent:
            one.send(value, soon(20))

    thread = threading.Thread(target=send_all)
    thread.start()
    received = [other.receive(soon(20)) for _ in sent]
    thread.join()
    assert all(map(identical, received, sent))
    assert other.quiet()


def test_an_announced_length_allocates_nothing() -> None:
    one, other = pair()
    one.connection.sendall(PREFIX.pack(b"CFR1", 4 << 20, 64 << 20) + b"[")
    tracemalloc.start()
    with pytest.raises(OutOfTime):
        other.receive(soon(0.1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_a_deadline_holds_against_one_byte_at_a_time() -> None:
    one, other = pair()
    data = encode([1, 2, 3])
    stop = threading.Event()

    def drip() -> None:
        for index in range(len(data) - 1):
            one.connection.sendall(data[index : index + 1])
            if stop.wait(0.05):
                return

    thread = threading.Thread(target=drip)
    thread.start()
    started = time.monotonic()
    with pytest.raises(OutOfTime):
        other.receive(soon(0.3))
    assert time.monotonic() - started < 1
    stop.set()
    thread.join()


def test_a_reader_that_never_reads_stops_no_one() -> None:
    one, _other = pair()
    with pytest.raises(OutOfTime):
        one.send(np.zeros(4_000_000), soon(0.2))


def test_a_closed_connection_is_told_from_a_broken_frame() -> None:
    one, other = pair()
    one.close()
    with pytest.raises(ChannelClosed):
        other.receive(soon())
    with pytest.raises(ChannelClosed):
        other.send(1, soon())
    one, other = pair()
    one.connection.sendall(encode(1)[:-1])
    one.close()
    with pytest.raises(ProtocolError, match="breaks off"):
        other.receive(soon())


def test_unread_bytes_are_noticed() -> None:
    one, other = pair()
    assert other.quiet()
    one.send(1, soon())
    assert not other.quiet()
    assert other.receive(soon()) == 1
    one.close()
    assert other.quiet()
