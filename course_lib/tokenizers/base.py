"""What every tokenizer of the course can do.

A tokenizer cuts text into pieces and numbers them. The five of this package differ in how they cut; this file
holds what they share: special tokens, the vocabulary, encoding in batches, and the `tokenizer.json` on disk.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Self

from tqdm import tqdm

from course_lib.tokenizers.storage import parse_tokenizer_json, read_tokenizer_json, write_atomically


class PieceCache(dict[str, tuple[int, ...]]):
    """Remembers the ids of each stretch of text it was asked for, and computes those it has not seen.

    Text repeats its words, so one dictionary look-up replaces nearly all of the work. The size is bounded:
    a full cache is emptied, and stretches longer than `longest` characters are not kept.
    """

    def __init__(self, compute: Callable[[str], tuple[int, ...]], size: int = 65_536, longest: int = 256):
        super().__init__()
        self._compute, self._size, self._longest = compute, size, longest

    def __missing__(self, stretch: str) -> tuple[int, ...]:
        ids = self._compute(stretch)
        if len(stretch) <= self._longest:
            if len(self) >= self._size:
                self.clear()
            self[stretch] = ids
        return ids


def _id_of_role(role: str) -> property:
    """A property: the id of the special token that plays `role`, or None if the vocabulary has none."""

    def lookup(self: Tokenizer) -> int | None:
        token = getattr(self, f"{role}_token")
        return None if token is None else self.vocab.get(token)

    lookup.__doc__ = f"Id of `{role}_token`, or None if the vocabulary does not hold it."
    return property(lookup)


class Tokenizer(ABC):
    """Text to ids and back, with a vocabulary learned by `train`.

    `vocab` maps each token to its id; ids run from 0 without gaps. `special_tokens` are found in the text
    before anything else is done to it and are never split, as in the `tokenizers` library.
    """

    default_special_tokens: ClassVar[tuple[str, ...]] = ()
    model_type: ClassVar[str]

    pad_token: str | None = None
    unk_token: str | None = None
    bos_token: str | None = None
    eos_token: str | None = None
    cls_token: str | None = None
    sep_token: str | None = None
    mask_token: str | None = None

    pad_id = _id_of_role("pad")
    unk_id = _id_of_role("unk")
    bos_id = _id_of_role("bos")
    eos_id = _id_of_role("eos")
    cls_id = _id_of_role("cls")
    sep_id = _id_of_role("sep")
    mask_id = _id_of_role("mask")

    def __init__(self, vocab: Mapping[str, int], special_tokens: Sequence[str] = ()) -> None:
        self.vocab = dict(vocab)
        self.special_tokens = check_special_tokens(special_tokens)
        missing = [token for token in self.special_tokens if token not in self.vocab]
        if missing:
            raise ValueError(f"special tokens {missing} are not in the vocabulary; add them to it")
        self._tokens = _tokens_in_id_order(self.vocab)
        self._special_ids = frozenset(self.vocab[token] for token in self.special_tokens)
        self._special_pattern = _any_of(self.special_tokens)
        self._cache = PieceCache(self._encode_stretch)

    # -- what each kind of tokenizer supplies ---------------------------------------------------------------

    @classmethod
    @abstractmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        *,
        special_tokens: Sequence[str] | None = None,
        progress: bool = False,
    ) -> Self:
        """A tokenizer learned from `texts`, with at most `vocab_size` tokens, special tokens included."""

    @classmethod
    def _special_for_training(cls, special_tokens: Sequence[str] | None) -> tuple[str, ...]:
        """The special tokens asked for, or this kind's usual ones."""
        return cls.default_special_tokens if special_tokens is None else check_special_tokens(special_tokens)

    @abstractmethod
    def _split(self, text: str) -> list[str]:
        """The stretches (words, chunks) that are encoded independently of each other."""

    @abstractmethod
    def _encode_stretch(self, stretch: str) -> tuple[int, ...]:
        """The ids of one stretch."""

    @abstractmethod
    def _join(self, tokens: list[str]) -> str:
        """The text that a list of tokens stands for."""

    @abstractmethod
    def _sections(self) -> dict[str, Any]:
        """The sections `normalizer`, `pre_tokenizer`, `decoder` and `model` of the tokenizer.json."""

    @classmethod
    @abstractmethod
    def _from_sections(cls, content: dict[str, Any], special_tokens: list[str]) -> Self:
        """The tokenizer that a parsed tokenizer.json describes."""

    # -- text to ids and back -------------------------------------------------------------------------------

    def encode(self, text: str, *, allow_special: bool = True) -> list[int]:
        """The ids of `text`.

        With `allow_special=False` a special token written in the text is read as ordinary characters, which
        is what text from a stranger needs. A lone surrogate (half of a UTF-16 pair) is no character: it
        raises `ValueError`.
        """
        _check_text(text)
        if not allow_special or self._special_pattern is None:
            return self._encode_ordinary(text)
        ids: list[int] = []
        for index, part in enumerate(self._special_pattern.split(text)):
            if index % 2:
                ids.append(self.vocab[part])
            elif part:
                ids += self._encode_ordinary(part)
        return ids

    def encode_batch(self, texts: Iterable[str], *, allow_special: bool = True) -> list[list[int]]:
        """The ids of each text."""
        if isinstance(texts, str):
            raise TypeError("encode_batch needs a list of texts, got one str; use encode for one text")
        return [self.encode(text, allow_special=allow_special) for text in texts]

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """The text that `ids` stand for; `skip_special=True` leaves special tokens out."""
        numbers = [int(index) for index in ids]
        kept = [index for index in numbers if not (skip_special and index in self._special_ids)]
        return self._join([self.id_to_token(index) for index in kept])

    def tokens(self, text: str, *, allow_special: bool = True) -> list[str]:
        """The tokens of `text` as the vocabulary writes them (`Ġthe`, `##ing`, `▁the`)."""
        return [self._tokens[index] for index in self.encode(text, allow_special=allow_special)]

    def pieces(self, text: str, *, allow_special: bool = True) -> list[str]:
        """The tokens of `text` for a person to read: bytes that are no whole character show as `\\xe4`."""
        return [self._readable(token) for token in self.tokens(text, allow_special=allow_special)]

    def _readable(self, token: str) -> str:
        """One token, for a person."""
        return token

    def _encode_ordinary(self, text: str) -> list[int]:
        """The ids of text in which nothing is a special token."""
        return list(chain.from_iterable(map(self._cache.__getitem__, self._split(text))))

    # -- the vocabulary -------------------------------------------------------------------------------------

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included."""
        return len(self._tokens)

    def token_to_id(self, token: str) -> int | None:
        """The id of `token`, or None if the vocabulary does not hold it."""
        return self.vocab.get(token)

    def id_to_token(self, index: int) -> str:
        """The token with this id; `ValueError` if there is none."""
        if not 0 <= index < len(self._tokens):
            raise ValueError(f"id {index} is outside this vocabulary of {len(self._tokens)} tokens")
        return self._tokens[index]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size}, special_tokens={self.special_tokens})"

    # -- on disk --------------------------------------------------------------------------------------------

    def to_json(self) -> str:
        """The tokenizer.json as text, as the `tokenizers` library reads it."""
        added = [_added_token(token, self.vocab[token]) for token in self.special_tokens]
        added.sort(key=lambda entry: entry["id"])
        content = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added}
        sections = {"normalizer": None, "post_processor": None, **self._sections()}
        return json.dumps(content | sections, ensure_ascii=False, indent=1)

    def save(self, path: str | Path) -> None:
        """Write a `tokenizer.json`, whole or not at all; in a folder, under that name."""
        write_atomically(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The tokenizer saved at `path`; `ValueError` in one sentence if the file holds none of this kind.

        Truncation, padding and the post-processor (BERT's `[CLS]` … `[SEP]`) are not read: `encode` adds and
        drops nothing.
        """
        return cls._from_content(read_tokenizer_json(path), str(path))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The tokenizer that `to_json` gave this text for."""
        return cls._from_content(parse_tokenizer_json(text, "the text"), "the text")

    @classmethod
    def _from_content(cls, content: dict[str, Any], source: str) -> Self:
        """The tokenizer of a parsed tokenizer.json; `source` names it in errors."""
        kind = content["model"].get("type")
        if kind != cls.model_type:
            raise ValueError(f"{source} holds a {kind} model, and {cls.__name__} reads {cls.model_type}")
        try:
            return cls._from_sections(content, _read_special_tokens(content))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{source} is not a complete tokenizer.json ({error!r}); save it again"
            ) from error
        except ValueError as error:
            raise ValueError(f"{source} cannot be used: {error}") from error


def check_special_tokens(tokens: Sequence[str]) -> tuple[str, ...]:
    """`tokens` as a tuple; `ValueError` for an empty or repeated one."""
    if isinstance(tokens, str):
        raise TypeError(f"special_tokens must be a list of tokens, got one str: write [{tokens!r}]")
    if "" in tokens or len(set(tokens)) != len(tokens):
        raise ValueError(f"special tokens must be non-empty and all different, got {list(tokens)}")
    return tuple(tokens)


def ordinary_parts(
    texts: Iterable[str], special_tokens: Sequence[str], progress: bool = False
) -> Iterator[str]:
    """The training texts with special tokens cut out: nothing is learned from how those are spelled."""
    if isinstance(texts, str):
        raise TypeError("train needs an iterable of texts, got one str; write [text]")
    pattern = _any_of(special_tokens)
    for text in tqdm(texts, desc="reading", disable=not progress):
        _check_text(text)
        yield from [text] if pattern is None else pattern.split(text)[::2]


def number_tokens(*groups: Iterable[str]) -> dict[str, int]:
    """Token → id, counting through the groups in order; a token that comes again keeps its first id."""
    return {token: index for index, token in enumerate(dict.fromkeys(chain.from_iterable(groups)))}


def room_for_tokens(vocab_size: int, special_tokens: Sequence[str]) -> int:
    """How many tokens `vocab_size` leaves beside the special ones; `ValueError` if none."""
    room = vocab_size - len(special_tokens)
    if room < 1:
        raise ValueError(
            f"vocab_size={vocab_size} leaves no room beside {len(special_tokens)} special tokens; raise it"
        )
    return room


def require_unk(unk_token: str | None, special_tokens: Sequence[str]) -> None:
    """`ValueError` unless the token for unknown pieces is among the special tokens."""
    if unk_token not in special_tokens:
        raise ValueError(f"special_tokens={list(special_tokens)} lack {unk_token!r}, the unknown token")


def _check_text(text: str) -> None:
    """Refuse what is no text."""
    if not isinstance(text, str):
        raise TypeError(f"a text must be a str, got {type(text).__name__}")
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the text has a lone surrogate U+{ord(text[error.start]):04X} at position {error.start}, "
            "which is no character; replace it, for example text.encode('utf-8', 'replace').decode('utf-8')"
        ) from None


def _any_of(tokens: Sequence[str]) -> re.Pattern[str] | None:
    """A pattern that finds the leftmost, then longest, of `tokens`."""
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, longest_first))})") if tokens else None


def _tokens_in_id_order(vocab: Mapping[str, int]) -> list[str]:
    """The tokens by id; `ValueError` if the ids have gaps or repeat."""
    tokens = sorted(vocab, key=lambda token: vocab[token])
    if [vocab[token] for token in tokens] != list(range(len(tokens))):
        raise ValueError("the ids of a vocabulary must run from 0 without gaps or repeats")
    return tokens


def _read_special_tokens(content: dict[str, Any]) -> list[str]:
    """The special tokens of a parsed tokenizer.json; `ValueError` for settings we do without."""
    entries = content.get("added_tokens") or []
    for entry in entries:
        plain = not any(entry.get(flag) for flag in ("single_word", "lstrip", "rstrip"))
        if not (plain and entry["special"] and not (entry.get("normalized") and content.get("normalizer"))):
            raise ValueError(f"its added token {entry['content']!r} is no plain special token: {entry}")
    return [entry["content"] for entry in entries]


def _added_token(token: str, index: int) -> dict[str, Any]:
    """A special token as tokenizer.json lists it."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": index, "content": token, **flags}
