"""The learner's folder on a real disk: a small course, copied, worked in, updated, reset, damaged."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nbformat import v4

import course_lib.atomic
import course_lib.workspace as workspace_module
from course_lib.chapters import UnknownChapter, find_chapter
from course_lib.workspace import Workspace, WorkspaceError, resolve_chapter, work_folder

NAMES = ["notebooks/00_welcome.ipynb", "notebooks/06_attention.ipynb", "exercises/06_attention.ipynb"]


def write_course(root: Path, edition: int) -> None:
    """A course of three notebooks; later editions change the prose and add a cell."""
    marks = {"schema_version": 3, "grade": False, "locked": False, "solution": True, "grade_id": "sdpa"}
    cells = [
        v4.new_markdown_cell(f"Edition {edition}", id="intro"),
        v4.new_code_cell("raise NotImplementedError", id="sdpa", metadata={"nbgrader": marks}),
    ]
    cells += [v4.new_markdown_cell("Added", id="added")] if edition > 1 else []
    for name in NAMES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        notebook = v4.new_notebook(cells=cells)
        (root / name).write_text(json.dumps(notebook, indent=1, sort_keys=True) + "\n", encoding="utf-8")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.delenv("COURSE_WORK", raising=False)
    write_course(tmp_path, 1)
    return Workspace(tmp_path)


def solve(workspace: Workspace, name: str = NAMES[2], source: str = "return 42") -> None:
    path = workspace.mine(name)
    notebook = json.loads(path.read_text())
    notebook["cells"][1]["source"] = source
    path.write_text(json.dumps(notebook))


def texts(path: Path) -> list[str]:
    return ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"]]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_first_use_copies_in_the_same_layout_and_later_ones_change_nothing(workspace: Workspace) -> None:
    assert workspace.prepare() == NAMES
    assert all(workspace.mine(name).read_bytes() == (workspace.root / name).read_bytes() for name in NAMES)
    solve(workspace)
    before = files(workspace.work)
    write_course(workspace.root, 2)
    assert workspace.prepare() == [] and files(workspace.work) == before
    assert workspace.outdated() == NAMES


def test_an_update_keeps_the_answer_brings_the_new_cells_and_leaves_a_dated_backup(
    workspace: Workspace,
) -> None:
    workspace.prepare()
    solve(workspace)
    old = workspace.mine(NAMES[2]).read_bytes()
    write_course(workspace.root, 2)
    report = workspace.update()
    assert texts(workspace.mine(NAMES[2])) == ["Edition 2", "return 42", "Added"]
    assert report.backup is not None and report.backup.name[:2] == "20"
    assert (report.backup / NAMES[2]).read_bytes() == old
    change = report.notebooks[2]
    assert (change.added, change.replaced, change.kept) == (("added",), ("intro",), ("sdpa",))
    assert workspace.outdated() == [] and report.all_problems() == []
    assert {row["status"] for row in report.to_json()["notebooks"]} == {"merged"}


def test_an_update_without_news_writes_nothing(workspace: Workspace) -> None:
    workspace.prepare()
    solve(workspace)
    before = files(workspace.work)
    report = workspace.update()
    assert files(workspace.work) == before and report.backup is None and report.changed == []


def test_an_update_interrupted_between_its_two_writes_is_taken_up_by_the_next(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.prepare()
    solve(workspace)
    write_course(workspace.root, 2)
    real = workspace_module.write_bytes

    def killed_at_the_base(path: Path, content: bytes) -> None:
        if "base" in path.parts:
            raise KeyboardInterrupt
        real(path, content)

    monkeypatch.setattr(workspace_module, "write_bytes", killed_at_the_base)
    with pytest.raises(KeyboardInterrupt):
        workspace.update()
    monkeypatch.undo()
    report = workspace.update()
    assert texts(workspace.mine(NAMES[2])) == ["Edition 2", "return 42", "Added"]
    assert report.all_problems() == [] and workspace.outdated() == []


@pytest.mark.parametrize("damage", ["truncated", "zeros", "empty", "other"])
def test_a_damaged_notebook_is_kept_aside_and_the_others_go_on(workspace: Workspace, damage: str) -> None:
    workspace.prepare()
    solve(workspace)
    solve(workspace, NAMES[1])
    write_course(workspace.root, 2)
    path = workspace.mine(NAMES[1])
    whole = path.read_bytes()
    broken = {"truncated": whole[:-40], "zeros": b"\0" * 500, "empty": b"", "other": b'{"a": 1}'}[damage]
    path.write_bytes(broken)
    report = workspace.update()
    (told,) = report.all_problems()
    assert told.startswith(f"{NAMES[1]}: It could not be read (") and "fresh copy" in told
    assert report.backup is not None and (report.backup / NAMES[1]).read_bytes() == broken
    assert str(report.backup / NAMES[1]) in told
    saved = "return 42" if damage == "truncated" else "raise NotImplementedError"
    assert texts(path) == ["Edition 2", saved, "Added"]
    assert f"the {2 if damage == 'truncated' else 0} cells" in told
    assert texts(workspace.mine(NAMES[2]))[1] == "return 42"
    assert workspace.update().all_problems() == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 2000), zeros=st.booleans())
def test_whatever_a_crash_cuts_off_each_whole_cell_before_it_is_saved(
    workspace: Workspace, cut: int, zeros: bool
) -> None:
    workspace.prepare()
    path = workspace.mine(NAMES[2])
    cells = [v4.new_code_cell(f"wert = 'ä{i}'", id=f"own{i}") for i in range(8)]
    whole = json.dumps(v4.new_notebook(cells=cells), ensure_ascii=False, indent=1).encode()
    cut = min(cut, len(whole) - 3)
    path.write_bytes(whole[:cut] + (b"\0" * (len(whole) - cut) if zeros else b""))
    report = workspace.update()
    ends = [whole.index(b"\n  }", whole.index(f"ä{i}".encode())) + 4 for i in range(8)]
    complete = sum(end <= cut for end in ends)
    now = texts(path)
    assert [f"wert = 'ä{i}'" for i in range(complete)] == [text for text in now if text.startswith("wert")]
    assert "raise NotImplementedError" in now and report.backup is not None


@pytest.mark.parametrize("room", range(0, 9))
def test_a_disk_that_fills_up_at_any_write_loses_nothing(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    workspace.prepare()
    for name in NAMES:
        solve(workspace, name)
    old = {name: workspace.mine(name).read_bytes() for name in NAMES}
    write_course(workspace.root, 2)
    writes = iter(range(room))

    def full(descriptor: int) -> None:
        if next(writes, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(course_lib.atomic, "_flush_folder", lambda folder: None)
    monkeypatch.setattr(os, "fsync", full)
    report = workspace.update()
    monkeypatch.undo()
    (told,) = report.all_problems()
    assert told.startswith("The disk is full:") and told.endswith("nothing is lost.")
    for name in NAMES:
        now = workspace.mine(name).read_bytes()
        assert now == old[name] or texts(workspace.mine(name)) == ["Edition 2", "return 42", "Added"]
    assert workspace.update().all_problems() == []
    assert all(texts(workspace.mine(name)) == ["Edition 2", "return 42", "Added"] for name in NAMES)


def test_a_notebook_saved_during_the_merge_is_left_to_the_next_update(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.prepare()
    write_course(workspace.root, 2)
    real = workspace._back_up

    def save_meanwhile(name: str, report: workspace_module.WorkReport) -> Path:
        kept = real(name, report)
        solve(workspace, name, "return 'saved just now'")
        return kept

    monkeypatch.setattr(workspace, "_back_up", save_meanwhile)
    report = workspace.update()
    assert all("run `course update` again" in told for told in report.all_problems())
    assert texts(workspace.mine(NAMES[2]))[1] == "return 'saved just now'"
    monkeypatch.undo()
    workspace.update()
    assert texts(workspace.mine(NAMES[2])) == ["Edition 2", "return 'saved just now'", "Added"]


def test_a_reset_brings_the_pristine_copy_and_keeps_each_old_version(workspace: Workspace) -> None:
    workspace.prepare()
    reports = []
    for source in ("first", "second"):
        solve(workspace, source=source)
        reports.append(workspace.reset("06_attention"))
    backups = [report.backup for report in reports if report.backup]
    assert len(set(backups)) == 2
    assert [texts(backup / NAMES[2])[1] for backup in backups] == ["first", "second"]
    assert workspace.mine(NAMES[2]).read_bytes() == (workspace.root / NAMES[2]).read_bytes()
    assert [change.notebook for change in reports[0].notebooks] == NAMES[1:]


def test_a_reset_on_a_full_disk_leaves_the_learners_file(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.prepare()
    solve(workspace)
    before = workspace.mine(NAMES[2]).read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert workspace.reset("06_attention").all_problems()[0].startswith("The disk is full")
    assert workspace.mine(NAMES[2]).read_bytes() == before


def test_a_reset_of_an_unwritten_chapter_says_so(workspace: Workspace) -> None:
    with pytest.raises(WorkspaceError, match="still to be written"):
        workspace.reset("24_capstone")


def test_a_damaged_course_leaves_the_learners_copy_alone(workspace: Workspace) -> None:
    workspace.prepare()
    solve(workspace)
    (workspace.root / NAMES[2]).write_text("<<<<<<< a conflict")
    report = workspace.update()
    assert "the course's own" in report.all_problems()[0] and report.notebooks[2].status == "left"
    assert texts(workspace.mine(NAMES[2]))[1] == "return 42"


@pytest.mark.parametrize(
    "given",
    [
        "06",
        "6",
        "attention",
        "06_attention",
        "Attention",
        "06-attention",
        "work/exercises/06_attention.ipynb",
    ],
)
def test_a_chapter_may_be_named_in_many_ways(tmp_path: Path, given: str) -> None:
    assert resolve_chapter(given, tmp_path) == "06_attention"


def test_part_of_a_name_does_where_it_is_the_only_one(tmp_path: Path) -> None:
    assert resolve_chapter("flash", tmp_path) == "19_flash_attention"
    with pytest.raises(WorkspaceError, match=r"could be .*04_embeddings, 05_.*: give the whole name"):
        resolve_chapter("ing", tmp_path)


def test_two_chapters_of_one_number_are_both_named() -> None:
    with pytest.raises(UnknownChapter, match="could be 06_attention, 06_other"):
        find_chapter("6", ["06_attention", "06_other"])


@pytest.mark.parametrize(
    ("given", "advice"),
    [("atention", "Did you mean 06_attention"), ("tokenisers", "03_tokenizers"), ("99", "00_welcome to 24")],
)
def test_an_unknown_chapter_is_answered_with_near_names(tmp_path: Path, given: str, advice: str) -> None:
    with pytest.raises(WorkspaceError, match=advice):
        resolve_chapter(given, tmp_path)


def test_the_folder_is_where_course_work_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COURSE_WORK", str(tmp_path / "mine"))
    assert work_folder() == tmp_path / "mine"
    monkeypatch.delenv("COURSE_WORK")
    assert work_folder(tmp_path) == tmp_path / "work"
