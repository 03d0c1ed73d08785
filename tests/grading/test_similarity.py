"""Which answers are found alike, and which are not.

Oracles: Python's own tokenizer and parser for what is a token and what a name; the paper's example and its
guarantee for winnowing; the gate's differently written right answers for what honest answers share.
"""

from __future__ import annotations

import ast
import csv
import inspect
import io
import itertools
import keyword
import random
import re
import statistics
import textwrap
import time
import tokenize
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from course_lib.checks.registry import all_exercises
from course_lib.grading import winnowing
from course_lib.grading.answers import is_answer
from course_lib.grading.book import Book, Paper, Row
from course_lib.grading.similarity import PUBLISHED, Match, Report, compare, page, to_csv
from course_lib.grading.winnowing import GUARANTEED, WINDOW, K, bound_in, fingerprints, place, winnow

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "course_lib").rglob("*.py"))[::3]


def cells_of(folder: str) -> dict[str, str]:
    notebooks = [nbformat.read(path, as_version=4) for path in sorted((ROOT / folder).glob("*.ipynb"))]
    answers = [cell for notebook in notebooks for cell in notebook.cells if is_answer(cell)]
    return {cell.metadata["nbgrader"]["grade_id"]: cell.source for cell in answers}


SOLUTIONS, STARTERS = cells_of("solutions"), cells_of("exercises")


def right_answers(grade_id: str) -> list[str]:
    """The published solution and the gate's differently written right answers, where they have a source."""
    exercise = next(one for one in all_exercises().values() if one.grade_id == grade_id)
    named = [answer for answer in exercise.also_right if getattr(answer, "__name__", "<") != "<lambda>"]
    written = [answer for answer in named if inspect.isfunction(answer) or inspect.isclass(answer)]
    return [SOLUTIONS[grade_id], *(textwrap.dedent(inspect.getsource(answer)) for answer in written)]


RIGHT = {grade_id: right_answers(grade_id) for grade_id in STARTERS}
ALL_RIGHT = [(grade_id, source) for grade_id, sources in RIGHT.items() for source in sources]
LONG = "tokenizers-train_bpe"
STARTER = STARTERS[LONG]
FIRST, SECOND, *_ = RIGHT[LONG]


class Renamed(ast.NodeTransformer):
    """The same program with other names for what it binds, keyword arguments too."""

    def __init__(self, names: dict[str, str]) -> None:
        self.names = names

    def visit(self, node: ast.AST) -> ast.AST:
        for attribute in ("id", "arg", "name"):
            name = getattr(node, attribute, None)
            if isinstance(name, str) and not isinstance(node, ast.alias):
                setattr(node, attribute, self.names.get(name, name))
        return self.generic_visit(node)


