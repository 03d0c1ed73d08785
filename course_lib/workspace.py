"""The learner's folder `work/`: copies of the course's notebooks, made on first use and never overwritten.

work/notebooks/06_attention.ipynb    a copy of notebooks/06_attention.ipynb, for the learner to change
work/exercises/06_attention.ipynb    the same layout, so relative links hold
work/.course/base/…                  the version each copy came from: the base of the three-way merge
work/.course/backups/<when>/…        what stood there before an update or a reset
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .atomic import DiskFull, write_bytes
from .chapters import CHAPTERS, UnknownChapter, find_chapter
from .merge import (
    Merged,
    MergeError,
    NotANotebook,
    Notebook,
    by_id,
    merge,
    read_notebook,
    salvage,
    write_notebook,
)

FOLDERS = ("notebooks", "exercises")


class WorkspaceError(Exception):
    """Something the user can mend; the message is the sentence that says how."""


@dataclass(frozen=True)
class NotebookChange:
    """What happened to one notebook.

    status: "copied", "unchanged", "merged", "replaced" (it could not be read), "reset", or "left" where
    nothing was written. added, replaced, kept, dropped: cell ids. problems: sentences for the learner.
    """

    notebook: str
    status: str
    added: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass
class WorkReport:
    """What an update or a reset did. backup: the folder of the old versions, None where none was needed."""

    work: Path
    backup: Path | None = None
    notebooks: list[NotebookChange] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def changed(self) -> list[NotebookChange]:
        """The notebooks of which a file was written."""
        return [change for change in self.notebooks if change.status not in ("unchanged", "left")]

    def all_problems(self) -> list[str]:
        """Every sentence, those of a notebook with its name in front."""
        named = [f"{change.notebook}: {told}" for change in self.notebooks for told in change.problems]
        return self.problems + named

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return {
            "work": str(self.work),
            "backup": str(self.backup) if self.backup else None,
            "notebooks": [asdict(change) for change in self.notebooks],
            "problems": self.all_problems(),
        }


# --- where things are -----------------------------------------------------------------------------------


def project_root() -> Path:
    """The folder of the course, from where this package lies. Raises WorkspaceError for a bare package."""
    root = Path(__file__).resolve().parents[1]
    if not (root / "pyproject.toml").exists():
        raise WorkspaceError(
            f"The course's notebooks are not beside the package in {root}: start it from a clone of the "
            "course with `python3 course.py`."
        )
    return root


def work_folder(root: Path | None = None) -> Path:
    """The learner's folder: COURSE_WORK, or `work` in the course's folder."""
    named = os.environ.get("COURSE_WORK")
    return Path(named).expanduser().resolve() if named else (root or project_root()) / "work"


def course_notebooks(root: Path) -> list[str]:
    """The course's notebooks for learners, relative to the root, with forward slashes."""
    return [f"{folder}/{path.name}" for folder in FOLDERS for path in sorted((root / folder).glob("*.ipynb"))]


def chapter_names(root: Path) -> list[str]:
    """Every chapter: those of the map, and those that only have files yet."""
    names = {chapter.name for chapter in CHAPTERS} | {Path(name).stem for name in course_notebooks(root)}
    return sorted(names)


def resolve_chapter(given: str, root: Path) -> str:
    """The chapter that is meant, as `chapters.find_chapter` says. Raises WorkspaceError where it cannot."""
    try:
        return find_chapter(given, chapter_names(root))
    except UnknownChapter as error:
        raise WorkspaceError(str(error)) from None


# --- copies ---------------------------------------------------------------------------------------------


