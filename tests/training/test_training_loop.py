"""The training loop. Oracles: a loop written out with torch's own optimiser, and the unbroken run."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from course_lib.training import History, Loss, TrainConfig, train
from course_lib.training.batches import take_part
from course_lib.training.checkpoint import ABOUT

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Pairs:
    """inputs (b, t, 4), targets (b, t); −1 is padding."""

    inputs: Tensor
    targets: Tensor
    note: str | None = None


class Noise:
    """Batches of 6 sequences of unequal lengths: a part of each has another number of targets."""

    def batch(self, step: int) -> Pairs:
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(6, 5, 4, generator=generator)
        targets = torch.randint(3, (6, 5), generator=generator)
        lengths = torch.randint(1, 6, (6, 1), generator=generator)
        return Pairs(inputs, targets.masked_fill(torch.arange(5) >= lengths, -1))


def small_model(dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 3))


def summed_loss(model: nn.Module, batch: Pairs) -> Loss:
    logits = model(batch.inputs).flatten(0, 1)
    targets = batch.targets.flatten()
    return Loss(F.cross_entropy(logits, targets, ignore_index=-1, reduction="sum"), (targets >= 0).sum())


def weights_of(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def run(config: TrainConfig, dropout: float = 0.0, **options: Any) -> tuple[nn.Module, History]:
    model = small_model(dropout)
    return model, train(model, Noise(), summed_loss, config, progress=False, **options)


def test_it_is_the_loop_that_one_would_write() -> None:
    config = TrainConfig(
        steps=12, learning_rate=0.02, warmup=4, schedule="linear", weight_decay=0.1, clip=0.1
    )
    model, history = run(config)
    plain, losses = small_model(), []
    matrices = [p for p in plain.parameters() if p.dim() == 2]
    vectors = [p for p in plain.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.98),
        eps=1e-9,
    )
    for step in range(12):
        rate = 0.02 * ((step + 1) / 4 if step < 4 else (12 - step) / 8)
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = Noise().batch(step)
        loss = F.cross_entropy(plain(batch.inputs).flatten(0, 1), batch.targets.flatten(), ignore_index=-1)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.1)
        optimizer.step()
        losses.append(loss.item())
        assert history.learning_rates[step] == pytest.approx(rate)
    assert history.losses == pytest.approx(losses, abs=1e-6)
    torch.testing.assert_close(weights_of(model), weights_of(plain), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("accumulate", [2, 3, 4, 9])
def test_a_batch_in_parts_gives_the_same_numbers(accumulate: int) -> None:
    whole, history = run(TrainConfig(steps=8, learning_rate=0.02))
    parts, in_parts = run(TrainConfig(steps=8, learning_rate=0.02, accumulate=accumulate))
    assert in_parts.losses == pytest.approx(history.losses, abs=1e-6)
    torch.testing.assert_close(weights_of(parts), weights_of(whole), atol=1e-6, rtol=1e-6)


def test_dropout_is_the_same_for_a_seed_and_differs_between_steps_and_seeds() -> None:
    _, first = run(TrainConfig(steps=5, learning_rate=1e-9), dropout=0.5)
    torch.randn(7)
    _, again = run(TrainConfig(steps=5, learning_rate=1e-9), dropout=0.5)
    _, other = run(TrainConfig(steps=5, learning_rate=1e-9, seed=1), dropout=0.5)
    assert first.losses == again.losses
    assert not set(first.losses) & set(other.losses)


def test_evaluation_is_in_evaluation_mode_on_time_and_changes_nothing() -> None:
    seen: list[tuple[bool, bool]] = []

    def evaluate(model: nn.Module) -> dict[str, float]:
        seen.append((model.training, torch.is_grad_enabled()))
        torch.manual_seed(99)
        return {"norm": weights_of(model).norm().item()}

    config = TrainConfig(steps=7, learning_rate=0.01)
    plain, history = run(config, dropout=0.3)
    model, evaluated = run(dataclasses.replace(config, evaluate_every=3), dropout=0.3, evaluate=evaluate)
    assert [found["step"] for found in evaluated.evaluations] == [3, 6, 7]
    assert seen == [(False, False)] * 3
    assert evaluated.losses == history.losses and torch.equal(weights_of(model), weights_of(plain))
    assert not model.training


def test_a_finished_run_is_read_and_not_trained_again(tmp_path: Path) -> None:
    config = TrainConfig(steps=4, checkpoint=tmp_path / "run.safetensors")
    model, history = run(config)
    again, read = run(config)
    assert read == history and torch.equal(weights_of(again), weights_of(model))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.5}, "learning_rate 0.001 there, 0.5 here"),
        ({"steps": 9, "schedule": "linear"}, "steps 4 there, 9 here; schedule constant there"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    config = TrainConfig(steps=4, checkpoint=tmp_path / "run.safetensors")
    run(config)
    with pytest.raises(ValueError, match=message):
        run(dataclasses.replace(config, **change))


def test_a_checkpoint_from_before_a_setting_was_known_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    config = TrainConfig(steps=4, checkpoint=path)
    _, history = run(config)
    with safe_open(path, framework="pt") as stored:
        about = json.loads(stored.metadata()[ABOUT])
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    del about["config"]["optimizer"], about["config"]["matrix_learning_rate"]
    save_file(tensors, path, metadata={ABOUT: json.dumps(about)})
    assert run(config)[1] == history
    with pytest.raises(ValueError, match="optimizer adamw there, muon here"):
        run(dataclasses.replace(config, optimizer="muon"))


def test_a_checkpoint_of_another_model_a_damaged_and_a_foreign_one_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    config = TrainConfig(steps=2, checkpoint=path)
    run(config)
    with pytest.raises(ValueError, match="another model"):
        train(nn.Linear(4, 3), Noise(), summed_loss, config, progress=False)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="is damaged"):
        run(config)
    path.write_bytes(b"{}")
    with pytest.raises(ValueError, match="is damaged"):
        run(config)
    save_file(small_model().state_dict(), path)
    with pytest.raises(ValueError, match="not a checkpoint of this loop"):
        run(config)


def test_shared_weights_and_buffers_are_kept(tmp_path: Path) -> None:
    class Tied(nn.Module):
        seen: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(5, 3)
            self.predict = nn.Linear(3, 5, bias=False)
            self.predict.weight = self.embed.weight
            self.register_buffer("seen", torch.zeros(()))
            self.register_buffer("table", torch.arange(5.0), persistent=False)

        def forward(self, ids: Tensor) -> Tensor:
            self.seen += 1
            return self.predict(self.embed(ids))

    class Ids:
        def batch(self, step: int) -> Tensor:
            return torch.arange(4) + step % 2

    def loss(model: nn.Module, ids: Tensor) -> Loss:
        return Loss(F.cross_entropy(model(ids), ids, reduction="sum"), len(ids))

    config = TrainConfig(steps=6, checkpoint=tmp_path / "run.safetensors", checkpoint_every=2)
    torch.manual_seed(0)
    whole, model = Tied(), Tied()
    model.load_state_dict(whole.state_dict())
    history = train(whole, Ids(), loss, dataclasses.replace(config, checkpoint=None), progress=False)

    class Stopped(Ids):
        def batch(self, step: int) -> Tensor:
            if step == 5:
                raise KeyboardInterrupt
            return super().batch(step)

    with pytest.raises(KeyboardInterrupt):
        train(model, Stopped(), loss, config, progress=False)
    model = Tied()
    assert train(model, Ids(), loss, config, progress=False) == history
    assert torch.equal(model.embed.weight, whole.embed.weight) and model.seen == 6
    assert model.predict.weight is model.embed.weight


def test_frozen_parameters_stay_and_a_loss_that_is_not_finite_stops_the_run() -> None:
    model = small_model()
    model[0].requires_grad_(False)
    before = weights_of(model[0]).clone()
    train(model, Noise(), summed_loss, TrainConfig(steps=3), progress=False)
    assert torch.equal(weights_of(model[0]), before)
    with pytest.raises(ArithmeticError, match="step 0 is nan; try a lower learning rate"):
        train(
            model,
            Noise(),
            lambda model, batch: Loss(model(batch.inputs).sum() * math.nan, 1),
            TrainConfig(steps=3),
            progress=False,
        )


def test_bfloat16_is_for_products_and_not_for_weights() -> None:
    seen = []

    def loss(model: nn.Sequential, batch: Pairs) -> Loss:
        seen.append(model[0](batch.inputs).dtype)
        return summed_loss(model, batch)

    model = small_model()
    train(model, Noise(), loss, TrainConfig(steps=1, dtype="bfloat16", device="cpu"), progress=False)
    train(model, Noise(), loss, TrainConfig(steps=1, dtype="auto", device="cpu"), progress=False)
    assert seen == [torch.bfloat16, torch.float32]
    assert weights_of(model).dtype == torch.float32


def test_parts_of_a_batch_hold_every_example_once() -> None:
    numbers = torch.arange(7)
    batch = {"ids": numbers, "pair": (2 * numbers, None), "rest": Pairs(numbers, numbers, "kept")}
    parts = [take_part(batch, part, 3, CPU) for part in range(3)]
    assert torch.equal(torch.cat([part["ids"] for part in parts]).sort().values, numbers)
    assert all(torch.equal(part["pair"][0], 2 * part["ids"]) and part["pair"][1] is None for part in parts)
    assert all(
        torch.equal(part["rest"].inputs, part["ids"]) and part["rest"].note == "kept" for part in parts
    )
    assert take_part(torch.arange(2), 2, 3, CPU) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps=0; it is at least 1"),
        ({"steps": 1, "schedule": "step"}, "schedule='step'; expected one of constant"),
        ({"steps": 1, "dtype": "float16"}, "dtype='float16'; expected float32"),
        ({"steps": 1, "optimizer": "sgd"}, "optimizer='sgd'; expected adamw or muon"),
        ({"steps": 1, "clip": 0.0}, "clip=0.0; it is more than 0"),
        ({"steps": 1, "accumulate": 0}, "accumulate=0; it is at least 1"),
    ],
)
def test_a_configuration_that_cannot_be_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**options)


def test_progress_is_shown_and_is_quiet_in_a_build(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train(small_model(), Noise(), summed_loss, TrainConfig(steps=3))
    assert "3/3" in capsys.readouterr().err
    monkeypatch.setenv("COURSE_BUILD", "1")
    train(small_model(), Noise(), summed_loss, TrainConfig(steps=3))
    assert capsys.readouterr().err == ""
