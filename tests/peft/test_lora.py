"""LoRA. Oracle: the library `peft` on the same base, and W + α/r · B A written out."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from course_lib.models.bert import BERT, BertConfig
from course_lib.models.gpt import GPT, LLAMA, GPTConfig
from course_lib.peft import lora
from course_lib.peft.lora import LoRAConfig, LoRALinear
from course_lib.peft.quantize import NF4Linear, quantize_linears

SIZES: dict[str, Any] = {"vocab_size": 19, "context": 8, "d_model": 16, "num_layers": 2, "num_heads": 4}
CONFIG = LoRAConfig(("query_key_value", "feed_forward.down"), rank=3, alpha=12.0)


def base(**options: Any) -> GPT:
    torch.manual_seed(0)
    return GPT(GPTConfig(**SIZES | options)).eval()


def ids() -> Tensor:
    return torch.randint(0, 19, (2, 7), generator=torch.Generator().manual_seed(1))


def trained(model: nn.Module, name: str = "default", seed: int = 0) -> None:
    """Numbers in place of a training: B away from zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, LoRALinear) and name in layer.configs:
                for part in (layer.lora_A[name], layer.lora_B[name]):
                    part.copy_(0.3 * torch.randn(part.shape, generator=generator))


# --- one layer ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
def test_an_adapted_layer_by_the_papers_formula(bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(6, 4, bias=bias)
    layer, x = LoRALinear(copy.deepcopy(linear)), torch.randn(2, 3, 6)
    layer.add("one", LoRAConfig(("any",), rank=2, alpha=5.0))
    assert (layer.lora_B["one"] == 0).all() and layer.lora_A["one"].std() > 0
    assert torch.equal(layer(x), linear(x))
    trained(layer, "one")
    whole = linear.weight + 5.0 / 2 * layer.lora_B["one"] @ layer.lora_A["one"]
    torch.testing.assert_close(layer(x), nn.functional.linear(x, whole, linear.bias))
    torch.testing.assert_close(layer.change("one"), whole - linear.weight)
    assert torch.linalg.matrix_rank(layer.change("one")) == 2


def test_dropout_is_on_what_the_adapter_reads_while_training() -> None:
    torch.manual_seed(0)
    layer = LoRALinear(nn.Linear(6, 4))
    layer.add("one", LoRAConfig(("any",), rank=2, dropout=0.5))
    x = torch.randn(8, 6)
    assert torch.equal(layer.train()(x), layer.base(x))
    trained(layer, "one")
    assert not torch.equal(layer(x), layer(x))
    assert torch.equal(layer.eval()(x), layer(x))


# --- a whole model --------------------------------------------------------------------------------------


def test_a_new_adapter_changes_nothing_and_trains_alone() -> None:
    model = base()
    before = model(ids()).logits
    frozen = {name: values.clone() for name, values in model.state_dict().items()}
    lora.add_adapter(model, CONFIG)
    assert torch.equal(model(ids()).logits, before)
    share, whole = lora.count_parameters(model)
    assert (
        share == 2 * 3 * ((16 + 48) + (64 + 16))
        and whole == sum(p.numel() for p in base().parameters()) + share
    )
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(ids()).logits.square().sum().backward()
        optimizer.step()
    assert not torch.allclose(model(ids()).logits, before)
    for name, values in model.state_dict().items():
        if "lora_" not in name:
            assert torch.equal(values, frozen[name.replace(".base.", ".")])


def test_merging_costs_nothing_and_is_undone_to_the_bit() -> None:
    model = base()
    weights = model.state_dict()["blocks.0.attention.query_key_value.weight"].clone()
    lora.add_adapter(model, CONFIG)
    trained(model)
    apart = model(ids()).logits
    with lora.merged(model):
        torch.testing.assert_close(model(ids()).logits, apart, atol=1e-5, rtol=1e-5)
        lora.merge(model)  # a second time does nothing
        torch.testing.assert_close(model(ids()).logits, apart, atol=1e-5, rtol=1e-5)
        with pytest.raises(ValueError, match="are merged into the base; unmerge first"):
            lora.activate(model)
    assert torch.equal(model(ids()).logits, apart)
    layer = model.blocks[0].get_submodule("attention.query_key_value")
    assert isinstance(layer, LoRALinear) and torch.equal(layer.base.state_dict()["weight"], weights)


def test_several_adapters_on_one_base_are_chosen_and_added_up() -> None:
    model, found = base(), {}
    plain = model(ids()).logits
    for seed, (name, config) in enumerate({"a": CONFIG, "b": LoRAConfig(("up", "down"), 2, 4.0)}.items()):
        lora.add_adapter(model, config, name)
        trained(model, name, seed)
        found[name] = model(ids()).logits
    assert lora.adapters(model) == ["a", "b"]
    for name, logits in found.items():
        lora.activate(model, name)
        torch.testing.assert_close(model(ids()).logits, logits)
    lora.activate(model)
    assert torch.equal(model(ids()).logits, plain) and lora.count_parameters(model)[0] == 0
    lora.activate(model, "a", "b")
    layer: Any = model.blocks[0].get_submodule("feed_forward.down")
    x = torch.randn(3, 64)
    expected = layer.base(x) + x @ (layer.change("a") + layer.change("b")).T
    torch.testing.assert_close(layer(x), expected)
    together = model(ids()).logits
    with lora.merged(model):
        torch.testing.assert_close(model(ids()).logits, together, atol=1e-5, rtol=1e-5)


def test_a_base_in_four_bits_is_trained_through() -> None:
    torch.manual_seed(0)
    model = base(d_model=64, num_heads=4)
    assert quantize_linears(model, "query_key_value", "output", "up", "down") == 8
    before = model(ids()).logits
    lora.add_adapter(model, LoRAConfig(("query_key_value", "up"), rank=4))
    assert torch.equal(model(ids()).logits, before)
    optimizer, losses = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05), []
    for _ in range(60):
        loss = nn.functional.cross_entropy(model(ids()[:, :-1]).logits.flatten(0, 1), ids()[:, 1:].flatten())
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 0.6  # all that the frozen embedding lets through
    assert any(isinstance(layer, NF4Linear) for layer in model.modules())
    with pytest.raises(ValueError, match="a base in four bits cannot take adapters in"):
        lora.merge(model)


