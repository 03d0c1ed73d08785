"""The course's encoder–decoder against `nn.Transformer` and Marian of `transformers`: training, beam search.

    python benchmarks/transformer.py [--rounds 15] [--threads 1] [--device cpu]

Needs the extra `oracles`. There are two sizes, both with dropout 0.1 in the same places:

- small: chapter 10's translator (d_model 128, 4 heads, 3 + 2 layers, d_ff 512), with its data; training is
  four steps with batches of its recipe, and decoding 64 unseen pairs of all its tasks, with its weights;
- wide: d_model 256, 8 heads, 3 + 3 layers, d_ff 1024, a vocabulary of 4,000 and random weights; training is
  one step with 32 pairs of 16 to 32 tokens, decoding 64 sources whose translations do not end in 40 tokens.

A step is forward, cross-entropy, backward, clipping and AdamW (fused); decoding is beam search with 5 beams.
Before anything is timed the logits of both models of a pair are checked to be equal, and after decoding their
sequences. Each round runs both and turns their order round; a ratio is the ratio of the medians. On the CPU
the time is the processor's, so that other programs on the machine do not count; on a GPU it is the clock's.

Bars, for the small size: training at least as fast as `nn.Transformer` and 1.2 × as fast as Marian, decoding
at least 2 × as fast as `generate`. The exit status is 1 where one does not hold.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.data.parallel import LengthBatches, PairBatch, pad
from course_lib.generation import TransformerDecoder, beam_search
from course_lib.layers.masks import causal_mask
from course_lib.models.marian import rename
from course_lib.models.transformer import Transformer, TransformerConfig
from course_lib.recipes import translator as recipe
from course_lib.training.batches import map_tensors

PAD, BEGIN, END = 0, 1, 2
BARS = {"nn.Transformer": 1.0, "Marian": 1.2, "generate": 2.0}
Work = Callable[[], object]
Logits = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Size:
    """A model with batches to train it on, sources (n, s) to decode, and how long a translation may be."""

    name: str
    model: Transformer
    batches: tuple[PairBatch, ...]
    sources: Tensor
    longest: int


def small() -> Size:
    """Chapter 10's translator, with batches of its recipe and 64 unseen sources."""
    translator = recipe.load_translator()
    rows = recipe.encoded([task._replace(size=400) for task in recipe.TASKS], translator.vocabulary)
    unseen = [pair for task in recipe.TASKS for pair in recipe.task_pairs(task._replace(size=7), "test")]
    tags = [task.target for task in recipe.TASKS for _ in range(7)]
    ids = [translator.source_ids([pair.source], tag)[0] for pair, tag in zip(unseen, tags, strict=True)]
    batches = LengthBatches(rows, 3_000)
    some = tuple(batches.batch(step) for step in range(4))
    return Size("small", translator.model, some, pad(ids[:64]), 32)


def wide() -> Size:
    """A larger model with random weights and random words."""
    config = TransformerConfig(
        4_000,
        d_model=256,
        num_heads=8,
        num_encoder_layers=3,
        num_decoder_layers=3,
        d_ff=1024,
        max_length=64,
    )
    target = draw_ids(32, 33, config.source_vocab)
    batch = PairBatch(draw_ids(32, 32, config.source_vocab), target[:, :-1], target[:, 1:])
    return Size("wide", Transformer(config), (batch,), draw_ids(64, 24, config.source_vocab), 40)


def draw_ids(count: int, longest: int, vocabulary: int) -> Tensor:
    """Random ids (count, longest) of unequal lengths, padding behind."""
    lengths = torch.randint(longest // 2, longest + 1, (count, 1))
    ids = torch.randint(3, vocabulary, (count, longest))
    return ids.masked_fill(torch.arange(longest) >= lengths, PAD)


class TorchTranslator(nn.Module):
    """`nn.Transformer` between the embeddings and the tied projection of our model."""

    def __init__(self, stacks: nn.Transformer, ours: Transformer) -> None:
        super().__init__()
        self.stacks, self.embedding = stacks, ours.target_embedding

    def forward(self, source_ids: Tensor, target_ids: Tensor) -> Tensor:
        """Logits (b, t, v)."""
        padding = source_ids == PAD
        ahead = ~causal_mask(target_ids.shape[1], device=target_ids.device)
        decoded = self.stacks(
            self.embedding(source_ids),
            self.embedding(target_ids),
            tgt_mask=ahead,
            tgt_is_causal=True,
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
        )
        return F.linear(decoded, self.embedding.tokens.weight)


def marian_like(ours: Transformer) -> Any:
    """A Marian model with the weights of ours, and the attention of `F.scaled_dot_product_attention`."""
    # This folder's tokenizers.py must not stand for the library of that name.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]
    import transformers

    config = ours.config
    sides = {"attention_heads": config.num_heads, "ffn_dim": config.d_ff}
    settings = transformers.MarianConfig(
        vocab_size=config.source_vocab,
        d_model=config.d_model,
        encoder_layers=config.num_encoder_layers,
        decoder_layers=config.num_decoder_layers,
        dropout=config.dropout,
        attention_dropout=config.dropout,
        activation_dropout=config.dropout,
        activation_function="relu",
        max_position_embeddings=config.max_length,
        scale_embedding=True,
        pad_token_id=PAD,
        eos_token_id=END,
        decoder_start_token_id=BEGIN,
        attn_implementation="sdpa",
        **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in sides.items()},
    )
    theirs = transformers.MarianMTModel(settings)
    weights = ours.state_dict()
    with torch.no_grad():
        for name, values in rename(theirs.state_dict(), config).items():
            if name in weights:  # all but the bias of the logits, which is 0
                values.copy_(weights[name])
        for side in (theirs.model.encoder, theirs.model.decoder):
            side.embed_positions.weight.copy_(ours.target_embedding.positions)
    return theirs.to(next(ours.parameters()).device)


