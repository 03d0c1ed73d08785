"""The staff's commands: release, grade, gradebook, similarity. `course_lib.cli` adds them to `course`."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from ..console import BROKEN, FINE, INTERRUPTED, NOT_PASSED, WRONG_USE, Json, console, fail, print_json, shown

if TYPE_CHECKING:
    from .book import Book, Row
    from .bundle import Bundle
    from .run import Tally


class Isolation(StrEnum):
    """What keeps submissions apart from this machine."""

    auto = "auto"
    bwrap = "bwrap"
    namespaces = "namespaces"
    docker = "docker"
    none = "none"


class SeedPer(StrEnum):
    """What has cases of its own."""

    run = "run"
    submission = "submission"


class Format(StrEnum):
    """What the marks are written as."""

    csv = "csv"
    gradescope = "gradescope"
    junit = "junit"
    html = "html"


BundleOption = Annotated[
    Path,
    typer.Option("--bundle", "-b", help="The private folder that `course release` made.", show_default=False),
]
OutArgument = Annotated[
    Path, typer.Argument(metavar="OUT", help="The folder that `course grade` wrote to.", show_default=False)
]

gradebook = typer.Typer(
    no_args_is_help=True,
    help="What `course grade` found: show it, decide by hand, export it.\n\n"
    "Example: course gradebook show week6/marks",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def add_staff_commands(app: typer.Typer) -> None:
    """Add these commands to `course`."""
    for command in (release, grade, similarity):
        app.command()(command)
    app.add_typer(gradebook, name="gradebook")


# --- release --------------------------------------------------------------------------------------------


def release(
    chapters: Annotated[list[str], typer.Argument(help="For example 06.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder for both.", show_default=False)],
    points: Annotated[
        list[str] | None, typer.Option(help="Other points for an exercise, as attention/sdpa=10.")
    ] = None,
    trial: Annotated[
        bool, typer.Option("--trial/--no-trial", help="Grade the solutions and the starters first.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Make the pack for learners (OUT/pack) and the private bundle for grading (OUT/bundle).

    The pack has no solution, no reference and no hidden case. Keep the bundle to yourself.

    Example: course release 06 --out week6
    """
    from ..workspace import Workspace, resolve_chapter
    from .bundle import BundleProblem, make_bundle
    from .release import make_pack

    root = Workspace().root
    names = list(dict.fromkeys(resolve_chapter(chapter, root) for chapter in chapters))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        fail(f"{shown(out)} exists and is not an empty folder: name a new one.", WRONG_USE)
    try:
        bundle = make_bundle(root, names, out / "bundle", _points(points or []))
        trouble = _trial(bundle) if trial else []
        if not trouble:
            make_pack(root, names, out / "pack")
    except BundleProblem as error:
        shutil.rmtree(out, ignore_errors=True)
        fail(str(error), WRONG_USE)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    if trouble:
        shutil.rmtree(out, ignore_errors=True)
        fail(f"Nothing was released, because {trouble[0]}.", BROKEN)
    exercises = [question.exercise for name in names for question in bundle.assignment(name).questions]
    total = sum(exercise.points for exercise in exercises)
    if as_json:
        print_json(
            {"pack": str(out / "pack"), "bundle": str(out / "bundle"), "points": total} | {"chapters": names}
        )
        return
    typer.echo(f"For learners: {shown(out / 'pack')}")
    typer.echo(f"For you alone: {shown(out / 'bundle')} ({len(exercises)} exercises, {total} points)")


def _points(given: list[str]) -> dict[str, int]:
    """Points by exercise id from texts such as "attention/sdpa=10"."""
    found = {}
    for text in given:
        name, sign, number = text.partition("=")
        if not sign or not number.isdigit():
            fail(f"--points {text} is not of the form attention/sdpa=10.", WRONG_USE)
        found[name] = int(number)
    return found