# --- against peft ---------------------------------------------------------------------------------------

MODELS: dict[str, tuple[nn.Module, LoRAConfig]] = {
    "GPT": (base(), CONFIG),
    "Llama": (base(**LLAMA), LoRAConfig(("gate", "output"), 2, 3.0)),
    "BERT": (BERT(BertConfig(19, 16, 2, 4, 24, 8)).eval(), LoRAConfig(("query", "value"), 4, 8.0)),
}
each_model = pytest.mark.parametrize("kind", MODELS)


def theirs_on(model: nn.Module, config: LoRAConfig) -> Any:
    """peft's adapter on a copy of the model."""
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        target_modules=list(config.targets),
        lora_dropout=config.dropout,
    )
    return peft.get_peft_model(copy.deepcopy(model), settings).eval()


def last(model: Any) -> Tensor:
    """The last hidden states."""
    return model(ids()).hidden_states[-1]


@each_model
def test_peft_reads_our_files_and_gives_the_same_outputs_and_gradients(kind: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    given, config = MODELS[kind]
    ours = copy.deepcopy(given)
    lora.add_adapter(ours, config)
    trained(ours)
    lora.save_adapter(ours, tmp_path)
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(given), str(tmp_path), is_trainable=True).eval()
    torch.testing.assert_close(last(ours), last(theirs), atol=1e-6, rtol=1e-6)
    for model in (ours, theirs):
        last(model).square().sum().backward()
    expected = {
        name.removeprefix("base_model.model.").replace(".default.weight", ".default"): parameter.grad
        for name, parameter in theirs.named_parameters()
        if parameter.requires_grad
    }
    found = {name: parameter.grad for name, parameter in ours.named_parameters() if parameter.requires_grad}
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-5)
    ours_merged, theirs_merged = ours, theirs.merge_and_unload()
    with lora.merged(ours_merged):
        torch.testing.assert_close(last(ours_merged), last(theirs_merged), atol=1e-5, rtol=1e-5)


