"""Files of adapters. Oracle: `peft`, on models of ours and of `transformers`."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from course_lib import hub
from course_lib.models.bert import BERT, BertConfig
from course_lib.models.checkpoint_files import CheckpointError
from course_lib.models.gpt import GPT, LLAMA, GPTConfig
from course_lib.peft.adapter_files import CONFIG, WEIGHTS, load_adapter, read_adapter, save_adapter
from course_lib.peft.lora import (
    LoRAConfig,
    adapted_layers,
    adapter_names,
    add_adapter,
    merge,
    remove_adapters,
    use_adapters,
)
from course_lib.peft.quantize import dequantize_linears, quantize_linears

VOCAB = 23


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def peft() -> Any:
    return pytest.importorskip("peft", reason="peft is in the extra 'oracles'")


def our_gpt(**options: Any) -> GPT:
    sizes = {"vocab_size": VOCAB, "context": 12, "d_model": 16, "num_layers": 2, "num_heads": 4}
    return GPT(GPTConfig(**sizes | options)).eval()


def our_bert(**options: Any) -> BERT:
    sizes = {
        "vocab_size": VOCAB,
        "max_length": 12,
        "d_model": 16,
        "num_layers": 2,
        "num_heads": 4,
        "d_ff": 20,
    }
    return BERT(BertConfig(**sizes | options)).eval()


def outputs(model: nn.Module) -> Tensor:
    said = model(torch.randint(0, VOCAB, (3, 7), generator=torch.Generator().manual_seed(1)))
    logits = getattr(said, "logits", None)
    return said.last_hidden_state if logits is None else logits


def mlm_logits(model: Any, ids: Tensor) -> Tensor:
    """What our BERT says of the tokens themselves."""
    return model.token_logits(model(ids).last_hidden_state)


def give_numbers(model: nn.Module, name: str = "default") -> None:
    """Numbers as after a training: no B is zero any more."""
    for _, layer in adapted_layers(model):
        for values in layer.adapters[name].parameters():
            nn.init.normal_(values, std=0.3)


def adapted(model: nn.Module, *targets: str, **options: Any) -> nn.Module:
    add_adapter(model, LoRAConfig(targets, **{"rank": 3, "alpha": 5.0} | options))
    give_numbers(model)
    return model


@pytest.mark.parametrize("options", [{}, {"rank_stabilized": True, "alpha": 5.5, "dropout": 0.25}])
@pytest.mark.parametrize("targets", [["up", "attention.output"], r"blocks\.1\..*(up|down)"])
def test_what_is_saved_is_loaded(tmp_path: Path, targets: list[str] | str, options: dict[str, Any]) -> None:
    base = our_gpt()
    first, second = base, copy.deepcopy(base)
    config = LoRAConfig(targets, **{"rank": 3} | options)
    paths = add_adapter(first, config, "mine")
    give_numbers(first, "mine")
    save_adapter(first, tmp_path, "mine", base="somebody/base")
    assert load_adapter(second, tmp_path, "yours") == paths
    assert adapter_names(second) == ["yours"]
    assert adapted_layers(second)[0][1].adapters["yours"].config == config
    assert torch.equal(outputs(second), outputs(first))
    assert json.loads((tmp_path / CONFIG).read_text())["base_model_name_or_path"] == "somebody/base"


@pytest.mark.parametrize("kind", ["gpt", "llama", "bert"])
def test_peft_reads_our_file_on_our_model_and_we_read_its(peft: Any, tmp_path: Path, kind: str) -> None:
    base: nn.Module = our_bert() if kind == "bert" else our_gpt(**(LLAMA if kind == "llama" else {}))
    plain, again = copy.deepcopy(base), copy.deepcopy(base)
    ours = adapted(base, "up", "attention.output", rank_stabilized=True)
    save_adapter(ours, tmp_path / "ours")
    theirs = peft.PeftModel.from_pretrained(plain, tmp_path / "ours").eval()
    torch.testing.assert_close(outputs(theirs), outputs(ours), atol=1e-6, rtol=1e-5)
    theirs.save_pretrained(tmp_path / "theirs")
    load_adapter(again, tmp_path / "theirs")
    assert torch.equal(outputs(again), outputs(ours))
    ours_file, their_file = load_file(tmp_path / "ours" / WEIGHTS), load_file(tmp_path / "theirs" / WEIGHTS)
    assert ours_file.keys() == their_file.keys()
    assert all(torch.equal(values, their_file[key]) for key, values in ours_file.items())


@pytest.mark.filterwarnings("error:fan_in_fan_out")
@pytest.mark.parametrize("kind", ["gpt2", "bert", "roberta", "distilbert"])
def test_an_adapter_of_ours_serves_transformers_and_back(peft: Any, tmp_path: Path, kind: str) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    options: dict[str, dict[str, Any]] = {
        "bert": {"nsp_head": False},
        "roberta": {"skip_padding": True, "pad_id": 1, "pooler": False, "nsp_head": False},
        "distilbert": {"num_segments": 0, "pooler": False, "nsp_head": False},
    }
    base: nn.Module = our_gpt(activation="gelu_tanh") if kind == "gpt2" else our_bert(**options[kind])
    hub.save_pretrained(base, tmp_path / "base")  # type: ignore[arg-type]
    auto = AutoModelForCausalLM if kind == "gpt2" else AutoModelForMaskedLM
    targets = ["query_key_value", "up"] if kind == "gpt2" else ["query", "value", "down"]
    ours, again = adapted(base, *targets), hub.from_pretrained(tmp_path / "base")
    save_adapter(ours, tmp_path / "ours", published=True, base=str(tmp_path / "base"))
    theirs = auto.from_pretrained(tmp_path / "base").eval()
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "ours").eval()
    ids = torch.randint(2, VOCAB, (3, 7))
    found = ours(ids).logits if isinstance(ours, GPT) else mlm_logits(ours, ids)
    torch.testing.assert_close(theirs(ids).logits, found, atol=1e-4, rtol=1e-4)
    with theirs.disable_adapter():
        assert not torch.allclose(theirs(ids).logits, found, atol=1e-2)
    theirs.save_pretrained(tmp_path / "theirs")
    load_adapter(again, tmp_path / "theirs")
    assert torch.equal(outputs(again), outputs(ours))


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_an_adapter_that_peft_made_for_transformers_serves_us(peft: Any, tmp_path: Path, kind: str) -> None:
    from transformers import AutoModel

    base: nn.Module = our_gpt(activation="gelu_tanh") if kind == "gpt2" else our_bert()
    hub.save_pretrained(base, tmp_path / "base")  # type: ignore[arg-type]
    # A model without a head: its layers' names lack the first part.
    theirs = AutoModel.from_pretrained(tmp_path / "base").eval()
    config = peft.LoraConfig(
        r=3,
        target_modules=["c_attn", "c_fc"] if kind == "gpt2" else ["query", "output.dense"],
        init_lora_weights=False,
        fan_in_fan_out=kind == "gpt2",
    )
    theirs = peft.get_peft_model(theirs, config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = hub.from_pretrained(tmp_path / "base")
    paths = load_adapter(ours, tmp_path / "theirs")
    assert len(paths) == (4 if kind == "gpt2" else 6)
    ids = torch.randint(0, VOCAB, (3, 7))
    said = ours(ids)
    found = said.hidden_states[-1] if kind == "gpt2" else said.last_hidden_state
    torch.testing.assert_close(theirs(ids).last_hidden_state, found, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_models_of_transformers_save_and_load_too(peft: Any, tmp_path: Path, kind: str) -> None:
    import transformers

    sizes: dict[str, Any] = {"vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "intermediate_size": 20}
    if kind == "gpt2":
        base: nn.Module = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=4, n_positions=12)
        )
    else:
        base = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes))
    plain, again = copy.deepcopy(base.eval()), copy.deepcopy(base)
    ours = adapted(base, *(["c_attn"] if kind == "gpt2" else ["q_proj", "v_proj"]))
    save_adapter(ours, tmp_path)
    theirs = peft.PeftModel.from_pretrained(plain, tmp_path).eval()
    torch.testing.assert_close(outputs(theirs), outputs(ours), atol=1e-6, rtol=1e-5)
    load_adapter(again, tmp_path)
    assert torch.equal(outputs(again), outputs(ours))


def test_an_adapter_trained_on_four_bits_is_loaded_on_the_whole_base(tmp_path: Path) -> None:
    model = our_gpt()
    quantize_linears(model, ["up"])
    rounded = copy.deepcopy(model)
    dequantize_linears(rounded)
    adapted(model, "up")
    save_adapter(model, tmp_path)
    load_adapter(rounded, tmp_path)
    torch.testing.assert_close(outputs(rounded), outputs(model))


def test_several_adapters_of_one_base_are_saved_one_by_one(tmp_path: Path) -> None:
    base = our_gpt()
    model, again = base, copy.deepcopy(base)
    for name, targets in (("one", ["up"]), ("two", ["up", "down"])):
        add_adapter(model, LoRAConfig(targets, rank=2), name)
        for _, layer in adapted_layers(model):
            for values in layer.adapters[name].parameters() if name in layer.adapters else ():
                nn.init.normal_(values, std=0.3)
        save_adapter(model, tmp_path / name, name)
    load_adapter(again, tmp_path / "one", "one")
    load_adapter(again, tmp_path / "two", "two")
    for names in (["one"], ["two"], ["one", "two"]):
        use_adapters(model, *names)
        use_adapters(again, *names)
        assert torch.equal(outputs(again), outputs(model))


def test_a_base_with_adapters_is_saved_after_they_were_merged_and_removed(tmp_path: Path) -> None:
    model = our_gpt()
    adapted(model, "up")
    with pytest.raises(CheckpointError, match=r"cannot hold blocks.0.feed_forward.up.adapters.default.A"):
        hub.save_pretrained(model, tmp_path / "adapted")
    assert not (tmp_path / "adapted").exists()
    expected = outputs(model)
    merge(model)
    remove_adapters(model)
    hub.save_pretrained(model, tmp_path / "merged")
    torch.testing.assert_close(outputs(hub.from_pretrained(tmp_path / "merged")), expected)


# --- what is wrong is said, and nothing is changed ------------------------------------------------------


def setting(**changed: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        settings = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps(settings | changed))

    return change


def tensors(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        change(weights)
        save_file(weights, folder / WEIGHTS)

    return rewrite


def cut(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def make_pickle(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps({"a": 1}))


FIRST = "base_model.model.blocks.0.feed_forward.up.lora_A.weight"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / CONFIG).unlink(), "has no adapter_config.json"),
        (lambda folder: (folder / CONFIG).write_text("{"), "cannot be read as JSON"),
        (lambda folder: (folder / WEIGHTS).unlink(), "give the folder of an adapter"),
        (make_pickle, "is a pickle, which can run code"),
        (cut, "is damaged or incomplete"),
        (setting(peft_type="IA3"), "type 'IA3'"),
        (setting(use_dora=True), "use_dora=True, which is not supported"),
        (setting(bias="all"), "bias='all', which is not supported"),
        (setting(rank_pattern={"up": 4}), "rank_pattern"),
        (setting(modules_to_save=["head"]), "modules_to_save"),
        (setting(init_lora_weights="pissa"), "changes the base"),
        (setting(target_modules=None), "target_modules=None"),
        (setting(r="three"), "unknown value"),
        (setting(r=0), "unknown value for, rank=0"),
        (setting(r=4), r"A of blocks.0.feed_forward.up has shape \(3, 16\), but here it is \(4, 16\)"),
        (setting(target_modules=["up", "down"]), "lacks blocks.0.feed_forward.down"),
        (setting(target_modules=["gate"]), "for another model: no linear layer is named 'gate'"),
        (setting(target_modules=["0.feed_forward.up"]), "this one has no blocks.1.feed_forward.up"),
        (tensors(lambda weights: weights.pop(FIRST)), "has B of blocks.0.feed_forward.up alone"),
        (tensors(lambda weights: weights.update(other=torch.zeros(1))), "has other, which no adapter"),
    ],
)
def test_a_folder_that_cannot_be_used(tmp_path: Path, damage: Callable[[Path], Any], said: str) -> None:
    model = our_gpt()
    plain = copy.deepcopy(model)
    save_adapter(adapted(model, "up"), tmp_path)
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=said):
        load_adapter(plain, tmp_path)
    assert not adapted_layers(plain) and all(values.requires_grad for values in plain.parameters())


def test_an_adapter_of_a_wider_model_is_refused(tmp_path: Path) -> None:
    save_adapter(adapted(our_gpt(d_model=32), "up"), tmp_path)
    with pytest.raises(CheckpointError, match=r"has shape \(3, 32\), but here it is \(3, 16\)"):
        load_adapter(our_gpt(), tmp_path)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda folder: save_adapter(our_gpt(), folder), "no adapter 'default'; the model has none"),
        (
            lambda folder: save_adapter(adapted(our_gpt(**LLAMA), "query_key_value"), folder, published=True),
            "blocks.0.attention.query_key_value is not one layer",
        ),
        (
            lambda folder: save_adapter(adapted(nn.Sequential(nn.Linear(2, 2)), "0"), folder, published=True),
            "a Sequential has no layers with names in transformers",
        ),
        (lambda folder: read_adapter(folder / "nowhere"), "has no adapter_config.json"),
    ],
)
def test_what_cannot_be_saved_or_read(tmp_path: Path, call: Callable[[Path], Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call(tmp_path)
    assert not list(tmp_path.iterdir())
