"""LoRA. Oracles: `peft` on the same base, with the same numbers, and W + α/r · B A written out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.models.bert import BERT, BertConfig
from course_lib.models.gpt import GPT, LLAMA, GPTConfig
from course_lib.peft.lora import (
    LoRAConfig,
    LoRALinear,
    adapted_layers,
    adapter_names,
    add_adapter,
    find_targets,
    merge,
    remove_adapters,
    trainable_table,
    unmerge,
    use_adapters,
    without_adapters,
)

VOCAB = 23
TINY: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
TINY |= {"intermediate_size": 20, "max_position_embeddings": 12}


def their_gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes: dict[str, Any] = {"n_positions": 12, "n_embd": 16, "n_layer": 2, "n_head": 4}
    sizes |= {"bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, **sizes))


def their_llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**TINY, num_key_value_heads=2))


def their_bert() -> nn.Module:
    from transformers import BertConfig, BertForMaskedLM

    return BertForMaskedLM(BertConfig(**TINY))


def our_gpt(**options: Any) -> GPT:
    sizes = {"vocab_size": VOCAB, "context": 12, "d_model": 16, "num_layers": 2, "num_heads": 4}
    return GPT(GPTConfig(**sizes | options))


def our_bert() -> BERT:
    return BERT(BertConfig(vocab_size=VOCAB, max_length=12, d_model=16, num_layers=2, num_heads=4, d_ff=20))


# The base, the layers to adapt, and how many they are.
BASES: dict[str, tuple[Callable[[], nn.Module], list[str] | str, int]] = {
    "GPT-2 of transformers": (their_gpt2, ["c_attn", "mlp.c_proj"], 4),
    "Llama of transformers": (their_llama, r".*(q_proj|v_proj|down_proj)", 6),
    "BERT of transformers": (their_bert, ["query", "value"], 4),
    "our GPT": (our_gpt, ["attention.query_key_value", "up", "down"], 6),
    "our Llama": (lambda: our_gpt(**LLAMA), ["gate", "down"], 4),
    "our BERT": (our_bert, ["query", "value"], 4),
}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def peft() -> Any:
    return pytest.importorskip("peft", reason="peft is in the extra 'oracles'")


def some_ids() -> Tensor:
    return torch.randint(0, VOCAB, (3, 7), generator=torch.Generator().manual_seed(1))


def outputs(model: nn.Module) -> Tensor:
    """What a model says of some tokens: the logits, or BERT's last hidden state."""
    said = model(some_ids())
    logits = getattr(said, "logits", None)
    return said.last_hidden_state if logits is None else logits


def part(model: nn.Module, path: str) -> Any:
    """A layer by its name."""
    return model.get_submodule(path)


def give_numbers(model: nn.Module, name: str = "default", seed: int = 2) -> None:
    """Numbers as after a training: no B is zero any more."""
    generator = torch.Generator().manual_seed(seed)
    for _, layer in adapted_layers(model):
        if name in layer.adapters:
            for values in layer.adapters[name].parameters():
                values.data = 0.3 * torch.randn(values.shape, generator=generator).to(values)


def copy_numbers(ours: nn.Module, theirs: Any, name: str = "default") -> None:
    """Give peft's adapter the numbers of ours."""
    for path, layer in adapted_layers(ours):
        if name in layer.adapters:
            twin = theirs.base_model.model.get_submodule(path)
            twin.lora_A[name].weight.data.copy_(layer.adapters[name].A)  # type: ignore[arg-type]
            twin.lora_B[name].weight.data.copy_(layer.adapters[name].B)  # type: ignore[arg-type]


def their_config(peft: Any, config: LoRAConfig) -> Any:
    return peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        use_rslora=config.rank_stabilized,
        target_modules=config.targets if isinstance(config.targets, str) else list(config.targets),
    )


