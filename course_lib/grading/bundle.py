"""The staff's bundle: all that grading an assignment needs, made once when the assignment is handed out.

    bundle/
      manifest.json          format, seed, environment, exercises by chapter, and a SHA-256 of every file
      pristine/NN_topic.ipynb    the notebooks as learners got them
      solutions/NN_topic.ipynb   the published solutions, for `course similarity` and for trying the bundle
      library/course_lib/        the library with the exercises' entries, as they were at the release
      cut/NN_topic/course_lib/   the files of the library that learners' processes read otherwise: what the
                                 chapter's exercises forbid is cut out of them

The bundle holds references, hidden cases and the seed, so its folder is for its owner only. Grading takes
everything from here and nothing from the clone, so a later change of the course changes no mark.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import platform
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__
from ..atomic import write_text
from ..checks.exercise import Case, Exercise, Misconception, Score, Speed, Tolerance
from .answers import check_cells, is_answer, read_notebook
from .cut import cut, shared
from .graft import context_cells
from .sandbox import stage_library

if TYPE_CHECKING:
    import nbformat

FORMAT = 2
MANIFEST = "manifest.json"
# torch imports its compiler when it makes an optimiser, and when it first computes on the device without
# memory: a second, in every process anew.
IMPORTED_LATE = "torch._dynamo"
# Of course_lib, what plays no part in a mark.
NOT_BUNDLED = ("authoring", "__pycache__", "*.pyc")
PACKAGES = ("torch", "numpy", "nbval")


class BundleProblem(RuntimeError):
    """The bundle cannot be made or used; the message is one sentence that says why."""


@dataclass(frozen=True)
class Question:
    """An exercise as the grader needs it: no cases, no reference, no code of any answer.

    exercise: with its texts, points, tolerances and misconceptions' sentences; its cases, probe and answers
    are not there. probe: "module.function" in `course_lib.checks.probes`. expression: what the check looks
    at. cut: names whose definitions the learner's process must not find in the library.
    """

    exercise: Exercise
    probe: str
    expression: str
    cut: tuple[str, ...]


@dataclass(frozen=True)
class Assignment:
    """One chapter of a bundle."""

    chapter: str
    title: str
    pristine: nbformat.NotebookNode
    solution: nbformat.NotebookNode
    questions: tuple[Question, ...]


class Bundle:
    """A bundle on the disk, opened and found whole."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest

    @classmethod
    def open(cls, folder: Path) -> Bundle:
        """The bundle in this folder, every file compared with its hash. Raises BundleProblem."""
        manifest = _read_manifest(folder)
        for name, digest in manifest["files"].items():
            try:
                found = _sha256((folder / name).read_bytes())
            except OSError:
                raise BundleProblem(f"The bundle {folder.name} lacks {name}: copy it whole.") from None
            if found != digest:
                raise BundleProblem(
                    f"In the bundle {folder.name}, {name} was changed after the release: take the bundle "
                    "as it was made, or release anew."
                )
        extra = sorted(set(_files(folder)) - set(manifest["files"]) - {MANIFEST})
        if extra:
            raise BundleProblem(
                f"The bundle {folder.name} holds {extra[0]}, which the release did not make: remove it."
            )
        return cls(folder, manifest)

    @property
    def chapters(self) -> tuple[str, ...]:
        """The names of the chapters, as they were released."""
        return tuple(self.manifest["chapters"])

    @property
    def library(self) -> Path:
        """The folder that holds the bundle's own `course_lib`."""
        return self.folder / "library"

    def cut(self, chapter: str) -> Path:
        """The folder with the files of the library that this chapter's learners read otherwise."""
        return self.folder / "cut" / chapter

    def preload(self, chapter: str) -> tuple[str, ...]:
        """The modules that the chapter's cells import."""
        return tuple(self.manifest["chapters"][chapter]["preload"])

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the manifest, which names the hash of every file."""
        return _sha256((self.folder / MANIFEST).read_bytes())

    @cached_property
    def environment(self) -> str:
        """What marks are made with, as it enters the content keys: this bundle and these versions."""
        versions = {name: importlib.metadata.version(name) for name in PACKAGES}
        python = ".".join(platform.python_version_tuple()[:2])
        return json.dumps({"bundle": self.digest, "python": python} | versions, sort_keys=True)

    def assignment(self, chapter: str) -> Assignment:
        """One chapter's assignment. Raises KeyError for a chapter that was not released."""
        if chapter not in self._assignments:
            plain = self.manifest["chapters"][chapter]
            self._assignments[chapter] = Assignment(
                chapter=chapter,
                title=plain["title"],
                pristine=read_notebook(self.folder / "pristine" / f"{chapter}.ipynb"),
                solution=read_notebook(self.folder / "solutions" / f"{chapter}.ipynb"),
                questions=tuple(_question(row) for row in plain["exercises"]),
            )
        return self._assignments[chapter]

    @cached_property
    def _assignments(self) -> dict[str, Assignment]:
        return {}


