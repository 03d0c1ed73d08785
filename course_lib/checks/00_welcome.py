"""Exercises of 00_welcome: what is asked, what is right, and how people go wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from .. import shapes as library
from .exercise import Case, Exercise, Misconception, Tolerance
from .probes import welcome as probes

# The library's own versions are no answers, nor parts of one.
LIBRARY = (
    "course_lib.shapes.centre_rows",
    "course_lib.shapes.broadcast_shape",
    "course_lib.shapes.pairwise_squared_distances",
)
# Whatever makes an array of a shape that was asked for, or a view of one.
MAKING_ARRAYS = (
    *("empty", "empty_strided", "zeros", "ones", "full", "rand", "randn", "randint", "arange"),
    *(
        "new_empty",
        "new_zeros",
        "new_ones",
        "new_full",
        "expand",
        "view",
        "reshape",
        "unsqueeze",
        "as_strided",
    ),
)

# --- welcome/centre_rows -----------------------------------------------------------------------


def centre_rows_cases(rng: np.random.Generator) -> Iterator[Case]:
    """A square matrix, where broadcasting hides the mistake, and others, where it does not.

    In the last one the rows vary so little that LayerNorm's epsilon shows.
    """
    for name, shape, dtype, scale, hidden in (
        ("a square matrix", (4, 4), "float32", 1.0, False),
        ("a wide matrix", (2, 5), "float32", 1.0, False),
        ("a single row", (1, 6), "float32", 1.0, True),
        ("a tall matrix of float64", (5, 3), "float64", 0.05, True),
    ):
        matrix = rng.normal(loc=3.0, scale=scale, size=shape).astype(np.float64)
        yield Case(name, {"matrix": matrix, "dtype": dtype}, hidden)


def _normalised(matrix: Tensor, *, unbiased: bool, epsilon: float = 0.0) -> Tensor:
    variance = matrix.var(dim=1, keepdim=True, unbiased=unbiased)
    return (matrix - matrix.mean(dim=1, keepdim=True)) / (variance + epsilon).sqrt()


CENTRE_ROWS = Exercise(
    id="welcome/centre_rows",
    title="Centre the rows, and read a verdict",
    points=1,
    minutes=10,
    difficulty=1,
    cases=centre_rows_cases,
    probe=probes.rows,
    reference=library.centre_rows,
    also_right=(
        lambda matrix: matrix - matrix.mean(dim=1, keepdim=True),
        lambda matrix: torch.stack([row - row.mean() for row in matrix]),
    ),
    steps=lambda case: {
        "the mean of each row": case["matrix"].mean(-1),
        "each row minus its mean": case["matrix"] - case["matrix"].mean(-1, keepdims=True),
    },
    library="course_lib.shapes:centre_rows",
    forbidden=(*LIBRARY, "torch.nn.functional.layer_norm"),
    misconceptions=(
        Misconception(
            "the means of the rows were subtracted along the columns",
            lambda matrix: matrix - matrix.mean(dim=1),
            "`matrix.mean(dim=1)` has shape (n,), and broadcasting lines it up with the *last* axis. On a square "
            "matrix that gives wrong numbers without an error; on most others it fails. Give the means the shape "
            "(n, 1): `keepdim=True`.",
        ),
        Misconception(
            "the mean of each column was subtracted",
            lambda matrix: matrix - matrix.mean(dim=0),
            "`dim=0` runs down the rows and leaves one mean for each column. The mean of each row runs along "
            "the last axis, `dim=1`.",
        ),
        Misconception(
            "the mean of the whole matrix was subtracted",
            lambda matrix: matrix - matrix.mean(),
            "`matrix.mean()` is one number for the whole matrix. Each row has a mean of its own: say along "
            "which axis, with `dim=`.",
        ),
        Misconception(
            "the rows were also divided by their spread",
            lambda matrix: _normalised(matrix, unbiased=True),
            "Only the mean is to be taken away. Dividing by the spread comes later in the course, with LayerNorm.",
        ),
        Misconception(
            "the rows were also divided by their spread, with the divisor d",
            lambda matrix: _normalised(matrix, unbiased=False),
            "Only the mean is to be taken away: leave the division by the standard deviation out.",
        ),
        Misconception(
            "the rows were normalised as LayerNorm does",
            lambda matrix: _normalised(matrix, unbiased=False, epsilon=1e-5),
            "LayerNorm takes the mean away and then divides by the spread. Only its first half is asked for.",
        ),
        Misconception(
            "the sign is reversed",
            lambda matrix: matrix.mean(dim=1, keepdim=True) - matrix,
            "You subtracted the rows from their means. An entry above the mean of its row is to stay positive: "
            "`matrix` stands first.",
        ),
    ),
    hints=(
        "Print the shape of `matrix` and the shape of `matrix.mean(dim=1)`. Which axis of the matrix does "
        "broadcasting line the second one up with?",
        "A column of shape (n, 1) is stretched along each row. How can a mean keep its axis?",
        "`matrix.mean(dim=1, keepdim=True)` has shape (n, 1). Subtract that.",
    ),
)

# --- welcome/broadcast_shape -------------------------------------------------------------------


def broadcast_shape_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Every rule on its own, with fresh lengths, then the edges. A case is named by its two shapes.

    Arrays of 70 axes cannot be made in NumPy, so making them to look at their shape fails there. There are too
    many lengths for a table of all answers.
    """
    n, m, k = (int(length) for length in rng.permutation(np.arange(2, 1000))[:3])
    ones = (1,) * 68
    for first, second, hidden in (
        ((n, m), (n, m), False),
        ((n, 1), (n, m), False),
        ((n, m, k), (k,), False),
        ((n, 1), (m,), False),
        ((n, m), (n, k), False),
        ((n, m), (k, m), False),
        ((n, m), (n,), False),
        ((n, 1, m, 1, k), (m, 1, n, 1), False),
        ((), (n, m), True),
        ((n, m, k), (m, 1, k), True),
        ((n, 0), (n, 1), True),
        ((n, 0), (n, m), True),
        ((1, 1, m), (n, 0, 1), True),
        ((1, k), (n, m, 1), True),
        ((n, *ones, 1), (1, *ones, m), True),
    ):
        shapes = [f"{len(shape)} axes" if len(shape) > 64 else str(shape) for shape in (first, second)]
        yield Case(" with ".join(shapes), {"first": list(first), "second": list(second)}, hidden)


