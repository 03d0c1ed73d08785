"""Dates as people write them, and as computers do (ISO 8601): the task that chapter 09 learns live.

    Friday , 2 9 May 1 9 5 3  →  1 9 5 3 - 0 5 - 2 9

Four ways to write a date, every day from 1900 to 2099. Digits stand alone, so that nothing can be learned by
heart as a whole: a model has to reorder, to look up the month, to fill up with zeros and to pass over the
weekday.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import date, timedelta

import torch
from torch import Tensor

MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
PAD, BEGIN, END = 0, 1, 2
VOCABULARY = ("·", "<begin>", "<end>", *"0123456789", "-", ",", "(", ")", *MONTHS, *WEEKDAYS)
NUMBER = {word: index for index, word in enumerate(VOCABULARY)}
FIRST, DAYS = date(1900, 1, 1), 73_049
FORMS = 4

Pair = tuple[list[str], list[str]]


def written(day: date, form: int) -> list[str]:
    """The tokens of a date as a person writes it, in one of four ways.

    >>> " ".join(written(date(1953, 5, 29), 1))
    'May 2 9 , 1 9 5 3'
    """
    number, month, year = list(str(day.day)), MONTHS[day.month - 1], list(str(day.year))
    weekday = WEEKDAYS[day.weekday()]
    return [
        [*number, month, *year],
        [month, *number, ",", *year],
        [weekday, ",", *number, month, *year],
        [month, *number, ",", *year, "(", weekday, ")"],
    ][form]


def pair(number: int, form: int) -> Pair:
    """Day `number` after 1 January 1900, as a person writes it and as a computer does."""
    day = FIRST + timedelta(days=number)
    return written(day, form), list(day.isoformat())


def split(seed: int = 0, held_out: int = 500) -> tuple[list[Pair], list[Pair]]:
    """All days but `held_out` for training, each in one form drawn for it; and those for testing."""
    generator = random.Random(seed)
    pairs = [pair(number, generator.randrange(FORMS)) for number in range(DAYS)]
    generator.shuffle(pairs)
    return pairs[held_out:], pairs[:held_out]


def numbers(rows: Sequence[Sequence[str]]) -> Tensor:
    """Tokens as ids, padded behind: (b, n)."""
    width = max(map(len, rows))
    return torch.tensor([[NUMBER[word] for word in row] + [PAD] * (width - len(row)) for row in rows])


def words(ids: Tensor) -> list[list[str]]:
    """Rows of ids as tokens, up to the end token, without begin and padding."""
    rows = []
    for row in ids.tolist():
        row = row[: row.index(END)] if END in row else row
        rows.append([VOCABULARY[index] for index in row if index not in (PAD, BEGIN)])
    return rows


def batch(pairs: Sequence[Pair]) -> tuple[Tensor, Tensor, Tensor]:
    """Source (b, s), the decoder's input (b, t) and its targets (b, t), shifted by one against each other."""
    whole = numbers([["<begin>", *target, "<end>"] for _, target in pairs])
    return numbers([source for source, _ in pairs]), whole[:, :-1], whole[:, 1:]
