"""Real text that every machine has: it comes with Python.

Python's reference manual is English prose, and the standard library is code. Both change from one Python
version to the next, so take counts and merges from them as they come and never expect certain digits. There
is no Chinese among them; for that, take translated stories from `course_lib.data.story_world`.
"""

from __future__ import annotations

import re
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path

_GRAMMAR = re.compile(r"::=|^\s*\||^\s*[>+*]|[-=~*+]{4,}|^\[\d+\]")
_PROSE_LETTERS = 0.7


def reference_prose(*, paragraphs_only: bool = True) -> str:
    """The language reference that `help()` shows, as one str: some 465,000 characters, topics by name.

    With `paragraphs_only` tables, grammar, code and headings are left out and each paragraph is one line,
    which leaves about half.
    """
    from pydoc_data.topics import topics

    texts = [topics[name] for name in sorted(topics)]
    if not paragraphs_only:
        return "\n\n".join(texts)
    return "\n".join(paragraph for text in texts for paragraph in _paragraphs(text))


def _paragraphs(text: str) -> Iterator[str]:
    """The blocks between blank lines that read as prose, each as one line."""
    for block in re.split(r"\n\s*\n", text):
        if _is_prose(block):
            yield " ".join(block.split())


def _is_prose(block: str) -> bool:
    """Whether a block has a full stop at its end and is mostly letters, with little indentation."""
    if not block.rstrip().endswith((".", ":")) or any(_GRAMMAR.search(line) for line in block.splitlines()):
        return False
    indentation = len(block.strip("\n")) - len(block.strip("\n").lstrip())
    letters = sum(character.isalpha() for character in block)
    marks = sum(not character.isspace() for character in block)
    return indentation <= 3 and len(block.split()) >= 8 and letters >= _PROSE_LETTERS * marks


def python_source(megabytes: float = 1.0) -> str:
    """The source of the standard library's modules, in a fixed order, cut at `megabytes` · 10⁶ characters.

    Raises `ValueError` if that is not above 0 or is more than this Python has.
    """
    return "".join(python_files(megabytes))


def python_files(megabytes: float = 1.0) -> list[str]:
    """As `python_source`, one str a file; the last one is cut short."""
    if not megabytes > 0:
        raise ValueError(f"megabytes={megabytes} must be above 0")
    wanted = int(megabytes * 1_000_000)
    texts: list[str] = []
    for path in _source_paths():
        if wanted <= 0:
            return texts
        texts.append(_read(path)[:wanted])
        wanted -= len(texts[-1])
    if wanted > 0:
        found = sum(map(len, texts)) / 1_000_000
        raise ValueError(f"this Python's library has {found:.1f} MB of source, not {megabytes}; ask for less")
    return texts


def _source_paths() -> Iterator[Path]:
    """The modules at the top of the library, then those in its packages, without tests and installed ones."""
    root = Path(sysconfig.get_path("stdlib"))
    # The build's settings are a module too, and name this machine's folders.
    yield from (path for path in sorted(root.glob("*.py")) if not path.name.startswith("_sysconfigdata"))
    skipped = {"site-packages", "dist-packages", "test", "tests", "__pycache__"}
    for path in sorted(root.glob("*/**/*.py")):
        if skipped.isdisjoint(path.relative_to(root).parts):
            yield path


def _read(path: Path) -> str:
    """A source file as Python reads it, in the encoding that it declares."""
    with tokenize.open(path) as file:
        return file.read()
