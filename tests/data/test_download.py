"""Downloads, against a server on this machine: what arrives is verified, and what fails leaves no file."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import numpy as np
import pytest

from course_lib.data.download import REGISTRY, DownloadError, Resource, cache_folder, fetch, is_intact

GOOD = np.random.default_rng(0).bytes(300_000)


class Handler(BaseHTTPRequestHandler):
    """Answers each path in its own way; `requests` counts them."""

    requests: ClassVar[list[str]]
    stop: ClassVar[threading.Event]

    def do_GET(self) -> None:
        self.requests.append(self.path)
        getattr(self, f"answer_{self.path.strip('/')}")()

    def send_body(self, body: bytes, announced: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) if announced is None else announced))
        self.end_headers()
        self.wfile.write(body)

    def answer_good(self) -> None:
        self.send_body(GOOD)

    def answer_wrong(self) -> None:
        self.send_body(bytes(len(GOOD)))

    def answer_truncated(self) -> None:
        self.send_body(GOOD[:1000], announced=len(GOOD))

    def answer_short(self) -> None:
        self.send_body(GOOD[:-1])

    def answer_endless(self) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            while not self.stop.is_set():
                self.wfile.write(bytes(1 << 16))
        except OSError:
            self.requests.append("client hung up")

    def answer_missing(self) -> None:
        self.send_error(404)

    def answer_slow(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(GOOD)))
        self.end_headers()
        self.wfile.write(GOOD[:100])
        self.stop.wait(10)

    def log_message(self, *values: object) -> None:
        """Keep the test output quiet."""


@dataclass(frozen=True)
class Server:
    address: str
    requests: list[str]

    def resource(self, *paths: str) -> dict[str, Resource]:
        """A registry with one file, to be had at these paths."""
        return {"sample": sample(*(f"{self.address}/{path}" for path in paths))}


def sample(*urls: str) -> Resource:
    digest = hashlib.sha256(GOOD).hexdigest()
    return Resource("sample", "A sample", urls, digest, len(GOOD), "none", "sample.bin")


@pytest.fixture
def server() -> Iterator[Server]:
    class ThisHandler(Handler):
        requests: ClassVar[list[str]] = []
        stop: ClassVar[threading.Event] = threading.Event()

    listening = ThreadingHTTPServer(("127.0.0.1", 0), ThisHandler)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield Server(f"http://127.0.0.1:{listening.server_port}", ThisHandler.requests)
    ThisHandler.stop.set()
    listening.shutdown()
    thread.join()
    listening.server_close()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


def left_behind(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.exists() else []


def test_a_good_file_is_downloaded_once_and_verified(server: Server, folder: Path) -> None:
    registry = server.resource("good")
    path = fetch("sample", registry=registry, progress=False)
    assert path.read_bytes() == GOOD
    assert fetch("sample", registry=registry, progress=False) == path
    assert server.requests == ["/good"]
    assert left_behind(folder) == [path]


def test_progress_is_shown_on_stderr_only_if_asked_for(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    path = fetch("sample", registry=server.resource("good"))
    assert "A sample: 100%" in capsys.readouterr().err
    path.unlink()
    fetch("sample", registry=server.resource("good"), progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("wrong", "the file is not the registered one (wrong SHA-256)"),
        ("truncated", "the connection broke off half-way"),
        ("short", "299,999 bytes instead of 300,000"),
        ("endless", "more than the registered 300,000 bytes"),
        ("missing", "the server answered 404"),
        ("slow", "no answer for 0.3 seconds"),
    ],
)
def test_a_failure_leaves_no_file_and_says_why(server: Server, folder: Path, path: str, reason: str) -> None:
    with pytest.raises(DownloadError) as caught:
        fetch("sample", registry=server.resource(path), progress=False, timeout=0.3)
    message = str(caught.value)
    assert reason in message
    assert "no lesson, exercise or test needs it" in message
    assert f"save {server.address}/{path} as {folder / 'sample.bin'}" in message
    assert left_behind(folder) == []


def test_offline_the_error_is_one_sentence(folder: Path) -> None:
    registry = {"sample": sample("http://127.0.0.1:9/sample")}
    with pytest.raises(DownloadError) as caught:
        fetch("sample", registry=registry, progress=False)
    message = str(caught.value)
    assert message.startswith("Could not download A sample (300,000 bytes) from 127.0.0.1:9: no connection")
    assert message.count(". ") == 0 and message.endswith("sample.bin.")


def test_the_second_address_serves_when_the_first_does_not(server: Server) -> None:
    path = fetch("sample", registry=server.resource("missing", "wrong", "good"), progress=False)
    assert path.read_bytes() == GOOD
    assert server.requests == ["/missing", "/wrong", "/good"]


def test_a_file_placed_by_hand_is_used_without_a_request(server: Server, folder: Path) -> None:
    folder.mkdir()
    (folder / "sample.bin").write_bytes(GOOD)
    assert fetch("sample", registry=server.resource("missing")).read_bytes() == GOOD
    assert server.requests == []


@pytest.mark.parametrize("damage", [GOOD[:-1], bytes(len(GOOD))], ids=["shorter", "altered"])
def test_a_damaged_file_in_the_cache_is_replaced(server: Server, folder: Path, damage: bytes) -> None:
    folder.mkdir()
    (folder / "sample.bin").write_bytes(damage)
    assert fetch("sample", registry=server.resource("good"), progress=False).read_bytes() == GOOD


def test_a_failed_download_keeps_the_file_that_was_there_and_says_it_is_wrong(
    server: Server, folder: Path
) -> None:
    folder.mkdir()
    (folder / "sample.bin").write_bytes(b"mine")
    with pytest.raises(DownloadError, match=r"The file now at .* is not the registered one"):
        fetch("sample", registry=server.resource("wrong"), progress=False)
    assert (folder / "sample.bin").read_bytes() == b"mine"


def test_a_full_disk_leaves_no_file(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: Callable[..., object] = Path.open

    def full(path: Path, mode: str = "r", *rest: object) -> object:
        if mode == "wb":
            raise OSError(28, "No space left on device")
        return opened(path, mode, *rest)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(DownloadError, match="No space left on device"):
        fetch("sample", registry=server.resource("good"), progress=False)
    assert left_behind(folder) == []


def test_an_unknown_name_is_told_with_the_nearest_one() -> None:
    with pytest.raises(ValueError, match="Did you mean 'tiny_shakespeare'"):
        fetch("tiny_shakespear")


def test_without_the_variable_the_users_cache_folder_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COURSE_DATA")
    assert cache_folder().name == "transformer-course"
    assert cache_folder().is_absolute()


def test_every_registered_file_is_complete_and_served_over_https() -> None:
    assert "tiny_shakespeare" in REGISTRY
    for name, resource in REGISTRY.items():
        assert name == resource.name and resource.licence and resource.title
        assert all(urlsplit(url).scheme == "https" for url in resource.urls)
    shakespeare = REGISTRY["tiny_shakespeare"]
    assert shakespeare.size == 1_115_394
    assert re.match("86c4e6aa9db7c042", shakespeare.sha256)


@pytest.mark.parametrize(
    "change",
    [{"urls": ()}, {"urls": ("file:///a",)}, {"sha256": "86C4"}, {"size": 0}, {"file_name": "../a"}],
    ids=str,
)
def test_an_incomplete_entry_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="sample: "):
        replace(sample("https://example.org/a"), **change)  # type: ignore[arg-type]


def test_intact_means_size_and_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(GOOD)
    assert is_intact(path, sample("https://example.org/a"))
    path.write_bytes(GOOD[::-1])
    assert not is_intact(path, sample("https://example.org/a"))