class Workspace:
    """The learner's folder and the course it came from."""

    def __init__(self, root: Path | None = None, work: Path | None = None) -> None:
        self.root = root or project_root()
        self.work = work or work_folder(self.root)

    def mine(self, name: str) -> Path:
        """The learner's copy of a notebook such as "exercises/06_attention.ipynb"."""
        return self.work / name

    def base(self, name: str) -> Path:
        """The course's version that the learner's copy came from."""
        return self.work / ".course" / "base" / name

    def prepare(self) -> list[str]:
        """Copy the notebooks that the learner does not have yet, and only those; returns their names."""
        copied = []
        for name in course_notebooks(self.root):
            if not self.mine(name).exists():
                self._copy(name)
                copied.append(name)
        return copied

    def outdated(self) -> list[str]:
        """The notebooks that the course has in a newer version than the learner's copies came from."""
        return [name for name in course_notebooks(self.root) if not self._is_current(name)]

    def update(self) -> WorkReport:
        """Bring every copy to the course's version, keeping all that the learner wrote (see `merge`).

        What cannot be read is kept in the backups and replaced; a full disk stops the update where it is.
        Neither stops the report: each is a sentence in it.
        """
        report = WorkReport(self.work)
        for name in course_notebooks(self.root):
            try:
                report.notebooks.append(self._update_one(name, report))
            except DiskFull as error:
                report.problems.append(f"{error} The update stopped at {name}; nothing is lost.")
                break
            except (OSError, MergeError) as error:
                told = f"It was left as it is: {error}."
                report.notebooks.append(NotebookChange(name, "left", problems=(told,)))
        return report

    def reset(self, chapter: str) -> WorkReport:
        """Put back the course's version of a chapter's notebooks; the learner's go to a dated backup.

        chapter: its full name, as `resolve_chapter` gives it. Raises WorkspaceError where it has none.
        """
        names = [name for name in course_notebooks(self.root) if Path(name).stem == chapter]
        if not names:
            raise WorkspaceError(f"Chapter {chapter} has no notebooks yet: it is still to be written.")
        report = WorkReport(self.work)
        try:
            for name in names:
                if self.mine(name).exists():
                    self._back_up(name, report)
            for name in names:
                self._copy(name)
                report.notebooks.append(NotebookChange(name, "reset"))
        except DiskFull as error:
            report.problems.append(f"{error} The reset stopped there; nothing is lost.")
        return report

    # --- one notebook -----------------------------------------------------------------------------------

    def _is_current(self, name: str) -> bool:
        base = self.base(name)
        return base.exists() and base.read_bytes() == (self.root / name).read_bytes()

    def _copy(self, name: str) -> None:
        # The copy first: should the base be missing after a crash, the merge does without it.
        content = (self.root / name).read_bytes()
        write_bytes(self.mine(name), content)
        write_bytes(self.base(name), content)

    def _update_one(self, name: str, report: WorkReport) -> NotebookChange:
        if not self.mine(name).exists():
            self._copy(name)
            return NotebookChange(name, "copied")
        pristine = (self.root / name).read_bytes()
        theirs = self._read_pristine(name, pristine)
        content = self.mine(name).read_bytes()
        try:
            mine = read_notebook(content)
        except NotANotebook as error:
            return self._replace_broken(name, theirs, content, str(error), report)
        merged = merge(self._read_base(name), theirs, mine)
        status = "unchanged"
        if write_notebook(merged.notebook) != write_notebook(mine):
            self._back_up(name, report)
            self._write_unless_changed(name, content, write_notebook(merged.notebook))
            status = "merged"
        if not self._is_current(name):
            write_bytes(self.base(name), pristine)
        return _change(name, status, merged)

    def _read_pristine(self, name: str, content: bytes) -> Notebook:
        try:
            return read_notebook(content)
        except NotANotebook as error:
            raise MergeError(
                f"the course's own {name} cannot be read ({error}); `git status` may say why"
            ) from error

    def _read_base(self, name: str) -> Notebook | None:
        try:
            return read_notebook(self.base(name).read_bytes())
        except (OSError, NotANotebook):
            return None

    def _write_unless_changed(self, name: str, expected: bytes, content: bytes) -> None:
        # JupyterLab may have saved while we merged; the next update merges that version.
        if self.mine(name).read_bytes() != expected:
            raise MergeError("it was saved at this moment; run `course update` again")
        write_bytes(self.mine(name), content)

    def _replace_broken(
        self, name: str, theirs: Notebook, content: bytes, reason: str, report: WorkReport
    ) -> NotebookChange:
        """Put a sound notebook where a damaged one stood: the course's, with the cells that can be read."""
        kept = self._back_up(name, report)
        cells = salvage(content)
        found = set(by_id(cells))
        base = self._read_base(name) or {"cells": []}
        # A cell that could not be read is not one that the learner deleted: it has no place in the base.
        base = {**base, "cells": [cell for cell in base["cells"] if cell.get("id") in found]}
        merged = merge(base, theirs, {**theirs, "cells": cells})
        write_bytes(self.mine(name), write_notebook(merged.notebook))
        write_bytes(self.base(name), (self.root / name).read_bytes())
        told = (
            f"It could not be read ({reason}). It is kept as {kept}; in its place is a fresh copy, "
            f"with the {len(cells)} cells that could be saved from it."
        )
        merged.problems[:] = [told]
        return _change(name, "replaced", merged)

    def _back_up(self, name: str, report: WorkReport) -> Path:
        if report.backup is None:
            report.backup = self._new_backup_folder()
        kept = report.backup / name
        write_bytes(kept, self.mine(name).read_bytes())
        return kept

    def _new_backup_folder(self) -> Path:
        folder = self.work / ".course" / "backups"
        name = time.strftime("%Y-%m-%dT%H-%M-%S")  # no colons: Windows has none in file names
        return next(path for path in _numbered(folder / name) if not path.exists())


def _numbered(path: Path) -> Iterator[Path]:
    yield path
    for number in range(2, 10_000):
        yield path.with_name(f"{path.name}-{number}")


def _change(name: str, status: str, merged: Merged) -> NotebookChange:
    groups = (merged.added, merged.replaced, merged.kept, merged.dropped, merged.problems)
    return NotebookChange(name, status, *map(tuple, groups))
