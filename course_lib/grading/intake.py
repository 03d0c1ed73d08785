"""Submissions, from whatever form they arrive in: folders, single notebooks, a zip, an LMS's export.

What is understood, in a folder or in a zip, with or without one folder around it all:

- a folder for each learner: `anna/06_attention.ipynb`, at any depth below;
- single notebooks: `anna_06_attention.ipynb`, `06_attention-anna.ipynb`;
- Moodle: `Anna Berg_1234567_assignsubmission_file_/06_attention.ipynb`, or the same without the folder;
- Canvas: `berganna_LATE_12345_67890_06_attention-1.ipynb`;
- nbgrader: `submitted/anna/week6/06_attention.ipynb` with `timestamp.txt`.

Nothing is written to the disk and nothing is trusted: names and sizes are those a learner or a damaged
archive may have chosen. What cannot be taken is a `Refused` record with a reason, and the rest goes on.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import IO
from zoneinfo import ZoneInfo

from .graft import MAX_BYTES


@dataclass(frozen=True)
class Limits:
    """What is read at most.

    member_bytes: of one notebook. total_bytes: of all members of an archive, unpacked. members: files in
    a folder or an archive. ratio: unpacked to packed size of one member above `ratio_from` bytes.
    directory_bytes: of an archive's table of contents. depth: folders inside each other.
    """

    member_bytes: int = MAX_BYTES
    total_bytes: int = 8 * 2**30
    members: int = 20_000
    ratio: int = 200
    ratio_from: int = 2**20
    directory_bytes: int = 8 * 2**20
    depth: int = 12


@dataclass(frozen=True)
class Submission:
    """One notebook as it was handed in.

    learner: name that identifies the learner within this intake. name: path inside the folder or archive.
    received: when it was handed in, in UTC, or None where the export does not tell: Moodle and Canvas date
    their files to the moment of the download. Else nbgrader's timestamp, or the time of the file. late:
    whether the LMS marked it so, as Canvas does. sha256: of `raw`, in hexadecimal. version: number that an
    LMS or a browser added to the name of a later copy.
    """

    learner: str
    chapter: str
    name: str
    received: datetime | None
    late: bool
    sha256: str
    raw: bytes
    version: int = 0


@dataclass(frozen=True)
class Refused:
    """A file that was not taken, and why, in one sentence."""

    name: str
    reason: str


def read_submissions(
    path: Path, chapters: Sequence[str], *, limits: Limits | None = None, zone: tzinfo | None = None
) -> Iterator[Submission | Refused]:
    """Every notebook of these chapters below a folder, in a zip, or the single one in a file.

    chapters: names such as "06_attention". zone: of the clock that a zip's times were written by, where
    the zip does not say; this computer's when None. Notebooks come chapter by chapter. They are read one at
    a time, as they are asked for, and none is kept. All of a learner's copies are yielded; the gradebook says
    which one counts. Raises ValueError without a chapter.
    """
    if not chapters:
        raise ValueError("chapters is empty; give at least one, such as '06_attention'")
    return _read(path, tuple(chapters), limits or Limits(), zone)


def _read(
    path: Path, chapters: tuple[str, ...], limits: Limits, zone: tzinfo | None
) -> Iterator[Submission | Refused]:
    with ExitStack() as stack:
        try:
            found = list(_entries(path, limits, zone, stack))
        except _Unusable as error:
            yield Refused(_clean(path.name), str(error))
            return
        yield from (item for item in found if isinstance(item, Refused))
        entries = [item for item in found if isinstance(item, _Entry)]
        submitted = [entry for entry in entries if len(entry.parts) > 1 and entry.parts[0] == "submitted"]
        yield from _submissions(submitted or entries, chapters, path)
        for entry in entries if submitted else ():
            if entry.parts[0] != "submitted" and _suffix(entry.parts) == ".ipynb":
                yield Refused(_shown(entry.parts), "It lies outside of the folder `submitted`.")


# --- Files of a folder or an archive -----------------------------------------------------------------------


class _Unusable(Exception):
    """Why a file was not taken, in one sentence."""


@dataclass(frozen=True)
class _Entry:
    """A regular file that may be read. read: its bytes; raises _Unusable."""

    parts: tuple[str, ...]
    modified: datetime | None
    read: Callable[[], bytes]


def _entries(path: Path, limits: Limits, zone: tzinfo | None, stack: ExitStack) -> Iterator[_Entry | Refused]:
    try:
        kind = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise _Unusable(f"It cannot be opened: {_reason(error)}.") from None
    if stat.S_ISDIR(kind):
        yield from _folder_entries(path, limits)
    elif not stat.S_ISREG(kind):
        raise _Unusable("It is neither a folder nor a regular file.")
    elif path.suffix.lower() == ".ipynb":
        # The file that the staff named may be a link; what it leads to is read.
        yield _file_entry(path.resolve(), (path.name,), limits)
    else:
        yield from _archive_entries(path, limits, zone, stack)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__


def _folder_entries(root: Path, limits: Limits) -> Iterator[_Entry | Refused]:
    """The regular files below a folder, in the order of their names; links are never followed."""
    waiting: list[tuple[Path, tuple[str, ...]]] = [(root, ())]
    count = 0
    while waiting:
        folder, parts = waiting.pop()
        try:
            with os.scandir(folder) as listing:
                children = sorted(listing, key=lambda child: child.name)
        except OSError as error:
            yield Refused(_shown(parts) or _clean(root.name), f"It cannot be opened: {_reason(error)}.")
            continue
        below: list[tuple[Path, tuple[str, ...]]] = []
        for child in children:
            count += 1
            if count > limits.members:
                yield Refused(_shown(parts), f"The folder holds more than {limits.members:,} files.")
                return
            inside = (*parts, child.name)
            if _is_ignored(inside):
                continue
            if child.is_dir(follow_symlinks=False) and len(inside) <= limits.depth:
                below.append((Path(child.path), inside))
            else:
                yield _child_entry(child, inside, limits)
        waiting += reversed(below)


def _child_entry(child: os.DirEntry[str], parts: tuple[str, ...], limits: Limits) -> _Entry | Refused:
    if child.is_symlink():
        return Refused(_shown(parts), "It is a symbolic link; only the files themselves are read.")
    if child.is_dir(follow_symlinks=False):
        return Refused(_shown(parts), f"It lies more than {limits.depth} folders deep.")
    if not child.is_file(follow_symlinks=False):
        return Refused(_shown(parts), "It is not a regular file.")
    return _file_entry(Path(child.path), parts, limits)


def _file_entry(path: Path, parts: tuple[str, ...], limits: Limits) -> _Entry:
    try:
        modified = _time(path.stat(follow_symlinks=False).st_mtime)
    except OSError:
        modified = None
    return _Entry(parts, modified, lambda: _file_bytes(path, limits.member_bytes))


def _time(seconds: float) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError, ValueError):
        return None


# Neither a link nor a pipe that took a file's place since it was listed can lead away or block.
_SAFELY = (
    getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)


def _file_bytes(path: Path, limit: int) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | _SAFELY)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _Unusable("It is not a regular file.")
            return _capped(file, limit)
    except OSError as error:
        raise _Unusable(f"It cannot be read: {_reason(error)}.") from None


def _capped(file: IO[bytes], limit: int) -> bytes:
    # In pieces: a single read of `limit` takes that much memory at once, however small the file is.
    pieces, left = list[bytes](), limit + 1
    while left > 0 and (piece := file.read(min(left, 2**20))):
        pieces.append(piece)
        left -= len(piece)
    raw = b"".join(pieces)
    if len(raw) > limit:
        raise _Unusable(f"It is larger than the {limit:,} bytes that are read.")
    return raw


# --- Zip archives ------------------------------------------------------------------------------------------


class _SmallReads:
    """A file whose single reads are capped, as long as `limit` is set.

    zipfile reads an archive's table of contents at once, however long the archive says that it is.
    """

    def __init__(self, file: IO[bytes], limit: int) -> None:
        self._file = file
        self.limit: int | None = limit
        self.seek, self.tell, self.close, self.seekable = file.seek, file.tell, file.close, file.seekable

    def read(self, size: int = -1) -> bytes:
        if self.limit is None:
            return self._file.read(size)
        raw = self._file.read(self.limit + 1 if size < 0 else min(size, self.limit + 1))
        if len(raw) > self.limit:
            raise _Unusable(f"The archive's table of contents is larger than {self.limit:,} bytes.")
        return raw


# What zipfile and zlib raise for damaged archives, and for kinds of packing that they do not know.
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError)


def _archive_entries(
    path: Path, limits: Limits, zone: tzinfo | None, stack: ExitStack
) -> Iterator[_Entry | Refused]:
    try:
        # Read at least as much at once as the search for the archive's end does.
        file = _SmallReads(stack.enter_context(path.open("rb")), max(limits.directory_bytes, 2**17))
        archive = stack.enter_context(zipfile.ZipFile(file))  # type: ignore[call-overload]
    except OSError as error:
        raise _Unusable(f"It cannot be read: {_reason(error)}.") from None
    except _DAMAGED:
        raise _Unusable("It is neither a notebook nor a readable zip archive.") from None
    file.limit = None
    members = archive.infolist()
    if len(members) > limits.members:
        raise _Unusable(f"The archive holds {len(members):,} files; at most {limits.members:,} are read.")
    budget = _Budget(limits.total_bytes)
    for member in members:
        parts = tuple(part for part in member.filename.split("/") if part not in ("", "."))
        safe = _is_safe(member.filename) and _is_safe(member.orig_filename)
        if safe and (member.is_dir() or _is_ignored(parts)):
            continue
        refusal = _member_refusal(member, limits) if safe else "Its name is no plain path inside the archive."
        if refusal:
            yield Refused(_clean(member.filename), refusal)
        else:
            yield _Entry(parts, _member_time(member, zone), _member_reader(archive, member, limits, budget))


@dataclass
class _Budget:
    """What may still be unpacked from an archive, in bytes."""

    left: int


def _member_refusal(member: zipfile.ZipInfo, limits: Limits) -> str | None:
    """Why a member of an archive is not read, as far as the table of contents tells, else None."""
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return "It is a symbolic link; only the files themselves are read."
    if kind not in (0, stat.S_IFREG):
        return "It is not a regular file."
    if member.flag_bits & 0x1:
        return "It is encrypted; hand it in without a password."
    if member.filename.count("/") > limits.depth:
        return f"It lies more than {limits.depth} folders deep."
    if not member.filename.lower().endswith((".ipynb", ".txt")):
        return None  # It will not be read; its name alone decides whether it is reported.
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "It was packed in an unusual way; pack it again as an ordinary zip."
    if member.file_size > limits.member_bytes:
        return f"It is larger than the {limits.member_bytes:,} bytes that are read."
    ratio = member.file_size / max(member.compress_size, 1)
    if member.file_size > limits.ratio_from and ratio > limits.ratio:
        return f"It unpacks to more than {limits.ratio} times its size, as zip bombs do."
    return None


_MAX_NAME = 255  # Of one file, as on the usual file systems.


def _is_safe(name: str) -> bool:
    """Whether a member's name is a plain path inside the archive, on every system."""
    parts = name.split("/")
    if name.startswith("/") or "\\" in name or "\0" in name or re.match(r"[A-Za-z]:", name):
        return False
    plain = any(part not in ("", ".") for part in parts)
    return plain and ".." not in parts and all(len(part) <= _MAX_NAME for part in parts)


