"""The learners' feedback pages on the disk: one folder for each learner, one page for each assignment."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..atomic import write_text
from .book import Row
from .feedback import page

LONGEST_NAME = 60
# Each write waits for the disk; a disk takes many at once in about the time of one.
WRITES_AT_ONCE = 16


def write_pages(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write a page for each row, one that is the same already is left alone; the paths.

    Raises DiskFull, or the OSError of the folder.
    """

    def write(row: Row) -> Path:
        path = folder / folder_name(row.learner) / f"{row.assignment}.html"
        text = page(row)
        if not _holds(path, text):
            write_text(path, text)
        return path

    with ThreadPoolExecutor(WRITES_AT_ONCE) as threads:
        return list(threads.map(write, rows))


def folder_name(learner: str) -> str:
    """A name that every file system takes, and that no two learners share.

    A name of plain letters and digits stays; of any other, a short hash tells it from its likes.
    """
    plain = unicodedata.normalize("NFKC", learner)
    safe = re.sub(r"[^\w@+=-]+", "_", plain).strip("_")[:LONGEST_NAME]
    if safe == learner and safe.lower() == safe and safe.upper().rstrip("0123456789") not in _RESERVED:
        return safe
    digest = hashlib.sha256(learner.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{safe}-{digest}" if safe else digest


# Windows has no files of these names.
_RESERVED = {"CON", "PRN", "AUX", "NUL", "COM", "LPT"}


def _holds(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") == text
    except (OSError, ValueError):
        return False
