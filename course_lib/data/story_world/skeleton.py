"""Skeletons: what is left of a story or sentence without its names, and the split that it belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from course_lib.data.story_world.lexicon import Adjective
from course_lib.data.story_world.telling import Told

Skeleton = tuple[str, ...]
SPLITS = ("train", "valid", "test")
SPLIT_SHARES = {"train": 8, "valid": 1, "test": 1}  # tenths of all skeletons


def story_skeleton(story: Sequence[Told]) -> Skeleton:
    """One string a sentence: the kind of event, and the entities that fill it, numbered as they appear.

    Names, nouns and adjectives are all left out: two stories with one skeleton tell the same events about
    other people and things.
    """
    numbers: dict[int, int] = {}
    lines = []
    for told in story:
        slots = []
        for slot, value in sorted(told.values.items()):
            if not isinstance(value, Adjective):
                slots.append(f"{slot}{numbers.setdefault(value.identity, len(numbers))}")
        lines.append(f"{told.kind.name} {' '.join(slots)}")
    return tuple(lines)


def sentence_skeleton(told: Told) -> Skeleton:
    """The kind of event with its things, places and adjectives; people are all alike.

    Two sentences that differ only in who acts, in name or pronoun, in article or in "Then," have one
    skeleton.
    """
    parts = [told.kind.name.replace("be_too", "be")]
    for slot, value in sorted(told.values.items()):
        if isinstance(value, Adjective):
            parts.append(f"{slot}:{value.lemma}")
        elif value.type == "person":
            parts.append(f"{slot}:person")
        else:
            number = "s" if value.plural else ""
            parts.append(f"{slot}:{value.noun.french}{number}")
    return tuple(parts)


def split_of(skeleton: Skeleton) -> str:
    """The split of a skeleton: a stable hash of it, in tenths (see `SPLIT_SHARES`)."""
    digest = hashlib.sha256("\n".join(skeleton).encode()).digest()
    tenth = int.from_bytes(digest[:8], "big") % 10
    for split, share in SPLIT_SHARES.items():
        if tenth < share:
            return split
        tenth -= share
    raise AssertionError("the shares of SPLIT_SHARES add up to ten")
