"""The course's GPT against GPT-2 of `transformers`: training, generation, and what it learns of a real text.

    python benchmarks/gpt.py [--rounds 15] [--threads 1]
    python benchmarks/gpt.py --corpus tiny_shakespeare.txt [--seeds 3]

Needs the extra `oracles`; the text is that of `course_lib.data.download.fetch("tiny_shakespeare")`.

A training step is forward, cross-entropy, backward, clipping and AdamW, vocabulary 65, no dropout: 4 layers
of width 128 (context 64, batch 12) in float32, and 6 of width 384 (context 256, batch 8) in the precision
that `TrainConfig(dtype="auto")` takes. Three are alternated: the course's GPT as it is trained here,
without biases and with the exact GELU, as nanoGPT has it; the course's GPT with all that GPT-2 has, whose
logits are checked to be equal to those of `transformers`; and GPT-2 of `transformers` with fused attention
in float32, once with torch's AdamW as it comes and once with the fused one that the course has. Generation
is greedy, 256 tokens, batch 1, both with a cache and equal weights; the tokens are checked to be equal.
Each round runs all and turns their order round; a ratio is the ratio of the medians. The time is the
processor's, so that other programs on the machine count less.

--corpus: 1.536 million training tokens (2,000 steps of 12 windows of 64 characters) of the first 90 % of the
text, at most 0.81 million parameters; the loss is over all windows of the rest that do not overlap.

The exit status is 1 where a bar does not hold.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.device import set_seed
from course_lib.generation import generate
from course_lib.hub import save_pretrained
from course_lib.models.gpt import GPT, MODERN, GPTConfig
from course_lib.training import TrainConfig, train
from course_lib.training.language_model import TextWindows, next_token_loss, text_loss
from course_lib.training.loop import narrow_pays
from course_lib.training.optimizers import make_optimizers

VOCABULARY, NEW_TOKENS = 65, 256
BARS = {"step 4 × 128": 0.64, "step 6 × 384": 0.36, "generation": 2.4, "loss": 1.60}
PLAN = TrainConfig(
    steps=2_000,
    learning_rate=3e-3,
    optimizer="muon",
    weight_decay=0.1,
    betas=(0.9, 0.95),
    eps=1e-8,
    warmup=20,
    schedule="linear",
)
CORPUS_MODEL = GPTConfig(vocab_size=VOCABULARY, context=64, d_model=128, num_layers=4, num_heads=4, **MODERN)
Work = Callable[[], object]


def theirs_like(model: GPT) -> Any:
    """The same GPT-2 in transformers, with the same weights."""
    # This folder's tokenizers.py must not stand for the library of that name.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, folder)
        theirs = transformers.GPT2LMHeadModel.from_pretrained(folder, attn_implementation="sdpa")
    theirs.generation_config.eos_token_id = None
    return theirs


def small(context: int, d_model: int, num_layers: int, **options: Any) -> GPT:
    """A GPT-2 with heads of width 32 or 64."""
    torch.manual_seed(0)
    heads = 4 if d_model == 128 else 6
    sizes = {"d_model": d_model, "num_layers": num_layers, "num_heads": heads}
    return GPT(GPTConfig(vocab_size=VOCABULARY, context=context, **sizes, **options))


def step_of(
    model: nn.Module,
    logits: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    ids: Tensor,
    narrow: bool,
) -> Work:
    """One update of the weights."""
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].flatten()

    def work() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            loss = F.cross_entropy(logits(inputs).flatten(0, 1), targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()

    return work


def training(context: int, d_model: int, num_layers: int, batch: int, rounds: int) -> dict[str, float]:
    """Median milliseconds of a step of each contestant."""
    ids = torch.randint(0, VOCABULARY, (batch, context + 1))
    same = small(context, d_model, num_layers, activation="gelu_tanh")
    plain = small(context, d_model, num_layers, bias=False)
    first, second = theirs_like(same).train(), theirs_like(same).train()
    for module in first.modules():
        if isinstance(module, nn.Dropout):
            assert module.p == 0.0
    torch.testing.assert_close(same(ids[:, :-1]).logits, first(ids[:, :-1]).logits, atol=1e-4, rtol=1e-4)
    plan, cpu = TrainConfig(steps=1), torch.device("cpu")
    works = {}
    for name, ours in (("course", plain), ("course, all of GPT-2", same)):
        narrow, (optimizer,) = narrow_pays(ours, cpu), make_optimizers(ours, plan)
        works[name] = step_of(ours, lambda x, model=ours: model(x).logits, optimizer, ids, narrow)
    for name, theirs, fused in (("transformers", first, None), ("transformers, fused AdamW", second, True)):
        optimizer = torch.optim.AdamW(theirs.parameters(), 1e-3, fused=fused)
        works[name] = step_of(theirs, lambda x, model=theirs: model(x).logits, optimizer, ids, False)
    return medians(works, rounds)


def generation(rounds: int) -> dict[str, float]:
    """Median milliseconds that 256 tokens take, 4 layers of width 128, context 512."""
    ours = small(512, 128, 4, activation="gelu_tanh").eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # so that there is something to say
    theirs, start = theirs_like(ours).eval(), torch.zeros(1, 1, dtype=torch.long)
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0, "use_cache": True}

    def work() -> Tensor:
        return generate(ours, start, NEW_TOKENS)

    def their_work() -> Any:
        return theirs.generate(start, attention_mask=torch.ones_like(start), **options)

    assert torch.equal(work(), their_work()), "the tokens differ"
    return medians({"course": work, "transformers": their_work}, rounds)


def medians(works: Mapping[str, Work], rounds: int) -> dict[str, float]:
    """Milliseconds of each, all alternated."""
    times: dict[str, list[float]] = {name: [] for name in works}
    order = list(works)
    for work in works.values():
        work()
    for _ in range(rounds):
        order.reverse()
        for name in order:
            start = time.process_time()
            works[name]()
            times[name].append(1000 * (time.process_time() - start))
    return {name: statistics.median(measured) for name, measured in times.items()}


def speed(rounds: int) -> bool:
    """Print the three contests; whether all bars hold."""
    held = True
    for title, sizes in (("step 4 × 128", (64, 128, 4, 12)), ("step 6 × 384", (256, 384, 6, 8))):
        found = training(*sizes, rounds=rounds if sizes[1] == 128 else max(3, rounds // 3))
        print(title)
        for name, milliseconds in found.items():
            print(f"  {name:28s} {milliseconds:8.1f} ms   course / this {found['course'] / milliseconds:.3f}")
        ratio = found["course"] / found["transformers"]
        print(f"  {ratio:.3f} of transformers' time (bar {BARS[title]})")
        held = held and ratio <= BARS[title]
    found = generation(max(3, rounds // 3))
    ratio = found["transformers"] / found["course"]
    print("generation, tokens a second")
    for name, milliseconds in found.items():
        print(f"  {name:28s} {1000 * NEW_TOKENS / milliseconds:8.0f}")
    print(f"  {ratio:.2f} times transformers' (bar {BARS['generation']})")
    return held and ratio >= BARS["generation"]


def quality(path: Path, seeds: int) -> bool:
    """Train on the text with several seeds; whether the mean loss is within the bar."""
    text = path.read_text(encoding="utf-8")
    index = {character: number for number, character in enumerate(sorted(set(text)))}
    ids = torch.tensor([index[character] for character in text])
    cut = len(ids) * 9 // 10
    found = []
    for seed in range(seeds):
        set_seed(seed)
        model = GPT(CORPUS_MODEL)
        batches = TextWindows(ids[:cut], CORPUS_MODEL.context, 12, seed)
        train(model, batches, next_token_loss, PLAN)
        found.append(text_loss(model, ids[cut:], CORPUS_MODEL.context))
        print(f"seed {seed}: validation loss {found[-1]:.4f}", flush=True)
    count = sum(parameter.numel() for parameter in model.parameters())
    mean = statistics.mean(found)
    print(f"{count:,} parameters, mean of {seeds} seeds {mean:.4f} (bar {BARS['loss']})")
    return mean <= BARS["loss"] and count <= 810_000


def main() -> int:
    """Print the tables; exit code 1 where a bar does not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.corpus is not None:
        return 0 if quality(arguments.corpus, arguments.seeds) else 1
    return 0 if speed(arguments.rounds) else 1


if __name__ == "__main__":
    sys.exit(main())