def _member_time(member: zipfile.ZipInfo, zone: tzinfo | None) -> datetime | None:
    """When a member was last changed: by its Unix time where it has one, else by a clock in `zone`."""
    seconds = _unix_time(member.extra)
    if seconds is not None:
        return _time(seconds)
    try:
        year, month, day, hour, minute, second = member.date_time
        moment = datetime(year, month, day, hour, minute, tzinfo=zone) + timedelta(seconds=second)
        return None if year <= 1980 else moment.astimezone(UTC)  # 1980: no time was given.
    except (ValueError, OverflowError, OSError):
        return None


_EXTENDED_TIMESTAMP = 0x5455  # Info-ZIP's extra field: a byte of flags, then seconds since 1970.


def _unix_time(extra: bytes) -> int | None:
    """The time of modification in a member's extra fields, in seconds since 1970."""
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        content, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == _EXTENDED_TIMESTAMP and len(content) >= 5 and content[0] & 1:
            seconds: int = struct.unpack_from("<i", content, 1)[0]
            return seconds
    return None


def _member_reader(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, limits: Limits, budget: _Budget
) -> Callable[[], bytes]:
    def read() -> bytes:
        if member.file_size > budget.left:
            raise _Unusable(f"The archive unpacks to more than {limits.total_bytes:,} bytes.")
        try:
            with archive.open(member) as file:
                raw = _capped(file, limits.member_bytes)
        except _DAMAGED:
            raise _Unusable("It is damaged in the archive and cannot be unpacked.") from None
        budget.left -= len(raw)
        return raw

    return read


