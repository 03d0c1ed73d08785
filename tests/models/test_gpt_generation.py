"""Going on with a text. Oracles: `generate` and the logits processors of `transformers`, and no cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from course_lib import hub
from course_lib.generation import generate, keep_likeliest
from course_lib.models.gpt import GPT, LLAMA, MODERN, GPTConfig

SMALL: dict[str, Any] = {"vocab_size": 17, "context": 20, "d_model": 16, "num_layers": 2, "num_heads": 4}


def small(**options: Any) -> GPT:
    torch.manual_seed(0)
    model = GPT(GPTConfig(**SMALL | options))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def ids(n: int = 3, t: int = 4) -> Tensor:
    return torch.randint(0, 17, (n, t), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "options", [{}, LLAMA | {"num_kv_heads": 1}, MODERN], ids=["GPT-2", "Llama", "modern"]
)
def test_greedy_with_a_cache_takes_the_likeliest_token_without_one(options: dict[str, Any]) -> None:
    model = small(**options)
    found = generate(model, ids(), 16)
    assert model.training and torch.equal(found[:, :4], ids())
    model.eval()
    for end in range(4, 20):
        assert torch.equal(found[:, end], model(found[:, :end]).logits[:, -1].argmax(dim=-1))
    model(found).logits.sum().backward()  # what was written may be trained on


@pytest.mark.parametrize("options", [{"activation": "gelu_tanh"}, LLAMA], ids=["GPT-2", "Llama"])
def test_greedy_equals_generate_of_transformers(options: dict[str, Any], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = small(**options)
    hub.save_pretrained(model, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    theirs.generation_config.eos_token_id = None
    expected = theirs.generate(
        ids(), attention_mask=torch.ones_like(ids()), max_new_tokens=16, do_sample=False, pad_token_id=0
    )
    assert torch.equal(generate(model, ids(), 16), expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.floats(0.05, 0.99))
def test_what_stays_is_what_transformers_keeps(seed: int, top_k: int, top_p: float) -> None:
    transformers = pytest.importorskip("transformers")
    logits = torch.randn(3, 9, generator=torch.Generator().manual_seed(seed)) * 2
    by_count = transformers.TopKLogitsWarper(top_k)(None, logits)
    torch.testing.assert_close(keep_likeliest(logits, top_k), by_count, atol=0, rtol=0)
    by_share = transformers.TopPLogitsWarper(top_p)(None, logits)
    torch.testing.assert_close(keep_likeliest(logits, top_p=top_p), by_share, atol=0, rtol=0)
    both = transformers.TopPLogitsWarper(top_p)(None, by_count)
    torch.testing.assert_close(keep_likeliest(logits, top_k, top_p), both, atol=0, rtol=0)


def test_tokens_are_drawn_by_their_shares() -> None:
    model, start = small().eval(), ids(1, 3)
    logits = model(start).logits[0, -1]
    many = start.expand(20_000, 3)
    for temperature, top_k in ((1.0, None), (0.5, 3)):
        options: dict[str, Any] = {"temperature": temperature, "top_k": top_k}
        random = torch.Generator().manual_seed(0)
        drawn = generate(model, many, 1, generator=random, **options)[:, -1].bincount(minlength=17) / 20_000
        expected = keep_likeliest(logits[None] / temperature, top_k).softmax(dim=-1)[0]
        torch.testing.assert_close(drawn, expected.detach(), atol=0.02, rtol=0)
        assert drawn[expected == 0].sum() == 0
    one, other = (
        generate(model, start, 9, temperature=1.0, generator=torch.Generator().manual_seed(3))
        for _ in range(2)
    )
    assert torch.equal(one, other)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="4 tokens and 17 more exceed context=20"):
        generate(small(), ids(), 17)
    with pytest.raises(ValueError, match="top_k=0; at least 1 token has to stay"):
        keep_likeliest(torch.zeros(1, 3), top_k=0)
    for share in (0.0, 1.2):
        with pytest.raises(ValueError, match="it is a share above 0 and up to 1"):
            keep_likeliest(torch.zeros(1, 3), top_p=share)
