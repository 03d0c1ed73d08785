"""Exercises of 11_bert: what is asked, what is right, and how people go wrong."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .exercise import Case, Exercise, Misconception, Score, Tolerance
from .probes import bert as probes

# The library's own versions are no answers, nor parts of one.
LIBRARY = (
    "course_lib.data.masking.mask_tokens",
    "course_lib.data.masking.next_sentence_pairs",
    "course_lib.data.masking.join_pair",
    "course_lib.models.bert.InputEmbedding",
    "course_lib.models.bert.MaskedTokenHead",
    "course_lib.models.bert.BERT",
)
IGNORE = -100


def _draw(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


# --- bert/mask_tokens --------------------------------------------------------------------------


def mask_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Half of the tokens, 15 % by default, all of them, none of them, special tokens everywhere."""
    yield _mask_case(rng, "half of the tokens", (6, 40), 0.5)
    yield _mask_case(rng, "15 % of the tokens", (8, 60), None)
    yield _mask_case(rng, "all tokens", (3, 50), 1.0, hidden=True)
    yield _mask_case(rng, "another id for the mask", (5, 40), 0.3, mask_id=103, hidden=True)
    yield _mask_case(rng, "one short text", (1, 5), 0.9, hidden=True)
    yield _mask_case(rng, "special tokens alone", (2, 4), 1.0, special=1.0, hidden=True)


def _mask_case(
    rng: np.random.Generator,
    name: str,
    shape: tuple[int, int],
    share: float | None,
    mask_id: int = 4,
    special: float = 0.2,
    hidden: bool = False,
) -> Case:
    marked = rng.random(shape) < special
    ids = np.where(marked, rng.integers(0, 4, size=shape), rng.integers(5, 90, size=shape))
    inputs = {"ids": ids, "special": marked, "mask_id": mask_id, "share": share}
    inputs |= {"first": rng.random(shape).astype(np.float32), "second": rng.random(shape).astype(np.float32)}
    return Case(name, inputs | {"random_ids": rng.integers(5, 90, size=shape)}, hidden)


Masked = tuple[Tensor, Tensor]


def _mask(
    ids: Tensor,
    special: Tensor,
    first: Tensor,
    second: Tensor,
    random_ids: Tensor,
    mask_id: int,
    share: float = 0.15,
) -> Masked:
    """The reference."""
    chosen = (first < share) & ~special
    inputs = ids.clone()
    inputs[chosen & (second < 0.8)] = mask_id
    replaced = chosen & (second >= 0.8) & (second < 0.9)
    inputs[replaced] = random_ids[replaced]
    return inputs, ids.masked_fill(~chosen, IGNORE)


def _mask_with_where(
    ids: Tensor,
    special: Tensor,
    first: Tensor,
    second: Tensor,
    random_ids: Tensor,
    mask_id: int,
    share: float = 0.15,
) -> Masked:
    chosen = torch.logical_and(first < share, special.logical_not())
    corrupted = torch.where(second < 0.8, mask_id, torch.where(second < 0.9, random_ids, ids))
    return torch.where(chosen, corrupted, ids), torch.where(chosen, ids, IGNORE)


def _mask_token_by_token(
    ids: Tensor,
    special: Tensor,
    first: Tensor,
    second: Tensor,
    random_ids: Tensor,
    mask_id: int,
    share: float = 0.15,
) -> Masked:
    inputs, targets = ids.clone(), torch.full_like(ids, IGNORE)
    for place in ((first < share) & ~special).nonzero().tolist():
        at = tuple(place)
        targets[at] = ids[at]
        if second[at] < 0.8:
            inputs[at] = mask_id
        elif second[at] < 0.9:
            inputs[at] = random_ids[at]
    return inputs, targets


def _wrong_mask(
    *,
    spares_special: bool = True,
    fixed_share: bool = False,
    kinds: str = "right",
    targets: str = "right",
) -> Callable[..., Masked]:
    """A mask with one thing wrong; by default nothing is."""

    def mask(
        ids: Tensor,
        special: Tensor,
        first: Tensor,
        second: Tensor,
        random_ids: Tensor,
        mask_id: int,
        share: float = 0.15,
    ) -> Masked:
        chosen = first < (0.15 if fixed_share else share)
        if spares_special:
            chosen = chosen & ~special
        touched = ~special if kinds == "of all tokens" else chosen
        hidden, replaced = second < 0.8, (second >= 0.8) & (second < 0.9)
        if kinds == "all hidden":
            hidden, replaced = torch.ones_like(hidden), torch.zeros_like(hidden)
        elif kinds == "nothing is kept":
            replaced = ~hidden
        elif kinds == "nothing is replaced":
            replaced = torch.zeros_like(hidden)
        elif kinds == "exchanged":
            replaced = second >= 0.9
        elif kinds == "overwritten":
            hidden, replaced = torch.zeros_like(hidden), second < 0.9
        elif kinds == "one draw":
            hidden, replaced = first < 0.8 * share, (first >= 0.8 * share) & (first < 0.9 * share)
        inputs = torch.where(touched & hidden, mask_id, ids)
        inputs = torch.where(touched & replaced, random_ids, inputs)
        counted = {
            "right": chosen,
            "everywhere": torch.ones_like(chosen),
            "of changed ones": chosen & (second < 0.9),
            "of hidden ones": chosen & (second < 0.8),
            "inverted": ~chosen,
        }.get(targets, chosen)
        told = inputs if targets == "from the inputs" else ids
        return inputs, torch.where(counted, told, 0 if targets == "zero" else IGNORE)

    return mask


