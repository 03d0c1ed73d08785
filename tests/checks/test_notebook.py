"""What a notebook shows: cards in HTML and text, one line in place of a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from course_lib.checks import NotPassed, check, hint, progress
from course_lib.checks.card import progress_card, verdict_card
from course_lib.checks.compare import Finding
from course_lib.checks.engine import Verdict
from course_lib.checks.journal import ChapterRow, Progress
from course_lib.layers.masks import causal_mask


@pytest.fixture(autouse=True)
def own_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "progress.json"
    monkeypatch.setenv("COURSE_PROGRESS", str(path))
    return path


def tril(n_query: int, n_key: int) -> torch.Tensor:
    return torch.ones(n_query, n_key, dtype=torch.bool).tril(n_key - n_query)


def test_a_passed_check_says_so_and_is_kept(own_progress: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check("attention/causal_mask", tril)
    assert "✓ Passed" in capsys.readouterr().out
    assert Progress(own_progress).of("attention/causal_mask").passed


def test_a_failed_check_raises_after_its_card(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NotPassed, match="attention/causal_mask: failed") as caught:
        check("attention/causal_mask", lambda q, k: ~tril(q, k))
    out = capsys.readouterr().out
    assert "This looks like: the mask is inverted." in out
    assert 'hint("attention/causal_mask")' in out
    assert caught.value._render_traceback_() == ["attention/causal_mask: failed"]


def test_a_demonstration_leaves_the_progress_alone(own_progress: Path) -> None:
    check("attention/causal_mask", tril, keep=False)
    assert not own_progress.exists()


def test_the_librarys_own_version_is_not_an_answer() -> None:
    with pytest.raises(NotPassed, match="the library's own causal_mask"):
        check("attention/causal_mask", causal_mask)


def test_in_ipython_the_error_is_one_line(own_progress: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    shell.run_cell('from course_lib.checks import check\ncheck("attention/causal_mask", lambda q, k: None)')
    out = capsys.readouterr().out
    assert "your function returned nothing" in out
    assert "Traceback" not in out
    InteractiveShell.clear_instance()


def test_a_verdict_survives_progress_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        Progress,
        "record",
        lambda self, verdict: (_ for _ in ()).throw(OSError(28, "No space left on device")),
    )
    check("attention/causal_mask", tril)
    out = capsys.readouterr().out
    assert "✓ Passed" in out
    assert "could not be saved: No space left on device" in out


def test_cards_escape_what_a_learner_wrote() -> None:
    finding = Finding("a case", "scalar", "the result is '<script>alert(1)</script>'")
    card = verdict_card(Verdict("a/b", "T", 1, "failed", 1, (finding,)), 3, 3)
    assert "<script>" not in card.html
    assert "&lt;script&gt;" in card.html
    assert set(card._repr_mimebundle_()) == {"text/html", "text/plain"}


def test_hints_and_progress_are_cards(own_progress: Path) -> None:
    assert "Hint 1 of 3" in hint("attention/sdpa").text
    assert "Hint 2 of 3" in hint("attention/sdpa").text
    assert "06_attention" in progress().text
    card = progress_card([ChapterRow("06_attention", 1, 4, 2, 8)])
    assert 'aria-label="25 percent"' in card.html
