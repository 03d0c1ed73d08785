"""A write that fails, or is killed, leaves the old file; the oracle is what the disk holds afterwards."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from course_lib.atomic import DiskFull, write_bytes, write_text


def test_text_is_written_as_utf8_with_its_line_ends(tmp_path: Path) -> None:
    write_text(tmp_path / "new folder/a.txt", "苹果\r\nétude\n")
    assert (tmp_path / "new folder/a.txt").read_bytes() == "苹果\r\nétude\n".encode()
    assert [path.name for path in (tmp_path / "new folder").iterdir()] == ["a.txt"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_the_old_file_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, number: int
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os if failing == "fsync" else Path, failing, full)
    with pytest.raises(DiskFull) as raised:
        write_text(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    assert raised.value.errno == errno.ENOSPC
    told = str(raised.value)
    assert str(path) in told and "disk is full" in told and "Free some space" in told and "\n" not in told


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((FileExistsError, NotADirectoryError)):
        write_bytes(tmp_path / "file" / "a.txt", b"")


@pytest.mark.skipif(os.name != "posix", reason="Windows keeps no such permissions")
def test_permissions_and_links_are_kept(tmp_path: Path) -> None:
    target, link = tmp_path / "target.txt", tmp_path / "link.txt"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink() and target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "fresh.txt", "")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "fresh.txt").stat().st_mode) == 0o640


@pytest.mark.skipif(os.name != "posix", reason="needs a signal that cannot be caught")
def test_a_writer_killed_at_any_moment_leaves_one_of_the_two_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("A" * 500_000)
    program = f"""
        import itertools, pathlib
        from course_lib.atomic import write_text
        for turn in itertools.cycle("AB"):
            write_text(pathlib.Path({str(path)!r}), turn * 500_000)
    """
    for attempt in range(6):
        writer = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)])
        time.sleep(0.15 + 0.013 * attempt)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        text = path.read_text()
        assert len(text) == 500_000 and len(set(text)) == 1
