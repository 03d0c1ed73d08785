"""Texts to learn from, tokenizers trained on them, and ten thousand strings that go wrong elsewhere."""

from __future__ import annotations

import random
import unicodedata

import pytest

from course_lib.data.stdlib_text import python_source, reference_prose
from course_lib.tokenizers import (
    BPETokenizer,
    CharacterTokenizer,
    Tokenizer,
    UnigramTokenizer,
    WordPieceTokenizer,
    WordTokenizer,
)

KINDS: list[type[Tokenizer]] = [
    BPETokenizer,
    WordPieceTokenizer,
    UnigramTokenizer,
    WordTokenizer,
    CharacterTokenizer,
]

WORLD_TEXT = (
    "苹果发布了新手机。我爱吃苹果！他们在北京的公司工作。"
    "Größe, naïve café, déjà vu, Ångström, İstanbul, ΣΊΣΥΦΟΣ, ὀδυσσεύς, Привет мир. "
    "こんにちは世界 カタカナ 한국어 안녕하세요 שלום עולם مرحبا بالعالم नमस्ते दुनिया สวัสดี "
    "👍🏽 👩‍👩‍👧‍👦 🇫🇷 ❤️ ½ ² Ⅻ ① ﬁ e\u0301 a\u0323\u0302 \u200b zero\u200dwidth \u00a0nbsp\u3000wide "
) * 3

_BLOCKS = {
    "ascii": [(0x20, 0x7E)],
    "latin": [(0xA0, 0x24F), (0x1E00, 0x1EFF)],
    "greek and cyrillic": [(0x370, 0x52F), (0x1F00, 0x1FFF)],
    "right to left": [(0x590, 0x6FF)],
    "indic and thai": [(0x900, 0x97F), (0xB80, 0xBFF), (0xE00, 0xE7F)],
    "cjk": [(0x3000, 0x30FF), (0x4E00, 0x4FFF), (0xAC00, 0xAD00), (0xF900, 0xFA20), (0x20000, 0x20040)],
    "emoji": [
        (0x1F300, 0x1F64F),
        (0x1F900, 0x1F9FF),
        (0x2600, 0x27BF),
        (0x1F1E6, 0x1F1FF),
        (0x1F3FB, 0x1F3FF),
    ],
    "combining": [(0x300, 0x36F), (0x1AB0, 0x1ABD), (0x20D0, 0x20F0), (0xFE00, 0xFE0F), (0x200B, 0x200F)],
    "control": [(0x0, 0x1F), (0x7F, 0x9F), (0x2028, 0x202E), (0xFFF9, 0xFFFD), (0xE000, 0xE010)],
    "whitespace": [
        (0x20, 0x20),
        (0x9, 0xD),
        (0x1C, 0x20),
        (0x85, 0x85),
        (0xA0, 0xA0),
        (0x2000, 0x200A),
        (0x3000, 0x3000),
    ],
    "anything": [(0x0, 0xD7FF), (0xE000, 0x10FFFF)],
}
_WORDS = [
    "Let's",
    "DON'T",
    "the",
    "tokenization",
    " isn't",
    "we'll",
    "x" * 120,
    "a##b",
    "▁",
    "Ġ",
    "##",
    "<0x41>",
    "   ",
]


def _alphabets() -> list[list[str]]:
    """The characters of each block that this Python's Unicode knows."""
    return [
        [
            chr(code)
            for low, high in ranges
            for code in range(low, high + 1)
            if unicodedata.category(chr(code)) != "Cn"
        ]
        for ranges in _BLOCKS.values()
    ]


def _odd_string(rng: random.Random, alphabets: list[list[str]]) -> str:
    """Runs from several blocks, some characters repeated, sometimes a word between."""
    runs: list[str] = []
    for _ in range(rng.randint(1, 6)):
        alphabet = rng.choice(alphabets)
        run = "".join(rng.choices(alphabet, k=rng.randint(0, 8)))
        runs += [run, run[-1:] * rng.choice([0, 0, 3]), rng.choice(_WORDS) if rng.random() < 0.3 else ""]
    return "".join(runs)


@pytest.fixture(scope="session")
def odd_strings() -> list[str]:
    """10,000 strings of emoji, combining marks, scripts, controls, runs of whitespace; always the same."""
    rng = random.Random(20261120)
    alphabets = _alphabets()
    return ["", " ", "\n", *(_odd_string(rng, alphabets) for _ in range(9_997))]


@pytest.fixture(scope="session")
def training_texts() -> list[str]:
    """English prose, Python source and a little of many scripts."""
    return [reference_prose()[:60_000], python_source(0.05), WORLD_TEXT]


@pytest.fixture(scope="session")
def trained(training_texts: list[str]) -> dict[str, Tokenizer]:
    """One tokenizer of each kind, by the name of its class."""
    return {kind.__name__: kind.train(training_texts, 800) for kind in KINDS}


@pytest.fixture(params=[kind.__name__ for kind in KINDS])
def tokenizer(request: pytest.FixtureRequest, trained: dict[str, Tokenizer]) -> Tokenizer:
    """Each kind in turn."""
    return trained[request.param]