# --- Whose it is, and of which chapter ---------------------------------------------------------------------


@dataclass(frozen=True)
class _Identity:
    learner: str
    chapter: str
    version: int = 0
    late: bool = False
    guessed: bool = False
    dated: bool = True  # whether the time of the file says when it was handed in


_ARCHIVE_SUFFIXES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
_SYSTEM_FOLDERS = {"__MACOSX"}


def _is_ignored(parts: tuple[str, ...]) -> bool:
    """What systems and Jupyter leave about: hidden files, saved checkpoints."""
    return any(part in _SYSTEM_FOLDERS or part.startswith(".") for part in parts)


def _submissions(
    entries: Sequence[_Entry], chapters: tuple[str, ...], path: Path
) -> Iterator[Submission | Refused]:
    wrapper = _wrapper(entries, chapters)
    owners = {
        entry.parts: _identify(entry.parts[wrapper:], chapters, path)
        for entry in entries
        if _suffix(entry.parts) == ".ipynb"
    }
    named = {owner.learner for owner in owners.values() if owner and not owner.guessed}
    stamps = _stamps(entries, path)
    # By chapter: who grades them prepares for each chapter once.
    for entry in sorted(entries, key=lambda entry: getattr(owners.get(entry.parts), "chapter", "")):
        owner = owners.get(entry.parts)
        if _suffix(entry.parts) in _ARCHIVE_SUFFIXES:
            yield Refused(
                _shown(entry.parts), "It is an archive inside another; hand in the notebook itself."
            )
        elif owner and not (owner.guessed and owner.learner in named):
            yield _submission(entry, owner, stamps.get(entry.parts[:-1]))
        elif _suffix(entry.parts) == ".ipynb":
            expected = " or ".join(chapters)
            yield Refused(
                _shown(entry.parts), f"Its name does not say for which chapter it is; expected {expected}."
            )
    yield from _without_notebook(entries, wrapper)


