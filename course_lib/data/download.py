"""Public texts and checkpoints for those with a network. No lesson, exercise or test needs one.

A file is known by name; it comes from the first address that answers, is checked against its size and
SHA-256, and is kept in a cache folder. What fails the check, or stops half-way, leaves no file behind.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pooch
import requests
from tqdm import tqdm

CHUNK_BYTES = 1 << 16
TIMEOUT_SECONDS = 20.0  # to connect, and between two pieces of the answer


class DownloadError(RuntimeError):
    """A named file could not be had; the message says what was tried and how to place it by hand."""


@dataclass(frozen=True)
class Resource:
    """A public file: where it is, what it must be, and on what terms it may be used."""

    name: str
    title: str
    urls: tuple[str, ...]
    sha256: str
    size: int
    licence: str
    file_name: str

    def __post_init__(self) -> None:
        if not self.urls or not all(urlsplit(url).scheme in ("https", "http") for url in self.urls):
            raise ValueError(f"{self.name}: urls={self.urls} must be web addresses, at least one")
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(f"{self.name}: sha256={self.sha256!r} must be 64 lower-case hexadecimal digits")
        if self.size <= 0:
            raise ValueError(f"{self.name}: size={self.size} must be the file's bytes")
        if Path(self.file_name).name != self.file_name:
            raise ValueError(f"{self.name}: file_name={self.file_name!r} must be a name without folders")


REGISTRY: Mapping[str, Resource] = {
    entry.name: entry
    for entry in (
        Resource(
            name="tiny_shakespeare",
            title="Tiny Shakespeare, 40,000 lines from the plays",
            urls=(
                "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
            ),
            sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            size=1_115_394,
            licence="public domain (the plays; the repository that collected them is MIT)",
            file_name="tiny_shakespeare.txt",
        ),
    )
}


def cache_folder() -> Path:
    """Where downloads are kept: `COURSE_DATA` if set, else the user's cache folder."""
    chosen = os.environ.get("COURSE_DATA")
    return Path(chosen).expanduser() if chosen else Path(pooch.os_cache("transformer-course"))


def fetch(
    name: str,
    *,
    registry: Mapping[str, Resource] = REGISTRY,
    progress: bool = True,
    timeout: float = TIMEOUT_SECONDS,
) -> Path:
    """The path of a named file, downloaded on first use and verified on every use.

    A file placed in the cache folder by hand counts if it is the right one. `DownloadError` says in one
    sentence what could not be had; `ValueError` that no such name is registered.
    """
    resource = _look_up(name, registry)
    path = cache_folder() / resource.file_name
    if path.is_file() and is_intact(path, resource):
        return path
    problems = []
    for url in resource.urls:
        try:
            return _download(url, resource, path, progress, timeout)
        except (OSError, ValueError) as error:
            # requests' errors are OSErrors, and so is a full disk; pooch reports a wrong hash as ValueError.
            problems.append(f"{urlsplit(url).netloc}: {_reason(error, timeout)}")
    raise DownloadError(_explanation(resource, path, problems))


def is_intact(path: Path, resource: Resource) -> bool:
    """True when the file has the registered size and SHA-256."""
    if path.stat().st_size != resource.size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == resource.sha256


def _look_up(name: str, registry: Mapping[str, Resource]) -> Resource:
    if name in registry:
        return registry[name]
    near = get_close_matches(name, registry, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"no download is registered as {name!r}; there are {sorted(registry)}.{hint}")


def _download(url: str, resource: Resource, path: Path, progress: bool, timeout: float) -> Path:
    pooch.get_logger().setLevel("WARNING")
    downloader = _Downloader(resource, progress, timeout)
    # pooch writes beside the target under another name, checks the hash, and only then renames.
    kept = pooch.retrieve(
        url,
        known_hash=f"sha256:{resource.sha256}",
        fname=path.name,
        path=path.parent,
        downloader=downloader,
    )
    return Path(kept)


@dataclass(frozen=True)
class _Downloader:
    """Streams an address into a file, for pooch; stops at once when more comes than was registered."""

    resource: Resource
    progress: bool
    timeout: float

    def __call__(self, url: str, output_file: str, source: Any) -> None:
        with requests.get(url, stream=True, timeout=self.timeout) as answer:
            answer.raise_for_status()
            self._save(answer, Path(output_file))

    def _save(self, answer: requests.Response, path: Path) -> None:
        total, title = self.resource.size, self.resource.title
        with (
            path.open("wb") as file,
            tqdm(total=total, unit="B", unit_scale=True, desc=title, disable=not self.progress) as bar,
        ):
            received = 0
            for chunk in answer.iter_content(CHUNK_BYTES):
                received += len(chunk)
                if received > total:
                    raise ValueError(f"more than the registered {total:,} bytes")
                file.write(chunk)
                bar.update(len(chunk))
        if received < total:
            raise ValueError(f"{received:,} bytes instead of {total:,}")


def _reason(error: Exception, timeout: float) -> str:
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answered {error.response.status_code}"
    # A server that falls silent half-way is reported as a broken connection, with this text inside.
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return f"no answer for {timeout:g} seconds"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off half-way"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    if isinstance(error, ValueError) and "hash" in str(error):
        return "the file is not the registered one (wrong SHA-256)"
    return str(error)


def _explanation(resource: Resource, path: Path, problems: list[str]) -> str:
    present = f" The file now at {path} is not the registered one." if path.exists() else ""
    size, tried = f"{resource.size:,} bytes", "; ".join(problems)
    return (
        f"Could not download {resource.title} ({size}) from {tried}; no lesson, exercise or test needs it, "
        f"and to place it by hand, save {resource.urls[0]} as {path}.{present}"
    )
