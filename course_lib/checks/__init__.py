"""What each exercise asks, and the three calls that a notebook makes: `check`, `hint`, `progress`.

The names are loaded on first use: a graded run imports `course_lib.checks.probes` where the rest of
this package is not to be had.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .notebook import NotPassed, check, hint, progress

__all__ = ["NotPassed", "check", "hint", "progress"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.notebook"), name)
    globals()[name] = value
    return value
