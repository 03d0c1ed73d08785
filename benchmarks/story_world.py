"""How fast `story_world` tells: English words a second, and what labels and exact word probabilities add.

    python benchmarks/story_world.py [--words 1000000] [--stories 200]

Prints wall and processor seconds; the bar of the course is a million words in under 30 seconds on one core.
The processor time is the one to compare where other work shares the machine.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

from course_lib.data import story_world

BAR_SECONDS_PER_MILLION_WORDS = 30.0


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds of a piece of work."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def main() -> None:
    """Measure, print, and say whether the bar holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--words", type=int, default=1_000_000)
    parser.add_argument("--stories", type=int, default=200)
    given = parser.parse_args()

    wall, processor = timed(lambda: story_world.corpus(given.words, seed=1))
    per_million = processor * 1e6 / given.words
    verdict = "holds" if per_million < BAR_SECONDS_PER_MILLION_WORDS else "does not hold"
    print(f"corpus of {given.words:,} words: {wall:.1f} s wall, {processor:.1f} s processor")
    print(f"a million words: {per_million:.1f} s processor; the bar of 30 s {verdict}")

    sample = list(story_world.stories(seed=2, count=given.stories))
    _, labels = timed(lambda: [story.to_json() for story in sample])
    print(f"all labels and both translations: {labels / len(sample) * 1e3:.2f} ms a story")
    _, exact = timed(lambda: [story.word_log_probabilities for story in sample])
    print(f"exact probability of every word: {exact / len(sample) * 1e3:.1f} ms a story")

    whole = list(story_world.stories(seed=3, split=None, count=5000))
    share = math.exp(story_world.split_log_probability("train"))
    print(f"entropy: {story_world.entropy_per_word(whole):.3f} nats a word; P(train) = {share:.3f}")


if __name__ == "__main__":
    main()