def pair(peft: Any, kind: str, dtype: torch.dtype = torch.float64, **options: Any) -> tuple[nn.Module, Any]:
    """One base with an adapter of ours, and the same with one of peft's and the same numbers."""
    build, targets, count = BASES[kind]
    base = build().to(dtype).eval()
    config = LoRAConfig(targets, **{"rank": 3, "alpha": 5.0} | options)
    theirs = peft.get_peft_model(
        copy.deepcopy(base), their_config(peft, config), autocast_adapter_dtype=False
    )
    assert len(add_adapter(base, config)) == count
    give_numbers(base)
    copy_numbers(base, theirs)
    return base, theirs.eval()


# --- against peft ---------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rank_stabilized", [False, True])
@pytest.mark.parametrize("kind", BASES)
def test_outputs_and_gradients_are_those_of_peft(
    peft: Any, kind: str, rank_stabilized: bool, dtype: torch.dtype
) -> None:
    close: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}
    if dtype == torch.float32:
        close = {"rtol": 1e-5, "atol": 1e-5}
    ours, theirs = pair(peft, kind, dtype, rank_stabilized=rank_stabilized)
    found, expected = outputs(ours), outputs(theirs)
    with without_adapters(ours):
        assert not torch.allclose(outputs(ours), found, atol=1e-3)
    torch.testing.assert_close(found, expected, **close)
    for said in (found, expected):
        said.square().sum().backward()
    for path, layer in adapted_layers(ours):
        twin = theirs.base_model.model.get_submodule(path)
        adapter = layer.adapters["default"]
        scale = float(twin.lora_A["default"].weight.grad.abs().max())
        for mine, other in ((adapter.A, twin.lora_A), (adapter.B, twin.lora_B)):
            assert isinstance(mine, Tensor) and mine.grad is not None
            torch.testing.assert_close(mine.grad / scale, other["default"].weight.grad / scale, **close)
    trained = {name for name, values in ours.named_parameters() if values.grad is not None}
    assert trained == {name for name, *_ in trainable_table(ours).rows}
    assert trainable_table(ours).trained_numbers == theirs.get_nb_trainable_parameters()[0]


@pytest.mark.parametrize("kind", ["BERT of transformers", "our GPT"])
def test_dropout_is_that_of_peft(peft: Any, kind: str) -> None:
    ours, theirs = pair(peft, kind, dropout=0.4)
    found = []
    for model in (ours, theirs):
        # The base itself stays without dropout; it is the adapters' alone that is compared.
        for name, module in model.named_modules():
            module.training = "lora_dropout" in name or ".adapters." in name
        torch.manual_seed(3)
        found.append(outputs(model))
    torch.testing.assert_close(*found)
    assert not torch.allclose(found[0], outputs(ours.eval()))


def test_several_adapters_are_those_of_peft(peft: Any) -> None:
    ours, theirs = pair(peft, "BERT of transformers")
    other = LoRAConfig(["value", "intermediate.dense"], rank=2, alpha=7.0)
    add_adapter(ours, other, "second")
    give_numbers(ours, "second", seed=5)
    theirs.add_adapter("second", their_config(peft, other), autocast_adapter_dtype=False)
    theirs.base_model.model.double().eval()
    copy_numbers(ours, theirs, "second")
    for names in (["default"], ["second"], ["default", "second"]):
        use_adapters(ours, *names)
        theirs.base_model.set_adapter(names)
        torch.testing.assert_close(outputs(ours), outputs(theirs))
    with theirs.disable_adapter(), without_adapters(ours):
        torch.testing.assert_close(outputs(ours), outputs(theirs))
    torch.testing.assert_close(outputs(ours), outputs(theirs))


def test_a_base_in_half_precision_has_adapters_in_float32() -> None:
    model = our_gpt().to(torch.bfloat16)
    add_adapter(model, LoRAConfig(["up"]))
    give_numbers(model)
    assert {values.dtype for values in model.parameters() if values.requires_grad} == {torch.float32}
    assert outputs(model).dtype == torch.bfloat16


# --- one layer ------------------------------------------------------------------------------------------


