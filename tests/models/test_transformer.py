"""The Transformer of 2017.

Oracles: `nn.Transformer` with the weights loaded; `transformers`' Marian with a tiny random configuration;
the model itself, run step by step with a cache.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from course_lib.layers.masks import causal_mask
from course_lib.models.marian import CheckpointError
from course_lib.models.transformer import Transformer, TransformerConfig

B, S, T, D, VOCAB = 3, 7, 5, 16, 20
CLOSE: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-5}
SMALL: dict[str, Any] = {
    "d_model": D,
    "num_heads": 4,
    "num_encoder_layers": 2,
    "num_decoder_layers": 3,
    "d_ff": 24,
    "dropout": 0.0,
    "max_length": 32,
}
each_norm_first = pytest.mark.parametrize("norm_first", [False, True], ids=["post", "pre"])
each_order = pytest.mark.parametrize("order", ["post", "pre", "residual_dual"])


def shaken(module: Any) -> Any:
    """The module with all that is trained drawn anew, so that norms and biases matter."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in filter(lambda one: one.requires_grad, module.parameters()):
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator) + (parameter.dim() == 1))
    return module


def ids(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(3, VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def padded(lengths: tuple[int, ...], width: int, seed: int = 0) -> Tensor:
    """Random tokens, with padding (0) from each row's length on."""
    found = ids(len(lengths), width, seed=seed)
    return found.masked_fill(torch.arange(width) >= torch.tensor(lengths)[:, None], 0)


def small(**options: Any) -> Transformer:
    torch.manual_seed(4)
    return shaken(Transformer(TransformerConfig(VOCAB, **SMALL | options))).eval()


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# --- against torch --------------------------------------------------------------------------------------


def torchs(norm_first: bool, final_norms: bool = True) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # nested tensors are not used
        theirs = nn.Transformer(D, 4, 2, 3, 24, 0.0, batch_first=True, norm_first=norm_first)
    if not final_norms:
        theirs.encoder.norm = theirs.decoder.norm = None
    return shaken(theirs)


@each_norm_first
@pytest.mark.parametrize("final_norms", [True, False], ids=["torch's final norms", "none"])
@pytest.mark.parametrize("left", [False, True], ids=["padding behind", "padding before"])
def test_logits_and_gradients_equal_those_of_torch_with_all_masks(
    norm_first: bool, final_norms: bool, left: bool
) -> None:
    theirs = torchs(norm_first, final_norms).double()
    torch.manual_seed(1)
    ours = Transformer.from_torch(theirs, VOCAB)
    source, target = padded((7, 4, 2), S), padded((5, 3, 2), T, seed=1)
    if left:
        source, target = source.flip(1), target.flip(1)
    words = ours.target_embedding
    expected = ours.project(
        theirs(
            words(source),
            words(target),
            tgt_mask=~causal_mask(T),
            src_key_padding_mask=source == 0,
            memory_key_padding_mask=source == 0,
            tgt_key_padding_mask=target == 0,
        )
    )
    found = ours(source, target, source != 0, target != 0).logits
    real = target != 0  # torch gives NaN to a query that sees no key
    torch.testing.assert_close(found[real], expected[real], **CLOSE)
    by_default = ours(source, target).logits
    if not left:
        torch.testing.assert_close(by_default[real], expected[real], **CLOSE)
    weight = words.tokens.weight
    one, other = (torch.autograd.grad(output[real].square().sum(), weight)[0] for output in (found, expected))
    torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


def test_from_torch_copies_and_keeps_mode_and_dropout() -> None:
    theirs = torchs(True).eval()
    theirs.encoder.layers[0].dropout1.p = 0.3
    ours = Transformer.from_torch(theirs, VOCAB, 9)
    assert not ours.training and ours.config.order == "pre" and ours.config.dropout == 0.3
    before = theirs.decoder.layers[0].linear1.weight.clone()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.zero_()
    torch.testing.assert_close(theirs.decoder.layers[0].linear1.weight, before)


# --- against Marian -------------------------------------------------------------------------------------


def marian(folder: Path, **options: Any) -> Any:
    """A tiny random Marian, written to the folder."""
    transformers = pytest.importorskip("transformers")
    config = transformers.MarianConfig(
        **{
            "vocab_size": VOCAB,
            "decoder_vocab_size": VOCAB,
            "d_model": D,
            "encoder_layers": 2,
            "decoder_layers": 3,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 24,
            "decoder_ffn_dim": 24,
            "max_position_embeddings": 32,
            "pad_token_id": VOCAB - 1,
            "decoder_start_token_id": VOCAB - 1,
            "eos_token_id": 0,
        }
        | options
    )
    theirs = shaken(transformers.MarianMTModel(config)).eval()
    with torch.no_grad():
        theirs.final_logits_bias.copy_(torch.randn(theirs.final_logits_bias.shape))
    theirs.save_pretrained(folder)
    return theirs


@pytest.mark.parametrize("activation", ["swish", "relu", "gelu"])
@pytest.mark.parametrize("scale", [True, False], ids=["scaled", "unscaled"])
def test_a_marian_checkpoint_loads_and_gives_the_same_logits(
    activation: str, scale: bool, tmp_path: Path
) -> None:
    theirs = marian(tmp_path, activation_function=activation, scale_embedding=scale)
    ours = Transformer.from_pretrained(tmp_path)
    pad = ours.config.pad_id
    source = padded((7, 4, 2), S).masked_fill(padded((7, 4, 2), S) == 0, pad)
    target = ids(B, T, seed=1)
    target[:, 0] = ours.config.begin_id
    expected = theirs(source, attention_mask=source != pad, decoder_input_ids=target).logits
    torch.testing.assert_close(ours(source, target).logits, expected, atol=1e-4, rtol=1e-4)
    assert not ours.training


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_marians_of_every_tying_load(shared: bool, tied: bool, tmp_path: Path) -> None:
    target_vocab = VOCAB if shared else VOCAB + 4
    theirs = marian(
        tmp_path,
        decoder_vocab_size=target_vocab,
        share_encoder_decoder_embeddings=shared,
        tie_word_embeddings=tied,
    )
    ours = Transformer.from_pretrained(tmp_path)
    source, target = ids(B, S), ids(B, T, seed=1)
    mask = source != ours.config.pad_id
    expected = theirs(source, attention_mask=mask, decoder_input_ids=target).logits
    torch.testing.assert_close(ours(source, target).logits, expected, atol=1e-4, rtol=1e-4)


def test_what_is_no_checkpoint_is_refused_in_one_sentence(tmp_path: Path) -> None:
    config, weights = tmp_path / "config.json", tmp_path / "model.safetensors"

    def refused(match: str) -> None:
        with pytest.raises(CheckpointError, match=match) as caught:
            Transformer.from_pretrained(tmp_path)
        assert "\n" not in str(caught.value)

    refused("no config.json")
    marian(tmp_path)
    settings_of, tensors = json.loads(config.read_text()), weights.read_bytes()
    for broken in (tensors[:100], tensors[: len(tensors) // 2], b"", b"\xff" * 64):
        weights.write_bytes(broken)
        refused("damaged or incomplete")
    weights.unlink()
    refused("no model.safetensors; give the folder")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")
    refused("is a pickle")
    weights.write_bytes(tensors)
    for change, match in (
        ({"model_type": "bert"}, "type 'bert'; expected 'marian'"),
        ({"activation_function": "sine"}, "unknown value for, 'sine'"),
        ({"d_model": 8}, r"has shape .*, but by config.json it is"),
        ({"decoder_layers": 4}, "lacks decoder.blocks.3"),
        ({"decoder_layers": 2}, "which config.json leaves no room for"),
        ({"encoder_attention_heads": 5, "decoder_attention_heads": 5}, "no model that can be built"),
        ({"d_model": "wide"}, "no model that can be built"),
        ({"encoder_attention_heads": 2}, "different numbers of heads"),
    ):
        config.write_text(json.dumps(settings_of | change))
        refused(match)
    config.write_text(json.dumps({name: value for name, value in settings_of.items() if name != "d_model"}))
    refused("lacks, or has an unknown value for, 'd_model'")
    config.write_bytes(b'{"model_type": "mar')
    refused("cannot be read as JSON")


# --- step by step ---------------------------------------------------------------------------------------


@each_order
@pytest.mark.parametrize("steps", [(1,) * T, (2, 1, 2), (T,)], ids=str)
def test_step_by_step_with_a_cache_equals_all_at_once(order: str, steps: tuple[int, ...]) -> None:
    model = small(order=order, positions="learned" if order == "pre" else "sinusoidal")
    source, target = padded((7, 4, 2), S), padded((5, 3, 2), T, seed=1)
    expected = model(source, target).logits
    mask = model.real_tokens(source)
    memory, cache, found = model.encode(source), model.new_cache(), []
    for part in target.split(steps, dim=1):
        found.append(model.decode(part, memory, mask, cache=cache).logits)
    torch.testing.assert_close(torch.cat(found, dim=1), expected, **CLOSE)
    assert cache.length == T


def test_a_padding_mask_of_the_target_goes_with_the_cache() -> None:
    model = small()
    source, target = ids(B, S), padded((5, 3, 2), T, seed=1).flip(1)
    mask = target != 0
    expected = model(source, target, None, mask).logits
    memory, cache = model.encode(source), model.new_cache()
    first = model.decode(target[:, :3], memory, None, mask[:, :3], cache=cache).logits
    then = model.decode(target[:, 3:], memory, None, mask, cache=cache).logits
    torch.testing.assert_close(torch.cat([first, then], dim=1), expected, **CLOSE)


@pytest.mark.parametrize("context", [True, False])
def test_beams_are_reordered(context: bool) -> None:
    """After a reordering every row goes on as if it had been decoded from the start."""
    model = small()
    source = ids(2, S).repeat_interleave(2, dim=0)  # two sentences, two beams each
    target = ids(4, T, seed=1)
    index = torch.tensor([1, 1, 3, 2] if not context else [3, 0, 0, 2])
    memory, cache = model.encode(source), model.new_cache()
    model.decode(target[:, :3], memory, None, cache=cache)
    cache.reorder(index, context=context)
    found = model.decode(target[:, 3:], memory, None, cache=cache).logits
    whole = torch.cat([target[index, :3], target[:, 3:]], dim=1)
    expected = model(source[index] if context else source, whole).logits[:, 3:]
    torch.testing.assert_close(found, expected, **CLOSE)


# --- what each part is for ------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.data())
def test_no_position_sees_those_behind_it_and_none_sees_padding(s: int, t: int, data: Any) -> None:
    model = small()
    source, target = ids(1, s), ids(1, t, seed=1)
    plain = model(source, target).logits
    longer = torch.cat([source, torch.zeros(1, 3, dtype=torch.long)], dim=1)
    torch.testing.assert_close(model(longer, target).logits, plain, **CLOSE)
    place = data.draw(st.integers(0, t - 1))
    changed = target.clone()
    changed[0, place] = 3 + (changed[0, place] - 2) % (VOCAB - 3)
    after = model(source, changed).logits
    torch.testing.assert_close(after[:, :place], plain[:, :place], **CLOSE)
    assert not torch.allclose(after[:, place], plain[:, place], atol=1e-4)


def test_the_weights_are_returned_and_change_nothing() -> None:
    model = small()
    source, target = padded((7, 4, 2), S), ids(B, T, seed=1)
    shown = model(source, target, return_weights=True)
    torch.testing.assert_close(shown.logits, model(source, target).logits, **CLOSE)
    assert len(shown.blocks) == 3 and shown.memory.shape == (B, S, D)
    for block in shown.blocks:
        assert block.weights is not None and block.cross_weights is not None
        assert block.weights.shape == (B, 4, T, T) and (block.weights.triu(1) == 0).all()
        assert block.cross_weights.shape == (B, 4, T, S) and (block.cross_weights[1, ..., 4:] == 0).all()
    assert model(source, target).blocks[0].weights is None


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("positions", ["sinusoidal", "sinusoidal_halves", "learned"])
def test_embeddings_by_the_papers_formula(scale: bool, positions: Any) -> None:
    embedding = small(positions=positions, scale_embeddings=scale).target_embedding
    given_ids = ids(B, T)
    rows = embedding.tokens.weight[given_ids] * (4.0 if scale else 1.0)
    if positions == "learned":
        expected = rows + embedding.positions[2 : 2 + T]
    else:
        angles = torch.arange(2, 2 + T)[:, None] / 10000 ** (torch.arange(0, D, 2) / D)
        table = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
        if positions == "sinusoidal_halves":
            table = torch.cat([angles.sin(), angles.cos()], dim=1)
        expected = rows + table
    torch.testing.assert_close(embedding(given_ids, 2), expected, **CLOSE)


def test_the_base_model_has_63_million_parameters_with_37000_tokens() -> None:
    d, d_ff, layers, vocab = 512, 2048, 6, 37000
    attention, feed_forward, norm = 4 * (d * d + d), 2 * d * d_ff + d_ff + d, 2 * d
    encoder = layers * (attention + feed_forward + 2 * norm)
    decoder = layers * (2 * attention + feed_forward + 3 * norm)
    assert encoder + decoder + vocab * d == 63_082_496
    with torch.device("meta"):
        assert parameters(Transformer(TransformerConfig(vocab))) == 63_082_496
        both = Transformer(TransformerConfig(vocab, vocab))
        untied = Transformer(TransformerConfig(vocab, vocab, tie_weights=False))
    assert parameters(both) == encoder + decoder + 2 * vocab * d
    assert parameters(untied) == encoder + decoder + 3 * vocab * d


def test_tied_weights_are_one_tensor_and_stand_in_the_state_once() -> None:
    model = small()
    target = torch.full((1, 1), 1)
    memory = model.encode(ids(1, S))
    hidden = model.decoder(model.target_embedding(target), memory).hidden_states
    expected = hidden @ model.target_embedding.tokens.weight.T
    torch.testing.assert_close(model.decode(target, memory, None).logits, expected, **CLOSE)
    pointers = [values.data_ptr() for values in model.state_dict().values()]
    assert len(set(pointers)) == len(pointers)
    assert not any("positions" in name for name in model.state_dict())


def test_new_weights_give_embeddings_of_size_one_and_even_guesses() -> None:
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(200, **SMALL | {"d_model": 64}))
    words = model.target_embedding.tokens.weight * 8
    assert abs(words.std().item() - 1) < 0.05
    logits = model(ids(2, S), ids(2, T)).logits
    assert logits.std() < 2


def test_a_few_steps_of_training_learn_to_copy() -> None:
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(8, **SMALL | {"d_model": 32, "num_encoder_layers": 1}))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    words = torch.randint(3, 8, (64, 4), generator=torch.Generator().manual_seed(2))
    begins = torch.cat([torch.ones(64, 1, dtype=torch.long), words[:, :-1]], dim=1)
    for _ in range(120):
        loss = nn.functional.cross_entropy(model(words, begins).logits.flatten(0, 1), words.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1


def test_mistakes_are_named() -> None:
    model = small()
    with pytest.raises(ValueError, match="33 tokens are more than max_length=32"):
        model(ids(1, 33), ids(1, 2))
    with pytest.raises(ValueError, match=r"expected axes \(batch, tokens\)"):
        model.encode(ids(5))
    with pytest.raises(ValueError, match=r"expected torch.bool and \(3, 7\)"):
        model.encode(ids(B, S), torch.ones(B, 1, 1, S, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"dtype torch\.float32 and shape"):
        model(ids(B, S), ids(B, T), torch.ones(B, S))
    with pytest.raises(ValueError, match="positions='rotary'; expected one of sinusoidal"):
        TransformerConfig(VOCAB, positions="rotary")  # type: ignore[arg-type]
    memory, cache = model.encode(ids(B, S)), model.new_cache()
    model.decode(ids(B, 1), memory, None, cache=cache)
    with pytest.raises(ValueError, match="holds 7 positions of a context, but this one has 6"):
        model.decode(ids(B, 1), memory[:, :6], None, cache=cache)
    with pytest.raises(ValueError, match="the cache holds 3 sequences, but 2 were given"):
        model.decode(ids(2, 1), memory[:2], None, cache=cache)
