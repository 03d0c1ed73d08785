"""Learning rates. Oracle: equation 3 of Vaswani et al. 2017, and torch's own cosine schedule."""

from __future__ import annotations

import math

import pytest
import torch

from course_lib.training import paper_rate, schedule_factor
from course_lib.training.schedules import SCHEDULES


@pytest.mark.parametrize("warmup", [1, 7, 400])
def test_inverse_sqrt_is_the_papers_rate_from_its_second_step_on(warmup: int) -> None:
    peak = 1 / math.sqrt(512 * warmup)
    for step in range(1000):
        factor = schedule_factor("inverse_sqrt", step, 1000, warmup)
        assert peak * factor == pytest.approx(paper_rate(step + 1, 512, warmup), rel=1e-12)


def test_the_papers_rate_peaks_at_the_end_of_its_warm_up() -> None:
    rates = [paper_rate(step, 512, 4000) for step in range(1, 20_001)]
    assert max(range(len(rates)), key=rates.__getitem__) + 1 == 4000
    assert rates[3999] == pytest.approx(512**-0.5 * 4000**-0.5)
    assert rates[15_999] == pytest.approx(rates[3999] / 2)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 10])
def test_every_schedule_rises_in_a_line_never_exceeds_one_and_never_ends_before_the_last_step(
    schedule: str, warmup: int
) -> None:
    factors = [schedule_factor(schedule, step, 50, warmup) for step in range(50)]  # type: ignore[arg-type]
    assert factors[:warmup] == pytest.approx([(step + 1) / 10 for step in range(warmup)])
    assert max(factors) <= 1 and min(factors) > 0
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)


def test_cosine_is_torchs() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    torchs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)
    for step in range(30):
        assert schedule_factor("cosine", step, 30) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        torchs.step()


def test_what_is_unknown_or_counted_from_zero_is_named() -> None:
    with pytest.raises(ValueError, match="expected one of constant, inverse_sqrt, cosine, linear"):
        schedule_factor("sqrt", 0, 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="counted from 1"):
        paper_rate(0, 512, 4000)
