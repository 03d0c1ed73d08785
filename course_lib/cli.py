"""The `course` command: the learner's and the author's tools behind one word.

Every command imports what it needs when it runs, so that `course --help` answers at once. What a command
finds goes to standard output (as JSON with --json), what goes wrong to standard error, in one sentence.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from .atomic import DiskFull
from .console import BROKEN, FINE, INTERRUPTED, NOT_PASSED, WRONG_USE, Json, console, fail, print_json, shown
from .grading.commands import add_staff_commands
from .workspace import WorkReport, Workspace, WorkspaceError, resolve_chapter

if TYPE_CHECKING:
    from rich.console import Console

    from .grading.local import NotebookReport

EXIT_CODES = (
    "Exit codes: 0 fine; 1 not passed, or out of step; 2 wrong use; 3 something is broken on this machine; "
    "130 interrupted."
)


class CourseGroup(TyperGroup):
    """The commands, with every error turned into one sentence and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for. COURSE_DEBUG=1 shows the traceback of what is unexpected."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            fail("Interrupted.", INTERRUPTED)
        except BrokenPipeError:
            raise
        except WorkspaceError as error:
            fail(str(error), WRONG_USE)
        except DiskFull as error:
            fail(str(error), BROKEN)
        except PermissionError as error:
            where = error.filename or "a file"
            fail(f"{where} may not be read or written by you: make it yours, or set COURSE_WORK.", BROKEN)
        except Exception as error:
            # typer's own exits and usage errors carry an exit code and print themselves.
            if (
                hasattr(error, "exit_code")
                or isinstance(error, typer.Abort)
                or os.environ.get("COURSE_DEBUG")
            ):
                raise
            if isinstance(error, ModuleNotFoundError) and str(error.name).startswith("course_lib."):
                fail("This command is for authors and staff: a learner's pack does not have it.", WRONG_USE)
            told = " ".join(f"{type(error).__name__}: {error}".split())
            fail(f"The course itself failed ({told}). COURSE_DEBUG=1 shows where; please report it.", BROKEN)


app = typer.Typer(
    name="course",
    cls=CourseGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Build the Transformer family piece by piece, in notebooks that check themselves.",
    epilog=EXIT_CODES,
)

ChapterArgument = Annotated[
    str, typer.Argument(help="06, attention, 06_attention, or a path.", show_default=False)
]


# --- for learners ---------------------------------------------------------------------------------------


@app.command()
def lab(
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the browser.")] = True,
    port: Annotated[
        int | None, typer.Option(help="The port; the first free one from 8888 by default.")
    ] = None,
) -> None:
    """Open JupyterLab on the welcome notebook, in your own folder work/. Ctrl-C ends it.

    Example: course lab --no-browser
    """
    from .lab import LabError, run_lab

    try:
        code = run_lab(Workspace(), browser=browser, port=port)
    except LabError as error:
        fail(str(error), BROKEN)
    raise typer.Exit(code)


@app.command()
def check(
    what: Annotated[
        str | None, typer.Argument(metavar="CHAPTER|NOTEBOOK", help="Default: all your chapters.")
    ] = None,
    cell_timeout: Annotated[float, typer.Option(min=1, help="Seconds that one cell may run.")] = 60,
    as_json: Json = False,
) -> None:
    """Run your exercise notebooks under nbval and show each exercise's verdict.

    Exit code 1 as long as one has not passed.

    Example: course check 06
    """
    from .grading.local import check_notebook

    reports = []
    for path in _notebooks_to_check(Workspace(), what):
        if not as_json:
            typer.echo(f"Checking {shown(path)} …", err=True)
        progress = None if as_json else _progress_line
        reports.append(check_notebook(path, cell_timeout=cell_timeout, progress=progress))
    if as_json:
        print_json([report.to_json() for report in reports])
    else:
        for report in reports:
            _print_report(console(), report)
    passed = all(
        not report.problems and all(exercise.status == "passed" for exercise in report.exercises)
        for report in reports
    )
    raise typer.Exit(FINE if passed else NOT_PASSED)


def _progress_line(line: str) -> None:
    typer.echo(f"  {line}", err=True)


