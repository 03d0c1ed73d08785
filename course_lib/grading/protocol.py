"""Messages between the grader and the process that runs a learner's code. Nothing is ever unpickled.

A frame is 16 bytes (magic, length of the header, length of the body), a header of JSON, and a body with
the bytes of the arrays, one after the other. In the header, None, bool, int, float, text and lists stand
for themselves; everything else is an object with one key, its kind: {"bytes": …}, {"array": …} and so on.
The reader believes nothing: sizes, depth, counts and lengths are capped, and memory grows with the bytes
that have come, never with a length that was only announced.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..checks.values import Array, Opaque, Raised

MAGIC = b"CFR1"
PREFIX = struct.Struct(">4sIQ")
PIECE = 1 << 20
KINDS = "biufcSU"
LONGEST_INTEGER = 1 << 14


class ProtocolError(Exception):
    """Bytes that are no frame, a frame beyond the caps, or a value that no frame can hold."""


class ChannelClosed(Exception):
    """The other side closed the connection between two frames."""


class OutOfTime(Exception):
    """The deadline passed before a whole frame had come or gone."""


@dataclass(frozen=True)
class Caps:
    """The most that one frame may hold. Lengths are in bytes, text in characters."""

    header: int = 4 << 20
    body: int = 64 << 20
    elements: int = 16 << 20
    dimensions: int = 16
    depth: int = 16
    values: int = 200_000
    keys: int = 10_000
    text: int = 1 << 20


DEFAULT = Caps()


# --- writing --------------------------------------------------------------------------------------------


def encode(message: Any, caps: Caps = DEFAULT) -> bytes:
    """One frame. Raises ProtocolError for a value that has no place in one, or that is beyond the caps."""
    writer = _Writer(caps)
    plain = writer.plain(message, 0)
    header = json.dumps(plain, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # Lone surrogates are legal in Python's text, and stay what they are.
    packed = header.encode("utf-8", "surrogatepass")
    if len(packed) > caps.header:
        raise ProtocolError(f"a header of {len(packed):,} bytes, {caps.header:,} are allowed")
    return b"".join([PREFIX.pack(MAGIC, len(packed), writer.size), packed, *writer.pieces])


class _Writer:
    """Turns values into JSON, and collects the bytes of arrays."""

    def __init__(self, caps: Caps) -> None:
        self.caps = caps
        self.pieces: list[bytes] = []
        self.size = 0
        self.count = 0

    def plain(self, value: Any, depth: int) -> Any:
        self.count += 1
        if self.count > self.caps.values or depth > self.caps.depth:
            raise ProtocolError("a value with too many parts, or nested too deep")
        # By exact type: a subclass may behave as it likes, and would come out as something else.
        writer = self._WRITERS.get(type(value))
        if writer is not None:
            return writer(self, value, depth)
        if isinstance(value, np.generic):
            return {"scalar": self._array(np.asarray(value), depth)["array"]}
        raise ProtocolError(f"a value of type {type(value).__name__} cannot be sent")

    def _itself(self, value: Any, depth: int) -> Any:
        return value

    def _integer(self, value: int, depth: int) -> Any:
        if value.bit_length() < 64:
            return value
        if value.bit_length() > 4 * (LONGEST_INTEGER - 8):
            raise ProtocolError("an integer that is too long")
        return {"integer": hex(value)}

    def _float(self, value: float, depth: int) -> Any:
        return value if math.isfinite(value) else {"float": struct.pack(">d", value).hex()}

    def _text(self, value: str, depth: int) -> str:
        if len(value) > self.caps.text:
            raise ProtocolError(f"a text of {len(value):,} characters, {self.caps.text:,} are allowed")
        return value

    def _bytes(self, value: bytes, depth: int) -> dict[str, str]:
        return {"bytes": self._text(base64.b64encode(value).decode("ascii"), depth)}

    def _list(self, value: list[Any], depth: int) -> list[Any]:
        return [self.plain(item, depth + 1) for item in value]

    def _tuple(self, value: tuple[Any, ...], depth: int) -> dict[str, list[Any]]:
        return {"tuple": [self.plain(item, depth + 1) for item in value]}

    def _dict(self, value: dict[Any, Any], depth: int) -> dict[str, list[Any]]:
        if len(value) > self.caps.keys:
            raise ProtocolError(f"a dict of {len(value):,} keys, {self.caps.keys:,} are allowed")
        if not all(type(key) in (str, int, bool, bytes, type(None)) for key in value):
            raise ProtocolError("a dict whose keys are neither text nor whole numbers")
        return {"dict": [[self.plain(key, depth + 1), self.plain(value[key], depth + 1)] for key in value]}

    def _array(self, value: np.ndarray, depth: int) -> dict[str, list[Any]]:
        if value.dtype.kind not in KINDS or value.ndim > self.caps.dimensions:
            raise ProtocolError(f"an array of {value.dtype} with {value.ndim} dimensions cannot be sent")
        self.size += value.nbytes
        if value.size > self.caps.elements or self.size > self.caps.body:
            raise ProtocolError(f"an array of {value.size:,} elements is too large to be sent")
        by_column = value.flags.f_contiguous and not value.flags.c_contiguous
        self.pieces.append(value.tobytes("F") if by_column else value.tobytes())
        return {"array": [value.dtype.str, list(value.shape), "F" if by_column else "C"]}

    def _normalised(self, value: Array, depth: int) -> dict[str, list[Any]]:
        parts = [value.data, value.dtype, value.container, value.device]
        return {"value": [self.plain(part, depth + 1) for part in parts]}

    def _opaque(self, value: Opaque, depth: int) -> dict[str, list[Any]]:
        return {"opaque": [self.plain(value.type_name, depth + 1)]}

    def _raised(self, value: Raised, depth: int) -> dict[str, list[Any]]:
        parts = [value.type_name, value.message, value.line, value.source]
        return {"raised": [self.plain(part, depth + 1) for part in parts]}

    _WRITERS: dict[type, Callable[[Any, Any, int], Any]] = {  # noqa: RUF012
        type(None): _itself,
        bool: _itself,
        int: _integer,
        float: _float,
        str: _text,
        bytes: _bytes,
        list: _list,
        tuple: _tuple,
        dict: _dict,
        np.ndarray: _array,
        Array: _normalised,
        Opaque: _opaque,
        Raised: _raised,
    }


# --- reading --------------------------------------------------------------------------------------------


def decode(frame: bytes, caps: Caps = DEFAULT) -> Any:
    """The value in a whole frame. Raises ProtocolError, and nothing else, for anything that is not one."""
    header_size, body_size = sizes(frame[: PREFIX.size], caps)
    if len(frame) != PREFIX.size + header_size + body_size:
        raise ProtocolError(f"a frame of {len(frame):,} bytes that announced another length")
    view = memoryview(frame)[PREFIX.size :]
    return _Reader(view[header_size:], caps).whole(_parsed(bytes(view[:header_size])))


def sizes(prefix: bytes, caps: Caps = DEFAULT) -> tuple[int, int]:
    """(header, body) in bytes, as the first 16 bytes of a frame announce them."""
    if len(prefix) != PREFIX.size:
        raise ProtocolError("a frame that breaks off in its first bytes")
    magic, header, body = PREFIX.unpack(prefix)
    if magic != MAGIC:
        raise ProtocolError("bytes that are no frame")
    if header > caps.header or body > caps.body:
        raise ProtocolError(f"a frame of {header:,} + {body:,} bytes is too large")
    return header, body


def _parsed(header: bytes) -> Any:
    def refuse(text: str) -> Any:
        raise ProtocolError(f"{text} in a header")

    def one_key(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(pairs) != 1:
            raise ProtocolError("an object that does not have exactly one key")
        return dict(pairs)

    try:
        text = header.decode("utf-8", "surrogatepass")
        return json.loads(text, parse_constant=refuse, object_pairs_hook=one_key)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a header that is no JSON: {type(error).__name__}") from None


class _Reader:
    """Turns parsed JSON into values, and takes arrays from the body in order."""

    def __init__(self, body: memoryview, caps: Caps) -> None:
        self.body = body
        self.caps = caps
        self.position = 0
        self.count = 0

    def whole(self, plain: Any) -> Any:
        value = self.value(plain, 0)
        if self.position != len(self.body):
            raise ProtocolError("bytes that belong to no array")
        return value

    def value(self, plain: Any, depth: int) -> Any:
        self.count += 1
        if self.count > self.caps.values or depth > self.caps.depth:
            raise ProtocolError("a value with too many parts, or nested too deep")
        if isinstance(plain, dict):
            ((kind, content),) = plain.items()
            reader = self._READERS.get(kind)
            if reader is None:
                raise ProtocolError("a value of a kind that does not exist")
            return reader(self, content, depth)
        if isinstance(plain, list):
            return [self.value(item, depth + 1) for item in plain]
        return self._scalar(plain)

    def _scalar(self, plain: Any) -> Any:
        if isinstance(plain, str):
            return self._text(plain)
        if isinstance(plain, float) and not math.isfinite(plain):
            raise ProtocolError("a number beyond what a float holds")
        if type(plain) is int and plain.bit_length() >= 64:
            raise ProtocolError("a long integer that is not written as one")
        return plain

    def _text(self, content: Any) -> str:
        if not isinstance(content, str) or len(content) > self.caps.text:
            raise ProtocolError("a text that is none, or too long")
        return content

    def _parts(self, content: Any, number: int | None = None) -> list[Any]:
        if not isinstance(content, list) or number not in (None, len(content)):
            raise ProtocolError("a value with the wrong number of parts")
        return content

    def _integer(self, content: Any, depth: int) -> int:
        text = self._text(content)
        digits = text.removeprefix("-").removeprefix("0x")
        if len(text) > LONGEST_INTEGER or not digits or set(digits) - set("0123456789abcdef"):
            raise ProtocolError("a long integer that is none, or too long")
        value = int(digits, 16) * (-1 if text.startswith("-") else 1)
        if value.bit_length() < 64 or hex(value) != text:
            raise ProtocolError("a long integer in the wrong form")
        return value

    def _float(self, content: Any, depth: int) -> float:
        try:
            (value,) = struct.unpack(">d", bytes.fromhex(self._text(content)))
        except (ValueError, struct.error):
            raise ProtocolError("a float that is none") from None
        return float(value)

    def _bytes(self, content: Any, depth: int) -> bytes:
        try:
            return base64.b64decode(self._text(content).encode("ascii"), validate=True)
        except (binascii.Error, ValueError):
            raise ProtocolError("bytes that are none") from None

    def _tuple(self, content: Any, depth: int) -> tuple[Any, ...]:
        return tuple(self.value(item, depth + 1) for item in self._parts(content))

    def _dict(self, content: Any, depth: int) -> dict[Any, Any]:
        pairs = [self._parts(pair, 2) for pair in self._parts(content)]
        if len(pairs) > self.caps.keys:
            raise ProtocolError(f"a dict of {len(pairs):,} keys, {self.caps.keys:,} are allowed")
        keys = [self.value(key, depth + 1) for key, _ in pairs]
        if not all(type(key) in (str, int, bool, bytes, type(None)) for key in keys):
            raise ProtocolError("a dict whose keys are neither text nor whole numbers")
        made = {key: self.value(plain, depth + 1) for key, (_, plain) in zip(keys, pairs, strict=True)}
        if len(made) != len(pairs):
            raise ProtocolError("a dict with one key twice")
        return made

    def _array(self, content: Any, depth: int) -> np.ndarray:
        dtype_name, shape, order = self._parts(content, 3)
        dtype = _dtype(self._text(dtype_name))
        elements = self._elements(shape, dtype)
        end = self.position + elements * dtype.itemsize
        if order not in ("C", "F") or end > len(self.body):
            raise ProtocolError("an array with fewer bytes than its shape asks for")
        piece = bytes(self.body[self.position : end])
        self.position = end
        flat: np.ndarray = np.ndarray((elements,), dtype=dtype, buffer=piece).copy()
        _check_items(flat)
        return flat.reshape(tuple(shape), order=order)

    def _elements(self, shape: Any, dtype: np.dtype) -> int:
        sizes_ = self._parts(shape)
        whole = all(type(size) is int and 0 <= size < 1 << 40 for size in sizes_)
        if not whole or len(sizes_) > self.caps.dimensions:
            raise ProtocolError("an array whose shape is none")
        # Zeros counted as ones: numpy refuses shapes that overflow even where they hold nothing.
        if math.prod(max(size, 1) for size in sizes_) * max(dtype.itemsize, 1) >= 1 << 62:
            raise ProtocolError("an array whose shape is too large")
        elements = math.prod(sizes_)
        if elements > self.caps.elements:
            raise ProtocolError(f"an array of {elements:,} elements, {self.caps.elements:,} are allowed")
        return elements

    def _scalar_of_numpy(self, content: Any, depth: int) -> Any:
        found = self._array(content, depth)
        if found.shape != ():
            raise ProtocolError("a scalar that is an array")
        return found[()]

    def _normalised(self, content: Any, depth: int) -> Array:
        data, *words = (self.value(part, depth + 1) for part in self._parts(content, 4))
        if type(data) is not np.ndarray or not all(isinstance(word, str) for word in words):
            raise ProtocolError("a tensor that is none")
        return Array(data, *words)

    def _opaque(self, content: Any, depth: int) -> Opaque:
        return Opaque(self._text(self._parts(content, 1)[0]))

    def _raised(self, content: Any, depth: int) -> Raised:
        type_name, message, line, source = self._parts(content, 4)
        if type(line) is not int or line.bit_length() >= 64:
            raise ProtocolError("an exception in a line that is no number")
        return Raised(self._text(type_name), self._text(message), line, self._text(source))

    _READERS: dict[str, Callable[[Any, Any, int], Any]] = {  # noqa: RUF012
        "integer": _integer,
        "float": _float,
        "bytes": _bytes,
        "tuple": _tuple,
        "dict": _dict,
        "array": _array,
        "scalar": _scalar_of_numpy,
        "value": _normalised,
        "opaque": _opaque,
        "raised": _raised,
    }


def _dtype(name: str) -> np.dtype:
    """Only plain numbers and fixed text: a dtype's name can also describe records and Python objects."""
    plain = len(name) <= 12 and name[:1] in ("<", ">", "|", "=") and name[1:2] in tuple(KINDS)
    if not plain or not (name[2:].isascii() and name[2:].isdigit()):
        raise ProtocolError("an array of a dtype that cannot be sent")
    try:
        dtype = np.dtype(name)
    except (TypeError, ValueError, OverflowError):
        raise ProtocolError("an array of a dtype that does not exist") from None
    if dtype.itemsize > 1 << 20 or dtype.str != name:
        raise ProtocolError("an array of a dtype that cannot be sent")
    return dtype


