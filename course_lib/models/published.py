"""How published GPT-2, Llama, BERT, RoBERTa and DistilBERT call their settings and weights, and how we do.

A table gives for each of our tensors the published one, or several that are stacked in ours; read from left
to right it saves a model, from right to left it loads one. {i} is the number of a block.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from course_lib.models.bert import BERT, DISTILBERT, BertConfig
from course_lib.models.checkpoint_files import ACTIVATIONS, CheckpointError, check_fit, expected_shapes
from course_lib.models.gpt import GPT, LLAMA, GPTConfig

Settings: TypeAlias = Mapping[str, Any]
PUBLISHED_ACTIVATIONS = {"gelu_tanh": "gelu_new"}  # all others have the same name there
# What older files hold besides weights: positions and masks that follow from the configuration.
NO_WEIGHTS = re.compile(r"(position_ids|\.attn\.(masked_)?bias|rotary_emb\.inv_freq)$")


@dataclass(frozen=True)
class Entry:
    """One of our tensors, and the published ones that it is stacked from. turned: they are transposed."""

    ours: str
    published: tuple[str, ...]
    turned: bool = False


@dataclass(frozen=True)
class Family:
    """A model_type. prefix: of the names of a model with a head, which models without one leave away.

    heads: beginnings of the names of heads. copies: of names that repeat a tied embedding or its bias.
    read: settings and names of weights → our configuration. write: the way back.
    """

    model: type[nn.Module]
    prefix: str
    heads: tuple[str, ...]
    copies: tuple[str, ...]
    read: Callable[[Settings, Iterable[str]], Any]
    write: Callable[[Any], dict[str, Any]]
    entries: Callable[[Any], list[Entry]]


def load(family: Family, settings: Settings, weights: Mapping[str, Tensor]) -> nn.Module:
    """The model that settings and weights describe; CheckpointError where they do not fit."""
    named = tidy(family, weights)
    config = read_settings(family, settings, named)
    expected = expected_shapes(lambda: family.model(config))
    entries = {entry.ours: entry for entry in family.entries(config) if entry.ours in expected}
    state: dict[str, Tensor] = {}
    for entry in entries.values():
        parts = [named.pop(name) for name in entry.published if name in named]
        if len(parts) == len(entry.published):
            state[entry.ours] = _stacked(entry, parts)
    tied = {name for name in named if name.startswith(family.copies)}
    left = {name: values for name, values in named.items() if name not in tied}
    check_fit(
        expected, state | left, lambda name: " ".join(entries[name].published) if name in entries else name
    )
    model = family.model(config)
    model.load_state_dict(state)
    return model.eval()


def dump(model: GPT | BERT) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and weights under their published names; CheckpointError where no family has such a model."""
    config, kind = model.config, kind_of(model.config)
    family, state, weights = FAMILIES[kind], model.state_dict(), dict[str, Tensor]()
    entries = family.entries(config)
    for entry in entries:
        if entry.ours in state:
            values = state[entry.ours].T if entry.turned else state[entry.ours]
            weights |= zip(entry.published, _parts(config, entry, values), strict=True)
    settings = family.write(config)
    there, here = comparable(read_settings(family, settings, weights)), comparable(config)
    lost = [f"{name}={value!r}" for name, value in here.items() if there[name] != value]
    if lost:
        raise CheckpointError(
            f"a {kind} checkpoint cannot hold {', '.join(lost)}; save the state_dict instead"
        )
    for name in sorted(state.keys() - {entry.ours for entry in entries}):
        raise CheckpointError(f"a {kind} checkpoint cannot hold {name}; save without adapters or four bits")
    return settings, weights


def read_settings(family: Family, given: Settings, names: Iterable[str]) -> Any:
    """The configuration; CheckpointError where a setting is missing or unknown."""
    try:
        return family.read(given, names)
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"config.json lacks, or has an unknown value for, {error}") from None