def training(model: nn.Module, logits_of: Logits, batches: Sequence[PairBatch]) -> Work:
    """An update of the weights of a model for each batch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def steps() -> None:
        for batch in batches:
            logits = logits_of(batch.source_ids, batch.inputs)
            loss = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=PAD)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

    return steps


def check_equal(first: Logits, second: Logits, batch: PairBatch) -> None:
    """Raise AssertionError where two models differ in the logits of real tokens."""
    real = batch.targets != PAD
    with torch.no_grad():
        one, other = (logits_of(batch.source_ids, batch.inputs)[real] for logits_of in (first, second))
    torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def race(works: dict[str, Work], rounds: int, device: torch.device) -> dict[str, float]:
    """The median milliseconds of each, alternated."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in works}
    order = list(works)
    for work in works.values():
        work()
    for _ in range(rounds):
        order.reverse()
        for name in order:
            start = clock()
            works[name]()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times[name].append(1000 * (clock() - start))
    return {name: statistics.median(measured) for name, measured in times.items()}


def against_torch(size: Size, rounds: int, device: torch.device) -> dict[str, float]:
    """Training against `nn.Transformer`, from equal weights."""
    config = size.model.config
    stacks = nn.Transformer(
        config.d_model,
        config.num_heads,
        config.num_encoder_layers,
        config.num_decoder_layers,
        config.d_ff,
        config.dropout,
        batch_first=True,
    )
    ours = Transformer.from_torch(stacks, config.source_vocab)
    theirs = TorchTranslator(stacks, Transformer.from_torch(stacks, config.source_vocab))
    theirs.embedding.load_state_dict(ours.target_embedding.state_dict())
    return _train_both("nn.Transformer", ours, theirs, lambda model: model, size.batches, rounds, device)


def against_marian(size: Size, rounds: int, device: torch.device) -> dict[str, float]:
    """Training against Marian, from equal weights."""

    def logits_of(model: nn.Module) -> Logits:
        return lambda source, target: (
            model(
                input_ids=source,
                attention_mask=(source != PAD).long(),
                decoder_input_ids=target,
                use_cache=False,
            ).logits
        )

    ours = Transformer(size.model.config)
    return _train_both("Marian", ours, marian_like(ours), logits_of, size.batches, rounds, device)


def _train_both(
    name: str,
    ours: Transformer,
    theirs: nn.Module,
    their_logits: Callable[[nn.Module], Logits],
    batches: Sequence[PairBatch],
    rounds: int,
    device: torch.device,
) -> dict[str, float]:
    ours, theirs = ours.to(device).eval(), theirs.to(device).eval()
    batches = [map_tensors(batch, lambda tensor: tensor.to(device)) for batch in batches]

    def our_logits(source: Tensor, target: Tensor) -> Tensor:
        return ours(source, target).logits

    check_equal(our_logits, their_logits(theirs), batches[0])
    works = {
        "course": training(ours.train(), our_logits, batches),
        name: training(theirs.train(), their_logits(theirs), batches),
    }
    return race(works, rounds, device)


def against_generate(size: Size, rounds: int, device: torch.device) -> dict[str, float]:
    """Beam search against `generate`, with equal weights; the sequences have to be equal."""
    ours = size.model.to(device).eval()
    theirs = marian_like(ours).eval()
    source, found = size.sources.to(device), dict[str, list[list[int]]]()
    options: dict[str, Any] = {"begin_id": BEGIN, "end_id": END, "num_beams": 5, "max_length": size.longest}

    def course() -> None:
        decoder = TransformerDecoder(ours, source)
        beams = beam_search(decoder, len(source), alpha=1.0, offset=0, device=device, **options)
        found["course"] = [list(hypotheses[0].ids) for hypotheses in beams]

    def generate() -> None:
        rows = theirs.generate(
            source,
            attention_mask=(source != PAD).long(),
            num_beams=5,
            max_length=size.longest + 1,
            length_penalty=1.0,
            early_stopping=False,
            do_sample=False,
            forced_eos_token_id=None,
            bad_words_ids=None,
        )
        found["generate"] = [_until_end(row) for row in rows[:, 1:].tolist()]

    with torch.no_grad():
        medians = race({"course": course, "generate": generate}, rounds, device)
    assert found["course"] == found["generate"], "the sequences differ"
    lengths = [len(row) for row in found["course"]]
    print(f"  {len(lengths)} equal sequences of {min(lengths)} to {max(lengths)} tokens")
    return medians


def _until_end(row: list[int]) -> list[int]:
    return row[: row.index(END)] if END in row else row


def main() -> int:
    """Print the table; exit code 1 where a bar does not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    held = True
    for size in (small(), wide()):
        for contest in (against_torch, against_marian, against_generate):
            print(f"{size.name}: {contest.__doc__}")
            medians = contest(size, arguments.rounds, torch.device(arguments.device))
            name = list(medians)[1]
            ratio = medians[name] / medians["course"]
            bar = f" (bar {BARS[name]:.1f})" if size.name == "small" else ""
            held = held and (ratio >= BARS[name] or not bar)
            print(f"  course {medians['course']:8.1f} ms   {name} {medians[name]:8.1f} ms   ", end="")
            print(f"{ratio:.2f} × as fast{bar}", flush=True)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
