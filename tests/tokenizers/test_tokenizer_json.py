"""Every tokenizer against the `tokenizers` library, which loads the same file; and what a bad file says."""

from __future__ import annotations

import errno
import json
import os
import random
import stat
from pathlib import Path

import pytest
import tokenizers

from course_lib.tokenizers import (
    BPETokenizer,
    Tokenizer,
    UnigramTokenizer,
    WordPieceTokenizer,
    load_tokenizer,
)


def oracle(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """The library's tokenizer for the same file."""
    return tokenizers.Tokenizer.from_str(tokenizer.to_json())


def first_difference(tokenizer: Tokenizer, texts: list[str]) -> tuple[str, list[int], list[int]] | None:
    """The first text that the two encode differently, with both lists of ids."""
    expected = [encoding.ids for encoding in oracle(tokenizer).encode_batch(texts)]
    for text, ids, reference in zip(texts, tokenizer.encode_batch(texts), expected, strict=True):
        if ids != reference:
            return text, ids, reference
    return None


def test_ids_are_identical_on_ten_thousand_odd_strings(tokenizer: Tokenizer, odd_strings: list[str]) -> None:
    assert len(odd_strings) == 10_000
    assert first_difference(tokenizer, odd_strings) is None


def test_ids_are_identical_with_special_tokens_in_the_text(
    tokenizer: Tokenizer, odd_strings: list[str]
) -> None:
    rng = random.Random(7)
    special = list(tokenizer.special_tokens)
    texts = [
        left + rng.choice(special) + right + rng.choice(["", special[0] * 2, special[0][:-1]])
        for left, right in zip(odd_strings[:1000], odd_strings[1000:2000], strict=True)
    ]
    assert first_difference(tokenizer, texts) is None


def test_ids_are_identical_on_real_text(tokenizer: Tokenizer, training_texts: list[str]) -> None:
    assert first_difference(tokenizer, training_texts) is None


def test_text_is_decoded_as_by_the_library(tokenizer: Tokenizer, odd_strings: list[str]) -> None:
    reference = oracle(tokenizer)
    for text in odd_strings[:3000]:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == reference.decode(ids, skip_special_tokens=False)
        assert tokenizer.decode(ids, skip_special=True) == reference.decode(ids, skip_special_tokens=True)


def test_the_library_lists_the_same_vocabulary(tokenizer: Tokenizer) -> None:
    reference = oracle(tokenizer)
    assert reference.get_vocab() == tokenizer.vocab
    assert reference.get_vocab_size() == tokenizer.vocab_size


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("strip_accents", [True, False])
def test_wordpiece_ids_are_identical_for_each_way_of_cleaning(
    lowercase: bool, strip_accents: bool, training_texts: list[str], odd_strings: list[str]
) -> None:
    tokenizer = WordPieceTokenizer.train(
        training_texts, 500, lowercase=lowercase, strip_accents=strip_accents
    )
    assert first_difference(tokenizer, odd_strings[:3000]) is None


def test_unigram_ids_are_identical_where_many_cuts_tie(odd_strings: list[str]) -> None:
    letters = "abc"
    pieces = [*letters, *(left + right for left in letters for right in letters), "▁", "abcabc", "cab"]
    vocab = {token: index for index, token in enumerate(["<unk>", *pieces])}
    tied = UnigramTokenizer(vocab, [0.0] + [-1.5 * len(piece) for piece in pieces], ["<unk>"])
    rng = random.Random(3)
    texts = ["".join(rng.choices("abc d?", k=rng.randint(1, 30))) for _ in range(3000)]
    assert first_difference(tied, texts) is None


def test_unigram_ids_are_identical_where_letters_are_missing() -> None:
    # "x" and "y" are known only inside pieces. In "abx" what an unknown letter costs decides the cut.
    pieces = {"▁": -2.0, "a": -5.0, "b": -15.0, "ab": -2.0, "bx": -20.0, "xy": -9.0, "aya": -3.0, "▁x": -4.0}
    vocab = {token: index for index, token in enumerate(["<unk>", *pieces])}
    gappy = UnigramTokenizer(vocab, [0.0, *pieces.values()], ["<unk>"])
    rng = random.Random(9)
    texts = ["".join(rng.choices("aabxy z", k=rng.randint(1, 20))) for _ in range(3000)]
    assert first_difference(gappy, texts) is None


def test_a_saved_file_loads_as_the_same_tokenizer(
    tokenizer: Tokenizer, tmp_path: Path, odd_strings: list[str]
) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    for again in (type(tokenizer).load(path), load_tokenizer(path), load_tokenizer(tmp_path)):
        assert type(again) is type(tokenizer)
        assert again.to_json() == tokenizer.to_json()
        assert again.encode_batch(odd_strings[:500]) == tokenizer.encode_batch(odd_strings[:500])


def test_the_library_writes_a_file_that_loads_here(
    tmp_path: Path, training_texts: list[str], odd_strings: list[str]
) -> None:
    trained = tokenizers.ByteLevelBPETokenizer()
    trained.train_from_iterator(training_texts, vocab_size=600, special_tokens=["<|endoftext|>"])
    trained.save(str(tmp_path / "tokenizer.json"))
    ours = BPETokenizer.load(tmp_path / "tokenizer.json")
    texts = odd_strings[:2000]
    assert ours.encode_batch(texts) == [encoding.ids for encoding in trained.encode_batch(texts)]


def test_the_mode_of_a_new_file_is_the_usual_one(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "ordinary").write_text("")
    tokenizer.save(tmp_path / "tokenizer.json")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ordinary", "tokenizer.json")}
    assert len(modes) == 1


def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("the old file")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        tokenizer.save(path)
    assert path.read_text() == "the old file"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_cut_short_anywhere_is_refused_in_one_sentence(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    whole = tokenizer.to_json()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_text(whole[:length], encoding="utf-8")
        with pytest.raises(ValueError, match="damaged or cut short") as caught:
            type(tokenizer).load(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"[1, 2]", b'{"model": 3}', b'{"a": 1}', b"\xff\xfe\x00", b"[" * 100_000]
)
def test_a_file_of_another_kind_is_refused_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"tokenizer\.json") as caught:
        load_tokenizer(path)
    assert "\n" not in str(caught.value)


