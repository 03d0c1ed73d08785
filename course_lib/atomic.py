"""Writing a file so that it is either the old one or the new one, whole, whatever happens in between."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from pathlib import Path

FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


class DiskFull(OSError):
    """There is no room for a file; its message says which one, and that the old one is untouched."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            errno.ENOSPC, f"The disk is full: {path} was not written, and what it held is unchanged"
        )
        self.path = path

    def __str__(self) -> str:
        return f"{self.strerror}. Free some space and do it again."


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, atomically; line ends stay as they are. Raises DiskFull, or OSError."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes atomically: a temporary file beside the target, flushed to the disk, then renamed over it.

    Missing folders are made, a symbolic link stays one, and the old file's permissions are kept.
    Raises DiskFull where there is no room, otherwise the OSError of the system; the old file is untouched.
    """
    path = path.resolve()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=".new")
    except OSError as error:
        raise _clear(error, path) from error
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(_permissions(path))
        temporary.replace(path)
    except OSError as error:
        raise _clear(error, path) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    _flush_folder(path.parent)


def _clear(error: OSError, path: Path) -> OSError:
    return DiskFull(path) if error.errno in FULL else error


def _permissions(path: Path) -> int:
    """Those of the old file; for a new one what the user's umask leaves, where mkstemp would give 0600."""
    if path.exists():
        return path.stat().st_mode & 0o7777
    umask = os.umask(0o077)
    os.umask(umask)
    return 0o666 & ~umask


def _flush_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut; Windows neither needs nor allows it."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):  # some network file systems refuse; the file itself is safe
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
