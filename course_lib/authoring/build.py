"""`course build`: texts become executed notebooks and exercises; `--check` says what is out of step.

A notebook is run when its code, or anything of the library that it uses, has changed since its
committed outputs were made, or with `force`; all others keep their outputs, also when their prose
is new. Two builds of the same
sources give the same bytes. Cells tagged `volatile` (timings, measured speeds) keep the outputs
they had as long as their own text is unchanged, even when the notebook is run again: to renew one,
change the cell or delete the notebook first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbformat import NotebookNode

from ..atomic import write_bytes
from ..chapters import UnknownChapter
from .assemble import Draft, difference, draft, read_notebook, serialise
from .execute import Job, OnCell, Run, Runner, default_jobs, error_problems
from .exercises import Entries, registered_entry
from .limits import Limits, limits_from_environment
from .links import link_problems
from .outputs import changed_outputs, keep_volatile, normalise, output_problems
from .project import EXERCISES, Source, SourceError, find_sources
from .structure import structure_problems

if TYPE_CHECKING:
    from rich.console import Console


@dataclass
class BuildReport:
    """What a build did. problems: one sentence each; a build without any is fine.

    written: files whose bytes changed. executed: notebooks that were run. timings: by notebook.
    """

    problems: list[str] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)
    executed: list[str] = field(default_factory=list)
    timings: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """The report in types that `json.dumps` takes."""
        return {
            "ok": self.ok,
            "problems": list(self.problems),
            "written": [path.as_posix() for path in self.written],
            "executed": list(self.executed),
            "timings": dict(self.timings),
        }


def build(
    root: Path,
    chapters: Iterable[str] | None = None,
    check: bool = False,
    jobs: int | None = None,
    force: bool = False,
    console: Console | None = None,
    *,
    execute: bool = True,
    structure: bool = True,
    entries: Entries = registered_entry,
    limits: Limits | None = None,
) -> BuildReport:
    """Build the notebooks of a checkout, or with `check` say what is out of step and write nothing.

    chapters: "06", "attention", "06_attention" or a path; all by default. jobs: how many notebooks
    run at once (2). force: run also what is unchanged. console: where progress is shown; None is
    silent. execute=False with check: compare what is committed, run nothing. structure=False leaves
    out what a lesson has to hold. entries: finds points, minutes and difficulty of an exercise.
    Raises UnknownChapter; mistakes in the sources are reported as problems, never raised.
    """
    root = Path(root).resolve()
    wanted = list(chapters or ()) or None
    try:
        sources = find_sources(root, wanted)
        builder = _Builder(root, entries, limits or limits_from_environment(), BuildReport())
    except UnknownChapter:
        raise
    except ValueError as error:
        return BuildReport(problems=[str(error)])
    drafts = builder.drafts(sources)
    if structure:
        for one in drafts:
            builder.report.problems += structure_problems(one.source, one.notebook.cells, entries)
    if check:
        builder.check(drafts, execute, jobs or default_jobs(), console)
    else:
        builder.build(drafts, force, jobs or default_jobs(), console)
    builder.orphans(sources if wanted is None else None)
    return builder.report


class _Builder:
    """One build: the report that grows, and what all steps need."""

    def __init__(self, root: Path, entries: Entries, limits: Limits, report: BuildReport) -> None:
        self.root = root
        self.entries = entries
        self.limits = limits
        self.report = report
        self.planned: set[Path] = set()

    def drafts(self, sources: Sequence[Source]) -> list[Draft]:
        """A draft of every source that allows one; the others become problems."""
        drafts = []
        for source in sources:
            try:
                drafts.append(draft(source, self.entries))
            except SourceError as error:
                message = str(error)
                name = f"{source.folder.name}/{source.text_path.name}"
                self.report.problems.append(message if message.startswith(name) else f"{name}: {message}")
        for one in drafts:
            self.planned |= {one.source.notebook_path, *([one.source.exercise_path] if one.exercise else [])}
        return drafts

    def build(self, drafts: Sequence[Draft], force: bool, jobs: int, console: Console | None) -> None:
        """Run what changed, and write what differs from the disk."""
        drafts = [one for one in drafts if self._keeps_ids(one)]
        stale = {one.source.label: one for one in drafts if force or not one.is_current}
        for one in drafts:
            if one.source.label not in stale:
                self._finish(one, one.with_committed_outputs())
        for run in self._execute(list(stale.values()), jobs, console):
            one = stale[run.job.label]
            # With an error the committed notebook stays as it is: half a run is worth less.
            if not run.problems and not run.slow:
                if one.committed is not None:
                    keep_volatile(run.job.notebook.cells, one.committed.cells)
                self._finish(one, run.job.notebook)

    def check(self, drafts: Sequence[Draft], execute: bool, jobs: int, console: Console | None) -> None:
        """Compare what is committed with its source; run everything afresh."""
        by_label = {one.source.label: one for one in drafts}
        for one in drafts:
            self._compare(one)
        for run in self._execute(drafts if execute else [], jobs, console):
            if run.problems:
                continue
            self._inspect(by_label[run.job.label], run.job.notebook)
            committed = by_label[run.job.label].committed
            if committed is not None:
                self.report.problems += changed_outputs(
                    run.job.label, committed.cells, run.job.notebook.cells
                )
        self.report.problems = list(dict.fromkeys(self.report.problems))

    def orphans(self, sources: Sequence[Source] | None) -> None:
        """Report notebooks that no text stands behind; only when all chapters are looked at."""
        if sources is None:
            return
        known = {source.notebook_path for source in sources}
        known |= {source.exercise_path for source in sources if source.kind == "solution"}
        for folder in ("notebooks", "solutions", EXERCISES):
            for path in sorted((self.root / folder).glob("*.ipynb")):
                if path not in known:
                    self.report.problems.append(f"{folder}/{path.name}: no .md stands behind it; delete it")

    def _execute(self, drafts: Sequence[Draft], jobs: int, console: Console | None) -> Iterable[Run]:
        work = [Job(one.source.label, deepcopy(one.notebook), one.source.folder) for one in drafts]
        with _progress(console, work) as on:
            for run in Runner(self.root, self.limits, jobs, on.cell).run_all(work):
                normalise(run.job.notebook.cells, self.root)
                self.report.executed.append(run.job.label)
                self.report.timings[run.job.label] = run.to_json()
                self.report.problems += run.problems + run.slow
                on.finished(run)
                yield run

    def _finish(self, one: Draft, notebook: NotebookNode) -> None:
        self._inspect(one, notebook)
        self._write(one.source.notebook_path, notebook)
        if one.exercise is not None:
            self._inspect_links(one, one.exercise)
            self._write(one.source.exercise_path, one.exercise)

    def _inspect(self, one: Draft, notebook: NotebookNode) -> None:
        label, cells = one.source.label, notebook.cells
        self.report.problems += error_problems(label, cells)
        self.report.problems += output_problems(label, cells, self.root)
        self.report.problems += link_problems(label, cells, self.root, one.source.kind, self.planned)
        size = len(serialise(notebook))
        if size > self.limits.notebook_bytes:
            self.report.problems.append(
                f"{label}: {size:,} bytes, a notebook may have {self.limits.notebook_bytes:,}; draw less"
            )

    def _inspect_links(self, one: Draft, exercise: NotebookNode) -> None:
        label = f"{EXERCISES}/{one.source.chapter}.ipynb"
        self.report.problems += link_problems(label, exercise.cells, self.root, "exercise", self.planned)

    def _write(self, path: Path, notebook: NotebookNode) -> None:
        content = serialise(notebook)
        if path.exists() and path.read_bytes() == content:
            return
        try:
            write_bytes(path, content)
        except OSError as error:
            name = path.relative_to(self.root).as_posix()
            self.report.problems.append(f"{name}: could not be written: {error}")
        else:
            self.report.written.append(path)

    def _keeps_ids(self, one: Draft) -> bool:
        """Whether the ids on disk can be read; a build over a broken notebook would give out new ones."""
        readable = one.committed is not None or not one.source.notebook_path.exists()
        if not readable:
            self.report.problems.append(
                f"{one.source.label}: not a readable notebook, and a new one would lose its cells' ids; "
                "restore it from the repository, or delete it"
            )
        return readable

    def _compare(self, one: Draft) -> None:
        self._compare_file(one, one.source.notebook_path, one.notebook)
        if one.is_current:
            self._inspect(one, one.with_committed_outputs())
        if one.exercise is not None:
            self._compare_file(one, one.source.exercise_path, one.exercise)
            self._inspect_links(one, one.exercise)

    def _compare_file(self, one: Draft, path: Path, expected: NotebookNode) -> None:
        problem = _out_of_step(path, expected)
        if problem is None and expected is one.notebook and not one.is_current:
            problem = "not all of its cells have been run"
        if problem is None and path.read_bytes() != self._canonical(one, expected):
            problem = "it was not written by `course build`"
        if problem:
            name = path.relative_to(self.root).as_posix()
            advice = f"run `course build {one.source.chapter}`"
            self.report.problems.append(f"{name}: out of step with its source: {problem}; {advice}")

    def _canonical(self, one: Draft, expected: NotebookNode) -> bytes:
        return serialise(one.with_committed_outputs() if expected is one.notebook else expected)


def _out_of_step(path: Path, expected: NotebookNode) -> str | None:
    if not path.exists():
        return "there is no such file"
    committed = read_notebook(path)
    return "it is not a readable notebook" if committed is None else difference(expected, committed)


class _Silent:
    """Progress that nobody sees."""

    cell: OnCell | None = None

    def finished(self, run: Run) -> None:
        """Nothing to show."""


def _progress(console: Console | None, work: Sequence[Job]) -> AbstractContextManager[Any]:
    if console is None or not work:
        return nullcontext(_Silent())
    from .progress import BuildProgress

    make: Callable[..., AbstractContextManager[Any]] = BuildProgress
    return make(console, work)
