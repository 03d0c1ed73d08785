"""From answers to marks: each exercise of a submission in a process of its own, decided here.

    with Grader(bundle) as grader:
        marks = grader.grade("06_attention", answers, seed=7)

An exercise is tried with its own cell and those answer cells that its cell refers to; the others are
starters. So nothing that another cell does (ends the process, replaces torch's functions) reaches it. Where
it raises then, it is tried once more with all of the submission's answers, and the better mark counts: a
cell may need another in a way that its text does not show.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from ..checks.values import Raised
from .bundle import Assignment, Bundle, Question
from .confine import Limits
from .decide import Mark, decide, ungraded
from .graft import program
from .oracle import Draw, Oracle, OracleFailure
from .sandbox import Outcome, SandboxFailure, Worker
from .workers import Workers

if TYPE_CHECKING:
    from nbformat import NotebookNode

UNTOUCHED = Raised("NotImplementedError", "")
BUILT_IN = frozenset(dir(builtins))
# Cells whose names are remembered: a submission's answers are looked at once for each of its exercises.
KEPT_CELLS = 64


class Grader:
    """Grades one submission at a time; use one for each thread.

    bundle: what was released. isolation, limits: as for `Workers`. oracle, workers: where several graders
    share them; else the grader has its own. The thread that first uses a worker must outlive it. Raises
    NoIsolation.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        isolation: str = "auto",
        limits: Limits | None = None,
        oracle: Oracle | None = None,
        workers: Workers | None = None,
    ) -> None:
        self.bundle = bundle
        self.oracle = oracle or Oracle(bundle.library)
        self.workers = workers or Workers(bundle, isolation, limits)
        self._owns_oracle, self._owns_workers = oracle is None, workers is None
        self._times: tuple[Draw, tuple[float, ...]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End what this grader started, and remove the staged libraries."""
        if self._owns_workers:
            self.workers.close()
        if self._owns_oracle:
            self.oracle.close()

    def grade(self, chapter: str, answers: Mapping[str, str], seed: int) -> tuple[Mark, ...]:
        """A mark for every exercise of the chapter, in order; never raises for what the answers do.

        answers: source by grade id, as `graft.extract_answers` gives them.
        """
        assignment = self.bundle.assignment(chapter)
        with self.workers.of(chapter) as worker:
            self._draw_all(assignment, seed)
            return tuple(
                self._mark(worker, assignment, question, answers, seed) for question in assignment.questions
            )

    def _draw_all(self, assignment: Assignment, seed: int) -> None:
        """Have all cases drawn now: before the first submission the worker is still starting meanwhile."""
        for question in assignment.questions:
            # Who cannot be drawn is told of when its turn comes.
            with contextlib.suppress(OracleFailure):
                self.oracle.draw(question.exercise.id, seed)

    def _mark(
        self,
        worker: Worker,
        assignment: Assignment,
        question: Question,
        answers: Mapping[str, str],
        seed: int,
    ) -> Mark:
        exercise = question.exercise
        try:
            draw = self.oracle.draw(exercise.id, seed)
            times = self._reference_seconds(worker, assignment, question, draw)
            wrong = _Wrong(self.oracle, exercise.id, seed)
            best: Mark | None = None
            for chosen in programs(assignment.pristine, answers, exercise.grade_id):
                outcome = _outcome(worker, assignment, question, chosen, draw)
                mark = _decided(question, draw, outcome, wrong, times)
                best = mark if best is None or _better(mark, best) else best
                if mark.status == "passed" or not _may_lack_a_cell(outcome):
                    break
            return best or ungraded(exercise, "there was no program to run")
        except (SandboxFailure, OracleFailure) as error:
            return ungraded(exercise, str(error))

    def _reference_seconds(
        self, worker: Worker, assignment: Assignment, question: Question, draw: Draw
    ) -> tuple[float, ...]:
        """What the published solution takes for each case, in the same sandbox; none without timed cases."""
        if question.exercise.speed is None or not any(case.timed for case in draw.cases):
            return ()
        if self._times is None or self._times[0] is not draw:
            solved = {
                cell.grade_id: cell.source for cell in program(assignment.solution, {}) if cell.grade_id
            }
            outcome = _outcome(worker, assignment, question, solved, draw)
            if outcome.status != "ok":
                raise SandboxFailure(f"the published solution could not be timed: {outcome.message}")
            self._times = (draw, outcome.seconds)
        return self._times[1]


def _outcome(
    worker: Worker,
    assignment: Assignment,
    question: Question,
    answers: Mapping[str, str] | None,
    draw: Draw,
) -> Outcome:
    if answers is None:
        return Outcome("ok", (UNTOUCHED,))
    return worker.run(
        [cell.source for cell in program(assignment.pristine, answers)],
        question.probe,
        question.expression,
        iter(draw.cases),
        forbidden=question.exercise.forbidden,
        seconds=question.exercise.seconds,
    )


def _decided(
    question: Question, draw: Draw, outcome: Outcome, wrong: Mapping[str, Any], times: Sequence[float]
) -> Mark:
    return decide(
        question.exercise,
        draw.cases,
        draw.expected,
        outcome.values,
        ended=outcome.status,
        message=outcome.message,
        wrong=wrong,
        seconds=outcome.seconds,
        reference_seconds=times,
    )


def _better(mark: Mark, best: Mark) -> bool:
    return (mark.earned or 0) > (best.earned or 0)


def _may_lack_a_cell(outcome: Outcome) -> bool:
    """Whether something was raised, as it is where a name is missing that another cell defines."""
    raised = any(isinstance(value, Raised) and value is not UNTOUCHED for value in outcome.values)
    return raised or outcome.status == "error"


class _Wrong(Mapping[str, Any]):
    """The misconceptions' values, asked for when first looked at: only a failed answer does that."""

    def __init__(self, oracle: Oracle, exercise: str, seed: int) -> None:
        self._oracle, self._exercise, self._seed = oracle, exercise, seed

    def _values(self) -> Mapping[str, Any]:
        return self._oracle.wrong(self._exercise, self._seed)

    def __getitem__(self, name: str) -> Any:
        return self._values()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values())

    def __len__(self) -> int:
        return len(self._values())