def refuse(name: str, value: object, usual: object) -> None:
    """Raise CheckpointError where a setting has another value than the one that is supported."""
    if value != usual:
        raise CheckpointError(f"config.json has {name}={value!r}, which is not supported; expected {usual!r}")


def tidy(family: Family, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights by the names that a model with a head has today."""
    named = {}
    bare = not any(name.startswith(family.prefix) for name in weights)
    for name, values in weights.items():
        if NO_WEIGHTS.search(name):
            continue
        name = re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name))
        named[family.prefix + name if bare and not name.startswith(family.heads) else name] = values
    return named


def _stacked(entry: Entry, parts: list[Tensor]) -> Tensor:
    try:
        whole = torch.cat(parts) if len(parts) > 1 else parts[0]
        return whole.T.contiguous() if entry.turned else whole
    except RuntimeError:
        shapes = ", ".join(str(tuple(part.shape)) for part in parts)
        raise CheckpointError(f"{', '.join(entry.published)} do not fit together: {shapes}") from None


def _parts(config: GPTConfig | BertConfig, entry: Entry, values: Tensor) -> list[Tensor]:
    if len(entry.published) == 1 or isinstance(config, BertConfig):
        return [values]
    heads = (config.num_heads, config.kv_heads, config.kv_heads)
    return list(values.split([count * config.head_width for count in heads]))


def linear(ours: str, *published: str, turned: bool = False) -> list[Entry]:
    """The entries of a layer with weight and bias."""
    weight = Entry(f"{ours}.weight", tuple(f"{name}.weight" for name in published), turned)
    return [weight, Entry(f"{ours}.bias", tuple(f"{name}.bias" for name in published))]


def blocks(count: int, entries: list[Entry]) -> list[Entry]:
    """The entries of every block, from those of block {i}."""
    return [
        Entry(
            entry.ours.replace("{i}", str(i)),
            tuple(name.replace("{i}", str(i)) for name in entry.published),
            entry.turned,
        )
        for i in range(count)
        for entry in entries
    ]


# --- GPT-2 ----------------------------------------------------------------------------------------------


def read_gpt2(given: Settings, names: Iterable[str]) -> GPTConfig:
    """GPT-2's settings as ours."""
    for name, usual in (
        ("scale_attn_weights", True),
        ("scale_attn_by_inverse_layer_idx", False),
        ("add_cross_attention", False),
    ):
        refuse(name, given.get(name, usual), usual)
    return GPTConfig(
        vocab_size=given["vocab_size"],
        context=given["n_positions"],
        d_model=given["n_embd"],
        num_layers=given["n_layer"],
        num_heads=given["n_head"],
        d_ff=given.get("n_inner"),
        activation=ACTIVATIONS[given.get("activation_function", "gelu_new")],  # type: ignore[arg-type]
        tie_weights=given.get("tie_word_embeddings", True),
        dropout=given.get("resid_pdrop", 0.1),
        eps=given.get("layer_norm_epsilon", 1e-5),
    )


def write_gpt2(config: GPTConfig) -> dict[str, Any]:
    """Our settings as GPT-2's."""
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": config.vocab_size,
        "n_positions": config.context,
        "n_embd": config.d_model,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_inner": config.d_ff,
        "activation_function": PUBLISHED_ACTIVATIONS.get(config.activation, config.activation),
        "tie_word_embeddings": config.tie_weights,
        "layer_norm_epsilon": config.eps,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
    }


def entries_of_gpt2(config: GPTConfig) -> list[Entry]:
    """GPT-2's names; its matrices are stored transposed."""
    there, ours = "transformer.h.{i}.", "blocks.{i}."
    block = [
        *linear(ours + "attention_norm", there + "ln_1"),
        *linear(ours + "attention.query_key_value", there + "attn.c_attn", turned=True),
        *linear(ours + "attention.output", there + "attn.c_proj", turned=True),
        *linear(ours + "feed_forward_norm", there + "ln_2"),
        *linear(ours + "feed_forward.up", there + "mlp.c_fc", turned=True),
        *linear(ours + "feed_forward.down", there + "mlp.c_proj", turned=True),
    ]
    return [
        Entry("tokens.weight", ("transformer.wte.weight",)),
        Entry("positions.weight", ("transformer.wpe.weight",)),
        *blocks(config.num_layers, block),
        *linear("final_norm", "transformer.ln_f"),
        Entry("head.weight", ("lm_head.weight",)),
    ]


