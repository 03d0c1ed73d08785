"""Tell whether the notebook is being built, that is executed to be committed.

A committed notebook must not hold random model ids, and must show its pictures before anything is run.
So the build sets `COURSE_BUILD=1`, and every explorer then gives static HTML and opens no widget.
"""

from __future__ import annotations

import os


def is_building() -> bool:
    """True when the environment holds `COURSE_BUILD=1`."""
    return os.environ.get("COURSE_BUILD") == "1"
