"""n-gram language models: the next word from counts of the last n − 1 words.

A context is a tuple of words, the nearest last. A text is padded with n − 1 times BEGIN in front and ends
with END, which is predicted like a word. Words outside the vocabulary are read as UNKNOWN. Every model gives
each word of the vocabulary, END and UNKNOWN a probability, and these sum to 1.
"""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

BEGIN, END, UNKNOWN = "<begin>", "<end>", "<unknown>"
Context = tuple[str, ...]


class NGramModel(ABC):
    """Counts of texts; a subclass makes probabilities of them.

    order: n, the words that are looked at together, the predicted one included. words: the vocabulary, END
    and UNKNOWN included. after: for a context of any length below n, how often each word came next.
    """

    def __init__(self, texts: Iterable[Sequence[str]], order: int) -> None:
        if order < 1:
            raise ValueError(f"order={order}; expected at least 1, which looks at no word before")
        texts = [tuple(text) for text in texts]
        self.order = order
        self.words = (END, UNKNOWN, *sorted({word for text in texts for word in text}))
        self._known = frozenset(self.words)
        self.after: defaultdict[Context, Counter[str]] = defaultdict(Counter)
        for text in texts:
            self._count(self._padded(text))

    def _count(self, padded: Sequence[str]) -> None:
        for end in range(self.order - 1, len(padded)):
            for start in range(end - self.order + 1, end + 1):
                self.after[tuple(padded[start:end])][padded[end]] += 1

    def _padded(self, text: Sequence[str]) -> list[str]:
        return [*[BEGIN] * (self.order - 1), *self._read(text), END]

    def _read(self, words: Iterable[str]) -> list[str]:
        return [word if word in self._known or word == BEGIN else UNKNOWN for word in words]

    def probability(self, word: str, context: Sequence[str] = ()) -> float:
        """p(word | the words before), of which the last n − 1 count; BEGIN stands in for those missing."""
        padded = [BEGIN] * (self.order - 1) + self._read(context)
        return self._probability(self._read([word])[0], tuple(padded[len(padded) - self.order + 1 :]))

    @abstractmethod
    def _probability(self, word: str, context: Context) -> float:
        """p(word | context) of n − 1 known words."""

    def log_probabilities(self, text: Sequence[str]) -> list[float]:
        """ln p of each word of a text, and of its end: one more than there are words."""
        padded, before = self._padded(text), self.order - 1
        found = [
            self._probability(padded[end], tuple(padded[end - before : end]))
            for end in range(before, len(padded))
        ]
        return [math.log(p) if p > 0 else -math.inf for p in found]

    def loss(self, texts: Iterable[Sequence[str]]) -> float:
        """The mean of −ln p over all words and ends, in nats; its exponential is the perplexity."""
        logs = [log for text in texts for log in self.log_probabilities(text)]
        if not logs:
            raise ValueError("no text was given; the loss is a mean over at least one")
        return -math.fsum(logs) / len(logs)

    def perplexity(self, texts: Iterable[Sequence[str]]) -> float:
        """exp of the mean of −ln p: among how many equally likely words the model is undecided."""
        return math.exp(self.loss(texts))

    def sample(self, seed: int, longest: int = 100) -> list[str]:
        """A text drawn word by word, up to its end or `longest` words; UNKNOWN is never drawn."""
        generator, text = random.Random(seed), list[str]()
        choices = [word for word in self.words if word != UNKNOWN]
        while len(text) < longest:
            weights = [self.probability(word, text) for word in choices]
            word = generator.choices(choices, weights)[0]
            if word == END:
                break
            text.append(word)
        return text


class AddK(NGramModel):
    """Every word is taken to have been seen k times more than it was; k = 0 is plain counting.

    p(w | h) = (count(h w) + k) / (count(h) + k · V). With k = 0 an unseen context gives every word 1 / V.
    """

    def __init__(self, texts: Iterable[Sequence[str]], order: int, k: float = 1.0) -> None:
        super().__init__(texts, order)
        self.k = k

    def _probability(self, word: str, context: Context) -> float:
        seen = self.after.get(context, Counter[str]())
        total = seen.total() + self.k * len(self.words)
        return (seen[word] + self.k) / total if total else 1 / len(self.words)


class Interpolated(NGramModel):
    """Mixes each order with the next lower one, down to equal shares: Jelinek and Mercer 1980.

    p(w | h) = weight · count(h w) / count(h) + (1 − weight) · p(w | h without its first word);
    a context that was never seen gives all its weight to the shorter one.
    """

    def __init__(self, texts: Iterable[Sequence[str]], order: int, weight: float = 0.8) -> None:
        super().__init__(texts, order)
        if not 0 <= weight < 1:
            raise ValueError(f"weight={weight}; expected 0 ≤ weight < 1, so that unseen words keep a share")
        self.weight = weight

    def _probability(self, word: str, context: Context) -> float:
        found = 1 / len(self.words)
        for length in range(len(context) + 1):
            seen = self.after.get(context[len(context) - length :])
            if seen:
                found = self.weight * seen[word] / seen.total() + (1 - self.weight) * found
        return found


class KneserNey(NGramModel):
    """Takes `discount` off every count, and gives it to words by how many contexts they follow.

    p(w | h) = max(c(h w) − d, 0) / c(h) + d · (words seen after h) / c(h) · p(w | h without its first word).
    At the highest order c counts; below it, c(h w) is how many different words stand before "h w":
    *Francisco* may be frequent, but follows one word only. Source: Kneser and Ney 1995, interpolated as in
    Chen and Goodman 1999, with one discount.
    """

    def __init__(self, texts: Iterable[Sequence[str]], order: int, discount: float = 0.75) -> None:
        super().__init__(texts, order)
        if not 0 < discount < 1:
            raise ValueError(f"discount={discount}; expected between 0 and 1")
        self.discount = discount
        # Each longer n-gram counts once for the shorter one that it ends in.
        self.kinds: defaultdict[Context, Counter[str]] = defaultdict(Counter)
        for context, seen in self.after.items():
            if context:
                self.kinds[context[1:]].update(seen.keys())

    def _probability(self, word: str, context: Context) -> float:
        found = 1 / len(self.words)
        for length in range(len(context) + 1):
            counts = self.after if length == self.order - 1 else self.kinds
            seen = counts.get(context[len(context) - length :])
            if seen:
                total = seen.total()
                spared = self.discount * len(seen) / total
                found = max(seen[word] - self.discount, 0) / total + spared * found
        return found