def own_names(tree: ast.AST) -> set[str]:
    """What a program binds, imports left out."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(
            node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.ExceptHandler | ast.MatchAs
        ):
            names |= {node.name} if node.name else set()
    return names


def names_to_change(tree: ast.AST) -> list[str]:
    """What a program binds and never asks an object for: methods are called as attributes, which stay."""
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return sorted(name for name in own_names(tree) - attributes if not name.startswith("__"))


def rename(source: str, draw: random.Random) -> str:
    """The program under new names, and as `ast.unparse` sets it: without comments, in another layout."""
    tree = ast.parse(source)
    names = names_to_change(tree)
    return ast.unparse(Renamed({name: f"{name[0]}_{draw.getrandbits(40)}" for name in names}).visit(tree))


def with_dead_code(source: str, draw: random.Random, count: int) -> str:
    """The program with statements that do nothing between its own."""
    tree = ast.parse(source)
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.For | ast.While)]
    for number in range(count):
        body = draw.choice(bodies)
        dead = draw.choice(("unused = {0}", "if False:\n    print({0})", "for _ in range({0}): pass"))
        body.insert(draw.randrange(len(body)), ast.parse(dead.format(number)).body[0])
    return ast.unparse(tree)


def share(first: winnowing.Fingerprints, second: winnowing.Fingerprints) -> float:
    return len(first.places.keys() & second.places.keys()) / min(len(first), len(second))


def row(learner: str, source: str, exercise: str = LONG, **changes: Any) -> Row:
    values: dict[str, Any] = {
        "id": 1,
        "learner": learner,
        "assignment": "03_tokenizers",
        "name": "03_tokenizers.ipynb",
        "received": "2026-03-01T12:00:00.000000Z",
        "late": False,
        "sha256": "",
        "key": "k",
        "problem": "",
        "counts": True,
        "answers": {exercise: source},
    }
    return Row(**values | changes)


def names_in(report: Report) -> list[tuple[str, str]]:
    return [(match.first.learner, match.second.learner) for match in report.matches]


# --- Tokens and names, against Python's own ---------------------------------------------------------------


def python_tokens(source: str) -> Iterator[str]:
    """Python's tokens; a string is "S", and an f-string too, which newer versions cut into pieces."""
    starts = {getattr(tokenize, name, -1) for name in ("FSTRING_START", "TSTRING_START")}
    ends = {getattr(tokenize, name, -1) for name in ("FSTRING_END", "TSTRING_END")}
    depth = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in starts or (token.type == tokenize.STRING and not depth):
            yield from () if depth else ("S",)
        elif token.type in (tokenize.NAME, tokenize.NUMBER, tokenize.OP) and not depth:
            yield token.string
        depth += (token.type in starts) - (token.type in ends)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_tokens_and_bound_names_of_valid_code_are_pythons_own(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    found = [token for token in winnowing.tokens(source) if token.text != "\n"]
    assert ["S" if token.kind == "string" else token.text for token in found] == list(python_tokens(source))
    assert bound_in(place(source)).names - {""} == own_names(ast.parse(source))


def test_names_are_found_wherever_python_binds_them() -> None:
    source = textwrap.dedent("""
        async def walk(a, /, b: int = 1, *rest, c=lambda d, *e, f=2: d, **more) -> tuple[int, str]:
            (g, [h, *i]), self.j[k] = l = b
            m: dict[str, int] = {}
            async with open(a) as n, n: o += 1
            for p, (q, r.s) in [t for t, u in v if (w := t)]: x = 1; y = 2
            try: pass
            except (A, B) as z: pass
            match a:
                case [aa, *bb] if cc: pass
            case = match = 1
    """)
    expected = {*"abcdefghilmnopqtuwxyz", "walk", "rest", "more", "aa", "bb", "case", "match"}
    assert bound_in(place(source)).names == expected


def test_a_string_is_one_token_whatever_its_quotes_and_where_it_is_not_closed() -> None:
    texts = ["'a'", '"a\\"b"', "'''a\n'b'\n'''", "rb'\\''", "f'{a}'", "'open", '"""open\n\n']
    for text in texts:
        assert [token.text for token in winnowing.tokens(text)] == [text]


# --- What changes nothing ---------------------------------------------------------------------------------

identifiers = st.from_regex(r"[a-z_\u00e9\u4e00-\u4e20][a-z0-9_]{0,8}", fullmatch=True)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), answer=st.sampled_from(ALL_RIGHT))
def test_renaming_what_the_answer_binds_changes_no_fingerprint(
    data: st.DataObject, answer: tuple[str, str]
) -> None:
    grade_id, source = answer
    tree = ast.parse(source)
    taken = set(re.findall(r"\w+", source)) | set(keyword.kwlist) | {"match", "case", "type"}
    own = names_to_change(tree)
    fresh = identifiers.filter(lambda name: name not in taken and not name.startswith("__"))
    new = data.draw(st.lists(fresh, min_size=len(own), max_size=len(own), unique=True))
    renamed = ast.unparse(Renamed(dict(zip(own, new, strict=True))).visit(tree))
    before, after = (fingerprints(text, STARTERS[grade_id]) for text in (source, renamed))
    assert before.digest == after.digest
    assert before.places.keys() == after.places.keys()


PLAIN = '''
import numpy as np
from torch import nn

class Block(nn.Module):
    """A block."""

    def __init__(self, width):
        super().__init__()
        self.inner = nn.Linear(width, 4 * width)

    def forward(self, x, scale=1.0):
        y = self.inner(x) * scale  # wide
        return self._half(y), np.exp(y)

    def _half(self, y):
        if y.ndim > 2:
            return y / 2
        return y

def run(block, batches):
    total = 0
    def add(value):
        nonlocal total
        total += value.sum()
    for batch in batches:
        add(block(batch, scale=0.5)[0])
    return total, "done"
'''
DISGUISED = '''
# Written by me.
import numpy
def add(v):
    """Adds."""
    nonlocal s
    s += (v.sum())

def go(net, data):
    "goes"
    s = 0
    for piece in data: add(net(
        piece,
        scale=0.5,   # half of it
    )[0])
    return (s, 'do'
               "ne")


class Net(nn.Module):
    def _h(self, t):
        if t.ndim > 2: return t / 2
        return t
    def forward(self, t, f=1.0):
        u = (self.wide(t)
             * f); return self._h(u), numpy.exp(u)
    def __init__(self, n):
        super().__init__()
        self.wide = nn.Linear(n, 4 * n,)
'''


