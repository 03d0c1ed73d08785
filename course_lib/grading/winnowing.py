"""Fingerprints of Python source that outlast renaming, reformatting, comments and a new order of functions.

The source is cut into tokens and normalised, each definition becomes a run of tokens of its own, and of the
hashes of all K-grams of a run the smallest of every WINDOW neighbours is kept (Schleimer, Wilkerson and
Aiken 2003, section 3). So two sources that share a run of at least GUARANTEED tokens, inside one definition
and outside the starter, share a fingerprint; and no fingerprint stands for fewer than K tokens.

Nothing here parses: a learner's answer may be broken, and its copies are found all the same.
"""

from __future__ import annotations

import hashlib
import keyword
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

K = 8
WINDOW = 4
GUARANTEED = K + WINDOW - 1
# Tokens from `for` to its `in`, and in a lambda's parameters: bounds the time that hostile text takes.
REACH = 200
DEEPEST = 20  # How many brackets that were not closed one bracket closes.

# What stands for a name that the learner chose, a keyword argument, a number, a text and bytes.
NAME, ARGUMENT, NUMBER, TEXT, BYTES = "$name", "$argument", "$number", "$text", "$bytes"

_TOKEN = re.compile(
    r"""
    (?P<space>[^\S\n]+|\\\n) | (?P<comment>\#[^\n]*) | (?P<newline>\n)
    | (?P<string>(?:[bB][rR]?|[rR][bB]|[fFtT][rR]?|[rR][fFtT]?|[uU])?
        (?:'''(?:\\.|(?!''')[^\\])*+(?:''')? | \"\"\"(?:\\.|(?!\"\"\")[^\\])*+(?:\"\"\")?
         | '(?:\\.|[^'\\\n])*+'? | "(?:\\.|[^"\\\n])*+"?))
    | (?P<number>0[xX][0-9a-fA-F_]++ | 0[bBoO][0-9_]++
        | (?:[0-9][0-9_]*+(?:\.[0-9_]*+)?|\.[0-9][0-9_]*+)(?:[eE][-+]?[0-9][0-9_]*+)?[jJ]?)
    | (?P<name>[^\W\d]\w*)
    | (?P<op>\.\.\. | \*\*=? | //=? | >>=? | <<=? | -> | [-+*/%@&|^<>=!:]= | .)
    """,
    re.VERBOSE | re.DOTALL,
)
_PARTNER = {")": "(", "]": "[", "}": "{"}
_OPEN, _CLOSE = frozenset("([{"), frozenset(")]}")
_ASSIGNMENTS = {"=", "+=", "-=", "*=", "/=", "//=", "%=", "@=", "&=", "|=", "^=", ">>=", "<<=", "**="}
_TRAILERS = {".", "[", "("}
_ENDS = _ASSIGNMENTS | {":", "if"}
_BLOCKS = {"if", "elif", "else", "for", "while", "with", "try", "except", "finally", "def", "class", "async"}
# No line inside brackets begins with these, so one that does shows that a bracket was never closed.
_STATEMENTS = (_BLOCKS - {"if", "else", "for", "async"}) | {
    *("return", "import", "raise", "pass", "break", "continue", "del", "global", "nonlocal", "assert")
}


class Token(NamedTuple):
    """kind: "name", "number", "string" or "op". line: from 1."""

    kind: str
    text: str
    line: int


@dataclass(frozen=True)
class Statement:
    """One logical line; what follows a block's colon on its line is a statement of its own, one deeper."""

    indent: int
    tokens: tuple[Token, ...]

    @property
    def defines(self) -> str:
        """ "def" or "class" where it opens a definition, else nothing."""
        words = [token.text for token in self.tokens[:2]]
        word = words[-1] if words[0] == "async" else words[0]
        return word if word in ("def", "class") else ""


@dataclass(frozen=True)
class Fingerprints:
    """places: the positions of the K-grams that each fingerprint stands for, in order.

    lines: the line of each token, by position. total: how many tokens are not the starter's. digest: equal
    for sources that are the same after normalisation, starter included.
    """

    places: Mapping[int, tuple[int, ...]]
    lines: tuple[int, ...]
    total: int
    digest: str

    def __len__(self) -> int:
        return len(self.places)


