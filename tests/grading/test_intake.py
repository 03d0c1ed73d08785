"""Every form of handing in is understood, and nothing in a folder or an archive harms the rest.

Oracles: the names that Moodle, Canvas and nbgrader write, and archives made by zipfile and patched by hand.
"""

from __future__ import annotations

import io
import os
import socket
import stat
import struct
import sys
import tracemalloc
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.grading import intake
from course_lib.grading.intake import Limits, Refused, Submission, read_submissions

CHAPTERS = ("00_welcome", "06_attention")
ONE = ("06_attention",)
RAW = b'{"nbformat": 4, "cells": []}'
WHEN = datetime(2026, 3, 1, 12, 30, 10, tzinfo=UTC)


def put(root: Path, name: str, raw: bytes = RAW, when: datetime = WHEN) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)
    os.utime(path, (when.timestamp(), when.timestamp()))
    return path


def member(name: str, when: datetime = WHEN, mode: int = stat.S_IFREG | 0o644) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, when.timetuple()[:6])
    info.external_attr = mode << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


def pack(path: Path, *members: str | tuple[zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for item in members:
            archive.writestr(*(item if isinstance(item, tuple) else (member(item), RAW)))
    return path


def in_form(root: Path, form: str, names: list[str]) -> Path:
    """The same files as a folder, or as a zip, with or without one folder around them."""
    if form == "folder":
        for name in names:
            put(root / "all", name)
        return root / "all"
    around = "export 2026/" if form == "wrapped zip" else ""
    return pack(root / "all.zip", *(around + name for name in names))


def read(
    path: Path, chapters: tuple[str, ...] = CHAPTERS, limits: Limits | None = None
) -> tuple[list[Submission], dict[str, str]]:
    records = list(read_submissions(path, chapters, limits=limits, zone=UTC))
    refused = {record.name: record.reason for record in records if isinstance(record, Refused)}
    for reason in refused.values():
        assert reason.endswith(".") and reason.count(". ") == 0 and len(reason) < 140
    return [record for record in records if isinstance(record, Submission)], refused


def owners(path: Path, chapters: tuple[str, ...] = CHAPTERS) -> list[tuple[str, str]]:
    submissions, refused = read(path, chapters)
    assert not refused
    return sorted((submission.learner, submission.chapter) for submission in submissions)


BOTH = [("anna", "06_attention"), ("ben", "06_attention")]
FORMS = pytest.mark.parametrize("form", ["folder", "zip", "wrapped zip"])

# --- Forms of handing in -----------------------------------------------------------------------------------


@FORMS
def test_a_folder_for_each_learner(tmp_path: Path, form: str) -> None:
    path = in_form(
        tmp_path, form, ["anna/06_attention.ipynb", "anna/00_welcome.ipynb", "ben/06_attention.ipynb"]
    )
    assert owners(path) == sorted([*BOTH, ("anna", "00_welcome")])


@FORMS
@pytest.mark.parametrize(
    "names",
    [
        ["anna_06_attention.ipynb", "ben 06_attention.ipynb"],
        ["06_attention-anna.ipynb", "06_attention_ben.ipynb"],
        ["anna-06_ATTENTION (1).ipynb", "06_attention ben.ipynb"],
    ],
)
def test_single_notebooks_named_for_their_learners(tmp_path: Path, form: str, names: list[str]) -> None:
    assert owners(in_form(tmp_path, form, names)) == BOTH


def test_single_notebooks_that_only_name_the_learner_belong_to_the_only_chapter(tmp_path: Path) -> None:
    for name in ("anna.ipynb", "ben.ipynb"):
        put(tmp_path, name)
    assert owners(tmp_path, ONE) == BOTH
    assert len(read(tmp_path, CHAPTERS)[1]) == 2


@FORMS
@pytest.mark.parametrize("folder", ["/", "_"])
def test_a_moodle_export(tmp_path: Path, form: str, folder: str) -> None:
    people = ["Anna Berg_1234567", "Ülle Õun_1234568"]
    path = in_form(
        tmp_path, form, [f"{who}_assignsubmission_file_{folder}06_attention.ipynb" for who in people]
    )
    assert owners(path) == [(who, "06_attention") for who in people]


@FORMS
def test_a_canvas_export(tmp_path: Path, form: str) -> None:
    names = [
        "berganna_12345_67890_06_attention.ipynb",
        "berganna_LATE_12345_67891_06_attention-1.ipynb",
        "oun_23456_67892_06_attention-2.ipynb",
    ]
    submissions, refused = read(in_form(tmp_path, form, names))
    assert not refused
    assert [(one.learner, one.late, one.version) for one in submissions] == [
        ("berganna_12345", False, 0),
        ("berganna_12345", True, 1),
        ("oun_23456", False, 2),
    ]


@pytest.mark.parametrize("start", [".", "submitted"])
@pytest.mark.parametrize(
    ("stamp", "expected"),
    [
        ("2026-02-02 15:58:23.948203 UTC", (15, 58, 23)),
        ("2026-02-02 15:58:23.948203 Europe/Vienna", (14, 58, 23)),
        ("2026-02-02 15:58:23 -0500\n", (20, 58, 23)),
    ],
)
def test_an_nbgrader_course_with_its_timestamps(
    tmp_path: Path, start: str, stamp: str, expected: tuple[int, int, int]
) -> None:
    for learner in ("anna", "ben"):
        put(tmp_path, f"submitted/{learner}/week6/06_attention.ipynb")
        put(tmp_path, f"submitted/{learner}/week6/timestamp.txt", stamp.encode())
    submissions, refused = read(tmp_path / start)
    assert not refused
    assert [(one.learner, one.received) for one in submissions] == [
        (learner, datetime(2026, 2, 2, *expected, tzinfo=UTC)) for learner in ("anna", "ben")
    ]


def test_of_an_nbgrader_course_only_the_submitted_notebooks_are_taken(tmp_path: Path) -> None:
    put(tmp_path, "source/week6/06_attention.ipynb")
    put(tmp_path, "submitted/anna/week6/06_attention.ipynb")
    submissions, refused = read(tmp_path)
    assert [one.learner for one in submissions] == ["anna"]
    assert list(refused) == ["source/week6/06_attention.ipynb"]


@pytest.mark.parametrize(
    "stamp", [b"", b"yesterday", b"\xff", b"2026-99-01 00:00:00 UTC", b"2026-01-01 00:00:00 ../x"]
)
def test_a_broken_timestamp_falls_back_to_the_time_of_the_file(tmp_path: Path, stamp: bytes) -> None:
    put(tmp_path, "submitted/anna/week6/06_attention.ipynb")
    put(tmp_path, "submitted/anna/week6/timestamp.txt", stamp)
    assert read(tmp_path)[0][0].received == WHEN


def test_a_timestamp_that_a_learner_put_beside_the_notebook_is_not_believed(tmp_path: Path) -> None:
    for folder in ("Anna_1_assignsubmission_file_", "ben/week6"):
        put(tmp_path, f"{folder}/06_attention.ipynb")
        put(tmp_path, f"{folder}/timestamp.txt", b"2001-01-01 00:00:00 UTC")
    assert [one.received for one in read(tmp_path)[0]] == [None, WHEN]


def test_a_single_notebook_belongs_to_the_folder_it_lies_in(tmp_path: Path) -> None:
    path = put(tmp_path, "anna/06_attention.ipynb")
    assert owners(path) == owners(path.parent) == [BOTH[0]]
    assert owners(pack(tmp_path / "anna.zip", "06_attention.ipynb")) == [BOTH[0]]


@pytest.mark.parametrize(
    ("names", "learner"),
    [
        (["export/Anna Berg_12_assignsubmission_file_/06_attention.ipynb"], "Anna Berg_12"),
        (["export/Anna Berg_12_assignsubmission_file_06_attention.ipynb"], "Anna Berg_12"),
        (["export/berganna_12345_67890_06_attention.ipynb"], "berganna_12345"),
        (["submitted/anna/week6/06_attention.ipynb"], "anna"),
        (["anna/my_06_attention.ipynb"], "anna"),
        (["anna/06_attention.ipynb", "anna/old_06_attention.ipynb"], "anna"),
        (["anna/06_attention/book.ipynb", "anna/00_welcome/book.ipynb"], "anna"),
        (["anna/06_attention/06_attention.ipynb", "anna/06_attention/old/06_attention.ipynb"], "anna"),
    ],
)
@pytest.mark.parametrize("form", ["folder", "zip"])
def test_one_learner_alone_is_told_from_the_folder_around(
    tmp_path: Path, form: str, names: list[str], learner: str
) -> None:
    assert {owner for owner, _ in owners(in_form(tmp_path, form, names))} == {learner}


def test_a_submission_carries_its_bytes_their_hash_and_its_time(tmp_path: Path) -> None:
    put(tmp_path, "anna/06_attention.ipynb", b"\x00any bytes")
    expected = Submission(
        "anna",
        "06_attention",
        "anna/06_attention.ipynb",
        WHEN,
        False,
        sha256(b"\x00any bytes").hexdigest(),
        b"\x00any bytes",
    )
    assert read(tmp_path)[0] == [expected]
    archive = pack(tmp_path / "all.zip", (member("anna/06_attention.ipynb"), b"\x00any bytes"))
    assert read(archive)[0] == [expected]


def test_the_chapter_may_be_named_by_the_folder_of_the_assignment(tmp_path: Path) -> None:
    put(tmp_path, "submitted/anna/06_attention/mine.ipynb")
    assert owners(tmp_path) == [BOTH[0]]


def test_a_renamed_notebook_counts_only_where_it_is_the_only_candidate(tmp_path: Path) -> None:
    put(tmp_path, "anna/Untitled.ipynb")
    put(tmp_path, "ben/Untitled.ipynb")
    put(tmp_path, "ben/06_attention.ipynb")
    put(tmp_path, "ben/07_multihead.ipynb")
    submissions, refused = read(tmp_path, ONE)
    assert [one.name for one in submissions] == ["anna/Untitled.ipynb", "ben/06_attention.ipynb"]
    assert sorted(refused) == ["ben/07_multihead.ipynb", "ben/Untitled.ipynb"]


@pytest.mark.parametrize("name", ["106_attention.ipynb", "06_attention2.ipynb", "07_multihead.ipynb"])
def test_a_name_that_only_resembles_a_chapter_is_refused(tmp_path: Path, name: str) -> None:
    put(tmp_path, f"anna/{name}")
    submissions, refused = read(tmp_path)
    assert not submissions and "00_welcome or 06_attention" in refused[f"anna/{name}"]


def test_names_chosen_by_a_learner_never_say_whose_it_is(tmp_path: Path) -> None:
    put(tmp_path, "Anna_1_assignsubmission_file_/Ben_2_assignsubmission_file_/06_attention.ipynb")
    put(tmp_path, "Anna_1_assignsubmission_file_/ben_LATE_12_34_06_attention.ipynb")
    put(tmp_path, "Anna_1_assignsubmission_file_/submitted/ben/week6/06_attention.ipynb")
    assert {learner for learner, _ in owners(tmp_path)} == {"Anna_1"}


def test_hidden_files_and_checkpoints_are_not_submissions(tmp_path: Path) -> None:
    names = ["anna/06_attention.ipynb", "anna/.ipynb_checkpoints/06_attention-checkpoint.ipynb"]
    names += ["anna/._06_attention.ipynb", "__MACOSX/anna/06_attention.ipynb", ".git/config"]
    for form in ("folder", "zip"):
        assert owners(in_form(tmp_path, form, names)) == [BOTH[0]]


def test_a_learner_who_handed_in_no_notebook_is_reported(tmp_path: Path) -> None:
    put(tmp_path, "anna/06_attention.pdf")
    put(tmp_path, "ben/06_attention.ipynb")
    put(tmp_path, "ben/data.csv")
    submissions, refused = read(tmp_path)
    assert [one.learner for one in submissions] == ["ben"]
    assert refused == {"anna": "The folder holds no notebook."}


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems refuse such names themselves")
def test_names_that_cannot_be_stored_are_escaped_and_stay_apart(tmp_path: Path) -> None:
    for name in (b"an\xff", b"an\xfe", b"an\n"):
        put(tmp_path, f"{os.fsdecode(name)}/06_attention.ipynb")
    learners = {learner for learner, _ in owners(tmp_path)}
    assert len(learners) == 3
    assert all(learner.isprintable() and learner.encode() for learner in learners)


def test_a_decomposed_name_is_the_same_learner(tmp_path: Path) -> None:
    archive = pack(tmp_path / "all.zip", "Zo\u00eb/00_welcome.ipynb", "Zoe\u0308/06_attention.ipynb")
    assert {learner for learner, _ in owners(archive)} == {"Zo\u00eb"}


# --- When it was handed in ---------------------------------------------------------------------------------


@FORMS
@pytest.mark.parametrize(
    "name",
    [
        "Anna Berg_1234567_assignsubmission_file_/06_attention.ipynb",
        "Anna Berg_1234567_assignsubmission_file_06_attention.ipynb",
        "berganna_LATE_12345_67891_06_attention-1.ipynb",
    ],
)
def test_the_time_of_an_export_is_not_when_it_was_handed_in(tmp_path: Path, form: str, name: str) -> None:
    submissions, refused = read(in_form(tmp_path, form, [name]))
    assert not refused
    assert [one.received for one in submissions] == [None]


@FORMS
def test_elsewhere_the_time_of_the_file_counts(tmp_path: Path, form: str) -> None:
    names = ["anna/06_attention.ipynb", "ben/06_attention.ipynb"]
    assert [one.received for one in read(in_form(tmp_path, form, names))[0]] == [WHEN, WHEN]


def test_a_zips_times_are_those_of_a_clock_in_the_zone_that_is_named(tmp_path: Path) -> None:
    path = pack(tmp_path / "all.zip", "anna/06_attention.ipynb")
    for zone in (timezone(timedelta(hours=9)), timezone(timedelta(hours=-5)), None):
        (one,) = read_submissions(path, ONE, zone=zone)
        assert isinstance(one, Submission)
        clock = WHEN.replace(tzinfo=zone).astimezone(UTC)  # the computer's own zone for None
        assert (one.received, one.received and one.received.tzinfo) == (clock, UTC)


@pytest.mark.parametrize("before", [b"", struct.pack("<HH3s", 0x7875, 3, b"\1\0\0")])
def test_a_zip_that_says_its_times_in_utc_is_believed(tmp_path: Path, before: bytes) -> None:
    info = member("anna/06_attention.ipynb", WHEN.replace(hour=20))
    info.extra = before + struct.pack("<HHBi", 0x5455, 5, 1, int(WHEN.timestamp()))
    for zone in (UTC, timezone(timedelta(hours=9))):
        (one,) = read_submissions(pack(tmp_path / "all.zip", (info, RAW)), ONE, zone=zone)
        assert isinstance(one, Submission) and one.received == WHEN


@pytest.mark.parametrize("extra", [b"", b"\x55\x54\x05\0\0\1\2\3\4", b"\x55\x54\x01\0\1", b"\0\0\0\0"])
def test_an_extra_field_without_a_time_leaves_the_members_own(tmp_path: Path, extra: bytes) -> None:
    info = member("anna/06_attention.ipynb")
    info.extra = extra
    assert read(pack(tmp_path / "all.zip", (info, RAW)))[0][0].received == WHEN


def test_all_copies_are_yielded(tmp_path: Path) -> None:
    put(tmp_path, "anna/06_attention.ipynb", b"new", WHEN.replace(hour=13))
    put(tmp_path, "anna/06_attention (2).ipynb", b"old")
    found = [(one.raw, one.version, one.received) for one in read(tmp_path)[0]]
    assert sorted(found) == [(b"new", 0, WHEN.replace(hour=13)), (b"old", 2, WHEN)]


# --- Archives that are not what they say -------------------------------------------------------------------

GOOD = "ben/06_attention.ipynb"


def refusal_in(path: Path, limits: Limits | None = None) -> str:
    """The one refusal in an archive that also holds ben's good notebook, which must have come through."""
    submissions, refused = read(path, limits=limits)
    assert [(one.learner, one.raw) for one in submissions] == [("ben", RAW)]
    (reason,) = refused.values()
    return reason


@pytest.mark.parametrize(
    "name",
    [
        "../06_attention.ipynb",
        "anna/../../06_attention.ipynb",
        "/etc/06_attention.ipynb",
        "C:/06_attention.ipynb",
        "anna\\06_attention.ipynb",
        "..",
        ".",
        "a" * 300 + ".ipynb",
        ".hidden/../../06_attention.ipynb",
    ],
)
def test_a_member_whose_name_is_no_plain_path_is_refused(tmp_path: Path, name: str) -> None:
    before = sorted(tmp_path.rglob("*"))
    info = member("x")
    info.filename = name
    assert "no plain path" in refusal_in(pack(tmp_path / "all.zip", (info, RAW), GOOD))
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "all.zip"])