def test_names_layout_comments_docstrings_imports_and_order_change_nothing() -> None:
    assert fingerprints(PLAIN).digest == fingerprints(DISGUISED).digest
    assert fingerprints(PLAIN).places.keys() == fingerprints(DISGUISED).places.keys()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("4 * width", "4 + width"),
        ("np.exp", "np.log"),
        (".sum()", ".mean()"),
        ("> 2", "is 2"),
        ('"done"', "9"),
    ],
)
def test_operators_attributes_imported_names_and_kinds_of_literals_count(before: str, after: str) -> None:
    assert fingerprints(PLAIN).digest != fingerprints(PLAIN.replace(before, after)).digest


def test_line_ends_and_tabs_change_nothing() -> None:
    for other in (PLAIN.replace("\n", "\r\n"), PLAIN.replace("\n", "\r"), PLAIN.replace("    ", "\t")):
        assert fingerprints(PLAIN).digest == fingerprints(other).digest


def test_fingerprints_are_the_same_in_every_process() -> None:
    found = fingerprints("def f(x):\n    return torch.softmax(x, dim=-1) @ x.mT\n")
    assert (found.total, min(found.places), found.digest[:16]) == (
        22,
        1960215254908040013,
        "6adea3e34dc7bad6",
    )


# --- Winnowing --------------------------------------------------------------------------------------------

words = st.sampled_from(["alpha", "beta", "gamma", ".", "+", "[", "]", "if"])
left_words = st.lists(st.sampled_from(["one", "-", "two"]), max_size=30)
right_words = st.lists(st.sampled_from(["three", "*", "four"]), max_size=30)


@settings(deadline=None)
@given(run=st.lists(words, min_size=GUARANTEED, max_size=40), a=left_words, b=right_words)
def test_a_shared_run_of_the_guaranteed_length_is_always_found(
    run: list[str], a: list[str], b: list[str]
) -> None:
    first, second = (fingerprints(" ".join([*around, *run, *around])) for around in (a, b))
    assert first.places.keys() & second.places.keys()


@settings(deadline=None)
@given(run=st.lists(words, max_size=K - 1), a=left_words, b=right_words)
def test_no_run_shorter_than_a_gram_is_found(run: list[str], a: list[str], b: list[str]) -> None:
    first, second = (
        fingerprints(" ".join([*around, end, *run, end, *around]))
        for around, end in ((a, "left"), (b, "right"))
    )
    assert not first.places.keys() & second.places.keys()


@given(st.lists(st.integers(0, 9), max_size=40))
def test_every_window_of_hashes_has_its_smallest_chosen(grams: list[int]) -> None:
    chosen = winnow(grams)
    positions = [position for _, position in chosen]
    assert positions == sorted(set(positions))
    assert all(grams[position] == gram for gram, position in chosen)
    assert bool(chosen) == bool(grams)
    for start in range(len(grams) - WINDOW + 1):
        near = grams[start : start + WINDOW]
        assert any(start <= p < start + WINDOW and gram == min(near) for gram, p in chosen)


# --- Text that is no program ------------------------------------------------------------------------------


