"""Muon, alone and in the loop. Oracles: `torch.optim.Muon`, singular values, a loop written out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from course_lib.models.gpt import GPT, MODERN, GPTConfig
from course_lib.training import Loss, TrainConfig, train
from course_lib.training.language_model import TextWindows, next_token_loss
from course_lib.training.loop import narrow_pays
from course_lib.training.muon import Muon, orthogonalize
from course_lib.training.optimizers import make_optimizers

CONFIG = GPTConfig(vocab_size=11, context=8, d_model=16, num_layers=2, num_heads=2, **MODERN)
PLAN = TrainConfig(
    steps=6, learning_rate=3e-3, optimizer="muon", warmup=2, schedule="linear", weight_decay=0.1
)
TEXT = TextWindows(torch.randint(0, 11, (60,), generator=torch.Generator().manual_seed(0)), 8, 4)


def small() -> GPT:
    torch.manual_seed(0)
    return GPT(CONFIG)


def test_muon_takes_the_matrices_inside_blocks_and_adamw_the_rest() -> None:
    model = small()
    adamw, muon = make_optimizers(model, PLAN)
    names = {parameter: name for name, parameter in model.named_parameters()}
    taken = {names[p] for group in muon.param_groups for p in group["params"]}
    layers = ("attention.query_key_value", "attention.output", "feed_forward.up", "feed_forward.down")
    assert taken == {f"blocks.{block}.{layer}.weight" for block in (0, 1) for layer in layers}
    rest = {names[p] for group in adamw.param_groups for p in group["params"]}
    assert rest == set(names.values()) - taken and "tokens.weight" in rest and "head.weight" in rest
    assert len(make_optimizers(model, dataclasses.replace(PLAN, optimizer="adamw"))) == 1


SHAPES = ((12, 4), (4, 4), (4, 12), (12, 4))


def test_steps_equal_those_of_torch_and_stacked_projections_are_taken_one_by_one() -> None:
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    theirs = [nn.Parameter(values.detach().clone()) for values in ours]
    apart = [nn.Parameter(piece.detach().clone()) for piece in ours[0].split(4)]
    stacked = nn.Parameter(ours[0].detach().clone())
    pairs = (
        (Muon([(p, (len(p),)) for p in ours], weight_decay=0.1), torch.optim.Muon(theirs, lr=0.02)),
        (Muon([(stacked, (4, 4, 4))], weight_decay=0.1), torch.optim.Muon(apart, lr=0.02)),
    )
    for _ in range(5):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        stacked.grad = torch.randn_like(stacked)
        for piece, gradient in zip(apart, stacked.grad.split(4), strict=True):
            piece.grad = gradient.clone()
        for mine, torchs in pairs:
            mine.step()
            torchs.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=8e-3, rtol=0)  # both compute in bfloat16
    torch.testing.assert_close(stacked.detach(), torch.cat([*apart]).detach(), atol=8e-3, rtol=0)


@pytest.mark.parametrize("shape", [(8, 8), (24, 8), (8, 24)])
def test_orthogonalized_matrices_keep_their_directions_and_lose_their_sizes(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(3, *shape), full_matrices=False)
    sizes = torch.linspace(0.2, 1.0, 8) * torch.tensor([1e-3, 1.0, 1e3])[:, None]
    found = orthogonalize(left @ sizes.diag_embed() @ right).float()
    made = torch.linalg.svdvals(found)
    assert made.max() < 1.3 and made.min() > 0.6
    nearest = left @ right
    assert torch.nn.functional.cosine_similarity(found.flatten(1), nearest.flatten(1)).min() > 0.95
    assert (orthogonalize(torch.zeros(4, 4)) == 0).all()


def test_widths_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"widths=\(4, 4\) are not those of a matrix of shape \(12, 4\)"):
        Muon([(nn.Parameter(torch.zeros(12, 4)), (4, 4))])


def test_a_step_moves_all_directions_of_a_matrix_about_equally_far() -> None:
    model = small()
    before = {name: values.detach().clone() for name, values in model.named_parameters()}
    plan = dataclasses.replace(PLAN, steps=1, warmup=0, schedule="constant", weight_decay=0.0)
    torch.manual_seed(1)
    with torch.no_grad():
        for values in model.parameters():
            values.copy_(torch.randn_like(values))  # so that no gradient has a low rank
    before = {name: values.detach().clone() for name, values in model.named_parameters()}
    train(model, TEXT, next_token_loss, plan, progress=False)
    for name, values in model.named_parameters():
        if name.startswith("blocks.") and values.dim() == 2:
            moved = values.detach() - before[name]
            for part in moved.split(16) if "query_key_value" in name else (moved,):
                long, wide = part.shape
                sizes = torch.linalg.svdvals(part) / (0.02 * max(1, long / wide) ** 0.5)
                assert sizes.max() < 1.3 and sizes.median() > 0.6, name


def test_the_loop_equals_one_written_out() -> None:
    ours, theirs = small(), small()
    blocks: Any = theirs.blocks
    history = train(ours, TEXT, next_token_loss, PLAN, progress=False)
    inside = [p for n, p in theirs.named_parameters() if n.startswith("blocks.") and p.dim() == 2]
    outside = [theirs.tokens.weight, *([] if theirs.head is None else [theirs.head.weight])]
    norms = [p for p in theirs.parameters() if p.dim() == 1]
    adamw = torch.optim.AdamW(
        [{"params": outside, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}],
        betas=PLAN.betas,
        eps=PLAN.eps,
    )
    rows = {blocks[block].attention.query_key_value.weight: (16, 16, 16) for block in (0, 1)}
    muon = Muon([(p, rows.get(p, (len(p),))) for p in inside], weight_decay=0.1)
    theirs.train()
    for step, factor in enumerate((0.5, 1.0, 1.0, 0.75, 0.5, 0.25)):
        inputs, targets = TEXT.batch(step)
        loss = nn.functional.cross_entropy(theirs(inputs).logits.flatten(0, 1), targets.flatten())
        theirs.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        for optimizer, peak in ((adamw, 3e-3), (muon, 0.02)):
            for group in optimizer.param_groups:
                group["lr"] = peak * factor
            optimizer.step()
        assert history.losses[step] == pytest.approx(loss.item(), abs=1e-5)
    assert history.learning_rates[3] == pytest.approx(3e-3 * 0.75)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=0)  # bfloat16 inside


def test_a_run_that_was_killed_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    plan = dataclasses.replace(PLAN, checkpoint=tmp_path / "run.safetensors", checkpoint_every=2)
    whole = small()
    history = train(whole, TEXT, next_token_loss, dataclasses.replace(plan, checkpoint=None), progress=False)

    def stopped(model: GPT, batch: tuple[Tensor, Tensor]) -> Loss:
        if torch.equal(batch[0], TEXT.batch(5)[0]):
            raise KeyboardInterrupt
        return next_token_loss(model, batch)

    with pytest.raises(KeyboardInterrupt):
        train(small(), TEXT, stopped, plan, progress=False)
    model = small()
    assert train(model, TEXT, next_token_loss, plan, progress=False) == history
    for one, other in zip(model.parameters(), whole.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("units", "width", "pays"), [(True, 384, True), (True, 128, False), (False, 384, False)]
)
def test_bfloat16_is_chosen_where_it_pays(
    units: bool, width: int, pays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": units})
    options: dict[str, Any] = {"vocab_size": 65, "context": 8, "num_layers": 1, "num_heads": 4}
    with torch.device("meta"):
        model = GPT(GPTConfig(d_model=width, **options))
    assert narrow_pays(model, torch.device("cpu")) is pays