@pytest.mark.parametrize(
    ("mode", "words"),
    [(stat.S_IFLNK, "symbolic link"), (stat.S_IFIFO, "not a regular"), (stat.S_IFCHR, "not a regular")],
)
def test_a_member_that_is_no_regular_file_is_refused(tmp_path: Path, mode: int, words: str) -> None:
    info = member("anna/06_attention.ipynb", mode=mode | 0o777)
    assert words in refusal_in(pack(tmp_path / "all.zip", (info, b"/etc/passwd"), GOOD))


def test_an_archive_in_an_archive_is_refused(tmp_path: Path) -> None:
    inner = pack(tmp_path / "inner.zip", "06_attention.ipynb").read_bytes()
    assert "archive inside another" in refusal_in(
        pack(tmp_path / "all.zip", (member("anna/06_attention.zip"), inner), GOOD)
    )


def test_an_archive_in_a_folder_is_refused(tmp_path: Path) -> None:
    put(tmp_path, GOOD)
    put(tmp_path, "anna/x.tar.gz")
    assert "archive inside another" in refusal_in(tmp_path)


def test_an_unusual_packing_is_refused(tmp_path: Path) -> None:
    info = member("anna/06_attention.ipynb")
    info.compress_type = zipfile.ZIP_LZMA
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, RAW, compress_type=zipfile.ZIP_LZMA)
        archive.writestr(member(GOOD), RAW)
    assert "unusual way" in refusal_in(path)


