"""Marian's translators as they are published: a folder with `config.json` and `model.safetensors`.

Marian (Junczys-Dowmunt et al. 2018) is the Transformer of 2017 with another layout of the sines and cosines,
a bias on the logits, and often another activation. Only numbers and names are read; nothing is unpickled.
Oracle: `transformers.MarianMTModel`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from course_lib.layers.feed_forward import Activation
from course_lib.models.checkpoint_files import (
    ACTIVATIONS,
    CheckpointError,
    check_fit,
    expected_shapes,
    read_config,
    read_weights,
)
from course_lib.models.transformer import Transformer, TransformerConfig

# How the checkpoints call the parameters of a block, and how they are called here.
RENAMED = (
    (r"^model\.(encoder|decoder)\.layers\.", r"\1.blocks."),
    (r"\.self_attn_layer_norm\.", ".attention_norm."),
    (r"\.encoder_attn_layer_norm\.", ".cross_norm."),
    (r"\.final_layer_norm\.", ".feed_forward_norm."),
    (r"\.self_attn\.", ".attention."),
    (r"\.encoder_attn\.", ".cross_attention."),
    (r"\.q_proj\.", ".query."),
    (r"\.k_proj\.", ".key."),
    (r"\.v_proj\.", ".value."),
    (r"\.out_proj\.", ".output."),
    (r"\.fc1\.", ".feed_forward.up."),
    (r"\.fc2\.", ".feed_forward.down."),
)


def read_marian(folder: Path) -> tuple[TransformerConfig, dict[str, Tensor]]:
    """The configuration and the weights, float32, by the names of `Transformer`.

    Raises CheckpointError where a file is missing or damaged, or is of another model.
    """
    config = translate_config(read_config(folder, "marian"))
    weights = rename(read_weights(folder), config)
    check_fit(expected_shapes(lambda: Transformer(config)), weights)
    return config, weights


def translate_config(given: dict[str, Any]) -> TransformerConfig:
    """Marian's settings as ours."""
    try:
        if given["encoder_attention_heads"] != given["decoder_attention_heads"]:
            raise CheckpointError(
                "encoder and decoder have different numbers of heads; this is not supported"
            )
        if given["encoder_ffn_dim"] != given["decoder_ffn_dim"]:
            raise CheckpointError("encoder and decoder differ in their inner width; this is not supported")
        tied = given.get("tie_word_embeddings", True)
        shared = tied and given.get("share_encoder_decoder_embeddings", True)
        return TransformerConfig(
            source_vocab=given["vocab_size"],
            target_vocab=None if shared else given.get("decoder_vocab_size") or given["vocab_size"],
            d_model=given["d_model"],
            num_heads=given["encoder_attention_heads"],
            num_encoder_layers=given["encoder_layers"],
            num_decoder_layers=given["decoder_layers"],
            d_ff=given["encoder_ffn_dim"],
            dropout=given.get("dropout", 0.1),
            order="post",
            activation=cast(Activation, ACTIVATIONS[given["activation_function"]]),
            positions="sinusoidal_halves",
            tie_weights=tied,
            max_length=given["max_position_embeddings"],
            scale_embeddings=given.get("scale_embedding", False),
            output_bias=True,
            pad_id=given["pad_token_id"],
            begin_id=given["decoder_start_token_id"],
            end_id=given["eos_token_id"],
        )
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"config.json lacks, or has an unknown value for, {error}") from None


def rename(weights: dict[str, Tensor], config: TransformerConfig) -> dict[str, Tensor]:
    """The same tensors under our names."""
    encoder, decoder, head = (
        f"{name}.weight" for name in ("model.encoder.embed_tokens", "model.decoder.embed_tokens", "lm_head")
    )
    # What is tied stands in the file once, under one of its names, or under each of them.
    sources = {"target_embedding.tokens.weight": (decoder, head), "output_bias": ("final_logits_bias",)}
    if config.target_vocab is None:
        sources["target_embedding.tokens.weight"] = ("model.shared.weight", decoder, encoder, head)
    else:
        sources["source_embedding.tokens.weight"] = (encoder,)
    if not config.tie_weights:
        sources["projection.weight"] = (head,)
    renamed = {
        ours: weights[next(name for name in names if name in weights)]
        for ours, names in sources.items()
        if any(name in weights for name in names)
    }
    if "output_bias" in renamed:
        renamed["output_bias"] = renamed["output_bias"].flatten()
    for name, values in weights.items():
        if ".layers." in name:
            for pattern, ours in RENAMED:
                name = re.sub(pattern, ours, name)
            renamed[name] = values
    return renamed