# --- Llama ----------------------------------------------------------------------------------------------


def read_llama(given: Settings, names: Iterable[str]) -> GPTConfig:
    """Llama's settings as ours."""
    rotary: Settings = given.get("rope_parameters") or given.get("rope_scaling") or {}
    base = rotary.get("rope_theta") or given.get("rope_theta") or 10000.0
    refuse("rope_type", rotary.get("rope_type", rotary.get("type", "default")), "default")
    refuse("hidden_act", given.get("hidden_act", "silu"), "silu")
    refuse("mlp_bias", given.get("mlp_bias", False), given.get("attention_bias", False))
    return GPTConfig(
        vocab_size=given["vocab_size"],
        context=given["max_position_embeddings"],
        d_model=given["hidden_size"],
        num_layers=given["num_hidden_layers"],
        num_heads=given["num_attention_heads"],
        num_kv_heads=given.get("num_key_value_heads"),
        d_head=given.get("head_dim"),
        d_ff=given["intermediate_size"],
        rotary_base=base,
        **LLAMA
        | {
            "bias": given.get("attention_bias", False),
            "tie_weights": given.get("tie_word_embeddings", False),
            "eps": given["rms_norm_eps"],
        },
    )


def write_llama(config: GPTConfig) -> dict[str, Any]:
    """Our settings as Llama's."""
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "intermediate_size": config.d_ff or 4 * config.d_model,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rotary_base},
        "hidden_act": "silu",
        "attention_bias": config.bias,
        "mlp_bias": config.bias,
        "tie_word_embeddings": config.tie_weights,
        "rms_norm_eps": config.eps,
    }


def entries_of_llama(config: GPTConfig) -> list[Entry]:
    """Llama's names; queries, keys and values are three matrices there."""
    there, ours = "model.layers.{i}.", "blocks.{i}."
    three = (there + "self_attn.q_proj", there + "self_attn.k_proj", there + "self_attn.v_proj")
    block = [
        Entry(ours + "attention_norm.weight", (there + "input_layernorm.weight",)),
        *linear(ours + "attention.query_key_value", *three),
        *linear(ours + "attention.output", there + "self_attn.o_proj"),
        Entry(ours + "feed_forward_norm.weight", (there + "post_attention_layernorm.weight",)),
        *linear(ours + "feed_forward.gate", there + "mlp.gate_proj"),
        *linear(ours + "feed_forward.up", there + "mlp.up_proj"),
        *linear(ours + "feed_forward.down", there + "mlp.down_proj"),
    ]
    return [
        Entry("tokens.weight", ("model.embed_tokens.weight",)),
        *blocks(config.num_layers, block),
        Entry("final_norm.weight", ("model.norm.weight",)),
        Entry("head.weight", ("lm_head.weight",)),
    ]


# --- BERT and RoBERTa -----------------------------------------------------------------------------------


