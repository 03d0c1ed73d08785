"""Submissions that are no notebooks, made when they are needed: none of them lies in the repository."""

from __future__ import annotations

import io
import json
import stat
import zipfile
from collections.abc import Callable
from dataclasses import dataclass

UNREAD = "The file is not graded; the learner is told in one sentence what is wrong with it."


@dataclass(frozen=True)
class File:
    """A malformed file. make: from the bytes of a good notebook, the bytes of the bad one."""

    title: str
    tries: str
    make: Callable[[bytes], bytes]
    stopped_by: str = UNREAD


@dataclass(frozen=True)
class Archive:
    """A hostile zip. make: from the bytes of a good notebook. refused: how many members must be refused."""

    title: str
    make: Callable[[bytes], bytes]
    refused: int


def _third_format(good: bytes) -> bytes:
    document = json.loads(good)
    cells = document.pop("cells")
    return json.dumps(document | {"nbformat": 3, "worksheets": [{"cells": cells}]}).encode()


def _cells(good: bytes, number: int) -> bytes:
    document = json.loads(good)
    extra = {"cell_type": "code", "id": "x", "metadata": {}, "outputs": [], "source": ""}
    return json.dumps(document | {"cells": document["cells"] + [extra] * number}).encode()


def _nested(good: bytes) -> bytes:
    bomb = b"[" * 50_000 + b"]" * 50_000
    return good.rstrip()[:-1] + b', "deep": ' + bomb + b"}"


def _digits(good: bytes) -> bytes:
    return good.rstrip()[:-1] + b', "count": ' + b"9" * 1_000_000 + b"}"


def _keys_twice(good: bytes) -> bytes:
    return good.rstrip()[:-1] + b', "cells": []}'


FILES = (
    File("Truncated JSON", "Stops in the middle of a cell.", lambda good: good[: len(good) // 2]),
    File("Format 3", "Keeps its cells where only an old format has them.", _third_format),
    File("A large file", "Pads the file beyond what is read.", lambda good: good + b" " * (33 << 20)),
    File("100,000 cells", "Adds 100,000 empty cells.", lambda good: _cells(good, 100_000)),
    File("Deep nesting", "Nests lists 50,000 deep, on which a parser's stack ends.", _nested),
    File("A number of a million digits", "Gives a number whose reading takes quadratic time.", _digits),
    File("A key twice", "Gives the list of cells twice, of which readers take different ones.", _keys_twice),
    File("NUL bytes", "Puts NUL bytes into the text.", lambda good: good.replace(b"def ", b"d\0f ")),
    File("Not UTF-8", "Encodes the file as UTF-16.", lambda good: good.decode().encode("utf-16")),
    File("Another language", "Hands in a pickle with a notebook's name.", lambda good: b"\x80\x04K\x01."),
    File("Nothing", "Hands in an empty file.", lambda good: b""),
    File("No object", "Hands in a list where a notebook is an object.", lambda good: b"[" + good + b"]"),
)


def _zip(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _link(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    return member


# Its learner handed in what is good, in the same archive.
INNOCENT = "berta/06_attention.ipynb"
ARCHIVES = (
    Archive(
        "paths that lead out of the archive",
        lambda good: _zip(
            ("../../06_attention.ipynb", good),
            ("/tmp/course-attack/06_attention.ipynb", good),
            ("anna/../../06_attention.ipynb", good),
            ("C:\\anna\\06_attention.ipynb", good),
            (INNOCENT, good),
        ),
        refused=4,
    ),
    Archive(
        "symbolic links",
        lambda good: _zip((_link("anna/06_attention.ipynb"), b"/etc/passwd"), (INNOCENT, good)),
        refused=1,
    ),
    Archive(
        "a zip bomb",
        lambda good: _zip(("anna/06_attention.ipynb", bytes(30 << 20)), (INNOCENT, good)),
        refused=1,
    ),
    Archive(
        "a zip in a zip",
        lambda good: _zip(("anna/06_attention.zip", _zip(("06_attention.ipynb", good))), (INNOCENT, good)),
        refused=1,
    ),
)
