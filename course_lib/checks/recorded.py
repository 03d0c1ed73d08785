"""Exercises as data: what a learners' pack holds in place of cases, references and misconceptions as code.

A chapter's file is a row of frames (`grading.protocol`, never pickle): the exercises' texts first, then one
frame for each exercise with its draws. A draw is the public cases of one seed, with what the reference and
each misconception gave on them, and the reference's steps. In the pack, `checks/06_attention.py` is

    EXERCISES = load("06_attention")

and everything else works as in the course itself.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..grading import protocol
from . import exercise as entries
from .compare import compare
from .engine import run_answer, run_probe
from .exercise import Case, Exercise, Misconception
from .guard import resolve
from .replay import REFERENCE, RecordedCase, Replay
from .scores import with_truth
from .values import Raised

FORMAT = 1
SEEDS = (1, 2, 3)
LARGEST_FILE = 3_000_000
CAPS = protocol.Caps(header=64 << 20, values=10_000_000, keys=1_000_000, text=16 << 20)
# The fields of an exercise that are code; the others are recorded as they are.
CODE = ("cases", "probe", "reference", "misconceptions", "also_right", "steps")

Draw = list[dict[str, Any]]


class RecordingProblem(ValueError):
    """An exercise cannot be recorded; the message says which and why."""


def data_file(chapter: str, folder: Path | None = None) -> Path:
    """Where a chapter's recorded exercises lie: beside this module, or in `folder`."""
    return (folder or Path(__file__).parent) / f"{chapter}.frames"


# --- reading --------------------------------------------------------------------------------------------


def load(chapter: str, folder: Path | None = None) -> tuple[Exercise, ...]:
    """A chapter's recorded exercises. Their draws are read when the first check asks for them.

    Raises RecordingProblem for a file of another format, ProtocolError for one that is damaged.
    """
    first, *rest = _frames(data_file(chapter, folder).read_bytes())
    texts = protocol.decode(first, CAPS)
    if texts["format"] != FORMAT:
        raise RecordingProblem(f"{chapter}.frames has format {texts['format']}, expected {FORMAT}")
    return tuple(_exercise(row, _Draws(frame)) for row, frame in zip(texts["exercises"], rest, strict=True))


class _Draws:
    """Stands for an exercise's function of cases: one of the recorded draws, chosen by the generator."""

    def __init__(self, frame: bytes) -> None:
        self.frame = frame

    @cached_property
    def draws(self) -> list[list[RecordedCase]]:
        """The draws, decoded once."""
        return [[RecordedCase(**case) for case in draw] for draw in protocol.decode(self.frame, CAPS)]

    def __call__(self, rng: np.random.Generator) -> list[RecordedCase]:
        return self.draws[int(rng.integers(len(self.draws)))]


def _exercise(row: Mapping[str, Any], draws: _Draws) -> Exercise:
    plain = {name: _rebuilt(value) for name, value in row["fields"].items()}
    module, function = row["probe"].split(".")
    probes = importlib.import_module(f"{__package__}.probes.{module}")
    return Exercise(
        **plain,
        cases=draws,
        probe=getattr(probes, function),
        reference=Replay(plain["id"], library=row["reference"]),
        misconceptions=tuple(
            Misconception(name, Replay(plain["id"], name), told) for name, told in row["misconceptions"]
        ),
        also_right=(),
        steps=_steps if row["steps"] else None,
    )


def _steps(case: Case) -> Mapping[str, np.ndarray]:
    assert isinstance(case, RecordedCase)
    return case.steps


def _frames(content: bytes) -> Iterator[bytes]:
    while content:
        end = protocol.PREFIX.size + sum(protocol.sizes(content[: protocol.PREFIX.size], CAPS))
        yield content[:end]
        content = content[end:]


# --- recording ------------------------------------------------------------------------------------------


