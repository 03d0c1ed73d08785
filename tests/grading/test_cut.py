"""Cutting what exercises forbid out of a staged library. Oracle: its source, and Python's import."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from course_lib.checks.guard import ForbiddenCall
from course_lib.checks.registry import chapters, exercises_of
from course_lib.grading.answers import read_notebook
from course_lib.grading.cut import conflicts, cut, shared
from course_lib.grading.forbidding import RECORD
from course_lib.grading.graft import context_cells
from course_lib.grading.sandbox import stage_library

ROOT = Path(__file__).resolve().parents[2]
BUILT = [chapter for chapter in chapters() if (ROOT / "exercises" / f"{chapter}.ipynb").exists()]

SMALL = {
    "__init__.py": "",
    "tools.py": '''
"""Tools."""
from functools import cache

def public(x: int, y: int = 2) -> int:
    """Twice x."""
    return _helper(x) * 2

def _helper(x):
    return _deeper(x)

def _deeper(x):
    return x

def _shared(x):
    return x

class Tool:
    """A tool."""

    size = 3

    def use(self) -> int:
        return _shared(1)

    @property
    def worth(self) -> int:
        return self.size

def other():
    return _shared(2)
''',
    "early.py": "from .tools import public as made\nTABLE = made(3)\n",
    "user.py": "from . import tools\ndef uses():\n    return tools.public(1)\n",
    "again.py": "from .early import TABLE\nfrom .tools import Tool\n",
}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A library of four modules."""
    folder = tmp_path / "course_lib"
    (folder / "grading").mkdir(parents=True)
    (folder / "grading/__init__.py").write_text("")
    for name, text in SMALL.items():
        (folder / name).write_text(text)
    return tmp_path


def source(library: Path, name: str) -> str:
    return (library / "course_lib" / name).read_text()


def load(library: Path, name: str) -> object:
    """A module of the cut library by its file, as a hostile program would get at it."""
    spec = importlib.util.spec_from_file_location("copy", library / "course_lib" / name)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_function_keeps_signature_and_docstring_and_loses_its_body_and_helpers(small: Path) -> None:
    (small / "course_lib/early.py").unlink()
    assert cut(small, ["course_lib.tools.public"]) == {}
    text = source(small, "tools.py")
    assert "_helper" not in text and "_deeper" not in text and "_shared" in text
    module = load(small, "tools.py")
    with pytest.raises(ForbiddenCall, match=r"course_lib\.tools\.public is forbidden"):
        module.public(1)  # type: ignore[attr-defined]
    assert module.public.__doc__ == "Twice x."  # type: ignore[attr-defined]
    assert module.public.__annotations__["y"] is int  # type: ignore[attr-defined]
    assert module.other() == 2  # type: ignore[attr-defined]


def test_all_methods_of_a_class_are_cut_where_it_is_defined(small: Path) -> None:
    cut(small, ["course_lib.again.Tool"])
    tool = load(small, "tools.py").Tool()  # type: ignore[attr-defined]
    assert tool.size == 3
    with pytest.raises(ForbiddenCall):
        tool.use()
    with pytest.raises(ForbiddenCall):
        _ = tool.worth


def test_what_is_needed_stays_whole_and_is_told(small: Path) -> None:
    assert cut(small, ["course_lib.tools.public"]) == {
        "course_lib.tools.public": "course_lib.early calls it while it is imported"
    }
    assert "_helper(x) * 2" in source(small, "tools.py")
    (small / "course_lib/early.py").unlink()
    for cell in (
        "from course_lib.tools import public",
        "from course_lib.user import uses",
        "import course_lib.user",
        "from course_lib import tools as t",
    ):
        assert conflicts(small, ["course_lib.tools.public"], [cell]) == {
            "course_lib.tools.public": "a cell needs it"
        }, cell
    assert conflicts(small, ["course_lib.tools.public"], ["from course_lib.again import Tool"]) == {}


def test_a_script_that_nothing_imports_keeps_nothing_whole(small: Path) -> None:
    (small / "course_lib/again.py").unlink()
    assert conflicts(small, ["course_lib.tools.public"]) == {}
    cell = "from course_lib.early import TABLE"
    assert "calls it" in conflicts(small, ["course_lib.tools.public"], [cell])["course_lib.tools.public"]


def test_names_of_other_packages_are_passed_over_and_unknown_ones_are_errors(small: Path) -> None:
    before = source(small, "tools.py")
    assert cut(small, ["torch.cdist", "aten::add", "tokenizers"]) == {}
    assert source(small, "tools.py") == before
    with pytest.raises(LookupError, match=r"course_lib\.tools\.gone is not defined"):
        cut(small, ["course_lib.tools.gone"])


def test_what_is_cut_is_on_record_and_nothing_compiled_is_left(small: Path) -> None:
    compiled = small / "course_lib/__pycache__/tools.cpython-311.pyc"
    compiled.parent.mkdir()
    compiled.write_bytes(b"code")
    cut(small, ["course_lib.tools.Tool"])
    assert not compiled.exists()
    assert json.loads((small / "course_lib/grading" / RECORD.name).read_text()) == ["course_lib.tools.Tool"]


def test_only_what_every_exercise_forbids_is_shared() -> None:
    assert shared([["a", "b"], ["b", "c"], ("b",)]) == ["b"]
    assert shared([]) == []


@pytest.mark.parametrize("chapter", BUILT)
def test_the_library_is_cut_for_each_chapter_and_still_imports(chapter: str, tmp_path: Path) -> None:
    library = stage_library(ROOT, tmp_path / "library")
    names = shared(
        [[n for n in exercise.forbidden if n.startswith("course_lib.")] for exercise in exercises_of(chapter)]
    )
    cells = context_cells(read_notebook(ROOT / "exercises" / f"{chapter}.ipynb"))
    assert names or not any(exercise.library for exercise in exercises_of(chapter))
    assert cut(library, names, cells) == {}
    modules = sorted({name.rpartition(".")[0] for name in names})
    code = f"import {', '.join(modules)}; print(*sys.modules['course_lib'].__path__)"
    said = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(library)!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert said.stdout.strip() == str(library / "course_lib")
    for name in names:
        module, _, last = name.rpartition(".")
        tree = ast.parse((library / f"{module.replace('.', '/')}.py").read_bytes())
        bodies = {node.name: ast.unparse(node) for node in tree.body if hasattr(node, "name")}
        assert "refuse(" in bodies[last]


@pytest.mark.parametrize("chapter", BUILT)
def test_the_librarys_own_version_is_forbidden_wherever_it_is_cut(chapter: str) -> None:
    for exercise in exercises_of(chapter):
        if exercise.library:
            last = exercise.library.partition(":")[2]
            assert any(name.endswith(f".{last}") for name in exercise.forbidden), exercise.id
