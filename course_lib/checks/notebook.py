"""What a notebook calls: `check`, `hint` and `progress`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .card import Card, hint_card, progress_card, verdict_card
from .engine import Verdict, evaluate
from .exercise import Exercise
from .guard import resolve
from .journal import Progress
from .messages import sentence
from .registry import get


class NotPassed(Exception):
    """Raised by a check that did not pass, so that nbval, nbgrader and *Run all* see a failure."""

    def _render_traceback_(self) -> list[str]:
        """One line in place of a traceback: the card above has said the rest."""
        return [str(self)]


def check(exercise_id: str, answer: Any, *, hidden: bool = False, keep: bool = True) -> None:
    """Try an answer on fresh cases, show a verdict, keep the progress; raise NotPassed unless it passed.

    hidden: only the cases that are hidden from graded learners (for nbgrader's hidden tests).
    keep: False to leave the progress as it is, as a lesson does that shows what a check says.
    Raises KeyError for an unknown exercise.
    """
    exercise = get(exercise_id)
    _refuse_the_library(exercise, answer)
    verdict = evaluate(exercise, answer, seed=_seed(), hidden_only=hidden)
    left, notes = _keep(exercise, verdict) if keep else (len(exercise.hints), [])
    show(verdict_card(verdict, left, len(exercise.hints)))
    for note in notes:
        print(note)
    if not verdict.passed:
        raise NotPassed(f"{exercise_id}: {verdict.status}")


def hint(exercise_id: str) -> Card:
    """The next hint for an exercise."""
    return hint_card(exercise_id, Progress.load().next_hint(exercise_id))


def progress(chapter: str | None = None) -> Card:
    """A panel of how far you are: all chapters, or one, named as "06_attention"."""
    state = Progress.load()
    return progress_card(state.summary(chapter), state.notes)


def show(card: Card) -> None:
    """Display a card in a notebook; print its text where there is no notebook."""
    try:
        from IPython.core.getipython import get_ipython
        from IPython.display import display
    except ImportError:
        print(card.text)
        return
    if get_ipython() is None:
        print(card.text)
    else:
        display(card)


def _seed() -> int | None:
    """None for fresh cases; fixed while the course itself is built, so that its pages do not change."""
    return 0 if os.environ.get("COURSE_BUILD") else None


def _keep(exercise: Exercise, verdict: Verdict) -> tuple[int, list[str]]:
    """Store the verdict; (hints left, what to tell if it could not be stored)."""
    _report(verdict)
    try:
        state = Progress.load()
        state.record(verdict)
    except OSError as error:
        return len(exercise.hints), [sentence("progress_lost", reason=error.strerror or str(error))]
    return state.hints_left(exercise.id), state.notes


def _report(verdict: Verdict) -> None:
    """Append the verdict to the file that `course check` named, one JSON object a line."""
    target = os.environ.get("COURSE_VERDICTS")
    if target:
        with Path(target).open("a", encoding="utf-8") as file:
            file.write(json.dumps(verdict.to_json()) + "\n")


def _refuse_the_library(exercise: Exercise, answer: Any) -> None:
    if exercise.library and answer is resolve(exercise.library.replace(":", ".")):
        raise NotPassed(sentence("same_object", name=exercise.library.split(":")[1]))
