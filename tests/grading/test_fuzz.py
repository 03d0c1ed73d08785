"""Mutated notebooks and archives are read or refused, and the fuzzer notices where they are not.

Oracle: what `benchmarks/fuzz_notebooks.py` requires of each item; faults put in here on purpose.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest

from course_lib.grading.graft import Extracted, extract_answers, graft
from course_lib.grading.intake import Refused, read_submissions
from course_lib.grading.sandbox import available

ROOT = Path(__file__).resolve().parents[2]
SEED = 20261121
SDPA = "attention-sdpa"


@pytest.fixture(scope="module")
def fuzzer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz_notebooks", ROOT / "benchmarks" / "fuzz_notebooks.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_a_short_run_finds_nothing_and_reaches_every_way_out(fuzzer: ModuleType) -> None:
    report = fuzzer.fuzz(range(200), SEED)
    assert report.failures == []
    assert report.items == 200
    ways = ("read", "read, with notes", "in a container: read")
    assert all(report.outcomes[way] > 5 for way in ways)
    refusals = [outcome for outcome in report.outcomes if "refused: " in outcome]
    assert sum(outcome.startswith("refused") for outcome in refusals) > 5
    assert sum(outcome.startswith("in a container") for outcome in refusals) > 3


def test_an_item_is_the_same_whichever_were_made_before(fuzzer: ModuleType) -> None:
    together = fuzzer.fuzz(range(20, 30), SEED).outcomes
    alone = [fuzzer.fuzz(range(index, index + 1), SEED).outcomes for index in reversed(range(20, 30))]
    assert sum((outcomes for outcomes in alone), start=type(together)()) == together


# --- Each thing that must hold is noticed where it does not ------------------------------------------------


def crash(raw: bytes, pristine: nbformat.NotebookNode) -> Extracted:
    found = extract_answers(raw, pristine)
    if found.notes:
        raise RecursionError
    return found


def strip(raw: bytes, pristine: nbformat.NotebookNode) -> Extracted:
    found = extract_answers(raw, pristine)
    return replace(found, answers={name: source + " " for name, source in found.answers.items()})


def forget(raw: bytes, pristine: nbformat.NotebookNode) -> Extracted:
    found = extract_answers(raw, pristine)
    return replace(found, answers=dict(list(found.answers.items())[1:]))


def refuse(raw: bytes, pristine: nbformat.NotebookNode) -> Extracted:
    found = extract_answers(raw, pristine)
    starters = extract_answers(nbformat.writes(pristine).encode(), pristine).answers
    return Extracted(starters, problem="It has notes.") if found.notes else found


def chatter(raw: bytes, pristine: nbformat.NotebookNode) -> Extracted:
    found = extract_answers(raw, pristine)
    return replace(found, problem=found.problem and f"Oh no. {found.problem}")


FAULTS: list[tuple[Callable[..., Any], str]] = [
    (crash, "RecursionError"),
    (strip, "was not taken"),
    (forget, "not one answer for each exercise"),
    (refuse, "refused with whole answers in it"),
    (chatter, "not one sentence"),
]


@pytest.mark.parametrize(("fault", "words"), FAULTS, ids=[fault.__name__ for fault, _ in FAULTS])
def test_a_fault_in_the_extraction_is_noticed(
    fuzzer: ModuleType, monkeypatch: pytest.MonkeyPatch, fault: Callable[..., Any], words: str
) -> None:
    monkeypatch.setattr(fuzzer, "extract_answers", fault)
    report = fuzzer.fuzz(range(40), SEED)
    assert any(words in failure.what for failure in report.failures)


def test_a_fault_in_the_graft_is_noticed(fuzzer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def numbered(pristine: nbformat.NotebookNode, answers: dict[str, str]) -> nbformat.NotebookNode:
        rebuilt = graft(pristine, answers)
        rebuilt.cells[0].metadata["number"] = 1
        return rebuilt

    monkeypatch.setattr(fuzzer, "graft", numbered)
    report = fuzzer.fuzz(range(5), SEED)
    assert any("the graft changed the cell" in failure.what for failure in report.failures)


def test_a_notebook_that_goes_unmentioned_is_noticed(
    fuzzer: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def silent(*given: Any) -> Any:
        return (item for item in read_submissions(*given) if not isinstance(item, Refused))

    monkeypatch.setattr(fuzzer, "read_submissions", silent)
    report = fuzzer.fuzz(range(100), SEED, save=tmp_path)
    assert any("notebooks mentioned" in failure.what for failure in report.failures)
    saved = {path.name for path in tmp_path.iterdir()}
    for failure in report.failures:
        assert {f"{SEED}-{failure.index}", f"{SEED}-{failure.index}.txt"} <= saved


def test_an_item_that_takes_too_long_is_noticed(fuzzer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzzer, "SECONDS", 0.0)
    assert "took" in fuzzer.fuzz(range(1), SEED).failures[0].what


# --- Graded items ------------------------------------------------------------------------------------------


def half_solved(fuzzer: ModuleType) -> tuple[Any, bytes]:
    """The unsolved notebook of 06_attention and its bytes with one published answer in it."""
    base = next(
        base for base in fuzzer.bases() if base.chapter == "06_attention" and base.whole == base.starters
    )
    document = json.loads(json.dumps(base.document))
    cell = next(cell for cell in document["cells"] if cell["id"] == SDPA)
    cell["source"] = fuzzer.solution_of("06_attention")[SDPA]
    return base, json.dumps(document).encode()


def test_a_wrong_mark_is_noticed(fuzzer: ModuleType) -> None:
    base, raw = half_solved(fuzzer)
    right = {grade_id: (2 if grade_id == SDPA else 0, 2) for grade_id in base.starters}
    assert fuzzer.judge_notebook(raw, base, set(), lambda *given: right) == "graded: read"
    other = next(grade_id for grade_id in base.starters if grade_id != SDPA)
    for wrong, words in (
        (right | {SDPA: (0, 2)}, "is solved and got 0 of 2"),
        (right | {other: (2, 2)}, "is the starter and got 2"),
        (right | {other: (None, 2)}, "is ungraded"),
        ({SDPA: (2, 2)}, "not one mark for each exercise"),
    ):
        with pytest.raises(fuzzer.Violation, match=words):
            fuzzer.judge_notebook(raw, base, set(), lambda *given, wrong=wrong: wrong)


@pytest.mark.slow
@pytest.mark.skipif(not available()["bubblewrap"], reason="bubblewrap does not work here")
def test_a_notebook_is_graded_in_the_sandbox(fuzzer: ModuleType) -> None:
    base, raw = half_solved(fuzzer)
    with fuzzer.sandboxed() as grade:
        assert fuzzer.judge_notebook(raw, base, set(), grade) == "graded: read"
