"""What can happen: each kind of event with what it needs, what it changes, and how three languages tell it.

A kind is one entry of `kinds`. Its fields:

- `needs`: facts that must hold of the actor (see `state.facts`); `slots`: who and what takes part, in the
  order in which English tells them, each with the rule that finds its candidates (see `casting`);
- `effects`: what is true afterwards, as commands of `state.apply`;
- `english`, `french`, `chinese`: templates. A word is a literal, `~key` aligns it with the words of the
  same key in another language; `@A` makes it agree with slot A; `%T` makes a French participle agree with T
  if T stands before it as a pronoun; `^` is where French object pronouns go. `{A}` tells slot A, `{A:form}`
  in a given form.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from course_lib.data.story_world.kinds import GROUPS, TABLES


@dataclass(frozen=True)
class Token:
    """One token of a template: a literal (`slot` empty) or a slot; `form` and `agree` refine it."""

    word: str
    slot: str
    form: str
    agree: str
    after_clitic: bool
    key: str


_TOKEN = re.compile(
    r"(?:\{(?P<slot>[A-Z]+)(?::(?P<form>\w+))?(?:@(?P<with>[A-Z]+))?\}"
    r"|(?P<word>[^\s@%~]+)(?:(?P<mark>[@%])(?P<agree>[A-Z]+))?(?:~(?P<key>[\w.]+))?)$"
)


def parse_template(template: str) -> tuple[Token, ...]:
    """The tokens of a template.

    >>> [token.word or token.slot for token in parse_template("{A} gave~v {T}")]
    ['A', 'gave', 'T']
    """
    return tuple(_parse_token(piece) for piece in template.split())


def _parse_token(piece: str) -> Token:
    found = _TOKEN.match(piece)
    if found is None:
        raise ValueError(f"cannot read the template token {piece!r}; expected word~key, word@A or {{A:form}}")
    part = found.groupdict(default="")
    return Token(
        part["word"],
        part["slot"],
        part["form"],
        part["agree"] or part["with"],
        part["mark"] == "%",
        part["key"],
    )


@dataclass(frozen=True)
class Kind:
    """A kind of event; see the module's docstring for the fields."""

    name: str
    actor: str
    needs: tuple[str, ...]
    slots: tuple[tuple[str, str], ...]
    english: str
    french: str
    chinese: str
    effects: tuple[tuple[str, ...], ...] = ()
    weight: int = 6
    after: frozenset[str] = frozenset()
    salience: int = 1
    opener: bool = True
    repeats: bool = False

    @cached_property
    def english_tokens(self) -> tuple[Token, ...]:
        return parse_template(self.english)

    @cached_property
    def french_tokens(self) -> tuple[Token, ...]:
        return parse_template(self.french)

    @cached_property
    def chinese_tokens(self) -> tuple[Token, ...]:
        return parse_template(self.chinese)

    @cached_property
    def rules(self) -> dict[str, str]:
        return dict(self.slots)


def read_kinds(table: str) -> tuple[Kind, ...]:
    """The kinds of a table of `kinds`: five lines each.

    >>> read_kinds("rain | world | |\\n | weight=3\\n it rained\\n il a plu\\n 下 雨 了")[0].weight
    3
    """
    lines = [line.strip() for line in table.strip().splitlines()]
    if len(lines) % 5:
        raise ValueError(f"a table of kinds has five lines an entry; this one has {len(lines)} lines")
    return tuple(_read_kind(*lines[start : start + 5]) for start in range(0, len(lines), 5))


def _read_kind(head: str, tail: str, english: str, french: str, chinese: str) -> Kind:
    name, actor, needs, slots = (cell.strip() for cell in head.split("|"))
    effects, _, written = tail.partition("|")
    options = dict(option.partition("=")[::2] for option in written.split())
    after = options.get("after", "")
    return Kind(
        name,
        actor,
        tuple(needs.split()),
        tuple((slot.split("=")[0], slot.split("=")[1]) for slot in slots.split()),
        english,
        french,
        chinese,
        tuple(tuple(effect.split()) for effect in effects.split(";") if effect.strip()),
        weight=int(options.get("weight", 6)),
        after=frozenset(GROUPS.get(after, after).split(",")),
        salience=int(options.get("salience", 1)),
        opener="no_opener" not in options,
        repeats="repeats" in options,
    )


KINDS = tuple(kind for table in TABLES for kind in read_kinds(table))