def patched(path: Path, *, central: int, local: int, value: bytes) -> Path:
    """The archive with bytes of its first member's two headers replaced."""
    raw = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", local), (b"PK\x01\x02", central)):
        start = raw.index(signature) + offset
        raw[start : start + len(value)] = value
    path.write_bytes(bytes(raw))
    return path


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = pack(tmp_path / "all.zip", "anna/06_attention.ipynb", GOOD)
    assert "encrypted" in refusal_in(patched(path, central=8, local=6, value=b"\x01\x00"))


def test_a_member_that_fails_its_checksum_is_refused(tmp_path: Path) -> None:
    path = pack(tmp_path / "all.zip", "anna/06_attention.ipynb", GOOD)
    assert "damaged" in refusal_in(patched(path, central=16, local=14, value=b"\x01\x02\x03\x04"))


def test_a_member_that_says_it_is_smaller_than_it_is_does_not_unpack_further(tmp_path: Path) -> None:
    path = pack(tmp_path / "all.zip", (member("anna/06_attention.ipynb"), b"0" * 5_000_000), GOOD)
    assert "damaged" in refusal_in(patched(path, central=24, local=22, value=struct.pack("<I", 10)))


def test_a_zip_bomb_is_refused_by_its_ratio(tmp_path: Path) -> None:
    path = pack(tmp_path / "all.zip", (member("anna/06_attention.ipynb"), b"0" * 20_000_000), GOOD)
    assert path.stat().st_size < 50_000
    assert "zip bombs" in refusal_in(path)


