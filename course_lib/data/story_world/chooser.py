"""Where chance enters: integer choices, drawn, replayed or enumerated by the same narrator.

Everything is integer arithmetic, so that a seed gives the same story on every platform and Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple, Protocol

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


class Choice(NamedTuple):
    """One choice that was made: the option taken, its weight, and the weight of all options."""

    option: int
    weight: int
    total: int


class Chooser(Protocol):
    """What the narrator asks for whenever the story could go on in more than one way."""

    def weighted(self, weights: Sequence[int]) -> int:
        """An index, with probability proportional to its integer weight."""
        ...

    def uniform(self, count: int) -> int:
        """An index below `count`, all equally likely."""
        ...


def mix(*numbers: int) -> int:
    """A 64-bit seed from several integers (SplitMix64's finaliser, folded)."""
    state = 0
    for number in numbers:
        state = _scramble((state + _GOLDEN + (number & _MASK) * 0xD1342543DE82EF95) & _MASK)
    return state


def _scramble(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


class SplitMix64:
    """Steele, Lea and Flood 2014: a 64-bit generator in three lines of integer arithmetic."""

    def __init__(self, seed: int) -> None:
        self.state = seed & _MASK

    def next(self) -> int:
        self.state = (self.state + _GOLDEN) & _MASK
        return _scramble(self.state)

    def below(self, count: int) -> int:
        """An integer in `[0, count)`, exactly uniform: the uneven tail of the range is rejected."""
        limit = (1 << 64) - (1 << 64) % count
        value = self.next()
        while value >= limit:
            value = self.next()
        return value % count


class SamplingChooser:
    """Draws every choice, and keeps what it drew in `choices`."""

    def __init__(self, seed: int) -> None:
        self.below = SplitMix64(seed).below
        self.choices: list[Choice] = []

    def weighted(self, weights: Sequence[int]) -> int:
        total = sum(weights)
        rest = self.below(total)
        for index, weight in enumerate(weights):
            if rest < weight:
                self.choices.append(Choice(index, weight, total))
                return index
            rest -= weight
        raise ValueError(f"no option can be chosen from the weights {list(weights)}; give a positive one")

    def uniform(self, count: int) -> int:
        if count == 1:
            return 0
        index = self.below(count)
        self.choices.append(Choice(index, 1, count))
        return index


class ReplayChooser:
    """Takes the choices it is given, then the first possible one, and notes the roads not taken.

    After a run, `branches` holds every other beginning that leaves this run's path: running those in turn,
    and theirs, visits every path once.
    """

    def __init__(self, path: Sequence[int]) -> None:
        self.path = list(path)
        self.choices: list[Choice] = []
        self.branches: list[list[int]] = []

    def weighted(self, weights: Sequence[int]) -> int:
        depth = len(self.choices)
        possible = [index for index, weight in enumerate(weights) if weight > 0]
        index = self.path[depth] if depth < len(self.path) else possible[0]
        if depth >= len(self.path):
            taken = [choice.option for choice in self.choices]
            self.branches.extend([*taken, other] for other in possible[1:])
        self.choices.append(Choice(index, weights[index], sum(weights)))
        return index

    def uniform(self, count: int) -> int:
        return 0 if count == 1 else self.weighted([1] * count)

    def probability(self) -> Fraction:
        """The exact probability of this run's choices."""
        result = Fraction(1)
        for choice in self.choices:
            result *= Fraction(choice.weight, choice.total)
        return result
