"""Probes of 10_translation: call the answer on a case and return what came back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..exercise import Case
from . import taken_apart, tensor


def make_batch(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The three tensors."""
    pairs = [(list(source), list(target)) for source, target in case["pairs"]]
    special = case["special"]
    options = {} if special is None else dict(zip(("pad_id", "begin_id", "end_id"), special, strict=True))
    return taken_apart(answer(pairs, **options), "the source ids", "the decoder's inputs", "the targets")


def smoothed_cross_entropy(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The loss, and the gradient of the logits."""
    import torch

    logits = tensor(case["logits"], case.device, requires_grad=True)
    targets = tensor(case["targets"], case.device)
    given = case["options"]
    options = {} if given is None else dict(zip(("smoothing", "pad_id"), given, strict=True))
    loss = answer(logits, targets, **options)
    if not isinstance(loss, torch.Tensor) or loss.dim() != 0:
        return {"the loss": loss}
    if loss.requires_grad:
        loss.backward()
    gradient = torch.zeros_like(logits) if logits.grad is None else logits.grad
    return {"the loss": loss, "the gradient of the logits": gradient}


def paper_schedule(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The learning rate at each of the case's steps."""
    return {
        f"the learning rate at step {step}": answer(step, case["d_model"], case["warmup"])
        for step in case["steps"]
    }


class TableDecoder:
    """Writes sequences whose next token depends on the two before it: log-probabilities from a table."""

    def __init__(self, table: Any, device: str) -> None:
        self._table = tensor(table, device)
        self._written: list[list[int]] = [[0]]

    def step(self, tokens: Any) -> Any:
        """Append tokens (r,), one to each row; the log-probabilities of what follows, (r, v)."""
        import torch

        if not isinstance(tokens, torch.Tensor) or tuple(tokens.shape) != (len(self._written),):
            found = tuple(tokens.shape) if isinstance(tokens, torch.Tensor) else type(tokens).__name__
            raise ValueError(
                f"step was given {found}; there are {len(self._written)} rows, so (r,) is needed"
            )
        for row, token in zip(self._written, tokens.tolist(), strict=True):
            row.append(token)
        return torch.stack([self._table[row[-2], row[-1]] for row in self._written])

    def reorder(self, rows: Any) -> None:
        """Row i becomes a copy of what row rows[i] was; rows (r',)."""
        self._written = [list(self._written[row]) for row in rows.tolist()]


def beam_search(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The sequences in order, and their scores."""
    decoder = TableDecoder(case["table"], case.device)
    options = {} if case["alpha"] is None else {"alpha": case["alpha"]}
    found = answer(
        decoder, case["begin_id"], case["end_id"], case["num_beams"], case["max_length"], **options
    )
    if found is None:
        return {"what you returned": None}
    if not isinstance(found, list) or not all(isinstance(one, tuple) and len(one) == 2 for one in found):
        return {"what you return": "no list of pairs"}
    return {
        "what you return": "a list of pairs",
        "the number of sequences": len(found),
        "the list of sequences": [ids for ids, _ in found],
        "the list of scores": [float(score) for _, score in found],
    }


def bleu_report(answer: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The score, the four precisions, the brevity penalty and the verdict."""
    texts = [[list(words) for words in case[name]] for name in ("hypotheses", "references")]
    names = ("the score", "the list of precisions", "the brevity penalty", "the verdict")
    return taken_apart(answer(*texts), *names)
