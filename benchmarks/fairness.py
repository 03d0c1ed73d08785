"""Whether the verdict is fair on fresh cases: right answers get full marks, misconceptions none.

    python benchmarks/fairness.py [--seeds 200] [--seed 20261121] [--exercise attention/sdpa] [--json FILE]

For each exercise the reference, the published solution, the gate's other right answers and all misconceptions
run on the cases of each seed, and `course_lib.grading.decide` decides. Progress goes to stderr, a table in
Markdown to stdout. The exit status is 1 where a right answer lost marks or a wrong one earned any. Whether a
misconception is named as itself is reported, and costs nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from course_lib.checks.engine import draw_cases, run_answer, run_probe
from course_lib.checks.exercise import Case, Exercise
from course_lib.checks.registry import all_exercises, get
from course_lib.grading.answers import load_answers
from course_lib.grading.decide import Mark, decide, public_first

ROOT = Path(__file__).resolve().parents[1]
SEEDS_A_TASK = 5
REFERENCE = "reference"  # runs unguarded: it may be the very thing that the exercise forbids
SOLUTION = "published solution"


@dataclass(frozen=True)
class Task:
    """One exercise on a few seeds."""

    exercise: str
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Miss:
    """An answer that did not get its marks. right: whether it should. reason: what staff would read."""

    exercise: str
    answer: str
    right: bool
    seed: int
    status: str
    reason: str


@dataclass
class Tally:
    """What was counted for one exercise.

    right, wrong: runs of right and wrong answers. named: wrong answers named as themselves; otherwise: how
    often a misconception was named as another or not at all, by "misconception → name, seed".
    """

    right: int = 0
    wrong: int = 0
    cases: int = 0
    named: int = 0
    misses: list[Miss] = field(default_factory=list)
    otherwise: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        """Count another tally's runs, too."""
        self.right += other.right
        self.wrong += other.wrong
        self.cases += other.cases
        self.named += other.named
        self.misses += other.misses
        self.otherwise += other.otherwise


@functools.cache
def solutions(chapter: str) -> dict[str, Any]:
    """The published solutions of a chapter by exercise id. Raises ValueError where one does not run."""
    with contextlib.redirect_stdout(io.StringIO()):
        answers = load_answers(ROOT / "solutions" / f"{chapter}.ipynb")
    if answers.errors:
        raise ValueError(f"the solutions of {chapter} do not run: {answers.errors}")
    return answers.objects


def right_answers(exercise: Exercise) -> Iterator[tuple[str, Any]]:
    """Name and object of each right answer but the reference."""
    yield SOLUTION, solutions(exercise.chapter)[exercise.id]
    for number, answer in enumerate(exercise.also_right, start=1):
        yield f"right answer {number}", answer


def run_task(task: Task) -> tuple[str, Tally]:
    """Decide on every answer of an exercise on the task's seeds."""
    exercise = get(task.exercise)
    tally = Tally()
    for seed in task.seeds:
        tally.add(decide_all(exercise, seed))
    return exercise.id, tally


def decide_all(exercise: Exercise, seed: int) -> Tally:
    """Decide on every answer of an exercise on the cases of one seed."""
    cases = public_first(draw_cases(exercise, seed))
    expected = [run_probe(exercise, exercise.reference, case) for case in cases]
    tally = Tally(cases=len(cases))
    for name, values in right_values(exercise, cases):
        tally.right += 1
        mark = decide(exercise, cases, expected, values)
        if mark.earned != exercise.points:
            tally.misses.append(miss(mark, name, True, seed))
    wrong = {other.name: run_answer(exercise, other.answer, cases) for other in exercise.misconceptions}
    for misconception in exercise.misconceptions:
        tally.wrong += 1
        # Run again: a learner's values are never the very ones that they are recognised by.
        values = run_answer(exercise, misconception.answer, cases)
        mark = decide(exercise, cases, expected, values, wrong=wrong)
        if mark.earned != 0:
            tally.misses.append(miss(mark, misconception.name, False, seed))
        elif mark.misconception == misconception.name:
            tally.named += 1
        else:
            taken_for = mark.misconception or f"not named ({mark.status})"
            tally.otherwise[f"{misconception.name} → {taken_for}, seed {seed}"] += 1
    return tally