def fingerprints(source: str, starter: str = "") -> Fingerprints:
    """The fingerprints of any text; of what the starter also has there are none. Never raises."""
    segments = normalised(source)
    known = _grams_of(starter)
    places: dict[int, list[int]] = {}
    lines: list[int] = []
    total = 0
    for segment in segments:
        texts, start = [text for text, _ in segment], len(lines)
        lines += [line for _, line in segment]
        grams = _grams(texts)
        for begin, end in _own_runs(len(texts), grams, known):
            total += end - begin
            for gram, position in winnow(grams[begin : max(end - K + 1, begin)]):
                places.setdefault(gram, []).append(start + begin + position)
    told = sorted("\0".join(text for text, _ in segment) for segment in segments)
    digest = hashlib.sha256("\1".join(told).encode("utf-8", "replace")).hexdigest()
    return Fingerprints({gram: tuple(found) for gram, found in places.items()}, tuple(lines), total, digest)


def winnow(grams: Sequence[int], window: int = WINDOW) -> list[tuple[int, int]]:
    """(hash, position) of the rightmost smallest hash in each window, each position once.

    Fewer hashes than a window count as one.

    >>> winnow([77, 74, 42, 17, 98, 50, 17, 98, 8, 88, 67, 39, 77, 74, 42, 17, 98])
    [(17, 3), (17, 6), (8, 8), (39, 11), (17, 15)]
    """
    chosen: list[tuple[int, int]] = []
    for start in range(max(len(grams) - window + 1, min(len(grams), 1))):
        near = grams[start : start + window]
        smallest = min(near)
        position = start + len(near) - 1 - near[::-1].index(smallest)
        if not chosen or chosen[-1][1] != position:
            chosen.append((smallest, position))
    return chosen


def _grams(texts: Sequence[str]) -> list[int]:
    """A stable 64-bit hash of every K neighbouring tokens."""
    return [_hash("\0".join(texts[i : i + K])) for i in range(len(texts) - K + 1)]


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


@lru_cache(maxsize=64)
def _grams_of(starter: str) -> frozenset[int]:
    segments = normalised(starter)
    return frozenset(gram for segment in segments for gram in _grams([text for text, _ in segment]))


def _own_runs(count: int, grams: Sequence[int], known: frozenset[int]) -> Iterator[tuple[int, int]]:
    """(begin, end) of the runs of tokens that stand in no known K-gram."""
    own = [True] * count
    for position, gram in enumerate(grams):
        if gram in known:
            own[position : position + K] = [False] * K
    begin = None
    for position, is_own in enumerate([*own, False]):
        if is_own and begin is None:
            begin = position
        elif not is_own and begin is not None:
            yield begin, position
            begin = None


# --- From text to statements ---------------------------------------------------------------------


def tokens(source: str) -> Iterator[Token]:
    """The tokens of any text, comments and spaces left out; a line's end is the operator "\\n".

    A string with its prefix is one token, f-strings too, in every version of Python.
    """
    line = 1
    for found in _TOKEN.finditer(source.replace("\r\n", "\n").replace("\r", "\n")):
        kind, text = found.lastgroup or "op", found.group()
        if kind == "newline":
            yield Token("op", "\n", line)
        elif kind == "name" and not text.isascii():
            yield Token("name", unicodedata.normalize("NFKC", text), line)
        elif kind not in ("space", "comment"):
            yield Token(kind, text, line)
        line += text.count("\n")


def statements(source: str) -> Iterator[Statement]:
    """The logical lines of any text, with how deep they are indented."""
    indents = _indents(source)
    current: list[Token] = []
    brackets: list[str] = []
    lambdas = deeper = 0
    line_begins = True

    def done() -> Iterator[Statement]:
        if current:
            yield Statement(2 * indents[current[0].line - 1] + deeper, tuple(current))
            current.clear()

    for token in tokens(source):
        if line_begins and brackets and token.text in _STATEMENTS:
            yield from done()
            brackets, lambdas, deeper = [], 0, 0
        _nest(brackets, token.text)
        line_begins = token.text == "\n"
        if not brackets and token.text in ("\n", ";"):
            yield from done()
            lambdas, deeper = 0, 0 if line_begins else deeper
        elif not line_begins:
            current.append(token)
            if not brackets and token.text == "lambda":
                lambdas += 1
            elif not brackets and token.text == ":" and lambdas:
                lambdas -= 1
            elif not brackets and token.text == ":" and current[0].text in _BLOCKS:
                yield from done()
                deeper = 1
    yield from done()


def _nest(brackets: list[str], text: str) -> None:
    """Open or close a bracket; one that was not closed is closed with the bracket around it."""
    if text in _OPEN:
        brackets.append(text)
    elif text in _CLOSE and brackets:
        near = brackets[-DEEPEST:][::-1]
        opener = _PARTNER[text]
        del brackets[-1 - (near.index(opener) if opener in near else 0) :]


