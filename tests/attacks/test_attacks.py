"""Every known attack on the grader: no points for it, and no effect on anyone else.

Oracles: the marks that honest answers get without an attack, the processes and files of this machine before
and after. An attack that breaks through computes the right answer, so that its points betray it.
"""

from __future__ import annotations

import contextlib
import csv
import ctypes
import io
import json
import platform
import socket
import sys
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import psutil
import pytest
from course_lib.checks.registry import exercises_of
from course_lib.grading import feedback
from course_lib.grading.book import Entry, Row
from course_lib.grading.bundle import MANIFEST, Bundle, make_bundle
from course_lib.grading.confine import Limits
from course_lib.grading.decide import Mark
from course_lib.grading.exports import to_csv
from course_lib.grading.grader import Grader
from course_lib.grading.graft import extract_answers
from course_lib.grading.intake import Refused, Submission, read_submissions
from course_lib.grading.pages import write_pages
from course_lib.grading.sandbox import available

from malformed import ARCHIVES, FILES, Archive, File
from table import PAGE, ROWS, Attack, attacks, page

ROOT = Path(__file__).resolve().parents[2]
ATTACKS = sorted(attacks(), key=lambda attack: (attack.chapter, attack.path.name))
CHAPTERS = tuple(dict.fromkeys(attack.chapter for attack in ATTACKS))
# Of one case, and of all cells; honest ones take a hundredth of that.
CASE_SECONDS, PROGRAM_SECONDS = 2.0, 3.0
LONGEST = 60.0
SEED = 20_261_121
CANARY, SECRET = "course-attack-canary", "a secret of whoever grades"
CANARY_PLACES = (Path.home(), Path("/tmp"), Path.cwd())
SERVICE_PORT, SERVICE_NAME = 47811, "\0course-attack-service"

THERE = sys.platform == "linux" and (available()["bubblewrap"] or available()["user namespaces"])
confined = pytest.mark.skipif(not THERE, reason="nothing on this machine isolates a learner's process")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose exercises have little time, because many attacks use all of it."""
    made = make_bundle(ROOT, CHAPTERS, tmp_path_factory.mktemp("attacked") / "bundle")
    manifest = made.manifest
    for chapter in manifest["chapters"].values():
        for exercise in chapter["exercises"]:
            exercise["seconds"] = CASE_SECONDS
    (made.folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return Bundle.open(made.folder)


@pytest.fixture(scope="module")
def prey() -> Iterator[None]:
    """What attacks look for on this machine: files, services, and a keyring such as a login makes."""
    _join_a_session_keyring()
    with contextlib.ExitStack() as stack:
        for place in CANARY_PLACES:
            (place / CANARY).write_text(SECRET, encoding="utf-8")
            stack.callback((place / CANARY).unlink, missing_ok=True)
        for family, address in (
            (socket.AF_INET, ("127.0.0.1", SERVICE_PORT)),
            (socket.AF_UNIX, SERVICE_NAME),
        ):
            service = stack.enter_context(socket.socket(family))
            # Where the suite runs twice at once, the other one's service is as good.
            with contextlib.suppress(OSError):
                service.bind(address)
                service.listen()
        yield


def _join_a_session_keyring() -> None:
    number = {"x86_64": 250, "aarch64": 219}.get(platform.machine())
    if number and sys.platform == "linux":
        ctypes.CDLL(None).syscall(number, 1, 0)


class Desk:
    """A grader, and the chapter that its worker is ready for."""

    def __init__(self, grader: Grader) -> None:
        self.grader = grader
        self.chapter = ""

    def grade(self, chapter: str, raw: bytes) -> dict[str, Mark]:
        """The marks of a submitted notebook by exercise id."""
        answers = extract_answers(raw, self.grader.bundle.assignment(chapter).pristine).answers
        return {mark.exercise: mark for mark in self.grader.grade(chapter, answers, SEED)}

    def turn_to(self, chapter: str) -> None:
        """Have the worker of this chapter started, and all of its solutions right before any attack."""
        if self.chapter != chapter:
            self.assert_the_next_is_unharmed(chapter, [exercise.id for exercise in exercises_of(chapter)])
            self.chapter = chapter

    def assert_the_next_is_unharmed(self, chapter: str, exercises: Sequence[str]) -> None:
        """Another learner, who solved these exercises, gets all points for them."""
        marks = self.grade(chapter, solved(chapter, tuple(exercises)))
        points = {exercise.id: exercise.points for exercise in exercises_of(chapter)}
        assert {name: marks[name].earned for name in exercises} == {name: points[name] for name in exercises}


@cache
def solved(chapter: str, exercises: tuple[str, ...]) -> bytes:
    """The chapter's notebook with the published solutions of these exercises."""
    notebook, solution = (
        json.loads((ROOT / folder / f"{chapter}.ipynb").read_bytes()) for folder in ("exercises", "solutions")
    )
    answers = {cell["id"]: cell["source"] for cell in solution["cells"]}
    for cell in notebook["cells"]:
        if cell["id"] in {name.replace("/", "-") for name in exercises}:
            cell["source"] = answers[cell["id"]]
    return json.dumps(notebook).encode()