def test_a_member_over_the_size_limit_is_refused(tmp_path: Path) -> None:
    path = pack(tmp_path / "all.zip", (member("anna/06_attention.ipynb"), os.urandom(2000)), GOOD)
    assert "1,000 bytes" in refusal_in(path, Limits(member_bytes=1000))


def test_the_total_that_is_unpacked_is_limited(tmp_path: Path) -> None:
    path = pack(
        tmp_path / "all.zip", *((member(f"{who}/06_attention.ipynb"), os.urandom(900)) for who in "abcd")
    )
    submissions, refused = read(path, limits=Limits(total_bytes=2000))
    assert [one.learner for one in submissions] == ["a", "b"]
    assert set(refused) == {"c/06_attention.ipynb", "d/06_attention.ipynb"}
    assert all("more than 2,000 bytes" in reason for reason in refused.values())


def test_the_number_of_files_is_limited(tmp_path: Path) -> None:
    names = [f"{index}/06_attention.ipynb" for index in range(30)]
    archive = in_form(tmp_path, "zip", names)
    submissions, refused = read(archive, limits=Limits(members=20))
    assert not submissions and "30 files" in refused["all.zip"]
    submissions, refused = read(in_form(tmp_path, "folder", names), limits=Limits(members=20))
    assert len(submissions) <= 20 and "more than 20 files" in "".join(refused.values())