def read_bert(given: Settings, names: Iterable[str]) -> BertConfig:
    """The settings of BERT, and of RoBERTa, as ours; which heads there are is seen by the weights."""
    refuse("position_embedding_type", given.get("position_embedding_type", "absolute"), "absolute")
    refuse("is_decoder", given.get("is_decoder", False), False)
    roberta, names = given["model_type"] == "roberta", list(names)
    pad_id = given.get("pad_token_id", 0)
    return BertConfig(
        vocab_size=given["vocab_size"],
        d_model=given["hidden_size"],
        num_layers=given["num_hidden_layers"],
        num_heads=given["num_attention_heads"],
        d_ff=given["intermediate_size"],
        max_length=given["max_position_embeddings"] - (pad_id + 1 if roberta else 0),
        num_segments=given.get("type_vocab_size", 2),
        activation=ACTIVATIONS[given.get("hidden_act", "gelu")],  # type: ignore[arg-type]
        dropout=given.get("hidden_dropout_prob", 0.1),
        eps=given.get("layer_norm_eps", 1e-12),
        pad_id=pad_id,
        skip_padding=roberta,
        pooler=any(".pooler." in name for name in names),
        mlm_head=any(name.startswith(("cls.predictions", "lm_head")) for name in names),
        nsp_head=any(name.startswith("cls.seq_relationship") for name in names),
    )


def write_bert(config: BertConfig) -> dict[str, Any]:
    """Our settings as BERT's or RoBERTa's."""
    kind, name = ("roberta", "Roberta") if config.skip_padding else ("bert", "Bert")
    head = "ForPreTraining" if config.nsp_head else "ForMaskedLM" if config.mlm_head else "Model"
    return {
        "model_type": kind,
        "architectures": [name + head],
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.d_ff,
        "max_position_embeddings": config.num_positions,
        "type_vocab_size": config.num_segments,
        "hidden_act": PUBLISHED_ACTIVATIONS.get(config.activation, config.activation),
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.dropout,
        "layer_norm_eps": config.eps,
        "pad_token_id": config.pad_id,
    }


def entries_of_bert(config: BertConfig) -> list[Entry]:
    """The names of BERT, or of RoBERTa, which differ in their heads."""
    prefix = "roberta." if config.skip_padding else "bert."
    there, ours = prefix + "encoder.layer.{i}.", "encoder.blocks.{i}."
    block = [
        *linear(ours + "attention.query", there + "attention.self.query"),
        *linear(ours + "attention.key", there + "attention.self.key"),
        *linear(ours + "attention.value", there + "attention.self.value"),
        *linear(ours + "attention.output", there + "attention.output.dense"),
        *linear(ours + "attention_norm", there + "attention.output.LayerNorm"),
        *linear(ours + "feed_forward.up", there + "intermediate.dense"),
        *linear(ours + "feed_forward.down", there + "output.dense"),
        *linear(ours + "feed_forward_norm", there + "output.LayerNorm"),
    ]
    inputs = prefix + "embeddings."
    head, dense, norm = ("cls.predictions", "transform.dense", "transform.LayerNorm")
    if config.skip_padding:
        head, dense, norm = ("lm_head", "dense", "layer_norm")
    return [
        Entry("embedding.tokens.weight", (inputs + "word_embeddings.weight",)),
        Entry("embedding.segments.weight", (inputs + "token_type_embeddings.weight",)),
        Entry("embedding.positions.weight", (inputs + "position_embeddings.weight",)),
        *linear("embedding.norm", inputs + "LayerNorm"),
        *blocks(config.num_layers, block),
        *linear("pooler", prefix + "pooler.dense"),
        *linear("mlm_head.dense", f"{head}.{dense}"),
        *linear("mlm_head.norm", f"{head}.{norm}"),
        Entry("mlm_head.bias", (f"{head}.bias",)),
        *([] if config.skip_padding else linear("nsp_head", "cls.seq_relationship")),
    ]


# --- DistilBERT -----------------------------------------------------------------------------------------


def read_distilbert(given: Settings, names: Iterable[str]) -> BertConfig:
    """DistilBERT's settings as ours."""
    options = DISTILBERT | {"num_layers": given["n_layers"]}
    return BertConfig(
        vocab_size=given["vocab_size"],
        d_model=given["dim"],
        num_heads=given["n_heads"],
        d_ff=given["hidden_dim"],
        max_length=given["max_position_embeddings"],
        activation=ACTIVATIONS[given.get("activation", "gelu")],  # type: ignore[arg-type]
        dropout=given.get("dropout", 0.1),
        pad_id=given.get("pad_token_id", 0),
        mlm_head=any(name.startswith("vocab_transform") for name in names),
        **options,
    )


