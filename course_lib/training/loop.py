"""One loop for all chapters.

Under `torchrun` each process takes its share of the examples of every batch. The sum of all gradients over
the sum of all counts is the gradient of one process: the numbers do not depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from course_lib.device import set_seed
from course_lib.training import ranks
from course_lib.training.batches import Batches, take_part
from course_lib.training.checkpoint import load_checkpoint, save_checkpoint
from course_lib.training.config import TrainConfig
from course_lib.training.history import History
from course_lib.training.optimizers import make_optimizers
from course_lib.training.schedules import schedule_factor
from course_lib.viz.building import is_building

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Loss:
    """total: the losses' sum, a scalar; count: the number of targets that it is a sum over."""

    total: Tensor
    count: Tensor | int


def train(
    model: Model,
    batches: Batches,
    loss: Callable[[Model, Any], Loss],
    config: TrainConfig,
    *,
    evaluate: Callable[[Model], dict[str, float]] | None = None,
    progress: bool = True,
) -> History:
    """Train a model in place, on the device that the configuration says, and return what it was like.

    loss: for a model and a part of a batch. evaluate: called in evaluation mode and without gradients, by
    process 0 alone. With `config.checkpoint` a run goes on where that file ends, to the same
    numbers as an unbroken run.
    Raises ValueError for a checkpoint of another run, and ArithmeticError when the loss is no longer finite.
    """
    with ranks.together(config.device) as device:
        run = _Run(model.to(device), batches, loss, config, device)
        shown = progress and ranks.rank() == 0 and not is_building()
        with tqdm(total=config.steps, initial=run.history.steps, desc="training", disable=not shown) as bar:
            for step in range(run.history.steps, config.steps):
                bar.set_postfix(loss=f"{run.step(step):.3f}", refresh=False)
                bar.update()
                if evaluate is not None and _is_due(step, config.evaluate_every, config.steps):
                    run.evaluate(evaluate)
                if _is_due(step, config.checkpoint_every, config.steps):
                    run.save()
        ranks.wait_for_all()
    model.eval()
    return run.history


def _is_due(step: int, every: int | None, steps: int) -> bool:
    return step + 1 == steps or (every is not None and (step + 1) % every == 0)


class _Run:
    """A model on its way: its optimiser, its history, and what one step is."""

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        loss: Callable[[Any, Any], Loss],
        config: TrainConfig,
        device: torch.device,
    ) -> None:
        self.model, self.batches, self.loss, self.config, self.device = model, batches, loss, config, device
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizers = make_optimizers(model, config)
        self.narrow = config.dtype == "bfloat16" or (config.dtype == "auto" and narrow_pays(model, device))
        self.history = History()
        if config.checkpoint is not None and config.checkpoint.exists():
            self.history = load_checkpoint(config.checkpoint, model, self.optimizers, config)
        ranks.take_from_first([*model.parameters(), *model.buffers()])
        model.train()

    def step(self, step: int) -> float:
        """One update of the weights; returns the loss per target over all processes."""
        factor = schedule_factor(self.config.schedule, step, self.config.steps, self.config.warmup)
        total, count = self._gradients(step)
        mean = float(total / count)
        if not np.isfinite(mean):
            raise ArithmeticError(
                f"the loss at step {step} is {mean}; try a lower learning rate, or a longer warm-up"
            )
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.grad /= count
        if self.config.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.config.clip, foreach=True)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            optimizer.step()
        self.history.losses.append(mean)
        self.history.learning_rates.append(self.config.learning_rate * factor)
        return mean

    def _gradients(self, step: int) -> tuple[Tensor, Tensor]:
        """Leave the gradient of the summed loss on the parameters; return that sum and its count."""
        set_seed(_seed_of(self.config.seed, step, ranks.rank()))
        self.model.zero_grad(set_to_none=True)
        batch = self.batches.batch(step)
        pieces = ranks.world_size() * self.config.accumulate
        total, count = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        for part in range(ranks.rank(), pieces, ranks.world_size()):
            piece = take_part(batch, part, pieces, self.device)
            if piece is None:
                continue
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.narrow):
                found = self.loss(self.model, piece)
            found.total.backward()
            total += found.total.detach()
            count += found.count
        if ranks.world_size() > 1:
            for parameter in self.parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            ranks.add_up([total, count, *(p.grad for p in self.parameters if p.grad is not None)])
        return total, count

    def evaluate(self, evaluate: Callable[[Any], dict[str, float]]) -> None:
        """Note what `evaluate` finds; it changes nothing of what follows."""
        if ranks.rank() == 0:
            self.model.eval()
            with torch.no_grad():
                self.history.evaluations.append({"step": self.history.steps} | evaluate(self.model))
            self.model.train()
        ranks.wait_for_all()

    def save(self) -> None:
        """Write the checkpoint, where the configuration names one."""
        if self.config.checkpoint is not None and ranks.rank() == 0:
            save_checkpoint(self.config.checkpoint, self.model, self.optimizers, self.history, self.config)


def narrow_pays(model: nn.Module, device: torch.device) -> bool:
    """Whether matrix products in bfloat16 are the faster ones, for this model on this device.

    On a GPU that knows it they are. On a CPU with units for them (AMX) they are where a matrix has 2¹⁷
    entries on average; smaller ones lose more by the conversion than they gain.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if device.type != "cpu" or not torch.cpu.get_capabilities().get("amx_bf16", False):
        return False
    sizes = [module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear)]
    return bool(sizes) and sum(sizes) >= 2**17 * len(sizes)


def _seed_of(seed: int, step: int, rank: int) -> int:
    """A step's own seed, so that its random numbers do not depend on what was drawn before it."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0])