@pytest.fixture(scope="module")
def desk(bundle: Bundle, prey: None) -> Iterator[Desk]:
    """One grader for all attacks."""
    with Grader(bundle, limits=Limits(program=PROGRAM_SECONDS)) as grader:
        yield Desk(grader)


def processes() -> tuple[set[int], int]:
    """(own children, number of all below them)"""
    me = psutil.Process()
    return {child.pid for child in me.children()}, len(me.children(recursive=True))


def assert_no_process_is_left(before: tuple[set[int], int]) -> None:
    now = processes()
    for _ in range(50):
        if now[1] <= before[1]:
            break
        time.sleep(0.1)
        now = processes()
    assert now[1] <= before[1]
    # The worker and the oracle are the ones that were there: neither had to be started again.
    assert now[0] == before[0]


def assert_no_file_is_left() -> None:
    places = (Path.home(), Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path.cwd(), Path("/"))
    left = [found for place in places for found in place.glob("course-attack*") if found.name != CANARY]
    assert not left
    for place in CANARY_PLACES:
        assert (place / CANARY).read_text(encoding="utf-8") == SECRET


def as_row(chapter: str, marks: dict[str, Mark], raw: bytes, bundle: Bundle, learner: str) -> Row:
    found = extract_answers(raw, bundle.assignment(chapter).pristine)
    return Row(
        id=1,
        learner=learner,
        assignment=chapter,
        name=f"{chapter}.ipynb",
        received="",
        late=False,
        sha256="",
        key="",
        problem=found.problem or "",
        counts=True,
        entries=tuple(map(Entry, marks.values())),
        answers=found.answers,
        notes=found.notes,
    )


def assert_what_people_see_is_harmless(row: Row) -> None:
    """The learner's page runs nothing, no spreadsheet finds a formula, and no hidden case is told."""
    shown = feedback.page(row)
    assert "<script" not in shown
    assert "<img" not in shown
    for line in csv.reader(io.StringIO(to_csv([row]))):
        assert not [cell for cell in line if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    for entry in row.entries:
        told = [*entry.mark.sentences(), *(finding.text for finding in entry.mark.findings)]
        assert not [text for text in told if "HIDDEN-CASE" in text]


@confined
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.path.stem)
def test_an_attack_gains_nothing_and_harms_nobody(desk: Desk, attack: Attack) -> None:
    desk.turn_to(attack.chapter)
    points = {exercise.id: exercise.points for exercise in exercises_of(attack.chapter)}
    raw, before, began = attack.path.read_bytes(), processes(), time.monotonic()
    marks = desk.grade(attack.chapter, raw)
    assert time.monotonic() - began < LONGEST
    assert {name: marks[name].earned for name in attack.attacked} == dict.fromkeys(attack.attacked, 0)
    assert {name: marks[name].earned for name in attack.honest} == {
        name: points[name] for name in attack.honest
    }
    untouched = points.keys() - {*attack.attacked, *attack.honest}
    assert {marks[name].status for name in untouched} <= {"not started"}
    desk.assert_the_next_is_unharmed(attack.chapter, (*attack.attacked, *attack.honest))
    assert_no_process_is_left(before)
    assert_no_file_is_left()
    row = as_row(
        attack.chapter, marks, raw, desk.grader.bundle, "=cmd|'/bin/sh'!A0 <script>alert(1)</script>"
    )
    assert_what_people_see_is_harmless(row)