def _check_items(flat: np.ndarray) -> None:
    """A truth value other than 0 or 1, or a letter that does not exist, would fail where it is used."""
    if flat.dtype.kind == "b" and flat.size and flat.view(np.uint8).max() > 1:
        raise ProtocolError("an array with a truth value that is none")
    letters = np.dtype(np.uint32).newbyteorder(flat.dtype.byteorder)
    if flat.dtype.kind == "U" and flat.nbytes and flat.view(letters).max() > 0x10FFFF:
        raise ProtocolError("an array with a letter that does not exist")


# --- a connection ---------------------------------------------------------------------------------------


class Channel:
    """Frames over a connected stream socket. deadline: a time.monotonic() value, or None for no limit."""

    def __init__(self, connection: socket.socket, caps: Caps = DEFAULT) -> None:
        self.connection = connection
        self.caps = caps

    def send(self, message: Any, deadline: float | None = None) -> None:
        """Raises ChannelClosed, OutOfTime, or ProtocolError (then nothing was sent)."""
        rest = memoryview(encode(message, self.caps))
        while rest:
            self._wait(deadline, writing=True)
            try:
                rest = rest[self.connection.send(rest[:PIECE], socket.MSG_DONTWAIT) :]
            except BlockingIOError:
                continue
            except OSError:
                raise ChannelClosed from None

    def receive(self, deadline: float | None = None) -> Any:
        """The next value. Raises ProtocolError, ChannelClosed or OutOfTime, and nothing else."""
        prefix = self._exactly(PREFIX.size, deadline, at_start=True)
        rest = self._exactly(sum(sizes(prefix, self.caps)), deadline)
        return decode(prefix + rest, self.caps)

    def quiet(self) -> bool:
        """Whether nothing lies unread; a closed connection is quiet, too."""
        try:
            return not self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError:
            return True

    def close(self) -> None:
        """Close this end."""
        self.connection.close()

    def _exactly(self, size: int, deadline: float | None, at_start: bool = False) -> bytes:
        found = bytearray()
        while len(found) < size:
            self._wait(deadline)
            try:
                piece = self.connection.recv(min(size - len(found), PIECE), socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
            except OSError:
                piece = b""
            if not piece and at_start and not found:
                raise ChannelClosed
            if not piece:
                raise ProtocolError("a frame that breaks off")
            found += piece
        return bytes(found)

    def _wait(self, deadline: float | None, writing: bool = False) -> None:
        poll = select.poll()
        poll.register(self.connection, select.POLLOUT if writing else select.POLLIN)
        left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        if not poll.poll(left):
            raise OutOfTime