def test_an_adapted_layer_is_the_formula() -> None:
    plain, x = nn.Linear(5, 4), torch.randn(2, 3, 5)
    layer = LoRALinear(copy.deepcopy(plain))
    layer.add("one", LoRAConfig(["any"], rank=2, alpha=6.0))
    layer.active = ("one",)
    adapter = part(layer, "adapters.one")
    assert torch.equal(adapter.B, torch.zeros(4, 2))
    assert torch.equal(layer(x), plain(x))
    nn.init.normal_(adapter.B)
    weight = plain.weight + 6.0 / 2 * adapter.B @ adapter.A
    torch.testing.assert_close(layer(x), F.linear(x, weight, plain.bias))
    torch.testing.assert_close(layer.weight, weight)
    assert layer.bias is layer.base.bias


def test_a_model_that_reads_the_weight_itself_reads_the_adapted_one() -> None:
    model = our_gpt(**LLAMA).double().eval()
    add_adapter(model, LoRAConfig(["head"]))
    give_numbers(model)
    found = outputs(model)
    merge(model)
    torch.testing.assert_close(outputs(model), found)
    unmerge(model)
    use_adapters(model)
    assert not torch.allclose(outputs(model), found)


def test_a_is_drawn_as_peft_draws_it(peft: Any) -> None:
    base = nn.Sequential(nn.Linear(64, 8))
    torch.manual_seed(4)
    theirs = peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(r=16, target_modules=["0"]))
    expected = theirs.base_model.model[0].lora_A["default"].weight
    add_adapter(base, LoRAConfig(["0"], rank=16))
    drawn = part(base, "0").adapters["default"].A
    assert drawn.abs().max() <= 1 / 8 and expected.abs().max() <= 1 / 8  # evenly within ± 1 / √i
    torch.testing.assert_close(drawn.std(), expected.std(), rtol=0.1, atol=0)


# --- merging --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BASES)
def test_merged_weights_do_the_same_and_come_back_bit_for_bit(kind: str) -> None:
    if "transformers" in kind:
        pytest.importorskip("transformers", reason="transformers is in the extra 'oracles'")
    build, targets, _ = BASES[kind]
    model = build().double().eval()
    add_adapter(model, LoRAConfig(targets, rank=3))
    give_numbers(model)
    before = {name: values.clone() for name, values in model.state_dict().items()}
    expected = outputs(model)
    merge(model)
    torch.testing.assert_close(outputs(model), expected)
    assert any(not torch.equal(model.state_dict()[name], values) for name, values in before.items())
    unmerge(model)
    assert all(torch.equal(model.state_dict()[name], values) for name, values in before.items())
    assert torch.equal(outputs(model), expected)


def test_unmerging_is_exact_where_subtracting_is_not() -> None:
    model = our_gpt().to(torch.float16)
    before = {name: values.clone() for name, values in model.state_dict().items()}
    add_adapter(model, LoRAConfig(["up"]))
    give_numbers(model)
    merge(model)
    up = part(model, "blocks.0.feed_forward.up")
    subtracted = up.base.weight - up.adapters["default"].change().half()
    unmerge(model)
    assert not torch.equal(subtracted, before["blocks.0.feed_forward.up.weight"])
    remove_adapters(model)
    assert all(torch.equal(model.state_dict()[name], values) for name, values in before.items())


def test_a_merged_model_without_adapters_has_plain_layers(peft: Any) -> None:
    ours, theirs = pair(peft, "Llama of transformers")
    merge(ours)
    remove_adapters(ours)
    assert not adapted_layers(ours)
    plain = theirs.merge_and_unload()
    torch.testing.assert_close(dict(ours.state_dict()), dict(plain.state_dict()))


def test_a_tied_embedding_is_not_touched_by_a_merge_into_the_head() -> None:
    model = nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 8, bias=False))
    model[1].weight = model[0].weight
    before, ids = part(model, "0").weight.clone(), torch.arange(8)
    add_adapter(model, LoRAConfig(["1"], rank=2))
    give_numbers(model)
    expected = model(ids)
    merge(model)
    assert torch.equal(part(model, "0").weight, before)
    torch.testing.assert_close(model(ids), expected)
    unmerge(model)
    remove_adapters(model)
    assert part(model, "1").weight is part(model, "0").weight


# --- several adapters -----------------------------------------------------------------------------------


