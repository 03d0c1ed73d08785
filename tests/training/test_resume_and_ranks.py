"""A killed run goes on to the same numbers; two processes find those of one. Oracle: the run alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

SCRIPT = """
import os, sys, time
from pathlib import Path
import torch
import torch.nn.functional as F
from torch import nn
from course_lib.training import Loss, TrainConfig, train
from safetensors.torch import save_file

folder, name, dropout, pause, accumulate = Path(sys.argv[1]), sys.argv[2], *map(float, sys.argv[3:])
rank = int(os.environ.get("RANK", 0))
torch.set_num_threads(1)
torch.manual_seed(rank)  # unequal models, until process 0 gives out its own


class Noise:
    def batch(self, step):
        (folder / f"{name}.step").write_text(str(step))
        time.sleep(pause)
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(6, 5, 4, generator=generator)
        targets = torch.randint(3, (6, 5), generator=generator)
        lengths = torch.randint(1, 6, (6, 1), generator=generator)
        return inputs, targets.masked_fill(torch.arange(5) >= lengths, -1)


def loss(model, batch):
    logits, targets = model(batch[0]).flatten(0, 1), batch[1].flatten()
    return Loss(F.cross_entropy(logits, targets, ignore_index=-1, reduction="sum"), (targets >= 0).sum())


model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 3))
config = TrainConfig(
    steps=24, learning_rate=0.02, warmup=4, schedule="cosine", accumulate=int(accumulate), device="cpu",
    evaluate_every=5, checkpoint=folder / f"{name}.safetensors", checkpoint_every=3,
)
found = train(model, Noise(), loss, config, progress=False,
              evaluate=lambda model: {"bias": model[0].bias.sum().item()})
if rank == 0:
    (folder / f"{name}.json").write_text(found.to_json())
    save_file(model.state_dict(), folder / f"{name}.weights")
"""


def command(
    folder: Path, name: str, dropout: float = 0.0, pause: float = 0.0, accumulate: int = 1
) -> list[str]:
    script = folder / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    return [str(script), str(folder), name, str(dropout), str(pause), str(accumulate)]


def alone(folder: Path, name: str, **options: float) -> None:
    subprocess.run([sys.executable, *command(folder, name, **options)], check=True)  # type: ignore[arg-type]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this platform has no SIGKILL")
def test_a_run_killed_before_and_after_its_first_checkpoint_goes_on_to_the_very_same_numbers(
    tmp_path: Path,
) -> None:
    alone(tmp_path, "whole", dropout=0.5)
    kill(tmp_path, "broken", at=1)
    kill(tmp_path, "broken", at=11)
    assert (tmp_path / "broken.safetensors").exists() and not (tmp_path / "broken.json").exists()
    alone(tmp_path, "broken", dropout=0.5)
    for kind in ("json", "weights", "safetensors"):
        assert (tmp_path / f"broken.{kind}").read_bytes() == (tmp_path / f"whole.{kind}").read_bytes()


def kill(folder: Path, name: str, at: int) -> None:
    """Start a run, and end it with SIGKILL during a step from `at` on."""
    running = subprocess.Popen([sys.executable, *command(folder, name, dropout=0.5, pause=0.05)])
    deadline, step = time.monotonic() + 60, folder / f"{name}.step"
    while not (step.exists() and step.read_text() and int(step.read_text()) >= at):
        assert time.monotonic() < deadline and running.poll() is None
        time.sleep(0.005)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()


def test_two_processes_that_cut_their_parts_again_find_the_numbers_of_one(tmp_path: Path) -> None:
    alone(tmp_path, "one")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    subprocess.run(
        [*launch, *command(tmp_path, "two", accumulate=2)],
        check=True,
        capture_output=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-6)
    assert two["learning_rates"] == one["learning_rates"]
    assert [found["step"] for found in two["evaluations"]] == [5, 10, 15, 20, 24]
    first, second = (load_file(tmp_path / f"{name}.weights") for name in ("one", "two"))
    assert first.keys() == second.keys()
    for name, weight in first.items():
        assert (weight - second[name]).abs().max() < 1e-6
