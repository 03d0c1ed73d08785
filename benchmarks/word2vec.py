"""The course's word2vec against gensim's, both on one thread: words a second, and what the vectors know.

    pip install gensim==4.4.0
    python benchmarks/word2vec.py [--rounds 5] [--epochs 3]

Both train skip-gram with negative sampling on the same words, width 100, window 5, 5 negatives. The text is
thinned out once, before anything is timed, and then by neither, so that both see the same words. Each round
runs one after the other and swaps their order; figures are medians of words × epochs / seconds of processor
time, a ratio is the median of the rounds' ratios, gensim's speed over ours.
"""

from __future__ import annotations

import argparse
import os

os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy and torch are imported

import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

# This file has the name of the module it measures; Python looks in the script's own folder first.
sys.path[:] = [folder for folder in sys.path if Path(folder).resolve() != Path(__file__).resolve().parent]

import gensim  # noqa: E402
import torch  # noqa: E402

from course_lib.data import story_world  # noqa: E402
from course_lib.data.stdlib_text import python_files  # noqa: E402
from course_lib.models.word2vec import (  # noqa: E402
    Corpus,
    Word2VecConfig,
    WordVectors,
    keep_probability,
    train_word2vec,
)

BAR = 3.0
SETTINGS = Word2VecConfig(d_model=100, window=5, negatives=5, subsample=0)
Texts = list[list[str]]


def read_stories(count: int) -> Texts:
    """Stories of the story world, in lower case, without punctuation."""
    told = islice(story_world.stories(seed=4), count)
    return [[word.lower() for word in story.words if word.isalpha()] for story in told]


def read_source(megabytes: float) -> Texts:
    """The words of the standard library's source, 1,000 of them to a text."""
    words = [word for text in python_files(megabytes) for word in re.findall(r"[a-z_]+", text.lower())]
    return [words[start : start + 1000] for start in range(0, len(words), 1000)]


def thinned(texts: Texts, threshold: float = 1e-3) -> Texts:
    """The texts with rare words left out and frequent ones subsampled, once and for both."""
    corpus = Corpus.read(texts)
    generator = torch.Generator().manual_seed(0)
    kept = (
        torch.rand(len(corpus.ids), generator=generator)
        < keep_probability(corpus.counts, threshold)[corpus.ids]
    )
    found: Texts = [[] for _ in texts]
    for index, document in zip(corpus.ids[kept].tolist(), corpus.documents[kept].tolist(), strict=True):
        found[document].append(corpus.names[index])
    return found


def train_theirs(texts: Texts, epochs: int) -> WordVectors:
    """gensim's skip-gram with the same settings."""
    model = gensim.models.Word2Vec(
        texts,
        vector_size=SETTINGS.d_model,
        window=SETTINGS.window,
        negative=SETTINGS.negatives,
        ns_exponent=SETTINGS.power,
        alpha=SETTINGS.lr,
        min_alpha=SETTINGS.lr / 1000,
        sample=0,
        min_count=1,
        sg=1,
        workers=1,
        epochs=epochs,
        seed=1,
    )
    vectors = torch.tensor(model.wv.vectors)
    return WordVectors(tuple(model.wv.index_to_key), vectors, vectors)


def train_ours(texts: Texts, epochs: int) -> WordVectors:
    """The course's, from the same lists of words."""
    return train_word2vec(
        Corpus.read(texts, min_count=1), Word2VecConfig(**{**vars(SETTINGS), "epochs": epochs})
    )


def same_part_of_speech(vectors: WordVectors) -> float:
    """The share of the story world's nouns, adjectives and verbs whose nearest such word is of its kind."""
    kinds = {form.lower(): word.part_of_speech for word in story_world.vocabulary() for form in word.forms}
    known = [name for name in vectors.names if kinds.get(name) in ("noun", "adjective", "verb")]
    rows = torch.tensor([vectors.number[name] for name in known])
    cosines = (vectors.unit[rows] @ vectors.unit[rows].T).fill_diagonal_(-1)
    pairs = zip(known, cosines.argmax(dim=1).tolist(), strict=True)
    return statistics.mean(kinds[name] == kinds[known[best]] for name, best in pairs)


def speed(train: Callable[[Texts, int], WordVectors], texts: Texts, epochs: int) -> float:
    """Words a second of processor time."""
    start = time.process_time()
    train(texts, epochs)
    return epochs * sum(map(len, texts)) / (time.process_time() - start)


def contest(texts: Texts, rounds: int, epochs: int) -> tuple[float, float, float]:
    """Median speeds of ours and theirs, and the median ratio of theirs to ours."""
    speeds = []
    for number in range(rounds):
        order: Sequence[Callable[[Texts, int], WordVectors]] = (train_ours, train_theirs)
        measured = {train: speed(train, texts, epochs) for train in order[:: 1 if number % 2 else -1]}
        speeds.append((measured[train_ours], measured[train_theirs]))
    ours, theirs = zip(*speeds, strict=True)
    ratio = statistics.median(their / our for our, their in speeds)
    return statistics.median(ours), statistics.median(theirs), ratio


def main() -> int:
    """Time both on two texts; exit status 1 if the course is more than three times slower on either."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, gensim {gensim.__version__}"
    print(f"{versions}, one thread each")
    stories = thinned(read_stories(20_000))
    ratios = []
    for name, texts in (("story world", stories), ("standard library", thinned(read_source(8)))):
        ours, theirs, ratio = contest(texts, arguments.rounds, arguments.epochs)
        vocabulary = len({word for text in texts for word in text})
        print(f"{name}: {sum(map(len, texts)):,} words, {vocabulary:,} different", end="; ")
        print(f"course {ours:,.0f} words/s, gensim {theirs:,.0f} words/s, ratio {ratio:.2f}", flush=True)
        ratios.append(ratio)
    quality = [same_part_of_speech(train(stories, 5)) for train in (train_ours, train_theirs)]
    print("nearest word of the same part of speech: course {:.3f}, gensim {:.3f}".format(*quality))
    print(f"gensim at most {BAR} × as fast: {'reached' if max(ratios) <= BAR else 'missed'}")
    return 0 if max(ratios) <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
