"""The README says what is there: its chapter map, its commands, its links."""

from __future__ import annotations

import re
from pathlib import Path

from typer.main import get_command

from course_lib.chapters import CHAPTERS
from course_lib.cli import app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_chapter_map_is_that_of_the_library() -> None:
    for chapter in CHAPTERS:
        row = next(line for line in README.split("\n") if f"{chapter.number:02d} · {chapter.title}" in line)
        assert chapter.summary in row
        assert ("| open |" in row) == chapter.open == (f"(notebooks/{chapter.name}.ipynb)" in row)


def test_open_chapters_are_those_that_have_notebooks_and_exercises() -> None:
    built = {chapter.name for chapter in CHAPTERS if chapter.open}
    for folder, suffix in (
        ("notebooks", "md"),
        ("notebooks", "ipynb"),
        ("solutions", "ipynb"),
        ("exercises", "ipynb"),
    ):
        assert {path.stem for path in (ROOT / folder).glob(f"*.{suffix}")} == built


def test_every_command_is_in_the_readme_and_every_one_named_exists() -> None:
    named = set(re.findall(r"`course ([a-z]+)", README))
    assert named == set(get_command(app).commands)  # type: ignore[attr-defined]


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target
