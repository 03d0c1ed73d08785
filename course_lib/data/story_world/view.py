"""A notebook's view of a story with its labels: plain HTML and CSS, nothing fetched, readable in grey.

Colours never stand alone: every type, feeling and antecedent is also written out. Hovering a translated word
names the English words that it is aligned with.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from course_lib.data.story_world.story import Sentence, Story, Translation

LABELS = ("entities", "coreference", "sentences", "translations", "questions", "summary", "probability")
_COLOURS = {
    "PERSON": "#0072b2",
    "ANIMAL": "#d55e00",
    "THING": "#009e73",
    "PLACE": "#cc79a7",
    "ORGANISATION": "#e69f00",
}
_SIGNS = {"positive": "+", "negative": "−", "neutral": "0"}
_NO_SPACE_BEFORE = frozenset(".,”")
_STYLE = """<style>
.story-world {max-width: 60em; line-height: 1.9}
.story-world .mention {border-bottom: 2px solid; padding-bottom: 1px}
.story-world .pronoun {border-bottom: 2px dotted; padding-bottom: 1px}
.story-world small {opacity: .75; font-size: 70%; margin-left: 2px}
.story-world table {border-collapse: collapse; line-height: 1.4}
.story-world td, .story-world th {text-align: left; vertical-align: top; padding: 2px 8px}
.story-world [title] {cursor: help}
</style>"""


@dataclass(frozen=True)
class StoryView:
    """A story with chosen labels; a notebook shows it as HTML, a terminal as text."""

    story: Story
    labels: tuple[str, ...]

    def _repr_html_(self) -> str:
        return story_html(self.story, self.labels)

    def __repr__(self) -> str:
        return story_text(self.story, self.labels)


def show(story: Story, labels: Collection[str] = LABELS) -> StoryView:
    """A view of a story with some of `LABELS`: entities, coreference, sentences, translations, …"""
    unknown = sorted(set(labels) - set(LABELS))
    if unknown:
        raise ValueError(f"no such labels: {', '.join(unknown)}; choose from {', '.join(LABELS)}")
    return StoryView(story, tuple(label for label in LABELS if label in labels))


def story_html(story: Story, labels: Collection[str] = LABELS) -> str:
    """The story's text with its mentions marked, then a table of sentences, the questions and the rest."""
    parts = [_STYLE, f"<p>{_marked_text(story, labels)}</p>"]
    if "sentences" in labels or "translations" in labels:
        parts.append(_sentence_table(story, labels))
    if "questions" in labels:
        parts.append(_questions(story))
    if "summary" in labels:
        parts.append(
            f"<p><b>Summary</b> {escape(story.summary)} <b>Topic</b> {story.topic} "
            f"<b>Sentiment</b> {_SIGNS[story.sentiment]} {story.sentiment}</p>"
        )
    if "probability" in labels:
        parts.append(f"<p>{escape(_probability(story))}</p>")
    return f'<div class="story-world">{"".join(parts)}</div>'


def story_text(story: Story, labels: Collection[str] = LABELS) -> str:
    """The same for a plain terminal."""
    lines = [story.text]
    if "entities" in labels:
        lines.append("Entities: " + "; ".join(f"{m.text} [{m.type} {m.identity}]" for m in story.entities))
    if "coreference" in labels:
        lines.append("Coreference: " + "; ".join(f"{c.text} → {c.antecedent}" for c in story.coreference))
    if "sentences" in labels:
        lines += [f"{_SIGNS[s.sentiment]} {s.event}: {s.text}" for s in story.sentences]
    if "translations" in labels:
        for language in ("french", "chinese"):
            lines.append(" ".join(translation.text for translation in story.translations(language)))
    if "questions" in labels:
        lines += [f"{question.text} {question.answer}" for question in story.questions]
    if "summary" in labels:
        lines.append(f"Summary: {story.summary} Topic: {story.topic}. Sentiment: {story.sentiment}.")
    if "probability" in labels:
        lines.append(_probability(story))
    return "\n".join(lines)


def _probability(story: Story) -> str:
    positions = len(story.words) + 1
    return (
        f"log-probability {story.log_probability:.2f} nats; "
        f"{-story.log_probability / positions:.3f} nats a word ({positions} words, the end counted)"
    )


def _marked_text(story: Story, labels: Collection[str]) -> str:
    opens: dict[int, list[str]] = {}
    closes: dict[int, list[str]] = {}
    if "entities" in labels:
        for mention in story.entities:
            about = f"{mention.type} {mention.identity}" if mention.identity >= 0 else mention.type
            opening = _span("mention", f"border-color: {_COLOURS[mention.type]}", f"{about}: {mention.text}")
            opens.setdefault(mention.start, []).append(opening)
            closes.setdefault(mention.end - 1, []).append(f"<small>{about}</small></span>")
    if "coreference" in labels:
        for link in story.coreference:
            about = f"{link.text} means {link.antecedent}"
            opens.setdefault(link.start, []).append(_span("pronoun", "", about))
            closes.setdefault(link.end - 1, []).insert(
                0, f"<small>→ {escape(link.antecedent)}</small></span>"
            )
    pieces = []
    for index, word in enumerate(story.words):
        space = "" if word in _NO_SPACE_BEFORE or not index or story.words[index - 1] == "“" else " "
        marked = "".join(opens.get(index, ())) + escape(word) + "".join(closes.get(index, ()))
        pieces.append(space + marked)
    return "".join(pieces)


def _span(name: str, style: str, title: str) -> str:
    return f'<span class="{name}" style="{style}" title="{escape(title, quote=True)}">'


def _sentence_table(story: Story, labels: Collection[str]) -> str:
    translated = "translations" in labels
    head = "<tr><th>event</th><th>sentiment</th><th>English</th>"
    head += "<th>French</th><th>Chinese</th></tr>" if translated else "</tr>"
    return f"<table>{head}{''.join(_row(sentence, translated) for sentence in story.sentences)}</table>"


def _row(sentence: Sentence, translated: bool) -> str:
    cells = [
        escape(sentence.event.replace("_", " ")),
        f"{_SIGNS[sentence.sentiment]} {sentence.sentiment}",
        escape(sentence.text),
    ]
    if translated:
        cells += [_aligned(sentence, sentence.translation(language)) for language in ("french", "chinese")]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _aligned(sentence: Sentence, translation: Translation) -> str:
    """The translated words, each with the English words it is aligned with as its title."""
    pieces = []
    for target, word in enumerate(translation.words):
        sources = [sentence.words[i] for i, j in sorted(translation.alignment) if j == target]
        title = " ".join(sources) if sources else "no English word"
        space = "" if translation.language == "chinese" or word in ".," or not target else " "
        if target and translation.words[target - 1].endswith("'"):
            space = ""
        pieces.append(f'{space}<span title="{escape(title, quote=True)}">{escape(word)}</span>')
    return "".join(pieces)


def _questions(story: Story) -> str:
    rows = "".join(
        f"<tr><td>{escape(question.text)}</td><td><b>{escape(question.answer)}</b></td>"
        f"<td>words {question.start} to {question.end - 1}</td></tr>"
        for question in story.questions
    )
    return f"<table><tr><th>question</th><th>answer</th><th>where</th></tr>{rows}</table>" if rows else ""
