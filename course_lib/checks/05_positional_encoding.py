"""Exercises of 05_positional_encoding: what is asked, what is right, and how people go wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..layers import positions as library_positions
from ..layers import relative as library_relative
from ..layers import rotary as library_rotary
from .exercise import Case, Exercise, Misconception, Tolerance
from .probes import positional_encoding as probes

# The library's own versions are no answers, nor parts of one. Its Rotary is: exercise 6 may build on it.
LIBRARY = (
    "course_lib.layers.positions.sinusoidal_table",
    "course_lib.layers.positions.shift_matrix",
    "course_lib.layers.positions.SinusoidalEncoding",
    "course_lib.layers.positions.frequencies",
    "course_lib.layers.rotary.convert_layout",
    "course_lib.layers.relative.relative_bucket",
    "course_lib.layers.relative.RelativeBias",
    "course_lib.layers.relative.alibi_slopes",
    "course_lib.layers.relative.alibi_bias",
    "course_lib.layers.relative.distance_table",
)
ROTARY = (
    "course_lib.layers.rotary.Rotary",
    "course_lib.layers.rotary.split_pairs",
    "course_lib.layers.rotary.join_pairs",
    "torch.onnx.ops.rotary_embedding",
    "torch.onnx.ops._impl.rotary_embedding_23",
)

# --- positional_encoding/sinusoidal ------------------------------------------------------------------


def sinusoidal_cases(rng: np.random.Generator) -> Iterator[Case]:
    """A small table, another base; then one position, odd widths, a width of 1, a longer table."""
    for name, n_positions, d_model, base, hidden in (
        ("a small table", int(rng.integers(4, 8)), 8, None, False),
        ("another base", int(rng.integers(12, 20)), 6, float(rng.integers(50, 400)), False),
        ("an odd width", int(rng.integers(3, 9)), int(rng.choice([5, 7, 9])), None, False),
        ("one position", 1, 10, None, True),
        ("a width of 1", int(rng.integers(3, 9)), 1, None, True),
        ("a longer table", int(rng.integers(150, 250)), 2 * int(rng.integers(8, 30)), None, True),
    ):
        yield Case(name, {"n_positions": n_positions, "d_model": d_model, "base": base}, hidden)


def table_of_any_width(n_positions: int, d_model: int, base: float = 10000.0) -> Tensor:
    """As the library's, with odd widths too: column c of pair c // 2, a sine where c is even."""
    columns = torch.arange(d_model)
    exponents = (2 * (columns // 2)).double() / d_model
    angles = torch.arange(n_positions).double()[:, None] / base**exponents
    return torch.where(columns % 2 == 0, angles.sin(), angles.cos()).float()


def sinusoidal_steps(case: Case) -> Mapping[str, np.ndarray]:
    """Frequencies, angles, table."""
    d_model, base = case["d_model"], case["base"] or 10000.0
    rates = base ** -(np.arange(0, d_model, 2) / d_model)
    table = table_of_any_width(case["n_positions"], d_model, base).numpy()
    angles = np.arange(case["n_positions"])[:, None] * rates
    return {"the angle per position of each pair": rates, "the angles": angles, "the table": table}


def _table_by_loops(n_positions: int, d_model: int, base: float = 10000.0) -> Tensor:
    table = torch.empty(n_positions, d_model)
    for p in range(n_positions):
        for c in range(d_model):
            angle = p / base ** (2 * (c // 2) / d_model)
            table[p, c] = math.sin(angle) if c % 2 == 0 else math.cos(angle)
    return table


def _table_by_assignment(n_positions: int, d_model: int, base: float = 10000.0) -> Tensor:
    position = torch.arange(n_positions, dtype=torch.float).unsqueeze(1)
    div_term = torch.exp(torch.arange(0, d_model, 2).float() * (-math.log(base) / d_model))
    table = torch.zeros(n_positions, d_model)
    table[:, 0::2] = torch.sin(position * div_term)
    table[:, 1::2] = torch.cos(position * div_term)[:, : d_model // 2]
    return table


def _table_by_complex_numbers(n_positions: int, d_model: int, base: float = 10000.0) -> Tensor:
    rates = base ** -(torch.arange(0, d_model, 2).double() / d_model)
    turns = torch.polar(torch.ones(1).double(), torch.outer(torch.arange(n_positions).double(), rates))
    return torch.view_as_real(turns).flip(-1).flatten(1)[:, :d_model].float()


def _wrong_table(
    *,
    exponent: Callable[[Tensor, int], Tensor] = lambda columns, d: 2 * (columns // 2) / d,
    first: int = 0,
    even: str = "sin",
    own_base: float | None = None,
    inverse: bool = False,
    finish: Callable[[Tensor], Tensor] = lambda table: table,
) -> Callable[..., Tensor]:
    """A table with one thing wrong; by default nothing is."""

    def table(n_positions: int, d_model: int, base: float = 10000.0) -> Tensor:
        columns = torch.arange(d_model)
        power = (own_base or base) ** exponent(columns, d_model).double()
        positions = (torch.arange(n_positions) + first).double()[:, None]
        angles = positions * power if inverse else positions / power
        is_sine = (columns % 2 == 0) == (even == "sin")
        return finish(torch.where(is_sine, angles.sin(), angles.cos()).float())

    return table


def _halves(table: Tensor) -> Tensor:
    return torch.cat([table[:, 0::2], table[:, 1::2]], dim=1)


def _fails_on_odd_widths(n_positions: int, d_model: int, base: float = 10000.0) -> Tensor:
    angles = torch.arange(n_positions)[:, None] / base ** (torch.arange(0, d_model, 2) / d_model)
    table = torch.zeros(n_positions, d_model)
    table[:, 0::2] = angles.sin()
    table[:, 1::2] = angles.cos()
    return table


def _one_column_too_many(n_positions: int, d_model: int, base: float = 10000.0) -> Tensor:
    angles = torch.arange(n_positions)[:, None] / base ** (torch.arange(0, d_model, 2) / d_model)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


def _last_column_left_zero(table: Tensor) -> Tensor:
    last = table.shape[1] - 1
    return torch.cat([table[:, :last], torch.zeros_like(table[:, last:])], 1) if last % 2 == 0 else table


SINUSOIDAL = Exercise(
    id="positional_encoding/sinusoidal",
    title="The sinusoidal table",
    points=2,
    minutes=15,
    difficulty=1,
    cases=sinusoidal_cases,
    probe=probes.sinusoidal,
    reference=table_of_any_width,
    also_right=(_table_by_loops, _table_by_assignment, _table_by_complex_numbers),
    steps=sinusoidal_steps,
    tolerance=Tolerance(absolute=2e-4, relative=1e-4),
    forbidden=(*LIBRARY, *ROTARY),
    library="course_lib.layers.positions:sinusoidal_table",
    misconceptions=(
        Misconception(
            "sines and cosines stand in two halves",
            _wrong_table(finish=_halves),
            "Here sines and cosines alternate: column 0 a sine, column 1 its cosine, column 2 the next sine. "
            "Yours has all sines first.",
        ),
        Misconception(
            "the exponent is half as large",
            _wrong_table(exponent=lambda columns, d: (columns // 2) / d),
            "Pair i has the exponent 2i/d, so the pairs run from 1 almost to the base. With i/d they stop at "
            "its root.",
        ),
        Misconception(
            "the exponent counts columns instead of pairs",
            _wrong_table(exponent=lambda columns, d: columns / d),
            "A sine and its cosine belong to one frequency: both have the exponent 2i/d, with i = column // 2. "
            "Yours gives every column a frequency of its own.",
        ),
        Misconception(
            "the exponent is twice the column",
            _wrong_table(exponent=lambda columns, d: 2 * columns / d),
            "In the formula i numbers the pairs, not the columns: column c belongs to pair c // 2, so the "
            "exponent is 2 · (c // 2) / d.",
        ),
        Misconception(
            "the exponent runs to 1",
            _wrong_table(
                exponent=lambda columns, d: (columns // 2) / max(math.ceil(d / 2) - 1, 1),
            ),
            "Some libraries spread the exponents from 0 to 1 inclusive. The paper's are 2i/d, and the last "
            "stays below 1.",
        ),
        Misconception(
            "the base is always 10,000",
            _wrong_table(own_base=10000.0),
            "`base` is an argument. Your table is the same for every base.",
        ),
        Misconception(
            "positions are multiplied instead of divided",
            _wrong_table(inverse=True),
            "The position is *divided* by base^(2i/d): later pairs turn more slowly. Yours turn faster.",
        ),
        Misconception(
            "positions start at 1",
            _wrong_table(first=1),
            "The first position is 0, so the first row is sin 0 = 0 and cos 0 = 1 in turn.",
        ),
        Misconception(
            "sines and cosines are swapped",
            _wrong_table(even="cos"),
            "Even columns are sines and odd ones cosines; the first row begins with 0, then 1.",
        ),
        Misconception(
            "an odd width fails",
            _fails_on_odd_widths,
            "With an odd width there is one sine more than there are cosines. Cut the cosines to "
            "`d_model // 2` columns before you put them in.",
        ),
        Misconception(
            "an odd width gets one column too many",
            _one_column_too_many,
            "The table has exactly d_model columns. With an odd width the last pair gives only its sine.",
        ),
        Misconception(
            "the last column of an odd width stays 0",
            _wrong_table(finish=_last_column_left_zero),
            "With an odd width the last column is the sine of the last pair. Round the number of pairs up, "
            "not down.",
        ),
        Misconception(
            "the table is float64",
            lambda n_positions, d_model, base=10000.0: table_of_any_width(
                n_positions, d_model, base
            ).double(),
            "The numbers are right, but their dtype is float64. End with `.float()`.",
        ),
        Misconception(
            "the table is transposed",
            lambda n_positions, d_model, base=10000.0: table_of_any_width(n_positions, d_model, base).T,
            "There is one row for each position and one column for each feature: (n_positions, d_model).",
        ),
    ),
    hints=(
        "Work out the angle of every position and every pair first: a column of positions times a row of "
        "angles per position gives a table of angles.",
        "The pairs' exponents are `torch.arange(0, d_model, 2) / d_model`. A sine and a cosine of the same "
        "angle fill two neighbouring columns.",
        "Make `table = torch.zeros(n_positions, d_model)`, then set `table[:, 0::2]` to the sines and "
        "`table[:, 1::2]` to the first `d_model // 2` columns of the cosines.",
    ),
)

# --- positional_encoding/shift -----------------------------------------------------------------------


def shift_cases(rng: np.random.Generator) -> Iterator[Case]:
    """A few steps forward, another base, backwards; then one pair, no step, a long way, a wide model."""
    for name, offset, d_model, base, hidden in (
        ("some steps forward", int(rng.integers(2, 7)), 6, None, False),
        ("steps backwards", -int(rng.integers(2, 7)), 4, None, False),
        ("another base", int(rng.integers(3, 9)), 8, float(rng.integers(20, 200)), False),
        ("a single pair", int(rng.integers(2, 6)), 2, None, True),
        ("no step at all", 0, 8, None, True),
        ("a long way", int(rng.integers(100, 200)), 10, None, True),
        ("a wide model", int(rng.integers(7, 30)), 2 * int(rng.integers(12, 24)), None, True),
    ):
        yield Case(name, {"offset": offset, "d_model": d_model, "base": base}, hidden)


def _shift_by_loops(offset: int, d_model: int, base: float = 10000.0) -> Tensor:
    matrix = torch.zeros(d_model, d_model)
    for c in range(0, d_model, 2):
        angle = offset / base ** (c / d_model)
        matrix[c, c] = matrix[c + 1, c + 1] = math.cos(angle)
        matrix[c, c + 1] = math.sin(angle)
        matrix[c + 1, c] = -math.sin(angle)
    return matrix


def _shift_by_indices(offset: int, d_model: int, base: float = 10000.0) -> Tensor:
    even = torch.arange(0, d_model, 2)
    angles = offset * torch.exp(-math.log(base) * even / d_model)
    matrix = torch.diag(angles.cos().repeat_interleave(2))
    matrix[even, even + 1] = angles.sin()
    matrix[even + 1, even] = -angles.sin()
    return matrix


def _shift_by_exponential(offset: int, d_model: int, base: float = 10000.0) -> Tensor:
    """exp(offset · G), where G is how the table changes at every position."""
    rates = base ** -(torch.arange(0, d_model, 2).double() / d_model)
    change = torch.kron(torch.diag(rates), torch.tensor([[0.0, 1.0], [-1.0, 0.0]]).double())
    return torch.matrix_exp(offset * change).float()


def _wrong_shift(
    *,
    turn: Callable[[float], tuple[tuple[float, float], tuple[float, float]]] = lambda a: (
        (math.cos(a), math.sin(a)),
        (-math.sin(a), math.cos(a)),
    ),
    rate: Callable[[int, int, float], float] = lambda c, d, base: base ** -(c / d),
    steps: Callable[[int], int] = lambda offset: offset,
    finish: Callable[[Tensor], Tensor] = lambda matrix: matrix,
) -> Callable[..., Tensor]:
    """A shift matrix with one thing wrong; by default nothing is."""

    def matrix(offset: int, d_model: int, base: float = 10000.0) -> Tensor:
        blocks = [
            torch.tensor(turn(steps(offset) * rate(c, d_model, base)), dtype=torch.float64)
            for c in range(0, d_model, 2)
        ]
        return finish(torch.block_diag(*blocks).float())

    return matrix


def _as_for_halves(matrix: Tensor) -> Tensor:
    order = torch.cat([torch.arange(0, len(matrix), 2), torch.arange(1, len(matrix), 2)])
    return matrix[order][:, order]


SHIFT = Exercise(
    id="positional_encoding/shift",
    title="The matrix that moves a position",
    points=2,
    minutes=20,
    difficulty=2,
    cases=shift_cases,
    probe=probes.shift,
    reference=library_positions.shift_matrix,
    also_right=(_shift_by_loops, _shift_by_indices, _shift_by_exponential),
    tolerance=Tolerance(absolute=2e-4, relative=1e-4),
    forbidden=(*LIBRARY, *ROTARY),
    library="course_lib.layers.positions:shift_matrix",
    misconceptions=(
        Misconception(
            "the matrix moves the other way",
            _wrong_shift(finish=lambda matrix: matrix.T),
            "Your matrix takes p to p − offset: the minus stands at the wrong sine. sin(a + b) is "
            "sin a · cos b + cos a · sin b, so the first row of a block is [cos, sin]. (For a table times the "
            "matrix, with rows on the left, yours would be right; here the matrix stands on the left.)",
        ),
        Misconception(
            "a minus is missing",
            _wrong_shift(turn=lambda a: ((math.cos(a), math.sin(a)), (math.sin(a), math.cos(a)))),
            "cos(a + b) is cos a · cos b *minus* sin a · sin b: one of the two sines in a block is negative.",
        ),
        Misconception(
            "sines and cosines are swapped",
            _wrong_shift(turn=lambda a: ((math.sin(a), math.cos(a)), (math.cos(a), -math.sin(a)))),
            "With an offset of 0 the matrix has to be the identity. The cosines belong on the diagonal.",
        ),
        Misconception(
            "all pairs turn by the same angle",
            _wrong_shift(rate=lambda c, d, base: 1.0),
            "Each pair has a frequency of its own, base^(-2i/d), so each block turns by its own angle.",
        ),
        Misconception(
            "the exponent is half as large",
            _wrong_shift(rate=lambda c, d, base: base ** -(c / 2 / d)),
            "Pair i turns by offset / base^(2i/d), with i = 0, 1, 2, … and d the whole width.",
        ),
        Misconception(
            "the angles grow from pair to pair",
            _wrong_shift(rate=lambda c, d, base: base ** (c / d)),
            "The offset is divided by base^(2i/d), as the positions are in the table: later pairs turn more "
            "slowly.",
        ),
        Misconception(
            "the base is always 10,000",
            _wrong_shift(rate=lambda c, d, base: 10000.0 ** -(c / d)),
            "`base` is an argument, and the frequencies depend on it.",
        ),
        Misconception(
            "the direction is lost",
            _wrong_shift(steps=abs),
            "A negative offset moves backwards: sin(−a) = −sin a. Keep the offset's sign.",
        ),
        Misconception(
            "the matrix moves by a single step",
            _wrong_shift(steps=lambda offset: 1),
            "Your matrix is the same for every offset. The angle of a block is the offset times the pair's "
            "frequency.",
        ),
        Misconception(
            "the matrix is made for sines and cosines in two halves",
            _wrong_shift(finish=_as_for_halves),
            "In this table a sine and its cosine are neighbours, so the 2 × 2 blocks stand on the diagonal.",
        ),
        Misconception(
            "the matrix is float64",
            _wrong_shift(finish=lambda matrix: matrix.double()),
            "The numbers are right, but their dtype is float64. End with `.float()`.",
        ),
    ),
    hints=(
        "Take one pair: (sin a, cos a). Which 2 × 2 matrix makes (sin(a + b), cos(a + b)) of it? The addition "
        "theorems have the four numbers.",
        "sin(a + b) = sin a · cos b + cos a · sin b, and cos(a + b) = cos a · cos b − sin a · sin b. So the block "
        "is [[cos b, sin b], [−sin b, cos b]], with b = offset / base^(2i/d).",
        "Start from `torch.zeros(d_model, d_model)` and fill the block of pair i at rows and columns 2i and "
        "2i + 1, in a loop; or collect the blocks and call `torch.block_diag(*blocks)`.",
    ),
)

# --- positional_encoding/rotate ----------------------------------------------------------------------


def rotate_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Both layouts, another base, another device, half precision far away; then any order, one pair, heads."""
    yield _rotate_case(rng, "halves, from position 0", 5, 8)
    yield _rotate_case(rng, "interleaved pairs", 4, 8, layout="interleaved", first=int(rng.integers(3, 30)))
    yield _rotate_case(rng, "another base", 4, 6, lead=(), layout="half", base=float(rng.integers(50, 500)))
    yield _rotate_case(rng, "tensors on another device", 4, 6, layout="interleaved", device="meta")
    far = int(rng.integers(515, 700))
    yield _rotate_case(rng, "bfloat16, far from the start", 9, 8, first=far, dtype="bfloat16")
    jumps = rng.choice(60, size=6, replace=False)
    yield _rotate_case(rng, "positions in any order", 6, 10, lead=(2, 3), positions=jumps, hidden=True)
    yield _rotate_case(rng, "a single pair", 3, 2, layout="interleaved", first=4, hidden=True)
    yield _rotate_case(rng, "one position", 1, 8, first=int(rng.integers(2, 40)), hidden=True)
    yield _rotate_case(
        rng, "interleaved, four heads", 5, 12, lead=(2, 4), layout="interleaved", first=7, hidden=True
    )


def _rotate_case(
    rng: np.random.Generator,
    name: str,
    n: int,
    d: int,
    *,
    lead: tuple[int, ...] = (2,),
    layout: str | None = None,
    base: float | None = None,
    first: int = 0,
    positions: np.ndarray | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    hidden: bool = False,
) -> Case:
    inputs: dict[str, Any] = {"x": rng.normal(size=(*lead, n, d)).astype(np.float32), "dtype": dtype}
    inputs["positions"] = np.arange(first, first + n) if positions is None else positions
    return Case(name, inputs | {"layout": layout, "base": base, "device": device}, hidden)


def _reference_rotate(x: Tensor, positions: Tensor, base: float = 10000.0, layout: Any = "half") -> Tensor:
    turned: Tensor = library_rotary.Rotary(x.shape[-1], base, layout)(x, positions)
    return turned


def rotate_steps(case: Case) -> Mapping[str, np.ndarray]:
    """Frequencies, angles, result."""
    d, base = case["x"].shape[-1], case["base"] or 10000.0
    rates = base ** -(np.arange(0, d, 2) / d)
    x, positions = torch.as_tensor(case["x"]), torch.as_tensor(case["positions"])
    result = _reference_rotate(x, positions, base, case["layout"] or "half").numpy()
    angles = case["positions"][:, None] * rates
    return {"the angle per position of each pair": rates, "the angles": angles, "the result": result}


def _rotate_by_complex_numbers(
    x: Tensor, positions: Tensor, base: float = 10000.0, layout: str = "half"
) -> Tensor:
    rates = base ** -(torch.arange(0, x.shape[-1], 2, device=x.device) / x.shape[-1])
    angles = torch.outer(positions.float(), rates)
    turns = torch.complex(angles.cos(), angles.sin())
    shape = (2, -1) if layout == "half" else (-1, 2)
    pairs = x.float().unflatten(-1, shape)
    pairs = pairs.transpose(-1, -2) if layout == "half" else pairs
    turned = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * turns)
    turned = turned.transpose(-1, -2) if layout == "half" else turned
    return turned.flatten(-2).to(x.dtype)


def _rotate_half_of_it(x: Tensor, positions: Tensor, base: float = 10000.0, layout: str = "half") -> Tensor:
    """x cos + (x turned by a right angle) sin, as many implementations have it."""
    d = x.size(-1)
    rates = 1.0 / (base ** (torch.arange(0, d, 2, device=x.device).float() / d))
    angles = positions[:, None].float() * rates[None, :]
    wide, x32 = angles.repeat(1, 2) if layout == "half" else angles.repeat_interleave(2, dim=-1), x.float()
    if layout == "half":
        other = torch.cat([-x32[..., d // 2 :], x32[..., : d // 2]], dim=-1)
    else:
        other = torch.stack([-x32[..., 1::2], x32[..., ::2]], dim=-1).reshape(x.shape)
    return (x32 * wide.cos() + other * wide.sin()).type_as(x)


def _wrong_rotate(
    *,
    read: str = "right",
    written: str = "right",
    sign: int = 1,
    first: int = 0,
    own_positions: bool = False,
    own_base: float | None = None,
    exponent: Callable[[Tensor, int], Tensor] = lambda even, d: even / d,
    device: bool = True,
    narrow: bool = False,
    keep_dtype: bool = True,
    axis: str = "positions",
) -> Callable[..., Tensor]:
    """A rotation with one thing wrong; by default nothing is. read, written: "half", "other" …"""
    others = {"half": "interleaved", "interleaved": "half"}

    def rotate(x: Tensor, positions: Tensor, base: float = 10000.0, layout: Any = "half") -> Tensor:
        d, at = x.shape[-1], x.device if device else "cpu"
        layouts = {"right": layout, "other": others[layout], "half": "half", "interleaved": "interleaved"}
        rates = (own_base or base) ** -exponent(torch.arange(0, d, 2, device=at), d).float()
        if own_positions:
            positions = torch.arange(x.shape[-2], device=at)
        angles = ((positions + first) * sign).float()[:, None] * rates
        if narrow:
            angles = (positions.to(x.dtype)[:, None] * rates.to(x.dtype)).float()
        cos, sin = angles.cos(), angles.sin()
        wide = x.float()
        one, two = wide.chunk(2, -1) if layouts[read] == "half" else (wide[..., 0::2], wide[..., 1::2])
        pair = [one * cos - two * sin, two * cos + one * sin]
        turned = torch.cat(pair, -1) if layouts[written] == "half" else torch.stack(pair, -1).flatten(-2)
        return turned.to(x.dtype) if keep_dtype else turned

    return rotate


ROTATE = Exercise(
    id="positional_encoding/rotate",
    title="Rotary position embedding, in both layouts",
    points=3,
    minutes=35,
    difficulty=3,
    cases=rotate_cases,
    probe=probes.rotate,
    reference=_reference_rotate,
    also_right=(_rotate_by_complex_numbers, _rotate_half_of_it),
    steps=rotate_steps,
    tolerance=Tolerance(absolute=2e-4, relative=1e-4, half=4e-2),
    forbidden=(*LIBRARY, *ROTARY),
    library="course_lib.layers.rotary:Rotary",
    gpu=True,
    misconceptions=(
        Misconception(
            "the layouts are taken for one another",
            _wrong_rotate(read="other", written="other"),
            'You have the two layouts the wrong way round. "half" pairs feature i with feature i + d/2; '
            '"interleaved" pairs feature 2i with 2i + 1.',
        ),
        Misconception(
            "the layout is ignored, pairs are always halves",
            _wrong_rotate(read="half", written="half"),
            'Your result is the same for both layouts. For "interleaved" the pairs are neighbours, '
            "`x[..., 0::2]` and `x[..., 1::2]`.",
        ),
        Misconception(
            "the layout is ignored, pairs are always neighbours",
            _wrong_rotate(read="interleaved", written="interleaved"),
            'Your result is the same for both layouts. For "half" feature i is paired with feature i + d/2.',
        ),
        Misconception(
            "interleaved pairs come back as halves",
            _wrong_rotate(written="half"),
            "The pairs are turned rightly, but for interleaved pairs `torch.cat` puts the features into another "
            "order. Put them back where they came from, with `torch.stack(…, dim=-1).flatten(-2)`.",
        ),
        Misconception(
            "the pairs turn backwards",
            _wrong_rotate(sign=-1),
            "Turn by +angle: (x₁ cos − x₂ sin, x₁ sin + x₂ cos). Yours has the minus at the other sine.",
        ),
        Misconception(
            "all pairs turn by the same angle",
            _wrong_rotate(exponent=lambda even, d: 0.0 * even),
            "Pair i turns by position / base^(2i/d), each slower than the one before. Yours all turn alike.",
        ),
        Misconception(
            "the exponent is half as large",
            _wrong_rotate(exponent=lambda even, d: even / 2 / d),
            "Pair i has the exponent 2i/d with d the whole width, so that `torch.arange(0, d, 2) / d` runs from "
            "0 almost to 1.",
        ),
        Misconception(
            "the angles grow from pair to pair",
            _wrong_rotate(exponent=lambda even, d: -even / d),
            "The position is divided by base^(2i/d): later pairs turn more slowly.",
        ),
        Misconception(
            "positions are counted anew from 0",
            _wrong_rotate(own_positions=True),
            "The rows stand at `positions`, which need not begin at 0: with a cache of earlier keys a new query "
            "comes much later. Use the positions that are given.",
        ),
        Misconception(
            "positions are off by one",
            _wrong_rotate(first=1),
            "Position 0 is turned by no angle at all and stays as it is. Yours is turned by one step.",
        ),
        Misconception(
            "the base is always 10,000",
            _wrong_rotate(own_base=10000.0),
            "`base` is an argument, and the angles depend on it.",
        ),
        Misconception(
            "new tensors are made on the CPU",
            _wrong_rotate(device=False),
            "`torch.arange` makes its tensor on the CPU unless told otherwise. Give it `device=x.device`.",
        ),
        Misconception(
            "the angles are worked out in 16 bits",
            _wrong_rotate(narrow=True),
            "bfloat16 has 8 bits for a number, so that it cannot tell position 513 from 514. Work out the "
            "angles in float32, and turn only the result into the dtype of x.",
        ),
        Misconception(
            "the result has another dtype than x",
            _wrong_rotate(keep_dtype=False),
            "The result must have the dtype of x; yours is float32 where x is bfloat16. End with "
            "`.to(x.dtype)`.",
        ),
    ),
    hints=(
        "First make the table of angles, one row a position and one column a pair. Then cut x into the first "
        "and the second feature of every pair; how, the layout says.",
        "With first and second features x₁ and x₂ the turned pair is (x₁ cos − x₂ sin, x₁ sin + x₂ cos). Both are "
        "of shape (…, n, d/2), as are the broadcast cosines and sines.",
        '"half": `x.chunk(2, dim=-1)`, and `torch.cat([…], dim=-1)` to put back. "interleaved": `x[..., 0::2]` '
        "and `x[..., 1::2]`, and `torch.stack([…], dim=-1).flatten(-2)`. Make the angles on `x.device`, in float32.",
    ),
)

# --- positional_encoding/bucket ----------------------------------------------------------------------


def bucket_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Both directions, causal, other settings; then far distances, an odd number a direction, few buckets."""
    for name, settings, reach, hidden in (
        ("both directions", (None, None, None), 60, False),
        ("causal", (None, None, False), 60, False),
        ("other settings", (int(rng.choice([20, 24, 28, 40])), int(rng.integers(45, 120)), None), 90, False),
        (
            "causal with other settings",
            (int(rng.choice([12, 16])), int(rng.integers(33, 70)), False),
            50,
            True,
        ),
        ("beyond the largest distance", (None, None, True), 900, True),
        ("an odd number of buckets a direction", (2 * int(rng.choice([9, 11, 13])), 75, True), 120, True),
        ("causal, far away", (32, 128, False), 900, True),
    ):
        num_buckets, max_distance, bidirectional = settings
        relative = rng.integers(-reach, reach + 1, size=(8, 9))
        # The small distances, one after another, in both directions.
        relative[0], relative[1] = np.arange(9), -np.arange(9)
        own = {"num_buckets": num_buckets, "max_distance": max_distance, "bidirectional": bidirectional}
        relative = clear_of_edges(
            relative, num_buckets or 32, max_distance or 128, bidirectional is not False
        )
        yield Case(name, {"relative_position": relative, **own}, hidden)


def clear_of_edges(
    relative: np.ndarray, num_buckets: int, max_distance: int, bidirectional: bool
) -> np.ndarray:
    """Those on the edge between two large buckets are made 0: rounding may take them to either side."""
    own = num_buckets // 2 if bidirectional else num_buckets
    exact = own // 2
    distance = np.maximum(np.abs(relative), 1)
    place = np.log(distance / exact) / np.log(max_distance / exact) * (own - exact)
    on_edge = (np.abs(place - np.round(place)) < 1e-4) & (distance > exact) & (distance < max_distance)
    return np.where(on_edge, 0, relative)


def bucket_steps(case: Case) -> Mapping[str, np.ndarray]:
    """Distances, the place in the large buckets, and the buckets."""
    num_buckets, max_distance = case["num_buckets"] or 32, case["max_distance"] or 128
    both = case["bidirectional"] is not False
    relative = torch.as_tensor(case["relative_position"])
    own = num_buckets // 2 if both else num_buckets
    distance = relative.abs() if both else (-relative).clamp(min=0)
    place = (
        (distance.clamp(min=1) / (own // 2)).log() / math.log(max_distance / (own // 2)) * (own - own // 2)
    )
    found = library_relative.relative_bucket(relative, num_buckets, max_distance, both)
    steps = {"the distances": distance, "the logarithm, stretched over the large buckets": place}
    return {name: step.numpy() for name, step in (steps | {"the buckets": found}).items()}


def _bucket_by_loops(
    relative_position: Tensor, num_buckets: int = 32, max_distance: int = 128, bidirectional: bool = True
) -> Tensor:
    def one(relative: int) -> int:
        own = num_buckets // 2 if bidirectional else num_buckets
        start = own if bidirectional and relative > 0 else 0
        distance = abs(relative) if bidirectional else max(-relative, 0)
        exact = own // 2
        if distance < exact:
            return start + distance
        place = math.log(distance / exact) / math.log(max_distance / exact)
        return start + min(exact + int(place * (own - exact)), own - 1)

    found = [one(int(relative)) for relative in relative_position.flatten()]
    return torch.tensor(found).reshape(relative_position.shape)


def _bucket_by_edges(
    relative_position: Tensor, num_buckets: int = 32, max_distance: int = 128, bidirectional: bool = True
) -> Tensor:
    """The smallest distance of every bucket, and a search among them."""
    own = num_buckets // 2 if bidirectional else num_buckets
    exact = own // 2
    large = torch.arange(1, own - exact, dtype=torch.float64) / (own - exact)
    edges = torch.cat([torch.arange(1, exact + 1).double(), exact * (max_distance / exact) ** large])
    distance = relative_position.abs() if bidirectional else -relative_position.clamp(max=0)
    found = torch.bucketize(distance.double(), edges, right=True)
    return found + own * ((relative_position > 0) if bidirectional else 0)


def _wrong_bucket(
    *,
    mirrored: bool = False,
    zero_is_after: bool = False,
    halved: bool = True,
    large: Callable[[Tensor], Tensor] = torch.floor,
    linear: bool = False,
    all_large: bool = False,
    from_start: bool = False,
    divisor: str = "both",
    clamped: bool = True,
    causal_by: str = "clamp",
    quarter: bool = False,
    finish: Callable[[Tensor], Tensor] = lambda found: found.long(),
) -> Callable[..., Tensor]:
    """Buckets with one thing wrong; by default nothing is."""

    def bucket(
        relative_position: Tensor, num_buckets: int = 32, max_distance: int = 128, bidirectional: bool = True
    ) -> Tensor:
        relative = -relative_position if mirrored else relative_position
        own = num_buckets // 2 if bidirectional and halved else num_buckets
        exact = own // 4 if quarter else own // 2
        start = torch.zeros_like(relative)
        if bidirectional:
            after = relative >= 0 if zero_is_after else relative > 0
            start = (num_buckets // 2) * after.long()
        distance = relative.abs()
        if not bidirectional and causal_by == "clamp":
            distance = (-relative).clamp(min=0)
        if linear:
            return finish(start + distance.clamp(max=own - 1))
        upper = {"both": max_distance / exact, "max_distance": float(max_distance)}[divisor]
        lower = 1 if divisor == "max_distance" else exact
        place = (distance.clamp(min=1).double() / lower).log() / math.log(upper)
        far = (0 if from_start else exact) + large(place * (own - exact))
        far = far.clamp(max=own - 1) if clamped else far
        small = distance < (1 if all_large else exact)
        return finish(start + torch.where(small, distance.double(), far))

    return bucket


BUCKET = Exercise(
    id="positional_encoding/bucket",
    title="T5's buckets of distances",
    points=3,
    minutes=35,
    difficulty=3,
    cases=bucket_cases,
    probe=probes.bucket,
    reference=library_relative.relative_bucket,
    also_right=(_bucket_by_loops, _bucket_by_edges),
    steps=bucket_steps,
    forbidden=(*LIBRARY, *ROTARY),
    library="course_lib.layers.relative:relative_bucket",
    misconceptions=(
        Misconception(
            "before and after are swapped",
            _wrong_bucket(mirrored=True),
            "`relative_position` is the key's position minus the query's: it is negative for keys that came "
            "before. Yours treats it the other way round.",
        ),
        Misconception(
            "distance 0 counts as after",
            _wrong_bucket(zero_is_after=True),
            "A key at the query's own place has relative position 0 and bucket 0. Only positive ones get the "
            "upper half: `>`, not `>=`.",
        ),
        Misconception(
            "both directions have all buckets each",
            _wrong_bucket(halved=False),
            "With both directions each has half of the buckets, and everything that follows is worked out with "
            "that half.",
        ),
        Misconception(
            "the large buckets are rounded up",
            _wrong_bucket(large=torch.ceil),
            "The place among the large buckets is rounded down. Yours is rounded up.",
        ),
        Misconception(
            "the large buckets are rounded to the nearest",
            _wrong_bucket(large=torch.round),
            "The place among the large buckets is rounded down, as `.long()` does for positive numbers, not to "
            "the nearest.",
        ),
        Misconception(
            "every distance has a bucket of its own",
            _wrong_bucket(linear=True),
            "Only the lower half of a direction's buckets holds one distance each. The upper half grows like a "
            "logarithm up to max_distance.",
        ),
        Misconception(
            "the logarithm begins at distance 1",
            _wrong_bucket(all_large=True),
            "Small distances keep a bucket of their own: only from `exact` on, the logarithm decides.",
        ),
        Misconception(
            "the large buckets begin at 0",
            _wrong_bucket(from_start=True),
            "The large buckets come after the exact ones: add `exact` to the place among them.",
        ),
        Misconception(
            "the logarithm is measured from 1",
            _wrong_bucket(divisor="max_distance"),
            "The first large bucket begins at distance `exact`, where the logarithm must be 0. Divide both the "
            "distance and max_distance by `exact` before you take it.",
        ),
        Misconception(
            "distances beyond the largest overflow",
            _wrong_bucket(clamped=False),
            "All distances of max_distance and more share the last bucket. Yours get numbers beyond it, some of "
            "them of the other direction.",
        ),
        Misconception(
            "later keys are mirrored in the causal form",
            _wrong_bucket(causal_by="abs"),
            "With `bidirectional=False` all keys after the query share bucket 0. Yours gives them the buckets "
            "of the keys before.",
        ),
        Misconception(
            "only a quarter of the buckets is exact",
            _wrong_bucket(quarter=True),
            "Half of a direction's buckets hold one distance each: `own // 2`, where own is `num_buckets // 2` "
            "for both directions and `num_buckets` for one.",
        ),
        Misconception(
            "the buckets are not whole numbers",
            _wrong_bucket(finish=lambda found: torch.floor(found.float())),
            "Buckets are numbers of rows in a table, so their dtype is int64. End with `.long()`.",
        ),
    ),
    hints=(
        "Do one direction first: distances from 0 up, `num_buckets` buckets. Write down by hand which distances "
        "fall into which bucket for 8 buckets and max_distance 16.",
        "With own buckets a direction and `exact = own // 2`: a distance below exact is its own bucket. For the "
        "others take log(distance / exact) / log(max_distance / exact), a number from 0 to 1, times own − exact.",
        "Round that down, add exact, and cut at own − 1 with `.clamp(max=own - 1)`. Choose with "
        "`torch.where(distance < exact, distance, far)`, with `distance.clamp(min=1)` inside the logarithm. For "
        "both directions, add own where the relative position is positive.",
    ),
)

# --- positional_encoding/alibi -----------------------------------------------------------------------


def alibi_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Powers of two, other numbers of heads, fewer queries than keys; then the edges."""
    several = int(rng.integers(4, 8))
    more = several + int(rng.integers(3, 9))
    for name, num_heads, n_query, n_key, hidden in (
        ("eight heads", 8, several, several, False),
        ("fewer queries than keys", 4, 2, more, False),
        ("six heads", 6, 4, 4, False),
        ("twelve heads", 12, several, several, True),
        ("one head", 1, 3, 5, True),
        ("a number of heads that is no power of two", int(rng.choice([5, 7, 9, 11, 20])), 3, more, True),
        ("one query and one key", 2, 1, 1, True),
        ("a longer sequence", 16, int(rng.integers(30, 50)), int(rng.integers(60, 90)), True),
    ):
        yield Case(name, {"num_heads": num_heads, "n_query": n_query, "n_key": n_key}, hidden)


def _slopes_by_recursion(num_heads: int) -> list[float]:
    if num_heads & (num_heads - 1) == 0:
        ratio = 2 ** (-8 / num_heads)
        return [ratio ** (i + 1) for i in range(num_heads)]
    lower = 2 ** math.floor(math.log2(num_heads))
    return _slopes_by_recursion(lower) + _slopes_by_recursion(2 * lower)[0::2][: num_heads - lower]


def _alibi_by_recursion(num_heads: int, n_query: int, n_key: int) -> Tensor:
    slopes = torch.tensor(_slopes_by_recursion(num_heads))
    query_position = torch.arange(n_query)[:, None] + n_key - n_query
    return -slopes.view(-1, 1, 1) * (query_position - torch.arange(n_key)).abs()


def _alibi_by_loops(num_heads: int, n_query: int, n_key: int) -> Tensor:
    bias = torch.zeros(num_heads, n_query, n_key)
    for head, slope in enumerate(_slopes_by_recursion(num_heads)):
        for i in range(n_query):
            for j in range(n_key):
                bias[head, i, j] = -slope * abs(n_key - n_query + i - j)
    return bias


def _wrong_alibi(
    *,
    slopes: Callable[[int], list[float]] = _slopes_by_recursion,
    distance: Callable[[Tensor, Tensor], Tensor] = lambda query, key: (query - key).abs(),
    first: bool = False,
    finish: Callable[[Tensor], Tensor] = lambda bias: bias,
) -> Callable[..., Tensor]:
    """A bias with one thing wrong; by default nothing is."""

    def bias(num_heads: int, n_query: int, n_key: int) -> Tensor:
        query = torch.arange(n_query)[:, None] + (0 if first else n_key - n_query)
        heads = torch.tensor(slopes(num_heads))[:, None, None]
        return finish(-heads * distance(query, torch.arange(n_key)).float())

    return bias


def _geometric(num_heads: int, first: int = 1) -> list[float]:
    return [2.0 ** (-8 * (i + first) / num_heads) for i in range(num_heads)]


def _next_power(num_heads: int) -> int:
    return int(2 ** math.ceil(math.log2(num_heads)))


def _lower_power(num_heads: int) -> int:
    return int(2 ** math.floor(math.log2(num_heads)))


ALIBI = Exercise(
    id="positional_encoding/alibi",
    title="ALiBi: a bias that grows with the distance",
    points=2,
    minutes=25,
    difficulty=2,
    cases=alibi_cases,
    probe=probes.alibi,
    reference=library_relative.alibi_bias,
    also_right=(_alibi_by_recursion, _alibi_by_loops),
    forbidden=(*LIBRARY, *ROTARY),
    library="course_lib.layers.relative:alibi_bias",
    misconceptions=(
        Misconception(
            "the bias rewards distance",
            _wrong_alibi(distance=lambda query, key: -(query - key).abs()),
            "The bias is *minus* slope times distance: a key that is far away loses score. Yours gains.",
        ),
        Misconception(
            "the first slope is 1",
            _wrong_alibi(
                slopes=lambda h: [
                    2 ** (8 / (_lower_power(h) if i < _lower_power(h) else 2 * _lower_power(h))) * slope
                    for i, slope in enumerate(_slopes_by_recursion(h))
                ]
            ),
            "The exponents of n heads are −8/n, −16/n, …, −8: they begin one step below 0. Yours begin at 0.",
        ),
        Misconception(
            "any number of heads has one sequence of slopes",
            _wrong_alibi(slopes=_geometric),
            "2^(−8i/n) is for powers of two. For other numbers take the slopes of the next lower power of two "
            "first, and the rest from the first, third, fifth … of twice that power.",
        ),
        Misconception(
            "the slopes of the next power of two are cut off",
            _wrong_alibi(slopes=lambda h: _geometric(_next_power(h))[:h]),
            "For six heads the first four slopes are those of four heads, not of eight. Only the other two come "
            "from the slopes of eight heads: the first and the third.",
        ),
        Misconception(
            "the further slopes are taken one after another",
            _wrong_alibi(
                slopes=lambda h: (
                    _geometric(_lower_power(h)) + _geometric(2 * _lower_power(h))[: h - _lower_power(h)]
                )
            ),
            "The further slopes are the first, third, fifth … of twice the power: those between are slopes that "
            "you have already.",
        ),
        Misconception(
            "slopes occur twice",
            _wrong_alibi(
                slopes=lambda h: (
                    _geometric(_lower_power(h)) + _geometric(2 * _lower_power(h))[1::2][: h - _lower_power(h)]
                )
            ),
            "The second, fourth, sixth … of twice the power are the slopes that you have already. Take the "
            "first, third, fifth …, `[0::2]`.",
        ),
        Misconception(
            "the slopes are sorted",
            _wrong_alibi(slopes=lambda h: sorted(_slopes_by_recursion(h), reverse=True)),
            "The slopes of the lower power of two come first, in their order, and the further ones after them, "
            "even if they are larger. Trained models rely on that order.",
        ),
        Misconception(
            "later keys gain score",
            _wrong_alibi(distance=lambda query, key: query - key),
            "A distance has no sign: take the absolute value. In yours a key after the query gets a bonus.",
        ),
        Misconception(
            "later keys get 0",
            _wrong_alibi(distance=lambda query, key: (query - key).clamp(min=0)),
            "Here later keys get minus slope times distance as well. What hides them is the mask, which is "
            "another tensor.",
        ),
        Misconception(
            "later keys get minus infinity",
            _wrong_alibi(
                distance=lambda query, key: torch.where(key > query, math.inf, (query - key).abs()),
            ),
            "Hiding the future is the mask's work, not the bias's. Give later keys minus slope times distance, "
            "as earlier ones.",
        ),
        Misconception(
            "the bias counts the key's position",
            _wrong_alibi(distance=lambda query, key: -key.expand(query.shape[0], -1)),
            "slope · j differs from −slope · (i − j) by the same number along a row, so a causal softmax gives "
            "the same weights. But what is asked for is minus slope times distance.",
        ),
        Misconception(
            "queries are taken for the first positions",
            _wrong_alibi(first=True),
            "With fewer queries than keys the queries are the last positions: query i stands at "
            "`n_key - n_query + i`.",
        ),
        Misconception(
            "all heads have the same slope",
            _wrong_alibi(slopes=lambda h: [_slopes_by_recursion(h)[0]] * h),
            "Each head has a slope of its own, so that some look near and some far.",
        ),
        Misconception(
            "the heads stand last",
            _wrong_alibi(finish=lambda bias: bias.permute(1, 2, 0)),
            "The shape is (num_heads, n_query, n_key), so that it can be added to scores (b, h, q, k).",
        ),
    ),
    hints=(
        "Two things are multiplied: a number for each head, and a number for each pair of query and key. Make "
        "each of them first.",
        "The distances: a column of query positions `torch.arange(n_query)[:, None] + n_key - n_query` minus a "
        "row of key positions, without the sign. The slopes of n heads, n a power of two: 2^(−8i/n), i = 1 … n.",
        "For other numbers of heads: `lower = 2 ** (num_heads.bit_length() - 1)`, the slopes of `lower`, then "
        "`[0::2]` of the slopes of `2 * lower`, as many as are missing. Then `-slopes[:, None, None] * distance`.",
    ),
)

# --- positional_encoding/checkpoint ------------------------------------------------------------------


def checkpoint_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Each layout and neither; then one head, unequal widths, and scores on both sides of the bar of 1 %."""
    yield _checkpoint_case(rng, "two heads, trained with halves", 2, 6, 12, 7, "half")
    yield _checkpoint_case(rng, "two heads, trained with neighbours", 2, 8, 16, 6, "interleaved")
    yield _checkpoint_case(rng, "another base", 2, 6, 12, 9, "half", base=50.0)
    yield _checkpoint_case(rng, "one head", 1, 10, 10, 5, "interleaved", hidden=True)
    yield _checkpoint_case(rng, "heads wider than the model", 3, 8, 7, 8, "half", hidden=True)
    layout = str(rng.choice(["half", "interleaved"]))
    yield _checkpoint_case(rng, "four heads", 4, 6, 20, 10, layout, hidden=True)
    yield _checkpoint_case(rng, "pairs turned backwards", 2, 6, 12, 8, "interleaved", sign=-1, hidden=True)
    yield _checkpoint_case(rng, "scores off by 0.3 %", 2, 6, 12, 8, layout, off=0.003, hidden=True)
    yield _checkpoint_case(rng, "scores off by 2 %", 2, 8, 12, 8, layout, off=0.02, hidden=True)


def _checkpoint_case(
    rng: np.random.Generator,
    name: str,
    num_heads: int,
    d_head: int,
    d_model: int,
    n: int,
    layout: str,
    *,
    base: float = 10000.0,
    sign: int = 1,
    off: float = 0.0,
    hidden: bool = False,
) -> Case:
    query_weight, key_weight = rng.normal(size=(2, num_heads * d_head, d_model)) / math.sqrt(d_model)
    hidden_states = 2 * rng.normal(size=(n, d_model))
    rotary = library_rotary.Rotary(d_head, base, layout)  # type: ignore[arg-type]
    at = sign * torch.arange(n)
    query, key = (
        rotary(
            torch.as_tensor(hidden_states @ weight.T).unflatten(-1, (num_heads, d_head)).transpose(0, 1), at
        )
        for weight in (query_weight, key_weight)
    )
    scores = (query @ key.mT / math.sqrt(d_head)).numpy()
    if off:
        scores *= 1 + off * rng.choice([-1, 1], size=scores.shape)
    arrays = {"query_weight": query_weight, "key_weight": key_weight, "hidden_states": hidden_states}
    inputs: dict[str, Any] = {key: array.astype(np.float32) for key, array in arrays.items()}
    inputs["scores"] = scores.astype(np.float32)
    return Case(name, inputs | {"num_heads": num_heads}, hidden)


Adopted = tuple[str | None, Tensor, Tensor, Tensor]


def _scores(query_weight: Tensor, key_weight: Tensor, x: Tensor, num_heads: int, layout: str) -> Tensor:
    positions = torch.arange(len(x))
    query, key = (
        (x @ weight.T).unflatten(-1, (num_heads, -1)).transpose(0, 1) for weight in (query_weight, key_weight)
    )
    query, key = (
        _reference_rotate(query, positions, layout=layout),
        _reference_rotate(key, positions, layout=layout),
    )
    return query @ key.mT / math.sqrt(query.shape[-1])


def _moved(weight: Tensor, num_heads: int, to: str) -> Tensor:
    """Rows in the other layout."""
    pairs = len(weight) // (2 * num_heads)
    split = (num_heads, 2, pairs) if to == "interleaved" else (num_heads, pairs, 2)
    return weight.unflatten(0, split).transpose(1, 2).flatten(0, 2)


def _wrong_checkpoint(
    *,
    measure: Callable[[Tensor], Tensor] = lambda gap: gap.abs().mean(),
    score: Callable[..., Tensor] = _scores,
    judge: str = "right",
    order: tuple[str, str] = ("half", "interleaved"),
    converted: tuple[bool, bool] = (True, True),
    backwards: bool = False,
    as_heads: Callable[[int], int] = lambda heads: heads,
    columns: bool = False,
    always: bool = False,
    bar: Callable[[Tensor], Tensor] = lambda scores: 0.01 * scores.abs().mean(),
) -> Callable[..., Adopted]:
    """An answer with one thing wrong; by default nothing is."""

    def adopt(
        query_weight: Tensor, key_weight: Tensor, hidden_states: Tensor, scores: Tensor, num_heads: int
    ) -> Adopted:
        gaps = {
            layout: measure(score(query_weight, key_weight, hidden_states, num_heads, layout) - scores)
            for layout in order
        }
        errors = torch.stack(list(gaps.values()))
        choose = max if judge == "largest" else min
        layout = choose(gaps, key=lambda name: float(gaps[name]))
        if judge == "right" and not always and gaps[layout] > bar(scores):
            return None, errors, query_weight, key_weight
        to = "half" if (layout == "interleaved") != backwards else "interleaved"

        def convert(weight: Tensor, wanted: bool) -> Tensor:
            if not wanted:
                return weight
            if columns and weight.shape[1] % (2 * num_heads) == 0:
                return _moved(weight.T, num_heads, to).T
            return _moved(weight, as_heads(num_heads), to)

        return layout, errors, convert(query_weight, converted[0]), convert(key_weight, converted[1])

    return adopt


def _adopt_by_indices(
    query_weight: Tensor, key_weight: Tensor, hidden_states: Tensor, scores: Tensor, num_heads: int
) -> Adopted:
    """The new order of the rows as a list of indices, head by head."""
    d_head, gaps = len(query_weight) // num_heads, []
    for layout in ("half", "interleaved"):
        gap = _scores(query_weight, key_weight, hidden_states, num_heads, layout) - scores
        gaps.append(gap.abs().mean())
    errors = torch.stack(gaps)
    if errors.min() >= 0.01 * scores.abs().mean():
        return None, errors, query_weight, key_weight
    halves = [half * d_head // 2 + pair for pair in range(d_head // 2) for half in (0, 1)]
    layout = ("half", "interleaved")[int(errors.argmin())]
    if layout == "interleaved":
        halves = sorted(range(d_head), key=lambda feature: halves[feature])
    rows = [head * d_head + feature for head in range(num_heads) for feature in halves]
    return layout, errors, query_weight[rows], key_weight[rows]


def _adopt_by_reshaping(
    query_weight: Tensor, key_weight: Tensor, hidden_states: Tensor, scores: Tensor, num_heads: int
) -> Adopted:
    """Scores by einsum, and the rows moved with reshape and transpose."""
    n, width = hidden_states.shape
    found = {}
    for layout in ("half", "interleaved"):
        query = torch.einsum("nm,hdm->hnd", hidden_states, query_weight.view(num_heads, -1, width))
        key = torch.einsum("nm,hdm->hnd", hidden_states, key_weight.view(num_heads, -1, width))
        turned = [_rotate_half_of_it(part, torch.arange(n), layout=layout) for part in (query, key)]
        found[layout] = torch.einsum("hqd,hkd->hqk", *turned) / query.shape[-1] ** 0.5
    errors = torch.stack([(each - scores).abs().mean() for each in found.values()])
    best = min(range(2), key=errors.tolist().__getitem__)
    if errors[best] > 0.01 * scores.abs().mean():
        return None, errors, query_weight.clone(), key_weight.clone()

    def move(weight: Tensor) -> Tensor:
        if best == 0:
            return weight.reshape(num_heads, 2, -1, width).transpose(1, 2).reshape(-1, width)
        return weight.reshape(num_heads, -1, 2, width).transpose(1, 2).reshape(-1, width)

    return ("half", "interleaved")[best], errors, move(query_weight), move(key_weight)


def _scores_unscaled(
    query_weight: Tensor, key_weight: Tensor, x: Tensor, num_heads: int, layout: str
) -> Tensor:
    return _scores(query_weight, key_weight, x, num_heads, layout) * math.sqrt(len(query_weight) // num_heads)


def _scores_divided_by_the_width(
    query_weight: Tensor, key_weight: Tensor, x: Tensor, num_heads: int, layout: str
) -> Tensor:
    d_head, d_model = len(query_weight) // num_heads, x.shape[-1]
    return _scores(query_weight, key_weight, x, num_heads, layout) * math.sqrt(d_head / d_model)


def _scores_of_mixed_heads(
    query_weight: Tensor, key_weight: Tensor, x: Tensor, num_heads: int, layout: str
) -> Tensor:
    positions = torch.arange(len(x))
    query, key = ((x @ weight.T).reshape(num_heads, len(x), -1) for weight in (query_weight, key_weight))
    query, key = (
        _reference_rotate(query, positions, layout=layout),
        _reference_rotate(key, positions, layout=layout),
    )
    return query @ key.mT / math.sqrt(query.shape[-1])


def _scores_turned_before_the_split(
    query_weight: Tensor, key_weight: Tensor, x: Tensor, num_heads: int, layout: str
) -> Tensor:
    positions = torch.arange(len(x))
    query, key = (
        _reference_rotate(x @ weight.T, positions, layout=layout)
        .unflatten(-1, (num_heads, -1))
        .transpose(0, 1)
        for weight in (query_weight, key_weight)
    )
    return query @ key.mT / math.sqrt(query.shape[-1])


CHECKPOINT = Exercise(
    id="positional_encoding/checkpoint",
    title="A checkpoint of unknown layout",
    points=4,
    minutes=60,
    difficulty=4,
    cases=checkpoint_cases,
    probe=probes.checkpoint,
    reference=_wrong_checkpoint(),
    also_right=(_adopt_by_indices, _adopt_by_reshaping),
    tolerance=Tolerance(absolute=2e-4, relative=1e-3),
    forbidden=LIBRARY,
    library="course_lib.layers.rotary:convert_layout",
    misconceptions=(
        Misconception(
            "the rows are moved the wrong way",
            _wrong_checkpoint(backwards=True),
            "The errors and the layout are right, but the rows are reordered as if the weights came in the other "
            "layout. From halves to neighbours, new row 2i is old row i and new row 2i + 1 is old row i + d/2.",
        ),
        Misconception(
            "the rows are moved across heads",
            _wrong_checkpoint(as_heads=lambda heads: 1),
            "Each head has pairs of its own. Split the rows into heads first, and reorder within each head.",
        ),
        Misconception(
            "columns are moved instead of rows",
            _wrong_checkpoint(columns=True),
            "The weight of a projection has a row for each *output* feature, and those are the features that are "
            "paired. Its columns belong to the hidden states and stay where they are.",
        ),
        Misconception(
            "only the queries are converted",
            _wrong_checkpoint(converted=(True, False)),
            "Queries and keys meet in a dot product, so the rows of both have to be moved in the same way.",
        ),
        Misconception(
            "only the keys are converted",
            _wrong_checkpoint(converted=(False, True)),
            "Queries and keys meet in a dot product, so the rows of both have to be moved in the same way.",
        ),
        Misconception(
            "nothing is converted",
            _wrong_checkpoint(converted=(False, False)),
            "The errors and the layout are right, but the weights come back as they went in. They should be "
            "ready for the *other* layout.",
        ),
        Misconception(
            "the worse layout is named",
            _wrong_checkpoint(judge="largest"),
            "The right layout is the one whose scores come close to the recorded ones, so that its error is the "
            "smaller. You named the one with the larger.",
        ),
        Misconception(
            "the errors stand in the wrong order",
            _wrong_checkpoint(order=("interleaved", "half")),
            'The first error is that of reading the weights as "half", the second as "interleaved".',
        ),
        Misconception(
            "the largest difference is taken",
            _wrong_checkpoint(measure=lambda gap: gap.abs().max()),
            "The error is the *mean* of the absolute differences over all heads, queries and keys.",
        ),
        Misconception(
            "the squares of the differences are averaged",
            _wrong_checkpoint(measure=lambda gap: gap.square().mean()),
            "The error is the mean of the *absolute* differences, `.abs().mean()`.",
        ),
        Misconception(
            "differences of either sign cancel",
            _wrong_checkpoint(measure=lambda gap: gap.mean().abs()),
            "Take the absolute value of each difference first, and then the mean; otherwise those of either "
            "sign cancel.",
        ),
        Misconception(
            "one of the two layouts is always chosen",
            _wrong_checkpoint(always=True),
            "Where neither layout reproduces the scores the checkpoint was trained in some other way. Then the "
            "layout is None, and the weights are returned as they are.",
        ),
        Misconception(
            "the bar is 1 % of the largest score",
            _wrong_checkpoint(bar=lambda scores: 0.01 * scores.abs().max()),
            "The error may be at most 1 % of the *mean* absolute value of the recorded scores.",
        ),
        Misconception(
            "any error is too large",
            _wrong_checkpoint(bar=lambda scores: 1e-3 * scores.abs().mean()),
            "Recorded scores are seldom exact. A layout explains them where its error is at most 1 % of their mean "
            "absolute value.",
        ),
        Misconception(
            "the scores are divided by the square root of the model's width",
            _wrong_checkpoint(score=_scores_divided_by_the_width),
            "The recorded scores are divided by √d, with d the width of one head, not of the model. With another "
            "divisor no layout seems to fit.",
        ),
        Misconception(
            "the scores are not divided by √d",
            _wrong_checkpoint(score=_scores_unscaled),
            "The recorded scores are divided by √d, with d the width of one head. Yours are √d times as large, "
            "so that no layout seems to fit.",
        ),
        Misconception(
            "the heads are mixed up with the positions",
            _wrong_checkpoint(score=_scores_of_mixed_heads),
            "`reshape(num_heads, n, d)` cuts rows of (n, num_heads · d) in the wrong places. Split the last axis "
            "into (num_heads, d), and then exchange the first two axes.",
        ),
        Misconception(
            "all heads are turned as one",
            _wrong_checkpoint(score=_scores_turned_before_the_split),
            "The frequencies are those of one head's width. Split into heads first, and turn each of them.",
        ),
    ),
    hints=(
        "First write a function that gives the scores for one layout: project, split into heads, turn queries "
        "and keys, multiply, divide by √d. Then call it twice.",
        "The projections are `hidden_states @ weight.T`, (n, num_heads · d). `.unflatten(-1, (num_heads, d))` and "
        "`.transpose(0, 1)` make (num_heads, n, d). The error is `(found - scores).abs().mean()`.",
        "Rows from halves to neighbours: `weight.reshape(num_heads, 2, d // 2, -1).transpose(1, 2)`, and back to "
        "two axes with `.reshape(weight.shape)`. The other way round the split is (num_heads, d // 2, 2, −1).",
    ),
)

EXERCISES = (SINUSOIDAL, SHIFT, ROTATE, BUCKET, ALIBI, CHECKPOINT)