MASK = Exercise(
    id="bert/mask_tokens",
    title="Masked tokens: 15 %, and 80/10/10 of those",
    points=3,
    minutes=30,
    difficulty=2,
    cases=mask_cases,
    probe=probes.mask_tokens,
    reference=_mask,
    also_right=(_mask_with_where, _mask_token_by_token),
    forbidden=LIBRARY,
    library="course_lib.data.masking:mask_tokens",
    misconceptions=(
        Misconception(
            "special tokens are chosen, too",
            _wrong_mask(spares_special=False),
            "Nobody asks what stood at `[CLS]`, `[SEP]` or padding. Where `special` is True, nothing is chosen.",
        ),
        Misconception(
            "80/10/10 falls on all tokens",
            _wrong_mask(kinds="of all tokens"),
            "The second draw decides about *chosen* tokens. All others reach the model as they are; yours hides most of "
            "the text.",
        ),
        Misconception(
            "every chosen token is hidden",
            _wrong_mask(kinds="all hidden"),
            "Of the chosen tokens, 80 % become `mask_id`, 10 % another token, and 10 % stay.",
        ),
        Misconception(
            "no chosen token is kept",
            _wrong_mask(kinds="nothing is kept"),
            "Where `second` is 0.9 or more, the chosen token stays in the inputs as it is, and it is a target all the same.",
        ),
        Misconception(
            "no chosen token is replaced at random",
            _wrong_mask(kinds="nothing is replaced"),
            "Where `second` lies from 0.8 to below 0.9, the entry of `random_ids` takes the token's place.",
        ),
        Misconception(
            "the random and the kept tenth are exchanged",
            _wrong_mask(kinds="exchanged"),
            "From 0.8 to below 0.9 the token is replaced at random, and from 0.9 on it stays.",
        ),
        Misconception(
            "random tokens overwrite the mask",
            _wrong_mask(kinds="overwritten"),
            "`second < 0.9` is true where `second < 0.8` is true as well, so the second assignment undoes the first. Ask for "
            "both bounds.",
        ),
        Misconception(
            "one draw decides both",
            _wrong_mask(kinds="one draw"),
            "`first` decides whether a token is chosen; what becomes of it is up to `second`, the other draw.",
        ),
        Misconception(
            "every token is a target",
            _wrong_mask(targets="everywhere"),
            "The loss counts chosen tokens alone: everywhere else the target is −100. A model that is asked about tokens that "
            "it sees learns to copy.",
        ),
        Misconception(
            "kept tokens are no targets",
            _wrong_mask(targets="of changed ones"),
            "A chosen token that stays is a target like the others. That is what keeps the model honest about tokens that it "
            "sees.",
        ),
        Misconception(
            "hidden tokens alone are targets",
            _wrong_mask(targets="of hidden ones"),
            "All chosen tokens are targets, those that were replaced or kept among them.",
        ),
        Misconception(
            "the targets are inverted",
            _wrong_mask(targets="inverted"),
            "Your targets hold the ids where nothing was chosen. They belong where something was.",
        ),
        Misconception(
            "the targets are read from the masked inputs",
            _wrong_mask(targets="from the inputs"),
            "The target is the token that stood there *before*. Take it from `ids`, or copy before you write.",
        ),
        Misconception(
            "other places have the target 0",
            _wrong_mask(targets="zero"),
            "0 is the id of a token. Where there is nothing to predict, the target is −100, which `F.cross_entropy` leaves out.",
        ),
        Misconception(
            "the share is always 15 %",
            _wrong_mask(fixed_share=True),
            "The share of chosen tokens is `share`; 0.15 is its default and nothing more.",
        ),
    ),
    hints=(
        "Make a boolean tensor `chosen` first. Everything else, inputs and targets, asks about it.",
        "`chosen = (first < share) & ~special`. Among the chosen, `second` has three ranges: below 0.8, from 0.8 to below "
        "0.9, and from 0.9 on.",
        "`torch.where(chosen & (second < 0.8), mask_id, …)` for the inputs, with `random_ids` in the next range and `ids` "
        "otherwise; `torch.where(chosen, ids, -100)` for the targets.",
    ),
)

# --- bert/next_sentence_pairs ------------------------------------------------------------------

Documents = list[list[list[int]]]
Triple = tuple[list[int], list[int], int]