@pytest.fixture(scope="module")
def unprotected(desk: Desk) -> Iterator[Desk]:
    """A grader that isolates nothing."""
    with Grader(desk.grader.bundle, isolation="none", oracle=desk.grader.oracle) as grader:
        yield Desk(grader)


@confined
@pytest.mark.parametrize(
    "name",
    [
        "03_canary_files_of_the_grader",
        "03_process_table_and_memory",
        "09_a_call_to_the_machine_itself",
    ],
)
def test_without_isolation_the_same_attack_gets_its_points(unprotected: Desk, name: str) -> None:
    attack = next(attack for attack in ATTACKS if attack.path.stem == name)
    marks = unprotected.grade(attack.chapter, attack.path.read_bytes())
    assert all(marks[exercise].status == "passed" for exercise in attack.attacked)


@confined
def test_bundle_and_library_are_as_they_were(desk: Desk, bundle: Bundle) -> None:
    assert Bundle.open(bundle.folder).digest == bundle.digest


# --- files that are no notebooks ------------------------------------------------------------------------


@confined
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.title)
def test_a_malformed_file_is_told_in_a_sentence_and_harms_nobody(desk: Desk, file: File) -> None:
    chapter = CHAPTERS[-1]
    desk.turn_to(chapter)
    raw = file.make((ROOT / "solutions" / f"{chapter}.ipynb").read_bytes())
    found = extract_answers(raw, desk.grader.bundle.assignment(chapter).pristine)
    assert found.problem
    assert found.problem.endswith((".", "?"))
    assert "\n" not in found.problem
    assert {mark.earned for mark in desk.grade(chapter, raw).values()} == {0}
    desk.assert_the_next_is_unharmed(chapter, [exercises_of(chapter)[0].id])


def test_a_file_of_a_gigabyte_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "anna" / "06_attention.ipynb"
    path.parent.mkdir()
    with path.open("wb") as file:
        file.truncate(1 << 30)
    tracemalloc.start()
    (found,) = read_submissions(tmp_path, ["06_attention"])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(found, Refused)
    assert peak < 100 << 20


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda archive: archive.title)
def test_a_hostile_archive_costs_only_its_hostile_members(tmp_path: Path, archive: Archive) -> None:
    good = (ROOT / "exercises" / "06_attention.ipynb").read_bytes()
    path = tmp_path / "week6.zip"
    path.write_bytes(archive.make(good))
    found = list(read_submissions(path, ["06_attention"]))
    assert sum(isinstance(item, Refused) for item in found) == archive.refused
    assert [(item.learner, item.raw) for item in found if isinstance(item, Submission)] == [("berta", good)]
    assert {child.name for child in tmp_path.iterdir()} == {"week6.zip"}


@pytest.mark.parametrize(
    "learner", ["../../etc", "..", "/etc/cron.d/x", "con", "a\0b", "<script>", "x" * 5000]
)
def test_a_learners_name_is_no_path(tmp_path: Path, learner: str) -> None:
    folder = tmp_path / "feedback"
    row = Row(1, learner, "06_attention", "n", "", False, "", "", "", True)
    (written,) = write_pages([row], folder)
    assert written.resolve().is_relative_to(folder.resolve())
    assert len(written.relative_to(folder).parts) == 2
    assert "<script" not in written.read_text(encoding="utf-8")


# --- the collection itself ------------------------------------------------------------------------------


def test_every_row_of_the_list_is_attacked() -> None:
    assert {attack.row for attack in ATTACKS} | {13} == set(ROWS)
    assert len(ATTACKS) >= 60


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.path.stem)
def test_a_hostile_notebook_says_what_it_tries(attack: Attack) -> None:
    assert attack.path.name.startswith(f"{attack.row:02d}_")
    assert attack.attacked
    assert attack.honest
    assert not set(attack.attacked) & set(attack.honest)
    first = f"# Row {attack.row}: "
    cells = json.loads(attack.path.read_text(encoding="utf-8"))["cells"]
    assert any("".join(cell["source"] or "").startswith(first) for cell in cells)
    assert attack.path.stat().st_size < 150_000


def test_the_page_is_made_from_the_notebooks() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python tests/attacks/table.py"
