"""Exercises of 08_residual_norm_ffn: what is asked, what is right, and how people go wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import norms as library
from .exercise import Case, Exercise, Misconception, Tolerance
from .probes import residual_norm_ffn as probes

# The library's own versions are no answers, nor parts of one.
LIBRARY = (
    "course_lib.layers.norms.layer_norm",
    "course_lib.layers.norms.layer_norm_backward",
    "course_lib.layers.norms.rms_norm",
    "course_lib.layers.norms.standardise",
    "course_lib.layers.norms.LayerNorm",
    "course_lib.layers.norms.RMSNorm",
    "course_lib.layers.feed_forward.FeedForward",
    "course_lib.layers.feed_forward.gated_width",
    "course_lib.layers.block.TransformerBlock",
    "course_lib.layers.block.TransformerStack",
)
# torch's own norms: as functions, as modules, and the operators behind them.
NORMS = (
    "torch.nn.functional.layer_norm",
    "torch.nn.functional.group_norm",
    "torch.nn.functional.instance_norm",
    "torch.nn.functional.batch_norm",
    "torch.nn.functional.rms_norm",
    "torch.layer_norm",
    "torch.rms_norm",
    "torch.nn.LayerNorm",
    "torch.nn.RMSNorm",
    "aten::native_layer_norm",
    "aten::native_group_norm",
    "aten::native_batch_norm",
    "aten::_fused_rms_norm",
)
AUTOGRAD = (
    "torch.autograd.grad",
    "torch.autograd.backward",
    "torch.autograd.graph._engine_run_backward",
    "torch.autograd.functional",
    "torch.autograd.forward_ad",
    "torch.Tensor.backward",
    "torch.func.grad",
    "torch.func.grad_and_value",
    "torch.func.vjp",
    "torch.func.jvp",
    "torch.func.jacrev",
    "torch.func.jacfwd",
    "torch.func.linearize",
    "aten::native_layer_norm_backward",
)
BLOCKS = (
    "torch.nn.TransformerEncoderLayer",
    "torch.nn.TransformerDecoderLayer",
    "torch.nn.TransformerEncoder",
    "torch.nn.TransformerDecoder",
)

# --- residual_norm_ffn/layer_norm --------------------------------------------------------------


def layer_norm_cases(rng: np.random.Generator) -> Iterator[Case]:
    """A few tokens, a batch, a visible eps; then one token alone, width 1, equal numbers, far from zero."""
    yield _norm_case(rng, "two tokens", (2, 4))
    yield _norm_case(rng, "a batch of sentences", (2, 3, 8))
    yield _norm_case(rng, "an eps of one half", (3, 6), eps=0.5)
    yield _norm_case(rng, "one token alone", (5,), hidden=True)
    yield _norm_case(rng, "tokens of width 1", (3, 1), hidden=True)
    equal = np.repeat(rng.integers(-4, 5, size=(3, 1)), 4, axis=1)
    yield _norm_case(rng, "tokens of equal numbers", (3, 4), hidden_states=equal, hidden=True)
    # Whole numbers: their mean is exact, whatever the order of the sum.
    far = 16384 + rng.permuted(np.tile(np.arange(-4, 4), (3, 1)), axis=1)
    yield _norm_case(rng, "tokens far from zero", (3, 8), hidden_states=far, gradient=False, hidden=True)
    yield _norm_case(rng, "float64", (2, 2, 5), dtype="float64", hidden=True)


def _norm_case(
    rng: np.random.Generator,
    name: str,
    shape: tuple[int, ...],
    *,
    eps: float | None = None,
    hidden_states: np.ndarray | None = None,
    dtype: str = "float32",
    gradient: bool = True,
    hidden: bool = False,
) -> Case:
    """Tokens off zero, each with a spread of its own. eps: left to the default when None."""
    if hidden_states is None:
        spread = rng.uniform(0.5, 2.0, size=(*shape[:-1], 1))
        hidden_states = rng.normal(size=shape) * spread + rng.uniform(0.5, 1.5)
    inputs: dict[str, Any] = {"hidden_states": hidden_states, "weight": rng.normal(size=shape[-1:])}
    inputs |= {"bias": rng.normal(size=shape[-1:]), "direction": rng.normal(size=shape)}
    inputs = {
        part: values.astype("float64" if dtype == "float64" else "float32") for part, values in inputs.items()
    }
    return Case(name, inputs | {"eps": eps, "dtype": dtype, "gradient": gradient}, hidden)


def _eps_of(case: Case, default: float) -> float:
    return default if case["eps"] is None else case["eps"]


def layer_norm_steps(case: Case) -> Mapping[str, np.ndarray]:
    """Mean, what is left without it, variance, the normalised token, the output."""
    given = case["hidden_states"]
    mean = given.mean(-1, keepdims=True)
    variance = given.var(-1, keepdims=True)
    normalised = (given - mean) / np.sqrt(variance + _eps_of(case, 1e-5))
    steps = {"the mean of each token": mean, "the token without its mean": given - mean}
    steps |= {"the variance of each token": variance, "the normalised token": normalised}
    return steps | {"the output (normalised · weight + bias)": normalised * case["weight"] + case["bias"]}


def _layer_norm_by_var(hidden_states: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    mean = hidden_states.mean(-1, keepdim=True)
    variance = hidden_states.var(-1, keepdim=True, unbiased=False)
    return (hidden_states - mean) / torch.sqrt(variance + eps) * weight + bias


def _layer_norm_by_sums(hidden_states: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    width = hidden_states.size(-1)
    centred = hidden_states - torch.sum(hidden_states, dim=-1, keepdim=True) / width
    variance = torch.einsum("...d,...d->...", centred, centred).unsqueeze(-1) / width
    return torch.addcmul(bias, centred * torch.rsqrt(variance + eps), weight)


def _wrong_layer_norm(
    *,
    mean_over: Any = -1,
    variance_over: Any = -1,
    unbiased: bool = False,
    root: str = "of variance + eps",
    weighted: bool = True,
    shifted: bool = True,
    centred: bool = True,
    cut: bool = False,
    kept: bool = True,
) -> Callable[..., Tensor]:
    """A LayerNorm with one thing wrong; by default nothing is. An axis of None is all axes."""

    def layer_norm(hidden_states: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
        x = hidden_states.detach() if cut else hidden_states
        axes = list(range(x.dim()))
        mean = x.mean(dim=axes if mean_over is None else mean_over, keepdim=True)
        variance = x.var(
            dim=axes if variance_over is None else variance_over, keepdim=True, unbiased=unbiased
        )
        divisor = {
            "of variance + eps": lambda: torch.sqrt(variance + eps),
            "of variance, then eps": lambda: torch.sqrt(variance) + eps,
            "without eps": lambda: torch.sqrt(variance),
            "of variance + 1e-5": lambda: torch.sqrt(variance + 1e-5),
            "left out": lambda: variance + eps,
        }[root]()
        if not kept:
            mean, divisor = mean.squeeze(-1), divisor.squeeze(-1)
        normalised = (hidden_states - mean if centred else hidden_states) / divisor
        scaled = normalised * weight if weighted else normalised
        return scaled + bias if shifted else scaled

    return layer_norm


def _variance_by_difference(hidden_states: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    mean = hidden_states.mean(dim=-1, keepdim=True)
    variance = (hidden_states**2).mean(dim=-1, keepdim=True) - mean**2
    return (hidden_states - mean) / torch.sqrt(variance + eps) * weight + bias


LAYER_NORM = Exercise(
    id="residual_norm_ffn/layer_norm",
    title="LayerNorm",
    points=2,
    minutes=20,
    difficulty=2,
    cases=layer_norm_cases,
    probe=probes.layer_norm,
    reference=library.layer_norm,
    also_right=(_layer_norm_by_var, _layer_norm_by_sums),
    steps=layer_norm_steps,
    tolerance=Tolerance(absolute=2e-5, relative=1e-4),
    forbidden=(*LIBRARY, *NORMS),
    library="course_lib.layers.norms:layer_norm",
    misconceptions=(
        Misconception(
            "the statistics run over the batch",
            _wrong_layer_norm(mean_over=0, variance_over=0),
            "Mean and variance of the first axis are BatchNorm's. LayerNorm takes each token on its own: "
            "the last axis, with `keepdim=True`.",
        ),
        Misconception(
            "the statistics run over the second axis",
            _wrong_layer_norm(mean_over=1, variance_over=1),
            "The second axis holds the features only where there is one axis before it. Count from the end: "
            "`dim=-1` is the token's own axis, whatever stands before it.",
        ),
        Misconception(
            "the statistics run over the last two axes",
            _wrong_layer_norm(mean_over=(-2, -1), variance_over=(-2, -1)),
            "You normalise all tokens of a sentence together, so a token's result depends on its "
            "neighbours. Take the last axis alone.",
        ),
        Misconception(
            "the axis of the mean is gone",
            _wrong_layer_norm(kept=False),
            "`mean(dim=-1)` takes the axis away, and then there is nothing to line the means up with their tokens. "
            "`keepdim=True` keeps it, with length 1.",
        ),
        Misconception(
            "the statistics run over everything",
            _wrong_layer_norm(mean_over=None, variance_over=None),
            "There is one mean and one variance for each token, not one for the whole tensor: "
            "`dim=-1, keepdim=True`.",
        ),
        Misconception(
            "the variance is the unbiased one",
            _wrong_layer_norm(unbiased=True),
            "`var` and `std` divide by d − 1 unless they are told not to. LayerNorm divides by d: "
            "`unbiased=False`, or the mean of the squares.",
        ),
        Misconception(
            "the divisor is `std() + eps`",
            _wrong_layer_norm(unbiased=True, root="of variance, then eps"),
            "Two things differ at once: `std` divides by d − 1 where LayerNorm divides by d, and eps belongs "
            "inside the root, √(variance + eps).",
        ),
        Misconception(
            "eps stands outside the root",
            _wrong_layer_norm(root="of variance, then eps"),
            "The divisor is √(variance + eps), not √variance + eps. Inside the root eps also keeps the gradient "
            "finite where the variance is 0.",
        ),
        Misconception(
            "eps is left out",
            _wrong_layer_norm(root="without eps"),
            "A token of equal numbers has variance 0, and 0/0 is NaN. Add eps to the variance before the root.",
        ),
        Misconception(
            "eps is always 1e-5",
            _wrong_layer_norm(root="of variance + 1e-5"),
            "1e-5 is what `eps` is where nobody says otherwise. Write √(variance + eps), so that another value "
            "counts.",
        ),
        Misconception(
            "the root is left out",
            _wrong_layer_norm(root="left out"),
            "You divide by the variance. Its root, the standard deviation, has the unit of the numbers "
            "themselves.",
        ),
        Misconception(
            "the mean is not subtracted",
            _wrong_layer_norm(centred=False),
            "You divide the token by its spread without taking its mean away first. Leaving the mean in is "
            "near to RMSNorm, and not LayerNorm.",
        ),
        Misconception(
            "the weight is missing",
            _wrong_layer_norm(weighted=False),
            "After normalising, each feature is multiplied by its own entry of `weight`, which training can "
            "change.",
        ),
        Misconception(
            "the bias is missing",
            _wrong_layer_norm(shifted=False),
            "The last step adds `bias`, one number for each feature.",
        ),
        Misconception(
            "weight and bias are exchanged",
            lambda hidden_states, weight, bias, eps=1e-5: _layer_norm_by_var(
                hidden_states, bias, weight, eps
            ),
            "`weight` multiplies and `bias` is added. Yours do it the other way round.",
        ),
        Misconception(
            "the bias is added before the weight multiplies",
            lambda hidden_states, weight, bias, eps=1e-5: (
                (_wrong_layer_norm(weighted=False)(hidden_states, weight, bias, eps)) * weight
            ),
            "First the weight, then the bias: `normalised * weight + bias`.",
        ),
        Misconception(
            "the variance is a difference of squares",
            _variance_by_difference,
            "mean(x²) − mean(x)² is the variance on paper. In floating point two large numbers that are nearly "
            "equal leave only rounding errors. Subtract the mean first, then square.",
        ),
        Misconception(
            "no gradient passes through mean and variance",
            _wrong_layer_norm(cut=True),
            "The numbers are right, but mean and variance were cut off by `detach()`, `.data` or "
            "`torch.no_grad()`. They depend on the token, and the gradient must know it.",
        ),
    ),
    hints=(
        "Each token is normalised on its own. Which axis holds the numbers of one token?",
        "`mean(dim=-1, keepdim=True)` keeps the axis with length 1, so that it can be subtracted. The variance "
        "is the mean of the squares of what is left.",
        "`centred = x - x.mean(-1, keepdim=True)`; the variance is `centred.square().mean(-1, keepdim=True)`. "
        "Divide `centred` by the root of (variance + eps), multiply by `weight` and add `bias`.",
    ),
)

# --- residual_norm_ffn/layer_norm_backward -----------------------------------------------------


def backward_cases(rng: np.random.Generator) -> Iterator[Case]:
    """A few tokens, a batch, a visible eps; then one token alone, width 1, float64."""
    yield _backward_case(rng, "two tokens", (2, 4))
    yield _backward_case(rng, "a batch of sentences", (2, 3, 6))
    yield _backward_case(rng, "an eps of one half", (3, 5), eps=0.5)
    yield _backward_case(rng, "one token alone", (5,), hidden=True)
    yield _backward_case(rng, "four axes", (2, 1, 3, 4), hidden=True)
    yield _backward_case(rng, "tokens of width 1", (3, 1), hidden=True)
    yield _backward_case(rng, "float64", (2, 2, 7), dtype="float64", hidden=True)


def _backward_case(rng: np.random.Generator, name: str, shape: tuple[int, ...], **options: Any) -> Case:
    drawn = _norm_case(rng, name, shape, **options)
    inputs = dict(drawn.inputs) | {"grad_output": drawn["direction"]}
    return Case(
        name, {part: inputs[part] for part in inputs if part not in ("direction", "bias")}, drawn.hidden
    )


def backward_steps(case: Case) -> Mapping[str, np.ndarray]:
    """The normalised token, the gradient that reaches it, and the parts of the token's gradient."""
    given, upstream = case["hidden_states"], case["grad_output"]
    inverse = 1 / np.sqrt(given.var(-1, keepdims=True) + _eps_of(case, 1e-5))
    normalised = (given - given.mean(-1, keepdims=True)) * inverse
    reaching = upstream * case["weight"]
    along = (reaching * normalised).mean(-1, keepdims=True)
    steps = {"the normalised token": normalised, "the gradient of the normalised token": reaching}
    steps |= {"its mean along the normalised token": along}
    left = reaching - reaching.mean(-1, keepdims=True) - normalised * along
    return steps | {"what is left of it": left, "the gradient of hidden_states": left * inverse}