@each_model
def test_we_read_what_peft_wrote(kind: str, tmp_path: Path) -> None:
    given, config = MODELS[kind]
    theirs = theirs_on(given, config)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.3 * torch.randn_like(parameter))
    theirs.save_pretrained(str(tmp_path))
    ours = copy.deepcopy(given)
    lora.load_adapter(ours, tmp_path, "read")
    torch.testing.assert_close(last(ours), last(theirs), atol=1e-6, rtol=1e-6)
    assert lora.adapters(ours) == ["read"]


# --- files and mistakes ---------------------------------------------------------------------------------


def test_what_is_saved_loads_beside_others(tmp_path: Path) -> None:
    model = base()
    lora.add_adapter(model, CONFIG, "first")
    trained(model, "first")
    expected = model(ids()).logits
    lora.save_adapter(model, tmp_path, "first")
    fresh = base()
    lora.add_adapter(fresh, LoRAConfig(("up",)), "other")
    lora.load_adapter(fresh, tmp_path, "again")
    torch.testing.assert_close(fresh(ids()).logits, expected)
    assert lora.adapters(fresh) == ["again", "other"]


def test_damaged_and_foreign_adapters_are_refused_before_anything_changes(tmp_path: Path) -> None:
    model = base()
    lora.add_adapter(model, CONFIG)
    lora.save_adapter(model, tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    weights = (tmp_path / "adapter_model.safetensors").read_bytes()

    def refused(match: str, **sizes: Any) -> None:
        fresh = base(**sizes)
        with pytest.raises(ValueError, match=match) as caught:
            lora.load_adapter(fresh, tmp_path)
        assert "\n" not in str(caught.value) and not lora.adapters(fresh)

    refused("no room for .* the adapter is of another base", d_model=8)
    refused("lacks .*; the adapter is of another base", num_layers=3)
    refused("no room for", num_layers=1)
    for change, match in (
        ({"use_dora": True}, "use_dora=True, which is not supported"),
        ({"bias": "all"}, "bias='all', which is not supported"),
        ({"peft_type": "IA3"}, "describes no LoRA adapter"),
        ({"target_modules": "all-linear"}, "expected a list of names"),
        ({"r": 4}, "no room for"),
    ):
        (tmp_path / "adapter_config.json").write_text(json.dumps(settings | change))
        refused(match)
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    (tmp_path / "adapter_model.safetensors").write_bytes(weights[:50])
    refused("holds a damaged adapter")
    (tmp_path / "adapter_model.safetensors").unlink()
    refused("has no adapter_model.safetensors; give an adapter's folder")


def test_mistakes_are_named() -> None:
    model = base()
    with pytest.raises(
        ValueError, match="no linear layer is named 'keys'; there are down, output, query_key"
    ):
        lora.add_adapter(model, LoRAConfig(("keys",)))
    assert lora.adapters(model) == [] and lora.count_parameters(model)[0] > 0
    lora.add_adapter(model, CONFIG)
    with pytest.raises(ValueError, match="there is an adapter 'default' already"):
        lora.add_adapter(model, CONFIG)
    with pytest.raises(ValueError, match=r"there is no adapter 'b'; there are \['default'\]"):
        lora.activate(model, "b")
    with pytest.raises(ValueError, match="there is no adapter 'b'"):
        lora.save_adapter(model, "anywhere", "b")
    with pytest.raises(ValueError, match="rank=0; it is at least 1"):
        LoRAConfig(("up",), rank=0)
    with pytest.raises(ValueError, match="targets is empty"):
        LoRAConfig(())
