"""Which answers share more than answers usually do: a list for a person to judge, and no verdict.

Answers to one exercise are compared by their fingerprints (see `winnowing`), each with those of other
learners and with the published solution. What the starter gave to everybody does not count, nor does a
fingerprint that stands in many of the different answers, as an idiom does. Answers that are the same after
normalisation are compared as one, so a text that half of the class handed in costs as much as one answer.
"""

from __future__ import annotations

import csv
import heapq
import io
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from html import escape

from .book import Row
from .exports import csv_cell
from .feedback import POLICY, escaped
from .winnowing import Fingerprints, K, fingerprints

# Pairs below it are not listed. Of this course's different right answers, nine pairs in ten share < 0.25.
LEAST_SCORE = 0.5
# A fingerprint that more than this share of the learners have is an idiom; one that few have never is.
COMMON_SHARE = 0.3
COMMON_COUNT = 10
# With fewer distinctive fingerprints there are few ways to write an answer.
MIN_FINGERPRINTS = 8
MAX_PAIRS = 200
PUBLISHED = "(published solution)"

Lines = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Side:
    """One of two sources that were compared.

    learner: PUBLISHED for the published solution. counts: whether it is the submission that is marked.
    received: UTC, ISO 8601, or empty. lines: first and last of each matched range, from 1.
    also: further learners whose answer is the same after normalisation.
    """

    learner: str
    notebook: str = ""
    received: str = ""
    counts: bool = True
    source: str = ""
    lines: Lines = ()
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Match:
    """Two sources that share more than most.

    exercise: its grade id. score: share of the smaller side's distinctive fingerprints that the other
    has, too. shared: how many. tokens: tokens in matched runs, of the side with fewer; at either end of a run
    up to three may be missing. identical: equal after normalisation.
    """

    exercise: str
    first: Side
    second: Side
    score: float
    shared: int
    tokens: int
    identical: bool = False


@dataclass(frozen=True)
class Omitted:
    """An answer that was not compared, and why, in one sentence."""

    exercise: str
    learner: str
    reason: str


@dataclass(frozen=True)
class Overview:
    """One exercise in numbers.

    answers: submissions read, earlier ones too. distinct: different ones after normalisation.
    compared: those with enough distinctive fingerprints. common: fingerprints set aside as idioms.
    typical: median over the compared of the highest score with another learner's; None for fewer than two.
    """

    exercise: str
    answers: int
    distinct: int
    compared: int
    common: int
    typical: float | None


@dataclass(frozen=True)
class Report:
    """matches: highest score first, then most tokens. omitted and overviews: by exercise."""

    matches: tuple[Match, ...]
    omitted: tuple[Omitted, ...]
    overviews: tuple[Overview, ...]


@dataclass
class _Answer:
    """One answer as it is after normalisation, with all rows that have it, one for each learner.

    Rows that count come first, then the earlier ones. distinctive: fingerprints that are no idioms.
    """

    rows: list[Row]
    prints: list[Fingerprints]
    distinctive: Set[int] = frozenset()
    best: float = 0.0


def compare(
    rows: Iterable[Row],
    solutions: Mapping[str, str],
    starters: Mapping[str, str],
    *,
    least: float = LEAST_SCORE,
    common: float = COMMON_SHARE,
    minimum: int = MIN_FINGERPRINTS,
    limit: int = MAX_PAIRS,
) -> Report:
    """Compare every answer with other learners' and with the published solution.

    rows: of a gradebook with `everything=True`; at least one side of a pair counts, and the other may be an
    earlier submission of another learner. solutions, starters: source by grade id; either may be missing.
    least: lowest score that is listed. common: a fingerprint that more than this share of the learners have
    is an idiom. minimum: distinctive fingerprints that an answer needs. limit: similar pairs for each
    exercise, the highest first; identical ones and those with the solution are all listed.
    """
    ordered = sorted(rows, key=lambda row: (not row.counts, row.received, row.learner, row.name, row.id))
    exercises = sorted({grade_id for row in ordered for grade_id in row.answers})
    matches: list[Match] = []
    omitted: list[Omitted] = []
    overviews = []
    for exercise in exercises:
        starter, solution = starters.get(exercise, ""), solutions.get(exercise)
        answers, number = _distinct(ordered, exercise, starter)
        idioms = _idioms(answers, common)
        for answer in answers:
            answer.distinctive = answer.prints[0].places.keys() - idioms
        enough = [answer for answer in answers if len(answer.distinctive) >= minimum]
        matches += _identical(exercise, answers, minimum)
        matches += _similar(exercise, enough, least, limit)
        if solution is not None:
            matches += _published(exercise, answers, solution, starter, idioms, least, minimum)
        omitted += _omitted(exercise, answers, minimum)
        typical = statistics.median(answer.best for answer in enough) if len(enough) > 1 else None
        overviews.append(Overview(exercise, number, len(answers), len(enough), len(idioms), typical))
    matches.sort(key=lambda m: (-m.score, -m.tokens, m.exercise, m.first.learner, m.second.learner))
    return Report(tuple(matches), tuple(omitted), tuple(overviews))