def _sum_over_tokens(values: Tensor) -> Tensor:
    return values.reshape(-1, values.shape[-1]).sum(dim=0)


def _backward_by_jacobian(
    grad_output: Tensor, hidden_states: Tensor, weight: Tensor, eps: float = 1e-5
) -> tuple[Tensor, Tensor, Tensor]:
    """The d × d matrix of every token: (I − 1/d − n nᵀ/d) / √(variance + eps)."""
    width = hidden_states.shape[-1]
    centred = hidden_states - hidden_states.mean(-1, keepdim=True)
    deviation = torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + eps)
    normalised = centred / deviation
    outer = normalised[..., :, None] * normalised[..., None, :]
    jacobian = (torch.eye(width).to(outer) - 1 / width - outer / width) / deviation[..., None]
    grad_input = torch.einsum("...ij,...j->...i", jacobian, grad_output * weight)
    return grad_input, _sum_over_tokens(grad_output * normalised), _sum_over_tokens(grad_output)


def _backward_step_by_step(
    grad_output: Tensor, hidden_states: Tensor, weight: Tensor, eps: float = 1e-5
) -> tuple[Tensor, Tensor, Tensor]:
    """The chain rule node by node: through the product, the root, the variance, and the mean."""
    width = hidden_states.shape[-1]
    centred = hidden_states - hidden_states.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    inverse = (variance + eps) ** -0.5
    grad_weight = (grad_output * centred * inverse).flatten().view(-1, width).sum(0)
    grad_bias = grad_output.flatten().view(-1, width).sum(0)
    grad_normalised = grad_output * weight
    grad_inverse = (grad_normalised * centred).sum(-1, keepdim=True)
    grad_variance = grad_inverse * -0.5 * (variance + eps) ** -1.5
    grad_centred = grad_normalised * inverse + grad_variance * 2 / width * centred
    return grad_centred - grad_centred.sum(-1, keepdim=True) / width, grad_weight, grad_bias


