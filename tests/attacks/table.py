"""The page docs/attacks.md, written from what the hostile notebooks say of themselves.

python tests/attacks/table.py
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "attacks.md"
ROWS = {
    1: "The check is rewritten",
    2: "Objects that always say yes",
    3: "Answers, hidden cases and other people's work are read",
    4: "Messages to the grader are forged",
    5: "Comments, tags, points and stored outputs",
    6: "Cells doubled, missing, renamed and reordered",
    7: "The process ends, or never ends",
    8: "Processes, memory, output and files without end",
    9: "Calls to the network and to other services",
    10: "Pickles, and text that someone might run",
    11: "A forbidden implementation under another name",
    12: "Known cases, seeds and clocks",
    13: "Files that are no notebooks",
}
HEAD = """\
# Attacks on the grader, and what stops them

Each row is a notebook in `tests/attacks/`, or a file that `tests/attacks/malformed.py` makes. The test suite
grades every one of them: the attacked exercises get no points, the honest ones in the same notebook and the
next submission get all of theirs, the grader goes on, and no process and no file is left. This page is
written by `python tests/attacks/table.py`.
"""
LIMITS = """\
## Known limits

A learner's code shares its process with the probe that calls it. It can say what it likes about itself; it
cannot know right values that it has not computed. What rests on the word of that process:

- **How much memory an answer used.** "Attention in chunks" counts the numbers in new tensors, and the count
  is made in the learner's process. Code that takes the counter apart and computes the right output with too
  much memory passes.
- **Which names an answer used.** Forbidden names are refused in the whole process, and the library that it
  sees holds no answers. Code that reaches the machine's own code without Python's help, or that holds a copy
  of another implementation in its own text, can still compute right values in a way that the exercise
  forbids.
- **How a hidden case failed.** A learner reads of a hidden case only what kind of failure it was, and how
  many cases failed. A process that fails on purpose can choose among these, and so tell a few bits of a case
  that no other run will draw again.

What no program on the machine can rule out: a fault in the kernel itself, and one person solving the
exercises for another. On machines whose kernel takes no filter of calls (`course doctor` tells), submissions
that the same worker grades one after the other could leave signs for one another in the kernel, such as a
port that stays taken.
"""


@dataclass(frozen=True)
class Attack:
    """A hostile notebook, as its metadata describes it. attacked, honest: exercise ids."""

    path: Path
    chapter: str
    row: int
    title: str
    tries: str
    stopped_by: str
    attacked: tuple[str, ...]
    honest: tuple[str, ...]


def attacks() -> list[Attack]:
    """All hostile notebooks, in the order of their names."""
    found = []
    for path in sorted(HERE.glob("*.ipynb")):
        told = json.loads(path.read_text(encoding="utf-8"))["metadata"]["attack"]
        found.append(
            Attack(**told | {"path": path} | {name: tuple(told[name]) for name in ("attacked", "honest")})
        )
    return found


def page() -> str:
    """The text of docs/attacks.md."""
    from malformed import FILES

    rows = [(attack.row, attack.title, attack.tries, attack.stopped_by) for attack in attacks()]
    rows += [(13, broken.title, broken.tries, broken.stopped_by) for broken in FILES]
    parts = [HEAD]
    for number, heading in ROWS.items():
        lines = [f"| {' | '.join(map(_cell, row[1:]))} |" for row in rows if row[0] == number]
        table = ["| Attack | What it tries | What stops it |", "|---|---|---|", *lines]
        parts.append(f"## {number}. {heading}\n\n" + "\n".join(table) + "\n")
    return "\n".join([*parts, LIMITS])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
