"""A course in a temporary folder, with as little in it as a test needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat import NotebookNode

from course_lib.authoring.build import BuildReport, build
from course_lib.authoring.exercises import Entry

ENTRY = Entry(points=3, minutes=10, difficulty=2)


def code(*lines: str, tags: str = "") -> str:
    """A code cell in MyST markdown."""
    options = f":tags: [{tags}]\n\n" if tags else ""
    return "```{code-cell} ipython3\n" + options + "\n".join(lines) + "\n```\n"


@dataclass
class Course:
    """The folder of a course, and the build on it without structure checks."""

    root: Path

    def lesson(self, chapter: str, *parts: str) -> Path:
        """Write a lesson: a title and the given cells."""
        return self.write(f"notebooks/{chapter}.md", "# Lesson\n", *parts)

    def solution(self, chapter: str, *parts: str) -> Path:
        """Write a solution: a title and the given cells."""
        return self.write(f"solutions/{chapter}.md", "# Exercises\n", *parts)

    def write(self, name: str, *parts: str) -> Path:
        """Write a file from parts with an empty line between them."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(parts), encoding="utf-8")
        return path

    def build(self, *chapters: str, **options: Any) -> BuildReport:
        """Build with every exercise worth 3 points; structure checks only on request."""
        options = {"structure": False, "entries": lambda exercise_id: ENTRY, **options}
        return build(self.root, list(chapters) or None, **options)

    def notebook(self, name: str) -> NotebookNode:
        """A notebook of this course."""
        return nbformat.read(self.root / name, as_version=4)

    def bytes(self) -> dict[str, bytes]:
        """Every notebook's bytes by its path."""
        return {str(path.relative_to(self.root)): path.read_bytes() for path in self.root.rglob("*.ipynb")}


@pytest.fixture
def course(tmp_path: Path) -> Course:
    """An empty course."""
    return Course(tmp_path)


@pytest.fixture(scope="module")
def make_course(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Course]:
    """Makes courses that live as long as the test module."""
    return lambda: Course(tmp_path_factory.mktemp("course"))


@pytest.fixture(scope="session")
def cell() -> Callable[..., str]:
    """Writes a code cell in MyST markdown: `cell("x = 1", tags="volatile")`."""
    return code