def _wrong_backward(
    *,
    mean_part: bool = True,
    variance_part: bool = True,
    average: str = "mean",
    weighted: str = "first",
    scaled: bool = True,
    along: str = "normalised",
    sign: int = -1,
    weight_from: str = "normalised",
    parameters_from: str = "grad_output",
    collect: Callable[[Tensor], Tensor] = _sum_over_tokens,
    unbiased: bool = False,
    use_eps: bool = True,
    order: Sequence[int] = (0, 1, 2),
) -> Callable[..., tuple[Tensor, ...]]:
    """A backward pass with one thing wrong; by default nothing is."""

    def backward(
        grad_output: Tensor, hidden_states: Tensor, weight: Tensor, eps: float = 1e-5
    ) -> tuple[Tensor, ...]:
        variance = hidden_states.var(-1, keepdim=True, unbiased=unbiased)
        inverse = (variance + (eps if use_eps else 0.0)) ** -0.5
        normalised = (hidden_states - hidden_states.mean(-1, keepdim=True)) * inverse
        reaching = grad_output * weight if weighted == "first" else grad_output
        reduce = torch.mean if average == "mean" else torch.sum
        grad_input = reaching
        if mean_part:
            grad_input = grad_input + sign * reduce(reaching, dim=-1, keepdim=True)
        if variance_part:
            direction = normalised if along == "normalised" else hidden_states
            grad_input = grad_input + sign * normalised * reduce(reaching * direction, dim=-1, keepdim=True)
        if scaled:
            grad_input = grad_input * inverse
        if weighted == "last":
            grad_input = grad_input * weight
        factor = normalised if weight_from == "normalised" else hidden_states
        given = grad_output if parameters_from == "grad_output" else reaching
        found = (grad_input, collect(given * factor), collect(given))
        return tuple(found[place] for place in order)

    return backward


BACKWARD = Exercise(
    id="residual_norm_ffn/layer_norm_backward",
    title="LayerNorm's gradient, by hand",
    points=4,
    minutes=50,
    difficulty=4,
    cases=backward_cases,
    probe=probes.layer_norm_backward,
    reference=library.layer_norm_backward,
    also_right=(_backward_by_jacobian, _backward_step_by_step),
    steps=backward_steps,
    tolerance=Tolerance(absolute=5e-5, relative=2e-4),
    forbidden=(*LIBRARY, *NORMS, *AUTOGRAD),
    library="course_lib.layers.norms:layer_norm_backward",
    misconceptions=(
        Misconception(
            "mean and variance are taken for constants",
            _wrong_backward(mean_part=False, variance_part=False),
            "The mean and the variance change when the token changes, and pass gradient back, too. Two terms "
            "are missing.",
        ),
        Misconception(
            "the path through the mean is missing",
            _wrong_backward(mean_part=False),
            "Raising one number raises the mean, which lowers all others. That takes the mean of the gradient "
            "out of it. Check: the gradient of a token sums to 0.",
        ),
        Misconception(
            "the path through the variance is missing",
            _wrong_backward(variance_part=False),
            "Stretching a token raises its variance, which shrinks it again. That takes out of the gradient its "
            "part along the normalised token.",
        ),
        Misconception(
            "the two corrections are added",
            _wrong_backward(sign=1),
            "Both terms are subtracted: they take out of the gradient what only shifts or stretches a token.",
        ),
        Misconception(
            "sums stand where means belong",
            _wrong_backward(average="sum"),
            "The mean of d numbers changes by 1/d when one of them changes by 1. Both corrections are means "
            "over the token, not sums.",
        ),
        Misconception(
            "the weight is left out of the token's gradient",
            _wrong_backward(weighted="left out"),
            "The output is normalised · weight + bias, so what reaches the normalised token is "
            "`grad_output * weight`.",
        ),
        Misconception(
            "the weight multiplies at the end",
            _wrong_backward(weighted="last"),
            "Backward, the weight comes first, because forward it came last. The two means must be taken of "
            "`grad_output * weight`.",
        ),
        Misconception(
            "the division by the standard deviation is missing",
            _wrong_backward(scaled=False),
            "Forward, each number was divided by √(variance + eps). Its gradient is, too.",
        ),
        Misconception(
            "the token stands where the normalised token belongs",
            _wrong_backward(along="hidden_states"),
            "The second correction is along the normalised token: mean(g · n) times n, with n on both sides.",
        ),
        Misconception(
            "the weight's gradient uses the token before it was normalised",
            _wrong_backward(weight_from="hidden_states"),
            "The weight multiplied the normalised token, so its gradient is the sum of "
            "`grad_output * normalised`.",
        ),
        Misconception(
            "the weight multiplies the gradients of weight and bias, too",
            _wrong_backward(parameters_from="grad_output · weight"),
            "`grad_output * weight` is what reaches the normalised token. The weight and the bias themselves "
            "hear `grad_output` as it came.",
        ),
        Misconception(
            "weight and bias get one gradient per token",
            _wrong_backward(collect=lambda values: values),
            "Every token used the same weight and bias, so their gradients are sums over all tokens: shape (d,).",
        ),
        Misconception(
            "only the first axis is summed",
            _wrong_backward(collect=lambda values: values.sum(dim=0)),
            "There may be any number of leading axes, none included. Bring them into one with "
            "`reshape(-1, d)`, then sum.",
        ),
        Misconception(
            "the gradients of weight and bias are averaged",
            _wrong_backward(collect=lambda values: values.reshape(-1, values.shape[-1]).mean(dim=0)),
            "Gradients of a shared parameter add up. Whether a loss is an average is already in `grad_output`.",
        ),
        Misconception(
            "the variance is the unbiased one",
            _wrong_backward(unbiased=True),
            "LayerNorm's variance divides by d. `var` divides by d − 1 unless you pass `unbiased=False`.",
        ),
        Misconception(
            "eps is left out",
            _wrong_backward(use_eps=False),
            "The divisor is √(variance + eps), backward as forward.",
        ),
        Misconception(
            "the bias comes before the weight",
            _wrong_backward(order=(0, 2, 1)),
            "The order is: gradient of hidden_states, of weight, of bias.",
        ),
        Misconception(
            "only the token's gradient is returned",
            lambda *given: _backward_step_by_step(*given)[0],
            "Three gradients are asked for: end with `return grad_input, grad_weight, grad_bias`.",
        ),
    ),
    hints=(
        "Begin with the easy two: the bias was added to every token, and the weight multiplied every "
        "normalised token. What reaches the normalised token itself?",
        "With g = grad_output · weight and n the normalised token, three paths lead back to a number: straight "
        "on, through the mean, and through the variance. The last two each subtract a mean over the token.",
        "The gradient of a token is (g − mean(g) − n · mean(g · n)) / √(variance + eps), with means over the "
        "last axis. For the others, `reshape(-1, d).sum(0)` of grad_output · n and of grad_output.",
    ),
)

# --- residual_norm_ffn/rms_norm ----------------------------------------------------------------


def rms_norm_cases(rng: np.random.Generator) -> Iterator[Case]:
    """A few tokens, a batch, a visible eps, 16 bits; then zeros, one token alone, small and large numbers."""
    yield _norm_case(rng, "two tokens", (2, 4))
    yield _norm_case(rng, "a batch of sentences", (2, 3, 8))
    yield _norm_case(rng, "an eps of one half", (3, 6), eps=0.5)
    yield _norm_case(rng, "bfloat16", (2, 16), dtype="bfloat16", gradient=False)
    large = rng.normal(size=(2, 8)) * 50 + 400
    yield _norm_case(
        rng, "float16, numbers of some hundreds", (2, 8), hidden_states=large, dtype="float16", gradient=False
    )
    yield _norm_case(rng, "one token alone", (5,), hidden=True)
    zeros = np.concatenate([np.zeros((1, 4)), rng.normal(size=(1, 4)) + 1])
    yield _norm_case(rng, "a token of zeros", (2, 4), hidden_states=zeros, hidden=True)
    yield _norm_case(rng, "float64", (2, 2, 5), dtype="float64", hidden=True)


