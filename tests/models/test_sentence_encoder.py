"""The sentence encoder. Oracles: `transformers.BertModel`, the Rust `tokenizers`, stored outputs."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from course_lib.models import sentence_encoder
from course_lib.models.checkpoint_files import CheckpointError
from course_lib.models.sentence_encoder import SentenceEncoder, minilm_folder
from course_lib.recipes.contextual_words import load_measured, measure

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "bank", "lent", "##er", "money", "river", "."]
TEXTS = ["The bank lent money.", "river", "the lenter the river the bank . . ."]

installed = pytest.mark.skipif(minilm_folder() is None, reason="the extra `minilm` is not installed")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder with a random BERT of three layers, and the same model in transformers."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=40,
        max_position_embeddings=12,
        layer_norm_eps=1e-5,
    )
    torch.manual_seed(0)
    model = transformers.BertModel(config).eval()
    with torch.no_grad():
        for (
            parameter
        ) in model.parameters():  # biases and norms away from 0 and 1, so that each of them counts
            parameter.add_(0.3 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "config.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
    return folder, model


def test_every_layer_equals_transformers_on_a_padded_batch(tiny: tuple[Path, Any]) -> None:
    folder, model = tiny
    encoder = SentenceEncoder(folder)
    states, mask = encoder.hidden_states(TEXTS)
    ids = torch.zeros(mask.shape, dtype=torch.int64)
    for row, text in enumerate(TEXTS):
        tokens = encoder.tokens(text)
        ids[row, : len(tokens)] = torch.tensor([WORDS.index(token) for token in tokens])
    with torch.no_grad():
        theirs = model(ids, attention_mask=mask.long(), output_hidden_states=True).hidden_states
    assert len(states) == len(theirs) == 4
    for ours, other in zip(states, theirs, strict=True):
        torch.testing.assert_close(ours[mask], other[mask], atol=1e-5, rtol=1e-5)


def test_padding_changes_no_sentence(tiny: tuple[Path, Any]) -> None:
    encoder = SentenceEncoder(tiny[0])
    together = encoder.encode(TEXTS)
    alone = torch.cat([encoder.encode([text]) for text in TEXTS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(3))


def test_a_sentence_vector_is_the_mean_over_its_tokens(tiny: tuple[Path, Any]) -> None:
    encoder = SentenceEncoder(tiny[0])
    states, mask = encoder.hidden_states(TEXTS)
    for row, length in enumerate(mask.sum(dim=1).tolist()):
        mean = F.normalize(states[-1][row, :length].mean(dim=0), dim=0)
        torch.testing.assert_close(encoder.encode(TEXTS)[row], mean)


def test_text_is_cut_where_the_positions_end(tiny: tuple[Path, Any]) -> None:
    encoder = SentenceEncoder(tiny[0])
    assert encoder.tokens("The LENTER") == ["[CLS]", "the", "lent", "##er", "[SEP]"]
    long = encoder.tokens("the " * 50)
    assert len(long) == 12 and long[-1] == "[SEP]"
    assert encoder.encode(["the " * 50]).isfinite().all()


def test_a_checkpoint_that_lacks_a_weight_is_refused(tiny: tuple[Path, Any], tmp_path: Path) -> None:
    for name in ("config.json", "vocab.txt"):
        (tmp_path / name).write_bytes((tiny[0] / name).read_bytes())
    weights = load_file(tiny[0] / "model.safetensors")
    del weights["encoder.layer.1.output.LayerNorm.bias"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks bert\.encoder\.layer\.1\.output\.LayerNorm\.bias"):
        SentenceEncoder(tmp_path)


def test_without_the_package_there_is_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(sentence_encoder.metadata, "files", missing)
    assert minilm_folder() is None


def test_what_is_stored_holds_together() -> None:
    stored = load_measured()
    layers = torch.tensor(stored["layers"])
    assert layers.shape == (7, 12, 12)
    torch.testing.assert_close(layers, layers.transpose(1, 2))
    torch.testing.assert_close(layers.diagonal(dim1=1, dim2=2), torch.ones(7, 12))
    assert stored["made_by"]["package"] == sentence_encoder.PACKAGE
    assert all(len(found) == 12 for found in stored["search"].values())


@pytest.fixture(scope="module")
def minilm() -> SentenceEncoder:
    folder = minilm_folder()
    assert folder is not None
    return SentenceEncoder(folder)


@installed
def test_the_real_model_gives_what_is_stored(minilm: SentenceEncoder) -> None:
    stored, found = load_measured(), measure(minilm)
    torch.testing.assert_close(
        torch.tensor(found["layers"]), torch.tensor(stored["layers"]), atol=1e-3, rtol=0
    )
    for query, cosines in stored["search"].items():
        assert found["search"][query] == pytest.approx(cosines, abs=1e-3)
    for word, near in stored["neighbours"].items():
        assert [name for name, _ in found["neighbours"][word]] == [name for name, _ in near]
    assert found["stories"]["layers"] == pytest.approx(stored["stories"]["layers"], abs=0.021)


@installed
def test_the_real_model_equals_transformers(minilm: SentenceEncoder) -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.BertModel.from_pretrained(minilm_folder(), local_files_only=True).eval()
    states, mask = minilm.hidden_states(TEXTS)
    ids = torch.zeros(mask.shape, dtype=torch.int64)
    for row, text in enumerate(TEXTS):
        tokens = minilm.tokens(text)
        ids[row, : len(tokens)] = torch.tensor([minilm.tokenizer.vocab[token] for token in tokens])
    with torch.no_grad():
        theirs = model(ids, attention_mask=mask.long()).last_hidden_state
    torch.testing.assert_close(states[-1][mask], theirs[mask], atol=1e-5, rtol=1e-5)


@installed
def test_our_tokens_are_those_of_the_published_tokenizer(minilm: SentenceEncoder) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    published = tokenizers.Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))  # type: ignore[operator]
    published.no_padding()
    for text in (*TEXTS, "Café naïve — 银行, don't 3.14!", "antidisestablishmentarianism " * 3):
        assert minilm.tokens(text) == published.encode(text).tokens