pieces = st.sampled_from(
    [*"()[]{}:,=.*;'\\\n \tx0", *keyword.kwlist, "match ", "case ", ":=", "+=", '"""', "f'"]
)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.text(),
        st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape")),
        st.lists(pieces, max_size=40).map("".join),
        st.lists(pieces, max_size=40).map(" ".join),
    )
)
@example(":")
@example("import")
@example("def")
@example("async")
def test_any_text_has_fingerprints_or_none(text: str) -> None:
    found = fingerprints(text, starter=text[: len(text) // 2])
    lines = text.replace("\r\n", "\n").replace("\r", "\n").count("\n") + 1
    assert all(1 <= line <= lines for line in found.lines)
    assert all(0 <= at <= len(found.lines) - K for places in found.places.values() for at in places)


def test_a_copy_with_a_sign_missing_is_still_like_it() -> None:
    scores = []
    for grade_id in (LONG, "attention-chunked", "attention-cross"):
        source, starter = SOLUTIONS[grade_id], STARTERS[grade_id]
        whole = fingerprints(source, starter)
        for sign in re.finditer(r"[(){}:,=\[\]]", source):
            scores.append(share(whole, fingerprints(source[: sign.start()] + source[sign.end() :], starter)))
    assert len(scores) > 200
    assert statistics.median(scores) > 0.9
    assert statistics.quantiles(scores, n=20)[0] > 0.5


@pytest.mark.parametrize(
    "piece",
    [
        "(",
        ")",
        "'",
        '"\\',
        "for ",
        "lambda a,",
        "a = b = ",
        "f'{",
        "\\",
        "if x:",
        "def f(x):",
        "0",
        " ",
        "\n",
        "é",
    ],
)
def test_hostile_text_takes_time_in_proportion_to_its_length(piece: str) -> None:
    started = time.process_time()
    fingerprints(piece * (50_000 // len(piece)))
    assert time.process_time() - started < 15


# --- What honest answers and copies look like ------------------------------------------------------------


def test_the_starter_does_not_count() -> None:
    for grade_id, starter in STARTERS.items():
        assert fingerprints(starter, starter).total == 0, grade_id
    header = "def f(query, key, value, mask=None):\n    {}\n"
    starter = header.format("raise NotImplementedError")
    bodies = (
        "return query @ key.mT + value[mask] * 2 - key.sum()",
        "return [row for row in value if row[0] in mask]",
    )
    first, second = (header.format(body) for body in bodies)
    assert fingerprints(first).places.keys() & fingerprints(second).places.keys()
    assert not fingerprints(first, starter).places.keys() & fingerprints(second, starter).places.keys()
    assert set(fingerprints(first, starter).places).isdisjoint(fingerprints(starter).places)


def test_different_right_answers_share_little() -> None:
    scores = []
    for grade_id, sources in RIGHT.items():
        found = [fingerprints(source, STARTERS[grade_id]) for source in sources]
        enough = [prints for prints in found if len(prints) >= 8]
        scores += [share(*pair) for pair in itertools.combinations(enough, 2)]
    assert len(scores) >= 30
    assert statistics.median(scores) < 0.15
    assert statistics.quantiles(scores, n=10)[-1] < 0.4
    assert sum(score >= 0.5 for score in scores) <= 0.06 * len(scores)


@pytest.mark.parametrize("grade_id", STARTERS)
def test_a_copy_under_other_names_in_another_layout_is_the_same(grade_id: str) -> None:
    for source in RIGHT[grade_id]:
        copy = rename(source, random.Random(source))
        assert copy != source
        first, second = (fingerprints(text, STARTERS[grade_id]) for text in (source, copy))
        assert first.digest == second.digest


@pytest.mark.parametrize("grade_id", [one for one in STARTERS if len(SOLUTIONS[one]) > 300])
@pytest.mark.parametrize("seed", range(3))
def test_a_copy_with_dead_code_is_on_top_of_the_list(grade_id: str, seed: int) -> None:
    draw = random.Random(seed)
    honest = [row(f"learner {n}", source, grade_id) for n, source in enumerate(RIGHT[grade_id])]
    long = max(RIGHT[grade_id], key=lambda source: len(fingerprints(source, STARTERS[grade_id])))
    copy = row("copier", with_dead_code(rename(long, draw), draw, 2), grade_id)
    first = compare([*honest, copy], {}, STARTERS).matches[0]
    assert {first.first.learner, first.second.learner} == {"copier", f"learner {RIGHT[grade_id].index(long)}"}
    assert first.score >= 0.6 and not first.identical


# --- Pairs ------------------------------------------------------------------------------------------------


def test_a_pair_has_its_score_its_tokens_and_its_lines() -> None:
    copy = "\n\n" + FIRST.replace("chunks", "pieces")
    report = compare([row("bob", copy), row("ada", FIRST), row("cleo", SECOND)], {}, STARTERS)
    (match,) = report.matches
    assert (match.first.learner, match.second.learner) == ("ada", "bob") or match.identical
    assert match.exercise == LONG and match.score == 1.0 and match.identical
    total = fingerprints(FIRST, STARTER).total
    assert match.tokens == total and match.shared == len(fingerprints(FIRST, STARTER))
    sides = {side.learner: side for side in (match.first, match.second)}
    assert sides["bob"].lines == tuple((first + 2, last + 2) for first, last in sides["ada"].lines)
    assert sides["ada"].lines[0][0] >= 3 and sides["ada"].source == FIRST


def test_half_a_copy_has_half_its_lines_marked() -> None:
    shared = "    kept = [word.strip().lower() for word in words if word and word[0] not in '.,']\n"
    shared += "    counts = {word: kept.count(word) for word in sorted(set(kept), key=len)}\n"
    ada = f"def f(words):\n{shared}    return max(counts.items(), key=lambda pair: pair[1] - len(pair[0]))\n"
    bob = f"def f(words):\n    if not words:\n        raise ValueError('no words, ' + repr(words))\n{shared}"
    (match,) = compare([row("ada", ada), row("bob", bob)], {}, {}).matches
    assert not match.identical and 0.5 <= match.score < 1
    assert (match.first.lines, match.second.lines) == (((2, 3),), ((4, 5),))
    assert match.tokens <= fingerprints(shared).total + 2 * K


def test_earlier_submissions_of_others_are_sources_and_ones_own_are_not() -> None:
    early: dict[str, Any] = {"counts": False, "received": "2026-02-01T12:00:00.000000Z"}
    rows = [row("ada", FIRST, **early), row("ada", SECOND), row("bob", rename(FIRST, random.Random(1)))]
    (match,) = compare(rows, {}, STARTERS).matches
    assert [(side.learner, side.counts) for side in (match.first, match.second)] == [
        ("bob", True),
        ("ada", False),
    ]
    changed = with_dead_code(FIRST, random.Random(1), 1)
    assert compare([row("ada", FIRST, **early), row("ada", changed)], {}, STARTERS).matches == ()
    assert compare([row("ada", FIRST, **early), row("bob", changed, **early)], {}, STARTERS).matches == ()


def test_equal_answers_of_many_are_a_line_each_and_a_near_copy_names_them() -> None:
    ring = [row(f"ring {n}", rename(FIRST, random.Random(n))) for n in range(5)]
    near = row("near", with_dead_code(FIRST, random.Random(1), 1))
    report = compare([*ring, near, row("other", SECOND)], {}, STARTERS)
    assert [match.identical for match in report.matches] == [True] * 4 + [False]
    assert names_in(report)[:4] == [("ring 0", f"ring {n}") for n in range(1, 5)]
    last = report.matches[-1]
    assert (last.first.learner, last.second.learner) == ("near", "ring 0")
    assert last.second.also == ("ring 1", "ring 2", "ring 3", "ring 4")


def test_what_many_learners_write_is_set_aside_but_a_ring_of_equal_answers_is_not() -> None:
    idiom = "    best = sorted(words.items(), key=lambda pair: (-pair[1], pair[0]))[: len(words) // 2 + 1]\n"
    endings = [f"    return best[free{n} : -free{n}] + free{n}\n" for n in range(40)]
    rows = [row(f"l{n:02}", f"def f(words):\n{idiom}{end}") for n, end in enumerate(endings)]
    assert compare(rows, {}, {}, common=1.0).matches
    report = compare(rows, {}, {})
    assert report.matches == () and report.overviews[0].common > 4
    assert len(report.omitted) == 40 and "idioms" in report.omitted[0].reason
    ring = [row(f"ring {n:02}", rename(FIRST, random.Random(n))) for n in range(30)]
    found = compare([*rows, *ring], {}, STARTERS)
    assert len(found.matches) == 29 and all(match.identical for match in found.matches)


def test_the_published_solution_is_compared_with_answers_that_count() -> None:
    solution = SOLUTIONS[LONG]
    rows = [
        row("ada", rename(solution, random.Random(1))),
        row("bob", with_dead_code(solution, random.Random(1), 2)),
        row("cleo", SECOND),
        row("dan", solution, counts=False),
        row("dan", SECOND.replace("min", "max")),
    ]
    found = [
        match for match in compare(rows, SOLUTIONS, STARTERS).matches if match.second.learner == PUBLISHED
    ]
    assert [(match.first.learner, match.identical) for match in found] == [("ada", True), ("bob", False)]
    assert found[0].first.also == ("dan",) and found[0].second.source == solution
    assert found[1].score >= 0.6 and found[1].second.lines


def test_short_and_unwritten_answers_are_left_out_with_a_reason() -> None:
    short = "def f(x):\n    return x.tril(diagonal=1)\n"
    rows = [
        row("ada", short),
        row("bob", short),
        row("cleo", STARTER),
        row("dan", ""),
        row("early", "", counts=False),
    ]
    report = compare(rows, {}, STARTERS)
    assert report.matches == ()
    reasons = {omitted.learner: omitted.reason for omitted in report.omitted}
    assert reasons.keys() == {"ada", "bob", "cleo", "dan"}
    assert "short" in reasons["ada"] and "nothing beside the starter" in reasons["cleo"]
    assert reasons["dan"] == reasons["cleo"]


def test_the_list_does_not_depend_on_the_order_of_the_rows() -> None:
    draw = random.Random(5)
    rows = [
        row(f"l{n}", with_dead_code(rename(draw.choice(RIGHT[LONG]), draw), draw, n % 4), id=n)
        for n in range(25)
    ]
    expected = compare(rows, SOLUTIONS, STARTERS)
    scores = [match.score for match in expected.matches]
    assert len(scores) > 10 and scores == sorted(scores, reverse=True)
    for seed in range(3):
        random.Random(seed).shuffle(rows)
        assert compare(rows, SOLUTIONS, STARTERS) == expected


def test_the_limit_keeps_the_highest_pairs_and_the_threshold_the_low_ones_out() -> None:
    draw = random.Random(6)
    rows = [row(f"l{n}", with_dead_code(FIRST, draw, n), id=n) for n in range(1, 9)]
    everything = compare(rows, {}, STARTERS, least=0.0, limit=1000).matches
    assert len(everything) == 28
    few = compare(rows, {}, STARTERS, least=0.0, limit=5).matches
    assert [match.score for match in few] == [match.score for match in everything[:5]]
    middle = everything[14].score
    kept = compare(rows, {}, STARTERS, least=middle).matches
    assert kept == tuple(match for match in everything if match.score >= middle)


def test_the_overview_says_what_is_usual() -> None:
    rows = [row("ada", FIRST), row("bob", rename(FIRST, random.Random(1))), row("cleo", SECOND)]
    rows += [row("ada", SECOND, counts=False)]
    (overview,) = compare(rows, {}, STARTERS).overviews
    assert (overview.answers, overview.distinct, overview.compared, overview.common) == (4, 2, 2, 0)
    assert overview.typical == 1.0
    (alone,) = compare([row("ada", FIRST), row("cleo", SECOND)], {}, STARTERS).overviews
    expected = share(fingerprints(FIRST, STARTER), fingerprints(SECOND, STARTER))
    assert alone.typical == pytest.approx(expected) and expected < 0.5
    assert compare([row("ada", FIRST)], {}, STARTERS).overviews[0].typical is None
    assert compare([], {}, STARTERS) == Report((), (), ())


def test_the_rows_of_a_gradebook_are_what_it_reads(tmp_path: Path) -> None:
    with Book.open(tmp_path / "book.sqlite") as book:
        for version, (learner, source) in enumerate([("ada", FIRST), ("ada", SECOND), ("bob", FIRST)]):
            paper = Paper(learner, "03_tokenizers", "n.ipynb", version=version)
            book.record(paper, f"key {version}", answers={LONG: source, "tokenizers-bpe_step": STARTER})
        report = compare(book.rows(everything=True), SOLUTIONS, STARTERS)
    pairs = [(m.first.learner, m.second.learner, m.second.counts) for m in report.matches]
    assert ("bob", "ada", False) in pairs and ("bob", PUBLISHED, True) in pairs
    assert {overview.exercise for overview in report.overviews} == {LONG, "tokenizers-bpe_step"}


@pytest.mark.slow
def test_a_thousand_submissions_of_five_exercises_take_less_than_a_minute() -> None:
    draw = random.Random(7)
    ids = sorted(RIGHT, key=lambda grade_id: -len(SOLUTIONS[grade_id]))[:5]
    answers = [
        {one: with_dead_code(rename(draw.choice(RIGHT[one]), draw), draw, draw.randrange(8)) for one in ids}
        for _ in range(1000)
    ]
    rows = [row(f"l{n:04}", "", answers=answer) for n, answer in enumerate(answers)]
    started = time.process_time()
    report = compare(rows, SOLUTIONS, STARTERS)
    assert time.process_time() - started < 60
    assert [overview.answers for overview in report.overviews] == [1000] * 5


# --- For people -------------------------------------------------------------------------------------------

ATTACK = "</code></pre></mark><script>alert(1)</script><img src=//evil.example/x onerror=alert(1)>\u202e\x00"


class Reader(HTMLParser):
    """Every tag with its attributes, the text outside the style sheet, and what is marked."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.marked: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "mark" in self.open:
            self.marked.append(data)
        if "style" not in self.open:
            self.text += data


def attacked() -> Report:
    comment = f"{FIRST}\n# {ATTACK}"
    rows = [row(ATTACK, comment, name=ATTACK), row("bob", rename(FIRST, random.Random(1)), received=ATTACK)]
    return compare([*rows, row(ATTACK, "", "x-y", name="=1+1")], SOLUTIONS, STARTERS)


def test_the_page_marks_the_matched_lines_of_both_sources_with_a_sign() -> None:
    report = compare([row("ada", FIRST), row("bob", rename(FIRST, random.Random(1)))], {}, STARTERS)
    match: Match = report.matches[0]
    read = Reader(page(report))
    assert read.open == [] and "ada and bob" in read.text
    lines = {int(text[1:6]): text for text in read.marked[1:] if text.startswith("▌")}
    assert len(read.marked) - 1 == sum(
        last - first + 1 for side in (match.first, match.second) for first, last in side.lines
    )
    assert all(text.startswith("▌") for text in read.marked)
    assert not {1, 2} & lines.keys()
    assert "The same but for names, layout and comments" in read.text


def test_the_page_says_on_top_what_the_figures_do_not_mean() -> None:
    text = Reader(page(compare([], {}, {}))).text
    assert text.index("no verdict") < text.index("No matches")
    assert "not why" in text and "Read both sources" in text


def test_nothing_that_a_learner_wrote_becomes_markup_or_hides() -> None:
    text = page(attacked())
    read = Reader(text)
    allowed = {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "h1",
        "h2",
        "p",
        "pre",
        "code",
        "div",
        "mark",
    }
    assert {tag for tag, _ in read.tags} <= allowed | {"table", "tr", "th", "td", "strong"}
    attributes = {name for _, found in read.tags for name in found}
    assert attributes <= {"lang", "charset", "http-equiv", "content", "name", "class", "scope"}
    assert read.text.count("<script>alert(1)</script>") >= 4
    assert not re.search("[\u202e\x00]", text)


def test_the_page_runs_no_script_and_asks_for_nothing_outside() -> None:
    text = page(compare([row("ada", FIRST), row("bob", FIRST)], {}, STARTERS))
    policies = [found["content"] for _, found in Reader(text).tags if found.get("http-equiv")]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"]
    assert not re.search(r"<script|<link|<img|<iframe|@import|url\(|src=|href=|https?:|javascript:", text)


def test_the_page_shows_as_many_pairs_as_asked_and_says_how_many_there_are() -> None:
    report = compare([row(f"l{n}", FIRST) for n in range(6)], {}, STARTERS)
    text = Reader(page(report, top=2)).text
    assert "2 of 5 matches" in text and text.count("l0 and l") == 2


def test_the_list_as_csv_is_read_back() -> None:
    report = attacked()
    lines = list(csv.DictReader(io.StringIO(to_csv(report))))
    assert len(lines) == len(report.matches) == 2
    assert lines[0]["identical"] == "yes" and lines[0]["score"] == "1.000"
    for line, match in zip(lines, report.matches, strict=True):
        assert (line["first_learner"], line["second_learner"]) == (match.first.learner, match.second.learner)
        assert int(line["tokens"]) == match.tokens and line["second_counts"] == "yes"
        assert line["first_lines"].split()[0].split("–")[0] == str(match.first.lines[0][0])
    formula = compare([row("=cmd()", FIRST), row("bob", FIRST)], {}, STARTERS)
    assert "'=cmd()" in to_csv(formula)