def record(exercises: Sequence[Exercise], seeds: Sequence[int] = SEEDS) -> bytes:
    """The file of these exercises. The same exercises and seeds give the same bytes on one machine.

    Draws of the last seeds are left out as far as the file would be larger than LARGEST_FILE. Raises
    RecordingProblem where one draw is too much already, and for an exercise that has no public case.
    """
    drawn = [[_draw(exercise, seed) for seed in seeds] for exercise in exercises]
    for number in range(len(seeds), 0, -1):
        content = _file(exercises, [draws[:number] for draws in drawn])
        if len(content) <= LARGEST_FILE:
            return content
    raise RecordingProblem(
        f"One draw of {exercises[0].chapter} has {len(content):,} bytes, {LARGEST_FILE:,} are allowed: "
        "make its public cases smaller."
    )


def _file(exercises: Sequence[Exercise], drawn: Sequence[list[Draw]]) -> bytes:
    rows, frames = [], []
    for exercise, draws in zip(exercises, drawn, strict=True):
        told = [
            wrong
            for wrong in exercise.misconceptions
            if any(_is_told(exercise, case, wrong.name) for draw in draws for case in draw)
        ]
        rows.append(_row(exercise, told))
        names = {REFERENCE, *(wrong.name for wrong in told)}
        frames.append([[_with_values_of(case, names) for case in draw] for draw in draws])
    return b"".join(protocol.encode(f, CAPS) for f in [{"format": FORMAT, "exercises": rows}, *frames])


def _row(exercise: Exercise, told: Sequence[Misconception]) -> dict[str, Any]:
    names = [found.name for found in fields(exercise) if found.name not in CODE]
    in_library = exercise.library and resolve(exercise.library.replace(":", ".")) is exercise.reference
    return {
        "fields": {name: _plain(getattr(exercise, name)) for name in names},
        "probe": exercise.probe_name,
        "reference": exercise.library if in_library else None,
        "misconceptions": [[wrong.name, wrong.sentence] for wrong in told],
        "steps": exercise.steps is not None,
    }


def _with_values_of(case: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return case | {"values": {name: value for name, value in case["values"].items() if name in names}}


def _is_told(exercise: Exercise, case: Mapping[str, Any], name: str) -> bool:
    """Whether the case tells a misconception from the reference: if none does, only a hidden case could."""
    if name not in case["values"]:
        return False
    found, right = case["values"][name], case["values"][REFERENCE]
    expected = with_truth(exercise, RecordedCase(**case), right)
    return isinstance(found, Raised) or bool(compare(exercise, case["name"], expected, found))


def _draw(exercise: Exercise, seed: int) -> Draw:
    """The public cases of one seed as plain dictionaries, with all values on them."""
    drawn = exercise.cases(np.random.default_rng(seed))
    cases = [case for case in drawn if not case.hidden and not case.timed]
    if not cases:
        raise RecordingProblem(f"{exercise.id} has no public case, so a pack cannot check it.")
    given: dict[str, Sequence[Any]] = {
        REFERENCE: [run_probe(exercise, exercise.reference, case) for case in cases]
    }
    given |= {wrong.name: run_answer(exercise, wrong.answer, cases) for wrong in exercise.misconceptions}
    return [
        {found.name: _plain(getattr(case, found.name)) for found in fields(Case)}
        | {"values": {name: values[index] for name, values in given.items() if index < len(values)}}
        | {"steps": dict(exercise.steps(case)) if exercise.steps else {}}
        for index, case in enumerate(cases)
    ]


def _plain(value: Any) -> Any:
    """A value as a frame holds it: a dataclass of `checks.exercise` becomes a dict with its kind."""
    if is_dataclass(value) and not isinstance(value, type):
        return {"kind": type(value).__name__} | {
            found.name: getattr(value, found.name) for found in fields(value)
        }
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _rebuilt(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if "kind" in value:
        kind = getattr(entries, value["kind"])
        return kind(**{name: item for name, item in value.items() if name != "kind"})
    return {key: _rebuilt(item) for key, item in value.items()}