def test_a_huge_table_of_contents_is_not_read(tmp_path: Path) -> None:
    path = pack(tmp_path / "all.zip", *(f"{index}/{'a' * 200}.ipynb" for index in range(1000)))
    submissions, refused = read(path, limits=Limits(directory_bytes=200_000))
    assert not submissions and "table of contents" in refused["all.zip"]


def test_a_large_notebook_is_read_although_the_table_of_contents_is_limited(tmp_path: Path) -> None:
    raw = os.urandom(600_000)
    path = pack(tmp_path / "all.zip", (member("anna/06_attention.ipynb"), raw))
    assert read(path, limits=Limits(directory_bytes=1000))[0][0].raw == raw


def test_two_members_of_one_name_are_both_kept(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = pack(tmp_path / "all.zip", GOOD, (member(GOOD), b"second"))
    assert [one.raw for one in read(path)[0]] == [RAW, b"second"]


def test_a_deeply_nested_member_is_refused(tmp_path: Path) -> None:
    assert "12 folders deep" in refusal_in(pack(tmp_path / "all.zip", "a/" * 13 + "06_attention.ipynb", GOOD))


def test_a_time_that_the_archive_does_not_know_is_none(tmp_path: Path) -> None:
    path = pack(tmp_path / "all.zip", (zipfile.ZipInfo(GOOD), RAW))
    assert read(path)[0][0].received is None
    path = patched(pack(tmp_path / "all.zip", GOOD), central=12, local=10, value=b"\xff\xff\xff\xff")
    assert read(path)[0][0].received is None


@pytest.mark.parametrize("raw", [b"", b"PK\x05\x06", b"not a zip", b"PK\x03\x04" + b"\0" * 200])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, raw: bytes) -> None:
    submissions, refused = read(put(tmp_path, "all.zip", raw))
    assert not submissions and list(refused) == ["all.zip"]