def _distinct(rows: Sequence[Row], exercise: str, starter: str) -> tuple[list[_Answer], int]:
    """The different answers, each with one row for each learner, and how many rows have an answer."""
    read: dict[str, Fingerprints] = {}
    found: dict[str, _Answer] = {}
    number = 0
    for row in rows:
        if exercise not in row.answers:
            continue
        number += 1
        source = row.answers[exercise]
        if source not in read:
            read[source] = fingerprints(source, starter)
        answer = found.setdefault(read[source].digest, _Answer([], []))
        if all(row.learner != other.learner for other in answer.rows):
            answer.rows.append(row)
            answer.prints.append(read[source])
    return list(found.values()), number


def _idioms(answers: Sequence[_Answer], common: float) -> frozenset[int]:
    """The fingerprints in the answers of many learners; the same answer of several counts once."""
    learners: dict[str, set[int]] = {}
    for answer in answers:
        learners.setdefault(answer.rows[0].learner, set()).update(answer.prints[0].places)
    counts = Counter(gram for grams in learners.values() for gram in grams)
    most = max(COMMON_COUNT, common * len(learners))
    return frozenset(gram for gram, count in counts.items() if count > most)


def _identical(exercise: str, answers: Sequence[_Answer], minimum: int) -> Iterator[Match]:
    """Each learner with an answer beside the first who has it."""
    for answer in answers:
        prints = answer.prints[0]
        if len(prints) < minimum or not answer.rows[0].counts:
            continue
        for position in range(1, len(answer.rows)):
            answer.best = 1.0
            first, second = (_side(exercise, answer, at, prints.places) for at in (0, position))
            first, second = replace(first, also=()), replace(second, also=())
            yield Match(exercise, first, second, 1.0, len(prints), prints.total, identical=True)


def _similar(exercise: str, answers: Sequence[_Answer], least: float, limit: int) -> Iterator[Match]:
    """The pairs of different answers with the highest scores; notes the best score of each answer."""
    index: dict[int, list[int]] = {}
    highest: list[tuple[float, int, int, int]] = []
    for current, answer in enumerate(answers):
        shared = Counter(earlier for gram in answer.distinctive for earlier in index.get(gram, ()))
        for earlier, count in shared.items():
            other = answers[earlier]
            score = count / min(len(answer.distinctive), len(other.distinctive))
            is_news = score >= least or score > min(answer.best, other.best)
            if not is_news or not _pair(other, answer):
                continue
            answer.best, other.best = max(score, answer.best), max(score, other.best)
            if score >= least:
                heapq.heappush(highest, (score, count, -earlier, -current))
                if len(highest) > limit:
                    heapq.heappop(highest)
        for gram in answer.distinctive:
            index.setdefault(gram, []).append(current)
    for score, count, earlier, current in highest:
        one, two = answers[-earlier], answers[-current]
        grams = one.distinctive & two.distinctive
        rows = _pair(one, two) or (0, 0)
        sides = [_side(exercise, a, row, grams) for a, row in zip((one, two), rows, strict=True)]
        first, second = sorted(sides, key=lambda side: side.learner)
        tokens = min(_tokens(a.prints[0], grams) for a in (one, two))
        yield Match(exercise, first, second, score, count, tokens)


def _pair(one: _Answer, two: _Answer) -> tuple[int, int] | None:
    """The rows to name of two answers: of two learners, and at least one counts; None where there are none.

    Rows that count come first and no learner comes twice, so where there is such a pair the first two rows
    of each have one.
    """
    for i, first in enumerate(one.rows[:2]):
        for j, second in enumerate(two.rows[:2]):
            if first.learner != second.learner and (first.counts or second.counts):
                return i, j
    return None


