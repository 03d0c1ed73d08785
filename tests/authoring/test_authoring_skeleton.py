"""`course new`: a chapter that builds and passes the gate before its author has written a word."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from course_lib.authoring.project import SourceError
from course_lib.authoring.skeleton import new_chapter

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """\
import json, sys
from pathlib import Path
from course_lib.authoring.build import build
from course_lib.authoring.skeleton import new_chapter

root = Path(sys.argv[1])
written = new_chapter(root, "25_my_topic")
built = build(root, ["my_topic"])
checked = build(root, ["25"], check=True, execute=False)
names = [path.relative_to(root).as_posix() for path in written]
print(json.dumps({"new": names, "built": built.to_json(), "checked": checked.to_json()}))
"""


def in_copy(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python on the copied course instead of the installed one."""
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory):
    """A copy of the library without any chapter's exercises, where a new chapter was begun and built."""
    root = tmp_path_factory.mktemp("copy")
    unwanted = shutil.ignore_patterns("__pycache__", "[0-9][0-9]_*.py")
    shutil.copytree(ROOT / "course_lib", root / "course_lib", ignore=unwanted)
    shutil.copytree(ROOT / "tests" / "gate", root / "tests" / "gate", ignore=unwanted)
    shutil.copy(ROOT / "pyproject.toml", root / "pyproject.toml")
    done = in_copy(root, "-c", PROGRAM, str(root))
    assert done.returncode == 0, done.stderr
    return root, json.loads(done.stdout)


def test_a_new_chapter_has_its_five_files_and_a_place_in_the_map(begun):
    root, report = begun
    assert report["new"] == [
        "notebooks/25_my_topic.md",
        "solutions/25_my_topic.md",
        "course_lib/checks/25_my_topic.py",
        "course_lib/checks/probes/my_topic.py",
        "tests/test_25_my_topic.py",
        "course_lib/chapters.py",
    ]
    assert all((root / name).is_file() for name in report["new"])
    assert "{{" not in "".join((root / name).read_text(encoding="utf-8") for name in report["new"])


def test_it_builds_at_once_with_every_part_of_a_lesson(begun):
    root, report = begun
    assert report["built"]["problems"] == [] and report["checked"]["problems"] == []
    assert sorted(report["built"]["executed"]) == [
        "notebooks/25_my_topic.ipynb",
        "solutions/25_my_topic.ipynb",
    ]
    assert (root / "exercises/25_my_topic.ipynb").is_file()


@pytest.mark.slow
def test_its_exercises_pass_the_gate_and_its_own_tests(begun):
    root, _ = begun
    tests = ["tests/gate", "tests/test_25_my_topic.py"]
    done = in_copy(root, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "failed" not in done.stdout and "passed" in done.stdout


def test_its_files_keep_the_style_of_the_course(begun):
    root, report = begun
    files = [name for name in report["new"] if name.endswith(".py")]
    for command in (["check"], ["format", "--check"]):
        done = in_copy(root, "-m", "ruff", *command, "--no-cache", *files)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("my_topic", "not a chapter's name"),
        ("25 My Topic", "not a chapter's name"),
        ("../25_x", "not a chapter's name"),
        ("06_other", "belongs to 06_attention"),
        ("26_attention", "belongs to 06_attention"),
    ],
)
def test_a_name_that_does_not_fit_is_refused_and_nothing_written(tmp_path: Path, name: str, sentence: str):
    (tmp_path / "course_lib").mkdir()
    shutil.copy(ROOT / "course_lib" / "chapters.py", tmp_path / "course_lib")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SourceError, match=sentence):
        new_chapter(tmp_path, name)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_chapter_that_was_begun_is_never_overwritten(tmp_path: Path):
    (tmp_path / "course_lib").mkdir()
    (tmp_path / "notebooks").mkdir()
    shutil.copy(ROOT / "course_lib" / "chapters.py", tmp_path / "course_lib")
    (tmp_path / "notebooks/07_multi_head_attention.md").write_text("mine")
    with pytest.raises(SourceError, match=r"notebooks/07_multi_head_attention\.md exists"):
        new_chapter(tmp_path, "07_multi_head_attention")
    assert (tmp_path / "notebooks/07_multi_head_attention.md").read_text() == "mine"


def test_a_planned_chapter_leaves_the_map_alone(tmp_path: Path):
    (tmp_path / "course_lib").mkdir()
    chapter_map = tmp_path / "course_lib/chapters.py"
    shutil.copy(ROOT / "course_lib" / "chapters.py", chapter_map)
    before = chapter_map.read_bytes()
    assert chapter_map not in new_chapter(tmp_path, "07_multi_head_attention")
    assert chapter_map.read_bytes() == before