def _notebooks_to_check(workspace: Workspace, what: str | None) -> list[Path]:
    """The notebooks meant: a file as it is, a chapter's exercises, or all exercises."""
    if what and what.endswith(".ipynb"):
        if not Path(what).is_file():
            raise WorkspaceError(
                f"There is no notebook {what}: give its path from here, or a chapter such as 06."
            )
        return [Path(what).resolve()]
    workspace.prepare()
    if what is None:
        found = sorted(workspace.mine("exercises").glob("*.ipynb"))
        if not found:
            raise WorkspaceError("There are no exercises yet in this course.")
        return found
    chapter = resolve_chapter(what, workspace.root)
    path = workspace.mine(f"exercises/{chapter}.ipynb")
    if not path.exists():
        raise WorkspaceError(f"Chapter {chapter} has no exercises yet: it is still to be written.")
    return [path]


STYLES = {
    "passed": "green",
    "failed": "red",
    "not started": "dim",
    "timeout": "red",
    "broken": "red",
    "missing": "red",
}


def _print_report(console: Console, report: NotebookReport) -> None:
    """A table of exercises, points and verdicts, then what is wrong with the notebook."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=report.notebook, title_justify="left", caption_justify="left")
    for heading, justify in (("exercise", "left"), ("points", "right"), ("verdict", "left"), ("", "left")):
        table.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in report.exercises:
        verdict = Text(row.status, style=STYLES.get(row.status, ""))
        name = Text.assemble(row.id, "\n", (row.title, "dim"))
        table.add_row(name, f"{row.earned}/{row.points}", verdict, Text(row.sentence))
    earned, points = (sum(getattr(row, name) for row in report.exercises) for name in ("earned", "points"))
    table.caption = f"{earned} of {points} points"
    console.print(table)
    for problem in report.problems:
        console.print(Text(problem))


@app.command()
def progress(as_json: Json = False) -> None:
    """Show how far you are in each chapter.

    Example: course progress
    """
    from dataclasses import asdict

    from .checks.journal import Progress

    kept = Progress.load()
    rows = [asdict(row) for row in kept.summary()]
    for note in kept.notes:
        typer.echo(note, err=True)
    if as_json:
        print_json(rows)
        return
    from rich.table import Table

    table = Table()
    table.add_column("chapter")
    for heading in ("passed", "points"):
        table.add_column(heading, justify="right")
    total = {key: sum(row[key] for row in rows) for key in ("passed", "total", "points", "of")}
    for row in [*rows, {"chapter": "all", **total}]:
        table.add_row(row["chapter"], f"{row['passed']}/{row['total']}", f"{row['points']}/{row['of']}")
    console().print(table)


@app.command()
def hint(
    exercise: Annotated[
        str, typer.Argument(metavar="ID", help="As on the card, for example attention/sdpa.")
    ],
    as_json: Json = False,
) -> None:
    """Give the first hint for an exercise; called again, the next.

    Example: course hint attention/sdpa
    """
    from dataclasses import asdict

    from .checks.journal import Progress

    try:
        found = Progress.load().next_hint(exercise)
    except KeyError as error:
        fail(str(error.args[0]), WRONG_USE)
    if as_json:
        print_json(asdict(found))
    else:
        last = " (the last)" if found.number == found.total else ""
        typer.echo(f"Hint {found.number} of {found.total}{last}: {found.text}")


@app.command()
def reset(chapter: ChapterArgument, as_json: Json = False) -> None:
    """Put back the course's version of a chapter's notebooks; yours go to a dated backup.

    Example: course reset 06
    """
    workspace = Workspace()
    report = workspace.reset(resolve_chapter(chapter, workspace.root))
    if not as_json:
        typer.echo("Points that you have earned stay; only the notebooks are fresh.")
    _finish(report, as_json)


@app.command()
def update(as_json: Json = False) -> None:
    """Bring new and changed cells of the course into your notebooks; every answer and cell of yours stays.

    Run it after git pull. What stood there before goes to a dated backup.

    Example: course update
    """
    _finish(Workspace().update(), as_json)


def _finish(report: WorkReport, as_json: bool) -> NoReturn:
    """Show what was done to the learner's notebooks, and end."""
    if as_json:
        print_json(report.to_json())
    else:
        for change in report.changed:
            typer.echo(f"{change.notebook}: {_counts(change)}")
        if not report.changed and not report.problems:
            typer.echo("Nothing to do: your notebooks are up to date.")
        if report.backup:
            typer.echo(f"Your earlier versions are in {shown(report.backup)}")
    for problem in report.all_problems():
        typer.echo(problem, err=True)
    undone = report.problems or any(change.status == "left" for change in report.notebooks)
    raise typer.Exit(BROKEN if undone else FINE)


