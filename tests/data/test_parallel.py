"""Batches of pairs. Oracle: the definitions, and every pair once in each pass."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.data.parallel import LengthBatches, collate, pad, share_of_padding

ids = st.lists(st.integers(4, 9), min_size=1, max_size=12)
corpora = st.lists(st.tuples(ids, ids), min_size=1, max_size=40)


def test_inputs_begin_targets_end_and_each_target_follows_its_input() -> None:
    batch = collate([([5, 6], [7, 8, 9]), ([4], [6])])
    assert batch.source_ids.tolist() == [[5, 6], [4, 0]]
    assert batch.inputs.tolist() == [[1, 7, 8, 9], [1, 6, 0, 0]]
    assert batch.targets.tolist() == [[7, 8, 9, 2], [6, 2, 0, 0]]
    assert share_of_padding(batch) == 3 / 12
    assert pad([[3], [1, 2]], pad_id=9).tolist() == [[3, 9], [1, 2]]


@settings(deadline=None)
@given(corpora, st.integers(5, 80), st.integers(0, 99), st.booleans())
def test_every_pass_has_every_pair_once_and_no_batch_is_too_large(
    pairs: list[tuple[list[int], list[int]]], tokens: int, seed: int, by_length: bool
) -> None:
    batches = LengthBatches(pairs, tokens, seed=seed, by_length=by_length)
    steps = 0
    for number in range(2):
        groups = batches.groups(number)
        assert sorted(index for group in groups for index in group) == list(range(len(pairs)))
        for group in groups:
            batch = collate([pairs[index] for index in group])
            assert len(group) == 1 or batch.source_ids.numel() + batch.inputs.numel() <= tokens
        for group in groups:
            assert torch.equal(batches.batch(steps).targets, collate([pairs[i] for i in group]).targets)
            steps += 1


def test_a_batch_depends_on_the_seed_and_the_step_alone() -> None:
    pairs = [([4] * (1 + i % 5), [5] * (1 + i % 7)) for i in range(60)]
    forward, again, other = (LengthBatches(pairs, 40, seed=seed) for seed in (0, 0, 1))
    seen = [forward.batch(step).inputs for step in range(50)]
    assert all(torch.equal(again.batch(step).inputs, seen[step]) for step in reversed(range(50)))
    assert not all(torch.equal(other.batch(step).inputs, seen[step]) for step in range(50))


def test_batches_of_like_lengths_have_little_padding() -> None:
    pairs = [([4] * (1 + i * 7 % 20), [5] * (1 + i * 7 % 20)) for i in range(400)]
    shares = []
    for by_length in (True, False):
        batches = LengthBatches(pairs, 300, by_length=by_length)
        padding = [share_of_padding(batches.batch(step)) for step in range(len(batches.groups(0)))]
        shares.append(sum(padding) / len(padding))
    assert shares[0] < 0.1 < 0.3 < shares[1]


def test_no_pairs_are_named() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        LengthBatches([], 100)