def _by_recursion(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    if not first or not second:
        return first or second
    one, other = first[-1], second[-1]
    if one != other and 1 not in (one, other):
        raise ValueError(f"{one} and {other} do not fit")
    return (*_by_recursion(first[:-1], second[:-1]), other if one == 1 else one)


def _by_padding(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    length = max(len(first), len(second))
    pairs = zip((1,) * (length - len(first)) + first, (1,) * (length - len(second)) + second, strict=True)
    result = []
    for one, other in pairs:
        if one not in (1, other) and other != 1:
            raise ValueError("the shapes do not broadcast")
        result.append(one if other == 1 else other)
    return tuple(result)


def _from_the_left(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    length = max(len(first), len(second))
    return _by_padding(first + (1,) * (length - len(first)), second + (1,) * (length - len(second)))


def _largest(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    length = max(len(first), len(second))
    padded = [(1,) * (length - len(shape)) + shape for shape in (first, second)]
    return tuple(max(pair) for pair in zip(*padded, strict=True))


def _checked_largest(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    _by_padding(first, second)
    return _largest(first, second)


def _cut_short(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    length = min(len(first), len(second))
    return _by_padding(first[len(first) - length :], second[len(second) - length :])


def _strict(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    if len(first) != len(second):
        raise ValueError("the shapes have different numbers of axes")
    return _by_padding(first, second)


def _zero_for_missing(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    return _by_padding(*(tuple(length or 1 for length in shape) for shape in (first, second)))


def _unreversed(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    return _by_padding(first, second)[::-1]


BROADCAST_SHAPE = Exercise(
    id="welcome/broadcast_shape",
    title="Predict what broadcasting does",
    points=2,
    minutes=20,
    difficulty=2,
    cases=broadcast_shape_cases,
    probe=probes.broadcast_shape,
    reference=library.broadcast_shape,
    also_right=(_by_recursion, _by_padding),
    library="course_lib.shapes:broadcast_shape",
    forbidden=(
        *LIBRARY,
        "torch.broadcast_shapes",
        "torch._C._infer_size",
        "torch._refs._broadcast_shapes",
        "torch.jit._shape_functions.broadcast",
        "numpy.broadcast_shapes",
        *(f"aten::{name}" for name in MAKING_ARRAYS),
    ),
    misconceptions=(
        Misconception(
            "shapes are lined up at their left ends",
            _from_the_left,
            "Broadcasting lines shapes up at their *right* ends: (n, m, k) and (k,) fit, (n, m) and (n,) do not.",
        ),
        Misconception(
            "the larger length always wins",
            _largest,
            "Only a length of 1 is stretched. Where two lengths differ and neither is 1, raise ValueError.",
        ),
        Misconception(
            "the lengths came out in reverse order",
            _unreversed,
            "Walking from the right finds the last length first. Turn the result round at the end: "
            "`tuple(reversed(result))`.",
        ),
        Misconception(
            "a length of 0 is taken for a missing axis",
            _zero_for_missing,
            "Only an axis that is not there counts as 1. A length of 0 is a length like any other: it stays 0 "
            "beside a 1 and fits no other length. Note that `length or 1` turns 0 into 1.",
        ),
        Misconception(
            "an axis of length 0 is stretched",
            _checked_largest,
            "Taking the larger of two lengths is nearly right. Beside a 0, the length 1 becomes 0: the result "
            "has no elements.",
        ),
        Misconception(
            "axes that one shape lacks are dropped",
            _cut_short,
            "A missing axis counts as 1, so the result has as many axes as the longer shape.",
        ),
        Misconception(
            "shapes must have the same number of axes",
            _strict,
            "A shorter shape is no error: it counts as if it had axes of length 1 on its left.",
        ),
    ),
    hints=(
        "Write the two shapes under each other, lined up at the right, and put 1 where one is missing. What "
        "may stand in a column?",
        "In each column the two lengths are equal, or one of them is 1; then the result is the other one. "
        "Everything else is an error.",
        "Pad the shorter tuple on its left: `(1,) * (length - len(shape)) + shape`. Then walk over "
        "`zip(first, second)`.",
    ),
)

# --- welcome/distances -------------------------------------------------------------------------


def distances_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Different numbers of rows, equal ones, a single row, a single column."""
    for name, (n, m, d), hidden in (
        ("3 rows against 5", (3, 5, 4), False),
        ("as many rows on both sides", (4, 4, 3), False),
        ("as many rows as columns", (3, 2, 3), False),
        ("one row against one", (1, 1, 6), True),
        ("vectors of one number", (3, 4, 1), True),
    ):
        first, second = (rng.normal(size=(rows, d)).astype(np.float32) for rows in (n, m))
        yield Case(name, {"first": first, "second": second}, hidden)


def _by_products(first: Tensor, second: Tensor) -> Tensor:
    return (first**2).sum(1)[:, None] + (second**2).sum(1) - 2 * first @ second.T


def _by_loops(first: Tensor, second: Tensor) -> Tensor:
    return torch.stack([torch.stack([((one - other) ** 2).sum() for other in second]) for one in first])


DISTANCES = Exercise(
    id="welcome/distances",
    title="A table of distances without a loop",
    points=2,
    minutes=20,
    difficulty=2,
    cases=distances_cases,
    probe=probes.distances,
    reference=library.pairwise_squared_distances,
    also_right=(_by_products, _by_loops),
    tolerance=Tolerance(absolute=1e-4, relative=1e-4),
    steps=lambda case: {
        "the differences, shape (n, m, d)": case["first"][:, None] - case["second"][None],
        "their squares": (case["first"][:, None] - case["second"][None]) ** 2,
        "the sums over d": ((case["first"][:, None] - case["second"][None]) ** 2).sum(-1),
    },
    library="course_lib.shapes:pairwise_squared_distances",
    forbidden=(*LIBRARY, "torch.cdist", "torch.pdist"),
    misconceptions=(
        Misconception(
            "the distances are not squared",
            lambda first, second: _by_loops(first, second).sqrt(),
            "Squared distances are asked for: leave the square root out.",
        ),
        Misconception(
            "the table is transposed",
            lambda first, second: _by_loops(first, second).T,
            "Row i belongs to the i-th row of `first`, column j to the j-th row of `second`.",
        ),
        Misconception(
            "the mean is taken instead of the sum",
            lambda first, second: _by_loops(first, second) / first.shape[1],
            "A squared distance is the *sum* of the squared differences over the last axis, not their mean.",
        ),
        Misconception(
            "absolute differences are summed",
            lambda first, second: (first[:, None] - second[None]).abs().sum(-1),
            "You summed absolute differences (the Manhattan distance). Square them instead.",
        ),
        Misconception(
            "the rows are paired one to one",
            lambda first, second: ((first - second) ** 2).sum(-1),
            "`first - second` compares row i with row i only. Every row is to meet every other one: put an "
            "axis of length 1 into each, `first[:, None, :]` and `second[None, :, :]`.",
        ),
    ),
    hints=(
        "Start from the shape of the result, (n, m), and of the differences before the sum, (n, m, d). How "
        "must the two inputs look to broadcast to (n, m, d)?",
        "`first[:, None, :]` has shape (n, 1, d). What must `second` become, so that their difference has "
        "shape (n, m, d)?",
        "Subtract `first[:, None, :] - second[None, :, :]`, square, and sum over the last axis with `dim=-1`.",
    ),
)

# --- welcome/spread ----------------------------------------------------------------------------

WIDTHS = (4, 16, 64, 256)


def spread_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Pairs of matrices of several widths; few rows, so that the divisors n and n - 1 tell apart.

    In one case the entries of one width are larger: the points then lie on no straight line, and only
    least squares finds the slope that is asked for.
    """
    for name, widths, rows, scales, hidden in (
        ("four widths", WIDTHS, 60, (1.0, 1.0, 1.0, 1.0), False),
        ("four widths, one with larger entries", WIDTHS, 60, (1.0, 3.0, 1.0, 1.0), False),
        ("widths in another order", (64, 4, 16), 40, (1.0, 1.0, 1.0), True),
        ("entries twice as large", (8, 32, 256), 40, (2.0, 2.0, 2.0), True),
    ):
        draw = [
            [(scale * rng.normal(size=(rows, d))).astype(np.float32) for _ in range(2)]
            for d, scale in zip(widths, scales, strict=True)
        ]
        yield Case(name, {"pairs": draw}, hidden)


Pairs = list[tuple[Tensor, Tensor]]


def _spread(
    pairs: Pairs,
    *,
    products: Callable[[Tensor, Tensor], Tensor] = lambda a, b: (a * b).sum(-1),
    measure: Callable[[Tensor], Tensor] = lambda x: x.std(),
    of_width: Callable[[np.ndarray], np.ndarray] = np.log,
    of_spread: Callable[[np.ndarray], np.ndarray] = np.log,
    line: Callable[[np.ndarray, np.ndarray], float] = lambda x, y: np.polyfit(x, y, 1)[0],
) -> tuple[list[float], float]:
    spreads = [float(measure(products(first, second))) for first, second in pairs]
    widths = of_width(np.array([first.shape[1] for first, _ in pairs], dtype=float))
    return spreads, float(line(widths, of_spread(np.array(spreads))))


def _itself(values: np.ndarray) -> np.ndarray:
    return values


def _mean_of_slopes(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.mean(np.diff(y) / np.diff(x)))


def _spread_by_covariance(pairs: Pairs) -> tuple[list[float], float]:
    spreads, widths = [], []
    for first, second in pairs:
        dots = torch.einsum("nd,nd->n", first, second)
        spreads.append(((dots - dots.mean()).square().sum() / (len(dots) - 1)).sqrt().item())
        widths.append(first.shape[-1])
    x, y = np.log2(widths), np.log2(spreads)
    return spreads, float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())


def _spread_by_lstsq(pairs: Pairs) -> tuple[list[float], float]:
    dots = [np.diag(first.numpy() @ second.numpy().T) for first, second in pairs]
    spreads = [float(np.std(values, ddof=1)) for values in dots]
    columns = np.stack([np.log([first.shape[1] for first, _ in pairs]), np.ones(len(pairs))], axis=1)
    return spreads, float(np.linalg.lstsq(columns, np.log(spreads), rcond=None)[0][0])


SPREAD = Exercise(
    id="welcome/spread",
    title="Measure how dot products spread",
    points=3,
    minutes=30,
    difficulty=3,
    cases=spread_cases,
    probe=probes.spread,
    reference=_spread,
    also_right=(_spread_by_covariance, _spread_by_lstsq),
    forbidden=LIBRARY,
    tolerance={
        "the list of spreads": Tolerance(absolute=1e-3, relative=1e-3),
        "the exponent": Tolerance(absolute=2e-3, relative=2e-3),
    },
    misconceptions=(
        Misconception(
            "the variance was measured",
            lambda pairs: _spread(pairs, measure=lambda x: x.var()),
            "The spread asked for is the standard deviation, the square root of the variance. The variance grows "
            "like d, so its exponent is twice as large.",
        ),
        Misconception(
            "the divisor is n instead of n - 1",
            lambda pairs: _spread(pairs, measure=lambda x: x.std(unbiased=False)),
            "`np.std` divides by n unless it is given `ddof=1`; `torch.std` divides by n - 1 unless it is told "
            "not to. The spread asked for has the divisor n - 1.",
        ),
        Misconception(
            "every row was multiplied with every other",
            lambda pairs: _spread(pairs, products=lambda a, b: a @ b.T),
            "`first @ second.T` is a table of all pairs of rows. Only row i of `first` with row i of `second` "
            "is asked for: multiply elementwise, then sum over the last axis.",
        ),
        Misconception(
            "the products were not summed",
            lambda pairs: _spread(pairs, products=lambda a, b: a * b),
            "`first * second` is still d numbers a row. A dot product is their sum over the last axis.",
        ),
        Misconception(
            "the products were averaged",
            lambda pairs: _spread(pairs, products=lambda a, b: (a * b).mean(-1)),
            "A dot product is a sum. The mean divides by d, which turns the growth into a shrinking.",
        ),
        Misconception(
            "the line was fitted without logarithms",
            lambda pairs: _spread(pairs, of_width=_itself, of_spread=_itself),
            "The exponent is the slope of log(spread) against log(width). Without logarithms the slope has "
            "another meaning, and there is no straight line.",
        ),
        Misconception(
            "the logarithm of the spreads was left out",
            lambda pairs: _spread(pairs, of_spread=_itself),
            "Both sides of spread = c · dᵖ are put into logarithms: log(spread) = log(c) + p · log(d). You took "
            "that of the widths only.",
        ),
        Misconception(
            "the logarithm of the widths was left out",
            lambda pairs: _spread(pairs, of_width=_itself),
            "Both sides of spread = c · dᵖ are put into logarithms: log(spread) = log(c) + p · log(d). You took "
            "that of the spreads only.",
        ),
        Misconception(
            "the axes of the line were exchanged",
            lambda pairs: _spread(pairs, line=lambda x, y: np.polyfit(y, x, 1)[0]),
            "The spread depends on the width, so log(width) is x and log(spread) is y.",
        ),
        Misconception(
            "the intercept was returned instead of the slope",
            lambda pairs: _spread(pairs, line=lambda x, y: np.polyfit(x, y, 1)[1]),
            "`np.polyfit(x, y, deg=1)` returns the slope first and then the intercept.",
        ),
        Misconception(
            "the slope was taken between the first and the last point only",
            lambda pairs: _spread(pairs, line=lambda x, y: (y[-1] - y[0]) / (x[-1] - x[0])),
            "Two points fix a line, and all the points between them are then ignored. Least squares weighs "
            "them all: `np.polyfit(x, y, deg=1)`.",
        ),
        Misconception(
            "the slopes between neighbouring points were averaged",
            lambda pairs: _spread(pairs, line=_mean_of_slopes),
            "The mean of the slopes is not the slope of the best line. Least squares weighs all the points: "
            "`np.polyfit(x, y, deg=1)`.",
        ),
    ),
    hints=(
        "For one pair: which operation turns two matrices of shape (n, d) into n dot products, row by row?",
        "`(first * second).sum(dim=-1).std()` is one spread. For the exponent: if spread = c · dᵖ, then "
        "log(spread) = log(c) + p · log(d), a straight line with slope p.",
        "`np.polyfit(np.log(widths), np.log(spreads), 1)[0]` is the slope of the best straight line. Return "
        "`(spreads, float(slope))`.",
    ),
)

# --- welcome/add_positions ---------------------------------------------------------------------


def add_positions_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Several dtypes, and torch's "meta" device, which shows where tensors are made."""
    for name, shape, dtype, device, hidden in (
        ("a small batch", (2, 5, 3), "float32", "cpu", False),
        ("as many tokens as features", (2, 4, 4), "float32", "cpu", False),
        ("tensors on another device", (2, 5, 3), "float32", "meta", False),
        ("a batch of float64", (2, 3, 2), "float64", "cpu", True),
        ("bfloat16", (1, 4, 2), "bfloat16", "cpu", True),
        ("a single token", (3, 1, 2), "float32", "cpu", True),
    ):
        vectors = rng.normal(size=shape)
        yield Case(name, {"vectors": vectors, "dtype": dtype, "device": device}, hidden)


def add_positions(vectors: Tensor) -> Tensor:
    """vectors[i, j] + j for every feature: (b, t, d) → (b, t, d), on the same device, in the same dtype."""
    positions = torch.arange(vectors.shape[1], device=vectors.device, dtype=vectors.dtype)
    return vectors + positions[:, None]


def _positions_on_the_cpu(vectors: Tensor) -> Tensor:
    return vectors + torch.arange(vectors.shape[1])[:, None].to(vectors.dtype)


def _moved_to_the_cpu(vectors: Tensor) -> Tensor:
    return add_positions(vectors.cpu())


def _result_on_the_cpu(vectors: Tensor) -> Tensor:
    result = torch.zeros(vectors.shape)
    for position in range(vectors.shape[1]):
        result[:, position] = vectors[:, position] + position
    return result


def _counted(vectors: Tensor, axis: int, later_axes: int) -> Tensor:
    """The indices of one axis, followed by so many axes of length 1, added to the vectors."""
    numbers = torch.arange(vectors.shape[axis], device=vectors.device, dtype=vectors.dtype)
    return vectors + numbers.reshape(-1, *(1,) * later_axes)


def _as_float32(vectors: Tensor) -> Tensor:
    return vectors.float() + torch.arange(vectors.shape[1], device=vectors.device)[:, None].float()


def _in_loops(vectors: Tensor) -> Tensor:
    result = vectors.clone()
    for position in range(vectors.shape[1]):
        result[:, position] += position
    return result


def _from_one(vectors: Tensor) -> Tensor:
    return add_positions(vectors) + 1


FEATURES_ARE_LAST = (
    "A tensor of shape (t,) or (d,) is lined up with the last axis, the features. Positions belong to axis 1: "
    "give them the shape (t, 1)."
)
BATCH_IS_FIRST = (
    "You counted the sequences of the batch: `len(vectors)` and `vectors.shape[0]` are b. Every sequence starts "
    "again at position 0; positions belong to axis 1, of length `vectors.shape[1]`."
)

ADD_POSITIONS = Exercise(
    id="welcome/add_positions",
    title="New tensors on the right device",
    points=2,
    minutes=15,
    difficulty=2,
    cases=add_positions_cases,
    probe=probes.add_positions,
    reference=add_positions,
    also_right=(
        _in_loops,
        lambda vectors: vectors + vectors.new_ones(vectors.shape[1]).cumsum(0).sub(1).view(1, -1, 1),
    ),
    forbidden=LIBRARY,
    gpu=True,
    misconceptions=(
        Misconception(
            "the positions are made on the CPU",
            _positions_on_the_cpu,
            "`torch.arange(n)` makes its tensor on the CPU. Where the vectors are elsewhere, adding the two fails: "
            "pass `device=vectors.device`.",
        ),
        Misconception(
            "the vectors are moved to the CPU",
            _moved_to_the_cpu,
            'Your code needs the numbers on the CPU: by `.cpu()`, by `.to("cpu")`, or by writing the vectors '
            "into a new tensor that was made there. Stay on `vectors.device` from beginning to end.",
        ),
        Misconception(
            "the result is made on the CPU, in float32",
            _result_on_the_cpu,
            "`torch.zeros(vectors.shape)` takes the shape and nothing else: the new tensor is on the CPU, in "
            "float32. `torch.zeros_like(vectors)` and `vectors.clone()` keep device and dtype.",
        ),
        Misconception(
            "positions run along the features",
            lambda vectors: _counted(vectors, axis=2, later_axes=0),
            FEATURES_ARE_LAST,
        ),
        Misconception(
            "positions have no axis after them, so they meet the features",
            lambda vectors: _counted(vectors, axis=1, later_axes=0),
            FEATURES_ARE_LAST,
        ),
        Misconception(
            "positions run along the batch",
            lambda vectors: _counted(vectors, axis=0, later_axes=2),
            BATCH_IS_FIRST,
        ),
        Misconception(
            "as many positions as sequences",
            lambda vectors: _counted(vectors, axis=0, later_axes=1),
            BATCH_IS_FIRST,
        ),
        Misconception(
            "as many positions as sequences, laid along the features",
            lambda vectors: _counted(vectors, axis=0, later_axes=0),
            f"{BATCH_IS_FIRST} Give them the shape (t, 1).",
        ),
        Misconception(
            "the dtype of the input is lost",
            _as_float32,
            "The result is to have the dtype of the input, float64 and bfloat16 included: pass "
            "`dtype=vectors.dtype`.",
        ),
        Misconception(
            "positions start at one",
            _from_one,
            "The first token has position 0, as everywhere in this course.",
        ),
    ),
    hints=(
        "Which shape must the positions have, so that broadcasting lines them up with axis 1 of (b, t, d)?",
        "Positions of shape (t, 1) are stretched over the batch and over the features. "
        "`torch.arange` takes `device=` and `dtype=`.",
        "`torch.arange(vectors.shape[1], device=vectors.device, dtype=vectors.dtype)[:, None]` is what to add.",
    ),
)

EXERCISES: tuple[Exercise, ...] = (CENTRE_ROWS, BROADCAST_SHAPE, DISTANCES, SPREAD, ADD_POSITIONS)
