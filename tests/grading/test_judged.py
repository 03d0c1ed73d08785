"""Predictions are judged by truth that no learner's process has: from self-study to the sandbox and the mark.

Oracles: PyTorch's losses, NumPy's correlation, and an attack that succeeds where the truth is near.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from course_lib.checks.compare import INPUTS
from course_lib.checks.engine import draw_cases, evaluate, expected_values, run_answer
from course_lib.checks.exercise import Case, Exercise, Misconception, Score
from course_lib.checks.probes.training import fit_and_predict
from course_lib.checks.scores import shortfall, with_truth
from course_lib.checks.values import Array, Opaque, Raised
from course_lib.grading.confine import Limits
from course_lib.grading.decide import Mark, agree, decide, public_first, rendered
from course_lib.grading.protocol import Channel, decode, encode
from course_lib.grading.sandbox import Outcome, Worker, available, stage_library

ROOT = Path(__file__).resolve().parents[2]
confined = pytest.mark.skipif(not available()["bubblewrap"], reason="bubblewrap does not work here")
PREDICTIONS = "the predictions"
CANARY = "kept-outside-5c9e"
TRAIN, TEST = 90, 61

SOLUTION = """
import torch

def classify(train_inputs, train_labels, test_inputs):
    weights = torch.zeros(2, 3, requires_grad=True)
    bias = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([weights, bias], lr=0.2)
    for _ in range(60):
        optimizer.zero_grad()
        logits = train_inputs @ weights + bias
        torch.nn.functional.cross_entropy(logits, train_labels).backward()
        optimizer.step()
    return (test_inputs @ weights + bias).argmax(dim=-1)
"""
NEAREST = """
import torch

def classify(train_inputs, train_labels, test_inputs):
    means = torch.stack([train_inputs[train_labels == label].mean(dim=0) for label in range(3)])
    return torch.cdist(test_inputs, means).argmin(dim=-1)
"""
MAJORITY = """
import torch

def classify(train_inputs, train_labels, test_inputs):
    return train_labels.mode().values.expand(len(test_inputs)).clone()
"""
SHUFFLED = SOLUTION.replace(
    "    weights", "    train_labels = train_labels[torch.randperm(len(train_labels))]\n    weights", 1
)
MEMORISED = """
import torch

def classify(train_inputs, train_labels, test_inputs):
    known = {tuple(row.tolist()): label for row, label in zip(train_inputs, train_labels)}
    return torch.stack([known.get(tuple(row.tolist()), torch.tensor(1)) for row in test_inputs])
"""
ALWAYS_TWO = """
import torch

def classify(train_inputs, train_labels, test_inputs):
    return torch.full((len(test_inputs),), 2)
"""
WRONG = {"the majority class": MAJORITY, "labels in another order": SHUFFLED, "a memory": MEMORISED}
# Looks through every frame and every object that there is for the right number of whole numbers.
LOOTER = f"""
import gc, sys
import numpy as np
import torch

def everything():
    frame = sys._getframe()
    while frame is not None:
        yield from list(frame.f_locals.values())
        frame = frame.f_back
    gc.unfreeze()
    yield from gc.get_objects()

def classify(train_inputs, train_labels, test_inputs):
    for found in everything():
        if type(found).__name__ == "Case":
            found = found.withheld
        for part in list(found.values()) if type(found) is dict else [found]:
            if type(part) is np.ndarray and part.shape == ({TEST},) and part.dtype.kind == "i":
                return torch.as_tensor(part)
    return torch.zeros(len(test_inputs), dtype=torch.int64)
"""
# Opens what memory it can, its own and others'.
READER = """
import glob

def classify(train_inputs, train_labels, test_inputs):
    opened = []
    for process in ["/proc/self", *glob.glob("/proc/[0-9]*")]:
        try:
            open(process + "/mem", "rb").close()
            opened.append(process)
        except OSError:
            pass
    return " ".join(opened)
