"""`course new 25_my_topic`: a chapter that builds and passes the gate before its author has written a word.

Its lesson has every part that a lesson needs, each with a sentence that says what belongs there;
its three small exercises show the contract at work. The author replaces them one at a time.
"""

from __future__ import annotations

import ast
from pathlib import Path

from ..atomic import write_text
from .project import CHAPTER_NAME, SourceError

_TEMPLATES = Path(__file__).parent / "templates"
_FILES = {
    "lesson.template": "notebooks/{name}.md",
    "solution.template": "solutions/{name}.md",
    "checks.template": "course_lib/checks/{name}.py",
    "probes.template": "course_lib/checks/probes/{topic}.py",
    "tests.template": "tests/test_{name}.py",
}


def new_chapter(root: Path, name: str) -> list[Path]:
    """Write the files of a new chapter, add it to the chapter map, and return what was written.

    name: two digits and lower-case words, as "25_my_topic".
    Raises SourceError when the name is not of that form, is taken, or a file is there already;
    nothing is written then.
    """
    root = Path(root).resolve()
    if not CHAPTER_NAME.match(name):
        raise SourceError(
            f"{name!r} is not a chapter's name; expected two digits and lower-case words, as 25_my_topic"
        )
    targets = {template: root / path.format(name=name, topic=name[3:]) for template, path in _FILES.items()}
    there = [path.relative_to(root).as_posix() for path in targets.values() if path.exists()]
    if there:
        raise SourceError(
            f"{name} has been begun: {', '.join(there)} exists; choose another name, or delete it"
        )
    chapter_map = _with_chapter(root, name)
    for template, path in targets.items():
        write_text(path, _filled((_TEMPLATES / template).read_text(encoding="utf-8"), name))
    written = list(targets.values())
    if chapter_map is not None:
        write_text(_map_path(root), chapter_map)
        written.append(_map_path(root))
    return written


def title_of(name: str) -> str:
    """ "My topic" for "25_my_topic"."""
    return name[3:].replace("_", " ").capitalize()


def _filled(template: str, name: str) -> str:
    values = {"name": name, "number": name[:2], "topic": name[3:], "title": title_of(name)}
    for key, value in values.items():
        template = template.replace("{{" + key + "}}", value)
    return template


def _map_path(root: Path) -> Path:
    return root / "course_lib" / "chapters.py"


def _with_chapter(root: Path, name: str) -> str | None:
    """The text of the chapter map with this chapter in its place; None where it is planned already.

    Raises SourceError where the number or the topic belongs to another chapter.
    """
    text = _map_path(root).read_text(encoding="utf-8")
    rows = _rows(text)
    if any(row_name == name for row_name, _ in rows):
        return None
    for row_name, _ in rows:
        if row_name[:2] == name[:2] or row_name[3:] == name[3:]:
            raise SourceError(f"{name}: its number or topic belongs to {row_name}; choose another")
    row = f'    Chapter("{name}", "{title_of(name)}", "what it builds, in a few words"),'
    lines = text.split("\n")
    earlier = [end for row_name, end in rows if row_name < name]
    lines.insert(max(earlier, default=_first_line(text)), row)
    return "\n".join(lines)


def _rows(text: str) -> list[tuple[str, int]]:
    """(name, last line) of every chapter in the map; lines count from 1."""
    rows = []
    for call in _map_tuple(text).elts:
        first = call.args[0] if isinstance(call, ast.Call) and call.args else None
        if isinstance(first, ast.Constant) and call.end_lineno is not None:
            rows.append((str(first.value), call.end_lineno))
    return rows


def _first_line(text: str) -> int:
    return _map_tuple(text).lineno


def _map_tuple(text: str) -> ast.Tuple:
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) == "CHAPTERS":
            assert isinstance(statement.value, ast.Tuple)
            return statement.value
    raise SourceError("course_lib/chapters.py has no CHAPTERS; restore it from the repository")