def _published(
    exercise: str,
    answers: Sequence[_Answer],
    solution: str,
    starter: str,
    idioms: frozenset[int],
    least: float,
    minimum: int,
) -> Iterator[Match]:
    """The answers that count beside the published solution."""
    prints = fingerprints(solution, starter)
    source = _Answer([], [prints], prints.places.keys() - idioms)
    for answer in answers:
        if not answer.rows[0].counts:
            continue
        identical = answer.prints[0].digest == prints.digest and len(prints) >= minimum
        smaller = min(len(source.distinctive), len(answer.distinctive))
        grams = prints.places.keys() if identical else source.distinctive & answer.distinctive
        score = 1.0 if identical else len(grams) / max(smaller, 1)
        if not identical and (smaller < minimum or score < least):
            continue
        published = Side(PUBLISHED, source=solution, lines=_ranges(prints, grams))
        tokens = prints.total if identical else min(_tokens(a.prints[0], grams) for a in (answer, source))
        yield Match(
            exercise, _side(exercise, answer, 0, grams), published, score, len(grams), tokens, identical
        )


def _omitted(exercise: str, answers: Sequence[_Answer], minimum: int) -> Iterator[Omitted]:
    found = []
    for answer in answers:
        number, rest = len(answer.prints[0]), len(answer.distinctive)
        if rest >= minimum:
            continue
        if not answer.prints[0].total:
            reason = "There is nothing beside the starter."
        elif number < minimum:
            reason = f"It is short: {number} fingerprints, and {minimum} are needed to tell answers apart."
        else:
            reason = (
                f"Only equal answers were looked for: {rest} of its {number} fingerprints are no idioms, and "
                f"{minimum} are needed."
            )
        found += [Omitted(exercise, row.learner, reason) for row in answer.rows if row.counts]
    yield from sorted(found, key=lambda omitted: omitted.learner)


def _side(exercise: str, answer: _Answer, position: int, grams: Iterable[int]) -> Side:
    """One row of an answer, with the lines that these fingerprints stand for."""
    row = answer.rows[position]
    return Side(
        learner=row.learner,
        notebook=row.name,
        received=row.received,
        counts=row.counts,
        source=row.answers[exercise],
        lines=_ranges(answer.prints[position], grams),
        also=tuple(sorted(other.learner for other in answer.rows if other is not row)),
    )


def _positions(prints: Fingerprints, grams: Iterable[int]) -> set[int]:
    """The positions of the tokens that the fingerprints stand for."""
    starts = (start for gram in grams for start in prints.places[gram])
    return {position for start in starts for position in range(start, start + K)}


def _tokens(prints: Fingerprints, grams: Iterable[int]) -> int:
    return len(_positions(prints, grams))


def _ranges(prints: Fingerprints, grams: Iterable[int]) -> Lines:
    ranges: list[tuple[int, int]] = []
    for line in sorted({prints.lines[position] for position in _positions(prints, grams)}):
        if ranges and ranges[-1][1] == line - 1:
            ranges[-1] = (ranges[-1][0], line)
        else:
            ranges.append((line, line))
    return tuple(ranges)


# --- For people ------------------------------------------------------------------------------------------

MEANING = (
    "This is a list for a person to read, and no verdict: it says which answers look alike, not why.",
    "Names, comments, layout and the order of functions are taken out before answers are compared. What the "
    "starter gave to everybody and what many answers have are not counted.",
    "The score is the share of the shorter answer's fingerprints that the other answer has, too. Tokens are "
    "the words and signs in the matched parts: a high score over few tokens means little.",
    "Alike by chance, by a common source, by working together where that was allowed, and by copying all "
    "look the same here, and nothing says who wrote first. Read both sources, and ask both learners.",
    "An answer that is not on the list is not thereby its learner's own work.",
)