def rms_norm_steps(case: Case) -> Mapping[str, np.ndarray]:
    """The mean of the squares, the normalised token, the output."""
    given = case["hidden_states"]
    squares = (given**2).mean(-1, keepdims=True)
    normalised = given / np.sqrt(squares + _eps_of(case, 1e-6))
    steps = {"the mean of the squares": squares, "the normalised token": normalised}
    return steps | {"the output (normalised · weight)": normalised * case["weight"]}


def _rms_norm_as_in_llama(hidden_states: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    dtype = hidden_states.dtype
    wide = hidden_states.double() if dtype == torch.float64 else hidden_states.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * wide.to(dtype)


def _rms_norm_by_length(hidden_states: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    wide = hidden_states.to(torch.float64)
    length = torch.einsum("...d,...d->...", wide, wide)[..., None]
    root = torch.sqrt(length / hidden_states.shape[-1] + eps)
    return (wide / root * weight.double()).to(hidden_states.dtype)


def _wrong_rms_norm(
    *,
    centred: bool = False,
    over: Any = -1,
    reduce: Callable[..., Tensor] = torch.mean,
    root: str = "of mean + eps",
    weighting: str = "weight",
    inside: str = "float32",
    returned: str = "the dtype of the input",
) -> Callable[..., Tensor]:
    """An RMSNorm with one thing wrong; by default nothing is."""

    def rms_norm(hidden_states: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
        wide = hidden_states if inside == "as given" else library.at_least_float32(hidden_states)
        if centred:
            wide = wide - wide.mean(dim=-1, keepdim=True)
        axes = list(range(wide.dim())) if over is None else over
        squares = reduce(wide * wide, dim=axes, keepdim=True)
        divisor = {
            "of mean + eps": lambda: torch.sqrt(squares + eps),
            "of mean, then eps": lambda: torch.sqrt(squares) + eps,
            "without eps": lambda: torch.sqrt(squares),
            "left out": lambda: squares + eps,
        }[root]()
        normalised = wide / divisor
        factor = {"weight": weight, "none": torch.ones_like(weight), "1 + weight": 1 + weight}[weighting]
        output = normalised * factor
        return output if returned == "as computed" else output.to(hidden_states.dtype)

    return rms_norm


RMS_NORM = Exercise(
    id="residual_norm_ffn/rms_norm",
    title="RMSNorm, in 16 bits too",
    points=2,
    minutes=20,
    difficulty=2,
    cases=rms_norm_cases,
    probe=probes.rms_norm,
    reference=library.rms_norm,
    also_right=(_rms_norm_as_in_llama, _rms_norm_by_length),
    steps=rms_norm_steps,
    tolerance=Tolerance(absolute=2e-5, relative=1e-4),
    forbidden=(*LIBRARY, *NORMS),
    library="course_lib.layers.norms:rms_norm",
    gpu=True,
    misconceptions=(
        Misconception(
            "the mean is subtracted",
            _wrong_rms_norm(centred=True),
            "That is LayerNorm without a bias. RMSNorm leaves the mean where it is: it divides by the root of "
            "the mean of the squares, and does nothing else.",
        ),
        Misconception(
            "eps stands outside the root",
            _wrong_rms_norm(root="of mean, then eps"),
            "The divisor is √(mean of the squares + eps): add eps before the root.",
        ),
        Misconception(
            "eps is left out",
            _wrong_rms_norm(root="without eps"),
            "A token of zeros has a mean square of 0, and 0/0 is NaN. Add eps before the root.",
        ),
        Misconception(
            "the root is left out",
            _wrong_rms_norm(root="left out"),
            "Divide by the *root* of the mean of the squares: that is the R in RMS.",
        ),
        Misconception(
            "the squares are added up, not averaged",
            _wrong_rms_norm(reduce=torch.sum),
            "You bring the token to length 1. RMSNorm divides by the root of the *mean* of the squares, so that "
            "a normalised token has length √d, whatever the width.",
        ),
        Misconception(
            "16-bit numbers are squared in 16 bits",
            _wrong_rms_norm(inside="as given"),
            "The largest float16 is 65,504, the square of 256: beyond that a square is infinite, and the "
            "output 0. Compute in float32 and return to the input's dtype at the end.",
        ),
        Misconception(
            "the result stays in float32",
            _wrong_rms_norm(returned="as computed"),
            "Computing in float32 inside is right, but the result belongs into the dtype of the input: end with "
            "`.to(hidden_states.dtype)`.",
        ),
        Misconception(
            "the weight is missing",
            _wrong_rms_norm(weighting="none"),
            "The normalised token is multiplied by `weight`, one number for each feature.",
        ),
        Misconception(
            "the weight is taken for an offset from 1",
            _wrong_rms_norm(weighting="1 + weight"),
            "Some models store weight − 1 and multiply by 1 + weight. Here `weight` itself multiplies.",
        ),
        Misconception(
            "the statistics run over everything",
            _wrong_rms_norm(over=None),
            "Each token has a mean square of its own: `dim=-1, keepdim=True`.",
        ),
        Misconception(
            "the statistics run over the batch",
            _wrong_rms_norm(over=0),
            "The mean of the squares runs over the features of one token, the last axis, not over the tokens.",
        ),
    ),
    hints=(
        "RMS read backwards is the recipe: square, take the mean, take the root. What is it divided by, and "
        "over which axis does the mean run?",
        "`squares = x.square().mean(dim=-1, keepdim=True)`, then `x * torch.rsqrt(squares + eps) * weight`. "
        "Nothing is subtracted, and there is no bias.",
        "For 16-bit inputs begin with `wide = hidden_states.float()`, leave float64 as it is, do everything "
        "with `wide`, and end with `.to(hidden_states.dtype)`.",
    ),
)

# --- residual_norm_ffn/stack -------------------------------------------------------------------


def stack_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Both orders, one block and several, a mask, dropout of everything in training and in evaluation."""
    yield _stack_case(rng, "pre, one block", "pre", 1)
    yield _stack_case(rng, "post, one block", "post", 1)
    yield _stack_case(rng, "pre, three blocks", "pre", 3)
    yield _stack_case(rng, "post, three blocks", "post", 3)
    yield _stack_case(rng, "pre, all changes dropped in training", "pre", 2, dropout=1.0)
    yield _stack_case(rng, "post, all changes dropped in training", "post", 2, dropout=1.0, hidden=True)
    yield _stack_case(rng, "pre, evaluation", "pre", 2, dropout=1.0, training=False)
    causal = np.tri(4, dtype=bool)
    yield _stack_case(rng, "pre with a causal mask", "pre", 2, mask=causal)
    yield _stack_case(rng, "post, evaluation", "post", 2, dropout=1.0, training=False, hidden=True)
    yield _stack_case(rng, "post with a causal mask", "post", 2, mask=causal, hidden=True)


def _stack_case(
    rng: np.random.Generator,
    name: str,
    order: str,
    num_blocks: int,
    *,
    dropout: float | None = None,
    training: bool = True,
    mask: np.ndarray | None = None,
    hidden: bool = False,
) -> Case:
    d_model, d_ff, length = 6, 8, 4

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    blocks = [
        {"mixing": draw(d_model, d_model), "up": draw(d_model, d_ff), "down": draw(d_ff, d_model)}
        for _ in range(num_blocks)
    ]
    places = [f"norms.{i}" for i in range(2 * num_blocks)] + (["final_norm"] if order == "pre" else [])
    norms = {f"{place}.weight": draw(d_model) + np.float32(1) for place in places}
    norms |= {f"{place}.bias": draw(d_model) for place in places}
    inputs: dict[str, Any] = {"d_model": d_model, "order": order, "dropout": dropout, "training": training}
    inputs |= {"blocks": blocks, "norms": norms, "mask": mask}
    inputs |= {"hidden_states": 2 * draw(2, length, d_model), "direction": draw(2, length, d_model)}
    return Case(name, inputs, hidden)


class _Stack(nn.Module):
    """The reference. Each pair of sublayers is a block."""

    def __init__(
        self,
        sublayers: list[tuple[nn.Module, nn.Module]],
        d_model: int,
        order: str = "pre",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.order = order
        self.blocks = nn.ModuleList(nn.ModuleList(pair) for pair in sublayers)
        self.norms = nn.ModuleList(nn.LayerNorm(d_model) for pair in sublayers for _ in pair)
        self.final_norm = nn.LayerNorm(d_model) if order == "pre" else nn.Identity()
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_states: Tensor, mask: Tensor | None = None) -> Tensor:
        norms = iter(self.norms)
        pairs: Any = self.blocks
        for attention, feed_forward in pairs:
            hidden_states = self.add(hidden_states, next(norms), partial(attention, mask=mask))
            hidden_states = self.add(hidden_states, next(norms), feed_forward)
        return self.final_norm(hidden_states)

    def add(self, stream: Tensor, norm: nn.Module, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        if self.order == "pre":
            return stream + self.dropout(sublayer(norm(stream)))
        return norm(stream + self.dropout(sublayer(stream)))


class _StackWrittenOut(nn.Module):
    def __init__(self, sublayers: Any, d_model: int, order: str = "pre", dropout: float = 0.0) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([attention for attention, _ in sublayers])
        self.feed_forwards = nn.ModuleList([feed_forward for _, feed_forward in sublayers])
        self.norms = nn.ModuleList([nn.LayerNorm(d_model) for _ in range(2 * len(sublayers))])
        self.is_pre, self.rate = order == "pre", dropout
        if self.is_pre:
            self.final_norm = nn.LayerNorm(d_model)

    def forward(self, hidden_states: Tensor, mask: Tensor | None = None) -> Tensor:
        x = hidden_states
        for i, (attention, feed_forward) in enumerate(zip(self.attentions, self.feed_forwards, strict=True)):
            first, second = self.norms[2 * i], self.norms[2 * i + 1]
            if self.is_pre:
                x = x + F.dropout(attention(first(x), mask=mask), self.rate, self.training)
                x = x + F.dropout(feed_forward(second(x)), self.rate, self.training)
            else:
                x = first(x + F.dropout(attention(x, mask=mask), self.rate, self.training))
                x = second(x + F.dropout(feed_forward(x), self.rate, self.training))
        return self.final_norm(x) if self.is_pre else x


class _StackOfSublayers(nn.Module):
    """Both kinds of sublayer in one list, told apart by their place."""

    def __init__(self, sublayers: Any, d_model: int, order: str = "pre", dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        self.norms = nn.ModuleList()
        for pair in sublayers:
            for sublayer in pair:
                self.layers.append(sublayer)
                self.norms.append(nn.LayerNorm(d_model))
        self.dropout = nn.Dropout(p=dropout)
        self.final_norm = nn.LayerNorm(d_model) if order == "pre" else None

    def forward(self, hidden_states: Tensor, mask: Tensor | None = None) -> Tensor:
        for place, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            read = hidden_states if self.final_norm is None else norm(hidden_states)
            change = layer(read) if place % 2 else layer(read, mask=mask)
            hidden_states = torch.add(hidden_states, self.dropout(change))
            if self.final_norm is None:
                hidden_states = norm(hidden_states)
        return hidden_states if self.final_norm is None else self.final_norm(hidden_states)


def _wrong_stack(
    *,
    swapped: bool = False,
    on_the_path: bool = False,
    second_from_the_start: bool = False,
    dropout_at: str = "the change",
    final: str = "right",
    residual: bool = True,
    norm_of: str = "the sum",
    shared: bool = False,
    masked: bool = True,
    registered: bool = True,
    norms_from: str = "each block",
) -> type[nn.Module]:
    """A stack with one thing wrong; by default nothing is."""

    class Stack(nn.Module):
        def __init__(self, sublayers: Any, d_model: int, order: str = "pre", dropout: float = 0.0) -> None:
            super().__init__()
            self.is_pre = (order == "pre") != swapped
            kept = [list(pair) for pair in sublayers]
            self.blocks: Any = nn.ModuleList(nn.ModuleList(pair) for pair in kept) if registered else kept
            count = 1 if shared else 2
            self.norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(count * len(kept)))
            if (order == "pre" and final != "missing") or final == "always":
                self.final_norm = nn.LayerNorm(d_model)
            self.dropout = nn.Dropout(dropout)

        def forward(self, hidden_states: Tensor, mask: Tensor | None = None) -> Tensor:
            x = hidden_states
            for i, (attention, feed_forward) in enumerate(self.blocks):
                first = self.norms[0 if norms_from == "the first block" else i if shared else 2 * i]
                second = self.norms[1 if norms_from == "the first block" else i if shared else 2 * i + 1]
                start = x
                x = self.add(x, x, first, partial(attention, mask=mask if masked else None))
                x = self.add(x, start if second_from_the_start else x, second, feed_forward)
            if hasattr(self, "final_norm") and final != "unused":
                x = self.final_norm(x)
            return x

        def add(
            self, x: Tensor, base: Tensor, norm: nn.Module, sublayer: Callable[[Tensor], Tensor]
        ) -> Tensor:
            read = norm(x) if self.is_pre else x
            change = sublayer(read)
            if dropout_at == "the change":
                change = self.dropout(change)
            elif dropout_at == "always":
                change = F.dropout(change, self.dropout.p)
            if norm_of == "the change" and not self.is_pre:
                return base + norm(change)
            base = read if on_the_path and self.is_pre else base
            total = base + change if residual else change
            if dropout_at == "the sum":
                total = self.dropout(total)
            return total if self.is_pre else norm(total)

    return Stack


STACK = Exercise(
    id="residual_norm_ffn/stack",
    title="Residuals and norms around a stack of blocks",
    points=4,
    minutes=40,
    difficulty=3,
    cases=stack_cases,
    probe=probes.stack,
    reference=_Stack,
    also_right=(_StackWrittenOut, _StackOfSublayers),
    tolerance=Tolerance(absolute=5e-5, relative=2e-4),
    forbidden=(*LIBRARY, *BLOCKS),
    library="course_lib.layers.block:TransformerStack",
    misconceptions=(
        Misconception(
            "the norm stands on the residual path",
            _wrong_stack(on_the_path=True),
            "In the pre order the stream itself is never normalised. Only what the sublayer reads is: "
            "`x = x + sublayer(norm(x))`. If you write `x = norm(x)` first, the straight way is gone.",
        ),
        Misconception(
            "the second residual comes from the block's input",
            _wrong_stack(second_from_the_start=True),
            "The feed-forward layer's change is added to the stream as it is after attention. Yours is added to "
            "the stream before attention, and what attention found is lost.",
        ),
        Misconception(
            "dropout comes after the addition",
            _wrong_stack(dropout_at="the sum"),
            "Dropout falls on what a sublayer returns, before it is added. After the addition it would tear "
            "holes into the stream itself.",
        ),
        Misconception(
            "dropout is left out",
            _wrong_stack(dropout_at="nowhere"),
            "While training, `dropout` falls on what each sublayer returns, before it is added to the stream.",
        ),
        Misconception(
            "dropout goes on in evaluation",
            _wrong_stack(dropout_at="always"),
            "`F.dropout` drops always, unless you pass `training=self.training`. `nn.Dropout` asks by itself.",
        ),
        Misconception(
            "the final norm is missing",
            _wrong_stack(final="missing"),
            "In the pre order the stream leaves the last block without ever having been normalised. One more "
            "norm, `final_norm`, comes at the end.",
        ),
        Misconception(
            "the final norm is made but not used",
            _wrong_stack(final="unused"),
            "`final_norm` exists, but `forward` returns the stream before it. It comes after the last block.",
        ),
        Misconception(
            "the post order has a final norm, too",
            _wrong_stack(final="always"),
            "In the post order each sublayer already ends with its norm. Only the pre order has a `final_norm`.",
        ),
        Misconception(
            "pre and post are exchanged",
            _wrong_stack(swapped=True),
            'With order="pre" the norm comes before the sublayer, and with order="post" after the addition. Yours '
            "are the other way round.",
        ),
        Misconception(
            "the residuals are left out",
            _wrong_stack(residual=False),
            "What a sublayer returns is *added* to the stream: `x + …`. Without it the gradient has to pass "
            "through every sublayer.",
        ),
        Misconception(
            "the post norm is taken of the change alone",
            _wrong_stack(norm_of="the change"),
            "In the post order the norm comes after the addition: `norm(x + change)`, not `x + norm(change)`.",
        ),
        Misconception(
            "both sublayers of a block share a norm",
            _wrong_stack(shared=True),
            "Every sublayer has a norm of its own with its own weight and bias: two a block.",
        ),
        Misconception(
            "every block uses the norms of the first",
            _wrong_stack(norms_from="the first block"),
            "The norms are there, but all blocks use the first two. Sublayer number i uses `self.norms[i]`.",
        ),
        Misconception(
            "the mask is not passed on",
            _wrong_stack(masked=False),
            "`forward` takes a mask, but the result does not depend on it. Call `attention(…, mask=mask)`.",
        ),
        Misconception(
            "the sublayers are kept in a plain list",
            _wrong_stack(registered=False),
            "A module finds its parameters in modules and in `nn.ModuleList`, not in a plain list: these "
            "sublayers would never be trained. Put them into an `nn.ModuleList`.",
        ),
    ),
    hints=(
        "A block does the same thing twice, with another sublayer. Write one method that takes the stream, a "
        "norm and a sublayer, and returns the new stream.",
        "pre: `x + dropout(sublayer(norm(x)))`. post: `norm(x + dropout(sublayer(x)))`. The stream that comes "
        "out of attention is the one that goes into the feed-forward layer's turn, on both paths.",
        "`self.norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(2 * len(sublayers)))`; block i uses "
        "numbers 2i and 2i + 1. Only the pre order has `final_norm`, after the last block.",
    ),
)

# --- residual_norm_ffn/swiglu ------------------------------------------------------------------


def swiglu_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Widths that two thirds divide and that they do not; a multiple to round up to; other leading axes."""
    yield _swiglu_case(rng, "d_ff = 12", 4, 12)
    yield _swiglu_case(rng, "d_ff = 16, which 3 does not divide", 4, 16)
    yield _swiglu_case(
        rng, "rounded up to a multiple of 8", 6, 24 + 3 * int(rng.integers(1, 4)), multiple_of=8
    )
    yield _swiglu_case(rng, "a multiple that fits exactly", 3, 12, multiple_of=4, hidden=True)
    yield _swiglu_case(rng, "one token alone", 5, 20, lead=(), hidden=True)
    yield _swiglu_case(rng, "a small d_ff and a large multiple", 4, 6, multiple_of=16, hidden=True)


def _two_thirds(d_ff: int, multiple_of: int = 1) -> int:
    """The smallest multiple that is at least 2/3 of d_ff."""
    return -(-2 * d_ff // (3 * multiple_of)) * multiple_of


def _swiglu_case(
    rng: np.random.Generator,
    name: str,
    d_model: int,
    d_ff: int,
    *,
    multiple_of: int | None = None,
    lead: tuple[int, ...] = (2, 3),
    hidden: bool = False,
) -> Case:
    width = _two_thirds(d_ff, multiple_of or 1)

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    state = {"gate_up.weight": draw(2 * width, d_model), "down.weight": draw(d_model, width)}
    inputs: dict[str, Any] = {"d_model": d_model, "d_ff": d_ff, "multiple_of": multiple_of, "state": state}
    inputs |= {"hidden_states": draw(*lead, d_model), "direction": draw(*lead, d_model)}
    return Case(name, inputs, hidden)


def swiglu_steps(case: Case) -> Mapping[str, np.ndarray]:
    """The two halves, the gate's activation, the product, the output."""
    both = case["hidden_states"] @ case["state"]["gate_up.weight"].T
    gate, up = np.split(both, 2, axis=-1)
    opened = gate / (1 + np.exp(-gate))
    steps = {
        "the wide projection": both,
        "silu of the first half": opened,
        "its product with the second half": opened * up,
    }
    return steps | {"the output": (opened * up) @ case["state"]["down.weight"].T}


class _SwiGLU(nn.Module):
    """The reference."""

    def __init__(self, d_model: int, d_ff: int, multiple_of: int = 1) -> None:
        super().__init__()
        width = _two_thirds(d_ff, multiple_of)
        self.gate_up = nn.Linear(d_model, 2 * width, bias=False)
        self.down = nn.Linear(width, d_model, bias=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        gate, up = self.gate_up(hidden_states).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class _SwiGLUBySlices(nn.Module):
    def __init__(self, d_model: int, d_ff: int, multiple_of: int = 1) -> None:
        super().__init__()
        self.width = multiple_of * math.ceil(2 * d_ff / 3 / multiple_of)
        self.gate_up = nn.Linear(d_model, self.width * 2, False)
        self.down = nn.Linear(self.width, d_model, False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        both = self.gate_up(hidden_states)
        gate = both[..., : self.width]
        return self.down(both[..., self.width :] * gate * torch.sigmoid(gate))


class _SwiGLUByMatrices(nn.Module):
    def __init__(self, d_model: int, d_ff: int, multiple_of: int = 1) -> None:
        super().__init__()
        width = multiple_of
        while 3 * width < 2 * d_ff:
            width += multiple_of
        self.gate_up, self.down = (
            nn.Linear(d_model, width + width, bias=False),
            nn.Linear(width, d_model, bias=False),
        )

    def forward(self, hidden_states: Tensor) -> Tensor:
        for_gate, for_up = torch.tensor_split(self.gate_up.weight, 2)
        opened = nn.functional.silu(hidden_states @ for_gate.T)
        return (opened * (hidden_states @ for_up.T)) @ self.down.weight.T


def _wrong_swiglu(
    *,
    width_of: Callable[[int, int], int] = _two_thirds,
    bias: bool = False,
    outputs: int = 2,
    combine: Callable[[Tensor, Tensor], Tensor] = lambda gate, up: F.silu(gate) * up,
    split: Callable[[Tensor], Any] = lambda both: both.chunk(2, dim=-1),
) -> type[nn.Module]:
    """A SwiGLU with one thing wrong; by default nothing is."""

    class SwiGLU(nn.Module):
        def __init__(self, d_model: int, d_ff: int, multiple_of: int = 1) -> None:
            super().__init__()
            width = width_of(d_ff, multiple_of)
            self.gate_up = nn.Linear(d_model, outputs * width, bias=bias)
            self.down = nn.Linear(width * outputs // 2, d_model, bias=bias)

        def forward(self, hidden_states: Tensor) -> Tensor:
            gate, up = split(self.gate_up(hidden_states))
            return self.down(combine(gate, up))

    return SwiGLU


SWIGLU = Exercise(
    id="residual_norm_ffn/swiglu",
    title="SwiGLU at equal parameters",
    points=2,
    minutes=25,
    difficulty=2,
    cases=swiglu_cases,
    probe=probes.swiglu,
    reference=_SwiGLU,
    also_right=(_SwiGLUBySlices, _SwiGLUByMatrices),
    steps=swiglu_steps,
    tolerance=Tolerance(absolute=5e-5, relative=2e-4),
    forbidden=(*LIBRARY,),
    library="course_lib.layers.feed_forward:FeedForward",
    misconceptions=(
        Misconception(
            "the second half is the gate",
            _wrong_swiglu(combine=lambda gate, up: gate * F.silu(up)),
            "SiLU belongs to the first half of `gate_up`, and the second half is multiplied by it. Checkpoints "
            "depend on which is which.",
        ),
        Misconception(
            "the gate is a sigmoid",
            _wrong_swiglu(combine=lambda gate, up: torch.sigmoid(gate) * up),
            "With a sigmoid this is GLU. SiLU (Swish) is the number times its sigmoid: `F.silu(gate)`.",
        ),
        Misconception(
            "the gate is a GELU",
            _wrong_swiglu(combine=lambda gate, up: F.gelu(gate) * up),
            "With GELU this is GEGLU, a sister of SwiGLU. Here the gate is `F.silu`.",
        ),
        Misconception(
            "the gate has no activation",
            _wrong_swiglu(combine=lambda gate, up: gate * up),
            "The product of two linear halves is the bilinear layer. SwiGLU sends the first half through SiLU.",
        ),
        Misconception(
            "both halves go through SiLU",
            _wrong_swiglu(combine=lambda gate, up: F.silu(gate) * F.silu(up)),
            "Only the gate goes through SiLU. The other half stays linear.",
        ),
        Misconception(
            "SiLU comes after the product",
            _wrong_swiglu(combine=lambda gate, up: F.silu(gate * up)),
            "The gate goes through SiLU first, and is then multiplied with the other half.",
        ),
        Misconception(
            "the halves are added",
            _wrong_swiglu(combine=lambda gate, up: F.silu(gate) + up),
            "A gate multiplies: it decides how much of each number passes. Yours is added.",
        ),
        Misconception(
            "every second feature is the gate",
            _wrong_swiglu(split=lambda both: (both[..., 0::2], both[..., 1::2])),
            "The first *half* of the features is the gate, not every second one: `chunk(2, dim=-1)`.",
        ),
        Misconception(
            "the width is not reduced",
            _wrong_swiglu(width_of=lambda d_ff, multiple_of: -(-d_ff // multiple_of) * multiple_of),
            "Three matrices of width d_ff have half as many parameters again as two. At equal parameters the "
            "width is 2/3 of d_ff.",
        ),
        Misconception(
            "the width is d_ff itself",
            _wrong_swiglu(width_of=lambda d_ff, multiple_of: d_ff),
            "Three matrices of width d_ff have half as many parameters again as two. Take 2/3 of d_ff, rounded up "
            "to a multiple of `multiple_of`.",
        ),
        Misconception(
            "the halves are cut along another axis",
            _wrong_swiglu(split=lambda both: both.chunk(2)),
            "`chunk` cuts the first axis unless it is told which. The features are the last: "
            "`chunk(2, dim=-1)`.",
        ),
        Misconception(
            "the width is half of d_ff",
            _wrong_swiglu(width_of=lambda d_ff, multiple_of: -(-d_ff // (2 * multiple_of)) * multiple_of),
            "Two matrices of d_ff against three of the new width: 2 · d_ff = 3 · width, so the width is 2/3 of "
            "d_ff, not one half.",
        ),
        Misconception(
            "the width is rounded down",
            _wrong_swiglu(
                width_of=lambda d_ff, multiple_of: max(2 * d_ff // (3 * multiple_of), 1) * multiple_of
            ),
            "The width is the smallest multiple of `multiple_of` that is *at least* 2/3 of d_ff: round up.",
        ),
        Misconception(
            "`multiple_of` is ignored",
            _wrong_swiglu(width_of=lambda d_ff, multiple_of: _two_thirds(d_ff)),
            "Take 2/3 of d_ff, and then round up to the next multiple of `multiple_of`.",
        ),
        Misconception(
            "the two halves share the width",
            _wrong_swiglu(
                outputs=1, width_of=lambda d_ff, multiple_of: 2 * -(-_two_thirds(d_ff, multiple_of) // 2)
            ),
            "`gate_up` makes two halves of the full width each, so it has 2 · width outputs.",
        ),
        Misconception(
            "the layers have a bias",
            _wrong_swiglu(bias=True),
            "Here neither layer has a bias: `nn.Linear(…, bias=False)`.",
        ),
    ),
    hints=(
        "Count: an ordinary layer has two matrices of d_model × d_ff, this one three of d_model × width. For "
        "which width are they equal?",
        "The width is 2/3 of d_ff, rounded up to a multiple of `multiple_of`; `-(-a // b)` rounds a/b up. "
        "`gate_up` has 2 · width outputs, and `down` goes from width back to d_model.",
        "`gate, up = self.gate_up(hidden_states).chunk(2, dim=-1)`, and then `self.down(F.silu(gate) * up)`. Both "
        "layers are made with `bias=False`.",
    ),
)

# --- residual_norm_ffn/gradient_profile --------------------------------------------------------


def profile_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Gains that vanish, hold and explode, with and without residuals, linear and not."""
    yield _profile_case(rng, "plain layers of gain 0.6", 0.6, 7, 64)
    yield _profile_case(rng, "the same gain with residuals", 0.6, 7, 12, residual=True)
    yield _profile_case(rng, "plain layers of gain 1.6", 1.6, 6, 64)
    yield _profile_case(rng, "tanh between the layers", 0.4, 8, 40, tanh=True)
    yield _profile_case(rng, "few layers, a shallow stack", 0.7, 5, 8, hidden=True)
    yield _profile_case(rng, "residuals and large weights", 1.0, 6, 64, residual=True, hidden=True)
    yield _profile_case(rng, "many layers, and a shallow stack", 0.4, 16, 3, hidden=True)


def _profile_case(
    rng: np.random.Generator,
    name: str,
    gain: float,
    num_layers: int,
    depth: int,
    *,
    residual: bool | None = None,
    tanh: bool = False,
    hidden: bool = False,
) -> Case:
    """Random matrices that stretch a vector by `gain` on average; each layer by a little more or less."""
    width, tokens = 24, 5
    gains = gain * np.exp(rng.uniform(-0.25, 0.25, size=num_layers))
    weights = [rng.normal(size=(width, width)) * own / math.sqrt(width) for own in gains]
    inputs: dict[str, Any] = {"weights": weights, "tanh": tanh, "depth": depth, "residual": residual}
    inputs |= {
        "hidden_states": rng.normal(size=(tokens, width)),
        "direction": rng.normal(size=(tokens, width)),
    }
    return Case(name, inputs, hidden)


def _streams(layers: Any, hidden_states: Tensor, residual: bool) -> list[Tensor]:
    streams = [hidden_states.detach().requires_grad_()]
    for layer in layers:
        change = layer(streams[-1])
        streams.append(streams[-1] + change if residual else change)
    return streams


def _slope(values: Sequence[float]) -> float:
    """Of the line through (0, values[0]), (1, values[1]) … by least squares."""
    return float(np.polyfit(np.arange(len(values)), np.asarray(values), 1)[0])


def _logarithms(norms: list[float]) -> list[float]:
    return [math.log(norm) for norm in norms]


def _verdict_on(power: float) -> str:
    return "vanishes" if power < 1e-3 else "explodes" if power > 1e3 else "holds"


def _profile(
    layers: Any,
    hidden_states: Tensor,
    direction: Tensor,
    depth: int,
    residual: bool = False,
    *,
    connect: Callable[[bool], bool] = lambda residual: residual,
    loss_of: Callable[[Tensor, Tensor], Tensor] = lambda output, direction: (output * direction).sum(),
    measure: Callable[[Tensor], Tensor] = lambda gradient: gradient.norm(),
    factor_of: Callable[[list[float]], float] = lambda norms: math.exp(-_slope(_logarithms(norms))),
    power_of: Callable[[float, int, int], float] = lambda factor, depth, measured: factor**depth,
    arrange: Callable[[Tensor], Tensor] = lambda norms: norms,
    verdict: Callable[[float], str] = _verdict_on,
) -> tuple[Tensor, float, str]:
    """The reference, whose parts the misconceptions replace one at a time."""
    streams = _streams(layers, hidden_states, connect(residual))
    gradients = torch.autograd.grad(loss_of(streams[-1], direction), streams)
    norms = torch.stack([measure(gradient) for gradient in gradients])
    factor = factor_of(norms.tolist())
    return arrange(norms), factor, verdict(power_of(factor, depth, len(layers)))


def _profile_by_jacobians(
    layers: Any, hidden_states: Tensor, direction: Tensor, depth: int, residual: bool = False
) -> tuple[Tensor, float, str]:
    """From the top down, one vector-Jacobian product a layer."""
    inputs = [hidden_states]
    for layer in layers:
        change = layer(inputs[-1]).detach()
        inputs.append(inputs[-1] + change if residual else change)
    gradient = direction
    norms = [torch.linalg.vector_norm(gradient)]
    for layer, given in zip(reversed(layers), reversed(inputs[:-1]), strict=True):
        _, through = torch.autograd.functional.vjp(layer, given, gradient)
        gradient = through + gradient if residual else through
        norms.insert(0, torch.linalg.vector_norm(gradient))
    table = torch.stack(norms)
    place = torch.arange(len(table), dtype=table.dtype)
    centred = place - place.mean()
    slope = (centred * table.log()).sum() / (centred**2).sum()
    power = (-slope * depth).item()
    verdict = "vanishes" if power < -math.log(1000) else "explodes" if power > math.log(1000) else "holds"
    return table, torch.exp(-slope).item(), verdict


def _profile_by_retained_gradients(
    layers: Any, hidden_states: Tensor, direction: Tensor, depth: int, residual: bool = False
) -> tuple[Tensor, float, str]:
    stream = hidden_states.clone().requires_grad_(True)
    streams = [stream]
    for layer in layers:
        stream = stream + layer(stream) if residual else layer(stream)
        stream.retain_grad()
        streams.append(stream)
    stream.backward(direction)
    norms = torch.tensor([float((s.grad**2).sum().sqrt()) for s in streams], dtype=hidden_states.dtype)  # type: ignore[operator]
    table = torch.stack([torch.ones(len(norms)), torch.arange(len(norms))], dim=1).to(norms)
    solution = torch.linalg.lstsq(table, norms.log()[:, None]).solution
    factor = math.e ** -float(solution[1])
    return norms, factor, _verdict_on(factor**depth)


def _profiling(**changed: Any) -> Callable[..., Any]:
    def profile(
        layers: Any, hidden_states: Tensor, direction: Tensor, depth: int, residual: bool = False
    ) -> Any:
        return _profile(layers, hidden_states, direction, depth, residual, **changed)

    return profile


def _profile_of_given(
    layers: Any, hidden_states: Tensor, direction: Tensor, depth: int, residual: bool = False
) -> Any:
    """The given tensor as stream 0, which asks for no gradient."""
    streams = [hidden_states]
    for layer in layers:
        streams.append(streams[-1] + layer(streams[-1]) if residual else layer(streams[-1]))
    return torch.autograd.grad((streams[-1] * direction).sum(), streams)


def _of_the_weights(
    layers: Any, hidden_states: Tensor, direction: Tensor, depth: int, residual: bool = False
) -> tuple[Tensor, float, str]:
    streams = _streams(layers, hidden_states, residual)
    weights = [next(layer.parameters()) for layer in layers]
    gradients = torch.autograd.grad((streams[-1] * direction).sum(), weights)
    norms = torch.stack([gradient.norm() for gradient in gradients])
    factor = math.exp(-_slope(norms.log().tolist()))
    return norms, factor, _verdict_on(factor**depth)


PROFILE = Exercise(
    id="residual_norm_ffn/gradient_profile",
    title="What depth does to the gradient",
    points=3,
    minutes=40,
    difficulty=3,
    cases=profile_cases,
    probe=probes.gradient_profile,
    reference=_profile,
    also_right=(_profile_by_jacobians, _profile_by_retained_gradients),
    tolerance=Tolerance(absolute=1e-9, relative=1e-6),
    forbidden=LIBRARY,
    misconceptions=(
        Misconception(
            "the factor is turned round",
            _profiling(factor_of=lambda norms: math.exp(_slope(_logarithms(norms)))),
            "The gradient travels backward, from the output to the input. A line that rises towards the output "
            "means that it shrinks on its way: the factor is exp(−slope).",
        ),
        Misconception(
            "the slope is returned in place of the factor",
            _profiling(
                factor_of=lambda norms: -_slope(_logarithms(norms)),
                power_of=lambda factor, depth, measured: math.exp(factor * depth),
            ),
            "The slope is an exponent. What one layer multiplies the gradient by is exp of it: exp(−slope).",
        ),
        Misconception(
            "the line goes through the end points alone",
            _profiling(factor_of=lambda norms: (norms[0] / norms[-1]) ** (1 / (len(norms) - 1))),
            "The first and the last norm alone make a line, but not the one of least squares: that takes all "
            "L + 1 points into account.",
        ),
        Misconception(
            "the logarithm and the power have different bases",
            _profiling(factor_of=lambda norms: math.exp(-_slope([math.log10(n) for n in norms]))),
            "The slope of a base-10 logarithm goes with 10 to the power of it. With the natural logarithm, "
            "`exp` is right.",
        ),
        Misconception(
            "the line is fitted to the norms themselves",
            _profiling(factor_of=lambda norms: math.exp(-_slope(norms))),
            "Something that is multiplied at every layer is a straight line only in its logarithm. Fit the line "
            "to ln(norms).",
        ),
        Misconception(
            "the squares are not rooted",
            _profiling(measure=lambda gradient: gradient.square().sum()),
            "A norm is the root of the sum of the squares. Without the root the factor is squared, too.",
        ),
        Misconception(
            "the norms are averages over the tokens",
            _profiling(measure=lambda gradient: gradient.norm(dim=-1).mean()),
            "There is one norm for the whole gradient of shape (n, d): the root of the sum of all its squared "
            "entries.",
        ),
        Misconception(
            "the direction is not used",
            _profiling(loss_of=lambda output, direction: output.sum()),
            "The loss is the sum of output · direction. With `output.sum()` you measure another loss.",
        ),
        Misconception(
            "the residuals are ignored",
            _profiling(connect=lambda residual: False),
            "With `residual=True` each layer's result is added to what it was given: `stream + layer(stream)`.",
        ),
        Misconception(
            "there are always residuals",
            _profiling(connect=lambda residual: True),
            "Without `residual=True` the stream is replaced by what the layer returns.",
        ),
        Misconception(
            "the norms begin at the output",
            _profiling(arrange=lambda norms: norms.flip(0)),
            "Entry 0 of the norms belongs to the input, and the last entry to the output. Yours run the other "
            "way.",
        ),
        Misconception(
            "the norm of the output is left out",
            _profiling(arrange=lambda norms: norms[:-1]),
            "There are L + 1 norms for L layers: that of the input, and one after each layer.",
        ),
        Misconception(
            "the input asks for no gradient",
            _profile_of_given,
            "`hidden_states` comes without `requires_grad`, so autograd has nothing to tell about it. Make stream 0 "
            "`hidden_states.detach().requires_grad_()`.",
        ),
        Misconception(
            "the gradients are those of the weights",
            _of_the_weights,
            "What is asked for is the gradient of the loss by the *stream* before and after each layer, not by the "
            "layers' parameters.",
        ),
        Misconception(
            "the verdict is on the measured layers",
            _profiling(power_of=lambda factor, depth, measured: factor**measured),
            "The layers given are only a sample. The verdict is on a stack of `depth` layers: factor to the power "
            "of `depth`.",
        ),
        Misconception(
            "the verdict is on a single layer",
            _profiling(power_of=lambda factor, depth, measured: factor),
            "One layer is multiplied `depth` times. Compare factor to the power of `depth` with the bounds, not "
            "the factor itself.",
        ),
        Misconception(
            "vanishing and exploding are exchanged",
            _profiling(verdict=lambda power: _verdict_on(1 / power)),
            "A factor below 1 makes the gradient smaller on its way back: it vanishes. Above 1 it explodes.",
        ),
    ),
    hints=(
        "Keep every stream in a list on the way forward: the input first, then one after each layer. You need "
        "the loss's gradient by each of them.",
        "`torch.autograd.grad((streams[-1] * direction).sum(), streams)` gives all gradients at once, if the first "
        "stream is `hidden_states.detach().requires_grad_()`.",
        "The slope of the line of least squares through (l, y): with c = l − mean(l), it is sum(c · y) / sum(c²). "
        "Then factor = exp(−slope), and the verdict follows from factor ** depth.",
    ),
)

EXERCISES = (LAYER_NORM, BACKWARD, RMS_NORM, STACK, SWIGLU, PROFILE)