def test_every_section_that_is_missing_or_wrong_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    content = json.loads(tokenizer.to_json())
    damaged = [
        content | {"pre_tokenizer": {"type": "Punctuation"}},
        content | {"normalizer": {"type": "NFKC"}},
    ]
    for key in ("vocab", "merges", "unk_id", "unk_token"):
        if content["model"].get(key) is not None:
            damaged.append(content | {"model": {k: v for k, v in content["model"].items() if k != key}})
    damaged.append(content | {"added_tokens": [{"content": "<absent>", "special": True}]})
    for wrong in damaged:
        path.write_text(json.dumps(wrong), encoding="utf-8")
        with pytest.raises(ValueError, match=r"tokenizer\.json"):
            load_tokenizer(path)


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word"])
def test_added_tokens_with_other_settings_are_refused(
    tokenizer: Tokenizer, tmp_path: Path, flag: str
) -> None:
    path = tmp_path / "tokenizer.json"
    content = json.loads(tokenizer.to_json())
    content["added_tokens"][0][flag] = True
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match="is no plain special token"):
        load_tokenizer(path)


def test_byte_level_files_with_other_rules_are_refused(trained: dict[str, Tokenizer], tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    for section, setting in (("pre_tokenizer", {"use_regex": False}), ("model", {"ignore_merges": True})):
        content = json.loads(trained["BPETokenizer"].to_json())
        content[section] |= setting
        path.write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(ValueError, match="use_regex=false or ignore_merges=true"):
            load_tokenizer(path)


def test_a_folder_stands_for_the_file_in_it(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["tokenizer.json"]
    assert load_tokenizer(tmp_path).vocab == tokenizer.vocab
    with pytest.raises(FileNotFoundError, match=r"the folder .*absent does not exist; make it first"):
        tokenizer.save(tmp_path / "absent" / "tokenizer.json")


def test_loading_as_another_class_names_both(trained: dict[str, Tokenizer], tmp_path: Path) -> None:
    trained["UnigramTokenizer"].save(tmp_path / "tokenizer.json")
    with pytest.raises(ValueError, match="holds a Unigram model, and BPETokenizer reads BPE"):
        BPETokenizer.load(tmp_path / "tokenizer.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json does not exist"):
        load_tokenizer(tmp_path / "nowhere.json")
