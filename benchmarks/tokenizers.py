"""The course's tokenizers against the Rust `tokenizers` library: training and encoding, alternated.

    python benchmarks/tokenizers.py [--rounds 9] [--vocab-size 1024] [--megabytes 1]

Both learn from the same files and encode the same text; each round runs one after the other and swaps their
order, so that a slow moment of the machine hits both. The figures are medians; a ratio is the median of the
rounds' ratios. The library runs with as many threads as it takes by default, then, in a process of its own,
with one. The course's tokenizer is Python and uses one thread.

`first` is the first encoding by a new tokenizer, whose cache of chunks is empty; `again` is the same text
once more. Before anything is timed, the merges and the ids of the two are checked to be equal.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# This file has the name of the library it measures, and Python looks in the script's own folder first.
sys.path[:] = [folder for folder in sys.path if Path(folder).resolve() != Path(__file__).resolve().parent]

import tokenizers  # noqa: E402

from course_lib.data.stdlib_text import python_files, reference_prose  # noqa: E402
from course_lib.tokenizers import (  # noqa: E402
    BPETokenizer,
    Tokenizer,
    UnigramTokenizer,
    WordPieceTokenizer,
)

TRAINING_BAR = 1.5
ENCODING_BAR = 1.0


@dataclass(frozen=True)
class Contest:
    """Two ways to do one thing: a name, ours, theirs, and what runs untimed before each call."""

    name: str
    ours: Callable[[], object]
    theirs: Callable[[], object]
    before: Callable[[], object] = lambda: None


def train_theirs(texts: list[str], vocab_size: int) -> tokenizers.Tokenizer:
    """The library's byte-level BPE with its own trainer."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


class Encoders:
    """A pair of freshly loaded tokenizers, whose caches are empty after `renew`."""

    def __init__(self, trained: Tokenizer) -> None:
        self._kind, self._saved = type(trained), trained.to_json()
        self.renew()

    def renew(self) -> None:
        self._ours = self._kind.from_json(self._saved)
        self._theirs = tokenizers.Tokenizer.from_str(self._saved)

    def ours(self, texts: list[str]) -> list[list[int]]:
        encode = self._ours.encode
        return [encode(text) for text in texts]

    def theirs(self, texts: list[str]) -> list[list[int]]:
        encode = self._theirs.encode
        return [encode(text).ids for text in texts]

    def theirs_in_a_batch(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._theirs.encode_batch(texts)]


def contests(texts: list[str], vocab_size: int) -> list[Contest]:
    """What is timed, after checking that both sides give the same answers."""
    ours = BPETokenizer.train(texts, vocab_size, special_tokens=[])
    theirs = train_theirs(texts, vocab_size)
    merges = [tuple(merge) for merge in json.loads(theirs.to_str())["model"]["merges"]]
    whole = ["".join(texts)]
    lines = whole[0].splitlines(keepends=True)
    encoders = Encoders(ours)
    wordpiece = Encoders(WordPieceTokenizer.train([reference_prose()], vocab_size))
    unigram = Encoders(UnigramTokenizer.train([reference_prose()], vocab_size))
    same_ids = all(pair.ours(whole) == pair.theirs(whole) for pair in (encoders, wordpiece, unigram))
    if ours.merges != merges or not same_ids:
        raise SystemExit("the two tokenizers differ, so their times are not comparable")
    return [
        Contest(
            "train, list of files",
            lambda: BPETokenizer.train(texts, vocab_size, special_tokens=[]),
            lambda: train_theirs(texts, vocab_size),
        ),
        Contest(
            "train, list of lines",
            lambda: BPETokenizer.train(lines, vocab_size, special_tokens=[]),
            lambda: train_theirs(lines, vocab_size),
        ),
        Contest(
            "encode one string, first",
            lambda: encoders.ours(whole),
            lambda: encoders.theirs(whole),
            encoders.renew,
        ),
        Contest("encode one string, again", lambda: encoders.ours(whole), lambda: encoders.theirs(whole)),
        Contest("encode line by line", lambda: encoders.ours(lines), lambda: encoders.theirs(lines)),
        Contest(
            "encode_batch of lines", lambda: encoders.ours(lines), lambda: encoders.theirs_in_a_batch(lines)
        ),
        Contest(
            "WordPiece, one string, first",
            lambda: wordpiece.ours(whole),
            lambda: wordpiece.theirs(whole),
            wordpiece.renew,
        ),
        Contest(
            "Unigram, one string, first",
            lambda: unigram.ours(whole),
            lambda: unigram.theirs(whole),
            unigram.renew,
        ),
    ]


def seconds(action: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def run(contest: Contest, rounds: int) -> tuple[float, float, float]:
    """Median seconds of ours and of theirs, and the median ratio, after one round that is not counted."""
    times: list[tuple[float, float]] = []
    for number in range(rounds + 1):
        contest.before()
        if number % 2:
            ours, theirs = seconds(contest.ours), seconds(contest.theirs)
        else:
            theirs, ours = seconds(contest.theirs), seconds(contest.ours)
        times.append((ours, theirs))
    ours_times, their_times = zip(*times[1:], strict=True)
    ratio = statistics.median(ours / theirs for ours, theirs in times[1:])
    return statistics.median(ours_times), statistics.median(their_times), ratio


def report(arguments: argparse.Namespace) -> dict[str, float]:
    """Print a table; return the ratios by name."""
    texts = python_files(arguments.megabytes)
    ratios: dict[str, float] = {}
    print(f"{'':30} {'course':>9} {'library':>9} {'ratio':>6}")
    for contest in contests(texts, arguments.vocab_size):
        ours, theirs, ratio = run(contest, arguments.rounds)
        print(f"{contest.name:30} {ours:8.3f}s {theirs:8.3f}s {ratio:6.2f}", flush=True)
        ratios[contest.name] = ratio
    return ratios


def main() -> int:
    """Time with the library's default threads, then with one; exit status 1 if the default misses a bar."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--vocab-size", type=int, default=1024)
    parser.add_argument("--megabytes", type=float, default=1.0)
    parser.add_argument("--one-thread", action="store_true", help="only the part with one thread")
    arguments = parser.parse_args()
    if arguments.one_thread:
        report(arguments)
        return 0
    print(f"Python {platform.python_version()}, tokenizers {tokenizers.__version__}, {os.cpu_count()} cores")
    print(f"{arguments.megabytes} MB of the standard library, vocabulary {arguments.vocab_size}")
    print("\nlibrary with its default threads")
    ratios = report(arguments)
    print("\nlibrary with one thread", flush=True)
    single = os.environ | {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    subprocess.run([sys.executable, *sys.argv, "--one-thread"], env=single, check=True)
    reached = (
        ratios["train, list of files"] <= TRAINING_BAR and ratios["encode one string, first"] <= ENCODING_BAR
    )
    print(f"\ntraining ≤ {TRAINING_BAR}, encoding ≤ {ENCODING_BAR}: {'reached' if reached else 'missed'}")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
