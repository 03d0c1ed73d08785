"""Published checkpoints, read and written. Oracle: `transformers` with tiny random models."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from course_lib import hub
from course_lib.models.bert import BERT, BertConfig
from course_lib.models.checkpoint_files import CheckpointError
from course_lib.models.gpt import GPT, MODERN, GPTConfig
from course_lib.models.transformer import Transformer
from course_lib.tokenizers.wordpiece import WordPieceTokenizer

transformers = pytest.importorskip("transformers")

B, T, VOCAB = 3, 7, 23
LENGTHS = torch.tensor([7, 4, 2])
CLOSE: dict[str, Any] = {"atol": 1e-4, "rtol": 1e-4}
GPT2 = {"vocab_size": VOCAB, "n_positions": 12, "n_embd": 16, "n_layer": 2, "n_head": 4}
GPT2 |= {"bos_token_id": 0, "eos_token_id": 0}
LLAMA = {"vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA |= {"intermediate_size": 20, "max_position_embeddings": 12}
BERTS = LLAMA | {"pad_token_id": 1}
DISTIL = {"vocab_size": VOCAB, "dim": 16, "n_layers": 2, "n_heads": 4, "hidden_dim": 20}
DISTIL |= {"max_position_embeddings": 12, "pad_token_id": 1}

# The class, its configuration and options, and what the class is called in the issue.
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "GPT-2": ("GPT2LMHeadModel", "GPT2Config", GPT2),
    "GPT-2, no head": ("GPT2Model", "GPT2Config", GPT2),
    "GPT-2, untied, inner width": (
        "GPT2LMHeadModel",
        "GPT2Config",
        GPT2 | {"tie_word_embeddings": False, "n_inner": 24, "activation_function": "relu"},
    ),
    "Llama": (
        "LlamaForCausalLM",
        "LlamaConfig",
        LLAMA | {"rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}},
    ),
    "Llama, grouped": ("LlamaForCausalLM", "LlamaConfig", LLAMA | {"num_key_value_heads": 2, "head_dim": 6}),
    "Llama, tied, biases": (
        "LlamaForCausalLM",
        "LlamaConfig",
        LLAMA | {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    ),
    "BERT": ("BertForPreTraining", "BertConfig", BERTS),
    "BERT, no heads": ("BertModel", "BertConfig", BERTS),
    "BERT, masked": ("BertForMaskedLM", "BertConfig", BERTS | {"hidden_act": "relu", "type_vocab_size": 3}),
    "RoBERTa": ("RobertaForMaskedLM", "RobertaConfig", BERTS | {"type_vocab_size": 1}),
    "RoBERTa, no head": ("RobertaModel", "RobertaConfig", BERTS),
    "DistilBERT": ("DistilBertForMaskedLM", "DistilBertConfig", DISTIL),
    "DistilBERT, no head": ("DistilBertModel", "DistilBertConfig", DISTIL | {"sinusoidal_pos_embds": True}),
}
each_case = pytest.mark.parametrize("case", CASES)
causal = pytest.mark.parametrize("case", [case for case in CASES if case.startswith(("GPT", "Llama"))])
bidirectional = pytest.mark.parametrize("case", [c for c in CASES if not c.startswith(("GPT", "Llama"))])


def published(case: str, folder: Path) -> Any:
    """A tiny model of transformers, saved to the folder; its weights are away from 0 and 1: each counts."""
    kind, config, options = CASES[case]
    torch.manual_seed(0)
    settings = getattr(transformers, config)(**options, attn_implementation="eager")
    model = getattr(transformers, kind)(settings).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


def ids(seed: int = 0) -> Tensor:
    return torch.randint(2, VOCAB, (B, T), generator=torch.Generator().manual_seed(seed))


def mask(side: str) -> Tensor:
    """True where there is a token; padding on one side."""
    behind = torch.arange(T) < LENGTHS[:, None]
    return {"none": torch.ones_like(behind), "right": behind, "left": behind.flip(1)}[side]


each_side = pytest.mark.parametrize("side", ["none", "right", "left"])


@each_side
@causal
def test_logits_hidden_states_and_attentions_of_gpts(case: str, side: str, tmp_path: Path) -> None:
    theirs = published(case, tmp_path)
    ours, real = hub.from_pretrained(tmp_path, GPT), mask(side)
    seen = None if side == "none" else real
    places = torch.arange(T).expand(B, T)  # transformers may count tokens alone where padding stands before
    expected = theirs(
        ids(),
        attention_mask=real.long(),
        position_ids=places,
        output_hidden_states=True,
        output_attentions=True,
    )
    fast, shown = ours(ids(), seen), ours(ids(), seen, return_weights=True)
    assert not ours.training
    if hasattr(expected, "logits"):
        torch.testing.assert_close(fast.logits[real], expected.logits[real], **CLOSE)
    for found in (fast, shown):
        for one, other in zip(found.hidden_states, expected.hidden_states, strict=True):
            torch.testing.assert_close(one[real], other[real], **CLOSE)
    for one, other in zip(shown.attentions, expected.attentions, strict=True):
        torch.testing.assert_close(one.transpose(1, 2)[real], other.transpose(1, 2)[real], **CLOSE)


@each_side
@bidirectional
def test_the_four_outputs_and_the_heads_of_berts(case: str, side: str, tmp_path: Path) -> None:
    theirs = published(case, tmp_path)
    ours, real = hub.from_pretrained(tmp_path, BERT), mask(side)
    given = ids().masked_fill(~real, 1)
    segments = (torch.arange(T) > 2).long().expand(B, T) if ours.config.num_segments > 1 else None
    options = {} if segments is None else {"token_type_ids": segments}
    base = theirs.base_model
    expected = base(
        given, attention_mask=real.long(), output_hidden_states=True, output_attentions=True, **options
    )
    found = ours(given, segments, None if side == "none" else real, return_weights=True)
    torch.testing.assert_close(
        ours(given, segments, real).last_hidden_state[real], expected.last_hidden_state[real], **CLOSE
    )
    for one, other in zip(found.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(one[real], other[real], **CLOSE)
    for one, other in zip(found.attentions, expected.attentions, strict=True):
        torch.testing.assert_close(one.transpose(1, 2)[real], other.transpose(1, 2)[real], **CLOSE)
    pooled = expected.get("pooler_output")
    assert (found.pooler_output is None) == (pooled is None)
    first = real[:, 0]
    if pooled is not None:
        torch.testing.assert_close(found.pooler_output[first], pooled[first], **CLOSE)
    if ours.config.mlm_head:
        heads = theirs(given, attention_mask=real.long(), **options)
        logits = heads.get("prediction_logits", heads.get("logits"))
        torch.testing.assert_close(ours.token_logits(found.last_hidden_state)[real], logits[real], **CLOSE)
    if ours.config.nsp_head:
        torch.testing.assert_close(
            ours.sentence_logits(found.pooler_output)[first], heads.seq_relationship_logits[first], **CLOSE
        )


@each_case
def test_what_is_saved_loads_in_transformers_and_here(case: str, tmp_path: Path) -> None:
    theirs = published(case, tmp_path / "theirs")
    ours = hub.from_pretrained(tmp_path / "theirs")
    assert not isinstance(ours, Transformer)
    hub.save_pretrained(ours, tmp_path / "ours")
    kind = json.loads((tmp_path / "ours" / "config.json").read_text())["architectures"][0]
    back, info = getattr(transformers, kind).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"] or all("pooler" in name for name in info["missing_keys"])
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    given = {"attention_mask": mask("none").long()}
    expected = theirs.base_model(ids(), **given).last_hidden_state
    torch.testing.assert_close(back.eval().base_model(ids(), **given).last_hidden_state, expected, **CLOSE)
    again = hub.from_pretrained(tmp_path / "ours", type(ours))
    for name, values in ours.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], values, atol=0, rtol=0)


def test_sharded_weights_are_read_whole(tmp_path: Path) -> None:
    theirs = published("GPT-2", tmp_path / "one")
    theirs.save_pretrained(tmp_path / "many", max_shard_size="5KB")
    assert len(list((tmp_path / "many").glob("model-*.safetensors"))) > 1
    one, many = (hub.from_pretrained(tmp_path / name, GPT) for name in ("one", "many"))
    torch.testing.assert_close(many(ids()).logits, one(ids()).logits, atol=0, rtol=0)


def test_old_names_copies_and_buffers_are_understood(tmp_path: Path) -> None:
    published("BERT", tmp_path / "bert")
    expected = hub.from_pretrained(tmp_path / "bert", BERT)(ids()).last_hidden_state
    path = tmp_path / "bert" / "model.safetensors"
    old = {}
    for name, values in load_file(path).items():
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        old[name] = values
    old["bert.embeddings.position_ids"] = torch.arange(12)[None]
    old["cls.predictions.decoder.weight"] = old["bert.embeddings.word_embeddings.weight"].clone()
    save_file(old, path)
    torch.testing.assert_close(hub.from_pretrained(path.parent, BERT)(ids()).last_hidden_state, expected)
    published("GPT-2", tmp_path / "gpt")
    path = tmp_path / "gpt" / "model.safetensors"
    logits = hub.from_pretrained(path.parent, GPT)(ids()).logits
    old = {name.removeprefix("transformer."): values for name, values in load_file(path).items()}
    old["h.0.attn.bias"] = torch.ones(1, 1, 12, 12).tril()
    old["h.1.attn.masked_bias"] = torch.tensor(-1e4)
    old["lm_head.weight"] = old["wte.weight"].clone()
    save_file({name: values.half() for name, values in old.items()}, path)
    torch.testing.assert_close(
        hub.from_pretrained(path.parent, GPT)(ids()).logits, logits, atol=5e-2, rtol=5e-2
    )


# --- what is no checkpoint ------------------------------------------------------------------------------


def refused(match: str, action: Callable[[], object]) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        action()
    assert "\n" not in str(caught.value)


def test_damaged_and_mismatched_files_are_named_in_one_sentence(tmp_path: Path) -> None:
    def read() -> object:
        return hub.from_pretrained(tmp_path)

    refused("has no config.json; give the folder", read)
    published("GPT-2", tmp_path)
    config, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    settings, tensors = json.loads(config.read_text()), weights.read_bytes()
    for broken in (tensors[:-1], tensors[: len(tensors) // 2], b"", b"\xff" * 64):
        weights.write_bytes(broken)
        refused("damaged or incomplete", read)
    weights.unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")
    refused("is a pickle, which can run code when opened; fetch the safetensors file", read)
    weights.write_bytes(tensors)
    for change, match in (
        (
            {"n_embd": 8},
            r"transformer.h.0.attn.c_proj.bias has shape \(16,\), but by config.json it is \(8,\)",
        ),
        ({"n_layer": 3}, "lacks transformer.h.2.attn.c_proj.bias; fetch it again"),
        ({"n_layer": 1}, "has transformer.h.1.attn.c_attn.bias, which config.json leaves no room for"),
        ({"n_head": 5}, "unknown value for, num_heads=5 does not divide"),
        ({"n_embd": "wide"}, "config.json (lacks|describes no model)"),
        ({"activation_function": "sine"}, "unknown value for, 'sine'"),
        (
            {"scale_attn_weights": False},
            "has scale_attn_weights=False, which is not supported; expected True",
        ),
        ({"model_type": "mamba"}, "of type 'mamba'; expected 'gpt2' or 'llama' or"),
        ({"model_type": None}, "of type None"),
    ):
        config.write_text(json.dumps(settings | change))
        refused(match, read)
    config.write_text(json.dumps({name: value for name, value in settings.items() if name != "n_embd"}))
    refused("lacks, or has an unknown value for, 'n_embd'", read)
    for broken in (b'{"model_type": "gp', b"\xff\xfe", b"[" * 100_000):
        config.write_bytes(broken)
        refused("cannot be read as JSON", read)
    config.write_text("[]")
    refused("expected an object", read)


def test_a_model_of_another_class_is_refused(tmp_path: Path) -> None:
    published("GPT-2", tmp_path)
    refused(
        "of type 'gpt2'; expected 'bert' or 'roberta' or 'distilbert'", lambda: BERT.from_pretrained(tmp_path)
    )
    assert GPT.from_pretrained(tmp_path).config.d_model == 16


def test_llamas_that_are_not_understood_are_refused(tmp_path: Path) -> None:
    published("Llama", tmp_path)
    config = tmp_path / "config.json"
    settings = json.loads(config.read_text())
    for change, match in (
        (
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}},
            "rope_type='yarn', which is not supp",
        ),
        ({"hidden_act": "gelu"}, "hidden_act='gelu', which is not supported; expected 'silu'"),
        ({"mlp_bias": True}, "mlp_bias=True, which is not supported; expected False"),
        ({"num_key_value_heads": 2}, "do not fit together|has shape"),
    ):
        config.write_text(json.dumps(settings | change))
        refused(match, lambda: hub.from_pretrained(tmp_path))


def test_damaged_indexes_are_refused(tmp_path: Path) -> None:
    published("GPT-2", tmp_path / "one").save_pretrained(tmp_path / "many", max_shard_size="5KB")
    folder = tmp_path / "many"
    index = folder / "model.safetensors.index.json"
    given = json.loads(index.read_text())
    for places, match in (
        ({"a": "../../secret.safetensors"}, "which is no safetensors file of this folder"),
        ({"a": "weights.bin"}, "which is no safetensors file of this folder"),
        ({"a": 3}, "which is no safetensors file"),
        ({}, "has no weight_map"),
        (given["weight_map"] | {"a": "model-9.safetensors"}, "has no model-9.safetensors, which"),
        (given["weight_map"] | {"a": next(iter(given["weight_map"].values()))}, "lacks a, which"),
    ):
        index.write_text(json.dumps({"weight_map": places}))
        refused(match, lambda: hub.from_pretrained(folder))


def test_what_no_family_can_hold_is_not_saved(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {
        "vocab_size": VOCAB,
        "context": 8,
        "d_model": 16,
        "num_layers": 1,
        "num_heads": 4,
    }
    for config, match in (
        (GPTConfig(**sizes, **MODERN), "llama checkpoint cannot hold activation='relu2', qk_norm=True"),
        (GPTConfig(**sizes, num_kv_heads=2), "gpt2 checkpoint cannot hold num_kv_heads=2"),
        (GPTConfig(**sizes, bias=False), "gpt2 checkpoint cannot hold bias=False"),
    ):
        refused(match, functools.partial(hub.save_pretrained, GPT(config), tmp_path))
    small = BertConfig(VOCAB, 16, 1, 4, 20, 12, skip_padding=True)
    refused(
        "roberta checkpoint cannot hold nsp_head=True", lambda: hub.save_pretrained(BERT(small), tmp_path)
    )
    assert not list(tmp_path.iterdir())


# --- by name --------------------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A hub on this machine; yields the folder whose files it gives out."""
    root = tmp_path / "hub"
    root.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "theirs"))
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "ours"))
    yield root
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("sharded", [False, True])
def test_a_name_is_fetched_once_and_then_found_in_the_cache(
    served: Path, sharded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = served / "someone" / "tiny" / "resolve" / "main"
    model = published("GPT-2", there)
    if sharded:
        model.save_pretrained(there, max_shard_size="5KB")
        (there / "model.safetensors").unlink()
    found = hub.from_pretrained("someone/tiny", GPT)
    torch.testing.assert_close(found(ids()).logits, model(ids()).logits, **CLOSE)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    again = hub.from_pretrained("someone/tiny", GPT)
    torch.testing.assert_close(again(ids()).logits, found(ids()).logits, atol=0, rtol=0)
    assert not list(hub.our_folder("someone/tiny").glob("*.part"))


def test_what_hugging_faces_programs_fetched_is_used(served: Path, tmp_path: Path) -> None:
    published("GPT-2", tmp_path / "theirs" / "hub" / "models--someone--tiny" / "snapshots" / "abc")
    assert isinstance(hub.from_pretrained("someone/tiny"), GPT)


def test_what_cannot_be_fetched_is_said(
    served: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def read() -> object:
        return hub.from_pretrained("someone/tiny")

    refused("the hub has no model 'someone/tiny' that is open to all; check the name", read)
    there = served / "someone" / "tiny" / "resolve" / "main"
    published("GPT-2", there)
    (there / "model.safetensors").unlink()
    refused("someone/tiny has no safetensors on the hub", read)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    refused("is not on this machine, and fetching .* failed .it cannot be reached.; connect", read)
    refused("is no folder; give the folder", lambda: hub.from_pretrained(tmp_path / "nothing"))
    refused("is no folder; give the folder", lambda: hub.from_pretrained("../etc/passwd"))


# --- tokenizers -----------------------------------------------------------------------------------------


def test_tokenizers_travel_with_the_model(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "bank", "##er", "Bank"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    plain = hub.load_tokenizer(tmp_path)
    assert plain.encode("The Banker") == [5, 6, 7]
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert hub.load_tokenizer(tmp_path).encode("Bank the") == [8, 5]
    model = BERT(BertConfig(len(words), 16, 1, 4, 20, 12))
    hub.save_pretrained(model, tmp_path / "saved", plain)
    back = hub.load_tokenizer(tmp_path / "saved")
    assert isinstance(back, WordPieceTokenizer) and back.encode("The Banker") == [5, 6, 7]
    empty = tmp_path / "nothing"
    empty.mkdir()
    refused("neither tokenizer.json nor vocab.txt", lambda: hub.load_tokenizer(empty))


BYTES = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>"]


@pytest.mark.parametrize("kind", ["GPT2", "Roberta", "Bert", "DistilBert"])
def test_published_tokenizers_give_the_same_ids(kind: str, tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    if kind.endswith("ert"):
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "bank", "##er", "is", "2", "##026", "!"]
        (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    else:
        learned = tokenizers.ByteLevelBPETokenizer()
        texts = ["The banker's bank is on the bank.", "Isn't it 2026?"] * 20
        learned.train_from_iterator(texts, vocab_size=300, special_tokens=BYTES, show_progress=False)
        learned.save_model(str(tmp_path))
    theirs = getattr(transformers, f"{kind}TokenizerFast").from_pretrained(tmp_path)
    theirs.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "vocab.txt").exists()
    ours = hub.load_tokenizer(tmp_path / "saved")
    for text in ("The banker's bank is 2026!", "über  the\nBANK", ""):
        assert list(ours.encode(text)) == theirs.encode(text, add_special_tokens=False)