def _depth_after(depth: int, token: Token) -> int:
    return depth + 1 if token.text in _OPEN else max(depth - 1, 0) if token.text in _CLOSE else depth


def _indents(source: str) -> list[int]:
    """The columns of white space before each line."""
    lines = source.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [len(line[: len(line) - len(line.lstrip())].expandtabs()) for line in lines]


# --- From statements to what stays the same when names and layout change ---------------------------------


class Placed(NamedTuple):
    """A statement, what it stands in ("def", "class" or nothing), and the number of its definition.

    A statement that opens a definition belongs to the one it opens; the module is number 0.
    """

    statement: Statement
    scope: str
    number: int


@dataclass
class Bound:
    """What the source names: variables and definitions, attributes, and imports under names of their own."""

    names: set[str] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)
    aliases: dict[str, str] = field(default_factory=dict)


def normalised(source: str) -> list[list[tuple[str, int]]]:
    """(text, line) of the tokens that count: a list for the module, and one for each definition in it.

    Left out are imports, texts that are statements (docstrings), brackets that only group, and commas
    before a closing bracket or an equals sign. The body of a definition inside another is no part of the
    outer one.
    """
    found = list(place(source))
    bound = bound_in(found)
    segments: dict[int, list[tuple[str, int]]] = {}
    for statement, _, number in found:
        segments.setdefault(number, []).extend(_rewritten(statement.tokens, bound))
    return [segment for segment in segments.values() if segment]


def place(source: str) -> Iterator[Placed]:
    """Every statement of any text, with the definition that its indentation puts it in."""
    scopes, count = [Placed(Statement(-1, ()), "", 0)], 0
    for statement in statements(source):
        while scopes[-1].statement.indent >= statement.indent:
            scopes.pop()
        scope = scopes[-1].scope
        if statement.defines:
            count += 1
            scopes.append(Placed(statement, statement.defines, count))
        yield Placed(statement, scope, scopes[-1].number)


def _rewritten(tokens: Sequence[Token], bound: Bound) -> Iterator[tuple[str, int]]:
    if tokens[0].text in ("import", "from") or all(token.kind == "string" for token in tokens):
        return
    calls: list[bool] = []  # of the open brackets: whether it is one that counts
    last = ""
    for index, token in enumerate(tokens):
        before = tokens[index - 1] if index else None
        after = tokens[index + 1].text if index + 1 < len(tokens) else ""
        text, kept = token.text, True
        if text in _OPEN:
            kept = text != "(" or _trails(before)
            calls.append(kept)
        elif text in _CLOSE:
            kept = not calls or calls.pop()
        elif text == ",":
            kept = after not in _CLOSE and after != "="
        elif token.kind == "string":
            text = BYTES if _is_bytes(text) else TEXT
            kept = text != last
        elif token.kind == "number":
            text = NUMBER
        elif token.kind == "name":
            starts = before is not None and before.text in ("(", ",")
            is_argument = after == "=" and starts and bool(calls) and calls[-1]
            text = ARGUMENT if is_argument else _named(text, before, bound)
        if kept:
            yield text, token.line
            last = text


def _named(text: str, before: Token | None, bound: Bound) -> str:
    if keyword.iskeyword(text) or _is_special(text):
        return text
    if before is not None and before.text == ".":
        return NAME if text in bound.attributes else text
    return NAME if text in bound.names else bound.aliases.get(text, text)


def _is_special(name: str) -> bool:
    """A name such as `__init__`, which means something to Python."""
    return name.startswith("__") and name.endswith("__")


def _is_bytes(string: str) -> bool:
    return "b" in re.split("['\"]", string, maxsplit=1)[0].lower()


def _is_name(token: Token) -> bool:
    return token.kind == "name" and not keyword.iskeyword(token.text)


def _trails(before: Token | None) -> bool:
    """Whether a bracket after this token calls or indexes it, and does not begin a value of its own."""
    return before is not None and (before.text in _CLOSE or before.kind == "string" or _is_name(before))


# --- Which names the source binds ------------------------------------------------------------------------