# --- which cells an exercise runs with ------------------------------------------------------------------


def programs(
    pristine: NotebookNode, answers: Mapping[str, str], grade_id: str
) -> Iterator[Mapping[str, str] | None]:
    """The answers to run an exercise with, in the order in which to try them; None for an untouched starter.

    First the exercise's own and those that it refers to, directly or through others; then all.
    """
    cells = program(pristine, {})
    starters = {cell.grade_id: cell.source for cell in cells if cell.grade_id}
    mine = {name: source for name, source in answers.items() if source.strip() != starters[name].strip()}
    if grade_id not in mine:
        yield None
        return
    given = [name for cell in cells if not cell.grade_id for name in _names(cell.source)[0]]
    needed = _needed(mine, grade_id, BUILT_IN.union(given))
    yield {name: source for name, source in mine.items() if name in needed}
    if len(needed) < len(mine):
        yield mine


def _needed(answers: Mapping[str, str], grade_id: str, given: frozenset[str]) -> set[str]:
    """The grade ids of the answers that define what this one uses, itself included.

    given: names that need no answer. A cell that binds one of these anew is not for that reason needed.
    """
    names = {name: _names(source) for name, source in answers.items()}
    needed, waiting = {grade_id}, [grade_id]
    while waiting:
        bound_there, used = names[waiting.pop()]
        missing = used - bound_there - given
        for other, (bound, _) in names.items():
            if other not in needed and bound & missing:
                needed.add(other)
                waiting.append(other)
    return needed


@functools.lru_cache(KEPT_CELLS)
def _names(source: str) -> tuple[frozenset[str], frozenset[str]]:
    """(names bound at the top of a cell, names that it uses anywhere)"""
    with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):
        tree = ast.parse(source)
        used = frozenset(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
        return frozenset(_bound(tree.body)), used
    return frozenset(), frozenset()


def _bound(statements: Sequence[ast.stmt]) -> set[str]:
    found: set[str] = set()
    for statement in statements:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(statement.name)
        elif isinstance(statement, (ast.Import, ast.ImportFrom)):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in statement.names}
        else:
            found |= {
                node.id
                for node in ast.walk(statement)
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            }
    return found
