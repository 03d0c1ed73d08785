"""Finding exercises: each chapter's entries stand in `course_lib/checks/NN_topic.py` as EXERCISES."""

from __future__ import annotations

import difflib
import importlib
from functools import cache
from pathlib import Path

from .exercise import Exercise
from .messages import sentence


class UnknownExercise(KeyError):
    """No exercise has the id that was given; the message says which come near."""

    def __str__(self) -> str:
        return str(self.args[0])

    def _render_traceback_(self) -> list[str]:
        """One line in a notebook."""
        return [str(self)]


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
    """One exercise by id, importing its chapter alone; by the second half of its id where only one has it.

    Raises UnknownExercise with near names.
    """
    topic = str(exercise_id).split("/")[0]
    for chapter in chapters():
        if chapter[3:] == topic:
            for exercise in exercises_of(chapter):
                if exercise.id == exercise_id:
                    return exercise
    everything = all_exercises()
    bare = [known for known in everything if known.split("/")[1] == exercise_id]
    if len(bare) == 1:
        return everything[bare[0]]
    near = difflib.get_close_matches(str(exercise_id), everything, n=2, cutoff=0.7)
    advice = (
        f"Did you mean {' or '.join(map(repr, near))}?" if near else "`course progress` lists the chapters."
    )
    raise UnknownExercise(sentence("unknown", id=exercise_id, near=advice))