def write_distilbert(config: BertConfig) -> dict[str, Any]:
    """Our settings as DistilBERT's."""
    return {
        "model_type": "distilbert",
        "architectures": ["DistilBertForMaskedLM" if config.mlm_head else "DistilBertModel"],
        "vocab_size": config.vocab_size,
        "dim": config.d_model,
        "n_layers": config.num_layers,
        "n_heads": config.num_heads,
        "hidden_dim": config.d_ff,
        "max_position_embeddings": config.max_length,
        "activation": PUBLISHED_ACTIVATIONS.get(config.activation, config.activation),
        "dropout": config.dropout,
        "attention_dropout": config.dropout,
        "pad_token_id": config.pad_id,
    }


def entries_of_distilbert(config: BertConfig) -> list[Entry]:
    """DistilBERT's names."""
    there, ours = "distilbert.transformer.layer.{i}.", "encoder.blocks.{i}."
    block = [
        *linear(ours + "attention.query", there + "attention.q_lin"),
        *linear(ours + "attention.key", there + "attention.k_lin"),
        *linear(ours + "attention.value", there + "attention.v_lin"),
        *linear(ours + "attention.output", there + "attention.out_lin"),
        *linear(ours + "attention_norm", there + "sa_layer_norm"),
        *linear(ours + "feed_forward.up", there + "ffn.lin1"),
        *linear(ours + "feed_forward.down", there + "ffn.lin2"),
        *linear(ours + "feed_forward_norm", there + "output_layer_norm"),
    ]
    return [
        Entry("embedding.tokens.weight", ("distilbert.embeddings.word_embeddings.weight",)),
        Entry("embedding.positions.weight", ("distilbert.embeddings.position_embeddings.weight",)),
        *linear("embedding.norm", "distilbert.embeddings.LayerNorm"),
        *blocks(config.num_layers, block),
        *linear("mlm_head.dense", "vocab_transform"),
        *linear("mlm_head.norm", "vocab_layer_norm"),
        Entry("mlm_head.bias", ("vocab_projector.bias",)),
    ]


# --- which is which -------------------------------------------------------------------------------------


FAMILIES = {
    "gpt2": Family(GPT, "transformer.", ("lm_head",), ("lm_head.",), read_gpt2, write_gpt2, entries_of_gpt2),
    "llama": Family(GPT, "model.", ("lm_head",), ("lm_head.",), read_llama, write_llama, entries_of_llama),
    "bert": Family(
        BERT, "bert.", ("cls.",), ("cls.predictions.decoder.",), read_bert, write_bert, entries_of_bert
    ),
    "roberta": Family(
        BERT, "roberta.", ("lm_head",), ("lm_head.decoder.",), read_bert, write_bert, entries_of_bert
    ),
    "distilbert": Family(
        BERT,
        "distilbert.",
        ("vocab_",),
        ("vocab_projector.weight",),
        read_distilbert,
        write_distilbert,
        entries_of_distilbert,
    ),
}


def kind_of(config: GPTConfig | BertConfig) -> str:
    """The model_type that a model of this configuration is nearest to."""
    if isinstance(config, GPTConfig):
        return "gpt2" if config.positions == "learned" else "llama"
    if config.skip_padding:
        return "roberta"
    return "bert" if config.num_segments else "distilbert"


def comparable(config: GPTConfig | BertConfig) -> dict[str, Any]:
    """The settings that a trained model depends on, those left to their defaults filled in."""
    if isinstance(config, BertConfig):
        return asdict(config)
    filled = {"num_kv_heads": config.kv_heads, "d_head": config.head_width, "zero_init": None}
    return asdict(config) | filled | {"d_ff": config.d_ff or 4 * config.d_model}
