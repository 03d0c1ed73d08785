"""Every notebook is in step with its text, and runs within its limits: what `course build --check` says."""

from __future__ import annotations

from pathlib import Path

from course_lib.authoring.build import build

ROOT = Path(__file__).resolve().parents[1]


def test_build_check_finds_nothing_out_of_step_and_nothing_that_fails() -> None:
    report = build(ROOT, check=True)
    assert not report.problems, "\n".join(report.problems)
    assert len(report.timings) >= 2 * len(list((ROOT / "notebooks").glob("*.md")))


def test_no_notebook_is_larger_than_a_megabyte() -> None:
    for path in [
        *ROOT.glob("notebooks/*.ipynb"),
        *ROOT.glob("solutions/*.ipynb"),
        *ROOT.glob("exercises/*.ipynb"),
    ]:
        assert path.stat().st_size < 1_000_000, path.name