def pair_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Four documents, then long sentences that are cut, a document of one sentence, two documents."""
    yield _pair_case(rng, "four documents", (5, 4, 6, 5))
    yield _pair_case(rng, "sentences that are cut", (5, 6, 5), lengths=(4, 10), max_length=11)
    yield _pair_case(rng, "other special ids", (4, 4, 5), special=(101, 102), hidden=True)
    yield _pair_case(rng, "a document of one sentence", (1, 6, 5), hidden=True)
    yield _pair_case(rng, "two documents", (8, 8), lengths=(2, 12), max_length=9, hidden=True)
    yield _pair_case(rng, "sentences of equal length", (6, 7), lengths=(6, 7), max_length=12, hidden=True)


def _pair_case(
    rng: np.random.Generator,
    name: str,
    counts: tuple[int, ...],
    lengths: tuple[int, int] = (2, 6),
    max_length: int = 64,
    special: tuple[int, int] = (1, 2),
    hidden: bool = False,
) -> Case:
    documents = [
        [rng.integers(5, 100, size=int(rng.integers(*lengths))).tolist() for _ in range(count)]
        for count in counts
    ]
    inputs = {"documents": documents, "max_length": max_length, "seed": _fair_seed(rng, sum(counts))}
    return Case(name, inputs | dict(zip(("begin_id", "sep_id"), special, strict=True)), hidden)


def _fair_seed(rng: np.random.Generator, count: int) -> int:
    """A seed whose first coins fall on both sides, so that every case has pairs of both kinds."""
    while True:
        seed = int(rng.integers(1 << 30))
        coins = random.Random(seed)
        first = [coins.random() < 0.5 for _ in range(3)]
        if first[0] and not first[1] and count > 2:
            return seed


def _cut(first: list[int], second: list[int], room: int) -> tuple[list[int], list[int]]:
    first, second = list(first), list(second)
    while len(first) + len(second) > room:
        (first if len(first) > len(second) else second).pop()
    return first, second


def _pairs(
    documents: Documents, rng: random.Random, begin_id: int, sep_id: int, max_length: int
) -> list[Triple]:
    """The reference."""
    found = []
    for number, document in enumerate(documents):
        others = documents[:number] + documents[number + 1 :]
        for place in range(len(document) - 1):
            follows = rng.random() < 0.5
            second = document[place + 1] if follows else rng.choice(rng.choice(others))
            first, second = _cut(document[place], second, max_length - 3)
            ids = [begin_id, *first, sep_id, *second, sep_id]
            segments = [0] * (len(first) + 2) + [1] * (len(second) + 1)
            found.append((ids, segments, 0 if follows else 1))
    return found


def _pairs_by_arithmetic(
    documents: Documents, rng: random.Random, begin_id: int, sep_id: int, max_length: int
) -> list[Triple]:
    """The lengths are worked out, and chance is asked by number."""
    room = max_length - 3
    found = []
    for number in range(len(documents)):
        numbers = [other for other in range(len(documents)) if other != number]
        for place, first in enumerate(documents[number][:-1]):
            label = int(rng.random() >= 0.5)
            if label:
                stranger = documents[numbers[rng.randrange(len(numbers))]]
                second = stranger[rng.randrange(len(stranger))]
            else:
                second = documents[number][place + 1]
            a = min(len(first), max(room - len(second), (room + 1) // 2))
            b = min(len(second), room - a)
            left, right = [begin_id, *first[:a], sep_id], [*second[:b], sep_id]
            found.append((left + right, [0 for _ in left] + [1 for _ in right], label))
    return found


def _pairs_from_a_stream(
    documents: Documents, rng: random.Random, begin_id: int, sep_id: int, max_length: int
) -> list[Triple]:
    def stream() -> Iterator[Triple]:
        for document in documents:
            strangers = [other for other in documents if other is not document]
            for first, follower in pairwise(document):
                label = 1 if rng.random() >= 0.5 else 0
                second = (follower, rng.choice(rng.choice(strangers)) if label else follower)[label]
                a, b = len(first), len(second)
                while a + b > max_length - 3:
                    a, b = (a - 1, b) if a > b else (a, b - 1)
                ids = [begin_id, *first[:a], sep_id, *second[:b], sep_id]
                yield ids, [int(place > a + 1) for place in range(len(ids))], label

    return list(stream())


def _wrong_pairs(
    *,
    label: str = "right",
    strangers: str = "others",
    segments: str = "right",
    cut: str = "the longer",
    seps: str = "both",
    chance: str = "right",
    across: bool = False,
) -> Callable[..., list[Triple]]:
    """Pairs with one thing wrong; by default nothing is."""

    def pairs(
        documents: Documents, rng: random.Random, begin_id: int, sep_id: int, max_length: int
    ) -> list[Triple]:
        found = []
        for number, document in enumerate(documents):
            others = documents[:number] + documents[number + 1 :]
            after = documents[number + 1][:1] if across and number + 1 < len(documents) else []
            followers = [*document[1:], *after]
            for first, follower in zip(document, followers, strict=False):
                follows = (rng.random() < 0.5) == (chance != "inverted")
                follows = follows or chance == "always the next"
                second = follower
                if not follows:
                    pool = documents if strangers == "all" else others
                    second = rng.choice(document if strangers == "own" else rng.choice(pool))
                first, second = _cut_wrongly(cut, first, second, max_length)
                ids = [begin_id, *first, sep_id, *second, *([sep_id] if seps == "both" else [])]
                ids = [begin_id, *first, *second, sep_id] if seps == "last" else ids
                ids = ids[1:] if seps == "no begin" else ids
                zeros = len(first) + 2 - (segments == "first sep" or seps in ("last", "no begin"))
                row = [int(place >= zeros) for place in range(len(ids))]
                if segments == "last sep":
                    row[-1] = 0
                elif segments == "from 1":
                    row = [value + 1 for value in row]
                elif segments == "none":
                    row = [0] * len(ids)
                if cut == "the whole":
                    ids, row = ids[:max_length], row[:max_length]
                found.append((ids, row, int(follows) if label == "flipped" else int(not follows)))
        return found

    return pairs


def _cut_wrongly(cut: str, first: list[int], second: list[int], length: int) -> tuple[list[int], list[int]]:
    first, second, room = list(first), list(second), length - 3
    if cut in ("never", "the whole"):
        return first, second
    if cut == "the second":
        return first[:room], second[: max(0, room - len(first))]
    if cut == "specials forgotten":
        room = length
    while len(first) + len(second) > room:
        if cut == "the first of equals":
            (first if len(first) >= len(second) else second).pop()
        elif cut == "the front":
            (first if len(first) > len(second) else second).pop(0)
        else:
            (first if len(first) > len(second) else second).pop()
    return first, second


PAIRS = Exercise(
    id="bert/next_sentence_pairs",
    title="Pairs of sentences, half of them strangers",
    points=3,
    minutes=40,
    difficulty=3,
    cases=pair_cases,
    probe=probes.next_sentence_pairs,
    reference=_pairs,
    also_right=(_pairs_by_arithmetic, _pairs_from_a_stream),
    forbidden=LIBRARY,
    library="course_lib.data.masking:next_sentence_pairs",
    misconceptions=(
        Misconception(
            "the labels are flipped",
            _wrong_pairs(label="flipped"),
            "Label 0 says that the second sentence follows the first, and 1 that it does not. Yours say the opposite.",
        ),
        Misconception(
            "the coin is read the other way",
            _wrong_pairs(chance="inverted"),
            "A number below 0.5 means the true successor, 0.5 and more a stranger.",
        ),
        Misconception(
            "there are no strangers",
            _wrong_pairs(chance="always the next"),
            "Every second sentence is the true successor, so there is nothing to learn. Where the coin says 0.5 or more, a "
            "stranger takes its place.",
        ),
        Misconception(
            "a stranger may be of the same document",
            _wrong_pairs(strangers="all"),
            "Your strangers come from all documents, the pair's own among them. Then some of them do follow, and are called "
            "strangers.",
        ),
        Misconception(
            "strangers are of the same document",
            _wrong_pairs(strangers="own"),
            "A stranger is a sentence of *another* document.",
        ),
        Misconception(
            "pairs reach into the next document",
            _wrong_pairs(across=True),
            "The last sentence of a document has no successor, and makes no pair.",
        ),
        Misconception(
            "the first separator is in segment 1",
            _wrong_pairs(segments="first sep"),
            "The first `sep_id` closes the first sentence, and is in its segment, 0.",
        ),
        Misconception(
            "the last separator is in segment 0",
            _wrong_pairs(segments="last sep"),
            "The last `sep_id` closes the second sentence, and is in its segment, 1.",
        ),
        Misconception(
            "segments are counted from 1",
            _wrong_pairs(segments="from 1"),
            "There are two rows in the table of segments, 0 and 1. The first sentence is in segment 0.",
        ),
        Misconception(
            "all is one segment",
            _wrong_pairs(segments="none"),
            "The second sentence and the separator behind it are in segment 1.",
        ),
        Misconception(
            "there is no separator at the end",
            _wrong_pairs(seps="first"),
            "The second sentence is closed by `sep_id`, too.",
        ),
        Misconception(
            "there is no separator between the sentences",
            _wrong_pairs(seps="last"),
            "The first sentence is closed by `sep_id`, so that the model sees where the second begins.",
        ),
        Misconception(
            "there is no token at the beginning",
            _wrong_pairs(seps="no begin"),
            "`begin_id` comes first: its vector is where the answer is read off.",
        ),
        Misconception(
            "nothing is cut",
            _wrong_pairs(cut="never"),
            "No input may be longer than `max_length`, the three special ids included.",
        ),
        Misconception(
            "the whole is cut",
            _wrong_pairs(cut="the whole"),
            "Cutting the finished input takes its last separator away, and nothing but the second sentence gets shorter. Cut the "
            "sentences first.",
        ),
        Misconception(
            "the second sentence alone is cut",
            _wrong_pairs(cut="the second"),
            "The longer of the two gives a token away, again and again. Yours takes them all from the second.",
        ),
        Misconception(
            "of two equally long sentences the first is cut",
            _wrong_pairs(cut="the first of equals"),
            "Where both are equally long, the second gives a token away.",
        ),
        Misconception(
            "sentences lose their beginnings",
            _wrong_pairs(cut="the front"),
            "Tokens are taken away at the end of a sentence.",
        ),
        Misconception(
            "the special ids are not counted",
            _wrong_pairs(cut="specials forgotten"),
            "The three special ids need room as well: the two sentences have `max_length` − 3 tokens together.",
        ),
    ),
    hints=(
        "Two loops: over documents, and over all their sentences but the last. In the inner one: toss, choose, cut, join.",
        "`rng.random() < 0.5` is the toss. `others = documents[:i] + documents[i + 1:]`, then "
        "`rng.choice(rng.choice(others))` is a stranger.",
        "`while len(a) + len(b) > max_length - 3:` take the last token of the longer (of b, if equal). Segments: "
        "`[0] * (len(a) + 2) + [1] * (len(b) + 1)`.",
    ),
)

# --- bert/input_embedding ----------------------------------------------------------------------


def embedding_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Two segments, no segments given, as many texts as tokens, the longest input, tiny vectors."""
    yield _embedding_case(rng, "two segments", (2, 6))
    yield _embedding_case(rng, "no segments given", (3, 4), segments=False)
    yield _embedding_case(rng, "as many texts as tokens", (5, 5))
    yield _embedding_case(rng, "tiny vectors", (2, 5), scale=1e-3, hidden=True)
    yield _embedding_case(rng, "one token alone", (1, 1), segments=False, hidden=True)
    yield _embedding_case(rng, "segments that alternate", (2, 7), alternate=True, hidden=True)