def _suffix(parts: tuple[str, ...]) -> str:
    return PurePosixPath(parts[-1]).suffix.lower()


def _stamps(entries: Sequence[_Entry], path: Path) -> dict[tuple[str, ...], _Entry]:
    """The `timestamp.txt` of each folder, in nbgrader's own layout only: elsewhere the learner wrote it."""
    inside = "submitted" in (path.name, path.stem)
    stamps = [entry for entry in entries if entry.parts[-1] == "timestamp.txt"]
    return {
        entry.parts[:-1]: entry
        for entry in stamps
        if (len(entry.parts) == 4 and entry.parts[0] == "submitted") or (len(entry.parts) == 3 and inside)
    }


def _submission(entry: _Entry, owner: _Identity, stamp: _Entry | None) -> Submission | Refused:
    name = _shown(entry.parts)
    try:
        raw = entry.read()
    except _Unusable as error:
        return Refused(name, str(error))
    received = (_timestamp(stamp) if stamp else None) or (entry.modified if owner.dated else None)
    digest = sha256(raw).hexdigest()
    return Submission(owner.learner, owner.chapter, name, received, owner.late, digest, raw, owner.version)


def _without_notebook(entries: Sequence[_Entry], wrapper: int) -> Iterator[Refused]:
    """One record for each learner's folder that holds files and no notebook: nothing is lost silently."""
    nested = [entry.parts for entry in entries if len(entry.parts) > wrapper + 1]
    given = {
        parts[: wrapper + 1] for parts in nested if parts[-1].lower().endswith((".ipynb", *_ARCHIVE_SUFFIXES))
    }
    for folder in dict.fromkeys(parts[: wrapper + 1] for parts in nested):
        if folder not in given:
            yield Refused(_shown(folder), "The folder holds no notebook.")