def to_csv(report: Report) -> str:
    """A line for each match, in the report's order."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    sides = ("learner", "notebook", "received", "counts", "lines", "also")
    columns = [f"{side}_{name}" for side in ("first", "second") for name in sides]
    writer.writerow(["exercise", "score", "tokens", "fingerprints", "identical", *columns])
    for match in report.matches:
        figures = [f"{match.score:.3f}", match.tokens, match.shared, _yes(match.identical)]
        cells = [cell for side in (match.first, match.second) for cell in _cells(side)]
        writer.writerow([csv_cell(match.exercise), *figures, *cells])
    return buffer.getvalue()


def _cells(side: Side) -> list[str]:
    also = ", ".join(side.also)
    texts = (side.learner, side.notebook, side.received, _yes(side.counts), _told(side.lines), also)
    return [csv_cell(text) for text in texts]


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _told(lines: Lines) -> str:
    """Line ranges as a person writes them, such as "2–5 9"."""
    return " ".join(f"{first}" if first == last else f"{first}–{last}" for first, last in lines)


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 90em; margin: 2em auto; padding: 0 1em;
  color: #212121; background: #fff; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin: 2em 0 .4em; }
.meaning { border: 1px solid #bdbdbd; border-left: 6px solid #3b6fb6; border-radius: 4px;
  padding: .5em .9em; margin: 0 0 1.5em; max-width: 52em; }
.meaning p { margin: .25em 0; }
table { border-collapse: collapse; } th, td { text-align: left; padding: .2em 1.2em .2em 0; }
td.figure { text-align: right; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1em; } .pair > div { min-width: 0; }
pre { font: 13px/1.45 ui-monospace, monospace; background: #f5f5f5; border: 1px solid #bdbdbd;
  border-radius: 4px; padding: .7em .9em; overflow-x: auto; white-space: pre; }
mark { background: #ffe9a8; color: inherit; }
@media print { body { margin: 0; max-width: none; } pre { white-space: pre-wrap; } }
"""
_SIGN = "▌"


def page(report: Report, *, title: str = "Answers that look alike", top: int = 25) -> str:
    """The highest `top` matches side by side, as the text of a UTF-8 file that needs no other.

    It holds learners' names and answers: it is for staff.
    """
    meaning = "".join(f"<p>{escape(sentence)}</p>" for sentence in MEANING)
    shown = report.matches[:top]
    number = f"{len(shown)} of {len(report.matches)} matches" if shown else "No matches"
    legend = f"{number}. <mark>{_SIGN}</mark> stands before each line that has a matched part."
    pairs = "\n".join(_section(rank, match) for rank, match in enumerate(shown, 1))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f'<h1>{escaped(title)}</h1>\n<div class="meaning">{meaning}</div>\n'
        f"{_overview(report)}\n<p>{legend}</p>\n{pairs}\n{_left_out(report)}\n</body>\n</html>\n"
    )


def _overview(report: Report) -> str:
    names = ("Exercise", "Answers", "Different", "Compared", "Idioms", "Usual highest score")
    lines = []
    for found in report.overviews:
        typical = "–" if found.typical is None else f"{found.typical:.0%}"
        figures = (found.answers, found.distinct, found.compared, found.common, typical)
        cells = "".join(f'<td class="figure">{figure}</td>' for figure in figures)
        lines.append(f"<tr><td>{escaped(found.exercise)}</td>{cells}</tr>")
    return _table(names, lines)


def _table(names: Iterable[str], lines: Iterable[str]) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"


def _section(rank: int, match: Match) -> str:
    names = f"{rank}. {match.exercise}: {match.first.learner} and {match.second.learner}"
    same = "the same but for names, layout and comments" if match.identical else f"score {match.score:.0%}"
    figures = f"{same}; {match.tokens} tokens and {match.shared} fingerprints in matched parts"
    return (
        f"<h2>{escaped(names)}</h2>\n<p><strong>{figures[0].upper()}{figures[1:]}.</strong></p>\n"
        f'<div class="pair">{_column(match.first)}{_column(match.second)}</div>'
    )


def _column(side: Side) -> str:
    about = [side.learner]
    about += [side.notebook] if side.notebook else []
    about += [f"received {side.received[:16].replace('T', ' ')} UTC"] if side.received else []
    about += [] if side.counts else ["an earlier submission"]
    about += [f"the same answer: {', '.join(side.also)}"] if side.also else []
    return f"<div><p>{escaped('; '.join(about))}</p>\n<pre><code>{_marked(side)}</code></pre></div>"


def _marked(side: Side) -> str:
    """The source with its lines numbered, and those in matched ranges marked."""
    matched = {line for first, last in side.lines for line in range(first, last + 1)}
    lines = []
    for number, line in enumerate(side.source.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        code = escaped(line)
        lines.append(f"<mark>{_SIGN}{number:4} {code}</mark>" if number in matched else f" {number:4} {code}")
    return "\n".join(lines)


def _left_out(report: Report) -> str:
    if not report.omitted:
        return ""
    cells = [(one.exercise, one.learner, one.reason) for one in report.omitted]
    lines = ["<tr>" + "".join(f"<td>{escaped(cell)}</td>" for cell in three) + "</tr>" for three in cells]
    return f"<h2>Left out</h2>\n{_table(('Exercise', 'Learner', 'Why'), lines)}"