def _embedding_case(
    rng: np.random.Generator,
    name: str,
    shape: tuple[int, int],
    segments: bool = True,
    alternate: bool = False,
    scale: float = 1.0,
    hidden: bool = False,
) -> Case:
    vocab_size, d_model, max_length = 20, 8, 9
    state = {
        "tokens.weight": np.float32(scale) * _draw(rng, vocab_size, d_model),
        "segments.weight": np.float32(scale) * _draw(rng, 2, d_model),
        "positions.weight": np.float32(scale) * _draw(rng, max_length, d_model),
        "norm.weight": 1 + np.float32(0.3) * _draw(rng, d_model),
        "norm.bias": np.float32(0.3) * _draw(rng, d_model),
    }
    row = (np.arange(shape[1]) >= shape[1] // 2).astype(np.int64)
    own = np.stack([(row + number) % 2 if alternate else row for number in range(shape[0])])
    inputs = {"vocab_size": vocab_size, "d_model": d_model, "max_length": max_length, "state": state}
    inputs |= {"ids": rng.integers(0, vocab_size, size=shape), "segments": own if segments else None}
    return Case(name, inputs, hidden)


class _InputEmbedding(nn.Module):
    """The reference."""

    eps = 1e-12

    def __init__(self, vocab_size: int, d_model: int, max_length: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, d_model)
        self.segments = nn.Embedding(2, d_model)
        self.positions = nn.Embedding(max_length, d_model)
        self.norm = nn.LayerNorm(d_model, eps=self.eps)

    def forward(self, ids: Tensor, segments: Tensor | None = None) -> Tensor:
        if segments is None:
            segments = torch.zeros_like(ids)
        places = torch.arange(ids.shape[1], device=ids.device)
        return self.norm(self.tokens(ids) + self.segments(segments) + self.positions(places))


class _InputEmbeddingBySlice(_InputEmbedding):
    def forward(self, ids: Tensor, segments: Tensor | None = None) -> Tensor:
        stream = self.tokens.weight[ids] + self.positions.weight[: ids.shape[1]]
        stream = stream + (self.segments.weight[0] if segments is None else self.segments.weight[segments])
        mean, variance = stream.mean(-1, keepdim=True), stream.var(-1, unbiased=False, keepdim=True)
        return (stream - mean) * torch.rsqrt(variance + 1e-12) * self.norm.weight + self.norm.bias


class _InputEmbeddingByProducts(_InputEmbedding):
    """Rows are looked up by products with one-hot vectors."""

    def forward(self, ids: Tensor, segments: Tensor | None = None) -> Tensor:
        segments = ids * 0 if segments is None else segments
        places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        tables = (self.tokens, ids), (self.segments, segments), (self.positions, places)
        parts = [F.one_hot(rows, len(table.weight)).float() @ table.weight for table, rows in tables]
        stream = torch.stack(parts).sum(dim=0)
        return F.layer_norm(stream, parts[0].shape[-1:], self.norm.weight, self.norm.bias, 1e-12)


def _wrong_embedding(
    *,
    normed: str = "right",
    scaled: bool = False,
    places: str = "right",
    segments: str = "right",
    eps: float = 1e-12,
) -> type[nn.Module]:
    """An input embedding with one thing wrong; by default nothing is."""
    own_eps = eps

    class Embedding(_InputEmbedding):
        eps = own_eps

        def forward(self, ids: Tensor, given: Tensor | None = None) -> Tensor:
            tokens = self.tokens(ids) * (math.sqrt(self.tokens.embedding_dim) if scaled else 1.0)
            marks = torch.zeros_like(ids) if given is None or segments == "ignored" else given
            kind = self.segments(1 - marks if segments == "exchanged" else marks)
            if segments == "left out" or (segments == "only if given" and given is None):
                kind = torch.zeros_like(tokens)
            at = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
            if places == "from 1":
                at = at + 1
            elif places == "backwards":
                at = at.flip(1)
            elif places == "restart":
                at = at - marks * (marks == 0).sum(dim=1, keepdim=True)
                at = at.clamp(min=0)
            where = torch.zeros_like(tokens) if places == "left out" else self.positions(at)
            if normed == "never":
                return tokens + kind + where
            if normed == "each":
                return self.norm(tokens) + self.norm(kind) + self.norm(where)
            if normed == "tokens alone":
                return self.norm(tokens) + kind + where
            if normed == "before the positions":
                return self.norm(tokens + kind) + where
            return self.norm(tokens + kind + where)

    return Embedding


EMBEDDING = Exercise(
    id="bert/input_embedding",
    title="BERT's input: token, segment and position",
    points=2,
    minutes=20,
    difficulty=2,
    cases=embedding_cases,
    probe=probes.input_embedding,
    reference=_InputEmbedding,
    also_right=(_InputEmbeddingBySlice, _InputEmbeddingByProducts),
    tolerance=Tolerance(absolute=1e-4, relative=1e-4),
    forbidden=LIBRARY,
    library="course_lib.models.bert:InputEmbedding",
    misconceptions=(
        Misconception(
            "the sum is not normed",
            _wrong_embedding(normed="never"),
            "`norm` is made but not used. The sum of the three vectors goes through it.",
        ),
        Misconception(
            "each part is normed by itself",
            _wrong_embedding(normed="each"),
            "There is one norm, of the sum. Yours takes three and adds them up.",
        ),
        Misconception(
            "the token alone is normed",
            _wrong_embedding(normed="tokens alone"),
            "Add first, then norm: segment and position belong into the sum that is normed.",
        ),
        Misconception(
            "positions are added after the norm",
            _wrong_embedding(normed="before the positions"),
            "The position is a part of the sum that is normed. Yours is added behind it.",
        ),
        Misconception(
            "token vectors are scaled",
            _wrong_embedding(scaled=True),
            "The factor √d_model belongs to the Transformer of 2017. BERT adds the three vectors as they are.",
        ),
        Misconception(
            "positions are counted from 1",
            _wrong_embedding(places="from 1"),
            "The first token stands at position 0.",
        ),
        Misconception(
            "positions are left out",
            _wrong_embedding(places="left out"),
            "Without positions the model sees a bag of words. Add the vector of each token's place.",
        ),
        Misconception(
            "positions run backwards",
            _wrong_embedding(places="backwards"),
            "Position 0 is the first token of the row, whatever the row's length.",
        ),
        Misconception(
            "positions start again in the second segment",
            _wrong_embedding(places="restart"),
            "Positions are counted through the whole input. The segment tells which sentence a token is in.",
        ),
        Misconception(
            "segments are left out",
            _wrong_embedding(segments="left out"),
            "Each token's segment has a vector as well, and it is added.",
        ),
        Misconception(
            "the segments that are given are ignored",
            _wrong_embedding(segments="ignored"),
            "All tokens have the vector of segment 0. Look it up by `segments` where they are given.",
        ),
        Misconception(
            "without segments no vector is added",
            _wrong_embedding(segments="only if given"),
            "Where `segments` is None all tokens are in segment 0, whose vector is added like any other.",
        ),
        Misconception(
            "the segments are exchanged",
            _wrong_embedding(segments="exchanged"),
            "Row 0 of the table belongs to segment 0, and row 1 to segment 1.",
        ),
        Misconception(
            "the norm has its default ε",
            _wrong_embedding(eps=1e-5),
            "BERT's norms have ε = 1e-12; `nn.LayerNorm` takes 1e-5 unless it is told. For small vectors that shows.",
        ),
    ),
    hints=(
        "Three tables, three look-ups, one sum, one norm. The only numbers that you have to make yourself are the positions.",
        "`torch.arange(ids.shape[1], device=ids.device)` are the positions; their vectors (t, d) are added to (b, t, d) by "
        "broadcasting.",
        "`if segments is None: segments = torch.zeros_like(ids)`; then `self.norm(self.tokens(ids) + "
        "self.segments(segments) + self.positions(places))`, with `nn.LayerNorm(d_model, eps=1e-12)`.",
    ),
)

# --- bert/pretraining_heads --------------------------------------------------------------------


def heads_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Two texts; as many words as features; one token; large vectors; tiny ones."""
    yield _heads_case(rng, "two texts", (2, 5), 12)
    yield _heads_case(rng, "as many words as features", (3, 3), 8)
    yield _heads_case(rng, "large vectors", (2, 4), 11, scale=5.0, hidden=True)
    yield _heads_case(rng, "one text of one token", (1, 1), 9, hidden=True)
    yield _heads_case(rng, "many words", (4, 3), 40, hidden=True)


def _heads_case(
    rng: np.random.Generator,
    name: str,
    shape: tuple[int, int],
    vocab_size: int,
    scale: float = 1.5,
    hidden: bool = False,
) -> Case:
    d = 8
    state: dict[str, np.ndarray] = {"bias": _draw(rng, vocab_size)}
    for part, width in (("dense", d), ("pooler", d), ("next_sentence", 2)):
        state[f"{part}.weight"] = _draw(rng, width, d) * np.float32(1 / math.sqrt(d))
        state[f"{part}.bias"] = _draw(rng, width) * np.float32(0.5)
    state |= {
        "norm.weight": 1 + np.float32(0.3) * _draw(rng, d),
        "norm.bias": np.float32(0.3) * _draw(rng, d),
    }
    inputs = {"d_model": d, "vocab_size": vocab_size, "state": state}
    inputs |= {"hidden_states": np.float32(scale) * _draw(rng, *shape, d)}
    return Case(name, inputs | {"token_embedding": _draw(rng, vocab_size, d)}, hidden)


class _Heads(nn.Module):
    """The reference."""

    def __init__(self, d_model: int, vocab_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(d_model, d_model)
        self.norm = nn.LayerNorm(d_model, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        self.pooler = nn.Linear(d_model, d_model)
        self.next_sentence = nn.Linear(d_model, 2)

    def forward(self, hidden_states: Tensor, token_embedding: Tensor) -> tuple[Tensor, Tensor]:
        read = self.norm(F.gelu(self.dense(hidden_states)))
        pooled = torch.tanh(self.pooler(hidden_states[:, 0]))
        return read @ token_embedding.T + self.bias, self.next_sentence(pooled)


class _HeadsByFormula(_Heads):
    def forward(self, hidden_states: Tensor, token_embedding: Tensor) -> tuple[Tensor, Tensor]:
        x = hidden_states @ self.dense.weight.T + self.dense.bias
        x = x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
        token_logits = F.linear(self.norm(x), token_embedding, self.bias)
        return token_logits, self.next_sentence(self.pooler(hidden_states)[:, 0].tanh())


class _HeadsWithEinsum(_Heads):
    def forward(self, hidden_states: Tensor, token_embedding: Tensor) -> tuple[Tensor, Tensor]:
        read = self.norm(nn.GELU()(self.dense(hidden_states)))
        first = hidden_states.select(1, 0)
        logits = torch.einsum("btd,vd->btv", read, token_embedding)
        return logits + self.bias, self.next_sentence(nn.Tanh()(self.pooler(first)))


def _wrong_heads(
    *,
    activation: Any = F.gelu,
    order: str = "right",
    bias: bool = True,
    pooled_from: str = "first",
    pooling: Any = torch.tanh,
    transposed: bool = False,
    exchanged: bool = False,
    tokens_from: str = "all",
) -> type[nn.Module]:
    """Heads with one thing wrong; by default nothing is."""

    class Heads(_Heads):
        def forward(self, hidden_states: Tensor, token_embedding: Tensor) -> Any:
            x = hidden_states
            if order == "norm first":
                read = activation(self.norm(self.dense(x)))
            elif order == "no norm":
                read = activation(self.dense(x))
            elif order == "no dense":
                read = self.norm(x)
            else:
                read = self.norm(activation(self.dense(x)))
            square = token_embedding.shape[0] == token_embedding.shape[1]
            token_logits = read @ (token_embedding if transposed and square else token_embedding.T)
            token_logits = token_logits + self.bias if bias else token_logits
            first = {"first": x[:, 0], "last": x[:, -1], "mean": x.mean(dim=1), "read": read[:, 0]}[
                pooled_from
            ]
            pooled = first if order == "no pooler" else pooling(self.pooler(first))
            logits = self.next_sentence(pooled)
            if tokens_from == "probabilities":
                return token_logits.softmax(dim=-1), logits.softmax(dim=-1)
            return (logits, token_logits) if exchanged else (token_logits, logits)

    return Heads


HEADS = Exercise(
    id="bert/pretraining_heads",
    title="Two heads: the masked token and the next sentence",
    points=3,
    minutes=30,
    difficulty=3,
    cases=heads_cases,
    probe=probes.pretraining_heads,
    reference=_Heads,
    also_right=(_HeadsByFormula, _HeadsWithEinsum),
    tolerance=Tolerance(absolute=5e-5, relative=5e-5),
    forbidden=LIBRARY,
    library="course_lib.models.bert:MaskedTokenHead",
    misconceptions=(
        Misconception(
            "the dense layer has no activation",
            _wrong_heads(activation=lambda x: x),
            "Between `dense` and `norm` stands a GELU.",
        ),
        Misconception(
            "the activation is ReLU",
            _wrong_heads(activation=torch.relu),
            "BERT's activation is GELU, here as well as in its blocks.",
        ),
        Misconception(
            "GELU is approximated",
            _wrong_heads(activation=lambda x: F.gelu(x, approximate="tanh")),
            "This is GPT-2's approximation by tanh. BERT takes the exact GELU, the default of `F.gelu`.",
        ),
        Misconception(
            "the norm comes before the activation",
            _wrong_heads(order="norm first"),
            "The order is dense, GELU, norm.",
        ),
        Misconception(
            "the masked-token head has no norm",
            _wrong_heads(order="no norm"),
            "`norm` is made but not used. It comes behind the GELU.",
        ),
        Misconception(
            "the masked-token head has no dense layer",
            _wrong_heads(order="no dense"),
            "Hidden states go through `dense` and GELU before they are normed and compared with the tokens.",
        ),
        Misconception(
            "the logits have no bias",
            _wrong_heads(bias=False),
            "Each word has a bias of its own, `bias`, by which frequent words are likelier from the start.",
        ),
        Misconception(
            "the token embedding is not transposed",
            _wrong_heads(transposed=True),
            "Each logit is the product with one *row* of the token embedding: `read @ token_embedding.T`. With as many words as "
            "features the other product runs as well, and is wrong.",
        ),
        Misconception(
            "the pooler has no tanh",
            _wrong_heads(pooling=lambda x: x),
            "The pooler is a linear layer and a tanh behind it.",
        ),
        Misconception(
            "the pooler has a ReLU",
            _wrong_heads(pooling=torch.relu),
            "The pooler's activation is tanh.",
        ),
        Misconception(
            "the pooler reads the last token",
            _wrong_heads(pooled_from="last"),
            "The whole input is read off at its *first* token, `[CLS]`. What stands at the end may be padding.",
        ),
        Misconception(
            "the pooler reads the mean",
            _wrong_heads(pooled_from="mean"),
            "BERT's pooler reads the first token alone. A mean over tokens is what sentence encoders take later.",
        ),
        Misconception(
            "the pooler reads the other head",
            _wrong_heads(pooled_from="read"),
            "Both heads read the hidden states. The pooler gets them as they are, not what `dense`, GELU and `norm` made of them.",
        ),
        Misconception(
            "there is no pooler",
            _wrong_heads(order="no pooler"),
            "`pooler` is made but not used: `next_sentence` reads tanh of its output.",
        ),
        Misconception(
            "the outputs are exchanged",
            _wrong_heads(exchanged=True),
            "The token logits come first, and then the sentence logits.",
        ),
        Misconception(
            "probabilities are returned",
            _wrong_heads(tokens_from="probabilities"),
            "Logits are asked for. The softmax is a part of the loss.",
        ),
    ),
    hints=(
        "Two ways through the same hidden states: all tokens through dense, GELU, norm and the token embedding; the first token "
        "through pooler, tanh and a layer with two outputs.",
        "`hidden_states[:, 0]` is the first token of each text. The token embedding is (v, d), so its transpose turns d features "
        "into v logits.",
        "`self.norm(F.gelu(self.dense(hidden_states))) @ token_embedding.T + self.bias`, and "
        "`self.next_sentence(torch.tanh(self.pooler(hidden_states[:, 0])))`.",
    ),
)

# --- bert/probe_layers -------------------------------------------------------------------------

Report = tuple[list[float], float, int | None]


def probe_cases(rng: np.random.Generator) -> Iterator[Case]:
    """A layer that is good enough before the best one; nothing to be found; a stronger penalty; few examples."""
    yield _probe_case(rng, "four layers", (0.3, 0.8, 1.6, 1.1), 3)
    yield _layers_nearly_equal(rng, "two layers nearly equal")
    yield _probe_case(rng, "nothing to be found", (0.0, 0.0, 0.0), 2, shares=(0.85, 0.15), hidden=True)
    yield _probe_case(rng, "a strong penalty", (0.4, 0.9, 0.7), 4, penalty=40.0, hidden=True)
    yield _probe_case(rng, "far from the origin", (0.5, 1.0, 0.6), 3, offset=3.0, hidden=True)
    yield _probe_case(rng, "other classes in the test", (0.5, 0.8), 2, test_shares=(0.25, 0.75), hidden=True)


def _probe_case(
    rng: np.random.Generator,
    name: str,
    strengths: tuple[float, ...],
    classes: int,
    *,
    shares: tuple[float, ...] | None = None,
    test_shares: tuple[float, ...] | None = None,
    penalty: float | None = None,
    offset: float = 0.5,
    hidden: bool = False,
) -> Case:
    """Classes lie around centres, the further apart the stronger their layer."""
    shares = shares or tuple(np.arange(classes + 2, 2, -1) / np.arange(classes + 2, 2, -1).sum())
    centres = rng.normal(size=(len(strengths), classes, 6))
    inputs: dict[str, Any] = {"penalty": penalty}
    for part, count, own in (("train", 90, shares), ("test", 120, test_shares or shares)):
        labels = rng.permutation(np.repeat(np.arange(classes), np.diff(_bounds(own, count))))
        states = rng.normal(size=(len(strengths), count, 6)) + offset
        states += np.array(strengths)[:, None, None] * centres[:, labels]
        inputs |= {f"{part}_states": states.astype(np.float32), f"{part}_labels": labels}
    return Case(name, inputs, hidden)


def _bounds(shares: tuple[float, ...], count: int) -> np.ndarray:
    return np.round(np.concatenate([[0.0], np.cumsum(shares)]) * count).astype(int)


def _layers_nearly_equal(rng: np.random.Generator, name: str) -> Case:
    """Layer 3 knows every label, layer 2 all but one: layer 2 is good enough, and the first that is."""
    case = _probe_case(rng, name, (0.0, 0.3, 0.0, 0.0), 3)
    inputs = {
        key: np.copy(value) if isinstance(value, np.ndarray) else value for key, value in case.inputs.items()
    }
    centres = 9 * np.eye(3, 6)
    for part in ("train", "test"):
        labels = inputs[f"{part}_labels"]
        for layer in (2, 3):
            noise = 0.1 * rng.normal(size=(len(labels), 6))
            inputs[f"{part}_states"][layer] = (centres[labels] + noise).astype(np.float32)
    wrong = centres[(inputs["test_labels"][0] + 1) % 3]
    inputs["test_states"][2, 0] = wrong.astype(np.float32)
    return Case(name, inputs)


def _with_one(states: Tensor) -> Tensor:
    return torch.cat([states, torch.ones_like(states[..., :1])], dim=-1).double()


def _probe_layers(
    train_states: Tensor, train_labels: Tensor, test_states: Tensor, test_labels: Tensor, penalty: float = 1.0
) -> Report:
    """The reference."""
    accuracies = []
    wanted = F.one_hot(train_labels).double()
    for train, test in zip(_with_one(train_states), _with_one(test_states), strict=True):
        squares = train.T @ train + penalty * torch.eye(train.shape[1], dtype=train.dtype)
        weights = torch.linalg.solve(squares, train.T @ wanted)
        accuracies.append(float(((test @ weights).argmax(dim=1) == test_labels).double().mean()))
    commonest = torch.bincount(train_labels).argmax()
    baseline = float((test_labels == commonest).double().mean())
    return accuracies, baseline, _probe_verdict(accuracies, baseline)


def _probe_verdict(accuracies: list[float], baseline: float) -> int | None:
    best = max(accuracies)
    if best < baseline + 0.05:
        return None
    return next(layer for layer, accuracy in enumerate(accuracies) if accuracy >= best - 0.02)


def _probe_layers_with_numpy(
    train_states: Tensor, train_labels: Tensor, test_states: Tensor, test_labels: Tensor, penalty: float = 1.0
) -> Report:
    """All layers at once, the penalty as further rows of a least-squares problem."""
    train, test = (_with_one(states).numpy() for states in (train_states, test_states))
    truth, size = test_labels.numpy(), train.shape[-1]
    wanted = np.eye(int(train_labels.max()) + 1)[train_labels.numpy()]
    accuracies = []
    for layer in range(len(train)):
        rows = np.concatenate([train[layer], math.sqrt(penalty) * np.eye(size)])
        goal = np.concatenate([wanted, np.zeros((size, wanted.shape[1]))])
        weights = np.linalg.lstsq(rows, goal, rcond=None)[0]
        accuracies.append(float(np.mean(np.argmax(test[layer] @ weights, axis=1) == truth)))
    baseline = float(np.mean(truth == wanted.sum(axis=0).argmax()))
    return accuracies, baseline, _probe_verdict(accuracies, baseline)


def _probe_layers_in_one_solve(
    train_states: Tensor, train_labels: Tensor, test_states: Tensor, test_labels: Tensor, penalty: float = 1.0
) -> Report:
    train, test = _with_one(train_states), _with_one(test_states)
    squares = train.mT @ train + torch.diag(torch.full(train.shape[-1:], penalty, dtype=torch.float64))
    weights = (
        torch.linalg.inv(squares) @ train.mT @ torch.eye(int(train_labels.max()) + 1).double()[train_labels]
    )
    right = (test @ weights).argmax(dim=-1) == test_labels
    accuracies = right.double().mean(dim=-1).tolist()
    baseline = (test_labels == train_labels.mode().values).sum().item() / len(test_labels)
    return accuracies, baseline, _probe_verdict(accuracies, baseline)


def _wrong_probe(
    *,
    tested_on: str = "test",
    constant: bool = True,
    penalised: bool = True,
    baseline_of: str = "train",
    verdict: Callable[[list[float], float], int | None] = _probe_verdict,
    goal: str = "one-hot",
    percent: bool = False,
) -> Callable[..., Report]:
    """A probe with one thing wrong; by default nothing is."""

    def probe(
        train_states: Tensor,
        train_labels: Tensor,
        test_states: Tensor,
        test_labels: Tensor,
        penalty: float = 1.0,
    ) -> Report:
        extend = _with_one if constant else torch.Tensor.double
        wanted = F.one_hot(train_labels).double()
        wanted = train_labels.double()[:, None] if goal == "numbers" else wanted
        read, truth = (train_states, train_labels) if tested_on == "train" else (test_states, test_labels)
        fit_states, fit_wanted = extend(train_states), wanted
        if tested_on == "fit on test":
            fit_states, fit_wanted = extend(test_states), F.one_hot(test_labels, wanted.shape[1]).double()
        accuracies = []
        for train, test in zip(fit_states, extend(read), strict=True):
            ridge = (penalty if penalised else 1e-9) * torch.eye(train.shape[1]).double()
            found = test @ torch.linalg.solve(train.T @ train + ridge, train.T @ fit_wanted)
            said = found[:, 0].round() if goal == "numbers" else found.argmax(dim=1)
            accuracies.append(float((said == truth).double().mean()))
        labels = {"test": test_labels}.get(baseline_of, train_labels)
        baseline = float((test_labels == torch.bincount(labels).argmax()).double().mean())
        if baseline_of == "chance":
            baseline = 1 / (int(train_labels.max()) + 1)
        elif baseline_of == "lowest layer":
            baseline = accuracies[0]
        return accuracies, baseline, verdict(accuracies, baseline)

    return probe


def _verdict_of_the_best(accuracies: list[float], baseline: float) -> int | None:
    best = max(accuracies)
    return None if best < baseline + 0.05 else accuracies.index(best)


def _verdict_in_any_case(accuracies: list[float], baseline: float) -> int | None:
    return next(layer for layer, found in enumerate(accuracies) if found >= max(accuracies) - 0.02)


def _verdict_counted_from_1(accuracies: list[float], baseline: float) -> int | None:
    found = _probe_verdict(accuracies, baseline)
    return None if found is None else found + 1


def _verdict_above_the_baseline(accuracies: list[float], baseline: float) -> int | None:
    return next((layer for layer, found in enumerate(accuracies) if found >= baseline + 0.05), None)


PROBE = Exercise(
    id="bert/probe_layers",
    title="Which layer knows it? A probe, and what it proves",
    points=4,
    minutes=45,
    difficulty=3,
    cases=probe_cases,
    probe=probes.probe_layers,
    reference=_probe_layers,
    also_right=(_probe_layers_with_numpy, _probe_layers_in_one_solve),
    forbidden=LIBRARY,
    misconceptions=(
        Misconception(
            "the probe is tested on what it was fitted to",
            _wrong_probe(tested_on="train"),
            "An accuracy on the training states says how well the probe remembers. Measure it on the test states.",
        ),
        Misconception(
            "the probe is fitted to the test",
            _wrong_probe(tested_on="fit on test"),
            "The probe has seen what it is tested on. Fit it to the training states alone.",
        ),
        Misconception(
            "there is no constant",
            _wrong_probe(constant=False),
            "A 1 is appended to each state, so that the probe has a bias. Without it every class has the same value at the "
            "origin.",
        ),
        Misconception(
            "the penalty is left out",
            _wrong_probe(penalised=False),
            "The squares XᵀX get `penalty` added on their diagonal.",
        ),
        Misconception(
            "labels are taken for numbers",
            _wrong_probe(goal="numbers"),
            "Class 2 is not twice class 1. Each class has a column of its own, 1 where it is right and 0 elsewhere, and the "
            "largest of them is the answer.",
        ),
        Misconception(
            "the baseline knows the test labels",
            _wrong_probe(baseline_of="test"),
            "The commonest class is looked up among the *training* labels. Which one is commonest in the test nobody knows in "
            "advance.",
        ),
        Misconception(
            "the baseline is chance",
            _wrong_probe(baseline_of="chance"),
            "Where classes are not equally frequent, always saying the commonest is right more often than 1 in c. That is the bar "
            "to pass.",
        ),
        Misconception(
            "the baseline is the lowest layer",
            _wrong_probe(baseline_of="lowest layer"),
            "The baseline reads no states at all: it is the accuracy of always saying the commonest class.",
        ),
        Misconception(
            "the best layer is named, however small its lead",
            _wrong_probe(verdict=_verdict_of_the_best),
            "A lead of less than 0.02 is luck. The verdict is the *lowest* layer whose accuracy is at least the best minus 0.02.",
        ),
        Misconception(
            "a layer is named though none beats the baseline",
            _wrong_probe(verdict=_verdict_in_any_case),
            "Where the best layer does not reach the baseline plus 0.05, nothing was found, and the verdict is None.",
        ),
        Misconception(
            "the first layer that beats the baseline is named",
            _wrong_probe(verdict=_verdict_above_the_baseline),
            "The question is not where something can be read off first, but where it is read as well as anywhere: within 0.02 "
            "of the best.",
        ),
        Misconception(
            "layers are counted from 1",
            _wrong_probe(verdict=_verdict_counted_from_1),
            "Layer 0 is what the blocks were given, the input embedding. Count from 0.",
        ),
    ),
    hints=(
        "One function for one layer first: append a column of ones, solve, predict, compare. Then a loop over layers.",
        "`wanted = F.one_hot(train_labels).double()`; with X in float64, `torch.linalg.solve(X.T @ X + penalty * torch.eye(d + "
        "1), X.T @ wanted)` are the weights, and the prediction is the `argmax` of `test @ weights`.",
        "`torch.bincount(train_labels).argmax()` is the commonest class. The verdict: None if `max(accuracies) < baseline + "
        "0.05`, else the first layer with an accuracy of at least `max(accuracies) - 0.02`.",
    ),
)

# --- bert/fill_blanks --------------------------------------------------------------------------

LEFTS, RIGHTS = 6, 6


def blank_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Two invented languages in which both neighbours together decide about a word."""
    yield _blank_case(rng, "an invented language")
    yield _blank_case(rng, "another invented language", hidden=True)


def _blank_case(rng: np.random.Generator, name: str, hidden: bool = False) -> Case:
    """Sentences of three phrases: a left word, a word that left and right decide together, a right word.

    The left word alone leaves six words to choose from, and so does the right one.
    """
    num_words = LEFTS + RIGHTS + LEFTS * RIGHTS
    words = rng.permutation(num_words)
    left, right = words[:LEFTS], words[LEFTS : LEFTS + RIGHTS]
    table = words[LEFTS + RIGHTS :].reshape(LEFTS, RIGHTS)

    def say(count: int) -> np.ndarray:
        rows, columns = rng.integers(0, LEFTS, (2, count, 3))
        phrases = np.stack([left[rows], table[rows, columns], right[columns]], axis=-1)
        return phrases.reshape(count, 9).astype(np.int64)

    sentences, questions = say(1500), say(200)
    places = rng.choice([1, 4, 7], size=len(questions))
    rows = np.arange(len(questions))
    truth = questions[rows, places].copy()
    questions[rows, places] = num_words
    inputs = {"sentences": sentences, "num_words": num_words, "questions": questions}
    return Case(name, inputs, hidden, withheld={"words": truth})


class _Reader(nn.Module):
    """One block of attention over tokens and places, without anything that training does not need."""

    def __init__(self, num_words: int, length: int, causal: bool = False, width: int = 48) -> None:
        super().__init__()
        self.tokens = nn.Embedding(num_words + 1, width)
        self.places = nn.Parameter(0.3 * torch.randn(length, width))
        self.block = nn.TransformerEncoderLayer(width, 4, 96, 0.0, batch_first=True, norm_first=True)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, num_words)
        self.mask = torch.ones(length, length).triu(1).bool() if causal else None

    def forward(self, ids: Tensor) -> Tensor:
        stream = self.tokens(ids) + self.places
        mask = None if self.mask is None else self.mask.to(ids.device)
        return self.head(self.norm(self.block(stream, src_mask=mask)))


