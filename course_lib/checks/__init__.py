"""What each exercise asks, and the three calls that a notebook makes: `check`, `hint`, `progress`."""

from __future__ import annotations

from .notebook import NotPassed, check, hint, progress

__all__ = ["NotPassed", "check", "hint", "progress"]