def _wrapper(entries: Sequence[_Entry], chapters: tuple[str, ...]) -> int:
    """How many folders lie around everything: none, or one that is not a learner's own.

    One is around everything if it is nbgrader's `submitted`, if what lies in it carries an LMS's names, or
    if the same notebook lies in at least two folders in it: those are the learners'. So one learner alone,
    `export/anna/06_attention.ipynb`, is read as the learner `export`.
    """
    notebooks = [entry.parts for entry in entries if _suffix(entry.parts) == ".ipynb"]
    tops = {parts[0] for parts in notebooks if len(parts) > 1}
    if len(tops) != 1 or any(len(parts) == 1 for parts in notebooks):
        return 0
    top = tops.pop()
    if top == "submitted":
        return 1
    if _MOODLE.match(top):
        return 0
    if all(_MOODLE.match(parts[1]) for parts in notebooks):
        return 1
    if all(len(parts) == 2 for parts in notebooks):
        return int(_are_flat([PurePosixPath(parts[1]).stem for parts in notebooks], chapters))
    folders = [parts[1:] for parts in notebooks if len(parts) > 2 and parts[1] not in chapters]
    names = {(parts[0], parts[-1]) for parts in folders}
    return 1 if len(names) > len({name for _, name in names}) else 0


def _are_flat(stems: Sequence[str], chapters: tuple[str, ...]) -> bool:
    """Whether the notebooks of one folder are those of several learners: each name says whose it is."""
    if all(_CANVAS.match(stem) for stem in stems):
        return True
    return len(stems) > 1 and all(_flat_identity(stem, chapters) for stem in stems)


_MOODLE = re.compile(r"(?P<learner>.+?_\d+)_assignsubmission_file_?(?P<file>.*)\Z", re.DOTALL)
_CANVAS = re.compile(
    r"(?P<learner>[^_]+)_(?P<late>LATE_)?(?P<user>\d+)_(?P<submission>\d+)_(?P<file>.+)\Z", re.DOTALL
)


def _identify(parts: tuple[str, ...], chapters: tuple[str, ...], path: Path) -> _Identity | None:
    """Whose notebook lies at a path, and of which chapter; None where the chapter cannot be told.

    The first part of a path is what the LMS or the staff named; names further in are the learner's choice,
    and never say whose it is.
    """
    stem = PurePosixPath(parts[-1]).stem
    top = parts[0] if len(parts) > 1 else stem
    moodle = _MOODLE.match(top)
    if moodle:
        file, folders = (stem, parts[1:-1]) if len(parts) > 1 else (moodle["file"], ())
        owner = _with_chapter(moodle["learner"], file, folders, chapters)
        return replace(owner, dated=False) if owner else None
    if len(parts) > 1:
        return _with_chapter(top, stem, parts[1:-1], chapters)
    return _flat_identity(stem, chapters) or _lone_identity(stem, chapters, path)