def _archive_bytes() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("anna/06_attention.ipynb", GOOD, "submitted/x/timestamp.txt"):
            archive.writestr(member(name), RAW * 20)
    return buffer.getvalue()


ARCHIVE = _archive_bytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@settings(max_examples=400, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, len(ARCHIVE)), st.integers(0, 3), st.binary(max_size=4)),
        min_size=1,
        max_size=6,
    )
)
def test_a_damaged_archive_never_raises(scratch: Path, changes: list[tuple[int, int, bytes]]) -> None:
    raw = bytearray(ARCHIVE)
    for start, length, replacement in changes:
        raw[start : start + length] = replacement
    path = scratch / "all.zip"
    path.write_bytes(bytes(raw))
    for record in read_submissions(path, ONE):
        assert isinstance(record, Refused) or record.raw == RAW * 20
    assert list(scratch.iterdir()) == [path]


needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")

# --- Folders that are not what they seem -------------------------------------------------------------------


def test_links_are_not_followed_out_of_the_folder(tmp_path: Path) -> None:
    secret = put(tmp_path, "outside/06_attention.ipynb", b"secret")
    root = tmp_path / "all"
    put(root, GOOD)
    (root / "anna").mkdir()
    (root / "anna/06_attention.ipynb").symlink_to(secret)
    (root / "linked").symlink_to(secret.parent, target_is_directory=True)
    (root / "loop").symlink_to(root, target_is_directory=True)
    submissions, refused = read(root)
    assert [one.raw for one in submissions] == [RAW]
    assert set(refused) == {"anna/06_attention.ipynb", "linked", "loop"}
    assert all("symbolic link" in reason for reason in refused.values())


@needs_pipes
def test_pipes_and_sockets_are_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, GOOD)
    os.mkfifo(tmp_path / "anna.ipynb")
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("carl.ipynb")
        submissions, refused = read(tmp_path)
        assert [one.learner for one in submissions] == ["ben"]
        assert set(refused) == {"anna.ipynb", "carl.ipynb"}
        assert read(tmp_path / "anna.ipynb")[1] == {
            "anna.ipynb": "It is neither a folder nor a regular file."
        }


