"""A time limit on code that runs in this very process, by the interrupt that Ctrl-C would send."""

from __future__ import annotations

import _thread
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class TimeLimitReached(Exception):
    """The code inside `time_limit` was still running when its seconds were over."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Interrupt the main thread after `seconds`, and turn that interrupt into TimeLimitReached.

    Works on every platform. Off the main thread, where no interrupt arrives, there is no limit.
    A person's own Ctrl-C within the limit stays a KeyboardInterrupt.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    finished = threading.Event()
    fired = threading.Event()

    def watch() -> None:
        # Again and again: code that catches the first interrupt gets the next one.
        wait = seconds
        while not finished.wait(wait):
            fired.set()
            _thread.interrupt_main()
            wait = 1.0

    watcher = threading.Thread(target=watch, daemon=True)
    try:
        with _interruptible():
            watcher.start()
            try:
                yield
            finally:
                finished.set()
                watcher.join()
    except KeyboardInterrupt:
        if fired.is_set():
            raise TimeLimitReached from None
        raise
    if fired.is_set():
        raise TimeLimitReached


@contextmanager
def _interruptible() -> Iterator[None]:
    """Interrupts arrive, also where the process was started with them ignored, as a shell's `&` does."""
    before = signal.getsignal(signal.SIGINT)
    if callable(before):
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        # None stands for a handler that Python did not set, and cannot set again.
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)
