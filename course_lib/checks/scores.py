"""How good predictions are, measured against the truth. What a learner's code returned is never trusted.

n is the shape of the truth; k stands for the number of classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .exercise import Case, Exercise, Score
from .values import Array, normalise

# How far the probabilities of one example may add up to more than one.
EXCESS = 1e-3


@dataclass(frozen=True)
class Shortfall:
    """Why predictions are not good enough. kind: of sentence; details: what fills its blanks."""

    kind: str
    details: Mapping[str, object]


def with_truth(exercise: Exercise, case: Case, values: Mapping[str, Any]) -> dict[str, Any]:
    """A reference's values, with the withheld truth in the place of what it predicted.

    Raises ValueError where the case withholds none.
    """
    truths = {}
    for name, score in exercise.judged.items():
        truth = np.asarray(case.withheld.get(score.truth, ()))
        if not truth.size or truth.dtype.kind not in "biuf":
            raise ValueError(f"{exercise.id}: {case.name} withholds no numbers called {score.truth!r}")
        truths[name] = normalise(truth)
    return dict(values) | truths


def shortfall(score: Score, truth: Array, predicted: Any) -> Shortfall | None:
    """What keeps these predictions below the bar, or None when they reach it.

    truth: n. predicted: any normalised value; right are an array of n, or (n, k) log-probabilities, or
    lists of numbers of that shape. Never raises for anything predicted.
    """
    found = _numbers(predicted)
    if found is None:
        return Shortfall("predictions", {})
    problem = _malformed(score, truth.data, found)
    if problem:
        return problem
    with np.errstate(all="ignore"):
        measured = _MEASURES[score.measure](found, truth.data)
    if score.reached(measured):
        return None
    return Shortfall("score", {"measure": score.measure, "score": _told(score, measured), "bar": _bar(score)})


def _malformed(score: Score, truth: np.ndarray, found: np.ndarray) -> Shortfall | None:
    by_class = score.measure == "negative log-likelihood"
    expected = (*truth.shape, int(truth.max()) + 1) if by_class else truth.shape
    shape = found.shape
    if by_class and shape:  # there may be more classes than the truth happens to hold
        shape = (*shape[:-1], min(shape[-1], expected[-1]))
    if shape != expected:
        return Shortfall("shape", {"actual": found.shape, "expected": expected})
    whole = score.measure == "accuracy"
    if found.dtype.kind not in ("iu" if whole else "f" if by_class else "fiu"):
        wanted = "int64, because a class is a whole number" if whole else "float32"
        return Shortfall("dtype", {"actual": found.dtype, "expected": wanted})
    if np.isnan(found).any():
        return Shortfall("nan", {"where": _first(np.isnan(found)), "expected": "a number"})
    return _not_probabilities(found) if by_class else None


def _not_probabilities(found: np.ndarray) -> Shortfall | None:
    """Log-probabilities that are none would make any prediction look likely."""
    with np.errstate(all="ignore"):
        sums = np.exp(found.astype(np.float64)).sum(axis=-1)
    too_large = sums > 1 + EXCESS
    if not too_large.any():
        return None
    return Shortfall("probabilities", {"where": _first(too_large), "actual": f"{sums[too_large][0]:.4g}"})


def _first(wrong: np.ndarray) -> str:
    return f"[{', '.join(map(str, np.argwhere(wrong)[0]))}]"


def _numbers(value: Any) -> np.ndarray | None:
    """An array of plain numbers, or None for everything else."""
    if isinstance(value, Array):
        return value.data if value.data.dtype.kind in "biuf" and value.device != "meta" else None
    if not isinstance(value, list):
        return None
    plain = _plain(value)
    try:
        found = np.asarray(plain) if plain is not None else None
    except (ValueError, OverflowError):  # lists of different lengths
        return None
    return found if found is not None and found.dtype.kind in "biuf" else None


def _plain(value: Any) -> Any:
    """Nested lists of plain numbers, those in tensors of one entry too; None where there is anything else."""
    if isinstance(value, list):
        items = [_plain(item) for item in value]
        return None if any(item is None for item in items) else items
    if isinstance(value, Array) and value.data.shape == () and value.device != "meta":
        value = value.data.item()
    return value if isinstance(value, (int, float)) else None


def _accuracy(predicted: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean(predicted == truth))


def _mean_squared_error(predicted: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean((predicted.astype(np.float64) - truth) ** 2))


def _negative_log_likelihood(predicted: np.ndarray, truth: np.ndarray) -> float:
    right = np.take_along_axis(predicted.astype(np.float64), truth[..., None].astype(np.int64), axis=-1)
    return float(-np.mean(right))


def _correlation(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Pearson's; 0 where all predictions are the same, or one of them is infinite."""
    ours, theirs = (values.astype(np.float64).ravel() for values in (predicted, truth))
    ours, theirs = ours - ours.mean(), theirs - theirs.mean()
    scale = float(np.linalg.norm(ours) * np.linalg.norm(theirs))
    return float(ours @ theirs) / scale if np.isfinite(scale) and scale > 0 else 0.0


_MEASURES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": _accuracy,
    "correlation": _correlation,
    "mean squared error": _mean_squared_error,
    "negative log-likelihood": _negative_log_likelihood,
}


def _told(score: Score, measured: float) -> str:
    """A number below the bar, with as few digits as still show that it is."""
    texts = (f"{measured:.{digits}g}" for digits in (3, 5, 17))
    return next(text for text in texts if not score.reached(float(text)))


def _bar(score: Score) -> str:
    return f"at {'least' if score.at_least is not None else 'most'} {score.bar:g}"