def test_an_adapter_is_chosen_and_the_others_stay() -> None:
    model = our_gpt().eval()
    plain = outputs(model)
    add_adapter(model, LoRAConfig(["up"]), "one")
    give_numbers(model, "one", 1)
    one = outputs(model)
    add_adapter(model, LoRAConfig(["up", "down"]), "two")
    assert torch.equal(outputs(model), plain)
    assert adapter_names(model) == ["one", "two"]
    assert {name.split(".adapters.")[1][:3] for name, *_ in trainable_table(model).rows} == {"two"}
    give_numbers(model, "two", 2)
    two = outputs(model)
    use_adapters(model, "one")
    assert torch.equal(outputs(model), one)
    use_adapters(model)
    assert torch.equal(outputs(model), plain)
    assert not any(values.requires_grad for values in model.parameters())
    use_adapters(model, "two")
    assert torch.equal(outputs(model), two)


def test_adapters_come_back_after_an_error_without_them() -> None:
    model = our_gpt().eval()
    add_adapter(model, LoRAConfig(["up"]))
    give_numbers(model)
    before = outputs(model)
    with pytest.raises(ZeroDivisionError), without_adapters(model):
        1 / 0  # noqa: B018
    assert torch.equal(outputs(model), before)


# --- training and counting ------------------------------------------------------------------------------


def test_only_the_adapter_learns() -> None:
    model, ids = our_gpt().train(), some_ids()
    add_adapter(model, LoRAConfig(["query_key_value", "output", "up", "down"], rank=4))
    before = {name: values.clone() for name, values in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-2)
    losses = []
    for _ in range(80):
        logits = model(ids).logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    changed = {name for name, values in model.state_dict().items() if not torch.equal(values, before[name])}
    assert changed == {name for name, *_ in trainable_table(model).rows}


def test_the_table_counts_tensors_shares_and_bytes() -> None:
    model = nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 5, bias=False))
    assert trainable_table(model).share == 1.0
    add_adapter(model, LoRAConfig(["0"], rank=2))
    table = trainable_table(model)
    assert table.rows == (
        ("0.adapters.default.A", (2, 10), 20, 80),
        ("0.adapters.default.B", (20, 2), 40, 160),
    )
    assert (table.numbers, table.bytes) == (220 + 100 + 60, 4 * 380)
    assert table.share == 60 / 380 and table.training_bytes == 4 * 380 + 3 * 240
    assert "0.adapters.default.B" in str(table) and "15.789%" in str(table)


# --- what is wrong is said ------------------------------------------------------------------------------


def with_adapter(merged: bool = False) -> nn.Module:
    model = our_gpt()
    add_adapter(model, LoRAConfig(["up"]))
    if merged:
        merge(model)
    return model


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: LoRAConfig(["up"], rank=0), "rank=0"),
        (lambda: LoRAConfig([]), "targets is empty"),
        (lambda: LoRAConfig(["up"], dropout=1.0), "dropout=1.0"),
        (
            lambda: add_adapter(our_gpt(), LoRAConfig(["up", "wide"])),
            "named 'wide'; .*down, output, query_key",
        ),
        (lambda: add_adapter(our_gpt(), LoRAConfig("up")), "no linear layer is named 'up'"),
        (lambda: add_adapter(our_gpt(), LoRAConfig(["up"]), "a.b"), "without a dot"),
        (lambda: add_adapter(with_adapter(), LoRAConfig(["up"])), "adapter 'default' already"),
        (lambda: add_adapter(with_adapter(merged=True), LoRAConfig(["up"]), "b"), "unmerge them first"),
        (lambda: use_adapters(with_adapter(merged=True)), "unmerge them first"),
        (lambda: use_adapters(with_adapter(), "b"), "no adapter 'b'; the model has default"),
    ],
)
def test_what_is_wrong_is_said(call: Callable[[], Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()


def test_an_end_of_a_name_is_whole_words() -> None:
    assert find_targets(["query", "a.query", "subquery"], ["query"]) == ["query", "a.query"]
    assert find_targets(["query", "a.query", "subquery"], ".*bquery") == ["subquery"]
