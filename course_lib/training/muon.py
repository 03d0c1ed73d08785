"""Muon (Jordan et al. 2024): a step along the orthogonal matrix that is nearest to the momentum.

A gradient matrix has a few large singular values and many small ones. Muon makes all of them about equal, so
that every direction of a layer learns, and not only the loudest. Oracle: `torch.optim.Muon`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# Of the polynomial a x + b x³ + c x⁵ that is applied five times: it drives all of (0, 1] near to 1, quickly.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
EPS = 1e-7


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """The nearest (semi-)orthogonal matrices, about: (…, m, n) → the same, singular values from 0.7 to 1.2.

    Newton–Schulz iterations in bfloat16, whose only operations are matrix products.
    """
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp_min(EPS)  # no singular value is above 1
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """momentum = β momentum + (1 − β) gradient; weight −= lr · √max(1, m / n) · orthogonalize(mixed).

    mixed: momentum and gradient once more in the share β (Nesterov). matrices: each with the widths of the
    projections stacked in its rows, which are orthogonalised one by one; one width for an ordinary matrix.
    Weight decay is decoupled, as in AdamW.
    """

    def __init__(
        self,
        matrices: Sequence[tuple[nn.Parameter, tuple[int, ...]]],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.1,
    ) -> None:
        self.widths = dict(matrices)
        for parameter, widths in matrices:
            if parameter.dim() != 2 or sum(widths) != len(parameter):
                raise ValueError(
                    f"widths={widths} are not those of a matrix of shape {tuple(parameter.shape)}"
                )
        options = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__([parameter for parameter, _ in matrices], options)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            used = [parameter for parameter in group["params"] if parameter.grad is not None]
            pieces = [piece for parameter in used for piece in self._mixed(parameter, group["momentum"])]
            changes = iter(_orthogonalized(pieces))
            for parameter in used:
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                change = torch.cat([next(changes) for _ in self.widths[parameter]])
                parameter.add_(change.to(parameter.dtype), alpha=-group["lr"])
        return loss

    def _mixed(self, parameter: nn.Parameter, momentum: float) -> tuple[Tensor, ...]:
        """The momentum and the gradient mixed, cut into the projections."""
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(state["momentum_buffer"], momentum).split(self.widths[parameter])


def _orthogonalized(pieces: Sequence[Tensor]) -> list[Tensor]:
    """√max(1, m / n) · orthogonalize(piece) for each, those of equal shape together."""
    found: dict[int, Tensor] = {}
    for shape in dict.fromkeys(piece.shape for piece in pieces):
        places = [place for place, piece in enumerate(pieces) if piece.shape == shape]
        scale = max(1.0, shape[0] / shape[1]) ** 0.5
        stacked = orthogonalize(torch.stack([pieces[place] for place in places])) * scale
        found |= zip(places, stacked, strict=True)
    return [found[place] for place in range(len(pieces))]
