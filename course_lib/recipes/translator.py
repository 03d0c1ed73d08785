"""Chapter 10's translator: a small Transformer from English to four languages, and how it was made.

    python -m course_lib.recipes.translator

trains it on dates, number words and sentences of the story world, half an hour on one core, and writes the
weights into `data/10_translator.safetensors`, and what was measured on unseen pairs into the JSON beside it.
A run that is interrupted goes on where it was, from a checkpoint beside them that is deleted at the end.

Axes: n sentences, s source tokens, t target tokens, h heads.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from course_lib.data.parallel import LengthBatches, PairBatch, pad
from course_lib.data.translation import BEGIN, END, PAD, SPECIAL_TOKENS, LevelName, Pair, Vocabulary, pairs
from course_lib.device import set_seed
from course_lib.generation import Hypothesis, TransformerDecoder, beam_search, greedy
from course_lib.models.transformer import Transformer, TransformerConfig
from course_lib.training import History, Loss, TrainConfig, train
from course_lib.training.bleu import corpus_bleu
from course_lib.training.label_smoothing import smoothed_loss

DATA = Path(__file__).parent / "data"
WEIGHTS, MEASURED = DATA / "10_translator.safetensors", DATA / "10_translator.json"
LANGUAGES = ("fr", "de", "zh", "ja")


class Task(NamedTuple):
    """A level, the language to translate into, and how many pairs to learn from."""

    level: LevelName
    target: str
    size: int


TASKS = (
    *(Task("dates", language, 8_000) for language in LANGUAGES),
    *(Task("numbers", language, 7_960) for language in LANGUAGES),
    Task("sentences", "fr", 90_000),
    Task("sentences", "zh", 90_000),
)


def tag(language: str) -> str:
    """The first token of a source, which says what to translate into."""
    return f"<{language}>"


@dataclass
class Translator:
    """A trained model with its vocabulary, one for all languages."""

    model: Transformer
    vocabulary: Vocabulary

    def source_ids(self, sentences: Iterable[Sequence[str]], target: str) -> list[list[int]]:
        """Ids of English sentences, each behind the tag of the language to translate into."""
        return [self.vocabulary.encode((tag(target), *words)) for words in sentences]

    def translate(
        self,
        sentences: Sequence[Sequence[str]],
        target: str,
        *,
        num_beams: int = 5,
        alpha: float = 0.6,
        max_length: int = 32,
        batch: int = 128,
    ) -> list[Hypothesis]:
        """The best hypothesis for each English sentence, which is given as words; num_beams 1 is greedy."""
        self.model.eval()
        found: list[Hypothesis] = []
        device = next(self.model.parameters()).device
        options: dict[str, Any] = {
            "begin_id": BEGIN,
            "end_id": END,
            "max_length": max_length,
            "device": device,
        }
        with torch.no_grad():
            for first in range(0, len(sentences), batch):
                part = pad(self.source_ids(sentences[first : first + batch], target)).to(device)
                decoder = TransformerDecoder(self.model, part)
                if num_beams == 1:
                    found += greedy(decoder, len(part), **options)
                else:
                    beams = beam_search(decoder, len(part), num_beams=num_beams, alpha=alpha, **options)
                    found += [hypotheses[0] for hypotheses in beams]
        return found

    def words(self, hypothesis: Hypothesis) -> tuple[str, ...]:
        """A hypothesis as words."""
        return self.vocabulary.decode(hypothesis.ids)

    @torch.no_grad()
    def attention(self, source: Sequence[str], words: Sequence[str], target: str) -> Tensor:
        """Cross-attention while `words` are written: (layers, h, t + 1, s + 1), tag first and end last."""
        device = next(self.model.parameters()).device
        source_ids = torch.tensor(self.source_ids([source], target), device=device)
        target_ids = torch.tensor([self.vocabulary.encode(words, begin=True)], device=device)
        blocks = self.model.eval()(source_ids, target_ids, return_weights=True).blocks
        return torch.stack([block.cross_weights[0] for block in blocks if block.cross_weights is not None])


@cache
def task_pairs(task: Task, split: str = "train", seed: int = 0) -> tuple[Pair, ...]:
    """The pairs of a task."""
    return tuple(pairs(task.level, "en", task.target, split=split, count=task.size, seed=seed))


def read_vocabulary(tasks: Sequence[Task]) -> Vocabulary:
    """All words of the training pairs of all tasks, and the tags, by frequency."""
    texts: list[Sequence[str]] = []
    for task in tasks:
        for pair in task_pairs(task):
            texts += [(tag(task.target), *pair.source), pair.target]
    return Vocabulary.of(texts)


def encoded(tasks: Sequence[Task], vocabulary: Vocabulary) -> list[tuple[list[int], list[int]]]:
    """All training pairs as ids, shuffled, so that tasks mix."""
    rows = [
        (vocabulary.encode((tag(task.target), *pair.source)), vocabulary.encode(pair.target))
        for task in tasks
        for pair in task_pairs(task)
    ]
    random.Random(0).shuffle(rows)
    return rows


def translation_loss(model: Transformer, batch: PairBatch, smoothing: float = 0.1) -> Loss:
    """The smoothed loss of every target token, all at once."""
    return smoothed_loss(model(batch.source_ids, batch.inputs).logits, batch.targets, smoothing, PAD)


def train_translator(
    tasks: Sequence[Task],
    config: TransformerConfig,
    plan: TrainConfig,
    *,
    tokens: int = 3_000,
    progress: bool = True,
) -> tuple[Translator, History]:
    """A translator for some tasks. config: its vocabulary's size is filled in. tokens: in a batch."""
    vocabulary = read_vocabulary(tasks)
    set_seed(plan.seed)
    model = Transformer(replace(config, source_vocab=len(vocabulary)))
    batches = LengthBatches(encoded(tasks, vocabulary), tokens, seed=plan.seed)
    history = train(model, batches, translation_loss, plan, progress=progress)
    return Translator(model, vocabulary), history


