"""Finding exercises: each chapter's entries stand in `course_lib/checks/NN_topic.py` as EXERCISES."""

from __future__ import annotations

import difflib
import importlib
from functools import cache
from pathlib import Path

from .exercise import Exercise
from .messages import sentence


def chapters() -> list[str]:
    """The names of the chapters that have exercises, in order."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[0-9][0-9]_*.py"))


@cache
def exercises_of(chapter: str) -> tuple[Exercise, ...]:
    """One chapter's exercises, in the order of its notebook. Raises KeyError for an unknown chapter."""
    if chapter not in chapters():
        raise KeyError(f"no chapter {chapter!r} has exercises; there are {', '.join(chapters())}")
    found: tuple[Exercise, ...] = importlib.import_module(f"{__package__}.{chapter}").EXERCISES
    return found


def all_exercises() -> dict[str, Exercise]:
    """Every exercise by id."""
    return {exercise.id: exercise for chapter in chapters() for exercise in exercises_of(chapter)}


def get(exercise_id: str) -> Exercise:
    """One exercise by id, importing its chapter alone. Raises KeyError with near names when unknown."""
    topic = exercise_id.split("/")[0]
    for chapter in chapters():
        if chapter[3:] == topic:
            for exercise in exercises_of(chapter):
                if exercise.id == exercise_id:
                    return exercise
    near = difflib.get_close_matches(exercise_id, all_exercises(), n=3, cutoff=0.4)
    advice = f"Did you mean {' or '.join(map(repr, near))}?" if near else "`course progress` lists them."
    raise KeyError(sentence("unknown", id=exercise_id, near=advice))
