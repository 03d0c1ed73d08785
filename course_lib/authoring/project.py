"""Where the notebooks of a chapter lie, and which chapters a person means."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from course_lib.chapters import find_chapter

KINDS = {"lesson": "notebooks", "solution": "solutions"}
EXERCISES = "exercises"
CHAPTER_NAME = re.compile(r"^[0-9]{2}_[a-z0-9]+(_[a-z0-9]+)*$")


class SourceError(ValueError):
    """A source text that cannot become a notebook; the message names the file and what to do."""


@dataclass(frozen=True)
class Source:
    """One text that people write: a lesson, or the solved exercises of a chapter.

    chapter: "06_attention". kind: "lesson" or "solution".
    """

    root: Path
    chapter: str
    kind: str

    @property
    def folder(self) -> Path:
        """The folder that holds the text and its notebook."""
        return self.root / KINDS[self.kind]

    @property
    def text_path(self) -> Path:
        """The `.md` that is written by hand."""
        return self.folder / f"{self.chapter}.md"

    @property
    def notebook_path(self) -> Path:
        """The `.ipynb` beside it."""
        return self.folder / f"{self.chapter}.ipynb"

    @property
    def exercise_path(self) -> Path:
        """The learner's notebook derived from a solution."""
        return self.root / EXERCISES / f"{self.chapter}.ipynb"

    @property
    def topic(self) -> str:
        """ "attention" for "06_attention"."""
        return self.chapter[3:]

    @property
    def label(self) -> str:
        """The notebook's path from the root, as messages name it."""
        return f"{KINDS[self.kind]}/{self.chapter}.ipynb"


def find_sources(root: Path, chapters: Iterable[str] | None = None) -> list[Source]:
    """The sources of the named chapters (all of them by default), in the order of the chapters.

    Raises UnknownChapter for one that has no source, SourceError for a file name that is no chapter.
    """
    found = [
        Source(root, path.stem, kind)
        for kind, folder in KINDS.items()
        for path in sorted((root / folder).glob("*.md"))
    ]
    for source in found:
        if not CHAPTER_NAME.match(source.chapter):
            raise SourceError(
                f"{source.text_path.relative_to(root)}: not a chapter's name; expected something like "
                "06_attention.md (two digits, an underscore, lower-case words)"
            )
    found.sort(key=lambda source: (source.chapter, source.kind))
    if chapters is None:
        return found
    names = sorted({source.chapter for source in found})
    wanted = {find_chapter(chapter, names) for chapter in chapters}
    return [source for source in found if source.chapter in wanted]
