"""Make text safe and visible: escape it for HTML, and show the characters that leave no ink."""

from __future__ import annotations

import html
import json
import unicodedata

_SYMBOLS = {" ": "·", "\t": "⇥", "\n": "⏎", "\r": "␍", "\u00a0": "⍽", "\u3000": "□", "\x7f": "␡"}
_JOINERS = ("\u200c", "\u200d")


def visible(text: str) -> str:
    """The text with whitespace, control, format and lone combining characters made visible.

    A single space is `␣`, a space among other characters `·`, a line end `⏎`, the empty string `∅`.
    Joiners inside a token are kept, since they shape the letters and emoji around them.

    >>> visible(" new\\nline"), visible(" "), visible("\\u202e")
    ('·new⏎line', '␣', '⟨202E⟩')
    """
    if text in ("", " "):
        return "␣" if text else "∅"
    return "".join(_visible_character(text, position) for position in range(len(text)))


def axis_label(text: str) -> str:
    """`visible`, but for the spaces between words of a label that is no token.

    >>> axis_label("key 1"), axis_label(" the")
    ('key 1', '·the')
    """
    inner = text.strip(" ")
    if not inner:
        return visible(text)
    before, after = text[: text.index(inner)], text[text.index(inner) + len(inner) :]
    words = " ".join(visible(word) if word else "" for word in inner.split(" "))
    return "·" * len(before) + words + "·" * len(after)


def _visible_character(text: str, position: int) -> str:
    character = text[position]
    if character in _SYMBOLS:
        return _SYMBOLS[character]
    if ord(character) < 0x20:
        return chr(0x2400 + ord(character))
    category = unicodedata.category(character)
    if category[0] == "M" and position == 0:
        return "◌" + character
    is_inner_joiner = character in _JOINERS and 0 < position < len(text) - 1
    if category in ("Cc", "Cf", "Cs", "Cn", "Co", "Zs", "Zl", "Zp") and not is_inner_joiner:
        return f"⟨{ord(character):04X}⟩"
    return character


def escape(text: str) -> str:
    """The text escaped for HTML content and for attributes in double quotes."""
    return html.escape(text, quote=True)


def script_json(value: object) -> str:
    """JSON that cannot leave a `<script>` element, whatever strings it holds."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True, allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def display_width(text: str) -> int:
    """Columns that the text takes in a fixed-width font: East Asian wide characters count two."""
    columns = 0
    for character in text:
        if unicodedata.category(character) in ("Mn", "Me", "Cf"):
            continue
        columns += 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1
    return columns


def shorten(text: str, most: int) -> str:
    """The text cut to `most` columns, with `…` for what was cut."""
    if display_width(text) <= most:
        return text
    kept = ""
    for character in text:
        if display_width(kept + character) >= most:
            break
        kept += character
    return kept + "…"
