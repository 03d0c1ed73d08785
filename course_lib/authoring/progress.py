"""What a build shows while it runs: which notebook, which cell, for how long."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from .execute import Job, Run


class BuildProgress:
    """A line for every notebook under way, and one that stays for each that is done."""

    def __init__(self, console: Console, work: Sequence[Job]) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("cell {task.completed} of {task.total}"),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=console, transient=True)
        self._console = console
        self._tasks: dict[str, TaskID] = {job.label: self._add(job) for job in work}

    def __enter__(self) -> BuildProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def cell(self, job: Job, index: int) -> None:
        """A cell starts. Called from the thread that runs the notebook."""
        task = self._tasks[job.label]
        if not self._progress.tasks[self._progress.task_ids.index(task)].started:
            self._progress.start_task(task)
        self._progress.update(task, completed=index + 1, visible=True)

    def finished(self, run: Run) -> None:
        """A notebook is done: its figures stay on the screen."""
        self._progress.update(self._tasks[run.job.label], visible=False)
        state = "[green]done[/green]" if not run.problems and not run.slow else "[red]failed[/red]"
        used = f"{run.peak_bytes / 2**20:.0f} MiB" if run.peak_bytes else ""
        self._console.print(f"{run.job.label}  {state}  {run.seconds:.1f} s  {used}", highlight=False)

    def _add(self, job: Job) -> TaskID:
        return self._progress.add_task(job.label, total=len(job.notebook.cells), start=False, visible=False)
