"""Recorded exercises. Oracle: the engine on the same public cases, with the code they were recorded from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from course_lib.checks import notebook, recorded
from course_lib.checks.engine import NoCases, Verdict, evaluate
from course_lib.checks.exercise import Case, Exercise, Misconception, Score, Speed, Tolerance
from course_lib.checks.export import fallback
from course_lib.checks.journal import Progress
from course_lib.checks.probes import attention as probes
from course_lib.checks.recorded import RecordingProblem, data_file, load, record
from course_lib.checks.registry import get
from course_lib.checks.replay import REFERENCE, RecordedCase, Replay
from course_lib.checks.values import Array, Raised
from course_lib.grading import protocol
from course_lib.layers.masks import causal_mask

SEED = 5
IDS = (
    "welcome/centre_rows",
    "welcome/broadcast_shape",
    "welcome/add_positions",
    "tokenizers/bpe_step",
    "tokenizers/best_cut",
    "tokenizers/batch_cost",
    "attention/causal_mask",
    "attention/sdpa",
)


def public_only(exercise: Exercise) -> Exercise:
    """The exercise as far as a pack can know it."""
    return replace(
        exercise,
        cases=lambda rng: [case for case in exercise.cases(rng) if not case.hidden and not case.timed],
    )


def through_a_file(exercise: Exercise, folder: Path, seeds: tuple[int, ...] = (SEED,)) -> Exercise:
    data_file("recorded", folder).write_bytes(record([exercise], seeds))
    (loaded,) = load("recorded", folder)
    return loaded


def not_started(*given: Any, **named: Any) -> Any:
    raise NotImplementedError


def fails(*given: Any, **named: Any) -> Any:
    raise IndexError(f"{len(given)} are too many")


MASK = get("attention/causal_mask")


@pytest.mark.parametrize("exercise_id", IDS)
def test_every_verdict_is_that_of_the_engine_on_the_same_cases(exercise_id: str, tmp_path: Path) -> None:
    exercise = get(exercise_id)
    here, there = through_a_file(exercise, tmp_path), public_only(exercise)
    answers = [wrong.answer for wrong in exercise.misconceptions]
    for answer in (*answers, *exercise.also_right, not_started, fails, exercise.reference, 7):
        assert evaluate(here, answer, seed=1) == evaluate(there, answer, seed=SEED)


def test_a_pass_without_hidden_cases_says_that_grading_tries_further_ones(tmp_path: Path) -> None:
    packed, right = through_a_file(MASK, tmp_path), MASK.also_right[0]
    (note,) = evaluate(packed, right).notes
    assert note.startswith("Grading tries further cases")
    assert evaluate(packed, fails).notes == ()
    assert evaluate(MASK, right).passed and evaluate(MASK, right).notes == ()


def test_a_verdict_names_the_first_step_that_differs(tmp_path: Path) -> None:
    def halved(query: Any, key: Any, value: Any, mask: Any = None) -> Any:
        scores = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5 / 2
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        weights = scores.softmax(-1).nan_to_num()
        return weights @ value, weights

    verdict = evaluate(through_a_file(get("attention/sdpa"), tmp_path), halved)
    assert verdict.misconception is None
    assert verdict.step is not None and "“weights (softmax over the keys)”, is not" in verdict.step


def test_texts_and_limits_are_those_of_the_exercise(tmp_path: Path) -> None:
    for exercise in map(get, IDS):
        loaded = through_a_file(exercise, tmp_path)
        for name in ("id", "title", "points", "minutes", "difficulty", "hints", "tolerance", "forbidden"):
            assert getattr(loaded, name) == getattr(exercise, name)
        assert (loaded.library, loaded.gpu, loaded.seconds) == (
            exercise.library,
            exercise.gpu,
            exercise.seconds,
        )
        assert loaded.probe is exercise.probe
        told = {wrong.name: wrong.sentence for wrong in exercise.misconceptions}
        assert {wrong.name: wrong.sentence for wrong in loaded.misconceptions}.items() <= told.items()


def test_tolerances_by_name_and_points_for_speed_survive(tmp_path: Path) -> None:
    tolerance = {"the mask": Tolerance(absolute=0.5), "another": Tolerance(relative=0.25)}
    loaded = through_a_file(replace(MASK, tolerance=tolerance, speed=Speed(2, at_most=1.5)), tmp_path)
    assert (loaded.tolerance, loaded.speed) == (tolerance, Speed(2, at_most=1.5))


def test_the_same_seeds_give_the_same_bytes_and_others_do_not() -> None:
    exercises = [MASK, get("welcome/distances")]
    assert record(exercises, (1, 2)) == record(exercises, (1, 2))
    assert record(exercises, (1, 2)) != record(exercises, (1, 3))


def test_a_file_holds_no_hidden_case_and_no_value_of_one(tmp_path: Path) -> None:
    for exercise in map(get, IDS):
        data_file("recorded", tmp_path).write_bytes(record([exercise], (SEED,)))
        loaded = load("recorded", tmp_path)[0].cases(np.random.default_rng(0))
        drawn = list(exercise.cases(np.random.default_rng(SEED)))
        assert [case.name for case in loaded] == [case.name for case in drawn if not case.hidden]
        public = {case.name for case in drawn if not case.hidden}
        content = data_file("recorded", tmp_path).read_bytes()
        for name in {case.name for case in drawn if case.hidden} - public:
            assert f'"name","{name}"'.encode() not in content


def test_a_misconception_that_only_a_hidden_case_tells_is_left_out(tmp_path: Path) -> None:
    def right_but_for_one(n_query: int, n_key: int) -> torch.Tensor:
        return MASK.also_right[0](n_query, n_key) ^ (n_key == 1)

    wrong = Misconception("one position is nothing", right_but_for_one, "It sees itself.")
    exercise = replace(MASK, misconceptions=(*MASK.misconceptions, wrong))
    names = {told.name for told in through_a_file(exercise, tmp_path).misconceptions}
    assert names == {told.name for told in MASK.misconceptions}


def test_each_recorded_draw_is_used(tmp_path: Path) -> None:
    loaded = through_a_file(MASK, tmp_path, (1, 2, 3))
    shapes = {str([dict(case.inputs) for case in loaded.cases(np.random.default_rng(i))]) for i in range(40)}
    expected = [public_only(MASK).cases(np.random.default_rng(seed)) for seed in (1, 2, 3)]
    assert shapes == {str([dict(case.inputs) for case in draw]) for draw in expected}


def test_an_answer_that_changes_its_inputs_does_not_change_the_record(tmp_path: Path) -> None:
    exercise = get("tokenizers/batch_cost")
    loaded = through_a_file(exercise, tmp_path)

    def meddling(sequences: Any, texts: Any, *rest: Any) -> Any:
        sequences.clear()
        return exercise.also_right[0](sequences, texts, *rest)

    assert not evaluate(loaded, meddling).passed
    assert evaluate(loaded, exercise.also_right[0]).passed


def test_hidden_cases_are_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = through_a_file(MASK, tmp_path)
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "progress.json"))
    monkeypatch.setattr(notebook, "get", lambda exercise_id: loaded)
    with pytest.raises(NoCases, match="There are no hidden cases of attention/causal_mask here") as caught:
        notebook.check("attention/causal_mask", MASK.also_right[0], hidden=True)
    assert len(caught.value._render_traceback_()) == 1
    assert capsys.readouterr().out == ""
    assert not Progress(tmp_path / "progress.json").of("attention/causal_mask").passed


def test_a_stand_in_leads_to_the_librarys_version_or_says_that_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "course_lib.checks.export.get", lambda exercise_id: through_a_file(get(exercise_id), tmp_path)
    )
    assert fallback("attention/causal_mask") is causal_mask
    with pytest.raises(NotImplementedError, match="There is no answer to attention/sdpa here yet"):
        fallback("attention/sdpa")(1, 2, mask=None)


def test_on_cuda_the_recorded_tensors_are_expected_there_and_arrays_are_not() -> None:
    tensor, array = (Array(np.ones(2), "float64", kind) for kind in ("torch.Tensor", "numpy.ndarray"))
    meta = replace(tensor, device="meta")
    values = {REFERENCE: {"the result": [tensor, array, meta]}, "wrong": Raised("ValueError", "no")}
    case = RecordedCase("a case", {}, values=values)
    assert Replay("a/b").on(case) is values[REFERENCE]
    there = replace(case, device="cuda")
    assert [item.device for item in Replay("a/b").on(there)["the result"]] == ["cuda", "cpu", "meta"]
    assert Replay("a/b", "wrong").on(there) == values["wrong"]


def guess(train: Any, labels: Any, test: Any) -> Any:
    return torch.zeros(len(test), dtype=torch.int64)


def nearest(train: Any, labels: Any, test: Any) -> Any:
    return labels[torch.cdist(test, train).argmin(dim=1)]


def two_clusters(rng: np.random.Generator) -> list[Case]:
    labels = np.arange(40) % 2
    points = (rng.normal(size=(40, 2)) + 9 * labels[:, None]).astype(np.float32)
    inputs: dict[str, Any] = {
        "query": points[:20],
        "key": labels[:20].astype(np.float32),
        "value": points[20:],
    }
    inputs |= {"mask": None, "dtype": "float32", "layout": "contiguous", "gradient": False}
    return [
        Case("two clusters", inputs, withheld={"labels": labels[20:]}),
        Case("on a GPU", inputs, timed=True),
    ]


def test_predictions_are_judged_by_the_truth_of_the_public_cases(tmp_path: Path) -> None:
    def predicts(answer: Any) -> Any:
        return lambda train, labels, test: (answer(train, labels.long(), test), "the nearest")

    exercise = replace(
        get("attention/sdpa"),
        cases=two_clusters,
        reference=predicts(nearest),
        misconceptions=(Misconception("always the first class", predicts(guess), "Look at the points."),),
        steps=None,
        judged={"the output": Score("accuracy", truth="labels", at_least=0.9)},
    )
    loaded = through_a_file(exercise, tmp_path)
    assert evaluate(loaded, predicts(nearest)).passed
    verdict = evaluate(loaded, predicts(guess))
    assert verdict.misconception == "always the first class"
    assert "accuracy of the output is 0.5" in verdict.findings[0].text


def test_draws_are_left_out_where_the_file_would_be_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = len(record([MASK], (1,))), len(record([MASK], (1, 2)))
    monkeypatch.setattr(recorded, "LARGEST_FILE", (one + two) // 2)
    assert record([MASK], (1, 2, 3)) == record([MASK], (1,))
    monkeypatch.setattr(recorded, "LARGEST_FILE", one - 1)
    with pytest.raises(RecordingProblem, match="One draw of 06_attention has"):
        record([MASK], (1, 2, 3))


def test_an_exercise_without_public_cases_cannot_be_recorded() -> None:
    hidden = replace(MASK, cases=lambda rng: [Case("one", {"n_query": 1, "n_key": 1}, hidden=True)])
    with pytest.raises(RecordingProblem, match="attention/causal_mask has no public case"):
        record([hidden])


def test_a_file_of_another_format_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    path = data_file("recorded", tmp_path)
    path.write_bytes(protocol.encode({"format": 0, "exercises": []}))
    with pytest.raises(RecordingProblem, match="format 0"):
        load("recorded", tmp_path)
    path.write_bytes(record([MASK], (1,))[:-1])
    with pytest.raises(protocol.ProtocolError):
        load("recorded", tmp_path)[0].cases(np.random.default_rng(0))


def test_verdicts_differ_between_right_and_wrong(tmp_path: Path) -> None:
    """The comparison above would also hold were every verdict the same."""
    loaded = through_a_file(MASK, tmp_path)
    verdicts: list[Verdict] = [evaluate(loaded, wrong.answer) for wrong in MASK.misconceptions]
    assert {verdict.misconception for verdict in verdicts} == {wrong.name for wrong in MASK.misconceptions}
    assert evaluate(loaded, MASK.also_right[0]).passed
    assert loaded.probe is probes.causal_mask