def measure(translator: Translator, task: Task, split: str = "test", num_beams: int = 5) -> dict[str, float]:
    """BLEU, and the share of pairs translated word for word as the reference, in percent."""
    found = task_pairs(task, split)
    hypotheses = [
        translator.words(hypothesis)
        for hypothesis in translator.translate(
            [pair.source for pair in found], task.target, num_beams=num_beams
        )
    ]
    references = [pair.target for pair in found]
    exact = sum(ours == theirs for ours, theirs in zip(hypotheses, references, strict=True))
    return {"BLEU": corpus_bleu(hypotheses, references).score, "exact": 100 * exact / len(found)}


def save_translator(translator: Translator, path: Path) -> None:
    """Weights in 16 bits, sizes and vocabulary in one file."""
    about = {
        "config": json.dumps(asdict(translator.model.config)),
        "tokens": json.dumps(translator.vocabulary.tokens, ensure_ascii=False),
    }
    state = {name: tensor.half().contiguous() for name, tensor in translator.model.state_dict().items()}
    save_file(state, path, metadata=about)


def load_translator(path: Path = WEIGHTS) -> Translator:
    """The trained translator, on the CPU, in 32 bits."""
    with safe_open(path, framework="pt") as stored:
        about: dict[str, str] = stored.metadata()
        state = {name: stored.get_tensor(name).float() for name in stored.keys()}  # noqa: SIM118
    model = Transformer(TransformerConfig(**json.loads(about["config"])))
    model.load_state_dict(state)
    return Translator(model.eval(), Vocabulary(tuple(json.loads(about["tokens"]))))


CONFIG = TransformerConfig(
    source_vocab=len(SPECIAL_TOKENS),
    d_model=128,
    num_heads=4,
    num_encoder_layers=3,
    num_decoder_layers=2,
    d_ff=512,
    max_length=64,
)
PLAN = TrainConfig(steps=7_000, learning_rate=2e-3, warmup=500, schedule="linear", checkpoint_every=250)


def load_measured() -> dict[str, Any]:
    """What the recipe measured: "steps" and "losses" of the training, and "unseen", the scores by task."""
    return json.loads(MEASURED.read_text(encoding="utf-8"))


def main() -> None:
    """Train the translator and measure it."""
    torch.set_num_threads(1)
    checkpoint = DATA / "10_translator.checkpoint"
    translator, history = train_translator(TASKS, CONFIG, replace(PLAN, checkpoint=checkpoint))
    save_translator(translator, WEIGHTS)
    translator = load_translator()
    unseen = [task._replace(size=1_000) for task in TASKS]
    measured = {}
    for task in unseen:
        scores = measure(translator, task)
        measured[f"{task.level}, {task.target}"] = {name: round(value, 2) for name, value in scores.items()}
    steps, losses = history.smoothed()
    rounded = {"steps": steps, "losses": [round(loss, 4) for loss in losses]}
    MEASURED.write_text(json.dumps(rounded | {"unseen": measured}, indent=1) + "\n", encoding="utf-8")
    checkpoint.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
