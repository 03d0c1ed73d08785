"""Who decides, and how: running a learner's notebook outside the process that wrote it."""

from __future__ import annotations