def bound_in(found: Iterable[Placed]) -> Bound:
    """The names that a copier may change without changing anything else."""
    bound = Bound()
    for statement, scope, _ in found:
        tokens = statement.tokens
        if tokens[0].text in ("import", "from"):
            for index in range(1, len(tokens) - 1):
                if tokens[index].text == "as":
                    bound.aliases[tokens[index + 1].text] = tokens[index - 1].text
            continue
        depths = _depths(tokens)
        own = set(_definition(tokens) if statement.defines else _targets(_assigned(tokens, depths)))
        bound.names |= own | set(_bound_within(tokens, depths, statement.defines))
        bound.attributes |= set(_attributes(_assigned(tokens, depths)))
        if scope == "class":
            bound.attributes |= own
    return bound


def _depths(tokens: Sequence[Token]) -> list[int]:
    """How many brackets each token stands in; a bracket does not stand in itself."""
    depths, depth = [], 0
    for token in tokens:
        after = _depth_after(depth, token)
        depths.append(min(depth, after))
        depth = after
    return depths


def _definition(tokens: Sequence[Token]) -> Iterator[str]:
    """The name of a `def` or `class`."""
    names = (token.text for token in tokens if _is_name(token))
    yield from [next(names, "")]


def _bound_within(tokens: Sequence[Token], depths: Sequence[int], defines: str) -> Iterator[str]:
    """Parameters, and what stands after `for`, after `as` and before `:=`."""
    if defines == "def":
        start = next((i for i, token in enumerate(tokens) if token.text == "("), len(tokens))
        yield from _parameters(tokens, depths, start, ")")
        # Where a bracket is missing the depths are wrong, and an annotation still tells a parameter.
        for before, token, after in zip(tokens, tokens[1:], tokens[2:], strict=False):
            if before.text == "," and _is_name(token) and after.text == ":":
                yield token.text
    for index, token in enumerate(tokens):
        if token.text == "lambda":
            yield from _parameters(tokens[: index + REACH], depths, index, ":")
        elif token.text == "for":
            rest = range(index + 1, min(index + REACH, len(tokens)))
            end = next((i for i in rest if tokens[i].text == "in" and depths[i] == depths[index]), index)
            yield from _targets(tokens[index + 1 : end])
        elif token.text == "as":
            yield from (after.text for after in tokens[index + 1 : index + 2] if _is_name(after))
        elif token.text == ":=" and index:
            yield tokens[index - 1].text


def _parameters(tokens: Sequence[Token], depths: Sequence[int], start: int, end: str) -> Iterator[str]:
    """The names between `(` and `)`, or `lambda` and `:`, that begin a parameter."""
    begins = False
    for index in range(start, len(tokens)):
        token, depth = tokens[index], depths[index] - depths[start]
        if token.text == end and depth == 0:
            return
        if begins and _is_name(token):
            yield token.text
        separates = index == start or (token.text == "," and depth == (end == ")"))
        begins = separates or (begins and token.text in ("*", "**"))


def _assigned(tokens: Sequence[Token], depths: Sequence[int]) -> Sequence[Token]:
    """What stands left of the last `=`, or of an annotation's colon, or in the pattern of a `case`."""
    ends = [i for i, token in enumerate(tokens) if token.text in _ENDS and not depths[i]]
    last = max((i for i in ends if tokens[i].text in _ASSIGNMENTS), default=0)
    if tokens[0].text == "case" and not last:
        return tokens[1 : ends[0] if ends else 1]
    colon = bool(ends) and tokens[ends[0]].text == ":"
    is_annotated = colon and any(token.text in (":", ".", "[") for token in tokens[1:2])
    return tokens[: ends[0] if is_annotated and tokens[0].text not in _BLOCKS else last]


def _targets(tokens: Sequence[Token]) -> Iterator[str]:
    """The plain names among assignment targets: no attributes, and nothing inside an index or a call."""
    inside = 0  # brackets from the first that calls or indexes on
    for index, token in enumerate(tokens):
        before = tokens[index - 1] if index else None
        after = tokens[index + 1].text if index + 1 < len(tokens) else ""
        if token.text in _OPEN:
            inside += bool(inside) or _trails(before)
        elif token.text in _CLOSE:
            inside = max(inside - 1, 0)
        elif _is_name(token) and not inside and (before is None or before.text != "."):
            yield from () if after in _TRAILERS else (token.text,)


def _attributes(tokens: Sequence[Token]) -> Iterator[str]:
    """`name` of each target `self.name`."""
    for index in range(2, len(tokens)):
        owner, dot, token = tokens[index - 2 : index + 1]
        after = tokens[index + 1].text if index + 1 < len(tokens) else ""
        outer = tokens[index - 3].text if index > 2 else ""
        is_attribute = dot.text == "." and _is_name(owner) and _is_name(token)
        if is_attribute and outer != "." and after not in _TRAILERS:
            yield token.text
