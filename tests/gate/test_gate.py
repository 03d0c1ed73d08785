"""The gate: what every exercise of every chapter must prove before it is given to anyone.

Oracle: the exercise's own reference, and the notebooks that a learner is given.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

from course_lib.authoring.fingerprint import imports
from course_lib.chapters import BY_NAME, builder_of
from course_lib.checks.engine import evaluate
from course_lib.checks.exercise import Exercise, Misconception
from course_lib.checks.export import public_names
from course_lib.checks.guard import resolve
from course_lib.checks.registry import all_exercises, chapters, exercises_of
from course_lib.grading.answers import Answers, check_cells, load_answers, read_notebook

ROOT = Path(__file__).resolve().parents[2]
EXERCISES = list(all_exercises().values())
MISCONCEPTIONS = [(exercise, wrong) for exercise in EXERCISES for wrong in exercise.misconceptions]
RIGHT_ANSWERS = [(exercise, index) for exercise in EXERCISES for index in range(len(exercise.also_right))]
SEEDS = (1, 20261120)


def name_of(value: object) -> str:
    if isinstance(value, Exercise):
        return value.id
    return value.name if isinstance(value, Misconception) else str(value)


each_exercise = pytest.mark.parametrize("exercise", EXERCISES, ids=name_of)


@functools.cache
def answers_in(folder: str, chapter: str) -> Answers:
    return load_answers(ROOT / folder / f"{chapter}.ipynb")


class Tripwire:
    """Stands for a learner's object: any use of it is an error that nothing else raises."""

    class Touched(Exception):
        pass

    def __getattr__(self, name: str) -> object:
        raise Tripwire.Touched(name)

    def __call__(self, *args: object, **kwargs: object) -> object:
        raise Tripwire.Touched("called")

    def __iter__(self) -> Iterator[object]:
        raise Tripwire.Touched("iterated")

    def __getitem__(self, key: object) -> object:
        raise Tripwire.Touched("indexed")


@each_exercise
def test_starter_fails(exercise: Exercise) -> None:
    starter = answers_in("exercises", exercise.chapter).objects[exercise.id]
    verdict = evaluate(exercise, starter)
    assert verdict.status == "not started", verdict.sentences()
    assert verdict.earned == 0


@each_exercise
@pytest.mark.parametrize("seed", SEEDS)
def test_solution_passes(exercise: Exercise, seed: int) -> None:
    answers = answers_in("solutions", exercise.chapter)
    assert not answers.errors, answers.errors
    verdict = evaluate(exercise, answers.objects[exercise.id], seed=seed)
    assert verdict.passed, verdict.sentences()


@pytest.mark.parametrize(("exercise", "wrong"), MISCONCEPTIONS, ids=name_of)
@pytest.mark.parametrize("seed", SEEDS)
def test_misconception_is_rejected_and_named(exercise: Exercise, wrong: Misconception, seed: int) -> None:
    verdict = evaluate(exercise, wrong.answer, seed=seed)
    assert not verdict.passed
    assert verdict.misconception == wrong.name, verdict.sentences()
    assert wrong.sentence in verdict.sentences()


@pytest.mark.parametrize(("exercise", "index"), RIGHT_ANSWERS, ids=name_of)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_differently_written_right_answer_passes(exercise: Exercise, index: int, seed: int) -> None:
    verdict = evaluate(exercise, exercise.also_right[index], seed=seed)
    assert verdict.passed, verdict.sentences()


@each_exercise
def test_two_right_answers_and_two_misconceptions_are_kept(exercise: Exercise) -> None:
    assert len(exercise.also_right) >= 2
    assert len(exercise.misconceptions) >= 2
    names = [wrong.name for wrong in exercise.misconceptions]
    assert len(set(names)) == len(names)


@each_exercise
def test_it_is_the_learners_object_that_is_run(exercise: Exercise) -> None:
    verdict = evaluate(exercise, Tripwire(), explain=False)
    assert not verdict.passed
    assert any("Touched" in finding.text for finding in verdict.findings), verdict.sentences()


@each_exercise
def test_three_hints_that_differ(exercise: Exercise) -> None:
    assert len(exercise.hints) == 3
    assert len(set(exercise.hints)) == 3
    assert all(len(hint) >= 40 for hint in exercise.hints)


@each_exercise
def test_a_value_of_the_wrong_type_gets_one_sentence(exercise: Exercise) -> None:
    for nonsense in (lambda *args, **kwargs: object(), lambda *args, **kwargs: None, 7, None):
        verdict = evaluate(exercise, nonsense, explain=False)
        assert not verdict.passed
        assert all("\n" not in line for line in verdict.sentences())


@each_exercise
def test_forbidden_names_and_the_librarys_own_version_exist(exercise: Exercise) -> None:
    for name in exercise.forbidden:
        assert name.startswith("aten::") or resolve(name) is not None
    if exercise.library:
        assert callable(resolve(exercise.library.replace(":", ".")))


@each_exercise
def test_only_this_chapter_and_earlier_ones_are_needed(exercise: Exercise) -> None:
    own = BY_NAME[exercise.chapter].number
    for cell in read_notebook(ROOT / "solutions" / f"{exercise.chapter}.ipynb").cells:
        if cell.cell_type != "code":
            continue
        for module in imports(cell.source, "notebook"):
            builder = builder_of(module)
            assert builder is None or builder.number <= own, f"{module} is built in {builder.name}"


@pytest.mark.parametrize("chapter", chapters())
def test_notebook_and_entries_agree(chapter: str) -> None:
    notebook = read_notebook(ROOT / "exercises" / f"{chapter}.ipynb")
    found = list(check_cells(notebook))
    assert [cell.exercise for cell in found] == [exercise.id for exercise in exercises_of(chapter)]
    for cell in found:
        exercise = all_exercises()[cell.exercise]
        assert cell.answer_index is not None, f"{cell.exercise} has no answer cell"
        answer, check = notebook.cells[cell.answer_index], notebook.cells[cell.index]
        assert answer.id == exercise.grade_id
        assert check.id == f"{exercise.grade_id}-check"
        assert check.metadata.nbgrader.points == exercise.points
        assert "raise NotImplementedError" in answer.source
        assert len(check.source.strip().split("\n")) == 1


@pytest.mark.parametrize("chapter", chapters())
def test_chapter_has_three_to_six_exercises_that_fit_the_chapter_map(chapter: str) -> None:
    exercises = exercises_of(chapter)
    assert 3 <= len(exercises) <= 6
    assert {exercise.topic for exercise in exercises} == {BY_NAME[chapter].topic}


@pytest.mark.parametrize("chapter", chapters())
def test_a_probe_module_knows_nothing_of_what_is_right(chapter: str) -> None:
    path = ROOT / "course_lib" / "checks" / "probes" / f"{BY_NAME[chapter].topic}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules = {
        ("." * node.level) + (node.module or "")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
    } | {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not {module for module in modules if "course_lib" in module}
    assert {module for module in modules if module.startswith(".")} <= {".", "..exercise", "..modes"}


def test_answers_of_all_chapters_have_names_that_fit_into_one_package() -> None:
    names = [name for chapter in chapters() for name in public_names(chapter).values()]
    assert len(names) == len(EXERCISES)
    assert all(name.isidentifier() for name in names)
    assert len(set(names)) == len(names)