def _filling(
    *, steps: int = 300, causal: bool = False, hides: bool = True, counts: str = "masked"
) -> Callable[..., Tensor]:
    """An answer with at most one thing wrong; by default nothing is."""

    def fill_blanks(sentences: Tensor, num_words: int, questions: Tensor) -> Tensor:
        device, length = sentences.device, sentences.shape[1]
        model = _Reader(num_words, length, causal).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.01)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = 5e-3 * min(1.0, (step + 1) / 20, 2 * (steps - step) / steps)
            ids = sentences[torch.randint(len(sentences), (64,), device=device)]
            chosen = torch.rand(ids.shape, device=device) < 0.2
            logits = model(torch.where(chosen, num_words, ids) if hides else ids)
            counted = chosen if counts == "masked" else ~chosen
            optimizer.zero_grad()
            F.cross_entropy(logits[counted], ids[counted]).backward()
            optimizer.step()
        with torch.no_grad():
            logits = model.eval()(questions)
        return logits[questions == num_words].argmax(dim=-1)

    return fill_blanks


def _blanks_by_neighbours(sentences: Tensor, num_words: int, questions: Tensor) -> Tensor:
    """How often each word stands between two neighbours: enough for this language."""
    counts = torch.zeros(num_words**3, device=sentences.device)
    before, word, after = (sentences[:, i : sentences.shape[1] - 2 + i] for i in range(3))
    where = (before * num_words + after) * num_words + word
    counts.index_add_(0, where.flatten(), torch.ones_like(where.flatten(), dtype=counts.dtype))
    rows, places = (questions == num_words).nonzero(as_tuple=True)
    key = questions[rows, places - 1] * num_words + questions[rows, places + 1]
    return counts.view(-1, num_words)[key].argmax(dim=-1)