"""


def built(source: str) -> Any:
    scope: dict[str, Any] = {}
    exec(source, scope)
    return scope["classify"]


def clusters(rng: np.random.Generator) -> Iterator[Case]:
    for name, hidden in ((f"{TEST} points", False), ("a fresh draw", True)):
        turn = rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(3) / 3
        labels = rng.choice(3, size=TRAIN + TEST, p=[0.5, 0.3, 0.2])
        points = 3 * np.stack([np.cos(turn), np.sin(turn)], axis=-1)[labels]
        points = (points + 0.8 * rng.standard_normal(points.shape)).astype(np.float32)
        inputs = {
            "train inputs": points[:TRAIN],
            "train labels": labels[:TRAIN],
            "test inputs": points[TRAIN:],
        }
        # Copies, so that no input is a view of an array that also holds the truth.
        inputs = {key: value.copy() for key, value in inputs.items()}
        withheld = {"labels": labels[TRAIN:].copy(), "note": np.array(CANARY)}
        yield Case(name, inputs, hidden, withheld=withheld)


EXERCISE = Exercise(
    id="training/clusters",
    title="A classifier",
    points=4,
    minutes=10,
    difficulty=2,
    cases=clusters,
    probe=fit_and_predict,
    reference=built(SOLUTION),
    misconceptions=tuple(Misconception(name, built(source), "Look.") for name, source in WRONG.items()),
    also_right=(built(NEAREST),),
    hints=("", "", ""),
    judged={PREDICTIONS: Score("accuracy", at_least=0.9, truth="labels")},
)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    library = stage_library(ROOT, tmp_path_factory.mktemp("staged") / "library")
    with Worker(library, Limits(program=10, case=20)) as started:
        yield started


def run(worker: Worker, source: str, seed: int = 5) -> tuple[Mark, Outcome]:
    cases = public_first(draw_cases(EXERCISE, seed))
    outcome = worker.run([source], EXERCISE.probe_name, "classify", cases)
    expected = [expected_values(EXERCISE, case) for case in cases]
    wrong = {entry.name: run_answer(EXERCISE, entry.answer, cases) for entry in EXERCISE.misconceptions}
    mark = decide(
        EXERCISE,
        cases,
        expected,
        outcome.values,
        ended=outcome.status,
        message=outcome.message,
        wrong=wrong,
    )
    return mark, outcome


# --- from self-study to the mark ----------------------------------------------------------------------


@pytest.mark.parametrize("source", [SOLUTION, NEAREST], ids=["the solution", "another way"])
@pytest.mark.parametrize("seed", range(5))
def test_a_good_classifier_passes_its_check(source: str, seed: int) -> None:
    assert evaluate(EXERCISE, built(source), seed=seed).passed


@confined
@pytest.mark.parametrize("source", [SOLUTION, NEAREST], ids=["the solution", "another way"])
def test_a_good_classifier_gets_full_marks(worker: Worker, source: str) -> None:
    mark, _ = run(worker, source)
    assert (mark.earned, mark.sentences()) == (4, ["All 2 cases passed."])


@confined
@pytest.mark.parametrize("name", WRONG)
def test_a_bad_classifier_fails_and_is_named_here_and_there(worker: Worker, name: str) -> None:
    verdict = evaluate(EXERCISE, built(WRONG[name]), seed=5)
    mark, _ = run(worker, WRONG[name])
    assert (mark.earned, verdict.earned) == (0, 0)
    assert (mark.misconception, verdict.misconception) == (name, name)
    assert mark.findings[0] == verdict.findings[0]
    assert mark.findings[0].text.startswith(f"On {TEST} points, the accuracy of the predictions is 0.")
    assert mark.findings[0].text.endswith("; at least 0.9 is asked for.")


def test_predictions_that_are_bad_in_another_way_are_not_named() -> None:
    verdict = evaluate(EXERCISE, built(ALWAYS_TWO), seed=5)
    assert (verdict.status, verdict.misconception) == ("failed", None)


@confined
def test_the_score_on_a_hidden_case_is_for_staff_only(worker: Worker) -> None:
    mark, _ = run(worker, ALWAYS_TWO)
    assert [finding.kind for finding in mark.findings] == ["score", "score"]
    assert mark.findings[1].case == ""
    assert mark.findings[1].text.endswith("there your predictions are less good than is asked for.")
    assert mark.private[1].startswith("On a fresh draw, the accuracy of the predictions is 0.")


def test_a_probe_begins_with_the_same_random_numbers_and_leaves_ours_alone() -> None:
    case = next(clusters(np.random.default_rng(0)))
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first, second = (fit_and_predict(lambda *given: torch.rand(4), case)[PREDICTIONS] for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.rand(2), expected)


# --- attacks --------------------------------------------------------------------------------------------


def test_the_looter_and_the_reader_succeed_where_the_truth_is_near() -> None:
    """What shows that the two would find it if it were in their process."""
    case = next(clusters(np.random.default_rng(5)))
    # As a careless grader would: the whole case in the probe's own frame.
    assert fit_and_predict(built(LOOTER), case)[PREDICTIONS].tolist() == case.withheld["labels"].tolist()
    assert fit_and_predict(built(READER), case)[PREDICTIONS].startswith("/proc/self")


@confined
def test_no_frame_or_object_in_the_sandbox_holds_the_truth_and_no_memory_is_open(worker: Worker) -> None:
    mark, outcome = run(worker, LOOTER)
    assert outcome.status == "ok"
    assert mark.findings[0].kind == "score"
    for values in outcome.values:
        assert isinstance(values, dict)
        assert values[PREDICTIONS].data.tolist() == [0] * TEST
    mark, outcome = run(worker, READER)
    assert [values[PREDICTIONS] for values in outcome.values if isinstance(values, dict)] == ["", ""]
    assert mark.findings[0].kind == "predictions"


@confined
def test_inputs_and_device_are_all_that_is_sent_of_a_case(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    send = Channel.send

    def listening(channel: Channel, message: Any, *more: Any) -> None:
        sent.append(message)
        send(channel, message, *more)

    monkeypatch.setattr(Channel, "send", listening)
    run(worker, MAJORITY)
    cases = [message for message in sent if "inputs" in message]
    assert [set(message) for message in cases] == [{"number", "inputs", "device"}] * 2
    assert {name for message in cases for name in message["inputs"]} == {
        "train inputs",
        "train labels",
        "test inputs",
    }
    assert not any(
        CANARY.encode(code) in encode(message) for message in sent for code in ("utf8", "utf-32-le")
    )


HOSTILE = {
    "text that says yes": ("predictions", "type('Text', (str,), {'__eq__': lambda s, o: True, **H})('x')"),
    "an object that says yes": ("predictions", "type('Yes', (), {'__eq__': lambda s, o: True, **H})()"),
    "a number that says yes": ("predictions", "type('One', (int,), {'__eq__': lambda s, o: True, **H})(1)"),
    "NaN": ("dtype", "torch.full((61,), float('nan'))"),
    "decimal numbers": ("dtype", "train_labels[:61].float()"),
    "truth values": ("dtype", "[True] * 61"),
    "too few": ("shape", "train_labels[:60]"),
    "too many": ("shape", "torch.zeros(3_000_000, dtype=torch.int64)"),
    "one column": ("shape", "train_labels[:61, None]"),
    "every class at once": ("shape", "torch.arange(3).expand(61, 3)"),
    "lists of different lengths": ("predictions", "[[0], [0, 1]]"),
    "words": ("predictions", "['0'] * 61"),
    "nothing": ("nothing", "None"),
    "a part of them": ("predictions", "[0] * 60 + [None]"),
    "no memory behind them": ("predictions", "torch.zeros(61, dtype=torch.int64, device='meta')"),
}


@confined
@pytest.mark.parametrize("name", HOSTILE)
def test_malformed_predictions_are_told_in_a_sentence(worker: Worker, name: str) -> None:
    kind, expression = HOSTILE[name]
    source = (
        "import torch\nH = {'__hash__': lambda s: 0}\n"
        f"def classify(train_inputs, train_labels, test_inputs):\n    return {expression}\n"
    )
    mark, outcome = run(worker, source)
    assert outcome.status == "ok"
    assert (mark.earned, mark.findings[0].kind) == (0, kind)
    verdict = evaluate(EXERCISE, built(source), seed=5)
    assert verdict.findings[0] == mark.findings[0]
    assert verdict.misconception is mark.misconception is None


# --- what nbval compares ---------------------------------------------------------------------------------


def values(predicted: Any) -> dict[str, Any]:
    return {PREDICTIONS: predicted, INPUTS: "as they were"}


def expected_on(case: Case) -> dict[str, Any]:
    return with_truth(EXERCISE, case, {INPUTS: "as they were"})


def test_nbval_is_given_the_truth_itself_or_the_score() -> None:
    case = next(clusters(np.random.default_rng(5)))
    expected, labels = expected_on(case), case.withheld["labels"]
    almost = labels.copy()
    almost[:3] = (almost[:3] + 1) % 3
    reference, answer = rendered(EXERCISE, expected, values(Array(almost, "int64", "torch.Tensor")))
    assert answer == reference
    almost[:10] = (labels[:10] + 1) % 3
    reference, answer = rendered(EXERCISE, expected, values(almost.tolist()))
    assert answer != reference
    assert "0.836; at least 0.9 is asked for" in answer
    # A text that quotes what the reference prints is a text.
    assert not agree(EXERCISE, expected, values(reference.split(": ", 1)[1].split("\n")[0]))


def test_a_score_is_told_with_enough_digits_to_be_below_the_bar() -> None:
    truth = np.zeros(100_000, dtype=np.int64)
    predicted = (np.arange(100_000) >= 89_999).astype(np.int64)
    found = shortfall(Score("accuracy", "labels", at_least=0.9), array(truth), array(predicted))
    assert found is not None
    assert found.details["score"] == "0.89999"


def test_a_case_without_its_truth_is_not_graded() -> None:
    case = replace(next(clusters(np.random.default_rng(5))), withheld={})
    predicted = values([0] * TEST)
    mark = decide(EXERCISE, [case], [predicted], [predicted])
    assert mark.earned is None
    assert mark.private == (f"training/clusters: {TEST} points withholds no numbers called 'labels'",)


def test_the_reference_s_own_predictions_are_no_truth() -> None:
    """A grader that hands over the reference's predictions changes nothing: the case's truth is taken."""
    case = next(clusters(np.random.default_rng(5)))
    wrong = values([2] * TEST)
    assert decide(EXERCISE, [case], [wrong], [wrong]).status == "failed"


def test_judged_values_and_others_stand_side_by_side() -> None:
    entry = replace(EXERCISE, judged=MappingProxyType(EXERCISE.judged))
    case = next(clusters(np.random.default_rng(5)))
    expected = with_truth(entry, case, {"the loss": 0.5, INPUTS: "as they were"})
    right = values(case.withheld["labels"].tolist())
    assert decide(entry, [case], [expected], [right | {"the loss": 0.5}]).status == "passed"
    assert decide(entry, [case], [expected], [right | {"the loss": 0.7}]).findings[0].kind == "scalar"
    assert decide(entry, [case], [expected], [right]).findings[0].kind == "missing"


# --- the measures -----------------------------------------------------------------------------------------


def array(data: Any) -> Array:
    data = np.asarray(data)
    return Array(data, str(data.dtype), "numpy.ndarray")


def measured(measure: str, truth: Any, predicted: Any) -> float:
    """What a bar that nothing reaches says of these predictions."""
    upwards = measure in ("accuracy", "correlation")
    bar = {"at_least": 2.0} if upwards else {"at_most": -1.0}
    found = shortfall(Score(measure, "truth", **bar), array(truth), predicted)
    assert found is not None
    assert found.kind == "score", found
    return float(str(found.details["score"]))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_measures_are_what_others_compute(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, guessed = rng.integers(4, size=(2, 50))
    labels[0] = 3
    assert measured("accuracy", labels, array(guessed)) == pytest.approx(
        sum(map(int.__eq__, labels.tolist(), guessed.tolist())) / 50
    )
    truth, predicted = rng.standard_normal((2, 50))
    error = measured("mean squared error", truth, array(predicted))
    assert error == pytest.approx(F.mse_loss(torch.tensor(predicted), torch.tensor(truth)).item(), rel=1e-2)
    correlation = measured("correlation", truth, array(predicted))
    assert correlation == pytest.approx(np.corrcoef(truth, predicted)[0, 1], rel=1e-2, abs=1e-9)
    probabilities = rng.dirichlet(np.ones(4), size=50) + 1e-9
    probabilities /= probabilities.sum(axis=-1, keepdims=True)
    logs = np.log(probabilities)
    expected = F.nll_loss(torch.tensor(logs), torch.tensor(labels)).item()
    assert measured("negative log-likelihood", labels, array(logs)) == pytest.approx(expected, rel=1e-2)


def test_tensors_of_one_entry_in_a_list_are_numbers() -> None:
    score = Score("accuracy", "truth", at_least=1.0)
    assert shortfall(score, array([0, 1]), [array(np.int64(0)), array(np.int64(1))]) is None
    assert shortfall(score, array([0, 1]), [array([0]), array([1])]) is not None


@pytest.mark.parametrize(
    ("logs", "kind"),
    [
        (np.zeros((2, 3)), "probabilities"),
        (np.full((2, 3), np.inf), "probabilities"),
        (np.full((2, 3), np.nan), "nan"),
        (np.log(np.full((2, 2), 0.5)), "shape"),
        (np.log(np.full(3, 1 / 3)), "shape"),
        (np.log(np.float64(1 / 3)), "shape"),
        (np.zeros((2, 3), dtype=np.int64), "dtype"),
        (np.log(np.full((2, 5), 1 / 5)), "score"),
        (np.log(np.full((2, 3), 1 / 3)), None),
    ],
)
def test_only_probabilities_have_a_likelihood(logs: np.ndarray, kind: str | None) -> None:
    found = shortfall(Score("negative log-likelihood", "truth", at_most=1.2), array([2, 0]), array(logs))
    assert (found and found.kind) == kind


@pytest.mark.parametrize(
    "predicted", [np.zeros(4), np.array([1, np.inf, 0, 0])], ids=["one number", "infinite"]
)
def test_predictions_without_a_correlation_do_not_reach_one(predicted: np.ndarray) -> None:
    found = shortfall(Score("correlation", "truth", at_least=0.1), array([1.0, 2, 3, 4]), array(predicted))
    assert found is not None
    assert found.details["score"] == "0"


dtypes = st.sampled_from(["?", "i1", "u8", "f2", "f8", "c8", "U2", "S3"])
arrays = dtypes.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_side=4, min_side=0)))
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=2)
    | st.binary(max_size=2)
    | st.builds(array, arrays)
    | st.builds(Opaque, st.just("a thing"))
    | st.builds(Raised, st.just("ValueError"), st.just(""))
)
anything = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=2)
)


@given(
    anything, st.sampled_from(["accuracy", "correlation", "mean squared error", "negative log-likelihood"])
)
@settings(max_examples=300, deadline=None)
def test_nothing_predicted_is_an_error(predicted: Any, measure: str) -> None:
    bar = {"at_least": 0.5} if measure in ("accuracy", "correlation") else {"at_most": 0.5}
    found = shortfall(Score(measure, "truth", **bar), array([0, 1, 2, 1]), decode(encode(predicted)))
    assert found is None or found.kind in ("predictions", "shape", "dtype", "nan", "probabilities", "score")


@pytest.mark.parametrize(
    "fields",
    [{"at_most": 0.9}, {}, {"at_least": 0.9, "at_most": 1.0}, {"measure": "beauty", "at_least": 0.9}],
    ids=["the wrong side", "no bar", "two bars", "an unknown measure"],
)
def test_a_score_that_cannot_be_meant_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"accuracy needs at_least|measure='beauty', expected one of"):
        Score(**{"measure": "accuracy", "truth": "labels"} | fields)