def right_values(exercise: Exercise, cases: list[Case]) -> Iterator[tuple[str, Any]]:
    """Name and values of each right answer, the reference included."""
    yield REFERENCE, [run_probe(exercise, exercise.reference, case) for case in cases]
    for name, answer in right_answers(exercise):
        yield name, run_answer(exercise, answer, cases)


def miss(mark: Mark, answer: str, right: bool, seed: int) -> Miss:
    """What to report where a mark is not the one that the answer deserves."""
    return Miss(mark.exercise, answer, right, seed, mark.status, " ".join(mark.private[:1]))


def derive_seeds(seed: int, count: int) -> list[int]:
    """Seeds of 63 bits as a graded run draws them, the same ones each time for one `seed`."""
    return [int(drawn) for drawn in np.random.default_rng(seed).integers(2**63, size=count)]


def tasks(exercises: list[str], seeds: list[int]) -> list[Task]:
    """The work in small parts, so that all processes finish at about the same time."""
    parts = [tuple(seeds[start : start + SEEDS_A_TASK]) for start in range(0, len(seeds), SEEDS_A_TASK)]
    return [Task(exercise, part) for exercise in exercises for part in parts]


def run_all(work: list[Task], processes: int) -> dict[str, Tally]:
    """The tally of each exercise, with a line of progress on stderr about every ten seconds."""
    tallies = {task.exercise: Tally() for task in work}
    started = shown = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for done, (exercise, tally) in enumerate(pool.imap_unordered(run_task, work), start=1):
            tallies[exercise].add(tally)
            if time.monotonic() - shown > 10 or done == len(work) or tally.misses:
                shown = time.monotonic()
                misses = sum(len(each.misses) for each in tallies.values())
                runs = sum(each.right + each.wrong for each in tallies.values())
                print(
                    f"{done}/{len(work)} parts, {runs:,} runs, {misses} misses, {shown - started:.0f} s",
                    file=sys.stderr,
                    flush=True,
                )
    return tallies


def markdown(tallies: dict[str, Tally]) -> str:
    """The tallies as a table, then each miss, then what was not named as itself."""
    lines = [
        "| exercise | right answers | not given full marks | misconceptions | not given 0 | named |",
        "|---|---|---|---|---|---|",
    ]
    total = Tally()
    for exercise, tally in tallies.items():
        lines.append(row(exercise, tally))
        total.add(tally)
    lines += [row("all", total), ""]
    lines += [
        f"- {missed.exercise}, {missed.answer}, seed {missed.seed}: {missed.status}. {missed.reason}"
        for missed in total.misses
    ]
    for exercise, tally in tallies.items():
        lines += [f"- {exercise}, {what}: {count} times" for what, count in tally.otherwise.most_common()]
    return "\n".join(lines)


def as_json(tallies: dict[str, Tally]) -> str:
    """The tallies by exercise id."""
    rows = {
        exercise: vars(tally) | {"misses": [asdict(missed) for missed in tally.misses]}
        for exercise, tally in tallies.items()
    }
    return json.dumps(rows, indent=1) + "\n"


def row(name: str, tally: Tally) -> str:
    """One line of the table."""
    rejected = sum(missed.right for missed in tally.misses)
    accepted = len(tally.misses) - rejected
    share = f"{100 * tally.named / tally.wrong:.2f} %" if tally.wrong else "–"
    return f"| {name} | {tally.right:,} | {rejected} | {tally.wrong:,} | {accepted} | {share} |"


def main() -> int:
    """Run everything and print the summary."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=200, help="how many seeds for each exercise")
    parser.add_argument("--seed", type=int, default=20261121, help="from which those seeds follow")
    parser.add_argument("--exercise", action="append", help="only this one; may be given again")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the tallies into this file, too")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that are started: each has one core
    exercises = given.exercise or list(all_exercises())
    seeds = derive_seeds(given.seed, given.seeds)
    tallies = run_all(tasks(exercises, seeds), given.processes)
    print(markdown(tallies))
    if given.json:
        given.json.write_text(as_json(tallies), encoding="utf-8")
    return int(any(tally.misses for tally in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