def _counts(change: Any) -> str:
    """For example "merged (2 cells new, 1 replaced, 3 of yours kept)"."""
    groups = ((change.added, "new"), (change.replaced, "replaced"), (change.kept, "of yours kept"))
    told = [f"{len(ids)} {word}" for ids, word in (*groups, (change.dropped, "dropped")) if ids]
    return f"{change.status} (cells: {', '.join(told)})" if told else str(change.status)


@app.command()
def export(
    to: Annotated[
        Path | None, typer.Option(help="The package's folder; work/my_transformer by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a package my_transformer of your passed answers; the library's versions fill the gaps.

    Example: course export --to my_transformer
    """
    from .checks.export import export_package

    workspace = Workspace()
    workspace.prepare()
    try:
        report = export_package(workspace.work, (to or workspace.work / "my_transformer").resolve())
    except FileExistsError as error:
        fail(f"{error}.", WRONG_USE)
    problems = report.problems
    if as_json:
        print_json(report.to_json())
    else:
        typer.echo(f"Yours: {', '.join(report.own) or 'nothing yet'}")
        typer.echo(f"From the library: {', '.join(report.from_library) or 'nothing'}")
        if report.waiting:
            typer.echo(f"Not there before your answer passes: {', '.join(report.waiting)}")
        folder = Path(report.destination)
        typer.echo(f"Written to {folder}. With {folder.parent} on the path, `import {folder.name}` finds it.")
    for problem in problems:
        typer.echo(problem, err=True)
    raise typer.Exit(NOT_PASSED if problems else FINE)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Look at this machine: Python, torch, GPU, memory, disk, browser, fonts, isolation, your folder.

    Exit code 3 where something that the course needs is missing.

    Example: course doctor
    """
    from dataclasses import asdict

    from .doctor import examine

    rows = examine()
    if as_json:
        print_json([asdict(row) for row in rows])
    else:
        _print_rows(console(), rows)
    raise typer.Exit(BROKEN if any(row.status == "missing" for row in rows) else FINE)


def _print_rows(console: Console, rows: list[Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    styles = {"ok": "green", "warn": "yellow", "missing": "red"}
    table = Table()
    for heading in ("what", "status", "meaning"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(Text(row.name), Text(row.status, style=styles[row.status]), Text(row.sentence))
    console.print(table)


# --- for authors ----------------------------------------------------------------------------------------


@app.command()
def build(
    chapters: Annotated[
        list[str] | None, typer.Argument(help="Only these chapters.", show_default=False)
    ] = None,
    check_only: Annotated[
        bool, typer.Option("--check", help="Write nothing; say what is out of step.")
    ] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Notebooks that run at once.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Run what has not changed, too.")] = False,
    as_json: Json = False,
) -> None:
    """Make the executed notebooks and the exercises from their Markdown sources.

    Exit code 1 where something is out of step or breaks a rule of the course.

    Example: course build --check
    """
    from .authoring.build import build as build_notebooks
    from .authoring.project import SourceError
    from .chapters import UnknownChapter

    where = None if as_json else console()
    try:
        root = Workspace().root
        report = build_notebooks(root, chapters or None, check_only, jobs, force, where)
    except (SourceError, UnknownChapter) as error:
        fail(str(error), WRONG_USE)
    if as_json:
        print_json(report.to_json())
    else:
        for path in report.written:
            typer.echo(f"written: {shown(path)}")
    for problem in report.problems:
        typer.echo(problem, err=True)
    raise typer.Exit(NOT_PASSED if report.problems else FINE)


@app.command()
def new(
    chapter: Annotated[str, typer.Argument(help="For example 07_multi_head_attention.", show_default=False)],
) -> None:
    """Make the skeleton of a chapter: lesson, exercise, checks, tests.

    Example: course new 07_multi_head_attention
    """
    from .authoring.skeleton import new_chapter

    try:
        written = new_chapter(Workspace().root, chapter)
    except (ValueError, FileExistsError) as error:
        fail(str(error), WRONG_USE)
    for path in written:
        typer.echo(f"written: {shown(path)}")


add_staff_commands(app)


def main() -> None:
    """The entry point of the `course` command."""
    # A Windows console of old may not know every character of a verdict; a question mark beats a traceback.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    app(prog_name="course")


if __name__ == "__main__":
    main()