def make_bundle(
    root: Path, chapters: Sequence[str], into: Path, points: Mapping[str, int] | None = None
) -> Bundle:
    """Write the bundle of these chapters of the course in `root` to a new folder.

    points: by exercise id, where they differ from the course's; an exercise that is worth 0 points is not
    graded. Raises BundleProblem.
    """
    _refuse_what_is_there(into)
    points = dict(points or {})
    into.mkdir(parents=True, exist_ok=True)
    into.chmod(0o700)
    shutil.copytree(
        root / "course_lib", into / "library/course_lib", ignore=shutil.ignore_patterns(*NOT_BUNDLED)
    )
    rows = {chapter: _chapter(root, chapter, into, points) for chapter in chapters}
    if points:
        raise BundleProblem(f"None of these chapters has an exercise {', '.join(sorted(points))}.")
    manifest = {
        "format": FORMAT,
        "course": __version__,
        "seed": secrets.token_hex(16),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "chapters": rows,
        "files": {name: _sha256((into / name).read_bytes()) for name in _files(into)},
    }
    write_text(into / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    (into / MANIFEST).chmod(0o600)
    return Bundle.open(into)


def _refuse_what_is_there(into: Path) -> None:
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise BundleProblem(f"{into.name} exists and is not an empty folder: name a new one.")


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleProblem(f"{folder} is no bundle: it has no {MANIFEST}.") from None
    except (OSError, ValueError) as error:
        raise BundleProblem(f"The bundle's {MANIFEST} cannot be read: {type(error).__name__}.") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BundleProblem(
            f"The bundle {folder.name} has another format than {FORMAT}: grade it with the version of the "
            "course that made it."
        )
    return manifest


# --- an exercise in the manifest ------------------------------------------------------------------------


def _chapter(root: Path, chapter: str, into: Path, points: dict[str, int]) -> dict[str, Any]:
    """A chapter's row of the manifest; its notebooks are copied."""
    from ..chapters import BY_NAME
    from ..checks.registry import exercises_of

    for source, folder in (("exercises", "pristine"), ("solutions", "solutions")):
        path = root / source / f"{chapter}.ipynb"
        if not path.is_file():
            raise BundleProblem(f"Chapter {chapter} has no {source}/{chapter}.ipynb: it cannot be released.")
        (into / folder).mkdir(exist_ok=True)
        shutil.copyfile(path, into / folder / path.name)
    pristine = read_notebook(into / "pristine" / f"{chapter}.ipynb")
    solution = read_notebook(into / "solutions" / f"{chapter}.ipynb")
    expressions = {cell.exercise: cell.expression for cell in check_cells(pristine)}
    exercises = exercises_of(chapter)
    missing = sorted({exercise.id for exercise in exercises} ^ set(expressions))
    if missing:
        raise BundleProblem(f"{chapter}: the checks and the notebook differ in {', '.join(missing)}.")
    rows = [_row(exercise, expressions[exercise.id], points) for exercise in exercises]
    graded = [row for row in rows if row["points"]]
    _keep_cut(into / "library", into / "cut" / chapter, graded, context_cells(pristine))
    return {
        "title": BY_NAME[chapter].title,
        "preload": sorted(
            _without(_imported(pristine) | _imported(solution) | _imported_late(exercises), exercises)
        ),
        "exercises": graded,
    }


def _keep_cut(library: Path, into: Path, rows: Sequence[Mapping[str, Any]], cells: Sequence[str]) -> None:
    """Cut what all exercises of a chapter forbid out of a copy of the library; keep what differs."""
    with tempfile.TemporaryDirectory() as folder:
        staged = stage_library(library, Path(folder) / "library")
        cut(staged, shared([row["cut"] for row in rows]), cells)
        for name in _files(staged):
            whole, target = library / name, into / name
            if not whole.exists() or whole.read_bytes() != (staged / name).read_bytes():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(staged / name, target)


_TEXTS = ("id", "title", "minutes", "difficulty", "forbidden", "gpu", "seconds")


def _row(exercise: Exercise, expression: str, points: dict[str, int]) -> dict[str, Any]:
    worth = points.pop(exercise.id, exercise.points)
    if worth < 0:
        raise BundleProblem(f"{exercise.id} cannot be worth {worth} points.")
    tolerance = exercise.tolerance
    by_name = {"": tolerance} if isinstance(tolerance, Tolerance) else dict(tolerance)
    return {name: getattr(exercise, name) for name in _TEXTS} | {
        "points": worth,
        "grade_id": exercise.grade_id,
        "probe": exercise.probe_name,
        "expression": expression,
        "cut": _to_be_cut(exercise),
        "tolerance": {name: asdict(value) for name, value in by_name.items()},
        "judged": {name: asdict(score) for name, score in exercise.judged.items()},
        "speed": asdict(exercise.speed) if exercise.speed else None,
        "misconceptions": [[wrong.name, wrong.sentence] for wrong in exercise.misconceptions],
    }


def _to_be_cut(exercise: Exercise) -> list[str]:
    """What of the library does this exercise's work: its own version, and what it forbids."""
    own = [exercise.library.replace(":", ".")] if exercise.library else []
    return sorted({*own, *(name for name in exercise.forbidden if name.startswith("course_lib."))})


def _question(row: Mapping[str, Any]) -> Question:
    tolerances = {name: Tolerance(**fields) for name, fields in row["tolerance"].items()}
    exercise = Exercise(
        **{name: row[name] for name in _TEXTS} | {"forbidden": tuple(row["forbidden"])},
        points=row["points"],
        cases=_absent,
        probe=_absent,
        reference=None,
        misconceptions=tuple(Misconception(name, None, told) for name, told in row["misconceptions"]),
        also_right=(),
        hints=("", "", ""),
        tolerance=tolerances.get("", tolerances),
        judged={name: Score(**fields) for name, fields in row["judged"].items()},
        speed=Speed(**row["speed"]) if row["speed"] else None,
    )
    return Question(exercise, row["probe"], row["expression"], tuple(row["cut"]))


def _absent(*given: np.random.Generator | Case | object) -> Any:
    raise LookupError("an exercise that was read from a bundle has no code: ask the oracle")


# --- files ----------------------------------------------------------------------------------------------


def _imported(notebook: nbformat.NotebookNode) -> set[str]:
    """The modules that a notebook's cells import, as far as they are to be found here."""
    found = set()
    for cell in notebook.cells:
        if cell.cell_type == "code" and (not is_answer(cell) or "import" in cell.source):
            found |= set(_imports_in(cell.source))
        if "optim" in cell.source:
            found.add(IMPORTED_LATE)
    return {name for name in found if not name.startswith("course_lib.checks") and _is_module(name)}


def _imported_late(exercises: Sequence[Exercise]) -> set[str]:
    """What torch imports while it computes one of the cases, if anything."""
    rng = np.random.default_rng(0)
    devices = {case.inputs.get("device") for exercise in exercises for case in exercise.cases(rng)}
    return {IMPORTED_LATE} if "meta" in devices else set()


def _without(modules: set[str], exercises: Sequence[Exercise]) -> set[str]:
    """The modules but for those that an exercise forbids: what is loaded can be found in memory."""
    forbidden = {name for exercise in exercises for name in exercise.forbidden}
    return {name for name in modules if name.split(".")[0] not in forbidden and name not in forbidden}


def _imports_in(source: str) -> Iterator[str]:
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError:
        return
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
