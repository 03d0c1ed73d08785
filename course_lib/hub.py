"""Published models by name or from a folder: `from_pretrained`, `save_pretrained`, `load_tokenizer`.

A name such as "openai-community/gpt2" is looked for in our cache folder, then in that of Hugging Face's own
programs, and then on the network. A folder has `config.json`, the weights as safetensors and a tokenizer.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar, overload

import requests
from torch import nn
from tqdm.auto import tqdm

from course_lib.data.download import CHUNK_BYTES, TIMEOUT_SECONDS, cache_folder
from course_lib.models import checkpoint_files, published
from course_lib.models.bert import BERT
from course_lib.models.checkpoint_files import CONFIG, INDEX, WEIGHTS, CheckpointError
from course_lib.models.gpt import GPT
from course_lib.models.transformer import Transformer
from course_lib.tokenizers.base import Tokenizer
from course_lib.tokenizers.loading import load_tokenizer as load_tokenizer_json
from course_lib.tokenizers.wordpiece import WordPieceTokenizer

Model = TypeVar("Model", bound=nn.Module)
NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "tokenizer_config.json")


@overload
def from_pretrained(name_or_path: str | Path) -> GPT | BERT | Transformer: ...
@overload
def from_pretrained(name_or_path: str | Path, model: type[Model]) -> Model: ...
def from_pretrained(name_or_path: str | Path, model: type[nn.Module] | None = None) -> nn.Module:
    """The published GPT-2, Llama, BERT, RoBERTa, DistilBERT or Marian, float32, in evaluation mode.

    model: the class that is expected, any when None. Raises CheckpointError, in one sentence, where files
    are missing, damaged, of another model or pickles, and where a name can be found nowhere.
    """
    folder = locate(name_or_path)
    kinds = [kind for kind, family in published.FAMILIES.items() if model in (None, family.model)]
    kinds += ["marian"] if model in (None, Transformer) else []
    settings = checkpoint_files.read_config(folder, *kinds)
    if settings["model_type"] == "marian":
        return Transformer.from_pretrained(folder)
    family = published.FAMILIES[settings["model_type"]]
    return published.load(family, settings, checkpoint_files.read_weights(folder))


def save_pretrained(model: GPT | BERT, folder: str | Path, tokenizer: Tokenizer | None = None) -> None:
    """Write a folder that `from_pretrained` reads, ours and that of `transformers`.

    Raises CheckpointError where no published family has such a model, before anything is written.
    """
    settings, weights = published.dump(model)
    checkpoint_files.write_checkpoint(Path(folder), settings, weights)
    if tokenizer is not None:
        tokenizer.save(Path(folder) / "tokenizer.json")


def load_tokenizer(name_or_path: str | Path) -> Tokenizer:
    """The tokenizer in a model's folder: `tokenizer.json`, or BERT's `vocab.txt`."""
    folder = locate(name_or_path)
    if (folder / "tokenizer.json").is_file():
        return load_tokenizer_json(folder / "tokenizer.json")
    if not (folder / "vocab.txt").is_file():
        raise CheckpointError(f"{folder} has neither tokenizer.json nor vocab.txt; give a folder with one")
    settings = folder / "tokenizer_config.json"
    lowercase = not settings.is_file() or checkpoint_files.read_json(settings).get("do_lower_case", True)
    return WordPieceTokenizer.from_vocab_file(folder / "vocab.txt", lowercase=lowercase)


def locate(name_or_path: str | Path) -> Path:
    """The folder of a model, which a name is fetched into where it is not on this machine yet."""
    folder = Path(name_or_path).expanduser()
    if folder.is_dir():
        return folder
    name = str(name_or_path)
    if isinstance(name_or_path, Path) or not NAME.fullmatch(name):
        raise CheckpointError(f"{name} is no folder; give the folder of a checkpoint, or a name on the hub")
    for kept in (our_folder(name), *their_folders(name)):
        if is_whole(kept):
            return kept
    return download(name, our_folder(name))


def our_folder(name: str) -> Path:
    """Where a model is kept once it was fetched."""
    return cache_folder() / "hub" / name.replace("/", "--")


def their_folders(name: str) -> Iterator[Path]:
    """Where Hugging Face's programs keep what they fetched, the newest first."""
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    snapshots = home / "hub" / f"models--{name.replace('/', '--')}" / "snapshots"
    if snapshots.is_dir():
        yield from sorted(snapshots.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)


def is_whole(folder: Path) -> bool:
    """Whether a folder has a configuration and all files of weights."""
    if not (folder / CONFIG).is_file():
        return False
    if (folder / WEIGHTS).is_file() or not (folder / INDEX).is_file():
        return (folder / WEIGHTS).is_file()
    return all((folder / name).is_file() for name in checkpoint_files.shard_names(folder / INDEX).values())


def download(name: str, folder: Path) -> Path:
    """Fetch a model's files from the hub; those that are there already stay."""
    folder.mkdir(parents=True, exist_ok=True)
    if not fetch_file(name, CONFIG, folder):
        raise CheckpointError(f"the hub has no model {name!r} that is open to all; check the name")
    if not fetch_file(name, WEIGHTS, folder):
        if not fetch_file(name, INDEX, folder):
            raise CheckpointError(f"{name} has no safetensors on the hub; choose a model that has")
        for shard in sorted(set(checkpoint_files.shard_names(folder / INDEX).values())):
            if not fetch_file(name, shard, folder):
                raise CheckpointError(f"the hub has no {shard} of {name}, which its index lists")
    for file in TOKENIZER_FILES:
        fetch_file(name, file, folder)
    return folder


def fetch_file(name: str, file: str, folder: Path) -> bool:
    """Fetch one file, whole or not at all; False where the hub has none of that name."""
    target, partial = folder / file, folder / f"{file}.part"
    if target.is_file():
        return True
    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    try:
        with requests.get(
            f"{address}/{name}/resolve/main/{file}", stream=True, timeout=TIMEOUT_SECONDS
        ) as answer:
            if answer.status_code in (401, 403, 404):
                return False
            answer.raise_for_status()
            total = int(answer.headers.get("Content-Length", 0))
            with partial.open("wb") as out, tqdm(total=total, unit="B", unit_scale=True, desc=file) as bar:
                for chunk in answer.iter_content(CHUNK_BYTES):
                    out.write(chunk)
                    bar.update(len(chunk))
    except requests.RequestException as error:
        partial.unlink(missing_ok=True)
        reason = "it cannot be reached" if isinstance(error, requests.ConnectionError) else str(error)
        raise CheckpointError(
            f"{name} is not on this machine, and fetching {file} from {address} failed ({reason}); "
            "connect to the network, or copy the model's folder here and give its path"
        ) from None
    partial.replace(target)
    return True
