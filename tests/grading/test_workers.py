"""Which preloaded process runs a chapter's programs: shared by threads or not, kept, ended."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from course_lib.grading import workers as module
from course_lib.grading.bundle import Bundle, make_bundle
from course_lib.grading.sandbox import SandboxFailure
from course_lib.grading.workers import Workers

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = ["00_welcome", "06_attention"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(ROOT, CHAPTERS, tmp_path_factory.mktemp("bundle") / "private")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[FakeWorker]:
    """The workers that were made, in order; none has a process."""
    found: list[FakeWorker] = []

    def make(library: Path, *rest: object) -> FakeWorker:
        found.append(FakeWorker(library))
        return found[-1]

    monkeypatch.setattr(module, "Worker", make)
    monkeypatch.setattr(module, "chosen", lambda isolation: isolation)
    monkeypatch.setattr(module, "can_be_shared", lambda isolation: isolation == "namespaces")
    return found


class FakeWorker:
    def __init__(self, library: Path) -> None:
        self.chapter = library.name
        self.open = library.is_dir()

    def close(self) -> None:
        self.open = False


def in_another_thread(workers: Workers, chapter: str) -> None:
    def use() -> None:
        with workers.of(chapter):
            pass

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()


def test_threads_share_one_process_where_they_can(bundle: Bundle, made: list[FakeWorker]) -> None:
    workers = Workers(bundle, "namespaces")
    with workers.of(CHAPTERS[0]) as worker:
        in_another_thread(workers, CHAPTERS[0])
        with workers.of(CHAPTERS[0]) as again:
            assert again is worker
    assert len(made) == 1
    workers.close()


def test_each_thread_has_its_own_where_they_cannot(bundle: Bundle, made: list[FakeWorker]) -> None:
    workers = Workers(bundle, "bwrap", kept=2)
    with workers.of(CHAPTERS[0]):
        in_another_thread(workers, CHAPTERS[0])
        assert [worker.open for worker in made] == [True, True]
    workers.close()
    assert [worker.open for worker in made] == [False, False]


def test_what_nobody_uses_is_ended_when_there_are_too_many(bundle: Bundle, made: list[FakeWorker]) -> None:
    workers = Workers(bundle, "namespaces", kept=1)
    with workers.of(CHAPTERS[0]), workers.of(CHAPTERS[1]):
        assert [worker.open for worker in made] == [True, True]
    with workers.of(CHAPTERS[1]):
        assert [(worker.chapter, worker.open) for worker in made] == [
            (CHAPTERS[0], False),
            (CHAPTERS[1], True),
        ]
    with workers.of(CHAPTERS[0]):
        assert len(made) == 3
    workers.close()


def test_nothing_is_started_after_the_end_and_no_file_is_left(
    bundle: Bundle, made: list[FakeWorker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    workers = Workers(bundle, "namespaces")
    with workers.of(CHAPTERS[0]):
        assert list(tmp_path.iterdir())
    workers.close()
    with pytest.raises(SandboxFailure), workers.of(CHAPTERS[0]):
        pass
    assert len(made) == 1 and not list(tmp_path.iterdir())
