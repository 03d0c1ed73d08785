"""The staff's bundle: what it holds, that a change is seen, and that marks need nothing else."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from course_lib.checks.registry import exercises_of
from course_lib.grading.bundle import MANIFEST, Bundle, BundleProblem, make_bundle
from course_lib.grading.cut import cut, shared
from course_lib.grading.graft import context_cells
from course_lib.grading.oracle import Oracle, OracleFailure
from course_lib.grading.sandbox import stage_library

ROOT = Path(__file__).resolve().parents[2]
CHAPTER = "00_welcome"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(ROOT, [CHAPTER], tmp_path_factory.mktemp("bundle") / "private")


def test_it_has_the_exercises_their_points_and_their_sentences(made: Bundle) -> None:
    questions = made.assignment(CHAPTER).questions
    for question, exercise in zip(questions, exercises_of(CHAPTER), strict=True):
        for name in ("id", "title", "points", "forbidden", "seconds", "gpu", "judged", "speed", "tolerance"):
            assert getattr(question.exercise, name) == getattr(exercise, name), (exercise.id, name)
        told = [(wrong.name, wrong.sentence) for wrong in question.exercise.misconceptions]
        assert told == [(wrong.name, wrong.sentence) for wrong in exercise.misconceptions]
        assert question.probe == exercise.probe_name
    assert made.assignment(CHAPTER).title == "Welcome"


def test_only_its_owner_may_look_into_it(made: Bundle) -> None:
    assert stat.S_IMODE(made.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((made.folder / MANIFEST).stat().st_mode) == 0o600


def test_two_bundles_have_two_seeds_and_two_environments(made: Bundle, tmp_path: Path) -> None:
    other = make_bundle(ROOT, [CHAPTER], tmp_path / "other")
    assert other.manifest["seed"] != made.manifest["seed"]
    assert other.environment != made.environment
    assert other.manifest["files"] == made.manifest["files"]


def test_learners_read_the_library_without_what_all_of_a_chapter_forbids(tmp_path: Path) -> None:
    chapter = "06_attention"
    bundle = make_bundle(ROOT, [chapter], tmp_path / "private")
    assert "torch._dynamo" not in bundle.preload(chapter)
    shown = stage_library(bundle.library, tmp_path / "shown", bundle.cut(chapter))
    assignment = bundle.assignment(chapter)
    expected = stage_library(bundle.library, tmp_path / "cut anew")
    cut(expected, shared([each.cut for each in assignment.questions]), context_cells(assignment.pristine))
    found = [{path.relative_to(top): path for path in top.rglob("*.*")} for top in (shown, expected)]
    assert found[0].keys() == found[1].keys()
    assert all(path.read_bytes() == found[1][name].read_bytes() for name, path in found[0].items())
    whole, left = ((top / "course_lib/layers/attention.py").read_text() for top in (bundle.library, shown))
    assert "nn.Linear(" in whole and "nn.Linear(" not in left


def test_what_torch_imports_late_is_imported_before_any_case_that_needs_it(made: Bundle) -> None:
    """On the device without memory: in a case of this chapter."""
    code = "import sys, torch; torch.ones(2, device='meta') + 1; print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
    assert "torch._dynamo" in made.preload(CHAPTER)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda folder: (folder / "pristine/00_welcome.ipynb").write_text("{}"), "was changed after"),
        (lambda folder: (folder / "library/course_lib/shapes.py").unlink(), "lacks library/course_lib"),
        (lambda folder: (folder / "library/course_lib/new.py").write_text("x = 1"), "did not make"),
        (lambda folder: (folder / MANIFEST).write_text('{"format": 1'), "cannot be read"),
        (lambda folder: (folder / MANIFEST).write_text('{"format": 99}'), "another format"),
        (lambda folder: (folder / MANIFEST).unlink(), "is no bundle"),
    ],
    ids=["changed", "missing", "added", "cut short", "another format", "no manifest"],
)
def test_a_bundle_that_is_not_as_it_was_made_is_refused(tmp_path: Path, change: object, told: str) -> None:
    bundle = make_bundle(ROOT, [CHAPTER], tmp_path / "private")
    change(bundle.folder)  # type: ignore[operator]
    with pytest.raises(BundleProblem, match=told):
        Bundle.open(bundle.folder)


def test_points_can_be_set_and_an_exercise_left_out(tmp_path: Path) -> None:
    points = {"welcome/centre_rows": 7, "welcome/broadcast_shape": 0}
    bundle = make_bundle(ROOT, [CHAPTER], tmp_path / "private", points)
    found = {
        question.exercise.id: question.exercise.points for question in bundle.assignment(CHAPTER).questions
    }
    assert found["welcome/centre_rows"] == 7 and "welcome/broadcast_shape" not in found
    with pytest.raises(BundleProblem, match="welcome/nothing"):
        make_bundle(ROOT, [CHAPTER], tmp_path / "second", {"welcome/nothing": 1})


def test_a_folder_with_something_in_it_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(BundleProblem, match="not an empty folder"):
        make_bundle(ROOT, [CHAPTER], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_oracle_draws_what_the_engine_draws(made: Bundle) -> None:
    from course_lib.checks.engine import draw_cases, run_probe
    from course_lib.checks.registry import get
    from course_lib.grading.decide import agree, public_first

    exercise = get("welcome/centre_rows")
    with Oracle(made.library) as oracle:
        draw = oracle.draw(exercise.id, 5)
        again = oracle.draw(exercise.id, 5)
        other = oracle.draw(exercise.id, 6)
        wrong = oracle.wrong(exercise.id, 5)
    assert again is draw
    cases = public_first(draw_cases(exercise, 5))
    assert [(case.name, case.hidden) for case in draw.cases] == [(case.name, case.hidden) for case in cases]
    for case, values in zip(cases, draw.expected, strict=True):
        assert agree(exercise, run_probe(exercise, exercise.reference, case), values)
    assert any(
        (one["matrix"] != two["matrix"]).any() for one, two in zip(draw.cases, other.cases, strict=True)
    )
    assert set(wrong) == {one.name for one in exercise.misconceptions}


def test_the_oracle_survives_its_own_end_and_says_what_it_cannot_do(made: Bundle) -> None:
    with Oracle(made.library) as oracle:
        oracle.draw("welcome/centre_rows", 1)
        assert oracle._process is not None
        oracle._process.kill()
        oracle._process.wait()
        assert oracle.draw("welcome/centre_rows", 2).cases
        with pytest.raises(OracleFailure, match="welcome/nothing"):
            oracle.draw("welcome/nothing", 1)
        assert oracle.draw("welcome/centre_rows", 3).cases


def test_the_manifest_holds_no_answer(made: Bundle) -> None:
    text = json.dumps(made.manifest["chapters"])
    assert "lambda" not in text and "reference" not in text and "def " not in text
