"""The chapters: their order, what each builds, and which of them are open."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path


@dataclass(frozen=True)
class Chapter:
    """One row of the chapter map.

    name: "06_attention", as the files are called. title: as a person reads it.
    builds: the library modules that this chapter builds; an exercise may use those of
    earlier chapters and its own, never a later one's.
    """

    name: str
    title: str
    summary: str
    builds: tuple[str, ...] = ()
    open: bool = False

    @cached_property
    def number(self) -> int:
        """6 for "06_attention"."""
        return int(self.name[:2])

    @cached_property
    def topic(self) -> str:
        """ "attention" for "06_attention": the first half of its exercise ids."""
        return self.name[3:]


CHAPTERS: tuple[Chapter, ...] = (
    Chapter(
        "00_welcome",
        "Welcome",
        "how the course works; vectors, matrices, tensors, broadcasting, shapes",
        builds=("course_lib.shapes",),
        open=True,
    ),
    Chapter(
        "01_before_transformers",
        "Before Transformers",
        "alignment, n-grams, MLP, CNN, RNN, LSTM, GRU",
        builds=(
            "course_lib.models.alignment",
            "course_lib.models.ngram",
            "course_lib.models.window",
            "course_lib.models.recurrent",
        ),
        open=True,
    ),
    Chapter(
        "02_seq2seq_attention",
        "Sequence to sequence",
        "the bottleneck; Bahdanau and Luong attention",
        builds=("course_lib.models.seq2seq",),
        open=True,
    ),
    Chapter(
        "03_tokenizers",
        "Tokenizers",
        "word, character, byte-level BPE, WordPiece, Unigram",
        builds=("course_lib.tokenizers",),
        open=True,
    ),
    Chapter(
        "04_embeddings",
        "Embeddings",
        "lookup as a product, word2vec, static against contextual",
        builds=("course_lib.models.word2vec", "course_lib.models.sentence_encoder"),
        open=True,
    ),
    Chapter(
        "05_positional_encoding",
        "Positional encoding",
        "sinusoidal, learned, relative, RoPE, ALiBi",
        builds=("course_lib.layers.positions", "course_lib.layers.rotary", "course_lib.layers.relative"),
        open=True,
    ),
    Chapter(
        "06_attention",
        "Attention",
        "query, key and value; the six steps; the scale; masks; self and cross",
        builds=("course_lib.layers.attention", "course_lib.layers.masks", "course_lib.layers.chunked"),
        open=True,
    ),
    Chapter(
        "07_multi_head_attention",
        "Multi-head attention",
        "split, attend, merge, project; MQA and GQA",
        builds=("course_lib.layers.multi_head",),
        open=True,
    ),
    Chapter(
        "08_residual_norm_ffn",
        "Residuals, norms, feed-forward",
        "the block, and why it trains",
        builds=("course_lib.layers.norms", "course_lib.layers.feed_forward", "course_lib.layers.block"),
        open=True,
    ),
    Chapter(
        "09_encoder_decoder",
        "Encoder and decoder",
        "the whole Transformer of 2017",
        builds=("course_lib.models.transformer", "course_lib.models.marian", "course_lib.layers.cache"),
        open=True,
    ),
    Chapter(
        "10_translation",
        "Translation",
        "schedules, label smoothing, beam search, BLEU",
        builds=("course_lib.training", "course_lib.generation", "course_lib.data.parallel"),
        open=True,
    ),
    Chapter(
        "11_bert",
        "BERT",
        "masked language modelling and its descendants",
        builds=("course_lib.models.bert", "course_lib.data.masking"),
        open=True,
    ),
    Chapter("12_using_bert", "Using BERT", "classification, entities, question answering, distillation"),
    Chapter(
        "13_gpt",
        "GPT",
        "decoder-only pretraining on real text",
        builds=("course_lib.models.gpt",),
        open=True,
    ),
    Chapter("14_generation", "Generation", "sampling, KV cache, speculative decoding"),
    Chapter("15_t5_bart", "T5 and BART", "span corruption and denoising"),
    Chapter("16_fine_tuning", "Fine-tuning", "full fine-tuning, instructions, preferences"),
    Chapter(
        "17_lora",
        "LoRA",
        "low-rank adaptation and QLoRA",
        builds=("course_lib.peft.lora", "course_lib.peft.adapter_files", "course_lib.peft.quantize"),
        open=True,
    ),
    Chapter("18_peft_zoo", "The PEFT zoo", "adapters, BitFit, prefix and prompt tuning"),
    Chapter("19_flash_attention", "FlashAttention", "online softmax and tiling, from NumPy to Triton"),
    Chapter("20_long_context", "Long context", "Transformer-XL, Longformer, position interpolation"),
    Chapter("21_vision_multimodal", "Vision and more", "ViT, MAE, a small CLIP"),
    Chapter("22_training_at_scale", "Training at scale", "precision, compile, DDP and FSDP, scaling laws"),
    Chapter("23_applications", "Applications", "embeddings, search, topics, RAG, prompting"),
    Chapter("24_capstone", "Capstone", "a language model of your own, on the parts you wrote"),
)

BY_NAME = {chapter.name: chapter for chapter in CHAPTERS}
BY_TOPIC = {chapter.topic: chapter for chapter in CHAPTERS}


def builder_of(module: str) -> Chapter | None:
    """The chapter that builds a library module, or None for the ground every chapter stands on."""
    for chapter in CHAPTERS:
        if any(module == built or module.startswith(built + ".") for built in chapter.builds):
            return chapter
    return None


class UnknownChapter(ValueError):
    """No chapter, or more than one, is meant by what was given; the message says which come near."""

    def _render_traceback_(self) -> list[str]:
        """One line in a notebook."""
        return [str(self)]


def find_chapter(given: str, names: Iterable[str]) -> str:
    """The name among `names` that "06", "6", "attention", "06_attention" or a path to one of its files means.

    Raises UnknownChapter with near names for an unknown one, and with all candidates for an ambiguous one.
    """
    names = list(names)
    wanted = Path(given.replace("\\", "/").rstrip("/")).name
    wanted = re.sub(r"\.(ipynb|md|py)$", "", wanted).lower().replace("-", "_")
    if wanted.isdigit():
        found = [name for name in names if name[:2].isdigit() and int(name[:2]) == int(wanted)]
    else:
        found = [name for name in names if wanted in (name, name[3:])]
        found = found or [name for name in names if wanted and wanted in name]
    if len(found) == 1:
        return found[0]
    if found:
        raise UnknownChapter(f"{given!r} could be {', '.join(found)}: give the whole name or the number.")
    topics = {name[3:]: name for name in names} | {name: name for name in names}
    close = difflib.get_close_matches(wanted, topics, n=3, cutoff=0.5)
    near = dict.fromkeys(topics[match] for match in close)
    few = f"There are {names[0]} to {names[-1]}." if names else "There is none yet."
    advice = f"Did you mean {' or '.join(near)}?" if near else few
    raise UnknownChapter(f"There is no chapter {given!r}. {advice}")