def _with_chapter(
    learner: str, stem: str, folders: Sequence[str], chapters: tuple[str, ...]
) -> _Identity | None:
    """The chapter from a notebook's name, else from its assignment's folder, else the only one there is.

    The last is a guess: it holds only for a name that names no other chapter, and only as long as the same
    learner has no notebook that is named.
    """
    found = _in_name(stem, chapters)
    if found:
        return _Identity(_clean(learner), found[0], found[1])
    for folder in reversed(folders):
        if folder in chapters:
            return _Identity(_clean(learner), folder)
    if len(chapters) == 1 and not re.search(r"(?:\A|[ _-])\d\d[ _-]", stem):
        return _Identity(_clean(learner), chapters[0], guessed=True)
    return None


def _flat_identity(stem: str, chapters: tuple[str, ...]) -> _Identity | None:
    """Of a notebook in no folder, where its name says whose it is, else None."""
    canvas = _CANVAS.match(stem)
    if canvas:
        owner = _with_chapter(f"{canvas['learner']}_{canvas['user']}", canvas["file"], (), chapters)
        return replace(owner, late=bool(canvas["late"]), dated=False) if owner else None
    found = _in_name(stem, chapters)
    return _Identity(_clean(found[2]), found[0], found[1]) if found and found[2] else None


def _lone_identity(stem: str, chapters: tuple[str, ...], path: Path) -> _Identity | None:
    """Of a notebook in no folder: `06_attention` in anna's folder or zip, or `anna` for the only chapter."""
    if not _in_name(stem, chapters):
        return _with_chapter(stem, stem, (), chapters)
    where = path.absolute().parent if path.suffix.lower() == ".ipynb" and path.is_file() else path.absolute()
    return _with_chapter(where.name if where.is_dir() else where.stem, stem, (), chapters)


def _in_name(stem: str, chapters: tuple[str, ...]) -> tuple[str, int, str] | None:
    """(chapter, version, what else the name holds) where a file's name holds a chapter's, else None."""
    for chapter in sorted(chapters, key=len, reverse=True):
        match = re.match(
            rf"(?P<before>.*[ _-])?{re.escape(chapter)}(?P<after>[ _-].*?)??"
            r"(?:-(?P<resubmitted>\d{1,6})| ?\((?P<copied>\d{1,6})\))?\Z",
            stem,
            re.IGNORECASE | re.DOTALL,
        )
        if match:
            rest = f"{match['before'] or ''} {match['after'] or ''}".strip(" _-")
            return chapter, int(match["resubmitted"] or match["copied"] or 0), rest
    return None


# --- Names and times ---------------------------------------------------------------------------------------


def _clean(name: str) -> str:
    """A name that can be stored and shown: composed Unicode, with what cannot be shown escaped."""
    text = unicodedata.normalize("NFC", name).encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(character if character.isprintable() else f"\\u{ord(character):04x}" for character in text)


def _shown(parts: Iterable[str]) -> str:
    return _clean("/".join(parts))


_STAMP = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.\d+)?(?: ?(\S+))?\Z")


def _timestamp(entry: _Entry) -> datetime | None:
    """The time in nbgrader's timestamp.txt, such as "2026-02-02 15:58:23.948203 Europe/Vienna"."""
    try:
        match = _STAMP.match(entry.read()[:200].decode("ascii").strip())
    except (_Unusable, UnicodeDecodeError):
        return None
    if not match:
        return None
    try:
        moment = datetime.fromisoformat(f"{match[1]} {match[2]}")
        zone = match[3] or "UTC"
        if re.fullmatch(r"[+-]\d\d:?\d\d", zone):
            return datetime.fromisoformat(f"{match[1]} {match[2]}{zone[:3]}:{zone[-2:]}").astimezone(UTC)
        return moment.replace(tzinfo=UTC if zone == "UTC" else ZoneInfo(zone)).astimezone(UTC)
    except (ValueError, OSError, KeyError, OverflowError):
        return None