@needs_pipes
def test_what_took_a_files_place_since_it_was_listed_is_refused(tmp_path: Path) -> None:
    pipe, link = put(tmp_path, "a/06_attention.ipynb"), put(tmp_path, "b/06_attention.ipynb")
    put(tmp_path, "c/06_attention.ipynb")
    records: Iterator[Submission | Refused] = read_submissions(tmp_path, ONE)
    assert next(records).name == "a/06_attention.ipynb"
    for path in (pipe, link):
        path.unlink()
    link.symlink_to(put(tmp_path, "secret.txt", b"secret"))
    kinds = [type(record) for record in records]
    assert kinds == [Refused, Submission]
    os.mkfifo(pipe)
    with pytest.raises(intake._Unusable, match="not a regular file"):
        intake._file_bytes(pipe, 10)


def test_an_unreadable_file_or_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, GOOD)
    put(tmp_path, "anna/06_attention.ipynb")
    put(tmp_path, "carl/06_attention.ipynb")
    real_open, real_scan = os.open, os.scandir

    def refuse(real: object) -> object:
        def wrapped(path: object, *rest: object) -> object:
            if ("anna/" if real is real_open else "carl") in str(path):
                raise PermissionError(13, "Permission denied")
            return real(path, *rest)  # type: ignore[operator]

        return wrapped

    # Root may read everything, so permissions alone would show nothing here.
    monkeypatch.setattr(os, "open", refuse(real_open))
    monkeypatch.setattr(os, "scandir", refuse(real_scan))
    submissions, refused = read(tmp_path)
    assert [one.learner for one in submissions] == ["ben"]
    assert refused == {
        "anna/06_attention.ipynb": "It cannot be read: Permission denied.",
        "carl": "It cannot be opened: Permission denied.",
    }


def test_a_large_file_is_refused_without_reading_all_of_it(tmp_path: Path) -> None:
    put(tmp_path, GOOD)
    with put(tmp_path, "anna/06_attention.ipynb").open("wb") as file:
        file.truncate(50 * 2**30)
    assert "larger than" in refusal_in(tmp_path)


def test_folders_too_deep_are_refused(tmp_path: Path) -> None:
    put(tmp_path, GOOD)
    put(tmp_path, "a/b/c/d/06_attention.ipynb")
    submissions, refused = read(tmp_path, limits=Limits(depth=3))
    assert [one.learner for one in submissions] == ["ben"]
    assert refused == {"a/b/c/d": "It lies more than 3 folders deep."}


def test_a_path_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert list(read(tmp_path / "none.zip")[1]) == ["none.zip"]


def test_no_chapter_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="chapters is empty"):
        read_submissions(tmp_path, [])


def test_notebooks_are_read_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = in_form(tmp_path, "zip", [f"{index}/06_attention.ipynb" for index in range(50)])
    opened: list[str] = []
    real = zipfile.ZipFile.open

    def noting(self: zipfile.ZipFile, info: zipfile.ZipInfo, *rest: Any) -> Any:
        opened.append(info.filename)
        return real(self, info, *rest)

    monkeypatch.setattr(zipfile.ZipFile, "open", noting)
    records = read_submissions(path, ONE)
    next(records), next(records)
    assert len(opened) == 2


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_no_notebook_is_kept_after_the_next_was_asked_for(tmp_path: Path, form: str) -> None:
    size, count = 2**16, 500
    for index in range(count):
        put(tmp_path / "all", f"{index}/06_attention.ipynb", os.urandom(size))
    path = tmp_path / "all"
    if form == "zip":
        with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
            for notebook in path.rglob("*.ipynb"):
                archive.write(notebook, notebook.relative_to(path))
        path = tmp_path / "all.zip"
    tracemalloc.start()
    try:
        hashes = [one.sha256 for one in read_submissions(path, ONE) if isinstance(one, Submission)]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(set(hashes)) == count
    assert peak < 10 * 2**20 < count * size / 3  # zipfile reads 8 MiB to find a table of contents


def test_notebooks_come_chapter_by_chapter(tmp_path: Path) -> None:
    for learner in ("anna", "berta"):
        for chapter in ("06_attention", "00_welcome"):
            path = tmp_path / learner / f"{chapter}.ipynb"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"{}")
    found = list(read_submissions(tmp_path, ("00_welcome", "06_attention")))
    order = [(item.chapter, item.learner) for item in found if isinstance(item, Submission)]
    assert order == sorted(order) and len(order) == 4