def _blanks_by_window(sentences: Tensor, num_words: int, questions: Tensor) -> Tensor:
    """A small network that reads the two neighbours of one hidden word."""
    device = sentences.device
    table = nn.Embedding(num_words, 32).to(device)
    network = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, num_words)).to(device)
    optimizer = torch.optim.Adam([*table.parameters(), *network.parameters()], lr=5e-3)
    for _ in range(300):
        ids = sentences[torch.randint(len(sentences), (128,), device=device)]
        around = table(torch.stack([ids[:, :-2], ids[:, 2:]], dim=-1)).flatten(2)
        optimizer.zero_grad()
        F.cross_entropy(network(around).flatten(0, 1), ids[:, 1:-1].flatten()).backward()
        optimizer.step()
    rows, places = (questions == num_words).nonzero(as_tuple=True)
    pairs = torch.stack([questions[rows, places - 1], questions[rows, places + 1]], dim=-1)
    return network(table(pairs).flatten(1)).argmax(dim=-1)


BLANKS = Exercise(
    id="bert/fill_blanks",
    title="Train a model that fills in blanks",
    points=5,
    minutes=90,
    difficulty=4,
    cases=blank_cases,
    probe=probes.fill_blanks,
    reference=_filling(),
    also_right=(_blanks_by_neighbours, _blanks_by_window),
    forbidden=LIBRARY,
    gpu=True,
    seconds=40.0,
    judged={"the tensor of words": Score("accuracy", truth="words", at_least=0.9)},
    misconceptions=(
        Misconception(
            "tokens are not hidden in training",
            _filling(steps=100, hides=False),
            "The model is given every word that it is asked for, and learns to copy. Its loss falls to 0 and it knows nothing "
            "about blanks: hide the chosen tokens first.",
        ),
        Misconception(
            "the model reads only what comes before",
            _filling(steps=100, causal=True),
            "A word in the middle depends on both of its neighbours. A causal mask hides one of them: take it away.",
        ),
        Misconception(
            "the loss counts what is not hidden",
            _filling(steps=100, counts="others"),
            "Your loss asks for the tokens that the model sees, and never for those that are hidden. Turn it round.",
        ),
        Misconception(
            "the model is not trained",
            _filling(steps=0),
            "Weights as they were drawn know nothing of this language. Look at the loss: does it fall?",
        ),
    ),
    hints=(
        "Train on batches of `sentences`: in each, choose some places, put `num_words` there, and ask the model for what stood "
        "at these places and nowhere else. Print the loss now and then.",
        "Width 48, one block of `nn.TransformerEncoderLayer(48, 4, 96, 0.0, batch_first=True, norm_first=True)`, learned "
        "positions, 64 sentences a batch, a fifth of the places hidden, AdamW at 5e-3 for 300 steps.",
        "`chosen = torch.rand(ids.shape, device=ids.device) < 0.2`, `logits = model(torch.where(chosen, num_words, ids))`, "
        "`F.cross_entropy(logits[chosen], ids[chosen])`; at the end `model(questions)[questions == num_words].argmax(-1)`.",
    ),
)

EXERCISES = (MASK, PAIRS, EMBEDDING, HEADS, PROBE, BLANKS)