def _trial(bundle: Bundle) -> list[str]:
    """What is wrong with grading this bundle here, where solutions earn everything and starters nothing."""
    from .grader import Grader
    from .graft import program
    from .sandbox import NoIsolation

    trouble = []
    try:
        with Grader(bundle) as grader:
            for chapter in bundle.chapters:
                assignment = bundle.assignment(chapter)
                for name, notebook in (("solution", assignment.solution), ("starter", assignment.pristine)):
                    cells = program(notebook, {})
                    answers = {cell.grade_id: cell.source for cell in cells if cell.grade_id}
                    for mark in grader.grade(chapter, answers, seed=1):
                        if mark.earned != (mark.points if name == "solution" else 0):
                            why = " ".join(mark.private) or mark.status
                            trouble.append(f"the {name} of {mark.exercise} got {mark.earned} points: {why}")
    except NoIsolation as error:
        typer.echo(f"Not tried, because nothing here can run it safely. {error}", err=True)
    return trouble


# --- grade ----------------------------------------------------------------------------------------------


def grade(
    submissions: Annotated[
        Path,
        typer.Argument(help="A folder, a zip, an LMS's export, or one notebook.", show_default=False),
    ],
    bundle: BundleOption,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Gradebook and feedback go here.", show_default=False)
    ],
    workers: Annotated[
        int | None, typer.Option(min=1, help="Submissions at once; one for each core by default.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="A Dask scheduler's address: grade on its workers.")
    ] = None,
    isolation: Annotated[
        Isolation, typer.Option(help="What keeps submissions apart from this machine.")
    ] = Isolation.auto,
    seed_per: Annotated[
        SeedPer, typer.Option(help="Fresh cases for each run, or for each submission.")
    ] = SeedPer.run,
    due: Annotated[
        str | None, typer.Option(help="What comes later is marked late, as 2026-11-30T23:59+01:00.")
    ] = None,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Run exercises marked gpu on CUDA as well; needs --isolation none.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Grade submissions without trusting them. Stop it at any moment; the same command goes on.

    Exit code 1 where an exercise could not be graded, or a file was not taken.

    Example: course grade submissions.zip --bundle week6/bundle --out week6/marks
    """
    # jsonschema, which nbformat imports, would build a grammar of web addresses: a second, for nothing here.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    from .run import Options, grade_submissions, parse_due

    try:
        moment = parse_due(due) if due else None
    except ValueError:
        fail(f"--due {due} is no moment: write it as 2026-11-30T23:59+01:00.", WRONG_USE)
    if not submissions.exists():
        fail(f"There is no {shown(submissions)}: name a folder, a zip or a notebook.", WRONG_USE)
    if gpu and isolation is not Isolation.none:
        fail(
            "The sandbox shows no GPU: --gpu needs --isolation none, in a container that holds nothing but "
            "this and is thrown away afterwards.",
            WRONG_USE,
        )
    if isolation is Isolation.none:
        typer.echo(
            "Without isolation, submissions run with your rights and can read, change and send what you can.",
            err=True,
        )
    options = Options(
        workers=workers or _cores(),
        scheduler=scheduler,
        isolation=isolation.value,
        seed_per=seed_per.value,
        due=moment,
        gpu=gpu,
    )
    with _one_sentence(), _terminated_as_interrupted(), _live(quiet=as_json) as report:
        tally = grade_submissions(submissions, _bundle(bundle), out, options, report)
    if as_json:
        print_json(tally.to_json())
    else:
        _print_tally(tally, out)
    undone = tally.counts["ungraded"] or tally.not_taken or not tally.read
    raise typer.Exit(NOT_PASSED if undone else FINE)


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _bundle(folder: Path) -> Bundle:
    from .bundle import Bundle

    return Bundle.open(folder)


@contextmanager
def _one_sentence() -> Iterator[None]:
    """The grader's own errors as a sentence and an exit code."""
    from .book import BookProblem
    from .bundle import BundleProblem
    from .pools import NoCluster
    from .sandbox import NoIsolation

    try:
        yield
    except BundleProblem as error:
        fail(str(error), WRONG_USE)
    except (NoIsolation, NoCluster, BookProblem) as error:
        fail(str(error), BROKEN)
    except KeyboardInterrupt:
        fail("Stopped. What was graded is kept: the same command goes on from here.", INTERRUPTED)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """A polite end (SIGTERM) is taken as Ctrl-C."""

    def interrupt(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _live(quiet: bool) -> Iterator[Callable[[Tally], None]]:
    """A line that follows the run: on a terminal in place, elsewhere a new one every ten seconds."""
    if quiet:
        yield lambda tally: None
    elif sys.stderr.isatty():
        from rich.live import Live
        from rich.text import Text

        latest: list[Tally] = []

        def shown_now() -> Text:
            return Text(_line(latest[0]) if latest else "Starting …")

        with Live(get_renderable=shown_now, console=console(stderr=True), refresh_per_second=4):
            # The tally is one object that the run counts in; the line is drawn anew from it.
            yield lambda tally: latest.append(tally) if not latest else None
    else:
        last = time.monotonic()

        def report(tally: Tally) -> None:
            nonlocal last
            if time.monotonic() - last >= 10:
                last = time.monotonic()
                typer.echo(_line(tally), err=True)

        yield report


def _line(tally: Tally) -> str:
    done = tally.graded + tally.known
    minutes, seconds = divmod(int(tally.seconds), 60)
    told = ", ".join(f"{count} {kind}" for kind, count in tally.counts.items())
    return f"submissions: {done} in {minutes}:{seconds:02d}, {tally.rate:.1f} a second; exercises: {told}"


def _print_tally(tally: Tally, out: Path) -> None:
    typer.echo(f"{_line(tally)}.")
    if tally.known:
        typer.echo(f"{tally.known} of them were graded before, or are equal to another: not graded again.")
    for refused in tally.not_taken[:20]:
        typer.echo(f"not taken: {refused.name}: {refused.reason}", err=True)
    if len(tally.not_taken) > 20:
        typer.echo(f"… and {len(tally.not_taken) - 20} more, all in {shown(out / 'not-taken.csv')}", err=True)
    if not tally.read:
        typer.echo("No submission of these chapters was found.", err=True)
    typer.echo(f"Marks: {shown(out / 'gradebook.sqlite')}; pages for learners: {shown(out / 'feedback')}")


# --- the gradebook --------------------------------------------------------------------------------------


@contextmanager
def _opened(out: Path) -> Iterator[Book]:
    from .book import Book
    from .run import BOOK

    if not (out / BOOK).is_file():
        fail(f"There is no gradebook in {shown(out)}: `course grade` makes one.", WRONG_USE)
    with _one_sentence(), Book.open(out / BOOK) as book:
        yield book


@gradebook.command()
def show(
    out: OutArgument,
    everything: Annotated[bool, typer.Option("--all", help="Earlier submissions, too.")] = False,
    as_json: Json = False,
) -> None:
    """List submissions with their points; what counts is marked.

    Example: course gradebook show week6/marks
    """
    from .exports import note_of

    with _opened(out) as book:
        rows = book.rows(everything=everything)
    if as_json:
        print_json([_plain(row) for row in rows])
        return
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for heading in ("number", "learner", "assignment", "received", "counts", "points", "note"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        received = row.received[:16].replace("T", " ") + (" late" if row.late else "")
        earned = "–" if row.earned is None else f"{row.earned:g}"
        cells = (str(row.id), row.learner, row.assignment, received, "yes" if row.counts else "no")
        table.add_row(*map(Text, (*cells, f"{earned}/{row.points}", note_of(row))))
    console().print(table)


def _plain(row: Row) -> dict[str, Any]:
    exercises = {
        entry.mark.exercise: {
            "status": entry.mark.status,
            "machine": entry.mark.earned,
            "counts": entry.earned,
        }
        for entry in row.entries
    }
    names = (
        "id",
        "learner",
        "assignment",
        "name",
        "received",
        "late",
        "counts",
        "earned",
        "points",
        "problem",
    )
    return {name: getattr(row, name) for name in names} | {"exercises": exercises}


@gradebook.command()
def override(
    out: OutArgument,
    submission: Annotated[int, typer.Argument(help="Its number, as `show` lists it.", show_default=False)],
    exercise: Annotated[str, typer.Argument(help="For example attention/sdpa.", show_default=False)],
    points: Annotated[float, typer.Argument(help="The points that count from now on.", show_default=False)],
    reason: Annotated[str, typer.Option(help="Why; the learner reads it.", show_default=False)],
    who: Annotated[str, typer.Option(help="Who decides.", show_default=False)],
) -> None:
    """Decide one exercise of one submission by hand. The machine's mark stays beside it.

    Example: course gradebook override week6/marks 17 attention/sdpa 3 --reason "right but late" --who ann
    """
    from .pages import write_pages
    from .run import PAGES

    with _opened(out) as book:
        try:
            book.override(submission, exercise, points, reason=reason, who=who)
        except ValueError as error:
            fail(f"{str(error)[:1].upper()}{str(error)[1:]}.", WRONG_USE)
        write_pages([row for row in book.rows() if row.id == submission], out / PAGES)
    typer.echo(f"{exercise} of submission {submission} counts {points:g} points now.")


@gradebook.command()
def export(
    out: OutArgument,
    form: Annotated[Format, typer.Option("--format", "-f", help="What to write.")] = Format.csv,
    to: Annotated[
        Path | None,
        typer.Option(help="A file, or a folder for gradescope and html; beside the gradebook by default."),
    ] = None,
) -> None:
    """Write the marks for another program: a table, Gradescope's results.json, JUnit XML, or pages.

    Example: course gradebook export week6/marks --format csv
    """
    from ..atomic import write_text
    from .exports import gradescope_text, to_csv, to_junit
    from .pages import folder_name, write_pages
    from .run import PAGES

    with _opened(out) as book:
        rows = book.rows()
    names = {"csv": "marks.csv", "gradescope": "gradescope", "junit": "marks.xml", "html": PAGES}
    target = to or out / names[form.value]
    if form is Format.csv:
        write_text(target, to_csv(rows))
    elif form is Format.junit:
        write_text(target, to_junit(rows))
    elif form is Format.html:
        write_pages(rows, target)
    else:
        for row in rows:
            path = target / f"{folder_name(row.learner)}-{row.assignment}" / "results.json"
            write_text(path, gradescope_text(row))
    typer.echo(f"{len(rows)} submissions: {shown(target)}")


# --- similarity -----------------------------------------------------------------------------------------


def similarity(
    out: OutArgument,
    bundle: BundleOption,
    to: Annotated[Path | None, typer.Option(help="A folder; OUT/similarity by default.")] = None,
    as_json: Json = False,
) -> None:
    """List pairs of submissions that are alike, and submissions like the solution, for a person to judge.

    Example: course similarity week6/marks --bundle week6/bundle
    """
    from ..atomic import write_text
    from .graft import program
    from .similarity import compare, page, to_csv

    with _one_sentence():
        released = _bundle(bundle)
    with _opened(out) as book:
        rows = [row for row in book.rows(everything=True) if row.assignment in released.chapters]
    sources: dict[str, dict[str, str]] = {"solution": {}, "pristine": {}}
    for chapter in released.chapters:
        assignment = released.assignment(chapter)
        for kind, found in sources.items():
            cells = program(getattr(assignment, kind), {})
            found |= {cell.grade_id: cell.source for cell in cells if cell.grade_id}
    report = compare(rows, sources["solution"], sources["pristine"])
    target = to or out / "similarity"
    write_text(target / "pairs.csv", to_csv(report))
    write_text(target / "index.html", page(report))
    if as_json:
        print_json(asdict(report))
    else:
        typer.echo(f"{len(report.matches)} pairs for a person to look at: {shown(target / 'index.html')}")
