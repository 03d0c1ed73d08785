"""The course's multi-head layer, forward and backward, against `nn.MultiheadAttention` and a bare layer.

    python benchmarks/attention.py [--rounds 40] [--threads 1] [--device cpu]

Self-attention at b 8, h 8, t 256, d_model 256, causal and not. The bare layer is what one writes by hand for
speed: one packed projection, torch's fused attention with `is_causal`, one output projection, and no checks.
All have the same weights, and before anything is timed their outputs and gradients are checked to be equal.
Each round runs all three and turns their order round; a ratio is the ratio of the medians. On the CPU the
time is the processor's, so that other programs on the machine do not count; on a GPU it is the clock's.

The exit status is 1 where the course's layer is slower than `nn.MultiheadAttention`, or more than 10 % slower
than the bare one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.layers.masks import causal_mask
from course_lib.layers.multi_head import MultiHeadAttention

BATCH, HEADS, LENGTH, D_MODEL = 8, 8, 256, 256
BARS = {"nn.MultiheadAttention": 1.0, "bare layer": 1.1}
Layer = Callable[[Tensor], Tensor]


class Bare(nn.Module):
    """Nothing but a packed projection, fused attention and an output projection."""

    def __init__(self, theirs: nn.MultiheadAttention, causal: bool) -> None:
        super().__init__()
        self.packed, self.output = nn.Linear(D_MODEL, 3 * D_MODEL), nn.Linear(D_MODEL, D_MODEL)
        self.causal = causal
        with torch.no_grad():
            self.packed.weight.copy_(theirs.in_proj_weight)
            self.packed.bias.copy_(theirs.in_proj_bias)
        self.output.load_state_dict(theirs.out_proj.state_dict())

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(b, t, d_model) → the same."""
        b, t, width = hidden_states.shape
        query, key, value = (
            part.view(b, t, HEADS, width // HEADS).transpose(1, 2)
            for part in self.packed(hidden_states).split(width, dim=2)
        )
        heads = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        found: Tensor = self.output(heads.transpose(1, 2).reshape(b, t, width))
        return found


def contestants(causal: bool, device: torch.device) -> dict[str, Layer]:
    """The three layers, with equal weights."""
    theirs = nn.MultiheadAttention(D_MODEL, HEADS, batch_first=True, device=device)
    ours = MultiHeadAttention.from_torch(theirs)
    mask = causal_mask(LENGTH, device=device) if causal else None
    hidden = None if mask is None else ~mask
    return {
        "course": lambda x: ours(x, mask=mask),
        "nn.MultiheadAttention": lambda x: theirs(
            x, x, x, attn_mask=hidden, is_causal=causal, need_weights=False
        )[0],
        "bare layer": Bare(theirs, causal).to(device),
    }


def step(layer: Layer, given: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """One forward and one backward pass: the output, and the gradient of the input."""
    hidden_states = given.detach().requires_grad_()
    output = layer(hidden_states)
    output.backward(direction)
    assert hidden_states.grad is not None
    return output, hidden_states.grad


def check_equal(layers: Mapping[str, Layer], given: Tensor, direction: Tensor) -> None:
    """Raise AssertionError where two layers differ."""
    expected = step(layers["bare layer"], given, direction)
    for layer in layers.values():
        for one, other in zip(step(layer, given, direction), expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def measure(layers: Mapping[str, Layer], rounds: int, device: torch.device) -> dict[str, float]:
    """The median milliseconds of each layer's step."""
    given, direction = torch.randn(2, BATCH, LENGTH, D_MODEL, device=device)
    check_equal(layers, given, direction)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in layers}
    order = list(layers)
    for _ in range(rounds):
        order.reverse()
        for name in order:
            start = clock()
            step(layers[name], given, direction)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times[name].append(1000 * (clock() - start))
    return {name: statistics.median(measured) for name, measured in times.items()}


def main() -> int:
    """Print the table; exit code 1 where a bar does not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    held = True
    for causal in (False, True):
        medians = measure(contestants(causal, device), arguments.rounds, device)
        print("causal" if causal else "no mask")
        for name, median in medians.items():
            print(f"  {name:24s} {median:7.2f} ms", end="")
            if name in BARS:
                ratio = medians["course"] / median
                held = held and ratio <= BARS[name]
                print(f"   course / this {ratio:.2f} (bar {BARS[name]:.1f})", end="")
            print()
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
