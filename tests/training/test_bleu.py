"""BLEU. Oracle: `sacrebleu`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib.training.bleu import corpus_bleu, ngrams

words = st.lists(st.sampled_from("abcde"), max_size=9)
pairs = st.lists(st.tuples(words, words.filter(bool)), min_size=1, max_size=6)


@pytest.mark.parametrize("smoothing", ["none", "exp"])
@given(pairs=pairs)
def test_it_is_sacrebleus(smoothing: str, pairs: list[tuple[list[str], list[str]]]) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    hypotheses, references = zip(*pairs, strict=True)
    theirs = sacrebleu.corpus_bleu(
        [" ".join(hypothesis) for hypothesis in hypotheses],
        [[" ".join(reference) for reference in references]],
        tokenize="none",
        smooth_method=smoothing,
        force=True,
    )
    ours = corpus_bleu(hypotheses, references, smoothing)  # type: ignore[arg-type]
    assert ours.score == pytest.approx(theirs.score, abs=1e-9)
    assert ours.precisions == pytest.approx(tuple(theirs.precisions), abs=1e-9)
    assert ours.brevity_penalty == pytest.approx(theirs.bp, abs=1e-12)
    assert (ours.length, ours.reference_length) == (theirs.sys_len, theirs.ref_len)


def test_papinenis_example_counts_a_word_no_more_often_than_its_reference() -> None:
    found = corpus_bleu(
        [["the", "the", "the", "the", "the", "the", "the"]], [["the", "cat", "is", "on", "the", "mat"]]
    )
    assert (found.matches[0], found.totals[0]) == (2, 7)


def test_equal_texts_have_100_and_counts_are_pooled_over_the_corpus() -> None:
    text = [["a", "b", "c", "d", "e"], ["f", "g", "h", "i"]]
    assert corpus_bleu(text, text).score == pytest.approx(100)
    one_bad = corpus_bleu([text[0], ["x", "y", "z", "w"]], text)
    assert one_bad.matches == (5, 4, 3, 2) and one_bad.totals == (9, 7, 5, 3)
    assert ngrams("a", 2).total() == 0


def test_as_many_references_as_hypotheses() -> None:
    with pytest.raises(ValueError, match="2 hypotheses for 1 references"):
        corpus_bleu([["a"], ["b"]], [["a"]])
